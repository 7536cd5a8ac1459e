"""The commands for tables: from a file to a report and a forecast."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from s2rm.cli import main
from s2rm.cli.sensors import places_of
from s2rm.sensors.checks import check_places
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.plots import forecasts_in_time, sheet
from s2rm.sensors.judging.verdicts import verdict
from s2rm.sensors.learnable import check_learnable
from s2rm.sensors.reading.tables import read_reports, to_frame
from s2rm.sensors.reports import stations
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Columns

pandas = pytest.importorskip("pandas")
COLUMNS = ["--time", "time", "--position", "x", "y", "--values", "tracer", "direction", "--circular", "direction"]
QUICK = ["--hidden-size", "8", "--num-modules", "4", "--context", "12", "--horizon", "6", "--epochs", "1"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    table = folder / "reports.csv.gz"
    to_frame(FieldWorld(num_stations=8, num_movers=2, num_steps=150).reports()).to_csv(table, index=False)
    main(["fit", str(table), *COLUMNS, "--sensor", "sensor", *QUICK, "--out", str(folder / "run")])
    return folder / "run", table


def test_a_fit_leaves_a_report_that_judges_it(fitted):
    run, _ = fitted
    page = (run / "report.html").read_text()
    for said in ("persistence", "kriging", "withheld", "MAE of tracer", "+6 h", "Enclaves", "Interactions of modules"):
        assert said in page
    # Gains and their map for two values; errors of one in two groups, of the other, which the withheld sensor does not
    # measure, in one; two series of each in the fit, and one withheld; two maps of each; stations; modules.
    assert page.count("data:image/png;base64,") == 2 + 2 + 3 + 5 + 4 + 1 + 3
    assert page.index("S2GRU beats the best of 6 simple predictors") < page.index("data:image/png") < page.index("<td>")
    rows = json.loads((run / "scores.json").read_text())["rows"]
    for name, said in verdict(rows, "S2GRU", np.timedelta64(1, "h")):
        assert f"<p><strong>{name}</strong>: {said}</p>" in page if name else f"<p>{said}</p>" in page


def test_series_of_two_sensors_at_one_place_are_their_own(fitted):
    run, table = fitted
    forecaster = Forecaster.load(run)
    reports, names = read_reports(table, forecaster.columns), ["station 1", "station 2"]
    here, there = (reports.sensor == reports.sensors.index(name) for name in names)
    moved = np.where(there[:, None], reports.positions[here][0], reports.positions)
    reports = replace(reports, positions=moved)
    places = stations(reports.between(0, 101))
    expected, _ = forecaster.forecast(reports, places, [100], 6)
    made = sheet(forecasts_in_time(forecaster, reports, reports, 100, 0, names))
    for axes, name in zip(made.axes, names, strict=True):
        (drawn,) = (line.get_ydata() for line in axes.get_lines() if line.get_label() == "forecast")
        np.testing.assert_allclose(drawn, expected[0, :, places.names.index(name), 0], rtol=1e-5)


def test_series_tell_what_was_shown_from_what_was_hidden(fitted):
    run, table = fitted
    forecaster = Forecaster.load(run)
    reports = read_reports(table, forecaster.columns)
    withheld = np.arange(len(reports.sensors)) == reports.sensors.index("station 3")
    made = sheet(forecasts_in_time(forecaster, reports.of(~withheld), reports, 100, 0, ["station 1", "station 3"]))
    for axes, name in zip(made.axes, ("station 1", "station 3"), strict=True):
        drawn = {line.get_label(): line for line in axes.get_lines()}
        mine = reports.where((reports.sensor == reports.sensors.index(name)) & (abs(reports.step - 100) <= 6))
        given = mine.where(mine.step <= 100) if name == "station 1" else mine.where(mine.step < 0)
        np.testing.assert_allclose(drawn["observed, shown to the model"].get_ydata(), given.values[:, 0])
        assert len(drawn["observed, hidden from it"].get_ydata()) == len(mine) - len(given) > 0
        assert len(drawn["forecast"].get_xdata()) == 6
        assert ("withheld" in axes.get_title()) == (name == "station 3")
    assert made.axes[0].get_xlabel() == "time since the initialisation (h)"


def test_series_of_directions_do_not_jump_at_north(fitted):
    run, table = fitted
    forecaster = Forecaster.load(run)
    reports = read_reports(table, forecaster.columns)
    at, mine = reports.columns.values.index("direction"), reports.sensor == reports.sensors.index("station 1")
    near, values = mine & (abs(reports.step - 100) <= 6), reports.values.copy()
    values[:, at] = (values[:, at] - np.nanmedian(values[near, at])) % 360
    turned = replace(reports, values=values)
    (axes,) = sheet(forecasts_in_time(forecaster, turned, turned, 100, at, ["station 1"])).axes
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines() if line.get_label() != "_child0"])
    drawn = drawn[np.isfinite(drawn)]
    assert np.ptp(values[near, at][np.isfinite(values[near, at])]) > 180 > np.ptp(drawn)
    assert {axes.yaxis.get_major_formatter()(degrees) for degrees in (-10, 350)} == {"350"}


def test_a_fit_whose_report_failed_goes_on_with_the_same_command(fitted, tmp_path, monkeypatch, capsys):
    run, table = fitted
    fit = ["fit", str(table), *COLUMNS, "--sensor", "sensor", *QUICK, "--out", str(run)]
    page, scores = run / "report.html", run / "scores.json"
    kept = tmp_path / "report.html"
    before = scores.read_bytes()
    page.rename(kept)
    assert "holds a fit of other settings; choose another" in refused(capsys, *fit, "--seed", "5")
    scores.unlink()
    monkeypatch.setattr("s2rm.cli.sensors.Forecaster.fit", broken)
    monkeypatch.setattr("s2rm.cli.sensors.judge", lambda *arguments, **options: json.loads(before)["rows"])
    monkeypatch.setattr("s2rm.cli.sensors.write_sensor_report", broken)
    assert "no picture" in refused(capsys, *fit)
    assert scores.read_bytes() == before, "written before the report is drawn"
    monkeypatch.setattr("s2rm.cli.sensors.judge", broken)
    monkeypatch.setattr("s2rm.cli.sensors.write_sensor_report", lambda path, *arguments: kept.rename(path))
    main(fit)
    assert "fitted already" in capsys.readouterr().err
    assert page.is_file()


def broken(*arguments, **options):
    raise ValueError("no picture")


@pytest.mark.parametrize(("module", "extra"), [("matplotlib", "report"), ("sklearn", "tables")])
def test_an_extra_that_is_missing_is_refused_before_the_work(module, extra, fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    command = ["fit", fitted[1], *COLUMNS, "--out", tmp_path / "new"]
    assert f"[{extra}]" in refused(capsys, *command)
    assert not (tmp_path / "new").exists()


def test_a_folder_is_free_again_where_nothing_can_be_fitted(fitted, tmp_path, capsys):
    fit = ["fit", fitted[1], *COLUMNS, "--out", tmp_path / "new"]
    assert "need a table of at least" in refused(capsys, *fit, "--context", "100")
    assert not [*(tmp_path / "new").iterdir()]


def test_dollars_in_a_name_are_no_formula():
    from s2rm.report.figures import png
    from s2rm.sensors.judging.judge import split
    from s2rm.sensors.judging.maps import map_of_stations
    from s2rm.sensors.judging.plots import errors_by_lead, sheet

    name = r"$x_$ a_$ $"
    rows = [{"value": name, "predictor": "kriging", "sensors": "seen", "silent": 0, "lead": 1, "mae": 1.0}]
    assert png(sheet([errors_by_lead(rows, name, "seen", np.timedelta64(1, "h"))])).startswith(b"\x89PNG")
    reports = FieldWorld(num_stations=4, num_movers=0, num_steps=9).reports()
    reports = replace(reports, columns=replace(reports.columns, position=("$_$", "y")))
    assert png(sheet([map_of_stations(reports, split(reports, 0.2, 0.3).withheld)])).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["forecast.csv", "forecast.csv.gz", "forecast.parquet"])
def test_a_forecast_is_a_table_of_any_kind(fitted, name, tmp_path):
    run, table = fitted
    main(["forecast", str(run), str(table), "--horizon", "3h", "--out", str(tmp_path / name)])
    read = pandas.read_parquet if name.endswith("parquet") else pandas.read_csv
    made = read(tmp_path / name)
    assert len(made) == 3 * 10
    assert {"init_time", "valid_time", "sensor", "x", "y", "tracer_mean", "tracer_stddev"} <= set(made)


def test_a_forecast_names_those_that_are_long_silent(fitted, tmp_path, capsys):
    run, table = fitted
    frame = pandas.read_csv(table)
    gone = frame.sensor.isin(["station 1", "mover 0"]) & (frame.time >= "2000-01-05")
    frame[~gone].to_csv(tmp_path / "gone.csv", index=False)
    options = ["--quantiles", "0.1", "0.9", "--out", str(tmp_path / "f.csv")]
    main(["forecast", str(run), str(tmp_path / "gone.csv"), *options])
    said = " ".join(capsys.readouterr().err.split())
    assert "silent: 3 of 10 stations (mover 0 since 2000-01-04T23:00, station 1 since" in said
    assert "3, whose last reports are from before 2000-01-06T18:00, are forecast without these" in said
    made = pandas.read_csv(tmp_path / "f.csv", parse_dates=["last_observation", "init_time"])
    assert {"tracer_q10", "direction_q90"} <= set(made)
    assert "tracer_q50" not in made
    silent = made[made.silent].groupby("sensor").last_observation.first()
    assert silent.index.tolist() == ["mover 0", "station 1", "station 3"]
    assert (silent[:2] < "2000-01-05T00:00Z").all()
    assert (made[~made.silent].last_observation > "2000-01-06T20:00Z").all()


def test_a_forecast_over_a_grid_is_a_netcdf_file(fitted, tmp_path):
    import xarray

    run, table = fitted
    options = ["--at", "grid", "--origin", "2000-01-03T00:00Z", "--out", str(tmp_path / "f.nc")]
    main(["forecast", str(run), str(table), *options])
    with xarray.open_dataset(tmp_path / "f.nc") as made:
        assert dict(made.sizes) == {"valid_time": 6, "y": 50, "x": 50, "quantile": 5}
        assert made.tracer_mean.dims == ("valid_time", "y", "x")
        assert made.init_time.values == np.datetime64("2000-01-03T00:00")
        assert np.isfinite(made.tracer_mean).all()


def test_a_forecast_for_the_places_in_a_file(fitted, tmp_path):
    run, table = fitted
    (tmp_path / "places.csv").write_text("sensor,x,y\n007,10,20\n012,50,60\n")
    options = ["--at", str(tmp_path / "places.csv"), "--out", str(tmp_path / "f.csv")]
    main(["forecast", str(run), str(table), *options])
    made = pandas.read_csv(tmp_path / "f.csv", dtype={"sensor": str})
    assert made.sensor.unique().tolist() == ["007", "012"], "names as written"
    assert made.x.unique().tolist() == [10, 50]


def test_what_a_table_of_places_leaves_out_of_a_station_is_that_of_the_reports(tmp_path):
    frame = pandas.DataFrame({
        "time": np.repeat(pandas.date_range("2020-01-01", periods=4, freq="h", tz="UTC"), 2),
        "id": ["a", "b"] * 4, "x": [0.0, 1.0] * 4, "y": 0.0, "v": np.arange(8.0), "altitude": [100.0, 300.0] * 4,
    })  # fmt: skip
    columns = Columns("time", ("x", "y"), ("v",), "id", ("altitude",))
    reports = read_reports(frame, columns)
    (tmp_path / "named.csv").write_text("id,x,y\nb,1,0\nnew,0.5,0\n")
    places = places_of(str(tmp_path / "named.csv"), reports)
    np.testing.assert_array_equal(places.covariates, [[300], [np.nan]])
    (tmp_path / "unnamed.csv").write_text("x,y\n1,0\n")
    with pytest.warns(UserWarning, match="found no column 'altitude' in .*, so that it is unknown at these places"):
        assert np.isnan(places_of(str(tmp_path / "unnamed.csv"), reports).covariates).all()
    with pytest.warns(UserWarning, match="'altitude' is not known at any of the places; give it with the places"):
        check_places(places._replace(covariates=np.full((2, 1), np.nan)), columns, Scaling.of(reports))


def test_covariates_that_change_in_time_are_named(recwarn):
    reports = FieldWorld(num_stations=8, num_movers=2, num_steps=150).reports()
    columns = replace(reports.columns, covariates=("height",))
    for changing, number in ((reports.step, 1), (reports.sensor, 0)):
        made = replace(reports, columns=columns, covariates=changing.astype(np.float32)[:, None])
        check_learnable(made, made)
        assert (
            len([str(one.message) for one in recwarn if "changes in time at 8 of 8 sensors" in str(one.message)])
            == number
        )
        recwarn.clear()


def refused(capsys, *arguments):
    """The one line with which a command ends, with exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2rm: ")]
    assert len(said) == 1
    return said[0]


