"""Tables and grids of what is known ahead, read into `KnownAhead`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray

from s2rm.sensors.known_ahead import KnownAhead, region, warn_of_beyond
from s2rm.sensors.reading.codes import warn_of_codes, warn_of_directions
from s2rm.sensors.reading.sources import Cells, open_source
from s2rm.sensors.reading.tallies import Tally
from s2rm.sensors.reports import Reports
from s2rm.sensors.settings import NOTATION, Columns

MOST_CELLS = 60_000_000
"""steps times places times quantities of a table of what is known ahead"""
LEAST_FILLED = 0.1
"""the share of its steps at which a place must be known: fewer are of places that move"""
MOST_LOOKED_AT = 100_000
"""reports whose places are compared with those of what is known ahead"""
ENOUGH = 0.9
"""of the steps of observations: where less of them has what is known ahead, this is warned of"""


def read_known_ahead(source: object, columns: Columns, step: np.timedelta64) -> KnownAhead:
    """What a table or a Dataset of its own says of the quantities that are known ahead.

    Args:
        source: path of a CSV, Parquet, NetCDF or Zarr file, a DataFrame or a Dataset, with the columns of the time and
            of the quantities. With those of the position it is a table of fixed places or a grid, without them it holds
            everywhere.
        columns: those of the observations.
        step: the time step.

    Raises:
        ValueError: what `read_reports` refuses, or none of a quantity.
    """
    written = {name: getattr(columns, name) for name in NOTATION}
    refused: list[ValueError] = []
    for notation in (written, {"missing": columns.missing}):  # it need not be written as the observations are
        try:
            return _own_table(source, columns, notation, step)
        except ValueError as error:
            refused.append(error)
    raise refused[0]


def _own_table(source: object, columns: Columns, written: Mapping[str, Any], step: np.timedelta64) -> KnownAhead:
    """What a table of its own says, written in a notation."""
    plain = Columns(columns.time, columns.position, columns.ahead, globe=columns.globe)
    try:
        found = known_ahead(open_source(source, replace(plain, **written)), columns, step, alone=True)
    except ValueError as error:
        if f"found no column {columns.position[0]!r}" not in str(error):
            raise
        everywhere = _Everywhere(columns.time, columns.position, columns.ahead, globe=columns.globe)
        found = known_ahead(open_source(source, replace(everywhere, **written)), columns, step)
    return found


def expect_known(known: KnownAhead, reports: Reports, to_fit: bool) -> None:
    """Refuse what is known ahead of a region far away, and to fit, of another time; warn where some is outside."""
    some = reports.positions[:: len(reports) // MOST_LOOKED_AT + 1]  # of a store there may be more than memory holds
    places, columns = np.unique(some, axis=0), reports.columns
    (beyond, apart), names = known.beyond(places, bool(columns.globe)), ", ".join(columns.ahead)
    if beyond.any():
        if apart:
            theirs, ours = (region(columns.position, each) for each in (known.positions, places))
            raise ValueError(
                f"read: expected {names} known ahead where the sensors are, {ours}, got it for {theirs}; give that of "
                "this region, or exchange swapped coordinates"
            )
        warn_of_beyond(known, int(beyond.sum()), len(places), columns.position, "read")
    begin = known.offset(reports.start)
    there = ~np.isnan(known.values).all((1, 2))
    covered = there[max(0, begin) : max(0, begin + reports.num_steps)].sum() / reports.num_steps
    if to_fit and covered < ENOUGH:
        message = (
            f"read: {names}, known ahead, is there for {covered:.0%} of the steps of the observations, from "
            f"{known.start.astype('datetime64[s]')}; give it for their time too, since a model learns from it"
        )
        if not covered:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    until = reports.start + (reports.num_steps - 1) * reports.step_length
    if to_fit and known.last < until:  # a fit is scored on its last steps
        last, until = (each.astype("datetime64[s]") for each in (known.last, until))
        raise ValueError(
            f"read: expected {names} known ahead until the last observation, {until}, got the last of {last}; give "
            "more of it, or leave out the observations after it"
        )


class _Everywhere(Columns):
    """Columns of a table without positions."""

    @property
    def keys(self) -> list[str]:
        return [self.time]


def _is_one(cells: Cells, columns: Columns) -> bool:
    """Whether all rows are of one sensor, which has a name."""
    if columns.sensor is None or columns.sensor not in cells.frame or cells.empty(columns.sensor).any():
        return False
    return len(set(cells.texts(columns.sensor))) == 1


def known_ahead(cells: Cells, columns: Columns, step: np.timedelta64, alone: bool = False) -> KnownAhead:
    """What the rows of a table say of the quantities that are known ahead, those without values too; `alone`, a table
    that holds nothing else, with a row for each time and place."""
    quantities, length = cells.numbers(columns.ahead), int(step / np.timedelta64(1, "us"))
    for name, column in zip(columns.ahead, quantities.T, strict=True):
        if np.isnan(column).all():
            raise ValueError(
                f"read: expected {name!r}, known ahead, in {cells.name}, got none; fill it, or leave it out"
            )
        tally = Tally.of(column)
        warn_of_codes(cells.name, name, tally)
        warn_of_directions(cells.name, name, tally, "give its sine and cosine instead, or those of a wind's speed")
    there = np.asarray(~np.isnan(quantities).all(1))
    few, quantities = cells.where(there), quantities[there]
    few.expect_filled(columns.time, few.empty(columns.time), " that holds what is known ahead")
    at = few.times(columns.time) // length
    placed = columns.position[0] in few.frame
    positions = np.round(few.numbers(columns.position), 6) if placed else np.zeros((len(at), len(columns.position)))
    if np.isnan(positions).all():  # rows without a place hold everywhere
        placed, positions = False, np.zeros_like(positions)
    if not placed:
        _expect_one_each(few, columns, quantities)
    for name, column in zip(columns.position, positions.T, strict=True):
        few.expect_filled(name, np.isnan(column), " that holds what is known ahead")
    number, begin = int(np.ptp(at)) + 1, int(at.min())
    places, place = np.unique(positions, axis=0, return_inverse=True)
    if alone:
        _warn_of_several(few, columns, place.ravel(), quantities)
    low, high = np.full((2, number, len(columns.ahead)), np.nan)
    np.fmin.at(low, at - begin, quantities)
    np.fmax.at(high, at - begin, quantities)
    steps = np.unique(np.stack([at, place]), axis=1)[0]
    _, known = np.unique(steps, return_counts=True)
    alike = (known > 1).mean() > 1 / 2 and (low == high)[~np.isnan(low)].all()
    if alike or not placed or (len(places) > 1 and _is_one(few, columns)):
        # The same everywhere, also at sensors that move.
        places, place, steps = np.full_like(places[:1], np.nan), np.zeros_like(place), np.unique(at)
    filled = len(steps) / (len(known) * len(places))
    if filled < LEAST_FILLED or number * len(places) * len(columns.ahead) > MOST_CELLS:
        raise ValueError(
            f"read: expected what is known ahead at fixed places, got {len(places):,} places at {number:,} steps in "
            f"{cells.name}; give it as a grid, or at fewer places"
        )
    sums, counts = np.zeros((2, number, len(places), len(columns.ahead)))
    np.add.at(sums, (at - begin, place), np.nan_to_num(quantities))
    np.add.at(counts, (at - begin, place), ~np.isnan(quantities))
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    start = np.datetime64(begin * length, "us")
    return KnownAhead(start, step, places, _filled(means).astype(np.float32))


def _expect_one_each(few: Cells, columns: Columns, quantities: Float[NDArray, "rows G"]) -> None:
    """Refuse several values of a quantity at one time, which a table without positions cannot have."""
    times, index = np.unique(few.times(columns.time), return_inverse=True)
    low, high = np.full((2, len(times), quantities.shape[1]), np.nan)
    np.fmin.at(low, index, quantities)
    np.fmax.at(high, index, quantities)
    several = np.argwhere(low < high)
    if len(several):
        time, quantity = several[0]
        raise ValueError(
            f"read: expected one value of {columns.ahead[quantity]!r} at a time in {few.name}, which has no column "
            f"{columns.position[0]!r}, got {(index == time).sum()} rows at "
            f"{times[time].astype('datetime64[us]').astype('datetime64[s]')}; name its position "
            f"{' and '.join(map(repr, columns.position))}, as in the observations"
        )


def _warn_of_several(
    few: Cells, columns: Columns, place: Int64[NDArray, " rows"], quantities: Float[NDArray, "rows G"]
) -> None:
    """Warn of several values of a quantity at one time and place, of which the mean is taken."""
    key = np.unique(np.stack([few.times(columns.time), place]), axis=1, return_inverse=True)[1].ravel()
    low, high = np.full((2, int(key.max(initial=-1)) + 1, quantities.shape[1]), np.nan)
    np.fmin.at(low, key, quantities)
    np.fmax.at(high, key, quantities)
    if number := int((low < high).any(1).sum()):
        warnings.warn(
            f"read: {few.name} holds several values of {', '.join(columns.ahead)} at one time and place, {number:,} "
            "times, such as of several runs of a weather model; their mean is taken: keep the latest of each",
            stacklevel=4,
        )


def _filled(values: Float[NDArray, "T P G"]) -> Float[NDArray, "T P G"]:
    """Linear in time between steps that are known."""
    steps = np.arange(len(values))
    for place, quantity in zip(*np.nonzero(np.isnan(values).any(0)), strict=True):
        column = values[:, place, quantity]
        known = ~np.isnan(column)
        if known.any():
            column[:] = np.interp(steps, steps[known], column[known], np.nan, np.nan)
    return values
