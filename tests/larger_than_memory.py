"""A fit from a store under a limit of memory, in a process of its own: STORE WARM LIMIT, in bytes.

It is shown that a fit from a store does with so much memory beside what any fit needs, that the table read into memory
does not, and that without the limit that one ends with the same weights.
"""

import resource
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from s2rm.sensors import Fit, Forecaster, Reports, mapped, read_reports, stations, tuning
from s2rm.sensors.reports import ROWS
from s2rm.training import Training, keep_freed_memory

TRAINING = Training(learning_rate=1e-3, batch_size=2, epochs=1, gradient_norm=1.0, average=0.9)
HOW = Fit(hidden_size=4, num_modules=2, context=12, horizon=6, training=TRAINING)


def in_memory(reports: Reports) -> Reports:
    """The same reports, none of which lie in files."""
    return replace(reports, **{name: np.array(getattr(reports, name)) for name in ROWS})


def fitted(reports: Reports) -> tuple[str, list]:
    """The fingerprint of a fit, and a forecast."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fit: .* steps of .* sensors are more than a fit can hold")
        forecaster = Forecaster.fit(reports, folder, HOW, progress=False)
        mean, stddev = forecaster.forecast(reports, stations(reports), horizon=2)
        return forecaster.fingerprint, [mean.tolist(), stddev.tolist()]


def limit(more: int | None) -> None:
    """Allow so many bytes of private memory beside those that are in use; any number if none is given."""
    used = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    soft = resource.RLIM_INFINITY if more is None else 1024 * int(used.split()[1]) + more
    resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.RLIM_INFINITY))


def main(store: str, warm: str, more: int) -> None:
    """Fit under the limit and without it."""
    # Small parts and samples, as the table is small.
    mapped.CELLS = mapped.SUMMED = 1 << 16
    tuning.CASES = 3_000
    keep_freed_memory()  # what any fit needs is there for the second one
    fitted(read_reports(warm))
    limit(more)
    reports = read_reports(store)
    assert sum(getattr(reports, name).nbytes for name in ROWS) >= 5 * more
    from_store = fitted(reports)
    try:
        in_memory(reports)
    except MemoryError:
        limit(None)
        assert fitted(in_memory(reports)) == from_store, "another fit"
        print("done")


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]))
