"""Pictures of the balls: scores by number of balls and share of the views, and rollouts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.files import Row
from s2rm.report.figures import curve, figure, lines, predictors, side_by_side, tiles
from s2rm.tasks.balls.rollouts import Rollouts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

LABELS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "log_likelihood": "log-likelihood (nats a pixel)"}


def balls(number: int) -> str:
    """The heading of a rollout."""
    return f"{number} ball{'' if number == 1 else 's'}"


def _by_balls(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each number of balls, by its heading."""
    return {balls(n): [row for row in rows if row["balls"] == n] for n in sorted({row["balls"] for row in rows})}


def scores_by_balls(rows: Sequence[Row], views: float, trained_on: int) -> Figure:
    """F1, balanced accuracy and log-likelihood against the number of balls, and their range over seeds (Figure 4)."""
    rows = [row for row in rows if row["views"] == views]

    def draw(axes: Axes, metric: str) -> None:
        lines(axes, rows, "balls", metric)
        axes.axvline(trained_on, color="#dddddd", zorder=0)

    return side_by_side({label: metric for metric, label in LABELS.items()}, draw, "", xlabel="moving balls")


def scores_by_views(rows: Sequence[Row], metric: str) -> Figure:
    """A metric against the fraction of views, a panel for each number of balls (Figure 6)."""

    def draw(axes: Axes, part: Sequence[Row]) -> None:
        lines(axes, part, "views", metric)

    return side_by_side(_by_balls(rows), draw, LABELS[metric], xlabel="fraction of views")


def heat_maps(rows: Sequence[Row], metric: str) -> Figure:
    """A metric over numbers of balls and fractions of views, a panel for each predictor; the mean over seeds.

    Source:
        S2RM, Figures 20 and 21.
    """
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


def reliability(rows: Sequence[Row]) -> Figure:
    """How often pixels are 1 against their probability, a panel for every other number of balls; first seed, all views.

    `rows` are those of `one_step_table`; a point is a tenth of the probabilities that holds at least 0.01 % of pixels.
    """
    parts = _by_balls([row for row in rows if row["views"] == 1])
    names = predictors(rows)

    def draw(axes: Axes, part: Sequence[Row]) -> None:
        axes.plot([0, 1], [0, 1], color="#dddddd", zorder=0)
        for name in names:
            first = next(row for row in part if row["predictor"] == name)
            points = [point[:2] for point in first["reliability"] if point[2] >= 1e-4]
            probability, frequency = zip(*points, strict=True)
            curve(axes, probability, frequency, name, names)

    return side_by_side(dict(list(parts.items())[::2]), draw, "how often 1", xlabel="probability")


def removed_modules(rows: Sequence[Row]) -> Figure:
    """F1 against the number of modules removed: the mean over draws and their range, a panel a number of balls.

    Source:
        S2RM, Figure 7.
    """
    names = predictors(rows)

    def draw(axes: Axes, part: Sequence[Row]) -> None:
        for name in names:
            line = [row for row in part if row["predictor"] == name]
            x, f1, lowest, highest = ([row[key] for row in line] for key in ("removed", "f1", "lowest", "highest"))
            curve(axes, x, f1, name, names, (lowest, highest))

    return side_by_side(_by_balls(rows), draw, "F1", xlabel="modules removed", ylim=(0, 1))


def rollout_strip(rollouts: Rollouts, sequence: int, steps: Sequence[int]) -> Figure:
    """Truth and each model in rows, some steps of one rollout in columns (Figure 3)."""
    rows = rollouts.by_name
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

    columns = {heading: part.by_name for heading, part in rollouts.items()}
    names = list(next(iter(columns.values())))
    made, panels = figure(len(names), len(columns), 1.7 * len(columns) + 0.5, 1.75 * len(names) + 0.5)
    shown = {
        (heading, name): _show(axes, columns[heading][name][0, 0])
        for column, heading in zip(panels.T, columns, strict=True)
        for axes, name in zip(column, names, strict=True)
    }
    for axes, heading in zip(panels[0], columns, strict=True):
        axes.set_title(heading, fontsize=9)
    for axes, name in zip(panels[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=9)
    title, pictures = made.suptitle("1 step ahead", fontsize=10), []
    for step in range(next(iter(rollouts.values())).truth.shape[1]):
        for (heading, name), image in shown.items():
            image.set_data(columns[heading][name][0, step].numpy())
        title.set_text(f"{step + 1} step{'s' if step else ''} ahead")
        made.canvas.draw()
        made.set_layout_engine("none")  # every step has the layout of the first
        rgba = torch.frombuffer(bytearray(made.canvas.buffer_rgba()), dtype=torch.uint8)  # type: ignore[attr-defined]
        width, height = made.canvas.get_width_height()
        pictures.append(Image.fromarray(rgba.reshape(height, width, 4)[..., :3].numpy()).quantize(64))
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0)
    return content.getvalue()


def rollout_scores(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """F1 of stitched frames against the steps since the prompt, a panel for each mapping's key."""

    def draw(axes: Axes, scored: Mapping[str, Sequence[float]]) -> None:
        for name, line in scored.items():
            curve(axes, range(1, len(line) + 1), line, name, list(scored))

    return side_by_side(scores, draw, "F1", xlabel="steps since the last true view", ylim=(0, 1))


def _show(axes: Axes, frame: Float[Tensor, "H W"]) -> AxesImage:
    from matplotlib import colormaps

    axes.set(xticks=[], yticks=[])
    return axes.imshow(frame.numpy(), vmin=0, vmax=1, cmap=colormaps["gray"].with_extremes(bad="#3b4252"))
