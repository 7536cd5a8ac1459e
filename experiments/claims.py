"""How the rows of a result decide the claims in `claims.json`, the paper's and our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

CLAIMS = json.loads(Path(__file__).with_suffix(".json").read_text())
"""by kind; `rule` is a function below, and `only_with` what a row must hold for the claim to be made at all"""
HOLDS, NOT, UNDECIDED = "holds", "does not hold", "not decided"
SEEDS_DIFFER = 0.02
"""of balanced accuracy: more than S2GRU's seeds differ in the family"""
RECURRENT = ("RIMs", "RMC", "LSTM", "GRU")
STATIC = ("static scene", "last seen")
TRIVIAL = (*STATIC, "nobody moves", "last seen, by age", "mean view", "persistence", "seasonal",
           "climatology", "inverse distance", "local linear", "kriging", "constant", "random")  # fmt: skip
"""predictors that stand last in tables"""
BATTLES = {
    "unit_type_f1": "unit-type macro F1",
    "friendly_f1": "friendly-marker F1",
    "negative_mse": "negative mean squared error",
    "log_likelihood": "log-likelihood",
}
VALIDATION = "validation"
"""the battles of the training scenarios that are scored"""
Decision = tuple[str, str]
"""the verdict and what it rests on"""


@dataclass(frozen=True)
class Result:
    """A result file."""

    file: str
    """its path from the root of the repository"""
    about: dict[str, Any] = field(default_factory=dict)
    """where it comes from, and what holds for all of it"""
    runs: pd.DataFrame = field(default_factory=pd.DataFrame)
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)


class Claim(NamedTuple):
    """A claim with its verdict."""

    text: str
    source: str
    topic: str
    """a few words, for the summary"""
    verdict: str
    because: str


def decided(kind: str, results: Mapping[str, Result], name: str | None = None) -> list[Claim]:
    """The claims of a kind, decided by the result that each names, or by the one that is given."""
    found = []
    for claim in CLAIMS[kind]:
        result = results.get(name or claim["result"])
        needed = claim.get("only_with", {})
        if result is not None and needed and where(result.rows, **needed).empty:
            continue
        found.append(Claim(claim["text"], claim["source"], claim["topic"], *decide(claim, result)))
    return found


def decide(claim: Mapping[str, Any], result: Result | None) -> Decision:
    """The verdict on a claim; it is open where the result lacks what the rule needs."""
    if result is None:
        return UNDECIDED, "not run yet"
    try:
        verdict: Decision = rule(claim["rule"])(result, **claim.get("arguments", {}))
    except KeyError as missing:
        return UNDECIDED, f"not run yet: {missing.args[0]}"
    return verdict


def rule(name: str) -> Callable[..., Decision]:
    """The function of a rule, here or in a file of claims of one kind."""
    places = (globals(), *(vars(import_module(f"claims_{kind}")) for kind in ("sequences", "sensors")))
    found: Callable[..., Decision] = next(place[name] for place in places if name in place)
    return found


def summary(claims: Sequence[Claim]) -> str:
    """How many claims hold, and on what: a list with an item for each verdict."""
    items = []
    for verdict in (HOLDS, NOT, UNDECIDED):
        topics = [claim.topic for claim in claims if claim.verdict == verdict]
        if topics:
            items.append(f"- **{verdict.capitalize()}** ({len(topics)} of {len(claims)}): {'; '.join(topics)}.")
    return "\n".join(items)


def moving(balls: int) -> str:
    return f"{balls} ball{'' if balls == 1 else 's'}"


