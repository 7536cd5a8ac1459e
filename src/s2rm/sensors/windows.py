"""From reports to episodes: what a model sees of sensors, and what is known of each query besides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.utils.data import Dataset

from s2rm.sensors.reports import Reports
from s2rm.views import Episode, Views

NEIGHBOURS = 12
"""sensors from whose last reports a guess is made"""
COVARIATE_NOISE = 0.3
"""standard deviations by which a sensor's covariates are off in a training batch, where there is noise"""
LEVEL_NOISE = 1.0
"""standard deviations by which all values of a training window are off, where there is noise; directions are not"""
LEAST_WINDOWS = 16
"""in an epoch; where fewer steps can begin one, each begins several, which differ in what they hide"""
MOST_TARGETS = 64
"""slots that a training window asks for; of more a random choice"""
MOST_SLOTS = 100_000
"""of the windows by which guesses are tuned, if need be, but eight windows"""
NUM_FEATURES = 7
"""of the context, beside what each channel has"""
AGEING = tuple(1 / (12 * 4**power) for power in range(7))
"""shares of the extent; as far as one of these a report is taken to lie away for each step of its age"""
TILT = (0.0, 1.0, 10.0)
"""how freely the plane through the nearest reports may tilt; 0 is level, their mean"""


@dataclass(frozen=True)
class Scaling:
    """From the user's units to a model's, and back. It is fitted once and travels with the model.

    C values become D channels: a direction two, its cosine and sine, any other one, standardised. Longitude and
    latitude become unit vectors, so that no meridian is an edge; planar coordinates fill a box of side 1 or less.
    """

    mean: tuple[float, ...]
    """of each value"""
    spread: tuple[float, ...]
    """standard deviation of each value"""
    circular: tuple[bool, ...]
    """whether a value is a direction in degrees"""
    covariate_mean: tuple[float, ...]
    covariate_spread: tuple[float, ...]
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
    """of each channel: as how far away a step of age counts in a guess, in the model's coordinates"""
    tilt: tuple[float, ...]
    """of each channel: how freely the plane of a guess tilts"""
    seasons: bool
    """whether the day of the year is known to the model: in less than a year it would tell one day from all others,
    and nothing of those that follow"""

    @classmethod
    def of(cls, reports: Reports) -> Scaling:
        """What these reports need."""
        values, covariates = reports.values.astype(np.float64), reports.covariates.astype(np.float64)
        low, high = reports.positions.min(0), reports.positions.max(0)
        made = cls(
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
        places = made.coordinates(np.unique(reports.positions, axis=0))
        middle = places.mean(0)
        extent = 2 * (places - middle).norm(dim=-1).max().item()
        extent = max(extent, 1e-6)
        return replace(
            made,
            middle=tuple(middle.tolist()),
            extent=extent,
            ageing=(extent * AGEING[1],) * made.num_channels,
            tilt=(TILT[0],) * made.num_channels,
        )

    def beyond(self, positions: NDArray[np.float64]) -> float:
        """How far the farthest position lies beyond twice the radius of those fitted to, 0 if none does: km on the
        globe, else in the user's units."""
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
        return 3 if self.globe else len(self.low)

    def coordinates(self, positions: NDArray[np.float64]) -> Float[Tensor, "*rows n"]:
        """Positions in the user's units as the model has them."""
        if not self.globe:
            return torch.from_numpy((positions - np.array(self.low)) / self.side).float()
        longitude, latitude = np.radians(np.moveaxis(positions, -1, 0))
        parts = (np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude))
        return torch.from_numpy(np.stack(parts, -1)).float()

    def channels(self, values: NDArray[np.float32]) -> Float[Tensor, "*rows D"]:
        """Values in the user's units as the model has them; NaN stays."""
        parts: list[NDArray[Any]] = []
        for column, circular in enumerate(self.circular):
            value = values[..., column].astype(np.float64)
            if circular:
                parts += [np.cos(np.radians(value)), np.sin(np.radians(value))]
            else:
                parts.append((value - self.mean[column]) / self.spread[column])
        return torch.from_numpy(np.stack(parts, -1)).float()

    def known(self, covariates: NDArray[np.float32]) -> Float[Tensor, "*rows F"]:
        """Covariates as the model has them; NaN stays."""
        scaled = (covariates - np.array(self.covariate_mean)) / np.array(self.covariate_spread)
        return torch.from_numpy(scaled).float()

    def units(self, mean: Tensor, stddev: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of channels, `(..., D)`, in the user's units, `(..., C)`.

        Of a direction: that of the mean vector, 0 to 360, and the standard deviation of a wrapped normal distribution
        with the same resultant length.
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


class Slots(NamedTuple):
    """Reports, or queries, step by step: T steps of A slots."""

    positions: Float[Tensor, "T A n"]
    channels: Float[Tensor, "T A D"]
    covariates: Float[Tensor, "T A F"]
    sensor: Int[Tensor, "T A"]
    """-1 where the slot is empty"""
    clock: Float[Tensor, "T 4"]
    """cosine and sine of the hour of the day and of the day of the year, or 0 where seasons are not known"""


IN_SLOTS = ("positions", "channels", "covariates", "sensor")


def clock(times: NDArray[Any]) -> Float[Tensor, "T 4"]:
    """Cosine and sine of the hour of the day and of the day of the year, UTC."""
    days = times.astype("datetime64[s]").astype(np.int64) / 86_400
    years = times.astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64) / 86_400
    angles = 2 * np.pi * np.stack([days % 1, (days - years) / 365.25])
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], -1).transpose(1, 0, 2).reshape(-1, 4)).float()


