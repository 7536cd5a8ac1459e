"""The first guess of every query, from the last reports of the nearest sensors, and the features that go with it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.sensors.scaling import Scaling, Slots, views_of
from s2rm.views import Episode

NEIGHBOURS = 12
"""sensors whose last reports enter a first guess"""
NUM_FEATURES = 7
"""context features of a query as a whole, beside those of each channel"""


def episode(
    seen: Slots, asked: Slots, starts: Int[Tensor, " B"], shown: Bool[Tensor, "B L A"], scaling: Scaling,
    day: int | None, first: int = 1, lag: Int[Tensor, " B"] | None = None,
    slots_asked: Int[Tensor, " Q"] | None = None, level: Float[Tensor, "B D"] | None = None,
) -> Episode:  # fmt: skip
    """Windows of L steps as an episode for a model that corrects a first guess.

    The values of a view are the channels and the covariates. The channels of a target are to be predicted; its context
    is that of `context`.

    Args:
        seen, asked: the reports, and the targets or queries at the same steps.
        starts: the step at which each window begins.
        shown: which reports of the windows the model sees.
        scaling: sets the scales of distance and age.
        day: steps a day, where the step divides it and a window is longer; else None.
        first: the first step of a window with targets.
        lag: 0 to forecast: the targets at a step are of that step. 1 to interpolate: they are of the step before, the
            last one that is seen, and only reports that are not shown are targets.
        slots_asked: the slots that are targets, by default all.
        level: a shift of all values of each window.
    """
    lag, window = torch.zeros_like(starts) if lag is None else lag, torch.arange(shown.shape[1])
    steps = starts[:, None] + window
    reported = Slots(*(part[steps] for part in seen))
    targets = Slots(*(part[(steps - lag[:, None]).clamp(min=0)] for part in asked))
    if level is not None:
        shift = level[:, None, None]
        reported, targets = (part._replace(channels=part.channels + shift) for part in (reported, targets))
    views = views_of(reported, shown)
    seen_there = views.mask.roll(1, 1) & (lag == 1)[:, None, None]
    if slots_asked is not None:
        targets = Slots._make([*(part[:, :, slots_asked] for part in targets[:-1]), targets.clock])
        seen_there = seen_there[:, :, slots_asked]
    wanted = window[:, None] >= first
    if asked is seen:
        wanted = wanted & ~seen_there
    queries = views_of(targets._replace(covariates=torch.full_like(targets.covariates, torch.nan)), wanted)
    return Episode(views, queries, context(reported, targets, views.mask, scaling, day, lag))


def context_size(scaling: Scaling) -> int:
    """F, the number of context features of a query."""
    covariates = len(scaling.covariate_mean)
    return (4 + scaling.num_coordinates + covariates) * scaling.num_channels + 3 * covariates + NUM_FEATURES


def context(
    views: Slots, targets: Slots, shown: Bool[Tensor, "B L A"], scaling: Scaling, day: int | None,
    lag: Int[Tensor, " B"],
) -> Float[Tensor, "B L Q F"]:  # fmt: skip
    r"""Context features of every query: what the observations before step t say about its value at step t - lag.

    The *first guess* of a channel at x is a weighted mean of the last values $y_i$ of the nearest sensors, those at the
    least $c_i$, with $a$ the channel's `ageing`, $\tau_i$ the age of a report against the latest, in steps, and
    $\varepsilon$ a small distance:

    $$g(x) = \sum_i w_i y_i, \quad w_i \propto \frac{1}{c_i + \varepsilon^2}, \quad
    c_i = |x - x_i|^2 + (a \tau_i)^2$$

    With a `tilt` above 0 the weights become those of a plane through these values. The same weights average the
    *change* of each sensor a day earlier, from the hour of its report to the hour of the target, and the *age*, the
    steps from the report to the target. There follow whether there is any report, and the offsets of the reports from
    the query in position and in covariates. Arguments as of `episode`, for the steps of each window.

    Returns:
        The first guesses of the D channels, zeros for the covariates, so that a guess is as long as a view; then per
        channel change, age, flag and offsets; then the query's own covariates and features.
    """
    last, now = _LastReports.of(views, shown), torch.arange(shown.shape[1]).expand(len(shown), -1)
    value, then = last.as_of(now - 1)
    before = last._replace(values=value, when=then, places=last.places.roll(1, 1))  # as of the step before
    origin, target = then.flatten(2).amax(-1), now - lag[:, None]
    change = last.daily_change(origin, target, day)
    # By differences, as products would lose small distances on the globe.
    distance = torch.cdist(targets.positions, before.places, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    described = targets.covariates.nan_to_num()
    query = (targets.positions, described, target, scaling)
    parts = [_channel(channel, before, change, distance, *query) for channel in range(then.shape[-1])]
    guesses, changes, ages, flags, offsets, unlike, costs = zip(*parts, strict=True)
    nearest, missing = torch.stack(costs).amin(0), targets.covariates.isnan().float()
    found = nearest.isfinite()
    features = [
        torch.where(found, (1e-4 + torch.where(found, nearest, 1.0).sqrt() / scaling.extent).log(), 0.0),
        found.float(),
        ((target - origin).float().log1p() / 3)[..., None].expand_as(nearest),
        *(targets.clock[:, :, None].expand(-1, -1, nearest.shape[2], -1).unbind(-1)),
    ]
    of_channels = [*changes, *ages, *flags, *offsets, *unlike]
    whole = [*guesses, torch.zeros_like(missing), *of_channels, described, missing, torch.stack(features, -1)]
    return torch.cat(whole, -1)


class _LastReports(NamedTuple):
    """The last reports of S sensors as of each step."""

    values: Float[Tensor, "B L S D"]
    """values at each step, 0 where nothing was reported"""
    when: Int[Tensor, "B L S D"]
    """the step of the last report at or before each step; -1 for none"""
    places: Float[Tensor, "B L S n"]
    """the last place at or before each step"""
    covariates: Float[Tensor, "S F"]

    @classmethod
    def of(cls, views: Slots, shown: Bool[Tensor, "B L A"]) -> _LastReports:
        present, index = views.sensor[shown].unique(return_inverse=True)
        number, channels = max(1, len(present)), views.channels.shape[-1]
        row, step, slot = shown.nonzero(as_tuple=True)
        reported = views.channels[row, step, slot]
        values = reported.new_zeros(*shown.shape[:2], number, channels)
        when = torch.full_like(values, -1, dtype=torch.long)
        places = reported.new_zeros(*shown.shape[:2], number, views.positions.shape[-1])
        covariates = reported.new_zeros(number, views.covariates.shape[-1])
        covariates[index] = views.covariates[row, step, slot].nan_to_num()
        values[row, step, index] = reported.nan_to_num()
        when[row, step, index] = torch.where(reported.isnan(), -1, step[:, None])
        places[row, step, index] = views.positions[row, step, slot]
        last = when.cummax(1).values
        places = places.gather(1, last.amax(-1, keepdim=True).clamp(min=0).expand_as(places))
        return cls(values, last, places, covariates)

    def as_of(self, at: Int[Tensor, "B L"]) -> tuple[Tensor, Tensor]:
        """The last values `(B, L, S, D)` as of these steps, and the steps at which they were reported, -1 for none."""
        index = at.clamp(min=0)[:, :, None, None].expand_as(self.when)
        then = torch.where(at[:, :, None, None] < 0, -1, self.when.gather(1, index))
        return self.values.gather(1, then.clamp(min=0)), then

    def daily_change(self, origin: Int[Tensor, "B L"], target: Int[Tensor, "B L"], day: int | None) -> Tensor:
        """The change `(B, L, S, D)` a day earlier, between the hours of origin and target; 0 where it is not known."""
        if day is None:
            return torch.zeros_like(self.values)
        earlier, later = self.as_of(torch.where(origin < day, -1, origin - day)), self.as_of(target - day)
        return ((earlier[1] >= 0) & (later[1] >= 0)) * (later[0] - earlier[0])


def _channel(
    channel: int, before: _LastReports, change: Float[Tensor, "B L S D"], distance: Float[Tensor, "B L Q S"],
    positions: Float[Tensor, "B L Q n"], covariates: Float[Tensor, "B L Q F"], target: Int[Tensor, "B L"],
    scaling: Scaling,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Of one channel: guess, change, age, flag, offsets in position and covariates, and the least cost `(B, L, Q)`."""
    moment = before.when[..., channel]
    age = moment.amax(-1, keepdim=True) - moment
    cost = distance + ((age * scaling.ageing[channel]) ** 2)[:, :, None]
    cost = torch.where((moment < 0)[:, :, None], torch.inf, cost)
    # (B, L, Q, K): the K sensors that cost least
    least, chosen = cost.topk(min(NEIGHBOURS, cost.shape[-1]), largest=False)
    closeness = 1 / (least + (1e-4 * scaling.extent) ** 2)
    away = (_gathered(before.places, chosen) - positions[..., None, :]) / scaling.extent
    weight = plane(closeness / closeness.sum(-1, keepdim=True).clamp(min=1e-12), away, scaling.tilt[channel])
    since = target[:, :, None] - moment
    parts = _gathered(torch.stack([before.values[..., channel], change[..., channel], since], -1), chosen)
    guess, changed, old = (weight[..., None] * parts).sum(-2, keepdim=True).unbind(-1)
    there = least[..., :1].isfinite()
    offset = 16 * (weight[..., None] * away).sum(-2)
    unlike = there * ((weight[..., None] * before.covariates[chosen]).sum(-2) - covariates)
    return guess, changed, old.clamp(min=0).log1p() / 3, there.float(), offset, unlike, least[..., 0]


def _gathered(kept: Float[Tensor, "B L S n"], chosen: Int[Tensor, "B L Q K"]) -> Float[Tensor, "B L Q K n"]:
    """The entries of the sensors that are chosen for each query."""
    index = chosen.flatten(2)[..., None].expand(-1, -1, -1, kept.shape[-1])
    return kept.gather(2, index).unflatten(2, chosen.shape[2:])


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
