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
from s2rm.tasks.battles.polar import STATE, PolarGrid, agents, draw, observations, unit_channels
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles
from s2rm.tasks.battles.trajectories import UNIT_TYPES, Trajectories
from s2rm.views import Episode, Views

REPORTING = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""shares of the agents that report, as in Figure 8"""
SCENARIOS = ("1c3s5z", "3s5z", "2s5z", "1s2z", "5s3z")
"""the first three to train on, the others new"""
VALIDATION = "validation"
"""the training scenarios together"""
NUM_TYPES = len(UNIT_TYPES) + 1
"""no unit, and the types"""
LEAST = 1e-6
"""what a smaller probability counts as"""
CHUNK = 10
"""battles at a time"""


@dataclass(frozen=True)
class Forecast:
    """What a predictor says of the N polar images of the targets that are there at steps 1 to T, in their order."""

    friendly: Float[Tensor, "N I J"]
    """probability that a friendly unit is there"""
    types: Float[Tensor, "N K I J"]
    """probabilities of no unit, and of each type"""
    stats: Float[Tensor, "N S I J"]
    """mean of each scaled stat"""
    is_friendly: Bool[Tensor, "N I J"]
    """the markers that it decides on"""
    kind: Int[Tensor, "N I J"]
    """the type that it decides on, 0 for no unit"""


Predictor = Callable[[Trajectories, Episode], Forecast]
"""From battles over T+1 steps, and from what the agents that report see of them, to what all agents will see. Of the
battles it may use what the reporting agents see only, and who asks; see `TrivialPredictors`."""


def model_predictor(model: WorldModel) -> Predictor:
    """A trained model's one-step prediction: markers above 0.5, and the likeliest type."""

    def predict(_: Trajectories, episode: Episode) -> Forecast:
        asked = episode.targets.steps(1, None)
        states = model.states_before_targets(_together(episode.views))
        friendly, types, stats = parts(model.predict(states, asked.positions).mean[asked.mask])
        types, friendly = _with_none(types), friendly.squeeze(-3)
        return Forecast(friendly, types, stats, friendly > 0.5, types.argmax(-3))

    return predict


def _together(views: Views) -> Views:
    """The same views in as few slots as hold them, which saves encoding those of agents that are silent."""
    order = views.mask.long().argsort(dim=2, descending=True, stable=True)[
        :, :, : max(1, int(views.mask.sum(2).amax()))
    ]
    battle, step = (torch.arange(length) for length in views.mask.shape[:2])
    at = battle[:, None, None], step[:, None], order
    return Views._unchecked(views.positions[at], views.values[at], views.mask[at])


def _with_none(types: Float[Tensor, "*batch K I J"]) -> Float[Tensor, "*batch L I J"]:
    """With the probability of no unit before those of the types."""
    return torch.cat([1 - types.sum(-3, keepdim=True), types], -3)


