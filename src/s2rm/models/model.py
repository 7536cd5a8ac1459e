"""What every model has that `fit` trains: terms of a loss, and weights that are saved beside what builds it again."""

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
    """What a model learns from: an [`Episode`][s2rm.views.Episode], or [`Sequences`][s2rm.sequences.Sequences]."""

    @property
    def batch_size(self) -> int: ...
    def rows(self, rows: list[int]) -> Any: ...
    def unseen(self) -> Any: ...  # the same batch, in which nothing counts


B = TypeVar("B", bound=Batch)


class Model(nn.Module, ABC, Generic[B]):
    """A model that `fit` trains on batches, from an `encoder` through a recurrent part to a `decoder`."""

    @property
    @abstractmethod
    def arguments(self) -> dict[str, object]:
        """The keyword arguments that build this model again, with their defaults."""

    @property
    @abstractmethod
    def setting(self) -> str:
        """How the model is set up, in words for a report."""

    @abstractmethod
    def loss_terms(self, batch: B, recompute: int | None = None) -> dict[str, Mean]:
        """The terms of the loss by name, each as a [`Mean`][s2rm.likelihoods.Mean]; arguments and errors as of `loss`.

        The loss is the sum of their values. The terms of parts of a batch add up to those of the whole.
        """

    def loss(self, batch: B, recompute: int | None = None) -> Tensor:
        """The negative log-likelihood of the batch's targets, in nats: the sum of the means of `loss_terms`.

        Args:
            batch: inputs and targets, of several sequences.
            recompute: trade time for memory on long sequences: keep the states after every so many steps only, and
                compute those between again in the backward pass.

        Raises:
            ValueError: `recompute` below 1, or a batch that does not fit.
        """
        return torch.stack([mean.value for mean in self.loss_terms(batch, recompute).values()]).sum()

    def forward(self, batch: B, recompute: int | None = None) -> Tensor:
        """The loss; arguments and errors as of `loss`. Hooks, `torch.func.functional_call` and
        `DistributedDataParallel` wrap this call."""
        return self.loss(batch, recompute)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reinitialise all weights, in place. With the same seed they are those of a new model."""
        new = cast(Any, type(self))(**self.arguments)
        for mine, drawn in ((self.parameters(), new.parameters()), (self.buffers(), new.buffers())):
            for old, value in zip(mine, drawn, strict=True):
                old.copy_(value)

    @property
    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, folder: str | Path) -> None:
        """Write the weights (safetensors) and the constructor's arguments (JSON) into a folder, each file whole.

        The weights' file holds the arguments too, so that `load` never takes weights of one model for another's.
        """
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        content = safetensors.torch.save(weights, {ARGUMENTS: json.dumps(self.arguments)})
        write_whole(Path(folder) / WEIGHTS, content)
        config = {"format": FORMAT, "model": type(self).__name__, "arguments": self.arguments}
        write_json(Path(folder) / CONFIG, config)
