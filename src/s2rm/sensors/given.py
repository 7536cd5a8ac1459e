"""What callers give, in lists, ranges, tables or arrays of any kind, as plain arrays; and how to say what they gave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from s2rm.names import one_line


def told(given: object) -> str:
    """What was given, in one short line."""
    return one_line(repr(given), 80)


def numbers(given: object) -> NDArray | None:
    """Whole or real numbers as an array; None for anything else, such as texts, times, booleans or ragged lists."""
    array = _array(given)
    if not array.size:
        return np.zeros(array.shape)
    return array if array.dtype.kind in "iuf" else None


def whole_numbers(given: object) -> NDArray[np.int64] | None:
    """Numbers of any kind of integer, signed or not, as an array; None for anything else."""
    array = numbers(given)
    if array is None or (array.size and array.dtype.kind == "f"):
        return None
    return array.astype(np.int64, copy=False)


def whole_number(given: object) -> int | None:
    """A single number of any kind of integer, also as an array without axes; None for anything else."""
    array = whole_numbers(given)
    return None if array is None or array.ndim else int(array)


def table_of(given: object, expected: str, named: Sequence[str], rows: int | None = None) -> NDArray:
    """Numbers `(Q, n)`, one for each name in each row, Q `rows` if given; all else is refused, `expected` first."""
    array = numbers(given)
    if rows is None and array is not None and array.ndim:
        rows = len(array)
    if array is None or array.shape != (rows, len(named)):
        raise ValueError(
            f"{expected} of shape ({'Q' if rows is None else rows}, {len(named)}), got "
            f"{told(given) if array is None else array.shape}; give one row for each place, with a number for each of "
            f"{list(named)}"
        )
    return array


def mask_of(given: object, expected: str, number: int, things: str) -> NDArray[np.bool_]:
    """True or false for each of `number` things; all else, such as indices, is refused, `expected` first."""
    array = _array(given)
    if array.shape != (number,) or array.dtype != bool:
        raise ValueError(
            f"{expected} true or false for each of {number} {things}, got {array.dtype} of shape {array.shape}; give a "
            "mask, not indices"
        )
    return array


def _array(given: object) -> NDArray:
    try:
        return np.asarray(given)
    except (ValueError, TypeError):
        return np.array(None)
