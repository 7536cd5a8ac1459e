"""Where to put the next sensor: the places at which an observation would be most informative about the field."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from s2rm.sensors.checks import check_alike, check_clock, check_places
from s2rm.sensors.first_guess.guess import values_of_channels
from s2rm.sensors.first_guess.weights import JITTER, covariance
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.given import told, whole_number
from s2rm.sensors.judging.predictors import last_reports
from s2rm.sensors.reports import Places, Reports, expect_reports, grid

if TYPE_CHECKING:
    from pandas import DataFrame

SIDE = 30
"""points of a grid along each coordinate, where no places are given"""


class Siting(NamedTuple):
    """The reduction of variance by an observation at each of Q candidate places."""

    candidates: Places
    share: Float[NDArray, "Q C"]
    """share of the variance of each value, summed over the places of interest; NaN for a value that no station measures
    now"""
    chosen: Int[NDArray, " N"]
    """the best candidate, then the best one given the first, and so on"""
    silent: Int[NDArray, " K"]
    """the stations that have not reported recently, as indices into `Reports.sensors`; they count as absent"""

    @property
    def mean(self) -> Float[NDArray, " Q"]:
        """The mean share over the values, by which candidates are ranked."""
        return np.nanmean(self.share, 1)

    def table(self, reports: Reports) -> DataFrame:
        """A row for each candidate, the best first: `rank`, `chosen` (1 for the first choice, 0 for none), the columns
        of the position, the sensor's column if the candidates have names, the `share` and that of each value."""
        import pandas as pd

        chosen = np.zeros(len(self.mean), np.int64)
        chosen[self.chosen] = 1 + np.arange(len(self.chosen))
        order = np.argsort(-self.mean, kind="stable")
        columns: dict[str, NDArray] = {"rank": 1 + np.arange(len(order)), "chosen": chosen[order]}
        columns |= zip(reports.columns.position, self.candidates.positions[order].T, strict=True)
        if self.candidates.names is not None:
            columns[reports.columns.sensor or "sensor"] = np.array(self.candidates.names, object)[order]
        shares = zip(reports.columns.values, self.share[order].T, strict=True)
        columns |= {"share": self.mean[order], **{f"{name}_share": share for name, share in shares}}
        return pd.DataFrame(columns)


def next_sensor(
    forecaster: Forecaster, reports: Reports, candidates: Places | None = None, interest: Places | None = None,
    number: int = 1,
) -> Siting:  # fmt: skip
    r"""Rank candidate places by how much an observation there would reduce the variance of a map of the field.

    The field is the Gaussian process of the forecaster's kriging, whose covariance $k(x, x')$ and nugget $\nu$ were
    fitted to its table for each value, and whose mean is unknown. Given the stations X that report now, with
    $C = k(X, X) + \nu I$ and $m_a = 1 - 1^\top C^{-1} k(X, a)$, it has the covariance

    $$c(a, b) = k(a, b) - k(a, X) C^{-1} k(X, b) + m_a m_b / (1^\top C^{-1} 1)$$

    and an observation at q reduces the kriging variance at each place p by exactly $c(p, q)^2 / (c(q, q) + \nu)$,
    whatever is observed. The share is the sum of this reduction over the places of interest, divided by the sum of
    $c(p, p)$; candidates are ranked by the mean share of the values. Several sensors are chosen greedily, each given
    the earlier ones.

    Args:
        forecaster: with the table's columns.
        reports: the observations; the stations are those that reported recently enough to have weight at the last step.
        candidates: Q places; by default a grid over the reports.
        interest: P places at which the field matters, with equal weight; by default a grid over the reports.
        number: number of sensors to place, N.

    Raises:
        ValueError: columns other than those of the fit, reports whose last ones stand so far from the others that a
            clock must be wrong, no candidate or place of interest, fewer candidates than sensors, or no station that
            reports.

    Source:
        Krause, Singh and Guestrin 2008, "Near-optimal sensor placements in Gaussian processes", for the greedy choice;
        the criterion is A-optimality, the mean variance (Cressie 1993, "Statistics for Spatial Data", 4.6).
    """
    expect_reports(reports, "next-sensor")
    # With or without what is known ahead, which is no part of a map of now.
    own, got = (replace(each.columns, ahead=(), flow=()) for each in (forecaster, reports))
    replace(forecaster, columns=own).check(replace(reports, columns=got))
    check_clock(reports, "next-sensor", only_late=True)
    check_alike(replace(reports, columns=got, ahead=None), forecaster.scaling, "next-sensor")
    scaling, guess = forecaster.scaling, forecaster.guess
    side = round(SIDE ** (2 / len(reports.columns.position)))  # as many places in one or three coordinates as in two
    given = (grid(reports, side) if places is None else places for places in (candidates, interest))
    asked, where = (check_places(places, forecaster.columns, scaling, "next-sensor") for places in given)
    many = whole_number(number)
    if many is None or not 1 <= many <= len(asked.positions) or not len(where.positions):
        raise ValueError(
            f"next-sensor: expected from 1 to {len(asked.positions)} sensors, as many as candidates, and a place of "
            f"interest, got {told(number)} and {len(where.positions)} places; name fewer sensors, or more places"
        )
    points = scaling.coordinates(np.concatenate([asked.positions, where.positions])).double().numpy()
    recent = reports.between(max(0, reports.num_steps - guess.memory), reports.num_steps)
    value_of = values_of_channels(scaling).tolist()
    fields = [_Field(points, len(asked.positions), *_stations(forecaster, recent, value, channel))
              for channel, value in enumerate(value_of)]  # fmt: skip
    if not any(field.stations for field in fields):
        raise ValueError(
            f"next-sensor: expected stations that reported in the last {guess.memory} steps, got none; give newer ones"
        )
    silent = np.setdiff1d(reports.reporting, recent.reporting)
    if len(silent):
        warnings.warn(
            f"next-sensor: {len(silent)} of {len(reports.reporting)} stations have not reported in the last "
            f"{guess.memory} steps, such as {reports.sensors[silent[0]]!r}, and count as absent; if they are still "
            "there, leave the latest reports out",
            stacklevel=2,
        )
    measured = {value_of[channel] for channel, field in enumerate(fields) if field.stations}
    unknown = [repr(name) for value, name in enumerate(reports.columns.values) if value not in measured]
    if unknown:
        warnings.warn(
            f"next-sensor: no station has reported {', '.join(unknown)} in the last {guess.memory} steps, so that the "
            "ranking is that of the other values",
            stacklevel=2,
        )
    alone, chosen = _shares(fields, value_of), list[int]()
    for _ in range(many):
        mean = np.nanmean(_shares(fields, value_of), 1)
        mean[chosen] = -1.0
        chosen.append(int(mean.argmax()))
        for field in fields:
            field.observe(chosen[-1])
    return Siting(asked, alone, np.array(chosen), silent)


