"""Maps of forecasts: of their gains, of the stations, of the forecast itself, of the next sensor, of the enclaves."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from s2rm.files import Row
from s2rm.models.s2rm import S2RM
from s2rm.names import for_figure
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.plots import MARKS, Panel, key, longest
from s2rm.sensors.judging.verdicts import GROUPS, compare, leads_of, of_group
from s2rm.sensors.reports import Places, Reports, grid, stations, together
from s2rm.sensors.siting import Siting
from s2rm.sensors.times import lead_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable


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
        _scale(axes, image, "gain (%)", extend="both")
        _frame(axes, reports, value)
        key(axes, 2)

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
        key(axes, 2)

    return Panel(draw, _height(reports) + 0.4)


def maps_of_forecast(forecaster: Forecaster, reports: Reports, value: int, lead: int) -> list[Panel]:
    """Mean and standard deviation of a forecast initialised at the last step, over a grid, with its observations."""
    points, unit = grid(reports, 40), reports.columns.values[value]
    lead = min(lead, longest(forecaster, reports, reports.num_steps - 1))
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
    """The share of the variance that an observation at each candidate takes away; numbers are the choices in turn, and
    crosses stations that have been silent."""

    def draw(axes: Axes) -> None:
        points = together(found.candidates.positions, reports)[:, :2]
        look: dict[str, Any] = {"c": 100 * found.mean, "cmap": "viridis", "marker": "s", "vmin": 0.0}
        _scale(axes, _mark(axes, points, 4 * _size(points), **look), "reduction of the variance (%)")
        now, there = together(stations(reports).positions, reports)[:, :2], ~np.isin(reports.reporting, found.silent)
        _mark(axes, now[there], _size(now), color="white", edgecolor="black")
        _mark(axes, now[~there], _size(now), color="black", marker="x")
        for number, at in enumerate(points[found.chosen], 1):
            _mark(axes, at[None], 160, color="#c0392b", edgecolor="white", marker="*")
            axes.annotate(str(number), at, (6, 6), textcoords="offset points", color="#c0392b", weight="bold", zorder=4)
        _frame(axes, reports, "Where the next sensor helps most", places)

    places = np.concatenate([reports.places, found.candidates.positions])
    return Panel(draw, _height(reports, places))


def maps_of_enclaves(forecaster: Forecaster, reports: Reports) -> list[Panel]:
    """The module of largest weight at each place, and the sum of all weights; one colour is one enclave."""
    side = 60
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


def _frame(axes: Axes, reports: Reports, title: str, places: NDArray | None = None) -> None:
    """The frame of a map of places, those of the reports by default: a title, a graticule, and lengths that are as on
    the ground."""
    x, y = map(for_figure, reports.columns.position[:2])
    axes.set(xlabel=x, ylabel=y, aspect=_aspect(reports))
    axes.set_title(for_figure(title))
    points = together(reports.places if places is None else places, reports)[:, :2]
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


def _height(reports: Reports, places: NDArray | None = None) -> float:
    """Height of a map of places, those of the reports by default, as wide as a panel."""
    width, height = np.ptp(together(reports.places if places is None else places, reports)[:, :2], axis=0)
    tall = float(np.clip(_aspect(reports) * height / width, 0.3, 1.5)) if width else 1.0
    return 3.9 * tall + 0.9


def _size(points: Sized) -> float:
    """Area of a marker: smaller where there are many, which would hide each other."""
    return float(np.clip(4000 / max(1, len(points)), 4, 36))
