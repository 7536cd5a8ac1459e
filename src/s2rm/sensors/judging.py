"""How good forecasts from sensors are: by time and by station, by lead, and as sensors fall silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from s2rm.sensors.predictors import SensorPredictor
from s2rm.sensors.reports import Reports
from s2rm.sensors.scores import scores


def judge(
    predictors: Mapping[str, SensorPredictor],
    reports: Reports,
    origins: Int[NDArray, " O"],
    leads: Sequence[int],
    held_out: Bool[NDArray, " S"],
    silent: Sequence[float] = (0.0, 0.5),
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[dict[str, Any]]:
    """Forecasts against what was reported, at sensors that are seen and at sensors that never were.

    Args:
        predictors: fitted to earlier reports, without the sensors that are held out.
        reports: all of them.
        origins: steps from which is forecast; only what was reported until then is shown.
        leads: steps ahead; 0 is now, and asks held-out and silent sensors only.
        held_out: sensors that are never shown.
        silent: shares of the other sensors, drawn at random, that are not shown either.
        seed: of that draw.

    Returns:
        Rows with `predictor`, `value`, `lead`, `sensors` ("seen", "held out" or "silent"), `silent`, `mae`, `rmse`,
        `crps`, `coverage` and `count`.

    Raises:
        ValueError: leads out of order.
    """
    if list(leads) != sorted(set(leads)):
        raise ValueError(f"judge: leads must be in order, each once, got {list(leads)}")
    columns = reports.columns
    circular = np.array([name in columns.circular for name in columns.values])
    generator, rows = np.random.default_rng(seed), []
    for share in silent:
        hidden = held_out.copy()
        seen = np.flatnonzero(~held_out)
        hidden[generator.permutation(seen)[: round(share * len(seen))]] = True
        groups = {"seen": ~hidden, "held out": held_out, "silent": hidden & ~held_out}
        shown = reports.of(~hidden)
        found: dict[tuple[str, str, int], list[tuple[NDArray, ...]]] = {}
        for origin in progress(list(origins)):
            asked = reports.where(np.isin(reports.step, origin + np.array(leads)))
            if not len(asked):
                continue
            for name, predictor in predictors.items():
                sensors = np.where(hidden[asked.sensor], -1, asked.sensor)
                known = shown.where(shown.step <= origin)
                said = _at_their_leads(predictor, known, int(origin), asked, sensors, leads)
                for group, members in groups.items():
                    for lead in leads:
                        mine = members[asked.sensor] & (asked.step == origin + lead)
                        if lead == 0 and group == "seen":
                            continue
                        found.setdefault((name, group, lead), []).append(
                            (*(part[mine] for part in said), asked.values[mine])
                        )
        for (name, group, lead), parts in found.items():
            mean, stddev, truth = (np.concatenate(part)[None] for part in zip(*parts, strict=True))
            scored = scores(mean, stddev, truth, circular)
            for channel, value in enumerate(columns.values):
                if scored["count"][0, channel]:
                    where = {"predictor": name, "value": value, "lead": lead, "sensors": group, "silent": share}
                    rows.append({**where, **{key: float(part[0, channel]) for key, part in scored.items()}})
    return rows


def _at_their_leads(
    predictor: SensorPredictor,
    known: Reports,
    origin: int,
    asked: Reports,
    sensors: NDArray[np.int64],
    leads: Sequence[int],
) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation for each report that is asked for, `(R, C)`, at its own lead."""
    # A station is asked once, for all leads.
    places, first, place = np.unique(
        np.concatenate([asked.positions, sensors[:, None]], 1), axis=0, return_index=True, return_inverse=True
    )
    mean, stddev = predictor.predict(
        known, origin, places[:, :-1], asked.covariates[first], places[:, -1].astype(np.int64), list(leads)
    )
    lead = np.searchsorted(leads, asked.step - origin)
    return mean[lead, place], stddev[lead, place]
