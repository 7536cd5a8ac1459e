import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import create_autospec

import lightning as L
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parametrize, prune
from torch.utils.data import DataLoader, IterableDataset

from conftest import make_gqn, make_s2rm, some_views, unchecked_shapes
from s2rm import GQN, Episode, Views, load
from s2rm.files import only_writer, write_whole
from s2rm.runs import Run
from s2rm.settings import Core, Settings
from s2rm.tasks.balls import episodes
from s2rm.tasks.balls.world import preset
from s2rm.tasks.worlds import Drawn
from s2rm.training import (
    LAST,
    Batches,
    Diverged,
    KeepBest,
    Lesson,
    Machines,
    Training,
    batches,
    fit,
    flush_denormals,
    history,
    one_thread,
    provenance,
)
from s2rm.training.precision import gain, settled

WORLD = preset("tiny")
TINY = Settings(training=Training(epochs=3, batch_size=4))

PARTS = ("training", "validation")
TRAIN = ["train", "balls", "--size", "tiny", "--batch-size", "4", "--patience", "100"]
# A rate so low that the plateau schedule has something to do.
SETTLE = ["--learning-rate", "1e-7", "--epochs", "24"]


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Run:
    """A run that has ended; a test that changes it takes a copy."""
    return Run.create(tmp_path_factory.mktemp("once") / "run", TINY, world=WORLD).train(progress=False)


class Kept(torch.nn.Module):
    """A parametrization by which pruned weights stay zero."""

    def __init__(self, kept):
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight):
        return weight * self.kept


