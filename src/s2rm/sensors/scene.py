"""Sensors on a map for the explorer: some of the last steps of a table, and where its forecasters are asked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from s2rm.explorer.scenes import text
from s2rm.files import Row
from s2rm.models.world_model import WorldModel
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.reports import Reports, stations, together

STEPS, SIDE, MARGIN = 160, 40, 0.05
"""steps that are shown, cells along the map's longer side, and the part of the map beyond the outermost station"""


@dataclass(frozen=True)
class Stations:
    """The last steps of a table of two coordinates, for forecasters that were fitted to such a table."""

    title: str
    reports: Reports
    horizon: int
    """longest lead time on the page, in steps"""
    forecaster: Forecaster
    """whose scaling places the map"""

    kind = "sensors"

    def __post_init__(self) -> None:
        if len(self.reports.columns.position) != 2:
            raise ValueError(
                f"explore: the map needs two coordinates, got {list(self.reports.columns.position)}; see s2rm report"
            )

    @property
    def room(self) -> int:
        """One slot for each sensor."""
        return len(self.reports.sensors)

    def check(self, label: str, model: WorldModel) -> None:
        """All forecasters of one table are of one world."""

    @property
    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the map, in the user's units."""
        places = together(self.reports.positions, self.reports)
        low, high = places.min(0), places.max(0)
        away = MARGIN * np.maximum(high - low, 1e-6 + 0.01 * (high - low).max())
        return low - away, high + away

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the map, with the aspect of the place."""
        low, high = self.corners
        across, up = high - low
        if self.reports.columns.globe:
            across = across * np.cos(np.radians((low[1] + high[1]) / 2))
        longer = max(across, up)
        return max(8, round(SIDE * up / longer)), max(8, round(SIDE * across / longer))

    def _places(self) -> Float[NDArray, "H W 2"]:
        (rows, columns), (low, high) = self.shape, self.corners
        x = low[0] + (np.arange(columns) + 0.5) / columns * (high[0] - low[0])
        y = high[1] - (np.arange(rows) + 0.5) / rows * (high[1] - low[1])
        return np.stack(np.meshgrid(x, y), -1)

    def cells(self) -> Float[Tensor, "H W n"]:
        """In the model's coordinates."""
        return self.forecaster.scaling.coordinates(self._places())

    def content(self) -> Row:
        """Observations in a slot for each sensor; where one did not report, the last place that it had."""
        reports, columns, (low, high) = self.reports, self.reports.columns, self.corners
        first = max(0, reports.num_steps - STEPS)
        values, positions = _dense(reports)
        places = stations(reports)
        known = dict(zip(places.names or (), places.covariates, strict=True))
        nothing = np.full(len(columns.covariates), np.nan, np.float32)
        covariates = np.array([known.get(name, nothing) for name in reports.sensors], np.float32)
        lowest, highest = (edge(reports.values, axis=0).astype(float) for edge in (np.nanmin, np.nanmax))
        episode = {
            "label": f"from {np.datetime_as_string(reports.times[first], 'm')} on", "steps": reports.num_steps - first,
            "start": int(reports.times[first].astype("datetime64[s]").astype(np.int64)),
            "positions": text(positions[first:].astype(np.float32)), "values": text(values[first:]),
        }  # fmt: skip
        return {
            "rows": self.shape[0], "columns": self.shape[1], "low": low.tolist(), "high": high.tolist(),
            "cells": text(self._places().reshape(-1, 2)), "values": list(columns.values),
            "position": list(columns.position),
            "circular": list(columns.is_circular), "step": columns.step, "sensors": list(reports.sensors),
            "seconds": int(reports.step_length / np.timedelta64(1, "s")), "horizon": self.horizon,
            "covariates": text(covariates), "covariates_size": len(columns.covariates), "closedLoop": False,
            "ranges": [list(pair) for pair in zip(lowest.tolist(), highest.tolist(), strict=True)],
            "spreads": (2 * np.nanstd(reports.values, 0)).tolist(), "episodes": [episode],
        }  # fmt: skip


def _dense(reports: Reports) -> tuple[Float[NDArray, "T S C"], Float[NDArray, "T S 2"]]:
    shape = reports.num_steps, len(reports.sensors)
    values = np.full((*shape, reports.values.shape[1]), np.nan, np.float32)
    values[reports.step, reports.sensor] = reports.values
    positions = np.full((*shape, 2), np.nan)
    positions[reports.step, reports.sensor] = together(reports.positions, reports)
    there = ~np.isnan(positions[..., 0])
    steps: Int[NDArray, "T S"] = np.where(there, np.arange(shape[0])[:, None], -1)
    last = np.maximum.accumulate(steps, 0)
    first = np.where(there.any(0), there.argmax(0), 0)
    last = np.where(last < 0, first, last)
    return values, np.nan_to_num(np.take_along_axis(positions, last[..., None], 0))
