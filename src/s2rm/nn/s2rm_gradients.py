"""The gradients of all steps of an S2RM as one node of the graph, and the records that its two passes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.ops import aten

from s2rm.nn.recurrent import GRUStep, LSTMStep, by_batch, by_weights

SPAN = 8
"""steps of which the gradient of a weight is one product: what it multiplies is still in the cache"""


class Views(NamedTuple):
    """What does not depend on the state, of all steps or of one. There are K heads."""

    keys: Float[Tensor, "T B KA KD"]
    """the block `(A, D)` of each head, 0 elsewhere"""
    values: Float[Tensor, "T B AK H"]
    """`z_j W_k`"""
    local: Float[Tensor, "T B M A"]
    local_sum: Float[Tensor, "T B M H"]
    gate: Float[Tensor, "T B M G"]
    """the part of the gate's hidden layer that depends on the local sum"""


class Weights(NamedTuple):
    """What the steps multiply by: of the attention to the views ("read"), of that to the modules ("hear") and of the
    cell."""

    projection: Float[Tensor, "H P"]
    """from h to the queries of both attentions and the keys of the second"""
    values: Float[Tensor, "H KH"]
    """`W_k` of the second attention"""
    between: Float[Tensor, "M M"]
    read_gate: Float[Tensor, "H G"]
    read_out: Float[Tensor, "G 1"]
    read_out_bias: Float[Tensor, " 1"]
    hear_gate: Float[Tensor, "H G"]
    hear_gate_local: Float[Tensor, "H G"]
    hear_gate_bias: Float[Tensor, " G"]
    hear_out: Float[Tensor, "G 1"]
    hear_out_bias: Float[Tensor, " 1"]
    input: Float[Tensor, "S H N"]
    hidden: Float[Tensor, "S H N"]
    bias_input: Float[Tensor, "S N"]
    bias_hidden: Float[Tensor, "S N"]


class Fixed(NamedTuple):
    """What has no gradient."""

    bias: Float[Tensor, "T B I KA"]
    """added to the scores of the views; I is 1 or M"""
    bias_between: Float[Tensor, "1 I KM"]
    """added to those of the modules"""
    read_heads: int
    hear_heads: int
    parts: Sequence[int]
    """lengths of the queries of both attentions and of the keys of the second"""
    own: bool
    """whether gated recurrent units carry on their own h, not what they hear"""


class Rows(NamedTuple):
    """What the gradients of weights need of every step, `(T, B, M, ...)`."""

    before: Tensor
    """h"""
    projected: Tensor
    values: Tensor
    read: Tensor
    """what the heads read"""
    read_active: Tensor
    """the gate's hidden layer"""
    inputs: Tensor
    """the gated sum"""
    heard: Tensor
    hear_sum: Tensor
    hear_active: Tensor
    aggregated: Tensor


class Gradients(NamedTuple):
    """Those of the outputs of a step's linear maps, `(T, B, M, ...)`, but for the gates, module first."""

    projected: Tensor
    values: Tensor
    read_out: Tensor
    hear_active: Tensor
    hear_out: Tensor
    gates: Float[Tensor, "S T R N"]


def parted(everything: Sequence[Tensor]) -> tuple[Views, Weights, Sequence[Tensor]]:
    first, second = len(Views._fields), len(Views._fields) + len(Weights._fields)
    return Views(*everything[:first]), Weights(*everything[first:second]), everything[second:]


