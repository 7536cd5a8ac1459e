"""Two processes on a CPU must do what one does with the whole batch."""

import copy
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file

from conftest import make_gqn, make_s2rm, some_views
from s2rm import Episode
from s2rm.runs import Run
from s2rm.sensors import FieldWorld, Fit, Forecaster, pack, read_reports, to_frame
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.training import LAST, Lesson, Machines, Training, history
from test_msa import make_msa
from test_training import finish, s2rm, wait_for

# 8 training sequences: batches of 3, 3 and 2. 4 to validate: 3 and 1, of which the second process has none.
WORLD = preset("tiny")
SETTINGS = Settings(model="lstm", training=Training(epochs=3, batch_size=3))
TRAIN = ["train", "balls", "--size", "tiny", "--model", "lstm", "--batch-size", "3"]
BOTH = ["--devices", "2", "--strategy", "ddp"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Run:
    """The run that one process makes."""
    return Run.create(tmp_path_factory.mktemp("alone") / "run", SETTINGS, world=WORLD).train(progress=False)


def assert_same(run: Run, other: Run) -> None:
    """The same losses after each epoch and the same best weights, but for rounding."""
    for name in ("train_loss", "val_loss", "learning_rate", "step"):
        ours, expected = ([epoch[name] for epoch in history(each.folder)] for each in (run, other))
        assert ours == pytest.approx(expected, rel=1e-6), name
    weights, expected = (load_file(each.folder / "model" / "weights.safetensors") for each in (run, other))
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=0, atol=1e-5, msg=name)
    for name in ("epochs", "updates", "parameters", "seed"):
        assert run.summary()[name] == other.summary()[name]


