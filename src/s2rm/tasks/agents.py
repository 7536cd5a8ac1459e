"""Any multi-agent environment with PettingZoo's parallel API: the observations of its agents become views."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

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
ALIKE = "wrap the environment such that all agents have one such action space; `collect` without actions takes any"
Observation = Callable[[Any], ArrayLike]
MOST_STEPS = 10**8
Seen = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""of one agent at one step: its position, its observation and its action, nothing without `with_actions`"""


class Step(NamedTuple):
    """What was seen at one step of an episode, and what followed from its actions; by agent."""

    seen: dict[str, Seen]
    rewards: Mapping[str, Any]
    ends: Collection[str]


def random_actions(
    environment: Environment, observations: Mapping[str, Any], generator: np.random.Generator
) -> dict[str, object]:
    """A random action for each agent, of those that an "action_mask" in its observation allows."""
    actions = {}
    for agent in environment.agents:
        space, seen = environment.action_space(agent), observations.get(agent)
        space.seed(int(generator.integers(2**31)))
        mask = seen.get("action_mask") if isinstance(seen, Mapping) else None
        actions[agent] = space.sample() if mask is None else space.sample(mask)
    return actions


def collect(
    environment: Environment, position: Position, policy: Policy = random_actions, *,
    num_episodes: int, num_steps: int, seed: int, observation: Observation | None = None, with_actions: bool = False,
    progress: Progress = iter,
) -> Episode:  # fmt: skip
    """Play episodes; each agent's observation becomes a view at its position, masked out while the agent is absent.

    Each agent keeps its slot. Agents may enter and leave: those in `environment.agents` after a step are present, so
    the last observation of an agent that leaves is discarded.

    Args:
        environment: with `reset(seed=...)`, `step(actions)`, `agents` and `action_space(agent)`, as `ParallelEnv` has.
        position: from an environment and an agent's name to `(x, y, ...)`, in the world's own units.
        policy: from an environment, the observations by agent and a generator to the actions by agent; its method
            `begin`, if it has one, is called before each episode. Default: random actions.
        num_episodes: N.
        num_steps: T, at least 2. Longer episodes are cut; after the end of shorter ones no agent is present.
        seed: of the environment and of the policy.
        observation: converts an agent's observation to an array; images channels first, as the models' codecs take
            them. Default: observations are arrays already.
        with_actions: append to each view the agent's action at this step, one-hot or continuous: to vectors as further
            features, to images `(H, W)` or `(C, H, W)` as further channels. The targets do not contain it.

    Returns:
        N episodes, `(N, T, A, *shape)`, in float32, with a slot for every agent that ever entered.

    Raises:
        ValueError: numbers too small, or more than 1e8 steps in total; not a parallel environment; positions that are
            not finite or differ in length; observations that are missing or not arrays of one shape; unsupported
            actions; an agent that returns after it left; an episode that ends before its second step.
    """
    parts = _played(
        environment, position, policy, num_episodes, num_steps, seed, observation, with_actions, progress
    )  # fmt: skip
    points, values, mask = (torch.from_numpy(parts[name]) for name in ("points", "features", "mask"))
    targets = Views(points, values, mask)
    if not with_actions:
        return Episode(targets)
    # The actions `(N, T, A, K)` are K more features of vectors, or K more channels, the same at every pixel, of images.
    if values.ndim in (3, 5):  # numbers, and images without a channel axis
        values = values.unsqueeze(3)
    known = torch.from_numpy(parts["actions"])
    known = known.reshape(*known.shape, *[1] * (values.ndim - 4)).expand(*known.shape, *values.shape[4:])
    return Episode(Views(points, torch.cat([values, known], 3), mask), targets)


