"""A fit from a store under a limit of memory, in a process of its own: STORE WARM LIMIT, in bytes.

A fit from a store does with so much memory beside what the fit of a small one needs; its table in memory does not.
"""

import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from s2rm.sensors import Fit, Forecaster, Reports, mapped, read_reports, stations
from s2rm.sensors.first_guess import dynamics, tuning
from s2rm.sensors.reports import ROWS
from s2rm.training import Training, keep_freed_memory

TRAINING = Training(learning_rate=1e-3, batch_size=2, epochs=1, gradient_norm=1.0, average=0.9)
HOW = Fit(hidden_size=4, num_modules=2, context=12, horizon=6, training=TRAINING)


def fitted(reports: Reports) -> None:
    """A fit, and a forecast."""
    with tempfile.TemporaryDirectory() as folder:
        forecaster = Forecaster.fit(reports, folder, HOW, progress=False)
        forecaster.forecast(reports, stations(reports), horizon=2)


def limit(more: int) -> None:
    """Allow so many bytes of private memory beside those that are in use."""
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    most = 1024 * int(used.split()[1]) + more
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(store: str, warm: str, more: int) -> None:
    """Fit under the limit."""
    # Small parts and samples, as the table is small.
    mapped.CELLS = mapped.SUMMED = 1 << 16
    tuning.CASES, dynamics.MOST_STEPS = 3_000, 600
    keep_freed_memory()  # what any fit needs is there for the second one
    fitted(read_reports(warm))
    limit(more)
    reports = read_reports(store)
    assert sum(getattr(reports, name).nbytes for name in ROWS) >= 5 * more
    fitted(reports)
    try:
        replace(reports, **{name: np.array(getattr(reports, name)) for name in ROWS})
    except MemoryError:
        print("read into memory it does not fit")


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]))
