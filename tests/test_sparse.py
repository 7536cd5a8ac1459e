"""The sparse path equals the dense one, for any number of modules."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck

from conftest import VALUE_SHAPE, make_s2rm, some_views
from s2rm import Episode, Views, load
from s2rm.models import s2rm as module
from s2rm.nn.pairs import Pairs, near


def both(monkeypatch, compute):
    """The result of the dense path and that of the sparse one."""
    results = []
    for limit in (10**9, 0):
        monkeypatch.setattr(module, "DENSE_PAIRS", limit)
        results.append(compute())
    return results


def make(cell="gru", **arguments):
    options = {"normalise": "neighbourhood", "truncation": 0.7, "num_modules": 7, **arguments}
    return make_s2rm(cell=cell, **options).double()


def messages(model, views):
    return model.cell.message(model.observe(views))


def some_pairs():
    met = torch.rand(7, 5) < 0.4
    met[2], met[:, 3] = False, False
    return met, Pairs.of(*met.nonzero(as_tuple=True), 7, 5)


def test_attention_over_pairs_is_masked_attention():
    met, pairs = some_pairs()
    shapes = ((7, 2, 3), (5, 2, 3), (5, 4))
    q, k, z = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    ours = pairs.sum(pairs.softmax(pairs.dot(q, k)), z)
    shares = torch.einsum("rkd,ckd->krc", q, k).masked_fill(~met, torch.finfo(torch.float64).min).softmax(-1) * met
    torch.testing.assert_close(ours, torch.einsum("krc,ch->rkh", shares, z), rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda q, k, z: pairs.sum(pairs.softmax(pairs.dot(q, k)), z), (q, k, z))


def test_pairs_over_time_split_into_those_of_each_step():
    met, pairs = some_pairs()
    for step in pairs.repeat(3).split(3):
        for ours, expected in zip(step, pairs, strict=True):
            assert torch.equal(ours, expected)
    assert torch.equal(pairs.matrix(torch.ones(len(pairs.row))).to_dense() > 0, met)
    assert torch.equal(pairs.transposed(torch.ones(len(pairs.row))).to_dense() > 0, met.T)


@pytest.mark.parametrize("truncation", [-1.0, 0.2, 0.99])
def test_the_search_finds_the_pairs_within_the_truncation(truncation):
    points, places = (torch.nn.functional.normalize(torch.randn(num, 4), dim=-1) for num in (50, 30))
    there = torch.rand(50) < 0.7
    expected = ((points @ places.T >= truncation) & there[:, None]).nonzero()
    found = torch.stack(near(points, places, there, truncation), 1)
    assert {tuple(pair) for pair in found.tolist()} == {tuple(pair) for pair in expected.tolist()}


@pytest.mark.parametrize("share_parameters", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_sparse_is_dense_with_gradients(cell, share_parameters, monkeypatch):
    model, views = make(cell, share_parameters=share_parameters), some_views()
    with torch.no_grad():
        model.modules_on_sphere.places[3] = -model.modules_on_sphere.places[0]  # near nothing

    def compute():
        model.zero_grad()
        loss = model.loss(Episode(views))
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    for dense, sparse in zip(*both(monkeypatch, compute), strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=1e-11)


def test_sparse_is_dense_step_by_step_and_without_views(monkeypatch):
    model, views = make(), some_views()
    nothing = Views.none(2, 2, VALUE_SHAPE, views.values)
    queries = 7 * torch.rand(2, 4, 2, dtype=torch.float64)

    def compute():
        state = model.initial_state(2)
        for given in (views.at(0), nothing, views.at(2)):
            state = model.step(given, state)
        return model.predict(state, queries).logits

    torch.testing.assert_close(*both(monkeypatch, compute), rtol=1e-9, atol=1e-11)


def test_the_neighbourhood_differs_from_the_paper_unless_all_are_near():
    views = some_views()
    near_only, everything = make(), make(normalise="all")
    everything.load_state_dict(near_only.state_dict())
    assert not torch.allclose(near_only.observe(views), everything.observe(views))
    # Where all are near, both are the same.
    near_only, everything = make(truncation=-1.0), make(normalise="all", truncation=-1.0)
    everything.load_state_dict(near_only.state_dict())
    torch.testing.assert_close(near_only.observe(views), everything.observe(views))


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_shared_parameters_make_the_number_of_modules_free(cell, tmp_path):
    model, views = make(cell, share_parameters=True), some_views()
    alone = make(cell)
    assert model.num_parameters < alone.num_parameters
    other = model.with_modules_at(7 * torch.rand(12, 2, dtype=torch.float64))
    assert other.num_parameters - model.num_parameters == 5 * model.modules_on_sphere.places.shape[1]
    other.save(tmp_path)
    torch.testing.assert_close(
        load(tmp_path).cell.message(other.observe(views)), other.cell.message(other.observe(views))
    )
    assert other.without_modules(0, 5).cell.message(other.without_modules(0, 5).observe(views)).shape[2] == 10
    with pytest.raises(ValueError, match="share_parameters=True, or use with_module_copied"):
        alone.with_modules_at(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least one position"):
        model.with_modules_at(torch.zeros(0, 2))


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_shared_parameters_are_equal_parameters(cell):
    shared, own = make(cell, share_parameters=True), make(cell)
    weights = shared.state_dict()
    alike = own.state_dict()
    own.load_state_dict({name: weights[name].expand_as(alike[name]) for name in alike})
    views = some_views()
    torch.testing.assert_close(messages(shared, views), messages(own, views))


def test_weights_that_underflow_still_count_as_near(monkeypatch):
    model, views = make(bandwidth=400.0, truncation=-0.9).float(), some_views().to(torch.float32)
    torch.testing.assert_close(*both(monkeypatch, lambda: model.observe(views).detach()))


def test_recomputing_frozen_encoders_and_no_queries(monkeypatch):
    model, views = make(), some_views()
    model.encoder.requires_grad_(False)

    def compute():
        model.zero_grad()
        loss = model.loss(Episode(views), recompute=2)
        loss.backward()
        nothing = model.predict(model.observe(views), torch.zeros(2, 5, 0, 2, dtype=torch.float64)).mean
        assert nothing.shape == (2, 5, 0, *VALUE_SHAPE)
        return [loss.detach(), *(part.grad.clone() for part in model.parameters() if part.grad is not None)]

    for dense, sparse in zip(*both(monkeypatch, compute), strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=1e-11)


def test_refusals():
    with pytest.raises(ValueError, match='"all" or "neighbourhood", got \'near\''):
        make(normalise="near")
    with pytest.raises(ValueError, match='ablate them with normalise="all"'):
        make(ablate=["input_local"])


def test_time_and_memory_grow_no_faster_than_the_pairs(tmp_path):
    script = Path(__file__).parent.parent / "benchmarks" / "many_modules.py"
    command = [sys.executable, script, "--modules", "256", "1024", "--steps", "3", "--repeats", "2"]
    subprocess.run([*command, "--out", tmp_path / "out.json"], check=True, capture_output=True, timeout=300)
    small, large = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert large["pairs"] > 4 * small["pairs"]
    assert large["time_growth_per_pair"] <= 1.3
    assert large["memory_growth_per_pair"] <= 1.3
