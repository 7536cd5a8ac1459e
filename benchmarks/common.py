"""Timing of competing runs in one process, and the file of results."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from s2rm.files import write_json


def seconds(run: Callable[[], object]) -> float:
    """The time of one run, its work on the device included."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(runs: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, float]:
    """The median seconds of each run, over `repeats` rounds in which every run has its turn, after `warmup` more."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + repeats):
        # In changing order, since each run leaves the cache in a state that helps or hinders the next.
        for name in random.Random(turn).sample(list(runs), len(runs)):
            times[name].append(seconds(runs[name]))
    return {name: statistics.median(values[warmup:]) for name, values in times.items()}


def update(model: Any, batch: object, norm: float = 1.0) -> Callable[[], None]:
    """One update of a model, gradients clipped to a norm."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)

    def run() -> None:
        optimizer.zero_grad()
        model.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), norm)
        optimizer.step()

    return run


def machine() -> dict[str, Any]:
    """What of this processor decides speed: cores, caches in KiB, and instruction sets for products."""
    known = torch.cpu.get_capabilities()
    third = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return {
        "cores": known["num_physical_cores"],
        "l1_kib": known["l1d_cache_size"] >> 10,
        "l2_kib": known["l2_cache_size"] >> 10,
        "l3_kib": int(third.read_text().strip().removesuffix("K")) if third.is_file() else None,
        "instructions": [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "sve") if known.get(name)],
    }


def save(out: Path | None, rows: list[dict[str, Any]], **facts: object) -> None:
    """Write rows and facts with their provenance as JSON, if there is a path."""
    # Lightning takes seconds to import, and `many_modules.py` measures each size in a new process.
    from s2rm.training import provenance

    if out:
        write_json(out, {**provenance(), "machine": machine(), "seed": 0, **facts, "runs": [], "rows": rows})
