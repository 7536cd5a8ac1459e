"""Streams of observations: what they keep, and which new observations they accept."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from s2rm.files import read_safetensors, write_whole
from s2rm.models.world_model import WorldModel
from s2rm.sensors.checks import check_alike, check_clock, when
from s2rm.sensors.known_ahead import KnownAhead
from s2rm.sensors.reading.tables import read_reports
from s2rm.sensors.reports import ROWS, Reports, merge
from s2rm.sensors.scaling import Slots, slots, views_of
from s2rm.sensors.settings import Columns

if TYPE_CHECKING:
    from s2rm.sensors.forecaster import Forecaster

AHEAD, KNOWN = "ahead.", ("positions", "values")
"""how the names of what is known ahead begin in a file, and what it is"""
SILENCE = 15
"""times the context: a longer silence ends a stream, since a clock may be wrong and nothing before it would count"""


class Stream(NamedTuple):
    """The state of a forecaster between observations that arrive over time."""

    model: object
    """the model's state, of batch 1"""
    recent: Reports
    """the reports of the last steps that forecasts depend on; the last step is now"""
    forecaster: str = ""
    """the fingerprint of the forecaster whose state this is"""

    def check(self, forecaster: str) -> None:
        """Refuse, with a ValueError, a stream of another forecaster than that of this fingerprint."""
        if self.forecaster not in ("", forecaster):
            raise ValueError("stream: this is the stream of another forecaster; start from None")

    def save(self, path: str | Path) -> None:
        """Write it to a file, for `Forecaster.load_stream` in another process."""
        tensors = {f"model.{number}": leaf.contiguous() for number, leaf in enumerate(tree_leaves(self.model))}
        tensors |= {name: torch.from_numpy(np.ascontiguousarray(getattr(self.recent, name))) for name in ROWS}
        recent: dict[str, object] = {
            "start": str(self.recent.start), "steps": self.recent.num_steps, "sensors": self.recent.sensors,
        }  # fmt: skip
        if self.recent.ahead is not None:
            known = self.recent.ahead.since(self.recent.start)
            recent["ahead"] = str(known.start)
            tensors |= {f"{AHEAD}{name}": torch.from_numpy(getattr(known, name).copy()) for name in KNOWN}
        about = {"recent": json.dumps(recent), "forecaster": self.forecaster}
        write_whole(path, safetensors.torch.save(tensors, about))


def read_stream(path: Path, model: WorldModel[Any], columns: Columns, forecaster: str) -> Stream:
    """The stream in a file; `forecaster` is the fingerprint of the one that must have written it.

    Raises:
        ValueError: no file, no stream, or one of another forecaster.
    """
    if not path.is_file():
        raise ValueError(f"stream: expected a saved stream, found none at {path}; start from None")
    start = model.initial_state(1)
    try:
        tensors, about = read_safetensors(path)
        recent = json.loads(about["recent"])
        leaves = [tensors[f"model.{number}"] for number in range(len(tree_leaves(start)))]
        rows: dict[str, Any] = {name: tensors[name].numpy() for name in ROWS}
        if about.get("forecaster", forecaster) != forecaster:
            raise ValueError("it is of another fit")
        state = tree_unflatten(leaves, tree_structure(start))
        model.check_state(state, start)
        reports = Reports(columns, np.datetime64(recent["start"]), recent["steps"], tuple(recent["sensors"]), **rows)
        _check_rows(reports)
        if "ahead" in recent:
            known = {name: tensors[f"{AHEAD}{name}"].numpy() for name in KNOWN}
            reports = replace(reports, ahead=KnownAhead(np.datetime64(recent["ahead"]), reports.step_length, **known))
            _check_ahead(reports)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(f"stream: {path} was not saved by this forecaster ({error}); start from None") from error
    return Stream(state, reports, forecaster)


def _check_rows(reports: Reports) -> None:
    columns = reports.columns
    widths = {"positions": columns.position, "values": columns.values, "covariates": columns.covariates}
    expected = {name: (len(reports), len(named)) for name, named in widths.items()} | {"sensor": (len(reports),)}
    if any(getattr(reports, name).shape != shape for name, shape in expected.items()):
        raise ValueError("the sizes of its reports are others")


def _check_ahead(reports: Reports) -> None:
    columns, known = reports.columns, reports.ahead
    assert known is not None
    if known.positions.ndim != 2 or known.positions.shape[1] != len(columns.position) or not len(known.values):
        raise ValueError("the places of what is known ahead are others")
    if known.values.shape[1:] != (len(known.positions), len(columns.ahead)):
        raise ValueError("the sizes of what is known ahead are others")


