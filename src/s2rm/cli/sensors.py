"""The work of `s2rm fit` and `s2rm forecast`."""

from __future__ import annotations

import gzip
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, get_type_hints

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.progress import track
from rich.table import Column, Table

from s2rm.cli import quiet
from s2rm.cli.commands import FitTable, Forecast, Pack
from s2rm.cli.parts import NUM_ORIGINS, PARTS, Parts, digest_of, divided, from_anywhere, judged_leads
from s2rm.cli.terminal import console, say
from s2rm.extras import require
from s2rm.files import Row, read_json, write_json, write_whole
from s2rm.folders import locked
from s2rm.models.named import LABELS
from s2rm.names import for_csv, one_line
from s2rm.records import from_plain
from s2rm.report.figures import predictors as predictors_of
from s2rm.sensors.ahead import elsewhere
from s2rm.sensors.fitting import FORECASTER, SUMMARY, WHOLE, finish
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import BASELINES, Split, judge
from s2rm.sensors.judging.predictors import SensorPredictor
from s2rm.sensors.judging.report import write_sensor_report
from s2rm.sensors.judging.verdicts import GROUPS, digits, leads_of, of_group, verdict
from s2rm.sensors.mapped import number_known
from s2rm.sensors.marginals import with_kinds
from s2rm.sensors.outputs import last_observations, write_netcdf
from s2rm.sensors.reading.packing import pack
from s2rm.sensors.reading.store import check_notation, is_store
from s2rm.sensors.reading.tables import read_places, read_reports
from s2rm.sensors.reports import Places, Reports, grid, stations
from s2rm.sensors.telling import told_before
from s2rm.sensors.times import lead_time, origin_steps, spread_out
from s2rm.training import Machines, Provenance
from s2rm.training.records import Summary, updates_when_best
from s2rm.training.settings import is_first_process

if TYPE_CHECKING:
    from pandas import DataFrame

SETTINGS, SCORES, REPORT = "fit.json", "scores.json", "report.html"


def fit_table(command: FitTable) -> None:
    """Fit a forecaster, score it and write its report; of what is there already, only what is missing."""
    quiet()
    require("tables")
    require("report")
    for name in ("test", "held_out"):
        if not 0 < getattr(command, name) <= 0.5:
            raise ValueError(f"fit: --{name.replace('_', '-')} must be in (0, 0.5], got {getattr(command, name)}")
    if command.refit and command.machines.devices * command.machines.num_nodes > 1:
        raise ValueError("fit: --refit trains in one process, got several; leave it out, or --devices and --num-nodes")
    if is_store(command.table):
        check_notation(command.table, command.columns)
    if command.machines != Machines():
        command.machines.trainer(logger=False)  # refuses machines that are not there before anything is written
    first = is_first_process()
    if first:
        _is_fitted(command)
    reports = read_reports(command.table, command.columns, ahead=command.ahead_table)
    if command.start is not None:
        start = Forecaster.load(command.start)
        start.check(reports)
        reports = with_kinds(reports, start.columns)  # refuses others before anything is written
    shares = zip(reports.columns.values, number_known(reports.values) / len(reports), strict=True)
    say(
        f"{len(reports):,} observations of {len(reports.sensors):,} stations at {reports.num_steps:,} steps of "
        f"{reports.columns.step} from {reports.times[0].astype('datetime64[m]')} UTC; not "
        f"missing: {', '.join(f'{name} {share:.0%}' for name, share in shares)}"
    )
    if not first:  # it trains beside the first one, and ends there
        if not _has_forecaster(command.out):
            _fitted(command, reports, *_parts(command, reports))
        return
    # Again with the folder to itself: what another fit left in the meantime counts.
    with locked(command.out, "fit"):
        finish(command.out)
        _fit_and_score(command, reports)


