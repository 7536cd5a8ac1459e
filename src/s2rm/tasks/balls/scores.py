"""How well models predict the balls: one-step metrics over numbers of balls and fractions of views, and rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryRecall, BinarySpecificity

from s2rm.models.world_model import WorldModel
from s2rm.tasks.balls.world import (
    BallsWorld,
    Videos,
    crops,
    episode,
    grid_positions,
    random_positions,
    stitch,
    videos,
)
from s2rm.views import Episode, Views

NUM_BALLS = (1, 2, 3, 4, 5, 6)
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_BINS = 10
PROMPT_STEPS, ROLLOUT_STEPS = 20, 25


@dataclass(frozen=True)
class Forecast:
    """Probabilities that pixels are 1, and the pixels that a predictor calls 1, `(B, T, Q, H, W)` each."""

    probability: Tensor
    decision: Tensor


Predictor = Callable[[Views, Tensor], Forecast]
"""From views over T+1 steps and positions `(B, T, Q, 2)` to what is at them at steps 1 to T. Only an oracle looks at
the views of the step that it predicts."""


def model_predictor(model: WorldModel) -> Predictor:
    """A trained model's one-step prediction, thresholded at 0.5."""

    def predict(views: Views, positions: Tensor) -> Forecast:
        probability = model.predict(model.states_before_targets(views), positions).mean
        return Forecast(probability, probability > 0.5)

    return predict


class TrivialPredictors:
    """The two predictors that know nothing of motion, and that every table carries.

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
        canvas, known = self.canvas(some.views.steps(None, -1))
        truth = train.frames(slice(0, 100))[:, 1:].bool()
        self.frequencies = [float(truth[known & (canvas == seen)].float().mean()) for seen in (False, True)]

    def canvas(self, views: Views) -> tuple[Tensor, Tensor]:
        """What was last seen at each pixel after each step, and whether anything was, bool `(B, T, H, W)` each."""
        arena, half = self.world.arena, self.world.crop // 2
        side = arena + 2 * half
        batch, steps = views.mask.shape[:2]
        seen = torch.zeros(batch, side * side, dtype=torch.bool)
        known = torch.zeros_like(seen)
        offsets = torch.arange(self.world.crop)
        window = (offsets[:, None] * side + offsets).flatten()
        corner = views.positions.long()
        pixels = (corner[..., 0] * side + corner[..., 1])[..., None] + window
        values = views.values.flatten(3) > 0.5
        seen_frames: list[Tensor] = []
        known_frames: list[Tensor] = []
        for step in range(steps):
            for view in range(views.mask.shape[2]):
                there = views.mask[:, step, view, None]
                index, value = pixels[:, step, view], values[:, step, view]
                seen.scatter_(1, index, torch.where(there, value, seen.gather(1, index)))
                known.scatter_(1, index, there | known.gather(1, index))
            for frames, canvas in ((seen_frames, seen), (known_frames, known)):
                frames.append(canvas.unflatten(1, (side, side))[:, half : half + arena, half : half + arena].clone())
        return torch.stack(seen_frames, 1), torch.stack(known_frames, 1)

    def static_scene(self, views: Views, positions: Tensor) -> Forecast:
        frames = self.mean_frame.expand(*positions.shape[:2], -1, -1)
        return self._read(frames, frames > 0.5, positions)

    def last_seen(self, views: Views, positions: Tensor) -> Forecast:
        seen, known = self.canvas(views.steps(None, -1))
        frequencies = torch.where(seen, self.frequencies[1], self.frequencies[0])
        probability = torch.where(known, frequencies, self.mean_frame)
        return self._read(probability, torch.where(known, seen, self.mean_frame > 0.5), positions)

    def _read(self, probability: Tensor, decision: Tensor, positions: Tensor) -> Forecast:
        size = self.world.crop
        # Outside the arena there is nothing, which every predictor knows.
        return Forecast(
            crops(probability, positions, size).clamp(1e-6, 1 - 1e-6),
            crops(decision.to(torch.uint8), positions, size).bool(),
        )


@torch.no_grad()
def one_step_scores(predict: Predictor, episodes: Iterable[Episode], fraction: float = 1.0) -> dict[str, Any]:
    """F1, balanced accuracy, log-likelihood (nats a pixel) and calibration of one-step-forward prediction.

    The expected calibration error is the mean distance between a pixel's probability and how often pixels of the same
    tenth of the probabilities are 1; `reliability` has, for each tenth, the mean probability, how often pixels are 1,
    and the share of all pixels.

    Args:
        predict: what is scored.
        episodes: what it is scored on.
        fraction: the share of the views at each step that it sees, rounded; at least one.
    """
    counts = MetricCollection([BinaryF1Score(), BinaryRecall(), BinarySpecificity()], compute_groups=True)
    log_likelihood = MeanMetric()
    tenths = torch.zeros(3, NUM_BINS, dtype=torch.float64)
    for part in episodes:
        targets = part.targets.steps(1, None)
        num_views = part.views.mask.shape[2]
        # The positions are drawn independently, so that the first few are as random as any.
        views = part.views.keep(torch.arange(num_views) < max(1, round(fraction * num_views)))
        forecast = predict(views, targets.positions)
        truth = targets.values > 0.5
        counts.update(forecast.decision.flatten().int(), truth.flatten().int())
        log_likelihood.update(torch.where(truth, forecast.probability, 1 - forecast.probability).clamp(min=1e-7).log())
        probability = forecast.probability.flatten()
        tenth = (probability * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        for row, weights in zip(tenths, (probability, truth.flatten(), torch.ones_like(probability)), strict=True):
            row += torch.bincount(tenth, weights.double(), minlength=NUM_BINS)
    scores = {name: float(value) for name, value in counts.compute().items()}
    return {
        "f1": scores["BinaryF1Score"],
        "balanced_accuracy": (scores["BinaryRecall"] + scores["BinarySpecificity"]) / 2,
        "log_likelihood": float(log_likelihood.compute()),
        "calibration_error": float((tenths[0] - tenths[1]).abs().sum() / tenths[2].sum()),
        "reliability": [
            [float(mass / pixels), float(ones / pixels), float(pixels / tenths[2].sum())]
            for mass, ones, pixels in tenths.T
            if pixels > 0
        ],
    }


def episodes_to_test(world: BallsWorld, num_balls: int, seed: int, chunk: int = 32) -> list[Episode]:
    """The test sequences with that many balls, seen through the same crops by every predictor."""
    source = videos(world, "test", seed, num_balls)
    generator = torch.Generator().manual_seed(seed + num_balls)
    return [episode(world, source.frames(rows), generator) for rows in torch.arange(len(source)).split(chunk)]


def one_step_table(
    predictors: Mapping[str, Predictor],
    world: BallsWorld,
    seed: int,
    num_balls: Iterable[int] = NUM_BALLS,
    fractions: Iterable[float] = FRACTIONS,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[dict[str, Any]]:
    """A row for every predictor, number of balls and fraction of the views (Figures 4, 20 and 21).

    Returns:
        Rows with `predictor`, `balls`, `views`, `f1`, `balanced_accuracy`, `log_likelihood`, `calibration_error`,
        `reliability`.
    """
    rows = []
    for balls in progress(list(num_balls)):
        episodes = episodes_to_test(world, balls, seed)
        for fraction in fractions:
            for name, predict in predictors.items():
                scores = one_step_scores(predict, episodes, fraction)
                rows.append({"predictor": name, "balls": balls, "views": fraction, **scores})
    return rows


@dataclass(frozen=True)
class Rollouts:
    """Whole frames, predicted many steps ahead and true."""

    truth: UInt8[Tensor, "B T H W"]
    """the frames that follow the prompt"""
    predicted: dict[str, Float[Tensor, "B T H W"]]
    """each model's probabilities, NaN where the grid of queries leaves a gap"""

    def f1(self) -> dict[str, list[float]]:
        """F1 at each step over all sequences and all pixels that the grid of queries covers."""
        return {
            name: [_frame_f1(frames[:, step], self.truth[:, step]) for step in range(frames.shape[1])]
            for name, frames in self.predicted.items()
        }


