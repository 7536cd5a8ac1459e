"""Battles as each unit observes them: polar images of the units, their actions and the ground around it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from s2rm.likelihoods import parts
from s2rm.tasks.battles.trajectories import ACTIONS, IN_TIME, STATS, UNIT_TYPES, Trajectories
from s2rm.tasks.worlds import Drawn, shares, starts_within
from s2rm.views import Episode, Views

SCALES = (100.0, 100.0, 1.0, 100.0)
"""divisors of health, energy, cooldown (seconds) and shield, the same for all types of unit (B.1.2)"""
STATE = 1 + len(UNIT_TYPES) + len(STATS)
"""the number of the first channels of a view, which are predicted: friendly marker, types (one-hot), stats"""
CHANNELS = STATE + 1 + len(ACTIONS)
"""the number of channels of a view: the state, the ground's height, actions (one-hot)"""
NUM_TYPES = len(UNIT_TYPES) + 1
"""no unit, and the types"""
NO_OP = CHANNELS - len(ACTIONS) + ACTIONS.index("no-op")


@dataclass(frozen=True)
class PolarGrid:
    r"""Pixels around a centre: `(i, j)` is `i` radial and `j` angular steps away, angle 0 east, a quarter turn north.

    $$x = i \rho\, (\cos j \varphi, \sin j \varphi) + x_0, \qquad \rho = \text{field of view} / I,
    \quad \varphi = 2 \pi / J$$

    All pixels of radius 0 are the centre itself. A unit belongs to the pixel with the nearest radius and the nearest
    angle; the outermost radius extends to the edge of the field of view.

    Raises:
        ValueError: a size below its least value.

    Source:
        S2RM, B.1.1, Eq. 12 and 13. The sizes are ours: the paper does not give its own.
    """

    num_radii: int = 8
    """number of radii, I"""
    num_angles: int = 16
    """number of angles, J"""
    field_of_view: float = 9.0
    """radius of the circle that a unit sees, map units; nine is the sight of most units of the game"""

    def __post_init__(self) -> None:
        if self.num_radii < 1 or self.num_angles < 1 or not 0 < self.field_of_view < math.inf:
            raise ValueError(
                "PolarGrid: expected at least 1 radius and 1 angle and a positive field of view, got "
                f"{self.num_radii}, {self.num_angles} and {self.field_of_view}"
            )

    @property
    def radial(self) -> float:
        """The radial step, ρ, map units."""
        return self.field_of_view / self.num_radii

    @property
    def angular(self) -> float:
        """The angular step, φ, radians."""
        return 2 * math.pi / self.num_angles

    def to_game(self, centre: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch I J 2"]:
        """The places on the map of the pixels around each centre."""
        radius = self.radial * torch.arange(self.num_radii).to(centre)
        angle = self.angular * torch.arange(self.num_angles).to(centre)
        around = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], -1)
        return centre[..., None, None, :] + around

    def to_pixels(self, offsets: Float[Tensor, "*batch 2"]) -> tuple[Int[Tensor, "*batch 2"], Bool[Tensor, "*batch"]]:
        """The pixel `(i, j)` of each offset from the centre, and whether it is in the field of view.

        The radius and the angle are rounded, each to the nearest. Offsets outside the field of view get pixel (0, 0).
        """
        east, north = offsets.unbind(-1)
        distance = torch.hypot(east, north)
        seen = distance <= self.field_of_view
        radius = (distance / self.radial).round().clamp(max=self.num_radii - 1)
        angle = (torch.atan2(north, east) / self.angular).round() % self.num_angles
        return torch.where(seen[..., None], torch.stack([radius, angle], -1), 0.0).long(), seen

    def check(self, battles: Trajectories) -> None:
        """Refuse a field of view that is larger than the map."""
        size = tuple(battles.terrain.shape[1:])
        if self.field_of_view > min(size):
            raise ValueError(
                f"PolarGrid: expected a field of view of at most the map's shorter side, {min(size)} map units, got "
                f"{self.field_of_view:g}; take a smaller one"
            )


