"""An xarray Dataset as a long table: one row for each observation, none where there is no observation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import DataArray, Dataset


def pieces(
    dataset: Dataset, columns: Columns, name: str, rows: int, most_bytes: int | None = None
) -> Iterator[DataFrame]:
    """The long table of a Dataset some rows at a time, in the order of `flat`, whose arguments and errors these are."""
    few = _checked(dataset, columns, name, most_bytes)
    dim, size = next(((dim, size) for dim, size in few.sizes.items() if size > 1), (None, 1))
    if dim is None:
        yield few.to_dataframe().reset_index()
        return
    # A dimension without coordinates is numbered over all pieces, not in each of them.
    few = few.assign_coords({one: np.arange(few.sizes[one]) for one in few.dims if one not in few.variables})
    each = max(1, rows * size // int(np.prod([*few.sizes.values()], dtype=object)))
    for begin in range(0, size, each):
        yield few.isel({dim: slice(begin, begin + each)}).to_dataframe().reset_index()


def flat(dataset: Dataset, columns: Columns, name: str, most_bytes: int | None = None) -> DataFrame:
    """The long table of a Dataset: a row for each cell of its values.

    All values lie along the same dimensions; times, positions, sensors and covariates along these or some of them. The
    ragged arrays of the CF conventions (indexed by `instance_dimension`, contiguous by `sample_dimension`) are
    brought to that form first.

    Raises:
        ValueError: other dimensions, which would multiply the observations; an index that points nowhere; or a table
            of more bytes than `most_bytes`.
    """
    return _checked(dataset, columns, name, most_bytes).to_dataframe().reset_index()


def _checked(dataset: Dataset, columns: Columns, name: str, most_bytes: int | None) -> Dataset:
    """The variables that are read, along the same dimensions."""
    for column in columns.position:
        if column in dataset.dims and column not in dataset.variables:
            raise ValueError(
                f"read: expected the coordinates of {column!r} in {name}, got a dimension without any; assign them "
                f"with .assign_coords({column}=...)"
            )
    few = _without_ragged(dataset, columns.named, name)
    few = few[[column for column in columns.named if column in few.variables]]
    along = {column: _long(few, column) for column in columns.named}
    values = along[columns.values[0]]
    for column in columns.values[1:]:
        if set(along[column]) != set(values):
            raise ValueError(
                f"read: expected all values of {name} along the same dimensions, got {columns.values[0]!r} along "
                f"{values} and {column!r} along {along[column]}; read them one by one"
            )
    identified = {dim for key in columns.keys for dim in along[key]}
    for column in columns.named:
        beyond = [dim for dim in along[column] if dim not in values]
        if beyond:
            raise ValueError(
                f"read: expected {column!r} of {name} along the dimensions of {columns.values[0]!r}, {values}, got "
                f"{along[column]}, which would repeat each observation {few.sizes[beyond[0]]} times; give each "
                "observation its own, or name the station of each as CF's instance_dimension does"
            )
    for dim in values:
        if dim not in identified:
            raise ValueError(
                f"read: no time, position or sensor distinguishes the {few.sizes[dim]} entries of {dim!r} in {name}; "
                f"select one with .isel({dim}=0)"
            )
    rows = int(np.prod([few.sizes[dim] for dim in values], dtype=object))
    size = rows * sum(max(8, few[column].dtype.itemsize) for column in columns.named if column in few.variables)
    if most_bytes is not None and size > most_bytes:
        raise ValueError(
            f"read: {name} unpacks to {rows:,} rows, {size / 1e9:,.1f} GB, and {most_bytes / 1e9:,.1f} GB are read of "
            "a file of its size; take a part of it, or open it with xarray and give the Dataset"
        )
    return few


def _long(dataset: Dataset, column: str) -> tuple[str, ...]:
    """The dimensions of a variable that have more than one entry."""
    dims = dataset.variables[column].dims if column in dataset.variables else (column,)
    return tuple(str(dim) for dim in dims if dataset.sizes[dim] > 1)


def _without_ragged(dataset: Dataset, named: list[str], name: str) -> Dataset:
    """Ragged arrays of the CF conventions with what belongs to a station, trajectory or profile at each observation."""
    counts = _marked(dataset, "sample_dimension")
    indices = _marked(dataset, "instance_dimension")
    if not counts and not indices:
        return dataset
    few = dataset[list(dict.fromkeys([*(n for n in named if n in dataset.variables), *counts, *indices]))]
    for unnamed in few.dims:
        if unnamed in named and unnamed not in few.variables:
            few = few.assign_coords({unnamed: np.arange(few.sizes[unnamed])})
    # Profiles are contiguous, and the station of each profile is indexed: counts come first.
    for column, samples in counts.items():
        (dim,), size = few[column].dims, dataset.sizes.get(samples, 0)
        numbers = _whole(few[column], name, size)
        if numbers.sum() != size:
            raise ValueError(
                f"read: expected the counts in {column!r} of {name} to add up to the {size} entries of {samples!r}, "
                f"got {numbers.sum()}; write the file again"
            )
        few = _spread(few, str(dim), samples, np.repeat(np.arange(len(numbers)), numbers))
    for column, station in indices.items():
        if station in few.dims and few[column].dims != (station,):
            numbers = _whole(few[column], name, few.sizes[station] - 1)
            few = _spread(few, station, str(few[column].dims[0]), numbers)
    return few


def _marked(dataset: Dataset, attribute: str) -> dict[str, str]:
    """The variables of one dimension that have an attribute, and the dimension that it names."""
    return {
        str(column): str(variable.attrs[attribute])
        for column, variable in dataset.variables.items()
        if attribute in variable.attrs and variable.ndim == 1
    }


def _whole(variable: DataArray, name: str, most: int) -> NDArray[np.int64]:
    """Counts or indices, which are whole numbers from 0 to `most`."""
    numbers = np.asarray(variable)
    if numbers.dtype.kind not in "iuf":
        wrong = np.ones(len(numbers), dtype=bool)
    else:
        wrong = ~((numbers >= 0) & (numbers <= most) & (numbers == np.floor(numbers)))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"read: expected whole numbers from 0 to {most} in {str(variable.name)!r} of {name}, got {numbers[row]} in "
            f"entry {row + 1}; write the file again"
        )
    return numbers.astype(np.int64)


def _spread(dataset: Dataset, dim: str, samples: str, index: NDArray[np.int64]) -> Dataset:
    """What lies along `dim` along `samples`, each entry where the index says."""
    from xarray import DataArray

    return dataset.isel({dim: DataArray(index, dims=samples)})
