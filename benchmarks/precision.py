"""What bfloat16 by autocast gains in time and costs in loss: the same training twice, interleaved."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import track

from s2rm.files import write_json
from s2rm.runs import ModelName, Settings
from s2rm.tasks.balls.world import Clips, preset, videos
from s2rm.training import Training, batches, provenance


@dataclass(frozen=True)
class Precision:
    """What to train: as the demo does, from the same weights on the same batches."""

    model: ModelName = "s2gru"
    """which model"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    updates: int = 250
    """how many training steps"""
    out: Path | None = None
    """where to write the results, JSON"""


def main(benchmark: Precision) -> None:
    """Train both in turn, batch by batch; print, write JSON."""
    training = Training(learning_rate=2e-3, gradient_norm=1.0)
    settings = Settings(model=benchmark.model, world=preset(benchmark.size), training=training)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    contexts = {"float32": contextlib.nullcontext(), "bfloat16": torch.autocast(device, torch.bfloat16)}
    models = {name: settings.build().to(device) for name in contexts}
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=2e-3) for name, model in models.items()}
    loader = batches(Clips(settings.world, videos(settings.world, "train", 0), True), 32, seed=0, shuffle=True)
    times: dict[str, list[float]] = {name: [] for name in contexts}
    losses: dict[str, list[float]] = {name: [] for name in contexts}
    episodes = (episode for _ in range(benchmark.updates) for episode in loader)
    for _, episode in zip(track(range(benchmark.updates)), episodes, strict=False):
        given = episode.to(device)
        for name, context in contexts.items():
            start = time.perf_counter()
            optimizers[name].zero_grad()
            with context:
                loss = models[name].loss(given)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(models[name].parameters(), 1.0)
            optimizers[name].step()
            losses[name].append(loss.item())
            times[name].append(time.perf_counter() - start)
    last = -max(1, benchmark.updates // 5)
    rows = [
        {
            "products": name,
            "seconds_an_update": statistics.median(times[name]),
            "loss_over_the_last_fifth": statistics.mean(losses[name][last:]),
        }
        for name in contexts
    ]
    Console().print(rows)
    if benchmark.out:
        facts = {"seed": training.seed, "model": benchmark.model, "updates": benchmark.updates}
        write_json(benchmark.out, {**provenance(), **facts, "runs": [], "rows": rows})


if __name__ == "__main__":
    main(tyro.cli(Precision))
