"""Figures of forecasts, each a panel of its own: gains, errors, maps, series."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy.special import ndtri

from s2rm.files import Row
from s2rm.models.s2rm import S2RM
from s2rm.names import for_figure
from s2rm.report.figures import figure, lines, plain, predictors
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import BANDS, lead_time, unit_of_leads
from s2rm.sensors.outputs import quantile_name
from s2rm.sensors.reports import Places, Reports, grid, stations, together
from s2rm.sensors.siting import Siting
from s2rm.sensors.verdicts import GROUPS, compare, each_lead, leads_of, of_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

WIDTH = 5.4
"""inches of a panel: two stand side by side on a page, and one fills a phone, where its letters can be read"""
MARKS = {"seen": ("o", "#0b6e99"), "held out": ("^", "#b45309")}
"""marker and colour of each group of stations"""


class Panel(NamedTuple):
    """How to draw one panel, and its height in inches."""

    draw: Callable[[Axes], None]
    height: float


def sheet(panels: Sequence[Panel], columns: int = 1) -> Figure:
    """A figure of panels, so many in a line."""
    rows = -(-len(panels) // columns)
    made, axes = figure(rows, columns, WIDTH * columns, rows * max(panel.height for panel in panels))
    for one, panel in zip(axes.flat, panels, strict=False):
        panel.draw(one)
    for one in axes.flat[len(panels) :]:
        one.axis("off")
    return plain(made)


def gains_by_lead(rows: Sequence[Row], model: str, value: str, length: np.timedelta64) -> Panel:
    """By how much a model's error is below that of the best simple predictor, with intervals, against the lead time.

    A symbol is filled where the interval excludes 0, and an interval that would hide the others is cut off.
    """

    def draw(axes: Axes) -> None:
        gains = [gain for gain in each_lead(rows, model) if gain.value == value]
        unit, scale = unit_of_leads(max(gain.leads[0] for gain in gains), length)
        axes.axhline(0, color="#57606a", linewidth=1)
        for group, (marker, shade) in MARKS.items():
            mine = [gain for gain in gains if gain.sensors == group]
            x = np.sqrt([scale * gain.leads[0] for gain in mine]) + (0.06 if group == "held out" else -0.06)
            for at, gain in zip(x, mine, strict=True):
                low, high = (100 * np.clip(end, -1, 1) for end in (gain.low, gain.high))
                axes.plot([at, at], [low, high], color=shade, linewidth=2, alpha=0.6)
                fill = shade if gain.sign else "white"
                axes.plot(at, 100 * np.clip(gain.gain, -1, 1), marker, ms=8, color=shade, mfc=fill, mew=1.6)
            axes.plot([], [], f"{marker}-", color=shade, label=GROUPS[group])
        leads = sorted({gain.leads[0] for gain in gains})
        axes.set_xticks(np.sqrt(scale * np.array(leads)), [f"{scale * lead:g}" for lead in leads])
        axes.set(xlabel=f"lead time ({unit})", ylabel="error below the best simple predictor's (%)")
        axes.set_title(for_figure(value))
        low, high = axes.get_ylim()
        axes.axhspan(min(low, -5), 0, color="#c0392b", alpha=0.06, zorder=0)
        axes.set_ylim(min(low, -5), max(high, 5))
        axes.grid(axis="y", color="#e5e7ea")
        _key(axes, 2)

    return Panel(draw, 4.2)


def errors_by_lead(rows: Sequence[Row], value: str, group: str, length: np.timedelta64) -> Panel:
    """The MAE of every predictor against the lead time. A line far above all others is cut off, which keeps the others
    apart."""

    def draw(axes: Axes) -> None:
        mine = of_group(rows, value, group)
        unit, scale = unit_of_leads(max(leads_of(mine)), length)
        lines(axes, [{**row, "at": np.sqrt(scale * row["lead"])} for row in mine], "at", "mae")
        axes.set_xticks(np.sqrt(scale * np.array(leads_of(mine))), [f"{scale * lead:g}" for lead in leads_of(mine)])
        axes.set(xlabel=f"lead time ({unit})", ylabel=for_figure(f"MAE of {value}"))
        axes.set_title(for_figure(f"{value}, {GROUPS[group]}"))
        axes.grid(axis="y", color="#e5e7ea")
        highest = [max(row["mae"] for row in mine if row["predictor"] == name) for name in predictors(mine)]
        second, top = [0.0, 0.0, *sorted(highest)][-2:]
        axes.set_ylim(bottom=0, top=1.1 * second if top > 2 * second > 0 else None)
        _key(axes, 3)

    return Panel(draw, 4.4)


def map_of_gains(rows: Sequence[Row], model: str, value: str, reports: Reports) -> Panel:
    """For each station, how far the model's error is below that of the best simple predictor, all leads together."""

    def draw(axes: Axes) -> None:
        places = stations(reports)
        index = {reports.sensors.index(name): row for row, name in enumerate(places.names or ())}
        points = together(places.positions, reports)[:, :2]
        for group, (marker, _) in MARKS.items():
            gains = station_gains(rows, model, value, group)
            if gains:
                where = points[[index[sensor] for sensor in gains]]
                look = {"cmap": "RdBu", "vmin": -50, "vmax": 50, "edgecolor": "#24292f", "marker": marker}
                shades = [100 * gain for gain in gains.values()]
                image = _mark(axes, where, 3 * _size(points), c=shades, **look)
                axes.plot([], [], marker, ms=8, mfc="white", color="#24292f", label=GROUPS[group])
        _scale(axes, image, "error below the best simple predictor's (%)", extend="both")
        _frame(axes, reports, value)
        _key(axes, 2)

    return Panel(draw, _height(reports) + 0.4)


