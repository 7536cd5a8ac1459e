import gzip
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import unchecked_shapes
from s2rm.sensors import Columns, Reports, grid, read_reports, to_frame
from s2rm.sensors.reading.tables import read_places
from s2rm.sensors.reports import DEGREES

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')

DATA = Path(__file__).parents[2] / "shared" / "data"
COLUMNS = Columns("time", ("lon", "lat"), ("temp", "wind"), "station", ("alt",), ("wind",))
CELLS = ["temp", "wind", "alt"]


def table(num_steps: int = 3, num_stations: int = 2):
    """Stations "0", "1", ... at (10, 50), (11, 51), ..., each hour from 2013-05-01; no two temperatures alike."""
    hour, station = (x.ravel() for x in np.mgrid[:num_steps, :num_stations])
    return pandas.DataFrame(
        {
            "time": [f"2013-05-01T{h:02d}:00:00Z" for h in hour],
            "station": [f"s{s}" for s in station],
            "lon": 10.0 + station,
            "lat": 50.0 + station,
            "alt": 100.0 * station,
            "temp": 0.5 * np.arange(len(hour)),
            "wind": 30.0 * np.arange(len(hour)) % 360,
        }
    )


def changed(row: int, **cells):
    """The table with other cells in one row, counted from 1."""
    frame = table().astype(object)
    for name, cell in cells.items():
        frame.loc[row - 1, name] = cell
    return frame


def check(reports: Reports) -> None:
    """What holds of all reports."""
    key = reports.step * len(reports.sensors) + reports.sensor
    assert (np.diff(key) > 0).all()
    assert len(reports) > 0
    assert reports.num_steps >= 2
    assert 0 == reports.step[0] <= reports.step[-1] == reports.num_steps - 1
    assert list(reports.sensors) == sorted(set(reports.sensors))
    assert set(reports.sensor.tolist()) == set(range(len(reports.sensors)))
    assert np.isfinite(reports.positions).all()
    assert not np.isinf(reports.values).any()
    assert not np.isnan(reports.values).all(1).any()
    assert (np.nanmin(reports.values, 0) < np.nanmax(reports.values, 0)).all()
    assert (reports.step.dtype, reports.sensor.dtype) == (np.int64, np.int64)
    assert (reports.values.dtype, reports.covariates.dtype, reports.positions.dtype) == (
        "float32",
        "float32",
        "float64",
    )
    for name, block in (
        ("position", reports.positions),
        ("values", reports.values),
        ("covariates", reports.covariates),
    ):
        assert block.shape == (len(reports), len(getattr(reports.columns, name)))


def check_equal(one: Reports, other: Reports) -> None:
    assert (one.columns, one.start, one.num_steps) == (other.columns, other.start, other.num_steps)
    assert one.sensors == other.sensors
    for name in ("step", "sensor", "positions", "values", "covariates"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


def refusal(source, columns: Columns = COLUMNS) -> str:
    with pytest.raises(ValueError, match=r"\Aread: ") as raised:
        read_reports(source, columns)
    assert "\n" not in str(raised.value)
    return str(raised.value)


class TestReading:
    def test_a_table(self):
        reports = read_reports(table().sample(frac=1, random_state=0), COLUMNS)
        check(reports)
        assert reports.start == np.datetime64("2013-05-01T00:00")
        assert (reports.num_steps, reports.sensors) == (3, ("s0", "s1"))
        assert reports.step.tolist() == [0, 0, 1, 1, 2, 2]
        assert reports.sensor.tolist() == [0, 1, 0, 1, 0, 1]
        assert reports.positions.tolist() == [[10, 50], [11, 51]] * 3
        assert reports.values.tolist() == [[0, 0], [0.5, 30], [1, 60], [1.5, 90], [2, 120], [2.5, 150]]
        assert reports.covariates.tolist() == [[0], [100]] * 3

    @pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".CSV", ".parquet"])
    def test_files(self, tmp_path, ending):
        path = tmp_path / f"table{ending}"
        frame = table().assign(unused="x")
        frame.to_parquet(path) if ending == ".parquet" else frame.to_csv(path, index=False)
        check_equal(read_reports(path, COLUMNS), read_reports(table(), COLUMNS))
        check_equal(read_reports(str(path), COLUMNS), read_reports(table(), COLUMNS))

    def test_csv_keeps_names_as_written(self, tmp_path):
        path = tmp_path / "table.csv"
        table().replace({"station": {"s0": "007", "s1": "7"}}).to_csv(path, index=False)
        assert read_reports(path, COLUMNS).sensors == ("007", "7")

    @pytest.mark.parametrize("names", [[2, 10], [2.0, 10.0], [b"2", b"10"], ["2", 10], ["2.0", "10.0"]])
    def test_names_are_sorted_texts(self, names):
        reports = read_reports(table().replace({"station": dict(zip(["s0", "s1"], names, strict=True))}), COLUMNS)
        assert reports.sensors == ("10", "2")
        assert reports.sensor.tolist() == [0, 1] * 3
        assert reports.values[0].tolist() == [0.5, 30]

    def test_columns_may_be_in_the_index(self):
        frame = table().set_index(["time", "station"])
        check_equal(read_reports(frame, COLUMNS), read_reports(table(), COLUMNS))

    def test_places_are_sensors_where_none_is_named(self):
        columns = replace(COLUMNS, sensor=None)
        frame = table()
        frame.loc[2:, "lon"] += 3e-7
        reports = read_reports(frame, columns)
        check(reports)
        assert reports.sensors == ("10 50", "11 51")

    def test_a_place_has_the_same_name_in_every_table(self):
        columns = Columns("time", ("x", "y"), ("temp",))
        frame = table(3, 3).assign(x=lambda t: 500_000.1 + 0.1 * t.alt / 100, y=-0.0)
        frame.loc[2::3, ["x", "y"]] = 412_350.25, 5_432_400.5
        names = "412350.25 5432400.5", "500000.1 0", "500000.2 0"
        assert read_reports(frame, columns).sensors == names
        for left_out in range(3):  # whichever others are there
            few = frame[np.arange(len(frame)) % 3 != left_out]
            assert {*read_reports(few, columns).sensors} < {*names}

    def test_empty_cells_and_rows_without_values(self):
        frame = table(4)
        frame.loc[2, ["temp", "wind"]] = np.nan
        frame.loc[2, ["time", "lon", "lat"]] = ["no time", np.nan, 999]
        frame.loc[3, "wind"] = frame.loc[[1, 4], "alt"] = np.nan
        reports = read_reports(frame, COLUMNS)
        check(reports)
        assert reports.step.tolist() == [0, 0, 1, 2, 2, 3, 3]
        assert np.isnan(reports.values).nonzero()[0].tolist() == [2]
        assert np.isnan(reports.covariates).nonzero()[0].tolist() == [1]
        assert reports.covariates[3] == frame.alt[0], "what its sensor last said"

    @pytest.mark.parametrize("dtype", ["float32", "Float64", "string", "category", object])
    def test_types_of_numbers(self, dtype):
        frame = table()
        frame.loc[3, "wind"] = np.nan
        typed = frame.assign(temp=frame.temp.astype(dtype), wind=frame.wind.astype(dtype))
        check_equal(read_reports(typed, COLUMNS), read_reports(frame, COLUMNS))

    def test_blank_text_is_empty(self):
        assert np.isnan(read_reports(changed(3, wind=" "), COLUMNS).values[2, 1])


