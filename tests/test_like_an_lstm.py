"""What code expects of an `nn.LSTM` beside its call: new weights, states of zeros, the meta device, replicas."""

import importlib

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import prune

from conftest import MODELS, make_gqn, make_s2rm, some_views
from s2rm import MSA, S2GRU, Episode, RelationalMemory, RIMs, Views

CORES = {
    "rims": lambda: RIMs(5, 12, 2, num_modules=3, num_active=2, bidirectional=True),
    "rims_gru": lambda: RIMs(5, 12, cell="gru", num_modules=3, num_active=2),
    "memory": lambda: RelationalMemory(5, 12, 2, num_slots=2, num_heads=3),
}


@pytest.fixture(params=CORES)
def core(request):
    return CORES[request.param]()


def make_msa():
    return MSA(value_shape=(3, 5), num_coordinates=2, hidden_size=8, num_heads=2, num_layers=1, window=3)


def values_of(module):
    return [value.clone() for value in (*module.parameters(), *module.buffers())]


def test_new_weights_are_those_of_a_new_core(request, core):
    make = CORES[request.node.callspec.params["core"]]
    torch.manual_seed(3)
    expected = values_of(make())
    before = values_of(core)
    torch.manual_seed(3)
    assert core.reset_parameters() is None
    assert all(map(torch.equal, values_of(core), expected))
    assert not any(torch.equal(a, b) for a, b in zip(values_of(core), before, strict=True) if a.std() > 0)


@pytest.mark.parametrize("make", [*MODELS.values(), make_msa])
@pytest.mark.parametrize("everywhere", [False, True])
def test_new_weights_are_those_of_a_new_model(make, everywhere):
    model = make()
    for value in (*model.parameters(), *model.buffers()):
        value.data.add_(1)
    torch.manual_seed(5)
    expected = values_of(make())
    if everywhere:  # as code does that knows no model
        model.apply(lambda part: part.reset_parameters() if hasattr(part, "reset_parameters") else None)
        assert not any(torch.equal(a, b + 1) for a, b in zip(values_of(model), expected, strict=True))
    torch.manual_seed(5)
    model.reset_parameters()
    assert all(map(torch.equal, values_of(model), expected))


def test_every_part_with_weights_of_its_own_can_draw_them_anew():
    for model in (make_s2rm("rmc", rotation=3.0), make_gqn("rims"), make_gqn("rmc")):
        for part in model.core.modules() if hasattr(model, "core") else model.cell.modules():
            if [*part.parameters(recurse=False)]:
                assert hasattr(part, "reset_parameters"), type(part)


def test_a_memory_of_zeros_starts_from_the_identity_in_each_sequence():
    core, x = RelationalMemory(5, 12, batch_first=True, num_slots=2, num_heads=3), torch.randn(3, 4, 5)
    expected, (h, c) = core(x)
    outputs, after = core(x, (torch.zeros_like(h), torch.zeros_like(c)))
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
    torch.testing.assert_close(after, (h, c), rtol=0, atol=0)
    done = torch.tensor([0.0, 1.0, 0.0])[:, None]
    outputs, _ = core(x, (h, c * (1 - done)))
    torch.testing.assert_close(outputs[1], expected[1])
    torch.testing.assert_close(outputs[[0, 2]], core(x[[0, 2]], (h[:, [0, 2]], c[:, [0, 2]]))[0])


def test_one_slot_of_zeros_is_a_state_like_others():
    core, x = RelationalMemory(5, 12, num_heads=3), torch.randn(4, 3, 5)
    zeros = torch.zeros(1, 3, 12)
    assert not torch.allclose(core(x, (zeros, zeros))[0], core(x)[0])


def test_memories_of_a_world_model_start_from_zeros_too():
    model, views = make_s2rm("rmc").double(), some_views()
    start = model.initial_state(views.batch_size)
    torch.testing.assert_close(model.observe(views, torch.zeros_like(start)), model.observe(views), rtol=0, atol=0)


def test_shapes_without_numbers(core):
    outputs, state = core.to("meta")(torch.zeros(4, 2, 5, device="meta"))
    assert outputs.is_meta
    assert outputs.shape == (4, 2, 12 * core.directions)
    parts = [state] if isinstance(state, torch.Tensor) else state
    assert {part.shape for part in parts} == {(core.num_layers * core.directions, 2, 12)}


