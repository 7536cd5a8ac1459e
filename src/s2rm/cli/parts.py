"""What a fit was given of its table, written beside it, as tables grow and are replaced; and what a report covers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from os.path import abspath
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from s2rm.files import Row, read_json, write_json
from s2rm.folders import fingerprint
from s2rm.records import from_plain, to_plain
from s2rm.sensors.judging.judge import Split, drawn_at_random, split
from s2rm.sensors.reports import Reports, arrays_of

PARTS = "parts.json"
LEADS = (0, 1, 3, 6, 12, 24)
"""the usual lead times of a report, in steps; twice as long ones follow where the horizon is longer"""
NUM_ORIGINS = 40
"""initialisation times of a report, at most"""


@dataclass(frozen=True)
class Parts:
    """What a fit was given, and what was kept from it."""

    seen: tuple[str, ...]
    """the stations of the fit, and of those that it started from"""
    withheld: tuple[str, ...]
    first: str
    """when the first step begins that is later than all of them, UTC"""
    end: str
    """when the step after the last one of its table begins"""

    @classmethod
    def of(cls, reports: Reports, made: Split, before: Parts | None = None) -> Parts:
        """Those of a fit to a table, which was divided like this, from the forecaster of `before`."""
        names = np.array(reports.sensors, dtype=object)
        seen = {*names[np.isin(np.arange(len(names)), made.train.reporting)], *(before.seen if before else ())}
        times = [str(reports.start + step * reports.step_length) for step in (made.first, reports.num_steps)]
        first = max(times[0], before.first) if before else times[0]
        return cls(tuple(sorted(seen)), tuple(names[made.withheld]), first, times[1])

    @classmethod
    def read(cls, folder: Path, whole: bool = False) -> Parts | None:
        """Those of the fit in a folder, or of the one to all of its table; None of one in Python.

        Raises:
            ValueError: a file that a fit did not write.
        """
        if not (folder / PARTS).is_file():
            return None
        try:
            kept = from_plain(cls, read_json(folder / PARTS))
            for time in (kept.first, kept.end):
                np.datetime64(time)
        except ValueError as error:
            raise ValueError(f"fit: {folder / PARTS} is not what a fit wrote ({error}); fit anew") from error
        if not whole:
            return kept
        # The forecaster that it started from may have been fitted to later data.
        return replace(kept, seen=(*kept.seen, *kept.withheld), withheld=(), first=max(kept.first, kept.end))

    def write(self, folder: Path) -> None:
        """Write them into the folder of the fit."""
        write_json(folder / PARTS, to_plain(self))

    def first_step(self, reports: Reports) -> int:
        """The first step of these reports that is later than the data of the fit; it may lie outside them."""
        return int(-((reports.start - np.datetime64(self.first)) // reports.step_length))

    def hidden(self, reports: Reports) -> Bool[NDArray, " S"]:
        """The stations of these reports that were withheld from the fit."""
        return np.isin(np.array(reports.sensors, dtype=object), self.withheld)

    def unseen(self, reports: Reports) -> bool:
        """Whether no forecaster that the fit started from was fitted to these stations that were withheld from it."""
        return not {*self.seen} & {*self.withheld} & {*reports.sensors}

    def divided(self, reports: Reports, table: Path) -> Split:
        """The table of the fit as it was divided then, whatever has been added to it.

        Raises:
            ValueError: it does not hold the data of the fit any more.
        """
        first, withheld = self.first_step(reports), self.hidden(reports)
        if not 0 < first < reports.num_steps or not {*self.seen, *self.withheld} & {*reports.sensors}:
            raise ValueError(
                f"evaluate: expected the table of the fit, with steps before and after {self.first}, got another one "
                f"at {table}, from {reports.times[0]} to {reports.times[-1]}; put it back, or fit anew"
            )
        return Split(reports.between(0, first).of(~withheld), first, withheld)


def divided(reports: Reports, test: float, withheld: float, seed: int, before: Parts | None) -> Split:
    """A table divided for a fit; what a forecaster was fitted to `before` is neither a test nor a withheld station.

    What cannot be avoided is warned of.
    """
    made = split(reports, test, withheld, seed)
    if before is None:
        return made
    unseen = [index for index in reports.reporting.tolist() if reports.sensors[index] not in before.seen]
    if unseen:
        mask = drawn_at_random(reports, np.array(unseen), int(made.withheld.sum()), seed)
        made = Split(reports.between(0, made.first).of(~mask), made.first, mask)
    else:
        warnings.warn(
            "fit: the forecaster of --from was fitted to all of these stations, so that scores at withheld ones are "
            "optimistic; give a table with others too",
            stacklevel=2,
        )
    if made.first < before.first_step(reports):
        warnings.warn(
            f"fit: the forecaster of --from was fitted to data until {before.first}, so that scores of steps before "
            f"are optimistic, and these begin at {reports.times[made.first]}; give newer data",
            stacklevel=2,
        )
    return made


def judged_leads(horizon: int, later: int) -> list[int]:
    """The lead times of a report, in steps, for a horizon and a table with so many `later` steps than those of the fit.

    They end with the horizon. Those beyond the usual ones need twice as many later steps, since every forecast that is
    judged begins so long before the end.
    """
    longest = min(horizon, max(min(LEADS[-1], later - 1), later // 2))
    leads = [lead for lead in LEADS if lead <= longest]
    while 2 * leads[-1] <= longest and longest > LEADS[-1]:
        leads.append(2 * leads[-1])
    return leads if longest < horizon else [*(lead for lead in leads if lead < 0.75 * horizon), horizon]


def digest_of(reports: Reports) -> str:
    """A digest by which the reports of a table are known again."""
    about = [*reports.sensors, str(reports.start), str(reports.num_steps)]
    return fingerprint(about, arrays_of(reports))


def from_anywhere(settings: Row) -> Row:
    """The settings of a fit with absolute paths, which hold in any folder."""
    return settings | {
        name: abspath(settings[name]) for name in ("table", "ahead_table", "start") if settings.get(name)
    }
