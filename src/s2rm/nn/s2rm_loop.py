r"""All steps of an S2RM with gated cells as one node of the graph, with hand-written gradients.

It is for the usual case: a weight of the kernel for every pair, and so many rows in all steps that it pays to multiply
some weights beforehand. A head's values and its part of the output are linear, $W_k = W^V_k W^{out}_k$, so what the
views say to each head is computed for all steps at once, and what the modules say in one product per step:

$$\tilde u_i = \sum_{k,j} Z_{ij} \, \mathrm{softmax}_j(q_{ik} \cdot k_{jk}) \, z_j W_k$$

The scores of all heads are one product as well, since their keys are blocks of one matrix that is 0 elsewhere. Tensors
over time have the time first: those of a step are contiguous, and the gradient of a weight is one product over several
steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from s2rm.nn.attention import DenseLocal, KernelModulatedAttention, softmax
from s2rm.nn.over_time import Context, once
from s2rm.nn.recurrent import GatedCell, GRUStep, LSTMStep, by_weights
from s2rm.nn.s2rm_gradients import (
    Fixed,
    Rows,
    Views,
    Weights,
    backward_of_steps,
    blocks,
    by_head,
    by_row,
    each_step,
    parted,
)


def run(
    reads: KernelModulatedAttention, hears: KernelModulatedAttention, cell: GatedCell, own: bool,
    queries_and_keys: Sequence[Tensor], encodings: Float[Tensor, "B T A H"], local: DenseLocal, between: DenseLocal,
    state: Sequence[Float[Tensor, "B M H"]],
) -> tuple[Float[Tensor, "B T M H"], ...]:  # fmt: skip
    """The modules' h after every step, and their memories, if they have any.

    Args:
        reads, hears, cell: attention to the views, attention to the modules, and the modules' cells.
        own: whether gated recurrent units carry on their own h.
        queries_and_keys: the maps of h to the queries of both attentions and to the keys of the second.
        encodings: the views.
        local, between: the kernel's weights over time, and between the modules.
        state: the first: h alone or, with long short-term memories, h and c.
    """
    given, weights, heads = encodings.transpose(0, 1).contiguous(), local.weights.transpose(0, 1), reads.num_heads
    keys = (given @ reads.key.flatten(1)).unflatten(-1, (heads, -1))
    local_sum = weights @ given
    views = Views(
        torch.diag_embed(keys.mT, dim1=2, dim2=4).flatten(4, 5).flatten(2, 3),
        (given @ reads.folded()).unflatten(-1, (heads, -1)).flatten(2, 3),
        weights,
        local_sum,
        reads.gate_from_local(local_sum),
    )
    (read_gate, _), (hear_gate, hear_gate_local) = (
        attention.gate_hidden.weight.T.split(attention.size) for attention in (reads, hears)
    )
    everything = *views, *Weights(
        torch.cat([*queries_and_keys], 1), hears.folded(), between.weights,
        read_gate, reads.gate_out.weight.T, reads.gate_out.bias,
        hear_gate, hear_gate_local, hears.gate_hidden.bias, hears.gate_out.weight.T, hears.gate_out.bias,
        cell.weight_input, cell.weight_hidden, cell.bias_input, cell.bias_hidden,
    ), *state  # fmt: skip
    fixed = Fixed(
        local.bias.transpose(0, 1).repeat(1, 1, 1, heads), between.bias.repeat(1, 1, hears.num_heads),
        heads, hears.num_heads, [part.shape[1] for part in queries_and_keys], own,
    )  # fmt: skip
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in everything)
    return _Loop.apply(fixed, learns, *everything)


class _Loop(Function):
    @staticmethod
    def forward(ctx: Context, fixed: Fixed, learns: bool, *everything: Tensor) -> tuple[Tensor, ...]:
        views, weights, first = parted(everything)
        if len(first) == 2:  # both biases are added to the same gates
            weights = weights._replace(bias_input=weights.bias_input + weights.bias_hidden)
        steps, batch, modules, size = views.local_sum.shape
        gates = (views.gate.shape[-1], weights.hear_gate.shape[-1])
        widths = size, sum(fixed.parts), weights.values.shape[1], size, gates[0], size, size, size, gates[1], size
        # Without gradients all steps write what they compute into one place.
        new, places = views.local_sum.new_empty, steps if learns else 1
        states = [new(steps + 1, batch, modules, size) for _ in first]
        for part, start in zip(states, first, strict=True):
            part[0] = start
        rows = Rows(*(new(places, batch, modules, width).expand(steps, -1, -1, -1) for width in widths))
        rows = rows._replace(before=states[0][:-1])
        keys = new(batch, fixed.hear_heads * modules, fixed.parts[2]).zero_()
        before, after = ([part[span] for part in states] for span in (slice(-1), slice(1, None)))
        kept: list[Tensor] = []
        for now, bias, row, state, next_state in zip(
            each_step(views), fixed.bias.unbind(), each_step(rows), each_step(before), each_step(after), strict=True
        ):
            parts = _step(Views(*now), bias, Rows(*row), keys, state, next_state, weights, fixed)
            if learns:
                kept += parts
        if learns:
            ctx.fixed, ctx.num_kept = fixed, len(parts)
            ctx.save_for_backward(*everything, *rows, *kept)
        return tuple(part.transpose(0, 1) for part in after)

    @staticmethod
    @once
    def backward(ctx: Context, *to_states: Tensor) -> tuple[Tensor | None, ...]:
        saved, num = [*ctx.saved_tensors], ctx.num_kept
        everything = [saved.pop(0) for _ in range(len(Views._fields) + len(Weights._fields) + len(to_states))]
        rows = Rows(*(saved.pop(0) for _ in Rows._fields))
        kept = [saved[at : at + num] for at in range(0, len(saved), num)]
        to_states = tuple(part.transpose(0, 1) for part in to_states)
        return None, None, *backward_of_steps(*parted(everything), rows, kept, to_states, ctx.fixed)


def _step(
    views: Views, bias: Tensor, rows: Rows, keys: Tensor, state: Sequence[Tensor], after: Sequence[Tensor],
    weights: Weights, fixed: Fixed,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Write a step's rows and the state after it. Return what else the gradients need: shares, weights and gates of
    both attentions, and the cell's own. `keys` has place for those of the modules, in blocks, and is 0 elsewhere."""
    flat, heads = Rows(*(part.flatten(0, 1) for part in rows)), fixed.hear_heads
    torch.mm(flat.before, weights.projection, out=flat.projected)
    torch.mm(flat.before, weights.values, out=flat.values)
    query, hear_query, hear_key = rows.projected.split(fixed.parts, -1)
    # 1. Every module reads the views.
    read = _attend(query, views.keys, views.values, views.local, bias, fixed.read_heads, rows.read)
    torch.addmm(views.gate.flatten(0, 1), flat.read, weights.read_gate, out=flat.read_active).relu_()
    out = weights.read_out, weights.read_out_bias
    read_gate = _gate(rows.read, views.local_sum, rows.read_active, *out, rows.inputs)
    # 2. It hears the others.
    blocks(keys, heads).copy_(hear_key.unflatten(-1, (heads, -1)))
    heard = _attend(
        hear_query, keys, by_row(rows.values, heads), weights.between, fixed.bias_between, heads, rows.heard
    )
    torch.bmm(weights.between.expand(len(keys), -1, -1), rows.before, out=rows.hear_sum)
    torch.addmm(weights.hear_gate_bias, flat.hear_sum, weights.hear_gate_local, out=flat.hear_active)
    flat.hear_active.addmm_(flat.heard, weights.hear_gate).relu_()
    out = weights.hear_out, weights.hear_out_bias
    hear_gate = _gate(rows.heard, rows.hear_sum, rows.hear_active, *out, rows.aggregated)
    # 3. It updates its own state.
    shared = len(weights.input) == 1
    inputs, messages, *state = (by_weights(part, shared) for part in (rows.inputs, rows.aggregated, *state))
    after = [by_weights(part, shared) for part in after]
    gates = torch.baddbmm(weights.bias_input.unsqueeze(1), inputs, weights.input)
    if len(state) == 2:
        cell = LSTMStep.of(gates.baddbmm_(messages, weights.hidden), state[1], after)
    else:
        hidden_gates = torch.baddbmm(weights.bias_hidden.unsqueeze(1), messages, weights.hidden)
        cell = GRUStep.of(gates, hidden_gates, state[0] if fixed.own else messages, after)
    return (*read, read_gate, *heard, hear_gate, *cell[len(state) :])


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, local: Tensor, bias: Tensor, heads: int, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Write what all heads read. Return their shares, `(B, M, K, J)`, and these times the kernel, `(B, M, J K)`."""
    shares = softmax(torch.baddbmm(bias, query, keys.mT).unflatten(-1, (heads, -1)))
    weights = shares.new_empty(*shares.shape[:2], values.shape[1])
    torch.mul(shares, local.unsqueeze(-2), out=by_head(weights, heads))
    torch.bmm(weights, values, out=out)
    return shares, weights


def _gate(attended: Tensor, local_sum: Tensor, active: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """Write the gated sum, return the gate."""
    gate = torch.addmm(bias, active.flatten(0, 1), weight).sigmoid_().unflatten(0, active.shape[:2])
    torch.lerp(attended, local_sum, gate, out=out)
    return gate
