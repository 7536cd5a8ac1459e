"""Arrays that may be larger than memory: they are memory-mapped and processed in parts."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

CELLS = 1 << 20
"""the most numbers in a part, unless a single row has more"""
SUMMED = 1 << 22
"""the same of what is summed at once: sums of longer tables are sums of such sums"""
LEAST_BYTES = 1 << 20
"""what is smaller is held in memory"""


def is_mapped(array: NDArray) -> bool:
    """Whether an array, or that of which it is a view, lies in a file."""
    base: object = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return False


def parts(number: int, width: int = 1, cells: int | None = None) -> Iterator[slice]:
    """Slices that cover so many rows of this width in order, each of at most so many cells, or `CELLS`."""
    each = max(1, (cells or CELLS) // max(1, width))
    for begin in range(0, number, each):
        yield slice(begin, min(begin + each, number))


def room(like: NDArray, shape: Sequence[int], dtype: DTypeLike) -> NDArray:
    """An array to be filled: in memory, or, where `like` lies in a file, in a file without a name that goes with it.

    Such files are in the folder for temporary files, which TMPDIR names.

    Raises:
        OSError: the disk has not so much room.
    """
    size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    if size <= LEAST_BYTES or not is_mapped(like):
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(prefix="s2rm-") as file:
        try:
            # To write beyond the end of a full disk later would end the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            need = f"{error.strerror}: {size / 1e9:,.2f} GB are needed there; name a folder on a larger disk by TMPDIR"
            raise OSError(error.errno, need, tempfile.gettempdir()) from error
        return np.memmap(file, dtype, "r+", shape=tuple(shape))


def filled(like: NDArray, shape: Sequence[int], dtype: DTypeLike, value: float) -> NDArray:
    """A `room` that is full of one value."""
    made = room(like, shape, dtype)
    for part in parts(len(made), made[:1].size):
        made[part] = value
    return made


def tensor(array: Shaped[NDArray, ...]) -> Tensor:
    """The same numbers as a tensor, which is only read where the array can only be read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def distinct(rows: Shaped[NDArray, "R n"]) -> tuple[Shaped[NDArray, "P n"], Int[NDArray, " P"]]:
    """The different rows of an array, in lexical order, and the first place of each."""
    found, first = rows[:0], np.empty(0, np.int64)
    later = [(found, first)]
    for part in parts(len(rows), rows.shape[1]):
        few, at = _distinct(rows[part])
        later.append((few, at + part.start))
        # As often as what is found has doubled, so that the work grows with the rows.
        if part.stop == len(rows) or sum(len(few) for few, _ in later) > max(CELLS, len(found)):
            kept, at = (np.concatenate(each) for each in zip((found, first), *later, strict=True))
            found, chosen = _distinct(kept)
            first, later = at[chosen], []
    return found, first


def _distinct(rows: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    # Stable: of equal rows the first one is first.
    order = np.lexsort(rows.T[::-1])
    new = np.append(True, (np.diff(rows[order], axis=0) != 0).any(1))[: len(rows)]
    return rows[order[new]], order[new]


def counted(ordered: Int[NDArray, " R"]) -> tuple[Int[NDArray, " U"], Int[NDArray, " U"]]:
    """The different numbers of an array in order, and how often each is there."""
    found = [np.unique(ordered[part], return_counts=True) for part in parts(len(ordered))]
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    values, counts = (np.concatenate(each) for each in zip(*found, strict=True))
    first = np.flatnonzero(np.append(True, np.diff(values) != 0))
    return values[first], np.add.reduceat(counts, first)


class Moments(NamedTuple):
    """Of each of C columns, over what is not NaN."""

    known: Int[NDArray, " C"]
    mean: Float[NDArray, " C"]
    spread: Float[NDArray, " C"]
    """standard deviation"""
    low: Float[NDArray, " C"]
    high: Float[NDArray, " C"]


def moments(columns: Float[NDArray, "R C"]) -> Moments:
    """Moments in double precision; those of a column without any number are NaN."""
    number = columns.shape[1]
    ranges = [*parts(len(columns), number, SUMMED)]

    def total(each: Iterator[NDArray]) -> NDArray[np.float64]:
        return sum(each, np.zeros(number))

    count = sum(((~np.isnan(columns[part])).sum(0) for part in ranges), np.zeros(number, np.int64))
    with np.errstate(invalid="ignore"):
        mean = total(np.nansum(columns[part].astype(np.float64), 0) for part in ranges) / count
        away = total(np.nansum((columns[part].astype(np.float64) - mean) ** 2, 0) for part in ranges)
        spread = np.sqrt(away / count)
    nothing = np.full((1, number), np.nan, columns.dtype)
    low, high = (
        end.reduce([nothing[0], *(end.reduce(columns[part], 0) for part in ranges)], 0) for end in (np.fmin, np.fmax)
    )
    return Moments(count, mean, spread, low, high)


def number_known(columns: Float[NDArray, "R C"]) -> Int[NDArray, " C"]:
    """How many numbers of each column are not NaN."""
    nothing = np.zeros(columns.shape[1], np.int64)
    return sum(((~np.isnan(columns[part])).sum(0) for part in parts(len(columns), columns.shape[1])), nothing)
