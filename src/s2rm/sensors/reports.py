"""Observations of sensors, one row per sensor and time step, in the user's own units; their places and angles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Integer
from numpy.typing import ArrayLike, NDArray

from s2rm.sensors.given import mask_of, told, whole_number, whole_numbers
from s2rm.sensors.known_ahead import KnownAhead
from s2rm.sensors.mapped import distinct, is_mapped, parts, room
from s2rm.sensors.settings import Columns

ROWS = ("step", "sensor", "positions", "values", "covariates")
"""what `Reports` holds of each report"""
DEGREES = ((-360.0, 380.0), (-90.0, 90.0))
"""range of longitudes and of latitudes"""
EARTH_RADIUS = 6371.0
"""km"""


@dataclass(frozen=True, eq=False)
class Reports:
    """Observations in the user's units, sorted by step and then by sensor, with at most one per sensor and step.

    Rows in another order are sorted on construction. The arrays of a store are memory-mapped; they are processed in
    parts, and selections from them are memory-mapped too.

    R reports, C values, n coordinates, F covariates, T steps from 0 to T-1, S sensors from 0 to S-1.

    Raises:
        ValueError: steps or sensors that are not integers; sensors without a name; or, if `columns.globe` is not given,
            names of positions that are ambiguous, or that mean degrees although the positions are out of range.
    """

    columns: Columns
    """the meaning of the columns; `columns.globe` is determined here if it is not given"""
    start: np.datetime64
    """when step 0 begins, UTC"""
    num_steps: int
    """T; the last steps may be without reports"""
    sensors: tuple[str, ...]
    """names of the S sensors"""
    step: Integer[NDArray, " R"]
    sensor: Integer[NDArray, " R"]
    """both become int64"""
    positions: Float64[NDArray, "R n"]
    values: Float32[NDArray, "R C"]
    """NaN where not measured, but each report has at least one value"""
    covariates: Float32[NDArray, "R F"]
    """an omitted covariate keeps the last value of its sensor; NaN if there is none"""
    ahead: KnownAhead | None = None
    """quantities known ahead, in the past and the future, if the columns name any"""
    found: tuple[str, ...] = ()
    """those of `columns.nonnegative` that were not declared: the table alone suggests them"""

    def __post_init__(self) -> None:
        if self.columns.globe is None:
            columns = replace(self.columns, globe=self.columns.on_the_globe)
            if columns.globe and not in_degrees(self.positions):
                raise ValueError(
                    f"reports: expected degrees in {columns.position}, as the names say, got positions out of range; "
                    "set globe to False where they are planar"
                )
            object.__setattr__(self, "columns", columns)
        for name in ("step", "sensor"):
            whole = whole_numbers(getattr(self, name))
            if whole is None:
                raise ValueError(
                    f"reports: expected whole numbers as {name}, got {told(getattr(self, name))}; round them"
                )
            object.__setattr__(self, name, whole)
        if not self._in_order:
            order = np.lexsort((self.sensor, self.step))
            for name in ROWS:
                object.__setattr__(self, name, getattr(self, name)[order])
        for name, number in (("step", self.num_steps), ("sensor", len(self.sensors))):
            numbers = getattr(self, name)
            if any((numbers[part] < 0).any() or (numbers[part] >= number).any() for part in self.parts):
                raise ValueError(
                    f"reports: expected each {name} from 0 to {number - 1}, as there are {number}, "
                    f"got {numbers.min()} to {numbers.max()}; number them within that"
                )
        if any(np.isnan(self.covariates[part]).any() for part in self.parts):
            object.__setattr__(self, "covariates", self._carried_forward())

    def _carried_forward(self) -> Float32[NDArray, "R F"]:
        """The covariates, where what a report does not say is what its sensor last said: these themselves where that is
        so already, since selections from them should take no more room."""
        given, carried = self.covariates, None
        last = np.full((len(self.sensors), given.shape[1]), np.nan, given.dtype)
        for part in self.parts:
            order = np.argsort(self.sensor[part], kind="stable")
            sensor, rows = self.sensor[part][order], given[part][order]
            new, number = np.append(True, sensor[1:] != sensor[:-1])[: len(order)], np.arange(len(order))[:, None]
            rows[new] = np.where(np.isnan(rows[new]), last[sensor[new]], rows[new])
            # Of each row the last one, back to the first of its sensor, that says something.
            said = np.maximum.accumulate(np.where(~np.isnan(rows) | new[:, None], number, 0), 0)
            rows = np.take_along_axis(rows, said, 0)
            last[sensor] = rows  # of several rows of a sensor, the last one stays
            if carried is None and np.isnan(rows).sum() < np.isnan(given[part]).sum():
                carried = room(self.step, given.shape, given.dtype)
                for earlier in self.parts:
                    carried[earlier] = given[earlier]
            if carried is not None:
                carried[part.start + order] = rows
        return given if carried is None else carried

    @property
    def _in_order(self) -> bool:
        for part in self.parts:
            few = slice(part.start, part.stop + 1)  # with the first row of the next part
            step, sensor = self.step[few], self.sensor[few]
            later, same = step[1:] < step[:-1], step[1:] == step[:-1]
            if (later | (same & (sensor[1:] < sensor[:-1]))).any():
                return False
        return True

    def __len__(self) -> int:
        return len(self.step)

    @cached_property
    def step_length(self) -> np.timedelta64:
        """The time step."""
        import pandas as pd

        return pd.Timedelta(self.columns.step).to_timedelta64()

    @property
    def times(self) -> NDArray:
        """`(T,)`: when each step begins, UTC."""
        return self.start + np.arange(self.num_steps) * self.step_length

    @property
    def parts(self) -> list[slice]:
        """The rows in slices small enough to be processed in memory."""
        widths = (self.positions, self.values, self.covariates)
        return [*parts(len(self), 2 + sum(array.shape[1] for array in widths))]

    @cached_property
    def places(self) -> Float64[NDArray, "P n"]:
        """The distinct positions, in lexical order."""
        return distinct(self.positions)[0]

    @cached_property
    def reporting(self) -> Integer[NDArray, " N"]:
        """The sensors that have any report, in order."""
        return np.flatnonzero(np.bincount(self.sensor, minlength=len(self.sensors)))

    def where(self, rows: ArrayLike) -> Reports:
        """Only the rows where the mask, bool `(R,)`, is True; steps and sensors keep their numbers."""
        kept = mask_of(rows, "reports: expected", len(self), "reports")
        return self._where(lambda part: kept[part])

    def _where(self, mask: Callable[[slice], NDArray[np.bool_]]) -> Reports:
        """Only the rows for which the mask of a slice of them is true."""
        if not is_mapped(self.step):
            kept = mask(slice(None))
            return replace(self, **{name: getattr(self, name)[kept] for name in ROWS})
        number, end = sum(int(np.count_nonzero(mask(part))) for part in self.parts), 0
        arrays = {name: getattr(self, name) for name in ROWS}
        rows: dict[str, Any] = {
            name: room(self.step, (number, *array.shape[1:]), array.dtype) for name, array in arrays.items()
        }
        for part in self.parts:
            kept = mask(part)
            begin, end = end, end + int(np.count_nonzero(kept))
            for name, array in arrays.items():
                rows[name][begin:end] = array[part][kept]
        return replace(self, **rows)

    def between(self, first: int | np.integer, last: int | np.integer) -> Reports:
        """The steps from `first` to `last - 1`; step `first` becomes step 0."""
        begin, end = whole_number(first), whole_number(last)
        if begin is None or end is None or end < begin:
            raise ValueError(
                f"reports: expected two steps in order, got {told(first)} and {told(last)}; name the first step, and "
                "the one after the last, as whole numbers"
            )
        low, high = np.searchsorted(self.step, [begin, end]).tolist()
        rows = {name: getattr(self, name)[low:high] for name in ROWS}
        if not is_mapped(self.step):
            rows = {name: array.copy() for name, array in rows.items()}
        if begin:
            step = room(self.step, (high - low,), np.int64)
            for part in parts(len(step)):
                step[part] = rows["step"][part] - begin
            rows["step"] = step
        return replace(self, start=self.start + begin * self.step_length, num_steps=end - begin, **rows)

    def of(self, sensors: ArrayLike) -> Reports:
        """Only the reports of the sensors where the mask, bool `(S,)`, is True."""
        kept = mask_of(sensors, "reports: expected", len(self.sensors), "sensors")
        return self._where(lambda part: kept[self.sensor[part]])


def in_degrees(positions: NDArray[np.float64]) -> bool:
    """Whether all positions can be longitudes and latitudes."""
    low, high = np.array(DEGREES).T
    return bool(((low <= positions) & (positions <= high)).all())


def on_sphere(positions: NDArray) -> NDArray[np.float64]:
    """Longitudes and latitudes in degrees, `(..., 2)`, as unit vectors from the centre of the Earth, `(..., 3)`."""
    longitude, latitude = np.radians(np.moveaxis(positions.astype(np.float64), -1, 0))
    ring = np.cos(latitude)
    return np.stack([ring * np.cos(longitude), ring * np.sin(longitude), np.sin(latitude)], -1)


def difference(
    values: Float[NDArray, "*#batch C"], others: Float[NDArray, "*#batch C"], circular: Bool[NDArray, " C"]
) -> Float[NDArray, "*#batch C"]:
    """`values - others`; for directions in degrees the shorter way round, in [-180, 180)."""
    error = values - others
    return np.where(circular, (error + 180) % 360 - 180, error)


def to_components(values: NDArray | np.float64, circular: bool) -> NDArray:
    """Numbers that can be averaged: directions as unit vectors `(..., 2)`, other values as `(..., 1)`."""
    radians = np.radians(values)
    return np.stack([np.cos(radians), np.sin(radians)] if circular else [values], -1)


def from_components(values: NDArray) -> NDArray:
    """The inverse of `to_components`; directions in [0, 360), whatever the length of the vectors."""
    if values.shape[-1] == 1:
        return values[..., 0]
    direction = np.degrees(np.arctan2(values[..., 1], values[..., 0])) % 360
    # A hair below zero rounds up to 360.
    return np.where(direction < 360, direction, 0.0)


def merge(earlier: Reports, later: Reports) -> Reports:
    """The reports of both, with the same columns; what `later` holds of a sensor and step takes precedence."""
    if earlier.columns != later.columns:
        raise ValueError(f"merge: expected reports of the same columns, {earlier.columns}, got {later.columns}")
    start, sensors = min(earlier.start, later.start), tuple(sorted({*earlier.sensors, *later.sensors}))
    place = {name: index for index, name in enumerate(sensors)}
    both = []
    for part in (earlier, later):
        shift = round((part.start - start) / part.step_length)
        renamed = np.array([place[name] for name in part.sensors], np.int64)[part.sensor]
        steps = part.num_steps + shift
        both.append(replace(part, step=part.step + shift, sensor=renamed, sensors=sensors, num_steps=steps))
    rows = {name: np.concatenate([getattr(part, name) for part in both]) for name in ROWS}
    # Stable: of equal keys the report of `later` comes last, and stays.
    order = np.lexsort((rows["sensor"], rows["step"]))
    keys = np.stack([rows["step"], rows["sensor"]])[:, order]
    again = np.flatnonzero(~np.append((np.diff(keys) != 0).any(0), True)[: len(order)])
    for name in ("values", "covariates"):
        own, before = rows[name][order[again + 1]], rows[name][order[again]]
        rows[name][order[again + 1]] = np.where(np.isnan(own), before, own)
    order = np.delete(order, again)
    kept: dict[str, Any] = {name: part[order] for name, part in rows.items()}
    ahead = later.ahead if earlier.ahead is None else earlier.ahead.updated(later.ahead)
    most = max(part.num_steps for part in both)
    return replace(earlier, start=start, sensors=sensors, num_steps=most, ahead=ahead, **kept)


class Places(NamedTuple):
    """Where to forecast: Q places in the user's units, and the names of the sensors there."""

    positions: Float64[NDArray, "Q n"]
    covariates: Float32[NDArray, "Q F"]
    """NaN where not known"""
    names: tuple[str, ...] | None = None


