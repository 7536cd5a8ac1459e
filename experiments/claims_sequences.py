"""How the rows of a result decide the claims about sequences in `claims.json`; `claims.py` looks its rules up here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd

from claims import HOLDS, NOT, TRIVIAL, UNDECIDED, Decision, Result, all_hold, where

SEEDS = 5
"""of each model, with which a comparison can hold"""
LEAST_SEEDS = 3
"""with which RIMs can be said to reach a limit"""


def reaches(result: Result, metric: str, limits: Mapping[str, float], best: Literal["max", "min"] = "min") -> Decision:
    """RIMs are on the better side of a limit at each size, with every seed; a mean that is not decides against it."""
    rows = where(result.rows, predictor="RIMs")
    if rows.empty:
        raise KeyError("RIMs")
    scores = rows.groupby("size")[metric].agg(["mean", "min", "max", "count"])
    sign, worst = (1, "max") if best == "min" else (-1, "min")
    verdicts, said = [HOLDS], []
    for size, limit in limits.items():
        found = scores.loc[int(size)]
        if sign * found["mean"] >= sign * limit:
            verdicts.append(NOT)
        elif sign * found[worst] >= sign * limit:
            verdicts.append(UNDECIDED)
        within = (sign * rows[rows["size"] == int(size)][metric] < sign * limit).sum()
        few = "" if within in (0, found["count"]) else f" and {within} of {found['count']:.0f} seeds reach"
        said.append(f"{found['mean']:.4f} at {size}, where {limit:g} is asked for{few}")
    verdict = next(verdict for verdict in (NOT, UNDECIDED, HOLDS) if verdict in verdicts)
    count = int(scores["count"].min())
    told = f"{', '.join(said)}; {count} seed{'s' if count > 1 else ''}"
    if verdict == HOLDS and count < LEAST_SEEDS:
        return UNDECIDED, f"{told}, and {LEAST_SEEDS} are asked for"
    return verdict, told


def above_the_simple(result: Result, steps: int) -> Decision:
    """RIMs' F1 in rollouts is above each simple predictor's at each of the first steps, for all numbers of balls."""
    rows = result.rows[result.rows["step"] <= steps]
    f1 = rows.pivot_table(index=["balls", "step"], columns="predictor", values="f1")
    simple = f1.columns.intersection(TRIVIAL)
    lead = f1["RIMs"] - f1[simple].max(axis=1, skipna=False)
    if lead.isna().all():
        raise KeyError("RIMs")
    balls, step = lead.idxmin()
    seeds = rows["seed"].nunique() if "seed" in rows else 1
    said = f"smallest lead in F1 {lead.min():+.3f}, with {balls} balls at step {step}; {seeds} seed{'s' * (seeds > 1)}"
    asked = pd.MultiIndex.from_product([rows["balls"].unique(), range(1, steps + 1)])
    return all_hold(lead.reindex(asked) > 0, lead.reindex(asked)), said


def rolls_out_better(result: Result, balls: list[int], steps: int, other: str = "LSTM") -> Decision:
    """RIMs' mean F1 over the first steps of rollouts with these numbers of balls is above another's."""
    rows = result.rows[result.rows["balls"].isin(balls) & (result.rows["step"] <= steps)]
    ours, theirs = (where(rows, predictor=name)["f1"].mean() for name in ("RIMs", other))
    seeds = int(rows.groupby("predictor")["seed"].nunique()[["RIMs", other]].min()) if "seed" in rows else 1
    said = f"mean F1 of {steps} steps: RIMs {ours:.3f}, {other} {theirs:.3f}; {seeds} seed{'s' * (seeds > 1)}"
    counts = rows.pivot_table(index=["balls", "step"], columns="predictor", values="f1", aggfunc="count")
    asked = pd.MultiIndex.from_product([balls, range(1, steps + 1)])
    fewest = counts.reindex(asked, fill_value=0)[["RIMs", other]].fillna(0).min(axis=None)
    return (NOT if ours <= theirs else UNDECIDED if fewest < LEAST_SEEDS else HOLDS), said


def below_the_simple(result: Result) -> str:
    """From which step of a rollout on each model is below a simple predictor, in words, by number of balls."""
    f1 = result.rows.pivot_table(index=["balls", "step"], columns="predictor", values="f1")
    simple = f1.columns.intersection(TRIVIAL)
    said = []
    for name in f1.columns.difference(simple, sort=False):
        ahead = (f1[name] > f1[simple].max(axis=1)).unstack("step")
        first = [next((str(step) for step, is_so in row.items() if not is_so), "none") for _, row in ahead.iterrows()]
        said.append(f"{', '.join(first)} for {name}")
    return f"with {', '.join(map(str, f1.index.levels[0]))} balls, {'; '.join(said)}"


def generalises_better(
    result: Result, metric: str, size: int, other: str = "LSTM", best: Literal["max", "min"] = "min", **about: str
) -> Decision:
    """RIMs are better than another at a size with every seed of each; few seeds can decide against it only."""
    sign, side = (1, "below") if best == "min" else (-1, "above")
    rows = where(result.rows, size=size, **about)
    ours, theirs = (where(rows, predictor=name)[metric] for name in ("RIMs", other))
    better = f"{(sign * ours < (sign * theirs).min()).sum()} of RIMs' are {side} each of the {other}'s"
    seeds = f"{len(ours)} and {len(theirs)} seeds"
    said = f"at {size}: RIMs {ours.mean():.4f}, {other} {theirs.mean():.4f}; {seeds}, {better}"
    if min(len(ours), len(theirs)) < SEEDS:
        return UNDECIDED, f"{said}, and {SEEDS} of each are asked for"
    if sign * ours.mean() >= sign * theirs.mean():
        return NOT, said
    return (HOLDS if (sign * ours).max() < (sign * theirs).min() else UNDECIDED), said
