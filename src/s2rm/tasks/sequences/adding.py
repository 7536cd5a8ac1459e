"""Adding: add the two marked numbers of a long sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from s2rm.sequences import Sequences
from s2rm.tasks.sequences.world import SequenceWorld
from s2rm.tasks.worlds import at_least


@dataclass(frozen=True)
class Adding(SequenceWorld):
    """Numbers drawn uniformly from 0 to 1; one of the first half is marked, and one of the second.

    A step has three channels: the number, and two that are 1 where it is the first or the second number to add. The
    sum is read after the last step.

    In training the sequences of a batch have one length, drawn uniformly. Models that only ever see one length count
    its steps: they add something at each step and take all of it away at the end, so that their sums drift in longer
    sequences. The gates remember at first the longest sequence that is asked for.

    Source:
        RIMs, Table 5; Hochreiter and Schmidhuber 1997. The paper trains on one length, as its preset does.
    """

    train_sequences: int = 30_000
    val_sequences: int = 10_000
    test_sequences: int = 20_000
    shortest: int = 2
    """the fewest steps of a sequence in training"""
    length: int = 50
    """the most, and the steps of all sequences of the validation"""
    test_lengths: tuple[int, ...] = (50, 200)
    """steps of a sequence in the test"""

    def __post_init__(self) -> None:
        at_least("Adding", vars(self), shortest=2, length=self.shortest)
        super().__post_init__()
        if min(self.test_lengths) < 2:
            raise ValueError(
                f"Adding: expected sequences of at least 2 numbers, got {self.test_lengths}; lengthen them"
            )

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return self.test_lengths

    @property
    def train_sizes(self) -> tuple[int, int]:
        return self.shortest, self.length

    @property
    def longest(self) -> tuple[int, int]:
        return max(self.length, *self.test_lengths), 3

    def model_arguments(self) -> dict[str, object]:
        return {"input_size": 3, "num_classes": None, "hidden_size": self.hidden_size, "memory": self.longest[0]}

    def draw(self, split: str, rows: Tensor, generator: torch.Generator, size: int | None = None) -> Sequences:
        if size is None:
            size = self.size_of_batch(split, generator)
        length, batch, half = size, torch.arange(len(rows)), size // 2
        inputs = torch.zeros(len(rows), length, 3)
        inputs[..., 0] = torch.rand(len(rows), length, generator=generator)
        first = torch.randint(half, (len(rows),), generator=generator)
        second = torch.randint(half, length, (len(rows),), generator=generator)
        inputs[batch, first, 1] = inputs[batch, second, 2] = 1
        numbers = inputs[..., 0]
        return Sequences(inputs, (numbers[batch, first] + numbers[batch, second])[:, None])


PRESETS = {
    "paper": Adding(shortest=50),
    "long": Adding(
        hidden_size=120,
        train_sequences=6_400,
        val_sequences=320,
        test_sequences=640,
        length=500,
        test_lengths=(500, 1_000),
    ),
    "small": Adding(hidden_size=120, train_sequences=6_400, val_sequences=640, test_sequences=1_280),
    "tiny": Adding(
        hidden_size=24, train_sequences=64, val_sequences=32, test_sequences=32, length=6, test_lengths=(6, 9)
    ),
}
