"""Copying: recall digits in order after a long pause."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from s2rm.sequences import Sequences
from s2rm.tasks.sequences.world import SequenceWorld
from s2rm.tasks.worlds import at_least


@dataclass(frozen=True)
class Copying(SequenceWorld):
    """Digits from 1 to 8, blanks, then a mark and blanks, as many as there are digits, during which they are recalled.

    In training the sequences of a batch have one number of blanks, drawn uniformly: models that only ever see one
    number count its steps. The gates remember at first the longest sequence that is asked for.

    Source:
        RIMs, section 4.1; Hochreiter and Schmidhuber 1997. The paper trains on one number, as its preset does.
    """

    digits: int = 10
    """to remember"""
    fewest: int | None = None
    """the fewest steps between the last digit and the mark in training; if not given, 10, or `blank` where that is
    fewer"""
    blank: int = 50
    """the most, and the steps of all sequences of the validation"""
    test_blanks: tuple[int, ...] = (50, 100, 200, 400)
    """steps between them in the test"""

    SYMBOLS = 8

    def __post_init__(self) -> None:
        at_least("Copying", vars(self), digits=1, blank=0)
        fewest = min(10, self.blank) if self.fewest is None else self.fewest
        object.__setattr__(self, "fewest", fewest)
        at_least("Copying", vars(self), fewest=0)
        if self.blank < fewest:
            raise ValueError(
                f"Copying: expected fewest of at most blank, {self.blank}, got {fewest}; lower it or raise blank"
            )
        super().__post_init__()

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return self.test_blanks

    @property
    def train_sizes(self) -> tuple[int, int]:
        assert self.fewest is not None
        return self.fewest, self.blank

    @property
    def longest(self) -> tuple[int, int]:
        return 2 * self.digits + max(self.blank, *self.test_blanks), self.SYMBOLS + 2

    def model_arguments(self) -> dict[str, object]:
        return {
            "input_size": self.SYMBOLS + 2, "num_classes": self.SYMBOLS, "hidden_size": self.hidden_size,
            "memory": self.longest[0],
        }  # fmt: skip

    def draw(self, split: str, rows: Tensor, generator: torch.Generator, size: int | None = None) -> Sequences:
        """One-hot inputs: channel 0 is blank, the last one the mark."""
        if size is None:
            size = self.size_of_batch(split, generator)
        digits = torch.randint(self.SYMBOLS, (len(rows), self.digits), generator=generator)
        mark = self.digits + size
        inputs = torch.zeros(len(rows), mark + self.digits, dtype=torch.long)
        inputs[:, : self.digits], inputs[:, mark] = digits + 1, self.SYMBOLS + 1
        return Sequences(one_hot(inputs, self.SYMBOLS + 2).float(), digits)


PRESETS = {
    "paper": Copying(fewest=50),
    "small": Copying(hidden_size=240, train_sequences=6_400),
    "tiny": Copying(
        hidden_size=24,
        train_sequences=64,
        val_sequences=32,
        test_sequences=32,
        digits=2,
        fewest=1,
        blank=3,
        test_blanks=(3, 5),
    ),
}
