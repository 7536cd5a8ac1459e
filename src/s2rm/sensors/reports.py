"""What sensors reported: one row for each sensor and time step, in the user's own units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGITUDES, LATITUDES = ("lon", "longitude", "lng", "long"), ("lat", "latitude")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what.

    Raises:
        ValueError: no position, no values, a column named twice, or a direction or covariate that is none.
    """

    time: str
    """when"""
    position: tuple[str, ...]
    """where: longitude and latitude in degrees, or planar coordinates of any unit"""
    values: tuple[str, ...]
    """what is measured and forecast"""
    sensor: str | None = None
    """who reports; without it each place is a sensor"""
    covariates: tuple[str, ...] = ()
    """what is known of a place and does not change, such as altitude"""
    circular: tuple[str, ...] = ()
    """those of the values that are directions in degrees"""
    step: str = "1h"
    """the time step, as pandas writes durations; reports are binned to it"""

    def __post_init__(self) -> None:
        for name in ("position", "values"):
            if not getattr(self, name):
                raise ValueError(f"columns: expected at least one column for {name}, got none; name it")
        named = [self.time, *self.position, *self.values, *self.covariates, *([self.sensor] if self.sensor else [])]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(f"columns: {', '.join(twice)} named twice; a column has one meaning")
        unknown = [name for name in self.circular if name not in self.values]
        if unknown:
            raise ValueError(f"columns: circular must be among the values, {list(self.values)}, got {unknown}")

    @property
    def on_the_globe(self) -> bool:
        """Whether positions are longitude and latitude in degrees, by the names of the columns, in this order."""
        names = [name.lower() for name in self.position]
        return len(names) == 2 and names[0] in LONGITUDES and names[1] in LATITUDES


@dataclass(frozen=True, eq=False)
class Reports:
    """Reports, sorted by step and then by sensor; at most one of a sensor at a step.

    R reports, C values, n coordinates, F covariates, T steps, S sensors.
    """

    columns: Columns
    start: np.datetime64
    """when step 0 begins, UTC"""
    num_steps: int
    """T; the last steps may be without reports"""
    sensors: tuple[str, ...]
    """names, of length S"""
    step: NDArray[np.int64]
    """`(R,)`, 0 to T-1"""
    sensor: NDArray[np.int64]
    """`(R,)`, 0 to S-1"""
    positions: NDArray[np.float64]
    """`(R, n)`, in the user's units"""
    values: NDArray[np.float32]
    """`(R, C)`, in the user's units; NaN where not measured, never all of a row"""
    covariates: NDArray[np.float32]
    """`(R, F)`, in the user's units; NaN where not known"""

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def step_length(self) -> np.timedelta64:
        """The time step."""
        import pandas as pd

        return pd.Timedelta(self.columns.step).to_timedelta64()

    @property
    def times(self) -> NDArray[Any]:
        """`(T,)`: when each step begins, UTC."""
        return self.start + np.arange(self.num_steps) * self.step_length

    def where(self, rows: NDArray[np.bool_]) -> Reports:
        """Only these rows, of the same steps and sensors."""
        names = ("step", "sensor", "positions", "values", "covariates")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def between(self, first: int, last: int) -> Reports:
        """The steps from `first` to before `last`; step `first` becomes step 0."""
        few = self.where((self.step >= first) & (self.step < last))
        start = self.start + first * self.step_length
        return replace(few, step=few.step - first, start=start, num_steps=last - first)

    def of(self, sensors: NDArray[np.bool_]) -> Reports:
        """What these sensors, bool `(S,)`, reported."""
        return self.where(sensors[self.sensor])


def merge(earlier: Reports, later: Reports) -> Reports:
    """All of both; of two reports of a sensor at a step, the later's.

    Raises:
        ValueError: other columns.
    """
    if earlier.columns != later.columns:
        raise ValueError(f"merge: expected reports of the same columns, {earlier.columns}, got {later.columns}")
    both, length = (earlier, later), earlier.step_length
    start = min(part.start for part in both)
    shifts = [round((part.start - start) / length) for part in both]
    sensors = tuple(sorted({*earlier.sensors, *later.sensors}))
    place = {name: index for index, name in enumerate(sensors)}
    step = np.concatenate([part.step + shift for part, shift in zip(both, shifts, strict=True)])
    sensor = np.concatenate([np.array([place[n] for n in part.sensors], np.int64)[part.sensor] for part in both])
    # Of equal keys the last in the order stays.
    order = np.lexsort((np.arange(len(step)), sensor, step))
    last = np.append((np.diff(step[order]) != 0) | (np.diff(sensor[order]) != 0), True)[: len(order)]
    rows = order[last]
    return replace(
        earlier, start=start, sensors=sensors, step=step[rows], sensor=sensor[rows],
        num_steps=max(part.num_steps + shift for part, shift in zip(both, shifts, strict=True)),
        **{name: np.concatenate([getattr(part, name) for part in both])[rows]
           for name in ("positions", "values", "covariates")},
    )  # fmt: skip


class Places(NamedTuple):
    """Where to forecast."""

    positions: NDArray[np.float64]
    """`(Q, n)`, in the user's units"""
    covariates: NDArray[np.float32]
    """`(Q, F)`, in the user's units; NaN where not known"""
    names: tuple[str, ...] | None = None
    """of the sensors there"""


def stations(reports: Reports) -> Places:
    """Where each sensor last reported from."""
    sensors, first_from_the_end = np.unique(reports.sensor[::-1], return_index=True)
    rows = len(reports) - 1 - first_from_the_end
    names = tuple(reports.sensors[sensor] for sensor in sensors)
    return Places(reports.positions[rows], reports.covariates[rows], names)


def grid(reports: Reports, side: int = 50) -> Places:
    """A grid over all places from which was reported, `side` points along each coordinate; covariates unknown."""
    corners = zip(reports.positions.min(0), reports.positions.max(0), strict=True)
    lines = [np.linspace(low, high, side) for low, high in corners]
    positions = np.stack([part.ravel() for part in np.meshgrid(*lines, indexing="ij")], -1)
    return Places(positions, np.full((len(positions), len(reports.columns.covariates)), np.nan, np.float32))
