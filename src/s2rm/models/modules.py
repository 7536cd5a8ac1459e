"""The activity of a model's modules at a step, and the model with some of them masked; states keep their shape."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from s2rm.models.gqn import GQN
from s2rm.models.s2rm import S2RM
from s2rm.models.world_model import WorldModel
from s2rm.nn.rims import RIMs
from s2rm.views import Views


class Activity(NamedTuple):
    """The activity of the modules at one step; attention weights are means over the heads."""

    active: Bool[Tensor, "B M"]
    """which modules change their state: those that are present; in RIMs, of these, those that attend most to the
    input"""
    reads: Float[Tensor, "B M A"]
    """the attention weight of each module on each view; RIMs read one sum of all views, so A is 1"""
    hears: Float[Tensor, "B M M"]
    """the attention weight of each module on each other module"""


def rims_of(model: WorldModel) -> RIMs | None:
    """The core of a baseline if it is RIMs, otherwise None."""
    return model.core if isinstance(model, GQN) and isinstance(model.core, RIMs) else None


def count_modules(model: WorldModel) -> int:
    """The number of modules, M; 0 for a model without modules."""
    modular = model if isinstance(model, S2RM) else rims_of(model)
    return 0 if modular is None else modular.num_modules


def masked(model: WorldModel, present: Bool[Tensor, " M"] | None) -> AbstractContextManager[None]:
    """A context in which modules that are not `present` behave as if removed.

    Args:
        model: an S2RM, see [`without_modules`][s2rm.models.s2rm.S2RM.without_modules], or a baseline with RIMs, see
            [`RIMs.trace`][s2rm.nn.rims.RIMs.trace]. Models without modules are unchanged.
        present: which modules to keep; None for all.
    """
    modular = model if isinstance(model, S2RM) else rims_of(model)
    return nullcontext() if modular is None or present is None else modular.masked(present)


@torch.no_grad()
def activity(model: WorldModel, views_at_t: Views, state: Any, present: Bool[Tensor, " M"]) -> Activity:
    """The activity of the modules in the `step` from `state` with the views `(B, 1, A, ...)`.

    Raises:
        ValueError: the model has no modules.
    """
    core = rims_of(model)
    with masked(model, present):
        if isinstance(model, S2RM):
            reads, hears = model.attention(views_at_t, state)
            return Activity(present.expand(reads.shape[0], -1), reads, hears)
        if core is None or not isinstance(model, GQN):
            raise ValueError(f"activity: a {type(model).__name__} has no modules; take an S2RM or RIMs")
        _, traces = core.trace(model.summed(views_at_t), state.memory)
    active, reads, hears = (part[:, 0] for part in traces[-1])
    # Of the input there is one row; before it stands the null row, if any. Who is not active hears nobody, and without
    # heads nobody does.
    heard = hears.sum(1) / max(1, hears.shape[1])
    return Activity(active, reads.mean(1)[..., -1:], torch.where(active[..., None], heard, 0.0))