def record(
    environment: Environment, position: Position, policy: Policy = random_actions, *,
    num_episodes: int, num_steps: int, seed: int, observation: Observation | None = None, progress: Progress = iter,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    """Play and record episodes: a world of points for `s2rm.tasks.arrays.write_world`.

    Arguments and errors as for `collect`.

    Returns:
        `points` `(N, T, A, n)`, the positions; `features` `(N, T, A, *shape)`, the observations; `actions`
        `(N, T, A, K)`, one-hot or continuous; `rewards` and `ends` `(N, T, A)`, the consequences of these actions,
        except at the last step, whose actions are not played; `mask` `(N, T, A)`.
    """
    return _played(environment, position, policy, num_episodes, num_steps, seed, observation, True, progress)


def _played(
    environment: Environment, position: Position, policy: Policy, num_episodes: int, num_steps: int, seed: int,
    observation: Observation | None, with_actions: bool, progress: Progress,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    at_least("parallel", {"num_episodes": num_episodes, "num_steps": num_steps}, num_episodes=1, num_steps=2)
    if num_episodes * num_steps > MOST_STEPS:  # each has a place in the result, also where an episode is shorter
        raise ValueError(
            f"parallel: expected at most {MOST_STEPS:,} steps in all, got {num_episodes} x {num_steps}; lower num_steps"
        )
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
    return _as_arrays(episodes, num_steps)


class _Reader:
    """Reads the agents of an environment, and refuses those whose data differ in shape from the first agent's."""

    def __init__(self, environment: Environment, position: Position, observation: Observation | None, actions: bool):
        self.environment, self.position, self.observation = environment, position, observation
        self.first: tuple[str, int, tuple[int, ...]] | None = None
        self.actions, self.num_actions = actions, 0

    def step(
        self, present: set[str], observations: Mapping[str, object], actions: Mapping[str, object], where: str
    ) -> dict[str, Seen]:
        if self.actions and not present <= set(actions):
            raise ValueError(
                f"parallel: expected the policy to return an action for every agent, got none for "
                f"{min(present - set(actions))!r} {where}; return one for each"
            )
        agents = [agent for agent in self.environment.agents if agent in present]
        read = {agent: self.agent(agent, observations[agent], where) for agent in agents}
        return {a: (*read[a], self.action(a, actions[a], where) if self.actions else read[a][0][:0]) for a in agents}

    def agent(self, agent: str, seen: object, where: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The position `(n,)` and the observation of an agent."""
        expected = f"parallel: expected position(environment, {agent!r}) to return finite (x, y, ...), got"
        remedy = "pass a function that reads this environment's positions"
        try:
            place = _numbers(self.position(self.environment, agent))
        except Exception as error:
            raise ValueError(f"{expected} {error!r}; {remedy}") from error
        if place.ndim != 1 or not place.size or not np.isfinite(place).all():
            raise ValueError(f"{expected} {place.tolist()}; {remedy}")
        try:
            value = _numbers(self.observation(seen) if self.observation else seen)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parallel: expected {agent!r} to observe an array of numbers, got {type(seen).__name__} ({error}); "
                "pass `observation`, a function that converts it to one"
            ) from error
        if value.size and (np.isnan(value).all() or np.isinf(value).any()):
            got = "infinity" if np.isinf(value).any() else "only NaN"
            raise ValueError(
                f"parallel: expected finite numbers in the observation of {agent!r} {where}, got {got}; take an agent "
                "out of `agents` while it observes nothing, or pass `observation`, a function that makes them finite"
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

    def action(self, agent: str, action: Any, where: str) -> NDArray[np.float32]:
        """An agent's action `(K,)`: one-hot, or the numbers of a continuous one."""
        space = self.environment.action_space(agent)
        num_actions, shape = getattr(space, "n", None), getattr(space, "shape", None)
        discrete = isinstance(num_actions, int | np.integer)
        continuous = np.issubdtype(getattr(space, "dtype", None) or np.float32, np.floating)
        if not discrete and not (isinstance(shape, tuple) and shape and continuous):
            wrong = f"expected Discrete or Box actions of real numbers, got {space} for {agent!r}"
            raise ValueError(f"parallel: {wrong}; {ALIKE}")
        size = int(num_actions or 0) if discrete else int(np.prod(shape or ()))
        self.num_actions = self.num_actions or size
        if size != self.num_actions:
            unlike = f"{self.num_actions} actions, as for the first agent, got {size} for {agent!r}"
            raise ValueError(f"parallel: expected {unlike}; {ALIKE}")
        if discrete:
            number = self.number(agent, action, size, int(getattr(space, "start", 0)), where)
            return np.eye(size, dtype=np.float32)[number]
        numbers = _numbers(action).reshape(-1)
        if numbers.shape != (size,) or not np.isfinite(numbers).all():
            raise ValueError(
                f"parallel: expected an action of {agent!r} of {size} finite numbers {where}, got {action!r:.100}; "
                "correct the policy"
            )
        return numbers

    @staticmethod
    def number(agent: str, action: Any, num_actions: int, start: int, where: str) -> int:
        """The number of a discrete action, from 0."""
        try:
            number = int(action) - start
            if number + start != action:
                raise ValueError("a fraction or a text")
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"parallel: expected an action of {agent!r} that is a whole number {where}, got {action!r:.100}; "
                "correct the policy"
            ) from error
        if not 0 <= number < num_actions:
            raise ValueError(
                f"parallel: expected an action of {agent!r} from {start} to {start + num_actions - 1} {where}, "
                f"got {action}; correct the policy"
            )
        return number


def _numbers(given: Any) -> NDArray[np.float32]:
    """A copy, since an environment may write the next observation over this one; NaN for what is masked."""
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu().numpy()
    if isinstance(given, np.ma.MaskedArray):
        given = np.ma.filled(given.astype(np.float32), np.nan)
    return np.array(given, dtype=np.float32)


def _reset(environment: Environment, seed: int) -> Mapping[str, object]:
    """The first observations of an episode."""
    try:
        takes_seed = "seed" in inspect.signature(environment.reset).parameters or any(
            each.kind is each.VAR_KEYWORD for each in inspect.signature(environment.reset).parameters.values()
        )
    except (TypeError, ValueError):  # a function without a signature
        takes_seed = True
    remedy = "use PettingZoo's current API"
    if not takes_seed:
        raise ValueError(f"parallel: expected reset() to take a seed, got one that does not; {remedy}")
    start = environment.reset(seed=seed)
    if not isinstance(start, tuple | list) or len(start) != 2 or not isinstance(start[0], Mapping):
        got = type(start).__name__
        if isinstance(start, tuple | list):
            got += f" of {', '.join(type(part).__name__ for part in start) or 'nothing'}"
        raise ValueError(f"parallel: expected reset() to return (observations, infos), got {got:.100}; {remedy}")
    if not isinstance(getattr(environment, "agents", None), Iterable):
        raise ValueError(f"parallel: expected the environment to list its agents after reset(), got none; {remedy}")
    return start[0]


def _stepped(result: object, where: str) -> tuple[Mapping[str, object], dict[str, Any], set[str]]:
    """The observations after a step, the rewards, and the agents that have ended by it."""
    if not isinstance(result, tuple | list) or len(result) not in (4, 5) or not isinstance(result[0], Mapping):
        got = type(result).__name__
        if isinstance(result, tuple | list):
            got += f" of {len(result)} that begins with {type(result[0]).__name__ if result else 'nothing'}"
        raise ValueError(
            "parallel: expected step() to return (observations, rewards, terminations, truncations, infos), the first "
            f"by agent, got {got} {where}; use PettingZoo's current API"
        )
    # The older interface has one "dones" in place of terminations and truncations.
    flags = [each for each in result[2 : len(result) - 1] if isinstance(each, Mapping)]
    rewards = dict(result[1]) if isinstance(result[1], Mapping) else {}
    return result[0], rewards, {agent for each in flags for agent, flag in each.items() if np.all(flag)}


def _play(reader: _Reader, policy: Policy, generator: np.random.Generator, num_steps: int, number: int) -> list[Step]:
    environment = reader.environment
    observations = _reset(environment, int(generator.integers(2**31)))
    if callable(begin := getattr(policy, "begin", None)):
        begin()
    steps: list[Step] = []
    present, left, ended = set[str](), set[str](), set[str]()
    # Some environments go on listing agents that have ended.
    while (now := set(environment.agents) - ended) and len(steps) < num_steps:
        where = f"at step {len(steps)} of episode {number}"
        left |= present - now
        present = now
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
        if not isinstance(actions, Mapping):
            raise ValueError(
                f"parallel: expected the policy to return actions by agent, got {type(actions).__name__} {where}; "
                "return a dict"
            )
        seen = reader.step(present, observations, actions, where)
        rewards, flags = dict[str, Any](), set[str]()
        if len(steps) + 1 < num_steps:
            observations, rewards, flags = _stepped(environment.step(dict(actions)), where)
            ended |= flags
        steps.append(Step(seen, rewards, flags))
    if len(steps) < 2:
        raise ValueError(
            f"parallel: expected agents at 2 steps or more, got {len(steps)} in episode {number}, nothing to predict; "
            "set a later end, or use a policy that plays longer"
        )
    return steps


def _as_arrays(episodes: list[list[Step]], num_steps: int) -> dict[str, NDArray[Any]]:
    """The episodes as one batch, with a slot for each agent, in the order in which they entered."""
    names = dict.fromkeys(agent for steps in episodes for step in steps for agent in step.seen)
    slots = {agent: slot for slot, agent in enumerate(names)}
    shape, like = (len(episodes), num_steps, len(slots)), next(iter(episodes[0][0].seen.values()))
    parts = {
        name: np.zeros((*shape, *one.shape), np.float32)
        for name, one in zip(("points", "features", "actions"), like, strict=True)
    }
    rewards, ends, mask = np.zeros(shape, np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for row, steps in enumerate(episodes):
        for t, step in enumerate(steps):
            for agent, seen in step.seen.items():
                at = row, t, slots[agent]
                for part, content in zip(parts.values(), seen, strict=True):
                    part[at] = content
                rewards[at], ends[at], mask[at] = step.rewards.get(agent, 0.0), agent in step.ends, True
    return {**parts, "rewards": rewards, "ends": ends, "mask": mask}
