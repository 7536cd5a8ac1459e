"""Bodies on springs, a world from arrays: S2GRU beside persistence and constant velocity, by steps ahead.

Writes `results/springs.json` and `docs/figures/springs.gif`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from s2rm.files import write_json, write_whole
from s2rm.runs import Run, score
from s2rm.settings import Settings
from s2rm.tasks import arrays
from s2rm.training import Training


@dataclass(frozen=True)
class Springs:
    """How many sequences, how long to train, where to write."""

    sequences: int = 600
    """of 30 steps"""
    updates: int = 400
    """of S2GRU, which corrects constant velocity"""
    runs: Path = Path("runs/springs")
    """where the world and the run are; a run that is finished is not trained again"""
    out: Path = Path("results/springs.json")
    """the scores"""
    figure: Path = Path("docs/figures/springs.gif")
    """the rollouts, moving"""


def simulate(sequences: int, steps: int = 30, seed: int = 0) -> NDArray[np.float64]:
    """Positions `(sequences, steps, 25, 2)` of bodies on a lattice, each tied to its anchor and to its neighbours."""
    generator, line = np.random.default_rng(seed), np.linspace(-0.8, 0.8, 5)
    anchors = np.stack(np.meshgrid(line, line, indexing="ij"), -1)
    offset = 0.06 * generator.normal(size=(sequences, 5, 5, 2))
    velocity = 0.06 * generator.normal(size=offset.shape)
    frames = []
    for substep in range(10 * steps):
        if substep % 10 == 0:
            frames.append(anchors + offset)
        force = -0.5 * offset
        for axis in (1, 2):
            stretch = 0.5 * np.diff(offset, axis=axis)
            pad = np.zeros_like(offset.take([0], axis))
            force += np.concatenate([stretch, pad], axis) - np.concatenate([pad, stretch], axis)
        velocity += 0.05 * force
        offset = offset + 0.05 * velocity
    return np.stack(frames, 1).reshape(sequences, steps, 25, 2)


def main(recipe: Springs) -> None:
    """Simulate, train, score, write, draw."""
    path = recipe.runs / "springs.npz"
    if not path.is_file():
        arrays.write_world(path, {"points": simulate(recipe.sequences)}, clip=16)
    world = arrays.open_world(path)
    training = Training(updates=recipe.updates, batch_size=16, learning_rate=2e-3, gradient_norm=1.0)
    settings = Settings(corrects=True, rotation=0.4, drop_views=0.5, training=training)
    run = Run.finished(recipe.runs / "s2gru", settings, arrays.TASK.name, world)
    write_json(recipe.out, score([run], drop=(0.1, 0.3, 0.5), remove=(1, 3, 5)))
    moving = arrays.animate({run.label: run.load_model()}, world)
    assert moving is not None
    write_whole(recipe.figure, moving)


if __name__ == "__main__":
    main(tyro.cli(Springs))