def s2rm(*arguments: str | Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "s2rm.cli", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def wait_for(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no {path} after two minutes: {process.communicate()[0]}")
        time.sleep(0.002)


def everything(run: Path) -> dict:
    """The best weights, and all of the last checkpoint that training goes on from."""
    last = torch.load(run / LAST, weights_only=True)
    optimizer = last["optimizer_states"][0]
    return {
        **load_file(run / "model" / "weights.safetensors"),
        **last["state_dict"],
        **{f"adam {k} {name}": value for k, state in optimizer["state"].items() for name, value in state.items()},
        "rate": torch.tensor(optimizer["param_groups"][0]["lr"]),
        "best": torch.tensor(last["lr_schedulers"][0]["best"]),
    }


def test_a_run_that_was_killed_and_resumed_ends_as_one_that_was_not(tmp_path):
    whole = s2rm(*TRAIN, *SETTLE, "--out", tmp_path / "whole")
    killed = s2rm(*TRAIN, *SETTLE, "--out", tmp_path / "killed")
    wait_for(tmp_path / "killed" / LAST, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "killed" / LAST, weights_only=True)["epoch"] < 23, "killed before it had finished"
    with pytest.raises(ValueError, match="has not finished training; resume it with s2rm train --resume"):
        Run.open(tmp_path / "killed").summary()
    finish(s2rm("train", "--resume", tmp_path / "killed"))
    finish(whole)

    ours, expected = everything(tmp_path / "killed"), everything(tmp_path / "whole")
    assert ours.keys() == expected.keys()
    for name in expected:
        assert torch.equal(ours[name], expected[name]), name
    assert expected["rate"] < 1e-7, "the plateau schedule had something to do"
    losses = [[epoch["val_loss"] for epoch in history(tmp_path / run)] for run in ("whole", "killed")]
    assert len(losses[0]) == 24
    assert losses[0] == losses[1]


def test_a_log_is_never_written_anew(tmp_path, monkeypatch):
    """A kill while it is would lose the epochs before; new lines come in one piece."""

    def anew(*_):
        raise AssertionError("the log is written anew")

    monkeypatch.setattr("lightning.fabric.loggers.csv_logs._ExperimentWriter._rewrite_with_new_header", anew)
    run = Run.create(tmp_path / "run", TINY, world=WORLD).train(progress=False)
    run.with_limits(epochs=5).train(resume=True, progress=False)
    epochs = history(run.folder)
    assert [epoch["epoch"] for epoch in epochs] == [0, 1, 2, 3, 4]
    assert all({"train_loss", "val_loss", "learning_rate", "minutes"} <= epoch.keys() for epoch in epochs)


def test_layers_get_unit_variance_once_at_the_start(tmp_path):
    still = replace(TINY.training, learning_rate=1e-9, epochs=1, unit_variance=True)
    run = Run.create(tmp_path / "run", replace(TINY, training=still), world=WORLD).train(progress=False)
    first = "encoder.layers.first.weight"
    begun, own = run.load_model().state_dict(), TINY.build(WORLD).state_dict()
    assert begun[first].norm() > 2 * own[first].norm()
    torch.testing.assert_close(begun["cell.weight_hidden"], own["cell.weight_hidden"], rtol=0, atol=1e-6)
    run.with_limits(epochs=2).train(resume=True, progress=False)
    last = torch.load(run.folder / LAST, weights_only=True)["state_dict"]
    torch.testing.assert_close(last[f"model.{first}"], begun[first], rtol=0, atol=1e-6)


def test_ctrl_c_leaves_the_last_good_checkpoint(tmp_path):
    process = s2rm(*TRAIN, "--epochs", "100000", "--out", tmp_path / "run")
    wait_for(tmp_path / "run" / LAST, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    assert "saved files are kept" in output
    assert "Traceback" not in output
    torch.load(tmp_path / "run" / LAST, weights_only=True)
    load(tmp_path / "run" / "model")
    assert not list(tmp_path.rglob("*.part"))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", TINY, world=WORLD).train(progress=False)
    before = (run.folder / LAST).read_bytes()

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.with_limits(epochs=5).train(resume=True, progress=False)
    assert (run.folder / LAST).read_bytes() == before
    monkeypatch.undo()
    assert run.with_limits(epochs=5).train(resume=True, progress=False).summary()["epochs"] == 5


def test_a_run_leaves_what_it_promises(once):
    run = once
    made = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*")}
    assert {"config.json", "model/weights.safetensors", "summary.json", LAST, "logs/version_0/metrics.csv"} <= made
    assert any("tfevents" in name for name in made)
    assert Run.open(run.folder) == run
    summary = run.summary()
    assert summary["updates"] == 6
    assert summary["val_loss"] == pytest.approx(min(epoch["val_loss"] for epoch in history(run.folder)))
    assert {"command", "commit", "seed", "hardware", "minutes", "parameters"} <= summary.keys()
    assert summary["parameters"] == run.load_model().num_parameters
    with pytest.raises(ValueError, match="exists already; choose another --out, or resume it with --resume"):
        Run.create(run.folder, TINY, world=WORLD)


def test_the_best_weights_are_kept_not_the_last(tmp_path):
    model, keep = make_s2rm(), KeepBest(tmp_path)
    for loss in (3.0, 1.0, 2.0):
        torch.nn.init.constant_(model.modules_on_sphere.places, loss)
        trainer = create_autospec(L.Trainer, instance=True, sanity_checking=False, is_global_zero=True)
        trainer.callback_metrics = {"val_loss": loss}
        keep.on_validation_end(trainer, Lesson(model, Training()))
    assert load(tmp_path).modules_on_sphere.places.eq(1.0).all()
    resumed = KeepBest(tmp_path)
    resumed.load_state_dict(keep.state_dict())
    assert resumed.lowest == 1.0


def test_averaged_weights_are_validated_and_kept_over_a_stop(tmp_path):
    averaged = replace(TINY, training=replace(TINY.training, average=0.9, learning_rate=1e-3, epochs=4))
    whole = Run.create(tmp_path / "whole", averaged, world=WORLD).train(progress=False)
    part = Run.create(tmp_path / "part", averaged, world=WORLD).with_limits(epochs=2).train(progress=False)
    part.with_limits(epochs=4).train(resume=True, progress=False)
    plain = Run.create(
        tmp_path / "plain", replace(TINY, training=replace(averaged.training, average=None)), world=WORLD
    )
    plain.train(progress=False)
    weights = [load_file(run.folder / "model" / "weights.safetensors") for run in (whole, part, plain)]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
    assert any(not torch.equal(tensor, weights[2][name]) for name, tensor in weights[0].items())


def test_the_average_is_the_running_mean_of_the_weights(tmp_path):
    training = replace(TINY.training, average=0.75, learning_rate=1e-2, batch_size=8, epochs=1)  # an update an epoch
    run = Run.create(tmp_path / "run", replace(TINY, training=training), world=WORLD).train(progress=False)
    states = []
    for epochs in (1, 2):
        run = run.with_limits(epochs=epochs).train(resume=True, progress=False)
        kept = torch.load(run.folder / LAST, weights_only=True)
        states.append((kept["current_model_state"], kept["state_dict"]))
    (first, _), (second, mean) = states
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, 0.75 * first[name] + 0.25 * second[name])


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_a_model_that_was_loaded_is_trained_in_training_mode(tmp_path):
    make_gqn().save(tmp_path / "saved")
    model, episode = load(tmp_path / "saved"), Episode(some_views(batch=4).to(torch.float32))
    loader = batches(Drawn(4, lambda rows, _: episode.rows(rows.tolist())), batch_size=4, seed=0, shuffle=False)
    fit(model, loader, loader, tmp_path / "run", Training(updates=1), progress=False)
    assert model.norm.running_mean.abs().max() > 0  # of the batches, as in training mode
    assert not model.training  # as before
    model.train().encoder.eval()
    seen = []
    model.encoder.register_forward_pre_hook(lambda part, _: seen.append((model.training, part.training)))
    fit(model, loader, loader, tmp_path / "again", Training(updates=1), progress=False)
    assert seen[0] == (True, False)
    assert model.training


def test_a_pruned_model_is_trained_if_it_can_be_saved(tmp_path):
    model, episode = make_s2rm(), Episode(some_views(batch=4).to(torch.float32))
    loader = batches(Drawn(4, lambda rows, _: episode.rows(rows.tolist())), batch_size=4, seed=0, shuffle=False)
    prune.random_unstructured(model.encoder.layers.first, "weight", 0.5)
    with pytest.raises(ValueError, match="prune.remove"):
        fit(model, loader, loader, tmp_path / "run", Training(updates=1), progress=False)
    prune.remove(model.encoder.layers.first, "weight")
    kept = model.encoder.layers.first.weight != 0
    parametrize.register_parametrization(model.encoder.layers.first, "weight", Kept(kept))
    fit(model, loader, loader, tmp_path / "run", Training(updates=3), progress=False)
    assert torch.equal(load(tmp_path / "run" / "model").encoder.layers.first.weight != 0, kept)


def test_a_budget_of_time_ends_training(tmp_path):
    settings = replace(TINY, training=replace(TINY.training, minutes=0.03, epochs=100_000))
    run = Run.create(tmp_path / "run", settings, world=WORLD).train(progress=False)
    first = run.summary()
    assert 0.03 <= first["minutes"] < 0.2
    assert first["updates"] > 0
    longer = run.with_limits(minutes=first["minutes"] + 0.03).train(resume=True, progress=False).summary()
    assert longer["minutes"] >= first["minutes"] + 0.03
    assert longer["updates"] > first["updates"]


def test_a_budget_of_updates_ends_training_with_a_last_validation(tmp_path):
    training = replace(TINY.training, updates=7, batch_size=2, epochs=None)  # four updates an epoch
    run = Run.create(tmp_path / "run", replace(TINY, training=training), world=WORLD).train(progress=False)
    assert (run.summary()["updates"], run.summary()["epochs"]) == (7, 2)
    epochs = history(run.folder)
    assert [*map(len, epochs)] == [len(epochs[0])] * 2
    assert "val_loss" in epochs[1]
    expected = [training.learning_rate * (1 + math.cos(math.pi * update / 7)) / 2 for update in (3, 6)]
    assert [epoch["learning_rate"] for epoch in epochs] == pytest.approx(expected)
    assert run.train(resume=True, progress=False).summary()["updates"] == 7, "a run that has ended makes no update"
    longer = run.with_limits(updates=9).train(resume=True, progress=False)
    assert longer.summary()["updates"] == 9


def test_the_learning_rate_rises_at_the_start(tmp_path):
    training = replace(TINY.training, updates=8, batch_size=2, warmup=3, epochs=None)
    cosine = replace(training, warmup=0)
    for update, share in enumerate([1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]):
        assert training.rate_at(update) == pytest.approx(share * cosine.rate_at(update))
    run = Run.create(tmp_path / "run", replace(TINY, training=training), world=WORLD).train(progress=False)
    plain = Run.create(tmp_path / "plain", replace(TINY, training=cosine), world=WORLD).train(progress=False)
    first, other = (history(each.folder)[0] for each in (run, plain))
    assert first["learning_rate"] == pytest.approx(cosine.rate_at(3)), "the rate after the warm-up is the same"
    assert first["val_loss"] != other["val_loss"]


@pytest.mark.parametrize("scale", [2.0, 0.02])
def test_the_rate_is_halved_where_a_loss_stands_still_above_or_below_0(tmp_path, scale):
    torch.manual_seed(0)
    views = Views(torch.rand(4, 4, 3, 2), scale * torch.randn(4, 4, 3, 1))
    model = GQN(value_shape=(1,), extent=[(0, 1), (0, 1)], likelihood="gaussian", hidden_size=8, batch_norm=False)
    last = [module for module in model.decoder.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, math.log(math.expm1(scale))])  # the mean, and the spread that the values have
    data = Drawn(4, lambda rows, _: Episode(views).rows(rows.tolist()))
    loaders = (batches(data, 4, 0, shuffle=False) for _ in range(2))
    fit(model, *loaders, tmp_path, Training(learning_rate=1e-7, epochs=8), progress=False)
    found = history(tmp_path)
    assert (found[-1]["val_loss"] < 0) == (scale < 1)
    assert found[-1]["learning_rate"] == pytest.approx(found[0]["learning_rate"] / 2)


def test_a_resumed_run_falls_along_the_same_cosine(tmp_path):
    training = replace(TINY.training, updates=6, batch_size=2, epochs=None)
    whole = Run.create(tmp_path / "whole", replace(TINY, training=training), world=WORLD).train(progress=False)
    part = Run.create(tmp_path / "part", replace(TINY, training=replace(training, epochs=1)), world=WORLD)
    part = part.train(progress=False).with_limits(epochs=5).train(resume=True, progress=False)
    weights = [load_file(run.folder / "model" / "weights.safetensors") for run in (whole, part)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_lines_say_how_long_training_takes(tmp_path, capfd):
    training = replace(TINY.training, updates=24, batch_size=2, epochs=None)
    Run.create(tmp_path / "run", replace(TINY, training=training), world=WORLD).train()
    lines = capfd.readouterr().err.splitlines()
    assert any(re.fullmatch(r"about \d+\.\d minutes of training", line) for line in lines)
    (first,) = (line for line in lines if line.startswith("epoch 0: 4 updates, validation loss"))
    assert re.search(r"minutes, about \d+\.\d left$", first)
    assert re.search(r"minutes$", next(line for line in lines if "24 updates" in line))


def test_training_stops_early_when_nothing_improves(tmp_path):
    settings = replace(TINY, training=replace(TINY.training, learning_rate=1.0, patience=2, epochs=200))
    run = Run.create(tmp_path / "run", settings, world=WORLD).train(progress=False)
    assert run.summary()["epochs"] < 200


def test_a_run_that_ended_by_its_patience_stays_ended_unless_it_is_given_more(tmp_path):
    training = replace(TINY.training, learning_rate=1.0, patience=1, epochs=200)
    run = Run.create(tmp_path / "run", replace(TINY, training=training), world=WORLD).train(progress=False)
    ended = run.summary()["epochs"]
    assert run.train(resume=True, progress=False).summary()["epochs"] == ended < 199
    assert run.with_limits(epochs=201).train(resume=True, progress=False).summary()["epochs"] > ended


@pytest.mark.parametrize("limit", [{"epochs": 2}, {"updates": 3}])
def test_a_run_that_had_ended_has_averaged_weights_when_it_is_resumed(limit, tmp_path):
    training = replace(TINY.training, average=0.9, **{"updates": None, "epochs": None, **limit})
    episode, states = Episode(some_views(4).to(torch.float32)), []
    both = [
        batches(Drawn(4, lambda rows, _: episode.rows(rows.tolist())), 2, 0, shuffle=shuffle)
        for shuffle in (True, False)
    ]
    for resume in (False, True):
        torch.manual_seed(0)
        model = make_gqn("gru")
        fit(model, *both, tmp_path, training, resume=resume, progress=False)
        states.append(model.state_dict())
    assert all(torch.equal(first, again) for first, again in zip(*(state.values() for state in states), strict=True))


def test_a_run_that_was_killed_before_its_first_checkpoint_is_resumed_from_the_start(tmp_path):
    run = Run.create(tmp_path / "run", TINY, world=WORLD)
    (run.folder / "checkpoints").mkdir()
    assert Run.open(run.folder).train(resume=True, progress=False).summary()["epochs"] == 3


def test_a_run_that_was_killed_before_its_config_is_begun_anew(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".1234.part").write_bytes(b"{")
    assert Run.create(tmp_path / "run", TINY, world=WORLD) == Run.open(tmp_path / "run")


def test_one_process_at_a_time_trains_a_run(once, tmp_path):
    run = replace(once, folder=Path(shutil.copytree(once.folder, tmp_path / "run")))
    with only_writer(run.folder, "train"), pytest.raises(ValueError, match="another process is writing into"):
        run.train(resume=True, progress=False)


def test_one_process_at_a_time_begins_a_run(tmp_path, monkeypatch):
    build = Settings.build

    def build_while_another_begins(settings, world):
        monkeypatch.setattr(Settings, "build", build)
        Run.create(tmp_path / "run", replace(TINY, model="lstm"), world=WORLD)
        return build(settings, world)

    monkeypatch.setattr(Settings, "build", build_while_another_begins)
    with pytest.raises(ValueError, match="exists already"):
        Run.create(tmp_path / "run", TINY, world=WORLD)
    assert Run.open(tmp_path / "run").settings.model == "lstm"


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 1e-5, "weight_decay": 0.1}, {"patience": 3}, {"average": 0.9}, {"seed": 5}]
)
def test_options_that_a_resumed_run_would_not_take_are_refused(once, tmp_path, changes):
    training = replace(TINY.training, **changes, epochs=4)
    folder = Path(shutil.copytree(once.folder, tmp_path / "run"))
    run = replace(once, folder=folder, settings=replace(TINY, training=training))
    before = (folder / LAST).read_bytes()
    name, value = next(iter(changes.items()))
    message = f"keeps its options except updates, epochs and minutes, got .*{name} {value} instead of "
    with pytest.raises(ValueError, match=message) as refused:
        run.train(resume=True, progress=False)
    assert "\n" not in str(refused.value)
    assert (folder / LAST).read_bytes() == before


