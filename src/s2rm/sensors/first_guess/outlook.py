"""What linear dynamics say is to come at the sensors that stay in place, by a Kalman filter over what was reported."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from s2rm.sensors.first_guess.history import History

WARM = 24
"""steps of reports, at most, of which the state at an origin is found"""


class Filter(NamedTuple):
    """The dynamics of K places, in G groups of N, and D channels as tensors, one or several fits E; C is D * G, and M,
    the numbers of a state and those before it, is N or, of order 2, 2 N."""

    places: Float[Tensor, "K n"]
    near: Float[Tensor, ""]
    usual: Float[Tensor, "E P D"]
    swing: Float[Tensor, "E P D"]
    level: Float[Tensor, "E D K"]
    """NaN where it is not known"""
    share: Float[Tensor, "E D K"]
    noise: Float[Tensor, "E C"]
    move: Float[Tensor, "E C N M"]
    shock: Float[Tensor, "E C N N"]
    start: Float[Tensor, "E C M M"]

    def of(self, fit: Int[Tensor, " B"]) -> Filter:
        """A fit for each of B windows."""
        return Filter(self.places, self.near, *(part[fit] for part in self[2:]))


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
    site = sites(history, latest, filter_)
    # A sensor that is withheld is taken for one of which nothing was ever known.
    hidden = torch.as_tensor(alone) | ((sensor >= 0) & (_taken(known[:, -1], sensor) < 0))
    # One that has not reported for longer than is kept is like a place without a sensor.
    heard = (sensor >= 0) & (_taken(latest, sensor) >= 0)
    own = torch.where(heard, _taken(site, sensor), -1 if displaced else nearest(positions, filter_)[0])
    values = observed(history, steps, known[:, -1], site, len(filter_.places))
    part = history.part_of_day(steps, parts)
    usual, swing = (_at_parts(table, part)[..., None] for table in (filter_.usual, filter_.swing))
    values = values - filter_.level[:, None] - usual - swing * filter_.share[:, None]
    groups = filter_.move.shape[1:3]
    states = _filtered(filter_, values.reshape(*values.shape[:2], *groups), warm)
    ahead = [states[..., : groups[1]]]
    for _ in range(horizon):
        states = _then(torch.einsum("bdnm,bldm->bldn", filter_.move, states), states)
        ahead.append(states[..., : groups[1]])
    coming = torch.stack(ahead, 2).reshape(*states.shape[:2], horizon + 1, *filter_.level.shape[1:])
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


def sites(history: History, latest: Int[Tensor, "B S"], filter_: Filter) -> Int[Tensor, "B S"]:
    """The place of each sensor, from the row of its latest report; -1 for none.

    Of sensors that report over the same time the nearest alone has a place, and none of those that are equally near:
    what an instrument at another height, or a ship that passes, reports says little of the level of the place.
    """
    site, away = nearest(history.rows.positions[latest.clamp(min=0)], filter_)
    site, (begin, end) = torch.where(latest >= 0, site, -1), history.span
    same = (site[..., None] == site[..., None, :]) & (site >= 0)[..., None]
    number = torch.arange(history.num_sensors)
    others = same & (begin <= end[:, None]) & (begin[:, None] <= end) & (number != number[:, None])
    return torch.where((others & (away[..., None, :] <= away[..., None])).any(-1), -1, site)


def nearest(positions: Float[Tensor, "*batch n"], filter_: Filter) -> tuple[Tensor, Tensor]:
    """The place within reach of each position, -1 for none, and the distance of the nearest one."""
    away, closest = apart(positions.flatten(0, -2), filter_.places).min(-1)
    found = torch.where(away <= filter_.near, closest, -1)
    return found.view(positions.shape[:-1]), away.view(positions.shape[:-1])


def apart(one: Float[Tensor, "*batch K n"], other: Float[Tensor, "*batch L n"]) -> Float[Tensor, "*batch K L"]:
    """Distances, exact for neighbours on the globe too, whose unit vectors hardly differ."""
    return torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist")


def observed(
    history: History, steps: Int[Tensor, "B T"], until: Int[Tensor, "B S"], site: Int[Tensor, "B S"], number: int
) -> Float[Tensor, "B T D N"]:
    """What was reported at each place and step, NaN for nothing."""
    rows = history.last[(steps + 1).clamp(0, history.num_steps)].long()
    index = rows.clamp(min=0)
    new = (rows >= 0) & (history.rows.step[index] == steps[..., None, None])
    new = new & (steps[..., None] <= until[:, None])[..., None]
    values = history.rows.channels.gather(0, index.flatten(0, -2)).view(index.shape)
    at = (site[..., None] == torch.arange(number)).to(values.dtype)
    count = torch.einsum("btsd,bsn->btdn", new.to(values.dtype), at)
    total = torch.einsum("btsd,bsn->btdn", torch.where(new, values, 0.0), at)
    return total / torch.where(count > 0, count, torch.nan)


def _then(state: Float[Tensor, "*batch N"], before: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch M"]:
    """A state and those before it."""
    kept = before.shape[-1] - state.shape[-1]
    return torch.cat([state, before[..., :kept]], -1) if kept else state


def _filtered(filter_: Filter, values: Float[Tensor, "B T C N"], warm: int) -> Float[Tensor, "B L C M"]:
    """The means of the states and those before them at the steps from `warm` on, by a Kalman filter; NaN is what was
    not reported."""
    heard, kept, count = ~values.isnan(), [], values.shape[-1]
    values, move = values.nan_to_num(), filter_.move
    state = torch.zeros_like(filter_.start[..., 0]).expand(len(values), -1, -1)
    variance = filter_.start.expand(len(values), -1, -1, -1)
    same = torch.eye(count, dtype=state.dtype)
    for step in range(values.shape[1]):
        if step:
            state = _then((move @ state[..., None])[..., 0], state)
            across = move @ variance  # the covariances of what is next with what was
            ahead = across @ move.mT + filter_.shock
            if move.shape[-1] > count:
                before = across[..., : move.shape[-1] - count]
                across = torch.cat([before.mT, variance[..., :-count, :-count]], -1)
                variance = torch.cat([torch.cat([ahead, before], -1), across], -2)
            else:
                variance = ahead
        mask = heard[:, step].to(state.dtype)
        noise = torch.where(heard[:, step], filter_.noise[..., None], 1.0)
        within = variance[..., :count, :count] * mask[..., None] * mask[..., None, :] + noise[..., None] * same
        off = mask * (values[:, step] - state[..., :count])
        sides = torch.cat([off[..., None], mask[..., None] * variance[..., :count, :]], -1)
        solved = torch.cholesky_solve(sides, torch.linalg.cholesky_ex(within).L)
        gain = variance[..., :count] * mask[..., None, :]
        state = state + (gain @ solved[..., :1])[..., 0]
        variance = variance - gain @ solved[..., 1:]
        variance = (variance + variance.mT) / 2
        if step >= warm - 1:
            kept.append(state)
    return torch.stack(kept, 1)