def station_gains(rows: Sequence[Row], model: str, value: str, group: str) -> dict[int, float]:
    """The gain over the best simple predictor at each station that reported, by the sensor's index, over all leads."""
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    mine = of_group(rows, value, group)
    for lead in leads_of(mine):
        best = compare(rows, model, value, group, [lead]).best[0]
        for row in mine:
            if row["lead"] == lead and row["predictor"] in (model, best):
                kept = ours if row["predictor"] == model else theirs
                for sensor, error, *_ in row["by_sensor"]:
                    kept[int(sensor)] = kept.get(int(sensor), 0.0) + error
    return {sensor: 1 - ours[sensor] / theirs[sensor] for sensor in ours if theirs[sensor] > 0}


def map_of_stations(reports: Reports, held_out: Bool[NDArray, " S"]) -> Panel:
    """The last position of each station."""

    def draw(axes: Axes) -> None:
        places = stations(reports)
        held = held_out[reports.reporting]
        for group, (marker, shade) in MARKS.items():
            points = together(places.positions, reports)[held == (group == "held out"), :2]
            label = f"{GROUPS[group]} ({len(points)})"
            _mark(axes, points, _size(held), marker=marker, color=shade, label=label)
        _frame(axes, reports, "Stations")
        _key(axes, 2)

    return Panel(draw, _height(reports) + 0.4)


def maps_of_forecast(forecaster: Forecaster, reports: Reports, value: int, lead: int, side: int = 40) -> list[Panel]:
    """Mean and standard deviation of a forecast initialised at the last step, over a grid, with its observations."""
    points, unit = grid(reports, side), reports.columns.values[value]
    lead = min(lead, _longest(forecaster, reports, reports.num_steps - 1))
    mean, stddev = (part[0, lead - 1, :, value] for part in forecaster.forecast(reports, points, horizon=lead))
    now = reports.between(reports.num_steps - 1, reports.num_steps)
    now = now.where(~np.isnan(now.values[:, value]))
    turns, when = unit in reports.columns.circular, f"+{lead_time(lead, reports.step_length)}"
    low, high = (0.0, 360.0) if turns else (float(mean.min()), float(mean.max()))
    look: dict[str, Any] = {"cmap": "twilight" if turns else "viridis", "vmin": low, "vmax": high}

    def draw_mean(axes: Axes) -> None:
        _surface(axes, points, mean, unit, **look)
        shown = together(now.positions, reports)[:, :2]
        _mark(axes, shown, 2 * _size(now), c=now.values[:, value], edgecolor="white", **look)
        _frame(axes, reports, f"{unit}, {when}: mean")

    def draw_stddev(axes: Axes) -> None:
        _surface(axes, points, stddev, unit, cmap="magma", vmin=0.0)
        _frame(axes, reports, f"{unit}, {when}: standard deviation")

    return [Panel(draw, _height(reports)) for draw in (draw_mean, draw_stddev)]


