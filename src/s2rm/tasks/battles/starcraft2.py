"""Battles of StarCraft II, played through SMAC or SMACv2: the scenarios of the S2RM paper (appendix B.1).

Neither the game nor these packages come with s2rm: `collect` reads an environment that the user has made. What is said
here of them is from the repositories oxwhirl/smac and oxwhirl/smacv2 (`env/starcraft2/starcraft2.py`, `wrapper.py`) and
from `raw.proto` of Blizzard/s2client-proto.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from s2rm.tasks.battles.trajectories import ACTIONS, STATS, UNIT_TYPES, Trajectories

LOOPS_PER_SECOND = 22.4
"""game loops in a second at the speed "Faster", in which the game counts weapon cooldown"""
GAME_IDS = {
    "colossus": 4, "stalker": 74, "zealot": 73, "marine": 48, "marauder": 51, "medivac": 54, "zergling": 105,
    "baneling": 9, "hydralisk": 107,
}  # fmt: skip
"""unit types as the game numbers them; SMAC's maps give the agents types of their own, which the environment knows"""
LETTERS = {"c": "colossus", "s": "stalker", "z": "zealot", "m": "marine", "h": "hydralisk", "zg": "zergling"}
"""how SMAC's scenarios name units; the other types go by their whole name"""
NEEDED = (
    "reset", "step", "get_avail_agent_actions", "agents", "enemies", "terrain_height", "n_actions_no_attack",
)  # fmt: skip
_TRIES = 3

Policy = Callable[[Any, torch.Generator], Sequence[int]]


def team(scenario: str) -> list[str]:
    """The units of a scenario, `["stalker", "stalker", "zealot"]` for "2s1z".

    Raises:
        ValueError: not numbers with names of units, or an unknown unit.
    """
    names = {**LETTERS, **{name: name for name in UNIT_TYPES}}
    parts = re.findall(r"([1-9]\d*)([a-z]+)", scenario)
    if not parts or "".join(map("".join, parts)) != scenario or not {name for _, name in parts} <= set(names):
        known = ", ".join(f"{letter} ({name})" for letter, name in LETTERS.items())
        raise ValueError(
            f"starcraft2: expected a scenario such as 1c3s5z, of {known} or whole names, got {scenario!r}; "
            "count units so"
        )
    return [names[name] for count, name in parts for _ in range(int(count))]


def capability_config(scenario: str) -> dict[str, Any]:
    """What SMACv2's `StarCraft2Env(map_name="10gen_protoss", capability_config=...)` needs for a scenario."""
    size = len(team(scenario))
    return {"team_gen": {"n_units": size, "n_enemies": size, "observe": True}, "start_positions": {}}


def episode_config(scenario: str, generator: torch.Generator, side: float = 32.0) -> dict[str, Any]:
    """What SMACv2's `reset(episode_config)` needs to spawn mirrored teams, as two crowds on a map of `side` map units.

    Args:
        scenario: units of each team.
        generator: draws where the crowds start.
        side: of the map; all of SMACv2's have 32.
    """
    units = team(scenario)
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


def heuristic(environment: Any, generator: torch.Generator) -> list[int]:
    """Attack the nearest enemy that can be attacked, else walk towards the nearest that lives, else stop.

    Walking is north, south, east or west; of two ways that lead there one is drawn, in proportion to how far there is
    to go. Medivacs heal the nearest of the hurt that can be healed, else walk towards the nearest.
    """
    kinds, first = _kinds(environment), environment.n_actions_no_attack
    actions = []
    for agent, unit in sorted(environment.agents.items()):
        if unit.health <= 0:
            actions.append(0)
            continue
        able = environment.get_avail_agent_actions(agent)
        others = [(number, other) for number, other in sorted(environment.enemies.items()) if other.health > 0]
        if kinds.get(unit.unit_type) == "medivac":
            others = [
                (number, other)
                for number, other in sorted(environment.agents.items())
                if 0 < other.health < other.health_max and kinds.get(other.unit_type) != "medivac"
            ]
        others.sort(key=lambda pair: _squared_distance(unit, pair[1]))
        in_reach = [first + number for number, _ in others if first + number < len(able) and able[first + number]]
        if in_reach:
            actions.append(in_reach[0])
        else:
            actions.append(_towards(unit, others[0][1], able, generator) if others else 1)
    return actions


