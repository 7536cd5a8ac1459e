"""The explorer in headless Chromium: seconds to the first picture, steps a second, and size of its folder."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from common import save
from s2rm.explorer import serve


@dataclass(frozen=True)
class Explorer:
    """A folder that `s2rm explore` wrote, opened as a person would."""

    folder: tyro.conf.Positional[Path] = Path("explorer")
    """the explorer; its first model is shown alone"""
    seconds: float = 10.0
    """how long it plays, at the highest speed"""
    repeats: int = 3
    """number of times that the page is opened; the best counts, since other work on the machine only slows it"""
    out: Path | None = None
    """where to write the numbers as JSON"""


def main(benchmark: Explorer) -> None:
    """Open, play, print, write JSON."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,1000"):
        options.add_argument(argument)
    with serve(benchmark.folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver"))) as browser:
            times = [_visit(browser, address, benchmark.seconds) for _ in range(benchmark.repeats)]
        server.shutdown()
    size = sum(path.stat().st_size for path in benchmark.folder.rglob("*") if path.is_file())
    rows = [
        {"what": "seconds to the first picture", "value": min(first for first, _ in times)},
        {"what": "steps a second", "value": max(rate for _, rate in times)},
        {"what": "megabytes", "value": size / 1e6},
    ]
    Console().print(rows)
    save(benchmark.out, rows)


def _visit(browser, address: str, seconds: float) -> tuple[float, float]:
    """Seconds to the first picture, and steps a second as the page plays."""
    start = time.perf_counter()
    browser.get(address)
    while not browser.execute_script("return !document.getElementById('main').hidden"):
        time.sleep(0.01)
    first = time.perf_counter() - start
    browser.execute_script("document.getElementById('speed').value = 60; document.getElementById('play').click()")
    begun, before = time.perf_counter(), _step(browser)
    time.sleep(seconds)
    after, ended = _step(browser), time.perf_counter()
    return first, (after - before) / (ended - begun)


def _step(browser) -> int:
    """The number of steps made since the page was opened, over all episodes."""
    return int(browser.execute_script("return document.getElementById('clock').dataset.steps"))


if __name__ == "__main__":
    main(tyro.cli(Explorer))
