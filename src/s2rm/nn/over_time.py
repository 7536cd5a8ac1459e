"""Linear maps that a loop over time applies at every step, with weight gradients accumulated in place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import Function

R = TypeVar("R")
ModuleState = TypeVar("ModuleState", bound="Tensor | tuple[Tensor, ...]")

Context = Any
"""The context of an autograd `Function`, which takes any attribute."""
LinearMap = Callable[[Tensor], Tensor]


class NotDifferentiable(ValueError, RuntimeError):
    """Gradients were asked for that hand-written ones do not have."""


def once(backward: Callable[..., R]) -> Callable[..., R]:
    """Make a hand-written backward pass refuse to be differentiated itself, and to take several gradients at once."""

    @functools.wraps(backward)
    def refusing(*args: object) -> R:
        if torch.is_grad_enabled():
            raise NotDifferentiable(
                "s2rm: hand-written gradients have no second derivatives, got create_graph=True; leave it out"
            )
        if any(isinstance(part, Tensor) and is_batched(part) for part in args):
            raise NotDifferentiable(
                "s2rm: hand-written gradients take one gradient at a time, got a batch of them, as with "
                "is_grads_batched=True; take one after the other, or call torch.func.vjp or jacrev on the forward pass"
            )
        return backward(*args)

    return refusing


def node(function: type[Function], *arguments: Any) -> Any:
    """A node of the graph; without gradients its forward pass alone, by which small steps take less time."""
    learns = torch.is_grad_enabled() and any(isinstance(part, Tensor) and part.requires_grad for part in arguments)
    return function.apply(*arguments) if learns else function.forward(_Nothing(), *arguments)


class _Nothing:
    """The context of a node outside of the graph, which keeps nothing."""

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Nothing is saved."""


