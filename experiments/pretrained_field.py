"""The forecaster that is shipped: S2GRU on the first part of the synthetic field, of which a page shows the rest.

Writes it into the package, and its SHA-256 sums beside those of the shipped runs.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from s2rm.files import write_whole
from s2rm.runs import FIELD, PRETRAINED, SUMS, field_reports
from s2rm.sensors import Fit, Forecaster
from s2rm.sensors.fitting import PARTS


@dataclass(frozen=True)
class PretrainedField:
    """How long to fit, and where to put it."""

    updates: int = 300
    """of the model"""
    out: Path = PRETRAINED
    """the folder in the package"""


def main(command: PretrainedField) -> None:
    """Fit, copy what a forecaster needs, sum."""
    fitted, _ = field_reports()
    how = Fit(num_modules=8, hidden_size=16, training=replace(Fit().training, updates=command.updates, minutes=None))
    with tempfile.TemporaryDirectory() as folder:
        Forecaster.fit(fitted, folder, how)
        shutil.rmtree(command.out / FIELD, ignore_errors=True)
        for name in PARTS:
            (command.out / FIELD / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder, name), command.out / FIELD / name)
    sums = command.out / SUMS
    kept = [line for line in sums.read_text().splitlines() if f" {FIELD}/" not in line] if sums.is_file() else []
    for name in PARTS:
        digest = hashlib.sha256((command.out / FIELD / name).read_bytes()).hexdigest()
        kept.append(f"{digest}  {FIELD}/{name}")
    write_whole(sums, "\n".join([*sorted(kept, key=lambda line: line.split()[1]), ""]).encode())


if __name__ == "__main__":
    main(tyro.cli(PretrainedField))
