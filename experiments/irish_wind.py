"""Irish wind: daily means one day ahead, beside the space-time kriging of Gneiting, Genton and Guttorp (2007).

The protocol is the published one: the square root of the wind in m/s, less the mean of each calendar day over stations
and training years, and less each station's mean; without Rosslare, as in Haslett and Raftery (1989); 1961 to 1970 for
training, 1971 to 1978 for the test. All scores are in the unit of these residuals, the square root of m/s. Kriging is
computed anew, from the covariance with its published parameters and with parameters of most likelihood. Writes
`results/irish-wind.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize

from common import read, write
from presets import PRESETS
from s2rm.models.named import LABELS
from s2rm.sensors.fitting import SUMMARY
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.judging.judge import blocks
from s2rm.sensors.judging.scores import case_scores, scores
from s2rm.sensors.judging.verdicts import interval
from s2rm.sensors.reports import EARTH_RADIUS, Reports, stations
from s2rm.sensors.settings import Fit, ForecastModel
from s2rm.training import Training

KNOT = 0.514444
"""m/s"""
PAST = 3
"""days from which the linear predictors forecast"""


class Covariance(NamedTuple):
    r"""Parameters of the correlation of Gneiting, Genton and Guttorp (2007, equation 4.14) at a distance $h$, whose
    eastern part is $h_1$, and a lag of $u$ days:

    $$\frac{(1 - \nu)(1 - \lambda)}{1 + a u^{2 \alpha}} \left( \exp \frac{-c \|h\|}{(1 + a u^{2\alpha})^{\beta / 2}}
    + \frac{\nu}{1 - \nu} 1_{h = 0} \right) + \lambda \left(1 - \frac{|h_1 - v u|}{2 v} \right)_+$$
    """

    nugget: float
    """nu"""
    c: float
    """per km"""
    alpha: float
    a: float
    beta: float
    lambda_: float
    drift: float
    """v, km a day to the east"""


PUBLISHED = Covariance(0.0415, 0.00134, 0.772, 0.901, 0.681, 0.0572, 234.0)


@dataclass(frozen=True)
class Wind:
    """What to run."""

    data: Literal["wind", "field"] = "wind"
    """which data; field is synthetic and needs no files"""
    model: ForecastModel = "s2gru"
    """the model to fit"""
    updates: int = 800
    """updates of the model"""
    context: int = 5
    """days from which it forecasts"""
    folder: Path = Path("../shared/data")
    """folder of the data sets"""
    runs: Path = Path("runs/irish-wind")
    """where the run folder is"""
    out: Path = Path("results/irish-wind.json")
    """the scores"""
    seed: int = 0
    """of the weights and of the order"""


class Velocities(NamedTuple):
    """Residuals of the root of the wind, without a gap."""

    reports: Reports
    values: Float[NDArray, "T S"]
    first: int
    """step at which the test begins"""


def velocities(recipe: Wind) -> Velocities:
    """The residuals; of the synthetic data those of its stations, with gaps filled by the last value."""
    if recipe.data == "wind":
        reports = PRESETS["wind"].read(recipe.folder)
        reports = reports.of(np.array([name != "ROS" for name in reports.sensors]))
        first = int(np.searchsorted(reports.times, np.datetime64("1971-01-01")))
        roots = np.sqrt(KNOT * reports.values[:, 0].astype(np.float64))
    else:
        reports = PRESETS["field"].read(recipe.folder, 120, recipe.seed)
        reports = reports.of(np.array([name in ("station 1", "station 4", "station 5") for name in reports.sensors]))
        reports, first = replace(reports, columns=replace(reports.columns, step="1D", circular=())), 80
        roots = np.sqrt(np.abs(reports.values[:, 0].astype(np.float64)))
    table = np.full((reports.num_steps, len(reports.sensors)), np.nan)
    table[reports.step, reports.sensor] = roots
    table = table[:, ~np.isnan(table).all(0)]
    return residuals(table, reports, first)


def residuals(table: NDArray, reports: Reports, first: int) -> Velocities:
    """The roots of the wind less the calendar day's mean and each station's, both from the training part."""
    days = np.array([str(time)[5:10] for time in reports.times.astype("datetime64[D]")])
    seasons = {day: np.nanmean(table[:first][days[:first] == day]) for day in np.unique(days[:first])}
    usual = float(np.nanmean(table[:first]))
    left = table - np.array([seasons.get(day, usual) for day in days])[:, None]
    left -= np.nanmean(left[:first], 0)
    for step in range(len(left)):
        left[step] = np.where(np.isnan(left[step]), left[step - 1] if step else 0.0, left[step])
    places = stations(reports)
    columns = replace(reports.columns, values=("velocity",), circular=(), covariates=())
    step, sensor = (part.ravel() for part in np.indices(left.shape))
    made = Reports(
        columns, reports.start, reports.num_steps, places.names or (), step, sensor, places.positions[sensor],
        left.astype(np.float32).reshape(-1, 1), np.zeros((len(step), 0), np.float32),
    )  # fmt: skip
    return Velocities(made, left, first)


def offsets(reports: Reports) -> NDArray:
    """East and north, in km, from each station to each other, `(S, S, 2)`."""
    places = stations(reports).positions
    if not reports.columns.on_the_globe:
        return places - places[:, None]
    away = np.radians(places - places[:, None])
    middle = np.radians((places[:, 1] + places[:, None, 1]) / 2)
    return EARTH_RADIUS * np.stack([away[..., 0] * np.cos(middle), away[..., 1]], -1)


def correlation(parameters: Covariance, away: Float[NDArray, "S S 2"], lag: int) -> Float[NDArray, "S S"]:
    """Of each station's value with that of each other, to which `away` leads, `lag` days later."""
    nugget, c, alpha, a, beta, moved, drift = parameters
    distance = np.linalg.norm(away, axis=-1)
    slow = 1 + a * abs(lag) ** (2 * alpha)
    still = np.exp(-c * distance / slow ** (beta / 2)) + nugget / (1 - nugget) * (distance == 0)
    carried = np.maximum(1 - np.abs(away[..., 0] - drift * lag) / (2 * drift), 0)
    return (1 - nugget) * (1 - moved) / slow * still + moved * carried


