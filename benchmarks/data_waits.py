"""The time that training waits for data: generating balls or battles, and gathering batches of views from them."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
import tyro
from rich.console import Console
from rich.progress import track

from common import save, seconds
from s2rm.settings import Settings
from s2rm.tasks import arrays, balls, battles
from s2rm.tasks.balls.world import videos
from s2rm.tasks.task import Task
from s2rm.tasks.worlds import World
from s2rm.training import Training, batches, keep_freed_memory
from s2rm.views import Episode


@dataclass(frozen=True)
class DataWaits:
    """Training of S2GRU as in the demo, or as in the recipe on skirmishes."""

    task: Literal["balls", "skirmish", "arrays"] = "balls"
    """the world to train on; arrays: the balls' own frames from a file, beside the balls as they are built in"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    updates: int = 40
    """number of training steps"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: DataWaits) -> None:
    """Time gathering and training in turn, in one process; print, write JSON."""
    keep_freed_memory()
    task, batch_size = (battles.TASK, 16) if benchmark.task == "skirmish" else (balls.TASK, 32)
    worlds: dict[str, tuple[Task, World]] = {task.name: (task, task.preset(benchmark.size))}
    with TemporaryDirectory() as folder:
        if benchmark.task == "arrays":
            worlds["arrays"] = arrays.TASK, as_arrays(cast(balls.BallsWorld, worlds["balls"][1]), Path(folder))
        sides = {name: Side(*each, batch_size) for name, each in worlds.items()}
        for _ in track(range(benchmark.updates), "Training"):
            for side in sides.values():
                side.update()
        rows = [side.row(name) for name, side in sides.items()]
    if benchmark.task == "arrays":
        pairs = zip(sides["balls"].times, sides["arrays"].times, strict=True)
        rows[1]["times_of_balls"] = statistics.median(sum(ours) / sum(theirs) for theirs, ours in pairs)
    Console().print(rows)
    save(benchmark.out, rows, seed=0)


def as_arrays(world: balls.BallsWorld, folder: Path) -> World:
    """The same frames, crops and clips in memory-mapped files: those of training, and a few to validate and test."""
    splits = {split: videos(world, split, 0).frames() for split in ("train", "val", "test")}
    part = [number for number, frames in enumerate(splits.values()) for _ in frames]
    content = {"frames": torch.cat([*splits.values()]).numpy(), "part": part}
    return arrays.write_world(folder / "balls", content, crop=world.crop, num_views=world.num_views, clip=world.clip)


class Side:
    """Training of S2GRU on one world, with the times of gathering a batch and of learning from it."""

    def __init__(self, task: Task, world: World, batch_size: int):
        settings = Settings(training=Training(learning_rate=2e-3, batch_size=batch_size))
        self.model = settings.build(world)
        start = time.perf_counter()
        self.source = task.episodes(world, "train")
        self.generating = time.perf_counter() - start
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.training.learning_rate)
        self.loader = batches(self.source, batch_size, seed=0, shuffle=True)
        self.episodes = chain.from_iterable(repeat(self.loader))
        self.times: list[tuple[float, float]] = []

    def update(self) -> None:
        """Gather a batch and learn from it."""
        gathered: list[Episode] = []

        def learn() -> None:
            self.optimizer.zero_grad()
            self.model.loss(gathered.pop()).backward()
            self.optimizer.step()

        self.times.append((seconds(lambda: gathered.append(next(self.episodes))), seconds(learn)))

    def row(self, name: str) -> dict[str, Any]:
        """Medians."""
        gathering, learning = (statistics.median(each) for each in zip(*self.times, strict=True))
        return {
            "task": name,
            "sequences": len(self.source),  # type: ignore[arg-type]
            "generate_seconds": self.generating,
            "gather_seconds_a_batch": gathering,
            "learn_seconds_a_batch": learning,
            "gather_share": gathering / (gathering + learning),
            "generate_share_of_20_epochs": self.generating
            / (self.generating + 20 * (gathering + learning) * len(self.loader)),
        }


if __name__ == "__main__":
    main(tyro.cli(DataWaits))
