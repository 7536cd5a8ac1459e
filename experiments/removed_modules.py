"""Figure 7: one-step F1 of a trained S2RM as modules, drawn at random, are removed at test time, without training.

Writes `results/removed-modules.json` and `docs/figures/removed-modules.png`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.progress import track

from common import by_balls, write
from s2rm import S2RM
from s2rm.files import Row, write_whole
from s2rm.report.figures import curve, png, predictors, side_by_side
from s2rm.runs import PRETRAINED, Run
from s2rm.tasks.balls import BallsWorld
from s2rm.tasks.balls.scores import TrivialPredictors, episodes_to_test, one_step_scores
from s2rm.tasks.task import model_predictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RemovedModules:
    """What to remove from what."""

    run: Path = PRETRAINED / "s2gru"
    """run folder of an S2RM; the shipped one unless given"""
    balls: tuple[int, ...] = (1, 3, 6)
    """numbers of moving balls"""
    draws: int = 4
    """random choices of modules for each number removed"""
    sequences: int = 96
    """test sequences, at most"""
    seed: int = 0
    """of the choices"""
    out: Path = Path("results/removed-modules.json")
    """the scores"""
    figure: Path = Path("docs/figures/removed-modules.png")
    """the picture"""


def main(recipe: RemovedModules) -> None:
    """Remove, score, write, draw."""
    run = Run.open(recipe.run)
    model, world, seed = run.load_model(), run.world, run.settings.training.seed
    if not isinstance(model, S2RM) or not isinstance(world, BallsWorld):
        raise SystemExit(f"removed_modules: expected a run of an S2RM on the balls, got {run.label} on {run.task.name}")
    others, generator = TrivialPredictors(world, seed).by_name, random.Random(recipe.seed)
    rows: list[dict[str, Any]] = []
    for balls in recipe.balls:
        episodes = episodes_to_test(world, balls, seed)[: -(-recipe.sequences // 32)]
        fixed = {name: one_step_scores(predict, episodes)["f1"] for name, predict in others.items()}
        for removed in track(range(model.num_modules), f"{balls} balls"):
            draws = 1 if removed == 0 else recipe.draws
            lost = [generator.sample(range(model.num_modules), removed) for _ in range(draws)]
            scores = [
                one_step_scores(model_predictor(model.without_modules(*modules) if modules else model), episodes)["f1"]
                for modules in lost
            ]
            for name, all_ in ((run.label, scores), *((name, [score]) for name, score in fixed.items())):
                mean = sum(all_) / len(all_)
                row = {"predictor": name, "balls": balls, "removed": removed}
                rows.append({**row, "f1": mean, "lowest": min(all_), "highest": max(all_)})
    recipe.figure.parent.mkdir(parents=True, exist_ok=True)
    write(recipe.out, [run.about()], rows, draws=recipe.draws, seed=recipe.seed)
    write_whole(recipe.figure, png(removed_modules(rows)))


def removed_modules(rows: Sequence[Row]) -> Figure:
    """F1 against the number of modules removed: the mean over draws and their range, a panel a number of balls."""
    names = predictors(rows)

    def draw(axes: Axes, part: Sequence[Row]) -> None:
        for name in names:
            line = [row for row in part if row["predictor"] == name]
            x, f1, lowest, highest = ([row[key] for row in line] for key in ("removed", "f1", "lowest", "highest"))
            curve(axes, x, f1, name, names, (lowest, highest))

    return side_by_side(by_balls(rows), draw, "F1", xlabel="modules removed", ylim=(0, 1))


if __name__ == "__main__":
    main(tyro.cli(RemovedModules))