@pytest.mark.parametrize("limit", ["updates", "epochs"])
def test_a_run_is_not_resumed_with_less_than_it_has_made(once, tmp_path, limit):
    folder = Path(shutil.copytree(once.folder, tmp_path / "run"))
    config, made = (folder / "config.json").read_bytes(), torch.load(folder / LAST, weights_only=True)
    number = made["global_step"] if limit == "updates" else made["epoch"] + 1
    with pytest.raises(
        ValueError, match=f"expected at least the {number} {limit} that the run has made, got 1; resume"
    ):
        Run.open(folder).with_limits(**{limit: 1}).train(resume=True, progress=False)
    assert (folder / "config.json").read_bytes() == config


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.update(optimizer_states=[]),
        lambda content: content["optimizer_states"][0].update(state={}),
        lambda content: content["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda content: content["optimizer_states"][0]["state"][0]["exp_avg_sq"].fill_(torch.nan),
        lambda content: content.update(epoch="a"),
        lambda content: content.update(global_step=-1),
        lambda content: content.update(loops={}),
    ],
)
def test_a_checkpoint_with_which_training_cannot_go_on_changes_nothing(once, tmp_path, spoil):
    folder = Path(shutil.copytree(once.folder, tmp_path / "run"))
    content = torch.load(folder / LAST, weights_only=True)
    spoil(content)
    torch.save(content, folder / LAST)
    before = (folder / "config.json").read_bytes()
    with pytest.raises(ValueError, match="is not a checkpoint that training wrote") as refused:
        Run.open(folder).with_limits(epochs=5).train(resume=True, progress=False)
    assert "\n" not in str(refused.value)
    assert (folder / "config.json").read_bytes() == before


