"""Scenarios beside independent draws: whether futures hang together over places, lead times and values as truth does.

All ensembles have the same marginals, mean and standard deviation of the forecast, and differ in their dependence:
none; the copula of `Forecaster.scenarios`; the same with a size that all errors of a scenario share; the ranks of
observations of the past (the Schaake shuffle), or of the errors of forecasts of the past, both for stations that were
there; and, as the best that is in reach for a copula of that form, one fitted to the errors of the very test. Scores
are of vectors: the course at one station over all lead times, the map at one lead time of all stations, and the whole
of both; of one value, and of all values together, in standard deviations of each. Further scores are of means over
regions and over the horizon. A second truth, drawn from the copula, shows by how much a score would fall if the copula
were true. Writes `results/scenarios.json`.
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
from scipy.special import ndtr, ndtri
from scoringrules import crps_ensemble, es_ensemble, vs_ensemble

import common
from presets import PRESETS
from s2rm.files import Row
from s2rm.models.named import LABELS
from s2rm.sensors.dependence import Dependence, Hindcast
from s2rm.sensors.fitting import SUMMARY
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import split
from s2rm.sensors.judging.scores import gaussian_crps
from s2rm.sensors.reports import Places, Reports, difference, last_places
from s2rm.sensors.settings import Fit

NONE, COPULA, SIZE = "independent draws", "scenarios", "scenarios of a common size"
SCHAAKE, ERRORS, ORACLE = "Schaake shuffle", "ranks of past errors", "copula of the test's errors"
REGION, MOST = 8, 100
"""stations of a region, and components that the variogram score compares"""
AHEAD = (1, 3, 6, 12, 24)
"""lead times at which maps are scored"""
SEEN, WITHHELD, ALL = "seen", "held out", "all"


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
    """The forecast from an origin, without the withheld stations, at all stations that report later; no scenarios if
    `num` is 0."""
    leads = np.arange(1, forecaster.horizon + 1)
    asked = reports.where(np.isin(reports.step, origin + leads))
    sensor, first, place = np.unique(asked.sensor, return_index=True, return_inverse=True)
    names = tuple(reports.sensors[index] for index in sensor)
    known = reports.of(~withheld)
    there = last_places(known.between(0, origin + 1), asked)
    places = Places(there.positions[first], there.covariates[first], names)
    mean, stddev = (part[0] for part in forecaster.forecast(known, places, [origin]))
    drawn = forecaster.scenarios(known, places, [origin], num=num)[0] if num else mean[None]
    truth = np.full(mean.shape, np.nan)
    truth[asked.step - origin - 1, place] = asked.values
    where = forecaster.scaling.coordinates(places.positions).double().numpy()
    return Case(origin, sensor, where, ~withheld[sensor], mean, stddev, truth, (drawn - mean) / stddev)


class Past(NamedTuple):
    """What came after earlier origins."""

    origins: Int[NDArray, " O"]
    values: Float[NDArray, "O H S C"]
    """what was observed"""
    errors: Float[NDArray, "O H S C"]
    """of the forecasts, in standard deviations"""

    @classmethod
    def of(cls, forecaster: Forecaster, train: Reports, every: int) -> Past:
        """Of origins that often in the training part, for the stations that are seen."""
        origins = np.arange(forecaster.context, train.num_steps - forecaster.horizon, every)
        shape = (len(origins), forecaster.horizon, len(train.sensors), train.values.shape[1])
        values, errors, none = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(len(train.sensors), bool)
        circular = np.array(train.columns.is_circular)
        for row, origin in enumerate(track(origins, "past")):
            case = case_of(forecaster, train, none, int(origin), 0)
            values[row][:, case.sensor] = case.truth
            errors[row][:, case.sensor] = difference(case.truth, case.mean, circular) / case.stddev
        return cls(origins, values, errors)

    @property
    def spread_of_sizes(self) -> float:
        """The standard deviation of the logarithm of the errors' size between origins."""
        return float(np.log(np.sqrt(np.nanmean(np.square(self.errors), (1, 2)))).std(0).mean())


