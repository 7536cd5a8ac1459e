"""What the commands print."""

from __future__ import annotations

from rich.console import Console

from s2rm.names import one_line

console = Console(stderr=True, markup=False, emoji=False)
"""without markup, since names of the user's are none: wind [m/s] stays what it is"""


def say(text: str) -> None:
    """Print a line, in the first process alone, whatever is in the names of the user's."""
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only(console.print)(one_line(text), soft_wrap=True)
