"""How long the trainer waits for data: generating balls or battles, and gathering a batch of views from them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from s2rm.files import write_json
from s2rm.runs import WORLDS, Settings
from s2rm.training import Training, batches, keep_freed_memory, provenance


@dataclass(frozen=True)
class DataWaits:
    """What to time: training S2GRU as the demo does, or as the recipe on skirmishes does."""

    task: Literal["balls", "skirmish"] = "balls"
    """what to train on"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    updates: int = 40
    """how many training steps"""
    out: Path | None = None
    """where to write the times, JSON"""


def main(benchmark: DataWaits) -> None:
    """Time gathering and training in turn, in one process; print, write JSON."""
    keep_freed_memory()
    _, preset = WORLDS[benchmark.task]
    batch_size = 32 if benchmark.task == "balls" else 16
    settings = Settings(world=preset(benchmark.size), training=Training(learning_rate=2e-3, batch_size=batch_size))
    model = settings.build()
    start = time.perf_counter()
    source = settings.world.episodes("train", seed=0)
    generating = time.perf_counter() - start
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.training.learning_rate)
    loader = batches(source, settings.training.batch_size, seed=0, shuffle=True)
    episodes = iter(loader)
    gathering, learning = [], []
    for _ in range(min(benchmark.updates, len(loader))):
        start = time.perf_counter()
        episode = next(episodes)
        gathered = time.perf_counter()
        optimizer.zero_grad()
        model.loss(episode).backward()
        optimizer.step()
        gathering.append(gathered - start)
        learning.append(time.perf_counter() - gathered)
    gather, learn = statistics.median(gathering), statistics.median(learning)
    epoch = (gather + learn) * len(loader)
    row = {
        "task": benchmark.task,
        "sequences": len(source),
        "generate_seconds": generating,
        "gather_seconds_a_batch": gather,
        "learn_seconds_a_batch": learn,
        "gather_share": gather / (gather + learn),
        "generate_share_of_20_epochs": generating / (generating + 20 * epoch),
    }
    Console().print(row)
    if benchmark.out:
        write_json(benchmark.out, {**provenance(), "seed": settings.training.seed, "runs": [], "rows": [row]})


if __name__ == "__main__":
    main(tyro.cli(DataWaits))
