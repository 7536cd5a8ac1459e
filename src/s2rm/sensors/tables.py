"""Long tables, one row for each time and place: read into reports, and written again."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from s2rm.sensors.reports import LATITUDES, LONGITUDES, Columns, Reports

if TYPE_CHECKING:
    from pandas import DataFrame

ENDINGS = (".csv", ".csv.gz", ".parquet", ".nc", ".zarr")
MAX_STEPS = 10_000_000
DEGREES = ((-360.0, 380.0), (-90.0, 90.0))
"""Range of longitudes and of latitudes."""
TURNS = (-180.0, 0.0, 20.0, -360.0)
"""Where tables begin to count longitudes; those of the oceans at 20, so as not to cut one in two."""
_DATE = re.compile(r"\s*\d{4}-?\d\d")
"""How a time begins: a bare number or "now", which pandas reads as well, is none."""
_ZONE = re.compile(r"[T ]\d[\d:.,]* ?(Z|[+-]\d\d(?::?\d\d){0,2})\s*$")


def read_reports(source: Any, columns: Columns, to_fit: bool = True) -> Reports:
    """The reports in a long table, binned to steps.

    Step 0 begins at the earliest time, rounded down to a whole step since 1970. What one sensor reports within a step
    is averaged over the cells that are not empty, directions and longitudes as unit vectors. Rows without any value
    are left out. Where no column names the sensors each place, to six decimals, is one.

    Args:
        source: path of a CSV (.csv, .csv.gz), Parquet, NetCDF or Zarr file; or a pandas DataFrame; or an xarray
            Dataset of stations, (time, station), or of a grid, (time, lat, lon), each cell of which is a sensor.
        columns: what the columns mean. Times are ISO 8601 texts or datetimes, UTC where they name no zone.
        to_fit: refuse what nothing can be fitted to: one step, one sensor, a value that is empty or constant.

    Returns:
        The reports, in the units of the table.

    Raises:
        ValueError: a source that cannot be read or does not hold reports; one line, which names the column and the
            row, counted from 1 without the header.
        ImportError: a package that reads this kind of source is missing.
    """
    length = _step_length(columns.step)
    place = [name.lower() for name in columns.position]
    if len(place) == 2 and place[0] in LATITUDES and place[1] in LONGITUDES:
        raise ValueError(f"read: expected the longitude first, got position {columns.position}; swap the two names")
    table = _load(source, columns)
    values = table.numbers(columns.values)
    for name, column in zip(columns.values, values.T, strict=True):
        if to_fit and np.isnan(column).all():
            raise ValueError(f"read: {name!r} is empty in all rows of {table.name}; leave it out of the values")
    measured = np.asarray(np.isfinite(values).any(1))
    table, values = table.where(measured), values[measured]
    for name in filter(None, (columns.time, columns.sensor)):
        table.expect_filled(name, table.empty(name))
    positions, covariates = table.numbers(columns.position), table.numbers(columns.covariates)
    for name, column in zip(columns.position, positions.T, strict=True):
        table.expect_filled(name, np.isnan(column))
    if columns.on_the_globe:
        table.expect_on_the_globe(columns.position, positions)
    if columns.sensor is None:
        positions = np.round(positions, 6) + 0.0  # -0.0 is the place 0.0
    names = _places(positions) if columns.sensor is None else table.texts(columns.sensor)
    sensor, sensors = _pandas().factorize(names, sort=True)
    if to_fit and len(sensors) < 2:
        raise ValueError(f"read: expected at least 2 sensors in {table.name}, got only {sensors[0]!r}; add another")
    step, start = _bins(table, columns, length)
    if to_fit and not step.any():
        raise ValueError(
            f"read: all of {table.name} is in one step of {columns.step!r}; take a shorter step or add times"
        )

    key = step * len(sensors) + sensor
    order = np.argsort(key, kind="stable")
    first = np.diff(key[order], prepend=-1) > 0
    place_turns = [np.nan] * len(columns.position)
    if columns.on_the_globe:
        west, east = positions[:, 0].min(), positions[:, 0].max()
        place_turns[0] = next((turn for turn in TURNS if turn <= west and east <= turn + 360), TURNS[-1])
    value_turns = [0.0 if name in columns.circular else np.nan for name in columns.values]
    reports = Reports(
        columns=columns,
        start=start,
        num_steps=int(step.max()) + 1,
        sensors=tuple(sensors),
        step=step[order][first],
        sensor=sensor[order][first].astype(np.int64),
        positions=_averaged(positions[order], first, place_turns),
        values=_averaged(values[order], first, value_turns).astype(np.float32),
        covariates=_averaged(covariates[order], first, [np.nan] * len(columns.covariates)).astype(np.float32),
    )
    for name, column in zip(columns.values, reports.values.T, strict=True):
        if to_fit and np.nanmin(column) == np.nanmax(column):
            raise ValueError(f"read: {name!r} is {np.nanmin(column):g} in all of {table.name}; leave it out")
    return reports


def to_frame(reports: Reports) -> DataFrame:
    """The long table of reports, a pandas DataFrame with the columns they were read from; times begin their steps."""
    pandas, columns = _pandas(), reports.columns
    times = reports.start + reports.step * reports.step_length
    data: dict[str, Any] = {columns.time: pandas.DatetimeIndex(times).tz_localize("UTC")}
    if columns.sensor:
        data[columns.sensor] = np.array(reports.sensors, dtype=object)[reports.sensor]
    for names, block in (
        (columns.position, reports.positions),
        (columns.values, reports.values),
        (columns.covariates, reports.covariates),
    ):
        data.update(zip(names, block.T, strict=True))
    return pandas.DataFrame(data)


@dataclass(frozen=True, eq=False)
class _Table:
    """The columns of a table; complaints name a column and the first row that is wrong."""

    frame: DataFrame
    name: str
    """what to call it"""
    rows: NDArray[np.int64]
    """the number of each row where it comes from, from 1"""

    def where(self, rows: NDArray[np.bool_]) -> _Table:
        return self if rows.all() else _Table(self.frame[rows], self.name, self.rows[rows])

    def texts(self, name: str) -> NDArray[np.object_]:
        cells = self.frame[name].to_numpy(dtype=object)
        if isinstance(self.frame[name].dtype, _pandas().StringDtype):
            return cells
        return np.array([_text(cell) for cell in cells], dtype=object)

    def numbers(self, names: Sequence[str]) -> NDArray[np.float64]:
        """`(rows, names)`, NaN where empty; refuses text, and numbers that float32 cannot hold."""
        numbers = np.empty((len(self.rows), len(names)))
        for index, name in enumerate(names):
            column = self.frame[name]
            if _is_number(column.dtype):
                numbers[:, index] = column.to_numpy(np.float64, na_value=np.nan)
            else:
                cells = np.where(column.isna(), "", column.to_numpy(dtype=object))
                parsed = [_number(cell) for cell in cells]
                self.refuse(
                    [number is None for number in parsed], name, "numbers", cells, "leave the cell empty where unknown"
                )
                numbers[:, index] = parsed
            infinite = np.abs(numbers[:, index]) > np.finfo(np.float32).max
            self.refuse(infinite, name, "finite numbers", numbers[:, index], "leave the cell empty where unknown")
        return numbers

    def times(self, name: str) -> NDArray[np.int64]:
        """Microseconds since 1970, UTC; refuses numbers, texts that are no ISO 8601, and more than one time zone."""
        pandas, column = _pandas(), self.frame[name]
        if isinstance(column.dtype, np.dtype | pandas.DatetimeTZDtype) and column.dtype.kind == "M":
            codes, moments = slice(None), pandas.DatetimeIndex(pandas.to_datetime(column, utc=True))
        elif _is_number(column.dtype):
            self.refuse([True], name, "times", column, "convert them with pandas.to_datetime")
        else:
            texts = self.texts(name)
            codes, unique = pandas.factorize(texts)
            moments = pandas.to_datetime(pandas.Index(unique).str.strip(), format="ISO8601", utc=True, errors="coerce")
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

    def expect_on_the_globe(self, names: Sequence[str], positions: NDArray[np.float64]) -> None:
        """Refuse longitudes and latitudes out of range."""
        low, high = np.array(DEGREES).T
        swapped = positions[:, ::-1]
        fit = bool(((low <= swapped) & (swapped <= high)).all())
        remedy = f"swap {names[0]!r} and {names[1]!r}, which then fit" if fit else "name planar coordinates otherwise"
        for name, x, (low, high) in zip(names, positions.T, DEGREES, strict=True):
            self.refuse((x < low) | (x > high), name, f"degrees from {low:g} to {high:g}", x, f"mend it, or {remedy}")

    def refuse(self, wrong: Any, name: str, expected: str, got: Any, remedy: str) -> None:
        """Raise for the first of the rows that are wrong, if any is."""
        if np.any(wrong):
            row = int(np.argmax(wrong))
            raise ValueError(
                f"read: expected {expected} in {name!r} of {self.name}, got {_shown(np.asarray(got)[row])} in row "
                f"{self.rows[row]}; {remedy}"
            )


def _load(source: Any, columns: Columns, name: str = "the table") -> _Table:
    """The columns named, of a file, DataFrame or Dataset."""
    if isinstance(source, str | os.PathLike):
        with _opened(Path(source), columns) as opened:
            return _load(opened, columns, Path(source).name)
    pandas, named = _pandas(), [*_keys(columns), *columns.values, *columns.covariates]
    if hasattr(source, "data_vars"):
        source = _flat(source, columns, name)
    if not isinstance(source, pandas.DataFrame):
        raise ValueError(f"read: expected a path, DataFrame or Dataset, got {type(source).__name__}; convert it")
    levels = [level for level in source.index.names if level in named and level not in source.columns]
    frame = source.reset_index(levels) if levels else source
    _expect_columns(named, list(frame.columns), name)
    if not len(frame):
        raise ValueError(f"read: {name} holds no rows; give a table with reports")
    return _Table(frame[named], name, np.arange(1, len(frame) + 1))


@contextmanager
def _opened(path: Path, columns: Columns) -> Iterator[Any]:
    """The DataFrame or Dataset in a file, by its ending."""
    pandas = _pandas()
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise ValueError(f"read: cannot tell what {path.name} is; expected a name ending in {', '.join(ENDINGS)}")
    if not path.exists():
        raise ValueError(f"read: found no file {path}; check the path")
    with ExitStack() as stack:
        with _reading(path.name), warnings.catch_warnings():
            # Rows longer than the header.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            opened: Any
            if ending == ".parquet":
                from pyarrow.parquet import read_table

                read = read_table(path)
                read.validate(full=True)
                opened = read.to_pandas()
            elif ending.startswith(".csv"):
                as_written = {name: str for name in (columns.time, columns.sensor) if name}
                opened = pandas.read_csv(path, dtype=as_written, index_col=False, low_memory=False)
            else:
                import xarray

                # A broken NetCDF file is closed only if it was opened here.
                source: Any = path if ending == ".zarr" else stack.enter_context(path.open("rb"))
                options: Any = {"engine": "zarr", "consolidated": False} if ending == ".zarr" else {}
                opened = stack.enter_context(xarray.open_dataset(source, **options))
        yield opened


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever a reader finds wrong with a file, in one line."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f'read: {name} needs a package ({error}); try pip install "s2rm[tables]"') from error
    except Exception as error:
        reason = _one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"read: cannot read {name} ({reason}); is the file whole, and what its name says?") from error


def _flat(dataset: Any, columns: Columns, name: str) -> DataFrame:
    """The long table of a Dataset: a row for each cell."""
    named = [*_keys(columns), *columns.values, *columns.covariates]
    _expect_columns(named, [*dataset.variables, *(set(dataset.dims) - set(dataset.variables))], name)
    few = dataset[[column for column in named if column in dataset.variables]]
    told = {dim for key in _keys(columns) for dim in dataset[key].dims}
    for dim, size in few.sizes.items():
        if dim not in told and size > 1:
            raise ValueError(
                f"read: no time, position or sensor tells the {size} entries of {dim!r} in {name} apart; "
                f"select one with .isel({dim}=0)"
            )
    with _reading(name):
        return few.to_dataframe().reset_index()


def _keys(columns: Columns) -> list[str]:
    """The columns that no row may leave empty."""
    return [columns.time, *([columns.sensor] if columns.sensor else []), *columns.position]


def _expect_columns(named: Sequence[str], found: list[Any], name: str) -> None:
    """Refuse columns that are not there, or there twice."""
    for column in named:
        if column not in found:
            like = {str(other).lower(): str(other) for other in found}
            near = [like[match] for match in get_close_matches(column.lower(), like, 1)]
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {_one_line(', '.join(map(repr, found)), 300)}"
            raise ValueError(f"read: found no column {column!r} in {name}; {remedy}")
        if found.count(column) > 1:
            raise ValueError(f"read: {found.count(column)} columns of {name} are named {column!r}; rename all but one")


def _step_length(step: str) -> int:
    """Microseconds of a step."""
    pandas = _pandas()
    # What pandas deprecates, such as "1H", it warns of.
    with warnings.catch_warnings(action="error"), suppress(ValueError, Warning):
        length = pandas.Timedelta(step)
        microseconds = length // pandas.Timedelta(microseconds=1)
        if microseconds > 0 and length == pandas.Timedelta(microseconds=microseconds):
            return int(microseconds)
    raise ValueError(f"read: expected a step of whole microseconds such as '1h', '15min' or '1D', got {step!r}")


def _bins(table: _Table, columns: Columns, length: int) -> tuple[NDArray[np.int64], np.datetime64]:
    """The step of each row, and when step 0 begins."""
    times = table.times(columns.time)
    bins = times // length
    earliest, latest = int(times.argmin()), int(times.argmax())
    num_steps = int(bins[latest] - bins[earliest]) + 1
    if num_steps > MAX_STEPS:
        first, last = times[[earliest, latest]].astype("datetime64[us]").astype("datetime64[s]")
        enough = math.ceil(int(times[latest] - times[earliest]) / 1e6 / (MAX_STEPS - 1))
        raise ValueError(
            f"read: from {first} (row {table.rows[earliest]}) to {last} (row {table.rows[latest]}) of {table.name} are "
            f"{num_steps:,} steps of {columns.step!r}; mend these times or take a longer step, such as '{enough}s'"
        )
    start = bins[earliest] * length
    return bins - bins[earliest], np.datetime64(int(start), "us")


def _places(positions: NDArray[np.float64]) -> NDArray[np.object_]:
    """The name of each row's place: as short as `%g`, or with all digits where that confuses two places."""
    pandas, codes = _pandas(), np.zeros(len(positions), np.int64)
    for coordinate in positions.T:
        own, unique = pandas.factorize(coordinate)
        codes = pandas.factorize(codes * len(unique) + own)[0]
    _, first, codes = np.unique(codes, return_index=True, return_inverse=True)
    for digits in (6, 15, 17):
        names = [" ".join(f"{x:.{digits}g}" for x in place) for place in positions[first].tolist()]
        if len(set(names)) == len(names):
            break
    return np.array(names, dtype=object)[codes]


