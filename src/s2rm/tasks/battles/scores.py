"""How well battles are predicted one step ahead, by models and by three predictors that know nothing of tactics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score

from s2rm.files import Row
from s2rm.likelihoods import parts
from s2rm.models.world_model import WorldModel
from s2rm.tasks.battles import polar
from s2rm.tasks.battles.skirmish import SkirmishWorld, battles
from s2rm.tasks.battles.trajectories import Trajectories
from s2rm.tasks.task import Models
from s2rm.tasks.worlds import Drawn, Progress, shares
from s2rm.views import Episode, Views

REPORTING = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""shares of the agents that report, as in Figure 8"""
AGES, DRAWS = (1, 2, 3, 5, 9, 17), 3
"""bounds of the groups of ages, in steps, by which the first guess discounts what was seen, and how often the agents
that report are drawn for each battle to count them"""
SCENARIOS = ("1c3s5z", "3s5z", "2s5z", "1s2z", "5s3z")
"""the three training scenarios, and two new ones"""
SIMPLE = ("nobody moves", "last seen", "last seen, by age")
"""the predictors that know nothing of tactics, see `TrivialPredictors`"""
VALIDATION = "validation"
"""the training scenarios together"""
LEAST = 1e-6
"""lower bound of probabilities in the log-likelihood"""


@dataclass(frozen=True)
class Forecast:
    """A prediction of the N polar images of the targets that are there at steps 1 to T, in their order."""

    friendly: Float[Tensor, "N I J"]
    """probability of a friendly unit"""
    types: Float[Tensor, "N K I J"]
    """probabilities of no unit, and of each type"""
    stats: Float[Tensor, "N S I J"]
    """mean of each scaled stat"""
    is_friendly: Bool[Tensor, "N I J"]
    """the predicted marker"""
    kind: Int[Tensor, "N I J"]
    """the predicted type, 0 for no unit"""


Predictor = Callable[[Trajectories, Episode], Forecast]
"""From battles over T+1 steps, and the views of the agents that report, to a forecast of the views of all agents. Of
the battles a predictor may use what the reporting agents see, and which agents are queried; see `TrivialPredictors`."""


def model_predictor(model: WorldModel, trivial: TrivialPredictors | None = None) -> Predictor:
    """A trained model's one-step prediction: markers above 0.5, and the most probable type.

    A model may correct what was last seen, by age, which `trivial` knows.
    """

    def predict(fought: Trajectories, episode: Episode) -> Forecast:
        queried, context = episode.targets.steps(1, None), None
        if model.signature.corrects:
            assert trivial is not None
            context = trivial.first_guess(fought, episode)[:, 1:]
        states = model.states_before_targets(_packed(episode.views))
        friendly, types, stats = parts(model.predict(states, queried.positions, context).mean[queried.mask])
        types, friendly = torch.cat([1 - types.sum(-3, keepdim=True), types], -3), friendly.squeeze(-3)
        return Forecast(friendly, types, stats, friendly > 0.5, types.argmax(-3))

    return predict


def _packed(views: Views) -> Views:
    """The same views in as few slots as hold them, so that no model encodes the empty slots of silent agents."""
    slots = max(1, int(views.mask.sum(2).amax()))
    order = views.mask.long().argsort(dim=2, descending=True, stable=True)[:, :, :slots]
    battle, step = (torch.arange(length) for length in views.mask.shape[:2])
    at = battle[:, None, None], step[:, None], order
    return Views._unchecked(views.positions[at], views.values[at], views.mask[at])