def slots(reports: Reports, scaling: Scaling) -> Slots:
    """The reports of each step side by side, as the model has them."""
    count = np.bincount(reports.step, minlength=reports.num_steps)
    before = np.repeat(np.cumsum(count) - count, count)
    shape = (reports.num_steps, max(1, int(count.max(initial=0))))
    step, slot = torch.from_numpy(reports.step), torch.from_numpy(np.arange(len(reports)) - before)

    def packed(rows: Tensor, empty: float) -> Tensor:
        made = rows.new_full((*shape, *rows.shape[1:]), empty)
        made[step, slot] = rows
        return made

    return Slots(
        packed(scaling.coordinates(reports.positions), 0.0),
        packed(scaling.channels(reports.values), float("nan")),
        packed(scaling.known(reports.covariates), float("nan")),
        packed(torch.from_numpy(reports.sensor), -1),
        clock(reports.times) * torch.tensor([1, 1, scaling.seasons, scaling.seasons]),
    )


def queries(positions: Tensor, covariates: Tensor, like: Slots) -> Slots:
    """The same queries, `(Q, n)` and `(Q, F)`, at each step."""
    steps, number = len(like.sensor), len(positions)
    return Slots(
        positions.expand(steps, -1, -1),
        like.channels.new_full((steps, number, like.channels.shape[-1]), float("nan")),
        covariates.expand(steps, -1, -1),
        torch.zeros(steps, number, dtype=torch.long),
        like.clock,
    )


def views_of(seen: Slots, shown: Bool[Tensor, "*batch A"]) -> Views:
    """Reports `(B, L, A, ...)` as views of the channels and the covariates.

    A report in which nothing is measured that the model knows is no view.
    """
    there = shown & (seen.sensor >= 0) & ~seen.channels.isnan().all(-1)
    return Views._unchecked(seen.positions, torch.cat([seen.channels, seen.covariates], -1), there)


def episode(
    seen: Slots,
    asked: Slots,
    starts: Int[Tensor, " B"],
    shown: Bool[Tensor, "B L A"],
    scaling: Scaling,
    day: int | None,
    first: int = 1,
    lag: Int[Tensor, " B"] | None = None,
    slots_asked: Int[Tensor, " Q"] | None = None,
    level: Float[Tensor, "B D"] | None = None,
) -> Episode:
    """Windows of L steps as an episode for a model that takes context and corrects.

    A view holds the channels and the covariates. Of a target the channels are to be predicted; its context is, per
    channel, the guess, what is known of it, and then features of the query as a whole.

    Args:
        seen: what was reported.
        asked: what is to be predicted, at the same steps.
        starts: where the windows begin.
        shown: which reports of the windows the model sees.
        scaling: of the reports; it sets the scales of distances and ages.
        day: steps a day, where the step divides it and a window is longer; else None.
        first: the first step of a window with targets.
        lag: 0 where the targets at a step are of that step, so that they are forecast; 1 where they are of the step
            before, the last that is seen, so that they are interpolated, and only those that are not seen are asked.
            Default: 0.
        slots_asked: ask for these slots only. Default: all.
        level: add this to all values of a window. Default: nothing.
    """
    length = shown.shape[1]
    lag = torch.zeros_like(starts) if lag is None else lag
    steps = starts[:, None] + torch.arange(length)
    reported = Slots(*(part[steps] for part in seen))
    targets = Slots(*(part[(steps - lag[:, None]).clamp(min=0)] for part in asked))
    if level is not None:
        reported, targets = (
            part._replace(channels=part.channels + level[:, None, None]) for part in (reported, targets)
        )
    views = views_of(reported, shown)
    told = views.mask.roll(1, 1) & (lag == 1)[:, None, None]
    if slots_asked is not None:
        targets = targets._replace(**{name: getattr(targets, name)[:, :, slots_asked] for name in IN_SLOTS})
        told = told[:, :, slots_asked]
    there = (targets.sensor >= 0) & (torch.arange(length)[:, None] >= first)
    wanted = torch.cat([targets.channels, torch.full_like(targets.covariates, torch.nan)], -1)
    there = there & ~targets.channels.isnan().all(-1)
    if asked is seen:
        there = there & ~told
    return Episode(
        views,
        Views._unchecked(targets.positions, wanted, there),
        context(reported, targets, views.mask, scaling, day, lag),
    )


