"""How time and memory grow with the number of modules, at a fixed neighbourhood."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from s2rm import S2GRU, Episode, Views
from s2rm.files import write_json
from s2rm.training import provenance


@dataclass(frozen=True)
class ManyModules:
    """What to time: a training step, as many views as modules, in worlds that grow with them."""

    modules: tuple[int, ...] = (16, 64, 256, 1024, 4096)
    """numbers of modules, squares"""
    steps: int = 20
    """time steps"""
    hidden: int = 32
    """size of a module's state"""
    repeats: int = 5
    """training steps, of which the median counts"""
    out: Path | None = None
    """where to write the results, JSON"""


def measure(benchmark: ManyModules, num_modules: int) -> dict[str, float]:
    """Seconds and bytes of one training step, and how many pairs interact in it; run in a process of its own."""
    torch.manual_seed(0)
    side = round(num_modules**0.5)
    world = {"shortest": 4.0 * side, "longest": 40.0 * side, "value_shape": (1,), "num_coordinates": 2}
    model = S2GRU(**world, num_modules=num_modules, hidden_size=benchmark.hidden, codec="mlp", likelihood="gaussian")
    # A module answers for all within 1.6 grid cells.
    corner = model.embedding(torch.tensor([[0.0, 0.0], [1.6, 0.0]]))
    model = S2GRU(
        **world, num_modules=num_modules, hidden_size=benchmark.hidden, codec="mlp", likelihood="gaussian",
        truncation=float(corner[0] @ corner[1]), normalise="neighbourhood", share_parameters=True,
    )  # fmt: skip
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).flatten(0, 1)
    model = model.with_modules_at(grid.float())
    positions = side * torch.rand(1, benchmark.steps + 1, num_modules, 2)
    episode = Episode(Views(positions, torch.randn(1, benchmark.steps + 1, num_modules, 1)))
    places = model.modules_on_sphere
    seen = sum(int((places(model.embedding(step)) > 0).sum()) for step in positions[0])
    pairs = seen / (benchmark.steps + 1) + int((places.between() > 0).sum())
    times, before = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(benchmark.repeats + 1):
        start = time.perf_counter()
        model.zero_grad()
        model.loss(episode).backward()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "modules": num_modules,
        "pairs": pairs,
        "seconds": statistics.median(times[1:]) / benchmark.steps,
        "bytes": 1024 * (peak - before) / benchmark.steps,
        "peak_bytes": 1024 * peak,
    }


def main(benchmark: ManyModules) -> None:
    """Measure each size in a process of its own, print, write JSON."""
    rows = []
    table = Table(title=f"a training step over {benchmark.steps} time steps; times and memory a time step")
    for head in ("modules and views", "pairs", "ms", "MB", "peak GB", "time / pairs", "memory / pairs"):
        table.add_column(head, justify="right")
    for modules in benchmark.modules:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (benchmark, modules)))
        row = rows[-1]
        for name, before in (("", rows[0]), ("_since_the_row_before", rows[max(0, len(rows) - 2)])):
            for key, measured in (("time", "seconds"), ("memory", "bytes")):
                growth = (row[measured] / before[measured]) / (row["pairs"] / before["pairs"])
                row[f"{key}_growth_per_pair{name}"] = growth
        cells = (f"{1e3 * row['seconds']:.2f}", f"{row['bytes'] / 1e6:.1f}", f"{row['peak_bytes'] / 1e9:.2f}")
        ratios = (f"{row[f'{key}_growth_per_pair']:.2f}" for key in ("time", "memory"))
        table.add_row(str(modules), f"{row['pairs']:.0f}", *cells, *ratios)
    Console().print(table)
    if benchmark.out:
        write_json(benchmark.out, {**provenance(), "seed": 0, "runs": [], "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(ManyModules))
