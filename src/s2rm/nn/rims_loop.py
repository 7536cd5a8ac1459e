r"""All steps of a layer of recurrent independent mechanisms as one node of the graph, with hand-written gradients.

It is for the usual case, one row of input and one head that reads it. Then a module's attention to the input is the
sigmoid of one score, and all products with the input are done for all steps at once: with the key $k_t$ and value
$v_t$ of the input, and a module's own maps $W^q$ and $W$,

$$s_t = h_t \cdot (W^q k_t), \quad w_t = \sigma(s_t), \quad W (w_t v_t) = w_t \, (W v_t)$$

A step has the products with U, with the maps of the communication and those of its attention left, and the gradient of
each weight is one product over all steps. Tensors of modules are module first, `(M, T, B, ...)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd import Function
from torch.ops import aten

from s2rm.nn.attention import softmax
from s2rm.nn.over_time import Context, once
from s2rm.nn.recurrent import GRUStep, LSTMStep


class Weights(NamedTuple):
    """What the steps multiply by."""

    hidden: Float[Tensor, "M H G"]
    """U, from a module's state to its gates"""
    bias_input: Float[Tensor, "M 1 G"]
    bias_hidden: Float[Tensor, "M 1 G"]
    communication_in: Float[Tensor, "M H P"]
    """to the queries of all heads, scaled, their keys and their values"""
    communication_out: Float[Tensor, "M V H"]


class Heads(NamedTuple):
    """The size of an attention."""

    num: int
    key_size: int
    value_size: int

    @property
    def parts(self) -> tuple[int, int, int]:
        """Lengths of the queries, keys and values of all heads side by side."""
        return self.num * self.key_size, self.num * self.key_size, self.num * self.value_size


