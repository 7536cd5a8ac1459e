"""A store: a table of observations as memory-mapped arrays, from which only what is needed is read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from s2rm.files import read_json
from s2rm.records import from_plain
from s2rm.sensors.marginals import with_found
from s2rm.sensors.reports import ROWS, Reports
from s2rm.sensors.settings import NOTATION, RANGES, Columns
from s2rm.sensors.times import step_microseconds

STORE, FORMAT = "store.json", 1
DTYPES: dict[str, DTypeLike] = dict(zip(ROWS, ("<i8", "<i8", "<f8", "<f4", "<f4"), strict=True))


@dataclass(frozen=True)
class Described:
    """What `store.json` says of a store."""

    format: int
    arrays: str
    """the folder of the arrays, in that of the store; each is a `.npy` file"""
    columns: Columns
    start: str
    num_steps: int
    sensors: tuple[str, ...]
    rows: int
    count: tuple[int, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    """of each value how many there are, the least and the largest"""


def is_store(source: object) -> bool:
    """Whether this is the path of a store."""
    return isinstance(source, str | Path) and (Path(source) / STORE).is_file()


def described(folder: Path) -> Described:
    """What a store says of itself.

    Raises:
        ValueError: it is of another version, or was not written by `pack`.
    """
    content = read_json(folder / STORE)
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(
            f"read: expected a store of format {FORMAT} in {folder}, got {found!r}; pack the table again, or take the "
            "version of s2rm that packed it"
        )
    try:
        return from_plain(Described, content)
    except ValueError as error:
        raise ValueError(
            f"read: {folder / STORE} was not written by s2rm pack ({error}); pack the table again"
        ) from error


def read_store(folder: str | Path, columns: Columns | None, to_fit: bool) -> Reports:
    """The observations in a store, with memory-mapped arrays.

    Args:
        folder: a folder that `pack` wrote.
        columns: the expected columns; those of the store if not given.
        to_fit: refuse tables that no model can be fitted to.

    Raises:
        ValueError: another version, a truncated store, other columns, or a table that no model can be fitted to.
    """
    folder = Path(folder)
    about = described(folder)
    if columns is not None:
        asked = replace(columns, globe=columns.on_the_globe)
        for name in (
            field.name for field in fields(Columns) if field.name not in (*NOTATION, *RANGES, "ahead", "flow")
        ):
            own, got = getattr(about.columns, name), getattr(asked, name)
            same = step_microseconds(own) == step_microseconds(got) if name == "step" else own == got
            if not same:
                raise ValueError(
                    f"read: {folder} was packed with {name} {own!r}, got {got!r}; name the same, or pack it again"
                )
        if not {*columns.missing} <= {*about.columns.missing}:
            raise ValueError(
                f"read: {folder} was packed with missing {about.columns.missing!r}, got {columns.missing!r}; codes are "
                "taken out when a table is packed, so pack it again with --missing"
            )
        # The kinds of values are not written into the arrays.
        columns = replace(about.columns, **{name: getattr(columns, name) for name in RANGES})
    else:
        columns = about.columns
    widths = {"positions": columns.position, "values": columns.values, "covariates": columns.covariates}
    rows = {name: _opened(folder, about, name, [len(widths[name])] if name in widths else []) for name in ROWS}
    for name, number in (("step", about.num_steps), ("sensor", len(about.sensors))):
        if not 0 <= rows[name].min(initial=0) <= rows[name].max(initial=0) < number:
            raise ValueError(
                f"read: {folder} is changed, a report has a {name} that is not there; pack the table again"
            )
    steps = about.num_steps
    if to_fit:  # the silent end of a table counts where it is forecast, not where it is fitted
        steps = int(rows["step"][-1]) + 1
        check_to_fit(folder.name, columns, about.sensors, steps, about.low, about.high)
    columns, found = with_found(columns, rows["values"]) if to_fit else (columns, ())
    return Reports(
        columns, np.datetime64(about.start), steps, about.sensors,
        step=rows["step"], sensor=rows["sensor"], positions=rows["positions"],
        values=rows["values"], covariates=rows["covariates"], found=found,
    )  # fmt: skip


def check_notation(folder: Path, columns: Columns) -> None:
    """Refuse signs and formats other than those with which a store was packed: nothing is left to read with them."""
    own = described(folder).columns
    for name in NOTATION[:4]:
        if (got := getattr(columns, name)) not in (None, kept := getattr(own, name)):
            raise ValueError(
                f"fit: {folder} was packed with {name} {kept!r}, got {got!r}; leave it out, or pack the table again "
                f"with --{name.replace('_', '-')}"
            )


def _opened(folder: Path, about: Described, name: str, width: list[int]) -> NDArray[Any]:
    path, shape = folder / about.arrays / f"{name}.npy", (about.rows, *width)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.shape != shape or array.dtype != np.dtype(DTYPES[name]):
            raise ValueError(f"{array.dtype} of shape {array.shape}")
        return array
    except FileNotFoundError:
        found = "no file"
    except ValueError as error:  # shorter than its own header says
        found = str(error)
    raise ValueError(
        f"read: {folder} is cut short or changed, expected {np.dtype(DTYPES[name])} of shape {shape} in {path.name}, "
        f"got {found}; copy all of it, or pack the table again"
    )


def check_to_fit(name: str, columns: Columns, sensors: tuple[str, ...], num_steps: int, low: Any, high: Any) -> None:
    """Refuse a table that no model can be fitted to: of one sensor or one step, or with a value that is empty, the same
    everywhere, or too large for its differences; `low` and `high` are those of each value."""
    if len(sensors) < 2:
        raise ValueError(f"read: expected at least 2 sensors in {name}, got only {sensors[0]!r}; add another")
    if num_steps < 2:
        raise ValueError(f"read: all of {name} is in one step of {columns.step!r}; take a shorter step")
    for value, least, most in zip(columns.values, low, high, strict=True):
        if least is None:
            raise ValueError(f"read: {value!r} is empty in all rows of {name}; leave it out of the values")
        check_range(name, value, least, most)


def check_range(name: str, value: str, low: float, high: float) -> None:
    """Refuse a value that is the same everywhere, or whose differences single precision does not tell apart."""
    if low == high:
        raise ValueError(f"read: {value!r} is {low:g} in all of {name}; leave it out")
    if np.spacing(np.float32(max(-low, high))) > 0.01 * (high - low):
        raise ValueError(
            f"read: {value!r} of {name} lies between {low:.10g} and {high:.10g}, which single precision does not tell "
            "apart; subtract a constant from it"
        )
