"""What a task is: one record a world, which is all that the command line and the run folders know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, runtime_checkable

from torch import Tensor
from torch.utils.data import Dataset

from s2rm.files import Row
from s2rm.models.world_model import WorldModel
from s2rm.report.page import Entry
from s2rm.tasks.worlds import W
from s2rm.views import Episode

Progress = Callable[[Iterable[object]], Iterable[object]]
"""wraps what is iterated over, to show how far it is"""


class Headline(NamedTuple):
    """The table of scores that the terminal shows: one metric of the rows for which `where` holds."""

    title: str
    metric: str
    across: str
    """the key of a row whose values are the columns"""
    columns: str
    """what the columns are"""
    where: tuple[tuple[str, float], ...] = ()
    """keys of a row and the values that they must have"""


@runtime_checkable
class WriteReport(Protocol[W]):
    """Write one HTML page of some runs, all of one world; see `Task.write_report`."""

    def __call__(
        self, path: Path, entries: Sequence[Entry], rows: Sequence[Row], world: W, seed: int, folder: Path | None
    ) -> None: ...


@runtime_checkable
class Score(Protocol[W]):
    """Score models one step ahead; see `Task.score`."""

    def __call__(
        self,
        models: Mapping[str, WorldModel],
        world: W,
        seed: int = 0,
        shares: Iterable[float] | None = None,
        progress: Progress = iter,
        folder: Path | None = None,
    ) -> list[Row]: ...


@runtime_checkable
class Episodes(Protocol[W]):
    """The whole batches of a split; see `Task.episodes`."""

    def __call__(self, world: W, split: str, seed: int = 0, folder: Path | None = None) -> Dataset[Episode]: ...


@dataclass(frozen=True)
class Task(Generic[W]):
    """A world on which models are trained, scored and reported. The papers' benchmarks are tasks.

    Where a function takes a `folder`, episodes that are slow to make are kept in it; None keeps nothing.
    """

    name: str
    """as the command line calls it"""
    world: type[W]
    preset: Callable[[str], W]
    """a world by the name of its size"""
    episodes: Episodes[W]
    """the training ("train") or validation ("val") episodes: a dataset indexed by keys `(rows, seed)`, for `batches`"""
    score: Score[W]
    """one-step scores of models, by label, and of the trivial predictors; `shares`: of the views or agents that are
    seen"""
    write_report: WriteReport[W]
    """one self-contained HTML page of runs and their scores"""
    headline: Headline
    extra: str | None = None
    """the extra that its episodes need"""
    animate: Callable[[Mapping[str, WorldModel], W, int, Sequence[int]], bytes] | None = None
    """an animated picture (GIF) of closed-loop rollouts from a seed, for some numbers of objects; None: the views carry
    actions, which no model predicts, or rollouts have no picture yet"""


@dataclass(frozen=True)
class Forecast:
    """Probabilities that binary channels are 1, and the channels that a predictor calls 1, `(B, T, Q, ...)` each."""

    probability: Tensor
    decision: Tensor


Predictor = Callable[[Episode], Forecast]
"""From an episode of T+1 steps to a forecast of its targets at steps 1 to T. Only an oracle looks at the views of the
step that it predicts."""


def model_predictor(model: WorldModel) -> Predictor:
    """A trained model's one-step prediction of binary channels, thresholded at 0.5."""

    def predict(episode: Episode) -> Forecast:
        positions = episode.targets.steps(1, None).positions
        probability = model.predict(model.states_before_targets(episode.views), positions).mean
        return Forecast(probability, probability > 0.5)

    return predict
