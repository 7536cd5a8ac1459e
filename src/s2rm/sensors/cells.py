"""The cells of a table as numbers, times and texts; what is wrong with one is an error that names column and row."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2rm.sensors.reports import DEGREES, in_degrees

if TYPE_CHECKING:
    from pandas import DataFrame

_DATE = re.compile(r"\s*\d{4}-?\d\d")
"""the beginning of a time; pandas would also read a bare number or "now" """
_ZONE = re.compile(r"[T ]\d[\d:.,]* ?(Z|[+-]\d\d(?::?\d\d){0,2})\s*$")


@dataclass(frozen=True, eq=False)
class Cells:
    """The columns of a table that are read."""

    frame: DataFrame
    name: str
    """name of the table in messages"""
    rows: NDArray[np.int64]
    """number of each row in its source, from 1"""

    def where(self, rows: NDArray[np.bool_]) -> Cells:
        """Only these rows."""
        return self if rows.all() else Cells(self.frame[rows], self.name, self.rows[rows])

    def texts(self, name: str) -> NDArray[np.object_]:
        """The cells of a column as texts."""
        import pandas as pd

        cells = self.frame[name].to_numpy(dtype=object)
        if isinstance(self.frame[name].dtype, pd.StringDtype):
            return cells
        return np.array([_text(cell) for cell in cells], dtype=object)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """`(rows, names)`, NaN where empty; refuses text, and numbers that float32 cannot hold."""
        numbers = np.empty((len(self.rows), len(names)))
        remedy = "leave the cell empty where unknown"
        for index, name in enumerate(names):
            column = self.frame[name]
            if _is_number(column.dtype):
                numbers[:, index] = column.to_numpy(np.float64, na_value=np.nan)
            else:
                cells = np.where(column.isna(), "", column.to_numpy(dtype=object))
                parsed = [_number(cell) for cell in cells]
                self.refuse([number is None for number in parsed], name, "numbers", cells, remedy)
                numbers[:, index] = parsed
            infinite = np.abs(numbers[:, index]) > np.finfo(np.float32).max
            self.refuse(infinite, name, "finite numbers", numbers[:, index], remedy)
        return numbers

    def times(self, name: str) -> NDArray[np.int64]:
        """Microseconds since 1970, UTC; refuses numbers, texts that are no ISO 8601, and more than one time zone."""
        import pandas as pd

        column = self.frame[name]
        if isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype) and column.dtype.kind == "M":
            moments, codes = pd.DatetimeIndex(pd.to_datetime(column, utc=True)), np.arange(len(column))
        else:
            if _is_number(column.dtype):
                self.refuse([True], name, "times", column, "convert them with pandas.to_datetime")
            texts = self.texts(name)
            codes, unique = pd.factorize(texts)
            moments = pd.to_datetime(pd.Index(unique).str.strip(), format="ISO8601", utc=True, errors="coerce")
            wrong = moments.isna() | ~np.array([bool(_DATE.match(text)) for text in unique])
            self.refuse(wrong[codes], name, "times", texts, "write them as in ISO 8601, 2013-05-01T06:00")
            zones = np.array([_zone(text) for text in unique])
            expected = f"times in the time zone of {_shown(texts[0])}"
            self.refuse((zones != zones[0])[codes], name, expected, texts, "write all of them in UTC")
        return moments.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)[codes]

    def empty(self, name: str) -> NDArray[np.bool_]:
        """`(rows,)`: which cells are empty or blank text."""
        column = self.frame[name]
        empty = column.isna().to_numpy(dtype=bool)
        if column.dtype.kind in "biufM":
            return empty
        return empty | [isinstance(cell, str) and not cell.strip() for cell in column.to_numpy(dtype=object)]

    def expect_filled(self, name: str, empty: NDArray[np.bool_]) -> None:
        """Refuse empty cells."""
        if empty.any():
            raise ValueError(
                f"read: expected {name!r} in each row of {self.name} that holds values, got none in {empty.sum()}, "
                f"first in row {self.rows[empty][0]}; fill these cells or leave out the rows"
            )

    def expect_degrees(self, names: Sequence[str], positions: NDArray[np.float64]) -> None:
        """Refuse longitudes and latitudes out of range."""
        swap = f"swap {names[0]!r} and {names[1]!r}, which then fit"
        remedy = swap if in_degrees(positions[:, ::-1]) else "set globe to False for planar coordinates"
        for name, x, (low, high) in zip(names, positions.T, DEGREES, strict=True):
            self.refuse((x < low) | (x > high), name, f"degrees from {low:g} to {high:g}", x, f"mend it, or {remedy}")

    def refuse(self, wrong: ArrayLike, name: str, expected: str, got: ArrayLike, remedy: str) -> None:
        """Raise for the first of the rows that are wrong, if any is."""
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise ValueError(
                f"read: expected {expected} in {name!r} of {self.name}, got {_shown(np.asarray(got)[row])} in row "
                f"{self.rows[row]}; {remedy}"
            )


def one_line(text: str, length: int) -> str:
    """A text of any kind in one line of printable letters, cut at a length."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= length else line[: length - 3] + "..."


def _zone(text: str) -> str:
    """The offset from UTC at the end of a time; empty where there is none."""
    found = _ZONE.search(text)
    return found[1].replace(":", "").replace("Z", "+00").ljust(5, "0") if found else ""


def _is_number(dtype: object) -> bool:
    from pandas.api import types

    return types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype)


def _number(cell: object) -> float | None:
    """A cell as a number: NaN if it is blank, None if it is no number."""
    try:
        return math.nan if isinstance(cell, str) and not cell.strip() else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _text(cell: object) -> str:
    """A time or name as text; whole numbers without a decimal point."""
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if hasattr(cell, "isoformat") else str(cell)


def _shown(cell: object) -> str:
    return one_line(repr(cell.item() if isinstance(cell, np.generic) else cell), 40)
