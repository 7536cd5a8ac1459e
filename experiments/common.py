"""What the recipes share: the budget and the learning rate of a run, the form of result files, where figures go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from s2rm.files import Row, write_json, write_whole
from s2rm.models.named import LABELS, ModelName
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.balls.report import balls
from s2rm.tasks.balls.scores import FRACTIONS, NUM_BALLS, TrivialPredictors, one_step_table
from s2rm.tasks.balls.world import BallsWorld, preset
from s2rm.tasks.task import Predictor, model_predictor
from s2rm.training import Training, provenance

KEYS = (
    "predictor", "seed", "fold", "balls", "views", "step", "removed", "scenario", "reporting", "value", "lead",
    "sensors", "silent", "data", "task", "module", "loss", "commit", "size", "ahead", "dropped",
    "episode", "way",
)  # fmt: skip
"""the columns that identify a row; all others are what was measured"""


@dataclass(frozen=True)
class Recipe:
    """Settings of a recipe that trains. A run that is finished in its folder is not trained again."""

    updates: int = 3500
    """updates of S2GRU; the other models make as many as take the same processor time"""
    batch_size: int = 32
    """clips in a batch"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    runs: Path = Path("runs/family")
    """where the run folders are"""
    times: Path = Path("results/updates.json")
    """what `benchmarks/updates.py` measured: how long an update of each model takes"""
    learning_rate: float | None = None
    """of Adam, at the start; if not given, as the search found"""
    beta2: float = 0.999
    """decay of Adam's mean of squared gradients"""
    search: Path = Path("results/search.json")
    """what `search.py` found: a model trains at its best learning rate, or at 2e-3 if it was not searched"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""

    @property
    def world(self) -> BallsWorld:
        """The world in which models are trained and scored."""
        return preset(self.size)

    def settings(self, model: ModelName, seed: int = 0, **settings: Any) -> Settings:
        """The settings of a run."""
        updates = same_time(model, self.updates, self.times)
        tried = [run for run in read(self.search).get("runs", []) if run["label"] == LABELS[model]]
        rate = self.learning_rate or (min(tried, key=lambda run: run["val_loss"])["learning_rate"] if tried else 2e-3)
        training = Training(
            learning_rate=rate, batch_size=self.batch_size, gradient_norm=1.0, patience=1000, updates=updates,
            beta2=self.beta2, seed=seed,
        )  # fmt: skip
        return Settings(model, training=training, **settings)

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
        """Train a model and add its scores to a result, unless they are there; several processes may add.

        The simple predictors of a seed are scored beside the first run.
        """
        runs = read(out).get("runs", [])
        if (label, seed) in {(run["label"], run["seed"]) for run in runs}:
            return
        run, world = self.run(model, seed, label.lower().replace(" ", "-"), **settings), self.world
        predictors: dict[str, Predictor] = {label: model_predictor(run.load_model())}
        if seed not in {run["seed"] for run in read(out).get("runs", [])}:
            predictors |= TrivialPredictors(world, seed).by_name
        rows = one_step_table(predictors, world, seed, balls, fractions)
        for row in rows:
            if row["views"] < 1:
                row.pop("reliability")  # one curve is enough
        add(out, [run.about(label)], [{**row, "seed": seed} for row in rows])

    def run(self, model: ModelName, seed: int = 0, name: str | None = None, **settings: Any) -> Run:
        """A trained run."""
        folder = self.runs / f"{name or model}-{seed}"
        return Run.finished(folder, self.settings(model, seed, **settings), "balls", self.world)


def same_time(model: ModelName, updates: int, times: Path) -> int:
    """As many updates of a model as take the processor time of these updates of S2GRU."""
    times_s2gru = {row["predictor"]: row["times_s2gru"] for row in read(times)["rows"]}
    return round(updates / times_s2gru[LABELS[model]])


def read(path: Path) -> Row:
    """A JSON file; nothing where it is not there yet."""
    found: Row = json.loads(path.read_text()) if path.is_file() else {}
    return found


def write(path: Path, runs: Sequence[Row], rows: Sequence[Row], **facts: Any) -> None:
    """Write a result file.

    Args:
        path: the file, whose form README.md describes.
        runs: an entry for each model that was trained.
        rows: keys and measurements. Nested records are flattened: `{"known": {"mae": 1}}` becomes `known_mae`.
        facts: what else holds for the whole file, such as its seed or the number of stations.
    """
    write_json(path, {**provenance(), **facts, "runs": [*runs], "rows": [*map(flat, rows)]})


def add(path: Path, runs: Sequence[Row], rows: Sequence[Row], **facts: Any) -> None:
    """Add runs and rows to a result file, which may not be there yet; a row whose keys are there stays as it is."""
    before = read(path)
    kept = before.get("rows", [])
    known = {identity(row) for row in kept}  # another process may have scored the simple predictors
    new = [row for row in rows if identity(row) not in known]
    write(path, [*before.get("runs", []), *runs], [*kept, *new], **facts)


def identity(row: Row) -> tuple[object, ...]:
    """The values of a row's keys."""
    return tuple(row.get(key) for key in KEYS)


def flat(record: Row) -> Row:
    """The same record with nested ones joined to their names."""
    return {
        f"{name}_{inner}" if isinstance(value, dict) else name: part
        for name, value in record.items()
        for inner, part in (value.items() if isinstance(value, dict) else [("", value)])
    }


def by_balls(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each number of balls, by its heading."""
    return {balls(n): [row for row in rows if row["balls"] == n] for n in sorted({row["balls"] for row in rows})}


def draw(folder: Path, **pictures: bytes) -> None:
    """Write pictures, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        write_whole(folder / f"{name.replace('_', '-')}.png", content)
