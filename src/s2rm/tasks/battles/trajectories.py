"""The trajectories of units on a map: the form in which every battle, simulated or played, is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from s2rm.files import read_tensors, write_tensors
from s2rm.tasks.worlds import check_tensors

UNIT_TYPES = (
    "colossus", "stalker", "zealot", "marine", "marauder", "medivac", "zergling", "baneling", "hydralisk",
)  # fmt: skip
"""the nine types of SMACv2"""
LETTERS = {"c": "colossus", "s": "stalker", "z": "zealot", "m": "marine", "h": "hydralisk", "zg": "zergling"}
"""how SMAC's scenarios abbreviate units; the other types go by their whole name"""
STATS = ("health", "energy", "cooldown", "shield")
"""hit points, energy points, seconds until the weapon may fire again, shield points"""
ACTIONS = ("no-op", "unknown", "stop", "north", "south", "east", "west", "attack")
"""the actions of a unit; unknown for units that are not friendly, no-op for the dead"""
IN_TIME = ("positions", "alive", "stats", "actions")
"""the tensors with a row for each step"""
TENSORS = (*IN_TIME, "types", "friendly", "terrain", "scenario")


def team(scenario: str, known: Sequence[str] = UNIT_TYPES) -> list[str]:
    """The units of each team of a scenario, `["stalker", "stalker", "zealot"]` for "2s1z".

    A scenario says how many there are of each known type, as its letter of `LETTERS` or its whole name.

    Raises:
        ValueError: no such name, an unknown type, or one that occurs twice.
    """
    names = {letter: name for letter, name in LETTERS.items() if name in known} | {name: name for name in known}
    parts = re.findall(r"([1-9]\d*)([a-z]+)", scenario)
    if not parts or "".join(map("".join, parts)) != scenario or not {name for _, name in parts} <= set(names):
        letters = ", ".join(f"{letter} ({name})" for letter, name in names.items() if letter != name)
        raise ValueError(
            f"scenario: expected numbers and types of units such as 1c3s5z, of {letters} or whole names, got "
            f"{scenario!r}; the types are {', '.join(known)}"
        )
    types = [names[name] for _, name in parts]
    if len(set(types)) < len(types):
        raise ValueError(f"scenario: expected each type of unit once, got {scenario!r}; add their numbers")
    return [name for (count, _), name in zip(parts, types, strict=True) for _ in range(int(count))]


@dataclass(frozen=True, eq=False)
class Trajectories:
    """N battles of up to U units over T steps, in the game's own units. Slots that no unit has are never alive.

    Raises:
        ValueError: shapes that do not fit each other, a type, action or scenario out of range, fewer than two steps.
    """

    positions: Tensor
    """float `(N, T, U, 2)`: (east, north), map units"""
    alive: Tensor
    """bool `(N, T, U)`: whether a unit is on the map and lives"""
    types: Tensor
    """int `(N, U)`: of each unit, an index of `UNIT_TYPES`"""
    friendly: Tensor
    """bool `(N, U)`: whether a unit belongs to the team of the agents"""
    stats: Tensor
    """float `(N, T, U, 4)`: `STATS`, in their order"""
    actions: Tensor
    """int `(N, T, U)`: the action that each unit takes at this step, an index of `ACTIONS`"""
    terrain: Tensor
    """float `(N, H, W)`: height of each square map unit, rows northward"""
    scenario: Tensor
    """int `(N,)`: of each battle, an index of `names`"""
    names: tuple[str, ...]
    """of the scenarios"""

    def __post_init__(self) -> None:
        battles, steps, units = self.alive.shape
        shapes = {
            "positions": (battles, steps, units, 2), "types": (battles, units), "friendly": (battles, units),
            "stats": (battles, steps, units, len(STATS)), "actions": (battles, steps, units),
            "terrain": (battles, *self.terrain.shape[1:]), "scenario": (battles,),
        }  # fmt: skip
        known = {"types": UNIT_TYPES, "actions": ACTIONS, "scenario": self.names}
        ranges = {name: (0, len(names) - 1) for name, names in known.items()}
        check_tensors("trajectories", vars(self), shapes, **ranges)
        if steps < 2:
            raise ValueError(f"trajectories: expected at least 2 steps, got {steps}; play longer battles")

    def __len__(self) -> int:
        return len(self.alive)

    def __getitem__(self, rows: Int[Tensor, " B"] | slice) -> Trajectories:
        """These battles."""
        return Trajectories(**{name: getattr(self, name)[rows] for name in TENSORS}, names=self.names)

    def chunks(self) -> Iterator[Trajectories]:
        """The battles, ten at a time."""
        return (self[rows] for rows in torch.arange(len(self)).split(10))

    @classmethod
    def join(cls, parts: Sequence[Trajectories]) -> Trajectories:
        """The battles of all parts, on maps of one size; slots are added where a part has fewer units or steps."""
        if len({part.terrain.shape[1:] for part in parts}) != 1:
            sizes = [tuple(part.terrain.shape[1:]) for part in parts]
            raise ValueError(f"trajectories: expected parts on maps of one size, got {sizes}")
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        steps, units = (max(part.alive.shape[axis] for part in parts) for axis in (1, 2))
        slots = {**dict.fromkeys(IN_TIME, (steps, units)), "types": (units,), "friendly": (units,), "terrain": ()}

        def widen(name: str, tensor: Tensor) -> Tensor:
            wide = tensor.new_zeros(len(tensor), *slots[name], *tensor.shape[1 + len(slots[name]) :])
            wide[tuple(slice(length) for length in tensor.shape)] = tensor
            return wide

        joined = {name: torch.cat([widen(name, getattr(part, name)) for part in parts]) for name in TENSORS[:-1]}
        numbers = [torch.tensor([names.index(name) for name in part.names])[part.scenario] for part in parts]
        return cls(**joined, scenario=torch.cat(numbers), names=names)

    def save(self, path: str | Path) -> None:
        """Write them to one safetensors file, whole or not at all; folders are created."""
        write_tensors(path, "trajectories", {name: getattr(self, name) for name in TENSORS}, names=self.names)

    @classmethod
    def load(cls, path: str | Path) -> Trajectories:
        """Read the file that `save` wrote; ValueError as from `read_tensors`."""
        tensors, about = read_tensors(path, "trajectories", TENSORS)
        return cls(**tensors, names=tuple(about["names"]))
