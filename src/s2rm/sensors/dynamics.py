"""Linear dynamics of the sensors that stay in place: what each will report, of all that was reported until now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from s2rm.sensors.history import History
from s2rm.sensors.state_space import Shrinkage, chosen, maximised

MOST_SITES, MOST_GROUPS = 64, 16
"""places of a group, whose dynamics are their own, and groups; of more places those that report most often are used"""
LEAST_STEPS, LEAST_REPORTS = 200, 50
"""the fewest steps of a table, and reports of a place, to which dynamics are fitted"""
MOST_STEPS, MOST_CELLS, JUDGED = 6_000, 8_000_000, 2_000
"""the most steps of a fit, entries of all of its covariances, and steps by which its shrinkage is chosen; of more, the
last ones are used"""
STAYS = 1e-3
"""a share of the extent, within which a sensor has not moved"""
FOLDS = 4
"""parts of the steps, each of which is told by the dynamics of the others while a guess is fitted"""
WARM = 24
"""steps of reports, at most, of which the state at an origin is found"""

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


class Filter(NamedTuple):
    """The dynamics of K places, in G groups of N, and D channels as tensors, one or several fits E; C is D * G."""

    places: Float[Tensor, "K n"]
    near: Float[Tensor, ""]
    usual: Float[Tensor, "E P D"]
    swing: Float[Tensor, "E P D"]
    level: Float[Tensor, "E D K"]
    share: Float[Tensor, "E D K"]
    noise: Float[Tensor, "E C"]
    move: Float[Tensor, "E C N N"]
    shock: Float[Tensor, "E C N N"]
    start: Float[Tensor, "E C N N"]

    def of(self, fit: Int[Tensor, " B"]) -> Filter:
        """A fit for each of B windows."""
        return Filter(self.places, self.near, *(part[fit] for part in self[2:]))


@dataclass(frozen=True)
class Dynamics:
    r"""A linear state-space model of each channel and group of neighbouring places.

    With $y$ what the sensors there report, as anomalies from what is usual at each place and part of the day,

    $$x_{t+1} = A x_t + e_t, \quad e_t \sim N(0, Q), \quad y_t = x_t + n_t, \quad n_t \sim N(0, \nu)$$

    so that a Kalman filter gives the state of all places from whatever was reported, however many are silent. Usual are
    the `level` of the place, `usual` of the part of the day, and `swing` of the part of the day as far as the place has
    its `share` in it: the sea's days differ less than the land's.
    """

    places: Matrix
    """`[place][coordinate]`, in the model's coordinates, group by group"""
    near: float
    """the distance within which a sensor is at a place"""
    usual: Matrix
    swing: Matrix
    """`[part of the day][channel]`"""
    level: Matrix
    share: Matrix
    """`[channel][place]`"""
    noise: Vector
    """the variance of what a sensor adds, of each channel and group, those of a channel in a row"""
    move: tuple[Matrix, ...]
    shock: tuple[Matrix, ...]
    start: tuple[Matrix, ...]
    """A, Q and the variance of a state of which nothing is known, `[channel and group][place][place]`"""
    without: tuple[int, int]
    """the steps to which it was not fitted"""


def filter_of(fits: Sequence[Dynamics]) -> Filter:
    """Fits of the same places, as tensors."""
    parts = (torch.tensor([getattr(one, name) for one in fits]) for name in Filter._fields[2:])
    return Filter(torch.tensor(fits[0].places), torch.tensor(fits[0].near), *parts)


class Outlook(NamedTuple):
    """What the dynamics say will be reported at each place after each origin."""

    ahead: Float[Tensor, "B L H K D"]
    """after 0 to H - 1 steps, without what is usual at parts of the day"""
    usual: Float[Tensor, "B L P J D"]
    swing: Float[Tensor, "B L P J D"]
    """those at the times that are asked for"""
    share: Float[Tensor, "B K D"]
    leads: Int[Tensor, "B L P J"]
    site: Int[Tensor, "B S"]
    """the place of each sensor, -1 for none"""
    own: Int[Tensor, "B L P"]
    """the place of each query"""

    def of(self, site: Int[Tensor, "B L P *K"], channel: int) -> Float[Tensor, "B L P J *K"]:
        """What one channel will be at places; NaN where there is none."""
        several, count = site.ndim > self.own.ndim, self.ahead.shape[3]
        leads, usual, swing = self.leads, self.usual[..., channel], self.swing[..., channel]
        at = site[:, :, :, None]
        if several:
            leads, usual, swing = leads[..., None], usual[..., None], swing[..., None]
        index = leads.clamp(max=self.ahead.shape[2] - 1) * count + at.clamp(min=0)
        flat = self.ahead[..., channel].flatten(2)
        found = flat.gather(2, index.flatten(2)).view_as(index)
        share = self.share[..., channel].gather(1, at.clamp(min=0).flatten(1)).view_as(at)
        return torch.where(at >= 0, found + usual + swing * share, torch.nan)


