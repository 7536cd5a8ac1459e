"""The interface of every model that `fit` trains: the terms of its loss, saving, and loading."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn

from s2rm.files import write_json, write_whole
from s2rm.likelihoods import Mean

FORMAT = 2
"""2: the scaffold normalises its sum, and every model says how positions enter it"""
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
"""the files of a saved model"""
ARGUMENTS = "arguments"
"""what the metadata of the weights' file calls the arguments of their model"""


@runtime_checkable
class Batch(Protocol):
    """A training batch: an [`Episode`][s2rm.views.Episode] or [`Sequences`][s2rm.sequences.Sequences]."""

    @property
    def batch_size(self) -> int: ...
    def rows(self, rows: list[int]) -> Any: ...
    def unseen(self) -> Any: ...  # the same batch, in which nothing counts


B = TypeVar("B", bound=Batch)


class Model(nn.Module, ABC, Generic[B]):
    """A model that `fit` trains on batches, with an `encoder`, a recurrent part and a `decoder`."""

    @property
    @abstractmethod
    def arguments(self) -> dict[str, object]:
        """The keyword arguments that rebuild this model, including defaults."""

    @property
    @abstractmethod
    def setting(self) -> str:
        """How the model is set up, in words for a report."""

    @abstractmethod
    def loss_terms(self, batch: B, recompute: int | None = None) -> dict[str, Mean]:
        """The terms of the loss by name, each a [`Mean`][s2rm.likelihoods.Mean]; arguments and errors as for `loss`.

        The loss is the sum of their values. The terms of parts of a batch add up to those of the whole batch.
        """

    def loss(self, batch: B, recompute: int | None = None) -> Tensor:
        """The negative log-likelihood of the batch's targets, in nats: the sum of the means of `loss_terms`.

        Args:
            batch: inputs and targets, of several sequences.
            recompute: trade time for memory on long sequences: keep only the state of every `recompute`-th step, and
                recompute the others in the backward pass.

        Raises:
            ValueError: `recompute` below 1, or a batch that does not fit the model.
        """
        return torch.stack([mean.value for mean in self.loss_terms(batch, recompute).values()]).sum()

    def forward(self, batch: B, recompute: int | None = None) -> Tensor:
        """The loss; arguments and errors as for `loss`. Hooks, `torch.func.functional_call` and
        `DistributedDataParallel` wrap this call."""
        return self.loss(batch, recompute)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reinitialise all weights in place. With the same seed they equal those of a new model."""
        new = cast(Any, type(self))(**self.arguments)
        for mine, drawn in ((self.parameters(), new.parameters()), (self.buffers(), new.buffers())):
            for old, value in zip(mine, drawn, strict=True):
                old.copy_(value)

    @property
    def num_parameters(self) -> int:
        """Number of trainable values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, folder: str | Path) -> None:
        """Write the weights (safetensors) and the constructor's arguments (JSON) to a folder, each file atomically.

        The weights' file contains the arguments too, so that `load` never mixes up the weights of different models.
        """
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        content = safetensors.torch.save(weights, {ARGUMENTS: json.dumps(self.arguments)})
        write_whole(Path(folder) / WEIGHTS, content)
        config = {"format": FORMAT, "model": type(self).__name__, "arguments": self.arguments}
        write_json(Path(folder) / CONFIG, config)
