"""The first guess of a forecaster by itself, without any training, beside the best simple predictor of each case.

Of each table, value, group of stations and lead time: the error of the first guess, and that of the predictor that
was the best of the simple predictors in the same test. Writes `results/first-guess.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.progress import track

import common
from presets import PRESETS
from s2rm.sensors.first_guess.tuning import first_guess, tuned, with_dynamics
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.fitting import build_model, hidden_sensors, periods
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import BASELINES, judge, split
from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Fit

NAME = "first guess"


@dataclass(frozen=True)
class Guess:
    """What to run."""

    data: tuple[Literal["molene", "ndbc", "argo", "traffic", "field"], ...] = ("molene", "ndbc", "argo", "traffic")
    """which tables; traffic and field are synthetic and need no files"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    out: Path = Path("results/first-guess.json")
    """the errors"""
    seed: int = 0
    """of the withheld stations"""


def untrained(train: Reports, seed: int) -> Forecaster:
    """The forecaster of a fit that trusts no correction: all but the training is as in a fit."""
    how = Fit(num_modules=2, hidden_size=4)
    context, horizon, since = periods(how, train)
    known, scaling = train.of(~hidden_sensors(train, how.validation, seed)), Scaling.of(train.between(0, since))
    start = first_guess(known, scaling, context, horizon)
    guess = tuned(Windows(known, scaling, start, context + 1, horizon))
    guess = with_dynamics(guess, train, scaling)
    return Forecaster(train.columns, scaling, guess, context, horizon, build_model(how, scaling, train, context))


def compared(name: str, recipe: Guess) -> list[dict[str, Any]]:
    """A row for each value, group of stations and lead time of a table."""
    preset = PRESETS[name]
    reports = preset.read(recipe.folder, None, recipe.seed)
    parts = split(reports, 0.3, preset.withheld, recipe.seed)
    predictors = {NAME: untrained(parts.train, recipe.seed)}
    predictors |= {label: make().fit(parts.train) for label, make in BASELINES.items()}
    origins = preset.origins(parts.first, reports.num_steps)
    scored = judge(predictors, reports, origins, preset.leads, parts.withheld, 0.0, recipe.seed,
                   lambda steps: track(steps, name))  # fmt: skip
    rows = []
    for row in scored:
        if row["predictor"] != NAME:
            continue
        case = {key: row[key] for key in ("value", "sensors", "lead")}
        rivals = [one for one in scored if one["predictor"] != NAME and case.items() <= one.items()]
        best = {metric: min(rivals, key=lambda one, by=metric: one[by]) for metric in ("mae", "crps")}
        rows.append({
            "predictor": NAME, "data": name, **case, "count": row["count"], "mae": row["mae"], "crps": row["crps"],
            "best": best["mae"]["predictor"], "best_mae": best["mae"]["mae"], "best_crps": best["crps"]["crps"],
        })  # fmt: skip
    return rows


def main(recipe: Guess) -> None:
    """Score each table, and write."""
    rows = [row for name in recipe.data for row in compared(name, recipe)]
    common.write(recipe.out, [], rows, seed=recipe.seed)
    for row in rows:
        print(f"{row['data']} {row['value']} {row['sensors']} +{row['lead']}: {row['mae'] / row['best_mae']:.3f}")


if __name__ == "__main__":
    main(tyro.cli(Guess))
