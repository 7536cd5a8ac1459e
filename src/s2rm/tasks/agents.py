"""Views from any multi-agent environment of PettingZoo's parallel kind: what each agent observes, where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from s2rm.views import Episode, Views

Position = Callable[[Any, str], Any]
Policy = Callable[[Any, Mapping[str, Any], np.random.Generator], Mapping[str, Any]]
Observation = Callable[[Any], Any]


def random_actions(environment: Any, observations: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """For each agent any of its actions, or of those that an "action_mask" in its observation allows."""
    actions = {}
    for agent in environment.agents:
        space, seen = environment.action_space(agent), observations[agent]
        space.seed(int(generator.integers(2**31)))
        masked = isinstance(seen, Mapping) and "action_mask" in seen
        actions[agent] = space.sample(seen["action_mask"]) if masked else space.sample()
    return actions


def collect(
    environment: Any,
    position: Position,
    policy: Policy = random_actions,
    *,
    num_episodes: int,
    num_steps: int,
    seed: int,
    observation: Observation | None = None,
    with_actions: bool = False,
    progress: Callable[[range], Iterable[int]] = iter,
) -> Episode:
    """Play episodes; each agent's observation is a view at its position, masked out while it is not there.

    An agent keeps its slot throughout. Agents may enter and leave: at each step those count that
    `environment.agents` lists after it, so that the observation with which one leaves is not kept.

    Args:
        environment: with `reset(seed=...)`, `step(actions)`, `agents` and `action_space(agent)`, as `ParallelEnv` has.
        position: called with the environment and an agent's name, gives `(x, y, ...)`, in the world's own units.
        policy: called with the environment, the observations by agent and a generator, gives an action to each.
        num_episodes: N.
        num_steps: T, at least 2. Longer episodes are cut; after the end of shorter ones nobody is there.
        seed: of the environment and of the policy.
        observation: makes an array of what an agent observes; images channels first, as the models' codecs take them.
            Default: it is one already.
        with_actions: append to each view what its agent does from this step on, one-hot: to vectors as further
            features, to images `(H, W)` or `(C, H, W)` as further channels. The targets do without.
        progress: wraps the range of episodes, for a progress bar.

    Returns:
        N episodes, `(N, T, A, *shape)`, in float32, with a slot for every agent that ever entered.

    Raises:
        ValueError: numbers too small; no parallel environment; positions that are not finite or not of one length;
            observations that are no arrays of one shape; actions that cannot be one-hot; an agent that comes back after
            it left; an episode that ends before its second step.
    """
    for name, given, least in (("num_episodes", num_episodes, 1), ("num_steps", num_steps, 2)):
        if given < least:
            raise ValueError(f"parallel: expected {name} of at least {least}, got {given}; ask for more")
    # What PettingZoo calls AEC environments have agent_iter; Gymnasium's action_space is no method.
    missing = [name for name in ("reset", "step", "action_space") if not callable(getattr(environment, name, None))]
    if missing or hasattr(environment, "agent_iter"):
        lacks = f"without the method {missing[0]}" if missing else "whose agents take turns"
        raise ValueError(
            f"parallel: expected an environment like PettingZoo's ParallelEnv, got {type(environment).__name__}, "
            f"{lacks}; make it with parallel_env(), or convert it with aec_to_parallel"
        )
    generator = np.random.default_rng(seed)
    slots: dict[str, int] = {}
    reader = _Reader(environment, position, observation or (lambda seen: seen), with_actions, slots)
    episodes = [_play(reader, policy, generator, num_steps, number) for number in progress(range(num_episodes))]
    return _episode(episodes, num_steps, len(slots), reader)


class _Step(NamedTuple):
    """The agents at one step, K of them."""

    slots: Int64[Tensor, " K"]
    positions: Float32[Tensor, "K n"]
    values: Tensor
    """float32 `(K, *shape)`"""
    actions: Int64[Tensor, " K"]
    """zeros, if they are not asked for"""


class _Reader:
    """Reads agents off the environment, and refuses those unlike the first that it read."""

    def __init__(
        self, environment: Any, position: Position, observation: Observation, actions: bool, slots: dict[str, int]
    ):
        self.environment, self.position, self.observation, self.slots = environment, position, observation, slots
        self.first: tuple[str, int, tuple[int, ...]] | None = None
        self.actions, self.num_actions = actions, 0

    def step(self, observations: Mapping[str, Any], actions: Mapping[str, Any]) -> _Step:
        agents = list(self.environment.agents)
        read = [self.agent(agent, observations[agent]) for agent in agents]
        return _Step(
            torch.tensor([self.slots.setdefault(agent, len(self.slots)) for agent in agents]),
            torch.from_numpy(np.stack([place for place, _ in read])),
            torch.from_numpy(np.stack([value for _, value in read])),
            torch.tensor([self.action(agent, actions[agent]) if self.actions else 0 for agent in agents]),
        )

    def agent(self, agent: str, seen: Any) -> tuple[np.ndarray, np.ndarray]:
        """Its position `(n,)` and its observation."""
        try:
            place = np.asarray(self.position(self.environment, agent), dtype=np.float32)
        except Exception as error:
            raise ValueError(
                f"parallel: expected position(environment, {agent!r}) to give (x, y, ...), got {error!r}; give a "
                "function that reads this environment's positions"
            ) from error
        if place.ndim != 1 or not place.size or not np.isfinite(place).all():
            raise ValueError(
                f"parallel: expected position(environment, {agent!r}) to give finite (x, y, ...), got {place.tolist()}"
                "; give a function that reads this environment's positions"
            )
        try:
            value = np.asarray(self.observation(seen), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parallel: expected {agent!r} to observe an array of numbers, got {type(seen).__name__} ({error}); "
                "give `observation`, a function that makes it one"
            ) from error
        if self.first is None:
            self.first = (agent, len(place), value.shape)
        name, length, shape = self.first
        if len(place) != length:
            raise ValueError(
                f"parallel: expected {length} coordinates, as for {name!r}, got {len(place)} for {agent!r}; "
                "give all agents as many"
            )
        if value.shape != shape:
            raise ValueError(
                f"parallel: expected observations of one shape, {shape} as of {name!r}, got {value.shape} of {agent!r}"
                "; give `observation`, a function that makes them equal"
            )
        return place, value

    def action(self, agent: str, action: Any) -> int:
        """Which of its actions, from 0."""
        space = self.environment.action_space(agent)
        num_actions = getattr(space, "n", None)
        if not isinstance(num_actions, int | np.integer):
            raise ValueError(
                f"parallel: expected Discrete actions, got {space} for {agent!r}; collect without with_actions"
            )
        self.num_actions = self.num_actions or int(num_actions)
        if num_actions != self.num_actions:
            raise ValueError(
                f"parallel: expected {self.num_actions} actions, as for the first agent, got {num_actions} for "
                f"{agent!r}; collect without with_actions"
            )
        return int(action) - int(getattr(space, "start", 0))


def _play(reader: _Reader, policy: Policy, generator: np.random.Generator, num_steps: int, number: int) -> list[_Step]:
    environment = reader.environment
    observations, _ = environment.reset(seed=int(generator.integers(2**31)))
    steps: list[_Step] = []
    there: set[str] = set()
    left: set[str] = set()
    while environment.agents and len(steps) < num_steps:
        left |= there - set(environment.agents)
        there = set(environment.agents)
        if there & left:
            raise ValueError(
                f"parallel: expected agents that left not to come back, as PettingZoo has it, got "
                f"{min(there & left)!r} back at step {len(steps)} of episode {number}; let it come under a new name"
            )
        actions = policy(environment, observations, generator)
        steps.append(reader.step(observations, actions))
        if len(steps) < num_steps:
            observations, *_ = environment.step(dict(actions))
    if len(steps) < 2:
        raise ValueError(
            f"parallel: expected agents at 2 steps or more, got {len(steps)} in episode {number}, nothing to predict; "
            "set a later end, or take a policy that plays longer"
        )
    return steps


def _episode(episodes: list[list[_Step]], num_steps: int, num_slots: int, reader: _Reader) -> Episode:
    first = episodes[0][0]
    slots = (len(episodes), num_steps, num_slots)
    positions = torch.zeros(*slots, first.positions.shape[1])
    values = torch.zeros(*slots, *first.values.shape[1:])
    mask, actions = torch.zeros(slots, dtype=torch.bool), torch.zeros(slots, dtype=torch.long)
    for row, steps in enumerate(episodes):
        for t, step in enumerate(steps):
            at = (row, t, step.slots)
            positions[at], values[at], mask[at], actions[at] = step.positions, step.values, True, step.actions
    targets = Views(positions, values, mask)
    if not reader.actions:
        return Episode(targets)
    known = one_hot(actions, reader.num_actions).to(values.dtype)
    return Episode(Views(positions, _append(values, known), mask), targets)


def _append(values: Tensor, channels: Float32[Tensor, "N T A K"]) -> Tensor:
    """Views `(N, T, A, *shape)` with K more features, or with K more channels, the same at every pixel."""
    if values.ndim == 3 or values.ndim == 5:  # numbers and images without a channel axis
        values = values.unsqueeze(3)
    channels = channels.reshape(*channels.shape, *[1] * (values.ndim - 4))
    return torch.cat([values, channels.expand(*channels.shape[:4], *values.shape[4:])], 3)
