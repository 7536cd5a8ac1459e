"""A world from a file of arrays: its description, its sequences, and its episodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from s2rm.tasks.arrays.files import SPLITS, Arrays, Kind, digest, read_arrays
from s2rm.tasks.crops import crops
from s2rm.tasks.worlds import kept, named
from s2rm.views import Episode, Views

STEPS_AHEAD, PROMPT = 10, 20
"""steps of a rollout, and of true views before it, at most"""


@dataclass(frozen=True)
class ArrayWorld:
    """The content of a file of arrays, how it is viewed, and a digest of the file.

    Views are what models take. Of *frames* they are crops, `(crop, crop)` or `(C, crop, crop)`, of values from 0 to 1.
    Of *points* they are velocities, features and actions side by side; predicted are the displacement from where a
    point was last seen, and its features. Where points act, the context of each target is the action of its point at
    the step before. All continuous values are in units of `scale` from `centre`, by channel.
    """

    path: str
    digest: str
    kind: Kind
    sequences: tuple[int, ...]
    """of training, validation and test"""
    num_steps: int
    num_views: int
    value_shape: tuple[int, ...]
    """of a view"""
    target_shape: tuple[int, ...]
    """of a prediction"""
    extent: tuple[tuple[float, float], ...]
    """of the positions; of frames (row, column) in pixels"""
    clip: int
    binary: bool
    """whether every value is 0 or 1"""
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    """of each channel of a prediction: mean and standard deviation in training; of displacements 0 and their root mean
    square; empty where values are probabilities"""
    white: int = 1
    """the number that stands for 1 in frames: 255 where they are bytes"""
    guess: str = ""
    """the simple predictor that is best one step ahead in the training part; models with `corrects` correct it"""
    until: int | None = None
    """the number of steps after which nothing is there in the test part any more; None: it ends with `num_steps`"""

    @property
    def side(self) -> float:
        """The longest side of the extent."""
        return max(high - low for low, high in self.extent)

    @property
    def likelihood(self) -> str:
        """ "bernoulli" for frames and binary values, else "gaussian"."""
        return "gaussian" if self.scale else "bernoulli"

    @property
    def scored_steps(self) -> int:
        """Steps of the test sequences, of which rollouts are scored: short episodes in long arrays end earlier."""
        return self.until or self.num_steps

    @property
    def steps_ahead(self) -> int:
        """Steps of the rollouts that are scored."""
        return min(STEPS_AHEAD, self.scored_steps // 2)

    @property
    def prompt(self) -> int:
        """Steps of true views before such a rollout."""
        return min(PROMPT, self.scored_steps - self.steps_ahead)

    @property
    def num_actions(self) -> int:
        """Features of an action, which views have and predictions do not."""
        return self.value_shape[0] - self.target_shape[0] if self.value_shape != self.target_shape else 0

    @property
    def crop(self) -> int:
        """Side of a view of frames."""
        return self.value_shape[-1]

    def model_arguments(self) -> dict[str, object]:
        """Of every model: shapes, extent, likelihood and codec."""
        images = len(self.value_shape) > 1 and max(self.value_shape[-2:]) > 16
        return {
            "value_shape": list(self.value_shape), "target_shape": list(self.target_shape),
            "num_coordinates": len(self.extent), "extent": [list(side) for side in self.extent],
            "likelihood": self.likelihood, "codec": "cnn" if images else "mlp", "context_size": self.num_actions,
        }  # fmt: skip

    def scaled(self, values: Tensor, back: bool = False) -> Tensor:
        """Values `(B, T, A, *shape)` of views or predictions, standardised for models, or `back` in user units."""
        if not self.scale:
            return values
        known = values.shape[3] if len(self.target_shape) in (1, 3) else 1
        centre, scale = (
            torch.tensor([*part, *[other] * (known - len(part))]).view(-1, *[1] * max(0, len(self.target_shape) - 1))
            for part, other in ((self.centre, 0.0), (self.scale, 1.0))
        )
        return values * scale + centre if back else (values - centre) / scale

    def check_file(self) -> Arrays:
        """The arrays of the file; ValueError where it is gone or was changed since."""
        arrays, _ = read_arrays(self.path)
        if (now := digest(self.path)) != self.digest:
            raise ValueError(
                f"world: {self.path} was changed since the run began, its SHA-256 is {now[:12]}, was "
                f"{self.digest[:12]}; put the former file back, or train again"
            )
        return arrays


class Source:
    """The sequences of one part of a world, cut into episodes.

    Args:
        world: whose file is read; ValueError as of `check_file`.
        split: "train", "val" or "test".
    """

    def __init__(self, world: ArrayWorld, split: str):
        self.world, self.arrays = world, world.check_file()
        number = named(dict(zip(SPLITS, range(3), strict=True)), split, "world", "split")
        self.rows = np.flatnonzero(part_of(self.arrays, sum(world.sequences)) == number)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def ends(self) -> Int[Tensor, " S"]:
        """The number of steps of each sequence until the last at which something is there."""
        steps = self.world.num_steps
        if "mask" not in self.arrays:
            return torch.full((len(self),), steps)
        there = np.stack([np.asarray(self.arrays["mask"][row]).any(-1) for row in self.rows])
        return torch.from_numpy(np.where(there.any(1), steps - there[:, ::-1].argmax(1), steps))

    def read(self, name: str, rows: Tensor, starts: Tensor, length: int) -> Tensor:
        """Some steps of some sequences of an array, `(B, length, ...)`: float32, but frames and masks of bytes or flags
        as they are."""
        array, numbers = self.arrays[name], self.rows[rows.numpy()]
        parts = [array[row, start : start + length] for row, start in zip(numbers, starts.tolist(), strict=True)]
        content = np.stack(parts)
        as_it_is = name in ("frames", "mask") and content.dtype in (np.uint8, np.bool_)
        return torch.from_numpy(content if as_it_is else content.astype(np.float32))

    def episode(
        self, rows: Tensor, starts: Tensor, length: int, generator: torch.Generator, share: float | Tensor = 1.0
    ) -> Episode:
        """Clips of sequences from a step on. Of the views at each step a share is kept, drawn at random; see `kept`."""
        world = self.world
        read = {name: self.read(name, rows, starts, length) for name in self.arrays if name not in ("part", "frames")}
        if world.kind == "frames":
            frames = self.read("frames", rows, starts, length)
            places = read.get("positions", self._places(len(rows), length, generator))
            if "mask" in read:  # what stands where nothing is seen has no effect
                places = torch.where(read["mask"].bool()[..., None], places, 0.0)
            values = crops(frames, places, world.crop)
            read |= {"positions": places, "values": values if world.white == 1 else values / world.white}
        places = read["points" if world.kind == "points" else "positions"]
        mask = read["mask"].bool() if "mask" in read else torch.ones(places.shape[:3], dtype=torch.bool)
        seen = mask if isinstance(share, float) and share == 1 else kept(mask, share, generator)
        if "actions" in read:  # what stands where nobody is has no effect
            present = mask.view(*mask.shape, *[1] * (read["actions"].ndim - mask.ndim))
            read["actions"] = torch.where(present, read["actions"], 0.0)
        if world.kind == "points":
            views, targets = tracked(world, places, read.get("features"), read.get("actions"), mask, seen)
            known = actions_of(world, views.steps(None, -1)) if world.num_actions else None
            return Episode(views, targets, None if known is None else pad(known, (0, 0, 0, 0, 1, 0)))
        targets = Views(places, world.scaled(read["values"]), mask)
        return Episode(targets if seen is mask else targets.keep(seen), targets)

    def _places(self, batch_size: int, length: int, generator: torch.Generator) -> Float[Tensor, "B T A 2"]:
        """Pixels of the frames, drawn uniformly."""
        shape = (batch_size, length, self.world.num_views)
        lines = [torch.randint(int(high), shape, generator=generator) for _, high in self.world.extent]
        return torch.stack(lines, -1).float()


def part_of(arrays: Arrays, size: int) -> NDArray[Any]:
    """The part of each of the sequences, a number of `SPLITS`: as given, else a tenth each, drawn at random, at least
    one, for validation and test."""
    if "part" in arrays:
        return np.asarray(arrays["part"])
    tenth = max(1, size // 10)
    order = np.random.default_rng(0).permutation(size)
    part = np.zeros(size, np.int8)
    part[order[:tenth]], part[order[tenth : 2 * tenth]] = 2, 1
    return part


def tracked(
    world: ArrayWorld, points: Float[Tensor, "B T P n"], features: Tensor | None, actions: Tensor | None,
    mask: Bool[Tensor, "B T P"], seen: Bool[Tensor, "B T P"],
) -> tuple[Views, Views]:  # fmt: skip
    r"""Points that keep their slots, as views and targets.

    A view at step t holds the velocity $(x_t - x_s) / (t - s)$, where s is the step at which the point was last seen
    before (0 where it never was), then the features, then the action. Its target stands at $x_s$, the place where it
    was last seen, and holds the displacement $x_t - x_s$ and the features; points that were never seen have none.
    """
    there = torch.where(mask[..., None], points, 0.0)
    places, moved, gap, known = since_seen(there, mask, seen)
    views = world.scaled(beside(moved / gap[..., None], features))
    if actions is not None:
        views = beside(actions.float(), views, after=True)
    return Views(there, views, seen), Views(places, world.scaled(beside(moved, features)), known)


def hidden(world: ArrayWorld, episode: Episode, shown: Bool[Tensor, "B T 1"]) -> Episode:
    """The episode with the views of some steps only; points are asked for where they were last shown."""
    views, targets = episode.views.keep(shown), episode.targets
    if world.kind == "points":
        _, features = displacement(world, targets.values)
        places, moved, _, known = since_seen(views.positions, targets.mask, views.mask)
        targets = Views(places, world.scaled(beside(moved, features)), known)
    return Episode(views, targets, episode.context)


def since_seen(
    points: Float[Tensor, "B T P n"], mask: Bool[Tensor, "B T P"], seen: Bool[Tensor, "B T P"]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where points were last seen before each step, how far they moved since, how many steps ago it was, and for which
    of those that are there this is known."""
    before, gap = last_before(seen)
    origin, known = points.gather(1, before.clamp(min=0)[..., None].expand_as(points)), (before >= 0)[..., None]
    moved = torch.where(known & mask[..., None], points - origin, 0.0)
    return torch.where(known, origin, points), moved, gap, known[..., 0] & mask


