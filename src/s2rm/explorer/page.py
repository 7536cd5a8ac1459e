"""The folder of an explorer: page, models as ONNX, episodes, and the runtime that runs models in a browser."""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from s2rm.explorer.browser import runtime
from s2rm.export import StreamingStep
from s2rm.extras import require
from s2rm.files import Row, write_whole
from s2rm.models.modules import count_modules
from s2rm.models.s2rm import S2RM
from s2rm.models.world_model import WorldModel


@dataclass(frozen=True)
class Scene:
    """Episodes of a world that is seen in square crops, as whole frames, from which the page cuts the views."""

    title: str
    """a few words, such as "bouncing balls" """
    episodes: Sequence[tuple[str, UInt8[Tensor, "T H H"]]]
    """heading and frames of each: pixels of 0 and 1, at least two frames"""
    crop: int
    """side of a view, odd"""
    num_views: int
    """number of views at the start"""


def write_explorer(folder: str | Path, models: Mapping[str, WorldModel], scene: Scene) -> None:
    """Write a page on which models are explored, each file whole. It needs a server of static files, and no network.

    Args:
        folder: created if it is not there; files of the same names are replaced.
        models: by label; the first one is shown, and each of the others beside it where it is chosen.
        scene: what there is to see.

    Raises:
        ValueError: a model of other views than the scene's, the oracle, or no runtime, since npm is not installed or
            did not answer.
        ImportError: the extra "onnx" is not installed.
    """
    require("onnx")
    folder, shape = Path(folder), (scene.crop, scene.crop)
    steps = {label: StreamingStep(model) for label, model in models.items()}
    for label, model in models.items():
        taken = (model.value_shape, model.target_shape, model.signature.likelihood, model.context_size)
        if taken != (shape, shape, "bernoulli", 0):
            raise ValueError(
                f"explore: expected models of binary crops {list(shape)} without context, got {label} with "
                f"views {list(model.value_shape)}, likelihood {model.signature.likelihood!r} and {model.context_size} "
                "context features; take a run on the balls"
            )
    content = runtime()
    side = scene.episodes[0][1].shape[-1]
    abouts = []
    for number, (label, step) in enumerate(steps.items()):
        name = f"model-{number}.onnx.gz"
        content[name] = _onnx(step)
        abouts.append({"label": label, "file": name, **_about(step, side)})
    episodes = [
        {"label": heading, "steps": len(frames), "packed": _packed(frames)} for heading, frames in scene.episodes
    ]
    about = {"title": scene.title, "side": side, "crop": scene.crop, "num_views": scene.num_views}
    content["scene.json"] = json.dumps({**about, "models": abouts, "episodes": episodes}).encode()
    for path in files("s2rm.explorer").joinpath("web").iterdir():
        content[path.name] = path.read_bytes()
    # The page last: where it is there, all that it needs is.
    for name in sorted(content, key=lambda name: name == "index.html"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, content[name])


def _onnx(step: StreamingStep) -> bytes:
    with tempfile.TemporaryDirectory() as made:
        step.save_onnx(Path(made, "step.onnx"))
        return gzip.compress(Path(made, "step.onnx").read_bytes(), mtime=0)


@torch.no_grad()
def _about(step: StreamingStep, side: int) -> Row:
    """What the page needs of a model beside its step: its modules, their enclaves over the pixels, the first state."""
    model, enclaves = step.model, []
    if isinstance(model, S2RM):
        line = torch.arange(side, dtype=torch.float32)
        weights = model.enclaves(torch.stack(torch.meshgrid(line, line, indexing="ij"), -1))
        enclaves = [_text((255 * weight).round().to(torch.uint8)) for weight in weights]
    state = [
        {"type": str(part.dtype).removeprefix("torch."), "shape": list(part.shape), "values": part.flatten().tolist()}
        for part in step.initial_state(1)
    ]
    shape = list(model.value_shape)
    return {"numModules": count_modules(model), "enclaves": enclaves, "valueShape": shape, "state": state}


def _packed(frames: UInt8[Tensor, "T H H"]) -> str:
    """Frames as bits, most significant first, each from a new byte on."""
    import numpy as np

    return base64.b64encode(np.packbits(frames.flatten(1).numpy(), axis=-1).tobytes()).decode()


def _text(values: UInt8[Tensor, "H W"]) -> str:
    return base64.b64encode(values.numpy().tobytes()).decode()