def outlook(
    filter_: Filter, history: History, known: Int[Tensor, "B L S"], origin: Int[Tensor, "B L"],
    positions: Float[Tensor, "B L P n"], sensor: Int[Tensor, "B L P"], leads: Int[Tensor, "B L P J"],
    alone: Bool[Tensor, "B L P"] | bool, memory: int, horizon: int, displaced: bool,
) -> Outlook:  # fmt: skip
    """The outlook from reports of some steps, by a Kalman filter over them.

    Args:
        filter_: of each window, or of all.
        history: the reports.
        known, origin, positions, sensor, leads, alone: of `Asked`; the origins of a window are steps in a row.
        memory: the age from which a report no longer counts, in steps.
        horizon: the longest lead time; later ones are taken for it.
        displaced: whether positions are not those of the sensors.
    """
    warm, parts = min(memory, WARM), filter_.usual.shape[1]
    steps = origin[:, :1] - warm + 1 + torch.arange(warm + origin.shape[1] - 1)
    latest = history.as_of(known[:, -1]).amax(-1)
    there = history.rows.positions[latest.clamp(min=0)]
    site = torch.where(latest >= 0, _nearest(there, filter_), -1)
    # A sensor that is withheld is taken for one of which nothing was ever known.
    hidden = torch.as_tensor(alone) | ((sensor >= 0) & (_taken(known[:, -1], sensor) < 0))
    own = torch.where(sensor >= 0, _taken(site, sensor), -1)
    if not displaced:
        own = torch.where(own >= 0, own, _nearest(positions, filter_))
    values = _observed(history, steps, known[:, -1], site, len(filter_.places))
    part = history.part_of_day(steps, parts)
    usual, swing = (_at_parts(table, part)[..., None] for table in (filter_.usual, filter_.swing))
    values = values - filter_.level[:, None] - usual - swing * filter_.share[:, None]
    groups = filter_.noise.shape[1], filter_.move.shape[-1]
    states = _filtered(filter_, values.reshape(*values.shape[:2], *groups), warm)
    ahead = [states]
    for _ in range(horizon):
        ahead.append(torch.einsum("bdnm,bldm->bldn", filter_.move, ahead[-1]))
    coming = torch.stack(ahead, 2).view(*states.shape[:2], horizon + 1, *filter_.level.shape[1:])
    coming = (coming + filter_.level[:, None, None]).transpose(-1, -2)
    part = history.part_of_day(origin[..., None, None] + leads, parts)
    usual, swing = (_at_parts(table, part) for table in (filter_.usual, filter_.swing))
    share = filter_.share.expand(len(known), -1, -1).transpose(-1, -2)
    return Outlook(coming, usual, swing, share, leads, site, torch.where(hidden, -1, own))


