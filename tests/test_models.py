"""What every world model keeps to, and what is S2RM's own."""

import json
import math
import pickle
import threading
import warnings
from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils._pytree import tree_leaves, tree_map

from conftest import MODELS, VALUE_SHAPE, make_gqn, make_s2rm, some_views, unchecked_shapes
from s2rm import GQN, MSA, S2GRU, S2RM, Episode, Views, load
from s2rm.models import world_model
from s2rm.models.inputs import Space
from s2rm.models.named import LABELS, SPATIAL, ModelName, build
from s2rm.models.variants import TERMS
from s2rm.nn.memory import GroupedRelationalMemoryCell
from s2rm.runs import pretrained
from s2rm.settings import Settings
from s2rm.tasks.balls import preset


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


def test_the_oracle_keeps_the_contract_too(tmp_path):
    model, views = make_gqn("tto").double(), some_views()
    test_the_order_of_views_never_matters(model)
    test_what_is_not_there_never_matters(model)
    test_padding_never_matters(model)
    test_observe_equals_step_by_step(model)
    model.save(tmp_path)
    torch.testing.assert_close(outputs(load(tmp_path), views), outputs(model, views))


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


@pytest.mark.parametrize("likelihood", ["bernoulli", "mixed"])
@pytest.mark.parametrize("name", [*MODELS, "tto"])
def test_working_on_what_is_there_only_changes_nothing(name, likelihood, monkeypatch):
    make = partial(make_gqn, "tto") if name == "tto" else MODELS[name]
    shapes = {"value_shape": (2, 3), "target_shape": (14, 2, 3) if likelihood == "mixed" else (2, 3)}
    model = make(likelihood=likelihood, context_size=2, **shapes).double()
    views = some_views(value_shape=shapes["value_shape"])
    views.values[:, 2, 3:, 0] = torch.nan
    targets = some_views(views=4, value_shape=shapes["target_shape"])
    episode = Episode(views, targets, torch.randn(2, 5, 4, 2, dtype=torch.float64))
    results = []
    for packs in (world_model.is_worth_packing, lambda mask: False):
        monkeypatch.setattr(world_model, "is_worth_packing", packs)
        model.zero_grad()
        terms = [mean.value for mean in model.loss_terms(episode).values()]
        sum(terms).backward()
        results.append([*terms, *(parameter.grad.clone() for parameter in model.parameters())])
    assert_all_close(*results)


@pytest.mark.parametrize("likelihood", ["bernoulli", "mixed"])
@pytest.mark.parametrize("codec", ["mlp", "polar"])
def test_what_is_complete_needs_no_marks(codec, likelihood, monkeypatch):
    shape = (14, 2, 3) if likelihood == "mixed" else (1, 2, 3)
    model = make_s2rm(codec=codec, likelihood=likelihood, value_shape=shape, target_shape=shape).double()
    some = some_views(value_shape=shape)
    episode = Episode(Views(some.positions, some.values))
    results, complete = [], world_model.is_complete
    assert complete(episode.views.values, episode.views.mask)
    for is_complete in (complete, lambda values, mask: False):
        monkeypatch.setattr(world_model, "is_complete", is_complete)
        model.zero_grad()
        terms = [mean.value for mean in model.loss_terms(episode).values()]
        sum(terms).backward()
        results.append([*terms, *(parameter.grad.clone() for parameter in model.parameters())])
    assert_all_close(*results)


def test_only_what_is_there_is_encoded_and_decoded():
    model, views = make_s2rm().double(), some_views()
    slots = {}
    for name in ("encoder", "decoder"):
        part = getattr(model, name)
        part.register_forward_pre_hook(lambda _, given, name=name: slots.update({name: tuple(given[0].shape[:1])}))
    model.loss(Episode(views))
    assert slots == {"encoder": (int(views.mask[:, :-1].sum()),), "decoder": (int(views.mask[:, 1:].sum()),)}


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


def test_batches_without_a_slot_or_a_sequence_have_gradients_and_none_without_a_step(model):
    for part in (some_views().rows([]), some_views()):
        views = Views(part.positions[:, :, :0], part.values[:, :, :0], part.mask[:, :, :0]) if len(part.mask) else part
        model(Episode(views, part)).backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
    with pytest.raises(ValueError, match="views of at least one step, got none"):
        model.observe(part.steps(0, 0))


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


@pytest.mark.parametrize(("name", "recompute"), [("s2gru", 1), ("s2gru", 9), *((name, 3) for name in [*MODELS, "tto"])])
def test_recomputing_changes_memory_and_nothing_else(name, recompute):
    model = (make_gqn("tto") if name == "tto" else MODELS[name]()).double()
    views = some_views(steps=8)
    views.values[0, 3, 2, 0, 0] = torch.nan
    results = []
    for given in (None, recompute):
        model.zero_grad()
        loss = model.loss(Episode(views), recompute=given)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert_all_close(*results)
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        model.loss(Episode(views), recompute=0)


def test_recomputing_keeps_less():
    model, views = make_s2rm().double(), some_views(steps=40, batch=8)

    def kept(recompute):
        sizes = {}
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.update({tensor.data_ptr(): tensor.nbytes}) or tensor, lambda tensor: tensor
        )
        with hooks:
            model.loss(Episode(views), recompute=recompute)
        return sum(sizes.values())

    assert kept(5) < kept(None) / 3


