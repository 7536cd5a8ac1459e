"""Tables packed into a store: as from memory, with little of it, and nothing lost where something is wrong."""

import json
import os
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2rm.cli import main
from s2rm.records import to_plain
from s2rm.sensors import (
    Columns,
    FieldWorld,
    Fit,
    Forecaster,
    Reports,
    grid,
    judge,
    mapped,
    pack,
    read_reports,
    stations,
    to_frame,
)
from s2rm.sensors.judging.judge import BASELINES, split
from s2rm.sensors.mapped import counted, distinct, is_mapped, moments, parts, room
from s2rm.sensors.reading import packing, tallies
from s2rm.sensors.reading.datasets import flat, pieces
from s2rm.sensors.reading.store import DTYPES, FORMAT, STORE, Described
from s2rm.sensors.reading.tallies import Tally
from s2rm.sensors.reports import ROWS
from s2rm.training import Training

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
COLUMNS = Columns("time", ("lon", "lat"), ("temp", "wind"), "station", ("alt",), ("wind",))
NAMES = ["--time", "time", "--position", "lon", "lat", "--values", "temp", "wind", "--sensor", "station"]
NAMES += ["--covariates", "alt", "--circular", "wind"]
TRAINING = Training(learning_rate=1e-3, batch_size=4, epochs=1, gradient_norm=1.0, average=0.9)
HOW = Fit(hidden_size=4, num_modules=2, context=12, horizon=6, training=TRAINING)


def table(seed: int = 0, rows: int = 400):
    """Rows in no order, several of one station in an hour, with gaps; stations near 180 degrees, north in between."""
    draw = np.random.default_rng(seed)
    # No two at one time, and none of another table's.
    station, second = draw.integers(0, 7, rows), 60 * draw.permutation(6 * rows)[:rows] + seed
    frame = pandas.DataFrame({
        "time": pandas.Timestamp("2013-05-01", tz="UTC") + pandas.to_timedelta(second, unit="s"),
        "station": [f"s{10 - number}" for number in station],
        "lon": np.round(np.where(station % 2, 179.5, -179.5) + draw.random(rows) / 9, 3), "lat": 50.0 + station,
        "alt": 100.0 * station, "temp": draw.normal(size=rows).round(3), "wind": draw.integers(0, 360, rows),
    }).astype({"wind": float})  # fmt: skip
    for name in ("temp", "wind", "alt"):
        frame.loc[draw.random(rows) < 0.2, name] = np.nan
    return frame


def check_equal(one: Reports, other: Reports) -> None:
    assert (one.columns, one.start, one.num_steps) == (other.columns, other.start, other.num_steps)
    assert one.sensors == other.sensors
    for name in ROWS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


@pytest.fixture
def small(monkeypatch):
    """Parts, batches and runs of a few rows, so that small tables have many of them."""
    monkeypatch.setattr(mapped, "CELLS", 300)
    monkeypatch.setattr(mapped, "LEAST_BYTES", 0)
    monkeypatch.setattr("s2rm.sensors.reading.batches.MOST_ROWS", 37)
    monkeypatch.setattr(packing, "RUN_BYTES", 4_000)


