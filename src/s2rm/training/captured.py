"""The loss and gradients of an update as one CUDA graph: a recurrent model is many small kernels, each of which would
take longer to launch than to run."""

from __future__ import annotations

import copy
import sys
from collections.abc import Hashable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Generic

import torch
from torch import Tensor
from torch.autograd import Function

from s2rm.likelihoods import Mean
from s2rm.models.model import B, Model

WARM_UP = 3
"""updates of a shape that are made without a graph before it is captured"""
MOST = 8
"""graphs of one run; batches of further shapes do without"""


class Captured(Generic[B]):
    """The loss of a model on a GPU: a graph is captured for each shape of batches that recurs, and replayed.

    Its numbers are those of the model's own loss. Batches of rare shapes, and models that cannot be captured, use that
    loss itself, the latter after a line on stderr. `counted` is the number of values that all losses together are means
    of, on the GPU.

    Args:
        model: whose training loss it is, on one GPU.
    """

    def __init__(self, model: Model[B]):
        self.model, self.possible = model, True
        self.counted = torch.zeros((), device=next(model.parameters()).device)
        self.seen: dict[Hashable, int] = {}
        self.graphs: dict[Hashable, _Graph[B]] = {}

    def loss(self, batch: B) -> Tensor:
        """As the model's `loss`; its backward pass takes no options."""
        if not self.possible:
            return self._own(batch)
        tensors = [*_tensors(batch)]
        shape = (torch.is_autocast_enabled("cuda"), *_shape(batch, tensors))
        if shape not in self.graphs:
            self.seen[shape] = self.seen.get(shape, 0) + 1
            if self.seen[shape] <= WARM_UP or len(self.graphs) == MOST:
                return self._own(batch)
            try:
                self.graphs[shape] = _Graph(self.model, batch, next(iter(self.graphs.values()), None))
            except RuntimeError as error:
                self.possible = False
                line = str(error).strip().splitlines()[0]
                print(f"GPU: without CUDA graphs, since capturing failed: {line}", file=sys.stderr, flush=True)
                return self._own(batch)
        graph = self.graphs[shape]
        with torch.no_grad():
            torch._foreach_copy_(graph.tensors, tensors, non_blocking=True)
        loss = _Replay.apply(graph, *graph.parameters)
        self.counted += graph.counted
        return loss

    def _own(self, batch: B) -> Tensor:
        """The model's own loss."""
        terms = self.model.loss_terms(batch)
        self.counted += counted(terms)
        return total(terms)


class _Graph(Generic[B]):
    """A captured forward and backward pass on tensors that stay where they are."""

    def __init__(self, model: Model[B], batch: B, other: _Graph[B] | None):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        batch = copy.deepcopy(batch)
        self.tensors, self.graph = [*_tensors(batch)], torch.cuda.CUDAGraph()
        # Autocast keeps the weights that it cast. The graph casts its own, which no later pass may take for its own.
        torch.clear_autocast_cache()
        try:
            with torch.cuda.graph(self.graph, pool=other.graph.pool() if other else None):
                terms = model.loss_terms(batch)
                self.loss, self.counted = total(terms), counted(terms)
                self.gradients = torch.autograd.grad(self.loss, self.parameters, allow_unused=True)
                self.loss = self.loss.detach()
        finally:
            torch.clear_autocast_cache()


class _Replay(Function):
    @staticmethod
    def forward(ctx: Any, graph: _Graph[Any], *parameters: Tensor) -> Tensor:
        graph.graph.replay()
        ctx.gradients = graph.gradients
        return graph.loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        known = [part for part in ctx.gradients if part is not None]
        scaled = iter(torch._foreach_mul(known, gradient))
        return None, *(None if part is None else next(scaled) for part in ctx.gradients)


def total(terms: dict[str, Mean]) -> Tensor:
    """The loss: the sum of the means of its terms."""
    return torch.stack([mean.value for mean in terms.values()]).sum()


def counted(terms: dict[str, Mean]) -> Tensor:
    """How many values the terms of a loss are means of."""
    return torch.stack([mean.count.float() for mean in terms.values()]).sum()


def _tensors(batch: object) -> Iterator[Tensor]:
    """All tensors of a batch, each once."""
    found: dict[int, Tensor] = {}
    for _, part in _leaves(batch):
        if isinstance(part, Tensor):
            found.setdefault(id(part), part)
    return iter(found.values())


def _shape(batch: object, tensors: list[Tensor]) -> tuple[Hashable, ...]:
    """What two batches share if one graph is right for both."""
    number = {id(tensor): at for at, tensor in enumerate(tensors)}
    return tuple(
        (name, number[id(part)], part.shape, part.dtype, part.device) if isinstance(part, Tensor) else (name, part)
        for name, part in _leaves(batch)
    )


def _leaves(part: object, name: str = "") -> Iterator[tuple[str, Any]]:
    if not is_dataclass(part):
        yield name, part
        return
    yield name, type(part)
    for field in fields(part):
        yield from _leaves(getattr(part, field.name), f"{name}.{field.name}")
