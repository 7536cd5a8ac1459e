"""The checkpoint files of a run, and what must be true of one with which training goes on."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from s2rm.files import write_whole
from s2rm.models.model import Model
from s2rm.records import from_plain
from s2rm.training.settings import LAST, Training

OPTIONS, NOISE = "training", "noise"
"""what a checkpoint calls the options of its run, and the state of the generator of noise"""
LIMITS = ("updates", "epochs", "minutes")
"""the options that may differ when a run is resumed"""
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step"}
"""of a checkpoint of training"""


class WholeFiles(TorchCheckpointIO):
    """Checkpoint files that are complete or absent (Lightning moves its own from another folder)."""

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(path, content.getvalue())


def resumable(folder: Path, model: Model, training: Training) -> tuple[Path, Training]:
    """The last checkpoint of a run of this model and these options, which can be read without unpickling, and the
    options with which it was trained; errors as for `fit`."""
    path = folder / LAST
    if not path.is_file():
        raise ValueError(f"fit: nothing to resume, found no {path}; the run ended before its first epoch did")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
                raise ValueError("unpacks to more than its size")
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        weights = {f"model.{name}": value.shape for name, value in model.state_dict().items()}
        found = {name: value.shape for name, value in content["state_dict"].items()}
        if not content.keys() >= PARTS or found != weights:
            raise ValueError("lacks parts, or is of another model")
        if not all(value.isfinite().all() for value in content["state_dict"].values()):
            raise ValueError("has weights that are not finite")
        _check_moments(content, [*model.parameters()])
        before = from_plain(Training, content.get(OPTIONS, asdict(training)))
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, LookupError, ValueError, TypeError,
        AttributeError,
    ) as error:  # fmt: skip
        raise no_checkpoint(path) from error
    # Not all of them could be taken: the optimiser and the callbacks come back as they were.
    changed = [
        f"{name} {getattr(training, name)} instead of {getattr(before, name)}"
        for name in asdict(training)
        if name not in LIMITS and getattr(training, name) not in (getattr(before, name), "auto")
    ]
    if changed:
        raise ValueError(
            "fit: a run that is resumed keeps its options except updates, epochs and minutes, got "
            f"{', '.join(changed)}; leave them as they were, or train again in another folder"
        )
    for name, made in (("updates", content["global_step"]), ("epochs", content["epoch"] + 1)):
        if (limit := getattr(training, name)) is not None and limit < made:
            raise ValueError(
                f"fit: expected at least the {made} {name} that the run has made, got {limit}; resume it with more, or "
                "train again in another folder"
            )
    return path, before


def limits(training: Training) -> list[float | None]:
    """Updates, epochs and minutes."""
    return [getattr(training, name) for name in LIMITS]


def _check_moments(content: dict[str, Any], parameters: Sequence[torch.Tensor]) -> None:
    """Refuse a checkpoint whose optimiser lacks moments of its parameters, or has none that Adam could go on with."""
    (optimiser,) = content["optimizer_states"]
    if content["global_step"] < 0 or content["epoch"] < 0 or not optimiser["state"]:
        raise ValueError("has made no update")
    for index, state in optimiser["state"].items():
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            if moment.shape != parameters[index].shape or not moment.isfinite().all():
                raise ValueError("has moments of other parameters, or that are not finite")


def no_checkpoint(path: Path) -> ValueError:
    """The error for a checkpoint that is not one of training."""
    return ValueError(
        f"fit: {path} is not a checkpoint that training wrote, and is not opened; start a new run in another folder"
    )
