"""Warnings of many forecasts or batches, each kind of them said once."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_NUMBER = re.compile(r"(?<![\w'])-?\d[\d.,:eT+-]*")


@contextmanager
def each_once(warned: set[str] | None = None) -> Iterator[None]:
    """Show one of the warnings that differ in their numbers and times alone.

    With `warned`, which is kept from one call to the next, none that was shown before; else how many more there were.
    """
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        kinds = defaultdict(list)
        for each in caught:
            kinds[_NUMBER.sub("#", str(each.message))].append(each)
        for kind, (first, *others) in kinds.items():
            if warned is None:
                more = f" (and {len(others):,} more that differ in numbers or times only)" if others else ""
                warnings.warn(f"{first.message}{more}", first.category, stacklevel=4)
            elif kind not in warned:
                warned.add(kind)
                warnings.warn(first.message, first.category, stacklevel=4)
