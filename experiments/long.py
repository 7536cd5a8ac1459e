"""The long budget, an hour or more a model on one core: S2GRU, also in the paper's way, RIMs and LSTM.

S2GRU with modules of twice the size is for a GPU. The one with 40 modules of 64 is trained with `--learning-rate 4e-3
--beta2 0.98`, in about 1.4 times the time.

Writes `results/long.json` after every run, so that the command goes on where it was stopped, a run from its
last checkpoint. The paper's encoders and its world are `--codec cnn --size paper`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro

from common import Recipe
from s2rm.models.named import ModelName
from s2rm.settings import Core
from s2rm.tasks.balls.world import BallsWorld

KINDS: dict[str, tuple[ModelName, dict[str, Any]]] = {
    "S2GRU": ("s2gru", {}),
    "S2GRU 256": ("s2gru", {"core": Core(hidden_size=256)}),
    "S2GRU 40 x 64": ("s2gru", {"core": Core(hidden_size=64, num_modules=40)}),
    "S2GRU kernel only": ("s2gru", {"inject_positions": False}),
    "RIMs": ("rims", {}),
    "LSTM": ("lstm", {}),
}


@dataclass(frozen=True)
class Long(Recipe):
    """What to run."""

    updates: int = 20_000
    """updates of S2GRU; the other models make as many as take the same processor time"""
    batch_size: int = 16
    """clips in a batch; from as many frames smaller batches learn more, see `learning.py`"""
    learning_rate: float | None = 2e-3
    """at 4e-3, the best of short runs, a long one fell back to the static scene; that of 40 modules did not"""
    runs: Path = Path("runs/long")
    """where the run folders are"""
    labels: tuple[str, ...] = ("S2GRU", "S2GRU kernel only", "RIMs", "LSTM")
    """models to train, of `KINDS`"""
    train_sequences: int = 4000
    """from which clips are cut"""
    codec: Literal["cnn", "mlp"] = "mlp"
    """encoder and decoder: the paper's, or small ones for CPUs"""
    out: Path = Path("results/long.json")
    """the scores: 1 to 6 balls, all and 30 % of the views"""

    @property
    def world(self) -> BallsWorld:
        return replace(super().world, train_sequences=self.train_sequences)


def main(recipe: Long) -> None:
    """Train and score what is missing, write."""
    for label in recipe.labels:
        model, settings = KINDS[label]
        recipe.add(recipe.out, label, model, fractions=(0.3, 1.0), codec=recipe.codec, **settings)


if __name__ == "__main__":
    main(tyro.cli(Long))
