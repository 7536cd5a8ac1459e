"""Values that are not Gaussian: the transform between them and a Gaussian scale, learned from their distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from s2rm.sensors.settings import RANGES, Columns

if TYPE_CHECKING:
    from s2rm.sensors.reports import Reports

KNOTS, FARTHEST = 100, 6.0
"""the most knots of a transform, and the score of its last knots where values may be beyond those of the fit"""
NODES = np.linspace(-5, 5, 81)
"""of the quadrature over a standard normal distribution"""
MANY_ZEROS = 0.2
"""the share of zeros from which on a value that is never negative is found not to be Gaussian"""
NARROW, UNIFORM = 45.0, 240.0
"""standard deviations, degrees, up to which the circle does not matter, and from which all directions are as likely"""
LEAST_KNOWN = 50
"""the share is one of at least so many values: fewer say little"""


@dataclass(frozen=True)
class Marginal:
    r"""A value as a monotone function of a Gaussian one: the normal score of its distribution in the training part.

    With $F$ the distribution and $\Phi$ that of a standard normal, a value $y$ has the score
    $z = \Phi^{-1}(F(y))$; of equal values, which share a range of F, it is that of the range's middle. The transform is
    linear between knots. Beyond the smallest and largest value of the training part it goes on to the end of the range
    that the value can have or, where there is none, straight.

    A share of the values may lie at an end of that range, as rain does at 0. The Gaussian is then *censored* there: all
    of it below the score $\Phi^{-1}(F(0))$ means 0, which is its probability, and amounts are never negative.

    Source: the normal scores are those of Gaussian anamorphosis in geostatistics (Wackernagel, 2003, chapter 33); the
    censoring is that of Tobin (1958).
    """

    values: tuple[float, ...]
    scores: tuple[float, ...]
    """the knots, both increasing"""
    at_low: bool
    at_high: bool
    """whether a share of the values lies at the first, or the last, knot"""
    whole: bool
    """whether values are whole numbers; the knots are then halfway between them"""
    open_low: bool = False
    open_high: bool = False
    """whether the range goes on below the first, or above the last, knot"""

    @classmethod
    def of(cls, values: Float[NDArray, " N"], low: float | None, high: float | None, whole: bool) -> Marginal:
        """The transform of N known values of the range from `low` to `high`; None is no end."""
        within = np.clip(values.astype(np.float64), -np.inf if low is None else low, np.inf if high is None else high)
        distinct, counts = np.unique(within, return_counts=True)  # without the rounding of packed files
        until = counts.cumsum() / counts.sum()
        before, last = until - counts / counts.sum(), 1 - 0.5 / counts.sum()
        at_low, at_high = bool(distinct[0] == low), bool(distinct[-1] == high)
        shares = np.minimum(until, last) if whole else (before + until) / 2
        if at_low:
            shares[0] = until[0]
        if at_high and not whole:
            shares[-1] = before[-1]
        scores = ndtri(shares)
        if len(scores) > KNOTS:
            kept = np.unique(np.searchsorted(scores, np.linspace(scores[0], scores[-1], KNOTS)))
            distinct, scores = distinct[kept], scores[kept]
        # Strictly increasing, also where all values lie at the two ends.
        scores = scores + 1e-6 * np.arange(len(scores))
        knots = distinct + 0.5 * whole
        if not at_low:
            first = _farthest(knots, scores, 0) if low is None else low
            knots, scores = np.append(first, knots), np.append(-FARTHEST, scores)
        if not at_high:
            final = _farthest(knots, scores, -1) if high is None else high
            knots, scores = np.append(knots, final), np.append(scores, FARTHEST)
        return cls(tuple(knots.tolist()), tuple(scores.tolist()), at_low, at_high, whole, low is None, high is None)

    @property
    def limits(self) -> tuple[float, float]:
        """The scores below and above which the Gaussian is censored; infinite where it is not."""
        return self.scores[0] if self.at_low else -np.inf, self.scores[-1] if self.at_high else np.inf

    @property
    def known_range(self) -> tuple[float, float]:
        """The values beyond which the transform only goes straight on; infinite where it does not."""
        return self.values[0] if self.open_low else -np.inf, self.values[-1] if self.open_high else np.inf

    def score(self, values: Float[NDArray, "*batch"]) -> Float[NDArray, "*batch"]:
        """The Gaussian scores of values; NaN stays, and values out of the range are as those at its end."""
        scores = self._through(values, self.values, self.scores)
        if self.at_low:
            scores = np.where(values <= self.values[0], self._at(0), scores)
        if self.at_high:
            scores = np.where(values >= self.values[-1], self._at(-1), scores)
        return scores

    def _at(self, end: int) -> float:
        """The score of values at an end: the mean of the Gaussian beyond it, with which that of all scores is 0."""
        score, sign = self.scores[end], -1 if end == 0 else 1
        return float(sign * np.exp(-(score**2) / 2) / np.sqrt(2 * np.pi) / ndtr(-sign * score))

    def value(self, scores: Float[NDArray, "*batch"]) -> Float[NDArray, "*batch"]:
        """The values of scores, which lie in the range; of whole numbers, whole."""
        values = self._through(scores, self.scores, self.values)
        return np.ceil(values - 0.5) + 0.0 if self.whole else values

    def _through(
        self, given: Float[NDArray, "*batch"], knots: tuple[float, ...], there: tuple[float, ...]
    ) -> Float[NDArray, "*batch"]:
        """Linear between knots, and straight on beyond the last ones where the range goes on."""
        found = np.interp(given, knots, there)
        for end, inner, goes_on in ((0, 1, self.open_low), (-1, -2, self.open_high)):
            if goes_on:
                slope = (there[end] - there[inner]) / (knots[end] - knots[inner])
                beyond = given < knots[0] if end == 0 else given > knots[-1]
                found = np.where(beyond, there[end] + slope * (given - knots[end]), found)
        return found

    def value_of(self, scores: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """As `value`, of tensors and with gradients, but whole numbers are not rounded."""
        knots, values = self._knots
        lowest, highest = self.scores[0], self.scores[-1]
        clamped = scores.clamp(-torch.inf if self.open_low else lowest, torch.inf if self.open_high else highest)
        upper = torch.searchsorted(knots, clamped.detach().contiguous()).clamp(1, len(knots) - 1)
        part = (clamped - knots[upper - 1]) / (knots[upper] - knots[upper - 1])
        return values[upper - 1] + part * (values[upper] - values[upper - 1])

    @cached_property
    def _knots(self) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
        return torch.tensor(self.scores), torch.tensor(self.values)

    @cached_property
    def spread(self) -> float:
        """The standard deviation of the values in the training part."""
        return float(self.moments(np.zeros(1), np.ones(1))[1][0])

    def moments(
        self, mean: Float[NDArray, "*batch"], stddev: Float[NDArray, "*batch"]
    ) -> tuple[Float[NDArray, "*batch"], Float[NDArray, "*batch"]]:
        """Mean and standard deviation of the values where the scores are Gaussian, by quadrature."""
        weights, first, second = np.exp(-(NODES**2) / 2), np.zeros_like(mean), np.zeros_like(mean)
        middle = self.value(mean)
        for node, weight in zip(NODES, weights / weights.sum(), strict=True):
            away = self.value(mean + node * stddev) - middle
            first += weight * away
            second += weight * away**2
        return middle + first, np.sqrt(np.maximum(second - first**2, 0.0))


def _farthest(knots: Float[NDArray, " K"], scores: Float[NDArray, " K"], end: int) -> float:
    """The value at the farthest score, on the straight line through the last unit of scores."""
    sign = 1 if end else -1
    inner = float(np.clip(scores[end] - sign, scores.min(), scores.max()))
    slope = (knots[end] - np.interp(inner, scores, knots)) / (scores[end] - inner)
    return float(knots[end] + slope * (sign * FARTHEST - scores[end]))


def out_of_range(values: Float[NDArray, "*batch"], kind: str | None) -> tuple[Bool[NDArray, "*batch"], str]:
    """Which values cannot be of a kind, with the rounding of packed files allowed for, and what was expected."""
    low, high = RANGES[kind] if kind else (None, None)
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    slack = 1e-6 * np.nanmax(np.abs(values), initial=0.0)
    wrong = (values < low - slack) | (values > high + slack)
    whole = "whole numbers" if kind == "counts" else "numbers"
    return wrong, f"{whole} of at least {low:g}" if np.isinf(high) else f"{whole} from {low:g} to {high:g}"


def with_found(columns: Columns, values: Float[NDArray, "R C"]) -> tuple[Columns, tuple[str, ...]]:
    """The columns with those of the values among `nonnegative` that are never negative and often 0, and their names."""
    kinds = zip(columns.values, columns.kinds, columns.is_circular, values.T, strict=True)
    found = tuple(
        name
        for name, kind, turns, column in kinds
        if not (kind or turns or out_of_range(column, "nonnegative")[0].any())
        and (column <= 0).sum() > MANY_ZEROS * max(LEAST_KNOWN, np.isfinite(column).sum())
    )
    return replace(columns, nonnegative=(*columns.nonnegative, *found)), found


def with_kinds(reports: Reports, columns: Columns) -> Reports:
    """The reports with the kinds of values of an earlier fit; kinds that only their table suggests are ignored.

    Raises:
        ValueError: other kinds were declared.
    """
    for kind in RANGES:
        own, got = getattr(columns, kind), getattr(reports.columns, kind)
        if not {*got} - {*reports.found} <= {*own}:
            raise ValueError(f"fit: the model was fitted to {kind} {own}, got {got}; name the same, or fit anew")
    kinds = {kind: getattr(columns, kind) for kind in RANGES}
    return replace(reports, columns=replace(reports.columns, **kinds))


def kinds_in_words(reports: Reports) -> str:
    """Which values are not Gaussian, and how many of each lie at the ends of their range; empty where none is."""
    said = []
    for name, kind, column in zip(reports.columns.values, reports.columns.kinds, reports.values.T, strict=True):
        if kind:
            known = column[~np.isnan(column)]
            ends = [f"{(known == end).mean():.0%} are {end:g}" for end in RANGES[kind] if end in known]
            said.append(f"{name} ({', '.join([kind.replace('_', '-'), *ends])})")
    return f"not Gaussian: {', '.join(said)}" if said else ""


def gaussian_value(
    mean: Float[NDArray, "*#batch"], stddev: Float[NDArray, "*#batch"], score: Float[NDArray, "*#batch"] | float,
    circular: bool | Sequence[bool],
) -> Float[NDArray, "*batch"]:  # fmt: skip
    """The value this number of standard deviations from the mean; of a direction clockwise, see `turned`."""
    straight = mean + score * stddev
    if not np.any(circular):
        return straight
    return np.where(circular, (mean + turned(score, np.where(circular, stddev, 0.0))) % 360, straight)


def turned(score: Float[NDArray, "*#batch"] | float, stddev: Float[NDArray, "*#batch"]) -> Float[NDArray, "*batch"]:
    """The angle from the mean of a direction, degrees from -180 to 180, of a normal score.

    It is the quantile of the normal distribution that is wrapped around the circle, counted clockwise from the opposite
    of the mean: as large a share is below it as there is below the score. Found by bisection where the circle matters.
    """
    scores, spread = np.broadcast_arrays(np.asarray(score, np.float64), np.asarray(stddev, np.float64))
    away = np.array(np.clip(scores * spread, -180.0, 180.0))
    wide = spread > NARROW
    wanted, sigma = ndtr(np.abs(scores[wide])) - 0.5, np.minimum(spread[wide], UNIFORM)
    low, high = np.zeros_like(sigma), np.full_like(sigma, 180.0)
    for _ in range(24 if len(sigma) else 0):
        middle = (low + high) / 2
        share = sum(ndtr((middle + turn) / sigma) - ndtr(turn / sigma) for turn in range(-720, 721, 360))
        low, high = np.where(share < wanted, middle, low), np.where(share < wanted, high, middle)
    away[wide] = np.copysign((low + high) / 2, scores[wide])
    return away
