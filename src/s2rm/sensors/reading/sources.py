"""The cells of a file, DataFrame or Dataset as numbers, times and texts; an error names the column and row at fault."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from s2rm.names import one_line
from s2rm.safety import expect_netcdf, expect_parquet, expect_zarr, most_bytes
from s2rm.sensors.reading.datasets import flat
from s2rm.sensors.reading.notation import as_iso, dates_of, has_its_year_last, has_marks, is_date_only
from s2rm.sensors.reading.texts import MISSING, TEXTS, expect_columns, read_text
from s2rm.sensors.reports import DEGREES, in_degrees
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import DATE

if TYPE_CHECKING:
    from pandas import DataFrame, Series
    from xarray import Dataset

BLANKS = " \t\r\n\f\v\0\x85\xa0\u202f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200C)))
"""characters that are stripped from both ends of a name"""
_ZONE = re.compile(r"[T ]\d[\d:.,]* ?(Z|[+-]\d\d(?::?\d\d){0,2})\s*$")
_UTC = re.compile(r"(?<=\d) ?(UTC|GMT|z)$")
_MIDNIGHT = re.compile(r"(?<=[T ])24(?=(:?00)?(:?00(\.0*)?)? ?(Z|[+-]\d\d(:?\d\d)?)?$)")
"""24 o'clock of a day, which is 0 o'clock of the next"""
CALENDARS = ("standard", "gregorian", "proleptic_gregorian", "noleap", "365_day")
"""the calendars all of whose days there are"""
ENDINGS = (*TEXTS, ".parquet", ".nc", ".zarr")


def open_source(
    source: object, columns: Columns, places: bool = False, name: str = "the table", most: int | None = None
) -> Cells:
    """The columns of a file, DataFrame or Dataset that are read; of a table of `places` the position and, where they
    are there, the sensor and the covariates. A Dataset may unpack to `most` bytes."""
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(source), columns, places)
    import pandas as pd

    name = one_line(name)
    named, found = columns.named, None
    if hasattr(source, "data_vars") and not places:
        dataset = cast("Dataset", source)
        expect_columns(named, [*dataset.variables, *(set(dataset.dims) - set(dataset.variables))], name)
        with one_line_errors(name):
            source = flat(dataset, columns, name, most)
    elif not isinstance(source, pd.DataFrame) and hasattr(source, "to_pandas") and not hasattr(source, "dims"):
        with one_line_errors(name):
            source, found = _of_pandas(source, columns.named)
    if not isinstance(source, pd.DataFrame):
        kind = f"{type(source).__module__}.{type(source).__qualname__}"
        raise ValueError(
            f"read: expected a path, pandas.DataFrame or xarray.Dataset, got {kind}; convert it to a pandas.DataFrame"
        )
    found = list(source.columns) if found is None else found
    if places:
        there = {*found, *source.index.names}
        named = [*columns.position, *(name for name in (columns.sensor, *columns.covariates) if name and name in there)]
    levels = [level for level in source.index.names if level in named and level not in source.columns]
    frame = source.reset_index(levels) if levels else source
    expect_columns(named, [*levels, *found], name)
    if not len(frame):
        raise ValueError(f"read: {name} holds no rows; give a table with observations")
    others = tuple(str(other) for other in found if other not in named)
    cells = Cells(frame[named], name, np.arange(1, len(frame) + 1), columns, others)
    return cells if places or columns.time_format else cells.with_dates()


def _of_pandas(source: Any, named: Sequence[str]) -> tuple[DataFrame, list[object]]:
    """A table of another library as pandas has it, and the names of its columns. Of polars and pyarrow only the named
    ones are converted, and integers are exact, beside nulls too."""
    if (library := type(source).__module__.split(".")[0]) not in ("polars", "pyarrow"):
        made = source.to_pandas()
        return made, list(getattr(made, "columns", ()))
    found = list(source.columns if library == "polars" else source.column_names)
    once = [each for each in found if each in named and found.count(each) == 1]
    return source.select(once).to_pandas(integer_object_nulls=True), found


def ending_of(path: Path) -> str:
    """The ending of a file's name by which its kind is known; what is no file of a known kind is refused."""
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if ending is None:
        or_store = ", or a store of s2rm pack" if path.is_dir() else ""
        raise ValueError(
            f"read: cannot tell what {path.name} is; expected a name ending in {', '.join(ENDINGS)}{or_store}"
        )
    if not path.exists():
        raise ValueError(f"read: found no file {path}; check the path")
    return ending