class TestDatasets:
    @pytest.fixture
    def stations(self):
        """(time, station), with one hour at which station s1 is silent."""
        xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
        temp = np.arange(6.0).reshape(3, 2)
        temp[1, 1] = np.nan
        return xarray.Dataset(
            {"temp": (("time", "station"), temp), "alt": ("station", [5.0, 7.0]), "error": ("time", np.ones(3))},
            coords={
                "time": pandas.date_range("2013-05-01", periods=3, freq="h"),
                "station": ["s0", "s1"],
                "lon": ("station", [10.0, 11.0]),
                "lat": ("station", [50.0, 51.0]),
            },
        )

    columns = Columns("time", ("lon", "lat"), ("temp",), "station", ("alt",))

    def check_stations(self, reports: Reports) -> None:
        check(reports)
        assert reports.values[:, 0].tolist() == [0, 1, 2, 4, 5]
        assert reports.step.tolist() == [0, 0, 1, 2, 2]
        assert reports.positions[:2].tolist() == [[10, 50], [11, 51]]
        assert reports.covariates[:, 0].tolist() == [5, 7, 5, 5, 7]

    def test_stations(self, stations):
        self.check_stations(read_reports(stations, self.columns))
        self.check_stations(read_reports(stations.drop_vars("station"), self.columns))
        reports = read_reports(stations.drop_vars("station"), replace(self.columns, sensor=None))
        assert reports.sensors == ("10 50", "11 51")
        self.check_stations(reports)

    @pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
    def test_netcdf(self, stations, tmp_path, engine):
        if engine == "h5netcdf":
            pytest.importorskip("h5py", reason="h5netcdf needs h5py")
        stations.to_netcdf(tmp_path / "stations.nc", engine=engine)
        self.check_stations(read_reports(tmp_path / "stations.nc", self.columns))

    @pytest.mark.parametrize("consolidated", [True, False])
    def test_zarr(self, stations, tmp_path, consolidated):
        pytest.importorskip("zarr", reason='needs pip install "s2rm[tables]"')
        stations.to_zarr(tmp_path / "stations.zarr", zarr_format=2, consolidated=consolidated)
        self.check_stations(read_reports(tmp_path / "stations.zarr", self.columns))

    def test_a_grid(self):
        xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
        temp = np.arange(30.0).reshape(2, 3, 5)
        temp[0, 1, 1] = np.nan
        coords = {"time": pandas.date_range("2013", periods=2, freq="D"), "lat": [50, 51, 52], "lon": [1, 2, 3, 4, 5]}
        grid = xarray.Dataset({"temp": (("time", "lat", "lon"), temp)}, coords)
        reports = read_reports(grid, Columns("time", ("lon", "lat"), ("temp",), step="1D"))
        check(reports)
        assert (len(reports), reports.num_steps, len(reports.sensors)) == (29, 2, 15)
        row = reports.values[:, 0].tolist().index(22)
        assert reports.positions[row].tolist() == [3, 51]
        assert reports.sensors[reports.sensor[row]] == "3 51"

    def test_a_dimension_too_many(self, stations):
        message = refusal(stations.expand_dims(level=[1, 2, 3]), self.columns)
        assert "the 3 entries of 'level' in the table" in message
        assert ".isel(level=0)" in message
        self.check_stations(read_reports(stations.expand_dims(level=[1]), self.columns))

    def test_a_missing_variable(self, stations):
        expected = "read: found no column 'temps' in the table; did you mean 'temp'?"
        assert refusal(stations, replace(self.columns, values=("temps",))) == expected


class TestRaggedArrays:
    """Three hours of station a, two of station b, which the conventions of CF write in several ways."""

    columns = Columns("time", ("lon", "lat"), ("temp",), "name")

    @staticmethod
    def dataset(order: list[int], **others):
        xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
        hours = pandas.to_datetime([f"2013-05-01T0{hour}" for hour in (0, 1, 2, 0, 1)])
        observed = {"temp": ("obs", np.array([1.0, 2.0, 3.0, 14.0, 15.0])[order]), "time": ("obs", hours[order])}
        lon, lat = ("station", [10.0, 11.0]), ("station", [50.0, 51.0])
        return xarray.Dataset({**observed, "lon": lon, "lat": lat, "name": ("station", ["a", "b"]), **others})

    def check(self, dataset) -> None:
        reports = read_reports(dataset, self.columns)
        assert reports.sensors == ("a", "b")
        assert reports.step.tolist() == [0, 0, 1, 1, 2]
        assert reports.values.ravel().tolist() == [1, 14, 2, 15, 3]
        assert reports.positions[:, 0].tolist() == [10, 11, 10, 11, 10]

    def test_indexed(self):
        index = ("obs", np.array([0, 0, 0, 1, 1])[[3, 0, 4, 1, 2]], {"instance_dimension": "station"})
        self.check(self.dataset([3, 0, 4, 1, 2], index=index))

    def test_contiguous(self):
        counts = ("station", [3, 2], {"sample_dimension": "obs"})
        self.check(self.dataset([0, 1, 2, 3, 4], counts=counts))

    def test_contiguous_profiles_of_indexed_stations(self):
        counts = ("profile", [1, 2, 2], {"sample_dimension": "obs"})
        index = ("profile", [0, 0, 1], {"instance_dimension": "station"})
        self.check(self.dataset([0, 1, 2, 3, 4], counts=counts, index=index))

    def test_wrong_counts_and_indices(self):
        counts = ("station", [3, 1], {"sample_dimension": "obs"})
        message = refusal(self.dataset([0, 1, 2, 3, 4], counts=counts), self.columns)
        assert "the counts in 'counts' of the table to add up to the 5 entries of 'obs', got 4" in message
        index = ("obs", [0, 0, 0, 1, 2], {"instance_dimension": "station"})
        message = refusal(self.dataset([0, 1, 2, 3, 4], index=index), self.columns)
        assert "whole numbers from 0 to 1 in 'index' of the table, got 2 in entry 5" in message

    def test_what_no_convention_connects(self):
        message = refusal(self.dataset([0, 1, 2, 3, 4]), self.columns)
        assert "expected 'name' of the table along the dimensions of 'temp', ('obs',), got ('station',)" in message
        assert "instance_dimension" in message

    def test_values_along_different_dimensions(self):
        dataset = self.dataset([0, 1, 2, 3, 4], depth=("station", [1.0, 2.0]))
        message = refusal(dataset, replace(self.columns, values=("temp", "depth")))
        assert "'temp' along ('obs',) and 'depth' along ('station',)" in message

    def test_trajectories(self):
        xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
        hours = np.array([["2013-05-01T00", "2013-05-01T01"], ["2013-05-01T01", "NaT"]], "datetime64[ns]")
        dims = ("trajectory", "obs")
        ships = xarray.Dataset(
            {"temp": (dims, [[1.0, 2.0], [3.0, np.nan]]), "time": (dims, hours)},
            {"name": ("trajectory", ["a", "b"]), "lon": (dims, [[10.0, 10.5], [11.0, np.nan]]),
             "lat": (dims, [[50.0, 50.5], [51.0, np.nan]])},
        )  # fmt: skip
        reports = read_reports(ships, self.columns)
        assert [reports.sensors[sensor] for sensor in reports.sensor] == ["a", "a", "b"]
        assert reports.positions[:, 0].tolist() == [10, 10.5, 11]
        assert reports.values.ravel().tolist() == [1, 2, 3]


