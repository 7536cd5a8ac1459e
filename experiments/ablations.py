"""Figure 6: S2GRU without the local or the non-local term of either attention, by share of the views.

Writes `results/ablations.json` after every run, so that the command goes on where it was stopped, and the
figure. Every run makes the same number of updates. With all terms they are the family's S2GRUs, which are not trained
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import tyro

from common import Recipe, add, by_balls, draw, read
from s2rm.files import Row
from s2rm.models.named import Term
from s2rm.report.figures import TRIVIAL, lines, png, side_by_side
from s2rm.tasks.balls.scores import FRACTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Ablations(Recipe):
    """What to run."""

    updates: int = 1200
    """of every run"""
    runs: Path = Path("runs/ablations")
    """where the run folders are"""
    seeds: int = 3
    """seeds of each"""
    terms: tuple[Term | None, ...] = (None, *get_args(Term))
    """which term to leave out, or none"""
    balls: tuple[int, ...] = (1, 3, 6)
    """numbers of moving balls"""
    fractions: tuple[float, ...] = FRACTIONS
    """shares of the views that are seen"""
    family: Path = Path("results/family.json")
    """where the S2GRUs with all terms are taken from; those that are not there are trained"""
    out: Path = Path("results/ablations.json")
    """the scores"""


def main(recipe: Ablations) -> None:
    """Train and score what is missing, write, draw."""
    if not read(recipe.out):
        take(recipe)
    for seed in range(recipe.seeds):
        for term in recipe.terms:
            label, ablate = ("all terms", ()) if term is None else (f"without {term.replace('_', ' ')}", (term,))
            recipe.add(recipe.out, label, "s2gru", seed, balls=recipe.balls, fractions=recipe.fractions, ablate=ablate)
    draw(recipe.figures, ablations=png(scores_by_views(read(recipe.out)["rows"])))


def take(recipe: Ablations) -> None:
    """Begin the result with the family's S2GRUs and the simple predictors beside them, where they are there."""
    family, names = read(recipe.family), {"S2GRU": "all terms"} | {name: name for name in TRIVIAL}
    equal = "S2GRU", recipe.updates
    runs = [run for run in family.get("runs", []) if (run["label"], run["updates"]) == equal]
    seeds = {run["seed"] for run in runs if run["seed"] < recipe.seeds}
    rows = [
        {**row, "predictor": names[row["predictor"]]}
        for row in family["rows"]
        if row["predictor"] in names and row["seed"] in seeds and row["balls"] in recipe.balls
    ]
    if seeds:
        add(recipe.out, [{**run, "label": "all terms"} for run in runs if run["seed"] in seeds], rows)


def scores_by_views(rows: Sequence[Row]) -> Figure:
    """Balanced accuracy against the fraction of views, a panel for each number of balls."""

    def draw_part(axes: Axes, part: Sequence[Row]) -> None:
        lines(axes, part, "views", "balanced_accuracy")

    return side_by_side(by_balls(rows), draw_part, "balanced accuracy", xlabel="fraction of views")


if __name__ == "__main__":
    main(tyro.cli(Ablations))
