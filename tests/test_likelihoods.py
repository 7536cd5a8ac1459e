import math

import pytest
import torch

from s2rm.likelihoods import LIKELIHOODS, BernoulliPixels, GaussianSensors, Mean, MixedChannels
from s2rm.tasks.battles.trajectories import STATS, UNIT_TYPES


def negative_log_likelihood(distribution, values, mask):
    return BernoulliPixels().terms(distribution, values, mask)["nll"].value


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


def means(terms):
    return {name: mean.value for name, mean in terms.items()}


def test_means_of_parts_add_up_to_the_mean_of_the_whole():
    values, mask = torch.tensor([3.0, torch.nan, 5.0, 11.0]), torch.tensor([True, False, True, True])
    parts = [Mean.where(mask[part], values[part]) for part in (slice(0, 1), slice(1, 2), slice(2, 4))]
    assert [part.value.item() for part in parts] == [3, 0, 8]
    whole = parts[0] + parts[1] + parts[2]
    assert (whole.total, whole.count, whole.value) == (19, 3, pytest.approx(19 / 3))


def some_units(lead=(2, 3), radii=3, angles=5):
    """Parameters, and targets with a unit of some type in about half of the pixels; float64."""
    parameters = torch.randn(*lead, 14, radii, angles, 1, dtype=torch.float64, requires_grad=True)
    type_or_none = torch.randint(-9, 9, (*lead, radii, angles)).clamp(min=-1)
    types = torch.nn.functional.one_hot(type_or_none + 1, 10)[..., 1:].movedim(-1, -3)
    friendly = torch.rand(*lead, 1, radii, angles).round()
    return parameters, torch.cat([friendly, types, torch.randn(*lead, 4, radii, angles)], -3).double(), type_or_none


def test_mixed_is_the_three_terms_of_the_paper():
    parameters, values, type_or_none = some_units()
    distribution = MixedChannels().distribution(parameters)
    terms = means(MixedChannels().terms(distribution, values, torch.ones(2, 3, dtype=torch.bool)))
    given = parameters[..., 0]
    logits = torch.cat([torch.zeros_like(given[..., :1, :, :]), given[..., 1:10, :, :]], -3)
    cross_entropy = torch.nn.functional.cross_entropy(logits.flatten(0, 1), type_or_none.flatten(0, 1) + 1)
    expected = {
        "friendly": torch.nn.functional.binary_cross_entropy_with_logits(given[:, :, 0], values[:, :, 0]),
        "type": cross_entropy,
        "hecs": torch.nn.functional.mse_loss(given[:, :, 10:], values[:, :, 10:]),
    }
    torch.testing.assert_close(terms, expected)
    log_prob = distribution.log_prob(values)
    assert log_prob.shape == values.shape
    pixels = 2 * 3 * 3 * 5
    sums = log_prob.transpose(0, 2)[[0]].sum(), log_prob[:, :, 1:10].sum(), log_prob[:, :, 10:].sum()
    torch.testing.assert_close(-sums[0] / pixels, expected["friendly"])
    torch.testing.assert_close(-sums[1] / pixels, expected["type"])
    torch.testing.assert_close(-sums[2] / (4 * pixels), expected["hecs"])


def test_mixed_has_means_and_feeds_back_the_likeliest():
    parameters = torch.zeros(14, 1, 2, 1)
    parameters[0, 0, :, 0] = torch.tensor([1.0, -1.0])
    parameters[3, 0, 0], parameters[4, 0, 1], parameters[12, 0, 1] = math.log(11), -1.0, 7.0
    distribution = MixedChannels().distribution(parameters)
    mean = distribution.mean
    assert mean[0, 0].tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
    assert mean[1:10, 0, 0].tolist() == pytest.approx([0.05, 0.05, 0.55] + 6 * [0.05])
    assert mean[10:, 0, 1].tolist() == [0, 0, 7, 0]
    assert distribution.stddev[2, 0, 0].item() == pytest.approx(math.sqrt(0.05 * 0.95))
    assert distribution.stddev[10:].square().flatten().tolist() == pytest.approx(8 * [0.5])
    fed = MixedChannels().feedback(distribution)
    assert fed[:, 0, 0].tolist() == [1, 0, 0, 1] + 10 * [0]
    nobody = MixedChannels().feedback(MixedChannels().distribution(parameters - 1))
    assert nobody[1:10, 0, 1].eq(0).all(), "no unit is likelier than any type"


def test_what_mixed_did_not_measure_is_skipped_in_each_term():
    parameters, values, type_or_none = some_units()
    mask = torch.tensor([[True, False, True], [False, True, True]])
    values[~mask] = torch.nan
    values[0, 0, 0, 1, 1] = values[0, 0, 5, 2, 2] = values[0, 0, 12, 0, 3] = torch.nan
    terms = MixedChannels().terms(MixedChannels().distribution(parameters), values, mask)
    assert {name: int(mean.count) for name, mean in terms.items()} == {"friendly": 59, "type": 59, "hecs": 239}
    terms = means(terms)
    given, there = parameters[..., 0], ~values.isnan()
    typed = there[:, :, 1:10].all(2)
    logits = torch.cat([torch.zeros_like(given[:, :, :1]), given[:, :, 1:10]], 2).movedim(2, -1)[typed]
    friendly, stats = there.clone(), there.clone()
    friendly[:, :, 1:], stats[:, :, :10] = False, False
    expected = {
        "friendly": torch.nn.functional.binary_cross_entropy_with_logits(given[friendly], values[friendly]),
        "type": torch.nn.functional.cross_entropy(logits, type_or_none[typed] + 1),
        "hecs": torch.nn.functional.mse_loss(given[stats], values[stats]),
    }
    torch.testing.assert_close(terms, expected)
    (gradient,) = torch.autograd.grad(sum(terms.values()), parameters)
    assert gradient.isfinite().all()
    assert gradient[~mask].eq(0).all()
    nothing = means(MixedChannels().terms(MixedChannels().distribution(parameters), values, torch.zeros_like(mask)))
    assert [term.item() for term in nothing.values()] == [0, 0, 0]


def test_mixed_survives_large_logits():
    parameters = torch.full((14, 1, 1, 1), 300.0, requires_grad=True)
    distribution = MixedChannels().distribution(parameters)
    log_prob = distribution.log_prob(torch.zeros(14, 1, 1))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert parameters.grad.isfinite().all()
    assert distribution.mean.isfinite().all()


def test_mixed_knows_its_channels():
    assert (MixedChannels.num_types, MixedChannels.num_stats) == (len(UNIT_TYPES), len(STATS))
    for shape in ((14, 5), (13, 2, 5), ()):
        with pytest.raises(ValueError, match=r"expected targets of shape \(14, radii, angles\).* got .*target_shape"):
            MixedChannels().check(shape)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian"])
def test_others_have_one_term(name):
    likelihood = LIKELIHOODS[name]()
    values, mask = torch.rand(2, 3).round(), torch.tensor([True, False])
    distribution = likelihood.distribution(torch.randn(2, 3, likelihood.num_parameters))
    (term,) = likelihood.terms(distribution, values, mask).values()
    torch.testing.assert_close(term.value, -distribution.log_prob(values)[0].mean())
    assert term.count == 3
