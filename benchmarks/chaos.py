"""What survives: kills at random moments, loads beside a writer, files that were tampered with.

Writes counts of what must not be, all of which should be zero: files that are half written, folders with which no
command goes on, files that stay behind, loads of parts of two models, errors that are not one line for the user.
"""

from __future__ import annotations

import io
import multiprocessing
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import tyro
from rich.progress import track

from s2rm.files import Row, read_json

COLUMNS = ["--time", "time", "--position", "x", "y", "--values", "tracer", "--sensor", "sensor"]
QUICK = ["--hidden-size", "8", "--num-modules", "4", "--context", "12", "--horizon", "6", "--epochs", "2"]
TRAIN = ["train", "balls", "--model", "lstm", "--size", "tiny", "--epochs", "3"]
"""the errors that the command line prints as one line"""


@dataclass(frozen=True)
class Chaos:
    """How much is tried."""

    kills: int = 200
    """kills, over `train`, `fit`, `forecast` and `Stream.save`"""
    loads: int = 1000
    """loads of a model beside one that writes it"""
    tampered: int = 300
    """tampered files"""
    steps: int = 10_000
    """steps of a stream in which every sensor is new"""
    seed: int = 0
    """of the moments and of the bytes"""
    out: Path | None = None
    """where to write the counts"""


def processes() -> Any:
    """Processes that start at once, since a server has imported the library for them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["s2rm.cli.runs", "s2rm.cli.sensors", "s2rm.tasks.balls.report"])
    return context


def command(arguments: Sequence[str]) -> None:
    """A command of `s2rm`, which says nothing unless it fails."""
    from s2rm.cli import main

    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said):
            main(arguments)
    except SystemExit as end:
        if end.code:
            raise SystemExit(said.getvalue()) from end


def stream_saved(run: str, table: str, path: str) -> None:
    """A stream over the reports, which is saved after each step."""
    from s2rm.sensors import Forecaster, read_reports

    forecaster = Forecaster.load(run)
    reports = read_reports(table, forecaster.columns, to_fit=False)
    stream = forecaster.step(None, reports.between(0, 20))
    for step in range(20, 60):
        stream = forecaster.step(stream, reports.between(step, step + 1))
        stream.save(path)


def table_of_a_field(path: Path) -> Path:
    """A small synthetic table."""
    from s2rm.sensors.field import FieldWorld
    from s2rm.sensors.reading.tables import to_frame

    to_frame(FieldWorld(num_stations=8, num_movers=2, num_steps=120).reports()).to_csv(path, index=False)
    return path


@dataclass(frozen=True)
class Work:
    """Something that is killed, and with which one goes on."""

    name: str
    begin: Callable[[Path], tuple[Callable[..., None], tuple[Any, ...]]]
    """the work in a folder, as a function and its arguments"""
    again: Callable[[Path], tuple[Callable[..., None], tuple[Any, ...]]]
    """what goes on with it after a kill"""
    whole: Callable[[Path], object]
    """reads what was written; an error where it is half written"""


def read_all(folder: Path) -> None:
    """Read every file of a folder whose form tells whether it is whole; a file that is not is an error."""
    from s2rm.models.saved import load

    for path in folder.rglob("*"):
        if path.suffix == ".json" and not path.name.startswith("."):
            read_json(path)
        elif path.suffix == ".safetensors":
            safetensors.torch.load_file(path)
        if path.name == "weights.safetensors" and (path.parent / "config.json").is_file():
            load(path.parent)


def read_forecast(folder: Path) -> None:
    """A forecast, where there is one, has all its lines."""
    for path in folder.glob("*.csv"):
        lines = path.read_text().splitlines()
        if len(lines) != 1 + 6 * 10:  # the horizon of each of 10 sensors
            raise ValueError(f"{path} has {len(lines)} lines")


def works(shared: Path) -> list[Work]:
    """What is killed; `shared` holds a fit and its table."""
    run, table = str(shared / "fit" / "run"), str(shared / "table.csv")

    def train(folder: Path) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return command, ([*TRAIN, "--out", str(folder / "run")],)

    def go_on(folder: Path) -> tuple[Callable[..., None], tuple[Any, ...]]:
        begun = (folder / "run" / "config.json").is_file()
        return (command, (["train", "--resume", str(folder / "run")],)) if begun else train(folder)

    def fit(folder: Path) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return command, (["fit", table, *COLUMNS, *QUICK, "--out", str(folder / "run")],)

    def forecast(folder: Path) -> tuple[Callable[..., None], tuple[Any, ...]]:
        out = str(folder / "forecast.csv")
        return command, (["forecast", run, table, "--at", "stations", "--horizon", "6h", "--out", out],)

    def stream(folder: Path) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return stream_saved, (run, table, str(folder / "stream.safetensors"))

    return [
        Work("train", train, go_on, read_all),
        Work("fit", fit, fit, read_all),
        Work("forecast", forecast, forecast, read_forecast),
        Work("Stream.save", stream, stream, read_all),
    ]


def files_in(folder: Path) -> set[str]:
    """The files of a folder, without logs, of which a run that was resumed has more."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts}


