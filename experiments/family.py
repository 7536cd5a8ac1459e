"""Every model of the family on the demo's world, each trained for the same wall-clock time, one after the other.

Writes `results/family.json` after every run, so that the command goes on where it was stopped. A model's learning rate
is the best of `results/search.json`, where that is there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import tyro

from s2rm.models.world_model import write_json
from s2rm.runs import ModelName, Run, Settings, score
from s2rm.tasks.bouncing_balls import preset
from s2rm.training import Training


@dataclass(frozen=True)
class Family:
    """What to run."""

    minutes: float = 15.0
    """wall-clock budget for training each model"""
    seeds: int = 3
    """seeds for S2GRU, RIMs and LSTM; the others get one"""
    models: tuple[ModelName, ...] = get_args(ModelName)
    """whom to train"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/family")
    """where the run folders are"""
    search: Path = Path("results/search.json")
    """what `search.py` found"""
    out: Path = Path("results/family.json")
    """the scores: 1 to 6 balls, all and 30 % of the views"""


def main(family: Family) -> None:
    """Train and score what is missing, write."""
    found: list[dict[str, Any]] = json.loads(family.search.read_text())["rows"] if family.search.is_file() else []
    result = json.loads(family.out.read_text()) if family.out.is_file() else {"runs": [], "rows": []}
    done = {(run["model"], run["seed"]) for run in result["runs"]}
    for seed in range(family.seeds):
        for model in family.models:
            if (model, seed) in done or (seed and model not in ("s2gru", "rims", "lstm")):
                continue
            tried = [row for row in found if row["model"] == model]
            rate = min(tried, key=lambda row: row["val_loss"])["learning_rate"] if tried else 2e-3
            training = Training(learning_rate=rate, gradient_norm=1.0, epochs=10_000, minutes=family.minutes, seed=seed)
            settings = Settings(model, training=training, world=preset(family.size))
            run = Run.finished(family.runs / f"{model}-{seed}", settings)
            scores = score([run], fractions=(0.3, 1.0))
            known = {(row["predictor"], row["seed"]) for row in result["rows"]}
            new = [{**row, "seed": seed} for row in scores.pop("rows") if (row["predictor"], seed) not in known]
            summary = {"model": model, "learning_rate": rate, "label": run.label, **run.summary()}
            scores.pop("runs")
            result = {"runs": [*result["runs"], summary], **scores, "rows": result["rows"] + new}
            write_json(family.out, result)


if __name__ == "__main__":
    main(tyro.cli(Family))
