"""How good forecasts are: at later times, at withheld stations, by lead time, and with silent stations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from s2rm.files import Row
from s2rm.sensors.checks import check_clock, check_leads, check_origin
from s2rm.sensors.given import mask_of, told, whole_numbers
from s2rm.sensors.kriging import Kriging
from s2rm.sensors.predictors import Baseline, Climatology, InverseDistance, LocalLinear, Persistence, SensorPredictor
from s2rm.sensors.reports import Reports, difference
from s2rm.sensors.settings import check_share

Scored = Float[NDArray, "K Q C"]
HALF_WIDTH = float(ndtri(0.95))
"""of the central 90 % interval, whose coverage is scored, in standard deviations"""
BASELINES: dict[str, type[Baseline]] = {
    "persistence": Persistence, "climatology": Climatology, "inverse distance": InverseDistance,
    "local linear": LocalLinear, "kriging": Kriging,
}  # fmt: skip
"""the predictors that every forecast is compared with"""


class Split(NamedTuple):
    """The observations before step `first` of the stations that are not withheld, for a fit."""

    train: Reports
    first: int
    withheld: Bool[NDArray, " S"]


def split(reports: Reports, test: float, withheld: float, seed: int = 0) -> Split:
    """Set the last steps and some stations apart, a share `test` and `withheld` of them, to judge a forecast on.

    The stations are drawn at random from those that report at all; at least one is withheld.

    Raises:
        ValueError: no share from 0 to 1, or some reports stand so far from the others in time that a clock must have
            been wrong.
    """
    test, withheld = check_share(test, "split: test"), check_share(withheld, "split: withheld")
    check_clock(reports)
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
    predictors: Mapping[str, SensorPredictor], reports: Reports, origins: ArrayLike, leads: Sequence[int],
    held_out: ArrayLike, silent: float | Sequence[float] = (0.0, 0.5), seed: int = 0,
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> list[Row]:  # fmt: skip
    """Score forecasts against the observations, at stations that the predictors see and at stations they do not.

    Args:
        predictors: fitted to earlier observations, without the withheld stations.
        reports: all observations.
        origins: steps of initialisation `(O,)`; only observations up to then are shown to a predictor.
        leads: lead times in steps; 0 is an analysis, which is scored at withheld and silent stations only.
        held_out: bool `(S,)`, the withheld stations, which are never shown.
        silent, seed: shares of the other stations that are not shown either, drawn at random, and the seed of the draw.
        progress: wraps the origins, to show how far the work is.

    Returns:
        Rows with `predictor`, `value`, `lead`, `sensors` ("seen", "held out" or "silent"), `silent`, `mae`, `rmse`,
        `crps`, `coverage` and `count`.

    Raises:
        ValueError: leads out of order or none, no origin, one that is not a step of the reports, a mask of another
            size, or no share from 0 to 1.
    """
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
    for share in shares:
        hidden, seen = withheld.copy(), np.flatnonzero(~withheld)
        hidden[generator.permutation(seen)[: round(share * len(seen))]] = True
        groups = {"seen": ~hidden, "held out": withheld, "silent": hidden & ~withheld}
        shown = reports.of(~hidden)
        cases: dict[str, list[tuple[NDArray, ...]]] = {}
        for origin in progress(steps):
            asked = reports.where(np.isin(reports.step, origin + np.array(leads)))
            if not len(asked):
                continue
            known, sensors = shown.where(shown.step <= origin), np.where(hidden[asked.sensor], -1, asked.sensor)
            # Each place is asked for once, for all lead times.
            where = np.concatenate([asked.positions, sensors[:, None]], 1)
            places, first, place = np.unique(where, axis=0, return_index=True, return_inverse=True)
            queries = (places[:, :-1], asked.covariates[first], places[:, -1].astype(np.int64))
            ahead = asked.step - origin
            lead_of = np.searchsorted(leads, ahead)
            for name, predictor in predictors.items():
                mean, stddev = predictor.predict(known, origin, *queries, leads)
                forecast = (mean[lead_of, place], stddev[lead_of, place])
                cases.setdefault(name, []).append((*forecast, asked.values, asked.sensor, ahead))
        for name, parts in cases.items():
            mean, stddev, truth, sensor, ahead = (np.concatenate(part) for part in zip(*parts, strict=True))
            for group, lead in product(groups, leads):
                if lead == 0 and group == "seen":
                    continue
                mine = groups[group][sensor] & (ahead == lead)
                scored = scores(mean[None, mine], stddev[None, mine], truth[None, mine], circular)
                case = {"predictor": name, "lead": lead, "sensors": group, "silent": share}
                rows += [
                    {**case, "value": value, **{key: float(part[0, channel]) for key, part in scored.items()}}
                    for channel, value in enumerate(reports.columns.values)
                    if scored["count"][0, channel]
                ]
    return rows


def gaussian_crps(error: Float[NDArray, "*batch"], stddev: Float[NDArray, "*batch"]) -> Float[NDArray, "*batch"]:
    r"""The continuous ranked probability score of a Gaussian; without spread, the absolute error.

    With $z$ the error in standard deviations $\sigma$, it is
    $\sigma \, (z (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt{\pi})$ (Gneiting and Raftery, 2007, equation 21).
    """
    z = np.divide(error, stddev, out=np.zeros_like(error), where=stddev > 0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.where(stddev > 0, stddev * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)), np.abs(error))


def scores(mean: Scored, stddev: Scored, truth: Scored, circular: Bool[NDArray, " C"]) -> dict[str, NDArray]:
    """Scores of forecasts by lead and channel, over the queries whose truth is not missing.

    Args:
        mean, stddev, truth: in the user's units; the truth is NaN where missing.
        circular: which channels are directions in degrees; their errors are the shorter way round.

    Returns:
        `(K, C)` each, NaN where all truth is missing: `mae`, `rmse` and `crps` in the user's units, `coverage`, the
        share of the truth within the central 90 % interval, and `count`, the number of values that are not missing.

    Raises:
        ValueError: a forecast that is not finite where the truth is known, or a negative standard deviation.
    """
    known = ~np.isnan(truth)
    if not (np.isfinite(mean[known]).all() and (stddev[known] >= 0).all()):
        raise ValueError(
            "scores: expected a finite mean and a standard deviation of at least 0 wherever the truth is known, got "
            "others; a predictor must answer every query"
        )
    error = difference(mean.astype(np.float64), truth.astype(np.float64), circular)
    error, spread = np.where(known, error, 0.0), np.where(known, stddev, 0.0).astype(np.float64)
    count = known.sum(1)

    def average(score: NDArray) -> NDArray:
        total = (score * known).sum(1)
        return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)

    return {
        "mae": average(np.abs(error)),
        "rmse": np.sqrt(average(error**2)),
        "crps": average(gaussian_crps(error, spread)),
        "coverage": average((np.abs(error) <= HALF_WIDTH * spread).astype(np.float64)),
        "count": count,
    }