def weights_in(folder: Path) -> bytes:
    """The weights that the work left, if it trains."""
    path = folder / "run" / "model" / "weights.safetensors"
    return path.read_bytes() if path.is_file() else b""


def run(job: tuple[Callable[..., None], tuple[Any, ...]], seconds: float | None = None) -> int:
    """The exit code of a job in a process of its own, which is killed after so many seconds."""
    process = processes().Process(target=job[0], args=job[1])
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return cast(int, process.exitcode)


def prepared(folder: Path) -> dict[str, float]:
    """Do each work once, in `folder / name`, on a table in `folder`, where nothing kills it: the seconds it takes."""
    folder.mkdir()
    table_of_a_field(folder / "table.csv")
    taken = {}
    for work in works(folder):
        (folder / work.name).mkdir()
        started = time.monotonic()
        if run(work.begin(folder / work.name)):
            raise RuntimeError(f"{work.name} fails even where nothing kills it")
        taken[work.name] = time.monotonic() - started
    return taken


def killed(work: Work, calm: Path, seconds: float, folder: Path, kills: int, chance: random.Random) -> Counter[str]:
    """Kill work at random moments and go on with it, until it was killed so often; count what must not be.

    `calm` is where it was done in peace, in so many seconds.
    """
    counts: Counter[str] = Counter()
    attempt = 0
    while counts["kills"] < kills:
        attempt += 1
        place = folder / str(attempt)
        place.mkdir()
        job = work.begin(place)
        for _ in range(5):
            if counts["kills"] == kills or (ended := run(job, seconds * chance.random())) >= 0:
                break
            assert ended == -signal.SIGKILL
            counts["kills"] += 1
            try:
                work.whole(place)
            except Exception:
                counts["half-written files"] += 1
            job = work.again(place)
        # A work that ended before it was killed is there, and fit refuses to overwrite it.
        if files_in(place) != files_in(calm) and run(job):
            counts["dead folders"] += 1
        counts["leftovers"] += len(files_in(place) - files_in(calm))
        counts["results that differ"] += weights_in(place) != weights_in(calm)
        shutil.rmtree(place)
    return counts


def write_in_turn(folder: str, models: Sequence[str]) -> None:
    """Save two models into one folder, again and again."""
    from s2rm.models.saved import load

    loaded = [load(model) for model in models]
    while True:
        for model in loaded:
            model.save(folder)


def loads_beside_a_writer(folder: Path, loads: int) -> Counter[str]:
    """Load a model as often, while two of other sizes and weights are saved in turn into its folder."""
    from s2rm.models.gqn import GQN
    from s2rm.models.saved import load

    counts, known = Counter[str](), []
    for number, core in enumerate(("lstm", "lstm", "gru")):
        model = GQN(value_shape=(3, 3), num_coordinates=2, core=core, hidden_size=8 + number)
        model.save(folder / str(number))
        known.append({name: value.clone() for name, value in model.state_dict().items()})
    shared = folder / "shared"
    shutil.copytree(folder / "0", shared)
    process = processes().Process(
        target=write_in_turn, args=(str(shared), [str(folder / str(number)) for number in range(3)]), daemon=True
    )
    process.start()
    for _ in range(loads):
        try:
            got = load(shared).state_dict()
        except ValueError:
            counts["refused"] += 1  # one of the writer's two files was new and the other old
            continue
        counts["loads"] += 1
        counts["mismatched halves"] += not any(
            got.keys() == one.keys() and all(got[name].equal(one[name]) for name in one) for one in known
        )
    process.kill()
    process.join()
    return counts


def tamper(content: bytes, chance: random.Random) -> bytes:
    """Other bytes: some flipped, a part cut out, doubled, or written over, or the end gone."""
    kind, at = chance.randrange(6), chance.randrange(len(content))
    size = min(len(content) - at, chance.choice((1, 8, 64, 1024)))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[at + size :]
    if kind == 2:
        return content[:at] + content[at : at + size] * 2 + content[at + size :]
    if kind == 3:
        return content[:at] + chance.randbytes(size) + content[at + size :]
    if kind == 4:
        return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
    digit = chance.choice((b"9", b"-", b"0", b'"', b"{", b"nan", b"1e999", b"null", b"[[[["))
    return content[:at] + digit + content[at + 1 :]