def shuffled(case: Case, past: Past, of: NDArray, num: int, seed: int) -> Float[NDArray, "N H Q C"]:
    """Deviations with the ranks of what came after earlier origins at the same hours; at random where nothing came."""
    generator = np.random.default_rng((seed, case.origin))
    hours = np.abs((past.origins - case.origin + 12) % 24 - 12) + generator.random(len(past.origins)) / 2
    some = of[np.resize(np.argsort(hours)[:num], num)][:, :, case.sensor]
    # What is missing takes the value of another day, and where there is none any rank.
    filled = np.where(np.isnan(some), np.take_along_axis(some, generator.integers(num, size=some.shape), 0), some)
    filled = np.where(np.isnan(filled), generator.standard_normal(some.shape), filled)
    return standardised(gaussian_ranks(filled + 1e-6 * generator.standard_normal(some.shape)))


def gaussian_ranks(drawn: Float[NDArray, " N *batch"]) -> Float[NDArray, " N *batch"]:
    return ndtri((drawn.argsort(0).argsort(0) + 0.5) / len(drawn))


def standardised(drawn: Float[NDArray, " N *batch"]) -> Float[NDArray, " N *batch"]:
    """Of mean 0 and mean square 1 over the draws, as the deviations of scenarios."""
    drawn = drawn - drawn.mean(0)
    return drawn / np.sqrt(np.square(drawn).mean(0))


def white(case: Case, num: int, seed: int) -> Float[NDArray, "N H Q C"]:
    """Independent deviations."""
    return standardised(np.random.default_rng((seed, case.origin)).standard_normal((num, *case.mean.shape)))


def of_a_size(case: Case, spread: float, seed: int) -> Float[NDArray, "N H Q C"]:
    """The deviations of scenarios times a number that is one for each whole scenario, as in a t copula, and back to a
    Gaussian one by one."""
    number = len(case.drawn)
    sizes = np.exp(spread * ndtri((np.random.default_rng((seed, case.origin)).permutation(number) + 0.5) / number))
    nodes, grid = np.exp(spread * ndtri((np.arange(100) + 0.5) / 100)), np.linspace(-9, 9, 2000)
    shares = ndtr(grid[:, None] / nodes).mean(1).clip(1e-9, 1 - 1e-9)
    return standardised(ndtri(np.interp(case.drawn * sizes[:, None, None, None], grid, shares)))


def vectors(grid: Int[NDArray, "H Q C"]) -> dict[str, list[NDArray]]:
    """Which components make the vectors that are scored, by name."""
    ahead = [step - 1 for step in AHEAD if step <= len(grid)]
    courses, maps = [grid[:, place].ravel() for place in range(grid.shape[1])], [grid[step].ravel() for step in ahead]
    return {"lead times": courses, "places": maps, "both": [grid.ravel()]}