def test_training_that_diverges_is_said_and_leaves_no_summary(tmp_path):
    run = Run.create(tmp_path / "run", replace(TINY, training=Training(1e6, 4, epochs=3)), world=WORLD)
    with pytest.raises(Diverged, match="training diverged, the validation loss of epoch 0 is nan; no weights") as error:
        run.train(progress=False)
    assert "\n" not in str(error.value)
    assert not (run.folder / "summary.json").exists()


def test_the_validation_loss_is_the_mean_over_all_targets_however_they_are_batched(tmp_path):
    """Of sequences of unequal length, and one of which nothing is to be predicted."""
    views = some_views(batch=8, steps=12).to(torch.float32)
    ends = torch.tensor([12, 12, 12, 2, 3, 12, 1, 3])
    episode = Episode(views.keep((torch.arange(12) < ends[:, None])[..., None]))
    train, validation = (Drawn(4, lambda rows, _, at=at: episode.rows((at + rows).tolist())) for at in (0, 4))
    for size in (4, 3, 1):
        model, folder = make_s2rm(), tmp_path / f"{size}"
        loaders = batches(train, 4, 0, shuffle=True), batches(validation, size, 0, shuffle=False)
        ended = fit(model, *loaders, folder, Training(learning_rate=1e-3, epochs=1), progress=False)
        whole = load(folder / "model").loss_terms(episode.rows([4, 5, 6, 7]))
        assert ended["val_loss"] == pytest.approx(sum(mean.value.item() for mean in whole.values()), rel=1e-5)


