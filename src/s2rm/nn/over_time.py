"""Linear maps that a loop over time applies at every step, their weight gradients added up in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _Sums:
    """The gradients of a weight and its bias so far, in one backward pass."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    backward_pass: int | None = None

    def add(self, inputs: Tensor, gradient: Tensor, has_bias: bool) -> None:
        # A pass that asks for no gradient of the weight leaves its sums behind; they are not this one's.
        now = torch._C._current_graph_task_id()
        if self.backward_pass != now:
            self.weight, self.bias, self.backward_pass = None, None, now
        if self.weight is None:
            self.weight = inputs.mT @ gradient
        elif inputs.ndim == 2:
            self.weight.addmm_(inputs.mT, gradient)
        else:
            self.weight.baddbmm_(inputs.mT, gradient)
        if has_bias:
            bias = gradient.sum(-2)
            self.bias = bias if self.bias is None else self.bias.add_(bias)


class _Collect(Function):
    """Stands for the weight in the graph: its backward runs after that of all steps, and hands on their sums."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, sums: _Sums) -> Tensor:
        ctx.sums = sums
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weight, bias = ctx.sums.weight, ctx.sums.bias
        ctx.sums.weight = ctx.sums.bias = None
        return weight, bias, None


class _Apply(Function):
    """One step's product; its backward adds the weight's share to the sums."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, sums: _Sums) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.sums, ctx.has_bias = sums, bias is not None
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        ctx.sums.add(inputs, gradient, ctx.has_bias)
        return gradient @ weight.mT, None, None, gradient.new_zeros(()), None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return inputs @ weight
    if inputs.ndim == 2:
        return torch.addmm(bias, inputs, weight)
    return torch.baddbmm(bias[:, None], inputs, weight)


def plainly(device: torch.device) -> bool:
    """Whether to leave all gradients to autograd: while compiling or exporting, which bring their own, and under
    autocast, which chooses a type for each product."""
    return torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type)


def over_time(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """A linear map for use at every step of a loop.

    Autograd alone would make a new gradient of the weight at each step and add it to those before; here the product
    itself adds to one sum. It cannot be differentiated twice, and says so.

    Args:
        weight: `(I, O)`, or `(M, I, O)` for one map a module.
        bias: `(O,)`, or `(M, O)`.

    Returns:
        The map from `(R, I)` to `(R, O)`, or from `(M, R, I)` to `(M, R, O)`; R may differ from step to step.
    """
    if plainly(weight.device) or not (torch.is_grad_enabled() and weight.requires_grad):
        return lambda inputs: _product(inputs, weight, bias)
    sums = _Sums()
    token = _Collect.apply(weight, bias, sums)
    fixed, fixed_bias = weight.detach(), None if bias is None else bias.detach()
    return lambda inputs: _Apply.apply(inputs, fixed, fixed_bias, token, sums)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply a function to the tensors of states of one structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = (map_state(function, *parts) for parts in zip(*states, strict=True))
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
