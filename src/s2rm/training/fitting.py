"""Training any model with Lightning: resumable, within a budget, with the best weights saved."""

from __future__ import annotations

import math
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, cast

import lightning as L
import torch
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from s2rm.likelihoods import Mean
from s2rm.models.model import B, Model
from s2rm.nn.noise import share_rows
from s2rm.training.callbacks import (
    Averaging,
    KeepBest,
    RefuseDiverged,
    StayStopped,
    StopAfterUpdates,
    StopBetweenBatches,
)  # fmt: skip
from s2rm.training.captured import Captured
from s2rm.training.checkpoints import NOISE, OPTIONS, WholeFiles, limits, no_checkpoint, resumable
from s2rm.training.precision import settled
from s2rm.training.processor import flush_denormals, keep_freed_memory
from s2rm.training.progress import ShowProgress
from s2rm.training.records import Ended, forget_history
from s2rm.training.settings import MODEL, Machines, Training, is_first_process
from s2rm.training.start import training_mode, unit_variance

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

LEAST_FALL = 1e-4
"""the share of its size by which a validation loss must fall so that the learning rate is not halved"""


class Lesson(L.LightningModule, Generic[B]):
    """Training of a model with Adam, the learning rate halved on plateaus, or falling along a
    cosine where the number of updates is given.

    Each process receives the whole batch and takes its share of the rows.
    """

    def __init__(self, model: Model[B], training: Training):
        super().__init__()
        self.model, self.training_options = model, training
        self.captured: Captured[B] | None = None
        self.trained = torch.zeros(())
        """how many values were predicted since this start of training, at least 1 if graphs are captured, which do not
        count"""
        self.validated: dict[str, Mean] = {}
        """the terms of the loss of this process's rows, over all batches of this validation"""

    def loss(self, batch: B) -> torch.Tensor:
        """The loss on this process's rows, weighted so that its mean over processes is the loss of the whole batch."""
        terms = self._terms(batch)
        self.trained += sum(mean.count.float() for mean in terms.values())
        loss = torch.stack([self._value(mean) for mean in terms.values()]).sum()
        self._log_train_loss(loss, batch)
        return loss

    def _log_train_loss(self, loss: torch.Tensor, batch: B) -> None:
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=batch.batch_size, sync_dist=True
        )

    def _terms(self, batch: B) -> dict[str, Mean]:
        """The loss terms of this process's share of the rows."""
        recompute = self.training_options.recompute if self.training else None
        if self.trainer.world_size == 1:
            return self.model.loss_terms(batch, recompute)
        rows = list(range(batch.batch_size))[self.trainer.global_rank :: self.trainer.world_size]
        share_rows(self.model, (rows or [0], batch.batch_size))  # until the next batch: a backward pass may draw again
        # Without a row of its own a process still takes part in each step, with a row in which nothing counts.
        terms = self.model.loss_terms(batch.rows(rows) if rows else batch.rows([0]).unseen(), recompute)
        return terms if rows else {name: Mean(0 * mean.total, 0 * mean.count) for name, mean in terms.items()}

    def _value(self, mean: Mean) -> torch.Tensor:
        """This process's part of a mean over all processes, times their number, since their mean is taken."""
        processes = self.trainer.world_size
        if processes == 1:
            return mean.value
        # A copy, since it is summed in place, and terms may share their count.
        count = self.trainer.strategy.reduce(mean.count.clone(), reduce_op="sum")
        return Mean(mean.total * processes, count).value

    def on_fit_start(self) -> None:
        flush_denormals()  # here too, for processes that Lightning started
        alone, keeps_all = self.trainer.world_size == 1, self.training_options.recompute is None
        self.captured = Captured(self.model) if self.device.type == "cuda" and alone and keeps_all else None
        # The first epoch logs its training loss last, after a checkpoint. For a new column the logger would write its
        # file anew, in place, and a kill would lose what is in it.
        for logger in self.trainer.loggers:
            if isinstance(logger, CSVLogger) and self.trainer.is_global_zero:
                logger.experiment.metrics_keys.append("train_loss")

    def on_train_start(self) -> None:
        self.trained = torch.full((), float(self.captured is not None), device=self.device)

    def on_train_batch_start(self, batch: B, batch_index: int) -> None:
        if self.training_options.updates:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.training_options.rate_at(self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[OPTIONS], checkpoint[NOISE] = asdict(self.training_options), torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        torch.set_rng_state(checkpoint[NOISE])

    def training_step(self, batch: B, batch_index: int) -> torch.Tensor:
        if self.captured is None:
            return self.loss(batch)
        loss = self.captured.loss(batch)
        self._log_train_loss(loss, batch)
        return loss

    def validation_step(self, batch: B, batch_index: int) -> None:
        # Added up over all batches: a mean of their means would depend on how the targets fall into batches.
        for name, mean in self._terms(batch).items():
            self.validated[name] = mean + self.validated[name] if name in self.validated else mean

    def on_validation_epoch_start(self) -> None:
        self.validated = {}

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        summed = partial(self.trainer.strategy.reduce, reduce_op="sum")
        whole = {name: Mean(summed(mean.total.clone()), summed(mean.count.clone()))
                 for name, mean in self.validated.items()}  # fmt: skip
        trained = summed(self.trained.clone())
        # A validation follows a training step, since a run that has reached its limits is not validated again.
        for part, predicted in (("training", trained), ("validation", sum(mean.count for mean in whole.values()))):
            if not predicted:
                raise ValueError(
                    f"fit: expected something to predict in the {part}, got no target after a first step; give "
                    "sequences of two steps or more in which something is seen"
                )
        values = {f"val_{name}": mean.value.float() for name, mean in whole.items()}
        loss = torch.stack([*values.values()]).sum()
        self.log("val_loss", loss, prog_bar=True, sync_dist=True)
        if len(values) > 1:
            self.log_dict(values, sync_dist=True)
        schedule = cast("torch.optim.lr_scheduler.ReduceLROnPlateau", self.lr_schedulers())
        if not self.training_options.updates:
            # Its own relative threshold would take a rise for a fall where losses are below 0.
            schedule.threshold_mode = "abs"
            schedule.threshold = LEAST_FALL * abs(schedule.best) if math.isfinite(schedule.best) else 0.0
            schedule.step(loss)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], sync_dist=True)
        timer = next(callback for callback in self.trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
        self.log("minutes", timer.time_elapsed("train") / 60, sync_dist=True)

    def lr_scheduler_step(self, scheduler: object, metric: object) -> None:
        """Nothing: Lightning would step after saving, so that a resumed run would miss a step."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        options = self.training_options
        parameters, rate = self.model.parameters(), options.learning_rate
        fused = self.device.type == "cuda"  # one kernel; on the CPU it would round differently
        optimizer = torch.optim.AdamW(
            parameters, rate, (0.9, options.beta2), weight_decay=options.weight_decay, fused=fused or None
        )
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


def fit(
    model: Model[B], train: DataLoader[B], validation: DataLoader[B], folder: str | Path,
    training: Training | None = None, *, machines: Machines | None = None, resume: bool = False, progress: bool = True,
) -> Ended:  # fmt: skip
    """Train a model and save its best weights to `folder/model`, in place of those of an earlier run there.

    `folder/checkpoints/last.ckpt` contains everything needed to resume; `folder/logs` contains CSV and TensorBoard
    logs. On the CPU an interrupted and resumed run ends bit for bit like an uninterrupted one, unless a wall-clock
    budget ends it.

    With several machines or devices each process receives the same whole batches and takes its share of the rows.

    Args:
        model: trained in place, in training mode; afterwards it has the last weights, or their average, not the best,
            and is in the mode in which it was.
        train, validation: whole batches, as from `batches`.
        folder: folder of the run, which all machines must share.
        training: how to train.
        machines: what to train on. Default: one device of this machine.
        resume: continue from the last checkpoint. Only the limits in `training` (updates, epochs and minutes) may
            differ from those of the run.
        progress: show a progress bar, or a line at each validation without a terminal.

    Raises:
        ValueError: no episode to train or validate on, or nothing to predict in all of them; a model that cannot be
            saved; no checkpoint to resume from, one that training did not write, or options other than those of the
            run; machines that do not exist; minutes that end before the first validation.
        Diverged: a subclass of ValueError; the validation loss is not finite. The best weights so far are kept.
    """
    keep_freed_memory()
    training, folder = training or Training(), Path(folder)
    for name, loader in (("train", train), ("validation", validation)):
        if sized_len(loader) == 0:
            raise ValueError(f"fit: {name} holds no episode; give at least one")
    model.weights()  # what could not be saved is refused now
    machines, checkpoint = machines or Machines(), None
    if resume:
        checkpoint, before = resumable(folder, model, training)
    if not resume and is_first_process():
        forget_history(folder)
    if training.unit_variance and not resume:
        unit_variance(model, next(iter(train)))
    if training.precision == "auto":
        if resume:
            training = replace(training, precision=before.precision)
        elif machines.devices * machines.num_nodes > 1:  # they would have to agree
            training = replace(training, precision="32-true")
        else:
            training = settled(training, model, train, progress)
    averaging = Averaging(decay=training.average, use_buffers=False) if training.average else None
    best = KeepBest(folder / MODEL, averaging)
    timer = Timer(duration=timedelta(minutes=training.minutes) if training.minutes else None)
    stop = EarlyStopping("val_loss", patience=training.patience, check_finite=False)
    keep = ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)
    diverging = RefuseDiverged(best, timer)
    callbacks = [timer, diverging, best, StopBetweenBatches(), stop, keep, *([averaging] if averaging else [])]
    if training.updates:
        callbacks.append(StopAfterUpdates(training.updates))
    if not resume or limits(training) == limits(before):  # with others it has been given more time
        callbacks.append(StayStopped(stop))
    if progress:
        callbacks.append(ShowProgress(training, timer, sys.stdout.isatty()))
    with _without_warnings(), training_mode(model):
        trainer = _trainer(folder, training, machines, callbacks)
        try:
            _run(trainer, lesson := Lesson(model, training), train, validation, checkpoint)
        except (KeyError, TypeError, RuntimeError, AttributeError, IndexError, ValueError) as error:
            if checkpoint is None or diverging.started:
                raise
            raise no_checkpoint(checkpoint) from error
    if averaging:  # Lightning leaves it out where a run that is resumed had ended
        averaging.on_train_end(trainer, lesson)
    if not math.isfinite(best.lowest):
        raise ValueError("fit: training ended before its first validation, so no weights were kept; take more minutes")
    # Of a run that had reached its limits, Lightning's `current_epoch` lacks the last epoch.
    epochs = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    updates, minutes = trainer.global_step, timer.time_elapsed("train") / 60
    return {
        "val_loss": best.lowest, "epochs": epochs, "updates": updates, "minutes": minutes,
        "precision": str(trainer.precision),
    }  # fmt: skip


def _trainer(folder: Path, training: Training, machines: Machines, callbacks: list[Callback]) -> L.Trainer:
    logs = CSVLogger(folder, "logs")
    # Some GPU kernels have no deterministic form, of which "warn" warns; all CPU ones do.
    return machines.trainer(
        max_epochs=training.max_epochs, gradient_clip_val=training.gradient_norm, precision=training.precision,
        callbacks=callbacks,
        logger=[logs, TensorBoardLogger(folder, "logs", version=f"version_{logs.version}")],
        plugins=[WholeFiles()], deterministic="warn", num_sanity_val_steps=0, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip


def _run(
    trainer: L.Trainer, lesson: Lesson[B], train: DataLoader[B], validation: DataLoader[B],
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
        share_rows(lesson.model, None)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without Lightning's and PyTorch's warnings about choices that are deliberate here."""
    with warnings.catch_warnings():
        for message in (
            ".*does not have many workers.*", ".*exists and is not empty.*", ".*dirpath has changed.*",
            ".*treespec, LeafSpec.*", "Grad strides do not match bucket view strides",
        ):  # fmt: skip
            warnings.filterwarnings("ignore", message)
        yield
