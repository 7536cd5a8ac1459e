"""How the rows of a result decide the claims about sensors in `claims.json`; `claims.py` looks its rules up here."""

from __future__ import annotations

import pandas as pd

from claims import TRIVIAL, Decision, Result, all_hold, holds, where


def mae_of(result: Result, sensors: str, silent: float = 0.0, model: str = "S2GRU") -> pd.DataFrame:
    """MAE, a mean over the seeds of a model, by value and lead (rows) of each predictor (columns)."""
    rows = where(of_seeds_of(result.rows, model), sensors=sensors, silent=silent)
    return rows.pivot_table(index=["value", "lead"], columns="predictor", values="mae").sort_index()


def of_seeds_of(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of the seeds of a model: a seed draws the withheld stations, so that errors of others differ."""
    if "seed" not in rows:
        return rows
    return rows[rows["seed"].isin(rows["seed"][rows["predictor"] == model])]


def against_the_obvious(result: Result, metric: str) -> pd.DataFrame:
    """Errors, means over the seeds, over that of the best simple predictor in the test, by value,
    stations and lead (rows) of each model (columns); all stations that are not withheld report."""
    rows = where(result.rows, silent=0.0)
    ratios = {}
    for model in sorted(set(rows["predictor"]) - set(TRIVIAL)):
        own = of_seeds_of(rows, model)
        errors = own.pivot_table(index=["value", "sensors", "lead"], columns="predictor", values=metric)
        ratios[model] = errors[model] / errors[[name for name in errors if name in TRIVIAL]].min(axis=1)
    return pd.DataFrame(ratios).rename_axis(columns="predictor")


def nowhere_worse(result: Result, metric: str, most: float) -> Decision:
    ratio = against_the_obvious(result, metric)["S2GRU"]
    if ratio.isna().all():
        raise KeyError("S2GRU")
    value, sensors, lead = ratio.idxmax()
    worst = f"the worst is {ratio.max():.3f} ({value}, {sensors}, +{lead})"
    return all_hold(ratio <= most, ratio), f"in {(ratio <= most).sum()} of {len(ratio)} cases; {worst}"


def loses_no_more(result: Result, peer: str) -> Decision:
    growth = (mae_of(result, "held out", 0.5, peer) / mae_of(result, "held out", model=peer) - 1).mean()
    said = f"MAE at withheld stations grows by {growth['S2GRU']:.1%}, {peer}'s by {growth[peer]:.1%}"
    return holds(growth["S2GRU"] <= growth[peer]), said


def lower_in_most(result: Result, peer: str) -> Decision:
    by_cell = ["value", "lead", "sensors", "silent"]
    cells = of_seeds_of(result.rows, peer).pivot_table(index=by_cell, columns="predictor", values="mae")
    mae = cells[["S2GRU", peer]].dropna()
    lower = int((mae["S2GRU"] < mae[peer]).sum())
    return holds(2 * lower > len(mae)), f"in {lower} of {len(mae)}"


def pooled(result: Result) -> pd.DataFrame:
    """RMSE and MAE of each predictor over all folds, weighted by the number of values."""
    rows = result.rows.assign(square=result.rows["rmse"] ** 2 * result.rows["count"])
    rows["absolute"] = rows["mae"] * rows["count"]
    sums = rows.groupby("predictor", sort=False)[["square", "absolute", "count"]].sum()
    found = {"rmse": (sums["square"] / sums["count"]) ** 0.5, "mae": sums["absolute"] / sums["count"]}
    return pd.DataFrame({**found, "count": sums["count"]}).reset_index()


def beats_pooled(result: Result, other: str) -> Decision:
    rmse = pooled(result).set_index("predictor")["rmse"]
    return holds(rmse["S2GRU"] < rmse[other]), f"RMSE {rmse['S2GRU']:.2f} against {rmse[other]:.2f}"
