"""Reports side by side, step by step, as a model takes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from s2rm.sensors.reports import Reports
from s2rm.sensors.scaling import Scaling
from s2rm.views import Views


class Slots(NamedTuple):
    """Reports or queries of T steps, each with A slots, of which some may be empty."""

    positions: Float[Tensor, "T A n"]
    channels: Float[Tensor, "T A D"]
    covariates: Float[Tensor, "T A F"]
    sensor: Int[Tensor, "T A"]
    """-1 where the slot is empty"""
    clock: Float[Tensor, "T 4"]
    """cosine and sine of the hour of the day and of the day of the year; the latter are 0 unless `Scaling.seasons`"""


IN_SLOTS = ("positions", "channels", "covariates", "sensor")


def clock(times: NDArray) -> Float[Tensor, "T 4"]:
    """Cosine and sine of the hour of the day and of the day of the year, UTC."""
    days = times.astype("datetime64[s]").astype(np.int64) / 86_400
    years = times.astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64) / 86_400
    angles = 2 * np.pi * np.stack([days % 1, (days - years) / 365.25])
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], -1).transpose(1, 0, 2).reshape(-1, 4)).float()


def slots(reports: Reports, scaling: Scaling) -> Slots:
    """The reports of each step side by side, in the model's units."""
    count = np.bincount(reports.step, minlength=reports.num_steps)
    before = np.repeat(np.cumsum(count) - count, count)
    shape = (reports.num_steps, max(1, int(count.max(initial=0))))
    step, slot = torch.from_numpy(reports.step), torch.from_numpy(np.arange(len(reports)) - before)

    def pack(rows: Tensor, empty: float) -> Tensor:
        packed = rows.new_full((*shape, *rows.shape[1:]), empty)
        packed[step, slot] = rows
        return packed

    return Slots(
        pack(scaling.coordinates(reports.positions), 0.0),
        pack(scaling.channels(reports.values), float("nan")),
        pack(scaling.known(reports.covariates), float("nan")),
        pack(torch.from_numpy(reports.sensor), -1),
        clock(reports.times) * torch.tensor([1, 1, scaling.seasons, scaling.seasons]),
    )


def queries(positions: Tensor, covariates: Tensor, like: Slots) -> Slots:
    """The same queries, `(Q, n)` and `(Q, F)`, at each step."""
    steps, number = len(like.sensor), len(positions)
    return Slots(
        positions.expand(steps, -1, -1),
        like.channels.new_full((steps, number, like.channels.shape[-1]), float("nan")),
        covariates.expand(steps, -1, -1),
        torch.zeros(steps, number, dtype=torch.long),
        like.clock,
    )


def views_of(seen: Slots, shown: Bool[Tensor, "*batch A"]) -> Views:
    """Reports `(B, L, A, ...)` as views whose values are the channels and the covariates.

    A report without any measured channel is no view.
    """
    there = shown & (seen.sensor >= 0) & ~seen.channels.isnan().all(-1)
    return Views._unchecked(seen.positions, torch.cat([seen.channels, seen.covariates], -1), there)
