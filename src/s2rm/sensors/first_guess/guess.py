"""The first guess of every query, a mixture of simple predictors, and the share of the correction that is kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.sensors.first_guess.candidates import (
    CLIMATE,
    FROM_LAST,
    OF_NOW,
    TRENDS,
    WEEK,
    Asked,
    Found,
    Ways,
    found,
)
from s2rm.sensors.first_guess.dynamics import Dynamics, filter_of
from s2rm.sensors.first_guess.history import History
from s2rm.sensors.first_guess.outlook import Filter
from s2rm.sensors.known_ahead import FEATURES
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling

Table = tuple[tuple[tuple[float, ...], ...], ...]
"""a number for each group, value and knot: `[group][value][knot]`; group 0 are places without an own value, 1 others;
of a mixture, group 2 are those without one whose level linear dynamics know"""
LEAST_SPREAD = 0.02
"""standard deviations of a value"""


class Cases(NamedTuple):
    """What a mixture is made of, for N queries of D channels."""

    values: Float[Tensor, "*batch D K"]
    """the candidates, NaN where there is none"""
    own: Bool[Tensor, "*batch D"]
    """whether the sensor itself has a last value"""
    settled: Bool[Tensor, "*batch D"]
    """whether linear dynamics know the level of the place"""
    stale: Float[Tensor, "*batch D"]
    """log(1 + age) of that value at the origin"""
    doubt: Float[Tensor, "*batch D"]
    """the logarithm of the variance of kriging"""
    leads: Float[Tensor, "*batch"]

    @property
    def group(self) -> Int[Tensor, "*batch D"]:
        """The group of places in a mixture."""
        return torch.where(self.own, 1, 2 * self.settled)


class Context(NamedTuple):
    """What a model is given with each query, and the first guess by itself."""

    features: Float[Tensor, "B L Q F"]
    guess: Float[Tensor, "B L Q D"]
    spread: Float[Tensor, "B L Q D"]
    own: Bool[Tensor, "B L Q D"]
    now: Bool[Tensor, "B L Q D"]
    """whether the sensor itself reports what is asked for"""
    leads: Float[Tensor, "B L Q"]


@dataclass(frozen=True)
class FirstGuess:
    r"""How the first guess is made and corrected; fitted once to each table, and saved with the model.

    It is a convex mixture of the candidates $c_k$ that there are (see `CANDIDATES`), with weights for each value, lead
    time and group of places, those with an own last value, those without, and of these those whose sensor is silent for
    long but whose level linear dynamics know:

    $$g = \sum_k w_k c_k, \quad w = \mathrm{softmax}(u - \beta l \log(1 + a))$$

    with the logits u linear in log(1 + lead) between the `knots`, a the age of the own last value at the origin, and l
    1 for candidates made of it, else 0; at the origin itself, where a silent sensor is filled in, $\beta$ is another
    than ahead. Its spread is

    $$\log \sigma = s + \gamma \log(1 + a) + \delta \log v$$

    with s as u, and v the variance that kriging states, which counts where there is no own value. There the spread is
    at least that of a place whose own value is new.

    The normal scores of a value that is not Gaussian are shrunk towards the climatology, whose mean at the hour is
    $c_h$ and whose spread is $s_h$. The `trust` $\tau$ from 0 to 1 follows from how well guesses that were fitted to
    the rest of the past did on each part of it:

    $$g' = c_h + \tau (g - c_h), \quad \sigma' = s_h + \tau (\sigma - s_h)$$

    These take the place of g and $\sigma$. A model predicts how far the truth is off, in units of that spread: with its
    mean m and spread r the correction is $\sigma m$. Of both the share that helped on the validation part is kept, at
    sensors that training never saw and at others, `share` $\lambda$ and `spread_share` $\kappa$ from 0 to 1:

    $$\mu = g + \lambda \sigma m, \quad \log \sigma_\mu = \log \sigma + \kappa \log r + b$$
    """

    cycle: int | None
    """steps of a day, of a week where a step is a day, of a year where it is longer"""
    cycles: int
    """over how many of them usual values are means"""
    memory: int
    """the age from which a report no longer counts, in steps"""
    ageing: tuple[float, ...]
    tilt: tuple[float, ...]
    reach: tuple[float, ...]
    nugget: tuple[float, ...]
    smooth: tuple[bool, ...]
    """of each channel, see `Ways`"""
    climate: tuple[tuple[float, ...], ...]
    """the mean of each channel in each part of the day"""
    knots: tuple[int, ...]
    """lead times, in steps"""
    logits: tuple[Table, ...] = ()
    """`[candidate][group][value][knot]`"""
    staleness: tuple[float, ...] = ()
    """of each value, ahead"""
    silence: tuple[float, ...] = ()
    """of each value, at the origin"""
    spread: Table = ()
    spread_stale: tuple[float, ...] = ()
    spread_doubt: tuple[float, ...] = ()
    share: Table = ()
    spread_share: Table = ()
    spread_shift: Table = ()
    trust: Table = ()
    """empty where all values are Gaussian: they are not pulled"""
    carry: float = 0.0
    fading: float = 0.0
    """see `Ways`"""
    dynamics: tuple[Dynamics, ...] = ()
    """those of the sensors, none where they could not be fitted; while a forecaster is fitted, also those without each
    part of the steps"""

    @property
    def ways(self) -> Ways:
        """How neighbours count."""
        return Ways(self.ageing, self.tilt, self.reach, self.nugget, self.smooth, self.carry, self.fading)

    @cached_property
    def filter(self) -> Filter | None:
        """The dynamics as tensors, None where there are none."""
        return filter_of(self.dynamics) if self.dynamics else None

    @cached_property
    def tables(self) -> dict[str, Tensor]:
        """All that is fitted, as tensors; the logits with the candidates last."""
        names = (*MIXING[1:], "share", "spread_share", "spread_shift", "trust")
        return {"logits": torch.tensor(self.logits).movedim(0, -1)} | {
            name: torch.tensor(getattr(self, name)) for name in names
        }

    def steps_kept(self, context: int) -> int:
        """Steps before a forecast that it depends on."""
        # In a fit to seven cycles, of which means are over three, the value a week before has become a candidate.
        cycles = WEEK if self.cycles >= WEEK // 2 else self.cycles
        return max(context, self.memory, (cycles + 1) * (self.cycle or 0))

    def history(self, reports: Reports, scaling: Scaling) -> History:
        """The history of reports for this guess."""
        return History.of(reports, scaling, self.cycle, self.cycles)

    def climate_at(self, clock: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch D"]:
        """The means of the channels at the hour of the day that a clock shows."""
        return torch.tensor(self.climate)[part_of_day(clock, len(self.climate))]

    def found(
        self, history: History, asked: Asked, climate: Float[Tensor, "B L P J D"], scaling: Scaling,
        noise: tuple[Tensor, Tensor] | None = None, fair: bool = False,
    ) -> Found:  # fmt: skip
        """The candidates of all queries; `climate` are the means of the channels at the target times.

        If `fair`, the steps are those to which the guess is fitted, and each part of them is forecast by dynamics
        that are fitted to the others.
        """
        dynamics = self.filter
        if dynamics is not None:
            fit = torch.zeros_like(asked.origin[:, 0])
            if fair:
                ends = torch.tensor([one.without[1] for one in self.dynamics[1:-1]])
                fit = 1 + torch.bucketize(asked.origin[:, 0].contiguous(), ends, right=True)
            dynamics = dynamics.of(fit)
        return found(
            history, asked, self.ways, climate, self.memory, scaling.extent, noise, dynamics, self.knots[-1]
        )  # fmt: skip

    def mixed(self, cases: Cases, value_of: Int[Tensor, " D"]) -> tuple[Tensor, Tensor]:
        """Guess and spread of each case, `(..., D)`."""
        made = mixture(cases, value_of, self.knots, **{name: self.tables[name] for name in MIXING})
        if not self.trust:
            return made
        trust = at_knots(self.tables["trust"], self.knots, cases.own.long(), cases.leads, value_of)
        return self.pulled(*made, cases.values[..., CLIMATE], torch.where(is_now(cases), 1.0, trust))

    def context(
        self, history: History, asked: Asked, clock: Float[Tensor, "B L P J 4"], climate: Float[Tensor, "B L P J D"],
        scaling: Scaling, noise: tuple[Tensor, Tensor] | None = None, known: Float[Tensor, "B L P J G4"] | None = None,
        fair: bool = False,
    ) -> Context:  # fmt: skip
        """Context features of every query `(B, L, P * J)`, the first guess, and its spread; `clock` is that of the
        target times, `climate` are the means of the channels at them, `known` is what is known ahead; `fair` as for
        `found`."""
        got = self.found(history, asked, climate, scaling, noise, fair)
        cases = cases_of(got, asked.leads)
        guess, spread = self.mixed(cases, values_of_channels(scaling))
        ahead = asked.leads.shape[-1]

        of_now = OF_NOW if asked.gone is None else (*OF_NOW, got.values.shape[-1] - 1)
        missing = asked.covariates.isnan().float()
        near = got.nearest.nan_to_num(posinf=1.0)
        some = got.nearest.isfinite().float()
        features = [
            guess, torch.zeros(*guess.shape[:-1], missing.shape[-1]),
            # Others would tell the level of a window, and with it of a return to the mean of the training part.
            (got.values[..., of_now] - guess[..., None]).nan_to_num().flatten(4),
            spread.log(), cases.own.float(), cases.stale / 3,
            *(part[..., None, :].expand(*part.shape[:3], ahead, -1) for part in (
                got.old.log1p() / 3, got.doubt, some, (1e-4 + near / scaling.extent).log() * some,
                got.trend.flatten(3), 16 * got.offset.flatten(3), got.unlike.flatten(3),
                asked.covariates.nan_to_num(), missing,
            )),
            asked.leads.float().log1p()[..., None] / 3, clock, *([] if known is None else [known]),
        ]  # fmt: skip
        whole, own, leads = torch.cat(features, -1), cases.own, asked.leads.float()
        flat = [part.flatten(2, 3) for part in (whole, guess, spread, own, is_now(cases), leads)]
        return Context(*flat)

    def corrected(
        self, mean: Float[Tensor, "*batch D"], stddev: Float[Tensor, "*batch D"], context: Context,
        value_of: Int[Tensor, " D"],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Mean and spread, of the first guess and of a model's mean and spread of what it is off."""
        tables = (self.tables[name] for name in ("share", "spread_share", "spread_shift"))
        share, of_spread, shift = (
            at_knots(table, self.knots, context.own.long(), context.leads, value_of) for table in tables
        )
        share, of_spread, shift = (torch.where(context.now, 0.0, part) for part in (share, of_spread, shift))
        log = context.spread.log() + of_spread * stddev.log() + shift
        return context.guess + share * context.spread * mean, log.exp()

    def pulled(
        self, mean: Float[Tensor, "*batch D"], spread: Float[Tensor, "*batch D"], climate: Float[Tensor, "*batch D"],
        trust: Float[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Mean and spread of scores, pulled to those of the climatology but for a share `trust`."""
        # All scores together have a variance of 1, of which that of the hours' means is a part.
        usual = (1 - torch.tensor(self.climate).square().mean(0)).clamp(min=LEAST_SPREAD).sqrt()
        return torch.lerp(climate, mean, trust), torch.lerp(usual.expand_as(spread), spread, trust)


def part_of_day(clock: Float[Tensor, "*batch 4"], parts: int) -> Int[Tensor, "*batch"]:
    """In which of so many equal parts of the day a clock shows."""
    return (torch.atan2(clock[..., 1], clock[..., 0]) / (2 * np.pi) % 1 * parts + 1e-3).long() % parts


MIXING = ("logits", "staleness", "silence", "spread", "spread_stale", "spread_doubt")


def context_size(scaling: Scaling) -> int:
    """F, the number of context features of a query."""
    channels, covariates = scaling.num_channels, len(scaling.covariate_mean)
    each = 8 + len(OF_NOW) + bool(scaling.flow) + 2 * len(TRENDS) + scaling.num_coordinates + covariates
    return channels * each + 3 * covariates + 5 + FEATURES * len(scaling.ahead_mean)


def values_of_channels(scaling: Scaling) -> Int[Tensor, " D"]:
    """The value that each channel is of; a direction has two channels."""
    return torch.tensor([value for value, turns in enumerate(scaling.circular) for _ in range(1 + turns)])


def cases_of(got: Found, leads: Int[Tensor, "B L P J"]) -> Cases:
    """What is found, as cases `(B, L, P, J)`."""
    own = ~got.own_age.isnan()
    stale = got.own_age.nan_to_num().log1p()
    shape = got.values.shape[:-1]
    own, settled, stale, doubt = (part[..., None, :].expand(shape) for part in (own, got.settled, stale, got.doubt))
    return Cases(got.values, own, settled, stale, doubt, leads.float())


def is_now(cases: Cases) -> Bool[Tensor, "*batch D"]:
    """Whether the sensor itself reports what is asked for."""
    return cases.own & (cases.stale == 0) & (cases.leads == 0)[..., None]


def at_knots(
    table: Float[Tensor, "G C N *more"], knots: tuple[int, ...], group: Int[Tensor, "*batch D"],
    leads: Float[Tensor, "*batch"], value_of: Int[Tensor, " D"],
) -> Float[Tensor, "*batch D *more"]:  # fmt: skip
    """The entries of a table for each query and channel, linear in log(1 + lead) between the knots."""
    places = torch.tensor(knots).float().log1p()
    where = leads.clamp(knots[0], knots[-1]).log1p()
    upper = torch.searchsorted(places, where.contiguous()).clamp(1, len(knots) - 1)
    part = (where - places[upper - 1]) / (places[upper] - places[upper - 1])
    part = part[(..., None, *(None,) * (table.ndim - 3))]
    low, high = (table[group, value_of, knot[..., None]] for knot in (upper - 1, upper))
    return low + part * (high - low)


def mixture(
    cases: Cases, value_of: Int[Tensor, " D"], knots: tuple[int, ...], logits: Float[Tensor, "3 C N K"],
    staleness: Float[Tensor, " C"], silence: Float[Tensor, " S"], spread: Float[Tensor, "3 C N"],
    spread_stale: Float[Tensor, " C"], spread_doubt: Float[Tensor, " C"],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Guess and spread `(..., D)` of cases; the equations are those of `FirstGuess`."""
    group = cases.group
    wanted = at_knots(logits, knots, group, cases.leads, value_of)
    late = torch.zeros(wanted.shape[-1])
    late[list(FROM_LAST)] = 1.0
    ageing = torch.where(cases.leads[..., None] == 0, silence[value_of], staleness[value_of])
    wanted = wanted - (ageing * cases.stale)[..., None] * late
    there = ~cases.values.isnan()
    weight = torch.where(there, wanted, -torch.inf).softmax(-1)
    guess = (weight * cases.values.nan_to_num()).sum(-1)
    # What a sensor reports now is known.
    guess = torch.where(is_now(cases), cases.values[..., 0].nan_to_num(), guess)
    doubt = torch.where(cases.own, 0.0, spread_doubt[value_of] * cases.doubt)
    log = at_knots(spread, knots, group, cases.leads, value_of) + spread_stale[value_of] * cases.stale + doubt
    # No place is surer than a sensor that has just reported: near to one, kriging's variance knows no change in time.
    least = at_knots(spread, knots, torch.ones_like(group), cases.leads, value_of)
    log = torch.where(cases.own, log, torch.maximum(log, least))
    return guess, log.exp() + LEAST_SPREAD
