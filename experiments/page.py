"""Write the docs pages of numbers and the README's table from `results/`: no number is copied by hand.

`--check` only compares.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import claims
import page_agents
import page_sensors
from s2rm.runs import LABELS

ROOT = Path(__file__).parent.parent
PAGE, SPEED, README = ROOT / "docs" / "results.md", ROOT / "docs" / "speed.md", ROOT / "README.md"
SENSORS, AGENTS = ROOT / "docs" / "sensors-results.md", ROOT / "docs" / "agents-results.md"
TRIVIAL = ("static scene", "last seen")
SHIPPED = ROOT / "src" / "s2rm" / "pretrained" / "scores.json"
METRICS = {
    "f1": "F1",
    "balanced_accuracy": "balanced accuracy",
    "log_likelihood": "log-likelihood, nats a pixel",
    "calibration_error": "expected calibration error",
}
SECTIONS = {
    "demo.json": ("The demo", "S2GRU and an LSTM scaffold of more parameters, the same wall-clock time each."),
    "pretrained": (
        "The weights that are shipped",
        "Trained side by side, one core each, for the same time; stored in half precision, and scored as stored. "
        "`s2rm demo --pretrained` shows them.",
    ),
    "family.json": (
        "The whole family (Figures 4, 20 and 21)",
        "Every model for the same wall-clock time, at the learning rate that the same search found for each; three "
        "seeds for S2GRU, RIMs and the LSTM: the table has their mean and, in brackets, their range. TTO is the "
        "oracle: it sees the views of the very step that it predicts, and so bounds what the scaffold can do.",
    ),
}

LONGER = {
    "long-injected": {"S2GRU": "S2GRU"},
    "long-not-injected": {"S2GRU": "S2GRU, kernel only"},
    "pretrained": {"S2GRU": "S2GRU, shipped", "LSTM": "LSTM, shipped"},
    "long": {"RIMs": "RIMs", "LSTM": "LSTM"},
}
"""the long runs: of each result, which of its predictors, and what they are called"""

PICTURES = {
    "family.json": {
        "one-step": "One step ahead, all views; the grey line is the number of balls in training. Bands are the range "
        "over seeds.",
        "f1": "F1 by number of balls and share of the views.",
        "balanced-accuracy": "Balanced accuracy by number of balls and share of the views.",
        "reliability": "Reliability: how often a pixel is 1, against its probability.",
    }
}

SPEED_TEXT = """# Speed

Made by `make results-page` from the files in `results/`, measured on {hardware}, PyTorch {torch}. The commands are in
`benchmarks/`. Times are medians of runs interleaved in one process, on a shared machine: trust the ratios, and even
those to a tenth.

## The cores

The *floor* is the time of a core's matrix products alone, a training step's weight gradients in one product each over
all time steps. *Ours*, the *reference* (the same equations in a plain loop, under autograd) and an `nn.LSTM` of as many
parameters are given as ratios to it (of RIMs and RMC the reference differs from ours in the updates and linear maps
only). 32 sequences of 50 steps; S2RMs have 10 modules of 128 and 10 views.

{cores}

Where the time of a training step goes:

{profile}

What is done about it: all that does not depend on the state is computed for all steps at once; a weight's gradient is
added up in place, in the product itself; a gated cell, an attention and its gate are one node of the graph each,
with gradients written by hand that keep little and compute cheap things again. What is left is many small operations
a step. These paths refuse second derivatives, and say so; they know no `torch.func` transforms. While compiling,
exporting or under autocast, all is left to autograd.

Training, and this benchmark for all alike, tells the C library to keep freed memory for the next update: otherwise
large blocks go back to the system each time, and taking them again costs time. In scripts
of your own, call `s2rm.training.keep_freed_memory()`.

## Streaming, compiled and without Python

One `step` of the demo's S2GRU, ten views, batch 1:

{streaming}

`torch.compile(model.step)` has no graph break, and pays. `torch.compile(model.loss)` has none either, but unrolls all
steps and takes long at the start; `benchmarks/throughput.py --compile` tells what it gains on a machine. PyTorch does
not compile its own `nn.LSTM` and `nn.GRU` unless `torch._dynamo.config.allow_rnn` is set.

```
s2rm export runs/balls --out step.onnx
```

