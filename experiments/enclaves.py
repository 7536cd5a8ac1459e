"""Figure 5: where in the arena each module of a trained S2RM listens and answers.

Writes `results/enclaves.json`, what the modules share, and the pictures of the enclaves and of who hears whom.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from common import draw, write
from s2rm import S2RM
from s2rm.report.figures import png
from s2rm.report.modules import enclaves, interaction_graph
from s2rm.runs import PRETRAINED, Run
from s2rm.tasks.balls import BallsWorld


@dataclass(frozen=True)
class Enclaves:
    """Whose enclaves."""

    run: Path = PRETRAINED / "s2gru"
    """run folder of an S2RM; the shipped one unless given"""
    out: Path = Path("results/enclaves.json")
    """the shares"""
    figures: Path = Path("docs/figures")
    """where the pictures go"""


def main(recipe: Enclaves) -> None:
    """Look, write, draw."""
    run = Run.open(recipe.run)
    model, world = run.load_model(), run.world
    if not isinstance(model, S2RM) or not isinstance(world, BallsWorld):
        raise SystemExit(f"enclaves: expected a run of an S2RM on the balls, got {run.label} on {run.task.name}")
    arena = world.arena
    line = torch.arange(arena, dtype=torch.float32)
    with torch.no_grad():
        weights = model.enclaves(torch.cartesian_prod(line, line)).unflatten(1, (arena, arena))
        kernel = model.interaction_graph()
    reached = (weights > 0).float()
    write(
        recipe.out,
        [run.about()],
        [{"module": module, "share_of_the_arena": share} for module, share in enumerate(reached.mean((1, 2)).tolist())],
        seed=run.settings.training.seed,
        pixels_that_some_module_sees=float(reached.amax(0).mean()),
        modules_that_see_a_pixel=float(reached.sum(0).mean()),
        pairs_that_hear_each_other=int((kernel.triu(1) > 0).sum()),
        pairs=len(kernel) * (len(kernel) - 1) // 2,
    )
    draw(
        recipe.figures,
        enclaves=png(enclaves(weights)),
        interaction_graph=png(interaction_graph(kernel, weights)),
    )


if __name__ == "__main__":
    main(tyro.cli(Enclaves))
