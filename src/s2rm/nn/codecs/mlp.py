"""Perceptrons for views of any shape, small enough for CPUs."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PositionedMLP(nn.Module):
    r"""A perceptron with two hidden layers, the first scaled and shifted by an embedded position.

    $$\mathrm{elu}(W_1 x \odot (1 + a(s)) + b(s))$$

    is the first hidden layer, with s the embedded position, of `position_size`, 0 for none. In first trials on the
    balls this learned much faster than appending the position to the input x.

    Source:
        FiLM, the scale and shift (Perez et al. 2018).
    """

    def __init__(self, input_size: int, output_size: int, position_size: int, hidden_size: int):
        super().__init__()
        self.first = nn.Linear(input_size, hidden_size)
        self.rest = nn.Sequential(
            nn.ELU(), nn.Linear(hidden_size, hidden_size), nn.ELU(), nn.Linear(hidden_size, output_size)
        )
        if position_size:
            self.scale_and_shift = nn.Sequential(nn.Linear(position_size, 64), nn.ELU(), nn.Linear(64, 2 * hidden_size))

    def forward(
        self, inputs: Float[Tensor, "*slots I"], position: Float[Tensor, "*slots d"] | None
    ) -> Float[Tensor, "*slots O"]:
        features = self.first(inputs)
        if position is not None:
            scale, shift = self.scale_and_shift(position).chunk(2, -1)
            features = torch.addcmul(features + shift, features, scale)
        return self.rest(features)


class MLPEncoder(nn.Module):
    """Encodes a view, its missing flags and (where `position_size` > 0) its embedded position as a vector.

    Args:
        value_shape: of a view.
        size: of the encoding.
        position_size: of the embedded position, 0 for none.
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

    Args: as `MLPEncoder`, with the size of the vector, and the number of likelihood parameters of each channel.
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
