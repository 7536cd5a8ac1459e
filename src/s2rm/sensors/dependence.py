"""The dependence of forecast errors over places, lead times and values, and scenarios with the same dependence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from s2rm.sensors.reports import Places, Reports, difference, last_places
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.times import spread_out
from s2rm.training import one_thread

HINDCASTS, MOST_SENSORS, MOST_LEADS, HIDDEN = 48, 200, 24, 1 / 3
"""number of past forecasts whose errors are used, most sensors and lead times of each, and share of hidden sensors"""
PAIRS, LEAST_PAIRS = 400, 200
"""pairs of errors of each kind from each past forecast, and the least number of pairs of a value"""
LARGEST, RIDGE = 3.0, 1e-4
"""standard deviations at which an error is cut, and the weight that draws the shares to equal ones"""
START = (0.2, 0.3, 0.03)
"""where the fit of reach, as a share of the extent, of growth and of decay starts"""
WAVES = 256
"""of the field of a scenario"""
Forecast = Callable[[Reports, Places, NDArray[np.int64], Sequence[int]], tuple[NDArray, NDArray]]
"""Mean and standard deviation `(H, Q, C)` from the reports until an origin, Q places, the sensors that are seen there,
-1 for none, and H lead times."""


class Hindcast(NamedTuple):
    """The errors of a past forecast of Q sensors at H lead times."""

    places: Float[NDArray, "Q n"]
    """in the model's coordinates"""
    own: Bool[NDArray, " Q"]
    """whether the sensor was seen"""
    leads: Int[NDArray, " H"]
    errors: Float[NDArray, "H Q C"]
    """in standard deviations of the forecast; NaN where there was no observation"""


def hindcasts(forecast: Forecast, reports: Reports, scaling: Scaling, memory: int, horizon: int) -> list[Hindcast]:
    """Forecasts from origins spread over the reports, each from `memory` steps, with some sensors hidden."""
    generator, last = np.random.default_rng(0), reports.num_steps - 1 - horizon
    leads = np.unique(np.linspace(1, horizon, MOST_LEADS).round().astype(np.int64))
    circular, made = np.array(reports.columns.is_circular), []
    for origin in spread_out(min(memory, last), last, HINDCASTS) if last >= 0 else ():
        later = reports.where(np.isin(reports.step, origin + leads))
        sensors = np.unique(later.sensor)
        chosen = generator.permutation(sensors)[:MOST_SENSORS]
        hidden = np.isin(np.arange(len(reports.sensors)), chosen[: round(HIDDEN * len(chosen))])
        known = reports.of(~hidden).between(max(0, origin + 1 - memory), origin + 1)
        asked = later.where(np.isin(later.sensor, chosen))
        if not len(asked) or not len(known):
            continue
        which, first, place = np.unique(asked.sensor, return_index=True, return_inverse=True)
        where = last_places(known, asked)
        places = Places(where.positions[first], where.covariates[first])
        mean, stddev = forecast(known, places, np.where(hidden[which], -1, which), leads.tolist())
        truth = np.full(mean.shape, np.nan)
        truth[np.searchsorted(leads, asked.step - origin), place] = asked.values
        # Where it is certain to stay dry a forecast has no spread, and its error says nothing.
        errors = difference(truth, mean, circular) / np.where(stddev > 0, stddev, np.nan)
        made.append(Hindcast(scaling.coordinates(places.positions).double().numpy(), ~hidden[which], leads, errors))
    return made


