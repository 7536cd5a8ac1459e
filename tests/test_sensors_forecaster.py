"""Reports become episodes; forecasts know nothing of what comes after."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
import torch

from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, Places, Reports, grid, stations, to_frame
from s2rm.sensors.fitting import periods
from s2rm.sensors.outputs import write_netcdf
from s2rm.sensors.scaling import Scaling, clock, slots
from s2rm.sensors.times import in_steps, spread_out
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
    assert dict(made.dataset(reports, scattered, horizon=1, quantiles=()).sizes) == {"valid_time": 1, "place": 4}

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
    table = made.table(reports, places, horizon="3h", origins=["2014-01-02T16:00", 50])
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
    assert [in_steps(part, "1h") for part in (6, "6", np.int64(6), "6h", "1D", timedelta(minutes=120))] == [
        6,
        6,
        6,
        6,
        24,
        2,
    ]
    assert in_steps("1D", "7min 12s") == 200
    for nonsense in ("6x", "", "NaT", "30min", "-6h", 0, -1, "0"):
        expected = f"horizon: expected a duration of at least a step, 1h, got '{nonsense}'; write for example 24h"
        with pytest.raises(ValueError, match=expected):
            in_steps(nonsense, "1h")
    with pytest.warns(UserWarning, match="context: 100min is not a whole number of steps; taken as 2 steps of 1h"):
        assert in_steps("100min", "1h", "context") == 2


@pytest.mark.parametrize("last", [935, 996, 1000])
def test_initialisation_times_are_at_all_hours_of_the_day(last):
    """Also where a distance is a day, or half of it."""
    found = spread_out(0, last, 40)
    assert len(found) == 40
    assert 0 <= found[0] < found[-1] <= last
    assert len(set((found % 24).tolist())) >= 16
    assert spread_out(3, 3, 40).tolist() == [3]
    assert spread_out(3, 42, 40).tolist() == [*range(3, 43)], "of few, all"


def test_the_periods_of_a_fit():
    reports = some_reports(400)
    assert periods(Fit(context="36h", horizon="24h"), reports) == periods(Fit(), reports) == (36, 24, 340)
    assert periods(Fit(context=14, horizon="7h"), reports) == (14, 7, 340)
    fifths = replace(reports, columns=replace(reports.columns, step="5h"))
    assert periods(Fit(), fifths) == (12, 6, 340), "a step under a day need not divide it"
    with pytest.raises(ValueError, match="horizon: expected a duration of at least a step"):
        periods(Fit(horizon="7 steps"), reports)


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


@pytest.mark.parametrize("mapped", [False, True])
def test_a_covariate_that_a_report_leaves_out_is_that_of_its_sensor_before(mapped, monkeypatch):
    monkeypatch.setattr("s2rm.sensors.mapped.CELLS", 24)  # parts of three rows
    monkeypatch.setattr("s2rm.sensors.mapped.is_mapped", lambda array: mapped)
    monkeypatch.setattr("s2rm.sensors.mapped.LEAST_BYTES", 0)
    reports = some_reports(8).where(np.arange(len(some_reports(8))) % 5 > 0)
    given = np.where(np.random.default_rng(0).random(reports.covariates.shape) < 0.3, reports.covariates, np.nan)
    given[:, 0] += reports.step  # so that it changes
    expected, last = given.copy(), {}
    for row, sensor in enumerate(reports.sensor):
        last[sensor] = expected[row] = np.where(np.isnan(given[row]), last.get(sensor, np.nan), given[row])
    carried = replace(reports, covariates=given.astype(np.float32)).covariates
    assert np.isnan(given).mean() > np.isnan(expected).mean() > 0
    assert isinstance(carried, np.memmap) == mapped
    np.testing.assert_array_equal(carried, expected.astype(np.float32))


def test_covariates_that_are_never_said_take_no_room_again():
    reports = some_reports(8)
    never = np.where(reports.sensor[:, None] == 2, np.float32(np.nan), reports.covariates)
    given = replace(reports, covariates=never)
    assert given.covariates is never


@pytest.mark.parametrize(("name", "number"), [("sensor", -1), ("sensor", 4), ("step", -1), ("step", 8)])
def test_sensors_without_a_name_and_steps_that_are_not_there_are_refused(name, number):
    reports, count = some_reports(8), {"sensor": 4, "step": 8}[name]
    numbers = getattr(reports, name)
    expected = f"expected each {name} from 0 to {count - 1}, as there are {count}, got"
    with pytest.raises(ValueError, match=expected):
        replace(reports, **{name: np.where(numbers == 2, number, numbers)})


def test_a_covariate_may_be_given_long_before_the_forecast(forecaster):
    made, _ = forecaster
    reports = some_reports(made.memory + 20)
    once = np.where(reports.step[:, None] < 10, reports.covariates, np.float32(np.nan))
    streams = []
    for given in (reports.covariates, once):
        stream = None
        for begin in range(0, reports.num_steps, 10):
            here = (reports.step >= begin) & (reports.step < begin + 10)
            stream = made.step(stream, replace(reports.between(begin, begin + 10), covariates=given[here]))
        streams.append(made.forecast_from(stream, stations(stream.recent)))
    rarely = replace(reports, covariates=once)
    np.testing.assert_array_equal(*(made.forecast(each, stations(each)) for each in (reports, rarely)))
    np.testing.assert_array_equal(*streams)


def test_a_late_report_enters_the_guess(forecaster, tmp_path):
    made, _ = forecaster
    reports = some_reports(30)
    late = (reports.step == 29) & (reports.sensor == reports.sensor[-1])
    stream = made.step(None, reports.where(~late))
    better = made.step(stream, reports.where(late))
    assert better.recent.num_steps == stream.recent.num_steps
    place = Places(*(part[late] for part in (reports.positions, reports.covariates)))
    before, after, whole = (made.forecast_from(state, place)[0] for state in (stream, better, made.step(None, reports)))
    late_by, left = (np.abs(each - whole)[0, 0, 0] for each in (before, after))
    assert late_by > 1e-3
    assert left < late_by / 2, "what is left is the model's state"
    with pytest.raises(ValueError, match="expected a saved stream, found none"):
        made.load_stream(tmp_path / "none")
    (tmp_path / "half").write_bytes(b"half")
    with pytest.raises(ValueError, match="was not saved by this forecaster"):
        made.load_stream(tmp_path / "half")


def test_a_step_in_parts_is_warned_of(forecaster):
    made, _ = forecaster
    reports = some_reports(30)
    stream, last = made.step(None, reports), reports.between(29, 30)
    made.step(stream, last)  # the same again
    unknown = replace(last, values=np.full_like(last.values, np.nan))
    made.step(stream, unknown)
    with pytest.warns(UserWarning, match="stream: reports of the last step take the place of earlier ones"):
        made.step(stream, replace(last, values=last.values + np.float32(0.5)))


def test_a_forecaster_of_another_format_is_refused(tmp_path):
    ours = "not a fitted forecaster's"
    for content, told in (
        ('{"format": 5}', "format 5, this version reads 6"),
        ('{"format": 6}', ours),
        ("{", ours),
    ):
        (tmp_path / "forecaster.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            Forecaster.load(tmp_path)


def test_the_spacing_is_the_median_distance_to_the_nearest_other():
    scaling = Scaling.of(FieldWorld(num_stations=5, num_movers=2, num_steps=20).reports())
    places = np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0], [20.0, 0.0]])
    assert scaling.spacing(places) == pytest.approx(np.median([3, 3, 4, 16]) / scaling.side, rel=1e-5)
    assert scaling.spacing(places[:1]) == 0
