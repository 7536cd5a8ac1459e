"""One self-contained HTML page for a fitted forecaster: scores, maps and series; and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import product
from operator import neg
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from s2rm.files import Row
from s2rm.models.s2rm import S2RM
from s2rm.names import for_figure
from s2rm.report.figures import figure, key_beside, lines, plain, predictors
from s2rm.report.modules import interaction_graph
from s2rm.report.page import Entry, Picture, Table, comparison, drawn, write_page
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import HALF_WIDTH, lead_time
from s2rm.sensors.reports import Places, Reports, grid, stations, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = {"seen": "stations in the fit", "held out": "withheld stations"}
"""headings of the groups of stations in rows of scores"""
LOWER = "in the unit of the value; lower is better."
METRICS: dict[str, tuple[str, str, Callable[[float], float]]] = {
    "mae": ("MAE", f"The mean absolute error, {LOWER}", neg),
    "crps": ("CRPS", f"The continuous ranked probability score, which rewards the right spread too, {LOWER}", neg),
    "coverage": ("Coverage", "The share of observations within the central 90 % interval; 0.90 is right.",
                 lambda score: -abs(score - 0.9)),
}  # fmt: skip
"""title and explanation of each metric, and its worth, of which the highest is the best"""


def of_group(rows: Sequence[Row], value: str, group: str) -> list[Row]:
    """The scores of a value at a group of stations, with no station silent."""
    return [row for row in rows if (row["value"], row["sensors"], row["silent"]) == (value, group, 0)]


def write_sensor_report(
    path: Path, forecaster: Forecaster, label: str, summary: Row, reports: Reports, held_out: Bool[NDArray, " S"],
    origin: int, rows: Sequence[Row],
) -> None:  # fmt: skip
    """Write the page of a forecaster, whole or not at all, from all reports and the rows of `judge`.

    In the rows the forecaster has the name `label`; maps and series show its forecast initialised at step `origin`.
    """
    model, length, rate = forecaster.model, reports.step_length, summary["learning_rate"]
    context, horizon = lead_time(forecaster.context, length), lead_time(forecaster.horizon, length)
    modules = f"; {model.num_modules} modules of {model.hidden_size}" if isinstance(model, S2RM) else ""
    setting = f"{label}: {context} of context, trained for lead times up to {horizon}{modules}."
    lead = (
        "Forecasts from the observations of stations, scored at later times than those of the fit and at stations "
        "withheld from it, beside baselines that need next to no training."
    )
    world = (
        f"{len(reports):,} observations of {len(np.unique(reports.sensor)):,} stations, {int(held_out.sum())} of them "
        f"withheld, at {reports.num_steps:,} steps of {lead_time(1, length)} from "
        f"{reports.times[0].astype('datetime64[m]')} UTC. The lead time +0 is an analysis at stations whose "
        "observations are not shown."
    )
    title, entries = f"Forecasts of {', '.join(reports.columns.values)}", [Entry(label, model, summary, rate, setting)]
    pictures = list(_pictures(forecaster, reports, held_out, origin, rows))
    write_page(path, title, lead, entries, world, _tables(rows, reports), pictures)


def _tables(rows: Sequence[Row], reports: Reports) -> list[Table]:
    """A table for each value, metric and group of stations: predictors against lead times."""
    tables = []
    for value, metric, group in product(reports.columns.values, METRICS, GROUPS):
        title, sentence, worth = METRICS[metric]
        found, name = of_group(rows, value, group), f"{title} of {value}, {GROUPS[group]}"
        leads = sorted({row["lead"] for row in found})
        heads = {lead: f"+{lead_time(lead, reports.step_length)}" for lead in leads}
        if found:
            tables.append(comparison(found, metric, "lead", heads, name, title, sentence, ".3g", worth))
    return tables


def _pictures(
    forecaster: Forecaster, reports: Reports, held_out: Bool[NDArray, " S"], origin: int, rows: Sequence[Row]
) -> Iterator[Picture]:
    worth = "A model is worth its training only where its line is below all dashed ones."
    yield drawn("Errors by lead time", errors_by_lead(rows), f"The MAE against the lead time. {worth}")
    yield drawn("Stations", map_of_stations(reports, held_out), "The last position of each station.")
    shown, lead = reports.of(~held_out), min(6, forecaster.horizon)
    until = shown.between(0, origin + 1)
    # The two stations of each group with the most observations.
    order = np.argsort(np.bincount(reports.sensor, minlength=len(reports.sensors)))[::-1]
    chosen = [reports.sensors[index] for group in (~held_out, held_out) for index in order[group[order]][:2]]
    for value, name in enumerate(reports.columns.values):
        sentence = "The mean, with the last observations as circles, and the standard deviation."
        yield drawn(f"A forecast of {name}", map_of_forecast(forecaster, until, value, lead), sentence)
        series = forecasts_in_time(forecaster, shown, reports, origin, value, chosen)
        sentence = "Forecasts of one initialisation at the stations with most observations, in the fit and withheld."
        yield drawn(f"Series of {name}", series, sentence)
    if isinstance(forecaster.model, S2RM):
        sentence = "The module of largest weight at each place; white is out of reach of all modules."
        yield drawn("Enclaves", map_of_enclaves(forecaster, reports), sentence)
        kernel, side = forecaster.model.interaction_graph().detach(), 30
        weights = enclaves(forecaster, reports, side).reshape(len(kernel), side, side)
        # A row of the grid is one first coordinate; on a map the second one points up.
        north_up = torch.from_numpy(np.ascontiguousarray(weights.transpose(0, 2, 1)[:, ::-1]))
        sentence = "Each module as its enclave; a line joins two modules that interact."
        yield drawn("Interactions of modules", interaction_graph(kernel, north_up), sentence)


def errors_by_lead(rows: Sequence[Row]) -> Figure:
    """The MAE against the lead time: a row of panels for each value, one for each group of stations.

    A line far above all others is cut off, which keeps the others apart.
    """
    values = list(dict.fromkeys(row["value"] for row in rows))
    made, panels = figure(len(values), len(GROUPS), 9.6, 3.2 * len(values))
    for line, value in zip(panels, values, strict=True):
        for axes, group in zip(line, GROUPS, strict=True):
            mine = of_group(rows, value, group)
            lines(axes, mine, "lead", "mae")
            highest = [max(row["mae"] for row in mine if row["predictor"] == name) for name in predictors(mine)]
            axes.set(xlabel="lead time (steps)", title=for_figure(f"{value}, {GROUPS[group]}"))
            second, top = [0.0, 0.0, *sorted(highest)][-2:]
            if top > 2 * second > 0:
                axes.set_ylim(top=1.1 * second)
        line[0].set_ylabel("MAE")
    return key_beside(plain(made), panels[0][0])


def map_of_stations(reports: Reports, held_out: Bool[NDArray, " S"]) -> Figure:
    """The last position of each station."""
    (made, (axes,)), places = _maps(reports, 1), stations(reports)
    held = held_out[np.unique(reports.sensor)]
    for chosen, label, marker in ((~held, GROUPS["seen"], "o"), (held, GROUPS["held out"], "^")):
        points = together(places.positions, reports)[chosen, :2]
        axes.scatter(*points.T, marker=marker, s=_size(held), label=f"{label} ({len(points)})")
    axes.legend(frameon=False, fontsize=8)
    return plain(made)


def map_of_forecast(forecaster: Forecaster, reports: Reports, value: int, lead: int, side: int = 40) -> Figure:
    """Mean and standard deviation of a forecast initialised at the last step, over a grid, with its observations."""
    made, panels = _maps(reports, 2)
    points, unit = grid(reports, side), reports.columns.values[value]
    mean, stddev = (part[0, lead - 1, :, value] for part in forecaster.forecast(reports, points, horizon=lead))
    now = reports.where((reports.step == reports.num_steps - 1) & ~np.isnan(reports.values[:, value]))
    for axes, part, title in zip(panels, (mean, stddev), ("mean", "standard deviation"), strict=True):
        turns = unit in reports.columns.circular and title == "mean"
        low, high = (0.0, 360.0) if turns else (float(part.min()), float(part.max()))
        look = {"cmap": "twilight" if turns else "viridis", "vmin": low, "vmax": high}
        _surface(axes, points, part, f"{unit}, +{lead_time(lead, reports.step_length)}: {title}", unit, **look)
        if title == "mean":
            edge = {"edgecolor": "white", "linewidth": 0.6}
            axes.scatter(
                *together(now.positions, reports)[:, :2].T, c=now.values[:, value], s=_size(now), **edge, **look
            )
    return plain(made)


def forecasts_in_time(
    forecaster: Forecaster, shown: Reports, truth: Reports, origin: int, value: int, names: Sequence[str]
) -> Figure:
    """Forecasts of one initialisation for where stations are then, with central 90 % intervals, and observations."""
    places = stations(truth.between(0, origin + 1))
    known = places.names or ()
    names = [name for name in names if name in known]
    made, panels = figure(len(names), 1, 8.0, 1.9 * len(names))
    chosen = [known.index(name) for name in names]
    where = Places(places.positions[chosen], places.covariates[chosen])
    mean, stddev = (part[0, :, :, value] for part in forecaster.forecast(shown, where, np.array([origin])))
    ahead = 1 + np.arange(len(mean))
    for axes, name, centre, spread in zip(panels[:, 0], names, mean.T, stddev.T, strict=True):
        mine = truth.where((truth.sensor == truth.sensors.index(name)) & (abs(truth.step - origin) <= len(mean)))
        axes.plot(mine.step - origin, mine.values[:, value], "k.", ms=3, label="observed")
        axes.plot(ahead, centre, color="#0b6e99", label="forecast")
        low, high = centre - HALF_WIDTH * spread, centre + HALF_WIDTH * spread
        axes.fill_between(ahead, low, high, color="#0b6e99", alpha=0.2, label="90 %")
        seen = name in shown.sensors and (shown.sensor == shown.sensors.index(name)).any()
        axes.set_title(for_figure(f"{name} ({'in the fit' if seen else 'withheld'})"), fontsize=9)
        axes.axvline(0, color="#dddddd", zorder=0)
        axes.set_xlim(-len(mean) - 0.5, len(mean) + 0.5)
    panels[0, 0].legend(frameon=False, fontsize=7, ncols=3)
    panels[-1, 0].set_xlabel(f"lead time (steps of {lead_time(1, shown.step_length)})")
    panels[len(names) // 2, 0].set_ylabel(for_figure(forecaster.columns.values[value]))
    return plain(made)


def map_of_enclaves(forecaster: Forecaster, reports: Reports, side: int = 60) -> Figure:
    """The module of largest weight at each place, and the sum of all weights; one colour is one enclave."""
    weights, places = enclaves(forecaster, reports, side), together(stations(reports).positions, reports)[:, :2]
    (made, panels), points = _maps(reports, 2), grid(reports, side)
    most = np.where(weights.max(0) > 0, weights.argmax(0), np.nan)
    _surface(panels[0], points, most, "module of largest weight", cmap="tab20")
    _surface(panels[1], points, weights.sum(0), "sum of all weights", cmap="magma")
    for axes in panels:
        axes.scatter(*places.T, s=_size(places) / 3, color="white", edgecolor="black", linewidth=0.4)
    return plain(made)


def enclaves(forecaster: Forecaster, reports: Reports, side: int) -> Float[NDArray, "M P"]:
    """Weight of each module of an S2RM over a grid."""
    if not isinstance(forecaster.model, S2RM):
        got = type(forecaster.model).__name__
        raise ValueError(f"enclaves: expected an S2RM, got {got}; the modules of other models have no places")
    places = forecaster.scaling.coordinates(grid(reports, side).positions)
    return forecaster.model.enclaves(places).detach().numpy()


def _surface(axes: Axes, points: Places, values: NDArray, title: str, unit: str = "", **look: object) -> None:
    side = round(len(values) ** 0.5)
    x, y, colours = (part.reshape(side, side) for part in (*points.positions.T[:2], values))
    image = axes.pcolormesh(x, y, colours, shading="nearest", **look)  # type: ignore[arg-type]
    axes.figure.colorbar(image, ax=axes, label=for_figure(unit))
    axes.set_title(for_figure(title), fontsize=9)


def _maps(reports: Reports, number: int) -> tuple[Figure, NDArray]:
    """Panels for maps of the stations: side by side, or one above the other where the region is wide."""
    width, height = np.ptp(together(reports.positions, reports)[:, :2], axis=0)
    # A degree of longitude is shorter than one of latitude.
    north = reports.positions[:, 1].mean() if reports.columns.on_the_globe else 0.0
    aspect = 1 / np.cos(np.radians(north))
    tall = float(np.clip(aspect * height / width, 0.4, 1.6)) if width else 1.0
    if tall < 0.6:
        made, panels = figure(number, 1, 9.0, number * (7.5 * tall + 0.8))
    else:
        made, panels = figure(1, number, 5.5 * number, 4.5 * tall + 0.8)
    x, y = map(for_figure, reports.columns.position[:2])
    for axes in panels.flat:
        axes.set(xlabel=x, ylabel=y, aspect=aspect)
    return made, panels.ravel()


def _size(points: Sized) -> float:
    """Area of a marker: smaller where there are many, which would hide each other."""
    return float(np.clip(4000 / max(1, len(points)), 4, 36))
