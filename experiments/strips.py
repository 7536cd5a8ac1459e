"""RIMs, Figure 6: which modules attend to which balls, where every encoder sees one strip of the frame.

Four balls are seen in whole frames, cut into horizontal strips; all but one strip is 0 in what an encoder sees, and
RIMs attend to the encodings as to a set. Writes `results/strips.json` after every run, early in training and at its
end how far the attention of the active modules to a strip goes with the balls in it, and `docs/figures/strips.png`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import tyro
from jaxtyping import Bool, Float
from rich.progress import track
from torch import Tensor

from common import add, draw, read
from s2rm import GQN, RIMs, Views
from s2rm.files import Row, read_safetensors
from s2rm.models.gqn import CoreState
from s2rm.models.model import WEIGHTS
from s2rm.report.figures import figure, png
from s2rm.tasks.balls.scores import episodes
from s2rm.tasks.balls.world import BallsWorld, episode, preset, render, trajectories
from s2rm.training import Training, batches, fit, provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIPS = 6
"""of a frame, as many as modules"""
SHOWN = 8
"""steps in the picture"""


@dataclass(frozen=True)
class Recipe:
    """What to train, and for how long."""

    updates: tuple[int, ...] = (100, 1000)
    """of each model: early in training, and at its end"""
    batch_size: int = 8
    clip: int = 12
    """frames of a training clip"""
    hidden_size: int = 240
    balls: int = 4
    """moving balls, in training and in the test"""
    sequences: int = 100
    """of the test"""
    train_sequences: int = 4000
    seeds: int = 3
    runs: Path = Path("runs/strips")
    """where the run folders are"""
    out: Path = Path("results/strips.json")
    """the correlations"""
    figures: Path = Path("docs/figures")
    """where the picture goes"""

    @property
    def world(self) -> BallsWorld:
        """The world in which models are trained and scored."""
        sizes = {"train_sequences": self.train_sequences, "val_sequences": 30, "test_sequences": self.sequences}
        return replace(preset("frames"), num_balls=self.balls, clip=self.clip, **sizes)


class Striped(GQN):
    """The baselines' RIMs on a set of encodings, one for each strip of the frame: four of six modules are active."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        size = self.core.hidden_size
        self.core = RIMs(size, size, batch_first=True, num_modules=STRIPS, num_active=4)

    def summed(self, views: Views) -> Float[Tensor, "B T S H"]:
        """The encodings of the strips, which are not summed."""
        side = views.values.shape[-1]
        row = (torch.arange(side) * STRIPS // (side - 1)).clamp(max=STRIPS - 1)  # views have one row more than frames
        only = (row == torch.arange(STRIPS)[:, None])[..., None]
        places, there = views.positions.expand(-1, -1, STRIPS, -1), views.mask.expand(-1, -1, STRIPS)
        _, encodings = self.encode(Views(places, views.values * only, there))
        return self.norm(encodings, there)


class Seen(NamedTuple):
    """A test sequence as a model attends to it."""

    frames: Tensor
    """`(B, T, H, W)`"""
    balls: Float[Tensor, "B T S"]
    """the number of balls whose centre is in each strip"""
    attention: Float[Tensor, "B T M S"]
    """of each module to each strip; 0 where it is not active"""


def main(recipe: Recipe) -> None:
    """Train and look at what is missing, write, draw."""
    for seed in range(recipe.seeds):
        for updates in recipe.updates:
            label = f"RIMs, {updates:,} updates"
            if (label, seed) not in {(run["label"], run["seed"]) for run in read(recipe.out).get("runs", [])}:
                run = {"label": label, **train(recipe, updates, seed)}
                rows = rows_of(attention_of(trained(recipe, updates, seed), recipe.world))
                rows = [{**row, "seed": seed, "size": updates} for row in rows]
                add(recipe.out, [run], rows, balls=recipe.balls, sequences=recipe.sequences)
    seen = {f"{updates:,}": attention_of(trained(recipe, updates, 0), recipe.world) for updates in recipe.updates}
    draw(recipe.figures, strips=png(drawn(seen)))


def build(recipe: Recipe) -> Striped:
    """A model that is not trained yet."""
    space = {"extent": [(0.0, recipe.world.side)] * 2}
    return Striped(hidden_size=recipe.hidden_size, core="rims", **recipe.world.model_arguments(), **space)


def trained(recipe: Recipe, updates: int, seed: int) -> Striped:
    """The model that was trained for so many updates."""
    model = build(recipe)
    model.load_state_dict(read_safetensors(recipe.runs / f"{updates}-{seed}" / "model" / WEIGHTS)[0])
    return model.eval()


def train(recipe: Recipe, updates: int, seed: int) -> Row:
    """Train a model for so many updates, and say how it was trained."""
    torch.manual_seed(seed)
    model, world = build(recipe), recipe.world
    training = Training(
        learning_rate=1e-3, batch_size=recipe.batch_size, updates=updates, patience=1000, gradient_norm=1.0, seed=seed,
        precision="32-true",
    )  # fmt: skip
    loaders = [
        batches(episodes(world, split, seed), recipe.batch_size, seed, shuffle=split == "train")
        for split in ("train", "val")
    ]
    ended = fit(model, *loaders, recipe.runs / f"{updates}-{seed}", training)
    return {
        "learning_rate": training.learning_rate,
        **ended,
        "parameters": model.num_parameters,
        "seed": seed,
        **provenance(),
    }


@torch.no_grad()
def attention_of(model: GQN, world: BallsWorld) -> Seen:
    """The attention of the modules on the test sequences, seen to their end."""
    centres, radii = trajectories(world, "test", 0)
    frames, parts = render(world, centres, radii).frames(), []
    for some in track(frames.split(10), "attention"):
        views = episode(world, some, torch.Generator().manual_seed(0)).views
        state: CoreState = model.initial_state(len(some))
        _, (trace,) = model.core.trace(model.summed(views), state.memory)
        parts.append(trace.input_weights[:, :, 0, :, 1:] * trace.active[..., None])
    strip = (centres[..., 0] * STRIPS / world.arena).long().clamp(0, STRIPS - 1)
    return Seen(frames, torch.nn.functional.one_hot(strip, STRIPS).sum(2).float(), torch.cat(parts))


def rows_of(seen: Seen) -> list[Row]:
    """The correlation of the number of balls in a strip with the attention to it, of all modules, of each, and of all
    on another sequence, which knows nothing of these balls; and the largest share of a module's attention on a strip.
    """
    balls = within_strips(seen.balls)

    def correlation(attention: Float[Tensor, "B T S"]) -> float:
        pair = torch.stack([balls.flatten(), within_strips(attention).flatten()])
        return float(torch.corrcoef(pair)[0, 1].nan_to_num())

    share = seen.attention.sum((0, 1)) / seen.attention.sum((0, 1)).sum(-1, keepdim=True).clamp(min=1e-9)
    rows: list[Row] = [{"module": "all", "correlation": correlation(seen.attention.sum(2))}]
    for module in range(seen.attention.shape[2]):
        alone = correlation(seen.attention[:, :, module])
        rows.append({"module": str(module + 1), "correlation": alone, "most": float(share[module].max())})
    shuffled = seen.attention.sum(2)[torch.randperm(len(balls), generator=torch.Generator().manual_seed(0))]
    rows.append({"module": "all, of another sequence", "correlation": correlation(shuffled)})
    return [{"predictor": "RIMs", **row} for row in rows]


def within_strips(amount: Float[Tensor, "B T S"]) -> Float[Tensor, "B T S"]:
    """What differs from the mean of each strip: inner strips have more balls than outer ones, whatever happens."""
    return amount - amount.mean((0, 1))


def active_strips(attention: Float[Tensor, "M S"]) -> Bool[Tensor, " S"]:
    """The strips to which an active module attends most."""
    read = torch.zeros(attention.shape[1], dtype=torch.bool)
    read[attention[attention.sum(-1) > 0].argmax(-1)] = True
    return read


def drawn(seen: dict[str, Seen]) -> Figure:
    """Frames of the first sequence, with the strips shaded that active modules attend to most."""
    made, axes = figure(len(seen), SHOWN, 1.3 * SHOWN, 1.45 * len(seen))
    for line, (updates, one) in zip(axes, seen.items(), strict=True):
        for column, panel in enumerate(line):
            step = 5 * column + 2
            frame, read = one.frames[0, step], active_strips(one.attention[0, step])
            panel.imshow(frame.numpy(), cmap="gray_r", vmin=0, vmax=2)
            height = len(frame) / STRIPS
            for strip in read.nonzero().flatten().tolist():
                ends = strip * height - 0.5, (strip + 1) * height - 0.5
                panel.axhspan(*ends, color="#b45309", alpha=0.25, linewidth=0)
            panel.set(xticks=[], yticks=[], title=f"step {step}")
            panel.title.set_fontsize(8)
        line[0].set_ylabel(f"{updates} updates", fontsize=8)
    return made


if __name__ == "__main__":
    main(tyro.cli(Recipe))
