"""A synthetic field with known truth: a tracer in a gyre, observed by stations and moving sensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Complex, Float, Real
from numpy.typing import NDArray

from s2rm.sensors.known_ahead import KnownAhead
from s2rm.sensors.reports import Reports, from_components
from s2rm.sensors.settings import Columns

COLUMNS = Columns("time", ("x", "y"), ("tracer", "direction"), "sensor", circular=("direction",), globe=False)
START = np.datetime64("2000-01-01T00:00:00", "us")


@dataclass(frozen=True)
class FieldWorld:
    r"""A tracer in a flow, and the sensors that observe it.

    The flow is a gyre and a uniform wind that slowly turns the other way, $u(x, t) = \Omega J (x - m) + U(t)$. Sources
    release puffs, warm and cold, which the flow carries while they spread and decay. Between releases the tracer $T$
    obeys

    $$\partial_t T = -u \cdot \nabla T + \kappa \nabla^2 T - \lambda (T - T_0)$$

    exactly: a round puff in a flow that only translates and rotates stays round, so that $T - T_0$ is a sum of
    $A \, s_0 / s \; e^{-\lambda \tau} \exp(-|x - c|^2 / 2 s)$ with $s = s_0 + 2 \kappa \tau$, $\tau$ the time since
    release and the centre $c$ carried by the flow. Speed, diffusivity $\kappa$ and decay $\lambda$ are per step. The
    centres stay in the box `[0, side]` x `[0, side]`, which has no walls. The field depends on the seed alone.

    Raises:
        ValueError: a number below its least value, a share outside [0, 1), or a wind that carries puffs out of the box.
    """

    num_stations: int = 40
    """sensors that stay where they are"""
    num_movers: int = 10
    """sensors that move: every other one drifts with the flow, the rest walk at random in the box"""
    num_steps: int = 500
    """hours"""
    noise: float = 0.1
    """standard deviation of the observation error of the tracer"""
    direction_noise: float = 5.0
    """the same of the direction, degrees"""
    dropout: float = 0.1
    """share of the observations that are lost in gaps"""
    gap: float = 6.0
    """mean length of a gap, steps; longer where the dropout needs it"""
    partial: float = 0.2
    """share of the sensors that start late or stop early"""
    without_direction: float = 0.2
    """share of the sensors that do not measure the direction"""
    seed: int = 0
    """of field, sensors and noise: the same seed gives the same reports"""
    side: float = 100.0
    turn: float = 48.0
    """steps in which the gyre turns once"""
    wind: float = 1.0
    """speed of the wind"""
    wind_turn: float = 240.0
    """steps in which the wind turns once"""
    diffusivity: float = 0.2
    decay: float = 0.01
    num_sources: int = 12
    """places at which puffs are released"""
    release_every: float = 40.0
    """mean steps between releases of a source"""
    width: float = 8.0
    """standard deviation of a puff at its release"""
    strength: float = 8.0
    """mean height of a puff at its release"""
    background: float = 15.0
    """the tracer where there is no puff"""

    def __post_init__(self) -> None:
        for least, below, words, names in (
            (0, math.inf, "at least 0 and finite",
             "num_stations num_movers noise seed direction_noise wind diffusivity strength"),
            (1, math.inf, "at least 1 and finite", "num_steps num_sources gap"),
            (math.ulp(0.0), math.inf, "positive and finite", "side turn wind_turn decay release_every width"),
            (0, 1, "a share in [0, 1)", "dropout partial without_direction"),
        ):  # fmt: skip
            for name in names.split():
                if not least <= getattr(self, name) < below:
                    raise ValueError(f"FieldWorld: {name} must be {words}, got {getattr(self, name)}")
        if self.num_sensors == 0:
            raise ValueError("FieldWorld: expected at least one sensor, got none; give num_stations or num_movers")
        if self._reach <= 0:
            raise ValueError(
                f"FieldWorld: a wind of {self.wind} carries puffs up to {self.side / 2 - self._reach:g} away, out of a "
                f"box of side {self.side}; take a weaker wind or a quicker turn"
            )

    @property
    def num_sensors(self) -> int:
        """Stations, then movers."""
        return self.num_stations + self.num_movers

    @property
    def _rates(self) -> tuple[float, float]:
        """Angular velocities of the gyre and of the wind, radians a step: of opposite signs, hence never in step."""
        return 2 * math.pi / self.turn, -2 * math.pi / self.wind_turn

    @property
    def _reach(self) -> float:
        """A particle that starts within this radius of the middle never leaves the box."""
        gyre, turning = self._rates
        return self.side / 2 - 2 * self.wind / (gyre - turning)

    @property
    def _middle(self) -> complex:
        return complex(self.side, self.side) / 2

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose])

    def _in_reach(self, purpose: int, count: int) -> Complex[NDArray, " count"]:
        generator = self._generator(purpose)
        radius, angle = self._reach * np.sqrt(generator.random(count)), 2 * math.pi * generator.random(count)
        return self._middle + radius * np.exp(1j * angle)

    @cached_property
    def _puffs(self) -> tuple[Complex[NDArray, " P"], Float[NDArray, " P"], Float[NDArray, " P"]]:
        """Places, times and heights of the releases. Half of the sources are cold."""
        places = self._in_reach(0, self.num_sources)
        # Five decay times before step 0, so that it begins with a full field.
        before = math.ceil(5.0 / self.decay / self.release_every)
        # One row after the other, so that a longer world begins as a shorter one does.
        num_rounds = before + math.ceil(self.num_steps / self.release_every)
        draws = self._generator(1).random((num_rounds, self.num_sources, 2))
        times = self.release_every * (np.arange(-before, len(draws) - before)[:, None] + draws[..., 0])
        heights = self.strength * (0.5 + draws[..., 1]) * (-1.0) ** np.arange(self.num_sources)
        return np.tile(places, len(draws)), times.ravel(), heights.ravel()

    @cached_property
    def _wind_at_start(self) -> complex:
        return self.wind * complex(np.exp(2j * math.pi * self._generator(2).random()))

    def _carried(self, places: NDArray, since: NDArray | float, until: NDArray | float) -> NDArray:
        gyre, turning = self._rates
        turned = np.exp(1j * gyre * (np.asarray(until) - since))
        wind = np.exp(1j * turning * np.asarray(until)) - turned * np.exp(1j * turning * np.asarray(since))
        return self._middle + turned * (places - self._middle) + self._wind_at_start * wind / (1j * (turning - gyre))

    def carried(
        self, positions: Real[NDArray, "R 2"], since: Real[NDArray, " R"], until: Real[NDArray, " R"]
    ) -> Float[NDArray, "R 2"]:
        """Positions of particles after the flow has carried them from one step to another, or back."""
        return _pairs(self._carried(_complex(positions), since, until))

    def flow(self, steps: Real[NDArray, " R"], positions: Real[NDArray, "R 2"]) -> Float[NDArray, "R 2"]:
        """Velocity of the flow, length per step."""
        gyre, turning = self._rates
        velocity = 1j * gyre * (_complex(positions) - self._middle)
        return _pairs(velocity + self._wind_at_start * np.exp(1j * turning * steps))

    def truth(self, steps: Real[NDArray, " R"], positions: Real[NDArray, "R 2"]) -> Float[NDArray, "R 2"]:
        """The tracer, and the direction of the flow, degrees in [0, 360) from the first axis, anywhere on the plane.

        Raises:
            ValueError: a step that is not in this world; those between whole steps are.
        """
        low, high = steps.min(initial=0), steps.max(initial=0)
        if not (low >= 0 and high <= self.num_steps - 1):
            raise ValueError(f"FieldWorld: steps must be from 0 to {self.num_steps - 1}, got {low} to {high}")
        return np.stack([self._tracer(steps, positions), from_components(self.flow(steps, positions))], -1)

    def _tracer(self, steps: NDArray, positions: NDArray) -> NDArray:
        places, times, heights = self._puffs
        tracer = np.full(len(steps), self.background)
        for step in np.unique(steps).astype(np.float64).tolist():
            rows, there = np.flatnonzero(steps == step), times <= step
            age = step - times[there]
            spread = self.width**2 + 2 * self.diffusivity * age
            height = heights[there] * self.width**2 / spread * np.exp(-self.decay * age)
            centres = _pairs(self._carried(places[there], times[there], step))
            for some in np.split(rows, range(4096, len(rows), 4096)):
                away = ((positions[some, None] - centres) ** 2).sum(-1)
                tracer[some] += np.exp(-away / (2 * spread)) @ height
        return tracer

    def _paths(self) -> Float[NDArray, "T S 2"]:
        """Position of each sensor at each step."""
        stations = self.side * self._generator(3).random((self.num_stations, 2))
        num_drifting, steps = (self.num_movers + 1) // 2, np.arange(self.num_steps)[:, None]
        drifting = _pairs(self._carried(self._in_reach(4, num_drifting), 0.0, steps))
        generator = self._generator(5)
        starts = self.side * generator.random((self.num_movers - num_drifting, 2))
        strides = self.side / 50 * generator.standard_normal((self.num_steps, *starts.shape))
        strides[0] = 0
        # Walls reflect: the box unfolded is twice as long.
        walking = self.side - np.abs((starts + strides.cumsum(0)) % (2 * self.side) - self.side)
        still = np.broadcast_to(stations, (self.num_steps, *stations.shape))
        return np.concatenate([still, drifting, walking], 1)

    def _reporting(self) -> Bool[NDArray, "T S"]:
        """Which sensors report at each step: gaps begin and end at constant rates; some start late or stop early."""
        generator, odds = self._generator(6), self.dropout / (1 - self.dropout)
        gap = max(self.gap, odds)
        draws = generator.random((self.num_steps, self.num_sensors))
        reporting = draws >= self.dropout
        for before, now, draw in zip(reporting, reporting[1:], draws[1:], strict=False):
            now[:] = np.where(before, draw >= odds / gap, draw < 1 / gap)
        steps, half = np.arange(self.num_steps)[:, None], self.num_steps / 2
        kind, when = generator.random((2, self.num_sensors))
        late, early = kind < self.partial / 2, (kind >= self.partial / 2) & (kind < self.partial)
        return reporting & ~(late & (steps < half * when)) & ~(early & (steps >= half * (1 + when)))

    def reports(self, wind_ahead: bool = False) -> Reports:
        """The observations, with errors and gaps; with `wind_ahead` the wind is known until the last step."""
        step, sensor = np.nonzero(self._reporting())
        positions = self._paths()[step, sensor]
        # A draw for every sensor and step, so that the error of a report does not depend on which others are lost.
        noise = self._generator(7).standard_normal((self.num_steps, self.num_sensors, 2))[step, sensor]
        values = (self.truth(step, positions) + noise * (self.noise, self.direction_noise)).astype(np.float32)
        values[:, 1] %= 360
        without = self._generator(8).random(self.num_sensors) < self.without_direction
        values[without[sensor], 1] = np.nan
        names = [f"station {number}" for number in range(self.num_stations)]
        names += [f"mover {number}" for number in range(self.num_movers)]
        rows = (step.astype(np.int64), sensor.astype(np.int64), positions, values, np.zeros((len(step), 0), np.float32))
        if not wind_ahead:
            return Reports(COLUMNS, START, self.num_steps, tuple(names), *rows)
        middle = np.tile(_pairs(np.array([self._middle])), (self.num_steps, 1))
        wind = self.flow(np.arange(self.num_steps), middle)[:, None].astype(np.float32)
        known = KnownAhead(START, np.timedelta64(1, "h"), middle[:1], wind)
        columns = replace(COLUMNS, ahead=("wind_x", "wind_y"), flow=("wind_x", "wind_y"))
        return Reports(columns, START, self.num_steps, tuple(names), *rows, known)


def _complex(pairs: Real[NDArray, "*batch 2"]) -> Complex[NDArray, "*batch"]:
    return pairs[..., 0] + 1j * pairs[..., 1]


def _pairs(places: Complex[NDArray, "*batch"]) -> Float[NDArray, "*batch 2"]:
    return np.stack([places.real, places.imag], -1)
