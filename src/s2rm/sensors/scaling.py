"""Reports in a model's units, side by side, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import ndtri
from torch import Tensor

from s2rm.sensors.known_ahead import KnownAhead
from s2rm.sensors.mapped import filled, moments, parts, tensor
from s2rm.sensors.marginals import Marginal, gaussian_value
from s2rm.sensors.reports import EARTH_RADIUS, Reports, from_components, on_sphere, to_components
from s2rm.sensors.settings import RANGES
from s2rm.views import Views

ONE_PLACE = 1e-6
"""an extent up to which single precision does not tell places apart"""
NOWHERE = 1e6
"""in the model's units, beyond all values"""
FAR = 10.0
"""standard deviations of a covariate beyond which a forecast is an extrapolation"""
SAMPLE = 100_000
"""numbers by which a median is found"""


@dataclass(frozen=True)
class Scaling:
    r"""From the user's units to a model's, and back. It is fitted once and saved with the model.

    C values become D channels: a direction becomes two, its cosine and sine, any other value one, standardised, or the
    score of its `Marginal` where it is not Gaussian.
    Longitude $\lambda$ and latitude $\varphi$ become unit vectors, so that no meridian is an edge; planar coordinates
    fill a box of side 1 or less:

    $$x = (\cos\varphi \cos\lambda, \cos\varphi \sin\lambda, \sin\varphi) \quad \text{or} \quad
    x = (p - p_\text{low}) / \text{side}$$
    """

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    """standard deviation of each value"""
    circular: tuple[bool, ...]
    covariate_mean: tuple[float, ...]
    covariate_spread: tuple[float, ...]
    """0 where the covariate is the same everywhere; it is then not used"""
    globe: bool
    low: tuple[float, ...]
    side: float
    """the corner of the box of planar positions, and its longest side, 1 where all are at one place"""
    middle: tuple[float, ...]
    """of the positions, in the model's coordinates"""
    extent: float
    """twice the largest distance of a position from the middle, in the model's coordinates; 1 where all are at one
    place, so that no other place is many times as far as the fit has seen"""
    seasons: bool
    """whether the model is given the day of the year; in less than a year of data it would only identify each day"""
    marginals: tuple[Marginal | None, ...] = ()
    """of each value, None where it is Gaussian or a direction; empty where all are"""
    ahead_mean: tuple[float, ...] = ()
    ahead_spread: tuple[float, ...] = ()
    """mean and standard deviation of each quantity that is known ahead, 1 where it is the same throughout"""
    flow: tuple[int, ...] = ()
    """the places among these quantities of those that carry the values along"""

    @classmethod
    def of(cls, reports: Reports) -> Scaling:
        """The scaling that standardises these reports."""
        values, covariates = moments(reports.values), moments(reports.covariates)
        low, high = reports.positions.min(0), reports.positions.max(0)
        # 0 where all are the same, whatever the rounding.
        differ = np.where(covariates.low == covariates.high, 0.0, covariates.spread)
        scaling = cls(
            mean=tuple(values.mean.tolist()), spread=tuple(values.spread.tolist()),
            covariate_mean=tuple(covariates.mean.tolist()), covariate_spread=tuple(differ.tolist()),
            circular=reports.columns.is_circular, globe=reports.columns.on_the_globe,
            low=tuple(low.tolist()), side=float((high - low).max()) or 1.0,
            middle=(), extent=1.0,
            seasons=bool(reports.num_steps * reports.step_length > np.timedelta64(366, "D")),
            marginals=marginals_of(reports), **_scaling_ahead(reports),
            flow=tuple(reports.columns.ahead.index(name) for name in reports.columns.flow),
        )  # fmt: skip
        places = scaling.coordinates(reports.places)
        middle = places.mean(0)
        extent = 2 * (places - middle).norm(dim=-1).max().item()
        extent = extent if extent > ONE_PLACE else 1.0
        return replace(scaling, middle=tuple(middle.tolist()), extent=extent)

    def beyond(self, positions: NDArray[np.float64]) -> float:
        """How far, in km or the user's units, a position lies outside twice the radius of those in the fit; else 0."""
        middle, farthest = torch.tensor(self.middle), 0.0
        for part in parts(len(positions), 3):
            away = (self.coordinates(positions[part]) - middle).norm(dim=-1).max().item()
            farthest = max(farthest, away - self.extent)
        return farthest * (EARTH_RADIUS if self.globe else self.side)

    def spacing(self, positions: NDArray[np.float64]) -> float:
        """The median distance from a position to the nearest other, in the model's coordinates; 0 if there is one."""
        places = np.unique(self.coordinates(positions).numpy().round(6), axis=0)  # a longitude has two names
        return float(np.median(cKDTree(places).query(places, 2)[0][:, 1])) if len(places) > 1 else 0.0

    @property
    def box(self) -> list[tuple[float, float]]:
        """The box of all positions of the fit, in the model's coordinates."""
        return [(each - self.extent / 2, each + self.extent / 2) for each in self.middle]

    @property
    def num_channels(self) -> int:
        """D."""
        return len(self.mean) + sum(self.circular)

    @property
    def num_coordinates(self) -> int:
        """n, in the model's coordinates."""
        return 3 if self.globe else len(self.low)

    def coordinates(self, positions: NDArray[np.float64]) -> Float[Tensor, "*rows n"]:
        """Positions in the user's units in the model's coordinates."""
        placed = on_sphere(positions) if self.globe else (positions - np.array(self.low)) / self.side
        return torch.from_numpy(placed).float()

    def channels(self, values: NDArray[np.float32]) -> Float[Tensor, "*rows D"]:
        """Values in the user's units, `(..., C)`, as channels; NaN stays."""
        columns, parts = np.moveaxis(values.astype(np.float64), -1, 0), []
        kinds = zip(columns, self.mean, self.spread, self.circular, self._marginals, strict=True)
        for value, mean, spread, turns, marginal in kinds:
            scaled = value if turns else (value - mean) / spread if marginal is None else marginal.score(value)
            parts.append(to_components(scaled, turns))
        return torch.from_numpy(np.concatenate(parts, -1)).float()

    def known(self, covariates: NDArray[np.float32]) -> Float[Tensor, "*rows F"]:
        """Covariates in the user's units, standardised; NaN stays. Those without spread are 0 everywhere."""
        used = self.used
        scaled = np.where(used, covariates - np.array(self.covariate_mean), 0 * covariates)
        return torch.from_numpy(scaled / np.where(used, self.covariate_spread, 1.0)).float()

    def unlike(self, covariates: NDArray[np.float32]) -> Bool[NDArray, " F"]:
        """Which covariates `(Q, F)` somewhere differ by more than `FAR` standard deviations from the fit's mean, or at
        all where the fit saw none differ."""
        mean = np.array(self.covariate_mean)
        least = np.where(self.used, FAR * np.array(self.covariate_spread), 1e-6 * np.abs(mean))
        return (np.abs(covariates - mean) > least).any(0)

    def unlike_ahead(self, known: KnownAhead | None) -> Bool[NDArray, " G"]:
        """Which quantities known ahead mostly differ by more than `FAR` standard deviations from the fit's mean."""
        number = len(self.ahead_mean)
        if known is None or not number:
            return np.zeros(number, dtype=bool)
        values = known.values.reshape(-1, number)
        away = np.abs(values[:: max(1, len(values) // SAMPLE)] - np.array(self.ahead_mean))
        return np.nanmedian(away, 0) > FAR * np.array(self.ahead_spread)

    @property
    def used(self) -> Bool[NDArray, " F"]:
        """Which covariates differ by more than rounding."""
        spread = np.array(self.covariate_spread)
        rounding = np.spacing(np.abs(np.array(self.covariate_mean)).astype(np.float32))
        return spread > rounding

    def units(self, mean: Tensor, stddev: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        r"""Mean and standard deviation of channels, `(..., D)`, in the user's units, `(..., C)`.

        The mean of a direction is that of the mean vector, in [0, 360); its standard deviation is that of a wrapped
        normal distribution with the same resultant length $\rho$, $\sigma = \sqrt{-2 \ln \rho}$.
        """
        parts = [self._unit(*each) for each in enumerate(zip(self._split(mean), self._split(stddev), strict=True))]
        means, spreads = zip(*parts, strict=True)
        return np.stack(means, -1), np.stack(spreads, -1)

    def quantile(self, mean: Tensor, stddev: Tensor, share: float) -> NDArray[np.float64]:
        """The values `(..., C)` below which the truth lies with this probability, of channels `(..., D)`; those of a
        direction clockwise from its opposite."""
        return self.value(mean, stddev, np.full(len(self.mean), ndtri(share)))

    def value(self, mean: Tensor, stddev: Tensor, scores: Float[NDArray, "*batch C"]) -> NDArray[np.float64]:
        """The values `(..., C)` that lie these numbers of standard deviations from the mean, of channels `(..., D)`: of
        the normal scores where a value is not Gaussian, clockwise for a direction."""
        parts = []
        for column, both in enumerate(zip(self._split(mean), self._split(stddev), strict=True)):
            marginal, score = self._marginals[column], scores[..., column]
            if marginal is None:
                parts.append(gaussian_value(*self._unit(column, both), score, self.circular[column]))
            else:
                parts.append(marginal.value(both[0][..., 0] + score * both[1][..., 0]))
        return np.stack(parts, -1)

    def _unit(self, column: int, both: tuple[NDArray, NDArray]) -> tuple[NDArray, NDArray]:
        """Mean and standard deviation of a value, `(...)`, in the user's units, of those of its channels."""
        centre, width = both
        marginal = self._marginals[column]
        if marginal is not None:
            return marginal.moments(centre[..., 0], width[..., 0])
        if self.circular[column]:
            power, noise = (centre**2).sum(-1), (width**2).sum(-1)
            resultant = np.clip(np.sqrt(power / (power + noise)), 1e-6, 1 - 1e-9)
            return from_components(centre), np.degrees(np.sqrt(-2 * np.log(resultant)))
        return centre[..., 0] * self.spread[column] + self.mean[column], width[..., 0] * self.spread[column]

    @property
    def of_channels(self) -> list[Marginal | None]:
        """The marginal of each channel, None where it is Gaussian or of a direction."""
        pairs = zip(self._marginals, self.circular, strict=True)
        return [marginal for marginal, turns in pairs for _ in range(1 + turns)]

    @property
    def limits(self) -> Float[Tensor, "2 D"]:
        """The channels' values below and above which they are censored, far from all where they are not."""
        pairs = [(-np.inf, np.inf) if one is None else one.limits for one in self.of_channels]
        return torch.tensor(pairs, dtype=torch.float32).T.clamp(-NOWHERE, NOWHERE)

    @property
    def width(self) -> tuple[float, ...]:
        """How far values lie apart: the standard deviation of each, or the range in the fit if it is not Gaussian."""
        # Without the open ends, but where those are all there is, as of values that are 0 or 1.
        inner = (None if one is None else one.values[1:-1] or one.values for one in self._marginals)
        return tuple(
            spread if one is None else max(spread, np.ptp(one)) for spread, one in zip(self.spread, inner, strict=True)
        )

    @property
    def known_range(self) -> Float[NDArray, "C 2"]:
        """The values between which the transform of each value was found; infinite where there is none."""
        nowhere = (-np.inf, np.inf)
        return np.array([nowhere if one is None else one.known_range for one in self._marginals])

    @property
    def _marginals(self) -> tuple[Marginal | None, ...]:
        return self.marginals or (None,) * len(self.mean)

    def _split(self, channels: Tensor) -> list[NDArray[np.float64]]:
        """The channels of each value."""
        return np.split(channels.double().numpy(), np.cumsum(np.array(self.circular) + 1)[:-1], -1)


def marginals_of(reports: Reports) -> tuple[Marginal | None, ...]:
    """The transform of each value that is declared not to be Gaussian; empty where none is."""
    kinds = reports.columns.kinds
    if not any(kinds):
        return ()
    return tuple(
        Marginal.of(column[~np.isnan(column)], *RANGES[kind], whole=kind == "counts") if kind else None
        for kind, column in zip(kinds, reports.values.T, strict=True)
    )


def _scaling_ahead(reports: Reports) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of what is known ahead over the steps of the reports."""
    if reports.ahead is None:
        return {}
    first = max(0, reports.ahead.offset(reports.start))
    values = reports.ahead.values[first : max(first + 1, reports.ahead.offset(reports.times[-1]) + 1)].astype(
        np.float64
    )
    for name, column in zip(reports.columns.ahead, np.moveaxis(values, -1, 0), strict=True):
        if np.isnan(column).all():
            raise ValueError(
                f"fit: expected {name!r}, known ahead, in the training part, got none; give its past too, or leave "
                "it out"
            )
    mean, spread = np.nanmean(values, (0, 1)), np.nanstd(values, (0, 1))
    return {"ahead_mean": tuple(mean.tolist()), "ahead_spread": tuple(np.where(spread > 0, spread, 1.0).tolist())}


class Slots(NamedTuple):
    """The reports of T steps, each step with A slots, of which some may be empty."""

    positions: Float[Tensor, "T A n"]
    channels: Float[Tensor, "T A D"]
    covariates: Float[Tensor, "T A F"]
    sensor: Int[Tensor, "T A"]
    """-1 where the slot is empty"""
    clock: Float[Tensor, "T 4"]
    """cosine and sine of the hour of the day and of the day of the year; the latter are 0 unless `Scaling.seasons`"""


def clock(times: NDArray) -> Float[Tensor, "T 4"]:
    """Cosine and sine of the hour of the day and of the day of the year, UTC."""
    days = times.astype("datetime64[s]").astype(np.int64) / 86_400
    years = times.astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64) / 86_400
    angles = 2 * np.pi * np.stack([days % 1, (days - years) / 365.25], -1)
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], -1)).flatten(1).float()


def slots(reports: Reports, scaling: Scaling) -> Slots:
    """The reports of each step side by side, in the model's units."""
    count = np.bincount(reports.step, minlength=reports.num_steps)
    before = np.cumsum(count) - count
    shape = (reports.num_steps, max(1, int(count.max(initial=0))))

    def pack(rows: Callable[[slice], NDArray], empty: float) -> Tensor:
        none = rows(slice(0, 0))
        packed = filled(reports.step, (*shape, *none.shape[1:]), none.dtype, empty)
        for part in reports.parts:
            step = reports.step[part]
            packed[step, np.arange(part.start, part.stop) - before[step]] = rows(part)
        return tensor(packed)

    return Slots(
        pack(lambda part: scaling.coordinates(reports.positions[part]).numpy(), 0.0),
        pack(lambda part: scaling.channels(reports.values[part]).numpy(), np.nan),
        pack(lambda part: scaling.known(reports.covariates[part]).numpy(), np.nan),
        pack(lambda part: reports.sensor[part], -1),
        clock(reports.times) * torch.tensor([1, 1, scaling.seasons, scaling.seasons]),
    )


def views_of(seen: Slots, shown: Bool[Tensor, "*batch A"]) -> Views:
    """Reports `(B, L, A, ...)` as views of channels and covariates; a report without any measured channel is none."""
    there = shown & (seen.sensor >= 0) & ~seen.channels.isnan().all(-1)
    return Views._unchecked(seen.positions, torch.cat([seen.channels, seen.covariates], -1), there)
