"""How a position enters encoder and decoder: the ways of the paper and a rotation, for the same number of updates.

Writes `results/positions.json` after every run, so that the command goes on where it was stopped; several with
different models may run at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common import add, read
from s2rm.models.named import LABELS, SPATIAL, ModelName
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.balls.scores import TrivialPredictors, one_step_scores
from s2rm.tasks.balls.world import episodes, preset
from s2rm.training import Training, batches


@dataclass(frozen=True)
class Positions:
    """What to try."""

    epochs: int = 2
    """passes over the training sequences, in each run"""
    models: tuple[ModelName, ...] = ("s2gru", "lstm", "gru", "rmc", "rims")
    """models to train"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/positions")
    """where the run folders are"""
    out: Path = Path("results/positions.json")
    """the runs: label, how positions enter, validation loss"""
    seed: int = 0
    """of the world, the weights and the order"""


def main(recipe: Positions) -> None:
    """Train what is missing, write."""
    world = preset(recipe.size)
    validation = batches(episodes(world, "val", recipe.seed), 32, recipe.seed + 1, shuffle=False)
    static = one_step_scores(TrivialPredictors(world, recipe.seed).static_scene, validation)
    rows = [{"predictor": "static scene", "seed": recipe.seed, "val_loss": -static["log_likelihood"]}]
    ways = {
        "kernel alone": {"inject_positions": False},
        "injection": {},
        "rotation": {"rotation": world.side / 4},
    }
    training = Training(learning_rate=2e-3, gradient_norm=1.0, epochs=recipe.epochs, seed=recipe.seed)
    for model in recipe.models:
        for way, own in ways.items():
            known = {(run["label"], run["positions"]) for run in read(recipe.out).get("runs", [])}
            # A baseline has no kernel: without its positions it could not tell views apart.
            if (LABELS[model], way) in known or (way == "kernel alone" and model not in SPATIAL):
                continue
            settings = Settings(model, training=training, **own)
            run = Run.finished(recipe.runs / f"{model}-{way.replace(' ', '-')}", settings, "balls", world)
            add(recipe.out, [{**run.about(), "positions": way}], rows, epochs=recipe.epochs, seed=recipe.seed)


if __name__ == "__main__":
    main(tyro.cli(Positions))
