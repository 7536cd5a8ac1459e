"""Appendix A: trains on a railway, what each will see a step ahead, and where each module listens (Figure 9).

Collects episodes, trains S2GRU with 10 modules, and scores it beside two predictors that know nothing of motion. What
was collected and trained is kept in the run's folder. Writes `results/railways.json` and two pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.progress import track
from torch import Tensor

from common import draw, read
from s2rm import S2GRU, S2RM, Episode, load, plots
from s2rm.files import write_json
from s2rm.tasks.flatland import CHANNELS, TRACK, TRAIN, Journeys, Railways, RailwayWorld, collect, episode, preset
from s2rm.training import LAST, MODEL, Training, batches, fit, provenance

SIDES = ("north", "east", "south", "west")
ORANGE = (0.85, 0.45, 0.05)
COLOURS = {"track": (0.3, 0.3, 0.3), "train": (0.04, 0.43, 0.6), "station": ORANGE, "own": ORANGE}
CHUNK = 10
"""episodes that are scored at once"""
Predictor = Callable[[Episode], tuple[Tensor, Tensor]]
"""from an episode of T+1 steps to probabilities and decisions of the views of steps 1 to T, `(B, T, A, 10, v, v)`"""


@dataclass(frozen=True)
class Recipe:
    """How long to train, and on what."""

    minutes: float = 15.0
    """wall-clock budget for training"""
    size: Literal["paper", "small", "tiny"] = "small"
    """preset of the world"""
    learning_rate: float = 2e-3
    """of Adam, at the start"""
    seed: int = 0
    """of the episodes and of training"""
    runs: Path = Path("runs/railways")
    """where the run folders are"""
    out: Path = Path("results/railways.json")
    """the scores"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Recipe) -> None:
    """Collect, train and score what is missing, write, draw."""
    world, folder = preset(recipe.size), recipe.runs / f"{recipe.size}-{recipe.seed}"
    settings = json.loads(json.dumps({
        "minutes": recipe.minutes, "learning_rate": recipe.learning_rate, "seed": recipe.seed, "world": asdict(world),
    }))  # fmt: skip
    if read(folder / "config.json") not in ({}, settings):
        raise SystemExit(f"railways: {folder} holds a run of other settings; delete it or choose another with --runs")
    write_json(folder / "config.json", settings)
    train, val, test = (collected(world, split, recipe.seed, folder) for split in ("train", "val", "test"))
    model = trained(recipe, world, train, val, folder)

    trivial = Trivial(episodes(world, train))
    predictors = {"S2GRU": one_step(model), "mean view": trivial.mean, "last seen": trivial.last_seen}
    rows = [
        {"predictor": name, "seed": recipe.seed, **scores(predict, episodes(world, test))}
        for name, predict in predictors.items()
    ]
    line = torch.arange(world.grid, dtype=torch.float32)
    with torch.no_grad():
        weights = model.enclaves(torch.cartesian_prod(line, line)).unflatten(1, (world.grid, world.grid))
        kernel = model.interaction_graph()
    content = {
        "run": read(folder / "summary.json"), **provenance(), "seed": recipe.seed, "world": settings["world"],
        "neighbours_of_each_module": ((kernel > 0).sum(1) - 1).tolist(),
        "cells_that_some_module_sees": float((weights > 0).any(0).float().mean()), "rows": rows,
    }  # fmt: skip
    write_json(recipe.out, content)
    draw(
        recipe.figures,
        railways_enclaves=plots.png(plots.interaction_graph(kernel, weights)),
        railways_views=plots.png(predictions(world, test, predictors)),
    )


def collected(world: RailwayWorld, split: str, seed: int, folder: Path) -> Railways:
    """The episodes of a split, played once and kept."""
    path = folder / f"{split}.safetensors"
    if not path.is_file():
        collect(world, split, seed, lambda numbers: track(numbers, f"{split} episodes")).save(path)
    return Railways.load(path)


