"""Frames per second in training S2GRU, beside what its core's matrix products alone would allow on the same device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console

from common import in_turn, save
from cores import Benchmark, floor, spatial
from s2rm import S2GRU
from s2rm.settings import Settings
from s2rm.tasks.balls import episodes, preset
from s2rm.training import keep_freed_memory
from s2rm.training.captured import Captured


@dataclass(frozen=True)
class Throughput:
    """Whole updates on one batch that is already on the device, a GPU where there is one."""

    codec: Literal["cnn", "mlp"] = "cnn"
    """encoder and decoder; cnn is the paper's size"""
    batch: int = 32
    """number of sequences"""
    steps: int = 100
    """frames per sequence; 100 in the paper"""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """precision of the matrix products"""
    graphs: bool = True
    """on a GPU, replay a CUDA graph, as training does"""
    repeats: int = 5
    """number of updates; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Throughput) -> None:
    """Time updates and the floor, print, write JSON."""
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    length = {"num_frames": benchmark.steps, "clip": benchmark.steps}
    world = replace(preset("tiny"), train_sequences=benchmark.batch, **length)
    model = Settings(codec=benchmark.codec).build(world).to(device)
    episode = episodes(world, "train")[list(range(benchmark.batch)), 0].to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4, fused=True)
    graphs = device == "cuda" and benchmark.graphs
    loss = Captured(model).loss if graphs else model.loss

    def update() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=benchmark.precision == "bf16-mixed"):
            value = loss(episode)
        value.backward()
        optimizer.step()

    taken = in_turn({"update": update}, benchmark.repeats, warmup=5)["update"]
    with torch.device(device):
        products = spatial(S2GRU, Benchmark(batch=benchmark.batch, steps=benchmark.steps - 1)).products
        run = floor(products, benchmark.steps - 1, train=True)
        if graphs:
            run = replayed(run)
        least = in_turn({"floor": run}, benchmark.repeats, warmup=2)["floor"]
    frames = benchmark.batch * benchmark.steps
    row = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        **{name: getattr(benchmark, name) for name in ("codec", "batch", "steps", "precision")},
        "graphs": graphs,
        "seconds_an_update": taken,
        "frames_a_second": frames / taken,
        "frames_a_second_at_the_core_s_floor": frames / least,
    }
    Console().print(row)
    save(benchmark.out, [row])


def replayed(run: Callable[[], object]) -> Callable[[], object]:
    """The same run from a CUDA graph."""
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


if __name__ == "__main__":
    main(tyro.cli(Throughput))
