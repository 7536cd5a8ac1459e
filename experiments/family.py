"""Figures 4, 20 and 21, and calibration: every model by number of balls and share of the views, after an equal time.

Writes `results/family.json` after every run, so that the command goes on where it was stopped; several with
different models may run at once. The figures show the mean over the seeds that are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import tyro

from common import Recipe, by_balls, draw, read
from s2rm.files import Row
from s2rm.models.named import LABELS, ModelName
from s2rm.report.figures import TRIVIAL, curve, png, predictors, side_by_side
from s2rm.tasks.balls.report import heat_maps, scores_by_balls
from s2rm.tasks.balls.scores import FRACTIONS
from s2rm.tasks.balls.world import preset

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Family(Recipe):
    """What to run."""

    seeds: int = 3
    """seeds for S2GRU, RIMs, LSTM and RMC; the others get one"""
    models: tuple[ModelName, ...] = get_args(ModelName)
    """models to train"""
    fractions: tuple[float, ...] = FRACTIONS
    """shares of the views that are seen"""
    out: Path = Path("results/family.json")
    """the scores: 1 to 6 balls, all shares of the views"""


def main(family: Family) -> None:
    """Train and score what is missing, write, draw."""
    for seed in range(family.seeds):
        for model in family.models:
            if not seed or model in ("s2gru", "rims", "lstm", "rmc"):
                family.add(family.out, LABELS[model], model, seed, fractions=family.fractions)
    order = [*LABELS.values(), *TRIVIAL]
    rows = sorted(read(family.out)["rows"], key=lambda row: order.index(row["predictor"]))
    draw(
        family.figures,
        one_step=png(scores_by_balls(rows, preset(family.size).num_balls)),
        balanced_accuracy=png(heat_maps(rows, "balanced_accuracy")),
        reliability=png(reliability(rows)),
        f1=png(heat_maps(rows, "f1")),
    )


def reliability(rows: Sequence[Row]) -> Figure:
    """How often pixels are 1 against their probability, a panel for every other number of balls; first seed, all views.

    `rows` are those of `one_step_table`; a point is a tenth of the probabilities that holds at least 0.01 % of pixels.
    """
    parts = by_balls([row for row in rows if row["views"] == 1])
    names = predictors(rows)

    def draw_part(axes: Axes, part: Sequence[Row]) -> None:
        axes.plot([0, 1], [0, 1], color="#dddddd", zorder=0)
        for name in names:
            first = next(row for row in part if row["predictor"] == name)
            points = [point[:2] for point in first["reliability"] if point[2] >= 1e-4]
            probability, frequency = zip(*points, strict=True)
            curve(axes, probability, frequency, name, names)

    return side_by_side(dict(list(parts.items())[::2]), draw_part, "how often 1", xlabel="probability")


if __name__ == "__main__":
    main(tyro.cli(Family))