def run(
    queried: Float[Tensor, "M T B H"], gates: Float[Tensor, "M T B G"], mask: Bool[Tensor, "B T"] | None,
    state: Sequence[Float[Tensor, "M B H"]], weights: Weights, heads: Heads, num_active: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The modules' states h after every step, `(M, T, B, H)`, and the last state.

    Args:
        queried, gates: $W^q k_t$ and $W v_t$.
        mask: which steps are present; at others every module keeps its state.
        state: the first: h and c, or h alone with gated recurrent units.
        weights: of the layer.
        heads: of the communication.
        num_active: modules that are active at each step.
    """
    given = (queried, gates, *weights, *state)
    learns = torch.is_grad_enabled() and any(part.requires_grad for part in given)
    return _Loop.apply(mask, heads, num_active, learns, *given)


class _Loop(Function):
    @staticmethod
    def forward(
        ctx: Context,
        mask: Tensor | None,
        heads: Heads,
        num_active: int,
        learns: bool,
        queried: Tensor,
        gates: Tensor,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        weights, state = Weights(*given[:5]), given[5:]
        if len(state) == 2:  # both biases are added to the same gates
            weights = weights._replace(bias_input=weights.bias_input + weights.bias_hidden)
        modules, steps, batch, _ = queried.shape
        present = [None] * steps if mask is None else mask.T.unsqueeze(-1).unbind()
        # What is large, and what the gradient of a weight needs of all steps, is written into one place at once.
        messages = queried.new_empty(modules, steps if learns else 1, batch, weights.communication_out.shape[1])
        every_step = (part.unbind(1) for part in (queried, gates, messages.expand(-1, steps, -1, -1)))
        kept: list[Tensor] = []
        states = []
        for query, gate, message, there in zip(*every_step, present, strict=True):
            state, parts = _step(query, gate, message, there, state, weights, heads, num_active)
            states.append(state[0])
            if learns:
                kept += parts
        if learns:
            ctx.heads, ctx.num_kept = heads, len(parts)
            ctx.save_for_backward(queried, gates, messages, *given, *kept)
        return torch.stack(states, 1), *state

    @staticmethod
    @once
    def backward(ctx: Context, to_states: Tensor, *to_last: Tensor) -> tuple[Tensor | None, ...]:
        queried, gates, messages, *saved = ctx.saved_tensors
        weights, flat = Weights(*saved[:5]), saved[5 + len(to_last) :]
        kept = [flat[at : at + ctx.num_kept] for at in range(0, len(flat), ctx.num_kept)]
        # Copied, since products of many small matrices by transposed ones are slow.
        hidden, communication_out = (weight.mT.contiguous() for weight in (weights.hidden, weights.communication_out))
        back = weights._replace(hidden=hidden, communication_out=communication_out)
        to_projected = queried.new_empty(*queried.shape[:3], sum(ctx.heads.parts))
        every_step = (part.unbind(1) for part in (queried, gates, to_projected, to_states))
        gradient, found = to_last, []
        for query, gate, projected, to_state, parts in reversed([*zip(*every_step, kept, strict=True)]):
            gradient = (gradient[0] + to_state, *gradient[1:])
            gradient, to_step = _gradients(query, gate, projected, parts, gradient, back, ctx.heads)
            found.append(to_step)
        *firsts, hiddens, tolds = zip(*reversed(found), strict=True)
        (to_score, to_input), to_told = (torch.stack(each, 1) for each in firsts), torch.stack(tolds, 1)
        # Of an LSTM both parts of the gates have one gradient.
        to_hidden = to_input if hiddens[0] is firsts[1][0] else torch.stack(hiddens, 1)
        weight, before, after = (torch.stack([parts[at] for parts in kept], 1) for at in range(3))
        to_weights = Weights(
            _over_all_steps(before, to_hidden),
            to_input.sum((1, 2)).unsqueeze(1),
            to_hidden.sum((1, 2)).unsqueeze(1),
            _over_all_steps(after, to_projected),
            _over_all_steps(to_told, messages).mT,
        )
        return None, None, None, None, before * to_score, to_input * weight, *to_weights, *gradient


def _over_all_steps(inputs: Float[Tensor, "M T B I"], to_outputs: Float[Tensor, "M T B O"]) -> Float[Tensor, "M I O"]:
    """The gradient of a linear map. A product of few columns is slow, one of few rows is not."""
    return inputs.flatten(1, 2).mT @ to_outputs.flatten(1, 2)


def _step(
    queried: Tensor, gates: Tensor, message: Tensor, present: Tensor | None, state: Sequence[Tensor],
    weights: Weights, heads: Heads, num_active: int,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    """The next state, and what the gradients need: weights of the input, h before and after the update, active modules,
    queries, keys, values and weights of the communication, and the cell's own. `message`, what each module reads from
    the others, is written."""
    before = state[0]
    # 1. Every module reads the input. Those with the highest scores are active, of equal ones the first.
    score = torch.linalg.vecdot(before, queried)
    highest = score.argsort(dim=0, descending=True, stable=True)[:num_active]
    active = torch.zeros_like(score).scatter_(0, highest, 1.0).unsqueeze(-1)
    if present is not None:
        active = active * present
    weight = score.sigmoid_().unsqueeze(-1)
    # 2. Active modules update their own state.
    read = torch.addcmul(weights.bias_input, gates, weight)
    if len(state) == 2:
        updated = LSTMStep.of(read.baddbmm_(before, weights.hidden), state[1])
    else:
        updated = GRUStep.of(read, torch.baddbmm(weights.bias_hidden, before, weights.hidden), before)
    cell = updated[len(state) :]
    after = [torch.lerp(old, new, active) for old, new in zip(state, updated[: len(state)], strict=True)]
    # 3. They read from all modules.
    query, key, value = _by_head(torch.bmm(after[0], weights.communication_in), heads)
    shares = softmax(torch.bmm(query, key.mT))
    read = torch.bmm(shares, value).unflatten(0, (-1, heads.num)).permute(2, 0, 1, 3)
    message.unflatten(-1, (heads.num, -1)).copy_(read)
    # As the transposed product: one of few columns is slow, one of few rows is not.
    told = torch.addcmul(after[0], torch.bmm(weights.communication_out.mT, message.mT).mT, active)
    return (told, *after[1:]), (weight, before, after[0], active, query, key, value, shares, *cell)


def _gradients(
    queried: Tensor, gates: Tensor, to_projected: Tensor, kept: Sequence[Tensor], gradient: tuple[Tensor, ...],
    back: Weights, heads: Heads,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:  # fmt: skip
    """The gradient of the state before a step from that of the state after it; and those of the score, of the inputs'
    and the states' part of the gates, and of what the message is mapped to. `to_projected`, that of queries, keys and
    values, is written. `back` are the weights, of the cell and of what is told transposed."""
    weight, _, _, active, query, key, value, shares, *cell = kept
    # 3. Through the communication, to the state after the update.
    to_told = gradient[0] * active
    to_message = torch.bmm(to_told, back.communication_out).unflatten(-1, (heads.num, -1)).permute(1, 2, 0, 3)
    to_message = to_message.flatten(0, 1)
    to_scores = torch.bmm(to_message, value.mT).mul_(shares)
    to_scores.sub_(shares * to_scores.sum(-1, keepdim=True))
    products = ((to_scores, key), (to_scores.mT, query), (shares.mT, to_message))
    _side_by_side(products, heads, to_projected)
    to_after = gradient[0] + torch.bmm(back.communication_in, to_projected.mT).mT
    # 2. Through the cells of active modules; the others kept their state.
    to_updated = to_after * active
    to_before = to_after - to_updated
    rest: tuple[Tensor, ...] = ()
    if len(gradient) == 2:
        to_memory = gradient[1] * active
        to_input = to_hidden = torch.empty_like(gates)
        rest = (LSTMStep.gradients(cell, to_updated, to_memory, to_input).add_(gradient[1] - to_memory),)
    else:
        to_gates = gates.new_empty(*to_updated.shape[:-1], 4 * to_updated.shape[-1])
        to_before.add_(GRUStep.gradients(cell, to_updated, to_gates))
        to_input, to_hidden = GRUStep.parts(to_gates)
    to_before.baddbmm_(to_hidden, back.hidden)
    # 1. Through the attention to the input.
    to_score = aten.sigmoid_backward(torch.linalg.vecdot(to_input, gates).unsqueeze(-1), weight)
    return (to_before.addcmul_(to_score, queried), *rest), (to_score, to_input, to_hidden, to_told)


def _by_head(projected: Float[Tensor, "M B P"], heads: Heads) -> tuple[Float[Tensor, "BK M D"], ...]:
    """Queries, keys and values of each head, from those of all heads side by side."""
    if heads.key_size == heads.value_size:  # one copy of all
        together = projected.unflatten(-1, (3, heads.num, -1)).permute(2, 1, 3, 0, 4)
        return together.flatten(1, 2).unbind()
    parts = projected.split(heads.parts, -1)
    return tuple(part.unflatten(-1, (heads.num, -1)).permute(1, 2, 0, 3).flatten(0, 1) for part in parts)


def _side_by_side(products: Sequence[tuple[Tensor, Tensor]], heads: Heads, out: Float[Tensor, "M B P"]) -> None:
    """Write these products, for queries, keys and values, each `(B K, M, D)`, as `_by_head` was given them."""
    if heads.key_size == heads.value_size:
        together = out.new_empty(3, *products[0][1].shape)
        for each, product in zip(together.unbind(), products, strict=True):
            torch.bmm(*product, out=each)
        out.unflatten(-1, (3, heads.num, -1)).copy_(together.unflatten(1, (-1, heads.num)).permute(3, 1, 0, 2, 4))
        return
    for part, product in zip(out.split(heads.parts, -1), products, strict=True):
        read = torch.bmm(*product).unflatten(0, (-1, heads.num)).permute(2, 0, 1, 3)
        part.unflatten(-1, (heads.num, -1)).copy_(read)