def regions(grid: Int[NDArray, "H Q 1"], places: Float[NDArray, "Q n"]) -> dict[str, list[NDArray]]:
    """Of which components means are taken: of a station and its nearest ones, of all, and of a station's horizon."""
    near = [np.argsort(np.linalg.norm(places - place, axis=-1))[:REGION] for place in places]
    ahead = [step - 1 for step in AHEAD if step <= len(grid)]
    by_region = [grid[step, some, 0] for step in ahead for some in near[:: max(1, len(near) // 20)]]
    maps, courses = [grid[step, :, 0] for step in ahead], [*grid[..., 0].T]
    return {"mean of a region": by_region, "mean of all places": maps, "mean of the horizon": courses}


def scored(
    case: Case, errors: NDArray, values: list[int], chosen: Bool[NDArray, " Q"], unit: NDArray, truth: NDArray,
    generator: np.random.Generator,
) -> Row:  # fmt: skip
    """Scores of an ensemble of deviations, of some values at some stations, means over the vectors of each kind.

    Args:
        values: which; of several there are no means over regions.
        unit: what is 1 of each of them.
        truth: what came, `(H, Q, C)`.
        generator: of the components that the variogram score compares.
    """
    part = np.ix_(range(len(case.mean)), chosen.nonzero()[0], values)
    mean, stddev, y = case.mean[part] / unit, case.stddev[part] / unit, (truth[part] / unit).ravel()
    members = (mean + errors[(slice(None), *part)] * stddev).reshape(len(errors), -1)
    grid, row = np.arange(y.size).reshape(mean.shape), {}

    def known(kinds: list[NDArray]) -> list[NDArray]:
        there = [some[~np.isnan(y[some])] for some in kinds]
        return [some for some in there if len(some) > 1]

    for name, kinds in vectors(grid).items():
        there = known(kinds)
        if not there:
            continue
        each = [es_ensemble(y[some], members[:, some], estimator="fair") / len(some) ** 0.5 for some in there]
        row[f"energy, {name}"] = float(np.mean(each))
        few = [generator.permutation(some)[:MOST] for some in there]
        each = [vs_ensemble(y[some], members[:, some]) / (len(some) * (len(some) - 1)) for some in few]
        row[f"variogram, {name}"] = float(np.mean(each))
    for name, kinds in regions(grid, case.places[chosen]).items() if len(values) == 1 else ():
        if there := known(kinds):
            means = [crps_ensemble(y[some].mean(), members[:, some].mean(-1)) for some in there]
            row[f"crps, {name}"] = float(np.mean(means))
    each = ~np.isnan(y)
    if each.any():
        row["crps, each"] = float(crps_ensemble(y[each], members[:, each], m_axis=0).mean())
        row["crps, Gaussian"] = float(gaussian_crps(y - mean.ravel(), stddev.ravel())[each].mean())
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
    tested = [
        Hindcast(case.places, case.seen, np.arange(1, horizon + 1), one)
        for case, one in zip(cases, errors, strict=True)
    ]
    oracle, own = Dependence.of(tested, forecaster.scaling.extent), forecaster.dependence
    assert oracle is not None
    assert own is not None
    past, ahead, (num, seed) = (
        Past.of(forecaster, parts.train, preset.every),
        range(1, horizon + 1),
        (recipe.num, recipe.seed),
    )
    ensembles: dict[str, Callable[[Case], NDArray]] = {
        NONE: lambda case: white(case, num, seed),
        COPULA: lambda case: case.drawn,
        SIZE: lambda case: of_a_size(case, past.spread_of_sizes, seed),
        SCHAAKE: lambda case: shuffled(case, past, past.values, num, seed),
        ERRORS: lambda case: shuffled(case, past, past.errors, num, seed),
        ORACLE: lambda case: oracle.draw(case.places, case.seen, ahead, num, (seed, case.origin)),
    }
    straight, unit = np.flatnonzero(~circular).tolist(), np.nanstd(parts.train.values, 0)
    names = reports.columns.values
    asked = [(names[value], [value], np.ones(1), group) for value in straight for group in (SEEN, WITHHELD)]
    asked += [(ALL, straight, unit[straight], group) for group in (SEEN, ALL)]
    found: dict[tuple[str, str, str], list[Row]] = {}
    for case in track(cases, f"{name}, scores"):
        possible = own.draw(case.places, case.seen, ahead, 1, (seed + 1, case.origin))[0]
        possible = np.where(np.isnan(case.truth), np.nan, case.mean + possible * case.stddev)
        groups = {SEEN: case.seen, WITHHELD: ~case.seen, ALL: np.ones_like(case.seen)}
        for label, draw in ensembles.items():
            drawn = draw(case)
            for title, values, units, group in asked:
                if group != SEEN and label in (SCHAAKE, ERRORS):
                    continue
                for kind, truth in (("", case.truth), (", if true", possible)):
                    if kind and (label not in (NONE, COPULA) or group != ALL):
                        continue
                    generator = np.random.default_rng((seed, case.origin, values[0]))
                    row = scored(case, drawn, values, groups[group], units, truth, generator)
                    found.setdefault((label + kind, title, group), []).append(row)
    rows = []
    for (label, value, group), few in found.items():
        keys = dict.fromkeys(key for row in few for key in row)
        means = {key: float(np.mean([row[key] for row in few if key in row])) for key in keys}
        about = {"predictor": label, "data": name, "value": value, "sensors": group}
        rows.append({**about, **means, "origins": len(few)})
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
            ratios = {key: round(row[key] / one[key], 4) for key in row if key.startswith(("energy", "crps"))}
            print(name, row["value"], row["sensors"], row["predictor"], ratios)


if __name__ == "__main__":
    main(tyro.cli(Scenarios))
