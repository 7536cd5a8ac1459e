"""What was last known of each sensor as of each step, as tables in which a look-up is one index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from s2rm.sensors.mapped import filled, room, tensor
from s2rm.sensors.mapped import parts as slices
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling

MOST_CELLS = 60_000_000
"""cells of a table, steps times sensors times channels, of a history; a fit to more takes the last steps"""


class Rows(NamedTuple):
    """Reports in the model's units, in order of their steps."""

    step: Int[Tensor, " R"]
    sensor: Int[Tensor, " R"]
    positions: Float[Tensor, "R n"]
    channels: Float[Tensor, "R D"]
    covariates: Float[Tensor, "R F"]


@dataclass(frozen=True, eq=False)
class History:
    """The reports of S sensors at T steps, and what was known of each channel as of each step; U is T + 1, V is T or 0.

    A step of -1 or less is before all reports: nothing is known then.
    """

    rows: Rows
    first: Int[Tensor, " U"]
    """the first row of each step, and the number of rows"""
    last: Int[Tensor, "U S D"]
    """the row of the last value before each step, -1 for none"""
    span: Int[Tensor, "2 S"]
    """the first and the last step at which each sensor reported; T and -1 for none"""
    cycle: int | None
    """steps after which values are alike: those of a day, a week or a year, see `steps_a_cycle`"""
    fresh: Float[Tensor, "V S D"]
    """values at each step, or just before; NaN where there is none. Empty without a cycle"""
    usual: Float[Tensor, "V S D"]
    """the means of `fresh` at a step and at the same phase of the cycles before. Empty without a cycle"""
    begins: Float[Tensor, ""]
    """days from a midnight to the first step"""
    days: float
    """length of a step"""

    @classmethod
    def of(cls, reports: Reports, scaling: Scaling, cycle: int | None, cycles: int) -> History:
        """The history of reports; `cycles` is over how many of them the means at the same phase are taken."""
        rows = _rows(reports, scaling)
        if not len(reports):  # an index into no rows would fail
            n, channels, covariates = (part.shape[1] for part in rows[2:])
            nothing = torch.zeros(1, dtype=torch.long)
            rows = Rows(
                nothing, nothing, torch.zeros(1, n), torch.full((1, channels), torch.nan), torch.zeros(1, covariates)
            )
        shape = (reports.num_steps, max(1, len(reports.sensors)), scaling.num_channels)
        last = tensor(_last_rows(reports, rows, shape))
        first = torch.searchsorted(rows.step.contiguous(), torch.arange(shape[0] + 1))
        day = np.timedelta64(1, "D")
        span = torch.tensor([[shape[0]], [-1]]).repeat(1, shape[1])
        for part in slices(len(rows.step), shape[2]):
            heard = ~rows.channels[part].isnan().all(-1)
            steps, sensors = rows.step[part][heard], rows.sensor[part][heard]
            span[0].scatter_reduce_(0, sensors, steps, "amin")
            span[1].scatter_reduce_(0, sensors, steps, "amax")
        when = (reports.start - reports.start.astype("datetime64[D]")) / day, float(reports.step_length / day)
        begins, days = torch.tensor(when[0], dtype=torch.float64), when[1]
        if cycle is None:
            nothing = torch.empty(0, *shape[1:])
            return cls(rows, first, last, span, cycle, nothing, nothing, begins, days)
        fresh, usual = (tensor(room(reports.step, shape, np.float32)) for _ in range(2))
        for part in slices(shape[0], shape[1] * shape[2]):
            known = last[1:][part]
            index = known.clamp(min=0).long()
            age = torch.arange(part.start, part.stop)[:, None, None] - rows.step[index]
            values = rows.channels.gather(0, index.flatten(0, 1)).view(index.shape)
            fresh[part] = torch.where((known >= 0) & (age <= cycle // 24), values, torch.nan)
        for part in slices(shape[0], shape[1] * shape[2]):
            usual[part] = means_over_cycles(fresh[: part.stop], cycle, cycles, part.start)
        return cls(rows, first, last, span, cycle, fresh, usual, begins, days)

    def part_of_day(self, step: Int[Tensor, "*batch"], parts: int) -> Int[Tensor, "*batch"]:
        """In which of so many equal parts of the day a step begins."""
        return ((self.begins + step.double() * self.days) % 1 * parts + 1e-3).long() % parts

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.first) - 1

    @property
    def num_sensors(self) -> int:
        """S."""
        return self.last.shape[1]

    def as_of(self, known: Int[Tensor, "*batch S"]) -> Int[Tensor, "*batch S D"]:
        """The row of each sensor's last value at or before a step of its own, -1 for none."""
        return self.last[(known + 1).clamp(0, self.num_steps), torch.arange(self.num_sensors)].long()

    def last_of(self, known: Int[Tensor, "*batch"], sensor: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
        """The row of a sensor's last value, of any channel, at or before a step, -1 for none."""
        return self.last[(known + 1).clamp(0, self.num_steps), sensor].amax(-1).long()

    def values_at(
        self, table: Float[Tensor, "T S D"], step: Int[Tensor, "*batch"], sensor: Int[Tensor, "*batch"], channel: int
    ) -> Float[Tensor, "*batch"]:
        """Entries of `fresh` or `usual`; NaN where the step is before all reports or the sensor is -1."""
        if not len(table):
            return torch.full(step.shape, torch.nan)
        found = table[step.clamp(0, len(table) - 1), sensor.clamp(min=0), channel]
        return torch.where((step >= 0) & (step < len(table)) & (sensor >= 0), found, torch.nan)


def _rows(reports: Reports, scaling: Scaling) -> Rows:
    made = []
    for convert, array in (
        (scaling.coordinates, reports.positions), (scaling.channels, reports.values),
        (scaling.known, reports.covariates),
    ):  # fmt: skip
        rows = room(reports.step, (len(reports), convert(array[:0]).shape[1]), np.float32)
        for part in reports.parts:
            rows[part] = convert(array[part]).numpy()
        made.append(tensor(rows))
    return Rows(tensor(reports.step), tensor(reports.sensor), *made)


def _last_rows(reports: Reports, rows: Rows, shape: tuple[int, int, int]) -> Int[NDArray, "U S D"]:
    """The row of the last value before each step, -1 for none; `shape` is (T, S, D)."""
    number = len(rows.step)
    last = filled(reports.step, (shape[0] + 1, *shape[1:]), np.int32 if number < 2**31 else np.int64, -1)
    for part in slices(number, shape[2]):
        here = np.arange(part.start, part.stop)[:, None]
        last[rows.step[part].numpy() + 1, rows.sensor[part].numpy()] = np.where(rows.channels[part].isnan(), -1, here)
    for part in slices(len(last), shape[1] * shape[2]):
        before = slice(max(0, part.start - 1), part.stop)
        last[part] = np.maximum.accumulate(last[before], 0)[part.start - before.start :]
    return last


def means_over_cycles(fresh: Float[Tensor, "V S D"], cycle: int, cycles: int, since: int = 0) -> Float[Tensor, "T S D"]:
    """The means of values at a step and at the same hour of the cycles before, NaN where there is none; those of the
    steps from `since` on."""
    total, count = torch.zeros_like(fresh[since:]), torch.zeros_like(fresh[since:])
    for shift in range(0, min(cycles * cycle, len(fresh)), cycle):
        earlier = fresh[max(0, since - shift) : len(fresh) - shift]
        total[len(total) - len(earlier) :] += earlier.nan_to_num()
        count[len(count) - len(earlier) :] += ~earlier.isnan()
    return total / torch.where(count > 0, count, torch.nan)


def climatology(
    rows: Rows, part: Int[Tensor, " T"], parts: int, chunk: int, apart: int
) -> tuple[Float[Tensor, "P D"], Float[Tensor, "N P D"]]:
    """The mean of all values at each part of the day; and, for each of N chunks of steps, that of the chunks before it.

    A mean that includes the values that it is compared with looks better than it will on new data. The second result
    avoids this, so that a mixture that is fitted with it gives climatology its due weight. In the first quarter of the
    chunks it is the mean of all chunks but those nearby.

    Args:
        rows: the reports.
        part: the part of the day of each step.
        parts: P, how many there are.
        chunk: steps in a chunk.
        apart: chunks just before, or on either side, that are left out as well.
    """
    number = -(-len(part) // chunk)
    sums = rows.channels.new_zeros(2, number * parts, rows.channels.shape[1])
    for few in slices(len(rows.step), rows.channels.shape[1]):
        step, values = rows.step[few], rows.channels[few]
        index = (step // chunk) * parts + part[step]
        sums[0].index_add_(0, index, values.nan_to_num())
        sums[1].index_add_(0, index, (~values.isnan()).float())
    sums = sums.unflatten(1, (number, parts))
    until = torch.cat([torch.zeros_like(sums[:, :1]), sums.cumsum(1)], 1)
    chunks, total = torch.arange(number), sums.sum(1)
    before = until[:, (chunks - apart).clamp(min=0)]
    near = until[:, (chunks + apart + 1).clamp(max=number)] - before
    others = torch.where((chunks < number // 4)[:, None, None], total[:, None] - near, before)
    overall = total.sum(1)

    def mean(part: Tensor) -> Tensor:
        return torch.where(part[1] > 0.5, part[0] / part[1].clamp(min=1), overall[0] / overall[1].clamp(min=1))

    return mean(total), mean(others)