@dataclass(frozen=True)
class Dependence:
    r"""A Gaussian copula of the errors of a forecast, in standard deviations, at places x and lead times h.

    The error of a value is $z = \sqrt{w_1}\, f(x, h) + \sqrt{w_2}\, p(x) + \sqrt{w_3}\, l(x, h)$ with a field f, the
    level p of a place and a local part l, all standard normal and independent of each other, with correlations

    $$f: e^{-|x - x'| / r}\, k(h, h'), \quad p: \delta_{x x'}, \quad l: \delta_{x x'}\, k(h, h'), \quad
    k(h, h') = e^{-a |\log h - \log h'| - b |h - h'|}$$

    The errors of a random walk correlate as $e^{-|\log h - \log h'| / 2}$, those of a stationary process at long leads
    as $e^{-b |h - h'|}$. The shares w add up to 1; seen sensors and other places have different shares.
    """

    reach: tuple[float, ...]
    """r of each value, in the model's coordinates"""
    growth: tuple[float, ...]
    """a of each value"""
    decay: tuple[float, ...]
    """b of each value, per step"""
    shares: tuple[tuple[tuple[float, ...], ...], ...]
    """w, `[group][value][part]`; group 0 are places without a seen sensor, group 1 seen sensors"""
    between: tuple[tuple[float, ...], ...]
    """correlations between the errors of the values at the same place and time"""

    @classmethod
    def of(cls, past: Sequence[Hindcast], extent: float) -> Dependence | None:
        """The dependence of maximum pairwise likelihood (Varin et al., 2011); None if there are too few errors.

        Args:
            past: earlier forecasts.
            extent: of the places, in the model's coordinates.
        """
        number = past[0].errors.shape[-1] if past else 0
        sampled = [_pairs(past, value) for value in range(number)]
        if not sampled or min(map(len, sampled)) < LEAST_PAIRS:
            return None
        fitted = [_fitted(pairs, extent) for pairs in sampled]
        reach, growth, decay = (tuple(line) for line in torch.stack([scales for scales, _ in fitted], 1).tolist())
        shares = torch.stack([weights for _, weights in fitted], 1).tolist()
        between = _between(np.concatenate([case.errors.reshape(-1, number) for case in past])).tolist()
        kept = tuple(tuple(tuple(row) for row in group) for group in shares)
        return cls(reach, growth, decay, kept, tuple(map(tuple, between)))

    def draw(
        self, places: Float[NDArray, "Q n"], own: Bool[NDArray, " Q"], leads: Sequence[int], number: int,
        seed: int | tuple[int, ...],
    ) -> Float[NDArray, "N H Q C"]:  # fmt: skip
        r"""Errors of N scenarios, in standard deviations. Over several scenarios they have mean 0 and mean square 1, so
        that the scenarios have the mean and spread of the forecast.

        A field is a sum of waves, $\sum_k a_k \cos \omega_k x + b_k \sin \omega_k x$, whose frequencies are drawn from
        the spectrum of $e^{-|x| / r}$, a Cauchy distribution (Rahimi and Recht, 2007). No matrix of places is needed,
        and with the same seed a place has the same field whatever the other places.

        Args:
            places: in the model's coordinates.
            own: whether each place has a seen sensor.
            leads: H lead times in steps, at least 1.
            number: N.
            seed: seed of the random numbers.
        """
        _, first, which = np.unique(places.round(9), axis=0, return_index=True, return_inverse=True)
        # The number of each distinct place, in the order in which they come: one that comes twice has one future.
        place = np.argsort(np.argsort(first))[which.ravel()]
        (wide, narrow), reach = np.random.default_rng(seed).spawn(2), np.array(self.reach)[:, None]
        n, ahead, usual = places.shape[1], torch.tensor(leads, dtype=torch.float64), np.exp(np.log(reach).mean())
        in_time = np.stack([
            np.linalg.cholesky(_in_time(ahead[:, None], ahead, *map(torch.tensor, both)).numpy())
            for both in zip(self.growth, self.decay, strict=True)
        ])  # fmt: skip
        across, shares = np.linalg.cholesky(np.array(self.between)), np.array(self.shares)[own.astype(np.int64)]
        drawn = np.empty((number, len(leads), len(places), len(reach)))
        for scenario in drawn:
            # All values share the waves, so that they can correlate; each weighs them by its own spectrum.
            frequency = wide.standard_normal((n, WAVES)) / np.abs(wide.standard_normal(WAVES)) / usual
            square = np.square(frequency).sum(0)
            weight = ((1 + usual**2 * square) / (1 + reach**2 * square)) ** ((n + 1) / 4)
            weight /= np.sqrt(np.square(weight).sum(-1, keepdims=True))
            waves = np.concatenate([np.cos(places @ frequency), np.sin(places @ frequency)], -1)
            white = [
                np.einsum("cd,dhk->chk", across, generator.standard_normal((len(reach), *shape)))
                for generator, *shape in (
                    (wide, len(leads), 2 * WAVES),
                    (narrow, 1, len(first)),
                    (narrow, len(leads), len(first)),
                )
            ]
            parts = (
                in_time @ white[0] * np.tile(weight, 2)[:, None] @ waves.T,
                white[1][..., place],
                (in_time @ white[2])[..., place],
            )
            scenario[:] = sum(
                np.sqrt(shares[..., part]) * values.transpose(1, 2, 0) for part, values in enumerate(parts)
            )
        if number > 1:
            drawn -= drawn.mean(0)
            drawn /= np.sqrt(np.square(drawn).mean(0))
        return drawn


