"""Table 1, Figure 8 and Tables 4 to 7, on skirmishes of our own: unit types, markers and stats, as agents fall silent.

Not StarCraft II, and so not the paper's data. Every model trains for the same wall-clock time at the same learning
rate, from layers of unit variance. Writes `results/skirmish.json` after every run, so that the command goes on where it
was stopped, and pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.progress import track

from common import draw, read
from s2rm.files import write_json
from s2rm.report import figures as plots
from s2rm.runs import LABELS, ModelName, Run, Settings, score
from s2rm.tasks.battles import plots as battle_plots
from s2rm.tasks.battles.report import SHARE, SHOWN, seeing
from s2rm.tasks.battles.scores import REPORTING
from s2rm.tasks.battles.skirmish import battles, preset
from s2rm.training import Training, provenance

KEYS = ("predictor", "scenario", "reporting", "seed")


@dataclass(frozen=True)
class Skirmish:
    """What to run."""

    minutes: float = 15.0
    """wall-clock budget for training each model"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    models: tuple[ModelName, ...] = ("s2gru", "s2rmc", "rmc", "lstm")
    """whom to train"""
    seeds: int = 1
    """of worlds and weights"""
    learning_rate: float = 2e-3
    """of Adam, at the start, for every model"""
    shares: tuple[float, ...] = REPORTING
    """of the agents that report"""
    runs: Path = Path("runs/skirmish")
    """where the run folders are"""
    out: Path = Path("results/skirmish.json")
    """the scores"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Skirmish) -> None:
    """Train and score what is missing, write, draw."""
    trained: dict[tuple[str, int], Run] = {}
    for seed in range(recipe.seeds):
        for model in recipe.models:
            known = {(run["label"], run["seed"]) for run in read(recipe.out).get("runs", [])}
            training = Training(
                learning_rate=recipe.learning_rate, batch_size=16, gradient_norm=1.0, epochs=10_000, patience=1000,
                minutes=recipe.minutes, seed=seed, unit_variance=True,
            )  # fmt: skip
            folder, label = recipe.runs / f"{model}-{seed}", LABELS[model]
            if (label, seed) in known and not folder.is_dir():
                continue
            world = preset(recipe.size)
            # Units are a map unit or two apart: waves of half the map's length tell them apart too slowly.
            waves = {"shortest": world.side / 4, "longest": 4 * world.side}
            run = Run.finished(folder, Settings(model, training=training, world=world, **waves))
            trained[label, seed] = run
            if (label, seed) not in known:
                add(recipe, run, seed)
    models = seeing({label: run.load_model() for (label, seed), run in trained.items() if not seed})
    if models:
        world = preset(recipe.size)
        battle = battles(replace(world, test_battles=1), "test", 0, SHOWN)
        above = battle_plots.from_above(models, world, battle, SHARE, battle_plots.moments(battle))
        draw(recipe.figures, skirmish_from_above=plots.png(above))
    rows = read(recipe.out)["rows"]
    draw(recipe.figures, skirmish_reporting=plots.png(battle_plots.scores_by_reporting(rows)))


def add(recipe: Skirmish, run: Run, seed: int) -> None:
    """The scores of a run, and of the trivial predictors where they are not there."""
    found = score([run], recipe.shares, lambda cases: track(list(cases), run.label))
    kept = read(recipe.out)
    rows = [{**row, "seed": seed} for row in found["rows"]]
    known = {tuple(row[key] for key in KEYS) for row in kept.get("rows", [])}
    new = [row for row in rows if tuple(row[key] for key in KEYS) not in known]
    summary = {"label": run.label, "learning_rate": run.settings.training.learning_rate, **run.summary()}
    write_json(
        recipe.out,
        {"runs": [*kept.get("runs", []), summary], **provenance(), "rows": [*kept.get("rows", []), *new]},
    )


if __name__ == "__main__":
    main(tyro.cli(Skirmish))
