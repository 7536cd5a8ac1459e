"""Bouncing balls seen through crops: the world of the S2RM paper's video experiments (appendix B.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from s2rm.tasks.crops import crops
from s2rm.tasks.worlds import at_least, check_amount, named
from s2rm.views import Episode, Views

SUBSTEPS = 20
MAX_OVERLAP = 0.5
"""pixels by which balls may overlap at most, between two substeps of the simulation"""
_ATTEMPTS = 2000


SEQUENCES = ("train_sequences", "val_sequences", "test_sequences")
"""the settings that say how many there are"""


@dataclass(frozen=True)
class BallsWorld:
    """What the world is, how it is seen, and how much of it there is.

    Raises:
        ValueError: balls that do not fit the arena, a crop larger than it, or a size below its least value.
    """

    arena: int = 48
    """side of the square arena, pixels"""
    radius: float = 4.0
    """radius of a ball, pixels; one more of this radius is fixed in the centre"""
    smallest: float | None = None
    """least radius of a moving ball: each ball's is drawn between it and `radius`, and its mass grows as its area; all
    have `radius` if None"""
    slowest: float = 1.0
    fastest: float = 2.0
    """bounds of a ball's speed at the start, pixels a frame"""
    crop: int = 11
    """side of a view, pixels, odd; at least the arena's, and each view is the whole frame"""
    curtain: int = 0
    """columns of pixels in the middle of the arena in front of which a curtain hangs: all of them are 0"""
    num_views: int = 10
    num_balls: int = 3
    """moving balls in training and validation"""
    most_balls: int | None = None
    """if given, as many of their sequences have each number of balls from `num_balls` to this one"""
    num_frames: int = 100
    clip: int = 100
    """frames of a training clip, cut from a sequence at random"""
    train_sequences: int = 20_000
    val_sequences: int = 1_000
    test_sequences: int = 1_000
    """for each number of balls"""

    def __post_init__(self) -> None:
        sequences = dict.fromkeys(SEQUENCES, 1 if self.most_balls is None else 1 + self.most_balls - self.num_balls)
        at_least("BallsWorld", vars(self), arena=1, num_views=1, num_balls=1, num_frames=2, clip=2, **sequences)
        most = max(getattr(self, name) for name in sequences)
        check_amount("BallsWorld", most, self.num_frames, max(self.arena**2, self.num_views * self.crop**2))
        if self.most_balls is not None and self.most_balls <= self.num_balls:
            raise ValueError(
                f"BallsWorld: expected most_balls above num_balls, {self.num_balls}, got {self.most_balls}; leave it "
                "out for one number of balls"
            )
        check_amount("BallsWorld", most, (self.most_balls or self.num_balls) ** 2)
        if not (1 <= self.crop <= self.arena | 1 and self.crop % 2):
            raise ValueError(
                f"BallsWorld: crop must be odd and at most {self.arena | 1}, which is the whole frame, got {self.crop}"
            )
        if self.clip > self.num_frames:
            raise ValueError(f"BallsWorld: clip must be at most num_frames, {self.num_frames}, got {self.clip}")
        if not 0 <= self.slowest <= self.fastest < math.inf:
            raise ValueError(f"BallsWorld: expected 0 <= slowest <= fastest, got {self.slowest} and {self.fastest}")
        if not self.radius > 0 or 4 * self.radius > self.arena / 2:
            raise ValueError(
                f"BallsWorld: balls of radius {self.radius} must pass between the fixed ball and the walls of an arena "
                f"of {self.arena} pixels; take a radius in (0, {self.arena / 8:g}]"
            )

        if self.smallest is not None and not self.radius / 2 <= self.smallest <= self.radius:
            raise ValueError(
                f"BallsWorld: smallest must be at least half of radius {self.radius:g} (lighter balls are too fast), "
                f"and at most radius, got {self.smallest}"
            )
        if not 0 <= self.curtain < self.arena:
            raise ValueError(
                f"BallsWorld: curtain must be 0 to {self.arena - 1} columns of {self.arena}, got {self.curtain}"
            )

    @property
    def side(self) -> float:
        """Of the square in which positions lie."""
        return float(self.arena)

    @property
    def whole(self) -> bool:
        """Whether a view is the whole frame. All of them lie in its centre then, and one a step is enough."""
        return self.crop >= self.arena

    @property
    def trained_on(self) -> str:
        """The numbers of moving balls in training, in words."""
        return f"{self.num_balls}" if self.most_balls is None else f"{self.num_balls} to {self.most_balls}"

    def model_arguments(self) -> dict[str, object]:
        """The shape of a view, and the codec."""
        return {"value_shape": [self.crop, self.crop], "codec": "strided" if self.whole else "mlp"}


