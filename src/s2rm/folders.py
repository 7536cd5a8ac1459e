"""A folder as one thing: a fingerprint that ties its parts, a lock that keeps two writers apart, parts put in place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from s2rm.files import only_writer, write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

_held: dict[Path, int] = {}
"""the folders that this process writes to, and the thread that does"""


def fingerprint(plain: object, arrays: Mapping[str, NDArray]) -> str:
    """A digest of what JSON can hold and of named arrays: equal for equal content, whatever wrote it."""
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


@contextmanager
def locked(folder: str | Path, what: str) -> Iterator[None]:
    """Be the only writer to a folder, which is created; the same thread may enter again.

    The system frees the lock when a process ends, however it ends; see [`only_writer`][s2rm.files.only_writer].

    Args:
        folder: the folder, which is created.
        what: who asks, the first word of the error.

    Raises:
        ValueError: another writer is at work, or the folder is a file.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{what}: expected a folder, found a file at {path}; choose another")
    path.mkdir(parents=True, exist_ok=True)
    path = path.resolve()
    if _held.get(path) == threading.get_ident():
        yield
        return
    with only_writer(path, what):
        _held[path] = threading.get_ident()
        try:
            yield
        finally:
            del _held[path]


def put_in_place(staged: Path, folder: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Put files, each whole, and folders from one folder into another, and remove the first.

    The files stay in the first until all of them are in place, and the last of them is removed first: where that one is
    still there, whatever happened in between, all can be put in place again.
    """
    names = list(files)
    for name in names:
        write_whole(folder / name, (staged / name).read_bytes())
    for name in folders:
        if (staged / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(staged / name, folder / name)
    (staged / names[-1]).unlink()
    shutil.rmtree(staged)
