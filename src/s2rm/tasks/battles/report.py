"""The report of runs on the skirmish: tables by scenario, a battle from above, silent agents, modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from s2rm.files import Row
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, Picture, Table, comparison, drawn, learning, write_page
from s2rm.tasks.battles import plots
from s2rm.tasks.battles.polar import observations
from s2rm.tasks.battles.scores import SCENARIOS, VALIDATION
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles
from s2rm.tasks.battles.trajectories import Trajectories
from s2rm.tasks.crops import cells

SENTENCES = {
    "unit_type_f1": "Mean F1 over the types of units that occur; 1 is perfect.",
    "friendly_f1": "F1 of the friendly marker, over all pixels.",
    "negative_mse": "Minus the mean squared error of health, energy, cooldown and shield; closer to 0 is better.",
    "log_likelihood": "Minus the loss, nats and squared error a pixel; closer to 0 is better.",
}
SHOWN = "5s3z"
"""scenario of the battle that is drawn from above"""
SHARE = 0.5
"""of its agents that report"""


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: SkirmishWorld, seed: int = 0,
    folder: Path | None = None,
) -> None:  # fmt: skip
    """Write the page; arguments as of `Task.write_report`."""
    battle = battles(replace(world, test_battles=1), "test", seed, SHOWN)
    write_page(
        path,
        title="Skirmishes, seen only from within",
        lead=(
            "Each model observed the surroundings of the living units of one team, as polar images, and their actions, "
            "and learned to predict their next observations. It was trained on "
            f"{', '.join(world.train_scenarios)} (c colossus, s stalker, z zealot; both teams alike) and tested on two "
            "more scenarios. The battles are simulated; this is not StarCraft II."
        ),
        entries=entries,
        world=(
            f"World: a map of {world.map_size} x {world.map_size} units, steps of {world.seconds_per_step:g} s; images "
            f"of {world.grid.num_radii} radii and {world.grid.num_angles} angles, a field of view of "
            f"{world.grid.field_of_view:g} map units. Training: {world.train_battles:,} battles of {world.num_steps} "
            f"steps in clips of {world.clip}. Test: {world.test_battles:,} battles of each scenario."
        ),
        tables=_tables(rows, world),
        pictures=_pictures(entries, rows, world, battle, seed),
    )


def _tables(rows: Sequence[Row], world: SkirmishWorld) -> list[Table]:
    """The four metrics by scenario, and the first by the share of agents that report."""
    by_share = [row for row in rows if row["scenario"] == VALIDATION]
    by_scenario = [row for row in rows if row["scenario"] != VALIDATION]
    trained = world.train_scenarios
    heads: dict[object, str] = {name: name if name in trained else f"{name}, new" for name in SCENARIOS}
    shares: dict[object, str] = {share: f"{share:.0%}" for share in sorted({row["reporting"] for row in by_share})}
    tables = [
        comparison(
            by_scenario, metric, "scenario", heads, f"{label[0].upper()}{label[1:]}, one step ahead", label,
            SENTENCES[metric], show=".3f" if metric.endswith("f1") else ".4f",
        )
        for metric, label in plots.LABELS.items()
    ]  # fmt: skip
    title = "Unit-type macro F1, by share of agents that report"
    silent = comparison(by_share, "unit_type_f1", "reporting", shares, title, "share", SENTENCES["unit_type_f1"])
    return [*tables, silent]


def _pictures(
    entries: Sequence[Entry], rows: Sequence[Row], world: SkirmishWorld, battle: Trajectories, seed: int
) -> list[Picture]:
    models = {entry.label: entry.model for entry in entries if not entry.model.is_oracle}
    grid = cells(world.map_size).flip(-1).flip(0) + 0.5  # (east, north) of cells' middles, north up as from above
    return [
        drawn(
            "A battle from above",
            plots.from_above(models, world, battle, SHARE, plots.moments(battle), seed),
            f"A battle of {SHOWN}, a scenario that no model was trained on, in which {SHARE:.0%} of the friendly units "
            "report. Top: friendly units blue, the others red; diamonds are colossi, squares stalkers, discs zealots; "
            "reporting units are ringed, and their fields of view shaded. Below: where each model expects friendly "
            "units (blue) and others (red) one step ahead, observed or not; outlines are the true units. A model that "
            "keeps track of units fills the outlines, also outside the shaded area.",
        ),
        drawn(
            "When agents fall silent",
            plots.scores_by_reporting(rows),
            "The training scenarios; the share of the agents that report grows from left to right, and all agents are "
            "queried. Dashed: the two predictors that know nothing of tactics.",
        ),
        learning(entries),
        *module_pictures(entries, grid, observations(battle, world.grid).views),
    ]
