"""Recurrent cells for a set of modules, each with its own parameters, computed as grouped products.

A cell is called `cell(inputs, hidden, state)`: `inputs` and `hidden` enter the gates, `state` is carried on.
`message(state)` is the part of the state that the other modules and the queries read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.nn.gates import Maps, gru_step, lstm_step
from s2rm.nn.over_time import LinearMap, map_state, over_time


class LSTMState(NamedTuple):
    """The state of modules with long short-term memory, `(B, M, H)` each."""

    hidden: Tensor
    memory: Tensor


CellState = TypeVar("CellState", Tensor, LSTMState)


def grouped_over_time(weight: Tensor, bias: Tensor | None = None) -> LinearMap:
    """Each module's own linear map, `(B, M, I)` to `(B, M, O)`, for use at every step of a loop."""
    product = over_time(weight, bias)
    return lambda inputs: product(inputs.transpose(0, 1)).transpose(0, 1)


def by_weights(x: Tensor, shared: bool) -> Tensor:
    """`(B, M, ...)` as grouped products take it: `(M, B, ...)`, or `(1, B M, ...)` with shared parameters."""
    return x.flatten(0, 1).unsqueeze(0) if shared else x.transpose(0, 1)


def by_batch(x: Tensor, num_modules: int, shared: bool) -> Tensor:
    """Back to `(B, M, ...)`."""
    return x.squeeze(0).unflatten(0, (-1, num_modules)) if shared else x.transpose(0, 1)


class GatedCell(nn.Module, Generic[CellState]):
    """The parameters of a gated cell per module: two linear maps to `num_gates` gates.

    Args:
        num_modules: M.
        input_size: E, of a module's input.
        hidden_size: H, of a module's state.
        share_parameters: one set of parameters for all modules.
    """

    num_gates: int

    def __init__(self, num_modules: int, input_size: int, hidden_size: int, share_parameters: bool = False):
        super().__init__()
        self.num_modules, self.hidden_size, self.share_parameters = num_modules, hidden_size, share_parameters
        sets, width = 1 if share_parameters else num_modules, self.num_gates * hidden_size
        self.weight_input, self.weight_hidden, self.bias_input, self.bias_hidden = (
            nn.Parameter(torch.empty(sets, *shape, width)) for shape in ((input_size,), (hidden_size,), (), ())
        )
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def over_time(self) -> Callable[[Tensor, Tensor, CellState], CellState]:
        """The cell, for use at every step of a loop."""
        maps = over_time(self.weight_input, self.bias_input), over_time(self.weight_hidden, self.bias_hidden)
        shared = self.share_parameters

        def step(inputs: Tensor, hidden: Tensor, state: CellState) -> CellState:
            inputs, hidden = by_weights(inputs, shared), by_weights(hidden, shared)
            state = map_state(lambda part: by_weights(part, shared), state)
            after = self.update(inputs, hidden, state, maps)
            return map_state(lambda part: by_batch(part, self.num_modules, shared), after)

        return step

    def update(self, inputs: Tensor, hidden: Tensor, state: CellState, maps: Maps) -> CellState:
        """The next state from the inputs of the two maps; module first, `(M, B, ...)`."""
        raise NotImplementedError

    def forward(self, inputs: Float[Tensor, "B M E"], hidden: Float[Tensor, "B M H"], state: CellState) -> CellState:
        """One step."""
        return self.over_time()(inputs, hidden, state)

    def zeros(self, batch_size: int) -> Float[Tensor, "B M H"]:
        return self.weight_hidden.new_zeros(batch_size, self.num_modules, self.hidden_size)


class GroupedGRUCell(GatedCell[Tensor]):
    """One gated recurrent unit per module. See [`gru_update`][s2rm.functional.gru_update] for the equations."""

    num_gates = 3

    def initial_state(self, batch_size: int) -> Float[Tensor, "B M H"]:
        return self.zeros(batch_size)

    def message(self, state: Float[Tensor, "*batch M H"]) -> Float[Tensor, "*batch M H"]:
        return state

    def update(self, inputs: Tensor, hidden: Tensor, state: Tensor, maps: Maps) -> Tensor:
        return gru_step(inputs, hidden, state, maps)


class GroupedLSTMCell(GatedCell[LSTMState]):
    """One long short-term memory per module. See [`lstm_update`][s2rm.functional.lstm_update] for the equations."""

    num_gates = 4

    def initial_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))

    def message(self, state: LSTMState) -> Float[Tensor, "*batch M H"]:
        return state.hidden

    def update(self, inputs: Tensor, hidden: Tensor, state: LSTMState, maps: Maps) -> LSTMState:
        return LSTMState(*lstm_step(inputs, hidden, state.memory, maps))
