"""Forecasts from real sensors: models of the family beside trivial predictors, kriging and a transformer.

Split by time (the first 70 % to train) and by station (some are never seen). Every model trains for the same wall-clock
time. Writes `results/sensors-DATA.json` after every model, so that the command goes on where it was stopped, and
pictures of the first model. A forecaster that is fitted already, in the folder of the runs, is judged as it is.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from rich.progress import track

from common import draw, read
from s2rm.files import write_json
from s2rm.report import figures as plots
from s2rm.sensors import plots as sensor_plots
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.forecaster import FORECASTER, LABELS, SUMMARY, Fit, Forecaster, ForecastModel
from s2rm.sensors.judging import judge
from s2rm.sensors.predictors import BASELINES
from s2rm.sensors.reports import Columns, Reports
from s2rm.sensors.tables import read_reports
from s2rm.training import provenance


class DataSet(NamedTuple):
    """Real measurements and how they are split."""

    file: str
    columns: Columns
    leads: tuple[int, ...]
    """steps ahead that are scored; 0 is now"""
    held_out: float
    """share of the sensors that no model sees"""
    every: int
    """steps between the origins of the test"""
    box: tuple[tuple[float, float], ...] = ()
    """where, if not everywhere"""


SETS = {
    "molene": DataSet(
        "molene_2014-01/molene_2014-01.csv.gz",
        Columns("time", ("lon", "lat"), ("air_temp_K", "wind_speed_ms"), "station", ("alt_m",)),
        (0, 1, 3, 6, 12, 24), 0.5, 3,
    ),
    "ndbc": DataSet(
        "ndbc_marine_2013-05/ndbc_marine_2013-05.csv.gz",
        Columns("time", ("lon", "lat"), ("slp_hPa", "air_temp_C"), "station"),
        (0, 1, 3, 6, 12, 24), 0.2, 6, ((-100, -60), (23, 50)),
    ),
    "argo": DataSet(
        "argo2016_moving/argo2016.csv.gz",
        Columns("time", ("lon", "lat"), ("temp100dbar_C", "temp150dbar_C", "temp200dbar_C"), "float", step="1D"),
        (0, 1, 3, 5), 0.2, 1,
    ),
    "field": DataSet("", Columns("time", ("x", "y"), ("tracer", "direction"), "sensor"), (0, 1, 3, 6), 0.3, 3),
}  # fmt: skip


@dataclass(frozen=True)
class Sensors:
    """What to run."""

    data: Literal["molene", "ndbc", "argo", "field"] = "molene"
    """which data: field is the synthetic one, which needs no files"""
    minutes: float = 9.0
    """wall-clock budget for training each model"""
    models: tuple[ForecastModel, ...] = ("s2gru", "lstm", "msa")
    """whom to train"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/sensors")
    """where the run folders are"""
    steps: int | None = None
    """take the first steps only; all if not given"""
    out: Path | None = None
    """the scores; results/sensors-DATA.json if not given"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""
    seed: int = 0
    """of the stations held out, of the weights and of the order"""


def load(recipe: Sensors) -> Reports:
    """The reports."""
    data = SETS[recipe.data]
    if recipe.data == "field":
        reports = FieldWorld(num_steps=recipe.steps or 400, seed=recipe.seed).reports()
    else:
        reports = read_reports(recipe.folder / data.file, data.columns)
        if recipe.steps:
            reports = reports.between(0, recipe.steps)
    inside = np.ones(len(reports), bool)
    for axis, (low, high) in enumerate(data.box):
        inside &= (reports.positions[:, axis] >= low) & (reports.positions[:, axis] <= high)
    return reports.where(inside)


def main(recipe: Sensors) -> None:
    """Fit and judge what is missing, write, draw."""
    data, reports = SETS[recipe.data], load(recipe)
    path = recipe.out or Path("results") / f"sensors-{recipe.data}.json"
    reporting = np.unique(reports.sensor)
    held_out = np.zeros(len(reports.sensors), bool)
    held_out[np.random.default_rng(recipe.seed).permutation(reporting)[: round(data.held_out * len(reporting))]] = True
    split = round(0.7 * reports.num_steps)
    train = reports.between(0, split).of(~held_out)
    first = min(split + max(data.leads), reports.num_steps - max(data.leads) - 1)
    origins = np.arange(first, reports.num_steps - max(data.leads), data.every)

    def add(predictors: dict[str, Any], runs: list[dict[str, Any]]) -> None:
        rows = judge(predictors, reports, origins, data.leads, held_out, seed=recipe.seed,
                     progress=lambda all_: track(all_, ", ".join(predictors)))  # fmt: skip
        kept = read(path)
        known = {row["predictor"] for row in kept.get("rows", [])}  # another process may have scored the trivial ones
        rows = [row for row in rows if row["predictor"] not in known]
        content = {
            "data": recipe.data, "seed": recipe.seed, "stations": len(reporting), "held_out": int(held_out.sum()),
            "steps": reports.num_steps, "origins": len(origins), **provenance(),
            "runs": [*kept.get("runs", []), *runs], "rows": [*kept.get("rows", []), *rows],
        }  # fmt: skip
        write_json(path, content)

    for model in recipe.models:
        folder = recipe.runs / f"{recipe.data}-{model}"
        if LABELS[model] in {run["label"] for run in read(path).get("runs", [])}:
            continue
        if "peak_gib" not in read(folder / SUMMARY):
            training = replace(Fit().training, minutes=recipe.minutes, seed=recipe.seed)
            Forecaster.fit(train, folder, Fit(model, training=training))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of the process, in KiB on Linux
            write_json(folder / SUMMARY, {**read(folder / SUMMARY), "peak_gib": peak})
        add({LABELS[model]: Forecaster.load(folder)}, [{"label": LABELS[model], **read(folder / SUMMARY)}])
    known = {row["predictor"] for row in read(path).get("rows", [])}
    missing = {name: make().fit(train) for name, make in BASELINES.items() if name not in known}
    if missing:
        add(missing, [])
    pictures = {
        f"{recipe.data}_errors": plots.png(sensor_plots.errors_by_lead(read(path)["rows"])),
        f"{recipe.data}_stations": plots.png(sensor_plots.map_of_stations(reports, held_out)),
    }
    folder = recipe.runs / f"{recipe.data}-{recipe.models[0]}" if recipe.models else recipe.runs
    if (folder / FORECASTER).is_file():
        forecaster, shown = Forecaster.load(folder), reports.of(~held_out)
        chosen = [reports.sensors[index] for group in (~held_out, held_out)
                  for index in [i for i in reporting if group[i]][:2]]  # fmt: skip
        middle = int(origins[len(origins) // 2])
        until, lead = shown.between(0, middle + 1), min(6, max(data.leads))
        pictures |= {
            f"{recipe.data}_forecast": plots.png(sensor_plots.map_of_forecast(forecaster, until, 0, lead)),
            f"{recipe.data}_series": plots.png(
                sensor_plots.forecasts_in_time(forecaster, shown, reports, middle, 0, chosen)
            ),
        }
        if recipe.models[0].startswith("s2"):
            pictures[f"{recipe.data}_enclaves"] = plots.png(sensor_plots.map_of_enclaves(forecaster, shown))
    draw(recipe.figures, **pictures)


if __name__ == "__main__":
    main(tyro.cli(Sensors))
