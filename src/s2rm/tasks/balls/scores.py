"""How well models predict the balls one step ahead, by number of balls and share of the views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryRecall, BinarySpecificity

from s2rm.files import Row
from s2rm.tasks.balls.predictors import trivial_predictors
from s2rm.tasks.balls.world import BallsWorld, episode, videos
from s2rm.tasks.task import Models, Predictor, model_predictor, with_share
from s2rm.tasks.worlds import Progress
from s2rm.views import Episode

NUM_BALLS = (1, 2, 3, 4, 5, 6)
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
NUM_BINS = 10


@torch.no_grad()
def one_step_scores(predict: Predictor, episodes: Iterable[Episode], fraction: float = 1.0) -> Row:
    """F1, balanced accuracy, log-likelihood (nats a pixel) and calibration of one-step-forward prediction.

    Pixels are binned by the tenth in which their probability lies. The expected calibration error is the mean distance,
    over pixels, between the mean probability and the frequency of 1 in their bin; `reliability` holds for each bin the
    mean probability, the frequency of 1, and the bin's share of all pixels.

    Args:
        predict: the predictor to score.
        episodes: the test episodes.
        fraction: the share of the views at each step that the predictor sees, rounded; at least one view.
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


def episodes_to_test(world: BallsWorld, num_balls: int, seed: int, chunk: int = 32) -> list[Episode]:
    """The test sequences with a number of balls; every predictor sees the same crops of them."""
    source = videos(world, "test", seed, num_balls)
    generator = torch.Generator().manual_seed(seed + num_balls)
    return [episode(world, source.frames(rows), generator) for rows in torch.arange(len(source)).split(chunk)]


def one_step_table(
    predictors: Mapping[str, Predictor], world: BallsWorld, seed: int,
    num_balls: Iterable[int] = NUM_BALLS, fractions: Iterable[float] = FRACTIONS, progress: Progress = iter,
) -> list[Row]:  # fmt: skip
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


def score(
    models: Models, world: BallsWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """One-step scores of models and of both trivial predictors, with 1 to 6 balls, by share of the views.

    Arguments as of `Task.score`; by default a tenth of the views is seen, two tenths, and so on to all.

    Returns:
        Rows as from `one_step_table`.
    """
    predictors = {label: model_predictor(model) for label, model in models.items()}
    predictors |= trivial_predictors(world, seed).by_name
    return one_step_table(predictors, world, seed, fractions=shares or FRACTIONS, progress=progress)
