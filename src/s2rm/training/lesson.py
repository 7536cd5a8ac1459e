"""One-step-forward training as a Lightning module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer

from s2rm.likelihoods import Mean
from s2rm.models.world_model import WorldModel
from s2rm.training.settings import Training
from s2rm.views import Episode

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


class OneStepForward(L.LightningModule):
    """One-step-forward training of a world model with Adam, the learning rate halved on plateaus.

    Each process receives the whole batch and takes its share of the rows.
    """

    def __init__(self, model: WorldModel, training: Training):
        super().__init__()
        self.model, self.training_options = model, training

    def loss(self, split: str, episode: Episode) -> torch.Tensor:
        """The loss on this process's rows, weighted such that its mean over processes is the loss of the whole batch.

        It is logged; in validation its terms are logged as well, where there are several.
        """
        values = {name: self._value(mean) for name, mean in self._terms(episode).items()}
        loss = torch.stack([*values.values()]).sum()
        logged = {f"{split}_loss": loss}
        if len(values) > 1 and not self.training:
            logged |= {f"{split}_{name}": value for name, value in values.items()}
        for name, value in logged.items():
            self.log(
                name, value, on_step=False, on_epoch=True, prog_bar=value is loss,
                batch_size=episode.views.batch_size, sync_dist=True,
            )  # fmt: skip
        return loss

    def _terms(self, episode: Episode) -> dict[str, Mean]:
        """The loss terms of this process's share of the rows."""
        recompute = self.training_options.recompute if self.training else None
        if self.trainer.world_size == 1:
            return self.model.loss_terms(episode, recompute)
        rows = list(range(episode.views.batch_size))[self.trainer.global_rank :: self.trainer.world_size]
        # Without a row of its own a process still takes part in each step, with a row that counts nothing.
        terms = self.model.loss_terms(episode.rows(rows or [0]), recompute)
        return terms if rows else {name: Mean(0 * mean.total, 0 * mean.count) for name, mean in terms.items()}

    def _value(self, mean: Mean) -> torch.Tensor:
        """This process's part of a mean over all processes, times their number, since their mean is taken."""
        processes = self.trainer.world_size
        if processes == 1:
            return mean.value
        count = self.trainer.strategy.reduce(mean.count, reduce_op="sum")
        return Mean(mean.total * processes, count).value

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

    def lr_scheduler_step(self, scheduler: object, metric: object) -> None:
        """Nothing: Lightning would step after saving, so that a resumed run would miss a step."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        options = self.training_options
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5, threshold=1e-4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}
