"""Every recipe runs, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from s2rm.runs import pretrained

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def test_the_family_is_trained_with_what_was_found_and_goes_on_where_it_was(tmp_path):
    found = [{"model": "lstm", "learning_rate": rate, "val_loss": rate} for rate in (5e-4, 1e-3)]
    (tmp_path / "search.json").write_text(json.dumps({"rows": found}))
    command = [sys.executable, EXPERIMENTS / "family.py", "--size", "tiny", "--minutes", "0.003", "--runs", tmp_path]
    command += ["--search", tmp_path / "search.json", "--out", tmp_path / "out.json", "--models", "lstm", "tto"]
    results = []
    for seeds in ("1", "2"):
        subprocess.run([*command, "--seeds", seeds], check=True, capture_output=True, timeout=300)
        results.append(json.loads((tmp_path / "out.json").read_text()))
    first, both = results
    assert [(run["model"], run["seed"], run["learning_rate"]) for run in both["runs"]] == [
        ("lstm", 0, 5e-4), ("tto", 0, 2e-3), ("lstm", 1, 5e-4),
    ]  # fmt: skip
    assert both["runs"][:2] == first["runs"], "nothing was trained again"
    assert {"command", "commit", "hardware"} <= both.keys()
    trivial = {(name, seed) for name in ("static scene", "last seen") for seed in (0, 1)}
    scored = {(row["predictor"], row["seed"]) for row in both["rows"]}
    assert scored == {("LSTM", 0), ("TTO", 0), ("LSTM", 1)} | trivial


def test_the_search_tries_all_and_goes_on_where_it_was(tmp_path):
    command = [
        sys.executable,
        EXPERIMENTS / "search.py",
        "--size",
        "tiny",
        "--minutes",
        "0.003",
        "--models",
        "lstm",
        "tto",
    ]
    command += ["--runs", tmp_path / "runs", "--out", tmp_path / "out.json", "--learning-rates"]
    for rates in (["1e-3"], ["1e-3", "2e-3"]):
        subprocess.run([*command, *rates], check=True, capture_output=True, timeout=300)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert sorted((row["model"], row["learning_rate"]) for row in rows) == [
        ("lstm", 1e-3), ("lstm", 2e-3), ("tto", 1e-3), ("tto", 2e-3),
    ]  # fmt: skip
    assert all(row["val_loss"] > 0 and row["commit"] for row in rows)


def test_weights_are_shipped_whole_or_refused_and_modules_removed(tmp_path):
    command = [sys.executable, EXPERIMENTS / "pretrained.py", "--size", "tiny", "--minutes", "0.005"]
    command += ["--runs", tmp_path / "runs", "--out", tmp_path / "shipped"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    runs = pretrained(tmp_path / "shipped")
    assert [run.label for run in runs] == ["LSTM", "S2GRU"]
    assert {p.dtype for run in runs for p in run.load_model().parameters()} == {torch.float32}
    scores = json.loads((tmp_path / "shipped" / "scores.json").read_text())
    assert {"S2GRU", "LSTM", "static scene", "last seen"} == {row["predictor"] for row in scores["rows"]}
    command = [sys.executable, EXPERIMENTS / "removed_modules.py", "--run", tmp_path / "shipped" / "s2gru"]
    command += ["--balls", "1", "--draws", "2", "--out", tmp_path / "out.json", "--figure", tmp_path / "figure.png"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {(row["predictor"], row["removed"]) for row in rows} == {
        (name, removed) for name in ("S2GRU", "static scene", "last seen") for removed in range(10)
    }
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    weights = tmp_path / "shipped" / "lstm" / "model" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is not what was shipped, expected SHA-256 .*; install s2rm again"):
        pretrained(tmp_path / "shipped")
    weights.unlink()
    with pytest.raises(ValueError, match="got no file"):
        pretrained(tmp_path / "shipped")


def test_the_benchmark_of_the_cores_runs_small(tmp_path):
    command = [sys.executable, EXPERIMENTS.parent / "benchmarks" / "cores.py", "--batch", "2", "--steps", "2"]
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\n\n\ndef make(i, h):\n    return nn.LSTM(i, h, batch_first=True)\n")
    command += ["--repeats", "1", "--out", tmp_path / "cores.json", "--compare", own]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    times = json.loads((tmp_path / "cores.json").read_text())
    assert {(row["core"], row["pass"]) for row in times} == {
        (core, direction) for core in ("S2GRU", "S2RMC", "RIMs", "RMC") for direction in ("forward", "train")
    }
    assert all(row[key] > 0 for row in times for key in ("ours", "reference", "lstm", "floor", "peak_bytes", "compare"))


SMALL = {
    "data_waits.py": ["--size", "tiny", "--updates", "2"],
    "precision.py": ["--size", "tiny", "--updates", "2"],
    "streaming.py": ["--repeats", "2"],
    "throughput.py": ["--batch", "2", "--steps", "3", "--repeats", "1"],
    "where_time_goes.py": ["--batch", "2", "--steps", "2"],
}


@pytest.mark.parametrize("script", SMALL)
def test_the_other_benchmarks_run_small(script, tmp_path):
    command = [sys.executable, EXPERIMENTS.parent / "benchmarks" / script, *SMALL[script], "--out", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert {"command", "commit", "hardware"} <= json.loads((tmp_path / "out").read_text()).keys()


def test_the_results_page_is_what_the_results_say():
    made = subprocess.run([sys.executable, EXPERIMENTS / "page.py", "--check"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_every_recipe_is_tested():
    benchmarks = {path.name for path in (EXPERIMENTS.parent / "benchmarks").glob("*.py")}
    assert benchmarks == {*SMALL, "cores.py", "many_modules.py"}
    recipes = {path.name for path in EXPERIMENTS.glob("*.py")}
    assert recipes == {"family.py", "page.py", "pretrained.py", "removed_modules.py", "search.py"}
