"""Long tables, one row for each time and place: read into reports, and written again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s2rm.extras import require
from s2rm.sensors.reports import Reports
from s2rm.sensors.settings import Columns
from s2rm.sensors.sources import Cells, open_source
from s2rm.sensors.times import step_microseconds

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_STEPS = 10_000_000
TURNS = (-180.0, 0.0, 20.0, -360.0)
"""where tables begin to count longitudes; those of the oceans at 20, so that no ocean is cut in two"""


def read_reports(source: object, columns: Columns, to_fit: bool = True) -> Reports:
    """Read the observations in a long table, in its units, and bin them to time steps.

    Step 0 begins at the earliest time, rounded down to a whole step since 1970. Several observations of one sensor
    within a step are averaged, each value over the cells that are not empty; directions and longitudes are averaged as
    unit vectors. Rows without any value are dropped. Where no column names the sensors, each place, rounded to six
    decimals, is a sensor. Where `columns.globe` is not given it is found out and set in the columns of the reports.

    Args:
        source: path of a CSV (.csv, .csv.gz), Parquet, NetCDF or Zarr file; or a pandas DataFrame; or an xarray
            Dataset of stations, (time, station), or of a grid, (time, lat, lon), each cell of which is a sensor.
        columns: what the columns mean. Times are ISO 8601 texts or datetimes, UTC where they name no zone.
        to_fit: refuse what no model can be fitted to: one step, one sensor, a value that is empty or constant.

    Raises:
        ValueError: a source that cannot be read or does not hold observations; one line, which names the column and
            the row, counted from 1 without the header.
        ImportError: the extra `tables` is not installed.
    """
    require("tables")
    import pandas as pd

    length = step_microseconds(columns.step)
    columns = replace(columns, globe=columns.on_the_globe)
    cells, values = _measured(open_source(source, columns), columns, to_fit)
    positions, names = _positions(cells, columns)
    sensor, sensors = pd.factorize(names, sort=True)
    if to_fit and len(sensors) < 2:
        raise ValueError(f"read: expected at least 2 sensors in {cells.name}, got only {sensors[0]!r}; add another")
    step, start = _bins(cells, columns, length)
    if to_fit and not step.any():
        raise ValueError(f"read: all of {cells.name} is in one step of {columns.step!r}; take a shorter step")
    key = step * len(sensors) + sensor
    order = np.argsort(key, kind="stable")
    first = np.diff(key[order], prepend=-1) > 0
    turns = [np.nan] * len(columns.position)
    if columns.globe:
        west, east = positions[:, 0].min(), positions[:, 0].max()
        turns[0] = next((turn for turn in TURNS if turn <= west and east <= turn + 360), TURNS[-1])
    turns += [0.0 if circular else np.nan for circular in columns.is_circular] + [np.nan] * len(columns.covariates)
    blocks = np.concatenate([positions, values, cells.numbers(columns.covariates)], 1)
    ends = np.cumsum([positions.shape[1], values.shape[1]])
    positions, values, covariates = np.split(_averaged(blocks[order], first, turns), ends, 1)
    kept = order[first]
    observed = (positions, values.astype(np.float32), covariates.astype(np.float32))
    rows = (step[kept], sensor[kept].astype(np.int64), *observed)
    reports = Reports(columns, start, int(step.max()) + 1, tuple(sensors), *rows)
    for name, column in zip(columns.values, reports.values.T, strict=True):
        if to_fit and np.nanmin(column) == np.nanmax(column):
            raise ValueError(f"read: {name!r} is {np.nanmin(column):g} in all of {cells.name}; leave it out")
    return reports


def to_frame(reports: Reports) -> DataFrame:
    """The long table of reports, a pandas DataFrame with the columns they were read from; times begin their steps."""
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
    return pd.DataFrame(data)


def _measured(cells: Cells, columns: Columns, to_fit: bool) -> tuple[Cells, NDArray[np.float64]]:
    """The rows with any value, and their values `(rows, C)`."""
    values = cells.numbers(columns.values)
    for name, column in zip(columns.values, values.T, strict=True):
        if to_fit and np.isnan(column).all():
            raise ValueError(f"read: {name!r} is empty in all rows of {cells.name}; leave it out of the values")
    measured = np.asarray(np.isfinite(values).any(1))
    cells = cells.where(measured)
    for name in filter(None, (columns.time, columns.sensor)):
        cells.expect_filled(name, cells.empty(name))
    return cells, values[measured]


def _positions(cells: Cells, columns: Columns) -> tuple[NDArray[np.float64], NDArray[np.object_]]:
    """The positions `(rows, n)`, and the names of the sensors `(rows,)`."""
    positions = cells.numbers(columns.position)
    for name, column in zip(columns.position, positions.T, strict=True):
        cells.expect_filled(name, np.isnan(column))
    if columns.globe:
        cells.expect_degrees(columns.position, positions)
    if columns.sensor is not None:
        return positions, cells.texts(columns.sensor)
    positions = np.round(positions, 6) + 0.0  # -0.0 is the place 0.0
    return positions, _places(positions)


def _bins(cells: Cells, columns: Columns, length: int) -> tuple[NDArray[np.int64], np.datetime64]:
    """The step of each row, and when step 0 begins."""
    times = cells.times(columns.time)
    bins = times // length
    earliest, latest = int(times.argmin()), int(times.argmax())
    num_steps = int(bins[latest] - bins[earliest]) + 1
    if num_steps > MAX_STEPS:
        first, last = times[[earliest, latest]].astype("datetime64[us]").astype("datetime64[s]")
        enough = math.ceil(int(times[latest] - times[earliest]) / 1e6 / (MAX_STEPS - 1))
        raise ValueError(
            f"read: from {first} (row {cells.rows[earliest]}) to {last} (row {cells.rows[latest]}) of {cells.name} are "
            f"{num_steps:,} steps of {columns.step!r}; mend these times or take a longer step, such as '{enough}s'"
        )
    return bins - bins[earliest], np.datetime64(int(bins[earliest] * length), "us")


def _places(positions: NDArray[np.float64]) -> NDArray[np.object_]:
    """The name of each row's place: as short as `%g`, or with all digits where two places would share a name."""
    import pandas as pd

    codes = pd.DataFrame(positions).groupby([*range(positions.shape[1])], sort=False).ngroup().to_numpy()
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    for digits in (6, 15, 17):
        names = [" ".join(f"{x:.{digits}g}" for x in place) for place in positions[first].tolist()]
        if len(set(names)) == len(names):
            break
    return np.array(names, dtype=object)[codes]


def _averaged(columns: NDArray[np.float64], first: NDArray[np.bool_], turns: Sequence[float]) -> NDArray[np.float64]:
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
