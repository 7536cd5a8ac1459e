"""Images of digits from files that a user names, in the formats in which MNIST is passed on; scikit-learn's without."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from s2rm.extras import require
from s2rm.files import States, states

BYTES, MOST = 8, 1 << 30
"""idx's code of the type of MNIST's values, and the largest file, unpacked, that is read"""


class Digits(NamedTuple):
    """Images of digits, from 0 to 255, and which digits they are."""

    images: UInt8[Tensor, "N H H"]
    labels: Int[Tensor, " N"]


def read_digits(files: tuple[str, ...]) -> Digits:
    """The digits in one .npz file with the arrays `images` and `labels`, or in two idx files, of images and of labels.

    idx files may end in .gz. Without files they are scikit-learn's 1,797 digits of 8 x 8 pixels.

    Raises:
        ImportError: no files, and scikit-learn is not installed.
        ValueError: a file is missing or in neither format; images that are not square or not as many as the labels; a
            label that is no digit.
    """
    return _read(files, states(files))


@lru_cache(maxsize=4)
def _read(files: tuple[str, ...], _: States) -> Digits:
    """Files are read again where they were changed."""
    if not files:
        require("tables")
        from sklearn.datasets import load_digits

        found = load_digits()
        return Digits(torch.from_numpy((found.images * (255 / 16)).astype(np.uint8)), torch.from_numpy(found.target))
    for name in files:
        if not Path(name).is_file():
            raise ValueError(f"mnist: found no file {name}; name one .npz file, or idx files of images and of labels")
    if len(files) == 1 and Path(files[0]).suffix == ".npz":
        images, labels = _npz(Path(files[0]))
    elif len(files) == 2:
        images, labels = (_idx(Path(name)) for name in files)
    else:
        raise ValueError(
            f"mnist: expected one .npz file, or two idx files, of images and of labels, got {', '.join(files)}; name "
            "these"
        )
    return _checked(images, labels, " and ".join(files))


def _npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > MOST:
                raise ValueError(f"it unpacks to more than {MOST >> 20} MiB")
        with np.load(path, allow_pickle=False) as found:
            return found["images"], found["labels"]
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"mnist: {path} is no .npz file with numbers in images and labels, all images of one size ({error}); write "
            "it with numpy.savez_compressed(path, images=..., labels=...)"
        ) from error


def _idx(path: Path) -> np.ndarray:
    """The array of an idx file: two zeros, a type, the number of axes, their lengths (big endian), and the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, axes = struct.unpack(">HBB", file.read(4))
            if zeros or kind != BYTES or axes not in (1, 3):
                raise ValueError(f"it begins with {zeros}, type {kind} and {axes} axes")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            if math.prod(shape) > MOST:
                raise ValueError(f"its shape {shape} is more than {MOST >> 20} MiB")
            content = file.read(math.prod(shape) + 1)
            if len(content) != math.prod(shape):
                more = "more" if len(content) > math.prod(shape) else f"{len(content):,}"
                raise ValueError(f"it holds {more} values where its shape is {shape}")
    except (ValueError, struct.error, EOFError, OSError) as error:
        raise ValueError(
            f"mnist: {path} is no idx file of bytes, of images (3 axes) or labels (1 axis) ({error}); take MNIST's "
            "own, such as t10k-images-idx3-ubyte.gz"
        ) from error
    return np.frombuffer(content, np.uint8).reshape(shape)


def _checked(images: np.ndarray, labels: np.ndarray, files: str) -> Digits:
    if images.ndim != 3 or images.shape[1] != images.shape[2] or not images.size:
        raise ValueError(
            f"mnist: expected square images of one size, (images, side, side), in {files}, got an array of "
            f"{images.shape}; name the file of images first"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"mnist: expected a label for each of {len(images):,} images in {files}, got an array of {labels.shape}; "
            "take files that belong together"
        )
    if images.dtype != np.uint8 or labels.dtype.kind not in "ui":
        raise ValueError(
            f"mnist: expected pixels as bytes, 0 to 255, and labels as whole numbers in {files}, got {images.dtype} "
            f"and {labels.dtype}; convert them with .astype, floats and booleans times 255"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(
            f"mnist: expected labels from 0 to 9 in {files}, got {labels.min()} to {labels.max()}; leave others out"
        )
    return Digits(torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)))


def resized(images: UInt8[Tensor, "N H H"], side: int) -> UInt8[Tensor, "N s s"]:
    """The images with another side, each pixel that of the nearest old one."""
    old = images.shape[-1]
    nearest = ((torch.arange(side) + 0.5) * old / side).long().clamp(max=old - 1)
    return images[:, nearest][:, :, nearest]


def as_files(paths: Sequence[Path]) -> tuple[str, ...]:
    """Paths as a run keeps them, from which it can be resumed anywhere on the machine."""
    return tuple(str(path.resolve()) for path in paths)
