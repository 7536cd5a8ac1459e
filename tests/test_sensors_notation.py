"""Tables as people have them: separators, decimal signs, encodings, dates and codes, found or declared."""

import gzip
import re
from dataclasses import replace

import numpy as np
import pytest

from s2rm.sensors import Columns, read_reports
from s2rm.sensors.reading.codes import warn_of_codes, warn_of_strays
from s2rm.sensors.reading.tables import read_places
from s2rm.sensors.reading.tallies import Tally

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
COLUMNS = Columns("Zeit", ("lon", "lat"), ("temp",), "Ort", ("alt",))
HOURS = pandas.date_range("2024-12-30", periods=30, freq="h")


def table(times: str | None = None):
    """Three stations at each hour from the end of 2024 on, temperatures with two decimals."""
    hour, station = (part.ravel() for part in np.mgrid[:30, :3])
    names = np.array(["Köln", "Ulm", "Berlin"])[station]
    temp = np.round(10 + station + np.sin(hour / 3), 2) + 0.01
    frame = pandas.DataFrame(
        {"Zeit": HOURS[hour], "Ort": names, "lon": 7.5 + station, "lat": 50.25, "alt": 4 * station}
    )
    frame["temp"] = np.round(temp, 2)
    return frame.assign(Zeit=frame.Zeit.dt.strftime(times)) if times else frame


def written(folder, name="t.csv", times="%d.%m.%Y %H:%M", frame=None, **how):
    """The path of the table in a file."""
    content = (table(times) if frame is None else frame).to_csv(index=False, **how).encode(how.get("encoding", "utf-8"))
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder / name


def check_read(source, columns=COLUMNS):
    reports, expected = read_reports(source, columns), read_reports(table(), COLUMNS)
    assert (reports.sensors, reports.start, reports.columns) == (expected.sensors, expected.start, expected.columns)
    for name in ("step", "sensor", "positions", "values", "covariates"):
        np.testing.assert_array_equal(getattr(reports, name), getattr(expected, name))
    return reports.columns


def refusal(source, columns=COLUMNS, read=read_reports) -> str:
    with pytest.raises(ValueError, match=r"\A(read|columns): ") as raised:
        read(source, columns)
    assert "\n" not in str(raised.value)
    return str(raised.value)


GERMAN = {"sep": ";", "decimal": ",", "encoding": "latin-1"}


@pytest.mark.parametrize(
    ("name", "times", "how", "said"),
    [
        ("t.csv", "%d.%m.%Y %H:%M", GERMAN,
         "separator ';', decimal ',', encoding 'latin-1', time format '%d.%m.%Y'"),
        ("t.csv.gz", "%d.%m.%Y %H:%M:%S", {**GERMAN, "encoding": "utf-16"},
         "separator ';', decimal ',', encoding 'utf-16', time format '%d.%m.%Y'"),
        ("t.csv", "%d/%m/%Y %H:%M", {"sep": ";", "encoding": "utf-8-sig"},
         "separator ';', time format '%d/%m/%Y'"),
        ("t.tsv", "%Y-%m-%d %H:%M", {"sep": "\t"}, "separator tab"),
        ("t.txt", "%m/%d/%Y %H:%M", {"sep": "|"}, "separator '|', time format '%m/%d/%Y'"),
        ("t.csv", "%d-%m-%Y, %H:%M", {"decimal": ","}, "decimal ',', time format '%d-%m-%Y'"),
    ],
)  # fmt: skip
def test_what_is_plain_is_found_and_said(name, times, how, said, tmp_path, capsys):
    check_read(written(tmp_path, name, times, **how))
    assert capsys.readouterr().err == f"{name}: read with {said}\n"


@pytest.mark.parametrize("times", ["%Y/%m/%d %H:%M", "%Y.%m.%d %H", "%Y-%m-%dT%H:%MZ"])
def test_what_is_as_ever_is_not_said(times, tmp_path, capsys):
    check_read(written(tmp_path, times=times))
    assert capsys.readouterr().err == ""


def test_times_as_spreadsheets_write_them(tmp_path):
    texts = [text[:10] if text.endswith("00:00") else text.replace(" 0", " ") for text in table("%d.%m.%Y %H:%M").Zeit]
    assert texts[3] == "30.12.2024 1:00"
    check_read(written(tmp_path, frame=table().assign(Zeit=texts)))
    late = ["30.12.2024 23:00", "30.12.2024 24:00"] * 3
    reports = read_reports(table()[:6].assign(Zeit=late), COLUMNS)
    assert reports.times.tolist() == [np.datetime64(f"2024-12-{day}", "us").item() for day in ("30T23", "31T00")]


