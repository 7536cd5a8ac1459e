"""A variational S2GRU on the balls, beside the deterministic one: how probable the true frames are in blind rollouts.

Both are the shipped S2GRU trained on, for as many updates. Half of the clips show no view from a random step on: the
deterministic model has to go on without, and so has the variational one, but that its latent variables read there, in
training, what would have been seen. After a prompt both go on without views. A frame's likelihood is that of all pixels
of a 4 x 4 grid of crops, as independent Bernoulli variables given the state: of the deterministic model by its one
rollout, of the variational one by the logarithm of the mean over samples, whose expectation is a lower bound of its
likelihood; all are nats a pixel. The picture shows the first sequence in which balls hit each other soon after the
prompt, and the first samples. Writes `results/variational.json` and the picture `variational.png`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from common import draw, read, write
from s2rm import S2RM, Episode, Views, load
from s2rm.files import Row, write_json
from s2rm.nn.over_time import map_state
from s2rm.report.figures import png
from s2rm.runs import PRETRAINED, SUMMARY, Run
from s2rm.tasks.balls.report import rollout_strip
from s2rm.tasks.balls.scores import PROMPT_STEPS, Rollouts, TrivialPredictors, episodes
from s2rm.tasks.balls.world import BallsWorld, episode, grid_positions, render, trajectories
from s2rm.tasks.crops import crops, stitch
from s2rm.tasks.worlds import blinded
from s2rm.training import LAST, MODEL, Training, batches, fit, provenance

PLAIN, LATENT, SHIPPED = "S2GRU", "S2GRU, variational", "S2GRU, shipped"
SHOWN = 4
"""samples in the picture"""
SOON = range(2, 5)
"""steps without views in which the first collision of the picture falls"""
BLIND = 0.5
"""share of the clips that show no view from a random step on"""


@dataclass(frozen=True)
class Variational:
    """What to run."""

    run: Path = PRETRAINED / "s2gru"
    """run folder of the deterministic model from which all start; the shipped one unless given"""
    updates: int = 500
    """updates of each model"""
    learning_rate: float = 1e-3
    """at the start; it falls along a cosine"""
    batch_size: int = 16
    """clips in a batch"""
    latent_size: int = 8
    """of each module's latent variable"""
    balls: int = 3
    """moving balls"""
    sequences: int = 100
    """sequences that are scored"""
    samples: int = 64
    """rollouts of each sequence"""
    steps: int = 10
    """steps without views"""
    runs: Path = Path("runs/variational")
    """where the run folders are; a model that is there is not trained again"""
    out: Path = Path("results/variational.json")
    """the likelihoods"""
    figures: Path = Path("docs/figures")
    """where the picture goes"""


def with_latents(model: S2RM, size: int) -> S2RM:
    """The same model, with latent variables that are as drawn."""
    made = S2RM(**{**model.arguments, "latent_size": size})  # type: ignore[arg-type]
    made.load_state_dict(model.state_dict(), strict=False)
    return made


def trained(recipe: Variational, label: str, run: Run, world: BallsWorld) -> tuple[Row, S2RM]:
    """The entry of a model in the result, and the model, trained on from the shipped one."""
    seed, model = run.settings.training.seed, run.load_model()
    assert isinstance(model, S2RM)
    torch.manual_seed(seed)
    model = with_latents(model, recipe.latent_size) if label == LATENT else model
    training = Training(
        learning_rate=recipe.learning_rate, batch_size=recipe.batch_size, gradient_norm=1.0, updates=recipe.updates,
        patience=1000, seed=seed + 1,
    )  # fmt: skip
    folder = recipe.runs / ("latent" if label == LATENT else "plain")
    about = {"label": label, "seed": seed, "learning_rate": recipe.learning_rate, "parameters": model.num_parameters}
    if not (folder / SUMMARY).is_file():
        parts = (blinded(episodes(world, split, seed), BLIND) for split in ("train", "val"))
        train, validation = parts
        loaders = batches(train, recipe.batch_size, seed + 1, True), batches(validation, 32, seed + 2, False)
        ended = fit(model.train(), *loaders, folder, training, resume=(folder / LAST).is_file())
        write_json(folder / SUMMARY, {**about, **ended, **provenance()})
    best = load(folder / MODEL)
    assert isinstance(best, S2RM)
    return read(folder / SUMMARY), best


