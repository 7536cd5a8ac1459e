"""Weights by which the values of the nearest sensors make a value at another place: planes and kriging."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NEIGHBOURS = 12
"""sensors whose last values enter a first guess"""
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


def kriging(
    away: Float[Tensor, "*batch K n"], there: Bool[Tensor, "*batch K"], reach: float, nugget: float
) -> tuple[Float[Tensor, "*batch K"], Float[Tensor, "*batch"]]:
    r"""The weights of ordinary kriging at the origin, and the variance that it states, relative to the sill.

    The covariance is $e^{-r / l}$ with $l$ the `reach`, and the `nugget` $\nu$ is the variance of what no neighbour
    shares. With $C_{ij} = e^{-|x_i - x_j| / l} + \nu \delta_{ij}$ and $c_i = e^{-|x_i| / l}$,

    $$w = C^{-1} (c + \mu 1), \quad \mu = \frac{1 - 1^\top C^{-1} c}{1^\top C^{-1} 1}, \quad
    \sigma^2 = 1 + \nu - w^\top c + \mu$$

    Args:
        away: positions relative to the query.
        there: which of the K values there are; the others weigh 0. Without any, the variance is $2 + \nu$.
        reach, nugget: of the covariance.
    """
    both = there[..., None] & there[..., None, :]
    within = torch.cdist(away, away, compute_mode="donot_use_mm_for_euclid_dist")
    same = torch.eye(away.shape[-2], dtype=away.dtype)
    covariance = torch.where(both, torch.exp(-within / reach), 0.0) + same * (nugget + JITTER + (~there[..., None]))
    towards = torch.where(there, torch.exp(-away.norm(dim=-1) / reach), 0.0)
    factor = torch.linalg.cholesky_ex(covariance).L
    sides = torch.cholesky_solve(torch.stack([towards, there.to(away.dtype)], -1), factor)
    known, ones = sides.unbind(-1)
    ones = torch.where(there, ones, 0.0)
    shift = (1 - known.sum(-1)) / ones.sum(-1).clamp(min=1e-9)
    shift = torch.where(there.any(-1), shift, 1.0)
    weight = torch.where(there, known + shift[..., None] * ones, 0.0)
    return weight, (1 + nugget - (weight * towards).sum(-1) + shift).clamp(min=1e-3)