@pytest.mark.parametrize("make", [*MODELS.values(), make_msa])
def test_a_model_without_numbers_has_a_loss_and_predictions(make):
    model = make().to("meta").eval()
    views = Views(torch.rand(2, 4, 3, 2, device="meta"), torch.rand(2, 4, 3, 3, 5, device="meta"))
    assert model(Episode(views)).shape == ()
    assert model.predict(model.observe(views), views.positions).mean.shape == (2, 4, 3, 3, 5)


def test_replicas_compute_what_the_core_does(core, monkeypatch):
    # As `nn.DataParallel` makes them for its further devices: with plain tensors instead of parameters.
    module = importlib.import_module("torch.nn.parallel.replicate")
    copies = lambda tensors, devices, detach=False: [[part * 1 for part in tensors] for _ in devices]  # noqa: E731
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", copies)
    monkeypatch.setattr(module, "_get_device_index", lambda device, *_: device)
    replica, x = module.replicate(core, [0, 1])[1], torch.randn(4, 2, 5)
    assert not [*replica.parameters()]
    outputs, _ = replica(x)
    torch.testing.assert_close(outputs, core(x)[0])
    outputs.sum().backward()
    assert all(weight.grad is not None for weight in core.parameters())


def test_calling_a_model_is_its_loss_for_hooks_and_functional_calls(model):
    episode, called = Episode(some_views()), []
    model.register_forward_hook(lambda part, given, loss: called.append(loss))
    loss = model(episode)
    torch.testing.assert_close(loss, model.loss(episode))
    assert called == [loss]
    weights = {name: value * 0 for name, value in model.named_parameters()}
    assert not torch.allclose(functional_call(model, weights, (episode,)), loss)
    torch.testing.assert_close(model(episode, recompute=2), loss)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_ensemble_is_one_call(core):
    weights, buffers = stack_module_state([core, core])
    x = torch.randn(4, 2, 5)
    together = vmap(lambda part: functional_call(core, (part, buffers), (x,))[0])(weights)
    torch.testing.assert_close(together[1], core(x)[0])


def test_gradients_by_functions_equal_those_of_backward(core):
    x = torch.randn(4, 2, 5)
    loss = lambda weights: functional_call(core, weights, (x,))[0].square().sum()  # noqa: E731
    weights = dict(core.named_parameters())
    expected = torch.autograd.grad(loss(weights), [*weights.values()])
    ours = torch.func.grad(loss)({name: value.detach() for name, value in weights.items()})
    for one, other in zip(ours.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make", [CORES["rims"], CORES["rims_gru"], CORES["memory"], lambda: nn.Sequential(make_s2rm())]
)
def test_batches_of_gradients_are_refused_in_one_line(make):
    part = make()
    given = torch.randn(4, 2, 5) if not isinstance(part, nn.Sequential) else Episode(some_views().to(torch.float32))
    result = part(given)
    total = result if isinstance(part, nn.Sequential) else result[0].sum()
    with pytest.raises(ValueError, match="one gradient at a time, got a batch of them") as refused:
        torch.autograd.grad(total, [*part.parameters()], torch.ones(3), is_grads_batched=True)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("factor", "refused"), [(1.0, False), (255.0, True), (-0.5, True)])
def test_targets_of_binary_pixels_are_from_0_to_1(factor, refused):
    model = S2GRU(value_shape=(3,), num_coordinates=2, num_modules=2, hidden_size=8)
    values = torch.tensor([0.0, 0.25, 1.0]).expand(2, 3, 4, 3) * factor
    values = values.clone()
    values[0, 0, 0, 0] = torch.nan
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[1, 2], values[1, 2] = False, 99.0
    episode = Episode(Views(torch.rand(2, 3, 4, 2), values, mask))
    if not refused:
        assert model.loss(episode) > 0
        return
    with pytest.raises(ValueError, match='from 0 to 1, .*; build the model with likelihood="gaussian"'):
        model.loss(episode)
    real = S2GRU(value_shape=(3,), num_coordinates=2, num_modules=2, hidden_size=8, likelihood="gaussian")
    assert real.loss(episode).isfinite()


@pytest.mark.parametrize(
    ("make", "part", "name"), [(RIMs, "layers.0", "input_key"), (RelationalMemory, "layers.0.cell.qkv", "0")]
)
def test_a_pruned_layer_trains_and_stays_pruned(make, part, name):
    core = make(4, 6, **({"num_modules": 3, "num_active": 2} if make is RIMs else {}))
    pruned = core.get_submodule(part)
    prune.random_unstructured(pruned, name, 0.5)
    optimizer = torch.optim.SGD(core.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        core(torch.ones(5, 2, 4))[0].square().sum().backward()
        optimizer.step()
    assert (getattr(pruned, name) == 0).float().mean() == 0.5