def trained(recipe: Recipe, world: RailwayWorld, train: Railways, val: Railways, folder: Path) -> S2RM:
    """The model with its best weights, trained unless it was."""
    if not (folder / "summary.json").is_file():
        torch.manual_seed(recipe.seed)
        # With half these wavelengths 10 modules would reach only half to three quarters of the grid at the start.
        model = S2GRU(
            value_shape=(len(CHANNELS), world.view, world.view), num_coordinates=2, num_modules=10, codec="mlp",
            shortest=float(world.grid), longest=16.0 * world.grid, extent=[(0, world.grid)] * 2, inject_positions=True,
        )  # fmt: skip
        training = Training(
            learning_rate=recipe.learning_rate, batch_size=16, epochs=10_000, minutes=recipe.minutes, patience=1000,
            gradient_norm=1.0, seed=recipe.seed,
        )  # fmt: skip
        ended = fit(
            model,
            batches(Journeys(world, train, train=True), training.batch_size, recipe.seed, shuffle=True),
            batches(Journeys(world, val, train=False), training.batch_size, recipe.seed, shuffle=False),
            folder,
            training,
            resume=(folder / LAST).is_file(),
        )
        about = {**ended, "parameters": model.num_parameters, **provenance()}
        write_json(folder / "summary.json", {"label": "S2GRU", "learning_rate": training.learning_rate, **about})
    best = load(folder / MODEL)
    assert isinstance(best, S2RM)
    return best


def episodes(world: RailwayWorld, source: Railways) -> Iterable[Episode]:
    """All of them, some at a time."""
    return (episode(world, source, rows) for rows in torch.arange(len(source)).split(CHUNK))


def one_step(model: S2RM) -> Predictor:
    """The model's prediction, thresholded at 0.5."""

    def predict(part: Episode) -> tuple[Tensor, Tensor]:
        positions = part.targets.steps(1, None).positions
        probability = model.predict(model.states_before_targets(part.views), positions).mean
        return probability, probability > 0.5

    return predict


class Trivial:
    """Two predictors that know nothing of motion.

    *Mean view*: the mean training view. *Last seen*: what any train last saw in that cell of the map, and the mean view
    where none was. Its probabilities are how often, in training, there was a 1 at that pixel of a view when a 1, a 0 or
    nothing had been seen there.
    """

    def __init__(self, train: Iterable[Episode]):
        ones, views = 0.0, 0.0
        for part in train:
            views_now, there = part.targets.steps(1, None).values, part.targets.mask[:, 1:]
            seen, known = seen_before(part)
            cases = torch.stack([~known, known & ~seen, known & seen], 3) & there[..., None, None, None, None]
            views = views + cases.sum((0, 1, 2))
            ones = ones + (cases & (views_now > 0.5).unsqueeze(3)).sum((0, 1, 2))
        self.frequencies = (ones + 0.5) / (views + 1)
        self.mean_view = (ones.sum(0) + 0.5) / (views.sum(0) + 1)

    def mean(self, part: Episode) -> tuple[Tensor, Tensor]:
        """The same everywhere."""
        probability = self.mean_view.expand(*part.targets.mask[:, 1:].shape, -1, -1, -1)
        return probability, probability > 0.5

    def last_seen(self, part: Episode) -> tuple[Tensor, Tensor]:
        """What was last seen of the map."""
        seen, known = seen_before(part)
        never, zero, one = self.frequencies
        probability = torch.where(known, torch.where(seen, one, zero), never)
        return probability, torch.where(known, seen, self.mean_view > 0.5)


def seen_before(part: Episode) -> tuple[Tensor, Tensor]:
    """What any train last saw where the views of steps 1 to T look, and whether any saw it, bool `(B, T, A, 10, v, v)`.

    Cells are kept as numbers, a bit a channel, -1 where nothing was seen.
    """
    views = part.views
    channels, size = views.value_shape[:2]
    side = int(views.positions.max()) + 2 * size
    corner, offsets = views.positions.long(), torch.arange(size)
    cells = (corner[..., 0] * side + corner[..., 1])[..., None] + (offsets[:, None] * side + offsets).flatten()
    bits = 1 << torch.arange(channels)
    values = ((views.values > 0.5).flatten(4) * bits[:, None]).sum(3)
    canvas, found = torch.full((views.batch_size, side * side), -1), []
    for step in range(views.num_steps):
        found.append(canvas.gather(1, cells[:, step].flatten(1)).view_as(cells[:, step]))
        for train in range(cells.shape[2]):
            at, there = cells[:, step, train], views.mask[:, step, train, None]
            canvas.scatter_(1, at, torch.where(there, values[:, step, train], canvas.gather(1, at)))
    last = torch.stack(found[1:], 1).unflatten(-1, (1, size, size))
    known = (last >= 0).expand(-1, -1, -1, channels, -1, -1)
    return known & ((last & bits[:, None, None]) > 0), known