@torch.no_grad()
def blind(
    model: S2RM, prompt: Views, queries: Float[Tensor, "B Q 2"], samples: int, steps: int
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


class Test(NamedTuple):
    """Sequences that are rolled out: a prompt, and the frames that follow it."""

    prompt: Views
    later: Tensor
    """frames `(B, 1 + steps, H, W)`"""
    centres: Float[Tensor, "B T K 2"]

    @classmethod
    def of(cls, world: BallsWorld, recipe: Variational) -> Test:
        centres, radii = trajectories(replace(world, test_sequences=recipe.sequences), "test", 0, recipe.balls)
        frames = render(world, centres, radii).frames()[:, : PROMPT_STEPS + recipe.steps + 1]
        prompt = episode(world, frames[:, :PROMPT_STEPS], torch.Generator().manual_seed(0)).views
        return cls(prompt, frames[:, PROMPT_STEPS:], centres)

    def collision(self, world: BallsWorld) -> tuple[int, int]:
        """The first sequence in which moving balls touch in one of the steps `SOON`, and not before, and that step."""
        pairs = combinations(range(self.centres.shape[2]), 2)
        away = torch.stack([(self.centres[:, :, one] - self.centres[:, :, two]).norm(dim=-1) for one, two in pairs])
        touch = (away.amin(0) < 2 * world.radius + 0.5)[:, PROMPT_STEPS - 2 :]
        first = torch.where(touch.any(1), touch.int().argmax(1) - 2, -1)
        chosen = torch.isin(first, torch.tensor(SOON)).nonzero().flatten().tolist()
        return (chosen[0], int(first[chosen[0]])) if chosen else (0, -1)


def scored(
    name: str, model: S2RM, test: Test, world: BallsWorld, recipe: Variational
) -> tuple[list[Row], Float[Tensor, "T B"], Float[Tensor, "N B T Q S S"]]:
    """The rows of a model, the nats a pixel of each sequence, and the first rollouts."""
    grid = grid_positions(world)
    queries = grid.expand(len(test.later), -1, -1)
    samples = 1 if model.latents is None else recipe.samples
    rows, each, kept = list[Row](), list[Tensor](), list[Tensor]()
    torch.manual_seed(0)  # of the samples
    for step, made in enumerate(blind(model, test.prompt, queries, samples, recipe.steps)):
        truth = crops(test.later[:, step, None], queries[:, None], world.crop)[:, 0].float()
        nats, mean = log_likelihood(made, truth), made.mean(0, keepdim=True)
        pixels, sure = truth[0].numel(), made > 0.5
        each.append((nats.logsumexp(0) - math.log(samples)) / pixels)
        rows.append({
            "predictor": name, "balls": recipe.balls, "step": step, "log_likelihood": float(each[-1].mean()),
            "of_a_sample": float(nats.mean()) / pixels,
            "of_the_mean_frame": float(log_likelihood(mean, truth).mean()) / pixels,
            "f1_of_a_sample": f1(sure, truth > 0.5), "f1_of_two_samples": f1(sure, sure.roll(1, 0)),
        })  # fmt: skip
        kept.append(torch.cat([made[:SHOWN], mean]))
    return rows, torch.stack(each), torch.stack(kept, 2)


def f1(one: Tensor, other: Tensor) -> float:
    """Of pixels that are on in either."""
    one, other = torch.broadcast_tensors(one, other)
    return float(2 * (one & other).sum() / (one.sum() + other.sum()).clamp(min=1))


def trivial_rows(test: Test, world: BallsWorld, recipe: Variational) -> list[Row]:
    """What predictors that know nothing of motion state, the same at every step."""
    where = grid_positions(world).expand(len(test.later), PROMPT_STEPS + 1, -1, -1)
    nothing = test.prompt.at(-1).keep(torch.zeros((), dtype=torch.bool))
    asked = Episode(test.prompt.then(nothing), Views(where, torch.zeros(*where.shape[:3], world.crop, world.crop)))
    rows = list[Row]()
    for name, predict in TrivialPredictors(world, 0).by_name.items():
        likely = predict(asked).probability[:, -1]
        for step in range(recipe.steps + 1):
            truth = crops(test.later[:, step, None], where[:, :1], world.crop)[:, 0].float()
            nats = log_likelihood(likely[None], truth).mean() / truth[0].numel()
            about = {"predictor": name, "balls": recipe.balls, "step": step}
            rows.append({**about, "log_likelihood": float(nats)})
    return rows


def main(recipe: Variational) -> None:
    """Train what is not there, score, draw, write."""
    run = Run.open(recipe.run)
    world = run.world
    if not isinstance(world, BallsWorld):
        raise SystemExit(f"variational: expected a run on the balls, got one on the {run.task.name}")
    test, shipped = Test.of(world, recipe), run.load_model()
    assert isinstance(shipped, S2RM)
    models, about = {SHIPPED: shipped}, [run.about(SHIPPED)]
    for label in (LATENT, PLAIN):
        entry, models[label] = trained(recipe, label, run, world)
        about.append(entry)
    found = {name: scored(name, model, test, world, recipe) for name, model in models.items()}
    each, shown = ({name: parts[number] for name, parts in found.items()} for number in (1, 2))
    rows = trivial_rows(test, world, recipe) + [row for parts in found.values() for row in parts[0]]
    for row in rows:
        if row["predictor"] in each.keys() - {PLAIN}:
            gain = (each[row["predictor"]] - each[PLAIN])[row["step"]]
            row |= {"gain_share": float((gain > 0).float().mean()), "gain_error": float(gain.std() / len(gain) ** 0.5)}
    one, step = test.collision(world)
    frames = {PLAIN: shown[PLAIN][0]} | {f"sample {k + 1}": shown[LATENT][k] for k in range(SHOWN)}
    frames |= {f"mean of {recipe.samples}": shown[LATENT][-1]}
    parts = {name: stitch(part[one : one + 1], grid_positions(world), world.arena) for name, part in frames.items()}
    draw(recipe.figures, variational=png(rollout_strip(Rollouts(test.later[one : one + 1], parts))))
    facts = {
        "sequences": recipe.sequences, "samples": recipe.samples, "prompt": PROMPT_STEPS, "seed": 0,
        "shown": one, "collision": step,
    }  # fmt: skip
    write(recipe.out, about, rows, **facts)
    for row in rows:
        print({name: round(part, 4) if isinstance(part, float) else part for name, part in row.items()})


if __name__ == "__main__":
    main(tyro.cli(Variational))
