"""Simulated skirmishes: two teams of zealots, stalkers and colossi fight on an open field.

They stand in for the StarCraft II scenarios of the S2RM paper (appendix B.1), and are not StarCraft II. The statistics
of units are those of the game as of patch 5.0, at "Faster" speed, in real seconds and map units (Liquipedia,
"StarCraft II unit statistics": the pages of the three units and of plasma shields). As in SMAC, both teams get orders
once a step, and sight is 9.

Left out: terrain that matters (heights are drawn, and have no effect), obstacles and path finding, facing, turning and
acceleration, the wind-up of an attack and the flight of a shot (hits land at once), upgrades and abilities (charge,
blink, longer lances), high ground, and any planning: both teams follow the scripted policy of `tactics.py`. A cooldown
ends with a substep, so it lasts up to one substep longer than in `UNITS`.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.tasks.battles.fighting import SHIELD_DELAY, UNITS, Battlefield, Slots, advance, line_up, starts
from s2rm.tasks.battles.polar import CHANNELS, STATE, PolarGrid
from s2rm.tasks.battles.tactics import draw_tempers, give_orders
from s2rm.tasks.battles.trajectories import Trajectories, team
from s2rm.tasks.worlds import at_least, check_amount, named

_LONGEST_SUBSTEP = 1 / 8
_CHUNK = 1_024


@dataclass(frozen=True)
class SkirmishWorld:
    """The map, the steps of a battle, how units see it, and how many battles there are.

    Raises:
        ValueError: a size below its least value, a clip longer than a battle, substeps too coarse, no training
            scenarios, or scenarios with unknown units or too many for the map.
    """

    map_size: int = 32
    """side of the square map, map units"""
    num_steps: int = 100
    """steps of a trajectory; after the end of a battle the survivors walk about"""
    seconds_per_step: float = 0.5
    """seconds between two steps; orders are given once a step"""
    substeps: int = 8
    """substeps of the simulation in a step"""
    train_scenarios: tuple[str, ...] = ("1c3s5z", "3s5z", "2s5z")
    """scenarios of training and validation, in equal shares"""
    train_battles: int = 9_000
    val_battles: int = 900
    """to train and to validate on, over all scenarios"""
    test_battles: int = 1_000
    """of each scenario"""
    clip: int = 100
    """steps of a training clip, cut from a trajectory at random"""
    grid: PolarGrid = field(default_factory=PolarGrid)
    """pixels of a view"""

    def __post_init__(self) -> None:
        if not self.train_scenarios:
            raise ValueError("SkirmishWorld: expected at least one of train_scenarios, got none; name some, e.g. 3s5z")
        shares = len(self.train_scenarios)
        at_least(
            "SkirmishWorld", vars(self), map_size=16, num_steps=2, clip=2, substeps=1, train_battles=shares,
            val_battles=shares, test_battles=1,
        )  # fmt: skip
        most, grid = max(self.train_battles, self.val_battles, self.test_battles), self.grid
        for values in (CHANNELS * grid.num_radii * grid.num_angles, self.substeps):
            check_amount("SkirmishWorld", most, self.num_steps, values)
        if self.clip > self.num_steps:
            raise ValueError(f"SkirmishWorld: clip must be at most num_steps, {self.num_steps}, got {self.clip}")
        if not 0 < self.seconds_per_step <= self.substeps * _LONGEST_SUBSTEP:
            raise ValueError(
                f"SkirmishWorld: expected seconds_per_step in (0, {self.substeps * _LONGEST_SUBSTEP:g}] with "
                f"{self.substeps} substeps, got {self.seconds_per_step}; take more substeps"
            )
        for name in self.train_scenarios:
            _teams(self, name, name)

    @property
    def side(self) -> float:
        """Of the square in which positions lie."""
        return float(self.map_size)

    def model_arguments(self) -> dict[str, object]:
        """Shapes, likelihood and codec."""
        pixels = [self.grid.num_radii, self.grid.num_angles]
        shapes = {"value_shape": [CHANNELS, *pixels], "target_shape": [STATE, *pixels]}
        return {**shapes, "likelihood": "mixed", "codec": "polar"}


def _teams(world: SkirmishWorld, own: str, other: str) -> tuple[list[str], list[str]]:
    """The units of two scenarios, for which the map must have room."""
    teams = team(own, tuple(UNITS)), team(other, tuple(UNITS))
    area = sum(math.pi * UNITS[kind].radius ** 2 for units in teams for kind in units)
    if area > world.map_size**2 / 10:
        raise ValueError(
            f"skirmish: expected units that cover at most a tenth of the map of {world.map_size} x {world.map_size}, "
            f"got {own} against {other}, which cover {area:.0f}; take fewer units or a map_size of "
            f"{math.ceil((10 * area) ** 0.5)}"
        )
    return teams


PRESETS = {
    "paper": SkirmishWorld(),
    "small": SkirmishWorld(
        num_steps=64, clip=20, train_battles=3_000, val_battles=150, test_battles=100, grid=PolarGrid(4, 8)
    ),
    "tiny": SkirmishWorld(num_steps=24, clip=8, train_battles=9, val_battles=3, test_battles=2),
}


def preset(name: str) -> SkirmishWorld:
    """The world of that name: "paper", "small" or "tiny"."""
    return named(PRESETS, name, "skirmish")


def battles(world: SkirmishWorld, split: str, seed: int, scenario: str | None = None) -> Trajectories:
    """The battles of a split, simulated from the seed; no two splits share any.

    "train" and "val" have the training scenarios in equal shares, one after the other, "test" the `scenario`, for
    example "5s3z". The same seed gives the same battles.

    Raises:
        ValueError: an unknown split or scenario, a test without a scenario, or another split with one.
    """
    sizes = {"train": world.train_battles, "val": world.val_battles, "test": world.test_battles}
    size = named(sizes, split, "skirmish", "split")
    if (split == "test") != (scenario is not None):
        raise ValueError(f"skirmish: expected a scenario with the test split and no other, got {scenario} with {split}")
    names = world.train_scenarios if scenario is None else (scenario,)
    # Only 32 bits of a seed count.
    seeds = (zlib.crc32(f"{split} {seed} {index} {name}".encode()) for index, name in enumerate(names))
    shares = ((size + index) // len(names) for index in range(len(names)))
    return Trajectories.join([simulate(world, *part) for part in zip(names, shares, seeds, strict=True)])


def simulate(
    world: SkirmishWorld, scenario: str, num_battles: int, seed: int, other: str | None = None
) -> Trajectories:
    """Simulate battles between two teams of the same units, or against `other` units.

    Everything in a substep happens to both teams at once, and the teams start on an axis of random direction, so they
    differ only in the marker `friendly`. The units of the friendly team, `scenario`, come first; the enemy team has the
    units `other`, for example "1s2z", by default the same. The same seed gives the same battles.

    Raises:
        ValueError: no battles, unknown units, or more units than the map has room for.
    """
    if num_battles < 1:
        raise ValueError(f"skirmish: expected at least 1 battle, got {num_battles}; ask for more")
    slots = line_up(*_teams(world, scenario, other or scenario))
    generator = torch.Generator().manual_seed(seed)
    chunks = [min(_CHUNK, num_battles - start) for start in range(0, num_battles, _CHUNK)]
    played = [_play(world, slots, size, generator) for size in chunks]
    positions, alive, stats, actions = (torch.cat(parts) for parts in zip(*played, strict=True))
    return Trajectories(
        positions=positions, alive=alive, stats=stats, actions=actions,
        types=slots.types.expand(num_battles, -1).clone(),
        friendly=(slots.team == 0).expand(num_battles, -1).clone(),
        terrain=_terrain(world, num_battles, generator),
        scenario=torch.zeros(num_battles, dtype=torch.long),
        names=(scenario if other is None else f"{scenario}_vs_{other}",),
    )  # fmt: skip


def _play(world: SkirmishWorld, slots: Slots, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Positions, alive, stats and actions of `size` battles, `(size, T, U, ...)`."""
    shape, side, seconds = (size, len(slots.types)), world.side, world.seconds_per_step
    now = Battlefield(
        positions=starts(slots, side, size, generator), goal=torch.full((size, 2, 2), side / 2),
        health=slots.health.repeat(size, 1), shield=slots.shield.repeat(size, 1),
        cooldown=torch.zeros(shape), unhurt=torch.full(shape, SHIELD_DELAY),
        target=torch.arange(shape[1]).expand(shape),
    )  # fmt: skip
    temper = draw_tempers(slots, size, generator)
    kept = []
    for step in range(world.num_steps):
        alive = now.health > 0
        orders, actions = give_orders(slots, now, temper, side, seconds, step * seconds, generator)
        stats = torch.stack([now.health, torch.zeros(shape), now.cooldown, now.shield], -1)
        kept.append((now.positions, alive, stats * alive[..., None], actions))
        for _ in range(world.substeps if step + 1 < world.num_steps else 0):
            advance(slots, now, orders, side, seconds / world.substeps)
    return tuple(torch.stack(part, 1) for part in zip(*kept, strict=True))


def _terrain(world: SkirmishWorld, size: int, generator: torch.Generator) -> Float[Tensor, "N H W"]:
    """Smooth heights from 0 to 1, which have no effect on play."""
    coarse = torch.rand(size, 1, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(world.map_size,) * 2, mode="bicubic")[:, 0]
    low, high = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
    return (smooth - low) / (high - low)