class _Pairs(NamedTuple):
    """Pairs of errors of one value, what the model knows of each, and how far apart they are."""

    first: Tensor
    second: Tensor
    away: Tensor
    same: Tensor
    """1 at one place, else 0"""
    lead: Tensor
    other: Tensor
    group: Tensor
    partner: Tensor


def found(dependence: Dependence | None) -> Dependence:
    """The dependence of a fit; a ValueError where it found none."""
    if dependence is None:
        raise ValueError(
            "scenarios: the fit did not find how errors depend on each other, since its table is too short; fit again, "
            "to a longer one"
        )
    return dependence


def _pairs(past: Sequence[Hindcast], value: int) -> Tensor:
    """Pairs of one value, `(N, 8)`, the columns of `_Pairs`: at one place, at one lead time, and any."""
    generator, made = np.random.default_rng(0), [np.empty((0, 8))]
    for case in past:
        known = np.argwhere(~np.isnan(case.errors[..., value]))
        if not len(known):
            continue
        one, two = known[generator.integers(len(known), size=(2, 3 * PAIRS))]
        two[:PAIRS, 1], two[PAIRS : 2 * PAIRS, 0] = one[:PAIRS, 1], one[PAIRS : 2 * PAIRS, 0]
        errors = [case.errors[rows[:, 0], rows[:, 1], value] for rows in (one, two)]
        away = np.linalg.norm(case.places[one[:, 1]] - case.places[two[:, 1]], axis=-1)
        leads, own = ([part[rows[:, k]] for rows in (one, two)] for k, part in enumerate((case.leads, case.own)))
        columns = np.stack([*errors, away, one[:, 1] == two[:, 1], *leads, *own], -1)
        made.append(columns[(one != two).any(-1) & ~np.isnan(errors[1])])
    return torch.from_numpy(np.concatenate(made))


@one_thread()
def _fitted(table: Tensor, extent: float) -> tuple[Float[Tensor, " 3"], Float[Tensor, "2 3"]]:
    """Reach, growth and decay, and the shares of both groups."""
    pairs = _Pairs(*table.unbind(-1))
    errors = torch.stack(pairs[:2])
    for group in (0, 1):  # only how errors correlate is asked for, not how large they are
        mine = torch.stack([pairs.group, pairs.partner]) == group
        errors[mine] /= errors[mine].square().mean().sqrt().clamp(min=1e-6) if mine.any() else 1.0
    one, two = errors.clamp(-LARGEST, LARGEST)
    start = torch.tensor(START, dtype=torch.float64) * torch.tensor([extent, 1, 1])
    scales, logits = start.log().requires_grad_(), torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scales, logits], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        reach, growth, decay = scales.exp()
        weights = logits.softmax(-1).sqrt()
        field, level, local = (weights[pairs.group.long()] * weights[pairs.partner.long()]).unbind(-1)
        over_time = _in_time(pairs.lead, pairs.other, growth, decay)
        along = field * (-pairs.away / reach).exp() * over_time + pairs.same * (level + local * over_time)
        rest = 1 - along.clamp(max=0.99).square()
        surprise = rest.log() + (one.square() + two.square() - 2 * along * one * two) / rest
        total = surprise.mean() / 2 + RIDGE * (logits.square().sum() + (scales - start.log()).square().sum() / 10)
        total.backward()
        return total

    optimiser.step(loss)
    return scales.detach().exp(), logits.detach().softmax(-1)


def _in_time(lead: Tensor, other: Tensor, growth: Tensor, decay: Tensor) -> Tensor:
    """The correlation of errors at two lead times."""
    return (-growth * (lead.log() - other.log()).abs() - decay * (lead - other).abs()).exp()


def _between(errors: Float[NDArray, "N C"]) -> Float[NDArray, "C C"]:
    """The correlation of the values at the same place and time; 0 of those that are never known together."""
    known = ~np.isnan(errors)
    scaled = np.where(known, errors, 0.0) / np.sqrt(np.nanmean(np.square(errors), 0))
    cut, both = np.clip(scaled, -LARGEST, LARGEST), known.T.astype(np.float64) @ known
    # Shrunk a little, and made possible: values that are known at different times may contradict each other.
    least, axes = np.linalg.eigh(np.where(np.eye(len(both)), 1.0, 0.95 * (cut.T @ cut) / np.maximum(both, 1)))
    possible = axes * np.maximum(least, 0.01) @ axes.T
    size = np.sqrt(np.diag(possible))
    return possible / size / size[:, None]
