"""A linear state-space model of a table of numbers with gaps, fitted by expectation maximisation and shrunk towards a
simpler one as strongly as values that are left out tell."""

from __future__ import annotations

from collections.abc import Iterator
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


class Shrinkage(NamedTuple):
    """How strongly a fit is shrunk towards a simpler one, and how far back it looks."""

    motion: float
    """of A, towards one memory for all: a ridge, in mean variances of the series"""
    shock: float
    """of Q: the share of it whose correlations follow from distances alone"""
    order: int = 1
    """p; of 2, a state goes on as it moved before"""


SHRINKAGES = tuple(Shrinkage(*each) for each in product((0.01, 0.1, 1.0, 10.0), (0.0, 0.3)))
"""the choices"""


class Known(NamedTuple):
    """What is known of a state and of those before it, M = p N numbers."""

    state: Float[NDArray, " M"]
    """its mean"""
    variance: Float[NDArray, "M M"]
    """its covariance"""


class StateSpace(NamedTuple):
    r"""$x_{t+1} = A (x_t, ..., x_{t-p+1}) + e_t$, $e_t \sim N(0, Q)$, $y_t = x_t + n_t$, $n_t \sim N(0, \nu)$, of N
    series."""

    noise: float
    """nu"""
    move: Float[NDArray, "N M"]
    """A"""
    shock: Float[NDArray, "N N"]
    """Q"""
    start: Float[NDArray, "M M"]
    """the variance of states of which nothing is known"""

    def carried(self, variance: Float[NDArray, "M M"]) -> Float[NDArray, "M M"]:
        """The covariance of the next state and those before it with a state and those before it."""
        return np.concatenate([self.move @ variance, variance[: len(variance) - len(self.move)]])

    def ahead(self, known: Known) -> Known:
        """What is known of the next state."""
        kept, across = len(known.state) - len(self.move), self.carried(known.variance)
        variance = np.concatenate([across @ self.move.T, across[:, :kept]], 1)
        variance[: len(self.move), : len(self.move)] += self.shock
        return Known(np.concatenate([self.move @ known.state, known.state[:kept]]), variance)


class Smoothed(NamedTuple):
    """What is known of each state from all values."""

    states: Float[NDArray, "T M"]
    """and of those before it"""
    variances: Float[NDArray, "T N"]
    total: Float[NDArray, "M M"]
    """the sum of the covariances of all states"""
    ends: tuple[Float[NDArray, "M M"], Float[NDArray, "M M"]]
    """those of the first and of the last one"""
    lagged: Float[NDArray, "M M"]
    """the sum of the covariances of each with the one before"""


