"""Weights by which the values of the nearest sensors make a value at another place: planes and kriging."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

NEIGHBOURS, NEAREST = 24, 12
"""sensors whose last values enter a first guess, and those of them that enter means and planes; kriging takes all"""
JITTER = 1e-4
"""what is added to the nugget, so that sensors at one place do no harm"""


class Neighbours(NamedTuple):
    """The K sensors that are nearest to each place, and what they last reported in one channel."""

    sensor: Int[Tensor, "B L P K"]
    squared: Float[Tensor, "B L P K"]
    """the squares of their distances, of which the ages of their reports are a part"""
    there: Bool[Tensor, "B L P K"]
    """whether there is one"""
    away: Float[Tensor, "B L P K m"]
    """how far they are off, with the ages as the last coordinate; 0 for none"""
    value: Float[Tensor, "B L P K"]
    """0 for none"""
    when: Int[Tensor, "B L P K"]

    def first(self, number: int) -> Neighbours:
        """The nearest of them."""
        return Neighbours(*(part[:, :, :, :number] for part in self))

    def level(self, extent: float) -> Float[Tensor, "B L P K"]:
        """Weights by the inverse squared distances."""
        closeness = 1 / (self.squared + (1e-4 * extent) ** 2)
        return closeness / closeness.sum(-1, keepdim=True).clamp(min=1e-12)

    def plane(self, level: Float[Tensor, "B L P K"], extent: float, tilt: float) -> Float[Tensor, "B L P K"]:
        """Weights of a plane."""
        return plane(level, self.away[..., :-1] / extent, tilt)

    def kriging(
        self, reach: float, nugget: float, smooth: bool
    ) -> tuple[Float[Tensor, "B L P K"], Float[Tensor, "B L P"]]:
        """Weights of kriging, and the variance that it states."""
        return kriging(self.away, self.there, reach, nugget, smooth)

    def weighed(self, weight: Float[Tensor, "B L P K"]) -> Float[Tensor, "B L P"]:
        """The weighted sum of the values, NaN where there is no neighbour."""
        return torch.where(self.there[..., 0], (weight * self.value).sum(-1), torch.nan)


def neighbours(
    ageing: float, last: Float[Tensor, "B L S"], when: Int[Tensor, "B L S"], places: Float[Tensor, "B L S n"],
    positions: Float[Tensor, "B L P n"], distance: Float[Tensor, "B L P S"],
) -> Neighbours:  # fmt: skip
    """The nearest sensors of each place.

    Args:
        ageing: the distance that counts as much as a step of age of a report.
        last, when, places: what each sensor last reported, the step, -1 for never, and where.
        positions: the places.
        distance: squared, infinite between a sensor and its own place.
    """
    age = (when.amax(-1, keepdim=True) - when) * ageing
    cost = torch.where((when < 0)[:, :, None], torch.inf, distance + (age**2)[:, :, None])
    # Not by min, so that an export with more sensors than neighbours has a fixed number of them.
    least, chosen = cost.topk(NEIGHBOURS if cost.shape[-1] >= NEIGHBOURS else cost.shape[-1], largest=False)
    there = least.isfinite()
    away = gathered(torch.cat([places, age[..., None]], -1), chosen)
    away[..., :-1] -= positions[..., None, :]
    value, then = (gathered(part[..., None], chosen)[..., 0] for part in (last, when))
    return Neighbours(
        chosen, least, there, torch.where(there[..., None], away, 0.0), torch.where(there, value, 0.0), then
    )


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
    # Those that are not there are put where nothing would be known of them.
    nowhere = 1e6 * reach * torch.arange(1.0, away.shape[-2] + 1, dtype=torch.float64)[:, None]
    dtype, away = away.dtype, torch.where(there[..., None], away.double(), nowhere)
    among = covariance(torch.cdist(away, away, compute_mode="donot_use_mm_for_euclid_dist"), reach, smooth)
    among = among + (nugget + JITTER) * torch.eye(away.shape[-2], dtype=away.dtype)
    towards = covariance(away.norm(dim=-1), reach, smooth)
    sides = torch.linalg.solve(among, torch.stack([towards, there.to(away.dtype)], -1))
    known, ones = sides.unbind(-1)
    shift = (1 - known.sum(-1)) / ones.sum(-1).clamp(min=1e-9)
    shift = torch.where(there.any(-1), shift, 1.0)
    weight = torch.where(there, known + shift[..., None] * ones, 0.0)
    variance = (1 + nugget - (weight * towards).sum(-1) + shift).clamp(min=1e-3)
    return weight.to(dtype), variance.to(dtype)


def gathered(kept: Shaped[Tensor, "B L S n"], chosen: Int[Tensor, "B L P K"]) -> Shaped[Tensor, "B L P K n"]:
    """The entries of the sensors that are chosen for each query."""
    index = chosen.flatten(2)[..., None].expand(-1, -1, -1, kept.shape[-1])
    return kept.gather(2, index).unflatten(2, chosen.shape[2:])
