"""Railways for the explorer: trains on a map from above, and what of their predicted views is drawn."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.explorer.scenes import Agents, Layer, Played, members_of, pixels
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.world import CHANNELS, Railways, RailwayWorld, episode

EPISODES = 2
TRAINS = tuple(index for index, name in enumerate(CHANNELS) if name.startswith("train"))
LAYERS = (
    Layer("trains", (86, 180, 233), "blue", TRAINS),
    Layer("tracks", (120, 120, 120), "grey", tuple(range(4)), scale=0.5),
    Layer("stations", (230, 159, 0), "orange", (CHANNELS.index("station"),)),
)


def scene(world: RailwayWorld, seed: int, folder: Path | None = None) -> Agents:
    """The first test episodes; raises what `collected` does."""
    source = collected(world, "test", seed, folder)
    middles = _middles(world.grid, world.view)
    queries = torch.cartesian_prod(middles, middles)
    cells = pixels(world.grid, world.grid)
    off = (cells.view(-1, 1, 2) - queries + world.view // 2).long()  # of each cell in each view
    inside = ((off >= 0) & (off < world.view)).all(-1)
    number = torch.arange(len(queries)).expand_as(inside)
    members = members_of(number, off[..., 0] * world.view + off[..., 1], inside, world.view**2)
    played = [_played(world, source, row) for row in range(min(EPISODES, len(source)))]
    return Agents("trains on a railway", played, LAYERS, cells, queries, members, ("trains", TRAINS), len(CHANNELS))


def _middles(side: int, view: int) -> Float[Tensor, " N"]:
    """Centres of the fewest views that cover a line."""
    return torch.arange(view // 2, side + view // 2, view).clamp(max=side - 1 - view // 2).float()


def _played(world: RailwayWorld, source: Railways, row: int) -> Played:
    views = episode(world, source, torch.tensor([row])).views
    positions, there = views.positions[0], views.mask[0]
    xy = positions.flip(-1) + 0.5
    units = [[(*place, 0) for place in places[present].tolist()] for places, present in zip(xy, there, strict=True)]
    return Played(f"episode {row + 1}", positions, xy, there, views.values[0], units)
