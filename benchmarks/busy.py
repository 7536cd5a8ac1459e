"""How long many small steps take in several threads, alone and beside other programs, by how long threads wait."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

from common import save

STEPS = """
import time, torch
torch.set_num_threads({threads})
numbers = torch.rand({size})
for turn in range(2):  # the first one warms up
    begun = time.perf_counter()
    for step in range({steps}):
        numbers.mul(0.5).add_(1).exp_().mean()
print(time.perf_counter() - begun)
"""


@dataclass(frozen=True)
class Busy:
    """Steps of four small operations, each in a process of its own."""

    steps: int = 2000
    """in a row"""
    size: int = 100_000
    """numbers in each"""
    threads: int = torch.get_num_threads()
    """of PyTorch"""
    programs: int = os.cpu_count() or 1
    """that compute beside them"""
    wait: int = 20_000
    """turns for which threads wait before they give up the processor; what `import s2rm` sets"""
    repeats: int = 5
    """number of rounds; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def seconds(benchmark: Busy, wait: int | None) -> float:
    """The time of the steps, as OpenMP waits by default or for so many turns."""
    code = STEPS.format(threads=benchmark.threads, size=benchmark.size, steps=benchmark.steps)
    own = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    own |= {} if wait is None else {"GOMP_SPINCOUNT": str(wait)}
    return float(subprocess.run([sys.executable, "-c", code], env=own, check=True, capture_output=True).stdout)


def main(benchmark: Busy) -> None:
    """Time all in turn, print, write JSON."""
    rows = []
    for programs in (0, benchmark.programs):
        with ExitStack() as stack:
            for _ in range(programs):
                other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                stack.callback(other.kill)
            rounds = [[seconds(benchmark, wait) for wait in (None, benchmark.wait)] for _ in range(benchmark.repeats)]
        usual, ours = map(statistics.median, zip(*rounds, strict=True))
        rows.append({"programs": programs, "usual": usual, "ours": ours, "ratio": usual / ours})
        Console().print(f"{programs} other programs: {usual:.2f} s by OpenMP's default, {ours:.2f} s by ours")
    save(benchmark.out, rows, threads=benchmark.threads, steps=benchmark.steps, wait=benchmark.wait)


if __name__ == "__main__":
    main(tyro.cli(Busy))
