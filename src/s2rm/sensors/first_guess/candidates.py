"""The candidate guesses of a value: the own last value, the same hour of the last day, and the neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from s2rm.sensors.first_guess.history import History
from s2rm.sensors.first_guess.outlook import Filter, Outlook, outlook
from s2rm.sensors.first_guess.weights import NEAREST, Neighbours, gathered, neighbours
from s2rm.sensors.known_ahead import Flow

OWN = ("own last value", "own, a cycle before", "own, a week before", "own usual value", "own last and usual change")
LEVEL, PLANE, KRIGING = INTERPOLATED = ("nearest, level", "nearest, plane", "kriging")
OTHERS = (*INTERPOLATED, "kriging and usual change", "nearest, a cycle before", "nearest, usual value", "climatology")
FOLLOWING = "own last and neighbours' change"
LINEAR = "linear dynamics"
CANDIDATES = (*OWN, *OTHERS, FOLLOWING, LINEAR)
"""K of them. A cycle is a day, a week where a step is a day, or a year where it is longer; usual values are means over
some cycles. Where a flow is known there is one more, the last: what kriging says of the place from which it comes"""
WEEK = 7
"""the cycles that "a week before" looks back"""
CLIMATE = CANDIDATES.index("climatology")
FROM_LAST = (0, 4, 12)
"""those that count less the older the sensor's own last value is"""
OF_NOW = (0, 4, 5, 6, 7, 8, 12, 13)
"""those that follow the level of what was last reported"""
BACK = (0, 3, 6, 9, 12)
"""the steps of which reports are carried to where the flow has brought what they saw"""
TRENDS = (1, 3, 6)
"""steps over which changes are looked at"""


class Asked(NamedTuple):
    """Queries, P places for each of L origins, each at J lead times, in B windows."""

    known: Int[Tensor, "B L S"]
    """the step as of which the reports of each sensor are known, -1 where it is withheld"""
    origin: Int[Tensor, "B L"]
    positions: Float[Tensor, "B L P n"]
    covariates: Float[Tensor, "B L P F"]
    """standardised, NaN where not known"""
    sensor: Int[Tensor, "B L P"]
    """the sensor at the place, -1 for none"""
    leads: Int[Tensor, "B L P J"]
    alone: Bool[Tensor, "B L P"] | bool = False
    """whether the sensor's own values are left out"""
    gone: Float[Tensor, "B L P J n"] | None = None
    """how far a flow that is known goes until then, in its units times steps; None where none is"""
    flow: Flow | None = None
    """that which carries what was reported"""


class Ways(NamedTuple):
    """How the values of the neighbours make a guess, one entry a channel."""

    ageing: tuple[float, ...]
    """the distance, in the model's coordinates, that counts as much as a step of age of a report"""
    tilt: tuple[float, ...]
    """how freely the plane tilts"""
    reach: tuple[float, ...]
    nugget: tuple[float, ...]
    smooth: tuple[bool, ...]
    """of the covariance of kriging"""
    carry: float = 0.0
    """what a unit of the flow moves in a step, in the model's coordinates"""
    fading: float = 0.0
    """the distance that counts as much as a step of age of a report that is carried"""

    def covariance(self, channel: int) -> tuple[float, float, bool]:
        """Of kriging."""
        return self.reach[channel], self.nugget[channel], self.smooth[channel]


class Found(NamedTuple):
    """What is found for each query."""

    values: Float[Tensor, "B L P J D K"]
    """the candidates, NaN where there is none"""
    own_age: Float[Tensor, "B L P D"]
    """steps from the sensor's own last value to the origin, NaN where there is none"""
    settled: Bool[Tensor, "B L P D"]
    """whether linear dynamics know the level of the place"""
    nearest: Float[Tensor, "B L P D"]
    """the distance of the nearest neighbour, infinite where there is none"""
    old: Float[Tensor, "B L P D"]
    """the age of the neighbours' values at the origin"""
    doubt: Float[Tensor, "B L P D"]
    """the logarithm of the variance that kriging states"""
    trend: Float[Tensor, "B L P D E"]
    """by how much the own value, and then those of the neighbours, changed over each of `TRENDS`; 0 where not known"""
    offset: Float[Tensor, "B L P D n"]
    unlike: Float[Tensor, "B L P D F"]
    """how far the neighbours are off, in position, in extents, and in covariates"""