@pytest.mark.parametrize(
    ("times", "time_format"),
    [("%d.%m.%y %H:%M", "%d.%m.%y"), ("%d-%b-%y %I%p", "%d-%b-%y %I%p"), ("%j %Y %H", "%j %Y %H"),
     ("%H:%M %d/%m/%Y", "%H:%M %d/%m/%Y"),
     ("%d.%m.%Y %H:%M+00:00", "%d.%m.%Y"), ("%B %d, %Y %H:%M", "%B %d, %Y"), ("%Y%d%m %H%M", "%Y%d%m")],
)  # fmt: skip
def test_formats_that_are_declared(times, time_format, tmp_path):
    columns = replace(COLUMNS, time_format=time_format)
    check_read(written(tmp_path, times=times), columns)
    check_read(table(times), columns)
    said = refusal(table(times).assign(Zeit=["never", *table(times).Zeit[1:]]), columns)
    assert f"expected times like {time_format} in 'Zeit' of the table, got 'never' in row 1; write them so" in said


def test_what_could_be_either_is_asked_for(tmp_path):
    early = table()
    early["Zeit"] = (early.Zeit - pandas.Timedelta("28D")).dt.strftime("%d.%m.%Y %H:%M")
    said = refusal(early)
    assert said == (
        "read: expected dates of one kind in 'Zeit' of the table, got '02.12.2024 00:00', whose day may be the month; "
        "name their format (--time-format), %d.%m.%Y or %m.%d.%Y, or write them as in ISO 8601, 2013-05-01T06:00"
    )
    for time_format, start in (("%d.%m.%Y", "2024-12-02"), ("%m.%d.%Y", "2024-02-12")):
        columns = replace(COLUMNS, time_format=time_format)
        assert read_reports(early, columns).start == np.datetime64(start)
    mixed = table("%d/%m/%Y %H:%M")
    mixed.loc[40, "Zeit"] = "12/31/2024 10:00"
    assert "got '30/12/2024 00:00' and '12/31/2024 10:00'; name their format" in refusal(mixed)
    thousands = [f"1,{number:03d}" for number in range(90)]
    for frame, how in ((table().assign(temp=thousands), {"sep": ";"}), (table().assign(temp=thousands), {})):
        said = refusal(written(tmp_path, times="%Y", frame=frame, **how))
        assert "expected numbers in 'temp' of t.csv, got '1,000' in row 1; name the decimal sign (--decimal)" in said
    whole = table().assign(temp=thousands, lat=50, lon=np.arange(90) % 3)
    path = written(tmp_path, frame=whole)
    assert read_reports(path, replace(COLUMNS, decimal=",")).values[2, 0] == np.float32(1.001)
    assert "got '1,000' in row 1" in refusal(path, replace(COLUMNS, decimal="."))


def test_two_decimal_signs_in_one_table(tmp_path):
    frame = table().astype({"temp": str})
    frame.loc[4, "temp"] = "12,5"
    assert "expected numbers in 'temp' of t.csv, got '12,5' in row 5; name the decimal sign" in refusal(
        written(tmp_path, frame=frame)
    )
    assert "expected numbers with a decimal comma in 'temp' of t.csv, got '10.01' in row 1" in refusal(
        written(tmp_path, frame=frame), replace(COLUMNS, decimal=",")
    )
    german = table().assign(temp=[str(cell).replace(".", ",") for cell in table().temp], lat="1.050,25")
    said = refusal(written(tmp_path, frame=german, sep=";", decimal=","))
    assert "expected numbers with a decimal comma in 'lat' of t.csv, got '1.050,25' in row 1; name the decimal" in said
    check_read(german.assign(lat=50.25), replace(COLUMNS, decimal=","))


def test_a_separator_that_is_not_there(tmp_path):
    said = refusal(written(tmp_path), replace(COLUMNS, separator=";"))
    assert said == (
        "read: expected the separator ';' in t.csv, got a first line without, 'Zeit,Ort,lon,lat,alt,temp'; name "
        "another (--separator), or leave it out to have it found"
    )
    for separator in ("tab", "\\t", "\t"):
        check_read(written(tmp_path, sep="\t"), replace(COLUMNS, separator=separator))
    (tmp_path / "t.txt").write_text(table("%Y-%m-%dT%H").to_string(index=False))
    check_read(tmp_path / "t.txt", replace(COLUMNS, separator=" "))


