"""Relational memory: gated slots that attend to each other and to the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import layer_norm
from torch.ops import aten

from s2rm.nn.core import Layer, RecurrentCore, State
from s2rm.nn.over_time import Context, LinearMap, by_autograd, node, once, over_time
from s2rm.nn.recurrent import by_batch, by_weights


class Affine(nn.Module):
    """A scale or matrix of each set of parameters, 0, and a shift, 1.

    A list of parameters would be empty in the replicas of `nn.DataParallel`.

    Args:
        sets: number of sets of parameters.
        shape: of the weight, whose last size is that of the shift: a matrix `(inputs, outputs)`, drawn at random, or
            `(size,)`, ones, with zeros as shift.
    """

    def __init__(self, sets: int, *shape: int):
        super().__init__()
        # Saved models know the two by these names.
        self.register_parameter("0", nn.Parameter(torch.empty(sets, *shape)))
        self.register_parameter("1", nn.Parameter(torch.empty(sets, shape[-1])))
        self.reset_parameters()

    def __getitem__(self, number: int) -> Tensor:
        return getattr(self, str(range(2)[number]))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Both; where they are used it is by this call, so that hooks such as those of pruning run."""
        return self[0], self[1]

    def reset_parameters(self) -> None:
        """Reinitialise both, or set them to ones and zeros."""
        weight, shift = self[0], self[1]
        if weight.ndim == 2:
            nn.init.ones_(weight)
            nn.init.zeros_(shift)
            return
        bound = 1 / math.sqrt(weight.shape[1])
        nn.init.uniform_(weight, -bound, bound)
        nn.init.uniform_(shift, -bound, bound)


