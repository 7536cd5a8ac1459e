"""Simple predictors of any world: last seen, persistence, constant velocity, the mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

from s2rm.tasks.arrays.world import ArrayWorld, Source, actions_of
from s2rm.tasks.crops import Canvas
from s2rm.views import Episode, Views

LEVELS = 16
"""number of bins of probabilities"""
SAMPLE = 64
"""training sequences from which frequencies and spreads are"""
LEAST = 1e-4
"""distance of a probability from 0 and 1, and least spread"""


@runtime_checkable
class Memory(Protocol):
    """What was seen so far, of a batch; values in the units of models."""

    def see(self, views: Views) -> None:
        """The views of one more step, `(B, 1, A, ...)`."""

    def places(self) -> Tensor | None:
        """Where each point is to be asked for next, `(B, P, n)`; None where positions are given."""

    def recall(self, name: str, positions: Tensor) -> Tensor:
        """What a predictor of that name expects next at positions `(B, Q, n)`: `(B, Q, *shape)`, NaN if unknown."""


class OfFrames:
    """The last value of each pixel, and what stands there on average."""

    def __init__(self, mean: Tensor, crop: int, batch_size: int):
        start = mean.expand(batch_size, *mean.shape)
        self.canvas, self.mean = Canvas(torch.full_like(start, torch.nan), crop), Canvas(start, crop)

    def see(self, views: Views) -> None:
        values = views.values[:, 0]
        self.canvas.see(values if values.ndim == 5 else values.unsqueeze(2), views.positions[:, 0], views.mask[:, 0])

    def places(self) -> None:
        return None

    def recall(self, name: str, positions: Tensor) -> Tensor:
        return (self.canvas if name == "last seen" else self.mean).crops(positions)


class OfSlots:
    """The last view of each slot, and its action. Points are asked for where they were last seen."""

    def __init__(self, world: ArrayWorld, mean: Tensor, views: Views):
        batch, _, slots = views.mask.shape
        self.world, self.mean = world, mean
        self.at = views.positions.new_zeros(batch, slots, views.positions.shape[-1])
        self.values = views.values.new_full((batch, slots, *world.target_shape), torch.nan)
        self.ago = torch.zeros(batch, slots, dtype=torch.long)
        self.actions = views.values.new_zeros(batch, slots, world.num_actions)

    def see(self, views: Views) -> None:
        seen = views.mask[:, 0]
        values = views.values[:, 0]
        if self.world.num_actions:
            values = values[:, :, : self.world.target_shape[0]]
            self.actions = actions_of(self.world, views)[:, 0]
        self.at = torch.where(seen[..., None], views.positions[:, 0], self.at)
        wide = seen.reshape(*seen.shape, *[1] * (values.ndim - 2))
        self.values = torch.where(wide & ~values.isnan(), values, self.values)
        self.ago = torch.where(seen, 1, self.ago + (self.ago > 0))

    def places(self) -> Tensor | None:
        return self.at if self.world.kind == "points" else None

    @property
    def known(self) -> Tensor:
        """Which slots were ever seen, `(B, A)`."""
        return self.ago > 0

    def recall(self, name: str, positions: Tensor) -> Tensor:
        if name == "mean":
            expected = self.mean.expand(*positions.shape[:2], *self.mean.shape)
            return expected if self.world.kind != "points" else self._points(expected, self._to_the_middle(expected))
        if self.world.kind == "points":
            n = len(self.world.extent)
            moving = self.values[:, :, :n] * self.ago.reshape(*self.ago.shape, *[1] * (self.values.ndim - 2))
            return self._points(self.values, moving if name == "constant velocity" else torch.zeros_like(moving))
        if name == "persistence" and positions.shape[1] == self.at.shape[1]:
            return self.values
        return self._nearest(positions)

    def _points(self, values: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, values[:, :, len(self.world.extent) :]], 2)

    def _to_the_middle(self, like: Tensor) -> Tensor:
        """Displacements from where the points are to the mean position."""
        n = len(self.world.extent)
        middle = self.mean[:n].reshape(n, -1)[:, 0] - self.at / torch.tensor(self.world.scale[:n])
        return middle.reshape(*middle.shape, *[1] * (like.ndim - 3)).expand_as(like[:, :, :n])

    def _nearest(self, positions: Tensor) -> Tensor:
        """The last view of the slot that was seen nearest to each position."""
        gaps = torch.cdist(positions, self.at, compute_mode="donot_use_mm_for_euclid_dist")
        gaps = gaps.masked_fill(~self.known[:, None], torch.inf)
        which = gaps.argmin(-1)
        return self.values[torch.arange(len(which))[:, None], which]


@dataclass(frozen=True)
class Trivial:
    """The simple predictors of a world, with the statistics of its training part that they need.

    *static scene*: the mean training frame, without what pads short sequences. *last seen*: the last value seen at each
    pixel, or at the nearest place. *persistence*: the last view of the same slot; points stay where they were last
    seen. *constant velocity*: points keep their last velocity. *mean*: the training mean; points are at the mean
    position.
    """

    world: ArrayWorld

    @property
    def names(self) -> tuple[str, ...]:
        """Of the predictors, for tables."""
        return {
            "frames": ("static scene", "last seen"),
            "points": ("mean", "persistence", "constant velocity"),
            "views": ("mean", "persistence", "last seen"),
        }[self.world.kind]

    @cached_property
    def _sequences(self) -> tuple[Source, Tensor]:
        """The training part, and the sequences of it from which frequencies and spreads are."""
        train = Source(self.world, "train")
        return train, torch.linspace(0, len(train) - 1, min(SAMPLE, len(train))).round().long()

    def _whole(self) -> Episode:
        """All steps of these sequences."""
        (train, rows), generator = self._sequences, torch.Generator().manual_seed(0)
        return train.episode(rows, torch.zeros_like(rows), self.world.num_steps, generator)

    @cached_property
    def sample(self) -> Episode:
        """Clips from training sequences, each from the first step on at which something is there."""
        (train, rows), world = self._sequences, self.world
        length, start = min(world.num_steps, world.prompt + world.steps_ahead), torch.zeros_like(rows)
        generator = torch.Generator().manual_seed(0)  # of crops, the same for all that use it
        if world.kind != "frames":
            there = self._whole().targets.mask.any(2)
            start = there.int().argmax(1).clamp(max=world.num_steps - length)
        return train.episode(rows, start, length, generator)

    @cached_property
    def mean(self) -> Tensor:
        """The mean frame `(C, H, W)`; the mean of each channel, of points with the mean position before it."""
        if self.world.kind != "frames":
            mean, whole = torch.zeros(self.world.target_shape), self._whole()
            if self.world.kind == "points":
                there = whole.views.positions[whole.views.mask].mean(0)
                n = len(self.world.extent)
                at = there / torch.tensor(self.world.scale[:n])
                mean[:n] = at.reshape(n, *[1] * (mean.ndim - 1))
            elif not self.world.scale:
                values, shape = whole.targets.values[whole.targets.mask], self.world.target_shape
                mean = values.nanmean().expand(shape)
                if len(shape) in (1, 3):
                    each = values.unsqueeze(-1).flatten(2).nanmean((0, 2)).reshape(-1, *[1] * (len(shape) - 1))
                    mean = torch.where(each.isnan(), mean, each)
            return mean
        train, rows = self._sequences
        frames = train.read("frames", rows, torch.zeros_like(rows), self.world.num_steps)
        there = torch.arange(self.world.num_steps) < train.ends[rows, None]
        mean = frames[there].float().mean(0) / self.world.white
        return mean if mean.ndim == 3 else mean[None]

    def memory(self, views: Views) -> OfFrames | OfSlots:
        """An empty memory for a batch of views."""
        if self.world.kind == "frames":
            return OfFrames(self.mean, self.world.crop, views.batch_size)
        return OfSlots(self.world, self.mean, views)

    def raw(self, name: str, memory: Memory, positions: Tensor) -> Tensor:
        """What a predictor expects, `(B, Q, *target_shape)`, the mean where nothing is known."""
        expected = memory.recall(name, positions)
        if expected.isnan().any():
            expected = torch.where(expected.isnan(), memory.recall(self.names[0], positions), expected)
        return expected.reshape(*expected.shape[:2], *self.world.target_shape)

    def each_step(self, name: str, episode: Episode) -> Tensor:
        """What a predictor expects of all targets but those of step 0, `(B, T, Q, *target_shape)`."""
        memory, found = self.memory(episode.views), []
        for step in range(episode.views.num_steps - 1):
            memory.see(episode.views.at(step))
            found.append(self.raw(name, memory, episode.targets.positions[:, step + 1]))
        return torch.stack(found, 1)

    @cached_property
    def _measured(self) -> dict[str, tuple[float, Tensor]]:
        """Of each predictor its mean squared error one step ahead, in units of models, and its calibration."""
        targets, found = self.sample.targets.steps(1, None), {}
        mask = targets.mask
        for name in self.names:
            expected, true = self.each_step(name, self.sample)[mask], targets.values[mask]
            known = ~true.isnan()
            squared = torch.where(known, expected - true, 0.0).square()
            error = float(squared.sum() / known.sum().clamp(min=1))
            if self.world.scale:
                calibration = (squared.sum(0) / known.sum(0).clamp(min=1)).sqrt().clamp(min=LEAST)
            else:
                level = (expected[known] * LEVELS).round().long().clamp(0, LEVELS)
                ones = torch.bincount(level, true[known], minlength=LEVELS + 1)
                # A level that never came counts as one observation of itself.
                own = torch.arange(LEVELS + 1) / LEVELS
                calibration = (ones + own) / (torch.bincount(level, minlength=LEVELS + 1) + 1)
            found[name] = error, calibration
        return found

    @property
    def best(self) -> str:
        """The name of the predictor of the least squared error in training, one step ahead."""
        return min(self._measured, key=lambda name: self._measured[name][0])

    def distribution(self, name: str, expected: Tensor) -> Distribution:
        """What a predictor expects, as a distribution: with its spread in training, or with the frequencies of 1 there
        of each sixteenth from 0 to 1."""
        calibration = self._measured[name][1]
        if self.world.scale:
            return Normal(expected, calibration.expand_as(expected), validate_args=False)
        level = (expected * LEVELS).round().long().clamp(0, LEVELS)
        return Bernoulli(probs=calibration[level].clamp(LEAST, 1 - LEAST), validate_args=False)

    def context(self, expected: Tensor) -> Tensor:
        """What the world's best guess expects, as the context of models that correct it: means, or logits."""
        if not self.world.scale:
            expected = torch.logit(self.distribution(self.world.guess, expected).mean)
        return expected.flatten(-len(self.world.target_shape)) if self.world.target_shape else expected.unsqueeze(-1)

    def guessed(self, episode: Episode) -> Episode:
        """The episode with the best guess as its context, before what that has already; zeros at step 0."""
        guess = self.context(self.each_step(self.world.guess, episode))
        known = torch.nn.functional.pad(guess, (0, 0, 0, 0, 1, 0))
        known = known if episode.context is None else torch.cat([known, episode.context], -1)
        return Episode(episode.views, episode.targets, known)


def best_guess(world: ArrayWorld) -> str:
    """The simple predictor with the least error one step ahead in the training part."""
    return Trivial(world).best
