"""What the encoders and decoders of images share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def image_shape(value_shape: tuple[int, ...], codec: str) -> tuple[int, int, int]:
    """`(channels, height, width)` of a view that is an image with or without a channel axis."""
    if len(value_shape) not in (2, 3):
        raise ValueError(
            f'codec "{codec}": views must be images (height, width) or (channels, height, width), got shape '
            f'{value_shape}; use codec="mlp"'
        )
    channels, height, width = (1, *value_shape)[-3:]
    return channels, height, width


def join(features: Float[Tensor, "N C H W"], position: Float[Tensor, "*slots d"] | None) -> Float[Tensor, "N F H W"]:
    """Features with the embedded position as further channels, the same at every pixel."""
    if position is None:
        return features
    flat = position.flatten(0, -2)[:, :, None, None]
    return torch.cat([features, flat.expand(-1, -1, *features.shape[-2:])], 1)
