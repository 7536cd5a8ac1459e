"""What the tasks of sequences share: how many sequences there are, and the size of the models that learn them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from s2rm.sequences import Sequences
from s2rm.tasks.worlds import at_least, check_amount, named


@dataclass(frozen=True)
class SequenceWorld(ABC):
    """How much there is of a task of sequences; what it is, each task says.

    Raises:
        ValueError: a number out of its range.
    """

    hidden_size: int = 600
    """of the models, where the command line does not give another"""
    train_sequences: int = 19_200
    """of an epoch; those that are simulated are other ones in each epoch"""
    val_sequences: int = 640
    test_sequences: int = 1_280
    """for each size that is tested"""

    def __post_init__(self) -> None:
        amounts = ("hidden_size", "train_sequences", "val_sequences", "test_sequences")
        at_least(type(self).__name__, vars(self), **dict.fromkeys(amounts, 1))
        if not self.test_sizes or min(self.test_sizes) < 1:
            got = self.test_sizes
            raise ValueError(f"{type(self).__name__}: expected sizes to test of at least 1, got {got}; increase them")
        check_amount(type(self).__name__, max(self.train_sequences, self.test_sequences), *self.longest)

    @property
    def side(self) -> None:
        """There are no positions."""
        return None

    @property
    @abstractmethod
    def test_sizes(self) -> tuple[int, ...]:
        """What is tested: numbers of blanks or steps, or sides of images."""

    @property
    @abstractmethod
    def train_sizes(self) -> tuple[int, int]:
        """The smallest and the largest size in training. Validation uses the largest only."""

    @property
    @abstractmethod
    def longest(self) -> tuple[int, int]:
        """Steps of the longest sequence, and channels of a step."""

    @abstractmethod
    def model_arguments(self) -> dict[str, object]:
        """Channels, classes and the usual hidden size of a model, and the steps that its gates remember at first."""

    @abstractmethod
    def draw(self, split: str, rows: Tensor, generator: torch.Generator, size: int | None = None) -> Sequences:
        """The sequences of some rows of a split, of the size of training or of another."""

    def num_sequences(self, split: str) -> int:
        """Of a split, "train", "val" or "test"."""
        sizes = {"train": self.train_sequences, "val": self.val_sequences, "test": self.test_sequences}
        return named(sizes, split, "sequences", "split")

    def size_of_batch(self, split: str, generator: torch.Generator) -> int:
        """One of the sizes of training, drawn uniformly, and the most of them in other splits."""
        least, most = self.train_sizes
        return int(torch.randint(least if split == "train" else most, most + 1, (), generator=generator))
