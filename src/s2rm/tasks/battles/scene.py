"""Battles for the explorer: units on a map from above, and what of their predicted views is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.explorer.scenes import Agents, Layer, Played, members_of
from s2rm.tasks.battles.polar import NUM_TYPES, STATE, PolarGrid, observations
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles
from s2rm.tasks.crops import cells

TYPES = tuple(range(1, NUM_TYPES))
LAYERS = (
    Layer("friendly units", (86, 180, 233), "blue", TYPES, at_most=0),
    Layer("other units", (230, 120, 20), "orange", TYPES, minus=0),
)


def from_everywhere(side: int, grid: PolarGrid) -> tuple[Float[Tensor, "Q 2"], Int[Tensor, "Q C"], Bool[Tensor, "Q C"]]:
    """Where images are predicted all over a map, the pixel of each of them in which each cell lies, and whether it
    counts. Cells go from south to north, and in a row from west to east.

    Left out are the innermost pixel, where the querying agent itself stands, and pixels beyond two thirds of the field
    of view, which are wide.
    """
    line = torch.arange(1.0, side, 2.0)
    centres, middles = torch.cartesian_prod(line, line), torch.cartesian_prod(*[torch.arange(0.5, side)] * 2).flip(-1)
    offsets = middles - centres[:, None]
    radius, angle = grid.to_pixels(offsets)[0].unbind(-1)
    near = (radius > 0) & (offsets.norm(dim=-1) <= 2 / 3 * grid.field_of_view)
    return centres, radius * grid.num_angles + angle, near


def scene(world: SkirmishWorld, seed: int, folder: Path | None = None) -> Agents:
    """A test battle of a training scenario, and one of a scenario that is new."""
    side, grid = world.map_size, world.grid
    queries, pixel, near = from_everywhere(side, grid)
    number = torch.arange(len(queries))[:, None].expand_as(near)
    number, pixel, near = (part.unflatten(1, (side, side)).flip(1).flatten(1).T for part in (number, pixel, near))
    members = members_of(number, pixel, near, grid.num_radii * grid.num_angles)
    positions = cells(side).flip(-1).flip(0) + 0.5
    shown = dict.fromkeys((world.train_scenarios[0], "5s3z"))
    played = [_played(world, seed, scenario) for scenario in shown]
    title, scored = "battles of two teams", ("friendly marker", (0,))
    return Agents(title, played, LAYERS, positions, queries, members, scored, STATE, "mixed")


def _played(world: SkirmishWorld, seed: int, scenario: str) -> Played:
    battle = battles(replace(world, test_battles=1), "test", seed, scenario)
    views = observations(battle, world.grid).views
    up = torch.tensor([0.0, float(world.map_size)])
    units = []
    for places, alive in zip(battle.positions[0], battle.alive[0], strict=True):
        xy = (up - places * torch.tensor([-1.0, 1.0])).tolist()
        units.append([(*xy[unit], int(not battle.friendly[0, unit])) for unit in alive.nonzero()[:, 0].tolist()])
    positions = views.positions[0]
    new = "" if scenario in world.train_scenarios else ", new"
    return Played(
        f"{scenario}{new}", positions, up - positions * torch.tensor([-1.0, 1.0]), views.mask[0], views.values[0], units
    )
