"""The scripted policy that both teams of a skirmish follow."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.tasks.battles.fighting import SLACK, Battlefield, Orders, Slots, pick, uniform
from s2rm.tasks.battles.trajectories import ACTIONS

SIGHT = 9.0
"""map units between centres; a team knows what any of its units sees"""
LONGEST_DELAY = 1 / 8
"""seconds, at random, by which a cooldown is longer than in `UNITS`, as in the game"""


class Temper(NamedTuple):
    """How units differ in their behaviour, drawn once for each battle."""

    wait: Float[Tensor, "N U"]
    """seconds for which a unit holds its place while nobody is near"""
    focus: Bool[Tensor, "N U"]
    """whether it attacks the weakest enemy in range instead of the nearest"""
    kites: Bool[Tensor, "N U"]
    """whether it steps back from an enemy while its weapon cools down; ranged units only"""
    courage: Float[Tensor, "N U"]
    """the share of health and shield below which it retreats from enemies; 0 for melee units"""
    place: Float[Tensor, "N U 2"]
    """where it walks relative to its team's goal, map units"""


def draw_tempers(slots: Slots, size: int, generator: torch.Generator) -> Temper:
    """The tempers of the units of `size` battles."""
    shape, ranged = (size, len(slots.team)), slots.reach > 1
    team_wait = uniform(-2, 2, (size, 2), generator).clamp(min=0)[:, slots.team]
    team_focus = uniform(0, 1, (size, 2), generator)[:, slots.team]
    spread = len(slots.team) ** 0.5
    return Temper(
        wait=team_wait + uniform(0, 0.5, shape, generator),
        focus=uniform(0, 1, shape, generator) < team_focus,
        kites=ranged & (uniform(0, 1, shape, generator) < 0.5),
        courage=ranged * uniform(-0.4, 0.4, shape, generator).clamp(min=0),
        place=uniform(-spread, spread, (*shape, 2), generator),
    )


def give_orders(
    slots: Slots, now: Battlefield, temper: Temper, side: float, seconds: float, elapsed: float,
    generator: torch.Generator,
) -> tuple[Orders, Int[Tensor, "N U"]]:  # fmt: skip
    """Order what each unit does in the next step; the same policy for both teams.

    A unit attacks an enemy in range, else walks to the nearest that its team sees, else to where enemies were last
    seen, and about the map. Some ranged units step back from enemies that come close; badly hurt units retreat; some
    wait at the start. Orders stand for some seconds; `elapsed` are the seconds since the start. Targets and goals are
    set in `now`; goals, swerves and delays are drawn.

    Returns:
        The orders, and each unit's action, an index of `ACTIONS`.
    """
    alive = now.health > 0
    gap, seen = _gaps(slots, now)
    in_range = gap <= slots.reach[:, None] + SLACK
    vigour = now.health + now.shield
    choice = torch.where(temper.focus[:, :, None], vigour[:, None] / 20, gap)
    choice = torch.where(in_range, choice - 1_000, gap)
    # A unit leaves its target only for a clearly better one.
    choice = choice - (now.target[..., None] == torch.arange(gap.shape[-1])).float()
    nearest, threat = gap.min(-1)
    met = nearest < math.inf
    now.target = torch.where(met, choice.argmin(-1), torch.arange(gap.shape[-1]))

    _set_goals(slots, now, seen & alive, side, generator)
    goal = (now.goal[:, slots.team] + temper.place).clamp(1, side - 1)
    towards = torch.where(met[..., None], pick(now.positions, now.target), goal) - now.positions
    away = now.positions - pick(now.positions, threat)
    reach_of_step = slots.speed[:, None] * seconds
    refuge = now.positions + reach_of_step * torch.nn.functional.normalize(away, dim=-1)
    free = ((refuge > 1) & (refuge < side - 1)).all(-1)
    hurt = vigour < temper.courage * (slots.health + slots.shield)
    cooling = temper.kites & (now.cooldown > seconds)
    flee = alive & free & ((hurt & (nearest < 4)) | (cooling & (nearest < 2)))
    attack = alive & in_range.any(-1) & ~flee
    waits = (elapsed < temper.wait) & (nearest > 3) & (vigour == slots.health + slots.shield)
    arrived = ~met & (towards.norm(dim=-1) < 0.5)
    moves = alive & ~attack & (flee | ~(waits | arrived))

    heading = _swerved(torch.nn.functional.normalize(torch.where(flee[..., None], away, towards), dim=-1), generator)
    pace = torch.where(met, slots.speed, slots.speed.minimum(towards.norm(dim=-1) / seconds))
    actions = torch.where(moves, _compass(heading), ACTIONS.index("stop"))
    actions = torch.where(attack, ACTIONS.index("attack"), actions).where(alive, ACTIONS.index("no-op"))
    velocity, delay = heading * (pace * moves)[..., None], uniform(0, LONGEST_DELAY, tuple(alive.shape), generator)
    return Orders(attack, moves & met & ~flee, velocity, delay), actions


def _gaps(slots: Slots, now: Battlefield) -> tuple[Float[Tensor, "N U U"], Bool[Tensor, "N U"]]:
    """The gap between the bodies of each unit and each enemy that its team sees, else infinity; and who is seen."""
    alive = now.health > 0
    offset = now.positions[:, None] - now.positions[:, :, None]
    distance = offset.norm(dim=-1)
    gap = distance - slots.radius[:, None] - slots.radius
    facing = slots.enemy & alive[:, :, None] & alive[:, None]
    seen = (facing & (distance <= SIGHT)).any(1)
    return torch.where(facing & seen[:, None], gap, math.inf), seen


def _swerved(heading: Float[Tensor, "N U 2"], generator: torch.Generator) -> Float[Tensor, "N U 2"]:
    """Headings turned by random angles of 0.15 radians standard deviation."""
    swerve = 0.15 * torch.randn(heading.shape[:2], generator=generator)
    east, north = heading.unbind(-1)
    return torch.stack([east * swerve.cos() - north * swerve.sin(), east * swerve.sin() + north * swerve.cos()], -1)


def _compass(heading: Float[Tensor, "N U 2"]) -> Int[Tensor, "N U"]:
    """The actions whose directions are nearest to the headings."""
    east, north = heading.unbind(-1)
    along = torch.where(east > 0, ACTIONS.index("east"), ACTIONS.index("west"))
    across = torch.where(north > 0, ACTIONS.index("north"), ACTIONS.index("south"))
    return torch.where(east.abs() > north.abs(), along, across)


def _set_goals(slots: Slots, now: Battlefield, seen: Tensor, side: float, generator: torch.Generator) -> None:
    """Set each team's goal: the middle of the enemies that it sees, else, once it has arrived, a random place."""
    sides = torch.stack([slots.team == 0, slots.team == 1])

    def middle(of: Bool[Tensor, "N 2 U"]) -> Tensor:
        return of.float() @ now.positions / of.sum(-1, keepdim=True).clamp(min=1)

    foes = seen[:, None] & ~sides
    mates = (now.health > 0)[:, None] & sides
    there = (middle(mates) - now.goal).norm(dim=-1, keepdim=True) < 2
    anywhere = uniform(2, side - 2, tuple(now.goal.shape), generator)
    now.goal = torch.where(foes.any(-1, keepdim=True), middle(foes), torch.where(there, anywhere, now.goal))
