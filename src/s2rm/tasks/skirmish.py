"""Skirmishes of our own making: two teams of zealots, stalkers and colossi fight on an open field.

It stands where the StarCraft II scenarios of the S2RM paper stand (appendix B.1) and is a skirmish, not StarCraft II.
Unit statistics are those of the game as of patch 5.0, at "Faster" speed, in real seconds and map units (Liquipedia,
"StarCraft II unit statistics": the pages of the three units and of plasma shields). As in SMAC, both teams get orders
once a step, and sight is 9.

Left out: terrain that matters (heights are drawn, and change nothing), obstacles and path finding, facing, turning and
acceleration, the wind-up of an attack and the flight of a shot (hits land at once), upgrades and abilities (charge,
blink, longer lances), high ground, and any planning: both teams follow the one scripted policy of `_orders`. A
cooldown ends with a substep, so that it lasts up to one longer than in the table.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.tasks.polar import CHANNELS, STATE, Battles, PolarGrid
from s2rm.tasks.trajectories import ACTIONS, UNIT_TYPES, Trajectories

SIGHT = 9.0
"""map units between centres; what one unit sees, its team knows"""
SHIELD_DELAY, SHIELD_RATE = 10 / 1.4, 2 * 1.4
"""seconds without damage until shields come back, and points a second; 10 and 2 at the game's "Normal" speed"""
LEAST_DAMAGE = 0.5
"""of a hit that gets through to the hit points, whatever the armour"""
SPLASH = 1.4
"""map units: a lance sweeps this far to either side of its target, across the line of fire"""
SLACK = 0.1
"""map units beyond its range within which a unit still hits, so that jostling does not stop a melee"""
MAX_OVERLAP = 0.25
"""Units that may not walk through each other overlap by at most this many map units."""
LONGEST_DELAY = 1 / 8
"""seconds, at random, that a cooldown may take longer than in the table, as in the game"""
_LONGEST_SUBSTEP = 1 / 8
_CHUNK = 1_024


class UnitKind(NamedTuple):
    """One row of the table. Damage is per hit; the bonus is against armoured units if `pierces`, else light ones."""

    letter: str
    health: float
    shield: float
    armour: float
    armoured: bool
    radius: float
    speed: float
    reach: float
    cooldown: float
    damage: float
    bonus: float
    pierces: bool
    hits: int
    sweeps: bool
    towers: bool


UNITS = {
    "colossus": UnitKind("c", 200, 150, 1, True, 1.0, 3.15, 7.0, 1.07, 10, 5, False, 2, True, True),
    "stalker": UnitKind("s", 80, 80, 1, True, 0.625, 4.13, 6.0, 1.34, 13, 5, True, 1, False, False),
    "zealot": UnitKind("z", 100, 50, 1, False, 0.5, 3.15, 0.1, 0.86, 8, 0, False, 2, False, False),
}
"""Points, map units, and seconds. Who towers walks over others, and collides with its like only."""
_LETTERS = {kind.letter: name for name, kind in UNITS.items()}


def scenario(name: str) -> dict[str, int]:
    """The units of each team, `{"colossus": 1, "stalker": 3, "zealot": 5}` for "1c3s5z".

    Raises:
        ValueError: not numbers with letters, an unknown letter, or one that comes twice.
    """
    parts = re.findall(r"([1-9]\d*)([a-z])", name)
    letters = [letter for _, letter in parts]
    if "".join(map("".join, parts)) != name or not parts or not set(letters) <= set(_LETTERS):
        known = ", ".join(f"{letter} ({unit})" for letter, unit in _LETTERS.items())
        raise ValueError(f"skirmish: expected a scenario such as 1c3s5z, of {known}, got {name!r}; count units so")
    if len(set(letters)) < len(letters):
        raise ValueError(f"skirmish: expected each kind of unit once in a scenario, got {name!r}; add their numbers")
    return {_LETTERS[letter]: int(count) for count, letter in parts}


