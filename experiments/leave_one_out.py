"""Leave-one-out cross-validation: German PM10, each station interpolated from all others, beside baselines.

The stations are dealt into folds. A model is fitted without the stations of a fold, and then interpolates each of them
from the observations of all others. Writes `results/sensors-pm10.json` after every fold, so that an interrupted command
goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.progress import track

from common import add, read
from presets import PRESETS
from s2rm.models.named import LABELS
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.kriging import Kriging
from s2rm.sensors.judging.predictors import InverseDistance, LocalLinear
from s2rm.sensors.reports import Places, Reports, stations
from s2rm.sensors.settings import Fit, ForecastModel


@dataclass(frozen=True)
class LeaveOneOut:
    """What to run."""

    data: Literal["pm10", "field"] = "pm10"
    """which data; field is synthetic and needs no files"""
    updates: int = 400
    """of the model of each fold; a fit may stop before, where its validation does not improve any more"""
    folds: int = 5
    """parts into which the stations are dealt"""
    model: ForecastModel = "s2gru"
    """the model to fit"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/sensors")
    """where the run folders are"""
    out: Path = Path("results/sensors-pm10.json")
    """the errors"""
    seed: int = 0
    """of the folds, of the weights and of the order"""


def load(recipe: LeaveOneOut) -> Reports:
    """The observations."""
    if recipe.data == "field":
        return FieldWorld(num_stations=10, num_movers=0, num_steps=60, seed=recipe.seed).reports()
    return PRESETS["pm10"].read(recipe.folder)


def errors(means: dict[str, np.ndarray], truth: np.ndarray) -> list[dict[str, Any]]:
    """The errors of each predictor in the first value."""
    known = ~np.isnan(truth)
    return [
        {
            "predictor": name,
            "rmse": float(np.sqrt(np.mean((mean[known] - truth[known]) ** 2))),
            "mae": float(np.mean(np.abs(mean[known] - truth[known]))),
            "count": int(known.sum()),
        }
        for name, mean in means.items()
    ]


def main(recipe: LeaveOneOut) -> None:
    """Fit, interpolate and write what is missing."""
    reports = load(recipe)
    fold_of = np.random.default_rng(recipe.seed).permutation(len(reports.sensors)) % recipe.folds
    places, everyone = stations(reports), np.arange(len(reports.sensors))
    for fold in range(recipe.folds):
        kept = read(recipe.out)
        if fold in {run["fold"] for run in kept.get("runs", [])}:
            continue
        folder, asked = recipe.runs / f"{recipe.data}-fold-{fold}", np.flatnonzero(fold_of == fold)
        training = replace(Fit().training, minutes=None, updates=recipe.updates, seed=recipe.seed)
        trained = reports.of(fold_of != fold)
        forecaster = Forecaster.fit(trained, folder, Fit(recipe.model, training=training))
        trivial = {
            "inverse distance": InverseDistance(max_age=0).fit(trained),
            "local linear": LocalLinear(max_age=0).fit(trained),
            "kriging": Kriging(max_age=0).fit(trained),
        }
        found: dict[str, list[np.ndarray]] = {name: [] for name in (LABELS[recipe.model], *trivial)}
        truths = []
        for sensor in track(asked, f"fold {fold + 1} of {recipe.folds}"):
            others, mine = reports.of(everyone != sensor), reports.where(reports.sensor == sensor)
            if not len(mine):
                continue
            place = Places(*(part[[sensor]] for part in places[:2]))
            mean, _ = forecaster.interpolate(others, place, mine.step)
            found[LABELS[recipe.model]].append(mean[:, 0, 0])
            for name, predictor in trivial.items():
                each = [
                    predictor.predict(others, int(step), *place[:2], np.array([-1]), [0])[0][0, 0, 0]
                    for step in mine.step
                ]
                found[name].append(np.array(each))
            truths.append(mine.values[:, 0])
        means = {name: np.concatenate(parts) for name, parts in found.items()}
        run = {"fold": fold, "label": LABELS[recipe.model], **read(folder / "summary.json")}
        rows = [{**row, "fold": fold} for row in errors(means, np.concatenate(truths))]
        add(recipe.out, [run], rows, folds=recipe.folds, seed=recipe.seed, stations=len(places.positions))


if __name__ == "__main__":
    main(tyro.cli(LeaveOneOut))
