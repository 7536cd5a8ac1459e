"""A synthetic week of traffic speeds at detectors along roads: daily rush hours, local jams, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2rm.sensors.reports import Reports
from s2rm.sensors.settings import Columns

COLUMNS = Columns("time", ("lon", "lat"), ("speed",), "detector", step="5min")


@dataclass(frozen=True)
class Traffic:
    """Speeds in miles an hour every five minutes, from a Thursday on.

    A road is a straight line with two directions. In each of them one rush hour of the working days slows a stretch of
    the road, and jams begin at random places and times, grow upstream and dissolve.
    """

    num_detectors: int = 207
    num_roads: int = 6
    days: int = 7
    noise: float = 2.0
    """standard deviation of the error of an observation"""
    dropout: float = 0.03
    """share of the observations that are missing"""
    seed: int = 0

    def reports(self) -> Reports:
        """The observations of all detectors."""
        generator = np.random.default_rng(self.seed)
        steps, lanes = 288 * self.days, 2 * self.num_roads
        hour = np.arange(steps) / 12
        start, heading = generator.uniform(0, 0.3, (self.num_roads, 2)), generator.uniform(0, np.pi, self.num_roads)
        lane = generator.integers(lanes, size=self.num_detectors)
        along = generator.uniform(0, 30, self.num_detectors)  # km
        away = along[:, None] / 100 * np.stack([np.cos(heading), np.sin(heading)], 1)[lane // 2]
        positions = np.array([-118.4, 34.0]) + start[lane // 2] + away + 1e-3 * (lane % 2)[:, None]
        slowed = np.zeros((steps, self.num_detectors))
        for number in range(lanes):
            mine, centre = lane == number, generator.uniform(5, 25)
            when = 8.0 if number % 2 else 17.5
            for day in range(self.days):
                if (day + 3) % 7 < 5:
                    peak, depth = 24 * day + when + generator.normal(0, 0.3), generator.uniform(20, 40)
                    shape = np.exp(-0.5 * ((hour - peak) / 1.2) ** 2)
                    slowed[:, mine] += depth * shape[:, None] * np.exp(-0.5 * ((along[mine] - centre) / 7) ** 2)
            for _ in range(generator.poisson(1.2 * self.days)):
                place, begin, length = (
                    generator.uniform(0, 30),
                    generator.uniform(0, hour[-1]),
                    generator.uniform(0.5, 2),
                )
                age = hour[:, None] - begin
                front = place - 12 * np.clip(age, 0, length)  # a jam grows upstream at 12 km/h
                inside = (along[mine] <= place) & (along[mine] >= front) & (age > 0) & (age < length)
                slowed[:, mine] += generator.uniform(15, 35) * inside
        free = generator.uniform(58, 70, self.num_detectors)
        speed = np.maximum(5, free - slowed) + self.noise * generator.normal(size=slowed.shape)
        step, detector = (part.ravel() for part in np.indices(speed.shape))
        kept = generator.random(len(step)) >= self.dropout
        step, detector = step[kept], detector[kept]
        return Reports(
            COLUMNS, np.datetime64("2024-03-07T00:00", "us"), steps,
            tuple(f"d{index:03}" for index in range(self.num_detectors)), step, detector, positions[detector],
            speed[step, detector, None].astype(np.float32), np.zeros((len(step), 0), np.float32),
        )  # fmt: skip
