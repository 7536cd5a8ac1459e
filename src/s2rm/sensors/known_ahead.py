"""Quantities that change in time and are known ahead: a weather model's field, a calendar, opening hours."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError, cKDTree
from torch import Tensor

if TYPE_CHECKING:
    from s2rm.sensors.scaling import Scaling

FEATURES = 4
"""of each quantity in the context of a query"""


@dataclass(frozen=True, eq=False)
class KnownAhead:
    """G quantities at P places and T steps, in the user's units; the last steps may lie in the future.

    In two dimensions they are interpolated linearly in triangles; outside, and in other dimensions, the nearest place
    is used. In time they are interpolated linearly between known steps of a place.
    """

    start: np.datetime64
    """when step 0 begins, UTC"""
    step: np.timedelta64
    positions: Float64[NDArray, "P n"]
    """as of the observations; NaN of a single place that stands for all, as where all are the same"""
    values: Float32[NDArray, "T P G"]
    """NaN where not known"""

    def offset(self, start: np.datetime64) -> int:
        """The step that begins at a time."""
        return int(np.round((start - self.start) / self.step))

    @property
    def ends(self) -> Int64[NDArray, "P G"]:
        """The last step at which each quantity is known at each place; -1 for none."""
        return np.where(np.isnan(self.values), -1, np.arange(len(self.values))[:, None, None]).max(0)

    @property
    def last(self) -> np.datetime64:
        """The last time at which each of the quantities is known somewhere."""
        known = ~np.isnan(self.values).all(1)
        return self.start + min(int(np.flatnonzero(each)[-1]) for each in known.T) * self.step

    def since(self, start: np.datetime64) -> KnownAhead:
        """The same without the steps before a time, but for the last one."""
        before = min(max(0, self.offset(start)), len(self.values) - 1)
        values = self.values[before:]
        known = ~np.isnan(values).all((0, 2))  # a place that a sensor has left is forgotten
        known |= known.sum() < 2  # a single one would stand for all
        return replace(
            self, start=self.start + before * self.step, positions=self.positions[known], values=values[:, known]
        )

    def updated(self, later: KnownAhead | None) -> KnownAhead:
        """With what is known later, which takes precedence. Each may lack some places of the other, such as those of
        silent and of new sensors. Where they share less than half of the places of the one with fewer, or have other
        steps, the later one alone."""
        if later is None:
            return self
        if self.step != later.step:
            return later
        if np.array_equal(self.positions, later.positions):
            return self._joined(later)
        if len(self.positions) == len(later.positions) == 1:  # each stands for all
            return replace(self, positions=later.positions)._joined(later)
        if np.isnan(later.positions).any():
            return self._joined(later._spread(self.positions))
        if np.isnan(self.positions).any():
            return self._spread(later.positions)._joined(later)
        places, place = np.unique(np.concatenate([self.positions, later.positions]), axis=0, return_inverse=True)
        fewer = min(len(self.positions), len(later.positions))
        if 2 * (len(self.positions) + len(later.positions) - len(places)) < fewer:
            return later
        own, others = np.split(place.ravel(), [len(self.positions)])
        return self._at(places, own)._joined(later._at(places, others))

    def _at(self, places: Float64[NDArray, "Q n"], own: Int64[NDArray, " P"]) -> KnownAhead:
        """The same at places of which the `own` are its."""
        values = np.full((len(self.values), len(places), self.values.shape[2]), np.nan, np.float32)
        values[:, own] = self.values
        return replace(self, positions=places, values=values)

    def _spread(self, places: Float64[NDArray, "Q n"]) -> KnownAhead:
        """That of a single place at all of these."""
        return replace(self, positions=places, values=np.repeat(self.values, len(places), 1))

    def _joined(self, later: KnownAhead) -> KnownAhead:
        """With what is known later at the same places."""
        shift = self.offset(later.start)
        begin, end = min(0, shift), max(len(self.values), shift + len(later.values))
        values = np.full((end - begin, *self.values.shape[1:]), np.nan, np.float32)
        values[-begin : len(self.values) - begin] = self.values
        new = values[shift - begin : shift - begin + len(later.values)]
        new[:] = np.where(np.isnan(later.values), new, later.values)
        return replace(self, start=self.start + begin * self.step, values=values)

    def steps_after(self, time: np.datetime64) -> int:
        """The number of steps after a time that are known."""
        return int((self.last - time) / self.step)

    def beyond(self, positions: Float64[NDArray, "M n"], globe: bool) -> tuple[Bool[NDArray, " M"], bool]:
        """Which positions lie outside the places, farther from all of them than twice their usual distance; and whether
        the nearest one is farther than either of both extends."""
        from s2rm.sensors.reports import on_sphere

        if len(self.positions) == 1:
            return np.zeros(len(positions), bool), False
        own, asked = (on_sphere(each) if globe else each for each in (self.positions, positions))
        tree = cKDTree(own)
        usual, away = np.median(tree.query(own, 2)[0][:, 1]), tree.query(asked)[0]
        _, weight = self.weights(positions, globe)
        extent = max(float(np.linalg.norm(np.ptp(each, axis=0))) for each in (own, asked))
        return (away > 2 * usual) & np.asarray(weight[:, 0] == 1), bool(away.min() > extent)

    def weights(
        self, positions: Float64[NDArray, "M n"], globe: bool
    ) -> tuple[Int[Tensor, "M K"], Float[Tensor, "M K"]]:
        """Places, and their weights, that make the quantities at each of M positions."""
        from s2rm.sensors.reports import on_sphere

        own, asked, number = self.positions, positions, np.arange(len(self.positions))
        if len(own) == 1:
            return torch.zeros(len(asked), 1, dtype=torch.long), torch.ones(len(asked), 1)
        if globe:
            own, asked, number = _around(own, asked)
        _, nearest = cKDTree(on_sphere(own) if globe else own).query(on_sphere(asked) if globe else asked)
        index = np.repeat(number[nearest][:, None], own.shape[1] + 1, 1)
        weight = np.zeros(index.shape)
        weight[:, 0] = 1
        if own.shape[1] == 2 and len(own) > 2:
            try:
                triangles = Delaunay(own)
            except QhullError:  # all in a line
                return torch.from_numpy(index), torch.from_numpy(weight).float()
            found = triangles.find_simplex(asked)
            inside, to_weights = found >= 0, triangles.transform[found[found >= 0]]
            two = np.einsum("mij,mj->mi", to_weights[:, :2], asked[inside] - to_weights[:, 2])
            index[inside], weight[inside] = number[triangles.simplices[found[inside]]], np.c_[two, 1 - two.sum(1)]
        return torch.from_numpy(index.astype(np.int64)), torch.from_numpy(weight).float()


def _around(
    own: Float64[NDArray, "P n"], asked: Float64[NDArray, "M n"]
) -> tuple[Float64[NDArray, "R n"], Float64[NDArray, "M n"], Int[NDArray, " R"]]:
    """Places and positions with longitudes that begin in the middle of the widest gap between places, and the number of
    each place. If that gap is like the others, the places go all around: those beside it are there on both sides."""
    east = np.unique(np.round(own[:, 0], 3) % 360)
    gaps = np.diff(east, append=east[0] + 360)
    widest = gaps.max()
    seam = east[gaps.argmax()] + widest / 2
    own, asked = (np.column_stack([seam + (each[:, 0] - seam) % 360, each[:, 1]]) for each in (own, asked))
    number = np.arange(len(own))
    if widest < min(180, 2 * np.median(gaps)):
        first, last = own[:, 0] < seam + widest, own[:, 0] > seam + 360 - widest
        own = np.concatenate([own, own[first] + [360, 0], own[last] - [360, 0]])
        number = np.concatenate([number, number[first], number[last]])
    return own, asked, number


def region(names: Sequence[str], positions: Float64[NDArray, "P n"]) -> str:
    """The ends of positions along each coordinate, in words."""
    ends = zip(names, positions.min(0), positions.max(0), strict=True)
    return " and ".join(f"{name} {low:g} to {high:g}" for name, low, high in ends)


def warn_of_beyond(known: KnownAhead, number: int, of: int, names: Sequence[str], what: str) -> None:
    """Say that a number of places lie far outside of what is known ahead, `what` first."""
    warnings.warn(
        f"{what}: {number} of {of} places are far outside of what is known ahead, {region(names, known.positions)}, "
        "and are given the nearest of it; give more of it, or leave them out",
        stacklevel=4,
    )


class AheadTables(NamedTuple):
    """What is known ahead, standardised, at the steps of a history; U is T + 1."""

    offset: int
    """the step that is step 0 of the history"""
    values: Float[Tensor, "T P G"]
    """0 where not known"""
    missing: Float[Tensor, "T P G"]
    total: Float[Tensor, "U P G"]
    """the sum of the values before each step"""
    path: Float[Tensor, "T P n"]
    """how far the flow has gone since step 0, in its own units times steps; without a flow, n is 0"""

    @classmethod
    def of(cls, known: KnownAhead, scaling: Scaling, start: np.datetime64) -> AheadTables:
        """The tables of a history that begins at a time. A place at which a quantity is never known, such as one on
        land, is given that of the nearest place."""
        filled = _filled_from_nearest(known, scaling.globe)
        scaled = torch.from_numpy((filled - np.array(scaling.ahead_mean)) / np.array(scaling.ahead_spread))
        values = scaled.nan_to_num()
        total = torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
        speed = torch.from_numpy(filled[..., list(scaling.flow)]).double().nan_to_num()
        # The mean of the speeds at its ends is that of a step.
        path = torch.cat([torch.zeros_like(speed[:1]), ((speed[:-1] + speed[1:]) / 2).cumsum(0)])
        return cls(known.offset(start), values.float(), scaled.isnan().float(), total, path)

    def gone(
        self, origin: Int[Tensor, "*#batch"], target: Int[Tensor, "*#batch"], index: Int[Tensor, "*#batch K"],
        weight: Float[Tensor, "*#batch K"],
    ) -> Float[Tensor, "*batch n"] | None:  # fmt: skip
        """How far the flow at places of these weights goes from the origin to the target; None without a flow."""
        if not self.path.shape[-1]:
            return None
        last = len(self.path) - 1
        here, there = ((step + self.offset).clamp(0, last)[..., None] for step in (origin, target))
        passed = self.path[there, index] - self.path[here, index]
        return (passed * weight[..., None]).sum(-2).float()

    def features(
        self, origin: Int[Tensor, "*#batch"], target: Int[Tensor, "*batch"], index: Int[Tensor, "*#batch K"],
        weight: Float[Tensor, "*#batch K"],
    ) -> Float[Tensor, "*batch G4"]:  # fmt: skip
        """At places of these weights: the values at the target, at the origin, and on average over the steps from there
        to the target, and whether the first are missing."""
        last = len(self.values) - 1
        here, there = ((step + self.offset).clamp(0, last) for step in (origin, target))
        outside = (target + self.offset > last) | (target + self.offset < 0)

        def at(table: Tensor, step: Tensor) -> Tensor:
            return (table[step[..., None], index] * weight[..., None]).sum(-2)

        steps, now = (there - here)[..., None], at(self.values, there)
        passed = at(self.total, there + 1) - at(self.total, here + 1)
        mean = torch.where(steps > 0, passed / steps.clamp(min=1), now)
        missing = torch.where(outside[..., None], 1.0, at(self.missing, there))
        parts = [now * (1 - missing), at(self.values, here), mean.float(), missing]
        shape = torch.broadcast_shapes(*(part.shape for part in parts))
        return torch.cat([part.expand(shape) for part in parts], -1)


def _filled_from_nearest(known: KnownAhead, globe: bool) -> Float32[NDArray, "T P G"]:
    """The values, at places that never have one those of the nearest place that has."""
    from s2rm.sensors.reports import on_sphere

    values, nowhere = known.values, np.isnan(known.values).all(0)
    some = np.flatnonzero(nowhere.any(0) & ~nowhere.all(0))
    if not len(some):
        return values
    values, places = values.copy(), on_sphere(known.positions) if globe else known.positions
    for quantity in some:
        empty = nowhere[:, quantity]
        _, nearest = cKDTree(places[~empty]).query(places[empty])
        values[:, empty, quantity] = values[:, ~empty, quantity][:, nearest]
    return values


class Flow(NamedTuple):
    """What is known ahead at the R rows of a history."""

    tables: AheadTables
    known_at: Int[Tensor, "R K"]
    weight: Float[Tensor, "R K"]

    @classmethod
    def of(
        cls, known: KnownAhead, scaling: Scaling, start: np.datetime64, positions: Float64[NDArray, "R n"]
    ) -> Flow:  # fmt: skip
        """That of a history that begins at a time, whose rows have these positions."""
        if not len(positions):  # as a history of no reports, one row
            positions = np.zeros((1, positions.shape[1]))
        places, place = np.unique(positions, axis=0, return_inverse=True)
        index, weight = known.weights(places, scaling.globe)
        row = torch.from_numpy(place.ravel())
        return cls(AheadTables.of(known, scaling, start), index[row], weight[row])

    def gone(
        self, origin: Int[Tensor, "*#batch"], target: Int[Tensor, "*#batch"], row: Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch n"] | None:
        """As `AheadTables.gone`, at the places of rows."""
        return self.tables.gone(origin, target, self.known_at[row], self.weight[row])
