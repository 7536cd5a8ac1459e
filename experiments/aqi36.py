"""AQI-36: hidden hours of PM2.5 in Beijing, filled from the past, and from the past and the future.

The protocol is the published one: months 3, 6, 9 and 12 are the test and are never trained on, the values that the
benchmark withholds are hidden from every method, and the mean absolute error is over those of the test months. A model
of the family is trained on the other months, whose last one chooses the weights: in each window the reports are hidden
that were missing in another, so that gaps are as they are. Its first row has seen the present and the past. That of
both directions weights it against a second model, which runs through time backward, by their spreads, and both against
linear dynamics that have seen all, by the error on the training part. Writes `results/aqi36.json` after each model, so
that an interrupted command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from common import add, read
from presets import PRESETS
from s2rm import load
from s2rm.files import write_json
from s2rm.models.named import LABELS
from s2rm.sensors.first_guess.mixing import table_of
from s2rm.sensors.first_guess.state_space import chosen, filtered, maximised, smoothed
from s2rm.sensors.first_guess.tuning import first_guess, gated, tuned, with_dynamics
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.fitting import SUMMARY, build_model
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.kriging import Kriging
from s2rm.sensors.judging.predictors import InverseDistance
from s2rm.sensors.reports import Reports, stations
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import RANGES, Fit, ForecastModel
from s2rm.training import LAST, MODEL, Training, batches, fit, provenance

TEST = (3, 6, 9, 12)
"""the months of the test"""
EPOCH = 640
"""windows between two validations"""
PARTS = 4
"""of the training part, by which the directions are weighted"""


@dataclass(frozen=True)
class Imputation:
    """What to run."""

    data: Literal["aqi36", "field"] = "aqi36"
    """which data; field is synthetic and needs no files"""
    model: ForecastModel = "s2gru"
    """the model to train"""
    updates: int = 2000
    """updates of each of the two models; with 0 only the simple predictors are scored"""
    context: int = 30
    """steps of a training window, and from which a value is filled"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/aqi36")
    """where the run folders are"""
    out: Path = Path("results/aqi36.json")
    """the errors"""
    seed: int = 0
    """of the weights and of the order"""
    baselines: bool = True
    """score the simple predictors too"""


class Gaps(Windows):
    """Windows in which sensors fall silent as they did at the end of another window of the table, and are asked for
    what they would have reported at each of the steps since.

    Args:
        missing: bool `(T, S)`, what was missing in the table from which the gaps are taken.
        number: of windows in an epoch.
        arguments: those of `Windows`, of a guess that is fitted.
    """

    def __init__(self, missing: NDArray, number: int, *arguments: Any):
        super().__init__(*arguments, 0, number=number)
        gone = torch.from_numpy(missing)
        since = torch.where(gone, -1, torch.arange(len(gone))[:, None]).cummax(0).values
        self.silent = torch.arange(len(gone))[:, None] - since  # steps since each sensor last reported

    def _silenced(self, starts: Tensor, generator: torch.Generator) -> Tensor:
        others = torch.randint(len(self.silent), (len(starts),), generator=generator)
        return (starts[:, None] + self.length - 1 - self.silent[others]).clamp(min=-1)


