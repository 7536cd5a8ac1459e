"""From the reports until an origin to the channels at places ahead of it: the first guess, and its correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from s2rm.models.world_model import WorldModel
from s2rm.sensors.candidates import Asked
from s2rm.sensors.guess import FirstGuess, values_of_channels
from s2rm.sensors.known_ahead import Flow
from s2rm.sensors.reports import Places, Reports
from s2rm.sensors.scaling import Scaling, Slots, clock, slots, views_of
from s2rm.views import Views

SAME_PLACE = 1e-4
"""a share of the extent, within which a place without a name is that of a sensor"""
MOST_QUERIES = 20_000
"""places times lead times that are forecast at once"""


def context_views(recent: Reports, context: int, scaling: Scaling) -> Views:
    """The reports of the context, which ends with the last step; steps before the first are empty."""
    few = recent.between(max(0, recent.num_steps - context), recent.num_steps)
    shifted = replace(few, step=few.step + context - few.num_steps, num_steps=context)
    seen = slots(shifted, scaling)
    return views_of(Slots(*(part[None] for part in seen)), torch.ones_like(seen.sensor[None], dtype=torch.bool))


def own_sensors(reports: Reports, places: Places, scaling: Scaling) -> Int[NDArray, " Q"]:
    """The sensor at each place, by its name or, without names, by where it last reported; -1 where there is none, or
    several are at one place."""
    if places.names is not None:
        index = {name: number for number, name in enumerate(reports.sensors)}
        return np.array([index.get(name, -1) for name in places.names], np.int64)
    if not len(reports):
        return np.full(len(places.positions), -1)
    sensors, last = np.unique(reports.sensor[::-1], return_index=True)
    there = cKDTree(scaling.coordinates(reports.positions[::-1][last]).numpy())
    near = there.query_ball_point(scaling.coordinates(places.positions).numpy(), SAME_PLACE * scaling.extent)
    return np.array([sensors[found[0]] if len(found) == 1 else -1 for found in near], np.int64)


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


def finite(mean: Tensor, stddev: Tensor) -> tuple[Tensor, Tensor]:
    """The same channels; a ValueError where one is not finite."""
    if not (mean.isfinite().all() and stddev.isfinite().all()):
        raise ValueError(
            "forecast: the model's forecast is not finite; check the reports for values far from all others, "
            "or fit again"
        )
    return mean, stddev