def _at_parts(usual: Float[Tensor, "E P D"], part: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
    """What is usual at parts of the day, whose first axis is the windows."""
    each = usual.expand(part.shape[0], -1, -1)
    return each.gather(1, part.flatten(1)[..., None].expand(-1, -1, usual.shape[-1])).view(*part.shape, -1)


def _taken(of: Shaped[Tensor, "B S"], sensor: Int[Tensor, "B L P"]) -> Shaped[Tensor, "B L P"]:
    return of.gather(1, sensor.clamp(min=0).flatten(1)).view_as(sensor)


def _nearest(positions: Float[Tensor, "*batch n"], filter_: Filter) -> Int[Tensor, "*batch"]:
    """The place within reach of each position, -1 for none."""
    flat = positions.flatten(0, -2)
    away, nearest = _apart(flat, filter_.places).min(-1)
    return torch.where(away <= filter_.near, nearest, -1).view(positions.shape[:-1])


def _apart(one: Float[Tensor, "*batch K n"], other: Float[Tensor, "*batch L n"]) -> Float[Tensor, "*batch K L"]:
    """Distances, exact for neighbours on the globe too, whose unit vectors hardly differ."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def _observed(
    history: History, steps: Int[Tensor, "B T"], until: Int[Tensor, "B S"], site: Int[Tensor, "B S"], number: int
) -> Float[Tensor, "B T D N"]:
    """What was reported at each place and step, the mean of several sensors, NaN for nothing."""
    rows = history.last[(steps + 1).clamp(0, history.num_steps)].long()
    index = rows.clamp(min=0)
    new = (rows >= 0) & (history.rows.step[index] == steps[..., None, None])
    new = new & (steps[..., None] <= until[:, None])[..., None]
    values = history.rows.channels.gather(0, index.flatten(0, -2)).view(index.shape)
    at = (site[..., None] == torch.arange(number)).to(values.dtype)
    count = torch.einsum("btsd,bsn->btdn", new.to(values.dtype), at)
    total = torch.einsum("btsd,bsn->btdn", torch.where(new, values, 0.0), at)
    return total / torch.where(count > 0, count, torch.nan)


def _filtered(filter_: Filter, values: Float[Tensor, "B T C N"], warm: int) -> Float[Tensor, "B L C N"]:
    """The means of the states at the steps from `warm` on, by a Kalman filter; NaN is what was not reported."""
    heard, kept = ~values.isnan(), []
    values = values.nan_to_num()
    state = torch.zeros_like(values[:, 0])
    variance = filter_.start.expand(*state.shape, -1)
    same = torch.eye(state.shape[-1], dtype=state.dtype)
    for step in range(values.shape[1]):
        if step:
            state = (filter_.move @ state[..., None])[..., 0]
            variance = filter_.move @ variance @ filter_.move.mT + filter_.shock
        mask = heard[:, step].to(state.dtype)
        noise = torch.where(heard[:, step], filter_.noise[..., None], 1.0)
        within = variance * mask[..., None] * mask[..., None, :] + noise[..., None] * same
        off = mask * (values[:, step] - state)
        sides = torch.cat([off[..., None], mask[..., None] * variance], -1)
        solved = torch.cholesky_solve(sides, torch.linalg.cholesky_ex(within).L)
        gain = variance * mask[..., None, :]
        state = state + (gain @ solved[..., :1])[..., 0]
        variance = variance - gain @ solved[..., 1:]
        variance = (variance + variance.mT) / 2
        if step >= warm - 1:
            kept.append(state)
    return torch.stack(kept, 1)


def fitted(history: History, parts: int, extent: float, folds: bool = False) -> tuple[Dynamics, ...]:
    """The dynamics of all steps; with `folds` also those without each of `FOLDS` parts of them, which foretell that
    part as they foretell what is to come. Empty where no sensor stays in place for long enough."""
    places, end = _places(history, STAYS * extent), history.num_steps
    if not places.numel() or end < LEAST_STEPS:
        return ()
    ends = [end * part // FOLDS for part in range(FOLDS + 1)]
    found, shrinkages = [], None
    for without in [(0, 0), *list(pairwise(ends)) * folds]:
        one, shrinkages = _fit(history, without, places, STAYS * extent, parts, shrinkages)
        found.append(one)
    return tuple(found)


def _places(history: History, near: float) -> Float[Tensor, "G N n"]:
    """The places of the sensors that have not moved and have reported most often, in groups of neighbours."""
    rows = history.rows
    low = torch.full((history.num_sensors, rows.positions.shape[1]), torch.inf)
    high, index = -low, rows.sensor[:, None].expand_as(rows.positions)
    low = low.scatter_reduce(0, index, rows.positions, "amin")
    high = high.scatter_reduce(0, index, rows.positions, "amax")
    count = rows.sensor.bincount(minlength=len(low))
    stays = ((high - low).abs().amax(-1) <= near) & (count >= LEAST_REPORTS)
    order = torch.where(stays, count, -1).argsort(descending=True, stable=True)
    places = low[order[: int(stays.sum())]]
    later = torch.ones(len(places), len(places), dtype=torch.bool).triu()
    again = _apart(places, places).masked_fill(later, torch.inf)
    places = places[(again > 2 * near).all(-1)]
    groups = 1
    while len(places) > groups * MOST_SITES and groups < MOST_GROUPS:
        groups *= 2
    return _grouped(places[: groups * min(MOST_SITES, len(places) // groups)], groups).unflatten(0, (groups, -1))


def _grouped(places: Float[Tensor, "K n"], groups: int) -> Float[Tensor, "K n"]:
    """The places, neighbours in a row: halves along their widest axis, and halves of these."""
    if groups < 2:
        return places
    axis = (places.amax(0) - places.amin(0)).argmax()
    halves = places[places[:, axis].argsort(stable=True)].chunk(2)
    return torch.cat([_grouped(half, groups // 2) for half in halves])


def _fit(
    history: History, without: tuple[int, int], places: Float[Tensor, "G N n"], near: float, parts: int,
    shrinkages: Sequence[Shrinkage] | None,
) -> tuple[Dynamics, Sequence[Shrinkage]]:  # fmt: skip
    """The dynamics without some steps, and the shrinkage of each channel, which the first group chooses for all groups
    where it is not given."""
    groups, size, _ = places.shape
    flat = places.flatten(0, 1)
    number = min(MOST_STEPS, max(LEAST_STEPS // 2, MOST_CELLS // (groups * size**2)))
    # A gap that is longer than what is fitted to would only cost memory.
    steps = torch.arange(history.num_steps)
    steps = steps[(steps < without[0] + number // 4) | (steps >= without[1])]
    steps = steps[-number - min(number // 4, without[1] - without[0]) :]
    filter_ = Filter(flat, torch.tensor(near), *[torch.empty(0)] * 8)
    latest = history.last[-1].amax(-1)
    site = torch.where(latest >= 0, _nearest(history.rows.positions[latest.clamp(min=0).long()], filter_), -1)
    until = torch.full((1, history.num_sensors), history.num_steps)
    values = _observed(history, steps[None], until, site[None], len(flat))[0].double().numpy()
    values[(steps >= without[0]) & (steps < without[1])] = np.nan
    part = history.part_of_day(steps, parts).numpy()
    level, usual = np.zeros(values.shape[1:]), np.zeros((parts, values.shape[1]))
    for _ in range(2):
        level += _mean(values - level - usual[part][..., None], (0,))
        for hour in range(parts):
            usual[hour] += _mean((values - level - usual[part][..., None])[part == hour], (0, 2))
    values = values - level - usual[part][..., None]
    swing, share = zip(*(_swing(values[:, channel], part, parts) for channel in range(values.shape[1])), strict=True)
    swing, share = np.stack(swing, 1), np.stack(share)
    values = (values - swing[part][..., None] * share).reshape(len(steps), -1, size)
    away = _apart(places, places).numpy()
    alike = [np.exp(-each / max(np.median(each), 1e-12)) for each in away]
    rows = range(values.shape[1])
    shrinkages = shrinkages or [chosen(values[-JUDGED:, first], alike[0]) for first in rows[::groups]]
    models = [maximised(values[:, row], alike[row % groups], shrinkages[row // groups]) for row in rows]
    fit = Dynamics(
        _plain(flat.numpy(), 9), near, _plain(usual), _plain(swing), _plain(level), _plain(share),
        tuple(one.noise for one in models), tuple(_plain(one.move) for one in models),
        tuple(_plain(one.shock) for one in models), tuple(_plain(one.start) for one in models), without,
    )  # fmt: skip
    return fit, shrinkages


def _swing(
    values: Float[NDArray, "T K"], part: Int[NDArray, " T"], parts: int
) -> tuple[Float[NDArray, " P"], Float[NDArray, " K"]]:
    """That in which the days of places differ most from what is usual, and the share that each has in it, as far as
    both halves of the steps agree."""
    half = len(values) // 2
    whole, first, second = (
        np.stack([_mean(values[some][part[some] == hour], (0,)) for hour in range(parts)])
        for some in (slice(None), slice(half), slice(half, None))
    )
    agreed, size = 0.0, 1e-12
    for one, other in ((first, second), (second, first)):
        left, sizes, right = np.linalg.svd(one, full_matrices=False)
        agreed, size = agreed + left[:, 0] @ other @ right[0], size + sizes[0]
    left, sizes, right = np.linalg.svd(whole, full_matrices=False)
    same = max(agreed / size, 0.0)
    return left[:, 0] * sizes[0] * 2 * same / (1 + same), right[0]


def _mean(values: NDArray, axes: tuple[int, ...]) -> NDArray:
    """The mean of what is not NaN, 0 of nothing."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axes) / np.maximum(known.sum(axes), 1)


def _plain(matrix: NDArray, digits: int = 6) -> Matrix:
    """As it is kept; nine digits tell any two numbers of single precision apart."""
    return tuple(tuple(float(f"{number:.{digits}g}") for number in row) for row in matrix)
