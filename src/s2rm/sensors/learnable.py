"""What is refused before a fit: values that cannot be learned. Places that may be mistakes are warned of."""

from __future__ import annotations

import warnings

import numpy as np

from s2rm.sensors.checks import check_ranges, when
from s2rm.sensors.mapped import distinct, moments
from s2rm.sensors.reports import Reports, on_sphere
from s2rm.sensors.scaling import ONE_PLACE

ALONE = 8
"""times as far from the middle as any other a place must be to be a mistake"""
CHANGED = 1e-3
"""a share of the range of all sensors, by which a place or a covariate must change in time to be called changing"""
LEAST_VALUES = 8
"""values of a channel that a fit needs in its training part"""


def check_learnable(train: Reports, validation: Reports) -> None:
    """Refuse what cannot be learned from the training part, or not be chosen on the validation part.

    A covariate that is the same everywhere is allowed, with a warning: it is not used.

    Args:
        train, validation: the two parts.

    Raises:
        ValueError: one line with the name of a value that is absent, too rare or constant in the training part, of a
            covariate that is absent there, or with the period of a validation part where nothing is asked for.
    """
    check_ranges(train, train.columns, "fit")
    columns, period = train.columns, f"the training part, {when(train, 0)} to {when(train, train.num_steps - 1)}"
    for name, count, _, _, low, high in zip(columns.values, *moments(train.values), strict=True):
        if count < LEAST_VALUES:
            raise ValueError(
                f"fit: expected at least {LEAST_VALUES} observations of {name!r} in {period}, got {count}; leave "
                "it out of the values, or give a longer table"
            )
        if low == high:
            raise ValueError(
                f"fit: expected {name!r} to change in {period}, got {low:g} throughout; leave it out of the "
                "values, or give a longer table"
            )
    for name, count, _, spread, low, high in zip(columns.covariates, *moments(train.covariates), strict=True):
        if not count:
            raise ValueError(f"fit: expected the covariate {name!r} in {period}, got none; leave it out")
        if spread <= np.spacing(max(abs(low), abs(high))):
            warnings.warn(
                f"fit: the covariate {name!r} is {low:g} at all stations, so that nothing can be learned of it; "
                "it is not used",
                stacklevel=4,
            )
    if len(validation) < LEAST_VALUES:
        begin, last = when(validation, 0), when(validation, validation.num_steps - 1)
        said = f"fit: expected observations in the validation part, {begin} to {last}, got {len(validation) or 'none'}"
        if not len(validation):
            raise ValueError(f"{said}; leave the silent end of the table out")
        warnings.warn(f"{said}, on which the best weights are chosen; leave that part out", stacklevel=4)
    _check_positions(train)
    _check_constant(train)


def _check_constant(train: Reports) -> None:
    """Warn of covariates that change at sensors which stay: a forecast knows them no better than the values."""
    if not train.columns.covariates:
        return
    number = train.positions.shape[1]
    low, high = (np.full((len(train.sensors), number + train.covariates.shape[1]), end) for end in (np.inf, -np.inf))
    for part in train.parts:
        known = np.concatenate([train.positions[part], train.covariates[part]], 1)
        np.fmin.at(low, train.sensor[part], known)
        np.fmax.at(high, train.sensor[part], known)
    moved, changed = np.split(high - low > CHANGED * (high.max(0) - low.min(0)), [number], 1)
    stays = np.isin(np.arange(len(train.sensors)), train.reporting) & ~moved.any(1)
    for name, alike in zip(train.columns.covariates, changed.T, strict=True):
        if (number := int((alike & stays).sum())) > stays.sum() / 2:
            warnings.warn(
                f"fit: the covariate {name!r} changes in time at {number} of {int(stays.sum())} sensors that stay, "
                "where a forecast has the last one only; make it a value, or, if its future is known, known ahead",
                stacklevel=5,
            )


def _check_positions(train: Reports) -> None:
    """Warn of places that a model cannot tell apart: all are one, all lie too close, or one lies too far away."""
    places, of_place = distinct(train.positions)
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
            "other, so that the model can hardly distinguish the others; correct its position, or leave it out",
            stacklevel=5,
        )
