"""How well models predict battles one step ahead: by scenario, and as agents fall silent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score
from torchmetrics.functional.classification import multiclass_confusion_matrix

from s2rm.likelihoods import parts
from s2rm.models.world_model import WorldModel
from s2rm.tasks.polar import STATE, PolarGrid, agents, draw, observations, unit_channels
from s2rm.tasks.skirmish import SkirmishWorld, battles
from s2rm.tasks.trajectories import UNIT_TYPES, Trajectories
from s2rm.views import Episode

REPORTING = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""shares of the agents that report, as in Figure 8"""
SCENARIOS = ("1c3s5z", "3s5z", "2s5z", "1s2z", "5s3z")
"""the first three to train on, the others new"""
VALIDATION = "validation"
"""the training scenarios together"""
NUM_TYPES = len(UNIT_TYPES) + 1
"""no unit, and the types"""
LEAST = 1e-6


@dataclass(frozen=True)
class Forecast:
    """What a predictor says of the polar images at steps 1 to T."""

    friendly: Float[Tensor, "B T Q I J"]
    """probability that a friendly unit is there"""
    types: Float[Tensor, "B T Q K I J"]
    """probabilities of no unit, and of each type"""
    stats: Float[Tensor, "B T Q S I J"]
    """mean of each scaled stat"""
    is_friendly: Bool[Tensor, "B T Q I J"]
    """the markers that it decides on"""
    kind: Int[Tensor, "B T Q I J"]
    """the type that it decides on, 0 for no unit"""


Predictor = Callable[[Trajectories, Episode], Forecast]
"""From battles over T+1 steps, and from what the agents that report see of them, to what all agents will see. Of the
battles it may use what the reporting agents see only, and who asks; see `TrivialPredictors`."""


def model_predictor(model: WorldModel) -> Predictor:
    """A trained model's one-step prediction: markers above 0.5, and the likeliest type."""

    def predict(_: Trajectories, episode: Episode) -> Forecast:
        mean = model.predict(model.states_before_targets(episode.views), episode.targets.positions[:, 1:]).mean
        friendly, types, stats = parts(mean)
        types = torch.cat([1 - types.sum(-3, keepdim=True), types], -3)
        friendly = friendly.squeeze(-3)
        return Forecast(friendly, types, stats, friendly > 0.5, types.argmax(-3))

    return predict


