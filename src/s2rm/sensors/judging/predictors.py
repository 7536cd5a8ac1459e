"""Simple predictors, which any forecast or map of a table of stations must beat."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from s2rm.sensors.checks import check_leads
from s2rm.sensors.first_guess.weights import NEAREST, plane
from s2rm.sensors.judging.baselines import ELSEWHERE, NOTHING, OWN, Baseline, MeanAndStddev, Stated
from s2rm.sensors.reports import EARTH_RADIUS, Reports, from_components, on_sphere
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import steps_a_cycle

Mapped = tuple[NDArray, NDArray | float]
"""Values `(Q, D)` and variances `(Q,)` of one channel."""


@runtime_checkable
class SensorPredictor(Protocol):
    """Forecasts at any place from observations. Q queries, n coordinates, F covariates, K leads, C values."""

    def predict(
        self, shown: Reports, origin: int, positions: Real[NDArray, "Q n"], covariates: Real[NDArray, "Q F"],
        sensors: Int[NDArray, " Q"], leads: Sequence[int],
    ) -> MeanAndStddev:  # fmt: skip
        """Mean and standard deviation of the values, `leads` steps after the initialisation; all in the user's units.

        For values that are not Gaussian there is a method `quantiles` too, with these arguments and P `shares`, which
        returns `(P, K, Q, C)`.

        Args:
            shown: observations; only those of step `origin` or earlier are used.
            origin: the step of initialisation, a step of `shown`.
            positions, covariates: of the queries.
            sensors: index in `shown.sensors` of the station at each query, -1 for none.
            leads: lead times in steps; 0 is an analysis at the initialisation itself.
        """
        ...


def coordinates(columns: Columns, positions: Real[NDArray, "Q n"]) -> Float[NDArray, "Q m"]:
    """Cartesian coordinates: on the globe in km from the centre of the Earth, m = 3; planar positions as they are."""
    return EARTH_RADIUS * on_sphere(positions) if columns.on_the_globe else positions.astype(np.float64)


def last_reports(shown: Reports, origin: int, channel: int, max_age: int) -> Int[NDArray, " N"]:
    """Row of each station's last value of this channel, at most `max_age` steps before the origin, by station."""
    since, until = np.searchsorted(shown.step, [origin - max_age, origin + 1])
    rows = since + np.flatnonzero(~np.isnan(shown.values[since:until, channel]))
    rows = rows[np.lexsort((shown.step[rows], shown.sensor[rows]))]
    return rows[np.append(np.diff(shown.sensor[rows]) != 0, True)[: len(rows)]]


def inverse_distance(
    columns: Columns, places: Real[NDArray, "N n"], values: Float[NDArray, "N D"], positions: Real[NDArray, "Q n"],
    num_nearest: int = 8, power: float = 2.0,
) -> Float[NDArray, "Q D"]:  # fmt: skip
    """Mean of the values at the nearest places, weighted by a power of the inverse distance; N is at least 1.

    Exact at the places themselves; values at the same place are averaged.
    """
    nearest = np.arange(1, min(num_nearest, len(places)) + 1)
    away, index = cKDTree(coordinates(columns, places)).query(coordinates(columns, positions), nearest)
    if columns.on_the_globe:
        away = 2 * EARTH_RADIUS * np.arcsin(np.minimum(away / (2 * EARTH_RADIUS), 1))
    # Relative to the nearest, so that no power overflows.
    closest = away[:, :1]
    ratio = np.divide(closest, away, out=np.ones_like(away), where=away > 0)
    weights = np.where(closest > 0, ratio**power, (away == 0).astype(np.float64))
    return np.einsum("qk,qkd->qd", weights / weights.sum(-1, keepdims=True), values[index])