def test_an_encoding_that_does_not_fit(tmp_path):
    told = "got b'\\xf6' in line 2; name its encoding (--encoding), such as utf-8, latin-1 or cp1252"
    latin = written(tmp_path, **GERMAN)
    for encoding in ("utf-8", "ascii"):
        said = refusal(latin, replace(COLUMNS, encoding=encoding))
        assert said == f"read: expected text in {encoding} in t.csv, {told}"
    check_read(latin, replace(COLUMNS, encoding="cp1252"))
    for encoding, byte in (("cp850", r"\\x94"), ("mac-roman", r"\\x9a"), ("koi8-r", r"\\xeb")):
        frame = table("%Y-%m-%d %H").replace({"Ort": {"Köln": "Клин" if encoding == "koi8-r" else "Köln"}})
        path = written(tmp_path, frame=frame, encoding=encoding)
        with pytest.raises(ValueError, match=f"expected text in utf-8 in t.csv, got b'{byte}' in line 2; name its"):
            read_reports(path, COLUMNS)
        assert read_reports(path, replace(COLUMNS, encoding=encoding)).sensors[1] in ("Köln", "Ulm")


@pytest.mark.parametrize(
    ("given", "told"),
    [({"separator": "ab"}, "one character"), ({"separator": "x"}, "one character"), ({"decimal": ";"}, r"be \. or ,"),
     ({"encoding": "base64"}, "such as utf-8"), ({"encoding": "nowhere"}, "such as utf-8"),
     ({"time_format": "%H:%M"}, "a day, month and year"), ({"time_format": "dd.mm.yyyy"}, "a day, month and year")],
)  # fmt: skip
def test_what_is_no_notation(given, told):
    with pytest.raises(ValueError, match=f"columns: {next(iter(given))} must .*{told}"):
        replace(COLUMNS, **given)


@pytest.mark.parametrize("kind", ["csv", "frame", "float32"])
def test_codes_of_missing_values_that_are_declared(kind, tmp_path):
    columns = replace(COLUMNS, missing=(-999.9, "MM"))
    frame = table().astype({"temp": "float32"} if kind == "float32" else {"temp": object})
    frame.loc[[3, 7], "temp"] = -999.9 if kind == "float32" else "MM"
    frame.loc[4, "temp"], frame.loc[5, "alt"] = -999.9, -999
    if kind == "csv":
        frame = written(tmp_path, frame=frame)
        assert "got 'MM' in row 4; leave the cell empty where unknown, or name what stands for it" in refusal(frame)
    with pytest.warns(UserWarning, match=r"'alt' of .* is -999 in 1 rows, .* name it as such \(--missing -999\)"):
        reports = read_reports(frame, columns)
    assert len(reports) == 90 - 3
    read_reports(frame, replace(columns, missing=("MM", -999.9, "-999")))


def test_values_far_outside_the_rest_are_counted():
    generator = np.random.default_rng(0)
    bulk = generator.uniform(0, 30, 1000)
    for strays, told in (
        ([5000.0], "1 value of 'v' of t, such as 5000, is far"),
        ([-400.0, -401.0], "2 values of 'v' of t, such as -401, are far"),
        ([273.0] * 5, r"5 values .* 273, are far from the others, 0.0\d* to 29.9\d*; .* \(--missing 273\)"),
    ):  # fmt: skip
        with pytest.warns(UserWarning, match=told):
            warn_of_strays("t", "v", Tally.of(generator.permutation([*bulk, *strays])))
    showers = np.where(generator.random(10_000) < 0.05, generator.exponential(3, 10_000), 0)
    for plain in (bulk, generator.normal(size=9999), showers, generator.lognormal(size=9999), bulk[:9], np.ones(99)):
        warn_of_strays("t", "v", Tally.of(plain))
    frame = table()
    frame.loc[50, "temp"] = 812.5
    with pytest.warns(
        UserWarning, match="1 value of 'temp' of the table, such as 812.5, is far from the others, 9.01 to"
    ):
        read_reports(frame, COLUMNS)


def test_points_that_may_mark_thousands_are_refused(tmp_path):
    frame = table()
    counts = np.random.default_rng(0).integers(300, 2500, len(frame))
    frame["temp"] = [f"{count:,}".replace(",", ".") for count in counts]
    frame.to_csv(tmp_path / "t.csv", sep=";", index=False)
    with pytest.raises(ValueError, match=r"'temp' of t.csv, got '[12]\.\d{3}' beside numbers such as '\d{3}', as"):
        read_reports(tmp_path / "t.csv", COLUMNS)
    read_reports(tmp_path / "t.csv", replace(COLUMNS, decimal="."))
    three_decimals = [f"{count}.000" if count < 1000 else f"{count / 1000:.3f}" for count in counts]
    for plain in (
        three_decimals,
        counts / 1000,
        np.where(counts < 1000, 2.0, counts / 1000),
        counts / 10,
        0.001 * counts % 1,
    ):
        frame.assign(temp=plain).to_csv(tmp_path / "t.csv", sep=";", index=False)
        read_reports(tmp_path / "t.csv", COLUMNS)


