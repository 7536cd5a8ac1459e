"""Records of a run: how training ended, what was logged, and where the numbers come from."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TypedDict


class Ended(TypedDict):
    """How training ended: lowest validation loss (nats), passes over the data, updates, minutes in all sessions, and
    precision of products."""

    val_loss: float
    epochs: int
    updates: int
    minutes: float
    precision: str


class Provenance(TypedDict):
    """Where a number comes from: the command line without folders, the commit of the project, with "-dirty" where its
    code was changed, processor with cores and threads, GPU if any, and the version of PyTorch."""

    command: str
    commit: str
    hardware: str
    accelerator: str | None
    torch: str


class Summary(Ended, Provenance):
    """A finished run: how training ended, where, the number of parameters, and the seed."""

    parameters: int
    seed: int


def history(folder: str | Path) -> list[dict[str, float]]:
    """The logged values of each epoch, over all sessions of a run; an epoch that was run twice counts once.

    Raises:
        ValueError: a file that training did not write.
    """
    epochs: dict[int, dict[str, float]] = {}
    for path in sorted(_logs(folder), key=lambda path: int(path.parts[-2][8:])):
        try:
            for line in csv.DictReader(path.read_text().splitlines()):
                epoch = epochs.setdefault(int(line["epoch"]), {})
                epoch.update({name: float(value) for name, value in line.items() if name and value})
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ValueError(f"history: {path} is not a run's log ({error!r}); train again") from error
    return [epochs[number] for number in sorted(epochs)]


def updates_when_best(folder: str | Path) -> int:
    """The number of updates after which the run in a folder had its best validation loss."""
    epochs = [epoch for epoch in history(folder) if "val_loss" in epoch]
    return 1 + int(min(epochs, key=lambda epoch: epoch["val_loss"])["step"])


def forget_history(folder: str | Path) -> None:
    """Remove the values that an earlier run logged in this folder, whose weights are about to be replaced."""
    for path in _logs(folder):
        path.unlink()


def _logs(folder: str | Path) -> list[Path]:
    return [*(Path(folder) / "logs").glob("version_*/metrics.csv")]


def provenance() -> Provenance:
    """The command, the commit, the machine and the version of PyTorch of this process."""
    import torch

    project, commit = Path(__file__).parents[3], ""
    if (project / ".git").exists() and shutil.which("git"):

        def git(*arguments: str) -> str:
            return subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True).stdout.strip()

        # The code only: results that one run writes do not change what the next one computes.
        code = ("src/*.py", "experiments", "benchmarks", "constraints.txt")
        commit = git("describe", "--always") + ("-dirty" if git("status", "--porcelain", "--", *code) else "")
    # Folders of this machine do not belong in a record.
    program = sys.argv[0].removesuffix("/__main__.py").removesuffix("/cli")
    arguments = [Path(part).name if os.path.isabs(part) else part for part in sys.argv[1:]]
    return {
        "command": " ".join(["s2rm" if program.endswith("s2rm") else Path(sys.argv[0]).name, *arguments]),
        "commit": commit or "not in a git checkout",
        "hardware": f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def cpu_name() -> str:
    """The name of the processor, or its architecture where the system does not give a name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.split(":")[1].strip() for line in lines if "model name" in line)
    return next(names, platform.processor() or platform.machine())
