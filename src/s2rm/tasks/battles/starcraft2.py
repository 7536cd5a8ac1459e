"""Battles of StarCraft II, played through SMAC or SMACv2: the scenarios of the S2RM paper (appendix B.1).

Neither the game nor these packages come with s2rm: `collect` plays an environment that the user has made. What this
module assumes of them is from the repositories oxwhirl/smac and oxwhirl/smacv2 (`env/starcraft2/starcraft2.py`,
`wrapper.py`) and from `raw.proto` of Blizzard/s2client-proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from s2rm.tasks.battles.trajectories import ACTIONS, LETTERS, STATS, UNIT_TYPES, Trajectories, team
from s2rm.tasks.worlds import Progress, at_least

Unit = Any
"""the game's message of a unit, with `unit_type`, `pos.x` and `pos.y` (map units), `health`, `health_max`, `energy`,
`shield` and `weapon_cooldown` (game loops)"""
Environment = Any
"""SMAC's or SMACv2's; `collect` refuses one that lacks what it needs"""

LOOPS_PER_SECOND = 22.4
"""game loops in a second at the speed "Faster"; the game counts weapon cooldown in loops"""
GAME_IDS = {
    "colossus": 4, "stalker": 74, "zealot": 73, "marine": 48, "marauder": 51, "medivac": 54, "zergling": 105,
    "baneling": 9, "hydralisk": 107,
}  # fmt: skip
"""the game's numbers of unit types; SMAC's maps give the agents types of their own, which the environment lists"""
_TRIES = 3

Policy = Callable[[Environment, torch.Generator], Sequence[int]]


def capability_config(scenario: str) -> dict[str, object]:
    """The `capability_config` of SMACv2's `StarCraft2Env(map_name="10gen_protoss", ...)` for a scenario."""
    size = len(team(scenario))
    return {"team_gen": {"n_units": size, "n_enemies": size, "observe": True}, "start_positions": {}}


def episode_config(scenario: str, generator: torch.Generator) -> dict[str, dict[str, object]]:
    """The argument of SMACv2's `reset(episode_config)` that spawns mirrored teams, as two crowds at random places."""
    units, side = team(scenario), 32.0  # map units, of all maps of SMACv2
    middle = side * (torch.tensor([0.15, 0.25]) + torch.tensor([0.2, 0.5]) * torch.rand(2, generator=generator))
    spread = len(units) ** 0.5 * (2 * torch.rand(len(units), 2, generator=generator) - 1)
    own = (middle + spread).clamp(2, side - 2)
    own[:, 0] = own[:, 0].clamp(max=side / 2 - 1)
    other = torch.stack([side - own[:, 0], own[:, 1]], -1)
    return {
        "team_gen": {"ally_team": units, "enemy_team": list(units), "id": 0},
        "ally_start_positions": {"item": own.double().numpy(), "id": 0},
        "enemy_start_positions": {"item": other.double().numpy(), "id": 0},
    }


def heuristic(environment: Environment, generator: torch.Generator) -> list[int]:
    """The default policy: attack the nearest enemy in range, else walk towards the nearest living one, else stop.

    A unit walks north, south, east or west; of two directions that lead to the enemy one is drawn, with probabilities
    in proportion to the distances along them. Medivacs heal the nearest hurt unit in range, else walk towards it.
    """
    kinds, first = _kinds(environment), environment.n_actions_no_attack
    actions = []
    for agent, unit in sorted(environment.agents.items()):
        if unit.health <= 0:
            actions.append(0)
            continue
        able = environment.get_avail_agent_actions(agent)
        heals = kinds.get(unit.unit_type) == "medivac"
        others = [
            ((other.pos.x - unit.pos.x) ** 2 + (other.pos.y - unit.pos.y) ** 2, number, other)
            for number, other in (environment.agents if heals else environment.enemies).items()
            if other.health > 0
            and not (heals and (other.health >= other.health_max or kinds.get(other.unit_type) == "medivac"))
        ]
        others.sort(key=lambda other: other[:2])
        in_reach = [first + number for _, number, _ in others if first + number < len(able) and able[first + number]]
        if in_reach:
            actions.append(in_reach[0])
        else:
            actions.append(_towards(unit, others[0][2], able, generator) if others else 1)
    return actions


def _towards(unit: Unit, other: Unit, able: Sequence[int], generator: torch.Generator) -> int:
    """The action that moves one unit towards another, or stop."""
    east, north = other.pos.x - unit.pos.x, other.pos.y - unit.pos.y
    ways = [(abs(north), 2 if north > 0 else 3), (abs(east), 4 if east > 0 else 5)]
    ways = [(length, action) for length, action in ways if length > 0 and able[action]]
    if not ways:
        return 1
    chosen = torch.multinomial(torch.tensor([float(length) for length, _ in ways]), 1, generator=generator)
    return ways[int(chosen)][1]