def test_context_is_asked_for_and_read_only_where_a_target_is():
    for make in (MODELS["s2gru"], MODELS["lstm"]):
        model, views = make(context_size=2).double(), some_views()
        targets = views.keep(torch.rand(views.mask.shape) < 0.5)
        for size in (None, 3):
            context = None if size is None else torch.rand(*views.mask.shape, size).double()
            with pytest.raises(ValueError, match=r"expected context of shape \(2, 4, 7, 2\), got"):
                model.loss(Episode(views, targets, context))
        found = []
        for fill in (0.0, torch.nan):
            for nothing in (targets, views.keep(torch.tensor(False))):
                context = torch.ones(*views.mask.shape, 2).double()
                context[~nothing.mask] = fill
                model.zero_grad()
                model.loss(Episode(views, nothing, context)).backward()
                found.append([weight.grad.clone() for weight in model.decoder.parameters() if weight.grad is not None])
        torch.testing.assert_close(found[:2], found[2:], rtol=0, atol=0)


def test_context_of_a_rollout_is_for_each_of_its_steps():
    model, views = MODELS["s2gru"](context_size=2).double(), some_views()
    queries, context = torch.rand(2, 3, 4, 2).double(), torch.rand(2, 3, 4, 2).double()
    assert len([*model.rollout(views, queries, 3, context=context)]) == 3
    for wrong in (context[:, :2], context[:, 0]):
        with pytest.raises(ValueError, match=r"context must be \(batch, 3 steps, queries, features\), got shape \(2"):
            next(model.rollout(views, queries, 3, context=wrong))
    with pytest.raises(ValueError, match=r"the model is torch.float64 on cpu, the context features are torch.float32"):
        next(model.rollout(views, queries, 3, context=context.float()))


def test_positions_have_a_time_as_their_states_have(model):
    views = some_views(batch=5)  # as many sequences as steps
    states = model.observe(views)
    with pytest.raises(ValueError, match=r"positions \(batch, time, queries, n\) .* first axes \(5, 5\), got \(5,\);"):
        model.predict(states, views.positions[:, 0])
    with pytest.raises(ValueError, match=r"positions \(batch, queries, n\) .* first axes \(5,\), got \(5, 5\); states"):
        model.predict(model.last(states), views.positions)
    with pytest.raises(ValueError, match=r"first axes \(5, 5\), got \(5, 3\);"):
        model.predict(states, views.positions[:, :3])


def test_recomputing_updates_running_statistics_once():
    model, views = make_gqn("gru"), some_views().to(torch.float32)
    model.loss(Episode(views), recompute=views.num_steps).backward()
    again = make_gqn("gru")
    again.loss(Episode(views)).backward()
    assert torch.equal(model.norm.running_mean, again.norm.running_mean)


