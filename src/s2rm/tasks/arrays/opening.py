"""Worlds from arrays: written to a file, opened, checked, and standardised by the training part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from s2rm.files import only_writer, write_whole
from s2rm.tasks.arrays.checks import (
    check_frames,
    check_mask,
    check_part,
    check_positions,
    check_resolution,
    check_shapes,
    check_values,
)
from s2rm.tasks.arrays.files import (
    SPLITS,
    Array,
    Arrays,
    Seeing,
    check_free,
    digest,
    kind_of,
    named_arrays,
    read_arrays,
    write_arrays,
)
from s2rm.tasks.arrays.predictors import best_guess
from s2rm.tasks.arrays.world import ArrayWorld, part_of
from s2rm.views import Episode, Views

USUAL_CROP, USUAL_CLIP = 11, 20
SAMPLE = 256
"""sequences of the training part in which channels are measured"""


def write_world(path: str | Path, arrays: Mapping[str, ArrayLike] | Views | Episode, **seeing: Any) -> ArrayWorld:
    """Write your own world to a file that every command accepts, and open it.

    Args:
        path: a file that ends in .npz, which takes the place of an earlier one, or a new folder, from which only what
            is needed is read: a Zarr folder if it ends in .zarr, otherwise a folder of .npy files.
        arrays: by name, of N sequences of T steps each. One of

            - `frames` `(N, T, H, W)` or `(N, T, C, H, W)`: bytes, booleans, or numbers from 0 to 1; optionally with
              `positions` `(N, T, A, 2)`, the (row, column) of crops in pixels (by default drawn at random), and their
              `mask`;
            - `points` `(N, T, P, n)`: the positions of up to P bodies or agents, each in its own slot; optionally with
              `features` `(N, T, P, *shape)` of up to three axes each; `actions` `(N, T, P, K)`, which are not
              predicted; `rewards` and `ends` `(N, T, P)`, which are only stored; and a `mask` `(N, T, P)`, True where a
              point is present;
            - `positions` `(N, T, A, n)` and `values` `(N, T, A, *shape)` with their `mask`, or `Views` of that batch:
              your own views, predicted at their positions.

            `part` `(N,)` assigns sequences to training (0), validation (1) and test (2); by default a tenth of all,
            drawn at random, is used for each of validation and test. NaN in features and values means not measured.
        seeing: the fields of [`Seeing`][s2rm.tasks.arrays.files.Seeing]: `crop`, `num_views`, `clip`, `extent`.

    Raises:
        TypeError: an unknown field.
        ValueError: arrays that do not fit each other, values out of range, a mask that hides everything, a folder that
            exists already, or another process that writes the same world. Nothing is written then.
        OSError: it cannot be written; an earlier file is as it was.
    """
    how, plain = _seeing(**seeing), named_arrays(arrays)
    world = _facts(path, plain, how)
    fixed = {"num_views"} if "positions" in plain else set()
    idle = {"extent"} | fixed if world.kind == "frames" else {"crop", "num_views"}
    if ignored := sorted(idle & {name for name, value in seeing.items() if value is not None}):
        raise ValueError(f"world: {ignored[0]} does not matter to {world.kind} like these; leave it out")
    check_free(path)
    path = Path(path).resolve()
    beside = path.with_name(f".{path.name[:50]}.part")
    with only_writer(beside, "world"):
        # What cannot be opened is no world, and must not take the place of one.
        try:
            staged = beside / path.name
            if staged.is_dir():  # of a process that was killed
                shutil.rmtree(staged)
            write_arrays(staged, plain, how)
            world = open_world(staged)
            if staged.is_file():
                write_whole(path, staged.read_bytes())
            else:
                check_free(path)
                os.replace(staged, path)
        finally:
            shutil.rmtree(beside)
    return replace(world, path=str(path))


def _seeing(**given: Any) -> Seeing:
    """The settings as plain numbers."""
    for name, value in given.items():
        if isinstance(value, np.integer):
            given[name] = int(value)
    if given.get("extent") is not None:
        try:
            given["extent"] = tuple(tuple(map(float, side)) for side in given["extent"])
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"world: extent must be pairs (low, high), got {given['extent']!r}; give one for each coordinate"
            ) from error
    return Seeing(**given)


def open_world(path: str | Path) -> ArrayWorld:
    """The world in a file or folder, whose whole content is checked.

    Raises:
        ValueError: no world there, or one that `write_world` would refuse.
    """
    path = Path(path).resolve()
    arrays, seeing = read_arrays(path)
    world = replace(_facts(path, arrays, seeing), digest=digest(path))
    return replace(world, guess=best_guess(world))


def _facts(path: str | Path, arrays: Arrays, seeing: Seeing) -> ArrayWorld:
    """The world that checked arrays make, still without a digest and the best guess."""
    kind = kind_of(arrays, path)
    sequences, steps = check_shapes(path, arrays, kind)
    part, mask = part_of(arrays, sequences), arrays.get("mask")
    check_part(path, part, sequences)
    until = steps if mask is None else check_mask(path, mask, part)
    for name in ("actions", "rewards"):
        if name in arrays:
            check_values(path, name, arrays[name], mask, gaps=False)
    clip = min(USUAL_CLIP, steps) if seeing.clip is None else seeing.clip
    if clip > steps:
        raise ValueError(f"world: clip must be at most the {steps} steps of a sequence, got {clip}; shorten it")
    positions, extent = arrays.get("points" if kind == "points" else "positions"), seeing.extent
    if kind == "frames":
        extent = tuple((0.0, float(side)) for side in arrays["frames"].shape[-2:])
    if positions is not None:
        extent = check_positions(path, positions, mask, extent, kind == "frames")
    assert extent is not None
    channels = _of_frames(path, arrays["frames"], seeing.crop) if kind == "frames" else _channels(path, arrays, part)
    if kind != "frames":
        check_resolution(path, extent, channels["centre"], channels["scale"], kind)
    return ArrayWorld(
        path=str(path), digest="", kind=kind, num_steps=steps, clip=clip, extent=extent,
        until=until if until < steps else None,
        sequences=tuple(int((part == number).sum()) for number in range(len(SPLITS))),
        num_views=seeing.num_views if positions is None else int(positions.shape[2]), **channels,
    )  # fmt: skip


def _of_frames(path: str | Path, frames: Array, crop: int | None) -> dict[str, Any]:
    """What a world of frames has of its own."""
    height, width = frames.shape[-2:]
    if frames.ndim == 5 and width <= 4 < frames.shape[2]:
        raise ValueError(
            f"world: expected frames (N, T, C, H, W) in {path}, got shape {frames.shape}, whose channels seem to stand "
            "last; np.moveaxis(frames, -1, 2) moves them"
        )
    crop = min(USUAL_CROP, height, width) if crop is None else crop
    if crop > min(height, width):
        raise ValueError(
            f"world: expected frames of at least the crop's {crop} x {crop} pixels in {path}, got {height} x {width}; "
            "take a smaller crop"
        )
    shape = tuple(map(int, (*frames.shape[2:-2], crop, crop)))
    binary, white = check_frames(path, frames)
    return {
        "value_shape": shape, "target_shape": shape, "binary": binary, "white": white, "centre": (), "scale": (),
    }  # fmt: skip


def _channels(path: str | Path, arrays: Arrays, part: Array) -> dict[str, Any]:
    """Shapes of views and predictions; centre and scale of each channel, in a sample of the training part."""
    points, mask = arrays.get("points"), arrays.get("mask")
    name = "values" if points is None else "features"
    values = arrays.get(name)
    binary = values is not None and check_values(path, name, values, mask) and points is None
    train = np.flatnonzero(part == 0)
    rows = train[np.linspace(0, len(train) - 1, min(SAMPLE, len(train))).round().astype(int)]

    def sampled(array: Array | None) -> Array | None:
        return None if array is None else np.stack([array[row] for row in rows])

    there, moments = sampled(mask), ([], []) if values is None or binary else _moments(sampled(values), sampled(mask))
    target = () if values is None else tuple(map(int, values.shape[3:]))
    view, (centre, scale) = target, moments
    if points is not None:
        n, some = points.shape[-1], np.asarray(sampled(points), np.float64)
        known = np.ones(some.shape[:3], bool) if there is None else there.astype(bool)
        moved = (some[:, 1:] - some[:, :-1])[known[:, 1:] & known[:, :-1]]
        size = float(np.sqrt(np.square(moved).mean())) if moved.size else 0.0
        centre, scale = [*[0.0] * n, *centre], [*[size or 1.0] * n, *scale]
        target = (len(centre), *(target[-2:] if len(target) > 1 else ()))
        view = (target[0] + (arrays["actions"].shape[-1] if "actions" in arrays else 0), *target[1:])
    return {
        "value_shape": view, "target_shape": target, "binary": binary, "centre": tuple(centre), "scale": tuple(scale),
    }  # fmt: skip


def _moments(values: Array | None, mask: Array | None) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of values `(N, T, A, *shape)`, over what was measured."""
    assert values is not None
    shape = values.shape[3:]
    channels = shape[0] if len(shape) in (1, 3) else 1
    views = values.astype(np.float64).reshape(-1, channels, max(1, int(np.prod(shape))) // channels)
    there = ~np.isnan(views) if mask is None else ~np.isnan(views) & mask.astype(bool).reshape(-1, 1, 1)
    centre, scale = [], []
    for channel in range(views.shape[1]):
        known = views[:, channel][there[:, channel]]
        centre.append(float(known.mean()) if known.size else 0.0)
        scale.append(float(known.std()) if known.size and known.std() > 0 else 1.0)
    return centre, scale
