"""Training any world model, on Lightning: resumable, budgeted by the clock, the best weights kept."""

from __future__ import annotations

import csv
import ctypes
import io
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset, Sampler

from s2rm.files import write_whole
from s2rm.models.world_model import WorldModel
from s2rm.training.start import unit_variance
from s2rm.views import Episode

LAST = "checkpoints/last.ckpt"
MODEL = "model"
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


@dataclass(frozen=True)
class Training:
    """How to train. The defaults are the paper's (E.4.3)."""

    learning_rate: float = 3e-4
    """of Adam, at the start; halved when the validation loss has not fallen by 0.01 % for 5 epochs"""
    batch_size: int = 32
    """sequences in a batch, which all processes share"""
    epochs: int | None = None
    """passes over the training sequences, at most; 100 if not given"""
    minutes: float | None = None
    """wall-clock budget for training, all sessions together; none if not given"""
    patience: int = 20
    """stop when the validation loss has not fallen for this many epochs"""
    gradient_norm: float | None = None
    """scale gradients down to this norm; not at all if not given"""
    weight_decay: float = 0.0
    """of AdamW, which is Adam where this is 0"""
    average: float | None = None
    """validate and keep a running mean of the weights, of which each update replaces 1 minus this share; not if not
    given"""
    unit_variance: bool = False
    """before the first update, scale the layers of encoder and decoder to unit variance on the first batch; for sparse
    views, which otherwise hardly reach the prediction"""
    recompute: int | None = None
    """for long sequences: keep only the state after every so many time steps, and compute the rest again in the
    backward pass, for less memory and more time; keep all if not given"""
    precision: str = "32-true"
    """of the products, Lightning's: 32-true, or bf16-mixed, autocast to bfloat16, faster where the processor has it"""
    seed: int = 0
    """of initial weights, order and crops: the same seed gives the same run, on the same CPU"""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "epochs", "minutes", "patience", "gradient_norm", "recompute"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"training: {name} must be positive, got {value}")
        if self.average is not None and not 0 < self.average < 1:
            raise ValueError(f"training: average must be between 0 and 1, got {self.average}")
        if self.weight_decay < 0:
            raise ValueError(f"training: weight_decay must be at least 0, got {self.weight_decay}")
        if self.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(f"training: precision must be 32-true or bf16-mixed, got {self.precision!r}")


