"""A forecaster's memory between observations that arrive one after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from s2rm.files import write_whole
from s2rm.sensors.reports import ROWS, Reports
from s2rm.sensors.settings import Columns


class Stream(NamedTuple):
    """What a forecaster keeps of all observations so far."""

    model: object
    """the model's state, of batch 1"""
    recent: Reports
    """the reports of the last steps, as many as the context has; the last step is now"""

    def save(self, path: str | Path) -> None:
        """Write it to a file, from which `Forecaster.load_stream` goes on in another process."""
        tensors = {f"model.{number}": leaf.contiguous() for number, leaf in enumerate(tree_leaves(self.model))}
        tensors |= {name: torch.from_numpy(np.ascontiguousarray(getattr(self.recent, name))) for name in ROWS}
        recent = {"start": str(self.recent.start), "steps": self.recent.num_steps, "sensors": self.recent.sensors}
        write_whole(path, safetensors.torch.save(tensors, {"recent": json.dumps(recent)}))


def read_stream(path: Path, columns: Columns, start: object) -> Stream:
    """The stream that `Stream.save` wrote, for the columns and an initial state of the forecaster."""
    if not path.is_file():
        raise ValueError(f"stream: expected a saved stream, found none at {path}; start from None")
    try:
        with safetensors.safe_open(path, "pt") as kept:
            recent = json.loads(kept.metadata()["recent"])
            leaves = [kept.get_tensor(f"model.{number}") for number in range(len(tree_leaves(start)))]
            rows = {name: kept.get_tensor(name).numpy() for name in ROWS}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"stream: {path} was not saved by this forecaster ({error}); start from None") from error
    reports = Reports(columns, np.datetime64(recent["start"]), recent["steps"], tuple(recent["sensors"]), **rows)
    return Stream(tree_unflatten(leaves, tree_structure(start)), reports)