def test_a_second_fit_in_a_folder_has_its_own_curve(tmp_path):
    loader = DataLoader([Episode(some_views().to(torch.float32))], batch_size=None)
    mine = tmp_path / "logs" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    for epochs in (3, 1):
        fit(make_s2rm(), loader, loader, tmp_path, Training(epochs=epochs), progress=False)
        assert len(history(tmp_path)) == epochs
    assert mine.exists(), "what others wrote there stays"


def test_training_that_diverges_late_keeps_the_best_before(tmp_path, monkeypatch):
    run = Run.create(tmp_path / "run", TINY, world=WORLD)
    losses = Lesson.loss

    def diverge(lesson, episode):
        return losses(lesson, episode) * (math.nan if lesson.current_epoch == 2 else 1)

    monkeypatch.setattr(Lesson, "loss", diverge)
    with pytest.raises(ValueError, match="of epoch 2 is nan; the best weights before, of validation loss .* are kept"):
        run.train(progress=False)
    assert run.load_model().num_parameters == run.summary()["parameters"]
    assert (run.summary()["epochs"], math.isfinite(run.summary()["val_loss"])) == (2, True)


def test_checkpoints_of_something_else_are_refused(once, tmp_path):
    run = replace(once, folder=Path(shutil.copytree(once.folder, tmp_path / "run")))
    good = torch.load(run.folder / LAST, weights_only=True)
    (optimizer,), state = good["optimizer_states"], good["state_dict"]
    for content in (
        [1, 2], {}, {**good, "state_dict": {name: torch.zeros(3, 3) for name in state}},
        {**good, "state_dict": {name: value * math.nan for name, value in state.items()}},
        {**good, "optimizer_states": [{**optimizer, "state": {0: {"step": "x"}}, "param_groups": []}]},
        {**good, "loops": {}}, {**good, "callbacks": [1]}, {**good, "training": {"learning_rate": "fast"}},
    ):  # fmt: skip
        torch.save(content, run.folder / LAST)
        with pytest.raises(ValueError, match="is not a checkpoint that training wrote") as error:
            run.with_limits(epochs=4).train(resume=True, progress=False)
        assert "\n" not in str(error.value)


def test_a_run_that_was_stopped_anywhere_is_finished(tmp_path):
    folder = tmp_path / "run"
    Run.create(folder, TINY, world=WORLD)
    run = Run.finished(folder, TINY, world=WORLD)
    assert run.summary()["epochs"] == 3
    before = (folder / LAST).read_bytes()
    assert Run.finished(folder, TINY, world=WORLD) == run
    assert (folder / LAST).read_bytes() == before
    with pytest.raises(ValueError, match="holds a run of other settings; delete it or choose another folder"):
        Run.finished(folder, replace(TINY, model="lstm"), world=WORLD)


