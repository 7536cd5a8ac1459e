"""The commands as a user types them, on the tiny world."""

import base64
import json
import os
import re
import runpy
import shutil
import sys
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
import torch
from PIL import Image, ImageSequence

from s2rm.cli import main
from s2rm.models.named import LABELS, ModelName
from s2rm.runs import Run, pretrained
from s2rm.settings import Settings
from s2rm.tasks.balls.world import BallsWorld
from s2rm.tasks.battles import report as battle_report
from s2rm.tasks.battles import skirmish
from s2rm.tasks.battles.polar import PolarGrid
from s2rm.tasks.battles.scores import REPORTING, SCENARIOS
from s2rm.training import Training


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    main(["demo", "--size", "tiny", "--minutes", "0.02", "--out", str(folder / "demo")])
    return folder / "demo"


def refused(capsys, *arguments) -> str:
    """The one line in which a command refuses."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_the_package_runs_as_the_command_does(capsys, monkeypatch):
    shown = []
    for run in (main, lambda: runpy.run_module("s2rm", run_name="__main__", alter_sys=True)):
        for arguments, code in ((["--help"], 0), (["report", "nowhere"], 2)):
            monkeypatch.setattr(sys, "argv", ["s2rm" if run is main else "__main__.py", *arguments])
            with pytest.raises(SystemExit) as ended:
                run()
            assert ended.value.code == code
            shown.append(capsys.readouterr())
    assert shown[:2] == shown[2:]
    assert "usage: s2rm " in shown[0].out


FIT = ("fit", "t.csv", "--time", "t", "--position", "x", "y", "--values", "v")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("train", "balls", "--updates", "2.5"), "expected a whole number or None for --updates, got '2.5'"),
        (("train", "balls", "--learning-rate", "quick"), "expected a number for --learning-rate, got 'quick'"),
        (("train", "--codec", "cn"), "expected one of cnn, mlp, polar, strided, None for --codec, got 'cn'"),
        (("train", "balls", "--seed"), "expected a value for --seed, got none"),
        (("forecast", "a", "b", "--quantiles", "0.1", "x"), "expected numbers for --quantiles, got '0.1 x'"),
        ((*FIT, "--batch-size", "much-" * 9), f"expected a whole number for --batch-size, got '{'much-' * 9}'"),
    ],
)
def test_a_value_that_is_no_such_value_is_refused_in_one_line(arguments, line, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert refused(capsys, *arguments) == f"s2rm: {arguments[0]}: {line}; see s2rm {arguments[0]} --help"
    assert os.environ["COLUMNS"] == "60"


def test_options_that_are_none_are_told_with_those_that_were_meant(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "balls", "--updaets", "3"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Unrecognized options: --updaets" in said
    assert "--updates" in said


def test_the_demo_leaves_scores_and_a_report(demo):
    scores = json.loads((demo / "scores.json").read_text())
    assert {"command", "commit", "hardware", "runs", "rows"} <= scores.keys()
    assert {row["predictor"] for row in scores["rows"]} == {"S2GRU", "LSTM", "static scene", "last seen"}
    assert len(scores["rows"]) == 4 * 6 * 4
    ours, baseline = scores["runs"]
    assert (ours["label"], baseline["label"]) == ("S2GRU", "LSTM")
    assert baseline["parameters"] >= ours["parameters"]


def test_the_report_is_one_page_that_needs_no_network(demo, tmp_path):
    page = (demo / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page)
    assert "://" not in page
    pictures = re.findall(r'src="data:(image/\w+);base64,([^"]+)"', page)
    assert len(pictures) == 12
    for kind, data in pictures:
        path = tmp_path / "picture"
        path.write_bytes(base64.b64decode(data))
        with Image.open(path) as picture:
            assert picture.format == {"image/png": "PNG", "image/gif": "GIF"}[kind]
            assert (sum(1 for _ in ImageSequence.Iterator(picture)) > 1) == (kind == "image/gif")
    for heading in (
        "Runs and hardware",
        "F1, one step ahead",
        "Rollouts",
        "Enclaves of S2GRU",
        "Interactions between the modules",
        "Learning",
    ):
        assert heading in page
    assert page.count("<figcaption>") == len(pictures), "a sentence under each picture"


def test_a_demo_that_was_finished_is_not_trained_again(demo, capsys, monkeypatch):
    scores = json.loads((demo / "scores.json").read_text())
    monkeypatch.setattr("s2rm.cli.runs._scored", lambda *_: scores)
    monkeypatch.setattr("s2rm.cli.runs.write_report", lambda *_: None)
    monkeypatch.setattr("s2rm.runs.fit", lambda *_, **__: pytest.fail("trained again"))
    main(["demo", "--size", "tiny", "--minutes", "0.02", "--out", str(demo)])
    assert capsys.readouterr().err.count("trained already") == 2


def test_train_evaluate_rollout_report(demo, tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", "balls", "--size", "tiny", "--model", "lstm", "--epochs", "1", "--out", str(run)])
    assert "parameters" in capsys.readouterr().err
    # Also where it is the default, which the run may not have.
    for ignored in ("--learning-rate=3e-4", "--learning_rate=3e-4", "--seed=0", "--out=elsewhere"):
        said = refused(capsys, "train", "--resume", run, ignored)
        assert f"may be given, got {ignored.partition('=')[0].replace('_', '-')}; leave it out" in said
    main(["train", "--resume", str(run), "--epochs", "2"])
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    main(["evaluate", str(run), "--out", str(tmp_path / "scores.json")])
    assert json.loads((tmp_path / "scores.json").read_text())["rows"][0]["predictor"] == "LSTM"
    main(["rollout", str(run), "--balls", "1", "3", "--out", str(tmp_path / "rollout.gif")])
    with Image.open(tmp_path / "rollout.gif") as picture:
        assert picture.n_frames == 25
    main(["report", str(run), "--scores", str(tmp_path / "scores.json")])
    assert "LSTM" in (run / "report.html").read_text()


def test_the_skirmish_is_trained_on_scored_and_shown(tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", "skirmish", "--size", "tiny", "--model", "s2gru", "--epochs", "1", "--out", str(run)])
    main(["train", "--resume", str(run), "--epochs", "2"])
    assert Run.open(run).world == skirmish.preset("tiny")
    assert json.loads((run / "summary.json").read_text())["epochs"] == 2
    main(["evaluate", str(run)])
    rows = json.loads((run / "scores.json").read_text())["rows"]
    assert {(row["predictor"], row["scenario"], row["reporting"]) for row in rows} == {
        (name, scenario, share)
        for name in ("S2GRU", "nobody moves", "last seen", "last seen, by age")
        for scenario, share in [*(("validation", share) for share in REPORTING), *product(SCENARIOS, (0.2, 1))]
    }
    assert "5s3z" in capsys.readouterr().err
    main(["report", str(run)])
    page = (run / "report.html").read_text()
    for part in (
        "Unit-type macro F1, by share of agents that report", "5s3z, new", f"{rows[0]['unit_type_f1']:.3f}",
        *(f"{label[1:]}, one step ahead" for label in battle_report.LABELS.values()), "not StarCraft II",
        "A battle from above", "With fewer agents reporting", "Learning", "Enclaves of S2GRU",
    ):  # fmt: skip
        assert part in page
    assert page.count('src="data:image/png') == page.count("<figcaption>") == 6
    capsys.readouterr()
    assert "expected runs on the balls or on your own world, got runs on the skirmish" in refused(
        capsys, "rollout", run
    )


def test_the_settings_of_a_run_come_back_and_those_of_old_ones_too(demo, tmp_path):
    world = replace(skirmish.preset("tiny"), train_scenarios=("2z",), grid=PolarGrid(3, 5, 4.5))
    settings = Settings("rmc", training=Training(minutes=1.5, epochs=3))
    made = Run.create(tmp_path / "new", settings, "skirmish", world)
    assert made == Run.open(tmp_path / "new")
    assert (made.settings, made.world) == (settings, world)
    config = json.loads((demo / "lstm" / "config.json").read_text())
    assert config.pop("task") == "balls"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    assert replace(Run.open(tmp_path / "old"), folder=demo / "lstm") == Run.open(demo / "lstm")
    for run in pretrained():
        assert isinstance(run.world, BallsWorld)


def test_an_oracle_is_left_out_of_rollouts(tmp_path):
    oracle = tmp_path / "oracle"
    main(["train", "balls", "--size", "tiny", "--model", "tto", "--epochs", "1", "--out", str(oracle)])
    main(["rollout", str(oracle), "--out", str(tmp_path / "new" / "rollout.gif")])
    with Image.open(tmp_path / "new" / "rollout.gif") as picture:
        assert picture.n_frames == 25


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "rollout", "report"])
def test_help_tells_the_defaults(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "default: " in shown
    assert shown.count("usage: ") == 1


def test_bad_input_is_one_line_and_loses_nothing(demo, tmp_path, capsys):
    assert "expected a run folder" in refused(capsys, "evaluate", tmp_path / "nowhere")
    assert "expected at least one run folder" in refused(capsys, "rollout")
    assert "exists already" in refused(capsys, "train", "--out", demo)
    assert "one run of each model" in refused(capsys, "evaluate", demo / "lstm", demo / "lstm")
    assert "found no scores" in refused(capsys, "report", demo / "lstm")
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"rows": []}))
    assert "has no scores of ['LSTM']" in refused(capsys, "report", demo / "lstm", "--scores", wrong)
    scores = json.loads((demo / "scores.json").read_text())
    wrong.write_text(json.dumps({**scores, "runs": [{**run, "updates": 10**6} for run in scores["runs"]]}))
    assert "are of another LSTM, expected its updates to be" in refused(
        capsys, "report", demo / "lstm", "--scores", wrong
    )
    assert "--size is of training, and --pretrained trains nothing" in refused(
        capsys, "demo", "--pretrained", "--size", "paper", "--out", tmp_path / "new"
    )
    wrong.write_text("not json")
    assert "is no scores file" in refused(capsys, "report", demo / "lstm", "--scores", wrong)
    assert "wavelengths must hold 0 < shortest" in refused(
        capsys, "train", "--shortest", "-1", "--out", tmp_path / "new"
    )
    assert not (tmp_path / "new").exists()


def test_tampered_weights_are_refused(demo, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    for name in ("config.json", "summary.json", "model/config.json"):
        (run / name).write_bytes((demo / "lstm" / name).read_bytes())
    torch.save({"a": torch.zeros(1)}, run / "model/weights.safetensors")
    assert "is no safetensors file" in refused(capsys, "evaluate", run)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--size", "huge", "huge"), ("--epochs", "0", "epochs must be positive, got 0"), ("--model", "gpt", "s2gru")],
)
def test_options_out_of_range_are_refused_before_anything_is_done(option, value, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["train", option, value, "--out", str(tmp_path / "new")])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("train --epochs 0", "training: epochs must be positive, got 0"),
        ("fit t.csv --time t --position x y --values a --validation 15", "fit: validation must be a share from 0 to 1"),
        ("fit t.csv --time t --position x y --values a b a", "columns: a named twice"),
    ],
)
def test_what_the_options_refuse_is_one_line(given, message, capsys):
    assert message in refused(capsys, *given.split())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["skirmish", "--resume", "RUN", "--epochs", "4"], "got skirmish; leave it out"),
        (["--resume", "RUN", "--epochs=4", "balls"], "got balls; leave it out"),
        (["--model", "lstm", "--ablate", "input_local", "--out", "NEW"], "ablate is an option of S2RMs, not of lstm"),
        (["--no-batch-norm", "--out", "NEW"], "batch_norm is an option of the baselines, not of s2gru"),
    ],
)
def test_what_would_have_no_effect_is_refused(given, message, demo, tmp_path, capsys):
    folders = {"RUN": demo / "lstm", "NEW": tmp_path / "new"}
    assert message in refused(capsys, "train", *(folders.get(part, part) for part in given))
    assert not (tmp_path / "new").exists()


def test_a_folder_s_name_is_no_markup_and_one_line(tmp_path, capsys):
    options = ("--size", "tiny", "--model", "gru", "--updates", "1", "--out")
    main(["train", "balls", *options, str(tmp_path / "run [/v2]\x1b[31m\n")])
    said = capsys.readouterr().err
    assert "run [/v2]" in said
    assert "\x1b[31m" not in said


def test_scores_and_logs_of_something_else_are_refused_in_one_line(demo, tmp_path, capsys):
    run = shutil.copytree(demo / "lstm", tmp_path / "run")
    for row in ({"predictor": "LSTM"}, {"predictor": "LSTM", "balls": 1, "views": 1.0, "f1": None}):
        (run / "scores.json").write_text(json.dumps({"rows": [row]}))
        assert "lacks scores of these runs" in refused(capsys, "report", run)
    scores = demo / "scores.json"
    (run / "logs" / "version_0" / "metrics.csv").write_text("epoch,val_loss\nlast,1\n")
    assert "is not a run's log" in refused(capsys, "report", run, "--scores", scores)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "val_loss": "low"}))
    assert "is not a run's summary" in refused(capsys, "report", run, "--scores", scores)


@pytest.mark.parametrize("model", get_args(ModelName))
def test_every_model_trains(model, tmp_path, capsys):
    main(["train", "balls", "--size", "tiny", "--model", model, "--epochs", "2", "--out", str(tmp_path / "run")])
    assert f"{LABELS[model]}: " in capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    losses = [epoch["val_loss"] for epoch in run.entry().history]
    assert losses[1] < losses[0] < 0.72
    assert run.load_model().num_parameters == run.summary()["parameters"]
