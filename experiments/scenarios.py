"""Scenarios beside independent draws: whether futures hang together over places and lead times as what came did.

All ensembles have the same marginals, mean and standard deviation of the forecast, and differ in their dependence:
none, the copula of `Forecaster.scenarios`, that of the observed past (the Schaake shuffle), and, as the best that is in
reach, a copula fitted to the errors of the very test. Scores are of vectors: a value at one place over all lead times,
at one lead time over all places, and over both; and of means over regions and over the horizon. A second truth, drawn
from the copula, shows by how much a score would fall if the copula were true. Writes `results/scenarios.json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from rich.progress import track
from scipy.special import ndtri

import common
from presets import PRESETS
from s2rm.files import Row
from s2rm.models.named import LABELS
from s2rm.sensors.dependence import Dependence, Hindcast
from s2rm.sensors.ensembles import energy_score, ensemble_crps, variogram_score
from s2rm.sensors.fitting import SUMMARY
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging import gaussian_crps, split
from s2rm.sensors.reports import Places, Reports, difference
from s2rm.sensors.settings import Fit

NONE, COPULA, SCHAAKE, ORACLE = "independent draws", "scenarios", "Schaake shuffle", "copula of the test's errors"
REGION, MOST = 8, 100
"""stations of a region, and components that the variogram score compares"""


@dataclass(frozen=True)
class Scenarios:
    """What to run."""

    data: tuple[Literal["molene", "ndbc", "field"], ...] = ("molene", "ndbc")
    """which tables; field is synthetic and needs no files"""
    updates: int = 300
    """updates of the model"""
    num: int = 50
    """scenarios of each forecast"""
    origins: int = 1000
    """initialisation times at most"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/scenarios")
    """where the forecasters are; one that is there is not fitted again"""
    out: Path = Path("results/scenarios.json")
    """the scores"""
    seed: int = 0
    """of the withheld stations, the weights and the draws"""


class Case(NamedTuple):
    """A forecast of Q stations at H lead times, and what came."""

    origin: int
    sensor: Int[NDArray, " Q"]
    places: Float[NDArray, "Q n"]
    seen: Bool[NDArray, " Q"]
    mean: Float[NDArray, "H Q C"]
    stddev: Float[NDArray, "H Q C"]
    truth: Float[NDArray, "H Q C"]
    drawn: Float[NDArray, "N H Q C"]
    """the scenarios' deviations, in standard deviations"""


def case_of(forecaster: Forecaster, reports: Reports, withheld: Bool[NDArray, " S"], origin: int, num: int) -> Case:
    """The forecast from an origin, without the withheld stations, at all stations that report later."""
    leads = np.arange(1, forecaster.horizon + 1)
    asked = reports.where(np.isin(reports.step, origin + leads))
    sensor, first, place = np.unique(asked.sensor, return_index=True, return_inverse=True)
    names = tuple(reports.sensors[index] for index in sensor)
    places = Places(asked.positions[first], asked.covariates[first], names)
    known = reports.of(~withheld)
    mean, stddev = (part[0] for part in forecaster.forecast(known, places, [origin]))
    drawn = forecaster.scenarios(known, places, [origin], num=num)[0]
    truth = np.full(mean.shape, np.nan)
    truth[asked.step - origin - 1, place] = asked.values
    where = forecaster.scaling.coordinates(places.positions).double().numpy()
    return Case(origin, sensor, where, ~withheld[sensor], mean, stddev, truth, (drawn - mean) / stddev)


