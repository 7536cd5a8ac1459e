"""Trains on a railway, each with a view of the cells around it: the grid world of the S2RM paper's appendix A."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from s2rm.files import read_tensors, write_tensors
from s2rm.tasks.crops import crops
from s2rm.tasks.worlds import at_least, check_amount, check_tensors, named
from s2rm.views import Episode, Views

STATES = ("waiting", "ready to depart", "broken down off the grid", "moving", "stopped", "broken down", "arrived")
"""the states of a train, numbered as in flatland"""
CHANNELS = (
    "track north", "track east", "track south", "track west", "train north", "train east", "train south", "train west",
    "station", "own station",
)  # fmt: skip
"""of each cell of a view: the sides to which its track leads; the direction in which a train in it faces; whether it is
the destination of any train of the episode, and whether it is that of the train in the centre of the view"""
TRAIN = slice(4, 8)
TENSORS = ("rails", "map_of", "positions", "directions", "states", "stations")


@dataclass(frozen=True)
class RailwayWorld:
    """What the world is, how it is seen, and how much of it there is.

    Raises:
        ValueError: a number out of its range.
    """

    grid: int = 60
    """side of the square grid, cells"""
    num_trains: int = 10
    """trains of an episode, each of which has a view while it is on the grid"""
    view: int = 5
    """side of a view, cells, odd"""
    num_steps: int = 128
    clip: int = 128
    """steps of a training clip, cut from an episode at random"""
    latest_departure: int = 32
    """each train's earliest departure is drawn uniformly from step 0 to this one"""
    cities: int = 5
    """cities of a map, at most; fewer where no more fit"""
    rails_between_cities: int = 2
    """parallel tracks that enter a city, at most"""
    rail_pairs_in_city: int = 2
    """pairs of parallel tracks in a city, at most"""
    speeds: tuple[float, ...] = (1.0,)
    """cells a step; each train has one of these, with equal probability"""
    malfunction_rate: float = 0.0
    """breakdowns of a train a step"""
    longest_malfunction: int = 20
    """steps for which a broken-down train stands still, at most"""
    episodes_per_map: int = 1
    """episodes, each with a schedule of its own, on each map"""
    train_episodes: int = 8_000
    val_episodes: int = 2_000
    test_episodes: int = 1_000

    def __post_init__(self) -> None:
        at_least(
            "RailwayWorld", vars(self), grid=20, num_trains=1, num_steps=2, clip=2, latest_departure=0, cities=2,
            rails_between_cities=1, rail_pairs_in_city=1, longest_malfunction=1, episodes_per_map=1, train_episodes=1,
            val_episodes=1, test_episodes=1,
        )  # fmt: skip
        most, values = max(self.train_episodes, self.val_episodes, self.test_episodes), len(CHANNELS) * self.view**2
        check_amount("RailwayWorld", most, self.num_steps, self.num_trains, values)
        check_amount("RailwayWorld", -(-most // self.episodes_per_map), self.grid**2)
        if not (1 <= self.view <= self.grid and self.view % 2):
            raise ValueError(f"RailwayWorld: view must be odd and at most the grid's {self.grid}, got {self.view}")
        for name, most in (("clip", self.num_steps), ("latest_departure", self.num_steps - 1)):
            if getattr(self, name) > most:
                raise ValueError(f"RailwayWorld: {name} must be at most {most}, got {getattr(self, name)}; shorten it")
        if not self.speeds or not all(0 < speed <= 1 for speed in self.speeds):
            raise ValueError(f"RailwayWorld: speeds must be above 0 and at most 1 cell a step, got {self.speeds}")
        if not 0 <= self.malfunction_rate < 1:
            raise ValueError(f"RailwayWorld: malfunction_rate must be in [0, 1), got {self.malfunction_rate}")

    @property
    def side(self) -> float:
        """Of the square in which positions lie, cells."""
        return float(self.grid)

    def model_arguments(self) -> dict[str, object]:
        """Shape of a view, codec, and wavelengths, twice the usual ones of half the side and eight times it.

        With those, ten modules would cover only half to three quarters of the grid at the start.
        """
        shape = [len(CHANNELS), self.view, self.view]
        return {"value_shape": shape, "codec": "mlp", "shortest": self.side, "longest": 16 * self.side}


PRESETS = {
    "paper": RailwayWorld(),
    "small": RailwayWorld(clip=32, train_episodes=200, val_episodes=20, test_episodes=40),
    "tiny": RailwayWorld(
        grid=25, num_trains=3, num_steps=40, clip=16, latest_departure=8, cities=2, train_episodes=4, val_episodes=2,
        test_episodes=2,
    ),
}  # fmt: skip


def preset(name: str) -> RailwayWorld:
    """The world of that name: "paper", "small" or "tiny"."""
    return named(PRESETS, name, "railways")


@dataclass(frozen=True, eq=False)
class Railways:
    """N episodes of A trains over T steps, on K maps of G x G cells.

    Raises:
        ValueError: shapes that do not fit each other, or a number out of its range.
    """

    rails: Tensor
    """uint16 `(K, G, G)`: the transitions of each cell, flatland's 16 bits: four bits for each direction of travel of
    an entering train, one for each direction in which it may leave; north, east, south, west from the highest bit"""
    map_of: Tensor
    """int64 `(N,)`: the map of each episode"""
    positions: Tensor
    """int16 `(N, T, A, 2)`: (row, column) of each train, -1 while it is not on the grid"""
    directions: Tensor
    """int8 `(N, T, A)`: the direction that it faces, 0 to 3 from north clockwise, -1 while it is not on the grid"""
    states: Tensor
    """int8 `(N, T, A)`: an index of `STATES`"""
    stations: Tensor
    """int16 `(N, A, 2)`: (row, column) of each train's destination"""

    def __post_init__(self) -> None:
        episodes, steps, trains = self.directions.shape
        maps, grid = self.rails.shape[:2]
        shapes = {
            "rails": (maps, grid, grid), "map_of": (episodes,), "positions": (episodes, steps, trains, 2),
            "states": (episodes, steps, trains), "stations": (episodes, trains, 2),
        }  # fmt: skip
        check_tensors(
            "railways", vars(self), shapes, map_of=(0, maps - 1), positions=(-1, grid - 1), directions=(-1, 3),
            states=(0, len(STATES) - 1), stations=(0, grid - 1),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.directions)

    @property
    def ends(self) -> Int[Tensor, " N"]:
        """The number of steps of each episode until the last at which a train is on the grid."""
        there = (self.directions >= 0).any(2)
        return (there * torch.arange(1, there.shape[1] + 1)).amax(1)

    def save(self, path: str | Path, **about: object) -> None:
        """Write them to one file (safetensors), whole or not at all, with plain values `about` them beside."""
        write_tensors(path, "railways", vars(self), **about)

    @classmethod
    def load(cls, path: str | Path) -> Railways:
        """Read the file that `save` wrote; ValueError as from `read_tensors`."""
        return cls(**read_tensors(path, "railways", TENSORS)[0])


def episode(
    world: RailwayWorld, source: Railways, rows: Int[Tensor, " B"], steps: Int[Tensor, "B T"] | None = None
) -> Episode:
    """The views of all trains in these episodes, at all steps or at these; the targets are the next step's views.

    Views are `(10, view, view)`: `CHANNELS` of the cells around the train, rows southward, 1 or 0; 0 beyond the grid.
    Their positions are the trains' cells, (row, column). The mask is False before departure and after arrival.
    """
    steps = torch.arange(source.directions.shape[1]).expand(len(rows), -1) if steps is None else steps
    at = (rows[:, None], steps)
    mask, positions = source.directions[at] >= 0, source.positions[at].long().clamp(min=0)
    around = unpacked(crops(cells_as_bits(source, rows, steps), positions.float(), world.view).short())
    offsets = torch.arange(world.view) - world.view // 2
    to_go = (source.stations[rows].long()[:, None] - positions)[..., None] == offsets
    own_station = to_go[..., 0, :, None] & to_go[..., 1, None, :]
    return Episode(Views(positions.float(), torch.cat([around, own_station.unsqueeze(3)], 3).float(), mask))


def cells_as_bits(source: Railways, rows: Int[Tensor, " B"], steps: Int[Tensor, "B T"]) -> Int[Tensor, "B T G G"]:
    """Whole maps; bits 0 to 3 of a cell are its track, west to north, 4 to 7 its train, north to west, 8 a station."""
    at, side = (rows[:, None], steps), source.rails.shape[-1]
    number = torch.tensor([side, 1])  # of a cell: row * side + column
    ways = source.rails[source.map_of[rows]].int()
    ways = ((ways | ways >> 4 | ways >> 8 | ways >> 12) & 15).short()
    places = torch.zeros_like(ways).flatten(1).scatter_(1, source.stations[rows].long() @ number, 256)
    cells = (ways.flatten(1) | places)[:, None].repeat(1, steps.shape[1], 1)
    positions, directions = source.positions[at].long(), source.directions[at].long()
    trains = torch.where(directions >= 0, 16 << directions.clamp(min=0), 0).short()
    cells.scatter_add_(2, positions.clamp(min=0) @ number, trains)
    return cells.unflatten(2, (side, side))


def unpacked(bits: Int[Tensor, "*batch H W"]) -> Int[Tensor, "*batch 9 H W"]:
    """The channels of cells from their bits, in the order of `CHANNELS`; all but the train's own station."""
    return torch.stack([bits >> bit & 1 for bit in (3, 2, 1, 0, 4, 5, 6, 7, 8)], -3)


def in_chunks(world: RailwayWorld, source: Railways, chunk: int = 10) -> Iterator[Episode]:
    """All episodes, whole, a few at a time."""
    return (episode(world, source, rows) for rows in torch.arange(len(source)).split(chunk))
