"""The life of a forecaster after its fit: judged on other tables, fine-tuned, fitted to all data, resumed."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2rm.cli import main
from s2rm.cli import sensors as cli_sensors
from s2rm.cli.commands import Evaluate, FitTable
from s2rm.cli.forecasters import _open as opened_of
from s2rm.cli.parts import Parts, divided, judged_leads
from s2rm.cli.sensors import _is_fitted, _settings
from s2rm.models.world_model import WorldModel
from s2rm.sensors import Fit, Forecaster
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.judging.judge import BASELINES
from s2rm.sensors.judging.report import write_sensor_report
from s2rm.sensors.reading.tables import read_reports, to_frame
from s2rm.training import Training
from s2rm.training.records import updates_when_best

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
COLUMNS = ["--time", "time", "--position", "x", "y", "--values", "tracer", "direction", "--circular", "direction",
           "--sensor", "sensor", "--missing", "-999"]  # fmt: skip
QUICK = ["--hidden-size", "4", "--num-modules", "2", "--context", "12", "--horizon", "6", "--epochs", "2"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One baseline beside the model, and pages without pictures: both have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in BASELINES if name != "persistence"]:
            patch.delitem(BASELINES, name)
        patch.setattr("s2rm.cli.sensors.write_sensor_report", lambda path, *_: path.write_text("page"))
        yield


@pytest.fixture(scope="module")
def life(tmp_path_factory):
    """A folder with two tables, the second later, of more stations and with semicolons, and a fit to the first."""
    folder = tmp_path_factory.mktemp("life")
    to_frame(FieldWorld(num_stations=8, num_movers=2, num_steps=150).reports()).to_csv(folder / "a.csv", index=False)
    other = to_frame(FieldWorld(num_stations=9, num_movers=2, num_steps=120, seed=3).reports())
    other["time"] += pandas.Timedelta("200h")
    other.to_csv(folder / "b.csv", index=False, sep=";", decimal=",")
    main(["fit", str(folder / "a.csv"), *COLUMNS, *QUICK, "--out", str(folder / "run")])
    return folder


def refused(capsys, *arguments) -> str:
    """The one line with which a command ends, with exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2rm: ")]
    assert len(said) == 1
    return said[0]


def rows_of(path) -> list[dict]:
    return json.loads(path.read_text())["rows"]


def test_a_forecaster_is_scored_again_on_its_own_table(life, tmp_path):
    run = life / "run"
    main(["evaluate", str(run), "--out", str(tmp_path / "again.json")])
    assert rows_of(tmp_path / "again.json") == rows_of(run / "scores.json")
    main(["evaluate", str(run), "--every", "8h", "--out", str(tmp_path / "rolling.json")])
    every, most = (
        max(row["count"] for row in rows_of(path)) for path in (tmp_path / "rolling.json", run / "scores.json")
    )
    assert 0 < every < most, "2 origins, where 17 fit"


def test_a_fit_keeps_its_tables_by_paths_that_hold_anywhere(life, tmp_path, monkeypatch):
    monkeypatch.chdir(life)
    command = FitTable(Path("a.csv"), Forecaster.load("run").columns, out=tmp_path, start=Path("run"))
    kept = _settings(command, None)
    assert (kept["table"], kept["start"], kept["ahead_table"]) == (str(life / "a.csv"), str(life / "run"), None)
    (tmp_path / "fit.json").write_text(json.dumps(kept))
    monkeypatch.chdir(tmp_path)
    assert not _is_fitted(replace(command, table=life / "a.csv", start=life / "run")), "the same settings"


