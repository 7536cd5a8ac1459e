"""Between the user's units and a model's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from s2rm.sensors.reports import Reports

AGEING = tuple(1 / (12 * 4**power) for power in range(7))
"""shares of the extent; the choices for the distance that counts as much as one step of age"""
TILT = (0.0, 1.0, 10.0)
"""the choices for how freely the plane through the nearest reports may tilt; 0 is level, their mean"""


@dataclass(frozen=True)
class Scaling:
    r"""From the user's units to a model's, and back. It is fitted once and saved with the model.

    C values become D channels: a direction becomes two, its cosine and sine, any other value one, standardised.
    Longitude $\lambda$ and latitude $\varphi$ become unit vectors, so that no meridian is an edge; planar coordinates
    fill a box of side 1 or less:

    $$x = (\cos\varphi \cos\lambda, \cos\varphi \sin\lambda, \sin\varphi) \quad \text{or} \quad
    x = (p - p_\text{low}) / \text{side}$$
    """

    mean: tuple[float, ...]
    """of each value"""
    spread: tuple[float, ...]
    """standard deviation of each value"""
    circular: tuple[bool, ...]
    """whether a value is a direction in degrees"""
    covariate_mean: tuple[float, ...]
    """of each covariate"""
    covariate_spread: tuple[float, ...]
    """standard deviation of each covariate"""
    globe: bool
    """whether positions are longitude and latitude in degrees"""
    low: tuple[float, ...]
    """planar: the corner of the box"""
    side: float
    """planar: its longest side"""
    middle: tuple[float, ...]
    """of the positions, in the model's coordinates"""
    extent: float
    """twice the largest distance of a position from the middle, in the model's coordinates"""
    ageing: tuple[float, ...]
    """of each channel: the distance that counts as much as one step of age in a first guess, in the model's
    coordinates"""
    tilt: tuple[float, ...]
    """of each channel: how freely the plane of a first guess tilts"""
    seasons: bool
    """whether the model is given the day of the year; in less than a year of data it would only identify each day"""

    @classmethod
    def of(cls, reports: Reports) -> Scaling:
        """The scaling that standardises these reports, before the first guess is tuned."""
        values, covariates = reports.values.astype(np.float64), reports.covariates.astype(np.float64)
        low, high = reports.positions.min(0), reports.positions.max(0)
        scaling = cls(
            mean=tuple(np.nanmean(values, 0).tolist()),
            spread=tuple(np.nanstd(values, 0).tolist()),
            circular=tuple(name in reports.columns.circular for name in reports.columns.values),
            covariate_mean=tuple(np.nanmean(covariates, 0).tolist()),
            covariate_spread=tuple(np.maximum(np.nanstd(covariates, 0), 1e-6).tolist()),
            globe=reports.columns.on_the_globe,
            low=tuple(low.tolist()),
            side=float(max((high - low).max(), 1e-9)),
            middle=(),
            extent=1.0,
            ageing=(),
            tilt=(),
            seasons=bool(reports.num_steps * reports.step_length > np.timedelta64(366, "D")),
        )
        places = scaling.coordinates(np.unique(reports.positions, axis=0))
        middle = places.mean(0)
        extent = max(2 * (places - middle).norm(dim=-1).max().item(), 1e-6)
        return replace(
            scaling,
            middle=tuple(middle.tolist()),
            extent=extent,
            ageing=(extent * AGEING[1],) * scaling.num_channels,
            tilt=(TILT[0],) * scaling.num_channels,
        )

    def beyond(self, positions: NDArray[np.float64]) -> float:
        """How far the farthest position lies outside twice the radius of the positions in the fit; 0 if none does.

        In km on the globe, else in the user's units.
        """
        away = (self.coordinates(positions) - torch.tensor(self.middle)).norm(dim=-1).max().item() - self.extent
        return max(0.0, away) * (6371.0 if self.globe else self.side)

    def spacing(self, positions: NDArray[np.float64]) -> float:
        """The median distance from a position to the nearest other, in the model's coordinates; 0 if there is one."""
        places = self.coordinates(positions).numpy()
        return float(np.median(cKDTree(places).query(places, 2)[0][:, 1])) if len(places) > 1 else 0.0

    @property
    def num_channels(self) -> int:
        """D."""
        return len(self.mean) + sum(self.circular)

    @property
    def num_coordinates(self) -> int:
        """n, in the model's coordinates."""
        return 3 if self.globe else len(self.low)

    def coordinates(self, positions: NDArray[np.float64]) -> Float[Tensor, "*rows n"]:
        """Positions in the user's units, `(..., n)`, in the model's coordinates."""
        if not self.globe:
            return torch.from_numpy((positions - np.array(self.low)) / self.side).float()
        longitude, latitude = np.radians(np.moveaxis(positions, -1, 0))
        parts = (np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude))
        return torch.from_numpy(np.stack(parts, -1)).float()

    def channels(self, values: NDArray[np.float32]) -> Float[Tensor, "*rows D"]:
        """Values in the user's units, `(..., C)`, as channels; NaN stays."""
        parts: list[NDArray[np.float64]] = []
        for column, circular in enumerate(self.circular):
            value = values[..., column].astype(np.float64)
            if circular:
                parts += [np.cos(np.radians(value)), np.sin(np.radians(value))]
            else:
                parts.append((value - self.mean[column]) / self.spread[column])
        return torch.from_numpy(np.stack(parts, -1)).float()

    def known(self, covariates: NDArray[np.float32]) -> Float[Tensor, "*rows F"]:
        """Covariates in the user's units, standardised; NaN stays."""
        scaled = (covariates - np.array(self.covariate_mean)) / np.array(self.covariate_spread)
        return torch.from_numpy(scaled).float()

    def units(self, mean: Tensor, stddev: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Mean and standard deviation of channels, `(..., D)`, in the user's units, `(..., C)`.

        The mean of a direction is that of the mean vector, in [0, 360); its standard deviation is that of a wrapped
        normal distribution with the same resultant length $\rho$, $\sigma = \sqrt{-2 \ln \rho}$.
        """
        means, spreads, channel = [], [], 0
        centre, width = (part.double().numpy() for part in (mean, stddev))
        for column, circular in enumerate(self.circular):
            if circular:
                cosine, sine = centre[..., channel], centre[..., channel + 1]
                power = cosine**2 + sine**2
                noise = width[..., channel] ** 2 + width[..., channel + 1] ** 2
                resultant = np.clip(np.sqrt(power / (power + noise)), 1e-6, 1 - 1e-9)
                means.append(np.degrees(np.arctan2(sine, cosine)) % 360)
                spreads.append(np.degrees(np.sqrt(-2 * np.log(resultant))))
            else:
                means.append(centre[..., channel] * self.spread[column] + self.mean[column])
                spreads.append(width[..., channel] * self.spread[column])
            channel += 1 + circular
        return np.stack(means, -1), np.stack(spreads, -1)