class TestTimes:
    @pytest.mark.parametrize(
        "write",
        [
            lambda t: t.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            lambda t: t.dt.strftime("%Y-%m-%d %H:%M:%S"),
            lambda t: t.dt.strftime("%Y-%m-%dT%H"),
            lambda t: t.dt.strftime("%Y%m%dT%H%M+00"),
            lambda t: t.dt.strftime(" %Y-%m-%dT%H:%M:%S.000+00:00 "),
            lambda t: t.dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata").astype(str),
            lambda t: t,
            lambda t: t.astype("datetime64[ns]"),
            lambda t: t.dt.tz_localize("UTC"),
            lambda t: t.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin"),
            lambda t: t.dt.to_pydatetime(),
            lambda t: t.astype("category"),
        ],
    )
    def test_all_that_mean_the_same(self, write):
        frame = table()
        moments = pandas.Series(pandas.to_datetime(frame.time.str[:19], format="ISO8601"))
        check_equal(read_reports(frame.assign(time=write(moments)), COLUMNS), read_reports(frame, COLUMNS))

    def test_summer_time_within_a_zone(self):
        times = pandas.date_range("2013-03-31", periods=6, freq="h", tz="Europe/Berlin")
        reports = read_reports(table(6, 2).assign(time=np.repeat(times, 2)), COLUMNS)
        assert reports.step.tolist() == np.repeat(range(6), 2).tolist()
        assert reports.start == np.datetime64("2013-03-30T23:00")

    def test_irregular_times_are_binned(self):
        times = ["2013-05-01T00:47", "2013-05-01T01:00", "2013-05-01T01:14:59.9", "2013-05-01T01:15"]
        frame = table(2).assign(time=times, station=["a", "b", "b", "a"])
        reports = read_reports(frame, replace(COLUMNS, step="15min"))
        assert reports.start == np.datetime64("2013-05-01T00:45")
        assert reports.step.tolist() == [0, 1, 2]
        assert reports.values[:, 0].tolist() == [0, 0.75, 1.5]
        assert reports.num_steps == 3

    def test_steps_before_1970(self):
        reports = read_reports(table(2).assign(time=["1969-12-31T22:30"] * 2 + ["1970-01-01T01:00"] * 2), COLUMNS)
        assert (reports.start, reports.num_steps) == (np.datetime64("1969-12-31T22:00"), 4)

    @pytest.mark.parametrize("text", ["yesterday", "now", "2013-13-01", "2013", "1367366400", "01/05/2013", "NaTs"])
    def test_what_is_no_time(self, text):
        expected = (
            f"read: expected times in 'time' of the table, got '{text}' in row 4; "
            "write them as in ISO 8601, 2013-05-01T06:00"
        )
        assert refusal(changed(4, time=text)) == expected

    @pytest.mark.parametrize("other", ["2013-05-01T03:00:00", "2013-05-01"])
    def test_with_and_without_an_offset(self, other):
        message = refusal(changed(2, time=other))
        assert "expected times with an offset from UTC like '2013-05-01T00:00:00Z'" in message
        assert f"got '{other}' in row 2; write all of them in UTC" in message

    @pytest.mark.parametrize("late", ["2013-05-01T24:00", "2013-05-01 24:00:00", "20130501T2400", "2013-05-01T24"])
    def test_24_o_clock_is_0_o_clock_of_the_next_day(self, late):
        times = ["2013-05-01T22:00", "2013-05-01T23:00", late]
        reports = read_reports(table().assign(time=np.repeat(times, 2)), COLUMNS)
        assert reports.num_steps == 3
        assert reports.times[-1] == np.datetime64("2013-05-02T00:00")

    @pytest.mark.parametrize("wrong", ["2013-05-01T24:30", "2013-05-01T25:00"])
    def test_there_is_no_hour_after_24_o_clock(self, wrong):
        assert "expected times in 'time'" in refusal(table().assign(time=["2013-05-01T22:00"] * 5 + [wrong]))

    def test_each_time_has_its_own_offset(self):
        """As `to_csv` writes a column in a zone whose summer time ends at 01:00 UTC."""
        hours = pandas.date_range("2013-10-27T00:00Z", periods=3, freq="h").tz_convert("Europe/Berlin")
        texts = np.repeat(hours.astype(str), 2)
        assert texts[0] == "2013-10-27 02:00:00+02:00"
        assert texts[2] == "2013-10-27 02:00:00+01:00"
        reports = read_reports(table().assign(time=texts), COLUMNS)
        assert reports.start == np.datetime64("2013-10-27T00:00")
        assert reports.step.tolist() == [0, 0, 1, 1, 2, 2]

    def test_datetimes_of_mixed_zones(self):
        frame = table()
        aware = pandas.to_datetime(frame.time)
        times = [*aware[:5].tolist(), aware[5].tz_localize(None)]
        assert "in row 6; write all of them in UTC" in refusal(frame.assign(time=pandas.Series(times, dtype=object)))

    @pytest.mark.parametrize(
        ("number", "unit"), [(1367366400, "s"), (1367366400.5, "s"), (1367366400_000, "ms"), (1367366400 * 10**9, "ns")]
    )
    def test_numbers_since_1970(self, number, unit):
        message = refusal(table().assign(time=number))
        assert f"got {number} in row 1; convert them with pandas.to_datetime(..., unit='{unit}')" in message

    def test_small_numbers(self):
        assert "units such as 'hours since 2013-05-01'" in refusal(table().assign(time=3))

    def test_seconds_taken_for_nanoseconds(self):
        times = pandas.to_datetime(np.repeat([1367366400, 1367370000, 1367373600], 2))
        assert "give pandas.to_datetime their unit, unit='s' for seconds" in refusal(table().assign(time=times))

    @pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
    def test_calendars_of_climate_models(self, calendar, tmp_path):
        xarray = pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
        pytest.importorskip("cftime", reason='needs pip install "s2rm[tables]"')
        # The 59th day of a year is the last of February, but not where all months have 30 days.
        days = ("time", [58, 59], {"units": "days since 2021-01-01", "calendar": calendar})
        places = {"station": ["a", "b"], "lon": ("station", [10.0, 11.0]), "lat": ("station", [50.0, 51.0])}
        values = {"temp": (("time", "station"), [[1.0, 2.0], [3.0, 4.0]]), "time": days}
        xarray.Dataset(values, places).to_netcdf(tmp_path / "model.nc")
        columns = Columns("time", ("lon", "lat"), ("temp",), "station", step="1D")
        if calendar == "noleap":
            reports = read_reports(tmp_path / "model.nc", columns)
            assert reports.start == np.datetime64("2021-02-28")
            assert reports.step.tolist() == [0, 0, 1, 1]
        else:
            message = refusal(tmp_path / "model.nc", columns)
            assert f"got the calendar '{calendar}'" in message
            assert "convert_calendar('standard', align_on='date')" in message

    @pytest.mark.parametrize("step", ["hour", "", "0h", "-1h", "NaT", "1MS", "5", "1500ns"])
    def test_what_is_no_step(self, step):
        assert f"got '{step}'" in refusal(table(), replace(COLUMNS, step=step))

    def test_too_many_steps(self):
        message = refusal(changed(5, time="1900-01-01T00:00Z"), replace(COLUMNS, step="1s"))
        assert "from 1900-01-01T00:00:00 (row 5) to 2013-05-01T02:00:00 (row 6)" in message
        assert "3,576,362,401 steps of '1s'" in message
        assert "such as '358s'" in message
        read_reports(changed(5, time="1900-01-01T00:00Z"), replace(COLUMNS, step="358s"))


