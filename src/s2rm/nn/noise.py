"""Random numbers of the rows of a batch, the same whether one process has all rows or several have some each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class DrawsByRow(nn.Module):
    """A module that draws random numbers for each row of a batch, of which `share_rows` may have left it a share."""

    _share: tuple[Sequence[int], int] | None = None

    def by_row(self, draw: Callable[[int], Tensor], batch_size: int) -> Tensor:
        """What `draw` makes of the number of rows, one of each row; with a share, those of its rows of the whole."""
        if self._share is None:
            return draw(batch_size)
        rows, whole = self._share
        return draw(whole)[rows]


def share_rows(module: nn.Module, share: tuple[Sequence[int], int] | None) -> None:
    """Say which rows of a whole batch, and of how many, all that follows is of: all processes draw the numbers of the
    whole, so that their generators stay alike, and each takes those of its rows. None: a batch is whole."""
    for part in module.modules():
        if isinstance(part, DrawsByRow):
            part._share = share
