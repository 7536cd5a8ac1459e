"""What is refused before the work, what is set aside, and what a folder survives."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from s2rm.cli.parts import digest_of
from s2rm.folders import fingerprint, locked
from s2rm.models.world_model import WorldModel
from s2rm.sensors import Columns, Fit, Forecaster, Places, Reports, grid, judge, next_sensor, stations, to_frame
from s2rm.sensors.ahead import own_sensors
from s2rm.sensors.checks import (
    check_clock,
    check_leads,
    check_origin,
    check_origins,
    check_places,
    check_positions,
    check_sensors,
)
from s2rm.sensors.fitting import finish, periods
from s2rm.sensors.given import mask_of, numbers, whole_number
from s2rm.sensors.judging.judge import split
from s2rm.sensors.judging.predictors import Persistence
from s2rm.sensors.learnable import check_learnable
from s2rm.sensors.reports import ROWS, merge
from s2rm.sensors.scaling import Scaling
from s2rm.training import Training

PLANE = Columns("time", ("x", "y"), ("level", "flow"), "gauge", ("height",), globe=False)
HOW = Fit(
    num_modules=2, hidden_size=4, context=12, horizon=6, training=Training(epochs=1, batch_size=8, learning_rate=1e-3)
)


def river(num_steps=60, num_sensors=3, columns=PLANE, shift=0.0):
    """Gauges along a river, at every step."""
    generator = np.random.default_rng(5)
    step, sensor = (part.ravel() for part in np.indices((num_steps, num_sensors)))
    places = np.stack([np.arange(num_sensors) * 10.0, np.arange(num_sensors) ** 2.0], 1)
    level = np.sin(step / 5 + sensor) + shift
    values = np.stack([level, generator.normal(size=len(step))], 1).astype(np.float32)
    height = (100.0 + sensor[:, None]).astype(np.float32)
    names = tuple(f"g{index}" for index in range(num_sensors))
    start = np.datetime64("2020-05-01T00", "us")
    return Reports(columns, start, num_steps, names, step, sensor, places[sensor], values, height)


def moved(reports, rows, steps):
    """The reports with some rows at another time, in order."""
    step = reports.step.copy()
    step[rows] += steps
    shift = min(0, int(step.min()))
    order = np.lexsort((reports.sensor, step))
    rows = {name: getattr(reports, name)[order] for name in ROWS} | {"step": step[order] - shift}
    start = reports.start + shift * reports.step_length
    return replace(reports, start=start, num_steps=int(step.max()) - shift + 1, **rows)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("river")
    return Forecaster.fit(river(), folder, HOW, progress=False), folder


@pytest.mark.parametrize("steps", [-5000, 5000, 200])
def test_one_wrong_clock_is_named_before_a_fit_and_before_a_split(steps, tmp_path):
    reports = moved(river(120), [150], steps)  # sensor 0 at step 50
    expected = np.datetime64("2020-05-03T02", "s") + np.timedelta64(steps, "h")
    told = f"got 1 of 360 .* the first of sensor 'g0' at {expected}; correct the times"
    for work in (check_clock, lambda some: split(some, 0.2, 0.2), lambda some: Forecaster.fit(some, tmp_path, HOW)):
        with pytest.raises(ValueError, match=told):
            work(reports)
    assert not [*tmp_path.iterdir()]


def test_a_sensor_of_another_year_is_named():
    reports = river(120)
    with pytest.raises(ValueError, match=r"got 120 of 360 that 49,\d+ steps part .* sensor 'g1' at 2014"):
        check_clock(moved(reports, reports.sensor == 1, -50_000))


def test_gaps_of_true_tables_are_allowed():
    reports = river(400)
    check_clock(reports.where((reports.step < 100) | (reports.step > 350)))
    check_clock(reports.where(reports.step % 90 == 0))
    check_clock(reports.between(0, 0))


def test_what_the_training_part_does_not_hold_is_named_before_training():
    reports = river(100)
    train, validation = reports.between(0, 80), reports.between(80, 100)
    early = train.step[:, None] < 80

    def having(flow):
        return replace(train, values=np.where(early & [False, True], flow, train.values).astype(np.float32))

    with pytest.raises(ValueError, match="expected 'flow' to change in the training part, .*04T07.*, got 3 throughout"):
        check_learnable(having(3), validation)
    rare = np.where(np.arange(len(train)) < 5, 1.0 * np.arange(len(train)), np.nan)[:, None]
    for flow, number in ((np.nan, 0), (rare, 5)):
        with pytest.raises(ValueError, match=f"expected at least 8 observations of 'flow' .*, got {number}; leave it"):
            check_learnable(having(flow), validation)
    with pytest.raises(ValueError, match="expected the covariate 'height' in the training part"):
        check_learnable(replace(train, covariates=np.full_like(train.covariates, np.nan)), validation)
    with pytest.raises(ValueError, match="expected observations in the validation part, 2020-05-04T08.*, got none"):
        check_learnable(train, validation.where(validation.step < 0))
    with pytest.warns(UserWarning, match="the covariate 'height' is 7 at all stations"):
        check_learnable(replace(train, covariates=np.full_like(train.covariates, 7)), validation)


def test_what_never_differed_counts_nothing_and_what_differs_far_is_told(fitted):
    reports = river()
    same = Scaling.of(replace(reports, covariates=np.full_like(reports.covariates, 10.1)))
    assert same.covariate_spread == (0.0,)
    known = same.known(np.array([[10.1], [12.0], [1000.0], [np.nan]], np.float32))
    torch.testing.assert_close(known[:, 0], torch.tensor([0, 0, 0, torch.nan]), equal_nan=True)
    assert same.unlike(np.array([[10.1]], np.float32)).tolist() == [False]
    assert same.unlike(np.array([[10.2]], np.float32)).tolist() == [True]
    tiny = Scaling.of(replace(reports, covariates=reports.covariates * np.float32(1e-9)))
    torch.testing.assert_close(tiny.known(reports.covariates * 1e-9), Scaling.of(reports).known(reports.covariates))
    made, _ = fitted
    high = stations(reports)._replace(covariates=np.full((3, 1), 500, np.float32))
    with pytest.warns(UserWarning, match="height of a place lies far from all"):
        made.forecast(reports, high)


@pytest.mark.parametrize("globe", [False, True])
def test_one_place_is_no_scale(globe):
    columns = replace(PLANE, globe=globe)
    reports = river(columns=columns)
    reports = replace(reports, positions=np.tile([[7.0, 50.0]], (len(reports), 1)))
    scaling = Scaling.of(reports)
    assert scaling.side == scaling.extent == 1
    away = scaling.coordinates(np.array([[7.0, 50.0], [7.0, 50.5]]))
    assert (away[0] - away[1]).norm() == pytest.approx(np.radians(0.5) if globe else 0.5, rel=1e-4)
    with pytest.warns(UserWarning, match="all observations are of one place"):
        check_learnable(reports.between(0, 50), reports.between(50, 60))


def test_indices_are_looked_at(fitted):
    made, _ = fitted
    reports = river()
    places = stations(reports)
    for origins, told in (([], "at least one origin"), (True, "whole step"), ([60], "within")):
        for forecast in (made.forecast, made.interpolate):
            with pytest.raises(ValueError, match=told):
                forecast(reports, places, origins)
    with pytest.raises(ValueError, match="at least one step"):
        made.forecast(reports.between(0, 0), places)
    for horizon, told in (
        (601, "at most 600 steps"),
        ("1000D", "at most 600"),
        (True, "a duration"),
        (0, "a duration"),
    ):
        with pytest.raises(ValueError, match=told):
            made.forecast(reports, places, horizon=horizon)
    asked = (places.positions, places.covariates, np.arange(3))
    baseline = Persistence().fit(reports)
    for predictor in (made, baseline):
        for leads in ([], [-1], [1, -2], [True]):
            with pytest.raises(ValueError, match="expected leads of 0 steps or more"):
                predictor.predict(reports, 50, *asked, leads)
        for origin in (-1, 60):
            with pytest.raises(ValueError, match=f"expected an origin from 0 to 59, .*, got {origin}"):
                predictor.predict(reports, origin, *asked, [1])
    with pytest.raises(ValueError, match="one sensor for each of 3 queries"):
        check_sensors(np.array([0]), reports, 3)
    nobody, predictors = np.zeros(3, bool), {"persistence": baseline}
    for origins, mask, told in (
        ([], nobody, "at least one origin"), ([-1], nobody, "from 0 to 59"), ([60], nobody, "from 0 to 59"),
        ([5], nobody[:2], "for each of 3 sensors"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            judge(predictors, reports, np.array(origins, np.int64), [1], mask)
    with pytest.raises(ValueError, match="expected leads"):
        judge(predictors, reports, np.array([5]), [], nobody)


def test_places_are_looked_at_and_there_may_be_none(fitted):
    made, _ = fitted
    reports, unknown = river(), np.full((1, 1), np.nan, np.float32)
    for positions, covariates, told in (
        ([[1.0, np.nan]], unknown, "the position of place 0"),
        ([[1.0, 2.0, 3.0]], unknown, r"positions of shape \(1, 2\)"),
        ([[1.0, 2.0]], unknown[:, :0], r"covariates of shape \(1, 1\), got \(1, 0\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            made.forecast(reports, Places(np.array(positions), covariates))
    none = Places(np.zeros((0, 2)), unknown[:0])
    assert made.forecast(reports, none)[0].shape == (1, 6, 0, 2)
    assert made.forecast_from(made.step(None, reports), none)[0].shape == (6, 0, 2)


def test_silence_before_an_origin_is_told(fitted):
    made, _ = fitted
    reports = replace(river(), num_steps=80)
    with pytest.warns(UserWarning, match="no observation in the 12 steps until 2020-05-04T07:00:00"):
        assert np.isfinite(made.forecast(reports, stations(reports))[0]).all()
    assert np.isfinite(made.forecast(reports, stations(reports), origins=[70])[0]).all()


def test_what_many_forecasts_warn_of_is_said_once():
    class Wary(Persistence):
        def predict(self, shown, origin, *asked):
            warnings.warn(f"forecast: no observation until 2020-05-01T{origin}:00", stacklevel=2)
            return super().predict(shown, origin, *asked)

    reports = river()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        judge({"wary": Wary().fit(reports)}, reports, [11, 12, 13], [1], np.zeros(3, bool), silent=0.0)
    said = "forecast: no observation until 2020-05-01T11:00 (and 2 more that differ in numbers or times only)"
    assert [str(each.message) for each in told] == [said]


def test_the_silence_of_one_value_is_told(fitted):
    made, _ = fitted
    reports = river()
    reports.values[reports.step > 40, 0] = np.nan
    with pytest.warns(
        UserWarning, match="no value of 'level' in the 12 steps until .*; the forecast is that of an aver"
    ):
        made.forecast(reports, stations(reports))


def test_a_place_is_a_sensors_by_its_name_or_where_that_last_reported(fitted):
    made, _ = fitted
    reports, scaling = river(), made.scaling
    there, covariates = np.array([[0.0, 0.0], [10.0, 1.0], [20.0, 4.0]]), np.full((3, 1), np.nan, np.float32)
    assert own_sensors(reports, Places(there, covariates), scaling).tolist() == [0, 1, 2]
    assert own_sensors(reports, Places(there, covariates, ("new", "g1", "other")), scaling).tolist() == [0, 1, 2]
    with pytest.warns(UserWarning, match="2 places, first 'g1', are far from where the sensors of their names last"):
        assert own_sensors(reports, Places(there, covariates, ("g1", "g0", "g2")), scaling).tolist() == [0, 1, 2]
    drifting = replace(reports, positions=reports.positions + 0.1 * reports.step[:, None])
    where = stations(drifting).positions
    near = Places(where + 3, covariates, ("g0", "g1", "g2"))
    assert own_sensors(drifting, near, scaling).tolist() == [0, 1, 2], "a little further on it is itself"
    ahead = Places(where + np.array([[3, 0], [0, 3], [30, 0]]), covariates, ("g0", "g1", "g2"))
    with pytest.warns(UserWarning, match="1 places, first 'g2', are far from where the sensors of their names last"):
        assert own_sensors(drifting, ahead, scaling).tolist() == [0, 1, -1]


def test_a_station_that_is_asked_for_elsewhere_has_no_last_observation(fitted):
    made, _ = fitted
    reports = river()
    asked = stations(reports)._replace(names=("g1", "g0", "g2"))
    with pytest.warns(UserWarning, match="2 places, first 'g1', are far"):
        table = made.table(reports, asked, horizon=1)
    assert table.last_observation.isna().tolist() == [True, True, False]
    assert not table.silent.any()


def test_two_deliveries_of_one_step_add_up():
    reports = river()
    before, last = reports.between(0, 59), reports.between(59, 60)
    parts = [replace(last, values=last.values.copy()) for _ in range(2)]
    for index, part in enumerate(parts):
        part.values[:, index] = np.nan
    whole = merge(before, last)
    for order in (parts, parts[::-1]):
        both = merge(merge(before, order[0]), order[1])
        np.testing.assert_array_equal(both.values, whole.values)
        np.testing.assert_array_equal(both.step, whole.step)
    corrected = replace(last, values=last.values + 1)
    np.testing.assert_array_equal(merge(whole, corrected).values[-3:], last.values + 1)


def test_the_digest_of_a_table_is_of_its_times_too():
    reports = river()
    others = [reports, replace(reports, start=reports.start + np.timedelta64(1, "h")), replace(reports, num_steps=61)]
    assert len({digest_of(each) for each in others}) == 3


def test_the_last_report_of_a_wrong_clock_is_no_origin(fitted):
    made, _ = fitted
    reports = moved(river(), [100], 3000)
    with pytest.raises(ValueError, match="forecast: expected observations of one period, .* or name the origin"):
        made.table(reports, stations(river()))
    assert check_origins(5, reports).tolist() == [5]
    assert check_origins(None, moved(river(), [100], -3000)).tolist() == [3033 - 33 + 59 - 33]


def test_a_stream_refuses_a_far_time_and_takes_the_next(fitted):
    made, _ = fitted
    reports = river(60)
    stream = made.step(None, reports.between(0, 30))
    for hours in (12 * 15 + 1, 24 * 365, 24 * 36_500):
        far = replace(reports.between(30, 31), start=stream.recent.times[-1] + np.timedelta64(hours, "h"))
        with pytest.raises(
            ValueError, match=r"at most 180 steps after the last, of 2020-05-02T05.*of sensor 'g0' of 2"
        ):
            made.step(stream, far)
    after = made.step(stream, reports.between(30, 31))
    assert after.recent.num_steps == 12
    assert (after.recent.step == 11).sum() == 3
    later = replace(reports.between(30, 31), start=stream.recent.times[-1] + np.timedelta64(180, "h"))
    resumed = made.step(stream, later)
    assert len(resumed.recent) == 3
    assert np.isfinite(made.forecast_from(resumed, stations(reports))[0]).all()


def test_a_stream_sets_aside_what_is_too_old(fitted):
    made, _ = fitted
    reports = river(60)
    stream = made.step(None, reports.between(0, 30))
    old = replace(reports.between(30, 31), start=np.datetime64("1970-01-01", "us"))
    with pytest.warns(UserWarning, match="3 reports are too old .* sensor 'g0' of 1970-01-01T00"):
        after = made.step(stream, old)
    assert after.recent.num_steps == 12
    np.testing.assert_array_equal(after.recent.values, stream.recent.values)


def test_a_stream_forgets_the_sensors_that_are_gone(fitted):
    made, _ = fitted
    reports, stream = river(60), None
    for step in range(40):
        now = reports.between(step, step + 1)
        stream = made.step(stream, replace(now, sensors=tuple(f"{name} {step}" for name in now.sensors)))
    assert len(stream.recent.sensors) == 3 * 12
    assert set(stream.recent.sensors) == {f"g{index} {step}" for index in range(3) for step in range(28, 40)}


def test_a_table_without_rows_leaves_a_stream_as_it_is(fitted):
    pandas = pytest.importorskip("pandas")
    made, _ = fitted
    stream = made.step(None, river(20))
    assert made.step(stream, pandas.DataFrame({name: [] for name in PLANE.named})) is stream


def test_a_stream_belongs_to_its_forecaster(fitted, tmp_path):
    made, _ = fitted
    stream = made.step(None, river(20))
    stream.save(tmp_path / "stream")
    other = Forecaster.fit(river(shift=3.0), tmp_path / "other", HOW, progress=False)
    assert other.fingerprint != made.fingerprint
    with pytest.raises(ValueError, match="was not saved by this forecaster .it is of another fit"):
        other.load_stream(tmp_path / "stream")
    for work in (lambda: other.step(stream, river(20)), lambda: other.forecast_from(stream, grid(river(), 2))):
        with pytest.raises(ValueError, match="stream of another forecaster"):
            work()


def test_parts_of_two_fits_and_numbers_that_are_none_are_refused(fitted, tmp_path):
    _, folder = fitted
    other = tmp_path / "other"
    Forecaster.fit(river(shift=3.0), other, HOW, progress=False)
    assert not (other / "fitting").exists()
    assert {path.name for path in other.iterdir()} == {
        "checkpoints",
        "forecaster.json",
        "logs",
        "model",
        "summary.json",
    }
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    shutil.copy(other / "forecaster.json", mixed)
    with pytest.raises(ValueError, match="its scaling and its weights are not of one fit"):
        Forecaster.load(mixed)
    kept = json.loads((other / "forecaster.json").read_text())
    for name, part, told in (
        ("side", float("nan"), "not JSON compliant"), ("context", 0, "context and horizon must be"),
        ("context", "12", "context and horizon must be"),
    ):  # fmt: skip
        changed = {**kept, "scaling": {**kept["scaling"], name: part}} if name == "side" else {**kept, name: part}
        (mixed / "forecaster.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=told):
            Forecaster.load(mixed)


class Killed(BaseException):
    pass


def test_a_refit_that_is_killed_leaves_the_forecaster_and_goes_on(tmp_path, monkeypatch):
    slow = replace(HOW.training, epochs=3, learning_rate=1e-4)  # so that the second epoch is better too
    reports, how = river(), replace(HOW, training=slow)
    before = Forecaster.fit(reports, tmp_path, HOW, progress=False).fingerprint
    whole = Forecaster.fit(river(shift=5.0), tmp_path / "whole", how, progress=False).fingerprint
    save, count = WorldModel.save, iter(range(9))

    def killed(self, folder):
        if next(count) == 1:
            raise Killed
        save(self, folder)

    monkeypatch.setattr(WorldModel, "save", killed)
    with pytest.raises(Killed):
        Forecaster.fit(river(shift=5.0), tmp_path, how, progress=False)
    assert Forecaster.load(tmp_path).fingerprint == before
    monkeypatch.undo()
    assert (tmp_path / "fitting" / "checkpoints" / "last.ckpt").is_file()
    assert Forecaster.fit(river(shift=5.0), tmp_path, how, progress=False).fingerprint == whole
    assert not (tmp_path / "fitting").exists()


def test_a_fit_that_is_half_way_says_so(tmp_path, monkeypatch):
    def killed(self, folder):
        raise Killed

    monkeypatch.setattr(WorldModel, "save", killed)
    with pytest.raises(Killed):
        Forecaster.fit(river(), tmp_path, HOW, progress=False)
    with pytest.raises(ValueError, match="is not finished; start it again"):
        Forecaster.load(tmp_path)


def test_a_fit_that_is_killed_while_it_is_put_in_place_counts(fitted, tmp_path, monkeypatch):
    _, folder = fitted
    wanted = Forecaster.fit(river(shift=5.0), tmp_path / "other", HOW, progress=False).fingerprint
    for stop in range(4):
        place = tmp_path / str(stop)
        shutil.copytree(folder, place)
        shutil.copytree(tmp_path / "other", place / "fitting")
        written = iter(range(9))

        def part(path, content, written=written, stop=stop):
            if next(written) == stop:
                raise Killed
            path.write_bytes(content)

        monkeypatch.setattr("s2rm.folders.write_whole", part)
        with pytest.raises(Killed):
            finish(place)
        monkeypatch.undo()
        assert Forecaster.load(place).fingerprint == wanted
        (place / "forecaster.jsonabc.part").write_bytes(b"half")
        (place / ".0123456789abcdef.part").write_bytes(b"half")
        finish(place)
        assert Forecaster.load(place).fingerprint == wanted
        assert {path.name for path in place.iterdir()} == {path.name for path in (tmp_path / "other").iterdir()}


def test_one_writer_at_a_time_and_none_after_it_is_killed(tmp_path):
    folder = tmp_path / "new"
    code = (
        "import sys; from s2rm.folders import locked\nwith locked(sys.argv[1], 'fit'): print('in', flush=True); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"in\n"
    with pytest.raises(ValueError, match="another process is writing into"), locked(folder, "fit"):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    with locked(folder, "fit"), locked(folder, "fit"):
        pass
    assert not [*folder.iterdir()]
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="expected a folder, found a file"), locked(tmp_path / "file", "fit"):
        pass


def test_a_fingerprint_tells_names_shapes_and_numbers_apart():
    base = {"a": np.arange(6.0)}
    assert fingerprint([1], base) == fingerprint([1], {"a": np.arange(6.0)})
    others = ({"b": np.arange(6.0)}, {"a": np.arange(6.0).reshape(2, 3)}, {"a": np.arange(6)}, {"a": -np.arange(6.0)})
    assert len({fingerprint([1], other) for other in (base, *others)} | {fingerprint([2], base)}) == 6


def test_the_command_goes_on_with_a_fit_that_was_killed(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    from s2rm.cli import main
    from s2rm.sensors import to_frame

    table, out = tmp_path / "river.csv", tmp_path / "run"
    to_frame(river(150, 5)).to_csv(table, index=False)
    named = ["--time", "time", "--position", "x", "y", "--values", "level", "flow", "--sensor", "gauge"]
    quick = ["--hidden-size", "4", "--num-modules", "2", "--context", "12", "--horizon", "6", "--epochs", "1"]
    command = ["fit", str(table), *named, *quick, "--out", str(out)]

    def killed(self, folder):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(WorldModel, "save", killed)
        with pytest.raises(Killed):
            main(command)
    assert {path.name for path in out.iterdir()} == {"fit.json", "parts.json", "fitting"}
    with pytest.raises(SystemExit):
        main([*command, "--seed", "3"])
    assert "holds a fit of other settings" in capsys.readouterr().err
    monkeypatch.setattr("s2rm.cli.sensors.BASELINES", {})
    monkeypatch.setattr("s2rm.cli.sensors.judge", lambda *arguments, **options: [])
    monkeypatch.setattr("s2rm.cli.sensors.write_sensor_report", lambda path, *arguments: path.write_text("page"))
    main(command)
    assert Forecaster.load(out).horizon == 6
    with pytest.raises(SystemExit):
        main(command)
    assert "exists already" in capsys.readouterr().err


def test_few_or_no_observations_to_choose_by(tmp_path):
    reports = river(100)
    train, validation = reports.between(0, 80), reports.between(80, 100)
    with pytest.warns(UserWarning, match="expected observations in the validation part, 2020-05-04T08.*, got 3, on"):
        check_learnable(train, validation.where(validation.step == 4))
    with pytest.raises(ValueError, match="expected observations in the validation part, .*, got none"):
        check_learnable(train, validation.where(validation.step < 0))


def test_places_that_cannot_be_told_apart_are_named():
    reports = river(60, num_sensors=5)
    far = np.where(reports.sensor[:, None] == 4, -9999.0, reports.positions)
    with pytest.warns(UserWarning, match=r"sensor 'g4' at \[-9999.0, -9999.0\] lies more than 8 times as far away"):
        check_learnable(replace(reports, positions=far), reports)
    globe = replace(reports, columns=replace(PLANE, globe=True), positions=50 + 1e-8 * reports.positions)
    with pytest.warns(UserWarning, match="all places lie within some metres"):
        check_learnable(globe, reports)


def test_a_single_late_report_of_a_short_table_is_named():
    with pytest.raises(ValueError, match="got 1 of 60 that"):
        check_clock(moved(river(20), [7], 300))


def test_a_covariate_is_dropped_only_where_rounding_hides_it():
    reports = river()
    some = Scaling.of(replace(reports, covariates=np.float32(2_459_000) + reports.sensor[:, None].astype(np.float32)))
    assert some.known(np.array([[2_459_000], [2_459_002]], np.float32)).diff(dim=0).item() > 2


def test_reports_unlike_those_of_the_fit_are_named(fitted):
    made, _ = fitted
    reports = river()
    odd = replace(
        reports, values=np.where((reports.step[:, None] == 30) & [True, False], -999, reports.values).astype(np.float32)
    )
    with pytest.warns(UserWarning, match="'level' is -999 in a report, far from what the fit saw"):
        made.forecast(odd, stations(odd), origins=40)
    made.forecast(odd, stations(odd), origins=20)
    kelvin = reports.values + np.array([15 * made.scaling.width[0], 0], np.float32)  # 273, where they spread by 18
    with pytest.warns(UserWarning, match="'level' is .* in a report, far from what the fit saw"):
        made.forecast(replace(reports, values=kelvin), stations(reports), origins=40)
    fahrenheit = reports.values + np.array([5 * made.scaling.width[0], 0], np.float32)  # such as 60 for 10, by 10
    with pytest.warns(UserWarning, match="'level' is about .* in the reports, far from what .* fit anew if it has"):
        made.forecast(replace(reports, values=fahrenheit), stations(reports), origins=40)
    now = reports.between(40, 41)
    made.step(None, replace(now, values=now.values + np.array([5 * made.scaling.width[0], 0], np.float32)))
    with pytest.warns(UserWarning, match="reports come from places beyond twice the radius"):
        made.step(None, replace(reports, positions=reports.positions + 1000))


def test_a_table_that_was_not_read_is_refused(fitted, tmp_path):
    made, _ = fitted
    table, places = to_frame(river()), stations(river())
    for what, call in {
        "forecast": lambda: made.forecast(table, places),
        "fit": lambda: Forecaster.fit(table, tmp_path),
        "next-sensor": lambda: next_sensor(made, table),
        "stations": lambda: stations(table),
        "grid": lambda: grid(table),
        "judge": lambda: judge({"mine": made}, table, [50], [1], [False] * 3),
    }.items():
        with pytest.raises(ValueError, match=f"^{what}: expected Reports, got DataFrame; make them with read_reports$"):
            call()


@pytest.mark.parametrize("origin", ["03.05.2020", "3/5/2020"])
def test_an_origin_whose_day_comes_first_is_refused(fitted, origin):
    made, _ = fitted
    with pytest.raises(ValueError, match="expected an initialisation time or a step, got"):
        made.forecast(river(), stations(river()), origins=origin)


def test_times_beyond_those_of_nanoseconds(fitted):
    pytest.importorskip("xarray")
    made, _ = fitted
    late = replace(river(), start=np.datetime64("2300-05-01T00", "us"))
    init = made.dataset(late, stations(late)).init_time.values
    assert init == np.datetime64("2300-05-03T11")


def test_the_order_of_the_rows_of_reports_does_not_matter(fitted):
    made, _ = fitted
    reports = river()
    order = np.random.default_rng(0).permutation(len(reports))
    mixed = {name: getattr(reports, name)[order] for name in ROWS}
    mixed |= {name: mixed[name].astype(np.uint8) for name in ("step", "sensor")}
    again = replace(reports, **mixed)
    for name in ROWS:
        np.testing.assert_array_equal(getattr(again, name), getattr(reports, name))
    places = stations(reports)
    np.testing.assert_array_equal(made.forecast(again, places)[0], made.forecast(reports, places)[0])


def test_rows_and_sensors_are_chosen_by_masks():
    reports = river(2)  # three gauges at each of two steps
    assert reports.of([True, False, True]).sensor.tolist() == [0, 2, 0, 2]
    assert reports.where([False, True, False, False, False, True]).step.tolist() == [0, 1]
    for wrong in (np.arange(3), np.arange(6), [0, 2], [0.0, 1.0, 1.0], np.ones(2, bool), np.ones((3, 1), bool)):
        with pytest.raises(ValueError, match=r"reports: expected true or false for each of 3 sensors, got .*a mask"):
            reports.of(wrong)
        with pytest.raises(ValueError, match=r"reports: expected true or false for each of 6 reports, got .*a mask"):
            reports.where(wrong)
    with pytest.raises(ValueError, match="got object of shape"):
        mask_of([[True], [True, False]], "expected", 2, "things")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint64, np.int8, np.array])
def test_an_integer_of_any_kind_is_the_same_origin(fitted, kind):
    made, _ = fitted
    reports, baseline = river(), Persistence().fit(river())
    places = stations(reports)
    asked, as_lists = (*places[:2], np.arange(3)), (places[0].tolist(), places[1].tolist(), range(3))
    origin = kind(5)
    assert check_origin(origin, reports) == 5
    assert check_origins(origin, reports).tolist() == check_origins(iter([origin]), reports).tolist() == [5]
    level = reports.values[reports.step == 5]
    for predictor in (baseline, made):
        wanted = predictor.predict(reports, 5, *asked, [1])[0]
        np.testing.assert_array_equal(
            predictor.predict(reports, check_origin(origin, reports), *as_lists, [1])[0], wanted
        )
        if predictor is baseline:
            np.testing.assert_allclose(wanted[0], level)


def test_what_is_plainly_meant_is_taken(fitted):
    pandas = pytest.importorskip("pandas")
    made, _ = fitted
    reports = river()
    places = stations(reports)
    wanted = made.forecast(reports, places, 50)[0]
    for positions, covariates in (
        (places.positions.tolist(), places.covariates.tolist()),
        (pandas.DataFrame(places.positions), pandas.DataFrame(places.covariates)),
    ):
        given = Places(positions, covariates, list(places.names))
        np.testing.assert_array_equal(made.forecast(reports, given, 50)[0], wanted)
        table = made.table(reports, given, origins=50)
        assert table["gauge"].tolist() == ["g0", "g1", "g2"] * 6
        assert table["x"].tolist() == [0, 10, 20] * 6
    assert check_origins(np.array(reports.times[50]), reports).tolist() == [50]
    dataset = made.dataset(reports, places, origins=np.array(50), horizon="2h", quantiles=())
    assert dict(dataset.sizes) == {"valid_time": 2, "gauge": 3}
    assert check_leads(range(2)) == check_leads(np.array([0, 1], np.uint8)) == [0, 1]
    assert check_sensors([0, -1], reports, 2).tolist() == [0, -1]
    few = reports.between(np.uint8(50), np.uint8(52))
    assert few.step.tolist() == [0, 0, 0, 1, 1, 1]
    assert few.start == reports.times[50]
    predictors, nobody = {"persistence": Persistence().fit(reports)}, np.zeros(3, bool)
    rows = judge(predictors, reports, np.array([50, 51], np.uint8), [1], nobody, (0.0,))
    assert judge(predictors, reports, range(50, 52), [1], nobody.tolist(), 0.0) == rows


HEIGHTS, PLACE = np.zeros((1, 1), np.float32), np.zeros((1, 2))


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        *((lambda reports, origin=origin: check_origin(origin, reports), "predict: expected an origin from 0 to 59")
          for origin in ("60", None, True, 5.0, np.datetime64("2020-05-02"), np.array([5]), np.uint64(60))),
        *((lambda reports, leads=leads: check_leads(leads), "predict: expected leads of 0 steps or more")
          for leads in (3, None, [[1], [1, 2]], [1.0], "1")),
        *((lambda reports, sensors=sensors: check_sensors(sensors, reports, 3), "predict: expected one sensor for each")
          for sensors in (np.zeros(3), np.zeros(3, bool), ["g0", "g1", "g2"], np.zeros((3, 1), int), None)),
        (lambda reports: check_sensors([0, 3], reports, 2), "from -1, no station, to 2, got 3"),
        *((lambda reports, places=places: check_places(places, PLANE, Scaling.of(reports)), told) for places, told in (
            (Places(PLACE.astype(str), HEIGHTS), "forecast: expected positions of shape .Q, 2., got"),
            (Places([[1.0], [1.0, 2.0]], HEIGHTS), "forecast: expected positions of shape .Q, 2., got"),
            (Places(PLACE, None), "forecast: expected covariates of shape .1, 1., got None"),
            (Places(PLACE, HEIGHTS, ("a", "b")), "forecast: expected a name for each of 1 places"),
            (Places(PLACE, HEIGHTS, "a"), "forecast: expected a name for each of 1 places"),
        )),
        (lambda reports: check_positions([[0.0, np.inf]], PLANE, "predict"), "predict: the position of place 0 is"),
        *((lambda reports, origins=origins: judge({}, reports, origins, [1], np.zeros(3, bool)), told)
          for origins, told in ((60, "judge: expected at least one origin in a list, got 60"),
                                (["60"], "judge: expected at least one origin in a list"), ([60], "from 0 to 59"))),
        (lambda reports: judge({}, reports, [5], [1], [0, 1, 2]), "judge: expected held_out to be true or false"),
        *((lambda reports, share=share: judge({}, reports, [5], [1], np.zeros(3, bool), share), "judge: silent must be")
          for share in (1.5, (0.5, -0.5), [50], np.nan)),
        *((lambda reports, shares=shares: split(reports, *shares), f"split: {name} must be a share from 0 to 1")
          for shares, name in (((20.0, 0.1), "test"), ((-1.0, 0.1), "test"), ((np.nan, 0.1), "test"),
                               ((0.2, 5.0), "withheld"))),
        *((lambda reports, ends=ends: reports.between(*ends), "reports: expected two steps in order")
          for ends in ((50, 20), (0, np.int64(-1)))),
        *((lambda reports, side=side: grid(reports, side), "grid: expected a whole number of points")
          for side in (0, -1)),
        *((lambda reports, name=name, size=size: replace(HOW, **{name: size}), f"fit: {name} must be a whole number")
          for name in ("hidden_size", "num_modules") for size in (0, -1)),
        (lambda reports: Fit("lstm", num_modules=4), "num_modules is an option of s2gru, s2rmc, s2lstm, not of lstm"),
        (lambda reports: Fit("rims", share_parameters=False), "share_parameters is an option of s2gru, .* not of rims"),
        *((lambda reports, share=share: replace(HOW, validation=share), "fit: validation must be a share")
          for share in (15.0, -1.0, np.nan)),
        (lambda reports: periods(replace(HOW, validation=0.9), reports), "got 60, of which 54 for the validation"),
        (lambda reports: reports.__dict__.update(step=reports.step / 2) or reports.__post_init__(),
         "reports: expected whole numbers as step"),
    ],
)  # fmt: skip
def test_what_is_not_meant_is_refused_in_one_line(ask, told):
    with pytest.raises(ValueError, match=told) as refused:
        ask(river())
    assert "\n" not in str(refused.value)


def test_what_holds_numbers_is_told_from_what_does_not():
    for given in (2.5, "5", None, True, np.array([5]), np.timedelta64(5, "h"), 2**70):
        assert whole_number(given) is None
    assert whole_number(np.array(5, np.uint8)) == 5
    assert numbers([]).shape == (0,)
    for given in (["5"], [[1], [1, 2]], [None], [True], [1j]):
        assert numbers(given) is None


def test_stations_have_the_covariates_that_were_last_known():
    reports = river(3)
    height = np.array([[1, np.nan, np.nan], [np.nan, np.nan, 5], [np.nan, np.nan, 6]], np.float32).reshape(9, 1)
    places = stations(replace(reports, covariates=height))
    np.testing.assert_array_equal(places.covariates, [[1], [np.nan], [6]])
    np.testing.assert_array_equal(
        stations(replace(reports, covariates=height).of([False, True, True]))[1][:, 0], [np.nan, 6]
    )
