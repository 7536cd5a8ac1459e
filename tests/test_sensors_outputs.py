"""Forecasts as tables and files: names, quantiles, attributes of CF, and stations that are long silent."""

from dataclasses import replace

import numpy as np
import pytest

from s2rm.sensors import Columns, Places, Reports
from s2rm.sensors.checks import check_quantiles
from s2rm.sensors.conventions import named_in_cf
from s2rm.sensors.outputs import Forecasts, last_observations, write_netcdf

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')


def forecasts(columns: Columns, named: bool = True) -> Forecasts:
    """One forecast, of an hour, for two places."""
    places = Places(np.array([[1.0, 3.0], [2.0, 4.0]]), np.empty((2, 0), np.float32), ("a", "b") if named else None)
    init, lead = np.array(["2013-05-01T06:00"], "datetime64[us]"), np.array([1], "timedelta64[h]")
    shape = (1, 1, 2, len(columns.values))
    return Forecasts(columns, places, init, lead, np.zeros(shape), np.ones(shape))


@pytest.mark.parametrize("name", ["valid_time", "init_time", "t_mean"])
def test_a_column_named_as_ours(name):
    made = forecasts(Columns("time", ("x", "y"), ("t",), name))
    table, dataset = made.table(), made.dataset("", several=False)
    assert table[f"{name}_"].tolist() == ["a", "b"]
    assert table.valid_time.tolist() == [pandas.Timestamp("2013-05-01T07:00Z")] * 2
    assert table.init_time.tolist() == [pandas.Timestamp("2013-05-01T06:00Z")] * 2
    assert table.t_mean.tolist() == [0, 0]
    assert dataset.t_mean.dims == ("valid_time", f"{name}_")
    assert dataset.valid_time.values.tolist() == [np.datetime64("2013-05-01T07:00", "ns").item()]


def test_a_position_named_as_ours():
    columns = Columns("time", ("lead_time", "place"), ("t",))
    made = forecasts(columns, named=False)
    assert made.table()["lead_time_"].tolist() == [1, 2]
    dataset = made.dataset("", several=False)
    assert dataset.lead_time_.values.tolist() == [1, 2]
    assert dataset.lead_time.values.tolist() == [np.timedelta64(1, "h").astype("timedelta64[ns]").item()]
    assert dataset.place.values.tolist() == [3, 4]
    assert dataset.t_mean.dims == ("valid_time", "place_")


def test_slashes_and_blanks_in_netcdf(tmp_path):
    columns = Columns("time", ("x/m", "y (m)"), ("wind (m/s)", "wind_(m_s)"), "station/id")
    made = forecasts(columns)
    dataset = replace(made, mean=made.mean + np.array([5.0, 7.0])).dataset("", several=False)
    write_netcdf(dataset, tmp_path / "new" / "f.nc")
    with xarray.open_dataset(tmp_path / "new" / "f.nc", engine="h5netcdf") as read:
        assert read["wind_(m_s)_mean"].values.tolist() == [[7, 7]]
        assert {"x_m", "y_(m)"} <= {*read.coords}
        slashed = read["wind_(m_s)_mean_"]
        assert slashed.values.tolist() == [[5, 5]]
        assert slashed.attrs["long_name"] == "mean of the forecast of wind (m/s)"
        assert slashed.attrs["ancillary_variables"] == "wind_(m_s)_stddev_"
        assert slashed.dims == ("valid_time", "station_id")
        assert read["x_m"].values.tolist() == [1, 2]
    assert dataset["wind (m/s)_mean"].attrs["ancillary_variables"] == "wind (m/s)_stddev"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["f.nc"]


def gauges(steps: dict[str, list[int]], columns: Columns | None = None) -> Reports:
    """Reports of stations at these hours."""
    rows = sorted((step, index) for index, mine in enumerate(steps.values()) for step in mine)
    step, sensor = np.array(rows, np.int64).reshape(-1, 2).T
    places, nothing = np.stack([sensor, sensor], 1).astype(float), np.empty((len(step), 0), np.float32)
    columns = columns or Columns("time", ("x", "y"), ("level",), "gauge")
    start, values = np.datetime64("2020-01-01", "us"), np.ones((len(step), 1), np.float32)
    return Reports(columns, start, 48, tuple(steps), step, sensor, places, values, nothing)