def expect_reports(given: object, what: str) -> None:
    """Refuse what is no `Reports`, such as a table that was not read; `what` first."""
    if not isinstance(given, Reports):
        raise ValueError(f"{what}: expected Reports, got {type(given).__name__}; make them with read_reports")


def arrays_of(reports: Reports) -> dict[str, NDArray]:
    """The arrays that reports hold, with those of what is known ahead, by which they are known again."""
    arrays = {name: getattr(reports, name) for name in ROWS}
    if (known := reports.ahead) is None:
        return arrays
    start = np.array([known.start.astype("datetime64[us]").astype(np.int64)])
    return {**arrays, "known ahead": known.values, "known ahead at": known.positions, "known ahead from": start}


def stations(reports: Reports) -> Places:
    """The place from which each sensor last reported, with the last known value of each covariate."""
    expect_reports(reports, "stations")
    last = np.full(len(reports.sensors), -1)
    covariates = np.full((len(reports.sensors), reports.covariates.shape[1]), np.nan, np.float32)
    for part in reports.parts:  # of several, the last one stays
        sensor, known = reports.sensor[part], reports.covariates[part]
        last[sensor] = np.arange(part.start, part.stop)
        row, column = np.nonzero(~np.isnan(known))
        covariates[sensor[row], column] = known[row, column]
    sensors = reports.reporting
    names = tuple(reports.sensors[sensor] for sensor in sensors)
    return Places(reports.positions[last[sensors]], covariates[sensors], names)


