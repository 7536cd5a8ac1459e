"""One self-contained HTML page for a fitted forecaster: how good it is, on maps and in time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from s2rm.models.s2rm import S2RM
from s2rm.report import figures as plots
from s2rm.report.page import write_page
from s2rm.sensors import plots as sensor_plots
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.reports import Reports

METRICS = {
    "mae": ("MAE", "The mean absolute error, in the value's own unit; lower is better."),
    "crps": ("CRPS", "It asks for the right spread too; in the value's own unit, lower is better."),
    "coverage": ("Coverage", "How often the truth lies in the central 90 % interval; 0.90 is right."),
}


def write_sensor_report(
    path: Path,
    forecaster: Forecaster,
    label: str,
    summary: Mapping[str, Any],
    reports: Reports,
    held_out: Bool[NDArray, " S"],
    origin: int,
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Write the page.

    Args:
        path: of the HTML file, written whole or not at all.
        forecaster: what was fitted.
        label: its name in `rows`.
        summary: how the fit ended.
        reports: all reports; the maps and the series forecast from a step of them.
        held_out: sensors that the fit did not see.
        origin: that step.
        rows: the scores, as from `judge`.

    Raises:
        ImportError: the extra `s2rm[report]` is not installed.
    """
    columns, model = reports.columns, forecaster.model
    write_page(
        path,
        title=f"Forecasts of {', '.join(columns.values)}",
        lead=(
            "Forecasts from what sensors reported, judged on later steps than those fitted to and at sensors that the "
            "fit never saw, beside forecasts that need no training."
        ),
        runs=[{"label": label, "summary": summary, "learning_rate": summary["learning_rate"]}],
        world=(
            f"{len(reports):,} reports of {len(np.unique(reports.sensor)):,} sensors, {int(held_out.sum())} of them "
            f"held out, at {reports.num_steps:,} steps of {columns.step} from "
            f"{reports.times[0].astype('datetime64[m]')} UTC. Leads are in steps; 0 is now, at sensors not shown."
        ),
        setting=(
            f"{label}: a context of {forecaster.context} steps, trained for {forecaster.horizon} ahead"
            + (f"; {model.num_modules} modules of {model.hidden_size}." if isinstance(model, S2RM) else ".")
        ),
        summary=summary,
        tables=list(_tables(rows, columns.values)),
        pictures=list(_pictures(forecaster, reports, held_out, origin, rows)),
    )


def _tables(rows: Sequence[Mapping[str, Any]], values: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A table for each value, metric and group of sensors: predictors against leads."""
    for value in values:
        for metric, (title, sentence) in METRICS.items():
            for sensors in ("seen", "held out"):
                found = {
                    (row["predictor"], row["lead"]): row[metric]
                    for row in rows
                    if (row["value"], row["sensors"], row["silent"]) == (value, sensors, 0)
                }
                leads, names = sorted({lead for _, lead in found}), list(dict.fromkeys(name for name, _ in found))
                if not found:
                    continue
                best = {
                    lead: min((found[name, lead] for name in names if (name, lead) in found),
                              key=lambda score: abs(score - 0.9) if metric == "coverage" else score)
                    for lead in leads
                }  # fmt: skip
                yield {
                    "title": f"{title} of {value}, sensors {sensors}",
                    "metric": title,
                    "heads": [f"+{lead}" for lead in leads],
                    "sentence": sentence,
                    "rows": [
                        {
                            "name": name,
                            "trivial": name in plots.TRIVIAL,
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
    forecaster: Forecaster,
    reports: Reports,
    held_out: Bool[NDArray, " S"],
    origin: int,
    rows: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[str, str, bytes, str]]:
    shown, kind = reports.of(~held_out), "image/png"
    until = shown.between(0, origin + 1)
    yield (
        "How errors grow", kind, plots.png(sensor_plots.errors_by_lead(rows)),
        "MAE against the lead. A line is worth its training only where it is below all dashed ones.",
    )  # fmt: skip
    yield (
        "Where the sensors are", kind, plots.png(sensor_plots.map_of_stations(reports, held_out)),
        "The last place of each sensor.",
    )  # fmt: skip
    lead = min(6, forecaster.horizon)
    for value, name in enumerate(reports.columns.values):
        yield (
            f"A forecast of {name}", kind,
            plots.png(sensor_plots.map_of_forecast(forecaster, until, value, lead)),
            "The mean, with what was last reported in the circles, and where it is uncertain.",
        )  # fmt: skip
        often = np.bincount(reports.sensor, minlength=len(reports.sensors))
        chosen = [
            reports.sensors[index]
            for group in (~held_out, held_out)
            for index in np.argsort(np.where(group, often, -1))[::-1][: min(2, int(group.sum()))]
        ]
        yield (
            f"{name} in time", kind,
            plots.png(sensor_plots.forecasts_in_time(forecaster, shown, reports, origin, value, chosen)),
            "Forecasts from one origin at the sensors that report most often, seen and held out.",
        )  # fmt: skip
    if isinstance(forecaster.model, S2RM):
        yield (
            "Enclaves", kind, plots.png(sensor_plots.map_of_enclaves(forecaster, reports)),
            "Which module answers most where; white is seen by none.",
        )  # fmt: skip
        kernel = forecaster.model.interaction_graph().detach()
        side = 30
        weights = sensor_plots.enclaves(forecaster, reports, side).reshape(len(kernel), side, side)
        turned = plots.interaction_graph(kernel, _north_up(weights))
        yield (
            "Who hears whom", kind, plots.png(turned),
            "Each module as its enclave; a line where two hear each other.",
        )  # fmt: skip


def _north_up(weights: NDArray[Any]) -> Any:
    """Rows are the first coordinate, as the grid has them; a map has the second upward."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(weights.transpose(0, 2, 1)[:, ::-1]))
