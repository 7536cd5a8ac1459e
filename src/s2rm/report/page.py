"""One self-contained HTML page from runs: what was run, tables, pictures. It knows no world."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s2rm.extras import require
from s2rm.files import Row, write_whole
from s2rm.report.figures import TRIVIAL, colour, figure, plain, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Entry:
    """What a report needs of a run."""

    label: str
    """the model's name in tables and pictures"""
    model: Any
    """with its best weights; of the kind that the run's task trains"""
    summary: Row
    """how training ended and where: `val_loss`, `updates`, `minutes`, `parameters`, `seed`, `hardware`, `commit`"""
    learning_rate: float
    """at the start"""
    setting: str = ""
    """a sentence about how the model was set up"""
    history: list[dict[str, float]] = field(default_factory=list)
    """what was logged after each epoch"""


class Picture(NamedTuple):
    """A picture of a page, its MIME type, and a sentence about what to look for."""

    title: str
    kind: str
    content: bytes
    sentence: str


class Line(NamedTuple):
    """A line of a table: one predictor, and of each cell the text and whether it is the best of its column."""

    name: str
    trivial: bool
    cells: list[tuple[str, bool]]


class Table(NamedTuple):
    """A table of a page: a line for each predictor."""

    title: str
    metric: str
    heads: list[str]
    rows: list[Line]
    sentence: str


class More(NamedTuple):
    """What a page has beside what its world puts there."""

    verdict: Sequence[tuple[str, str]] = ()
    """of each model, its name and a sentence: these come first"""
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def drawn(title: str, made: Figure, sentence: str) -> Picture:
    """A figure as a picture of a page."""
    return Picture(title, "image/png", png(made), sentence)


def learning(entries: Sequence[Entry]) -> Picture:
    """The validation loss of each run against minutes of training."""
    made, ((axes,),) = figure(1, 1, 6.4, 3.6)
    for entry in entries:
        epochs = [epoch for epoch in entry.history if "val_loss" in epoch]
        minutes, losses = ([epoch[key] for epoch in epochs] for key in ("minutes", "val_loss"))
        shade = colour(entry.label, [other.label for other in entries])
        axes.plot(minutes, losses, marker=".", color=shade, label=entry.label)
    axes.set(xlabel="minutes of training", ylabel="validation loss")
    axes.legend(frameon=False)
    sentence = (
        "Validation loss against the time spent training, after each pass over the training data. The table of runs "
        "gives the number of updates that each model made."
    )
    return drawn("Learning", plain(made), sentence)


def write_page(
    path: str | Path, title: str, lead: str, entries: Sequence[Entry], world: str, tables: Sequence[Table],
    pictures: Sequence[Picture], verdict: Sequence[tuple[str, str]] = (),
) -> None:  # fmt: skip
    """Write an HTML page, whole or not at all.

    Below the title is a paragraph, `lead`, then the runs, with machine and commit of the first, another paragraph about
    what was seen and how much of it, `world`, the tables of scores and the pictures. With a `verdict`, names and
    sentences, this comes first, then the pictures, and the runs last. Pictures in a row that have the same title stand
    side by side under it.

    Raises:
        ImportError: the extra "report" is not installed.
    """
    require("report")
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(files("s2rm.report").joinpath("page.html.j2").read_text())
    page = template.render(
        title=title, lead=lead, verdict=verdict, runs=entries, world=world, tables=tables,
        setting=" ".join(entry.setting for entry in entries),
        machine={name: entries[0].summary[name] for name in ("hardware", "torch", "commit")},
        pictures=[{**picture._asdict(), "data": base64.b64encode(picture.content).decode()} for picture in pictures],
    )  # fmt: skip
    write_whole(path, page.encode())


def comparison(
    rows: Sequence[Row], metric: str, across: str, heads: Mapping[Any, str],
    title: str, label: str, sentence: str, show: str = ".3f", worth: Callable[[float], float] = float,
) -> Table:  # fmt: skip
    """A table of a metric with a line for each predictor; the best of each column, of highest `worth`, is marked.

    There is at most one row for each predictor and column. The columns are those values of the key `across` that have a
    heading in `heads`; `show` is the format of a score.
    """
    score: dict[tuple[str, object], float] = {(row["predictor"], row[across]): row[metric] for row in rows}
    names = list(dict.fromkeys(name for name, _ in score))
    best = {column: max((score[key] for key in score if key[1] == column), key=worth, default=None) for column in heads}
    lines = []
    for name in names:
        found = [(score.get((name, column)), best[column]) for column in heads]
        cells = [("" if one is None else f"{one:{show}}", one == most) for one, most in found]
        lines.append(Line(name, name in TRIVIAL, cells))
    return Table(title, label, list(heads.values()), lines, sentence)
