"""How long the trainer waits for data: the ball generator, and the views gathered from its videos."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

from s2rm.files import write_json
from s2rm.runs import Settings
from s2rm.tasks.bouncing_balls import Clips, preset, videos
from s2rm.training import Training, batches, provenance


@dataclass(frozen=True)
class DataWaits:
    """What to time: training S2GRU as the demo does."""

    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    updates: int = 40
    """how many training steps"""
    out: Path | None = None
    """where to write the times, JSON"""


def main(benchmark: DataWaits) -> None:
    """Time gathering and training in turn, in one process; print, write JSON."""
    settings = Settings(world=preset(benchmark.size), training=Training(learning_rate=2e-3, gradient_norm=1.0))
    world, model = settings.world, settings.build()
    start = time.perf_counter()
    source = videos(world, "train", seed=0)
    generating = time.perf_counter() - start
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.training.learning_rate)
    loader = batches(Clips(world, source, train=True), settings.training.batch_size, seed=0, shuffle=True)
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
    result = {
        "seed": settings.training.seed,
        "sequences": len(source),
        "frames": source.packed.shape[1],
        "generate_seconds": generating,
        "gather_seconds_a_batch": gather,
        "learn_seconds_a_batch": learn,
        "gather_share": gather / (gather + learn),
        "generate_share_of_20_epochs": generating / (generating + 20 * epoch),
    }
    Console().print(result)
    if benchmark.out:
        write_json(benchmark.out, {**result, **provenance()})


if __name__ == "__main__":
    main(tyro.cli(DataWaits))
