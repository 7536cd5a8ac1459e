"""A profile of one training step of each core: how much of it is matrix products, and what the rest is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from cores import Benchmark, cores, seconds
from s2rm.files import write_json
from s2rm.training import keep_freed_memory, provenance

KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "addmm_", "baddbmm", "baddbmm_"),
    "copies": ("copy_", "cat", "clone", "_to_copy", "fill_", "zero_"),
    "softmax and other functions": ("exp_", "exp", "_softmax", "_softmax_backward_data", "tanh", "tanh_", "sigmoid",
                                    "sigmoid_", "amax", "native_layer_norm", "native_layer_norm_backward"),
}  # fmt: skip


@dataclass(frozen=True)
class WhereTimeGoes:
    """What to profile: a training step, as `cores.py` times it."""

    batch: int = 32
    """sequences"""
    steps: int = 50
    """time steps"""
    out: Path | None = None
    """where to write the shares, JSON"""


def kind(name: str) -> str:
    """What an operation counts as."""
    if not name.startswith("aten::"):
        return "Python and autograd"
    return next((kind for kind, names in KINDS.items() if name[6:] in names), "element-wise, views, allocation")


def main(benchmark: WhereTimeGoes) -> None:
    """Profile each core, print, write JSON."""
    keep_freed_memory()
    torch.manual_seed(0)
    rows = []
    for name, core in cores(Benchmark(batch=benchmark.batch, steps=benchmark.steps)).items():
        for _ in range(3):
            seconds(core.run, train=True)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            seconds(core.run, train=True)
        total: Counter[str] = Counter()
        for event in profiler.key_averages():
            total[kind(event.key)] += event.self_cpu_time_total
        rows.append({"core": name, **{name: time / total.total() for name, time in total.most_common()}})
    kinds = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*kinds, title="share of a training step's time")
    for row in rows:
        table.add_row(row["core"], *(f"{row.get(name, 0):.0%}" for name in kinds[1:]))
    Console().print(table)
    if benchmark.out:
        write_json(benchmark.out, {**provenance(), "seed": 0, "runs": [], "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(WhereTimeGoes))
