"""The step of each row of a table, the names of places, and means over the rows of a sensor within a step."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from s2rm.names import one_line
from s2rm.sensors.reading.sources import Cells
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import DAY

MAX_STEPS = 10_000_000
HOUR = 3_600_000_000
"""microseconds"""
FEW, MOSTLY = 5, 0.75
"""times from which it can be said how far they are apart, and a share of a step from which a sensor mostly reports once
within it"""
NEVER, MOST_APART = -(2**62), 100_000
"""the time before any, and how many distances between times are looked at in each part of a table"""


def silent_times(cells: Cells, name: str) -> NDArray[np.int64]:
    """The times of rows without values, at which all sensors were silent; none where these are no times."""
    with suppress(ValueError):
        return cells.where(~cells.empty(name)).times(name)
    return np.empty(0, np.int64)


def bins(
    cells: Cells, columns: Columns, length: int, silent: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], np.datetime64, int]:
    """The time and the step of each row, when step 0 begins, and the number of steps, to the last time even if all were
    silent."""
    times = cells.times(columns.time)
    if not len(times) and not len(silent):
        raise ValueError(f"read: no row of {cells.name} holds both a time and a value; give observations")
    beginning = int(times.min() if len(times) else silent.max()) // length
    end = int(np.append(times, silent).max())
    num_steps = end // length - beginning + 1
    if num_steps > MAX_STEPS:
        earliest, latest = int(times.argmin()), int(times.argmax())
        row = f"row {cells.rows[latest]}" if times[latest] == end else "without a value"
        first, last = np.array([times[earliest], end]).astype("datetime64[us]").astype("datetime64[s]")
        enough = math.ceil((end - int(times[earliest])) / 1e6 / (MAX_STEPS - 1))
        raise ValueError(
            f"read: from {first} (row {cells.rows[earliest]}) to {last} ({row}) of {cells.name} are "
            f"{num_steps:,} steps of {columns.step!r}; correct these times or take a longer step, such as '{enough}s'"
        )
    return times, times // length - beginning, np.datetime64(beginning * length, "us"), num_steps


def of_one_step(start: np.datetime64) -> str:
    """What to do about times that are all in one step."""
    if start.astype("datetime64[D]") != np.datetime64("1970-01-01"):
        return "take a shorter step"
    return "if these were numbers since 1970, give pandas.to_datetime their unit, unit='s' for seconds"


class Spacing:
    """How far the times of a table are apart, of all its rows or of parts in order of their steps.

    Args:
        length: of a step, microseconds.
        number: of sensors.
    """

    def __init__(self, length: int, number: int):
        self.length, self.last = length, np.full(number, NEVER)
        self.rows = self.again = self.shared = 0
        self.early, self.late, self.shortest = DAY, -1, DAY * MAX_STEPS
        self.steps, self.apart = list[NDArray[np.int64]](), list[NDArray[np.int64]]()

    def add(self, times: NDArray[np.int64], sensor: NDArray[np.int64]) -> None:
        """Some more rows: their times, microseconds, and sensors."""
        clock, before = times % DAY, np.flatnonzero(self.last > NEVER)
        self.early, self.late = min(self.early, int(clock.min())), max(self.late, int(clock.max()))
        self.steps.append(np.unique(times // self.length))
        of, at = np.append(before, sensor), np.append(self.last[before], times)
        order = np.lexsort((at, of))
        same = np.diff(of[order]) == 0
        apart, again = np.diff(at[order])[same], np.diff(at[order] // self.length)[same] == 0
        positive = apart[apart > 0]
        self.rows, self.again = self.rows + len(times), self.again + int(again.sum())
        self.shared += int((again & (apart > 0)).sum())
        self.shortest = min(self.shortest, int(positive.min(initial=self.shortest)))
        self.apart.append(positive[:: max(1, len(positive) // MOST_APART)])
        np.maximum.at(self.last, sensor, times)

    def warn(self, name: str, columns: Columns) -> None:
        """Warn of steps that do not suit the times: most of them are empty, or some hold two reports of a sensor where
        others hold one, as of months that are not all as long; or those of days, where all times may be local
        midnights. Of other steps one line of output says how many rows were averaged."""
        if self.length % DAY == 0 and 2 * self.early >= DAY and self.late - self.early <= HOUR:
            hour, minute = divmod(self.late // 60_000_000, 60)
            warnings.warn(
                f"read: all times of {name} are about {hour}:{minute:02} UTC, and count to that day in UTC; where they "
                "are midnights of the next day in local time, give dates without a zone",
                stacklevel=4,
            )
        gaps, apart = np.diff(np.concatenate(self.steps)), np.concatenate(self.apart)
        if len(gaps) >= FEW and np.median(gaps) >= 2:
            shorter, median = np.quantile(gaps, [0.05, 0.5], method="lower")
            longer = shorter if shorter > 1 else median  # a gap of one step is no longer step
            usual, most = (in_words(int(gap) * self.length) for gap in (longer, median))
            warnings.warn(
                f"read: most steps of {columns.step!r} are without any row of {name}, whose times are mostly {most} "
                f"apart; name a longer step, such as --step {usual}",
                stacklevel=4,
            )
        if not self.again:
            return
        typical = float(np.median(apart)) if len(apart) >= FEW else 0.0
        if self.shared and typical > MOSTLY * self.length and self.shortest > typical / 2:
            finer = "name a step that is not longer than the shortest time between two, --step "
            finer += f"{in_words(self.shortest)}, or "
            if DAY % self.length == 0 and DAY % self.shortest:  # with that step the cycle of the day would be lost
                finer = ""
            warnings.warn(
                f"read: {self.shared:,} observations of {name} share a step of {columns.step!r} with another one of "
                f"their sensor, and become one, while most steps hold one; {finer}round the times to whole steps",
                stacklevel=4,
            )
        else:
            rows, left = f"{self.rows:,} rows", f"{self.rows - self.again:,} observations"
            said = f"{name}: {rows} become {left}, means over the rows of a sensor within a step of {columns.step}"
            print(one_line(said), file=sys.stderr, flush=True)


def in_words(microseconds: int) -> str:
    """A length of time as pandas reads it: 28D, 90min."""
    units = (("D", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000), ("us", 1))
    name, unit = next(each for each in units if microseconds % each[1] == 0)
    return f"{microseconds // unit}{name}"


def warn_of_several_values(
    cells: Cells, columns: Columns, key: NDArray[np.int64], order: NDArray[np.int64], times: NDArray[np.int64],
    values: NDArray[np.float64], names: NDArray[np.object_],
) -> None:  # fmt: skip
    """Warn where one sensor has different values at one time, as in tables of a row for each quantity, or of a local
    time whose clocks were put back. Arguments as of `warn_of_several_places`."""
    rows = at_several_places(key, order, values, lambda some: times[some])
    if len(rows):
        first = rows[0]
        here = np.flatnonzero((key == key[first]) & (times == times[first]))
        differ = np.nanmax(values[here], 0) != np.nanmin(values[here], 0)
        column = columns.values[int(differ.argmax())]
        warnings.warn(
            f"read: sensor {names[first]!r} of {cells.name} has different values of {column!r} at one time, first in "
            f"row {cells.rows[first]}, and so have {len(rows):,} rows; their mean is taken. Where these are different "
            "quantities or depths, give them columns or names of their own; where clocks were put back, give times in "
            "UTC",
            stacklevel=4,
        )


def warn_of_several_places(
    cells: Cells, key: NDArray[np.int64], order: NDArray[np.int64], times: NDArray[np.int64],
    positions: NDArray[np.float64], names: NDArray[np.object_],
) -> None:  # fmt: skip
    """Warn where one sensor is at several places at one time, as in profiles, or where two networks share names.

    `key` is equal in the rows of one sensor and step, and `order` sorts it.
    """
    rows = at_several_places(key, order, positions, lambda some: times[some])
    if len(rows):
        warnings.warn(
            f"read: sensor {names[rows[0]]!r} of {cells.name} is at several places at one time, first in row "
            f"{cells.rows[rows[0]]}, and so are {len(rows):,} rows; their mean is taken, at a place between them; "
            "where they are different sensors, or depths, give them different names",
            stacklevel=4,
        )


def at_several_places(
    key: NDArray[np.int64], order: NDArray[np.int64], positions: NDArray[np.float64],
    times_of: Callable[[NDArray[np.bool_]], NDArray[np.int64]],
) -> NDArray[np.int64]:  # fmt: skip
    """The rows in which a sensor is elsewhere than in another row of the same time, or has other values.

    `key` is equal in the rows of one sensor and step, and `order` sorts it; `times_of` gives the times of some rows.
    """

    def differ(rows: NDArray) -> NDArray[np.bool_]:
        apart = np.diff(positions[rows], axis=0)
        return ((apart != 0) & ~np.isnan(apart)).any(1)

    again = (np.diff(key[order]) == 0) & differ(order)
    if not again.any():
        return np.empty(0, np.int64)
    several = np.isin(key, key[order][1:][again])
    times, rows = times_of(several), np.flatnonzero(several)
    order = np.lexsort((times, key[rows]))
    at_once = (np.diff(key[rows[order]]) == 0) & (np.diff(times[order]) == 0) & differ(rows[order])
    return rows[order][1:][at_once]


def place_names(positions: NDArray[np.float64], globe: bool) -> NDArray[np.object_]:
    """The name of each row's place: all of its digits, so that it is the same in every table.

    On the globe, longitudes a whole turn apart are one place.
    """
    import pandas as pd

    places = of_one_turn(positions) if globe else positions
    codes = pd.DataFrame(places).groupby([*range(positions.shape[1])], sort=False).ngroup().to_numpy()
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    names = [" ".join(np.format_float_positional(x, trim="-") for x in place) for place in places[first]]
    return np.array(names, dtype=object)[codes]


def of_one_turn(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions with longitudes in [-180, 180), to six decimals."""
    turned = np.round((positions[:, 0] + 180) % 360, 6) % 360 - 180
    return np.column_stack([np.round(turned, 6), positions[:, 1]])


