"""Backward passes through long sequences, in which gradients vanish: with numbers below 1e-38, and with zeros."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from rich.console import Console
from torch import Tensor

from common import in_turn, save
from s2rm.models.named import LABELS
from s2rm.models.sequence_model import CORES, SequenceModel
from s2rm.training import flush_denormals


@dataclass(frozen=True)
class Denormals:
    """Untrained models, whose last output alone counts."""

    steps: tuple[int, ...] = (200, 400, 1000)
    """of a sequence"""
    hidden: int = 240
    """units; of RIMs in six modules"""
    repeats: int = 5
    """number of rounds; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def update(core: str, flush: bool, inputs: Tensor, hidden: int) -> Callable[[], object]:
    """A forward and a backward pass, as in training if `flush`."""
    torch.manual_seed(0)
    model = SequenceModel(input_size=inputs.shape[-1], num_classes=10, core=core, hidden_size=hidden)

    def run() -> None:
        flush_denormals(flush)
        model.predict(inputs, last=1).square().mean().backward()
        flush_denormals(False)

    return run


def main(benchmark: Denormals) -> None:
    """Time all in turn, print, write JSON."""
    rows = []
    for steps in benchmark.steps:
        one = partial(update, inputs=torch.rand(32, steps, 1), hidden=benchmark.hidden)
        runs = {f"{core} {flush}": one(core, flush) for core in CORES for flush in (False, True)}
        times = in_turn(runs, benchmark.repeats)
        for core in CORES:
            kept, zero = times[f"{core} False"], times[f"{core} True"]
            rows.append({"model": LABELS[core], "steps": steps, "kept": kept, "zero": zero, "ratio": kept / zero})
            Console().print(f"{LABELS[core]:6} {steps:5} steps {kept:8.3f} s, with zeros {zero:8.3f} s")
    save(benchmark.out, rows, hidden=benchmark.hidden, threads=torch.get_num_threads())


if __name__ == "__main__":
    main(tyro.cli(Denormals))
