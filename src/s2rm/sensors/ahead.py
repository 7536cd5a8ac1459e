"""From the reports until an origin to the channels at places ahead of it: the first guess, and its correction."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from s2rm.models.world_model import WorldModel
from s2rm.sensors.dependence import Dependence
from s2rm.sensors.first_guess.candidates import Asked
from s2rm.sensors.first_guess.guess import FirstGuess, values_of_channels
from s2rm.sensors.known_ahead import Flow, warn_of_beyond
from s2rm.sensors.mapped import distinct
from s2rm.sensors.reports import Places, Reports
from s2rm.sensors.scaling import Scaling, Slots, clock, slots, views_of
from s2rm.views import Views

SAME_PLACE = 1e-4
"""a share of the extent, within which a place is that of a sensor"""
ELSEWHERE = 0.01
"""a share of the extent, beyond which a place is not that of the sensor of its name, if that has not moved"""
MOST_QUERIES = 20_000
"""places times lead times that are forecast at once"""


def context_views(recent: Reports, context: int, scaling: Scaling) -> Views:
    """The reports of the context, which ends with the last step; steps before the first are empty."""
    few = recent.between(max(0, recent.num_steps - context), recent.num_steps)
    shifted = replace(few, step=few.step + context - few.num_steps, num_steps=context)
    seen = slots(shifted, scaling)
    return views_of(Slots(*(part[None] for part in seen)), torch.ones_like(seen.sensor[None], dtype=torch.bool))


def own_sensors(reports: Reports, places: Places, scaling: Scaling) -> Int[NDArray, " Q"]:
    """The sensor at each place: that of its name, or else the one that last reported there. -1 where there is none, or
    several last reported there. Warns of places that are `elsewhere`.
    """
    named = _by_name(reports, places)
    if not len(reports):
        return named
    sensors, there = _last_places(reports, scaling)
    near = cKDTree(there).query_ball_point(scaling.coordinates(places.positions).numpy(), SAME_PLACE * scaling.extent)
    by_place = np.array([sensors[found[0]] if len(found) == 1 else -1 for found in near], np.int64)
    far = elsewhere(reports, places, scaling)
    if far.any():
        name = places.names[int(far.argmax())] if places.names else ""
        warnings.warn(
            f"forecast: {int(far.sum())} places, first {name!r}, are far from where the sensors of their names last "
            "reported, and are taken for other places; give them other names, or the positions of the sensors at the "
            "initialisation time, stations(reports.between(0, origin + 1))",
            stacklevel=3,
        )
    return np.where((named >= 0) & ~far, named, by_place)


def elsewhere(reports: Reports, places: Places, scaling: Scaling) -> Bool[NDArray, " Q"]:
    """Which places are far from where the sensors of their names last reported, and are therefore other places: by more
    than `ELSEWHERE`, and if the sensor has moved, by more than half of what is usual to the next sensor."""
    named = _by_name(reports, places)
    far = named >= 0
    if not len(reports) or not far.any():
        return np.zeros(len(named), dtype=bool)
    sensors, there = _last_places(reports, scaling)
    where = np.full(len(reports.sensors), -1)
    where[sensors] = np.arange(len(sensors))
    far[far] = where[named[far]] >= 0
    distance = np.zeros(len(named))
    away = scaling.coordinates(places.positions[far]).numpy() - there[where[named[far]]]
    distance[far] = np.linalg.norm(away, axis=-1)
    far = distance > ELSEWHERE * scaling.extent
    if far.any():
        low, high = np.full((2, len(reports.sensors), reports.positions.shape[1]), np.inf)
        np.minimum.at(low, reports.sensor, reports.positions)
        np.minimum.at(high, reports.sensor, -reports.positions)
        moves = (low != -high).any(1) | (np.bincount(reports.sensor, minlength=len(low)) == 1)
        apart = np.median(cKDTree(there).query(there, 2)[0][:, 1]) if len(there) > 1 else 0.0
        far &= ~moves[named] | (distance > apart / 2)
    return far


def _last_places(reports: Reports, scaling: Scaling) -> tuple[Int[NDArray, " N"], Float[NDArray, "N n"]]:
    """The sensors that have reported, and from where they last did, in the model's coordinates."""
    sensors, last = np.unique(reports.sensor[::-1], return_index=True)
    return sensors, scaling.coordinates(reports.positions[::-1][last]).numpy()


def known_there(places: Places, reports: Reports, globe: bool) -> Places:
    """The same places. Those far outside of what is known ahead are warned of, but for those of the reports, which
    reading warned of."""
    known, positions = reports.ahead, places.positions
    if known is None or not len(positions):
        return places
    beyond, _ = known.beyond(positions, globe)
    if beyond.any():
        reported = {*map(tuple, distinct(reports.positions)[0].tolist())}
        number = sum(tuple(place) not in reported for place in positions[beyond].tolist())
        if number:
            warn_of_beyond(known, number, len(positions), reports.columns.position, "forecast")
    return places