class TrivialPredictors:
    """The predictors that know nothing of tactics.

    *Nobody moves*: every unit that a reporting agent saw at the last step keeps its place and state. *Last seen*: so
    does every unit that was seen before, until its place is observed without it. Both know that the queried agent
    stands where it is queried, and take it for the most probable type if nobody saw it. Their probabilities are the
    frequencies, in training with all agents reporting, of each type and marker given the drawn one, separately at the
    queried agent's own pixel and at all other pixels.

    *Last seen, by age* has these frequencies by the age of the sighting as well (`AGES`), in training with a random
    share of the agents reporting, and predicts what is most probable. It is the first guess of models that correct one.

    They see more than a model does: in the field of view of a reporting agent they know every unit and its exact
    place, also where another unit hides it in the polar image.
    """

    def __init__(self, grid: polar.PolarGrid, train: Trajectories):
        self.grid = grid
        sizes, ages = (2, polar.NUM_TYPES), len(AGES) + 1  # of the tables: markers, and types
        counts = {memory: [torch.zeros(2, size, size) for size in sizes] for memory in (False, True)}
        by_age = [torch.zeros(2, ages, size, size) for size in sizes]
        generator = torch.Generator().manual_seed(0)
        for fought in train.chunks():
            episode = polar.observations(fought, grid)
            truth = polar.markers_and_types(episode.targets.values[:, 1:][episode.targets.mask[:, 1:]])
            for memory, tables in counts.items():
                for table, drawn, true in zip(tables, self._drawn(fought, episode, memory), truth, strict=False):
                    table += _counts(table.shape, drawn, true)
            for _ in range(DRAWS):
                few = polar.reporting(episode, shares(len(fought), 1 - min(REPORTING), generator)[..., 0], generator)
                *both, _, age = self._drawn(fought, few, True)
                for table, drawn, true in zip(by_age, both, truth, strict=True):
                    table += _counts(table.shape, age, drawn, true)
        self.tables = {memory: tuple(map(_frequencies, tables)) for memory, tables in counts.items()}
        # Sightings of any age count as one of each.
        self.by_age = [_frequencies(table + _frequencies(table.sum(1))[:, None]) for table in by_age]

    @property
    def by_name(self) -> dict[str, Predictor]:
        """All, by their names in tables."""
        predictors = (partial(self.predict, memory=False), partial(self.predict, memory=True), self.predict_by_age)
        return dict(zip(SIMPLE, predictors, strict=True))

    def predict(self, fought: Trajectories, episode: Episode, memory: bool) -> Forecast:
        """Every unit keeps the place where it was seen: with memory at any step before, else at the last one only."""
        is_friendly, kind, stats, _ = self._drawn(fought, episode, memory)
        friendly, types = self.tables[memory]
        place = (~_middle(kind)).long()
        probability = types[place, kind].movedim(-1, -3)
        kind[..., 0, 0] = probability[..., 0, 0].argmax(-1)
        return Forecast(friendly[place, is_friendly][..., 1], probability, stats, is_friendly.bool(), kind)

    def predict_by_age(self, fought: Trajectories, episode: Episode) -> Forecast:
        """As last seen, as probable as sightings of that age were right."""
        is_friendly, kind, stats, age = self._drawn(fought, episode, True)
        friendly, types = self.by_age
        place = (~_middle(kind)).long()
        marker, probability = friendly[place, age, is_friendly][..., 1], types[place, age, kind].movedim(-1, -3)
        return Forecast(marker, probability, stats, marker > 0.5, probability.argmax(-3))

    def first_guess(self, fought: Trajectories, episode: Episode) -> Float[Tensor, "B L A F"]:
        """What was last seen, by age, as the context of models that correct it: logits of marker and types, and stats.

        Zeros where nothing is queried, and at step 0, of which there is no forecast.
        """
        forecast = self.predict_by_age(fought, episode)
        nobody, types = forecast.types.clamp(min=LEAST).log().split([1, polar.NUM_TYPES - 1], -3)
        marker = torch.logit(forecast.friendly, eps=LEAST).unsqueeze(-3)
        guess = torch.cat([marker, types - nobody, forecast.stats], -3).flatten(1)
        context = guess.new_zeros(*episode.targets.mask.shape, guess.shape[-1])
        context[:, 1:][episode.targets.mask[:, 1:]] = guess
        return context

    def _drawn(
        self, fought: Trajectories, episode: Episode, memory: bool
    ) -> tuple[Int[Tensor, "N I J"], Int[Tensor, "N I J"], Float[Tensor, "N S I J"], Int[Tensor, "N I J"]]:
        """Markers, types and stats of the units that are believed to be around each queried agent, and the group of the
        age of the sighting, 0 where there is none."""
        believed, age = self._belief(fought, episode.views.mask, memory)
        queried = episode.targets.mask[:, 1:]
        battle, step, slot = queried.nonzero(as_tuple=True)
        gaps = believed.positions[battle, step] - episode.targets.positions[:, 1:][queried][:, None]
        gaps[torch.arange(len(gaps)), polar.agents(fought)[battle, slot]] = 0
        group = torch.bucketize(age, torch.tensor(AGES), right=True)[..., None]
        channels = torch.cat([polar.unit_channels(believed)[..., : polar.STATE], group], -1)
        images = polar.draw(self.grid, gaps, believed.alive[battle, step], channels[battle, step])
        state = images[..., : polar.STATE, :, :]
        is_friendly, kind = polar.markers_and_types(state)
        is_friendly[..., 0, 0] = 1
        return is_friendly, kind, parts(state)[2], images[..., polar.STATE, :, :].long()

    def _belief(
        self, fought: Trajectories, reports: Bool[Tensor, "B L A"], memory: bool
    ) -> tuple[Trajectories, Int[Tensor, "B L U"]]:
        """The units as last seen up to each step, and how many steps ago; alive are those believed to be there."""
        steps = torch.arange(fought.alive.shape[1])
        eyes = fought.positions.take_along_dim(polar.agents(fought)[:, None, :, None], 2)

        def in_sight(places: Tensor) -> Tensor:
            gaps = torch.cdist(eyes, places, compute_mode="donot_use_mm_for_euclid_dist")
            return ((gaps <= self.grid.field_of_view) & reports[..., None]).any(2)

        seen = fought.alive & in_sight(fought.positions)
        # The step at which each unit was last seen, -1 if never; without memory, only the current step counts.
        when = torch.where(seen, steps[:, None], -1)
        if memory:
            when = when.cummax(1).values
        then = when.clamp(min=0)
        positions, stats = (part.take_along_dim(then[..., None], 1) for part in (fought.positions, fought.stats))
        gone = torch.where(in_sight(positions) & ~seen, steps[:, None], -1).cummax(1).values
        there = (when >= 0) & (gone <= when)
        return replace(fought, positions=positions, stats=stats, alive=there), steps[:, None] - then


