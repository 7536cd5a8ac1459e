"""What is known ahead: read from tables and grids, sampled, given to a fit, and refused where it ends too early."""

import json
import shutil
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pandas
import pytest
import torch
import xarray
from safetensors.torch import save

from s2rm.cli.commands import Evaluate, FitTable, Forecast, NextSensor
from s2rm.cli.forecasters import _open as opened_of
from s2rm.cli.forecasters import place
from s2rm.cli.parts import Parts
from s2rm.cli.sensors import _settings, forecast
from s2rm.files import read_safetensors
from s2rm.sensors import (
    Columns,
    FieldWorld,
    Fit,
    Forecaster,
    Places,
    judge,
    pack,
    read_reports,
    stations,
    to_frame,
)  # fmt: skip
from s2rm.sensors.checks import check_known_ahead
from s2rm.sensors.export import ForecastStep
from s2rm.sensors.first_guess.candidates import upstream
from s2rm.sensors.first_guess.tuning import first_guess, sample, tuned
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.judging.judge import split
from s2rm.sensors.known_ahead import FEATURES, AheadTables, KnownAhead
from s2rm.sensors.reports import on_sphere
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.siting import next_sensor
from s2rm.training import Training

COLUMNS = Columns("time", ("x", "y"), ("tracer", "direction"), "sensor", circular=("direction",), globe=False,
                  ahead=("wind_x", "wind_y"), flow=("wind_x", "wind_y"))  # fmt: skip
WORLD = FieldWorld(num_stations=6, num_movers=2, num_steps=100)
HOUR = np.timedelta64(1, "h")


@pytest.fixture(scope="module")
def reports():
    return WORLD.reports(wind_ahead=True)


@pytest.fixture(scope="module")
def wind(reports):
    """The wind as a table that holds everywhere."""
    times = pandas.DatetimeIndex(reports.times).tz_localize("UTC")
    return pandas.DataFrame(
        dict(zip(("wind_x", "wind_y"), reports.ahead.values[:, 0].T, strict=True)) | {"time": times}
    )


@pytest.fixture(scope="module")
def forecaster(reports, tmp_path_factory):
    how = Fit(num_modules=2, hidden_size=4, context=12, horizon=6, training=Training(epochs=1))
    return Forecaster.fit(reports, tmp_path_factory.mktemp("ahead"), how, progress=False)


def known(values, positions):
    values = np.array(values, np.float32)
    return KnownAhead(np.datetime64("2000-01-01T00", "us"), HOUR, np.array(positions, np.float64), values)


# Reading.


def without_a_sensor(tmp_path, kind):
    """Observations, and quantities known ahead at four places in rows without a sensor, and what these are."""
    plain = FieldWorld(num_stations=6, num_movers=0, num_steps=60).reports()
    columns = replace(plain.columns, ahead=("u",))
    values = np.random.default_rng(0).random((80, 4, 1)).astype(np.float32)
    given = KnownAhead(plain.start, HOUR, np.array([[0.0, 0], [0, 100], [100, 0], [100, 100]]), values)
    frame = to_frame(replace(plain, columns=columns, ahead=given))
    if kind == "csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
    elif kind == "parquet":
        frame.to_parquet(tmp_path / "t.parquet")
    return frame if kind == "DataFrame" else tmp_path / f"t.{kind}", columns, given


@pytest.mark.parametrize("kind", ["csv", "DataFrame", "parquet"])
def test_rows_without_a_sensor_keep_their_places(tmp_path, kind):
    source, columns, given = without_a_sensor(tmp_path, kind)
    read = read_reports(source, columns).ahead
    np.testing.assert_array_equal(read.positions, given.positions)
    np.testing.assert_allclose(read.values, given.values, atol=1e-5)