def _squared_distance(unit: Any, other: Any) -> float:
    return (other.pos.x - unit.pos.x) ** 2 + (other.pos.y - unit.pos.y) ** 2


def _towards(unit: Any, other: Any, able: Sequence[int], generator: torch.Generator) -> int:
    """The move that leads from one unit to another, or stop."""
    east, north = other.pos.x - unit.pos.x, other.pos.y - unit.pos.y
    ways = [(abs(north), 2 if north > 0 else 3), (abs(east), 4 if east > 0 else 5)]
    ways = [(length, action) for length, action in ways if length > 0 and able[action]]
    if not ways:
        return 1
    chosen = torch.multinomial(torch.tensor([float(length) for length, _ in ways]), 1, generator=generator)
    return ways[int(chosen)][1]


def collect(
    environment: Any,
    num_battles: int,
    num_steps: int,
    seed: int,
    policy: Policy = heuristic,
    progress: Callable[[range], Iterable[int]] = iter,
    scenario: str | None = None,
) -> Trajectories:
    """Play battles and keep what every unit did.

    The agents come first, then the enemies. A step is one of the environment (`step_mul`, 8 of 22.4 game loops a
    second). After the end of a battle nobody is there. Terrain is as SMAC has it, from 0 to 1.

    The game tells the weapon cooldown of the agents only; that of enemies is 0.

    Args:
        environment: SMAC's or SMACv2's `StarCraft2Env`, or SMACv2's `StarCraftCapabilityEnvWrapper`.
        num_battles: N.
        num_steps: T, at least 2; longer battles are played on, and cut.
        seed: of the policy and of the starts of `scenario`; the game's own is the environment's `seed`.
        policy: called with the environment and a generator, gives each agent's action as SMAC numbers them: 0 no-op, 1
            stop, 2 to 5 north, south, east and west, then one for each target.
        progress: wraps the range of battles, for a progress bar.
        scenario: teams for SMACv2 to spawn, such as "5s3z", in an environment made with `capability_config`. Default:
            the teams of the map, or of the wrapper's own distribution.

    Raises:
        ValueError: no SMAC environment; numbers too small; unknown units; a unit that comes back from the dead; a game
            that stops in the middle of battles again and again.
    """
    for name, given, least in (("num_battles", num_battles, 1), ("num_steps", num_steps, 2)):
        if given < least:
            raise ValueError(f"starcraft2: expected {name} of at least {least}, got {given}; ask for more")
    missing = [name for name in NEEDED if not hasattr(environment, name)]
    if missing:
        raise ValueError(
            f"starcraft2: expected an SMAC or SMACv2 environment, got {type(environment).__name__} without "
            f"{', '.join(missing)}; give StarCraft2Env itself, not a wrapper that hides it"
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
                f"starcraft2: expected battle {battle} to be played to its end, got a game that stopped "
                f"{_TRIES} times; look at its own messages, and make the environment anew"
            )
        parts.append(_trajectory(environment, frames, num_steps))
    return Trajectories.join(parts)


def _reset(environment: Any, scenario: str | None, generator: torch.Generator) -> None:
    if scenario is None:
        environment.reset()
        return
    inner = getattr(environment, "env", environment)  # SMACv2's wrapper takes no teams; what it wraps does
    if (inner.n_agents, inner.n_enemies) != (len(team(scenario)),) * 2:
        raise ValueError(
            f"starcraft2: expected an environment with {len(team(scenario))} agents and enemies for {scenario}, got "
            f"{inner.n_agents} and {inner.n_enemies}; make it with capability_config({scenario!r})"
        )
    for attempt in range(_TRIES):
        try:
            inner.reset(episode_config(scenario, generator))
            return
        except TypeError as error:
            raise ValueError(
                f"starcraft2: expected SMACv2, whose reset takes teams, for scenario {scenario}, got "
                f"{type(inner).__name__} ({error}); make its StarCraft2Env, or give no "
                "scenario and take a map that has these teams"
            ) from error
        except Exception as error:
            # What SMACv2 raises where the game did not spawn all units; it cannot be imported here.
            if type(error).__name__ != "CannotResetException" or attempt + 1 == _TRIES:
                raise