def trivial_predictors(world: SkirmishWorld, seed: int = 0) -> TrivialPredictors:
    """The simple predictors of a world, from at most 120 battles of the scenarios and the seed of training."""
    few = replace(world, train_battles=min(world.train_battles, 120))
    return TrivialPredictors(world.grid, battles(few, "train", seed))


def episodes(
    world: SkirmishWorld,
    split: str,
    seed: int = 0,
    folder: Path | None = None,
    guessed: bool = False,
    drop: float = 0.0,
) -> Drawn:
    """The training ("train") or validation ("val") episodes, as `Task.episodes`."""
    guess = trivial_predictors(world, seed).first_guess if guessed else None
    clip = world.clip if split == "train" else None
    return polar.dataset(battles(world, split, seed), world.grid, clip, guess, drop)


def _middle(images: Tensor) -> Bool[Tensor, "I J"]:
    """The queried agent's own pixel."""
    return torch.arange(images.shape[-2:].numel()).view(images.shape[-2:]) == 0


def _counts(shape: torch.Size, *classes: Int[Tensor, "N I J"]) -> Tensor:
    """How often classes of pixels go together, at the queried agent's own pixel and at the others; a table `shape`."""
    flat = (~_middle(classes[0])).long().expand_as(classes[0])
    for size, part in zip(shape[1:], classes, strict=True):
        flat = flat * size + part
    return torch.bincount(flat.flatten(), minlength=shape.numel()).view(shape)


def _frequencies(counts: Float[Tensor, "*groups K K"]) -> Float[Tensor, "*groups K K"]:
    """The frequency of each true class given the predicted one, or overall where that was never predicted."""
    counts = torch.where(counts.sum(-1, keepdim=True) > 0, counts, counts.sum(-2, keepdim=True))
    return counts / counts.sum(-1, keepdim=True).clamp(min=1)


