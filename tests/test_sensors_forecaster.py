"""Reports become episodes; forecasts know nothing of what comes after."""

import json
import shutil
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch

from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, Places, Reports, grid, stations, to_frame
from s2rm.sensors.fitting import Windows, periods, tuned
from s2rm.sensors.guess import context_size, episode
from s2rm.sensors.outputs import write_netcdf
from s2rm.sensors.scaling import AGEING, Scaling, clock, queries, slots
from s2rm.sensors.times import in_steps
from s2rm.training import Training

pandas = pytest.importorskip("pandas")
LONLAT = Columns("time", ("lon", "lat"), ("warmth", "wind"), "station", ("altitude",), circular=("wind",))


def some_reports(num_steps=60, num_sensors=4, seed=0, columns=LONLAT):
    """Stations with a daily cycle each, some reports and some channels missing."""
    generator = np.random.default_rng(seed)
    step, sensor = (part.ravel() for part in np.indices((num_steps, num_sensors)))
    places = generator.uniform((-4, 47), (-1, 49), (num_sensors, 2))
    warmth = 280 + sensor + 5 * np.sin(2 * np.pi * step / 24 + sensor)
    wind = (350 + 20 * generator.random(len(step))) % 360
    values = np.stack([warmth, wind], 1).astype(np.float32)
    values[generator.random(len(step)) < 0.2, 1] = np.nan
    altitude = generator.uniform(0, 300, num_sensors).astype(np.float32)[sensor, None]
    whole = Reports(
        columns, np.datetime64("2014-01-01T00", "ns"), num_steps, tuple("abcdefgh"[:num_sensors]), step, sensor,
        places[sensor], values, altitude,
    )  # fmt: skip
    return whole.where(generator.random(len(step)) < 0.9)


def window(reports, length, origin, scaling=None):
    """One window from the first step, blind after `origin`."""
    scaling = scaling or Scaling.of(reports)
    seen = slots(reports, scaling)
    shown = torch.zeros(1, length, seen.sensor.shape[1], dtype=torch.bool)
    shown[:, : origin + 1] = True
    return episode(seen, seen, torch.tensor([0]), shown, scaling, 24)


def test_units_and_back():
    reports = some_reports()
    scaling = Scaling.of(reports)
    channels = scaling.channels(reports.values)
    assert channels.shape[1] == scaling.num_channels == 3
    mean, stddev = scaling.units(channels, torch.full_like(channels, 1e-3))
    there = ~np.isnan(reports.values)
    np.testing.assert_allclose(mean[there], reports.values[there], rtol=1e-5)
    np.testing.assert_allclose(stddev[:, 0], 1e-3 * scaling.spread[0], rtol=1e-5)
    direction = stddev[there[:, 1], 1]
    np.testing.assert_allclose(direction, np.degrees(1e-3 * 2**0.5), rtol=1e-2)


def test_no_meridian_is_an_edge():
    scaling = Scaling.of(some_reports())
    east, west, far = scaling.coordinates(np.array([[179.9, 10.0], [-179.9, 10.0], [0.0, 10.0]]))
    assert (east - west).norm() < 0.01 < 1 < (east - far).norm()
    turned = scaling.coordinates(np.array([[181.0, 10.0], [-179.0, 10.0]]))
    torch.testing.assert_close(turned[0], turned[1])


def test_planar_positions_fill_a_box_of_side_one():
    columns = replace(LONLAT, position=("x_m", "y_m"))
    reports = some_reports(columns=columns)
    scaling = Scaling.of(reports)
    coordinates = scaling.coordinates(reports.positions)
    assert coordinates.shape[1] == 2
    assert coordinates.min() == 0
    assert coordinates.max() == 1


def test_the_clock_goes_around():
    hours = clock(np.array(["2014-03-01T06", "2014-03-02T06", "2014-03-01T18"], "datetime64[h]"))
    torch.testing.assert_close(hours[0, :2], hours[1, :2])
    torch.testing.assert_close(hours[0, :2], -hours[2, :2], atol=1e-5, rtol=0)
    assert (hours[0, 2:] - hours[1, 2:]).norm() < 0.03


