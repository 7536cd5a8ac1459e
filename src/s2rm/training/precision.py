"""Which precision of matrix products trains a model faster on this machine."""

from __future__ import annotations

import copy
import math
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from lightning.fabric.utilities.data import sized_len
from torch.utils.data import DataLoader

from s2rm.models.model import B, Model
from s2rm.training.settings import Training

LEAST_UPDATES, LEAST_MINUTES = 300, 3
"""of a run that is long enough for a trial to pay"""
LEAST_GAIN = 1.1
"""times as fast bfloat16 must be at least"""
REPEATS = 3


def has_bfloat16() -> bool:
    """Whether the processor computes products in bfloat16 natively, without converting numbers."""
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not tell
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def settled(training: Training, model: Model[B], train: DataLoader[B], progress: bool) -> Training:
    """The same options with the precision that "auto" means here, which is said on stderr where it is bfloat16."""
    updates = min(training.updates or math.inf, (training.epochs or math.inf) * (sized_len(train) or math.inf))
    is_long = updates >= LEAST_UPDATES and (training.minutes or math.inf) >= LEAST_MINUTES
    found = gain(model, next(iter(train))) if is_long and has_bfloat16() and not torch.cuda.is_available() else 1.0
    if found < LEAST_GAIN:
        return replace(training, precision="32-true")
    if progress:
        said = f"precision: bfloat16, {found:.1f} times as fast as float32 in a trial on the first batch"
        print(said, file=sys.stderr, flush=True)
    return replace(training, precision="bf16-mixed")


def gain(model: Model[B], batch: B) -> float:
    """How many times as fast as in float32 a gradient is in bfloat16; 0 where it is not finite. The model stays."""
    trial, times = copy.deepcopy(model).train(), dict[bool, list[float]]({False: [], True: []})

    def seconds(fast: bool) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if fast else nullcontext():
            loss = trial.loss(batch)
        loss.backward()
        return time.perf_counter() - started if loss.isfinite() else math.inf

    with torch.random.fork_rng(devices=[]):
        for repeat in range(REPEATS + 1):
            for fast, found in times.items():
                took = seconds(fast)
                if repeat:  # the first one also reserves memory
                    found.append(took)
    return statistics.median(times[False]) / statistics.median(times[True])