def test_when_stations_last_reported_and_which_are_long_silent():
    reports = gauges(
        {"hourly": [*range(48)], "late": [*range(45)], "stopped": [*range(44)], "daily": [0, 10, 20], "once": [46],
         "before": [1]}
    )  # fmt: skip
    names = ("stopped", "late", "daily", "once", "hourly", "before", "nobody")
    time, silent = last_observations(reports, names, np.array([47, 21]))
    hours = (time - reports.start) / np.timedelta64(1, "h")
    np.testing.assert_array_equal(hours, [[43, 44, 20, 46, 47, 1, np.nan], [21, 21, 20, np.nan, 21, 1, np.nan]])
    assert silent.tolist() == [[True, False, False, False, False, True, False], [False] * 5 + [True, False]]
    none = last_observations(reports.where(reports.step < 0), names, np.array([47]))
    assert np.isnat(none.time).all()
    assert not none.silent.any()


def test_quantiles_are_those_of_the_gaussian():
    made = forecasts(Columns("time", ("x", "y"), ("level", "turn"), "gauge", circular=("turn",)))
    made = replace(
        made,
        mean=made.mean + np.array([3.0, 350.0]),
        stddev=made.stddev * np.array([2.0, 20.0]),
        quantiles=(0.025, 0.5, 0.975),
    )
    table = made.table()
    assert [name for name in table if "_q" in name] == [
        f"{name}_q{share}" for name in ("level", "turn") for share in ("2.5", "50", "97.5")
    ]
    np.testing.assert_allclose(
        table[["level_q2.5", "level_q50", "level_q97.5"]].iloc[0], [-0.919928, 3, 6.919928], rtol=1e-6
    )
    np.testing.assert_allclose(
        table[["turn_q2.5", "turn_q50", "turn_q97.5"]].iloc[0], [310.80072, 350, 29.19928], rtol=1e-6
    )
    dataset = made.dataset("", several=False)
    assert dataset.level_quantile.sel(quantile=0.975, gauge="a").item() == pytest.approx(6.919928)
    wide = replace(made, stddev=made.stddev * 100).quantile(0.975)
    assert wide[..., 1].ravel() == pytest.approx([161, 161], abs=0.1), "all directions are as likely"
    assert check_quantiles([]) == ()
    for wrong in ([0.5, 0.5], [0.9, 0.1], [5, 95], [0.0], "0.5", [np.nan], 0.5):
        with pytest.raises(ValueError, match="forecast: expected quantiles between 0 and 1, in order, got"):
            check_quantiles(wrong)
    for alike in ([0.1, 0.10000000001], [0.999999999]):
        with pytest.raises(
            ValueError, match="expected quantiles that differ in six digits, by which columns are named"
        ):
            check_quantiles(alike)


@pytest.mark.parametrize(
    ("name", "standard_name", "units"),
    [("air_temp_K", "air_temperature", "K"), ("Air temperature [°C]", "air_temperature", "degree_Celsius"),
     ("dewpoint_C", "dew_point_temperature", "degree_Celsius"), ("wind_speed_ms", "wind_speed", "m s-1"),
     ("wind (m/s)", "wind_speed", "m s-1"), ("wind_knots", "wind_speed", "knot"),
     ("gust_ms", "wind_speed_of_gust", "m s-1"),
     ("wind_dir_deg", "wind_from_direction", "degree"), ("slp_hPa", "air_pressure_at_mean_sea_level", "hPa"),
     ("rel_humidity_pct", "relative_humidity", "%"), ("rel. humidity (%)", "relative_humidity", "%"),
     ("pm10_ug_m3", "mass_concentration_of_pm10_ambient_aerosol_particles_in_air", "ug m-3")],
)  # fmt: skip
def test_names_that_are_plain_have_a_standard_name(name, standard_name, units):
    assert named_in_cf(name) == {"standard_name": standard_name, "units": units}


