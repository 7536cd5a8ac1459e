"""What it is worth to know the wind ahead: the synthetic field with and without it, beside the exact physics.

Two fits alike, one of which is given the wind until the end. Beside them stand forecasts by the physics itself: two
from a perfect analysis, all of the field at the initialisation, of which one carries it with the true wind, the other
with the wind of the initialisation; and one from what the sensors reported. What the last one does not know, such as a
puff that is released later, no forecast from these sensors can. Writes `results/known-ahead.json` after every fit, so
that an interrupted command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import common
from common import read
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.fitting import SUMMARY
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import BASELINES, judge, split
from s2rm.sensors.judging.predictors import SensorPredictor
from s2rm.sensors.reports import Reports, from_components
from s2rm.sensors.settings import Fit

WORLDS = {
    "carried": {"wind": 3.0, "wind_turn": 31.0, "turn": 4800.0, "release_every": 160.0, "decay": 0.003},
    "turning": {"wind": 5.0, "wind_turn": 31.0},
    "steady": {},
}  # fmt: skip
"""a wind that turns by 139 degrees in 12 hours, alone and with few new puffs; a strong one beside a gyre that nothing
tells of, with many; and a weak one that turns by 18"""
REACH, NUGGET, HOURS = 10.0, 0.05, 12
"""of the kriging of what the sensors reported, and over how many hours"""
LEADS = (1, 3, 6, 12)
"""hours; the last one is the horizon of the fits"""


@dataclass(frozen=True)
class KnownAhead:
    """What to run."""

    updates: int = 600
    """updates of each fit"""
    steps: int = 400
    """hours of the worlds"""
    worlds: tuple[str, ...] = tuple(WORLDS)
    """which of them"""
    runs: Path = Path("runs/known-ahead")
    """where the run folders are"""
    out: Path = Path("results/known-ahead.json")
    """the scores"""
    seed: int = 0
    """of the worlds, the withheld sensors and the weights"""


@dataclass(frozen=True)
class Physics:
    """A forecast by the field's own equations from a perfect analysis; what is released later it does not know."""

    world: FieldWorld
    knows_wind: bool
    """whether the wind is the true one, or stays that of the initialisation"""

    def predict(
        self, shown: Reports, origin: int, positions: Float[NDArray, "Q 2"], covariates: Float[NDArray, "Q F"],
        sensors: Int[NDArray, " Q"], leads: Sequence[int],
    ) -> tuple[NDArray, NDArray]:  # fmt: skip
        world, means = self.world, []
        now, middle = np.full(len(positions), origin), np.full((1, 2), world.side / 2)
        for lead in leads:
            wind = world.flow(np.array([origin + lead if self.knows_wind else origin]), middle)
            gyre = world.flow(now, positions) - world.flow(np.array([origin]), middle)
            before = world.carried(positions, now + lead, now)
            if not self.knows_wind:
                turn, drift = 2j * np.pi / world.turn, complex(*wind[0])
                around = (positions - middle) @ [1, 1j] + drift / turn
                back = around * np.exp(-turn * lead) - drift / turn
                before = middle + np.stack([back.real, back.imag], -1)
            tracer = world.truth(now, before)[:, 0] - world.background
            means.append(np.stack([world.background + tracer * np.exp(-world.decay * lead),
                                   from_components(gyre + wind)], -1))  # fmt: skip
        mean = np.stack(means)
        return mean, np.broadcast_to([world.noise, world.direction_noise], mean.shape)


@dataclass(frozen=True)
class FromSensors:
    """A forecast by the same equations from the reports of the last hours, each carried to the target time."""

    world: FieldWorld

    def predict(
        self, shown: Reports, origin: int, positions: Float[NDArray, "Q 2"], covariates: Float[NDArray, "Q F"],
        sensors: Int[NDArray, " Q"], leads: Sequence[int],
    ) -> tuple[NDArray, NDArray]:  # fmt: skip
        world = self.world
        mean, stddev = Physics(world, True).predict(shown, origin, positions, covariates, sensors, leads)
        recent = shown.where((shown.step > origin - HOURS) & ~np.isnan(shown.values[:, 0]))
        for row, lead in enumerate(leads):
            until = np.full(len(recent), origin + lead)
            places = world.carried(recent.positions, recent.step, until)
            above = (recent.values[:, 0] - world.background) * np.exp(-world.decay * (until - recent.step))
            within, towards = (
                np.exp(-cdist(each, places, "sqeuclidean") / (2 * REACH**2)) for each in (places, positions)
            )
            weight = np.linalg.solve(within + NUGGET * np.eye(len(places)), above)
            mean[row, :, 0] = world.background + towards @ weight
        return mean, stddev


def main(recipe: KnownAhead) -> None:
    """Fit and score what is missing."""
    for name in recipe.worlds:
        # Sensors that move would be judged where they were, with errors of another kind.
        still = FieldWorld(num_stations=40, num_movers=0, num_steps=recipe.steps, seed=recipe.seed)
        world = replace(still, **WORLDS[name])
        for label, ahead in (("S2GRU", False), ("S2GRU, wind known ahead", True)):
            if (label, name) in {(run["label"], run["data"]) for run in read(recipe.out).get("runs", [])}:
                continue
            reports = world.reports(wind_ahead=ahead)
            parts = split(reports, 0.3, 0.2, recipe.seed)
            folder = recipe.runs / f"{name}-{'with' if ahead else 'without'}"
            training = replace(Fit().training, updates=recipe.updates, minutes=None, seed=recipe.seed)
            how = Fit(context=24, horizon=max(LEADS), training=training)
            predictors: dict[str, SensorPredictor] = {label: Forecaster.fit(parts.train, folder, how)}
            if not ahead:
                predictors |= {other: make().fit(parts.train) for other, make in BASELINES.items()}
                predictors |= {"physics, wind held": Physics(world, False), "physics, true wind": Physics(world, True)}
                predictors |= {"physics, from the sensors": FromSensors(world)}
            origins = np.arange(parts.first + max(LEADS), reports.num_steps - max(LEADS), 3)
            rows = judge(predictors, reports, origins, LEADS, parts.withheld, (0.0,), recipe.seed)
            for row in rows:
                del row["by_sensor"], row["by_block"]
            run = {"label": label, "data": name, **read(folder / SUMMARY)}
            common.add(recipe.out, [run], [{**row, "data": name} for row in rows], seed=recipe.seed, steps=recipe.steps)


if __name__ == "__main__":
    main(tyro.cli(KnownAhead))
