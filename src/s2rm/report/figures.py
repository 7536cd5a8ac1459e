"""What all pictures share: figures without a display, colours of predictors, lines and bands."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from s2rm.extras import require
from s2rm.files import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

P = TypeVar("P")
Numbers = Sequence[float]
COLOURS = ("#0b6e99", "#d9730d", "#6b4fa0", "#448361", "#ad1a72", "#8c6a00", "#c0392b", "#4a4a4a")
TRIVIAL = {
    "static scene": "#9b9a97", "last seen": "#b8a58c", "nobody moves": "#9b9a97", "mean view": "#9b9a97",
    "climatology": "#8c8c8c", "persistence": "#b08d57", "inverse distance": "#5f8f7a", "local linear": "#93a12b",
    "kriging": "#4a4a4a", "seasonal": "#a3768c", "constant": "#9b9a97", "mean": "#9b9a97",
    "constant velocity": "#7f9183", "last seen, by age": "#7f9183",
}  # fmt: skip
"""colour of each predictor that needs next to no training"""
DASHES: dict[str, tuple[str | tuple[int, tuple[int, ...]], str]] = {
    "climatology": (":", "x"), "persistence": ("--", "s"), "inverse distance": ("-.", "^"),
    "local linear": ((0, (7, 2)), "v"), "kriging": ((0, (2, 1)), "D"), "seasonal": ((0, (4, 1, 1, 1)), "P"),
}  # fmt: skip
"""dashes and marker of those that stand side by side"""


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, NDArray]:
    """A figure of that many panels (an array of axes), without a display."""
    require("report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure((width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def colour(name: str, names: Sequence[str]) -> str:
    """The colour of a predictor: grey tones for the simple ones, one each for the models."""
    models = [other for other in names if other not in TRIVIAL]
    return TRIVIAL[name] if name in TRIVIAL else COLOURS[models.index(name) % len(COLOURS)]


def predictors(rows: Sequence[Row]) -> list[str]:
    """The predictors of the rows, the simple ones last."""
    return sorted(dict.fromkeys(row["predictor"] for row in rows), key=lambda name: name in TRIVIAL)


def curve(
    axes: Axes, x: Numbers, y: Numbers, name: str, names: Sequence[str], band: tuple[Numbers, Numbers] | None = None
) -> None:
    """Draw the line of a predictor, broken for the simple ones, in a band from lowest to highest values."""
    shade = colour(name, names)
    dashes, marker = DASHES.get(name, ("--" if name in TRIVIAL else "-", "."))
    width, above = (1.5, 2) if name in TRIVIAL else (2.2, 3)
    axes.plot(
        x, y, ls=dashes, marker=marker, ms=8 if marker == "." else 4, lw=width, zorder=above, color=shade, label=name
    )
    if band:
        axes.fill_between(x, band[0], band[1], color=shade, alpha=0.2)


def side_by_side(parts: Mapping[str, P], draw: Callable[[Axes, P], None], ylabel: str, **settings: object) -> Figure:
    """A panel for each part, under its heading, with the legend of the first to the right, where it hides no line."""
    made, (panels,) = figure(1, len(parts), 3.4 * len(parts) + 1.7, 3.4)
    for axes, (heading, part) in zip(panels, parts.items(), strict=True):
        draw(axes, part)
        axes.set(title=heading, **settings)
    panels[0].set_ylabel(ylabel)
    return plain(key_beside(made, panels[0]))


def metrics(rows: Sequence[Row], across: str, labels: Mapping[str, str], xlabel: str) -> Figure:
    """A panel for each metric, under its label, against a key of the rows; see `lines`."""
    parts = {label: metric for metric, label in labels.items()}
    return side_by_side(parts, lambda axes, metric: lines(axes, rows, across, metric), "", xlabel=xlabel)


def tiles(number: int, width: float, height: float) -> tuple[Figure, NDArray]:
    """A figure of that many panels of a size, five in a line, and room beside them for a scale of colours."""
    columns, depth = min(5, number), -(-number // 5)
    made, panels = figure(depth, columns, width * columns + 0.7, height * depth)
    for axes in panels.flat[number:]:
        axes.axis("off")
    return made, panels.flat[:number]


def animation(made: Figure, steps: int, draw: Callable[[int], None]) -> bytes:
    """An animated GIF of a figure that `draw` changes for each step, under a title with the number of steps ahead."""
    import numpy as np
    from PIL import Image

    title, pictures = made.suptitle("1 step ahead", fontsize=10), []
    for step in range(steps):
        draw(step)
        title.set_text(f"{step + 1} step{'s' if step else ''} ahead")
        made.canvas.draw()
        made.set_layout_engine("none")  # every step has the layout of the first
        rgba = np.asarray(made.canvas.buffer_rgba())  # type: ignore[attr-defined]
        pictures.append(Image.fromarray(rgba[..., :3].copy()).quantize(64))
    content = io.BytesIO()
    pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=160, loop=0)
    return content.getvalue()


def png(made: Figure) -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    made.savefig(content, format="png")
    return content.getvalue()


def plain(made: Figure) -> Figure:
    """The figure without frames at the top and the right."""
    for axes in made.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return made


def key_beside(made: Figure, axes: Axes) -> Figure:
    """The figure with the legend of one panel to the right of all panels, where it hides no line."""
    made.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return made


def lines(axes: Axes, rows: Sequence[Row], across: str, metric: str) -> None:
    """A line for each predictor: the mean over the rows of a point, and a band for their range, where rows have the
    metric."""
    rows = [row for row in rows if metric in row]
    names = predictors(rows)
    for name in names:
        points: dict[float, list[float]] = {}
        for row in rows:
            if row["predictor"] == name:
                points.setdefault(row[across], []).append(row[metric])
        x, values = sorted(points), [points[at] for at in sorted(points)]
        lowest, highest = [min(some) for some in values], [max(some) for some in values]
        curve(axes, x, [sum(some) / len(some) for some in values], name, names, (lowest, highest))