def shuffled(case: Case, train: Reports, num: int, seed: int) -> Float[NDArray, "N H Q C"]:
    """Deviations with the ranks of observations at the same hours of earlier days; at random where there are none."""
    horizon, generator = len(case.mean), np.random.default_rng((seed, case.origin))
    starts = np.arange(train.num_steps - horizon)
    hours = np.abs((starts - case.origin + 12) % 24 - 12) + generator.random(len(starts)) / 2
    table = np.full((train.num_steps, len(train.sensors), train.values.shape[1]), np.nan)
    table[train.step, train.sensor] = train.values
    past = np.stack(
        [table[start + 1 : start + 1 + horizon][:, case.sensor] for start in np.sort(np.argsort(hours)[:num])]
    )
    # What is missing takes the value of another day, and where there is none any rank.
    filled = np.where(np.isnan(past), np.take_along_axis(past, generator.integers(num, size=past.shape), 0), past)
    filled = np.where(np.isnan(filled), generator.standard_normal(past.shape), filled)
    rank = (filled + 1e-6 * generator.standard_normal(past.shape)).argsort(0).argsort(0)
    return ndtri((rank + 0.5) / num) / np.sqrt(np.square(ndtri((np.arange(num) + 0.5) / num)).mean())


def white(case: Case, num: int, seed: int) -> Float[NDArray, "N H Q C"]:
    """Independent deviations, of mean 0 and mean square 1 over the draws, as those of scenarios."""
    drawn = np.random.default_rng((seed, case.origin)).standard_normal((num, *case.mean.shape))
    drawn -= drawn.mean(0)
    return drawn / np.sqrt(np.square(drawn).mean(0))


def vectors(case: Case, seen: bool) -> dict[str, list[NDArray]]:
    """Which components `(H, Q)` make the vectors that are scored, by name; those of one value."""
    grid = np.arange(case.mean[..., 0].size).reshape(case.mean.shape[:2])[:, case.seen == seen]
    ahead = [step - 1 for step in (1, 3, 6, 12, 24) if step <= len(grid)]
    return {"lead times": [*grid.T], "places": [*grid[ahead]], "both": [grid.ravel()]}