class TrivialPredictors:
    """The two predictors that know nothing of tactics, and that every table carries.

    *Nobody moves*: every unit that an agent that reported saw at the last step is where and as it was then. *Last
    seen*: so is every unit that was seen before, until its place is looked at and it is not there. Both know that who
    asks stands where it is asked, and take it for the likeliest type if nobody saw it. Their probabilities are how
    often, in training with all agents reporting, each type and marker was there where one was drawn, at the pixel of
    who asks and at all others.

    They see better than a model does: in the field of view of who reports they know each unit, and where exactly it
    is, also where another one hides it in the polar image.

    Args:
        grid: of the pixels.
        train: training battles.
    """

    def __init__(self, grid: PolarGrid, train: Trajectories):
        self.grid = grid
        counts = {memory: (torch.zeros(2, 2, 2), torch.zeros(2, NUM_TYPES, NUM_TYPES)) for memory in (False, True)}
        for rows in torch.arange(len(train)).split(CHUNK):
            fought = train[rows]
            episode = observations(fought, grid)
            truth = kinds(episode.targets.values[:, 1:][episode.targets.mask[:, 1:]])
            for memory, tables in counts.items():
                drawn = self._drawn(fought, episode, memory)
                for table, said, true in zip(tables, drawn, truth, strict=False):
                    table += _confusion(said, true, table.shape[-1])
        self.tables = {memory: tuple(map(_frequencies, tables)) for memory, tables in counts.items()}

    def nobody_moves(self, fought: Trajectories, episode: Episode) -> Forecast:
        return self._predict(fought, episode, memory=False)

    def last_seen(self, fought: Trajectories, episode: Episode) -> Forecast:
        return self._predict(fought, episode, memory=True)

    def _predict(self, fought: Trajectories, episode: Episode, memory: bool) -> Forecast:
        is_friendly, kind, stats = self._drawn(fought, episode, memory)
        friendly, types = self.tables[memory]
        place = (~_middle(kind)).long()
        said = types[place, kind].movedim(-1, -3)
        kind[..., 0, 0] = said[..., 0, 0].argmax(-1)
        return Forecast(friendly[place, is_friendly][..., 1], said, stats, is_friendly.bool(), kind)

    def _drawn(
        self, fought: Trajectories, episode: Episode, memory: bool
    ) -> tuple[Int[Tensor, "N I J"], Int[Tensor, "N I J"], Float[Tensor, "N S I J"]]:
        """Markers, types and stats of what is believed to be around who asks."""
        believed, there = self._belief(fought, episode.views.mask, memory)
        asked = episode.targets.mask[:, 1:]
        battle, step, slot = asked.nonzero(as_tuple=True)
        gaps = believed.positions[battle, step] - episode.targets.positions[:, 1:][asked][:, None]
        gaps[torch.arange(len(gaps)), agents(fought)[battle, slot]] = 0
        channels = unit_channels(believed)[..., :STATE]
        images = draw(self.grid, gaps, there[battle, step], channels[battle, step])
        is_friendly, kind = kinds(images)
        is_friendly[..., 0, 0] = 1
        return is_friendly, kind, parts(images)[2]

    def _belief(
        self, fought: Trajectories, reports: Bool[Tensor, "B L A"], memory: bool
    ) -> tuple[Trajectories, Bool[Tensor, "B T U"]]:
        """The units as they were last seen by each step but the last, and which of them are believed to be there."""
        steps = torch.arange(fought.alive.shape[1] - 1)
        eyes = fought.positions.gather(2, agents(fought)[:, None, :, None].expand(-1, len(steps) + 1, -1, 2))

        def in_sight(places: Tensor) -> Tensor:
            gaps = torch.cdist(eyes[:, :-1], places, compute_mode="donot_use_mm_for_euclid_dist")
            return ((gaps <= self.grid.field_of_view) & reports[:, :-1, :, None]).any(2)

        seen = fought.alive[:, :-1] & in_sight(fought.positions[:, :-1])
        when = torch.where(seen, steps[:, None], -1)
        if memory:
            when = when.cummax(1).values
        then = when.clamp(min=0)
        positions, stats = (
            part.gather(1, then[..., None].expand(*then.shape, part.shape[-1]))
            for part in (fought.positions, fought.stats)
        )
        gone = torch.where(in_sight(positions) & ~seen, steps[:, None], -1).cummax(1).values
        there = (when >= 0) & (gone <= when)
        return replace(fought, positions=positions, stats=stats, actions=fought.actions[:, :-1], alive=there), there


def _middle(images: Tensor) -> Bool[Tensor, "I J"]:
    """The pixel of who asks."""
    middle = torch.zeros(images.shape[-2:], dtype=torch.bool)
    middle[0, 0] = True
    return middle


def _confusion(said: Int[Tensor, "N I J"], true: Int[Tensor, "N I J"], classes: int) -> Int[Tensor, "2 K K"]:
    """How often what is true where something was said, at the pixel of who asks and at the others."""
    middle = _middle(said)
    return torch.stack(
        [
            multiclass_confusion_matrix(true[:, at], said[:, at], num_classes=classes, validate_args=False)
            for at in (middle, ~middle)
        ]
    )


def _frequencies(counts: Float[Tensor, "2 K K"]) -> Float[Tensor, "2 K K"]:
    """The shares of what is true, of all that is true there if something was never said."""
    counts = torch.where(counts.sum(-1, keepdim=True) > 0, counts, counts.sum(1, keepdim=True))
    return counts / counts.sum(-1, keepdim=True).clamp(min=1)


