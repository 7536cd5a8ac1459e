"""What is refused before a score or a forecast: wrong clocks, places and indices, and values out of their range."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2rm.sensors.given import numbers, table_of, told, whole_number, whole_numbers
from s2rm.sensors.mapped import counted
from s2rm.sensors.marginals import out_of_range
from s2rm.sensors.outputs import quantile_name
from s2rm.sensors.reports import Places, Reports, expect_reports, in_degrees
from s2rm.sensors.scaling import FAR, SAMPLE, Scaling
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import Moment, is_several, origin_steps

FEW_REPORTS, LONG_GAP, MUCH_EMPTY = 0.01, 100, 10
"""the share of the reports up to which those beyond a gap are strays, the least number of steps of such a gap, and how
many times as long as all that was observed a gap must be to be refused whatever lies beyond it"""
SHORT = 20
"""reports of which a single one beyond a gap is a stray"""
SHIFTED, ENOUGH = 4.0, 30
"""standard deviations from the fit's mean beyond which a median is in doubt, and the fewest values that have one"""


def check_clock(reports: Reports, what: str = "fit", only_late: bool = False) -> None:
    """Refuse reports of which some stand so far from the others in time that a clock must have been wrong.

    Beyond the longest gap stand either at most 1 % of the reports, or a single one of a short table, at a distance of
    more than half of the period of the others and at least 100 steps; or the gap is more than ten times as long as all
    steps with reports together.

    Args:
        reports: the observations.
        what: who asks, the first word of the error.
        only_late: allow strays before the others, which a forecast does not use.

    Raises:
        ValueError: one line with the time and the sensor of the first report that stands alone.
    """
    steps, count = counted(reports.step)
    what_else = "name the origin" if only_late else "take a longer step" if what == "fit" else "take another table"
    if len(steps) < 2:
        return
    gaps, before = np.diff(steps), np.cumsum(count)[:-1] / len(reports)
    share = max(FEW_REPORTS, 1 / len(reports) if len(reports) >= SHORT else 0)
    for place in np.flatnonzero(gaps >= LONG_GAP).tolist():
        early = before[place] <= 0.5
        if early and only_late:
            continue
        rest = steps[-1] - steps[place + 1] if early else steps[place] - steps[0]
        few = min(before[place], 1 - before[place]) <= share and gaps[place] > rest / 2
        if few or gaps[place] > MUCH_EMPTY * len(steps):
            row = 0 if early else int(np.searchsorted(reports.step, steps[place + 1]))
            lone = round((before[place] if early else 1 - before[place]) * len(reports))
            first, last = (when(reports, step) for step in steps[[place, place + 1]].tolist())
            raise ValueError(
                f"{what}: expected observations of one period, got {lone:,} of {len(reports):,} that {gaps[place]:,} "
                f"steps part from the others, between {first} and {last}, the first of sensor "
                f"{reports.sensors[reports.sensor[row]]!r} at {when(reports, int(reports.step[row]))}; correct the "
                f"times, leave these rows out, or {what_else}"
            )


def check_ranges(reports: Reports, columns: Columns, what: str) -> None:
    """Refuse values out of the range that the columns declare for them, `what` first."""
    for name, kind, column in zip(columns.values, columns.kinds, reports.values.T, strict=True):
        wrong, expected = out_of_range(column, kind)
        if kind and wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"{what}: expected {expected} in {name!r}, declared in {kind}, got {column[row]:g} of sensor "
                f"{reports.sensors[reports.sensor[row]]!r} at {when(reports, int(reports.step[row]))}; correct it, or "
                "make it NaN where it means missing"
            )


def check_positions(positions: object, columns: Columns, what: str) -> NDArray[np.float64]:
    """Positions as an array; what is not `(Q, n)` finite numbers is refused, `what` first."""
    placed = table_of(positions, f"{what}: expected positions", columns.position).astype(np.float64, copy=False)
    if len(wrong := np.flatnonzero(~np.isfinite(placed).all(1))):
        raise ValueError(f"{what}: the position of place {wrong[0]} is {placed[wrong[0]]}; give each place one")
    return placed