def test_a_forecaster_is_scored_and_reported_on_another_table(life, capsys):
    run = life / "run"
    capsys.readouterr()
    main(["evaluate", str(run), "--table", str(life / "b.csv")])
    assert "report only outside of the data of the fit" in " ".join(capsys.readouterr().err.split())
    rows = rows_of(run / "scores-b.json")
    assert {row["predictor"] for row in rows} == {"S2GRU", "persistence"}
    kept = json.loads((run / "fit.json").read_text())
    assert kept["columns"]["missing"] == [-999]
    assert max(row["count"] for row in rows) > 2 * max(row["count"] for row in rows_of(run / "scores.json"))
    main(["report", str(run), "--table", str(life / "b.csv")])
    assert (run / "report-b.html").is_file()


def test_stations_of_other_names_than_those_of_the_fit_are_named(life, tmp_path, capsys):
    other = pandas.read_csv(life / "a.csv")
    other.assign(sensor=other.sensor.str.upper()).to_csv(tmp_path / "upper.csv", index=False)
    asked = Evaluate((life / "run",), table=tmp_path / "upper.csv")
    with pytest.warns(
        UserWarning, match="no station of .*upper.csv, such as 'MOVER 0', has the name of one of the fit"
    ):
        assert not opened_of(asked).withheld.any()
    other[:3].to_csv(tmp_path / "step.csv", index=False)
    said = refused(capsys, "evaluate", life / "run", "--table", tmp_path / "step.csv")
    assert said.startswith("s2rm: evaluate: expected at least 3 steps in")
    late = other[-1:].assign(time=str(pandas.Timestamp(other.time.iloc[-1]) + pandas.Timedelta(days=4000)))
    pandas.concat([other, late]).to_csv(tmp_path / "late.csv", index=False)
    said = refused(capsys, "evaluate", life / "run", "--table", tmp_path / "late.csv")
    assert said.startswith("s2rm: evaluate: expected observations of one period, got 1 of")
    assert said.endswith("correct the times, leave these rows out, or take another table")


def test_a_fit_from_a_forecaster_starts_from_its_weights(life, tmp_path):
    before = Forecaster.load(life / "run")
    options = ["--learning-rate", "1e-9", "--epochs", "1", "--out", str(tmp_path / "tuned")]
    main(["fit", "--from", str(life / "run"), str(life / "b.csv"), *options])
    after = Forecaster.load(tmp_path / "tuned")
    assert (after.scaling, after.context, after.horizon) == (before.scaling, before.context, before.horizon)
    assert after.columns == before.columns
    for one, other in zip(before.model.parameters(), after.model.parameters(), strict=True):
        # Frequencies well above 1 are not held to 1e-6 by single precision: a few units in the last place.
        torch.testing.assert_close(one, other, atol=1e-6, rtol=3e-7)
    assert before.fingerprint != after.fingerprint
    parts, own = Parts.read(tmp_path / "tuned"), Parts.read(life / "run")
    assert {*parts.withheld} <= {*own.withheld, "station 8"}, "what the first fit has seen is not withheld"
    assert {*own.seen} < {*parts.seen}


def test_a_table_shorter_than_the_context_is_judged_a_step_ahead(life, tmp_path, capsys):
    short = pandas.read_csv(life / "b.csv", sep=";", decimal=",")
    hours = pandas.to_datetime(short.time)
    short[hours < hours.min() + pandas.Timedelta("5h")].to_csv(tmp_path / "short.csv", index=False)
    main(["evaluate", str(life / "run"), "--table", str(tmp_path / "short.csv"), "--out", str(tmp_path / "short.json")])
    assert {row["lead"] for row in rows_of(tmp_path / "short.json")} >= {1}
    assert "in 0 of 0" not in capsys.readouterr().err


