"""The folder of an explorer: page, models as ONNX, episodes, and the runtime that runs models in a browser."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from s2rm.explorer.browser import runtime
from s2rm.explorer.scenes import Scene, text
from s2rm.export import Exported
from s2rm.extras import require
from s2rm.files import Row, write_whole
from s2rm.models.msa import MSA
from s2rm.models.s2rm import S2RM


class World(NamedTuple):
    """What one page shows: a scene, and steps of models of it by label."""

    scene: Scene
    steps: Mapping[str, Exported]
    """the first one is shown, and each of the others beside it where it is chosen"""


def write_explorer(
    folder: str | Path, worlds: Sequence[World], progress: Callable[[str], object] = lambda _: None
) -> None:
    """Write a page on which models are explored, each file whole. It needs a server of static files, and no network.

    Args:
        folder: created if it is not there; files of the same names are replaced.
        worlds: the first one is shown, and each of the others where it is chosen.
        progress: is told what is written next: an export takes seconds, that of a forecaster a minute or two.

    Raises:
        ValueError: a model of other views than the scene's, the oracle, or no runtime, since npm is not installed or
            did not answer.
        ImportError: the extra "onnx" is not installed.
    """
    require("onnx")
    for scene, steps in worlds:
        for label, step in steps.items():
            scene.check(label, step.model)
    content, listed = runtime(), []
    names: dict[Exported, str] = {}
    total = len({step for _, steps in worlds for step in steps.values()})
    for number, (scene, steps) in enumerate(worlds):
        abouts = []
        for label, step in steps.items():
            if step not in names:  # a step that is in several worlds is written once
                progress(f"writing {label} on {scene.title}, model {len(names) + 1} of {total}")
                names[step] = f"model-{len(names)}.onnx.gz"
                content[names[step]] = _onnx(step)
            name = names[step]
            abouts.append({"label": label, "file": name, **_about(step, scene)})
        file = f"scene-{number}.json.gz"
        shown = {"title": scene.title, "models": abouts, **scene.content()}
        content[file] = gzip.compress(json.dumps(shown, allow_nan=False).encode(), mtime=0)
        listed.append({"title": scene.title, "kind": scene.kind, "file": file})
    content["scenes.json"] = json.dumps(listed).encode()
    for path in files("s2rm.explorer").joinpath("web").iterdir():
        content[path.name] = path.read_bytes()
    folder = Path(folder)
    # The page last, and that of an earlier time first of all: where it is there, all that it needs is.
    (folder / "index.html").unlink(missing_ok=True)
    for earlier in [*folder.glob("model-*.onnx.gz"), *folder.glob("scene-*.json.gz")]:
        if earlier.name not in content:
            earlier.unlink()
    for name in sorted(content, key=lambda name: name == "index.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, content[name])


def _onnx(step: Exported) -> bytes:
    with tempfile.TemporaryDirectory() as made:
        step.save_onnx(Path(made, "step.onnx"))
        return gzip.compress(Path(made, "step.onnx").read_bytes(), mtime=0)


@torch.no_grad()
def _about(step: Exported, scene: Scene) -> Row:
    """What the page needs of a model beside its step: its modules, their enclaves over the picture, the first state."""
    # Whose states have room for each sensor, or each view.
    roomy = scene.kind == "sensors" or isinstance(step.model, MSA)
    model, room = step.model, scene.room if roomy else 1
    kernels = [*model.enclaves(scene.cells())] if isinstance(model, S2RM) else []
    state = [
        {"type": str(part.dtype).removeprefix("torch."), "shape": list(part.shape), "values": text(part)}
        for part in step.initial_state(1, room)
    ]
    return {
        "numModules": step.num_modules, "enclaves": [_packed(kernel) for kernel in kernels],
        "valueShape": list(model.value_shape), "room": room, "state": state,
    }  # fmt: skip


def _packed(kernel: Tensor) -> str:
    weights: UInt8[Tensor, "H W"] = (255 * kernel).round().to(torch.uint8)
    return text(weights)
