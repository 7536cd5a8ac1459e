"""Rollouts in any world as animated pictures: frames, or points in the plane of the first two coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from s2rm.report.figures import animation, figure
from s2rm.tasks.arrays.world import ArrayWorld

OURS, TRUTH = "#0b6e99", "#b0b0b0"


class Shown(NamedTuple):
    """Points over time, of a few rollouts."""

    positions: Tensor
    """`(B, T, P, n)`"""
    values: Tensor
    """`(B, T, P, ...)`: the first number of each gives the colour, where positions do not move"""
    mask: Tensor
    """`(B, T, P)`"""


def frames_moving(shown: Mapping[str, Tensor]) -> bytes:
    """A GIF of frames `(B, T, C, H, W)`: what is shown in rows, rollouts in columns. NaN is grey-blue."""
    names, first = list(shown), next(iter(shown.values()))
    height, width = first.shape[-2:]
    made, panels = figure(len(names), len(first), 1.9 * len(first) + 0.6, 1.9 * len(names) * height / width + 0.6)
    images = {}
    for line, name in zip(panels, names, strict=True):
        for column, axes in enumerate(line):
            images[name, column] = axes.imshow(_pixels(shown[name][column, 0]), vmin=0, vmax=1, cmap="gray")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=9)

    def draw(step: int) -> None:
        for (name, column), image in images.items():
            image.set_data(_pixels(shown[name][column, step]))

    return animation(made, first.shape[1], draw)


def _pixels(frame: Tensor) -> np.ndarray:
    """Pixels `(H, W, 3)` of a frame of one channel, or of the first three."""
    gaps = frame.isnan().any(0)
    colours = (frame if len(frame) == 3 else frame[:1].expand(3, -1, -1)).movedim(0, -1).clamp(0, 1).clone()
    colours[gaps] = torch.tensor([0.23, 0.26, 0.32])
    return colours.numpy()


def points_moving(shown: Mapping[str, Shown], world: ArrayWorld) -> bytes:
    """A GIF of points: predictions in rows over the truth in grey, rollouts in columns.

    Views have the colour of their first value instead, where it was measured.
    """
    truth = shown["truth"]
    predicted = {name: part for name, part in shown.items() if name != "truth"}
    columns, moving = len(truth.positions), world.kind == "points"
    rows = predicted if moving else dict(shown)
    made, panels = figure(len(rows), columns, 2.3 * columns + 0.6, 2.3 * len(rows) + 0.6)
    (left, right), (low, high) = world.extent[:2]
    dots = {}
    for line, name in zip(panels, rows, strict=True):
        for column, axes in enumerate(line):
            if moving:
                under = axes.scatter([], [], s=26, color=TRUTH)
                over = axes.scatter([], [], s=9, color=OURS)
            else:
                true = _colours(truth, column)[truth.mask[column].numpy()]
                true = true[~np.isnan(true)]
                limits = {"vmin": true.min(), "vmax": true.max()} if len(true) else {}
                under = over = axes.scatter([], [], s=30, c=[], cmap="viridis", **limits)
            axes.set(xlim=(left, right), ylim=(low, high), xticks=[], yticks=[], aspect="equal")
            dots[name, column] = under, over
        line[0].set_ylabel(name, fontsize=9)

    def draw(step: int) -> None:
        for (name, column), (under, over) in dots.items():
            if moving:
                under.set_offsets(truth.positions[column, step][truth.mask[column, step]][:, :2].numpy())
            there = rows[name].mask[column, step]
            over.set_offsets(rows[name].positions[column, step][there][:, :2].numpy())
            if not moving:  # nothing is drawn where the first number is not measured
                measured = ~np.isnan(_colours(truth, column)[step])
                over.set_array(np.where(measured, _colours(rows[name], column)[step], np.nan)[there.numpy()])

    return animation(made, truth.positions.shape[1], draw)


def _colours(part: Shown, column: int) -> np.ndarray:
    """The first number of each view, `(T, P)`."""
    values = part.values[column]
    return values.reshape(*values.shape[:2], -1)[..., 0].numpy()
