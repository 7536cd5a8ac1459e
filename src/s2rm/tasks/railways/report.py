"""The report of runs on the railways: tables of scores, the railway and its predictions, modules over the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.files import Row
from s2rm.report.figures import figure
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, More, comparison, drawn, learning, write_page
from s2rm.tasks.crops import cells
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.scores import trivial_predictors
from s2rm.tasks.railways.world import CHANNELS, Railways, RailwayWorld, cells_as_bits, episode, unpacked
from s2rm.tasks.task import Predictor, model_predictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "f1_trains": "F1 of trains", "f1_other_trains": "F1 of other trains", "f1": "F1 of all channels",
    "log_likelihood": "Log-likelihood",
}  # fmt: skip
SENTENCES = {
    "f1_trains": "The four channels of trains, by the direction that they face. Higher is better; 1 is perfect.",
    "f1_other_trains": "The same without the centre of each view, where the train itself is.",
    "f1": "Trains, tracks and stations. Tracks and stations do not change: what was last seen there predicts them.",
    "log_likelihood": "Nats per channel of a cell; closer to 0 is better. It also rewards calibrated probabilities.",
}
SIDES = ("north", "east", "south", "west")
ORANGE = (0.85, 0.45, 0.05)
COLOURS = {"track": (0.3, 0.3, 0.3), "train": (0.04, 0.43, 0.6), "station": ORANGE, "own": ORANGE}


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: RailwayWorld, seed: int = 0,
    folder: Path | None = None, more: More = More(),  # noqa: B008
) -> None:  # fmt: skip
    """Write the page; arguments as for `Task.write_report`. Raises what `collected` does, too."""
    test = collected(world, "test", seed, folder)
    last_seen = trivial_predictors(world, seed, folder).last_seen
    predictors = {entry.label: model_predictor(entry.model, last_seen) for entry in entries}
    predictors["last seen"] = last_seen
    lead = (
        f"Each model saw the {world.view} x {world.view} cells around every train on the grid, and learned to predict "
        "the views of the next step. No map of the test episodes was in training."
    )
    seen = (
        f"World: maps of {world.grid} x {world.grid} cells with up to {world.cities} cities, made by Flatland; "
        f"{world.num_trains} trains, {world.num_steps} steps. Training: {world.train_episodes:,} episodes in clips of "
        f"{world.clip} steps. Test: {world.test_episodes:,} episodes, the same for every predictor."
    )
    sentence = (
        "The first test episode, at the step with most trains on the grid. Right: the views of some trains, and the "
        "probabilities that each predictor gave them one step before; fainter is less probable. Lines are tracks, blue "
        "arrowheads trains, squares stations, a filled one the train's own destination."
    )
    views = episode(world, test, torch.arange(min(4, len(test)))).views
    pictures = [
        drawn("The railway, and one-step predictions", predictions(world, test, predictors), sentence),
        learning(entries),
        *module_pictures(entries, cells(world.grid), views),
    ]
    shares = sorted({row["reporting"] for row in rows})
    heads = {share: "all trains report" if share == 1 else f"{share:.0%} report" for share in shares}
    tables = [
        comparison(some, metric, "reporting", heads, f"{label}, one step ahead", label, SENTENCES[metric])
        for metric, label in TITLES.items()
        if (some := [row for row in rows if metric in row])
    ]
    title = "Trains on a railway, each with a view of the cells around it"
    write_page(path, title, lead, entries, seen, [*tables, *more.tables], [*pictures, *more.pictures], more.verdict)


@torch.no_grad()
def predictions(world: RailwayWorld, source: Railways, predictors: Mapping[str, Predictor]) -> Figure:
    """The first episode's map with its trains, and beside it the views of up to four of them, true and predicted."""
    from matplotlib.patches import Rectangle

    part = episode(world, source, torch.tensor([0]))
    step = int(part.views.mask[0, 1:].sum(1).argmax()) + 1
    trains = part.views.mask[0, step].nonzero().flatten().tolist()[:4]
    shown = {"truth": part.views.values[0, step]}
    shown |= {name: predict(part).probability[0, step - 1] for name, predict in predictors.items()}

    made, panels = figure(4, 1 + len(shown), 2.0 * (4 + len(shown)), 8.2)
    grid = panels[0, 0].get_gridspec()
    grid.set_width_ratios([4, *(1 for _ in shown)])
    for axes in panels[:, 0]:
        axes.remove()
    whole = made.add_subplot(grid[:, 0])
    sketch(whole, world_map(source, step))
    whole.set_title(f"the railway at step {step}; framed: the views beside it")
    for line, train in zip(panels[:, 1:], trains, strict=False):
        row, column = part.views.positions[0, step, train].tolist()
        corner = (column - world.view / 2, row - world.view / 2)
        whole.add_patch(Rectangle(corner, world.view, world.view, fill=False, edgecolor="#c0392b"))
        whole.text(corner[0], corner[1] - 0.4, str(train + 1), fontsize=8, color="#c0392b")
        for axes, (name, views) in zip(line, shown.items(), strict=True):
            sketch(axes, views[train])
            axes.set_title(name if train == trains[0] else "", fontsize=9)
        line[0].set_ylabel(f"train {train + 1}", fontsize=9)
    for axes in panels[len(trains) :, 1:].flat:
        axes.axis("off")
    return made


def world_map(source: Railways, step: int) -> Float[Tensor, "10 G G"]:
    """The first episode's whole map at a step, as a view `(10, G, G)` in which no station is the train's own."""
    whole = unpacked(cells_as_bits(source, torch.tensor([0]), torch.tensor([[step]])))[0, 0]
    return torch.cat([whole, torch.zeros_like(whole[:1])]).float()


def sketch(axes: Axes, cells: Float[Tensor, "10 H W"]) -> None:
    """Draw a view `(10, H, W)`: tracks, trains as arrowheads, stations as squares; fainter is less probable."""
    from matplotlib.collections import LineCollection
    from matplotlib.markers import MarkerStyle

    height, width = cells.shape[1:]
    size = 100 if height < 10 else 45
    ends = ((0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0))  # of a track: cells to the right and down from its cell's middle
    for channel, weights in zip(CHANNELS, cells, strict=True):
        rows, columns = (weights > 0.05).nonzero().T.tolist()
        kind, _, side = channel.partition(" ")
        shades = [(*COLOURS[kind], weight) for weight in weights[rows, columns].tolist()]
        if kind == "track":
            right, down = ends[SIDES.index(side)]
            lines = [[(x, y), (x + right, y + down)] for x, y in zip(columns, rows, strict=True)]
            axes.add_collection(LineCollection(lines, colors=shades, linewidths=size**0.3))
        elif kind == "train":
            arrow = MarkerStyle((3, 0, -90 * SIDES.index(side)))
            axes.scatter(columns, rows, size, marker=arrow, color=shades, zorder=3)
        else:
            fill = shades if kind == "own" else "none"
            axes.scatter(columns, rows, 1.6 * size, marker="s", edgecolors=shades, facecolors=fill, zorder=2)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
