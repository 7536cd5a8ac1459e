"""Closed-loop rollouts of the balls: whole frames many steps ahead, from a model's own predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics.classification import BinaryF1Score

from s2rm.tasks.balls.predictors import TrivialPredictors
from s2rm.tasks.balls.world import BallsWorld, episode, grid_positions, random_positions, videos
from s2rm.tasks.crops import stitch
from s2rm.tasks.task import Models
from s2rm.views import Episode, Views

PROMPT_STEPS, ROLLOUT_STEPS = 20, 25


@dataclass(frozen=True)
class Rollouts:
    """Whole frames, predicted many steps ahead and true."""

    truth: UInt8[Tensor, "B T H W"]
    """the frames that follow the prompt"""
    predicted: dict[str, Float[Tensor, "B T H W"]]
    """each model's probabilities, NaN where the grid of queries leaves a gap"""

    @property
    def by_name(self) -> dict[str, Float[Tensor, "B T H W"]]:
        """The truth, and each model's frames."""
        return {"truth": self.truth.float(), **self.predicted}

    def f1(self) -> dict[str, list[float]]:
        """F1 at each step over all sequences and all pixels that the grid of queries covers."""

        def score(frame: Tensor, truth: Tensor) -> float:
            covered = ~frame.isnan()
            return float(BinaryF1Score()((frame[covered] > 0.5).int(), truth[covered].int()))

        truth = self.truth.unbind(1)
        return {name: [*map(score, frames.unbind(1), truth)] for name, frames in self.predicted.items()}


@torch.no_grad()
def roll_out(
    models: Models, trivial: TrivialPredictors, world: BallsWorld, num_sequences: int, num_balls: int, seed: int,
    prompt: int = PROMPT_STEPS, steps: int = ROLLOUT_STEPS,
) -> Rollouts:  # fmt: skip
    """Closed-loop rollouts as in F.1.1.

    Every model sees the same crops for `prompt` steps. From then on its views are its own predictions at random pixels,
    the same for all models, thresholded. At each step it is also queried on a 4 x 4 grid, from which whole frames are
    stitched. The trivial predictors repeat their prediction of the first step. The seed is that of the test sequences,
    the crops and the pixels that are fed back.

    Raises:
        ValueError: sequences shorter than `prompt + steps`.
    """
    if world.num_frames < prompt + steps:
        raise ValueError(
            f"rollout: {prompt} + {steps} steps need sequences of at least {prompt + steps} frames, the world's have "
            f"{world.num_frames}; take fewer steps or a world of longer sequences"
        )
    few = replace(world, test_sequences=num_sequences)
    frames = videos(few, "test", seed, num_balls).frames()[:, : prompt + steps]
    generator = torch.Generator().manual_seed(seed)
    views = episode(world, frames[:, :prompt], generator).views
    feedback = random_positions(world, num_sequences, steps, generator)
    grid = grid_positions(world)
    queries = grid.expand(num_sequences, -1, -1)
    patches = {}
    for name, model in models.items():
        patches[name] = torch.stack([d.mean for d in model.rollout(views, queries, steps, feedback=feedback)], 1)
    # One more step, at which nothing is seen, is the first to be predicted.
    nothing = views.at(-1).keep(torch.zeros((), dtype=torch.bool))
    where = queries[:, None].expand(-1, prompt + 1, -1, -1)
    asked = Episode(views.then(nothing), Views(where, torch.zeros(*where.shape[:3], world.crop, world.crop)))
    for name, predict in trivial.by_name.items():
        patches[name] = predict(asked).decision[:, -1:].float().expand(-1, steps, -1, -1, -1)
    predicted = {name: stitch(part, grid, world.arena) for name, part in patches.items()}
    return Rollouts(frames[:, prompt:], predicted)
