"""Scores in any world, one step ahead and in closed-loop rollouts, of models and simple predictors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from s2rm.files import Row
from s2rm.tasks.arrays.predictors import Trivial
from s2rm.tasks.arrays.rollouts import Ahead, OfModel, Predictor, Untrained, roll_out
from s2rm.tasks.arrays.world import ArrayWorld, Source, displacement, hidden
from s2rm.tasks.task import Models
from s2rm.tasks.worlds import Drawn, Progress, random_clip, shares, starts_within
from s2rm.views import Episode

MOST_WINDOWS, CHUNK = 256, 32
"""pieces of test sequences, and how many at a time"""


def episodes(
    world: ArrayWorld, split: str, seed: int = 0, folder: Path | None = None, guessed: bool = False, drop: float = 0.0
) -> Dataset[Episode]:
    """The training ("train", clips), validation ("val") or test sequences, as `Task.episodes`."""
    source, trivial = Source(world, split), Trivial(world) if guessed else None
    some_are_short = split == "train" and bool((source.ends < world.num_steps).any())

    def draw(rows: Tensor, generator: torch.Generator) -> Episode:
        length = world.clip if split == "train" else world.num_steps
        if not some_are_short:
            starts = random_clip(len(rows), world.num_steps, length, generator)[:, 0]
        else:
            starts = starts_within(source.ends[rows], length, generator)
        share = shares(len(rows), drop, generator) if drop else 1.0
        part = source.episode(rows, starts, length, generator, share)
        return part if trivial is None else trivial.guessed(part)

    return Drawn(len(source), draw, partial(hidden, world))


def pairs(world: ArrayWorld, sequences: int) -> Int[Tensor, "N 2"]:
    """The sequence and the first step of each piece that `windows` cuts."""
    starts = torch.arange(0, world.scored_steps - world.prompt - world.steps_ahead + 1, world.steps_ahead)
    every = torch.cartesian_prod(torch.arange(sequences), starts)
    return every[torch.linspace(0, len(every) - 1, min(MOST_WINDOWS, len(every))).round().long()]


def windows(world: ArrayWorld, seed: int, share: float = 1.0) -> Iterator[Episode]:
    """Pieces of the test sequences, each a prompt and the steps after it, a few at a time, the same for all predictors.

    Of the views of the prompt a share is seen at each step.
    """
    source, length = Source(world, "test"), world.prompt + world.steps_ahead
    generator = torch.Generator().manual_seed(seed)
    for some in pairs(world, len(source)).split(CHUNK):
        yield source.episode(some[:, 0], some[:, 1], length, generator, share)


def ahead(predictor: Predictor, trivial: Trivial, window: Episode) -> Iterator[Ahead]:
    """The rollout of a predictor after the prompt of a window, with the actions that were taken."""
    world, queries = trivial.world, None
    prompt, later = window.views.steps(None, world.prompt), window.targets.steps(world.prompt, None)
    if world.kind != "points":
        queries = later.positions
    taken = window.views.values[:, world.prompt :, :, -world.num_actions :] if world.num_actions else None
    if taken is not None and taken.ndim > 4:
        taken = taken.flatten(4)[..., 0]
    return roll_out(predictor, trivial, prompt, world.steps_ahead, queries, later.mask, taken)


@dataclass
class _Tally:
    """Sums of one predictor at one number of steps ahead."""

    squared: dict[str, list[float]] = field(default_factory=lambda: {"error": [0.0, 0.0], "feature_error": [0.0, 0.0]})
    log_likelihood: list[float] = field(default_factory=lambda: [0.0, 0.0])
    hits: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.long))

    def add_error(self, name: str, difference: Tensor, number: int) -> None:
        self.squared[name][0] += float(difference.square().double().sum())
        self.squared[name][1] += number

    def scores(self) -> Row:
        found = {name: (total / number) ** 0.5 for name, (total, number) in self.squared.items() if number}
        if self.log_likelihood[1]:
            found["log_likelihood"] = self.log_likelihood[0] / self.log_likelihood[1]
        if int(self.hits.sum()):
            hit, false, missed = self.hits.tolist()
            found["f1"] = 2 * hit / max(1, 2 * hit + false + missed)
        return found


def _add(tally: _Tally, world: ArrayWorld, window: Episode, step: int, made: Ahead) -> None:
    """Compare a prediction with the truth, where that is known."""
    at, targets = world.prompt + step, window.targets
    if world.kind == "points":
        # Where a point is: where it was last seen, plus its displacement.
        moved, features = displacement(world, targets.values)
        places = (targets.positions + moved)[:, at]
        there = targets.mask[:, at] & window.views.mask[:, : world.prompt].any(1)
        tally.add_error("error", (made.positions - places)[there], int(there.sum()))
        true, expected, name = features[:, at], made.values, "feature_error"
    else:
        there = targets.mask[:, at]
        true, expected, name = world.scaled(targets.values, back=True)[:, at], made.values, "error"
    true, expected = true[there], expected[there]
    known = ~true.isnan()
    if known.any():
        tally.add_error(name, (expected - true)[known], int(known.sum()))
    if world.binary:
        guess, real = expected[known] > 0.5, true[known] > 0.5
        tally.hits += torch.stack([(guess & real).sum(), (guess & ~real).sum(), (~guess & real).sum()])
    if step == 0:
        values = targets.values[:, at]
        surprise = made.distribution.log_prob(values.nan_to_num())[there][~values[there].isnan()]
        tally.log_likelihood[0] += float(surprise.double().sum())
        tally.log_likelihood[1] += surprise.numel()


def refuse_oracles(models: Models) -> None:
    """Refuse models that cannot roll out."""
    if oracles := [label for label, model in models.items() if model.is_oracle]:
        raise ValueError(f"rollout: {oracles[0]} sees the step that it predicts and cannot roll out; leave it out")


@torch.no_grad()
def score(
    models: Models, world: ArrayWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """Scores of closed-loop rollouts of models and of the simple predictors; arguments as for `Task.score`.

    Rows have `predictor`, `views`, the share of the prompt's views that are seen, `ahead`, the number of steps, and
    `error`, a root mean square in the user's units: the distance for points, otherwise the difference of values, which
    for pixels of frames are from 0 to 1. Points with features also have `feature_error`, binary values `f1`, and one
    step ahead there is the `log_likelihood` (nats per value in the units of models).

    Raises:
        ValueError: a model that cannot roll out, a world whose file has changed, or nothing to score.
    """
    refuse_oracles(models)
    world.check_file()
    trivial = Trivial(world)
    names = [*models, *trivial.names]
    cases = [(share, name) for share in shares or (1.0,) for name in names]
    rows: list[Row] = []
    for (share, name), _ in zip(cases, progress(cases), strict=True):
        tallies = [_Tally() for _ in range(world.steps_ahead)]
        for window in windows(world, seed, share):
            predictor = OfModel(models[name], trivial) if name in models else Untrained(trivial, name)
            for step, made in enumerate(ahead(predictor, trivial, window)):
                _add(tallies[step], world, window, step, made)
        if not any(tally.squared["error"][1] for tally in tallies):
            raise ValueError(
                f"score: nothing of the test part of {world.path} that was seen in {world.prompt} steps is there in "
                f"the {world.steps_ahead} steps after them; put longer sequences into the test part"
            )
        rows += [
            {"predictor": name, "views": share, "ahead": step + 1, **tally.scores()}
            for step, tally in enumerate(tallies)
        ]
    return rows
