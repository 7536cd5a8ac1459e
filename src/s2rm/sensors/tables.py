"""Long tables, one row for each time and place, read into reports; tables and datasets of reports and forecasts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from s2rm.extras import require
from s2rm.files import write_whole
from s2rm.sensors.reports import Places, Reports
from s2rm.sensors.settings import Columns
from s2rm.sensors.sources import Cells, open_source
from s2rm.sensors.times import step_microseconds

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

MAX_STEPS = 10_000_000
TURNS = (-180.0, 0.0, 20.0, -360.0)
"""where tables begin to count longitudes; those of the oceans at 20, so that no ocean is cut in two"""
_INIT = {"standard_name": "forecast_reference_time", "long_name": "initialisation time, UTC"}
_LEAD = {"standard_name": "forecast_period", "long_name": "lead time"}
_VALID = {"standard_name": "time", "long_name": "valid time, UTC"}


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


@dataclass(frozen=True, eq=False)
class Forecasts:
    """Forecasts with their times and places: O origins, H lead times, Q places, C values."""

    columns: Columns
    places: Places
    init_time: NDArray
    """`(O,)`, the beginning of the last step that is known, UTC"""
    lead_time: NDArray
    """`(H,)`, the time from then to the beginning of the step that is forecast"""
    mean: Float[NDArray, "O H Q C"]
    stddev: Float[NDArray, "O H Q C"]

    def table(self) -> DataFrame:
        """A row for each initialisation time, lead time and place."""
        import pandas as pd

        origins, leads, number = self.mean.shape[:3]
        columns: dict[str, object] = {
            "init_time": pd.to_datetime(np.repeat(self.init_time, leads * number), utc=True),
            "valid_time": pd.to_datetime(np.repeat(self.init_time[:, None] + self.lead_time, number), utc=True),
        }
        if self.places.names is not None:
            columns[self.columns.sensor or "sensor"] = np.tile(np.array(self.places.names), origins * leads)
        for name, coordinate in zip(self.columns.position, self.places.positions.T, strict=True):
            columns[name] = np.tile(coordinate, origins * leads)
        for index, name in enumerate(self.columns.values):
            columns[f"{name}_mean"] = self.mean[..., index].ravel()
            columns[f"{name}_stddev"] = self.stddev[..., index].ravel()
        return pd.DataFrame(columns)

    def dataset(self, source: str, several: bool) -> Dataset:
        """An xarray Dataset with the attributes of the CF conventions; `init_time` is a scalar unless `several`."""
        import xarray as xr

        dims, coordinates, order = self._where()
        shape = [len(coordinates[dim][1]) for dim in dims] if dims[0] in coordinates else [len(self.places.positions)]
        init, lead = self.init_time.astype("datetime64[ns]"), self.lead_time.astype("timedelta64[ns]")
        valid, times = init[:, None] + lead, ("init_time", "lead_time") if several else ("valid_time",)
        coordinates |= {
            "init_time": ("init_time" if several else (), init if several else init[0], _INIT),
            "lead_time": (times[-1], lead, _LEAD),
            "valid_time": (times, valid if several else valid[0], _VALID if several else {**_VALID, "axis": "T"}),
        }
        data = {}
        for index, name in enumerate(self.columns.values):
            units = {"units": "degree"} if name in self.columns.circular else {}
            for kind, words, block in (("mean", "mean", self.mean), ("stddev", "standard deviation", self.stddev)):
                values = block[:, :, order, index].reshape(*block.shape[:2], *shape)
                attributes = {"long_name": f"{words} of the forecast of {name}", **units}
                data[f"{name}_{kind}"] = ((*times, *dims), values if several else values[0], attributes)
            data[f"{name}_mean"][-1]["ancillary_variables"] = f"{name}_stddev"
        stations = {"featureType": "timeSeries"} if self.places.names is not None and not several else {}
        title = {"title": f"Forecast of {', '.join(self.columns.values)}", "source": source}
        history = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} s2rm {version('s2rm')}: forecast"
        return xr.Dataset(data, coordinates, {"Conventions": "CF-1.11", **stations, **title, "history": history})

    def _where(self) -> tuple[tuple[str, ...], dict[str, tuple], NDArray[np.intp]]:
        """The dimensions of places, their coordinates, and the order of the places along these dimensions."""
        columns, positions, names = self.columns, self.places.positions, self.places.names
        described = [{"long_name": f"position, {name}"} for name in columns.position]
        if columns.on_the_globe:
            meant = (("longitude", "degrees_east"), ("latitude", "degrees_north"))
            described = [{"standard_name": name, "long_name": name, "units": units} for name, units in meant]
        axes = [np.unique(column) for column in positions.T]
        shape = tuple(len(axis) for axis in axes)
        if names is None and math.prod(shape) == len(positions):
            indices = [np.searchsorted(axis, column) for axis, column in zip(axes, positions.T, strict=True)]
            cells = np.ravel_multi_index(indices, shape)
            order = np.argsort(cells)
            if (cells[order] == np.arange(len(cells))).all():
                for attributes, letter in zip(described, "XYZ", strict=False):
                    attributes["axis"] = letter
                along = zip(columns.position, axes, described, strict=True)
                return columns.position, {name: (name, axis, attributes) for name, axis, attributes in along}, order
        dim = "place" if names is None else columns.sensor or "sensor"
        along = zip(columns.position, positions.T, described, strict=True)
        coordinates: dict[str, tuple] = {name: (dim, column, attributes) for name, column, attributes in along}
        if names is not None:
            coordinates[dim] = (dim, np.array(names), {"long_name": "name of the station", "cf_role": "timeseries_id"})
        return (dim,), coordinates, np.arange(len(positions))


def write_netcdf(dataset: Dataset, path: str | Path) -> None:
    """Write a NetCDF file, whole or not at all; folders above it are created."""
    with TemporaryDirectory() as folder:
        part = Path(folder) / "part.nc"
        dataset.to_netcdf(part, engine="h5netcdf")
        write_whole(path, part.read_bytes())


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