def within_the_hour(number: int) -> list[str]:
    """As many times, a minute apart, at the beginning of the table."""
    return [f"2013-05-01T00:{minute:02d}:00Z" for minute in range(number)]


class TestAverages:
    def averaged(self, columns: Columns = COLUMNS, **cells) -> Reports:
        """The table with three more reports of s0 in its first hour."""
        number = len(next(iter(cells.values())))
        first = pandas.concat([table().iloc[:1]] * number).assign(**cells, time=within_the_hour(number))
        reports = read_reports(pandas.concat([first, table().iloc[1:]], ignore_index=True), columns)
        check(reports)
        assert len(reports) == 6
        return reports

    def test_values_positions_and_covariates(self):
        nan = np.nan
        reports = self.averaged(
            temp=[nan, 2.0, 4.0], wind=[5.0, nan, nan], lon=[1.0, 2, 6], lat=[3.0, 4, 8], alt=[nan, 1, 2]
        )
        assert reports.values[0].tolist() == [3, 5]
        np.testing.assert_allclose(reports.positions[0], [3, 5], atol=0.01)
        assert reports.covariates[0] == 1.5

    def test_equal_cells_keep_their_value(self):
        reports = self.averaged(lon=[0.1] * 3, lat=[0.7] * 3, wind=[360.0] * 3)
        assert reports.positions[0].tolist() == [0.1, 0.7]
        assert reports.values[0, 1] == 360

    @pytest.mark.parametrize(
        ("directions", "mean"),
        [([350, 10], 0), ([10, 350], 0), ([350, 20], 5), ([355, np.nan, 345], 350), ([90, 90, 180, 180], 135),
         ([-10, -20], 345), ([90, 270], 90)],
    )  # fmt: skip
    def test_directions(self, directions, mean):
        wind = np.array(directions, dtype=float)
        assert self.averaged(wind=wind).values[0, 1] == pytest.approx(mean, abs=1e-4)
        plain = self.averaged(replace(COLUMNS, circular=()), wind=wind).values[0, 1]
        assert plain == pytest.approx(np.nanmean(wind), abs=1e-4)

    @pytest.mark.parametrize(
        ("longitudes", "others", "mean"),
        [([179, -179.5], -100, 179.75), ([-179.5, 179], -100, 179.75), ([-179, 179.5], 10, -179.75), ([1, 359], 300, 0),
         ([379, 379.5], 300, 379.25), ([1, 359], -10, 0), ([180, 180], -10, 180)],
    )  # fmt: skip
    def test_longitudes(self, longitudes, others, mean):
        first = pandas.concat([table().iloc[:1]] * 2).assign(lon=longitudes, time=within_the_hour(2))
        rest = table().iloc[1:].assign(lon=float(others))
        reports = read_reports(pandas.concat([first, rest], ignore_index=True), COLUMNS)
        turn = 360 if others == -10 and 1 in longitudes else 0
        assert reports.positions[0, 0] == pytest.approx(mean - turn, abs=1e-9)
        check_equal(read_reports(to_frame(reports), COLUMNS), reports)

    def test_planar_coordinates(self):
        columns = replace(COLUMNS, position=("x", "y"))
        frame = table().rename(columns={"lon": "x", "lat": "y"})
        first = pandas.concat([frame.iloc[:1]] * 2).assign(
            x=[179.0, -179.0], y=[-1000.0, 2000.0], time=within_the_hour(2)
        )
        reports = read_reports(pandas.concat([first, frame.iloc[1:]], ignore_index=True), columns)
        assert reports.positions[0].tolist() == [0, 500]

    def test_a_sensor_at_two_places_at_one_time_is_named(self):
        both = pandas.concat([table(), table().assign(lat=60.0)], ignore_index=True)
        with pytest.warns(
            UserWarning, match="sensor 's0' of the table is at several places at one time, first in row 7"
        ):
            reports = read_reports(both, COLUMNS)
        assert reports.positions[0].tolist() == [10, 55]


