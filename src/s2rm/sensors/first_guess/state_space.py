"""A linear state-space model of a table of numbers with gaps, fitted by expectation maximisation and shrunk towards a
simpler one; held-out values determine how strongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

ROUNDS, LEAST_NOISE = 5, 1e-4
"""of the fit, and the least variance"""
TRIED, LEADS = 3, (1, 3, 6, 12, 24)
"""rounds of the fits by which the shrinkage is chosen, and the lead times of the forecasts that choose it, in steps"""
LEAST_GAIN = 0.01
"""a share of the error by which order 2 must lower it"""


Number = float | Float[NDArray, "*K"]
"""one, or one for each of K fits, which are found at once"""


class Shrinkage(NamedTuple):
    """How strongly a fit is shrunk towards a simpler one, and how far back it looks."""

    motion: Number
    """of A, towards one memory for all: a ridge, in mean variances of the series"""
    shock: Number
    """of Q: the share of it whose correlations follow from distances alone"""
    order: int = 1
    """p; of 2, a state goes on as it moved before"""


SHRINKAGES = tuple(Shrinkage(*each) for each in product((0.01, 0.1, 1.0, 10.0), (0.0, 0.3)))
"""the choices"""


class Known(NamedTuple):
    """What is known of a state and of those before it, M = p N numbers."""

    state: Float[NDArray, "*K M"]
    """its mean"""
    variance: Float[NDArray, "*K M M"]
    """its covariance"""


class StateSpace(NamedTuple):
    r"""$x_{t+1} = A (x_t, ..., x_{t-p+1}) + e_t$, $e_t \sim N(0, Q)$, $y_t = x_t + n_t$, $n_t \sim N(0, \nu)$, of N
    series; or K of them, each of the same series or of its own."""

    noise: Number
    """nu"""
    move: Float[NDArray, "*K N M"]
    """A"""
    shock: Float[NDArray, "*K N N"]
    """Q"""
    start: Float[NDArray, "*S M M"]
    """the variance of states of which nothing is known"""

    def carried(self, variance: Float[NDArray, "*K M M"]) -> Float[NDArray, "*K M M"]:
        """The covariance of the next state and those before it with a state and those before it."""
        kept = self.move.shape[-1] - self.move.shape[-2]
        return np.concatenate([self.move @ variance, variance[..., :kept, :]], -2)

    def ahead(self, known: Known) -> Known:
        """What is known of the next state."""
        count, across = self.move.shape[-2], self.carried(known.variance)
        variance = np.concatenate([across @ _turned(self.move), across[..., : across.shape[-1] - count]], -1)
        variance[..., :count, :count] += self.shock
        return Known(_next(self.move, known.state), variance)


class Smoothed(NamedTuple):
    """What is known of each state from all values."""

    states: Float[NDArray, "*K T M"]
    """and of those before it"""
    variances: Float[NDArray, "*K T N"]
    total: Float[NDArray, "*K M M"]
    """the sum of the covariances of all states"""
    ends: tuple[Float[NDArray, "*K M M"], Float[NDArray, "*K M M"]]
    """those of the first and of the last one"""
    lagged: Float[NDArray, "*K M M"]
    """the sum of the covariances of each with the one before"""


def chosen(values: Float[NDArray, "T N"], alike: Float[NDArray, "N N"]) -> Shrinkage:
    """The shrinkage with which each half of the steps forecasts the other one best: with the least geometric mean of
    the absolute errors at all `LEADS`. Of order 2 only the best one of order 1 and a stronger one are tried, which must
    be better by `LEAST_GAIN`.

    The likelihood would favour models that describe the differences between neighbours over models that forecast what
    they have in common.

    Args:
        values: NaN for those that are not known.
        alike: the correlation of shocks that follows from distances.
    """
    first, second = values[: len(values) // 2], values[len(values) // 2 :]

    def errors(tried: Sequence[Shrinkage]) -> list[float]:
        """Of shrinkages of one order, all at once."""
        motion, shock, orders = zip(*tried, strict=True)
        each = Shrinkage(np.array(motion), np.array(shock), orders[0])
        pairs = (first, second), (second, first)
        logs = [np.log(errors_ahead(other, maximised(one, alike, each, TRIED))) for one, other in pairs]
        return np.nan_to_num(np.mean(logs, (0, 2)), nan=np.inf).tolist()

    found = dict(zip(SHRINKAGES, errors(SHRINKAGES), strict=True))
    best = min(SHRINKAGES, key=found.__getitem__)
    further = [best._replace(motion=factor * best.motion, order=2) for factor in (1, 10)]
    found |= {shrinkage: error + LEAST_GAIN for shrinkage, error in zip(further, errors(further), strict=True)}
    return min([best, *further], key=found.__getitem__)


def errors_ahead(values: Float[NDArray, "T N"], model: StateSpace) -> Float[NDArray, "*K leads"]:
    """The mean absolute error of forecasts at each of `LEADS`, from all steps, next to nothing where there is no value;
    NaN is what is not known."""
    states, count, errors = np.stack([known.state for _, known in filtered(values, model)]), values.shape[1], []
    for lead in range(1, max(LEADS) + 1):
        states = _next(model.move, states)
        if lead in LEADS:
            later = values[lead:].reshape(-1, *[1] * (states.ndim - 2), count)
            off = np.abs(states[:-lead, ..., :count] - later)
            errors.append(np.nansum(off, (0, -1)) / max((~np.isnan(later)).sum(), 1))
    return np.maximum(np.stack(errors, -1), 1e-12)


def maximised(
    values: Float[NDArray, "*S T N"], alike: Float[NDArray, "*S N N"], shrinkage: Shrinkage, rounds: int = ROUNDS
) -> StateSpace:
    """A fit by expectation maximisation, from what is linear in time in the gaps, or as many as there are shrinkages,
    each to the same series or to its own; the arguments are those of `chosen`.

    Source:
        Shumway and Stoffer 1982, "An approach to time series smoothing and forecasting using the EM algorithm". Ours
        are that A and Q are shrunk towards simpler ones, one noise for all series, and that no mode grows.
    """
    known, (steps, count), order = ~np.isnan(values), values.shape[-2:], shrinkage.order
    whole, times = np.zeros_like(values), np.arange(steps)
    for index in np.ndindex(*values.shape[:-2], count):
        column = (*index[:-1], slice(None), index[-1])
        if known[column].any():
            whole[column] = np.interp(times, times[known[column]], values[column][known[column]])
    whole = np.concatenate([whole[..., order - 1 - back : steps - back, :] for back in range(order)], -1)
    number = whole.shape[-2]
    start = _turned(whole) @ whole / number + LEAST_NOISE * np.eye(order * count)
    spread = np.diagonal(start, axis1=-2, axis2=-1).mean(-1)
    noise = np.broadcast_to(0.01 * np.maximum(spread, LEAST_NOISE), np.shape(shrinkage.motion))
    found = StateSpace(noise, *_moved(*_sums(whole), number - 1, alike, shrinkage), start)
    for _ in range(rounds):
        state, variance, total, (first, last), lagged = smoothed(values, found)
        left = np.where(known, (values - state[..., :count]) ** 2 + variance, 0)
        noise = np.maximum(left.sum((-2, -1)) / np.maximum(known.sum((-2, -1)), 1), LEAST_NOISE)
        before, across, after = _sums(state)
        sums = before + total - last, across + lagged, after + total - first
        found = StateSpace(noise, *_moved(*sums, steps - 1, alike, shrinkage), start)
    return found._replace(move=steady(found.move))


def _sums(states: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Of products of the states of a step, of the next and a step, and of the next."""
    before, after = states[..., :-1, :], states[..., 1:, :]
    return _turned(before) @ before, _turned(after) @ before, _turned(after) @ after