def _frame_f1(probability: Tensor, truth: Tensor) -> float:
    covered = ~probability.isnan()
    metric = BinaryF1Score()
    return float(metric((probability[covered] > 0.5).int(), truth[covered].int()))


@torch.no_grad()
def roll_out(
    models: Mapping[str, WorldModel],
    trivial: TrivialPredictors,
    world: BallsWorld,
    num_sequences: int,
    num_balls: int,
    seed: int,
    prompt: int = PROMPT_STEPS,
    steps: int = ROLLOUT_STEPS,
) -> Rollouts:
    """Closed-loop rollouts as in F.1.1.

    Every model sees the same crops for `prompt` steps. Then it is queried at random pixels, the same for all; its
    predictions there, thresholded, are its views at the next step. At each step it is queried at a 4 x 4 grid as
    well, from which whole frames are stitched. The trivial predictors hold still what they knew after the prompt.

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
    for name, predict in (("static scene", trivial.static_scene), ("last seen", trivial.last_seen)):
        # One more step, at which nothing is seen, is the first to be predicted.
        nothing = views.at(-1).keep(torch.zeros((), dtype=torch.bool))
        still = predict(views.then(nothing), queries[:, None].expand(-1, prompt, -1, -1)).decision[:, -1:].float()
        patches[name] = still.expand(-1, steps, -1, -1, -1)
    predicted = {name: stitch(part, grid, world.arena) for name, part in patches.items()}
    return Rollouts(frames[:, prompt:], predicted)
