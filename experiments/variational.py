"""A variational S2GRU on the balls, beside the deterministic one: how probable the true frames are in blind rollouts.

Both are trained alike, for as many updates, one step ahead. After a prompt they go on without views. A frame's
likelihood is that of all pixels of a 4 x 4 grid of crops, as independent Bernoulli variables given the state: of the
deterministic model by its one rollout, of the variational one by the logarithm of the mean over samples, whose
expectation is a lower bound of its likelihood; all are nats a pixel. Writes `results/variational.json` and the picture
`variational.png`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from common import Recipe, draw, write
from s2rm import Episode, Views, WorldModel
from s2rm.files import Row
from s2rm.nn.over_time import map_state
from s2rm.report.figures import png
from s2rm.tasks.balls.report import rollout_strip
from s2rm.tasks.balls.scores import PROMPT_STEPS, Rollouts, TrivialPredictors
from s2rm.tasks.balls.world import BallsWorld, episode, grid_positions, preset, videos
from s2rm.tasks.crops import crops, stitch

PLAIN, LATENT = "S2GRU", "S2GRU, variational"
SHOWN = 4
"""samples in the picture"""


@dataclass(frozen=True)
class Variational(Recipe):
    """What to run."""

    updates: int = 600
    """updates of each model"""
    latent_size: int = 8
    """of each module's latent variable"""
    balls: tuple[int, ...] = (3,)
    """numbers of moving balls"""
    sequences: int = 60
    """test sequences for each"""
    samples: int = 32
    """rollouts of each sequence"""
    steps: int = 10
    """steps without views"""
    runs: Path = Path("runs/variational")
    """where the run folders are"""
    out: Path = Path("results/variational.json")
    """the likelihoods"""


@torch.no_grad()
def blind(
    model: WorldModel, prompt: Views, queries: Float[Tensor, "B Q 2"], samples: int, steps: int
) -> Iterator[Float[Tensor, "N B Q S S"]]:
    """Probabilities of N rollouts at once, after 0 to `steps` steps without views."""
    state = model.last(model.observe(prompt))
    state = map_state(lambda part: part.repeat(samples, *[1] * (part.ndim - 1)), state)
    nothing = Views.none(samples * len(queries), 2, model.value_shape, prompt.values)
    for step in range(steps + 1):
        if step:
            state = model.imagine(nothing, state)
        yield model.predict(state, queries.repeat(samples, 1, 1)).mean.unflatten(0, (samples, -1))


def log_likelihood(probability: Float[Tensor, "N B Q S S"], truth: Float[Tensor, "B Q S S"]) -> Float[Tensor, "N B"]:
    """Nats of each frame."""
    known = probability.clamp(1e-6, 1 - 1e-6)
    return torch.where(truth > 0.5, known.log(), (1 - known).log()).flatten(2).sum(-1)