def found(
    history: History, asked: Asked, ways: Ways, climate: Float[Tensor, "B L P J D"], memory: int, extent: float,
    noise: tuple[Tensor, Tensor] | None = None, dynamics: Filter | None = None, horizon: int = 0,
) -> Found:  # fmt: skip
    """The candidates of all queries.

    The *neighbours* of a place x are the sensors at the least $|x - x_i|^2 + (a \\tau_i)^2$, with $a$ the channel's
    ageing and $\\tau_i$ the age of a report against the latest, in steps; the sensor itself is none of them.

    Args:
        history, asked, ways: the reports, the queries, and how neighbours count.
        climate: the mean of all training values at the hour of each query.
        memory: the age from which a report no longer counts, in steps.
        extent: of the positions.
        noise: a displacement of each sensor's positions `(S, n)` and covariates `(S, F)`.
        dynamics, horizon: of the sensors, if they are known, and the longest lead time, in steps.
    """
    latest = _latest(history, asked, memory, noise)
    trend = _trends(history, asked, latest, memory)
    linear = None
    if dynamics is not None:
        linear = outlook(
            dynamics, history, asked.known, asked.origin, asked.positions, asked.sensor, asked.leads, asked.alone,
            memory, horizon, displaced=noise is not None,
        )  # fmt: skip
    parts = [
        _channel(channel, history, asked, ways, latest, climate[..., channel], extent, trend[..., channel, :], memory,
                 linear)
        for channel in range(latest.rows.shape[-1])
    ]  # fmt: skip
    values, *others = zip(*parts, strict=True)
    if asked.gone is not None:
        came = carried(history, asked, ways, memory, noise)
        values = tuple(torch.cat([part, came[..., channel, None]], -1) for channel, part in enumerate(values))
    return Found(torch.stack(values, -2), *(torch.stack(part, 3) for part in others))


def interpolated(
    name: str, history: History, asked: Asked, tried: Sequence[Ways], memory: int, extent: float
) -> Float[Tensor, "W B L P D"]:
    """One of `INTERPOLATED` alone, in several ways; the arguments are those of `found`."""
    latest, made = _latest(history, asked, memory), []
    for ways in tried:
        for channel in range(latest.rows.shape[-1]):
            near = _around(channel, history, asked, ways, latest)
            if name == KRIGING:
                weight, _ = near.kriging(*ways.covariance(channel))
            else:
                near = near.first(NEAREST)
                weight = near.level(extent)
                weight = weight if name == LEVEL else near.plane(weight, extent, ways.tilt[channel])
            made.append(near.weighed(weight))
    return torch.stack(made, -1).unflatten(-1, (len(tried), -1)).movedim(-2, 0)