SMALL = BallsWorld(num_frames=50, clip=20, train_sequences=4_000, val_sequences=100, test_sequences=100)
FRAMES = replace(SMALL, crop=49, num_views=1)
PRESETS = {
    "paper": BallsWorld(),
    "small": SMALL,
    "frames": FRAMES,
    "curtain": replace(FRAMES, curtain=12),
    "masses": replace(FRAMES, smallest=2.0),
    "four": replace(FRAMES, num_balls=4),
    "crowd": replace(FRAMES, num_balls=6, most_balls=8),
    "tiny": BallsWorld(num_frames=48, clip=8, train_sequences=8, val_sequences=4, test_sequences=2),
}


def preset(name: str) -> BallsWorld:
    """The world of that name: "paper", "small", "frames" (the same, seen whole), "curtain", "masses", "four" and
    "crowd" (seen whole, with a curtain, balls of unequal masses, four balls, and six to eight), or "tiny"."""
    return named(PRESETS, name, "bouncing balls")


@dataclass(frozen=True, eq=False)
class Videos:
    """Sequences of binary frames, eight pixels a byte."""

    packed: UInt8[Tensor, "N T bytes"]
    arena: int

    def __len__(self) -> int:
        return len(self.packed)

    def frames(
        self, rows: Int[Tensor, " B"] | slice = slice(None), steps: Int[Tensor, "B T"] | None = None
    ) -> UInt8[Tensor, "B T H W"]:
        """The frames of these sequences, or of these of their steps, 1 inside a ball."""
        packed = self.packed[rows] if steps is None else self.packed[rows[:, None], steps]  # type: ignore[index]
        pixels = np.unpackbits(packed.numpy(), axis=-1, count=self.arena**2)
        return torch.from_numpy(pixels).unflatten(-1, (self.arena, self.arena))


def radii(world: BallsWorld, num_sequences: int, num_balls: int, seed: int) -> Float[Tensor, "N K"]:
    """Of the moving balls of each sequence. The same seed gives the same radii."""
    if world.smallest is None:
        return torch.full((num_sequences, num_balls), world.radius, dtype=torch.float64)
    generator = torch.Generator().manual_seed((seed + 2**32) % 2**64)  # other numbers than those of the centres
    drawn = torch.rand(num_sequences, num_balls, generator=generator, dtype=torch.float64)
    return world.smallest + (world.radius - world.smallest) * drawn


