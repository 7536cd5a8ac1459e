"""What makes a forecaster, read from the folder of its fit, whatever another process does there meanwhile."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from s2rm.models.saved import load
from s2rm.records import from_plain, to_plain
from s2rm.sensors.dependence import Dependence
from s2rm.sensors.first_guess.guess import FirstGuess
from s2rm.sensors.fitting import FITTING, FORECASTER, FORMAT, fingerprint_of
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Columns
from s2rm.training import MODEL

MOST_STEPS = 1_000_000
"""of a context or a horizon that is read from a file"""


def read_parts(folder: Path) -> dict[str, Any]:
    """The arguments that make a [`Forecaster`][s2rm.sensors.Forecaster]; errors as for its `load`."""
    tried = list[tuple[Path, int, bytes]]()
    while True:
        whole = folder / FITTING / FORECASTER
        path = whole if whole.is_file() else folder / FORECASTER
        file, content = 0, b""
        try:
            file, content = path.stat().st_ctime_ns, path.read_bytes()
            return _parts(path, json.loads(content))
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


def _parts(path: Path, kept: Any) -> dict[str, Any]:
    """The parts that a file holds, and the model beside it; a ValueError if anything is wrong with them."""
    try:
        if kept["format"] != FORMAT:
            raise ValueError(f"it has format {kept['format']}, this version reads {FORMAT}")
        scaling, guess = from_plain(Scaling, kept["scaling"]), from_plain(FirstGuess, kept["guess"])
        columns, context, horizon = from_plain(Columns, kept["columns"]), kept["context"], kept["horizon"]
        digest, dependence = kept["digest"], None
        if kept.get("dependence") is not None:
            dependence = from_plain(Dependence, kept["dependence"])
        json.dumps([to_plain(scaling), to_plain(guess), kept.get("dependence")], allow_nan=False)
    except (KeyError, TypeError) as error:
        raise ValueError(repr(error)) from error
    if not all(type(steps) is int and 0 < steps <= MOST_STEPS for steps in (context, horizon)):
        raise ValueError(f"context and horizon must be 1 to {MOST_STEPS:,} steps, got {context!r} and {horizon!r}")
    model = load(path.parent / MODEL)
    if not all(part.isfinite().all() for part in model.state_dict().values()):
        raise ValueError("its weights are not all finite")
    if digest != fingerprint_of(columns, scaling, guess, context, horizon, model):
        raise ValueError("its scaling and its weights are not of one fit")
    return {
        "columns": columns, "scaling": scaling, "guess": guess, "context": context, "horizon": horizon, "model": model,
        "dependence": dependence,
    }  # fmt: skip
