"""Weights by which the values of the nearest sensors make a value at another place: planes and kriging."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEIGHBOURS, NEAREST = 24, 12
"""sensors whose last values enter a first guess, and those of them that enter means and planes; kriging takes all"""
JITTER = 1e-4
"""what is added to the nugget, so that sensors at one place do no harm"""


def plane(
    weight: Float[Tensor, "*batch K"], away: Float[Tensor, "*batch K n"], tilt: float
) -> Float[Tensor, "*batch K"]:
    r"""The weights that give the value at the origin of a plane fitted to K values: locally weighted regression.

    With the weighted mean $m = \sum_i w_i x_i$ of the positions and $S = \sum_i w_i (x_i - m)(x_i - m)^\top$,

    $$w'_i = w_i \left(1 - (x_i - m)^\top (S + r I)^{-1} m\right)$$

    The ridge r is the weighted mean square of the distances divided by n and `tilt`, so that far from all values the
    plane is level; with a tilt of 0 it is level everywhere.

    The weights sum to 1 over the K values; the positions `away` are relative to the query.
    """
    if not tilt:
        return weight
    middle = (weight[..., None] * away).sum(-2)
    off = away - middle[..., None, :]
    spread = torch.einsum("...k,...kn,...km->...nm", weight, off, off)
    ridge = (weight * away.square().sum(-1)).sum(-1) / (away.shape[-1] * tilt) + 1e-12
    slope = torch.linalg.solve(spread + ridge[..., None, None] * torch.eye(away.shape[-1], dtype=away.dtype), middle)
    return weight * (1 - (off * slope[..., None, :]).sum(-1))


def covariance(distance: Float[Tensor, "*batch"], reach: float, smooth: bool) -> Float[Tensor, "*batch"]:
    r"""Matern's covariance k(r) relative to the sill, of smoothness 1/2 or, of a `smooth` quantity, 3/2.

    It is $e^{-r / l}$ with $l$ the `reach`, or $(1 + \sqrt 3 r / l) \, e^{-\sqrt 3 r / l}$. Air pressure is smooth,
    wind is not.
    """
    if not smooth:
        return torch.exp(-distance / reach)
    scaled = distance * (3**0.5 / reach)
    return (1 + scaled) * torch.exp(-scaled)


def kriging(
    away: Float[Tensor, "*batch K n"], there: Bool[Tensor, "*batch K"], reach: float, nugget: float,
    smooth: bool = False,
) -> tuple[Float[Tensor, "*batch K"], Float[Tensor, "*batch"]]:  # fmt: skip
    r"""The weights of ordinary kriging at the origin, and the variance that it states, relative to the sill.

    With the `covariance` k, and the `nugget` $\nu$ the variance of what no neighbour shares, let
    $C_{ij} = k(|x_i - x_j|) + \nu \delta_{ij}$ and $c_i = k(|x_i|)$; then

    $$w = C^{-1} (c + \mu 1), \quad \mu = \frac{1 - 1^\top C^{-1} c}{1^\top C^{-1} 1}, \quad
    \sigma^2 = 1 + \nu - w^\top c + \mu$$

    Args:
        away: positions relative to the query.
        there: which of the K values there are; the others weigh 0. Without any, the variance is $2 + \nu$.
        reach, nugget, smooth: of the covariance.
    """
    # In single precision, runtimes of an export would differ in the fifth digit where all places are alike.
    dtype, away = away.dtype, away.double()
    both = there[..., None] & there[..., None, :]
    within = torch.cdist(away, away, compute_mode="donot_use_mm_for_euclid_dist")
    same = torch.eye(away.shape[-2], dtype=away.dtype)
    among = torch.where(both, covariance(within, reach, smooth), 0.0) + same * (nugget + JITTER + (~there[..., None]))
    towards = torch.where(there, covariance(away.norm(dim=-1), reach, smooth), 0.0)
    factor = torch.linalg.cholesky_ex(among).L
    sides = torch.cholesky_solve(torch.stack([towards, there.to(away.dtype)], -1), factor)
    known, ones = sides.unbind(-1)
    ones = torch.where(there, ones, 0.0)
    shift = (1 - known.sum(-1)) / ones.sum(-1).clamp(min=1e-9)
    shift = torch.where(there.any(-1), shift, 1.0)
    weight = torch.where(there, known + shift[..., None] * ones, 0.0)
    variance = (1 + nugget - (weight * towards).sum(-1) + shift).clamp(min=1e-3)
    return weight.to(dtype), variance.to(dtype)
