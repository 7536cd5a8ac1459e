"""Tasks: one record per world, which is all that the command line and the run folders know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from s2rm.explorer.scenes import Scene
from s2rm.files import Row
from s2rm.models.world_model import WorldModel
from s2rm.report.figures import TRIVIAL
from s2rm.tasks.worlds import World
from s2rm.views import Episode

SMALLEST = 1e-6
"""least distance of a guessed probability from 0 and 1"""
Models = Mapping[str, WorldModel]
"""trained models, by label"""


class Headline(NamedTuple):
    """The table of scores that the terminal shows: one metric of the rows in which keys have the values of `where`.

    The columns are the values of the key `across`; `columns` says what they are.
    """

    title: str
    metric: str
    across: str
    columns: str
    where: tuple[tuple[str, float], ...] = ()
    lower: bool = False
    """whether lower is better"""
    shown: tuple[int, ...] = ()
    """the columns of the table on the terminal; all, if not given"""

    def rows(self, scores: Sequence[Row]) -> list[Row]:
        """The rows that the table shows."""
        return [row for row in scores if all(row[key] == value for key, value in self.where) and self.metric in row]


@dataclass(frozen=True)
class Task:
    """A world on which models are trained, scored and reported. The papers' benchmarks are tasks.

    Where a function takes a `folder`, episodes that are slow to make are kept in it; None keeps nothing, and worlds
    that are simulated in seconds do not use it. The `seed` is that of the episodes.
    """

    name: str
    """as the command line calls it"""
    world: type
    preset: Callable[[str], World]
    """a world by the name of its size, or by its file"""
    episodes: Callable[..., Dataset[Any]]
    """`(world, split, seed, folder)`: the training ("train", clips of `world.clip` steps cut at random) or validation
    ("val", whole) episodes, a dataset indexed by keys `(rows, seed)`, for `s2rm.training.batches`; where there
    are views, with `guessed=True` their context is what was last seen, for models that correct it, and with `drop` up
    to this share of the views of each sequence is dropped"""
    score: Callable[..., list[Row]]
    """`(models, world, seed, shares, progress, folder)`: one-step scores of models, by label, and of the simple
    predictors; `shares`: of the views or agents that are seen, by default those of the paper's figures; `progress`
    wraps an iterable to show progress"""
    write_report: Callable[..., None]
    """`(path, entries, rows, world, seed, folder, more)`: one self-contained HTML page of runs of one world and their
    scores, `rows` as from `score`, with `more` beside them, written whole or not at all; ImportError where the extra
    "report" is not installed"""
    headline: Headline
    extra: str | None = None
    """the extra that its episodes need"""
    share: str | None = "views"
    """the key of rows that says what share of the views was seen; None: there are no views"""
    animate: Callable[..., bytes | None] | None = None
    """`(models, world, seed, numbers)`: an animated picture (GIF) of closed-loop rollouts from a seed, for some numbers
    of objects; None: the views carry actions, which no model predicts, or rollouts have no picture yet"""
    with_files: Callable[..., World] | None = None
    """`(world, train, test)`: the same world on what is in files that a user names; None: it is simulated"""
    scene: Callable[..., Scene] | None = None
    """`(world, seed, folder)`: episodes that a person explores in the browser; None: the page shows no such world"""


def verdict(rows: Sequence[Row], head: Headline) -> list[tuple[str, str]]:
    """Of each model, its name and a sentence: where it is better than every simple predictor, and where not.

    The rows are those of the headline, at least one for each predictor and column; of several, the mean counts.
    """
    columns, names = (list(dict.fromkeys(row[key] for row in rows)) for key in (head.across, "predictor"))
    score = {(name, column): _mean_of(rows, head, name, column) for name in names for column in columns}
    said, metric = [], head.metric.replace("_", " ")
    for name in names:
        if name in TRIVIAL:
            continue
        found = {column: score[name, column] for column in columns}
        rivals = {
            column: (min if head.lower else max)(
                ((other, score[other, column]) for other in names if other in TRIVIAL), key=lambda pair: pair[1]
            )
            for column in columns
        }
        bad = [c for c in columns if not (found[c] < rivals[c][1] if head.lower else found[c] > rivals[c][1])]
        where = f"{head.columns}: {', '.join(map(str, bad))}"
        if not bad:
            start = "better than every simple predictor"
        elif len(bad) == len(columns):
            start = "NOT better than the best simple predictor anywhere; train it for longer"
        else:
            start = f"NOT better than every simple predictor at {where}"
        ends = [
            f"{metric} {found[c]:.3g} against {rivals[c][1]:.3g} of {rivals[c][0]} ({head.columns}: {c})"
            for c in dict.fromkeys((columns[0], columns[-1]))
        ]
        said.append((name, f"{start}; {' and '.join(ends)}."))
    return said


def _mean_of(rows: Sequence[Row], head: Headline, name: str, column: object) -> float:
    some = [row[head.metric] for row in rows if (row["predictor"], row[head.across]) == (name, column)]
    return sum(some) / len(some)


@dataclass(frozen=True)
class Forecast:
    """Probabilities that binary channels are 1, and the channels that a predictor calls 1, `(B, T, Q, ...)` each."""

    probability: Tensor
    decision: Tensor


Predictor = Callable[[Episode], Forecast]
"""From an episode of T+1 steps to a forecast of its targets at steps 1 to T. Only an oracle looks at the views of the
step that it predicts."""


def with_share(episode: Episode, share: float) -> Episode:
    """The episode with the views of the first slots: a share of all, rounded, at least one. The targets stay."""
    slots = episode.views.mask.shape[2]
    return Episode(episode.views.keep(torch.arange(slots) < max(1, round(share * slots))), episode.targets)


def first_guess(forecast: Forecast) -> Float[Tensor, "B L Q F"]:
    """The logits of a forecast, as the context of models that correct it; zeros at step 0, of which there is none."""
    return pad(torch.logit(forecast.probability, eps=SMALLEST).flatten(3), (0, 0, 0, 0, 1, 0))


def model_predictor(model: WorldModel, guess: Predictor | None = None) -> Predictor:
    """A trained model's one-step prediction of binary channels, thresholded at 0.5; `guess` is what it may correct."""

    def predict(episode: Episode) -> Forecast:
        positions, context = episode.targets.steps(1, None).positions, None
        if model.signature.corrects:
            assert guess is not None
            context = first_guess(guess(episode))[:, 1:]
        probability = model.predict(model.states_before_targets(episode.views), positions, context).mean
        return Forecast(probability, probability > 0.5)

    return predict
