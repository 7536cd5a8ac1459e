"""The mechanics of a skirmish: statistics of the units, hits, shields, movement and collisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.tasks.battles.trajectories import UNIT_TYPES

SHIELD_DELAY, SHIELD_RATE = 10 / 1.4, 2 * 1.4
"""seconds without damage until shields recharge, and points a second; 10 and 2 at the game's "Normal" speed"""
LEAST_DAMAGE = 0.5
"""of a hit that passes the shield, whatever the armour"""
SPLASH = 1.4
"""map units by which a lance sweeps to either side of its target, across the line of fire"""
SLACK = 0.1
"""map units beyond its reach within which a unit still hits, so that being pushed does not stop a melee"""
MAX_OVERLAP = 0.25
"""map units by which units that collide overlap at most"""


class UnitKind(NamedTuple):
    """Statistics of a type of unit: points, map units, and seconds.

    Damage is per hit; the bonus applies against armoured units if `pierces`, else against light ones. A unit that
    `towers` walks over the others, and collides only with units that do so too.
    """

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
    "colossus": UnitKind(200.0, 150.0, 1.0, True, 1.0, 3.15, 7.0, 1.07, 10.0, 5.0, False, 2, True, True),
    "stalker": UnitKind(80.0, 80.0, 1.0, True, 0.625, 4.13, 6.0, 1.34, 13.0, 5.0, True, 1, False, False),
    "zealot": UnitKind(100.0, 50.0, 1.0, False, 0.5, 3.15, 0.1, 0.86, 8.0, 0.0, False, 2, False, False),
}


class Slots(NamedTuple):
    """The statistics of the U units of a battle, the same in every battle of a scenario."""

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
    """of a hit by the row's unit on the column's, before armour"""
    apart: Float[Tensor, "U U"]
    """the sum of the radii of two units that collide, else 0"""


def line_up(own: Sequence[str], other: Sequence[str]) -> Slots:
    """The statistics of the units of both teams, by the names of their types; the friendly team comes first."""
    kinds = [UNITS[name] for name in (*own, *other)]
    columns = {name: torch.tensor([getattr(kind, name) for kind in kinds]) for name in UnitKind._fields}
    team = torch.tensor([0] * len(own) + [1] * len(other))
    extra = columns["bonus"][:, None] * (columns["pierces"][:, None] == columns["armoured"])
    collide = (columns["towers"][:, None] == columns["towers"]) & ~torch.eye(len(kinds), dtype=torch.bool)
    apart = (columns["radius"][:, None] + columns["radius"]) * collide
    columns["damage"] = columns["damage"][:, None] + extra
    types = torch.tensor([UNIT_TYPES.index(name) for name in (*own, *other)])
    same = {name: columns[name] for name in Slots._fields if name in columns}
    return Slots(types=types, team=team, enemy=team[:, None] != team, apart=apart, **same)


@dataclass
class Battlefield:
    """The state of N battles at one moment."""

    positions: Float[Tensor, "N U 2"]
    health: Float[Tensor, "N U"]
    shield: Float[Tensor, "N U"]
    cooldown: Float[Tensor, "N U"]
    unhurt: Float[Tensor, "N U"]
    """seconds since the last damage"""
    target: Int[Tensor, "N U"]
    """the enemy that each unit has chosen, the unit itself where there is none"""
    goal: Float[Tensor, "N 2 2"]
    """the place to which each team walks while it sees no enemy"""


class Orders(NamedTuple):
    """What units are ordered to do during one step."""

    attack: Bool[Tensor, "N U"]
    approach: Bool[Tensor, "N U"]
    """whether a unit walks towards its target, and stops within reach of it"""
    velocity: Float[Tensor, "N U 2"]
    """of the units that do not attack, map units a second"""
    delay: Float[Tensor, "N U"]
    """seconds by which a cooldown that starts now is longer than in `UNITS`"""