def context_size(scaling: Scaling) -> int:
    """F, numbers of a query's context."""
    covariates = len(scaling.covariate_mean)
    return (4 + scaling.num_coordinates + covariates) * scaling.num_channels + 3 * covariates + NUM_FEATURES


def context(
    views: Slots,
    targets: Slots,
    shown: Bool[Tensor, "B L A"],
    scaling: Scaling,
    day: int | None,
    lag: Int[Tensor, " B"],
) -> Float[Tensor, "B L Q F"]:
    """What is known of each target at step t, which is of step t less the lag, from the reports shown before t.

    The *guess* of a channel is a weighted mean of the last reports of the nearest sensors: by inverse distance, where
    the older count as farther away, or a plane through them, which may tilt. By the same weights, the *change* is that
    of these sensors a day before, from the hour of the reports to the hour of the target; the *age* is the steps from
    the reports to the target; there follow whether there are reports, and how far off in place and covariates.
    """
    batch, length, _ = shown.shape
    present, index = views.sensor[shown].unique(return_inverse=True)
    number, channels = max(1, len(present)), views.channels.shape[-1]
    row, step, slot = shown.nonzero(as_tuple=True)
    reported = views.channels[row, step, slot]
    values = reported.new_zeros(batch, length, number, channels)
    when = torch.full((batch, length, number, channels), -1)
    places = reported.new_zeros(batch, length, number, views.positions.shape[-1])
    covariates = reported.new_zeros(number, views.covariates.shape[-1])
    covariates[index] = views.covariates[row, step, slot].nan_to_num()
    values[row, step, index] = reported.nan_to_num()
    when[row, step, index] = torch.where(reported.isnan(), -1, step[:, None])
    places[row, step, index] = views.positions[row, step, slot]
    last = when.cummax(1).values
    place = places.gather(1, last.amax(-1, keepdim=True).clamp(min=0).expand_as(places))

    def as_of(at: Int[Tensor, "B L"]) -> tuple[Tensor, Tensor]:
        """The last values `(B, L, S, D)` as of these steps, and when they were reported; -1 for never."""
        there = at.clamp(min=0)[:, :, None, None].expand_as(last)
        then = torch.where(at[:, :, None, None] < 0, -1, last.gather(1, there))
        return values.gather(1, then.clamp(min=0)), then

    now = torch.arange(length).expand(batch, -1)
    value, then = as_of(now - 1)
    origin = then.flatten(2).amax(-1)
    place = place.roll(1, 1)  # as of the step before
    # By differences, as products would lose what is small beside the Earth.
    distance = torch.cdist(targets.positions, place, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    if day is None:
        earlier = later = (value, torch.full_like(then, -1))
    else:
        earlier, later = as_of(torch.where(origin < day, -1, origin - day)), as_of(now - lag[:, None] - day)

    extent, described = scaling.extent, targets.covariates.nan_to_num()
    parts: list[list[Tensor]] = [[], [], [], [], [], []]
    nearest = torch.full_like(distance[..., 0], torch.inf)
    for channel in range(channels):
        moment = then[..., channel]
        age = moment.amax(-1, keepdim=True) - moment
        cost = distance + ((age * scaling.ageing[channel]) ** 2)[:, :, None]
        cost = torch.where((moment < 0)[:, :, None], torch.inf, cost)
        least, chosen = cost.topk(min(NEIGHBOURS, number), largest=False)
        closeness = 1 / (least + (1e-4 * extent) ** 2)
        away = (of(place, chosen) - targets.positions[..., None, :]) / extent
        weight = plane(closeness / closeness.sum(-1, keepdim=True).clamp(min=1e-12), away, scaling.tilt[channel])
        both = (earlier[1][..., channel] >= 0) & (later[1][..., channel] >= 0)
        change = both * (later[0][..., channel] - earlier[0][..., channel])
        since = (now - lag[:, None])[:, :, None] - moment
        told = of(torch.stack([value[..., channel], change, since], -1), chosen)
        guess, changed, old = (weight[..., None] * told).sum(-2, keepdim=True).unbind(-1)
        there = least[..., :1].isfinite()
        off = 16 * (weight[..., None] * away).sum(-2)
        unlike = there * ((weight[..., None] * covariates[chosen]).sum(-2) - described)
        for part, one in zip(
            parts, (guess, changed, old.clamp(min=0).log1p() / 3, there.float(), off, unlike), strict=True
        ):
            part.append(one)
        nearest = torch.minimum(nearest, least[..., 0])
    lead = now - lag[:, None] - origin
    found = nearest.isfinite()
    features = [
        torch.where(found, (1e-4 + torch.where(found, nearest, 1.0).sqrt() / extent).log(), 0.0),
        found.float(),
        (lead.float().log1p() / 3)[..., None].expand_as(nearest),
        *(targets.clock[:, :, None].expand(-1, -1, nearest.shape[2], -1).unbind(-1)),
    ]
    missing = targets.covariates.isnan().float()
    guesses, *others = (torch.cat(part, -1) for part in parts)
    # The guess is as long as a view, whose last entries are the covariates.
    guess = torch.cat([guesses, torch.zeros_like(missing)], -1)
    return torch.cat([guess, *others, described, missing, torch.stack(features, -1)], -1)


def of(kept: Float[Tensor, "B L S n"], chosen: Int[Tensor, "B L Q K"]) -> Float[Tensor, "B L Q K n"]:
    """What is kept of the sensors that are chosen for each query."""
    index = chosen.flatten(2)[..., None].expand(-1, -1, -1, kept.shape[-1])
    return kept.gather(2, index).unflatten(2, chosen.shape[2:])


def plane(
    weight: Float[Tensor, "*batch K"], away: Float[Tensor, "*batch K n"], tilt: float
) -> Float[Tensor, "*batch K"]:
    """The weights by which a plane through K values has its value at the origin, from those by which it is fitted.

    Locally weighted linear regression. The ridge on the slope is the mean square of the distances by `tilt`, so that
    far from all values the plane is level; with a tilt of 0 it is so everywhere.
    """
    if not tilt:
        return weight
    middle = (weight[..., None] * away).sum(-2)
    off = away - middle[..., None, :]
    spread = torch.einsum("...k,...kn,...km->...nm", weight, off, off)
    ridge = (weight * away.square().sum(-1)).sum(-1) / (away.shape[-1] * tilt) + 1e-12
    slope = torch.linalg.solve(spread + ridge[..., None, None] * torch.eye(away.shape[-1], dtype=away.dtype), middle)
    return weight * (1 - (off * slope[..., None, :]).sum(-1))


class Windows(Dataset[Episode]):
    """Training windows, indexed by keys `(rows, seed)`, at least one row for each step at which a window may begin.

    Most windows are blind from some step on, as a forecast is, half of these for the whole horizon, as else the
    farthest steps would hardly be learned; in most some sensors are silent throughout. Silent sensors and all reports
    after that step are still to be predicted, so that a model learns to forecast; in some windows the silent sensors
    are asked for the last step that is seen, so that it learns to fill gaps.

    Args:
        seen: the reports.
        length: L, steps of a window.
        horizon: steps of a window that may be blind.
        scaling, day: as for `episode`.
        noise: standard deviation by which each sensor's place is off in each batch, as are its covariates, so that a
            model cannot learn the sensors by heart; none if 0.
    """

    def __init__(self, seen: Slots, length: int, horizon: int, scaling: Scaling, day: int | None, noise: float = 0.0):
        if len(seen.sensor) < length:
            raise ValueError(
                f"windows: expected at least {length} steps of reports, got {len(seen.sensor)}; shorten the context or "
                "the horizon, or give a longer table"
            )
        self.seen, self.length, self.horizon, self.scaling, self.day = seen, length, horizon, scaling, day
        self.num_sensors, self.noise = int(seen.sensor.max()) + 1, noise

    def __len__(self) -> int:
        return max(LEAST_WINDOWS, self._num_starts)

    @property
    def _num_starts(self) -> int:
        return len(self.seen.sensor) - self.length + 1

    def __getitem__(self, key: tuple[list[int], int]) -> Episode:
        rows, seed = key
        generator = torch.Generator().manual_seed(seed)
        starts = torch.tensor(rows) % self._num_starts
        batch = len(rows)
        blind = torch.randint(2 * self.horizon, (batch,), generator=generator).clamp(max=self.horizon)
        origin = self.length - 1 - blind
        origin = torch.where(torch.rand(batch, generator=generator) < 0.3, self.length, origin)
        silent = 0.7 * torch.rand(batch, 1, generator=generator) * (torch.rand(batch, 1, generator=generator) < 0.7)
        # Half of the windows that are not blind interpolate, which needs silent sensors.
        lag = ((torch.rand(batch, generator=generator) < 0.5) & (origin == self.length)).long()
        silent = torch.where(lag[:, None] == 1, silent.clamp(min=0.2), silent)
        speaks = torch.rand(batch, self.num_sensors, generator=generator) >= silent
        seen = self._displaced(generator) if self.noise else self.seen
        sensor = seen.sensor[starts[:, None] + torch.arange(self.length)]
        shown = speaks.gather(1, sensor.clamp(min=0).flatten(1)).view_as(sensor)
        shown &= (torch.arange(self.length) <= origin[:, None])[..., None]
        few = sensor.shape[-1] <= MOST_TARGETS
        asked = None if few else torch.randperm(sensor.shape[-1], generator=generator)[:MOST_TARGETS]
        level = self._level(batch, generator) if self.noise else None
        return episode(seen, seen, starts, shown, self.scaling, self.day, self.length // 4, lag, asked, level)

    def _level(self, batch: int, generator: torch.Generator) -> Float[Tensor, "B D"]:
        """What is added to each channel in each window, so that a model learns no return to what was usual so far."""
        shifts = [scale for turns in self.scaling.circular for scale in ((0.0, 0.0) if turns else (LEVEL_NOISE,))]
        return torch.randn(batch, len(shifts), generator=generator) * torch.tensor(shifts)

    def _displaced(self, generator: torch.Generator) -> Slots:
        """The reports, with each sensor a little off its place throughout."""
        sensor = self.seen.sensor.clamp(min=0)

        def off(part: Tensor, spread: float) -> Tensor:
            return part + spread * torch.randn(self.num_sensors, part.shape[-1], generator=generator)[sensor]

        positions, covariates = off(self.seen.positions, self.noise), off(self.seen.covariates, COVARIATE_NOISE)
        return self.seen._replace(positions=positions, covariates=covariates)


def tuned(scaling: Scaling, seen: Slots, length: int, horizon: int, day: int | None) -> Scaling:
    """The scaling with those steps of age, and then planes, whose guesses come nearest to some training targets.

    A float's own report of last week tells more than another's of today, far away; of clouds it is not so.

    Args:
        scaling, seen, length, horizon, day: as for `Windows`.
    """
    channels, slots_a_window = scaling.num_channels, length * seen.sensor.shape[1]
    number = min(128, max(8, MOST_SLOTS // slots_a_window))
    for name, choices in (("ageing", tuple(scaling.extent * share for share in AGEING)), ("tilt", TILT)):
        errors = []
        for choice in choices:
            tried: dict[str, Any] = {name: (choice,) * channels}
            windows = Windows(seen, length, horizon, replace(scaling, **tried), day)
            made = windows[torch.linspace(0, len(windows) - 1, number).long().tolist(), 0]
            assert made.context is not None
            error = (made.targets.values - made.context[..., : made.targets.values.shape[-1]]).abs()
            errors.append(error[made.targets.mask][:, :channels].nanmean(0))
        best = torch.stack(errors).nan_to_num(torch.inf).argmin(0)
        chosen: dict[str, Any] = {name: tuple(choices[index] for index in best.tolist())}
        scaling = replace(scaling, **chosen)
    return scaling
