"""The paper's claims on the balls, one by one, and what the results say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

HOLDS, NOT, UNDECIDED = "holds", "does not hold", "not decided"
SEEDS_DIFFER = 0.02
"""of balanced accuracy: more than S2GRU's seeds differ in the family"""
RECURRENT = ("RIMs", "RMC", "LSTM", "GRU")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Claim:
    """A claim, where it comes from, and how the rows (or the whole) of one result decide it."""

    text: str
    source: str
    result: str
    """the result's name in `results/`"""
    decide: Callable[[dict[str, Any]], tuple[str, str]]
    """the verdict and what it rests on; KeyError where the result does not hold enough for one"""


def verdict(claim: Claim, result: dict[str, Any] | None) -> tuple[str, str]:
    """What the result says of the claim."""
    if result is None:
        return UNDECIDED, "not run yet"
    try:
        return claim.decide(result)
    except KeyError as missing:
        return UNDECIDED, f"not run yet: {missing.args[0]}"


def scores(rows: Rows, predictor: str, metric: str, **where: Any) -> list[float]:
    """A metric of a predictor where the rows have these values: one a seed.

    Raises:
        KeyError: nothing there.
    """
    found = [
        row[metric] for row in rows if row["predictor"] == predictor and all(row[k] == v for k, v in where.items())
    ]
    if not found:
        raise KeyError(predictor)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def numbers(rows: Rows) -> list[int]:
    return sorted({row["balls"] for row in rows})


def moving(balls: int) -> str:
    return f"{balls} ball{'' if balls == 1 else 's'}"


def above_all(metric: str, views: float) -> Callable[[dict[str, Any]], tuple[str, str]]:
    """Whether S2GRU is above every recurrent baseline at every number of balls, with every seed of each."""

    def decide(result: dict[str, Any]) -> tuple[str, str]:
        rows, closest = result["rows"], []
        for balls in numbers(rows):
            ours = scores(rows, "S2GRU", metric, balls=balls, views=views)
            for name in RECURRENT:
                theirs = scores(rows, name, metric, balls=balls, views=views)
                closest.append((mean(ours) - mean(theirs), min(ours) - max(theirs), name, balls))
        margin, _, name, balls = min(closest)
        said = f"the least margin of the means is {margin:+.3f}, over {name} at {moving(balls)}{still_static(rows)}"
        if margin <= 0:
            return NOT, said
        return (HOLDS if min(of_seeds for _, of_seeds, *_ in closest) > 0 else UNDECIDED), said

    return decide


def still_static(rows: Rows) -> str:
    """Which baselines have not learned more than the static scene, so that a comparison says who learns, no more."""
    still = [
        name
        for name in RECURRENT
        if all(
            abs(score - scores(rows, "static scene", "f1", **where)[0]) < 0.01
            for seed in {row["seed"] for row in rows if row["predictor"] == name}
            for balls in numbers(rows)
            for where in [{"balls": balls, "views": 1.0, "seed": seed}]
            for score in scores(rows, name, "f1", **where)
        )
    ]
    return f"; in this time {', '.join(still)} learned the static scene and no more" if still else ""


def above_the_trivial(result: dict[str, Any]) -> tuple[str, str]:
    rows = result["rows"]
    margins = [
        (
            mean(scores(rows, "S2GRU", "f1", balls=balls, views=views))
            - mean(scores(rows, name, "f1", balls=balls, views=views)),
            f"{name} at {moving(balls)} and {views:.0%} of the views",
        )
        for name in ("static scene", "last seen")
        for balls in numbers(rows)
        for views in sorted({row["views"] for row in rows})
    ]
    margin, where = min(margins)
    return (HOLDS if margin > 0 else NOT), f"the least margin is {margin:+.3f}, over {where}"