def collect(
    environment: Environment, num_battles: int, num_steps: int, seed: int, policy: Policy = heuristic,
    progress: Progress = iter, scenario: str | None = None,
) -> Trajectories:  # fmt: skip
    """Play battles and record the trajectories of all units.

    The agents come first, then the enemies. A step is one of the environment (`step_mul`, 8 of 22.4 game loops a
    second). After the end of a battle no unit is alive. Terrain is SMAC's, from 0 to 1. The game reveals the weapon
    cooldown of the agents only; that of enemies is recorded as 0.

    Args:
        environment: SMAC's or SMACv2's `StarCraft2Env`, or SMACv2's `StarCraftCapabilityEnvWrapper`.
        num_battles: N.
        num_steps: T, at least 2; longer battles are played to their end, and cut.
        seed: of the policy and of the start positions of `scenario`; the game's own is the environment's `seed`.
        policy: from an environment and a generator to each agent's action as SMAC numbers them: 0 no-op, 1 stop, 2 to 5
            north, south, east and west, then one for each target.
        scenario: teams for SMACv2 to spawn, such as "5s3z", in an environment created with `capability_config`.
            Default: the teams of the map, or of the wrapper's own distribution.

    Raises:
        ValueError: no SMAC environment; numbers too small; unknown units; a dead unit that is alive again; a game that
            repeatedly stops in the middle of a battle.
    """
    at_least("starcraft2", {"num_battles": num_battles, "num_steps": num_steps}, num_battles=1, num_steps=2)
    needed = ["reset", "step", "get_avail_agent_actions", "agents", "enemies", "terrain_height", "n_actions_no_attack"]
    missing = [name for name in needed if not hasattr(environment, name)]
    if missing:
        raise ValueError(
            f"starcraft2: expected an SMAC or SMACv2 environment, got {type(environment).__name__} without "
            f"{', '.join(missing)}; pass StarCraft2Env itself, not a wrapper that hides it"
        )
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for battle in progress(range(num_battles)):
        for _ in range(_TRIES):
            _reset(environment, scenario, generator)
            frames = _play(environment, num_steps, policy, generator, battle)
            if frames is not None:
                break
        else:
            raise ValueError(
                f"starcraft2: expected battle {battle} to be played to its end, got a game that stopped {_TRIES} "
                "times; read the game's own messages, and create the environment again"
            )
        parts.append(_trajectory(environment, frames, num_steps))
    return Trajectories.join(parts)


def _reset(environment: Environment, scenario: str | None, generator: torch.Generator) -> None:
    if scenario is None:
        environment.reset()
        return
    # SMACv2's wrapper takes no teams; the environment that it wraps does.
    inner: Environment = getattr(environment, "env", environment)
    if (inner.n_agents, inner.n_enemies) != (len(team(scenario)),) * 2:
        raise ValueError(
            f"starcraft2: expected an environment with {len(team(scenario))} agents and enemies for {scenario}, got "
            f"{inner.n_agents} and {inner.n_enemies}; create it with capability_config({scenario!r})"
        )
    for attempt in range(_TRIES):
        try:
            inner.reset(episode_config(scenario, generator))
            return
        except TypeError as error:
            raise ValueError(
                f"starcraft2: expected SMACv2, whose reset takes teams, for scenario {scenario}, got "
                f"{type(inner).__name__} ({error}); use its StarCraft2Env, or a map with these teams and no scenario"
            ) from error
        except Exception as error:
            # SMACv2 raises this where the game did not spawn all units; the class cannot be imported here.
            if type(error).__name__ != "CannotResetException" or attempt + 1 == _TRIES:
                raise


def _play(
    environment: Environment, num_steps: int, policy: Policy, generator: torch.Generator, battle: int
) -> list[tuple[Tensor, list[int]]] | None:
    """The units `(U, 6)` (east, north, stats) and the agents' actions at each step; None if the game stopped."""
    frames: list[tuple[Tensor, list[int]]] = []
    ended = False
    for step in range(num_steps):
        frame = _frame(environment)
        if frames:
            _check_dead(frames[-1][0], frame, f"at step {step} of battle {battle}")
        actions = list(policy(environment, generator))
        if len(actions) != len(environment.agents):
            raise ValueError(
                f"starcraft2: expected {len(environment.agents)} actions of the policy, got {len(actions)}; "
                "return one for each agent, 0 for the dead"
            )
        frames.append((frame, actions))
        if ended or step + 1 == num_steps:
            break
        # `actions` is passed itself: with heuristic_ai, SMACv2 overwrites it with the actions that it took instead.
        _, ended, info = environment.step(actions)
        if ended and not info:  # SMAC had to restart the game
            return None
    # SMAC's reset launches one more game as long as no battle has ended.
    while not ended:
        _, ended, _ = environment.step(list(policy(environment, generator)))
    return frames


