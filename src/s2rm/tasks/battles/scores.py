"""How well models predict battles one step ahead: by scenario, and by the share of the agents that report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score

from s2rm.files import Row
from s2rm.likelihoods import parts
from s2rm.tasks.battles.polar import NUM_TYPES, PolarGrid, markers_and_types, observations
from s2rm.tasks.battles.predictors import Forecast, Predictor, model_predictor, trivial_predictors
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles
from s2rm.tasks.battles.trajectories import Trajectories
from s2rm.tasks.task import Models
from s2rm.tasks.worlds import Progress
from s2rm.views import Episode

REPORTING = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""shares of the agents that report, as in Figure 8"""
SCENARIOS = ("1c3s5z", "3s5z", "2s5z", "1s2z", "5s3z")
"""the three training scenarios, and two new ones"""
VALIDATION = "validation"
"""the training scenarios together"""
LEAST = 1e-6
"""lower bound of probabilities in the log-likelihood"""


def reporting(episode: Episode, share: float, generator: torch.Generator) -> Episode:
    """The episode with the views of a share of the agents, at least one, drawn for each battle.

    The other agents are silent throughout; all stay targets.
    """
    agents_there = episode.views.mask.any(1)
    order = torch.rand(agents_there.shape, generator=generator).masked_fill(~agents_there, 2.0).argsort(1).argsort(1)
    few = (share * agents_there.sum(1, keepdim=True)).round().clamp(min=1)
    return Episode(episode.views.keep((order < few)[:, None]), episode.targets)


class _Tally:
    """The scores of one predictor, accumulated over chunks of battles."""

    def __init__(self) -> None:
        self.marker = BinaryF1Score(validate_args=False)
        self.kind = MulticlassF1Score(NUM_TYPES, average=None, validate_args=False)
        self.occur = torch.zeros(NUM_TYPES, dtype=torch.bool)
        self.log_likelihood, self.error = MeanMetric(), MeanMetric()

    def add(self, forecast: Forecast, is_friendly: Tensor, kind: Tensor, stats: Tensor) -> None:
        """Add the forecast of some images, whose true markers, types and stats are given."""
        self.marker.update(forecast.is_friendly.int().flatten(), is_friendly.flatten())
        self.kind.update(forecast.kind.flatten(), kind.flatten())
        self.occur[kind.unique()] = True
        probability = torch.where(is_friendly.bool(), forecast.friendly, 1 - forecast.friendly)
        of_kind = forecast.types.gather(-3, kind.unsqueeze(-3)).squeeze(-3)
        squared = (forecast.stats - stats).square().mean(-3)
        self.error.update(squared)
        self.log_likelihood.update(probability.clamp(min=LEAST).log() + of_kind.clamp(min=LEAST).log() - squared)

    def scores(self) -> dict[str, float]:
        return {
            "unit_type_f1": float(self.kind.compute()[1:][self.occur[1:]].mean()),
            "friendly_f1": float(self.marker.compute()),
            "negative_mse": -float(self.error.compute()),
            "log_likelihood": float(self.log_likelihood.compute()),
        }


@torch.no_grad()
def scores(
    predictors: Mapping[str, Predictor], fought: Trajectories, grid: PolarGrid, share: float = 1.0, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Unit-type macro F1, friendly-marker F1, negative mean squared error and log-likelihood of one-step prediction.

    Scores are over all pixels of the images of all living agents, reporting or not. The macro F1 is the mean over the
    types that occur, without "no unit"; over the types that are only predicted too, one wrong pixel would cost as much
    as a type that is never found. The log-likelihood is minus the loss: binary and categorical cross-entropy a pixel,
    and squared error a pixel and stat.

    Args:
        predictors: by name; all get the same views.
        fought: the battles.
        grid: pixels of the images.
        share: of the agents that report, drawn by the seed.
        seed: of that draw.

    Source:
        S2RM, E.4.4, F.2, Table 1. The paper does not say over which types its mean is.
    """
    tallies = {name: _Tally() for name in predictors}
    generator = torch.Generator().manual_seed(seed)
    for some in fought.chunks():
        episode = reporting(observations(some, grid), share, generator)
        truth = episode.targets.values[:, 1:][episode.targets.mask[:, 1:]]
        known = (*markers_and_types(truth), parts(truth)[2])
        for name, predict in predictors.items():
            tallies[name].add(predict(some, episode), *known)
    return {name: tally.scores() for name, tally in tallies.items()}


def score(
    models: Models, world: SkirmishWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """One-step scores of models and of both trivial predictors.

    On the validation battles by share of the agents that report (Figure 8, Tables 4 to 7), by default two tenths, three
    tenths, to all; and on test battles of every scenario with all agents reporting (Table 1). Arguments as of
    `Task.score`.

    Returns:
        Rows with `predictor`, `scenario`, `reporting`, `unit_type_f1`, `friendly_f1`, `negative_mse`,
        `log_likelihood`.
    """
    predictors = {name: model_predictor(model) for name, model in models.items()}
    predictors |= trivial_predictors(world, seed).by_name
    cases = [*((VALIDATION, share) for share in shares or REPORTING), *((scenario, 1.0) for scenario in SCENARIOS)]
    validation, rows = battles(world, "val", seed), []
    for (scenario, share), _ in zip(cases, progress(cases), strict=True):
        fought = validation if scenario == VALIDATION else battles(world, "test", seed, scenario)
        for name, found in scores(predictors, fought, world.grid, share, seed).items():
            rows.append({"predictor": name, "scenario": scenario, "reporting": share, **found})
    return rows
