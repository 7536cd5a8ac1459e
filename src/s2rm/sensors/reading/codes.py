"""Numbers that say "missing", such as -999, and others far from all that was measured."""

from __future__ import annotations

import math
import re
import warnings

import numpy as np
from numpy.typing import NDArray

from s2rm.sensors.reading.tallies import Tally

OTHERS = {
    "32767", "32768", "65535", "2.14748e+09", "8888", "88888", "1e+20", "1e+30", "1e+34", "1e+35", "1e+36",
    "9.96921e+36",
}  # fmt: skip
"""codes that are not all nines"""
FEWEST = 3
"""values beside the codes from which it can be said what is far"""
STRAYS, APART = 0.01, 5.0
"""the share of the values up to which those beyond a gap are strays, and how many times as wide as the range of all
others the gap is"""
DIRECTION = re.compile(r"(?:^|[\W_])(?:w|wind)?(?:dir|direction|drct|dd|wd|heading|course|bearing)(?:$|[\W_])", re.I)
"""names of directions"""
LEAST = 50
"""values of which some can be strays"""


def warn_of_codes(table: str, name: str, column: Tally, circular: bool = False) -> bool:
    """Whether the smallest or largest values are codes of missing ones, further from the rest than it is wide, or
    values that are repeated far from all others: warned.

    Codes of three digits or more, and repeated negative ones where nothing else is negative, need be further only than
    the rest's values are from each other; where nothing else is negative, one of two digits is far enough, and any
    among directions.
    """
    codes, rest = _apart(column)
    if not codes or rest.total < FEWEST:
        return not circular and _warn_of_repeated(table, name, column)
    warned = False
    low, high = rest.values[0], rest.values[-1]
    widest = float(np.diff(rest.values).max(initial=0.0))
    for code in codes:
        count = int(column.counts[column.values == code][0])
        far = widest if abs(code) >= 100 or (code < 0 <= low and count > 1) else high - low
        if code < 0 <= low and (circular or code <= -99):
            far = 0.0
        if max(low - code, code - high) > far:
            warnings.warn(
                f"read: {name!r} of {table} is {code:g} in {count} rows, far from the others, {low:g} to {high:g}; "
                f"if that means missing, name it as such (--missing {code:g})",
                stacklevel=4,
            )
            warned = True
    return warned or (not circular and _warn_of_repeated(table, name, column))


def _warn_of_repeated(table: str, name: str, column: Tally) -> bool:
    """Whether the smallest or largest value is there several times, and far from all others: warned."""
    if column.total < LEAST or len(column.values) < FEWEST:
        return False
    for place, rest in ((0, column.values[1:]), (-1, column.values[:-1])):
        end, count = column.values[place], int(column.counts[place])
        away = min(abs(rest[0] - end), abs(end - rest[-1]))
        if FEWEST <= count < column.total - count and away > APART * np.ptp(rest) > 0:
            warnings.warn(
                f"read: {name!r} of {table} is {end:g} in {count} rows, far from the others, {rest[0]:g} to "
                f"{rest[-1]:g}; if that means missing, name it as such (--missing {end:g})",
                stacklevel=5,
            )
            return True
    return False


def warn_of_strays(table: str, name: str, column: Tally) -> None:
    """Warn of a few values that a wide gap parts from all others."""
    number, values, gaps = column.total, column.values, np.diff(column.values)
    if number < LEAST:
        return
    inner = math.ceil(STRAYS * number)
    if np.ptp(values) <= (APART + 1) * (values[column.at(number - 1 - inner)] - values[column.at(inner)]):
        return
    most = max(1, int(STRAYS * number))
    # The gaps below the smallest of the others, and those above the largest.
    for low, ends in ((True, slice(column.at(most))), (False, slice(column.at(number - 1 - most), None))):
        if not len(gaps[ends]):
            continue
        place = gaps[ends].argmax() + (ends.start or 0) + 1
        rest, some = (values[place:], column.counts[:place]) if low else (values[:place], column.counts[place:])
        if gaps[place - 1] > APART * np.ptp(rest) > 0:
            count, odd = int(some.sum()), values[0 if low else -1]
            warnings.warn(
                f"read: {count} value{'s' * (count > 1)} of {name!r} of {table}, such as {odd:g}, "
                f"{'are' if count > 1 else 'is'} far from the others, {rest[0]:g} to {rest[-1]:g}; correct them, or "
                f"name what means missing (--missing {odd:g})",
                stacklevel=4,
            )


