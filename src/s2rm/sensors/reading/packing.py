"""Tables of any size packed into a store: read in batches, sorted in runs, and merged step by step."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from s2rm.extras import require
from s2rm.files import write_json
from s2rm.folders import locked
from s2rm.names import one_line
from s2rm.records import to_plain
from s2rm.sensors.mapped import Moments, moments
from s2rm.sensors.marginals import with_found
from s2rm.sensors.reading.batches import batches
from s2rm.sensors.reading.binning import (
    MAX_STEPS,
    Spacing,
    at_several_places,
    averaged,
    of_one_turn,
    place_names,
    silent_times,
)
from s2rm.sensors.reading.codes import ranges, warn_of_units
from s2rm.sensors.reading.sources import Cells
from s2rm.sensors.reading.store import DTYPES, FORMAT, STORE, Described, read_store
from s2rm.sensors.reading.tables import check_counts, full_turns, measured, positions_of, warn_of_numbers
from s2rm.sensors.reading.tallies import Tally
from s2rm.sensors.reports import ROWS, Reports
from s2rm.sensors.settings import Columns
from s2rm.sensors.telling import each_once
from s2rm.sensors.times import step_microseconds

RUN_BYTES = 1 << 26
"""of the rows that are sorted in memory, and of those that are merged at once"""
ELSEWHERE = (
    "is at several places",
    "their mean is taken, at a place between them; where they are different sensors, or depths, give them different "
    "names",
)
DIFFERENT = (
    "has different values",
    "their mean is taken; where these are different quantities or depths, give them columns or names of their own; "
    "where clocks were put back, give times in UTC",
)
"""what two rows of one sensor can be, and what to do about it"""
STAGED = "rows-"
"""how the folders of arrays begin, in that of a store"""


def pack(tables: Sequence[object], columns: Columns, store: str | Path) -> Reports:
    """Pack tables that together may be larger than memory into a store, which `read_reports` opens like a table.

    The store contains what `read_reports` would return for all rows of the tables together. Memory holds about 100,000
    rows of a table and about 64 MiB of rows being sorted and merged; while merging, the disk holds the rows a second
    time. An existing store is replaced when the new one is complete.

    Args:
        tables: anything that `read_reports` reads, each with all columns; files are read in batches of rows.
        columns: the meaning of the columns.
        store: a new folder, or that of an earlier store.

    Returns:
        The observations in the store.

    Raises:
        ValueError: a folder with other content; tables without observations or with other columns; or what
            `read_reports` refuses in any table. An earlier store is kept.
        OSError: the disk is full. An earlier store is kept.
        ImportError: the extra `tables` is not installed.
    """
    require("tables")
    folder = Path(store)
    new = not folder.exists()
    _check_folder(folder)
    columns = replace(columns, globe=columns.on_the_globe)
    if columns.ahead:
        raise ValueError(
            f"pack: expected no columns that are known ahead, got {', '.join(columns.ahead)}; a store holds what was "
            "observed, give them to the fit and the forecast as a table of their own"
        )
    with locked(folder, "pack"):
        for left in folder.glob(f"{STAGED}*"):
            if not _is_used(folder, left):
                shutil.rmtree(left)
        staged = Path(mkdtemp(prefix=STAGED, dir=folder))
        try:
            staged.chmod(folder.stat().st_mode)
            about = _packed(tables, columns, staged)
            write_json(folder / STORE, to_plain(about))
        except BaseException as error:
            shutil.rmtree(staged)
            if new:
                folder.rmdir()
            if isinstance(error, OSError) and error.errno and error.filename is None:  # of writing: it names no file
                said = f"{error.strerror} while packing, so that nothing is kept"
                raise OSError(error.errno, said, str(folder)) from error
            raise
        for left in folder.glob(f"{STAGED}*"):
            if left != staged:
                shutil.rmtree(left)
    stored = read_store(folder, None, False)
    columns, found = with_found(stored.columns, stored.values)
    return replace(stored, columns=columns, found=found)


def _check_folder(folder: Path) -> None:
    if not folder.exists() or (folder / STORE).is_file():
        return
    # What a first packing left that was killed is no obstacle.
    if not folder.is_dir() or any(not left.name.startswith((STAGED, ".")) for left in folder.iterdir()):
        raise ValueError(f"pack: {folder} exists already and is not a store; choose another --out")


def _is_used(folder: Path, arrays: Path) -> bool:
    """Whether a store that is whole has its arrays there, whatever its version."""
    return (folder / STORE).is_file() and f'"{arrays.name}"' in (folder / STORE).read_text(encoding="utf-8")


class _Seen:
    """What is known of all rows that were read: sensors, in the order in which they came, and ranges."""

    def __init__(self, columns: Columns):
        self.columns, self.length = columns, step_microseconds(columns.step)
        width = len(columns.position) + len(columns.values) + len(columns.covariates)
        self.dtype = np.dtype([("time", "<i8"), ("sensor", "<i8"), ("numbers", "<f8", (width,))])
        self.sensors: dict[object, int] = {}
        self.places: list[NDArray[np.float64]] = []
        self.first = self.last = (0, "")
        """the earliest and the latest time, and their rows, in words"""
        self.silent, self.rows = -(2**62), 0
        self.west, self.east = np.inf, -np.inf
        self.tallies = [Tally.of(np.empty(0))] * width

    def codes(self, positions: NDArray[np.float64], names: NDArray[np.object_]) -> NDArray[np.int64]:
        """The number of the sensor of each row, by its name or else by its place."""
        if self.columns.sensor is not None:
            import pandas as pd

            index, named = pd.factorize(names)
            return np.array([self.sensors.setdefault(name, len(self.sensors)) for name in named], np.int64)[index]
        turned = of_one_turn(positions) if self.columns.globe else positions
        unique, first, index = np.unique(turned, axis=0, return_index=True, return_inverse=True)
        order, numbers = np.argsort(first), np.empty(len(unique), np.int64)
        for row in order.tolist():  # of one place, the first way to write it stays
            number = self.sensors.setdefault(tuple(unique[row].tolist()), len(self.sensors))
            if number == len(self.places):
                self.places.append(positions[first[row]])
            numbers[row] = number
        return numbers[index.ravel()]

    @property
    def names(self) -> NDArray[np.object_]:
        """The names of the sensors, in the order of their numbers."""
        if self.columns.sensor is None:
            return place_names(np.array(self.places), bool(self.columns.globe))
        return np.array([*self.sensors], dtype=object)

    def take(self, cells: Cells) -> NDArray | None:
        """The rows that hold any value, with time, sensor and numbers; None where no row does."""
        columns = cells.columns
        values, there = measured(cells, columns, False)
        if not there.all():
            silent = silent_times(cells.where(~there), columns.time)
            self.silent = max(self.silent, int(silent.max(initial=self.silent)))
        few = cells.where(there)
        if not len(few.rows):
            return None
        positions, names = positions_of(few, columns)
        covariates = few.numbers(columns.covariates)
        blocks = np.concatenate([positions, values, covariates], 1)
        self.tallies = [tally + Tally.of(column) for tally, column in zip(self.tallies, blocks.T, strict=True)]
        rows = np.empty(len(blocks), self.dtype)
        rows["time"], rows["sensor"], rows["numbers"] = few.times(columns.time), self.codes(positions, names), blocks
        ends = [(int(rows["time"][at]), f"row {few.rows[at]} of {few.name}")
                for at in (rows["time"].argmin(), rows["time"].argmax())]  # fmt: skip
        self.first = min(self.first, ends[0]) if self.rows else ends[0]
        self.last = max(self.last, ends[1]) if self.rows else ends[1]
        self.rows += len(rows)
        self.west, self.east = min(self.west, positions[:, 0].min()), max(self.east, positions[:, 0].max())
        return rows


def _packed(tables: Sequence[object], columns: Columns, folder: Path) -> Described:
    seen, warned, runs, waiting = _Seen(columns), set[str](), list[Path](), list[NDArray]()
    asked = columns

    def sort() -> None:
        """Write what waits as a run, in order of its steps, and of its coming within them."""
        rows = np.concatenate(waiting)
        runs.append(folder / f"run-{len(runs)}")
        runs[-1].write_bytes(rows[np.argsort(rows["time"] // seen.length, kind="stable")].tobytes())
        waiting.clear()

    for number, table in enumerate(tables):
        zoned: bool | None = None
        for cells in batches(table, asked):
            now = cells.zoned(columns.time)
            if zoned is not None and now is not None and zoned != now:
                expected = f"times {'with' if zoned else 'without'} an offset from UTC, as in the first rows"
                raise ValueError(
                    f"pack: expected {expected} of {cells.name}, got others from row {cells.rows[0]} on; write all of "
                    "them in UTC"
                )
            zoned = now if zoned is None else zoned
            if cells.rows[0] == 1 and cells.columns.notation != asked.notation:
                print(one_line(f"{cells.name}: read with {cells.columns.notation}"), file=sys.stderr, flush=True)
            if not number:  # as the first table is written, later ones may be
                columns = replace(asked, decimal=cells.columns.decimal, time_format=cells.columns.time_format)
            with each_once(warned):
                rows = seen.take(cells)
            if rows is not None:
                waiting.append(rows)
            if sum(part.nbytes for part in waiting) >= RUN_BYTES:
                sort()
    if not seen.rows:
        raise ValueError("pack: no row of the tables holds both a time and a value; give observations")
    if waiting:
        sort()
    warn_of_numbers(cells.name if len(tables) == 1 else "the tables", columns, seen.tallies)
    begin, end = seen.first[0] // seen.length, max(seen.last[0], seen.silent)
    num_steps = end // seen.length - begin + 1
    if num_steps > MAX_STEPS:
        raise ValueError(
            f"pack: from {seen.first[1]} to {seen.last[1]} are {num_steps:,} steps of {columns.step!r}, and a store "
            f"has at most {MAX_STEPS:,}; correct these times or take a longer step"
        )
    names, found = seen.names, list[Moments]()
    spacing = Spacing(seen.length, len(names))
    of_sensors = np.stack([np.full((len(columns.values), len(names)), end) for end in (np.inf, -np.inf)], 1)
    widths = (), (), *([len(each)] for each in (columns.position, columns.values, columns.covariates))
    with ExitStack() as stack:
        files = {name: stack.enter_context(open(folder / f"{name}.npy", "wb")) for name in ROWS}
        writers = [_Growing(files[name], DTYPES[name], width) for name, width in zip(ROWS, widths, strict=True)]
        for made in _merged([np.memmap(path, seen.dtype, "r") for path in runs], seen, begin, names, spacing):
            for writer, array in zip(writers, made, strict=True):
                writer.append(array)
            found.append(moments(made[3]))
            for own, column in zip(of_sensors, made[3].T, strict=True):
                least, most = ranges(column, made[1], len(names))
                own[:] = np.minimum(own[0], least), np.maximum(own[1], most)
        for writer in writers:
            writer.finish()
    for path in runs:
        path.unlink()
    spacing.warn("the tables", columns)
    for name, circular, own in zip(columns.values, columns.is_circular, of_sensors, strict=True):
        if not circular:
            warn_of_units("the tables", name, own[0], own[1], np.sort(names))
    low, high = (
        tuple(None if np.isnan(x) else x for x in end.reduce([getattr(part, name) for part in found], 0).tolist())
        for end, name in ((np.fmin, "low"), (np.fmax, "high"))
    )
    return Described(
        FORMAT, folder.name, columns, str(np.datetime64(begin * seen.length, "us")), num_steps,
        tuple(sorted(names.tolist())), writers[0].rows, tuple(np.sum([part.known for part in found], 0).tolist()),
        low, high,
    )  # fmt: skip


def _merged(
    runs: Sequence[NDArray], seen: _Seen, begin: int, names: NDArray[np.object_], spacing: Spacing
) -> Iterator[tuple[NDArray, ...]]:
    """The binned rows of the runs, some steps at a time; what `Reports` holds of them. `begin` is the first step."""
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(names)] = np.arange(len(names))
    at, each, warned = [0] * len(runs), max(1, RUN_BYTES // seen.dtype.itemsize // len(runs)), set[str]()

    def step_of(run: NDArray, row: int) -> int:
        return int(run["time"][row]) // seen.length

    while any(row < len(run) for run, row in zip(runs, at, strict=True)):
        open_ = [(run, row) for run, row in zip(runs, at, strict=True) if row < len(run)]
        later = [step_of(run, row + each) for run, row in open_ if row + each < len(run)]
        # At least one step, whole, whatever it has.
        end = max(min(later, default=2**62), min(step_of(run, row) for run, row in open_) + 1)
        until = [bisect_left(range(len(run)), end, row, key=lambda at, run=run: step_of(run, at))  # type: ignore[misc]
                 for run, row in zip(runs, at, strict=True)]  # fmt: skip
        rows = np.concatenate([run[first:last] for run, first, last in zip(runs, at, until, strict=True)])
        at = until
        step, sensor = rows["time"] // seen.length - begin, rank[rows["sensor"]]
        spacing.add(rows["time"], sensor)
        key = step * len(names) + sensor
        order = np.argsort(key, kind="stable")
        first = np.diff(key[order], prepend=-1) > 0
        columns, numbers, kept = seen.columns, rows["numbers"], order[first]
        ends = np.cumsum([len(columns.position), len(columns.values)])
        place, value, _ = np.split(numbers, ends, 1)
        if columns.sensor is None:
            place = place[:, :0]  # sensors are places
        for block, what, remedy in ((place, *ELSEWHERE), (value, *DIFFERENT)):
            if what not in warned:
                odd = at_several_places(key, order, block, lambda some, rows=rows: rows["time"][some])  # type: ignore[misc]
                if len(odd):
                    warned.add(what)
                    name, when = names[rows["sensor"][odd[0]]], rows["time"][odd[0]].astype("datetime64[us]")
                    warnings.warn(
                        f"pack: sensor {name!r} {what} at one time, first at {when.astype('datetime64[s]')}; {remedy}",
                        stacklevel=5,
                    )
        turns = full_turns(columns, seen.west, seen.east)
        positions, values, covariates = np.split(averaged(numbers[order], first, turns), ends, 1)
        check_counts("the tables", columns, values)
        yield step[kept], sensor[kept], positions, values.astype(np.float32), covariates.astype(np.float32)


class _Growing:
    """A `.npy` file to which rows are appended; its header, which says how many there are, is of one length."""

    def __init__(self, file: BinaryIO, dtype: DTypeLike, width: Sequence[int]):
        self.file, self.dtype, self.width, self.rows = file, dtype, width, 0
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.rows, *self.width)
        npy.write_array_header_1_0(self.file, {"descr": self.dtype, "fortran_order": False, "shape": shape})

    def append(self, rows: NDArray) -> None:
        self.file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.rows += len(rows)

    def finish(self) -> None:
        self.file.seek(0)
        self._write_header()
        self.file.flush()
        os.fsync(self.file.fileno())
