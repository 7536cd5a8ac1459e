"""A run: a folder with a trained model, its world and settings, and how training ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from s2rm.extras import require
from s2rm.files import Row, only_writer, read_json, write_json
from s2rm.models.model import Model
from s2rm.models.named import LABELS
from s2rm.models.saved import load_any
from s2rm.records import from_plain, to_plain
from s2rm.report.page import Entry
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.fitting import FORECASTER
from s2rm.sensors.reports import Reports
from s2rm.settings import Settings
from s2rm.tasks import arrays, balls, battles, railways, sequences
from s2rm.tasks.robustness import Trained, check, more, robustness
from s2rm.tasks.task import Task, verdict
from s2rm.tasks.worlds import Drawn, Progress, World, blinded
from s2rm.training import LAST, MODEL, Diverged, Machines, batches, fit, history, provenance
from s2rm.training.checkpoints import resumable
from s2rm.training.records import Summary
from s2rm.training.settings import is_first_process

FORMAT = 3
"""2: baselines normalise the summed representation by default; 3: S2RMs have a number of modules"""
CONFIG, SUMMARY, SCORES = "config.json", "summary.json", "scores.json"
PRETRAINED, SUMS = Path(__file__).parent / "pretrained", "SHA256SUMS"
FIELD = "field"
"""the forecaster in that folder"""
SUMMARY_KEYS = (
    "val_loss", "epochs", "updates", "minutes", "precision", "parameters", "seed", "command", "commit", "hardware",
    "accelerator", "torch",
)  # fmt: skip
TASKS: dict[str, Task] = {
    task.name: task for task in (balls.TASK, battles.TASK, railways.TASK, *sequences.TASKS, arrays.TASK)
}
"""by name; that of arrays is called by the path of a world's file"""


