"""The gain in time and cost in loss of bfloat16 autocast: the same training twice, interleaved."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.progress import track

from common import save, seconds
from s2rm import Episode
from s2rm.models.named import ModelName
from s2rm.settings import Settings
from s2rm.tasks.balls import episodes, preset
from s2rm.training import Training, batches


@dataclass(frozen=True)
class Precision:
    """Training as in the demo, from the same weights on the same batches."""

    model: ModelName = "s2gru"
    """which model"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    updates: int = 250
    """number of training steps"""
    out: Path | None = None
    """where to write the results as JSON"""


def main(benchmark: Precision) -> None:
    """Train both in turn, batch by batch, print, write JSON."""
    training = Training(learning_rate=2e-3, gradient_norm=1.0)
    settings, world = Settings(model=benchmark.model, training=training), preset(benchmark.size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    contexts = {"float32": contextlib.nullcontext(), "bfloat16": torch.autocast(device, torch.bfloat16)}
    models = {name: settings.build(world).to(device) for name in contexts}
    optimizers = {name: torch.optim.Adam(model.parameters(), lr=2e-3) for name, model in models.items()}
    loader = batches(episodes(world, "train"), 32, seed=0, shuffle=True)
    times: dict[str, list[float]] = {name: [] for name in contexts}
    losses: dict[str, list[float]] = {name: [] for name in contexts}

    def update(name: str, episode: Episode) -> None:
        optimizers[name].zero_grad()
        with contexts[name]:
            loss = models[name].loss(episode)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(models[name].parameters(), 1.0)
        optimizers[name].step()
        losses[name].append(loss.item())

    given_in_turn = (episode for _ in range(benchmark.updates) for episode in loader)
    for _, episode in zip(track(range(benchmark.updates)), given_in_turn, strict=False):
        given = episode.to(device)
        for name in contexts:
            times[name].append(seconds(lambda name=name, given=given: update(name, given)))
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
    save(benchmark.out, rows, seed=training.seed, model=benchmark.model, updates=benchmark.updates)


if __name__ == "__main__":
    main(tyro.cli(Precision))