def uniform(low: float, high: float, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Numbers drawn uniformly from an interval."""
    return low + (high - low) * torch.rand(size, generator=generator)


def starts(slots: Slots, side: float, size: int, generator: torch.Generator) -> Float[Tensor, "N U 2"]:
    """Positions of two crowds on opposite sides of a point near the map's centre, at a random distance and spread."""
    angle = uniform(0, 2 * math.pi, (size, 1), generator)
    axis = torch.stack([angle.cos(), angle.sin()], -1) * (1 - 2 * slots.team[:, None])
    middle = side * uniform(0.4, 0.6, (size, 1, 2), generator)
    away = side * uniform(0.15, 0.25, (size, 1, 1), generator)
    count = torch.bincount(slots.team)[slots.team].sqrt()[:, None]
    spread = uniform(0.7, 1.2, (size, 2, 1), generator)[:, slots.team] * count
    turn = uniform(0, 2 * math.pi, (size, len(slots.team)), generator)
    within = uniform(0, 1, (size, len(slots.team), 1), generator).sqrt()
    positions = middle + away * axis + spread * within * torch.stack([turn.cos(), turn.sin()], -1)
    everyone = torch.ones(positions.shape[:2], dtype=torch.bool)
    for _ in range(100):
        positions = _inside(slots, side, positions + _push(slots, positions, everyone))
    return positions


def advance(slots: Slots, now: Battlefield, orders: Orders, side: float, seconds: float) -> None:
    """Advance battles by a substep of some seconds, in place: the hits of both teams at once, then everybody moves."""
    alive = now.health > 0
    offset = pick(now.positions, now.target) - now.positions
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
    # A unit that walks up to an enemy, or is in a fight, stops within reach.
    stand = (orders.attack | orders.approach) & (gap <= slots.reach)
    walk = velocity * (alive & ~stand)[..., None] * seconds
    step = walk + _push(slots, now.positions + walk, alive)
    longest = slots.speed * seconds * alive
    step = step * (longest / step.norm(dim=-1).clamp(min=1e-6)).clamp(max=1)[..., None]
    now.positions = _settle(slots, now.positions, _inside(slots, side, now.positions + step), alive)


def _hits(slots: Slots, now: Battlefield, fires: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The hits of a substep: the battle, the attacker and the victim of each of the E hits, `(E,)` each.

    A colossus's lance hits its target, and every enemy whose body touches a segment of `2 SPLASH` through the target,
    across the line of fire.
    """
    battle, attacker = fires.nonzero(as_tuple=True)
    target = now.target[battle, attacker]
    struck = target[:, None] == torch.arange(len(slots.team))
    lances = slots.sweeps[attacker].nonzero()[:, 0]
    rows = battle[lances]
    place = now.positions[rows, target[lances]]
    ray = torch.nn.functional.normalize(place - now.positions[rows, attacker[lances]], dim=-1)
    # Distance of each unit's centre from the segment: `along` the ray, and `across` beyond the segment's ends.
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
    slots: Slots, health: Tensor, shield: Tensor, battle: Tensor, attacker: Tensor, victim: Tensor
) -> tuple[Tensor, Tensor]:
    """Health and shield, `(N, U)`, after E hits, `(E,)`, as if they landed one after the other.

    A shield absorbs all it can of a hit; the rest, less the armour but at least `LEAST_DAMAGE`, is taken from the
    health. The order of hits only decides which of them breaks a shield.
    """
    # Hits sorted by victim; `before` is the damage of the earlier hits on the same victim, so that the shield left for
    # each hit is max(shield - before, 0) and no loop over hits is needed.
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


def _push(slots: Slots, positions: Tensor, alive: Tensor) -> Tensor:
    """The offsets `(N, U, 2)` that push overlapping units apart: half of the overlap each, and a little sideways."""
    distance = _squared(positions, alive).sqrt_()
    weight = (slots.apart - distance).clamp_(min=0).div_(distance.mul_(2).add_(1e-3))
    off = positions * weight.sum(-1, keepdim=True) - weight @ positions
    # The sideways part lets units walk around those in front of them.
    return torch.stack([off[..., 0] + 0.3 * off[..., 1], off[..., 1] - 0.3 * off[..., 0]], -1)


def _settle(slots: Slots, before: Tensor, after: Tensor, alive: Tensor) -> Tensor:
    """The positions after a substep, `(N, U, 2)`; units that would overlap by more than `MAX_OVERLAP` stay."""
    closest = (slots.apart - MAX_OVERLAP).clamp(min=0).square()
    crowded = (_squared(after, alive) < closest).any(-1) & (after != before).any(-1)
    while crowded.any():
        after = torch.where(crowded[..., None], before, after)
        rows = crowded.any(-1).nonzero()[:, 0]
        # A unit that stays may now be in the way of another.
        crowded = torch.zeros_like(crowded)
        again = (_squared(after[rows], alive[rows]) < closest).any(-1)
        crowded[rows] = again & (after[rows] != before[rows]).any(-1)
    return after


def _inside(slots: Slots, side: float, positions: Tensor) -> Tensor:
    """Positions `(N, U, 2)`, moved so that whole units lie on the map."""
    radius = slots.radius[:, None]
    return positions.maximum(radius).minimum(side - radius)


def pick(of_units: Float[Tensor, "N U 2"], units: Int[Tensor, "N U"]) -> Float[Tensor, "N U 2"]:
    """The rows of `of_units` that `units` index, in each battle."""
    return of_units.gather(1, units[..., None].expand(-1, -1, 2))