def test_half_a_day_that_would_be_ignored_is_refused():
    with pytest.raises(
        ValueError, match=r"expected hours of a half day, %I, beside %p in time_format, got '%d.%m.%Y %H %p'"
    ):
        replace(COLUMNS, time_format="%d.%m.%Y %H %p")
    replace(COLUMNS, time_format="%d.%m.%Y %I:%M %p")


def test_a_code_that_is_not_all_nines_is_named():
    generator = np.random.default_rng(0)
    plain = generator.normal(20, 5, 1000)
    with pytest.warns(UserWarning, match=r"'v' of t is -200 in 80 rows, far from the others, .* \(--missing -200\)"):
        warn_of_codes("t", "v", Tally.of(np.where(np.arange(1000) % 25 < 2, -200.0, plain)))
    rain = np.where(generator.random(1000) < 0.8, 0.0, generator.exponential(3, 1000))
    for usual in (plain, rain, np.where(np.arange(1000) % 25 < 2, 60.0, plain), np.repeat([0.0, 1.0, 2.0], 300)):
        assert not warn_of_codes("t", "v", Tally.of(usual))


def test_sensors_in_other_units_are_named():
    frame = table()
    kelvin = frame.assign(temp=np.where(frame.Ort == "Ulm", frame.temp + 273.15, frame.temp))
    told = r"'temp' of the table is 283\S* to 285\S* at 1 of 3 sensors, such as 'Ulm', far from the others, 9\S* to 13"
    with pytest.warns(UserWarning, match=told):
        read_reports(kelvin, COLUMNS)
    read_reports(kelvin, COLUMNS, to_fit=False)
    read_reports(frame.assign(temp=np.where(frame.Ort == "Ulm", frame.temp + 20, frame.temp)), COLUMNS)


def test_directions_in_radians_are_named():
    frame = table()
    frame["temp"] = np.linspace(1, 359, len(frame))
    columns = replace(COLUMNS, circular=("temp",))
    read_reports(frame, columns)
    for to_fit in (True, False):
        with pytest.warns(
            UserWarning, match="the directions 'temp' of the table are all within 0.0175 to 6.27; if these"
        ):
            read_reports(frame.assign(temp=np.radians(frame.temp)), columns, to_fit=to_fit)


@pytest.mark.parametrize("name", ["wind_dir", "windDirection", "WD", "dd", "course (deg)"])
def test_directions_that_are_not_declared_are_named(name):
    frame = table().rename(columns={"temp": name})
    frame[name] = np.linspace(1, 359, len(frame))
    columns = replace(COLUMNS, values=(name,))
    told = (
        rf"'{re.escape(name)}' of the table seems to hold directions .*; declare it, with --circular {re.escape(name)}"
    )
    with pytest.warns(UserWarning, match=told):
        read_reports(frame, columns)
    read_reports(frame, replace(columns, circular=(name,)))
    read_reports(frame.assign(**{name: frame[name] / 10}), columns)  # a speed, or an index
    read_reports(frame.rename(columns={name: "added"}), replace(columns, values=("added",)))


def test_local_midnights_that_are_the_day_before_in_utc_are_named():
    days = pandas.date_range("2024-03-01", periods=60, tz="Europe/Berlin")
    frame = pandas.DataFrame({"t": days, "x": 0.0, "y": 0.0, "v": np.sin(np.arange(60.0))})
    frame = pandas.concat([frame, frame.assign(x=1.0)], ignore_index=True)
    columns = Columns("t", ("x", "y"), ("v",), step="1D", globe=False)
    with pytest.warns(UserWarning, match="all times of the table are about 23:00 UTC, and count to that day in UTC"):
        read_reports(frame, columns, to_fit=True)
    for zone in (None, "America/New_York"):
        days = frame["t"].dt.tz_localize(None).dt.tz_localize(zone)
        read_reports(frame.assign(t=days), columns, to_fit=True)


