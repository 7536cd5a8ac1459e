"""Every recipe runs, small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.mark.parametrize("recipe", ["family.py"])
def test_recipe_runs_small_and_goes_on_where_it_was(recipe, tmp_path):
    command = [
        sys.executable,
        EXPERIMENTS / recipe,
        "--size",
        "tiny",
        "--minutes",
        "0.005",
        "--runs",
        tmp_path / "runs",
    ]
    for out in ("first.json", "again.json"):
        subprocess.run([*command, "--out", tmp_path / out], check=True, capture_output=True, timeout=300)
    first, again = (json.loads((tmp_path / out).read_text()) for out in ("first.json", "again.json"))
    assert first["rows"] == again["rows"]
    assert first["runs"] == again["runs"], "nothing was trained again"
    assert {"command", "commit", "hardware"} <= first.keys()
    assert {"static scene", "last seen", "S2GRU", "TTO"} <= {row["predictor"] for row in first["rows"]}


def test_the_results_page_is_what_the_results_say():
    made = subprocess.run([sys.executable, EXPERIMENTS / "page.py", "--check"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


def test_every_recipe_is_tested():
    assert {path.name for path in EXPERIMENTS.glob("*.py")} == {"family.py", "page.py"}
