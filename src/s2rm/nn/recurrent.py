"""Recurrent cells for a set of modules, each with parameters of its own, run as grouped products.

All are called `cell(inputs, hidden, state)`: `inputs` and `hidden` enter the gates, `state` is what is carried on.
`message(state)` is what the other modules and the queries read of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.functional import gru_update, lstm_update


def grouped_linear(
    inputs: Float[Tensor, "B M I"], weight: Float[Tensor, "M I O"], bias: Float[Tensor, "M O"] | None = None
) -> Float[Tensor, "B M O"]:
    """Each module's own linear map of its own input."""
    grouped = inputs.transpose(0, 1)
    product = grouped @ weight if bias is None else torch.baddbmm(bias[:, None], grouped, weight)
    return product.transpose(0, 1)


class GatedCell(nn.Module):
    """The parameters of a gated cell per module: two linear maps to `num_gates` gates.

    Args:
        num_modules: M.
        input_size: size of a module's input.
        hidden_size: size of a module's state.
    """

    num_gates: int

    def __init__(self, num_modules: int, input_size: int, hidden_size: int):
        super().__init__()
        self.num_modules, self.hidden_size = num_modules, hidden_size
        width = self.num_gates * hidden_size
        self.weight_input = nn.Parameter(torch.empty(num_modules, input_size, width))
        self.weight_hidden = nn.Parameter(torch.empty(num_modules, hidden_size, width))
        self.bias_input = nn.Parameter(torch.empty(num_modules, width))
        self.bias_hidden = nn.Parameter(torch.empty(num_modules, width))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def gates(self, inputs: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The linear maps of input and hidden state, `(B, M, gates x H)` each."""
        return (
            grouped_linear(inputs, self.weight_input, self.bias_input),
            grouped_linear(hidden, self.weight_hidden, self.bias_hidden),
        )

    def zeros(self, batch_size: int) -> Float[Tensor, "B M H"]:
        return self.weight_hidden.new_zeros(batch_size, self.num_modules, self.hidden_size)


class GroupedGRUCell(GatedCell):
    """One gated recurrent unit per module. See [`gru_update`][s2rm.functional.gru_update] for the equations."""

    num_gates = 3

    def initial_state(self, batch_size: int) -> Float[Tensor, "B M H"]:
        return self.zeros(batch_size)

    def message(self, state: Float[Tensor, "*batch M H"]) -> Float[Tensor, "*batch M H"]:
        return state

    def forward(
        self, inputs: Float[Tensor, "B M E"], hidden: Float[Tensor, "B M H"], state: Float[Tensor, "B M H"]
    ) -> Float[Tensor, "B M H"]:
        return gru_update(*self.gates(inputs, hidden), state)


class LSTMState(NamedTuple):
    """The state of modules with long short-term memory."""

    hidden: Tensor
    """`(B, M, H)`"""
    memory: Tensor
    """`(B, M, H)`"""


class GroupedLSTMCell(GatedCell):
    """One long short-term memory per module. See [`lstm_update`][s2rm.functional.lstm_update] for the equations."""

    num_gates = 4

    def initial_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))

    def message(self, state: LSTMState) -> Float[Tensor, "*batch M H"]:
        return state.hidden

    def forward(self, inputs: Float[Tensor, "B M E"], hidden: Float[Tensor, "B M H"], state: LSTMState) -> LSTMState:
        return LSTMState(*lstm_update(*self.gates(inputs, hidden), state.memory))
