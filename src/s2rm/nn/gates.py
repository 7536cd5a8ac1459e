"""The updates of gated cells with gradients written by hand: few passes over memory, in place where that is safe.

They equal [`gru_update`][s2rm.functional.gru_update] and [`lstm_update`][s2rm.functional.lstm_update].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.ops import aten

from s2rm.nn.over_time import once


class GRUUpdate(Function):
    """`gru_update(input_gates, hidden_gates, carried)`, gates `(..., 3H)`, state `(..., H)`."""

    @staticmethod
    def forward(ctx: Any, input_gates: Tensor, hidden_gates: Tensor, carried: Tensor) -> Tensor:
        size = carried.shape[-1]
        hidden_candidate = hidden_gates[..., 2 * size :].clone()  # a view would keep all of the gates
        gates = (input_gates[..., : 2 * size] + hidden_gates[..., : 2 * size]).sigmoid_()
        reset, update = gates.chunk(2, -1)
        candidate = torch.addcmul(input_gates[..., 2 * size :], reset, hidden_candidate).tanh_()
        ctx.save_for_backward(gates, candidate, hidden_candidate, carried)
        return torch.lerp(candidate, carried, update)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates, candidate, hidden_candidate, carried = ctx.saved_tensors
        size = carried.shape[-1]
        reset, update = gates.chunk(2, -1)
        to_carried = gradient * update
        to_input = gradient.new_empty(*gradient.shape[:-1], 3 * size)
        to_gates, to_candidate = to_input[..., : 2 * size], to_input[..., 2 * size :]
        aten.tanh_backward.grad_input(gradient - to_carried, candidate, grad_input=to_candidate)
        torch.mul(to_candidate, hidden_candidate, out=to_gates[..., :size])
        torch.mul(carried - candidate, gradient, out=to_gates[..., size:])
        aten.sigmoid_backward.grad_input(to_gates, gates, grad_input=to_gates)
        to_hidden = to_input.clone()
        to_hidden[..., 2 * size :] *= reset
        return to_input, to_hidden, to_carried


class LSTMUpdate(Function):
    """`lstm_update(input_gates, hidden_gates, memory)`, gates `(..., 4H)`, memory `(..., H)`."""

    @staticmethod
    def forward(ctx: Any, input_gates: Tensor, hidden_gates: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        size = memory.shape[-1]
        gates = input_gates + hidden_gates
        gates[..., : 2 * size].sigmoid_()
        gates[..., 2 * size : 3 * size].tanh_()
        gates[..., 3 * size :].sigmoid_()
        i, f, g, o = gates.chunk(4, -1)
        after = torch.addcmul(f * memory, i, g)
        shown = after.tanh()
        ctx.save_for_backward(gates, memory, shown)
        return o * shown, after

    @staticmethod
    @once
    def backward(ctx: Any, to_hidden: Tensor, to_memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates, memory, shown = ctx.saved_tensors
        size = memory.shape[-1]
        i, f, g, o = gates.chunk(4, -1)
        to_after = aten.tanh_backward(to_hidden * o, shown).add_(to_memory)
        to_gates = torch.empty_like(gates)
        to_i_f, to_g, to_o = to_gates.split((2 * size, size, size), -1)
        torch.mul(to_after, g, out=to_i_f[..., :size])
        torch.mul(to_after, memory, out=to_i_f[..., size:])
        torch.mul(to_after, i, out=to_g)
        torch.mul(to_hidden, shown, out=to_o)
        aten.sigmoid_backward.grad_input(to_i_f, gates[..., : 2 * size], grad_input=to_i_f)
        aten.tanh_backward.grad_input(to_g, g, grad_input=to_g)
        aten.sigmoid_backward.grad_input(to_o, o, grad_input=to_o)
        return to_gates, to_gates, to_after.mul_(f)
