"""The time of a training update of every model on the bouncing balls, in turn in one process.

The recipes give every model the same processor time by the ratios found here. Beside each time stands that of the same
model with injected positions instead of their rotation, and without the normalisation of the summed views.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import tyro
from rich.console import Console
from rich.progress import track

from common import in_turn, save, update
from s2rm.models.named import LABELS, ModelName
from s2rm.settings import Settings
from s2rm.tasks.balls import episodes, preset
from s2rm.training import keep_freed_memory

OWN = Settings()
BEFORE = Settings(inject_positions=True, batch_norm=False)


@dataclass(frozen=True)
class Updates:
    """What to time."""

    models: tuple[ModelName, ...] = get_args(ModelName)
    """models to time, S2GRU among them"""
    batch: int = 32
    """number of sequences"""
    size: str = "small"
    """preset of the world, by whose clips the models are timed"""
    repeats: int = 15
    """number of updates; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Updates) -> None:
    """Time, print, write JSON."""
    keep_freed_memory()
    world = preset(benchmark.size)
    few = replace(world, train_sequences=benchmark.batch)
    episode = episodes(few, "train")[list(range(benchmark.batch)), 0]
    rows = []
    for name in track(benchmark.models, "Timing"):
        runs = {
            f"{kind} {model}": update(replace(settings, model=model).build(world), episode)
            for model in dict.fromkeys(("s2gru", name))
            for kind, settings in (("own", OWN), ("before", BEFORE))
        }
        taken = in_turn(runs, benchmark.repeats, warmup=2)
        rows.append(
            {
                "predictor": LABELS[name], "seconds": taken[f"own {name}"],
                "times_s2gru": taken[f"own {name}"] / taken["own s2gru"],
                "times_injection": taken[f"own {name}"] / taken[f"before {name}"],
            }
        )  # fmt: skip
    for row in rows:
        Console().print(row)
    save(benchmark.out, rows)


if __name__ == "__main__":
    main(tyro.cli(Updates))
