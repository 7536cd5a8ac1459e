"""Where a forecast beats the best simple predictor, by how much and with what confidence: in numbers and in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from s2rm.files import Row
from s2rm.sensors.judging.judge import BASELINES, LEAST_BLOCKS
from s2rm.sensors.judging.scores import BANDS
from s2rm.sensors.times import lead_time

Metric = Literal["mae", "crps"]
GROUPS = {"seen": "stations in the fit", "held out": "withheld stations"}
"""headings of the groups of stations in rows of scores"""
CONFIDENCE = 0.95
"""of the intervals"""
_RESAMPLES = 4000


@dataclass(frozen=True)
class Gain:
    """How far a model's error is below that of the best simple predictor, as a share of the latter."""

    value: str
    sensors: str
    """the group of stations"""
    leads: tuple[int, ...]
    """lead times in steps; a gain over several is the mean of their gains"""
    best: tuple[str, ...]
    """the simple predictor with the least error at each lead, chosen on these same cases"""
    gain: float
    """1 minus the ratio of the errors; negative if the model is worse"""
    low: float
    high: float
    """ends of the interval; NaN if there are too few blocks"""
    cases: int
    """number of forecasts compared with an observation"""

    @property
    def sign(self) -> int:
        """1 if the whole interval is above 0 (the model is better), -1 if it is below 0, otherwise 0."""
        return int(self.low > 0) - int(self.high < 0)

    def ends(self, sign: int = 1) -> str:
        """The interval in words; with -1 that of the loss instead."""
        if np.isnan(self.low):
            return "no interval"
        low, high = sorted((sign * self.low, sign * self.high))
        return f"{percent(low)} to {percent(high)} %"


def of_group(rows: Iterable[Row], value: str, group: str) -> list[Row]:
    """The scores of a value at a group of stations, with no station silent."""
    return [row for row in rows if (row["value"], row["sensors"], row["silent"]) == (value, group, 0)]


def leads_of(rows: Iterable[Row]) -> list[int]:
    """The lead times of some scores, in order."""
    return sorted({row["lead"] for row in rows})


def compare(
    rows: Iterable[Row], model: str, value: str, sensors: str, leads: Sequence[int], metric: Metric = "mae"
) -> Gain:
    """The gain of a model over the best simple predictor, from rows of `judge`.

    The best one is chosen at each lead on the same cases, which favours it. Blocks without a case at some lead do not
    enter the interval.
    """
    ours: list[dict[float, float]] = []
    theirs: list[dict[float, float]] = []
    mine, column = of_group(rows, value, sensors), 1 + ("mae", "crps").index(metric)
    best, errors, cases = list[str](), list[float](), 0
    for lead in leads:
        found = {row["predictor"]: row for row in mine if row["lead"] == lead}
        if not any(name in BASELINES for name in found):
            raise ValueError(
                f"verdict: expected scores of simple predictors beside those of {model}, got none; give judge some of "
                "BASELINES too"
            )
        best.append(min((name for name in found if name in BASELINES), key=lambda name: found[name][metric]))
        for name, kept in ((model, ours), (best[-1], theirs)):
            kept.append({sums[0]: sums[column] for sums in found[name]["by_block"]})
        mistaken, least = found[model][metric], found[best[-1]][metric]
        errors.append(mistaken / least if least else 1.0 if not mistaken else np.nan)
        cases += int(found[model]["count"])
    shared = sorted(set.intersection(*(set(sums) for sums in theirs)))
    low, high = interval(*(np.array([[sums[block] for block in shared] for sums in kept]) for kept in (ours, theirs)))
    return Gain(value, sensors, tuple(leads), tuple(best), 1 - float(np.mean(errors)), low, high, cases)


def interval(ours: Float[NDArray, "L K"], theirs: Float[NDArray, "L K"]) -> tuple[float, float]:
    """The interval of the mean over L leads of 1 minus the ratio of two errors, by a bootstrap over K blocks of time.

    Whole blocks are drawn with replacement, the same ones for both and at all leads. The percentiles are those of
    Hesterberg (2015, section 5.3), which widen the interval of few blocks as Student's t does.

    Args:
        ours, theirs: the errors summed over each block.

    Returns:
        Low and high end; NaN for fewer than `LEAST_BLOCKS` blocks, or if `theirs` has no error in some block.
    """
    number = theirs.shape[1]
    if number < LEAST_BLOCKS or not (theirs > 0).all():
        return np.nan, np.nan
    drawn = np.random.default_rng(0).integers(number, size=(_RESAMPLES, number))
    gains = 1 - (ours[:, drawn].sum(-1) / theirs[:, drawn].sum(-1)).mean(0)
    tail = ndtr(np.sqrt(number / (number - 1)) * stdtrit(number - 1, (1 - CONFIDENCE) / 2))
    low, high = np.quantile(gains, [tail, 1 - tail])
    return float(low), float(high)


