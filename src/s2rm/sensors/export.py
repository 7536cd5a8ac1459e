"""Export of a forecaster: a step of its stream and the forecasts after it, in the user's units, as one ONNX file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from s2rm.export import StreamingStep, free_axes, save_onnx
from s2rm.sensors.first_guess.candidates import Asked
from s2rm.sensors.first_guess.guess import values_of_channels
from s2rm.sensors.first_guess.history import History, Rows, means_over_cycles
from s2rm.sensors.first_guess.weights import NEIGHBOURS
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.times import step_microseconds

if TYPE_CHECKING:
    from s2rm.sensors.forecaster import Forecaster


class ForecastStep(nn.Module):
    """`Forecaster.step` and `Forecaster.forecast_from` as one function of tensors, first guess and scaling included.

    S sensors, Q places, J lead times may differ from call to call, S not within a stream. All numbers are in the user's
    units; NaN is a value or covariate that is not known.

    | input | what it is |
    | --- | --- |
    | `positions`, `values`, `mask` | the observations of the step: float64 `(1, S, n)`, `(1, S, C)`, bool `(1, S)` |
    | `covariates` | `(1, S, F)`, of the sensors |
    | `queries`, `query_covariates` | the places: float64 `(1, Q, n)`, and `(1, Q, F)` |
    | `query_sensors` | int64 `(1, Q)`: the sensor at each place, -1 for none |
    | `leads` | int64 `(J,)`, lead times in steps, 0 for the step itself |
    | `time` | int64 `()`: when the step begins, seconds since 1970, UTC |
    | `modules` | bool `(M,)`, where the model has modules: False removes one |
    | `state_0`, ... | the tensors of the state |

    | output | what it is |
    | --- | --- |
    | `predicted_mean`, `predicted_stddev` | `(1, J, Q, C)` |
    | `active`, `reads`, `hears`, `enclaves` | as of [`StreamingStep`][s2rm.export.StreamingStep] |
    | `next_0`, ... | the tensors of the new state |

    Raises:
        ValueError: values that are neither Gaussian nor directions, or quantities that are known ahead.
    """

    def __init__(self, forecaster: Forecaster):
        super().__init__()
        if forecaster.columns.ahead:
            known = ", ".join(forecaster.columns.ahead)
            raise ValueError(
                f"export: expected a forecaster of observations alone, got one that is given {known} ahead; forecast "
                "with s2rm forecast, or fit without it"
            )
        if forecaster.scaling.marginals:
            named = zip(forecaster.columns.values, forecaster.columns.kinds, strict=True)
            kinds = ", ".join(f"{name} ({kind})" for name, kind in named if kind)
            raise ValueError(
                f"export: expected Gaussian values and directions, got {kinds}, whose transform is not exported; "
                "forecast with s2rm forecast, or fit without declaring them"
            )
        if step_microseconds(forecaster.columns.step) % 1_000_000:
            raise ValueError(
                f"export: expected steps of whole seconds, got {forecaster.columns.step}; forecast with s2rm forecast"
            )
        self.forecaster, self.step = forecaster, StreamingStep(forecaster.model)
        # Kept from now on, and not only as what an export sees of them.
        forecaster.guess.tables, forecaster.guess.filter  # noqa: B018
        self.model, self.num_modules = forecaster.model, self.step.num_modules
        given = ["modules"] * (self.num_modules > 0)
        states = range(len(self.initial_state(1, 1)))
        self.inputs = [
            "positions", "values", "mask", "covariates", "queries", "query_covariates", "query_sensors", "leads",
            "time", *given, *(f"state_{number}" for number in states),
        ]  # fmt: skip
        watched = [name for name in self.step.outputs if name in ("active", "reads", "hears", "enclaves")]
        self.outputs = ["predicted_mean", "predicted_stddev", *watched, *(f"next_{number}" for number in states)]

    def initial_state(self, batch_size: int = 1, views: int = 1) -> tuple[Tensor, ...]:
        """The tensors of the state before any observation of so many sensors."""
        scaling = self.forecaster.scaling
        unknown = torch.full((self.forecaster.memory, views, scaling.num_channels), torch.nan)
        covariates = torch.full((views, len(scaling.covariate_mean)), torch.nan)
        return (*self.step.initial_state(1, views), unknown, torch.zeros(views, scaling.num_coordinates), covariates)

    def forward(
        self, positions: Tensor, values: Tensor, mask: Tensor, covariates: Tensor, queries: Tensor,
        query_covariates: Tensor, query_sensors: Tensor, leads: Tensor, time: Tensor, *rest: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        scaling, guess = self.forecaster.scaling, self.forecaster.guess
        modules, state = (rest[:1], rest[1:]) if self.num_modules else ((), rest)
        *model_state, past, last_places, last_known = state
        placed, asked_at = coordinates(scaling, positions), coordinates(scaling, queries)
        now, known, described = (
            channels(scaling, values), standardised(scaling, covariates), standardised(scaling, query_covariates)
        )  # fmt: skip
        there = mask & ~now.isnan().all(-1)
        now = torch.where(there[..., None], now, torch.nan)
        past = torch.cat([past[1:], now])
        last_places = torch.where(there[0, :, None], placed[0], last_places)
        last_known = torch.where(there[0, :, None] & ~known[0].isnan(), known[0], last_known)
        known = torch.where(there[..., None], last_known, known)
        history = self.history(past, last_places, last_known, time)

        number, ahead = queries.shape[1], leads.shape[0]
        origin = torch.full((1, 1), len(past) - 1)
        asked = Asked(
            origin[..., None].expand(-1, -1, history.num_sensors), origin, asked_at[None], described[None],
            query_sensors[None], leads.expand(1, 1, number, -1),
        )  # fmt: skip
        hours = clock(time + leads * self.seconds, scaling.seasons).expand(1, 1, number, -1, -1)
        context = guess.context(history, asked, hours, guess.climate_at(hours), scaling)
        where = asked_at[:, :, None].expand(-1, -1, ahead, -1).flatten(1, 2)
        views = torch.cat([now, known], -1)
        mean, stddev, *others = self.step(placed, views, there, where, context.features[:, 0], *modules, *model_state)
        mean, stddev = (part[:, None, :, : scaling.num_channels] for part in (mean, stddev))
        made = guess.corrected(mean, stddev, context, values_of_channels(scaling))
        made = units(scaling, *(part.unflatten(2, (number, ahead))[:, 0].transpose(1, 2) for part in made))
        watched, after = others[: len(others) - len(model_state)], others[len(others) - len(model_state) :]
        if "enclaves" in self.outputs:
            watched[-1] = watched[-1].unflatten(2, (number, ahead))[..., 0]
        return *made, *watched, *after, past, last_places, last_known

    @property
    def seconds(self) -> int:
        """Length of a step."""
        return step_microseconds(self.forecaster.columns.step) // 1_000_000

    def history(
        self, past: Float[Tensor, "T S D"], places: Float[Tensor, "S n"], covariates: Float[Tensor, "S F"],
        time: Int[Tensor, ""],
    ) -> History:  # fmt: skip
        """The history of the last steps; only the last is ever an origin.

        There are `NEIGHBOURS` sensors more, which never report, so that a guess finds as many neighbours.
        """
        guess, pad = self.forecaster.guess, nn.functional.pad
        past = pad(past, (0, 0, 0, NEIGHBOURS), value=torch.nan)
        places, covariates = (pad(part, (0, 0, 0, NEIGHBOURS)) for part in (places, covariates))
        steps, sensors = past.shape[:2]
        number = torch.arange(steps)[:, None] * sensors + torch.arange(sensors)
        rows = Rows(
            torch.arange(steps)[:, None].expand(-1, sensors).flatten(), torch.arange(sensors).repeat(steps),
            places.repeat(steps, 1), past.flatten(0, 1), covariates.repeat(steps, 1),
        )  # fmt: skip
        last = pad(torch.where(past.isnan(), -1, number[..., None]), (0, 0, 0, 0, 1, 0), value=-1)
        reach = 1
        while reach <= steps:  # the greatest row of all steps before: files know no cumulative maximum
            last = torch.maximum(last, pad(last[:-reach], (0, 0, 0, 0, reach, 0), value=-1))
            reach *= 2
        heard, steps_in_turn = ~past.isnan().all(-1), torch.arange(steps)[:, None]
        span = torch.stack(
            [torch.where(heard, steps_in_turn, steps).amin(0), torch.where(heard, steps_in_turn, -1).amax(0)]
        )
        fresh = usual = past[:0]
        if guess.cycle is not None:
            fresh = past
            for age in range(1, guess.cycle // 24 + 1):
                earlier = pad(past[: steps - age], (0, 0, 0, 0, age, 0), value=torch.nan)
                fresh = torch.where(fresh.isnan(), earlier, fresh)
            usual = means_over_cycles(fresh, guess.cycle, guess.cycles)
        days = self.seconds / 86_400
        begins = (time % 86_400).double() / 86_400 - (steps - 1) * days
        return History(rows, torch.arange(steps + 1), last, span, guess.cycle, fresh, usual, begins, days)

    def save_onnx(self, path: str | Path) -> None:
        """Write the step as an ONNX file with these `inputs` and `outputs`, complete or not at all.

        Raises:
            ImportError: the extra "onnx" is not installed.
        """
        sensors, places, n = 3, 4, len(self.forecaster.columns.position)
        scaling, values = self.forecaster.scaling, len(self.forecaster.columns.values)
        known = len(scaling.covariate_mean)
        given = [
            torch.zeros(1, sensors, n, dtype=torch.float64), torch.zeros(1, sensors, values),
            torch.ones(1, sensors, dtype=torch.bool), torch.zeros(1, sensors, known),
            torch.zeros(1, places, n, dtype=torch.float64), torch.zeros(1, places, known),
            torch.zeros(1, places, dtype=torch.long), torch.arange(1, 3), torch.tensor(0),
        ]  # fmt: skip
        of_sensors, asked = {1: Dim("sensors")}, {1: Dim("places")}
        shapes: list[dict] = [*[of_sensors] * 4, *[asked] * 3, {0: Dim("leads")}, {}]
        rest: list[dict] = []
        if self.num_modules:
            given.append(torch.ones(self.num_modules, dtype=torch.bool))
            rest.append({})
        state, other = self.initial_state(1, sensors), self.initial_state(1, sensors + 1)
        rest += free_axes(state, other, {sensors: of_sensors[1]})
        # The optimiser of onnxscript 0.5 loses a constant of this graph.
        save_onnx(path, self, (*given, *state), (*shapes, tuple(rest)), self.inputs, self.outputs, optimize=False)


def sine(angle: Tensor) -> Tensor:
    """The sine; a cosine is that of an angle a quarter turn on, since ONNX runtimes lack it in double precision."""
    return angle.sin()


def coordinates(scaling: Scaling, positions: Float[Tensor, "1 R n"]) -> Float[Tensor, "1 R m"]:
    """As `Scaling.coordinates`."""
    if not scaling.globe:
        return ((positions - torch.tensor(scaling.low, dtype=torch.float64)) / scaling.side).float()
    longitude, latitude = (positions * (math.pi / 180)).unbind(-1)
    ring, quarter = sine(latitude + math.pi / 2), math.pi / 2
    parts = [ring * sine(longitude + quarter), ring * sine(longitude), sine(latitude)]
    return torch.stack(parts, -1).float()


def channels(scaling: Scaling, values: Float[Tensor, "1 S C"]) -> Float[Tensor, "1 S D"]:
    """As `Scaling.channels`."""
    parts = []
    for index, turns in enumerate(scaling.circular):
        value = values[..., index].double()
        if turns:
            angle = value * (math.pi / 180)
            parts += [sine(angle + math.pi / 2), sine(angle)]
        else:
            parts.append((value - scaling.mean[index]) / scaling.spread[index])
    return torch.stack(parts, -1).float()


def standardised(scaling: Scaling, covariates: Float[Tensor, "1 R F"]) -> Float[Tensor, "1 R F"]:
    """As `Scaling.known`."""
    used = torch.from_numpy(scaling.used)
    mean, spread = (
        torch.tensor(part, dtype=torch.float64) for part in (scaling.covariate_mean, scaling.covariate_spread)
    )
    scaled = (covariates.double() - mean) / torch.where(used, spread, 1.0)
    return torch.where(used, scaled, 0 * covariates.double()).float()


def clock(time: Int[Tensor, " J"], seasons: bool) -> Float[Tensor, "J 4"]:
    """As `s2rm.sensors.scaling.clock`, of seconds since 1970; the day of the year only where there are `seasons`."""
    parts = [(time % 86_400).double() / 86_400]
    if seasons:
        # The calendar repeats itself after 400 years; years are counted from March here, so that leap days come last.
        day = time // 86_400 + 719_468
        within = day % 146_097
        year = (within - within // 1_460 + within // 36_524 - within // 146_096) // 365
        since_march = within - (365 * year + year // 4 - year // 100)
        calendar = year + (since_march >= 306).long()
        leap = ((calendar % 4 == 0) & ((calendar % 100 != 0) | (calendar % 400 == 0))).long()
        of_year = torch.where(since_march >= 306, since_march - 306, since_march + 59 + leap)
        parts.append((of_year.double() + parts[0]) / 365.25)
    angles = 2 * math.pi * torch.stack(parts, -1)
    both = torch.stack([sine(angles + math.pi / 2), sine(angles)], -1).flatten(1)
    return nn.functional.pad(both, (0, 4 - both.shape[1])).float()


def units(scaling: Scaling, mean: Float[Tensor, "*b D"], stddev: Float[Tensor, "*b D"]) -> tuple[Tensor, Tensor]:
    """As `Scaling.units`."""
    means, spreads, at = [], [], 0
    for index, turns in enumerate(scaling.circular):
        centre, width = mean[..., at : at + 1 + turns], stddev[..., at : at + 1 + turns]
        at += 1 + turns
        if turns:
            direction = torch.atan2(centre[..., 1], centre[..., 0]) * (180 / math.pi) % 360
            power, noise = centre.square().sum(-1), width.square().sum(-1)
            # 1 - 1e-7 is the largest number below 1 in single precision
            resultant = (power / (power + noise)).sqrt().clamp(1e-6, 1 - 1e-7)
            means.append(torch.where(direction < 360, direction, 0.0))
            spreads.append((-2 * resultant.log()).sqrt() * (180 / math.pi))
        else:
            means.append(centre[..., 0] * scaling.spread[index] + scaling.mean[index])
            spreads.append(width[..., 0] * scaling.spread[index])
    return torch.stack(means, -1), torch.stack(spreads, -1)