def write(frame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".zarr":
        frame.assign(time=frame["time"].dt.tz_localize(None)).to_xarray().to_zarr(path, consolidated=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet", ".zarr", ".nc"])
def test_a_store_holds_what_would_be_read_into_memory(ending, small, tmp_path):
    frames = [table(0), table(1, 150)]
    if ending == ".nc":
        paths = [tmp_path / f"{number}.nc" for number in range(2)]
        for frame, path in zip(frames, paths, strict=True):
            plain = frame.assign(time=frame["time"].dt.tz_localize(None))
            plain.to_xarray().to_netcdf(path, engine="h5netcdf")
    else:
        paths = [write(frame, tmp_path / f"{number}{ending}") for number, frame in enumerate(frames)]
    made = pack(paths, COLUMNS, tmp_path / "store")
    check_equal(made, read_reports(pandas.concat(frames, ignore_index=True), COLUMNS))
    check_equal(read_reports(tmp_path / "store"), made)
    check_equal(read_reports(str(tmp_path / "store"), COLUMNS), made)
    assert all(is_mapped(getattr(made, name)) for name in ROWS)
    assert {path.name for path in tmp_path.glob("store/*/*")} == {f"{name}.npy" for name in ROWS}


def test_a_dimension_without_coordinates_is_numbered_over_all_batches():
    xarray = pytest.importorskip("xarray")
    dims, generator = ("trajectory", "obs"), np.random.default_rng(0)
    time = np.broadcast_to(pandas.date_range("2020", periods=6, freq="h").to_numpy(), (5, 6))
    drawn = (generator.normal(size=(5, 6)) for _ in range(3))
    dataset = xarray.Dataset({"time": (dims, time), **{name: (dims, next(drawn)) for name in ("temp", "x", "y")}})
    columns = Columns("time", ("x", "y"), ("temp",), "trajectory", globe=False)
    parts = [*pieces(dataset, columns, "it", 12)]
    assert len(parts) == 3
    pandas.testing.assert_frame_equal(pandas.concat(parts, ignore_index=True), flat(dataset, columns, "it"))


def test_places_are_sensors_where_none_are_named(small, tmp_path):
    frame = table().assign(lon=lambda frame: frame["lon"].round(1))
    frame.loc[::3, "lon"] %= 360
    columns = replace(COLUMNS, sensor=None)
    check_equal(pack([write(frame, tmp_path / "t.csv")], columns, tmp_path / "store"), read_reports(frame, columns))


def test_the_silent_end_of_a_table_counts_where_it_is_forecast(tmp_path):
    frame = pandas.concat([table(), table(1, 9).assign(temp=np.nan, wind=np.nan, time="2013-05-04T00:00Z")])
    frame["time"] = pandas.to_datetime(frame["time"], utc=True)
    pack([frame], COLUMNS, tmp_path / "store")
    for to_fit in (True, False):
        check_equal(read_reports(tmp_path / "store", COLUMNS, to_fit), read_reports(frame, COLUMNS, to_fit))


def test_all_that_is_done_with_a_table_is_done_with_a_store(small, tmp_path):
    world = FieldWorld(num_stations=6, num_movers=2, num_steps=120)
    reports = world.reports()
    stored = pack([to_frame(reports)], reports.columns, tmp_path / "store")
    reports = read_reports(to_frame(reports), reports.columns)
    assert is_mapped(stored.of(np.arange(8) < 5).between(7, 90).step), "what is chosen lies in a file too"
    done = []
    for number, each in enumerate((reports, stored)):
        parted = split(each, 0.2, 0.2)
        forecaster = Forecaster.fit(parted.train, tmp_path / str(number), HOW, progress=False)
        frame = forecaster.table(each, stations(each.between(0, 61)), origins=[60, 61])
        rows = judge({"ours": forecaster, **{name: kind().fit(parted.train) for name, kind in BASELINES.items()}},
                     each, [100, 110], [0, 1, 6], parted.withheld)  # fmt: skip
        done.append((forecaster.fingerprint, frame.to_csv(), rows, grid(each, 5).positions.tolist()))
        done[-1] += (forecaster.step(None, each).recent.values.tobytes(),)
    assert done[0] == done[1]


def larger(folder: Path, steps: int) -> Path:
    """A store of 16 sensors with 30 covariates, every ten minutes, without the way through a table."""
    draw, number = np.random.default_rng(0), 16 * steps
    step, sensor = np.repeat(np.arange(steps), 16), np.tile(np.arange(16), steps)
    heat = np.sin(step / 40)[:, None] + 0.1 * draw.standard_normal((number, 1))
    arrays = (step, sensor, draw.random((16, 2))[sensor], heat, draw.random((16, 30))[sensor])
    columns = Columns(
        "time", ("x", "y"), ("heat",), "who", tuple(f"c{i}" for i in range(30)), step="10min", globe=False
    )
    folder.mkdir()
    for name, array in zip(ROWS, arrays, strict=True):
        np.save(folder / f"{name}.npy", array.astype(DTYPES[name]))
    names = tuple(f"{number:02d}" for number in range(16))
    about = Described(FORMAT, ".", columns, "2020-01-01", steps, names, number, (number,), (-2.0,), (2.0,))
    (folder / STORE).write_text(json.dumps(to_plain(about)))
    return folder


def test_a_table_five_times_the_limit_of_memory_is_fitted(tmp_path):
    limit = 24_000_000
    stores = larger(tmp_path / "store", 50_000), larger(tmp_path / "warm", 700)
    script = Path(__file__).with_name("larger_than_memory.py")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error::ResourceWarning", script, *stores, str(limit)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("read into memory it does not fit\n"), done.stdout


def test_packing_needs_no_more_memory_for_a_longer_table(monkeypatch, tmp_path):
    monkeypatch.setattr("s2rm.sensors.reading.batches.MOST_ROWS", 2_000)
    monkeypatch.setattr(packing, "RUN_BYTES", 100_000)
    peaks = []
    for number, rows in enumerate((6_000, 30_000)):
        path = write(table(0, rows), tmp_path / f"{number}.csv")
        pack([path], COLUMNS, tmp_path / f"store{number}")
        tracemalloc.start()
        pack([path], COLUMNS, tmp_path / f"store{number}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def refused(capsys, *command: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(part) for part in command])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def store(tmp_path) -> Path:
    pack([table()], COLUMNS, tmp_path / "store")
    return tmp_path / "store"


def test_a_full_disk_leaves_nothing_half_and_an_earlier_store(store, tmp_path, monkeypatch, capsys):
    before, path = read_reports(store), write(table(1), tmp_path / "t.csv")
    kept = {each: each.read_bytes() for each in store.rglob("*") if each.is_file()}

    class Full(packing._Growing):
        def append(self, rows):
            with open("/dev/full", "wb", buffering=0) as full:
                full.write(b"0")

    monkeypatch.setattr(packing, "_Growing", Full)
    for out in (store, tmp_path / "new"):
        said = refused(capsys, "pack", path, *NAMES, "--out", out)
        assert said.startswith("s2rm: [Errno 28] No space left on device while packing, so that nothing is kept")
    assert {each: each.read_bytes() for each in store.rglob("*") if each.is_file()} == kept
    assert not (tmp_path / "new").exists()
    check_equal(read_reports(store), before)


def test_a_table_that_is_wrong_leaves_an_earlier_store(store, tmp_path, capsys):
    before, first = read_reports(store), write(table(1), tmp_path / "first.csv")
    other = write(table().rename(columns={"temp": "heat"}), tmp_path / "other.csv")
    broken = write(
        table().astype({"temp": object}).replace({"temp": {table()["temp"][1]: "hot"}}), tmp_path / "hot.csv"
    )
    empty = write(table().assign(temp=np.nan, wind=np.nan), tmp_path / "empty.csv")
    for tables, said in (
        ([first, other], "found no column 'temp' in other.csv"),
        ([first, broken], "expected numbers in 'temp' of hot.csv, got 'hot' in row 2"),
        ([empty], "no row of the tables holds both a time and a value"),
        ([write(table()[:0], tmp_path / "none.csv")], "none.csv holds no rows"),
        ([tmp_path / "absent.csv"], "found no file"),
        ([], "expected at least one table"),
    ):
        for out in (store, tmp_path / "new"):
            assert said in refused(capsys, "pack", *tables, *NAMES, "--out", out)
        assert not (tmp_path / "new").exists()
    check_equal(read_reports(store), before)
    assert len([*store.iterdir()]) == 2


def test_a_folder_that_is_no_store_is_left_alone(tmp_path, capsys):
    folder, path = tmp_path / "mine", write(table(), tmp_path / "t.csv")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for out in (folder, path):
        assert "exists already and is not a store; choose another --out" in refused(
            capsys, "pack", path, *NAMES, "--out", out
        )
    assert [each.name for each in folder.iterdir()] == ["notes.txt"]


def test_what_a_killed_packing_left_is_no_obstacle(store, tmp_path):
    before = read_reports(store)
    for folder in (store, tmp_path / "new"):
        (folder / "rows-half").mkdir(parents=True)
        (folder / "rows-half" / "run-0").write_bytes(b"half")
    check_equal(read_reports(store), before)
    pack([table(1)], COLUMNS, store)
    check_equal(pack([table(1)], COLUMNS, tmp_path / "new"), read_reports(store))
    assert len([*store.iterdir()]) == len([*(tmp_path / "new").iterdir()]) == 2


def test_a_store_that_is_not_whole_is_refused(store, capsys):
    (step,) = store.glob("*/step.npy")
    about = json.loads((store / STORE).read_text())

    def changed(**parts: object) -> None:
        (store / STORE).write_text(json.dumps({**about, **parts}))

    content = step.read_bytes()
    step.write_bytes(content[:-8])
    assert "is cut short or changed, expected int64 of shape" in refused(capsys, "fit", store, "--out", store / "fit")
    step.unlink()
    assert "got no file; copy all of it, or pack the table again" in refused(capsys, "fit", store)
    step.write_bytes(content)
    changed(rows=about["rows"] + 1)
    assert "is cut short or changed" in refused(capsys, "fit", store)
    changed(format=FORMAT + 1)
    assert "expected a store of format 1" in refused(capsys, "fit", store)
    changed(sensors=about["sensors"][1:])
    assert "a report has a sensor that is not there" in refused(capsys, "fit", store)
    changed(num_steps="many")
    assert "was not written by s2rm pack" in refused(capsys, "fit", store)
    (store / STORE).unlink()
    assert "or a store of s2rm pack" in refused(capsys, "fit", store, *NAMES)


def test_other_columns_than_those_of_the_store_are_refused(store):
    for name, other in (("values", ("wind", "temp")), ("step", "2h"), ("sensor", None)):
        with pytest.raises(ValueError, match=f"was packed with {name} .*; name the same, or pack it again"):
            read_reports(store, replace(COLUMNS, **{name: other}))
    read_reports(store, replace(COLUMNS, step="60min", decimal=","))


def test_only_a_store_says_what_its_columns_mean(tmp_path):
    with pytest.raises(ValueError, match="expected the columns of a table, got none"):
        read_reports(write(table(), tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"station": "one"}, "only 'one'"),
        ({"time": pandas.date_range("2013-05-01T01:00Z", periods=400, freq="s")}, "in one step"),
        ({"temp": 1.5}, "is 1.5 in all"),
        ({"temp": np.nan}, "is empty in all rows"),
    ],
)
def test_what_no_model_can_be_fitted_to_is_refused_when_it_is_fitted(change, said, tmp_path):
    pack([table().assign(**change)], COLUMNS, tmp_path / "store")
    read_reports(tmp_path / "store", to_fit=False)
    with pytest.raises(ValueError, match=said):
        read_reports(tmp_path / "store")


def test_a_table_may_change_once_it_is_packed(tmp_path):
    path = write(table(), tmp_path / "t.csv")
    before = pack([path], COLUMNS, tmp_path / "store")
    path.unlink()
    check_equal(read_reports(tmp_path / "store"), before)
    again = pack([table(1)], COLUMNS, tmp_path / "store")
    assert len(again) != len(before)
    assert np.isfinite(before.positions).all(), "an open store can be read after another is in its place"


def test_how_a_text_is_written_is_found_in_its_first_rows(small, tmp_path, capsys):
    frame = table().assign(time=lambda frame: frame["time"].dt.strftime("%d.%m.%Y %H:%M"))
    frame["time"] = frame["time"].str.replace("01.05", "31.05")
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";", decimal=",")
    made = pack([tmp_path / "t.csv"], COLUMNS, tmp_path / "store")
    assert capsys.readouterr().err.count("read with separator ';', decimal ','") == 1
    check_equal(made, read_reports(tmp_path / "t.csv", COLUMNS))
    assert made.columns.decimal == ","
    with open(tmp_path / "t.csv", "ab") as file:
        file.write("31.05.2013 10:00;Köln;10;50;;7;\n".encode("latin-1"))
    with pytest.raises(ValueError, match="expected text in utf-8 in t.csv.*name its encoding"):
        pack([tmp_path / "t.csv"], COLUMNS, tmp_path / "store")
    check_equal(read_reports(tmp_path / "store"), made)


