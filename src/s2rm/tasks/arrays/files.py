"""The file of a world: named arrays and how they are seen, in an .npz file, or in a folder of .npy files or of Zarr."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from s2rm.extras import require
from s2rm.files import digest_of, read_json, states, write_json, write_whole
from s2rm.records import from_plain
from s2rm.safety import expect_zarr
from s2rm.views import Episode, Views

FORMAT, ZARR = 1, ".zarr"
SETTINGS = "world"
"""the name of the settings: an entry of the .npz file, and world.json in a folder"""
Kind = Literal["frames", "points", "views"]
KINDS: dict[Kind, tuple[str, ...]] = {
    "frames": ("frames", "positions", "mask"),
    "points": ("points", "features", "mask", "actions", "rewards", "ends"),
    "views": ("positions", "values", "mask"),
}
"""the arrays of each kind of world; beside them each may have a `part`"""
REQUIRED: dict[Kind, tuple[str, ...]] = {"frames": ("frames",), "points": ("points",), "views": KINDS["views"][:2]}
NAMES = (*dict.fromkeys(name for names in KINDS.values() for name in names), "part")
SPLITS = ("train", "val", "test")
"""the parts of a world, numbered from 0 in the array `part`"""
if TYPE_CHECKING:
    Array = NDArray[Any]
else:
    Array = object  # or one of Zarr, which is cut and asked for its shape and dtype alike
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Seeing:
    """How a world is viewed; defaults depend on its arrays.

    Raises:
        ValueError: a number out of its range.
    """

    crop: int | None = None
    """frames: side of a view in pixels; default: 11, or the frame's shorter side if that is less"""
    num_views: int = 10
    """frames without positions: number of views per step, at random positions"""
    clip: int | None = None
    """steps of a training clip, cut from a sequence at random; default: 20, or all if there are fewer"""
    extent: tuple[tuple[float, float], ...] | None = None
    """the box of the positions, one (low, high) per coordinate; default: that of all positions, and a
    twentieth of each side around it"""

    def __post_init__(self) -> None:
        for name, least in (("crop", 1), ("num_views", 1), ("clip", 2)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"world: {name} must be a whole number of at least {least}, got {value!r}; fix it")
        if any(len(side) != 2 or not -np.inf < side[0] < side[1] < np.inf for side in self.extent or ()):
            raise ValueError(
                f"world: extent must be pairs (low, high) with low < high, got {list(self.extent or ())}; give one for "
                "each coordinate"
            )


def check_path(path: Path) -> None:
    """Refuse a path that is none of a world to be written."""
    if path.suffix not in ("", ".npz", ZARR):
        raise ValueError(
            f"world: expected a path that ends in .npz or {ZARR}, or a folder's without an ending, got {path.name}; "
            "choose another"
        )


def check_free(path: str | Path) -> None:
    """Refuse a path that is none of a world to be written, or of a folder that exists already and is not empty."""
    path = Path(path)
    check_path(path)
    if path.suffix != ".npz" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"world: {path} exists already; choose another path")