class TestRefusals:
    def test_a_misspelt_column(self, tmp_path):
        table().to_csv(tmp_path / "molene.csv", index=False)
        expected = "read: found no column 'Tmp' in molene.csv; did you mean 'temp'?"
        assert refusal(tmp_path / "molene.csv", replace(COLUMNS, values=("Tmp",), circular=())) == expected
        message = refusal(table(), replace(COLUMNS, sensor="xyz"))
        assert message.startswith("read: found no column 'xyz' in the table; it has 'time', 'station', 'lon'")

    def test_a_column_there_twice(self):
        frame = table()
        assert "2 columns of the table are named 'temp'" in refusal(pandas.concat([frame, frame[["temp"]]], axis=1))

    @pytest.mark.parametrize("cell", ["warm", "12,5", "12_5", "1.5C", [1.0], 1j, pandas.Timestamp("2013")])
    @pytest.mark.parametrize("name", [*CELLS, "lon"])
    def test_text_among_numbers(self, name, cell):
        frame = table().astype({name: object})
        frame.at[2, name] = cell
        message = refusal(frame)
        assert f"expected numbers in {name!r} of the table, got {cell!r:.37}" in message
        assert "in row 3;" in message

    @pytest.mark.parametrize("name", [*CELLS, "lon", "lat"])
    @pytest.mark.parametrize("cell", [np.inf, -np.inf, 1e300])
    def test_infinite_numbers(self, name, cell):
        assert f"expected finite numbers in {name!r} of the table, got {cell} in row 3" in refusal(
            changed(3, **{name: cell})
        )

    def test_rows_are_those_of_the_source(self):
        frame = changed(5, time="never")
        frame.loc[0, ["temp", "wind"]] = np.nan
        assert "got 'never' in row 5" in refusal(frame)

    @pytest.mark.parametrize("name", ["time", "station", "lon", "lat"])
    @pytest.mark.parametrize("cell", [None, np.nan, " "])
    def test_missing_keys(self, name, cell):
        frame = changed(3, **{name: cell})
        frame.loc[4, name] = None
        assert (
            f"expected {name!r} in each row of the table that holds values, got none in 2, first in row 3"
            in refusal(frame)
        )

    @pytest.mark.parametrize(("name", "cell"), [("lat", 90.5), ("lat", -91), ("lon", -361), ("lon", 998)])
    def test_off_the_globe(self, name, cell):
        low, high = DEGREES[("lon", "lat").index(name)]
        message = f"expected degrees from {low:g} to {high:g} in {name!r} of the table, got {float(cell)} in row 3"
        assert message in refusal(changed(3, **{name: cell}))
        columns = replace(COLUMNS, position=("x", "y"))
        read_reports(changed(3, **{name: cell}).rename(columns={"lon": "x", "lat": "y"}), columns)

    def test_longitude_and_latitude_swapped(self):
        message = refusal(table().assign(lon=table().lat, lat=table().lon + 120))
        assert "degrees from -90 to 90 in 'lat' of the table, got 130.0 in row 1" in message
        assert message.endswith("fix it, or swap 'lon' and 'lat', which then fit")
        message = refusal(table(), replace(COLUMNS, position=("lat", "lon")))
        assert message == (
            "read: expected the longitude first, got position ('lat', 'lon'); swap the two names, or set globe to "
            "False where they are planar"
        )

    def test_a_constant_channel(self):
        assert refusal(table().assign(temp=7.25)) == "read: 'temp' is 7.25 in all of the table; leave it out"
        assert "'temp' is 1 in all" in refusal(changed(2, temp=np.nan).assign(temp=1 + 1e-12))

    def test_a_channel_never_measured(self):
        assert "'wind' is empty in all rows of the table; leave it out" in refusal(table().assign(wind=np.nan))
        assert "'wind' is empty in all rows of the table; leave it out" in refusal(table().assign(wind=" "))

    def test_too_little(self):
        assert "all of the table is in one step of '1h'" in refusal(table(1))
        assert "expected at least 2 sensors in the table, got only 's0'" in refusal(table(3, 1))
        assert "the table holds no rows" in refusal(table()[:0])

    def test_what_is_no_table(self):
        assert refusal([1, 2]).endswith("got builtins.list; convert it to a pandas.DataFrame")

    def test_a_table_of_another_library(self):
        arrow = pytest.importorskip("pyarrow", reason='needs pip install "s2rm[tables]"')
        check_equal(read_reports(arrow.Table.from_pandas(table()), COLUMNS), read_reports(table(), COLUMNS))
        number = 2**53 + 1
        named = table().assign(station=pandas.array([number, number + 2] * 3, "Int64"), depth=1)
        named.loc[len(named)] = [named.time[0], None, 10.0, 50.0, 0.0, np.nan, np.nan, 1]
        assert read_reports(named, COLUMNS).sensors == (str(number), str(number + 2))
        check_equal(read_reports(arrow.Table.from_pandas(named), COLUMNS), read_reports(named, COLUMNS))
        made = arrow.Table.from_pandas(table())
        odd = made.append_column("mine", arrow.array([arrow.array([1])] * len(made), arrow.list_(arrow.int64())))
        check_equal(read_reports(odd, COLUMNS), read_reports(table(), COLUMNS))
        with pytest.raises(ValueError, match="found no column 'temp' in the table; did you mean 'Temp'"):
            read_reports(made.rename_columns([name.replace("temp", "Temp") for name in made.column_names]), COLUMNS)
        with pytest.raises(ValueError, match="2 columns of the table are named 'temp'; rename all but one"):
            read_reports(made.append_column("temp", made["temp"]), COLUMNS)
        other = type("DataFrame", (), {"__module__": "frames.core"})()
        assert "got frames.core.DataFrame; convert it to a pandas.DataFrame" in refusal(other)


class TestNames:
    """The names of sensors are texts, in every kind of table."""

    @pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
    def test_as_written_without_blanks(self, ending, tmp_path):
        path, written = tmp_path / f"table{ending}", ["NA", " 007", "007 ", "null", "NA\t", "nan"]
        frame = table(3, 2).assign(station=written)
        frame.to_parquet(path) if ending == ".parquet" else frame.to_csv(path, index=False)
        for source in (path, frame):
            reports = read_reports(source, COLUMNS)
            assert reports.sensors == ("007", "NA", "nan", "null")

    def test_empty_values_beside_them(self, tmp_path):
        table().assign(temp=["NA", "1", "", "null", "5", "N/A"]).to_csv(tmp_path / "table.csv", index=False)
        reports = read_reports(tmp_path / "table.csv", COLUMNS)
        assert np.isnan(reports.values[:, 0]).tolist() == [True, False, True, True, False, True]

    def test_a_table_of_places(self, tmp_path):
        (tmp_path / "places.csv").write_text("station,lat,lon,note\nNA ,50,10,x\n007,51,11,y\n")
        places = read_places(tmp_path / "places.csv", COLUMNS)
        assert places.names == ("NA", "007")
        assert places.positions.tolist() == [[10, 50], [11, 51]]
        assert np.isnan(places.covariates).all()
        (tmp_path / "places.csv").write_text("lat,lon,alt\n50,10,7\n91,11,8\n")
        with pytest.raises(ValueError, match=r"degrees from -90 to 90 in 'lat' of places.csv, got 91.0 in row 2"):
            read_places(tmp_path / "places.csv", COLUMNS)
        frame = pandas.DataFrame({"lat": [50.0], "lon": 10.0, "alt": 7.0})
        assert read_places(frame, COLUMNS).covariates.tolist() == [[7]]
        assert read_places(frame, COLUMNS).names is None
        with pytest.raises(ValueError, match=r"expected 'station' in each row of the table, got none in 1"):
            read_places(frame.assign(station=" "), COLUMNS)


class TestCodes:
    """Numbers that say "missing"."""

    @pytest.mark.parametrize("wind", [999.0, 990, -361, 721])
    def test_directions_far_off_a_turn(self, wind):
        assert f"expected directions in degrees in 'wind' of the table, got {float(wind)} in row 3" in refusal(
            changed(3, wind=wind)
        )

    @pytest.mark.parametrize("code", [-999.0, 9999, 99, 999.9, -32768, 1e20])
    @pytest.mark.parametrize("name", ["temp", "alt"])
    def test_far_from_the_others(self, name, code):
        frame = table(3, 3).assign(alt=np.tile([0.0, 1, 2], 3))
        frame.loc[[2, 5], name] = code
        with pytest.warns(UserWarning, match=f"'{name}' of the table is .* in 2 rows, far from the others, 0 to "):
            read_reports(frame, COLUMNS)

    def test_a_negative_direction(self):
        with pytest.warns(UserWarning, match="'wind' of the table is -99 in 1 rows, far from the others, 0 to 150"):
            read_reports(changed(3, wind=-99.0), COLUMNS)

    def test_within_the_others(self):
        """Pressures around 1000 hPa, one of which is 999; warnings are errors here."""
        pressures = [990.0, 999, 1005, 1010, 1013, 999.9]
        assert read_reports(table().assign(temp=pressures), COLUMNS).values[1, 0] == 999


