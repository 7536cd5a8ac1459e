"""The candidate guesses of a value: the own last value, the same hour of the last day, and the neighbours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from s2rm.sensors.first_guess.history import History
from s2rm.sensors.first_guess.outlook import Filter, Outlook, outlook
from s2rm.sensors.first_guess.weights import NEAREST, NEIGHBOURS, kriging, plane
from s2rm.sensors.known_ahead import Flow

OWN = ("own last value", "own, a cycle before", "own, a week before", "own usual value", "own last and usual change")
OTHERS = ("nearest, level", "nearest, plane", "kriging", "kriging and usual change", "nearest, a cycle before",
          "nearest, usual value", "climatology")  # fmt: skip
FOLLOWING = "own last and neighbours' change"
LINEAR = "linear dynamics"
CANDIDATES = (*OWN, *OTHERS, FOLLOWING, LINEAR)
"""K of them. A cycle is a day, a week where a step is a day, or a year where it is longer; usual values are means over
some cycles. Where a flow is known there is one more, the last: what kriging says of the place from which it comes"""
WEEK = 7
"""the cycles that "a week before" looks back"""
CLIMATE = CANDIDATES.index("climatology")
FROM_LAST = (0, 4, 12)
"""those that count less the older the sensor's own last value is; the last one does not in earlier versions"""
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


class Found(NamedTuple):
    """What is found for each query."""

    values: Float[Tensor, "B L P J D K"]
    """the candidates, NaN where there is none"""
    own_age: Float[Tensor, "B L P D"]
    """steps from the sensor's own last value to the origin, NaN where there is none"""
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
    noise: tuple[Tensor, Tensor] | None = None, number: int = len(CANDIDATES), dynamics: Filter | None = None,
    horizon: int = 0,
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
        number: how many of `CANDIDATES` there are; earlier versions had fewer.
        dynamics, horizon: of the sensors, if they are known, and the longest lead time, in steps.
    """
    rows, when = _last(history, asked, memory)
    latest = rows.amax(-1).clamp(min=0)
    places, described = history.rows.positions[latest], history.rows.covariates[latest].nan_to_num()
    if noise is not None:
        places, described = places + noise[0], described + noise[1]
    # By differences, as products would lose small distances on the globe.
    distance = torch.cdist(asked.positions, places, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    itself = asked.sensor[..., None] == torch.arange(history.num_sensors)
    distance = distance.masked_fill(itself, torch.inf)
    trend = _trends(history, asked, rows, when, memory)
    linear = None
    if dynamics is not None:
        linear = outlook(
            dynamics, history, asked.known, asked.origin, asked.positions, asked.sensor, asked.leads, asked.alone,
            memory, horizon, displaced=noise is not None,
        )  # fmt: skip
    parts = [
        _channel(channel, history, asked, ways, rows[..., channel], when[..., channel], places, described, distance,
                 climate[..., channel], extent, trend[..., channel, :], memory, linear)
        for channel in range(rows.shape[-1])
    ]  # fmt: skip
    values, *others = zip(*parts, strict=True)
    values = tuple(part[..., :number] for part in values)
    if asked.gone is not None:
        carried = _carried(history, asked, ways, memory, noise)
        values = tuple(torch.cat([part, carried[..., channel, None]], -1) for channel, part in enumerate(values))
    return Found(torch.stack(values, -2), *(torch.stack(part, 3) for part in others))


def _carried(
    history: History, asked: Asked, ways: Ways, memory: int, noise: tuple[Tensor, Tensor] | None
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
        chosen, _, known, away = _neighbours(ways.fading, when[..., channel], places, came.flatten(2, 3), distance)
        # Of reports that are carried many lie close together, of which few are enough.
        chosen, known, away = chosen[..., :NEAREST], known[..., :NEAREST], away[..., :NEAREST, :]
        weight, _ = kriging(away, known, ways.reach[channel], ways.nugget[channel], ways.smooth[channel])
        last = history.rows.channels[row[..., channel].clamp(min=0), channel]
        value = torch.where(known, _gathered(last[..., None], chosen)[..., 0], 0.0)
        values.append(torch.where(known[..., 0], (weight * value).sum(-1), torch.nan))
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


def _neighbours(
    ageing: float, when: Int[Tensor, "B L S"], places: Float[Tensor, "B L S n"], positions: Float[Tensor, "B L P n"],
    distance: Float[Tensor, "B L P S"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Those of each place: which sensors, their squared distance, whether they are there, and how far they are off."""
    age = (when.amax(-1, keepdim=True) - when) * ageing
    cost = torch.where((when < 0)[:, :, None], torch.inf, distance + (age**2)[:, :, None])
    # Not by min, so that an export with more sensors than neighbours has a fixed number of them.
    least, chosen = cost.topk(NEIGHBOURS if cost.shape[-1] >= NEIGHBOURS else cost.shape[-1], largest=False)
    there = least.isfinite()
    away = _gathered(torch.cat([places, age[..., None]], -1), chosen)
    away[..., :-1] -= positions[..., None, :]
    return chosen, least, there, torch.where(there[..., None], away, 0.0)


