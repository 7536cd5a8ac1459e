import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck

from conftest import make_s2rm, some_views
from s2rm import RelationalMemory
from s2rm.nn.over_time import over_time


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gradients_are_those_of_plain_products(grouped, with_bias):
    lead = (3,) if grouped else ()
    weight = torch.randn(*lead, 5, 7, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(*lead, 7, dtype=torch.float64, requires_grad=True) if with_bias else None
    inputs = [torch.randn(*lead, rows, 5, dtype=torch.float64, requires_grad=True) for rows in (2, 1, 4)]
    leaves = [weight, *inputs, *([bias] if with_bias else [])]

    def run(make):
        product, total = make(), 0.0
        for step, given in enumerate(inputs):
            total = total + (step + 1) * product(given).tanh().sum()
        return torch.autograd.grad(total, leaves)

    def plain():
        return lambda given: given @ weight + (0 if bias is None else bias.unsqueeze(-2))

    for ours, expected in zip(run(lambda: over_time(weight, bias)), run(plain), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_gradients_against_numeric_ones():
    def twice(x, weight, bias):
        product = over_time(weight, bias)
        return product(product(x).tanh())

    leaves = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3), (3, 3), (3,))]
    assert gradcheck(twice, leaves)


def test_two_backward_passes_of_a_graph_give_the_same_gradient():
    weight = torch.randn(3, 3, requires_grad=True)
    product = over_time(weight)
    loss = product(product(torch.ones(2, 3))).sum()
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("loss", [Tensor.sum, lambda outputs: outputs.square().sum()])
def test_a_second_derivative_is_refused(loss):
    weight = torch.randn(3, 3, requires_grad=True)
    result = loss(over_time(weight)(torch.ones(2, 3)))
    with pytest.raises(RuntimeError, match="no second derivatives, got create_graph=True; leave it out"):
        torch.autograd.grad(result, weight, create_graph=True)


def test_a_weight_changed_in_between_is_refused():
    weight, inputs = torch.randn(3, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    result = over_time(weight)(inputs).sum()
    with torch.no_grad():
        weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


@pytest.mark.parametrize("learns", [("weight",), ("bias",), ("inputs",), ("inputs", "bias")])
def test_frozen_parts_get_no_gradient_and_the_rest_theirs(learns):
    given = {"weight": torch.randn(3, 4), "bias": torch.randn(4), "inputs": torch.randn(2, 3)}
    for name in learns:
        given[name].requires_grad_()
    leaves = [given[name] for name in learns]
    ours = over_time(given["weight"], given["bias"])(given["inputs"]).square().sum()
    plain = (given["inputs"] @ given["weight"] + given["bias"]).square().sum()
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(plain, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_without_gradients_it_is_a_plain_product():
    weight = torch.randn(3, 4)
    inputs = torch.randn(2, 3)
    assert torch.equal(over_time(weight)(inputs), inputs @ weight)
    with torch.no_grad():
        assert not over_time(weight.requires_grad_())(inputs).requires_grad


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_without_gradients_a_model_gives_the_same_numbers(cell):
    model, views = make_s2rm(cell, rotation=7.0).double(), some_views()
    expected = model.cell.message(model.observe(views))
    assert expected.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(model.cell.message(model.observe(views)), expected, rtol=1e-13, atol=1e-14)


def test_a_pass_without_the_weight_leaves_no_sums_behind():
    weight, inputs = torch.randn(3, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    loss = over_time(weight)(inputs).square().sum()
    torch.autograd.grad(loss, inputs, retain_graph=True)
    (ours,) = torch.autograd.grad(loss, weight)
    (expected,) = torch.autograd.grad((inputs @ weight).square().sum(), weight)
    torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_tangents_of_weights_are_kept_where_nothing_is_learned():
    core, inputs = RelationalMemory(5, 12, batch_first=True), torch.randn(2, 4, 5)
    weights = {name: weight.detach() for name, weight in core.named_parameters()}
    tangents = {name: torch.randn_like(weight) for name, weight in weights.items()}

    def outputs(given):
        return torch.func.functional_call(core, given, (inputs,))[0]

    _, wanted = torch.func.jvp(outputs, (weights,), (tangents,))
    with forward_ad.dual_level():
        made = outputs({name: forward_ad.make_dual(weights[name], tangents[name]) for name in weights})
        torch.testing.assert_close(forward_ad.unpack_dual(made).tangent, wanted)
