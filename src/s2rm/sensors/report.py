"""One self-contained HTML page for a fitted forecaster: scores, maps and series."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import neg
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from s2rm.files import Row
from s2rm.models.s2rm import S2RM
from s2rm.report.modules import interaction_graph
from s2rm.report.page import Entry, Picture, Table, comparison, drawn, write_page
from s2rm.sensors import plots
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import lead_time
from s2rm.sensors.reports import Reports

METRICS: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "mae": ("MAE", "The mean absolute error, in the unit of the value; lower is better.", neg),
    "crps": ("CRPS", "The continuous ranked probability score, which rewards the right spread too, in the unit of the "
             "value; lower is better.", neg),
    "coverage": ("Coverage", "The share of observations within the central 90 % interval; 0.90 is right.",
                 lambda score: -abs(score - 0.9)),
}  # fmt: skip
"""title and explanation of each metric, and its worth, of which the highest is the best"""


def write_sensor_report(
    path: Path, forecaster: Forecaster, label: str, summary: Row, reports: Reports, held_out: Bool[NDArray, " S"],
    origin: int, rows: Sequence[Row],
) -> None:  # fmt: skip
    """Write the page, whole or not at all.

    Args:
        path: of the HTML file.
        forecaster, summary: what `Forecaster.fit` left.
        label: the forecaster's name in `rows`.
        reports: all observations.
        held_out: the stations withheld from the fit.
        origin: step of initialisation of the forecasts on maps and in series.
        rows: the scores, as from `judge`.
    """
    columns, model, length = reports.columns, forecaster.model, reports.step_length
    setting = (
        f"{label}: {lead_time(forecaster.context, length)} of context, trained for lead times up to "
        f"{lead_time(forecaster.horizon, length)}"
        + (f"; {model.num_modules} modules of {model.hidden_size}." if isinstance(model, S2RM) else ".")
    )
    write_page(
        path,
        title=f"Forecasts of {', '.join(columns.values)}",
        lead=(
            "Forecasts from the observations of stations, scored at later times than those of the fit and at stations "
            "withheld from it, beside baselines that need next to no training."
        ),
        entries=[Entry(label, model, summary, summary["learning_rate"], setting)],
        world=(
            f"{len(reports):,} observations of {len(np.unique(reports.sensor)):,} stations, {int(held_out.sum())} of "
            f"them withheld, at {reports.num_steps:,} steps of {lead_time(1, length)} from "
            f"{reports.times[0].astype('datetime64[m]')} UTC. The lead time +0 is an analysis at stations whose "
            "observations are not shown."
        ),
        tables=_tables(rows, reports),
        pictures=list(_pictures(forecaster, reports, held_out, origin, rows)),
    )


def _tables(rows: Sequence[Row], reports: Reports) -> list[Table]:
    """A table for each value, metric and group of stations: predictors against lead times."""
    tables = []
    for value in reports.columns.values:
        for metric, (title, sentence, worth) in METRICS.items():
            for group, stations in plots.GROUPS.items():
                found = [row for row in rows if (row["value"], row["sensors"], row["silent"]) == (value, group, 0)]
                leads, name = sorted({row["lead"] for row in found}), f"{title} of {value}, {stations}"
                heads = {lead: f"+{lead_time(lead, reports.step_length)}" for lead in leads}
                if found:
                    tables.append(comparison(found, metric, "lead", heads, name, title, sentence, ".3g", worth))
    return tables


def _pictures(
    forecaster: Forecaster, reports: Reports, held_out: Bool[NDArray, " S"], origin: int, rows: Sequence[Row]
) -> Iterator[Picture]:
    worth = "A model is worth its training only where its line is below all dashed ones."
    yield drawn("Errors by lead time", plots.errors_by_lead(rows), f"The MAE against the lead time. {worth}")
    yield drawn("Stations", plots.map_of_stations(reports, held_out), "The last position of each station.")
    shown, lead = reports.of(~held_out), min(6, forecaster.horizon)
    until = shown.between(0, origin + 1)
    # The two stations of each group with the most observations.
    order = np.argsort(np.bincount(reports.sensor, minlength=len(reports.sensors)))[::-1]
    chosen = [reports.sensors[index] for group in (~held_out, held_out) for index in order[group[order]][:2]]
    for value, name in enumerate(reports.columns.values):
        sentence = "The mean, with the last observations as circles, and the standard deviation."
        yield drawn(f"A forecast of {name}", plots.map_of_forecast(forecaster, until, value, lead), sentence)
        series = plots.forecasts_in_time(forecaster, shown, reports, origin, value, chosen)
        sentence = "Forecasts of one initialisation at the stations with most observations, in the fit and withheld."
        yield drawn(f"Series of {name}", series, sentence)
    if isinstance(forecaster.model, S2RM):
        sentence = "The module of largest weight at each place; white is out of reach of all modules."
        yield drawn("Enclaves", plots.map_of_enclaves(forecaster, reports), sentence)
        kernel, side = forecaster.model.interaction_graph().detach(), 30
        weights = plots.enclaves(forecaster, reports, side).reshape(len(kernel), side, side)
        # A row of the grid is one first coordinate; on a map the second one points up.
        north_up = torch.from_numpy(np.ascontiguousarray(weights.transpose(0, 2, 1)[:, ::-1]))
        sentence = "Each module as its enclave; a line joins two modules that interact."
        yield drawn("Interactions of modules", interaction_graph(kernel, north_up), sentence)
