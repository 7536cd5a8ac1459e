"""Scores of forecasts: at later times, at withheld stations, by lead time, and with silent stations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike, NDArray

from s2rm.files import Row
from s2rm.sensors.checks import check_clock, check_leads, check_origin
from s2rm.sensors.given import mask_of, told, whole_numbers
from s2rm.sensors.judging.baselines import Baseline, Climatology
from s2rm.sensors.judging.kriging import Kriging
from s2rm.sensors.judging.predictors import (
    InverseDistance,
    LocalLinear,
    Persistence,
    Seasonal,
    SensorPredictor,
)
from s2rm.sensors.judging.scores import averages, case_scores, member_scores, members_of
from s2rm.sensors.reports import Reports, expect_reports, last_places
from s2rm.sensors.settings import check_share
from s2rm.sensors.telling import each_once

LEAST_BLOCKS = 6
"""blocks into which initialisation times are divided at least, where there are as many: of fewer, all are better or all
worse by chance too often for an interval of 95 %"""
BASELINES: dict[str, type[Baseline]] = {
    "persistence": Persistence, "seasonal": Seasonal, "climatology": Climatology,
    "inverse distance": InverseDistance, "local linear": LocalLinear, "kriging": Kriging,
}  # fmt: skip
"""the predictors that every forecast is compared with"""


class Split(NamedTuple):
    """The observations before step `first` of the stations that are not withheld, for a fit."""

    train: Reports
    first: int
    withheld: Bool[NDArray, " S"]


def split(reports: Reports, test: float, withheld: float, seed: int = 0) -> Split:
    """Withhold the last steps and some stations, shares `test` and `withheld` of them, for scoring.

    The stations are drawn at random from those that report at all; at least one is withheld, and of no value more than
    half of the observations, if that can be.

    Raises:
        ValueError: a share outside 0 to 1, or reports so far from the others in time that a clock must be wrong.
    """
    test, withheld = check_share(test, "split: test"), check_share(withheld, "split: withheld")
    check_clock(reports)
    first, reporting = round((1 - test) * reports.num_steps), reports.reporting
    mask = drawn_at_random(reports, reporting, max(1, round(withheld * len(reporting))), seed)
    return Split(reports.between(0, first).of(~mask), first, mask)


def drawn_at_random(reports: Reports, among: Int[NDArray, " N"], number: int, seed: int) -> Bool[NDArray, " S"]:
    """Some of these stations, without which at least half of the observations of each value are left, if that can
    be."""
    known = np.zeros((len(reports.sensors), reports.values.shape[1]), np.int64)
    for part in reports.parts:
        np.add.at(known, reports.sensor[part], ~np.isnan(reports.values[part]))
    chosen, gone = list[int](), np.zeros(known.shape[1], np.int64)
    order = np.random.default_rng(seed % 2**64).permutation(among)
    for station in order.tolist():
        if len(chosen) < number and (2 * (gone + known[station]) <= known.sum(0)).all():
            chosen.append(station)
            gone += known[station]
    return np.isin(np.arange(len(reports.sensors)), chosen or order[:1])


@each_once()
def judge(
    predictors: Mapping[str, SensorPredictor], reports: Reports, origins: ArrayLike, leads: Sequence[int],
    held_out: ArrayLike, silent: float | Sequence[float] = (0.0, 0.5), seed: int = 0,
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> list[Row]:  # fmt: skip
    """Score forecasts against the observations, at stations that the predictors see and at stations they do not.

    Args:
        predictors: fitted to earlier observations, without the withheld stations.
        reports: all observations.
        origins: steps of initialisation `(O,)`; a predictor is shown only observations up to its origin.
        leads: lead times in steps; 0 is an analysis, which is scored only at withheld and silent stations.
        held_out: bool `(S,)`, the withheld stations, which are never shown.
        silent, seed: shares of the other stations that are also hidden, drawn at random, and the seed of the draw.
        progress: wraps the origins, to show progress.

    A moving sensor that is seen is forecast where it last reported. Withheld and silent sensors are forecast at their
    positions at the valid time.

    Values that are not Gaussian are scored by quantiles: those of the predictor's method `quantiles` or, without such a
    method, those of a Gaussian clipped to the range of the values. Their MAE is that of the median.

    Returns:
        Rows with `predictor`, `value`, `lead`, `sensors` ("seen", "held out" or "silent"), `silent` and the `scores`;
        and, for comparisons, `by_block`, a list `[block, absolute error, CRPS, count]` of sums for each of the `blocks`
        of origins, and `by_sensor`, the same for each sensor with any case.

    Raises:
        ValueError: no leads, or leads out of order; no origin, or one that is not a step of the reports; a mask of
            another size; or a share outside 0 to 1.
    """
    expect_reports(reports, "judge")
    leads = check_leads(leads)
    if leads != sorted(set(leads)):
        raise ValueError(f"judge: leads must be in order, each once, got {leads}")
    starts = whole_numbers(origins)
    if starts is None or starts.ndim != 1 or not len(starts):
        raise ValueError(
            f"judge: expected at least one origin in a list, got {told(origins)}; name the steps of initialisation"
        )
    steps = [check_origin(origin, reports) for origin in starts]
    withheld = mask_of(held_out, "judge: expected held_out to be", len(reports.sensors), "sensors")
    shares = [check_share(share, "judge: silent") for share in np.atleast_1d(np.asarray(silent, object))]
    generator, circular, rows = np.random.default_rng(seed), np.array(reports.columns.is_circular), []
    block_of = blocks(starts, leads[-1])
    for share in shares:
        hidden, seen = withheld.copy(), np.flatnonzero(~withheld)
        hidden[generator.permutation(seen)[: round(share * len(seen))]] = True
        groups = {"seen": ~hidden, "held out": withheld, "silent": hidden & ~withheld}
        shown = reports.of(~hidden)
        cases: dict[str, list[tuple[NDArray, ...]]] = {}
        for origin, block in zip(progress(steps), block_of, strict=True):
            later = reports.between(origin, origin + leads[-1] + 1)
            asked = later.where(np.isin(later.step, leads))
            if not len(asked):
                continue
            known = shown.between(0, origin + 1)
            # Each place of a sensor is asked for once, for all lead times.
            last = last_places(known, asked)
            where = np.concatenate([last.positions, asked.sensor[:, None]], 1)
            places, first, place = np.unique(where, axis=0, return_index=True, return_inverse=True)
            sensors = asked.sensor[first]
            queries = (places[:, :-1], last.covariates[first], np.where(hidden[sensors], -1, sensors))
            ahead = asked.step
            lead_of = np.searchsorted(leads, ahead)
            for name, predictor in predictors.items():
                mean, stddev = predictor.predict(known, origin, *queries, leads)
                forecast = (mean[lead_of, place], stddev[lead_of, place])
                about = (asked.sensor, ahead, np.full(len(asked), block))
                members = members_of(predictor, mean, stddev, reports.columns, (known, origin, *queries, leads))
                cases.setdefault(name, []).append((*forecast, asked.values, *about, members[lead_of, place]))
        for name, parts in cases.items():
            mean, stddev, truth, sensor, ahead, block, members = (
                np.concatenate(part) for part in zip(*parts, strict=True)
            )
            each = case_scores(mean, stddev, truth, circular)
            shaped = np.flatnonzero([kind is not None for kind in reports.columns.kinds])
            for key, part in member_scores(members, truth[:, shaped]).items():
                each[key][:, shaped] = part
            for group, lead in product(groups, leads):
                if lead == 0 and group == "seen":
                    continue
                mine = groups[group][sensor] & (ahead == lead)
                few = {key: part[None, mine] for key, part in each.items()}
                average = averages(few)
                for channel, value in enumerate(reports.columns.values):
                    if not average["count"][0, channel]:
                        continue
                    case = {"predictor": name, "lead": lead, "sensors": group, "silent": share, "value": value}
                    numbers = {key: float(part[0, channel]) for key, part in average.items()}
                    sums = [_sums(few, channel, place[mine]).tolist() for place in (block, sensor)]
                    rows.append({**case, **numbers, "by_block": sums[0], "by_sensor": sums[1]})
    return rows


def blocks(origins: Int[NDArray, " O"], longest: int) -> Int[NDArray, " O"]:
    """The block of consecutive origins to which each belongs: errors of neighbours in time are alike.

    A block is as long as the longest lead time, so that few forecasts of one share a valid time with those of another,
    and has at least the cube root of O origins (Künsch, 1989); there are at least `LEAST_BLOCKS`, or O.
    """
    number = len(origins)
    by_lead = np.ptp(origins) // max(1, longest) + 1
    count = max(min(LEAST_BLOCKS, number), min(int(by_lead), round(number ** (2 / 3))))
    return np.argsort(np.argsort(origins, kind="stable")) * count // number


def _sums(each: Mapping[str, NDArray], channel: int, place: Int[NDArray, " N"]) -> Float[NDArray, "P 4"]:
    """Place, absolute error, CRPS and count, summed over the cases `(1, N, C)` of each place that has any."""
    known = ~np.isnan(each["mae"][0, :, channel])
    where, index = np.unique(place[known], return_inverse=True)
    parts = (each["mae"][0, known, channel], each["crps"][0, known, channel], None)
    return np.stack([where, *(np.bincount(index, part, len(where)) for part in parts)], -1)
