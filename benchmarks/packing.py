"""The time of packing a table into a store, and of a fit from the store beside one from memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from common import in_turn, save, seconds
from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, pack, read_reports, to_frame
from s2rm.training import Training

NDBC = Columns("time", ("lon", "lat"), ("slp_hPa", "air_temp_C"), "station")


@dataclass(frozen=True)
class Packing:
    """Hourly reports of a month from the sea."""

    table: Path | None = None
    """the table ndbc_marine_2013-05.csv.gz; a small synthetic one if not given"""
    updates: int = 20
    """of each fit"""
    repeats: int = 3
    """fits of each kind; the median counts"""
    out: Path | None = None
    """where to write the times as JSON"""


def main(benchmark: Packing) -> None:
    """Time all in turn, print, write JSON."""
    training = Training(learning_rate=1e-3, batch_size=4, updates=benchmark.updates, gradient_norm=1.0)
    how, fitted = Fit(hidden_size=16, num_modules=10, context=12, horizon=6, training=training), set[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder, table, columns = Path(temporary), benchmark.table, NDBC
        if table is None:
            table, reports = folder / "reports.csv", FieldWorld(num_steps=150).reports()
            to_frame(reports).to_csv(table, index=False)
            columns = reports.columns
        packing = seconds(lambda: pack([table], columns, folder / "store"))
        reading = seconds(lambda: read_reports(table, columns))
        sources = {"memory": read_reports(table, columns), "store": read_reports(folder / "store")}

        def fit(name: str) -> Callable[[], None]:
            def run() -> None:
                with tempfile.TemporaryDirectory() as into:
                    fitted.add(Forecaster.fit(sources[name], into, how, progress=False).fingerprint)

            return run

        times = in_turn({name: fit(name) for name in sources}, benchmark.repeats)
        assert len(fitted) == 1, "the fits differ"
        rows = [
            {"case": "pack", "seconds": packing, "times_reading": packing / reading},
            *({"case": f"fit from {name}", "seconds": time, "times_memory": time / times["memory"]}
              for name, time in times.items()),
        ]  # fmt: skip
        Console().print(rows)
        save(benchmark.out, rows, observations=len(sources["memory"]), updates=benchmark.updates)


if __name__ == "__main__":
    main(tyro.cli(Packing))