def test_several_values_at_one_time_and_place_are_warned_of():
    plain, times = FieldWorld(num_stations=6, num_movers=0, num_steps=60).reports(), 80
    hours = pandas.date_range("2000-01-01", periods=times, freq="h", tz="UTC")
    runs = [
        pandas.DataFrame({
            "time": np.repeat(hours, 4), "x": np.tile([0.0, 0, 100, 100], times),
            "y": np.tile([0.0, 100, 0, 100], times), "u": above + np.arange(4.0 * times) % 7,
        })
        for above in (0.0, 10.0)
    ]  # fmt: skip
    columns = replace(plain.columns, ahead=("u",))
    with pytest.warns(UserWarning, match="holds several values of u at one time and place, 320 times"):
        read_reports(to_frame(plain), columns, ahead=pandas.concat(runs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_reports(to_frame(plain), columns, ahead=runs[0])


def test_a_table_of_its_own_may_be_written_in_another_way(tmp_path, capsys):
    rows = [f"{day}.12.2024 {hour:02}:00;{name};{x};2;{hour % 5 + x},5"
            for day in (30, 31) for hour in range(24) for name, x in (("Ulm", 1), ("Hof", 2))]  # fmt: skip
    (tmp_path / "obs.csv").write_text("\n".join(["Zeit;Ort;x;y;Wert", *rows]))
    opens = [f"2024-12-{day}T{hour:02}:00,{0.5 * (hour % 2)}" for day in (30, 31) for hour in range(24)]
    (tmp_path / "open.csv").write_text("\n".join(["Zeit,open", *opens]))
    columns = Columns("Zeit", ("x", "y"), ("Wert",), "Ort", ahead=("open",))
    read = read_reports(tmp_path / "obs.csv", columns, ahead=tmp_path / "open.csv")
    assert read.ahead.values[:3, 0, 0].tolist() == [0, 0.5, 0]
    (tmp_path / "open.csv").write_text("\n".join(["Zeit,open", opens[0].replace(",0.0", ",-999"), *opens[1:]]))
    declared = replace(columns, separator=";", decimal=",", missing=(-999.0,))
    read = read_reports(tmp_path / "obs.csv", declared, ahead=tmp_path / "open.csv")
    assert read.ahead.values.min() == 0, "codes that are declared hold in every notation"
    (tmp_path / "open.csv").write_text("\n".join(["Zeit,open", *opens, "2024-12-31T23:00,shut"]))
    with pytest.raises(ValueError, match="expected numbers.* in 'open' of open.csv"):
        read_reports(tmp_path / "obs.csv", columns, ahead=tmp_path / "open.csv")


def test_what_is_known_ahead_of_a_store_is_not_left_out(tmp_path):
    plain = FieldWorld(num_stations=6, num_movers=0, num_steps=60).reports()
    pack([to_frame(plain)], plain.columns, tmp_path / "store")
    with pytest.raises(ValueError, match="expected the columns of what is known ahead of the store .*, got none"):
        read_reports(tmp_path / "store", ahead=pandas.DataFrame({"time": plain.times, "open": np.arange(60.0)}))


def test_directions_that_are_known_ahead_are_named(reports, wind):
    turned = wind.assign(wind_dir=np.linspace(0, 359, len(wind)))
    columns = replace(COLUMNS, ahead=("wind_dir",), flow=())
    with pytest.warns(UserWarning, match="'wind_dir' of the table seems to .*; give its sine and cosine instead"):
        read_reports(to_frame(replace(reports, ahead=None, columns=replace(COLUMNS, ahead=(), flow=()))), columns,
                     ahead=turned)  # fmt: skip


def test_from_a_table_of_its_own_or_the_same(reports, wind, tmp_path):
    frame = to_frame(reports)
    own = read_reports(frame, COLUMNS, ahead=wind)
    np.testing.assert_allclose(own.ahead.values, reports.ahead.values)
    assert own.num_steps == reports.num_steps
    wind.to_csv(tmp_path / "wind.csv", index=False)
    np.testing.assert_allclose(read_reports(frame, COLUMNS, True, tmp_path / "wind.csv").ahead.values, own.ahead.values)
    plain = frame.dropna(subset="sensor").drop(columns=["wind_x", "wind_y"])
    both = plain[plain.time < plain.time.min() + 60 * pandas.Timedelta("1h")].merge(wind, how="outer", on="time")
    both["x"], both["y"] = both.x.fillna(0.0), both.y.fillna(0.0)
    for table, to_fit in product((both, to_frame(reports.between(0, 60))), (True, False)):
        same = read_reports(table, COLUMNS, to_fit)
        assert same.num_steps == 60, "rows without values tell of the future, and of no silence"
        assert len(same.ahead.positions) == 1, "the same at all sensors"
        np.testing.assert_allclose(same.ahead.values, own.ahead.values)


def test_values_that_differ_at_one_time_need_positions(reports, wind):
    twice = pandas.concat([wind, wind.assign(wind_x=wind.wind_x + 1)])
    told = (
        "expected one value of 'wind_x' at a time in .*, which has no column 'x', got 2 rows at .*; name its position"
    )
    with pytest.raises(ValueError, match=told):
        read_reports(to_frame(reports), COLUMNS, ahead=twice)
    read_reports(to_frame(reports), COLUMNS, ahead=pandas.concat([wind, wind]))


def test_a_table_of_what_is_known_ahead_that_would_not_be_used_is_refused(reports, wind):
    bare = replace(COLUMNS, ahead=(), flow=())
    with pytest.raises(ValueError, match=r"read: expected no table of what is known ahead, .*; name them \(--ahead\)"):
        read_reports(to_frame(reports), bare, ahead=wind)


def test_codes_and_other_units_of_what_is_known_ahead_are_named(forecaster, reports, wind):
    coded = wind.assign(wind_x=wind.wind_x.where(wind.index < 70, -9999))
    with pytest.warns(UserWarning, match="'wind_x' of the table is -9999 in 30 rows, far from the others"):
        read_reports(to_frame(reports), COLUMNS, ahead=coded)
    known = replace(reports.ahead, values=reports.ahead.values * np.array([1000, 1], np.float32))
    with pytest.warns(UserWarning, match="forecast: wind_x, known ahead, is far from what the fit saw"):
        forecaster.forecast(replace(reports, ahead=known), stations(reports.between(0, 61)), origins=60)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        forecaster.forecast(reports, stations(reports.between(0, 61)), origins=60)
    assert not any("known ahead" in str(each.message) for each in told)


def test_a_newer_forecast_of_what_is_known_ahead_takes_the_place_of_the_older():
    old, places = np.ones((6, 1, 1), np.float32), [[0.0, 0.0]]
    earlier = known(old, places)
    new = np.array([7, np.nan, 7], np.float32)[:, None, None]
    for shift, wanted in (
        (1, [1, 7, 1, 7, 1, 1]),
        (-2, [7, np.nan, 7, 1, 1, 1, 1, 1]),
        (5, [1, 1, 1, 1, 1, 7, np.nan, 7]),
    ):
        later = replace(known(new, places), start=earlier.start + shift * HOUR)
        both = earlier.updated(later)
        np.testing.assert_array_equal(both.values.ravel(), np.array(wanted, np.float32))
        assert both.start == min(earlier.start, later.start)
    assert earlier.updated(None) is earlier
    elsewhere = known(new, [[1.0, 1.0]])  # which stands for all, as the other does
    np.testing.assert_array_equal(earlier.updated(elsewhere).values.ravel(), [7, 1, 7, 1, 1, 1])
    three = known(np.ones((6, 3, 1), np.float32), [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    one_silent = known(np.full((2, 2, 1), 7, np.float32), [[2.0, 0.0], [0.0, 0.0]])
    for both in (three.updated(one_silent), three.updated(known(one_silent.values[:, :1], one_silent.positions[:1]))):
        np.testing.assert_array_equal(both.positions, three.positions)
        np.testing.assert_array_equal(both.values[:, 1:, 0], [[1, 7], [1, 7], *[[1, 1]] * 4])
    others = known(new.repeat(2, 1), [[1.0, 1.0], [2.0, 2.0]])
    assert three.updated(others) is others
    joined = three.updated(known(np.full((2, 3, 1), 7, np.float32), [[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]))
    np.testing.assert_array_equal(joined.positions[:, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(joined.values[2:, :, 0], [[1, 1, 1, np.nan]] * 4)
    np.testing.assert_array_equal(joined.values[:2, :, 0], [[1, 7, 7, 7]] * 2, "one is silent, another new")
    np.testing.assert_array_equal(joined.since(joined.start + 3 * HOUR).positions[:, 0], [0, 1, 2])


def rows_of(winds):
    """A table of three stations, with the winds `(T, 3)` that are known there, NaN where there is no row."""
    step, sensor = np.nonzero(~np.isnan(winds))
    times = pandas.date_range("2000-01-01", periods=len(winds), freq="h", tz="UTC")[step]
    return pandas.DataFrame({
        "time": times, "id": np.array(["a", "b", "c"])[sensor], "x": 10.0 * sensor, "y": 0.0,
        "v": np.sin(step + sensor), "wind": winds[step, sensor],
    })  # fmt: skip


WINDS = Columns("time", ("x", "y"), ("v",), "id", ahead=("wind",), step="1h")


def test_what_is_the_same_everywhere_stands_for_all_but_not_what_is_known_at_one_place_at_a_time():
    alike = np.repeat(np.arange(12.0)[:, None], 3, 1)
    stands = read_reports(rows_of(alike), WINDS).ahead
    assert stands.values[:, 0, 0].tolist() == [*range(12)]
    assert np.isnan(stands.positions).all()
    again = read_reports(to_frame(read_reports(rows_of(alike), WINDS)), WINDS).ahead
    np.testing.assert_array_equal(again.values, stands.values)
    np.testing.assert_array_equal(again.positions, stands.positions)
    turns = np.where(np.arange(12)[:, None] % 3 == np.arange(3), 10.0 * np.arange(3), np.nan)
    in_turn = read_reports(rows_of(turns), WINDS).ahead
    assert [np.unique(of[~np.isnan(of)]).tolist() for of in in_turn.values[..., 0].T] == [[0], [10], [20]]
    # A new part in which all are alike does not take the places away.
    apart = read_reports(rows_of(alike + np.arange(3)), WINDS).ahead
    later = replace(stands, start=stands.start + 6 * HOUR)
    both = apart.updated(later)
    np.testing.assert_array_equal(both.positions, apart.positions)
    np.testing.assert_array_equal(both.values[8, :, 0], [2, 2, 2])
    other = later.updated(apart)
    np.testing.assert_array_equal(other.values[0, :, 0], [0, 1, 2])
    np.testing.assert_array_equal(other.values[-1, :, 0], [11, 11, 11])


def test_what_is_known_ahead_that_ends_early_at_some_places_is_named(recwarn):
    winds = np.arange(36.0).reshape(12, 3)
    winds[9:, 1:] = np.nan
    reports = read_reports(rows_of(winds), WINDS)
    places = stations(reports)
    check_known_ahead(reports.between(0, 9), WINDS, 2, 0, places)
    (said,) = recwarn
    assert "wind known ahead ends before 2000-01-01T10:00:00 at 2 of 3 places, where average conditions" in str(
        said.message
    )
    recwarn.clear()
    check_known_ahead(reports.between(0, 8), WINDS, 1, 0, places)
    assert not len(recwarn)


def test_from_a_grid_linear_in_space_and_time():
    time = pandas.date_range("2000-01-01", periods=5, freq="3h")
    x, y = np.arange(4.0), np.arange(3.0)
    plane = 2 * x[:, None] - y + np.arange(5.0)[:, None, None]
    grid = xarray.Dataset({"heat": (("time", "x", "y"), plane)}, {"time": time, "x": x, "y": y})
    columns = Columns("time", ("x", "y"), ("v",), globe=False, ahead=("heat",))
    table = pandas.DataFrame({"time": time.repeat(2), "x": 5 * [0.3, 2.0], "y": 5 * [0.4, 1.0], "v": np.arange(10.0)})
    got = read_reports(table, columns, ahead=grid)
    index, weight = got.ahead.weights(np.array([[0.3, 0.4], [2.75, 1.25], [9.0, 9.0]]), False)
    at = (got.ahead.values[:, index, 0] * weight.numpy()).sum(-1)
    steps = np.arange(13)[:, None] / 3
    np.testing.assert_allclose(at[:, :2], np.array([0.2, 4.25]) + steps, rtol=1e-5)
    np.testing.assert_allclose(at[:, 2], 4 + steps[:, 0], rtol=1e-5, err_msg="beyond it that of the nearest place")


def test_degrees_go_round():
    lon = np.array([350.0, 355.0, 360.0, 365.0]).repeat(2)
    field = known(lon[None, :, None], np.column_stack([lon, np.tile([-1.0, 1.0], 4)]))
    index, weight = field.weights(np.array([[-7.5, 0.0], [2.5, 0.5], [357.0, 0.0]]), True)
    np.testing.assert_allclose((lon[index] * weight.numpy()).sum(-1), [352.5, 362.5, 357.0], rtol=1e-6)


@pytest.mark.parametrize("west", [0, -180, 5])
def test_a_grid_around_the_globe_has_no_seam(west):
    lon, lat = (part.ravel() for part in np.meshgrid(west + np.arange(0.0, 360, 10), [40.0, 50.0, 60.0]))
    heat = 10 * np.sin(np.radians(lon)) + lat
    field = known(heat[None, :, None], np.column_stack([lon, lat]))
    asked = np.arange(-190.0, 190, 0.7)
    index, weight = field.weights(np.column_stack([asked, np.full(len(asked), 45.0)]), True)
    got = (heat[index] * weight.numpy()).sum(-1)
    np.testing.assert_allclose(got, 10 * np.sin(np.radians(asked)) + 45, atol=0.06)


def test_a_grid_across_the_date_line_has_no_seam():
    lon, lat = (part.ravel() for part in np.meshgrid([170.0, 175, 180, -175, -170], [0.0, 5.0]))
    field = known((lon % 360)[None, :, None], np.column_stack([lon, lat]))
    index, weight = field.weights(np.array([[178.0, 1.0], [-178.0, 1.0], [-170.0, 0.0], [0.0, 1.0]]), True)
    got = ((lon % 360)[index] * weight.numpy()).sum(-1)
    np.testing.assert_allclose(got[:3], [178, 182, 190], rtol=1e-6)
    assert got[3] in (170, 190), "beyond it that of the nearest place"


def moving(wind):
    """A wind of its own place at each time."""
    return wind.assign(x=np.arange(len(wind)) * 1.0, y=0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda wind: wind.assign(wind_x=np.nan), "read: expected 'wind_x', known ahead, in the table, got none; fill"),
        (lambda wind: wind.drop(columns="wind_y"), "read: found no column 'wind_y' in the table"),
        (
            lambda wind: pandas.concat([moving(wind), moving(wind).assign(x=-1.0, wind_x=0.0)[:9]]),
            "read: expected what is known ahead at fixed places, got 101 places at 100 steps in the table; give it as",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(reports, wind, change, message):
    with pytest.raises(ValueError, match=message) as error:
        read_reports(to_frame(reports), COLUMNS, ahead=change(wind))
    assert "\n" not in str(error.value)


def on_a_grid(wind, west):
    """The wind at the corners of a square with sides of 100, which begins here in the west."""
    corners = [(west + 100.0 * i, 100.0 * j, wind.wind_x + i) for i, j in product(range(2), repeat=2)]
    return pandas.concat([wind.assign(x=x, y=y, wind_x=speed) for x, y, speed in corners])


@pytest.mark.filterwarnings("ignore:read. .x. of the table is 5000")
def test_a_grid_of_another_region_is_refused_and_one_of_a_part_is_named(reports, wind):
    table = to_frame(reports)
    read_reports(table, COLUMNS, ahead=on_a_grid(wind, 0.0))  # without a warning
    with pytest.raises(
        ValueError, match="wind_x, wind_y known ahead where the sensors are, x .*, got it for x 1000 to"
    ):
        read_reports(table, COLUMNS, ahead=on_a_grid(wind, 1000.0))
    near = [wind.assign(x=-20.0 - i, y=50.0, wind_x=wind.wind_x + i) for i in (0, 1)]
    with pytest.warns(UserWarning, match=r"read: (\d+) of \1 places are far outside of what is known ahead, x -21 to"):
        read_reports(table, COLUMNS, ahead=pandas.concat(near))  # two gauges beside the field are taken all the same
    first = reports.sensors[reports.sensor[0]]
    far = table.assign(x=table.x.where(table.sensor != first, 5000.0), y=table.y.where(table.sensor != first, 0.0))
    with pytest.warns(UserWarning, match=r"read: 1 of \d+ places are far outside of what is known ahead, x 0 to 100"):
        read_reports(far, COLUMNS, ahead=on_a_grid(wind, 0.0))


def test_what_is_known_ahead_of_another_time_is_refused_and_of_a_part_of_it_is_named(reports, wind):
    table = to_frame(reports)
    later = wind.assign(time=wind.time + pandas.Timedelta(days=60))
    with pytest.raises(ValueError, match="wind_x, wind_y, known ahead, is there for 0% of the steps"):
        read_reports(table, COLUMNS, ahead=later)
    assert len(read_reports(table, COLUMNS, to_fit=False, ahead=later))  # of the future
    with pytest.warns(UserWarning, match="known ahead, is there for 40% of the steps of the observations, from 2"):
        read_reports(table, COLUMNS, ahead=wind[60:])
    until = r"until the last observation, \S+, got the last of \S+; give more of it, or leave out the observations"
    with pytest.raises(ValueError, match=until):
        read_reports(table, COLUMNS, ahead=wind[wind.time < table.time.max()])


# Features.


def test_features_are_those_of_the_valid_time():
    field = known([[[1.0]], [[2.0]], [[4.0]], [[8.0]], [[np.nan]]], [[0.0, 0.0]])
    scaling = replace(Scaling.of(WORLD.reports()), ahead_mean=(1.0,), ahead_spread=(2.0,))
    tables = AheadTables.of(field, scaling, field.start + HOUR)
    index, weight = torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1)
    got = tables.features(torch.tensor([0, 0, 0]), torch.tensor([2, 3, 9]), index, weight)
    assert got[0].tolist() == [3.5, 0.5, 2.5, 0.0], "at the target, at the origin, the mean from there on, not missing"
    assert got[1:, 0].tolist() == [0, 0]
    assert got[1:, 3].tolist() == [1, 1]
    assert got.shape[-1] == FEATURES


def test_a_quantity_that_is_only_known_at_sea_is_that_of_the_nearest_place_on_land():
    values = np.ones((3, 4, 2), np.float32)
    values[:, :, 0] = [5, 7, np.nan, np.nan]  # from west to east; the last two are land
    field = known(values, [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    scaling = replace(Scaling.of(WORLD.reports()), ahead_mean=(0.0, 0.0), ahead_spread=(1.0, 1.0))
    index, weight = torch.tensor([[1, 2], [3, 3]]), torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    got = AheadTables.of(field, scaling, field.start).features(
        torch.zeros(2).long(), torch.ones(2).long(), index, weight
    )
    assert got[:, 0].tolist() == [7, 5]
    assert got[:, 1].tolist() == [1, 1]
    assert got[:, 6:].tolist() == [[0, 0], [0, 0]], "known"


# Forecasts.


def test_forecasts_depend_on_what_is_known_ahead(forecaster, reports):
    mean, _ = forecaster.forecast(reports, stations(reports.between(0, 61)), origins=60)
    other = reports.ahead.values.copy()
    other[66:] *= -1
    changed = replace(reports, ahead=replace(reports.ahead, values=other))
    again, _ = forecaster.forecast(changed, stations(reports.between(0, 61)), origins=60)
    assert np.array_equal(again[0, :5], mean[0, :5]), "nothing after the valid time counts"
    tables = [AheadTables.of(each.ahead, forecaster.scaling, each.start) for each in (reports, changed)]
    where = torch.tensor([60]), torch.tensor([66]), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1)
    assert not torch.equal(*(each.features(*where) for each in tables))
    stream = forecaster.step(None, reports.between(0, 61))
    ahead, _ = forecaster.forecast_from(stream, stations(reports.between(0, 61)))
    same, _ = forecaster.forecast(reports.between(0, 61), stations(reports.between(0, 61)))
    np.testing.assert_allclose(ahead, same[0], rtol=1e-3, atol=1e-3)
    rows = judge({"mine": forecaster}, reports, [60, 80], [1, 6], [False] * len(reports.sensors), (0.0,))
    assert len(rows) == 4


def test_places_far_outside_of_what_is_known_ahead_are_named_once(forecaster, reports, wind, recwarn):
    gridded = read_reports(to_frame(reports), COLUMNS, ahead=on_a_grid(wind, 0.0))
    moved = Places(np.array([[-250.0, 50.0], [50.0, 50.0], [140.0, -310.0]]), np.zeros((3, 0), np.float32))
    stream = forecaster.step(None, gridded.between(0, 61))

    def told(asked):
        recwarn.clear()
        asked()
        return [str(each.message) for each in recwarn if "known ahead" in str(each.message)]

    said = (
        "forecast: 2 of 3 places are far outside of what is known ahead, x 0 to 100 and y 0 to 100, and are given the "
        "nearest of it; give more of it, or leave them out"
    )
    assert told(lambda: forecaster.forecast(gridded, moved, origins=[60, 70, 80])) == [said]
    assert told(lambda: forecaster.interpolate(gridded, moved, origins=60)) == [said]
    assert told(lambda: forecaster.dataset(gridded, moved, origins=[60, 70])) == [said]
    assert told(lambda: forecaster.forecast_from(stream, moved)) == [said]
    assert not told(lambda: forecaster.forecast(gridded, Places(moved.positions[1:2], moved.covariates[1:2]), 60))
    assert not told(lambda: forecaster.forecast(gridded, Places(moved.positions[:0], moved.covariates[:0]), 60))
    far = replace(gridded, positions=np.where(gridded.sensor[:, None] == 0, [[-250.0, 0.0]], gridded.positions))
    assert not told(lambda: forecaster.forecast(far, stations(far), 60)), "of stations, reading has warned"


def test_a_saved_stream_keeps_what_is_known_ahead(forecaster, reports, tmp_path):
    stream = forecaster.step(None, reports.between(0, 61))
    stream.save(tmp_path / "stream.safetensors")
    again = forecaster.load_stream(tmp_path / "stream.safetensors")
    assert again.recent.ahead.last == stream.recent.ahead.last
    places = stations(reports.between(0, 61))
    for ours, expected in zip(*(forecaster.forecast_from(each, places) for each in (again, stream)), strict=True):
        np.testing.assert_array_equal(ours, expected)
    for name, change in (("values", lambda part: part[:, :, :1]), ("positions", lambda part: part[:, :1])):
        spoiled, about = read_safetensors(tmp_path / "stream.safetensors")
        spoiled[f"ahead.{name}"] = change(spoiled[f"ahead.{name}"]).contiguous()
        (tmp_path / "spoiled.safetensors").write_bytes(save(spoiled, about))
        with pytest.raises(ValueError, match=r"was not saved by this forecaster \(the (sizes|places) of what is known"):
            forecaster.load_stream(tmp_path / "spoiled.safetensors")


def test_a_stream_forgets_what_was_known_ahead_of_long_ago(forecaster, reports):
    def part(begin, end):
        few, coming = reports.between(begin, end), reports.ahead
        return replace(few, ahead=replace(coming, start=few.start, values=coming.values[begin : end + 8]))

    stream = forecaster.step(None, part(0, 30))
    for begin in range(30, 90, 10):
        stream = forecaster.step(stream, part(begin, begin + 10))
    assert len(stream.recent.ahead.values) == stream.recent.num_steps + 8


def test_a_forecast_after_a_long_silence_is_one_without_reports(forecaster, reports):
    quiet = reports.where(reports.step < 20)
    with pytest.warns(UserWarning, match="no observation in the 12 steps"):
        mean, stddev = forecaster.forecast(quiet, stations(reports), origins=[20 + forecaster.memory], horizon=2)
    assert np.isfinite(mean).all()
    assert np.isfinite(stddev).all()


# A flow that carries the values.


def test_what_a_flow_carries_is_found_where_it_comes_from():
    world = FieldWorld(
        num_stations=30, num_movers=0, num_steps=90, wind=2.0, wind_turn=40.0, turn=1e6, decay=1e-3, partial=0.0,
        dropout=0.0, noise=0.0, diffusivity=0.0, release_every=1e4, without_direction=0.0,
    )  # fmt: skip
    reports = world.reports(wind_ahead=True)
    scaling = Scaling.of(reports)
    assert scaling.flow == (0, 1)
    guess = tuned(Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6))
    assert guess.carry * scaling.side == pytest.approx(1, rel=0.1), "the field moves as far as its wind says"
    cases, truth, *_ = sample(Windows(reports, scaling, guess, 13, 6), guess, 8, alone=0.5)
    far = cases.leads >= 5
    error = (cases.values[far, 0] - truth[far, :1]).abs().nanmean(0)
    assert error[-1] < 0.5 * error[:-1].nan_to_num(torch.inf).min(), "by far the best of all candidates"
    still = replace(reports, ahead=replace(reports.ahead, values=0 * reports.ahead.values))
    assert not tuned(Windows(still, scaling, first_guess(still, scaling, 12, 6), 13, 6)).carry, "a calm carries nothing"


def test_upstream_is_against_the_flow_on_planes_and_on_the_globe():
    plane = upstream(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[[0.5, -1.0]]]]]))
    assert plane.flatten().tolist() == [0.5, 3.0]
    degrees = np.array([[10.0, 60.0]])
    there = torch.from_numpy(on_sphere(degrees)).float()[None, None]
    gone = torch.deg2rad(torch.tensor([[[[[0.5, 0.0], [0.0, 1.0]]]]]))  # half a degree of the great circle is one here
    came = upstream(there, gone)[0, 0, 0].double().numpy()
    np.testing.assert_allclose(came, on_sphere(np.array([[9.0, 60.0], [10.0, 59.0]])), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flow": ("wind_x",)}, r"flow must have a speed along each of \['x', 'y'\], got \['wind_x'\]"),
        (
            {"flow": ("wind_x", "rain")},
            r"flow must be among what is known ahead, \['wind_x', 'wind_y'\], got \['rain'\]",
        ),
    ],
)
def test_a_flow_that_is_none_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(COLUMNS, **change)


def test_a_future_without_its_past_is_named(forecaster, reports):
    some, origin = stations(reports.between(0, 61)), 60
    start = reports.start + (origin + 1) * reports.step_length
    later = replace(reports, ahead=reports.ahead.since(start))
    named = f"known ahead only from {start.astype('datetime64[s]')} on, needed from"
    with pytest.warns(UserWarning, match=named):
        forecaster.forecast(later, some, origins=origin)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forecaster.forecast(reports, some, origins=origin)


def test_a_future_that_ends_before_the_horizon_is_refused(forecaster, reports):
    message = (
        "forecast: expected wind_x, wind_y known ahead until 2000-01-05T09:00:00, got the last of "
        "2000-01-05T03:00:00; give a longer table, or shorten the horizon"
    )
    with pytest.raises(ValueError, match=message):
        forecaster.forecast(reports, stations(reports), horizon=6)
    mean, _ = forecaster.forecast(reports, stations(reports.between(0, 94)), origins=93, horizon=6)
    assert np.isfinite(mean).all()
    with pytest.raises(
        ValueError, match=r"expected what is known ahead of wind_x, wind_y, got none; give read_reports"
    ):
        forecaster.forecast(replace(reports, ahead=None), stations(reports.between(0, 61)), origins=60)
    with pytest.raises(ValueError, match=r"fitted to ahead \('wind_x', 'wind_y'\), got \(\); name the same columns"):
        forecaster.forecast(WORLD.reports(), stations(reports.between(0, 61)), origins=60)
    with pytest.raises(ValueError, match="export: expected a forecaster of observations alone, got one that is given"):
        ForecastStep(forecaster)


def test_the_command_takes_a_table_of_its_own(forecaster, reports, wind, tmp_path, tmp_path_factory, capsys):
    folder = next(tmp_path_factory.getbasetemp().glob("ahead*"))
    to_frame(reports.between(0, 80)).to_csv(tmp_path / "t.csv", index=False)
    wind[:90].to_csv(tmp_path / "wind.csv", index=False)
    command = Forecast(folder, tmp_path / "t.csv", tmp_path / "wind.csv", out=tmp_path / "out.csv")
    forecast(command)
    known = read_reports(tmp_path / "t.csv", COLUMNS, False, wind)
    mean, _ = forecaster.forecast(known, stations(known))
    written = pandas.read_csv(tmp_path / "out.csv")
    np.testing.assert_allclose(written.tracer_mean, mean[0, :, :, 0].ravel(), rtol=1e-3, atol=1e-3)
    wind[:84].to_csv(tmp_path / "wind.csv", index=False)
    with pytest.raises(ValueError, match="known ahead until 2000-01-04T13:00:00, got the last of 2000-01-04T11:00:00"):
        forecast(command)


def test_another_table_is_judged_with_its_own_table_of_what_is_known_ahead(
    forecaster, reports, wind, tmp_path, tmp_path_factory, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(next(tmp_path_factory.getbasetemp().glob("ahead*")), folder)
    bare = to_frame(replace(reports, ahead=None, columns=replace(COLUMNS, ahead=(), flow=())))
    bare.to_csv(tmp_path / "t.csv", index=False)
    wind.to_csv(tmp_path / "wind.csv", index=False)
    fitted = FitTable(tmp_path / "t.csv", COLUMNS, tmp_path / "wind.csv", out=folder)
    (folder / "fit.json").write_text(json.dumps(_settings(fitted, None)))
    Parts.of(reports, split(reports, fitted.test, fitted.held_out, 0)).write(folder)
    week = pandas.Timedelta("168h")  # the wind of the fit is not that of the other table
    bare.assign(time=bare.time + week).to_csv(tmp_path / "later.csv", index=False)
    later = wind.assign(time=wind.time + week, wind_x=wind.wind_x + 1)
    later.to_csv(tmp_path / "later_wind.csv", index=False)
    full = pandas.concat([bare.assign(time=bare.time + week), later.assign(x=0.0, y=0.0)])
    full.to_csv(tmp_path / "full.csv", index=False)
    asked = Evaluate((folder,), table=tmp_path / "later.csv", ahead_table=tmp_path / "later_wind.csv")
    for command in (asked, replace(asked, table=tmp_path / "full.csv", ahead_table=None)):
        opened = opened_of(command)
        np.testing.assert_allclose(opened.reports.ahead.values[:, 0, 0], later.wind_x, rtol=1e-5)
        there = stations(opened.reports.between(0, int(opened.origins[0]) + 1))
        assert np.isfinite(opened.forecaster.forecast(opened.reports, there, opened.origins[:1])[0]).all()
    with pytest.raises(ValueError, match="expected wind_x, wind_y, known ahead, in .*later.csv, got none; name") as e:
        opened_of(replace(asked, ahead_table=None))
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match="--ahead-table holds what is known ahead of --table, got no --table; leave"):
        opened_of(replace(asked, table=None))


def test_the_next_sensor_needs_nothing_that_is_known_ahead(forecaster, reports, tmp_path, tmp_path_factory):
    folder = next(tmp_path_factory.getbasetemp().glob("ahead*"))
    to_frame(reports.between(0, 80)).drop(columns=["wind_x", "wind_y"]).to_csv(tmp_path / "t.csv", index=False)
    command = NextSensor(folder, tmp_path / "t.csv", at="stations", interest="stations", out=tmp_path / "next.csv")
    with pytest.warns(UserWarning, match="next-sensor: 1 of 8 stations have not reported in the last 12 steps"):
        place(command)
    with pytest.warns(UserWarning, match="and count as absent"):
        found = next_sensor(forecaster, reports.between(0, 80), *2 * [stations(reports.between(0, 80))])
    np.testing.assert_allclose(pandas.read_csv(tmp_path / "next.csv")["share"].max(), found.mean.max(), rtol=1e-4)


def test_the_loaded_forecaster_is_the_same(forecaster, tmp_path_factory, reports):
    folder = next(path for path in tmp_path_factory.getbasetemp().glob("ahead*"))
    assert Forecaster.load(folder).fingerprint == forecaster.fingerprint
