"""What is refused before a fit, a score or a forecast: wrong clocks, values that cannot be learned, wrong indices."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from s2rm.sensors.reports import Places, Reports, in_degrees, on_sphere
from s2rm.sensors.scaling import FAR, ONE_PLACE, Scaling
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import Moment, is_several, origin_steps

FEW_REPORTS, LONG_GAP, MUCH_EMPTY = 0.01, 100, 10
"""the share of the reports up to which those beyond a gap are strays, the least number of steps of such a gap, and how
many times as long as all that was observed a gap must be to be refused whatever lies beyond it"""
SHORT = 20
"""reports of which a single one beyond a gap is a stray"""
ALONE = 20
"""times as far from the middle as any other a place must be to be a mistake"""
LEAST_VALUES = 8
"""values of a channel that a fit needs in its training part"""


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
    steps, count = np.unique(reports.step, return_counts=True)
    what_else = "name the origin" if only_late else "take a longer step"
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


def check_learnable(train: Reports, validation: Reports, first: int = 0) -> None:
    """Refuse what cannot be learned from the training part, or not be chosen on the validation part.

    A covariate that is the same everywhere is allowed, with a warning: it is not used.

    Args:
        train, validation: the two parts.
        first: the first step of the validation part that its windows ask for.

    Raises:
        ValueError: one line with the name of a value that is absent, too rare or constant in the training part, of a
            covariate that is absent there, or with the period of a validation part where nothing is asked for.
    """
    columns, period = train.columns, f"the training part, {when(train, 0)} to {when(train, train.num_steps - 1)}"
    for name, column in zip(columns.values, train.values.T, strict=True):
        known = column[~np.isnan(column)]
        if len(known) < LEAST_VALUES:
            raise ValueError(
                f"fit: expected at least {LEAST_VALUES} observations of {name!r} in {period}, got {len(known)}; leave "
                "it out of the values, or give a longer table"
            )
        if known.min() == known.max():
            raise ValueError(
                f"fit: expected {name!r} to change in {period}, got {known[0]:g} throughout; leave it out of the "
                "values, or give a longer table"
            )
    for name, column in zip(columns.covariates, train.covariates.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            raise ValueError(f"fit: expected the covariate {name!r} in {period}, got none; leave it out")
        if np.std(known, dtype=np.float64) <= np.spacing(np.abs(known).max()):
            warnings.warn(
                f"fit: the covariate {name!r} is {known[0]:g} at all stations, so that nothing can be learned of it; "
                "it is not used",
                stacklevel=4,
            )
    asked = int((validation.step >= first).sum())
    if asked < LEAST_VALUES:
        begin, last = when(validation, first), when(validation, validation.num_steps - 1)
        said = f"fit: expected observations in the validation part, {begin} to {last}, got {asked or 'none'}"
        if not asked:
            raise ValueError(f"{said}; leave the silent end of the table out")
        warnings.warn(f"{said}, on which the best weights are chosen; leave that part out", stacklevel=4)
    _check_positions(train)


def _check_positions(train: Reports) -> None:
    """Warn of places that a model cannot tell apart: all are one, all lie too close, or one lies too far away."""
    places, of_place = np.unique(train.positions, axis=0, return_index=True)
    if len(places) < 2:
        warnings.warn("fit: all observations are of one place; what differs elsewhere cannot be learned", stacklevel=5)
        return
    globe = train.columns.on_the_globe
    placed = on_sphere(places) if globe else places
    away = np.linalg.norm(placed - np.median(placed, 0), axis=-1)
    if globe and away.max() <= ONE_PLACE:
        warnings.warn(
            "fit: all places lie within some metres, which degrees do not tell apart here; give planar positions in "
            "metres",
            stacklevel=5,
        )
    elif len(places) > 3 and away.max() > ALONE * np.sort(away)[-2]:
        lone = train.sensors[train.sensor[of_place[away.argmax()]]]
        warnings.warn(
            f"fit: sensor {lone!r} at {places[away.argmax()].tolist()} lies more than {ALONE} times as far away as any "
            "other, which the model then hardly tells apart; correct its position, or leave it out",
            stacklevel=5,
        )


def check_places(places: Places, columns: Columns, scaling: Scaling) -> None:
    """Refuse places that no forecast can be for, and warn of those far from all that the fit saw; there may be none.

    Raises:
        ValueError: positions that are not `(Q, n)` finite numbers, in degrees where the fit's are, or covariates that
            are not `(Q, F)`.
    """
    positions, covariates = places.positions, places.covariates
    for name, got, wanted in (
        ("positions", positions, columns.position),
        ("covariates", covariates, columns.covariates),
    ):
        if np.shape(got) != (len(positions), len(wanted)):
            raise ValueError(
                f"forecast: expected {name} of shape ({len(positions)}, {len(wanted)}), got {np.shape(got)}; give one "
                f"row for each place, with a number for each of {list(wanted)}"
            )
    wrong = np.flatnonzero(~np.isfinite(positions).all(1))
    if len(wrong):
        raise ValueError(f"forecast: the position of place {wrong[0]} is {positions[wrong[0]]}; give each place one")
    if scaling.globe and not in_degrees(positions):
        raise ValueError("forecast: expected places in degrees, longitude first, got some out of range; correct them")
    beyond, unit = scaling.beyond(positions), "km" if scaling.globe else "units"
    if beyond:
        warnings.warn(
            f"forecast: a place lies {float(f'{beyond:.3g}'):,g} {unit} beyond twice the radius of those in the fit; "
            "the forecast there is an extrapolation",
            stacklevel=3,
        )
    unlike = [name for name, far in zip(columns.covariates, scaling.unlike(covariates), strict=True) if far]
    if unlike:
        warnings.warn(
            f"forecast: {', '.join(unlike)} of a place lies far from all that the fit saw; "
            "the forecast there is an extrapolation",
            stacklevel=3,
        )


def check_alike(reports: Reports, scaling: Scaling) -> None:
    """Warn of reports far from all that the fit saw: codes of missing values, other units, swapped coordinates."""
    if not len(reports):
        return
    lines = zip(reports.columns.values, reports.values.T, scaling.mean, scaling.spread, scaling.circular, strict=True)
    for name, column, mean, spread, circular in lines:
        away = np.abs(column - mean)
        if not circular and (away > 2 * FAR * spread).any():
            odd = column[np.nanargmax(away)]
            warnings.warn(
                f"forecast: {name!r} is {odd:g} in a report, far from what the fit saw, {mean:.3g} with a spread of "
                f"{spread:.3g}; leave it out if it means missing, or give the units of the fit",
                stacklevel=4,
            )
    if scaling.beyond(reports.positions):
        warnings.warn(
            "forecast: reports come from places beyond twice the radius of those in the fit; are the coordinates in "
            "the same order and units?",
            stacklevel=4,
        )


def check_seen(reports: Reports, origins: NDArray[np.int64], context: int) -> None:
    """Warn where no report lies within the context that ends at an origin."""
    until = np.append(0, np.bincount(reports.step, minlength=reports.num_steps).cumsum())
    silent = origins[until[origins + 1] == until[np.maximum(origins + 1 - context, 0)]]
    if len(silent):
        warnings.warn(
            f"forecast: no observation in the {context} steps until {when(reports, int(silent[0]))}; nothing is known, "
            "and the forecast is that of an average day",
            stacklevel=4,
        )


def check_leads(leads: Sequence[int]) -> list[int]:
    """Lead times as a list of steps.

    Raises:
        ValueError: none, a negative one, or one that is no whole number.
    """
    listed = np.asarray(leads)
    if listed.ndim != 1 or not len(listed) or listed.dtype.kind not in "iu" or listed.min() < 0:
        raise ValueError(f"predict: expected leads of 0 steps or more, got {list(leads)}; give at least one")
    return [int(lead) for lead in listed]


def check_origins(origins: Moment | Iterable[Moment] | None, reports: Reports) -> NDArray[np.int64]:
    """The steps `(O,)` from which forecasts start, as `origin_steps` finds them.

    Raises:
        ValueError: reports without a step, no origin, one outside the reports, or what is neither a step nor a time;
            where none is named, reports whose last ones stand so far from the others that a clock must be wrong.
    """
    if not reports.num_steps:
        raise ValueError("forecast: expected reports of at least one step, got none; give the last observations")
    if origins is None:
        check_clock(reports, "forecast", only_late=True)
        return origin_steps(None, reports)
    listed = cast("list[Moment]", list(origins) if is_several(origins) else [origins])
    if not listed:
        raise ValueError(
            "forecast: expected at least one origin, got none; name one, or leave them out for the last step"
        )
    for origin in listed:
        if isinstance(origin, bool | np.bool_ | float | np.floating):
            raise ValueError(f"forecast: expected an initialisation time or a step, got {origin!r}; name a whole step")
    return origin_steps(listed, reports)


def check_origin(origin: int, reports: Reports) -> None:
    """Refuse an initialisation that is not a step of the reports."""
    if isinstance(origin, bool) or not 0 <= origin < reports.num_steps or origin != int(origin):
        raise ValueError(
            f"predict: expected an origin from 0 to {reports.num_steps - 1}, the steps of the reports, got {origin}"
        )


def check_sensors(sensors: NDArray[np.int64], reports: Reports, number: int) -> None:
    """Refuse indices of stations that the reports do not have; -1 is no station; one index for each query."""
    wrong, last = sensors[(sensors < -1) | (sensors >= len(reports.sensors))], len(reports.sensors) - 1
    if len(wrong):
        raise ValueError(f"predict: sensors must be from -1, no station, to {last}, got {wrong[0]}")
    if len(sensors) != number:
        raise ValueError(f"predict: expected one sensor for each of {number} queries, -1 for none, got {len(sensors)}")


def when(reports: Reports, step: int) -> str:
    """When a step of the reports begins, in words; the step may lie outside them."""
    return str((reports.start + step * reports.step_length).astype("datetime64[s]"))
