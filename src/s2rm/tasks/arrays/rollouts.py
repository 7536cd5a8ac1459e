"""Closed-loop rollouts in any world, of models and simple predictors, which see only their own predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from s2rm.models.world_model import WorldModel
from s2rm.tasks.arrays.predictors import Memory, OfSlots, Trivial
from s2rm.tasks.arrays.world import ArrayWorld, beside, displacement
from s2rm.views import Views


@runtime_checkable
class Predictor(Protocol):
    """Predicts the next step of a batch, and sees views as they come."""

    def predict(self, positions: Tensor, memory: Memory) -> Distribution:
        """Over `(B, Q, *target_shape)`, at positions `(B, Q, n)`."""

    def see(self, views: Views) -> None:
        """The views of some more steps, `(B, T, A, ...)`."""


class OfModel:
    """A trained model, from its initial state on."""

    def __init__(self, model: WorldModel[Any], trivial: Trivial):
        self.model, self.trivial, self.state = model, trivial, None

    def see(self, views: Views) -> None:
        self.state = self.model.last(self.model.observe(views, self.state))

    def predict(self, positions: Tensor, memory: Memory) -> Distribution:
        known = []
        if self.model.signature.corrects:
            known.append(self.trivial.context(self.trivial.raw(self.trivial.world.guess, memory, positions)))
        if self.trivial.world.num_actions and isinstance(memory, OfSlots):
            known.append(memory.actions)
        return self.model.predict(self.state, positions, torch.cat(known, -1) if known else None)


@dataclass
class Untrained:
    """A predictor of `Trivial` by its name."""

    trivial: Trivial
    name: str
    expected: Tensor | None = None
    """of the last prediction, before calibration"""

    def see(self, views: Views) -> None:
        pass

    def predict(self, positions: Tensor, memory: Memory) -> Distribution:
        self.expected = self.trivial.raw(self.name, memory, positions)
        return self.trivial.distribution(self.name, self.expected)


@dataclass(frozen=True)
class Ahead:
    """A prediction some steps ahead."""

    distribution: Distribution
    """over `(B, Q, *target_shape)`, in the units of models"""
    values: Tensor
    """the expected values of views or the features of points, `(B, Q, ...)`, in the user's units; pixels from 0 to 1"""
    positions: Tensor
    """`(B, Q, n)`: the positions of the queries, or the expected positions of points"""


@torch.no_grad()
def roll_out(
    predictor: Predictor, trivial: Trivial, prompt: Views, steps: int, queries: Tensor | None = None,
    mask: Tensor | None = None, plan: Tensor | None = None,
) -> Iterator[Ahead]:  # fmt: skip
    """Predict many steps ahead; the prediction at each step is the view of the next one.

    Args:
        predictor: in its initial state.
        trivial: the simple predictors of the world.
        prompt: true views, `(B, T, A, ...)`.
        steps: number of steps.
        queries: positions `(B, steps, Q, n)`; None for points, which are queried at their expected positions.
        mask: `(B, steps, Q)`, which queries or points are present; others are not fed back. Default: all, and of points
            those that were seen, since nothing tells that one has left.
        plan: actions `(B, steps, P, K)` at each predicted step, if views have actions. The first step follows from the
            actions in the last views of the prompt.

    Raises:
        ValueError: a world with actions and no plan, or a plan in a world without actions; queries of points, or none
            of frames or views; queries or a plan of another shape. Views have a query for each slot of the prompt.
    """
    world = trivial.world
    if (plan is None) == bool(world.num_actions):
        wanted, got = ("a plan of actions", "none") if plan is None else ("no plan, since views have no actions", "one")
        raise ValueError(
            f"rollout: expected {wanted}, got {got}; a plan has the actions at each step ahead, (batch, steps, points, "
            f"{world.num_actions})"
        )
    if (queries is None) == (world.kind != "points"):
        own = "no queries, since points are asked for where they are expected, got some; leave them out"
        wanted = own if queries is not None else "queries, positions at each step ahead, got none; give them"
        raise ValueError(f"rollout: a world of {world.kind} takes {wanted}")
    _check_shape("queries", queries, prompt, steps, len(world.extent), any_number=world.kind == "frames")
    _check_shape("plan", plan, prompt, steps, world.num_actions)
    memory = trivial.memory(prompt)
    for step in range(prompt.num_steps):
        memory.see(prompt.at(step))
    predictor.see(prompt)
    yield from go_on(predictor, memory, trivial, steps, queries, mask, plan)