@pytest.mark.parametrize(
    "name", ["temp", "temp_C", "air_temp", "speed_ms", "wind_speed", "wave_height_m", "level", "gust", "pm10",
             "dewpoint_depression_C", "air_temp_anomaly_K", "air_temp_bias_C", "dairy_temp_C", "wind_to_direction_deg",
             "wind_dir_to_deg", "air_temp_departure_K", "dew_point_deficit_K", "dew_point_spread_C"]
)  # fmt: skip
def test_names_that_are_not_plain_have_none(name):
    assert named_in_cf(name) == {}


@pytest.mark.parametrize("several", [False, True])
def test_a_file_is_as_cf_has_it(several, tmp_path):
    columns = Columns("time", ("lon", "lat"), ("air_temp_C", "level"), "buoy")
    made = replace(forecasts(columns), quantiles=(0.05, 0.95))
    reports = gauges({"a": [*range(48)], "b": [*range(9)]}, replace(columns, values=("level",)))
    made = replace(made, last=last_observations(reports, ("a", "b"), np.array([40])))
    lonlat = replace(
        made, places=Places(np.array([[1.0, 50.0], [1, 51], [2, 50], [2, 51]]), np.empty((4, 0), np.float32))
    )
    block = np.arange(4.0)[:, None] + np.zeros((1, 1, 4, 2))
    lonlat = replace(lonlat, mean=block, stddev=block, last=None)
    for number, one in enumerate((made, lonlat)):
        write_netcdf(one.dataset("source", several), tmp_path / f"{number}.nc")
    times = ("init_time", "lead_time") if several else ("valid_time",)
    with xarray.open_dataset(tmp_path / "0.nc", decode_timedelta=True) as read:
        assert read.Conventions == "CF-1.11"
        mean, spread = read.air_temp_C_mean, read.air_temp_C_stddev
        assert (mean.standard_name, mean.units) == ("air_temperature", "degree_Celsius")
        assert (spread.standard_name, spread.units_metadata) == (
            "air_temperature standard_error",
            "temperature: difference",
        )
        assert "standard_name" not in read.level_mean.attrs
        assert read.air_temp_C_quantile.dims == ("quantile", *times, "buoy")
        assert read.last_observation.dims == (("init_time", "buoy") if several else ("buoy",))
        hours = (read.last_observation.values - np.datetime64("2020-01-01")) / np.timedelta64(1, "h")
        assert hours.ravel().tolist() == [40, 8]
        assert read.silent.values.ravel().tolist() == [0, 1]
        assert read.silent.flag_meanings == "reporting silent"
        assert {"lon", "lat", "init_time", "valid_time", "lead_time"} <= {*read.coords}
        assert (read.lon.standard_name, read.lat.units) == ("longitude", "degrees_north")
    with xarray.open_dataset(tmp_path / "1.nc", decode_timedelta=True) as read:
        assert read.level_mean.dims == (*times, "lat", "lon")
        assert (read.lat.axis, read.lon.axis) == ("Y", "X")
        assert read.level_mean.sel(lon=2, lat=50).values.ravel().tolist() == [2]
        assert read.level_mean.values.ravel().tolist() == [0, 2, 1, 3]
        assert "silent" not in read


def test_a_column_named_as_a_quantile():
    made = replace(forecasts(Columns("time", ("t_q05", "quantile"), ("t",), "silent")), quantiles=(0.05,))
    table, dataset = made.table(), made.dataset("", several=False)
    assert table["t_q05_"].tolist() == [1, 2]
    assert table["silent_"].tolist() == ["a", "b"]
    assert dataset["quantile_"].values.tolist() == [3, 4]
    assert dataset["quantile"].values.tolist() == [0.05]
