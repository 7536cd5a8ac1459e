"""Forecasts of what sensors will report: fitted on a table, made for any place, in the user's units."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from s2rm import runs
from s2rm.files import write_json, write_whole
from s2rm.models.gqn import GQN
from s2rm.models.msa import MSA
from s2rm.models.s2rm import S2RM
from s2rm.models.saved import load
from s2rm.models.world_model import WorldModel
from s2rm.sensors.reports import Columns, Places, Reports, merge
from s2rm.sensors.tables import read_reports
from s2rm.sensors.windows import Scaling, Slots, Windows, context_size, episode, queries, slots, tuned, views_of
from s2rm.training import MODEL, Training, batches, fit, provenance
from s2rm.views import Episode, Views

if TYPE_CHECKING:
    import pandas

MOST_REPORTS = 25_000
"""in a batch of training windows, of which it holds fewer if need be, but two"""
ROWS = ("step", "sensor", "positions", "values", "covariates")
FORECASTER, SUMMARY, FORMAT = "forecaster.json", "summary.json", 2
LABELS = {**runs.LABELS, "msa": "MSA"}
ForecastModel = Literal["s2gru", "s2lstm", "s2rmc", "msa", "rims", "rmc", "lstm", "gru"]
SPATIAL = {"s2gru": "gru", "s2lstm": "lstm", "s2rmc": "rmc"}


@dataclass(frozen=True)
class Fit:
    """How a forecaster is fitted. What is not given comes from the data."""

    model: ForecastModel = "s2gru"
    """which model"""
    num_modules: int | None = None
    """modules of an S2RM; one for five sensors if not given, 10 to 64"""
    hidden_size: int | None = None
    """size of a module's state, 16 to 64 by how many values there are if not given; a recurrent baseline's state is
    four times that; msa's tokens have 64 if not given"""
    share_parameters: bool = True
    """S2RM only: the modules differ in place and state only, so that a short table does not fit each apart"""
    context: int | None = None
    """steps from which a forecast starts; a day and a half if not given, at least 12"""
    horizon: int | None = None
    """steps ahead for which to train; a day if not given, at least 6"""
    validation: float = 0.15
    """share of the steps, the last, by which the best weights are chosen"""
    training: Training = field(
        default_factory=lambda: Training(
            learning_rate=1e-3, batch_size=16, epochs=10_000, minutes=8.0, patience=15, gradient_norm=1.0, average=0.98
        )
    )
    """how to train; where windows hold many reports, a batch has fewer of them than its size"""


