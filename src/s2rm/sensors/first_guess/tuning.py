"""How the first guess is fitted to a table, and how far a model's correction of it is trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.models.world_model import WorldModel
from s2rm.sensors.first_guess.candidates import CLIMATE, KRIGING, LEVEL, PLANE, Asked, carried, interpolated
from s2rm.sensors.first_guess.dynamics import fitted
from s2rm.sensors.first_guess.guess import Cases, FirstGuess, Table, cases_of, values_of_channels
from s2rm.sensors.first_guess.mixing import BATCH, crps_in_units, error_of, mixed_best, shaped, table_of
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.marginals import Marginal
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.times import steps_a_cycle, steps_a_day

AGEING = tuple(1 / (12 * 4**power) for power in range(7))
"""shares of the extent; the choices for the distance that counts as much as one step of age"""
TILT = (0.0, 1.0, 10.0)
"""the choices for how freely the plane through the nearest reports may tilt; 0 is level, their mean"""
ROUGH = tuple((reach, nugget, False) for reach, nugget in product((1 / 16, 1 / 4, 1.0), (0.01, 0.1, 0.5)))
SMOOTH = tuple((*pair, True) for pair in ((1 / 4, 0.1), (1 / 4, 0.01), (1.0, 0.01)))
"""the choices for the covariance of kriging: reach, as a share of the extent, nugget, and whether it is smooth"""
CARRIES, FINER = torch.logspace(-6, 0.5, 14, 2).tolist(), torch.linspace(0.75, 1.33, 8).tolist()
"""the choices for how far the flow moves in a horizon, as shares of the extent, and around the best of them"""
MOST_CYCLES = 7
CASES, SILENT, TURNS = 30_000, 0.1, 16
"""of a sample, the share of the sensors that fall silent within a window of it, and how many groups of sensors are
withheld in turn"""
SHARES, SHIFTS = torch.linspace(0, 1, 21), torch.linspace(-0.4, 0.4, 17)
"""the choices for what is kept of a correction, and for the logarithm of a factor of the spread"""
TRUST, FOLDS = torch.linspace(0, 1, 11), 4
"""the choices for how far scores are trusted beside the climatology, and the parts of the past that judge it"""
REPEATS = 3
"""draws of the queries of each validation window"""
LEAST_GAIN, BLOCKS = 0.005, 8
"""a share of the error by which a correction must lower it, and the parts of the validation by which it is judged
whether that may be chance"""


class Sample(NamedTuple):
    """M cases and what was observed."""

    cases: Cases
    truth: Float[Tensor, "M D"]
    moment: Int[Tensor, " M"]
    """the steps of their origins"""
    part: Int[Tensor, " M"]
    """the parts of the day of which they are"""


def first_guess(train: Reports, scaling: Scaling, context: int, horizon: int) -> FirstGuess:
    """A guess that is not fitted yet: its periods and its knots."""
    day, cycle = steps_a_day(train.columns), steps_a_cycle(train.columns)
    if cycle is not None and train.num_steps < 3 * cycle:
        cycle = None
    cycles = 0 if cycle is None else min(MOST_CYCLES, train.num_steps // cycle // 2)
    parts = min(24, day or 1)
    knots = np.unique(np.geomspace(1, horizon, 8).round().astype(int))
    if cycle is not None:
        knots = np.union1d(knots, [step for quarter in range(1, 9) if 0 < (step := quarter * cycle // 4) <= horizon])
    number = scaling.num_channels
    return FirstGuess(
        cycle, cycles, max(context, 12), (scaling.extent * AGEING[1],) * number, (TILT[0],) * number,
        (scaling.extent * ROUGH[4][0],) * number, (ROUGH[4][1],) * number,
        (ROUGH[4][2],) * number, ((0.0,) * number,) * parts, (0, *map(int, knots)),
    )  # fmt: skip


def tuned(windows: Windows) -> FirstGuess:
    """The guess of windows, fitted to them: first how neighbours count, then the mixture and its spread.

    The best ageing depends on the quantity: the sea below a float changes little in a week, so that its own old report
    is worth more than a new one from far away; the wind changes within hours.
    """
    extent, guess = windows.scaling.extent, replace(windows.guess, climate=_rows(windows.climate))
    for names, candidate, choices in (
        (("ageing",), LEVEL, [(extent * share,) for share in AGEING]),
        (("tilt",), PLANE, [(tilt,) for tilt in TILT]),
        (("reach", "nugget", "smooth"), KRIGING, [(extent * share, *others) for share, *others in (*ROUGH, *SMOOTH)]),
    ):
        guess = _best_ways(windows, guess, names, candidate, choices)
    if windows.scaling.flow:
        guess = _carried(windows, guess)
    guess = replace(guess, dynamics=fitted(windows.history, len(guess.climate), extent, folds=True))
    about = values_of_channels(windows.scaling), windows.scaling.of_channels
    samples = [draw(windows, guess, 32) for draw in (sample, withheld, silent)]
    if guess.dynamics:
        samples.append(settled(windows, guess, 16))
    drawn = _together(samples)
    mixed = mixed_best(guess, *drawn[:3], *about)
    return replace(mixed, trust=trusted(guess, drawn, *about, windows.horizon)) if any(about[1]) else mixed


def with_dynamics(guess: FirstGuess, reports: Reports, scaling: Scaling) -> FirstGuess:
    """The guess with the dynamics of all sensors and steps, those of the validation included, for forecasts."""
    whole = fitted(guess.history(reports, scaling), len(guess.climate), scaling.extent) if guess.dynamics else ()
    return replace(guess, dynamics=whole or guess.dynamics[:1])


def trusted(
    guess: FirstGuess, drawn: Sample, value_of: Int[Tensor, " D"], marginals: Sequence[Marginal | None], apart: int
) -> Table:
    """How far the scores of values that are not Gaussian are trusted beside the climatology: 1 for all others.

    A short past has few spells of rain, and a mixture that is fitted to them is too sure of itself in others. Of
    `FOLDS` parts of the past each is guessed by a mixture that is fitted to the others, without those nearer than
    `apart` steps, as is their climatology; the trust of least CRPS is found for each value, group of places and knot.
    It is 0 where none helps by more than chance.
    """
    table = torch.zeros(FOLDS, 2, int(value_of.max()) + 1, len(guess.knots), len(TRUST))
    ends = drawn.moment.double().quantile(torch.linspace(0, 1, FOLDS + 1).double())
    for fold, (low, high) in enumerate(pairwise(ends)):
        mine, near = ((drawn.moment >= low - wide) & (drawn.moment <= high + wide) for wide in (0, apart))
        known = ~drawn.truth.isnan()
        if not (known[~near].any(0).all() and known[mine].any()):  # a short past, of long lead times
            continue
        cases, *others = with_climate_of(drawn, ~near)
        few, (truth, moment) = Cases(*(part[~near] for part in cases)), (part[~near] for part in others[:2])
        other = mixed_best(guess, few, truth, moment, value_of, marginals, BATCH // 4)
        here = Cases(*(part[mine] for part in cases))
        mixed, where = other.mixed(here, value_of), _cells(guess, here.own, here.leads, value_of)
        for index, trust in enumerate(TRUST):
            made = guess.pulled(*mixed, here.values[..., CLIMATE], trust)
            error = crps_in_units(*made, drawn.truth[mine].nan_to_num(), marginals)
            _sum_at(table[fold, ..., index], where, error, known[mine])
    # Where no part is far enough from the others nothing is known of it.
    trust = torch.where(table.sum((0, -1)) > 0, TRUST[chosen(table)], 1.0)
    wanted = torch.zeros(table.shape[2], dtype=torch.bool).index_fill(0, value_of[shaped(marginals)], True)
    return table_of(torch.where(wanted[:, None], trust, 1.0))


def with_climate_of(drawn: Sample, some: Bool[Tensor, " M"]) -> Sample:
    """The sample with the climatology of some of its cases."""
    truth, part = drawn.truth[some], drawn.part[some]
    sums = truth.new_zeros(2, int(drawn.part.max()) + 1, truth.shape[1])
    sums[0].index_add_(0, part, truth.nan_to_num())
    sums[1].index_add_(0, part, (~truth.isnan()).float())
    climate = (sums[0] / sums[1].clamp(min=1))[drawn.part]
    values = drawn.cases.values.clone()
    values[..., CLIMATE] = climate
    return drawn._replace(cases=drawn.cases._replace(values=values))


def _best_ways(
    windows: Windows, guess: FirstGuess, names: Sequence[str], candidate: str, choices: Sequence[tuple[float, ...]]
) -> FirstGuess:
    """The guess with the choice of least absolute error for each channel."""
    asked, row, wanted = _asked(windows, guess, 8, 1.0, 1.0)
    number, extent = windows.scaling.num_channels, windows.scaling.extent
    tried = [replace(guess, **{name: (part,) * number for name, part in zip(names, choice, strict=True)})  # type: ignore[arg-type]
             for choice in choices]  # fmt: skip
    ways = [each.ways for each in tried]
    found = interpolated(candidate, windows.history, asked, ways, guess.memory, extent)
    off = found - windows.history.rows.channels[row]
    best = off[:, wanted].abs().nanmean(1).nan_to_num(torch.inf).argmin(0).tolist()
    chosen = {name: tuple(choices[index][place] for index in best) for place, name in enumerate(names)}
    return replace(guess, **chosen)  # type: ignore[arg-type]


def _carried(windows: Windows, guess: FirstGuess) -> FirstGuess:
    """The guess that moves with the flow as lowers the error of any channel most, by what it is without one."""
    asked, row, wanted = _asked(windows, guess, 8, alone=0.5)
    wanted, truth = wanted & (asked.leads[..., 0] > 0), windows.history.rows.channels[row]

    def errors(carry: float, fading: float) -> Float[Tensor, " D"]:
        ways = replace(guess, carry=carry, fading=fading).ways
        off = carried(windows.history, asked, ways, guess.memory)[..., 0, :] - truth
        return off[wanted].abs().nanmean(0)

    assert windows.known is not None
    path, extent = windows.known.tables.path, windows.scaling.extent
    span = min(windows.horizon, len(path) - 1)
    whole = (path[span:] - path[: len(path) - span]).norm(dim=-1).mean().item()
    if not whole > 0:
        return guess
    # At first the latest reports alone count.
    best, fading = 0.0, extent * AGEING[0]
    still = errors(best, fading)
    for choices in (CARRIES, FINER):
        tried = [(best or extent / whole) * share for share in choices]
        ratios = [(errors(carry, fading) / still).nan_to_num(torch.inf).min().item() for carry in tried]
        if min(ratios) >= 1:
            break
        best = tried[int(np.argmin(ratios))]
    fadings = [extent * share for share in AGEING]
    ratios = [(errors(best, each) / still).nan_to_num(torch.inf).min().item() for each in fadings]
    return replace(guess, carry=best, fading=fadings[int(np.argmin(ratios))])


def sample(windows: Windows, guess: FirstGuess, number: int, alone: float = 0.0) -> Sample:
    """Cases of some windows, a share `alone` of which is without the sensors' own values."""
    return _cases(windows, guess, *_asked(windows, guess, number, alone=alone))


