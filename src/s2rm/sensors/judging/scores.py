"""Scores of forecasts: errors, the continuous ranked probability score, and the coverage of intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from s2rm.sensors.judging.predictors import SensorPredictor
from s2rm.sensors.marginals import turned
from s2rm.sensors.reports import difference
from s2rm.sensors.settings import RANGES, Columns

Scored = Float[NDArray, "K Q C"]
BANDS = {"coverage80": 0.8, "coverage": 0.9}
"""the central intervals whose coverage is scored, by the score's name"""
LEVELS = tuple(((np.arange(99) + 0.5) / 99).tolist())
"""probabilities of the quantiles by which forecasts of values that are not Gaussian are scored, 1/2 in the middle"""


def gaussian_crps(error: Float[NDArray, "*batch"], stddev: Float[NDArray, "*batch"]) -> Float[NDArray, "*batch"]:
    r"""The continuous ranked probability score of a Gaussian; without spread, the absolute error.

    With $z$ the error in standard deviations $\sigma$, it is
    $\sigma \, (z (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt{\pi})$ (Gneiting and Raftery, 2007, equation 21).
    """
    z = np.divide(error, stddev, out=np.zeros_like(error), where=stddev > 0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.where(stddev > 0, stddev * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)), np.abs(error))


def case_scores(
    mean: Float[NDArray, "*batch C"], stddev: Float[NDArray, "*batch C"], truth: Float[NDArray, "*batch C"],
    circular: Bool[NDArray, " C"],
) -> dict[str, NDArray]:  # fmt: skip
    """Scores of each forecast and channel: `mae`, the absolute error, `rmse`, its square, `crps`, `coverage80` and
    `coverage`, 1 within the central 80 % and 90 % interval, else 0; NaN where the truth is missing. Arguments, and what
    is refused, as of `scores`."""
    known = ~np.isnan(truth)
    if not (np.isfinite(mean[known]).all() and (stddev[known] >= 0).all()):
        raise ValueError(
            "scores: expected a finite mean and a standard deviation of at least 0 wherever the truth is known, got "
            "others; a predictor must answer every query"
        )
    error = difference(mean.astype(np.float64), truth.astype(np.float64), circular)
    error, spread = np.where(known, error, 0.0), np.where(known, stddev, 0.0).astype(np.float64)
    each = {"mae": np.abs(error), "rmse": error**2, "crps": gaussian_crps(error, spread)}
    for name, share in BANDS.items():
        score = float(ndtri((1 + share) / 2))
        each[name] = np.abs(error) <= np.where(circular, turned(score, spread), score * spread)
    return {name: np.where(known, part, np.nan) for name, part in each.items()}


def members_of(
    predictor: SensorPredictor, mean: Scored, stddev: Scored, columns: Columns, asked: tuple[Any, ...]
) -> Float[NDArray, "K Q S N"]:
    """The quantiles of the forecasts of the S values that are not Gaussian, at the probabilities `LEVELS`."""
    shaped = [index for index, kind in enumerate(columns.kinds) if kind]
    if not shaped:
        return np.empty((*mean.shape[:2], 0, len(LEVELS)))
    if hasattr(predictor, "quantiles"):
        return np.moveaxis(predictor.quantiles(*asked, shares=LEVELS)[..., shaped], 0, -1)
    ends = [RANGES[columns.kinds[index] or ""] for index in shaped]
    low, high = (np.array(list(part), np.float64)[:, None] for part in zip(*ends, strict=True))
    made = mean[..., shaped, None] + stddev[..., shaped, None] * ndtri(LEVELS)
    return np.fmin(np.fmax(made, low), high)


def member_scores(members: Float[NDArray, "M S N"], truth: Float[NDArray, "M S"]) -> dict[str, NDArray]:
    """The scores of `case_scores` except `rmse`, from N quantiles of equal weight. The MAE is that of the median.

    The CRPS is that of the N quantiles as an ordered ensemble $x_i$, i from 1 (Laio and Tamea, 2007):
    $\\frac{2}{N^2} \\sum_i (x_i - y) (N [y < x_i] - i + 1/2)$. If several quantiles equal the truth, as with no rain,
    the truth has a range of ranks; the share of this range within the interval counts as covered.
    """
    number, known = members.shape[-1], ~np.isnan(truth)
    y = truth[..., None]
    weight = number * (y < members) - np.arange(number) - 0.5
    crps = 2 / number**2 * ((members - y) * weight).sum(-1)
    each = {"mae": np.abs(members[..., number // 2] - truth), "crps": crps}
    first, last = ((members < y).mean(-1), (members <= y).mean(-1))
    for name, share in BANDS.items():
        low, high = (1 - share) / 2, (1 + share) / 2
        within = (np.minimum(last, high) - np.maximum(first, low)).clip(0)
        outside = (first < low) | (first > high)
        each[name] = np.divide(within, last - first, out=1.0 - outside, where=last > first)
    return {name: np.where(known, part, np.nan) for name, part in each.items()}


def scores(mean: Scored, stddev: Scored, truth: Scored, circular: Bool[NDArray, " C"]) -> dict[str, NDArray]:
    """Scores of forecasts by lead and channel, over the queries whose truth is not missing.

    Args:
        mean, stddev, truth: in the user's units; the truth is NaN where missing.
        circular: which channels are directions in degrees; their errors are the shorter way round.

    Returns:
        `(K, C)` each, NaN where all truth is missing: `mae`, `rmse` and `crps` in the user's units; `coverage80` and
        `coverage`, the shares of the truth within the central 80 % and 90 % intervals; and `count`, the number of
        values that are not missing.

    Raises:
        ValueError: a forecast that is not finite where the truth is known, or a negative standard deviation.
    """
    return averages(case_scores(mean, stddev, truth, circular))


def averages(each: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """The scores `(K, C)` of cases `(K, Q, C)` that `case_scores` gave, as `scores` returns them."""
    count = (~np.isnan(each["mae"])).sum(1)
    means = {
        name: np.divide(np.nansum(part, 1), count, out=np.full(count.shape, np.nan), where=count > 0)
        for name, part in each.items()
    }
    return {**means, "rmse": np.sqrt(means["rmse"]), "count": count}
