"""Files that are on the disk whole or not at all, and rows of scores, which many of them hold."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
"""one line of a table of scores: who was scored on what, and the scores; what JSON holds"""
FORMAT = 1
"""of the files of tensors"""


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; a ValueError if it is no JSON."""
    try:
        return json.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); write it again") from error


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file, whole or not at all; folders above it are created."""
    write_whole(path, json.dumps(content, indent=1).encode())


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file so that it is there whole or as it was, whatever happens in between; folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    umask = os.umask(0)
    os.umask(umask)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], **about: object) -> None:
    """Write named tensors, and beside them what JSON can hold, to one safetensors file, whole or not at all; `kind` is
    what the file holds, such as "trajectories"."""
    from safetensors.torch import save

    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, save(kept, {kind: json.dumps({"format": FORMAT, **about})}))


def read_tensors(path: str | Path, kind: str, names: Iterable[str]) -> tuple[dict[str, Tensor], Row]:
    """The tensors and plain values that `write_tensors` wrote. Nothing is unpickled.

    Raises:
        ValueError: no file, one that is cut short, of another kind, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{kind}: found no file {path}; collect some first")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})[kind])
            if about["format"] != FORMAT:
                raise ValueError(
                    f"{kind}: {path} has format {about['format']}, this version reads {FORMAT}; collect them again, "
                    "or take the version of s2rm that wrote them"
                )
            return {name: file.get_tensor(name) for name in names}, about
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{kind}: {path} is cut short or no file of {kind} ({error}); collect them again") from error