class TestSilence:
    """Rows without a value, of tables to forecast from."""

    def test_time_passes(self):
        frame = table(4, 2)
        frame.loc[4:, ["temp", "wind"]] = np.nan
        reports = read_reports(frame, COLUMNS, to_fit=False)
        assert (reports.num_steps, reports.step.tolist()) == (4, [0, 0, 1, 1])
        assert read_reports(frame, COLUMNS).num_steps == 2

    def test_all_silent(self):
        frame = table(2, 2).assign(temp=np.nan, wind=None)
        reports = read_reports(frame, COLUMNS, to_fit=False)
        assert (len(reports), reports.num_steps, reports.sensors) == (0, 1, ())
        assert reports.start == np.datetime64("2013-05-01T01:00")
        with pytest.raises(ValueError, match="no row of the table holds both a time and a value"):
            read_reports(frame.assign(time="total"), COLUMNS, to_fit=False)
        with pytest.raises(ValueError, match="grid: expected reports to cover, got none"):
            grid(reports)


class TestMeridian:
    """Two stations on each side of 180 degrees."""

    @staticmethod
    def reports(longitudes: list[float], sensor: str | None = "station") -> Reports:
        frame = table(2, len(longitudes)).assign(lon=longitudes * 2)
        return read_reports(frame, replace(COLUMNS, sensor=sensor))

    def test_a_grid_goes_on_beyond_it(self):
        assert np.unique(grid(self.reports([179.0, -179.0, -178.0]), 4).positions[:, 0]).tolist() == [
            179,
            180,
            181,
            182,
        ]

    @pytest.mark.parametrize("longitudes", [[-20.0, 10.0, 30.0], [-170.0, -80.0, 10.0, 100.0, 170.0], [-179.0, 0.0]])
    def test_other_grids_stay(self, longitudes):
        lines = np.unique(grid(self.reports(longitudes), 3).positions[:, 0])
        assert lines.tolist() == [min(longitudes), (min(longitudes) + max(longitudes)) / 2, max(longitudes)]

    def test_a_place_is_one_on_either_side(self):
        reports = read_reports(
            table(2, 2).assign(lon=[181.0, 20.0, -179.0, 20.0], lat=50.0), replace(COLUMNS, sensor=None)
        )
        assert reports.sensors == ("-179 50", "20 50")
        assert reports.positions[:, 0].tolist() == [181.0, 20.0, -179.0, 20.0]
        planar = replace(COLUMNS, sensor=None, globe=False)
        assert len(read_reports(table(2, 2).assign(lon=[181.0, 20.0, -179.0, 20.0], lat=50.0), planar).sensors) == 3


class TestDegrees:
    """Whether positions are longitude and latitude in degrees."""

    @staticmethod
    def read(position: tuple[str, str], globe: bool | None = None, scale: float = 1.0) -> Reports:
        frame = table().rename(columns=dict(zip(("lon", "lat"), position, strict=True)))
        frame[list(position)] *= scale
        return read_reports(frame, replace(COLUMNS, position=position, globe=globe))

    @pytest.mark.parametrize(
        "position",
        [("lon", "lat"), ("LON_WGS84", "LAT_WGS84"), ("lon_deg", "lat_deg"), ("Longitude (deg)", "Latitude (deg)"),
         ("x_lon", "y_lat"), ("stationLon", "stationLat"), ("decimalLongitude", "decimalLatitude"), ("lng", "lat"),
         ("XLONG", "XLAT"), ("nav_lon", "nav_lat"), ("GPSLon", "GPSLat"), ("lon2", "lat2"), ("Länge", "Breite"),
         ("geoLaenge", "geoBreite"), ("LÄNGENGRAD", "BREITENGRAD"), ("longitud", "latitud")],
    )  # fmt: skip
    def test_names_that_mean_degrees(self, position):
        columns = self.read(position).columns
        assert columns.globe is True
        assert columns.geometry == "positions: longitude and latitude in degrees"
        with pytest.raises(ValueError, match=r"expected degrees from -90 to 90 in .*set globe to False"):
            self.read(position, scale=30.0)
        assert self.read(position, globe=False, scale=30.0).columns.geometry == "positions: planar"

    @pytest.mark.parametrize(
        "position", [("x", "y"), ("easting", "northing"), ("x_m", "y_m"), ("along", "lateral"), ("colony", "plateau")]
    )
    def test_names_that_do_not(self, position):
        assert self.read(position).columns.globe is False
        assert self.read(position, globe=True).columns.globe is True
        with pytest.raises(ValueError, match=f"expected degrees from -90 to 90 in {position[1]!r}"):
            self.read(position, globe=True, scale=30.0)

    @pytest.mark.parametrize("position", [("lon", "y"), ("x", "LAT_WGS84"), ("lon", "longitude"), ("lat_lon", "lon")])
    def test_ambiguous_names(self, position):
        expected = "read: expected the names of a longitude and a latitude, or of neither, got position"
        with pytest.raises(ValueError, match=expected) as raised:
            self.read(position)
        assert str(raised.value).endswith("; set globe to True for degrees, to False for planar coordinates")
        assert self.read(position, globe=True).columns.globe is True

    def test_latitude_first(self):
        with pytest.raises(ValueError, match="expected the longitude first"):
            self.read(("LAT_WGS84", "LON_WGS84"))
        assert self.read(("lat", "lon"), globe=False).columns.globe is False

    def test_other_numbers_of_coordinates_are_planar(self):
        columns = Columns("time", ("x", "y", "depth"), ("temp",))
        frame = table().assign(depth=5.0)
        assert read_reports(frame.rename(columns={"lon": "x", "lat": "y"}), columns).columns.globe is False
        degrees = replace(columns, position=("lon", "lat", "depth"))
        assert "expected a longitude and a latitude alone" in refusal(frame, degrees)
        assert read_reports(frame, replace(degrees, globe=False)).columns.globe is False
        with pytest.raises(ValueError, match="columns: positions on the globe are a longitude and a latitude"):
            replace(columns, globe=True)

    def test_reports_that_are_built_by_hand(self):
        reports = self.read(("lon", "lat"))
        unknown = replace(reports.columns, globe=None)
        assert replace(reports, columns=unknown).columns == reports.columns
        with pytest.raises(ValueError, match="reports: expected degrees in"):
            replace(reports, columns=unknown, positions=30 * reports.positions)