def losses(result: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """Mean loss of F1 over the numbers of balls, from all views to 30 %."""
    rows = result["rows"]
    return {
        name: mean(
            [
                mean(scores(rows, name, "f1", balls=balls, views=1.0))
                - mean(scores(rows, name, "f1", balls=balls, views=0.3))
                for balls in numbers(rows)
            ]
        )
        for name in names
    }


def loses_least(result: dict[str, Any]) -> tuple[str, str]:
    lost = losses(result, ("S2GRU", *RECURRENT))
    said = ", ".join(f"{name} {loss:.3f}" for name, loss in lost.items())
    return (
        HOLDS if min(lost, key=lambda name: lost[name]) == "S2GRU" else NOT
    ), f"mean loss of F1: {said}{still_static(result['rows'])}"


def oracle_loses_more(result: dict[str, Any]) -> tuple[str, str]:
    lost = losses(result, ("S2GRU", "TTO"))
    return (
        HOLDS if lost["TTO"] > lost["S2GRU"] else NOT,
        f"mean loss of F1: TTO {lost['TTO']:.3f}, S2GRU {lost['S2GRU']:.3f}",
    )


def half_removed(result: dict[str, Any]) -> tuple[str, str]:
    rows, half = result["rows"], max(row["removed"] for row in result["rows"]) // 2 + 1
    pairs = [
        (balls, scores(rows, "S2GRU", "f1", balls=balls, removed=half)[0],
         scores(rows, "static scene", "f1", balls=balls, removed=half)[0])
        for balls in numbers(rows)
    ]  # fmt: skip
    said = "; ".join(f"{moving(balls)}: {ours:.3f} against {still:.3f}" for balls, ours, still in pairs)
    return (HOLDS if all(ours > still for _, ours, still in pairs) else NOT), f"F1 with {half} removed, {said}"


def keeps_track(result: dict[str, Any]) -> tuple[str, str]:
    """Whether S2GRU, at the last step, is above all others and keeps half of its first lead on the static scene."""
    lines = {row["predictor"]: row["f1"] for row in result["rows"] if row["balls"] == 5}
    lead = [ours - still for ours, still in zip(lines["S2GRU"], lines["static scene"], strict=True)]
    half = next((step for step, ahead in enumerate(lead) if ahead < lead[0] / 2), None)
    last = {name: line[-1] for name, line in lines.items()}
    holds = half is None and last["S2GRU"] > max(value for name, value in last.items() if name != "S2GRU")
    said = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    until = "" if half is None else f"; half of its lead on the static scene is lost after {half} steps"
    return HOLDS if holds else NOT, f"F1 of the frames at step {len(lead)}: {said}{until}"


def ablated(result: dict[str, Any]) -> dict[str, float]:
    """Loss of balanced accuracy without each term, the mean over balls and views."""
    rows = result["rows"]
    whole = mean(scores(rows, "all terms", "balanced_accuracy"))
    return {
        term: whole - mean(scores(rows, f"without {term}", "balanced_accuracy"))
        for term in ("input local", "input nonlocal", "intercell local", "intercell nonlocal")
    }


def all_terms_help(result: dict[str, Any]) -> tuple[str, str]:
    lost, updates = ablated(result), {run["label"]: run["updates"] for run in result["runs"]}
    whole = updates.pop("all terms")
    said = (
        f"{said_of_terms(lost)}; with one seed, less than {SEEDS_DIFFER} decides nothing, nor do the {whole:,} updates "
        f"that all terms made in the time of {min(updates.values()):,} to {max(updates.values()):,}"
    )
    if min(lost.values()) < -SEEDS_DIFFER:
        return NOT, said
    return (HOLDS if min(lost.values()) > SEEDS_DIFFER else UNDECIDED), said


def which_terms_help(result: dict[str, Any]) -> tuple[str, str]:
    lost = ablated(result)
    holds = lost["input nonlocal"] > lost["input local"] and lost["intercell local"] > lost["intercell nonlocal"]
    return (HOLDS if holds else NOT), said_of_terms(lost)


def said_of_terms(lost: dict[str, float]) -> str:
    return "balanced accuracy lost without " + ", ".join(f"{term} {loss:+.3f}" for term, loss in lost.items())


def arena_is_shared(result: dict[str, Any]) -> tuple[str, str]:
    seen, each = result["pixels_that_some_module_sees"], result["modules_that_see_a_pixel"]
    return (
        HOLDS if seen >= 0.99 and each > 1 else NOT,
        f"{seen:.0%} of the pixels are seen by some module, a pixel by {each:.1f} of "
        f"{len(result['share_of_the_arena'])}",
    )


CLAIMS = (
    Claim("One step ahead, S2GRU is above every recurrent baseline at 1 to 6 balls, on F1", "Figures 4, 21", "family",
          above_all("f1", 1.0)),
    Claim("The same on balanced accuracy", "Figures 4, 20", "family", above_all("balanced_accuracy", 1.0)),
    Claim("The same on log-likelihood", "ours to show", "family", above_all("log_likelihood", 1.0)),
    Claim("With 30 % of the views, the same on F1", "Figure 21", "family", above_all("f1", 0.3)),
    Claim("With 30 % of the views, S2GRU loses less F1 than any recurrent baseline", "Figure 21", "family",
          loses_least),
    Claim("Dropped views cost the oracle (TTO) more than S2GRU", "F.1.2", "family", oracle_loses_more),
    Claim("S2GRU is above both trivial predictors on F1, at 1 to 6 balls and any share of the views", "ours to show",
          "family", above_the_trivial),
    Claim("With half of its modules removed, S2GRU still beats the static scene", "Figure 7", "removed-modules",
          half_removed),
    Claim("S2GRU keeps track of 5 balls over 25 steps on its own predictions", "Figures 3, 15 to 19", "rollouts",
          keeps_track),
    Claim("Both terms of both attentions help", "Figure 6", "ablations", all_terms_help),
    Claim("The non-local term matters more in the input attention, the local one between modules", "Figure 6",
          "ablations", which_terms_help),
    Claim("The modules share the arena between them", "Figure 5", "enclaves", arena_is_shared),
)  # fmt: skip


def table(read: Callable[[str], dict[str, Any] | None]) -> Iterator[list[str]]:
    """A row for each claim: the claim, its source, the verdict, what it rests on."""
    for claim in CLAIMS:
        decided, because = verdict(claim, read(claim.result))
        yield [claim.text, claim.source, f"**{decided}**", because]
