"""Any multi-agent environment with PettingZoo's parallel API: the observations of its agents become views."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import one_hot

from s2rm.tasks.worlds import Progress, at_least
from s2rm.views import Episode, Views

if TYPE_CHECKING:

    class Environment(Protocol):
        """An environment in which all agents act at once, as PettingZoo's `ParallelEnv`."""

        agents: list[str]

        def reset(self, seed: int | None = None) -> tuple[Mapping[str, object], object]: ...
        def step(self, actions: dict[str, object]) -> tuple[Mapping[str, object], object, object, object, object]: ...
        def action_space(self, agent: str) -> Any: ...

else:
    # Not checked at each call: `collect` refuses other environments with a sentence of its own.
    Environment = object

Position = Callable[[Any, str], ArrayLike]
Policy = Callable[[Any, Mapping[str, Any], np.random.Generator], Mapping[str, object]]
Observation = Callable[[Any], ArrayLike]
Seen = tuple[NDArray[np.float32], NDArray[np.float32], int]
"""of one agent at one step: its position, its observation and the number of its action, 0 without `with_actions`"""


def random_actions(
    environment: Environment, observations: Mapping[str, Any], generator: np.random.Generator
) -> dict[str, object]:
    """A random action for each agent, of those that an "action_mask" in its observation allows."""
    actions = {}
    for agent in environment.agents:
        space, seen = environment.action_space(agent), observations[agent]
        space.seed(int(generator.integers(2**31)))
        masked = isinstance(seen, Mapping) and "action_mask" in seen
        actions[agent] = space.sample(seen["action_mask"]) if masked else space.sample()
    return actions


def collect(
    environment: Environment, position: Position, policy: Policy = random_actions, *,
    num_episodes: int, num_steps: int, seed: int, observation: Observation | None = None, with_actions: bool = False,
    progress: Progress = iter,
) -> Episode:  # fmt: skip
    """Play episodes; each agent's observation becomes a view at its position, masked out while the agent is absent.

    An agent keeps its slot throughout. Agents may enter and leave: those in `environment.agents` after a step are
    present, so the last observation of an agent that leaves is not kept.

    Args:
        environment: with `reset(seed=...)`, `step(actions)`, `agents` and `action_space(agent)`, as `ParallelEnv` has.
        position: from an environment and an agent's name to `(x, y, ...)`, in the world's own units.
        policy: from an environment, the observations by agent and a generator to the actions by agent. Default: random
            actions.
        num_episodes: N.
        num_steps: T, at least 2. Longer episodes are cut; after the end of shorter ones no agent is present.
        seed: of the environment and of the policy.
        observation: converts an agent's observation to an array; images channels first, as the models' codecs take
            them. Default: observations are arrays already.
        with_actions: append to each view the agent's action at this step, one-hot: to vectors as further features, to
            images `(H, W)` or `(C, H, W)` as further channels. The targets do not contain it.

    Returns:
        N episodes, `(N, T, A, *shape)`, in float32, with a slot for every agent that ever entered.

    Raises:
        ValueError: numbers too small; no parallel environment; positions that are not finite or differ in length;
            observations that are missing or no arrays of one shape; actions that cannot be one-hot; an agent that
            returns after it left; an episode that ends before its second step.
    """
    at_least("parallel", {"num_episodes": num_episodes, "num_steps": num_steps}, num_episodes=1, num_steps=2)
    # PettingZoo's AEC environments have agent_iter; in Gymnasium's environments action_space is not callable.
    missing = [name for name in ("reset", "step", "action_space") if not callable(getattr(environment, name, None))]
    if missing or hasattr(environment, "agent_iter"):
        lacks = f"without the method {missing[0]}" if missing else "whose agents take turns"
        raise ValueError(
            f"parallel: expected an environment like PettingZoo's ParallelEnv, got {type(environment).__name__}, "
            f"{lacks}; create it with parallel_env(), or convert it with aec_to_parallel"
        )
    generator = np.random.default_rng(seed)
    reader = _Reader(environment, position, observation, with_actions)
    episodes = [_play(reader, policy, generator, num_steps, number) for number in progress(range(num_episodes))]
    return _episode(episodes, num_steps, reader)