def _last(
    history: History, asked: Asked, memory: int, back: int = 0
) -> tuple[Int[Tensor, "B L S D"], Int[Tensor, "B L S D"]]:
    """Row and step of each sensor's last value as of some steps before what is known; a step of -1: none, too old."""
    rows = history.as_of(asked.known - back)
    when = torch.where(rows >= 0, history.rows.step[rows.clamp(min=0)], -1)
    return rows, torch.where(asked.origin[:, :, None, None] - when < memory, when, -1)


def _trends(
    history: History, asked: Asked, rows: Int[Tensor, "B L S D"], when: Int[Tensor, "B L S D"], memory: int
) -> Float[Tensor, "B L S D E"]:
    """How much the last value of each sensor differs from those that were known some steps before; 0 for none."""

    def values(rows: Tensor) -> Tensor:
        return history.rows.channels.gather(0, rows.clamp(min=0).flatten(0, -2)).view(rows.shape)

    now, changes = values(rows), []
    for steps in TRENDS:
        before, then = _last(history, asked, memory, steps)
        changes.append(torch.where((when >= 0) & (then >= 0), now - values(before), 0.0))
    return torch.stack(changes, -1).nan_to_num()


def _channel(
    channel: int, history: History, asked: Asked, ways: Ways, rows: Int[Tensor, "B L S"], when: Int[Tensor, "B L S"],
    places: Float[Tensor, "B L S n"], described: Float[Tensor, "B L S F"], distance: Float[Tensor, "B L P S"],
    climate: Float[Tensor, "B L P J"], extent: float, trend: Float[Tensor, "B L S E"], memory: int,
    linear: Outlook | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Of one channel: the candidates `(B, L, P, J, K)`, and the other parts of `Found`."""
    all_chosen, all_least, everywhere, away = _neighbours(ways.ageing[channel], when, places, asked.positions, distance)
    krige, variance = kriging(away, everywhere, ways.reach[channel], ways.nugget[channel], ways.smooth[channel])
    last = history.rows.channels[rows.clamp(min=0), channel]
    nearby = _gathered(torch.stack([last, (asked.origin[..., None] - when).float()], -1), all_chosen)
    nearby = torch.where(everywhere[..., None], nearby, 0.0)
    anyone, values = everywhere[..., 0], nearby[..., 0]
    krigged = torch.where(anyone, (krige * values).sum(-1), torch.nan)[..., None].expand_as(climate)
    chosen, least, there, value = (part[..., :NEAREST] for part in (all_chosen, all_least, everywhere, values))
    nearby, away = nearby[..., :NEAREST, :], away[..., :NEAREST, :]
    closeness = 1 / (least + (1e-4 * extent) ** 2)
    level = closeness / closeness.sum(-1, keepdim=True).clamp(min=1e-12)
    tilted = plane(level, away[..., :-1] / extent, ways.tilt[channel])

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

    mine = asked.sensor.clamp(min=0)
    sensor = torch.where(torch.as_tensor(asked.alone), -1, asked.sensor)
    own_when = torch.where(sensor >= 0, when.gather(-1, mine.flatten(2)).view_as(sensor), -1)
    own = torch.where(own_when >= 0, last.gather(-1, mine), torch.nan)[..., None].expand_as(climate)
    nothing = torch.full_like(own, torch.nan)
    if history.cycle is None:
        candidates = [own, nothing, nothing, nothing, nothing]
        around = [nothing, nothing, nothing]
    else:
        cycle, leads = history.cycle, asked.leads
        target = asked.origin[..., None, None] + leads
        before = target - cycle * (-(-leads // cycle)).clamp(min=1)
        week = WEEK * cycle
        asked_of = torch.where(own_when >= 0, sensor, -1)[..., None].expand_as(before)
        base = usually(own_when[..., None] - cycle, asked_of[..., :1])
        usual, since = usually(before, asked_of), own_when[..., None]
        candidates = [
            own, freshly(before, asked_of, own, since),
            freshly(target - week * (-(-leads // week)).clamp(min=1), asked_of, own, since), usual, own + usual - base,
        ]  # fmt: skip
        who = torch.where(there, chosen, -1)[..., None].expand(*chosen.shape, leads.shape[-1])
        then = before[..., None, :].expand_as(who)
        normal, since = usually(then, who), _gathered(when[..., None], chosen)
        change = normal - usually(since - cycle, who[..., :1])
        around = [
            krigged + _mean(level, change), _mean(level, freshly(then, who, value[..., None], since)),
            _mean(level, normal),
        ]  # fmt: skip
    flat = [torch.where(anyone, (weight * value).sum(-1), torch.nan)[..., None].expand_as(climate)
            for weight in (level, tilted)]  # fmt: skip
    before = _before(channel, history, asked, own_when, when, chosen, there, memory)
    counts = level * ~before.isnan()
    change = (counts * (value - before).nan_to_num()).sum(-1) / counts.sum(-1).clamp(min=1e-12)
    following = own + change[..., None]
    candidates += [*flat, krigged, *around, climate, following, nothing]
    if linear is not None:
        site = linear.site.gather(1, all_chosen.flatten(1)).view_as(all_chosen)
        coming = linear.of(torch.where(everywhere, site, -1), channel)
        coming = torch.where(coming.isnan(), values[..., None, :], coming)
        mapped = torch.where(anyone[..., None], (krige[..., None, :] * coming).sum(-1), torch.nan)
        # A sensor that is new changes as its neighbours do. Changes are less smooth than what changes.
        change = (level[..., None, :] * (coming - values[..., None, :])[..., :NEAREST]).sum(-1)
        mapped = torch.where(own.isnan(), mapped, own + change)
        told = linear.of(linear.own, channel)
        candidates[-1] = torch.where(told.isnan(), mapped, told)
    own_age = torch.where(own_when >= 0, (asked.origin[..., None] - own_when).float(), torch.nan)
    offset = (level[..., None] * away[..., :-1]).sum(-2) / extent
    unlike = asked.covariates.nan_to_num()
    if unlike.shape[-1]:  # runtimes of ONNX sum nothing wrongly
        unlike = (level[..., None] * _gathered(described, chosen)).sum(-2) - unlike
    old = (level * nearby[..., 1]).sum(-1)
    changed = torch.where((own_when >= 0)[..., None], _gathered(trend, mine[..., None])[..., 0, :], 0.0)
    around_changed = torch.where(there[..., None], _gathered(trend, chosen), 0.0)
    moved = torch.cat([changed, (level[..., None] * around_changed).sum(-2)], -1)
    return (torch.stack(candidates, -1), own_age, least[..., 0].sqrt(), old, variance.log(), moved, offset,
            anyone[..., None] * unlike)  # fmt: skip


def _before(
    channel: int, history: History, asked: Asked, own_when: Int[Tensor, "B L P"], when: Int[Tensor, "B L S"],
    chosen: Int[Tensor, "B L P K"], there: Bool[Tensor, "B L P K"], memory: int,
) -> Float[Tensor, "B L P K"]:  # fmt: skip
    """What each neighbour had reported when the sensor itself last did; NaN where it has not reported since, or where
    that is too long ago."""
    row = history.last[(own_when[..., None] + 1).clamp(min=0), chosen, channel].long()
    step = torch.where(row >= 0, history.rows.step[row.clamp(min=0)], -1)
    new = _gathered(when[..., None], chosen)[..., 0] > own_when[..., None]
    known = there & new & (step >= 0) & (own_when >= 0)[..., None] & (asked.origin[..., None, None] - step < memory)
    return torch.where(known, history.rows.channels[row.clamp(min=0), channel], torch.nan)


def _mean(weight: Float[Tensor, "*batch K"], values: Float[Tensor, "*batch K J"]) -> Float[Tensor, "*batch J"]:
    """The weighted mean of the values that are not NaN; NaN where they weigh less than half."""
    weighed = weight[..., None] * ~values.isnan()
    total = weighed.sum(-2)
    return (weighed * values.nan_to_num()).sum(-2) / torch.where(total > 0.5, total, torch.nan)


def _gathered(kept: Shaped[Tensor, "B L S n"], chosen: Int[Tensor, "B L P K"]) -> Shaped[Tensor, "B L P K n"]:
    """The entries of the sensors that are chosen for each query."""
    index = chosen.flatten(2)[..., None].expand(-1, -1, -1, kept.shape[-1])
    return kept.gather(2, index).unflatten(2, chosen.shape[2:])
