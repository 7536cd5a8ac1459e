"""Table 1, Figure 8 and Tables 4 to 7, on simulated skirmishes: unit types, markers and stats, with silent agents.

The battles are not StarCraft II, and so not the paper's data. Every model trains for the same processor time at
the same learning rate, from layers of unit variance. With `--corrects` they predict corrections to what was last seen,
by age. With `--drop-views` some agents are silent in training. Writes `results/skirmish.json` (`-corrected`, `-fewer`)
after every run, so that the command continues where it was stopped, and pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import track

from common import add, draw, read, same_time
from s2rm.models.named import LABELS, ModelName
from s2rm.report.figures import png
from s2rm.runs import Run, score
from s2rm.settings import Settings
from s2rm.tasks.battles import TASK
from s2rm.tasks.battles.report import SHARE, SHOWN, can_be_asked_anywhere, from_above, moments, scores_by_reporting
from s2rm.tasks.battles.scores import REPORTING, SIMPLE
from s2rm.tasks.battles.skirmish import battles
from s2rm.training import Training


@dataclass(frozen=True)
class Skirmish:
    """Settings of the recipe."""

    updates: int = 3000
    """updates of S2GRU; the other models make as many as take the same processor time"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    models: tuple[ModelName, ...] = ("s2gru", "s2rmc", "rmc", "lstm")
    """models to train"""
    corrects: bool = False
    """predict corrections to what was last seen, by age"""
    drop_views: float = 0.0
    """in training, up to this share of the agents of each battle, drawn at random, is silent throughout"""
    seeds: int = 1
    """of worlds and weights"""
    learning_rate: float = 2e-3
    """of Adam, at the start, for every model"""
    warmup: int = 0
    """updates over which the rate rises at the start"""
    shares: tuple[float, ...] = REPORTING
    """of the agents that report"""
    times: Path = Path("results/updates.json")
    """what `benchmarks/updates.py` measured on the balls"""
    runs: Path = Path("runs/skirmish")
    """where the run folders are"""
    out: Path | None = None
    """the scores; if not given, in `results/`"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Skirmish) -> None:
    """Train and score what is missing, write the scores, draw the pictures."""
    world = TASK.preset(recipe.size)
    trained: dict[str, Run] = {}
    name = "skirmish" + "-corrected" * recipe.corrects + "-fewer" * (recipe.drop_views > 0)
    out = recipe.out or Path(f"results/{name}.json")
    for seed in range(recipe.seeds):
        lacking = set(SIMPLE) - {row["predictor"] for row in read(out).get("rows", []) if row["seed"] == seed}
        if 0 < len(lacking) < len(SIMPLE):  # the results are of an earlier version, which had fewer
            rows = TASK.score({}, world, seed, recipe.shares, lambda cases: track(list(cases), "simple"), None)
            add(out, [], [{"predictor": row["predictor"], "seed": seed, **row} for row in rows])
        for model in recipe.models:
            known = {(run["label"], run["seed"]) for run in read(out).get("runs", [])}
            folder, label = recipe.runs / name / f"{model}-{seed}", LABELS[model]
            if (label, seed) in known and not folder.is_dir():
                continue
            training = Training(
                learning_rate=recipe.learning_rate, batch_size=16, gradient_norm=1.0, patience=1000, seed=seed,
                unit_variance=True, updates=same_time(model, recipe.updates, recipe.times), warmup=recipe.warmup,
            )  # fmt: skip
            # Modules that see further than the usual half of the map learn more, see `wavelengths.py`.
            waves = {"shortest": world.side, "longest": 16 * world.side}
            settings = Settings(
                model, training=training, corrects=recipe.corrects, drop_views=recipe.drop_views, **waves
            )  # fmt: skip
            run = Run.finished(folder, settings, TASK.name, world)
            if seed == 0:
                trained[label] = run
            few = [row for row in read(out).get("rows", []) if row["reporting"] == min(recipe.shares)]
            if (label, seed, SHOWN) not in {(row["predictor"], row["seed"], row["scenario"]) for row in few}:
                found = score([run], recipe.shares, lambda cases, label=label: track(list(cases), label))
                add(out, [] if (label, seed) in known else [run.about()], found["rows"])
    loaded = {label: run.load_model() for label, run in trained.items()}
    models = {label: model for label, model in loaded.items() if can_be_asked_anywhere(model)}
    if models:
        battle = battles(replace(world, test_battles=1), "test", 0, SHOWN)
        above = from_above(models, world, battle, SHARE, moments(battle))
        draw(recipe.figures, **{f"{name}_from_above": png(above)})
    draw(recipe.figures, **{f"{name}_reporting": png(scores_by_reporting(read(out)["rows"]))})


if __name__ == "__main__":
    main(tyro.cli(Skirmish))
