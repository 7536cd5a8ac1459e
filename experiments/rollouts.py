"""Figures 3 and 15 to 19: closed-loop rollouts of S2GRU, RIMs, RMC and LSTM with 1 to 6 balls.

Writes `results/rollouts.json`, the F1 of whole frames at each step, and a picture for each number of balls. The
runs are those of `family.py`, by default of seed 0; what is not trained yet is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import tyro
from rich.progress import track

from common import Recipe, draw, write
from s2rm.models.named import ModelName
from s2rm.report.figures import png
from s2rm.tasks.balls.report import balls, rollout_scores, rollout_strip
from s2rm.tasks.balls.scores import NUM_BALLS, PROMPT_STEPS, TrivialPredictors, roll_out
from s2rm.tasks.balls.world import preset


@dataclass(frozen=True)
class RolloutsRecipe(Recipe):
    """What to roll out."""

    names: tuple[str, ...] = ("s2gru-0", "rims-0", "rmc-0", "lstm-0")
    """runs to roll out: models and seeds"""
    balls: tuple[int, ...] = NUM_BALLS
    """numbers of moving balls"""
    sequences: int = 100
    """test sequences for each"""
    out: Path = Path("results/rollouts.json")
    """the scores"""


def main(recipe: RolloutsRecipe) -> None:
    """Train what is missing, roll out, write, draw."""
    chosen = [name.rsplit("-", 1) for name in recipe.names]
    runs = [recipe.run(cast(ModelName, model), int(seed)) for model, seed in chosen]
    models, world = {run.label: run.load_model() for run in runs}, preset(recipe.size)
    trivial = TrivialPredictors(world)
    scores: dict[str, dict[str, list[float]]] = {}
    pictures: dict[str, bytes] = {}
    for number in track(recipe.balls, "Rolling out"):
        rollouts = roll_out(models, trivial, world, recipe.sequences, number, seed=0)
        scores[balls(number)] = rollouts.f1()
        pictures[f"rollout_{number}"] = png(rollout_strip(rollouts))
    rows = [
        {"predictor": name, "balls": number, "step": step, "f1": f1}
        for number in recipe.balls
        for name, line in scores[balls(number)].items()
        for step, f1 in enumerate(line, 1)
    ]
    write(recipe.out, [run.about() for run in runs], rows, sequences=recipe.sequences, prompt=PROMPT_STEPS, seed=0)
    draw(recipe.figures, **pictures, rollout_f1=png(rollout_scores(scores)))


if __name__ == "__main__":
    main(tyro.cli(RolloutsRecipe))