def last_places(known: Reports, asked: Reports) -> Places:
    """Where each of the R reports in `asked` is forecast: at the last position of its sensor in `known`, or at its own
    where that has none. Covariates likewise: how both change later is not known."""
    last = stations(known)
    row = np.full(len(known.sensors), -1)
    row[known.reporting] = np.arange(len(last.positions))
    row = row[asked.sensor]
    if not len(last.positions):
        return Places(asked.positions, asked.covariates)
    positions = np.where(row[:, None] >= 0, last.positions[row], asked.positions)
    before = np.where(row[:, None] >= 0, last.covariates[row], np.float32(np.nan))
    return Places(positions, np.where(np.isnan(before), asked.covariates, before))


def grid(reports: Reports, side: int = 50) -> Places:
    """A regular grid that covers all reports, `side` points along each coordinate; its covariates are unknown.

    Across the meridian of 180 degrees its longitudes continue from that of the westernmost report.

    Raises:
        ValueError: there are no reports to cover, or `side` is not a whole number of at least 1.
    """
    expect_reports(reports, "grid")
    points = whole_number(side)
    if points is None or points < 1:
        raise ValueError(f"grid: expected a whole number of points, at least 1, got {told(side)}; name one, such as 50")
    if not len(reports):
        raise ValueError("grid: expected reports to cover, got none; give reports, or places of your own")
    covered = together(reports.places, reports)
    lines = np.linspace(covered.min(0), covered.max(0), points, axis=1)
    positions = np.stack([part.ravel() for part in np.meshgrid(*lines, indexing="ij")], -1)
    return Places(positions, np.full((len(positions), len(reports.columns.covariates)), np.nan, np.float32))


def together(positions: Float64[NDArray, "Q n"], reports: Reports) -> Float64[NDArray, "Q n"]:
    """Positions `(Q, n)` with longitudes counted from the middle of the widest gap between reports, so that these are
    contiguous, and places near them with them.

    Planar positions, and those without a gap of more than a quarter of a turn, are unchanged.
    """
    if not reports.columns.globe or not len(reports):
        return positions
    longitudes = reports.places[:, 0]
    turn = np.unique(longitudes % 360)
    gaps = np.diff(turn, append=turn[0] + 360)
    widest = int(gaps.argmax())
    if gaps[widest] <= max(90.0, 360 - np.ptp(longitudes) + 1e-6):
        return positions
    # The first longitude after the gap keeps the turn that its reports have.
    first = turn[(widest + 1) % len(turn)]
    west = longitudes[np.isclose(longitudes % 360, first)].min()
    # Within the range of degrees, as far as it allows.
    west -= 360 * (west + (np.round((longitudes - west) % 360, 9) % 360).max() > DEGREES[0][1])
    moved, before = positions.copy(), gaps[widest] / 2
    moved[:, 0] = west - before + np.round((positions[:, 0] - west + before) % 360, 9) % 360
    return moved
