"""Plays flatland, a railway of the package flatland-rl, and keeps what its trains did."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from s2rm.tasks.railways.world import TENSORS, Railways, RailwayWorld

_ATTEMPTS = 100


def collect(
    world: RailwayWorld, split: str, seed: int, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter
) -> Railways:
    """The episodes of a split, "train", "val" or "test", played from the seed; no two splits share a map.

    Trains follow their shortest ways and give way to each other: `DeadLockAvoidancePolicy` of flatland-baselines. They
    appear on the grid once they depart, and are gone when they arrive.

    Args:
        world: the railway.
        split: of the three.
        seed: the same seed gives the same episodes.
        progress: wraps the numbers of the episodes, to show how far it is.

    Raises:
        ImportError: without flatland.
        ValueError: no such split, or a grid on which no railway can be laid.
    """
    sizes = {"train": world.train_episodes, "val": world.val_episodes, "test": world.test_episodes}
    if split not in sizes:
        raise ValueError(f"railways: expected a split of {', '.join(sizes)}, got {split!r}")
    try:
        import flatland_baselines  # noqa: F401
        from flatland.envs.rail_env import RailEnv  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'the railway needs flatland; install it with pip install "s2rm[railways]" and then '
            f"pip install --no-deps flatland-rl==4.2.6 flatland-baselines==4.3.0 ({error})"
        ) from error
    maps, episodes = [], []
    for number in progress(range(sizes[split])):
        which, again = divmod(number, world.episodes_per_map)
        if not again:
            random = np.random.RandomState(
                np.random.SeedSequence([seed, list(sizes).index(split), which]).generate_state(8)
            )
            rails, hints = _lay(world, random)
            maps.append(torch.from_numpy(rails.grid.copy()))
        episodes.append(_play(world, rails, hints, random))
    parts = {name: torch.from_numpy(np.stack([part[name] for part in episodes])) for name in TENSORS[2:]}
    return Railways(torch.stack(maps), torch.arange(len(episodes)) // world.episodes_per_map, **parts)


def _lay(world: RailwayWorld, random: np.random.RandomState) -> tuple[Any, Any]:
    """A map, and where its cities are."""
    from flatland.envs.rail_generators import sparse_rail_generator

    lay = sparse_rail_generator(
        max_num_cities=world.cities,
        max_rails_between_cities=world.rails_between_cities,
        max_rail_pairs_in_city=world.rail_pairs_in_city,
    )
    with warnings.catch_warnings():
        for message in ("Could not set all required cities", r".*Changing to Grid mode"):  # their number is a bound
            warnings.filterwarnings("ignore", message)
        try:
            rails, hints = lay(world.grid, world.grid, world.num_trains, 0, random)
        except ValueError as error:
            raise ValueError(
                f"railways: a grid of {world.grid} cells has no room for 2 cities of {world.rail_pairs_in_city} pairs "
                "of tracks; take a larger grid, or lower rail_pairs_in_city or rails_between_cities"
            ) from error
    return rails, hints


def _play(world: RailwayWorld, rails: Any, hints: Any, random: np.random.RandomState) -> dict[str, np.ndarray]:
    """One episode, with a schedule of its own."""
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


def _schedule(world: RailwayWorld, rails: Any, hints: Any, random: np.random.RandomState) -> Any:
    """Trains on a map, all of which can get to where they are bound."""
    from flatland.core.env_observation_builder import DummyObservationBuilder
    from flatland.envs.line_generators import sparse_line_generator
    from flatland.envs.malfunction_generators import MalfunctionParameters, NoMalfunctionGen, ParamMalfunctionGen
    from flatland.envs.rail_env import RailEnv
    from flatland.envs.rail_generators import rail_from_grid_transition_map
    from flatland.envs.timetable_utils import Timetable

    def timetable(agents: Any, distances: Any, hints: Any, random: np.random.RandomState) -> Timetable:
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
            world.grid,
            world.grid,
            rail_from_grid_transition_map(rails, hints),
            sparse_line_generator({speed: 1 / len(world.speeds) for speed in world.speeds}),
            world.num_trains,
            DummyObservationBuilder(),  # its own observations, which nobody reads, take most of its time
            malfunction_generator=ParamMalfunctionGen(breaks) if world.malfunction_rate else NoMalfunctionGen(),
            random_seed=seed,
            timetable_generator=timetable,
        )
        env.reset(random_seed=seed)
        if all(rails.check_path_exists(*agent.initial_configuration, agent.target) for agent in env.agents):
            return env
    raise ValueError(
        f"railways: a grid of {world.grid} cells with up to {world.cities} cities has no ways for {world.num_trains} "
        "trains; take a larger grid"
    )
