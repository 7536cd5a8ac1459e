"""Which model to train, and how: what a run keeps beside its world, and the command line shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from s2rm.models.named import SPATIAL, ModelName, Term, build
from s2rm.training.settings import Training

if TYPE_CHECKING:
    from s2rm.models.world_model import WorldModel
    from s2rm.tasks.worlds import World


@dataclass(frozen=True)
class Settings:
    """Which model to train, and how."""

    model: ModelName = "s2gru"
    """S2RMs (s2gru, s2rmc, s2lstm), baselines (rims, rmc, lstm, gru), or tto, the time-travelling oracle"""
    codec: Literal["cnn", "mlp", "polar"] | None = None
    """encoder and decoder: cnn (residual, of the paper's size), mlp (small, for CPUs) or polar (convolutions of polar
    images); the world's own if not given"""
    inject_positions: bool | None = None
    """how positions enter encoder and decoder without a rotation: embedded, as in the paper's baselines (True), or not
    at all, as in its S2RM (False)"""
    shortest: float | None = None
    """shortest wavelength of the positional embedding, in the world's units; half of the world's side if not given"""
    longest: float | None = None
    """bound of the longest wavelength; eight times the world's side if not given"""
    rotation: float | None = None
    """shortest wavelength of a rotation of encodings by positions, in the world's units; a quarter of the world's side
    if not given"""
    corrects: bool = False
    """predict corrections to what was last seen, as the trivial predictor of that name has it; not on the balls"""
    batch_norm: bool = True
    """baselines only: normalise the summed representation of the views before the core, unlike the paper"""
    ablate: tuple[Term, ...] = ()
    """S2RM only: terms of the attentions to switch off"""
    training: Training = field(default_factory=Training)
    """how to train"""

    def check(self) -> None:
        """Refuse options that the model does not have, and would ignore, with a ValueError."""
        spatial = self.model in SPATIAL
        if self.ablate if not spatial else not self.batch_norm:
            option, others = ("batch_norm", "the baselines") if spatial else ("ablate", "S2RMs")
            raise ValueError(f"train: {option} is an option of {others}, not of {self.model}; leave it out")

    def build(self, world: World) -> WorldModel:
        """The model of a world, its weights drawn from the seed."""
        import torch

        torch.manual_seed(self.training.seed)
        own = {"ablate": self.ablate} if self.model in SPATIAL else {"batch_norm": self.batch_norm}
        return build(self.model, **self.arguments(world), **own)

    def arguments(self, world: World) -> dict[str, object]:
        """The arguments that every model of a world has."""
        own = {
            "codec": self.codec, "shortest": self.shortest, "longest": self.longest, "rotation": self.rotation,
            "inject_positions": self.inject_positions,
        }  # fmt: skip
        usual = {"num_coordinates": 2, "extent": [[0.0, world.side]] * 2}
        given = {name: value for name, value in own.items() if value is not None}
        arguments = {**usual, **world.model_arguments(), **given}
        if self.corrects:
            target = arguments.get("target_shape", arguments["value_shape"])
            arguments |= {"corrects": True, "context_size": math.prod(cast(list[int], target))}
        return arguments
