"""Episodes of trains, played with flatland (the package flatland-rl) and kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sized
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from s2rm.extras import require
from s2rm.files import read_tensors
from s2rm.tasks.railways.world import TENSORS, Railways, RailwayWorld
from s2rm.tasks.worlds import Progress, named

if TYPE_CHECKING:
    from flatland.envs.rail_env import RailEnv
    from flatland.envs.rail_grid_transition_map import RailGridTransitionMap
    from flatland.envs.timetable_utils import Timetable

Random = np.random.RandomState
Hints = Mapping[str, object]
"""where the cities of a map are, as flatland's generators pass it on"""
SPLITS = ("train", "val", "test")
_SEEN = ("view", "clip", "train_episodes", "val_episodes", "test_episodes")
_ATTEMPTS = 100


def collected(world: RailwayWorld, split: str, seed: int = 0, folder: str | Path | None = None) -> Railways:
    """The episodes of a split, read from the folder if it holds them, else played and kept there.

    Raises:
        ImportError: they must be played and the extra "railways" is not installed.
        ValueError: as from `collect`; or the folder's file is broken or holds episodes of another world or seed.
    """
    console = Console(stderr=True)  # a progress bar where that is a terminal
    bar = partial(track, description=f"{split} episodes", console=console, disable=not console.is_terminal)
    if folder is None:
        return collect(world, split, seed, bar)
    path = Path(folder) / f"episodes-{split}.safetensors"
    played = {name: value for name, value in asdict(world).items() if name not in _SEEN}
    about = {**played, "speeds": list(world.speeds), "episodes": _num_episodes(world, split), "seed": seed}
    if not path.is_file():
        railways = collect(world, split, seed, bar)
        railways.save(path, **about)
        return railways
    tensors, found = read_tensors(path, "railways", TENSORS)
    for name, value in about.items():
        if found.get(name) != value:
            raise ValueError(
                f"railways: {path} holds other episodes, expected {name} {value}, got {found.get(name)}; delete it or "
                "take another folder"
            )
    return Railways(**tensors)


def _num_episodes(world: RailwayWorld, split: str) -> int:
    sizes = {"train": world.train_episodes, "val": world.val_episodes, "test": world.test_episodes}
    return named(sizes, split, "railways", "split")


def collect(world: RailwayWorld, split: str, seed: int = 0, progress: Progress = iter) -> Railways:
    """Play the episodes of a split, "train", "val" or "test"; no two splits share a map.

    Trains follow their shortest paths and give way to each other: `DeadLockAvoidancePolicy` of flatland-baselines. They
    appear on the grid at departure and leave it on arrival. The same seed gives the same episodes.

    Raises:
        ImportError: the extra "railways" is not installed.
        ValueError: no such split, or a grid on which no railway can be built.
    """
    numbers = range(_num_episodes(world, split))
    require("railways")
    maps, played = [], []
    for number in progress(numbers):
        which, again = divmod(number, world.episodes_per_map)
        if not again:
            random = Random(np.random.SeedSequence([seed % 2**64, SPLITS.index(split), which]).generate_state(8))
            rails, hints = _build(world, random)
            maps.append(torch.from_numpy(rails.grid.copy()))
        played.append(_play(world, rails, hints, random))
    parts = {name: torch.from_numpy(np.stack([part[name] for part in played])) for name in TENSORS[2:]}
    return Railways(torch.stack(maps), torch.arange(len(played)) // world.episodes_per_map, **parts)


def _build(world: RailwayWorld, random: Random) -> tuple[RailGridTransitionMap, Hints]:
    """A map, and where its cities are."""
    from flatland.envs.rail_generators import sparse_rail_generator

    build = sparse_rail_generator(
        max_num_cities=world.cities, max_rails_between_cities=world.rails_between_cities,
        max_rail_pairs_in_city=world.rail_pairs_in_city,
    )  # fmt: skip
    with warnings.catch_warnings():
        # Fewer cities than asked for are fine: world.cities is an upper bound.
        for message in ("Could not set all required cities", r".*Changing to Grid mode"):
            warnings.filterwarnings("ignore", message)
        try:
            rails, hints = build(world.grid, world.grid, world.num_trains, 0, random)
        except ValueError as error:
            raise ValueError(
                f"railways: a grid of {world.grid} cells has no room for 2 cities of {world.rail_pairs_in_city} pairs "
                "of tracks; take a larger grid, or lower rail_pairs_in_city or rails_between_cities"
            ) from error
    return rails, hints


def _play(world: RailwayWorld, rails: RailGridTransitionMap, hints: Hints, random: Random) -> dict[str, np.ndarray]:
    """One episode, with a schedule of its own: all of `TENSORS` but the maps."""
    from flatland_baselines.deadlock_avoidance_heuristic.policy.deadlock_avoidance_policy import DeadLockAvoidancePolicy

    env = _schedule(world, rails, hints, random)
    policy, everyone = DeadLockAvoidancePolicy(), range(world.num_trains)
    positions = np.full((world.num_steps, world.num_trains, 2), -1, np.int16)
    directions, states = (np.full(positions.shape[:2], -1, np.int8) for _ in range(2))
    for step in range(world.num_steps):
        states[step:] = [agent.state for agent in env.agents]
        for train, agent in enumerate(env.agents):
            if agent.position is not None:
                positions[step, train], directions[step, train] = agent.position, agent.direction
        if env.dones["__all__"]:
            break
        env.step(policy.act_many(everyone, [env] * world.num_trains))
    stations = np.array([agent.target for agent in env.agents], np.int16)
    return {"positions": positions, "directions": directions, "states": states, "stations": stations}


def _schedule(world: RailwayWorld, rails: RailGridTransitionMap, hints: Hints, random: Random) -> RailEnv:
    """Trains on a map, each with a path to its destination."""
    from flatland.core.env_observation_builder import DummyObservationBuilder
    from flatland.envs.line_generators import sparse_line_generator
    from flatland.envs.malfunction_generators import MalfunctionParameters, NoMalfunctionGen, ParamMalfunctionGen
    from flatland.envs.rail_env import RailEnv
    from flatland.envs.rail_generators import rail_from_grid_transition_map
    from flatland.envs.timetable_utils import Timetable

    def timetable(agents: Sized, distances: object, hints: object, random: Random) -> Timetable:
        departures = random.randint(0, world.latest_departure + 1, len(agents)).tolist()
        return Timetable(
            earliest_departures=[[departure, None] for departure in departures],
            latest_arrivals=[[None, world.num_steps]] * len(agents),
            max_episode_steps=world.num_steps + 1,
        )

    breaks = MalfunctionParameters(world.malfunction_rate, 1, world.longest_malfunction)
    for _ in range(_ATTEMPTS):
        seed = int(random.randint(2**31 - 1))
        env = RailEnv(
            world.grid, world.grid, rail_from_grid_transition_map(rails, hints),
            sparse_line_generator({speed: 1 / len(world.speeds) for speed in world.speeds}), world.num_trains,
            DummyObservationBuilder(),  # flatland's own observations are not used and cost most of the time
            malfunction_generator=ParamMalfunctionGen(breaks) if world.malfunction_rate else NoMalfunctionGen(),
            random_seed=seed, timetable_generator=timetable,
        )  # fmt: skip
        env.reset(random_seed=seed)
        if all(rails.check_path_exists(*agent.initial_configuration, agent.target) for agent in env.agents):
            return env
    raise ValueError(
        f"railways: a grid of {world.grid} cells with up to {world.cities} cities has no paths for "
        f"{world.num_trains} trains; take a larger grid"
    )