def test_sensors_in_another_unit_are_named_when_packed(small, tmp_path):
    frame = table()
    frame["temp"] = 280 + frame["temp"] % 5
    first = sorted(set(frame["station"]))[0]
    frame.loc[frame["station"] == first, "temp"] -= 273.15
    with pytest.warns(UserWarning, match=f"'temp' of the tables is .* 1 of .* sensors, such as '{first}', far from"):
        pack([write(frame, tmp_path / "t.csv")], COLUMNS, tmp_path / "store")


def test_times_of_later_rows_are_written_as_those_of_the_first(small, tmp_path):
    frame = table()
    frame["time"] = frame["time"].dt.strftime("%Y-%m-%dT%H:%M")
    frame.loc[2 * 37 :, "time"] += "+02:00"  # from the third batch on
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(
        ValueError, match="pack: expected times without an offset from UTC, .* got others from row 75 on"
    ):
        pack([tmp_path / "t.csv"], COLUMNS, tmp_path / "store")


def test_a_batch_may_begin_with_a_row_without_a_time(small, tmp_path):
    frame = table()
    frame["time"] = frame["time"].dt.strftime("%Y-%m-%dT%H:%M+00:00")
    frame.loc[37, ["time", "temp", "wind"]] = None  # the first row of the second batch
    frame.to_csv(tmp_path / "t.csv", index=False)
    check_equal(pack([tmp_path / "t.csv"], COLUMNS, tmp_path / "store"), read_reports(tmp_path / "t.csv", COLUMNS))


