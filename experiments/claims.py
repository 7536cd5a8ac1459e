"""The claims, the paper's and our own, and how the rows of a result decide each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

HOLDS, NOT, UNDECIDED = "holds", "does not hold", "not decided"
SEEDS_DIFFER = 0.02
"""of balanced accuracy: more than S2GRU's seeds differ in the family"""
RECURRENT = ("RIMs", "RMC", "LSTM", "GRU")
STATIC = ("static scene", "last seen")
UNMOVING = ("nobody moves", "last seen", "mean view")
TRIVIAL = (*STATIC, *UNMOVING, "persistence", "climatology", "inverse distance", "local linear", "kriging")
"""predictors that stand last in tables"""
BATTLES = {
    "unit_type_f1": "unit-type macro F1",
    "friendly_f1": "friendly-marker F1",
    "negative_mse": "negative mean squared error",
    "log_likelihood": "log-likelihood",
}
RAILWAYS = {
    "f1": "F1",
    "f1_trains": "F1 of trains",
    "f1_other_trains": "F1 of other trains",
    "log_likelihood": "log-likelihood, nats a channel of a cell",
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
    """A claim and its source, and how a result decides it."""

    text: str
    source: str
    topic: str
    """a few words, for the summary"""
    decide: Callable[[Result], Decision]
    """the verdict and what it rests on; KeyError where the result lacks what it needs"""


class Decided(NamedTuple):
    """A claim with its verdict."""

    text: str
    source: str
    topic: str
    verdict: str
    because: str


def decided(claim: Claim, result: Result | None) -> Decided:
    """What the result says of the claim."""
    try:
        verdict, because = (UNDECIDED, "not run yet") if result is None else claim.decide(result)
    except KeyError as missing:
        verdict, because = UNDECIDED, f"not run yet: {missing.args[0]}"
    return Decided(*claim[:3], verdict, because)


def summary(all_: Sequence[Decided]) -> str:
    """How many claims hold, and on what: a list with an item for each verdict."""
    items = []
    for verdict in (HOLDS, NOT, UNDECIDED):
        topics = [one.topic for one in all_ if one.verdict == verdict]
        if topics:
            items.append(f"- **{verdict.capitalize()}** ({len(topics)} of {len(all_)}): {'; '.join(topics)}.")
    return "\n".join(items)


def moving(balls: int) -> str:
    return f"{balls} ball{'' if balls == 1 else 's'}"


def where(rows: pd.DataFrame, **values: object) -> pd.DataFrame:
    """The rows that have these values."""
    for name, value in values.items():
        rows = rows[rows[name] == value]
    return rows


def leads(rows: pd.DataFrame, others: Iterable[str], metrics: Iterable[str], by: Sequence[str] = ()) -> pd.DataFrame:
    """S2GRU's lead on each other predictor, by metric and the columns `by`.

    Returns:
        `mean`, the difference of the means over seeds, and `seeds`, S2GRU's worst seed less the other's best.

    Raises:
        KeyError: a predictor has no rows.
    """
    scores = rows.melt(["predictor", *by], list(metrics), "metric", "score")
    cells = scores.groupby(["predictor", "metric", *by], sort=False)["score"].agg(["mean", "min", "max"])
    ours = cells.loc["S2GRU"]
    each = {}
    for name in others:
        theirs = cells.loc[name]
        each[name] = pd.DataFrame({"mean": ours["mean"] - theirs["mean"], "seeds": ours["min"] - theirs["max"]})
    return pd.concat(each, names=["predictor"]).reset_index().astype({"metric": str})


def judged(found: pd.DataFrame) -> str:
    """Leads hold if they are above 0 with every seed, and do not if a mean is not."""
    if found["mean"].min() <= 0:
        return NOT
    return HOLDS if found["seeds"].min() > 0 else UNDECIDED


# One step ahead on the balls.


def above_all(metric: str, views: float) -> Callable[[Result], Decision]:
    """Whether S2GRU is above every recurrent baseline at every number of balls, with every seed of each."""

    def decide(result: Result) -> Decision:
        found = leads(where(result.rows, views=views), RECURRENT, [metric], ["balls"])
        least = found.loc[found["mean"].idxmin()]
        over = f"over {least['predictor']} at {moving(least['balls'])}"
        return judged(found), f"the smallest lead of the means is {least['mean']:+.3f}, {over}{still(result)}"

    return decide


def not_learned(result: Result) -> list[str]:
    """Baselines whose F1 with every seed is that of the static scene, so that a comparison shows who learns at all."""
    f1 = where(result.rows, views=1.0).set_index(["predictor", "seed", "balls"])["f1"].sort_index()
    return [name for name in RECURRENT if ((f1.loc[name] - f1.loc["static scene"]).dropna().abs() < 0.01).all()]


def still(result: Result) -> str:
    names = not_learned(result)
    return f"; in this time {', '.join(names)} learned nothing beyond the static scene" if names else ""


def above_the_trivial(result: Result) -> Decision:
    found = leads(result.rows, STATIC, ["f1"], ["balls", "views"])
    least = found.loc[found["mean"].idxmin()]
    over = f"over {least['predictor']} at {moving(least['balls'])} and {least['views']:.0%} of the views"
    return HOLDS if least["mean"] > 0 else NOT, f"the smallest lead is {least['mean']:+.3f}, {over}"


def lost_with_views(result: Result, names: Iterable[str]) -> dict[str, float]:
    """Mean loss of F1 over the numbers of balls, from all views to 30 %."""
    f1 = result.rows.groupby(["predictor", "balls", "views"])["f1"].mean().unstack()
    lost = (f1[1.0] - f1[0.3]).groupby("predictor").mean()
    return {name: lost[name] for name in names}


def said_of_losses(lost: dict[str, float]) -> str:
    return "mean loss of F1: " + ", ".join(f"{name} {loss:.3f}" for name, loss in lost.items())


def loses_least_views(result: Result) -> Decision:
    lost = lost_with_views(result, ("S2GRU", *RECURRENT))
    least = min(lost, key=lambda name: lost[name])
    return HOLDS if least == "S2GRU" else NOT, said_of_losses(lost) + still(result)


def oracle_loses_more(result: Result) -> Decision:
    lost = lost_with_views(result, ("TTO", "S2GRU"))
    return HOLDS if lost["TTO"] > lost["S2GRU"] else NOT, said_of_losses(lost)


def half_removed(result: Result) -> Decision:
    half = result.rows["removed"].max() // 2 + 1
    f1 = where(result.rows, removed=half).pivot(index="balls", columns="predictor", values="f1")
    pairs = list(zip(f1.index, f1["S2GRU"], f1["static scene"], strict=True))
    said = "; ".join(f"{moving(balls)}: {ours:.3f} against {static:.3f}" for balls, ours, static in pairs)
    return HOLDS if all(ours > static for _, ours, static in pairs) else NOT, f"F1 with {half} removed, {said}"


def keeps_track(result: Result) -> Decision:
    """Whether S2GRU is above all others at the last step and keeps half of its first lead on the static scene."""
    rows = where(result.rows, balls=5)
    f1 = rows.pivot(index="step", columns="predictor", values="f1")[rows["predictor"].unique()]
    lead, last = f1["S2GRU"] - f1["static scene"], f1.iloc[-1]
    below = (lead < lead.iloc[0] / 2).to_numpy()
    holds = not below.any() and last["S2GRU"] > last.drop("S2GRU").max()
    said = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    until = f"; half of its lead on the static scene is lost after {below.argmax()} steps" if below.any() else ""
    return HOLDS if holds else NOT, f"F1 of the frames at step {len(lead)}: {said}{until}"


def lost_without_terms(result: Result) -> tuple[dict[str, float], str]:
    """Loss of balanced accuracy without each term, the mean over balls and views, and the same in words."""
    means = result.rows.groupby("predictor")["balanced_accuracy"].mean()
    terms = ("input local", "input nonlocal", "intercell local", "intercell nonlocal")
    lost = {term: means["all terms"] - means[f"without {term}"] for term in terms}
    return lost, "balanced accuracy lost without " + ", ".join(f"{term} {loss:+.3f}" for term, loss in lost.items())


def all_terms_help(result: Result) -> Decision:
    (lost, said), updates = lost_without_terms(result), result.runs.set_index("label")["updates"]
    others = updates.drop("all terms")
    said += (
        f"; one seed cannot decide on less than {SEEDS_DIFFER}, and the run with all terms made "
        f"{updates['all terms']:,} updates in the time in which the others made {others.min():,} to {others.max():,}"
    )
    if min(lost.values()) < -SEEDS_DIFFER:
        return NOT, said
    return HOLDS if min(lost.values()) > SEEDS_DIFFER else UNDECIDED, said


def which_terms_help(result: Result) -> Decision:
    lost, said = lost_without_terms(result)
    holds = lost["input nonlocal"] > lost["input local"] and lost["intercell local"] > lost["intercell nonlocal"]
    return HOLDS if holds else NOT, said


def arena_is_shared(result: Result) -> Decision:
    reached, each = result.about["pixels_that_some_module_sees"], result.about["modules_that_see_a_pixel"]
    said = f"{reached:.0%} of the pixels are reached by some module, a pixel by {each:.1f} of {len(result.rows)}"
    return HOLDS if reached >= 0.99 and each > 1 else NOT, said


BALLS: tuple[tuple[str, Claim], ...] = (
    ("family", Claim("One step ahead, S2GRU is above every recurrent baseline at 1 to 6 balls, on F1", "Figures 4, 21",
                     "one-step F1 above every recurrent baseline", above_all("f1", 1.0))),
    ("family", Claim("The same on balanced accuracy", "Figures 4, 20", "the same on balanced accuracy",
                     above_all("balanced_accuracy", 1.0))),
    ("family", Claim("The same on log-likelihood", "ours to show", "the same on log-likelihood",
                     above_all("log_likelihood", 1.0))),
    ("family", Claim("With 30 % of the views, the same on F1", "Figure 21", "the same on F1 with 30 % of the views",
                     above_all("f1", 0.3))),
    ("family", Claim("With 30 % of the views, S2GRU loses less F1 than any recurrent baseline", "Figure 21",
                     "the smallest loss of F1 when views are dropped", loses_least_views)),
    ("family", Claim("Dropped views cost the oracle (TTO) more than S2GRU", "F.1.2",
                     "a smaller loss than the oracle's when views are dropped", oracle_loses_more)),
    ("family", Claim("S2GRU is above both trivial predictors on F1, at 1 to 6 balls and any share of the views",
                     "ours to show", "one-step F1 above the trivial predictors", above_the_trivial)),
    ("removed-modules", Claim("With half of its modules removed, S2GRU still beats the static scene", "Figure 7",
                              "better than the static scene with half of the modules", half_removed)),
    ("rollouts", Claim("S2GRU keeps track of 5 balls over 25 steps on its own predictions", "Figures 3, 15 to 19",
                       "5 balls tracked over 25 steps of rollout", keeps_track)),
    ("ablations", Claim("Both terms of both attentions help", "Figure 6", "a use for every term of the attentions",
                        all_terms_help)),
    ("ablations", Claim("The non-local term matters more in the input attention, the local one between modules",
                        "Figure 6", "non-local input attention, local attention between modules", which_terms_help)),
    ("enclaves", Claim("The modules share the arena between them", "Figure 5", "an arena shared between the modules",
                       arena_is_shared)),
)  # fmt: skip


# Battles and railways.


def loses_least(metric: str) -> Callable[[Result], Decision]:
    """Whether S2GRU loses less than every other model from all agents to 20 % of them, with every seed of each."""

    def decide(result: Result) -> Decision:
        rows = where(result.rows[~result.rows["predictor"].isin(TRIVIAL)], scenario=VALIDATION)
        scores = rows.pivot(index=["predictor", "seed"], columns="reporting", values=metric)
        lost = (scores[1.0] - scores[0.2]).groupby("predictor").agg(["mean", "min", "max"])
        ours, others = lost.loc["S2GRU"], lost.reindex([name for name in rows["predictor"].unique() if name != "S2GRU"])
        if others.empty:
            raise KeyError("other models")
        said = ", ".join(f"{name} {loss:.3f}" for name, loss in [("S2GRU", ours["mean"]), *others["mean"].items()])
        less = list(others.index[others["mean"] <= ours["mean"]])
        said = f"lost: {said}{f'; {listed(less)} lost less' if less else ''}{no_better(result, metric)}"
        if less:
            return NOT, said
        return HOLDS if ours["max"] < others["min"].min() else UNDECIDED, said

    return decide


def no_better(result: Result, metric: str) -> str:
    """Which models are not above both trivial predictors even with all agents: they have little to lose."""
    rows = where(result.rows, scenario=VALIDATION, reporting=1.0)
    means = rows.groupby("predictor", sort=False)[metric].mean()
    trivial = means.index.isin(TRIVIAL)
    low = list(means.index[~trivial & (means <= means[trivial].max())])
    return f"; not above the better trivial predictor with all agents: {listed(low)}" if low else ""


def listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def above(scenario: str, others: Sequence[str]) -> Callable[[Result], Decision]:
    """Whether S2GRU is above others on all four metrics in a scenario, all agents reporting."""

    def decide(result: Result) -> Decision:
        rows = where(result.rows, scenario=scenario, reporting=1.0)
        there = [name for name in others if name in set(rows["predictor"])]
        if not there:
            raise KeyError("others")
        found = leads(rows, there, BATTLES)
        by_metric = [(BATTLES[metric], part) for metric, part in found.groupby("metric", sort=False)]
        if judged(found) == NOT:
            below = [
                f"{name} on {label} ({lead:+.4f})"
                for label, part in by_metric
                for name, lead in zip(part["predictor"], part["mean"], strict=True)
                if lead <= 0
            ]
            return NOT, f"it is not above {listed(below)}"
        least = [(label, part.loc[part["mean"].idxmin()]) for label, part in by_metric]
        said = "; ".join(f"{label} {one['mean']:+.4f} over {one['predictor']}" for label, one in least)
        return judged(found), f"smallest leads of the means: {said}"

    return decide


def battles(result: Result) -> list[Claim]:
    """The claims on battles; the last ones are on each scenario that was scored."""
    scenarios = [name for name in result.rows["scenario"].unique() if name != VALIDATION]
    return [
        *(Claim(f"S2GRU loses least as agents fall silent, from all to 20 %, on {BATTLES[metric]}", "Figure 8",
                f"the smallest loss of {BATTLES[metric]} as agents fall silent", loses_least(metric))
          for metric in ("log_likelihood", "unit_type_f1")),
        Claim("On 1s2z, which is new, S2GRU is above every baseline on all four metrics", "Table 1",
              "above every baseline on the new scenario 1s2z", above("1s2z", RECURRENT)),
        *(Claim(f"On {name}, all agents reporting, S2GRU is above both trivial predictors on all four metrics",
                "ours to show", f"above both trivial predictors on {name}", above(name, UNMOVING))
          for name in (VALIDATION, *scenarios)),
    ]  # fmt: skip


def above_on_railways(metric: str) -> Callable[[Result], Decision]:
    def decide(result: Result) -> Decision:
        there = [name for name in UNMOVING if name in set(result.rows["predictor"])]
        found = leads(result.rows, there, [metric])
        least = found.loc[found["mean"].idxmin()]
        said = f"the smallest lead is {least['mean']:+.4f}, over {least['predictor']}"
        return HOLDS if least["mean"] > 0 else NOT, said

    return decide


def railways() -> list[Claim]:
    """The claims on railways."""
    return [
        Claim(f"S2GRU is above both trivial predictors on {label}", "ours to show",
              f"above both trivial predictors on {label.split(',')[0]}", above_on_railways(metric))
        for metric, label in RAILWAYS.items()
    ]  # fmt: skip


# Sensors.


def mae_of(result: Result, sensors: str, silent: float = 0.0) -> pd.DataFrame:
    """MAE by value and lead (rows) of each predictor (columns)."""
    rows = where(result.rows, sensors=sensors, silent=silent)
    return rows.pivot(index=["value", "lead"], columns="predictor", values="mae").sort_index()


def beats(other: str, sensors: str, first: int = 0) -> Callable[[Result], Decision]:
    """Whether S2GRU's MAE is below another's for every value and lead from `first` steps on."""

    def decide(result: Result) -> Decision:
        mae = mae_of(result, sensors)
        excess = mae[other] / mae["S2GRU"] - 1
        excess = excess[excess.index.get_level_values("lead") >= first].dropna()
        lost = [f"{value} +{lead} ({margin:+.1%})" for (value, lead), margin in excess.items() if margin <= 0]
        if lost:
            return NOT, f"its MAE is not below that of {other} at {listed(lost)}"
        value, lead = excess.idxmin()
        return HOLDS, f"the MAE of {other} is above S2GRU's by {excess.min():.1%} at least ({value}, +{lead})"

    return decide


def loses_no_more_than_msa(result: Result) -> Decision:
    growth = (mae_of(result, "held out", 0.5) / mae_of(result, "held out") - 1).mean()
    ours, theirs = growth["S2GRU"], growth["MSA"]
    said = f"MAE at withheld stations grows by {ours:.1%}, MSA's by {theirs:.1%}"
    return HOLDS if ours <= theirs else NOT, said


def lower_in_most(peer: str) -> Callable[[Result], Decision]:
    def decide(result: Result) -> Decision:
        keys = ["value", "lead", "sensors", "silent"]
        mae = result.rows.pivot(index=keys, columns="predictor", values="mae")[["S2GRU", peer]].dropna()
        lower = int((mae["S2GRU"] < mae[peer]).sum())
        return HOLDS if 2 * lower > len(mae) else NOT, f"in {lower} of {len(mae)}"

    return decide


def sensors(result: Result) -> list[Claim]:
    """The claims on a table of sensors; those against other models where these were scored."""
    peers = [name for name in result.rows["predictor"].unique() if name not in (*TRIVIAL, "S2GRU")]
    found = [
        ("S2GRU beats persistence at seen stations from 3 steps on", beats("persistence", "seen", 3)),
        ("S2GRU beats inverse distance at withheld stations", beats("inverse distance", "held out")),
        ("S2GRU beats a local plane at withheld stations", beats("local linear", "held out")),
        *([("With half of the stations silent S2GRU loses no more than MSA", loses_no_more_than_msa)]
          if "MSA" in peers else []),
        *((f"In most cells S2GRU has a lower MAE than {peer}", lower_in_most(peer)) for peer in peers),
    ]  # fmt: skip
    return [Claim(text, "ours to show", text.removeprefix("S2GRU "), decide) for text, decide in found]


def pooled(result: Result) -> pd.DataFrame:
    """RMSE and MAE of each predictor over all folds, weighted by the number of values."""
    rows = result.rows.assign(square=result.rows["rmse"] ** 2 * result.rows["count"])
    rows["absolute"] = rows["mae"] * rows["count"]
    sums = rows.groupby("predictor", sort=False)[["square", "absolute", "count"]].sum()
    found = {"rmse": (sums["square"] / sums["count"]) ** 0.5, "mae": sums["absolute"] / sums["count"]}
    return pd.DataFrame({**found, "count": sums["count"]}).reset_index()


def left_out(result: Result) -> list[Claim]:
    """The claims on stations that are left out one at a time: the first predictor beats each other."""
    ours, *others = result.rows["predictor"].unique()

    def beats_pooled(other: str) -> Callable[[Result], Decision]:
        def decide(result: Result) -> Decision:
            rmse = pooled(result).set_index("predictor")["rmse"]
            said = f"RMSE {rmse[ours]:.2f} against {rmse[other]:.2f}"
            return HOLDS if rmse[ours] < rmse[other] else NOT, said

        return decide

    return [Claim(f"{ours} beats {other}", "ours to show", f"beats {other}", beats_pooled(other)) for other in others]
