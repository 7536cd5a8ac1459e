"""How a position enters a forecaster: injected into encoder and decoder, or as a rotation, at equal updates.

Writes `results/positions-sensors.json` after every fit, so that the command goes on where it was stopped. The scores
are those of a part of the initialisation times of `sensors.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import numpy as np
import torch
import tyro

import common
from presets import PRESETS
from s2rm.files import Row
from s2rm.models.named import LABELS, build
from s2rm.models.s2rm import S2RM
from s2rm.models.world_model import WorldModel
from s2rm.sensors import fitting
from s2rm.sensors.fitting import build_model
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import BASELINES, judge, split
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Fit


@dataclass(frozen=True)
class Way:
    """How positions enter, and whether they are displaced in training."""

    rotation: Callable[[float, float], float] | None = None
    """the shortest wavelength of a rotation, from the extent of the positions and the median spacing of the sensors"""
    inject: bool = False
    """encoder and decoder take embedded positions"""
    noise: bool = True
    """sensors are displaced in each batch"""

    def build(self, how: Fit, scaling: Scaling, train: Reports, context: int) -> WorldModel:
        """A model as a fit builds it, but for the positions."""
        made = build_model(how, scaling, train, context)
        assert isinstance(made, S2RM)
        spacing = scaling.spacing(np.unique(train.positions, axis=0))
        shortest = None if self.rotation is None else self.rotation(scaling.extent, spacing)
        entering = {"inject_positions": self.inject, "rotation": shortest}
        arguments = {name: value for name, value in made.arguments.items() if name != "cell"}
        torch.manual_seed(how.training.seed)
        model = build(how.model, **{**arguments, **entering})
        assert isinstance(model, S2RM)
        model.modules_on_sphere.load_state_dict(made.modules_on_sphere.state_dict())
        return model


WAYS = {
    "injected": Way(inject=True),
    "injected, no noise": Way(inject=True, noise=False),
    "kernel alone": Way(),
    "rotated, from twice the spacing": Way(lambda extent, spacing: 2 * spacing),
    "rotated, from four times the spacing": Way(lambda extent, spacing: 4 * spacing),
    "rotated, from a quarter of the extent": Way(lambda extent, spacing: extent / 4),
    "rotated, from half of the extent": Way(lambda extent, spacing: extent / 2),
    "rotated, from half of the extent, no noise": Way(lambda extent, spacing: extent / 2, noise=False),
}


@dataclass(frozen=True)
class Positions:
    """What to try."""

    data: tuple[Literal["molene", "ndbc", "field"], ...] = ("molene", "ndbc")
    """which tables; field is synthetic and needs no file"""
    ways: tuple[str, ...] = tuple(WAYS)
    """ways to try"""
    updates: int = 400
    """updates of each fit"""
    every: int = 3
    """how many of the initialisation times of the test are scored: one of so many"""
    steps: int | None = None
    """use the first steps only; all if not given"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/positions-sensors")
    """where the forecasters are"""
    out: Path = Path("results/positions-sensors.json")
    """the runs and the scores"""
    seed: int = 0
    """of the weights and the order; the withheld stations are always the same"""


def main(recipe: Positions) -> None:
    """Fit and score what is missing, write."""
    for data in recipe.data:
        preset = PRESETS[data]
        reports = preset.read(recipe.folder, recipe.steps)
        parts = split(reports, 0.3, preset.withheld)
        origins = preset.origins(parts.first, reports.num_steps)[:: recipe.every]
        score = partial(
            judge, reports=reports, origins=origins, leads=preset.leads, held_out=parts.withheld, silent=0.0
        )
        if not any(row["data"] == data for row in common.read(recipe.out).get("rows", [])):
            baselines = {name: make().fit(parts.train) for name, make in BASELINES.items()}
            add(recipe, [], score(baselines), data=data)
        for name in recipe.ways:
            known = [(run["data"], run["positions"], run["seed"]) for run in common.read(recipe.out)["runs"]]
            if (data, name, recipe.seed) in known:
                continue
            way, folder = WAYS[name], recipe.runs / f"{data}-{name.replace(',', '').replace(' ', '-')}-{recipe.seed}"
            training = replace(Fit().training, updates=recipe.updates, minutes=None, patience=1000, seed=recipe.seed)
            with patch.multiple(fitting, build_model=way.build, NOISE=fitting.NOISE * way.noise):
                forecaster = Forecaster.fit(parts.train, folder, Fit(training=training))
            run = {"label": LABELS["s2gru"], "data": data, "positions": name, **common.read(folder / fitting.SUMMARY)}
            add(recipe, [run], score({name: forecaster}), data=data, seed=recipe.seed)


def add(recipe: Positions, runs: list[Row], rows: list[Row], **about: object) -> None:
    """Add a run and its scores to the result."""
    kept = [{name: part for name, part in row.items() if name not in ("by_sensor", "by_block")} for row in rows]
    common.add(recipe.out, runs, [{**row, **about} for row in kept], updates=recipe.updates)


if __name__ == "__main__":
    main(tyro.cli(Positions))
