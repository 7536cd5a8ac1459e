"""Weights to start from."""

import pytest
import torch
from torch import nn

from conftest import MODELS, some_views
from s2rm import Episode
from s2rm.training.start import LAYERS, unit_variance


def sizes(model, episode):
    """Root mean square of each layer's products, but for those that read places."""
    found, hooks = {}, []
    for part in ("encoder", "decoder"):
        for name, layer in getattr(model, part).named_modules(prefix=part):
            if isinstance(layer, LAYERS) and "scale_and_shift" not in name:

                def note(layer, inputs, output, name=name):
                    products = output - layer.forward(torch.zeros_like(inputs[0]))
                    found[name] = float(products.square().mean().sqrt())

                hooks.append(layer.register_forward_hook(note))
    with torch.no_grad():
        model.loss(episode)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("codec", ["mlp", "polar", "cnn", "strided"])
@pytest.mark.parametrize("name", ["s2gru", "lstm"])
def test_every_layer_starts_with_unit_variance(name, codec):
    shape = (3, 24, 32) if codec == "strided" else (3, 5, 7)
    model = MODELS[name](value_shape=shape, codec=codec).double()
    episode = Episode(some_views(value_shape=shape))
    before = sizes(model, episode)
    unit_variance(model, episode)
    after = sizes(model, episode)
    *hidden, last = after.values()
    assert len(hidden) >= 5
    assert after.keys() == before.keys()
    assert hidden == pytest.approx([1.0] * len(hidden))
    assert last == pytest.approx(0.1)
    assert min(before.values()) < 0.5, "it was otherwise before"


def test_places_biases_and_core_stay_as_they_are():
    model = MODELS["s2gru"](codec="mlp", inject_positions=True).double()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    unit_variance(model, Episode(some_views()))
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {
        f"{part}.layers.{layer}.weight" for part in ("encoder", "decoder") for layer in ("first", "rest.1", "rest.3")
    }
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_without_variance_are_left_alone():
    model = MODELS["lstm"]().double()
    nn.init.zeros_(model.encoder.layers.first.weight)
    nn.init.zeros_(model.encoder.layers.first.bias)
    nn.init.zeros_(model.encoder.layers.scale_and_shift[2].weight)
    nn.init.zeros_(model.encoder.layers.scale_and_shift[2].bias)
    unit_variance(model, Episode(some_views()))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
