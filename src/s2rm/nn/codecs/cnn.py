"""Residual convolutions for images, at the paper's size."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate


def image_shape(value_shape: tuple[int, ...], codec: str) -> tuple[int, int, int]:
    """`(channels, height, width)` of a view that is an image, with or without a channel axis; else a ValueError."""
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


class ResidualBlock(nn.Module):
    r"""$x + \mathrm{conv}(\mathrm{elu}(\mathrm{conv}(\mathrm{elu}(x))))$ at one resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return x + self.second(elu(self.first(elu(x))))


class ResidualEncoder(nn.Module):
    """Seven convolutions, two residual blocks among them; the position joins after the second convolution.

    Args: as [`MLPEncoder`][s2rm.nn.codecs.mlp.MLPEncoder]; `channels` is the width of the convolutions.

    Source:
        S2RM, appendix D and E.1. Relative to the paper: it gives the layers in pictures only, so their sizes are ours.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, channels: int = 64):
        super().__init__()
        self.image, self.value_rank = image_shape(value_shape, "cnn"), len(value_shape)
        in_channels, height, width = self.image
        self.stem = nn.Sequential(
            nn.Conv2d(2 * in_channels, channels, 3, padding=1), nn.ELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.body = nn.Sequential(
            nn.Conv2d(channels + position_size, channels, 3, padding=1, stride=2),
            ResidualBlock(channels), ResidualBlock(channels), nn.ELU(), nn.Flatten(),
            nn.Linear(channels * math.ceil(height / 2) * math.ceil(width / 2), size),
        )  # fmt: skip

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
    """The encoder's mirror image; the query's position joins after the first convolution.

    Args: as [`MLPDecoder`][s2rm.nn.codecs.mlp.MLPDecoder]; `channels` is the width of the convolutions.

    Source:
        S2RM, appendix D and E.1. Relative to the paper: the sizes of the layers are ours.
    """

    def __init__(
        self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int, channels: int = 64
    ):
        super().__init__()
        out_channels, height, width = image_shape(value_shape, "cnn")
        self.shape, self.num_parameters = value_shape, num_parameters
        self.resolution, self.small = (height, width), (channels, math.ceil(height / 2), math.ceil(width / 2))
        self.spread = nn.Linear(size, math.prod(self.small))
        self.stem = nn.Conv2d(channels, channels, 3, padding=1)
        self.coarse = nn.Sequential(
            nn.Conv2d(channels + position_size, channels, 3, padding=1), ResidualBlock(channels), nn.ELU()
        )
        self.fine = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), ResidualBlock(channels), nn.ELU(),
            nn.Conv2d(channels, out_channels * num_parameters, 3, padding=1),
        )  # fmt: skip

    def forward(
        self, vector: Float[Tensor, "*slots H"], position: Float[Tensor, "*slots d"] | None = None
    ) -> Float[Tensor, "*slots *shape"]:
        features = elu(self.spread(vector.flatten(0, -2))).unflatten(1, self.small)
        features = self.coarse(join(elu(self.stem(features)), position))
        images = self.fine(interpolate(features, size=self.resolution))
        return split_parameters(images, vector.shape[:-1], self.shape, self.num_parameters)


def join(features: Float[Tensor, "N C H W"], position: Float[Tensor, "*slots d"] | None) -> Float[Tensor, "N F H W"]:
    """Append the embedded position to the features as d further channels, constant over the image."""
    if position is None:
        return features
    flat = position.flatten(0, -2)[:, :, None, None]
    return torch.cat([features, flat.expand(-1, -1, *features.shape[-2:])], 1)
