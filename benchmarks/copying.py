"""An update of RIMs in the task of copying, beside an LSTM and other implementations, in turn in one process."""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import nn

from common import in_turn, save, update
from s2rm.models.sequence_model import SequenceModel
from s2rm.tasks.sequences.copying import PRESETS
from s2rm.training import keep_freed_memory


@dataclass(frozen=True)
class Updates:
    """What to time."""

    sizes: tuple[str, ...] = ("small", "paper")
    """presets of the task, by which the models are as large as in the recipe: 240 and 600 units"""
    batch: int = 32
    """sequences"""
    blank: int = 50
    """steps between the digits and the mark"""
    repeats: int = 7
    """number of updates; the median counts"""
    compare: tuple[Path, ...] = ()
    """Python files whose `make(input_size, hidden_size)` returns RIMs called like nn.LSTM, batch first"""
    threads: int = 1
    """number of threads"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Updates) -> None:
    """Time, print, write JSON."""
    torch.set_num_threads(benchmark.threads)
    keep_freed_memory()
    rows = []
    for size in benchmark.sizes:
        world = PRESETS[size]
        batch = world.draw("test", torch.arange(benchmark.batch), torch.Generator(), benchmark.blank)
        models = {}
        for name in ("RIMs", "LSTM", *(path.stem for path in benchmark.compare)):
            torch.manual_seed(0)
            models[name] = SequenceModel(core="lstm" if name == "LSTM" else "rims", **world.model_arguments())
        for path in benchmark.compare:
            theirs: nn.Module = runpy.run_path(str(path))["make"](world.hidden_size, world.hidden_size)
            models[path.stem].core = theirs
        runs = {name: update(model, batch, norm=0.1) for name, model in models.items()}
        times = in_turn(runs, benchmark.repeats, warmup=2)
        for name, taken in times.items():
            parameters = sum(weight.numel() for weight in models[name].core.parameters())
            about = {"size": size, "units": world.hidden_size, "model": name, "parameters": parameters}
            rows.append({**about, "seconds": taken, "times_rims": taken / times["RIMs"]})
            Console().print(rows[-1])
    save(benchmark.out, rows, steps=batch.inputs.shape[1], batch=benchmark.batch, threads=benchmark.threads)


if __name__ == "__main__":
    main(tyro.cli(Updates))