class FromLastReports(Baseline):
    """Base of those that persist a map of the last observations, at most `max_age` steps old."""

    def __init__(self, max_age: int = 24):
        self.max_age = max_age

    @property
    def reach(self) -> int:  # type: ignore[override]
        return self.max_age

    @abstractmethod
    def _map(self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray) -> Mapped:
        """A map of a channel at `positions`, from places `(N, n)` and values `(N, D)` of the last observations, N > 0.

        Directions are unit vectors, their variances in square degrees; `own` is the row of each query's own station,
        -1 where there is none.
        """

    def _forecast(self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: list[int]) -> Stated:
        shape = (len(positions), len(self.mean))
        mean, variance, basis = np.tile(self.mean, (len(positions), 1)), np.zeros(shape), np.full(shape, NOTHING)
        for channel in range(len(self.mean)):
            rows = last_reports(shown, origin, channel, self.max_age)
            if not len(rows) or not len(positions):
                continue
            # One entry more, which index -1, no station, selects.
            row_of = np.full(len(shown.sensors) + 1, -1)
            row_of[shown.sensor[rows]] = np.arange(len(rows))
            own, values = row_of[sensors], self._channel(shown, channel, rows)
            mapped, variance[:, channel] = self._map(channel, shown.positions[rows], values, positions, own)
            mean[:, channel] = from_components(mapped)
            basis[:, channel] = np.where(own >= 0, OWN, ELSEWHERE)
        return np.tile(mean, (len(leads), 1, 1)), variance, basis


class InverseDistance(FromLastReports):
    """Mean of the last observations of the nearest stations, weighted by the inverse square of the distance."""

    def __init__(self, num_nearest: int = 8, max_age: int = 24):
        super().__init__(max_age)
        self.num_nearest = num_nearest

    def _map(self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray) -> Mapped:
        return inverse_distance(self.columns, places, values, positions, self.num_nearest), 0.0


class LocalLinear(FromLastReports):
    """Locally weighted linear regression on the last observations of the nearest stations, by inverse square distance.

    One predictor in the first guess of a `Forecaster` is similar, with the ageing and the tilt fitted to the table. The
    tilt is the inverse of the plane's ridge penalty; with 0 it is inverse distance.
    """

    def __init__(self, tilt: float = 10.0, max_age: int = 24):
        super().__init__(max_age)
        self.tilt = tilt

    def _map(self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray) -> Mapped:
        there, asked = coordinates(self.columns, places), coordinates(self.columns, positions)
        extent = np.ptp(there, axis=0).max() or 1.0
        there, asked, nearest = there / extent, asked / extent, np.arange(1, min(NEAREST, len(there)) + 1)
        distance, index = cKDTree(there).query(asked, nearest)
        closeness = 1 / (distance**2 + 1e-4**2)
        away = torch.from_numpy(there[index] - asked[:, None])
        weight = plane(torch.from_numpy(closeness / closeness.sum(-1, keepdims=True)), away, self.tilt)
        return np.einsum("qk,qkd->qd", weight.numpy(), values[index]), 0.0


class Persistence(FromLastReports):
    """The station's own last observation; if it has none, inverse distance over those of other stations."""

    def _map(self, channel: int, places: NDArray, values: NDArray, positions: NDArray, own: NDArray) -> Mapped:
        mapped, others = values[own], own < 0
        if others.any():
            mapped[others] = inverse_distance(self.columns, places, values, positions[others])
        return mapped, 0.0


class Seasonal(Persistence):
    """The station's value at the same hour of the last day, of the same weekday where a step is a day, or a year before
    where it is longer; where it has none, inverse distance over those of other stations. Without such a cycle it is
    persistence."""

    @property
    def reach(self) -> int:  # type: ignore[override]
        return self.max_age + (steps_a_cycle(self.columns) or 0)

    def predict(
        self, shown: Reports, origin: int | np.integer, positions: ArrayLike, covariates: ArrayLike,
        sensors: ArrayLike, leads: Sequence[int],
    ) -> MeanAndStddev:  # fmt: skip
        # One lead time at a time: a station may have an observation of one hour, and none of another.
        parts = [super(Seasonal, self).predict(shown, origin, positions, covariates, sensors, [lead])
                 for lead in check_leads(leads)]  # fmt: skip
        means, stddevs = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(stddevs)

    def quantiles(self, *asked: Any, shares: Sequence[float]) -> Float[NDArray, "P K Q C"]:
        (*others, leads), ask = asked, super().quantiles
        return np.concatenate([ask(*others, [lead], shares=shares) for lead in check_leads(leads)], 1)

    def _forecast(self, shown: Reports, origin: int, positions: NDArray, sensors: NDArray, leads: list[int]) -> Stated:
        cycle, max_age = steps_a_cycle(self.columns), self.max_age
        if cycle is None:
            return super()._forecast(shown, origin, positions, sensors, leads)
        (lead,) = leads
        try:
            self.max_age = cycle // 24
            before = origin + lead - cycle * max(1, -(-lead // cycle))
            return super()._forecast(shown, before, positions, sensors, leads)
        finally:
            self.max_age = max_age