def kriging(parameters: Covariance, away: Float[NDArray, "S S 2"]) -> tuple[NDArray, NDArray]:
    """Weights `(S, PAST * S)` of simple kriging from the last days, the oldest first, and its errors' covariance."""
    days = range(PAST + 1)
    joint = np.block([[correlation(parameters, away, later - day) for later in days] for day in days])
    known = PAST * len(away)
    weights = np.linalg.solve(joint[:known, :known], joint[:known, known:]).T
    return weights, joint[known:, known:] - weights @ joint[:known, known:]


def likeliest(standard: Float[NDArray, "T S"], away: Float[NDArray, "S S 2"]) -> Covariance:
    """The parameters under which the standardised days of training, each after the last ones, are likeliest."""
    past, now = lagged(standard)

    def loss(free: NDArray) -> float:
        weights, errors = kriging(constrained(free), away)
        sign, size = np.linalg.slogdet(errors)
        left = now - past @ weights.T
        return (
            np.inf if sign <= 0 else float(size + np.einsum("ts,ts->", left @ np.linalg.inv(errors), left) / len(now))
        )

    start = np.array([-3.0, np.log(0.00134), 1.2, 0.0, 0.8, -2.8, np.log(234)])
    return constrained(minimize(loss, start, method="Nelder-Mead", options={"maxfev": 1500, "xatol": 1e-3}).x)


def constrained(free: NDArray) -> Covariance:
    """Any seven numbers as parameters within their ranges: shares are logistic, scales exponential."""
    nugget, c, alpha, a, beta, moved, drift = np.clip(free, -12, 12)
    nugget, alpha, beta, moved = 1 / (1 + np.exp(-np.array([nugget, alpha, beta, moved])))
    return Covariance(*map(float, (nugget, np.exp(c), alpha, np.exp(a), beta, moved, np.exp(drift))))


