"""Planning with a trained model by the cross-entropy method, with a reward function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils._pytree import tree_map

from s2rm.models.world_model import WorldModel
from s2rm.tasks.arrays.predictors import OfSlots, Trivial
from s2rm.tasks.arrays.rollouts import Ahead, OfModel, go_on
from s2rm.tasks.arrays.world import ArrayWorld, Source, actions_of, tracked, with_actions
from s2rm.tasks.worlds import at_least
from s2rm.views import Views

KEPT = 0.2
"""share of the previous distribution of actions that each round keeps, so that no action is ruled out too early"""
SAMPLE = 256
"""training sequences whose actions are looked at"""

Reward = Callable[[Ahead], Tensor]
"""from the predictions of B rollouts at one step to the reward of each, `(B,)`"""


class Plan(NamedTuple):
    """A sequence of actions, and its expected outcome."""

    actions: Float[Tensor, "H P K"]
    """the actions, starting with the current step"""
    positions: Float[Tensor, "H P n"]
    """the expected position of each point one step after each action"""
    reward: float
    """the expected reward, summed over these steps"""


@dataclass(frozen=True)
class Planner:
    r"""Searches for the actions with the highest reward under a model, by the cross-entropy method.

    Plans are sampled from a distribution of independent actions, at first that of training. The model rolls all of them
    out, the distribution is fitted to the best ones, and plans are sampled again. Actions that are one-hot in training
    are sampled as such; others from normal distributions within the bounds of training. Planning again at each step is
    model-predictive control. Source: Rubinstein, 1999.

    Args:
        model: trained on the world.
        world: of points with actions.
        reward: of one step of rollouts, from the model's predictions.
        steps: H, the planning horizon.
        candidates: number of plans sampled in each round.
        elites: number of best plans to which the distribution is fitted.
        rounds: number of rounds.

    Raises:
        ValueError: a world without actions; a number below 1, or more elites than candidates.
    """

    model: WorldModel[Any]
    world: ArrayWorld
    reward: Reward
    steps: int = 8
    candidates: int = 128
    elites: int = 8
    rounds: int = 3

    def __post_init__(self) -> None:
        if not self.world.num_actions:
            raise ValueError(
                f"plan: expected a world of points with actions, got {self.world.kind} without; record them with s2rm "
                "collect"
            )
        least = dict.fromkeys(("steps", "candidates", "elites", "rounds"), 1)
        at_least("plan", {name: getattr(self, name) for name in least}, **least)
        if self.elites > self.candidates:
            raise ValueError(
                f"plan: elites must be at most {self.candidates} candidates, got {self.elites}; take fewer"
            )

    @cached_property
    def _trivial(self) -> Trivial:
        return Trivial(self.world)

    @cached_property
    def _taken(self) -> Float[Tensor, "N K"]:
        """Actions in training."""
        source = Source(self.world, "train")
        rows = torch.linspace(0, len(source) - 1, min(SAMPLE, len(source))).round().long()
        actions = source.read("actions", rows, torch.zeros_like(rows), self.world.num_steps).float()
        if "mask" in source.arrays:
            actions = actions[source.read("mask", rows, torch.zeros_like(rows), self.world.num_steps).bool()]
        return actions.flatten(0, -2)

    @cached_property
    def _one_hot(self) -> bool:
        taken = self._taken
        return bool(((taken == 0) | (taken == 1)).all() and (taken.sum(-1) == 1).all())

    @torch.no_grad()
    def plan(self, views: Views, seed: int = 0) -> Plan:
        """The best plan that was sampled.

        Args:
            views: the views so far, `(1, T, P, ...)`, as from `episodes`; the actions in the last of them are ignored,
                since they are the first to be planned.
            seed: seed of the sampled plans.

        Raises:
            ValueError: several sequences; a reward of another shape or that is not finite.
        """
        if views.batch_size != 1:
            raise ValueError(f"plan: expected the views of one sequence, got {views.batch_size}; plan each separately")
        generator = torch.Generator().manual_seed(seed)
        memory, before, number = self._trivial.memory(views), None, self.candidates
        for step in range(views.num_steps):
            memory.see(views.at(step))
        assert isinstance(memory, OfSlots)
        if views.num_steps > 1:
            before = self._state_of_each(self.model.last(self.model.observe(views.steps(None, -1))))
        now = Views(*(self._each(part[:, -1:]) for part in (views.positions, views.values, views.mask)))
        shape = (self.steps, views.mask.shape[2], self.world.num_actions)
        mean, spread = (part.expand(shape) for part in (self._taken.mean(0), self._taken.std(0)))
        best: Plan | None = None
        for _ in range(self.rounds):
            actions = self._draw(mean, spread, generator)
            predictor = OfModel(self.model, self._trivial)
            predictor.state = before
            begun = with_actions(self.world, now, actions[:, None, 0])
            predictor.see(begun)
            own = OfSlots(self.world, memory.mean, now)
            own.at, own.values, own.ago = (self._each(part) for part in (memory.at, memory.values, memory.ago))
            own.actions = actions_of(self.world, begun)[:, 0]  # 0 where a point is not seen, as in training
            later = torch.cat([actions[:, 1:], actions[:, -1:]], 1)  # from the last step nothing follows any more
            total, places = torch.zeros(number), []
            for made in go_on(predictor, own, self._trivial, self.steps, plan=later):
                total = total + self._rewarded(made)
                places.append(made.positions)
            order = total.argsort(descending=True)[: self.elites]
            few, first = actions[order], int(order[0])
            if best is None or float(total[first]) > best.reward:
                best = Plan(actions[first], torch.stack(places, 1)[first], float(total[first]))
            mean = KEPT * mean + (1 - KEPT) * few.mean(0)
            spread = KEPT * spread + (1 - KEPT) * few.std(0, correction=0)
        assert best is not None
        return best

    def _each(self, one: Any) -> Any:
        """The same for every candidate."""
        return tree_map(lambda part: part.expand(self.candidates, *part.shape[1:]), one)

    def _state_of_each(self, state: Any) -> Any:
        """The same state for every candidate; of the batch is the axis by which states of one and of two differ."""

        def each(part: Tensor, one: Tensor, two: Tensor) -> Tensor:
            axes = zip(one.shape, two.shape, strict=True)
            return part.expand([-1 if size == other else self.candidates for size, other in axes])

        return tree_map(each, state, self.model.initial_state(1), self.model.initial_state(2))

    def _draw(self, mean: Tensor, spread: Tensor, generator: torch.Generator) -> Float[Tensor, "N H P K"]:
        number, kinds = self.candidates, mean.shape[-1]
        if self._one_hot:
            drawn = torch.multinomial(mean.reshape(-1, kinds), number, replacement=True, generator=generator)
            return torch.nn.functional.one_hot(drawn.T, kinds).float().reshape(number, *mean.shape)
        drawn = mean + spread * torch.randn(number, *mean.shape, generator=generator)
        return drawn.clamp(self._taken.amin(0), self._taken.amax(0))

    def _rewarded(self, made: Ahead) -> Tensor:
        reward = torch.as_tensor(self.reward(made))
        if reward.shape != (self.candidates,) or not reward.isfinite().all():
            got = f"shape {tuple(reward.shape)}" if reward.shape != (self.candidates,) else "NaN or infinity"
            raise ValueError(
                f"plan: expected of reward one finite number for each of {self.candidates} rollouts, got {got}; sum "
                "over the points"
            )
        return reward

    def policy(
        self, position: Callable[[Any, str], ArrayLike], observation: Callable[[Any], ArrayLike] = np.asarray
    ) -> Policy:
        """A policy for an environment with PettingZoo's parallel API: it plans anew at each step.

        The agents take the slots of the recorded episodes, in the order in which the environment first lists them.
        `agents.record` and `collect` call its method `begin` before each episode; do so in your own loops.

        Args:
            position: from the environment and an agent's name to its position, as it was recorded.
            observation: converts an agent's observation to an array, as it was recorded.
        """
        return Policy(self, position, observation)


@dataclass(frozen=True)
class Policy:
    """From an environment, the observations by agent and a generator to the planned action of each agent."""

    planner: Planner
    position: Callable[[Any, str], ArrayLike]
    observation: Callable[[Any], ArrayLike]
    slots: list[str] = field(default_factory=list, init=False)
    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, init=False)
    taken: list[Tensor] = field(default_factory=list, init=False)

    def begin(self) -> None:
        """Forget the last episode."""
        for part in (self.slots, self.seen, self.taken):
            part.clear()

    def __call__(
        self, environment: Any, observations: Mapping[str, Any], generator: np.random.Generator
    ) -> dict[str, object]:
        world, slots = self.planner.world, self.slots
        slots[:] = slots or list(environment.agents)
        if len(slots) != world.num_views:
            raise ValueError(
                f"plan: expected {world.num_views} agents, as in {world.path}, got {len(slots)}; plan in the "
                "environment that was recorded"
            )
        if len(self.seen) == world.num_steps:
            raise ValueError(
                f"plan: expected one episode of at most {world.num_steps} steps, as recorded, got more; call the "
                "policy's `begin` before each episode"
            )
        there = [agent in environment.agents for agent in slots]
        known = {agent: np.asarray(self.observation(each)) for agent, each in observations.items()}
        blank = np.zeros_like(next(iter(known.values())))
        points = [self.position(environment, a) if here else [0.0] * len(world.extent)
                  for a, here in zip(slots, there, strict=True)]  # fmt: skip
        found = [known[a] if here else blank for a, here in zip(slots, there, strict=True)]
        self.seen.append(tuple(torch.from_numpy(np.array(part)) for part in (points, found, there)))  # type: ignore[arg-type]
        self.taken.append(torch.zeros(len(slots), world.num_actions))
        places, features, mask = (torch.stack(parts)[None] for parts in zip(*self.seen, strict=True))
        # Without recorded features, the model sees no observations.
        known_too = features.float() if world.target_shape[0] > len(world.extent) else None
        views, _ = tracked(world, places.float(), known_too, torch.stack(self.taken)[None], mask, mask)
        self.taken[-1] = self.planner.plan(views, int(generator.integers(2**31))).actions[0]
        return {
            agent: as_action(environment.action_space(agent), action)
            for agent, action, here in zip(slots, self.taken[-1], there, strict=True) if here
        }  # fmt: skip


def as_action(space: Any, action: Float[Tensor, " K"]) -> object:
    """An action as a space of Gymnasium has it: a number, or an array."""
    if hasattr(space, "n"):
        return int(action.argmax()) + int(getattr(space, "start", 0))
    return action.numpy().reshape(space.shape).astype(getattr(space, "dtype", np.float32))