@dataclass(frozen=True)
class Machines:
    """On what to train, one process a device. What is trained is the same on any number of them."""

    devices: int = 1
    """GPUs of each machine; where there are none, processes on its CPU"""
    num_nodes: int = 1
    """machines; torchrun or SLURM starts the processes of several"""
    strategy: str = "auto"
    """Lightning's: auto, ddp, or ddp_find_unused_parameters_true for a model that leaves parameters unused"""

    def __post_init__(self) -> None:
        for name in ("devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"machines: {name} must be at least 1, got {getattr(self, name)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"machines: strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")

    def trainer(self, **options: Any) -> L.Trainer:
        """Lightning's trainer for these machines, which knows this process's place among them.

        Raises:
            ValueError: devices that are not there; processes started from outside, of another number.
        """
        expected = self.devices * self.num_nodes
        started = int(os.environ.get("WORLD_SIZE" if TorchElasticEnvironment.detect() else "SLURM_STEP_NUM_TASKS", 1))
        if started != expected and (started > 1 or self.num_nodes > 1):
            raise ValueError(
                f"machines: devices {self.devices} and num_nodes {self.num_nodes} are {expected} processes, got "
                f"{started}; start as many with torchrun or srun"
            )
        # In a notebook Lightning's auto would be a strategy that loses what its processes learned.
        strategy = "ddp" if self.strategy == "auto" and expected > 1 else self.strategy
        try:
            return L.Trainer(devices=self.devices, num_nodes=self.num_nodes, strategy=strategy, **options)
        except (MisconfigurationException, RuntimeError) as error:
            raise ValueError(f"machines: {' '.join(str(error).split())}") from error


class Batches(Sampler[tuple[list[int], int]]):
    """Keys `(rows, seed)` of whole batches, a pure function of the seed and the epoch."""

    def __init__(self, num_rows: int, batch_size: int, seed: int, shuffle: bool):
        self.num_rows, self.batch_size, self.seed, self.shuffle = num_rows, batch_size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch, resumed ones included."""
        self.epoch = epoch if self.shuffle else 0

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        rows = torch.randperm(self.num_rows, generator=generator) if self.shuffle else torch.arange(self.num_rows)
        for batch in rows.split(self.batch_size):
            yield batch.tolist(), int(torch.randint(2**62, (), generator=generator))


def batches(dataset: Dataset[Episode], batch_size: int, seed: int, shuffle: bool) -> DataLoader[Episode]:
    """A loader of whole episodes from a dataset that is indexed by keys `(rows, seed)`."""
    keys = Batches(len(dataset), batch_size, seed, shuffle)  # type: ignore[arg-type]
    return DataLoader(dataset, sampler=keys, batch_size=None)


class OneStepForward(L.LightningModule):
    """One-step-forward training of a world model with Adam, the learning rate halved on plateaus.

    Each process is given the whole batch and takes its share of the rows.
    """

    def __init__(self, model: WorldModel, training: Training):
        super().__init__()
        self.model, self.training_options = model, training

    def loss(self, split: str, episode: Episode) -> torch.Tensor:
        """The loss of this process's rows, so weighted that its mean over processes is the whole batch's; logged.

        In validation its terms are logged too, where they are several.
        """
        size, processes = episode.views.batch_size, self.trainer.world_size
        recompute = self.training_options.recompute if self.training else None
        if processes == 1:
            terms = self.model.loss_terms(episode, recompute)
        else:
            rows = list(range(size))[self.trainer.global_rank :: processes]
            share = episode.rows(rows or [0])  # all must take part in each step, if with nothing
            of_share, whole = self.num_targets(share), self.num_targets(episode)
            terms = {
                name: term * (processes * of_share[name] * bool(rows)) / whole[name].clamp(min=1)
                for name, term in self.model.loss_terms(share, recompute).items()
            }
        loss = torch.stack([*terms.values()]).sum()
        logged = {f"{split}_loss": loss}
        if len(terms) > 1 and not self.training:
            logged |= {f"{split}_{name}": term for name, term in terms.items()}
        for name, value in logged.items():
            bar = value is loss
            self.log(name, value, on_step=False, on_epoch=True, prog_bar=bar, batch_size=size, sync_dist=True)
        return loss

    def num_targets(self, episode: Episode) -> dict[str, torch.Tensor]:
        """How many numbers one-step-forward training predicts, for each term of the loss."""
        targets, _ = episode.to_predict(1, None)
        return self.model.likelihood.counts(targets.values, targets.mask)

    def training_step(self, episode: Episode, batch_index: int) -> torch.Tensor:
        return self.loss("train", episode)

    def validation_step(self, episode: Episode, batch_index: int) -> None:
        self.loss("val", episode)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        schedule = self.lr_schedulers()
        schedule.step(self.trainer.callback_metrics["val_loss"])  # type: ignore[union-attr,call-arg,arg-type]
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)
        timer = next(callback for callback in self.trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
        self.log("minutes", timer.time_elapsed("train") / 60, sync_dist=True)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Nothing: Lightning would step after it has saved, so that a resumed run would miss a step."""

    def configure_optimizers(self) -> Any:
        options = self.training_options
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5, threshold=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Averaging(EMAWeightAveraging):
    """A running mean of the weights, which validation uses."""

    def model(self) -> WorldModel:
        """With these weights."""
        averaged: Any = self._average_model
        return averaged.module.model


class KeepBest(Callback):
    """Save the model, or the one with averaged weights, whenever the validation loss is the lowest yet."""

    def __init__(self, folder: Path, averaging: Averaging | None = None):
        self.folder, self.averaging, self.lowest = folder, averaging, float("inf")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if not trainer.sanity_checking and loss < self.lowest:
            self.lowest = loss
            if trainer.is_global_zero:
                model: Any = pl_module.model if self.averaging is None else self.averaging.model()
                model.save(self.folder)

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]


class StopBetweenBatches(Callback):
    """Let Ctrl-C end training after the batch at hand, not amid a write or in a library that swallows it.

    All processes end after the same batch. A second Ctrl-C ends training at once.
    """

    def __init__(self) -> None:
        self.stopped, self.before = False, signal.getsignal(signal.SIGINT)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if threading.current_thread() is threading.main_thread() and callable(self.before):
            signal.signal(signal.SIGINT, self._stop)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if threading.current_thread() is threading.main_thread() and callable(self.before):
            signal.signal(signal.SIGINT, self.before)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopped = True
        signal.signal(signal.SIGINT, self.before)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stopped, all=False):
            raise SystemExit  # at a KeyboardInterrupt Lightning would kill the other processes

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.on_train_batch_end(trainer)


class EpochLines(Callback):
    """A line an epoch, where no terminal can show a progress bar."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not trainer.is_global_zero:
            return
        print(
            f"epoch {trainer.current_epoch}: validation loss {now['val_loss']:.4f}, {now['minutes']:.1f} minutes",
            file=sys.stderr,
            flush=True,
        )


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are on the disk whole or not at all (Lightning's own are moved from another folder)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())


def keep_freed_memory() -> None:
    """Let the allocator keep what is freed, for the next update to use; on Linux, with the GNU C library.

    By default it gives large blocks back to the system each time, and taking them again costs time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for trim_threshold_and_mmap_threshold in (-1, -3):
        mallopt(trim_threshold_and_mmap_threshold, 2**31 - 1)


