"""The interface of every model that `fit` trains: the terms of its loss, saving, and loading."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from s2rm.files import write_json, write_whole
from s2rm.likelihoods import Mean

FORMAT = 2
"""2: the scaffold normalises its sum, and every model says how positions enter it"""
WEIGHTS, CONFIG = "weights.safetensors", "config.json"
"""the files of a saved model"""
ARGUMENTS = "arguments"
"""what the metadata of the weights' file calls the arguments of their model"""
DRAWS = {Tensor.uniform_, Tensor.normal_, Tensor.copy_, init.uniform_, init.kaiming_uniform_}
"""what gives new weights their values"""


@runtime_checkable
class Batch(Protocol):
    """A training batch: an [`Episode`][s2rm.views.Episode] or [`Sequences`][s2rm.sequences.Sequences]."""

    @property
    def batch_size(self) -> int: ...
    def rows(self, rows: list[int]) -> Any: ...
    def unseen(self) -> Any: ...  # the same batch, in which nothing counts


B = TypeVar("B", bound=Batch)


class _Undrawn(TorchFunctionMode):
    """Weights are not drawn, which on the meta device takes most of the time."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """A context in which new models are on the meta device, where their weights have shapes but take no memory."""
    with torch.device("meta"), _Undrawn():
        yield


def _found(module: nn.Module, name: str) -> object:
    """The attribute of a name with dots; None where there is none."""
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


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
        """Reinitialise all weights in place. With the same seed they equal those of a new model.

        Raises:
            ValueError: parametrized weights, or those that hooks make of others.
        """
        new = cast(Any, self._kind)(**self.arguments)
        own, drawn = (dict([*each.named_parameters(), *each.named_buffers()]) for each in (self, new))
        if made := [name for name in drawn if name not in own]:
            raise ValueError(
                f"reset_parameters: expected plain weights, got {made[0]!r} and {len(made) - 1} more that are made of "
                "others; build a new model"
            )
        for name, value in drawn.items():
            own[name].copy_(value)

    @property
    def num_parameters(self) -> int:
        """Total number of parameters, including frozen ones."""
        return sum(parameter.numel() for parameter in self.parameters())

    def weights(self, what: str = "save") -> dict[str, Tensor]:
        """The weights that `save` writes: those of `state_dict`, with parametrized ones as they act, under plain names.

        Args:
            what: who asks, the first word of the error.

        Raises:
            ValueError: weights that hooks make of others, as in pruning.
        """
        weights = self.state_dict()
        for path, module in self.named_modules():
            for name in module.parametrizations if parametrize.is_parametrized(module) else ():
                at = f"{path}." if path else ""
                of_it = f"{at}parametrizations.{name}."
                weights = {key: value for key, value in weights.items() if not key.startswith(of_it)}
                weights[at + name] = getattr(module, name).detach()
        with without_memory():
            plain = cast(Any, self._kind)(**self.arguments).state_dict()
        # What a new model has as a weight, and this one as a tensor that is none, was made from others by a hook.
        hooked = [name for name in plain if name not in weights and isinstance(_found(self, name), Tensor)]
        if hooked:
            raise ValueError(
                f"{what}: expected the weights of a {self._kind.__name__}, got {hooked[0]!r} and {len(hooked) - 1} "
                "more that hooks make of others; make them permanent, as by torch.nn.utils.prune.remove, or use "
                "torch.nn.utils.parametrize"
            )
        return weights

    @property
    def _kind(self) -> type[Model]:
        return parametrize.type_before_parametrizations(self)

    def save(self, folder: str | Path) -> None:
        """Write the weights (safetensors) and the constructor's arguments (JSON) to a folder, each file atomically.

        The weights' file contains the arguments too, so that `load` never mixes up the weights of different models.
        A parametrized weight is written as it acts: the model that `load` returns has it as a plain weight. So is one
        that is shared: each of its places has a weight of its own then. A subclass, or a model to which parts were
        added, is written too, but `load` cannot build it: build it as before, and load the weights' file into it.

        Raises:
            ValueError: see `weights`.
        """
        weights = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.weights().items()}
        content = safetensors.torch.save(weights, {ARGUMENTS: json.dumps(self.arguments)})
        write_whole(Path(folder) / WEIGHTS, content)
        config = {"format": FORMAT, "model": self._kind.__name__, "arguments": self.arguments}
        write_json(Path(folder) / CONFIG, config)