class Stream(NamedTuple):
    """What a forecaster remembers of all that it was told."""

    model: Any
    """the model's state, of batch 1"""
    recent: Reports
    """the reports of the last steps, as many as the context has; the last step is now"""

    def save(self, path: Path) -> None:
        """Write it to a file, for another run of the program to go on from."""
        tensors = {f"model.{number}": leaf.contiguous() for number, leaf in enumerate(tree_leaves(self.model))}
        tensors |= {name: torch.from_numpy(np.ascontiguousarray(getattr(self.recent, name))) for name in ROWS}
        recent = {"start": str(self.recent.start), "steps": self.recent.num_steps, "sensors": self.recent.sensors}
        write_whole(path, safetensors.torch.save(tensors, {"recent": json.dumps(recent)}))


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A fitted model with all that a forecast needs. Made by `Forecaster.fit` or `Forecaster.load`."""

    columns: Columns
    scaling: Scaling
    context: int
    """steps from which a forecast starts"""
    horizon: int
    """steps ahead for which it was trained"""
    model: WorldModel

    @classmethod
    def fit(cls, reports: Reports, folder: Path, how: Fit | None = None, progress: bool = True) -> Forecaster:
        """Fit to reports and leave the forecaster in a folder.

        Raises:
            ValueError: fewer steps than context and horizon need.
        """
        how = how or Fit()
        day = steps_a_day(reports)
        length = reports.num_steps
        context = how.context or max(12, min(36, 3 * (day or 24) // 2, length // 4))
        horizon = how.horizon or max(6, min(day or 24, length // 6))
        split = length - max(context + horizon, round(how.validation * length))
        if split < context + horizon:
            raise ValueError(
                f"fit: {context} steps of context and {horizon} of horizon need a table of at least "
                f"{2 * (context + horizon)} steps, got {length}; shorten them, or take a shorter step"
            )
        train = reports.between(0, split)
        scaling = Scaling.of(train)
        torch.manual_seed(how.training.seed)
        made = cls(reports.columns, scaling, context, horizon, _model(how, scaling, train))
        seen = [slots(part, scaling) for part in (train, reports.between(split, length))]
        scaling = tuned(scaling, seen[0], context + horizon, horizon, made.day)
        made = replace(made, scaling=scaling)
        made._write(folder)
        reports_a_window = (context + horizon) * seen[0].sensor.shape[1]
        batch_size = min(how.training.batch_size, max(2, MOST_REPORTS // reports_a_window))
        spacing = scaling.spacing(np.unique(train.positions, axis=0))
        loaders = [
            batches(
                Windows(part, context + horizon, horizon, scaling, made.day, spacing / 3 if number == 0 else 0.0),
                batch_size,
                how.training.seed + number,
                shuffle=number == 0,
            )
            for number, part in enumerate(seen)
        ]
        ended = fit(made.model, loaders[0], loaders[1], folder, how.training, progress=progress)
        summary = {**ended, "parameters": made.model.num_parameters, "seed": how.training.seed, **provenance()}
        write_json(folder / SUMMARY, summary)
        return cls.load(folder)

    def _write(self, folder: Path) -> None:
        parts = {"columns": asdict(self.columns), "scaling": asdict(self.scaling)}
        write_json(folder / FORECASTER, {"format": FORMAT, **parts, "context": self.context, "horizon": self.horizon})

    @classmethod
    def load(cls, folder: Path) -> Forecaster:
        """The forecaster that was fitted into a folder.

        Raises:
            ValueError: none is there, or not one that this version reads.
        """
        path = folder / FORECASTER
        if not path.is_file():
            raise ValueError(f"forecast: expected a fitted forecaster with {FORECASTER}, found none at {folder}; "
                             "make one with s2rm fit")  # fmt: skip
        try:
            kept = json.loads(path.read_text())
            if kept["format"] != FORMAT:
                raise ValueError(
                    f"forecast: {path} has format {kept['format']}, this version reads {FORMAT}; fit again, or take "
                    "the version of s2rm that fitted it"
                )
            columns, scaling = (
                {name: tuple(part) if isinstance(part, list) else part for name, part in kept[what].items()}
                for what in ("columns", "scaling")
            )  # type: Any, Any
            return cls(Columns(**columns), Scaling(**scaling), kept["context"], kept["horizon"], load(folder / MODEL))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"forecast: {path} is not a fitted forecaster's ({error!r}); fit again") from error

    @property
    def day(self) -> int | None:
        """Steps a day, where the context holds one."""
        day = steps_a_day(self.columns)
        return day if day and day < self.context else None

    def check(self, reports: Reports) -> None:
        """Refuse reports that are not like those fitted to."""
        for name in ("values", "covariates", "circular", "step", "position"):
            ours, theirs = getattr(self.columns, name), getattr(reports.columns, name)
            if ours != theirs:
                raise ValueError(
                    f"forecast: the model was fitted to {name} {ours}, got {theirs}; name the same columns"
                )

    @torch.no_grad()
    def forecast(
        self,
        reports: Reports,
        places: Places,
        origins: NDArray[np.int64] | None = None,
        horizon: int | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of what would be reported at places, from what was reported until an origin.

        Args:
            reports: what was reported; later reports than an origin are not looked at.
            places: Q places.
            origins: O steps of the reports, the last that are known. Default: the last step.
            horizon: H steps ahead. Default: as trained.

        Returns:
            Two arrays `(O, H, Q, C)` in the user's units, for 1 to H steps after each origin.
        """
        self.check(reports)
        beyond = self.scaling.beyond(places.positions)
        if beyond:
            unit = "km" if self.scaling.globe else "units"
            warnings.warn(
                f"forecast: a place lies {float(f'{beyond:.3g}'):,g} {unit} beyond twice the radius of those fitted "
                "to; what is said there is a guess",
                stacklevel=2,
            )
        origins = np.array([reports.num_steps - 1]) if origins is None else origins
        horizon = self.horizon if horizon is None else horizon
        return self._from_origins(reports, places, origins, horizon)

    @torch.no_grad()
    def interpolate(
        self, reports: Reports, places: Places, origins: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of what would be reported at places at an origin, the last step that is known.

        Arguments as of `forecast`; two arrays `(O, Q, C)` in the user's units.
        """
        self.check(reports)
        origins = np.array([reports.num_steps - 1]) if origins is None else origins
        mean, stddev = self._from_origins(reports, places, origins, 1, lag=1)
        return mean[:, 0], stddev[:, 0]

    def _from_origins(
        self, reports: Reports, places: Places, origins: NDArray[np.int64], horizon: int, lag: int = 0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`(O, H, Q, C)`, some origins at a time."""
        parts = []
        for some in np.split(origins, range(32, len(origins), 32)):
            window = self._window(reports, places, some, horizon, lag)
            state = self.model.last(self.model.observe(window.views.steps(None, self.context)))
            parts.append(self._ahead(state, window, horizon))
        means, stddevs = zip(*parts, strict=True)
        return self.scaling.units(torch.cat(means), torch.cat(stddevs))

    def predict(
        self,
        shown: Reports,
        origin: int,
        positions: NDArray[np.float64],
        covariates: NDArray[np.float32],
        sensors: NDArray[np.int64],
        leads: Sequence[int],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As every [`SensorPredictor`][s2rm.sensors.predictors.SensorPredictor]; who asks does not matter here."""
        first = max(0, origin + 1 - self.context)
        recent, places = shown.between(first, origin + 1), Places(positions, covariates)
        ahead = [part[0] for part in self.forecast(recent, places, horizon=max(1, *leads))]
        if 0 not in leads:
            return ahead[0][np.array(leads) - 1], ahead[1][np.array(leads) - 1]
        now = self.interpolate(recent, places)
        both = [np.concatenate([present, later]) for present, later in zip(now, ahead, strict=True)]
        return both[0][leads], both[1][leads]

    def _window(
        self, reports: Reports, places: Places, origins: NDArray[np.int64], horizon: int, lag: int = 0
    ) -> Episode:
        """For each origin the steps of the context, which end there, and those of the horizon, blind."""
        # Steps before the first and after the last, at which nothing was reported.
        padded = replace(
            reports, start=reports.start - self.context * reports.step_length, step=reports.step + self.context,
            num_steps=self.context + reports.num_steps + horizon,
        )  # fmt: skip
        seen = slots(padded, self.scaling)
        asked = queries(self.scaling.coordinates(places.positions), self.scaling.known(places.covariates), seen)
        shown = torch.zeros(len(origins), self.context + horizon, seen.sensor.shape[1], dtype=torch.bool)
        shown[:, : self.context] = True
        starts = torch.from_numpy(origins + 1)
        lags = torch.full_like(starts, lag)
        return episode(seen, asked, starts, shown, self.scaling, self.day, lag=lags)

    def _ahead(self, state: Any, window: Episode, horizon: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the channels, `(B, H, Q, D)`, after the context of a window."""
        nothing = Views.none(
            window.views.batch_size, self.scaling.num_coordinates, self.model.value_shape, window.views.values
        )
        means: list[Tensor] = []
        spreads: list[Tensor] = []
        channels = self.scaling.num_channels
        assert window.context is not None
        for step in range(self.context, self.context + horizon):
            predicted = self.model.predict(state, window.targets.positions[:, step], window.context[:, step])
            means.append(predicted.mean[..., :channels])
            spreads.append(predicted.stddev[..., :channels])
            state = self.model.step(nothing, state)
        return torch.stack(means, 1), torch.stack(spreads, 1)

    @torch.no_grad()
    def step(self, state: Stream | None, rows: Any) -> Stream:
        """Take what was just reported, of one step or of several.

        Steps between the last and these, at which nothing was reported, count. A late report, of a step before the
        last, enters the guess of the forecasts that follow, but not the model's state, which has passed it.

        Args:
            state: what came before; None at the start.
            rows: `Reports`, or what `read_reports` reads: a data frame with the columns that were fitted to.
        """
        new = rows if isinstance(rows, Reports) else read_reports(rows, self.columns, to_fit=False)
        self.check(new)
        if state is None:
            state = Stream(self.model.initial_state(1), new.between(0, 0))
        recent, end = merge(state.recent, new), state.recent.start + state.recent.num_steps * new.step_length
        passed = round((end - recent.start) / new.step_length)
        seen, after = slots(recent, self.scaling), state.model
        for step in range(passed, recent.num_steps):
            now = Slots(*(part[None, step : step + 1] for part in seen))
            after = self.model.step(views_of(now, torch.ones_like(now.sensor, dtype=torch.bool)), after)
        return Stream(after, recent.between(max(0, recent.num_steps - self.context), recent.num_steps))

    @torch.no_grad()
    def forecast_from(
        self, state: Stream, places: Places, horizon: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation at places, `(H, Q, C)`, for 1 to H steps after the last that was taken."""
        horizon = self.horizon if horizon is None else horizon
        window = self._window(state.recent, places, np.array([state.recent.num_steps - 1]), horizon)
        mean, stddev = self.scaling.units(*self._ahead(state.model, window, horizon))
        return mean[0], stddev[0]

    def load_stream(self, path: Path) -> Stream:
        """What `Stream.save` wrote.

        Raises:
            ValueError: no such file, or one of another forecaster.
        """
        if not path.is_file():
            raise ValueError(f"stream: expected a saved stream, found none at {path}; start from None")
        start = self.model.initial_state(1)
        try:
            with safetensors.safe_open(path, "pt") as kept:
                recent = json.loads(kept.metadata()["recent"])
                leaves = [kept.get_tensor(f"model.{number}") for number in range(len(tree_leaves(start)))]
                rows = {name: kept.get_tensor(name).numpy() for name in ROWS}
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"stream: {path} was not saved by this forecaster ({error}); start from None") from error
        reports = Reports(
            self.columns, np.datetime64(recent["start"]), recent["steps"], tuple(recent["sensors"]), **rows
        )  # fmt: skip
        return Stream(tree_unflatten(leaves, tree_structure(start)), reports)

    def table(self, reports: Reports, places: Places, horizon: int | None = None) -> pandas.DataFrame:
        """The forecast from the last step of the reports as a table.

        Returns:
            A row for each valid time and place: `init_time` and `valid_time` (UTC, the beginning of the last known
            step and of the one that is forecast), the sensor's column where places have names, the position's, and
            `_mean` and `_stddev` of each value.
        """
        import pandas as pd

        mean, stddev = (part[0] for part in self.forecast(reports, places, horizon=horizon))
        steps, number = mean.shape[:2]
        start = reports.times[-1]
        valid = start + (1 + np.arange(steps)) * reports.step_length
        columns: dict[str, Any] = {
            "init_time": pd.to_datetime(np.full(steps * number, start), utc=True),
            "valid_time": pd.to_datetime(np.repeat(valid, number), utc=True),
        }
        if places.names is not None:
            columns[self.columns.sensor or "sensor"] = np.tile(np.array(places.names), steps)
        for index, name in enumerate(self.columns.position):
            columns[name] = np.tile(places.positions[:, index], steps)
        for index, name in enumerate(self.columns.values):
            columns[f"{name}_mean"] = mean[..., index].ravel()
            columns[f"{name}_stddev"] = stddev[..., index].ravel()
        return pd.DataFrame(columns)


def steps_a_day(of: Reports | Columns) -> int | None:
    """How many steps a day has, where the step divides it."""
    import pandas as pd

    columns = of.columns if isinstance(of, Reports) else of
    day, left = divmod(pd.Timedelta("1D"), pd.Timedelta(columns.step))
    return day if not left and day > 1 else None


def _model(how: Fit, scaling: Scaling, train: Reports) -> WorldModel:
    """A model that fits the data's extent."""
    shape = (scaling.num_channels + len(scaling.covariate_mean),)
    shared: dict[str, Any] = {
        "value_shape": shape,
        "num_coordinates": scaling.num_coordinates,
        "embedding_dim": 18 if scaling.num_coordinates == 3 else 8 * scaling.num_coordinates,
        "shortest": scaling.extent / 2,
        "longest": 8 * scaling.extent,
        "likelihood": "gaussian",
        "codec": "mlp",
        "context_size": context_size(scaling),
        "corrects": True,
    }
    if how.model == "msa":
        return MSA(hidden_size=how.hidden_size or 64, window=min(how.context or 12, 12), **shared)
    # 24 for 25,000 values, 64 for 180,000: more learns a short table by heart.
    size = how.hidden_size or min(64, max(16, 8 * round(np.isfinite(train.values).sum() ** 0.5 / 52)))
    if how.model not in SPATIAL:
        return GQN(core=how.model, hidden_size=4 * size, **shared)
    modules = how.num_modules or min(64, max(10, len(np.unique(train.sensor)) // 5))
    model = S2RM(
        cell=SPATIAL[how.model], num_modules=modules, hidden_size=size, inject_positions=True,
        share_parameters=how.share_parameters, **shared,
    )  # fmt: skip
    places = scaling.coordinates(np.unique(train.positions, axis=0))
    model.modules_on_sphere.places = nn.Parameter(model.embedding(_spread_out(places, modules)))
    return model


def _spread_out(places: Tensor, number: int) -> Tensor:
    """Some of these places, each the farthest from those before; again from the start where there are too few."""
    chosen = [int((places - places.mean(0)).norm(dim=-1).argmin())]
    distance = torch.full((len(places),), torch.inf)
    while len(chosen) < min(number, len(places)):
        distance = torch.minimum(distance, (places - places[chosen[-1]]).norm(dim=-1))
        chosen.append(int(distance.argmax()))
    return places[[chosen[index % len(chosen)] for index in range(number)]]
