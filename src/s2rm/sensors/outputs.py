"""Forecasts as tables and as datasets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from s2rm.sensors.reports import Places
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset


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
            related = {"ancillary_variables": f"{name}_stddev"}
            for kind, words, block, more in (
                ("mean", "mean", self.mean, related), ("stddev", "standard deviation", self.stddev, {}),
            ):  # fmt: skip
                values = block[:, :, order, index].reshape(*block.shape[:2], *shape)
                attributes = {"long_name": f"{words} of the forecast of {name}", **units, **more}
                data[f"{name}_{kind}"] = ((*times, *dims), values if several else values[0], attributes)
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


_INIT = {"standard_name": "forecast_reference_time", "long_name": "initialisation time, UTC"}
_LEAD = {"standard_name": "forecast_period", "long_name": "lead time"}
_VALID = {"standard_name": "time", "long_name": "valid time, UTC"}


def write_netcdf(dataset: Dataset, path: str | Path) -> None:
    """Write a NetCDF file, whole or not at all; folders above it are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        dataset.to_netcdf(part, engine="h5netcdf")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
