"""Scores of forecasts of battles, silent agents, the simple predictors, and the pictures."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from s2rm import WorldModel
from s2rm.likelihoods import parts
from s2rm.settings import Settings
from s2rm.tasks.battles import polar, report
from s2rm.tasks.battles.polar import (
    NUM_TYPES,
    STATE,
    PolarGrid,
    agents,
    draw,
    markers_and_types,
    observations,
    reporting,
    unit_channels,
)
from s2rm.tasks.battles.scores import (
    AGES,
    DRAWS,
    REPORTING,
    VALIDATION,
    Forecast,
    TrivialPredictors,
    episodes,
    model_predictor,
    scores,
    trivial_predictors,
)
from s2rm.tasks.battles.skirmish import preset, simulate
from s2rm.tasks.battles.trajectories import UNIT_TYPES, Trajectories

WORLD = replace(preset("tiny"), grid=PolarGrid(3, 5, 4.5), substeps=4)
SHORT = replace(WORLD, num_steps=5, clip=2)
STALKER, ZEALOT = 1 + UNIT_TYPES.index("stalker"), 1 + UNIT_TYPES.index("zealot")


def crowded(battles: int = 3, steps: int = 7, units: int = 9) -> Trajectories:
    """Battles in which all walk and die at random on a map of 11 x 7 cells; two thirds are friendly."""
    walked = torch.randn(battles, steps, units, 2).cumsum(1)
    return Trajectories(
        positions=(7 * torch.rand(battles, 1, units, 2) + walked) % 7,
        alive=(torch.rand(battles, steps, units) < 0.9).int().cummin(1).values.bool(),
        types=torch.randint(3, (battles, units)),
        friendly=torch.rand(battles, units) < 0.67,
        stats=50 * torch.rand(battles, steps, units, 4),
        actions=torch.zeros(battles, steps, units, dtype=torch.long),
        terrain=torch.rand(battles, 7, 11),
        scenario=torch.zeros(battles, dtype=torch.long),
        names=("a",),
    )


@pytest.fixture(scope="module")
def trivial() -> TrivialPredictors:
    torch.manual_seed(1)
    return TrivialPredictors(WORLD.grid, crowded(12))


def truth_of(episode) -> torch.Tensor:
    return episode.targets.values[:, 1:][episode.targets.mask[:, 1:]]


def who_knows_the_future(_, episode) -> Forecast:
    truth = truth_of(episode)
    friendly, types, stats = parts(truth)
    types, friendly = torch.cat([1 - types.sum(-3, keepdim=True), types], -3), friendly.squeeze(-3)
    return Forecast(friendly, types, stats, friendly > 0.5, markers_and_types(truth)[1])


def test_scores_by_hand():
    # A zealot is queried, a stalker of the enemy stands two to its east: pixels (0, 0) and (1, 0) of 2 x 4.
    two = torch.ones(1, 2, 2)
    battle = Trajectories(
        positions=torch.tensor([[8.0, 8.0], [10.0, 8.0]]).expand(1, 2, 2, 2),
        alive=two.bool(),
        types=torch.tensor([[ZEALOT - 1, STALKER - 1]]),
        friendly=torch.tensor([[True, False]]),
        stats=torch.tensor([[100.0, 0.0, 0.5, 50.0], [80.0, 0.0, 0.0, 80.0]]).expand(1, 2, 2, 4),
        actions=two.long(),
        terrain=torch.zeros(1, 16, 16),
        scenario=torch.zeros(1, dtype=torch.long),
        names=("a",),
    )
    friendly = torch.tensor([[0.8, 0.1, 0.1, 0.1], [0.6, 0.1, 0.1, 0.1]])[None]
    types = torch.zeros(1, NUM_TYPES, 2, 4)
    types[:, 0] = 1
    for pixel, forecast in {(0, 0): {ZEALOT: 0.7}, (1, 0): {STALKER: 0.3, 0: 0.5}, (1, 1): {STALKER: 0.6, 0: 0.4},
                        (1, 2): {4: 0.7, 0: 0.3}}.items():  # fmt: skip
        types[(0, slice(None), *pixel)] = 0
        for kind, probability in forecast.items():
            types[(0, kind, *pixel)] = probability
    forecast = Forecast(friendly, types, torch.zeros(1, 4, 2, 4), friendly > 0.5, types.argmax(1))
    (found,) = scores({"one": lambda *_: forecast}, battle, PolarGrid(2, 4, 4.0)).values()
    # Marines were predicted and none is there: they are left out of the mean.
    assert found["unit_type_f1"] == pytest.approx((1 + 0) / 2)
    assert found["friendly_f1"] == pytest.approx(2 / 3)
    squared = (1.0**2 + 0.5**2 + 0.5**2 + 0.8**2 + 0.8**2) / 32
    assert found["negative_mse"] == pytest.approx(-squared)
    logs = sum(map(math.log, (0.8, 0.4, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.7, 0.3, 0.4, 0.3))) / 8
    assert found["log_likelihood"] == pytest.approx(logs - squared)


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_one_who_knows_the_future_scores_perfectly(share):
    fought = simulate(replace(WORLD, num_steps=12), "2s1z", 12, seed=0)
    (found,) = scores({"one": who_knows_the_future}, fought, WORLD.grid, share).values()
    assert found == {
        "unit_type_f1": 1, "friendly_f1": 1, "negative_mse": 0, "log_likelihood": pytest.approx(0, abs=1e-6),
    }  # fmt: skip


def test_battles_of_two_steps_are_scored():
    fought = simulate(replace(WORLD, num_steps=2, clip=2), "1s2z", 2, seed=0)
    found = scores(TrivialPredictors(WORLD.grid, fought).by_name, fought, WORLD.grid)
    assert found["last seen"] == found["nobody moves"]


@pytest.mark.parametrize(("share", "number"), [(1.0, 5), (0.6, 3), (0.2, 1), (0.01, 1)])
def test_silent_agents_are_silent_throughout_and_are_queried(share, number):
    whole = observations(simulate(SHORT, "5z", 40, seed=0), WORLD.grid)
    some = reporting(whole, share, torch.Generator().manual_seed(0))
    assert torch.equal(some.targets.mask, whole.targets.mask)
    speaks = some.views.mask[:, 0]
    assert speaks.sum(1).tolist() == [number] * 40
    assert torch.equal(some.views.mask, whole.views.mask & speaks[:, None])
    assert (len(speaks.unique(dim=0)) > 1) == (number < 5), "others in other battles"


def test_who_reports_depends_on_the_seed_alone():
    fought, received = crowded(13), []

    def records(_, episode) -> Forecast:
        received.append(episode.views.mask)
        return who_knows_the_future(_, episode)

    for seed in (3, 3, 4):
        scores({"one": records, "other": records}, fought, WORLD.grid, 0.5, seed)
    first, again, other = received[:4], received[4:8], received[8:]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first[::2], first[1::2], strict=True)), (
        "all predictors get the same views"
    )
    assert not torch.equal(first[0], other[0])
    assert [len(mask) for mask in first[::2]] == [10, 3]


def counted_by_age(friendly, kind, group, truth, times) -> list[torch.Tensor]:
    """Tables of frequencies, counted pixel by pixel, with one sighting of each age from those of all."""
    tables = []
    for drawn, true, size in zip((friendly, kind), markers_and_types(truth), (2, NUM_TYPES), strict=True):
        counts = torch.zeros(2, len(AGES) + 1, size, size)
        for image in range(len(drawn)):
            for row, column in product(*map(range, drawn.shape[1:])):
                at = image, row, column
                counts[int((row, column) != (0, 0)), group[at], drawn[at], true[at]] += 1
        tables.append(times * counts)
    return [shrunk(counts) for counts in tables]


def shrunk(counts: torch.Tensor) -> torch.Tensor:
    whole = counts.sum(1)
    overall = whole.sum(1, keepdim=True).expand_as(whole)
    whole = torch.where(whole.sum(-1, keepdim=True) > 0, whole, overall)
    counts = counts + (whole / whole.sum(-1, keepdim=True).clamp(min=1))[:, None]
    return counts / counts.sum(-1, keepdim=True).clamp(min=1e-9)


def in_loops(fought: Trajectories, episode, memory: bool) -> tuple[torch.Tensor, ...]:
    """Markers, types and stats of units as they were last seen, and how long ago, unit by unit and image by image."""
    images, slots, channels = [], agents(fought), unit_channels(fought)[..., :STATE]
    for battle in range(len(fought)):
        last: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for step in range(fought.alive.shape[1] - 1):
            eyes = [
                fought.positions[battle, step, slot]
                for slot, reports in zip(slots[battle], episode.views.mask[battle, step], strict=True)
                if reports
            ]

            def looked_at(place, eyes=eyes):
                return any(torch.dist(place, eye) <= WORLD.grid.field_of_view for eye in eyes)

            last = {unit: seen for unit, seen in last.items() if memory and not looked_at(seen[0])}
            for unit, place in enumerate(fought.positions[battle, step]):
                if fought.alive[battle, step, unit] and looked_at(place):
                    last[unit] = place, torch.cat([channels[battle, step, unit], torch.tensor([float(step)])])
            for slot, asks in enumerate(episode.targets.mask[battle, step + 1]):
                if asks:
                    centre, asking = episode.targets.positions[battle, step + 1, slot], int(slots[battle, slot])
                    gaps = [place - centre if unit != asking else 0 * centre for unit, (place, _) in last.items()]
                    offsets = torch.stack(gaps) if gaps else torch.zeros(0, 2)
                    looks = torch.stack([look for _, look in last.values()]) if gaps else torch.zeros(0, STATE + 1)
                    looks[:, -1] = step - looks[:, -1]
                    images.append(draw(WORLD.grid, offsets, torch.ones(len(gaps), dtype=torch.bool), looks))
    drawn = torch.stack(images)
    friendly, kind = markers_and_types(drawn[:, :STATE])
    friendly[:, 0, 0] = 1
    return friendly, kind, parts(drawn[:, :STATE])[2], drawn[:, STATE]


@pytest.mark.parametrize("memory", [False, True])
def test_trivial_predictors_are_those_of_plain_loops(trivial, memory):
    fought = crowded()
    episode = reporting(observations(fought, WORLD.grid), 0.4, torch.Generator().manual_seed(0))
    forecast = trivial.predict(fought, episode, memory)
    friendly, kind, stats, _ = in_loops(fought, episode, memory)
    assert torch.equal(forecast.is_friendly.long(), friendly)
    unknown = kind[:, 0, 0] == 0
    assert unknown.any(), "nobody saw some of the queried agents"
    assert (forecast.kind[:, 0, 0][unknown] > 0).all(), "the queried agent is there"
    kind[:, 0, 0] = forecast.kind[:, 0, 0].where(unknown, kind[:, 0, 0])
    assert torch.equal(forecast.kind, kind)
    assert torch.equal(forecast.stats, stats)
    torch.testing.assert_close(forecast.types.sum(1), torch.ones_like(forecast.friendly))


def test_what_was_seen_is_as_probable_as_sightings_of_that_age_were_right(monkeypatch):
    def some(episode, share=0.4, _=None):
        return reporting(episode, share, torch.Generator().manual_seed(0))

    monkeypatch.setattr(polar, "reporting", lambda episode, *_: some(episode))
    train = crowded(8)
    trivial, episode = TrivialPredictors(WORLD.grid, train), some(observations(train, WORLD.grid))
    friendly, kind, stats, age = in_loops(train, episode, memory=True)
    group = sum((age >= bound).long() for bound in AGES)
    assert len(group[kind > 0].unique()) > 2
    expected = counted_by_age(friendly, kind, group, truth_of(episode), DRAWS)
    for table, counted in zip(trivial.by_age, expected, strict=True):
        torch.testing.assert_close(table, counted)
    forecast = trivial.predict_by_age(train, episode)
    middle = torch.zeros_like(group, dtype=torch.bool)
    middle[:, 0, 0] = True
    markers, types = (table[(~middle).long(), group] for table in expected)
    at = torch.meshgrid(*map(torch.arange, kind.shape), indexing="ij")
    torch.testing.assert_close(forecast.friendly, markers[(*at, friendly)][..., 1])
    torch.testing.assert_close(forecast.types.movedim(1, -1), types[(*at, kind)])
    assert torch.equal(forecast.is_friendly, forecast.friendly > 0.5)
    assert torch.equal(forecast.kind, forecast.types.argmax(1))
    assert torch.equal(forecast.stats, stats)


def test_old_sightings_are_believed_less():
    world = replace(preset("tiny"), substeps=4, num_steps=40)
    trivial = TrivialPredictors(world.grid, simulate(world, "1c3s5z", 24, seed=0))
    there = 1 - trivial.by_age[1][1, :, ZEALOT, 0]
    assert there[0] > there[1] > there[3] > 1 - trivial.by_age[1][1, 0, 0, 0]
    for table in trivial.by_age:
        torch.testing.assert_close(table.sum(-1), torch.ones(table.shape[:-1]))
    found = scores(trivial.by_name, simulate(world, "1c3s5z", 12, seed=1), world.grid, 0.2)
    for metric in ("unit_type_f1", "log_likelihood"):
        assert found["last seen, by age"][metric] > found["last seen"][metric]


@pytest.mark.parametrize("memory", [False, True])
def test_the_probabilities_of_trivial_predictors_are_how_often_they_were_right(memory):
    train = crowded(11)
    trivial = TrivialPredictors(WORLD.grid, train)
    episode = observations(train, WORLD.grid)
    forecast = trivial.predict(train, episode, memory)
    true_friendly, true_kind = markers_and_types(truth_of(episode))
    for number in forecast.kind[:, 1:].unique():
        at = forecast.kind == number
        at[:, 0, 0] = False
        for kind in range(NUM_TYPES):
            share = (true_kind[at] == kind).float().mean()
            assert forecast.types[:, kind][at] == pytest.approx(float(share), abs=1e-5)
    for marker in (False, True):
        at = forecast.is_friendly == marker
        at[:, 0, 0] = False
        assert forecast.friendly[at] == pytest.approx(float(true_friendly[at].float().mean()), abs=1e-5)
    assert forecast.friendly[:, 0, 0] == pytest.approx(1)
    middle = forecast.types.movedim(1, -1)[:, 0, 0]
    assert middle.gather(1, true_kind[:, 0, 0, None]) == pytest.approx(1), (
        "with all reporting, the queried agent was seen"
    )


def test_trivial_predictors_use_only_what_reporting_agents_saw(trivial):
    fought = crowded()
    episode = reporting(observations(fought, WORLD.grid), 0.3, torch.Generator().manual_seed(0))
    reports = torch.zeros_like(fought.alive).scatter(
        2, agents(fought)[:, None].expand_as(episode.views.mask), episode.views.mask
    )
    gaps = (fought.positions[:, :, :, None] - fought.positions[:, :, None]).norm(dim=-1)
    seen = fought.alive & ((gaps <= WORLD.grid.field_of_view) & reports[..., None]).any(2)
    seen[:, -1] = False
    assert (~seen & fought.alive)[:, :-1].any()
    blank = torch.where(seen[..., None], 1.0, torch.nan)
    poisoned = replace(
        fought, positions=fought.positions * blank, stats=fought.stats * blank, terrain=fought.terrain * torch.nan,
        alive=fought.alive & seen, types=torch.where(seen.any(1), fought.types, 7),
    )  # fmt: skip
    for predict in trivial.by_name.values():
        one, other = predict(fought, episode), predict(poisoned, episode)
        assert all(torch.equal(value, getattr(other, name)) for name, value in vars(one).items())


def test_memory_helps_where_few_agents_report():
    world = replace(preset("tiny"), substeps=4)
    trivial = TrivialPredictors(world.grid, simulate(world, "3s5z", 8, seed=0))
    found = scores(trivial.by_name, simulate(world, "3s5z", 12, seed=1), world.grid, 0.2)
    assert found["last seen"]["unit_type_f1"] > found["nobody moves"]["unit_type_f1"] > 0.3


def test_battles_in_which_no_agent_lives_on_are_left_out():
    fought = simulate(SHORT, "1s2z", 20, seed=0)
    trivial, some = TrivialPredictors(WORLD.grid, fought), fought[torch.arange(10)]
    expected = scores(trivial.by_name, some, WORLD.grid)
    fought.alive[10:, 1:] = False
    assert scores(trivial.by_name, fought, WORLD.grid) == expected
    with pytest.raises(ValueError, match="expected agents that live after the first step"):
        scores(trivial.by_name, fought[torch.arange(10, 20)], WORLD.grid)


@pytest.mark.parametrize("name", ["s2gru", "lstm", "tto"])
def test_the_log_likelihood_is_minus_the_loss(name):
    model = Settings(name).build(WORLD)
    fought = simulate(SHORT, "1s2z", 4, seed=0)
    with torch.no_grad():
        loss = model.loss(observations(fought, WORLD.grid))
    (found,) = scores({"one": model_predictor(model)}, fought, WORLD.grid).values()
    assert found["log_likelihood"] == pytest.approx(-float(loss), rel=1e-5)
    some = reporting(observations(fought, WORLD.grid), 0.5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = model.loss(some)
    (found,) = scores({"one": model_predictor(model)}, fought, WORLD.grid, 0.5).values()
    assert found["log_likelihood"] == pytest.approx(-float(loss), rel=1e-5), "whichever agents are silent"


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_model_that_corrects_begins_at_what_was_last_seen_by_age(share):
    model = Settings("s2gru", corrects=True).build(WORLD)
    trivial, fought = trivial_predictors(WORLD), simulate(SHORT, "1s2z", 4, seed=0)
    predictors = {"one": model_predictor(model, trivial), "guess": trivial.by_name["last seen, by age"]}
    found = scores(predictors, fought, WORLD.grid, share)
    assert found["one"]["log_likelihood"] == pytest.approx(found["guess"]["log_likelihood"], rel=1e-4)
    assert found["one"]["negative_mse"] == pytest.approx(found["guess"]["negative_mse"])
    assert found["one"]["friendly_f1"] == pytest.approx(found["guess"]["friendly_f1"], abs=1e-3)


def test_in_training_agents_are_silent_throughout():
    drawn = episodes(WORLD, "train", drop=0.8)[list(range(9)), 3]
    there, shown = drawn.targets.mask, drawn.views.mask
    assert there.any(1).sum() > shown.any(1).sum(), "some are silent"
    assert torch.equal(shown, there & shown.any(1, keepdim=True)), "from the first to the last step"


def test_the_context_of_training_is_what_was_last_seen():
    train = episodes(WORLD, "train", guessed=True)[[0, 1], 3]
    model = Settings("s2gru", corrects=True).build(WORLD)
    assert train.context.shape == (*train.targets.mask.shape, math.prod(model.target_shape))
    assert not train.context[:, 0].any()
    model.loss(train).backward()
    assert model.correction.grad.abs().sum() > 0


class OneUnit(WorldModel):
    """A model that expects a friendly zealot, and nothing else, at one place of the map."""

    place = torch.tensor([20.3, 9.6])

    def __init__(self, world):
        torch.nn.Module.__init__(self)
        self.grid = world.grid

    def initial_state(self, batch_size):
        return None

    def observe(self, views, state=None):
        return None

    def last(self, states):
        return None

    def read(self, states, embedded):
        raise AssertionError("predict does without")

    def predict(self, states, positions, context=None):
        looks = torch.zeros(STATE)
        looks[[0, ZEALOT]] = 1
        offsets = (self.place - positions)[..., None, :]
        slots = offsets.shape[:-1]
        return SimpleNamespace(mean=draw(self.grid, offsets, torch.ones(slots).bool(), looks.expand(*slots, -1)))


def test_the_belief_has_a_unit_where_the_model_predicts_it():
    world = preset("tiny")
    views = observations(simulate(world, "1z", 1, seed=0), world.grid).views
    ours, theirs = report.belief(OneUnit(world), world, views)
    assert ours.shape == theirs.shape == (32, 32)
    assert (theirs == 0).all()
    row, column = (ours > 0).nonzero().T
    east, north = column + 0.5 - 20.3, row + 0.5 - 9.6
    assert torch.hypot(east, north).max() < 3, "rows are north, columns east"
    weight = ours[row, column] / ours.sum()
    assert torch.hypot((weight * east).sum(), (weight * north).sum()) < 0.3


def test_a_battle_is_drawn_from_above():
    battle = simulate(WORLD, "1c1s2z", 1, seed=0)
    steps = report.moments(battle, 3)
    made = report.from_above({"one": OneUnit(WORLD)}, WORLD, battle, 0.5, steps)
    assert [axes.get_title() for axes in made.axes] == [f"step {step}" for step in steps] + [""] * 3
    assert [axes.get_ylabel() for axes in made.axes] == ["truth", "", "", "one", "", ""]
    assert all(len(axes.images) == 0 and len(axes.patches) <= 2 for axes in made.axes[:3])
    assert all(len(axes.images) == 1 for axes in made.axes[3:])
    assert len(made.axes[0].collections) == 8 + 2, "two of four report, and are ringed"


def test_the_steps_shown_are_those_of_the_fight():
    battle = simulate(replace(WORLD, num_steps=40), "1z", 1, 0, "2c")
    assert not battle.alive[0, -1, 0]
    steps = report.moments(battle)
    assert steps == sorted(steps)
    assert steps[0] >= 1
    assert battle.alive[0, steps[-1], 0]


def test_scores_are_drawn_by_the_share_that_reports():
    values = dict.fromkeys(report.LABELS, 0.5)
    rows = [
        {"predictor": name, "scenario": scenario, "reporting": share, **values}
        for name in ("S2GRU", "last seen")
        for scenario, share in [*((VALIDATION, share) for share in REPORTING), ("1s2z", 1.0)]
    ]
    made = report.scores_by_reporting(rows)
    assert [axes.get_title() for axes in made.axes] == list(report.LABELS.values())
    for axes in made.axes:
        assert {len(line.get_xdata()) for line in axes.lines} == {len(REPORTING)}
        assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
