"""What is checked of the arrays of a world, each in one line: shapes, parts, masks, positions, values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from s2rm.tasks.arrays.files import KINDS, SPLITS, Array, Arrays, Kind
from s2rm.tasks.worlds import check_amount

Box = tuple[tuple[float, float], ...]
RANKS = {
    "frames": (4, 5), "points": (4,), "features": (3, 4, 5, 6), "actions": (4,), "rewards": (3,), "ends": (3,),
    "mask": (3,),
}  # fmt: skip
"""the number of axes of each array; values may have any"""
LARGEST = 1e18
"""of all numbers: their squares must not be infinite in single precision"""
AT_ONCE = 2**24
"""values that are looked at together, so that large files need little memory"""


def check_shapes(path: str | Path, arrays: Arrays, kind: Kind) -> tuple[int, int]:
    """Number of sequences and of steps, which all arrays share; all but frames share the slots too."""
    there = {name: arrays[name].shape for name in KINDS[kind] if name in arrays}
    for name, shape in there.items():
        ranks = RANKS.get(name, (4,) if name == "positions" else ())
        if len(shape) not in (ranks or range(3, 9)):
            wanted = " or ".join(map(str, ranks)) or "3 to 8"
            raise ValueError(
                f"world: {name} in {path} must have {wanted} axes, the first of sequences and of steps, got shape "
                f"{shape}; add the missing ones"
            )
    shared = {name: shape[: 2 if name == "frames" else 3] for name, shape in there.items()}
    if len({shape[:2] for shape in shared.values()}) > 1 or len({s for n, s in shared.items() if n != "frames"}) > 1:
        got = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in shared.items())
        raise ValueError(
            f"world: expected arrays of the same sequences, steps and slots in {path}, got {got}; pad what is shorter, "
            "and mark it in a mask"
        )
    first = next(iter(there.values()))
    check_amount("world", *first)
    if first[0] < 3 or first[1] < 2:
        raise ValueError(
            f"world: expected at least 3 sequences, to train, validate and test, of at least 2 steps in {path}, got "
            f"{first[0]} of {first[1]}; cut longer ones into several"
        )
    if empty := [f"{name} {shape}" for name, shape in there.items() if 0 in shape]:
        raise ValueError(f"world: {empty[0]} in {path} holds nothing; leave it out")
    return first[0], first[1]


def check_part(path: str | Path, part: Array, sequences: int) -> None:
    """Each sequence is in one of three parts, and none of them is empty."""
    found = np.unique(part).tolist()
    if part.shape != (sequences,) or set(found) != {0, 1, 2}:
        raise ValueError(
            f"world: part in {path} must be 0, 1 or 2 (train, validation, test) for each of {sequences} sequences, "
            f"with each of them, got shape {part.shape} with {found[:9]}; leave it out for a tenth each"
        )


def check_mask(path: str | Path, mask: Array, part: Array) -> int:
    """In each part something is seen, and something is there at a later step to be predicted; the number of steps after
    which nothing is there in the test part."""
    steps = np.zeros((len(SPLITS), mask.shape[1]), bool)
    for rows in in_chunks(mask):
        given = np.asarray(mask[rows])
        if not ((given == 0) | (given == 1)).all():
            raise ValueError(f"world: the mask in {path} must be True or False, got other numbers; convert it to bool")
        some = given.astype(bool).max(2)
        for number in range(len(SPLITS)):
            steps[number] |= some[part[rows] == number].any(0)
    for name, seen in zip(SPLITS, steps.sum(1).tolist(), strict=True):
        if seen < 2:
            raise ValueError(
                f"world: the mask in {path} hides the part {name!r} at all but {seen} steps, at least 2 are needed; "
                "set it to True where something was observed"
            )
    return int(np.flatnonzero(steps[-1])[-1]) + 1


def check_frames(path: str | Path, frames: Array) -> tuple[bool, int]:
    """Whether frames are binary, and which number stands for 1."""
    highest, to_one, to_255 = 0.0, True, True
    for rows in in_chunks(frames):
        some = np.asarray(frames[rows])
        low, high, most = float(some.min()), float(some.max()), 255 if some.dtype == np.uint8 else 1
        if not 0 <= low <= high <= most:
            raise ValueError(
                f"world: expected frames of bytes, booleans, or numbers from 0 to 1 in {path}, got {some.dtype} from "
                f"{low:g} to {high:g}; scale them, or convert them to uint8"
            )
        highest = max(highest, high)
        to_one, to_255 = to_one and bool(np.isin(some, (0, 1)).all()), to_255 and bool(np.isin(some, (0, 255)).all())
    return to_one or to_255, 255 if frames.dtype == np.uint8 and highest > 1 else 1


def check_positions(
    path: str | Path, positions: Array, mask: Array | None, box: Box | None, pixels: bool = False
) -> Box:
    """The extent: as declared, or else that of all positions and a twentieth of each side around it. Of `pixels` it is
    the size of the frames, whose upper ends are beyond the last pixels."""
    n = positions.shape[-1]
    if box is not None and len(box) != n:
        raise ValueError(
            f"world: extent must have a (low, high) for each of {n} coordinates in {path}, got {len(box)}; give as many"
        )
    lowest, highest = np.full(n, np.inf), np.full(n, -np.inf)
    for there in _there(positions, mask):
        if not (np.abs(there) < LARGEST).all():
            raise ValueError(
                f"world: expected finite positions in {path}, got NaN, infinity or more than {LARGEST:g} where "
                "something is; set the mask to False there"
            )
        lowest, highest = np.minimum(lowest, there.min(0)), np.maximum(highest, there.max(0))
        if box is not None:
            low, high = np.array(box).T
            outside = ((there < low) | (there >= high if pixels else there > high)).any(1)
            if outside.any():
                raise ValueError(
                    f"world: expected positions within the extent {[list(side) for side in box]} in {path}, got "
                    f"{outside.sum():,} outside, the first {there[outside][0].round(6).tolist()}; "
                    + ("rows and columns of pixels count from 0" if pixels else "declare a larger one")
                )
    if box is not None:
        return tuple((float(low), float(high)) for low, high in box)
    margin = np.where(highest > lowest, (highest - lowest) / 20, 0.5)
    return tuple(zip((lowest - margin).tolist(), (highest + margin).tolist(), strict=True))


def check_values(path: str | Path, name: str, values: Array, mask: Array | None, gaps: bool = True) -> bool:
    """Whether all values are 0 or 1; those of a view are finite, or, with `gaps`, NaN in some of its channels."""
    binary = True
    for there in _there(values, mask, values.shape[3:]):
        missing = np.isnan(there)
        infinite, unknown = not (missing | (np.abs(there) < LARGEST)).all(), missing.all(1) if gaps else missing.any(1)
        if infinite or unknown.any():
            got = f"infinity or more than {LARGEST:g}" if infinite else "only NaN" if gaps else "NaN"
            wanted = "numbers, or NaN for some channels that were not measured," if gaps else "finite numbers"
            raise ValueError(
                f"world: expected {wanted} in {name} in {path}, got {got} where something is; set the mask to "
                "False there"
            )
        binary = binary and bool((missing | (there == 0) | (there == 1)).all())
    return binary


def check_resolution(
    path: str | Path, extent: Box, centre: Sequence[float], scale: Sequence[float], kind: Kind
) -> None:  # fmt: skip
    """Numbers must differ by more than float32, in which models compute, can tell apart."""
    moved = scale[: len(extent)] if kind == "points" else [high - low for low, high in extent]
    sizes = [("positions", max(map(abs, side)), unit) for side, unit in zip(extent, moved, strict=True)]
    first = len(extent) if kind == "points" else 0
    sizes += [
        ("values" if kind == "views" else "features", abs(middle), unit)
        for middle, unit in zip(centre[first:], scale[first:], strict=True)
    ]
    for name, size, unit in sizes:
        if np.spacing(np.float32(size)) > unit / 30:
            raise ValueError(
                f"world: {name} in {path} of about {size:.3g} differ by only about {unit:.3g}, which single precision "
                "cannot tell apart; subtract their middle"
            )


def _there(array: Array, mask: Array | None, shape: tuple[int, ...] | None = None) -> Iterator[Array]:
    """What the mask shows of an array, `(views, numbers)`, some sequences at a time."""
    numbers = int(np.prod(array.shape[-1:] if shape is None else shape))
    for rows in in_chunks(array):
        some = np.asarray(array[rows]).astype(np.float64)
        some = some.reshape(-1, numbers) if mask is None else some[np.asarray(mask[rows]).astype(bool)]
        if len(some):
            yield some.reshape(-1, numbers)


def in_chunks(array: Array) -> Iterator[slice]:
    """Slices of the sequences of an array."""
    step = max(1, AT_ONCE // max(1, int(np.prod(array.shape[1:]))))
    return (slice(start, start + step) for start in range(0, array.shape[0], step))
