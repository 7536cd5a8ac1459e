"""The time of a training update beside that of an earlier commit: one process each, which take turns.

git worktree add ../before fa60825
python benchmarks/updates_since.py --before ../before/src
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import track

from common import save, seconds, update
from s2rm.settings import Settings
from s2rm.tasks.balls import episodes, preset
from s2rm.training import keep_freed_memory


@dataclass(frozen=True)
class Since:
    """What to time."""

    before: Path | None = None
    """the folder `src` of the earlier commit; without one this process times a model for each line that it reads"""
    models: tuple[str, ...] = ("s2gru", "s2lstm", "rims", "rmc", "lstm", "gru", "tto")
    """models to time, by names that both commits know"""
    batch: int = 32
    """number of sequences"""
    size: str = "small"
    """preset of the world of bouncing balls"""
    repeats: int = 15
    """number of updates; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Since) -> None:
    """Time, print, write JSON."""
    if benchmark.before is None:
        return serve(benchmark)
    processes = {
        commit: started(source, benchmark)
        for commit, source in (("now", Path(__file__).parents[1] / "src"), ("before", benchmark.before))
    }
    rows = []
    for model in track(benchmark.models, "Timing"):
        times: dict[str, list[float]] = {commit: [] for commit in processes}
        for turn in range(1 + benchmark.repeats):
            for commit in random.Random(turn).sample(list(processes), 2):
                print(model, file=processes[commit].stdin, flush=True)
                times[commit].append(float(processes[commit].stdout.readline()))
        now, before = (statistics.median(times[commit][1:]) for commit in ("now", "before"))
        rows.append({"predictor": model, "seconds": now, "times_before": now / before})
        Console().print(rows[-1])
    for process in processes.values():
        process.communicate()
    save(benchmark.out, rows)


def started(source: Path, benchmark: Since) -> subprocess.Popen[str]:
    """A process that times what is in this folder, with as many threads as this one."""
    command = [sys.executable, __file__, "--batch", str(benchmark.batch), "--size", benchmark.size]
    environment = {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, **environment}, **pipes)


def serve(benchmark: Since) -> None:
    """For each name that is read, the seconds of an update of that model."""
    keep_freed_memory()
    world = preset(benchmark.size)
    few = replace(world, train_sequences=benchmark.batch)
    episode = episodes(few, "train")[list(range(benchmark.batch)), 0]
    runs = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in runs:
            runs[name] = update(Settings(model=name).build(world), episode)
        print(seconds(runs[name]), flush=True)


if __name__ == "__main__":
    main(tyro.cli(Since))