class _Reader:
    """Reads the agents of an environment, and refuses those whose data differ in shape from the first agent's."""

    def __init__(self, environment: Environment, position: Position, observation: Observation | None, actions: bool):
        self.environment, self.position, self.observation = environment, position, observation
        self.first: tuple[str, int, tuple[int, ...]] | None = None
        self.actions, self.num_actions = actions, 0

    def step(self, observations: Mapping[str, object], actions: Mapping[str, object], where: str) -> dict[str, Seen]:
        agents = list(self.environment.agents)
        read = {agent: self.agent(agent, observations[agent], where) for agent in agents}
        return {a: (*read[a], self.action(a, actions[a]) if self.actions else 0) for a in agents}

    def agent(self, agent: str, seen: object, where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The position `(n,)` and the observation of an agent."""
        expected = f"parallel: expected position(environment, {agent!r}) to return finite (x, y, ...), got"
        remedy = "pass a function that reads this environment's positions"
        try:
            place = np.array(self.position(self.environment, agent), dtype=np.float32)
        except Exception as error:
            raise ValueError(f"{expected} {error!r}; {remedy}") from error
        if place.ndim != 1 or not place.size or not np.isfinite(place).all():
            raise ValueError(f"{expected} {place.tolist()}; {remedy}")
        try:
            # A copy, since an environment may write the next observation over this one.
            value = np.array(self.observation(seen) if self.observation else seen, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parallel: expected {agent!r} to observe an array of numbers, got {type(seen).__name__} ({error}); "
                "pass `observation`, a function that converts it to one"
            ) from error
        if value.size and np.isnan(value).all():
            raise ValueError(
                f"parallel: expected numbers in the observation of {agent!r} {where}, got only NaN; take an agent out "
                "of `agents` while it observes nothing"
            )
        self.first = name, length, shape = self.first or (agent, len(place), value.shape)
        if len(place) != length:
            raise ValueError(
                f"parallel: expected {length} coordinates, as for {name!r}, got {len(place)} for {agent!r}; "
                "return as many for all agents"
            )
        if value.shape != shape:
            raise ValueError(
                f"parallel: expected observations of one shape, {shape} as of {name!r}, got {value.shape} of {agent!r}"
                "; pass `observation`, a function that makes them equal"
            )
        return place, value

    def action(self, agent: str, action: Any) -> int:
        """The number of an agent's action, from 0."""
        space = self.environment.action_space(agent)
        num_actions = getattr(space, "n", None)
        if not isinstance(num_actions, int | np.integer):
            raise ValueError(f"parallel: expected Discrete actions, got {space} for {agent!r}; drop with_actions")
        self.num_actions = self.num_actions or int(num_actions)
        if num_actions != self.num_actions:
            unlike = f"{self.num_actions} actions, as for the first agent, got {num_actions} for {agent!r}"
            raise ValueError(f"parallel: expected {unlike}; drop with_actions")
        return int(action) - int(getattr(space, "start", 0))


def _play(
    reader: _Reader, policy: Policy, generator: np.random.Generator, num_steps: int, number: int
) -> list[dict[str, Seen]]:
    environment = reader.environment
    start = environment.reset(seed=int(generator.integers(2**31)))
    if not isinstance(start, tuple | list) or len(start) != 2:
        raise ValueError(
            f"parallel: expected reset() to return (observations, infos), got {type(start).__name__}; use PettingZoo's "
            "current API"
        )
    observations = start[0]
    steps: list[dict[str, Seen]] = []
    present, left = set[str](), set[str]()
    while environment.agents and len(steps) < num_steps:
        where = f"at step {len(steps)} of episode {number}"
        left |= present - set(environment.agents)
        present = set(environment.agents)
        if present & left:
            raise ValueError(
                f"parallel: expected agents that left not to return, as in PettingZoo, got {min(present & left)!r} "
                f"back {where}; let it enter under a new name"
            )
        if not present <= set(observations):
            raise ValueError(
                f"parallel: expected an observation of every agent, got none of {min(present - set(observations))!r} "
                f"{where}; take an agent out of `agents` while it observes nothing"
            )
        actions = policy(environment, observations, generator)
        steps.append(reader.step(observations, actions, where))
        if len(steps) < num_steps:
            observations, *_ = environment.step(dict(actions))
    if len(steps) < 2:
        raise ValueError(
            f"parallel: expected agents at 2 steps or more, got {len(steps)} in episode {number}, nothing to predict; "
            "set a later end, or use a policy that plays longer"
        )
    return steps


def _episode(episodes: list[list[dict[str, Seen]]], num_steps: int, reader: _Reader) -> Episode:
    """The episodes as one batch, with a slot for each agent, in the order in which they entered."""
    names = dict.fromkeys(agent for steps in episodes for step in steps for agent in step)
    slots = {agent: slot for slot, agent in enumerate(names)}
    shape, (place, value, _) = (len(episodes), num_steps, len(slots)), next(iter(episodes[0][0].values()))
    positions, values = (torch.zeros(*shape, *like.shape) for like in (place, value))
    mask, actions = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.long)
    filled = [part.numpy() for part in (positions, values, actions, mask)]
    for row, steps in enumerate(episodes):
        for t, step in enumerate(steps):
            for agent, seen in step.items():
                for part, content in zip(filled, (*seen, True), strict=True):
                    part[row, t, slots[agent]] = content
    targets = Views(positions, values, mask)
    if not reader.actions:
        return Episode(targets)
    # The actions `(N, T, A, K)` are K more features of vectors, or K more channels, the same at every pixel, of images.
    if values.ndim in (3, 5):  # numbers, and images without a channel axis
        values = values.unsqueeze(3)
    known = one_hot(actions, reader.num_actions).to(values.dtype)
    known = known.reshape(*known.shape, *[1] * (values.ndim - 4)).expand(*known.shape, *values.shape[4:])
    return Episode(Views(positions, torch.cat([values, known], 3), mask), targets)