class TestFiles:
    def test_missing_and_unknown(self, tmp_path):
        assert refusal(tmp_path / "no.csv") == f"read: found no file {tmp_path}/no.csv; check the path"
        message = refusal(tmp_path / "table.xls")
        expected = "read: cannot tell what table.xls is; expected a name ending in .csv, .csv.gz, .tsv, .tsv.gz, .txt, "
        assert message == expected + ".txt.gz, .parquet, .nc, .zarr"

    @pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet", ".nc", ".zarr"])
    def test_empty_files_and_folders(self, tmp_path, ending):
        file, folder = tmp_path / f"file{ending}", tmp_path / f"folder{ending}"
        file.touch()
        folder.mkdir()
        assert refusal(file).startswith(f"read: cannot read file{ending} (")
        refusal(folder)

    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    @pytest.mark.parametrize("ending", [".csv.gz", ".parquet", ".nc"])
    def test_half_written_files(self, tmp_path, ending, kept):
        path = tmp_path / f"half{ending}"
        frame = table(24, 7)
        if ending == ".nc":
            pytest.importorskip("xarray", reason='needs pip install "s2rm[tables]"')
            frame.drop(columns=["time", "station"]).to_xarray().to_netcdf(path, engine="scipy")
        else:
            frame.to_parquet(path) if ending == ".parquet" else frame.to_csv(path, index=False)
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        assert refusal(path).startswith(f"read: cannot read half{ending} (")

    @pytest.mark.parametrize(
        "content", [b"a,b\n1,2\n3,4,5\n", b"a,b\n1,2,3\n3,4,5\n", b"\xff\xfe\x00time"], ids=range(3)
    )
    def test_malformed_csv(self, tmp_path, content):
        (tmp_path / "bad.csv").write_bytes(content)
        assert refusal(tmp_path / "bad.csv").startswith("read: cannot read bad.csv (")
        (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(content))
        assert refusal(tmp_path / "bad.csv.gz").startswith("read: cannot read bad.csv.gz (")


class TestWriting:
    @pytest.mark.parametrize("sensor", ["station", None])
    @pytest.mark.parametrize("step", ["1h", "3h", "25min"])
    def test_round_trip(self, sensor, step):
        frame = table(9, 5)
        frame.loc[3:17, "wind"] = frame.loc[11:30, "temp"] = np.nan
        columns = replace(COLUMNS, sensor=sensor, step=step)
        reports = read_reports(frame, columns, to_fit=False)
        again = to_frame(reports)
        assert list(again) == [name for name in ("time", sensor, "lon", "lat", "temp", "wind", "alt") if name]
        assert str(again.time.dt.tz) == "UTC"
        check_equal(read_reports(again, columns, to_fit=False), reports)

    def test_round_trip_through_a_file(self, tmp_path):
        reports = read_reports(table(), COLUMNS)
        to_frame(reports).to_csv(tmp_path / "again.csv", index=False)
        check_equal(read_reports(tmp_path / "again.csv", COLUMNS), reports)

    def test_times_begin_steps(self):
        later = replace(read_reports(table(), COLUMNS), start=np.datetime64("2013-05-01T05:00"))
        assert to_frame(later).time.iloc[-1] == pandas.Timestamp("2013-05-01T07:00Z")


ODD = [
    None, np.nan, "", " ", "x", "1.5", "é\n", "nan", "inf", np.inf, -1e39, 1e-320, 400, -400, True, 10**400, b"1", 1j,
    np.datetime64("2013-05-01"), pandas.NaT, pandas.NA, pandas.Timestamp("2013-05-01T00:00Z"), "12:00",
    "2013-05-01T00:30", "2013-05-01T00:30+02:00", "0001-01-01", "9999-12-31T23:59:59", "2013-02-30", [2],
]  # fmt: skip


@st.composite
def tables(draw):
    """Small tables, of which some cells, columns and rows are wrong."""
    frame = table(draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    if draw(st.booleans()):
        minutes = draw(st.lists(st.integers(0, 400), min_size=len(frame), max_size=len(frame)))
        frame["time"] = pandas.Timestamp("2013-05-01") + pandas.to_timedelta(minutes, unit="min")
    if draw(st.booleans()):
        frame = pandas.concat([frame, frame.assign(lon=-179.0, wind=350.0)])
    names = list(frame)
    for _ in range(draw(st.integers(0, 3))):
        row, name, cell = draw(st.integers(0, len(frame) - 1)), draw(st.sampled_from(names)), draw(st.sampled_from(ODD))
        cells = frame[name].tolist()
        cells[row] = cell
        frame[name] = pandas.Series(cells, index=frame.index, dtype=object)
    match draw(st.sampled_from(["as it is"] * 6 + ["drop", "twice", "constant", "few", "text"])):
        case "drop":
            frame = frame.drop(columns=draw(st.sampled_from(names)))
        case "twice":
            frame = pandas.concat([frame, frame[[draw(st.sampled_from(names))]]], axis=1)
        case "constant":
            frame[draw(st.sampled_from(names))] = draw(st.sampled_from([cell for cell in ODD if cell != [2]]))
        case "few":
            frame = frame[: draw(st.integers(0, 2))]
        case "text":
            frame = frame.astype(str)
    return frame


class TestAnything:
    @staticmethod
    def read(source, columns: Columns) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):
                reports = read_reports(source, columns)
        except ValueError as error:
            message = str(error)
            assert message.startswith("read: ")
            assert message.isprintable()
        else:
            check(reports)
            with warnings.catch_warnings(action="ignore"):
                again = read_reports(to_frame(reports), columns)
            check_equal(again, reports)

    columns = st.fixed_dictionaries(
        {
            "position": st.sampled_from([("lon", "lat"), ("lat", "lon"), ("lon",)]),
            "values": st.sampled_from([("temp", "wind"), ("wind",)]),
            "sensor": st.sampled_from(["station", None]),
            "covariates": st.sampled_from([(), ("alt",)]),
            "circular": st.sampled_from([(), ("wind",)]),
            "step": st.sampled_from(["1h", "20min", "1us", "odd"]),
        }
    )

    @settings(max_examples=120, deadline=None)
    @given(frame=tables(), columns=columns)
    def test_frames(self, frame, columns):
        self.read(frame, Columns("time", **columns))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(frame=tables(), columns=columns, cut=st.none() | st.floats(0, 1))
    def test_csv(self, frame, columns, cut, tmp_path):
        text = frame.to_csv(index=False)
        path = tmp_path / "table.csv"
        path.write_text(text if cut is None else text[: int(cut * len(text))])
        self.read(path, Columns("time", **columns))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(position=st.floats(0, 1), byte=st.integers(0, 255), ending=st.sampled_from([".csv.gz", ".parquet"]))
    def test_damaged_files(self, position, byte, ending, tmp_path):
        path = tmp_path / f"table{ending}"
        table().to_parquet(path) if ending == ".parquet" else table().to_csv(path, index=False)
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] = byte
        path.write_bytes(content)
        self.read(path, COLUMNS)