def _play(
    environment: Any, num_steps: int, policy: Policy, generator: torch.Generator, battle: int
) -> list[tuple[Tensor, list[int]]] | None:
    """Of each step `(U, 6)`, east, north and stats, and the agents' actions; None if the game stopped."""
    frames: list[tuple[Tensor, list[int]]] = []
    ended = False
    for step in range(num_steps):
        frame = _frame(environment)
        if frames:
            _check_dead(frames[-1][0], frame, f"at step {step} of battle {battle}")
        actions = list(policy(environment, generator))
        if len(actions) != len(environment.agents):
            raise ValueError(
                f"starcraft2: expected the policy to give {len(environment.agents)} actions, got {len(actions)}; "
                "give one for each agent, 0 for the dead"
            )
        frames.append((frame, actions))
        if ended or step + 1 == num_steps:
            break
        # The list itself: with heuristic_ai, SMACv2 writes into it what it did instead.
        _, ended, info = environment.step(actions)
        if ended and not info:  # how SMAC says that it had to start the game again
            return None
    # Until a first battle has ended, SMAC's reset launches one more game.
    while not ended:
        _, ended, _ = environment.step(list(policy(environment, generator)))
    return frames


def _check_dead(before: Tensor, after: Tensor, where: str) -> None:
    alive = [int((frame[:, 2] > 0).sum()) for frame in (before, after)]
    if len(before) != len(after) or bool(((before[:, 2] <= 0) & (after[:, 2] > 0)).any()):
        raise ValueError(
            f"starcraft2: expected the dead to stay dead, got {alive[1]} of {len(after)} units alive {where} after "
            f"{alive[0]} of {len(before)}, and not the same; take a map without reinforcements and without fog of war"
        )


def _units(environment: Any) -> list[Any]:
    return [unit for side in (environment.agents, environment.enemies) for _, unit in sorted(side.items())]


def _frame(environment: Any) -> Tensor:
    """`(U, 6)`, copied at once: SMAC changes the messages of units that die."""
    try:
        rows = [
            (u.pos.x, u.pos.y, u.health, u.energy, u.weapon_cooldown / LOOPS_PER_SECOND, u.shield)
            for u in _units(environment)
        ]
    except AttributeError as error:
        raise ValueError(
            f"starcraft2: expected the game's messages of units, got one that lacks something ({error}); give SMAC's "
            "environment as it is"
        ) from error
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 2 + len(STATS))


def _kinds(environment: Any) -> dict[int, str]:
    """Names of unit types, by the game's numbers and by the map's own, which SMAC leaves at 0 for units it has not."""
    own = {getattr(environment, f"{name}_id", 0): name for name in UNIT_TYPES}
    return {number: name for name, number in GAME_IDS.items()} | {
        number: name for number, name in own.items() if number
    }


def _scenario(types: Sequence[str]) -> str:
    letters = {name: letter for letter, name in LETTERS.items()}
    counts = Counter(types)
    return "".join(f"{counts[name]}{letters.get(name, name)}" for name in UNIT_TYPES if name in counts)


def _trajectory(environment: Any, frames: list[tuple[Tensor, list[int]]], num_steps: int) -> Trajectories:
    """One battle, with nobody after its end."""
    kinds, agents = _kinds(environment), len(environment.agents)
    names = []
    for unit in _units(environment):
        if unit.unit_type not in kinds:
            raise ValueError(
                f"starcraft2: expected units among {', '.join(UNIT_TYPES)}, got unit type {unit.unit_type}; take a map "
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
        positions=rows[None, ..., :2],
        alive=alive[None],
        types=torch.tensor([[UNIT_TYPES.index(name) for name in names]]),
        friendly=(torch.arange(len(names)) < agents)[None],
        stats=(rows[..., 2:] * alive[..., None])[None],
        actions=actions[None],
        terrain=terrain.T[None].contiguous(),
        scenario=torch.zeros(1, dtype=torch.long),
        names=(own if own == other else f"{own}_vs_{other}",),
    )


def _action(environment: Any, action: int) -> int:
    """SMAC's number of an action as an index of `ACTIONS`; turning to look elsewhere, in SMACv2, counts as stop."""
    if action >= environment.n_actions_no_attack:
        return ACTIONS.index("attack")
    return ACTIONS.index(("no-op", "stop", "north", "south", "east", "west")[action] if action < 6 else "stop")