def test_bad_input_is_one_line_and_loses_nothing(fitted, tmp_path, capsys):
    run, table = fitted
    before = sorted(path.name for path in run.iterdir())
    fit = ["fit", table, *COLUMNS, "--sensor", "sensor"]
    assert "exists already; choose another --out" in refused(capsys, *fit, "--out", run)
    assert "--test must be in (0, 0.5], got 0.9" in refused(capsys, *fit, "--test", "0.9", "--out", tmp_path / "new")
    wrong = [part if part != "tracer" else "trcer" for part in fit]
    assert "did you mean 'tracer'?" in refused(capsys, *wrong, "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    forecast = ["forecast", run, table, "--out", tmp_path / "f.csv"]
    assert "found none at" in refused(capsys, "forecast", tmp_path, table)
    assert "horizon: expected a duration of at least a step, 1h, got '6x'" in refused(
        capsys, *forecast, "--horizon", "6x"
    )
    assert "expected an initialisation time within the reports" in refused(capsys, *forecast, "--origin", "1999-01-01")
    assert "expected an initialisation time or a step, got 'then'" in refused(capsys, *forecast, "--origin", "then")
    assert "--at must be stations, grid or a table of places" in refused(capsys, *forecast, "--at", "nowhere.csv")
    assert "--out must end in" in refused(capsys, "forecast", run, table, "--out", tmp_path / "f.txt")
    (tmp_path / "places.csv").write_text("x,y\n1,2\n3,north\n")
    said = refused(capsys, *forecast, "--at", tmp_path / "places.csv")
    assert "expected numbers in 'y' of places.csv, got 'north' in row 2" in said
    (tmp_path / "places.csv").write_text("x,y\n1,2\n3,\n")
    assert "got none in 1, first in row 2" in refused(capsys, *forecast, "--at", tmp_path / "places.csv")
    (tmp_path / "places.csv").write_text("x,z\n1,2\n")
    assert "found no column 'y' in places.csv; it has 'x', 'z'" in refused(
        capsys, *forecast, "--at", tmp_path / "places.csv"
    )
    assert not (tmp_path / "f.csv").exists()
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_table_without_any_value_has_no_stations(fitted, tmp_path, capsys):
    run, table = fitted
    frame = pandas.read_csv(table)
    values = set(frame) - {"time", "sensor", "x", "y"}
    frame[:5].assign(**dict.fromkeys(values, np.nan)).to_csv(tmp_path / "silent.csv", index=False)
    said = refused(capsys, "forecast", run, tmp_path / "silent.csv", "--out", tmp_path / "f.csv")
    assert "silent.csv holds no value, so there are no stations; name places by --at" in said


def test_names_of_the_users_on_the_terminal(capsys):
    from s2rm.cli.sensors import _print_errors
    from s2rm.cli.terminal import say

    reports = FieldWorld(num_stations=4, num_movers=0, num_steps=9).reports()
    reports = replace(reports, columns=replace(reports.columns, values=("rain [/h]", "[red]\x1b[2J"), circular=()))
    rows = [
        {"value": name, "predictor": "kriging", "sensors": "seen", "silent": 0, "lead": 1, "mae": 1.0}
        for name in reports.columns.values
    ]
    _print_errors(rows, reports)
    say(":smile: wind [m/s]\nrun [/x]")
    said = capsys.readouterr().err
    assert "rain [/h]" in said
    assert "[red]" in said
    assert "\x1b[2J" not in said
    assert ":smile: wind [m/s] run [/x]" in said


def test_no_cell_of_a_csv_is_a_formula():
    from s2rm.cli.sensors import as_csv

    names = ["=1+1", "+cmd|'x'", "@sum", "-a", "-5", "-71.5 42.1", "a=b"]
    table = pandas.DataFrame({"=station": names, "lon": -1.5})
    lines = as_csv(table).decode().splitlines()
    assert lines[0] == "'=station,lon"
    assert [line.rsplit(",", 1)[0] for line in lines[1:]] == [
        "'=1+1", "'+cmd|'x'", "'@sum", "'-a", "-5", "-71.5 42.1", "a=b"
    ]  # fmt: skip
    assert all(line.endswith(",-1.5") for line in lines[1:])


def test_a_fit_without_a_report_is_not_finished_with_another_table(fitted, tmp_path, capsys):
    run, table = fitted
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "report.html").unlink(missing_ok=True)
    settings = json.loads((copy / "fit.json").read_text())
    other = {**settings, "reports": "of another table"}
    fit = ["fit", str(table), *COLUMNS, "--sensor", "sensor", *QUICK, "--out", str(copy)]
    (copy / "fit.json").write_text(json.dumps(other))
    with pytest.raises(SystemExit):
        main(fit)
    assert "of another state of" in " ".join(capsys.readouterr().err.split())
    assert not (copy / "report.html").exists()
    (copy / "fit.json").write_text(json.dumps(settings))
    main(fit)
    assert (copy / "report.html").is_file()