def _fit_and_score(command: FitTable, reports: Reports) -> None:
    fitted, folder = _is_fitted(command, reports), command.out
    if (folder / REPORT).exists():
        write_json(folder / SETTINGS, _settings(command, reports))
        return _refit(command, reports)
    if fitted:
        say(f"{folder}: fitted already; going on with the scores and the report")
    parts, before = _parts(command, reports)
    forecaster = Forecaster.load(folder) if fitted else _fitted(command, reports, parts, before)
    (about,) = kept_rows(folder / SUMMARY, Summary)
    summary = {**about, "learning_rate": command.how.training.learning_rate}
    leads = judged_leads(forecaster.horizon, reports.num_steps - parts.first)
    origins = spread_out(parts.first - 1, reports.num_steps - 1 - leads[-1], NUM_ORIGINS)
    label = LABELS[command.how.model]
    if (folder / SCORES).is_file():
        rows = kept_rows(folder / SCORES, Scored)
    else:
        rows = judged(label, forecaster, parts.train, reports, parts.withheld, origins, leads)
        about = {name: summary[name] for name in (*Provenance.__annotations__, "seed")}
        about |= {"reports": digest_of(reports), "origins": origins.tolist()}
        write_json(folder / SCORES, {**about, "runs": [{"label": label, **summary}], "rows": rows})
    say_scores(rows, label, reports, folder / SCORES)
    later, kept = before is None or parts.first >= before.first_step(reports), Parts.of(reports, parts, before)
    write_page(
        folder / REPORT, forecaster, label, summary, reports, parts.withheld, origins, rows, later, kept.unseen(reports)
    )
    if command.refit:
        _refit(command, reports)
    ahead = ["--ahead-table", str(command.ahead_table)] * (command.ahead_table is not None)
    say(f"forecast with: {shlex.join(['s2rm', 'forecast', str(folder), str(command.table), *ahead])}")


def _refit(command: FitTable, reports: Reports) -> None:
    """Fit again, to all reports, for as many updates as the fit that was scored had when it was best."""
    updates = updates_when_best(command.out)
    say(f"fitting again to all data, {updates:,} updates; scores and report remain those of the first fit")
    start = Forecaster.load(command.start) if command.start else None
    Forecaster.fit(reports, command.out, command.how, start=start, whole=True)


def parts_of(folder: Path) -> Parts | None:
    """What the forecaster in a folder was fitted to, and what was kept from it."""
    return Parts.read(folder, whole=WHOLE in kept_rows(folder / SUMMARY, Summary)[0])


def judged(
    label: str, forecaster: Forecaster, train: Reports, reports: Reports, withheld: Bool[NDArray, " S"],
    origins: Int[NDArray, " O"], leads: list[int],
) -> list[Row]:  # fmt: skip
    """The scores of a forecaster, and of baselines that are fitted to `train`. Says how many stations are not in it,
    though they are not withheld."""
    fitted_to = {train.sensors[index] for index in train.reporting}
    names = [reports.sensors[index] for index in reports.reporting if not withheld[index]]
    new = [name for name in names if name not in fitted_to]
    if 0 < len(new) < len(names):
        say(
            f"{len(new)} of the {len(names)} stations that are not withheld, such as {new[0]}, report only outside of "
            "the data of the fit; their scores count as those of stations in the fit"
        )
    scoring = partial(track, description="Scoring", console=console)
    baselines = {name: kind().fit(train) for name, kind in BASELINES.items()}
    predictors: dict[str, SensorPredictor] = {label: forecaster, **baselines}
    with told_before(forecaster, reports, origins):
        return judge(predictors, reports, origins, leads, withheld, silent=(0.0,), progress=scoring)


def write_page(
    path: Path, forecaster: Forecaster, label: str, summary: Row, reports: Reports, withheld: Bool[NDArray, " S"],
    origins: Int[NDArray, " O"], rows: Sequence[Row], later: bool = True, unseen: bool = True, new: int = 0,
) -> None:  # fmt: skip
    """Write the report of a forecaster, and say where; the last three are as of `write_sensor_report`."""
    write_sensor_report(path, forecaster, label, summary, reports, withheld, origins, rows, later, unseen, new)
    say(f"report: {path.resolve()}")


class Scored(TypedDict):
    """What the report needs of a row of scores."""

    predictor: str
    value: str
    sensors: str
    lead: int
    silent: float
    mae: float
    rmse: float
    crps: float
    coverage80: float
    coverage: float
    count: float
    by_block: list[list[float]]
    by_sensor: list[list[float]]


def kept_rows(path: Path, kind: type) -> list[Row]:
    """The rows of a file that a fit wrote, or the one that it holds, each with all that its kind has."""
    content = read_json(path)
    try:
        rows = [content] if kind is Summary else content["rows"]
        for row in rows:
            from_plain(kind, {name: row[name] for name in get_type_hints(kind)})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"fit: {path} is not what a fit wrote ({error!r}); delete it, or fit again") from error
    return rows


