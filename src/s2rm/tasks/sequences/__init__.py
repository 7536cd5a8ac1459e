"""Sequences without positions, on which RIMs were first tested: copying, adding, sequential MNIST."""

from functools import partial

from s2rm.tasks.sequences import adding, copying, mnist
from s2rm.tasks.sequences.adding import Adding
from s2rm.tasks.sequences.copying import Copying
from s2rm.tasks.sequences.mnist import Mnist
from s2rm.tasks.sequences.report import report_of
from s2rm.tasks.sequences.scores import episodes, score
from s2rm.tasks.task import Headline, Task
from s2rm.tasks.worlds import named

TASKS = (
    Task(
        "copying", Copying, partial(named, copying.PRESETS, world="copying"), episodes, score,
        report_of(
            "Digits recalled after a pause",
            "Each model saw digits, then blanks, and at a marker had to recall the digits in order.",
            "blanks",
        ),
        Headline("Cross-entropy of the recalled digits, nats", "cross_entropy", "size", "blanks", lower=True),
        share=None,
    ),
    Task(
        "adding", Adding, partial(named, adding.PRESETS, world="adding"), episodes, score,
        report_of(
            "Two marked numbers added",
            "Each model saw a sequence of numbers from 0 to 1, two of them marked, and had to add these two.",
            "steps",
        ),
        Headline("Squared error of the sum", "squared_error", "size", "steps", lower=True),
        share=None,
    ),
    Task(
        "mnist", Mnist, partial(named, mnist.PRESETS, world="mnist"), episodes, score,
        report_of(
            "Digits recognised from their pixels, one per step",
            "Each model saw the pixels of an image one by one, row by row, and had to say which digit it shows.",
            "pixels per side",
        ),
        Headline("Share of digits recognised", "accuracy", "size", "pixels per side"),
        share=None, with_files=mnist.with_files,
    ),
)  # fmt: skip

__all__ = ["TASKS", "Adding", "Copying", "Mnist", "episodes", "score"]
