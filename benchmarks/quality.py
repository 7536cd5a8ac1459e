"""Quality per minute: how long S2GRU, LSTM and RIMs train on the balls until their validation loss is low.

Each model is trained for a number of updates, over which the learning rate falls along a cosine; what counts is the
first validation at or below each loss. Changes of how models train are judged by this. They were first trained with
`--updates 3500 --learning-rate 2e-3 --precision 32-true`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from common import machine
from s2rm.files import Row, read_json, write_json
from s2rm.models.named import LABELS, ModelName
from s2rm.settings import Settings
from s2rm.tasks.balls import episodes, preset
from s2rm.training import Training, batches, fit, provenance
from s2rm.training.records import history


@dataclass(frozen=True)
class Quality:
    """What to train, and how far."""

    models: tuple[ModelName, ...] = ("s2gru", "lstm", "rims")
    """models to train"""
    losses: tuple[float, ...] = (0.08, 0.05)
    """validation losses to reach"""
    updates: int = 1200
    """updates of each model"""
    batch_size: int = 32
    """clips in a batch"""
    learning_rate: float = 4e-3
    """of Adam, at the start"""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """of matrix products, as in Lightning"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    seed: int = 0
    """of the world, the weights and the order"""
    runs: Path = Path("runs/quality")
    """where the run folders are"""
    out: Path | None = None
    """a JSON file to add the rows to; those of other ways and commits stay"""


def identity(row: Row) -> tuple[object, ...]:
    """What a row is of."""
    return tuple(row[key] for key in ("predictor", "way", "loss", "commit"))


def main(benchmark: Quality) -> None:
    """Train, print, add the rows."""
    torch.set_num_threads(1)
    world, seed = preset(benchmark.size), benchmark.seed
    training = Training(
        learning_rate=benchmark.learning_rate, batch_size=benchmark.batch_size, gradient_norm=1.0,
        patience=benchmark.updates, updates=benchmark.updates, precision=benchmark.precision, seed=seed,
    )  # fmt: skip
    train, validation = (episodes(world, split, seed) for split in ("train", "val"))
    rows: list[Row] = []
    way = f"{training.updates:,} x {training.batch_size} clips, rate {training.learning_rate:g}, {training.precision}"
    for name in benchmark.models:
        model, folder = Settings(name, training=training).build(world), benchmark.runs / f"{name}-{time.time_ns()}"
        loaders = batches(train, training.batch_size, seed, True), batches(validation, 32, seed + 1, False)
        started = time.process_time()
        ended = fit(model, *loaders, folder, training)
        busy = (time.process_time() - started) / (60 * ended["minutes"])  # of each second, while it trained
        lines = history(folder)
        for loss in benchmark.losses:
            first = next((line for line in lines if line["val_loss"] <= loss), None)
            row: Row = {"predictor": LABELS[name], "way": way, "loss": loss, "commit": provenance()["commit"]}
            row["reached"] = first is not None
            if first is not None:
                seconds, epoch = 60 * first["minutes"], lines.index(first) + 1
                updates = min(benchmark.updates, epoch * len(loaders[0]))
                row |= {"updates": updates, "seconds": seconds, "processor_seconds": busy * seconds}
            rows.append({**row, "best": ended["val_loss"]})
            Console().print(rows[-1])
    if benchmark.out:
        before = read_json(benchmark.out)["rows"] if benchmark.out.is_file() else []
        made = {identity(row) for row in rows}
        before = [row for row in before if identity(row) not in made]
        about = {**provenance(), "machine": machine(), "seed": seed}
        write_json(benchmark.out, {**about, "runs": [], "rows": before + rows})


if __name__ == "__main__":
    main(tyro.cli(Quality))