@torch.no_grad()
def stepped(forecaster: Forecaster, state: Stream | None, rows: object) -> Stream:
    """The stream with new observations, as [`Forecaster.step`][s2rm.sensors.forecaster.Forecaster.step]."""
    columns, scaling, model = forecaster.columns, forecaster.scaling, forecaster.model
    if state is not None:
        state.check(forecaster.fingerprint)
        if isinstance(rows, Sized) and not isinstance(rows, Reports | str) and not len(rows):
            return state
    new = rows if isinstance(rows, Reports) else read_reports(rows, columns, to_fit=False)
    forecaster.check(new)
    check_alike(new, scaling)
    new = replace(new, columns=columns)
    state = state or Stream(model.initial_state(1), new.between(0, 0), forecaster.fingerprint)
    recent, passed = joined(state.recent, new, forecaster.context)
    seen, after = slots(recent, scaling), state.model
    for step in range(passed, recent.num_steps):
        now = Slots(*(part[None, step : step + 1] for part in seen))
        after = model.step(views_of(now, torch.ones_like(now.sensor, dtype=torch.bool)), after)
    return Stream(after, last_steps(recent, forecaster.memory), forecaster.fingerprint)


def joined(recent: Reports, new: Reports, context: int) -> tuple[Reports, int]:
    """The recent and the new reports, and the number of their steps that are past.

    New reports of before the context are set aside, with a warning where they are so old that a clock must be wrong.

    Raises:
        ValueError: new reports after a silence of more than `SILENCE` times the context.
    """
    limit, past = SILENCE * context, recent.num_steps
    if not past:
        check_clock(new, "stream")
        return merge(recent, new), 0
    ahead = round((new.start - recent.start) / new.step_length)
    steps = np.unique(np.append(new.step, max(new.num_steps - 1, 0)) + ahead)
    steps = np.append(past - 1, steps[steps >= past])
    gaps = np.flatnonzero(np.diff(steps) > limit)
    if len(gaps):
        first = int(steps[gaps[0] + 1]) - ahead
        row = np.flatnonzero(new.step >= first)
        who = f" of sensor {new.sensors[new.sensor[row[0]]]!r}" if len(row) else ""
        raise ValueError(
            f"stream: expected reports at most {limit:,} steps after the last, of {when(recent, past - 1)}, got one"
            f"{who} of {when(new, first)}; correct its time or leave it out, or, where it is right, start from None"
        )
    # The first step of the new ones that is within the context.
    begin = max(0, past - context - ahead)
    old = new.step + ahead < past - 1 - limit
    if old.any():
        lone = int(old.argmax())
        warnings.warn(
            f"stream: {old.sum()} reports are too old to count and are set aside, the first of sensor "
            f"{new.sensors[new.sensor[lone]]!r} of {when(new, int(new.step[lone]))}; correct their times",
            stacklevel=5,
        )
    if _is_in_parts(recent, new, past - 1, ahead):
        warnings.warn(
            "stream: reports of the last step take the place of earlier ones of the same sensors, without a mean of "
            "both; give all observations of a step at once",
            stacklevel=5,
        )
    both = merge(recent, new.between(begin, max(begin, new.num_steps)))
    return both, past + round((recent.start - both.start) / new.step_length)


def _is_in_parts(recent: Reports, new: Reports, last: int, ahead: int) -> bool:
    """Whether new reports differ from those of the same sensors in the last step; the new ones begin `ahead` of it."""
    rows = np.flatnonzero(recent.step == last)
    before = {recent.sensors[recent.sensor[row]]: recent.values[row] for row in rows}
    for row in np.flatnonzero(new.step + ahead == last):
        known = before.get(new.sensors[new.sensor[row]])
        if known is not None and (np.abs(new.values[row] - known) > 0).any():  # not so where either is unknown
            return True
    return False


def last_steps(reports: Reports, steps: int) -> Reports:
    """The last steps of reports, with only the sensors that report there, and what is known ahead from then on."""
    few = reports.between(max(0, reports.num_steps - steps), reports.num_steps)
    few = few if few.ahead is None else replace(few, ahead=few.ahead.since(few.start))
    present, sensor = np.unique(few.sensor, return_inverse=True)
    return replace(few, sensor=sensor.astype(np.int64), sensors=tuple(few.sensors[index] for index in present))
