"""The cells of a file, DataFrame or Dataset as numbers, times and texts; an error names the column and row at fault."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2rm.sensors.reports import DEGREES, in_degrees
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

_DATE = re.compile(r"\s*\d{4}-?\d\d")
"""the beginning of a time; pandas would also read a bare number or "now" """
_ZONE = re.compile(r"[T ]\d[\d:.,]* ?(Z|[+-]\d\d(?::?\d\d){0,2})\s*$")
ENDINGS = (".csv", ".csv.gz", ".parquet", ".nc", ".zarr")


def open_source(source: object, columns: Columns, name: str = "the table") -> Cells:
    """The columns of a file, DataFrame or Dataset that are read."""
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(source), columns)
    import pandas as pd

    named = columns.named
    if hasattr(source, "data_vars"):
        source = _flat(cast("Dataset", source), columns, name)
    if not isinstance(source, pd.DataFrame):
        raise ValueError(f"read: expected a path, DataFrame or Dataset, got {type(source).__name__}; convert it")
    levels = [level for level in source.index.names if level in named and level not in source.columns]
    frame = source.reset_index(levels) if levels else source
    _expect_columns(named, list(frame.columns), name)
    if not len(frame):
        raise ValueError(f"read: {name} holds no rows; give a table with observations")
    return Cells(frame[named], name, np.arange(1, len(frame) + 1))


def _open_file(path: Path, columns: Columns) -> Cells:
    import pandas as pd

    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise ValueError(f"read: cannot tell what {path.name} is; expected a name ending in {', '.join(ENDINGS)}")
    if not path.exists():
        raise ValueError(f"read: found no file {path}; check the path")
    with ExitStack() as stack:
        with _one_line_errors(path.name), warnings.catch_warnings():
            # pandas only warns of rows longer than the header.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if ending == ".parquet":
                from pyarrow.parquet import read_table

                read = read_table(path)
                read.validate(full=True)
                opened = read.to_pandas()
            elif ending.startswith(".csv"):
                as_written = {name: str for name in (columns.time, columns.sensor) if name}
                opened = pd.read_csv(path, dtype=as_written, index_col=False, low_memory=False)
            else:
                import xarray as xr

                if ending == ".zarr":
                    dataset = xr.open_dataset(path, engine="zarr", consolidated=False)
                else:  # xarray closes a broken NetCDF file only if it was opened here
                    dataset = xr.open_dataset(stack.enter_context(path.open("rb")))
                opened = stack.enter_context(dataset)
        return open_source(opened, columns, path.name)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Whatever a reader finds wrong with a file, in one line."""
    try:
        yield
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"read: cannot read {name} ({reason}); is the file whole, and what its name says?") from error


def _flat(dataset: Dataset, columns: Columns, name: str) -> DataFrame:
    """The long table of a Dataset: a row for each cell."""
    _expect_columns(columns.named, [*dataset.variables, *(set(dataset.dims) - set(dataset.variables))], name)
    few = dataset[[column for column in columns.named if column in dataset.variables]]
    identified = {dim for key in columns.keys for dim in dataset[key].dims}
    for dim, size in few.sizes.items():
        if dim not in identified and size > 1:
            raise ValueError(
                f"read: no time, position or sensor distinguishes the {size} entries of {dim!r} in {name}; "
                f"select one with .isel({dim}=0)"
            )
    with _one_line_errors(name):
        return few.to_dataframe().reset_index()


def _expect_columns(named: Sequence[str], found: list[object], name: str) -> None:
    for column in named:
        if column not in found:
            like = {str(other).lower(): str(other) for other in found}
            near = [like[match] for match in get_close_matches(column.lower(), like, 1)]
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {one_line(', '.join(map(repr, found)), 300)}"
            raise ValueError(f"read: found no column {column!r} in {name}; {remedy}")
        if found.count(column) > 1:
            raise ValueError(f"read: {found.count(column)} columns of {name} are named {column!r}; rename all but one")


@dataclass(frozen=True, eq=False)
class Cells:
    """The columns of a table that are read."""

    frame: DataFrame
    name: str
    """name of the table in messages"""
    rows: NDArray[np.int64]
    """number of each row in its source, from 1"""

    def where(self, rows: NDArray[np.bool_]) -> Cells:
        return self if rows.all() else Cells(self.frame[rows], self.name, self.rows[rows])

    def texts(self, name: str) -> NDArray[np.object_]:
        import pandas as pd

        cells = self.frame[name].to_numpy(dtype=object)
        are_texts = isinstance(self.frame[name].dtype, pd.StringDtype)
        return cells if are_texts else np.array([_text(cell) for cell in cells], dtype=object)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """`(rows, names)`, NaN where empty; refuses text, and numbers that float32 cannot hold."""
        numbers, remedy = np.empty((len(self.rows), len(names))), "leave the cell empty where unknown"
        for index, name in enumerate(names):
            column = self.frame[name]
            if column.dtype.kind in "biuf":
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
            if column.dtype.kind in "biuf":
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
        if empty.any():
            raise ValueError(
                f"read: expected {name!r} in each row of {self.name} that holds values, got none in {empty.sum()}, "
                f"first in row {self.rows[empty][0]}; fill these cells or leave out the rows"
            )

    def expect_degrees(self, names: Sequence[str], positions: NDArray[np.float64]) -> None:
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
