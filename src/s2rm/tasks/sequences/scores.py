"""How well models recall, add and recognise, at the size of training and at others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from s2rm.files import Row
from s2rm.models.sequence_model import SequenceModel
from s2rm.sequences import Sequences
from s2rm.tasks.sequences.world import SequenceWorld
from s2rm.tasks.worlds import Drawn, Progress
from s2rm.training import batches

BATCH, SEEN = 128, 2_560
"""sequences that are scored at a time, and from which the constant is taken"""
Reader = Callable[[Sequences], Tensor]
"""From a batch to what is read of it: logits of classes `(B, S, K)`, or real values `(B, S)`"""


def episodes(
    world: SequenceWorld, split: str, seed: int = 0, folder: Path | None = None, size: int | None = None
) -> Drawn[Sequences]:
    """The sequences of a split, of the size of training or of another; arguments else as of `Task.episodes`."""
    return Drawn(world.num_sequences(split), partial(world.draw, split, size=size))


def constant(world: SequenceWorld, seed: int = 0) -> Reader:
    """The predictor that does not look: how frequent each class is in training, or the mean of real targets."""
    train = episodes(world, "train")
    rows = torch.linspace(0, len(train) - 1, min(SEEN, len(train))).round().long()  # files may be sorted by class
    targets = train[rows.tolist(), seed].targets
    if targets.is_floating_point():
        mean = targets.mean()
        return lambda batch: mean.expand(batch.targets.shape)
    classes = world.model_arguments()["num_classes"]
    assert isinstance(classes, int)
    logits = (targets.flatten().bincount(minlength=classes) + 0.5).log()
    return lambda batch: logits.expand(*batch.targets.shape, -1)


@torch.no_grad()
def scores(read: Reader, loader: Iterable[Sequences]) -> dict[str, float]:
    """Of classes the cross-entropy in nats and the share that is recognised, of real values the squared error."""
    sums: dict[str, float] = {}
    total = 0
    for batch in loader:
        found, targets = read(batch), batch.targets
        if targets.is_floating_point():
            parts = {"squared_error": (found - targets).square().sum()}
        else:
            nats = cross_entropy(found.flatten(0, 1), targets.flatten(), reduction="sum")
            parts = {"cross_entropy": nats, "accuracy": (found.argmax(-1) == targets).sum()}
        sums = {name: sums.get(name, 0.0) + float(part) for name, part in parts.items()}
        total += targets.numel()
    return {name: part / total for name, part in sums.items()}


def score(
    models: Mapping[str, SequenceModel], world: SequenceWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """Scores of models and of the constant predictor at each size that is tested; arguments as for `Task.score`.

    Rows have `predictor`, `size`, and what `scores` returns.
    """

    def reader(model: SequenceModel) -> Reader:
        return lambda batch: model.predict(batch.inputs, batch.targets.shape[1])

    readers = {label: reader(model) for label, model in models.items()} | {"constant": constant(world, seed)}
    rows: list[Row] = []
    cases = [(size, name) for size in world.test_sizes for name in readers]
    for (size, name), _ in zip(cases, progress(cases), strict=True):
        loader = batches(episodes(world, "test", size=size), BATCH, seed + 2, shuffle=False)
        rows.append({"predictor": name, "size": size, **scores(readers[name], loader)})
    return rows