def with_actions(world: ArrayWorld, views: Views, actions: Float[Tensor, "B T P K"]) -> Views:
    """The same views with other actions."""
    values = views.values[:, :, :, : world.target_shape[0]]
    return Views(views.positions, beside(actions, values, after=True), views.mask)


def actions_of(world: ArrayWorld, views: Views) -> Float[Tensor, "B T P K"]:
    """The actions in views, zeros where a point is not seen."""
    values = views.values[:, :, :, world.target_shape[0] :]
    # In images they are the same at every pixel.
    return torch.where(views.mask[..., None], values.flatten(4)[..., 0] if values.ndim > 4 else values, 0.0)


def last_before(seen: Bool[Tensor, "B T P"]) -> tuple[Tensor, Tensor]:
    """The last step before each at which a point was seen, -1 if never, and how many steps ago that was, at least 1."""
    steps = torch.arange(seen.shape[1])[:, None]
    when = torch.where(seen, steps, -1).cummax(1).values
    before = pad(when, (0, 0, 1, 0), value=-1)[:, :-1]
    return before, torch.where(before >= 0, steps - before, 1)


def beside(vectors: Float[Tensor, "B T P n"], values: Tensor | None, after: bool = False) -> Tensor:
    """Vectors as n channels before the values of views, or after them; in images the same at every pixel."""
    if values is None:
        return vectors
    if values.ndim in (3, 5):  # numbers, and images without a channel axis
        values = values.unsqueeze(3)
    wide = vectors.reshape(*vectors.shape, *[1] * (values.ndim - 4)).expand(*vectors.shape, *values.shape[4:])
    return torch.cat([values, wide] if after else [wide, values], 3)


def displacement(world: ArrayWorld, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """The displacements `(B, T, P, n)` and the features of predictions of points, in the user's units."""
    n = len(world.extent)
    values = world.scaled(predicted, back=True)
    return values[:, :, :, :n].flatten(4).mean(-1) if values.ndim > 4 else values[..., :n], values[:, :, :, n:]
