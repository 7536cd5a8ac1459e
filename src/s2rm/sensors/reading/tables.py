"""Long tables, one row per time and place, read into reports and written back."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from s2rm.extras import require
from s2rm.names import one_line
from s2rm.sensors.marginals import out_of_range, with_found
from s2rm.sensors.reading.binning import (
    Spacing,
    averaged,
    bins,
    of_one_step,
    place_names,
    silent_times,
    warn_of_several_places,
    warn_of_several_values,
)
from s2rm.sensors.reading.codes import (
    ranges,
    warn_of_codes,
    warn_of_directions,
    warn_of_radians,
    warn_of_strays,
    warn_of_units,
)
from s2rm.sensors.reading.sources import Cells, open_source
from s2rm.sensors.reading.store import check_range, is_store, read_store
from s2rm.sensors.reading.tables_ahead import expect_known, known_ahead, read_known_ahead
from s2rm.sensors.reading.tallies import Tally
from s2rm.sensors.reports import Places, Reports
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import step_microseconds

if TYPE_CHECKING:
    from pandas import DataFrame

TURNS = (-180.0, 0.0, 20.0, -360.0)
"""where tables begin to count longitudes; those of the oceans at 20, so that no ocean is cut in two"""
TURN = (-360.0, 720.0)
"""range of directions, degrees: a turn, and one before and after it"""


def read_reports(source: object, columns: Columns | None = None, to_fit: bool = True, ahead: object = None) -> Reports:
    """Read the observations in a long table, in its units, and bin them to time steps.

    Step 0 begins at the earliest time, rounded down to a whole step since 1970. Several observations of one sensor
    within a step are averaged, each value over the cells that are not empty; directions and longitudes are averaged as
    unit vectors. Rows without any value are dropped. If no column names the sensors, each place, rounded to six
    decimals, is a sensor. If `columns.globe` is not given, it is determined and set in the columns of the reports.

    Args:
        source: path of a CSV (.csv, .tsv or .txt, also with .gz), Parquet, NetCDF or Zarr file; a pandas DataFrame; an
            xarray Dataset of stations, (time, station), or of a grid, (time, lat, lon), each cell of which is a sensor;
            or the folder of a store that [`pack`][s2rm.sensors.reading.packing.pack] wrote, of which only what is
            needed is read.
        columns: the meaning of the columns; optional for a store. Times are ISO 8601 strings or datetimes, in UTC if
            they have no time zone.
        to_fit: refuse tables that no model can be fitted to: one step, one sensor, or an empty or constant value.
        ahead: a separate table or Dataset of the quantities known ahead, with the same columns of time and position;
            without position columns they hold everywhere. If not given, `columns.ahead` are read from the table itself,
            in which rows without values may give future times.

    Raises:
        ValueError: a source that cannot be read or does not contain observations; one line that names the column and
            the row, counted from 1 without the header.
        ImportError: the extra `tables` is not installed.
    """
    if ahead is not None and columns is not None and not columns.ahead:
        raise ValueError(
            "read: expected no table of what is known ahead, as no columns are named so, got one that would not be "
            "used; name them (--ahead) when fitting, or leave the table out"
        )
    if is_store(source):
        if ahead is not None and columns is None:
            raise ValueError(
                f"read: expected the columns of what is known ahead of the store {source}, got none; give its columns "
                "with these as ahead"
            )
        reports = read_store(cast(str, source), columns, to_fit)
        if columns is None or not columns.ahead:
            return reports
        if ahead is None:
            raise ValueError(
                f"read: the store {source} holds nothing that is known ahead, expected a table of its own with "
                f"{', '.join(columns.ahead)}, got none; give one"
            )
        beside = read_known_ahead(ahead, columns, reports.step_length)
        columns = replace(reports.columns, ahead=columns.ahead, flow=columns.flow)
        reports = replace(reports, columns=columns, ahead=beside)
        expect_known(beside, reports, to_fit)
        return reports
    if columns is None:
        raise ValueError("read: expected the columns of a table, got none; only a store says what its columns mean")
    require("tables")
    import pandas as pd

    length = step_microseconds(columns.step)
    columns = replace(columns, globe=columns.on_the_globe)
    opened = open_source(source, columns if ahead is None else replace(columns, ahead=(), flow=()))
    if opened.columns.notation != columns.notation:
        print(one_line(f"{opened.name}: read with {opened.columns.notation}"), file=sys.stderr, flush=True)
    # Separator and encoding are plain in each table; these need not be in a short one.
    columns = replace(columns, decimal=opened.columns.decimal, time_format=opened.columns.time_format)
    values, there = measured(opened, columns, to_fit)
    cells = opened.where(there)
    positions, names = positions_of(cells, columns)
    sensor, sensors = pd.factorize(names, sort=True)
    if to_fit and len(sensors) < 2:
        raise ValueError(f"read: expected at least 2 sensors in {cells.name}, got only {sensors[0]!r}; add another")
    heard = to_fit or there.all() or bool(opened.columns.ahead)  # rows of the future are no silence
    nothing = ~there
    if columns.ahead and columns.sensor and not heard:  # what is known ahead is of no sensor
        nothing &= ~opened.empty(columns.sensor)
    silent = np.empty(0, np.int64) if heard else silent_times(opened.where(nothing), columns.time)
    times, step, start, num_steps = bins(cells, columns, length, silent)
    if to_fit and not step.any():
        raise ValueError(f"read: all of {cells.name} is in one step of {columns.step!r}; {of_one_step(start)}")
    key = step * len(sensors) + sensor
    order = np.argsort(key, kind="stable")
    if to_fit:
        spacing = Spacing(length, len(sensors))
        spacing.add(times, sensor)
        spacing.warn(cells.name, columns)
        for name, column, circular in zip(columns.values, values.T, columns.is_circular, strict=True):
            if not circular:
                warn_of_units(cells.name, name, *ranges(column, sensor, len(sensors)), sensors)
    warn_of_several_values(cells, columns, key, order, times, values, names)
    if columns.sensor is not None:
        warn_of_several_places(cells, key, order, times, positions, names)
    first = np.diff(key[order], prepend=-1) > 0
    turns = full_turns(columns, positions[:, 0].min(initial=np.inf), positions[:, 0].max(initial=-np.inf))
    covariates = cells.numbers(columns.covariates)
    blocks = np.concatenate([positions, values, covariates], 1)
    warn_of_numbers(cells.name, columns, [Tally.of(column) for column in blocks.T])
    ends = np.cumsum([positions.shape[1], values.shape[1]])
    positions, values, covariates = np.split(averaged(blocks[order], first, turns), ends, 1)
    columns, found = with_found(columns, values) if to_fit else (columns, ())  # of steps, as a store has them
    kept = order[first]
    check_counts(cells.name, columns, values)
    for name, column in zip(columns.values, values.T, strict=True):
        low, high = np.nanmin(column, initial=np.inf), np.nanmax(column, initial=-np.inf)
        if to_fit:
            check_range(cells.name, name, low, high)
    observed = (positions, values.astype(np.float32), covariates.astype(np.float32))
    rows = (step[kept], sensor[kept].astype(np.int64), *observed)
    known = None
    if columns.ahead:
        unit = np.timedelta64(length, "us")
        known = known_ahead(opened, columns, unit) if ahead is None else read_known_ahead(ahead, columns, unit)
    reports = Reports(columns, start, num_steps, tuple(sensors), *rows, known, found)
    if known is not None and len(reports):
        expect_known(known, reports, to_fit)
    return reports


def read_places(source: object, columns: Columns) -> Places:
    """The places in a table, one per row, with the same checks as for reports.

    Args:
        source: path of a CSV or Parquet file, or a DataFrame, with the columns of the position and, if
            known, of the sensors' names and the covariates.
        columns: the meaning of the columns.

    Raises:
        ValueError: a source that cannot be read, a missing or invalid position, or a sensor without a name; one line
            that names the column and the row.
    """
    require("tables")
    columns = replace(columns, globe=columns.on_the_globe)
    cells = open_source(source, columns, places=True)
    named = columns.sensor is not None and columns.sensor in cells.frame
    if columns.sensor is not None and named:
        cells.expect_filled(columns.sensor, cells.empty(columns.sensor), "")
    positions = cells.numbers(columns.position)
    for name, column in zip(columns.position, positions.T, strict=True):
        cells.expect_filled(name, np.isnan(column), "")
    if columns.globe:
        cells.expect_degrees(columns.position, positions)
    absent = [name for name in (columns.sensor, *columns.covariates) if name and name not in cells.frame]
    for name in absent:
        like = next((other for other in cells.others if other.lower().strip() == name.lower()), None)
        if like is not None:
            warnings.warn(
                f"read: found no column {name!r} in {cells.name}, but {like!r}, which is not read; rename it",
                stacklevel=3,
            )
        elif name != columns.sensor and not named:
            warnings.warn(
                f"read: found no column {name!r} in {cells.name}, so that it is unknown at these places; give it there",
                stacklevel=3,
            )
    covariates = np.full((len(positions), len(columns.covariates)), np.nan, np.float32)
    for index, name in enumerate(columns.covariates):
        if name in cells.frame:
            covariates[:, index] = cells.numbers([name])[:, 0]
    names = tuple(cells.texts(columns.sensor)) if columns.sensor is not None and named else None
    return Places(positions, covariates, names)


def to_frame(reports: Reports) -> DataFrame:
    """Reports as a long table, a pandas DataFrame with the columns they were read from; times are the starts of steps.

    What is known ahead follows in rows of its own, without a sensor and without values.
    """
    require("tables")
    import pandas as pd

    columns = reports.columns
    times = reports.start + reports.step * reports.step_length
    data: dict[str, object] = {columns.time: pd.DatetimeIndex(times).tz_localize("UTC")}
    if columns.sensor:
        data[columns.sensor] = np.array(reports.sensors, dtype=object)[reports.sensor]
    data.update(zip(columns.position, reports.positions.T, strict=True))
    data.update(zip(columns.values, reports.values.T, strict=True))
    data.update(zip(columns.covariates, reports.covariates.T, strict=True))
    frame = pd.DataFrame(data)
    if reports.ahead is None:
        return frame
    known = reports.ahead
    step, place = np.nonzero(~np.isnan(known.values).all(-1))
    later: dict[str, object] = {columns.time: pd.DatetimeIndex(known.start + step * known.step).tz_localize("UTC")}
    later.update(zip(columns.position, known.positions[place].T, strict=True))
    later.update(zip(columns.ahead, known.values[step, place].T, strict=True))
    return pd.concat([frame, pd.DataFrame(later)], ignore_index=True)


def full_turns(columns: Columns, west: float, east: float) -> list[float]:
    """Where a full turn begins in each column of positions, values and covariates, NaN where it holds no angles; `west`
    and `east` are the ends of all longitudes."""
    turns = [np.nan] * len(columns.position)
    if columns.globe:
        turns[0] = next((turn for turn in TURNS if turn <= west and east <= turn + 360), TURNS[-1])
    return turns + [0.0 if turns else np.nan for turns in columns.is_circular] + [np.nan] * len(columns.covariates)


def measured(cells: Cells, columns: Columns, to_fit: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values of the rows with any, `(measured rows, C)`, and which rows these are, `(rows,)`."""
    values = cells.numbers(columns.values)
    kinds = zip(columns.values, values.T, columns.is_circular, columns.kinds, strict=True)
    for name, column, circular, kind in kinds:
        if to_fit and np.isnan(column).all():
            raise ValueError(f"read: {name!r} is empty in all rows of {cells.name}; leave it out of the values")
        if circular:
            low, high = TURN
            remedy = "leave the cell empty where the direction is missing or variable"
            cells.refuse((column < low) | (column > high), name, "directions in degrees", column, remedy)
        wrong, expected = out_of_range(column, kind)
        remedy = "correct it, name what means missing, or fit with it declared heavy_tailed, which has no ends"
        cells.refuse(wrong, name, expected, column, remedy)
        if kind == "counts":
            cells.refuse(column % 1 > 0, name, "whole numbers", column, "round them, or declare nonnegative instead")
    there = np.asarray(np.isfinite(values).any(1))
    few = cells.where(there)
    for name in filter(None, (columns.time, columns.sensor)):
        few.expect_filled(name, few.empty(name))
    return values[there], there