def test_new_limits_are_kept_once_they_are_taken(once, tmp_path):
    run = replace(once, folder=Path(shutil.copytree(once.folder, tmp_path / "run")))
    before = (run.folder / "config.json").read_bytes()
    with only_writer(run.folder, "train"), pytest.raises(ValueError, match="another process"):
        run.with_limits(epochs=4).train(resume=True, progress=False)
    good = (run.folder / LAST).read_bytes()
    (run.folder / LAST).write_bytes(b"")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        run.with_limits(epochs=4).train(resume=True, progress=False)
    assert (run.folder / "config.json").read_bytes() == before
    (run.folder / LAST).write_bytes(good)
    run.with_limits(epochs=4).train(resume=True, progress=False)
    assert Run.open(run.folder).settings.training.epochs == 4


def test_tampered_checkpoints_and_summaries_are_refused(once, tmp_path):
    run = replace(once, folder=Path(shutil.copytree(once.folder, tmp_path / "run")))
    for content in (pickle.dumps(print), b"", (run.folder / LAST).read_bytes()[:-99]):
        (run.folder / LAST).write_bytes(content)
        with pytest.raises(ValueError, match="is not a checkpoint that training wrote, and is not opened") as error:
            run.train(resume=True)
        assert "\n" not in str(error.value)
    for content in ("{}", "{", "[]"):
        (run.folder / "summary.json").write_text(content)
        with pytest.raises(ValueError, match="is not a run's summary"):
            run.summary()


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_files_can_be_read_by_others_as_usual(tmp_path):
    write_whole(tmp_path / "ours", b"")
    (tmp_path / "usual").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "expected a run folder with config.json, found none"),
        (lambda path: path.write_text("{"), "is not a run's config"),
        (lambda path: path.write_text('{"format": 4}'), "has format 4, this version reads 3; update"),
        (lambda path: path.write_text('{"format": 2}'), "has format 2, this version reads 3; train again"),
        (
            lambda path: path.write_text('{"format": 3, "model": "lstm", "training": {}, "world": {}, "x": 1}'),
            "are not those of a run",
        ),
        (
            lambda path: path.write_text(path.read_text().replace("s2gru", "gpt")),
            "expected one of s2gru, .* got 'gpt' @ ..model",
        ),
        (
            lambda path: path.write_text(path.read_text().replace('"num_frames": 48', f'"num_frames": {10**300}')),
            "expected at most 1e[+]12 values in all, got 8 x 10",
        ),
        (lambda path: path.write_text(path.read_text().replace('"balls"', '["balls"]')), "the task in .* must be one"),
    ],
)
def test_broken_run_folders_are_refused(change, message, tmp_path):
    run = Run.create(tmp_path / "run", TINY, world=WORLD)
    change(run.folder / "config.json")
    with pytest.raises(ValueError, match=message):
        Run.open(run.folder)


@pytest.mark.parametrize(
    "name", ["learning_rate", "batch_size", "updates", "epochs", "minutes", "patience", "gradient_norm", "recompute"]
)
def test_impossible_training_is_refused(name):
    none = 0 if name in ("batch_size", "updates", "epochs", "patience", "recompute") else 0.0
    with pytest.raises(ValueError, match=f"training: {name} must be positive, got {none}"):
        replace(Training(), **{name: none})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("minutes", math.inf, "minutes must be finite"), ("gradient_norm", math.inf, "gradient_norm must be finite"),
        ("weight_decay", math.nan, "weight_decay must be finite"), ("minutes", 1e300, "at most 1e[+]12"),
        ("seed", 2**63, "seed must have at most 64 bits"), ("warmup", -1, "warmup must be at least 0, got -1"),
        ("warmup", 5, "expected a warmup of fewer updates than the updates of the training, got 5 of None"),
    ],
)  # fmt: skip
def test_numbers_that_training_cannot_take_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(Training(), **{name: value})


def test_a_run_without_time_for_a_validation_is_refused_and_goes_on_with_more(tmp_path):
    training = replace(TINY.training, epochs=1, minutes=1e-9, seed=2**63 - 1)
    run = Run.create(tmp_path / "run", replace(TINY, training=training), world=WORLD)
    with pytest.raises(ValueError, match="before its first validation, so no weights were kept; take more minutes"):
        run.train(progress=False)
    assert not (run.folder / "summary.json").exists()
    run.with_limits(minutes=10).train(resume=True, progress=False)
    assert run.summary()["epochs"] == 1
    # Without time for more, what the summary says stays.
    run.with_limits(minutes=1e-9, epochs=5).train(resume=True, progress=False)
    assert run.summary()["epochs"] == 1


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_nothing_to_train_on_is_refused(empty, tmp_path):
    episodes = Drawn(4, lambda rows, _: Episode(some_views()).rows((rows % 2).tolist()))
    nothing = Drawn(0, episodes.draw)
    parts = [batches(nothing if name == empty else episodes, 2, 0, False) for name in ("train", "validation")]
    with pytest.raises(ValueError, match=f"fit: {empty} holds no episode"):
        fit(make_s2rm(), *parts, tmp_path, Training(epochs=1), progress=False)


