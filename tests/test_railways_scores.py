"""Scores one step ahead, on episodes written by hand with views of one cell, and the report."""

import copy
import re
from dataclasses import replace

import pytest
import torch

from s2rm import GQN, S2GRU, Episode, Views
from s2rm.report.page import Entry
from s2rm.tasks.railways import TASK, Railways, episodes, preset, score
from s2rm.tasks.railways.report import world_map
from s2rm.tasks.railways.scores import TrivialPredictors, one_step_scores, seen_before
from s2rm.tasks.railways.world import CHANNELS, STATES, in_chunks
from s2rm.tasks.task import Forecast, model_predictor

NORTH, TRAIN_EAST = CHANNELS.index("track north"), CHANNELS.index("train east")
WORLD = replace(preset("tiny"), num_trains=2)


def of_two_trains(*steps):
    """An episode from, at each step and for each train, its position and the channels that it sees there, or None."""
    positions, values = torch.zeros(1, len(steps), 2, 2), torch.zeros(1, len(steps), 2, len(CHANNELS), 1, 1)
    mask = torch.zeros(1, len(steps), 2, dtype=torch.bool)
    for t, step in enumerate(steps):
        for a, view in enumerate(step):
            if view is not None:
                place, channels = view
                positions[0, t, a], mask[0, t, a] = torch.tensor(place), True
                values[0, t, a, list(channels)] = 1
    return Episode(Views(positions, values, mask))


PART = of_two_trains(
    [((2.0, 3.0), [NORTH, TRAIN_EAST]), None],
    [((2.0, 4.0), [NORTH]), ((2.0, 3.0), [NORTH])],
    [None, ((2.0, 4.0), [TRAIN_EAST])],
)


def test_what_any_train_last_saw_of_a_cell():
    seen, known = seen_before(PART)
    assert known.flatten(3).all(3)[PART.targets.mask[:, 1:]].tolist() == [False, True, True]
    assert seen[0, 0, 1].flatten().nonzero().flatten().tolist() == [NORTH, TRAIN_EAST], "as the other train saw it"
    assert seen[0, 1, 1].flatten().nonzero().flatten().tolist() == [NORTH]
    assert not seen[0, 0, 0].any()


def test_cells_beyond_the_grid_are_remembered_too():
    positions = torch.tensor([[0.0, 4.0], [0.0, 5.0]])[None, :, None]
    seen, known = seen_before(Episode(Views(positions, torch.ones(1, 2, 1, len(CHANNELS), 3, 3))))
    columns = torch.tensor([True, True, False]).expand_as(known)
    assert torch.equal(known, columns), "two columns of each view overlap, its row above the grid included"
    assert torch.equal(seen, columns)


def test_trivial_predictors_give_frequencies_of_training():
    trivial = TrivialPredictors([PART])
    mean = trivial.mean_view(PART)
    assert mean.probability.shape == (1, 2, 2, len(CHANNELS), 1, 1)
    assert float(mean.probability[0, 0, 0, NORTH]) == pytest.approx((2 + 0.5) / (3 + 1)), "2 of 3 views, smoothed"
    assert bool(mean.decision[0, 0, 0, NORTH])
    assert not bool(mean.decision[0, 0, 0, TRAIN_EAST])
    last = trivial.last_seen(PART)
    assert float(last.probability[0, 0, 0, NORTH]) == pytest.approx(1.5 / 2), "never seen before: once, and it was 1"
    assert float(last.probability[0, 0, 1, NORTH]) == pytest.approx(1.5 / 3), "seen before: twice, once still 1"
    assert last.decision[0, 0, 1].flatten().nonzero().flatten().tolist() == [NORTH, TRAIN_EAST]


def test_scores_count_only_views_that_are_there():
    def certain(part):
        probability = torch.full(part.targets.values[:, 1:].shape, 0.25)
        probability[..., NORTH, :, :] = 0.75
        return Forecast(probability, probability > 0.5)

    found = one_step_scores(certain, [PART, PART])
    # Two of the three views to predict hold a track north, predicted in all three; a train east is missed.
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["f1_trains"] == 0
    right = 3 * len(CHANNELS) - 2
    logs = right * torch.tensor(0.75).log() + 2 * torch.tensor(0.25).log()
    assert found["log_likelihood"] == pytest.approx(float(logs) / (3 * len(CHANNELS)))


@pytest.mark.parametrize(("share", "reporting"), [(1.0, 2), (0.5, 1), (0.1, 1)])
def test_a_predictor_sees_the_views_of_trains_that_report(share, reporting):
    def check(part):
        assert torch.equal(part.views.mask[..., :reporting], PART.views.mask[..., :reporting])
        assert not part.views.mask[..., reporting:].any()
        assert part.targets is PART.targets, "the views of all trains are still predicted"
        return Forecast(part.targets.values[:, 1:], part.targets.values[:, 1:] > 0.5)

    assert one_step_scores(check, [PART], share)["f1"] == 1