def steady(move: Float[NDArray, "*K N M"]) -> Float[NDArray, "*K N M"]:
    """A whose forecasts do not grow without end: of all its modes, slower by a factor where one of them would."""
    count, size = move.shape[-2:]
    rest = np.broadcast_to(np.eye(size - count, size), (*move.shape[:-2], size - count, size))
    radius = np.abs(np.linalg.eigvals(np.concatenate([move, rest], -2))).max(-1)
    powers = np.repeat(np.arange(1, size // count + 1), count)
    return move / np.maximum(radius, 1.0)[..., None, None] ** powers


def _moved(
    before: NDArray, across: NDArray, after: NDArray, number: int, alike: NDArray, shrinkage: Shrinkage
) -> tuple[NDArray, NDArray]:
    """A and Q, from sums of products of the states of a step, of the next and a step, and of the next, each with those
    before it."""
    count, size, order = alike.shape[-1], before.shape[-1], shrinkage.order
    motion, share = (np.asarray(part)[..., None, None] for part in (shrinkage.motion, shrinkage.shock))
    across, after = across[..., :count, :], after[..., :count, :count]
    mean = np.trace(before[..., :count, :count], axis1=-2, axis2=-1)[..., None, None] / count
    ridge = motion * mean * np.eye(size)
    # The simpler one is one memory for all, of each step before.
    kinds = before.shape[:-2]
    blocks = before.reshape(*kinds, order, count, order, count).trace(axis1=-3, axis2=-1)
    shared = across.reshape(*kinds, count, order, count).trace(axis1=-3, axis2=-1)
    memory = np.linalg.solve(blocks + 1e-12 * np.eye(order), shared[..., None])
    simple = np.concatenate([each * np.eye(count) for each in np.moveaxis(memory, -2, 0)[..., None]], -1)
    move = _turned(np.linalg.solve(before + ridge + 1e-9 * np.eye(size), _turned(across + simple @ ridge)))
    mixed = move @ _turned(across)
    shock = (after - mixed - _turned(mixed) + move @ before @ _turned(move)) / number
    each = np.sqrt(np.diagonal(shock, axis1=-2, axis2=-1).clip(0))
    near = alike * each[..., None, :] * each[..., None]
    shock = (1 - share) * (shock + _turned(shock)) / 2 + share * near
    return move, shock + LEAST_NOISE * np.eye(count)


def _turned(matrix: NDArray) -> NDArray:
    """Transposed, each of them."""
    return np.swapaxes(matrix, -1, -2)


def _next(move: Float[NDArray, "*K N M"], state: Float[NDArray, "*T M"]) -> Float[NDArray, "*T M"]:
    """The next state, and those before it."""
    kept = move.shape[-1] - move.shape[-2]
    return np.concatenate([(move @ state[..., None])[..., 0], state[..., :kept]], -1)


def filtered(values: Float[NDArray, "*S T N"], model: StateSpace) -> Iterator[tuple[Known, Known]]:
    """A Kalman filter: what is known of each step before it, and after it.

    Args:
        values: NaN for what is not known.
        model: the model.
    """
    known, noise, size = ~np.isnan(values), np.asarray(model.noise)[..., None, None], model.start.shape[-1]
    nothing = np.zeros((*model.move.shape[:-2], size))
    now = Known(nothing, np.broadcast_to(model.start, (*nothing.shape, size)))
    for step in range(values.shape[-2]):
        state, variance = before = model.ahead(now) if step else now
        there = known[..., step, :]
        seen = np.flatnonzero(there.reshape(-1, there.shape[-1]).any(0))  # in one of the series at least
        if len(seen):
            here = there[..., seen]
            towards, off = variance[..., seen], np.where(here, values[..., step, seen] - state[..., seen], 0)
            if not here.all():
                towards = towards * here[..., None, :]
            within = towards[..., seen, :] * here[..., None] + noise * np.eye(len(seen))
            solved = np.linalg.solve(within, np.concatenate([off[..., None], _turned(towards)], -1))
            state = state + (towards @ solved[..., :1])[..., 0]
            variance = variance - towards @ solved[..., 1:]
            variance = (variance + _turned(variance)) / 2
        now = Known(state, variance)
        yield before, now


def smoothed(values: Float[NDArray, "*S T N"], model: StateSpace) -> Smoothed:
    """A Kalman smoother; NaN is what is not known."""
    (steps, count), kinds = values.shape[-2:], model.move.shape[:-2]
    expected, past = zip(*filtered(values, model), strict=True)
    states, each = np.empty((*kinds, steps, model.start.shape[-1])), np.empty((*kinds, steps, count))
    later, last = past[-1], past[-1].variance
    states[..., -1, :], each[..., -1, :] = later.state, np.diagonal(last, axis1=-2, axis2=-1)[..., :count]
    total, lagged = last.copy(), np.zeros_like(last)
    for step in range(steps - 2, -1, -1):
        mean, doubt = expected[step + 1]
        back = _turned(np.linalg.solve(doubt, model.carried(past[step].variance)))
        lagged += later.variance @ _turned(back)
        state = past[step].state + (back @ (later.state - mean)[..., None])[..., 0]
        later = Known(state, past[step].variance + back @ (later.variance - doubt) @ _turned(back))
        total += later.variance
        states[..., step, :] = state
        each[..., step, :] = np.diagonal(later.variance, axis1=-2, axis2=-1)[..., :count]
    return Smoothed(states, each, total, (later.variance, last), lagged)