def each_step(parts: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The parts of each step, of tensors over time."""
    return zip(*(part.unbind() for part in parts), strict=True)


def by_row(values: Float[Tensor, "*T B M KH"], heads: int) -> Float[Tensor, "*T B MK H"]:
    return values.unflatten(-1, (heads, -1)).flatten(-3, -2)


def by_head(weights: Float[Tensor, "B M JK"], heads: int) -> Float[Tensor, "B M K J"]:
    return weights.unflatten(-1, (-1, heads)).transpose(-1, -2)


def blocks(keys: Float[Tensor, "B KJ KD"], heads: int) -> Float[Tensor, "B J K D"]:
    """The keys of each module, of blocks on a diagonal."""
    split = keys.unflatten(2, (heads, -1)).unflatten(1, (heads, -1))
    return split.diagonal(dim1=1, dim2=3).transpose(2, 3)


def backward_of_steps(
    views: Views, weights: Weights, first: Sequence[Tensor], rows: Rows, kept: Sequence[Sequence[Tensor]],
    to_states: Sequence[Tensor], fixed: Fixed,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of the views, the weights and the first state."""
    steps, batch, modules, size = rows.before.shape
    new, sets = rows.before.new_empty, len(weights.input)
    # The first columns of the gates' gradient are of the messages' map, the last of the inputs', see `GRUStep`.
    shift = 0 if len(first) == 2 else size
    rolled = weights._replace(hidden=weights.hidden.roll(shift, -1))
    back = Weights(*(weight.mT.contiguous() if weight.ndim > 1 else weight for weight in rolled))
    to_views = Views(*(torch.empty_like(part, memory_format=torch.contiguous_format) for part in views))
    to_weights = Weights(*(torch.zeros_like(weight, memory_format=torch.contiguous_format) for weight in weights))
    to_between = new(batch, modules, modules).zero_()
    span = min(SPAN, steps)
    widths = (rows.projected.shape[-1], rows.values.shape[-1], 1, rows.hear_active.shape[-1], 1)
    *maps, gates = (
        *(new(span, batch, modules, width) for width in widths),
        new(sets, span, batch * modules // sets, 4 * size),
    )
    each_found = [*map(Gradients._make, zip(*(part.unbind() for part in maps), gates.unbind(1), strict=True))]
    each = [*zip(each_step(views), each_step(rows), kept, each_step(to_views), each_step(to_states), strict=True)]
    keys = new(batch, fixed.hear_heads * modules, fixed.parts[2]).zero_()
    gradient: Sequence[Tensor] = [torch.zeros_like(part) for part in first]
    for step in reversed(range(steps)):
        now, row, parts, to_now, to_state = each[step]
        gradient = [part + more for part, more in zip(gradient, to_state, strict=True)]
        gradient = _step_back(
            Views(*now), Rows(*row), keys, parts, gradient, weights, back, fixed, Views(*to_now),
            each_found[step % span], to_between,
        )  # fmt: skip
        if step % span == 0:
            some = slice(step, min(step + span, steps))
            num = some.stop - step
            these = Gradients._make([*(part[:num] for part in maps), gates[:, :num]])
            _add(to_weights, Rows(*(part[some] for part in rows)), to_views.gate[some], these)
    to_weights.between.copy_(to_between.sum(0))
    hidden, bias = (part.roll(-shift, -1) for part in (to_weights.hidden, to_weights.bias_hidden))
    return *to_views, *to_weights._replace(hidden=hidden, bias_hidden=bias), *gradient


def _step_back(
    views: Views, rows: Rows, keys: Tensor, kept: Sequence[Tensor], gradient: Sequence[Tensor], weights: Weights,
    back: Weights, fixed: Fixed, to_views: Views, found: Gradients, to_between: Tensor,
) -> Sequence[Tensor]:  # fmt: skip
    """The gradient of the state before a step from that of the state after it. Those of the views and of the outputs of
    linear maps are written, that of the kernel between the modules is added. `back` are the weights, transposed."""
    shares, read_weights, read_gate, hear_shares, hear_weights, hear_gate, *cell = kept
    heads, modules, shared = fixed.hear_heads, rows.before.shape[1], len(weights.input) == 1
    # 3. Through the cell.
    to_after = [by_weights(part, shared) for part in gradient]
    width = back.input.shape[1]
    if len(gradient) == 2:
        to_carried = by_batch(LSTMStep.gradients(cell, to_after[0], to_after[1], found.gates), modules, shared)
    else:
        to_carried = by_batch(GRUStep.gradients(cell, to_after[0], found.gates), modules, shared)
    to_inputs, to_messages = (
        by_batch(torch.bmm(part, weight), modules, shared)
        for part, weight in ((found.gates[..., -width:], back.input), (found.gates[..., :width], back.hidden))
    )
    if len(gradient) == 2:
        before = [torch.zeros_like(rows.before), to_carried]
    elif fixed.own:
        before = [to_carried.contiguous()]
    else:
        before, to_messages = [torch.zeros_like(rows.before)], to_messages + to_carried
    # 2. Through what it heard.
    to_sum = torch.empty_like(rows.before)
    to_heard = _gate_back(
        to_messages, rows.heard, rows.hear_sum, rows.hear_active, hear_gate, weights.hear_out, back.hear_gate, to_sum,
        found.hear_active, found.hear_out,
    )  # fmt: skip
    to_sum.flatten(0, 1).addmm_(found.hear_active.flatten(0, 1), back.hear_gate_local)
    before[0].baddbmm_(back.between.expand(len(keys), -1, -1), to_sum)
    to_between.baddbmm_(to_sum, rows.before.mT)
    query, hear_query, hear_key = rows.projected.split(fixed.parts, -1)
    to_query, to_hear_query, to_hear_key = found.projected.split(fixed.parts, -1)
    blocks(keys, heads).copy_(hear_key.unflatten(-1, (heads, -1)))
    to_keys = torch.empty_like(keys)
    to_between += _attend_back(
        to_heard, hear_query, keys, by_row(rows.values, heads), weights.between, hear_shares, hear_weights,
        to_hear_query, to_keys, by_row(found.values, heads),
    )  # fmt: skip
    to_hear_key.unflatten(-1, (heads, -1)).copy_(blocks(to_keys, heads))
    # 1. Through what it read.
    to_read = _gate_back(
        to_inputs, rows.read, views.local_sum, rows.read_active, read_gate, weights.read_out, back.read_gate,
        to_views.local_sum, to_views.gate, found.read_out,
    )  # fmt: skip
    to_views.local.copy_(_attend_back(
        to_read, query, views.keys, views.values, views.local, shares, read_weights, to_query, to_views.keys,
        to_views.values,
    ))  # fmt: skip
    flat = before[0].flatten(0, 1)
    flat.addmm_(found.projected.flatten(0, 1), back.projection).addmm_(found.values.flatten(0, 1), back.values)
    return before


def _attend_back(
    gradient: Tensor, query: Tensor, keys: Tensor, values: Tensor, local: Tensor, shares: Tensor, weights: Tensor,
    to_query: Tensor, to_keys: Tensor, to_values: Tensor,
) -> Float[Tensor, "B M J"]:  # fmt: skip
    """Write the gradients of queries, keys and values, return that of the kernel."""
    torch.bmm(weights.mT, gradient, out=to_values)
    # Σ_k p_k dw_k;  through the softmax, with dp = dw Z: ds = p (dp - Σ_j p dp).
    to_weights = by_head(torch.bmm(gradient, values.mT), shares.shape[2])
    to_scores = torch.mul(shares, to_weights, out=torch.empty_like(shares))
    to_local = to_scores.sum(-2)
    to_scores *= local.unsqueeze(-2)
    to_scores.addcmul_(shares, to_scores.sum(-1, keepdim=True), value=-1)
    to_query.copy_(torch.bmm(to_scores.flatten(-2), keys))
    torch.bmm(to_scores.flatten(-2).mT, query, out=to_keys)
    return to_local


def _gate_back(
    gradient: Tensor, attended: Tensor, local_sum: Tensor, active: Tensor, gate: Tensor, weight: Tensor,
    back: Tensor, to_local_sum: Tensor, to_active: Tensor, to_out: Tensor,
) -> Float[Tensor, "B M H"]:  # fmt: skip
    """Write the gradients of the local sum, but for its part in the hidden layer, of this layer and of the gate before
    its sigmoid; return that of what was attended to."""
    torch.mul(gradient, gate, out=to_local_sum)
    to_attended = torch.sub(gradient, to_local_sum, out=torch.empty_like(to_local_sum))
    to_gate = torch.linalg.vecdot(gradient, local_sum - attended).unsqueeze(-1)
    aten.sigmoid_backward.grad_input(to_gate, gate, grad_input=to_out)
    aten.threshold_backward.grad_input(to_out * weight.T, active, 0, grad_input=to_active)
    to_attended.flatten(0, 1).addmm_(to_active.flatten(0, 1), back)
    return to_attended


def _add(to_weights: Weights, rows: Rows, to_read_active: Tensor, found: Gradients) -> None:
    """Add the gradients of the weights of some steps."""
    flat = Rows(*(part.flatten(0, 2) for part in rows))
    projected, values, read_out, hear_active, hear_out = (part.flatten(0, 2) for part in found[:-1])
    read_active = to_read_active.flatten(0, 2)
    for name, inputs, gradient in (
        ("projection", flat.before, projected), ("values", flat.before, values),
        ("read_gate", flat.read, read_active), ("read_out", flat.read_active, read_out),
        ("hear_gate", flat.heard, hear_active), ("hear_gate_local", flat.hear_sum, hear_active),
        ("hear_out", flat.hear_active, hear_out),
    ):  # fmt: skip
        getattr(to_weights, name).addmm_(inputs.T, gradient)
    for name, gradient in (("read_out_bias", read_out), ("hear_gate_bias", hear_active), ("hear_out_bias", hear_out)):
        getattr(to_weights, name).add_(gradient.sum(0))
    shared, width, gates = len(to_weights.input) == 1, to_weights.input.shape[-1], found.gates.flatten(1, 2)
    for name, part, gradient in (
        ("input", rows.inputs, gates[..., -width:]), ("hidden", rows.aggregated, gates[..., :width]),
    ):  # fmt: skip
        inputs = part.flatten(0, 2).unsqueeze(0) if shared else part.flatten(0, 1).transpose(0, 1)
        getattr(to_weights, name).baddbmm_(inputs.mT, gradient)
        getattr(to_weights, f"bias_{name}").add_(gradient.sum(1))