def simulate(world: BallsWorld, num_sequences: int, num_balls: int, seed: int) -> Float[Tensor, "N T K 2"]:
    """Centres of K balls with the `radii` of that seed, which bounce elastically off the walls, each other and a fixed
    ball.

    Velocities change only by exact elastic reflection, so each of the N sequences keeps its energy. Time runs in
    substeps of 1/20 frame; between two of them balls overlap by at most `MAX_OVERLAP` pixels. The same seed gives the
    same centres.

    Returns:
        (row, column) in pixels; no ball is beyond a wall.

    Raises:
        ValueError: that many balls do not fit.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = radii(world, num_sequences, num_balls, seed)
    centres = _place(world, sizes, generator)
    angles = 2 * math.pi * torch.rand(num_sequences, num_balls, generator=generator, dtype=torch.float64)
    speeds = torch.rand(num_sequences, num_balls, generator=generator, dtype=torch.float64)
    speeds = world.slowest + (world.fastest - world.slowest) * speeds
    velocities = speeds[..., None] * torch.stack([angles.sin(), angles.cos()], -1)
    frames, x, v = [centres], centres, velocities
    for _ in range(world.num_frames - 1):
        for _ in range(SUBSTEPS):
            x, v = _advance(world, x, v, sizes[..., None])
        frames.append(x)
    return torch.stack(frames, 1).float()


def _advance(world: BallsWorld, x: Tensor, v: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """Balls at `x` with velocities `v`, `(N, K, 2)` each, and radii `(N, K, 1)`, one substep later."""
    low, high = radii, world.arena - radii
    x = x + v / SUBSTEPS
    beyond = (x < low) | (x > high)
    x = torch.where(x < low, 2 * low - x, torch.where(x > high, 2 * high - x, x))
    v = torch.where(beyond, -v, v)
    v = v - 2 * _approach(x - world.arena / 2, v, radii + world.radius)
    places, sizes, moves = x.unbind(1), radii.unbind(1), list(v.unbind(1))
    for i, j in combinations(range(len(moves)), 2):
        exchanged = _approach(places[i] - places[j], moves[i] - moves[j], sizes[i] + sizes[j])
        mass, other = sizes[i].square(), sizes[j].square()
        moves[i] = moves[i] - 2 * other / (mass + other) * exchanged
        moves[j] = moves[j] + 2 * mass / (mass + other) * exchanged
    return x, torch.stack(moves, 1)


def _approach(
    offset: Float[Tensor, "N *K 2"], velocity: Float[Tensor, "N *K 2"], reach: Float[Tensor, "N *K 1"]
) -> Float[Tensor, "N *K 2"]:
    """The relative velocity along the line between two touching balls, where they approach; zero elsewhere."""
    squared = offset.square().sum(-1, keepdim=True)
    along = (offset * velocity).sum(-1, keepdim=True)
    hit = (squared < reach.square()) & (along < 0)
    return torch.where(hit, along / squared.clamp(min=1e-12), 0.0) * offset


def _place(world: BallsWorld, radii: Float[Tensor, "N K"], generator: torch.Generator) -> Tensor:
    """Centres drawn uniformly, one ball after the other, each redrawn until it touches none of those before."""
    num_sequences, num_balls = radii.shape
    placed = torch.full((num_sequences, 1, 2), world.arena / 2, dtype=torch.float64)
    sizes = torch.cat([torch.full_like(radii[:, :1], world.radius), radii], 1)
    for ball in range(num_balls):
        low, high = radii[:, ball, None], world.arena - radii[:, ball, None]
        centre = torch.empty(num_sequences, 2, dtype=torch.float64)
        open_rows = torch.arange(num_sequences)
        for _ in range(_ATTEMPTS):
            uniform = torch.rand(len(open_rows), 2, generator=generator, dtype=torch.float64)
            drawn = low[open_rows] + (high - low)[open_rows] * uniform
            centre[open_rows] = drawn
            gaps = (placed[open_rows] - drawn[:, None]).norm(dim=-1)
            reach = sizes[open_rows, : ball + 1] + sizes[open_rows, ball + 1, None]
            open_rows = open_rows[(gaps < reach).any(1)]
            if not len(open_rows):
                break
        else:
            raise ValueError(
                f"bouncing balls: {num_balls} balls of radius {world.radius:g} and a fixed one do not fit an arena of "
                f"{world.arena} pixels (ball {ball + 1} found no free place); take fewer or smaller balls"
            )
        placed = torch.cat([placed, centre[:, None]], 1)
    return placed[:, 1:]


def render(world: BallsWorld, centres: Float[Tensor, "N T K 2"], radii: Float[Tensor, "N K"]) -> Videos:
    """Draw the balls and the fixed one: a pixel is 1 where its centre lies inside a ball, and no curtain hangs."""
    pixels = torch.arange(world.arena) + 0.5
    hidden = (2 * pixels - world.arena).abs() < world.curtain
    reach = torch.cat([radii, torch.full_like(radii[:, :1], world.radius)], 1).float().square()[:, None, :, None, None]
    packed = []
    for part, within in zip(centres.split(256), reach.split(256), strict=True):
        middle = torch.full_like(part[:, :, :1], world.arena / 2)
        squares = (pixels - torch.cat([part, middle], 2)[..., None]).square()
        rows, columns = squares[..., 0, :], squares[..., 1, :]
        inside = torch.zeros(*part.shape[:2], world.arena, world.arena, dtype=torch.bool)
        for ball in range(rows.shape[2]):
            inside |= rows[:, :, ball, :, None] + columns[:, :, ball, None, :] < within[:, :, ball]
        inside &= ~hidden
        packed.append(torch.from_numpy(np.packbits(inside.flatten(2).numpy(), axis=-1)))
    return Videos(torch.cat(packed), world.arena)


def trajectories(
    world: BallsWorld, split: str, seed: int, num_balls: int | None = None
) -> tuple[Float[Tensor, "N T K 2"], Float[Tensor, "N K"]]:
    """Centres and radii of the balls in the sequences of a split; arguments as of `videos`."""
    splits = {"train": world.train_sequences, "val": world.val_sequences, "test": world.test_sequences}
    size, num_balls = named(splits, split, "balls", "split"), world.num_balls if num_balls is None else num_balls
    if num_balls < 1:
        raise ValueError(f"bouncing balls: expected at least 1 moving ball, got {num_balls}")
    own_seed = ((seed * 3 + list(splits).index(split)) * 1000 + num_balls) % 2**64
    return simulate(world, size, num_balls, own_seed), radii(world, size, num_balls, own_seed)


def videos(world: BallsWorld, split: str, seed: int, num_balls: int | None = None) -> Videos:
    """The sequences of a split, "train", "val" or "test"; no two splits share any. `num_balls`: the world's if None."""
    if num_balls is None and world.most_balls is not None:
        counts, parts = range(world.num_balls, world.most_balls + 1), []
        for index, number in enumerate(counts):  # a part of the sequences each
            shares = {name: -(-(getattr(world, name) - index) // len(counts)) for name in SEQUENCES}
            parts.append(videos(replace(world, most_balls=None, **shares), split, seed, number).packed)
        return Videos(torch.cat(parts), world.arena)
    return render(world, *trajectories(world, split, seed, num_balls))


def random_positions(
    world: BallsWorld, batch_size: int, num_steps: int, generator: torch.Generator
) -> Float[Tensor, "B T A 2"]:
    """Pixels, (row, column), drawn uniformly from the whole arena; its centre, where views are whole frames."""
    if world.whole:
        return grid_positions(world).expand(batch_size, num_steps, world.num_views, 2)
    return torch.randint(world.arena, (batch_size, num_steps, world.num_views, 2), generator=generator).float()


def grid_positions(world: BallsWorld) -> Float[Tensor, "Q 2"]:
    """The centre pixels of the cells of a 4 x 4 grid over the arena; its own centre, where views are whole frames."""
    if world.whole:
        return torch.full((1, 2), float(world.arena // 2))
    line = ((torch.arange(4) + 0.5) * world.arena / 4 - 0.5).floor()
    return torch.cartesian_prod(line, line)


def mirrored(frames: Shaped[Tensor, "B T H W"], generator: torch.Generator) -> Shaped[Tensor, "B T H W"]:
    """Each sequence in one of the eight symmetries of the square, drawn at random."""
    flips = torch.rand(3, len(frames), 1, 1, 1, generator=generator) < 0.5
    frames = torch.where(flips[0], frames.flip(-1), frames)
    frames = torch.where(flips[1], frames.flip(-2), frames)
    return torch.where(flips[2], frames.transpose(-1, -2), frames)


def episode(world: BallsWorld, frames: UInt8[Tensor, "B T H W"], generator: torch.Generator) -> Episode:
    """Crops of the frames around pixels drawn at random; the targets are the next frame's crops."""
    positions = random_positions(world, frames.shape[0], frames.shape[1], generator)
    return Episode(Views(positions, crops(frames, positions, world.crop)))
