"""How far modules should see: S2GRU on battles with other wavelengths of the kernel, at equal updates.

The shortest wavelength decides how wide the enclaves are. Writes `results/wavelengths.json` after every run, so that
the command goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common import add, read
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.battles import TASK
from s2rm.training import Training


@dataclass(frozen=True)
class Wavelengths:
    """What to try."""

    sides: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """shortest wavelengths, in sides of the map; the longest is 16 times that"""
    updates: int = 500
    """of each run"""
    learning_rate: float = 2e-3
    """of Adam, at the start"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/wavelengths")
    """where the run folders are"""
    out: Path = Path("results/wavelengths.json")
    """the runs: label, sides, validation loss"""
    seed: int = 0
    """of the world, the weights and the order"""


def main(recipe: Wavelengths) -> None:
    """Train what is missing, write."""
    world = TASK.preset(recipe.size)
    training = Training(
        learning_rate=recipe.learning_rate, batch_size=16, gradient_norm=1.0, patience=1000, seed=recipe.seed,
        unit_variance=True, updates=recipe.updates,
    )  # fmt: skip
    for sides in recipe.sides:
        if sides in {run["sides"] for run in read(recipe.out).get("runs", [])}:
            continue
        waves = {"shortest": sides * world.side, "longest": 16 * sides * world.side}
        settings = Settings("s2gru", training=training, corrects=True, **waves)
        run = Run.finished(recipe.runs / f"{sides:g}-{recipe.seed}", settings, TASK.name, world)
        add(recipe.out, [{**run.about(), "sides": sides}], [])


if __name__ == "__main__":
    main(tyro.cli(Wavelengths))
