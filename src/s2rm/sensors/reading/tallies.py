"""The different numbers of a column, and how often each is there: all that is asked of a column larger than memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

MOST, ENDS = 1 << 17, 1 << 12
"""numbers that are kept apart at most, and as many of the smallest and the largest as always are"""


@dataclass(frozen=True, eq=False)
class Tally:
    """K different numbers in order, and how often each is there; NaN is left out.

    Of more than `MOST` numbers those in the middle are counted with their neighbours. The smallest and the largest, and
    how often each of them is there, stay exact.
    """

    values: Float[NDArray, " K"]
    counts: Int[NDArray, " K"]

    @classmethod
    def of(cls, column: Float[NDArray, " R"]) -> Tally:
        """That of a whole column, all of whose numbers are kept apart."""
        return cls(*np.unique(column[~np.isnan(column)] + 0.0, return_counts=True))  # -0.0 is 0

    @property
    def total(self) -> int:
        """How many numbers there are, those that are alike too."""
        return int(self.counts.sum())

    def __add__(self, other: Tally) -> Tally:
        """That of both columns together."""
        values, counts = (np.concatenate(each) for each in ((self.values, other.values), (self.counts, other.counts)))
        order = np.argsort(values, kind="stable")  # which merges what is in order
        values, counts = values[order], counts[order]
        first = np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])
        values, counts = values[first], np.add.reduceat(counts, first) if len(first) else counts
        while len(values) > MOST:
            last = len(values) - ENDS - (len(values) % 2)
            pairs, weights = values[ENDS:last].reshape(-1, 2), counts[ENDS:last].reshape(-1, 2)
            # The one that is there more often stands for both, so that many such steps move little.
            kept = np.where(weights[:, 0] >= weights[:, 1], pairs[:, 0], pairs[:, 1])
            values = np.concatenate([values[:ENDS], kept, values[last:]])
            counts = np.concatenate([counts[:ENDS], weights.sum(1), counts[last:]])
        return Tally(values, counts)

    def at(self, rank: int) -> int:
        """The index of the number of a rank, from 0, in the whole column in order."""
        return int(np.searchsorted(self.counts.cumsum(), rank, side="right"))

    def where(self, kept: NDArray[np.bool_]) -> Tally:
        """Some of the numbers."""
        return Tally(self.values[kept], self.counts[kept])
