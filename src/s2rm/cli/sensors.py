"""The commands for tables of sensors: `s2rm fit` and `s2rm forecast`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from s2rm.files import write_json, write_whole
from s2rm.sensors.forecaster import LABELS, SUMMARY, Fit, Forecaster
from s2rm.sensors.judging import judge
from s2rm.sensors.predictors import BASELINES
from s2rm.sensors.report import write_sensor_report
from s2rm.sensors.reports import Columns, Places, Reports, grid, stations
from s2rm.sensors.tables import read_reports

console = Console(stderr=True)
LEADS = (0, 1, 3, 6, 12, 24)
"""steps ahead that a report judges"""


@dataclass(frozen=True)
class FitTable:
    """Fit a forecaster to a table of what sensors reported, and leave it in a folder."""

    table: Positional[Path]
    """CSV (.gz too), Parquet, NetCDF or Zarr: a row for each report"""
    columns: OmitArgPrefixes[Columns]
    how: OmitArgPrefixes[Fit] = field(default_factory=Fit)
    test: float = 0.15
    """share of the steps, the last, that the fit does not see and the report judges by"""
    held_out: float = 0.1
    """share of the sensors, drawn at random, that the fit does not see either"""
    out: Path = Path("runs/sensors")
    """the folder, which must not be there yet"""

    def run(self) -> None:
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise ValueError(f"fit: {self.out} is there already; choose another --out")
        for name in ("test", "held_out"):
            if not 0 < getattr(self, name) <= 0.5:
                raise ValueError(f"fit: --{name.replace('_', '-')} must be in (0, 0.5], got {getattr(self, name)}")
        reports = read_reports(self.table, self.columns)
        console.print(_said(reports))
        split = round((1 - self.test) * reports.num_steps)
        sensors = np.unique(reports.sensor)
        held_out = np.zeros(len(reports.sensors), bool)
        chosen = np.random.default_rng(self.how.training.seed).permutation(sensors)
        held_out[chosen[: max(1, round(self.held_out * len(sensors)))]] = True
        train = reports.between(0, split).of(~held_out)
        made = Forecaster.fit(train, self.out, self.how)
        leads = [lead for lead in LEADS if lead <= min(made.horizon, reports.num_steps - split - 1)]
        last = reports.num_steps - 1 - leads[-1]
        origins = np.unique(np.linspace(split - 1, last, 40).round().astype(np.int64))
        label = LABELS[self.how.model]
        predictors: dict[str, Any] = {label: made, **{name: make().fit(train) for name, make in BASELINES.items()}}
        rows = judge(predictors, reports, origins, leads, held_out, silent=(0.0,),
                     progress=lambda all_: track(all_, "Judging", console=console))  # fmt: skip
        summary = json.loads((self.out / SUMMARY).read_text())
        write_json(self.out / "scores.json", {**summary, "rows": rows})
        origin = int(origins[len(origins) // 2])
        write_sensor_report(
            self.out / "report.html", made, label,
            {**summary, "learning_rate": self.how.training.learning_rate}, reports, held_out, origin, rows,
        )  # fmt: skip
        _print_errors(rows, leads)
        console.print(f"report: {(self.out / 'report.html').resolve()}")
        console.print(f"forecast with: s2rm forecast {self.out} {self.table}", soft_wrap=True)


@dataclass(frozen=True)
class Forecast:
    """Forecast from a table, with the columns that were fitted to."""

    run_folder: Positional[Path]
    """the folder that s2rm fit left"""
    table: Positional[Path]
    """what was reported, with the same columns"""
    at: str = "stations"
    """where: stations (the last place of each sensor), grid (50 x 50 points over them), or a CSV with the position's
    columns, and the covariates' where there are any"""
    horizon: str | None = None
    """how far ahead, as pandas writes durations, such as 24h; as trained if not given"""
    origin: str | None = None
    """the last time that is known, UTC; the last of the table if not given"""
    out: Path = Path("forecast.csv")
    """the table: .csv, .csv.gz or .parquet; or .nc, a NetCDF file"""

    def run(self) -> None:
        import pandas as pd

        if not self.out.name.endswith((".csv", ".csv.gz", ".parquet", ".nc")):
            raise ValueError(f"forecast: --out must end in .csv, .csv.gz, .parquet or .nc, got {self.out}")
        made = Forecaster.load(self.run_folder)
        reports = read_reports(self.table, made.columns, to_fit=False)
        if self.origin is not None:
            reports = _until(reports, self.origin)
        steps = None
        if self.horizon is not None:
            try:
                steps = round(pd.Timedelta(self.horizon) / pd.Timedelta(made.columns.step))
            except ValueError:
                steps = 0
            if steps < 1:
                raise ValueError(
                    f"forecast: --horizon must be a duration of at least a step, {made.columns.step}, got "
                    f"{self.horizon!r}; write for example 24h"
                )
        table = made.table(reports, self._places(reports, made.columns), steps)
        _write(table, self.out, made.columns)
        console.print(f"{self.out}: {len(table):,} rows from {table.init_time[0]:%Y-%m-%d %H:%M} UTC on")

    def _places(self, reports: Reports, columns: Columns) -> Places:
        if self.at in ("stations", "grid"):
            return stations(reports) if self.at == "stations" else grid(reports)
        import pandas as pd

        path = Path(self.at)
        if not path.is_file():
            raise ValueError(f"forecast: --at must be stations, grid or a CSV file, found none at {path}")
        rows = pd.read_csv(path)
        missing = [name for name in columns.position if name not in rows]
        if missing:
            raise ValueError(f"forecast: {path} has no column {', '.join(missing)}; it has {', '.join(map(str, rows))}")
        known: Any = [rows[name] if name in rows else np.full(len(rows), np.nan) for name in columns.covariates]
        positions = np.stack([pd.to_numeric(rows[name], errors="coerce") for name in columns.position], -1)
        if not np.isfinite(positions).all():
            row = int(np.argmax(~np.isfinite(positions).all(1))) + 1
            raise ValueError(f"forecast: the position in row {row} of {path} is no number; every place needs one")
        covariates = np.stack(known, -1) if known else np.empty((len(rows), 0))
        names = tuple(rows[columns.sensor].astype(str)) if columns.sensor in rows else None
        return Places(positions.astype(float), covariates.astype(np.float32), names)


