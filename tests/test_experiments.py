"""Every recipe runs, small."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from s2rm.runs import Run, pretrained

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def run(recipe, *options):
    """Run a recipe on the tiny world, for a blink."""
    command = [sys.executable, EXPERIMENTS / recipe, "--size", "tiny", "--minutes", "0.003", *map(str, options)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_the_family_is_trained_with_what_was_found_and_goes_on_where_it_was(tmp_path):
    found = [{"model": "lstm", "learning_rate": rate, "val_loss": rate} for rate in (5e-4, 1e-3)]
    (tmp_path / "search.json").write_text(json.dumps({"rows": found}))
    results = []
    for seeds in (1, 2):
        run(
            "family.py", "--runs", tmp_path, "--search", tmp_path / "search.json", "--out", tmp_path / "out.json",
            "--models", "lstm", "tto", "--fractions", 0.3, 1.0, "--figures", tmp_path / "figures", "--seeds", seeds,
        )  # fmt: skip
        results.append(json.loads((tmp_path / "out.json").read_text()))
    first, both = results
    assert [(run["label"], run["seed"], run["learning_rate"]) for run in both["runs"]] == [
        ("LSTM", 0, 5e-4), ("TTO", 0, 2e-3), ("LSTM", 1, 5e-4),
    ]  # fmt: skip
    assert both["runs"][:2] == first["runs"], "nothing was trained again"
    assert {"command", "commit", "hardware"} <= both.keys()
    trivial = {(name, seed) for name in ("static scene", "last seen") for seed in (0, 1)}
    rows = [(row["predictor"], row["seed"], row["balls"], row["views"]) for row in both["rows"]]
    assert {row[:2] for row in rows} == {("LSTM", 0), ("TTO", 0), ("LSTM", 1)} | trivial
    assert len(rows) == len(set(rows)) == 7 * 6 * 2
    for name in ("one-step", "f1", "balanced-accuracy", "reliability"):
        assert is_png(tmp_path / "figures" / f"{name}.png")


def test_rollouts_are_of_the_runs_of_the_family(tmp_path):
    options = ["--runs", tmp_path, "--search", tmp_path / "none.json", "--figures", tmp_path / "figures"]
    run("rollouts.py", *options, "--models", "s2gru", "lstm", "--balls", 1, 5, "--out", tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {(row["predictor"], row["balls"], len(row["f1"])) for row in rows} == {
        (name, balls, 25) for name in ("S2GRU", "LSTM", "static scene", "last seen") for balls in (1, 5)
    }
    assert (tmp_path / "s2gru-0" / "summary.json").is_file()
    for name in ("rollout-1", "rollout-5", "rollout-f1"):
        assert is_png(tmp_path / "figures" / f"{name}.png")


def test_ablations_leave_one_term_out_each(tmp_path):
    options = ["--runs", tmp_path, "--search", tmp_path / "none.json", "--figures", tmp_path / "figures"]
    run("ablations.py", *options, "--balls", 1, "--fractions", 0.5, 1.0, "--out", tmp_path / "out.json")
    runs = [run["label"] for run in json.loads((tmp_path / "out.json").read_text())["runs"]]
    assert runs == ["all terms", *(f"without {term}" for term in (
        "input local", "input nonlocal", "intercell local", "intercell nonlocal"
    ))]  # fmt: skip
    assert Run.open(tmp_path / "without-input-local-0").load_model().ablate == {"input_local"}
    assert is_png(tmp_path / "figures" / "ablations.png")


def test_the_run_with_all_terms_is_the_family_s(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from ablations import Ablations, take

    runs = [{"label": label, "seed": seed, "minutes": 15.02} for label in ("S2GRU", "LSTM") for seed in (0, 1)]
    rows = [
        {"predictor": name, "seed": seed, "balls": balls, "f1": 10 * seed + balls}
        for name in ("S2GRU", "LSTM", "static scene", "last seen")
        for seed in (0, 1)
        for balls in (1, 2, 3)
    ]
    (tmp_path / "family.json").write_text(json.dumps({"runs": runs, "rows": rows}))
    recipe = Ablations(family=tmp_path / "family.json", out=tmp_path / "out.json")
    take(replace(recipe, minutes=4.0))
    assert not recipe.out.exists(), "of another budget"
    take(recipe)
    taken = json.loads(recipe.out.read_text())
    assert taken["runs"] == [{**runs[0], "label": "all terms"}]
    assert {(row["predictor"], row["balls"], row["f1"]) for row in taken["rows"]} == {
        (name, balls, balls) for name in ("all terms", "static scene", "last seen") for balls in (1, 3)
    }


def test_the_long_budget_compares_with_and_without_injected_positions(tmp_path):
    run("long.py", "--runs", tmp_path, "--search", tmp_path / "none.json", "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in result["runs"]] == ["S2GRU", "S2GRU kernel only", "RIMs", "LSTM"]
    assert {row["predictor"] for row in result["rows"]} == {
        "S2GRU", "S2GRU kernel only", "RIMs", "LSTM", "static scene", "last seen",
    }  # fmt: skip
    assert not Run.open(tmp_path / "s2gru-kernel-only-0").load_model().inject_positions


def test_sensors_are_forecast_beside_the_trivial_predictors(tmp_path):
    command = [sys.executable, EXPERIMENTS / "sensors.py", "--data", "field", "--steps", "200", "--minutes", "0.01"]
    command += ["--runs", tmp_path, "--out", tmp_path / "out.json", "--figures", tmp_path, "--models"]
    for models in (["s2gru"], ["s2gru", "msa"]):
        subprocess.run([*command, *models], check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in result["runs"]] == ["S2GRU", "MSA"], "nothing was fitted twice"
    names = {"S2GRU", "MSA", "persistence", "climatology", "inverse distance", "local linear", "kriging"}
    keys = [tuple(row[key] for key in ("predictor", "value", "lead", "sensors", "silent")) for row in result["rows"]]
    assert {key[0] for key in keys} == names
    assert len(keys) == len(set(keys))
    for name in ("errors", "stations", "forecast", "series", "enclaves"):
        assert is_png(tmp_path / f"field-{name}.png")


def test_stations_are_left_out_and_none_is_asked_twice(tmp_path):
    command = [sys.executable, EXPERIMENTS / "leave_one_out.py", "--data", "field", "--minutes", "0.003"]
    command += ["--folds", "2", "--runs", tmp_path, "--out", tmp_path / "out.json", "--model", "gru"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["fold"] for run in result["runs"]] == [0, 1]
    rows = {(row["predictor"], row["fold"]): row for row in result["rows"]}
    assert {name for name, _ in rows} == {"GRU", "inverse distance", "local linear", "kriging"}
    assert len({rows[name, 0]["count"] for name, fold in rows if fold == 0}) == 1
    assert all(row["rmse"] >= row["mae"] > 0 for row in rows.values())


def test_enclaves_share_the_arena(tmp_path):
    command = [sys.executable, EXPERIMENTS / "enclaves.py", "--out", tmp_path / "out.json", "--figures", tmp_path]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    result = json.loads((tmp_path / "out.json").read_text())
    shares = result["share_of_the_arena"]
    assert len(shares) == 10
    assert max(shares) <= result["pixels_that_some_module_sees"] <= 1
    assert result["modules_that_see_a_pixel"] == pytest.approx(sum(shares), rel=1e-5)
    assert is_png(tmp_path / "enclaves.png")
    assert is_png(tmp_path / "interaction-graph.png")


def test_the_railway_is_collected_and_trained_on_once(tmp_path):
    options = ["--runs", tmp_path / "runs", "--out", tmp_path / "out.json", "--figures", tmp_path]
    results = []
    for _ in range(2):
        run("railways.py", *options)
        results.append(json.loads((tmp_path / "out.json").read_text()))
    first, again = results
    assert first["run"] == again["run"], "nothing was trained again"
    assert first["rows"] == again["rows"]
    assert {"command", "commit", "hardware", "seed"} <= first.keys()
    assert first["run"]["updates"] > 0
    rows = {row["predictor"]: row for row in first["rows"]}
    assert rows.keys() == {"S2GRU", "mean view", "last seen"}
    assert all(0 <= row[name] <= 1 for row in rows.values() for name in ("f1", "f1_trains", "f1_other_trains"))
    assert rows["mean view"]["log_likelihood"] < rows["last seen"]["log_likelihood"] < 0
    assert len(first["neighbours_of_each_module"]) == 10
    assert is_png(tmp_path / "railways-enclaves.png")
    assert is_png(tmp_path / "railways-views.png")
    command = [sys.executable, EXPERIMENTS / "railways.py", "--size", "tiny", "--minutes", "1", *options]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1
    assert "holds a run of other settings; delete it or choose another with --runs" in refused.stderr


def test_skirmishes_are_trained_on_scored_and_drawn(tmp_path):
    options = ["--runs", tmp_path, "--out", tmp_path / "out.json", "--figures", tmp_path, "--shares", 0.5, 1.0]
    run("skirmish.py", *options, "--models", "s2gru", "lstm")
    result = json.loads((tmp_path / "out.json").read_text())
    run("skirmish.py", *options, "--models", "s2gru", "lstm")
    assert json.loads((tmp_path / "out.json").read_text()) == result, "nothing was trained or scored again"
    assert [run["label"] for run in result["runs"]] == ["S2GRU", "LSTM"]
    assert {"command", "commit", "hardware"} <= result.keys()
    rows = [tuple(row[key] for key in ("predictor", "scenario", "reporting", "seed")) for row in result["rows"]]
    assert len(rows) == len(set(rows)) == 4 * (2 + 5)
    assert {row[0] for row in rows} == {"S2GRU", "LSTM", "nobody moves", "last seen"}
    for name in ("skirmish-from-above", "skirmish-reporting"):
        assert is_png(tmp_path / f"{name}.png")


def test_the_search_tries_all_and_goes_on_where_it_was(tmp_path):
    for rates in (["1e-3"], ["1e-3", "2e-3"]):
        run(
            "search.py", "--models", "lstm", "tto", "--runs", tmp_path / "runs", "--out", tmp_path / "out.json",
            "--learning-rates", *rates,
        )  # fmt: skip
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
    times = json.loads((tmp_path / "cores.json").read_text())["rows"]
    assert {(row["core"], row["pass"]) for row in times} == {
        (core, direction) for core in ("S2GRU", "S2RMC", "RIMs", "RMC") for direction in ("forward", "train")
    }
    assert all(row[key] > 0 for row in times for key in ("ours", "reference", "lstm", "floor", "peak_bytes", "compare"))


SMALL = {
    "data_waits.py": ["--task", "skirmish", "--size", "tiny", "--updates", "2"],
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


def test_claims_are_decided_by_the_numbers(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import claims

    def rows(**scores):
        return [
            {"predictor": name.replace("_", " "), "balls": balls, "views": views, "seed": seed, "f1": score - 1 + views}
            for name, seeds in scores.items()
            for seed, score in enumerate(seeds)
            for balls in (1, 2)
            for views in (0.3, 1.0)
        ]

    def decided(decide, **scores):
        claim = claims.Claim("", "", "", decide)
        return claims.verdict(claim, {"rows": rows(static_scene=[0.1, 0.3], last_seen=[0.2, 0.2], **scores)})

    others = {"RMC": [0.5], "LSTM": [0.1, 0.3], "GRU": [0.4]}
    above = claims.above_all("f1", 1.0)
    assert decided(above, S2GRU=[0.8, 0.9], RIMs=[0.6, 0.7], **others) == (
        claims.HOLDS, "the least margin of the means is +0.200, over RIMs at 1 ball; in this time LSTM learned the "
        "static scene and no more",
    )  # fmt: skip
    assert decided(above, S2GRU=[0.8, 0.9], RIMs=[0.6, 0.85], **others)[0] == claims.UNDECIDED, "the seeds overlap"
    assert decided(above, S2GRU=[0.6], RIMs=[0.7], **others)[0] == claims.NOT
    assert decided(above, S2GRU=[0.8], **others) == (claims.UNDECIDED, "not run yet: RIMs")
    assert claims.verdict(claims.CLAIMS[0], None) == (claims.UNDECIDED, "not run yet")
    still, others = [0.25] * 4, {name: [0.26] * 4 for name in ("RIMs", "last seen")}
    for line, expected in (([0.8, 0.7, 0.6, 0.55], claims.HOLDS), ([0.8, 0.5, 0.4, 0.3], claims.NOT)):
        lines = {"S2GRU": line, "static scene": still, **others}
        rolled = {"rows": [{"predictor": name, "balls": 5, "f1": f1} for name, f1 in lines.items()]}
        assert claims.keeps_track(rolled)[0] == expected
    assert "is lost after 1 steps" in claims.keeps_track(rolled)[1]
    assert decided(claims.above_the_trivial, S2GRU=[0.3])[0] == claims.HOLDS
    assert decided(claims.above_the_trivial, S2GRU=[0.15])[0] == claims.NOT


@pytest.mark.parametrize(("worst", "expected"), [(0.83, "holds"), (0.89, "not decided"), (0.95, "does not hold")])
def test_a_small_loss_of_one_seed_decides_nothing(worst, expected, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import claims

    terms = ("input local", "input nonlocal", "intercell local", "intercell nonlocal")
    found = {"all terms": 0.9, **{f"without {term}": 0.8 for term in terms[1:]}, "without input local": worst}
    runs = [{"label": name, "updates": 10 + number} for number, name in enumerate(found)]
    rows = [{"predictor": name, "balanced_accuracy": score} for name, score in found.items()]
    verdict, because = claims.all_terms_help({"runs": runs, "rows": rows})
    assert verdict == expected
    assert "the 10 updates that all terms made in the time of 11 to 14" in because


def test_every_recipe_is_tested():
    benchmarks = {path.name for path in (EXPERIMENTS.parent / "benchmarks").glob("*.py")}
    assert benchmarks == {*SMALL, "common.py", "cores.py", "many_modules.py"}
    recipes = {path.name for path in EXPERIMENTS.glob("*.py")}
    assert recipes == {
        "ablations.py", "claims.py", "common.py", "enclaves.py", "family.py", "leave_one_out.py", "long.py",
        "page.py", "page_agents.py", "page_sensors.py", "pretrained.py", "railways.py", "removed_modules.py",
        "rollouts.py", "search.py", "sensor_checks.py", "sensors.py", "skirmish.py",
    }  # fmt: skip
