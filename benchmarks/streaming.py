"""How long one streaming step of the demo's model takes: eager, compiled, and as ONNX without PyTorch."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from s2rm import Views
from s2rm.export import StreamingStep
from s2rm.files import write_json
from s2rm.runs import Settings
from s2rm.training import provenance


@dataclass(frozen=True)
class Streaming:
    """What to time: one view set at a time, batch 1."""

    views: int = 10
    """views a step"""
    repeats: int = 300
    """steps, of which the median counts"""
    out: Path | None = None
    """where to write the times, JSON"""


def main(benchmark: Streaming) -> None:
    """Time all in turn; print, write JSON."""
    import onnxruntime

    model = Settings().build().eval()  # draws its weights, and what follows, from seed 0
    positions = torch.randint(48, (1, benchmark.views, 2)).float()
    values, mask = torch.rand(1, benchmark.views, 11, 11).round(), torch.ones(1, benchmark.views, dtype=torch.bool)
    views, state = Views(positions[:, None], values[:, None], mask[:, None]), model.initial_state(1)
    step, compiled = StreamingStep(model), torch.compile(model.step, fullgraph=True)
    with tempfile.TemporaryDirectory() as folder:
        step.save_onnx(Path(folder) / "step.onnx")
        session = onnxruntime.InferenceSession(Path(folder) / "step.onnx")
    given = dict(
        zip([put.name for put in session.get_inputs()], (positions, values, mask, positions, state), strict=True)
    )
    feed = {name: tensor.numpy() for name, tensor in given.items()}
    runs: dict[str, Callable[[], Any]] = {
        "step": lambda: model.step(views, state),
        "step, compiled": lambda: compiled(views, state),
        "step and prediction": lambda: step(positions, values, mask, positions, state),
        "step and prediction, onnxruntime": lambda: session.run(None, feed),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(benchmark.repeats + 20):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn >= 20:
                    times[name].append(1e3 * (time.perf_counter() - start))
    rows = [{"case": name, "milliseconds": statistics.median(all_)} for name, all_ in times.items()]
    Console().print(rows)
    if benchmark.out:
        write_json(benchmark.out, {**provenance(), "seed": 0, "views": benchmark.views, "runs": [], "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Streaming))
