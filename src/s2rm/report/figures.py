"""Pictures: curves, scores, heat maps, rollouts, enclaves. Each function returns a matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from s2rm.tasks.balls.scores import Rollouts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#d9730d", "#6b4fa0", "#448361", "#ad1a72", "#8c6a00", "#c0392b", "#4a4a4a")
TRIVIAL = {
    "static scene": "#9b9a97", "last seen": "#b8a58c", "nobody moves": "#9b9a97", "climatology": "#9b9a97",
    "persistence": "#b8a58c", "inverse distance": "#7f9183", "local linear": "#a3b18a", "kriging": "#4a4a4a",
}  # fmt: skip
LABELS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "log_likelihood": "log-likelihood (nats a pixel)"}


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure of that many panels (an array of axes), without a display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('s2rm.report.figures needs matplotlib; install it with pip install "s2rm[report]"') from error
    made = Figure((width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False)


def colour(name: str, names: Sequence[str]) -> str:
    """The colour of a predictor: grey tones for the trivial ones, one each for the models."""
    models = [other for other in names if other not in TRIVIAL]
    return TRIVIAL[name] if name in TRIVIAL else COLOURS[models.index(name) % len(COLOURS)]


def predictors(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who the rows are of, the trivial last."""
    return sorted(dict.fromkeys(row["predictor"] for row in rows), key=lambda name: name in TRIVIAL)


def balls(number: int) -> str:
    """The heading of a rollout."""
    return f"{number} ball{'' if number == 1 else 's'}"


