"""What every world model keeps to, and what is S2RM's own."""

import json
import pickle

import pytest
import torch
from torch.utils._pytree import tree_map

from conftest import MODELS, VALUE_SHAPE, make_lstm, make_s2gru, some_views
from s2rm import Episode, Views, load
from s2rm.functional import gated_sum, gru_update, kernel_modulated_attention, spherical_gaussian_kernel


def outputs(model, views):
    """The parameters of the predictions at some places after each step."""
    queries = 7 * torch.rand(2, views.num_steps, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model.predict(model.observe(views), queries).logits


def gradients(model, views):
    model.zero_grad()
    outputs(model, views).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_all_close(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_predictions_have_the_shape_of_the_views(model):
    assert outputs(model, some_views()).shape == (2, 5, 3, *VALUE_SHAPE)


def test_the_order_of_views_never_matters(model):
    views = some_views()
    order = torch.randperm(views.mask.shape[2])
    shuffled = Views(views.positions[:, :, order], views.values[:, :, order], views.mask[:, :, order])
    assert_all_close([outputs(model, shuffled)], [outputs(model, views)])


def test_what_is_not_there_never_matters(model):
    views = some_views()
    gone = ~views.mask
    poisoned = Views(
        views.positions.masked_fill(gone[..., None], torch.nan),
        views.values.masked_fill(gone[..., None, None], torch.nan),
        views.mask,
    )
    assert_all_close([outputs(model, poisoned)], [outputs(model, views)])
    assert_all_close(gradients(model, poisoned), gradients(model, views))


def test_padding_never_matters(model):
    views = some_views()
    pad = lambda tensor: torch.cat([tensor, torch.full_like(tensor[:, :, :2], torch.nan)], 2)  # noqa: E731
    mask = torch.cat([views.mask, torch.zeros_like(views.mask[:, :, :2])], 2)
    padded = Views(pad(views.positions), pad(views.values), mask)
    assert_all_close([outputs(model, padded)], [outputs(model, views)])
    assert_all_close(gradients(model, padded), gradients(model, views))


def test_a_world_without_any_view_is_fine(model):
    nothing = Views.none(2, 2, VALUE_SHAPE, torch.zeros((), dtype=torch.float64))
    masked = some_views(steps=2).at(1)
    assert not masked.mask.any()
    assert_all_close([outputs(model, nothing)], [outputs(model, masked)])
    assert all(gradient.isfinite().all() for gradient in gradients(model, masked))


def test_a_channel_that_was_not_measured_is_not_a_zero(model):
    views = some_views()
    zero, missing = views.values.clone(), views.values.clone()
    zero[..., 0, 0], missing[..., 0, 0] = 0, torch.nan
    seen = outputs(model, Views(views.positions, zero, views.mask))
    unseen = outputs(model, Views(views.positions, missing, views.mask))
    assert unseen.isfinite().all()
    assert not torch.allclose(seen, unseen)


def test_observe_equals_step_by_step(model):
    views = some_views()
    queries = torch.rand(2, 5, 3, 2, dtype=torch.float64)
    together = model.predict(model.observe(views), queries).logits
    state = model.initial_state(2)
    for step in range(5):
        state = model.step(views.at(step), state)
        assert_all_close([model.predict(state, queries[:, step]).logits], [together[:, step]])


def test_observing_in_two_parts_is_observing_once(model):
    views = some_views()
    middle = model.last(model.observe(views.steps(0, 2)))
    end = model.last(model.observe(views.steps(2, None), middle))
    torch.testing.assert_close(end, model.last(model.observe(views)))


def test_loss_is_the_mean_over_what_is_there(model):
    views, targets = some_views(), some_views(views=3)
    episode = Episode(views, targets)
    after = targets.steps(1, None)
    logits = model.predict(model.observe(views.steps(0, -1)), after.positions).logits
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[after.mask], after.values[after.mask])
    torch.testing.assert_close(model.loss(episode), expected)
    targets.values[~targets.mask] = torch.nan
    torch.testing.assert_close(model.loss(episode), expected)


def test_rollouts_feed_back_or_stay_blind(model):
    views = some_views()
    queries = 7 * torch.rand(2, 3, 4, 2, dtype=torch.float64)
    closed = list(model.rollout(views, queries, 3))
    assert len(closed) == 3
    assert closed[0].logits.shape == (2, 4, *VALUE_SHAPE)
    state = model.last(model.observe(views))
    fed = (model.predict(state, queries[:, 0]).mean > 0.5).double()
    state = model.step(Views(queries[:, :1], fed[:, None]), state)
    assert_all_close([closed[1].logits], [model.predict(state, queries[:, 1]).logits])
    blind = list(model.rollout(views, queries[:, 0], 3, closed_loop=False))
    assert_all_close([blind[0].logits], [closed[0].logits])
    assert not torch.allclose(blind[1].logits, closed[1].logits)
    elsewhere = list(model.rollout(views, queries, 3, feedback=queries[:, :, :2]))
    assert elsewhere[2].logits.shape == (2, 4, *VALUE_SHAPE)


@pytest.mark.parametrize("codec", ["mlp", "cnn"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_saved_and_loaded_is_the_same(make, likelihood, codec, tmp_path):
    model = make(likelihood=likelihood, codec=codec).eval()
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.arguments == model.arguments
    views = some_views().to(torch.float32)
    queries = torch.rand(2, 5, 3, 2)
    ours, theirs = (m.predict(m.observe(views), queries).mean for m in (model, again))
    assert torch.equal(ours, theirs)


def test_loading_refuses_what_was_not_saved(tmp_path):
    model = make_s2gru()
    with pytest.raises(ValueError, match=r"found no .*config.json"):
        load(tmp_path)

    def broken(change, message):
        model.save(tmp_path)
        change()
        with pytest.raises(ValueError, match=message) as error:
            load(tmp_path)
        assert "\n" not in str(error.value).strip()

    config, weights = tmp_path / "config.json", tmp_path / "weights.safetensors"
    saved = lambda: json.loads(config.read_text())  # noqa: E731
    broken(weights.unlink, "found no .*weights.safetensors")
    broken(lambda: config.write_text(config.read_text()[:40]), "is not a saved model's config")
    broken(lambda: config.write_text("[]"), "is not a saved model's config")
    broken(lambda: config.write_text(json.dumps({**saved(), "format": 99})), "has format 99, .* reads up to 1; update")
    broken(lambda: config.write_text(json.dumps({**saved(), "model": "Other"})), "names the model 'Other'")
    broken(lambda: config.write_text(json.dumps({**saved(), "arguments": {"size": 3}})), "do not make a S2RM")
    broken(lambda: weights.write_bytes(pickle.dumps({"a": 1})), "is no safetensors file .* is not opened")
    broken(lambda: weights.write_bytes(weights.read_bytes()[:-10]), "is no safetensors file")
    smaller = {**saved()["arguments"], "hidden_size": 5}
    broken(lambda: config.write_text(json.dumps({**saved(), "arguments": smaller})), "do not fit its config")


def test_a_failed_save_leaves_the_last_good_one(tmp_path, monkeypatch):
    model = make_s2gru()
    model.save(tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()
    torch.nn.init.zeros_(model.modules_on_sphere.places)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model.save(tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "weights.safetensors"]


def test_views_of_another_world_are_refused(model):
    good = some_views()
    with pytest.raises(ValueError, match="expected views with 2 coordinates .* got 2 coordinates and .4, 5.; make"):
        model.observe(some_views(value_shape=(4, 5)))
    with pytest.raises(ValueError, match="got 1 coordinates"):
        model.observe(Views(good.positions[..., :1], good.values, good.mask))
    with pytest.raises(ValueError, match="the model is torch.float64 on cpu, the views are torch.float32 on cpu; move"):
        model.observe(good.to(torch.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 10}, "dim must be a positive multiple of 2 x 2 coordinates, got 10; take 8 or 12|take"),
        ({"truncation": 1.0}, r"truncation must be in \[-1, 1\), got 1.0"),
        ({"bandwidth": 0.0}, "bandwidth must be positive and finite, got 0.0"),
        ({"shortest": -1.0}, "wavelengths must hold 0 < shortest <= longest"),
        ({"num_modules": 0}, "num_modules and hidden_size must be at least 1, got 0 and 11"),
        ({"extent": [[0.0, 1.0]]}, "extent must be 2 pairs"),
        ({"extent": [[0.0, 1.0], [2.0, 2.0]]}, "extent must be 2 pairs .low, high. with low < high"),
    ],
)
def test_s2gru_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        make_s2gru(**changes)


def s2gru_in_plain_loops(model, views):
    """S2GRU by the equations of appendix C, module by module and head by head; no code shared with the fast path."""
    positions, values, missing = views.filled()
    places = model.modules_on_sphere.places
    places = places / places.norm(dim=-1, keepdim=True)
    embedded = model.embedding(positions)
    encodings = model.encoder(values, missing, embedded if model.inject_positions else None)
    between = spherical_gaussian_kernel(places, places, 1.0, 0.3)
    hidden = places.new_zeros(views.batch_size, model.num_modules, model.hidden_size)

    def read(layer, y, z, local, mask):
        q, k, v = (torch.einsum("bxi,ikd->bxkd", x, w) for x, w in ((y, layer.query), (z, layer.key), (z, layer.value)))
        heads = kernel_modulated_attention(q, k, v, local, mask)
        attended = sum(heads[:, :, head] @ layer.out[head] for head in range(layer.num_heads))
        local_sum = torch.where(mask[:, None], local, 0.0) @ z
        gate = layer.gate_out(torch.relu(layer.gate_hidden(torch.cat([attended, local_sum], -1)))).sigmoid()
        return gated_sum(attended, local_sum, gate)

    states = []
    for t in range(views.num_steps):
        local = spherical_gaussian_kernel(places.expand(2, -1, -1), embedded[:, t], 1.0, 0.3)
        inputs = read(model.input_attention, hidden, encodings[:, t], local, views.mask[:, t])
        everyone = torch.ones(hidden.shape[:2], dtype=torch.bool)
        aggregated = read(model.intercell_attention, hidden, hidden, between.expand(2, -1, -1), everyone)
        cell, after = model.cell, []
        for m in range(model.num_modules):
            input_gates = inputs[:, m] @ cell.weight_input[m] + cell.bias_input[m]
            hidden_gates = aggregated[:, m] @ cell.weight_hidden[m] + cell.bias_hidden[m]
            carried = hidden[:, m] if model.carry == "own" else aggregated[:, m]
            after.append(gru_update(input_gates, hidden_gates, carried))
        hidden = torch.stack(after, 1)
        states.append(hidden)
    return torch.stack(states, 1)


@pytest.mark.parametrize("inject", [False, True])
def test_s2gru_equals_plain_loops_with_gradients(inject):
    model, views = make_s2gru(inject_positions=inject).double(), some_views()
    plain, fast = s2gru_in_plain_loops(model, views), model.observe(views)
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(plain)
    used = [parameter for name, parameter in model.named_parameters() if not name.startswith("decoder")]
    assert_all_close(
        torch.autograd.grad((fast * weights).sum(), used), torch.autograd.grad((plain * weights).sum(), used)
    )


def test_the_literal_equation_4_is_there_and_warns():
    with pytest.warns(UserWarning, match="largest eigenvalue .* can overflow"):
        literal = make_s2gru(carry="aggregated").double()
    views = some_views()
    torch.testing.assert_close(literal.observe(views), s2gru_in_plain_loops(literal, views))
    with pytest.raises(ValueError, match='carry must be "own" or "aggregated"'):
        make_s2gru(carry="neither")


def test_states_stay_bounded_where_the_literal_ones_explode():
    views = some_views(steps=150)
    close = {"num_modules": 10, "truncation": -1.0, "bandwidth": 0.1}
    assert make_s2gru(**close).double().observe(views).abs().max() <= 1
    with pytest.warns(UserWarning, match="overflow"):
        literal = make_s2gru(carry="aggregated", **close).double()
    assert not literal.observe(views).abs().max() < 1e6


def test_modules_start_at_positions_and_see_the_world():
    model = make_s2gru(num_modules=10, truncation=0.6)
    line = torch.linspace(0.0, 7.0, 24)
    weights = model.enclaves(torch.cartesian_prod(line, line))
    assert weights.shape == (10, 24 * 24)
    assert (weights.amax(1) > 0).all()


def test_permuting_the_modules_permutes_the_states_and_nothing_else():
    model, views = make_s2gru().double(), some_views()
    states, predicted = model.observe(views), outputs(model, views)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for parameter in (model.modules_on_sphere.places, *model.cell.parameters()):
            parameter.copy_(parameter[order])
    torch.testing.assert_close(model.observe(views), states[:, :, order])
    torch.testing.assert_close(outputs(model, views), predicted)


def test_lstm_scaffold_sums_its_views():
    model, views = make_lstm().double(), some_views()
    positions, values, missing = views.filled()
    codes = model.encoder(values, missing, model.embedding(positions))
    summed = torch.stack([codes[b, t][views.mask[b, t]].sum(0) for b in range(2) for t in range(5)]).view(2, 5, -1)
    torch.testing.assert_close(model.observe(views).output, model.core(summed)[0])
    zeros = model.initial_state(2)
    torch.testing.assert_close(model.observe(views, zeros).output, model.core(summed)[0])
    assert tree_map(torch.is_tensor, zeros.memory) == (True, True)
    with pytest.raises(ValueError, match="GQN: expected core"):
        make_lstm(core="other")