def _check_shape(
    name: str, given: Tensor | None, prompt: Views, steps: int, size: int, any_number: bool = False
) -> None:  # fmt: skip
    """Refuse what is not `(batch, steps, slots, size)`, where further steps have no effect."""
    if given is None:
        return
    batch, _, slots = prompt.mask.shape
    shape = tuple(given.shape)
    fits = len(shape) == 4 and shape[1] >= steps and (shape[0], shape[3]) == (batch, size)
    if not fits or (shape[2] != slots and not any_number):
        number = "any number" if any_number else slots
        raise ValueError(
            f"rollout: expected {name} of shape ({batch}, {steps}, {number}, {size}), for each sequence, step and "
            f"slot, got {shape}; give as many"
        )


@torch.no_grad()
def go_on(
    predictor: Predictor, memory: Memory, trivial: Trivial, steps: int, queries: Tensor | None = None,
    mask: Tensor | None = None, plan: Tensor | None = None,
) -> Iterator[Ahead]:  # fmt: skip
    """As `roll_out`, with a predictor and a memory that have seen the prompt."""
    world = trivial.world
    for step in range(steps):
        own = memory.places()
        if own is None:
            assert queries is not None
            where, there = queries[:, step], None if mask is None else mask[:, step]
        else:
            assert isinstance(memory, OfSlots)
            where, there = own, memory.known if mask is None else memory.known & mask[:, step]
        distribution = predictor.predict(where, memory)
        expected = distribution.mean
        if isinstance(predictor, Untrained):
            assert predictor.expected is not None
            expected = predictor.expected
        if own is None:
            yield Ahead(distribution, world.scaled(expected[:, None], back=True)[:, 0], where)
        else:
            moved, features = (part[:, 0] for part in displacement(world, expected[:, None]))
            where = where + moved
            yield Ahead(distribution, features, where)
        if own is None and isinstance(predictor, Untrained):
            continue  # it remembers what was seen, not what it expected
        fed = expected.round() if world.binary else expected
        if own is not None:
            assert isinstance(memory, OfSlots)
            # Predictions are of how far a point moved since it was last seen, views of how fast.
            moved, rest = fed.split([len(world.extent), fed.shape[2] - len(world.extent)], 2)
            fed = torch.cat([moved / memory.ago.clamp(min=1).view(*memory.ago.shape, *[1] * (fed.ndim - 2)), rest], 2)
        if plan is not None:
            fed = beside(plan[:, step, None].to(fed.dtype), fed[:, None], after=True)[:, 0]
        there = torch.ones(where.shape[:2], dtype=torch.bool) if there is None else there
        seen = Views(where[:, None], fed[:, None], there[:, None])
        memory.see(seen)
        predictor.see(seen)


def rollout(
    model: WorldModel[Any], world: ArrayWorld, prompt: Views, steps: int, *,
    queries: Tensor | None = None, plan: Tensor | None = None,
) -> Iterator[Ahead]:  # fmt: skip
    """A closed-loop rollout of a model in its world; agents follow a plan of actions.

    Args:
        model: trained on the world.
        world: that of the prompt.
        prompt: views as from `episodes`, `(B, T, A, ...)`.
        steps, queries, plan: as for `roll_out`.

    Returns:
        An iterator over the predictions at each step.

    Raises:
        ValueError: as `roll_out`.
    """
    trivial = Trivial(world)
    return roll_out(OfModel(model, trivial), trivial, prompt, steps, queries, None, plan)