def _open_file(path: Path, columns: Columns, places: bool) -> Cells:
    ending = ending_of(path)
    with ExitStack() as stack:
        with one_line_errors(path.name):
            if ending == ".parquet":
                from pyarrow.parquet import read_schema, read_table

                expect_parquet(path)
                # Only what is asked for, and each text once, however often it is there.
                known = read_schema(path)
                wanted = [each for each in known.names if each in columns.named]
                texts = [each for each in wanted if str(known.field(each).type) in ("string", "large_string")]
                read = read_table(path, columns=wanted or None, read_dictionary=texts)
                read.validate(full=True)
                opened = read.to_pandas(integer_object_nulls=True)
            elif ending in TEXTS:
                opened, columns = read_text(path, columns, places)
            else:
                import xarray as xr

                if ending == ".zarr":
                    expect_zarr(path)
                    dataset = xr.open_dataset(path, engine="zarr", consolidated=False)
                else:  # xarray closes a broken NetCDF file only if it was opened here
                    expect_netcdf(path)
                    dataset = xr.open_dataset(stack.enter_context(path.open("rb")))
                opened = stack.enter_context(dataset)
        return open_source(opened, columns, places, path.name, None if ending in TEXTS else most_bytes(path))


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Whatever a reader finds wrong with a file, in one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("read: "):
            raise
        reason, remedy = one_line(f"{type(error).__name__}: {error}", 200), "is the file whole, and what its name says?"
        if "calendar" in reason:
            remedy = "install cftime, or convert the times with xarray's convert_calendar"
        raise ValueError(f"read: cannot read {name} ({reason}); {remedy}") from error


