"""The two predictors that know nothing of motion, and beside which every model of the railways stands."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Bool
from torch import Tensor

from s2rm.tasks.crops import crops, last_seen
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.world import RailwayWorld, in_chunks
from s2rm.tasks.task import Forecast, Predictor
from s2rm.views import Episode


class TrivialPredictors:
    """Predictors that know nothing of motion.

    *Mean view*: the mean training view. *Last seen*: what any train last saw of that cell of the map, and the mean view
    where none saw it. Its probabilities are the frequencies, in training, of a 1 at that pixel of a view when a 1, a 0
    or nothing was last seen in the cell.

    Args:
        train: the training episodes.
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
    """The trivial predictors of a world, from all of its training episodes; see `collected` for the folder."""
    return TrivialPredictors(in_chunks(world, collected(world, "train", seed, folder)))


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
