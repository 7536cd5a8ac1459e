"""Which model to train, and how: what a run keeps beside its world, and the command line shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

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
    inject_positions: bool = True
    """S2RM only: give embedded positions to encoder and decoder too; in the paper only the baselines' get them"""
    shortest: float | None = None
    """shortest wavelength of the positional embedding, in the world's units; half of the world's side if not given"""
    longest: float | None = None
    """bound of the longest wavelength; eight times the world's side if not given"""
    rotation: float | None = None
    """shortest wavelength, in the world's units, of a rotation of encodings by positions, which then replaces their
    injection; a quarter of the world's side is a good start; no rotation if not given"""
    ablate: tuple[Term, ...] = ()
    """S2RM only: terms of the attentions to switch off"""
    training: Training = field(default_factory=Training)
    """how to train"""

    def build(self, world: World) -> WorldModel:
        """The model of a world, its weights drawn from the seed."""
        import torch

        torch.manual_seed(self.training.seed)
        arguments: dict[str, object] = self.arguments(world)
        if self.model in SPATIAL:
            arguments |= {"inject_positions": self.inject_positions, "ablate": self.ablate}
        if self.model in SPATIAL or self.rotation is not None:
            arguments |= {"extent": [[0.0, world.side]] * 2, "rotation": self.rotation}
        return build(self.model, **arguments)

    def arguments(self, world: World) -> dict[str, object]:
        """The arguments that every model of a world has."""
        own = {"codec": self.codec, "shortest": self.shortest, "longest": self.longest}
        usual = {"num_coordinates": 2, "shortest": world.side / 2, "longest": 8 * world.side}
        given = {name: value for name, value in own.items() if value is not None}
        return {**usual, **world.model_arguments(), **given}

    def sentence(self, label: str, world: World) -> str:
        """How the model was set up, for a report."""
        arguments = self.arguments(world)
        if self.rotation is not None:
            way = f"rotate encodings, from a wavelength of {self.rotation:g} on"
        else:
            injected = self.inject_positions or self.model not in SPATIAL
            way = f"are {'' if injected else 'not '}injected into encoder and decoder"
        return (
            f"{label}: codec {arguments['codec']}; positions {way}; wavelengths of the embedding from "
            f"{arguments['shortest']:g} to {arguments['longest']:g}."
        )
