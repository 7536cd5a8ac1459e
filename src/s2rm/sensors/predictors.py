"""Predictors that need no training to speak of: what any forecast from sensors, and any map between them, must beat."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from s2rm.sensors.guess import plane
from s2rm.sensors.reports import Columns, Reports
from s2rm.sensors.scores import difference

EARTH_RADIUS = 6371.0
"""km"""
OWN, ELSEWHERE, NOTHING = range(3)
"""What a forecast can rest on: what the sensor itself reported, what only others did, or nothing."""
_ORIGINS = 48
"""from how many moments of the training part the spread is measured"""
_HIDDEN = 0.2
"""share of the sensors that are hidden meanwhile"""
_LEAST_SPREAD = 1e-3
"""of the channel's own: nothing is certain"""
_LEAST_POINTS = 8
"""fewer tell nothing of a covariance"""


@runtime_checkable
class SensorPredictor(Protocol):
    """Forecasts from reports, anywhere. Q queries, n coordinates, F covariates, K leads, C values."""

    def fit(self, train: Reports) -> SensorPredictor:
        """Learn from these reports; returns itself."""
        ...

    def predict(
        self,
        shown: Reports,
        origin: int,
        positions: Real[NDArray, "Q n"],
        covariates: Real[NDArray, "Q F"],
        sensors: Int[NDArray, " Q"],
        leads: Sequence[int],
    ) -> tuple[Float[NDArray, "K Q C"], Float[NDArray, "K Q C"]]:
        """Mean and standard deviation, in the user's units, of what is measured `leads` steps after the origin.

        Args:
            shown: reports; of these only the rows of step `origin` or earlier are looked at.
            origin: now, a step of `shown`.
            positions: where, in the user's units.
            covariates: of these places, in the user's units.
            sensors: which of the sensors of `shown` is there, -1 where none of them is.
            leads: steps after the origin; 0 is now.
        """
        ...


def coordinates(columns: Columns, positions: Real[NDArray, "Q n"]) -> Float[NDArray, "Q m"]:
    """Where straight lines are as good as distances: in km from the centre of the Earth, m = 3, or as they are."""
    if not columns.on_the_globe:
        return positions.astype(np.float64)
    longitude, latitude = np.radians(positions.astype(np.float64)).T
    ring = np.cos(latitude)
    return EARTH_RADIUS * np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)], -1)


def last_reports(shown: Reports, origin: int, channel: int, max_age: int) -> Int[NDArray, " N"]:
    """The row in which each sensor last reported this channel, `max_age` steps before the origin or later.

    Ordered by sensor; sensors that did not are left out.
    """
    rows = np.flatnonzero((shown.step <= origin) & (shown.step >= origin - max_age))
    rows = rows[~np.isnan(shown.values[rows, channel])]
    # The last row of each sensor, whatever the order of the rows.
    rows = rows[np.lexsort((shown.step[rows], shown.sensor[rows]))]
    sensor = shown.sensor[rows]
    return rows[np.append(sensor[1:] != sensor[:-1], True)] if len(rows) else rows


def inverse_distance(
    columns: Columns,
    places: Real[NDArray, "N n"],
    values: Float[NDArray, "N D"],
    positions: Real[NDArray, "Q n"],
    num_nearest: int = 8,
    power: float = 2.0,
) -> Float[NDArray, "Q D"]:
    """Mean of the values at the nearest places, weighted by a power of the inverse distance; N is at least 1.

    At a place of a value it is that value, or the mean of those that are there.
    """
    nearest = np.arange(1, min(num_nearest, len(places)) + 1)
    away, index = cKDTree(coordinates(columns, places)).query(coordinates(columns, positions), nearest)
    if columns.on_the_globe:
        away = 2 * EARTH_RADIUS * np.arcsin(np.minimum(away / (2 * EARTH_RADIUS), 1))
    # In units of the nearest, so that no power overflows.
    closest = away[:, :1]
    ratio = np.divide(closest, away, out=np.ones_like(away), where=away > 0)
    weights = np.where(closest > 0, ratio**power, (away == 0).astype(np.float64))
    return np.einsum("qk,qkd->qd", weights / weights.sum(-1, keepdims=True), values[index])


