"""Public tables of observations, and how forecasts on them are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy.typing import NDArray

from detectors import COLUMNS as TRAFFIC
from detectors import Traffic
from s2rm.sensors.field import COLUMNS, FieldWorld
from s2rm.sensors.reading.tables import read_reports
from s2rm.sensors.reports import Reports
from s2rm.sensors.settings import Columns


@dataclass(frozen=True)
class Preset:
    """A table of observations, its split and its lead times."""

    file: str
    """the table, in the folder of data sets; none for the synthetic one"""
    columns: Columns
    leads: tuple[int, ...] = (0,)
    """lead times in steps"""
    withheld: float = 0.2
    """share of the stations that no model sees"""
    every: int = 1
    """steps between the initialisation times of the test"""
    traces: Mapping[str, float] = field(default_factory=dict)
    """numbers that stand for a trace of a value, which is 0 to all digits"""
    box: tuple[tuple[float, float], ...] = ()
    """range of each coordinate outside which observations are left out; none if empty"""

    def read(self, folder: str | Path, num_steps: int | None = None, seed: int = 0) -> Reports:
        """The observations of the first steps, by default all; 400 of the synthetic data, whose seed it is."""
        if self.columns == TRAFFIC:
            reports = Traffic(seed=seed).reports()
            return reports.between(0, num_steps or reports.num_steps)
        if not self.file:
            return FieldWorld(num_steps=num_steps or 400, seed=seed).reports()
        path = Path(folder) / self.file
        zeros = {name: {code: 0.0} for name, code in self.traces.items()}
        table = pd.read_csv(path).replace(zeros) if zeros else path
        reports = read_reports(table, self.columns)
        reports = reports.between(0, num_steps or reports.num_steps)
        inside = np.ones(len(reports), bool)
        for coordinate, (low, high) in zip(reports.positions.T, self.box, strict=False):
            inside &= (low <= coordinate) & (coordinate <= high)
        return reports.where(inside)

    def origins(self, first: int, num_steps: int) -> Int[NDArray, " O"]:
        """Initialisation times of the test, from the longest lead time after step `first` to as long before the end."""
        longest = max(self.leads)
        return np.arange(min(first + longest, num_steps - longest - 1), num_steps - longest, self.every)


PRESETS = {
    "molene": Preset(
        "molene_2014-01/molene_2014-01.csv.gz",
        Columns("time", ("lon", "lat"), ("air_temp_K", "wind_speed_ms"), "station", ("alt_m",)),
        leads=(0, 1, 3, 6, 12, 24), withheld=0.5, every=3,
    ),
    "rain": Preset(
        "molene_2014-01/molene_2014-01.csv.gz",
        Columns("time", ("lon", "lat"), ("rain_mm", "slp_Pa", "rel_humidity_pct", "wind_speed_ms"), "station",
                ("alt_m",), nonnegative=("rain_mm",), percent=("rel_humidity_pct",)),
        leads=(0, 1, 3, 6, 12, 24), withheld=0.5, every=3, traces={"rain_mm": -0.1},
    ),
    "ndbc": Preset(
        "ndbc_marine_2013-05/ndbc_marine_2013-05.csv.gz",
        Columns("time", ("lon", "lat"), ("slp_hPa", "air_temp_C"), "station"),
        leads=(0, 1, 3, 6, 12, 24), every=6, box=((-100, -60), (23, 50)),
    ),
    "argo": Preset(
        "argo2016_moving/argo2016.csv.gz",
        Columns("time", ("lon", "lat"), ("temp100dbar_C", "temp150dbar_C", "temp200dbar_C"), "float", step="1D"),
        leads=(0, 1, 3, 5),
    ),
    "pm10": Preset(
        "de_pm10_2005/de_pm10_2005.csv.gz", Columns("time", ("x_m", "y_m"), ("pm10_ug_m3",), "station", step="1D")
    ),
    "aqi36": Preset(
        "aqi36_2014/aqi36.csv.gz", Columns("time", ("lon", "lat"), ("pm25", "withheld"), "station"),
    ),
    "wind": Preset(
        "irish_wind_1961/irish_wind.csv.gz", Columns("time", ("lon", "lat"), ("wind_knots",), "station", step="1D"),
    ),
    "traffic": Preset("", TRAFFIC, leads=(0, 1, 3, 6, 12, 36, 144), withheld=0.25, every=12),
    "field": Preset("", COLUMNS, leads=(0, 1, 3, 6), withheld=0.3, every=3),
}  # fmt: skip