writes one step and a prediction as an ONNX file: `positions`, `values`, `mask`, `queries` and the state in,
`predicted_mean`, `predicted_stddev` and the next state out; batch, views and queries are free. From Python:
`StreamingStep(model).save_onnx(path)`, or `.exported()` for `torch.export`.

## bfloat16

`--precision bf16-mixed` trains under autocast. The demo's S2GRU, {updates} updates from the same weights on the same
batches:

{precision}

## Many modules, many views

With `normalise="neighbourhood"` each softmax runs over what lies within the truncation only, and so does each gradient:
then only the pairs that interact are computed, found by a tree on the CPU, for views, modules and queries once each for
all steps. Where modules times views, and modules times modules, are at most 128 x 128 a step, and while compiling or
exporting, all pairs are computed, which is faster when they are few; in float64 both are equal to 1e-9. The default,
`normalise="all"`, is the paper's: every pair takes its share of the softmax, and the cost is that of all pairs. With
`share_parameters=True` the modules differ in place and state only, and `with_modules_at(positions)` sets any number of
them.

S2GRU of hidden size 32, shared parameters, a world that grows with the modules; a training step over 20 time
steps. The first two rows compute all pairs, the others only those that interact:

{many}

## Long sequences

`model.loss(episode, recompute=k)`, or `--recompute k`, keeps the state after every k steps only and computes the rest
again in the backward pass: the memory of k steps instead of T, for one more forward pass.

## Data

Gathering the views of a batch takes {gather} of the time of the demo's training, and drawing the polar views of a batch
of small skirmishes {draw} of theirs; both run in the trainer's own process. The {sequences} sequences of balls are
generated in {generate} s, once, and the {battles} battles in {fight} s.

On a CPU only the views and targets that are there are encoded and, but by MSA, decoded. On other devices, where
counting them would make the CPU wait, and while compiling or exporting, all slots are.

## GPUs

Nothing here was run on a GPU. `tests/test_gpu.py` compares results with the CPU's and checks that an update never waits
for the device; `benchmarks/throughput.py` prints frames a second in training the paper's size beside the floor, with
`--compile` for CUDA graphs and `--precision bf16-mixed`. The sparse path's search for pairs waits for the CPU.
"""


def page() -> str:
    """The page as it should be."""
    parts = [INTRODUCTION, found(), *searched()]
    for name, (title, sentence) in SECTIONS.items():
        path = SHIPPED if name == "pretrained" else ROOT / "results" / name
        if path.is_file():
            parts.append(section(title, sentence, path, json.loads(path.read_text())))
            parts += [picture(file, caption) for file, caption in PICTURES.get(name, {}).items()]
    parts.append(longer())
    for name, write in (("rollouts", rolled), ("ablations", ablated), ("removed-modules", removed),
                        ("enclaves", placed)):  # fmt: skip
        result = kept(name)
        if result:
            parts.append(write(result))
    return "\n".join(parts)


INTRODUCTION = """# Results

Made by `make results-page` from the files in `results/`; no number here is copied by hand. `make results` makes them
all, which takes hours on 2 cores. World: 48 x 48 pixels, ten 11 x 11 views a frame, trained on 3 moving balls, one step
ahead; one more ball stands still in the centre. Higher is better, but for the calibration error. The trivial predictors
stand last: the *static scene* is the mean training frame, *last seen* repeats what was last observed at each pixel.

