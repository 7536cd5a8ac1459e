"""A run: one folder that holds what was trained, on what, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_only
from tyro.conf import Suppress

from s2rm.files import write_whole
from s2rm.models.gqn import GQN
from s2rm.models.s2rm import S2GRU, S2LSTM, S2RMC, Term
from s2rm.models.saved import load
from s2rm.models.world_model import WorldModel
from s2rm.tasks.balls import world as bouncing_balls
from s2rm.tasks.balls.scores import FRACTIONS, TrivialPredictors, model_predictor, one_step_table
from s2rm.tasks.balls.world import BallsWorld, videos
from s2rm.tasks.battles import scores as battle_evaluation
from s2rm.tasks.battles import skirmish
from s2rm.tasks.battles.polar import PolarGrid
from s2rm.tasks.battles.skirmish import SkirmishWorld
from s2rm.training import LAST, MODEL, Machines, Training, batches, fit, history, provenance

FORMAT = 1
CONFIG, SUMMARY, SCORES = "config.json", "summary.json", "scores.json"
PRETRAINED, SUMS = Path(__file__).parent / "pretrained", "SHA256SUMS"
SUMMARY_KEYS = (
    "val_loss", "epochs", "updates", "minutes", "parameters", "seed", "command", "commit", "hardware", "accelerator",
    "torch",
)  # fmt: skip
LABELS = {
    "s2gru": "S2GRU",
    "s2rmc": "S2RMC",
    "s2lstm": "S2LSTM",
    "rims": "RIMs",
    "rmc": "RMC",
    "lstm": "LSTM",
    "gru": "GRU",
    "tto": "TTO",
}
ModelName = Literal["s2gru", "s2rmc", "s2lstm", "rims", "rmc", "lstm", "gru", "tto"]
World = BallsWorld | SkirmishWorld
WORLDS: dict[str, tuple[type[World], Callable[[str], World]]] = {
    "balls": (BallsWorld, bouncing_balls.preset),
    "skirmish": (SkirmishWorld, skirmish.preset),
}
"""each task's world, and what gives one by name"""
SPATIAL = {"s2gru": S2GRU, "s2rmc": S2RMC, "s2lstm": S2LSTM}


@dataclass(frozen=True)
class Settings:
    """What to train and on what."""

    model: ModelName = "s2gru"
    """which model"""
    codec: Literal["cnn", "mlp", "polar"] | None = None
    """encoder and decoder: residual CNNs of the paper's size, or small for CPUs, a perceptron (the balls' if not given)
    or polar convolutions (the skirmish's)"""
    inject_positions: bool = True
    """S2RM only: give embedded positions to encoder and decoder too (the paper: no); the baseline always does"""
    shortest: float | None = None
    """shortest wavelength of the positional embedding, in the world's units; half of its side if not given"""
    longest: float | None = None
    """bound of its longest wavelength; eight times its side if not given"""
    ablate: tuple[Term, ...] = ()
    """S2RM only: terms of its attentions to switch off"""
    training: Training = field(default_factory=Training)
    """how to train"""
    world: Annotated[World, Suppress] = field(default_factory=lambda: bouncing_balls.preset("small"))
    """what is seen, and how"""

    def build(self) -> WorldModel:
        """The model, its weights drawn from the seed."""
        torch.manual_seed(self.training.seed)
        if self.model not in SPATIAL:
            return GQN(core=self.model, **self.arguments)
        own: dict[str, Any] = {"inject_positions": self.inject_positions, "ablate": self.ablate}
        return SPATIAL[self.model](extent=[[0.0, self.world.side]] * 2, **own, **self.arguments)

    @property
    def arguments(self) -> dict[str, Any]:
        """What every model is made with."""
        side = self.world.side
        lengths = {"shortest": self.shortest or side / 2, "longest": self.longest or 8 * side}
        made = {"num_coordinates": 2, **lengths, **self.world.model_arguments()}
        return made if self.codec is None else {**made, "codec": self.codec}