def carried(
    history: History, asked: Asked, ways: Ways, memory: int, noise: tuple[Tensor, Tensor] | None = None
) -> Float[Tensor, "B L P J D"]:
    """What kriging says, at the origin, of the places from which the flow comes to each query.

    The reports of some steps before count too, at the places to which the flow has carried what they saw.
    """
    assert asked.gone is not None
    assert asked.flow is not None
    rows: list[Tensor] = []
    whens: list[Tensor] = []
    there: list[Tensor] = []
    for back in BACK:
        row, when = _last(history, asked, memory, back)
        if whens:  # once, however long a sensor is silent
            when = torch.where(when == torch.stack(whens).amax(0), -1, when)
        latest = row.amax(-1).clamp(min=0)
        place = history.rows.positions[latest] + (0.0 if noise is None else noise[0])
        gone = asked.flow.gone(history.rows.step[latest], asked.origin[..., None], latest)
        assert gone is not None
        there.append(upstream(place, -ways.carry * gone[..., None, :])[..., 0, :])
        rows.append(row)
        whens.append(when)
    row, when, places = torch.cat(rows, 2), torch.cat(whens, 2), torch.cat(there, 2)
    came = upstream(asked.positions, ways.carry * asked.gone)
    distance = torch.cdist(came.flatten(2, 3), places, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    alone = torch.as_tensor(asked.alone).expand(asked.sensor.shape)[..., None]
    itself = alone & (asked.sensor[..., None] == torch.arange(history.num_sensors).repeat(len(BACK)))
    distance = distance.masked_fill(itself.repeat_interleave(asked.gone.shape[3], 2), torch.inf)
    values = []
    for channel in range(row.shape[-1]):
        last = history.rows.channels[row[..., channel].clamp(min=0), channel]
        near = neighbours(ways.fading, last, when[..., channel], places, came.flatten(2, 3), distance)
        # Of reports that are carried many lie close together, of which few are enough.
        near = near.first(NEAREST)
        values.append(near.weighed(near.kriging(*ways.covariance(channel))[0]))
    return torch.stack(values, -1).unflatten(2, came.shape[2:4])


def upstream(positions: Float[Tensor, "B L P n"], gone: Float[Tensor, "B L P J m"]) -> Float[Tensor, "B L P J n"]:
    """The places from which a flow comes that goes so far, `m` is `n`, or, on the globe, 2: eastward and northward."""
    if gone.shape[-1] == positions.shape[-1]:
        return positions[..., None, :] - gone
    x, y, z = positions[..., None, :].unbind(-1)
    ring = (x**2 + y**2).sqrt().clamp(min=1e-6)
    east, north = torch.stack([-y, x, 0 * z], -1) / ring[..., None], torch.stack([-z * x, -z * y, ring**2], -1)
    moved = positions[..., None, :] - gone[..., :1] * east - gone[..., 1:] * north / ring[..., None]
    return moved / moved.norm(dim=-1, keepdim=True)


def _around(channel: int, history: History, asked: Asked, ways: Ways, latest: Latest) -> Neighbours:
    last = history.rows.channels[latest.rows[..., channel].clamp(min=0), channel]
    return neighbours(
        ways.ageing[channel], last, latest.when[..., channel], latest.places, asked.positions, latest.distance
    )


class Latest(NamedTuple):
    """What is known of each sensor."""

    rows: Int[Tensor, "B L S D"]
    when: Int[Tensor, "B L S D"]
    """row and step of its last value, a step of -1 for none"""
    places: Float[Tensor, "B L S n"]
    described: Float[Tensor, "B L S F"]
    """where it was, and its covariates"""
    distance: Float[Tensor, "B L P S"]
    """the square of its distance from each query, infinite for the sensor itself"""


def _latest(history: History, asked: Asked, memory: int, noise: tuple[Tensor, Tensor] | None = None) -> Latest:
    rows, when = _last(history, asked, memory)
    row = rows.amax(-1).clamp(min=0)
    places, described = history.rows.positions[row], history.rows.covariates[row].nan_to_num()
    if noise is not None:
        places, described = places + noise[0], described + noise[1]
    # By differences, as products would lose small distances on the globe.
    distance = torch.cdist(asked.positions, places, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    itself = asked.sensor[..., None] == torch.arange(history.num_sensors)
    return Latest(rows, when, places, described, distance.masked_fill(itself, torch.inf))


def _last(
    history: History, asked: Asked, memory: int, back: int = 0
) -> tuple[Int[Tensor, "B L S D"], Int[Tensor, "B L S D"]]:
    """Row and step of each sensor's last value as of some steps before what is known; a step of -1: none, too old."""
    rows = history.as_of(asked.known - back)
    when = torch.where(rows >= 0, history.rows.step[rows.clamp(min=0)], -1)
    return rows, torch.where(asked.origin[:, :, None, None] - when < memory, when, -1)


def _trends(history: History, asked: Asked, latest: Latest, memory: int) -> Float[Tensor, "B L S D E"]:
    """How much the last value of each sensor differs from those that were known some steps before; 0 for none."""

    def values(rows: Tensor) -> Tensor:
        return history.rows.channels.gather(0, rows.clamp(min=0).flatten(0, -2)).view(rows.shape)

    now, changes = values(latest.rows), []
    for steps in TRENDS:
        before, then = _last(history, asked, memory, steps)
        changes.append(torch.where((latest.when >= 0) & (then >= 0), now - values(before), 0.0))
    return torch.stack(changes, -1).nan_to_num()


def _channel(
    channel: int, history: History, asked: Asked, ways: Ways, latest: Latest, climate: Float[Tensor, "B L P J"],
    extent: float, trend: Float[Tensor, "B L S E"], memory: int, linear: Outlook | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Of one channel: the candidates `(B, L, P, J, K)`, and the other parts of `Found`."""
    rows, when = latest.rows[..., channel], latest.when[..., channel]
    last = history.rows.channels[rows.clamp(min=0), channel]
    around = _around(channel, history, asked, ways, latest)
    krige, variance = around.kriging(*ways.covariance(channel))
    krigged = around.weighed(krige)[..., None].expand_as(climate)
    near = around.first(NEAREST)
    level, anyone = near.level(extent), near.there[..., 0]
    tilted = near.plane(level, extent, ways.tilt[channel])

    mine = asked.sensor.clamp(min=0)
    sensor = torch.where(torch.as_tensor(asked.alone), -1, asked.sensor)
    own_when = torch.where(sensor >= 0, when.gather(-1, mine.flatten(2)).view_as(sensor), -1)
    own = torch.where(own_when >= 0, last.gather(-1, mine), torch.nan)[..., None].expand_as(climate)
    own_of_cycles, of_cycles = [torch.full_like(own, torch.nan)] * 4, [torch.full_like(own, torch.nan)] * 3
    if history.cycle is not None:
        own_of_cycles, of_cycles = _of_cycles(
            channel, history, asked, history.cycle, torch.where(own_when >= 0, sensor, -1), own_when, own, near, level
        )
        of_cycles[0] = krigged + of_cycles[0]
    flat = [near.weighed(weight)[..., None].expand_as(climate) for weight in (level, tilted)]
    before = _before(channel, history, asked, own_when, near, memory)
    counts = level * ~before.isnan()
    change = (counts * (near.value - before).nan_to_num()).sum(-1) / counts.sum(-1).clamp(min=1e-12)
    following = own + change[..., None]
    told, settled = torch.full_like(own, torch.nan), torch.zeros_like(own_when, dtype=torch.bool)
    if linear is not None:
        site = linear.site.gather(1, around.sensor.flatten(1)).view_as(around.sensor)
        coming = linear.of(torch.where(around.there, site, -1), channel)
        coming = torch.where(coming.isnan(), around.value[..., None, :], coming)
        mapped = torch.where(anyone[..., None], (krige[..., None, :] * coming).sum(-1), torch.nan)
        # A sensor that is new changes as its neighbours do. Changes are less smooth than what changes.
        change = (level[..., None, :] * (coming - around.value[..., None, :])[..., :NEAREST]).sum(-1)
        mapped = torch.where(own.isnan(), mapped, own + change)
        known = linear.of(linear.own, channel)
        told = torch.where(known.isnan(), mapped, known)
        settled = ~known[..., 0].isnan()
    candidates = [own, *own_of_cycles, *flat, krigged, *of_cycles, climate, following, told]
    own_age = torch.where(own_when >= 0, (asked.origin[..., None] - own_when).float(), torch.nan)
    offset = (level[..., None] * near.away[..., :-1]).sum(-2) / extent
    unlike = asked.covariates.nan_to_num()
    if unlike.shape[-1]:  # runtimes of ONNX sum nothing wrongly
        unlike = (level[..., None] * gathered(latest.described, near.sensor)).sum(-2) - unlike
    old = (level * torch.where(near.there, (asked.origin[..., None, None] - near.when).float(), 0.0)).sum(-1)
    changed = torch.where((own_when >= 0)[..., None], gathered(trend, mine[..., None])[..., 0, :], 0.0)
    around_changed = torch.where(near.there[..., None], gathered(trend, near.sensor), 0.0)
    moved = torch.cat([changed, (level[..., None] * around_changed).sum(-2)], -1)
    return (torch.stack(candidates, -1), own_age, settled, near.squared[..., 0].sqrt(), old, variance.log(), moved,
            offset, anyone[..., None] * unlike)  # fmt: skip


def _of_cycles(
    channel: int, history: History, asked: Asked, cycle: int, sensor: Int[Tensor, "B L P"],
    own_when: Int[Tensor, "B L P"], own: Float[Tensor, "B L P J"], near: Neighbours, level: Float[Tensor, "B L P K"],
) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
    """The own values a cycle and a week before, what is usual, and the last one with the usual change since; of the
    neighbours the usual change, what they reported a cycle before, and what is usual."""

    def until(sensor: Tensor) -> Tensor:
        """The step as of which reports of these sensors are known, the same for all lead times."""
        sensor = sensor[..., :1]
        return asked.known.gather(2, sensor.clamp(min=0).flatten(2)).view_as(sensor)

    def usually(moment: Tensor, sensor: Tensor) -> Tensor:
        # Of one silent for days, what was usual before.
        days = -((until(sensor) - moment).clamp(max=0) // cycle)
        return history.values_at(history.usual, moment - cycle * days, sensor, channel)

    def freshly(moment: Tensor, sensor: Tensor, last: Tensor, when: Tensor) -> Tensor:
        found = history.values_at(history.fresh, moment, sensor, channel)
        still = torch.where(moment - when <= cycle // 24, last, torch.nan)
        return torch.where(moment > until(sensor), still, found)

    leads, week = asked.leads, WEEK * cycle
    target = asked.origin[..., None, None] + leads
    before = target - cycle * (-(-leads // cycle)).clamp(min=1)
    asked_of, since = sensor[..., None].expand_as(before), own_when[..., None]
    usual, base = usually(before, asked_of), usually(since - cycle, asked_of[..., :1])
    weeks = freshly(target - week * (-(-leads // week)).clamp(min=1), asked_of, own, since)
    mine = [freshly(before, asked_of, own, since), weeks, usual, own + usual - base]
    who = torch.where(near.there, near.sensor, -1)[..., None].expand(*near.sensor.shape, leads.shape[-1])
    then, since = before[..., None, :].expand_as(who), near.when[..., None]
    normal = usually(then, who)
    change = normal - usually(since - cycle, who[..., :1])
    theirs = [change, freshly(then, who, near.value[..., None], since), normal]
    return mine, [_mean(level, part) for part in theirs]


def _before(
    channel: int, history: History, asked: Asked, own_when: Int[Tensor, "B L P"], near: Neighbours, memory: int
) -> Float[Tensor, "B L P K"]:
    """What each neighbour had reported when the sensor itself last did; NaN where it has not reported since, or where
    that is too long ago."""
    row = history.last[(own_when[..., None] + 1).clamp(min=0), near.sensor, channel].long()
    step = torch.where(row >= 0, history.rows.step[row.clamp(min=0)], -1)
    new = near.when > own_when[..., None]
    known = (
        near.there & new & (step >= 0) & (own_when >= 0)[..., None] & (asked.origin[..., None, None] - step < memory)
    )
    return torch.where(known, history.rows.channels[row.clamp(min=0), channel], torch.nan)


def _mean(weight: Float[Tensor, "*batch K"], values: Float[Tensor, "*batch K J"]) -> Float[Tensor, "*batch J"]:
    """The weighted mean of the values that are not NaN; NaN where they weigh less than half."""
    weighed = weight[..., None] * ~values.isnan()
    total = weighed.sum(-2)
    return (weighed * values.nan_to_num()).sum(-2) / torch.where(total > 0.5, total, torch.nan)