def ranges(
    values: NDArray[np.floating], sensor: NDArray[np.int64], number: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The smallest and the largest value of each of a number of sensors; infinities where one has none.

    Args:
        values, sensor: of each row, and the index of its sensor.
        number: of sensors.
    """
    known = ~np.isnan(values)
    low, high = np.full(number, np.inf), np.full(number, -np.inf)
    np.minimum.at(low, sensor[known], values[known])
    np.maximum.at(high, sensor[known], values[known])
    return low, high


def warn_of_units(
    table: str, name: str, low: NDArray[np.float64], high: NDArray[np.float64], sensors: NDArray[np.object_]
) -> None:
    """Warn of sensors all of whose values a wide gap parts from those of the others, as where units are mixed up.

    Args:
        table, name: of the column, for the message.
        low, high: the ranges of the sensors.
        sensors: their names.
    """
    there = np.flatnonzero(low <= high)
    order = there[np.argsort(low[there], kind="stable")]
    if len(order) < FEWEST:
        return
    gaps = low[order][1:] - np.maximum.accumulate(high[order])[:-1]
    place = int(gaps.argmax()) + 1
    below, above = order[:place], order[place:]
    odd, rest = (below, above) if len(below) < len(above) else (above, below)
    width = high[rest].max() - low[rest].min()
    if len(odd) < len(rest) and gaps[place - 1] > APART * width > 0:
        where = f"{len(odd)} of {len(order)} sensors, such as {sensors[odd[0]]!r}"
        warnings.warn(
            f"read: {name!r} of {table} is {low[odd].min():g} to {high[odd].max():g} at {where}, far from the others, "
            f"{low[rest].min():g} to {high[rest].max():g}; bring all to one unit, or leave these out",
            stacklevel=4,
        )


def warn_of_radians(table: str, name: str, column: Tally) -> None:
    """Warn of directions that lie within a turn in radians, and are not whole numbers."""
    known = column.values
    if column.total < LEAST or np.abs(known).max() > 2 * math.pi:
        return
    if np.ptp(known) > math.pi and (known % 1 != 0).any():
        warnings.warn(
            f"read: the directions {name!r} of {table} are all within {known.min():.3g} to {known.max():.3g}; if these "
            "are radians, convert them to degrees",
            stacklevel=4,
        )


def warn_of_directions(table: str, name: str, column: Tally, remedy: str) -> None:
    """Warn of numbers that by their name and range are directions in degrees, where they are taken as plain numbers.

    Args:
        table, name: of the column.
        column: its numbers.
        remedy: what makes directions of them, for the message.
    """
    known = column.values
    if column.total < LEAST or not DIRECTION.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)):
        return
    if known.min() >= 0 and 180 < known.max() <= 360:
        warnings.warn(
            f"read: {name!r} of {table} seems to hold directions in degrees, but is taken as plain numbers, so that "
            f"the mean of 350 and 10 is 180; {remedy}",
            stacklevel=4,
        )


def _apart(column: Tally) -> tuple[list[float], Tally]:
    """The codes at both ends of the values, and the other values."""
    codes: list[float] = []
    rest = column
    while len(rest.values):
        found = [end for end in {*rest.values[[0, -1]].tolist()} if _is_code(end)]
        if not found:
            break
        codes += found
        rest = rest.where(~np.isin(rest.values, found))
    return codes, rest


def _is_code(value: float) -> bool:
    digits = f"{abs(value):.6g}"
    nines = digits.replace(".", "", 1)
    return digits in OTHERS or (set(nines) == {"9"} and (len(nines) > 1 or value == -9))