def check_places(places: Places, columns: Columns, scaling: Scaling, what: str = "forecast") -> Places:
    """Places as arrays. Those far from all that the fit saw are warned of, `what` first; there may be none. A
    forecast alone has a use for covariates.

    Raises:
        ValueError: positions that are not `(Q, n)` finite numbers, in degrees where the fit's are, covariates that are
            not `(Q, F)`, or another number of names.
    """
    if not isinstance(places, Places):
        raise ValueError(
            f"{what}: expected Places, got {type(places).__name__}; make them from positions and covariates, or with "
            "stations, grid or read_places"
        )
    positions = check_positions(places.positions, columns, what)
    covariates = table_of(places.covariates, f"{what}: expected covariates", columns.covariates, len(positions))
    covariates = covariates.astype(np.float32, copy=False)
    if np.isinf(covariates).any():
        raise ValueError(f"{what}: a covariate of a place is infinite; give a number, or NaN where it is not known")
    if places.names is not None and np.shape(places.names) != (len(positions),):
        raise ValueError(
            f"{what}: expected a name for each of {len(positions)} places, got {told(places.names)}; name all or none"
        )
    if scaling.globe and not in_degrees(positions):
        raise ValueError(f"{what}: expected places in degrees, longitude first, got some out of range; correct them")
    beyond, unit = scaling.beyond(positions), "km" if scaling.globe else "units"
    if beyond:
        warnings.warn(
            f"{what}: a place lies {float(f'{beyond:.3g}'):,g} {unit} beyond twice the radius of those in the fit; "
            "the forecast there is an extrapolation",
            stacklevel=3,
        )
    found = Places(positions, covariates, None if places.names is None else tuple(places.names))
    if what == "forecast":
        _warn_of_covariates(found, columns, scaling)
    return found


def _warn_of_covariates(places: Places, columns: Columns, scaling: Scaling) -> None:
    """Warn of covariates far from all that the fit saw, and of those that are known at none of the named places."""
    unlike = [name for name, far in zip(columns.covariates, scaling.unlike(places.covariates), strict=True) if far]
    if unlike:
        warnings.warn(
            f"forecast: {', '.join(unlike)} of a place lies far from all that the fit saw; "
            "the forecast there is an extrapolation",
            stacklevel=4,
        )
    for name, column in zip(columns.covariates, places.covariates.T, strict=True):
        if places.names is not None and len(column) and np.isnan(column).all():
            warnings.warn(
                f"forecast: the covariate {name!r} is not known at any of the places; give it with the places",
                stacklevel=4,
            )