class TestRealMeasurements:
    """The four tables beside the project."""

    @staticmethod
    def read(name: str, position: tuple[str, ...], values: tuple[str, ...], sensor: str, **others) -> Reports:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"the real measurements are not there: {path}")
        reports = read_reports(path, Columns("time", position, values, sensor, **others))
        check(reports)
        return reports

    def test_molene(self):
        values = ("air_temp_K", "dewpoint_K", "rel_humidity_pct", "wind_speed_ms", "wind_dir_deg", "gust_ms", "rain_mm",
                  "slp_Pa", "global_radiation_Jm2")  # fmt: skip
        reports = self.read(
            "molene_2014-01/molene_2014-01.csv.gz", ("lon", "lat"), values, "station",
            covariates=("alt_m",), circular=("wind_dir_deg",),
        )  # fmt: skip
        assert (len(reports), reports.num_steps, len(reports.sensors)) == (34_050, 744, 46)
        assert reports.start == np.datetime64("2014-01-01")
        assert (~np.isnan(reports.values)).sum(0).tolist()[:2] == [31_875, 23_692]

    def test_ndbc(self):
        values = ("air_temp_C", "water_temp_C", "dewpoint_C", "slp_hPa", "wind_speed_ms", "wind_gust_ms",
                  "wind_dir_deg", "wave_height_m")  # fmt: skip
        name = "ndbc_marine_2013-05/ndbc_marine_2013-05.csv.gz"
        reports = self.read(name, ("lon", "lat"), values, "station", circular=("wind_dir_deg",))
        assert (len(reports), reports.num_steps, len(reports.sensors)) == (405_021, 744, 599)
        hourly = np.bincount(reports.step[~np.isnan(reports.values[:, 0])])
        assert (hourly.min(), hourly.max()) == (224, 454)

    def test_argo(self):
        values = ("temp100dbar_C", "temp150dbar_C", "temp200dbar_C")
        reports = self.read("argo2016_moving/argo2016.csv.gz", ("lon", "lat"), values, "float", step="1D")
        assert reports.num_steps == 91
        # A float may report twice a day.
        assert 0.98 * 32_436 < len(reports) < 32_436
        assert 20 <= reports.positions[:, 0].min() < reports.positions[:, 0].max() <= 380

    def test_de_pm10(self):
        name = "de_pm10_2005/de_pm10_2005.csv.gz"
        reports = self.read(name, ("x_m", "y_m"), ("pm10_ug_m3",), "station", step="1D")
        assert (len(reports), reports.num_steps, len(reports.sensors)) == (23_230, 365, 69)


class TestMistakes:
    """What is easily written by mistake: it is read as it is meant, or named."""

    @pytest.mark.parametrize(
        ("code", "values"),
        [(-999.0, [0.0, 500.0, 1300.0]), (-99.0, [0.0, 60.0, 120.0]), (9999.0, [10.0, 3000.0, 6000.0]),
         (1e34, [1.0, 2.0, 3.0]), (65535.0, [1.0, 2.0, 3.0])],
    )  # fmt: skip
    def test_codes_within_a_wide_range(self, code, values):
        frame = table().assign(temp=[*values, *values])
        read_reports(frame, COLUMNS)
        frame.loc[1, "temp"] = code
        with pytest.warns(UserWarning, match=r"'temp' of the table is .* in 1 rows, far from the others"):
            read_reports(frame, COLUMNS)

    def test_a_short_code_that_comes_again_where_all_else_is_positive(self):
        frame = table().assign(temp=[-9.0, 8.0, 10.0, 12.0, -9.0, 14.0])
        with pytest.warns(UserWarning, match="'temp' of the table is -9 in 2 rows, far from the others, 8 to 14"):
            read_reports(frame, COLUMNS)
        read_reports(frame.assign(temp=[-9.0, 8.0, 30.0, 12.0, 9.0, 14.0]), COLUMNS)

    def test_a_cold_day_is_no_code(self):
        read_reports(table().assign(temp=[-9.9, 3.0, 20.0, 14.0, 11.0, 25.0]), COLUMNS)

    def test_one_name_has_one_spelling(self):
        frame = table().assign(station=["Ba\u0308r", "Ulm", "B\u00e4r", "Ulm\u2009", "\u200bB\u00e4r ", "Ulm"])
        assert read_reports(frame, COLUMNS).sensors == ("B\u00e4r", "Ulm")

    def test_long_numbers_stay_apart_beside_an_empty_one(self, tmp_path):
        names = [9007199254740993, 9007199254740992] * 3
        frame = table().assign(station=pandas.array([*names[:5], None], "Int64"), temp=[0.0, 1, 2, 3, 4, np.nan])
        frame.loc[5, "wind"] = np.nan
        frame.to_parquet(tmp_path / "table.parquet")
        assert read_reports(tmp_path / "table.parquet", COLUMNS).sensors == ("9007199254740992", "9007199254740993")

    @pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
    def test_a_file_with_a_column_twice(self, ending, tmp_path):
        path = tmp_path / f"table{ending}"
        pandas.concat([table(), table()[["temp"]]], axis=1).to_csv(path, index=False)
        assert "2 columns of" in refusal(path)

    def test_numbers_too_large_for_their_differences(self):
        message = refusal(table().assign(temp=1e9 + np.arange(6.0)))
        assert "'temp' of the table lies between 1000000000 and 1000000005" in message
        assert "subtract a constant" in message

    def test_utc_in_words_and_the_units_of_before(self):
        frame = table()
        frame.time = [text.replace("T", " ").replace("Z", " UTC") for text in frame.time]
        hours, days = (replace(COLUMNS, step=step) for step in ("1H", "1d"))
        check_equal(read_reports(frame, hours), read_reports(table(), hours))
        assert read_reports(table(), days, to_fit=False).num_steps == 1

    def test_dimensions_without_coordinates(self):
        xarray = pytest.importorskip("xarray")
        grid_of = xarray.Dataset({"temp": (("time", "lat", "lon"), np.zeros((3, 2, 2)))})
        grid_of = grid_of.assign_coords(time=pandas.date_range("2020", periods=3, freq="h"), lat=[50.0, 51.0])
        message = refusal(grid_of, Columns("time", ("lon", "lat"), ("temp",)))
        assert "expected the coordinates of 'lon' in the table" in message

    def test_places_whose_columns_are_almost_named(self):
        frame = table()[["lon", "lat", "alt"]].rename(columns={"alt": "Alt"})
        with pytest.warns(UserWarning, match="found no column 'alt' in the table, but 'Alt', which is not read"):
            assert np.isnan(read_places(frame, COLUMNS).covariates).all()

    def test_columns_that_are_not_read_cost_nothing(self, tmp_path):
        path = tmp_path / "wide.csv"
        pandas.concat([table(), pandas.DataFrame(1, range(6), [f"c{n}" for n in range(3000)])], axis=1).to_csv(path)
        check_equal(read_reports(path, COLUMNS), read_reports(table(), COLUMNS))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"values": (3,)}, r"values must be names of columns, such as \('a', 'b'\), got \(3,\)"),
        ({"values": "temp"}, "values must be names of columns, .* got 'temp'"),
        ({"position": "xy"}, "position must be names of columns, .* got 'xy'"),
        ({"sensor": 4}, "sensor must be the name of a column, got 4"),
    ],
)
def test_columns_are_named_by_text(changes, told):
    with unchecked_shapes(), pytest.raises(ValueError, match=f"^columns: .*{told}"):
        Columns(**{"time": "t", "position": ("x", "y"), "values": ("a",), **changes})
    with unchecked_shapes():
        assert Columns("t", ["x", "y"], ["a"]).values == ("a",)