def _averaged(columns: NDArray[np.float64], first: NDArray[np.bool_], turns: Sequence[float]) -> NDArray[np.float64]:
    """Means over groups of rows, skipping NaN; what stands alone or equals its group keeps its very value.

    Args:
        columns: `(rows, columns)`.
        first: `(rows,)`, where a group begins.
        turns: where the turn of an angle begins, degrees; NaN for a column of no angles. Angles are averaged as unit
            vectors; where these cancel, the first stands.
    """
    if first.all():
        return columns
    starts = np.flatnonzero(first)
    begun = np.nan_to_num(columns[starts])
    apart = columns - np.repeat(begun, np.diff(starts, append=len(columns)), axis=0)
    known = ~np.isnan(apart)
    count = np.add.reduceat(known.astype(np.int64), starts)
    apart = np.where(known, apart, 0.0)
    angles = ~np.isnan(turns)
    mean = np.add.reduceat(apart, starts) / np.maximum(count, 1)
    vectors = np.add.reduceat(known[:, angles] * np.exp(1j * np.radians(apart[:, angles])), starts)
    mean[:, angles] = np.where(np.abs(vectors) < 1e-9, 0.0, np.angle(vectors, deg=True))
    # Rounded, lest what is nearly a whole turn stay one.
    whole = np.round(begun + mean, 9)
    means = np.where(angles & (mean != 0), whole - 360 * np.floor((whole - turns) / 360), begun + mean)
    return np.where(count > 0, means, np.nan)


def _zone(text: str) -> str:
    """The offset from UTC that ends a time, none where it is naive."""
    found = _ZONE.search(text)
    return found[1].replace(":", "").replace("Z", "+00").ljust(5, "0") if found else ""


def _is_number(dtype: Any) -> bool:
    types = _pandas().api.types
    return types.is_numeric_dtype(dtype) and not types.is_complex_dtype(dtype)


def _number(cell: Any) -> float | None:
    """A cell as a number, NaN if it is blank; None if it is none."""
    try:
        return math.nan if isinstance(cell, str) and not cell.strip() else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(cell: Any) -> str:
    """A time or name as text; whole numbers without a decimal point."""
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return cell.isoformat() if hasattr(cell, "isoformat") else str(cell)


def _shown(cell: Any) -> str:
    return _one_line(repr(cell.item() if isinstance(cell, np.generic) else cell), 40)


def _one_line(text: str, length: int) -> str:
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= length else line[: length - 3] + "..."


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise ImportError('s2rm.sensors.tables needs pandas; install it with pip install "s2rm[tables]"') from error
    return pandas
