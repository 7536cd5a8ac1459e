"""The two predictors that know nothing of motion, and beside which every model of the balls stands."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from s2rm.tasks.balls.world import BallsWorld, Videos, episode, videos
from s2rm.tasks.crops import crops, last_seen
from s2rm.tasks.task import Forecast, Predictor
from s2rm.views import Episode, Views


class TrivialPredictors:
    """Predictors that know nothing of motion.

    *Static scene*: the mean training frame, thresholded. *Last seen*: what was last observed at that pixel, and the
    static scene where nothing was. Its probabilities are how often, in training, a pixel was 1 when a 1 or a 0 was
    last seen there.

    Args:
        world: how the world is seen.
        train: the training sequences.
        seed: of the crops from which the two frequencies are counted.
    """

    def __init__(self, world: BallsWorld, train: Videos, seed: int = 0):
        self.world = world
        sample = slice(0, 500)
        self.mean_frame = train.frames(sample).float().mean((0, 1)).clamp(1e-4, 1 - 1e-4)
        some = episode(world, train.frames(slice(0, 100)), torch.Generator().manual_seed(seed))
        canvas = self.canvas(some.views.steps(None, -1))
        truth = train.frames(slice(0, 100))[:, 1:].bool()
        self.frequencies = [float(truth[canvas == seen].float().mean()) for seen in (0, 1)]

    def canvas(self, views: Views) -> Tensor:
        """What was last seen at each pixel after each step, `(B, T, H, W)`: 0, 1, or -1 where nothing was."""
        return last_seen((views.values > 0.5).long(), views.positions, views.mask, self.world.arena)

    def static_scene(self, episode: Episode) -> Forecast:
        """The mean training frame."""
        positions = episode.targets.positions[:, 1:]
        frames = self.mean_frame.expand(*positions.shape[:2], -1, -1)
        return self._read(frames, frames > 0.5, positions)

    def last_seen(self, episode: Episode) -> Forecast:
        """What was last observed at each pixel."""
        canvas = self.canvas(episode.views.steps(None, -1))
        seen, known = canvas == 1, canvas >= 0
        frequencies = torch.where(seen, self.frequencies[1], self.frequencies[0])
        probability = torch.where(known, frequencies, self.mean_frame)
        decision = torch.where(known, seen, self.mean_frame > 0.5)
        return self._read(probability, decision, episode.targets.positions[:, 1:])

    def _read(self, probability: Tensor, decision: Tensor, positions: Tensor) -> Forecast:
        size = self.world.crop
        # Outside the arena there is nothing, which every predictor knows.
        return Forecast(
            crops(probability, positions, size).clamp(1e-6, 1 - 1e-6),
            crops(decision.to(torch.uint8), positions, size).bool(),
        )

    @property
    def by_name(self) -> dict[str, Predictor]:
        """Both, by their names in tables."""
        return {"static scene": self.static_scene, "last seen": self.last_seen}


def trivial_predictors(world: BallsWorld, seed: int = 0) -> TrivialPredictors:
    """The trivial predictors of a world, from at most 500 of its training sequences."""
    few = replace(world, train_sequences=min(world.train_sequences, 500))
    return TrivialPredictors(few, videos(few, "train", seed), seed)
