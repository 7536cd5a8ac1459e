"""What loses the balls in rollouts: one trained model, whose rollouts differ in the views that it is fed.

Writes `results/ways-to-roll-out.json`, the F1 of whole frames at each step. The paper's way (F.1.1), the one that
`rollouts.py` scores, is "thresholded, at random places".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.progress import track
from torch import Tensor

from common import write
from s2rm import Views, WorldModel
from s2rm.runs import PRETRAINED, Run
from s2rm.tasks.balls import BallsWorld
from s2rm.tasks.balls.scores import PROMPT_STEPS, ROLLOUT_STEPS, Rollouts, TrivialPredictors, roll_out
from s2rm.tasks.balls.world import episode, grid_positions, random_positions, videos
from s2rm.tasks.crops import crops, stitch


@dataclass(frozen=True)
class WaysToRollOut:
    """What to roll out."""

    run: Path = PRETRAINED / "s2gru"
    """run folder of a model of the balls; the shipped one unless given"""
    balls: tuple[int, ...] = (3, 5)
    """numbers of moving balls"""
    sequences: int = 60
    """test sequences for each"""
    out: Path = Path("results/ways-to-roll-out.json")
    """the scores"""


def as_many_pixels(probability: Tensor) -> Tensor:
    """The most probable pixels of each view, as many as its probabilities add up to."""
    flat = probability.flatten(2)
    rank = flat.argsort(-1, descending=True).argsort(-1)
    return (rank < flat.sum(-1, keepdim=True).round()).to(flat.dtype).view_as(probability)


def above(threshold: float) -> Callable[[Tensor], Tensor]:
    """The pixels that are more probable than this."""
    return lambda probability: (probability > threshold).to(probability.dtype)


FED: dict[str, Callable[[Tensor], Tensor] | None] = {
    "thresholded": above(0.5),
    "thresholded at 0.35": above(0.35),
    "probabilities": lambda probability: probability,
    "samples": torch.bernoulli,
    "as many pixels as the probabilities add up to": as_many_pixels,
    "thresholded, on a grid": above(0.5),
    "no views": None,
    "the true views": None,
}
"""What becomes of a predicted view before it is fed back."""


@torch.no_grad()
def patches(model: WorldModel, way: str, frames: Tensor, world: BallsWorld, seed: int) -> Tensor:
    """The predictions on a 4 x 4 grid, `(B, steps, 16, size, size)`; arguments and prompt as of `roll_out`."""
    number, generator = len(frames), torch.Generator().manual_seed(seed)
    prompt = episode(world, frames[:, :PROMPT_STEPS], generator).views
    queries = grid_positions(world).expand(number, -1, -1)
    places = random_positions(world, number, ROLLOUT_STEPS, generator)
    if way == "thresholded, on a grid":
        places = queries[:, None].expand(-1, ROLLOUT_STEPS, -1, -1)
    state, predicted = model.last(model.observe(prompt)), []
    for step in range(ROLLOUT_STEPS):
        predicted.append(model.predict(state, queries).mean)
        at, feed = places[:, step], FED[way]
        if feed is not None:
            views = Views(at[:, None], feed(model.predict(state, at).mean)[:, None])
        elif way == "no views":
            views = Views.none(number, 2, model.value_shape, predicted[0])
        else:
            now = frames[:, PROMPT_STEPS + step, None]
            views = Views(at[:, None], crops(now, at[:, None], world.crop).to(at.dtype))
        state = model.step(views, state)
    return torch.stack(predicted, 1)


def main(recipe: WaysToRollOut) -> None:
    """Roll out, write."""
    run = Run.open(recipe.run)
    model, world, seed = run.load_model(), run.world, run.settings.training.seed
    if not isinstance(world, BallsWorld):
        raise SystemExit(f"ways_to_roll_out: expected a run on the balls, got one on the {run.task.name}")
    few, trivial, rows = replace(world, test_sequences=recipe.sequences), TrivialPredictors(world, seed), []
    torch.manual_seed(seed)  # of the samples
    for balls in recipe.balls:
        frames = videos(few, "test", seed, balls).frames()[:, : PROMPT_STEPS + ROLLOUT_STEPS]
        predicted = {
            way: stitch(patches(model, way, frames, world, seed), grid_positions(world), world.arena)
            for way in track(FED, f"{balls} balls")
        }
        scores = Rollouts(frames[:, PROMPT_STEPS:], predicted).f1()
        scores |= roll_out({}, trivial, world, recipe.sequences, balls, seed).f1()
        rows += [
            {"predictor": name, "balls": balls, "step": step, "f1": f1}
            for name, line in scores.items()
            for step, f1 in enumerate(line, 1)
        ]
    write(recipe.out, [run.about()], rows, sequences=recipe.sequences, prompt=PROMPT_STEPS, seed=seed)


if __name__ == "__main__":
    main(tyro.cli(WaysToRollOut))