def check_alike(reports: Reports, scaling: Scaling, what: str = "forecast") -> None:
    """Warn of reports far from all that the fit saw: codes of missing values, other units, swapped coordinates; `what`
    first."""
    if not len(reports):
        return
    ends = np.stack([np.fmin.reduce(reports.values, 0), np.fmax.reduce(reports.values, 0)], -1)
    some = reports.values[:: max(1, len(reports) // SAMPLE)] if reports.step[0] < reports.step[-1] else ends.T[:0]
    fitted = zip(scaling.mean, scaling.width, scaling.known_range, scaling.circular, strict=True)
    lines = zip(reports.columns.values, ends, some.T, fitted, strict=True)
    for name, column, sample, (mean, spread, known_range, circular) in lines:
        away, nearest = np.abs(column - mean), np.clip(mean, *column)  # a single value, or all of them
        far = max(away.max() / 2, abs(nearest - mean)) > FAR * spread
        if not circular and (far or column[0] < known_range[0] or column[1] > known_range[1]):
            warnings.warn(
                f"{what}: {name!r} is {column[away.argmax()]:g} in a report, far from what the fit saw, {mean:.3g} "
                f"with a spread of {spread:.3g}; leave it out if it means missing, or give the units of the fit",
                stacklevel=4,
            )
        elif not circular and len(known := sample[~np.isnan(sample)]) >= ENOUGH:
            middle = np.median(known)
            if abs(middle - mean) > SHIFTED * spread:
                warnings.warn(
                    f"{what}: {name!r} is about {middle:.3g} in the reports, far from what the fit saw, {mean:.3g}, "
                    f"with a spread of {spread:.3g}; give the units of the fit, or fit anew if it has changed so much",
                    stacklevel=4,
                )
    if reports.ahead is not None:
        for name in np.array(reports.columns.ahead)[scaling.unlike_ahead(reports.ahead)]:
            warnings.warn(f"{what}: {name}, known ahead, is far from what the fit saw; give its units", stacklevel=4)
    if scaling.beyond(reports.positions):
        warnings.warn(
            f"{what}: reports come from places beyond twice the radius of those in the fit; are the coordinates in the "
            "same order and units?",
            stacklevel=4,
        )


def check_seen(reports: Reports, origins: NDArray[np.int64], context: int) -> None:
    """Warn where no report, or none of a value, lies within the context that ends at an origin."""
    names, start = reports.columns.values, max(0, int(origins.min()) + 1 - context)
    few = reports.between(start, int(origins.max()) + 1)
    counts = np.zeros((len(names), few.num_steps + 1), np.int64)
    for part in few.parts:
        for count, column in zip(counts, few.values[part].T, strict=True):
            count += np.bincount(few.step[part][~np.isnan(column)] + 1, minlength=len(count))
    until, last = counts.cumsum(1), origins + 1 - start
    silent = until[:, last] == until[:, np.maximum(last - context, 0)]
    cases = [("observation", silent.all(0)), *zip([f"value of {name!r}" for name in names], silent, strict=True)]
    for what, where in cases[:1] if cases[0][1].any() else cases:
        if where.any():
            gap = f"in the {context} steps until {when(reports, int(origins[where.argmax()]))}"
            warnings.warn(f"forecast: no {what} {gap}; the forecast is that of an average day", stacklevel=4)


def check_known_ahead(reports: Reports, columns: Columns, longest: int, back: int, places: Places) -> None:
    """Refuse to forecast so many steps beyond reports of which less is known ahead, and warn where too little is known
    of the steps before, as many as a flow is followed back, or where it ends earlier at some of the places."""
    if not columns.ahead:
        return
    names, needed = ", ".join(columns.ahead), reports.num_steps - 1 + longest
    if reports.ahead is None:
        raise ValueError(
            f"forecast: expected what is known ahead of {names}, got none; give read_reports(..., ahead=...) its table"
        )
    if reports.ahead.last < reports.start + needed * reports.step_length:
        last = reports.ahead.last.astype("datetime64[s]")
        raise ValueError(
            f"forecast: expected {names} known ahead until {when(reports, needed)}, got the last of {last}; give a "
            "longer table, or shorten the horizon"
        )
    ends, until = reports.ahead.ends, reports.ahead.offset(reports.start) + needed
    if ((ends >= 0) & (ends < until)).any():
        index, weight = reports.ahead.weights(places.positions, columns.on_the_globe)
        early = ends[index.numpy()]
        short = ((early >= 0) & (early < until) & (weight.numpy() > 1e-3)[..., None]).any((1, 2))
        if short.any():
            warnings.warn(
                f"forecast: {names} known ahead ends before {when(reports, needed)} at {short.sum()} of {len(short)} "
                "places, where average conditions are taken from then on; give it until then for all",
                stacklevel=4,
            )
    since = max(0, reports.num_steps - 1 - back)
    if (first := reports.ahead.start) > reports.start + since * reports.step_length:
        warnings.warn(
            f"forecast: {names} known ahead only from {first.astype('datetime64[s]')} on, needed from "
            f"{when(reports, since)}; before, it is taken to be as at first, so give its past too",
            stacklevel=4,
        )


def check_leads(leads: object) -> list[int]:
    """Lead times as a list of steps.

    Raises:
        ValueError: none, a negative one, one that is no whole number, or a single one that is not in a list.
    """
    listed = whole_numbers(leads)
    if listed is None or listed.ndim != 1 or not len(listed) or listed.min() < 0:
        raise ValueError(f"predict: expected leads of 0 steps or more, got {told(leads)}; give a list of at least one")
    return listed.tolist()


def check_quantiles(quantiles: object) -> tuple[float, ...]:
    """Probabilities between 0 and 1, in order and each once; there may be none.

    Raises:
        ValueError: others, such as percentages.
    """
    listed = numbers(quantiles)
    if listed is None or listed.ndim != 1 or not ((listed > 0) & (listed < 1)).all() or (np.diff(listed) <= 0).any():
        raise ValueError(
            f"forecast: expected quantiles between 0 and 1, in order, got {told(quantiles)}; for example 0.05 0.95"
        )
    if len({quantile_name("", share) for share in (0.0, *listed.tolist(), 1.0)}) < len(listed) + 2:
        raise ValueError(
            "forecast: expected quantiles that differ in six digits, by which columns are named, got "
            f"{told(quantiles)}; round them"
        )
    return tuple(listed.tolist())


def check_scenarios(number: object, seed: object, least: int = 1) -> None:
    """Refuse a number of scenarios below `least`, or a negative seed, with a ValueError."""
    for name, given, lowest in (("scenarios", number, least), ("a seed", seed, 0)):
        found = None if isinstance(given, bool) else whole_number(given)
        if found is None or found < lowest:
            raise ValueError(f"scenarios: expected {name} of at least {lowest}, got {told(given)}; give a whole number")


def moment(origin: Any) -> Any:
    """The time or step in an array without axes, such as `times[-1]` of xarray; anything else as it is."""
    return np.asarray(origin)[()] if getattr(origin, "ndim", None) == 0 else origin


def check_origins(origins: Moment | Iterable[Moment] | NDArray | None, reports: Reports) -> NDArray[np.int64]:
    """The steps `(O,)` from which forecasts start, as `origin_steps` finds them.

    Raises:
        ValueError: reports without a step, no origin, one outside the reports, or what is neither a step nor a time;
            where none is named, reports whose last ones stand so far from the others that a clock must be wrong.
    """
    expect_reports(reports, "forecast")
    if not reports.num_steps:
        raise ValueError("forecast: expected reports of at least one step, got none; give the last observations")
    if origins is None:
        check_clock(reports, "forecast", only_late=True)
        return origin_steps(None, reports)
    origins = moment(origins)
    listed = [moment(origin) for origin in (origins if is_several(origins) else [origins])]
    if not listed:
        raise ValueError(
            "forecast: expected at least one origin, got none; name one, or leave them out for the last step"
        )
    for origin in listed:
        if isinstance(origin, bool | np.bool_ | float | np.floating):
            raise ValueError(f"forecast: expected an initialisation time or a step, got {origin!r}; name a whole step")
    return origin_steps(listed, reports)


def check_origin(origin: object, reports: Reports) -> int:
    """The step of an initialisation, of any kind of integer; what is not a step of the reports is refused."""
    step = whole_number(origin)
    if step is None or not 0 <= step < reports.num_steps:
        raise ValueError(
            f"predict: expected an origin from 0 to {reports.num_steps - 1}, the steps of the reports, got "
            f"{told(origin)}; name one step"
        )
    return step


def check_sensors(sensors: object, reports: Reports, number: int) -> NDArray[np.int64]:
    """Indices `(Q,)` of the stations at Q queries, -1 for none; what is no station of the reports is refused."""
    indices, last = whole_numbers(sensors), len(reports.sensors) - 1
    if indices is None or indices.shape != (number,):
        got = told(sensors) if indices is None else indices.shape
        raise ValueError(
            f"predict: expected one sensor for each of {number} queries, got {got}; give their indices in the sensors "
            "of the reports, -1 for none"
        )
    wrong = indices[(indices < -1) | (indices > last)]
    if len(wrong):
        raise ValueError(f"predict: sensors must be from -1, no station, to {last}, got {wrong[0]}")
    return indices


def when(reports: Reports, step: int) -> str:
    """When a step of the reports begins, in words; the step may lie outside them."""
    return str((reports.start + step * reports.step_length).astype("datetime64[s]"))
