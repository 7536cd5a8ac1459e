"""One self-contained HTML page for a fitted forecaster: the verdict, pictures, and all scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from s2rm.files import Row
from s2rm.models.s2rm import S2RM
from s2rm.report.figures import predictors
from s2rm.report.modules import interaction_graph
from s2rm.report.page import Entry, Line, Picture, Table, drawn, write_page
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import maps, plots
from s2rm.sensors.judging.judge import BASELINES
from s2rm.sensors.judging.verdicts import GROUPS, Metric, compare, digits, leads_of, of_group, percent, verdict
from s2rm.sensors.reports import Reports
from s2rm.sensors.times import lead_time

METRICS: dict[Metric, tuple[str, str]] = {
    "mae": ("MAE", "The mean absolute error"),
    "crps": ("CRPS", "The continuous ranked probability score, which rewards the right spread too,"),
}
"""title and explanation of each metric; lower is better"""


def write_sensor_report(
    path: Path, forecaster: Forecaster, label: str, about: Row, reports: Reports, held_out: Bool[NDArray, " S"],
    origins: Int[NDArray, " O"], rows: Sequence[Row], later: bool = True, unseen: bool = True,
    new: int = 0,
) -> None:  # fmt: skip
    """Write the page of a forecaster, whole or not at all, from all reports and the rows of `judge`.

    In the rows the forecaster has the name `label`; `about` says how its training ended. Maps and series show its
    forecast initialised at the middle one of the `origins` that were judged. `later` says whether all of them are later
    than the data of the fit, `unseen` whether no forecaster that the fit started from was fitted to the withheld
    stations, and `new` how many of the others were in no fit.
    """
    model, length, rate = forecaster.model, reports.step_length, about["learning_rate"]
    context, horizon = lead_time(forecaster.context, length), lead_time(forecaster.horizon, length)
    modules = f"; {model.num_modules} modules of {model.hidden_size}" if isinstance(model, S2RM) else ""
    setting = f"{label}: {context} of context, trained for lead times up to {horizon}{modules}."
    first, last = (_minute(reports, at) for at in (origins.min(), origins.max()))
    when = "all later than the data of the fit" if later else "some of them from the period of the fit"
    lead = (
        f"Forecasts from {len(origins)} initialisation times, {first} to {last} UTC, {when}, compared with what was "
        "then observed: at stations that the forecast was shown, and at stations that neither it nor the fit was. "
        "The lead time +0 is an analysis of the latter."
    )
    if new:
        lead += (
            f" {new} of the stations that the forecast was shown were in no fit; what is said here of stations in the "
            "fit is of all that it was shown."
        )
    if not unseen:
        lead += (
            " The forecaster from which this one was fine-tuned was fitted to some of the latter, so that scores there "
            "are optimistic."
        )
    if (longest := max(leads_of(rows))) < forecaster.horizon:
        lead += (
            f" Lead times beyond {lead_time(longest, length)}, up to the {horizon} of the fit, are not judged: the "
            "table is too short."
        )
    if len(reports.columns.position) != 2:
        lead += f" There are no maps: they need two coordinates, and there are {len(reports.columns.position)}."
    world = (
        f"{len(reports):,} observations of {len(reports.reporting):,} stations, {int(held_out.sum())} of them "
        f"withheld, at {reports.num_steps:,} steps of {lead_time(1, length)} from "
        f"{_minute(reports, 0)} UTC."
    )
    title, entries = f"Forecasts of {', '.join(reports.columns.values)}", [Entry(label, model, about, rate, setting)]
    pictures = list(_pictures(forecaster, label, reports, held_out, int(np.sort(origins)[len(origins) // 2]), rows))
    write_page(
        path, title, lead, entries, world, list(_tables(rows, label, reports)), pictures, verdict(rows, label, length)
    )


def _minute(reports: Reports, step: int | np.integer) -> str:
    """When a step begins, as text."""
    return str(reports.times[step].astype("datetime64[m]")).replace("T", " ")


def _tables(rows: Sequence[Row], model: str, reports: Reports) -> Iterator[Table]:
    """For each value and group of stations its errors, CRPS and coverage: predictors against lead times."""
    for value in reports.columns.values:
        for group, heading in GROUPS.items():
            found = of_group(rows, value, group)
            leads = leads_of(found)
            heads = [f"+{lead_time(lead, reports.step_length)}" for lead in leads]
            for metric, (title, explained) in METRICS.items() if found else ():
                gains = [compare(rows, model, value, group, [lead], metric) for lead in leads]
                winner = {g.leads[0]: (model if g.sign > 0 else g.best[0]) for g in gains if g.sign}
                lines = _lines(found, leads, lambda row, m=metric: digits(row[m]), winner)  # type: ignore[misc]
                gained = [(f"{percent(gain.gain, '+')} %", bool(gain.sign)) for gain in gains]
                ends = [(gain.ends(), False) for gain in gains]
                lines += [Line("gain over the best of them", False, gained), Line("its 95 % interval", False, ends)]
                said = (
                    f"{explained} in the unit of the value; lower is better. The better one of {model} and the best "
                    "simple predictor is in bold if the interval of the gain excludes 0."
                )
                yield Table(f"{title} of {value}, {heading}", title, heads, lines, said)
            if found:
                shares = _lines(found, leads, lambda row: f"{row['coverage80']:.2f} / {row['coverage']:.2f}", {})
                cases = {row["lead"]: f"{row['count']:,.0f}" for row in found}
                shares.append(Line("cases", False, [(cases[lead], False) for lead in leads]))
                said = "The shares of observations within the central 80 % and 90 % intervals; 0.80 / 0.90 is ideal."
                yield Table(f"Coverage of {value}, {heading}", "80 % / 90 %", heads, shares, said)


def _lines(rows: Sequence[Row], leads: Sequence[int], text: Callable[[Row], str], bold: dict[int, str]) -> list[Line]:
    """A line for each predictor, with a text for each lead, in bold where it is the one that is named."""
    lines = []
    for name in predictors(rows):
        mine = {row["lead"]: row for row in rows if row["predictor"] == name}
        cells = [(text(mine[lead]) if lead in mine else "", bold.get(lead) == name) for lead in leads]
        lines.append(Line(name, name in BASELINES, cells))
    return lines


def _pictures(
    forecaster: Forecaster, label: str, reports: Reports, held_out: Bool[NDArray, " S"], origin: int,
    rows: Sequence[Row],
) -> Iterator[Picture]:  # fmt: skip
    """The pictures of the page; those of one title stand side by side, under the sentence of the first."""
    values, length = reports.columns.values, reports.step_length

    def panels(title: str, sentence: str, made: Sequence[plots.Panel]) -> Iterator[Picture]:
        for panel in made:
            yield drawn(title, plots.sheet([panel]), sentence)

    said = (
        "Above 0 the forecast has a smaller error than the best simple predictor of that lead time. Lines are 95 % "
        "intervals from a bootstrap over blocks of initialisation times; a symbol is filled if its interval excludes 0."
    )
    judged = [value for value in values if any(row["value"] == value for row in rows)]
    made = [plots.gains_by_lead(rows, label, value, length) for value in judged]
    yield from panels("Where it beats the best simple predictor", said, made)
    said = "The forecast is better than all simple predictors where its solid line is below all broken ones."
    found = [(value, group) for value in values for group in GROUPS if of_group(rows, value, group)]
    yield from panels("Errors by lead time", said, [plots.errors_by_lead(rows, *each, length) for each in found])
    said = "Each station's gain over the best simple predictor, over all lead times: blue is better, red is worse."
    kept = [value for value in values if any(maps.station_gains(rows, label, value, group) for group in GROUPS)]
    flat = len(reports.columns.position) == 2  # maps are drawn of two coordinates
    gains = [maps.map_of_gains(rows, label, value, reports) for value in kept if flat]
    yield from panels("Gain at each station", said, gains)
    shown, lead = reports.of(~held_out), min(6, forecaster.horizon)
    until, start = shown.between(0, origin + 1), _minute(reports, origin)
    span = range(origin + 1, origin + 1 + forecaster.horizon)
    for value, name in enumerate(values):
        chosen = [each for group in (~held_out, held_out) for each in plots.with_truth(reports, group, span, value)]
        said = (
            f"The forecast initialised at {start} UTC, with its 90 % interval, at the sensors' positions of that time: "
            "those with the most observations to compare, in the fit and withheld. Filled circles were shown to the "
            "model, hollow ones were hidden from it."
        )
        series = plots.forecasts_in_time(forecaster, shown, reports, origin, value, chosen)
        yield from panels(f"{name}: forecasts and observations", said, series)
    if not flat:
        return
    for value, name in enumerate(values):
        said = f"Initialised at {start} UTC. Circles are the observations of that time, in the same colours."
        yield from panels(f"{name}: a forecast", said, maps.maps_of_forecast(forecaster, until, value, lead))
    yield from panels("Stations", "The last position of each station.", [maps.map_of_stations(reports, held_out)])
    if isinstance(forecaster.model, S2RM):
        said = "The region in which each module reads and answers; white is out of reach of all modules."
        yield from panels("Enclaves", said, maps.maps_of_enclaves(forecaster, reports))
        kernel, side = forecaster.model.interaction_graph().detach(), 30
        weights = maps.enclaves(forecaster, reports, side).reshape(len(kernel), side, side)
        # A row of the grid is one first coordinate; on a map the second one points up.
        north_up = torch.from_numpy(np.ascontiguousarray(weights.transpose(0, 2, 1)[:, ::-1]))
        said = "Each module as its enclave; a line joins two modules that interact."
        yield drawn("Interactions of modules", interaction_graph(kernel, north_up), said)
