import math
from dataclasses import replace

import pytest
import torch

from conftest import make_gqn, make_s2rm
from s2rm import Episode, Views
from s2rm.settings import Settings
from s2rm.tasks.balls import report
from s2rm.tasks.balls.scores import (
    TrivialPredictors,
    episodes,
    episodes_to_test,
    one_step_scores,
    one_step_table,
    roll_out,
    score,
)
from s2rm.tasks.balls.world import episode, preset, random_positions, videos
from s2rm.tasks.crops import crops
from s2rm.tasks.task import Forecast, model_predictor

WORLD = replace(preset("tiny"), num_frames=6, clip=2)
BALLS = {"value_shape": (11, 11), "shortest": 24.0, "longest": 384.0}


@pytest.fixture(scope="module")
def trivial() -> TrivialPredictors:
    return TrivialPredictors(WORLD)


def some_episode() -> Episode:
    return episode(WORLD, videos(WORLD, "test", 0).frames(), torch.Generator().manual_seed(0))


def asked(views: Views, positions: torch.Tensor) -> Episode:
    """Views, and the crops at some positions as the targets."""
    return Episode(views, Views(positions, torch.zeros(*positions.shape[:3], 11, 11)))


def test_scores_by_hand():
    # Two steps, one view of 1 x 4 pixels each; only the second step is predicted.
    values = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(1, 2, 1, 1, 4)
    views = Views(torch.zeros(1, 2, 1, 2), values)
    probability = torch.tensor([0.8, 0.4, 0.6, 0.1]).expand(1, 1, 1, 1, 4)
    scores = one_step_scores(lambda *_: Forecast(probability, probability > 0.5), [Episode(views)] * 3)
    assert scores["f1"] == pytest.approx(0.5)
    assert scores["balanced_accuracy"] == pytest.approx(0.5)
    assert scores["log_likelihood"] == pytest.approx(sum(map(math.log, (0.8, 0.4, 0.4, 0.9))) / 4, rel=1e-5)
    assert scores["calibration_error"] == pytest.approx((0.2 + 0.6 + 0.6 + 0.1) / 4)
    assert torch.tensor(scores["reliability"]).flatten().tolist() == pytest.approx(
        [0.1, 0, 0.25, 0.4, 1, 0.25, 0.6, 0, 0.25, 0.8, 1, 0.25]
    )


@pytest.mark.parametrize(("fraction", "kept"), [(1.0, 10), (0.3, 3), (0.1, 1), (0.01, 1)])
def test_a_fraction_of_the_views_is_what_a_predictor_gets(fraction, kept):
    def check(part):
        positions = part.targets.positions[:, 1:]
        assert part.views.mask.sum(2).eq(kept).all()
        assert positions.shape[2] == 10, "every position is still asked for"
        zeros = torch.zeros(*positions.shape[:3], 11, 11)
        return Forecast(zeros, zeros > 1)

    assert one_step_scores(check, [some_episode()], fraction)["f1"] == 0