def averaged(columns: NDArray[np.float64], first: NDArray[np.bool_], turns: Sequence[float]) -> NDArray[np.float64]:
    """Means over groups of rows, skipping NaN; a row that stands alone or equals its group keeps its exact value.

    A group begins at each `first`. Where `turns` is not NaN the column holds angles, whose full turn begins there, in
    degrees; they are averaged as unit vectors, and where these cancel, the first of the group is taken.
    """
    if first.all():
        return columns
    starts = np.flatnonzero(first)
    begun = np.nan_to_num(columns[starts])
    apart = columns - np.repeat(begun, np.diff(starts, append=len(columns)), axis=0)
    known = ~np.isnan(apart)
    count = np.add.reduceat(known.astype(np.int64), starts)
    apart = np.where(known, apart, 0.0)
    angles = ~np.isnan(turns)
    mean = np.add.reduceat(apart, starts) / np.maximum(count, 1)
    vectors = np.add.reduceat(known[:, angles] * np.exp(1j * np.radians(apart[:, angles])), starts)
    mean[:, angles] = np.where(np.abs(vectors) < 1e-9, 0.0, np.angle(vectors, deg=True))
    # Rounded, as otherwise an angle just below a whole turn would stay there.
    whole = np.round(begun + mean, 9)
    means = np.where(angles & (mean != 0), whole - 360 * np.floor((whole - turns) / 360), begun + mean)
    return np.where(count > 0, means, np.nan)
