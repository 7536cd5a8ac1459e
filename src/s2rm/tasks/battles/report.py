"""The report of runs on the skirmish: tables by scenario, a battle from above, shares of agents, modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.files import Row
from s2rm.likelihoods import parts
from s2rm.models.world_model import WorldModel
from s2rm.report.figures import figure, metrics
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, More, Picture, Table, comparison, drawn, learning, write_page
from s2rm.tasks.battles.polar import agents, observations, reporting
from s2rm.tasks.battles.scene import from_everywhere
from s2rm.tasks.battles.scores import SCENARIOS, VALIDATION
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles
from s2rm.tasks.battles.trajectories import UNIT_TYPES, Trajectories
from s2rm.tasks.crops import cells
from s2rm.tasks.task import Models
from s2rm.views import Views

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "unit_type_f1": "unit-type macro F1", "friendly_f1": "friendly-marker F1",
    "negative_mse": "negative mean squared error", "log_likelihood": "log-likelihood",
}  # fmt: skip
SENTENCES = {
    "unit_type_f1": "Mean F1 over the types of units that occur; 1 is perfect.",
    "friendly_f1": "F1 of the friendly marker, over all pixels.",
    "negative_mse": "Minus the mean squared error of health, energy, cooldown and shield; closer to 0 is better.",
    "log_likelihood": "Minus the loss, nats and squared error per pixel; closer to 0 is better.",
}
SHOWN = "5s3z"
"""scenario of the battle that is drawn from above"""
SHARE = 0.5
"""of its agents that report"""
OURS, THEIRS = "#0b6e99", "#c0392b"
MARKERS = {"colossus": "D", "stalker": "s", "zealot": "o"}


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: SkirmishWorld, seed: int = 0,
    folder: Path | None = None, more: More = More(),  # noqa: B008
) -> None:  # fmt: skip
    """Write the page; arguments as for `Task.write_report`."""
    lead = (
        "Each model observed the surroundings of the living units of one team, as polar images, and their actions, and "
        f"learned to predict their next observations. It was trained on {', '.join(world.train_scenarios)} (c "
        "colossus, s stalker, z zealot; both teams alike) and tested on two more scenarios. The battles are simulated; "
        "this is not StarCraft II."
    )
    seen = (
        f"World: a map of {world.map_size} x {world.map_size} units, steps of {world.seconds_per_step:g} s; images of "
        f"{world.grid.num_radii} radii and {world.grid.num_angles} angles, a field of view of "
        f"{world.grid.field_of_view:g} map units. Training: {world.train_battles:,} battles of {world.num_steps} steps "
        f"in clips of {world.clip}. Test: {world.test_battles:,} battles of each scenario."
    )
    pictures = [*_pictures(entries, rows, world, seed)]
    tables = [*_tables(rows, world), *more.tables]
    title = "Skirmishes, seen only from within"
    write_page(path, title, lead, entries, seen, tables, [*pictures, *more.pictures], more.verdict)


def _tables(rows: Sequence[Row], world: SkirmishWorld) -> list[Table]:
    """The four metrics by scenario, all agents reporting, and the first by the share of agents that report."""
    by_share = [row for row in rows if row["scenario"] == VALIDATION]
    by_scenario = [row for row in rows if row["scenario"] != VALIDATION and row["reporting"] == 1.0]
    scenarios = {name: name if name in world.train_scenarios else f"{name}, new" for name in SCENARIOS}
    tables = []
    for metric, label in LABELS.items():
        title, show = f"{label[0].upper()}{label[1:]}, one step ahead", ".3f" if metric.endswith("f1") else ".4f"
        tables.append(comparison(by_scenario, metric, "scenario", scenarios, title, label, SENTENCES[metric], show))
    shares = {share: f"{share:.0%}" for share in sorted({row["reporting"] for row in by_share})}
    title, sentence = "Unit-type macro F1, by share of agents that report", SENTENCES["unit_type_f1"]
    return [*tables, comparison(by_share, "unit_type_f1", "reporting", shares, title, "share", sentence)]


def _pictures(entries: Sequence[Entry], rows: Sequence[Row], world: SkirmishWorld, seed: int) -> Iterator[Picture]:
    battle = battles(replace(world, test_battles=1), "test", seed, SHOWN)
    models = {entry.label: entry.model for entry in entries if can_be_asked_anywhere(entry.model)}
    sentence = (
        f"A battle of {SHOWN}, a scenario that no model was trained on, in which {SHARE:.0%} of the friendly units "
        "report. Top: friendly units blue, the others red; diamonds are colossi, squares stalkers, discs zealots; "
        "reporting units are ringed, and their fields of view shaded. Below: where each model expects friendly units "
        "(blue) and others (red) one step ahead, observed or not; outlines are the true units. A model that keeps "
        "track of units fills the outlines, also outside the shaded area."
    )
    yield drawn("A battle from above", from_above(models, world, battle, SHARE, moments(battle), seed), sentence)
    sentence = (
        "The training scenarios; the share of the agents that report grows from left to right, and all agents are "
        "queried. Dashed: the simple predictors, which know nothing of tactics."
    )
    yield drawn("With fewer agents reporting", scores_by_reporting(rows), sentence)
    yield learning(entries)
    grid = cells(world.map_size).flip(-1).flip(0) + 0.5  # (east, north) of cells' middles, north up as from above
    yield from module_pictures(entries, grid, observations(battle, world.grid).views)


def scores_by_reporting(rows: Sequence[Row]) -> Figure:
    """The four metrics on the training scenarios against the share of the agents that report (Figure 8)."""
    rows = [row for row in rows if row["scenario"] == VALIDATION]
    return metrics(rows, "reporting", LABELS, "share of agents that report")


def moments(battle: Trajectories, number: int = 5) -> list[int]:
    """Steps of one battle, spread over the time in which both teams have living units."""
    ours, theirs = ((battle.alive[0] & side).any(-1) for side in (battle.friendly[0], ~battle.friendly[0]))
    fight = int((ours & theirs).sum())
    return [max(1, round(part)) for part in torch.linspace(0.1, 0.9, number).mul(fight - 1).tolist()]


def can_be_asked_anywhere(model: WorldModel) -> bool:
    """Whether a model needs neither the step that it predicts nor a guess, which is made for agents only."""
    return not model.is_oracle and not model.signature.corrects


@torch.no_grad()
def from_above(
    models: Models, world: SkirmishWorld, battle: Trajectories, share: float, steps: Sequence[int], seed: int = 0
) -> Figure:
    """One battle from above at some steps: the truth, and each model's one-step prediction of the whole map.

    Truth: friendly units blue, the others red; reporting agents are ringed, and their fields of view shaded.
    Prediction: the expected number of friendly units (blue) and others (red) in each cell, from predictions at places
    all over the map; the true units are outlined. A share of the agents reports, drawn by the seed. Steps count from 1.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Circle

    episode = reporting(observations(battle, world.grid), share, torch.Generator().manual_seed(seed))
    rows = 1 + len(models)
    made, panels = figure(rows, len(steps), 2.6 * len(steps) + 0.4, 2.75 * rows)
    shades = [OURS if friendly else THEIRS for friendly in battle.friendly[0]]
    for axes, step in zip(panels[0], steps, strict=True):
        places = battle.positions[0, step][agents(battle)[0]]
        for place in places[episode.views.mask[0, step]].tolist():
            axes.add_patch(Circle(place, world.grid.field_of_view, facecolor="#ecebe6", zorder=0))
            axes.scatter(place[0], place[1], s=90, facecolor="none", edgecolor="black", linewidth=0.8)
        _units(axes, battle, step, s=26, color=shades, linewidth=0)
        axes.set_title(f"step {step}", fontsize=9)
    colours = torch.tensor([to_rgb(OURS), to_rgb(THEIRS)])
    for line, (name, model) in zip(panels[1:], models.items(), strict=True):
        for axes, step in zip(line, steps, strict=True):
            amounts = torch.stack(belief(model, world, episode.views.steps(None, step)), -1).clamp(0, 1)
            picture = 1 - (amounts[..., None] * (1 - colours)).sum(-2).clamp(0, 1)
            axes.imshow(picture.numpy(), origin="lower", extent=(0, world.map_size, 0, world.map_size))
            _units(axes, battle, step, s=14, facecolor="none", edgecolor=shades, linewidth=0.6)
        line[0].set_ylabel(name)
    panels[0, 0].set_ylabel("truth")
    for axes in panels.flat:
        axes.set(xlim=(0, world.map_size), ylim=(0, world.map_size), aspect="equal", xticks=[], yticks=[])
    return made