def test_recomputing_trains_the_same(tmp_path):
    ended = []
    for recompute in (None, 7):
        training = replace(TINY.training, epochs=2, recompute=recompute)
        run = Run.create(tmp_path / str(recompute), replace(TINY, training=training), world=WORLD).train()
        ended.append([epoch["train_loss"] for epoch in history(run.folder)])
    assert ended[0] == pytest.approx(ended[1], rel=1e-5)


def test_bfloat16_trains_nearly_the_same(tmp_path):
    ended = []
    for precision in ("32-true", "bf16-mixed"):
        training = replace(TINY.training, epochs=1, precision=precision)
        ended.append(
            Run.create(tmp_path / precision, replace(TINY, training=training), world=WORLD)
            .train()
            .summary()["val_loss"]
        )
    assert ended[0] != ended[1] == pytest.approx(ended[0], rel=0.01)
    with pytest.raises(ValueError, match="32-true, bf16-mixed, auto, got '8-true'"):
        Training(precision="8-true")


@pytest.fixture
def trials(monkeypatch):
    """Short runs have trials too, and a processor has products in bfloat16; what the trials are to find."""
    found = []
    monkeypatch.setattr("s2rm.training.precision.has_bfloat16", lambda: True)
    monkeypatch.setattr("s2rm.training.precision.LEAST_UPDATES", 1)
    monkeypatch.setattr("s2rm.training.precision.gain", lambda *_: found.pop())
    return found


def test_bfloat16_is_chosen_where_a_trial_shows_it_faster_and_stays(trials, tmp_path, capsys):
    trials += [1.05, 1.5]
    training = replace(TINY.training, updates=1, epochs=None, precision="auto")
    runs = [Run.create(tmp_path / name, replace(TINY, training=training), world=WORLD).train() for name in "ab"]
    assert [run.summary()["precision"] for run in runs] == ["bf16-mixed", "32-true"]
    assert "precision: bfloat16, 1.5 times as fast as float32 in a trial on the first batch" in capsys.readouterr().err
    again = runs[0].with_limits(updates=2).train(resume=True)
    assert again.summary()["updates"] == 2
    assert again.summary()["precision"] == "bf16-mixed", "without another trial"
    assert not trials


def test_data_of_unknown_length_have_a_trial_too(trials):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield Episode(Views(torch.rand(2, 4, 3, 2), torch.rand(2, 4, 3, 11, 11)))

    trials += [1.5]
    model = Settings().build(WORLD)
    assert settled(Training(precision="auto"), model, DataLoader(Endless(), None), False).precision == "bf16-mixed"


def test_no_trial_is_made_where_none_can_pay(trials, tmp_path, monkeypatch):
    training = replace(TINY.training, updates=1, epochs=None, precision="auto")
    monkeypatch.setattr("s2rm.training.precision.LEAST_UPDATES", 2)
    assert Run.create(tmp_path / "short", replace(TINY, training=training), world=WORLD).train().summary()[
        "precision"
    ] == "32-true"  # fmt: skip
    monkeypatch.setattr("s2rm.training.precision.LEAST_UPDATES", 1)
    monkeypatch.setattr("s2rm.training.precision.has_bfloat16", lambda: False)
    assert Run.create(tmp_path / "old", replace(TINY, training=training), world=WORLD).train().summary()[
        "precision"
    ] == "32-true"  # fmt: skip


def test_a_trial_leaves_model_and_random_numbers_as_they_are():
    model, batch = TINY.build(WORLD), episodes(WORLD, "train", 0)[[0, 1], 0]
    before, state = {name: part.clone() for name, part in model.state_dict().items()}, torch.get_rng_state()
    assert 0 < gain(model, batch) < 100
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_batches_are_a_function_of_seed_and_epoch():
    keys = Batches(10, 4, seed=3, shuffle=True)
    first, second = list(keys), list(keys)
    assert [len(rows) for rows, _ in first] == [4, 4, 2] == [4] * 2 + [len(keys) - 1]
    assert sorted(row for rows, _ in first for row in rows) == list(range(10))
    assert second != first, "each pass is an epoch"
    keys.set_epoch(1)
    assert list(keys) == second
    keys.set_epoch(0)
    assert list(keys) == first
    fixed = Batches(10, 4, seed=3, shuffle=False)
    once = list(fixed)
    fixed.set_epoch(5)
    assert list(fixed) == once
    assert [rows for rows, _ in once] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_whole_files_leave_nothing_half_written(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"one")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_names_machine_and_commit():
    with warnings.catch_warnings():
        made = provenance()
    assert all(made[name] for name in ("command", "commit", "hardware", "torch"))