def test_two_processes_train_as_one_and_write_and_speak_once(alone, tmp_path):
    output = finish(s2rm(*TRAIN, "--epochs", "3", *BOTH, "--out", tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    assert_same(run, alone)
    trained = replace(SETTINGS, training=replace(SETTINGS.training, precision="auto"))
    assert run.settings == trained, "how it is run is not what is trained"
    assert run.summary()["precision"] == "32-true"
    epochs = [rf"epoch {number}: \d updates, validation loss \S+ \S+ minutes, about \S+ left" for number in range(2)]
    epochs.append(r"epoch 2: 9 updates, validation loss \S+ \S+ minutes(, about \S+ left)?")
    end = r"[^:]+: validation loss \S+ nats after 3 epochs, 9 updates, \S+ minutes"
    assert re.fullmatch(" ".join([r"LSTM: \S+ parameters", *epochs, end]), " ".join(output.split())), output
    ours, expected = (
        sorted(path.name.split(".")[0] for path in each.folder.rglob("*") if path.is_file()) for each in (run, alone)
    )
    assert ours == expected, "one set of logs and of checkpoints"


def test_a_run_goes_on_on_another_number_of_processes(tmp_path):
    run = Run.create(tmp_path / "run", SETTINGS, world=WORLD).train(progress=False)
    output = finish(s2rm("train", "--resume", run.folder, "--epochs", "5", *BOTH))
    assert output.count("epoch 3: ") == output.count("epoch 4: ") == 1
    run = Run.open(run.folder).with_limits(epochs=6).train(resume=True, progress=False)
    longer = replace(SETTINGS, training=replace(SETTINGS.training, epochs=6))
    assert_same(run, Run.create(tmp_path / "other", longer, world=WORLD).train(progress=False))


def test_torchrun_starts_the_processes(alone, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "s2rm.cli"]
    command = [*torchrun, *TRAIN, "--epochs", "3", "--devices", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 0: ") == 1
    assert_same(Run.open(tmp_path / "run"), alone)


def test_a_process_does_not_wait_for_the_first_to_write_the_config(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    monkeypatch.setattr("s2rm.runs.fit", lambda *_, **__: {})
    Run.create(tmp_path / "run", SETTINGS, world=WORLD).train(progress=False)
    assert not (tmp_path / "run").exists(), "the first process alone writes"


def test_every_kind_of_model_trains_in_two_processes(tmp_path):
    models = {name: {"model": name} for name in ("s2gru", "s2rmc", "rims", "rmc")}
    models["latent"] = {"model": "s2gru", "latent_size": 3, "blind_steps": 0.5}
    script = tmp_path / "script.py"
    script.write_text(f"""
from pathlib import Path
from s2rm.runs import Run
from s2rm.sensors import FieldWorld, Fit, Forecaster, pack, read_reports, to_frame
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.training import Machines, Training

for name, how in {models}.items():
    settings = Settings(**how, training=Training(epochs=1, batch_size=4))
    Run.create(Path(__file__).parent / name, settings, world=preset("tiny")).train(machines=Machines(devices=2))
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name, how in models.items():
        settings = replace(SETTINGS, **how, training=Training(epochs=1, batch_size=4))
        assert_same(
            Run.open(tmp_path / name),
            Run.create(tmp_path / "alone" / name, settings, world=WORLD).train(progress=False),
        )


FITTED = Fit(num_modules=2, hidden_size=4, context=12, horizon=6, training=Training(epochs=2, batch_size=4))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small store."""
    reports = FieldWorld(num_stations=6, num_movers=0, num_steps=90).reports()
    folder = tmp_path_factory.mktemp("packed") / "store"
    pack([to_frame(reports)], reports.columns, folder)
    return folder


def test_two_processes_fit_a_forecaster_to_one_store_as_one_does(store, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import json
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

import s2rm.sensors.fitting as fitting
from s2rm.sensors import Fit, Forecaster, read_reports
from s2rm.sensors.mapped import is_mapped
from s2rm.training import Machines, Training

here, reports, train = Path(__file__).parent, read_reports({str(store)!r}), fitting.fit

def told(model, *given, **options):
    ended = train(model, *given, **options)
    about = {{"mapped": is_mapped(reports.values), "file": str(reports.values.filename)}}
    (here / f"{{rank_zero_only.rank}}.json").write_text(json.dumps(about))
    torch.save(model.state_dict(), here / f"{{rank_zero_only.rank}}.pt")
    return ended

fitting.fit = told
how = Fit(num_modules=2, hidden_size=4, context=12, horizon=6, training=Training(epochs=2, batch_size=4))
Forecaster.fit(reports, here / "run", how, progress=False, machines=Machines(devices=2))
print("ended")
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ended"], "only the first process goes on after the fit"
    about = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert about[0] == about[1]
    assert about[0]["mapped"]
    assert str(store) in about[0]["file"]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name
    alone = Forecaster.fit(read_reports(store), tmp_path / "alone", FITTED, progress=False)
    both = Forecaster.load(tmp_path / "run")
    for name, weights in alone.model.state_dict().items():
        torch.testing.assert_close(both.model.state_dict()[name], weights, rtol=0, atol=1e-5, msg=name)
    assert both.guess.logits == alone.guess.logits
    assert history(tmp_path / "run")[-1]["val_loss"] == pytest.approx(history(tmp_path / "alone")[-1]["val_loss"])


def test_the_command_fits_on_several_devices_and_speaks_once(store, tmp_path):
    command = ["fit", store, "--out", tmp_path / "run", "--context", "12", "--horizon", "6", "--num-modules", "2"]
    command += ["--hidden-size", "4", "--epochs", "1", "--batch-size", "4"]
    output = finish(s2rm(*command, "--devices", "2"))
    for said in ("observations of 6 stations", "epoch 0: ", "scores: ", "report: "):
        assert output.count(said) == 1, output
    assert "devices" not in (tmp_path / "run" / "fit.json").read_text(), "how it is run is not what is fitted"
    Forecaster.load(tmp_path / "run")


def test_ctrl_c_ends_all_processes(tmp_path):
    process = s2rm(*TRAIN, "--epochs", "100000", *BOTH, "--out", tmp_path / "run")
    wait_for(tmp_path / "run" / LAST, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)  # until the last process has closed it
    assert process.returncode == 130, output
    assert output.count("saved files are kept") == 1
    assert "Traceback" not in output
    torch.load(tmp_path / "run" / LAST, weights_only=True)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_add_up_to_the_whole_batch(processes, monkeypatch):
    model = make_gqn().double()
    targets = some_views(batch=5, views=4)
    targets.mask[1, 2:] = False  # rows of unlike numbers of targets
    targets.values[2, 3, 0, 0] = torch.nan
    episode = Episode(some_views(batch=5), targets)
    (mean_of_whole,) = model.loss_terms(episode).values()
    whole = mean_of_whole.value
    expected = torch.autograd.grad(whole, list(model.parameters()))
    lesson = Lesson(model, Training())
    logged = []
    monkeypatch.setattr(lesson, "log", lambda name, value, batch_size, **_: logged.append(batch_size))
    losses, counts = [], []
    for rank in range(processes):
        strategy = SimpleNamespace(reduce=lambda count, reduce_op: counts.append(int(count)) or mean_of_whole.count)
        lesson._trainer = SimpleNamespace(world_size=processes, global_rank=rank, strategy=strategy)
        losses.append(lesson.training_step(episode, 0))
    assert sum(counts) == (mean_of_whole.count if processes > 1 else 0), "what a sum over processes would be"
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(mean, whole, rtol=1e-12, atol=0)
    gradients = torch.autograd.grad(mean, list(model.parameters()))
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)
    assert logged == [5] * processes


@pytest.mark.parametrize("recompute", [None, 2])
@pytest.mark.parametrize("processes", [2, 3, 7])
@pytest.mark.parametrize("make", [partial(make_s2rm, latent_size=4), make_msa], ids=["latent", "msa"])
def test_shares_of_models_that_draw_add_up_to_the_whole_batch(make, processes, recompute):
    model, views = make().double(), some_views(batch=5, steps=6)
    episode = Episode(views.keep(torch.arange(6)[:, None] < 4), views)
    count = next(iter(copy.deepcopy(model).loss_terms(episode).values())).count

    def gradients(processes, rank):
        """The loss of a process, its gradients, and what its generator draws next."""
        own, strategy = copy.deepcopy(model), SimpleNamespace(reduce=lambda mine, reduce_op: count)
        lesson = Lesson(own, Training(recompute=recompute))
        lesson.log = lambda *given, **named: None
        lesson._trainer = SimpleNamespace(world_size=processes, global_rank=rank, strategy=strategy)
        torch.manual_seed(3)
        loss = lesson.training_step(episode, 0)
        return loss.detach(), torch.autograd.grad(loss, [*own.parameters()]), torch.rand(())

    whole, expected, after = gradients(1, 0)
    losses, made, later = zip(*(gradients(processes, rank) for rank in range(processes)), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), whole, rtol=1e-12, atol=0)
    for ours, theirs in zip(zip(*made, strict=True), expected, strict=True):
        torch.testing.assert_close(torch.stack(ours).mean(0), theirs, rtol=1e-9, atol=1e-13)
    assert all(torch.equal(each, after) for each in later), "the generators of all processes stay alike"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices must be at least 1, got 0"),
        ({"num_nodes": -1}, "num_nodes must be at least 1, got -1"),
        ({"strategy": "fsdp"}, "strategy must be one of auto, ddp, ddp_find_unused_parameters_true, got 'fsdp'"),
    ],
)
def test_impossible_machines_are_refused(options, message):
    with pytest.raises(ValueError, match=f"machines: {message}"):
        Machines(**options)


@pytest.mark.parametrize(
    ("environment", "machines"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4"}, Machines()),
        ({"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4"}, Machines(devices=2)),
        ({}, Machines(num_nodes=2)),
    ],
)
def test_processes_of_another_number_are_refused(environment, machines, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"machines: devices \d and num_nodes \d are \d processes, got \d; start as"):
        machines.trainer()


def test_missing_devices_are_one_line(monkeypatch):
    def refuse(**_):
        raise MisconfigurationException("You requested gpu: [0, 1]\n But your machine only has: [0]")

    monkeypatch.setattr(L, "Trainer", refuse)
    with pytest.raises(ValueError, match=r"machines: You requested gpu: \[0, 1\] But your machine only has: \[0\]"):
        Machines(devices=2).trainer()
