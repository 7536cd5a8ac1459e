"""Parts that several encoders and decoders share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class PositionedMLP(nn.Module):
    r"""A perceptron with two hidden layers, the first scaled and shifted by an embedded position.

    $$\mathrm{elu}(W_1 x \odot (1 + a(s)) + b(s))$$

    is the first hidden layer. View and position are combined by multiplication: in first trials on the balls this
    learned much faster than appending the position to the input.

    Args:
        input_size: size of x.
        output_size: size of the output.
        position_size: size of the embedded position s, 0 for none.
        hidden_size: width of the hidden layers.

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


def image_shape(value_shape: tuple[int, ...], codec: str) -> tuple[int, int, int]:
    """`(channels, height, width)` of a view that is an image, with or without a channel axis.

    Raises:
        ValueError: the view is no image.
    """
    if len(value_shape) not in (2, 3):
        raise ValueError(
            f'codec "{codec}": views must be images (height, width) or (channels, height, width), got shape '
            f'{value_shape}; use codec="mlp"'
        )
    channels, height, width = (1, *value_shape)[-3:]
    return channels, height, width


def split_parameters(
    images: Float[Tensor, "N CP I J"], slots: tuple[int, ...], shape: tuple[int, ...], num_parameters: int
) -> Float[Tensor, "*slots_shape P"]:
    """Images with P likelihood parameters side by side per channel, to `(*slots, *shape, P)`."""
    return images.unflatten(1, (-1, num_parameters)).movedim(2, -1).reshape(*slots, *shape, num_parameters)
