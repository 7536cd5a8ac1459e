"""Videos of one's own for the explorer."""

from __future__ import annotations

from pathlib import Path

import torch

from s2rm.explorer.scenes import Crops
from s2rm.tasks.arrays.world import ArrayWorld, Source

EPISODES, STEPS = 3, 160


def scene(world: ArrayWorld, seed: int, folder: Path | None = None) -> Crops:
    """The first test sequences.

    Raises:
        ValueError: a world of points or views, of which there is no page.
    """
    if world.kind != "frames":
        raise ValueError(f"explore: the page shows worlds of frames, got one of {world.kind}; see s2rm report")
    source, shown = Source(world, "test"), []
    for row in range(min(EPISODES, len(source))):
        frames = source.read("frames", torch.tensor([row]), torch.tensor([0]), min(STEPS, world.num_steps))[0]
        whole = frames if world.binary and world.white == 1 else (frames * (255 / world.white)).round()
        if world.binary and world.white != 1:
            whole = whole / 255
        shown.append((f"test sequence {row + 1}", whole.to(torch.uint8)))
    return Crops(Path(world.path).stem, shown, world.crop, world.num_views, world.binary)