def _asked(
    windows: Windows, guess: FirstGuess, number: int, now: float = 0.1, alone: float = 0.0
) -> tuple[Asked, Int[Tensor, "B L P"], Bool[Tensor, "B L P"]]:
    """Queries in some windows, as of `Windows.asked`. Windows at the beginning of a long table lack its cycles and are
    left out."""
    generator, origin = torch.Generator().manual_seed(0), _origins(windows, guess, number)
    until = windows.length * torch.rand(number, windows.history.num_sensors, generator=generator)
    fails = torch.rand(until.shape, generator=generator) < SILENT
    cut = torch.where(fails, origin[:, :1] + 1 - windows.first + until.long(), windows.history.num_steps)
    queries = max(1, (CASES // (8 if number < 16 else 2)) // origin.numel())
    return windows.asked(origin, cut, queries, None, generator, now, alone)[:3]


def withheld(windows: Windows, guess: FirstGuess, number: int) -> Sample:
    """Cases of sensors of which nothing is known. Each is withheld in its turn, a few at a time, so that the others
    are nearly as dense as they are."""
    return _in_turns(windows, guess, torch.full((number,), -1))


def settled(windows: Windows, guess: FirstGuess, number: int) -> Sample:
    """Cases of sensors that have been silent for longer than is remembered, in turn as if they were withheld, whose
    level linear dynamics know."""
    drawn = _in_turns(windows, guess, _origins(windows, guess, number)[:, 0] - guess.memory)
    some = (drawn.cases.settled & ~drawn.cases.own).any(-1)
    return Sample(Cases(*(part[some] for part in drawn.cases)), *(part[some] for part in drawn[1:]))


def _in_turns(windows: Windows, guess: FirstGuess, cut: Int[Tensor, " B"]) -> Sample:
    """Cases of sensors that are heard until a step of each window, -1 for never, a few at a time."""
    generator, origin = torch.Generator().manual_seed(2), _origins(windows, guess, len(cut))
    sensors = windows.history.num_sensors
    turns = min(TURNS, sensors)
    turn = torch.randperm(sensors, generator=generator) % turns
    queries, found = max(1, CASES // 2 // origin.numel() // turns), []
    for each in range(turns):
        mine = turn == each
        until = torch.where(mine, cut[:, None].clamp(min=-1), windows.history.num_steps)
        asked, row, wanted, _ = windows.withholding(mine).asked(origin, until, queries, None, generator)
        found.append(_cases(windows, guess, asked, row, wanted))
    return _together(found)


def silent(windows: Windows, guess: FirstGuess, number: int) -> Sample:
    """Cases of sensors that have been silent for a while, asked for what they would report at the origins themselves.

    Sensors fail together, with their neighbours: at each origin a share of them is silent, drawn uniformly. The time
    since is drawn uniformly by its logarithm.
    """
    origin = _origins(windows, guess, number).view(-1, 1)
    generator, sensors = torch.Generator().manual_seed(1), windows.history.num_sensors
    share, since, each = torch.rand(3, len(origin), sensors, generator=generator)
    cut = torch.where(
        each < share[:, :1], (origin - (guess.memory**since).long()).clamp(min=-1), windows.history.num_steps
    )
    asked, row, wanted, _ = windows.asked(origin, cut, max(1, CASES // len(origin)), None, generator, 1.0)
    wanted &= asked.known.gather(2, asked.sensor) < origin[..., None]
    return _cases(windows, guess, asked, row, wanted)


def _origins(windows: Windows, guess: FirstGuess, number: int) -> Int[Tensor, "B L"]:
    begin = min(max(guess.steps_kept(0), windows.end // 4), windows.end // 2)
    starts = torch.linspace(begin, windows.end, number).long()
    return starts[:, None] + torch.arange(windows.first, windows.length) - 1


def _cases(
    windows: Windows, guess: FirstGuess, asked: Asked, row: Int[Tensor, "B L P"], wanted: Bool[Tensor, "B L P"]
) -> Sample:
    target = (asked.origin[..., None, None] + asked.leads).clamp(max=windows.history.num_steps - 1)
    got = guess.found(windows.history, asked, windows.climate_at(target), windows.scaling, fair=True)
    cases = Cases(*(part[wanted].flatten(0, 1) for part in cases_of(got, asked.leads)))
    moment, part = asked.origin[..., None].expand(row.shape), windows.part_at(target[..., 0])
    return Sample(cases, windows.history.rows.channels[row][wanted], moment[wanted], part[wanted])


def _together(samples: Sequence[Sample]) -> Sample:
    cases = Cases(*map(torch.cat, zip(*(one.cases for one in samples), strict=True)))
    return Sample(cases, *map(torch.cat, list(zip(*samples, strict=True))[1:]))


def _rows(rows: Float[Tensor, "P D"]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows.tolist())


@torch.no_grad()
def gated(guess: FirstGuess, model: WorldModel, windows: Windows, size: int) -> FirstGuess:
    """The guess with the shares of a model's correction that lower the error on validation windows.

    A share counts for each value, group of places and knot of the lead time, with those at the neighbouring knots.
    Places without an own value are those of the sensors that training never saw. Where it does not lower the error by
    `LEAST_GAIN`, and by more than chance, the guess stays alone.
    """
    keys = enumerate(_split(windows.number, size) * REPEATS)
    parts = [_cases_of_model(model, windows, rows, seed) for seed, rows in keys]
    mean, ratio, base, spread, truth, own, leads, row = (torch.cat(part) for part in zip(*parts, strict=True))
    value_of, values = values_of_channels(windows.scaling), len(windows.scaling.mean)
    marginals = windows.scaling.of_channels
    known, where = ~truth.isnan(), _cells(guess, own, leads, value_of)
    block = (row * BLOCKS // windows.number)[:, None].expand_as(own)
    truth, shares = truth.nan_to_num(), torch.zeros(3, 2, values, len(guess.knots))
    table = torch.zeros(BLOCKS, 2, values, len(guess.knots), len(SHARES))
    for index, share in enumerate(SHARES):
        _sum_at(
            table[..., index], (block, *where), error_of(torch.lerp(base, mean, share), spread, truth, marginals), known
        )
    shares[0] = SHARES[chosen(table)]
    kept = torch.lerp(base, mean, shares[0][where])
    choices = [(0.0, 0.0), *product((0.0, 0.5, 1.0), SHIFTS.tolist())]
    table = torch.zeros(BLOCKS, 2, values, len(guess.knots), len(choices))
    for index, (of_spread, shift) in enumerate(choices):
        log = spread.log() + of_spread * ratio.log() + shift
        _sum_at(table[..., index], (block, *where), crps_in_units(kept, log.exp(), truth, marginals), known)
    # The validation part is short: it takes more to change the spread, of which there are many choices, and half of the
    # factor is kept.
    shares[1:] = (
        torch.tensor(choices)[chosen(table, sure=2)].movedim(-1, 0) * torch.tensor([1, 0.5])[:, None, None, None]
    )
    return replace(guess, share=table_of(shares[0]), spread_share=table_of(shares[1]), spread_shift=table_of(shares[2]))


def _cases_of_model(model: WorldModel, windows: Windows, rows: list[int], seed: int) -> tuple[Tensor, ...]:
    """Of the queries of seen and of hidden sensors: a corrected guess and the factor of its spread, the guess and its
    spread, the truth, which have an own value, the lead times, and the windows."""
    episode, context, of_hidden = windows.drawn(rows, seed)
    targets, features = episode.to_predict(1, None)
    assert features is not None
    channels, first = windows.scaling.num_channels, windows.first - 1
    predicted = model.predict(model.states_before_targets(episode.views), targets.positions, features)
    said = [part[:, first:, :, :channels] for part in (predicted.mean, predicted.stddev, targets.values)]
    # A sensor that is withheld for a while has been seen in training: how it is forecast says nothing of others.
    fair = context.own.any(-1) | of_hidden
    wanted = targets.mask[:, first:] & fair
    mean, truth = (context.guess + context.spread * part for part in (said[0], said[2]))
    window = torch.tensor(rows)[:, None, None].expand_as(wanted)
    parts = (mean, said[1], context.guess, context.spread, truth, context.own, context.leads, window)
    return tuple(part[wanted] for part in parts)


def _split(number: int, size: int) -> list[list[int]]:
    return [list(range(begin, min(begin + size, number))) for begin in range(0, number, size)]


def _cells(
    guess: FirstGuess, own: Bool[Tensor, "N D"], leads: Float[Tensor, " N"], value_of: Int[Tensor, " D"]
) -> tuple[Tensor, ...]:
    """Group of places, value, and nearest knot of the lead time of each case."""
    knot = (leads.log1p()[:, None] - torch.tensor(guess.knots).float().log1p()).abs().argmin(-1)
    return own.long(), value_of.expand_as(own), knot[:, None].expand_as(own)


def _sum_at(table: Tensor, where: tuple[Tensor, ...], errors: Tensor, known: Bool[Tensor, "N D"]) -> None:
    table.index_put_(tuple(part[known] for part in where), errors[known], accumulate=True)


def _smooth(table: Float[Tensor, "B 2 C N G"]) -> Float[Tensor, "B 2 C N G"]:
    """Each knot with its two neighbours, which count half."""
    padded = torch.nn.functional.pad(table, (0, 0, 1, 1))
    return table + 0.5 * (padded[..., :-2, :] + padded[..., 2:, :])


def chosen(table: Float[Tensor, "B 2 C N G"], sure: float = 1.0) -> Int[Tensor, "2 C N"]:
    """The choice of least error over all blocks where it is less than that of the first one by `LEAST_GAIN`, and by
    more than `sure` times its standard error over the blocks; else the first one."""
    blocks, number = _smooth(table), len(table)
    smooth = blocks.sum(0)
    best = smooth.argmin(-1)
    gains = blocks[..., 0] - blocks.gather(-1, best.expand(number, *best.shape)[..., None])[..., 0]
    gain, chance = gains.sum(0), number**0.5 * gains.std(0)
    return torch.where((gain > LEAST_GAIN * smooth[..., 0]) & (gain > sure * chance), best, 0)