class Sums:
    """The gradients of a weight and its bias, summed over the steps of one backward pass.

    Each product reads and writes the sum of a weight's gradient. Where a step has few rows, that takes longer than the
    product itself, so several steps wait for one product.
    """

    def __init__(self, weight: bool, bias: bool):
        self.wanted, self.backward_pass = (weight, bias), -1
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self.ones: Tensor | None = None
        self.transposed: Tensor | None = None
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def back(self, weight: Tensor) -> Tensor:
        """The weight transposed, by which the gradient of an output becomes that of the input: a copy, made once for
        all steps, since products by a transposed view are slow."""
        if self.transposed is None:
            self.transposed = weight.mT.contiguous()
        return self.transposed

    def add(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add the share of one step, from the map's inputs and the gradient of its output."""
        if not any(self.wanted):
            return
        # A backward pass that needs no gradient of the weight never collects its sums. The next pass must not
        # continue them, and only the number of the pass, for which PyTorch has no public name, distinguishes the two.
        now = torch._C._current_graph_task_id()
        if self.backward_pass != now:
            self.weight, self.bias, self.backward_pass, self.waiting = None, None, now, []
        self.waiting.append((inputs, gradient))
        (rows, size), columns = inputs.shape[-2:], gradient.shape[-1]
        if len(self.waiting) * rows * (size + columns) >= 2 * size * columns:
            self.flush()

    def flush(self) -> None:
        """Add what waits."""
        if not self.waiting:
            return
        inputs, gradient = (
            parts[0] if len(parts) == 1 else torch.cat(parts, -2) for parts in zip(*self.waiting, strict=True)
        )
        self.waiting = []
        if self.wanted[0]:
            self.weight = _added(self.weight, inputs.mT, gradient)
        if self.wanted[1]:
            # The sum over rows as a product with ones: it accumulates in place, and is faster than `sum`.
            if self.ones is None or self.ones.shape[-1] != gradient.shape[-2]:
                self.ones = gradient.new_ones(*gradient.shape[:-2], 1, gradient.shape[-2])
            self.bias = _added(self.bias, self.ones, gradient)


def _added(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    if total is None:
        return left @ right
    return total.addmm_(left, right) if left.ndim == 2 else total.baddbmm_(left, right)


class Summed:
    r"""A linear map that is used at every step of a loop; its weight's gradient is one running sum.

    $$\partial W = \sum_t x_t^\top \, \partial y_t$$

    Autograd alone would allocate a gradient of the weight at each step and add it to the previous ones; here each
    step's product accumulates into the same tensor. Second derivatives are refused.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        learns = [part is not None and part.requires_grad and torch.is_grad_enabled() for part in (weight, bias)]
        self.sums = Sums(*learns)
        self.token = _Collect.apply(weight, bias, self.sums) if any(learns) else None
        """an input of every node that calls `sums.add`, so that `_Collect.backward` runs after all of them"""
        self.weight, self.bias = weight, bias
        if self.token is not None:
            self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.product(inputs) if self.token is None else _Apply.apply(inputs, self, self.token)

    def product(self, inputs: Tensor) -> Tensor:
        """The product alone, outside of the graph."""
        return _product(inputs, self.weight, self.bias)


class _Collect(Function):
    """Stands for the weight in the graph: its backward runs after those of all steps and returns their sums."""

    @staticmethod
    def forward(ctx: Context, weight: Tensor, bias: Tensor | None, sums: Sums) -> Tensor:
        ctx.sums = sums
        return weight.new_zeros(())

    @staticmethod
    @once
    def backward(ctx: Context, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        ctx.sums.flush()
        weight, bias = ctx.sums.weight, ctx.sums.bias
        ctx.sums.weight = ctx.sums.bias = ctx.sums.transposed = None
        return weight, None if bias is None else bias.squeeze(-2), None


class _Apply(Function):
    """The product of one step; its backward adds the share of the weight to the sums."""

    @staticmethod
    def forward(ctx: Context, inputs: Tensor, map_: Summed, token: Tensor) -> Tensor:
        ctx.save_for_backward(inputs, map_.weight, token)
        ctx.sums = map_.sums
        return map_.product(inputs)

    @staticmethod
    @once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, None, Tensor]:
        inputs, weight, token = ctx.saved_tensors
        ctx.sums.add(inputs, gradient)
        # The token, a zero, is its own gradient: only the order of the nodes matters.
        return gradient @ ctx.sums.back(weight) if ctx.needs_input_grad[0] else None, None, token


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return inputs @ weight
    return torch.addmm(bias, inputs, weight) if inputs.ndim == 2 else torch.baddbmm(bias[:, None], inputs, weight)


def is_batched(tensor: Tensor) -> bool:
    """Whether `vmap`, or PyTorch's older form of it, runs over the tensor."""
    kinds = torch._C._functorch
    return kinds.is_batchedtensor(tensor) or kinds.is_legacy_batchedtensor(tensor)


def under_functorch() -> bool:
    """Whether a transformation of `torch.func`, such as `vmap` or `grad`, is at work."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def under_autocast(device: torch.device) -> bool:
    """Whether autocast chooses the dtype of products on this device; it knows no meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def by_autograd(device: torch.device) -> bool:
    """Whether autograd computes all gradients: while compiling or exporting and within `torch.func`, which derive their
    own, and under autocast, which chooses a dtype for each product."""
    return torch.compiler.is_compiling() or under_functorch() or under_autocast(device)


def over_time(weight: Tensor, bias: Tensor | None = None) -> LinearMap:
    """A linear map from `(R, I)` to `(R, O)` for use at every step of a loop; R may differ from step to step.

    With `weight` `(M, I, O)` and `bias` `(M, O)` it is one map per module, from `(M, R, I)` to `(M, R, O)`.
    """
    if by_autograd(weight.device):
        return lambda inputs: _product(inputs, weight, bias)
    return Summed(weight, bias)


def map_state(function: Callable[..., Tensor], *states: ModuleState) -> ModuleState:
    """Apply a function to the corresponding tensors of states of one type, a tensor or a (named) tuple of tensors."""
    first = states[0]
    if isinstance(first, Tensor):
        return cast("ModuleState", function(*states))
    parts = [function(*parts) for parts in zip(*cast("tuple[tuple[Tensor, ...], ...]", states), strict=True)]
    return cast("ModuleState", type(first)(*parts) if hasattr(first, "_fields") else tuple(parts))