@torch.no_grad()
def scores(predict: Predictor, parts: Iterable[Episode]) -> dict[str, float]:
    """F1 over all channels, over those of trains, and over those of other trains than the centre's; log-likelihood.

    The log-likelihood is in nats a channel of a cell.
    """
    counts = {name: torch.zeros(3, dtype=torch.long) for name in ("f1", "f1_trains", "f1_other_trains")}
    log_likelihood, total = 0.0, 0
    for part in parts:
        probability, decision = predict(part)
        there, truth = part.targets.mask[:, 1:], part.targets.values[:, 1:] > 0.5
        probability, decision, truth = probability[there], decision[there], truth[there]
        log_likelihood += float(torch.where(truth, probability, 1 - probability).clamp(min=1e-7).log().double().sum())
        total += truth.numel()
        others = torch.ones(truth.shape[-2:], dtype=torch.bool)
        others[truth.shape[-2] // 2, truth.shape[-1] // 2] = False
        for name, some in (
            ("f1", slice(None)), ("f1_trains", (slice(None), TRAIN)), ("f1_other_trains", (slice(None), TRAIN, others)),
        ):  # fmt: skip
            guess, real = decision[some], truth[some]
            counts[name] += torch.stack([(guess & real).sum(), (guess & ~real).sum(), (~guess & real).sum()])
    f1 = {name: float(2 * hits / (2 * hits + false + missed)) for name, (hits, false, missed) in counts.items()}
    return {**f1, "log_likelihood": log_likelihood / total}


@torch.no_grad()
def predictions(world: RailwayWorld, test: Railways, predictors: dict[str, Predictor]) -> Any:
    """A map with its trains, and beside it what some of them see and were expected to see."""
    from matplotlib.patches import Rectangle

    part = episode(world, test, torch.tensor([0]))
    step = int(part.views.mask[0, 1:].sum(1).argmax()) + 1
    trains = part.views.mask[0, step].nonzero().flatten().tolist()[:4]
    shown = {"truth": part.views.values[0, step]}
    shown |= {name: predict(part)[0][0, step - 1] for name, predict in predictors.items()}

    made, panels = plots.figure(4, 4 + len(shown), 2.0 * (4 + len(shown)), 8.2)
    grid = panels[0, 0].get_gridspec()
    for axes in panels[:, :4].flat:
        axes.remove()
    whole = made.add_subplot(grid[:, :4])
    sketch(whole, world_map(test, step))
    whole.set_title(f"the railway at step {step}; framed: the views beside it")
    for line, train in zip(panels[:, 4:], trains, strict=False):
        row, column = part.views.positions[0, step, train].tolist()
        corner = (column - world.view / 2, row - world.view / 2)
        whole.add_patch(Rectangle(corner, world.view, world.view, fill=False, edgecolor="#c0392b"))
        whole.text(corner[0], corner[1] - 0.4, str(train + 1), fontsize=8, color="#c0392b")
        for axes, (name, views) in zip(line, shown.items(), strict=True):
            sketch(axes, views[train])
            axes.set_title(name if train == trains[0] else "", fontsize=9)
        line[0].set_ylabel(f"train {train + 1}", fontsize=9)
    for axes in panels[len(trains) :, 4:].flat:
        axes.axis("off")
    return made


def world_map(source: Railways, step: int) -> Tensor:
    """The first episode's whole map at a step, as a view `(10, G, G)`."""
    ways = source.rails[source.map_of[0]].int()
    ways = ways | ways >> 4 | ways >> 8 | ways >> 12
    whole = torch.zeros(len(CHANNELS), *ways.shape)
    whole[TRACK] = torch.stack([ways >> bit & 1 for bit in (3, 2, 1, 0)]).float()
    whole[CHANNELS.index("station"), *source.stations[0].long().T] = 1
    there = source.directions[0, step] >= 0
    whole[4 + source.directions[0, step, there].long(), *source.positions[0, step, there].long().T] = 1
    return whole


def sketch(axes: Any, cells: Tensor) -> None:
    """Draw a view `(10, H, W)`: tracks, trains as arrowheads, stations as squares, the fainter the less likely."""
    from matplotlib.collections import LineCollection
    from matplotlib.markers import MarkerStyle

    height, width = cells.shape[1:]
    size = 100 if height < 10 else 45
    ends = ((0, -0.5), (0.5, 0), (0, 0.5), (-0.5, 0))  # of a track, (right, down) of the middle of its cell
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


if __name__ == "__main__":
    main(tyro.cli(Recipe))