class _Trivial(ABC):
    """What the predictors here share: the answer of those who know nothing, and a spread that is measured.

    The spread is the root mean squared error in the training part at that lead, taken from a sample of origins at
    each of which some of the sensors are hidden: one for places whose sensor is shown, one for other places, and the
    channel's standard deviation where there is nothing to go by. Where a predictor has a spread of its own, what the
    errors leave unexplained is added.
    """

    def fit(self, train: Reports) -> SensorPredictor:
        """Keep the reports, from which the spread is measured when it is first asked for.

        Raises:
            ValueError: a channel of which there is no value.
        """
        columns = train.columns
        nowhere = [name for name, value in zip(columns.values, train.values.T, strict=True) if np.isnan(value).all()]
        if nowhere:
            raise ValueError(f"fit: expected values of {', '.join(nowhere)} in the training part, got none; drop it")
        self.columns, self.train = columns, train
        self.circular = np.array([name in columns.circular for name in columns.values])
        values = [self._channel(train, channel) for channel in range(len(columns.values))]
        self.mean = np.array([_from_components(value.mean(0)) for value in values])
        error = difference(train.values.astype(np.float64), self.mean, self.circular)
        self.deviation = np.sqrt(np.nanmean(error**2, 0))
        self._spreads: dict[int, NDArray] = {}
        return self

    @abstractmethod
    def _forecast(
        self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: Sequence[int]
    ) -> tuple[NDArray, NDArray, NDArray]:
        """Mean `(K, Q, C)`, variance so far `(Q, C)`, and what it rests on, int `(Q, C)`."""

    def predict(
        self,
        shown: Reports,
        origin: int,
        positions: Real[NDArray, "Q n"],
        covariates: Real[NDArray, "Q F"],
        sensors: Int[NDArray, " Q"],
        leads: Sequence[int],
    ) -> tuple[Float[NDArray, "K Q C"], Float[NDArray, "K Q C"]]:
        """As `SensorPredictor.predict`; the covariates are not looked at.

        Raises:
            ValueError: not fitted, other columns than in training, positions of other coordinates, no lead or a
                negative one, or a sensor that is none.
        """
        if not hasattr(self, "train"):
            raise ValueError("predict: expected a fitted predictor, got a new one; call fit first")
        if shown.columns != self.columns:
            raise ValueError(f"predict: expected the columns of the training part, {self.columns}, got {shown.columns}")
        if positions.shape[1] != len(self.columns.position):
            raise ValueError(
                f"predict: expected positions of {self.columns.position}, got {positions.shape[1]} numbers"
            )
        if len(leads) == 0 or min(leads) < 0:
            raise ValueError(f"predict: expected leads of 0 steps or more, got {list(leads)}")
        if len(sensors) and not (sensors.min() >= -1 and sensors.max() < len(shown.sensors)):
            raise ValueError(
                f"predict: sensors must be from -1, none, to {len(shown.sensors) - 1}, got {sensors.min()} to "
                f"{sensors.max()}"
            )
        mean, variance, basis = self._forecast(shown, origin, positions, sensors, leads)
        added = np.stack([np.take_along_axis(spread, basis, 0) for spread in self._measured(leads)])
        return mean, np.sqrt(variance + added**2)

    def _channel(self, reports: Reports, channel: int, rows: NDArray | None = None) -> NDArray:
        """A channel's values as numbers that can be averaged, `(N, 1)`, or `(N, 2)` for directions."""
        values = reports.values[:, channel] if rows is None else reports.values[rows, channel]
        return _to_components(values[~np.isnan(values)].astype(np.float64), bool(self.circular[channel]))

    def _measured(self, leads: Sequence[int]) -> list[NDArray]:
        """The spread to be added at each lead, `(3, C)`, for forecasts that rest on `OWN`, `ELSEWHERE`, `NOTHING`."""
        new = sorted(set(leads) - self._spreads.keys())
        if new:
            self._spreads.update(zip(new, self._measure(new), strict=True))
        return [self._spreads[lead] for lead in leads]

    def _measure(self, leads: list[int]) -> list[NDArray]:
        train = self.train
        generator = np.random.default_rng(0)
        origins = np.sort(generator.permutation(train.num_steps)[:_ORIGINS])
        squares, counts = np.zeros((2, len(leads), 3, len(self.mean)))
        for origin in origins:
            hidden = generator.random(len(train.sensors)) < _HIDDEN
            shown = train.where((train.step <= origin) & ~hidden[train.sensor])
            rows = np.flatnonzero(np.isin(train.step, origin + np.array(leads)))
            if not len(rows):
                continue
            sensors = np.where(hidden[train.sensor[rows]], -1, train.sensor[rows])
            mean, variance, basis = self._forecast(shown, int(origin), train.positions[rows], sensors, leads)
            lead = np.searchsorted(leads, train.step[rows] - origin)
            error = difference(mean[lead, np.arange(len(rows))], train.values[rows].astype(np.float64), self.circular)
            for channel in range(len(self.mean)):
                known = ~np.isnan(error[:, channel])
                index = (lead[known], basis[known, channel], channel)
                np.add.at(squares, index, error[known, channel] ** 2 - variance[known, channel])
                np.add.at(counts, index, 1)
        # Where nobody was hidden, or nobody shown, the other's error; where there was no report so late, the channel's.
        either = np.divide(squares.sum(1), counts.sum(1), out=np.tile(self.deviation**2, (len(leads), 1)),
                           where=counts.sum(1) > 0)  # fmt: skip
        means = np.divide(squares, counts, out=np.repeat(either[:, None], 3, 1), where=counts > 0)
        means[:, NOTHING] = self.deviation**2
        return list(np.sqrt(np.maximum(means, (_LEAST_SPREAD * self.deviation) ** 2)))


