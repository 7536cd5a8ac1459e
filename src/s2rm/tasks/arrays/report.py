"""The report of runs on any world: errors by steps ahead, rollouts that move, modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from s2rm.files import Row
from s2rm.report.figures import metrics
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, More, Picture, Table, comparison, drawn, learning, write_page
from s2rm.tasks.arrays.plots import Shown, frames_moving, points_moving
from s2rm.tasks.arrays.predictors import Trivial
from s2rm.tasks.arrays.rollouts import OfModel, Untrained, roll_out
from s2rm.tasks.arrays.scores import ahead, pairs, refuse_oracles, windows
from s2rm.tasks.arrays.world import ArrayWorld, Source, displacement
from s2rm.tasks.crops import cells, stitch
from s2rm.tasks.task import Models
from s2rm.views import Views

LABELS = {
    "error": "error", "feature_error": "error of features", "f1": "F1",
    "log_likelihood": "log-likelihood (nats per value)",
}  # fmt: skip
SENTENCES = {
    "error": "Root mean square in your own units, of pixels from 0 to 1; lower is better. In rollouts each predictor "
    "sees only its own predictions after the prompt.",
    "feature_error": "Root mean square over all features, in your own units; lower is better.",
    "f1": "F1 of the values that are 1; higher is better, 1 is perfect.",
    "log_likelihood": "In the units of the model; higher is better. It also rewards a well calibrated uncertainty.",
}
LOWER = {"error", "feature_error"}
OF = {
    "frames": "crops of every frame", "points": "moving points", "views": "local views",
}  # fmt: skip
MOST_ROLLOUTS = 3
"""columns of the moving picture"""


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: ArrayWorld, seed: int = 0,
    folder: Path | None = None, more: More = More(),  # noqa: B008
) -> None:  # fmt: skip
    """Write the page; arguments as for `Task.write_report`."""
    lead = (
        f"Each model saw {OF[world.kind]} and learned to predict them one step ahead. In the test it saw "
        f"{world.prompt} steps, and then only its own predictions for {world.steps_ahead} steps."
    )
    box = " x ".join(f"{low:g} to {high:g}" for low, high in world.extent)
    train, val, test = world.sequences
    seen = (
        f"World: {Path(world.path).name} (SHA-256 {world.digest[:12]}), {world.num_views} views per step of shape "
        f"{list(world.value_shape)} in {box}; {world.num_steps} steps. Training: {train:,} sequences in clips of "
        f"{world.clip} steps; validation: {val:,}; test: {test:,}, the same for every predictor. Models with "
        f"corrections correct: {world.guess}."
    )
    models = {entry.label: entry.model for entry in entries}
    pictures = [*_pictures(entries, models, rows, world, seed), *more.pictures]
    title = f"{Path(world.path).stem}: rollouts and modules"
    write_page(path, title, lead, entries, seen, [*_tables(rows), *more.tables], pictures, more.verdict)


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Each metric by the number of steps ahead."""
    whole = [row for row in rows if row["views"] == 1]
    for metric, label in LABELS.items():
        chosen = [row for row in whole if metric in row]
        heads = {step: f"+{step}" for step in sorted({row["ahead"] for row in chosen})}
        if chosen:
            title = f"{label[0].upper()}{label[1:].partition(' (')[0]} by steps ahead"
            worth = (lambda value: -value) if metric in LOWER else float
            yield comparison(chosen, metric, "ahead", heads, title, label, SENTENCES[metric], ".3g", worth)


def _pictures(
    entries: Sequence[Entry], models: Models, rows: Sequence[Row], world: ArrayWorld, seed: int
) -> Iterator[Picture]:
    whole = [row for row in rows if row["views"] == 1]
    labels: dict[str, str] = {
        metric: LABELS[metric] for metric in ("error", "feature_error", "f1") if any(metric in row for row in whole)
    }
    sentence = (
        "A model has learned how the world moves only where it is better than the broken lines, the simple predictors."
    )
    yield drawn("Errors over a rollout", metrics(whole, "ahead", labels, "steps ahead"), sentence)
    if (moving := animate(models, world, seed)) is not None:
        colours = " Grey dots are the truth, blue ones the predictions." if world.kind == "points" else ""
        sentence = f"After {world.prompt} steps of true views each row sees only its own predictions.{colours}"
        yield Picture("Rollouts, animated", "image/gif", moving, sentence)
    yield learning(entries)
    if len(world.extent) == 2:
        views = next(windows(world, seed)).views.rows([0])
        yield from module_pictures(entries, _grid(world), views)