def test_who_says_how_often_it_is_right_is_calibrated():
    values = (torch.rand(4, 3, 5, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    views = Views(torch.zeros(4, 3, 5, 2), values)
    errors = []
    for claim in (0.3, 0.9):
        probability = torch.full((4, 2, 5, 9, 9), claim)
        scores = one_step_scores(lambda *_, p=probability: Forecast(p, p > 0.5), [Episode(views)])
        errors.append(scores["calibration_error"])
    assert errors == pytest.approx([0, 0.6], abs=0.02)


def test_one_who_knows_the_future_scores_perfectly():
    one = some_episode()
    truth = one.targets.values[:, 1:]
    scores = one_step_scores(lambda *_: Forecast(truth, truth > 0.5), [one])
    assert scores["f1"] == scores["balanced_accuracy"] == 1
    assert scores["log_likelihood"] == pytest.approx(0, abs=1e-6)


def test_the_static_scene_is_the_fixed_ball(trivial):
    forecast = trivial.static_scene(asked(some_episode().views, torch.tensor([24.0, 24.0]).expand(2, 6, 1, 2)))
    rows = torch.arange(19, 30) + 0.5 - 24
    fixed = rows[:, None] ** 2 + rows**2 < 16
    assert torch.equal(forecast.decision[0, 0, 0], fixed)
    assert forecast.decision[..., 0, 0].sum() == 0


def test_the_static_scene_has_the_f1_that_the_fixed_ball_alone_gives():
    world = replace(preset("small"), num_frames=10, clip=2, train_sequences=300, test_sequences=60)
    static = TrivialPredictors(world).static_scene
    # With as many pixels in each of the K balls as in the fixed one: recall 1 / (K + 1), precision 1.
    for balls, expected in ((1, 0.667), (3, 0.4)):
        scores = one_step_scores(static, episodes_to_test(world, balls, 0))
        assert scores["f1"] == pytest.approx(expected, abs=0.04)


def test_last_seen_knows_all_numbers_of_balls():
    world = replace(preset("small"), num_balls=1, most_balls=6, num_frames=10, clip=2, train_sequences=300)
    few, mixed, many = (
        TrivialPredictors(some).frequencies[0]
        for some in (replace(world, most_balls=None), world, replace(world, num_balls=6, most_balls=None))
    )
    assert few + (many - few) / 3 < mixed < many - (many - few) / 3


def test_last_seen_is_what_stood_there_when_it_was_last_looked_at(trivial):
    views = some_episode().views.keep(torch.arange(10) < 3)
    canvas = trivial.canvas(views)
    for b, t, row, column in [(0, 0, 24, 24), (1, 3, 10, 12), (0, 5, 47, 0), (1, 5, 30, 30), (0, 4, 5, 40)]:
        value = None
        for step in range(t + 1):
            for view in range(3):
                y, x = (views.positions[b, step, view].int() - torch.tensor([row, column])).tolist()
                if max(abs(y), abs(x)) <= 5:
                    value = bool(views.values[b, step, view, 5 - y, 5 - x])
        assert canvas[b, t, row, column] == (-1 if value is None else int(value))


def test_last_seen_falls_back_on_the_static_scene(trivial):
    views = some_episode().views
    positions = random_positions(WORLD, 2, 6, torch.Generator().manual_seed(2))
    nothing = asked(views.keep(torch.zeros(10, dtype=torch.bool)), positions)
    unseen, static = trivial.last_seen(nothing), trivial.static_scene(nothing)
    assert torch.equal(unseen.decision, static.decision)
    torch.testing.assert_close(unseen.probability, static.probability)
    low, high = trivial.frequencies
    assert 0 < low < 0.5 < high < 1


def test_tables_have_a_row_for_everything(trivial):
    model = make_s2rm(**BALLS).eval()
    predictors = {"S2GRU": model_predictor(model), "static scene": trivial.static_scene}
    rows = one_step_table(predictors, WORLD, seed=0, num_balls=(1, 2), fractions=(0.1, 1.0))
    assert [(row["predictor"], row["balls"], row["views"]) for row in rows] == [
        (name, balls, views) for balls in (1, 2) for views in (0.1, 1.0) for name in predictors
    ]
    assert all(0 <= row["f1"] <= 1 and row["log_likelihood"] < 0 for row in rows)
    assert rows == one_step_table(predictors, WORLD, seed=0, num_balls=(1, 2), fractions=(0.1, 1.0))


def test_rollouts_are_whole_frames_after_the_prompt(trivial):
    models = {"S2GRU": make_s2rm(**BALLS).eval(), "LSTM": make_gqn(**BALLS).eval()}
    rollouts = roll_out(models, trivial, WORLD, 2, 3, seed=0, prompt=4, steps=2)
    assert torch.equal(rollouts.truth, videos(replace(WORLD, test_sequences=2), "test", 0, 3).frames()[:, 4:])
    assert list(rollouts.predicted) == ["S2GRU", "LSTM", "static scene", "last seen"]
    for frames in rollouts.predicted.values():
        assert frames.shape == (2, 2, 48, 48)
        assert frames.isnan()[0, 0].sum() == 48**2 - 44**2
    still = rollouts.predicted["last seen"].nan_to_num()
    assert torch.equal(still[:, 0], still[:, 1])
    f1 = rollouts.f1()["static scene"]
    assert len(f1) == 2
    covered = ~rollouts.predicted["static scene"][0, 0].isnan()
    truth, still = rollouts.truth[:, 0][:, covered] > 0, rollouts.predicted["static scene"][:, 0][:, covered] > 0.5
    assert f1[0] == pytest.approx(2 * float((truth & still).sum()) / float(truth.sum() + still.sum()))
    with pytest.raises(ValueError, match=r"20 \+ 25 steps need sequences of at least 45 frames, the world's have 6"):
        roll_out(models, trivial, WORLD, 2, 3, seed=0)


def test_rollouts_start_from_the_same_crops_whatever_the_model(trivial):
    seen = []

    class Spy(type(make_gqn())):
        def observe(self, views, state=None):
            seen.append(views)
            return super().observe(views, state)

    spies = {}
    for name in ("one", "other"):
        spy = make_gqn(**BALLS).eval()
        spy.__class__ = Spy
        spies[name] = spy
    roll_out(spies, trivial, WORLD, 2, 3, seed=0, prompt=4, steps=2)
    assert torch.equal(seen[0].values, seen[2].values)
    assert torch.equal(seen[1].positions, seen[3].positions)
    frames = videos(replace(WORLD, test_sequences=2), "test", 0, 3).frames()
    assert torch.equal(seen[0].values, crops(frames[:, :4], seen[0].positions, 11))


def test_a_model_that_corrects_begins_at_what_was_last_seen(trivial):
    model, part = Settings(corrects=True).build(WORLD).eval(), some_episode()
    guess = trivial.last_seen(part).probability
    torch.testing.assert_close(model_predictor(model, trivial.last_seen)(part).probability, guess)
    shown = roll_out({"S2GRU": model}, trivial, WORLD, 2, 3, seed=0, prompt=3, steps=3).predicted
    covered = ~shown["last seen"].isnan()
    assert torch.equal((shown["S2GRU"] > 0.5)[covered], shown["last seen"][covered] > 0.5), "and stays there by itself"
    model.loss(episodes(WORLD, "train", guessed=True)[[0, 1], 0]).backward()
    assert model.correction.grad.abs().sum() > 0


def test_the_one_view_of_whole_frames_is_never_dropped():
    world = replace(preset("frames"), num_frames=6, clip=2, train_sequences=4, val_sequences=2, test_sequences=2)
    assert {row["views"] for row in score({}, world)} == {1.0}
    with pytest.raises(ValueError, match="drop_views leaves at least one view of each step, and there is one"):
        Settings("s2gru", drop_views=0.5).check(world)


def test_worlds_of_several_numbers_of_balls_are_rolled_out_and_explored():
    world = replace(preset("tiny"), num_balls=1, most_balls=3, val_sequences=4, test_sequences=4)
    assert report.animate({"GQN": make_gqn(**BALLS).eval()}, world, 0, (1,)).startswith(b"GIF")
    assert len(report.scene(world, 0).episodes)
