"""Appendix A: trains on a railway, what each will see one step ahead, and the modules' enclaves (Figure 9).

Trains S2GRU with 10 modules and scores it beside two predictors that know nothing of motion; with `--corrects` it
predicts corrections to one of them, what was last seen. Episodes and training are kept in the run's folder. Writes
`results/railways.json` or `results/railways-corrected.json`, and two pictures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.progress import track

from common import draw, write
from s2rm import S2RM
from s2rm.report.figures import png
from s2rm.report.modules import interaction_graph
from s2rm.runs import Run, score
from s2rm.settings import Settings
from s2rm.tasks.railways import preset
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.report import predictions
from s2rm.tasks.railways.scores import trivial_predictors
from s2rm.tasks.task import model_predictor
from s2rm.training import Training


@dataclass(frozen=True)
class Recipe:
    """How long to train, and on what."""

    updates: int = 800
    """updates of the model"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    corrects: bool = False
    """predict corrections to what was last seen"""
    learning_rate: float = 2e-3
    """of Adam, at the start"""
    seed: int = 0
    """of the episodes and of training"""
    runs: Path = Path("runs/railways")
    """where the run folders are"""
    out: Path | None = None
    """the scores; if not given, in `results/`"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Recipe) -> None:
    """Train and score what is missing, write, draw."""
    world, seed = preset(recipe.size), recipe.seed
    training = Training(
        learning_rate=recipe.learning_rate, batch_size=16, updates=recipe.updates, patience=1000,
        gradient_norm=1.0, seed=seed, unit_variance=True,
    )  # fmt: skip
    name = "railways-corrected" if recipe.corrects else "railways"
    folder = recipe.runs / name / f"{recipe.size}-{seed}"
    run = Run.finished(folder, Settings("s2gru", training=training, corrects=recipe.corrects), "railways", world)
    rows = score([run], None, lambda cases: track(list(cases), run.label))["rows"]
    model = run.load_model()
    assert isinstance(model, S2RM)
    line = torch.arange(world.grid, dtype=torch.float32)
    with torch.no_grad():
        weights = model.enclaves(torch.cartesian_prod(line, line)).unflatten(1, (world.grid, world.grid))
        kernel = model.interaction_graph()
    write(
        recipe.out or Path(f"results/{name}.json"), [run.about()], rows, seed=seed, world=asdict(world),
        neighbours_of_each_module=((kernel > 0).sum(1) - 1).tolist(),
        cells_that_some_module_sees=float((weights > 0).any(0).float().mean()),
    )  # fmt: skip
    trivial = trivial_predictors(world, seed, folder)
    predictors = {run.label: model_predictor(model, trivial.last_seen), **trivial.by_name}
    pictures = {
        "enclaves": png(interaction_graph(kernel, weights)),
        "views": png(predictions(world, collected(world, "test", seed, folder), predictors)),
    }
    draw(recipe.figures, **{f"{name}_{what}": picture for what, picture in pictures.items()})


if __name__ == "__main__":
    main(tyro.cli(Recipe))