def lagged(values: Float[NDArray, "T S"]) -> tuple[NDArray, NDArray]:
    """The last days before each day, side by side, the oldest first, and the day itself."""
    past = np.concatenate([values[day : len(values) - PAST + day] for day in range(PAST)], 1)
    return past, values[PAST:]


def simple(wind: Velocities) -> Iterator[tuple[str, NDArray, NDArray]]:
    """Name, mean and standard deviation `(T, S)` of the predictors that are linear, for all days of the test."""
    train, test = wind.values[: wind.first], wind.values[wind.first - PAST :]
    spread, shape = train.std(0), wind.values[wind.first :].shape
    yield "climatology", np.zeros(shape), np.broadcast_to(spread, shape)
    yield "persistence", test[PAST - 1 : -1], np.broadcast_to(np.diff(train, axis=0).std(0), shape)
    past, now = lagged(train)
    weights = np.linalg.lstsq(past, now, rcond=None)[0]
    left = (now - past @ weights).std(0)
    yield f"linear regression on {PAST} days of all", lagged(test)[0] @ weights, np.broadcast_to(left, shape)
    away = offsets(wind.reports)
    for name, parameters in (("published", PUBLISHED), ("likeliest", likeliest(train / spread, away))):
        print(f"{name} parameters: {parameters}")
        found, errors = kriging(parameters, away)
        mean = lagged(test / spread)[0] @ found.T * spread
        yield f"space-time kriging, {name} parameters", mean, np.broadcast_to(spread * np.sqrt(np.diag(errors)), shape)


def main(recipe: Wind) -> None:
    """Score the linear predictors, fit and score the model, and write."""
    wind, label = velocities(recipe), LABELS[recipe.model]
    truth = wind.values[wind.first :]
    found = {name: (mean, stddev) for name, mean, stddev in simple(wind)}
    folder = recipe.runs / recipe.model
    if not (folder / SUMMARY).is_file():
        training = Training(
            learning_rate=1e-3, batch_size=16, updates=recipe.updates, patience=1000, gradient_norm=1.0, average=0.98,
            seed=recipe.seed,
        )  # fmt: skip
        how = Fit(recipe.model, context=recipe.context, horizon=2, training=training)
        Forecaster.fit(wind.reports.between(0, wind.first), folder, how)
    origins = np.arange(wind.first - 1, wind.reports.num_steps - 1)
    forecast = Forecaster.load(folder).forecast(wind.reports, stations(wind.reports), origins, 1)
    mean, stddev = (part[:, 0, :, 0] for part in forecast)
    found[label] = (mean, stddev)
    rows = []
    crps = {}
    for name, (mean, stddev) in found.items():
        parts = (part.reshape(1, -1, 1).astype(np.float64) for part in (mean, np.array(stddev), truth))
        row = {key: float(part.squeeze()) for key, part in scores(*parts, np.array([False])).items()}
        crps[name] = case_scores(mean, np.array(stddev), truth, np.zeros(truth.shape[1], bool))["crps"].sum(1)
        rows.append({"predictor": name, **row})
    block = blocks(origins, 30)  # a month
    sums = {name: np.bincount(block, part)[None] for name, part in crps.items()}
    best = min((row for row in rows if row["predictor"] != label), key=lambda row: row["crps"])
    low, high = interval(sums[label], sums[best["predictor"]])
    rows[-1] |= {"gain": 1 - rows[-1]["crps"] / best["crps"], "gain_low": low, "gain_high": high}
    runs = [{"label": label, **read(folder / SUMMARY)}]
    write(
        recipe.out, runs, rows, data=recipe.data, seed=recipe.seed, stations=truth.shape[1], days=len(truth),
        best_other=best["predictor"],
    )  # fmt: skip
    for row in rows:
        print({key: round(part, 4) if isinstance(part, float) else part for key, part in row.items()})


if __name__ == "__main__":
    main(tyro.cli(Wind))
