"""How the simple predictors are mixed to a first guess: by their errors in the past, and how far it agrees on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from s2rm.sensors.first_guess.guess import Cases, FirstGuess, Table, mixture
from s2rm.sensors.marginals import Marginal
from s2rm.training import one_thread

AGEING = ("staleness", "silence")
"""by how much old values count less, which is never below 0"""
UPDATES, BATCH, LEARNING_RATE, SMOOTH = 200, 4096, 0.05, 1e-5
"""of the fit of a mixture; the last is the weight of the differences between neighbouring knots"""
LEVELS = 31
"""quantiles by which a distribution that is not Gaussian is scored"""
POWER, BLOCKS = 4.0, 8
"""a candidate weighs as this power of its inverse error where the parts of the past disagree, and how many parts"""
LEAST_CASES, LEAST_SHARE = 20, 0.02
"""of a cell of the table, and of those the share in which a candidate is there"""


class Prior(NamedTuple):
    """Where the fit of a mixture starts, and how strongly each cell is drawn back there."""

    logits: Float[Tensor, "3 C N K"]
    ridge: Float[Tensor, "3 C N"]


@one_thread()
def mixed_best(
    guess: FirstGuess, cases: Cases, truth: Float[Tensor, "M D"], moment: Int[Tensor, " M"],
    value_of: Int[Tensor, " D"], marginals: Sequence[Marginal | None], batch: int = BATCH,
) -> FirstGuess:  # fmt: skip
    r"""The guess with the mixture of least absolute error and the spread of least CRPS; of normal scores both are those
    of least CRPS.

    A short past may favour a candidate by chance. The logits u are therefore shrunk towards those of `prior`, with the
    weight $\nu^2$ that follows from how far the parts of the past disagree:
    $\sum |g - y| / M + (M_+ / M) \sum_c \nu_c^2 |u_c - u^0_c|^2 / N$ over N cells c of the groups that there are,
    with $M_+$ the cases that are not at the origin itself.

    Args:
        guess: with its knots.
        cases, truth, moment: M cases, what was observed, and the step of each one's origin.
        value_of: the value that each channel is of.
        marginals: of each channel, None where it is no normal score.
        batch: cases in each update.
    """
    knots, number = len(guess.knots), int(value_of.max()) + 1
    start = prior(cases, truth, moment, value_of, guess.knots)
    # The absolute error of rain favours those that say none, and is no start.
    kept = torch.ones(number).index_fill(0, value_of[shaped(marginals)], 0.0)[:, None]
    # Those at the origin are of one knot, and leave fewer to each of the others.
    start = Prior(start.logits * kept[..., None], start.ridge * kept * (cases.leads > 0).float().mean())
    tables = {
        "logits": start.logits.clone(),
        **{name: torch.full((number,), -3.0) for name in AGEING},
        "spread": torch.full((3, number, knots), -1.0), "spread_stale": torch.zeros(number),
        "spread_doubt": torch.zeros(number),
    }  # fmt: skip
    for table in tables.values():
        table.requires_grad_()
    optimiser = torch.optim.Adam(tables.values(), LEARNING_RATE)
    generator, cells = torch.Generator().manual_seed(0), len(cases.group.unique()) * number * knots
    for update in range(UPDATES):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 - update / UPDATES)
        some = torch.randint(len(truth), (min(batch, len(truth)),), generator=generator)
        few = Cases(*(part[some] for part in cases))
        mean, spread = mixture(few, value_of, guess.knots, **_positive(tables))
        loss = _error(mean, spread, truth[some], marginals)
        loss = loss + crps(mean.detach(), spread, truth[some], marginals)
        loss = loss + (start.ridge * (tables["logits"] - start.logits).square().sum(-1)).sum() / cells
        for name in ("logits", "spread"):
            loss = loss + SMOOTH * (tables[name][:, :, 1:] - tables[name][:, :, :-1]).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    final = {name: table.detach() for name, table in _positive(tables).items()}
    # What a sensor reports now is known; its spread is that of the next step.
    final["spread"][1, :, 0] = final["spread"][1, :, 1]
    nothing = table_of(torch.zeros(2, number, knots))
    return replace(
        guess, logits=tuple(table_of(part) for part in final["logits"].unbind(-1)), spread=table_of(final["spread"]),
        staleness=_row(final["staleness"]), silence=_row(final["silence"]), spread_stale=_row(final["spread_stale"]),
        spread_doubt=_row(final["spread_doubt"]), share=nothing, spread_share=nothing, spread_shift=nothing,
    )  # fmt: skip


def prior(
    cases: Cases, truth: Float[Tensor, "M D"], moment: Int[Tensor, " M"], value_of: Int[Tensor, " D"],
    knots: tuple[int, ...],
) -> Prior:  # fmt: skip
    r"""Logits and ridge of each cell, a group of places, a value and the nearest knot of the lead time.

    With $e_k$ the mean absolute error of candidate k in the cell and $e$ the least one, its logit is
    $-p \log(e_k / e)$ with p the `POWER`: a mean of all that are about as good, and next to nothing of the others. The
    ridge is $\nu^2$, with $\nu$ the standard error of $(e_k - e) / e$ over `BLOCKS` parts of the past by the jackknife,
    the median over the candidates whose error is at most half as large again as the least.
    """
    number, channels, candidates = int(value_of.max()) + 1, *cases.values.shape[1:]
    knot = (cases.leads.log1p()[:, None] - torch.tensor(knots).float().log1p()).abs().argmin(-1)
    order = torch.linspace(0, BLOCKS, len(moment) + 1)[:-1].long()
    block = torch.empty_like(order)
    block[moment.argsort()] = order
    where = (cases.group, value_of.expand(len(truth), channels), *(
        part[:, None].expand(len(truth), channels) for part in (knot, block)
    ))  # fmt: skip
    error = (cases.values - truth[..., None]).abs()
    sums, counts = torch.zeros(2, 3, number, len(knots), BLOCKS, candidates)
    sums.index_put_(where, error.nan_to_num(), accumulate=True)
    counts.index_put_(where, (~error.isnan()).float(), accumulate=True)
    # A cell with hardly a case is as all lead times together.
    few = counts.sum(3, keepdim=True).amax(-1, keepdim=True) < LEAST_CASES
    sums, counts = (torch.where(few, part.sum(2, keepdim=True), part) for part in (sums, counts))
    total, there = sums.sum(3), counts.sum(3)
    known = there > LEAST_SHARE * there.amax(-1, keepdim=True)
    mean = torch.where(known, total / there.clamp(min=1), torch.nan)
    least = mean.nan_to_num(torch.inf).amin(-1, keepdim=True).clamp(min=1e-6)
    ratio = (mean / least).clamp(1, 1e6)
    ratio = torch.where(known, ratio, ratio.nan_to_num(1.0).amax(-1, keepdim=True))
    left = (total[:, :, :, None] - sums) / (there[:, :, :, None] - counts).clamp(min=1)
    best = ratio.argmin(-1)[:, :, :, None, None].expand(*left.shape[:-1], 1)
    apart = (left - left.gather(-1, best)) / least[:, :, :, None]
    noise = ((BLOCKS - 1) * apart.var(3, correction=0)).sqrt()
    rivals = known & (ratio < 1.5) & (torch.arange(candidates) != best[:, :, :, 0])
    doubt = torch.where(rivals, noise, torch.nan).nanmedian(-1).values.nan_to_num(0.0)
    padded = torch.nn.functional.pad(doubt.square(), (1, 1), mode="replicate")
    return Prior(-POWER * ratio.log(), (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 3)


def crps(mean: Tensor, spread: Tensor, truth: Tensor, marginals: Sequence[Marginal | None]) -> Tensor:
    """The mean continuous ranked probability score of normal distributions; NaN is no truth."""
    known = ~truth.isnan()
    if any(marginals):
        return crps_in_units(mean, spread, truth.nan_to_num(), marginals)[known].mean()
    return crps_of((truth - mean)[known], spread[known]).mean()


def crps_in_units(
    mean: Float[Tensor, "*batch D"], spread: Float[Tensor, "*batch D"], truth: Float[Tensor, "*batch D"],
    marginals: Sequence[Marginal | None],
) -> Float[Tensor, "*batch D"]:  # fmt: skip
    """The score of each normal distribution; of a channel of normal scores that of the distribution of the values, in
    standard deviations of theirs.

    The latter is the mean of the quantile scores at `LEVELS`. On the Gaussian scale a shower would count as a drizzle.
    """
    parts, levels = [], torch.special.ndtri((torch.arange(LEVELS) + 0.5) / LEVELS)
    for column, marginal in enumerate(marginals):
        centre, width, known = (part[..., column] for part in (mean, spread, truth))
        if marginal is None:
            parts.append(crps_of(known - centre, width))
            continue
        off = marginal.value_of(known)[..., None] - marginal.value_of(centre[..., None] + width[..., None] * levels)
        above = torch.special.ndtr(levels) - (off < 0).float()
        parts.append(2 * (above * off).mean(-1) / marginal.spread)
    return torch.stack(parts, -1)


def error_of(
    mean: Float[Tensor, "*batch D"], spread: Float[Tensor, "*batch D"], truth: Float[Tensor, "*batch D"],
    marginals: Sequence[Marginal | None],
) -> Float[Tensor, "*batch D"]:  # fmt: skip
    """By what a mean is chosen: the absolute error, or, of a channel of normal scores, the values' CRPS.

    The median of rain is mostly none, and says nothing of how often there is some.
    """
    error = (mean - truth).abs()
    if not any(marginals):
        return error
    return torch.where(shaped(marginals), crps_in_units(mean, spread, truth, marginals), error)


def shaped(marginals: Sequence[Marginal | None]) -> Bool[Tensor, " D"]:
    """Which channels are normal scores."""
    return torch.tensor([marginal is not None for marginal in marginals])


def crps_of(error: Float[Tensor, "*batch"], spread: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The continuous ranked probability score of each error."""
    z = error / spread
    density = torch.exp(-0.5 * z.square()) / (2 * np.pi) ** 0.5
    return spread * (z * torch.erf(z / 2**0.5) + 2 * density - np.pi**-0.5)


def table_of(table: Float[Tensor, "G C N"]) -> Table:
    """A tensor as it is kept in a `FirstGuess`."""
    return tuple(tuple(tuple(row) for row in part) for part in table.tolist())


def _positive(tables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old values never count more than new ones."""
    return tables | {name: softplus(tables[name]) for name in AGEING}


def _row(row: Float[Tensor, " C"]) -> tuple[float, ...]:
    return tuple(row.tolist())


def _error(mean: Tensor, spread: Tensor, truth: Tensor, marginals: Sequence[Marginal | None]) -> Tensor:
    known = ~truth.isnan()
    return error_of(mean, spread, truth.nan_to_num(), marginals)[known].mean()