@pytest.mark.parametrize("count", [1, 3])
def test_positions_of_one_or_three_coordinates_have_a_report_without_maps(count, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    at = {f"x{number}": generator.uniform(0, 9, 8) for number in range(count)}
    rows = [
        {"time": f"2023-03-{1 + step // 24:02}T{step % 24:02}:00", "station": f"s{one}", "temp": one + step / 24,
         **{name: places[one] for name, places in at.items()}}
        for step in range(96) for one in range(8)
    ]  # fmt: skip
    pandas.DataFrame(rows).to_csv("t.csv", index=False)
    few = ["--updates", "2", "--hidden-size", "4", "--num-modules", "2", "--context", "12", "--horizon", "6"]
    main(["fit", "t.csv", "--time", "time", "--position", *at, "--values", "temp", "--sensor", "station", *few,
          "--out", "run"])  # fmt: skip
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Errors by lead time" in page
    assert "Enclaves" not in page
    assert f"There are no maps: they need two coordinates, and there are {count}." in page
    main(["next-sensor", "run", "t.csv", "--out", "next.csv"])
    assert len(pandas.read_csv("next.csv")) in (900, 1000)
    assert not (tmp_path / "next.png").exists()
    capsys.readouterr()
    for command in (
        ["forecast", "run", "t.csv", "--out", "t.csv"],
        ["evaluate", "run", "--table", "t.csv", "--out", "t.csv"],
    ):
        with pytest.raises(SystemExit):
            main(command)
        assert "is a file that is read; name another one" in capsys.readouterr().err
    assert len(pandas.read_csv("t.csv")) == 768
