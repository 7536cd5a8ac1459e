"""Linear dynamics of the sensors that stay in place: what each will report, of all that was reported until now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from s2rm.sensors.history import History

MOST_SITES, LEAST_STEPS, LEAST_REPORTS = 64, 200, 50
"""the most places, those that report most often, and the fewest steps and reports of a place, of which dynamics are
fitted"""
EACH = 20
"""steps for each place at least: fitted to fewer, a month of hours of 64 buoys, dynamics made forecasts worse"""
MOST_STEPS, MOST_CELLS = 6_000, 8_000_000
"""of a fit, the latter steps times the square of the places; of more, the last steps are used"""
STAYS = 1e-3
"""a share of the extent, within which a sensor has not moved"""
ROUNDS, RIDGE, LEAST_NOISE = 5, 1e-2, 1e-4
"""of the fit: its rounds, how strongly the motion is drawn to that of each place alone, and the least variance"""
WARM = 24
"""steps of reports, at most, of which the state at an origin is found"""

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


class Filter(NamedTuple):
    """The dynamics of N places and D channels as tensors, one or several fits E."""

    places: Float[Tensor, "N n"]
    near: Float[Tensor, ""]
    usual: Float[Tensor, "E P D"]
    level: Float[Tensor, "E D N"]
    noise: Float[Tensor, "E D"]
    move: Float[Tensor, "E D N N"]
    shock: Float[Tensor, "E D N N"]
    start: Float[Tensor, "E D N N"]

    def of(self, fit: Int[Tensor, " B"]) -> Filter:
        """A fit for each of B windows."""
        return Filter(self.places, self.near, *(part[fit] for part in self[2:]))


@dataclass(frozen=True)
class Dynamics:
    r"""A linear state-space model of each channel at N places, fitted by expectation maximisation.

    With $y$ what the sensors there report, as anomalies from the `level` of each and from what is `usual` at that part
    of the day,

    $$x_{t+1} = A x_t + e_t, \quad e_t \sim N(0, Q), \quad y_t = x_t + n_t, \quad n_t \sim N(0, \nu)$$

    so that a Kalman filter gives the state of all places from whatever was reported, however many are silent.

    Source:
        Shumway and Stoffer 1982, "An approach to time series smoothing and forecasting using the EM algorithm". Ours
        are the draw of A to one memory for all places, and one noise for all.
    """

    places: Matrix
    """`[place][coordinate]`, in the model's coordinates"""
    near: float
    """the distance within which a sensor is at a place"""
    usual: Matrix
    """`[part of the day][channel]`"""
    level: Matrix
    """`[channel][place]`"""
    noise: Vector
    """the variance of what a sensor adds, of each channel"""
    move: tuple[Matrix, ...]
    shock: tuple[Matrix, ...]
    start: tuple[Matrix, ...]
    """A, Q and the variance of a state of which nothing is known, `[channel][place][place]`"""
    steps: tuple[int, int]
    """those to which it was fitted"""


def filter_of(fits: Sequence[Dynamics]) -> Filter:
    """Fits of the same places, as tensors."""
    parts = (torch.tensor([getattr(one, name) for one in fits]) for name in Filter._fields[2:])
    return Filter(torch.tensor(fits[0].places), torch.tensor(fits[0].near), *parts)


class Outlook(NamedTuple):
    """What the dynamics say will be reported at each place after each origin."""

    ahead: Float[Tensor, "B L H N D"]
    """after 0 to H - 1 steps, without what is usual"""
    usual: Float[Tensor, "B L P J D"]
    """what is usual at the times that are asked for"""
    leads: Int[Tensor, "B L P J"]
    site: Int[Tensor, "B S"]
    """the place of each sensor, -1 for none"""
    own: Int[Tensor, "B L P"]
    """the place of each query"""

    def of(self, site: Int[Tensor, "B L P *K"], channel: int) -> Float[Tensor, "B L P J *K"]:
        """What one channel will be at places; NaN where there is none."""
        several, count = site.ndim > self.own.ndim, self.ahead.shape[3]
        leads, usual, at = self.leads, self.usual[..., channel], site[:, :, :, None]
        if several:
            leads, usual = leads[..., None], usual[..., None]
        index = leads.clamp(max=self.ahead.shape[2] - 1) * count + at.clamp(min=0)
        flat = self.ahead[..., channel].flatten(2)
        found = flat.gather(2, index.flatten(2)).view_as(index)
        return torch.where(at >= 0, found + usual, torch.nan)


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
    usual = _at_parts(filter_.usual, history.part_of_day(steps, parts))
    values = values - filter_.level[:, None] - usual[..., None]
    states = _filtered(filter_, values, warm)
    ahead = [states]
    for _ in range(horizon):
        ahead.append(torch.einsum("bdnm,bldm->bldn", filter_.move, ahead[-1]))
    ahead = [part + filter_.level[:, None] for part in ahead]
    target = history.part_of_day(origin[..., None, None] + leads, parts)
    return Outlook(
        torch.stack(ahead, 2).transpose(-1, -2), _at_parts(filter_.usual, target), leads, site,
        torch.where(hidden, -1, own),
    )  # fmt: skip


