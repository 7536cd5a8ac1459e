"""How good forecasts are: at later times, at withheld stations, by lead time, and with silent stations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from s2rm.files import Row
from s2rm.sensors.kriging import Kriging
from s2rm.sensors.predictors import Baseline, Climatology, InverseDistance, LocalLinear, Persistence, SensorPredictor
from s2rm.sensors.reports import Reports
from s2rm.sensors.scores import scores

BASELINES: dict[str, type[Baseline]] = {
    "persistence": Persistence,
    "climatology": Climatology,
    "inverse distance": InverseDistance,
    "local linear": LocalLinear,
    "kriging": Kriging,
}
"""the predictors that every forecast is compared with"""


class Split(NamedTuple):
    """Observations divided by time and by station."""

    train: Reports
    """the first steps, without the withheld stations"""
    first: int
    """the first step after those"""
    withheld: NDArray[np.bool_]
    """`(S,)`: the stations that a fit does not see"""


def split(reports: Reports, test: float, withheld: float, seed: int = 0) -> Split:
    """Set the last steps and some stations apart, on which a forecast is judged.

    Args:
        reports: all observations.
        test: share of the steps, the last ones.
        withheld: share of the stations that report at all, drawn at random; at least one station.
        seed: of that draw.
    """
    first, reporting = round((1 - test) * reports.num_steps), np.unique(reports.sensor)
    chosen = np.random.default_rng(seed).permutation(reporting)[: max(1, round(withheld * len(reporting)))]
    mask = np.isin(np.arange(len(reports.sensors)), chosen)
    return Split(reports.between(0, first).of(~mask), first, mask)


def lead_time(steps: int, length: np.timedelta64) -> str:
    """A lead time of so many steps, in the largest unit from days to seconds that divides a step."""
    seconds = float(length / np.timedelta64(1, "s"))
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{round(steps * seconds / unit)} {name}"
    return f"{steps * seconds:g} s"


def judge(
    predictors: Mapping[str, SensorPredictor],
    reports: Reports,
    origins: Int[NDArray, " O"],
    leads: Sequence[int],
    held_out: Bool[NDArray, " S"],
    silent: Sequence[float] = (0.0, 0.5),
    seed: int = 0,
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> list[Row]:
    """Score forecasts against the observations, at stations that the predictors see and at stations they do not.

    Args:
        predictors: fitted to earlier observations, without the withheld stations.
        reports: all observations.
        origins: steps of initialisation; only observations up to then are shown to a predictor.
        leads: lead times in steps; 0 is an analysis, which is scored at withheld and silent stations only.
        held_out: the withheld stations, which are never shown.
        silent: shares of the other stations, drawn at random, that are not shown either.
        seed: of that draw.
        progress: wraps the origins, to show how far the work is.

    Returns:
        Rows with `predictor`, `value`, `lead`, `sensors` ("seen", "held out" or "silent"), `silent`, `mae`, `rmse`,
        `crps`, `coverage` and `count`.

    Raises:
        ValueError: leads out of order.
    """
    if list(leads) != sorted(set(leads)):
        raise ValueError(f"judge: leads must be in order, each once, got {list(leads)}")
    generator, rows = np.random.default_rng(seed), []
    for share in silent:
        hidden = held_out.copy()
        seen = np.flatnonzero(~held_out)
        hidden[generator.permutation(seen)[: round(share * len(seen))]] = True
        groups = {"seen": ~hidden, "held out": held_out, "silent": hidden & ~held_out}
        shown = reports.of(~hidden)
        found: dict[tuple[str, str, int], list[tuple[NDArray, ...]]] = {}
        for origin in progress(origins.tolist()):
            asked = reports.where(np.isin(reports.step, origin + np.array(leads)))
            if not len(asked):
                continue
            known, sensors = shown.where(shown.step <= origin), np.where(hidden[asked.sensor], -1, asked.sensor)
            for name, predictor in predictors.items():
                forecast = _at_their_leads(predictor, known, origin, asked, sensors, leads)
                for group, members in groups.items():
                    for lead in leads:
                        if lead == 0 and group == "seen":
                            continue
                        mine = members[asked.sensor] & (asked.step == origin + lead)
                        parts = (*(part[mine] for part in forecast), asked.values[mine])
                        found.setdefault((name, group, lead), []).append(parts)
        for (name, group, lead), cases in found.items():
            where = {"predictor": name, "lead": lead, "sensors": group, "silent": share}
            # Mean, standard deviation and truth, each (1, R, C).
            parts = (np.concatenate(part)[None] for part in zip(*cases, strict=True))
            scored = scores(*parts, np.array(reports.columns.is_circular))
            rows += [
                {**where, "value": value, **{key: float(part[0, channel]) for key, part in scored.items()}}
                for channel, value in enumerate(reports.columns.values)
                if scored["count"][0, channel]
            ]
    return rows


def _at_their_leads(
    predictor: SensorPredictor, known: Reports, origin: int, asked: Reports, sensors: NDArray, leads: Sequence[int]
) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation for each observation that is asked for, `(R, C)`, at its own lead time."""
    # Each place is asked for once, for all lead times.
    places, first, place = np.unique(
        np.concatenate([asked.positions, sensors[:, None]], 1), axis=0, return_index=True, return_inverse=True
    )
    mean, stddev = predictor.predict(
        known, origin, places[:, :-1], asked.covariates[first], places[:, -1].astype(np.int64), list(leads)
    )
    lead = np.searchsorted(leads, asked.step - origin)
    return mean[lead, place], stddev[lead, place]