def refuse_to_overwrite(command: str, out: Path, *read: object) -> None:
    """Raise a ValueError where a file that is read would be written over."""
    if out.resolve() in {Path(str(one)).resolve() for one in read if one is not None}:
        raise ValueError(f"{command}: --out {out} is a file that is read; name another one")


def forecast(command: Forecast) -> None:
    """Forecast from a table and write the forecast to a file."""
    require("tables")
    if not command.out.name.endswith((".csv", ".csv.gz", ".parquet", ".nc")):
        raise ValueError(f"forecast: --out must end in .csv, .csv.gz, .parquet or .nc, got {command.out}")
    refuse_to_overwrite("forecast", command.out, command.table, command.ahead_table, command.at)
    forecaster = Forecaster.load(command.run_folder)
    reports = read_reports(command.table, forecaster.columns, False, command.ahead_table)
    if command.origin is not None:
        reports = reports.between(0, int(origin_steps(command.origin, reports)[0]) + 1)
    if not len(reports) and command.at in ("stations", "grid"):
        raise ValueError(f"forecast: {command.table} holds no value, so there are no {command.at}; name places by --at")
    places = places_of(command.at, reports)
    asked: dict[str, Any] = {
        "horizon": command.horizon, "quantiles": command.quantiles, "scenarios": command.scenarios,
    }  # fmt: skip
    if command.out.suffix == ".nc":
        write_netcdf(forecaster.dataset(reports, places, **asked), command.out)
    else:
        table = forecaster.table(reports, places, **asked)
        content = table.to_parquet(None) if command.out.suffix == ".parquet" else as_csv(table)
        write_whole(command.out, gzip.compress(content) if command.out.suffix == ".gz" else content)
    start = reports.times[-1].astype("datetime64[m]")
    say(f"{command.out}: {len(places.positions):,} places from {start} UTC on")
    _say_silent(reports, places, forecaster)


def pack_tables(command: Pack) -> None:
    """Pack tables into a store, and say what is in it."""
    if not command.tables:
        raise ValueError("pack: expected at least one table, got none; name it")
    reports = pack(command.tables, command.columns, command.out)
    say(
        f"{command.out}: {len(reports):,} observations of {len(reports.sensors):,} stations at {reports.num_steps:,} "
        f"steps of {reports.columns.step} from {reports.times[0].astype('datetime64[m]')} UTC"
    )


def _say_silent(reports: Reports, places: Places, forecaster: Forecaster) -> None:
    """Name the stations of a forecast that have not reported recently, the longest silent first."""
    if places.names is None:
        return
    away = [elsewhere(reports, places, forecaster.scaling)]
    last = last_observations(reports, places.names, np.array([reports.num_steps - 1]), away)
    silent = np.flatnonzero(last.silent[0])
    if len(silent):
        order = silent[np.argsort(last.time[0, silent], kind="stable")]
        named = [f"{places.names[row]} since {last.time[0, row].astype('datetime64[m]')}" for row in order[:5]]
        more = f" and {len(order) - 5} more" * (len(order) > 5)
        remembered = reports.times[max(0, reports.num_steps - forecaster.guess.memory)]
        gone, told = int((last.time[0, silent] < remembered).sum()), "which are forecast from their last reports"
        if gone:
            few = f"of which {gone}, whose last reports are from before {remembered.astype('datetime64[m]')}, are"
            others = ", and the others from their last reports" * (gone < len(order))
            told = f"{few} forecast without these{others}"
        say(f"silent: {len(order)} of {len(places.positions)} stations ({', '.join(named)}{more}), {told}")


def as_csv(table: DataFrame) -> bytes:
    """A table as CSV, no cell of which a spreadsheet takes for a formula."""
    texts = table.select_dtypes(exclude=["number", "datetime", "datetimetz"])
    plain = table.assign(**{name: texts[name].astype(str).map(for_csv) for name in texts})
    return plain.rename(columns=for_csv).to_csv(index=False).encode()


