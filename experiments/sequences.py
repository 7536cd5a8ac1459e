"""RIMs, section 4.1 and Tables 4 and 5: copying, adding and sequential MNIST, beside an LSTM, a GRU and an RMC.

Writes `results/TASK.json`, or `results/TASK-ablations.json`, after every run, so that the command goes on where it was
stopped, and on copying when each module is active (Figure 2) and what happens without one of them (Figures 22 to 25).
`docs/sequences.md` says where 10,000 digits of MNIST come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track

from common import add, draw, read
from s2rm.models.named import LABELS, ModelName
from s2rm.report.figures import png
from s2rm.report.modules import activity, masked_activity
from s2rm.runs import TASKS, Run, score
from s2rm.settings import Core, Settings
from s2rm.tasks.sequences import episodes
from s2rm.training import Training

RATES = {"copying": 2e-3, "adding": 1e-3, "mnist": 1e-3}
NORMS = {"copying": 0.1, "adding": 1.0, "mnist": 1.0}
"""of the gradients, at most: on copying they become so small that 1 would not stop a rare large one"""
ABLATIONS: dict[str, tuple[ModelName, Core]] = {
    "RIMs without communication": ("rims", Core(communication_heads=0)),
    "RIMs without selection": ("rims", Core(num_active=6)),
    "RIMs, one head": ("rims", Core(communication_heads=1)),
    "RIMs without chrono initialisation": ("rims", Core(remember=False)),
    "LSTM without chrono initialisation": ("lstm", Core(remember=False)),
}
"""of Table 4 and Figures 15 and 16, and ours, of the gates; "without selection" all six modules are active, which the
paper also calls without input attention"""


@dataclass(frozen=True)
class Recipe:
    """What to train, and for how long."""

    task: tyro.conf.Positional[Literal["copying", "adding", "mnist"]] = "copying"
    models: tuple[ModelName, ...] = ("rims", "lstm", "gru", "rmc")
    ablations: bool = False
    """the ablations instead"""
    seeds: int = 3
    """of each model"""
    updates: int = 6000
    """of each model, over which the learning rate falls along a cosine"""
    batch_size: int = 32
    """sequences in a batch"""
    size: str = "small"
    """preset of the task: "paper" has a core of 600"""
    train_files: tuple[Path, ...] = ()
    """mnist: the digits to train on; scikit-learn's if not given"""
    test_files: tuple[Path, ...] = ()
    """mnist: the digits to test on"""
    runs: Path = Path("runs/sequences")
    """where the run folders are"""
    out: Path | None = None
    """the scores; if not given, in `results/`"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Recipe) -> None:
    """Train and score what is missing, write, draw."""
    name = f"{recipe.task}{'-ablations' if recipe.ablations else ''}"
    task, out = TASKS[recipe.task], recipe.out or Path(f"results/{name}.json")
    world = task.preset(recipe.size)
    if recipe.train_files or recipe.test_files:
        assert task.with_files is not None
        world = task.with_files(world, recipe.train_files, recipe.test_files)
    kinds: dict[str, tuple[ModelName, Core]] = {LABELS[model]: (model, Core()) for model in recipe.models}
    if recipe.ablations:
        kinds = ABLATIONS
    for seed in range(recipe.seeds):
        for label, (model, core) in kinds.items():
            if (label, seed) in {(run["label"], run["seed"]) for run in read(out).get("runs", [])}:
                continue
            training = Training(
                learning_rate=RATES[recipe.task], batch_size=recipe.batch_size, updates=recipe.updates, patience=1000,
                gradient_norm=NORMS[recipe.task], seed=seed,
            )  # fmt: skip
            name = "-".join(label.lower().replace(",", "").split())
            folder = recipe.runs / recipe.task / f"{recipe.size}-{name}-{seed}"
            run = Run.finished(folder, Settings(model, core=core, training=training), recipe.task, world)
            rows = score([run], None, lambda cases, label=label: track(list(cases), label))["rows"]
            for row in rows:
                row["predictor"] = label if row["predictor"] == run.label else row["predictor"]
            add(out, [run.about(label)], rows)
            if (recipe.task, label, seed) == ("copying", "RIMs", 0):
                modules(recipe, run)


def modules(recipe: Recipe, run: Run) -> None:
    """Draw when the modules are active, on one sequence of the test."""
    model = run.load_model()
    with torch.no_grad():
        inputs = model.encoder(episodes(run.world, "test")[[0], 0].inputs)
    draw(
        recipe.figures,
        copying_activity=png(activity(model.core.trace(inputs)[1][0].active[0])),
        copying_masked=png(masked_activity(model.core, inputs)),
    )


if __name__ == "__main__":
    main(tyro.cli(Recipe))
