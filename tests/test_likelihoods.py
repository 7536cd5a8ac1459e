import math

import pytest
import torch

from s2rm.likelihoods import BernoulliPixels, GaussianSensors, negative_log_likelihood


def test_bernoulli_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0)]])
    distribution = BernoulliPixels().distribution(logits[..., None])
    loss = negative_log_likelihood(distribution, torch.tensor([[1.0, 0.0]]), torch.tensor([True]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert BernoulliPixels().feedback(distribution).tolist() == [[0.0, 1.0]]


def test_gaussian_by_hand():
    spread = math.log(math.exp(2 - 1e-3) - 1)
    distribution = GaussianSensors().distribution(torch.tensor([[[1.0, spread]]]))
    loss = negative_log_likelihood(distribution, torch.tensor([[4.0]]), torch.tensor([True]))
    assert loss.item() == pytest.approx(0.5 * (3 / 2) ** 2 + math.log(2) + 0.5 * math.log(2 * math.pi))
    assert GaussianSensors().feedback(distribution).item() == 1


def test_only_what_is_there_counts():
    parameters = torch.randn(2, 3, 4, 1, dtype=torch.float64, requires_grad=True)
    values = torch.rand(2, 3, 4, dtype=torch.float64).round()
    mask = torch.tensor([[True, False, True], [False, True, True]])
    values[0, 0, 1] = torch.nan
    values[~mask] = torch.nan
    loss = negative_log_likelihood(BernoulliPixels().distribution(parameters), values, mask)
    there = ~values.isnan()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(parameters[..., 0][there], values[there])
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, parameters)
    assert gradient[..., 0][~there].eq(0).all()
    assert gradient[..., 0][there].ne(0).all()


def test_nothing_there_is_zero():
    distribution = BernoulliPixels().distribution(torch.zeros(2, 3, 1))
    assert negative_log_likelihood(distribution, torch.full((2, 3), torch.nan), torch.zeros(2, dtype=torch.bool)) == 0
