"""The options of `s2rm fit` and `s2rm forecast`; `s2rm.cli.sensors` does the work. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from s2rm.sensors.settings import Columns, Fit


@dataclass(frozen=True)
class FitTable:
    """Fit a forecaster to a table of observations, and score it beside baselines.

    The folder --out holds the forecaster, scores.json and report.html. Where a fit ended but its report is missing, the
    same command goes on with the scores and the report.
    """

    table: Positional[Path]
    """CSV (.gz too), Parquet, NetCDF or Zarr: a row for each observation"""
    columns: OmitArgPrefixes[Columns]
    how: OmitArgPrefixes[Fit] = field(default_factory=Fit)
    test: float = 0.15
    """share of the steps, the last ones, that are withheld from the fit and on which it is scored"""
    held_out: float = 0.1
    """share of the stations, drawn at random, that are withheld from the fit as well"""
    out: Path = Path("runs/sensors")
    """the folder, new or empty"""


@dataclass(frozen=True)
class Forecast:
    """Forecast from a table that has the columns of the fit."""

    run_folder: Positional[Path]
    """the folder that s2rm fit wrote"""
    table: Positional[Path]
    """the observations"""
    at: str = "stations"
    """where: stations (the last position of each), grid (50 x 50 points over them), or a CSV file with the columns of
    the position, and of the covariates where there are any"""
    horizon: str | None = None
    """longest lead time, as a duration such as 24h; if not given, that of the training"""
    origin: str | None = None
    """time of initialisation, UTC: later observations are not used; the last time of the table if not given"""
    out: Path = Path("forecast.csv")
    """the file: a table (.csv, .csv.gz or .parquet) or NetCDF (.nc)"""