@torch.no_grad()
def belief(model: WorldModel, world: SkirmishWorld, views: Views) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """The probability of a friendly unit, and of another, around each cell of the map, one step after the last views.

    It is the mean of the pixels in which the cell lies, over images that are predicted all over the map.
    """
    side = world.map_size
    centres, pixel, near = from_everywhere(side, world.grid)
    state = model.last(model.observe(views))
    friendly, types, _ = parts(model.predict(state, centres[None]).mean[0])
    somebody = types.sum(-3)
    ours = torch.minimum(friendly.squeeze(-3), somebody)
    maps = []
    for expected in (ours, somebody - ours):
        at_cells = expected.flatten(1).gather(1, pixel)
        mean = torch.where(near, at_cells, 0.0).sum(0) / near.sum(0).clamp(min=1)
        maps.append(mean.unflatten(0, (side, side)))
    return maps[0], maps[1]


def _units(axes: Axes, battle: Trajectories, step: int, **look: Any) -> None:
    """Draw a marker for each living unit, by type; a list in `look` has one entry for each unit."""
    for unit in battle.alive[0, step].nonzero()[:, 0].tolist():
        own = {name: value[unit] if isinstance(value, list) else value for name, value in look.items()}
        marker = MARKERS.get(UNIT_TYPES[int(battle.types[0, unit])], "^")
        east, north = battle.positions[0, step, unit].tolist()
        axes.scatter(east, north, marker=marker, **own)