def tampered_with(folder: Path, shared: Path, number: int, chance: random.Random) -> Counter[str]:
    """Open files that were tampered with; count errors that are none of those that are printed as one line."""
    from s2rm.models.saved import load
    from s2rm.runs import Run
    from s2rm.sensors import Forecaster, read_reports

    fit, run, table = shared / "fit" / "run", shared / "train" / "run", shared / "table.csv"
    columns = Forecaster.load(fit).columns

    def resumed(place: Path) -> object:
        return Run.open(place / "run").with_limits(None, 5, None).train(resume=True, progress=False)

    def streamed(place: Path) -> object:
        return Forecaster.load(place / "fit").load_stream(place / "stream.safetensors")

    def tabled(place: Path) -> object:
        return read_reports(place / "table.csv", columns)

    targets: list[tuple[str, Callable[[Path], object]]] = [
        ("run/model/weights.safetensors", lambda place: load(place / "run" / "model")),
        ("run/model/config.json", lambda place: load(place / "run" / "model")),
        ("run/config.json", lambda place: Run.open(place / "run").load_model()),
        ("run/summary.json", lambda place: Run.open(place / "run").about()),
        ("run/checkpoints/last.ckpt", resumed),
        ("fit/forecaster.json", lambda place: Forecaster.load(place / "fit")),
        ("fit/model/weights.safetensors", lambda place: Forecaster.load(place / "fit")),
        ("fit/model/config.json", lambda place: Forecaster.load(place / "fit")),
        ("stream.safetensors", streamed),
        ("table.csv", tabled),
    ]
    place, counts = folder / "place", Counter[str]()
    for turn in range(number):
        name, opened = targets[turn % len(targets)]
        place.mkdir()
        for what, source in (("run", run), ("fit", fit)):
            if name.startswith(what) or (what, name) == ("fit", "stream.safetensors"):
                shutil.copytree(source, place / what, ignore=shutil.ignore_patterns("logs", "*.html"))
        for source in (table, shared / "Stream.save" / "stream.safetensors"):
            shutil.copy(source, place)
        (place / name).write_bytes(tamper((place / name).read_bytes(), chance))
        said = io.StringIO()
        try:
            with redirect_stderr(said), redirect_stdout(said):
                opened(place)
            counts["taken"] += 1
        except (ValueError, OSError) as error:
            counts["refused"] += 1
            counts["messages of several lines"] += "\n" in str(error)
        except Exception:
            counts["tracebacks"] += 1
            counts[f"{name}: {traceback.format_exc().splitlines()[-1]}"] += 1
        shutil.rmtree(place)
    return counts


def stream_of_strangers(shared: Path, steps: int) -> Row:
    """A stream in which each report is of a sensor that was never seen before: what it keeps, and the memory of the
    process, after a tenth of the steps and at the end."""
    import pandas

    from s2rm.sensors import Forecaster

    forecaster = Forecaster.load(shared / "fit" / "run")
    start, stream, row = pandas.Timestamp("2020-01-01"), None, {"steps": steps}
    chance = random.Random(0)
    for step in range(steps):
        names = [f"s{step}-{number}" for number in range(3)]
        places = [[chance.uniform(0, 100), chance.uniform(0, 100)] for _ in names]
        frame = pandas.DataFrame(places, columns=["x", "y"]).assign(
            sensor=names, time=start + pandas.Timedelta(hours=step), tracer=[chance.gauss(0, 1) for _ in names]
        )
        stream = forecaster.step(stream, frame)
        if step + 1 in (steps // 10, steps):
            when = "end" if step + 1 == steps else "tenth"
            row[f"sensors_{when}"] = len(stream.recent.sensors)
            row[f"peak_mib_{when}"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return row


def main(chaos: Chaos) -> None:
    """Kill, load, tamper; write the counts."""
    from common import save  # not above: the tests import this file beside others that have another `common`

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows: list[Row] = []
        shared = folder / "shared"
        taken = prepared(shared)
        all_works = works(shared)
        for index, work in enumerate(track(all_works, "Killing")):
            place = folder / work.name
            place.mkdir()
            kills = chaos.kills // len(all_works) + (index < chaos.kills % len(all_works))
            chance, calm = random.Random(chaos.seed), shared / work.name
            counts = killed(work, calm, taken[work.name], place, kills, chance)
            rows.append({"tried": f"kills of {work.name}", **counts})
        for what, count in (
            ("loads beside a writer", lambda place: loads_beside_a_writer(place, chaos.loads)),
            ("tampered files", lambda place: tampered_with(place, shared, chaos.tampered, random.Random(chaos.seed))),
        ):
            place = folder / what
            place.mkdir()
            rows.append({"tried": what, **count(place)})
        rows.append({"tried": "a stream of new sensors", **stream_of_strangers(shared, chaos.steps)})
        for row in rows:
            print(row)
        save(chaos.out, rows)


if __name__ == "__main__":
    main(tyro.cli(Chaos))
