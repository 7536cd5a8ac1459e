"""One self-contained HTML page for a fitted forecaster: scores, maps and series."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray

from s2rm.models.s2rm import S2RM
from s2rm.report import figures
from s2rm.report.page import write_page
from s2rm.sensors import plots
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import Row, lead_time
from s2rm.sensors.reports import Reports

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = tuple[str, str, bytes, str]
"""title, kind, content and caption"""
METRICS: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "mae": ("MAE", "The mean absolute error, in the unit of the value; lower is better.", float),
    "crps": (
        "CRPS",
        "The continuous ranked probability score, which rewards the right spread too, in the unit of the value; lower "
        "is better.",
        float,
    ),
    "coverage": (
        "Coverage",
        "The share of observations within the central 90 % interval; 0.90 is right.",
        lambda score: abs(score - 0.9),
    ),
}
"""title and explanation of each metric, and a measure of it by which the lowest is the best"""


def write_sensor_report(
    path: Path,
    forecaster: Forecaster,
    label: str,
    summary: Mapping[str, object],
    reports: Reports,
    held_out: Bool[NDArray, " S"],
    origin: int,
    rows: Sequence[Row],
) -> None:
    """Write the page.

    Args:
        path: of the HTML file, written whole or not at all.
        forecaster: the fitted forecaster.
        label: its name in `rows`.
        summary: of the fit.
        reports: all observations.
        held_out: the stations withheld from the fit.
        origin: step of initialisation of the forecasts on maps and in series.
        rows: the scores, as from `judge`.

    Raises:
        ImportError: the extra `s2rm[report]` is not installed.
    """
    columns, model = reports.columns, forecaster.model
    length = reports.step_length
    write_page(
        path,
        title=f"Forecasts of {', '.join(columns.values)}",
        lead=(
            "Forecasts from the observations of stations, scored at later times than those of the fit and at stations "
            "withheld from it, beside baselines that need next to no training."
        ),
        runs=[{"label": label, "summary": summary, "learning_rate": summary["learning_rate"]}],
        world=(
            f"{len(reports):,} observations of {len(np.unique(reports.sensor)):,} stations, {int(held_out.sum())} of "
            f"them withheld, at {reports.num_steps:,} steps of {lead_time(1, length)} from "
            f"{reports.times[0].astype('datetime64[m]')} UTC. The lead time +0 is an analysis at stations whose "
            "observations are not shown."
        ),
        setting=(
            f"{label}: {lead_time(forecaster.context, length)} of context, trained for lead times up to "
            f"{lead_time(forecaster.horizon, length)}"
            + (f"; {model.num_modules} modules of {model.hidden_size}." if isinstance(model, S2RM) else ".")
        ),
        summary=summary,
        tables=list(_tables(rows, reports)),
        pictures=list(_pictures(forecaster, reports, held_out, origin, rows)),
    )


def _tables(rows: Sequence[Row], reports: Reports) -> Iterator[Row]:
    """A table for each value, metric and group of stations: predictors against lead times."""
    for value in reports.columns.values:
        for metric, (title, sentence, badness) in METRICS.items():
            for group, stations in plots.GROUPS.items():
                found: dict[tuple[str, int], float] = {
                    (row["predictor"], row["lead"]): row[metric]
                    for row in rows
                    if (row["value"], row["sensors"], row["silent"]) == (value, group, 0)
                }
                if not found:
                    continue
                names, leads = dict.fromkeys(name for name, _ in found), sorted({lead for _, lead in found})
                best = {
                    lead: min((found[name, lead] for name in names if (name, lead) in found), key=badness)
                    for lead in leads
                }
                yield {
                    "title": f"{title} of {value}, {stations}",
                    "metric": title,
                    "heads": [f"+{lead_time(lead, reports.step_length)}" for lead in leads],
                    "sentence": sentence,
                    "rows": [
                        {
                            "name": name,
                            "trivial": name in figures.TRIVIAL,
                            "cells": [
                                {"text": f"{found[name, lead]:.3g}", "best": found[name, lead] == best[lead]}
                                for lead in leads
                                if (name, lead) in found
                            ],
                        }
                        for name in names
                    ],
                }


def _pictures(
    forecaster: Forecaster, reports: Reports, held_out: Bool[NDArray, " S"], origin: int, rows: Sequence[Row]
) -> Iterator[Picture]:
    yield _picture(
        "Errors by lead time",
        plots.errors_by_lead(rows),
        "The MAE against the lead time. A model is worth its training only where its line is below all dashed ones.",
    )
    yield _picture("Stations", plots.map_of_stations(reports, held_out), "The last position of each station.")
    shown, lead = reports.of(~held_out), min(6, forecaster.horizon)
    until, chosen = shown.between(0, origin + 1), _busiest(reports, held_out)
    for value, name in enumerate(reports.columns.values):
        yield _picture(
            f"A forecast of {name}",
            plots.map_of_forecast(forecaster, until, value, lead),
            "The mean, with the last observations as circles, and the standard deviation.",
        )
        yield _picture(
            f"Series of {name}",
            plots.forecasts_in_time(forecaster, shown, reports, origin, value, chosen),
            "Forecasts of one initialisation at the stations with the most observations, in the fit and withheld.",
        )
    if isinstance(forecaster.model, S2RM):
        yield _picture(
            "Enclaves",
            plots.map_of_enclaves(forecaster, reports),
            "The module of largest weight at each place; white is out of reach of all modules.",
        )
        kernel, side = forecaster.model.interaction_graph().detach(), 30
        weights = plots.enclaves(forecaster, reports, side).reshape(len(kernel), side, side)
        # A row of the grid is one first coordinate; on a map the second one points up.
        north_up = torch.from_numpy(np.ascontiguousarray(weights.transpose(0, 2, 1)[:, ::-1]))
        yield _picture(
            "Interactions of modules",
            figures.interaction_graph(kernel, north_up),
            "Each module as its enclave; a line joins two modules that interact.",
        )


def _picture(title: str, figure: Figure, caption: str) -> Picture:
    return title, "image/png", figures.png(figure), caption


def _busiest(reports: Reports, held_out: Bool[NDArray, " S"]) -> list[str]:
    """The two stations of each group with the most observations."""
    number = np.bincount(reports.sensor, minlength=len(reports.sensors))
    return [
        reports.sensors[index]
        for group in (~held_out, held_out)
        for index in np.argsort(np.where(group, number, -1))[::-1][: min(2, int(group.sum()))]
    ]
