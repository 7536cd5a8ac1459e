"""Encoders and decoders of views: perceptrons for any shape, convolutions for images and for polar images.

All take the arguments of `MLPEncoder` and `MLPDecoder`. Those for images follow appendices D, E.1 and E.2 of the S2RM
paper, which gives the layers in pictures only; their sizes are ours.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate, linear, pixel_shuffle

Position = Float[Tensor, "*slots d"] | None
"""embedded positions, or none where they are not injected"""


class LinearOfFirst(nn.Linear):
    """A linear map of the first J of its inputs; the others are 0."""

    def forward(self, input: Float[Tensor, "*slots J"]) -> Float[Tensor, "*slots O"]:
        return linear(input, self.weight[:, : input.shape[-1]], self.bias)


class PositionedMLP(nn.Module):
    r"""A perceptron with two hidden layers of 128, the first scaled and shifted by an embedded position s:

    $$\mathrm{elu}(W_1 x \odot (1 + a(s)) + b(s))$$

    The scale and shift are those of FiLM (Perez et al. 2018). In first trials on the balls this learned much faster
    than appending the position to the input x.
    """

    def __init__(self, input_size: int, output_size: int, position_size: int):
        super().__init__()
        size = 128
        self.first = LinearOfFirst(input_size, size)
        self.rest = nn.Sequential(nn.ELU(), nn.Linear(size, size), nn.ELU(), nn.Linear(size, output_size))
        if position_size:
            self.scale_and_shift = nn.Sequential(nn.Linear(position_size, 64), nn.ELU(), nn.Linear(64, 2 * size))

    def forward(self, inputs: Float[Tensor, "*slots J"], position: Position) -> Float[Tensor, "*slots O"]:
        features = self.first(inputs)
        if position is not None:
            scale, shift = self.scale_and_shift(position).chunk(2, -1)
            features = torch.addcmul(features + shift, features, scale)
        return self.rest(features)


class MLPEncoder(nn.Module):
    """Encodes a view, its missing flags and (where `position_size` > 0) its embedded position as a vector.

    No flags, None, stand for flags that are all 0, in less time.

    Args:
        value_shape: of a view.
        size: of the encoding.
        position_size: of the embedded position, 0 for none.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int):
        super().__init__()
        self.value_rank, self.num_values = len(value_shape), math.prod(value_shape)
        self.layers = PositionedMLP(2 * self.num_values, size, position_size)

    def forward(
        self, values: Float[Tensor, "*batch"], missing: Float[Tensor, "*batch"] | None, position: Position = None
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        inputs = values.reshape(*slots, self.num_values)
        if missing is not None:
            inputs = torch.cat([inputs, missing.reshape(*slots, self.num_values)], -1)
        return self.layers(inputs, position)


class MLPDecoder(nn.Module):
    """Decodes a vector and (where `position_size` > 0) the query's embedded position to likelihood parameters.

    Args:
        value_shape, size, position_size: as for the encoder.
        num_parameters: number of likelihood parameters of each channel.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int):
        super().__init__()
        self.shape = (*value_shape, num_parameters)
        self.layers = PositionedMLP(size, math.prod(self.shape), position_size)

    def forward(self, vector: Float[Tensor, "*slots H"], position: Position = None) -> Float[Tensor, "*slots *shape"]:
        return self.layers(vector, position).unflatten(-1, self.shape)


def flags(values: Tensor, missing: Tensor | None) -> Tensor:
    """The missing flags of values: all 0 if none were given."""
    return torch.zeros_like(values) if missing is None else missing


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


def halved(size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width, or radii and angles, after a convolution with stride 2."""
    return math.ceil(size[0] / 2), math.ceil(size[1] / 2)


class ResidualBlock(nn.Module):
    r"""$x + \mathrm{conv}(\mathrm{elu}(\mathrm{conv}(\mathrm{elu}(x))))$ at one resolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        return x + self.second(elu(self.first(elu(x))))


class ResidualEncoder(nn.Module):
    """Seven convolutions, two residual blocks among them; the position joins after the second convolution."""

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int):
        super().__init__()
        self.image, self.value_rank = image_shape(value_shape, "cnn"), len(value_shape)
        channels = 64
        self.stem = nn.Sequential(
            nn.Conv2d(2 * self.image[0], channels, 3, padding=1), nn.ELU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.body = nn.Sequential(
            nn.Conv2d(channels + position_size, channels, 3, padding=1, stride=2),
            ResidualBlock(channels), ResidualBlock(channels), nn.ELU(), nn.Flatten(),
            nn.Linear(channels * math.prod(halved(self.image[1:])), size),
        )  # fmt: skip

    def forward(
        self, values: Float[Tensor, "*batch"], missing: Float[Tensor, "*batch"] | None, position: Position = None
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        images = [part.reshape(-1, *self.image) for part in (values, flags(values, missing))]
        features = elu(self.stem(torch.cat(images, 1)))
        return self.body(join(features, position)).unflatten(0, slots)


class ResidualDecoder(nn.Module):
    """The encoder's mirror image; the query's position joins after the first convolution."""

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int):
        super().__init__()
        out_channels, *self.resolution = image_shape(value_shape, "cnn")
        self.shape, self.num_parameters = value_shape, num_parameters
        channels = 64
        self.small = (channels, *halved(tuple(self.resolution)))
        self.spread = nn.Linear(size, math.prod(self.small))
        self.stem = nn.Conv2d(channels, channels, 3, padding=1)
        self.coarse = nn.Sequential(
            nn.Conv2d(channels + position_size, channels, 3, padding=1), ResidualBlock(channels), nn.ELU()
        )
        self.fine = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), ResidualBlock(channels), nn.ELU(),
            nn.Conv2d(channels, out_channels * num_parameters, 3, padding=1),
        )  # fmt: skip

    def forward(self, vector: Float[Tensor, "*slots H"], position: Position = None) -> Float[Tensor, "*slots *shape"]:
        features = elu(self.spread(vector.flatten(0, -2))).unflatten(1, self.small)
        features = self.coarse(join(elu(self.stem(features)), position))
        images = self.fine(interpolate(features, size=self.resolution))
        return split_parameters(images, vector.shape[:-1], self.shape, self.num_parameters)


def join(features: Float[Tensor, "N C H W"], position: Position) -> Float[Tensor, "N F H W"]:
    """Append the embedded position to the features as d further channels, constant over the image."""
    if position is None:
        return features
    flat = position.flatten(0, -2)[:, :, None, None]
    return torch.cat([features, flat.expand(-1, -1, *features.shape[-2:])], 1)


class PolarConv2d(nn.Conv2d):
    """A 3 x 3 convolution of images `(channels, radii, angles)`: zero padding in radius, circular padding in angle.

    With stride 1, rotating the image by whole pixels rotates the output by as many (S2RM, E.2.1).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, 3, stride, padding=(1, 0))

    def forward(self, input: Float[Tensor, "N C I J"]) -> Float[Tensor, "N D K L"]:
        return super().forward(torch.cat([input[..., -1:], input, input[..., :1]], -1))