@pytest.mark.parametrize("name", ["s2gru", "aggregated", "lstm", "gru", "rims"])
def test_states_go_on_under_autocast(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the aggregated state may overflow
        model = MODELS.get(name, partial(make_s2rm, carry="aggregated"))().float()
    views = some_views().to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.loss(Episode(views), recompute=2).isfinite()
        state = model.last(model.observe(views))
        model.step(views.steps(0, 1), state)
        *_, last = model.rollout(views, views.positions[:, :3], 3)
        assert last.mean.isfinite().all()


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


def test_rollouts_on_grey_values_feed_back_the_mean(model):
    views = some_views()
    views, queries = Views(views.positions, 0.2 + 0.5 * views.values, views.mask), views.positions[:, :2, :3]
    _, closed = model.rollout(views, queries, 2)
    state = model.last(model.observe(views))
    seen = Views(queries[:, :1], model.predict(state, queries[:, 0]).mean[:, None])
    assert_all_close([closed.logits], [model.predict(model.step(seen, state), queries[:, 1]).logits])


def test_a_rollout_does_not_depend_on_the_grey_values_of_others(model):
    views, scale = some_views(), torch.tensor([1.0, 0.5], dtype=torch.float64)
    both = Views(views.positions, views.values * scale[:, None, None, None, None], views.mask)
    queries, model = both.positions[:, :2, :3], model.eval()
    _, closed = model.rollout(both, queries, 2)
    for row in range(2):
        _, alone = model.rollout(both.rows([row]), queries[row : row + 1], 2)
        assert_all_close([closed.logits[row : row + 1]], [alone.logits])


@pytest.mark.parametrize(("likelihood", "codec"), [("bernoulli", "mlp"), ("gaussian", "cnn")])
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


@pytest.mark.parametrize(
    ("make", "own"),
    [(S2GRU, {"num_modules": np.int64(3)}), (GQN, {"batch_norm": np.bool_(True)}), (MSA, {"window": np.int64(3)})],
)
def test_models_made_with_numbers_of_numpy_are_saved(make, own, tmp_path):
    with unchecked_shapes():
        model = make(
            value_shape=np.array([3]), target_shape=np.array([2]), hidden_size=12, likelihood="gaussian",
            extent=np.array([[0, 7], [0, 7]]), context_size=np.int64(1), shortest=np.float32(2),
            rotation=np.float32(1), **own,
        )  # fmt: skip
    model.save(tmp_path)
    assert load(tmp_path).arguments == model.arguments


class Halved(torch.nn.Module):
    """A parametrization that cannot be inverted."""

    def __init__(self, weight):
        super().__init__()
        self.register_buffer("mask", (torch.rand(weight.shape) > 0.5).to(weight))

    def forward(self, weight):
        return weight * self.mask


def test_weights_that_are_shared_are_saved_as_they_act(tmp_path):
    model = make_s2rm()
    model.intercell_attention.gate_hidden = model.input_attention.gate_hidden
    model.save(tmp_path)
    views = some_views()
    torch.testing.assert_close(outputs(load(tmp_path).double(), views), outputs(model.double().eval(), views))


def test_a_class_of_ones_own_is_saved_and_one_is_told_how_to_load_it(tmp_path):
    class Mine(S2RM):
        pass

    Mine(value_shape=(2,), num_coordinates=2, num_modules=2, hidden_size=4).save(tmp_path)
    with pytest.raises(ValueError, match="if it is a class of your own, build it and load weights.safetensors with"):
        load(tmp_path)


def test_parametrized_weights_are_saved_as_they_act(model, tmp_path):
    for name, _ in [*model.named_parameters()]:
        module, _, weight = name.rpartition(".")
        part = model.get_submodule(module)
        parametrize.register_parametrization(part, weight, Halved(getattr(part, weight)))
    views = some_views()
    expected, drawn = outputs(model.eval(), views), torch.get_rng_state()
    model.save(tmp_path)
    assert torch.equal(torch.get_rng_state(), drawn)
    loaded = load(tmp_path)
    assert not any("parametrizations" in name for name in loaded.state_dict())
    torch.testing.assert_close(outputs(loaded, views), expected)


def test_weights_that_hooks_replace_are_not_saved(tmp_path):
    model = make_gqn().double()
    prune.random_unstructured(model.decoder.layers.first, "weight", 0.5)
    with pytest.raises(
        ValueError, match=r"save: expected the weights of a GQN, got .*weight. and 0 more that hooks .*prune.remove"
    ):
        model.save(tmp_path)
    prune.remove(model.decoder.layers.first, "weight")
    model.save(tmp_path)
    views = some_views()
    torch.testing.assert_close(outputs(load(tmp_path), views), outputs(model.eval(), views))


def test_loading_refuses_what_was_not_saved(tmp_path):
    model = make_s2rm()
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
    broken(lambda: config.write_text(json.dumps({**saved(), "format": 99})), "has format 99, .* reads up to 2; update")
    broken(lambda: config.write_text(json.dumps({**saved(), "model": "Other"})), "names the model 'Other'")
    settings = lambda **changes: config.write_text(  # noqa: E731
        json.dumps({**saved(), "arguments": {**saved()["arguments"], **changes}})
    )
    broken(lambda: settings(size=3), r"do not make a S2RM \(extra fields found \(size\) @ arguments\)")
    broken(lambda: settings(hidden_size="11"), "expected int @ arguments.hidden_size")
    broken(lambda: settings(num_modules=2.5), "expected int @ arguments.num_modules")
    broken(lambda: settings(inject_positions=1), r"expected bool \| None @ arguments.inject_positions")
    broken(lambda: settings(extent=[[0.0, "far"]]), "expected .* @ arguments.extent")
    broken(lambda: settings(cell="other"), "cell must be one of .* got 'other'")
    broken(lambda: config.write_text(json.dumps({**saved(), "arguments": [3]})), "do not make a S2RM .* not list")
    broken(lambda: config.write_text(json.dumps({**saved(), "arguments": {}})), "do not make a S2RM .*value_shape")
    broken(lambda: weights.write_bytes(pickle.dumps({"a": 1})), "is no safetensors file .* is not opened")
    broken(lambda: weights.write_bytes(weights.read_bytes()[:-10]), "is no safetensors file")
    huge = "more than the weights have room for"
    broken(lambda: settings(hidden_size=10**7), huge)
    broken(lambda: settings(num_modules=10**9), huge)
    broken(lambda: settings(value_shape=[10**6, 10**6]), "do not fit its config")
    broken(lambda: settings(value_shape=[-3, -5]), "value_shape must be sizes of at least 0")
    broken(lambda: settings(context_size=-1), "context_size must be at least 0")
    broken(lambda: settings(bandwidth=2.5), "config.json beside it are of different models")
    broken(lambda: config.write_text(json.dumps({**saved(), "model": ["S2RM"]})), "names the model")
    broken(lambda: config.write_text("[" * 100_000), "is not a saved model's config")
    nan = {name: value * math.nan for name, value in load_file(tmp_path / "weights.safetensors").items()}
    broken(lambda: save_file(nan, weights), "are not finite, as after training that diverged")
    half = {name: value.long() for name, value in nan.items()}
    broken(lambda: save_file(half, weights), "expected weights of one float dtype")
    smaller = {**saved()["arguments"], "hidden_size": 5}
    broken(lambda: config.write_text(json.dumps({**saved(), "arguments": smaller})), "do not fit its config")


def test_a_reader_beside_a_writer_never_mixes_two_models(tmp_path):
    models = [make_s2rm(bandwidth=bandwidth) for bandwidth in (1.5, 2.5)]
    for model, value in zip(models, (1.5, 2.5), strict=True):
        torch.nn.init.constant_(model.modules_on_sphere.places, value)
    models[0].save(tmp_path)
    ended = threading.Event()

    def write():
        while not ended.is_set():
            for model in models:
                model.save(tmp_path)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(20):
            places = load(tmp_path).modules_on_sphere
            assert places.places[0, 0].item() == places.bandwidth
    finally:
        ended.set()
        writer.join()


def test_a_failed_save_leaves_the_last_good_one(tmp_path, monkeypatch):
    model = make_s2rm()
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
        make_s2rm(**changes)


def parts(state):
    return (state,) if torch.is_tensor(state) else tuple(state)


def s2rm_in_scalar_loops(model, views):
    """S2RM by the einsums of appendix C written out, one number of each sum at a time; nothing of the library's maths.

    Returns what others read of the modules after each step, `(B, T, M, H)`.
    """
    positions, values, missing = views.filled()
    places = [p / (p @ p).sqrt() for p in model.modules_on_sphere.places]
    embedded = model.embedding(positions)
    encodings = model.encoder(values, missing, embedded if model.inject_positions else None)
    M, ablate = model.num_modules, model.ablate

    def kernel(p, s):
        similarity = p @ s
        soft = (-2 * model.modules_on_sphere.bandwidth * (1 - similarity)).exp()
        # Straight through: the value of the truncated kernel, the gradient of the other.
        return soft if similarity >= model.modules_on_sphere.truncation else soft - soft.detach()

    def heard(n):
        """Whether any other module hears module n: if none does, it takes no share of their softmax."""
        return "intercell_local" in ablate or any(kernel(places[m], places[n]) > 0 for m in range(M) if m != n)

    def read(layer, y, things, local, uniform, counted):
        """`things`: the vectors that are there; `local`: their weights; `counted`: whether the softmax counts them."""
        heads = []
        for k in range(layer.num_heads):
            scores = [(y @ layer.query[:, k]) @ (z @ layer.key[:, k]) * (0 if uniform else 1) for z in things]
            shares = [score.exp() * counts for score, counts in zip(scores, counted, strict=True)]
            weights = [share / sum(shares) * w for share, w in zip(shares, local, strict=True)]
            parts = [weight * (z @ layer.value[:, k]) for weight, z in zip(weights, things, strict=True)]
            heads.append(sum(parts, torch.zeros_like(layer.value[0, k])) @ layer.out[k])
        attended = sum(heads)
        local_sum = sum((w * z for w, z in zip(local, things, strict=True)), torch.zeros_like(attended))
        gate = layer.gate_out(layer.gate_hidden(torch.cat([attended, local_sum])).clamp(min=0)).sigmoid()
        return gate * local_sum + (1 - gate) * attended

    sequences = []
    for b in range(views.batch_size):
        state = [[part[b, m] for part in parts(model.initial_state(views.batch_size))] for m in range(M)]
        steps = []
        for t in range(views.num_steps):
            there = [a for a in range(views.mask.shape[2]) if views.mask[b, t, a]]
            hidden = [state[m][0] for m in range(M)]
            after = []
            for m in range(M):
                one = torch.ones((), dtype=torch.float64)
                near = [one if "input_local" in ablate else kernel(places[m], embedded[b, t, a]) for a in there]
                seen = [encodings[b, t, a] for a in there]
                u = read(model.input_attention, hidden[m], seen, near, "input_nonlocal" in ablate, [1] * len(seen))
                near = [one if "intercell_local" in ablate else kernel(places[m], places[n]) for n in range(M)]
                counted = [float(n == m or heard(n)) for n in range(M)]
                h = read(model.intercell_attention, hidden[m], hidden, near, "intercell_nonlocal" in ablate, counted)
                cell, H = model.cell, model.hidden_size
                gates_u = (u @ cell.weight_input[m] + cell.bias_input[m]).split(H)
                gates_h = (h @ cell.weight_hidden[m] + cell.bias_hidden[m]).split(H)
                if len(state[m]) == 1:
                    r, z = ((gates_u[i] + gates_h[i]).sigmoid() for i in range(2))
                    carried = hidden[m] if model.carry == "own" else h
                    after.append([(1 - z) * (gates_u[2] + r * gates_h[2]).tanh() + z * carried])
                else:
                    i, f, g, o = (one + other for one, other in zip(gates_u, gates_h, strict=True))
                    c = f.sigmoid() * state[m][1] + i.sigmoid() * g.tanh()
                    after.append([o.sigmoid() * c.tanh(), c])
            state = after
            steps.append(torch.stack([part[0] for part in state]))
        sequences.append(torch.stack(steps))
    return torch.stack(sequences)


@pytest.mark.parametrize(
    ("cell", "inject", "ablate"),
    [
        *(("gru", False, ablate) for ablate in [(), *((term,) for term in TERMS), TERMS]),
        ("lstm", True, ()),
        ("lstm", False, TERMS),
    ],
)
def test_s2rm_equals_scalar_loops_with_gradients(cell, inject, ablate):
    model, views = make_s2rm(cell, inject_positions=inject, ablate=ablate).double(), some_views(steps=4)
    plain, fast = s2rm_in_scalar_loops(model, views), model.cell.message(model.observe(views))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(plain)
    used = [parameter for name, parameter in model.named_parameters() if not name.startswith("decoder")]
    fast_gradients, plain_gradients = (
        torch.autograd.grad((states * weights).sum(), used, materialize_grads=True) for states in (fast, plain)
    )
    for one, other in zip(fast_gradients, plain_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_s2rmc_is_e3_with_the_relational_memory(monkeypatch):
    model, views = make_s2rm("rmc").double(), some_views()
    calls = []
    step = model.cell.over_time()
    monkeypatch.setattr(model.cell, "over_time", lambda: lambda *rows: calls.append(rows) or step(*rows))
    states = model.observe(views)
    assert states.shape == (2, 5, 3, 4, 256)
    memory = model.initial_state(2)
    assert torch.equal(memory[1, 2], torch.eye(4, 256, dtype=torch.float64))
    for step, (inputs, aggregated, before) in enumerate(calls):
        assert inputs.shape == aggregated.shape == (2, 3, 11), "x and the aggregated message are rows of their own"
        torch.testing.assert_close(before, memory)
        memory = states[:, step]
    for m in range(3):
        # One module alone, its parameters as those of a plain relational memory with one more row of input.
        alone = GroupedRelationalMemoryCell(1, (11, 11), 4, 4, 64, 64, message_size=11).double()
        for own, grouped in zip(alone.parameters(), model.cell.parameters(), strict=True):
            own.data.copy_(grouped.data[m : m + 1])
        rows = [row[:, m : m + 1] for row in calls[3]]
        torch.testing.assert_close(alone(*rows)[:, 0], states[:, 3, m])
        torch.testing.assert_close(alone.message(alone(*rows))[:, 0], model.cell.message(states)[:, 3, m])


def test_the_literal_equation_4_is_there_and_warns():
    with pytest.warns(UserWarning, match="largest eigenvalue .* can overflow"):
        literal = make_s2rm(carry="aggregated").double()
    views = some_views()
    torch.testing.assert_close(literal.observe(views), s2rm_in_scalar_loops(literal, views))
    for wrong in ({"carry": "neither"}, {"carry": "aggregated", "cell": "lstm"}):
        with pytest.raises(ValueError, match='carry must be "own", or "aggregated" with cell "gru", got'):
            make_s2rm(**wrong)


def test_states_stay_bounded_where_the_literal_ones_explode():
    views = some_views(steps=150, views=2)
    close = {"num_modules": 10, "truncation": -1.0, "bandwidth": 0.1}
    assert make_s2rm(**close).double().observe(views).abs().max() <= 1
    with pytest.warns(UserWarning, match="overflow"):
        literal = make_s2rm(carry="aggregated", **close).double()
    assert not literal.observe(views).abs().max() < 1e6


def test_modules_start_at_positions_and_see_the_world():
    model = make_s2rm(num_modules=10, truncation=0.6)
    line = torch.linspace(0.0, 7.0, 24)
    weights = model.enclaves(torch.cartesian_prod(line, line))
    assert weights.shape == (10, 24 * 24)
    assert (weights.amax(1) > 0).all()


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_permuting_the_modules_permutes_the_states_and_nothing_else(cell):
    model, views = make_s2rm(cell).double(), some_views()
    states, predicted = model.observe(views), outputs(model, views)
    order = [2, 0, 1]
    other = model._with_modules(order, model.modules_on_sphere.places.detach()[order])
    torch.testing.assert_close(parts(other.observe(views)), tuple(part[:, :, order] for part in parts(states)))
    torch.testing.assert_close(outputs(other, views), predicted)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_a_removed_module_never_existed(cell, tmp_path):
    model, views = make_s2rm(cell).double(), some_views()
    smaller = model.without_modules(1)
    assert smaller.num_modules == 2
    # The same from scratch: a model of two modules with those parameters.
    scratch = make_s2rm(cell, num_modules=2).double()
    weights = model.state_dict()
    for name, tensor in weights.items():
        if name.startswith(("cell.", "modules_on_sphere.")):
            weights[name] = tensor[[0, 2]]
    scratch.load_state_dict(weights)
    torch.testing.assert_close(outputs(smaller, views), outputs(scratch, views))
    assert not torch.allclose(outputs(smaller, views), outputs(model, views))
    smaller.save(tmp_path)
    assert load(tmp_path).num_modules == 2
    assert model.num_modules == 3, "the model itself is as it was"


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_removing_a_module_that_sees_nothing_changes_nothing(cell):
    model, views = make_s2rm(cell, truncation=0.9).double(), some_views()
    with torch.no_grad():
        # Positions embed with cosines above 0 here, so that the other side of the sphere is far from all.
        model.modules_on_sphere.places[1] = -model.embedding(torch.tensor([0.1, 0.1], dtype=torch.float64))
        assert model.enclaves(views.positions[views.mask])[1].eq(0).all()
        assert model.interaction_graph()[1].gt(0).tolist() == [False, True, False]
    states, smaller = model.observe(views), model.without_modules(1)
    assert model.cell.message(states)[:, -1, 1].ne(0).any(), "it lives, unheard"
    others = tuple(part[:, :, [0, 2]] for part in parts(states))
    torch.testing.assert_close(parts(smaller.observe(views)), others, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(outputs(smaller, views), outputs(model, views), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_a_query_polls_the_modules_near_it(cell):
    model, views = make_s2rm(cell).double(), some_views(steps=3)
    states, positions = model.observe(views), 7 * torch.rand(2, 3, 4, 2, dtype=torch.float64)
    read, messages = model.read(states, model.embedding(positions)), model.cell.message(states)
    for b, t, q in [(0, 0, 0), (1, 2, 3), (0, 1, 2)]:
        expected = torch.zeros(11, dtype=torch.float64)
        for m, place in enumerate(model.modules_on_sphere.places.detach()):
            similarity = float(place @ model.embedding(positions[b, t, q]) / place.norm())
            if similarity >= 0.3:
                expected += math.exp(-2 * (1 - similarity)) * messages[b, t, m]
        torch.testing.assert_close(read[b, t, q], expected)


def test_positions_of_another_world_are_refused(model):
    views = some_views()
    states = model.observe(views)
    with pytest.raises(ValueError, match="positions must end in 2 coordinates, got shape .2, 5, 3, 1."):
        model.predict(states, torch.rand(2, 5, 3, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="the positions are torch.float32 on cpu; move the positions"):
        model.predict(states, torch.rand(2, 5, 3, 2))
    with pytest.raises(ValueError, match="4 steps, queries, coordinates.* got shape .2, 3, 1, 2."):
        list(model.rollout(views, torch.rand(2, 3, 1, 2, dtype=torch.float64), 4))
    with pytest.raises(
        ValueError, match="expected targets with 2 coordinates .* values of shape .3, 5., got .* .4, 5."
    ):
        model.loss(Episode(views, some_views(value_shape=(4, 5))))


def test_a_model_in_double_precision_comes_back_in_it(tmp_path):
    make_s2rm().double().save(tmp_path)
    assert next(load(tmp_path).parameters()).dtype == torch.float64


def test_all_modules_cannot_be_removed():
    model = make_s2rm()
    with pytest.raises(ValueError, match="at least one module must be left, got all 3 to remove"):
        model.without_modules(0, 1, 2)
    with pytest.raises(ValueError, match="there are modules 0 to 2, got .3. to remove"):
        model.without_modules(3)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_a_copied_module_stands_at_its_new_place(cell):
    model = make_s2rm(cell).double()
    position = torch.tensor([2.0, 5.0], dtype=torch.float64)
    larger = model.with_module_copied(1, position)
    assert larger.num_modules == larger.arguments["num_modules"] == 4
    assert larger.enclaves(position[None])[3, 0].item() == pytest.approx(1)
    assert torch.equal(larger.enclaves(position), larger.enclaves(position[None])[:, 0])
    for name, parameter in larger.cell.named_parameters():
        assert torch.equal(parameter[3], model.cell.get_parameter(name)[1])
        assert torch.equal(parameter[:3], model.cell.get_parameter(name))
    views = some_views()
    torch.testing.assert_close(outputs(larger.without_modules(3), views), outputs(model, views))
    with pytest.raises(ValueError, match="there are modules 0 to 2, got 3 to copy"):
        model.with_module_copied(3, position)


def test_a_model_of_the_balls_needs_the_shape_of_a_view_and_the_extent_only():
    model, recipe = S2GRU(value_shape=(11, 11), extent=[(0, 48), (0, 48)]), Settings().build(preset("small"))
    assert model.arguments == recipe.arguments
    assert (model.signature.codec, model.inject_positions, model.space.rotation) == ("mlp", False, 12.0)
    assert S2GRU(value_shape=(11, 17), extent=[(0, 48), (0, 48)]).signature.codec == "cnn"
    unknown = S2GRU(value_shape=(11, 11), num_coordinates=2)
    assert (unknown.inject_positions, unknown.space.rotation) == (False, None), "the paper's"


def test_the_codec_follows_the_shape_of_the_views_unless_given():
    for shape, codec in (((4,), "mlp"), ((), "mlp"), ((5, 6), "cnn"), ((2, 5, 6), "cnn")):
        assert make_s2rm(value_shape=shape, codec=None).arguments["codec"] == codec
    with pytest.raises(ValueError, match="codec must be one of .* got 'rnn'"):
        make_s2rm(codec="rnn")


@pytest.mark.parametrize("make", [S2GRU, GQN, MSA])
def test_the_space_follows_from_the_extent(make):
    box = [(0, 48), (-10, 20)]
    short = make(value_shape=(11, 11), extent=box).space
    assert short == Space(2, 16, 24.0, 384.0, ((0.0, 48.0), (-10.0, 20.0)), False, 12.0)
    longer = make(value_shape=(11, 11), extent=box, num_coordinates=2, shortest=5, embedding_dim=8).space
    assert (longer.shortest, longer.longest, longer.embedding_dim) == (5.0, 384.0, 8)
    with pytest.raises(ValueError, match="extent must be 3 pairs"):
        make(value_shape=(11, 11), extent=box, num_coordinates=3)
    unknown = make(value_shape=(2,), num_coordinates=3).space
    assert unknown == Space(3, 18, 2 * math.pi, 20_000 * math.pi, None, make is not S2GRU, None)
    assert unknown.start == 3 * [(0.0, 2 * math.pi)]


@pytest.mark.parametrize("make", [S2GRU, GQN, MSA])
def test_positions_enter_once(make):
    box = [(0, 48), (0, 48)]
    injected = make(value_shape=(11, 11), extent=box, inject_positions=True).space
    assert (injected.inject_positions, injected.rotation) == (True, None), "one of the paper's ways"
    turned = make(value_shape=(11, 11), extent=box, inject_positions=False, rotation=7.0).space
    assert (turned.inject_positions, turned.rotation) == (False, 7.0)
    with pytest.raises(ValueError, match="positions are injected or rotate encodings, not both"):
        make(value_shape=(11, 11), extent=box, inject_positions=True, rotation=7.0)
    if make is S2GRU:
        assert make(value_shape=(11, 11), extent=box, inject_positions=False).space.rotation is None
    else:
        with pytest.raises(ValueError, match="cannot tell views apart; inject them"):
            make(value_shape=(11, 11), extent=box, inject_positions=False)


@pytest.mark.parametrize("make", [S2GRU, GQN, MSA])
def test_arguments_that_no_model_takes_are_refused(make):
    with pytest.raises(TypeError, match="got unexpected arguments hidden, size"):
        make(value_shape=(2,), num_coordinates=2, size=3, hidden=4)
    with pytest.raises(TypeError, match="expected value_shape"):
        make(num_coordinates=2)
    with pytest.raises(TypeError, match="expected num_coordinates or extent"):
        make(value_shape=(2,))


def test_models_are_built_by_name():
    for name in get_args(ModelName):
        model = build(name, value_shape=(2,), num_coordinates=2, hidden_size=12)
        assert {"cell": SPATIAL.get(name), "core": name}.items() & model.own.items()
        assert name in LABELS
    assert isinstance(build("msa", value_shape=(2,), num_coordinates=2), MSA)
    with pytest.raises(ValueError, match="model: expected one of s2gru, .* got 'other'"):
        build("other", value_shape=(2,), num_coordinates=2)


def test_shipped_models_have_all_settings():
    for run in pretrained():
        model, saved = run.load_model(), json.loads((run.folder / "model" / "config.json").read_text())["arguments"]
        assert saved == json.loads(json.dumps(model.arguments))


def test_unknown_terms_and_cells_are_refused():
    with pytest.raises(ValueError, match="ablate must name terms of .* got .'local'."):
        make_s2rm(ablate=["local"])
    with pytest.raises(ValueError, match="cell must be one of .* got 'rnn'"):
        make_s2rm("rnn")


def test_a_state_of_another_batch_or_device_is_refused(model):
    views = some_views()
    with pytest.raises(ValueError, match="expected a state of .* start from initial_state.batch_size., or move it"):
        model.step(views.at(0), model.initial_state(3))
    away = tree_map(lambda part: part.to("meta"), model.initial_state(2))
    with pytest.raises(ValueError, match="expected a state of .* on cpu, got .* on meta"):
        model.step(views.at(0), away)


def test_a_state_may_be_a_plain_tuple_of_its_parts(model):
    views = some_views()
    state = model.last(model.observe(views))
    if isinstance(state, tuple):
        with unchecked_shapes():
            after = model.step(views.at(0), tuple(state))
        assert_all_close(tree_leaves(after), tree_leaves(model.step(views.at(0), state)))


def test_the_oracle_sees_the_step_that_it_predicts():
    model, views = make_gqn("tto").double(), some_views()
    _, codes = model.encode(views)
    summed = (codes * views.mask[..., None]).sum(2)
    normalised = model.norm(summed, views.mask.any(2))
    torch.testing.assert_close(model.states_before_targets(views).output, model.core.layers(normalised)[:, 1:])
    later = Views(views.positions, views.values.clone(), views.mask)
    later.values[:, 3] = 1 - later.values[:, 3]
    before, after = (model.states_before_targets(v).output for v in (views, later))
    assert (before != after).flatten(2).any(2).any(0).tolist() == [False, False, True, False]
    assert model.loss(Episode(views)).isfinite()
    with pytest.raises(ValueError, match="the oracle sees the step that it predicts and cannot roll out"):
        model.rollout(views, torch.zeros(2, 1, 2), 3)


@pytest.mark.parametrize(("core", "parameters"), [("lstm", 2_100_000), ("rims", 1_490_000), ("rmc", 2_600_000)])
def test_the_scaffold_takes_the_hyperparameters_of_table_2(core, parameters):
    model = GQN(value_shape=(11, 11), num_coordinates=2, core=core, codec="mlp")
    assert sum(p.numel() for p in model.core.parameters()) == pytest.approx(parameters, rel=0.05)
    if core == "rims":
        assert (model.core.num_modules, model.core.num_active, model.core.hidden_size) == (6, 5, 510)
        assert model.core.layers[0].input_value.shape == (510, 400)
        assert model.core.layers[0].reading.key_size == 32
    if core == "rmc":
        cell = model.core.layers[0].cell
        assert (cell.num_heads, cell.head_size, cell.num_slots, cell.key_size) == (4, 128, 1, 128)


def test_lstm_scaffold_sums_its_views():
    model, views = make_gqn(batch_norm=False).double(), some_views()
    positions, values, missing = views.filled()
    codes = model.encoder(values, missing, model.embedding(positions))
    summed = torch.stack([codes[b, t][views.mask[b, t]].sum(0) for b in range(2) for t in range(5)]).view(2, 5, -1)
    torch.testing.assert_close(model.observe(views).output, model.core(summed)[0])
    zeros = model.initial_state(2)
    torch.testing.assert_close(model.observe(views, zeros).output, model.core(summed)[0])
    assert tree_map(torch.is_tensor, zeros.memory) == (True, True)
    with pytest.raises(ValueError, match="GQN: core must be one of"):
        make_gqn(core="other")


@pytest.mark.parametrize(("likelihood", "shape"), [("bernoulli", (3, 4)), ("mixed", (14, 2, 3))])
def test_a_guess_of_binary_and_categorical_channels_is_in_logits(likelihood, shape):
    size = math.prod(shape)
    model = S2GRU(
        value_shape=shape, num_coordinates=2, likelihood=likelihood, codec="mlp", context_size=size, corrects=True
    )
    views, context = Views(torch.rand(2, 4, 3, 2), torch.rand(2, 4, 3, *shape)), torch.randn(2, 4, 3, size)
    guess = model.likelihood.distribution(context.unflatten(-1, shape).unsqueeze(-1))
    torch.testing.assert_close(model.predict(model.observe(views), views.positions, context).mean, guess.mean)
    torch.nn.init.ones_(model.correction)
    assert not torch.allclose(model.predict(model.observe(views), views.positions, context).mean, guess.mean)


@pytest.mark.parametrize("make", [S2GRU, GQN])
def test_a_model_that_corrects_starts_at_the_guess_and_learns_from_its_context(make):
    model = make(value_shape=(2,), num_coordinates=2, likelihood="gaussian", context_size=3, corrects=True).eval()
    views = Views(torch.rand(2, 4, 3, 2), torch.randn(2, 4, 3, 2))
    context = torch.randn(2, 4, 3, 3)
    predicted = model.predict(model.observe(views), views.positions, context)
    torch.testing.assert_close(predicted.mean, context[..., :2])
    episode = Episode(views, context=context)
    whole = model.loss(episode)
    torch.testing.assert_close(model.loss(episode, recompute=2), whole)
    other = Episode(views, context=torch.cat([context[:, :1] + 1, context[:, 1:]], 1))
    torch.testing.assert_close(model.loss(other), whole, msg="the context of step 0 is of no target")
    whole.backward()
    assert model.correction.grad.abs().sum() > 0
    (ahead,) = model.rollout(views, views.positions[:, -1], 1, context=context[:, -1:])
    torch.testing.assert_close(ahead.mean, context[:, -1, :, :2])
    with pytest.raises(ValueError, match=r"expected context of shape \(2, 4, 3, 3\), got None"):
        model.predict(model.observe(views), views.positions)
    with pytest.raises(ValueError, match="context must begin with"):
        Episode(views, context=context[:, :2])
    with pytest.raises(ValueError, match="needs a context_size of at least 2"):
        make(value_shape=(2,), num_coordinates=2, likelihood="gaussian", context_size=1, corrects=True)


TARGET_SHAPE = (2, 4)


def some_targets(steps: int = 5) -> Views:
    return some_views(steps=steps, views=3, value_shape=TARGET_SHAPE)


@pytest.mark.parametrize("name", [*MODELS, "tto"])
def test_targets_may_have_another_shape_than_views(name, tmp_path):
    make = partial(make_gqn, "tto") if name == "tto" else MODELS[name]
    model = make(target_shape=TARGET_SHAPE).double()
    views, targets = some_views(), some_targets()
    assert outputs(model, views).shape == (2, 5, 3, *TARGET_SHAPE)
    whole = model.loss(Episode(views, targets))
    torch.testing.assert_close(model.loss(Episode(views, targets), recompute=3), whole)
    whole.backward()
    with pytest.raises(ValueError, match="expected targets with 2 .* values of shape .2, 4., got .* .3, 5."):
        model.loss(Episode(views))
    with pytest.raises(ValueError, match="expected views with 2 .* values of shape .3, 5., got .* .2, 4."):
        model.loss(Episode(targets))
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.target_shape == TARGET_SHAPE
    torch.testing.assert_close(outputs(again, views), outputs(model, views))


def test_predictions_that_are_no_views_are_not_fed_back():
    model, views, queries = make_s2rm(target_shape=TARGET_SHAPE).double(), some_views(), torch.zeros(2, 3, 2).double()
    with pytest.raises(
        ValueError, match=r"shape \(2, 4\) cannot be fed back .* \(3, 5\), .* closed_loop=False"
    ) as error:
        list(model.rollout(views, queries, 3))
    assert "\n" not in str(error.value)
    blind = list(model.rollout(views, queries, 3, closed_loop=False))
    assert [ahead.mean.shape for ahead in blind] == 3 * [(2, 3, *TARGET_SHAPE)]


def test_the_codec_follows_the_shape_of_the_targets_too():
    assert make_s2rm(codec=None, target_shape=TARGET_SHAPE).arguments["codec"] == "cnn"
    assert make_s2rm(codec=None, target_shape=(4,)).arguments["codec"] == "mlp"


def test_corrections_are_of_the_targets():
    model = make_gqn(value_shape=(5,), target_shape=(2,), likelihood="gaussian", context_size=3, corrects=True)
    views, targets = (
        some_views(value_shape=(5,)).to(torch.float32),
        some_views(views=3, value_shape=(2,)).to(torch.float32),
    )
    context = torch.randn(2, 5, 3, 3)
    predicted = model.predict(model.observe(views), targets.positions, context)
    torch.testing.assert_close(predicted.mean, context[..., :2])
    assert model.loss(Episode(views, targets, context)).isfinite()


def test_corrections_may_be_of_single_numbers():
    model, views = make_gqn(value_shape=(), likelihood="gaussian", context_size=1, corrects=True), some_views()
    views = Views(views.positions, views.values[..., 0, 0], views.mask).to(torch.float32)
    context = torch.randn(2, 5, 7, 1)
    predicted = model.predict(model.observe(views), views.positions, context)
    torch.testing.assert_close(predicted.mean, context[..., 0])


def test_models_saved_before_targets_had_a_shape_are_loaded(tmp_path):
    model = make_s2rm().eval()
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"].pop("target_shape", "none") is None
    (tmp_path / "config.json").write_text(json.dumps(config))
    views = some_views().to(torch.float32)
    queries = torch.rand(2, 5, 3, 2)
    ours, theirs = (m.predict(m.observe(views), queries).mean for m in (model, load(tmp_path)))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("recompute", [1, 3, 9])
def test_recomputing_leaves_each_term_of_a_mixed_loss_as_it_is(recompute):
    shape = (14, 2, 3)
    model = make_s2rm(value_shape=shape, likelihood="mixed").double()
    views = some_views(steps=8, value_shape=shape)
    views.values[0, 3, :, 0] = views.values[1, 4, 2, 7, 0, 0] = views.values[:, 5, 1, 10:] = torch.nan
    episode = Episode(views)
    terms = model.loss_terms(episode)
    assert list(terms) == ["friendly", "type", "hecs"]
    for name, mean in model.loss_terms(episode, recompute).items():
        torch.testing.assert_close((mean.total, mean.count), (terms[name].total, terms[name].count))
    torch.testing.assert_close(model.loss(episode, recompute), sum(mean.value for mean in terms.values()))
    fed = list(model.rollout(views, views.positions[:, 0], 3))
    assert fed[2].mean.shape == (2, 7, *shape)


def test_a_loss_of_views_alone_says_what_is_missing(model):
    with unchecked_shapes(), pytest.raises(ValueError, match=r"expected an Episode, got Views; take Episode\(views\)"):
        model.loss(some_views())


def test_frozen_modules_stay_frozen_without_others():
    model = make_s2rm()
    model.cell.requires_grad_(False)
    model.modules_on_sphere.places.requires_grad_(False)
    for other in (model.without_modules(1), model.with_module_copied(0, torch.ones(2))):
        assert {name for name, one in other.named_parameters() if not one.requires_grad} == {
            name for name, one in model.named_parameters() if not one.requires_grad
        }


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rmc"])
def test_modules_with_parametrized_weights_are_removed_and_copied_as_they_act(cell, shared, tmp_path):
    model, views = make_s2rm(cell, share_parameters=shared).double().eval(), some_views()
    for part in [*model.cell.modules()]:
        for name, weight in [*part.named_parameters(recurse=False)]:
            parametrize.register_parametrization(part, name, Halved(weight))
    parametrizations.weight_norm(model.modules_on_sphere, "places")
    model.save(tmp_path)
    plain, before = load(tmp_path).eval(), outputs(model, views)
    place = torch.tensor([2.0, 5.0], dtype=torch.float64)
    for change in (lambda one: one.without_modules(1), lambda one: one.with_module_copied(1, place)):
        torch.testing.assert_close(outputs(change(model), views), outputs(change(plain), views))
    if not shared:
        model.without_modules(1).reset_parameters()
    torch.testing.assert_close(outputs(model, views), before)
    assert parametrize.is_parametrized(model.modules_on_sphere), "the model itself is as it was"


def test_modules_whose_weights_are_made_by_hooks_are_refused():
    model = make_s2rm()
    prune.random_unstructured(model.cell, "weight_input", 0.5)
    with pytest.raises(ValueError, match=r"^copy: expected the weights of a S2RM, got 'cell.weight_input' and 0 more"):
        model.without_modules(1)
    with pytest.raises(ValueError, match=r"^reset_parameters: expected plain weights, got 'cell.weight_input' and 0"):
        model.reset_parameters()
