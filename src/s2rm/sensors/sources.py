"""What a table is read from: a file of any known kind, a pandas DataFrame or an xarray Dataset."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2rm.sensors.cells import Cells, one_line
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

ENDINGS = (".csv", ".csv.gz", ".parquet", ".nc", ".zarr")


def open_source(source: object, columns: Columns, name: str = "the table") -> Cells:
    """The columns of a file, DataFrame or Dataset that are read.

    Raises:
        ValueError: no such source, one that cannot be read, or one without these columns.
        ImportError: a package that reads this kind of file is missing.
    """
    if isinstance(source, str | os.PathLike):
        with _opened(Path(source), columns) as opened:
            return open_source(opened, columns, Path(source).name)
    import pandas as pd

    named = [*_keys(columns), *columns.values, *columns.covariates]
    if hasattr(source, "data_vars"):
        source = _flat(source, columns, name)  # type: ignore[arg-type]
    if not isinstance(source, pd.DataFrame):
        raise ValueError(f"read: expected a path, DataFrame or Dataset, got {type(source).__name__}; convert it")
    levels = [level for level in source.index.names if level in named and level not in source.columns]
    frame = source.reset_index(levels) if levels else source
    _expect_columns(named, list(frame.columns), name)
    if not len(frame):
        raise ValueError(f"read: {name} holds no rows; give a table with observations")
    return Cells(frame[named], name, np.arange(1, len(frame) + 1))


@contextmanager
def _opened(path: Path, columns: Columns) -> Iterator[DataFrame | Dataset]:
    """The DataFrame or Dataset in a file, by its ending."""
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
        yield opened


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Whatever a reader finds wrong with a file, in one line."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f'read: {name} needs a package ({error}); try pip install ".[tables]"') from error
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"read: cannot read {name} ({reason}); is the file whole, and what its name says?") from error


def _flat(dataset: Dataset, columns: Columns, name: str) -> DataFrame:
    """The long table of a Dataset: a row for each cell."""
    named = [*_keys(columns), *columns.values, *columns.covariates]
    _expect_columns(named, [*dataset.variables, *(set(dataset.dims) - set(dataset.variables))], name)
    few = dataset[[column for column in named if column in dataset.variables]]
    identified = {dim for key in _keys(columns) for dim in dataset[key].dims}
    for dim, size in few.sizes.items():
        if dim not in identified and size > 1:
            raise ValueError(
                f"read: no time, position or sensor distinguishes the {size} entries of {dim!r} in {name}; "
                f"select one with .isel({dim}=0)"
            )
    with _one_line_errors(name):
        return few.to_dataframe().reset_index()


def _keys(columns: Columns) -> list[str]:
    """The columns that no row may leave empty."""
    return [columns.time, *([columns.sensor] if columns.sensor else []), *columns.position]


def _expect_columns(named: Sequence[str], found: list[object], name: str) -> None:
    """Refuse columns that are missing or doubled."""
    for column in named:
        if column not in found:
            like = {str(other).lower(): str(other) for other in found}
            near = [like[match] for match in get_close_matches(column.lower(), like, 1)]
            remedy = f"did you mean {near[0]!r}?" if near else f"it has {one_line(', '.join(map(repr, found)), 300)}"
            raise ValueError(f"read: found no column {column!r} in {name}; {remedy}")
        if found.count(column) > 1:
            raise ValueError(f"read: {found.count(column)} columns of {name} are named {column!r}; rename all but one")
