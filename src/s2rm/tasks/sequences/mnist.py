"""Sequential MNIST: recognise a digit from its pixels, one per step, at new resolutions in the test."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from s2rm.files import digest_of, states
from s2rm.sequences import Sequences
from s2rm.tasks.sequences.images import Digits, as_files, read_digits, resized
from s2rm.tasks.sequences.world import SequenceWorld
from s2rm.tasks.worlds import at_least


@dataclass(frozen=True)
class Mnist(SequenceWorld):
    """The pixels of an image, row by row, one per step, rescaled to the nearest pixel and binarised.

    In training the images of a batch have one size, drawn uniformly, since models that only ever see one length fit
    themselves to it. Every tenth training image is used for validation. Without files the images are scikit-learn's
    digits; without test files every fifth of the other images is used for the test and excluded from training.

    Source:
        RIMs, section 4.1. The paper trains on one size, as its preset does.
    """

    train_sequences: int = 60_000
    """of an epoch, at most as many as there are"""
    val_sequences: int = 6_000
    """at most as many as there are"""
    test_sequences: int = 10_000
    """for each side, at most as many as there are"""
    smallest: int | None = None
    """shortest side of the images of training; if not given, 10, or `pixels` where that is fewer"""
    pixels: int = 14
    """the longest, and the side of all images of the validation"""
    test_pixels: tuple[int, ...] = (14, 16, 19, 24)
    """sides of the images in the test"""
    threshold: int = 127
    """a pixel above this, of 255, is 1"""
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    digest: str = ""
    """of the content of the files; if not given, they are not compared"""

    def __post_init__(self) -> None:
        smallest = min(10, self.pixels) if self.smallest is None else self.smallest
        object.__setattr__(self, "smallest", smallest)
        at_least("Mnist", vars(self), smallest=1, pixels=smallest, threshold=0)
        super().__post_init__()

    @property
    def test_sizes(self) -> tuple[int, ...]:
        return self.test_pixels

    @property
    def train_sizes(self) -> tuple[int, int]:
        assert self.smallest is not None
        return self.smallest, self.pixels

    @property
    def longest(self) -> tuple[int, int]:
        return max(self.pixels, *self.test_pixels) ** 2, 1

    def model_arguments(self) -> dict[str, object]:
        return {"input_size": 1, "num_classes": 10, "hidden_size": self.hidden_size, "memory": self.longest[0]}

    def num_sequences(self, split: str) -> int:
        return min(super().num_sequences(split), len(self.digits(split).labels))

    def digits(self, split: str) -> Digits:
        """The images of a split, all of them; errors as for `read_digits`, and where files were changed."""
        train, test = read_digits(self.train_files), read_digits(self.test_files) if self.test_files else None
        files = (*self.train_files, *self.test_files)
        if self.digest and (now := digest_of(states(files))) != self.digest:
            raise ValueError(
                f"mnist: {' or '.join(files)} was changed since the run began, the SHA-256 is {now[:12]}, was "
                f"{self.digest[:12]}; put the former files back, or train again"
            )
        if test is None:
            train, test = _apart(train, 5)
        return test if split == "test" else dict(zip(("train", "val"), _apart(train, 10), strict=True))[split]

    def draw(self, split: str, rows: Tensor, generator: torch.Generator, size: int | None = None) -> Sequences:
        images, labels = self.digits(split)
        chosen = rows * len(labels) // self.num_sequences(split)  # fewer than all are from all over the file
        if size is None:
            size = self.size_of_batch(split, generator)
        pixels = resized(images[chosen], size) > self.threshold
        return Sequences(pixels.flatten(1).unsqueeze(-1).float(), labels[chosen, None])


def _apart(digits: Digits, every: int) -> tuple[Digits, Digits]:
    """The images but every so many, and these: files may be sorted by digit."""
    chosen = torch.arange(len(digits.labels)) % every == every - 1
    if not chosen.any():
        raise ValueError(f"mnist: expected at least {every} images, to keep some apart, got {len(chosen)}; give more")
    return Digits(*(part[~chosen] for part in digits)), Digits(*(part[chosen] for part in digits))


def with_files(world: Mnist, train: tuple[Path, ...], test: tuple[Path, ...]) -> Mnist:
    """The same task on the images of these files, which are read and compared.

    Raises:
        ValueError: as of `read_digits`; images to test of another size than those of training, or without a pixel that
            is bright enough to be 1.
    """
    found = replace(world, train_files=as_files(train), test_files=as_files(test))
    found = replace(found, digest=digest_of(states((*found.train_files, *found.test_files))))
    parts = {split: found.digits(split).images for split in ("train", "test")}
    sides = [images.shape[-1] for images in parts.values()]
    if sides[0] != sides[1]:
        raise ValueError(
            f"mnist: expected images of one size, got {sides[0]} x {sides[0]} pixels for training and {sides[1]} x "
            f"{sides[1]} in the test; rescale one of them"
        )
    for split, images in parts.items():
        if images.max() <= world.threshold:
            raise ValueError(
                f"mnist: expected pixels from 0 to 255, of which those above {world.threshold} are 1, got at most "
                f"{images.max()} in the images to {split}; multiply them, such as by 255 if they are 0 and 1"
            )
    if test:
        known = {image.numpy().tobytes() for image in (*parts["train"], *found.digits("val").images)}
        if twice := sum(image.numpy().tobytes() in known for image in parts["test"]):
            warnings.warn(
                f"mnist: {twice:,} of {len(parts['test']):,} images of the test are also in training, so that scores "
                "are optimistic; give others",
                stacklevel=2,
            )
    return found


SMALL = (8, 9, 11, 14)
PRESETS = {
    "paper": Mnist(smallest=14),
    "medium": Mnist(hidden_size=240),
    "small": Mnist(hidden_size=120, smallest=6, pixels=8, test_pixels=SMALL),
    "tiny": Mnist(
        hidden_size=24,
        train_sequences=64,
        val_sequences=32,
        test_sequences=32,
        smallest=2,
        pixels=3,
        test_pixels=(3, 4),
    ),
}
