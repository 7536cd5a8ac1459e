"""The variants of spatially structured recurrent modules: their cells, and which options are compatible."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import get_args

from torch import nn

from s2rm.models.named import Term
from s2rm.nn.memory import GroupedRelationalMemoryCell
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell

TERMS: tuple[Term, ...] = get_args(Term)
CELLS: dict[str, Callable[[int, int, int, bool], nn.Module]] = {
    "gru": GroupedGRUCell,
    "lstm": GroupedLSTMCell,
    # 4 slots of 4 heads of 64, and a message of the hidden size (E.3, Table 3).
    "rmc": lambda modules, inputs, size, shared: GroupedRelationalMemoryCell(
        modules, (inputs, size), 4, 4, 64, 64, message_size=size, share_parameters=shared
    ),
}


def check_variants(
    cell: str, carry: str, normalise: str, ablate: Sequence[str], num_modules: int, hidden_size: int, latent_size: int
) -> None:  # fmt: skip
    """Raise a ValueError for sizes out of range, and for unknown or incompatible variants."""
    if num_modules < 1 or hidden_size < 1:
        raise ValueError(f"S2RM: num_modules and hidden_size must be at least 1, got {num_modules} and {hidden_size}")
    if latent_size < 0:
        raise ValueError(f"S2RM: latent_size must be at least 0, got {latent_size}")
    if cell not in CELLS:
        raise ValueError(f"S2RM: cell must be one of {list(CELLS)}, got {cell!r}")
    if carry not in ("own", "aggregated") or (carry == "aggregated" and cell != "gru"):
        raise ValueError(f'S2RM: carry must be "own", or "aggregated" with cell "gru", got {carry!r} with {cell!r}')
    if not set(ablate) <= set(TERMS):
        raise ValueError(f"S2RM: ablate must name terms of {TERMS}, got {list(ablate)}")
    if normalise not in ("all", "neighbourhood"):
        raise ValueError(f'S2RM: normalise must be "all" or "neighbourhood", got {normalise!r}')
    if normalise == "neighbourhood" and {"input_local", "intercell_local"} & set(ablate):
        raise ValueError('S2RM: without its local terms nothing is near; ablate them with normalise="all"')
    if carry == "aggregated":
        warnings.warn(
            "S2RM: carrying the aggregated state, as Eq. 4 has it, multiplies the states by the kernel's largest "
            'eigenvalue each step and can overflow within 100 steps; carry="own" cannot',
            stacklevel=3,
        )