def write_arrays(path: Path, arrays: Arrays, seeing: Seeing) -> None:
    """Write the arrays of a world: to one file where the path ends in .npz, else to a new folder, of Zarr where it ends
    in .zarr, else of .npy files.

    Raises:
        ImportError: Zarr is not installed.
        OSError: it cannot be written.
    """
    settings = {"format": FORMAT, **asdict(seeing)}
    if path.suffix == ".npz":
        content = io.BytesIO()
        entries: dict[str, Any] = {**arrays, SETTINGS: np.array(json.dumps(settings))}
        np.savez(content, **entries)
        return write_whole(path, content.getvalue())
    if path.suffix == ZARR:
        return _write_zarr(path, arrays, settings)
    path.mkdir()
    for name, array in arrays.items():
        with open(path / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    write_json(path / f"{SETTINGS}.json", settings)


def _write_zarr(path: Path, arrays: Arrays, settings: dict[str, Any]) -> None:
    require("zarr")
    import zarr

    group = zarr.open_group(path, mode="w-")
    for name, array in arrays.items():
        # A chunk holds the whole of one sequence, which is what is read of it.
        chunks = (1, *array.shape[1:]) if array.ndim > 1 else array.shape
        written = group.create_array(name, shape=array.shape, dtype=array.dtype, chunks=chunks)
        for row in range(len(array)):
            written[row] = array[row]
    group.attrs[SETTINGS] = settings


def _read_zarr(path: Path) -> tuple[dict[str, Any], object]:
    """The arrays in a folder of Zarr, not read yet, and the settings."""
    require("zarr")
    import zarr

    expect_zarr(path)
    group = zarr.open_group(path, mode="r")
    if SETTINGS not in group.attrs:
        raise ValueError(f"it has no attribute {SETTINGS!r}, so that it was not written to the end")
    return dict(group.arrays()), group.attrs[SETTINGS]


def named_arrays(arrays: Mapping[str, ArrayLike] | Views | Episode) -> dict[str, NDArray[Any]]:
    """Arrays of numbers by name; those of views.

    Raises:
        ValueError: sequences of unequal length, texts, or an episode with targets of its own or context.
    """
    if isinstance(arrays, Episode):
        if arrays.context is not None:
            raise ValueError("world: expected an Episode without context, got one with it, which is not kept; drop it")
        if arrays.targets is not arrays.views:
            raise ValueError(
                "world: expected an Episode whose targets are its views, got others; give points, features and actions "
                "as arrays instead"
            )
        arrays = arrays.views
    if isinstance(arrays, Views):
        return {name: _plain(name, getattr(arrays, name)) for name in KINDS["views"]}
    if not isinstance(arrays, Mapping):
        raise ValueError(
            f"world: expected arrays by name, such as {{'frames': ...}}, or Views, got {type(arrays).__name__}; name "
            "them"
        )
    return {name: _plain(name, array) for name, array in arrays.items()}


def _plain(name: str, given: ArrayLike) -> NDArray[Any]:
    """An array of numbers, memory-mapped ones as they are."""
    if isinstance(given, torch.Tensor):
        given = (given.float() if given.dtype == torch.bfloat16 else given).numpy(force=True)  # numpy has no bfloat16
    try:
        array = np.asanyarray(given)
    except ValueError as error:  # sequences of unequal length
        raise ValueError(
            f"world: {name} is no array of numbers, {error}; pad what is shorter and mark it in a mask"
        ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"world: {name} must hold numbers, got {array.dtype}; convert it, and pad what is shorter")
    if isinstance(array, np.ma.MaskedArray):  # a file would hold what lies under its mask
        raise ValueError(f"world: {name} is a masked array; give its data, and the inverse of its mask as the mask")
    return array


def read_arrays(path: str | Path) -> tuple[dict[str, Array], Seeing]:
    """The arrays of a world and how they are seen. Those of a folder are read where they are needed; nothing is
    unpickled.

    Raises:
        ValueError: no file, one that is cut short or of another kind, or of a newer format.
    """
    path = Path(path)
    settings: object = {}
    try:
        if path.is_dir() and path.suffix == ZARR:
            arrays, settings = _read_zarr(path)
        elif path.is_dir():
            found = {name: path / f"{name}.npy" for name in NAMES if (path / f"{name}.npy").is_file()}
            arrays = {name: np.load(file, mmap_mode="r", allow_pickle=False) for name, file in found.items()}
            if (path / f"{SETTINGS}.json").is_file():
                settings = read_json(path / f"{SETTINGS}.json")
            elif arrays:
                raise ValueError(f"{SETTINGS}.json is missing, so that it was not written to the end")
        elif path.is_file():
            with open(path, "rb") as file:
                begins = file.read(6)
                file.seek(0)
                if begins == b"\x93NUMPY":
                    raise ValueError("it holds one array without a name")
                if begins[:2] != b"PK":  # NumPy would take it for a pickle
                    raise ValueError("it is no .npz file; for a table of observations, see s2rm fit")
                loaded = np.load(file, allow_pickle=False)
                arrays = {name: loaded[name] for name in loaded.files}
            if SETTINGS in arrays:
                settings = json.loads(str(arrays.pop(SETTINGS)))
        else:
            raise ValueError("there is no such file or folder")
        if isinstance(settings, dict) and settings.pop("format", FORMAT) != FORMAT:
            raise ValueError(f"it has another format than {FORMAT}, which this version reads")
        seeing = from_plain(Seeing, settings)
    except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"world: cannot read {path} ({error}); write it with s2rm.tasks.arrays.write_world") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"world: {name} in {path} must hold numbers, got {array.dtype}; convert it")
    return arrays, seeing


def digest(path: str | Path) -> str:
    """SHA-256 of the content of a world; read once a process and state of its files."""
    path = Path(path)
    if path.suffix == ZARR and path.is_dir():
        files = sorted(path.rglob("*"))
    else:
        files = [path] if path.is_file() else [path / f"{name}.npy" for name in NAMES]
    return digest_of(states(files))


def kind_of(arrays: Arrays, path: str | Path) -> Kind:
    """The kind of world that these arrays make; a ValueError where they make none."""
    for kind, names in REQUIRED.items():
        if arrays.keys() >= set(names):
            if unknown := sorted(arrays.keys() - {*KINDS[kind], "part"}):
                raise ValueError(
                    f"world: {path} has {', '.join(unknown)}, which a world of {kind} does not have; beside "
                    f"{' and '.join(names)} expected {', '.join(sorted({*KINDS[kind], 'part'} - set(names)))}"
                )
            if kind == "frames" and "mask" in arrays and "positions" not in arrays:
                raise ValueError(
                    f"world: expected the positions that the mask in {path} is of, got frames without; add them, or "
                    "leave the mask out"
                )
            return kind
    raise ValueError(
        f"world: expected frames, or points, or positions and values in {path}, got {', '.join(arrays) or 'nothing'}; "
        "name the arrays so"
    )