def _stations(
    forecaster: Forecaster, recent: Reports, value: int, channel: int
) -> tuple[NDArray[np.float64], Callable[[NDArray, NDArray], NDArray], float]:
    """The stations that measure a value now, in the model's coordinates, and the covariance and nugget of a channel."""
    rows = last_reports(recent, recent.num_steps - 1, value, forecaster.guess.memory - 1)
    places = forecaster.scaling.coordinates(recent.positions[rows]).double().numpy()
    ways = forecaster.guess.ways

    def between(some: NDArray, others: NDArray) -> NDArray:
        distance = torch.from_numpy(cdist(some, others))
        return covariance(distance, ways.reach[channel], ways.smooth[channel]).numpy()

    return places, between, ways.nugget[channel] + JITTER


def _shares(fields: list[_Field], value_of: list[int]) -> Float[NDArray, "Q C"]:
    """The shares of each value, over its channels."""
    shares = []
    for value in range(max(value_of) + 1):
        mine = [field for field, of in zip(fields, value_of, strict=True) if of == value]
        shares.append(sum(field.taken() for field in mine) / sum(field.before for field in mine))
    return np.stack(shares, -1)


class _Field:
    """The covariance of a channel at Q candidates with them and with P other places, beside what is observed."""

    def __init__(
        self, points: NDArray[np.float64], number: int, places: NDArray[np.float64],
        covariance: Callable[[NDArray, NDArray], NDArray], nugget: float,
    ):  # fmt: skip
        self.nugget, self.stations = nugget, len(places)
        if not self.stations:
            self.between = np.full((len(points), number), np.nan)
            self.before = np.nan
            return
        factor = cho_factor(covariance(places, places) + nugget * np.eye(len(places)))
        towards = covariance(places, points)
        solved = cho_solve(factor, np.concatenate([towards, np.ones((len(places), 1))], 1))
        level, unknown = 1 - solved[:, :-1].sum(0), solved[:, -1].sum()
        self.between = covariance(points, points[:number]) - towards.T @ solved[:, :number]
        self.between += np.outer(level, level[:number]) / unknown
        left = 1 - (towards * solved[:, :-1]).sum(0) + level**2 / unknown
        self.before = float(left[number:].sum())

    def taken(self) -> Float[NDArray, " Q"]:
        """The variance that an observation at each candidate takes from the other places, summed over them."""
        number = self.between.shape[1]
        return (self.between[number:] ** 2).sum(0) / (np.diagonal(self.between) + self.nugget)

    def observe(self, candidate: int) -> None:
        """Put a sensor at a candidate."""
        column = self.between[:, candidate].copy()
        number = self.between.shape[1]
        self.between -= np.outer(column, column[:number]) / (column[candidate] + self.nugget)
