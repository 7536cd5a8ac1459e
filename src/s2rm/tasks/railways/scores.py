"""How well models predict one step ahead what trains see, beside two predictors that know nothing of motion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from s2rm.files import Row
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.predictors import trivial_predictors
from s2rm.tasks.railways.world import TRAIN, RailwayWorld, in_chunks
from s2rm.tasks.task import Models, Predictor, model_predictor, with_share
from s2rm.tasks.worlds import Progress
from s2rm.views import Episode


@torch.no_grad()
def one_step_scores(predict: Predictor, episodes: Iterable[Episode], reporting: float = 1.0) -> dict[str, float]:
    """F1 over all channels, those of trains, and those of trains outside the centre of the view; log-likelihood.

    The log-likelihood is in nats a channel of a cell. All are over the views of all trains, reporting or not.

    Args:
        predict: the predictor to score.
        episodes: the test episodes.
        reporting: the share of the trains whose views the predictor sees, rounded; at least one train.
    """
    counts = {name: torch.zeros(3, dtype=torch.long) for name in ("f1", "f1_trains", "f1_other_trains")}
    log_likelihood, total = 0.0, 0
    for part in episodes:
        # Schedules are drawn independently of a train's number, so that the first few are as random as any.
        forecast = predict(with_share(part, reporting))
        there, truth = part.targets.mask[:, 1:], part.targets.values[:, 1:] > 0.5
        probability, decision, truth = forecast.probability[there], forecast.decision[there], truth[there]
        log_likelihood += float(torch.where(truth, probability, 1 - probability).clamp(min=1e-7).log().double().sum())
        total += truth.numel()
        others = torch.ones(truth.shape[-2:], dtype=torch.bool)
        others[truth.shape[-2] // 2, truth.shape[-1] // 2] = False
        for name, some in (
            ("f1", slice(None)), ("f1_trains", (slice(None), TRAIN)), ("f1_other_trains", (slice(None), TRAIN, others)),
        ):  # fmt: skip
            guess, real = decision[some], truth[some]
            counts[name] += torch.stack([(guess & real).sum(), (guess & ~real).sum(), (~guess & real).sum()])
    f1 = {name: float(2 * hits / (2 * hits + false + missed)) for name, (hits, false, missed) in counts.items()}
    return {**f1, "log_likelihood": log_likelihood / total}


def score(
    models: Models, world: RailwayWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """One-step scores of models and of both trivial predictors, by share of the trains that report.

    Arguments as of `Task.score`; by default all trains report.

    Returns:
        Rows with `predictor`, `reporting`, `f1`, `f1_trains`, `f1_other_trains`, `log_likelihood`.

    Raises:
        ImportError, ValueError: as from `collected`.
    """
    test = collected(world, "test", seed, folder)
    predictors = {label: model_predictor(model) for label, model in models.items()}
    predictors |= trivial_predictors(world, seed, folder).by_name
    rows: list[Row] = []
    cases = [(share, name) for share in shares or (1.0,) for name in predictors]
    for (share, name), _ in zip(cases, progress(cases), strict=True):
        found = one_step_scores(predictors[name], in_chunks(world, test), share)
        rows.append({"predictor": name, "reporting": share, **found})
    return rows
