"""Figures of forecasts, each a panel of its own: gains and errors by lead time, and forecasts in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy.special import ndtri

from s2rm.files import Row
from s2rm.names import for_figure
from s2rm.report.figures import figure, lines, plain, predictors
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.scores import BANDS
from s2rm.sensors.judging.verdicts import GROUPS, each_lead, leads_of, of_group
from s2rm.sensors.marginals import turned
from s2rm.sensors.outputs import quantile_name
from s2rm.sensors.reports import Places, Reports, stations
from s2rm.sensors.times import unit_of_leads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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
        ticks(axes, leads, scale)
        axes.set(xlabel=f"lead time ({unit})", ylabel="error below the best simple predictor's (%)")
        axes.set_title(for_figure(value))
        low, high = axes.get_ylim()
        axes.axhspan(min(low, -5), 0, color="#c0392b", alpha=0.06, zorder=0)
        axes.set_ylim(min(low, -5), max(high, 5))
        axes.grid(axis="y", color="#e5e7ea")
        key(axes, 2)

    return Panel(draw, 4.2)


def errors_by_lead(rows: Sequence[Row], value: str, group: str, length: np.timedelta64) -> Panel:
    """The MAE of every predictor against the lead time. A line far above all others is cut off, which keeps the others
    apart."""

    def draw(axes: Axes) -> None:
        mine = of_group(rows, value, group)
        unit, scale = unit_of_leads(max(leads_of(mine)), length)
        lines(axes, [{**row, "at": np.sqrt(scale * row["lead"])} for row in mine], "at", "mae")
        ticks(axes, leads_of(mine), scale)
        axes.set(xlabel=f"lead time ({unit})", ylabel=for_figure(f"MAE of {value}"))
        axes.set_title(for_figure(f"{value}, {GROUPS[group]}"))
        axes.grid(axis="y", color="#e5e7ea")
        highest = [max(row["mae"] for row in mine if row["predictor"] == name) for name in predictors(mine)]
        second, top = [0.0, 0.0, *sorted(highest)][-2:]
        axes.set_ylim(bottom=0, top=1.1 * second if top > 2 * second > 0 else None)
        key(axes, 3)

    return Panel(draw, 4.4)


def with_truth(reports: Reports, group: Bool[NDArray, " S"], span: range, value: int) -> list[str]:
    """The two sensors of a group that most often report a value in a span of steps; none that does not."""
    few = reports.between(span.start, span.stop)
    count = np.bincount(few.sensor[~np.isnan(few.values[:, value])], minlength=len(reports.sensors)) * group
    return [reports.sensors[index] for index in np.argsort(-count, kind="stable")[:2] if count[index]]


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
    where = Places(places.positions[chosen], places.covariates[chosen], tuple(names))
    made, share = forecaster.columns.values[value], (1 + BANDS["coverage"]) / 2
    tail = round(1 - share, 6)
    horizon = longest(forecaster, shown, origin)
    table = forecaster.table(shown, where, origins=[origin], horizon=horizon, quantiles=(tail, share))
    mean, stddev, lows, highs = (
        table[column].to_numpy().reshape(-1, len(names))
        for column in (f"{made}_mean", f"{made}_stddev", *(quantile_name(made, each) for each in (tail, share)))
    )
    turns = made in forecaster.columns.circular
    if turns:  # drawn without a jump at north
        mean, away = np.degrees(np.unwrap(np.radians(mean), axis=0)), turned(ndtri(share), stddev)
        lows, highs = mean - away, mean + away
    unit, scale = unit_of_leads(len(mean), shown.step_length)
    ahead = scale * (1 + np.arange(len(mean)))

    def panel(name: str, centre: NDArray, low: NDArray, high: NDArray) -> Panel:
        def draw(axes: Axes) -> None:
            since = max(0, origin - len(mean))
            near = truth.between(since, origin + len(mean) + 1)
            mine = near.where(near.sensor == near.sensors.index(name))
            step = mine.step + since
            seen = name in shown.sensors and shown.sensors.index(name) in shown.reporting
            given = seen & (step <= origin)
            axes.fill_between(ahead, low, high, color="#0b6e99", alpha=0.2, label="90 % band")
            axes.plot(ahead, centre, color="#0b6e99", linewidth=2.2, label="forecast")
            for there, fill, label in ((given, "#24292f", "shown to the model"), (~given, "white", "hidden from it")):
                at, values = scale * (step[there] - origin), mine.values[there, value]
                if turns:
                    expected = centre[(step[there] - origin - 1).clip(0, len(centre) - 1)]
                    values = expected + (values - expected + 180) % 360 - 180
                axes.plot(at, values, "o", ms=4, color="#24292f", mfc=fill, mew=1, label=f"observed, {label}")
            what = "later observations are hidden" if seen else "withheld: all its observations are hidden"
            axes.set_title(for_figure(f"{name}; {what}"), fontsize=10)
            axes.axvline(0, color="#8c959f", linewidth=1, zorder=0)
            axes.set_xlim(-scale * (len(mean) + 0.5), scale * (len(mean) + 0.5))
            axes.set(
                xlabel=f"time since the initialisation ({unit})", ylabel=for_figure(forecaster.columns.values[value])
            )
            if turns:
                axes.yaxis.set_major_formatter(lambda degrees, _: f"{degrees % 360:g}")
            key(axes, 2)

        return Panel(draw, 3.4)

    return [panel(*each) for each in zip(names, mean.T, lows.T, highs.T, strict=True)]


def longest(forecaster: Forecaster, reports: Reports, origin: int) -> int:
    """The longest lead time of a picture: of what is known ahead no table may end before it."""
    known = forecaster.horizon if reports.ahead is None else reports.ahead.steps_after(reports.times[origin])
    return max(1, min(forecaster.horizon, known))


def ticks(axes: Axes, leads: Sequence[int], scale: float) -> None:
    """Marks at lead times, at the square roots of their lengths; without a number where the one before is close."""
    places = np.sqrt(scale * np.array(leads))
    labels, last = list[str](), -np.inf
    for place, lead in zip(places, leads, strict=True):
        far = place - last >= 0.08 * places[-1]
        labels.append(f"{scale * lead:.{2 if scale * lead < 10 else 4}g}" if far else "")
        last = place if far else last
    axes.set_xticks(places, labels)


def key(axes: Axes, columns: int) -> None:
    """The legend below a panel and the name of its axis, however high it is."""
    look = {"frameon": False, "fontsize": 9, "borderaxespad": 4}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns, **look)