def draw(
    grid: PolarGrid, offsets: Float[Tensor, "*batch U 2"], there: Bool[Tensor, "*batch U"],
    channels: Float[Tensor, "*batch U C"],
) -> Float[Tensor, "*batch C I J"]:  # fmt: skip
    """Draw images of units; pixels without a unit are zero.

    Of several units in one pixel the one nearest to the pixel's place is drawn, the first of those equally near. All
    pixels of radius 0 are one place; a unit there is drawn at its angle, and one exactly at the centre at angle 0.
    Offsets are from the image's centre to each unit, in map units; `there` are the slots that hold a unit.
    """
    pixels, seen = grid.to_pixels(offsets)
    num_pixels = grid.num_radii * grid.num_angles
    shown = (seen & there).nonzero(as_tuple=True)
    flat = pixels[shown] @ pixels.new_tensor([grid.num_angles, 1])
    image = torch.arange(math.prod(there.shape[:-1]), device=flat.device).view(*there.shape[:-1], 1)
    place = image.expand_as(there)[shown] * num_pixels + flat
    centres = grid.to_game(offsets.new_zeros(2)).flatten(0, 1)
    # Units sorted by distance from their pixel's place; each pixel takes the first of its units in that order.
    order = (offsets[shown] - centres[flat]).square().sum(-1).argsort(stable=True)
    rank = torch.arange(len(order), device=order.device)
    first = order.new_full((image.numel() * num_pixels,), len(order))
    first.scatter_reduce_(0, place[order], rank, "amin")
    drawn = order[first[first < len(order)]]
    images = channels.new_zeros(image.numel(), channels.shape[-1], num_pixels)
    images[place[drawn] // num_pixels, :, flat[drawn]] = channels[tuple(index[drawn] for index in shown)]
    return images.view(*there.shape[:-1], channels.shape[-1], grid.num_radii, grid.num_angles)


def unit_channels(battles: Trajectories) -> Float[Tensor, "B T U C"]:
    """The channels of each unit's pixel: the state, 0 for the ground, and the action, one-hot.

    A pixel without a unit has no-op 1, which is added to whole images later; here no-op is therefore lower by 1.
    """
    units, stats = battles.alive.shape, battles.stats
    friendly = battles.friendly[:, None].expand(units)
    actions = torch.where(friendly, battles.actions, ACTIONS.index("unknown"))
    types = one_hot(battles.types, len(UNIT_TYPES))[:, None].expand(*units, -1)
    ground, scaled = stats.new_zeros(*units, 1), stats / stats.new_tensor(SCALES)
    channels = [friendly[..., None], types, scaled, ground, one_hot(actions, len(ACTIONS))]
    together = torch.cat([part.to(stats.dtype) for part in channels], -1)
    together[..., NO_OP] -= 1
    return together


def markers_and_types(
    images: Float[Tensor, "*batch C I J"],
) -> tuple[Int[Tensor, "*batch I J"], Int[Tensor, "*batch I J"]]:
    """The marker and the type of each pixel of state images, 0 for none."""
    friendly, types, _ = parts(images)
    numbers = torch.arange(1.0, NUM_TYPES, dtype=types.dtype)
    return friendly.squeeze(-3).long(), torch.einsum("...kij,k->...ij", types, numbers).long()


def heights(terrain: Float[Tensor, "B H W"], places: Float[Tensor, "B *places 2"]) -> Float[Tensor, " B *places"]:
    """The height of the ground at places of the map; 0 outside it."""
    size = places.new_tensor([terrain.shape[2], terrain.shape[1]])
    # The terrain is padded by one cell of height 0 on each side, to which places outside are clamped.
    east, north = torch.minimum((places + 1).clamp(min=0), size + 1).long().unbind(-1)
    cells = (north * (terrain.shape[2] + 2) + east).flatten(1)
    return pad(terrain, (1, 1, 1, 1)).flatten(1).gather(1, cells).view(places.shape[:-1])


def agents(battles: Trajectories) -> Int[Tensor, "B A"]:
    """The slots of each battle's friendly units, filled up with other units to the largest number in any battle."""
    number = max(1, int(battles.friendly.sum(1).amax()))
    return battles.friendly.long().argsort(dim=1, descending=True, stable=True)[:, :number]


def observations(battles: Trajectories, grid: PolarGrid) -> Episode:
    """The observations of the living friendly units, as views, and the state in them, as targets.

    A view is `(23, I, J)`: the state (friendly marker, types, stats), the height of the ground at the pixel's place,
    and the actions; the action of a unit that is not friendly is unknown, and that of a pixel without a unit no-op.
    The view's position is the unit's on the map. A unit sees itself, at pixel (0, 0).

    Returns:
        Views `(B, T, A, 23, I, J)` and targets `(B, T, A, 14, I, J)`, with A as of `agents`.

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
    # The checks of Views run on the units, since on the images they would take longer than drawing them.
    Views(battles.positions, channels, battles.alive)
    offsets = battles.positions[:, :, None] - positions[..., None, :]
    slots = offsets.shape[:-1]
    images = draw(grid, offsets, battles.alive[:, :, None].expand(slots), channels[:, :, None].expand(*slots, -1))
    images[..., STATE, :, :] = heights(battles.terrain, grid.to_game(positions))
    images[..., NO_OP, :, :] += 1
    seen, state = (Views._unchecked(positions, part, alive) for part in (images, images[..., :STATE, :, :]))
    return Episode(seen, state)


def reporting(episode: Episode, share: float | Float[Tensor, "B 1"], generator: torch.Generator) -> Episode:
    """The episode with the views of a share of the agents, at least one, drawn for each battle.

    The other agents are silent throughout; all stay targets.
    """
    agents_there = episode.views.mask.any(1)
    order = torch.rand(agents_there.shape, generator=generator).masked_fill(~agents_there, 2.0).argsort(1).argsort(1)
    few = (share * agents_there.sum(1, keepdim=True)).round().clamp(min=1)
    return Episode(episode.views.keep((order < few)[:, None]), episode.targets)


def dataset(
    trajectories: Trajectories, grid: PolarGrid, clip: int | None = None,
    guess: Callable[[Trajectories, Episode], Tensor] | None = None, drop: float = 0.0,
) -> Drawn:  # fmt: skip
    """Episodes of battles, indexed by keys `(rows, seed)`, for `s2rm.training.batches`.

    They are clips of so many steps, cut at random while friendly units live, or whole battles, without `clip`. Their
    context is the `guess`, if any. Up to a share `drop` of the agents, drawn at random, is silent throughout.

    Raises:
        ValueError: clips longer than the battles or shorter than two steps; a field of view larger than the map.
    """
    steps = trajectories.alive.shape[1]
    length = steps if clip is None else clip
    if not 2 <= length <= steps:
        raise ValueError(f"battles: expected a clip of 2 to the battles' {steps} steps, got {clip}; choose another")
    grid.check(trajectories)
    lived = (trajectories.alive & trajectories.friendly[:, None]).any(2)
    lengths = (lived * torch.arange(1, steps + 1)).amax(1)

    def draw_clips(rows: Tensor, generator: torch.Generator) -> Episode:
        battles = trajectories[rows]
        if clip is not None:
            battles = window(battles, starts_within(lengths[rows], clip, generator), clip)
        episode = observations(battles, grid)
        if drop:
            episode = reporting(episode, shares(len(rows), drop, generator)[..., 0], generator)
        return episode if guess is None else replace(episode, context=guess(battles, episode))

    return Drawn(len(trajectories), draw_clips)


def window(battles: Trajectories, start: Int[Tensor, " B"], length: int) -> Trajectories:
    """As many steps of each battle, from its own start on."""
    at = torch.arange(len(battles))[:, None], start[:, None] + torch.arange(length)
    return replace(battles, **{name: getattr(battles, name)[at] for name in IN_TIME})
