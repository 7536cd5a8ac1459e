"""Forecasts of what sensors will observe, fitted to a table, at any place, in the user's units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from s2rm.folders import locked
from s2rm.models.world_model import WorldModel
from s2rm.sensors import ahead, checks
from s2rm.sensors.dependence import Dependence, found
from s2rm.sensors.first_guess.candidates import BACK
from s2rm.sensors.first_guess.guess import FirstGuess
from s2rm.sensors.fitting import fingerprint_of, fit_model
from s2rm.sensors.kept import read_parts
from s2rm.sensors.outputs import Forecasts, last_observations
from s2rm.sensors.reports import Places, Reports
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import QUANTILES, Columns, Fit
from s2rm.sensors.stream import Stream, read_stream, stepped
from s2rm.sensors.times import Duration, Moment, horizon_steps, is_several
from s2rm.training.records import updates_when_best
from s2rm.training.settings import Machines, is_first_process

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

Origins = Moment | Iterable[Moment] | NDArray
MeanAndStddev = tuple[NDArray[np.float64], NDArray[np.float64]]
Channels = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A fitted model and everything that a forecast needs, returned by `Forecaster.fit` and `Forecaster.load`.

    A horizon is a duration, such as "24h", or a number of steps; by default that of the fit. Origins are initialisation
    times or steps of the reports, by default the last one. A forecast uses only observations up to its origin's step.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from s2rm.sensors import FieldWorld, Fit, Forecaster, stations
        >>> from s2rm.training import Training
        >>> reports = FieldWorld(num_stations=5, num_movers=0, num_steps=48).reports()
        >>> how = Fit(num_modules=2, hidden_size=4, context="12h", horizon="6h", training=Training(epochs=1))
        >>> with TemporaryDirectory() as folder:
        ...     forecaster = Forecaster.fit(reports, folder, how, progress=False)
        >>> mean, stddev = forecaster.forecast(reports, stations(reports), horizon="3h")
        >>> mean.shape  # origins, lead times, stations, values
        (1, 3, 5, 2)
        >>> dict(forecaster.dataset(reports, stations(reports), horizon="3h").sizes)
        {'valid_time': 3, 'sensor': 5, 'quantile': 5}
    """

    columns: Columns
    scaling: Scaling
    guess: FirstGuess
    """what the model corrects, and the share of the correction that is kept"""
    context: int
    """number of steps of observations that the model reads before a forecast"""
    horizon: int
    """longest lead time in training, in steps"""
    model: WorldModel
    dependence: Dependence | None = None
    """the dependence of the errors of forecasts; None if there were too few errors"""

    @cached_property
    def fingerprint(self) -> str:
        """A digest of columns, scaling, periods, the model's configuration and its weights."""
        return fingerprint_of(self.columns, self.scaling, self.guess, self.context, self.horizon, self.model)

    @classmethod
    def fit(
        cls, reports: Reports, folder: str | Path, how: Fit | None = None, progress: bool = True,
        start: Forecaster | None = None, whole: bool = False, machines: Machines | None = None,
    ) -> Forecaster:  # fmt: skip
        """Fit a model to reports, and write weights, scaling, logs and a summary to a folder.

        With `start`, the weights of that forecaster are fine-tuned to newer reports, or to other sensors, with the same
        columns and kinds of values. With `whole`, the model is trained on all steps and sensors, including those used
        for validation, for the number of updates that was best in the earlier fit in the folder, and keeps the same
        share of the correction. With `progress`, stderr shows how positions are interpreted and the progress of
        training. An earlier forecaster in the folder is kept until the new one is complete. The same call resumes an
        interrupted fit; with other reports or settings it starts again. On several `machines` or devices every process
        makes this call with the same reports, best from one store, and trains on its share of each batch; processes
        other than the first end with the training.

        Raises:
            ValueError: fewer steps than context and horizon need; a value that is constant or hardly observed in the
                training part; reports far from the others in time; other columns or kinds than those of `start`; a
                folder in use by another fit; or training without a finite loss.
        """
        with locked(folder, "fit") if is_first_process() else nullcontext():
            how, trusted = how or Fit(), None
            if whole:
                earlier, updates = cls.load(folder), updates_when_best(folder)
                lasting = replace(
                    how.training, updates=updates, minutes=None, patience=updates,
                    warmup=min(how.training.warmup, updates - 1),
                )  # fmt: skip
                how = replace(how, context=earlier.context, horizon=earlier.horizon, training=lasting)
                trusted = earlier.guess
            fit_model(how, reports, Path(folder), progress, start, trusted, machines)
            return cls.load(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Forecaster:
        """The forecaster in a folder that `Forecaster.fit` wrote.

        Raises:
            ValueError: there is none, the fit is not finished, its parts are from different fits, it contains
                non-finite numbers, or this version cannot read it.
        """
        return cls(**read_parts(Path(folder)))

    def check(self, reports: Reports) -> None:
        """Refuse reports whose columns differ from those of the fit, or with values out of their range.

        Raises:
            ValueError: there are any.
        """
        for name in ("values", "covariates", "ahead", "flow", "circular", "step", "position", "globe"):
            own, got = getattr(self.columns, name), getattr(reports.columns, name)
            if own != got:
                raise ValueError(f"forecast: the model was fitted to {name} {own}, got {got}; name the same columns")
        checks.check_ranges(reports, self.columns, "forecast")

    def forecast(
        self, reports: Reports, places: Places, origins: Origins | None = None, horizon: Duration | None = None
    ) -> MeanAndStddev:
        """Mean and standard deviation of the values at places, for each lead time after each origin.

        Args:
            reports: the observations; those of steps after that of an origin are not used.
            places: Q places.
            origins: O initialisation times, or steps of the reports. All of the step that contains one is used.
            horizon: the longest lead time, a duration or a number of steps H.

        Returns:
            Two arrays `(O, H, Q, C)` in the user's units, for 1 to H steps after each origin.

        Raises:
            ValueError: columns other than those of the fit, an origin outside the reports, or an invalid duration.
        """
        known, steps = checks.check_origins(origins, reports), horizon_steps(horizon, self.columns.step, self.horizon)
        places = self._checked(places, reports)
        return self.scaling.units(*self._from_origins(reports, places, known, range(1, steps + 1)))

    def interpolate(self, reports: Reports, places: Places, origins: Origins | None = None) -> MeanAndStddev:
        """Mean and standard deviation at places, `(O, Q, C)`, at each origin itself; arguments as for `forecast`.

        At a sensor that reports at the origin, the median is its report and the standard deviation that of a one-step
        forecast; the mean of a value that is not Gaussian differs from the median.

        Raises:
            ValueError: as `forecast`.
        """
        known = checks.check_origins(origins, reports)
        places = self._checked(places, reports)
        mean, stddev = self.scaling.units(*self._from_origins(reports, places, known, [0]))
        return mean[:, 0], stddev[:, 0]

    def scenarios(
        self, reports: Reports, places: Places, origins: Origins | None = None, horizon: Duration | None = None,
        *, num: int = 50, seed: int = 0,
    ) -> NDArray[np.float64]:  # fmt: skip
        """Joint scenarios: possible futures that are consistent over places, lead times and values.

        Each is the forecast's mean plus errors with its standard deviation, whose dependence is that of the errors of
        past forecasts; see [`Dependence`][s2rm.sensors.dependence.Dependence]. Their mean and standard deviation are
        those of the forecast, of values that are not Gaussian up to chance. Other arguments as for `forecast`.

        Args:
            num: number N of scenarios per origin.
            seed: seed of the random numbers.

        Returns:
            `(O, N, H, Q, C)` in the user's units.

        Raises:
            ValueError: as `forecast`; also an invalid number, or a forecaster without a fitted dependence.
        """
        checks.check_scenarios(num, seed)
        made = self._forecasts(reports, places, origins, horizon, (), num, seed).scenarios
        assert made is not None
        return made

    def table(
        self, reports: Reports, places: Places, *, origins: Origins | None = None, horizon: Duration | None = None,
        quantiles: Sequence[float] = QUANTILES, scenarios: int = 0,
    ) -> DataFrame:  # fmt: skip
        """Forecasts as a pandas DataFrame; arguments as for `forecast`, and the probabilities of the quantiles, in
        increasing order, and the number of scenarios.

        Each row is a valid time and place, with `init_time` and `valid_time` (UTC, the starts of the last known step
        and of the forecast step), the columns of the position and, for each value, `_mean`, `_stddev`, quantiles such
        as `_q05`, and scenarios such as `_s01`. If the places have names, there are also the sensor's column,
        `last_observation`, the time of its last report before the initialisation, and `silent`, whether that is more
        than three of its usual intervals ago.

        Raises:
            ValueError: as `scenarios`; also quantiles that are not probabilities in increasing order.
        """
        return self._forecasts(reports, places, origins, horizon, quantiles, scenarios).table()

    def dataset(
        self, reports: Reports, places: Places, *, origins: Origins | None = None, horizon: Duration | None = None,
        quantiles: Sequence[float] = QUANTILES, scenarios: int = 0,
    ) -> Dataset:  # fmt: skip
        """Forecasts as an xarray Dataset with CF attributes; arguments as for `table`.

        `_mean`, `_stddev`, `_quantile` and `_scenario` of each value have the dimension `valid_time` or, for several
        origins, `init_time` and `lead_time`; all three are coordinates in either case. The dimension of places is the
        sensor's column if they have names, the columns of the position (the last one first) if they form a regular
        grid, and otherwise `place`.

        Raises:
            ValueError: as `table`.
        """
        size, step = f"{self.model.num_parameters:,} parameters", self.columns.step
        source = f"{type(self.model).__name__} with {size}, forecasting from {self.context} steps of {step}"
        made = self._forecasts(reports, places, origins, horizon, quantiles, scenarios)
        return made.dataset(source, is_several(checks.moment(origins)))

    def predict(
        self, shown: Reports, origin: int | np.integer, positions: ArrayLike, covariates: ArrayLike,
        sensors: ArrayLike, leads: Sequence[int],
    ) -> MeanAndStddev:  # fmt: skip
        """As every [`SensorPredictor`][s2rm.sensors.judging.predictors.SensorPredictor].

        Raises:
            ValueError: an origin that is not a step of the reports, no lead, a negative one, no finite places, or an
                index of no station.
        """
        mean, stddev = self.scaling.units(*self._asked(shown, origin, positions, covariates, sensors, leads))
        return mean[0], stddev[0]

    def quantiles(self, *asked: Any, shares: Sequence[float]) -> NDArray[np.float64]:
        """The quantiles `(P, K, Q, C)` of P probabilities, of what `predict` is asked with the same arguments.

        Raises:
            ValueError: as `predict`.
        """
        channels = self._asked(*asked)
        return np.stack([self.scaling.quantile(*channels, share)[0] for share in shares])

    def _asked(
        self, shown: Reports, origin: int | np.integer, positions: ArrayLike, covariates: ArrayLike,
        sensors: ArrayLike, leads: Sequence[int],
    ) -> Channels:  # fmt: skip
        """The channels `(1, K, Q, D)` of what `predict` is asked for."""
        step, leads = checks.check_origin(origin, shown), checks.check_leads(leads)
        horizon_steps(max(1, *leads), self.columns.step, self.horizon)
        places = checks.check_places(Places(positions, covariates), self.columns, self.scaling)  # type: ignore[arg-type]
        own = checks.check_sensors(sensors, shown, len(places.positions))
        return self._from_origins(shown, places, np.array([step]), leads, own)

    def step(self, state: Stream | None, rows: object) -> Stream:
        """Update a stream with new observations of one or several steps.

        Steps without observations between the last and the new ones advance time. A late observation, of the last step
        or before, contributes to the first guess of later forecasts, but not to the model's state, which is past its
        step. It replaces what its sensor reported for that step, so pass all rows of a step at once.

        Args:
            state: the stream so far; None at the start.
            rows: `Reports`, or anything that `read_reports` reads, such as a DataFrame with the columns of the fit; a
                table without rows leaves the stream unchanged.

        Raises:
            ValueError: a report so long after the last that a clock may be wrong; a stream of another forecaster; or
                what `read_reports` refuses. The stream remains valid.
        """
        return stepped(self, state, rows)

    @torch.no_grad()
    def forecast_from(self, state: Stream, places: Places, horizon: Duration | None = None) -> MeanAndStddev:
        """Mean and standard deviation at places, `(H, Q, C)`, for 1 to H steps after the last step of a stream.

        Raises:
            ValueError: a stream of another forecaster or without any step; else as `forecast`.
        """
        steps = horizon_steps(horizon, self.columns.step, self.horizon)
        state.check(self.fingerprint)
        if not state.recent.num_steps:
            raise ValueError("stream: expected a stream of at least one step, got none; take reports with step first")
        places = self._checked(places, state.recent)
        mean, stddev = self.scaling.units(*self._ahead(state.model, state.recent, places, range(1, steps + 1)))
        return mean[0], stddev[0]

    def load_stream(self, path: str | Path) -> Stream:
        """The stream that `Stream.save` wrote.

        Raises:
            ValueError: no file, no stream, or one of another forecaster.
        """
        return read_stream(Path(path), self.model, self.columns, self.fingerprint)

    def _forecasts(
        self, reports: Reports, places: Places, origins: Origins | None, horizon: Duration | None,
        quantiles: Sequence[float], scenarios: int, seed: int = 0,
    ) -> Forecasts:  # fmt: skip
        checks.check_scenarios(scenarios, seed, least=0)
        shares = checks.check_quantiles(quantiles)
        known, steps = checks.check_origins(origins, reports), horizon_steps(horizon, self.columns.step, self.horizon)
        places = self._checked(places, reports)
        channels = self._from_origins(reports, places, known, range(1, steps + 1))
        leads = (1 + np.arange(steps)) * reports.step_length
        drawn = None
        if scenarios:
            recent, dependence = (self._until(reports, origin) for origin in known), found(self.dependence)
            drawn = ahead.scenarios_of(dependence, self.scaling, channels, recent, known, places, scenarios, seed)
        away = (ahead.elsewhere(self._until(reports, origin), places, self.scaling) for origin in known)
        last = None if places.names is None else last_observations(reports, places.names, known, away)
        moments, quantile = self.scaling.units(*channels), partial(self.scaling.quantile, *channels)
        return Forecasts(self.columns, places, reports.times[known], leads, *moments, shares, last, quantile, drawn)

    def _checked(self, places: Places, reports: Reports) -> Places:
        return ahead.known_there(checks.check_places(places, self.columns, self.scaling), reports, self.scaling.globe)

    def _until(self, reports: Reports, origin: int | np.integer) -> Reports:
        """The reports on which a forecast from an origin depends."""
        return reports.between(max(0, origin + 1 - self.memory), origin + 1)

    @torch.no_grad()
    def _from_origins(
        self, reports: Reports, places: Places, origins: NDArray[np.int64], leads: Sequence[int],
        own: NDArray[np.int64] | None = None,
    ) -> Channels:  # fmt: skip
        """As `_ahead`, `(O, H, Q, D)`, one origin at a time; `own` are the sensors at the places."""
        self.check(reports)
        checks.check_alike(reports.between(0, origins.max() + 1), self.scaling)
        checks.check_seen(reports, origins, self.context)
        parts = []
        for origin in origins:
            recent = self._until(reports, origin)
            state = self.model.last(self.model.observe(ahead.context_views(recent, self.context, self.scaling)))
            parts.append(self._ahead(state, recent, places, leads, own))
        means, stddevs = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(stddevs)

    @property
    def memory(self) -> int:
        """Steps of reports on which a forecast depends."""
        return self.guess.steps_kept(self.context)

    def _ahead(
        self, state: object, recent: Reports, places: Places, leads: Sequence[int], own: NDArray[np.int64] | None = None
    ) -> Channels:
        """Mean and standard deviation of the channels `(1, H, Q, D)`, from the state after the last step."""
        checks.check_known_ahead(recent, self.columns, max(leads), max(BACK) if self.scaling.flow else 0, places)
        mine = ahead.own_sensors(recent, places, self.scaling) if own is None else own
        channels = ahead.forecast_ahead(self.model, self.guess, self.scaling, state, recent, places, leads, mine)
        return ahead.finite(*channels)
