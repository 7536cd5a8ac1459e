"""What all worlds share: presets by name, checks, and batches of episodes as pure functions of their keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.data import Dataset

from s2rm.views import Episode


@runtime_checkable
class World(Protocol):
    """What there is to see, how it is seen, and how much of it there is: a frozen dataclass of plain values."""

    @property
    def side(self) -> float | None: ...  # of the square in which positions lie, in its own units; None: sequences
    def model_arguments(self) -> dict[str, object]: ...  # of a model: shapes, likelihood and codec


T = TypeVar("T")
W = TypeVar("W")
MOST_VALUES = 1e12
"""of all views of a split; the papers' worlds have some 1e10"""
LEAST_SEEN = 5
"""steps of a sequence that are seen at least, where those that follow are not"""
Progress = Callable[[Iterable[Any]], Iterable[Any]]
"""wraps what is iterated over, to show how far it is"""


def named(choices: Mapping[str, W], name: str, world: str, kind: str = "preset") -> W:
    """The preset, or another kind of choice, of that name; ValueError where there is none."""
    if name not in choices:
        raise ValueError(f"{world}: unknown {kind} {name!r}; choose from {', '.join(choices)}")
    return choices[name]


def at_least(where: str, given: Mapping[str, float], **least: float) -> None:
    """Refuse numbers below their least values."""
    for name, bound in least.items():
        if given[name] < bound:
            raise ValueError(f"{where}: expected {name} of at least {bound}, got {given[name]}; increase it")


def check_amount(where: str, *sizes: int) -> None:
    """Refuse a world with more values than any machine holds: the product of its sizes."""
    if math.prod(sizes) > MOST_VALUES:
        got = " x ".join(map(str, sizes))
        raise ValueError(f"{where}: expected at most {MOST_VALUES:g} values in all, got {got}; take fewer")


def check_tensors(
    kind: str, given: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], **ranges: tuple[int, int]
) -> None:
    """Refuse tensors of other shapes, and whole numbers out of their ranges."""
    for name, shape in shapes.items():
        if given[name].shape != shape:
            got = tuple(given[name].shape)
            raise ValueError(f"{kind}: expected {name} of shape {shape}, got {got}; give one row to each unit")
    for name, (least, most) in ranges.items():
        numbers = given[name]
        if numbers.numel() and not least <= int(numbers.min()) <= int(numbers.max()) <= most:
            found = f"{int(numbers.min())} to {int(numbers.max())}"
            raise ValueError(f"{kind}: expected {name} from {least} to {most}, got {found}; renumber them")


class Drawn(Dataset[T]):
    """Whole batches of episodes or sequences, each a pure function of its key `(rows, seed)`.

    Args:
        size: number of rows.
        draw: from rows `(B,)` and a generator for random choices to the batch.
        hide: from a batch of episodes and the steps that are shown, `(B, T, 1)`, to the same with the views of these
            only; default: the targets stay.
    """

    def __init__(
        self, size: int, draw: Callable[[Tensor, torch.Generator], T], hide: Callable[[T, Tensor], T] | None = None
    ):
        self.size, self.draw, self.hide = size, draw, hide

    def __getitem__(self, key: tuple[list[int], int]) -> T:
        rows, seed = key
        return self.draw(torch.tensor(rows), torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return self.size


def kept(
    mask: Bool[Tensor, "B T A"], share: float | Float[Tensor, "B 1 1"], generator: torch.Generator
) -> Bool[Tensor, "B T A"]:
    """A share of the views of each step, rounded, at least one where there are any, drawn at random."""
    draw = torch.rand(mask.shape, generator=generator).masked_fill(~mask, 2.0)
    few = (share * mask.sum(2, keepdim=True)).round().clamp(min=1)
    return mask & (draw.argsort(2).argsort(2) < few)


def shares(batch_size: int, drop: float, generator: torch.Generator) -> Float[Tensor, "B 1 1"]:
    """Of each sequence the share of its views that is seen, drawn uniformly between `1 - drop` and 1."""
    return 1 - drop * torch.rand(batch_size, 1, 1, generator=generator)


def with_fewer(episode: Episode, drop: float, generator: torch.Generator) -> Episode:
    """The episode with up to a share of its views dropped; see `shares`. The targets stay."""
    if not drop:
        return episode
    mask = kept(episode.views.mask, shares(episode.batch_size, drop, generator), generator)
    return Episode(episode.views.keep(mask), episode.targets, episode.context)


def blinded(source: Drawn[Episode], share: float) -> Drawn[Episode]:
    """Episodes of which a share sees nothing from a random step on, `LEAST_SEEN` at the earliest; the targets stay,
    unless the source has its own way to hide views."""

    def draw(rows: Tensor, generator: torch.Generator) -> Episode:
        part = source.draw(rows, generator)
        length = part.views.num_steps
        until = torch.randint(min(LEAST_SEEN, length - 1), length, (len(rows), 1, 1), generator=generator)
        until = torch.where(torch.rand(len(rows), 1, 1, generator=generator) < share, until, length)
        shown = torch.arange(length)[:, None] < until
        if source.hide is not None:
            return source.hide(part, shown)
        return Episode(part.views.keep(shown), part.targets, part.context)

    return Drawn(len(source), draw)


def random_clip(batch_size: int, length: int, clip: int, generator: torch.Generator) -> Tensor:
    """The steps `(B, clip)` of clips that begin at random steps of sequences of a length."""
    start = torch.randint(length - clip + 1, (batch_size, 1), generator=generator)
    return start + torch.arange(clip)


def starts_within(ends: Tensor, clip: int, generator: torch.Generator) -> Tensor:
    """Random steps `(B,)` at which clips of sequences begin whose last step at which something is there is `ends - 1`.

    Clips end within the sequences; of one that is shorter than a clip, they begin at its first step. What lies after
    the end of a sequence teaches nothing.
    """
    return (torch.rand(len(ends), generator=generator) * (ends - clip + 1).clamp(min=1)).long()