def where(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values."""
    for name, value in values.items():
        rows = rows[rows[name] == value]
    return rows


def holds(yes: bool) -> str:
    return HOLDS if yes else NOT


def all_hold(true: pd.Series, numbers: pd.Series) -> str:
    """Whether every case is true. Missing numbers leave that undecided, unless a known case is already false."""
    return NOT if not true[numbers.notna()].all() else UNDECIDED if numbers.isna().any() else HOLDS


def leads(rows: pd.DataFrame, others: Iterable[str], metrics: Iterable[str], *by: str) -> pd.DataFrame:
    """S2GRU's lead on each other predictor, by metric and the columns `by`.

    Returns:
        `mean`, the difference of the means over seeds, and `seeds`, S2GRU's worst seed less the other's best. Simple
        predictors do not train, and what differs between their seeds is the data alone: they are compared seed by seed
        where they have the same.

    Raises:
        KeyError: a predictor has no rows, or no scores to be compared.
    """
    keys = ["predictor", "metric", *by]
    scores = rows.melt(["predictor", "seed", *by], list(metrics), "metric", "score")
    cells = scores.groupby(keys, sort=False)["score"].agg(["mean", "min", "max"])
    alone = scores.set_index([*keys, "seed"])["score"]
    ours, each = cells.loc["S2GRU"], {}
    for name in others:
        theirs = cells.loc[name]
        least, by_seed = ours["min"] - theirs["max"], alone.loc["S2GRU"] - alone.loc[name]
        if name in TRIVIAL and by_seed.notna().all():
            least = by_seed.groupby(keys[1:], sort=False).min()
        each[name] = pd.DataFrame({"mean": ours["mean"] - theirs["mean"], "seeds": least})
    found = pd.concat(each, names=["predictor"]).reset_index()
    if found["mean"].isna().all():
        raise KeyError("S2GRU")
    return found


def judged(found: pd.DataFrame) -> str:
    """A lead holds if it is above 0 with every seed, and fails if a mean is not. Missing scores leave it undecided,
    unless a known mean already fails."""
    all_above = (found["seeds"] > 0).all()  # not so where there is none
    return NOT if found["mean"].min() <= 0 else HOLDS if all_above else UNDECIDED


# One step ahead on the balls.


def above_baselines(result: Result, metric: str, views: float) -> Decision:
    """S2GRU is above every recurrent baseline at every number of balls, with every seed of each; as long as some are
    not run, the claim can fail but not hold."""
    there, missing = trained(result)
    found = leads(where(result.rows, views=views), there, [metric], "balls")
    least = found.loc[found["mean"].idxmin()]
    over = f"over {least['predictor']} at {moving(least['balls'])}"
    verdict, said = judged(found), f"the smallest lead of the means is {least['mean']:+.3f}, {over}{still(result)}"
    return (UNDECIDED if missing and verdict == HOLDS else verdict), said + missing


def trained(result: Result) -> tuple[list[str], str]:
    """The recurrent baselines that have rows, at least one, and which have none, in words."""
    known = set(result.rows["predictor"])
    there, absent = ([name for name in RECURRENT if (name in known) == wanted] for wanted in (True, False))
    if not there:
        raise KeyError(", ".join(RECURRENT))
    return there, f"; {', '.join(absent)} not run yet" if absent else ""


def not_learned(result: Result) -> list[str]:
    """Baselines whose F1 with every seed is that of the static scene, so that a comparison shows who learns at all."""
    f1 = where(result.rows, views=1.0).set_index(["predictor", "seed", "balls"])["f1"].sort_index()
    return [
        name for name in trained(result)[0] if ((f1.loc[name] - f1.loc["static scene"]).dropna().abs() < 0.01).all()
    ]


def still(result: Result) -> str:
    names = not_learned(result)
    return f"; in this time {', '.join(names)} learned nothing beyond the static scene" if names else ""


def above_trivial(result: Result) -> Decision:
    found = leads(result.rows, STATIC, ["f1"], "balls", "views")
    least = found.loc[found["mean"].idxmin()]
    over = f"over {least['predictor']} at {moving(least['balls'])} and {least['views']:.0%} of the views"
    return all_hold(found["mean"] > 0, found["mean"]), f"the smallest lead is {least['mean']:+.3f}, {over}"


def lost_with_views(result: Result, *names: str) -> tuple[dict[str, float], str]:
    """Mean loss of F1 over the numbers of balls, from all views to 30 %, and the same in words."""
    f1 = result.rows.groupby(["predictor", "balls", "views"])["f1"].mean().unstack()
    means = (f1[1.0] - f1[0.3]).unstack("balls").mean(axis=1, skipna=False)
    lost = {name: means[name] for name in names}
    return lost, "mean loss of F1: " + ", ".join(f"{name} {loss:.3f}" for name, loss in lost.items())


def loses_least_views(result: Result) -> Decision:
    there, missing = trained(result)
    lost, said = lost_with_views(result, "S2GRU", *there)
    more = pd.Series(lost) - lost["S2GRU"]
    verdict = all_hold(more >= 0, more)
    return (UNDECIDED if missing and verdict == HOLDS else verdict), said + still(result) + missing


def oracle_loses_more(result: Result) -> Decision:
    lost, said = lost_with_views(result, "TTO", "S2GRU")
    difference = pd.Series([lost["TTO"] - lost["S2GRU"]])
    return all_hold(difference > 0, difference), said


def half_removed(result: Result) -> Decision:
    half = result.rows["removed"].max() // 2 + 1
    f1 = where(result.rows, removed=half).pivot(index="balls", columns="predictor", values="f1")
    said = "; ".join(f"{moving(balls)}: {row['S2GRU']:.3f} against {row['static scene']:.3f}"
                     for balls, row in f1.iterrows())  # fmt: skip
    lead = f1["S2GRU"] - f1["static scene"]
    return all_hold(lead > 0, lead), f"F1 with {half} removed, {said}"


def keeps_track(result: Result) -> Decision:
    """S2GRU is above all others at the last step and keeps half of its first lead on the static scene."""
    rows = where(result.rows, balls=5)
    f1 = rows.pivot(index="step", columns="predictor", values="f1")[rows["predictor"].unique()]
    lead, last = f1["S2GRU"] - f1["static scene"], f1.iloc[-1]
    below = (lead < lead.iloc[0] / 2).to_numpy()
    said = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    until = f"; half of its lead on the static scene is lost after {below.argmax()} steps" if below.any() else ""
    others = last[~last.index.str.startswith("S2GRU")]
    kept = not below.any() and last["S2GRU"] > others.max()
    return holds(kept), f"F1 of the frames at step {len(lead)}: {said}{until}"


def lost_without_terms(result: Result) -> tuple[dict[str, float], str]:
    """Loss of balanced accuracy without each term, the mean over balls and views, and the same in words."""
    means = result.rows.groupby("predictor")["balanced_accuracy"].mean()
    terms = ("input local", "input nonlocal", "intercell local", "intercell nonlocal")
    lost = {term: means["all terms"] - means[f"without {term}"] for term in terms}
    return lost, "balanced accuracy lost without " + ", ".join(f"{term} {loss:+.3f}" for term, loss in lost.items())


def all_terms_help(result: Result) -> Decision:
    """Whether each term is worth something with every seed; with one seed alone, more than seeds differ."""
    lost, said = lost_without_terms(result)
    means = result.rows.pivot_table(index="seed", columns="predictor", values="balanced_accuracy")
    by_seed = pd.DataFrame({term: means["all terms"] - means[f"without {term}"] for term in lost})
    least = SEEDS_DIFFER if len(by_seed) == 1 else 0.0
    said += (
        f"; one seed cannot decide on less than {least}"
        if least
        else f"; the least of a seed {by_seed.min().min():+.3f}"
    )
    helps, harms = (by_seed > least).all(axis=None), (by_seed < -least).all().any()
    return NOT if harms else HOLDS if helps else UNDECIDED, said


def which_terms_help(result: Result) -> Decision:
    lost, said = lost_without_terms(result)
    far = lost["input nonlocal"] > lost["input local"]
    return holds(far and lost["intercell local"] > lost["intercell nonlocal"]), said


def arena_is_shared(result: Result) -> Decision:
    reached, each = result.about["pixels_that_some_module_sees"], result.about["modules_that_see_a_pixel"]
    said = f"{reached:.0%} of the pixels are reached by some module, a pixel by {each:.1f} of {len(result.rows)}"
    return holds(reached >= 0.99 and each > 1), said


# Battles and railways.


def loses_least(result: Result, metric: str) -> Decision:
    """S2GRU loses less than every other model from all agents to 20 % of them, with every seed of each."""
    rows = where(result.rows[~result.rows["predictor"].isin(TRIVIAL)], scenario=VALIDATION)
    scores = rows.pivot(index=["predictor", "seed"], columns="reporting", values=metric)
    lost = (scores[1.0] - scores[0.2]).groupby("predictor").agg(["mean", "min", "max"])
    ours, others = lost.loc["S2GRU"], lost.reindex(rows["predictor"].unique()).drop("S2GRU")
    others = others.dropna()
    if others.empty or ours.isna().any():
        raise KeyError("other models")
    less = ", ".join(others.index[others["mean"] <= ours["mean"]])
    said = ", ".join(f"{name} {loss:.3f}" for name, loss in [("S2GRU", ours["mean"]), *others["mean"].items()])
    said = f"lost: {said}{f'; {less} lost less' if less else ''}{no_better(result, metric)}"
    verdict = NOT if less else HOLDS if ours["max"] < others["min"].min() else UNDECIDED
    return open_without(("RMC", "LSTM"), others.index, verdict, said)  # as in the paper


def loses_less(result: Result, metrics: Sequence[str], others: Sequence[str]) -> Decision:
    """S2GRU loses a smaller share than the others, from all agents to 20 %, in every seed."""
    rows, lost = where(result.rows, scenario=VALIDATION), {}
    for metric in metrics:
        scores = rows.pivot(index=["predictor", "seed"], columns="reporting", values=metric)
        shares = (1 - scores[0.2] / scores[1.0]).unstack("seed")
        shares = shares.loc[["S2GRU", *(name for name in others if name in shares.index)]]
        lost[BATTLES[metric]] = shares = shares.dropna(axis=1)
        if shares.empty or len(shares) < 2:
            raise KeyError("a seed of S2GRU and of the others")
    ahead = [(shares.iloc[1:] - shares.iloc[0]).to_numpy() for shares in lost.values()]
    verdict = HOLDS if min(each.min() for each in ahead) > 0 else UNDECIDED
    verdict = NOT if min(each.mean(1).min() for each in ahead) <= 0 else verdict
    means = {label: shares.mean(axis=1).items() for label, shares in lost.items()}
    said = (f"{label}: " + ", ".join(f"{name} {loss:.1%}" for name, loss in each) for label, each in means.items())
    return open_without(others, set(rows["predictor"]), verdict, f"lost: {'; '.join(said)}")


def no_better(result: Result, metric: str) -> str:
    """Which models are not above every simple predictor even with all agents: they have little to lose."""
    rows = where(result.rows, scenario=VALIDATION, reporting=1.0)
    means = rows.groupby("predictor", sort=False)[metric].mean()
    trivial = means.index.isin(TRIVIAL)
    low = ", ".join(means.index[~trivial & (means <= means[trivial].max())])
    return f"; not above the best simple predictor with all agents: {low}" if low else ""


def above_everywhere(result: Result, scenarios: Sequence[str], others: Sequence[str], reporting: float) -> Decision:
    """S2GRU is above the others in all scenarios, a share of the agents reporting; see `above`."""
    decisions = {scenario: above(result, scenario, others, reporting) for scenario in scenarios}
    verdicts = [verdict for verdict, _ in decisions.values()]
    verdict = next((worst for worst in (NOT, UNDECIDED) if worst in verdicts), HOLDS)
    return verdict, "; ".join(f"{name}: {said}" for name, (one, said) in decisions.items() if one == verdict)


def above(result: Result, scenario: str, others: Sequence[str], reporting: float = 1.0) -> Decision:
    """S2GRU is above the others on all four metrics, a share of the agents reporting; as long as some of them are not
    scored, the claim can fail but not hold."""
    rows = where(result.rows, scenario=scenario, reporting=reporting)
    there = [name for name in others if name in set(rows["predictor"])]
    if not there:
        raise KeyError("others")
    found = leads(rows, there, BATTLES)
    by_metric = [(BATTLES[metric], part) for metric, part in found.groupby("metric", sort=False)]
    below = [
        f"{row['predictor']} on {label} ({row['mean']:+.4f})"
        for label, part in by_metric
        for row in part[part["mean"] <= 0].to_dict("records")
    ]
    if below:
        return NOT, f"it is not above {', '.join(below)}"
    least = [(label, part.loc[part["mean"].idxmin()]) for label, part in by_metric]
    said = "; ".join(f"{label} {one['mean']:+.4f} over {one['predictor']}" for label, one in least)
    return open_without(others, there, judged(found), f"smallest leads of the means: {said}")


def open_without(wanted: Sequence[str], there: Container[str], verdict: str, said: str) -> Decision:
    """A verdict that cannot be that the claim holds as long as some are not run."""
    absent = ", ".join(name for name in wanted if name not in there)
    if not absent:
        return verdict, said
    return UNDECIDED if verdict == HOLDS else verdict, f"{said}; {absent} not run yet"


def above_on_railways(result: Result, metric: str) -> Decision:
    found = leads(result.rows, ("mean view", "last seen"), [metric])
    least = found.loc[found["mean"].idxmin()]
    said = f"the smallest lead is {least['mean']:+.4f}, over {least['predictor']}"
    return all_hold(found["mean"] > 0, found["mean"]), said