@dataclass(frozen=True, eq=False)
class Cells:
    """The columns of a table that are read."""

    frame: DataFrame
    name: str
    """name of the table in messages"""
    rows: NDArray[np.int64]
    """number of each row in its source, from 1"""
    columns: Columns
    """with how texts are written, as far as it is declared or was found"""
    others: tuple[str, ...] = ()
    """the columns that are not read"""

    def where(self, rows: NDArray[np.bool_]) -> Cells:
        return self if rows.all() else replace(self, frame=self.frame[rows], rows=self.rows[rows])

    def with_dates(self) -> Cells:
        """The same with the format of its dates, where the year comes last, in the columns."""
        name = self.columns.time
        if self.frame[name].dtype.kind in "biufM":
            return self
        filled = (text for cell in self.frame[name] if cell is not None and (text := _text(cell)) not in MISSING)
        if not has_its_year_last(next(filled, "")):
            return self
        import pandas as pd

        texts = self.texts(name)[~self.empty(name)]
        found = dates_of(pd.unique(texts).tolist(), f"{name!r} of {self.name}")
        return replace(self, columns=replace(self.columns, time_format=found))

    def texts(self, name: str) -> NDArray[np.object_]:
        """Names or times as they are written, without the blanks around them."""
        import pandas as pd

        column = self.frame[name]
        if isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype):  # each text is looked at once
            codes, unique = pd.factorize(column.to_numpy(dtype=object), use_na_sentinel=False)
            return np.array([_text(cell) for cell in unique], dtype=object)[codes]
        return np.array([_text(cell) for cell in column.to_numpy(dtype=object)], dtype=object)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """`(rows, names)`, NaN where empty; refuses text, and numbers that float32 cannot hold."""
        numbers, decimal = np.empty((len(self.rows), len(names))), self.columns.decimal
        texts = {code for code in self.columns.missing if isinstance(code, str)}
        codes = [code for code in self.columns.missing if not isinstance(code, str)]
        remedy = "leave the cell empty where unknown, or name what stands for it (--missing)"
        for index, name in enumerate(names):
            column = self.frame[name]
            if column.dtype.kind in "biuf":
                numbers[:, index] = column.to_numpy(np.float64, na_value=np.nan)
            else:
                cells = np.where(column.isna(), "", column.to_numpy(dtype=object))
                parsed = [_number("" if texts and cell in texts else cell, decimal) for cell in cells]
                wrong = np.array([number is None for number in parsed], dtype=bool)
                what, mend = "numbers" + " with a decimal comma" * (decimal == ","), remedy
                if has_marks(cells[wrong.argmax()]):
                    mend = "name the decimal sign (--decimal), and write thousands without marks"
                self.refuse(wrong, name, what, cells, mend)
                numbers[:, index] = parsed
            if codes:  # as precise as the numbers are
                numbers[np.isin(numbers[:, index], np.array(codes, _precision(column)).astype(np.float64)), index] = (
                    np.nan
                )
            infinite = np.abs(numbers[:, index]) > np.finfo(np.float32).max
            self.refuse(infinite, name, "finite numbers", numbers[:, index], remedy)
        return numbers

    def times(self, name: str) -> NDArray[np.int64]:
        """Microseconds since 1970, UTC; refuses numbers, texts that are neither ISO 8601 nor of the format that is
        declared or was found, calendars of days that there are not, and times with and without an offset from UTC side
        by side."""
        import pandas as pd

        column = self.frame[name]
        if isinstance(column.dtype, np.dtype | pd.DatetimeTZDtype) and column.dtype.kind == "M":
            moments, codes = pd.DatetimeIndex(pd.to_datetime(column, utc=True)), np.arange(len(column))
        else:
            time_format = self.columns.time_format
            if column.dtype.kind in "biuf" and not time_format:
                self.refuse([True], name, "times", column, _conversion(column))
            if column.dtype == object:
                calendars = {str(getattr(cell, "calendar", CALENDARS[0])) for cell in column} - {*CALENDARS}
                if calendars:
                    raise ValueError(
                        f"read: expected times in the standard or noleap calendar in {name!r} of {self.name}, got the "
                        f"calendar {min(calendars)!r}, which has days that there are not; convert them with xarray's "
                        "convert_calendar('standard', align_on='date')"
                    )
            texts = self.texts(name)
            codes, unique = pd.factorize(texts)
            unique = np.array([_UTC.sub("Z", text) for text in unique], dtype=object)
            expected, remedy = "times", "write them as in ISO 8601, 2013-05-01T06:00"
            if time_format:
                expected, remedy = f"times like {time_format}", "write them so, or name their format (--time-format)"
            if time_format and not is_date_only(time_format):
                moments = pd.to_datetime(pd.Index(unique), format=time_format, utc=True, errors="coerce")
                wrong = moments.isna()
            else:
                unique = as_iso(unique, time_format) if time_format else unique
                moments = pd.to_datetime(pd.Index(unique), format="ISO8601", utc=True, errors="coerce")
                if moments.hasnans:
                    begun = pd.Index([_MIDNIGHT.sub("00", text) for text in unique], dtype=object)
                    midnights = pd.to_datetime(begun, format="ISO8601", utc=True, errors="coerce") + pd.Timedelta(
                        days=1
                    )
                    moments = moments.where(begun == unique, midnights)
                wrong = moments.isna() | ~np.array([bool(DATE.match(text)) for text in unique], dtype=bool)
            self.refuse(wrong[codes], name, expected, texts, remedy)
            zoned = np.array([bool(_ZONE.search(text)) for text in unique], dtype=bool)
            if zoned.any() and not zoned.all():
                expected = f"times {'with' if zoned[0] else 'without'} an offset from UTC like {_shown(texts[0])}"
                self.refuse((zoned != zoned[0])[codes], name, expected, texts, "write all of them in UTC")
        return moments.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)[codes]

    def zoned(self, name: str) -> bool | None:
        """Whether the first time has an offset from UTC; None where times are not texts."""
        column = self.frame[name]
        first = None
        if column.dtype.kind not in "biufM":
            first = next((text for text in map(str, column.dropna()) if text.strip(BLANKS)), None)
        return None if first is None else bool(_ZONE.search(first.strip(BLANKS)))

    def empty(self, name: str) -> NDArray[np.bool_]:
        """`(rows,)`: which cells are empty or blank text."""
        import pandas as pd

        column = self.frame[name]
        empty = column.isna().to_numpy(dtype=bool)
        if column.dtype.kind in "biufM":
            return empty
        if isinstance(column.dtype, pd.StringDtype):
            column = column.astype("category")
        if isinstance(column.dtype, pd.CategoricalDtype):  # each text is looked at once
            blank = [isinstance(cell, str | bytes) and not _text(cell) for cell in column.cat.categories]
            return np.array([*blank, True], dtype=bool)[column.cat.codes]
        blank = [isinstance(cell, str) and not cell.strip(BLANKS) for cell in column.to_numpy(dtype=object)]
        return empty | np.array(blank, dtype=bool)

    def expect_filled(self, name: str, empty: NDArray[np.bool_], that: str = " that holds values") -> None:
        if empty.any():
            raise ValueError(
                f"read: expected {name!r} in each row of {self.name}{that}, got none in {empty.sum()}, "
                f"first in row {self.rows[empty][0]}; fill these cells or leave out the rows"
            )

    def expect_degrees(self, names: Sequence[str], positions: NDArray[np.float64]) -> None:
        swap = f"swap {names[0]!r} and {names[1]!r}, which then fit"
        remedy = swap if in_degrees(positions[:, ::-1]) else "set globe to False for planar coordinates"
        for name, x, (low, high) in zip(names, positions.T, DEGREES, strict=True):
            self.refuse((x < low) | (x > high), name, f"degrees from {low:g} to {high:g}", x, f"fix it, or {remedy}")

    def refuse(self, wrong: ArrayLike, name: str, expected: str, got: ArrayLike, remedy: str) -> None:
        """Raise for the first of the rows that are wrong, if any is."""
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise ValueError(
                f"read: expected {expected} in {name!r} of {self.name}, got {_shown(np.asarray(got)[row])} in row "
                f"{self.rows[row]}; {remedy}"
            )