@pytest.fixture(scope="module")
def railways():
    """One train that goes east along a straight track from (5, 3), one that never departs."""
    rails = torch.zeros(1, 25, 25, dtype=torch.int32)
    rails[0, 5] = 0b0000_0100_0000_0001  # eastbound trains leave eastward, westbound trains westward
    positions = torch.full((2, 6, 2, 2), -1, dtype=torch.int16)
    positions[:, 1:, 0, 0] = 5
    positions[:, 1:, 0, 1] = torch.arange(3, 8)
    directions = torch.where(positions[..., 0] >= 0, 1, -1).to(torch.int8)
    states = torch.where(directions >= 0, STATES.index("moving"), 0).to(torch.int8)
    stations = torch.tensor([[[5, 9], [5, 20]]] * 2, dtype=torch.int16)
    return Railways(rails.to(torch.uint16), torch.zeros(2, dtype=torch.long), positions, directions, states, stations)


def test_the_whole_map_shows_tracks_trains_and_stations(railways):
    whole = world_map(railways, 2)
    assert whole[CHANNELS.index("track east"), 5].all()
    assert whole[TRAIN_EAST].nonzero().tolist() == [[5, 4]]
    assert whole[CHANNELS.index("station")].nonzero().tolist() == [[5, 9], [5, 20]]


def test_a_model_that_corrects_begins_at_what_was_last_seen(railways, monkeypatch):
    monkeypatch.setattr("s2rm.tasks.railways.scores.collected", lambda *_: railways)
    arguments = {**WORLD.model_arguments(), "num_modules": 3, "hidden_size": 8, "extent": [(0, WORLD.side)] * 2}
    part = episodes(WORLD, "val", guessed=True)[[0, 1], 0]
    model = S2GRU(**arguments, corrects=True, context_size=part.context.shape[-1])
    rows = {row["predictor"]: row for row in score({"S2GRU": model}, WORLD, shares=(0.5,))}
    assert rows["S2GRU"]["log_likelihood"] == pytest.approx(rows["last seen"]["log_likelihood"], rel=1e-4)
    assert not part.context[:, 0].any()
    model.loss(part).backward()
    assert model.correction.grad.abs().sum() > 0


def test_models_are_scored_and_reported_beside_trivial_predictors(railways, tmp_path, monkeypatch):
    for module in ("scores", "report"):
        monkeypatch.setattr(f"s2rm.tasks.railways.{module}.collected", lambda *_: railways)
    arguments = {**WORLD.model_arguments(), "value_shape": (len(CHANNELS), WORLD.view, WORLD.view)}
    models = {
        "GRU": GQN(core="gru", num_coordinates=2, hidden_size=8, **arguments).eval(),
        "S2GRU": S2GRU(
            num_modules=3, hidden_size=8, extent=[(0, WORLD.side)] * 2, num_coordinates=2, **arguments
        ).eval(),
    }
    with torch.no_grad():
        forecast = model_predictor(models["GRU"])(next(in_chunks(WORLD, railways, chunk=1)))
    assert forecast.probability.shape == forecast.decision.shape == (1, 5, 2, *arguments["value_shape"])
    rows = score(models, WORLD, shares=(0.5, 1.0), progress=list)
    names = ("GRU", "S2GRU", "mean view", "last seen")
    assert [(row["reporting"], row["predictor"]) for row in rows] == [
        (share, name) for share in (0.5, 1.0) for name in names
    ]
    assert all(0 <= row["f1"] <= 1 and row["log_likelihood"] < 0 for row in rows)
    assert {row["reporting"] for row in score({}, WORLD)} == {1.0}
    headline = TASK.headline
    assert {headline.metric, headline.across, *dict(headline.where)} <= rows[0].keys()

    summary = dict.fromkeys(("val_loss", "updates", "minutes", "parameters", "seed"), 1)
    summary |= dict.fromkeys(("hardware", "torch", "commit"), "some")
    history = [{"minutes": 1.0, "val_loss": 0.5}]
    entries = [Entry(label, model, summary, 2e-3, "", history) for label, model in models.items()]
    TASK.write_report(tmp_path / "report.html", entries, rows, WORLD, 0, None)
    page = (tmp_path / "report.html").read_text()
    for part in (
        "F1 of trains, one step ahead", "F1 of all channels", "Log-likelihood", "50% report", "all trains report",
        f"{rows[0]['f1']:.3f}", "The railway, and one-step predictions", "Learning", "Enclaves of S2GRU",
        "Interactions between the modules of S2GRU",
    ):  # fmt: skip
        assert part in page
    assert len(re.findall('src="data:image/png', page)) == page.count("<figcaption>") == 5


def test_what_is_nowhere_and_predicted_nowhere_has_no_f1():
    def alone(part):
        truth = part.targets.values[:, 1:].clone()
        others = torch.ones(truth.shape[-2:], dtype=torch.bool)
        others[truth.shape[-2] // 2, truth.shape[-1] // 2] = False
        part.targets.values[..., others] = 0
        probability = part.targets.values[:, 1:].clamp(0.1, 0.9)
        return Forecast(probability, probability > 0.5)

    found = one_step_scores(alone, [copy.deepcopy(PART)])
    assert "f1_other_trains" not in found
