"""Every recipe runs, small."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2rm import load
from s2rm.runs import PRETRAINED, TASKS, Run, field_reports, pretrained
from s2rm.sensors import Forecaster, stations
from s2rm.sensors.first_guess import dynamics
from s2rm.sensors.fitting import PARTS
from s2rm.sensors.judging.judge import BASELINES
from s2rm.settings import Settings
from s2rm.tasks.balls.scores import TrivialPredictors, roll_out
from s2rm.tasks.balls.world import preset
from s2rm.training import MODEL, Training

EXPERIMENTS, BENCHMARKS = (Path(__file__).parent.parent / name for name in ("experiments", "benchmarks"))


@pytest.fixture
def script(monkeypatch):
    """Runs a script in this process, which has imported already what it needs."""

    def run(path, *options):
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, options)])
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.delitem(sys.modules, "common", raising=False)  # recipes and benchmarks have one each
        runpy.run_path(str(path), run_name="__main__")

    return run


@pytest.fixture
def run(script):
    """Runs a recipe on the tiny world, for a blink."""
    return lambda recipe, *options: script(EXPERIMENTS / recipe, "--size", "tiny", "--updates", "3", *options)


@pytest.fixture(autouse=True)
def quick_fits(request, monkeypatch):
    """Linear dynamics take most of the time of a small fit: one recipe alone has them."""
    if request.function is not test_sensors_are_forecast_beside_the_trivial_predictors:
        monkeypatch.setattr(dynamics, "LEAST_STEPS", 10**9)


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


def test_the_family_is_trained_with_what_was_found_and_goes_on_where_it_was(run, tmp_path):
    found = [{"label": "LSTM", "learning_rate": rate, "val_loss": rate} for rate in (5e-4, 1e-3)]
    (tmp_path / "search.json").write_text(json.dumps({"runs": found, "rows": []}))
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


def test_rollouts_are_of_finished_runs_on_one_world(run, script, tmp_path):
    train = ["--runs", tmp_path, "--out", tmp_path / "long.json", "--labels"]
    run("long.py", *train, "S2GRU", "LSTM")
    run("long.py", *train, "S2GRU 256", "--train-sequences", 64)
    options = ["--balls", 1, 5, "--sequences", 8, "--out", tmp_path / "out.json", "--figures", tmp_path / "figures"]
    recipe, runs = EXPERIMENTS / "rollouts.py", [tmp_path / "s2gru-0", tmp_path / "lstm-0", tmp_path / "s2gru-256-0"]
    for some, names in ((runs, ["S2GRU", "LSTM", "S2GRU 256"]), (runs[1:2], ["S2GRU", "S2GRU 256", "LSTM"])):
        script(recipe, *options, "--runs", *some)
        found = json.loads((tmp_path / "out.json").read_text())
        assert [run["label"] for run in found["runs"]] == names, "those that are not rolled out again stay"
        assert [(row["predictor"], row["balls"], row["step"]) for row in found["rows"]] == [
            (name, balls, step)
            for balls in (1, 5)
            for name in (*names, "static scene", "last seen")
            for step in range(1, 26)
        ]
    for name in ("rollout-1", "rollout-5", "rollout-f1"):
        assert is_png(tmp_path / "figures" / f"{name}.png")
    with pytest.raises(SystemExit, match="runs on one world"):
        script(recipe, *options, "--runs", runs[0], PRETRAINED / "lstm")


def test_baselines_are_trained_on_six_balls_and_scored_on_them(run, tmp_path):
    options = ["--runs", tmp_path, "--search", tmp_path / "none.json", "--out", tmp_path / "out.json"]
    for models in (["lstm"], ["lstm", "s2gru"]):
        run("six_balls.py", *options, "--models", *models)
    found = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in found["runs"]] == ["LSTM", "S2GRU"], "nothing was trained again"
    names = {"LSTM", "S2GRU", "static scene", "last seen"}
    assert {(row["predictor"], row["balls"]) for row in found["rows"]} == {(name, n) for name in names for n in (3, 6)}
    assert Run.open(tmp_path / "lstm-0").world == replace(preset("tiny"), num_balls=6)


def test_a_model_is_trained_on_with_fewer_views_and_rolled_out(script, tmp_path):
    options = ["--updates", 1, "--batch-size", 2, "--sequences", 2, "--balls", 2, "--runs", tmp_path / "runs"]
    tiny = Run.create(tmp_path / "tiny", Settings(training=Training(updates=1)), "balls", replace(
        preset("tiny"), test_sequences=2, num_frames=45
    ))  # fmt: skip
    tiny.train(progress=False)
    script(EXPERIMENTS / "blind_steps.py", "--run", tiny.folder, *options, "--out", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in found["runs"]] == [
        "shipped", "trained on", "with blind steps", "with dropped views",
    ]  # fmt: skip
    f1 = {(row["predictor"], row["step"]): row["f1"] for row in found["rows"]}
    assert len(f1) == len(found["rows"]) == 2 * 25 + 4 * (1 + 2 * 25)


def test_frames_are_rolled_out_whole_beside_a_model_of_crops(script, tmp_path):
    script(
        EXPERIMENTS / "frames.py", "--models", "lstm", "--balls", 3, "--updates", 1, "--batch-size", 2, "--sequences",
        2, "--train-sequences", 8, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json", "--figures", tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["predictor"], row["step"]) for row in rows] == [
        (name, step) for name in ("S2GRU, crops", "LSTM", "static scene", "last seen") for step in range(1, 36)
    ]
    assert all(("cross_entropy" in row) == (row["predictor"] in ("S2GRU, crops", "LSTM")) for row in rows)
    assert is_png(tmp_path / "frames.png")


def test_frames_with_a_curtain_stand_beside_no_model_that_saw_none(script, tmp_path):
    script(
        EXPERIMENTS / "frames.py", "--size", "curtain", "--models", "lstm", "--balls", 3, "--updates", 1,
        "--batch-size", 2, "--sequences", 2, "--train-sequences", 8, "--runs", tmp_path / "runs",
        "--out", tmp_path / "out.json", "--figures", tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {row["predictor"] for row in rows} == {"LSTM", "static scene", "last seen"}
    assert is_png(tmp_path / "curtain.png")


def test_modules_attend_to_strips_of_frames(script, tmp_path):
    script(
        EXPERIMENTS / "strips.py", "--updates", 1, 2, "--seeds", 1, "--sequences", 2, "--train-sequences", 8,
        "--balls", 2, "--hidden-size", 24, "--clip", 3, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json",
        "--figures", tmp_path,
    )  # fmt: skip
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    modules = ["all", *map(str, range(1, 7)), "all, of another sequence"]
    assert [(row["size"], row["module"]) for row in rows] == [(size, module) for size in (1, 2) for module in modules]
    assert all(-1 <= row["correlation"] <= 1 for row in rows)
    assert all(1 / 6 <= row.get("most", 1) <= 1 for row in rows)
    assert is_png(tmp_path / "strips.png")


def test_the_ways_to_roll_out_differ_in_the_views_that_are_fed_back(script, tmp_path, monkeypatch):
    folder = PRETRAINED / "s2gru"
    options = ["--run", folder, "--balls", 2, "--sequences", 4]
    script(EXPERIMENTS / "ways_to_roll_out.py", *options, "--out", tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    f1 = {(row["predictor"], row["step"]): row["f1"] for row in rows}
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.delitem(sys.modules, "common", raising=False)
    from ways_to_roll_out import FED, as_many_pixels

    assert len(f1) == len(rows) == 25 * (len(FED) + 2)
    assert len({f1[way, 1] for way in FED}) == 1, "the first step is predicted from the prompt"
    assert len({f1[way, 10] for way in FED}) == len(FED)
    assert all(f1["the true views", 25] > f1[way, 25] + 0.2 for way in FED if way != "the true views")
    # The paper's way is the one of the library.
    world = replace(preset("small"), test_sequences=4)
    run = Run.open(folder)
    scored = roll_out({"S2GRU": run.load_model()}, TrivialPredictors(world), world, 4, 2, 0).f1()["S2GRU"]
    assert [f1["thresholded", step] for step in range(1, 26)] == pytest.approx(scored)
    # 0.9 + 0.6 + 0.4 + 0.3 = 2.2: the two most probable pixels.
    assert as_many_pixels(torch.tensor([[[[0.9, 0.4], [0.3, 0.6]]]])).tolist() == [[[[1, 0], [0, 1]]]]


def test_ablations_leave_one_term_out_each(run, tmp_path):
    options = ["--runs", tmp_path, "--search", tmp_path / "none.json", "--figures", tmp_path / "figures"]
    options += ["--seeds", 1]
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

    runs = [{"label": label, "seed": seed, "updates": 3500} for label in ("S2GRU", "LSTM") for seed in (0, 1)]
    rows = [
        {"predictor": name, "seed": seed, "balls": balls, "f1": 10 * seed + balls}
        for name in ("S2GRU", "LSTM", "static scene", "last seen")
        for seed in (0, 1)
        for balls in (1, 2, 3)
    ]
    (tmp_path / "family.json").write_text(json.dumps({"runs": runs, "rows": rows}))
    recipe = Ablations(updates=3500, family=tmp_path / "family.json", out=tmp_path / "out.json")
    take(replace(recipe, updates=4))
    assert not recipe.out.exists(), "of another budget"
    take(replace(recipe, seeds=1))
    taken = json.loads(recipe.out.read_text())
    assert taken["runs"] == [{**runs[0], "label": "all terms"}]
    assert {(row["predictor"], row["balls"], row["f1"]) for row in taken["rows"]} == {
        (name, balls, balls) for name in ("all terms", "static scene", "last seen") for balls in (1, 3)
    }


def test_the_long_budget_compares_with_and_without_injected_positions(run, tmp_path):
    run("long.py", "--runs", tmp_path, "--search", tmp_path / "none.json", "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in result["runs"]] == ["S2GRU", "S2GRU kernel only", "RIMs", "LSTM"]
    assert {row["predictor"] for row in result["rows"]} == {
        "S2GRU", "S2GRU kernel only", "RIMs", "LSTM", "static scene", "last seen",
    }  # fmt: skip
    kernel = Run.open(tmp_path / "s2gru-kernel-only-0").load_model().space
    assert (kernel.inject_positions, kernel.rotation) == (False, None)


def test_sensors_are_forecast_beside_the_trivial_predictors(script, tmp_path):
    options = ["--data", "field", "--steps", 200, "--updates", 2, "--runs", tmp_path, "--out", tmp_path / "out.json"]
    for seeds, models in ((1, ["s2gru"]), (2, ["s2gru"]), (1, ["s2gru", "msa"])):
        more = ["--figures", tmp_path, "--seeds", seeds, "--models", *models]
        script(EXPERIMENTS / "sensors.py", *options, *more)
    result = json.loads((tmp_path / "out.json").read_text())
    runs = [(run["label"], run["seed"]) for run in result["runs"]]
    assert runs == [("S2GRU", 0), ("S2GRU", 1), ("MSA", 0)], "nothing was fitted twice"
    names = {"S2GRU", "MSA", "persistence", "seasonal", "climatology", "inverse distance", "local linear", "kriging"}
    by = ("predictor", "seed", "value", "lead", "sensors", "silent")
    keys = [tuple(row[key] for key in by) for row in result["rows"]]
    assert {key[:2] for key in keys} == {(name, 0) for name in names} | {(name, 1) for name in names - {"MSA"}}
    assert len(keys) == len(set(keys))
    for name in ("errors", "stations", "forecast", "series", "enclaves"):
        assert is_png(tmp_path / f"field-{name}.png")


def test_the_wind_is_known_ahead_in_one_of_two_fits(script, tmp_path):
    options = [
        "--steps",
        200,
        "--updates",
        2,
        "--runs",
        tmp_path,
        "--out",
        tmp_path / "out.json",
        "--worlds",
        "turning",
    ]
    script(EXPERIMENTS / "known_ahead.py", *options)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in result["runs"]] == ["S2GRU", "S2GRU, wind known ahead"]
    found = {
        (row["predictor"], row["lead"]): row["mae"]
        for row in result["rows"]
        if (row["value"], row["sensors"]) == ("tracer", "seen")
    }
    assert {lead for _, lead in found} == {1, 3, 6, 12}
    assert found["physics, true wind", 12] < 0.6 * found["physics, wind held", 12] < found["persistence", 12]


def test_stations_are_left_out_and_none_is_asked_twice(script, tmp_path):
    script(
        EXPERIMENTS / "leave_one_out.py", "--data", "field", "--updates", 2, "--folds", 2, "--runs", tmp_path,
        "--out", tmp_path / "out.json", "--model", "gru",
    )  # fmt: skip
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["fold"] for run in result["runs"]] == [0, 1]
    rows = {(row["predictor"], row["fold"]): row for row in result["rows"]}
    assert {name for name, _ in rows} == {"GRU", "inverse distance", "local linear", "kriging"}
    assert len({rows[name, 0]["count"] for name, fold in rows if fold == 0}) == 1
    assert all(row["rmse"] >= row["mae"] > 0 for row in rows.values())


def test_gaps_are_filled_from_the_past_and_from_both_sides(script, tmp_path):
    options = ["--data", "field", "--updates", 2, "--context", 8, "--runs", tmp_path, "--out", tmp_path / "out.json"]
    results = []
    for _ in range(2):
        script(EXPERIMENTS / "aqi36.py", *options, "--model", "gru")
        results.append(json.loads((tmp_path / "out.json").read_text()))
    assert results[0] == results[1], "nothing was trained or scored again"
    rows = {row["predictor"]: row for row in results[0]["rows"]}
    assert {name for name, row in rows.items() if row["reads"] == "past"} == {
        "GRU", "first guess", "last value", "last difference from the mean of all", "linear dynamics",
        "inverse distance", "kriging",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["reads"] == "both"} == {
        "GRU, both directions", "mean of the station", "linear in time",
        "linear in time, difference from the mean of all", "linear dynamics, both directions",
    }  # fmt: skip
    assert len({row["count"] for row in rows.values()}) == 1
    assert rows["linear in time"]["mae"] < rows["last value"]["mae"] < rows["mean of the station"]["mae"]
    assert [run["label"] for run in results[0]["runs"]] == ["GRU, forward", "GRU, backward"]


def test_hidden_hours_are_shown_to_no_method(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.delitem(sys.modules, "common", raising=False)
    from aqi36 import Imputation, backward, missing, observations, without

    reports, withheld, test = observations(Imputation(data="field"))
    assert len(test) == reports.num_steps == 240
    train = without(reports.where(~withheld), test)
    assert train.num_steps == 240 - test.sum() == missing(train).shape[0]
    assert len(train) == (~withheld & ~test[reports.step]).sum()
    day = train.where(train.step // 24 == 3)  # the fourth day is of the test, so that the fifth follows the third
    np.testing.assert_array_equal(day.values, reports.where(~withheld & (reports.step // 24 == 4)).values)
    turned = backward(train)
    assert turned.step[0] == train.num_steps - 1 - train.step[-1]
    assert (~missing(turned)[::-1] == ~missing(train)).all()


def test_wind_is_forecast_beside_kriging(script, tmp_path):
    script(
        EXPERIMENTS / "irish_wind.py", "--data", "field", "--model", "gru", "--updates", 2, "--context", 4,
        "--runs", tmp_path, "--out", tmp_path / "out.json",
    )  # fmt: skip
    result = json.loads((tmp_path / "out.json").read_text())
    assert [run["label"] for run in result["runs"]] == ["GRU"]
    rows = {row["predictor"]: row for row in result["rows"]}
    assert rows.keys() == {
        "GRU", "climatology", "persistence", "linear regression on 3 days of all",
        "space-time kriging, published parameters", "space-time kriging, likeliest parameters",
    }  # fmt: skip
    assert {row["count"] for row in rows.values()} == {40 * 3}
    assert all(row["rmse"] >= row["mae"] > row["crps"] > 0 for row in rows.values())
    assert rows["GRU"]["gain_low"] <= rows["GRU"]["gain"] <= rows["GRU"]["gain_high"]


def test_the_space_time_covariance_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.delitem(sys.modules, "common", raising=False)
    from irish_wind import PAST, Covariance, correlation, kriging, lagged

    some = Covariance(nugget=0.1, c=0.002, alpha=0.5, a=2.0, beta=1.0, lambda_=0.3, drift=100.0)
    away = np.array([[[0, 0], [60, 80]], [[-60, -80], [0, 0]]], np.float64)
    now, next_day = correlation(some, away, 0), correlation(some, away, 1)
    np.testing.assert_allclose(np.diag(now), 1)
    assert now[0, 1] == pytest.approx(0.9 * 0.7 * np.exp(-0.2) + 0.3 * (1 - 60 / 200))
    east, west = (0.9 * 0.7 / 3 * np.exp(-0.2 / 3**0.5) + 0.3 * (1 - far / 200) for far in (40, 160))
    assert next_day[0, 1] == pytest.approx(east), "what is here today is in the east tomorrow"
    assert next_day[1, 0] == pytest.approx(west)
    np.testing.assert_allclose(next_day, correlation(some, -away, -1))
    alone = Covariance(nugget=0.0, c=10.0, alpha=0.5, a=1.0, beta=0.0, lambda_=0.0, drift=100.0)
    weights, errors = kriging(alone, away)  # two stations that know nothing of each other
    joint = np.array([[1 / (1 + abs(day - other)) for other in range(PAST + 1)] for day in range(PAST + 1)])
    best = np.linalg.solve(joint[:-1, :-1], joint[:-1, -1])
    np.testing.assert_allclose(weights[0, ::2], best)
    np.testing.assert_allclose(weights[0, 1::2], 0, atol=1e-12)
    np.testing.assert_allclose(errors, np.eye(2) * (1 - best @ joint[:-1, -1]), atol=1e-12)
    past, day = lagged(np.arange(10.0).reshape(5, 2))
    assert past.tolist() == [[0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 6, 7]]
    assert day.tolist() == [[6, 7], [8, 9]]


def test_enclaves_share_the_arena(script, tmp_path):
    script(EXPERIMENTS / "enclaves.py", "--out", tmp_path / "out.json", "--figures", tmp_path)
    result = json.loads((tmp_path / "out.json").read_text())
    shares = [row["share_of_the_arena"] for row in result["rows"]]
    assert len(shares) == 10
    assert max(shares) <= result["pixels_that_some_module_sees"] <= 1
    assert result["modules_that_see_a_pixel"] == pytest.approx(sum(shares), rel=1e-5)
    assert [run["label"] for run in result["runs"]] == ["S2GRU"]
    assert is_png(tmp_path / "enclaves.png")
    assert is_png(tmp_path / "interaction-graph.png")


def test_the_railway_is_collected_and_trained_on_once(run, script, tmp_path):
    options = ["--runs", tmp_path / "runs", "--out", tmp_path / "out.json", "--figures", tmp_path]
    results = []
    for _ in range(2):
        run("railways.py", *options)
        results.append(json.loads((tmp_path / "out.json").read_text()))
    first, again = results
    assert first["runs"] == again["runs"], "nothing was trained again"
    assert first["rows"] == again["rows"]
    assert {"command", "commit", "hardware", "seed"} <= first.keys()
    assert first["runs"][0]["updates"] > 0
    rows = {row["predictor"]: row for row in first["rows"]}
    assert rows.keys() == {"S2GRU", "mean view", "last seen"}
    assert all(0 <= row[name] <= 1 for row in rows.values() for name in ("f1", "f1_trains", "f1_other_trains"))
    assert rows["mean view"]["log_likelihood"] < rows["last seen"]["log_likelihood"] < 0
    assert len(first["neighbours_of_each_module"]) == 10
    assert is_png(tmp_path / "railways-enclaves.png")
    assert is_png(tmp_path / "railways-views.png")
    with pytest.raises((SystemExit, ValueError), match="holds a run of other settings; delete it or choose another"):
        script(EXPERIMENTS / "railways.py", "--size", "tiny", "--updates", 2, *options)


def test_skirmishes_are_trained_on_scored_and_drawn(run, tmp_path):
    options = ["--runs", tmp_path, "--out", tmp_path / "out.json", "--figures", tmp_path, "--shares", 0.5, 1.0]
    run("skirmish.py", *options, "--models", "s2gru", "lstm")
    result = json.loads((tmp_path / "out.json").read_text())
    run("skirmish.py", *options, "--models", "s2gru", "lstm")
    assert json.loads((tmp_path / "out.json").read_text()) == result, "nothing was trained or scored again"
    assert [run["label"] for run in result["runs"]] == ["S2GRU", "LSTM"]
    assert {"command", "commit", "hardware"} <= result.keys()
    rows = [tuple(row[key] for key in ("predictor", "scenario", "reporting", "seed")) for row in result["rows"]]
    assert len(rows) == len(set(rows)) == 5 * (2 + 2 * 5)
    assert {row[0] for row in rows} == {"S2GRU", "LSTM", "nobody moves", "last seen", "last seen, by age"}
    for name in ("from-above", "reporting"):
        assert is_png(tmp_path / f"skirmish-{name}.png")
    older = [row for row in result["rows"] if row["predictor"] != "last seen, by age"]
    (tmp_path / "out.json").write_text(json.dumps({**result, "rows": older}))
    run("skirmish.py", *options, "--models", "s2gru", "lstm")
    again = json.loads((tmp_path / "out.json").read_text())
    assert sorted(map(str, again["rows"])) == sorted(map(str, result["rows"])), "what an older result lacks is scored"


def test_corrections_are_another_result(run, tmp_path):
    options = ["--runs", tmp_path / "runs", "--figures", tmp_path, "--corrects"]
    run("skirmish.py", *options, "--out", tmp_path / "skirmish.json", "--shares", 1.0, "--models", "s2gru")
    run("railways.py", *options, "--out", tmp_path / "railways.json")
    for name, pictures in (("skirmish", {"reporting"}), ("railways", {"enclaves", "views"})):
        rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
        assert {row["predictor"] for row in rows} >= {"S2GRU", "last seen"}
        assert {path.stem for path in tmp_path.glob(f"{name}-*.png")} == {
            f"{name}-corrected-{what}" for what in pictures
        }


def test_the_search_tries_all_and_goes_on_where_it_was(run, tmp_path):
    for rates in (["1e-3"], ["1e-3", "2e-3"]):
        run(
            "search.py", "--models", "lstm", "tto", "--runs", tmp_path / "runs", "--out", tmp_path / "out.json",
            "--learning-rates", *rates,
        )  # fmt: skip
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert sorted((run["label"], run["learning_rate"]) for run in runs) == [
        ("LSTM", 1e-3), ("LSTM", 2e-3), ("TTO", 1e-3), ("TTO", 2e-3),
    ]  # fmt: skip
    assert all(run["val_loss"] > 0 and run["commit"] for run in runs)
    with pytest.raises(SystemExit, match="no fair comparison; name the same --updates or another --out"):
        run("search.py", "--models", "lstm", "--updates", 50, "--out", tmp_path / "out.json")


def test_positions_enter_in_every_way_and_it_goes_on_where_it_was(script, tmp_path):
    options = ["--size", "tiny", "--epochs", 1, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json"]
    for models in (["s2gru"], ["s2gru", "lstm"]):
        script(EXPERIMENTS / "positions.py", *options, "--models", *models)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(run["label"], run["positions"]) for run in result["runs"]] == [
        *(("S2GRU", way) for way in ("kernel alone", "injection", "rotation")),
        *(("S2GRU", f"rotation, wavelengths from {shortest}") for shortest in (6, 24)),
        *(("S2GRU", f"rotation, frequencies {which}") for which in ("not learned", "on a grid")),
        ("S2GRU", "rotation, another one in the decoder"),
        *(("LSTM", way) for way in ("injection", "rotation", "rotation, sum normalised")),
    ]
    (static,) = result["rows"]
    assert 0 < static["val_loss"] < 1
    assert load(tmp_path / "runs" / "lstm-rotation" / MODEL).space.rotation == 12


def test_positions_enter_a_forecaster_in_every_way(script, tmp_path):
    options = ["--data", "field", "--steps", 150, "--updates", 1, "--every", 9]
    ways = ["injected", "rotated, from half of the extent, no noise"]
    for some, seed in ((ways[:1], 0), (ways, 0), (ways[:1], 1)):
        script(
            EXPERIMENTS / "positions_sensors.py", *options, "--ways", *some, "--seed", seed,
            "--runs", tmp_path, "--out", tmp_path / "out.json",
        )  # fmt: skip
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(run["positions"], run["seed"]) for run in result["runs"]] == [(ways[0], 0), (ways[1], 0), (ways[0], 1)]
    assert {row["predictor"] for row in result["rows"]} == {*BASELINES, *ways}
    spaces = [load(tmp_path / f"field-{name}-0" / MODEL).space for name in (
        "injected", "rotated-from-half-of-the-extent-no-noise")]  # fmt: skip
    assert [space.inject_positions for space in spaces] == [True, False]
    assert [space.rotation for space in spaces] == [None, spaces[1].shortest]


def test_ways_of_learning_see_as_many_frames(script, tmp_path):
    options = ["--size", "tiny", "--updates", 2, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json"]
    ways = ["as the recipes", "16 clips a batch", "16 clips, shorter memory of Adam", "32 clips that grow"]
    for some in (ways[:1], ways):
        script(EXPERIMENTS / "learning.py", *options, "--model", "lstm", "--ways", *some)
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(run["way"], run["updates"]) for run in result["runs"]] == [*zip(ways, (2, 4, 4, 2), strict=True)]
    assert result["frames"] == 2 * 32 * 8
    assert all(run["processor_seconds"] > 0 for run in result["runs"])


def test_wavelengths_are_those_of_the_kernel(script, tmp_path):
    options = ["--size", "tiny", "--updates", 1, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json"]
    for sides in ([0.5], [0.5, 1.0]):
        script(EXPERIMENTS / "wavelengths.py", *options, "--sides", *sides)
    runs = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert [run["sides"] for run in runs] == [0.5, 1.0]
    side = TASKS["skirmish"].preset("tiny").side
    waves = [Run.open(tmp_path / "runs" / f"{sides:g}-0").load_model().arguments for sides in (0.5, 1.0)]
    assert [(each["shortest"], each["longest"]) for each in waves] == [(side / 2, 8 * side), (side, 16 * side)]


def test_quality_is_counted_to_the_first_validation_that_reaches_it(script, tmp_path):
    options = ["--size", "tiny", "--models", "lstm", "--updates", 3, "--runs", tmp_path, "--out", tmp_path / "out"]
    for rate in (2e-3, 4e-3, 4e-3):
        script(BENCHMARKS / "quality.py", *options, "--losses", 0.72, 0.001, "--learning-rate", rate)
    rows = json.loads((tmp_path / "out").read_text())["rows"]
    assert [(row["way"].split(", ")[1], row["loss"], row["reached"]) for row in rows] == [
        (f"rate {rate}", loss, loss > 0.5) for rate in (0.002, 0.004) for loss in (0.72, 0.001)
    ]  # fmt: skip
    assert rows[0]["updates"] == 1
    assert rows[0]["processor_seconds"] > 0


def test_weights_are_shipped_whole_or_refused_and_modules_removed(script, tmp_path):
    for model in ("s2gru", "lstm"):
        settings = Settings(model, training=Training(updates=2))
        Run.create(tmp_path / model, settings, "balls", preset("tiny")).train(progress=False)
    settings = Settings(corrects=True, training=Training(updates=1))
    battles = Run.create(tmp_path / "battles", settings, "skirmish", TASKS["skirmish"].preset("tiny"))
    battles.train(progress=False)
    script(
        EXPERIMENTS / "pretrained.py", "--s2gru", tmp_path / "s2gru", "--lstm", tmp_path / "lstm",
        "--battles", tmp_path / "battles", "--out", tmp_path / "shipped",
    )  # fmt: skip
    runs = pretrained(tmp_path / "shipped")
    assert [run.label for run in runs] == ["LSTM", "S2GRU"]
    assert [run.label for run in pretrained(tmp_path / "shipped", "skirmish")] == ["S2GRU"]
    assert {p.dtype for run in runs for p in run.load_model().parameters()} == {torch.float32}
    scores = json.loads((tmp_path / "shipped" / "scores.json").read_text())
    assert {"S2GRU", "LSTM", "static scene", "last seen"} == {row["predictor"] for row in scores["rows"]}
    script(
        EXPERIMENTS / "removed_modules.py", "--run", tmp_path / "shipped" / "s2gru", "--balls", 1, "--draws", 2,
        "--sequences", 32, "--out", tmp_path / "out.json", "--figure", tmp_path / "figure.png",
    )  # fmt: skip
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


def test_the_benchmark_of_the_cores_runs_small(script, tmp_path):
    own = tmp_path / "own.py"
    own.write_text("from torch import nn\n\n\ndef make(i, h):\n    return nn.LSTM(i, h, batch_first=True)\n")
    script(
        BENCHMARKS / "cores.py", "--batch", 2, "--steps", 2, "--repeats", 1, "--out", tmp_path / "cores.json",
        "--compare", own,
    )  # fmt: skip
    times = json.loads((tmp_path / "cores.json").read_text())["rows"]
    assert {(row["core"], row["pass"]) for row in times} == {
        (core, direction) for core in ("S2GRU", "S2RMC", "RIMs", "RMC") for direction in ("forward", "train")
    }
    assert all(row[key] > 0 for row in times for key in ("ours", "reference", "lstm", "floor", "peak_bytes", "compare"))


def test_other_rims_are_timed_at_copying_beside_ours(script, tmp_path):
    other = tmp_path / "theirs.py"
    other.write_text("from torch import nn\n\n\ndef make(i, h):\n    return nn.GRU(i, h, batch_first=True)\n")
    options = ["--sizes", "tiny", "--batch", 2, "--blank", 3, "--repeats", 1, "--compare", other]
    script(BENCHMARKS / "copying.py", *options, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    rows = {row["model"]: row for row in result["rows"]}
    assert list(rows) == ["RIMs", "LSTM", "theirs"]
    assert rows["theirs"]["parameters"] == 3 * 24 * (24 + 24 + 2)
    assert rows["RIMs"]["times_rims"] == 1
    assert all(row["seconds"] > 0 for row in rows.values())
    assert result["steps"] == 2 * 2 + 3


def test_the_benchmark_of_small_cores_runs_small(script, tmp_path):
    script(
        BENCHMARKS / "cores.py", "--small", "--sizes", 60, 2, 3, "--threads", 1, "--repeats", 1, "--out",
        tmp_path / "out",
    )  # fmt: skip
    rows = json.loads((tmp_path / "out").read_text())["rows"]
    assert [row["core"] for row in rows] == ["RIMs", "RMC", "S2GRU"]
    assert all(row["ours"] > 0 and row["lstm"] > 0 for row in rows)


def test_springs_are_simulated_and_judged_small(script, tmp_path):
    script(
        EXPERIMENTS / "springs.py", "--sequences", 3, "--updates", 1, "--runs", tmp_path / "runs", "--out",
        tmp_path / "springs.json", "--figure", tmp_path / "springs.gif",
    )  # fmt: skip
    result = json.loads((tmp_path / "springs.json").read_text())
    assert {row["predictor"] for row in result["rows"]} == {"S2GRU", "mean", "persistence", "constant velocity"}
    assert {(row["dropped"], row["removed"]) for row in result["robustness"]} == {
        (0, 0), (0.1, 0), (0.3, 0), (0.5, 0), (0, 1), (0, 3), (0, 5),
    }  # fmt: skip
    assert (tmp_path / "springs.gif").read_bytes().startswith(b"GIF")


def test_planning_is_judged_small(script, tmp_path):
    pytest.importorskip("mpe2", reason='needs pip install ".[agents]"')
    script(
        EXPERIMENTS / "planning.py", "--recorded", 5, "--updates", 1, "--episodes", 2, "--candidates", 16, "--steps", 2,
        "--runs", tmp_path / "runs", "--out", tmp_path / "planning.json", "--figures", tmp_path,
    )  # fmt: skip
    result = json.loads((tmp_path / "planning.json").read_text())
    means = {row["predictor"]: row for row in result["means"]}
    assert set(means) == {"planned", "random", "still", "assigned"}
    of_random = [row["reward"] for row in result["rows"] if row["predictor"] == "random"]
    assert means["random"]["mean"] == pytest.approx(sum(of_random) / 2)
    assert (means["random"]["gain"]["low"], means["random"]["gain"]["high"]) == (0, 0)
    assert means["assigned"]["gain"]["mean"] > 0
    assert is_png(tmp_path / "planning.png")


def test_traffic_is_simulated_and_judged_small(script, tmp_path):
    for package in ("sumo", "libsumo"):
        pytest.importorskip(package, reason='needs pip install ".[traffic]"')
    script(
        EXPERIMENTS / "traffic.py", "--sequences", 3, "--steps", 4, "--updates", 1, "--models", "lstm", "--runs",
        tmp_path / "runs", "--out", tmp_path / "traffic.json", "--figure", tmp_path / "traffic.gif",
    )  # fmt: skip
    result = json.loads((tmp_path / "traffic.json").read_text())
    assert {row["predictor"] for row in result["rows"]} == {"LSTM", "mean", "persistence", "last seen"}
    with np.load(tmp_path / "runs" / "traffic.npz") as world:
        loops, cars = world["values"][:, :, :24], world["values"][:, :, 24:][world["mask"][:, :, 24:]]
        assert world["mask"][:, :, :24].all()
    assert np.isnan(loops[..., :2]).all()
    assert 0 <= loops[..., 3].min() <= loops[..., 3].max() <= 1
    assert np.isnan(cars[:, 2:]).all()
    assert 0 <= cars[:, 0].min() < cars[:, 0].max() < 1.2 * 13.9  # m/s; some drive a fifth faster than is allowed
    assert len(cars) > 50
    assert (tmp_path / "traffic.gif").read_bytes().startswith(b"GIF")


SMALL = {
    "data_waits.py": ["--task", "arrays", "--size", "tiny", "--updates", 2],
    "denormals.py": ["--steps", 3, "--hidden", 12, "--repeats", 1],
    "packing.py": ["--steps", 120, "--updates", 1, "--repeats", 1],
    "precision.py": ["--size", "tiny", "--updates", 2],
    "throughput.py": ["--batch", 2, "--steps", 3, "--repeats", 1],
    "updates.py": ["--size", "tiny", "--models", "lstm", "--batch", 2, "--repeats", 1],
    "updates_since.py": [
        "--before",
        BENCHMARKS.parent / "src",
        "--size",
        "tiny",
        "--models",
        "gru",
        "--batch",
        2,
        "--repeats",
        1,
    ],
    "where_time_goes.py": ["--batch", 2, "--steps", 2],
}


@pytest.mark.parametrize("name", SMALL)
def test_the_other_benchmarks_run_small(name, script, tmp_path):
    script(BENCHMARKS / name, *SMALL[name], "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out").read_text())
    assert {"command", "commit", "hardware", "seed"} <= result.keys()
    assert result["rows"]


def test_the_benchmark_of_streaming_runs_small(tmp_path):
    # In a process of its own: the tests check shapes at run time, which does not compile.
    command = [sys.executable, BENCHMARKS / "streaming.py", "--repeats", "2", "--out", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    rows = json.loads((tmp_path / "out").read_text())["rows"]
    assert len(rows) == 4
    assert all(row["milliseconds"] > 0 for row in rows)


def test_sequences_are_trained_and_a_second_call_trains_what_is_missing(run, tmp_path):
    options = ["--runs", tmp_path, "--figures", tmp_path / "figures", "--seeds", 1]
    for models in (["rims"], ["rims", "gru"]):
        run("sequences.py", "copying", *options, "--models", *models, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(run["label"], run["updates"]) for run in result["runs"]] == [("RIMs", 3), ("GRU", 3)]
    assert [(row["predictor"], row["size"]) for row in result["rows"]] == [
        ("RIMs", 3), ("constant", 3), ("RIMs", 5), ("constant", 5), ("GRU", 3), ("GRU", 5),
    ]  # fmt: skip
    for name in ("activity", "masked"):
        assert is_png(tmp_path / "figures" / f"copying-{name}.png")
    run("sequences.py", "copying", *options, "--ablations", "--out", tmp_path / "without.json")
    labels = [
        "RIMs without communication", "RIMs without selection", "RIMs, one head",
        "RIMs without chrono initialisation", "LSTM without chrono initialisation",
    ]  # fmt: skip
    assert [run["label"] for run in json.loads((tmp_path / "without.json").read_text())["runs"]] == labels
    cores = [
        Run.open(tmp_path / "copying" / f"tiny-{name}-0").load_model().core
        for name in ("rims-without-communication", "rims-without-selection", "rims-one-head")
    ]
    assert [(core.num_active, core.layers[0].communication.num) for core in cores] == [(4, 0), (6, 4), (4, 1)]


def test_an_object_is_picked_up_among_distractors(script, tmp_path):
    pytest.importorskip("sb3_contrib", reason='needs pip install ".[policies]"')
    options = ["--frames", 160, "--environments", 2, "--steps", 40, "--hidden-size", 12, "--episodes", 2]
    options += [
        "--cores",
        "RIMs",
        "no memory, not normalised",
        "--tested",
        1,
        "--out",
        tmp_path / "out.json",
        "--figures",
        tmp_path,
    ]
    for seeds in (1, 2):
        script(EXPERIMENTS / "picking.py", *options, "--seeds", seeds)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    tested = [(row["predictor"], row["seed"], row["data"], row["size"]) for row in rows if "step" not in row]
    assert tested == [
        (name, seed, which, 1)
        for seed in (0, 1)
        for name in ("RIMs", "no memory, not normalised", "random")
        for which in ("as in training", "new")
    ]
    during = [row for row in rows if "step" in row]
    assert {row["predictor"] for row in during} == {"RIMs", "no memory, not normalised"}
    assert all(0 < row["step"] <= 160 and row["data"] == "during training" for row in during)
    assert (tmp_path / "picking.png").is_file()
    assert all(0 <= row["success"] <= 1 for row in rows)


def test_policies_with_and_without_a_memory_play_a_game(script, tmp_path):
    pytest.importorskip("ale_py", reason='needs pip install ".[atari]"')
    options = ["--games", "pong", "--environments", 2, "--between", 100, "--hidden-size", 12, "--figures", tmp_path]
    more = ["--cores", "no memory", "--steps", 2200, "--out", tmp_path / "out.json"]
    script(EXPERIMENTS / "atari.py", *options, *more)
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    (spread,) = (row["spread"] for row in rows if "spread" in row)
    assert spread > 0
    rows = [row for row in rows if "score" in row]
    assert {row["predictor"] for row in rows} == {"no memory", "random"}
    assert all(-21 <= row["score"] <= 21 for row in rows)
    assert max(row["step"] for row in rows if row["predictor"] == "no memory") == 2200
    assert (tmp_path / "atari.png").is_file()
    with pytest.raises(SystemExit, match="expected enough for an episode of pong to end"):
        script(
            EXPERIMENTS / "atari.py",
            *options,
            "--cores",
            "RIMs, normalised",
            "--steps",
            200,
            "--out",
            tmp_path / "other.json",
        )


def test_a_first_guess_stands_beside_the_best_obvious_predictor(script, tmp_path):
    script(EXPERIMENTS / "first_guess.py", "--data", "field", "--out", tmp_path / "out.json")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert {(row["sensors"], row["lead"]) for row in rows} == {
        *(("held out", lead) for lead in (0, 1, 3, 6)), *(("seen", lead) for lead in (1, 3, 6)),
    }  # fmt: skip
    assert all(row["best"] in BASELINES for row in rows)
    assert all(row["mae"] < 2 * row["best_mae"] and row["crps"] < row["mae"] for row in rows), (
        "a guess, if of little data"
    )
    assert all(row["best_crps"] < row["best_mae"] for row in rows)


def test_scenarios_are_scored_beside_independent_draws(script, tmp_path):
    options = ["--data", "field", "--updates", 1, "--num", 6, "--origins", 2, "--runs", tmp_path / "runs"]
    script(EXPERIMENTS / "scenarios.py", *options, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    rows = {(row["predictor"], row["value"], row["sensors"]): row for row in result["rows"]}
    names = {name for name, *_ in rows}
    assert names == {
        "independent draws", "scenarios", "scenarios of a common size", "Schaake shuffle", "ranks of past errors",
        "copula of the test's errors", "independent draws, if true", "scenarios, if true",
    }  # fmt: skip
    for (name, value, sensors), row in rows.items():
        assert value in ("tracer", "all"), "a direction has no energy score"
        assert row["crps, each"] == pytest.approx(row["crps, Gaussian"], rel=0.2), name
        assert row["energy, lead times"] > 0
        assert sensors == "seen" or name not in ("Schaake shuffle", "ranks of past errors")
    assert len(rows) == len(result["rows"]) == 4 * 4 + 2 * 2 + 2
    mean, unit = (rows["scenarios", value, "seen"]["crps, Gaussian"] for value in ("tracer", "all"))
    assert mean != pytest.approx(unit), "values together are in standard deviations of each"


def test_blind_rollouts_of_a_variational_model_are_scored(script, tmp_path):
    run = Run.create(tmp_path / "start", Settings(training=Training(updates=1, batch_size=4)), "balls", preset("tiny"))
    run.train(progress=False)
    script(
        EXPERIMENTS / "variational.py", "--run", tmp_path / "start", "--updates", 2, "--sequences", 3, "--samples", 4,
        "--steps", 4, "--runs", tmp_path / "runs", "--out", tmp_path / "out.json", "--figures", tmp_path,
    )  # fmt: skip
    made = json.loads((tmp_path / "out.json").read_text())
    rows = {(row["predictor"], row["step"]): row for row in made["rows"]}
    assert {run["label"] for run in made["runs"]} == {"S2GRU", "S2GRU, variational", "S2GRU, shipped"}
    for step in range(5):
        plain, sampled = rows["S2GRU", step], rows["S2GRU, variational", step]
        assert plain["log_likelihood"] == pytest.approx(plain["of_a_sample"])
        assert plain["f1_of_two_samples"] == 1 or not plain["f1_of_a_sample"]
        assert sampled["log_likelihood"] >= sampled["of_a_sample"] - 1e-6, "Jensen"
        assert step or sampled["log_likelihood"] == pytest.approx(sampled["of_the_mean_frame"])
    assert is_png(tmp_path / "variational.png")


def test_episodes_that_end_early_count_no_more_often(monkeypatch):
    for package in ("minigrid", "sb3_contrib"):
        pytest.importorskip(package, reason='needs pip install ".[policies]"')
    monkeypatch.syspath_prepend(EXPERIMENTS)
    success = runpy.run_path(str(EXPERIMENTS / "picking.py"))["success"]

    class Environments:
        """Half of the episodes succeed, after 5 steps; the others last 64."""

        def seed(self, seed):
            self.random, self.left, self.good = np.random.default_rng(seed), np.zeros(8, int), np.zeros(8, bool)

        def reset(self):
            self.start(np.ones(8, bool))
            return np.zeros((8, 1))

        def start(self, which):
            self.good[which] = self.random.random(which.sum()) < 0.5
            self.left[which] = np.where(self.good, 5, 64)[which]

        def step(self, actions):
            self.left -= 1
            ends, rewards = self.left == 0, self.good * 1.0
            self.start(ends)
            return actions, rewards, ends, [{}] * 8

    success.__globals__["environments"] = lambda number, **options: Environments()
    found = [success(lambda seen, state, starts: (seen, state), 200, seed) for seed in range(100)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.009)  # four standard errors; of those that end first, 0.514


def test_a_car_that_waits_over_a_loop_counts_once(tmp_path):
    for package in ("sumo", "libsumo"):
        pytest.importorskip(package, reason='needs pip install ".[traffic]"')
    program = runpy.run_path(str(EXPERIMENTS / "traffic.py"))
    net, additional, _ = program["streets"](tmp_path, 24)
    _, counted = program["drive"](net, additional, 24, 0)
    number, share = counted[..., 0], counted[..., 1]
    assert (share > 0.95).any(), "some car waits for a whole step"
    assert number[share > 0.95].max() <= 2
    assert (number[share > 0] >= 1).all()


def test_traffic_slows_in_rush_hours_of_working_days():
    sys.path.insert(0, str(EXPERIMENTS))
    try:
        from detectors import Traffic
    finally:
        sys.path.remove(str(EXPERIMENTS))
    reports = Traffic(num_detectors=40, num_roads=2).reports()
    again = Traffic(num_detectors=40, num_roads=2).reports()
    assert (reports.values == again.values).all()
    assert reports.num_steps == 7 * 288
    hour, day = reports.step % 288 // 12, reports.step // 288
    rush, working = np.isin(hour, (7, 8, 17, 18)), ~np.isin(day, (2, 3))  # it begins on a Thursday
    speed = reports.values[:, 0]
    assert speed[rush & working].mean() < speed[rush & ~working].mean() - 3
    assert abs(speed[~rush & working].mean() - speed[~rush & ~working].mean()) < 3


def test_the_shipped_forecaster(script, tmp_path):
    script(EXPERIMENTS / "pretrained_field.py", "--updates", 1, "--out", tmp_path)
    names = [line.split()[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()]
    assert names == sorted(f"field/{name}" for name in PARTS)
    fitted, later = field_reports()
    assert later.start == fitted.start + fitted.num_steps * fitted.step_length
    forecaster = Forecaster.load(tmp_path / "field")
    mean, _ = forecaster.forecast(later, stations(later), horizon=1)
    assert np.isfinite(mean).all()


def test_every_recipe_and_benchmark_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    parts = {
        "claims.py",
        "claims_sensors.py",
        "claims_sequences.py",
        "common.py",
        "detectors.py",
        "page.py",
        "presets.py",
    }  # of others
    parts |= {"chaos.py", "explorer.py"}  # tested by what they import, and by what they measure in a browser
    scripts = {path.name for folder in (EXPERIMENTS, BENCHMARKS) for path in folder.glob("*.py")}
    assert parts < scripts
    assert {name for name in scripts - parts if f'"{name}"' not in tests} == set()
