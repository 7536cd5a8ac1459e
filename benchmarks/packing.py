"""The time of packing a table into a store, and of a fit from the store beside one from memory."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from common import save, seconds
from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, pack, read_reports, to_frame
from s2rm.training import Training

NDBC = Columns("time", ("lon", "lat"), ("slp_hPa", "air_temp_C"), "station")


@dataclass(frozen=True)
class Packing:
    """Hourly reports of a month from the sea are packed; a forecaster is fitted to a synthetic field."""

    table: Path | None = None
    """the table ndbc_marine_2013-05.csv.gz; not packed if not given"""
    steps: int = 2500
    """of the field, which 70 sensors observe"""
    updates: int = 20
    """of each fit"""
    repeats: int = 2
    """fits of each kind, in turn; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Packing) -> None:
    """Time all in turn, print, write JSON.

    Fits are compared by the time of the processor too, which other programs disturb less.
    """
    training = Training(learning_rate=1e-3, batch_size=4, updates=benchmark.updates, gradient_norm=1.0)
    how, rows, fitted = Fit(hidden_size=16, num_modules=10, training=training), [], set()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if benchmark.table is not None:
            table = benchmark.table
            times = [seconds(work) for work in (
                lambda: read_reports(table, NDBC), lambda: pack([table], NDBC, folder / "ndbc")
            )]  # fmt: skip
            rows = [{"case": name, "seconds": each} for name, each in zip(("read", "pack"), times, strict=True)]
        reports = FieldWorld(num_stations=60, num_steps=benchmark.steps).reports()
        pack([to_frame(reports)], reports.columns, folder / "field")
        sources = {"memory": read_reports(to_frame(reports), reports.columns), "store": read_reports(folder / "field")}
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sources}
        for turn in range(benchmark.repeats):
            for name in sorted(sources, reverse=bool(turn % 2)):
                began = time.perf_counter(), time.process_time()
                fitted.add(Forecaster.fit(sources[name], folder / f"{name}-{turn}", how, progress=False).fingerprint)
                taken[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
        assert len(fitted) == 1, "the fits differ"
    medians = {name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in taken.items()}
    for name, (wall, processor) in medians.items():
        ratio = processor / medians["memory"][1]
        rows.append(
            {"case": f"fit from {name}", "seconds": wall, "processor_seconds": processor, "times_memory": ratio}
        )
    Console().print(rows)
    save(benchmark.out, rows, observations=len(reports), updates=benchmark.updates)


if __name__ == "__main__":
    main(tyro.cli(Packing))
