"""Convolutions for polar images, whose angle axis is periodic."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, pixel_shuffle

from s2rm.nn.codecs.cnn import image_shape, split_parameters
from s2rm.nn.codecs.mlp import PositionedMLP


class PolarConv2d(nn.Conv2d):
    """A 3 x 3 convolution of images `(channels, radii, angles)`: zero padding in radius, circular padding in angle.

    With stride 1, rotating the image by whole pixels rotates the output by as many.

    Source:
        S2RM, E.2.1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, 3, stride, padding=(1, 0))

    def forward(self, input: Float[Tensor, "N C I J"]) -> Float[Tensor, "N D K L"]:
        return super().forward(torch.cat([input[..., -1:], input, input[..., :1]], -1))


def halved(size: tuple[int, ...]) -> tuple[int, int]:
    """The radii and angles after a convolution with stride 2."""
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


def doubled(features: Float[Tensor, "N F I J"], size: tuple[int, ...]) -> Float[Tensor, "N C K L"]:
    """Four channels to one of twice the radii and angles, cropped to `size`; the inverse of `halved` in shape."""
    return pixel_shuffle(features, 2)[..., : size[0], : size[1]]


class PolarEncoder(nn.Module):
    """Two polar convolutions of stride 2, then a perceptron that the embedded position scales and shifts.

    The channels of a pixel share one missing flag: whether any of them was not measured.

    Args: as [`MLPEncoder`][s2rm.nn.codecs.mlp.MLPEncoder]; `channels` is the width of the convolutions.

    Source:
        S2RM, E.2: positions enter "further downstream". Relative to the paper: it gives the layers in pictures only;
        ours are few and small.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, channels: int = 32):
        super().__init__()
        self.image, self.value_rank = image_shape(value_shape, "polar"), len(value_shape)
        first, second = PolarConv2d(self.image[0] + 1, channels, stride=2), PolarConv2d(channels, channels, stride=2)
        self.convolutions = nn.Sequential(first, nn.ELU(), second, nn.ELU(), nn.Flatten())
        self.layers = PositionedMLP(channels * math.prod(halved(halved(self.image[1:]))), size, position_size, 128)

    def forward(
        self,
        values: Float[Tensor, "*batch"],
        missing: Float[Tensor, "*batch"],
        position: Float[Tensor, "*slots d"] | None = None,
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        images, flags = (part.reshape(-1, *self.image) for part in (values, missing))
        features = self.convolutions(torch.cat([images, flags.amax(1, keepdim=True)], 1))
        return self.layers(features.unflatten(0, slots), position)


class PolarDecoder(nn.Module):
    """The encoder's mirror image: a perceptron that the query's position scales and shifts, two polar convolutions.

    Args: as [`MLPDecoder`][s2rm.nn.codecs.mlp.MLPDecoder]; `channels` is the width of the convolutions.

    Source:
        S2RM, appendix D and E.2. Relative to the paper: the layers are ours.
    """

    def __init__(
        self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int, channels: int = 32
    ):
        super().__init__()
        self.shape, self.num_parameters = value_shape, num_parameters
        self.image = image_shape(value_shape, "polar")
        self.middle = halved(self.image[1:])
        self.small = (channels, *halved(self.middle))
        self.layers = PositionedMLP(size, math.prod(self.small), position_size, 128)
        # Each pixel yields four: the cost of a convolution of the upsampled image, on a quarter of the pixels.
        self.coarse = PolarConv2d(channels, 4 * channels)
        self.fine = PolarConv2d(channels, 4 * self.image[0] * num_parameters)

    def forward(
        self, vector: Float[Tensor, "*slots H"], position: Float[Tensor, "*slots d"] | None = None
    ) -> Float[Tensor, "*slots *shape"]:
        features = elu(self.layers(vector, position)).flatten(0, -2).unflatten(1, self.small)
        features = elu(doubled(self.coarse(features), self.middle))
        images = doubled(self.fine(features), self.image[1:])
        return split_parameters(images, vector.shape[:-1], self.shape, self.num_parameters)