def warn_of_numbers(table: str, columns: Columns, tallies: Sequence[Tally]) -> None:
    """Warn of codes of missing values, of values far from all others, and of what may be directions, in the positions,
    values and covariates of a table."""
    ends = np.cumsum([len(columns.position), len(columns.values)])
    for name, tally in zip(columns.position, tallies[: ends[0]], strict=True):
        if not columns.globe:
            warn_of_codes(table, name, tally)
    for name, tally, circular in zip(columns.values, tallies[ends[0] : ends[1]], columns.is_circular, strict=True):
        if circular:
            warn_of_radians(table, name, tally)
        else:
            warn_of_directions(table, name, tally, f"declare it, with --circular {name}")
        if not warn_of_codes(table, name, tally, circular) and not circular:
            warn_of_strays(table, name, tally)
    for name, tally in zip(columns.covariates, tallies[ends[1] :], strict=True):
        warn_of_codes(table, name, tally)


def check_counts(what: str, columns: Columns, values: NDArray[np.float64]) -> None:
    """Refuse counts that are means over the rows of a sensor within a step: they would be no counts."""
    for name, column, kind in zip(columns.values, values.T, columns.kinds, strict=True):
        if kind == "counts" and (column % 1 > 0).any():
            raise ValueError(
                f"read: expected counts {name!r} of {what} once in each step of {columns.step!r} of a sensor, got "
                "several that differ, whose mean is no count; sum them, take a shorter step, or declare nonnegative"
            )


def positions_of(cells: Cells, columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """The positions `(rows, n)`, and the names of the sensors `(rows,)`."""
    positions = cells.numbers(columns.position)
    for name, column in zip(columns.position, positions.T, strict=True):
        cells.expect_filled(name, np.isnan(column))
    if columns.globe:
        cells.expect_degrees(columns.position, positions)
    if columns.sensor is not None:
        return positions, cells.texts(columns.sensor)
    positions = np.round(positions, 6) + 0.0  # -0.0 is the place 0.0
    return positions, place_names(positions, bool(columns.globe))
