"""Encoders and decoders of views: a small perceptron for CPUs, the paper's size of residual CNN, and a polar CNN."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from s2rm.nn.codecs.polar import PolarDecoder, PolarEncoder
from s2rm.nn.codecs.shared import PositionedMLP, image_shape


class MLPEncoder(nn.Module):
    """A view, its missing flags and (where `position_size` > 0) its embedded position to a vector.

    Args:
        value_shape: shape of a view.
        size: size of the encoding.
        position_size: size of the injected position, 0 for none.
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
    """A vector (and, where `position_size` > 0, the query's embedded position) to the likelihood's parameters.

    Args:
        value_shape: shape of a view.
        size: size of the vector.
        position_size: size of the injected position, 0 for none.
        num_parameters: parameters of the likelihood for each channel.
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


class ResidualBlock(nn.Module):
    """`x + conv(elu(conv(elu(x))))` at one resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return x + self.second(elu(self.first(elu(x))))


class ResidualEncoder(nn.Module):
    """Seven convolutions, two residual blocks among them, the position joined after the second.

    Args: as [`MLPEncoder`][s2rm.nn.codecs.MLPEncoder]; `channels` is the width of the convolutions.

    Source:
        S2RM, appendix D and E.1. The layers' sizes are ours: the paper gives them in pictures only.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, channels: int = 64):
        super().__init__()
        self.image = image_shape(value_shape, "cnn")
        colours, height, width = self.image
        self.value_rank = len(value_shape)
        self.stem = nn.Sequential(
            nn.Conv2d(2 * colours, channels, 3, padding=1), nn.ELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.body = nn.Sequential(
            nn.Conv2d(channels + position_size, channels, 3, padding=1, stride=2),
            ResidualBlock(channels),
            ResidualBlock(channels),
            nn.ELU(),
            nn.Flatten(),
            nn.Linear(channels * math.ceil(height / 2) * math.ceil(width / 2), size),
        )

    def forward(
        self,
        values: Float[Tensor, "*batch"],
        missing: Float[Tensor, "*batch"],
        position: Float[Tensor, "*slots d"] | None = None,
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        images = [part.reshape(-1, *self.image) for part in (values, missing)]
        features = elu(self.stem(torch.cat(images, 1)))
        return self.body(join(features, position)).unflatten(0, slots)


class ResidualDecoder(nn.Module):
    """The encoder's mirror image, the query's position joined after a single convolution.

    Args: as [`MLPDecoder`][s2rm.nn.codecs.MLPDecoder]; `channels` is the width of the convolutions.

    Source:
        S2RM, appendix D and E.1. The layers' sizes are ours.
    """

    def __init__(
        self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int, channels: int = 64
    ):
        super().__init__()
        colours, height, width = image_shape(value_shape, "cnn")
        self.shape, self.num_parameters = value_shape, num_parameters
        self.resolution, self.small = (height, width), (channels, math.ceil(height / 2), math.ceil(width / 2))
        self.spread = nn.Linear(size, math.prod(self.small))
        self.stem = nn.Conv2d(channels, channels, 3, padding=1)
        self.coarse = nn.Sequential(
            nn.Conv2d(channels + position_size, channels, 3, padding=1), ResidualBlock(channels), nn.ELU()
        )
        self.fine = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            ResidualBlock(channels),
            nn.ELU(),
            nn.Conv2d(channels, colours * num_parameters, 3, padding=1),
        )

    def forward(
        self, vector: Float[Tensor, "*slots H"], position: Float[Tensor, "*slots d"] | None = None
    ) -> Float[Tensor, "*slots *shape"]:
        slots = vector.shape[:-1]
        features = elu(self.spread(vector.flatten(0, -2))).unflatten(1, self.small)
        features = self.coarse(join(elu(self.stem(features)), position))
        images = self.fine(interpolate(features, size=self.resolution))
        per_colour = images.unflatten(1, (-1, self.num_parameters)).movedim(2, -1)
        return per_colour.reshape(*slots, *self.shape, self.num_parameters)


def join(features: Float[Tensor, "N C H W"], position: Float[Tensor, "*slots d"] | None) -> Float[Tensor, "N F H W"]:
    """Features with the embedded position as further channels, the same at every pixel."""
    if position is None:
        return features
    flat = position.flatten(0, -2)[:, :, None, None]
    return torch.cat([features, flat.expand(-1, -1, *features.shape[-2:])], 1)


CODECS = {
    "mlp": (MLPEncoder, MLPDecoder),
    "cnn": (ResidualEncoder, ResidualDecoder),
    "polar": (PolarEncoder, PolarDecoder),
}
