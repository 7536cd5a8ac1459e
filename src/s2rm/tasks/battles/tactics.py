"""The one scripted policy that both teams of a skirmish follow."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.tasks.battles.fighting import SLACK, Battlefield, Orders, Slots, pick, uniform
from s2rm.tasks.battles.trajectories import ACTIONS

SIGHT = 9.0
"""map units between centres; what one unit sees, its team knows"""
LONGEST_DELAY = 1 / 8
"""seconds, at random, that a cooldown may take longer than in the table, as in the game"""


class Temper(NamedTuple):
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


def draw_tempers(slots: Slots, size: int, generator: torch.Generator) -> Temper:
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
    slots: Slots,
    now: Battlefield,
    temper: Temper,
    side: float,
    seconds: float,
    elapsed: float,
    generator: torch.Generator,
) -> tuple[Orders, Int[Tensor, "N U"]]:
    """What each unit does in the next step, and its name in `ACTIONS`: the same policy for both teams.

    Attack an enemy in range, else walk to the nearest that the team sees, else to where enemies were last seen, and
    about the map. Ranged units step back from who comes close, at times; the hurt keep away; some wait at the start.

    `side` is that of the map; orders stand for so many seconds, and as many have `elapsed` since the start.
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

    heading = torch.nn.functional.normalize(torch.where(flee[..., None], away, towards), dim=-1)
    swerve = 0.15 * torch.randn(alive.shape, generator=generator)
    heading = torch.stack([
        heading[..., 0] * swerve.cos() - heading[..., 1] * swerve.sin(),
        heading[..., 0] * swerve.sin() + heading[..., 1] * swerve.cos(),
    ], -1)  # fmt: skip
    pace = torch.where(met, slots.speed, slots.speed.minimum(towards.norm(dim=-1) / seconds))
    east, north = heading.unbind(-1)
    compass = torch.where(
        east.abs() > north.abs(),
        torch.where(east > 0, ACTIONS.index("east"), ACTIONS.index("west")),
        torch.where(north > 0, ACTIONS.index("north"), ACTIONS.index("south")),
    )
    actions = torch.where(moves, compass, ACTIONS.index("stop"))
    actions = torch.where(attack, ACTIONS.index("attack"), actions).where(alive, ACTIONS.index("no-op"))
    velocity, delay = heading * (pace * moves)[..., None], uniform(0, LONGEST_DELAY, tuple(alive.shape), generator)
    return Orders(attack, moves & met & ~flee, velocity, delay), actions


def _set_goals(
    slots: Slots, now: Battlefield, seen: Bool[Tensor, "N U"], side: float, generator: torch.Generator
) -> None:
    """Where enemies are seen; else, for a team that is there, a place drawn at random; in place."""
    sides = torch.stack([slots.team == 0, slots.team == 1])

    def middle(of: Bool[Tensor, "N 2 U"]) -> Tensor:
        return of.float() @ now.positions / of.sum(-1, keepdim=True).clamp(min=1)

    foes = seen[:, None] & ~sides
    mates = (now.health > 0)[:, None] & sides
    there = (middle(mates) - now.goal).norm(dim=-1, keepdim=True) < 2
    anywhere = uniform(2, side - 2, tuple(now.goal.shape), generator)
    now.goal = torch.where(foes.any(-1, keepdim=True), middle(foes), torch.where(there, anywhere, now.goal))