class TrivialPredictors:
    """The two predictors that know nothing of tactics, and that every table carries.

    *Nobody moves*: every unit that an agent that reported saw at the last step is where and as it was then. *Last
    seen*: so is every unit that was seen before, until its place is looked at and it is not there. Both know that who
    asks stands where it is asked. Their probabilities are how often, in training with all agents reporting, each type
    and marker was there where one was drawn, at the pixel of who asks and at all others.

    Args:
        grid: of the pixels.
        train: training battles.
    """

    def __init__(self, grid: PolarGrid, train: Trajectories):
        self.grid = grid
        self.tables = {
            memory: (torch.eye(2).repeat(2, 1, 1), torch.eye(NUM_TYPES).repeat(2, 1, 1)) for memory in (False, True)
        }
        episode = observations(train, grid)
        there = episode.targets.mask[:, 1:]
        truth = kinds(episode.targets.values[:, 1:][there])
        for memory in (False, True):
            said = self._predict(train, episode, memory)
            pairs = zip((said.is_friendly.long(), said.kind), truth, strict=True)
            self.tables[memory] = tuple(self._frequencies(drawn[there], true) for drawn, true in pairs)  # type: ignore[assignment]

    def nobody_moves(self, fought: Trajectories, episode: Episode) -> Forecast:
        return self._predict(fought, episode, memory=False)

    def last_seen(self, fought: Trajectories, episode: Episode) -> Forecast:
        return self._predict(fought, episode, memory=True)

    def _frequencies(self, drawn: Int[Tensor, "N I J"], true: Int[Tensor, "N I J"]) -> Float[Tensor, "2 K K"]:
        """How often what is true where something was drawn, at the pixel of who asks and at the others."""
        classes = 2 if int(max(drawn.max(), true.max())) < 2 else NUM_TYPES
        middle = torch.zeros(drawn.shape[1:], dtype=torch.bool)
        middle[0, 0] = True
        counts = torch.stack(
            [multiclass_confusion_matrix(drawn[:, at], true[:, at], num_classes=classes).T for at in (middle, ~middle)]
        )
        seen = counts.sum(-1, keepdim=True)
        return torch.where(seen > 0, counts, counts.sum(1, keepdim=True)) / torch.where(
            seen > 0, seen, counts.sum((1, 2), keepdim=True)
        ).clamp(min=1)

    def _predict(self, fought: Trajectories, episode: Episode, memory: bool) -> Forecast:
        believed, there = self._belief(fought, episode.views.mask, memory)
        centres = episode.targets.positions[:, 1:]
        asking = agents(fought)[:, None, :, None]
        units = torch.arange(fought.alive.shape[2])
        gaps = believed.positions[:, :, None] - centres[..., None, :]
        gaps = torch.where((units == asking)[..., None], 0.0, gaps)
        slots = gaps.shape[:-1]
        channels = unit_channels(believed)[..., :STATE]
        images = draw(self.grid, gaps, there[:, :, None].expand(slots), channels[:, :, None].expand(*slots, -1))
        is_friendly, kind = kinds(images)
        is_friendly[..., 0, 0] = 1
        ask_or_not = torch.ones(images.shape[-2:], dtype=torch.long)
        ask_or_not[0, 0] = 0
        friendly, types = self.tables[memory]
        return Forecast(
            friendly[ask_or_not, is_friendly][..., 1],
            types[ask_or_not, kind].movedim(-1, -3),
            parts(images)[2],
            is_friendly.bool(),
            kind,
        )

    def _belief(
        self, fought: Trajectories, reports: Bool[Tensor, "B L A"], memory: bool
    ) -> tuple[Trajectories, Bool[Tensor, "B T U"]]:
        """The units as they were last seen by each step but the last, and which of them are believed to be there."""
        steps = torch.arange(fought.alive.shape[1] - 1)
        eyes = fought.positions.gather(2, agents(fought)[:, None, :, None].expand(-1, len(steps) + 1, -1, 2))

        def in_sight(places: Tensor) -> Tensor:
            near = torch.cdist(eyes[:, :-1], places) <= self.grid.field_of_view
            return (near & reports[:, :-1, :, None]).any(2)

        seen = fought.alive[:, :-1] & in_sight(fought.positions[:, :-1])
        when = torch.where(seen, steps[:, None], -1)
        if memory:
            when = when.cummax(1).values
        then = when.clamp(min=0)
        kept = {
            name: part.gather(1, then.view(*then.shape, *(1,) * (part.ndim - 3)).expand(*then.shape, *part.shape[3:]))
            for name, part in (("positions", fought.positions), ("stats", fought.stats))
        }
        gone = torch.where(in_sight(kept["positions"]) & ~seen, steps[:, None], -1).cummax(1).values
        there = (when >= 0) & (gone <= when)
        unmoved = {"actions": fought.actions[:, :-1], "alive": there}
        return Trajectories(
            **kept, **unmoved, types=fought.types, friendly=fought.friendly, terrain=fought.terrain,
            scenario=fought.scenario, names=fought.names,
        ), there  # fmt: skip


def kinds(images: Float[Tensor, "*batch C I J"]) -> tuple[Int[Tensor, "*batch I J"], Int[Tensor, "*batch I J"]]:
    """Marker and type of each pixel of state images, 0 for none."""
    friendly, types, _ = parts(images)
    return friendly.squeeze(-3).long(), torch.cat([1 - types.sum(-3, keepdim=True), types], -3).argmax(-3)


