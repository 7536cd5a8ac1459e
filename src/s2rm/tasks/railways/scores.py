"""How well the views of trains are predicted one step ahead, by models and by two that know nothing of motion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from s2rm.files import Row
from s2rm.tasks.crops import crops, last_seen
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.world import TRAIN, RailwayWorld, episode, in_chunks
from s2rm.tasks.task import Forecast, Models, Predictor, first_guess, model_predictor, with_share
from s2rm.tasks.worlds import Drawn, Progress, starts_within, with_fewer
from s2rm.views import Episode


class TrivialPredictors:
    """Predictors that know nothing of motion.

    *Mean view*: the mean training view. *Last seen*: what any train last saw of that cell of the map, and the mean view
    where none saw it. Its probabilities are the frequencies, in training, of a 1 at that pixel of a view when a 1, a 0
    or nothing was last seen in the cell.
    """

    def __init__(self, train: Iterable[Episode]):
        ones = views = torch.zeros(())
        for part in train:
            targets = part.targets.steps(1, None)
            seen, known = seen_before(part)
            cases = torch.stack([~known, known & ~seen, known & seen], 3) & targets.mask[..., None, None, None, None]
            views = views + cases.sum((0, 1, 2))
            ones = ones + (cases & (targets.values > 0.5).unsqueeze(3)).sum((0, 1, 2))
        self.frequencies = (ones + 0.5) / (views + 1)
        self.mean = (ones.sum(0) + 0.5) / (views.sum(0) + 1)

    def mean_view(self, episode: Episode) -> Forecast:
        """The same everywhere."""
        probability = self.mean.expand(*episode.targets.mask[:, 1:].shape, -1, -1, -1)
        return Forecast(probability, probability > 0.5)

    def last_seen(self, episode: Episode) -> Forecast:
        """What was last seen of each cell."""
        seen, known = seen_before(episode)
        never, zero, one = self.frequencies
        probability = torch.where(known, torch.where(seen, one, zero), never)
        return Forecast(probability, torch.where(known, seen, self.mean > 0.5))

    @property
    def by_name(self) -> dict[str, Predictor]:
        """Both, by their names in tables."""
        return {"mean view": self.mean_view, "last seen": self.last_seen}


def trivial_predictors(world: RailwayWorld, seed: int = 0, folder: str | Path | None = None) -> TrivialPredictors:
    """The simple predictors of a world, from all of its training episodes; see `collected` for the folder."""
    return TrivialPredictors(in_chunks(world, collected(world, "train", seed, folder)))


def episodes(
    world: RailwayWorld, split: str, seed: int = 0, folder: Path | None = None, guessed: bool = False, drop: float = 0.0
) -> Drawn:
    """The episodes of a split, "train", "val" or "test", as `Task.episodes`; raises what `collected` raises."""
    source = collected(world, split, seed, folder)
    trivial, ends = trivial_predictors(world, seed, folder) if guessed else None, source.ends

    def draw(rows: Tensor, generator: torch.Generator) -> Episode:
        clips = None
        if split == "train":
            starts = starts_within(ends[rows], world.clip, generator)
            clips = starts[:, None] + torch.arange(world.clip)
        part = with_fewer(episode(world, source, rows, clips), drop, generator)
        return part if trivial is None else replace(part, context=first_guess(trivial.last_seen(part)))

    return Drawn(len(source), draw)


def seen_before(episode: Episode) -> tuple[Bool[Tensor, "B T Q C v v"], Bool[Tensor, "B T Q C v v"]]:
    """What any train last saw of the cells of the targets of steps 1 to T, and whether any saw them.

    A cell is remembered as one number, a bit for each channel, or -1 where nothing was seen.
    """
    views, queries = episode.views.steps(None, -1), episode.targets.positions[:, 1:]
    channels, size = views.value_shape[:2]
    bits = 1 << torch.arange(channels)
    cells = ((views.values > 0.5).flatten(4) * bits[:, None]).sum(3).unflatten(-1, (size, size))
    # Views reach half their size beyond the grid; a margin remembers what was seen there too.
    half = size // 2
    side = int(torch.stack([views.positions.max(), queries.max()]).max()) + 1 + 2 * half
    frames = last_seen(cells, views.positions + half, views.mask, side)
    last = crops(frames, queries + half, size).long().unsqueeze(3)
    known = (last >= 0).expand(-1, -1, -1, channels, -1, -1)
    return known & ((last & bits[:, None, None]) > 0), known


@torch.no_grad()
def one_step_scores(predict: Predictor, episodes: Iterable[Episode], reporting: float = 1.0) -> dict[str, float]:
    """F1 over all channels, those of trains, and those of trains outside the centre of the view; log-likelihood.

    The log-likelihood is in nats per channel of a cell. All scores are over the views of all trains. The predictor sees
    the views of a share of the trains, `reporting`, rounded to at least one train. There is no F1 of what is nowhere
    and is predicted nowhere.
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
    f1 = {name: float(2 * count[0] / (count[0] + count.sum())) for name, count in counts.items() if count.any()}
    return {**f1, "log_likelihood": log_likelihood / total}


def score(
    models: Models, world: RailwayWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """One-step scores of models and of both simple predictors, by share of the trains that report.

    Arguments as for `Task.score`; by default all trains report. Raises what `collected` does. Rows have `predictor`,
    `reporting`, and the scores of `one_step_scores`.
    """
    test = collected(world, "test", seed, folder)
    trivial = trivial_predictors(world, seed, folder)
    predictors = {label: model_predictor(model, trivial.last_seen) for label, model in models.items()}
    predictors |= trivial.by_name
    rows: list[Row] = []
    cases = [(share, name) for share in shares or (1.0,) for name in predictors]
    for (share, name), _ in zip(cases, progress(cases), strict=True):
        found = one_step_scores(predictors[name], in_chunks(world, test), share)
        rows.append({"predictor": name, "reporting": share, **found})
    return rows