def test_the_report_of_a_fine_tuned_forecaster_says_what_the_first_one_was_fitted_to(life, tmp_path, monkeypatch):
    monkeypatch.setattr("s2rm.cli.sensors.write_sensor_report", write_sensor_report)
    monkeypatch.setattr("s2rm.sensors.judging.report._pictures", lambda *_: [])
    known, frame = Parts.read(life / "run").seen, pandas.read_csv(life / "a.csv")
    frame[frame.sensor.isin(known)].to_csv(tmp_path / "known.csv", index=False)
    options = [str(tmp_path / "known.csv"), "--epochs", "1", "--out", str(tmp_path / "tuned")]
    with pytest.warns(UserWarning, match="was fitted to all of these stations"):
        main(["fit", "--from", str(life / "run"), *options])
    said = "was fitted to some of the latter, so that scores there are optimistic"
    assert said in (tmp_path / "tuned" / "report.html").read_text()
    main(["report", str(life / "run"), "--out", str(tmp_path / "own.html")])
    assert said not in (tmp_path / "own.html").read_text()
    with (
        pytest.warns(UserWarning, match="this one was fine-tuned from was fitted to withheld stations"),
        pytest.warns(UserWarning, match="so that the scores are optimistic; give newer data for others"),
    ):
        main(["evaluate", str(tmp_path / "tuned"), "--table", str(tmp_path / "known.csv")])


def test_after_a_refit_to_older_data_the_newer_ones_of_the_start_count(tmp_path):
    Parts(("a",), ("b",), "2024-01-09T12", "2023-12-28T08").write(tmp_path)
    assert Parts.read(tmp_path, whole=True).first == "2024-01-09T12"
    Parts(("a",), ("b",), "2024-01-09T12", "2024-02-28T08").write(tmp_path)
    assert Parts.read(tmp_path, whole=True).first == "2024-02-28T08"


def test_a_table_in_other_units_is_warned_of_once_and_before_the_fit(life, tmp_path):
    frame = pandas.read_csv(life / "b.csv", sep=";", decimal=",").assign(tracer=lambda made: made.tracer + 1000)
    frame.to_csv(tmp_path / "kelvin.csv", index=False)
    options = ["--epochs", "1", "--out", str(tmp_path / "tuned")]
    with pytest.warns(UserWarning, match="far from what the fit saw") as found:
        main(["fit", "--from", str(life / "run"), str(tmp_path / "kelvin.csv"), *options])
    told = [str(warning.message) for warning in found]
    assert told[0].startswith("fit: 'tracer' is 10")
    assert len(told) == 2, "the score says all of its own at once"
    assert [warnings.formatwarning(each, UserWarning, "", 1) for each in ("a\nb", "a\nb", "c")] == [
        "s2rm: a b\n", "", "s2rm: c\n",
    ]  # fmt: skip


def test_what_is_wrong_with_a_table_is_said_before_it_is_scored_and_once(life, tmp_path, monkeypatch):
    frame = pandas.read_csv(life / "b.csv", sep=";", decimal=",").assign(tracer=lambda made: made.tracer + 1000)
    times = pandas.to_datetime(frame.time)
    silence = (times > times.min() + pandas.Timedelta("40h")) & (times < times.min() + pandas.Timedelta("70h"))
    frame[~silence].to_csv(tmp_path / "kelvin.csv", index=False)
    before: list[list[str]] = []

    def noting(work):
        def noted(*given, **named):
            before.append([str(each.message) for each in told])
            return work(*given, **named)

        return noted

    for name in ("judge", "write_sensor_report"):
        monkeypatch.setattr(f"s2rm.cli.sensors.{name}", noting(getattr(cli_sensors, name)))
    table = ["--table", str(tmp_path / "kelvin.csv")]
    scored = ["--out", str(tmp_path / "scores.json")]
    commands = (["evaluate", *table, *scored], ["report", *table, "--scores", scored[1], "--out", str(tmp_path / "r")])
    for name, *options in commands:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            main([name, str(life / "run"), *options])
        said = [str(each.message) for each in told if str(each.message).startswith("forecast: ")]
        assert len(said) == 2
        assert said[0].startswith("forecast: 'tracer' is 10")
        assert said[1].startswith("forecast: no observation in the 12 steps until")
        assert "more that differ in numbers or times only)" in said[1]
        assert {*said} <= {*before[-1]}


