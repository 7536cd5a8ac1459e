"""A fitted forecaster from its files, checked."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2rm.models.saved import load
from s2rm.models.world_model import WorldModel
from s2rm.records import from_plain, to_plain
from s2rm.sensors.fitting import FITTING, FORECASTER, FORMAT, fingerprint_of
from s2rm.sensors.guess import FirstGuess
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Columns
from s2rm.training import MODEL

Parts = tuple[Columns, Scaling, FirstGuess, int, int, WorldModel]
"""the fields of a `Forecaster`, in their order"""
MOST_STEPS = 1_000_000
"""of a context or a horizon that is read from a file"""


def parts_in(folder: Path) -> Parts:
    """What makes the forecaster in a folder; what is refused is listed at `Forecaster.load`."""
    tried = list[tuple[Path, int, bytes]]()
    while True:
        whole = folder / FITTING / FORECASTER
        path = whole if whole.is_file() else folder / FORECASTER
        file, content = 0, b""
        try:
            file, content = path.stat().st_ctime_ns, path.read_bytes()
            return _read(path, json.loads(content))
        except (ValueError, OSError) as error:
            # Another process may just put a new fit in place: only what stays wrong is wrong.
            tried.append((path, file, content))
            if len(tried) < 100 and (len(tried) < 3 or len(set(tried[-3:])) > 1):
                time.sleep(0.02)
                continue
            if not file:
                half = (folder / FITTING).is_dir()
                remedy = "the fit is not finished; start it again" if half else "fit a forecaster with s2rm fit"
                raise ValueError(f"forecast: expected {FORECASTER}, found none at {folder}; {remedy}") from error
            raise ValueError(
                f"forecast: {path} is not a fitted forecaster's that can be read ({error}); fit again, or take the "
                "version of s2rm that fitted it"
            ) from error


def _read(path: Path, kept: Any) -> Parts:
    """The parts of a file and the model beside it; a ValueError if anything is wrong with them."""
    try:
        if kept["format"] != FORMAT:
            raise ValueError(f"it has format {kept['format']}, this version reads {FORMAT}")
        scaling, guess = from_plain(Scaling, kept["scaling"]), from_plain(FirstGuess, kept["guess"])
        context, horizon = kept["context"], kept["horizon"]
        # Earlier versions did not write globe into the columns.
        columns = replace(from_plain(Columns, kept["columns"]), globe=scaling.globe)
        json.dumps([to_plain(scaling), to_plain(guess)], allow_nan=False)
    except (KeyError, TypeError) as error:
        raise ValueError(repr(error)) from error
    if not all(type(steps) is int and 0 < steps <= MOST_STEPS for steps in (context, horizon)):
        raise ValueError(f"context and horizon must be 1 to {MOST_STEPS:,} steps, got {context!r} and {horizon!r}")
    parts = (columns, scaling, guess, context, horizon, load(path.parent / MODEL))
    if not all(part.isfinite().all() for part in parts[-1].state_dict().values()):
        raise ValueError("its weights are not all finite")
    digest = fingerprint_of(*parts)
    # Earlier versions wrote no digest.
    if kept.get("digest", digest) != digest:
        raise ValueError("its scaling and its weights are not of one fit")
    return parts
