"""Which model to train, and how: what a run keeps beside its world, and the command line shows."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Literal, cast

from s2rm.models.named import SEQUENTIAL, SPATIAL, ModelName, Term, build, build_sequential
from s2rm.training.settings import Training, plain_fields

if TYPE_CHECKING:
    from s2rm.models.model import Model
    from s2rm.tasks.worlds import World


@dataclass(frozen=True)
class Core:
    """The size of the recurrent part, and of sequence models what else their core is."""

    hidden_size: int | None = None
    """size of the state: of each module in an S2RM, of the core in others, where sequence tasks take a multiple of 12;
    if not given, as in the papers, and in sequence tasks as --size"""
    num_modules: int | None = None
    """number of modules: of S2RMs, 10 if not given, as in the paper; of RIMs of sequences, 6, which share the hidden
    size equally"""
    num_active: int = 4
    """RIMs: number of modules active at each step; as many as num_modules for no selection"""
    communication_heads: int = 4
    """RIMs: number of heads with which a module reads from the others; 0 for no communication"""
    remember: bool = True
    """initialise the gates to remember for the length of the longest test sequence, unlike the papers"""

    def __post_init__(self) -> None:
        plain_fields(self)


@dataclass(frozen=True)
class Settings:
    """Which model to train, and how."""

    model: ModelName = "s2gru"
    """S2RMs (s2gru, s2rmc, s2lstm), baselines (rims, rmc, lstm, gru), or tto, the time-travelling oracle"""
    codec: Literal["cnn", "mlp", "polar", "strided"] | None = None
    """encoder and decoder: cnn (residual, of the paper's size), mlp (small, for CPUs), polar (convolutions of polar
    images) or strided (for whole frames); if not given, depends on the world"""
    inject_positions: bool | None = None
    """use no rotation, but inject embedded positions into encoder and decoder, as in the paper's baselines (True), or
    no positions, as in its S2RM (False); if not given, a rotation"""
    shortest: float | None = None
    """shortest wavelength of the positional embedding, in the world's units; if not given, half of the world's side"""
    longest: float | None = None
    """upper bound of the wavelengths; if not given, eight times the world's side"""
    rotation: float | None = None
    """shortest wavelength of the rotation of encodings by positions, in the world's units; if not given, a quarter of
    the world's side"""
    corrects: bool = False
    """predict corrections to a simple predictor: what was last seen or, for your own world, the best one in training"""
    drop_views: float = 0.0
    """in training, drop up to this share of the views of each sequence at random, in battles those of agents that are
    silent throughout; all are predicted all the same. For models that will see fewer views than they were trained on"""
    blind_steps: float = 0.0
    """in training, this share of the sequences shows no view from a random step on; all are predicted all the same. For
    rollouts without views, in particular of models with latent variables"""
    batch_norm: bool = True
    """baselines only: normalise the summed representation of the views before the core, unlike the paper"""
    ablate: tuple[Term, ...] = ()
    """S2RM only: terms of the attentions to switch off"""
    latent_size: int = 0
    """S2RM only: size of a latent variable of each module at each step, so that rollouts without views are samples of
    possible futures; 0 for none"""
    core: Core = field(default_factory=Core)
    """the recurrent core; models of views use only --hidden-size, S2RMs also --num-modules"""
    training: Training = field(default_factory=Training)
    """how to train"""

    def __post_init__(self) -> None:
        plain_fields(self)

    def check(self, world: World) -> None:
        """Refuse options that a model of this world does not have, and would ignore, with a ValueError."""
        spatial = self.model in SPATIAL
        if self.blind_steps and self.corrects:
            raise ValueError(
                "train: blind_steps hides views that a model which corrects what was last seen is given; "
                "leave one of both out"
            )
        shapes = world.model_arguments() if self.blind_steps and self.latent_size else {}
        if shapes.get("target_shape", shapes.get("value_shape")) != shapes.get("value_shape"):
            raise ValueError(
                "train: blind_steps teach latent variables by targets that are views, got views that hold more, such "
                "as actions; leave one of both out"
            )
        if self.blind_steps and self.latent_size and getattr(world, "kind", None) == "points":
            raise ValueError(
                "train: blind_steps teach latent variables by targets that are views, got points, whose targets are "
                "displacements since they were last shown; leave one of both out"
            )
        if self.drop_views and getattr(world, "num_views", None) == 1:
            raise ValueError(
                "train: drop_views leaves at least one view of each step, and there is one; leave it out, or take more "
                "views"
            )
        for name, most in (("drop_views", "below"), ("blind_steps", "at most")):
            share = getattr(self, name)
            if not (0 <= share < 1 or (share == 1 and most == "at most")):
                raise ValueError(f"train: {name} must be at least 0 and {most} 1, got {share}; give a share")
        if world.side is None:
            return self._check_sequential()
        taken = ("hidden_size", "num_modules") if spatial else ("hidden_size",)
        if self.core != Core(**{name: getattr(self.core, name) for name in taken}):
            raise ValueError(f"train: of the core, {self.model} takes {' and '.join(taken)} only; leave the others out")
        wrong = [name for name in ("ablate", "latent_size") if getattr(self, name)]
        if wrong if not spatial else not self.batch_norm:
            option, others = ("batch_norm", "the baselines") if spatial else (wrong[0], "S2RMs")
            raise ValueError(f"train: {option} is an option of {others}, not of {self.model}; leave it out")

    def _check_sequential(self) -> None:
        if self.model not in SEQUENTIAL:
            raise ValueError(
                f"train: models of sequences are {', '.join(SEQUENTIAL)}, got {self.model}; choose one with --model"
            )
        usual = Settings(self.model, core=self.core, training=self.training)
        others = [each.name for each in fields(self) if getattr(self, each.name) != getattr(usual, each.name)]
        if others:
            raise ValueError(f"train: {', '.join(others)} is of models of views, not of sequences; leave it out")
        if self.model != "rims" and self.core != Core(self.core.hidden_size, remember=self.core.remember):
            raise ValueError(f"train: modules and their communication are of rims, not of {self.model}; leave them out")

    def build(self, world: World) -> Model:
        """The model of a world, its weights drawn from the seed."""
        import torch

        torch.manual_seed(self.training.seed)
        if world.side is None:
            sizes = {name: value for name, value in asdict(self.core).items() if value is not None}
            arguments = {**world.model_arguments(), **sizes}
            if not arguments.pop("remember"):
                arguments["memory"] = None
            return build_sequential(self.model, **arguments)
        own = (
            {"ablate": self.ablate, "latent_size": self.latent_size}
            if self.model in SPATIAL
            else {"batch_norm": self.batch_norm}
        )
        return build(self.model, **self.arguments(world), **own)

    def arguments(self, world: World) -> dict[str, object]:
        """The arguments that every model of a world has."""
        own = {
            "codec": self.codec, "shortest": self.shortest, "longest": self.longest, "rotation": self.rotation,
            "inject_positions": self.inject_positions,
        }  # fmt: skip
        usual: dict[str, object] = {"num_coordinates": 2, "extent": [[0.0, world.side]] * 2}
        given = {name: value for name, value in own.items() if value is not None}
        sizes = {"hidden_size": self.core.hidden_size, "num_modules": self.core.num_modules}
        given |= {name: value for name, value in sizes.items() if value is not None}
        arguments = {**usual, **world.model_arguments(), **given}
        if self.corrects:
            target = arguments.get("target_shape", arguments["value_shape"])
            beside = cast(int, arguments.get("context_size", 0))
            arguments |= {"corrects": True, "context_size": math.prod(cast(list[int], target)) + beside}
        return arguments
