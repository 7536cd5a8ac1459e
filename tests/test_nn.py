import itertools

import pytest
import torch
from torch.autograd import gradcheck

from s2rm.nn.attention import DenseLocal, KernelModulatedAttention
from s2rm.nn.codecs import CODECS
from s2rm.nn.embedding import ModulePlaces, uniform_positions
from s2rm.nn.normalise import BatchNorm
from s2rm.nn.over_time import map_state, over_time
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell


@pytest.mark.parametrize("num_rows", [1, 1000])
def test_attention_in_parts_equals_the_reference_with_gradients(num_rows):
    layer = KernelModulatedAttention(11, num_heads=3, head_size=5, value_size=7, gate_size=13).double()
    y, z = torch.randn(2, 3, 11, dtype=torch.float64), torch.randn(2, 5, 11, dtype=torch.float64)
    local = torch.rand(2, 3, 5, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    plain = layer(y, z, local, mask)

    dense = DenseLocal.where(torch.where(mask[:, None], local, 0.0), mask[:, None])
    out = layer.out_over_time(num_rows)
    attended, local_sum = dense.attend(y @ layer.query.flatten(1), z @ layer.key.flatten(1), z, layer.num_heads, out)
    torch.testing.assert_close(local_sum, dense.sum(z), rtol=1e-12, atol=1e-12)
    parts = layer.gate_over_time()(attended, local_sum, layer.gate_from_local(local_sum))
    torch.testing.assert_close(layer.gate_over_time()(attended, local_sum, None), parts, rtol=1e-12, atol=1e-12)

    torch.testing.assert_close(parts, plain, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(plain)
    for ours, expected in zip(
        torch.autograd.grad((parts * weights).sum(), list(layer.parameters())),
        torch.autograd.grad((plain * weights).sum(), list(layer.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_what_stands_in_absent_columns_has_no_part_in_any_gradient():
    layer = KernelModulatedAttention(11, num_heads=3, head_size=5, value_size=7, gate_size=13).double()
    y, local = torch.randn(2, 3, 11, dtype=torch.float64), torch.rand(2, 3, 5, dtype=torch.float64)
    mask, found = torch.tensor([[True, False, True, True, False], [False] * 5]), []
    there = torch.randn(2, 5, 11, dtype=torch.float64)
    for nothing in (0.0, torch.nan):
        z = torch.where(mask[..., None], there, nothing)
        found.append(torch.autograd.grad(layer(y, z, local, mask).sum(), list(layer.parameters())))
    for zero, nan in zip(*found, strict=True):
        torch.testing.assert_close(nan, zero, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_low_scores_of_what_is_absent_are_finite_in_half_precision_too(dtype):
    local = DenseLocal.where(
        torch.zeros(1, 2, 3, dtype=dtype), torch.tensor([[[False, False, False], [True, False, True]]])
    )
    q, k = torch.full((1, 2, 4), -30, dtype=dtype), torch.full((1, 3, 4), 30, dtype=dtype)
    bias = local.bias.float() + (q @ k.mT).float()
    assert (q @ k.mT + local.bias).isfinite().all()
    torch.testing.assert_close(bias.softmax(-1)[0, 1], torch.tensor([0.5, 0.0, 0.5]))


@pytest.mark.parametrize("make", [GroupedGRUCell, GroupedLSTMCell])
@pytest.mark.parametrize("shared", [False, True])
def test_fused_cells_equal_the_reference_with_gradients(make, shared, monkeypatch):
    cell = make(3, 4, 5, shared).double()
    inputs = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    state = map_state(lambda part: torch.randn_like(part).requires_grad_(), cell.initial_state(2))
    parts = [state] if make is GroupedGRUCell else list(state)

    def step(inputs, *parts):
        return cell(inputs, parts[0], parts[0] if make is GroupedGRUCell else type(state)(*parts))

    def gradients():
        after = step(inputs, *parts)
        total = sum((part.sin() ** 2).sum() for part in (after if isinstance(after, tuple) else (after,)))
        return total, *torch.autograd.grad(total, [inputs, *parts, *cell.parameters()])

    assert gradcheck(step, (inputs, *parts))
    fused = gradients()
    monkeypatch.setattr("s2rm.nn.over_time.by_autograd", lambda device: True)
    for ours, plain in zip(fused, gradients(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_attention_has_the_gradients_of_its_output():
    shapes = ((2, 3, 6), (2, 4, 6), (2, 4, 5), (2, 3, 4), (10, 7))
    q, k, z, weights, out = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    shared = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(2, 1, 4) < 0.7
    known = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    for local, local_sum in itertools.product((weights, shared), (known, None)):
        assert gradcheck(
            lambda q, k, z, w, out, known=local_sum: DenseLocal.where(w, shares).attend(
                q, k, z, 2, over_time(out), known
            ),
            (q, k, z, local, out),
        )


def test_grouped_gru_is_one_gru_per_module():
    cell = GroupedGRUCell(3, 5, 7)
    inputs, hidden = torch.randn(2, 3, 5), torch.randn(2, 3, 7)
    result = cell(inputs, hidden, hidden)
    for module in range(3):
        alone = torch.nn.GRUCell(5, 7)
        with torch.no_grad():
            alone.weight_ih.copy_(cell.weight_input[module].T)
            alone.weight_hh.copy_(cell.weight_hidden[module].T)
            alone.bias_ih.copy_(cell.bias_input[module])
            alone.bias_hh.copy_(cell.bias_hidden[module])
        torch.testing.assert_close(result[:, module], alone(inputs[:, module], hidden[:, module]))


def test_grouped_gru_carries_its_state():
    cell = GroupedGRUCell(2, 3, 4)
    torch.nn.init.constant_(cell.bias_hidden[:, 4:8], 50.0)
    carried = torch.randn(5, 2, 4)
    torch.testing.assert_close(cell(torch.randn(5, 2, 3), torch.randn(5, 2, 4), carried), carried)


@pytest.mark.parametrize(
    ("codec", "value_shape"),
    [
        *itertools.product([name for name in CODECS if name != "strided"], [(6, 7), (2, 5, 4)]),
        ("strided", (8, 9)),  # halves its views three times
        ("strided", (2, 13, 8)),
    ],
)
@pytest.mark.parametrize("position_size", [0, 8])
def test_codecs_keep_their_shapes_and_use_the_position(codec, value_shape, position_size):
    encoder, decoder = CODECS[codec]
    values, position = torch.rand(3, 2, *value_shape), torch.randn(3, 2, 8)
    missing = torch.zeros_like(values)
    encode = encoder(value_shape, 11, position_size)
    decode = decoder(value_shape, 11, position_size, 2)
    given = position if position_size else None
    code = encode(values, missing, given)
    assert code.shape == (3, 2, 11)
    torch.testing.assert_close(encode(values, None, given), code)
    assert decode(code, given).shape == (3, 2, *value_shape, 2)
    assert not torch.allclose(encode(values, missing + 1, given), code), "the missing flag has an effect"
    if position_size:
        assert not torch.allclose(encode(values, missing, -position), code)
        assert not torch.allclose(decode(code, -position), decode(code, position))


def test_the_perceptron_takes_views_of_any_shape():
    encoder, decoder = CODECS["mlp"]
    assert encoder((), 5, 0)(torch.rand(2, 3), torch.zeros(2, 3)).shape == (2, 3, 5)
    assert decoder((4,), 5, 0, 1)(torch.rand(2, 3, 5)).shape == (2, 3, 4, 1)
    with pytest.raises(ValueError, match='codec "cnn": views must be images .* got shape .4,.; use codec="mlp"'):
        CODECS["cnn"][0]((4,), 5, 0)


def test_places_are_on_the_sphere_and_learn_even_when_blind():
    start = torch.nn.functional.normalize(torch.randn(3, 4), dim=-1)
    places = ModulePlaces(3 * start, bandwidth=1.0, truncation=0.6)
    torch.testing.assert_close(places.unit, start)
    torch.testing.assert_close(places.between().diagonal(), torch.ones(3))
    away = -start[:1]
    blind = places(away)[0]
    assert blind.item() == 0
    (gradient,) = torch.autograd.grad(
        places(torch.nn.functional.normalize(torch.randn(5, 4), dim=-1)).sum(), places.places
    )
    assert gradient.ne(0).any(1).all()


def test_starting_positions_fill_the_box():
    positions = uniform_positions(1000, [(-2.0, 3.0), (10.0, 11.0)])
    assert positions.shape == (1000, 2)
    assert positions.amin(0).tolist() == pytest.approx([-2, 10], abs=0.05)
    assert positions.amax(0).tolist() == pytest.approx([3, 11], abs=0.05)


def test_batch_norm_of_what_hardly_varies():
    norm, vectors = BatchNorm(8), 300 + 0.1 * torch.randn(32, 40, 8)
    for _ in range(200):  # until the running mean is there
        normalised = norm(vectors, torch.ones(32, 40, dtype=torch.bool))
    spread = vectors.double().var((0, 1), correction=0)
    torch.testing.assert_close(normalised.double().std((0, 1)), (spread / (spread + 1e-5)).sqrt(), rtol=1e-3, atol=0)


def test_batch_norm_by_hand():
    norm = BatchNorm(2).double()
    vectors = torch.tensor([[[1.0, 5.0], [3.0, 5.0]], [[100.0, 100.0], [5.0, 8.0]]], dtype=torch.float64)
    there = torch.tensor([[True, True], [False, True]])
    normalised = norm(vectors, there)
    # Means 3 and 6, variances 8 / 3 and 2, over the three that are there.
    expected = (vectors - torch.tensor([3.0, 6.0])) / (torch.tensor([8 / 3, 2.0]) + 1e-5).sqrt()
    torch.testing.assert_close(normalised, expected)
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.3, 0.6], dtype=torch.float64))
    torch.testing.assert_close(norm.running_variance, torch.tensor([0.9 + 0.8 / 3, 1.1], dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda given: BatchNorm(2).double()(given, there), vectors.requires_grad_())
    before = norm.running_mean.clone()
    norm(vectors, torch.zeros(2, 2, dtype=torch.bool))
    assert torch.equal(norm.running_mean, before), "nothing there leaves the statistics as they are"
    norm.eval()
    alone = norm(vectors[:1, :1], there[:1, :1])
    torch.testing.assert_close(alone, norm(vectors, there)[:1, :1])
    torch.testing.assert_close(alone, (vectors[:1, :1] - norm.running_mean) / (norm.running_variance + 1e-5).sqrt())
