"""Write `docs/results.md` and the README's table from `results/`, so that no number there is copied by hand.

`--check` only compares.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "results.md", ROOT / "README.md"
METRICS = {"f1": "F1", "balanced_accuracy": "balanced accuracy", "log_likelihood": "log-likelihood, nats a pixel"}
SECTIONS = {
    "demo.json": ("The demo", "S2GRU and an LSTM scaffold of more parameters, the same wall-clock time each."),
    "long-injected.json": (
        "Longer: S2GRU with positions injected",
        "An hour on one core, on the paper's world with short clips; positions enter encoder and decoder too.",
    ),
    "long-not-injected.json": (
        "Longer: S2GRU, positions through the kernel only",
        "The same hour, the paper's way: positions enter only through the kernel.",
    ),
    "family.json": (
        "The whole family",
        "Every model for the same wall-clock time, one seed. TTO is the oracle: it sees the views of the very step "
        "that it predicts, and so bounds what the scaffold can do.",
    ),
}


def page() -> str:
    """The page as it should be."""
    parts = [
        "# Results\n\nMade by `make results-page` from the files in `results/`; no number here is copied by hand. "
        "World: 48 x 48 pixels, ten 11 x 11 views a frame, trained on 3 moving balls, one step ahead. Higher is better "
        "everywhere. The trivial predictors stand last: the *static scene* is the mean training frame, *last seen* "
        "repeats what was last observed at each pixel.\n\nAll runs here use the small codec, wavelengths of 24 to 384 "
        "pixels, gradients scaled down to norm 1 and, unless said otherwise, positions injected into encoder and "
        "decoder. The learning rate, 2e-3, was chosen on S2GRU alone; no search was made for the other models.\n"
    ]
    for name, (title, sentence) in SECTIONS.items():
        path = ROOT / "results" / name
        if path.is_file():
            parts.append(section(title, sentence, name, json.loads(path.read_text())))
    return "\n".join(parts)


def readme() -> str:
    """The README with its table as it should be."""
    result = json.loads((ROOT / "results" / "demo.json").read_text())
    tables = "\n".join(table(result["rows"], "f1", views) + "\n" for views in (1.0, 0.3))
    return re.sub(r"(<!-- results -->\n).*?(<!-- end -->)", rf"\1\n{tables}\n\2", README.read_text(), flags=re.S)


def table(rows: list[dict[str, Any]], metric: str, views: float) -> str:
    """One metric of all predictors over the numbers of balls."""
    score = {(row["predictor"], row["balls"]): row[metric] for row in rows if row["views"] == views}
    balls = sorted({number for _, number in score})
    names = list(dict.fromkeys(name for name, _ in score))
    seen = "all views" if views == 1 else f"{views:.0%} of the views"
    heads = [f"{number} ball{'' if number == 1 else 's'}" for number in balls]
    lines = [f"| {METRICS[metric]}, {seen} | " + " | ".join(heads) + " |", "|---" * (len(balls) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(f"{score[name, number]:.3f}" for number in balls) + " |" for name in names]
    return "\n".join(lines)


def section(title: str, sentence: str, name: str, result: dict[str, Any]) -> str:
    """One file's tables."""
    lines = [f"## {title}\n", f"{sentence}\n"]
    lines += ["| run | parameters | minutes | updates | validation loss | seed |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {label} | {run['parameters']:,} | {run['minutes']:.1f} | {run['updates']:,} | {run['val_loss']:.4f} | "
        f"{run['seed']} |"
        for label, run in result["runs"].items()
    ]
    lines += [f"\n{table(result['rows'], metric, views)}" for views in (1.0, 0.3) for metric in METRICS]
    hardware = next(iter(result["runs"].values()))["hardware"]
    commits = sorted({run["commit"] for run in result["runs"].values()})
    lines += ["", f"`results/{name}`: trained on {hardware} at commit {', '.join(commits)}; `{result['command']}`.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    for path, wanted in ((PAGE, page()), (README, readme())):
        if "--check" not in sys.argv:
            path.write_text(wanted)
        elif not path.is_file() or path.read_text() != wanted:
            sys.exit(f"{path} is not what results/ says; run make results-page")
