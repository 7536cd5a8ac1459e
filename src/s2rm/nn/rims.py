"""Recurrent independent mechanisms: modules that compete for the input and talk sparingly."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from s2rm.nn.core import Layer, RecurrentCore, State
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell, LSTMState, grouped_over_time


class Trace(NamedTuple):
    """What the modules did at each step."""

    active: Bool[Tensor, "B T M"]
    """which modules were active"""
    input_weights: Float[Tensor, "B T K M rows"]
    """what each module read of the input; row 0 is the zero row, where there is one"""
    communication_weights: Float[Tensor, "B T K M M"]
    """what each module read of each module; rows of modules that were not active were not used"""


class Maps(NamedTuple):
    """The linear maps of a layer that depend on the state, for use at every step of a loop."""

    query: Callable[[Tensor], Tensor]
    cell: Callable[[Tensor, Tensor, Any], Any]
    communication_in: Callable[[Tensor], Tensor]
    communication_out: Callable[[Tensor], Tensor]


class RIMsLayer(Layer):
    """One layer of [`RIMs`][s2rm.nn.rims.RIMs] in one direction; its arguments are explained there."""

    def __init__(
        self,
        input_size: int,
        num_modules: int,
        num_active: int,
        size: int,
        cell: str,
        selection: str,
        input_heads: int,
        input_key_size: int,
        input_value_size: int,
        communication_heads: int,
        communication_key_size: int,
        communication_value_size: int,
        attention_dropout: float,
    ):
        super().__init__()
        self.num_modules, self.num_active, self.size = num_modules, num_active, size
        # What `RIMs.trace` sets while it runs.
        self.records: list[tuple[Tensor, Tensor, Tensor]] | None = None
        self.masked_modules: tuple[int, ...] = ()
        self.selection, self.attention_dropout = selection, attention_dropout
        self.input_heads, self.communication_heads = input_heads, communication_heads
        self.input_key_size, self.communication_key_size = input_key_size, communication_key_size

        def weight(*shape: int) -> nn.Parameter:
            bound = 1 / math.sqrt(shape[-2])
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        self.input_key = weight(input_size, input_heads * input_key_size)
        self.input_value = weight(input_size, input_heads * input_value_size)
        self.input_query = weight(num_modules, size, input_heads * input_key_size)
        grouped = {"lstm": GroupedLSTMCell, "gru": GroupedGRUCell}[cell]
        self.cell = grouped(num_modules, input_heads * input_value_size, size)
        keys = communication_heads * communication_key_size
        values = communication_heads * communication_value_size
        self.communication_sizes = (keys, keys, values)
        self.communication_in = weight(num_modules, size, 2 * keys + values)
        self.communication_out = weight(num_modules, values, size)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        zeros = self.input_key.new_zeros(batch_size, self.num_modules * self.size)
        return (zeros, zeros) if isinstance(self.cell, GroupedLSTMCell) else (zeros,)

    def unroll(self, inputs: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        rows = inputs if inputs.ndim == 4 else inputs.unsqueeze(2)
        key_weight = self.input_key / math.sqrt(self.input_key_size)
        keys = (rows @ key_weight).unflatten(-1, (self.input_heads, -1)).permute(1, 0, 3, 4, 2)
        values = (rows @ self.input_value).unflatten(-1, (self.input_heads, -1)).permute(1, 0, 3, 2, 4)
        kept = torch.tensor(
            [module not in self.masked_modules for module in range(self.num_modules)], device=inputs.device
        )
        parts = [part.unflatten(-1, (self.num_modules, self.size)) for part in state]
        maps = Maps(
            grouped_over_time(self.input_query),
            self.cell.over_time(),
            grouped_over_time(self.communication_in),
            grouped_over_time(self.communication_out),
        )
        # Ties go to the first module.
        earlier = torch.ones(self.num_modules, self.num_modules, dtype=torch.bool, device=inputs.device).tril(-1)
        outputs = []
        for step, (keys_now, values_now) in enumerate(zip(keys.unbind(), values.unbind(), strict=True)):
            after = self._step(maps, keys_now, values_now, parts, kept, earlier)
            output = after[0].flatten(1)
            if mask is not None:
                there = mask[:, step, None, None]
                after = [torch.where(there, new, old) for new, old in zip(after, parts, strict=True)]
                output = torch.where(mask[:, step, None], output, 0.0)
            parts = after
            outputs.append(output)
        return torch.stack(outputs, 1), tuple(part.flatten(1) for part in parts)

    def _step(
        self,
        maps: Maps,
        keys: Float[Tensor, "B K D rows"],
        values: Float[Tensor, "B K rows V"],
        state: list[Float[Tensor, "B M S"]],
        kept: Bool[Tensor, " M"],
        earlier: Bool[Tensor, "M M"],
    ) -> list[Tensor]:
        hidden = state[0]
        query = maps.query(hidden).unflatten(-1, (self.input_heads, -1)).transpose(1, 2)
        scores = query @ keys
        if self.selection == "zero_row":
            # The zero row's key is zero and so is its score; its value is zero and adds nothing.
            weights = nn.functional.pad(scores, (1, 0)).softmax(-1)
            interest, read = -weights[..., 0].mean(1), weights[..., 1:]
        else:
            weights = scores.masked_fill(~kept[:, None], -torch.inf).softmax(2)
            interest, read = weights.sum(-1).mean(1), weights
        attended = (self._drop(read) @ values).transpose(1, 2).flatten(2)
        interest = interest.detach().masked_fill(~kept, -torch.inf)
        mine, theirs = interest[:, :, None], interest[:, None]
        ahead = (theirs > mine) | ((theirs == mine) & earlier)
        active = (ahead.sum(-1) < self.num_active) & kept
        chosen = active[..., None]

        if isinstance(self.cell, GroupedLSTMCell):
            after = list(maps.cell(attended, hidden, LSTMState(hidden, state[1])))
        else:
            after = [maps.cell(attended, hidden, hidden)]
        after = [torch.where(chosen, new, old) for new, old in zip(after, state, strict=True)]

        heads = (self.communication_heads, -1)
        parts = maps.communication_in(after[0]).split(self.communication_sizes, -1)
        q, k, v = (part.unflatten(-1, heads).transpose(1, 2) for part in parts)
        there = kept[None] if self.masked_modules else None
        dropout = self.attention_dropout if self.training else 0.0
        heard = nn.functional.scaled_dot_product_attention(q, k, v, there, dropout).transpose(1, 2).flatten(2)
        after[0] = after[0] + torch.where(chosen, maps.communication_out(heard), 0.0)
        if self.records is not None:
            scores = q @ k.mT / math.sqrt(self.communication_key_size)
            self.records.append((active, weights, scores.masked_fill(~kept, -torch.inf).softmax(-1)))
        return after

    def _drop(self, weights: Tensor) -> Tensor:
        return nn.functional.dropout(weights, self.attention_dropout, self.training)


class RIMs(RecurrentCore):
    """Recurrent independent mechanisms, called like `torch.nn.LSTM`.

    `num_modules` modules share the hidden size evenly. At each step every module queries the input; the `num_active`
    modules that look least at the zero row are active; they update their own state from what they read, then read
    from all modules. The others keep their state, and gradients flow through it.

        A_k = softmax(h_k W_k^q (X W^e)^T / sqrt(d)) X W^v,   X = [0; x]
        h̃_k, c_k = F_k(A_k, h_k, c_k)                          where k is active, else h_k, c_k
        h_k' = h̃_k + softmax(Q_k K^T / sqrt(d)) V W_k^o        where k is active, else h_k

    Args:
        input_size: size of the input, or of each of its positions where the input is a set, `(B, T, N, input_size)`.
        hidden_size: of all modules together; a multiple of `num_modules`.
        num_layers: layers, each reading the one below.
        batch_first: inputs are `(B, T, ...)` rather than `(T, B, ...)`.
        dropout: between layers, in training.
        bidirectional: a second set of layers reads backward in time.
        num_modules: kT.
        num_active: kA, how many are active at each step.
        cell: "lstm" (the state is `(h, c)`) or "gru" (the state is h, as with `torch.nn.GRU`).
        selection: "zero_row" as above, or "across_modules", the authors' Atari variant: the softmax runs over the
            modules, there is no zero row, and the modules with most of it are active.
        input_heads, input_key_size, input_value_size: of the input attention. Default value size: 4 times a module's.
        communication_heads, communication_key_size, communication_value_size: of the communication.
        attention_dropout: probability of dropping an attention weight in training; the authors used 0.1.

    Raises:
        ValueError: `num_active` not in 1 to `num_modules`, or a hidden size that does not divide.

    Source:
        Goyal et al. 2019, "Recurrent Independent Mechanisms". Relative to the paper: the heads of the communication are
        joined by a projection per module; ties of the selection go to the first module; scores averaged over heads.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        num_modules: int = 6,
        num_active: int = 4,
        cell: str = "lstm",
        selection: str = "zero_row",
        input_heads: int = 1,
        input_key_size: int = 64,
        input_value_size: int | None = None,
        communication_heads: int = 4,
        communication_key_size: int = 32,
        communication_value_size: int = 32,
        attention_dropout: float = 0.0,
    ):
        if not 1 <= num_active <= num_modules:
            raise ValueError(f"RIMs: num_active must be in 1 to num_modules, {num_modules}, got {num_active}")
        if hidden_size % num_modules:
            raise ValueError(
                f"RIMs: hidden_size must be a multiple of num_modules, {num_modules}, got {hidden_size}; take "
                f"{round(hidden_size / num_modules) * num_modules or num_modules}"
            )
        if cell not in ("lstm", "gru"):
            raise ValueError(f'RIMs: cell must be "lstm" or "gru", got {cell!r}')
        if selection not in ("zero_row", "across_modules"):
            raise ValueError(f'RIMs: selection must be "zero_row" or "across_modules", got {selection!r}')
        size = hidden_size // num_modules

        def layer(layer_input_size: int) -> RIMsLayer:
            return RIMsLayer(
                layer_input_size, num_modules, num_active, size, cell, selection, input_heads, input_key_size,
                4 * size if input_value_size is None else input_value_size, communication_heads,
                communication_key_size, communication_value_size, attention_dropout,
            )  # fmt: skip

        super().__init__(layer, input_size, hidden_size, num_layers, batch_first, dropout, bidirectional)
        self.num_modules, self.num_active = num_modules, num_active

    @torch.no_grad()
    def trace(
        self, input: Any, hx: Any = None, mask: Tensor | None = None, masked_modules: tuple[int, ...] = ()
    ) -> tuple[Any, list[Trace]]:
        """The outputs, and what the modules of every layer did.

        Args:
            input, hx, mask: as for the call.
            masked_modules: modules that are never active and never read from, in every layer.

        Returns:
            The outputs and a [`Trace`][s2rm.nn.rims.Trace] a layer and direction, in the order of the state; batch
            first, forward in time.
        """
        layers = [layer for layer in self.layers if isinstance(layer, RIMsLayer)]
        try:
            for layer in layers:
                layer.records, layer.masked_modules = [], masked_modules
            outputs, _ = self(input, hx, mask)
            traces = []
            for number, layer in enumerate(layers):
                trace = Trace(*(torch.stack(parts, 1) for parts in zip(*layer.records or (), strict=True)))
                backward = number % self.directions == 1
                traces.append(Trace(*(part.flip(1) for part in trace)) if backward else trace)
            return outputs, traces
        finally:
            for layer in layers:
                layer.records, layer.masked_modules = None, ()