def kinds(images: Float[Tensor, "*batch C I J"]) -> tuple[Int[Tensor, "*batch I J"], Int[Tensor, "*batch I J"]]:
    """Marker and type of each pixel of state images, 0 for none."""
    friendly, types, _ = parts(images)
    numbers = torch.arange(1.0, NUM_TYPES, dtype=types.dtype)
    return friendly.squeeze(-3).long(), torch.einsum("...kij,k->...ij", types, numbers).long()


def reporting(episode: Episode, share: float, generator: torch.Generator) -> Episode:
    """The same of a share of the agents of each battle, at least one, drawn anew for each battle; the others are silent
    throughout, and are still asked."""
    agents_there = episode.views.mask.any(1)
    order = torch.rand(agents_there.shape, generator=generator).masked_fill(~agents_there, 2.0).argsort(1).argsort(1)
    few = (share * agents_there.sum(1, keepdim=True)).round().clamp(min=1)
    return Episode(episode.views.keep((order < few)[:, None]), episode.targets)


class _Tally:
    """The scores of one predictor, chunk by chunk."""

    def __init__(self) -> None:
        self.marker = BinaryF1Score(validate_args=False)
        self.kind = MulticlassF1Score(NUM_TYPES, average=None, validate_args=False)
        self.occur = torch.zeros(NUM_TYPES, dtype=torch.bool)
        self.log_likelihood, self.error = MeanMetric(), MeanMetric()

    def add(self, said: Forecast, is_friendly: Tensor, kind: Tensor, stats: Tensor) -> None:
        """What was said of images, and what is true."""
        self.marker.update(said.is_friendly.int().flatten(), is_friendly.flatten())
        self.kind.update(said.kind.flatten(), kind.flatten())
        self.occur[kind.unique()] = True
        probability = torch.where(is_friendly.bool(), said.friendly, 1 - said.friendly)
        of_kind = said.types.gather(-3, kind.unsqueeze(-3)).squeeze(-3)
        squared = (said.stats - stats).square().mean(-3)
        self.error.update(squared)
        self.log_likelihood.update(probability.clamp(min=LEAST).log() + of_kind.clamp(min=LEAST).log() - squared)

    def scores(self) -> dict[str, float]:
        return {
            "unit_type_f1": float(self.kind.compute()[1:][self.occur[1:]].mean()),
            "friendly_f1": float(self.marker.compute()),
            "negative_mse": -float(self.error.compute()),
            "log_likelihood": float(self.log_likelihood.compute()),
        }


@torch.no_grad()
def scores(
    predictors: Mapping[str, Predictor], fought: Trajectories, grid: PolarGrid, share: float = 1.0, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Unit-type macro F1, friendly-marker F1, negative mean squared error and log-likelihood of one-step prediction.

    All over the images of all living agents, reporting or not. The macro F1 is the mean over the types that occur,
    without "no unit"; with those that are only said to, one wrong pixel would cost as much as a type never found. The
    log-likelihood is minus the loss: binary and categorical cross-entropy a pixel and squared error a pixel and stat.

    Args:
        predictors: who is scored, all on the same views.
        fought: what they are scored on.
        grid: how it is seen.
        share: of the agents that report.
        seed: of who they are.

    Source:
        S2RM, E.4.4, F.2, Table 1. The paper does not say over which types its mean is.
    """
    tallies = {name: _Tally() for name in predictors}
    generator = torch.Generator().manual_seed(seed)
    for rows in torch.arange(len(fought)).split(CHUNK):
        some = fought[rows]
        episode = reporting(observations(some, grid), share, generator)
        truth = episode.targets.values[:, 1:][episode.targets.mask[:, 1:]]
        known = (*kinds(truth), parts(truth)[2])
        for name, predict in predictors.items():
            tallies[name].add(predict(some, episode), *known)
    return {name: tally.scores() for name, tally in tallies.items()}


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
    validation, rows = battles(world, "val", seed), []
    for scenario, share in progress(cases):
        fought = validation if scenario == VALIDATION else battles(world, "test", seed, scenario)
        for name, found in scores(predictors, fought, world.grid, share, seed).items():
            rows.append({"predictor": name, "scenario": scenario, "reporting": share, **found})
    return rows