def _is_fitted(command: FitTable, reports: Reports | None = None) -> bool:
    """Whether the folder holds a whole fit of the same settings and, where they are given, of the same reports; refuses
    content other than a fit without a report."""
    folder = command.out
    if not folder.exists() or (folder.is_dir() and all(path.suffix == ".part" for path in folder.iterdir())):
        return False
    unfinished = command.refit and (folder / SUMMARY).is_file() and WHOLE not in read_json(folder / SUMMARY)
    if not (folder / SETTINGS).is_file() or ((folder / REPORT).exists() and not unfinished):
        raise ValueError(f"fit: {folder} exists already; choose another --out")
    kept, now = read_json(folder / SETTINGS), _settings(command, reports)
    kept = kept if isinstance(kept, dict) else {}
    if unfinished:  # a fit may be followed by that to all data later
        kept["refit"] = True
    before, digest = kept.pop("reports", None), now.pop("reports")
    if kept != now:
        raise ValueError(
            f"fit: {folder} holds a fit of other settings; choose another --out, or give those in {folder / SETTINGS}"
        )
    if digest and before != digest:
        raise ValueError(f"fit: {folder} holds a fit of another state of {command.table}; choose another --out")
    return _has_forecaster(folder)


def _has_forecaster(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (FORECASTER, SUMMARY))


def _settings(command: FitTable, reports: Reports | None) -> Row:
    """The command as JSON, without the folder, with paths that hold from any folder, and a digest of the reports."""
    settings = {name: value for name, value in asdict(command).items() if name not in ("out", "resume", "machines")}
    digest = None if reports is None else digest_of(reports)
    return from_anywhere(json.loads(json.dumps({**settings, "reports": digest}, default=str)))


def _parts(command: FitTable, reports: Reports) -> tuple[Split, Parts | None]:
    """How the table is divided, and what the forecaster that it starts from was given."""
    before = None if command.start is None else parts_of(command.start)
    return divided(reports, command.test, command.held_out, command.how.training.seed, before), before


def _fitted(command: FitTable, reports: Reports, parts: Split, before: Parts | None) -> Forecaster:
    first = is_first_process()
    if first:
        write_json(command.out / SETTINGS, _settings(command, reports))
        Parts.of(reports, parts, before).write(command.out)
    try:
        start = Forecaster.load(command.start) if command.start else None
        return Forecaster.fit(parts.train, command.out, command.how, start=start, machines=command.machines)
    except ValueError:
        # Nothing can be fitted with these settings: the folder is free for others.
        for name in (SETTINGS, PARTS) if first else ():
            (command.out / name).unlink()
        raise


def say_scores(rows: Sequence[Row], label: str, reports: Reports, path: Path) -> None:
    """Show the verdict and the errors on the terminal, and where all scores are."""
    for name, said in verdict(rows, label, reports.step_length):
        say(f"{name}: {said}" if name else said)
    _print_errors(rows, reports)
    say(f"scores: {path.resolve()}")


def _print_errors(rows: Sequence[Row], reports: Reports) -> None:
    for group, heading in GROUPS.items():
        leads = leads_of(row for row in rows if row["sensors"] == group)
        heads = [f"+{lead_time(lead, reports.step_length)}" for lead in leads]
        for value in reports.columns.values:
            if not (found := of_group(rows, value, group)):
                continue
            title = f"MAE of {one_line(value)} by lead time, {heading}"
            table = Table(Column("", no_wrap=True), *heads, title=title, box=SIMPLE_HEAD)
            for name in predictors_of(found):
                errors = {row["lead"]: digits(row["mae"]) for row in found if row["predictor"] == name}
                table.add_row(name, *(errors.get(lead, "") for lead in leads))
            console.print(table)


def places_of(at: str, reports: Reports, option: str = "forecast: --at") -> Places:
    """The places that an option names: the stations, a grid over them, or those in a file."""
    if at in ("stations", "grid"):
        return stations(reports) if at == "stations" else grid(reports)
    path = Path(at)
    if not path.exists():
        raise ValueError(f"{option} must be stations, grid or a table of places, found none at {path}")
    places = read_places(path, reports.columns)
    if places.names is None:
        return places
    # What the table of places leaves out of a station is that of the reports.
    known = stations(reports)
    of_name = dict(zip(known.names or (), known.covariates, strict=True))
    unknown = np.full(places.covariates.shape[1], np.nan, np.float32)
    before = np.array([of_name.get(name, unknown) for name in places.names]).reshape(places.covariates.shape)
    return places._replace(covariates=np.where(np.isnan(places.covariates), before, places.covariates))