def test_what_a_fit_from_a_forecaster_refuses(life, tmp_path, capsys):
    frame, run = pandas.read_csv(life / "a.csv").rename(columns={"tracer": "dust"}), life / "run"
    frame.to_csv(tmp_path / "dust.csv", index=False)
    fit = ["fit", tmp_path / "dust.csv", "--out", tmp_path / "new", "--from"]
    assert "found no column 'tracer' in dust.csv" in refused(capsys, *fit, run)
    said = refused(capsys, *fit, run, "--values", "dust", "direction")
    assert "the model was fitted to values ('tracer', 'direction'), got ('dust', 'direction')" in said
    for start in (["--from", run], [f"--from={run}"]):
        said = refused(capsys, *fit[:-1], *start, "--hidden-size=8")
        assert "--from takes the model as it is, got --hidden-size; leave it out" in said
    assert "found none at" in refused(capsys, *fit, tmp_path)
    fit[1] = life / "b.csv"
    said = refused(capsys, *fit, run, "--heavy-tailed", "tracer")
    assert "the model was fitted to heavy_tailed (), got ('tracer',); name the same" in said
    with pytest.raises(ValueError, match="fitted to globe False, got True; name the same columns"):
        Forecaster.load(run).check(degrees(life / "b.csv", Forecaster.load(run)))
    assert not (tmp_path / "new").exists()


def degrees(table, forecaster):
    """A table whose positions are said to be degrees."""
    reports = read_reports(table, forecaster.columns)
    return replace(reports, columns=replace(reports.columns, globe=True))


def test_a_fit_that_was_killed_goes_on_bit_for_bit_by_its_folder(life, tmp_path, monkeypatch, capsys):
    class Killed(BaseException):
        pass

    save, count = WorldModel.save, iter(range(9))

    def killed(self, folder):
        if next(count) == 1:
            raise Killed
        save(self, folder)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(WorldModel, "save", killed)
        with pytest.raises(Killed):
            main(["fit", str(life / "a.csv"), *COLUMNS, *QUICK, "--out", str(out)])
    assert (out / "fitting" / "checkpoints" / "last.ckpt").is_file()
    assert "--resume RUN takes the settings" in refused(capsys, "fit", "--resume", out, "--epochs", "3")
    main(["fit", "--resume", str(out)])
    assert Forecaster.load(out).fingerprint == Forecaster.load(life / "run").fingerprint
    assert rows_of(out / "scores.json") == rows_of(life / "run" / "scores.json")
    assert "has ended; forecast with it, or fine-tune it" in refused(capsys, "fit", "--resume", out)
    assert "expected the settings of a fit at" in refused(capsys, "fit", "--resume", tmp_path)


def test_a_fit_to_all_data_before_use(life, tmp_path, capsys, monkeypatch):
    out, half = tmp_path / "run", tmp_path / "half"
    fit = ["fit", str(life / "a.csv"), *COLUMNS, *QUICK, "--refit"]

    def broken(*_):
        raise ValueError("no refit")

    with monkeypatch.context() as patch:
        patch.setattr("s2rm.cli.sensors._refit", broken)
        assert "no refit" in refused(capsys, *fit, "--out", half)
    assert Forecaster.load(half).fingerprint == Forecaster.load(life / "run").fingerprint
    shutil.copytree(life / "run", out)  # whose fit had ended without a second one
    for folder in (out, half):
        main([*fit, "--out", str(folder)] if folder == out else ["fit", "--resume", str(folder)])
    assert "fitting again to all data, " in capsys.readouterr().err
    made, scored = Forecaster.load(out), Forecaster.load(life / "run")
    assert made.fingerprint == Forecaster.load(half).fingerprint != scored.fingerprint
    assert made.scaling.mean != scored.scaling.mean, "of all steps and stations"
    assert rows_of(out / "scores.json") == rows_of(life / "run" / "scores.json")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["whole"] is True
    assert summary["updates"] <= json.loads((life / "run" / "summary.json").read_text())["updates"]
    assert "was fitted again to all of its table" in refused(capsys, "evaluate", out)
    opened = opened_of(Evaluate((out,), table=life / "b.csv"))
    assert not opened.withheld.any(), "it has seen all stations"
    assert opened.train.num_steps == 150
    assert opened.later
    assert "exists already" in refused(capsys, *fit, "--out", out)


