"""The life of a forecaster after its fit: scored and reported again, on other tables too, fine-tuned, resumed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from s2rm.cli import quiet
from s2rm.cli.commands import Evaluate, FitTable, NextSensor, Report
from s2rm.cli.parts import NUM_ORIGINS, PARTS, digest_of, judged_leads
from s2rm.cli.sensors import (
    REPORT,
    SCORES,
    SETTINGS,
    Scored,
    as_csv,
    judged,
    kept_rows,
    parts_of,
    places_of,
    refuse_to_overwrite,
    say_scores,
    write_page,
)
from s2rm.cli.terminal import say
from s2rm.extras import require
from s2rm.files import Row, read_json, write_json, write_whole
from s2rm.models.named import LABELS
from s2rm.records import from_plain
from s2rm.sensors.checks import check_clock, check_origin
from s2rm.sensors.fitting import SUMMARY, WHOLE
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import Split
from s2rm.sensors.marginals import with_kinds
from s2rm.sensors.reading.sources import ENDINGS
from s2rm.sensors.reading.store import described, is_store
from s2rm.sensors.reading.tables import read_reports
from s2rm.sensors.reports import Reports
from s2rm.sensors.settings import NOTATION, Columns
from s2rm.sensors.siting import next_sensor
from s2rm.sensors.telling import told_before
from s2rm.sensors.times import in_steps, spread_out
from s2rm.training.records import Summary

OWN = ("--model", "--num-modules", "--hidden-size", "--latent-size", "--share-parameters", "--no-share-parameters")
"""the options of a model that is there already"""


class Opened(NamedTuple):
    """A forecaster with the reports on which it is judged."""

    forecaster: Forecaster
    label: str
    summary: Row
    train: Reports
    """those to which it, and the baselines, are fitted"""
    reports: Reports
    withheld: Bool[NDArray, " S"]
    origins: Int[NDArray, " O"]
    leads: list[int]
    name: str
    """what is put behind scores and report: the name of another table"""
    later: bool
    """whether it is judged on steps that are later than those of the fit"""
    new: int
    """how many of the stations that it is shown were in no fit"""
    unseen: bool
    """whether no earlier forecaster, from which it was fine-tuned, was fitted to the withheld stations"""


def evaluate(command: Evaluate) -> None:
    """Score a forecaster on its own table or another one."""
    quiet()
    if command.drop_views or command.remove_modules:
        raise ValueError("evaluate: --drop-views and --remove-modules are for runs, got a forecaster; leave them out")
    if command.out is not None:
        own = settings_of(command.runs[0])
        refuse_to_overwrite("evaluate", command.out, command.table, command.ahead_table, own.table, own.ahead_table)
    opened = _open(command, command.every)
    if not opened.later:
        whose = (
            "the period of the fit, some of other stations" if opened.new else "the stations and the period of the fit"
        )
        warnings.warn(
            f"evaluate: {command.table or 'the table'} holds observations of {whose}, so that the scores are "
            "optimistic; give newer data for others",
            stacklevel=2,
        )
    if not opened.unseen:
        warnings.warn(
            "evaluate: the forecaster that this one was fine-tuned from was fitted to withheld stations, so that the "
            "scores there are optimistic; give a table with other stations",
            stacklevel=2,
        )
    rows = judged(
        opened.label, opened.forecaster, opened.train, opened.reports, opened.withheld, opened.origins, opened.leads
    )
    if not rows:
        raise ValueError("evaluate: expected observations at the lead times to judge, got none; give a longer table")
    path = command.out or command.runs[0] / SCORES.replace(".", f"{opened.name}.")
    about = {"reports": digest_of(opened.reports), "origins": opened.origins.tolist()}
    write_json(path, {**about, "runs": [{"label": opened.label, **opened.summary}], "rows": rows})
    say_scores(rows, opened.label, opened.reports, path)


def report(command: Report) -> None:
    """Write the page of a forecaster from its scores."""
    opened, folder = _open(command), command.runs[0]
    own, path = settings_of(folder), command.out or folder / REPORT.replace(".", f"{opened.name}.")
    scores = command.scores or folder / SCORES.replace(".", f"{opened.name}.")
    given = f" --table {command.table}" if command.table else ""
    given += f" --ahead-table {command.ahead_table}" if command.ahead_table else ""
    if not scores.is_file():
        raise ValueError(f"report: found no scores at {scores}; make them with s2rm evaluate {folder}{given}")
    refuse_to_overwrite("report", path, command.table, command.ahead_table, scores, own.table, own.ahead_table)
    rows, about = kept_rows(scores, Scored), read_json(scores)
    if about.get("reports", digest := digest_of(opened.reports)) != digest:
        raise ValueError(
            f"report: expected the table that {scores} was made from, got {command.table or 'another state of it'}; "
            "make the scores anew with s2rm evaluate"
        )
    mine = {"label": opened.label, **opened.summary}
    judged_run = (about.get("runs") or [mine])[0]
    if any(judged_run.get(key, mine.get(key)) != mine.get(key) for key in ("label", "seed", "updates", "val_loss")):
        raise ValueError(
            f"report: expected scores of the forecaster in {folder}, got those of another in {scores}; make them with "
            f"s2rm evaluate {folder}{given}"
        )
    origins = np.array([check_origin(origin, opened.reports) for origin in about.get("origins", opened.origins)])
    judged_on = (opened.summary, opened.reports, opened.withheld, origins, rows)
    with told_before(opened.forecaster, opened.reports, origins):
        write_page(path, opened.forecaster, opened.label, *judged_on, opened.later, opened.unseen, opened.new)


def place(command: NextSensor) -> None:
    """Rank places for the next sensor, in a table and on a map."""
    require("tables")
    require("report")
    if command.out.suffix not in (".csv", ".parquet"):
        raise ValueError(f"next-sensor: --out must end in .csv or .parquet, got {command.out}")
    from s2rm.report.figures import png
    from s2rm.sensors.judging.maps import map_of_siting
    from s2rm.sensors.judging.plots import sheet

    for written in (command.out, command.out.with_suffix(".png")):
        refuse_to_overwrite("next-sensor", written, command.table, command.at, command.interest)
    forecaster = Forecaster.load(command.run_folder)
    # A map of now needs nothing that is known ahead; rows with only that are of the future.
    reports = read_reports(command.table, replace(forecaster.columns, ahead=(), flow=()), to_fit=False)
    if forecaster.columns.ahead:
        reports = reports.between(0, 1 + int(reports.step.max(initial=-1)))
    candidates, interest = (
        None if at == "grid" else places_of(at, reports, f"next-sensor: {option}")
        for option, at in (("--at", command.at), ("--interest", command.interest))
    )
    found = next_sensor(forecaster, reports, candidates, interest, command.num)
    table, picture = found.table(reports), command.out.with_suffix(".png")
    write_whole(command.out, table.to_parquet(None) if command.out.suffix == ".parquet" else as_csv(table))
    lines = [f"{command.out}: {len(table):,} places ranked"]
    if len(reports.columns.position) == 2:
        write_whole(picture, png(sheet([map_of_siting(found, reports)])))
        lines[0] += f"; map: {picture}"
    for number, at in enumerate(found.chosen, 1):
        named = zip(reports.columns.position, found.candidates.positions[at], strict=True)
        where = ", ".join(f"{name} {np.format_float_positional(round(x, 6), trim='-')}" for name, x in named)
        if found.candidates.names is not None:
            where = f"{found.candidates.names[at]}, {where}"
        lines.append(f"choice {number}: {where}; alone it reduces the variance by {found.mean[at]:.1%}")
    for line in lines:
        say(line)


def settings_of(folder: Path) -> FitTable:
    """The command that fitted, or is fitting, the forecaster in a folder.

    Raises:
        ValueError: s2rm fit did not write it.
    """
    try:
        kept = read_json(folder / SETTINGS)
        return from_plain(
            FitTable, {name: part for name, part in kept.items() if name != "reports"} | {"out": str(folder)}
        )
    except (ValueError, OSError, AttributeError) as error:
        raise ValueError(
            f"fit: expected the settings of a fit at {folder / SETTINGS}, got none that can be read ({error}); name a "
            "folder that s2rm fit wrote"
        ) from error


def going_on(folder: Path) -> FitTable:
    """The fit in a folder that was killed; one that has ended is refused."""
    command = settings_of(folder)
    if (folder / REPORT).exists() and not (command.refit and WHOLE not in read_json(folder / SUMMARY)):
        raise ValueError(f"fit: the fit in {folder} has ended; forecast with it, or fine-tune it with --from {folder}")
    return command


def with_columns(given: Sequence[str]) -> list[str]:
    """The arguments of a fit from a forecaster, with those that it takes from there where they are not given."""
    if own := [name for name in OWN if any(other.split("=")[0].replace("_", "-") == name for other in given)]:
        raise ValueError(f"fit: --from takes the model as it is, got {', '.join(own)}; leave it out, or fit again")
    place = given.index("--from") + 1
    folder = Path(given[place] if place < len(given) else "")
    forecaster, kept = Forecaster.load(folder), settings_of(folder)
    about = {"model": kept.how.model, "context": forecaster.context, "horizon": forecaster.horizon}
    columns = forecaster.columns
    for store in filter(is_store, given[1:]):  # how that is written was settled when it was packed
        columns = replace(columns, **{name: getattr(described(Path(store)).columns, name) for name in NOTATION})
    return _with(given, columns, **about)


def of_store(given: Sequence[str]) -> list[str]:
    """The arguments of a fit to a store, with the columns that it names where they are not given."""
    return _with(given, described(Path(given[1])).columns)


def _with(given: Sequence[str], columns: Columns, **more: object) -> list[str]:
    taken = {field.name: getattr(columns, field.name) for field in fields(Columns)} | more
    made = list(given)
    for name, part in taken.items():
        option = f"--{name.replace('_', '-')}"
        if part not in (None, ()) and not any(other.partition("=")[0].replace("_", "-") == option for other in given):
            made += [option, *(map(str, part) if isinstance(part, tuple) else [str(part)])]
    return made


def _open(command: Evaluate | Report, every: str | None = None) -> Opened:
    require("tables")
    what = "evaluate" if isinstance(command, Evaluate) else "report"
    folder, table = command.runs[0], command.table
    forecaster, settings, kept = Forecaster.load(folder), settings_of(folder), parts_of(folder)
    (about,) = kept_rows(folder / SUMMARY, Summary)
    if kept is None:
        raise ValueError(f"{what}: expected what s2rm fit wrote, found no {PARTS} in {folder}; fit again")
    if table is None and WHOLE in about:
        raise ValueError(
            f"{what}: {folder} was fitted again to all of its table; judge it on another one, with --table"
        )
    if command.ahead_table and not (table and forecaster.columns.ahead):
        lacks = "a forecaster without quantities known ahead" if table else "no --table"
        raise ValueError(f"{what}: --ahead-table holds what is known ahead of --table, got {lacks}; leave it out")
    # What its table alone suggests of values since the fit is no matter.
    own = with_kinds(read_reports(settings.table, forecaster.columns, ahead=settings.ahead_table), forecaster.columns)
    whole = Split(own, own.num_steps, kept.hidden(own))
    parts = whole if WHOLE in about else kept.divided(own, settings.table)
    reports, first = own, parts.first - 1
    if table is not None:
        reports = _other(what, table, forecaster.columns, command.ahead_table)
        check_clock(reports, what)
        first = min(forecaster.context - 1, reports.num_steps - 3)  # such that a step ahead is judged, too
    if reports.num_steps < 3:
        raise ValueError(f"{what}: expected at least 3 steps in {table}, got {reports.num_steps}; give a longer table")
    leads = judged_leads(forecaster.horizon, reports.num_steps - 1 - first)
    last = reports.num_steps - 1 - leads[-1]
    origins = spread_out(first, last, NUM_ORIGINS)
    if every is not None:
        origins = np.arange(first, last + 1, in_steps(every, forecaster.columns.step, "every"))
    summary = {**about, "learning_rate": settings.how.training.learning_rate}
    label, name = LABELS[settings.how.model], f"-{_stem(table)}" if table else ""
    withheld = kept.hidden(reports)
    names = {reports.sensors[index] for index in reports.reporting}
    known, new = names & {*kept.seen}, len(names - {*kept.seen, *kept.withheld})
    if not known and not withheld.any():
        warnings.warn(
            f"{what}: no station of {table}, such as {reports.sensors[0]!r}, has the name of one of the fit, such as "
            f"{kept.seen[0]!r}, so that none is withheld; where they are the same stations, name them alike",
            stacklevel=3,
        )
    later, unseen = first + 1 >= kept.first_step(reports), kept.unseen(reports)
    return Opened(forecaster, label, summary, parts.train, reports, withheld, origins, leads, name, later, new, unseen)


def _other(what: str, table: Path, columns: Columns, ahead: Path | None) -> Reports:
    """Another table than that of the fit, with what is known ahead of it: the fit's is of its own places and times."""
    try:
        return read_reports(table, columns, False, ahead)
    except ValueError as error:
        absent = [f"found no column {name!r}" for name in columns.ahead] + ["holds nothing that is known ahead"]
        if ahead is not None or not any(said in str(error) for said in absent):
            raise
        raise ValueError(
            f"{what}: expected {', '.join(columns.ahead)}, known ahead, in {table}, got none; name their table with "
            "--ahead-table, or add them"
        ) from error


def _stem(table: Path) -> str:
    """The name of a table without its endings."""
    ending = next((ending for ending in ENDINGS if table.name.lower().endswith(ending)), "")
    return table.name[: len(table.name) - len(ending)]
