"""The same short search for every model: each learning rate for the same processor time, by validation loss.

Writes `results/search.json` after every run, so that the command goes on where it was stopped; several with
different models may run at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import tyro
from rich.console import Console

from common import add, read, same_time
from s2rm.files import Row
from s2rm.models.named import LABELS, ModelName
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.training import Training


@dataclass(frozen=True)
class Search:
    """What to try."""

    updates: int = 300
    """updates of S2GRU; the other models make as many as take the same processor time"""
    times: Path = Path("results/updates.json")
    """what `benchmarks/updates.py` measured"""
    learning_rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    """what every model is tried with"""
    models: tuple[ModelName, ...] = get_args(ModelName)
    """models to try"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/search")
    """where the run folders are"""
    out: Path = Path("results/search.json")
    """the runs: label, learning rate, validation loss, and where it comes from"""
    seed: int = 0
    """of the world, the weights and the order"""


def main(search: Search) -> None:
    """Train what is missing, write."""

    def found(model: ModelName) -> dict[float, Row]:
        return {run["learning_rate"]: run for run in read(search.out).get("runs", []) if run["label"] == LABELS[model]}

    for model in search.models:
        updates = same_time(model, search.updates, search.times)
        others = {run["updates"] for run in found(model).values()} - {updates}
        if others:
            raise SystemExit(
                f"search: {search.out} holds {LABELS[model]} after {min(others)} updates, got {updates}, which is no "
                "fair comparison; name the same --updates or another --out"
            )
    # A rate for all models before the next, so that a search that is cut short is still a fair one.
    for rate in sorted(search.learning_rates, reverse=True):
        for model in search.models:
            if rate in found(model):
                continue
            updates = same_time(model, search.updates, search.times)
            training = Training(learning_rate=rate, gradient_norm=1.0, updates=updates, seed=search.seed)
            folder, settings = search.runs / f"{model}-{rate:g}", Settings(model, training=training)
            run = Run.finished(folder, settings, "balls", preset(search.size))
            add(search.out, [run.about()], [])
    for model in search.models:
        best = min(found(model).values(), key=lambda run: run["val_loss"])
        Console().print(f"{model}: {best['learning_rate']:g}, validation loss {best['val_loss']:.4f}")


if __name__ == "__main__":
    main(tyro.cli(Search))
