"""Frames a second in training S2GRU, beside what its core's matrix products alone would allow on the same device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console

from cores import Benchmark, floor, spatial
from s2rm import S2GRU
from s2rm.files import write_json
from s2rm.runs import Settings
from s2rm.tasks.balls.world import Clips, preset, videos
from s2rm.training import Training, keep_freed_memory, provenance


@dataclass(frozen=True)
class Throughput:
    """What to time: whole updates on one batch that is there already, on a GPU where there is one."""

    codec: Literal["cnn", "mlp"] = "cnn"
    """cnn is the paper's size"""
    batch: int = 32
    """sequences"""
    steps: int = 100
    """frames of a sequence; the paper's are 100"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """of the products"""
    compile: bool = False
    """compile the model's loss, with CUDA graphs on a GPU"""
    repeats: int = 5
    """updates, of which the median counts"""
    out: Path | None = None
    """where to write the times, JSON"""


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """The median time of a run, its work on the device included."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def main(benchmark: Throughput) -> None:
    """Time updates and the floor; print, write JSON."""
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    length = {"num_frames": benchmark.steps, "clip": benchmark.steps}
    world = replace(preset("tiny"), train_sequences=benchmark.batch, **length)
    model = Settings(world=world, codec=benchmark.codec, training=Training()).build().to(device)
    episode = Clips(world, videos(world, "train", 0), True)[list(range(benchmark.batch)), 0].to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, fused=True)
    loss = torch.compile(model.loss, mode="reduce-overhead") if benchmark.compile else model.loss

    def update() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=benchmark.precision == "bf16-mixed"):
            value = loss(episode)
        value.backward()
        optimizer.step()

    taken = seconds(update, benchmark.repeats)
    with torch.device(device):
        products = spatial(S2GRU, Benchmark(batch=benchmark.batch, steps=benchmark.steps - 1)).products
        least = seconds(floor(products, benchmark.steps - 1, train=True), benchmark.repeats)
    frames = benchmark.batch * benchmark.steps
    row = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        **{name: getattr(benchmark, name) for name in ("codec", "batch", "steps", "precision", "compile")},
        "seconds_an_update": taken,
        "frames_a_second": frames / taken,
        "frames_a_second_at_the_core_s_floor": frames / least,
    }
    Console().print(row)
    if benchmark.out:
        write_json(benchmark.out, {**provenance(), "seed": 0, "runs": [], "rows": [row]})


if __name__ == "__main__":
    main(tyro.cli(Throughput))
