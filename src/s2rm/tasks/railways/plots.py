"""Pictures of railways: the whole map, and the views of trains beside their one-step predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.report.figures import figure
from s2rm.tasks.railways.world import CHANNELS, TRACK, Railways, RailwayWorld, episode
from s2rm.tasks.task import Predictor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDES = ("north", "east", "south", "west")
ORANGE = (0.85, 0.45, 0.05)
COLOURS = {"track": (0.3, 0.3, 0.3), "train": (0.04, 0.43, 0.6), "station": ORANGE, "own": ORANGE}


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
    """The first episode's whole map at a step, as a view `(10, G, G)`."""
    ways = source.rails[source.map_of[0]].int()
    ways = ways | ways >> 4 | ways >> 8 | ways >> 12
    whole = torch.zeros(len(CHANNELS), *ways.shape)
    whole[TRACK] = torch.stack([ways >> bit & 1 for bit in (3, 2, 1, 0)]).float()
    whole[CHANNELS.index("station"), *source.stations[0].long().T] = 1
    there = source.directions[0, step] >= 0
    whole[4 + source.directions[0, step, there].long(), *source.positions[0, step, there].long().T] = 1
    return whole


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