@dataclass(frozen=True)
class Run:
    """A run folder and its settings. Where several processes train, the first alone writes.

    `config.json`: the settings. `model/`: the best weights. `checkpoints/`: what going on needs. `logs/`: CSV and
    TensorBoard. `summary.json`: how training ended. `scores.json`: its evaluation.
    """

    folder: Path
    settings: Settings

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> Run:
        """A new run, not trained yet.

        Raises:
            ValueError: the folder is there already; settings that make no model.
        """
        run = cls(folder, settings)
        run._begin()
        return run

    @rank_zero_only
    def _begin(self) -> None:
        folder = self.folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"train: {folder} is there already; choose another --out, or go on with --resume {folder}")
        self.settings.build()  # refuses settings that make no model before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        self._write_config()

    @rank_zero_only
    def _write_config(self) -> None:
        task = next(name for name, (kind, _) in WORLDS.items() if isinstance(self.settings.world, kind))
        config = {"format": FORMAT, "task": task, **asdict(self.settings)}
        write_whole(self.folder / CONFIG, json.dumps(config, indent=2).encode())

    @classmethod
    def open(cls, folder: Path) -> Run:
        """A run that is there.

        Raises:
            ValueError: no run folder, half-written, of a newer format, or with settings that are none.
        """
        path = folder / CONFIG
        if not path.is_file():
            raise ValueError(
                f"run: expected a run folder with {CONFIG}, found none at {folder}; train one with s2rm train"
            )
        try:
            config = json.loads(path.read_text())
            written = config.pop("format")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"run: {path} is not a run's config ({error!r}); train again") from error
        if not isinstance(written, int) or written > FORMAT:
            raise ValueError(f"run: {folder} has format {written}, this version reads up to {FORMAT}; update s2rm")
        if config.get("model") not in LABELS:
            raise ValueError(
                f"run: the model in {path} must be one of {', '.join(LABELS)}, got {config.get('model')!r}; train again"
            )
        try:
            kind, _ = WORLDS[config.pop("task", "balls")]
            kept = _tuples(config.pop("world"))
            if "grid" in kept:
                kept["grid"] = PolarGrid(**kept["grid"])
            training, world = Training(**config.pop("training")), kind(**kept)
            config = _tuples(config)
            return cls(folder, Settings(training=training, world=world, **config))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"run: the settings in {path} are not those of a run ({error}); train again") from error

    def with_limits(self, epochs: int | None = None, minutes: float | None = None) -> Run:
        """The same run with other limits, where given; they are kept in its config."""
        training = self.settings.training
        training = replace(training, epochs=epochs or training.epochs, minutes=minutes or training.minutes)
        run = Run(self.folder, replace(self.settings, training=training))
        run._write_config()
        return run

    def train(self, resume: bool = False, progress: bool = True, machines: Machines | None = None) -> Run:
        """Train, from the start or from the last checkpoint."""
        training = self.settings.training
        model, origin = self.settings.build(), provenance()
        train, validation = (self.settings.world.episodes(split, training.seed) for split in ("train", "val"))
        ended = fit(
            model,
            batches(train, training.batch_size, training.seed, shuffle=True),
            batches(validation, training.batch_size, training.seed + 1, shuffle=False),
            self.folder,
            training,
            machines=machines,
            resume=resume,
            progress=progress,
        )
        summary = {**ended, "parameters": model.num_parameters, "seed": training.seed, **origin}
        rank_zero_only(write_whole)(self.folder / SUMMARY, json.dumps(summary, indent=2).encode())
        return self

    @classmethod
    def finished(cls, folder: Path, settings: Settings) -> Run:
        """The run of these settings in this folder: as it is where it was finished, else gone on with, else new.

        Raises:
            ValueError: a run of other settings is there.
        """
        if not (folder / CONFIG).is_file():
            return cls.create(folder, settings).train()
        run = cls.open(folder)
        if run.settings != settings:
            raise ValueError(f"run: {folder} holds a run of other settings; delete it or choose another folder")
        return run if (folder / SUMMARY).is_file() else run.train(resume=(folder / LAST).is_file())

    @property
    def label(self) -> str:
        """The model's name in tables and pictures."""
        return LABELS[self.settings.model]

    def load_model(self) -> WorldModel:
        """The best weights so far."""
        return load(self.folder / MODEL).float()  # shipped weights are stored in half precision

    def summary(self) -> dict[str, Any]:
        """How training ended.

        Raises:
            ValueError: it has not.
        """
        path = self.folder / SUMMARY
        if not path.is_file():
            raise ValueError(
                f"run: {self.folder} has not finished training; go on with s2rm train --resume {self.folder}"
            )
        try:
            summary = json.loads(path.read_text())
            return {name: summary[name] for name in SUMMARY_KEYS}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"run: {path} is not a run's summary ({error!r}); train again") from error

    def history(self) -> list[dict[str, float]]:
        """What was logged after each epoch."""
        return history(self.folder)


def _tuples(kept: dict[str, Any]) -> dict[str, Any]:
    """With tuples where JSON has lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}


def pretrained(folder: Path = PRETRAINED) -> list[Run]:
    """The runs that are shipped with the library, each file as it was shipped.

    Raises:
        ValueError: a file is missing or another one, by its SHA-256.
    """
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
    return [Run.open(folder / name) for name in dict.fromkeys(n.split("/")[0] for n in names if "/" in n)]


def same_world(runs: list[Run]) -> World:
    """The world of all these runs, which must share it, and their names, which must differ."""
    worlds = {(run.settings.world, run.settings.training.seed) for run in runs}
    if len(worlds) != 1:
        raise ValueError("runs: all must share one world and one seed to be compared; evaluate them apart")
    labels = [run.label for run in runs]
    if len(set(labels)) != len(labels):
        raise ValueError(f"runs: expected one run of each model, got {', '.join(labels)}; evaluate them apart")
    return runs[0].settings.world


def score(
    runs: list[Run],
    fractions: Iterable[float] | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[str, Any]:
    """One-step scores of the runs and of the trivial predictors, with where they come from.

    On the balls: 1 to 6 of them, by share of the views. On the skirmish: every scenario, and the training scenarios by
    share of the agents that report.

    Args:
        runs: of one world.
        fractions: the shares. Default: all of the figures'.
        progress: shows how far it is.
    """
    world, seed = same_world(runs), runs[0].settings.training.seed
    models = {run.label: run.load_model() for run in runs}
    if isinstance(world, SkirmishWorld):
        rows = battle_evaluation.tabulate(models, world, seed, fractions or battle_evaluation.REPORTING, progress)
    else:
        trivial = trivial_predictors(runs)
        predictors = {label: model_predictor(model) for label, model in models.items()}
        predictors |= {"static scene": trivial.static_scene, "last seen": trivial.last_seen}
        rows = one_step_table(predictors, world, seed, fractions=fractions or FRACTIONS, progress=progress)
    return {"runs": {run.label: run.summary() for run in runs}, **provenance(), "rows": rows}


def trivial_predictors(runs: list[Run]) -> TrivialPredictors:
    """What the static scene and last seen know from the runs' training sequences of balls."""
    world, seed = same_world(runs), runs[0].settings.training.seed
    assert isinstance(world, BallsWorld)
    few = replace(world, train_sequences=min(world.train_sequences, 500))
    return TrivialPredictors(few, videos(few, "train", seed), seed)
