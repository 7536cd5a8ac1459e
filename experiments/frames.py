"""RIMs, section 4.2 and Figures 3 and 6 to 12: bouncing balls seen in whole frames, rolled out for 35 frames.

Each model sees 15 whole frames of the balls' world, then only its own predictions. Beside them stands the shipped
S2GRU, which sees ten crops of the same frames. With a curtain in front of the middle, or balls of unequal mass, it
stands beside none, since it was trained without. "four" and "crowd", of six to eight balls, are for the transfer from
one to the other. Writes `results/frames.json`, the F1 and the cross-entropy of the frames by number of balls and step,
and `docs/figures/frames.png`; or those of the other worlds under their names.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from common import draw, write
from s2rm.files import Row
from s2rm.models.named import ModelName
from s2rm.report.figures import png
from s2rm.runs import PRETRAINED, Run
from s2rm.settings import Settings
from s2rm.tasks.balls.report import rollout_strip
from s2rm.tasks.balls.scores import Rollouts, TrivialPredictors, roll_out
from s2rm.tasks.balls.world import preset
from s2rm.training import Training

PROMPT, STEPS = 15, 35
"""frames that are seen, and then predicted"""


@dataclass(frozen=True)
class Frames:
    """What to train and to roll out."""

    size: Literal["frames", "curtain", "masses", "four", "crowd"] = "frames"
    """preset of the world"""
    models: tuple[ModelName, ...] = ("rims", "lstm")
    balls: tuple[int, ...] | None = None
    """numbers of moving balls; if not given, 3 to 6, or 4 and 6 to 8 for models that are trained on these"""
    updates: int = 3000
    """of each model"""
    batch_size: int = 16
    sequences: int = 100
    """of the test, for each number of balls"""
    crops: Path | None = PRETRAINED / "s2gru"
    """a run on crops of the same frames, to stand beside them; with a curtain or masses there is none"""
    seed: int = 0
    train_sequences: int = 4000
    """from which clips are cut"""
    runs: Path = Path("runs/frames")
    """where the run folders are"""
    out: Path | None = None
    """the scores; if not given, in `results/`"""
    figures: Path = Path("docs/figures")
    """where the picture goes"""


def main(recipe: Frames) -> None:
    """Train what is missing, roll out, write, draw."""
    world, runs = replace(preset(recipe.size), train_sequences=recipe.train_sequences), []
    for model in recipe.models:
        training = Training(
            learning_rate=1e-3, batch_size=recipe.batch_size, updates=recipe.updates, patience=1000, gradient_norm=1.0,
            seed=recipe.seed,
        )  # fmt: skip
        folder = recipe.runs / recipe.size / f"{model}-{recipe.seed}"
        runs.append(Run.finished(folder, Settings(model, training=training), "balls", world))
    models = {run.label: run.load_model() for run in runs}
    trivial, rows = TrivialPredictors(world, recipe.seed), []
    balls = recipe.balls or ((4, 6, 7, 8) if recipe.size in ("four", "crowd") else (3, 4, 5, 6))
    for number in balls:
        arguments = (recipe.sequences, number, recipe.seed, PROMPT, STEPS)
        found = roll_out(models, trivial, world, *arguments)
        if recipe.crops is not None and recipe.size == "frames":
            other = Run.open(recipe.crops)
            name = f"{other.label}, crops"
            seen = roll_out({name: other.load_model()}, TrivialPredictors(other.world), other.world, *arguments)
            assert seen.truth.equal(found.truth), "the same sequences"
            # Its grid of queries leaves gaps, at which none is compared.
            gaps = seen.predicted[name].isnan()
            parts = {label: frames.masked_fill(gaps, torch.nan) for label, frames in found.predicted.items()}
            found = replace(found, predicted={name: seen.predicted[name], **parts})
        rows += scores(found, number, [name for name in found.predicted if name not in trivial.by_name])
        if number == balls[0]:
            draw(recipe.figures, **{recipe.size: png(rollout_strip(found))})
    out = recipe.out or Path(f"results/{recipe.size}.json")
    write(out, [run.about() for run in runs], rows, sequences=recipe.sequences, prompt=PROMPT, seed=recipe.seed)


def scores(rollouts: Rollouts, balls: int, models: list[str]) -> list[Row]:
    """F1 at each step, and of models the cross-entropy in nats per pixel."""
    rows: list[Row] = []
    truth = rollouts.truth.float()
    for name, line in rollouts.f1().items():
        for step, f1 in enumerate(line, 1):
            row: Row = {"predictor": name, "balls": balls, "step": step, "f1": f1}
            if name in models:
                row["cross_entropy"] = _cross_entropy(rollouts.predicted[name][:, step - 1], truth[:, step - 1])
            rows.append(row)
    return rows


def _cross_entropy(frames: Tensor, truth: Tensor) -> float:
    covered = ~frames.isnan()
    return float(binary_cross_entropy(frames[covered].clamp(1e-6, 1 - 1e-6), truth[covered]))


if __name__ == "__main__":
    main(tyro.cli(Frames))