def fit(
    model: WorldModel,
    train: DataLoader[Episode],
    validation: DataLoader[Episode],
    folder: str | Path,
    training: Training | None = None,
    *,
    machines: Machines | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train a model and leave its best weights in `folder/model`.

    `folder/checkpoints/last.ckpt` holds all that going on needs; `folder/logs` holds CSV and TensorBoard logs. A run
    that was killed and is resumed ends, on the CPU, bit for bit as one that was not, unless a wall-clock budget
    ended it.

    On several machines or devices each process gets the whole batches, the same ones, and takes its share of the rows.

    Args:
        model: trained in place; it ends with the last weights, not the best.
        train: whole training episodes, as from `batches`.
        validation: whole validation episodes.
        folder: where the run is kept; all machines must share it.
        training: how to train.
        machines: on what to train. Default: this one, one device.
        resume: go on from the last checkpoint.
        progress: show a progress bar, or a line an epoch where there is no terminal.

    Returns:
        `val_loss` (the lowest), `epochs`, `updates`, `minutes`.

    Raises:
        ValueError: nothing to resume, a checkpoint that training did not write, or machines that are not there.
    """
    keep_freed_memory()
    training = training or Training()
    folder = Path(folder)
    checkpoint = folder / LAST
    if resume and not checkpoint.is_file():
        raise ValueError(f"fit: nothing to resume, found no {checkpoint}; the run ended before its first epoch did")
    if resume:
        try:
            with warnings.catch_warnings(action="ignore"):
                torch.load(checkpoint, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise ValueError(
                f"fit: {checkpoint} is not a checkpoint that training wrote, and is not opened; start a new run"
            ) from error
    if training.unit_variance and not resume:
        unit_variance(model, next(iter(train)))
    averaging = Averaging(decay=training.average, use_buffers=False) if training.average else None
    best = KeepBest(folder / MODEL, averaging)
    timer = Timer(duration=timedelta(minutes=training.minutes) if training.minutes else None)
    callbacks: list[Callback] = [
        timer,
        best,
        StopBetweenBatches(),
        EarlyStopping("val_loss", patience=training.patience),
        ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
    ]
    if averaging:
        callbacks.append(averaging)
    terminal = sys.stdout.isatty()
    if progress and not terminal:
        callbacks.append(EpochLines())
    logs = CSVLogger(folder, "logs")
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*", ".*exists and is not empty.*", ".*treespec, LeafSpec.*",
            "Grad strides do not match bucket view strides",
        ):  # fmt: skip
            warnings.filterwarnings("ignore", message)
        trainer = (machines or Machines()).trainer(
            max_epochs=training.epochs or 100,
            callbacks=callbacks,
            logger=[logs, TensorBoardLogger(folder, "logs", version=f"version_{logs.version}")],
            plugins=[WholeFiles()],
            gradient_clip_val=training.gradient_norm,
            precision=training.precision,
            deterministic="warn",  # some GPU kernels have no deterministic form; all CPU ones do
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            enable_progress_bar=progress and terminal,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        lesson, start = OneStepForward(model, training), checkpoint if resume else None
        try:
            trainer.fit(lesson, train, validation, ckpt_path=start, weights_only=True)
        except SystemExit as stopped:
            # Ctrl-C, ours or Lightning's way. The first process tells; the others leave quietly.
            if not trainer.is_global_zero:
                raise SystemExit from stopped
            raise KeyboardInterrupt from stopped
        except Exception:
            # Processes that this one started wait for it; Lightning ends them at Ctrl-C only.
            if trainer.strategy.launcher is not None:
                trainer.strategy.launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
            raise
        finally:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    return {
        "val_loss": best.lowest,
        "epochs": trainer.current_epoch,
        "updates": trainer.global_step,
        "minutes": timer.time_elapsed("train") / 60,
    }


def history(folder: str | Path) -> list[dict[str, float]]:
    """What was logged after each epoch, over all sessions of a run; an epoch that was run twice counts once."""
    epochs: dict[int, dict[str, float]] = {}
    versions = sorted((Path(folder) / "logs").glob("version_*/metrics.csv"), key=lambda path: int(path.parts[-2][8:]))
    for path in versions:
        with path.open() as file:
            for line in csv.DictReader(file):
                epoch = epochs.setdefault(int(line["epoch"]), {})
                epoch.update({name: float(value) for name, value in line.items() if name and value})
    return [epochs[number] for number in sorted(epochs)]


def provenance() -> dict[str, Any]:
    """Where a number comes from: command, commit, machine, versions."""
    project, commit = Path(__file__).parents[3], ""
    if (project / ".git").exists() and shutil.which("git"):

        def git(*arguments: str) -> str:
            return subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True).stdout.strip()

        # Results that one run writes do not change what the next one runs.
        code = ("src/*.py", "experiments", "benchmarks", "constraints.txt")
        commit = git("describe", "--always") + ("-dirty" if git("status", "--porcelain", "--", *code) else "")
    # What a record keeps is the command, not where on a machine it wrote.
    arguments = [Path(part).name if os.path.isabs(part) else part for part in sys.argv[1:]]
    return {
        "command": " ".join(["s2rm" if sys.argv[0].endswith("s2rm") else Path(sys.argv[0]).name, *arguments]),
        "commit": commit or "not in a git checkout",
        "hardware": f"{cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
    }


def cpu_name() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()
