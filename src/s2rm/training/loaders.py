"""Loaders of whole batches, whose content depends on seed and epoch only, so that a resumed run sees the same ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

T = TypeVar("T")
WORKERS = 4
"""processes that make batches for a GPU, which would wait for them; a CPU has no time to spare"""


class Batches(Sampler[tuple[list[int], int]]):
    """Keys `(rows, seed)` of whole batches of `num_rows` sequences, a pure function of the seed and the epoch; the last
    batch of an epoch may have fewer. Every pass is an epoch; after `set_epoch` they are counted from there. Arguments
    as `batches`."""

    def __init__(self, num_rows: int, batch_size: int, seed: int, shuffle: bool):
        self.num_rows, self.batch_size, self.seed, self.shuffle = num_rows, batch_size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch, also when a run is resumed."""
        self.epoch = epoch if self.shuffle else 0

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        epoch, self.epoch = self.epoch, self.epoch + self.shuffle
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**64)
        rows = torch.randperm(self.num_rows, generator=generator) if self.shuffle else torch.arange(self.num_rows)
        for batch in rows.split(self.batch_size):
            yield batch.tolist(), int(torch.randint(2**62, (), generator=generator))


def batches(dataset: Dataset[T], batch_size: int, seed: int, shuffle: bool) -> DataLoader[T]:
    """A loader of whole batches.

    Args:
        dataset: indexed by keys `(rows, seed)`: the rows of the batch, and a seed for random choices such as crops. Its
            length is the number of rows.
        batch_size: sequences per batch.
        seed: seed of the order and of the keys.
        shuffle: draw a new order, and new random choices, at each pass over the loader.
    """
    keys = Batches(len(dataset), batch_size, seed, shuffle)  # type: ignore[arg-type]
    workers = min(WORKERS, (os.cpu_count() or 1) // 2) if torch.cuda.is_available() else 0
    return DataLoader(dataset, sampler=keys, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
