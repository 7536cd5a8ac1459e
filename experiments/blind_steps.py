"""Do rollouts keep the balls longer if training has blind steps? The shipped S2GRU, trained on in three ways.

As before; with clips of which half see nothing from a random step on, so that the loss is of several steps ahead; and
with clips of which half have a random share of their views dropped. The one-step scores and the rollouts of each, fed
with their own predictions and without any views, are written to `results/blind-steps.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor

from common import add, read
from s2rm.files import Row
from s2rm.models.world_model import WorldModel
from s2rm.runs import PRETRAINED, Run
from s2rm.tasks.balls.scores import (
    PROMPT_STEPS,
    ROLLOUT_STEPS,
    Rollouts,
    TrivialPredictors,
    episodes,
    episodes_to_test,
    one_step_scores,
    roll_out,
)  # fmt: skip
from s2rm.tasks.balls.world import BallsWorld, grid_positions, videos
from s2rm.tasks.crops import stitch
from s2rm.tasks.task import model_predictor
from s2rm.tasks.worlds import Drawn, blinded, kept
from s2rm.training import Training, batches, fit, provenance
from s2rm.views import Episode
from ways_to_roll_out import patches


@dataclass(frozen=True)
class BlindSteps:
    """What to train on, and for how long."""

    run: Path = PRETRAINED / "s2gru"
    """run folder of a model of the balls; the shipped one unless given"""
    updates: int = 1200
    """of each way"""
    learning_rate: float = 5e-4
    """at the start; it falls along a cosine"""
    batch_size: int = 16
    balls: tuple[int, ...] = (3, 5)
    """numbers of moving balls in rollouts"""
    sequences: int = 60
    """test sequences for each"""
    runs: Path = Path("runs/blind-steps")
    """where checkpoints are"""
    out: Path = Path("results/blind-steps.json")
    """the scores"""


def dropped(mask: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the clips see a random share of their views, one at least."""
    share = torch.rand(len(mask), 1, 1, generator=generator)
    share = torch.where(torch.rand(len(mask), 1, 1, generator=generator) < 0.5, share, 1.0)
    return kept(mask, share, generator)


def with_fewer(source: Drawn[Episode]) -> Drawn[Episode]:
    """The same episodes, seen so; the targets stay."""

    def draw(rows: Tensor, generator: torch.Generator) -> Episode:
        part = source.draw(rows, generator)
        return Episode(part.views.keep(dropped(part.views.mask, generator)), part.targets)

    return Drawn(len(source), draw)


WAYS: dict[str, Callable[[Drawn[Episode]], Drawn[Episode]]] = {
    "trained on": lambda source: source,
    "with blind steps": partial(blinded, share=0.5),
    "with dropped views": with_fewer,
}


def scores(model: WorldModel, label: str, recipe: BlindSteps, world: BallsWorld, seed: int) -> list[Row]:
    """Of one step ahead, and of each step of both kinds of rollouts."""
    rows: list[Row] = []
    for balls in recipe.balls:
        f1 = one_step_scores(model_predictor(model), episodes_to_test(world, balls, seed))["f1"]
        rows.append({"predictor": f"{label}, true views", "balls": balls, "step": 1, "f1": f1})
        few = replace(world, test_sequences=recipe.sequences)
        frames = videos(few, "test", seed, balls).frames()[:, : PROMPT_STEPS + ROLLOUT_STEPS]
        ways = {"own predictions": "thresholded", "no views": "no views"}
        predicted = {
            f"{label}, {name}": stitch(patches(model, way, frames, world, seed), grid_positions(world), world.arena)
            for name, way in ways.items()
        }
        for name, line in Rollouts(frames[:, PROMPT_STEPS:], predicted).f1().items():
            rows += [{"predictor": name, "balls": balls, "step": n, "f1": f1} for n, f1 in enumerate(line, 1)]
    return rows


def main(recipe: BlindSteps) -> None:
    """Train and score what is missing, write."""
    run = Run.open(recipe.run)
    world, seed = run.world, run.settings.training.seed
    if not isinstance(world, BallsWorld):
        raise SystemExit(f"blind_steps: expected a run on the balls, got one on the {run.task.name}")
    if not read(recipe.out):
        trivial, rows = TrivialPredictors(world, seed), []
        for balls in recipe.balls:
            found = roll_out({}, trivial, world, recipe.sequences, balls, seed).f1()
            rows += [
                {"predictor": name, "balls": balls, "step": step, "f1": f1}
                for name, line in found.items() for step, f1 in enumerate(line, 1)
            ]  # fmt: skip
        model = run.load_model()
        assert isinstance(model, WorldModel)
        add(recipe.out, [run.about("shipped")], rows + scores(model, "shipped", recipe, world, seed), seed=seed)
    training = Training(
        learning_rate=recipe.learning_rate, batch_size=recipe.batch_size, gradient_norm=1.0, updates=recipe.updates,
        patience=1000, seed=seed + 1,
    )  # fmt: skip
    for way in WAYS:
        if way in {run["label"] for run in read(recipe.out)["runs"]}:
            continue
        model, folder = run.load_model().train(), recipe.runs / way.replace(" ", "-")
        assert isinstance(model, WorldModel)
        train = batches(WAYS[way](episodes(world, "train", seed)), recipe.batch_size, seed + 1, True)
        validation = batches(WAYS[way](episodes(world, "val", seed)), 32, seed + 2, False)
        ended = fit(model, train, validation, folder, training)
        about = {"label": way, "seed": seed, "learning_rate": recipe.learning_rate, "parameters": model.num_parameters}
        add(recipe.out, [{**about, **ended, **provenance()}], scores(model.eval(), way, recipe, world, seed), seed=seed)


if __name__ == "__main__":
    main(tyro.cli(BlindSteps))
