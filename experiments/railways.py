"""Appendix A: trains on a railway, what each will see a step ahead, and where each module listens (Figure 9).

Collects episodes, trains S2GRU with 10 modules, and scores it beside two predictors that know nothing of motion. What
was collected and trained is kept in the run's folder. Writes `results/railways.json` and two pictures.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track

from common import draw, read
from s2rm import S2GRU, S2RM, load
from s2rm.files import write_json
from s2rm.report import figures as plots
from s2rm.tasks.railways import plots as railway_plots
from s2rm.tasks.railways.play import collect
from s2rm.tasks.railways.scores import TrivialPredictors, episodes, model_predictor, scores
from s2rm.tasks.railways.world import CHANNELS, Journeys, Railways, RailwayWorld, preset
from s2rm.training import LAST, MODEL, Training, batches, fit, provenance


@dataclass(frozen=True)
class Recipe:
    """How long to train, and on what."""

    minutes: float = 15.0
    """wall-clock budget for training"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    learning_rate: float = 2e-3
    """of Adam, at the start"""
    seed: int = 0
    """of the episodes and of training"""
    runs: Path = Path("runs/railways")
    """where the run folders are"""
    out: Path = Path("results/railways.json")
    """the scores"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Recipe) -> None:
    """Collect, train and score what is missing, write, draw."""
    world, folder = preset(recipe.size), recipe.runs / f"{recipe.size}-{recipe.seed}"
    settings = json.loads(json.dumps({
        "minutes": recipe.minutes, "learning_rate": recipe.learning_rate, "seed": recipe.seed, "world": asdict(world),
    }))  # fmt: skip
    if read(folder / "config.json") not in ({}, settings):
        raise SystemExit(f"railways: {folder} holds a run of other settings; delete it or choose another with --runs")
    write_json(folder / "config.json", settings)
    train, val, test = (collected(world, split, recipe.seed, folder) for split in ("train", "val", "test"))
    model = trained(recipe, world, train, val, folder)

    trivial = TrivialPredictors(episodes(world, train))
    predictors = {"S2GRU": model_predictor(model), "mean view": trivial.mean_view, "last seen": trivial.last_seen}
    rows = [
        {"predictor": name, "seed": recipe.seed, **scores(predict, episodes(world, test))}
        for name, predict in predictors.items()
    ]
    line = torch.arange(world.grid, dtype=torch.float32)
    with torch.no_grad():
        weights = model.enclaves(torch.cartesian_prod(line, line)).unflatten(1, (world.grid, world.grid))
        kernel = model.interaction_graph()
    content = {
        "run": read(folder / "summary.json"), **provenance(), "seed": recipe.seed, "world": settings["world"],
        "neighbours_of_each_module": ((kernel > 0).sum(1) - 1).tolist(),
        "cells_that_some_module_sees": float((weights > 0).any(0).float().mean()), "rows": rows,
    }  # fmt: skip
    write_json(recipe.out, content)
    draw(
        recipe.figures,
        railways_enclaves=plots.png(plots.interaction_graph(kernel, weights)),
        railways_views=plots.png(railway_plots.predictions(world, test, predictors)),
    )


def collected(world: RailwayWorld, split: str, seed: int, folder: Path) -> Railways:
    """The episodes of a split, played once and kept."""
    path = folder / f"{split}.safetensors"
    if not path.is_file():
        collect(world, split, seed, lambda numbers: track(numbers, f"{split} episodes")).save(path)
    return Railways.load(path)


def trained(recipe: Recipe, world: RailwayWorld, train: Railways, val: Railways, folder: Path) -> S2RM:
    """The model with its best weights, trained unless it was."""
    if not (folder / "summary.json").is_file():
        torch.manual_seed(recipe.seed)
        # With half these wavelengths 10 modules would reach only half to three quarters of the grid at the start.
        model = S2GRU(
            value_shape=(len(CHANNELS), world.view, world.view), num_coordinates=2, num_modules=10, codec="mlp",
            shortest=float(world.grid), longest=16.0 * world.grid, extent=[(0, world.grid)] * 2, inject_positions=True,
        )  # fmt: skip
        training = Training(
            learning_rate=recipe.learning_rate, batch_size=16, epochs=10_000, minutes=recipe.minutes, patience=1000,
            gradient_norm=1.0, seed=recipe.seed, unit_variance=True,
        )  # fmt: skip
        ended = fit(
            model,
            batches(Journeys(world, train, train=True), training.batch_size, recipe.seed, shuffle=True),
            batches(Journeys(world, val, train=False), training.batch_size, recipe.seed, shuffle=False),
            folder,
            training,
            resume=(folder / LAST).is_file(),
        )
        about = {**ended, "parameters": model.num_parameters, **provenance()}
        write_json(folder / "summary.json", {"label": "S2GRU", "learning_rate": training.learning_rate, **about})
    best = load(folder / MODEL)
    assert isinstance(best, S2RM)
    return best


if __name__ == "__main__":
    main(tyro.cli(Recipe))
