"""One step of gated cells as one node of the graph, with gradients written by hand: few passes over memory.

Their arguments are the cell's inputs, what its modules hear and what they carry, module first, `(M, B, ...)`, and the
linear maps of the first two to the gates, as their weights, biases and tokens and their sums (see
[`Summed`][s2rm.nn.over_time.Summed]). They equal [`gru_update`][s2rm.functional.gru_update] and
[`lstm_update`][s2rm.functional.lstm_update] of those maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.ops import aten

from s2rm.nn.over_time import Sums, once


class GRUStep(Function):
    """The state after a step of gated recurrent units."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        carried: Tensor,
        weights: tuple[Tensor, Tensor],
        biases: tuple[Tensor, Tensor],
        sums: tuple[Sums, Sums],
        *tokens: Tensor | None,
    ) -> Tensor:
        size = carried.shape[-1]
        input_gates, hidden_gates = (
            torch.baddbmm(bias[:, None], given, weight)
            for given, weight, bias in zip((inputs, hidden), weights, biases, strict=True)
        )
        hidden_candidate = hidden_gates[..., 2 * size :].clone()  # a view would keep all of the gates
        gates = (input_gates[..., : 2 * size] + hidden_gates[..., : 2 * size]).sigmoid_()
        reset, update = gates.chunk(2, -1)
        candidate = torch.addcmul(input_gates[..., 2 * size :], reset, hidden_candidate).tanh_()
        ctx.save_for_backward(gates, candidate, hidden_candidate, carried, inputs, hidden, *weights, *tokens)
        ctx.sums = sums
        return torch.lerp(candidate, carried, update)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gates, candidate, hidden_candidate, carried, *maps = ctx.saved_tensors
        size = carried.shape[-1]
        reset, update = gates.chunk(2, -1)
        to_carried = gradient * update
        to_input, to_hidden = gradient.new_empty(2, *gates.shape[:-1], 3 * size)
        to_gates, to_candidate = to_input[..., : 2 * size], to_input[..., 2 * size :]
        aten.tanh_backward.grad_input(gradient - to_carried, candidate, grad_input=to_candidate)
        torch.mul(to_candidate, reset, out=to_hidden[..., 2 * size :])
        torch.mul(to_candidate, hidden_candidate, out=to_gates[..., :size])
        torch.mul(carried - candidate, gradient, out=to_gates[..., size:])
        to_hidden[..., : 2 * size] = aten.sigmoid_backward.grad_input(to_gates, gates, grad_input=to_gates)
        return _gradients(maps, ctx.sums, to_input, to_hidden, to_carried)


class LSTMStep(Function):
    """The state, and the memory that is carried, after a step of long short-term memories."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        memory: Tensor,
        weights: tuple[Tensor, Tensor],
        biases: tuple[Tensor, Tensor],
        sums: tuple[Sums, Sums],
        *tokens: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        size = memory.shape[-1]
        gates = torch.baddbmm((biases[0] + biases[1])[:, None], inputs, weights[0]).baddbmm_(hidden, weights[1])
        gates[..., : 2 * size].sigmoid_()
        gates[..., 2 * size : 3 * size].tanh_()
        gates[..., 3 * size :].sigmoid_()
        i, f, g, o = gates.chunk(4, -1)
        after = torch.addcmul(f * memory, i, g)
        shown = after.tanh()
        ctx.save_for_backward(gates, memory, shown, inputs, hidden, *weights, *tokens)
        ctx.sums = sums
        return o * shown, after

    @staticmethod
    @once
    def backward(ctx: Any, to_state: Tensor, to_memory: Tensor) -> tuple[Tensor | None, ...]:
        gates, memory, shown, *maps = ctx.saved_tensors
        size = memory.shape[-1]
        i, f, g, o = gates.chunk(4, -1)
        to_after = aten.tanh_backward(to_state * o, shown).add_(to_memory)
        to_gates = torch.empty_like(gates)
        to_i_f, to_g, to_o = to_gates.split((2 * size, size, size), -1)
        torch.mul(to_after, g, out=to_i_f[..., :size])
        torch.mul(to_after, memory, out=to_i_f[..., size:])
        torch.mul(to_after, i, out=to_g)
        torch.mul(to_state, shown, out=to_o)
        aten.sigmoid_backward.grad_input(to_i_f, gates[..., : 2 * size], grad_input=to_i_f)
        aten.tanh_backward.grad_input(to_g, g, grad_input=to_g)
        aten.sigmoid_backward.grad_input(to_o, o, grad_input=to_o)
        return _gradients(maps, ctx.sums, to_gates, to_gates, to_after.mul_(f))


def _gradients(
    maps: list[Tensor], sums: tuple[Sums, Sums], to_input: Tensor, to_hidden: Tensor, to_carried: Tensor
) -> tuple[Tensor | None, ...]:
    inputs, hidden, weight_input, weight_hidden, *tokens = maps
    sums[0].add(inputs, to_input)
    sums[1].add(hidden, to_hidden)
    return to_input @ weight_input.mT, to_hidden @ weight_hidden.mT, to_carried, None, None, None, *tokens