def _by_name(reports: Reports, places: Places) -> Int[NDArray, " Q"]:
    """The sensor of the name of each place, -1 where there is none."""
    if places.names is None:
        return np.full(len(places.positions), -1)
    index = {name: number for number, name in enumerate(reports.sensors)}
    return np.array([index.get(name, -1) for name in places.names], np.int64)


@torch.no_grad()
def forecast_ahead(
    model: WorldModel, guess: FirstGuess, scaling: Scaling, state: object, recent: Reports, places: Places,
    leads: Sequence[int], own: Int[NDArray, " Q"],
) -> tuple[Float[Tensor, "1 H Q D"], Float[Tensor, "1 H Q D"]]:  # fmt: skip
    """Mean and standard deviation of the channels at places, H lead times after the last step.

    Args:
        model, guess, scaling: of a forecaster.
        state: the model's, of batch 1, after the last step.
        recent: the reports until then, as far back as the guess needs.
        places: Q places, checked.
        leads: lead times in steps; 0 is the last step itself.
        own: the sensor at each place, -1 for none.
    """
    history, number = guess.history(recent, scaling), len(places.positions)
    positions, covariates = scaling.coordinates(places.positions), scaling.known(places.covariates)
    origin, each = torch.tensor([[recent.num_steps - 1]]), max(1, MOST_QUERIES // max(1, number))
    known, parts = origin[..., None].expand(-1, -1, history.num_sensors), []
    flow = None if recent.ahead is None else Flow.of(recent.ahead, scaling, recent.start, recent.positions)
    weights = () if recent.ahead is None else recent.ahead.weights(places.positions, scaling.globe)
    place = (positions[None, None], covariates[None, None], torch.from_numpy(own)[None, None])
    for begin in range(0, len(leads), each):
        ahead = torch.tensor(leads[begin : begin + each])
        asked = Asked(known, origin, *place, ahead.expand(1, 1, number, -1))
        times = recent.start + (recent.num_steps - 1 + ahead.numpy()) * recent.step_length
        hours = clock(times) * torch.tensor([1, 1, scaling.seasons, scaling.seasons])
        hours = hours.expand(1, 1, number, -1, -1)
        coming = None
        if flow is not None:
            # (1, 1, Q, J) places and lead times
            which = tuple(part[None, None, :, None].expand(-1, -1, -1, len(ahead), -1) for part in weights)
            then = origin[..., None, None], origin[..., None, None] + asked.leads
            coming = flow.tables.features(*then, *which)
            asked = asked._replace(gone=flow.tables.gone(*then, *which), flow=flow)
        context = guess.context(history, asked, hours, guess.climate_at(hours), scaling, known=coming)
        where = positions[:, None].expand(-1, len(ahead), -1).flatten(0, 1)[None]
        predicted = model.predict(state, where, context.features[:, 0])
        mean, stddev = (part[:, None, :, : scaling.num_channels] for part in (predicted.mean, predicted.stddev))
        made = guess.corrected(mean, stddev, context, values_of_channels(scaling))
        parts.append([part.unflatten(2, (number, len(ahead)))[:, 0].transpose(1, 2) for part in made])
    means, stddevs = zip(*parts, strict=True)
    return torch.cat(means, 1), torch.cat(stddevs, 1)


def scenarios_of(
    dependence: Dependence, scaling: Scaling, channels: tuple[Tensor, Tensor], recent: Iterable[Reports],
    origins: Int[NDArray, " O"], places: Places, number: int, seed: int,
) -> Float[NDArray, "O N H Q C"]:  # fmt: skip
    """Joint scenarios of forecasts, from their channels, `(O, H, Q, D)`, and the reports before each origin."""
    where, drawn = scaling.coordinates(places.positions).double().numpy(), []
    for origin, known in zip(origins.tolist(), recent, strict=True):
        own = np.isin(own_sensors(known, places, scaling), known.sensor)
        drawn.append(dependence.draw(where, own, range(1, channels[0].shape[1] + 1), number, (seed, origin)))
    mean, stddev = (part[:, None] for part in channels)
    return scaling.value(mean, stddev, np.stack(drawn))


def finite(mean: Tensor, stddev: Tensor) -> tuple[Tensor, Tensor]:
    """The same channels; a ValueError where one is not finite."""
    if not (mean.isfinite().all() and stddev.isfinite().all()):
        raise ValueError(
            "forecast: the model's forecast is not finite; check the reports for values far from all others, "
            "or fit again"
        )
    return mean, stddev