def _check_dead(before: Tensor, after: Tensor, where: str) -> None:
    alive = [int((frame[:, 2] > 0).sum()) for frame in (before, after)]
    if len(before) != len(after) or bool(((before[:, 2] <= 0) & (after[:, 2] > 0)).any()):
        raise ValueError(
            f"starcraft2: expected dead units to stay dead, got {alive[1]} of {len(after)} units alive {where} after "
            f"{alive[0]} of {len(before)}, and not the same; use a map without reinforcements and without fog of war"
        )


def _units(environment: Environment) -> list[Unit]:
    """The messages of all units, the agents' first."""
    return [unit for side in (environment.agents, environment.enemies) for _, unit in sorted(side.items())]


def _frame(environment: Environment) -> Tensor:
    """The units `(U, 6)`: east, north, stats; copied at once, since SMAC changes the messages of units that die."""
    units = _units(environment)
    try:
        rows = [(u.pos.x, u.pos.y, u.health, u.energy, u.weapon_cooldown / LOOPS_PER_SECOND, u.shield) for u in units]
    except AttributeError as error:
        raise ValueError(
            f"starcraft2: expected the game's messages of units, got one that is incomplete ({error}); pass SMAC's own "
            "environment"
        ) from error
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 2 + len(STATS))


def _kinds(environment: Environment) -> dict[int, str]:
    """Names of unit types by the game's numbers and by the map's own, which are 0 for types that the map lacks."""
    own = {getattr(environment, f"{name}_id", 0): name for name in UNIT_TYPES}
    own.pop(0, None)
    return {number: name for name, number in GAME_IDS.items()} | own


def _scenario(types: Sequence[str]) -> str:
    """The scenario of these units: the inverse of `team`."""
    letters = {name: letter for letter, name in LETTERS.items()}
    counts = Counter(types)
    return "".join(f"{counts[name]}{letters.get(name, name)}" for name in UNIT_TYPES if name in counts)


def _trajectory(environment: Environment, frames: list[tuple[Tensor, list[int]]], num_steps: int) -> Trajectories:
    """The trajectory of one battle; after its end no unit is alive."""
    kinds, agents = _kinds(environment), len(environment.agents)
    names = []
    for unit in _units(environment):
        if unit.unit_type not in kinds:
            raise ValueError(
                f"starcraft2: expected units among {', '.join(UNIT_TYPES)}, got unit type {unit.unit_type}; use a map "
                "without other units"
            )
        names.append(kinds[unit.unit_type])
    own, other = _scenario(names[:agents]), _scenario(names[agents:])
    rows = torch.zeros(num_steps, len(names), 2 + len(STATS))
    actions = torch.full((num_steps, len(names)), ACTIONS.index("no-op"))
    for step, (frame, chosen) in enumerate(frames):
        alive = frame[:, 2] > 0
        rows[step] = frame
        done = torch.full((len(names),), ACTIONS.index("unknown"))
        done[:agents] = torch.tensor([_action(environment, int(action)) for action in chosen])
        actions[step] = done.where(alive, ACTIONS.index("no-op"))
    alive = rows[..., 2] > 0
    terrain = torch.as_tensor(environment.terrain_height, dtype=torch.float32)
    return Trajectories(
        positions=rows[None, ..., :2], alive=alive[None], actions=actions[None],
        types=torch.tensor([[UNIT_TYPES.index(name) for name in names]]),
        friendly=(torch.arange(len(names)) < agents)[None],
        stats=(rows[..., 2:] * alive[..., None])[None],
        terrain=terrain.T[None].contiguous(),
        scenario=torch.zeros(1, dtype=torch.long),
        names=(own if own == other else f"{own}_vs_{other}",),
    )  # fmt: skip


def _action(environment: Environment, action: int) -> int:
    """The index in `ACTIONS` of SMAC's number of an action; SMACv2's turning to look elsewhere counts as stop."""
    if action >= environment.n_actions_no_attack:
        return ACTIONS.index("attack")
    return ACTIONS.index(("no-op", "stop", "north", "south", "east", "west")[action] if action < 6 else "stop")
