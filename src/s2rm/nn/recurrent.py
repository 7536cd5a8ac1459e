"""Recurrent cells for a set of modules, each with parameters of its own, run as grouped products."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.functional import gru_update


class GroupedGRUCell(nn.Module):
    """One gated recurrent unit per module.

    Args:
        num_modules: M.
        input_size: size of a module's input.
        hidden_size: size of a module's state.

    Source:
        S2RM, Eq. 4. See [`gru_update`][s2rm.functional.gru_update] for the equations.
    """

    def __init__(self, num_modules: int, input_size: int, hidden_size: int):
        super().__init__()
        self.weight_input = nn.Parameter(torch.empty(num_modules, input_size, 3 * hidden_size))
        self.weight_hidden = nn.Parameter(torch.empty(num_modules, hidden_size, 3 * hidden_size))
        self.bias_input = nn.Parameter(torch.empty(num_modules, 3 * hidden_size))
        self.bias_hidden = nn.Parameter(torch.empty(num_modules, 3 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def forward(
        self, inputs: Float[Tensor, "B M E"], hidden: Float[Tensor, "B M H"], carried: Float[Tensor, "B M H"]
    ) -> Float[Tensor, "B M H"]:
        """The next states: `hidden` enters the gates and the candidate, `carried` is what the update gate keeps."""
        input_gates = torch.baddbmm(self.bias_input[:, None], inputs.transpose(0, 1), self.weight_input)
        hidden_gates = torch.baddbmm(self.bias_hidden[:, None], hidden.transpose(0, 1), self.weight_hidden)
        return gru_update(input_gates, hidden_gates, carried.transpose(0, 1)).transpose(0, 1)
