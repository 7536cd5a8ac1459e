"""Every model of the family on the demo's world, each trained for the same wall-clock time, one after the other.

Writes `results/family.json`. A run that was finished is kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro

from s2rm.models.world_model import write_json
from s2rm.runs import ModelName, Run, Settings, score
from s2rm.tasks.bouncing_balls import preset
from s2rm.training import Training


@dataclass(frozen=True)
class Family:
    """What to run."""

    minutes: float = 5.0
    """wall-clock budget for training each model"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/family")
    """where the run folders are"""
    out: Path = Path("results/family.json")
    """the scores: 1 to 6 balls, all and 30 % of the views"""
    seed: int = 0
    """of the world, the weights and the order"""


def main(family: Family) -> None:
    """Train, score, write."""
    training = Training(learning_rate=2e-3, gradient_norm=1.0, epochs=10_000, minutes=family.minutes, seed=family.seed)
    world, models = preset(family.size), get_args(ModelName)
    runs = [Run.finished(family.runs / model, Settings(model, training=training, world=world)) for model in models]
    write_json(family.out, score(runs, fractions=(0.3, 1.0)))


if __name__ == "__main__":
    main(tyro.cli(Family))
