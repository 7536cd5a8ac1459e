"""What must hold on a GPU; skipped where there is none."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import MODELS, some_views
from s2rm import Episode
from s2rm.likelihoods import Mean
from s2rm.models.sequence_model import SequenceModel
from s2rm.sequences import Sequences
from s2rm.tasks.balls import episodes, preset
from s2rm.training import Training, batches, captured, fit
from s2rm.training.captured import WARM_UP, Captured

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_computes_what_the_cpu_does(name):
    model, episode = MODELS[name]().double().train(), Episode(some_views())
    results = []
    for device in ("cpu", "cuda"):
        model.to(device).zero_grad()
        loss = model.loss(episode.to(device))
        loss.backward()
        results.append([loss.detach().cpu(), *(parameter.grad.cpu().clone() for parameter in model.parameters())])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", MODELS)
def test_an_update_never_waits_for_the_gpu(name):
    model, episode = MODELS[name]().cuda().train(), Episode(some_views()).to("cuda", torch.float32)
    model.loss(episode).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.loss(episode).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("fast", [False, True], ids=["float64", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_a_replayed_update_has_the_gradients_of_the_model_s_own(name, fast):
    """With new numbers in each batch, and batches of two shapes in turn."""
    model = MODELS[name]().to("cuda", torch.float32 if fast else torch.float64).train()
    replayed, tolerance = Captured(model), {"rtol": 1e-2, "atol": 1e-4} if fast else {"rtol": 1e-9, "atol": 1e-11}
    for number in range(2 * WARM_UP + 6):
        episode = Episode(some_views(steps=4 + number % 2)).to("cuda", next(model.parameters()).dtype)
        with torch.autocast("cuda", torch.bfloat16, enabled=fast):
            expected = gradients(model, model.loss(episode))
            torch.testing.assert_close(gradients(model, replayed.loss(episode)), expected, **tolerance)
    assert len(replayed.graphs) == 2
    assert replayed.possible


@pytest.mark.parametrize("core", ["rims", "lstm", "gru", "rmc"])
def test_a_replayed_sequence_model_has_the_gradients_of_its_own(core):
    model = SequenceModel(input_size=3, num_classes=8, core=core, hidden_size=24).double().cuda()
    replayed = Captured(model)
    for _ in range(WARM_UP + 3):
        batch = Sequences(torch.rand(4, 9, 3), torch.randint(8, (4, 5))).to("cuda", torch.float64)
        expected = gradients(model, model.loss(batch))
        torch.testing.assert_close(gradients(model, replayed.loss(batch)), expected, rtol=1e-9, atol=1e-11)
    assert replayed.graphs
    assert int(replayed.counted) == (WARM_UP + 3) * 4 * 5, "as many as there are targets"


def test_what_cannot_be_captured_trains_without_a_graph(capfd):
    model, episode = MODELS["s2gru"]().cuda(), Episode(some_views()).to("cuda", torch.float32)
    own, expected = model.loss_terms, model.loss(episode)

    def waiting(batch: Episode) -> dict[str, Mean]:
        terms = own(batch)
        terms["nll"].count.item()
        return terms

    model.loss_terms = waiting
    replayed = Captured(model)
    for _ in range(WARM_UP + 3):
        torch.testing.assert_close(replayed.loss(episode), expected)
    assert not replayed.possible
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("GPU: without CUDA graphs, since capturing failed: ")


def test_training_replays_graphs_and_ends_as_without_them(tmp_path, monkeypatch, capfd):
    world = replace(preset("tiny"), train_sequences=64, val_sequences=16)
    training, losses = Training(learning_rate=2e-3, batch_size=16, updates=24, gradient_norm=1.0), []
    for most in (captured.MOST, 0):
        monkeypatch.setattr(captured, "MOST", most)
        torch.manual_seed(0)
        model = MODELS["s2gru"](value_shape=(world.crop, world.crop))
        loaders = [batches(episodes(world, part), 16, 0, part == "train") for part in ("train", "val")]
        losses.append(fit(model, *loaders, tmp_path / str(most), training, progress=False)["val_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert "without CUDA graphs" not in capfd.readouterr().err