def test_the_day_of_the_year_is_known_where_there_is_more_than_a_year():
    for step, num_steps, known in (("1h", 60, False), ("1D", 365, False), ("1D", 400, True)):
        reports = some_reports(num_steps, columns=replace(LONLAT, step=step))
        scaling = Scaling.of(reports)
        assert scaling.seasons == known
        assert slots(reports, scaling).clock[:, 2:].any() == known
        assert slots(reports, scaling).clock[:, :2].any()


def test_the_guess_is_the_last_report_of_the_place_and_its_change_that_of_the_day_before():
    reports = some_reports()
    reports = reports.where(reports.step < 60)
    scaling = Scaling.of(reports)
    made = window(reports, 60, 40)
    truth = made.targets.values[0, :, :, 0]
    sensor = slots(reports, scaling).sensor
    for lead in (1, 5, 12):
        at = 40 + lead
        for slot in (sensor[at] >= 0).nonzero().flatten().tolist():
            mine = [(step, (sensor[step] == sensor[at, slot]).nonzero()) for step in range(41)]
            last, where = max((step, int(found[0])) for step, found in mine if len(found))
            torch.testing.assert_close(made.context[0, at, slot, 0], truth[last, where], rtol=0, atol=0.02)
            if last == 40:
                daily = made.context[0, at, slot, 0] + made.context[0, at, slot, 4]
                assert (daily - truth[at, slot]).abs() < 0.35, "a daily cycle, but for what is missing"


def test_a_step_of_age_counts_as_the_table_says():
    generator = np.random.default_rng(0)
    step, sensor = (part.ravel() for part in np.indices((80, 12)))
    lasting, passing = 5 * generator.normal(size=12), generator.normal(size=80).cumsum()
    places = generator.uniform(0, 1, (12, 2))[sensor]
    columns = Columns("time", ("x", "y"), ("lasting", "passing"), "station")
    reports = Reports(
        columns, np.datetime64("2014-01-01T00", "ns"), 80, tuple("abcdefghijkl"), step, sensor, places,
        np.stack([lasting[sensor], passing[step]], 1).astype(np.float32), np.zeros((len(step), 0), np.float32),
    )  # fmt: skip
    reports = reports.where(generator.random(len(step)) < 0.3)
    scaling = Scaling.of(reports)
    slow, fast = tuned(scaling, slots(reports, scaling), 24, 6, None).ageing
    assert slow == scaling.extent * min(AGEING), "a station's own report is the best guess, however old"
    assert fast > 4 * slow, "the latest reports are the best guess, wherever they come from"


def test_the_context_says_how_old_the_reports_are():
    reports = some_reports(num_sensors=1)
    reports = reports.where(~np.isin(reports.step, (38, 39, 40)))
    made = window(reports, 60, 40)
    last = reports.step[reports.step <= 40].max()
    channels = 3
    ages = made.context[0, 41:, 0, made.views.values.shape[-1] + channels]
    ages = ages[made.targets.mask[0, 41:, 0]]
    torch.testing.assert_close(ages, torch.from_numpy(reports.step[reports.step > 40] - last).float().log1p() / 3)


