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
TRIED = 3
"""rounds of the fits by which the shrinkage is chosen"""


class Shrinkage(NamedTuple):
    """How strongly a fit is shrunk towards a simpler one."""

    motion: float
    """of A, towards one memory for all: a ridge, in mean variances of the series"""
    shock: float
    """of Q: the share of it whose correlations follow from distances alone"""


SHRINKAGES = tuple(Shrinkage(*each) for each in product((0.01, 0.1, 1.0, 10.0), (0.0, 0.3)))
"""the choices"""


class Known(NamedTuple):
    """What is known of a state."""

    state: Float[NDArray, " N"]
    """its mean"""
    variance: Float[NDArray, "N N"]
    """its covariance"""


class StateSpace(NamedTuple):
    r"""$x_{t+1} = A x_t + e_t$, $e_t \sim N(0, Q)$, $y_t = x_t + n_t$, $n_t \sim N(0, \nu)$, of N series."""

    noise: float
    """nu"""
    move: Float[NDArray, "N N"]
    """A"""
    shock: Float[NDArray, "N N"]
    """Q"""
    start: Float[NDArray, "N N"]
    """the variance of a state of which nothing is known"""

    def ahead(self, known: Known) -> Known:
        """What is known of the next state."""
        return Known(self.move @ known.state, self.move @ known.variance @ self.move.T + self.shock)


class Smoothed(NamedTuple):
    """What is known of each state from all values."""

    states: Float[NDArray, "T N"]
    variances: Float[NDArray, "T N"]
    total: Float[NDArray, "N N"]
    """the sum of the covariances of all states"""
    ends: tuple[Float[NDArray, "N N"], Float[NDArray, "N N"]]
    """those of the first and of the last one"""
    lagged: Float[NDArray, "N N"]
    """the sum of the covariances of each with the one before"""


def chosen(values: Float[NDArray, "T N"], alike: Float[NDArray, "N N"]) -> Shrinkage:
    """That by which each half of the steps makes the other one likeliest.

    Args:
        values: NaN for those that are not known.
        alike: the correlation of shocks that follows from distances.
    """
    first, second = values[: len(values) // 2], values[len(values) // 2 :]

    def unlikely(shrinkage: Shrinkage) -> float:
        pairs = (first, second), (second, first)
        total = sum(deviance(other, maximised(one, alike, shrinkage, TRIED)) for one, other in pairs)
        return total if np.isfinite(total) else np.inf

    return min(SHRINKAGES, key=unlikely)


def maximised(
    values: Float[NDArray, "T N"], alike: Float[NDArray, "N N"], shrinkage: Shrinkage, rounds: int = ROUNDS
) -> StateSpace:
    """A fit by expectation maximisation, from what is linear in time in the gaps; the arguments are those of `chosen`.

    Source:
        Shumway and Stoffer 1982, "An approach to time series smoothing and forecasting using the EM algorithm". Ours
        are that A and Q are shrunk towards simpler ones, and one noise for all series.
    """
    known, count = ~np.isnan(values), values.shape[1]
    times, same = np.arange(len(values)), np.eye(count)
    whole = np.stack([
        np.interp(times, times[seen], column[seen]) if seen.any() else np.zeros(len(values))
        for column, seen in zip(values.T, known.T, strict=True)
    ], 1)  # fmt: skip
    start = whole.T @ whole / len(whole) + LEAST_NOISE * same
    noise = 0.01 * max(float(np.mean(start.diagonal())), LEAST_NOISE)
    sums = whole[:-1].T @ whole[:-1], whole[1:].T @ whole[:-1], whole[1:].T @ whole[1:]
    found = StateSpace(noise, *_moved(*sums, len(whole) - 1, alike, shrinkage), start)
    for _ in range(rounds):
        state, variance, total, (first, last), lagged = smoothed(values, found)
        left = np.where(known, (values - state) ** 2 + variance, 0)
        noise = max(float(left.sum() / max(known.sum(), 1)), LEAST_NOISE)
        before, after = state[:-1], state[1:]
        sums = before.T @ before + total - last, after.T @ before + lagged, after.T @ after + total - first
        found = StateSpace(noise, *_moved(*sums, len(before), alike, shrinkage), start)
    return found


def _moved(
    before: NDArray, across: NDArray, after: NDArray, number: int, alike: NDArray, shrinkage: Shrinkage
) -> tuple[NDArray, NDArray]:
    """A and Q, from sums of products of the states of a step, of a step and the one before, and of the next."""
    count = len(before)
    ridge = shrinkage.motion * np.trace(before) / count * np.eye(count)
    memory = np.trace(across) / max(np.trace(before), 1e-12)
    move = np.linalg.solve(before + ridge + 1e-9 * np.eye(count), (across + memory * ridge).T).T
    shock = (after - move @ across.T - across @ move.T + move @ before @ move.T) / number
    size = np.sqrt(shock.diagonal().clip(0))
    shock = (1 - shrinkage.shock) * (shock + shock.T) / 2 + shrinkage.shock * alike * size * size[:, None]
    return move, shock + LEAST_NOISE * np.eye(count)


def filtered(values: Float[NDArray, "T N"], model: StateSpace) -> Iterator[tuple[Known, float]]:
    """A Kalman filter: what is known after each step, and how unlikely its values were.

    Args:
        values: NaN for what is not known.
        model: the model.

    Yields:
        Of each step the mean and covariance of its state, and minus twice the logarithm of the likelihood of its
        values, but for a constant.
    """
    known, before = ~np.isnan(values), None
    for step in range(len(values)):
        state, variance = model.ahead(before) if before else Known(np.zeros(values.shape[1]), model.start)
        unlikely, seen = 0.0, np.flatnonzero(known[step])
        if len(seen):
            towards, off = variance[:, seen], values[step, seen] - state[seen]
            within = towards[seen] + model.noise * np.eye(len(seen))
            solved = np.linalg.solve(within, np.column_stack([off, towards.T]))
            unlikely = float(np.linalg.slogdet(within)[1] + off @ solved[:, 0])
            state = state + towards @ solved[:, 0]
            variance = variance - towards @ solved[:, 1:]
            variance = (variance + variance.T) / 2
        before = Known(state, variance)
        yield before, unlikely


def deviance(values: Float[NDArray, "T N"], model: StateSpace) -> float:
    """Minus twice the logarithm of the likelihood, but for a constant; NaN is what is not known."""
    return sum(unlikely for _, unlikely in filtered(values, model))


def smoothed(values: Float[NDArray, "T N"], model: StateSpace) -> Smoothed:
    """A Kalman smoother; NaN is what is not known."""
    past = [known for known, _ in filtered(values, model)]
    states, each = np.empty_like(values), np.empty_like(values)
    later, last = past[-1], past[-1].variance
    states[-1], each[-1] = later.state, last.diagonal()
    total, lagged = last.copy(), np.zeros_like(last)
    for step in range(len(values) - 2, -1, -1):
        expected, doubt = model.ahead(past[step])
        back = np.linalg.solve(doubt, model.move @ past[step].variance).T
        lagged += later.variance @ back.T
        state = past[step].state + back @ (later.state - expected)
        later = Known(state, past[step].variance + back @ (later.variance - doubt) @ back.T)
        total += later.variance
        states[step], each[step] = state, later.variance.diagonal()
    return Smoothed(states, each, total, (later.variance, last), lagged)
