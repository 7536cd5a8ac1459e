"""Training any world model with Lightning: resumable, within a wall-clock budget, with the best weights saved."""

from __future__ import annotations

import ctypes
import pickle
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from s2rm.models.world_model import WorldModel
from s2rm.training.callbacks import Averaging, EpochLines, KeepBest, StopBetweenBatches, WholeFiles
from s2rm.training.lesson import OneStepForward
from s2rm.training.records import Ended
from s2rm.training.settings import LAST, MODEL, Machines, Training
from s2rm.training.start import unit_variance
from s2rm.views import Episode


def fit(
    model: WorldModel, train: DataLoader[Episode], validation: DataLoader[Episode], folder: str | Path,
    training: Training | None = None, *, machines: Machines | None = None, resume: bool = False, progress: bool = True,
) -> Ended:  # fmt: skip
    """Train a model and leave its best weights in `folder/model`.

    `folder/checkpoints/last.ckpt` holds everything needed to resume; `folder/logs` holds CSV and TensorBoard logs. On
    the CPU a run that was killed and resumed ends bit for bit as an uninterrupted one, unless a wall-clock budget
    ended it.

    On several machines or devices each process receives the same whole batches and takes its share of the rows.

    Args:
        model: trained in place; it ends with the last weights, not the best.
        train, validation: episodes in whole batches, as from `batches`.
        folder: folder of the run, which all machines must share.
        training: how to train.
        machines: what to train on. Default: one device of this machine.
        resume: continue from the last checkpoint.
        progress: show a progress bar, or a line an epoch where there is no terminal.

    Raises:
        ValueError: no checkpoint to resume from, one that training did not write, or machines that do not exist.
    """
    keep_freed_memory()
    training, folder = training or Training(), Path(folder)
    checkpoint = _checkpoint(folder) if resume else None
    if training.unit_variance and not resume:
        unit_variance(model, next(iter(train)))
    averaging = Averaging(decay=training.average, use_buffers=False) if training.average else None
    best = KeepBest(folder / MODEL, averaging)
    timer = Timer(duration=timedelta(minutes=training.minutes) if training.minutes else None)
    callbacks = [
        timer,
        best,
        StopBetweenBatches(),
        EarlyStopping("val_loss", patience=training.patience),
        ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False),
        *([averaging] if averaging else []),
    ]
    with _without_warnings():
        trainer = _trainer(folder, training, machines or Machines(), callbacks, progress)
        _run(trainer, OneStepForward(model, training), train, validation, checkpoint)
    return {
        "val_loss": best.lowest,
        "epochs": trainer.current_epoch,
        "updates": trainer.global_step,
        "minutes": timer.time_elapsed("train") / 60,
    }


def _checkpoint(folder: Path) -> Path:
    """The last checkpoint of a run, which can be read without unpickling."""
    path = folder / LAST
    if not path.is_file():
        raise ValueError(f"fit: nothing to resume, found no {path}; the run ended before its first epoch did")
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f"fit: {path} is not a checkpoint that training wrote, and is not opened; start a new run"
        ) from error
    return path


def _trainer(
    folder: Path, training: Training, machines: Machines, callbacks: list[Callback], progress: bool
) -> L.Trainer:
    terminal, logs = sys.stdout.isatty(), CSVLogger(folder, "logs")
    return machines.trainer(
        max_epochs=training.epochs or 100,
        callbacks=[*callbacks, *([EpochLines()] if progress and not terminal else [])],
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


def _run(
    trainer: L.Trainer, lesson: OneStepForward, train: DataLoader[Episode], validation: DataLoader[Episode],
    checkpoint: Path | None,
) -> None:  # fmt: skip
    """Train to the end, and leave no process behind, whatever ends it."""
    try:
        trainer.fit(lesson, train, validation, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stopped:
        # Ctrl-C, by `StopBetweenBatches` or by Lightning. The first process reports it, the others end silently.
        if not trainer.is_global_zero:
            raise SystemExit from stopped
        raise KeyboardInterrupt from stopped
    except Exception:
        # The processes that this one started would wait for it; Lightning ends them at Ctrl-C only.
        if trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))
        raise
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without Lightning's and PyTorch's warnings about choices that are deliberate here."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*", ".*exists and is not empty.*", ".*treespec, LeafSpec.*",
            "Grad strides do not match bucket view strides",
        ):  # fmt: skip
            warnings.filterwarnings("ignore", message)
        yield


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory for the next update; on Linux, with the GNU C library.

    By default it returns large blocks to the system each time, and requesting them again costs time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for trim_threshold_and_mmap_threshold in (-1, -3):
        mallopt(trim_threshold_and_mmap_threshold, 2**31 - 1)