def test_scores_are_of_what_the_fit_was_not_given_when_its_table_has_grown(life, tmp_path, capsys):
    run, grown = tmp_path / "run", tmp_path / "grown.csv"
    shutil.copytree(life / "run", run)
    settings, before = json.loads((run / "fit.json").read_text()), pandas.read_csv(life / "a.csv")
    (run / "fit.json").write_text(json.dumps({**settings, "table": str(grown)}))
    before["time"] = pandas.to_datetime(before["time"])
    later = before.assign(time=before["time"] + pandas.Timedelta("150h"))
    new = later.assign(sensor="aaa " + later["sensor"], x=later["x"] + 0.5)
    pandas.concat([before, later, new]).to_csv(grown, index=False)
    first, then = (opened_of(Evaluate((folder,))) for folder in (life / "run", run))
    for one, other in ((first.reports, then.reports), (first.train, then.train)):
        assert other.start == one.start
    assert then.train.num_steps == first.train.num_steps
    assert min(then.origins[0], first.origins[0]) >= then.train.num_steps - 1, "the steps of the fit are not judged"
    names = [[name for name, chosen in zip(each.reports.sensors, each.withheld, strict=True) if chosen]
             for each in (first, then)]  # fmt: skip
    assert names[0] == names[1] == [*Parts.read(run).withheld]
    assert first.later
    assert then.later
    assert "another state of it; make the scores anew" in refused(capsys, "report", run)
    new.to_csv(grown, index=False)
    assert "expected the table of the fit, with steps before and after" in refused(capsys, "evaluate", run)


def test_what_the_fit_has_seen_is_no_later_test(life, tmp_path):
    shutil.copy(life / "a.csv", tmp_path / "a.2024.csv")
    with pytest.warns(UserWarning, match="holds observations of the stations and the period of the fit"):
        main(["evaluate", str(life / "run"), "--table", str(tmp_path / "a.2024.csv"), "--every", "30h"])
    assert (life / "run" / "scores-a.2024.json").is_file()
    reports = read_reports(life / "a.csv", Forecaster.load(life / "run").columns)
    with pytest.warns(UserWarning, match="was fitted to data until 2000-01-06T08:00"):
        made = divided(reports.between(0, 120), 0.15, 0.1, 0, Parts.read(life / "run"))
    assert made.withheld.sum() == 1
    later = replace(reports, start=reports.start + np.timedelta64(9, "D"))
    with pytest.warns(UserWarning, match="was fitted to all of these stations"):
        divided(later, 0.15, 0.1, 0, Parts.read(life / "run", whole=True))


def test_other_stations_of_the_time_of_the_fit_are_no_later_test_either(life, tmp_path):
    table = pandas.read_csv(life / "a.csv")
    table.assign(sensor="new " + table["sensor"]).to_csv(tmp_path / "b.csv", index=False)
    shutil.copytree(life / "run", tmp_path / "run")
    asked = [str(tmp_path / "run"), "--table", str(tmp_path / "b.csv")]
    with pytest.warns(UserWarning, match="has the name of one of the fit"):
        opened = opened_of(Evaluate((tmp_path / "run",), table=tmp_path / "b.csv"))
    assert not opened.later
    assert opened.new == table["sensor"].nunique()
    named = pytest.warns(UserWarning, match="has the name of one of the fit")
    with named, pytest.warns(UserWarning, match="holds observations of the period of the fit, some of other stations"):
        main(["evaluate", *asked])