def _print_errors(rows: list[dict[str, Any]], leads: list[int]) -> None:
    table = Table("value", "sensors", "predictor", *(f"+{lead}" for lead in leads), title="MAE")
    for value, sensors in dict.fromkeys((row["value"], row["sensors"]) for row in rows):
        for name in dict.fromkeys(row["predictor"] for row in rows):
            found = {
                row["lead"]: f"{row['mae']:.3g}"
                for row in rows
                if (row["value"], row["sensors"], row["predictor"]) == (value, sensors, name)
            }
            table.add_row(value, sensors, name, *(found.get(lead, "") for lead in leads))
    console.print(table)


def _until(reports: Reports, origin: str) -> Reports:
    """What was reported until then."""
    import pandas as pd

    try:
        last = pd.Timestamp(origin)
    except ValueError as error:
        raise ValueError(
            f"forecast: --origin must be a time, got {origin!r}; write for example 2014-01-31T12:00"
        ) from error
    last = last.tz_convert(None) if last.tzinfo else last
    steps = int((last.to_datetime64() - reports.start) // reports.step_length) + 1
    if not 1 <= steps <= reports.num_steps:
        raise ValueError(
            f"forecast: --origin must be within the table, {reports.times[0]} to {reports.times[-1]}, got {origin}"
        )
    return reports.between(0, steps)


def _said(reports: Reports) -> str:
    columns = reports.columns
    measured = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(columns.values, (~np.isnan(reports.values)).mean(0), strict=True)
    )
    where = "longitude and latitude" if columns.on_the_globe else "planar coordinates"
    return (
        f"{len(reports):,} reports of {len(reports.sensors):,} sensors at {reports.num_steps:,} steps of "
        f"{columns.step} from {reports.times[0].astype('datetime64[m]')} UTC; {where}; measured: {measured}"
    )


def _write(table: Any, path: Path, columns: Columns) -> None:
    """The table as a file, whole or not at all."""
    if path.suffix == ".nc":
        keys = ["valid_time", *([columns.sensor] if columns.sensor in table else columns.position)]
        start = table.init_time[0].tz_convert(None)
        table = table.drop(columns="init_time").assign(valid_time=table.valid_time.dt.tz_convert(None))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        table.set_index(keys).to_xarray().assign_coords(init_time=start).to_netcdf(part, engine="h5netcdf")
        part.replace(path)
    elif path.suffix == ".parquet":
        write_whole(path, table.to_parquet(None))
    else:
        import gzip

        text = table.to_csv(index=False).encode()
        write_whole(path, gzip.compress(text) if path.suffix == ".gz" else text)