def test_different_values_at_one_time_are_named(capsys):
    frame = table()
    read_reports(pandas.concat([frame, frame]), COLUMNS)
    said = "the table: 180 rows become 90 observations, means over the rows of a sensor within a step of 1h\n"
    assert capsys.readouterr().err == said
    long = pandas.concat([frame, frame.assign(temp=frame.temp + 990)[5:8], frame.assign(temp=np.nan)])
    told = "sensor 'Berlin' .* different values of 'temp' at one time, first in row 91, and so have 3 rows"
    with pytest.warns(UserWarning, match=told):
        read_reports(long, COLUMNS)
    here = pandas.date_range("2024-10-26T20:00", periods=30, freq="h", tz="UTC").tz_convert("Europe/Berlin")
    local = dict(zip(HOURS, here.tz_localize(None), strict=True))
    with pytest.warns(UserWarning, match="where clocks were put back, give times in UTC"):
        read_reports(frame.assign(Zeit=frame.Zeit.map(local)), COLUMNS)
    read_reports(frame.assign(Zeit=frame.Zeit.map(dict(zip(HOURS, here, strict=True)))), COLUMNS)


def test_steps_that_do_not_suit_the_times_are_named(capsys):
    months = pandas.date_range("2000-01-01", periods=30, freq="MS")
    frame = table()
    frame["Zeit"] = frame.Zeit.map(dict(zip(HOURS, months, strict=True)))
    with pytest.warns(
        UserWarning, match=r"most steps of '1h' .* mostly 31D apart; name a longer step, such as --step 28D"
    ):
        read_reports(frame, COLUMNS)
    with pytest.warns(UserWarning, match="3 observations of .* share a step of '31D' .* between two, --step 28D"):
        read_reports(frame, replace(COLUMNS, step="31D"))
    assert len(read_reports(frame, replace(COLUMNS, step="28D"))) == len(frame)
    assert not capsys.readouterr().err
    read_reports(table(), replace(COLUMNS, step="3h"))
    assert "90 rows become 30 observations" in capsys.readouterr().err


def test_places_are_written_in_their_own_way(tmp_path):
    columns = read_reports(written(tmp_path, **GERMAN), COLUMNS).columns
    assert (columns.decimal, columns.time_format, columns.separator, columns.encoding) == (",", "%d.%m.%Y", None, None)
    for content, encoding in (
        ("Ort,lon,lat,alt\nKöln,10.5,50,1\n", "utf-8"), ("Ort;lon;lat;alt\nKöln;10,5;50;1\n", "latin-1"),
        ("Ort;lon;lat;alt\nKöln;10,500;50;1\n", "utf-8"),
    ):  # fmt: skip
        (tmp_path / "p.csv").write_text(content, encoding)
        for declared in (columns, replace(columns, separator=";")):
            places = read_places(tmp_path / "p.csv", declared)
            assert (places.positions.tolist(), places.names) == ([[10.5, 50]], ("Köln",))


def test_a_forecaster_reads_as_its_fit_did(tmp_path):
    from s2rm.sensors import Fit, Forecaster
    from s2rm.training import Training

    frame = table()
    early = frame.assign(Zeit=(frame.Zeit + pandas.Timedelta("3D")).dt.strftime("%d.%m.%Y %H:%M"))
    reports = read_reports(written(tmp_path, **GERMAN), replace(COLUMNS, missing=(-9,)))
    how = Fit("lstm", hidden_size=2, context=4, horizon=2, training=Training(epochs=1))
    made = Forecaster.fit(reports, tmp_path / "run", how, progress=False)
    kept = Forecaster.load(tmp_path / "run").columns
    assert (kept.decimal, kept.time_format, kept.missing) == (",", "%d.%m.%Y", (-9.0,))
    assert made.fingerprint == replace(made, columns=replace(kept, missing=())).fingerprint
    path = written(tmp_path, "later.csv", frame=early.assign(temp="10,123")[:6], **GERMAN)
    stream = made.step(made.step(None, reports), path)
    assert str(stream.recent.times[-1]) == "2025-01-02T01:00:00.000000"
    assert stream.recent.values[-1] == np.float32(10.123)


@pytest.mark.parametrize("kind", ["float32", "Float32", "float[pyarrow]"])
def test_codes_of_single_precision_are_found_in_every_kind_of_column(kind):
    number, values = 60, np.random.default_rng(0).random(120).astype(np.float32)
    values[5:25] = 99.9
    frame = pandas.DataFrame({
        "time": pandas.date_range("2024", periods=number, freq="h").repeat(2), "x": [0.0, 1] * number,
        "y": [0.0, 1] * number, "v": pandas.array(values, dtype=kind),
    })  # fmt: skip
    reports = read_reports(frame, Columns("time", ("x", "y"), ("v",), missing=(99.9,)))
    assert np.nanmax(reports.values) < 1
