"""Warnings of many forecasts or batches, each kind of them said once."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from s2rm.sensors.checks import check_alike, check_seen
from s2rm.sensors.reports import Reports

if TYPE_CHECKING:
    from s2rm.sensors.forecaster import Forecaster

_NUMBER = re.compile(r"(?<![\w'])-?\d[\d.,:eT+-]*")
_MORE = "more that differ in numbers or times only"


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
            kinds[_NUMBER.sub("#", str(each.message)).removesuffix(f" (and # {_MORE})")].append(each)
        for kind, (first, *others) in kinds.items():
            if warned is None:
                more = f" (and {len(others):,} {_MORE})" if others else ""
                warnings.warn(f"{first.message}{more}", first.category, stacklevel=4)
            elif kind not in warned:
                warned.add(kind)
                warnings.warn(first.message, first.category, stacklevel=4)


@contextmanager
def told_before(forecaster: Forecaster, reports: Reports, origins: Int[NDArray, " O"]) -> Iterator[None]:
    """A context of forecasts from origins: what they would warn of in the reports is said at its start, and once."""
    warned: set[str] = set()
    with each_once(warned), each_once():
        check_alike(reports.between(0, int(origins.max()) + 1), forecaster.scaling)
        for origin in origins:
            check_seen(reports, np.array([origin]), forecaster.context)
    with each_once(warned):
        yield
