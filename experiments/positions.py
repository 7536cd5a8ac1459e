"""How a position enters encoder and decoder: the ways of the papers and rotations, for the same number of updates.

Writes `results/positions.json` after every run, so that the command goes on where it was stopped; several with
different models may run at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro

from common import add, read
from s2rm.models.named import LABELS, SPATIAL, ModelName
from s2rm.models.world_model import WorldModel
from s2rm.settings import Settings
from s2rm.tasks.balls import BallsWorld, episodes, preset
from s2rm.tasks.balls.scores import TrivialPredictors, one_step_scores
from s2rm.training import Training, batches, fit, provenance


@dataclass(frozen=True)
class Positions:
    """What to try."""

    epochs: int = 2
    """passes over the training sequences, in each run"""
    models: tuple[ModelName, ...] = ("s2gru", "lstm", "gru", "rmc", "rims")
    """models to train"""
    ways: tuple[str, ...] = ()
    """ways to try; all that the model has if not given"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/positions")
    """where the run folders are"""
    out: Path = Path("results/positions.json")
    """the runs: label, how positions enter, validation loss"""
    seed: int = 0
    """of the world, the weights and the order"""


def nothing(_: WorldModel) -> None:
    """The rotation as it is."""


def hold(model: WorldModel) -> None:
    """Frequencies that stay as they were drawn."""
    model.rotation.frequencies.requires_grad_(False)


@torch.no_grad()
def put_on_a_grid(model: WorldModel) -> None:
    """Frequencies on a square grid of the same extent, of which each pair of opposite ones is one frequency."""
    frequencies, highest = model.rotation.frequencies, model.rotation.frequencies.abs().max()
    across = math.ceil(math.sqrt(2 * len(frequencies)))
    line = torch.linspace(-1, 1, across)
    half = torch.cartesian_prod(line[across // 2 :], line)
    frequencies.copy_(highest * half[torch.linspace(0, len(half) - 1, len(frequencies)).long()])


class Apart(torch.nn.Module):
    """A rotation for the encoder and another one for the decoder."""

    def __init__(self, encode: torch.nn.Module, decode: torch.nn.Module):
        super().__init__()
        self.encode, self.decode = encode, decode

    def forward(self, vectors: torch.Tensor, positions: torch.Tensor, back: bool = False) -> torch.Tensor:
        turned: torch.Tensor = (self.decode if back else self.encode)(vectors, positions, back)
        return turned


def untie(model: WorldModel) -> None:
    """Other frequencies in the decoder than in the encoder, the same at the start."""
    import copy

    model.rotation = Apart(model.rotation, copy.deepcopy(model.rotation))  # type: ignore[assignment]


def ways(model: ModelName, world: BallsWorld) -> dict[str, tuple[Settings, Callable[[WorldModel], None]]]:
    """The ways that a model has, each as its settings and what is done to the model before it is trained."""
    plain = Settings(model, batch_norm=model in SPATIAL)  # only baselines have it
    shared = {"injection": (replace(plain, inject_positions=True), nothing), "rotation": (plain, nothing)}
    if model not in SPATIAL:
        return {**shared, "rotation, sum normalised": (Settings(model), nothing)}
    own: dict[str, tuple[Settings, Callable[[WorldModel], None]]] = {
        "kernel alone": (replace(plain, inject_positions=False), nothing),
        **shared,
        "rotation, wavelengths from 6": (replace(plain, rotation=world.side / 8), nothing),
        "rotation, wavelengths from 24": (replace(plain, rotation=world.side / 2), nothing),
        "rotation, frequencies not learned": (plain, hold),
        "rotation, frequencies on a grid": (plain, put_on_a_grid),
        "rotation, another one in the decoder": (plain, untie),
    }
    return own


def main(recipe: Positions) -> None:
    """Train what is missing, write."""
    world, seed = preset(recipe.size), recipe.seed
    train, validation = (episodes(world, split, seed) for split in ("train", "val"))
    scored = batches(validation, 32, seed + 1, shuffle=False)
    static = one_step_scores(TrivialPredictors(world, seed).static_scene, scored)
    rows = [{"predictor": "static scene", "seed": seed, "val_loss": -static["log_likelihood"]}]
    training = Training(learning_rate=2e-3, gradient_norm=1.0, epochs=recipe.epochs, seed=seed)
    for name in recipe.models:
        for way, (settings, change) in ways(name, world).items():
            known = {(run["label"], run["positions"]) for run in read(recipe.out).get("runs", [])}
            if (LABELS[name], way) in known or (recipe.ways and way not in recipe.ways):
                continue
            model = replace(settings, training=training).build(world)
            change(model)
            folder = recipe.runs / f"{name}-{way.replace(',', '').replace(' ', '-')}"
            ended = fit(model, batches(train, 32, seed, shuffle=True), scored, folder, training)
            run = {"label": LABELS[name], "positions": way, "learning_rate": training.learning_rate, "seed": seed,
                   "parameters": model.num_parameters, **ended, **provenance()}  # fmt: skip
            add(recipe.out, [run], rows, epochs=recipe.epochs, seed=seed)


if __name__ == "__main__":
    main(tyro.cli(Positions))
