"""Linear maps that a loop over time applies at every step, their weight gradients added up in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Summed:
    """A weight, and perhaps a bias, in use at every step of a loop; called, it is the linear map.

    Autograd alone would make a new gradient of the weight at each step and add it to those before; here the product
    itself adds to one sum. It cannot be differentiated twice, and says so.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.sum: Tensor | None = None
        self.bias_sum: Tensor | None = None
        self.backward_pass: int | None = None
        learns = torch.is_grad_enabled() and weight.requires_grad
        self.token: Tensor | None = _Collect.apply(weight, bias, self) if learns else None
        """goes into every node that calls `add`, so that the weight's gradient waits for all of them"""
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.product(inputs) if self.token is None else _Apply.apply(inputs, self.token, self)

    def product(self, inputs: Tensor) -> Tensor:
        """The map alone."""
        return _product(inputs, self.weight, self.bias)

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """One step's share of the weight's gradient, from the map's inputs and the gradient of its output."""
        if self.token is None:
            return
        # A pass that asks for no gradient of the weight leaves its sums behind; they are not this one's.
        now = torch._C._current_graph_task_id()
        if self.backward_pass != now:
            self.sum, self.bias_sum, self.backward_pass = None, None, now
        if self.sum is None:
            self.sum = inputs.mT @ gradient
        elif inputs.ndim == 2:
            self.sum.addmm_(inputs.mT, gradient)
        else:
            self.sum.baddbmm_(inputs.mT, gradient)
        if self.bias is not None:
            # A sum over rows as a product: it adds in place, and is the faster one.
            ones = gradient.new_ones(1, gradient.shape[-2]).expand(*gradient.shape[:-2], 1, -1)
            if self.bias_sum is None:
                self.bias_sum = ones @ gradient
            elif gradient.ndim == 2:
                self.bias_sum.addmm_(ones, gradient)
            else:
                self.bias_sum.baddbmm_(ones, gradient)


class _Collect(Function):
    """Stands for the weight in the graph: its backward runs after that of all steps, and hands on their sums."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, summed: Summed) -> Tensor:
        ctx.summed = summed
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        summed = ctx.summed
        gradients = summed.sum, None if summed.bias_sum is None else summed.bias_sum.squeeze(-2)
        summed.sum = summed.bias_sum = None
        return *gradients, None


class _Apply(Function):
    """One step's product; its backward adds the weight's share to the sums."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, token: Tensor, summed: Summed) -> Tensor:
        ctx.save_for_backward(inputs, token)
        ctx.summed = summed
        return summed.product(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, token = ctx.saved_tensors
        ctx.summed.add(inputs, gradient)
        return gradient @ ctx.summed.weight.mT, token, None


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

    Args:
        weight: `(I, O)`, or `(M, I, O)` for one map a module.
        bias: `(O,)`, or `(M, O)`.

    Returns:
        The map from `(R, I)` to `(R, O)`, or from `(M, R, I)` to `(M, R, O)`; R may differ from step to step.
    """
    if plainly(weight.device):
        return lambda inputs: _product(inputs, weight, bias)
    return Summed(weight, bias)


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply a function to the tensors of states of one structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    parts = (map_state(function, *parts) for parts in zip(*states, strict=True))
    return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