class Climatology(_Trivial):
    """The mean of all sensors' training values at that hour of the day; of directions, that of the unit vectors."""

    def fit(self, train: Reports) -> Climatology:
        """Average, hour by hour; the mean of all hours where one has no value.

        Raises:
            ValueError: a channel of which there is no value.
        """
        super().fit(train)
        hours = self._hours(self.train, self.train.step)
        self.by_hour = np.tile(self.mean, (24, 1))
        for hour in np.unique(hours):
            for channel in range(len(self.mean)):
                values = self._channel(self.train, channel, hours == hour)
                if len(values):
                    self.by_hour[hour, channel] = _from_components(values.mean(0))
        return self

    @staticmethod
    def _hours(reports: Reports, steps: NDArray) -> NDArray:
        """The hour of the day, UTC, 0 to 23, in which these steps begin."""
        times = reports.start + steps * reports.step_length
        return (times.astype("datetime64[h]") - times.astype("datetime64[D]")).astype(np.int64)

    def _forecast(
        self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: Sequence[int]
    ) -> tuple[NDArray, NDArray, NDArray]:
        mean = self.by_hour[self._hours(shown, origin + np.array(leads, np.int64))]
        shape = (len(positions), mean.shape[-1])
        return np.tile(mean[:, None], (1, len(positions), 1)), np.zeros(shape), np.full(shape, ELSEWHERE)