def observations(recipe: Imputation) -> tuple[Reports, NDArray, NDArray]:
    """All observations, on whole days; which rows are withheld; and which steps are of the test."""
    if recipe.data == "aqi36":
        read_ = PRESETS["aqi36"].read(recipe.folder)
        withheld, values = read_.values[:, 1] == 1, read_.values[:, :1]
        columns = replace(read_.columns, values=("pm25",), **dict.fromkeys(RANGES, ()))  # roots are taken here
        reports = replace(read_, columns=columns, values=values)
    else:
        reports = PRESETS["field"].read(recipe.folder, 240, recipe.seed)
        reports = reports.of(np.arange(len(reports.sensors)) < 8)
        columns = replace(reports.columns, values=("tracer",), circular=())
        reports = replace(reports, columns=columns, values=np.abs(reports.values[:, :1]))
        withheld = np.random.default_rng(recipe.seed).random(len(reports)) < 0.1
    midnight = reports.start.astype("datetime64[D]").astype(reports.start.dtype)
    before = round((reports.start - midnight) / reports.step_length)
    days = -(-(before + reports.num_steps) // 24)
    whole = replace(reports, start=midnight, step=reports.step + before, num_steps=24 * days)
    months = whole.times.astype("datetime64[M]").astype(int) % 12 + 1
    test = np.isin(months, TEST) if recipe.data == "aqi36" else np.arange(24 * days) // 24 % 4 == 3
    return whole, withheld, test


def rooted(reports: Reports) -> Reports:
    """The reports with the square roots of their values."""
    return replace(reports, values=np.sqrt(reports.values))


def without(reports: Reports, steps: NDArray) -> Reports:
    """The reports without some steps, whole days, as if there had been no time between."""
    kept, place = reports.where(~steps[reports.step]), np.cumsum(~steps) - 1
    return replace(kept, step=place[kept.step], num_steps=int((~steps).sum()))


def backward(reports: Reports) -> Reports:
    """The same reports in a time that runs backward."""
    return replace(reports, step=reports.num_steps - 1 - reports.step)


def missing(reports: Reports) -> NDArray:
    """Bool `(T, S)`: which sensors did not report."""
    gone = np.ones((reports.num_steps, len(reports.sensors)), bool)
    gone[reports.step, reports.sensor] = False
    return gone


def trained(
    recipe: Imputation, table: Reports, train: Reports, validation: Reports, gaps: NDArray, folder: Path
) -> Forecaster:
    """A forecaster trained to fill gaps; the one that is there, where training ended before, else it goes on."""
    scaling, length = Scaling.of(train), recipe.context + 1
    guess = tuned(Windows(train, scaling, first_guess(train, scaling, recipe.context, 6), length, 6))
    windows, later = (Gaps(gaps, EPOCH, part, scaling, guess, length) for part in (train, validation))
    if not (folder / SUMMARY).is_file():
        torch.manual_seed(recipe.seed)
        training = Training(
            learning_rate=1e-3, batch_size=16, updates=recipe.updates, patience=1000,
            gradient_norm=1.0, average=0.98, seed=recipe.seed,
        )  # fmt: skip
        model = build_model(Fit(recipe.model), scaling, train, recipe.context)
        both = batches(windows, 16, recipe.seed, True), batches(later, 16, recipe.seed + 1, False)
        ended = fit(model, *both, folder, training, resume=(folder / LAST).is_file())
        write_json(folder / SUMMARY, {**ended, "parameters": model.num_parameters, "seed": recipe.seed, **provenance()})
    model, few = load(folder / MODEL), Gaps(gaps, 48, validation, scaling, guess, length)
    whole = with_dynamics(gated(guess, model, few, 16), table, scaling)
    return Forecaster(train.columns, scaling, whole, recipe.context, 6, model)


def filled(forecaster: Forecaster, visible: Reports, step: NDArray, sensor: NDArray) -> NDArray:
    """Mean and standard deviation `(2, N)` of the square root of the values of N sensors at their steps."""
    places = stations(visible)
    index = {visible.sensors.index(name): row for row, name in enumerate(places.names or ())}
    origins, at = np.unique(step, return_inverse=True)
    found = forecaster.interpolate(visible, places, origins)
    row = np.array([index[one] for one in sensor.tolist()])
    return np.stack([part[at, row, 0] for part in found])


def both_ways(forecasters: tuple[Forecaster, Forecaster], visible: Reports, step: NDArray, sensor: NDArray) -> NDArray:
    """What `filled` gives, `(2, 2, N)`, by the forward and by the backward forecaster."""
    ahead, back = forecasters
    last = visible.num_steps - 1
    return np.stack([filled(ahead, visible, step, sensor), filled(back, backward(visible), last - step, sensor)])


def weighted(found: NDArray, whole: NDArray, sharpness: float, share: float) -> NDArray:
    """The mean of both directions, the one of less spread weighing more, $w = (s_b / s_f)^a / (1 + (s_b / s_f)^a)$, and
    with a share of what linear dynamics say from all."""
    weight = expit(sharpness * np.log(found[1, 1] / found[0, 1]))
    return share * whole + (1 - share) * (weight * found[0, 0] + (1 - weight) * found[1, 0])


def simple(visible: Reports, train: Reports, step: NDArray, sensor: NDArray) -> Iterator[tuple[str, str, NDArray]]:
    """Name, what it reads and values of the predictors that need next to no training, in the user's units."""
    import pandas as pd

    values = np.full((visible.num_steps, len(visible.sensors)), np.nan)
    values[visible.step, visible.sensor] = visible.values[:, 0]
    table = pd.DataFrame(values)
    usual = table.mean(axis=1)
    apart = table.sub(usual, axis=0)
    ways = {
        ("mean of the station", "both"): table * 0 + table.mean(),
        ("last value", "past"): table.ffill(),
        ("last difference from the mean of all", "past"): apart.ffill().add(usual.ffill(), axis=0),
        ("linear in time", "both"): table.interpolate(limit_direction="both"),
        ("linear in time, difference from the mean of all", "both"):
            apart.interpolate(limit_direction="both").add(usual.interpolate(limit_direction="both"), axis=0),
    }  # fmt: skip
    for (name, reads), way in ways.items():
        yield name, reads, way.fillna(table.mean()).to_numpy()[step, sensor]
    for name, reads, roots in zip(
        ("linear dynamics", "linear dynamics, both directions"), ("past", "both"),
        linear(rooted(visible), rooted(train)), strict=True,
    ):  # fmt: skip
        yield name, reads, np.maximum(at(roots, visible, step, sensor), 0) ** 2
    places = stations(visible)
    index = {visible.sensors.index(name): row for row, name in enumerate(places.names or ())}
    row = np.array([index[one] for one in sensor.tolist()])
    for name, predictor in (("inverse distance", InverseDistance(max_age=0)), ("kriging", Kriging(max_age=0))):
        predictor.fit(train)
        guesses = np.empty(len(step))
        for origin in np.unique(step):
            mine = step == origin
            asked = (places.positions[row[mine]], places.covariates[row[mine]], sensor[mine])
            known = visible.where(visible.step == origin)
            guesses[mine] = predictor.predict(known, int(origin), *asked, [0])[0][0, :, 0]
        yield name, "past", guesses


def at(table: NDArray, reports: Reports, step: NDArray, sensor: NDArray) -> NDArray:
    """The entries of a table `(T, S)` whose columns are the stations in order."""
    index = {reports.sensors.index(name): row for row, name in enumerate(stations(reports).names or ())}
    return table[step, [index[one] for one in sensor.tolist()]]


def linear(visible: Reports, train: Reports) -> tuple[NDArray, NDArray]:
    """All roots `(T, S)` by a linear state-space model, from those that were reported until then, and from all."""
    places = stations(visible)
    order = [visible.sensors.index(name) for name in places.names or ()]
    values, known = (np.full((part.num_steps, len(part.sensors)), np.nan) for part in (visible, train))
    for table, part in ((values, visible), (known, train)):
        table[part.step, part.sensor] = part.values[:, 0]
    values, known = values[:, order], known[:, order]
    level = np.nanmean(known, 0)
    usual = np.stack([np.nanmean((known - level)[hour::24]) for hour in range(24)])
    apart = np.linalg.norm(places.positions[:, None] - places.positions, axis=-1)
    alike = np.exp(-apart / np.median(apart))
    mean, offset = (level + usual[np.arange(len(table)) % 24, None] for table in (known, values))
    model = maximised(known - mean, alike, chosen(known - mean, alike))
    past = np.stack([known.state[: len(order)] for _, known in filtered(values - offset, model)])
    whole = smoothed(values - offset, model).states[:, : len(order)]
    return past + offset, whole + offset


def weights(pair: tuple[Forecaster, Forecaster], table: Reports, gaps: NDArray) -> tuple[float, float]:
    """Those of `weighted` with the least error on the training part, from which values are hidden as others were
    missing, `gaps` `(T, S)`: each of `PARTS` by dynamics of the others, with the gaps of the one before."""
    ends = [24 * (table.num_steps // 24 * part // PARTS) for part in range(PARTS + 1)]
    tried, whole, truth = [], [], []
    for begin, end in pairwise(ends):
        steps = np.arange(table.num_steps)
        others, part = without(table, (steps >= begin) & (steps < end)), table.between(begin, end)
        hidden = np.roll(gaps, end - begin, 0)[begin:end][part.step, part.sensor]
        rest = part.where(~hidden)
        asked = part.where(hidden & np.isin(part.sensor, rest.sensor))  # one without any report has no place
        ahead, back = (
            replace(one, guess=with_dynamics(one.guess, known, one.scaling))
            for one, known in zip(pair, (others, backward(others)), strict=True)
        )
        tried.append(both_ways((ahead, back), rest, asked.step, asked.sensor))
        whole.append(at(linear(rest, others)[1], rest, asked.step, asked.sensor))
        truth.append(asked.values[:, 0].astype(np.float64) ** 2)
    found, smooth, values = np.concatenate(tried, -1), np.concatenate(whole), np.concatenate(truth)

    def error(of: NDArray) -> float:
        return float(np.abs(weighted(found, smooth, *of) ** 2 - values).mean())

    best = minimize(error, (1.0, 0.5), method="Nelder-Mead", bounds=((0, 8), (0, 1)))
    return tuple(map(float, best.x))


def main(recipe: Imputation) -> None:
    """Train and score what is missing, and write it."""
    reports, withheld, test = observations(recipe)
    asked = reports.where(withheld & test[reports.step])
    step, sensor, truth = asked.step, asked.sensor, asked.values[:, 0].astype(np.float64)
    visible, label = reports.where(~withheld), LABELS[recipe.model]
    train = without(visible, test)
    roots, table = rooted(visible), rooted(train)

    def known() -> set[str]:
        return {row["predictor"] for row in read(recipe.out).get("rows", [])}

    def keep(name: str, reads: str, values: NDArray, *runs: dict[str, Any]) -> None:
        error = values - truth
        scored = {"mae": float(np.abs(error).mean()), "rmse": float(np.sqrt((error**2).mean())), "count": len(truth)}
        row = {"predictor": name, "reads": reads, **scored}
        print(row, flush=True)
        add(recipe.out, runs, [row], data=recipe.data, seed=recipe.seed, stations=len(reports.sensors))

    if recipe.updates:
        gaps, month = missing(train), min(720, train.num_steps // 6 // 24 * 24)
        first, last = train.num_steps - month, train.num_steps
        ahead = trained(
            recipe, table, table.between(0, first), table.between(first, last), gaps, recipe.runs / "forward"
        )
        if label not in known():
            run = {"label": f"{label}, forward", **read(recipe.runs / "forward" / SUMMARY)}
            keep(label, "past", np.maximum(filled(ahead, roots, step, sensor)[0], 0) ** 2, run)
        if "first guess" not in known():
            nothing = table_of(torch.zeros_like(torch.tensor(ahead.guess.share)))
            alone = replace(ahead, guess=replace(ahead.guess, share=nothing))
            keep("first guess", "past", np.maximum(filled(alone, roots, step, sensor)[0], 0) ** 2)
        turned = backward(table)
        parts = turned.between(month, last), turned.between(0, month)  # the same month chooses the weights
        pair = (ahead, trained(recipe, turned, *parts, gaps[::-1].copy(), recipe.runs / "backward"))
        if f"{label}, both directions" not in known():
            run = {"label": f"{label}, backward", **read(recipe.runs / "backward" / SUMMARY)}
            whole = at(linear(roots, table)[1], roots, step, sensor)
            sharpness, share = weights(pair, table, gaps)
            values = np.maximum(weighted(both_ways(pair, roots, step, sensor), whole, sharpness, share), 0) ** 2
            print(f"sharpness and share of linear dynamics: {sharpness:.2f}, {share:.2f}", flush=True)
            keep(f"{label}, both directions", "both", values, run)
    if recipe.baselines and not {"linear dynamics", "kriging"} <= known():
        for found in simple(visible, train, step, sensor):
            if found[0] not in known():
                keep(*found)


if __name__ == "__main__":
    main(tyro.cli(Imputation))
