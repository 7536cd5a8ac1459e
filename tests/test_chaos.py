"""Kills at random moments, loads beside a writer, tampered files: fewer than `benchmarks/chaos.py` tries."""

import json
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import chaos

KILLS = {"train": 2, "fit": 2, "forecast": 2, "Stream.save": 2}
FAULTS = (
    "half-written files",
    "dead folders",
    "leftovers",
    "results that differ",
    "mismatched halves",
    "tracebacks",
    "messages of several lines",
)


def test_the_counts_that_the_docs_tell():
    """Of the full benchmark, whose result is in the repository."""
    path = Path(__file__).parent.parent / "results" / "chaos.json"
    *tried, stream = json.loads(path.read_text())["rows"]
    assert not any(row.get(fault, 0) for row in tried for fault in FAULTS)
    assert sum(row.get("kills", 0) for row in tried) == 200
    assert [row["loads"] + row.get("refused", 0) for row in tried if "loads" in row] == [1000]
    assert [row["taken"] + row["refused"] for row in tried if "taken" in row] == [300]
    assert stream["steps"] == 10_000
    assert stream["sensors_end"] == stream["sensors_tenth"]
    assert stream["peak_mib_end"] <= 1.05 * stream["peak_mib_tenth"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder in which all was done in peace, and the seconds that each work took."""
    folder = tmp_path_factory.mktemp("chaos") / "shared"
    return folder, chaos.prepared(folder)


def faults(counts):
    return {name: counts[name] for name in FAULTS if counts[name]}


@pytest.mark.parametrize("name", KILLS)
def test_work_that_is_killed_goes_on_and_leaves_nothing_behind(shared, tmp_path, name):
    folder, seconds = shared
    work = next(each for each in chaos.works(folder) if each.name == name)
    counts = chaos.killed(work, folder / name, seconds[name], tmp_path, KILLS[name], random.Random(5))
    assert counts["kills"] == KILLS[name]
    assert not faults(counts)


def test_a_model_is_loaded_whole_while_another_process_saves_others(tmp_path):
    counts = chaos.loads_beside_a_writer(tmp_path, 40)
    assert counts["loads"] == 40
    assert not faults(counts)


def test_files_that_were_tampered_with_are_taken_or_refused_in_one_line(shared, tmp_path):
    counts = chaos.tampered_with(tmp_path, shared[0], 40, random.Random(6))
    assert counts["taken"] + counts["refused"] == 40
    assert not faults(counts)