def chosen(values: Float[NDArray, "T N"], alike: Float[NDArray, "N N"]) -> Shrinkage:
    """That by which each half of the steps foretells the other one best: of least geometric mean of the absolute errors
    at all `LEADS`. Of order 2 are the best of order 1 and one that is shrunk more strongly tried, and have to be better
    by `LEAST_GAIN`.

    The likelihood would favour what tells neighbours apart over what tells where all of them go.

    Args:
        values: NaN for those that are not known.
        alike: the correlation of shocks that follows from distances.
    """
    first, second = values[: len(values) // 2], values[len(values) // 2 :]

    def error(shrinkage: Shrinkage) -> float:
        pairs = (first, second), (second, first)
        logs = [np.log(errors_ahead(other, maximised(one, alike, shrinkage, TRIED))) for one, other in pairs]
        mean = float(np.mean(logs))
        return mean if np.isfinite(mean) else np.inf

    errors = {shrinkage: error(shrinkage) for shrinkage in SHRINKAGES}
    best = min(SHRINKAGES, key=errors.__getitem__)
    further = [best._replace(motion=factor * best.motion, order=2) for factor in (1, 10)]
    errors |= {shrinkage: error(shrinkage) + LEAST_GAIN for shrinkage in further}
    return min([best, *further], key=errors.__getitem__)


def errors_ahead(values: Float[NDArray, "T N"], model: StateSpace) -> Float[NDArray, " leads"]:
    """The mean absolute error of forecasts at each of `LEADS`, from all steps, next to nothing where there is no value;
    NaN is what is not known."""
    states, count, errors = np.stack([known.state for known in filtered(values, model)]), values.shape[1], []
    for lead in range(1, max(LEADS) + 1):
        states = np.concatenate([states @ model.move.T, states[:, : states.shape[1] - count]], 1)
        if lead in LEADS:
            off = np.abs(states[:-lead, :count] - values[lead:])
            errors.append(np.nansum(off) / max((~np.isnan(off)).sum(), 1))
    return np.maximum(errors, 1e-12)


def maximised(
    values: Float[NDArray, "T N"], alike: Float[NDArray, "N N"], shrinkage: Shrinkage, rounds: int = ROUNDS
) -> StateSpace:
    """A fit by expectation maximisation, from what is linear in time in the gaps; the arguments are those of `chosen`.

    Source:
        Shumway and Stoffer 1982, "An approach to time series smoothing and forecasting using the EM algorithm". Ours
        are that A and Q are shrunk towards simpler ones, one noise for all series, and that no mode grows.
    """
    known, count, order = ~np.isnan(values), values.shape[1], shrinkage.order
    times = np.arange(len(values))
    whole = np.stack([
        np.interp(times, times[seen], column[seen]) if seen.any() else np.zeros(len(values))
        for column, seen in zip(values.T, known.T, strict=True)
    ], 1)  # fmt: skip
    whole = np.concatenate([whole[order - 1 - back : len(whole) - back] for back in range(order)], 1)
    start = whole.T @ whole / len(whole) + LEAST_NOISE * np.eye(order * count)
    noise = 0.01 * max(float(np.mean(start.diagonal())), LEAST_NOISE)
    sums = whole[:-1].T @ whole[:-1], whole[1:].T @ whole[:-1], whole[1:].T @ whole[1:]
    found = StateSpace(noise, *_moved(*sums, len(whole) - 1, alike, shrinkage), start)
    for _ in range(rounds):
        state, variance, total, (first, last), lagged = smoothed(values, found)
        left = np.where(known, (values - state[:, :count]) ** 2 + variance, 0)
        noise = max(float(left.sum() / max(known.sum(), 1)), LEAST_NOISE)
        before, after = state[:-1], state[1:]
        sums = before.T @ before + total - last, after.T @ before + lagged, after.T @ after + total - first
        found = StateSpace(noise, *_moved(*sums, len(before), alike, shrinkage), start)
    return found._replace(move=steady(found.move))


def steady(move: Float[NDArray, "N M"]) -> Float[NDArray, "N M"]:
    """A whose forecasts do not grow without end: of all its modes, slower by a factor where one of them would."""
    count, size = move.shape
    radius = np.abs(np.linalg.eigvals(np.concatenate([move, np.eye(size - count, size)]))).max()
    return move / max(radius, 1.0) ** np.repeat(np.arange(1, size // count + 1), count)


def _moved(
    before: NDArray, across: NDArray, after: NDArray, number: int, alike: NDArray, shrinkage: Shrinkage
) -> tuple[NDArray, NDArray]:
    """A and Q, from sums of products of the states of a step, of the next and a step, and of the next, each with those
    before it."""
    count, size = len(alike), len(before)
    across, after = across[:count], after[:count, :count]
    ridge = shrinkage.motion * np.trace(before[:count, :count]) / count * np.eye(size)
    # The simpler one is one memory for all, of each step before.
    blocks = before.reshape(shrinkage.order, count, shrinkage.order, count).trace(axis1=1, axis2=3)
    shared = across.reshape(count, shrinkage.order, count).trace(axis1=0, axis2=2)
    memory = np.linalg.solve(blocks + 1e-12 * np.eye(shrinkage.order), shared)
    simple = np.kron(memory, np.eye(count))
    move = np.linalg.solve(before + ridge + 1e-9 * np.eye(size), (across + simple @ ridge).T).T
    shock = (after - move @ across.T - across @ move.T + move @ before @ move.T) / number
    each = np.sqrt(shock.diagonal().clip(0))
    shock = (1 - shrinkage.shock) * (shock + shock.T) / 2 + shrinkage.shock * alike * each * each[:, None]
    return move, shock + LEAST_NOISE * np.eye(count)


def filtered(values: Float[NDArray, "T N"], model: StateSpace) -> Iterator[Known]:
    """A Kalman filter: what is known after each step.

    Args:
        values: NaN for what is not known.
        model: the model.
    """
    known, before = ~np.isnan(values), None
    for step in range(len(values)):
        state, variance = model.ahead(before) if before else Known(np.zeros(len(model.start)), model.start)
        seen = np.flatnonzero(known[step])
        if len(seen):
            towards, off = variance[:, seen], values[step, seen] - state[seen]
            within = towards[seen] + model.noise * np.eye(len(seen))
            solved = np.linalg.solve(within, np.column_stack([off, towards.T]))
            state = state + towards @ solved[:, 0]
            variance = variance - towards @ solved[:, 1:]
            variance = (variance + variance.T) / 2
        before = Known(state, variance)
        yield before


def smoothed(values: Float[NDArray, "T N"], model: StateSpace) -> Smoothed:
    """A Kalman smoother; NaN is what is not known."""
    count = values.shape[1]
    past = list(filtered(values, model))
    states, each = np.empty((len(values), len(model.start))), np.empty_like(values)
    later, last = past[-1], past[-1].variance
    states[-1], each[-1] = later.state, last.diagonal()[:count]
    total, lagged = last.copy(), np.zeros_like(last)
    for step in range(len(values) - 2, -1, -1):
        expected, doubt = model.ahead(past[step])
        back = np.linalg.solve(doubt, model.carried(past[step].variance)).T
        lagged += later.variance @ back.T
        state = past[step].state + back @ (later.state - expected)
        later = Known(state, past[step].variance + back @ (later.variance - doubt) @ back.T)
        total += later.variance
        states[step], each[step] = state, later.variance.diagonal()[:count]
    return Smoothed(states, each, total, (later.variance, last), lagged)
