"""The arguments that all models share: the data that go in and out, and the space of their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Required, TypedDict, cast

import numpy as np

from s2rm.functional import TWO_PI


class Arguments(TypedDict, total=False):
    """The keyword arguments that every model takes; see [`Signature`][s2rm.models.inputs.Signature] and
    [`Space`][s2rm.models.inputs.Space] for their meaning and defaults."""

    value_shape: Required[Sequence[int]]
    target_shape: Sequence[int] | None
    likelihood: str
    codec: str | None
    context_size: int
    corrects: bool
    num_coordinates: int | None
    embedding_dim: int | None
    shortest: float | None
    longest: float | None
    extent: Sequence[Sequence[float]] | None
    inject_positions: bool | None
    rotation: float | None


@dataclass(frozen=True)
class Signature:
    """What goes into a model and what comes out of it."""

    value_shape: tuple[int, ...]
    """shape of a view"""
    target_shape: tuple[int, ...] | None
    """shape of a predicted view, if views contain more than is predicted, such as actions; None: `value_shape`"""
    likelihood: str
    """"bernoulli" (binary pixels), "gaussian" (real channels) or "mixed" (polar images of units)"""
    codec: str
    """encoder and decoder: "cnn" (residual, of the paper's size, for images), "polar" (small, for polar images),
    "strided" (for whole frames) or "mlp" (small, for CPUs and for any shape). Default: "mlp", but "cnn" where views
    and targets have two or three axes; with an `extent`, only where an image is larger than 16 x 16"""
    context_size: int
    """F, number of context features of each query"""
    corrects: bool
    """predict corrections to a first guess, given by the first entries of the context, one for each value of a target:
    means of real channels, logits of binary and categorical ones; an untrained model predicts the guess"""

    @classmethod
    def of(cls, arguments: Arguments) -> Signature:
        """The record of a model's arguments, with defaults for those that are left out."""
        value_shape, target_shape = tuple(map(int, arguments["value_shape"])), arguments.get("target_shape")
        target_shape = None if target_shape is None else tuple(map(int, target_shape))
        for name, shape in (("value_shape", value_shape), ("target_shape", target_shape)):
            if shape is not None and any(size < 0 for size in shape):
                raise ValueError(f"model: {name} must be sizes of at least 0, got {list(shape)}")
        images = all(len(shape) in (2, 3) for shape in (value_shape, target_shape) if shape is not None)
        likelihood, codec = arguments.get("likelihood", "bernoulli"), arguments.get("codec")
        small = arguments.get("extent") is not None and max(value_shape[-2:], default=0) <= 16
        if codec is None:
            codec = "cnn" if images and not small else "mlp"
        features, corrects = arguments.get("context_size", 0), arguments.get("corrects", False)
        if features < 0:
            raise ValueError(f"model: context_size must be at least 0, got {features}")
        return cls(value_shape, target_shape, likelihood, codec, features, corrects)


@dataclass(frozen=True)
class Space:
    """The positions of a world, and the wavelengths that embed them. Lengths are in the world's own units."""

    num_coordinates: int
    """n, coordinates of a position. Default: as many as `extent` has"""
    embedding_dim: int
    """d, size of the positional embedding, a multiple of 2n. Default: 16, or the multiple nearest to it"""
    shortest: float
    """shortest wavelength of the embedding. Default: half of the longest side of `extent`; 2π without an extent"""
    longest: float
    """upper bound of the wavelengths. Default: eight times the longest side of `extent`; 20,000π without an extent"""
    extent: tuple[tuple[float, float], ...] | None
    """the box of the positions, one (low, high) per coordinate. Default: unknown; modules then start within one
    shortest wavelength from 0"""
    inject_positions: bool
    """whether encoder and decoder receive embedded positions, as in the paper's baselines but not in its S2RM. Default:
    True in baselines without a rotation, otherwise False"""
    rotation: float | None
    """shortest wavelength of a rotation of encodings by positions, see [`Rotation`][s2rm.nn.embedding.Rotation], with
    which models learn many times faster. Default: a quarter of the longest side of `extent`, unless
    `inject_positions` is given; None without an extent"""

    @classmethod
    def of(cls, model: str, arguments: Arguments, has_kernel: bool) -> Space:
        """The record of a model's arguments, with defaults for those that are left out or None."""
        n, dim, extent = arguments.get("num_coordinates"), arguments.get("embedding_dim"), arguments.get("extent")
        shortest, longest = arguments.get("shortest"), arguments.get("longest")
        if n is None and extent is None:
            raise TypeError(f"{model}: expected num_coordinates or extent, one (low, high) a coordinate, got neither")
        inject, rotation = arguments.get("inject_positions"), arguments.get("rotation")
        box, wavelengths = None, (TWO_PI, TWO_PI * 10_000)
        if extent is not None:
            n = len(extent) if n is None else n
            if n < 1 or len(extent) != n or any(len(side) != 2 or not side[0] < side[1] for side in extent):
                raise ValueError(f"{model}: extent must be {n} pairs (low, high) with low < high, got {list(extent)}")
            box = tuple((float(low), float(high)) for low, high in extent)
            longest_side = max(high - low for low, high in box)
            wavelengths = longest_side / 2, 8 * longest_side
            rotation = longest_side / 4 if (inject, rotation) == (None, None) else rotation
        assert n is not None
        dim = max(1, round(8 / max(1, n))) * 2 * n if dim is None else dim
        shortest = wavelengths[0] if shortest is None else float(shortest)
        longest = wavelengths[1] if longest is None else float(longest)
        inject = rotation is None and not has_kernel if inject is None else inject
        if inject and rotation is not None:
            raise ValueError(f"{model}: positions are injected or rotate encodings, not both; leave one of them out")
        if rotation is None and not inject and not has_kernel:
            raise ValueError(
                f"{model}: without positions in encoder and decoder it cannot tell views apart; inject them"
            )
        return cls(n, dim, shortest, longest, box, inject, rotation)

    @property
    def middle(self) -> tuple[float, ...]:
        """The middle of the extent; the origin where that is unknown."""
        box = self.extent or ((0.0, 0.0),) * self.num_coordinates
        return tuple((low + high) / 2 for low, high in box)

    @property
    def start(self) -> list[tuple[float, float]]:
        """The box in which modules start."""
        return [(0.0, self.shortest)] * self.num_coordinates if self.extent is None else list(self.extent)


def records(model: str, arguments: Arguments, has_kernel: bool) -> tuple[Signature, Space]:
    """The two records of the shared arguments that `model` was called with.

    A model with a kernel knows the positions of views through it.
    """
    unknown = set(arguments) - set(Arguments.__annotations__)
    if unknown:
        raise TypeError(f"{model}: got unexpected arguments {', '.join(sorted(unknown))}")
    if "value_shape" not in arguments:
        raise TypeError(f"{model}: expected value_shape, the shape of a view, got none")
    arguments = cast(Arguments, plain(arguments))
    return Signature.of(arguments), Space.of(model, arguments, has_kernel)


def plain(arguments: Mapping[str, Any]) -> dict[str, object]:
    """The arguments with NumPy's numbers as Python's, which can be saved as JSON."""
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in arguments.items()}
