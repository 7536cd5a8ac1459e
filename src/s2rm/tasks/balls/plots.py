"""Pictures of the balls: scores by number of balls and share of the views, and rollouts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.files import Row
from s2rm.report.figures import TRIVIAL, colour, figure, key_beside, lines, plain, predictors
from s2rm.tasks.balls.rollouts import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "log_likelihood": "log-likelihood (nats a pixel)"}


def balls(number: int) -> str:
    """The heading of a rollout."""
    return f"{number} ball{'' if number == 1 else 's'}"


def scores_by_balls(rows: Sequence[Row], views: float, trained_on: int) -> Figure:
    """F1, balanced accuracy and log-likelihood against the number of balls, and their range over seeds (Figure 4)."""
    made, (panels,) = figure(1, 3, 11.8, 3.4)
    rows = [row for row in rows if row["views"] == views]
    for axes, (metric, label) in zip(panels, LABELS.items(), strict=True):
        lines(axes, rows, "balls", metric)
        axes.axvline(trained_on, color="#dddddd", zorder=0)
        axes.set(xlabel="moving balls", title=label)
    return plain(key_beside(made, panels[0]))


def scores_by_views(rows: Sequence[Row], metric: str) -> Figure:
    """A metric against the fraction of views, a panel for each number of balls (Figure 6)."""
    numbers = sorted({row["balls"] for row in rows})
    made, (panels,) = figure(1, len(numbers), 3.4 * len(numbers) + 1.7, 3.4)
    for axes, number in zip(panels, numbers, strict=True):
        lines(axes, [row for row in rows if row["balls"] == number], "views", metric)
        axes.set(xlabel="fraction of views", title=balls(number))
    panels[0].set_ylabel(LABELS[metric])
    return plain(key_beside(made, panels[0]))


def heat_maps(rows: Sequence[Row], metric: str) -> Figure:
    """A metric over numbers of balls and fractions of views, a panel for each predictor; the mean over seeds.

    Source:
        S2RM, Figures 20 and 21.
    """
    names = predictors(rows)
    numbers = sorted({row["balls"] for row in rows})
    views = sorted({row["views"] for row in rows})
    columns = min(5, len(names))
    depth = -(-len(names) // columns)
    made, panels = figure(depth, columns, 3.1 * columns + 0.6, 2.9 * depth)
    lowest, highest = min(row[metric] for row in rows), max(row[metric] for row in rows)
    for axes, name in zip(panels.flat, names, strict=False):
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
    for axes in panels.flat[len(names) :]:
        axes.axis("off")
    made.colorbar(image, ax=list(panels.flat), label=LABELS[metric], shrink=0.9 / depth)
    return made


def reliability(rows: Sequence[Row]) -> Figure:
    """How often pixels are 1 against their probability, a panel for each number of balls; the first seed, all views.

    `rows` are those of `one_step_table`; a point is a tenth of the probabilities that holds at least 0.01 % of pixels.
    """
    rows = [row for row in rows if row["views"] == 1]
    names = predictors(rows)
    numbers = sorted({row["balls"] for row in rows})[::2]
    made, (panels,) = figure(1, len(numbers), 3.4 * len(numbers) + 1.7, 3.4)
    for axes, number in zip(panels, numbers, strict=True):
        axes.plot([0, 1], [0, 1], color="#dddddd", zorder=0)
        for name in names:
            first = next(row for row in rows if (row["predictor"], row["balls"]) == (name, number))
            points = [point[:2] for point in first["reliability"] if point[2] >= 1e-4]
            dashes = "--" if name in TRIVIAL else "-"
            axes.plot(*zip(*points, strict=True), dashes, marker=".", color=colour(name, names), label=name)
        axes.set(xlabel="probability", title=balls(number))
    panels[0].set_ylabel("how often 1")
    return plain(key_beside(made, panels[0]))


def removed_modules(rows: Sequence[Row]) -> Figure:
    """F1 against the number of modules removed: the mean over draws and their range, a panel a number of balls.

    Source:
        S2RM, Figure 7.
    """
    names = predictors(rows)
    numbers = sorted({row["balls"] for row in rows})
    made, panels = figure(1, len(numbers), 3.2 * len(numbers) + 0.6, 3.0)
    for axes, number in zip(panels.flat, numbers, strict=True):
        for name in names:
            line = [row for row in rows if (row["predictor"], row["balls"]) == (name, number)]
            x, shade = [row["removed"] for row in line], colour(name, names)
            axes.plot(x, [row["f1"] for row in line], marker=".", color=shade, label=name)
            axes.fill_between(x, [r["lowest"] for r in line], [r["highest"] for r in line], color=shade, alpha=0.2)
        axes.set(xlabel="modules removed", title=balls(number), ylim=(0, 1))
    panels.flat[0].set_ylabel("F1")
    panels.flat[0].legend(fontsize=7)
    return made


def rollout_strip(rollouts: Rollouts, sequence: int, steps: Sequence[int]) -> Figure:
    """Truth and each model in rows, some steps of one rollout in columns (Figure 3)."""
    rows = {"truth": rollouts.truth.float(), **rollouts.predicted}
    made, panels = figure(len(rows), len(steps), 1.15 * len(steps) + 0.8, 1.2 * len(rows) + 0.2)
    for line, (name, frames) in zip(panels, rows.items(), strict=True):
        for axes, step in zip(line, steps, strict=True):
            _show(axes, frames[sequence, step])
            if name == "truth":
                axes.set_title(f"+{step + 1}", fontsize=8)
        line[0].set_ylabel(name, fontsize=9)
    return made


def rollout_animation(rollouts: Mapping[str, Rollouts], frame_ms: int = 160) -> bytes:
    """An animated GIF: truth and each model in rows, a rollout in each column (its heading is the mapping's key)."""
    from PIL import Image

    columns = list(rollouts.values())
    names = ["truth", *columns[0].predicted]
    made, panels = figure(len(names), len(columns), 1.7 * len(columns) + 0.5, 1.75 * len(names) + 0.5)
    pictures = []
    for step in range(columns[0].truth.shape[1]):
        for row, name in enumerate(names):
            for column, (heading, part) in enumerate(rollouts.items()):
                axes = panels[row][column]
                axes.clear()
                frames = part.truth.float() if name == "truth" else part.predicted[name]
                _show(axes, frames[0, step])
                if row == 0:
                    axes.set_title(heading, fontsize=9)
                if column == 0:
                    axes.set_ylabel(name, fontsize=9)
        made.suptitle(f"{step + 1} steps ahead", fontsize=10)
        made.canvas.draw()
        rgba = torch.frombuffer(bytearray(made.canvas.buffer_rgba()), dtype=torch.uint8)  # type: ignore[attr-defined]
        width, height = made.canvas.get_width_height()
        picture = Image.fromarray(rgba.reshape(height, width, 4)[..., :3].numpy())
        pictures.append(picture.quantize(64))
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0)
    return content.getvalue()


def rollout_scores(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """F1 of stitched frames against the steps since the prompt, a panel for each mapping's key."""
    made, (panels,) = figure(1, len(scores), 3.4 * len(scores) + 1.7, 3.2)
    for axes, (heading, scored) in zip(panels, scores.items(), strict=True):
        for name, line in scored.items():
            dashes = "--" if name in TRIVIAL else "-"
            axes.plot(range(1, len(line) + 1), line, dashes, color=colour(name, list(scored)), label=name)
        axes.set(xlabel="steps since the last true view", title=heading, ylim=(0, 1))
    panels[0].set_ylabel("F1")
    return plain(key_beside(made, panels[0]))


def _show(axes: Axes, frame: Float[Tensor, "H W"]) -> None:
    from matplotlib import colormaps

    axes.imshow(frame.numpy(), vmin=0, vmax=1, cmap=colormaps["gray"].with_extremes(bad="#3b4252"))
    axes.set_xticks([])
    axes.set_yticks([])
