"""How training starts: in training mode, with layers of unit variance, so that the signal reaches the prediction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from s2rm.models.model import B, Model
from s2rm.training.processor import flush_denormals

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
LEAST = 1e-6
"""layers with smaller products are left unchanged"""
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""the environment variable that tells cuBLAS how much memory its deterministic products have"""


@torch.no_grad()
def unit_variance(model: Model[B], batch: B, last: float = 0.1) -> None:
    """Scale the weights of encoder and decoder, layer by layer, so that the products of each have unit variance.

    PyTorch's own weights shrink the signal to about half in each layer, and to a tenth in the first one for sparse
    images. Little of it is left after encoder, core and decoder, and training can begin with a long plateau. Biases,
    parametrized weights, and the layers by which embedded positions scale and shift, are left unchanged.

    Args:
        model: changed in place.
        batch: like those of training.
        last: root mean square of the decoder's last products; small, so that the first predictions are near the prior.

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
    wanted = {layer: size for layer, size in wanted.items() if not parametrize.is_parametrized(layer, "weight")}

    def rescale(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The new output of a layer, so that the next layer is scaled on it."""
        assert isinstance(layer, LAYERS)
        products = output - layer.forward(torch.zeros_like(inputs[0][:1]))
        size = products.square().mean().sqrt()
        if size > LEAST:
            layer.weight *= wanted[layer] / size
        return layer.forward(inputs[0])

    hooks = [layer.register_forward_hook(rescale) for layer in wanted]
    try:
        model.loss(batch)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """A context in which a model that is in evaluation mode, as after loading, is in training mode: Lightning leaves
    modes as they are. One in training mode may have parts in evaluation mode, which stay so. In it denormal numbers are
    zero. Afterwards they are as before, PyTorch's algorithms deterministic or not, and cuBLAS has the workspace that it
    had; Lightning changes that."""
    evaluated, flushed, workspace = not model.training, flush_denormals(), os.environ.get(WORKSPACE)
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if evaluated:
        model.train()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        os.environ.pop(WORKSPACE, None)
        if workspace is not None:
            os.environ[WORKSPACE] = workspace
        flush_denormals(flushed)
        if evaluated:
            model.eval()