def map_of_siting(found: Siting, reports: Reports) -> Panel:
    """The share of the variance that an observation at each candidate takes away; numbers are the choices in turn."""

    def draw(axes: Axes) -> None:
        points = together(found.candidates.positions, reports)[:, :2]
        look: dict[str, Any] = {"c": 100 * found.mean, "cmap": "viridis", "marker": "s", "vmin": 0.0}
        _scale(axes, _mark(axes, points, 4 * _size(points), **look), "variance taken away (%)")
        now = together(stations(reports).positions, reports)[:, :2]
        _mark(axes, now, _size(now), color="white", edgecolor="black")
        for number, at in enumerate(points[found.chosen], 1):
            _mark(axes, at[None], 160, color="#c0392b", edgecolor="white", marker="*")
            axes.annotate(str(number), at, (6, 6), textcoords="offset points", color="#c0392b", weight="bold", zorder=4)
        _frame(axes, reports, "Where the next sensor tells most")

    return Panel(draw, _height(reports))


def with_truth(reports: Reports, group: Bool[NDArray, " S"], span: range, value: int, number: int = 2) -> list[str]:
    """The sensors of a group that most often report a value in a span of steps; none that does not."""
    few = reports.between(span.start, span.stop)
    count = np.bincount(few.sensor[~np.isnan(few.values[:, value])], minlength=len(reports.sensors)) * group
    return [reports.sensors[index] for index in np.argsort(-count, kind="stable")[:number] if count[index]]


def forecasts_in_time(
    forecaster: Forecaster, shown: Reports, truth: Reports, origin: int, value: int, names: Sequence[str]
) -> list[Panel]:
    """For each of these stations a forecast of one initialisation, for where it is then, with its 90 % band.

    Observations that the forecaster was shown are filled, those that were hidden from it are hollow.
    """
    places = stations(truth.between(0, origin + 1))
    known = places.names or ()
    names = [name for name in names if name in known]
    if not names:
        return []
    chosen = [known.index(name) for name in names]
    where = Places(places.positions[chosen], places.covariates[chosen])
    made, share = forecaster.columns.values[value], (1 + BANDS["coverage"]) / 2
    tail = round(1 - share, 6)
    horizon = _longest(forecaster, shown, origin)
    table = forecaster.table(shown, where, horizon, np.array([origin]), (tail, share))
    mean, stddev, lows, highs = (
        table[column].to_numpy().reshape(-1, len(names))
        for column in (f"{made}_mean", f"{made}_stddev", *(quantile_name(made, each) for each in (tail, share)))
    )
    if made in forecaster.columns.circular:
        lows, highs = mean - ndtri(share) * stddev, mean + ndtri(share) * stddev
    unit, scale = unit_of_leads(len(mean), shown.step_length)
    ahead = scale * (1 + np.arange(len(mean)))

    def panel(name: str, centre: NDArray, low: NDArray, high: NDArray) -> Panel:
        def draw(axes: Axes) -> None:
            since = max(0, origin - len(mean))
            near = truth.between(since, origin + len(mean) + 1)
            mine = near.where(near.sensor == near.sensors.index(name))
            mine = replace(mine, step=mine.step + since)
            seen = name in shown.sensors and shown.sensors.index(name) in shown.reporting
            given = seen & (mine.step <= origin)
            axes.fill_between(ahead, low, high, color="#0b6e99", alpha=0.2, label="90 % band")
            axes.plot(ahead, centre, color="#0b6e99", linewidth=2.2, label="forecast")
            for there, fill, label in ((given, "#24292f", "shown to the model"), (~given, "white", "hidden from it")):
                at, values = scale * (mine.step[there] - origin), mine.values[there, value]
                axes.plot(at, values, "o", ms=4, color="#24292f", mfc=fill, mew=1, label=f"observed, {label}")
            what = "later observations are hidden" if seen else "withheld: all its observations are hidden"
            axes.set_title(for_figure(f"{name}; {what}"), fontsize=10)
            axes.axvline(0, color="#8c959f", linewidth=1, zorder=0)
            axes.set_xlim(-scale * (len(mean) + 0.5), scale * (len(mean) + 0.5))
            axes.set(
                xlabel=f"time since the initialisation ({unit})", ylabel=for_figure(forecaster.columns.values[value])
            )
            _key(axes, 2)

        return Panel(draw, 3.4)

    return [panel(*each) for each in zip(names, mean.T, lows.T, highs.T, strict=True)]


def _longest(forecaster: Forecaster, reports: Reports, origin: int) -> int:
    """The longest lead time of a picture: of what is known ahead no table may end before it."""
    known = forecaster.horizon if reports.ahead is None else reports.ahead.steps_after(reports.times[origin])
    return max(1, min(forecaster.horizon, known))


