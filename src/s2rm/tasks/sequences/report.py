"""The report of runs on sequences: scores by size, and when the modules of RIMs are active."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from s2rm.files import Row
from s2rm.report.figures import metrics
from s2rm.report.modules import rims_pictures
from s2rm.report.page import Entry, More, Picture, comparison, drawn, learning, write_page
from s2rm.tasks.sequences.scores import episodes
from s2rm.tasks.sequences.world import SequenceWorld


class Words(NamedTuple):
    """What a report says of a task."""

    title: str
    lead: str
    size: str
    """what the sizes that are tested are"""


SENTENCES = {
    "cross_entropy": "Nats per target; lower is better, 0 is perfect.",
    "accuracy": "The share of targets for which the most probable class is correct; 1 is perfect.",
    "squared_error": "Lower is better, 0 is perfect.",
}
LABELS = {"cross_entropy": "cross-entropy", "accuracy": "accuracy", "squared_error": "squared error"}
LOWER = ("cross_entropy", "squared_error")
MASKED = 16
"""sequences on which the effects of masking are measured"""


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: SequenceWorld, seed: int = 0,
    folder: Path | None = None, more: More = More(), *, words: Words,  # noqa: B008
) -> None:  # fmt: skip
    """Write the page; arguments as for `Task.write_report`, and what it says of the task."""
    seen = (
        f"{world.num_sequences('train'):,} sequences an epoch for training, {world.num_sequences('test'):,} of each "
        "size for the test, the same for every predictor. The constant predictor ignores its input."
    )
    found = {metric: label for metric, label in LABELS.items() if metric in rows[0]}
    heads = {size: f"{size:,} {words.size}" for size in world.test_sizes}
    tables = [
        comparison(
            rows, metric, "size", heads, label.capitalize(), label, SENTENCES[metric], ".4f",
            worth=(lambda value: -value) if metric in LOWER else float,
        )
        for metric, label in found.items()
    ]  # fmt: skip
    trained = " to ".join(f"{size:,}" for size in dict.fromkeys(world.train_sizes))
    sentence = f"Trained on {trained} {words.size}; what is beyond is new. Dashed: the constant predictor."
    curves = drawn("Scores by size", metrics(rows, "size", found, words.size), sentence)
    pictures = [curves, learning(entries), *_modules(entries, world, seed)]
    tables, pictures = [*tables, *more.tables], [*pictures, *more.pictures]
    write_page(path, words.title, words.lead, entries, seen, tables, pictures, more.verdict)


def _modules(entries: Sequence[Entry], world: SequenceWorld, seed: int) -> Iterator[Picture]:
    test = episodes(world, "test")
    batch = test[[*range(min(MASKED, len(test)))], seed]
    for entry in entries:
        if entry.model.has_modules:
            with torch.no_grad():
                inputs = entry.model.encoder(batch.inputs)
            yield from rims_pictures(entry.label, entry.model.core, inputs)


def report_of(title: str, lead: str, size: str) -> partial[None]:
    """`write_report` of a task, with what it says of it."""
    return partial(write_report, words=Words(title, lead, size))
