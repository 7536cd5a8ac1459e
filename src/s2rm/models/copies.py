"""Copies of models that are then changed, with parametrized weights as they act."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

from torch import nn
from torch.nn.utils import parametrize

from s2rm.models.model import Model

M = TypeVar("M", bound=Model)


def copied(model: M, *plain: str) -> M:
    """A copy of a model, in whose parts of these names parametrized weights are plain ones, as they act.

    Raises:
        ValueError: weights that hooks make of others, which cannot be copied.
    """
    model.weights("copy")
    other = copy.deepcopy(model)
    for name in plain:
        _make_plain(other.get_submodule(name))
    return other


def keep_rows(module: nn.Module, rows: list[int]) -> None:
    """Keep these rows of all plain weights of a module, in this order, in place."""
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            setattr(owner, name, nn.Parameter(parameter.detach()[rows].clone(), parameter.requires_grad))


def _make_plain(module: nn.Module) -> None:
    """Not by PyTorch's `remove_parametrizations`: it would take them from the model that was copied too, whose parts
    have the same class."""
    for owner in filter(parametrize.is_parametrized, [*module.modules()]):
        made = cast(nn.ModuleDict, owner.parametrizations)
        learned = {name: any(part.requires_grad for part in each.parameters()) for name, each in made.items()}
        weights = {name: getattr(owner, name).detach().clone() for name in learned}
        owner.__class__ = parametrize.type_before_parametrizations(owner)
        del owner.parametrizations
        for name, weight in weights.items():
            setattr(owner, name, nn.Parameter(weight, learned[name]))