def png(made: Figure) -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    made.savefig(content, format="png")
    return content.getvalue()


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Validation loss of each run against the minutes that it has trained."""
    made, ((axes,),) = figure(1, 1, 6.4, 3.6)
    for name, history in histories.items():
        epochs = [epoch for epoch in history if "val_loss" in epoch]
        axes.plot(
            [epoch["minutes"] for epoch in epochs],
            [epoch["val_loss"] for epoch in epochs],
            color=colour(name, list(histories)),
            label=name,
        )
    axes.set(xlabel="minutes of training", ylabel="validation loss")
    axes.legend(frameon=False)
    return plain(made)


def scores_by_balls(rows: Sequence[Mapping[str, Any]], views: float, trained_on: int) -> Figure:
    """F1, balanced accuracy and log-likelihood against the number of balls, and their range over seeds (Figure 4)."""
    made, (panels,) = figure(1, 3, 11.8, 3.4)
    rows = [row for row in rows if row["views"] == views]
    for axes, (metric, label) in zip(panels, LABELS.items(), strict=True):
        lines(axes, rows, "balls", metric)
        axes.axvline(trained_on, color="#dddddd", zorder=0)
        axes.set(xlabel="moving balls", title=label)
    return plain(key_beside(made, panels[0]))


def scores_by_views(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """A metric against the fraction of views, a panel for each number of balls (Figure 6)."""
    numbers = sorted({row["balls"] for row in rows})
    made, (panels,) = figure(1, len(numbers), 3.4 * len(numbers) + 1.7, 3.4)
    for axes, number in zip(panels, numbers, strict=True):
        lines(axes, [row for row in rows if row["balls"] == number], "views", metric)
        axes.set(xlabel="fraction of views", title=balls(number))
    panels[0].set_ylabel(LABELS[metric])
    return plain(key_beside(made, panels[0]))


def key_beside(made: Figure, axes: Any) -> Figure:
    """The figure with the names of what is drawn in a panel to the right of all panels, where no line runs."""
    made.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    return made


def lines(axes: Any, rows: Sequence[Mapping[str, Any]], across: str, metric: str) -> None:
    """A line for each predictor: the mean over the rows of a point, and a band for their range."""
    names = predictors(rows)
    for name in names:
        points: dict[float, list[float]] = {}
        for row in rows:
            if row["predictor"] == name:
                points.setdefault(row[across], []).append(row[metric])
        x, values, shade = sorted(points), [points[at] for at in sorted(points)], colour(name, names)
        means = [sum(some) / len(some) for some in values]
        axes.plot(x, means, "--" if name in TRIVIAL else "-", marker="o", ms=4, color=shade, label=name)
        axes.fill_between(x, [min(some) for some in values], [max(some) for some in values], color=shade, alpha=0.2)


def heat_maps(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """A metric over numbers of balls and fractions of views, a panel for each predictor; the mean over seeds.

    Source:
        S2RM, Figures 20 and 21.
    """
    names = predictors(rows)
    numbers = sorted({row["balls"] for row in rows})
    views = sorted({row["views"] for row in rows})
    columns = min(5, len(names))
    lines = -(-len(names) // columns)
    made, panels = figure(lines, columns, 3.1 * columns + 0.6, 2.9 * lines)
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
    made.colorbar(image, ax=list(panels.flat), label=LABELS[metric], shrink=0.9 / lines)
    return made


def reliability(rows: Sequence[Mapping[str, Any]]) -> Figure:
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


def removed_modules(rows: Sequence[Mapping[str, Any]]) -> Figure:
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
    for axes, (heading, lines) in zip(panels, scores.items(), strict=True):
        for name, line in lines.items():
            dashes = "--" if name in TRIVIAL else "-"
            axes.plot(range(1, len(line) + 1), line, dashes, color=colour(name, list(lines)), label=name)
        axes.set(xlabel="steps since the last true view", title=heading, ylim=(0, 1))
    panels[0].set_ylabel("F1")
    return plain(key_beside(made, panels[0]))


def enclaves(weights: Float[Tensor, "M H W"]) -> Figure:
    """Where each module answers: `Z(P(x), p_m)` over the arena, a panel for each module (Figure 5)."""
    modules = len(weights)
    columns = min(5, modules)
    made, panels = figure(-(-modules // columns), columns, 1.6 * columns + 0.8, 1.75 * -(-modules // columns))
    for index, axes in enumerate(panels.flat):
        if index >= modules:
            axes.axis("off")
            continue
        image = axes.imshow(weights[index].numpy(), vmin=0, vmax=1, cmap="magma")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"module {index + 1}", fontsize=8)
    made.colorbar(image, ax=list(panels.flat), shrink=0.8)
    return made


def interaction_graph(kernel: Float[Tensor, "M M"], weights: Float[Tensor, "M H W"]) -> Figure:
    """The modules as their enclaves, with an edge where their kernel is above 0, darker where larger (Figure 9)."""
    made, ((axes,),) = figure(1, 1, 6.4, 6.4)
    modules = len(kernel)
    angles = torch.arange(modules) * (2 * torch.pi / modules)
    places = torch.stack([angles.cos(), angles.sin()], 1).tolist()
    for m, (x, y) in enumerate(places):
        for n, (other_x, other_y) in enumerate(places[:m]):
            if kernel[m, n] > 0:
                axes.plot([x, other_x], [y, other_y], color="black", alpha=0.15 + 0.7 * float(kernel[m, n]), zorder=0)
        node = axes.inset_axes((x - 0.17, y - 0.17, 0.34, 0.34), transform=axes.transData)
        node.imshow(weights[m].numpy(), vmin=0, vmax=1, cmap="magma")
        node.set(xticks=[], yticks=[])
        axes.text(x, y + 0.18, str(m + 1), ha="center", va="bottom", fontsize=8)
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), aspect="equal")
    axes.axis("off")
    return made


def masking_effects(effects: Float[Tensor, "M M"]) -> Figure:
    """What masking one module (rows) does to the others (columns), relative to the size of their states."""
    made, ((axes,),) = figure(1, 1, 4.6, 3.9)
    numbers = [str(module + 1) for module in range(len(effects))]
    image = axes.imshow(effects.numpy(), cmap="viridis", vmin=0)
    axes.set_xticks(range(len(numbers)), numbers)
    axes.set_yticks(range(len(numbers)), numbers)
    axes.set(xlabel="changed module", ylabel="masked module")
    made.colorbar(image, ax=axes, label="relative change of its state")
    return made


def activity(active: Bool[Tensor, "T M"]) -> Figure:
    """Which modules were active when (Figure 2 of the RIMs paper): black is active."""
    made, ((axes,),) = figure(1, 1, 7.5, 2.4)
    axes.imshow(~active.T.numpy(), cmap="gray", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(active.shape[1]), [str(module + 1) for module in range(active.shape[1])])
    axes.set(xlabel="step", ylabel="module")
    return made


def _show(axes: Any, frame: Float[Tensor, "H W"]) -> None:
    from matplotlib import colormaps

    axes.imshow(frame.numpy(), vmin=0, vmax=1, cmap=colormaps["gray"].with_extremes(bad="#3b4252"))
    axes.set_xticks([])
    axes.set_yticks([])


def plain(made: Figure) -> Figure:
    """The figure without frames at the top and the right."""
    for axes in made.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return made
