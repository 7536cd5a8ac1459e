"""The time of one streaming step of the demo's model: eager, compiled, and as ONNX without PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

from common import in_turn, save
from s2rm import Views
from s2rm.export import StreamingStep
from s2rm.settings import Settings
from s2rm.tasks.balls import preset


@dataclass(frozen=True)
class Streaming:
    """One set of views at a time, batch 1."""

    views: int = 10
    """number of views per step"""
    repeats: int = 300
    """number of steps; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Streaming) -> None:
    """Time all in turn, print, write JSON."""
    import onnxruntime

    # A step is too small for several threads, and those of PyTorch and onnxruntime would wait for each other.
    torch.set_num_threads(1)
    alone = onnxruntime.SessionOptions()
    alone.intra_op_num_threads = 1
    model = Settings().build(preset("small")).eval()  # seeds the global generator with 0
    positions = torch.randint(48, (1, benchmark.views, 2)).float()
    values, mask = torch.rand(1, benchmark.views, 11, 11).round(), torch.ones(1, benchmark.views, dtype=torch.bool)
    views, state = Views(positions[:, None], values[:, None], mask[:, None]), model.initial_state(1)
    step, compiled = StreamingStep(model), torch.compile(model.step, fullgraph=True)
    with tempfile.TemporaryDirectory() as folder:
        step.save_onnx(Path(folder) / "step.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "step.onnx", alone)
    tensors = (positions, values, mask, positions, torch.ones(step.num_modules, dtype=torch.bool), state)
    given = dict(zip([put.name for put in session.get_inputs()], tensors, strict=True))
    feed = {name: tensor.numpy() for name, tensor in given.items()}
    runs: dict[str, Callable[[], object]] = {
        "step": lambda: model.step(views, state),
        "step, compiled": lambda: compiled(views, state),
        "step and prediction": lambda: model.predict(model.step(views, state), positions).mean,
        "step and prediction, onnxruntime": lambda: session.run(None, feed),
    }
    with torch.inference_mode():
        times = in_turn(runs, benchmark.repeats, warmup=20)
    rows = [{"case": name, "milliseconds": 1e3 * time} for name, time in times.items()]
    Console().print(rows)
    save(benchmark.out, rows, views=benchmark.views)


if __name__ == "__main__":
    main(tyro.cli(Streaming))
