"""Weights to start from: layers of unit variance, so that what is seen reaches what is predicted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from s2rm.models.world_model import WorldModel
from s2rm.views import Episode

LAYERS = (nn.Linear, nn.Conv2d)
LEAST = 1e-6
"""a layer whose products are smaller is left as it is"""


@torch.no_grad()
def unit_variance(model: WorldModel, episode: Episode, last: float = 0.1) -> None:
    """Scale the weights of encoder and decoder, layer by layer, until each layer's products have unit variance.

    PyTorch's own weights shrink what passes through a layer to about half, and sparse images to a tenth in the first:
    through encoder, core and decoder little of a view is left, and training can begin with a long plateau. Biases, and
    what an embedded position scales and shifts by, stay as they are.

    Args:
        model: changed in place.
        episode: some views and targets like those of training.
        last: the same of the decoder's last layer, small so that the first predictions are indifferent.

    Source:
        Mishkin and Matas 2016, "All you need is a good init". Relative to it: one pass, on top of PyTorch's weights
        instead of orthogonal ones.
    """
    layers = [
        (name, layer)
        for part in ("encoder", "decoder")
        for name, layer in getattr(model, part).named_modules(prefix=part)
        if isinstance(layer, LAYERS) and "scale_and_shift" not in name
    ]
    wanted = dict.fromkeys((layer for _, layer in layers), 1.0) | {layers[-1][1]: last}

    def rescale(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Hooked to each layer, so that the next one is given what this one puts out now."""
        products = output - layer.forward(torch.zeros_like(inputs[0][:1]))
        size = products.square().mean().sqrt()
        if size > LEAST:
            layer.weight *= wanted[layer] / size
        return layer.forward(*inputs)

    hooks = [layer.register_forward_hook(rescale) for layer in wanted]
    try:
        model.loss(episode)
    finally:
        for hook in hooks:
            hook.remove()