def reporting(episode: Episode, share: float, generator: torch.Generator) -> Episode:
    """The same of a share of the agents of each battle, at least one, drawn anew for each battle; the others are silent
    throughout, and are still asked."""
    agents_there = episode.views.mask.any(1)
    order = torch.rand(agents_there.shape, generator=generator).masked_fill(~agents_there, 2.0).argsort(1).argsort(1)
    few = (share * agents_there.sum(1, keepdim=True)).round().clamp(min=1)
    return Episode(episode.views.keep((order < few)[:, None]), episode.targets)


@torch.no_grad()
def scores(
    predict: Predictor, fought: Trajectories, grid: PolarGrid, share: float = 1.0, seed: int = 0, chunk: int = 10
) -> dict[str, float]:
    """Unit-type macro F1, friendly-marker F1, negative mean squared error and log-likelihood of one-step prediction.

    All over the images of all living agents, reporting or not. The macro F1 is the mean over the types that occur or
    are said to, without "no unit". The log-likelihood is minus the loss: binary and categorical cross-entropy a pixel
    and squared error a pixel and stat (E.4.4).

    Args:
        predict: what is scored.
        fought: what it is scored on.
        grid: how they are seen.
        share: of the agents that report.
        seed: of who they are.
    """
    marker, kind, log_likelihood, error = (
        BinaryF1Score(),
        MulticlassF1Score(NUM_TYPES, average=None),
        MeanMetric(),
        MeanMetric(),
    )
    occur = torch.zeros(NUM_TYPES, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(fought)).split(chunk):
        some = fought[rows]
        episode = reporting(observations(some, grid), share, generator)
        there = episode.targets.mask[:, 1:]
        said, truth = predict(some, episode), episode.targets.values[:, 1:][there]
        is_friendly, true_kind = kinds(truth)
        marker.update(said.is_friendly[there].int().flatten(), is_friendly.flatten())
        kind.update(said.kind[there].flatten(), true_kind.flatten())
        occur[torch.cat([said.kind[there].unique(), true_kind.unique()])] = True
        probability = torch.where(is_friendly.bool(), said.friendly[there], 1 - said.friendly[there])
        of_kind = said.types[there].gather(-3, true_kind[:, None])[:, 0]
        squared = (said.stats[there] - parts(truth)[2]).square()
        error.update(squared)
        logs = probability.clamp(min=LEAST).log() + of_kind.clamp(min=LEAST).log()
        log_likelihood.update(logs - squared.mean(-3))
    return {
        "unit_type_f1": float(kind.compute()[1:][occur[1:]].mean()),
        "friendly_f1": float(marker.compute()),
        "negative_mse": -float(error.compute()),
        "log_likelihood": float(log_likelihood.compute()),
    }


def tabulate(
    models: Mapping[str, WorldModel],
    world: SkirmishWorld,
    seed: int,
    shares: Iterable[float] = REPORTING,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> list[dict[str, Any]]:
    """The validation battles by share of the agents that report (Figure 8, Tables 4 to 7), and test battles of every
    scenario (Table 1), by models and trivial predictors.

    Args:
        models: trained.
        world: of the battles, and how they are seen.
        seed: of the world.
        shares: of the agents that report, for the validation battles.
        progress: shows how far it is.

    Returns:
        Rows with `predictor`, `scenario`, `reporting`, `unit_type_f1`, `friendly_f1`, `negative_mse`,
        `log_likelihood`.
    """
    few = replace(world, train_battles=min(world.train_battles, 120))
    trivial = TrivialPredictors(world.grid, battles(few, "train", seed))
    predictors = {name: model_predictor(model) for name, model in models.items()}
    predictors |= {"nobody moves": trivial.nobody_moves, "last seen": trivial.last_seen}
    cases = [(VALIDATION, share) for share in shares] + [(scenario, 1.0) for scenario in SCENARIOS]
    rows = []
    for scenario, share in progress(cases):
        some = battles(world, "val", seed) if scenario == VALIDATION else battles(world, "test", seed, scenario)
        for name, predict in predictors.items():
            found = scores(predict, some, world.grid, share, seed)
            rows.append({"predictor": name, "scenario": scenario, "reporting": share, **found})
    return rows
