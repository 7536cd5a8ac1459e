"""How well models predict what trains see one step ahead, beside two predictors that know nothing of motion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Bool
from torch import Tensor

from s2rm.models.world_model import WorldModel
from s2rm.tasks.railways.world import TRAIN, Railways, RailwayWorld, episode
from s2rm.views import Episode

Predictor = Callable[[Episode], tuple[Tensor, Tensor]]
"""From an episode of T+1 steps to probabilities and decisions of the views of steps 1 to T, `(B, T, A, 10, v, v)`."""


def episodes(world: RailwayWorld, source: Railways, chunk: int = 10) -> Iterator[Episode]:
    """All of them, some at a time."""
    return (episode(world, source, rows) for rows in torch.arange(len(source)).split(chunk))


def model_predictor(model: WorldModel) -> Predictor:
    """A trained model's one-step prediction, thresholded at 0.5."""

    def predict(part: Episode) -> tuple[Tensor, Tensor]:
        positions = part.targets.steps(1, None).positions
        probability = model.predict(model.states_before_targets(part.views), positions).mean
        return probability, probability > 0.5

    return predict


class TrivialPredictors:
    """Two predictors that know nothing of motion.

    *Mean view*: the mean training view. *Last seen*: what any train last saw in that cell of the map, and the mean view
    where none was. Its probabilities are how often, in training, there was a 1 at that pixel of a view when a 1, a 0 or
    nothing had been seen there.

    Args:
        train: training episodes.
    """

    def __init__(self, train: Iterable[Episode]):
        ones = views = torch.zeros(())
        for part in train:
            views_now, there = part.targets.steps(1, None).values, part.targets.mask[:, 1:]
            seen, known = seen_before(part)
            cases = torch.stack([~known, known & ~seen, known & seen], 3) & there[..., None, None, None, None]
            views = views + cases.sum((0, 1, 2))
            ones = ones + (cases & (views_now > 0.5).unsqueeze(3)).sum((0, 1, 2))
        self.frequencies = (ones + 0.5) / (views + 1)
        self.mean = (ones.sum(0) + 0.5) / (views.sum(0) + 1)

    def mean_view(self, part: Episode) -> tuple[Tensor, Tensor]:
        """The same everywhere."""
        probability = self.mean.expand(*part.targets.mask[:, 1:].shape, -1, -1, -1)
        return probability, probability > 0.5

    def last_seen(self, part: Episode) -> tuple[Tensor, Tensor]:
        """What was last seen of the map."""
        seen, known = seen_before(part)
        never, zero, one = self.frequencies
        probability = torch.where(known, torch.where(seen, one, zero), never)
        return probability, torch.where(known, seen, self.mean > 0.5)


def seen_before(part: Episode) -> tuple[Bool[Tensor, "B T A C v v"], Bool[Tensor, "B T A C v v"]]:
    """What any train last saw where the views of steps 1 to T look, and whether any saw it.

    Cells are kept as numbers, a bit a channel, -1 where nothing was seen.
    """
    views = part.views
    channels, size = views.value_shape[:2]
    side = int(views.positions.max()) + 2 * size
    corner, offsets = views.positions.long(), torch.arange(size)
    cells = (corner[..., 0] * side + corner[..., 1])[..., None] + (offsets[:, None] * side + offsets).flatten()
    bits = 1 << torch.arange(channels)
    values = ((views.values > 0.5).flatten(4) * bits[:, None]).sum(3)
    canvas, found = torch.full((views.batch_size, side * side), -1), []
    for step in range(views.num_steps):
        found.append(canvas.gather(1, cells[:, step].flatten(1)).view_as(cells[:, step]))
        for train in range(cells.shape[2]):
            at, there = cells[:, step, train], views.mask[:, step, train, None]
            canvas.scatter_(1, at, torch.where(there, values[:, step, train], canvas.gather(1, at)))
    last = torch.stack(found[1:], 1).unflatten(-1, (1, size, size))
    known = (last >= 0).expand(-1, -1, -1, channels, -1, -1)
    return known & ((last & bits[:, None, None]) > 0), known


@torch.no_grad()
def scores(predict: Predictor, parts: Iterable[Episode]) -> dict[str, float]:
    """F1 over all channels, over those of trains, and over those of other trains than the centre's; log-likelihood.

    The log-likelihood is in nats a channel of a cell.

    Args:
        predict: what is scored.
        parts: the episodes that it is scored on.
    """
    counts = {name: torch.zeros(3, dtype=torch.long) for name in ("f1", "f1_trains", "f1_other_trains")}
    log_likelihood, total = 0.0, 0
    for part in parts:
        probability, decision = predict(part)
        there, truth = part.targets.mask[:, 1:], part.targets.values[:, 1:] > 0.5
        probability, decision, truth = probability[there], decision[there], truth[there]
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