class GroupedRelationalMemoryCell(nn.Module):
    r"""One relational memory per module, each with its own parameters (Santoro et al. 2018; S2RM, E.3).

    With the memory M, a matrix of slots, and the rows of input $x_i$, each projected to the slot size:

    $$A = [M; x_1; x_2; \dots], \quad Q, K, V = \mathrm{LN}(A W)$$

    $$A' = \mathrm{LN}(A + \mathrm{softmax}(Q K^\top / \sqrt{d}) \, V), \quad A'' = \mathrm{LN}(A' + \mathrm{MLP}(A'))$$

    $$i, f = \sigma(W_g x_1 + U_g \tanh(M) + b), \quad M' = i \odot \tanh(\tilde M) + f \odot M$$

    where Q, K and V are split into heads, and $\tilde M$ is A'' without the rows of input.

    Args:
        num_modules: number of memories.
        input_sizes: sizes of the rows of input; the gates see the first only.
        num_slots, num_heads, head_size, key_size: of the memory; a slot has `num_heads * head_size` numbers.
        gate_style: "unit" (one gate per number), "memory" (one gate per slot), or None.
        forget_bias, input_bias: added to the gates.
        attention_layers: layers of the MLP, at least 1; ReLU between them, none after the last.
        message_size: size of a linear map of the memory that others read (S2RM, E.3). Default: the memory itself.
        share_parameters: one set of parameters for all modules.
    """

    def __init__(
        self, num_modules: int, input_sizes: tuple[int, ...], num_slots: int, num_heads: int, head_size: int,
        key_size: int, gate_style: str | None = "unit", forget_bias: float = 1.0, input_bias: float = 0.0,
        attention_layers: int = 2, message_size: int | None = None, share_parameters: bool = False,
    ):  # fmt: skip
        super().__init__()
        if attention_layers < 1:
            raise ValueError(f"relational memory: attention_layers must be at least 1, got {attention_layers}")
        slot_size, sets = num_heads * head_size, 1 if share_parameters else num_modules
        widths = {"unit": 2 * slot_size, "memory": 2, None: 0}
        if gate_style not in widths:
            raise ValueError(f"relational memory: gate_style must be one of {tuple(widths)}, got {gate_style!r}")
        self.num_modules, self.num_slots, self.slot_size = num_modules, num_slots, slot_size
        self.num_heads, self.head_size, self.key_size = num_heads, head_size, key_size
        self.gate_style, self.forget_bias, self.input_bias = gate_style, forget_bias, input_bias
        self.share_parameters = share_parameters
        linear = norm = partial(Affine, sets)
        projected = num_heads * (2 * key_size + head_size)
        self.project = nn.ModuleList(linear(size, slot_size) for size in input_sizes)
        self.qkv, self.qkv_norm = linear(slot_size, projected), norm(projected)
        self.attended_norm, self.mlp_norm = norm(slot_size), norm(slot_size)
        self.mlp = nn.ModuleList(linear(slot_size, slot_size) for _ in range(attention_layers))
        width = widths[gate_style]
        if width:
            self.input_gate, self.memory_gate = linear(slot_size, width), linear(slot_size, width)
        if message_size is not None:
            self.to_message = linear(num_slots * slot_size, message_size)

    def reset_parameters(self) -> None:
        """Reinitialise all weights."""
        for part in self.modules():
            if isinstance(part, Affine):
                part.reset_parameters()

    def initial_state(self, batch_size: int) -> Float[Tensor, "B M S D"]:
        """The identity, padded or cropped to the slot size."""
        weight = self.qkv[0]
        identity = torch.eye(self.num_slots, self.slot_size, dtype=weight.dtype, device=weight.device)
        return identity.expand(batch_size, self.num_modules, -1, -1)

    def state_from(self, given: Float[Tensor, "B M S D"]) -> Float[Tensor, "B M S D"]:
        """The memory to start from: the given one, but the initial one where that is all zeros, as code written for an
        `nn.LSTM` resets a state. Slots that are equal would stay equal, as if there were one only."""
        if self.num_slots == 1:
            return given
        blank = (given == 0).flatten(-2).all(-1)[..., None, None]
        return torch.where(blank, self.initial_state(given.shape[0]), given)

    def message(self, state: Float[Tensor, "*batch M S D"]) -> Float[Tensor, "*batch M H"]:
        """What the other modules and the queries read of the memory."""
        flat = state.flatten(-2)
        if not hasattr(self, "to_message"):
            return flat
        weight, bias = self.to_message()
        if self.share_parameters:
            return flat @ weight[0] + bias[0]
        return torch.einsum("...mi,mio->...mo", flat, weight) + bias

    def forward(self, *inputs_then_state: Tensor) -> Float[Tensor, "B M S D"]:
        """The next memory, from the rows of input, `(B, M, size)` each, and the memory, `(B, M, S, D)`."""
        return self.over_time()(*inputs_then_state)

    def over_time(self) -> Callable[..., Tensor]:
        """The cell, for use at every step of a loop."""
        read, attention, update = self.parts_over_time()

        def step(*inputs_then_state: Tensor) -> Tensor:
            *inputs, memory = inputs_then_state
            rows, gates = read(*inputs)
            old = by_weights(memory, self.share_parameters)
            return update(old, attention(torch.cat([old, rows], 2)), gates)

        return step

    def parts_over_time(self) -> tuple[Callable[..., tuple[Tensor, Tensor | None]], LinearMap, Callable[..., Tensor]]:
        """The parts of the cell, for use at every step of a loop.

        Returns:
            `read`, from the inputs to their rows, `(M, B, R, D)`, and their part of the gates; `attention`, from any
            rows to their queries, keys and values, of each head, side by side; and `update`, from the memory,
            `(M, B, S, D)`, those of slots and rows, and the gates, to the next memory.
        """
        project = [rows_over_time(cast("Affine", part)) for part in self.project]
        qkv, mlp = rows_over_time(self.qkv), [rows_over_time(cast("Affine", part)) for part in self.mlp]
        gated, shared = self.gate_style is not None, self.share_parameters
        gates = [rows_over_time(self.input_gate, self._gate_bias()), rows_over_time(self.memory_gate)] if gated else []
        sizes = (self.key_size, self.key_size, self.head_size)

        def read(*inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            # The rows of one module form one matrix over the batch.
            given = [by_weights(row, shared)[:, :, None] for row in inputs]
            rows = [map_(row) for row, map_ in zip(given, project, strict=True)]
            return torch.cat(rows, 2), gates[0](rows[0]) if gated else None

        def attention(rows: Tensor) -> Tensor:
            # (M, B, rows, heads, key + key + value), then (M, B, heads, rows, size).
            return self._norm(qkv(rows), self.qkv_norm).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

        def update(old: Tensor, attended: Tensor, input_gates: Tensor | None) -> Tensor:
            q, k, v = attended.split(sizes, -1)
            q = q[..., : self.num_slots, :]  # nobody reads what the rows of input would become
            attended = (q @ k.transpose(-1, -2) / math.sqrt(self.key_size)).softmax(-1) @ v
            slots = self._norm(old + attended.transpose(-2, -3).flatten(-2), self.attended_norm)
            mixed = mlp[0](slots)
            for layer in mlp[1:]:
                mixed = layer(torch.relu(mixed))
            candidate = self._norm(slots + mixed, self.mlp_norm)
            if input_gates is not None:
                input_gate, forget_gate = (input_gates + gates[1](torch.tanh(old))).sigmoid_().chunk(2, -1)
                candidate = torch.addcmul(input_gate * torch.tanh(candidate), forget_gate, old)
            return by_batch(candidate, self.num_modules, shared)

        return read, attention, update

    def _gate_bias(self) -> Float[Tensor, " G"]:
        """What is added to the gates."""
        shift = self.input_gate[1]
        half = shift.shape[-1] // 2
        return torch.cat([shift.new_full((half,), bias) for bias in (self.input_bias, self.forget_bias)])

    @staticmethod
    def _norm(x: Float[Tensor, "M B R D"], parameters: Affine) -> Float[Tensor, "M B R D"]:
        scale, shift = parameters()
        if x.device.type == "cpu" and not by_autograd(x.device):
            return node(_Norm, x.flatten(1, 2), scale, shift).view(x.shape)
        return layer_norm(x, x.shape[-1:]) * scale[:, None, None] + shift[:, None, None]


class _Norm(Function):
    """Layer norm of the rows of each module, `(M, R, D)`, with its own scale and shift, `(M, D)`: one pass over a
    module's rows, where norm, scale and shift of all would be three over memory, and twice as many back."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        size = [x.shape[-1]]
        parts = [aten.native_layer_norm(each, size, *own, 1e-5) for each, *own in zip(x, scale, shift, strict=True)]
        outputs, means, deviations = zip(*parts, strict=True)
        ctx.save_for_backward(x, scale, shift, *means, *deviations)
        return _joined(outputs)

    @staticmethod
    @once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, ...]:
        x, scale, shift, *rest = ctx.saved_tensors
        means, deviations, size = rest[: len(x)], rest[len(x) :], [x.shape[-1]]
        each = zip(gradient.contiguous(), x, means, deviations, scale, shift, strict=True)
        parts = [
            aten.native_layer_norm_backward(given, part, size, mean, deviation, *own, [True] * 3)
            for given, part, mean, deviation, *own in each
        ]
        return tuple(_joined(part) for part in zip(*parts, strict=True))


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)


def rows_over_time(linear: Affine, more: Tensor | float = 0.0) -> LinearMap:
    """Each module's own linear map of rows, `(M, B, R, I)` to `(M, B, R, O)`, from its weight and bias, with `more`
    added to its outputs."""
    weight, bias = linear()
    product = over_time(weight, bias if isinstance(more, float) else bias + more)
    return lambda rows: product(rows.flatten(1, 2)).unflatten(1, rows.shape[1:3])


class RelationalMemoryLayer(Layer):
    """One layer of [`RelationalMemory`][s2rm.nn.memory.RelationalMemory] in one direction."""

    def __init__(self, cell: GroupedRelationalMemoryCell):
        super().__init__()
        self.cell = cell

    def initial_state(self, batch_size: int) -> State:
        flat = self.cell.initial_state(batch_size).flatten(1)
        return flat, flat

    def state_from(self, given: State) -> State:
        shape = (1, self.cell.num_slots, self.cell.slot_size)
        flat = self.cell.state_from(given[1].unflatten(-1, shape)).flatten(1)
        return flat, flat

    def reset_parameters(self) -> None:
        self.cell.reset_parameters()

    def steps(self, inputs: Tensor) -> Iterator[Callable[[State], State]]:
        read, attention, update = self.cell.parts_over_time()
        shape, steps = (1, self.cell.num_slots, self.cell.slot_size), inputs.shape[1]
        # What does not depend on the memory is computed for all steps at once, time before batch.
        rows, gates = read(inputs.transpose(0, 1).flatten(0, 1)[:, None])
        given = attention(rows).unflatten(1, (steps, -1)).unbind(1)
        each_gates = [None] * steps if gates is None else gates.unflatten(1, (steps, -1)).unbind(1)

        def step(given: Tensor, gates: Tensor | None, state: State) -> State:
            old = by_weights(state[1].unflatten(-1, shape), self.cell.share_parameters)
            after = update(old, torch.cat([attention(old), given], -2), gates).flatten(1)
            return after, after

        return (partial(step, *parts) for parts in zip(given, each_gates, strict=True))


class RelationalMemory(RecurrentCore):
    """A relational memory core, called like `torch.nn.LSTM`.

    The output is the flattened memory. The state is `(h, c)`: c is the memory, and h, equal to it, is the last output.
    With several slots a sequence whose c is all zeros starts from the identity, as without a state, since slots of
    zeros would stay equal; with one slot zeros are a state like others.
    [`GroupedRelationalMemoryCell`][s2rm.nn.memory.GroupedRelationalMemoryCell] has the equations.

    Args:
        hidden_size: of the whole memory, `num_slots * num_heads * head size`.
        input_size, num_layers, batch_first, dropout, bidirectional: as with `torch.nn.LSTM`.
        num_slots, num_heads: their product must divide the hidden size.
        key_size: of a head's queries and keys. Default: the head size.
        gate_style, forget_bias, input_bias, attention_layers: as in the cell.

    Raises:
        ValueError: a hidden size that `num_slots * num_heads` does not divide, more slots than numbers in one, or an
            unknown gate style.

    Examples:
        >>> memory = RelationalMemory(5, 12, batch_first=True, num_slots=2, num_heads=3)
        >>> outputs, (h, c) = memory(torch.randn(2, 7, 5))
        >>> outputs.shape, torch.equal(h[-1], outputs[:, -1])
        (torch.Size([2, 7, 12]), True)

    Source:
        Santoro et al. 2018, "Relational recurrent neural networks". Relative to the paper: a layer norm per module, as
        in the published implementation; the state has two parts, as that of an `nn.LSTM`.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        num_slots: int = 1, num_heads: int = 1, key_size: int | None = None, gate_style: str | None = "unit",
        forget_bias: float = 1.0, input_bias: float = 0.0, attention_layers: int = 2,
    ):  # fmt: skip
        if num_slots < 1 or num_heads < 1 or hidden_size % (num_slots * num_heads):
            raise ValueError(
                f"RelationalMemory: hidden_size must be a multiple of num_slots x num_heads, {num_slots} x "
                f"{num_heads}, got {hidden_size}"
            )
        head_size = hidden_size // (num_slots * num_heads)
        if num_slots > num_heads * head_size + 1:  # one has a 1 at each place, and one may have none
            raise ValueError(
                f"RelationalMemory: expected at most {num_heads * head_size + 1} slots of {num_heads * head_size} "
                f"numbers, got {num_slots}, of which some would begin and stay equal; raise hidden_size, or lower "
                "num_slots"
            )
        if key_size is not None and key_size < 1:
            raise ValueError(f"RelationalMemory: key_size must be at least 1, got {key_size}; or leave it out")
        sizes = (num_slots, num_heads, head_size, key_size or head_size)

        def layer(inputs: int) -> RelationalMemoryLayer:
            gates = (gate_style, forget_bias, input_bias)
            return RelationalMemoryLayer(GroupedRelationalMemoryCell(1, (inputs,), *sizes, *gates, attention_layers))

        super().__init__(layer, input_size, hidden_size, num_layers, batch_first, dropout, bidirectional)
