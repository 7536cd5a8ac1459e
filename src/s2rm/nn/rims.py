"""Recurrent independent mechanisms: modules that compete for the input and communicate sparsely."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import dropout, pad, scaled_dot_product_attention
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from s2rm.nn.core import Layer, RecurrentCore, State
from s2rm.nn.over_time import LinearMap, by_autograd
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell, LSTMState, grouped_over_time
from s2rm.nn.rims_loop import Heads, Weights, run

Steps = TypeVar("Steps", Tensor, PackedSequence)


class Trace(NamedTuple):
    """The modules' activity and attention weights at each step."""

    active: Bool[Tensor, "B T M"]
    """which modules were active; none at absent steps"""
    input_weights: Float[Tensor, "B T K M rows"]
    """each module's attention to the rows of the input; row 0 is the null row, where there is one"""
    communication_weights: Float[Tensor, "B T K M M"]
    """each module's attention to the modules; the rows of inactive modules were not used"""


class RIMsLayer(Layer):
    """One layer of [`RIMs`][s2rm.nn.rims.RIMs] in one direction; see there for the arguments."""

    def __init__(
        self, input_size: int, num_modules: int, num_active: int, size: int, cell: str, selection: str,
        reading: Heads, communication: Heads, attention_dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.num_modules, self.num_active, self.size = num_modules, num_active, size
        # Set by `RIMs.trace` and `RIMs.masked` while they run; `present` is bool, (M,).
        self.records: list[tuple[Tensor, Tensor, Tensor]] | None = None
        self.present: Tensor | None = None
        self.selection, self.attention_dropout = selection, attention_dropout
        self.reading, self.communication = reading, communication

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(drawn(torch.empty(shape)))

        self.input_key = weight(input_size, reading.num * reading.key_size)
        self.input_value = weight(input_size, reading.num * reading.value_size)
        self.input_query = weight(num_modules, size, reading.num * reading.key_size)
        kind: type[GroupedLSTMCell | GroupedGRUCell] = GroupedLSTMCell if cell == "lstm" else GroupedGRUCell
        self.cell = kind(num_modules, reading.num * reading.value_size, size)
        self.communication_in = weight(num_modules, size, sum(communication.parts))
        self.communication_out = weight(num_modules, communication.parts[-1], size)

    def reset_parameters(self) -> None:
        for weight in (self.input_key, self.input_value, self.input_query):
            drawn(weight)
        self.cell.reset_parameters()
        for weight in (self.communication_in, self.communication_out):
            drawn(weight)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        zeros = self.input_key.new_zeros(batch_size, self.num_modules * self.size)
        return (zeros, zeros) if isinstance(self.cell, GroupedLSTMCell) else (zeros,)

    def forward(self, inputs: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        usual = self.selection == "zero_row" and self.reading.num == 1 and (inputs.ndim == 3 or inputs.shape[2] == 1)
        usual = usual and self.communication.num > 0
        dropped = self.training and self.attention_dropout > 0
        watched = self.records is not None or self.present is not None
        if not usual or dropped or watched or by_autograd(inputs.device):
            return super().forward(inputs, state, mask)
        return self._at_once(inputs if inputs.ndim == 3 else inputs.squeeze(2), state, mask)

    def _at_once(
        self, inputs: Float[Tensor, "B T D"], state: State, mask: Bool[Tensor, "B T"] | None
    ) -> tuple[Tensor, State]:
        """As `steps`, in the usual case, by one node of the graph for all of them."""
        across = inputs.transpose(0, 1)
        keys = (across @ self.input_key).flatten(0, 1) / math.sqrt(self.reading.key_size)
        queried = (keys @ self.input_query.mT).unflatten(1, across.shape[:2])
        gates = ((across @ self.input_value).flatten(0, 1) @ self.cell.weight_input).unflatten(1, across.shape[:2])
        of_cell = (self.cell.weight_hidden, self.cell.bias_input.unsqueeze(1), self.cell.bias_hidden.unsqueeze(1))
        queries, *others = self.communication_in.split(self.communication.parts, -1)
        communication_in = torch.cat([queries / math.sqrt(self.communication.key_size), *others], -1)
        weights = Weights(*of_cell, communication_in, self.communication_out)
        parts = [part.unflatten(-1, (self.num_modules, self.size)).transpose(0, 1) for part in state]
        states, *last = run(queried, gates, mask, parts, weights, self.communication, self.num_active)
        outputs = states.permute(2, 1, 0, 3).flatten(2)
        outputs = outputs if mask is None else torch.where(mask[..., None], outputs, 0.0)
        return outputs, tuple(part.transpose(0, 1).flatten(1) for part in last)

    def steps(self, inputs: Tensor) -> Iterator[Callable[[State], State]]:
        rows = inputs if inputs.ndim == 4 else inputs.unsqueeze(2)
        # Keys and values do not depend on the state: all steps at once, time first, (T, B, K, D, rows) and
        # (T, B, K, rows, V).
        key_weight = self.input_key / math.sqrt(self.reading.key_size)
        keys = (rows @ key_weight).unflatten(-1, (self.reading.num, -1)).permute(1, 0, 3, 4, 2)
        values = (rows @ self.input_value).unflatten(-1, (self.reading.num, -1)).permute(1, 0, 3, 2, 4)
        everyone = torch.ones(self.num_modules, dtype=torch.bool, device=inputs.device)
        kept = everyone if self.present is None else self.present
        weights = (self.input_query, self.communication_in, self.communication_out)
        query, read, write = map(grouped_over_time, weights)
        cell = cast("Callable[[Tensor, Tensor, Tensor | LSTMState], Tensor | LSTMState]", self.cell.over_time())
        # Entry (m, n) is True where n < m: ties of the selection go to the module with the lower number.
        earlier = torch.ones(self.num_modules, self.num_modules, dtype=torch.bool, device=inputs.device).tril(-1)
        now = zip(keys.unbind(), values.unbind(), strict=True)
        return (partial(self._step, query, read, write, cell, kept, earlier, *given) for given in now)

    def _step(
        self, to_query: LinearMap, communication_in: LinearMap, communication_out: LinearMap,
        cell: Callable[[Tensor, Tensor, Tensor | LSTMState], Tensor | LSTMState], kept: Bool[Tensor, " M"],
        earlier: Bool[Tensor, "M M"], keys: Float[Tensor, "B K D rows"], values: Float[Tensor, "B K rows V"],
        flat: State,
    ) -> State:  # fmt: skip
        state = [part.unflatten(-1, (self.num_modules, self.size)) for part in flat]

        # 1. Every module reads the input: scores (B, K, M, rows).
        query = to_query(state[0]).unflatten(-1, (self.reading.num, -1)).transpose(1, 2)
        scores = query @ keys
        if self.selection == "zero_row":
            # The null row's key is zero, hence its score too; its value is zero and adds nothing to the sum.
            weights = pad(scores, (1, 0)).softmax(-1)
            # Of one head, the order of the scores is that of the weights, and holds where weights round to 0 or 1.
            interest = scores.logsumexp(-1)[:, 0] if self.reading.num == 1 else -weights[..., 0].mean(1)
            read = weights[..., 1:]
        else:
            weights = scores.masked_fill(~kept[:, None], -torch.inf).softmax(2)
            interest, read = weights.sum(-1).mean(1), weights
        attended = (dropout(read, self.attention_dropout, self.training) @ values).transpose(1, 2).flatten(2)

        # 2. The modules with most interest are active: those that fewer than `num_active` others are ahead of.
        interest = interest.detach().masked_fill(~kept, -torch.inf)
        mine, others = interest[:, :, None], interest[:, None]
        ahead = (others > mine) | ((others == mine) & earlier)
        active = (ahead.sum(-1) < self.num_active) & kept
        chosen = active[..., None]

        # 3. Active modules update their own state.
        updated = cell(attended, state[0], LSTMState(*state) if len(state) == 2 else state[0])
        parts = (updated,) if isinstance(updated, Tensor) else updated
        after = [torch.where(chosen, new, old) for new, old in zip(parts, state, strict=True)]

        if not self.communication.num:
            if self.records is not None:
                self.records.append((active, weights, weights.new_empty(weights.shape[0], 0, *[self.num_modules] * 2)))
            return tuple(part.flatten(1) for part in after)

        # 4. Active modules read from all modules and add the result to h: q, k, v are (B, K, M, D or V).
        projected = communication_in(after[0]).split(self.communication.parts, -1)
        q, k, v = (part.unflatten(-1, (self.communication.num, -1)).transpose(1, 2) for part in projected)
        readable = None if self.present is None else kept[None]
        rate = self.attention_dropout if self.training else 0.0
        message = scaled_dot_product_attention(q, k, v, readable, rate).transpose(1, 2).flatten(2)
        after[0] = after[0] + torch.where(chosen, communication_out(message), 0.0)
        if self.records is not None:
            scores = q @ k.mT / math.sqrt(self.communication.key_size)
            self.records.append((active, weights, scores.masked_fill(~kept, -torch.inf).softmax(-1)))
        return tuple(part.flatten(1) for part in after)


def drawn(weight: Tensor) -> Tensor:
    """The weight `(..., inputs, outputs)`, drawn uniformly within the inverse root of its inputs, in place."""
    bound = 1 / math.sqrt(max(1, weight.shape[-2]))
    return nn.init.uniform_(weight, -bound, bound)


class RIMs(RecurrentCore):
    r"""Recurrent independent mechanisms, called like `torch.nn.LSTM`.

    `num_modules` modules share the hidden size evenly. At each step every module queries the input, to which a null
    row of zeros is added. The `num_active` modules that attend least to the null row are active: they update their
    own state from what they read, then read from all modules. The others keep their state, and gradients flow
    through it. For an active module k:

    $$A_k = \mathrm{softmax}(h_k W^q_k (X W^e)^\top / \sqrt{d}) \, X W^v, \quad X = [0; x]$$

    $$\tilde h_k, c_k' = F_k(A_k, h_k, c_k)$$

    $$h_k' = \tilde h_k + \mathrm{softmax}(Q_k K^\top / \sqrt{d}) \, V W^o_k$$

    where F is the cell and Q, K, V are each module's own linear maps of $\tilde h$.

    Args:
        input_size: of the input, or of each of its rows if the input is a set, `(B, T, N, input_size)`.
        hidden_size: of all modules together; a multiple of `num_modules`.
        num_layers, batch_first, dropout, bidirectional: as with `torch.nn.LSTM`.
        num_modules: the paper's $k_T$.
        num_active: the paper's $k_A$, the number of modules active at each step.
        cell: "lstm" (the state is `(h, c)`) or "gru" (the state is h, as with `torch.nn.GRU`).
        selection: "zero_row" as above, or "across_modules", the authors' Atari variant: the softmax runs over the
            modules, there is no null row, and the modules with the largest weights are active.
        input_heads, input_key_size, input_value_size: of the input attention. Default value size: 4 times a module's.
        communication_heads, communication_key_size, communication_value_size: of the communication; 0 heads disable
            it.
        attention_dropout: probability of dropping an attention weight in training; the authors used 0.1.

    Raises:
        ValueError: `num_active` not in 1 to `num_modules`, or a hidden size that `num_modules` does not divide.

    Examples:
        >>> rims = RIMs(5, 12, batch_first=True, num_modules=4, num_active=3)
        >>> outputs, (h, c) = rims(torch.randn(2, 7, 5))
        >>> outputs.shape, h.shape
        (torch.Size([2, 7, 12]), torch.Size([1, 2, 12]))
        >>> _, (trace,) = rims.trace(torch.randn(2, 7, 5))
        >>> trace.active.sum(-1).unique()
        tensor([3])

    Source:
        Goyal et al. 2019, "Recurrent Independent Mechanisms". Relative to the paper: the heads of the communication are
        joined by a projection per module; ties of the selection go to the module with the lower number; with several
        input heads the selection averages their weights.
    """

    most_dimensions = 4  # of a set of inputs at each step

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        num_modules: int = 6, num_active: int = 4, cell: str = "lstm", selection: str = "zero_row",
        input_heads: int = 1, input_key_size: int = 64, input_value_size: int | None = None,
        communication_heads: int = 4, communication_key_size: int = 32, communication_value_size: int = 32,
        attention_dropout: float = 0.0,
    ):  # fmt: skip
        if not 1 <= num_active <= num_modules:
            raise ValueError(f"RIMs: num_active must be in 1 to num_modules, {num_modules}, got {num_active}")
        if hidden_size % num_modules:
            raise ValueError(
                f"RIMs: hidden_size must be a multiple of num_modules, {num_modules}, got {hidden_size}; take "
                f"{round(hidden_size / num_modules) * num_modules or num_modules}"
            )
        sizes = (input_heads, input_key_size, communication_key_size, communication_value_size)
        if min(*sizes, 1 if input_value_size is None else input_value_size) < 1 or communication_heads < 0:
            raise ValueError(
                "RIMs: heads and their key and value sizes must be at least 1, communication_heads at least 0, got "
                f"input {input_heads}, {input_key_size}, {input_value_size}, communication {communication_heads}, "
                f"{communication_key_size}, {communication_value_size}"
            )
        if cell not in ("lstm", "gru"):
            raise ValueError(f'RIMs: cell must be "lstm" or "gru", got {cell!r}')
        if selection not in ("zero_row", "across_modules"):
            raise ValueError(f'RIMs: selection must be "zero_row" or "across_modules", got {selection!r}')
        size = hidden_size // num_modules
        reading = Heads(input_heads, input_key_size, 4 * size if input_value_size is None else input_value_size)
        communication = Heads(communication_heads, communication_key_size, communication_value_size)

        def layer(inputs: int) -> RIMsLayer:
            sizes = (num_modules, num_active, size)
            return RIMsLayer(inputs, *sizes, cell, selection, reading, communication, attention_dropout)

        super().__init__(layer, input_size, hidden_size, num_layers, batch_first, dropout, bidirectional)
        self.num_modules, self.num_active = num_modules, num_active

    @torch.no_grad()
    def trace(
        self, input: Steps, hx: Tensor | Sequence[Tensor] | None = None, mask: Tensor | None = None,
        masked_modules: tuple[int, ...] = (),
    ) -> tuple[Steps, list[Trace]]:  # fmt: skip
        """The outputs, and the activity of the modules of every layer.

        Args:
            input, hx, mask: as for the call.
            masked_modules: modules that are never active and never read from, in every layer.

        Returns:
            The outputs and a [`Trace`][s2rm.nn.rims.Trace] per layer and direction, in the order of the state; batch
            first, forward in time.
        """
        layers = [cast("RIMsLayer", layer) for layer in self.layers]
        present = torch.ones(self.num_modules, dtype=torch.bool, device=layers[0].input_key.device)
        present[list(masked_modules)] = False
        try:
            for layer in layers:
                layer.records = []
            with self.masked(present) if masked_modules else nullcontext():
                outputs, _ = self(input, hx, mask)
            traces = []
            for number, layer in enumerate(layers):
                trace = Trace(*(torch.stack(parts, 1) for parts in zip(*layer.records or (), strict=True)))
                backward = number % self.directions == 1
                trace = Trace(*(part.flip(1) for part in trace)) if backward else trace
                steps = self._steps_there(input, mask, trace.active)
                traces.append(trace if steps is None else trace._replace(active=trace.active & steps[..., None]))
            return outputs, traces
        finally:
            for layer in layers:
                layer.records = None

    def _steps_there(self, input: Tensor | PackedSequence, mask: Tensor | None, active: Tensor) -> Tensor | None:
        """Which steps are there, `(B, T)`; None where all are. In others modules keep their state."""
        if isinstance(input, PackedSequence):
            lengths = pad_packed_sequence(input)[1].to(active.device)
            return torch.arange(active.shape[1], device=active.device) < lengths[:, None]
        if mask is None or mask.ndim == 1:
            return None if mask is None else mask[None]
        return mask if self.batch_first else mask.T

    @contextmanager
    def masked(self, present: Bool[Tensor, " M"]) -> Iterator[None]:
        """A context in which modules that are not `present` are never active and never read from, in every layer."""
        layers = [cast("RIMsLayer", layer) for layer in self.layers]
        before = [layer.present for layer in layers]
        try:
            for layer in layers:
                layer.present = present
            yield
        finally:
            for layer, earlier in zip(layers, before, strict=True):
                layer.present = earlier