@dataclass(frozen=True)
class Run:
    """A run folder, its settings and its world. If several processes train, only the first one writes.

    `config.json`: settings and world. `model/`: the best weights. `checkpoints/`: for resuming. `logs/`: CSV and
    TensorBoard. `summary.json`: how training ended. `scores.json`: the scores.
    """

    folder: Path
    settings: Settings
    task: Task
    world: World

    @classmethod
    def create(cls, folder: str | Path, settings: Settings, task: str = "balls", world: World | None = None) -> Run:
        """Create a new run, not trained yet.

        Args:
            folder: must be empty or not exist.
            settings: of model and training.
            task: one of `TASKS`.
            world: of that task. Default: its preset "small".

        Raises:
            ValueError: the folder exists already; invalid settings, or settings that the model does not have.
            ImportError: an extra that the task needs is not installed.
        """
        run = cls(Path(folder), settings, TASKS[task], world or TASKS[task].preset("small"))
        run._begin()
        return run

    @rank_zero_only
    def _begin(self) -> None:
        self._refuse_content()
        self.settings.check(self.world)
        if self.task.extra:
            require(self.task.extra)
        self.settings.build(self.world)  # refuses settings that make no model before anything is written
        with only_writer(self.folder, "train"):
            self._refuse_content()  # another process may have begun a run there in the meantime
            self._write_config()

    def _refuse_content(self) -> None:
        folder = self.folder
        # What a killed process left of a file is no content.
        if folder.exists() and (not folder.is_dir() or any(each.suffix != ".part" for each in folder.iterdir())):
            go_on = f", or resume it with --resume {folder}" if (folder / CONFIG).is_file() else ""
            raise ValueError(f"train: {folder} exists already; choose another --out{go_on}")

    @rank_zero_only
    def _write_config(self) -> None:
        config = {"format": FORMAT, "task": self.task.name, **to_plain(self.settings), "world": to_plain(self.world)}
        write_json(self.folder / CONFIG, config)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open an existing run.

        Raises:
            ValueError: not a run folder, one that is incomplete or of another format, or invalid settings.
        """
        path = Path(folder) / CONFIG
        if (Path(folder) / FORECASTER).is_file():
            raise ValueError(f"run: {folder} is a forecaster, expected a run of s2rm train; see s2rm forecast")
        if not path.is_file():
            raise ValueError(
                f"run: expected a run folder with {CONFIG}, found none at {folder}; train one with s2rm train"
            )
        try:
            config = read_json(path)
        except ValueError as error:
            raise ValueError(f"run: {path} is not a run's config ({error}); train again") from error
        written = config.pop("format", None) if isinstance(config, dict) else None
        if not isinstance(written, int):
            raise ValueError(f"run: {path} is not a run's config; train again")
        if written != FORMAT:
            remedy = "update s2rm" if written > FORMAT else "train again"
            raise ValueError(f"run: {folder} has format {written}, this version reads {FORMAT}; {remedy}")
        name, seen = config.pop("task", "balls"), config.pop("world", None)
        if name not in list(TASKS):  # a list would not be looked for in a dictionary
            raise ValueError(f"run: the task in {path} must be one of {', '.join(TASKS)}, got {name!r}; train again")
        try:
            return cls(Path(folder), from_plain(Settings, config), TASKS[name], from_plain(TASKS[name].world, seen))
        except ValueError as error:
            raise ValueError(f"run: the settings in {path} are not those of a run ({error}); train again") from error

    def with_limits(self, updates: int | None = None, epochs: int | None = None, minutes: float | None = None) -> Run:
        """The same run with the limits that are given; `train` saves them in its config."""
        training = self.settings.training
        training = replace(
            training, updates=updates or training.updates, epochs=epochs or training.epochs,
            minutes=minutes or training.minutes,
        )  # fmt: skip
        return replace(self, settings=replace(self.settings, training=training))

    def train(self, resume: bool = False, progress: bool = True, machines: Machines | None = None) -> Run:
        """Train from the start or, with `resume`, from the last checkpoint if there is one.

        Raises:
            ValueError: as `fit`; or another process is training this run.
        """
        if not is_first_process():  # the first has the lock
            return self._train(resume, progress, machines)
        with only_writer(self.folder, "train"):
            return self._train(resume, progress, machines)

    def _train(self, resume: bool, progress: bool, machines: Machines | None) -> Run:
        training = self.settings.training
        model, origin = self.settings.build(self.world), provenance()
        folder, size, seed = self.folder, training.batch_size, training.seed
        chosen: dict[str, Any] = {"guessed": True} if self.settings.corrects else {}
        chosen |= {"drop": self.settings.drop_views} if self.settings.drop_views else {}
        train, validation = (
            self.task.episodes(self.world, split, seed, folder, **chosen) for split in ("train", "val")
        )
        if share := self.settings.blind_steps:
            assert isinstance(train, Drawn)
            assert isinstance(validation, Drawn)
            train, validation = blinded(train, share), blinded(validation, share)
        loaders = batches(train, size, seed, shuffle=True), batches(validation, size, seed + 1, shuffle=False)
        resume = resume and (folder / LAST).is_file()
        about = {"parameters": model.num_parameters, "seed": seed, **origin}
        if resume:
            resumable(folder, model, training)
        kept = read_json(folder / CONFIG) if is_first_process() else None  # others may be here before it is written
        self._write_config()  # after all refusals, of which nothing is left
        try:
            ended = fit(model, *loaders, folder, training, machines=machines, resume=resume, progress=progress)
        except Diverged as diverged:
            if diverged.ended is not None:  # the best weights can be scored
                rank_zero_only(write_json)(folder / SUMMARY, {**diverged.ended, **about})
            raise
        except ValueError:  # a checkpoint that does not come back
            rank_zero_only(write_json)(folder / CONFIG, kept)
            raise
        rank_zero_only(write_json)(folder / SUMMARY, {**ended, **about})
        return self

    @classmethod
    def finished(cls, folder: str | Path, settings: Settings, task: str = "balls", world: World | None = None) -> Run:
        """The finished run with these settings in this folder; trained or resumed first if necessary.

        Raises:
            ValueError: the folder contains a run with other settings.
        """
        if not (Path(folder) / CONFIG).is_file():
            return cls.create(folder, settings, task, world).train()
        run = cls.open(folder)
        if run != cls(Path(folder), settings, TASKS[task], world or TASKS[task].preset("small")):
            raise ValueError(f"run: {folder} holds a run of other settings; delete it or choose another folder")
        return run if (run.folder / SUMMARY).is_file() else run.train(resume=True)

    @property
    def label(self) -> str:
        """The model's name in tables and pictures, with the number and size of its modules if they were chosen."""
        core = self.settings.core
        modules = "" if core.num_modules is None else f"{core.num_modules} modules"
        size = "" if core.hidden_size is None else f"{core.hidden_size}"
        chosen = f"{core.num_modules} x {size}" if modules and size else modules or size
        return f"{LABELS[self.settings.model]} {chosen}".rstrip()

    def load_model(self) -> Model:
        """The best weights so far."""
        return load_any(self.folder / MODEL).float()  # shipped weights are stored in half precision

    def summary(self) -> Row:
        """How training ended.

        Raises:
            ValueError: training has not finished.
        """
        path = self.folder / SUMMARY
        if not path.is_file():
            raise ValueError(
                f"run: {self.folder} has not finished training; resume it with s2rm train --resume {self.folder}"
            )
        try:
            summary = read_json(path)
            return dict(from_plain(Summary, {name: summary[name] for name in SUMMARY_KEYS}))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"run: {path} is not a run's summary ({error!r}); train again") from error

    def about(self, label: str | None = None) -> Row:
        """The run's entry in a results file, under the model's label or another one."""
        return {"label": label or self.label, "learning_rate": self.settings.training.learning_rate, **self.summary()}

    def entry(self) -> Entry:
        """What a report needs of the run."""
        rate, model = self.settings.training.learning_rate, self.load_model()
        setting = f"{self.label}: {model.setting}."
        return Entry(self.label, model, self.summary(), rate, setting, history(self.folder))


