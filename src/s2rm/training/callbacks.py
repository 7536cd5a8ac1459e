"""Lightning callbacks of a run. Checkpoints know callbacks by the names of their classes."""

from __future__ import annotations

import math
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import cast

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, Timer

from s2rm.models.model import Model
from s2rm.training.records import Ended


class Averaging(EMAWeightAveraging):
    """An exponential moving average of the weights, which is validated and saved."""

    def model(self) -> Model:
        """The model with the averaged weights."""
        assert self._average_model is not None
        return cast(Model, self._average_model.module.model)


class KeepBest(Callback):
    """Save the model, or the one with averaged weights, at each new minimum of the validation loss."""

    def __init__(self, folder: Path, averaging: Averaging | None = None):
        self.folder, self.averaging, self.lowest = folder, averaging, float("inf")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = float(trainer.callback_metrics["val_loss"])
        if not trainer.sanity_checking and loss < self.lowest:
            self.lowest = loss
            if trainer.is_global_zero:
                model = cast(Model, pl_module.model) if self.averaging is None else self.averaging.model()
                model.save(self.folder)

    def state_dict(self) -> dict[str, float]:
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.lowest = state_dict["lowest"]


class Diverged(ValueError):
    """Training whose validation loss is no longer finite.

    Args:
        message: one line.
        ended: how training ended at the best epoch before; None where there was none.
    """

    def __init__(self, message: str, ended: Ended | None = None):
        super().__init__(message)
        self.ended = ended


class RefuseDiverged(Callback):
    """End training with an error where the validation loss is not finite; the last checkpoint and the best weights
    stay as they were before."""

    def __init__(self, best: KeepBest, timer: Timer):
        self.best, self.timer, self.started = best, timer, False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss, epoch, lowest = float(trainer.callback_metrics["val_loss"]), trainer.current_epoch, self.best.lowest
        if trainer.sanity_checking or math.isfinite(loss):
            return
        ended, kept = None, "no weights were kept"
        if math.isfinite(lowest):
            kept = f"the best weights before, of validation loss {lowest:.4f}, are kept in {self.best.folder}"
            minutes = self.timer.time_elapsed("train") / 60
            ended = Ended(
                val_loss=lowest, epochs=epoch, updates=trainer.global_step, minutes=minutes,
                precision=str(trainer.precision),
            )  # fmt: skip
        raise Diverged(
            f"fit: training diverged, the validation loss of epoch {epoch} is {loss}; {kept}; train again with a lower "
            "learning_rate, with a gradient_norm such as 1, or on data without outliers",
            ended,
        )


class StopBetweenBatches(Callback):
    """End training after the current batch at Ctrl-C, not amid a write or in a library that swallows the exception.

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

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        signal.signal(signal.SIGINT, self.before)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.strategy.reduce_boolean_decision(self.stopped, all=False):
            raise SystemExit  # at a KeyboardInterrupt Lightning would kill the other processes

    def on_validation_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.on_train_batch_end(trainer)


class StayStopped(Callback):
    """A run that ended by its patience makes no more updates when it is resumed: Lightning restores the count of
    validations without a gain, but not that it was enough."""

    def __init__(self, stop: EarlyStopping):
        self.stop = stop

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.stop.wait_count >= self.stop.patience


class StopAfterUpdates(Callback):
    """End training after a number of updates, with a last validation."""

    def __init__(self, updates: int):
        self.updates, self.done = updates, 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.done >= self.updates  # of a run that is resumed

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.done = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.done >= self.updates

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.done = state_dict["done"]
