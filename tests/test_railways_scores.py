"""What trains see a step ahead, scored: hand-made episodes of views of one cell."""

import pytest
import torch

from s2rm import GQN, Episode, Views
from s2rm.tasks.railways.plots import predictions, world_map
from s2rm.tasks.railways.scores import TrivialPredictors, episodes, model_predictor, scores, seen_before
from s2rm.tasks.railways.world import CHANNELS, STATES, Railways, RailwayWorld, preset

NORTH, TRAIN_EAST = CHANNELS.index("track north"), CHANNELS.index("train east")


def sights(*steps):
    """Two trains, of each of which it is told at each step where it is and which channels it sees there, or None."""
    positions, values = torch.zeros(1, len(steps), 2, 2), torch.zeros(1, len(steps), 2, len(CHANNELS), 1, 1)
    mask = torch.zeros(1, len(steps), 2, dtype=torch.bool)
    for t, step in enumerate(steps):
        for a, told in enumerate(step):
            if told is not None:
                place, channels = told
                positions[0, t, a], mask[0, t, a] = torch.tensor(place), True
                values[0, t, a, list(channels)] = 1
    return Episode(Views(positions, values, mask))


PART = sights(
    [((2.0, 3.0), [NORTH, TRAIN_EAST]), None],
    [((2.0, 4.0), [NORTH]), ((2.0, 3.0), [NORTH])],
    [None, ((2.0, 4.0), [TRAIN_EAST])],
)


def test_what_any_train_last_saw_of_a_cell():
    seen, known = seen_before(PART)
    assert known.flatten(3).all(3)[PART.targets.mask[:, 1:]].tolist() == [False, True, True]
    assert seen[0, 0, 1].flatten().nonzero().flatten().tolist() == [NORTH, TRAIN_EAST], "as the other left it"
    assert seen[0, 1, 1].flatten().nonzero().flatten().tolist() == [NORTH]
    assert not seen[0, 0, 0].any()


def test_trivial_predictors_say_how_often_it_was_so():
    trivial = TrivialPredictors([PART])
    mean, decided = trivial.mean_view(PART)
    assert mean.shape == (1, 2, 2, len(CHANNELS), 1, 1)
    assert float(mean[0, 0, 0, NORTH]) == pytest.approx((2 + 0.5) / (3 + 1)), "2 of 3 views, and half a one of one"
    assert bool(decided[0, 0, 0, NORTH])
    assert not bool(decided[0, 0, 0, TRAIN_EAST])
    probability, decided = trivial.last_seen(PART)
    assert float(probability[0, 0, 0, NORTH]) == pytest.approx(1.5 / 2), "never seen before: once, and there it was"
    assert float(probability[0, 0, 1, NORTH]) == pytest.approx(1.5 / 3), "seen before: twice, of which once it stayed"
    assert decided[0, 0, 1].flatten().nonzero().flatten().tolist() == [NORTH, TRAIN_EAST]


def test_scores_count_what_is_there():
    def certain(part):
        probability = torch.full(part.targets.values[:, 1:].shape, 0.25)
        probability[..., NORTH, :, :] = 0.75
        return probability, probability > 0.5

    found = scores(certain, [PART, PART])
    # Of three views a step ahead two have a track north, where three are said; a train east is missed.
    assert found["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["f1_trains"] == 0
    right = 3 * len(CHANNELS) - 2
    logs = right * torch.tensor(0.75).log() + 2 * torch.tensor(0.25).log()
    assert found["log_likelihood"] == pytest.approx(float(logs) / (3 * len(CHANNELS)))


@pytest.fixture(scope="module")
def railways():
    """One train that goes east along a straight track from (5, 3), one that never departs."""
    rails = torch.zeros(1, 25, 25, dtype=torch.int32)
    rails[0, 5] = 0b0000_0100_0000_0001  # who comes eastward goes on east, who comes westward goes on west
    positions = torch.full((2, 6, 2, 2), -1, dtype=torch.int16)
    positions[:, 1:, 0, 0] = 5
    positions[:, 1:, 0, 1] = torch.arange(3, 8)
    directions = torch.where(positions[..., 0] >= 0, 1, -1).to(torch.int8)
    states = torch.where(directions >= 0, STATES.index("moving"), 0).to(torch.int8)
    stations = torch.tensor([[[5, 9], [5, 20]]] * 2, dtype=torch.int16)
    return Railways(rails.to(torch.uint16), torch.zeros(2, dtype=torch.long), positions, directions, states, stations)


def test_the_whole_map_and_the_picture_are_drawn(railways):
    whole = world_map(railways, 2)
    assert whole[CHANNELS.index("track east"), 5].all()
    assert whole[TRAIN_EAST].nonzero().tolist() == [[5, 4]]
    assert whole[CHANNELS.index("station")].nonzero().tolist() == [[5, 9], [5, 20]]
    world: RailwayWorld = preset("tiny")
    parts = list(episodes(world, railways, chunk=1))
    assert len(parts) == 2
    trivial = TrivialPredictors(parts)
    shape = (len(CHANNELS), world.view, world.view)
    model = GQN(core="gru", value_shape=shape, num_coordinates=2, codec="mlp", hidden_size=8)
    predict = torch.no_grad()(model_predictor(model))
    probability, decided = predict(parts[0])
    assert probability.shape == decided.shape == (1, 5, 2, *shape)
    made = predictions(world, railways, {"GRU": predict, "last seen": trivial.last_seen})
    assert len(made.axes) >= 4
