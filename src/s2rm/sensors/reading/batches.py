"""The cells of a source some rows at a time, for tables that do not fit into memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s2rm.safety import expect_netcdf, expect_parquet, expect_zarr, most_bytes
from s2rm.sensors.reading.datasets import pieces
from s2rm.sensors.reading.sources import Cells, ending_of, one_line_errors, open_source
from s2rm.sensors.reading.texts import TEXTS, read_text_in_batches
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_ROWS = 100_000
"""rows of a source that are held in memory at once"""
Frames = Iterator[tuple["DataFrame", Columns]]


def batches(source: object, columns: Columns) -> Iterator[Cells]:
    """The cells of what `read_reports` reads, at most `MOST_ROWS` rows of a file at a time.

    How texts are written is found in the first rows, and expected of all later ones.

    Raises:
        ValueError: as of `read_reports`; text that is not UTF-8 where no encoding is named.
    """
    if not isinstance(source, str | os.PathLike):
        yield open_source(source, columns)
        return
    path, begun = Path(source), 0
    ending = ending_of(path)
    frames = _of_parquet if ending == ".parquet" else read_text_in_batches if ending in TEXTS else _of_dataset
    made = frames(path, columns, MOST_ROWS)
    while True:
        with one_line_errors(path.name):
            frame, columns = next(made, (None, columns))
        if frame is None:
            return
        cells = open_source(frame, columns, name=path.name)
        columns = cells.columns
        yield replace(cells, rows=cells.rows + begun)
        begun += len(frame)


def _of_parquet(path: Path, columns: Columns, rows: int) -> Frames:
    from pyarrow import Table
    from pyarrow.dataset import dataset

    expect_parquet(path)
    opened = dataset(path, format="parquet", partitioning="hive")
    wanted, begun = [name for name in opened.schema.names if name in columns.named], False
    for batch in opened.to_batches(columns=wanted or None, batch_size=rows, batch_readahead=1, fragment_readahead=1):
        batch.validate(full=True)
        if len(batch):
            begun = True
            # Each text once, however often it is there.
            yield Table.from_batches([batch]).to_pandas(integer_object_nulls=True, strings_to_categorical=True), columns
    if not begun:
        yield opened.schema.empty_table().to_pandas(), columns


def _of_dataset(path: Path, columns: Columns, rows: int) -> Frames:
    import xarray as xr

    with ExitStack() as stack:
        if path.name.lower().endswith(".zarr"):
            expect_zarr(path)
            opened = xr.open_dataset(path, engine="zarr", consolidated=False)
        else:
            expect_netcdf(path)
            opened = xr.open_dataset(stack.enter_context(path.open("rb")))
        few = pieces(stack.enter_context(opened), columns, path.name, rows, most_bytes(path))
        yield from ((frame, columns) for frame in few)