class _FromLastReports(_Trivial):
    """Predictors that hold still what was last reported; where nothing was, the training mean.

    Args:
        max_age: steps after which a report is forgotten.
    """

    def __init__(self, max_age: int = 24):
        self.max_age = max_age

    @abstractmethod
    def _map(
        self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray
    ) -> tuple[NDArray, NDArray | float]:
        """A map of a channel.

        Args:
            channel: which.
            places: `(N, n)`, N at least 1, of the sensors that reported.
            values: `(N, D)`, of directions the unit vectors.
            positions: `(Q, n)`.
            own: which of the places is that of the sensor in question, int `(Q,)`, -1 where none is.

        Returns:
            Values `(Q, D)` and variances `(Q,)`, of directions in square degrees.
        """

    def _forecast(
        self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: Sequence[int]
    ) -> tuple[NDArray, NDArray, NDArray]:
        shape = (len(positions), len(self.mean))
        mean, variance, basis = np.tile(self.mean, (len(positions), 1)), np.zeros(shape), np.full(shape, NOTHING)
        for channel in range(len(self.mean)):
            rows = last_reports(shown, origin, channel, self.max_age)
            if not len(rows) or not len(positions):
                continue
            # One more, so that -1 is no sensor.
            row_of = np.full(len(shown.sensors) + 1, -1)
            row_of[shown.sensor[rows]] = np.arange(len(rows))
            own = row_of[sensors]
            values = self._channel(shown, channel, rows)
            mapped, variance[:, channel] = self._map(channel, shown.positions[rows], values, positions, own)
            mean[:, channel] = _from_components(mapped)
            basis[:, channel] = np.where(own >= 0, OWN, ELSEWHERE)
        return np.tile(mean, (len(leads), 1, 1)), variance, basis


class InverseDistance(_FromLastReports):
    """The last reports of the nearest sensors, weighted by a power of the inverse distance.

    Args:
        num_nearest: sensors that are looked at.
        power: of the inverse distance.
        max_age: steps after which a report is forgotten.
    """

    def __init__(self, num_nearest: int = 8, power: float = 2.0, max_age: int = 24):
        super().__init__(max_age)
        self.num_nearest, self.power = num_nearest, power

    def _map(
        self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray
    ) -> tuple[NDArray, NDArray | float]:
        return inverse_distance(self.columns, places, values, positions, self.num_nearest, self.power), 0.0


class LocalLinear(_FromLastReports):
    """A plane through the last reports of the nearest sensors, weighted by inverse square distance.

    What models here correct is much the same, but that it counts ages and tilts as far as a table wants it to.

    Args:
        num_nearest: sensors that are looked at.
        tilt: how freely the plane tilts; with 0 it is inverse distance.
        max_age: steps after which a report is forgotten.
    """

    def __init__(self, num_nearest: int = 12, tilt: float = 10.0, max_age: int = 24):
        super().__init__(max_age)
        self.num_nearest, self.tilt = num_nearest, tilt

    def _map(
        self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray
    ) -> tuple[NDArray, NDArray | float]:
        there, asked = coordinates(self.columns, places), coordinates(self.columns, positions)
        nearest = np.arange(1, min(self.num_nearest, len(there)) + 1)
        distance, index = cKDTree(there).query(asked, nearest)
        closeness = 1 / (distance**2 + (1e-4 * (np.ptp(there, axis=0).max() or 1.0)) ** 2)
        away = torch.from_numpy(there[index] - asked[:, None])
        weight = plane(torch.from_numpy(closeness / closeness.sum(-1, keepdims=True)), away, self.tilt)
        return np.einsum("qk,qkd->qd", weight.numpy(), values[index]), 0.0


class Persistence(_FromLastReports):
    """The sensor's own last report; where it has none, inverse distance over the last reports of others.

    Args:
        max_age: steps after which a report is forgotten.
    """

    def _map(
        self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray
    ) -> tuple[NDArray, NDArray | float]:
        mapped = values[own]
        others = own < 0
        if others.any():
            mapped[others] = inverse_distance(self.columns, places, values, positions[others])
        return mapped, 0.0