def test_means_of_counts_are_refused(small, tmp_path):
    frame = table().assign(temp=2)
    columns = replace(COLUMNS, counts=("temp",))
    pack([write(frame, tmp_path / "t.csv")], columns, tmp_path / "store")
    twice = pandas.concat([frame, frame.assign(temp=frame.temp + 1)])
    told = "expected counts 'temp' of .* once in each step of '1h' of a sensor, got several that differ"
    with pytest.raises(ValueError, match=told), pytest.warns(UserWarning, match="different values of 'temp'"):
        read_reports(twice, columns)
    with pytest.raises(ValueError, match=told), pytest.warns(UserWarning, match="has different values"):
        pack([write(twice, tmp_path / "t.csv")], columns, tmp_path / "other")


def test_warnings_of_all_batches_are_shown_once(small, tmp_path):
    frame = table().fillna({"temp": -999.0})
    later = frame["temp"].where(frame["temp"] == -999, frame["temp"] + 1)
    again = pandas.concat([frame, frame.assign(lat=frame["lat"] + 1, temp=later)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pack([write(again, tmp_path / "t.csv")], COLUMNS, tmp_path / "store")
    said = [str(each.message) for each in caught]
    assert len(said) == 3
    assert "'temp' of t.csv is -999 in" in said[0]
    assert "is at several places at one time" in said[1]
    assert "has different values at one time" in said[2]


ODD = {
    "a short code": ("temp", [-9.0, -9.0], "'temp' of t.csv is -9 in 2 rows"),
    "a repeated value": ("temp", [2000.0] * 4, "'temp' of t.csv is 2000 in 4 rows"),
    "values far out": ("temp", [900.0, 901.0], "2 values of 'temp' of t.csv, such as 901, are far from the others"),
    "a code of a covariate": ("alt", [-999.0], "'alt' of t.csv is -999 in 1 rows"),
    "a number within the others": ("temp", [99.0], None),
}


@pytest.mark.parametrize("odd", ODD)
def test_packing_warns_of_odd_numbers_as_reading_does(odd, small, tmp_path, monkeypatch):
    """Of the whole table, in whose batches, the hours of one station after another, each is rare or far from all."""
    monkeypatch.setattr(tallies, "MOST", 200)
    monkeypatch.setattr(tallies, "ENDS", 8)
    name, numbers, line = ODD[odd]
    frame = table().drop_duplicates("station").merge(pandas.DataFrame({"hour": range(60)}), how="cross")
    frame["time"] += pandas.to_timedelta(frame.hour, "h")
    frame["temp"] = np.linspace(1, 150, len(frame)).round(3)
    frame["alt"] = frame["alt"].fillna(100.0)
    frame.loc[np.linspace(9, len(frame) - 9, len(numbers)).astype(int), name] = numbers
    path, told = write(frame.drop(columns="hour"), tmp_path / "t.csv"), []
    for read in (lambda: read_reports(path, COLUMNS), lambda: pack([path], COLUMNS, tmp_path / "store")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read()
        told.append([str(each.message) for each in caught])
    assert told[0] == told[1]
    assert len(told[0]) == (line is not None)
    assert line is None or line in told[0][0]


def test_a_tally_of_parts_keeps_its_ends_and_its_number(monkeypatch):
    monkeypatch.setattr(tallies, "MOST", 61)
    monkeypatch.setattr(tallies, "ENDS", 7)
    column = np.random.default_rng(0).normal(size=999).round(2)
    column[::9] = np.nan
    whole, joined = Tally.of(column), sum((Tally.of(part) for part in np.split(column, 9)), Tally.of(column[:0]))
    assert joined.total == whole.total == 888
    assert len(joined.values) <= 61 < len(whole.values)
    for end in (slice(7), slice(-7, None)):
        np.testing.assert_array_equal(joined.values[end], whole.values[end])
        np.testing.assert_array_equal(joined.counts[end], whole.counts[end])
    for rank in (0, 100, 444, 700, 887):
        assert abs(joined.values[joined.at(rank)] - np.sort(column)[rank]) < 0.2


HOURS = {"six hours": 6.0, "nine tenths": 0.9, "a tenth": 0.1, "days": 24.0}


@pytest.mark.parametrize("apart", HOURS)
def test_packing_warns_of_steps_as_reading_does(apart, small, tmp_path, capsys):
    hour = np.repeat(np.arange(60), 6)
    frame = pandas.DataFrame({
        "time": pandas.Timestamp("2020-01-01T22:00") + pandas.to_timedelta(HOURS[apart] * hour, "h"),
        "x": np.tile(np.arange(6.0), 60), "temp": np.random.default_rng(0).normal(size=360),
    })  # fmt: skip
    columns = Columns("time", ("x",), ("temp",), step="1D" if apart == "days" else "1h", globe=False)
    path, told = write(frame, tmp_path / "t.csv"), []
    for read in (lambda: read_reports(path, columns), lambda: pack([path], columns, tmp_path / "store")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            read()
        told.append([str(each.message) for each in caught] + capsys.readouterr().err.splitlines())
    assert len(told[0]) == 1
    assert told[1] == [told[0][0].replace("t.csv", "the tables")]


def test_sums_by_parts_are_sums(monkeypatch):
    monkeypatch.setattr(mapped, "CELLS", 10)
    draw = np.random.default_rng(0)
    rows, places = draw.normal(size=(101, 2)).astype(np.float32), draw.integers(0, 3, (101, 2)).astype(float)
    rows[draw.random(rows.shape) < 0.3] = np.nan
    for summed, tolerance in ((1 << 22, 0), (10, 1e-12)):
        monkeypatch.setattr(mapped, "SUMMED", summed)
        made, exact = moments(rows), rows.astype(np.float64)
        np.testing.assert_allclose(made.mean, np.nanmean(exact, 0), rtol=tolerance)
        np.testing.assert_allclose(made.spread, np.nanstd(exact, 0), rtol=tolerance)
        np.testing.assert_array_equal(made.low, np.nanmin(rows, 0))
        np.testing.assert_array_equal(made.high, np.nanmax(rows, 0))
    np.testing.assert_array_equal(distinct(places)[0], np.unique(places, axis=0))
    np.testing.assert_array_equal(distinct(places)[1], np.unique(places, axis=0, return_index=True)[1])
    ordered = np.sort(draw.integers(0, 20, 101))
    np.testing.assert_array_equal(counted(ordered), np.unique(ordered, return_counts=True))
    assert [part.stop - part.start for part in parts(7, 4)] == [2, 2, 2, 1]


def test_room_on_a_full_disk_is_an_error_at_once(store, monkeypatch):
    monkeypatch.setattr(mapped, "LEAST_BYTES", 0)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device: 0.00 GB are needed there; name a folder .* by TMPDIR"):
        room(read_reports(store).step, (3,), np.int64)


def test_rain_in_a_store_and_what_is_known_ahead_beside_it(tmp_path):
    frame = table().assign(rain=lambda rows: np.where(rows.index % 3, 0.0, rows.index / 7))
    columns = replace(COLUMNS, values=("temp", "rain"), circular=())
    packed = pack([frame], columns, tmp_path / "store")
    stored, memory = read_reports(tmp_path / "store", columns), read_reports(frame, columns)
    check_equal(stored, memory)
    assert packed.columns == stored.columns
    assert stored.columns.nonnegative == ("rain",), "found from memory and from a store"
    several = replace(columns, step="6h")  # in which it hardly ever is 0
    pack([frame], several, tmp_path / "several")
    for source in (tmp_path / "several", frame):
        assert read_reports(source, several).columns.nonnegative == ()
    assert read_reports(tmp_path / "store", memory.columns).columns == memory.columns
    with_ahead = replace(columns, ahead=("open",))
    hours = pandas.date_range("2013-05-01", periods=48, freq="h", tz="UTC")
    hourly = pandas.DataFrame({"time": hours, "open": np.arange(48.0)})
    both = [read_reports(source, with_ahead, ahead=hourly) for source in (tmp_path / "store", frame)]
    check_equal(*both)
    np.testing.assert_array_equal(both[0].ahead.values, both[1].ahead.values)
    corners = [hourly.assign(**dict(zip(columns.position, (900.0 + i, float(j)), strict=True)), open=hourly.open + i)
               for i in (0, 1) for j in (0, 1)]  # fmt: skip
    for source in (tmp_path / "store", frame):
        with pytest.raises(ValueError, match="read: expected open known ahead where the sensors are, .*, got it for"):
            read_reports(source, with_ahead, ahead=pandas.concat(corners))
    with pytest.raises(ValueError, match="holds nothing that is known ahead, expected a table of its own with open"):
        read_reports(tmp_path / "store", with_ahead)
    with pytest.raises(ValueError, match="pack: expected no columns that are known ahead, got open"):
        pack([frame], with_ahead, tmp_path / "other")


def test_a_code_that_was_not_taken_out_in_packing_is_refused(store):
    with pytest.raises(ValueError, match="codes are taken out when a table is packed, so pack it again with --missing"):
        read_reports(store, replace(read_reports(store).columns, missing=(-999.0,)))


def test_signs_other_than_those_of_the_packing_are_refused(store, tmp_path, capsys):
    for option, sign in (("separator", ";"), ("time-format", "%d.%m.%Y")):
        with pytest.raises(SystemExit):
            main(["fit", str(store), f"--{option}", sign, "--out", str(tmp_path / "run")])
        said = capsys.readouterr().err
        assert f"was packed with {option.replace('-', '_')} None, got {sign!r}; leave it out, or pack" in said
    assert not (tmp_path / "run").exists()
