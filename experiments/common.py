"""What the recipes share: how a run gets its budget and its learning rate, and where results and figures go."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2rm.files import write_json, write_whole
from s2rm.runs import ModelName, Run, Settings, trivial_predictors
from s2rm.tasks.balls.scores import FRACTIONS, NUM_BALLS, model_predictor, one_step_table
from s2rm.tasks.balls.world import preset
from s2rm.training import Training, provenance

KEYS = ("predictor", "balls", "views", "seed")
"""what tells a row of scores from another"""


@dataclass(frozen=True)
class Recipe:
    """What a recipe that trains needs. Where a run is finished in its folder, it is not trained again."""

    minutes: float = 15.0
    """wall-clock budget for training each model"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/family")
    """where the run folders are"""
    search: Path = Path("results/search.json")
    """what `search.py` found: a model trains at its best learning rate; at 2e-3 where nothing was found"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""

    def settings(self, model: ModelName, seed: int = 0, **settings: Any) -> Settings:
        """The settings of a run."""
        tried = [row for row in read(self.search).get("rows", []) if row["model"] == model]
        rate = min(tried, key=lambda row: row["val_loss"])["learning_rate"] if tried else 2e-3
        training = Training(
            learning_rate=rate, gradient_norm=1.0, epochs=10_000, patience=1000, minutes=self.minutes, seed=seed
        )
        return Settings(model, training=training, world=preset(self.size), **settings)

    def add(
        self,
        out: Path,
        label: str,
        model: ModelName,
        seed: int = 0,
        *,
        balls: Iterable[int] = NUM_BALLS,
        fractions: Iterable[float] = FRACTIONS,
        **settings: Any,
    ) -> None:
        """Train a model and add its scores to a result, or nothing where they are there; several processes may add.

        The trivial predictors of a seed are scored beside the first run.
        """
        if (label, seed) in {(run["label"], run["seed"]) for run in read(out).get("runs", [])}:
            return
        run = self.run(model, seed, label.lower().replace(" ", "-"), **settings)
        predictors = {label: model_predictor(run.load_model())}
        if seed not in {run["seed"] for run in read(out).get("runs", [])}:
            trivial = trivial_predictors([run])
            predictors |= {"static scene": trivial.static_scene, "last seen": trivial.last_seen}
        rows = one_step_table(predictors, run.settings.world, seed, balls, fractions)
        for row in rows:
            row["seed"] = seed
            if row["views"] < 1:
                row.pop("reliability")  # one curve is enough
        summary = {"label": label, "learning_rate": run.settings.training.learning_rate, **run.summary()}
        before = read(out)
        kept = before.get("rows", [])
        known = {tuple(row[key] for key in KEYS) for row in kept}  # another process may have scored the trivial ones
        new = [row for row in rows if tuple(row[key] for key in KEYS) not in known]
        result = {"runs": [*before.get("runs", []), summary], **provenance(), "rows": [*kept, *new]}
        write_json(out, result)

    def run(self, model: ModelName, seed: int = 0, name: str | None = None, **settings: Any) -> Run:
        """A trained run."""
        return Run.finished(self.runs / f"{name or model}-{seed}", self.settings(model, seed, **settings))


def read(path: Path) -> dict[str, Any]:
    """A result that may not be there yet; then nothing."""
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def draw(folder: Path, **pictures: bytes) -> None:
    """Write pictures, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        write_whole(folder / f"{name.replace('_', '-')}.png", content)