class PolarEncoder(nn.Module):
    """Two polar convolutions of stride 2, then a perceptron that the embedded position scales and shifts.

    The channels of a pixel share one missing flag: whether any of them was not measured.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int):
        super().__init__()
        self.image, self.value_rank = image_shape(value_shape, "polar"), len(value_shape)
        channels = 32
        first, second = PolarConv2d(self.image[0] + 1, channels, stride=2), PolarConv2d(channels, channels, stride=2)
        self.convolutions = nn.Sequential(first, nn.ELU(), second, nn.ELU(), nn.Flatten())
        self.layers = PositionedMLP(channels * math.prod(halved(halved(self.image[1:]))), size, position_size)

    def forward(
        self, values: Float[Tensor, "*batch"], missing: Float[Tensor, "*batch"] | None, position: Position = None
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        images, marks = (part.reshape(-1, *self.image) for part in (values, flags(values, missing)))
        features = self.convolutions(torch.cat([images, marks.amax(1, keepdim=True)], 1))
        return self.layers(features.unflatten(0, slots), position)


class PolarDecoder(nn.Module):
    """The encoder's mirror image: a perceptron that the query's position scales and shifts, two polar convolutions."""

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int):
        super().__init__()
        self.shape, self.num_parameters = value_shape, num_parameters
        self.image = image_shape(value_shape, "polar")
        self.middle = halved(self.image[1:])
        channels = 32
        self.small = (channels, *halved(self.middle))
        self.layers = PositionedMLP(size, math.prod(self.small), position_size)
        # Each pixel yields four: the cost of a convolution of the upsampled image, on a quarter of the pixels.
        self.coarse = PolarConv2d(channels, 4 * channels)
        self.fine = PolarConv2d(channels, 4 * self.image[0] * num_parameters)

    def forward(self, vector: Float[Tensor, "*slots H"], position: Position = None) -> Float[Tensor, "*slots *shape"]:
        features = elu(self.layers(vector, position)).flatten(0, -2).unflatten(1, self.small)
        features = elu(doubled(self.coarse(features), self.middle))
        images = doubled(self.fine(features), self.image[1:])
        return split_parameters(images, vector.shape[:-1], self.shape, self.num_parameters)


def doubled(features: Float[Tensor, "N F I J"], size: tuple[int, ...]) -> Float[Tensor, "N C K L"]:
    """Four channels to one of twice the radii and angles, cropped to `size`; the inverse of `halved` in shape."""
    return pixel_shuffle(features, 2)[..., : size[0], : size[1]]


class StridedEncoder(nn.Module):
    """Three convolutions of stride 2, then a hidden layer of 512, for whole frames, one per step.

    An embedded position joins that layer. Source: RIMs, appendix, for bouncing balls.
    """

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int):
        super().__init__()
        self.image, self.value_rank = image_shape(value_shape, "strided"), len(value_shape)
        channels, resolutions = (2 * self.image[0], *STRIDED), strided(self.image[1:])
        layers: list[nn.Module] = []
        for before, after, resolution in zip(channels, STRIDED, resolutions[1:], strict=False):
            layers += [nn.Conv2d(before, after, 4, 2, padding=1), nn.ELU(), nn.LayerNorm([after, *resolution])]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        hidden = nn.Linear(STRIDED[-1] * math.prod(resolutions[-1]) + position_size, 512)
        self.layers = nn.Sequential(hidden, nn.ELU(), nn.Linear(512, size))

    def forward(
        self, values: Float[Tensor, "*batch"], missing: Float[Tensor, "*batch"] | None, position: Position = None
    ) -> Float[Tensor, "*slots H"]:
        slots = values.shape[: values.ndim - self.value_rank]
        images = [part.reshape(-1, *self.image) for part in (values, flags(values, missing))]
        features = self.convolutions(torch.cat(images, 1)).unflatten(0, slots)
        return self.layers(features if position is None else torch.cat([features, position], -1))


class StridedDecoder(nn.Module):
    """The encoder's mirror image; the query's position joins the vector that is decoded."""

    def __init__(self, value_shape: tuple[int, ...], size: int, position_size: int, num_parameters: int):
        super().__init__()
        out_channels, *resolution = image_shape(value_shape, "strided")
        self.shape, self.num_parameters = value_shape, num_parameters
        channels, resolutions = STRIDED[::-1], strided(tuple(resolution))[::-1]
        self.small = (channels[0], *resolutions[0])
        self.layers = nn.Sequential(
            nn.Linear(size + position_size, 512), nn.ELU(), nn.Linear(512, math.prod(self.small)), nn.ELU()
        )
        layers: list[nn.Module] = []
        outputs = (*channels[1:], out_channels * num_parameters)
        for before, after, wanted in zip(channels, outputs, resolutions[1:], strict=True):
            odd = (wanted[0] % 2, wanted[1] % 2)
            layers.append(nn.ConvTranspose2d(before, after, 4, 2, padding=1, output_padding=odd))
            layers += [nn.ELU(), nn.LayerNorm([after, *wanted])]
        self.convolutions = nn.Sequential(*layers[:-2])

    def forward(self, vector: Float[Tensor, "*slots H"], position: Position = None) -> Float[Tensor, "*slots *shape"]:
        joined = vector if position is None else torch.cat([vector, position], -1)
        features = self.layers(joined).flatten(0, -2).unflatten(1, self.small)
        return split_parameters(self.convolutions(features), vector.shape[:-1], self.shape, self.num_parameters)


STRIDED = (16, 32, 64)
"""channels of the convolutions of stride 2"""


def strided(resolution: tuple[int, ...]) -> list[tuple[int, int]]:
    """Height and width before and after each convolution of 4 x 4 pixels and stride 2."""
    height, width = resolution
    if min(height, width) < 2 ** len(STRIDED):
        raise ValueError(
            f'codec "strided": views must be at least {2 ** len(STRIDED)} pixels high and wide, got {height} x '
            f'{width}; use codec="cnn"'
        )
    return [(height >> step, width >> step) for step in range(len(STRIDED) + 1)]


CODECS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "mlp": (MLPEncoder, MLPDecoder),
    "cnn": (ResidualEncoder, ResidualDecoder),
    "polar": (PolarEncoder, PolarDecoder),
    "strided": (StridedEncoder, StridedDecoder),
}
"""encoder and decoder by the name that `codec=` takes"""