def test_the_context_says_how_far_off_the_reports_are():
    places, heights = np.array([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0]]), np.array([100.0, 300.0, 700.0], np.float32)
    step, sensor = (part.ravel() for part in np.indices((20, 3)))
    columns = Columns("time", ("x", "y"), ("warmth",), "station", ("height",))
    reports = Reports(
        columns, np.datetime64("2014-01-01T00", "ns"), 20, ("a", "b", "c"), step, sensor, places[sensor],
        np.random.default_rng(0).normal(size=(60, 1)).astype(np.float32), heights[sensor, None],
    )  # fmt: skip
    scaling = Scaling.of(reports)
    seen = slots(reports, scaling)
    shown = torch.ones(1, 20, 3, dtype=torch.bool)
    shown[..., 2] = False
    made = episode(seen, seen, torch.tensor([0]), shown, scaling, None)
    weight = np.array([1 / 10**2, 1 / 8**2]) / (1 / 10**2 + 1 / 8**2)
    known = scaling.known(heights[:, None])[:, 0].numpy()
    first = made.views.values.shape[-1] + 3  # behind the guess, which is as long as a view, change, age and flag
    off, above, unlike = made.context[0, 5, 2, first : first + 3].tolist()
    assert off == pytest.approx(16 * (weight @ [-10, -8]) / (scaling.extent * scaling.side), rel=1e-3)
    assert above == pytest.approx(0, abs=1e-6)
    assert unlike == pytest.approx(weight @ known[:2] - known[2], rel=1e-3)
    torch.testing.assert_close(made.context[0, 5, 0, first : first + 3], torch.zeros(3), atol=1e-3, rtol=0)


def test_the_context_knows_nothing_of_what_is_not_shown():
    reports = some_reports()
    scaling = Scaling.of(reports)
    one = window(reports, 60, 40, scaling)
    later = reports.step > 40
    changed = replace(reports, values=np.where(later[:, None], reports.values + 3, reports.values))
    other = window(changed, 60, 40, scaling)
    torch.testing.assert_close(one.context, other.context, rtol=0, atol=0)
    assert one.context.isfinite().all()
    assert one.context.shape[-1] == context_size(scaling)
    before = window(reports, 60, -1, scaling)
    assert before.context.isfinite().all()
    assert before.context[..., :3].eq(0).all(), "nothing known: the mean"
    assert not before.views.mask.any()


def test_windows_hide_sensors_and_what_comes_later_but_ask_for_all(monkeypatch):
    reports = some_reports()
    scaling = Scaling.of(reports)
    windows = Windows(slots(reports, scaling), 48, 12, scaling, 24)
    assert len(windows) == 16, "as few as 13 steps can begin one"
    torch.testing.assert_close(windows[[0, 1], 3].targets.values, windows[[13, 14], 3].targets.values, equal_nan=True)
    assert len(Windows(slots(reports, scaling), 40, 12, scaling, 24)) == 21
    key = ([0, 5, 12, 7, 3, 2], 3)
    made, again = windows[key], windows[key]
    torch.testing.assert_close(made.views.mask, again.views.mask)
    assert (windows[key[0], 4].views.mask != made.views.mask).any()
    assert (made.targets.mask & ~made.views.mask).any()
    assert not made.targets.mask[:, :12].any()
    windows = [windows[key[0], seed] for seed in range(20)]
    # A target of a window that interpolates is what a sensor that is not shown reported at the step before.
    seen = slots(reports, scaling)
    lags = [bool((part.targets.values[0, 12:40, :, 0] == seen.channels[11:39, :, 0]).any()) for part in windows]
    assert 0 < sum(lags) < 20
    assert made.targets.values[..., 3].isnan().all(), "covariates are not predicted"
    monkeypatch.setattr("s2rm.sensors.fitting.MOST_TARGETS", 3)
    few = Windows(seen, 48, 12, scaling, 24)[key]
    assert few.targets.mask.shape == (6, 48, 3)
    assert few.context.shape[:3] == (6, 48, 3)
    assert few.views.mask.shape == made.views.mask.shape
    with pytest.raises(ValueError, match="expected at least 48 steps of reports, got 40"):
        Windows(slots(reports.between(0, 40), scaling), 48, 12, scaling, 24)