All runs use the small codec, wavelengths of 24 to 384 pixels, gradients scaled down to norm 1 and, unless said
otherwise, positions injected into encoder and decoder, and a learning rate of 2e-3.
"""


def kept(name: str) -> dict[str, Any] | None:
    """A result, where it is there."""
    path = ROOT / "results" / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def found() -> str:
    """The claims."""
    lines = markdown(["claim", "the paper's", "here", "because"], list(claims.table(kept)))
    return f"## The paper's claims\n\n{lines}\n"


def searched() -> list[str]:
    """The search for learning rates."""
    result = kept("search")
    if not result:
        return []
    rates = sorted({row["learning_rate"] for row in result["rows"]})
    loss = {(LABELS[row["model"]], row["learning_rate"]): row["val_loss"] for row in result["rows"]}
    updates = {(LABELS[row["model"]], row["learning_rate"]): row["updates"] for row in result["rows"]}
    labels = list(dict.fromkeys(label for label, _ in loss))
    best = {label: min(value for (name, _), value in loss.items() if name == label) for label in labels}

    def cell(label: str, rate: float) -> str:
        if (label, rate) not in loss:
            return "not run"
        value = loss[label, rate]
        shown = f"{value:.4f} ({updates[label, rate]:,})"
        return f"**{shown}**" if value == best[label] else shown

    minutes = sorted({round(row["minutes"]) for row in result["rows"]})
    return [
        "## The search\n",
        f"Validation loss of each model at each learning rate, {' to '.join(map(str, minutes))} minutes each, one "
        "seed; the updates that it made in this time, which other work on the machine cut short, in brackets. The "
        "family trains at the best, in bold.\n",
        markdown(
            ["model", *(f"{rate:g}" for rate in rates)], [[name, *(cell(name, r) for r in rates)] for name in labels]
        ),
        f"\n{origin('search', result, result['rows'])}",
    ]


def origin(name: str, result: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Where a result comes from."""
    return f"`results/{name}.json`: trained on {made(runs)}; written by `{result['command']}`.\n"


def made(runs: list[dict[str, Any]]) -> str:
    """On what, at which commits and by which commands runs were made."""
    commits, commands = (list(dict.fromkeys(run[key] for run in runs)) for key in ("commit", "command"))
    return f"{runs[0]['hardware']} at commit {', '.join(commits)} by {', '.join(f'`{one}`' for one in commands)}"


def picture(name: str, caption: str) -> str:
    """A picture with a caption."""
    return f"![{caption}](figures/{name}.png)\n\n{caption}\n"


def rolled(result: dict[str, Any]) -> str:
    """Figures 3 and 15 to 19."""
    steps = (0, 4, 9, 14, 19, 24)
    lines = [
        "## Rollouts (Figures 3 and 15 to 19)\n",
        f"After {result['prompt']} steps of true views each model sees only its own predictions, at random places. F1 "
        f"of whole frames, stitched from a 4 x 4 grid of queries, over {result['sequences']} sequences.\n",
        picture("rollout-f1", "F1 of the frames against the steps since the last true view."),
    ]
    for number in sorted({row["balls"] for row in result["rows"]}):
        cells = [
            [row["predictor"], *(f"{row['f1'][step]:.3f}" for step in steps)]
            for row in result["rows"]
            if row["balls"] == number
        ]
        balls = f"{number} ball{'' if number == 1 else 's'}"
        lines.append(markdown([f"{balls}, step", *(str(step + 1) for step in steps)], cells))
        lines.append("\n" + picture(f"rollout-{number}", f"Rollouts with {balls}, every third step."))
    return "\n".join([*lines, origin("rollouts", result, list(result["runs"].values()))])


def ablated(result: dict[str, Any]) -> str:
    """Figure 6."""
    rows = result["rows"]
    lines = [
        "## Terms of the attentions switched off (Figure 6)\n",
        "S2GRU without one term at a time, each trained for the same time at the same learning rate, one seed.\n",
        picture("ablations", "Balanced accuracy against the fraction of views."),
        runs_table(result["runs"]),
        *(f"\n{table(rows, 'balanced_accuracy', views)}" for views in (1.0, 0.3)),
    ]
    return "\n".join([*lines, "", origin("ablations", result, result["runs"])])


def placed(result: dict[str, Any]) -> str:
    """Figure 5."""
    shares = ", ".join(f"{share:.0%}" for share in result["share_of_the_arena"])
    return "\n".join(
        [
            "## Enclaves (Figure 5)\n",
            f"Where each module of the shipped S2GRU listens and answers. The modules reach {shares} of the arena; "
            f"{result['pixels_that_some_module_sees']:.0%} of the pixels are reached by at least one, a pixel by "
            f"{result['modules_that_see_a_pixel']:.1f} in the mean; {result['pairs_that_hear_each_other']} of "
            f"{result['pairs']} pairs of modules hear each other.\n",
            picture("enclaves", "The enclaves, from 0 (black) to 1."),
            picture("interaction-graph", "Who hears whom: a line where the kernel is above 0."),
            origin("enclaves", result, [result["run"]]),
        ]
    )