@dataclass(frozen=True)
class SkirmishWorld:
    """The field, the time, and how many battles there are.

    Raises:
        ValueError: a size below its least value, a clip longer than a battle, substeps too coarse, or training
            scenarios that are unknown, too few to go round or too crowded for the map.
    """

    map_size: int = 32
    """side of the square map, map units"""
    num_steps: int = 100
    """steps of a trajectory; a battle that is over goes on with the survivors walking about"""
    seconds_per_step: float = 0.5
    """between two steps, in which orders stand"""
    substeps: int = 8
    """of the simulation in a step"""
    train_scenarios: tuple[str, ...] = ("1c3s5z", "3s5z", "2s5z")
    """of training and validation, in equal shares"""
    train_battles: int = 9_000
    """battles to train on, over all scenarios"""
    val_battles: int = 900
    """battles to validate on, over all scenarios"""
    test_battles: int = 1_000
    """battles to test on, of each scenario"""
    clip: int = 100
    """steps of a training clip, cut from a trajectory at random"""
    grid: PolarGrid = field(default_factory=PolarGrid)
    """how a unit sees it"""

    def __post_init__(self) -> None:
        if not self.train_scenarios:
            raise ValueError("SkirmishWorld: expected at least one of train_scenarios, got none; name some, e.g. 3s5z")
        shares = len(self.train_scenarios)
        for name, least in (
            ("map_size", 16), ("num_steps", 2), ("clip", 2), ("substeps", 1), ("train_battles", shares),
            ("val_battles", shares), ("test_battles", 1),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(
                    f"SkirmishWorld: expected {name} of at least {least}, got {getattr(self, name)}; take more"
                )
        if self.clip > self.num_steps:
            raise ValueError(
                f"SkirmishWorld: expected a clip of at most num_steps, {self.num_steps}, got {self.clip}; shorten it"
            )
        if not 0 < self.seconds_per_step <= self.substeps * _LONGEST_SUBSTEP:
            raise ValueError(
                f"SkirmishWorld: expected seconds_per_step in (0, {self.substeps * _LONGEST_SUBSTEP:g}] with "
                f"{self.substeps} substeps, got {self.seconds_per_step}; take more substeps"
            )
        for name in self.train_scenarios:
            _check_room(self, name, name)

    @property
    def side(self) -> float:
        """Of the square in which positions lie."""
        return float(self.map_size)

    def model_arguments(self) -> dict[str, Any]:
        """What a model of this world is made with, beside what every model is."""
        pixels = [self.grid.num_radii, self.grid.num_angles]
        shapes = {"value_shape": [CHANNELS, *pixels], "target_shape": [STATE, *pixels]}
        return {**shapes, "likelihood": "mixed", "codec": "polar"}

    def episodes(self, split: str, seed: int) -> Battles:
        """The whole batches of "train" or "val"."""
        return Battles(battles(self, split, seed), self.grid, self.clip, split == "train")


def _check_room(world: SkirmishWorld, own: str, other: str) -> None:
    counts = [item for name in (own, other) for item in scenario(name).items()]
    area = sum(count * math.pi * UNITS[kind].radius ** 2 for kind, count in counts)
    if area > world.map_size**2 / 10:
        raise ValueError(
            f"skirmish: expected units that cover at most a tenth of the map of {world.map_size} x {world.map_size}, "
            f"got {own} against {other}, which cover {area:.0f}; take fewer units or a map_size of "
            f"{math.ceil((10 * area) ** 0.5)}"
        )


PRESETS = {
    "paper": SkirmishWorld(),
    "small": SkirmishWorld(num_steps=64, clip=20, train_battles=3_000, val_battles=150, test_battles=100),
    "tiny": SkirmishWorld(num_steps=24, clip=8, train_battles=9, val_battles=3, test_battles=2),
}


def preset(name: str) -> SkirmishWorld:
    """The world of that name."""
    if name not in PRESETS:
        raise ValueError(f"skirmish: unknown preset {name!r}; choose from {', '.join(PRESETS)}")
    return PRESETS[name]


def battles(world: SkirmishWorld, split: str, seed: int, scenario: str | None = None) -> Trajectories:
    """The battles of a split, generated from the seed; no two splits share any.

    Args:
        world: how many, and how long.
        split: "train" or "val", over the training scenarios in equal shares, one after the other; or "test".
        seed: the same seed gives the same battles.
        scenario: of the test, for example "5s3z"; none in the other splits.

    Raises:
        ValueError: an unknown split, or a scenario too many, too few, or that is none.
    """
    sizes = {"train": world.train_battles, "val": world.val_battles, "test": world.test_battles}
    if split not in sizes:
        raise ValueError(f"skirmish: unknown split {split!r}; choose from {', '.join(sizes)}")
    if (split == "test") != (scenario is not None):
        raise ValueError(f"skirmish: expected a scenario with the test split and no other, got {scenario} with {split}")
    names = world.train_scenarios if scenario is None else (scenario,)
    parts = []
    for index, name in enumerate(names):
        share = (sizes[split] + index) // len(names)
        # Only 32 bits of a seed count.
        parts.append(simulate(world, name, share, zlib.crc32(f"{split} {seed} {index} {name}".encode())))
    return Trajectories.join(parts)


def simulate(
    world: SkirmishWorld, scenario: str, num_battles: int, seed: int, other: str | None = None
) -> Trajectories:
    """Battles between two teams of the same units, or against `other` units.

    Everything in a substep happens to both teams at once, and starts lie on an axis of random direction: nothing but
    the mark `friendly` tells the teams apart.

    Args:
        world: the field and the time.
        scenario: units of the friendly team, which come first.
        num_battles: N.
        seed: the same seed gives the same battles.
        other: units of the enemy, for example "1s2z"; the same as `scenario` unless given.

    Raises:
        ValueError: no battles, unknown units, or more of them than the map has room for.
    """
    if num_battles < 1:
        raise ValueError(f"skirmish: expected at least 1 battle, got {num_battles}; ask for more")
    _check_room(world, scenario, other or scenario)
    generator = torch.Generator().manual_seed(seed)
    slots = _slots(scenario, other or scenario)
    chunks = [min(_CHUNK, num_battles - start) for start in range(0, num_battles, _CHUNK)]
    played = [_play(world, slots, size, generator) for size in chunks]
    positions, alive, stats, actions = (torch.cat(parts) for parts in zip(*played, strict=True))
    return Trajectories(
        positions=positions,
        alive=alive,
        types=slots.types.expand(num_battles, -1).clone(),
        friendly=(slots.team == 0).expand(num_battles, -1).clone(),
        stats=stats,
        actions=actions,
        terrain=_terrain(world, num_battles, generator),
        scenario=torch.zeros(num_battles, dtype=torch.long),
        names=(scenario if other is None else f"{scenario}_vs_{other}",),
    )


class _Slots(NamedTuple):
    """The table spread over the U units of a battle, the same in every battle of a scenario."""

    types: Int[Tensor, " U"]
    team: Int[Tensor, " U"]
    enemy: Bool[Tensor, "U U"]
    health: Float[Tensor, " U"]
    shield: Float[Tensor, " U"]
    armour: Float[Tensor, " U"]
    radius: Float[Tensor, " U"]
    speed: Float[Tensor, " U"]
    reach: Float[Tensor, " U"]
    cooldown: Float[Tensor, " U"]
    hits: Int[Tensor, " U"]
    sweeps: Bool[Tensor, " U"]
    damage: Float[Tensor, "U U"]
    """of a hit of the row's unit on the column's, before armour"""
    apart: Float[Tensor, "U U"]
    """between centres of units that may not overlap, else 0"""


def _slots(own: str, other: str) -> _Slots:
    names = [[name for name, count in scenario(side).items() for _ in range(count)] for side in (own, other)]
    kinds = [UNITS[name] for side in names for name in side]
    columns = {name: torch.tensor([getattr(kind, name) for kind in kinds]) for name in UnitKind._fields[1:]}
    team = torch.tensor([0] * len(names[0]) + [1] * len(names[1]))
    extra = columns["bonus"][:, None] * (columns["pierces"][:, None] == columns["armoured"])
    collide = (columns["towers"][:, None] == columns["towers"]) & ~torch.eye(len(kinds), dtype=torch.bool)
    return _Slots(
        types=torch.tensor([UNIT_TYPES.index(name) for side in names for name in side]),
        team=team,
        enemy=team[:, None] != team,
        damage=(columns["damage"][:, None] + extra).float(),
        apart=(columns["radius"][:, None] + columns["radius"]) * collide,
        **{
            name: columns[name].float()
            for name in ("health", "shield", "armour", "radius", "speed", "reach", "cooldown")
        },
        **{name: columns[name] for name in ("hits", "sweeps")},
    )


@dataclass
class _Field:
    """What changes in N battles as they are played."""

    positions: Float[Tensor, "N U 2"]
    health: Float[Tensor, "N U"]
    shield: Float[Tensor, "N U"]
    cooldown: Float[Tensor, "N U"]
    unhurt: Float[Tensor, "N U"]
    """seconds since the last damage"""
    target: Int[Tensor, "N U"]
    """the enemy each unit is at, itself where there is none"""
    goal: Float[Tensor, "N 2 2"]
    """where each team goes while it sees no enemy"""


class _Orders(NamedTuple):
    attack: Bool[Tensor, "N U"]
    approach: Bool[Tensor, "N U"]
    velocity: Float[Tensor, "N U 2"]
    """of those who do not attack, map units a second"""
    delay: Float[Tensor, "N U"]
    """seconds by which a cooldown that starts now is longer than in the table"""


def _uniform(low: float, high: float, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(size, generator=generator)


def _play(world: SkirmishWorld, slots: _Slots, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Positions, alive, stats and actions of `size` battles, `(size, T, U, ...)`."""
    shape = (size, len(slots.types))
    now = _Field(
        positions=_starts(world, slots, size, generator),
        health=slots.health.repeat(size, 1),
        shield=slots.shield.repeat(size, 1),
        cooldown=torch.zeros(shape),
        unhurt=torch.full(shape, SHIELD_DELAY),
        target=torch.arange(shape[1]).expand(shape),
        goal=torch.full((size, 2, 2), world.map_size / 2),
    )
    temper = _temper(slots, size, generator)
    kept: tuple[list[Tensor], ...] = ([], [], [], [])
    for step in range(world.num_steps):
        alive = now.health > 0
        orders, actions = _orders(world, slots, now, temper, step, generator)
        stats = torch.stack([now.health, torch.zeros(shape), now.cooldown, now.shield], -1)
        for part, value in zip(kept, (now.positions, alive, stats * alive[..., None], actions), strict=True):
            part.append(value)
        for _ in range(world.substeps if step + 1 < world.num_steps else 0):
            _advance(world, slots, now, orders)
    return tuple(torch.stack(part, 1) for part in kept)


def _starts(world: SkirmishWorld, slots: _Slots, size: int, generator: torch.Generator) -> Float[Tensor, "N U 2"]:
    """Two crowds on opposite sides of a point near the centre, apart and spread by random amounts."""
    angle = _uniform(0, 2 * math.pi, (size, 1), generator)
    axis = torch.stack([angle.cos(), angle.sin()], -1) * (1 - 2 * slots.team[:, None])
    middle = world.map_size * _uniform(0.4, 0.6, (size, 1, 2), generator)
    away = world.map_size * _uniform(0.15, 0.25, (size, 1, 1), generator)
    count = torch.bincount(slots.team)[slots.team].sqrt()[:, None]
    spread = _uniform(0.7, 1.2, (size, 2, 1), generator)[:, slots.team] * count
    turn = _uniform(0, 2 * math.pi, (size, len(slots.team)), generator)
    within = _uniform(0, 1, (size, len(slots.team), 1), generator).sqrt()
    positions = middle + away * axis + spread * within * torch.stack([turn.cos(), turn.sin()], -1)
    everyone = torch.ones(positions.shape[:2], dtype=torch.bool)
    for _ in range(100):
        positions = _inside(world, slots, positions + _push(slots, positions, everyone))
    return positions


class _Temper(NamedTuple):
    """What makes units differ, drawn once for each battle."""

    wait: Float[Tensor, "N U"]
    """seconds a unit holds its place while nobody is near"""
    focus: Bool[Tensor, "N U"]
    """whether it shoots at the weakest enemy in range instead of the nearest"""
    kites: Bool[Tensor, "N U"]
    """whether it steps back from an enemy while its weapon cools down; ranged units only"""
    courage: Float[Tensor, "N U"]
    """the share of health and shield below which it keeps away from enemies; 0 for melee"""
    place: Float[Tensor, "N U 2"]
    """where it walks relative to its team's goal"""


def _temper(slots: _Slots, size: int, generator: torch.Generator) -> _Temper:
    shape, ranged = (size, len(slots.team)), slots.reach > 1
    team_wait = _uniform(-2, 2, (size, 2), generator).clamp(min=0)[:, slots.team]
    team_focus = _uniform(0, 1, (size, 2), generator)[:, slots.team]
    spread = len(slots.team) ** 0.5
    return _Temper(
        wait=team_wait + _uniform(0, 0.5, shape, generator),
        focus=_uniform(0, 1, shape, generator) < team_focus,
        kites=ranged & (_uniform(0, 1, shape, generator) < 0.5),
        courage=ranged * _uniform(-0.4, 0.4, shape, generator).clamp(min=0),
        place=_uniform(-spread, spread, (*shape, 2), generator),
    )


def _orders(
    world: SkirmishWorld, slots: _Slots, now: _Field, temper: _Temper, step: int, generator: torch.Generator
) -> tuple[_Orders, Int[Tensor, "N U"]]:
    """What each unit does in the next step, and its name in `ACTIONS`: the same policy for both teams.

    Attack an enemy in range, else walk to the nearest that the team sees, else to where enemies were last seen, and
    about the map. Ranged units step back from who comes close, at times; the hurt keep away; some wait at the start.
    """
    alive = now.health > 0
    offset = now.positions[:, None] - now.positions[:, :, None]
    distance = offset.norm(dim=-1)
    gap = distance - slots.radius[:, None] - slots.radius
    facing = slots.enemy & alive[:, :, None] & alive[:, None]
    seen = (facing & (distance <= SIGHT)).any(1)
    gap = torch.where(facing & seen[:, None], gap, math.inf)
    in_range = gap <= slots.reach[:, None] + SLACK
    vigour = now.health + now.shield
    choice = torch.where(temper.focus[:, :, None], vigour[:, None] / 20, gap)
    choice = torch.where(in_range, choice - 1_000, gap)
    # Whom a unit is at, it leaves only for a clearly better one.
    choice = choice - (now.target[..., None] == torch.arange(gap.shape[-1])).float()
    nearest, threat = gap.min(-1)
    met = nearest < math.inf
    now.target = torch.where(met, choice.argmin(-1), torch.arange(gap.shape[-1]))

    _set_goals(world, slots, now, seen & alive, generator)
    goal = (now.goal[:, slots.team] + temper.place).clamp(1, world.map_size - 1)
    towards = torch.where(met[..., None], _pick(now.positions, now.target), goal) - now.positions
    away = now.positions - _pick(now.positions, threat)
    reach_of_step = slots.speed[:, None] * world.seconds_per_step
    refuge = now.positions + reach_of_step * torch.nn.functional.normalize(away, dim=-1)
    free = ((refuge > 1) & (refuge < world.map_size - 1)).all(-1)
    hurt = vigour < temper.courage * (slots.health + slots.shield)
    cooling = temper.kites & (now.cooldown > world.seconds_per_step)
    flee = alive & free & ((hurt & (nearest < 4)) | (cooling & (nearest < 2)))
    attack = alive & in_range.any(-1) & ~flee
    waits = (step * world.seconds_per_step < temper.wait) & (nearest > 3) & (vigour == slots.health + slots.shield)
    arrived = ~met & (towards.norm(dim=-1) < 0.5)
    moves = alive & ~attack & (flee | ~(waits | arrived))

    heading = torch.nn.functional.normalize(torch.where(flee[..., None], away, towards), dim=-1)
    swerve = 0.15 * torch.randn(alive.shape, generator=generator)
    heading = torch.stack([
        heading[..., 0] * swerve.cos() - heading[..., 1] * swerve.sin(),
        heading[..., 0] * swerve.sin() + heading[..., 1] * swerve.cos(),
    ], -1)  # fmt: skip
    pace = torch.where(met, slots.speed, slots.speed.minimum(towards.norm(dim=-1) / world.seconds_per_step))
    east, north = heading.unbind(-1)
    compass = torch.where(
        east.abs() > north.abs(),
        torch.where(east > 0, ACTIONS.index("east"), ACTIONS.index("west")),
        torch.where(north > 0, ACTIONS.index("north"), ACTIONS.index("south")),
    )
    actions = torch.where(moves, compass, ACTIONS.index("stop"))
    actions = torch.where(attack, ACTIONS.index("attack"), actions).where(alive, ACTIONS.index("no-op"))
    velocity, delay = heading * (pace * moves)[..., None], _uniform(0, LONGEST_DELAY, tuple(alive.shape), generator)
    return _Orders(attack, moves & met & ~flee, velocity, delay), actions


def _set_goals(
    world: SkirmishWorld, slots: _Slots, now: _Field, seen: Bool[Tensor, "N U"], generator: torch.Generator
) -> None:
    """Where enemies are seen; else, for a team that is there, a place drawn at random; in place."""
    sides = torch.stack([slots.team == 0, slots.team == 1])

    def middle(of: Bool[Tensor, "N 2 U"]) -> Tensor:
        return of.float() @ now.positions / of.sum(-1, keepdim=True).clamp(min=1)

    foes = seen[:, None] & ~sides
    mates = (now.health > 0)[:, None] & sides
    there = (middle(mates) - now.goal).norm(dim=-1, keepdim=True) < 2
    anywhere = _uniform(2, world.map_size - 2, tuple(now.goal.shape), generator)
    now.goal = torch.where(foes.any(-1, keepdim=True), middle(foes), torch.where(there, anywhere, now.goal))


def _advance(world: SkirmishWorld, slots: _Slots, now: _Field, orders: _Orders) -> None:
    """One substep, in place: hits of both teams at once, then everyone moves."""
    seconds = world.seconds_per_step / world.substeps
    alive = now.health > 0
    offset = _pick(now.positions, now.target) - now.positions
    distance = offset.norm(dim=-1)
    gap = distance - slots.radius - slots.radius[now.target]
    fires = orders.attack & alive & (gap <= slots.reach + SLACK) & (now.cooldown <= 0)
    fires &= now.health.gather(1, now.target) > 0
    before = now.health + now.shield
    battle, attacker, victim = _hits(slots, now, fires)
    now.health, now.shield = _strike(slots, now.health, now.shield, battle, attacker, victim)
    struck = now.health + now.shield < before
    now.unhurt = torch.where(struck, 0.0, now.unhurt + seconds)
    healed = (now.shield + SHIELD_RATE * seconds).minimum(slots.shield)
    now.shield = torch.where(now.unhurt > SHIELD_DELAY, healed, now.shield)
    now.cooldown = torch.where(fires, slots.cooldown + orders.delay, now.cooldown - seconds).clamp(min=0)

    alive = now.health > 0
    chase = offset * (slots.speed / distance.clamp(min=1e-6))[..., None]
    velocity = torch.where(orders.attack[..., None], chase, orders.velocity)
    # Who walks up to an enemy, or is in a fight, stops in range.
    stand = (orders.attack | orders.approach) & (gap <= slots.reach)
    walk = velocity * (alive & ~stand)[..., None] * seconds
    step = walk + _push(slots, now.positions + walk, alive)
    longest = slots.speed * seconds * alive
    step = step * (longest / step.norm(dim=-1).clamp(min=1e-6)).clamp(max=1)[..., None]
    now.positions = _settle(slots, now.positions, _inside(world, slots, now.positions + step), alive)


def _hits(slots: _Slots, now: _Field, fires: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Who is hit in this substep: of each hit the battle, the attacker and the victim, `(E,)` each.

    A lance hits its target, and every enemy whose body touches the line across its target.
    """
    battle, attacker = fires.nonzero(as_tuple=True)
    target = now.target[battle, attacker]
    struck = target[:, None] == torch.arange(len(slots.team))
    lances = slots.sweeps[attacker].nonzero()[:, 0]
    rows = battle[lances]
    place = now.positions[rows, target[lances]]
    ray = torch.nn.functional.normalize(place - now.positions[rows, attacker[lances]], dim=-1)
    offset = now.positions[rows] - place[:, None]
    along = (offset @ ray[..., None])[..., 0]
    across = offset[..., 0] * ray[:, 1:] - offset[..., 1] * ray[:, :1]
    swept = (along**2 + (across.abs() - SPLASH).clamp(min=0) ** 2) <= slots.radius**2
    struck[lances] |= swept & slots.enemy[attacker[lances]] & (now.health[rows] > 0)
    event, victim = struck.nonzero(as_tuple=True)
    repeats = slots.hits[attacker[event]]
    event, victim = event.repeat_interleave(repeats), victim.repeat_interleave(repeats)
    return battle[event], attacker[event], victim


def _strike(
    slots: _Slots, health: Tensor, shield: Tensor,
    battle: Tensor, attacker: Tensor, victim: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Health and shield, `(N, U)`, after these hits, `(E,)`, as if one after the other.

    A shield takes all it can of a hit; what is left, less the armour but at least `LEAST_DAMAGE`, is taken from the
    health. The order matters only in which of a team's hits breaks a shield.
    """
    key, order = (battle * health.shape[1] + victim).sort(stable=True)
    damage = slots.damage[attacker, victim][order]
    before = damage.cumsum(0) - damage
    before = before - before[torch.searchsorted(key, key)]
    left = (shield.flatten()[key] - before).clamp(min=0)
    through = (damage - left).clamp(min=0)
    pierced = (through - slots.armour[victim[order]]).clamp(min=LEAST_DAMAGE) * (through > 0)
    health = health.flatten().index_add(0, key, -pierced).clamp(min=0).view_as(health)
    shield = shield.flatten().index_add(0, key, -damage.minimum(left)).clamp(min=0).view_as(shield)
    return health, shield


def _squared(positions: Tensor, alive: Tensor) -> Tensor:
    """Squared distances between units, `(N, U, U)`; the dead are far away, each by itself."""
    x = torch.where(alive, positions[..., 0], -1e3 * torch.arange(1, alive.shape[1] + 1))
    y = positions[..., 1].contiguous()
    return (x[:, :, None] - x[:, None]).square_().add_((y[:, :, None] - y[:, None]).square_())


def _push(slots: _Slots, positions: Tensor, alive: Tensor) -> Tensor:
    """How far, `(N, U, 2)`, each unit is pushed off those it overlaps: half of it each, and a little sideways."""
    distance = _squared(positions, alive).sqrt_()
    weight = (slots.apart - distance).clamp_(min=0).div_(distance.mul_(2).add_(1e-3))
    off = positions * weight.sum(-1, keepdim=True) - weight @ positions
    # The sideways part lets those behind walk round those in front.
    return torch.stack([off[..., 0] + 0.3 * off[..., 1], off[..., 1] - 0.3 * off[..., 0]], -1)


def _settle(slots: _Slots, before: Tensor, after: Tensor, alive: Tensor) -> Tensor:
    """The positions after a substep, `(N, U, 2)`; who would overlap more than `MAX_OVERLAP` stays put."""
    closest = (slots.apart - MAX_OVERLAP).clamp(min=0).square()
    crowded = (_squared(after, alive) < closest).any(-1) & (after != before).any(-1)
    while crowded.any():
        after = torch.where(crowded[..., None], before, after)
        rows = crowded.any(-1).nonzero()[:, 0]
        # Who stays may now be in the way of another.
        crowded = torch.zeros_like(crowded)
        again = (_squared(after[rows], alive[rows]) < closest).any(-1)
        crowded[rows] = again & (after[rows] != before[rows]).any(-1)
    return after


def _inside(world: SkirmishWorld, slots: _Slots, positions: Tensor) -> Tensor:
    radius = slots.radius[:, None]
    return positions.maximum(radius).minimum(world.map_size - radius)


def _pick(of_units: Tensor, units: Tensor) -> Tensor:
    return of_units.gather(1, units[..., None].expand(-1, -1, 2))


def _terrain(world: SkirmishWorld, size: int, generator: torch.Generator) -> Float[Tensor, "N H W"]:
    """Smooth heights from 0 to 1, which have no effect on play."""
    coarse = torch.rand(size, 1, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(world.map_size,) * 2, mode="bicubic")[:, 0]
    low, high = smooth.amin((1, 2), keepdim=True), smooth.amax((1, 2), keepdim=True)
    return (smooth - low) / (high - low)