def test_each_term_of_a_mixed_loss_is_logged_in_validation(tmp_path):
    shape = (14, 2, 3)
    model = make_s2rm(value_shape=shape, likelihood="mixed")
    given = [Episode(some_views(rows, value_shape=shape).to(torch.float32)) for rows in (3, 1)]
    loader = DataLoader(given, batch_size=None)
    training = Training(epochs=1, batch_size=3, learning_rate=1e-9)
    ended = fit(model, loader, loader, tmp_path, training, progress=False)
    (epoch,) = history(tmp_path)
    model.eval()
    one, other = (model.loss_terms(episode) for episode in given)
    for name in ("friendly", "type", "hecs"):
        expected = (one[name] + other[name]).value  # the mean over the targets of both batches
        assert epoch[f"val_{name}"] == pytest.approx(expected.item(), rel=1e-5)
        assert f"train_{name}" not in epoch
    assert epoch["val_loss"] == pytest.approx(sum(epoch[f"val_{name}"] for name in one))
    assert ended["val_loss"] == pytest.approx(epoch["val_loss"])


def test_a_loss_of_one_term_is_logged_once(tmp_path):
    loader = DataLoader([Episode(some_views().to(torch.float32))], batch_size=None)
    fit(make_s2rm(), loader, loader, tmp_path, Training(epochs=1), progress=False)
    names = {name for name in history(tmp_path)[0] if name.startswith(("val", "train"))}
    assert names == {"train_loss", "val_loss"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"updates": 2.5}, "updates must be a whole number, got 2.5"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"seed": np.float64(1)}, "seed must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"minutes": "8"}, "minutes must be a number, got '8'"),
        ({"unit_variance": 1}, "unit_variance must be True or False"),
    ],
)
def test_options_of_another_type_are_refused(changes, told):
    with unchecked_shapes(), pytest.raises(ValueError, match=f"^training: {told}"):
        Training(**changes)


@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_part_in_which_nothing_is_predicted_is_refused(part, tmp_path):
    views = some_views().to(torch.float32)
    empty = Episode(Views(views.positions, views.values, torch.zeros_like(views.mask)))
    loaders = [DataLoader([empty if part == name else Episode(views)] * 2, batch_size=None) for name in PARTS]
    with pytest.raises(ValueError, match=f"fit: expected something to predict in the {part}"):
        fit(make_gqn(), *loaders, tmp_path, Training(updates=2), progress=False)
    assert not (tmp_path / "model").exists()


def test_one_batch_of_the_training_may_have_nothing_to_predict(tmp_path):
    views = some_views().to(torch.float32)
    empty = Episode(Views(views.positions, views.values, torch.zeros_like(views.mask)))
    train = DataLoader([empty, Episode(views), empty], batch_size=None)
    assert fit(make_gqn(), train, train, tmp_path, Training(epochs=2), progress=False)["updates"] == 6


@pytest.mark.parametrize("before", [False, True])
def test_algorithms_are_deterministic_afterwards_only_if_they_were_before(before, tmp_path):
    loader = DataLoader([Episode(some_views().to(torch.float32))], batch_size=None)
    torch.use_deterministic_algorithms(before)
    try:
        fit(make_gqn(), loader, loader, tmp_path, Training(updates=1), progress=False)
        assert torch.are_deterministic_algorithms_enabled() == before
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("before", [None, ":16:8"])
def test_the_workspace_of_cublas_is_afterwards_what_it_was(before, tmp_path, monkeypatch):
    """Lightning sets it for deterministic algorithms; programs that the caller starts later would inherit it."""
    loader = DataLoader([Episode(some_views().to(torch.float32))], batch_size=None)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    if before is not None:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", before)
    fit(make_gqn(), loader, loader, tmp_path, Training(updates=1), progress=False)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == before


def test_denormal_numbers_are_zero_in_all_threads_while_training(tmp_path):
    tiny, threads = torch.full((1 << 20,), 2e-38, dtype=torch.float32), torch.get_num_threads()
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot take them for zero")

    def count():
        return torch.count_nonzero(tiny * 0.25).item()

    torch.set_num_threads(2)
    model, counted, loader = make_gqn(), [], DataLoader([Episode(some_views().to(torch.float32))], batch_size=None)
    try:
        assert count() == len(tiny), "and OpenMP's threads are there"
        model.encoder.register_forward_pre_hook(lambda *_: counted.append(count()))
        fit(model, loader, loader, tmp_path, Training(updates=1, unit_variance=False), progress=False)
        assert set(counted) == {0}
        assert count() == len(tiny), "as before"
        assert not flush_denormals()
        assert flush_denormals(False)
        assert count() == len(tiny)
    finally:
        torch.set_num_threads(threads)


def test_one_thread_computes_where_it_is_asked_for():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert one_thread()(torch.get_num_threads)() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_numbers_of_numpy_are_numbers():
    training = Training(learning_rate=np.logspace(-3, -2, 2)[0], gradient_norm=np.float64(1))
    assert {type(one) for one in (training.learning_rate, training.gradient_norm)} == {float}
    with unchecked_shapes():
        machines = Machines(devices=np.int64(2))
        settings = Settings(corrects=np.bool_(True), rotation=np.float32(2), core=Core(hidden_size=np.int64(24)))
    assert type(machines.devices) is int
    assert json.loads(json.dumps(asdict(settings)))["core"]["hidden_size"] == 24