def regions(case: Case, seen: bool) -> dict[str, list[NDArray]]:
    """Of which components means are taken: of a station and its nearest ones, of all, and of a station's horizon."""
    grid = np.arange(case.mean[..., 0].size).reshape(case.mean.shape[:2])[:, case.seen == seen]
    places = case.places[case.seen == seen]
    near = [np.argsort(np.linalg.norm(places - place, axis=-1))[:REGION] for place in places]
    ahead = [step - 1 for step in (1, 3, 6, 12, 24) if step <= len(grid)]
    by_region = [grid[step, some] for step in ahead for some in near[:: max(1, len(near) // 20)]]
    return {"mean of a region": by_region, "mean of all places": [*grid[ahead]], "mean of the horizon": [*grid.T]}


def scored(case: Case, errors: NDArray, value: int, seen: bool, truth: NDArray, generator: np.random.Generator) -> Row:
    """Scores of an ensemble of deviations, of one value at one group of stations, in standard deviations of the value's
    mean spread; a mean over the vectors of each kind."""
    mean, stddev = case.mean[..., value].ravel(), case.stddev[..., value].ravel()
    members = mean + errors[..., value].reshape(len(errors), -1) * stddev
    y, row = truth[..., value].ravel(), {}
    for name, kinds in vectors(case, seen).items():
        known = [some[~np.isnan(y[some])] for some in kinds]
        known = [some for some in known if len(some) > 1]
        if not known:
            continue
        few = [generator.permutation(some)[:MOST] for some in known]
        row[f"energy, {name}"] = np.mean([energy_score(members[:, some], y[some]) / len(some) ** 0.5 for some in known])
        row[f"variogram, {name}"] = np.mean([variogram_score(members[:, some], y[some]) for some in few])
    for name, kinds in regions(case, seen).items():
        known = [some[~np.isnan(y[some])] for some in kinds]
        known = [some for some in known if len(some) > 1]
        if known:
            means = [(members[:, some].mean(-1), y[some].mean(keepdims=True)[0]) for some in known]
            row[f"crps, {name}"] = np.mean([ensemble_crps(drawn[:, None], np.array([one])) for drawn, one in means])
    each = np.concatenate(vectors(case, seen)["lead times"])
    each = each[~np.isnan(y[each])]
    if len(each):
        row["crps, each"] = ensemble_crps(members[:, each], y[each]).mean()
        row["crps, Gaussian"] = gaussian_crps(y[each] - mean[each], stddev[each]).mean()
    return row


def compared(name: str, recipe: Scenarios) -> tuple[Row, list[Row]]:
    """The run and the rows of a table."""
    preset = PRESETS[name]
    reports = preset.read(recipe.folder, None, recipe.seed)
    parts = split(reports, 0.3, preset.withheld, recipe.seed)
    folder, how = recipe.runs / name, Fit()
    how = replace(how, training=replace(how.training, updates=recipe.updates, minutes=None, seed=recipe.seed))
    if not (folder / SUMMARY).is_file():
        Forecaster.fit(parts.train, folder, how)
    forecaster = Forecaster.load(folder)
    origins = preset.origins(parts.first, reports.num_steps)[: recipe.origins]
    cases = [case_of(forecaster, reports, parts.withheld, int(origin), recipe.num) for origin in track(origins, name)]
    horizon, circular = len(cases[0].mean), np.array(reports.columns.is_circular)
    errors = [difference(case.truth, case.mean, circular) / case.stddev for case in cases]
    past = [
        Hindcast(case.places, case.seen, np.arange(1, horizon + 1), one)
        for case, one in zip(cases, errors, strict=True)
    ]
    oracle = Dependence.of(past, forecaster.scaling.extent)
    assert oracle is not None
    assert forecaster.dependence is not None
    ahead = range(1, horizon + 1)
    ensembles: dict[str, Callable[[Case], NDArray]] = {
        NONE: lambda case: white(case, recipe.num, recipe.seed),
        COPULA: lambda case: case.drawn,
        SCHAAKE: lambda case: shuffled(case, parts.train, recipe.num, recipe.seed),
        ORACLE: lambda case: oracle.draw(case.places, case.seen, ahead, recipe.num, (recipe.seed, case.origin)),
    }
    found: dict[tuple[str, str, int, bool], list[Row]] = {}
    for case in track(cases, f"{name}, scores"):
        possible = forecaster.dependence.draw(case.places, case.seen, ahead, 1, (recipe.seed + 1, case.origin))[0]
        possible = np.where(np.isnan(case.truth), np.nan, case.mean + possible * case.stddev)
        for label, draw in ensembles.items():
            drawn = draw(case)
            for value in np.flatnonzero(~circular):
                for seen in (True, False) if label != SCHAAKE else (True,):
                    for kind, truth in (("", case.truth), (", if true", possible)):
                        if kind and label not in (NONE, COPULA):
                            continue
                        generator = np.random.default_rng((recipe.seed, case.origin, value))
                        row = scored(case, drawn, value, seen, truth, generator)
                        found.setdefault((label, kind, value, seen), []).append(row)
    rows = []
    for (label, kind, value, seen), few in found.items():
        about = {"predictor": label + kind, "data": name, "value": reports.columns.values[value]}
        means = {key: float(np.mean([row[key] for row in few if key in row])) for key in few[0]}
        rows.append({**about, "sensors": "seen" if seen else "held out", **means, "origins": len(few)})
    summary = common.read(folder / SUMMARY)
    run = {"label": f"{LABELS[how.model]}, {name}", "learning_rate": how.training.learning_rate, **summary}
    return {**run, "dependence": str(forecaster.dependence)}, rows


def main(recipe: Scenarios) -> None:
    """Fit and score on each table that is not in the result yet, and add it."""
    for name in recipe.data:
        if name in {row["data"] for row in common.read(recipe.out).get("rows", [])}:
            continue
        run, rows = compared(name, recipe)
        common.add(recipe.out, [run], rows, seed=recipe.seed, num=recipe.num)
        base = {(row["value"], row["sensors"]): row for row in rows if row["predictor"] == NONE}
        for row in rows:
            one = base[row["value"], row["sensors"]]
            ratios = {key: round(row[key] / one[key], 3) for key in row if key.startswith(("energy", "crps"))}
            print(name, row["value"], row["sensors"], row["predictor"], ratios)


if __name__ == "__main__":
    main(tyro.cli(Scenarios))
