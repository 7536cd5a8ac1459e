"""Linear maps that a loop over time applies at every step, their weight gradients added up in place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass written by hand, which refuses to be differentiated itself."""

    @functools.wraps(backward)
    def refusing(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "s2rm: gradients written by hand have no second derivatives, got create_graph=True; leave it out"
            )
        return backward(ctx, *gradients)

    return refusing


class Sums:
    """The gradients of a weight and its bias so far, in one backward pass."""

    def __init__(self, weight: bool, bias: bool):
        self.wanted = (weight, bias)
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.ones: Tensor | None = None
        self.backward_pass: int | None = None

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """One step's share, from the map's inputs and the gradient of its output."""
        # A pass that asks for no gradient of the weight leaves its sums behind; they are not this one's, and only the
        # number of the pass, which PyTorch has no public name for, tells.
        now = torch._C._current_graph_task_id()
        if self.backward_pass != now:
            self.weight, self.bias, self.backward_pass = None, None, now
        if self.wanted[0]:
            self.weight = _added(self.weight, inputs.mT, gradient)
        if self.wanted[1]:
            # A sum over rows as a product: it adds in place, and is the faster one.
            if self.ones is None or self.ones.shape[-1] != gradient.shape[-2]:
                self.ones = gradient.new_ones(*gradient.shape[:-2], 1, gradient.shape[-2])
            self.bias = _added(self.bias, self.ones, gradient)


def _added(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    if total is None:
        return left @ right
    return total.addmm_(left, right) if left.ndim == 2 else total.baddbmm_(left, right)


class Summed:
    """A weight, and perhaps a bias, in use at every step of a loop; called, it is the linear map.

    Autograd alone would make a new gradient of the weight at each step and add it to those before; here the product
    itself adds to one sum. It cannot be differentiated twice, and says so.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        learns = [part is not None and part.requires_grad and torch.is_grad_enabled() for part in (weight, bias)]
        self.sums = Sums(*learns)
        self.token = _Collect.apply(weight, bias, self.sums) if any(learns) else None
        """goes into every node that calls `sums.add`, so that the weight's gradient waits for all of them"""
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()

    def __call__(self, inputs: Tensor) -> Tensor:
        if self.token is None:
            return self.product(inputs)
        return _Apply.apply(inputs, self.weight, self.bias, self.token, self.sums)

    def product(self, inputs: Tensor) -> Tensor:
        """The map alone."""
        return _product(inputs, self.weight, self.bias)


class _Collect(Function):
    """Stands for the weight in the graph: its backward runs after that of all steps, and hands on their sums."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, sums: Sums) -> Tensor:
        ctx.sums = sums
        return weight.new_zeros(())

    @staticmethod
    @once
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, bias = ctx.sums.weight, ctx.sums.bias
        ctx.sums.weight = ctx.sums.bias = None
        return weight, None if bias is None else bias.squeeze(-2), None


class _Apply(Function):
    """One step's product; its backward adds the weight's share to the sums."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, sums: Sums) -> Tensor:
        ctx.save_for_backward(inputs, weight, token)
        ctx.sums = sums
        return _product(inputs, weight, bias)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, Tensor, None]:
        inputs, weight, token = ctx.saved_tensors
        ctx.sums.add(inputs, gradient)
        return gradient @ weight.mT if ctx.needs_input_grad[0] else None, None, None, token, None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return inputs @ weight
    if inputs.ndim == 2:
        return torch.addmm(bias, inputs, weight)
    return torch.baddbmm(bias[:, None], inputs, weight)


def by_autograd(device: torch.device) -> bool:
    """Whether to leave all gradients to autograd: while compiling or exporting, which bring their own, and under
    autocast, which chooses a type for each product."""
    return torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type)


def over_time(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """A linear map for use at every step of a loop.

    Args:
        weight: `(I, O)`, or `(M, I, O)` for one map a module.
        bias: `(O,)`, or `(M, O)`.

    Returns:
        The map from `(R, I)` to `(R, O)`, or from `(M, R, I)` to `(M, R, O)`; R may differ from step to step.
    """
    if by_autograd(weight.device):
        return lambda inputs: _product(inputs, weight, bias)
    return Summed(weight, bias)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply a function to the tensors of states of one structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = (map_state(function, *parts) for parts in zip(*states, strict=True))
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
