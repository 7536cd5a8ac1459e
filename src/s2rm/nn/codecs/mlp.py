"""Perceptrons for views of any shape, small enough for CPUs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.nn.codecs.shared import PositionedMLP


class MLPEncoder(nn.Module):
    """Encodes a view, its missing flags and (where `position_size` > 0) its embedded position as a vector.

    Args:
        value_shape: shape of a view.
        size: size of the encoding.
        position_size: size of the embedded position, 0 for none.
        hidden_size: width of the hidden layers.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, hidden_size: int = 128):
        super().__init__()
        self.value_rank, self.num_values = len(value_shape), math.prod(value_shape)
        self.layers = PositionedMLP(2 * self.num_values, size, position_size, hidden_size)

    def forward(
        self,
        values: Float[Tensor, "*batch"],
        missing: Float[Tensor, "*batch"],
        position: Float[Tensor, "*slots d"] | None = None,
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        inputs = torch.cat([part.reshape(*slots, self.num_values) for part in (values, missing)], -1)
        return self.layers(inputs, position)


class MLPDecoder(nn.Module):
    """Decodes a vector and (where `position_size` > 0) the query's embedded position to likelihood parameters.

    Args:
        value_shape: shape of a view.
        size: size of the vector.
        position_size: size of the embedded position, 0 for none.
        num_parameters: number of likelihood parameters per channel.
        hidden_size: width of the hidden layers.
    """

    def __init__(
        self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int, hidden_size: int = 128
    ):
        super().__init__()
        self.shape = (*value_shape, num_parameters)
        self.layers = PositionedMLP(size, math.prod(self.shape), position_size, hidden_size)

    def forward(
        self, vector: Float[Tensor, "*slots H"], position: Float[Tensor, "*slots d"] | None = None
    ) -> Float[Tensor, "*slots *shape"]:
        return self.layers(vector, position).unflatten(-1, self.shape)
