"""The weights that are shipped: S2GRU and the LSTM scaffold on the demo's world, trained for the same time.

Writes run folders with half-precision weights, their scores and SHA-256 sums into the package. A run that was finished
is kept, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from common import same_time
from s2rm.files import write_json, write_whole
from s2rm.models.named import ModelName
from s2rm.runs import CONFIG, PRETRAINED, SCORES, SUMMARY, SUMS, Run, score
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.training import MODEL, Training

MODELS: tuple[ModelName, ...] = ("s2gru", "lstm")


@dataclass(frozen=True)
class Pretrained:
    """What to train and where to put it."""

    updates: int = 8500
    """updates of S2GRU; the LSTM makes as many as take the same processor time"""
    times: Path = Path("results/updates.json")
    """what `benchmarks/updates.py` measured"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/pretrained")
    """where the run folders are"""
    out: Path = PRETRAINED
    """the folder in the package"""


def main(pretrained: Pretrained) -> None:
    """Train, halve, score what is shipped, sum."""
    shipped = []
    for model in MODELS:
        updates = same_time(model, pretrained.updates, pretrained.times)
        training = Training(learning_rate=2e-3, gradient_norm=1.0, patience=1000, updates=updates)
        settings = Settings(model, training=training)
        run = Run.finished(pretrained.runs / model, settings, "balls", preset(pretrained.size))
        folder = pretrained.out / model
        shutil.rmtree(folder, ignore_errors=True)
        run.load_model().half().save(folder / MODEL)
        for name in (CONFIG, SUMMARY):
            shutil.copy(run.folder / name, folder / name)
        for path in run.folder.glob("logs/version_*/metrics.csv"):
            target = folder / path.relative_to(run.folder)
            target.parent.mkdir(parents=True)
            shutil.copy(path, target)
        shipped.append(Run.open(folder))
    write_json(pretrained.out / SCORES, score(shipped))
    files = sorted(path for path in pretrained.out.rglob("*") if path.is_file() and path.name != SUMS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(pretrained.out)}" for path in files]
    write_whole(pretrained.out / SUMS, "\n".join([*sums, ""]).encode())


if __name__ == "__main__":
    main(tyro.cli(Pretrained))
