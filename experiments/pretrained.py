"""The weights that are shipped: S2GRU of `long.py`, the LSTM of `family.py`, and for battles S2GRU of `skirmish.py
--corrects --drop-views 0.8`.

Writes run folders with half-precision weights, their scores and SHA-256 sums into the package.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro

from s2rm.files import write_json, write_whole
from s2rm.runs import CONFIG, PRETRAINED, SCORES, SUMMARY, SUMS, Run, score
from s2rm.training import MODEL


@dataclass(frozen=True)
class Pretrained:
    """What to ship and where to put it."""

    s2gru: Path = Path("runs/long/s2gru-0")
    """finished run of S2GRU"""
    lstm: Path = Path("runs/family/lstm-0")
    """finished run of the LSTM, on the same world"""
    battles: Path = Path("runs/skirmish/skirmish-corrected-fewer/s2gru-0")
    """finished run of S2GRU on skirmishes"""
    out: Path = PRETRAINED
    """the folder in the package"""


def main(pretrained: Pretrained) -> None:
    """Halve, score what is shipped, sum."""
    shipped = []
    for name, path in (("s2gru", pretrained.s2gru), ("lstm", pretrained.lstm), ("battles", pretrained.battles)):
        run, folder = Run.open(path), pretrained.out / name
        run.summary()  # refuses a run that has not finished
        shutil.rmtree(folder, ignore_errors=True)
        run.load_model().half().save(folder / MODEL)
        for file in (CONFIG, SUMMARY):
            shutil.copy(run.folder / file, folder / file)
        for log in run.folder.glob("logs/version_*/metrics.csv"):
            target = folder / log.relative_to(run.folder)
            target.parent.mkdir(parents=True)
            shutil.copy(log, target)
        shipped.append(Run.open(folder))
    write_json(pretrained.out / SCORES, score([run for run in shipped if run.task.name == "balls"]))
    files = sorted(path for path in pretrained.out.rglob("*") if path.is_file() and path.name != SUMS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(pretrained.out)}" for path in files]
    write_whole(pretrained.out / SUMS, "\n".join([*sums, ""]).encode())


if __name__ == "__main__":
    main(tyro.cli(Pretrained))
