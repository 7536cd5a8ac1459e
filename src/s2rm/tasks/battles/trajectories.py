"""What units on a map did: the form in which every battle, simulated or played, is kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from s2rm.files import write_whole

UNIT_TYPES = (
    "colossus", "stalker", "zealot", "marine", "marauder", "medivac", "zergling", "baneling", "hydralisk",
)  # fmt: skip
"""the nine types of SMACv2"""
STATS = ("health", "energy", "cooldown", "shield")
"""hit points, energy points, seconds until the weapon may fire again, shield points"""
ACTIONS = ("no-op", "unknown", "stop", "north", "south", "east", "west", "attack")
"""what a unit may do; unknown for units that are not friendly, no-op for the dead"""
FORMAT = 1
TENSORS = ("positions", "alive", "types", "friendly", "stats", "actions", "terrain", "scenario")


@dataclass(frozen=True, eq=False)
class Trajectories:
    """N battles of up to U units over T steps, in the game's own units. Slots that no unit has are never alive.

    Raises:
        ValueError: shapes that do not fit each other, a number that stands for nothing, fewer than two steps.
    """

    positions: Tensor
    """float `(N, T, U, 2)`: (east, north), map units"""
    alive: Tensor
    """bool `(N, T, U)`: where a unit is on the map and lives"""
    types: Tensor
    """int `(N, U)`: of each unit, an index of `UNIT_TYPES`"""
    friendly: Tensor
    """bool `(N, U)`: whether a unit is one of the team whose members are the agents"""
    stats: Tensor
    """float `(N, T, U, 4)`: `STATS`"""
    actions: Tensor
    """int `(N, T, U)`: what each unit does from this step on, an index of `ACTIONS`"""
    terrain: Tensor
    """float `(N, H, W)`: height of the cell of a map unit, rows northward"""
    scenario: Tensor
    """int `(N,)`: of each battle, an index of `names`"""
    names: tuple[str, ...]
    """of the scenarios"""

    def __post_init__(self) -> None:
        battles, steps, units = self.alive.shape
        expected = {
            "positions": (battles, steps, units, 2), "types": (battles, units), "friendly": (battles, units),
            "stats": (battles, steps, units, len(STATS)), "actions": (battles, steps, units),
            "terrain": (battles, *self.terrain.shape[1:]), "scenario": (battles,),
        }  # fmt: skip
        for name, shape in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(
                    f"trajectories: expected {name} of shape {shape}, got {got}; give one row to each unit"
                )
        if steps < 2:
            raise ValueError(f"trajectories: expected at least 2 steps, got {steps}; play longer")
        for name, known in (("types", UNIT_TYPES), ("actions", ACTIONS), ("scenario", self.names)):
            part = getattr(self, name)
            if part.numel() and not 0 <= int(part.min()) <= int(part.max()) < len(known):
                raise ValueError(
                    f"trajectories: expected {name} from 0 to {len(known) - 1} ({', '.join(known)}), got "
                    f"{int(part.min())} to {int(part.max())}; number them anew"
                )

    def __len__(self) -> int:
        return len(self.alive)

    def __getitem__(self, rows: Int[Tensor, " B"] | slice) -> Trajectories:
        """These battles."""
        return Trajectories(**{name: getattr(self, name)[rows] for name in TENSORS}, names=self.names)

    @classmethod
    def join(cls, parts: Sequence[Trajectories]) -> Trajectories:
        """The battles of all parts, one after the other; slots are added where a part has fewer units or steps.

        Raises:
            ValueError: no parts, or maps of different sizes.
        """
        if len({part.terrain.shape[1:] for part in parts}) != 1:
            raise ValueError(
                f"trajectories: expected parts on maps of one size, got {[tuple(p.terrain.shape[1:]) for p in parts]}"
            )
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        steps, units = (max(part.alive.shape[axis] for part in parts) for axis in (1, 2))

        def widen(name: str, tensor: Tensor) -> Tensor:
            shape = list(tensor.shape)
            if name in ("positions", "alive", "stats", "actions"):
                shape[1:3] = steps, units
            elif name in ("types", "friendly"):
                shape[1] = units
            wide = tensor.new_zeros(shape)
            wide[tuple(slice(length) for length in tensor.shape)] = tensor
            return wide

        joined = {name: torch.cat([widen(name, getattr(part, name)) for part in parts]) for name in TENSORS[:-1]}
        numbers = [torch.tensor([names.index(name) for name in part.names])[part.scenario] for part in parts]
        return cls(**joined, scenario=torch.cat(numbers), names=names)

    def save(self, path: Path) -> None:
        """Write them to one file (safetensors), whole or not at all."""
        kept = {name: getattr(self, name).contiguous() for name in TENSORS}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, save(kept, {"trajectories": json.dumps({"format": FORMAT, "names": self.names})}))

    @classmethod
    def load(cls, path: Path) -> Trajectories:
        """What `save` wrote.

        Raises:
            ValueError: no file, one that is cut short, something else, or of a newer version.
        """
        if not path.is_file():
            raise ValueError(f"trajectories: found no file {path}; collect some first")
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["trajectories"])
                if about["format"] != FORMAT:
                    raise ValueError(
                        f"trajectories: {path} has format {about['format']}, this version reads {FORMAT}; collect them "
                        "again, or take the version of s2rm that wrote them"
                    )
                return cls(**{name: file.get_tensor(name) for name in TENSORS}, names=tuple(about["names"]))
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"trajectories: {path} is cut short or no file of trajectories ({error}); collect them again"
            ) from error
