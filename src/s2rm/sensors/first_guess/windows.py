"""Windows of a table on which a forecaster is trained, validated and tuned."""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from s2rm.sensors.first_guess.candidates import Asked
from s2rm.sensors.first_guess.guess import Context, FirstGuess, part_of_day
from s2rm.sensors.first_guess.history import climatology
from s2rm.sensors.first_guess.mixing import shaped
from s2rm.sensors.known_ahead import Flow
from s2rm.sensors.mapped import parts, room, tensor
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import NOWHERE, Scaling, slots, views_of
from s2rm.views import Episode, Views

COVARIATE_NOISE, LEVEL_NOISE = 0.3, 1.0
"""standard deviations of the noise on a sensor's covariates in a training batch, and of the shift of all values of a
window, but for directions and censored values; both where there is noise"""
QUERIES = 16
"""queries after each step of a window"""
UNKNOWN = 1 / 8
"""in training, the share of the queries without an own value whose covariates are not known either, as on a map"""


class Windows(Dataset[Episode]):
    """Windows, indexed by keys `(rows, seed)`. Each has random queries after each of its steps; their targets are the
    errors of the first guess, in units of its spread.

    After each step of a window, but for the first quarter, values at later steps are asked for, at lead times up to
    the horizon, and at sensors that are silent also those of the step itself. In most windows some sensors are withheld
    throughout; in some, sensors or all of them fall silent before the end.

    Args:
        reports, scaling, guess: the reports, their scaling, and the first guess.
        length, horizon: L, steps of a window, and the longest lead time, in steps.
        since: only values from this step on are asked for.
        hidden: sensors that are never shown, half of the queries being of them; none if not given.
        noise: standard deviation of the displacement of each sensor in each batch, in the model's coordinates, which
            with noise on its covariates prevents overfitting to single sensors; none if 0.
        number: of windows in an epoch.
        at_random: they begin at random steps; else at equal distances.

    Raises:
        ValueError: fewer steps than a window has.
    """

    def __init__(
        self, reports: Reports, scaling: Scaling, guess: FirstGuess, length: int, horizon: int, *, since: int = 0,
        hidden: Bool[Tensor, " S"] | None = None, noise: float = 0.0, number: int = 16, at_random: bool = True,
    ):  # fmt: skip
        if reports.num_steps < length:
            got = f"{reports.num_steps}; shorten the context or the horizon, or give a longer table"
            raise ValueError(f"windows: expected at least {length} steps of reports, got {got}")
        self.seen, self.history = slots(reports, scaling), guess.history(reports, scaling)
        self.scaling, self.guess, self.length, self.horizon, self.since = scaling, guess, length, horizon, since
        self.noise, self.number, self.at_random = noise, number, at_random
        self.begin, self.end = max(0, since - length + 1), reports.num_steps - length
        self.hidden = torch.zeros(self.history.num_sensors, dtype=torch.bool) if hidden is None else hidden
        chunk = max(guess.cycle or 1, reports.num_steps // 50)
        self._parts = part_of_day(self.seen.clock, len(guess.climate))
        self.climate, self._climates = climatology(
            self.history.rows, self._parts, len(guess.climate), chunk, -(-reports.num_steps // (10 * chunk))
        )
        # That of few days before says little of how often it rains.
        self._climates = torch.where(shaped(scaling.of_channels), self.climate, self._climates)
        self._chunk = chunk
        self.known: Flow | None = None
        if reports.ahead is not None:
            self.known = Flow.of(reports.ahead, scaling, reports.start, reports.positions)
        self.reports = reports
        self.pools = [self._pool(which) for which in (~self.hidden, self.hidden)]

    def withholding(self, sensors: Bool[Tensor, " S"]) -> Windows:
        """The same windows, of which only these sensors are asked."""
        other = copy(self)
        other.pools = [self._pool(sensors)]
        return other

    def _pool(self, sensors: Bool[Tensor, " S"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " U"]]:
        """The rows of some sensors, and the first of them at each step."""
        of, step = self.history.rows.sensor, self.history.rows.step
        ranges = [*parts(len(step))]
        number, end = sum(int(sensors[of[part]].sum()) for part in ranges), 0
        rows, counts = (
            tensor(room(self.reports.step, (number,), np.int64)),
            np.zeros(self.history.num_steps + 1, np.int64),
        )
        for part in ranges:
            found = sensors[of[part]].nonzero().flatten() + part.start
            begin, end = end, end + len(found)
            rows[begin:end] = found
            counts[1:] += np.bincount(step[found].numpy(), minlength=len(counts) - 1)
        return rows, torch.from_numpy(counts.cumsum())

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, key: tuple[list[int], int]) -> Episode:
        return self.drawn(*key)[0]

    def drawn(self, rows: list[int], seed: int) -> tuple[Episode, Context, Tensor]:
        """An episode, the first guesses of its queries from step `first` on, and which are of hidden sensors."""
        generator, batch, length = torch.Generator().manual_seed(seed), len(rows), self.length
        starts = self._starts(rows, generator)
        cut = self._silenced(starts, generator)
        window = torch.arange(length)
        steps = starts[:, None] + window
        noise = self._displaced(generator) if self.noise else None
        seen = self.seen
        sensor = seen.sensor[steps]
        until = cut.gather(1, sensor.clamp(min=0).flatten(1)).view_as(sensor)
        reported = seen._replace(**{name: getattr(seen, name)[steps] for name in seen._fields})
        if noise is not None:
            moved = (part[sensor.clamp(min=0)] for part in noise)
            reported = reported._replace(
                positions=reported.positions + next(moved), covariates=reported.covariates + next(moved)
            )
        level = self._level(batch, generator)
        reported = reported._replace(channels=reported.channels + level[:, None, None])
        views = views_of(reported, (steps[..., None] <= until) & (sensor >= 0))
        origin = steps[:, self.first :] - 1
        asked, row, wanted, place = self.asked(origin, cut, QUERIES, noise, generator)
        target = (asked.origin[..., None, None] + asked.leads).clamp(max=self.history.num_steps - 1)
        known = None
        if self.known is not None:
            tables, index, weight = self.known
            known = tables.features(
                origin[..., None, None], target, index[place][..., None, :], weight[place][..., None, :]
            )
        context = self.guess.context(
            self.history, asked, seen.clock[target], self.climate_at(target), self.scaling, noise, known, fair=True
        )
        channels = self.scaling.num_channels
        context.features[..., :channels] += level[:, None, None]
        values = self._off(self.history.rows.channels[row], context, generator)
        values = torch.cat([values, torch.full_like(asked.covariates, torch.nan)], -1)
        wanted = wanted & ~values.isnan().all(-1)
        before = (batch, self.first, QUERIES)
        whole = [
            torch.cat([part.new_zeros(*before, *part.shape[3:]), part], 1)
            for part in (asked.positions, values, wanted, context.features)
        ]
        return Episode(views, Views._unchecked(*whole[:3]), whole[3]), context, self.hidden[asked.sensor]

    def climate_at(self, target: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch D"]:
        """The climatology at steps; on the training part mostly that of the days before."""
        if self.since:
            return self.guess.climate_at(self.seen.clock[target])
        return self._climates[target // self._chunk, self.part_at(target)]

    def part_at(self, target: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The parts of the day, those of the climatology, of which steps are."""
        return self._parts[target]

    @property
    def first(self) -> int:
        """The first step of a window with queries."""
        return max(1, self.length // 4)

    def _starts(self, rows: list[int], generator: torch.Generator) -> Int[Tensor, " B"]:
        span = self.end - self.begin + 1
        if self.at_random:
            return self.begin + torch.randint(span, (len(rows),), generator=generator)
        return self.begin + (torch.tensor(rows) * span) // self.number

    def _silenced(self, starts: Int[Tensor, " B"], generator: torch.Generator) -> Int[Tensor, "B S"]:
        """The last step at which each sensor is heard in each window, -1 for those that are withheld."""
        batch, sensors = len(starts), self.history.num_sensors

        def draw(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        silent = 0.7 * draw(batch, 1) * (draw(batch, 1) < (0.7 if self.at_random else 0.3))
        ends = starts[:, None] + (self.length * draw(batch, sensors)).long()
        fails = draw(batch, sensors) < 0.15 * (draw(batch, 1) < 0.3)
        cut = torch.where(fails, ends, self.history.num_steps)
        all_end = starts[:, None] + (self.length * draw(batch, 1)).long()
        cut = torch.where(draw(batch, 1) < 0.1, cut.minimum(all_end), cut)
        return torch.where((draw(batch, sensors) < silent) | self.hidden, -1, cut)

    def _level(self, batch: int, generator: torch.Generator) -> Tensor:
        """A shift of all values of a window, `(B, D)`: without it a model learns a return to the mean of the data."""
        turning = torch.tensor([turns for turns in self.scaling.circular for _ in range(1 + turns)])
        # Where values are censored, a level has a meaning: no rain is no rain.
        fixed = turning | (self.scaling.limits.abs() < NOWHERE).any(0)
        size = torch.where(fixed, 0.0, LEVEL_NOISE * bool(self.noise))
        return torch.randn(batch, len(size), generator=generator) * size

    def _off(
        self, truth: Float[Tensor, "B L P D"], context: Context, generator: torch.Generator
    ) -> Float[Tensor, "B L P D"]:
        """What the guess is off, in units of its spread.

        Of a truth at a limit it is only known that the Gaussian lies beyond: one is drawn there, from that of the
        guess, so that the errors of a right guess are standard normal (the randomised residuals of Dunn and Smyth,
        1996).
        """
        off, limits = (truth - context.guess) / context.spread, self.scaling.limits
        if (limits.abs() < NOWHERE).any():
            low, high = ((limit - context.guess) / context.spread for limit in limits)
            share = torch.rand(off.shape, generator=generator)
            below, above = (_drawn(share, end) for end in (low, -high))
            off = torch.where(off <= low, below, torch.where(off >= high, -above, off))
        return off

    def _displaced(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A displacement of each sensor's positions, and of its covariates."""
        rows, sensors = self.history.rows, self.history.num_sensors
        parts = ((rows.positions, self.noise), (rows.covariates, COVARIATE_NOISE))
        moved = [size * torch.randn(sensors, part.shape[-1], generator=generator) for part, size in parts]
        return moved[0], moved[1]

    def asked(
        self, origin: Int[Tensor, "B L"], cut: Int[Tensor, "B S"], queries: int,
        noise: tuple[Tensor, Tensor] | None, generator: torch.Generator, now: float = 0.1, alone: float = 0.0,
    ) -> tuple[Asked, Int[Tensor, "B L P"], Bool[Tensor, "B L P"], Int[Tensor, "B L P"]]:  # fmt: skip
        """Random queries, the rows of the reports that answer them, which of them there are, and the rows from whose
        places they are asked. A sensor may move: with its own values it is asked for where it was when it gave the last
        of them, since where it goes is not known.

        A share `now` of the queries is at the origins themselves, and a share `alone` is without the own values of
        its sensors.
        """
        shape, longest = (*origin.shape, queries), float(self.horizon)
        even, where = torch.rand(2, *shape, generator=generator)
        # Half of the lead times are spread evenly, half of them over their logarithms.
        lead = torch.where(even < 0.5, where * longest, (longest + 1) ** where - 1).long() + 1
        lead = lead.clamp(max=self.horizon)
        lead = torch.where(even * 2 % 1 < now, 0, lead)
        by_itself = where * 64 % 1 < alone
        target = origin[..., None] + lead
        pick, pool = torch.rand(2, *shape, generator=generator)
        row, wanted = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
        for number, (rows, first) in enumerate(self.pools):
            if not len(rows):
                continue
            mine = (pool < 0.5) == bool(number) if all(len(rows) for rows, _ in self.pools) else pool >= 0
            within = target.clamp(max=self.history.num_steps - 1)
            count = first[within + 1] - first[within]
            chosen = rows[(first[within] + (pick * count).long()).clamp(max=len(rows) - 1)]
            row = torch.where(mine, chosen, row)
            wanted |= mine & (count > 0)
        reports = self.history.rows
        sensor = reports.sensor[row]
        until = cut.gather(1, sensor.flatten(1)).view_as(sensor)
        wanted &= (target < self.history.num_steps) & (target >= self.since)
        wanted &= (lead > 0) | (until < target) | by_itself
        last = self.history.last_of(torch.minimum(origin[..., None], until), sensor)
        place = torch.where((last >= 0) & ~by_itself, last, row)
        positions, covariates = reports.positions[place], reports.covariates[place]
        covariates = torch.where(covariates.isnan(), reports.covariates[row], covariates)
        if noise is not None:
            positions, covariates = positions + noise[0][sensor], covariates + noise[1][sensor]
            if covariates.shape[-1]:
                unknown = ((last < 0) | by_itself) & (torch.rand(shape, generator=generator) < UNKNOWN)
                covariates = covariates.masked_fill(unknown[..., None], torch.nan)
        gone = None
        if self.known is not None:
            end = target[..., None].clamp(max=self.history.num_steps - 1)
            gone = self.known.gone(origin[..., None, None], end, place[..., None])
        known = torch.minimum(origin[..., None], cut[:, None])
        asked = Asked(known, origin, positions, covariates, sensor, lead[..., None], by_itself, gone, self.known)
        return asked, row, wanted, place


def _drawn(share: Float[Tensor, "*batch"], end: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """A number below `end` from a standard normal distribution: that of which a share of those there are less."""
    return torch.special.ndtri((share.double() * torch.special.ndtr(end.double())).clamp(min=1e-12)).float()
