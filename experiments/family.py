"""Figures 4, 20 and 21, and calibration: every model by number of balls and share of the views, after an equal time.

Writes `results/family.json` after every run, so that the command goes on where it was stopped; several with different
models may run at once. The figures show the mean over the seeds that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import tyro

from common import Recipe, draw, read
from s2rm.models.named import LABELS, ModelName
from s2rm.report.figures import TRIVIAL, png
from s2rm.tasks.balls import plots
from s2rm.tasks.balls.scores import FRACTIONS
from s2rm.tasks.balls.world import preset


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
        one_step=png(plots.scores_by_balls(rows, 1.0, preset(family.size).num_balls)),
        balanced_accuracy=png(plots.heat_maps(rows, "balanced_accuracy")),
        reliability=png(plots.reliability(rows)),
        f1=png(plots.heat_maps(rows, "f1")),
    )


if __name__ == "__main__":
    main(tyro.cli(Family))
