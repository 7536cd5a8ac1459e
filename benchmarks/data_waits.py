"""The time that training waits for data: generating balls or battles, and gathering batches of views from them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from common import save, seconds
from s2rm.settings import Settings
from s2rm.tasks import balls, battles
from s2rm.training import Training, batches, keep_freed_memory


@dataclass(frozen=True)
class DataWaits:
    """Training of S2GRU as in the demo, or as in the recipe on skirmishes."""

    task: Literal["balls", "skirmish"] = "balls"
    """the world to train on"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    updates: int = 40
    """number of training steps"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: DataWaits) -> None:
    """Time gathering and training in turn, in one process; print, write JSON."""
    keep_freed_memory()
    task, batch_size = (balls.TASK, 32) if benchmark.task == "balls" else (battles.TASK, 16)
    world = task.preset(benchmark.size)
    settings = Settings(training=Training(learning_rate=2e-3, batch_size=batch_size))
    model = settings.build(world)
    start = time.perf_counter()
    source = task.episodes(world, "train")
    generating = time.perf_counter() - start
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.training.learning_rate)
    loader = batches(source, batch_size, seed=0, shuffle=True)
    episodes, gathered = iter(loader), []

    def gather() -> None:
        gathered.append(next(episodes))

    def learn() -> None:
        optimizer.zero_grad()
        model.loss(gathered.pop()).backward()
        optimizer.step()

    times = [(seconds(gather), seconds(learn)) for _ in range(min(benchmark.updates, len(loader)))]
    gathering, learning = (statistics.median(each) for each in zip(*times, strict=True))
    row = {
        "task": benchmark.task,
        "sequences": len(source),
        "generate_seconds": generating,
        "gather_seconds_a_batch": gathering,
        "learn_seconds_a_batch": learning,
        "gather_share": gathering / (gathering + learning),
        "generate_share_of_20_epochs": generating / (generating + 20 * (gathering + learning) * len(loader)),
    }
    Console().print(row)
    save(benchmark.out, [row], seed=settings.training.seed)


if __name__ == "__main__":
    main(tyro.cli(DataWaits))
