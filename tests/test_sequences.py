"""Copying, adding and sequential MNIST: the data, the models, the scores, and the commands."""

import gzip
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from conftest import unchecked_shapes
from s2rm import RIMs, load
from s2rm.cli import main
from s2rm.export import SequenceStep
from s2rm.models.saved import load_any
from s2rm.models.sequence_model import CORES, SequenceModel, remember
from s2rm.nn.recurrent import GroupedGRUCell
from s2rm.records import from_plain, to_plain
from s2rm.runs import TASKS, Run
from s2rm.sequences import Sequences
from s2rm.settings import Core, Settings
from s2rm.tasks.sequences import Adding, Copying, Mnist, episodes, score
from s2rm.tasks.sequences.images import read_digits, resized
from s2rm.tasks.sequences.mnist import with_files
from s2rm.tasks.sequences.scores import constant, scores
from s2rm.training import Training

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"
OFFICIAL = tuple(str(MNIST / f"t10k-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def idx(path, array, code=8):
    """A file in MNIST's format."""
    content = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def digits():
    """Thirty images of 5 x 5 pixels, whose first pixels count them, and their labels."""
    images = np.zeros((30, 5, 5), np.uint8)
    images[:, 0, 0] = np.arange(30)
    return images, np.arange(30, dtype=np.uint8) % 10


def test_copying_shows_digits_blanks_a_mark_and_blanks():
    batch = Copying(digits=3).draw("train", torch.arange(4), rng(), size=5)
    symbols = batch.inputs.argmax(-1)
    assert batch.inputs.sum(-1).eq(1).all()
    assert batch.inputs.shape == (4, 3 + 5 + 3, 10)
    torch.testing.assert_close(symbols[:, :3], batch.targets + 1)
    assert symbols[:, 3:].unique(dim=0).tolist() == [[0, 0, 0, 0, 0, 9, 0, 0]]
    assert Copying(digits=3, fewest=7, blank=7).draw("train", torch.arange(1), rng()).inputs.shape == (1, 13, 10)


def test_batches_of_copying_have_many_numbers_of_blanks_in_training_and_one_elsewhere():
    """Of one number alone, models learn to count them."""
    copying = Copying(digits=3, fewest=5, blank=9)
    lengths = {split: {copying.draw(split, torch.arange(3), rng(seed)).inputs.shape[1] for seed in range(200)}
               for split in ("train", "val")}  # fmt: skip
    assert lengths == {"train": set(range(11, 16)), "val": {15}}
    assert copying.model_arguments()["memory"] == 406, "the longest of the test"
    with pytest.raises(ValueError, match="expected fewest of at most blank, 4, got 5; lower it or raise blank"):
        Copying(fewest=5, blank=4)


def test_settings_of_copying_from_before_there_were_fewest_blanks_are_read():
    assert [from_plain(Copying, {"blank": blank}).fewest for blank in (0, 3, 50)] == [0, 3, 10]
    assert from_plain(Copying, to_plain(Copying(blank=3))) == Copying(blank=3, fewest=3)


def test_images_have_many_sizes_in_training_and_one_else():
    digits = Mnist(smallest=4, pixels=6)
    sides = {split: {digits.draw(split, torch.arange(2), rng(seed)).inputs.shape[1] for seed in range(50)}
             for split in ("train", "val")}  # fmt: skip
    assert sides == {"train": {16, 25, 36}, "val": {36}}
    assert Mnist().smallest == 10
    assert Mnist(pixels=8).smallest == 8, "as in those of before"
    assert TASKS["mnist"].preset("paper").smallest == 14
    assert digits.model_arguments()["memory"] == 24**2, "the longest of the test"
    with pytest.raises(ValueError, match="expected pixels of at least 9, got 8"):
        Mnist(smallest=9, pixels=8)


def test_adding_marks_one_number_of_each_half():
    batch = Adding().draw("train", torch.arange(500), rng(), size=7)
    numbers, first, second = batch.inputs.unbind(-1)
    assert batch.targets.shape == (500, 1)
    torch.testing.assert_close(batch.targets[:, 0], (numbers * (first + second)).sum(1))
    for marks, expected in ((first, {0, 1, 2}), (second, {3, 4, 5, 6})):
        assert marks.sum(1).eq(1).all()
        assert set(marks.argmax(1).tolist()) == expected


def test_batches_of_adding_have_many_lengths_in_training_and_one_elsewhere():
    """Of one length alone, models learn to count its steps."""
    adding, paper = Adding(length=9), Adding(shortest=9, length=9)
    lengths = {split: {adding.draw(split, torch.arange(3), rng(seed)).inputs.shape[1] for seed in range(200)}
               for split in ("train", "val")}  # fmt: skip
    assert lengths == {"train": set(range(2, 10)), "val": {9}}
    assert {paper.draw("train", torch.arange(3), rng(seed)).inputs.shape[1] for seed in range(20)} == {9}
    assert adding.model_arguments()["memory"] == 200, "the longest of the test"
    with pytest.raises(ValueError, match="expected length of at least 8, got 7"):
        Adding(shortest=8, length=7)


def test_pixels_are_those_of_the_nearest_old_one():
    image = torch.arange(9, dtype=torch.uint8).view(1, 3, 3)
    assert resized(image, 2)[0].tolist() == [[0, 2], [6, 8]]
    assert resized(image, 5)[0, 0].tolist() == [0, 0, 1, 2, 2]
    torch.testing.assert_close(resized(image, 3), image)


def test_digits_come_from_files_one_split_from_another(digits, tmp_path):
    images, labels = digits
    np.savez(tmp_path / "all.npz", images=images, labels=labels)
    names = tuple(str(idx(tmp_path / name, part)) for name, part in (("i.gz", images), ("l", labels)))
    packed, plain = read_digits((str(tmp_path / "all.npz"),)), read_digits(names)
    assert all(torch.equal(*pair) for pair in zip(packed, plain, strict=True))
    world = Mnist(pixels=5, threshold=3, train_files=names)
    assert [world.num_sequences(split) for split in ("train", "val", "test")] == [22, 2, 6]
    first = {split: world.digits(split).images[:, 0, 0].tolist() for split in ("train", "val", "test")}
    others = [number for number in range(30) if number % 5 != 4]
    kept = [number for place, number in enumerate(others) if place % 10 != 9]
    assert first == {"train": kept, "val": [others[9], others[19]], "test": [4, 9, 14, 19, 24, 29]}
    batch = world.draw("train", torch.tensor([3, 4]), rng())
    assert kept[3:5] == [3, 5]
    assert batch.inputs.shape == (2, 25, 1)
    assert batch.inputs[:, 0, 0].tolist() == [0, 1], "above the threshold, and not above it"
    assert batch.targets.tolist() == [[3], [5]]
    fewer = replace(world, train_sequences=11).draw("train", torch.tensor([0, 1, 10]), rng())
    assert fewer.targets[:, 0].tolist() == [kept[place] % 10 for place in (0, 2, 20)]
    both = replace(world, test_files=names)
    assert [both.num_sequences(split) for split in ("train", "val", "test")] == [27, 3, 30]


def test_files_of_digits_that_teach_or_test_nothing(digits, tmp_path):
    images, labels = digits
    path = tmp_path / "all.npz"
    np.savez(path, images=images > 3, labels=labels)
    np.savez(path, images=(images > 3).astype(np.uint8), labels=labels)
    with pytest.raises(ValueError, match="those above 127 are 1, got at most 1 in the images to train; multiply them"):
        with_files(Mnist(), (path,), ())
    np.savez(path, images=8 * images, labels=labels)
    assert read_digits((str(path),)).images.max() == 8 * images.max(), "not what was read from it before"
    assert with_files(Mnist(), (path,), ()).digest
    with pytest.warns(UserWarning, match="mnist: 30 of 30 images of the test are also in training"):
        with_files(Mnist(), (path,), (path,))


@pytest.mark.skipif(not MNIST.is_dir(), reason="needs ../shared/data/mnist")
def test_the_official_test_images_are_read():
    images, labels = read_digits(OFFICIAL)
    assert images.shape == (10_000, 28, 28)
    assert labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_files_that_are_no_digits_are_refused(digits, tmp_path):
    images, labels = digits

    def refused(*names):
        with pytest.raises(ValueError, match="mnist: ") as raised:
            read_digits(tuple(str(tmp_path / name) for name in names))
        assert "\n" not in str(raised.value)
        return str(raised.value)

    idx(tmp_path / "images", images)
    assert "found no file" in refused("nothing")
    assert "expected one .npz file, or two idx files" in refused("images")
    (tmp_path / "text").write_text("label,pixel\n")
    assert "is no idx file of bytes" in refused("images", "text")
    (tmp_path / "empty").write_bytes(b"")
    assert "is no idx file of bytes" in refused("empty", "images")
    (tmp_path / "text.gz").write_text("label,pixel\n")
    assert "is no idx file of bytes" in refused("text.gz", "images")
    idx(tmp_path / "floats", images, code=13)
    assert "type 13" in refused("floats", "images")
    (tmp_path / "cut").write_bytes((tmp_path / "images").read_bytes()[:-1])
    assert "holds 749 values where its shape is (30, 5, 5)" in refused("cut", "images")
    (tmp_path / "long").write_bytes((tmp_path / "images").read_bytes() + b"0")
    assert "holds more values" in refused("long", "images")
    (tmp_path / "huge").write_bytes(struct.pack(">HBB3I", 0, 8, 3, *[2**20] * 3))
    assert "is more than 1024 MiB" in refused("huge", "images")
    idx(tmp_path / "labels", labels)
    assert "square images of one size" in refused("labels", "images")
    idx(tmp_path / "few", labels[:7])
    assert "a label for each of 30 images" in refused("images", "few")
    idx(tmp_path / "ten", np.where(labels == 9, 10, labels))
    assert "labels from 0 to 9" in refused("images", "ten")
    ragged = np.empty(2, object)
    ragged[:] = [images[0], images[0, :3, :3]]
    np.savez(tmp_path / "ragged.npz", images=ragged, labels=labels[:2])
    assert "all images of one size" in refused("ragged.npz")
    np.savez(tmp_path / "other.npz", x=images)
    assert "is no .npz file with numbers in images and labels" in refused("other.npz")
    np.savez(tmp_path / "scaled.npz", images=images / 255, labels=labels)
    assert "pixels as bytes, 0 to 255" in refused("scaled.npz")
    np.savez(tmp_path / "large.npz", images=np.zeros((3, 6, 6), np.uint8), labels=labels[:3])
    np.savez(tmp_path / "all.npz", images=images, labels=labels)
    with pytest.raises(ValueError, match="images of one size, got 5 x 5 pixels for training and 6 x 6 in the test"):
        with_files(Mnist(), (tmp_path / "all.npz",), (tmp_path / "large.npz",))


def test_sequences_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected 1 to 5 targets, as many as there are steps, got 6"):
        Sequences(torch.rand(2, 5, 3), torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"inputs must be floats of \(batch, time, channels\)"):
        Sequences(torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="give one row to each sequence"):
        Sequences(torch.rand(2, 5, 3), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="expected length of at least 2, got 1"):
        Adding(length=1)
    with pytest.raises(ValueError, match="expected digits of at least 1, got 0"):
        Copying(digits=0)
    with pytest.raises(ValueError, match="expected sizes to test of at least 1"):
        Copying(test_blanks=())


@pytest.fixture(params=CORES)
def model(request):
    return SequenceModel(input_size=3, num_classes=7, core=request.param, hidden_size=12, embedding_size=5).double()


def test_the_loss_is_the_cross_entropy_of_the_last_outputs(model):
    batch = Sequences(torch.rand(4, 9, 3).double(), torch.randint(7, (4, 2)))
    outputs, _ = model.core(model.encoder(batch.inputs))
    expected = cross_entropy(model.decoder(outputs[:, -2:]).flatten(0, 1), batch.targets.flatten())
    torch.testing.assert_close(model.loss(batch), expected)
    parts = [model.loss_terms(batch.rows(rows))["nll"] for rows in ([0], [1, 2, 3])]
    torch.testing.assert_close((parts[0] + parts[1]).value, expected)


def test_recomputed_states_give_the_same_gradients(model):
    batch = Sequences(torch.rand(4, 9, 3).double(), torch.randint(7, (4, 2)))
    found = []
    for recompute in (None, 4):
        model.zero_grad()
        model.loss(batch, recompute).backward()
        found.append([weight.grad.clone() for weight in model.parameters()])
    torch.testing.assert_close(*found)


def test_a_model_comes_back_and_no_other_kind_is_taken_for_it(model, tmp_path):
    model.save(tmp_path)
    again, inputs = load_any(tmp_path), torch.rand(2, 5, 3).double()
    torch.testing.assert_close(again.predict(inputs), model.predict(inputs), rtol=0, atol=0)
    assert again.arguments == model.arguments
    with pytest.raises(ValueError, match="expected a world model in .*, found a SequenceModel"):
        load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in (("hidden_size", 10**9), ("hidden_size", "12"), ("value_shape", [3]), ("core", "tto")):
        (tmp_path / "config.json").write_text(json.dumps({**config, "arguments": {**config["arguments"], name: value}}))
        with pytest.raises(ValueError, match="do not make a SequenceModel"):
            load_any(tmp_path)


def test_gates_of_rims_with_gru_cells_remember_at_first():
    core = RIMs(3, 48, cell="gru")
    (cell,) = (part for part in core.modules() if isinstance(part, GroupedGRUCell))
    before = cell.bias_hidden.detach().clone()
    remember(core, 100)
    reset, update, candidate = (cell.bias_hidden.detach() - before).chunk(3, -1)
    assert 0.8 * math.log(99) < update.max() <= math.log(99) + 1e-5
    assert not reset.any()
    assert not candidate.any()


@pytest.mark.parametrize("core", CORES)
def test_gates_remember_at_first(core):
    sizes = {"input_size": 3, "num_classes": 7, "core": core, "hidden_size": 48, "embedding_size": 5}
    made, kept = [], []
    for memory in (None, 100):
        torch.manual_seed(0)
        model = SequenceModel(**sizes, memory=memory)
        inputs = torch.rand(64, 21, 3)
        inputs[1::2, 1:] = inputs[::2, 1:]  # pairs differ in their first step alone
        with torch.no_grad():
            outputs, _ = model.core(model.encoder(inputs))
        apart = (outputs[1::2] - outputs[::2]).norm(dim=-1).mean(0)
        kept.append(float(apart[-1] / apart[0]))
        made.append(dict(model.core.named_parameters()))
    shifted = {name: made[1][name] - made[0][name] for name in made[0]}
    shifted = {name: shift.detach() for name, shift in shifted.items() if shift.any()}
    assert len(shifted) == 1
    for shift in shifted.values():
        assert 0.9 * math.log(99) < shift.max() <= math.log(99) + 1e-5
        assert core == "gru" or -shift.min() == pytest.approx(float(shift.max()), abs=1e-5)
    if core in ("lstm", "gru"):  # modules that are not active keep what they hold, and so does an attention to slots
        assert kept[1] > 0.1 > 100 * kept[0]
    torch.manual_seed(1)
    model.reset_parameters()
    torch.manual_seed(1)
    for one, other in zip(model.parameters(), SequenceModel(**sizes, memory=100).parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(ValueError, match="memory must be at least 1, got 0"):
        SequenceModel(**sizes, memory=0)
    found = [
        Settings(core, core=Core(remember=each)).build(Copying(hidden_size=24)).arguments for each in (True, False)
    ]
    assert [arguments["memory"] for arguments in found] == [420, None]


def test_inputs_of_other_channels_are_refused(model):
    with pytest.raises(ValueError, match="SequenceModel: expected inputs of 3 channels, .* got 7, .* make the model"):
        model.predict(torch.zeros(2, 9, 7))


@pytest.mark.parametrize("last", [0, 10])
def test_answers_are_of_steps_that_are_there(model, last):
    with pytest.raises(ValueError, match=f"last must be in 1 to the 9 steps of the inputs, got {last}"):
        model.predict(torch.rand(4, 9, 3).double(), last)


def test_real_targets_are_scored_by_their_squared_error():
    model = SequenceModel(input_size=3, num_classes=None, core="gru", hidden_size=12)
    batch = Sequences(torch.rand(4, 9, 3), torch.rand(4, 1))
    torch.testing.assert_close(model.loss(batch), (model.predict(batch.inputs) - batch.targets).square().mean())
    with pytest.raises(ValueError, match="expected targets that are real values, got torch.int64"):
        model.loss(Sequences(batch.inputs, torch.ones(4, 1, dtype=torch.long)))
    with pytest.raises(ValueError, match="expected inputs of 3 channels"):
        model.loss(Sequences(torch.rand(4, 9, 2), batch.targets))
    classes = SequenceModel(input_size=3, num_classes=7, core="gru", hidden_size=12)
    with pytest.raises(ValueError, match="expected classes from 0 to 6, got 7 to 7"):
        classes.loss(Sequences(batch.inputs, torch.full((4, 1), 7)))


def test_what_does_not_look_has_the_entropy_of_the_targets():
    copying, adding = Copying(test_sequences=2_000), Adding()
    batch = episodes(copying, "test")[[*range(2_000)], 1]
    found = scores(constant(copying), [batch])
    assert found["cross_entropy"] == pytest.approx(math.log(8), abs=2e-3)
    assert found["accuracy"] == pytest.approx(1 / 8, abs=0.01)
    batch = episodes(adding, "test")[[*range(5_000)], 1]
    assert scores(constant(adding), [batch])["squared_error"] == pytest.approx(1 / 6, abs=0.01)


def test_the_constant_knows_all_classes_of_files_that_are_sorted_by_class(tmp_path):
    images = np.zeros((4000, 8, 8), np.uint8)
    images[:, 3, 3] = 200
    np.savez(tmp_path / "train.npz", images=images, labels=np.repeat(np.arange(10), 400))
    np.savez(tmp_path / "test.npz", images=images[:20] + 1, labels=np.arange(20) % 10)
    world = with_files(TASKS["mnist"].preset("tiny"), (tmp_path / "train.npz",), (tmp_path / "test.npz",))
    batch = episodes(world, "test")[[*range(20)], 1]
    assert scores(constant(world), [batch])["cross_entropy"] == pytest.approx(math.log(10), abs=0.01)


def test_rows_of_scores_are_of_every_size():
    world = Copying(digits=2, fewest=3, blank=3, test_blanks=(3, 6), test_sequences=200)
    model = SequenceModel(input_size=10, num_classes=8, core="gru", hidden_size=12).eval()
    rows = score({"GRU": model}, world, seed=3)
    assert [(row["predictor"], row["size"]) for row in rows] == [
        ("GRU", 3), ("constant", 3), ("GRU", 6), ("constant", 6),
    ]  # fmt: skip
    assert rows == score({"GRU": model}, world, seed=3), "the same sequences each time"


@pytest.mark.parametrize(
    ("task", "core", "sizes"),
    [
        ("copying", "rims", "1 to 3 blanks"),
        ("adding", "rmc", "2 to 6 steps"),
        ("mnist", "gru", "2 to 3 pixels per side"),
    ],
)
def test_a_task_is_trained_on_scored_and_shown(task, core, sizes, tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", task, "--size", "tiny", "--model", core, "--epochs", "1", "--out", str(run)])
    main(["train", "--resume", str(run), "--epochs", "2"])
    whole = tmp_path / "whole"
    main(["train", task, "--size", "tiny", "--model", core, "--epochs", "2", "--out", str(whole)])
    for ours, other in zip(*(Run.open(each).load_model().parameters() for each in (run, whole)), strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=0)
    losses = [epoch["val_loss"] for epoch in Run.open(run).entry().history]
    assert losses[1] < losses[0]
    main(["evaluate", str(run)])
    rows = json.loads((run / "scores.json").read_text())["rows"]
    assert {row["predictor"] for row in rows} == {Run.open(run).label, "constant"}
    main(["report", str(run)])
    page = (run / "report.html").read_text()
    assert page.count("<figcaption>") == (5 if core == "rims" else 2)
    assert f"{len(rows) // 2}" in page
    assert f"Trained on {sizes}; what is beyond is new." in page
    with unchecked_shapes():
        main(["export", str(run)])
    assert (run / "model.onnx").stat().st_size > 1000
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["rollout", str(run)])
    assert "expected runs on the balls" in capsys.readouterr().err


def test_digits_from_files_are_trained_on(digits, tmp_path):
    images, labels = digits
    images = 8 * images
    np.savez(tmp_path / "all.npz", images=images, labels=labels)
    options = ["train", "mnist", "--size", "tiny", "--model", "lstm", "--epochs", "1", "--out", str(tmp_path / "run")]
    main([*options, "--train-files", str(tmp_path / "all.npz")])
    assert Run.open(tmp_path / "run").world.train_files == (str(tmp_path / "all.npz"),)
    np.savez(tmp_path / "all.npz", images=images, labels=labels[::-1])
    with pytest.raises(ValueError, match="all.npz was changed since the run began, the SHA-256 is"):
        Run.open(tmp_path / "run").train(resume=True)
    (tmp_path / "all.npz").unlink()
    with pytest.raises(ValueError, match="found no file"):
        Run.open(tmp_path / "run").train(resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["copying"], "models of sequences are rims, rmc, lstm, gru, got s2gru"),
        (["copying", "--model", "rims", "--codec", "mlp"], "codec is of models of views"),
        (["copying", "--model", "rims", "--corrects"], "corrects is of models of views"),
        (["copying", "--model", "gru", "--num-active", "2"], "modules and their communication are of rims, not of gru"),
        (["balls", "--model", "rims", "--num-active", "2"], "of the core, rims takes hidden_size only"),
        (["copying", "--model", "rims", "--train-files", "a.npz"], "--train-files and --test-files are of mnist"),
        (["copying", "--model", "rims", "--hidden-size", "10"], "hidden_size must be a multiple of num_modules"),
        (["adding", "--model", "rims", "--size", "huge"], "unknown preset 'huge'; choose from paper, long"),
        (["mnist", "--model", "rims", "--train-files", "a.npz"], "found no file"),
    ],
)
def test_what_would_have_no_effect_or_make_no_model_is_refused(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *options, "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "new").exists()


def test_settings_reach_the_core(tmp_path):
    settings = Settings("rims", core=Core(hidden_size=36, num_modules=3, num_active=2), training=Training(seed=5))
    world = Copying(digits=2, fewest=3, blank=3, test_blanks=(3,))
    run = Run.create(tmp_path / "run", settings, "copying", world)
    assert Run.open(tmp_path / "run") == run
    core = settings.build(world).core
    assert (core.hidden_size, core.num_modules, core.num_active) == (36, 3, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("core", ["rims", "rmc", "lstm", "gru"])
def test_a_step_as_onnx_says_what_the_model_predicts(core, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason='needs pip install ".[onnx]"')
    torch.manual_seed(0)
    classes = None if core == "gru" else 8
    model = SequenceModel(input_size=3, num_classes=classes, core=core, hidden_size=24).eval()
    step = SequenceStep(model)
    with unchecked_shapes():
        step.save_onnx(tmp_path / "step.onnx")
    session = runtime.InferenceSession(tmp_path / "step.onnx")
    assert [each.name for each in session.get_outputs()] == step.outputs
    inputs, state, said = torch.rand(3, 10, 3), [part.numpy() for part in step.initial_state(3)], []
    for now in inputs.unbind(1):
        predicted, *state = session.run(None, dict(zip(step.inputs, [now.numpy(), *state], strict=True)))
        said.append(torch.from_numpy(predicted))
    with torch.no_grad():
        expected = model.predict(inputs, last=10)
    torch.testing.assert_close(torch.stack(said, 1), expected, rtol=0, atol=1e-5)


def test_classes_may_be_of_any_integers_and_batches_may_be_empty():
    model = SequenceModel(input_size=8, num_classes=4, core="lstm", hidden_size=12)
    inputs, targets = torch.randn(5, 3, 8), torch.randint(4, (5, 2))
    torch.testing.assert_close(
        model.loss(Sequences(inputs, targets.int())), model.loss(Sequences(inputs, targets)), rtol=0, atol=0
    )
    assert model.loss(Sequences(inputs[:0], targets[:0])) == 0