def verdict(rows: Sequence[Row], model: str, length: np.timedelta64) -> list[tuple[str, str]]:
    """The verdict on a model's forecasts, from rows of `judge`: names and sentences, one overall and one per value.

    The sentence on a value says at which lead times its forecasts beat the best simple predictor, by how much and in
    how many cases, where they do not, and the coverage of their intervals.

    Raises:
        ValueError: rows without those of a simple predictor, of `BASELINES`.
    """
    gains = each_lead(rows, model)
    better, worse = (sum(gain.sign == sign for gain in gains) for sign in (1, -1))
    simple = [name for name in dict.fromkeys(row["predictor"] for row in rows) if name in BASELINES]
    whole = (
        f"{model} beats the best of {len(simple)} simple predictors ({', '.join(simple)}) in {better} of "
        f"{len(gains)} comparisons, one for each value, lead time and group of stations, is worse in {worse}, and "
        f"cannot be distinguished from it in {len(gains) - better - worse}. In brackets are {100 * CONFIDENCE:.0f} % "
        "intervals and numbers of cases."
    )
    values = dict.fromkeys(row["value"] for row in rows)
    said = {name: [*_clauses(rows, model, name, length), _bands(rows, model, name)] for name in values}
    return [("", whole), *((name, "; ".join(clauses) + ".") for name, clauses in said.items())]


def each_lead(rows: Sequence[Row], model: str) -> list[Gain]:
    """The gain of a model for each value, group of stations and lead."""
    return [
        compare(rows, model, value, group, [lead])
        for value in dict.fromkeys(row["value"] for row in rows)
        for group in GROUPS
        for lead in leads_of(of_group(rows, value, group))
    ]


def _clauses(rows: Sequence[Row], model: str, value: str, length: np.timedelta64) -> list[str]:
    """For each group of stations, the lead times at which the model is better, worse, or neither."""
    clauses, subject = [], f"{model} "
    for group, heading in GROUPS.items():
        leads = leads_of(of_group(rows, value, group))
        gains = [compare(rows, model, value, group, [lead]) for lead in leads]
        told: list[str] = []
        for sign, better in ((1, "beats the best simple predictor"), (-1, "is worse than it"), (0, "")):
            mine = [gain.leads[0] for gain in gains if gain.sign == sign]
            if not mine:
                continue
            whole, when = compare(rows, model, value, group, mine), _listed(mine, leads, length)
            cases = f"{whole.cases:,} case{'s' * (whole.cases != 1)}"
            if sign:
                words = better if told else better.replace("than it", "than the best simple predictor")
                told.append(f"{words} {when} by {percent(sign * whole.gain)} % ({whole.ends(sign)}, {cases})")
            else:
                it = "it" if told else "the best simple predictor"
                told.append(f"cannot be distinguished from {it} {when} ({cases})")
        clauses.append(f"at {heading} {subject}{_and(told)}" if told else f"no forecast could be judged at {heading}")
        subject = "it " if told else subject
    return clauses


def _bands(rows: Sequence[Row], model: str, value: str) -> str:
    """The coverage of the intervals, and their nominal coverage."""
    parts = []
    for group, heading in GROUPS.items():
        mine = [row for row in of_group(rows, value, group) if row["predictor"] == model]
        if mine:
            weights = [row["count"] for row in mine]
            shares = [np.average([row[name] for row in mine], weights=weights) for name in BANDS]
            parts.append(f"{_and([f'{100 * share:.0f} %' for share in shares])} of the observations at {heading}")
    bands = _and([f"{100 * share:.0f} %" for share in BANDS.values()])
    return f"its {bands} intervals contain {', '.join(parts)}"


def _listed(leads: Sequence[int], all_: Sequence[int], length: np.timedelta64) -> str:
    """Lead times in words: those that follow each other as a range."""
    if len(all_) > 1 and len(leads) == len(all_):
        return "at all lead times"
    runs: list[list[int]] = []
    for lead in leads:
        if runs and all_.index(lead) == all_.index(runs[-1][-1]) + 1:
            runs[-1].append(lead)
        else:
            runs.append([lead])
    said = []
    for run in runs:
        ends = [f"+{lead_time(lead, length)}" for lead in run]
        said += [f"{ends[0]} to {ends[-1]}"] if len(run) > 2 else ends
    return f"at {_and(said)}"


def percent(share: float, sign: str = "-") -> str:
    """A share in per cent, with a digit after the point below ten; its sign as in a format. A dash for NaN."""
    if np.isnan(share):
        return "–"
    return f"{100 * share:{sign}.{0 if abs(share) >= 0.0995 else 1}f}"


def digits(error: float) -> str:
    """An error to three digits, but whole numbers in full."""
    return f"{error:,.0f}" if error >= 999.5 else f"{error:#.3g}".rstrip(".")


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
