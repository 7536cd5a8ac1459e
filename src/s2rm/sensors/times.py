"""Durations and times, in steps."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    import pandas

    from s2rm.sensors.reports import Reports

Duration = int | np.integer | str | timedelta | np.timedelta64
"""a number of steps, or a length of time: as pandas writes it, such as "24h", or as an object"""
Moment = int | np.integer | str | datetime | np.datetime64
"""a step of the reports, or a time: ISO 8601 text, UTC where it names no zone, or an object"""


DAY = 86_400_000_000
"""microseconds"""
MOST_HORIZONS = 100
"""times the longest lead time of the fit: a longer horizon is a mistake"""
_UNIT = re.compile(r"(?<=[\d ])[Hd]$")
DATE = re.compile(r"\s*\d{4}(-?\d\d|([-/.])\d{1,2}\2\d)")
"""the beginning of a time; pandas would also read a bare number, "now", or a date whose day comes first"""


def _length(duration: str | timedelta | np.timedelta64) -> pandas.Timedelta | None:
    import pandas as pd

    if isinstance(duration, str):  # "1H" and "1d" are what pandas wrote before; but "1M" is no minute
        duration = _UNIT.sub(lambda unit: {"H": "h", "d": "D"}.get(unit[0], unit[0]), duration)
    with warnings.catch_warnings(action="error"), suppress(ValueError, Warning):
        length = pd.Timedelta(duration)
        return None if pd.isna(length) else length
    return None


def step_microseconds(step: str) -> int:
    """Length of a time step, microseconds, which must be a whole number of them."""
    length = _length(step)
    microseconds = 0 if length is None or length.nanoseconds else length // np.timedelta64(1, "us")
    if microseconds <= 0:
        raise ValueError(
            f"read: expected a step of whole microseconds such as '1h', '15min' or '1D', got {step!r}; write it "
            "as pandas does"
        )
    return int(microseconds)


def in_steps(duration: Duration, step: str, name: str = "horizon") -> int:
    """A duration in steps, rounded to the nearest whole number of them, with a warning where that changes it.

    Raises:
        ValueError: no duration, or less than a step; `name` says what it is.
    """
    if isinstance(duration, str) and duration.strip().isdecimal():
        duration = int(duration)
    if isinstance(duration, int | np.integer) and not isinstance(duration, np.timedelta64):
        exact = float(duration)
    else:
        length, unit = _length(duration), _length(step)
        exact = length / unit if length and unit else 0.0
    if exact < 1:
        raise ValueError(
            f"{name}: expected a duration of at least a step, {step}, got {str(duration)!r}; write for example 24h, or "
            "a whole number of steps"
        )
    steps = round(exact)
    if steps != exact:
        taken = f"{steps} step{'s' * (steps > 1)} of {step}"
        warnings.warn(f"{name}: {duration} is not a whole number of steps; taken as {taken}", stacklevel=3)
    return steps


def horizon_steps(horizon: Duration | None, step: str, trained: int) -> int:
    """A horizon in steps, if not given that of the training; a longer one is warned of.

    Raises:
        ValueError: no duration, or one so long that it is a mistake.
    """
    if isinstance(horizon, bool):
        raise ValueError(f"horizon: expected a duration, got {horizon}; write for example 24h")
    steps, most = trained if horizon is None else in_steps(horizon, step), MOST_HORIZONS * trained
    if steps > most:
        raise ValueError(
            f"horizon: expected at most {most:,} steps of {step}, {MOST_HORIZONS} times the longest lead time of the "
            f"fit, got {steps:,}; ask for less, or fit with a longer horizon"
        )
    if steps > trained:
        warnings.warn(
            f"horizon: {steps:,} steps of {step} are more than the {trained:,} of the fit, and the forecast beyond "
            "them is an extrapolation; ask for less, or fit with a longer horizon",
            stacklevel=3,
        )
    return steps


def is_several(origins: Moment | Iterable[Moment] | None) -> TypeGuard[Iterable[Moment]]:
    """Whether these are several initialisation times, not one."""
    return isinstance(origins, Iterable) and not isinstance(origins, str | bytes)


def origin_steps(origins: Moment | Iterable[Moment] | None, reports: Reports) -> NDArray[np.int64]:
    """The steps `(O,)` from which forecasts start: those that contain the times; the last one where none is given.

    Raises:
        ValueError: no time, or one outside the reports.
    """
    if origins is None:
        return np.array([reports.num_steps - 1])
    steps = []
    for origin in origins if is_several(origins) else [origins]:
        steps.append(int(origin) if isinstance(origin, int | np.integer) else _step_of(origin, reports))
        if not 0 <= steps[-1] < reports.num_steps:
            raise ValueError(
                f"forecast: expected an initialisation time within the reports, {reports.times[0]} to "
                f"{reports.times[-1]} ({reports.num_steps} steps from 0), got {origin}"
            )
    return np.array(steps, dtype=np.int64)


def _step_of(origin: Moment | Iterable[Moment], reports: Reports) -> int:
    """The step of the reports, or before or after them, that contains a time."""
    import pandas as pd

    try:
        if isinstance(origin, str | bytes) and not (isinstance(origin, str) and DATE.match(origin)):
            raise ValueError("no year first")
        time = pd.Timestamp(origin)
        if pd.isna(time):
            raise ValueError("no time")
        time = time.tz_convert(None) if time.tzinfo else time
        return int((time.to_datetime64() - reports.start) // reports.step_length)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"forecast: expected an initialisation time or a step, got {origin!r}; write for example 2014-01-31T12:00"
        ) from error


def steps_a_day(columns: Columns) -> int | None:
    """Steps in a day, where the step divides the day and is shorter; else None."""
    day, left = divmod(DAY, step_microseconds(columns.step))
    return day if not left and day > 1 else None


def steps_a_cycle(columns: Columns) -> int | None:
    """Steps after which values are alike: those of a day, of a week where a step is a day, of a year where it is longer
    (to the nearest step); else None."""
    length = step_microseconds(columns.step)
    if length <= DAY:
        return 7 if length == DAY else steps_a_day(columns)
    year = round(365.25 * DAY / length)
    return year if year > 1 else None


UNITS = {"d": 86_400, "h": 3600, "min": 60}
"""seconds in each unit of lead times; there are seconds besides"""


def lead_time(steps: int, length: np.timedelta64) -> str:
    """A lead time, given in steps, in the largest unit from days to seconds that divides a step; in whole hours from
    two hours on, also where steps are shorter."""
    seconds = float(length / np.timedelta64(1, "s"))
    for name, unit in UNITS.items():
        whole, hours = divmod(steps * seconds, unit)
        if seconds % unit == 0 or (name == "h" and whole > 1 and not hours):
            return f"{round(steps * seconds / unit)} {name}"
    return f"{steps * seconds:g} s"


def unit_of_leads(longest: int, length: np.timedelta64) -> tuple[str, float]:
    """The unit of an axis of lead times, the largest of which the longest has at least two, and how many a step has."""
    seconds = float(length / np.timedelta64(1, "s"))
    found = [(name, unit) for name, unit in UNITS.items() if longest * seconds >= 2 * unit]
    name, unit = found[0] if found else ("s", 1)
    return name, seconds / unit


def spread_out(first: int, last: int, number: int) -> Int[NDArray, " O"]:
    """Steps from a first to a last one, drawn at random from each of so many equal parts; all, if there are no more.

    At equal distances, they would be at a few hours of the day alone where a distance is about a divisor of a day.
    """
    if last - first < number:
        return np.arange(first, last + 1)
    edges = np.linspace(first, last + 1, number + 1)
    drawn = edges[:-1] + np.random.default_rng(0).random(number) * np.diff(edges)
    return np.unique(np.floor(drawn).astype(np.int64))
