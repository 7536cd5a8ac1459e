"""Checks of reading and scoring: errors of the baselines on three public data sets.

Writes `results/sensor-checks.json`, each figure beside the one that is known for the same file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from common import write
from presets import PRESETS
from s2rm.sensors.judging.baselines import Baseline
from s2rm.sensors.judging.kriging import Kriging
from s2rm.sensors.judging.predictors import InverseDistance, Persistence, SensorPredictor
from s2rm.sensors.judging.scores import scores
from s2rm.sensors.reports import Reports

# The known figures are of the temperature alone, and of the whole NDBC table.
ON_LAND = replace(PRESETS["molene"], columns=replace(PRESETS["molene"].columns, values=("air_temp_K",), covariates=()))
AT_SEA = replace(PRESETS["ndbc"], box=())


@dataclass(frozen=True)
class SensorChecks:
    """How much of the data is scored."""

    data: Path = Path("../shared/data")
    """folder of the data sets"""
    every: int = 1
    """score one step in this many, where all would take long"""
    splits: int = 30
    """number of draws of the withheld stations"""
    out: Path = Path("results/sensor-checks.json")
    """the figures"""


def channel(reports: Reports, name: str) -> Reports:
    """The observations of one value."""
    values = reports.values[:, [reports.columns.values.index(name)]]
    one = replace(reports, columns=replace(reports.columns, values=(name,)), values=values)
    return one.where(~np.isnan(values[:, 0]))


def often(reports: Reports) -> Reports:
    """The observations of the stations that report at more than half of the steps."""
    return reports.of(np.bincount(reports.sensor, minlength=len(reports.sensors)) > reports.num_steps / 2)


def by_step(reports: Reports) -> list[Reports]:
    """The observations of each step on its own, as step 0."""
    bounds = np.searchsorted(reports.step, np.arange(reports.num_steps + 1))
    names = ("sensor", "positions", "values", "covariates")
    return [
        replace(
            reports,
            step=np.zeros(last - first, np.int64),
            num_steps=1,
            **{name: getattr(reports, name)[first:last] for name in names},
        )
        for first, last in pairwise(bounds)
    ]


def guess(predictor: SensorPredictor, shown: Reports, asked: Reports, sensors: NDArray, lead: int = 0) -> NDArray:
    """The mean forecast `(Q, C)` at the places of other observations, `lead` steps after step 0."""
    return predictor.predict(shown, 0, asked.positions, asked.covariates, sensors, (lead,))[0][0]


def persistence(reports: Reports, lead: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Forecasts and truth, from pairs of observations exactly `lead` steps apart."""
    predictor = Persistence(max_age=0).fit(reports)
    steps = by_step(reports)
    for now, later in zip(steps, steps[lead:], strict=False):
        asked = later.where(np.isin(later.sensor, now.sensor))
        yield guess(predictor, now, asked, asked.sensor, lead), asked.values


def left_out(predictor: Baseline, reports: Reports, every: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Each observation as estimated from the others of the same step, and its value."""
    predictor.fit(reports)
    for now in by_step(reports)[::every]:
        for row in np.arange(len(now))[:, None] == np.arange(len(now)) if len(now) > 1 else ():
            yield guess(predictor, now.where(~row), now.where(row), np.array([-1])), now.values[row]


def held_out(predictor: Baseline, reports: Reports, every: int, seed: int) -> Iterator[tuple[NDArray, NDArray]]:
    """The observations of half of the stations as estimated from the other half at the same step, and their values."""
    predictor.fit(reports)
    hidden = np.random.default_rng(seed).permutation(len(reports.sensors)) < len(reports.sensors) / 2
    for now in by_step(reports)[::every]:
        asked = now.of(hidden)
        yield guess(predictor, now.of(~hidden), asked, np.full(len(asked), -1)), asked.values


def errors(pairs: Iterator[tuple[NDArray, NDArray]]) -> dict[str, float]:
    """Mean absolute and root mean squared error of the one value."""
    mean, truth = (np.concatenate(part)[None].astype(np.float64) for part in zip(*pairs, strict=True))
    found = scores(mean, np.zeros_like(mean), truth, np.array([False]))
    return {name: float(found[name].squeeze()) for name in ("mae", "rmse")}


def row(data: str, task: str, found: dict[str, float], **known: float | list[float]) -> dict[str, Any]:
    """A row of the result: a task, the known figures and those found."""
    return {"data": data, "task": task, "known": known, "found": {name: found[name] for name in known}}


def checks(recipe: SensorChecks) -> Iterator[dict[str, Any]]:
    """A row for each task."""
    every = recipe.every
    label = "Molène, air temperature, K"
    land = ON_LAND.read(recipe.data)
    for lead, known in ((1, 0.52), (6, 1.73), (24, 2.20)):
        yield row(label, f"persistence, {lead} h", errors(persistence(land, lead)), mae=known)
    predictor = InverseDistance(num_nearest=len(land.sensors), max_age=0)
    splits = [errors(held_out(predictor, land, every, seed)) for seed in range(recipe.splits)]
    mean = {name: float(np.mean([split[name] for split in splits])) for name in splits[0]}
    # The known figures are of one unknown split.
    ranges = {name: [min(split[name] for split in splits), max(split[name] for split in splits)] for name in splits[0]}
    yield {**row(label, "half held out, inverse distance", mean, mae=0.79, rmse=1.20), "over_splits": ranges}
    both = AT_SEA.read(recipe.data)
    for name, label, figures in (
        ("air_temp_C", "NDBC, air temperature, °C", (0.52, 1.76, 1.83)),
        ("slp_hPa", "NDBC, sea-level pressure, hPa", (0.36, 1.48, 3.29)),
    ):
        sea = channel(both, name)
        for lead, known in zip((1, 6, 24), figures, strict=True):
            yield row(label, f"persistence, {lead} h", errors(persistence(sea, lead)), mae=known)
    # A month of hours at hundreds of stations: about two hours of each day are enough.
    found = errors(left_out(InverseDistance(max_age=0), often(channel(both, "air_temp_C")), 13 * every))
    yield row("NDBC, air temperature, °C", "one left out, inverse distance", found, mae=1.30, rmse=2.01)
    air = PRESETS["pm10"].read(recipe.data)
    label = "Germany, PM10, µg/m³"
    found = errors(left_out(InverseDistance(max_age=0), air, 1))
    yield row(label, "one left out, inverse distance", found, mae=4.14, rmse=6.25)
    found = errors(left_out(Kriging(max_age=0), air, every))
    yield row(label, "one left out, kriging", found, mae=[4.04, 4.09], rmse=[6.05, 6.16])


def main(recipe: SensorChecks) -> None:
    """Score and write."""
    write(recipe.out, [], [*checks(recipe)], every=recipe.every, splits=recipe.splits)


if __name__ == "__main__":
    main(tyro.cli(SensorChecks))