def _conversion(column: Series) -> str:
    """How numbers become times: by the unit since 1970 that puts them into our days."""
    largest = float(column.abs().max())
    unit = next((unit for unit, most in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if largest < most), "ns")
    if largest < 1e8:
        return "convert them to datetimes, or give them in a NetCDF file units such as 'hours since 2013-05-01'"
    return f"convert them with pandas.to_datetime(..., unit={unit!r}) if they count from 1970"


def _precision(column: Series) -> type[np.floating]:
    return np.float32 if str(column.dtype).lower() in ("float32", "float[pyarrow]") else np.float64


def _number(cell: object, decimal: str | None = None) -> float | None:
    """A cell as a number: NaN if it is blank, None if it is no number."""
    if decimal == "," and isinstance(cell, str):
        if "." in cell:
            return None
        cell = cell.replace(",", ".")
    if isinstance(cell, str | bytes) and "_" in str(cell):
        return None  # Python alone reads 12_5 as 125
    try:
        return math.nan if isinstance(cell, str) and not cell.strip() else float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _text(cell: object) -> str:
    """A time or name as text, without blanks around it; whole numbers without a decimal point, also as pandas writes
    them beside empty cells."""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if hasattr(cell, "isoformat"):
        return str(cell.isoformat())
    text = str(cell)
    if text.endswith(".0") and text[:-2].removeprefix("-").isdecimal():
        text = text[:-2]
    # One name has one spelling, however its accents are put together.
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip(BLANKS)


def _shown(cell: object) -> str:
    return one_line(repr(cell.item() if isinstance(cell, np.generic) else cell), 40)