def _at_parts(usual: Float[Tensor, "E P D"], part: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
    """What is usual at parts of the day, whose first axis is the windows."""
    each = usual.expand(part.shape[0], -1, -1)
    return each.gather(1, part.flatten(1)[..., None].expand(-1, -1, usual.shape[-1])).view(*part.shape, -1)


def _taken(of: Shaped[Tensor, "B S"], sensor: Int[Tensor, "B L P"]) -> Shaped[Tensor, "B L P"]:
    return of.gather(1, sensor.clamp(min=0).flatten(1)).view_as(sensor)


def _nearest(positions: Float[Tensor, "*batch n"], filter_: Filter) -> Int[Tensor, "*batch"]:
    """The place within reach of each position, -1 for none."""
    flat = positions.flatten(0, -2)
    away, nearest = torch.cdist(flat, filter_.places, compute_mode="donot_use_mm_for_euclid_dist").min(-1)
    return torch.where(away <= filter_.near, nearest, -1).view(positions.shape[:-1])


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


def _filtered(filter_: Filter, values: Float[Tensor, "B T D N"], warm: int) -> Float[Tensor, "B L D N"]:
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


def fitted(history: History, parts: int, extent: float, halves: bool = False) -> tuple[Dynamics, ...]:
    """The dynamics of all steps; with `halves` also those of the first and of the second half of them, each of which
    foretells the other half as it foretells what is to come. Empty where no sensor stays in place for long enough."""
    places = _places(history, STAYS * extent)
    if not len(places) or history.num_steps < max(LEAST_STEPS, EACH * len(places)):
        return ()
    end, half, near = history.num_steps, history.num_steps // 2, STAYS * extent
    spans = [(0, end), *[(0, half), (half, end)] * halves]
    return tuple(_fit(history, span, places, near, parts) for span in spans)


def _places(history: History, near: float) -> Float[Tensor, "N n"]:
    """The places of the sensors that have not moved and have reported most often, each once."""
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
    again = torch.cdist(places, places).masked_fill(later, torch.inf)
    return places[(again > 2 * near).all(-1)][:MOST_SITES]


def _fit(history: History, span: tuple[int, int], places: Float[Tensor, "N n"], near: float, parts: int) -> Dynamics:
    """The dynamics of some steps."""
    number = min(MOST_STEPS, max(LEAST_STEPS // 2, MOST_CELLS // len(places) ** 2))
    steps = torch.arange(max(span[0], span[1] - number), span[1])
    filter_ = Filter(places, torch.tensor(near), *[torch.empty(0)] * 6)
    latest = history.last[-1].amax(-1)
    site = torch.where(latest >= 0, _nearest(history.rows.positions[latest.clamp(min=0).long()], filter_), -1)
    until = torch.full((1, history.num_sensors), history.num_steps)
    values = _observed(history, steps[None], until, site[None], len(places))[0].double().numpy()
    part = history.part_of_day(steps, parts).numpy()
    level, usual = np.zeros(values.shape[1:]), np.zeros((parts, values.shape[1]))
    for _ in range(2):
        level += _mean(values - level - usual[part][..., None], (0,))
        for hour in range(parts):
            usual[hour] += _mean((values - level - usual[part][..., None])[part == hour], (0, 2))
    anomalies = values - level - usual[part][..., None]
    channels = [_maximised(anomalies[:, channel]) for channel in range(values.shape[1])]
    noise, move, shock, start = zip(*channels, strict=True)
    moving = {"move": move, "shock": shock, "start": start}
    return Dynamics(
        _plain(places.numpy()), near, _plain(usual), _plain(level), tuple(map(float, noise)), steps=span,
        **{name: tuple(map(_plain, part)) for name, part in moving.items()},
    )  # fmt: skip


def _mean(values: NDArray, axes: tuple[int, ...]) -> NDArray:
    """The mean of what is not NaN, 0 of nothing."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axes) / np.maximum(known.sum(axes), 1)


def _maximised(values: Float[NDArray, "T N"]) -> tuple[float, NDArray, NDArray, NDArray]:
    """Noise, A, Q and the variance at the start, by expectation maximisation."""
    known, count = ~np.isnan(values), values.shape[1]
    times, same = np.arange(len(values)), np.eye(count)
    whole = np.stack([
        np.interp(times, times[seen], column[seen]) if seen.any() else np.zeros(len(values))
        for column, seen in zip(values.T, known.T, strict=True)
    ], 1)  # fmt: skip
    start = whole.T @ whole / len(whole) + LEAST_NOISE * same
    noise = 0.01 * max(float(np.mean(start.diagonal())), LEAST_NOISE)
    moved = _moved(whole[:-1].T @ whole[:-1], whole[1:].T @ whole[:-1], whole[1:].T @ whole[1:], len(whole) - 1)
    for _ in range(ROUNDS):
        state, doubt, variance, last, lagged = _smoothed(values, known, noise, *moved, start)
        left = np.where(known, (values - state) ** 2 + doubt, 0)
        noise = max(float(left.sum() / max(known.sum(), 1)), LEAST_NOISE)
        before, after = state[:-1], state[1:]
        moved = _moved(
            before.T @ before + variance - last[1], after.T @ before + lagged, after.T @ after + variance - last[0],
            len(before),
        )  # fmt: skip
    return noise, *moved, start


def _moved(before: NDArray, across: NDArray, after: NDArray, number: int) -> tuple[NDArray, NDArray]:
    """A and Q, from sums of products of the states of a step, of a step and the one before, and of the next."""
    count = len(before)
    size = np.trace(before) / count
    ridge = RIDGE * size * np.eye(count)
    memory = np.trace(across) / max(np.trace(before), 1e-12)
    move = np.linalg.solve(before + ridge + 1e-9 * np.eye(count), (across + memory * ridge).T).T
    shock = (after - move @ across.T - across @ move.T + move @ before @ move.T) / number
    return move, (shock + shock.T) / 2 + LEAST_NOISE * np.eye(count)


def _smoothed(
    values: NDArray, known: NDArray, noise: float, move: NDArray, shock: NDArray, start: NDArray
) -> tuple[NDArray, NDArray, NDArray, tuple[NDArray, NDArray], NDArray]:
    """Of the states given all values: their means, the variances of each place, the sum of their covariances, that of
    the first and of the last one, and the sum of the covariances of each with the one before."""
    steps, count = values.shape
    states, variances = np.empty((steps, count)), np.empty((steps, count, count))
    expected, doubts = np.empty_like(states), np.empty_like(variances)
    state, variance = np.zeros(count), start
    for step in range(steps):
        if step:
            state, variance = move @ state, move @ variance @ move.T + shock
        expected[step], doubts[step] = state, variance
        seen = np.flatnonzero(known[step])
        if len(seen):
            towards = variance[:, seen]
            gain = np.linalg.solve(towards[seen] + noise * np.eye(len(seen)), towards.T).T
            state = state + gain @ (values[step, seen] - state[seen])
            variance = variance - gain @ towards.T
            variance = (variance + variance.T) / 2
        states[step], variances[step] = state, variance
    total, lagged, each = variance.copy(), np.zeros_like(variance), np.empty_like(states)
    last, each[-1] = variance, variance.diagonal()
    for step in range(steps - 2, -1, -1):
        back = np.linalg.solve(doubts[step + 1], move @ variances[step]).T
        lagged += variance @ back.T
        states[step] += back @ (states[step + 1] - expected[step + 1])
        variance = variances[step] + back @ (variance - doubts[step + 1]) @ back.T
        total += variance
        each[step] = variance.diagonal()
    return states, each, total, (variance, last), lagged


def _plain(matrix: NDArray) -> Matrix:
    """As it is kept, to six digits."""
    return tuple(tuple(float(f"{number:.6g}") for number in row) for row in matrix)
