"""Batches of input sequences with targets, without positions, for sequence models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sequences:
    """Inputs over T steps, and targets for the outputs after the last S of them.

    Examples:
        Four sequences of nine steps with two channels, and a class for each of the last three steps:

        >>> import torch
        >>> from s2rm.sequences import Sequences
        >>> sequences = Sequences(torch.rand(4, 9, 2), torch.randint(8, (4, 3)))
        >>> sequences.batch_size, sequences.rows([0, 3]).inputs.shape
        (4, torch.Size([2, 9, 2]))

    Args:
        inputs: float `(B, T, D)`.
        targets: `(B, S)`: classes (integers) or real values (floats).

    Raises:
        ValueError: a shape or dtype that does not fit, or fewer steps than targets.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        inputs, targets = tuple(self.inputs.shape), tuple(self.targets.shape)
        if self.inputs.ndim != 3 or not self.inputs.is_floating_point():
            raise ValueError(
                f"Sequences: inputs must be floats of (batch, time, channels), got {self.inputs.dtype} {inputs}; add "
                "the missing axes with unsqueeze, and convert it with .float()"
            )
        if self.targets.ndim != 2 or targets[0] != inputs[0] or self.targets.dtype == torch.bool:
            raise ValueError(
                f"Sequences: targets must be numbers of (batch of {inputs[0]}, last steps), got {self.targets.dtype} "
                f"{targets}; give one row to each sequence"
            )
        if not 1 <= targets[1] <= inputs[1]:
            raise ValueError(
                f"Sequences: expected 1 to {inputs[1]} targets, as many as there are steps, got {targets[1]}; give "
                "longer sequences, or fewer targets"
            )

    @property
    def batch_size(self) -> int:
        return self.inputs.shape[0]

    def rows(self, rows: list[int]) -> Sequences:
        """Some rows of the batch."""
        return Sequences(self.inputs[rows], self.targets[rows])

    def unseen(self) -> Sequences:
        """The same sequences: a row does not depend on others, so that nothing need be hidden in it."""
        return self

    def to(self, *args, **kwargs) -> Sequences:
        """The same sequences on another device or with another float dtype, as `Tensor.to`."""
        inputs, targets = self.inputs.to(*args, **kwargs), self.targets
        moved = targets.to(*args, **kwargs) if targets.is_floating_point() else targets.to(inputs.device)
        return Sequences(inputs, moved)
