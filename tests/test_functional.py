import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from s2rm.functional import (
    gated_sum,
    gru_update,
    kernel_modulated_attention,
    positional_embedding,
    spherical_gaussian_kernel,
)


def test_positional_embedding_by_hand():
    # Two coordinates, two wavelengths each: 4 and 4 (100 / 4)^(1/2) = 20.
    s = positional_embedding(torch.tensor([1.0, 5.0]), 8, shortest=4.0, longest=100.0)
    expected = [1, 0, math.sin(math.pi / 10), math.cos(math.pi / 10), 1, 0, 1, 0]
    assert s.tolist() == pytest.approx([value / 2 for value in expected], abs=1e-6)


@given(st.integers(1, 3), st.integers(1, 4), st.floats(-1e3, 1e3))
@settings(deadline=None, max_examples=25)
def test_positional_embedding_lies_on_the_sphere(n, wavelengths, x):
    s = positional_embedding(torch.full((5, n), x, dtype=torch.float64), 2 * n * wavelengths, 3.0, 1e4)
    assert s.shape == (5, 2 * n * wavelengths)
    torch.testing.assert_close(s.norm(dim=-1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("dim", "shortest", "longest"), [(10, 1.0, 2.0), (0, 1.0, 2.0), (8, 0.0, 2.0), (8, 3.0, 2.0), (8, 1.0, math.inf)]
)
def test_positional_embedding_refuses(dim, shortest, longest):
    with pytest.raises(ValueError, match="positional embedding: .*got"):
        positional_embedding(torch.zeros(3, 2), dim, shortest, longest)


def test_kernel_by_hand():
    p = torch.tensor([[1.0, 0.0]])
    s = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
    z = spherical_gaussian_kernel(p, s, bandwidth=1.5, truncation=0.7)
    assert z[0].tolist() == pytest.approx([1.0, math.exp(-3 * 0.2), 0.0, 0.0])


def test_kernel_gradient_goes_straight_through_the_truncation():
    p = torch.tensor([[1.0, 0.0]], requires_grad=True)
    s = torch.tensor([[0.0, 1.0]])
    (straight,) = torch.autograd.grad(spherical_gaussian_kernel(p, s).sum(), p)
    (cut,) = torch.autograd.grad(spherical_gaussian_kernel(p, s, straight_through=False).sum(), p)
    assert straight.tolist()[0] == pytest.approx([0.0, 2 * math.exp(-2)])
    assert cut.tolist()[0] == [0, 0]


@pytest.mark.parametrize(
    ("bandwidth", "truncation", "message"),
    [(0.0, 0.5, "bandwidth"), (-1.0, 0.5, "bandwidth"), (1.0, 1.0, "truncation"), (1.0, -1.1, "truncation")],
)
def test_kernel_refuses(bandwidth, truncation, message):
    with pytest.raises(ValueError, match=f"{message} must be .* got .*; the paper uses"):
        spherical_gaussian_kernel(torch.zeros(1, 2), torch.zeros(1, 2), bandwidth, truncation)


def random_attention(i=3, j=5, heads=2, depth=7, value=11, batch=(2,)):
    make = lambda *size: torch.randn(*batch, *size, dtype=torch.float64)  # noqa: E731
    return make(i, heads, depth), make(j, heads, depth), make(j, heads, value), make(i, j).sigmoid()


def test_attention_against_scalar_loops():
    q, k, v, local = random_attention()
    mask = torch.tensor([[True, False, True, True, False], [False, True, True, False, True]])
    result = kernel_modulated_attention(q, k, v, local, mask)
    for b in range(2):
        there = [j for j in range(5) if mask[b, j]]
        for i in range(3):
            for head in range(2):
                scores = [math.exp(float(q[b, i, head] @ k[b, j, head])) for j in there]
                weights = [score / sum(scores) for score in scores]
                expected = sum(
                    float(local[b, i, j]) * weight * v[b, j, head] for j, weight in zip(there, weights, strict=True)
                )
                torch.testing.assert_close(result[b, i, head], expected)


def test_attention_by_hand():
    q, k = torch.tensor([[[math.log(2.0)]]]), torch.tensor([[[1.0]], [[0.0]]])
    v, local = torch.tensor([[[3.0]], [[6.0]]]), torch.tensor([[0.5, 1.0]])
    # softmax of (ln 2, 0) is (2/3, 1/3); weighted by the kernel 1/3 and 1/3.
    assert kernel_modulated_attention(q, k, v, local).item() == pytest.approx(3.0)


def test_attention_ignores_what_is_not_there_even_nan():
    q, k, v, local = random_attention()
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    poisoned = [
        k.masked_fill(~mask[..., None, None], torch.nan),
        v.masked_fill(~mask[..., None, None], torch.nan),
        local.masked_fill(~mask[:, None], torch.nan),
    ]
    q.requires_grad_()
    for tensor in poisoned:
        tensor.requires_grad_()
    result = kernel_modulated_attention(q, *poisoned, mask)
    torch.testing.assert_close(result, kernel_modulated_attention(q, k, v, local, mask))
    assert result[1].eq(0).all()
    gradients = torch.autograd.grad(result.square().sum(), [q, *poisoned])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_attention_over_nothing_is_zero():
    q, k, v, local = random_attention(j=0)
    assert kernel_modulated_attention(q, k, v, local, torch.ones(2, 0, dtype=torch.bool)).eq(0).all()


def test_gradients_against_numeric_ones():
    q, k, v, local = (tensor.requires_grad_() for tensor in random_attention(2, 3, 2, 2, 2, batch=()))
    mask = torch.tensor([True, False, True])
    assert gradcheck(lambda *a: kernel_modulated_attention(*a, mask), (q, k, v, local))
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: positional_embedding(x, 8, 3.0, 30.0), x)
    p = torch.nn.functional.normalize(torch.randn(3, 5, dtype=torch.float64), dim=-1).requires_grad_()
    others = p.detach().clone()
    assert gradcheck(lambda p: spherical_gaussian_kernel(p, others, 1.0, -1.0), p)
    assert gradcheck(lambda p: spherical_gaussian_kernel(p, others, 1.0, 0.2, straight_through=False), p)
    gates = [torch.randn(2, 9, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert gradcheck(gru_update, (*gates, torch.randn(2, 3, dtype=torch.float64, requires_grad=True)))


def test_gate_by_hand():
    result = gated_sum(torch.tensor([4.0]), torch.tensor([8.0]), torch.tensor([0.25]))
    assert result.item() == 0.25 * 8 + 0.75 * 4


def test_gru_is_torchs():
    cell = torch.nn.GRUCell(5, 3).double()
    x, h = torch.randn(2, 5, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    ours = gru_update(x @ cell.weight_ih.T + cell.bias_ih, h @ cell.weight_hh.T + cell.bias_hh, h)
    torch.testing.assert_close(ours, cell(x, h))
