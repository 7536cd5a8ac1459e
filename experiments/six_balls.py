"""Why the recurrent baselines fall below "last seen" at six balls: they are trained on six, and scored there.

Models of the family see three balls in training. Here RIMs, LSTM, RMC and S2GRU are trained on six, for fewer updates.
If they are above "last seen" then, what they lack is not capacity: what they learned from three does not carry over.
Writes `results/six-balls.json`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from common import Recipe, add, read
from s2rm.models.named import LABELS, ModelName
from s2rm.runs import Run
from s2rm.tasks.balls.scores import TrivialPredictors, one_step_table
from s2rm.tasks.balls.world import preset
from s2rm.tasks.task import Predictor, model_predictor

SIX = 6


@dataclass(frozen=True)
class SixBalls(Recipe):
    """What to train."""

    updates: int = 1200
    """updates of S2GRU; the other models make as many as take the same processor time"""
    models: tuple[ModelName, ...] = ("rims", "lstm", "rmc", "s2gru")
    """models to train"""
    runs: Path = Path("runs/six-balls")
    """where the run folders are"""
    out: Path = Path("results/six-balls.json")
    """the scores: 3 and 6 balls, all views"""


def main(recipe: SixBalls) -> None:
    """Train and score what is missing, write."""
    world = replace(preset(recipe.size), num_balls=SIX)
    predictors: dict[str, Predictor] = TrivialPredictors(preset(recipe.size)).by_name
    for model in recipe.models:
        runs = read(recipe.out).get("runs", [])
        if LABELS[model] in {run["label"] for run in runs}:
            continue
        run = Run.finished(recipe.runs / f"{model}-0", recipe.settings(model), "balls", world)
        scored = ({} if runs else predictors) | {LABELS[model]: model_predictor(run.load_model())}
        rows = one_step_table(scored, world, 0, (3, SIX), (1.0,))
        for row in rows:
            row.pop("reliability")
        add(recipe.out, [run.about()], rows, seed=0)


if __name__ == "__main__":
    main(tyro.cli(SixBalls))