class _Tally:
    """The scores of one predictor, accumulated over chunks of battles."""

    def __init__(self) -> None:
        self.marker = BinaryF1Score(validate_args=False)
        self.kind = MulticlassF1Score(polar.NUM_TYPES, average=None, validate_args=False)
        self.occur = torch.zeros(polar.NUM_TYPES, dtype=torch.bool)
        self.log_likelihood, self.error = MeanMetric(), MeanMetric()

    def add(self, forecast: Forecast, is_friendly: Tensor, kind: Tensor, stats: Tensor) -> None:
        self.marker.update(forecast.is_friendly.int().flatten(), is_friendly.flatten())
        self.kind.update(forecast.kind.flatten(), kind.flatten())
        self.occur[kind.unique()] = True
        probability = torch.where(is_friendly.bool(), forecast.friendly, 1 - forecast.friendly)
        of_kind = forecast.types.gather(-3, kind.unsqueeze(-3)).squeeze(-3)
        squared = (forecast.stats - stats).square().mean(-3)
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
    predictors: Mapping[str, Predictor], fought: Trajectories, grid: polar.PolarGrid, share: float = 1.0, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Unit-type macro F1, friendly-marker F1, negative mean squared error and log-likelihood of one-step prediction.

    Scores are over all pixels of the images of all living agents, reporting or not. The macro F1 is the mean over the
    types that occur, without "no unit"; over the types that are only predicted too, one wrong pixel would cost as much
    as a type that is never found. The log-likelihood is minus the loss: binary and categorical cross-entropy a pixel,
    and squared error a pixel and stat. A share of the agents reports, drawn by the seed, the same for all predictors.

    Raises:
        ValueError: no agent lives after the first step.

    Source:
        S2RM, E.4.4, F.2, Table 1. The paper does not say over which types its mean is.
    """
    if not (fought.alive[:, 1:] & fought.friendly[:, None]).any():
        raise ValueError("scores: expected agents that live after the first step, got none; give longer battles")
    tallies = {name: _Tally() for name in predictors}
    generator = torch.Generator().manual_seed(seed)
    for some in fought.chunks():
        episode = polar.reporting(polar.observations(some, grid), share, generator)
        if not episode.targets.mask[:, 1:].any():
            continue
        truth = episode.targets.values[:, 1:][episode.targets.mask[:, 1:]]
        known = (*polar.markers_and_types(truth), parts(truth)[2])
        for name, predict in predictors.items():
            tallies[name].add(predict(some, episode), *known)
    return {name: tally.scores() for name, tally in tallies.items()}


def score(
    models: Models, world: SkirmishWorld, seed: int = 0, shares: Iterable[float] | None = None,
    progress: Progress = iter, folder: Path | None = None,
) -> list[Row]:  # fmt: skip
    """One-step scores of models and of the simple predictors; arguments as for `Task.score`.

    On the validation battles by share of the agents that report (Figure 8, Tables 4 to 7), by default two tenths, three
    tenths, to all; and on test battles of every scenario with all agents reporting (Table 1), and with the least of the
    shares. Rows have `predictor`, `scenario`, `reporting`, `unit_type_f1`, `friendly_f1`, `negative_mse`,
    `log_likelihood`.
    """
    trivial = trivial_predictors(world, seed)
    predictors = {name: model_predictor(model, trivial) for name, model in models.items()}
    predictors |= trivial.by_name
    shares = tuple(shares or REPORTING)
    cases = [(VALIDATION, share) for share in shares]
    cases += [(scenario, share) for share in sorted({min(shares), 1.0}) for scenario in SCENARIOS]
    validation, rows = battles(world, "val", seed), []
    for (scenario, share), _ in zip(cases, progress(cases), strict=True):
        fought = validation if scenario == VALIDATION else battles(world, "test", seed, scenario)
        for name, found in scores(predictors, fought, world.grid, share, seed).items():
            rows.append({"predictor": name, "scenario": scenario, "reporting": share, **found})
    return rows