def speed() -> str:
    """The page on speed as it should be."""
    names = ("cores", "where_time_goes", "streaming", "precision", "many_modules", "data_waits", "skirmish_waits")
    results = {name: json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in names}
    cores, profile, many = results["cores"], results["where_time_goes"]["rows"], results["many_modules"]["rows"]
    kinds = list(dict.fromkeys(key for row in profile for key in row if key != "core"))
    tables = {
        "cores": markdown(
            ["core", "pass", "floor", "ours", "reference", "nn.LSTM", "peak"],
            [
                [row["core"], row["pass"], f"{1e3 * row['floor']:.0f} ms"]
                + [f"{row[name] / row['floor']:.2f}" for name in ("ours", "reference", "lstm")]
                + [f"{row['peak_bytes'] / 1e6:.0f} MB"]
                for row in cores
            ],
        ),
        "profile": markdown(["core", *kinds], [[r["core"], *(f"{r.get(k, 0):.0%}" for k in kinds)] for r in profile]),
        "streaming": markdown(
            ["one step", "ms"],
            [[name, f"{time:.2f}"] for name, time in results["streaming"]["milliseconds"].items()],
        ),
        "precision": markdown(
            ["products in", "seconds an update", "loss over the last fifth"],
            [
                [name, f"{time:.3f}", f"{results['precision']['loss_over_the_last_fifth'][name]:.4f}"]
                for name, time in results["precision"]["seconds_an_update"].items()
            ],
        ),
        "many": markdown(
            ["modules and views", "pairs a step", "ms a step", "MB a step", "peak"]
            + [
                f"{what}'s growth / pairs', {since}"
                for since in ("in all", "by the row")
                for what in ("time", "memory")
            ],
            [
                [
                    f"{r['modules']:,}",
                    f"{r['pairs']:,.0f}",
                    f"{1e3 * r['seconds']:.1f}",
                    f"{r['bytes'] / 1e6:.1f}",
                    f"{r['peak_bytes'] / 1e9:.2f} GB",
                    f"{r['time_growth_per_pair']:.2f}",
                    f"{r['memory_growth_per_pair']:.2f}",
                    f"{r['time_growth_per_pair_since_the_row_before']:.2f}",
                    f"{r['memory_growth_per_pair_since_the_row_before']:.2f}",
                ]
                for r in many
            ],
        ),
    }
    waits, battles = results["data_waits"], results["skirmish_waits"]
    return SPEED_TEXT.format(
        **tables,
        hardware=cores[0]["hardware"],
        torch=cores[0]["torch"],
        updates=results["precision"]["updates"],
        gather=f"{waits['gather_share']:.1%}",
        generate=f"{waits['generate_seconds']:.0f}",
        sequences=f"{waits['sequences']:,}",
        draw=f"{battles['gather_share']:.1%}",
        fight=f"{battles['generate_seconds']:.0f}",
        battles=f"{battles['sequences']:,}",
    )


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, ["---"] * len(heads), *rows))


def readme() -> str:
    """The README with its table as it should be."""
    result = json.loads((ROOT / "results" / "demo.json").read_text())
    tables = "\n".join(table(result["rows"], "f1", views) + "\n" for views in (1.0, 0.3))
    return re.sub(r"(<!-- results -->\n).*?(<!-- end -->)", rf"\1\n{tables}\n\2", README.read_text(), flags=re.S)


def table(rows: list[dict[str, Any]], metric: str, views: float) -> str:
    """One metric of all predictors over the numbers of balls; the mean and the range over seeds, where there are."""
    scores: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["views"] == views:
            scores.setdefault((row["predictor"], row["balls"]), []).append(row[metric])
    balls = sorted({number for _, number in scores})
    names = sorted(dict.fromkeys(name for name, _ in scores), key=lambda name: name in TRIVIAL)
    seen = "all views" if views == 1 else f"{views:.0%} of the views"
    heads = [f"{number} ball{'' if number == 1 else 's'}" for number in balls]

    def cell(values: list[float]) -> str:
        mean = f"{sum(values) / len(values):.3f}"
        return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"

    lines = [[name, *(cell(scores[name, number]) for number in balls)] for name in names]
    return markdown([f"{METRICS[metric]}, {seen}", *heads], lines)


