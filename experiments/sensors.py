"""Forecasts from real stations: models of the family beside baselines, kriging and a transformer.

Observations are divided by time (the first 70 % to train) and by station (some are withheld). Every model makes the
same number of updates. Writes `results/sensors-DATA.json` after every model, so that an interrupted command goes on
where it stopped, and pictures of the first model. A forecaster fitted before, in the folder of the runs, is scored as
it is.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.progress import track

import common
from common import draw, read
from presets import PRESETS
from s2rm.files import write_json
from s2rm.models.named import LABELS
from s2rm.report import figures
from s2rm.sensors.fitting import FORECASTER, SUMMARY
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import maps, plots
from s2rm.sensors.judging.judge import BASELINES, Split, judge, split
from s2rm.sensors.judging.predictors import SensorPredictor
from s2rm.sensors.judging.verdicts import GROUPS
from s2rm.sensors.reports import Reports
from s2rm.sensors.settings import Fit, ForecastModel


@dataclass(frozen=True)
class Sensors:
    """What to run."""

    data: Literal["molene", "rain", "ndbc", "argo", "traffic", "field"] = "molene"
    """which data; traffic and field are synthetic and need no files"""
    updates: int = 1200
    """of each model; a fit may stop before, where its validation does not improve any more"""
    seeds: int = 1
    """of the withheld stations, of the weights and of the order"""
    models: tuple[ForecastModel, ...] = ("s2gru", "lstm", "msa")
    """the models to train"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/sensors")
    """where the run folders are"""
    steps: int | None = None
    """use the first steps only; all if not given"""
    out: Path | None = None
    """the scores; results/sensors-DATA.json if not given"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def add(
    path: Path, recipe: Sensors, seed: int, reports: Reports, parts: Split,
    predictors: Mapping[str, SensorPredictor], runs: list[dict[str, Any]],
) -> None:  # fmt: skip
    """Score predictors and add their rows and runs to the result."""
    data = PRESETS[recipe.data]
    origins = data.origins(parts.first, reports.num_steps)
    rows = judge(predictors, reports, origins, data.leads, parts.withheld, seed=seed,
                 progress=lambda origins: track(origins, ", ".join(predictors)))  # fmt: skip
    for row in rows:
        del row["by_sensor"], row["by_block"]  # a number for each station, or day, is too much for a table
        row["seed"] = seed
    common.add(
        path, runs, rows, data=recipe.data, stations=len(np.unique(reports.sensor)),
        held_out=int(parts.withheld.sum()), steps=reports.num_steps, origins=len(origins),
    )  # fmt: skip


def fit(recipe: Sensors, seed: int, path: Path) -> tuple[Reports, Split]:
    """Fit and score what is missing of a seed, and write."""
    reports = PRESETS[recipe.data].read(recipe.folder, recipe.steps, seed)
    parts = split(reports, 0.3, PRESETS[recipe.data].withheld, seed)
    for model in recipe.models:
        folder = recipe.runs / f"{recipe.data}-{model}-{seed}"
        if (LABELS[model], seed) in {(run["label"], run["seed"]) for run in read(path).get("runs", [])}:
            continue
        if "peak_gib" not in read(folder / SUMMARY):
            training = replace(Fit().training, minutes=None, updates=recipe.updates, seed=seed)
            Forecaster.fit(parts.train, folder, Fit(model, training=training))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of the process, in KiB on Linux
            write_json(folder / SUMMARY, {**read(folder / SUMMARY), "peak_gib": peak})
        run = {"label": LABELS[model], **read(folder / SUMMARY)}
        add(path, recipe, seed, reports, parts, {LABELS[model]: Forecaster.load(folder)}, [run])
    known = {row["predictor"] for row in read(path).get("rows", []) if row["seed"] == seed}
    missing = {name: make().fit(parts.train) for name, make in BASELINES.items() if name not in known}
    if missing:
        add(path, recipe, seed, reports, parts, missing, [])
    return reports, parts


def main(recipe: Sensors) -> None:
    """Fit and score what is missing, write, draw the first seed."""
    path = recipe.out or Path("results") / f"sensors-{recipe.data}.json"
    (reports, parts), *_ = [fit(recipe, seed, path) for seed in range(recipe.seeds)]
    rows = [row for row in read(path)["rows"] if row["seed"] == 0]
    length, values = reports.step_length, reports.columns.values
    groups = [(value, group) for value in values for group in GROUPS]
    pictures = {
        "errors": plots.sheet([plots.errors_by_lead(rows, *each, length) for each in groups], 2),
        "stations": plots.sheet([maps.map_of_stations(reports, parts.withheld)]),
    }
    folder = recipe.runs / f"{recipe.data}-{recipe.models[0]}-0" if recipe.models else recipe.runs
    if (folder / FORECASTER).is_file():
        forecaster, shown, data = Forecaster.load(folder), reports.of(~parts.withheld), PRESETS[recipe.data]
        origins = data.origins(parts.first, reports.num_steps)
        middle, lead = int(origins[len(origins) // 2]), min(6, max(data.leads))
        span = range(middle + 1, middle + 1 + forecaster.horizon)
        sensors = [
            one for group in (~parts.withheld, parts.withheld) for one in plots.with_truth(reports, group, span, 0)
        ]
        surfaces = maps.maps_of_forecast(forecaster, shown.between(0, middle + 1), 0, lead)
        series = plots.forecasts_in_time(forecaster, shown, reports, middle, 0, sensors)
        pictures |= {"forecast": plots.sheet(surfaces, 2), "series": plots.sheet(series, 2)}
        if recipe.models[0].startswith("s2"):
            pictures["enclaves"] = plots.sheet(maps.maps_of_enclaves(forecaster, shown), 2)
    draw(recipe.figures, **{f"{recipe.data}_{name}": figures.png(figure) for name, figure in pictures.items()})


if __name__ == "__main__":
    main(tyro.cli(Sensors))