def scored(
    models: dict[str, WorldModel], world: BallsWorld, balls: int, recipe: Variational
) -> tuple[list[Row], Rollouts]:
    """The rows of a number of balls, and rollouts to show."""
    seed, length = 0, PROMPT_STEPS + recipe.steps + 1
    few = replace(world, test_sequences=recipe.sequences)
    frames = videos(few, "test", seed, balls).frames()[:, :length]
    prompt = episode(world, frames[:, :PROMPT_STEPS], torch.Generator().manual_seed(seed)).views
    grid = grid_positions(world)
    queries = grid.expand(len(frames), -1, -1)
    later = frames[:, PROMPT_STEPS:]
    truth = crops(later, queries[:, None].expand(-1, later.shape[1], -1, -1), world.crop).float()
    rows, shown, each = list[Row](), dict[str, list[Tensor]](), dict[str, list[Tensor]]()
    torch.manual_seed(seed)  # of the samples
    for name, model in models.items():
        samples = recipe.samples if name == LATENT else 1
        for step, made in enumerate(blind(model, prompt, queries, samples, recipe.steps)):
            nats, pixels = log_likelihood(made, truth[:, step]), truth[0, step].numel()
            mixed = log_likelihood(made.mean(0, keepdim=True), truth[:, step])
            each.setdefault(name, []).append((nats.logsumexp(0) - math.log(samples)) / pixels)
            rows.append({
                "predictor": name, "balls": balls, "step": step, "log_likelihood": float(each[name][-1].mean()),
                "of_a_sample": float(nats.mean()) / pixels, "of_the_mean_frame": float(mixed.mean()) / pixels,
            })  # fmt: skip
            kept = (
                {name: made[0]} if name == PLAIN else {f"sample {k + 1}": made[k] for k in range(min(SHOWN, samples))}
            )
            for label, part in (kept | ({} if name == PLAIN else {f"mean of {samples}": made.mean(0)})).items():
                shown.setdefault(label, []).append(part)
    gain = torch.stack(each[LATENT]) - torch.stack(each[PLAIN])
    for row in rows:
        if row["predictor"] == LATENT:
            row["gain_share"] = float((gain[row["step"]] > 0).float().mean())
            row["gain_error"] = float(gain[row["step"]].std() / len(frames) ** 0.5)
    # The sequence whose samples differ most at the end.
    spread = torch.stack([parts[-1] for name, parts in shown.items() if name.startswith("sample")]).var(0)
    one = int(spread.flatten(1).sum(1).argmax())
    pictures = {name: stitch(torch.stack(parts, 1)[one : one + 1], grid, world.arena) for name, parts in shown.items()}
    return rows, Rollouts(later[one : one + 1], pictures)


def trivial_rows(world: BallsWorld, balls: int, recipe: Variational) -> list[Row]:
    """What predictors that know nothing of motion state, the same at every step."""
    seed, trivial = 0, TrivialPredictors(world, 0)
    few = replace(world, test_sequences=recipe.sequences)
    frames = videos(few, "test", seed, balls).frames()[:, : PROMPT_STEPS + recipe.steps + 1]
    views = episode(world, frames[:, :PROMPT_STEPS], torch.Generator().manual_seed(seed)).views
    where = grid_positions(world).expand(len(frames), PROMPT_STEPS + 1, -1, -1)
    nothing = views.at(-1).keep(torch.zeros((), dtype=torch.bool))
    asked = Episode(views.then(nothing), Views(where, torch.zeros(*where.shape[:3], world.crop, world.crop)))
    rows = list[Row]()
    for name, predict in trivial.by_name.items():
        likely = predict(asked).probability[:, -1]
        for step in range(recipe.steps + 1):
            truth = crops(frames[:, PROMPT_STEPS + step, None], where[:, :1], world.crop)[:, 0].float()
            nats = log_likelihood(likely[None], truth).mean() / truth[0].numel()
            rows.append({"predictor": name, "balls": balls, "step": step, "log_likelihood": float(nats)})
    return rows


def main(recipe: Variational) -> None:
    """Train both, score, draw, write."""
    sizes = {PLAIN: 0, LATENT: recipe.latent_size}
    runs = {name: recipe.run("s2gru", name=f"latent-{size}", latent_size=size) for name, size in sizes.items()}
    models, world, rows = {name: run.load_model() for name, run in runs.items()}, preset(recipe.size), list[Row]()
    for number in recipe.balls:
        found, rollouts = scored(models, world, number, recipe)
        rows += found + trivial_rows(world, number, recipe)
        if number == recipe.balls[0]:
            draw(recipe.figures, variational=png(rollout_strip(rollouts)))
    about = {"sequences": recipe.sequences, "samples": recipe.samples, "prompt": PROMPT_STEPS, "seed": 0}
    write(recipe.out, [run.about(name) for name, run in runs.items()], rows, **about)
    for row in rows:
        print({name: round(part, 4) if isinstance(part, float) else part for name, part in row.items()})


if __name__ == "__main__":
    main(tyro.cli(Variational))