def pretrained(folder: str | Path = PRETRAINED, task: str = "balls") -> list[Run]:
    """The runs of a task that are shipped with the library: "balls", or "skirmish".

    The folder contains the shipped forecaster too.

    Raises:
        ValueError: a file is missing, or its SHA-256 differs.
    """
    folder = Path(folder)
    sums = folder / SUMS
    if not sums.is_file():
        raise ValueError(f"pretrained: expected the shipped weights with {SUMS}, found none at {folder}; install s2rm")
    names = []
    for line in sums.read_text().splitlines():
        expected, name = line.split()
        got = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else "no file"
        if got != expected:
            raise ValueError(
                f"pretrained: {folder / name} is not what was shipped, expected SHA-256 {expected}, got {got}; "
                "install s2rm again"
            )
        names.append(name)
    shipped = dict.fromkeys(name.split("/")[0] for name in names if "/" in name)
    runs = [Run.open(folder / name) for name in shipped if name != FIELD]
    return [run for run in runs if run.task.name == task]


def field_reports() -> tuple[Reports, Reports]:
    """The reports of the synthetic field to which the shipped forecaster was fitted, and those that came later."""
    reports = FieldWorld(num_stations=30, num_movers=4, num_steps=720, seed=1).reports()
    return reports.between(0, 560), reports.between(560, 720)


def same_world(runs: list[Run]) -> tuple[Task, World, int]:
    """Task, world and seed of these runs.

    Raises:
        ValueError: they differ in one of these, or two runs are of one model.
    """
    first = runs[0]
    shared = first.task, first.world, first.settings.training.seed
    if any((run.task, run.world, run.settings.training.seed) != shared for run in runs):
        raise ValueError("runs: all must share one world and one seed to be compared; evaluate them separately")
    labels = [run.label for run in runs]
    if len(set(labels)) != len(labels):
        raise ValueError(f"runs: expected one run of each model, got {', '.join(labels)}; evaluate them separately")
    return shared


def score(
    runs: list[Run], shares: Iterable[float] | None = None, progress: Progress = iter, drop: Sequence[float] = (),
    remove: Sequence[int] = (),
) -> Row:  # fmt: skip
    """Scores of the runs and of the simple predictors, in the form of a results file.

    Args:
        runs: of one world.
        shares: of the views, or of the agents that report. Default: all of the paper's figures.
        progress: wraps an iterable to show progress.
        drop: shares of the views to drop.
        remove: numbers of modules to remove; with `drop` the result has `robustness`, further rows, as from
            [`robustness`][s2rm.tasks.robustness.robustness].

    Raises:
        ValueError: shares or numbers out of range.
    """
    task, world, seed = same_world(runs)
    models: dict[str, Any] = {run.label: run.load_model() for run in runs}

    def scored(some: Trained, seen: Iterable[float] | None, progress: Progress = iter) -> list[Row]:
        rows = task.score(some, world, seed, seen, progress, runs[0].folder)
        return [{"predictor": row["predictor"], "seed": seed, **row} for row in rows]

    check(task, models, drop, remove)
    if drop and getattr(world, "num_views", None) == 1:
        raise ValueError("evaluate: one view of each step always stays, and there is one; leave the shares to drop out")
    shares = None if shares is None else tuple(shares)
    if wrong := [share for share in shares or () if not 0 < share <= 1]:
        raise ValueError(f"evaluate: shares of views that are seen must be above 0 and at most 1, got {wrong[0]}")
    about, rows = [run.about() for run in runs], scored(models, shares, progress)
    missing = {"robustness": robustness(task, models, scored, drop, remove, progress)} if drop or remove else {}
    return {**provenance(), "seed": seed, "runs": about, "rows": rows, **missing}


def write_report(path: str | Path, runs: list[Run], rows: list[Row], missing: Sequence[Row] = ()) -> None:
    """Write one self-contained HTML page about runs of one world, with their scores.

    It begins with a verdict: where each model is better than every simple predictor, and where it is not.

    Args:
        path: of the page.
        runs: of one world.
        rows: their scores.
        missing: their `robustness`.

    Raises:
        ImportError: the extra "report" is not installed.
    """
    task, world, seed = same_world(runs)
    beside = more(task, missing, verdict(task.headline.rows(rows), task.headline))
    task.write_report(Path(path), [run.entry() for run in runs], rows, world, seed, runs[0].folder, beside)
