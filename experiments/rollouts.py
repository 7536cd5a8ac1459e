"""Figures 3 and 15 to 19: closed-loop rollouts with 1 to 6 balls, of the shipped S2GRU and LSTM unless told otherwise.

Writes `results/rollouts.json`, the F1 of whole frames at each step, and a picture for each number of balls. Scores of
other models that are in the file stay there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.progress import track

from common import draw, read, write
from s2rm.report.figures import png
from s2rm.runs import PRETRAINED, Run
from s2rm.tasks.balls.report import balls, rollout_scores, rollout_strip
from s2rm.tasks.balls.scores import NUM_BALLS, PROMPT_STEPS, TrivialPredictors, roll_out
from s2rm.tasks.balls.world import BallsWorld
from s2rm.tasks.worlds import World


@dataclass(frozen=True)
class RolloutsRecipe:
    """What to roll out."""

    runs: tuple[Path, ...] = (PRETRAINED / "s2gru", PRETRAINED / "lstm")
    """folders of finished runs on one world, such as those of `family.py`"""
    balls: tuple[int, ...] = NUM_BALLS
    """numbers of moving balls"""
    sequences: int = 100
    """test sequences for each"""
    out: Path = Path("results/rollouts.json")
    """the scores"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: RolloutsRecipe) -> None:
    """Roll out, write, draw."""
    runs = [Run.open(folder) for folder in recipe.runs]
    world = runs[0].world
    if not isinstance(world, BallsWorld) or any(_tested(run.world) != _tested(world) for run in runs):
        raise SystemExit("rollouts: expected runs on one world of the balls, got others; name runs of one world")
    models, trivial = {run.label: run.load_model() for run in runs}, TrivialPredictors(world)
    about = {"sequences": recipe.sequences, "prompt": PROMPT_STEPS, "seed": 0}
    before = read(recipe.out)
    if {key: before.get(key) for key in about} != about:
        before = {}
    others = [run for run in before.get("runs", []) if run["label"] not in models]
    kept = [row for row in before.get("rows", []) if row["predictor"] in {run["label"] for run in others}]
    scores: dict[str, dict[str, list[float]]] = {balls(number): {} for number in recipe.balls}
    pictures: dict[str, bytes] = {}
    for number in track(recipe.balls, "Rolling out"):
        for row in kept:
            if row["balls"] == number:
                scores[balls(number)].setdefault(row["predictor"], []).append(row["f1"])
        rollouts = roll_out(models, trivial, world, recipe.sequences, number, seed=0)
        scores[balls(number)] |= rollouts.f1()
        pictures[f"rollout_{number}"] = png(rollout_strip(rollouts))
    rows = [
        {"predictor": name, "balls": number, "step": step, "f1": f1}
        for number in recipe.balls
        for name, line in scores[balls(number)].items()
        for step, f1 in enumerate(line, 1)
    ]
    write(recipe.out, [*others, *(run.about() for run in runs)], rows, **about)
    draw(recipe.figures, **pictures, rollout_f1=png(rollout_scores(scores)))


def _tested(world: World) -> World:
    """What decides the test; runs may have trained on more sequences than others."""
    return replace(world, train_sequences=1) if isinstance(world, BallsWorld) else world


if __name__ == "__main__":
    main(tyro.cli(RolloutsRecipe))
