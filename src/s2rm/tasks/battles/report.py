"""One self-contained HTML page of runs on the skirmish: tables, a battle from above, who falls silent, enclaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from s2rm.models.s2rm import S2RM
from s2rm.report import figures as plots
from s2rm.report.page import comparison, modules, setting, trained, write_page
from s2rm.runs import Run, same_world
from s2rm.tasks.battles import plots as battle_plots
from s2rm.tasks.battles.polar import observations
from s2rm.tasks.battles.scores import SCENARIOS, VALIDATION
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles

SENTENCES = {
    "unit_type_f1": "Mean F1 over the types of units that occur; 1 is perfect.",
    "friendly_f1": "F1 of the markers of friendly units, over all pixels.",
    "negative_mse": "Minus the squared error of health, energy, cooldown and shield; closer to 0 is better.",
    "log_likelihood": "Minus the loss, nats and squared error a pixel; closer to 0 is better.",
}
SHOWN = "5s3z"
SHARE = 0.5


def write_battle_report(path: Path, runs: Sequence[Run], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the page.

    Args:
        path: of the HTML file, written whole or not at all.
        runs: the runs that it shows, all of one world.
        rows: their one-step scores, as from `tabulate`.

    Raises:
        ImportError: the extra `s2rm[report]` is not installed.
    """
    world, seed = same_world(list(runs)), runs[0].settings.training.seed
    assert isinstance(world, SkirmishWorld)
    battle = battles(replace(world, test_battles=1), "test", seed, SHOWN)
    models = {run.label: run.load_model() for run in runs}
    shares = sorted({row["reporting"] for row in rows if row["scenario"] == VALIDATION})
    heads = {scenario: scenario if scenario in world.train_scenarios else f"{scenario}, new" for scenario in SCENARIOS}
    by_share = {share: f"{share:.0%}" for share in shares}
    silent = [row for row in rows if row["scenario"] == VALIDATION]
    fought = [row for row in rows if row["scenario"] != VALIDATION]
    above = battle_plots.from_above(seeing(models), world, battle, SHARE, battle_plots.moments(battle), seed)
    pictures = [
        (
            "A battle from above",
            "image/png",
            plots.png(above),
            f"A battle of {SHOWN}, which no model trained on, of which {SHARE:.0%} of the friendly units report. Top: "
            "friendly units blue, the others red; diamonds are colossi, squares stalkers, discs zealots; who reports "
            "is ringed, what they see is shaded. Below: where each model expects friendly units (blue) and others "
            "(red) one step ahead, seen or not; outlines are who is there. A model that keeps track colours the "
            "outlines, also outside the shade.",
        ),
        (
            "When agents fall silent",
            "image/png",
            plots.png(battle_plots.scores_by_reporting(rows)),
            "The training scenarios, left to right more agents that report; all are asked. Dashed: the two predictors "
            "that know nothing of tactics.",
        ),
        (
            "Learning",
            "image/png",
            plots.png(plots.learning_curves({run.label: run.history() for run in runs})),
            "Validation loss against the time spent training.",
        ),
    ]
    line = torch.arange(0.5, world.map_size)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).flip(0)  # north up, as from above
    for run in runs:
        model = models[run.label]
        if isinstance(model, S2RM):
            pictures += modules(run, model, grid, observations(battle, world.grid).views)
    write_page(
        path,
        title="Skirmishes, seen only from within",
        lead=(
            "Each model saw what the living units of one team see around them, in polar images, and what they do, and "
            f"learned to predict what they see next. It trained on {', '.join(world.train_scenarios)} (c colossus, s "
            "stalker, z zealot; both teams alike) and was tested on two scenarios more. This is a simulator of our "
            "own, not StarCraft II."
        ),
        runs=trained(runs),
        world=(
            f"World: a map of {world.map_size} x {world.map_size} units, steps of {world.seconds_per_step:g} s; images "
            f"of {world.grid.num_radii} radii and {world.grid.num_angles} angles out to {world.grid.field_of_view:g} "
            f"units. Training: {world.train_battles:,} battles of {world.num_steps} steps in clips of {world.clip}. "
            f"Test: {world.test_battles:,} battles of each scenario."
        ),
        setting=" ".join(setting(run) for run in runs),
        summary=runs[0].summary(),
        tables=[
            *(
                comparison(
                    fought, metric, "scenario", heads, f"{label[0].upper()}{label[1:]}, one step ahead", label,
                    SENTENCES[metric], digits=3 if metric.endswith("f1") else 4,
                )
                for metric, label in battle_plots.LABELS.items()
            ),
            comparison(
                silent, "unit_type_f1", "reporting", by_share, "Unit-type macro F1, by share of agents that report",
                "share", SENTENCES["unit_type_f1"],
            ),
        ],
        pictures=pictures,
    )  # fmt: skip


def seeing(models: Mapping[str, Any]) -> dict[str, Any]:
    """Those that do not look at the step that they predict."""
    return {name: model for name, model in models.items() if not model.is_oracle}
