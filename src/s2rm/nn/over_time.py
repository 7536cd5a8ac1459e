"""Linear maps that a loop over time applies at every step, their weight gradients taken in one product at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Log = list[tuple[Tensor, Tensor]]


class _Collect(Function):
    """Stands for the weight in the graph: its backward runs after that of all steps, and sees what they logged."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, log: Log) -> Tensor:
        ctx.log, ctx.has_bias = log, bias is not None
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        inputs, gradients = (torch.cat(parts, -2) for parts in zip(*ctx.log, strict=True))
        ctx.log.clear()
        return inputs.mT @ gradients, gradients.sum(-2) if ctx.has_bias else None, None


class _Apply(Function):
    """One step's product; its backward leaves the weight's share in the log."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, token: Tensor, log: Log) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.log = log
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        inputs, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        ctx.log.append((inputs, gradient))
        return gradient @ weight.mT, None, None, gradient.new_zeros(()), None


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return inputs @ weight
    if inputs.ndim == 2:
        return torch.addmm(bias, inputs, weight)
    return torch.baddbmm(bias[:, None], inputs, weight)


def over_time(weight: Tensor, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """A linear map for use at every step of a loop.

    Autograd alone would add up the weight's gradient step by step; here all steps' inputs and output gradients are
    joined and multiplied once. It cannot be differentiated twice, and says so.

    Args:
        weight: `(I, O)`, or `(M, I, O)` for one map a module.
        bias: `(O,)`, or `(M, O)`.

    Returns:
        The map from `(R, I)` to `(R, O)`, or from `(M, R, I)` to `(M, R, O)`; R may differ from step to step.
    """
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return lambda inputs: _product(inputs, weight, bias)
    log: Log = []
    token = _Collect.apply(weight, bias, log)
    fixed, fixed_bias = weight.detach(), None if bias is None else bias.detach()
    return lambda inputs: _Apply.apply(inputs, fixed, fixed_bias, token, log)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply a function to the tensors of states of one structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = (map_state(function, *parts) for parts in zip(*states, strict=True))
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
