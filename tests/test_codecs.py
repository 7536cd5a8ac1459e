"""Polar convolutions against plain loops, and their equivariance to rotations; strided ones of any size."""

import pytest
import torch

from conftest import make_gqn, make_s2rm
from s2rm import Episode, Views, load
from s2rm.nn.codecs import PolarConv2d, PolarDecoder, PolarEncoder, StridedDecoder, StridedEncoder


def in_loops(image, layer, stride):
    """The convolution of one image `(C, I, J)`, pixel by pixel."""
    radii, angles = image.shape[1:]
    rows = []
    for i in range(0, radii, stride):
        for j in range(0, angles, stride):
            total = layer.bias.clone()
            for di in (-1, 0, 1):
                for dj in (-1, 0, 1):
                    if 0 <= i + di < radii:
                        total = total + layer.weight[:, :, 1 + di, 1 + dj] @ image[:, i + di, (j + dj) % angles]
            rows.append(total)
    return torch.stack(rows, 1).unflatten(1, (len(range(0, radii, stride)), len(range(0, angles, stride))))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("radii", "angles"), [(5, 7), (1, 2), (4, 1), (3, 8)])
def test_padding_is_zero_in_radius_and_circular_in_angle(radii, angles, stride):
    layer = PolarConv2d(2, 3, stride).double()
    images = torch.randn(2, 2, radii, angles, dtype=torch.float64)
    torch.testing.assert_close(layer(images), torch.stack([in_loops(image, layer, stride) for image in images]))


def test_by_hand():
    layer = PolarConv2d(1, 1)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    image = torch.zeros(1, 1, 3, 4)
    image[0, 0, 0, 0] = 1
    # The pixel itself has weight 4, its neighbour before it in angle 5, the one after it 3; farther out 2, 1, 0.
    assert layer(image)[0, 0].tolist() == [[4, 3, 0, 5], [1, 0, 0, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize("turn", [1, 4, -3])
def test_rotating_the_image_rotates_the_features(turn):
    layers = torch.nn.Sequential(PolarConv2d(2, 3), torch.nn.ELU(), PolarConv2d(3, 4)).double()
    image = torch.randn(2, 2, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(layers(image.roll(turn, -1)), layers(image).roll(turn, -1))
    outward = layers(image.roll(1, -2))
    assert not torch.allclose(outward, layers(image).roll(1, -2)), "the first and last radius are not adjacent"


def test_rotating_by_the_strides_rotates_the_input_of_the_linear_layers():
    encoder, decoder = PolarEncoder((2, 8, 16), 11, 0).double(), PolarDecoder((2, 8, 16), 11, 0, 1).double()
    image = torch.randn(3, 2, 8, 16, dtype=torch.float64)
    convolutions = encoder.convolutions[:4]
    inputs = torch.cat([image, torch.zeros_like(image[:, :1])], 1)
    torch.testing.assert_close(convolutions(inputs.roll(4, -1)), convolutions(inputs).roll(1, -1))
    last = decoder.layers.rest[-1]
    with torch.no_grad():
        weight, bias = (part.unflatten(0, decoder.small).roll(1, 2).flatten(0, 2) for part in last.parameters())
        vector = torch.randn(3, 11, dtype=torch.float64)
        before = decoder(vector)
        last.weight.copy_(weight)
        last.bias.copy_(bias)
        torch.testing.assert_close(decoder(vector), before.roll(4, -2))


def test_one_flag_is_set_where_any_channel_is_missing():
    encoder = PolarEncoder((3, 5, 7), 11, 0)
    values, missing = torch.rand(2, 3, 5, 7), torch.zeros(2, 3, 5, 7)
    one, all_of_them = missing.clone(), missing.clone()
    one[:, 1, 2, 3], all_of_them[:, :, 2, 3] = 1, 1
    assert torch.equal(encoder(values, one), encoder(values, all_of_them))
    assert not torch.allclose(encoder(values, one), encoder(values, missing))


def test_other_views_than_images_are_refused():
    for make in (lambda: PolarEncoder((4,), 5, 0), lambda: PolarDecoder((4,), 5, 0, 1)):
        with pytest.raises(ValueError, match='codec "polar": views must be images .* got shape .4,.; use codec="mlp"'):
            make()


@pytest.mark.parametrize("make", [make_s2rm, make_gqn])
def test_a_model_of_battles_is_trained_saved_and_loaded(make, tmp_path):
    model = make(value_shape=(23, 5, 6), target_shape=(14, 5, 6), codec="polar", likelihood="mixed")
    views = Views(7 * torch.rand(2, 4, 3, 2), torch.randn(2, 4, 3, 23, 5, 6))
    targets = Views(7 * torch.rand(2, 4, 2, 2), torch.rand(2, 4, 2, 14, 5, 6).round())
    terms = model.loss_terms(Episode(views, targets))
    assert list(terms) == ["friendly", "type", "hecs"]
    loss = model.loss(Episode(views, targets))
    torch.testing.assert_close(loss, sum(term.value for term in terms.values()))
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.arguments == model.arguments
    means = [m.predict(m.observe(views), targets.positions).mean for m in (model.eval(), again)]
    assert means[0].shape == targets.values.shape
    assert torch.equal(*means)


@pytest.mark.parametrize("shape", [(8, 8), (2, 9, 13)])
@pytest.mark.parametrize("position_size", [0, 6])
def test_strided_codecs_take_and_return_frames_of_any_size_from_eight_pixels_on(shape, position_size):
    encoder, decoder = StridedEncoder(shape, 5, position_size), StridedDecoder(shape, 5, position_size, 2)
    values, position = torch.rand(2, 3, *shape), torch.rand(2, 3, position_size) if position_size else None
    vector = encoder(values, torch.zeros_like(values), position)
    assert vector.shape == (2, 3, 5)
    parameters = decoder(vector, position)
    assert parameters.shape == (2, 3, *shape, 2)
    parameters.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for part in (encoder, decoder) for weight in part.parameters())
    with pytest.raises(
        ValueError, match=r'codec "strided": views must be at least 8 pixels .* got 7 x 9; use codec="cnn"'
    ):
        StridedEncoder((7, 9), 5, 0)
