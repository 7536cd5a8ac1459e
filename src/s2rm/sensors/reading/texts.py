"""Tables in text files, such as CSV: read as they are written, which is declared or found out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s2rm.names import one_line
from s2rm.safety import Unpacked
from s2rm.sensors.reading.notation import (
    BLANK,
    cells_of,
    decimal_of,
    encoding_error,
    encoding_of,
    has_thousands,
    may_have_thousands,
    separator_of,
)
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame

MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip
"""cells of numbers and times that are empty, as pandas has them"""
TEXTS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
"""endings of files of text"""


def read_text(path: Path, columns: Columns, places: bool) -> tuple[DataFrame, Columns]:
    """The table in a file, and the columns with how it is written.

    A table of `places` need not be written as that of the observations, which decides only where it is not plain.
    """
    own = replace(columns, encoding=None, decimal=None) if places else columns
    kept = columns.decimal if places else None
    try:
        return _read(path, own, places, kept)
    except UnicodeDecodeError as error:
        with _opened(path) as file:
            content = file.read()
        if own.encoding:
            raise ValueError(encoding_error(content, own.encoding, path.name)) from error
        return _read(path, replace(own, encoding=columns.encoding or encoding_of(content, path.name)), places, kept)


def read_text_in_batches(path: Path, columns: Columns, rows: int) -> Iterator[tuple[DataFrame, Columns]]:
    """The table in a file some rows at a time, and the columns with how it is written, found in the first rows.

    Raises:
        ValueError: text in another encoding than the one that is named, or than UTF-8 where none is.
    """
    import pandas as pd

    try:
        sample, found = _read(path, columns, False, None, rows)
        if len(sample) < rows:
            yield sample, found
            return
        options = _options(path, found, False)
        with _opened(path) as file, pd.read_csv(file, chunksize=rows, **options) as read:
            while True:
                with _warnings_as_errors():
                    frame = next(read, None)
                if frame is None:
                    return
                yield frame, found
    except UnicodeDecodeError as error:
        wrong = error.object[error.start : error.start + 1]
        raise ValueError(
            f"read: expected text in {columns.encoding or 'utf-8'} in {path.name}, got {wrong!r}; name its encoding "
            "(--encoding), such as latin-1 or cp1252"
        ) from error


def _opened(path: Path) -> Unpacked | io.BufferedReader:
    return Unpacked(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _options(path: Path, columns: Columns, places: bool) -> dict[str, Any]:
    """How pandas is to read a file, once its first line has been looked at; its separator is among the options."""
    import pandas as pd

    needed = [*columns.position] if places else columns.named
    with _opened(path) as file, io.TextIOWrapper(file, columns.encoding or "utf-8-sig") as lines:
        line = next((line for line in lines if line.strip()), "").rstrip("\r\n")
    separator = columns.separator
    if separator and len(needed) > 1 and len(cells_of(line, separator)) < 2:
        if not places:
            raise ValueError(
                f"read: expected the separator {separator!r} in {path.name}, got a first line without, "
                f"{one_line(line, 60)!r}; name another (--separator), or leave it out to have it found"
            )
        separator = None
    separator = separator or separator_of(line, needed)
    # Names are texts: 007 stays 007, and a station may be called NA.
    as_written = {name: str for name in (columns.time, columns.sensor) if name}
    codes = [code for code in columns.missing if isinstance(code, str)]
    numbers = (*columns.position, *columns.values, *columns.covariates)
    missing = {columns.time: MISSING} | {name: [*MISSING, *codes] for name in numbers}
    options: dict[str, Any] = {
        "sep": r"\s+" if separator == BLANK else separator, "encoding": columns.encoding, "index_col": False,
    }  # fmt: skip
    # pandas would rename the second of two columns of one name.
    with _opened(path) as file:
        header = pd.read_csv(file, header=None, nrows=1, dtype=str, **options)
    written = header.iloc[0].tolist()
    expect_columns([name for name in columns.named if written.count(name) > 1], written, path.name)
    return options | {
        "dtype": as_written, "low_memory": False, "keep_default_na": False, "na_values": missing,
        "decimal": columns.decimal or ".",
    }  # fmt: skip


@contextmanager
def _warnings_as_errors() -> Iterator[None]:
    """Of rows longer than the header, of which pandas only warns."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        yield


def _read(
    path: Path, columns: Columns, places: bool, kept: str | None, rows: int | None = None
) -> tuple[DataFrame, Columns]:
    """The table in a file, or its first rows; `kept` is the decimal sign where it is not plain."""
    import pandas as pd

    options = _options(path, columns, places)

    def read(decimal: str) -> DataFrame:
        with _warnings_as_errors(), _opened(path) as file:
            plain = path.name.lower().endswith(("csv", "tsv", "txt"))
            return pd.read_csv(path if plain else file, nrows=rows, **(options | {"decimal": decimal}))

    frame, decimal = read(columns.decimal or "."), columns.decimal
    if decimal is None:
        numbers = (*columns.position, *columns.values, *columns.covariates)
        there = [frame[name] for name in numbers if name in frame]
        texts = [column for column in there if column.dtype.kind not in "biuf"]
        parsed = [column.to_numpy() for column in there if column.dtype.kind == "f"]
        decimal = decimal_of((text for column in texts for text in column.dropna().unique()), parsed)
        decimal = decimal or (kept if texts else None)
        frame = read(decimal) if decimal else frame
        for column in there if decimal is None else ():
            if column.dtype.kind == "f" and may_have_thousands(column.to_numpy()):
                with _opened(path) as file:
                    again = pd.read_csv(file, nrows=rows, usecols=[column.name], **(options | {"dtype": str}))
                _refuse_thousands(again[column.name].dropna().tolist(), f"{column.name!r} of {path.name}")
    separator = options["sep"]
    found = None if separator == "," else BLANK if separator == r"\s+" else separator
    return frame, replace(columns, separator=found, decimal=decimal)


def _refuse_thousands(texts: Sequence[str], where: str) -> None:
    """Refuse texts whose points may mark thousands."""
    if has_thousands(texts):
        marked, plain = (next(text for text in texts if ("." in text) == pointed) for pointed in (True, False))
        raise ValueError(
            f"read: expected numbers of one notation in {where}, got {marked!r} beside numbers such as {plain!r}, "
            "as where points mark thousands; write those without marks, or name the decimal sign (--decimal .)"
        )


def expect_columns(named: Sequence[str], found: list[object], name: str) -> None:
    """Refuse a table in which a column is not found, or found twice.

    Raises:
        ValueError: one line with the column, and the name that was meant or those that are there.
    """
    for column in named:
        if column not in found:
            like = {str(other).lower(): str(other) for other in found}
            near = [like[match] for match in get_close_matches(column.lower(), like, 1)]
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {one_line(', '.join(map(repr, found)), 300)}"
            raise ValueError(f"read: found no column {column!r} in {name}; {remedy}")
        if found.count(column) > 1:
            raise ValueError(f"read: {found.count(column)} columns of {name} are named {column!r}; rename all but one")
