"""Battles as each unit sees them: polar images around it, of units, their actions and the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from s2rm.tasks.battles.trajectories import ACTIONS, STATS, UNIT_TYPES, Trajectories
from s2rm.views import Episode, Views

SCALES = (100.0, 100.0, 1.0, 100.0)
"""By what health, energy, cooldown (seconds) and shield are divided, whatever the type of unit (B.1.2)."""
STATE = 1 + len(UNIT_TYPES) + len(STATS)
"""The first channels of a view, which are to be predicted: friendly marker, types (one-hot), stats."""
CHANNELS = STATE + 1 + len(ACTIONS)
"""All channels of a view: the state, the ground's height, actions (one-hot)."""
NO_OP = CHANNELS - len(ACTIONS) + ACTIONS.index("no-op")


@dataclass(frozen=True)
class PolarGrid:
    """Pixels around a place: `(i, j)` is `i` radial and `j` angular steps away, angle 0 east, a quarter round north.

    All pixels of radius 0 are the place itself. A pixel has what is nearer to its radius and angle than to others';
    the outermost have all that is farther, up to the edge of the field of view.

    Raises:
        ValueError: a size below its least value.

    Source:
        S2RM, B.1.1, Eq. 12 and 13. The sizes are ours: the paper does not give its own.
    """

    num_radii: int = 8
    """I"""
    num_angles: int = 16
    """J"""
    field_of_view: float = 9.0
    """radius of the circle that is seen, map units; nine is the sight of most units of the game"""

    def __post_init__(self) -> None:
        if self.num_radii < 1 or self.num_angles < 1 or not 0 < self.field_of_view < math.inf:
            raise ValueError(
                "PolarGrid: expected at least 1 radius and 1 angle and a positive field of view, got "
                f"{self.num_radii}, {self.num_angles} and {self.field_of_view}"
            )

    @property
    def radial(self) -> float:
        """ρ, map units"""
        return self.field_of_view / self.num_radii

    @property
    def angular(self) -> float:
        """φ, radians"""
        return 2 * math.pi / self.num_angles

    @property
    def num_pixels(self) -> int:
        return self.num_radii * self.num_angles

    def to_game(self, centre: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch I J 2"]:
        """Where the pixels around each centre are on the map: `x = iρ (cos jφ, sin jφ) + centre`."""
        radius = self.radial * torch.arange(self.num_radii).to(centre)
        angle = self.angular * torch.arange(self.num_angles).to(centre)
        around = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
        return centre[..., None, None, :] + around

    def to_pixels(self, offsets: Float[Tensor, "*batch 2"]) -> tuple[Int[Tensor, "*batch 2"], Bool[Tensor, "*batch"]]:
        """The pixel `(i, j)` of what is so far from the centre, and whether it is in the field of view.

        The radius and the angle are rounded, each to the nearest. What is not seen has pixel (0, 0).
        """
        east, north = offsets.unbind(-1)
        distance = torch.hypot(east, north)
        seen = distance <= self.field_of_view
        radius = (distance / self.radial).round().clamp(max=self.num_radii - 1)
        angle = (torch.atan2(north, east) / self.angular).round() % self.num_angles
        return torch.where(seen[..., None], torch.stack([radius, angle], -1), 0.0).long(), seen

    def check(self, battles: Trajectories) -> None:
        """Refuse maps over which one unit sees from side to side, wherever it stands."""
        size = tuple(battles.terrain.shape[1:])
        if self.field_of_view > min(size):
            raise ValueError(
                f"PolarGrid: expected a field of view of at most the map's shorter side, {min(size)} map units, got "
                f"{self.field_of_view:g}; take a smaller one"
            )


def draw(
    grid: PolarGrid,
    offsets: Float[Tensor, "*batch U 2"],
    there: Bool[Tensor, "*batch U"],
    channels: Float[Tensor, "*batch U C"],
) -> Float[Tensor, "*batch C I J"]:
    """Images of units, zero where there is none.

    Of several units in one pixel it shows the one nearest to the pixel's place, the first of those equally near. All
    pixels of radius 0 are one place, so a unit there keeps its angle; one that is exactly there has angle 0.

    Args:
        grid: of the pixels.
        offsets: from the image's centre to each unit, map units.
        there: which units are there at all.
        channels: what a unit's pixel holds.
    """
    pixels, seen = grid.to_pixels(offsets)
    shown = (seen & there).nonzero(as_tuple=True)
    flat = pixels[shown] @ pixels.new_tensor([grid.num_angles, 1])
    image = torch.arange(math.prod(there.shape[:-1]), device=flat.device).view(*there.shape[:-1], 1)
    place = image.expand_as(there)[shown] * grid.num_pixels + flat
    centres = grid.to_game(offsets.new_zeros(2)).flatten(0, 1)
    # Units in the order in which they claim their pixels; then the first claim on each pixel.
    order = (offsets[shown] - centres[flat]).square().sum(-1).argsort(stable=True)
    rank = torch.arange(len(order), device=order.device)
    first = order.new_full((image.numel() * grid.num_pixels,), len(order))
    first.scatter_reduce_(0, place[order], rank, "amin")
    drawn = order[first[first < len(order)]]
    images = channels.new_zeros(image.numel(), channels.shape[-1], grid.num_pixels)
    images[place[drawn] // grid.num_pixels, :, flat[drawn]] = channels[tuple(index[drawn] for index in shown)]
    return images.view(*there.shape[:-1], channels.shape[-1], grid.num_radii, grid.num_angles)


def unit_channels(battles: Trajectories) -> Float[Tensor, "B T U C"]:
    """What each unit's pixel holds; of no-op, how much more than the 1 of a pixel without a unit, and of the ground 0.

    The first channels, `STATE` of them, are those of `state_images`.
    """
    units, stats = battles.alive.shape, battles.stats
    friendly = battles.friendly[:, None].expand(units)
    actions = torch.where(friendly, battles.actions, ACTIONS.index("unknown"))
    channels = [
        friendly[..., None],
        one_hot(battles.types, len(UNIT_TYPES))[:, None].expand(*units, -1),
        stats / stats.new_tensor(SCALES),
        stats.new_zeros(*units, 1),
        one_hot(actions, len(ACTIONS)),
    ]
    together = torch.cat([part.to(stats.dtype) for part in channels], -1)
    together[..., NO_OP] -= 1
    return together


def _look(
    battles: Trajectories, grid: PolarGrid, centres: Float[Tensor, "B T Q 2"], channels: Float[Tensor, "B T U C"]
) -> Float[Tensor, "B T Q C I J"]:
    slots = (*centres.shape[:3], battles.alive.shape[-1])
    offsets = battles.positions[:, :, None] - centres[..., None, :]
    return draw(grid, offsets, battles.alive[:, :, None].expand(slots), channels[:, :, None].expand(*slots, -1))


def state_images(
    battles: Trajectories, grid: PolarGrid, centres: Float[Tensor, "B T Q 2"]
) -> Float[Tensor, "B T Q 14 I J"]:
    """The state around any places: friendly marker, types and stats of the living units, each in its pixel.

    Args:
        battles: B battles of T steps.
        grid: of the pixels.
        centres: places on the map, map units.

    Raises:
        ValueError: a field of view larger than the map.

    Source:
        S2RM, B.1.1 and B.1.2. Relative to the paper: the divisors of the stats, `SCALES`, are ours.
    """
    grid.check(battles)
    return _look(battles, grid, centres, unit_channels(battles)[..., :STATE])


def heights(terrain: Float[Tensor, "B H W"], places: Float[Tensor, "B *places 2"]) -> Float[Tensor, " B *places"]:
    """Of the ground's cells at places of the map; 0 outside it."""
    size = places.new_tensor([terrain.shape[2], terrain.shape[1]])
    # One cell more on each side, for all that is outside.
    east, north = torch.minimum((places + 1).clamp(min=0), size + 1).long().unbind(-1)
    cells = (north * (terrain.shape[2] + 2) + east).flatten(1)
    return pad(terrain, (1, 1, 1, 1)).flatten(1).gather(1, cells).view(places.shape[:-1])


def agents(battles: Trajectories) -> Int[Tensor, "B A"]:
    """The slots of each battle's friendly units, then some others where it has fewer than the one with most."""
    number = max(1, int(battles.friendly.sum(1).amax()))
    return battles.friendly.long().argsort(dim=1, descending=True, stable=True)[:, :number]


def observations(battles: Trajectories, grid: PolarGrid) -> Episode:
    """What each friendly unit sees around it while it lives, and, without the ground and actions, is to predict.

    A view is `(23, I, J)`: the state (friendly marker, types, stats), the height of the ground at the pixel's place,
    and the actions, of which those of units that are not friendly are unknown, and those where no unit lives no-op.
    Its position is the unit's on the map. A unit sees itself, at pixel (0, 0).

    Args:
        battles: B battles of T steps.
        grid: of the pixels.

    Returns:
        Views `(B, T, A, 23, I, J)` and targets `(B, T, A, 14, I, J)` of the A friendly units, the most of any battle.

    Raises:
        ValueError: a field of view larger than the map.

    Source:
        S2RM, B.1.1 and B.1.2. Relative to the paper: the divisors of the stats, `SCALES`, are ours.
    """
    grid.check(battles)
    mine = agents(battles)[:, None]
    alive = (battles.alive & battles.friendly[:, None]).take_along_dim(mine, 2)
    positions = torch.where(alive[..., None], battles.positions.take_along_dim(mine[..., None], 2), 0.0)
    channels = unit_channels(battles)
    # Checked here, unit by unit, what the images are made of: in the images it would take longer than drawing them.
    Views(battles.positions, channels, battles.alive)
    images = _look(battles, grid, positions, channels)
    images[..., STATE, :, :] = heights(battles.terrain, grid.to_game(positions))
    images[..., NO_OP, :, :] += 1
    seen, state = (Views._unchecked(positions, part, alive) for part in (images, images[..., :STATE, :, :]))
    return Episode(seen, state)


class Battles(torch.utils.data.Dataset):
    """Whole batches of training or validation episodes, each a pure function of its key `(rows, seed)`.

    Args:
        trajectories: the battles.
        grid: how they are seen.
        clip: steps of a training clip, cut at random from the steps at which friendly units live.
        train: cut clips; otherwise whole battles.

    Raises:
        ValueError: clips longer than the battles or shorter than two steps; a field of view larger than the map.
    """

    def __init__(self, trajectories: Trajectories, grid: PolarGrid, clip: int, train: bool):
        steps = trajectories.alive.shape[1]
        if not 2 <= clip <= steps:
            raise ValueError(f"Battles: clip must be from 2 to the battles' {steps} steps, got {clip}")
        grid.check(trajectories)
        self.trajectories, self.grid, self.clip, self.train = trajectories, grid, clip, train
        lived = (trajectories.alive & trajectories.friendly[:, None]).any(2)
        self.lengths = (lived * torch.arange(1, steps + 1)).amax(1)

    def __getitem__(self, key: tuple[list[int], int]) -> Episode:
        rows, seed = torch.tensor(key[0]), key[1]
        battles = self.trajectories[rows]
        if self.train:
            generator = torch.Generator().manual_seed(seed)
            starts = (self.lengths[rows] - self.clip + 1).clamp(min=1)
            start = (torch.rand(len(rows), generator=generator) * starts).long()
            battles = window(battles, start, self.clip)
        return observations(battles, self.grid)

    def __len__(self) -> int:
        return len(self.trajectories)


def window(battles: Trajectories, start: Int[Tensor, " B"], length: int) -> Trajectories:
    """As many steps of each battle from its own start on."""
    at = torch.arange(len(battles))[:, None], start[:, None] + torch.arange(length)
    return replace(battles, **{name: getattr(battles, name)[at] for name in ("positions", "alive", "stats", "actions")})