def test_a_fit_to_all_data_keeps_context_and_horizon(tmp_path):
    reports = FieldWorld(num_stations=5, num_movers=0, num_steps=118).reports()
    how = Fit(num_modules=2, hidden_size=4, training=Training(updates=4, warmup=2, batch_size=64))
    first = Forecaster.fit(reports.between(0, 100), tmp_path, how, progress=False)
    best = updates_when_best(tmp_path)
    again = Forecaster.fit(reports, tmp_path, how, progress=False, whole=True)
    assert (again.context, again.horizon) == (first.context, first.horizon)
    assert json.loads((tmp_path / "summary.json").read_text())["updates"] == best, "as many updates as were best"


def test_a_report_is_of_the_initialisation_times_that_were_scored(life, tmp_path, monkeypatch, capsys):
    scores, told = tmp_path / "rolling.json", []
    main(["evaluate", str(life / "run"), "--every", "8h", "--out", str(scores)])
    monkeypatch.setattr("s2rm.cli.sensors.write_sensor_report", lambda *given: told.append(given))
    main(["report", str(life / "run"), "--scores", str(scores)])
    (_, _, _, _, _, _, origins, rows, later, unseen, new) = told[0]
    assert (np.diff(origins) == 8).all()
    assert later
    assert unseen
    assert new == 0
    assert rows == rows_of(scores)
    assert "expected the table that" in refused(
        capsys, "report", life / "run", "--scores", scores, "--table", life / "b.csv"
    )


def test_a_report_refuses_scores_of_another_forecaster_and_to_write_over_its_table(life, tmp_path, capsys):
    run, found = life / "run", json.loads((life / "run" / "scores.json").read_text())
    for changed in ({"label": "LSTM"}, {"val_loss": found["runs"][0]["val_loss"] / 2}):
        other = tmp_path / "other.json"
        other.write_text(json.dumps({**found, "runs": [{**found["runs"][0], **changed}]}))
        assert "expected scores of the forecaster in" in refused(capsys, "report", run, "--scores", other)
    for read in ("a.csv", "run/scores.json"):
        before = (life / read).read_bytes()
        assert "is a file that is read; name another one" in refused(capsys, "report", run, "--out", life / read)
        assert (life / read).read_bytes() == before


def test_kinds_that_a_grown_table_suggests_do_not_change_what_is_judged(life, monkeypatch):
    def grown(*arguments, **options):
        reports = read_reports(*arguments, **options)
        return replace(reports, columns=replace(reports.columns, nonnegative=("tracer",)), found=("tracer",))

    expected = opened_of(Evaluate((life / "run",))).train.columns
    monkeypatch.setattr("s2rm.cli.forecasters.read_reports", grown)
    opened = opened_of(Evaluate((life / "run",)))
    assert opened.train.columns == opened.reports.columns == expected == opened.forecaster.columns


def test_the_lead_times_that_are_judged_end_with_the_horizon_where_the_table_is_long_enough():
    assert judged_leads(24, 100) == [0, 1, 3, 6, 12, 24]
    assert judged_leads(24, 13) == [0, 1, 3, 6, 12]
    assert judged_leads(14, 100) == [0, 1, 3, 6, 14]
    assert judged_leads(288, 302) == [0, 1, 3, 6, 12, 24, 48, 96]
    assert judged_leads(288, 600) == [0, 1, 3, 6, 12, 24, 48, 96, 192, 288]
    assert judged_leads(6, 1) == [0]


def test_what_is_no_forecaster(life, tmp_path, capsys):
    assert "expected one forecaster alone" in refused(capsys, "evaluate", life / "run", life / "run")
    assert "found no file" in refused(capsys, "evaluate", life / "run", "--table", tmp_path / "none.csv")
    assert "found no scores at" in refused(capsys, "report", life / "run", "--scores", tmp_path / "none.json")
    for read in (life / "a.csv", life / "b.csv"):
        said = refused(capsys, "evaluate", life / "run", "--table", life / "b.csv", "--out", read)
        assert "is a file that is read; name another one" in said
    assert "every: expected a duration" in refused(capsys, "evaluate", life / "run", "--every", "often")
