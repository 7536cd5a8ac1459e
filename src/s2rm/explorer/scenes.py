"""What there is to see in an explorer: episodes of a world, as the page takes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from s2rm.files import Row
from s2rm.models.world_model import WorldModel


@runtime_checkable
class Scene(Protocol):
    """Episodes of a world, and how its models are asked about all of it at once."""

    @property
    def title(self) -> str: ...  # a few words, such as "bouncing balls"
    @property
    def kind(self) -> str: ...  # which page shows it: "crops", "agents" or "sensors"
    @property
    def room(self) -> int: ...  # the largest number of views at a step
    def check(self, label: str, model: WorldModel) -> None: ...  # ValueError for a model of another world
    def cells(self) -> Tensor: ...  # (H, W, n): the positions of the picture's pixels, in the model's coordinates
    def content(self) -> Row: ...  # what the page reads


def text(values: NDArray[Any] | Tensor) -> str:
    """Numbers as base64 of their bytes, little-endian."""
    array = np.asarray(values)
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _refuse_unlike(label: str, model: WorldModel, shape: tuple[int, ...], likelihoods: Sequence[str], of: str) -> None:
    taken = (model.value_shape, model.context_size, model.signature.likelihood in likelihoods)
    if taken != (shape, 0, True):
        raise ValueError(
            f"explore: expected models of {of} {list(shape)} without context, got {label} with views "
            f"{list(model.value_shape)}, likelihood {model.signature.likelihood!r} and {model.context_size} context "
            "features; take a run on this world that corrects nothing"
        )


@dataclass(frozen=True)
class Crops:
    """Episodes of a world that is seen in square crops, as whole frames, from which the page cuts the views."""

    title: str
    """a few words, such as "bouncing balls" """
    episodes: Sequence[tuple[str, UInt8[Tensor, "T *channels H W"]]]
    """heading and frames of each, at least two frames: pixels of 0 and 1, or of 0 to 255, one or three channels"""
    crop: int
    """side of a view, odd"""
    num_views: int
    """number of views at the start"""
    binary: bool = True
    """whether pixels are 0 and 1"""

    kind = "crops"
    room = 30
    """views, at most, on the page"""

    @property
    def _channels(self) -> tuple[int, ...]:
        return tuple(self.episodes[0][1].shape[1:-2])

    def check(self, label: str, model: WorldModel) -> None:
        """Refuse models of other views."""
        shape = (*self._channels, self.crop, self.crop)
        _refuse_unlike(label, model, shape, ("bernoulli",), "crops")

    def cells(self) -> Float[Tensor, "H W 2"]:
        """(row, column) of each pixel."""
        return pixels(*self.episodes[0][1].shape[-2:])

    def content(self) -> Row:
        """Frames packed as bits, each from a new byte on, or as bytes."""
        shape = [*(self._channels or (1,)), *self.episodes[0][1].shape[-2:]]
        packed = [
            {"label": heading, "steps": len(frames), "packed": text(bits(frames) if self.binary else frames)}
            for heading, frames in self.episodes
        ]
        return {
            "size": shape, "crop": self.crop, "numViews": self.num_views, "binary": self.binary, "closedLoop": True,
            "episodes": packed,
        }  # fmt: skip


def bits(frames: UInt8[Tensor, "T ..."]) -> NDArray[np.uint8]:
    """Frames as bits, most significant first, each from a new byte on."""
    return np.packbits(frames.flatten(1).numpy(), axis=-1)


def pixels(rows: int, columns: int) -> Float[Tensor, "H W 2"]:
    """(row, column) of each pixel."""
    lines = (torch.arange(side, dtype=torch.float32) for side in (rows, columns))
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1)


@dataclass(frozen=True)
class Layer:
    """What of a predicted view is drawn in one colour: a sum of channels, times `scale`."""

    name: str
    colour: tuple[int, int, int]
    says: str
    """the colour's name"""
    sum: tuple[int, ...]
    at_most: int | None = None
    """a channel that bounds the sum"""
    minus: int | None = None
    """a channel that is taken away from it"""
    scale: float = 1.0


@dataclass(frozen=True)
class Played:
    """One episode of agents."""

    label: str
    positions: Float[Tensor, "T A 2"]
    xy: Float[Tensor, "T A 2"]
    """the same in the picture: right and down, in cells"""
    there: Bool[Tensor, "T A"]
    views: Float[Tensor, "T A *shape"]
    """whose first channels are predicted"""
    units: Sequence[Sequence[tuple[float, float, int]]]
    """at each step all that is there, seen or not: where in the picture, and in which layer"""


@dataclass(frozen=True)
class Agents:
    """Episodes of agents that each see what is around them, shown from above."""

    title: str
    episodes: Sequence[Played]
    layers: Sequence[Layer]
    positions: Float[Tensor, "H W 2"]
    """of the picture's cells"""
    queries: Float[Tensor, "Q 2"]
    """where models are asked, so that the predicted views cover the map"""
    members: Sequence[Sequence[int]]
    """for each cell, row by row, the pixels of predicted views that lie in it: query * pixels of a view + pixel"""
    scored: tuple[str, Sequence[int]]
    """the channels by which a model is scored, and their name"""
    num_targets: int
    """channels that are predicted"""
    likelihood: str = "bernoulli"

    kind = "agents"

    @property
    def room(self) -> int:
        """The largest number of agents."""
        return max(played.views.shape[1] for played in self.episodes)

    def check(self, label: str, model: WorldModel) -> None:
        """Refuse models of other views."""
        shape = tuple(self.episodes[0].views.shape[2:])
        _refuse_unlike(label, model, shape, (self.likelihood,), "views")

    def cells(self) -> Float[Tensor, "H W 2"]:
        """The positions of the cells."""
        return self.positions

    def content(self) -> Row:
        """Views as bytes where all are 0 and 1, else as floats."""
        shape = self.episodes[0].views.shape
        binary = all(bool(((played.views == 0) | (played.views == 1)).all()) for played in self.episodes)
        counts = np.array([len(each) for each in self.members])
        flat = np.concatenate([np.asarray(each, np.int32) for each in self.members])
        return {
            "rows": self.positions.shape[0], "columns": self.positions.shape[1], "pixels": int(np.prod(shape[3:])),
            "bytes": binary, "closedLoop": self.num_targets == shape[2],
            "layers": [asdict(layer) for layer in self.layers], "queries": self.queries.tolist(),
            "offsets": text(np.concatenate([[0], counts.cumsum()]).astype(np.int32)), "members": text(flat),
            "scored": {"name": self.scored[0], "channels": list(self.scored[1])},
            "episodes": [_played(played, binary) for played in self.episodes],
        }  # fmt: skip


def _played(played: Played, binary: bool) -> Mapping[str, Any]:
    views = played.views.numpy()
    return {
        "label": played.label, "steps": len(played.positions), "agents": played.positions.shape[1],
        "positions": text(played.positions.float()), "xy": text(played.xy.float()),
        "there": text(played.there.numpy().astype(np.uint8)),
        "views": text(views.astype(np.uint8) if binary else views.astype(np.float32)),
        "units": [[[round(x, 3), round(y, 3), layer] for x, y, layer in each] for each in played.units],
    }  # fmt: skip


def members_of(queries: Int[Tensor, "C K"], pixel: Int[Tensor, "C K"], inside: Bool[Tensor, "C K"], count: int) -> list:
    """For each of C cells the pixels of views in which it lies, as `Agents.members` has them."""
    places = queries * count + pixel
    return [row[kept].tolist() for row, kept in zip(places, inside, strict=True)]