def maps_of_enclaves(forecaster: Forecaster, reports: Reports, side: int = 60) -> list[Panel]:
    """The module of largest weight at each place, and the sum of all weights; one colour is one enclave."""
    weights, places = enclaves(forecaster, reports, side), together(stations(reports).positions, reports)[:, :2]
    points = grid(reports, side)
    most = np.where(weights.max(0) > 0, weights.argmax(0) + 1.0, np.nan)
    modules = len(weights)

    def panel(values: NDArray, title: str, **look: Any) -> Panel:
        def draw(axes: Axes) -> None:
            _surface(axes, points, values, "", **look)
            _mark(axes, places, _size(places), color="white", edgecolor="black")
            _frame(axes, reports, title)

        return Panel(draw, _height(reports))

    return [
        panel(most, "number of the module of largest weight", cmap="tab20", vmin=0.5, vmax=modules + 0.5),
        panel(weights.sum(0), "sum of all weights", cmap="magma"),
    ]


def enclaves(forecaster: Forecaster, reports: Reports, side: int) -> Float[NDArray, "M P"]:
    """Weight of each module of an S2RM over a grid."""
    if not isinstance(forecaster.model, S2RM):
        got = type(forecaster.model).__name__
        raise ValueError(f"enclaves: expected an S2RM, got {got}; the modules of other models have no places")
    places = forecaster.scaling.coordinates(grid(reports, side).positions)
    return forecaster.model.enclaves(places).detach().numpy()


def _surface(axes: Axes, points: Places, values: NDArray, unit: str, **look: Any) -> None:
    side = round(len(values) ** 0.5)
    x, y, colours = (part.reshape(side, side) for part in (*points.positions.T[:2], values))
    _scale(axes, axes.pcolormesh(x, y, colours, shading="nearest", **look), unit)


def _mark(axes: Axes, points: NDArray, area: float, **look: Any) -> ScalarMappable:
    """Markers on a map, above its graticule."""
    x, y = points.T
    return axes.scatter(x, y, area, linewidth=0.6, zorder=3, **look)


def _scale(axes: Axes, image: ScalarMappable, label: str, **look: Any) -> None:
    """The scale of colours of a map."""
    assert axes.figure
    axes.figure.colorbar(image, ax=axes, label=for_figure(label), shrink=0.85, **look)


def _frame(axes: Axes, reports: Reports, title: str) -> None:
    """The frame of a map: a title, a graticule, and lengths that are as on the ground."""
    x, y = map(for_figure, reports.columns.position[:2])
    axes.set(xlabel=x, ylabel=y, aspect=_aspect(reports))
    axes.set_title(for_figure(title))
    points = together(reports.places, reports)[:, :2]
    low, high = points.min(0), points.max(0)
    edge = 0.06 * (high - low).max() or 1.0
    axes.set(xlim=(low[0] - edge, high[0] + edge), ylim=(low[1] - edge, high[1] + edge))
    axes.grid(color="#8c959f", linewidth=0.5, alpha=0.5)
    if reports.columns.on_the_globe:
        axes.set(xlabel="", ylabel="")
        axes.locator_params(nbins=5, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_formatter(lambda degrees, _: _degrees((degrees + 180) % 360 - 180, "E", "W"))
        axes.yaxis.set_major_formatter(lambda degrees, _: _degrees(degrees, "N", "S"))


def _degrees(degrees: float, positive: str, negative: str) -> str:
    return f"{abs(degrees):g}°{positive if degrees > 0 else negative if degrees < 0 else ''}"


def _aspect(reports: Reports) -> float:
    """How long a unit of the second coordinate is: a degree of longitude is shorter than one of latitude."""
    return float(1 / np.cos(np.radians(reports.positions[:, 1].mean()))) if reports.columns.on_the_globe else 1.0


def _height(reports: Reports) -> float:
    """Height of a map as wide as a panel."""
    width, height = np.ptp(together(reports.places, reports)[:, :2], axis=0)
    tall = float(np.clip(_aspect(reports) * height / width, 0.3, 1.5)) if width else 1.0
    return 3.9 * tall + 0.9


def _key(axes: Axes, columns: int) -> None:
    """The legend below a panel, where it hides no line."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, frameon=False, fontsize=9)


def _size(points: Sized) -> float:
    """Area of a marker: smaller where there are many, which would hide each other."""
    return float(np.clip(4000 / max(1, len(points)), 4, 36))
