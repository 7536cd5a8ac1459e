"""What learns fastest: S2GRU on the balls with other batches, rates, clips, optimisers and modules, on as many frames.

Every way sees the frames of the same number of updates of 32 clips.
Writes `results/learning.json` after every run, so that the command goes on where it was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor

from common import add, read
from s2rm import Episode
from s2rm.models.named import LABELS, ModelName
from s2rm.settings import Core, Settings
from s2rm.tasks.balls import episodes
from s2rm.tasks.balls.world import BallsWorld, episode, mirrored, preset, videos
from s2rm.tasks.worlds import Drawn, random_clip
from s2rm.training import Training, batches, fit, provenance


@dataclass(frozen=True)
class Way:
    """A way of training."""

    training: dict[str, Any] = field(default_factory=dict)
    """what differs from the recipes' training"""
    core: Core = field(default_factory=Core)
    """number and size of the modules"""
    clips: tuple[tuple[int, float], ...] = ()
    """length of the clips, and the share of all frames that is seen in clips of this length; the world's if empty"""


WAYS = {
    "as the recipes": Way(),
    "64 clips a batch": Way({"batch_size": 64}),
    "16 clips a batch": Way({"batch_size": 16}),
    "8 clips a batch": Way({"batch_size": 8}),
    "32 clips, rate 4e-3": Way({"learning_rate": 4e-3}),
    "16 clips, rate 4e-3": Way({"batch_size": 16, "learning_rate": 4e-3}),
    "8 clips, rate 1e-3": Way({"batch_size": 8, "learning_rate": 1e-3}),
    "16 clips, shorter memory of Adam": Way({"batch_size": 16, "beta2": 0.98}),
    "16 clips, rate 4e-3, shorter memory of Adam": Way({"batch_size": 16, "learning_rate": 4e-3, "beta2": 0.98}),
    "16 clips, rate 4e-3, 20 modules of 64": Way({"batch_size": 16, "learning_rate": 4e-3}, Core(64, 20)),
    "16 clips, rate 4e-3, 40 modules of 64": Way({"batch_size": 16, "learning_rate": 4e-3}, Core(64, 40)),
    "16 clips, rate 4e-3, 80 modules of 32": Way({"batch_size": 16, "learning_rate": 4e-3}, Core(32, 80)),
    "16 clips, rate 4e-3, shorter memory of Adam, 40 modules of 64": Way(
        {"batch_size": 16, "learning_rate": 4e-3, "beta2": 0.98}, Core(64, 40)
    ),
    "16 clips, averaged weights": Way({"batch_size": 16, "average": 0.98}),
    "16 clips, layers of unit variance": Way({"batch_size": 16, "unit_variance": True}),
    "32 clips that grow": Way(clips=((5, 0.25), (10, 0.35), (20, 0.4))),
}


@dataclass(frozen=True)
class Learning:
    """What to try."""

    updates: int = 600
    """updates of 32 clips of the world's length"""
    model: ModelName = "s2gru"
    """the model to train"""
    ways: tuple[str, ...] = tuple(WAYS)
    """ways of training"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/learning")
    """where the run folders are"""
    out: Path = Path("results/learning.json")
    """the runs: label, way, validation loss, seconds of processor time"""
    seed: int = 0
    """of the world, the weights and the order"""


def growing(world: BallsWorld, way: Way, updates: int, seed: int) -> tuple[Drawn, int]:
    """Training episodes whose clips grow from update to update, and how many updates see all frames."""
    source = videos(world, "train", seed)
    plan = [(length, round(share * updates * world.clip / length)) for length, share in way.clips]
    lengths: Iterator[int] = iter([length for length, number in plan for _ in range(number)])

    def draw(rows: Tensor, generator: torch.Generator) -> Episode:
        steps = random_clip(len(rows), source.packed.shape[1], next(lengths, world.clip), generator)
        return episode(world, mirrored(source.frames(rows, steps), generator), generator)

    return Drawn(len(source), draw), sum(number for _, number in plan)


def main(recipe: Learning) -> None:
    """Train what is missing, write."""
    world, seed = preset(recipe.size), recipe.seed
    scored = batches(episodes(world, "val", seed), 32, seed + 1, shuffle=False)
    for name in recipe.ways:
        way = WAYS[name]
        known = {(run["label"], run["way"], run["seed"]) for run in read(recipe.out).get("runs", [])}
        if (LABELS[recipe.model], name, seed) in known:
            continue
        training = Training(learning_rate=2e-3, gradient_norm=1.0, patience=1000, updates=recipe.updates, seed=seed)
        training = replace(training, **way.training)
        train: Any = episodes(world, "train", seed)
        updates = recipe.updates * 32 // training.batch_size
        if way.clips:
            train, updates = growing(world, way, recipe.updates, seed)
        training = replace(training, updates=updates)
        model = Settings(recipe.model, training=training, core=way.core).build(world)
        folder = recipe.runs / f"{recipe.model}-{seed}-{name.replace(',', '').replace(' ', '-')}"
        started = time.process_time()
        ended = fit(model, batches(train, training.batch_size, seed, shuffle=True), scored, folder, training)
        run = {"label": LABELS[recipe.model], "way": name, "seed": seed, "learning_rate": training.learning_rate,
               "parameters": model.num_parameters, **ended, "processor_seconds": time.process_time() - started,
               **provenance()}  # fmt: skip
        add(recipe.out, [run], [], frames=recipe.updates * 32 * world.clip)


if __name__ == "__main__":
    main(tyro.cli(Learning))