class Kriging(_FromLastReports):
    """Simple kriging of the last reports, of each channel on its own, about their mean.

    A Gaussian process in space with a Matern covariance (smoothness 3/2) and white noise. Its parameters are fitted
    to some steps of the training part, of which the median is kept. Needs scikit-learn.

    Args:
        num_steps: training steps to which the covariance is fitted.
        num_points: reports of each, at most.
        max_age: steps after which a report is forgotten.
    """

    def __init__(self, num_steps: int = 6, num_points: int = 150, max_age: int = 24):
        super().__init__(max_age)
        self.num_steps, self.num_points = num_steps, num_points

    def fit(self, train: Reports) -> Kriging:
        """Fit the covariances.

        Raises:
            ValueError: a channel of which there is no value.
            ImportError: scikit-learn is not installed.
        """
        super().fit(train)
        gaussian_process, kernels, not_converged = _scikit_learn()
        generator = np.random.default_rng(0)
        self.kernels: list[Any] = []
        for channel in range(len(self.mean)):
            centred = self._channel(train, channel) - _to_components(self.mean[channel], self.circular[channel])
            scale = float((centred**2).mean())
            known = np.flatnonzero(~np.isnan(train.values[:, channel]))
            telling = np.flatnonzero(np.bincount(train.step[known]) >= _LEAST_POINTS)
            found = []
            for step in generator.permutation(telling)[: self.num_steps]:
                rows = generator.permutation(known[train.step[known] == step])[: self.num_points]
                places = coordinates(self.columns, train.positions[rows])
                values = self._channel(train, channel, rows)
                process = gaussian_process(self._start(kernels, places, scale))
                with warnings.catch_warnings():
                    # A parameter at its bound on some step is no matter: the median is taken.
                    warnings.simplefilter("ignore", not_converged)
                    found.append(process.fit(places, values - values.mean(0)).kernel_.theta)
            kernel = self._start(kernels, coordinates(self.columns, train.positions), scale)
            self.kernels.append(kernel.clone_with_theta(np.median(found, 0)) if found else kernel)
        return self

    @staticmethod
    def _start(kernels: Any, places: NDArray, scale: float) -> Any:
        """The covariance before it is fitted: lengths from the extent of the places, variances from the channel's."""
        extent = float(np.linalg.norm(np.ptp(places, 0))) or 1.0
        scale = scale or 1.0
        signal = kernels.ConstantKernel(scale, (1e-4 * scale, 1e2 * scale))
        matern = kernels.Matern(extent / 5, (1e-3 * extent, 10 * extent), nu=1.5)
        return signal * matern + kernels.WhiteKernel(0.1 * scale, (1e-4 * scale, 10 * scale))

    def _map(
        self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray
    ) -> tuple[NDArray, NDArray | float]:
        gaussian_process, _, _ = _scikit_learn()
        centre = values.mean(0)
        process = gaussian_process(self.kernels[channel], optimizer=None)
        process.fit(coordinates(self.columns, places), values - centre)
        mean, deviation = process.predict(coordinates(self.columns, positions), return_std=True)
        mapped = mean.reshape(len(positions), -1) + centre
        deviation = deviation.reshape(len(positions), -1)[:, 0]
        if self.circular[channel]:
            # Across a vector that shorter is the less certain; at most as if every direction were equally likely.
            deviation = deviation / np.maximum(np.linalg.norm(mapped, axis=-1), 1e-9)
            deviation = np.degrees(np.minimum(deviation, np.pi / np.sqrt(3)))
        return mapped, deviation**2


BASELINES: dict[str, type[_Trivial]] = {
    "persistence": Persistence,
    "climatology": Climatology,
    "inverse distance": InverseDistance,
    "local linear": LocalLinear,
    "kriging": Kriging,
}


def _to_components(values: Any, circular: Any) -> NDArray:
    radians = np.radians(values)
    return np.stack([np.cos(radians), np.sin(radians)] if circular else [values], -1)


def _from_components(values: NDArray) -> NDArray:
    """The inverse of `_to_components`; directions in [0, 360), whatever the length of the vectors."""
    if values.shape[-1] == 1:
        return values[..., 0]
    direction = np.degrees(np.arctan2(values[..., 1], values[..., 0])) % 360
    # A hair below zero rounds up to 360.
    return np.where(direction < 360, direction, 0.0)


def _scikit_learn() -> tuple[Any, Any, Any]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor, kernels
    except ImportError as error:
        raise ImportError('kriging needs scikit-learn; install it with pip install "s2rm[tables]"') from error
    return GaussianProcessRegressor, kernels, ConvergenceWarning