@pytest.fixture(scope="module", params=["s2gru", "lstm"])
def forecaster(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    training = Training(batch_size=4, epochs=1, learning_rate=1e-3)
    modules = 4 if request.param == "s2gru" else None
    how = Fit(request.param, num_modules=modules, hidden_size=8, context=26, horizon=6, training=training)
    made = Forecaster.fit(some_reports(100), folder, how, progress=False)
    return made, folder


def test_a_fitted_forecaster_forecasts_from_what_was_known(forecaster):
    made, folder = forecaster
    reports = some_reports(80)
    positions = np.array([[-2.0, 48.0], [-3.0, 47.5], [-1.5, 48.5]])
    places = Places(positions, np.full((3, 1), np.nan, np.float32))
    origins = np.array([3, 40, 60])
    mean, stddev = made.forecast(reports, places, origins=origins)
    assert mean.shape == stddev.shape == (3, 6, 3, 2)
    assert (stddev > 0).all()
    assert ((mean[..., 1] >= 0) & (mean[..., 1] < 360)).all()
    changed = replace(reports, values=np.where(reports.step[:, None] > 40, reports.values * 0.9, reports.values))
    other, _ = made.forecast(changed, places, origins=origins)
    np.testing.assert_allclose(other[:2], mean[:2], rtol=1e-6)
    assert np.abs(other[2] - mean[2]).max() > 1
    with pytest.warns(UserWarning, match="horizon: 9 steps of 1h are more than the 6 of the fit"):
        alone, _ = made.forecast(reports, Places(*(part[:1] for part in places[:2])), origins=origins[1:2], horizon=9)
    np.testing.assert_allclose(alone[0, :6, 0], mean[1, :, 0], rtol=1e-4)
    again, _ = Forecaster.load(folder).forecast(reports, places, origins=origins)
    np.testing.assert_allclose(again, mean)


def test_a_forecaster_refuses_other_columns_and_half_a_folder(forecaster, tmp_path):
    made, _ = forecaster
    other = replace(some_reports(), columns=replace(LONLAT, values=("warmth", "speed"), circular=()))
    with pytest.raises(ValueError, match=r"fitted to values \('warmth', 'wind'\), got \('warmth', 'speed'\)"):
        made.forecast(other, stations(other))
    with pytest.raises(ValueError, match="found none at"):
        Forecaster.load(tmp_path)
    with pytest.raises(ValueError, match="need a table of at least"):
        Forecaster.fit(some_reports(20), tmp_path / "short")


def test_what_is_known_now_is_interpolated(forecaster):
    made, _ = forecaster
    reports = some_reports(80)
    origins = np.array([40, 60])
    mean, stddev = made.interpolate(reports, stations(reports), origins)
    assert mean.shape == stddev.shape == (2, 4, 2)
    changed = replace(reports, values=np.where(reports.step[:, None] > 40, reports.values * 0.9, reports.values))
    np.testing.assert_allclose(made.interpolate(changed, stations(reports), origins[:1])[0], mean[:1], rtol=1e-6)
    now = reports.where(reports.step == 40)
    moved = replace(now, positions=now.positions + 1e-5)
    known = made.interpolate(reports, Places(moved.positions, now.covariates), origins[:1])[0][0, :, 0]
    assert np.abs(known - now.values[:, 0]).max() < 1.5, "next to a sensor that reports now"


def test_a_forecast_is_a_table(forecaster):
    made, _ = forecaster
    reports = some_reports(80)
    table = made.table(reports, stations(reports), horizon=3)
    assert len(table) == 3 * 4
    assert list(table.station.unique()) == ["a", "b", "c", "d"]
    assert (table.valid_time - table.init_time).dt.total_seconds().unique().tolist() == [3600, 7200, 10800]
    assert {"lon", "lat", "warmth_mean", "warmth_stddev", "wind_mean", "wind_stddev"} <= set(table.columns)
    field = made.table(reports, grid(reports, 5), horizon=1)
    assert len(field) == 25
    assert "station" not in field.columns
    far = Places(np.array([[20.0, 48.0]]), np.full((1, 1), np.nan, np.float32))
    with pytest.warns(UserWarning, match=r"a place lies 1,\d+ km beyond"):
        made.table(reports, far)


def test_a_forecast_is_a_dataset(forecaster, tmp_path):
    xarray = pytest.importorskip("xarray")
    made, _ = forecaster
    reports = some_reports(80)
    at_stations = made.dataset(reports, stations(reports), horizon="3h")
    assert dict(at_stations.sizes) == {"valid_time": 3, "station": 4, "quantile": 5}
    mean, stddev = made.forecast(reports, stations(reports), horizon=3)
    np.testing.assert_array_equal(at_stations.warmth_mean, mean[0, ..., 0])
    np.testing.assert_array_equal(at_stations.wind_stddev, stddev[0, ..., 1])
    assert at_stations.station.values.tolist() == ["a", "b", "c", "d"]
    assert at_stations.init_time == reports.times[-1]
    assert at_stations.lead_time.values.tolist() == (np.arange(1, 4) * np.timedelta64(3_600_000_000_000, "ns")).tolist()
    np.testing.assert_array_equal(at_stations.valid_time, reports.times[-1] + at_stations.lead_time.values)
    assert at_stations.lon.attrs["standard_name"] == "longitude"
    assert at_stations.lat.attrs["units"] == "degrees_north"
    assert {"Conventions", "title", "history", "source"} <= set(at_stations.attrs)

    over_grid = made.dataset(reports, grid(reports, 5), origins=[40, 60])
    assert dict(over_grid.sizes) == {"init_time": 2, "lead_time": 6, "lat": 5, "lon": 5, "quantile": 5}
    assert over_grid.warmth_mean.dims == ("init_time", "lead_time", "lat", "lon"), "latitude before longitude"
    assert over_grid.warmth_quantile.dims == ("quantile", *over_grid.warmth_mean.dims)
    field = made.forecast(reports, grid(reports, 5), origins=np.array([40, 60]))[0]
    by_longitude = over_grid.warmth_mean.transpose("init_time", "lead_time", "lon", "lat")
    np.testing.assert_array_equal(by_longitude.values.reshape(2, 6, 25), field[..., 0])
    assert over_grid.lon.attrs["axis"] == "X"
    assert over_grid.valid_time.dims == ("init_time", "lead_time")
    shuffled = np.random.default_rng(0).permutation(25)
    again = made.dataset(reports, Places(*(part[shuffled] for part in grid(reports, 5)[:2])), origins=[40, 60])
    np.testing.assert_allclose(again.warmth_mean, over_grid.warmth_mean, rtol=1e-5)
    scattered = Places(*stations(reports)[:2])
    assert dict(made.dataset(reports, scattered, 1, quantiles=()).sizes) == {"valid_time": 1, "place": 4}

    for number, dataset in enumerate((at_stations, over_grid)):
        path = tmp_path / "folder" / f"{number}.nc"
        write_netcdf(dataset, str(path))
        with xarray.open_dataset(path, decode_timedelta=True) as read:
            xarray.testing.assert_identical(read.load(), dataset)
    with pytest.raises(ValueError, match="unable to infer dtype"):
        write_netcdf(dataset.assign(x=((), {1: 2})), path)
    assert sorted(part.name for part in path.parent.iterdir()) == ["0.nc", "1.nc"]
    with xarray.open_dataset(path) as read:
        assert read.sizes == over_grid.sizes


def test_durations_and_times_are_steps(forecaster):
    made, _ = forecaster
    reports = some_reports(80)
    places = stations(reports)
    expected = made.forecast(reports, places, np.array([40]), 3)[0]
    for origins, horizon in (
        ("2014-01-02T16:00", "3h"), ("2014-01-02T16:59Z", "180min"), (np.datetime64("2014-01-02T16"), 3), (40, "3h"),
        ([pandas.Timestamp("2014-01-02T17:00+01:00")], pandas.Timedelta("3h")),
        (np.array(["2014-01-02T16:30"], "datetime64[m]"), timedelta(hours=3)),
        (pandas.date_range("2014-01-02T16", periods=1), np.timedelta64(3, "h")),
    ):  # fmt: skip
        # Not bit for bit: an LSTM's products depend on where memory lies.
        np.testing.assert_allclose(made.forecast(reports, places, origins, horizon)[0], expected, rtol=1e-9)
    table = made.table(reports, places, "3h", origins=["2014-01-02T16:00", 50])
    assert len(table) == 2 * 3 * 4
    np.testing.assert_allclose(table.warmth_mean[:12], expected[0, ..., 0].ravel(), rtol=1e-9)
    stream = made.step(None, reports.between(0, 41))
    assert made.forecast_from(stream, places, "3h")[0].shape == (3, 4, 2)
    for origin in ("2013-12-31", "2014-02-01", 80, -1):
        with pytest.raises(ValueError, match=r"expected an initialisation time within the reports, 2014-01-01T00.*"):
            made.forecast(reports, places, origin)
    with pytest.raises(ValueError, match="expected an initialisation time or a step, got 'noon'; write for example"):
        made.forecast(reports, places, "noon")


def test_a_duration_is_a_whole_number_of_steps():
    assert [in_steps(part, "1h") for part in (6, np.int64(6), "6h", "1D", timedelta(minutes=120))] == [6, 6, 6, 24, 2]
    assert in_steps("1D", "7min 12s") == 200
    for nonsense in ("6x", "", "NaT", "30min", "-6h", 0, -1, "24"):
        expected = f"horizon: expected a duration of at least a step, 1h, got '{nonsense}'; write for example 24h"
        with pytest.raises(ValueError, match=expected):
            in_steps(nonsense, "1h")
    with pytest.warns(UserWarning, match="context: 100min is not a whole number of steps; taken as 2 steps of 1h"):
        assert in_steps("100min", "1h", "context") == 2


def test_the_periods_of_a_fit():
    reports = some_reports(400)
    assert periods(Fit(context="36h", horizon="24h"), reports) == periods(Fit(), reports) == (36, 24, 340)
    assert periods(Fit(context=14, horizon="7h"), reports) == (14, 7, 340)
    with pytest.raises(ValueError, match="horizon: expected a duration of at least a step"):
        periods(Fit(horizon="7 steps"), reports)


def test_forecasters_without_globe_in_their_columns_are_read(forecaster, tmp_path):
    _, folder = forecaster
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    kept = json.loads((copy / "forecaster.json").read_text())
    del kept["columns"]["globe"], kept["digest"]  # nor did they write a digest
    (copy / "forecaster.json").write_text(json.dumps(kept))
    assert Forecaster.load(str(copy)).columns == Forecaster.load(folder).columns
    kept["scaling"]["globe"] = False  # names that an earlier version did not recognise
    (copy / "forecaster.json").write_text(json.dumps(kept))
    assert not Forecaster.load(copy).columns.on_the_globe
    kept["scaling"]["unknown"] = 1
    (copy / "forecaster.json").write_text(json.dumps(kept))
    with pytest.raises(ValueError, match="is not a fitted forecaster's"):
        Forecaster.load(copy)


def test_a_stream_forecasts_as_the_table_does(forecaster, tmp_path):
    made, _ = forecaster
    reports = some_reports(40)
    reports = reports.where((reports.step < made.context) & (reports.step != 7)).between(0, made.context)
    places = stations(reports)
    stream = None
    for step in range(made.context):
        stream = made.step(
            stream, reports.between(step, step + 1) if step % 2 else to_frame(reports.between(step, step + 1))
        )
        if step == 11:
            stream.save(tmp_path / "stream.safetensors")
            stream = made.load_stream(tmp_path / "stream.safetensors")
    expected = made.forecast(reports, places)
    for ours, whole in zip(made.forecast_from(stream, places), expected, strict=True):
        np.testing.assert_allclose(ours, whole[0], rtol=1e-3)


def test_a_late_report_enters_the_guess(forecaster, tmp_path):
    made, _ = forecaster
    reports = some_reports(30)
    late = (reports.step == 29) & (reports.sensor == reports.sensor[-1])
    stream = made.step(None, reports.where(~late))
    better = made.step(stream, reports.where(late))
    assert better.recent.num_steps == stream.recent.num_steps
    place = Places(*(part[late] for part in (reports.positions, reports.covariates)))
    before, after = (made.forecast_from(state, place)[0][0, 0, 0] for state in (stream, better))
    truth = reports.values[late][0, 0]
    assert abs(after - truth) < abs(before - truth)
    with pytest.raises(ValueError, match="expected a saved stream, found none"):
        made.load_stream(tmp_path / "none")
    (tmp_path / "half").write_bytes(b"half")
    with pytest.raises(ValueError, match="was not saved by this forecaster"):
        made.load_stream(tmp_path / "half")


def test_queries_are_the_same_at_each_step():
    reports = some_reports()
    scaling = Scaling.of(reports)
    asked = queries(torch.zeros(5, 3), torch.zeros(5, 1), slots(reports, scaling))
    assert asked.sensor.shape == (60, 5)


def test_noise_moves_each_sensor_in_each_batch_and_nothing_else():
    reports = FieldWorld(num_stations=7, num_movers=0, num_steps=60).reports()
    scaling = Scaling.of(reports)
    seen = slots(reports, scaling)
    windows = Windows(seen, 48, 12, scaling, 24, noise=0.05)
    moved, again = (
        windows._displaced(torch.Generator().manual_seed(3)),
        windows._displaced(torch.Generator().manual_seed(3)),
    )
    assert torch.equal(moved.positions, again.positions)
    off = moved.positions - seen.positions
    for sensor in range(7):
        mine = off[seen.sensor == sensor]
        torch.testing.assert_close(mine, mine[:1].expand_as(mine), atol=1e-6, rtol=0)
    assert 0.02 < off[seen.sensor >= 0].std() < 0.1
    assert torch.equal(moved.sensor, seen.sensor)
    torch.testing.assert_close(moved.channels, seen.channels, equal_nan=True)


def test_noise_shifts_the_level_of_each_window_but_no_direction():
    reports = some_reports()
    scaling = Scaling.of(reports)
    seen, key = slots(reports, scaling), ([0, 5, 9], 3)
    plain, shifted = Windows(seen, 48, 12, scaling, 24)[key], Windows(seen, 48, 12, scaling, 24, noise=1e-9)[key]
    offs = []
    for what in ("views", "targets"):
        one, other = getattr(plain, what), getattr(shifted, what)
        assert torch.equal(one.mask, other.mask)
        off = (other.values - one.values).masked_fill(~one.mask[..., None], torch.nan)
        offs.append(off[..., 0].flatten(1).nanmean(1))
        torch.testing.assert_close(off[..., 0].nan_to_num(), (offs[-1][:, None, None] * one.mask), atol=1e-5, rtol=0)
        assert not off[..., 1:3].nan_to_num().any()
    torch.testing.assert_close(*offs)
    assert offs[0].unique().numel() == 3
    guessed = plain.context[
        ..., 10
    ]  # 1 where there is a guess: behind the guess, which is as long as a view, change, age
    guess_off = (shifted.context - plain.context)[..., 0]
    torch.testing.assert_close(guess_off, offs[0][:, None, None] * guessed, atol=1e-4, rtol=0)


def test_a_forecaster_of_another_format_is_refused(tmp_path):
    ours = "not a fitted forecaster's"
    for content, told in (('{"format": 1}', "format 1, this version reads 2"), ('{"format": 2}', ours), ("{", ours)):
        (tmp_path / "forecaster.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            Forecaster.load(tmp_path)


def test_the_spacing_is_the_median_distance_to_the_nearest_other():
    scaling = Scaling.of(FieldWorld(num_stations=5, num_movers=2, num_steps=20).reports())
    places = np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [20.0, 0.0]])
    assert scaling.spacing(places) == pytest.approx(np.median([3, 3, 4, 16]) / scaling.side, rel=1e-5)
    assert scaling.spacing(places[:1]) == 0