def section(title: str, sentence: str, path: Path, result: dict[str, Any]) -> str:
    """One file's tables."""
    runs = result["runs"]
    if isinstance(runs, dict):
        runs = [{"label": label, **run} for label, run in runs.items()]
    metrics = [metric for metric in METRICS if metric in result["rows"][0]]
    lines = [f"## {title}\n", f"{sentence}\n", runs_table(runs)]
    lines += [f"\n{table(result['rows'], 'f1', views)}" for views in (1.0, 0.3)]
    more = "\n\n".join(table(result["rows"], metric, views) for views in (1.0, 0.3) for metric in metrics[1:])
    lines += ["", '??? note "Balanced accuracy, log-likelihood, calibration"\n', textwrap.indent(more, " " * 4)]
    trained = f"trained on {made(runs)}; written by `{result['command']}`."
    return "\n".join([*lines, "", f"`{path.relative_to(ROOT)}`: {trained}", ""])


def longer() -> str:
    """The long budget, whose runs stand in several results."""
    runs, rows, files = [], [], []
    for name, labels in LONGER.items():
        path = SHIPPED if name == "pretrained" else ROOT / "results" / f"{name}.json"
        result = json.loads(path.read_text()) if path.is_file() else {"runs": {}, "rows": []}
        trained = result["runs"]
        if isinstance(trained, list):
            trained = {run["label"]: run for run in trained}
        called = {label: known for label, known in labels.items() if label in trained}
        runs += [{**trained[label], "label": known} for label, known in called.items()]
        if not rows:
            called |= dict(zip(TRIVIAL, TRIVIAL, strict=True))
        rows += [
            {**row, "predictor": called[row["predictor"]]}
            for row in result["rows"]
            if row["predictor"] in called and row["views"] in (0.3, 1.0)
        ]
        files += [f"`{path.relative_to(ROOT)}`"] if trained else []
    tables = "\n\n".join(table(rows, metric, views) for metric in ("f1", "log_likelihood") for views in (1.0, 0.3))
    return (
        "## Longer\n\nOne run each on one core, as long as could be had, on the paper's world with short clips. S2GRU "
        "with positions injected into encoder and decoder too, as the baselines have it, and the paper's way, through "
        f"the kernel only. The shipped weights stand here again.\n\n{runs_table(runs)}\n\n{tables}\n\n"
        f"{', '.join(files)}: trained on {made(runs)}.\n"
    )


def runs_table(runs: list[dict[str, Any]]) -> str:
    """What was trained."""
    heads = ["run", "parameters", "learning rate", "minutes", "updates", "validation loss", "seed"]
    cells = [
        [
            run["label"],
            f"{run['parameters']:,}",
            f"{run.get('learning_rate', 2e-3):g}",
            f"{run['minutes']:.1f}",
            f"{run['updates']:,}",
            f"{run['val_loss']:.4f}",
            str(run["seed"]),
        ]
        for run in runs
    ]
    return markdown(heads, cells)


def removed(result: dict[str, Any]) -> str:
    """Figure 7."""
    rows, lines = result["rows"], ["## Modules removed (Figure 7)\n"]
    lines.append(
        "One-step F1 of the shipped S2GRU as modules, drawn at random, are removed at test time: the mean of "
        f"{result['draws']} draws. The band of the picture is their range.\n\n"
        "![F1 against the number of modules removed](figures/removed-modules.png)\n"
    )
    for number in sorted({row["balls"] for row in rows}):
        heads = sorted({row["removed"] for row in rows})
        score = {(r["predictor"], r["removed"]): r["f1"] for r in rows if r["balls"] == number}
        names = dict.fromkeys(name for name, _ in score)
        cells = [[name, *(f"{score[name, removed]:.3f}" for removed in heads)] for name in names]
        balls = f"{number} ball{'' if number == 1 else 's'}, removed:"
        lines.append(markdown([balls, *map(str, heads)], cells) + "\n")
    lines.append(
        f"`results/removed-modules.json`: {result['hardware']}, commit {result['commit']}; `{result['command']}`.\n"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sensors, agents = page_sensors.page(kept, markdown), page_agents.page(kept, markdown, runs_table, origin)
    pages = ((PAGE, page()), (SPEED, speed()), (SENSORS, sensors), (AGENTS, agents), (README, readme()))
    for path, wanted in pages:
        if "--check" not in sys.argv:
            path.write_text(wanted)
        elif not path.is_file() or path.read_text() != wanted:
            sys.exit(f"{path} is not what results/ says; run make results-page")
