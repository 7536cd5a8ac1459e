"""Pictures of battles: from above, truth beside belief, and scores as agents fall silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm import plots
from s2rm.battle_evaluation import VALIDATION, reporting
from s2rm.likelihoods import parts
from s2rm.models.world_model import WorldModel
from s2rm.tasks.polar import agents, observations
from s2rm.tasks.skirmish import SkirmishWorld
from s2rm.tasks.trajectories import UNIT_TYPES, Trajectories
from s2rm.views import Views

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "unit_type_f1": "unit-type macro F1", "friendly_f1": "friendly-marker F1",
    "negative_mse": "negative mean squared error", "log_likelihood": "log-likelihood",
}  # fmt: skip
OURS, THEIRS = "#0b6e99", "#c0392b"
MARKERS = {"colossus": "D", "stalker": "s", "zealot": "o"}


def scores_by_reporting(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """The four metrics on the training scenarios against the share of the agents that report (Figure 8)."""
    rows = [row for row in rows if row["scenario"] == VALIDATION]
    made, (panels,) = plots.figure(1, 4, 13.5, 3.4)
    for axes, (metric, label) in zip(panels, LABELS.items(), strict=True):
        plots.lines(axes, rows, "reporting", metric)
        axes.set(xlabel="share of agents that report", title=label)
    panels[0].legend(frameon=False, fontsize=8)
    return plots.plain(made)


@torch.no_grad()
def from_above(
    models: Mapping[str, WorldModel],
    world: SkirmishWorld,
    battle: Trajectories,
    share: float,
    steps: Sequence[int],
    seed: int = 0,
) -> Figure:
    """One battle from above at some steps: truth, and what each model believes one step ahead of it.

    Truth: friendly units blue, the others red; agents that report are ringed by their field of view. Belief: how much
    friendly units (blue) and others (red) each model expects in each cell, from its predictions at places all over the
    map, looked at by nobody or not.

    Args:
        models: trained, by name.
        world: how battles are seen.
        battle: one battle.
        share: of the agents that report.
        steps: from 1 on, a column each.
        seed: of who reports.
    """
    from matplotlib.colors import to_rgb

    episode = reporting(observations(battle, world.grid), share, torch.Generator().manual_seed(seed))
    rows = 1 + len(models)
    made, panels = plots.figure(rows, len(steps), 2.6 * len(steps) + 0.4, 2.75 * rows)
    speaks = episode.views.mask[0]
    eyes = battle.positions[0].gather(1, agents(battle)[0, None, :, None].expand(speaks.shape[0], -1, 2))
    for axes, step in zip(panels[0], steps, strict=True):
        for unit in battle.alive[0, step].nonzero()[:, 0].tolist():
            name = UNIT_TYPES[int(battle.types[0, unit])]
            shade = OURS if battle.friendly[0, unit] else THEIRS
            axes.scatter(
                *battle.positions[0, step, unit], s=26, color=shade, marker=MARKERS.get(name, "^"), linewidth=0
            )
        for place in eyes[step][speaks[step]]:
            axes.add_patch(_circle(place, world.grid.field_of_view))
        axes.set_title(f"step {step}", fontsize=9)
    colours = torch.tensor([to_rgb(OURS), to_rgb(THEIRS)])
    for line, (name, model) in zip(panels[1:], models.items(), strict=True):
        ours, theirs = belief(model, world, episode.views.steps(None, max(steps)))
        for axes, step in zip(line, steps, strict=True):
            amounts = torch.stack([ours[step - 1], theirs[step - 1]], -1).clamp(0, 1)
            picture = 1 - (amounts[..., None] * (1 - colours)).sum(-2).clamp(0, 1)
            axes.imshow(picture, origin="lower", extent=(0, world.map_size, 0, world.map_size))
        line[0].set_ylabel(name)
    panels[0, 0].set_ylabel("truth")
    for axes in panels.flat:
        axes.set(xlim=(0, world.map_size), ylim=(0, world.map_size), aspect="equal", xticks=[], yticks=[])
    return made


def belief(
    model: WorldModel, world: SkirmishWorld, views: Views
) -> tuple[Float[Tensor, "T H W"], Float[Tensor, "T H W"]]:
    """How likely a friendly unit, and another, is in each cell of the map one step after each of the views.

    The mean over the pixels, of images asked for all over the map, that lie in the cell, but for the innermost, at
    which there always is who asks.
    """
    side = world.map_size
    line = torch.arange(1.0, side, 2.0)
    centres = torch.cartesian_prod(line, line)
    cells = world.grid.to_game(centres)[:, 1:].floor().long()
    inside = ((cells >= 0) & (cells < side)).all(-1)
    index = (cells[..., 1] * side + cells[..., 0])[inside]
    count = torch.bincount(index, minlength=side * side).clamp(min=1)
    mean = model.predict(model.observe(views), centres.expand(1, views.num_steps, -1, -1)).mean[0]
    friendly, types, _ = parts(mean)
    somebody = types.sum(-3)
    ours = torch.minimum(friendly.squeeze(-3), somebody)
    maps = []
    for expected in (ours, somebody - ours):
        told = expected[:, :, 1:][:, inside]
        total = told.new_zeros(len(told), side * side).index_add_(1, index, told)
        maps.append((total / count).unflatten(1, (side, side)))
    return maps[0], maps[1]


def _circle(place: Tensor, radius: float) -> Any:
    from matplotlib.patches import Circle

    return Circle((float(place[0]), float(place[1])), radius, facecolor=OURS, alpha=0.08, edgecolor="none")
