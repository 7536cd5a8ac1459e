"""The base class of simple predictors, and the climatology."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from s2rm.sensors.checks import check_leads, check_origin, check_positions, check_sensors
from s2rm.sensors.mapped import SUMMED, number_known, parts
from s2rm.sensors.reports import Reports, difference, from_components, last_places, to_components
from s2rm.sensors.settings import RANGES

Stated = tuple[NDArray, NDArray, NDArray]
"""Mean `(K, Q, C)`, variance `(Q, C)` and basis, int `(Q, C)`: `OWN`, `ELSEWHERE` or `NOTHING`."""
MeanAndStddev = tuple[Float[NDArray, "K Q C"], Float[NDArray, "K Q C"]]

OWN, ELSEWHERE, NOTHING = range(3)
"""Basis of a forecast: the station's own observation, observations of other stations only, or none."""
_ORIGINS, _HIDDEN = 48, 0.2
"""initialisation times in the training part at which the spread is measured, and share of the stations withheld"""
_LEAST_SPREAD = 1e-3
"""lower bound of the spread, in standard deviations of the channel"""


class Baseline(ABC):
    """Base of the predictors below: the climatological mean without observations, and a spread measured in training.

    The spread is the root mean squared error at each lead over a sample of initialisation times, with some stations
    withheld, separately for stations with an observation of their own and for other places; without any observation it
    is the channel's standard deviation. If a predictor states its own variance, the unexplained part of the squared
    error is added to it.
    """

    reach = 0
    """steps before the initialisation from which it takes observations"""

    def fit(self, train: Reports) -> Baseline:
        """Fit to a training part, which is kept: the spread of a lead is measured when first needed.

        Raises:
            ValueError: a channel without any value.
        """
        known = number_known(train.values)
        nowhere = np.array(train.columns.values)[known == 0]
        if len(nowhere):
            raise ValueError(f"fit: expected values of {', '.join(nowhere)} in the training part, got none; drop it")
        self.columns, self.train, self.circular = train.columns, train, np.array(train.columns.is_circular)
        sums = [_total(train, partial(self._sum_of, train, channel)) for channel in range(len(known))]
        self.mean = np.array([from_components(total / count) for total, count in zip(sums, known, strict=True)])
        self.deviation = np.sqrt(_total(train, lambda part: np.nansum(self._error(part) ** 2, 0)) / known)
        self._spreads: dict[int, NDArray] = {}
        self._errors: dict[tuple[int, int, int], NDArray] = {}
        return self

    def _error(self, part: slice) -> NDArray[np.float64]:
        """By how much values of the training part differ from their mean."""
        return difference(self.train.values[part].astype(np.float64), self.mean, self.circular)

    @abstractmethod
    def _forecast(self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: list[int]) -> Stated:
        """Arguments as for `predict`; the variance is that which the predictor itself states."""

    def predict(
        self, shown: Reports, origin: int | np.integer, positions: ArrayLike, covariates: ArrayLike,
        sensors: ArrayLike, leads: Sequence[int],
    ) -> MeanAndStddev:  # fmt: skip
        """As `SensorPredictor.predict`; covariates are not used.

        Raises:
            ValueError: not fitted, other columns than in training, positions that are not `(Q, n)` finite numbers, an
                origin that is not a step of the reports, no lead or a negative one, or an index of no station.
        """
        mean, stddev, _ = self._answered(shown, origin, positions, sensors, leads)
        return mean, stddev

    def quantiles(self, *asked: Any, shares: Sequence[float]) -> Float[NDArray, "P K Q C"]:
        """The quantiles of P probabilities, of what `predict` is asked with the same arguments.

        Of a Gaussian; of values that are declared to be none, the forecast and the quantiles of the errors that such
        forecasts made in training, cut off at the ends of the values' range.
        """
        shown, origin, positions, _, sensors, leads = asked
        mean, stddev, basis = self._answered(shown, origin, positions, sensors, leads)
        made = mean + ndtri(np.array(shares))[:, None, None, None] * stddev
        for channel, kind in enumerate(self.columns.kinds):
            for row, lead in enumerate(check_leads(leads) if kind else []):
                errors = np.stack([np.quantile(self._errors[lead, which, channel], shares) for which in range(3)])
                dressed = mean[row, :, channel] + errors[basis[:, channel]].T
                low, high = RANGES[kind or ""]
                made[:, row, :, channel] = np.clip(np.rint(dressed) if kind == "counts" else dressed, low, high)
        return made

    def _answered(
        self, shown: Reports, origin: int | np.integer, positions: ArrayLike, sensors: ArrayLike, leads: Sequence[int]
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Mean and standard deviation of what `predict` is asked for, and the basis of each."""
        if not hasattr(self, "train"):
            raise ValueError("predict: expected a fitted predictor, got one without training; call fit first")
        if shown.columns != self.columns:
            raise ValueError(f"predict: expected the columns of the training part, {self.columns}, got {shown.columns}")
        places = check_positions(positions, self.columns, "predict")
        step, leads = check_origin(origin, shown), check_leads(leads)
        stations = check_sensors(sensors, shown, len(places))
        new = sorted(set(leads) - self._spreads.keys())
        if new:
            self._spreads.update(zip(new, self._measure(new), strict=True))
        mean, variance, basis = self._forecast(shown, step, places, stations, leads)
        added = np.stack([np.take_along_axis(self._spreads[lead], basis, 0) for lead in leads])
        return mean, np.sqrt(variance + added**2), basis

    def _sum_of(self, reports: Reports, channel: int, rows: slice) -> NDArray:
        return self._channel(reports, channel, rows).sum(0)

    def _channel(self, reports: Reports, channel: int, rows: NDArray | slice = slice(None)) -> NDArray:
        """The values of a channel that are not missing, `(N, 1)`; directions as unit vectors, `(N, 2)`."""
        values = reports.values[rows, channel]
        return to_components(values[~np.isnan(values)].astype(np.float64), bool(self.circular[channel]))

    def _measure(self, leads: list[int]) -> list[NDArray]:
        """Standard deviation to add at each lead, `(3, C)`, for the bases `OWN`, `ELSEWHERE` and `NOTHING`."""
        train, generator = self.train, np.random.default_rng(0)
        squares, counts = np.zeros((2, len(leads), 3, len(self.mean)))
        errors: list[NDArray] = []
        for origin in np.sort(generator.permutation(train.num_steps)[:_ORIGINS]):
            hidden = generator.random(len(train.sensors)) < _HIDDEN
            since = max(0, origin - self.reach)
            shown = train.between(since, origin + 1).of(~hidden)
            later = train.between(origin, origin + max(leads) + 1)
            asked = later.where(np.isin(later.step, leads))
            if not len(asked):
                continue
            sensors = np.where(hidden[asked.sensor], -1, asked.sensor)
            places = last_places(shown, asked).positions  # where a sensor that moves is going is not known
            mean, variance, basis = self._forecast(shown, int(origin - since), places, sensors, leads)
            lead = np.searchsorted(leads, asked.step)
            error = difference(mean[lead, np.arange(len(asked))], asked.values.astype(np.float64), self.circular)
            row, channel = np.nonzero(~np.isnan(error))
            index = (lead[row], basis[row, channel], channel)
            np.add.at(squares, index, error[row, channel] ** 2 - variance[row, channel])
            np.add.at(counts, index, 1)
            errors.append(np.stack([*index, -error[row, channel]]))  # what the truth has above the forecast
        # A basis without a case takes the mean of both; a lead without a case takes the channel's variance.
        either, cases = np.tile(self.deviation**2, (len(leads), 1)), counts.sum(1)
        np.divide(squares.sum(1), cases, out=either, where=cases > 0)
        means = np.divide(squares, counts, out=np.repeat(either[:, None], 3, 1), where=counts > 0)
        means[:, NOTHING] = self.deviation**2
        self._keep_errors(leads, np.concatenate([np.empty((4, 0)), *errors], 1))
        return list(np.sqrt(np.maximum(means, (_LEAST_SPREAD * self.deviation) ** 2)))

    def _keep_errors(self, leads: list[int], errors: Float[NDArray, "4 E"]) -> None:
        """Keep the errors, rows of lead, basis, channel and truth less forecast, of values that are not Gaussian, by
        their keys."""
        for channel in [index for index, kind in enumerate(self.columns.kinds) if kind]:
            away = self.train.values[:, channel] - self.mean[channel]
            lead, basis, _, error = errors[:, errors[2] == channel]
            for row, which in product(range(len(leads)), range(3)):
                choices = (error[(lead == row) & (basis == which)], error[lead == row], away[~np.isnan(away)])
                self._errors[leads[row], which, channel] = next(filter(len, choices[2 * (which == NOTHING) :]))


class Climatology(Baseline):
    """Mean of the training values of all stations at that hour of the day, UTC, or of all hours if there are none."""

    def fit(self, train: Reports) -> Climatology:
        super().fit(train)
        self.by_hour = np.tile(self.mean, (24, 1))
        totals: dict[tuple[int, int], list[NDArray]] = {}
        for part in parts(len(train), train.values.shape[1], SUMMED):
            hours = self._hours(train, train.step[part])
            for hour, channel in product(np.unique(hours).tolist(), range(len(self.mean))):
                values = self._channel(train, channel, part.start + np.flatnonzero(hours == hour))
                if len(values):
                    totals.setdefault((hour, channel), []).append(np.append(values.sum(0), len(values)))
        for place, found in totals.items():
            total = np.sum(found, 0)
            self.by_hour[place] = from_components(total[:-1] / total[-1])
        return self

    @staticmethod
    def _hours(reports: Reports, steps: NDArray) -> NDArray:
        times = reports.start + steps * reports.step_length
        return (times.astype("datetime64[h]") - times.astype("datetime64[D]")).astype(np.int64)

    def quantiles(self, *asked: Any, shares: Sequence[float]) -> Float[NDArray, "P K Q C"]:
        """As of every baseline, but those of the training values at that hour where they are not Gaussian."""
        made, (shown, origin, *_, leads) = super().quantiles(*asked, shares=shares), asked
        hours, of_train = self._hours(shown, int(origin) + np.array(leads)), self._hours(self.train, self.train.step)
        for channel, kind in enumerate(self.columns.kinds):
            for row, hour in enumerate(hours if kind else []):
                values = self._channel(self.train, channel, of_train == hour)
                if len(values):
                    made[:, row, :, channel] = np.quantile(values[:, 0], shares)[:, None]
        return made

    def _forecast(self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: list[int]) -> Stated:
        mean = self.by_hour[self._hours(shown, origin + np.array(leads, np.int64))]
        shape = (len(positions), len(self.mean))
        return np.repeat(mean[:, None], len(positions), 1), np.zeros(shape), np.full(shape, ELSEWHERE)


def _total(train: Reports, of: Callable[[slice], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The sum of what each part of the rows sums up to."""
    return np.sum([of(part) for part in parts(len(train), train.values.shape[1], SUMMED)], 0)
