"""Linear dynamics of the sensors that stay in place: what each will report, of all that was reported until now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from s2rm.sensors.first_guess.history import History
from s2rm.sensors.first_guess.outlook import Filter, apart, observed, sites
from s2rm.sensors.first_guess.state_space import Shrinkage, StateSpace, chosen, maximised

MOST_SITES, MOST_GROUPS = 40, 16
"""places of a group, whose dynamics are their own, and groups; of more places those that report most often are used"""
LEAST_STEPS, LEAST_REPORTS = 200, 50
"""the fewest steps of a table, and reports of a place, to which dynamics are fitted; of each channel half as many"""
MOST_STEPS, MOST_CELLS, JUDGED = 6_000, 8_000_000, 2_000
"""the most steps of a fit, entries of all of its covariances, of order 2 four times as many, and steps by which its
shrinkage is chosen; of more, the last ones are used"""
STAYS = 1e-3
"""a share of the extent, within which a sensor has not moved"""
FOLDS = 4
"""parts of the steps, each of which is forecast by dynamics fitted to the others while a guess is fitted"""

Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]


@dataclass(frozen=True)
class Dynamics:
    r"""A linear state-space model of each channel and group of neighbouring places.

    With $y$ what the sensors there report, as anomalies from what is usual at each place and part of the day,

    $$x_{t+1} = A (x_t, ..., x_{t-p+1}) + e_t, \quad e_t \sim N(0, Q), \quad y_t = x_t + n_t, \quad n_t \sim N(0, \nu)$$

    so that a Kalman filter gives the state of all places from whatever was reported, however many are silent. The order
    p is 1, or 2 where that makes the reports likelier: what rises goes on rising. Usual are
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
    known: tuple[tuple[bool, ...], ...]
    """whether enough was reported in the fit for that"""
    noise: Vector
    """the variance of what a sensor adds, of each channel and group, those of a channel in a row"""
    move: tuple[Matrix, ...]
    shock: tuple[Matrix, ...]
    start: tuple[Matrix, ...]
    """A, Q and the variance of states of which nothing is known, `[channel and group][place][place]`; of order 2 A and
    the last one have the places once more, of the step before"""
    without: tuple[int, int]
    """the steps to which it was not fitted"""


def filter_of(fits: Sequence[Dynamics]) -> Filter:
    """Fits of the same places, as tensors."""
    # Of what is of order 1 the state before has no part in the next.
    width = max(len(start) for start in fits[0].start)
    moves = [[pad(torch.tensor(move), (0, width - len(move[0]))) for move in one.move] for one in fits]
    starts = [[torch.block_diag(*[torch.tensor(start)] * (width // len(start))) for start in one.start] for one in fits]
    move, start = (torch.stack([torch.stack(rows) for rows in each]) for each in (moves, starts))
    parts = {name: torch.tensor([getattr(one, name) for one in fits]) for name in Filter._fields[2:-3]}
    parts["level"] = torch.where(torch.tensor([one.known for one in fits]), parts["level"], torch.nan)
    parts |= {"move": move, "shock": torch.tensor([one.shock for one in fits]), "start": start}
    return Filter(torch.tensor(fits[0].places), torch.tensor(fits[0].near), **parts)


def fitted(history: History, parts: int, extent: float, folds: bool = False) -> tuple[Dynamics, ...]:
    """The dynamics fitted to all steps; with `folds` also fits that leave out each of `FOLDS` parts in turn, which they
    then forecast like the future. Empty where no sensor stays in place for long enough."""
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
    count = rows.sensor[rows.step >= history.num_steps - MOST_STEPS].bincount(minlength=len(low))
    stays = ((high - low).abs().amax(-1) <= near) & (count >= LEAST_REPORTS)
    order = torch.where(stays, count, -1).argsort(descending=True, stable=True)
    places = low[order[: int(stays.sum())]]
    later = torch.ones(len(places), len(places), dtype=torch.bool).triu()
    again = apart(places, places).masked_fill(later, torch.inf)
    places = places[(again > 2 * near).all(-1)]
    if len(places):
        site = sites(history, history.last[-1:].amax(-1).long(), _at(places, near))
        places = places[site[site >= 0].bincount(minlength=len(places)) > 0]
    groups = 1
    while len(places) > groups * MOST_SITES and groups < MOST_GROUPS:
        groups *= 2
    return _grouped(places[: groups * min(MOST_SITES, len(places) // groups)], groups).unflatten(0, (groups, -1))


def _at(places: Float[Tensor, "K n"], near: float) -> Filter:
    """The places alone, for what is not fitted yet."""
    return Filter(places, torch.tensor(near), *[torch.empty(0)] * 8)


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
    site = sites(history, history.last[-1:].amax(-1).long(), _at(flat, near))
    until = torch.full((1, history.num_sensors), history.num_steps)
    values = observed(history, steps[None], until, site, len(flat))[0].double().numpy()
    values[(steps >= without[0]) & (steps < without[1])] = np.nan
    known = (~np.isnan(values)).sum(0) >= LEAST_REPORTS // 2
    values[:, ~known] = np.nan
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
    away = apart(places, places).numpy()
    alike = [np.exp(-each / max(np.median(each), 1e-12)) for each in away]
    rows = range(values.shape[1])
    shrinkages = shrinkages or [chosen(values[-JUDGED:, first], alike[0]) for first in rows[::groups]]
    near_by = np.stack([alike[row % groups] for row in rows])
    models = _fits(values.swapaxes(0, 1), near_by, [shrinkages[row // groups] for row in rows])
    fit = Dynamics(
        _plain(flat.numpy(), 9), near, _plain(usual), _plain(swing), _plain(level), _plain(share),
        tuple(map(tuple, known.tolist())), tuple(float(one.noise) for one in models),
        tuple(_plain(one.move) for one in models), tuple(_plain(one.shock) for one in models),
        tuple(_plain(one.start) for one in models), without,
    )  # fmt: skip
    return fit, shrinkages


def _fits(
    values: Float[NDArray, "R T N"], alike: Float[NDArray, "R N N"], shrinkages: Sequence[Shrinkage]
) -> list[StateSpace]:
    """The fit to each of R series, as many at once as fit into memory."""
    found: dict[int, StateSpace] = {}
    for order in {one.order for one in shrinkages}:
        rows = [row for row, one in enumerate(shrinkages) if one.order == order]
        many = max(1, MOST_CELLS // (values[0].size * values.shape[-1] * order**2))
        for some in (rows[start : start + many] for start in range(0, len(rows), many)):
            motion, shock = (np.array(part) for part in zip(*(shrinkages[row][:2] for row in some), strict=True))
            fits = maximised(values[some], alike[some], Shrinkage(motion, shock, order))
            found |= {row: StateSpace(*(np.asarray(part)[place] for part in fits)) for place, row in enumerate(some)}
    return [found[row] for row in range(len(shrinkages))]


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