def _grid(world: ArrayWorld) -> Tensor:
    """Positions all over the extent, as pictures have them: rows downward, of points upward."""
    (low, high), (left, right) = world.extent
    if world.kind == "frames":
        return cells(int(high), int(right))
    # A picture's rows are the second coordinate, from the top.
    x, y = torch.linspace(low, high, 48), torch.linspace(right, left, 48)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


@torch.no_grad()
def animate(models: Models, world: ArrayWorld, seed: int = 0, numbers: Sequence[int] = ()) -> bytes | None:
    """An animated picture (GIF) of closed-loop rollouts of the first test sequences, of models and the best guess.

    None where positions have fewer than two coordinates, of which there is no picture yet.
    """
    refuse_oracles(models)
    if len(world.extent) < 2:
        return None
    window = next(windows(world, seed))
    window = window.rows(list(range(min(MOST_ROLLOUTS, window.views.batch_size))))
    trivial = Trivial(world)
    predictors = {label: OfModel(model, trivial) for label, model in models.items()}
    every: dict[str, OfModel | Untrained] = {**predictors, world.guess: Untrained(trivial, world.guess)}
    if world.kind == "frames":
        return frames_moving(_frames(every, trivial, window.views, seed))
    later, steps = window.targets.steps(world.prompt, None), world.steps_ahead
    truth, values = later.positions, world.scaled(later.values, back=True)
    if world.kind == "points":
        moved, values = displacement(world, later.values)
        truth = truth + moved
    shown: dict[str, Shown] = {"truth": Shown(truth, values, later.mask)}
    there = later.mask[:, :steps]
    if world.kind == "points":  # of one that was never seen nothing is known
        there = there & window.views.steps(None, world.prompt).mask.any(1, keepdim=True)
    for name, predictor in every.items():
        made = list(ahead(predictor, trivial, window))
        places, found = (torch.stack([getattr(each, part) for each in made], 1) for part in ("positions", "values"))
        shown[name] = Shown(places, found, there)
    return points_moving(shown, world)


def _frames(
    predictors: Mapping[str, OfModel | Untrained], trivial: Trivial, views: Views, seed: int
) -> dict[str, Tensor]:
    """The frames after the prompt, true and stitched from predictions on a grid, `(B, steps, C, H, W)`."""
    world = trivial.world
    source, steps, rows = Source(world, "test"), world.steps_ahead, torch.arange(views.batch_size)
    # The windows begin with the first pieces of the first sequences.
    starts, which = _starts(world, len(source), views.batch_size)
    frames = source.read("frames", which, starts + world.prompt, steps)
    (_, height), (_, width) = world.extent
    lines = [_covering(int(side), world.crop) for side in (height, width)]
    grid = torch.cartesian_prod(*lines)
    shown = {"truth": frames.float() / world.white}
    queries = grid.expand(len(rows), steps, -1, -1)
    for name, predictor in predictors.items():
        made = roll_out(predictor, trivial, views.steps(None, world.prompt), steps, queries)
        patches = torch.stack([each.values for each in made], 1)
        if patches.ndim == 6:  # channels before the queries
            patches = patches.movedim(3, 2)
        shown[name] = stitch(patches, grid, int(height), int(width))
    return {name: part if part.ndim == 5 else part.unsqueeze(2) for name, part in shown.items()}


def _starts(world: ArrayWorld, sequences: int, number: int) -> tuple[Tensor, Tensor]:
    """The first steps and the sequences of the first windows."""
    some = pairs(world, sequences)[:number]
    return some[:, 1], some[:, 0]


def _covering(side: int, crop: int) -> Tensor:
    """Centres of crops that cover a line of pixels without a gap."""
    number = -(-side // crop)
    half = crop // 2
    return torch.linspace(half, max(half, side - 1 - (crop - 1 - half)), number).round()
