"""The report of runs on the balls: tables by number of balls, rollouts, robustness to missing views, modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from s2rm.explorer.scenes import Crops
from s2rm.files import Row
from s2rm.report.figures import animation, curve, figure, metrics, predictors, side_by_side, tiles
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, More, Picture, Table, comparison, drawn, learning, write_page
from s2rm.tasks.balls.scores import PROMPT_STEPS, Rollouts, TrivialPredictors, episodes_to_test, roll_out
from s2rm.tasks.balls.world import BallsWorld, videos
from s2rm.tasks.crops import cells
from s2rm.tasks.task import Models

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

SEQUENCES = 16
"""rollouts for each number of balls"""
EXPLORED = 160
"""frames of an episode in the explorer"""
LABELS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "log_likelihood": "log-likelihood (nats per pixel)"}
TITLES = {"f1": "F1", "balanced_accuracy": "Balanced accuracy", "log_likelihood": "Log-likelihood"}
SENTENCES = {
    "f1": "Higher is better; 1 is perfect. A model has learned motion only where it is above both simple predictors.",
    "balanced_accuracy": "The mean of recall and specificity: higher is better, 0.5 is chance.",
    "log_likelihood": "Nats per pixel; closer to 0 is better. It also rewards well calibrated probabilities.",
}


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: BallsWorld, seed: int = 0,
    folder: Path | None = None, more: More = More(),  # noqa: B008
) -> None:  # fmt: skip
    """Write the page; arguments as for `Task.write_report`."""
    seen = "whole frames and learned to predict the next one"
    if not world.whole:
        number = f"{world.num_views} small crop{'s' * (world.num_views > 1)}"
        seen = f"{number} of every frame, at random positions, and learned to predict the crops of the next frame"
    lead = (
        f"Each model saw {seen}. It was trained on {world.trained_on} moving balls and tested, without further "
        "training, on 1 to 6."
    )
    seen = (
        f"World: {world.arena} x {world.arena} pixels, balls of radius {world.radius:g} px at {world.slowest:g} to "
        f"{world.fastest:g} px per frame at the start, one more ball fixed in the centre; {world.num_views} views of "
        f"{world.crop} x {world.crop} px per frame. Training: {world.train_sequences:,} sequences in clips of "
        f"{world.clip} frames, mirrored at random. Test: {world.test_sequences:,} sequences of {world.num_frames} "
        "frames for each number of balls, the same crops for every predictor."
    )
    tables = [_table(rows, metric, 1.0) for metric in TITLES]
    if world.num_views > 1:
        tables.append(_table(rows, "f1", 0.3))
    pictures = [*_pictures(entries, rows, world, seed)]
    title = f"Bouncing balls, seen {'whole' if world.whole else 'only through crops'}"
    write_page(path, title, lead, entries, seen, [*tables, *more.tables], [*pictures, *more.pictures], more.verdict)


def _table(rows: Sequence[Row], metric: str, views: float) -> Table:
    chosen = [row for row in rows if row["views"] == views]
    seen = "all views" if views == 1 else f"{views:.0%} of the views"
    heads = {number: balls(number) for number in sorted({row["balls"] for row in chosen})}
    title = f"{TITLES[metric]}, one step ahead, {seen}"
    return comparison(chosen, metric, "balls", heads, title, TITLES[metric], SENTENCES[metric])


def _pictures(entries: Sequence[Entry], rows: Sequence[Row], world: BallsWorld, seed: int) -> Iterator[Picture]:
    rollouts = rollouts_by_balls({entry.label: entry.model for entry in entries}, world, (1, 3, 5), SEQUENCES, seed)
    sentence = (
        f"After {PROMPT_STEPS} steps of true views each model sees only its own predictions, at random positions. "
        "Compare each row with the truth at the top: the moving balls should keep moving as discs, not smear and fade. "
        "Blue-grey lines are pixels between the 4 x 4 queried crops."
    )
    yield Picture("Rollouts, animated", "image/gif", rollout_animation(rollouts), sentence)
    sentence = "The same rollout, every third step. A model that tracks the balls shows as many discs as the truth."
    for heading, part in rollouts.items():
        yield drawn(f"Rollout, {heading}", rollout_strip(part), sentence)
    sentence = (
        f"F1 of the stitched frames over {SEQUENCES} sequences. Where a line is above the static scene, the model "
        "still knows where the moving balls are."
    )
    scores = {heading: part.f1() for heading, part in rollouts.items()}
    yield drawn("F1 over a rollout", rollout_scores(scores), sentence)
    sentence = f"All models were trained on {world.trained_on} balls (grey line); all other numbers are new to them."
    yield drawn("One step ahead, by number of balls", scores_by_balls(rows, world.num_balls), sentence)
    sentence = (
        f"The share of the {world.num_views} views that a model sees grows from left to right. A model whose panel "
        "stays bright towards the left needs few views."
    )
    for metric in ("f1", "balanced_accuracy") if world.num_views > 1 else ():
        yield drawn(f"{TITLES[metric]}, with views dropped", heat_maps(rows, metric), sentence)
    yield learning(entries)
    views = episodes_to_test(replace(world, test_sequences=4, most_balls=None), world.num_balls, 0)[0].views
    yield from module_pictures(entries, cells(world.arena), views)


def rollouts_by_balls(
    models: Models, world: BallsWorld, numbers: Sequence[int], num_sequences: int, seed: int
) -> dict[str, Rollouts]:
    """Closed-loop rollouts of all models but oracles, for each number of balls, by its heading."""
    able = {label: model for label, model in models.items() if not model.is_oracle}
    trivial = TrivialPredictors(world, seed)
    return {balls(number): roll_out(able, trivial, world, num_sequences, number, seed) for number in numbers}


def animate(models: Models, world: BallsWorld, seed: int, numbers: Sequence[int]) -> bytes:
    """An animated picture (GIF) of one closed-loop rollout for each number of balls."""
    return rollout_animation(rollouts_by_balls(models, world, numbers, 1, seed))


def scene(world: BallsWorld, seed: int, folder: Path | None = None) -> Crops:
    """Long test episodes with as many balls as in training, and with other numbers."""
    longer = replace(world, num_frames=EXPLORED, test_sequences=2, most_balls=None)
    first, shown = world.num_balls, []
    for number in dict.fromkeys((first, 1, 6)):
        for index, frames in enumerate(videos(longer, "test", seed, number).frames()[: 2 if number == first else 1], 1):
            shown.append((f"{balls(number)}, {'as in training' if number == first else 'new'}, {index}", frames))
    return Crops("bouncing balls", shown, world.crop, world.num_views)


def balls(number: int) -> str:
    """The heading of a number of balls."""
    return f"{number} ball{'' if number == 1 else 's'}"


def scores_by_balls(rows: Sequence[Row], trained_on: int) -> Figure:
    """F1, balanced accuracy and log-likelihood against the number of balls, and their range over seeds (Figure 4)."""
    made = metrics([row for row in rows if row["views"] == 1], "balls", LABELS, "moving balls")
    for axes in made.axes:
        axes.axvline(trained_on, color="#dddddd", zorder=0)
    return made


def heat_maps(rows: Sequence[Row], metric: str) -> Figure:
    """A metric over balls and fractions of views, a panel a predictor; the mean over seeds (Figures 20 and 21)."""
    names = predictors(rows)
    numbers, views = (sorted({row[key] for row in rows}) for key in ("balls", "views"))
    made, panels = tiles(len(names), 3.1, 2.9)
    lowest, highest = min(row[metric] for row in rows), max(row[metric] for row in rows)
    for axes, name in zip(panels, names, strict=True):
        scores: dict[tuple[int, float], list[float]] = {}
        for row in rows:
            if row["predictor"] == name:
                scores.setdefault((row["balls"], row["views"]), []).append(row[metric])
        grid = [[sum(some) / len(some) for some in (scores[number, part] for part in views)] for number in numbers]
        image = axes.imshow(grid, vmin=lowest, vmax=highest, cmap="viridis", aspect="auto", origin="lower")
        for y, line in enumerate(grid):
            for x, score in enumerate(line):
                shade = "black" if score > (lowest + highest) / 2 else "white"
                axes.text(x, y, f"{score:.2f}".lstrip("0"), ha="center", va="center", fontsize=6, color=shade)
        axes.set_xticks(range(len(views)), [f"{fraction:g}" for fraction in views], fontsize=7)
        axes.set_yticks(range(len(numbers)), [str(number) for number in numbers], fontsize=7)
        axes.set(xlabel="fraction of views", ylabel="moving balls", title=name)
    made.colorbar(image, ax=made.axes, label=LABELS[metric], shrink=0.9)
    return made


def rollout_strip(rollouts: Rollouts) -> Figure:
    """Truth and each model in rows, every third step of the first rollout in columns (Figure 3)."""
    rows, steps = rollouts.by_name, range(0, rollouts.truth.shape[1], 3)
    columns = {f"+{step + 1}": {name: frames[0, step] for name, frames in rows.items()} for step in steps}
    return _frames(columns, 1.15 * len(columns) + 0.8, 1.2 * len(rows) + 0.2, fontsize=8)[0]


def rollout_animation(rollouts: Mapping[str, Rollouts]) -> bytes:
    """An animated GIF: truth and each model in rows, a rollout in each column (its heading is the mapping's key)."""
    parts = {heading: part.by_name for heading, part in rollouts.items()}
    first = {heading: {name: frames[0, 0] for name, frames in part.items()} for heading, part in parts.items()}
    number = len(next(iter(parts.values())))
    made, shown = _frames(first, 1.7 * len(parts) + 0.5, 1.75 * number + 0.5, fontsize=9)

    def draw(step: int) -> None:
        for (heading, name), image in shown.items():
            image.set_data(parts[heading][name][0, step].numpy())

    return animation(made, next(iter(rollouts.values())).truth.shape[1], draw)


def _frames(
    columns: Mapping[str, Mapping[str, Float[Tensor, "H W"]]], width: float, height: float, fontsize: int
) -> tuple[Figure, dict[tuple[str, str], AxesImage]]:
    """A figure of frames, by the heading of their column and the name of their row."""
    from matplotlib import colormaps

    grey = colormaps["gray"].with_extremes(bad="#3b4252")
    names = list(next(iter(columns.values())))
    made, panels = figure(len(names), len(columns), width, height)
    shown = {}
    for line, (heading, frames) in zip(panels.T, columns.items(), strict=True):
        for axes, name in zip(line, names, strict=True):
            shown[heading, name] = axes.imshow(frames[name].numpy(), vmin=0, vmax=1, cmap=grey)
            axes.set(xticks=[], yticks=[])
        line[0].set_title(heading, fontsize=fontsize)
    for axes, name in zip(panels[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=9)
    return made, shown


def rollout_scores(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """F1 of stitched frames against the steps since the prompt, a panel for each mapping's key."""

    def draw(axes: Axes, scored: Mapping[str, Sequence[float]]) -> None:
        for name, line in scored.items():
            curve(axes, range(1, len(line) + 1), line, name, list(scored))

    return side_by_side(scores, draw, "F1", xlabel="steps since the last true view", ylim=(0, 1))
