"""Predictions of the balls and how good they are: simple predictors, one-step scores, closed-loop rollouts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.distributions import Distribution
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryRecall, BinarySpecificity

from s2rm.files import Row
from s2rm.models.world_model import WorldModel
from s2rm.tasks.balls.world import BallsWorld, episode, grid_positions, mirrored, random_positions, videos
from s2rm.tasks.crops import Canvas, crops, last_seen, stitch
from s2rm.tasks.task import Forecast, Models, Predictor, first_guess, model_predictor, with_share
from s2rm.tasks.worlds import Drawn, Progress, random_clip, with_fewer
from s2rm.views import Episode, Views

NUM_BALLS = (1, 2, 3, 4, 5, 6)
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_BINS = 10
PROMPT_STEPS, ROLLOUT_STEPS = 20, 25


class TrivialPredictors:
    """Predictors that know nothing of motion.

    *Static scene*: the mean training frame, thresholded. *Last seen*: what was last observed at that pixel, and the
    static scene where nothing was. Its probabilities are how often, in training, a pixel was 1 when a 1 or a 0 was
    last seen there, counted over whole frames. All are from as many sequences as there are in training, but at most
    500: of the seed and the numbers of balls of training, though where there are more they are not among them.
    """

    def __init__(self, world: BallsWorld, seed: int = 0):
        self.world = world
        train = videos(replace(world, train_sequences=min(world.train_sequences, 500)), "train", seed)
        self.mean_frame = train.frames().float().mean((0, 1)).clamp(1e-4, 1 - 1e-4)
        # Spread over all, since those of different numbers of balls follow each other.
        frames = train.frames(torch.linspace(0, len(train) - 1, min(100, len(train))).round().long())
        some = episode(world, frames, torch.Generator().manual_seed(seed))
        canvas, truth = self.canvas(some.views.steps(None, -1)), frames[:, 1:].bool()
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
        return self.of_canvas(self.canvas(episode.views.steps(None, -1)), episode.targets.positions[:, 1:])

    def of_canvas(self, canvas: Shaped[Tensor, "B T H W"], positions: Float[Tensor, "B T Q 2"]) -> Forecast:
        """What was last seen at each pixel, read at positions."""
        seen, known = canvas == 1, canvas >= 0
        frequencies = torch.where(seen, self.frequencies[1], self.frequencies[0])
        probability = torch.where(known, frequencies, self.mean_frame)
        decision = torch.where(known, seen, self.mean_frame > 0.5)
        return self._read(probability, decision, positions)

    def _read(self, probability: Tensor, decision: Tensor, positions: Tensor) -> Forecast:
        # Outside the arena there is nothing, which every predictor knows.
        likely = crops(probability, positions, self.world.crop).clamp(1e-6, 1 - 1e-6)
        return Forecast(likely, crops(decision.to(torch.uint8), positions, self.world.crop).bool())

    @property
    def by_name(self) -> dict[str, Predictor]:
        """Both, by their names in tables."""
        return {"static scene": self.static_scene, "last seen": self.last_seen}


def episodes(
    world: BallsWorld, split: str, seed: int = 0, folder: Path | None = None, guessed: bool = False, drop: float = 0.0
) -> Drawn:
    """The training ("train", clips that are mirrored at random) or validation ("val") episodes, as `Task.episodes`."""
    source, trivial = videos(world, split, seed), TrivialPredictors(world, seed) if guessed else None

    def draw(rows: Tensor, generator: torch.Generator) -> Episode:
        if split == "train":
            steps = random_clip(len(rows), source.packed.shape[1], world.clip, generator)
            frames = mirrored(source.frames(rows, steps), generator)
        else:
            frames = source.frames(rows)
        part = with_fewer(episode(world, frames, generator), drop, generator)
        return part if trivial is None else replace(part, context=first_guess(trivial.last_seen(part)))

    return Drawn(len(source), draw)


@torch.no_grad()
def one_step_scores(predict: Predictor, episodes: Iterable[Episode], fraction: float = 1.0) -> Row:
    """F1, balanced accuracy, log-likelihood (nats per pixel) and calibration of one-step-forward prediction.

    Pixels are binned by the tenth in which their probability lies. The expected calibration error is the mean distance,
    over pixels, between the mean probability and the frequency of 1 in their bin; `reliability` holds for each bin the
    mean probability, the frequency of 1, and the bin's share of all pixels. The predictor sees a `fraction` of the
    views at each step, rounded; at least one.
    """
    counts = MetricCollection([BinaryF1Score(), BinaryRecall(), BinarySpecificity()], compute_groups=True)
    log_likelihood = MeanMetric()
    tenths = torch.zeros(3, NUM_BINS, dtype=torch.float64)
    for part in episodes:
        targets = part.targets.steps(1, None)
        # The positions are drawn independently, so that the first few are as random as any.
        forecast = predict(with_share(part, fraction))
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


def episodes_to_test(world: BallsWorld, num_balls: int, seed: int) -> list[Episode]:
    """The test sequences with a number of balls; every predictor sees the same crops of them."""
    source = videos(world, "test", seed, num_balls)
    generator = torch.Generator().manual_seed(seed + num_balls)
    return [episode(world, source.frames(rows), generator) for rows in torch.arange(len(source)).split(32)]


def one_step_table(
    predictors: Mapping[str, Predictor], world: BallsWorld, seed: int,
    num_balls: Iterable[int] = NUM_BALLS, fractions: Iterable[float] = FRACTIONS, progress: Progress = iter,
) -> list[Row]:  # fmt: skip
    """The scores of `one_step_scores` by `predictor`, `balls` and `views`, the fraction seen (Figures 4, 20 and 21)."""
    rows = []
    for balls in progress(list(num_balls)):
        episodes = episodes_to_test(world, balls, seed)
        for fraction in fractions:
            for name, predict in predictors.items():
                scores = one_step_scores(predict, episodes, fraction)
                rows.append({"predictor": name, "balls": balls, "views": fraction, **scores})
    return rows


def score(
    models: Models, world: BallsWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """One-step scores of models and of both simple predictors, with 1 to 6 balls, by share of the views.

    Arguments as for `Task.score`, rows as from `one_step_table`; by default a tenth of the views is seen, two tenths,
    and so on to all; of a world with one view, all.
    """
    trivial = TrivialPredictors(world, seed)
    predictors = {label: model_predictor(model, trivial.last_seen) for label, model in models.items()}
    predictors |= trivial.by_name
    fractions = shares or (FRACTIONS if world.num_views > 1 else (1.0,))  # the one view of a frame is never dropped
    return one_step_table(predictors, world, seed, fractions=fractions, progress=progress)


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
    stitched. The simple predictors repeat their prediction of the first step. The seed is that of the test sequences,
    the crops and the pixels that are fed back.

    Raises:
        ValueError: sequences shorter than `prompt + steps`.
    """
    if world.num_frames < prompt + steps:
        raise ValueError(
            f"rollout: {prompt} + {steps} steps need sequences of at least {prompt + steps} frames, the world's have "
            f"{world.num_frames}; take fewer steps or a world of longer sequences"
        )
    few = replace(world, test_sequences=num_sequences, most_balls=None)
    frames = videos(few, "test", seed, num_balls).frames()[:, : prompt + steps]
    generator = torch.Generator().manual_seed(seed)
    views = episode(world, frames[:, :prompt], generator).views
    feedback = random_positions(world, num_sequences, steps, generator)
    grid = grid_positions(world)
    queries = grid.expand(num_sequences, -1, -1)
    patches = {}
    for name, model in models.items():
        made = (
            _corrected(model, trivial, views, queries, feedback)
            if model.signature.corrects
            else (distribution.mean for distribution in model.rollout(views, queries, steps, feedback=feedback))
        )
        patches[name] = torch.stack([*made], 1)
    # One more step, at which nothing is seen, is the first to be predicted.
    nothing = views.at(-1).keep(torch.zeros((), dtype=torch.bool))
    where = queries[:, None].expand(-1, prompt + 1, -1, -1)
    asked = Episode(views.then(nothing), Views(where, torch.zeros(*where.shape[:3], world.crop, world.crop)))
    for name, predict in trivial.by_name.items():
        patches[name] = predict(asked).decision[:, -1:].float().expand(-1, steps, -1, -1, -1)
    predicted = {name: stitch(part, grid, world.arena) for name, part in patches.items()}
    return Rollouts(frames[:, prompt:], predicted)


def _corrected(
    model: WorldModel, trivial: TrivialPredictors, views: Views, queries: Float[Tensor, "B Q 2"],
    feedback: Float[Tensor, "B T A 2"],
) -> Iterator[Float[Tensor, "B Q size size"]]:  # fmt: skip
    """A rollout of a model that corrects what was last seen, its own predictions included: probabilities."""
    canvas = Canvas(trivial.canvas(views)[:, -1:].float(), views.value_shape[-1])
    state = model.last(model.observe(views))

    def predicted(positions: Tensor) -> Distribution:
        context = first_guess(trivial.of_canvas(canvas.frames, positions[:, None]))[:, 1]
        return model.predict(state, positions, context)

    for fed_at in feedback.unbind(1):
        yield predicted(queries).mean
        fed = model.likelihood.feedback(predicted(fed_at))
        canvas.see(fed.unsqueeze(2), fed_at, torch.ones(fed.shape[:2], dtype=torch.bool))
        state = model.step(Views(fed_at[:, None], fed[:, None]), state)
