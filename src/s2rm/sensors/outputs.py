"""Forecasts as tables, datasets and files, with quantiles and the time of each station's last report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import ndtri

from s2rm.files import write_whole
from s2rm.names import apart, for_netcdf
from s2rm.sensors.conventions import named_in_cf
from s2rm.sensors.mapped import parts
from s2rm.sensors.marginals import gaussian_value
from s2rm.sensors.reports import Places, Reports
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

_INIT = {"standard_name": "forecast_reference_time", "long_name": "initialisation time, UTC"}
_LEAD = {"standard_name": "forecast_period", "long_name": "lead time"}
_VALID = {"standard_name": "time", "long_name": "valid time, UTC"}
LONG = 3
"""number of mean intervals between reports, and of steps, after which a station counts as silent"""


class LastObservations(NamedTuple):
    """When stations last reported before each of O origins, at Q places."""

    time: NDArray
    """`(O, Q)`, the beginning of the step, UTC; NaT where there was no report, or no station"""
    silent: Bool[NDArray, "O Q"]
    """whether the station has been silent for more than three of its intervals between reports, and three steps"""


def last_observations(
    reports: Reports, names: Sequence[str], origins: NDArray[np.int64],
    elsewhere: Iterable[Bool[NDArray, " Q"]] = repeat(np.array(False)),
) -> LastObservations:  # fmt: skip
    """When the stations of these names last reported at or before each origin, a step of the reports, but for those
    that are `elsewhere` then."""
    place = {name: index for index, name in enumerate(reports.sensors)}
    named, size = np.array([place.get(name, len(place)) for name in names], np.int64), len(place) + 1
    last, silent = np.full((len(origins), len(names)), -1), np.zeros((len(origins), len(names)), dtype=bool)
    for row, (origin, away) in enumerate(zip(origins, elsewhere, strict=False)):
        sensors = np.where(away, len(place), named)
        until = int(np.searchsorted(reports.step, origin, "right"))
        latest, earliest, count = np.full(size, -1), np.full(size, -1), np.zeros(size, np.int64)
        for part in reversed([*parts(until)]):
            step, sensor = reports.step[part], reports.sensor[part]
            earliest[sensor[::-1]] = step[::-1]  # of several, the last one stays
            latest[sensor] = np.maximum(latest[sensor], step)
            count += np.bincount(sensor, minlength=size)
        interval = np.where(count > 1, (latest - earliest) / np.maximum(count - 1, 1), np.nan)
        usual = np.nanmedian(interval) if (count > 1).any() else 1.0
        interval = np.maximum(np.where(count > 1, interval, usual), 1.0)
        last[row], quiet = latest[sensors], (latest >= 0) & (origin - latest > LONG * interval)
        silent[row] = quiet[sensors]
    # Before the first time of a step, where there was no report.
    time = np.where(last >= 0, reports.start + last * reports.step_length, np.datetime64("NaT"))
    return LastObservations(time, silent)


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
    quantiles: tuple[float, ...] = ()
    """P of them"""
    last: LastObservations | None = None
    """when each place was last observed, where they have the names of stations"""
    exact: Callable[[float], Float[NDArray, "O H Q C"]] | None = None
    """the quantiles of a probability, where they are not those of the Gaussian of mean and standard deviation"""
    scenarios: Float[NDArray, "O N H Q C"] | None = None
    """joint scenarios"""

    def quantile(self, share: float) -> Float[NDArray, "O H Q C"]:
        """The value below which the truth lies with this probability; of a direction, clockwise from its opposite."""
        return (
            self.exact(share)
            if self.exact
            else gaussian_value(self.mean, self.stddev, float(ndtri(share)), self.columns.is_circular)
        )

    def table(self) -> DataFrame:
        """A row for each initialisation time, lead time and place."""
        import pandas as pd

        origins, leads, number = self.mean.shape[:3]
        own = self._own_names()
        columns: dict[str, object] = {
            "init_time": pd.to_datetime(np.repeat(self.init_time, leads * number), utc=True),
            "valid_time": pd.to_datetime(np.repeat(self.init_time[:, None] + self.lead_time, number), utc=True),
        }
        if self.places.names is not None:
            columns[own[self.columns.sensor or "sensor"]] = np.tile(np.array(self.places.names), origins * leads)
        for name, coordinate in zip(self.columns.position, self.places.positions.T, strict=True):
            columns[own[name]] = np.tile(coordinate, origins * leads)
        if self.last is not None:
            time, silent = (np.repeat(part, leads, 0).ravel() for part in self.last)
            columns |= {"last_observation": pd.to_datetime(time, utc=True), "silent": silent}
        quantiles = [(share, self.quantile(share)) for share in self.quantiles]
        for index, name in enumerate(self.columns.values):
            columns[f"{name}_mean"] = self.mean[..., index].ravel()
            columns[f"{name}_stddev"] = self.stddev[..., index].ravel()
            columns |= {quantile_name(name, share): block[..., index].ravel() for share, block in quantiles}
            columns |= {f"{name}_{number}": block[..., index].ravel() for number, block in self._numbered}
        return pd.DataFrame(columns)

    def dataset(self, source: str, several: bool) -> Dataset:
        """An xarray Dataset with the attributes of the CF conventions; `init_time` is a scalar unless `several`."""
        import xarray as xr

        dims, coordinates, order = self._where()
        shape = [len(coordinates[dim][1]) for dim in dims] if dims[0] in coordinates else [len(self.places.positions)]
        # Nanoseconds, as pandas has them, reach from 1678 to 2262.
        years = (self.init_time[:, None] + self.lead_time).astype("datetime64[Y]").astype(np.int64)
        unit = "ns" if (np.abs(years) < 292).all() else "us"
        init, lead = self.init_time.astype(f"datetime64[{unit}]"), self.lead_time.astype(f"timedelta64[{unit}]")
        valid, times = init[:, None] + lead, ("init_time", "lead_time") if several else ("valid_time",)
        coordinates |= {
            "init_time": ("init_time" if several else (), init if several else init[0], _INIT),
            "lead_time": (times[-1], lead, _LEAD),
            "valid_time": (times, valid if several else valid[0], _VALID if several else {**_VALID, "axis": "T"}),
        }
        data: dict[str, tuple] = {}

        def add(name: str, block: NDArray, attributes: dict[str, str], *before: str) -> None:
            """A variable along the times, `(..., O, H, Q)`, and what comes before them."""
            values = block[..., order].reshape(*block.shape[:-1], *shape)
            values = values if several else values.take(0, axis=len(before))
            data[name] = ((*before, *times, *dims), values, attributes)

        quantiles = np.stack([self.quantile(share) for share in self.quantiles]) if self.quantiles else None
        if self.scenarios is not None:
            about = {"standard_name": "realization", "long_name": "number of the scenario", "units": "1"}
            coordinates["scenario"] = ("scenario", np.arange(self.scenarios.shape[1]), about)
        if quantiles is not None:
            about = {"long_name": "probability of a value below the quantile", "units": "1"}
            coordinates["quantile"] = ("quantile", np.array(self.quantiles), about)
        for index, name in enumerate(self.columns.values):
            cf = named_in_cf(name) | ({"units": "degree"} if name in self.columns.circular else {})
            hot = {"units_metadata": "temperature: difference"} if "temperature" in cf.get("standard_name", "") else {}
            mean, spread = {**cf, "long_name": f"mean of the forecast of {name}"}, {**cf, **hot}
            spread["long_name"] = f"standard deviation of the forecast of {name}"
            if "standard_name" in cf:
                spread["standard_name"] += " standard_error"
            add(f"{name}_mean", self.mean[..., index], {**mean, "ancillary_variables": f"{name}_stddev"})
            add(f"{name}_stddev", self.stddev[..., index], spread)
            if quantiles is not None:
                words = {"long_name": f"quantiles of the forecast of {name}"}
                add(f"{name}_quantile", quantiles[..., index], {**cf, **words}, "quantile")
            if self.scenarios is not None:
                words = {"long_name": f"scenarios of {name}"}
                add(f"{name}_scenario", self.scenarios[..., index].swapaxes(0, 1), {**cf, **words}, "scenario")
        if self.last is not None:
            time, silent = (part if several else part[0] for part in self.last)
            along = ("init_time", *dims) if several else dims
            flags = {"flag_values": np.array([0, 1], np.int8), "flag_meanings": "reporting silent"}
            what = {"long_name": "time of the last observation, UTC"}
            data["last_observation"] = (along, time.astype(f"datetime64[{unit}]"), what)
            data["silent"] = (
                along,
                silent.astype(np.int8),
                {"long_name": "whether the station is long silent", **flags},
            )
        stations = {"featureType": "timeSeries"} if self.places.names is not None and not several else {}
        title = {"title": f"Forecast of {', '.join(self.columns.values)}", "source": source}
        history = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} s2rm {version('s2rm')}: forecast"
        return xr.Dataset(data, coordinates, {"Conventions": "CF-1.11", **stations, **title, "history": history})

    def _own_names(self) -> dict[str, str]:
        """The columns of the user's beside the forecasts, with underscores after a name that means something here."""
        taken = {"init_time", "valid_time", "lead_time", "last_observation", "silent", "quantile", "scenario"}
        taken |= {
            f"{value}_{kind}" for value in self.columns.values for kind in ("mean", "stddev", "quantile", "scenario")
        }
        taken |= {quantile_name(value, share) for value in self.columns.values for share in self.quantiles}
        taken |= {f"{value}_{number}" for value in self.columns.values for number, _ in self._numbered}
        own: dict[str, str] = {}
        for name in (*self.columns.position, self.columns.sensor or "sensor"):
            own[name] = apart(name, taken | set(own.values()))
        return own

    @property
    def _numbered(self) -> list[tuple[str, Float[NDArray, "O H Q C"]]]:
        """The scenarios by their numbers, s01 the first of up to 99."""
        drawn = [] if self.scenarios is None else [*self.scenarios.swapaxes(0, 1)]
        width = max(2, len(str(len(drawn))))
        return [(f"s{number:0{width}d}", block) for number, block in enumerate(drawn, 1)]

    def _where(self) -> tuple[tuple[str, ...], dict[str, tuple], NDArray[np.intp]]:
        """The dimensions of places, their coordinates, and the order of the places along these dimensions."""
        columns, positions, names = self.columns, self.places.positions, self.places.names
        own = self._own_names()
        along_which = tuple(own[name] for name in columns.position)
        described = [{"long_name": f"position, {name}"} for name in columns.position]
        if columns.on_the_globe:
            meant = (("longitude", "degrees_east"), ("latitude", "degrees_north"))
            described = [{"standard_name": name, "long_name": name, "units": units} for name, units in meant]
        axes = [np.unique(column) for column in positions.T]
        shape = tuple(len(axis) for axis in axes)
        if names is None and math.prod(shape) == len(positions):
            # Latitude comes before longitude, as CF has it.
            indices = [np.searchsorted(axis, column) for axis, column in zip(axes, positions.T, strict=True)]
            cells = np.ravel_multi_index(indices[::-1], shape[::-1])
            order = np.argsort(cells)
            if (cells[order] == np.arange(len(cells))).all():
                for attributes, letter in zip(described, "XYZ", strict=False):
                    attributes["axis"] = letter
                along = zip(along_which, axes, described, strict=True)
                return along_which[::-1], {name: (name, axis, attributes) for name, axis, attributes in along}, order
        dim = apart("place", along_which) if names is None else own[columns.sensor or "sensor"]
        along = zip(along_which, positions.T, described, strict=True)
        coordinates: dict[str, tuple] = {name: (dim, column, attributes) for name, column, attributes in along}
        if names is not None:
            coordinates[dim] = (dim, np.array(names), {"long_name": "name of the station", "cf_role": "timeseries_id"})
        return (dim,), coordinates, np.arange(len(positions))


def write_netcdf(dataset: Dataset, path: str | Path) -> None:
    """Write a NetCDF file, whole or not at all; folders above it are created.

    Slashes in names become underscores, as NetCDF has none. It is put together in memory, since HDF5 does not survive a
    full disk.
    """
    import h5netcdf
    from xarray.backends import H5NetCDFStore

    plain = for_netcdf(map(str, (*dataset.variables, *dataset.dims)))
    named = dataset.rename({name: other for name, other in plain.items() if name != other})
    for name, variable in named.variables.items():
        other = variable.attrs.get("ancillary_variables")
        if other in plain:
            named[name].attrs["ancillary_variables"] = plain[other]
    content = BytesIO()
    with h5netcdf.File(content, "w") as file:
        named.dump_to_store(H5NetCDFStore(file))
    write_whole(path, content.getvalue())


def quantile_name(value: str, share: float) -> str:
    """The column of a quantile: `temp_q05` is that of 5 %."""
    return f"{value}_q{f'{100 * share:g}'.zfill(2)}"
