"""Files that are on the disk whole or not at all, and rows of scores, which many of them hold."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

try:
    import fcntl
except ImportError:  # on Windows, where two that write one file at a time are not kept apart
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
"""one line of a table of scores: who was scored on what, and the scores; what JSON holds"""
FORMAT = 1
"""of the files of tensors"""
LARGEST_JSON = 256 << 20
"""bytes; scores of large tables are a few MiB"""


States = tuple[tuple[str, int, int], ...]
"""of files: the path, size and time of change of each"""


def states(files: Iterable[str | Path]) -> States:
    """By which it is known whether files were changed; those that are not there are left out."""
    there = [(str(file), os.stat(file)) for file in files if Path(file).is_file()]
    return tuple((path, state.st_size, state.st_mtime_ns) for path, state in there)


@lru_cache(maxsize=64)
def digest_of(files: States) -> str:
    """SHA-256 of the content of files, and of the names of several; read once a process and state of the files."""
    whole = hashlib.sha256()
    for path, _, _ in files:
        with open(path, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
        whole.update(Path(path).stem.encode() if len(files) > 1 else b"")
    return whole.hexdigest()


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; a ValueError if it is no JSON, or larger than any that this library writes."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); write it again") from error


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file, whole or not at all; folders above it are created."""
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file so that it is there whole or as it was, whatever happens in between; folders are created.

    An existing file keeps its rights, and a link stays a link. What a killed process has left of a file is overwritten
    by the next one that writes it. Two that write it at a time wait for each other.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a terminal
        path.write_bytes(content)
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    # The name of the file itself may be as long as the system allows.
    part = target.with_name(f".{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        rights = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
        with _sole(part) as file:
            try:
                if rights is not None:
                    os.chmod(part, rights | 0o600)  # before the content: a private file is private at once
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if rights is not None:
                    os.chmod(part, rights)
                if fcntl is None:
                    file.close()  # Windows renames no open file
                os.replace(part, target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


@contextmanager
def _sole(path: Path) -> Iterator[BinaryIO]:
    """An empty file to write, which no other process writes meanwhile."""
    while True:
        with open(os.open(path, os.O_CREAT | os.O_RDWR, 0o666), "wb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            # Who held it before may have renamed it since.
            try:
                same = os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except FileNotFoundError:
                continue
            if same:
                file.truncate(0)
                yield file
                return


@contextmanager
def only_writer(folder: str | Path, of: str) -> Iterator[None]:
    """Keep other processes from writing into a folder meanwhile, where the system and its disk have locks.

    Args:
        folder: created if it is not there.
        of: what is written, such as "train", for the message.

    Raises:
        ValueError: another process writes into it now.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"{of}: another process is writing into {folder}; wait until it has ended, or choose another folder"
            ) from error
        except OSError:
            pass  # a disk without locks
        yield
    finally:
        os.close(handle)


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], **about: object) -> None:
    """Write named tensors, and beside them what JSON can hold, to one safetensors file, whole or not at all; `kind` is
    what the file holds, such as "trajectories"."""
    from safetensors.torch import save

    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(kept, {kind: json.dumps({"format": FORMAT, **about})}))


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata, both of one state of the file: the library itself opens it
    twice, between which another process may replace it.

    Raises:
        SafetensorError: another file, or one that is cut short.
    """
    from safetensors.torch import load

    content = Path(path).read_bytes()
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def read_tensors(path: str | Path, kind: str, names: Iterable[str]) -> tuple[dict[str, Tensor], Row]:
    """The tensors and plain values that `write_tensors` wrote. Nothing is unpickled.

    Raises:
        ValueError: no file, one that is cut short, of another kind, or of another version.
    """
    from safetensors import SafetensorError

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{kind}: found no file {path}; collect some first")
    try:
        tensors, metadata = read_safetensors(path)
        about = json.loads(metadata[kind])
        if about["format"] != FORMAT:
            raise ValueError(
                f"{kind}: {path} has format {about['format']}, this version reads {FORMAT}; collect them again, "
                "or take the version of s2rm that wrote them"
            )
        return {name: tensors[name] for name in names}, about
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{kind}: {path} is cut short or no file of {kind} ({error}); collect them again") from error
