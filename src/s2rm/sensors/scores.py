"""Scores of forecasts with a spread: errors, the continuous ranked probability score and coverage."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Scored = Float[NDArray, "K Q C"]
HALF_WIDTH = float(ndtri(0.95))
"""of the central 90 % interval, whose coverage is scored, in standard deviations"""


def difference(
    values: Float[NDArray, "*#batch C"], others: Float[NDArray, "*#batch C"], circular: Bool[NDArray, " C"]
) -> Float[NDArray, "*#batch C"]:
    """`values - others`; of directions in degrees the shorter way round, in [-180, 180)."""
    error = values - others
    return np.where(circular, (error + 180) % 360 - 180, error)


def to_components(values: NDArray | np.float64, circular: bool) -> NDArray:
    """Numbers that can be averaged: directions as unit vectors `(..., 2)`, other values as `(..., 1)`."""
    radians = np.radians(values)
    return np.stack([np.cos(radians), np.sin(radians)] if circular else [values], -1)


def from_components(values: NDArray) -> NDArray:
    """The inverse of `to_components`; directions in [0, 360), whatever the length of the vectors."""
    if values.shape[-1] == 1:
        return values[..., 0]
    direction = np.degrees(np.arctan2(values[..., 1], values[..., 0])) % 360
    # A hair below zero rounds up to 360.
    return np.where(direction < 360, direction, 0.0)


def gaussian_crps(error: Float[NDArray, "*batch"], stddev: Float[NDArray, "*batch"]) -> Float[NDArray, "*batch"]:
    r"""The continuous ranked probability score of a Gaussian; without spread, the absolute error.

    With $z$ the error in standard deviations $\sigma$, it is
    $\sigma \, (z (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt{\pi})$ (Gneiting and Raftery, 2007, equation 21).

    """
    z = np.divide(error, stddev, out=np.zeros_like(error), where=stddev > 0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.where(stddev > 0, stddev * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)), np.abs(error))


def scores(mean: Scored, stddev: Scored, truth: Scored, circular: Bool[NDArray, " C"]) -> dict[str, NDArray]:
    """Scores of forecasts by lead and channel, over the queries whose truth is not missing.

    Args:
        mean, stddev: of the forecasts, in the user's units; the standard deviation is at least 0.
        truth: NaN where missing.
        circular: which channels are directions in degrees; their errors are the shorter way round.

    Returns:
        `(K, C)` each, NaN where all truth is missing: `mae`, `rmse` and `crps` in the user's units, `coverage`, the
        share of the truth within the central 90 % interval, and `count`, the number of values that are not missing.

    Raises:
        ValueError: a forecast that is not finite where the truth is known, or a negative standard deviation.
    """
    known = ~np.isnan(truth)
    if not (np.isfinite(mean[known]).all() and (stddev[known] >= 0).all()):
        raise ValueError(
            "scores: expected a finite mean and a standard deviation of at least 0 wherever the truth is known, got "
            "others; a predictor must answer every query"
        )
    error = difference(mean.astype(np.float64), truth.astype(np.float64), circular)
    error, spread = np.where(known, error, 0.0), np.where(known, stddev, 0.0).astype(np.float64)
    count = known.sum(1)

    def average(score: NDArray) -> NDArray:
        total = (score * known).sum(1)
        return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)

    return {
        "mae": average(np.abs(error)),
        "rmse": np.sqrt(average(error**2)),
        "crps": average(gaussian_crps(error, spread)),
        "coverage": average((np.abs(error) <= HALF_WIDTH * spread).astype(np.float64)),
        "count": count,
    }
