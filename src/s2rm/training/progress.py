"""How far training is, and how long it will take."""

from __future__ import annotations

import sys
import time

import lightning as L
from lightning.pytorch.callbacks import Callback, Timer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from s2rm.training.settings import Training


class ShowProgress(Callback):
    """How far training is and how long it will take: a bar on a terminal, elsewhere a line at each validation.

    Args:
        training: with the limits of the run.
        timer: counts the minutes of all sessions.
        terminal: whether to show a bar.
    """

    TRIAL = 20
    """updates after which lines say how long it will take"""

    def __init__(self, training: Training, timer: Timer, terminal: bool):
        self.training, self.timer = training, timer
        self.begun, self.share_before, self.updates_before = 0.0, 0.0, 0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
            TextColumn("left"), console=Console(stderr=True), transient=True,
        ) if terminal else None  # fmt: skip

    def share(self, trainer: L.Trainer) -> float:
        """The part of training that is done, by the limit that will be reached first."""
        limits = self.training
        parts = [0.0]
        if limits.updates:
            parts.append(trainer.global_step / limits.updates)
        if limits.minutes:
            parts.append(self.timer.time_elapsed("train") / 60 / limits.minutes)
        if limits.max_epochs > 0:
            parts.append(trainer.global_step / (limits.max_epochs * trainer.num_training_batches))
        return min(1.0, max(parts))

    def minutes_left(self, trainer: L.Trainer) -> float:
        """As long as training has taken in this session, scaled to what is left."""
        share, elapsed = self.share(trainer), time.monotonic() - self.begun
        return elapsed / 60 * (1 - share) / max(share - self.share_before, 1e-9)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.begun, self.updates_before = time.monotonic(), trainer.global_step
        self.share_before = self.share(trainer)
        if self.bar is not None and trainer.is_global_zero:
            self.bar.add_task("training", total=1.0)
            self.bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if not trainer.is_global_zero:
            return
        if self.bar is not None:
            loss = trainer.callback_metrics.get("val_loss")
            known = "" if loss is None else f", validation loss {float(loss):.4f}"
            description = f"{trainer.global_step:,} updates{known}"
            self.bar.update(self.bar.task_ids[0], description=description, completed=self.share(trainer))
        elif trainer.global_step - self.updates_before == self.TRIAL:
            self._print(f"about {self.minutes_left(trainer):.1f} minutes of training")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is None and trainer.is_global_zero:
            now = {name: float(value) for name, value in trainer.callback_metrics.items()}
            left = "" if trainer.should_stop else f", about {self.minutes_left(trainer):.1f} left"
            self._print(
                f"epoch {trainer.current_epoch}: {trainer.global_step:,} updates, validation loss "
                f"{now['val_loss']:.4f}, {now['minutes']:.1f} minutes{left}"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
