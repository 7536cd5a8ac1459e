"""Any world from a file of arrays: its format, its episodes, simple predictors, rollouts, commands."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from s2rm import Episode, Views
from s2rm.cli import main
from s2rm.runs import Run, score, write_report
from s2rm.settings import Core, Settings
from s2rm.tasks import arrays, robustness
from s2rm.tasks.arrays import opening, plots, report
from s2rm.tasks.arrays.predictors import Trivial
from s2rm.tasks.arrays.rollouts import OfModel, Untrained, roll_out
from s2rm.tasks.arrays.scores import ahead, windows
from s2rm.tasks.arrays.world import Source, displacement, tracked, with_actions
from s2rm.tasks.worlds import blinded, kept, with_fewer
from s2rm.training import Training

N, T, P = 7, 13, 5


@pytest.fixture
def random():
    return np.random.default_rng(0)


def straight(random, steps: int = T) -> np.ndarray:
    """Points that go on with the velocities that they have."""
    start, velocity = random.normal(size=(N, 1, P, 2)), 0.1 * random.normal(size=(N, 1, P, 2))
    return start + velocity * np.arange(steps)[:, None, None]


def refused(capsys, *arguments) -> str:
    """The one line in which a command refuses."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize("name", ["world.npz", "world", "world.zarr"])
def test_a_world_is_what_was_written(tmp_path, random, name):
    points, features = straight(random), random.normal(3.0, 2.0, size=(N, T, P, 3))
    mask, part = random.random((N, T, P)) < 0.8, np.array([0, 0, 0, 1, 0, 2, 2])
    features[0, 0, 0, 1] = np.nan
    mask[0, 0, 0] = True
    written = arrays.write_world(
        tmp_path / name, {"points": points, "features": features, "mask": mask, "part": part}, clip=4,
        extent=[(-9, 9), (-9, 8)],
    )  # fmt: skip
    world = arrays.open_world(tmp_path / name)
    assert world == written
    assert (world.kind, world.sequences, world.clip, world.target_shape) == ("points", (4, 1, 2), 4, (5,))
    assert world.extent == ((-9.0, 9.0), (-9.0, 8.0))
    assert world.scale[2:] == pytest.approx(np.nanstd(features[part == 0][mask[part == 0]], 0))
    source = Source(world, "test")
    kind = type(source.arrays["points"])
    assert (kind.__module__.partition(".")[0], kind is np.ndarray) == (
        "zarr" if "zarr" in name else "numpy",
        "npz" in name,
    )
    whole = source.episode(torch.arange(2), torch.tensor([3, 0]), 5, torch.Generator())
    there = torch.from_numpy(mask[5:]).float()
    assert torch.equal(whole.views.mask.float(), torch.stack([there[0, 3:8], there[1, :5]]))
    shown = torch.from_numpy(features[5, 3:8]).float()[there[0, 3:8].bool()]
    back = world.scaled(whole.views.values, back=True)[0][there[0, 3:8].bool()]
    torch.testing.assert_close(back[:, 2:], shown)


def test_views_of_the_library_are_a_world(tmp_path):
    views = Views(torch.rand(N, T, P, 3), torch.rand(N, T, P, 2), torch.rand(N, T, P) < 0.8)
    world = arrays.write_world(tmp_path / "world.npz", views)
    assert (world.kind, world.value_shape, len(world.extent)) == ("views", (2,), 3)
    episode = arrays.episodes(world, "val")[[0], 0]
    row = Source(world, "val").rows[0]
    assert torch.equal(episode.views.positions[0], views.positions[row])
    torch.testing.assert_close(world.scaled(episode.views.values, back=True)[0], views.values[row])


def test_frames_are_seen_in_crops_at_given_places(tmp_path, random):
    frames = random.integers(0, 256, (N, T, 3, 8, 6)).astype(np.uint8)
    places = np.broadcast_to([[4, 3], [2, 2]], (N, T, 2, 2))
    world = arrays.write_world(tmp_path / "world.npz", {"frames": frames, "positions": places}, crop=3)
    assert (world.value_shape, world.likelihood, world.binary, world.white) == ((3, 3, 3), "bernoulli", False, 255)
    values = arrays.episodes(world, "val")[[0], 0].views.values
    row = Source(world, "val").rows[0]
    np.testing.assert_allclose(values[0, :, 0], frames[row, :, :, 3:6, 2:5] / 255, rtol=1e-6)
    np.testing.assert_allclose(values[0, :, 1], frames[row, :, :, 1:4, 1:4] / 255, rtol=1e-6)


def test_bytes_are_binary_whatever_they_are_read_in(tmp_path, random, monkeypatch):
    frames = random.integers(0, 2, (N, T, 8, 8)).astype(np.uint8)
    mixed = frames.copy()
    mixed[N // 2 :] *= 255
    monkeypatch.setattr("s2rm.tasks.arrays.checks.AT_ONCE", 64 * T)
    for number, (given, expected) in enumerate(
        ((frames, (True, 1)), (255 * frames, (True, 255)), (mixed, (False, 255)))
    ):
        world = arrays.write_world(tmp_path / f"{number}.npz", {"frames": given}, crop=3)
        assert (world.binary, world.white) == expected


def test_points_are_asked_for_where_they_were_last_seen(tmp_path, random):
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random)})
    x = torch.tensor([1.0, 2.0, 4.0, 7.0]).reshape(1, 4, 1, 1).expand(1, 4, 1, 2)
    there, seen = torch.ones(1, 4, 1, dtype=torch.bool), torch.tensor([[[True], [False], [True], [True]]])
    episode = Episode(*tracked(world, x, None, None, there, seen))
    velocity = world.scaled(episode.views.values, back=True)[0, :, 0, 0]
    moved, features = displacement(world, episode.targets.values)
    assert velocity[[0, 2, 3]].tolist() == pytest.approx([0, 1.5, 3])  # 3 over two steps
    assert episode.targets.positions[0, :, 0, 0].tolist() == [1, 1, 1, 4]
    assert moved[0, 1:, 0, 0].tolist() == pytest.approx([1, 3, 3])
    assert episode.targets.mask[0, :, 0].tolist() == [False, True, True, True]
    assert features.shape[-1] == 0


@pytest.mark.parametrize("shape", [(), (3, 4)])
@pytest.mark.parametrize("acts", [False, True])
def test_points_of_blind_steps_are_asked_for_where_they_were_last_shown(tmp_path, random, shape, acts):
    points, mask = straight(random), random.random((N, T, P)) < 0.8
    given = {"points": points, "features": random.normal(size=(N, T, P, *shape)), "mask": mask}
    given |= {"actions": random.normal(size=(N, T, P, 2))} if acts else {}
    world = arrays.write_world(tmp_path / "world.npz", given)
    source = arrays.episodes(world, "val")
    whole, blind = source[[0], 3], blinded(source, 1.0)[[0], 3]
    end = int(blind.views.mask[0].any(-1).sum())
    assert 5 <= end < T
    x, there = torch.from_numpy(points[Source(world, "val").rows[0]]).float(), whole.views.mask[0]
    moved, features = displacement(world, blind.targets.values)
    for step, point in product(range(1, T), range(P)):
        shown = [t for t in range(min(step, end)) if there[t, point]]
        assert blind.targets.mask[0, step, point] == bool(shown and there[step, point])
        if blind.targets.mask[0, step, point]:
            assert torch.equal(blind.targets.positions[0, step, point], x[shown[-1], point])
            torch.testing.assert_close(moved[0, step, point], x[step, point] - x[shown[-1], point])
    torch.testing.assert_close(features, displacement(world, whole.targets.values)[1])
    torch.testing.assert_close(blind.targets.values[:, : end + 1], whole.targets.values[:, : end + 1])
    assert (blind.context is None) != acts
    if acts:
        assert torch.equal(blind.context, whole.context), "a plan is known ahead"


def test_constant_velocity_is_right_where_it_holds(tmp_path, random):
    points = straight(random, 24)
    world = arrays.write_world(tmp_path / "world.npz", {"points": points})
    assert (world.prompt, world.steps_ahead, world.guess) == (14, 10, "constant velocity")
    rows = {(row["predictor"], row["ahead"]): row["error"] for row in arrays.score({}, world)}
    assert rows["constant velocity", 1] < 1e-5
    assert rows["constant velocity", 10] < 1e-4
    test = Source(world, "test").rows
    speed = np.square(points[test, 1] - points[test, 0]).sum(-1)
    assert [rows["persistence", step] for step in (1, 3)] == pytest.approx([speed.mean() ** 0.5 * k for k in (1, 3)])
    middle = points[Source(world, "train").rows].mean((0, 1, 2))
    away = np.square(points[test, 14] - middle).sum(-1).mean() ** 0.5
    assert rows["mean", 1] == pytest.approx(away, rel=1e-4)


def test_constant_velocity_goes_on_after_points_were_out_of_sight(tmp_path, random):
    mask = np.ones((N, 24, P), bool)
    mask[:, 11:14] = False  # nobody is seen at the last steps of the prompt
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random, 24), "mask": mask})
    for shares in (None, (0.5,)):
        rows = [row for row in arrays.score({}, world, shares=shares) if row["predictor"] == "constant velocity"]
        assert max(row["error"] for row in rows) < 1e-4


@pytest.mark.parametrize("nowhere", [np.nan, -1, 100])
def test_what_stands_where_no_crop_is_seen_has_no_effect(tmp_path, random, nowhere):
    frames = random.integers(0, 2, (N, T, 8, 8)).astype(np.uint8)
    mask, places = random.random((N, T, 3)) < 0.7, random.integers(0, 8, (N, T, 3, 2)).astype(float)
    seen = []
    for hidden in (0, nowhere):
        content = {"frames": frames, "positions": np.where(mask[..., None], places, hidden), "mask": mask}
        episode = arrays.episodes(arrays.write_world(tmp_path / "world.npz", content, crop=3), "train")[[0, 1], 0]
        seen.append(episode.views.values[episode.views.mask])
    assert torch.equal(*seen)


def test_actions_stay_beside_targets_whose_views_are_hidden(tmp_path, random):
    content = {"points": straight(random), "actions": random.random((N, T, P, 3))}
    source = arrays.episodes(arrays.write_world(tmp_path / "world.npz", content), "train")
    whole = source[[0, 1], 0]
    for part in (blinded(source, 1.0)[[0, 1], 0], with_fewer(whole, 0.5, torch.Generator())):
        assert part.views.mask.sum() < whole.views.mask.sum()
        assert torch.equal(part.context, whole.context)


def test_last_seen_is_right_where_nothing_moves(tmp_path, random):
    frames = np.broadcast_to((random.random((N, 1, 9, 9)) < 0.4).astype(np.uint8), (N, T, 9, 9))
    places = np.broadcast_to([[r, c] for r in (1, 4, 7) for c in (1, 4, 7)], (N, T, 9, 2))
    world = arrays.write_world(tmp_path / "world.npz", {"frames": frames, "positions": places}, crop=3)
    for row in arrays.score({}, world):
        if row["predictor"] == "last seen":
            assert (row["error"], row["f1"]) == (0, 1)
        else:
            assert row["error"] > 0.3


def test_the_nearest_place_and_the_same_slot(tmp_path):
    positions = torch.zeros(N, T, 2, 1)
    positions[:, ::2, 1], positions[:, 1::2, 0] = 1.0, 1.0  # the two slots change places at each step
    views = Views(positions, positions + 3 * torch.arange(N)[:, None, None, None])
    world = arrays.write_world(tmp_path / "world.npz", views)
    rows = {(row["predictor"], row["ahead"]): row["error"] for row in arrays.score({}, world)}
    assert rows["last seen", 1] == rows["last seen", 2] == 0
    assert (rows["persistence", 1], rows["persistence", 2]) == pytest.approx((1, 0))
    assert world.guess == "last seen"


@pytest.mark.parametrize("kind", ["frames", "points", "views"])
def test_a_model_that_corrects_begins_at_the_guess(tmp_path, random, kind):
    content = {
        "frames": {"frames": random.random((N, T, 2, 9, 7)) < 0.3},
        "points": {"points": straight(random).cumsum(1), "features": random.normal(size=(N, T, P))},
        "views": {"positions": random.random((N, T, P, 2)), "values": random.normal(size=(N, T, P, 2, 3, 3))},
    }[kind]
    world = arrays.write_world(tmp_path / "world.npz", content)
    settings, trivial = Settings(corrects=True), Trivial(world)
    model = settings.build(world).eval()
    model.loss(arrays.episodes(world, "train", guessed=True)[[0, 1], 0]).backward()
    window = next(windows(world, 0))
    ours, guess = (
        list(ahead(predictor, trivial, window))
        for predictor in (OfModel(model, trivial), Untrained(trivial, world.guess))
    )
    torch.testing.assert_close(ours[0].positions, guess[0].positions)
    if world.scale:
        torch.testing.assert_close(ours[0].values, guess[0].values)
    else:
        torch.testing.assert_close(ours[0].distribution.mean, guess[0].distribution.mean)


def test_a_share_of_the_views_is_kept():
    mask = torch.rand(3, 11, 10) < 0.9
    some = kept(mask, 0.3, torch.Generator().manual_seed(0))
    assert not (some & ~mask).any()
    assert torch.equal(some.sum(2), (0.3 * mask.sum(2)).round().clamp(min=1).long())
    assert some.any(1).any(0).all(), "not always the same ones"


def test_training_drops_views_and_predicts_all_the_same(tmp_path, random):
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random)})
    few, whole = (arrays.episodes(world, "train", drop=drop)[[0, 1, 2, 3, 4], 0] for drop in (0.8, 0.0))
    assert whole.views.mask.all()
    seen = few.views.mask.sum(2)  # a share of five points, of each sequence its own, at least a fifth of them
    assert (seen == seen[:, :1]).all()
    assert 1 <= seen.min() < seen.max() <= P
    known = few.views.mask.cummax(1).values[:, :-1]
    assert torch.equal(few.targets.mask[:, 1:], known), "all that was ever seen before is predicted"
    with pytest.raises(ValueError, match="drop_views must be at least 0 and below 1, got 1"):
        Settings(drop_views=1.0).check(world)


def test_a_rollout_takes_a_plan_of_actions(tmp_path, random):
    content = {"points": straight(random), "actions": random.random((N, T, P, 3)), "rewards": random.random((N, T, P))}
    world = arrays.write_world(tmp_path / "world.npz", content)
    assert (world.value_shape, world.target_shape, world.num_actions) == ((5,), (2,), 3)
    views = arrays.episodes(world, "val")[[0], 0].views
    row = Source(world, "val").rows[0]
    np.testing.assert_allclose(views.values[0, :, :, 2:], content["actions"][row], rtol=1e-6)
    trivial, model = Trivial(world), Settings().build(world).eval()
    plan = torch.zeros(1, 4, P, 3)
    ends = []
    for first in (0.0, 1.0):
        plan[:, 0] = first
        made = [*roll_out(OfModel(model, trivial), trivial, views, 4, plan=plan)]
        assert [each.positions.shape for each in made] == [(1, P, 2)] * 4
        ends.append([each.positions for each in made])
    assert torch.equal(ends[0][0], ends[1][0]), "the first step follows from the actions in the prompt"
    assert not torch.equal(ends[0][1], ends[1][1])
    assert torch.equal(next(arrays.rollout(model, world, views, 1, plan=plan)).positions, ends[0][0])
    with pytest.raises(ValueError, match="expected a plan of actions, got none"):
        next(arrays.rollout(model, world, views, 4))


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("views", {}, "a world of views takes queries, positions at each step ahead, got none"),
        ("frames", {}, "a world of frames takes queries, positions at each step ahead, got none"),
        ("views", {"queries": (1, P, 2)}, r"of shape \(1, 3, 5, 2\), .* got \(1, 5, 2\)"),
        ("views", {"queries": (1, 2, P, 2)}, r"of shape \(1, 3, 5, 2\), .* got \(1, 2, 5, 2\)"),
        ("views", {"queries": (1, 3, 2, 2)}, r"of shape \(1, 3, 5, 2\), .* got \(1, 3, 2, 2\)"),
        ("frames", {"queries": (2, 3, 9, 2)}, r"of shape \(1, 3, any number, 2\), .* got \(2, 3, 9, 2\)"),
        ("points", {"plan": (1, 3, P, 2), "queries": (1, 3, P, 2)}, "takes no queries, since points are asked for"),
        ("points", {"plan": (1, 2, P, 2)}, r"expected plan of shape \(1, 3, 5, 2\), .* got \(1, 2, 5, 2\)"),
        ("points", {"plan": (1, 3, 2, 2)}, r"expected plan of shape \(1, 3, 5, 2\), .* got \(1, 3, 2, 2\)"),
    ],
)  # fmt: skip
def test_what_a_rollout_cannot_follow_is_refused(tmp_path, random, kind, given, message):
    content = {
        "views": {"positions": straight(random), "values": random.random((N, T, P, 3))},
        "frames": {"frames": np.zeros((N, T, 9, 8))},
        "points": {"points": straight(random), "actions": random.random((N, T, P, 2))},
    }[kind]
    world = arrays.write_world(tmp_path / "world.npz", content)
    prompt = arrays.episodes(world, "val")[[0], 0].views.steps(None, 5)
    with pytest.raises(ValueError, match=f"^rollout: .*{message}"):
        next(arrays.rollout(Settings().build(world), world, prompt, 3, **{k: torch.zeros(v) for k, v in given.items()}))


@pytest.mark.parametrize("corrects", [False, True])
def test_a_query_carries_the_action_of_its_point(tmp_path, random, corrects):
    actions, mask = random.random((N, T, P, 3)).astype(np.float32), np.ones((N, T, P), bool)
    mask[:, 4, 1] = False
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random), "actions": actions, "mask": mask})
    model = Settings(corrects=corrects).build(world).eval()
    assert model.context_size == 3 + 2 * corrects
    episode = arrays.episodes(world, "val", guessed=corrects)[[0], 0]
    actions[:, 4, 1] = np.nan  # where nobody is nothing counts
    other = arrays.write_world(tmp_path / "other.npz", {"points": straight(random), "actions": actions, "mask": mask})
    values = arrays.episodes(other, "val")[[0], 0].views.values
    assert values[..., -3:].isfinite().all()
    taken = torch.from_numpy(np.where(mask[..., None], actions, 0)[Source(world, "val").rows[:1]])
    assert torch.equal(episode.context[:, 1:, :, -3:], taken[:, :-1]), (
        "the target at step t follows from the action at t-1"
    )
    assert not episode.context[:, 0].any()
    assert model.loss(episode).isfinite()
    asked, answer = [], model.predict
    model.predict = lambda state, positions, context: (
        asked.append(context[..., -3:]),
        answer(state, positions, context),
    )[1]
    plan, trivial = torch.from_numpy(random.random((1, 3, P, 3)).astype(np.float32)), Trivial(world)
    list(roll_out(OfModel(model, trivial), trivial, episode.views, 3, plan=plan))
    assert torch.equal(torch.stack(asked, 1), torch.cat([taken[:, -1:], plan[:, :2]], 1))


def test_points_that_have_left_are_not_fed_back(tmp_path, random):
    mask = np.ones((N, T, P), bool)
    mask[:, 4:, 1] = False
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random), "mask": mask})
    model, trivial, episode = Settings().build(world).eval(), Trivial(world), arrays.episodes(world, "val")[[0], 0]
    shown, predictor = [], OfModel(model, trivial)
    see = predictor.see
    predictor.see = lambda views: (shown.append(views.mask), see(views))[1]
    there = torch.ones(1, 3, P, dtype=torch.bool)
    there[:, :, 1] = False
    list(roll_out(predictor, trivial, episode.views, 3, mask=there))
    assert torch.equal(torch.cat(shown[1:], 1), there)


def some(**changes) -> dict[str, np.ndarray]:
    points = {"points": np.zeros((4, 3, 2, 2))}
    return {name: array for name, array in {**points, **changes}.items() if array is not None}


NOWHERE, GAP = np.zeros((4, 3, 2), bool), np.full((4, 3, 2, 2), np.nan)
FRAMES = np.zeros((4, 3, 9, 9), np.uint8)
REFUSED = {
    "unequal": (some(features=np.zeros((4, 2, 2, 1))), {}, "got points 4 x 3 x 2, features 4 x 2 x 2; pad"),
    "ragged": (some(points=[[[1.0]], [[1.0], [2.0]]]), {}, "points is no array of numbers"),
    "texts": (some(points=np.full((4, 3, 2, 2), "a")), {}, "points must hold numbers, got <U1"),
    "small frames": ({"frames": FRAMES}, {"crop": 11}, "at least the crop's 11 x 11 pixels in .*, got 9 x 9; take"),
    "outside": (some(points=np.ones((4, 3, 2, 2))), {"extent": [(0, 2), (0, 0.5)]}, "got 24 outside, the first"),
    "beyond the last pixel": (
        {"frames": FRAMES, "positions": np.full((4, 3, 2, 2), 9.0)}, {"crop": 1}, "got 24 outside.* pixels count",
    ),
    "coordinates": (some(), {"extent": [(0, 2)]}, "for each of 2 coordinates in .*, got 1"),
    "no box": (some(), {"extent": [(0, 2), (2, 2)]}, "extent must be pairs"),
    "all hidden": (some(mask=NOWHERE), {}, "hides the part 'train' at all but 0 steps"),
    "NaN position": (some(points=GAP), {}, "expected finite positions in .*, got NaN"),
    "NaN feature": (some(features=GAP), {}, "in features in .*, got only NaN where something is; set the mask"),
    "infinite": (some(features=GAP.copy() * 0 + np.inf), {}, "only NaN where"),
    "bright": ({"frames": FRAMES + 2.0}, {}, "numbers from 0 to 1 in .*, got float64 from 2 to 2; scale"),
    "axes": ({"frames": FRAMES[0]}, {}, r"frames in .* must have 4 or 5 axes.*, got shape \(3, 9, 9\)"),
    "deep": (some(features=np.zeros((4, 3, 2, 2, 2, 2, 2))), {}, "features in .* must have 3 or 4 or 5 or 6 axes"),
    "few": ({"frames": FRAMES[:2]}, {}, "expected at least 3 sequences.*, got 2 of 3; cut"),
    "empty": (some(points=np.zeros((4, 3, 0, 2))), {}, "holds nothing"),
    "parts": (some(part=np.zeros(4, int)), {}, r"part in .* with each of them, got shape \(4,\) with \[0\]"),
    "unknown": (some(speed=np.zeros((4, 3, 2))), {}, "has speed, which a world of points does not have"),
    "nothing": ({"images": FRAMES}, {}, "expected frames, or points, or positions and values in .*, got images"),
    "clip": (some(), {"clip": 4}, "clip must be at most the 3 steps of a sequence, got 4"),
    "masked": (some(points=np.ma.zeros((4, 3, 2, 2))), {}, "points is a masked array; give its data"),
    "mask of numbers": (some(mask=2.0 * np.ones((4, 3, 2))), {}, "must be True or False, got other numbers"),
    "NaN reward": (
        some(rewards=np.full((4, 3, 2), np.nan)), {}, "expected finite numbers in rewards in .*, got NaN where",
    ),
    "NaN action": (some(actions=GAP), {}, "expected finite numbers in actions in .*, got NaN where"),
    "beyond": (some(points=np.full((4, 3, 2, 2), 1e40)), {}, "got NaN, infinity or more than 1e"),
    "far away": (some(points=5e6 + 0.01 * np.arange(48).reshape(4, 3, 2, 2)), {}, "cannot tell apart; subtract"),
    "channels last": ({"frames": np.zeros((4, 3, 9, 9, 3))}, {}, "seem to stand last; np.moveaxis"),
    "idle crop": (some(), {"crop": 3}, "crop does not matter to points like these; leave it out"),
    "flat box": (some(), {"extent": (0, 1)}, r"extent must be pairs \(low, high\), got \(0, 1\)"),
    "endless box": (some(), {"extent": [(0, np.inf), (0, 1)]}, "extent must be pairs"),
    "mask of nothing": ({"frames": FRAMES, "mask": np.ones((4, 3, 2), bool)}, {}, "got frames without; add them"),
    "no views": ({"frames": FRAMES}, {"num_views": 0}, "num_views must be a whole number of at least 1, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_world_is_refused_in_one_line_and_not_written(tmp_path, case):
    content, seeing, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^world: .*{message}") as refusal:
        arrays.write_world(tmp_path / "world.npz", content, **seeing)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["world.npz", "world", "world.zarr"])
def test_nothing_is_left_of_a_world_that_cannot_be_opened(tmp_path, name, monkeypatch):
    def fail(world):
        raise ValueError("no guess")

    monkeypatch.setattr(opening, "best_guess", fail)
    with pytest.raises(ValueError, match="no guess"):
        arrays.write_world(tmp_path / name, some())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["best_guess", "write_whole"])
def test_an_earlier_file_stays_until_the_new_one_is_whole(tmp_path, broken, monkeypatch):
    path = tmp_path / "world.npz"
    arrays.write_world(path, some())
    before = path.read_bytes()

    def fail(*given):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(opening, broken, fail)
        with pytest.raises(OSError, match="the disk is full"):
            arrays.write_world(path, some(points=np.ones((4, 3, 2, 2))))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    world = arrays.write_world(path, some(points=np.ones((4, 3, 2, 2))))
    assert path.read_bytes() != before
    assert world == arrays.open_world(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["world", "world.zarr"])
def test_what_a_killed_process_left_of_a_world_is_overwritten(tmp_path, name):
    staged = tmp_path / f".{name}.part" / name
    staged.mkdir(parents=True)
    (staged / "points.npy").write_bytes(b"no")
    (tmp_path / name).mkdir()
    assert arrays.write_world(tmp_path / name, some()) == arrays.open_world(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", [np.float64, np.bool_, np.uint8])
def test_views_may_be_flags_and_bytes(tmp_path, random, kind):
    flags, places = random.integers(0, 2, (N, T, P)).astype(kind), random.integers(0, 9, (N, T, P, 2)).astype(kind)
    places[0, 0, :2] = [0, 0], [1, 1]
    world = arrays.write_world(tmp_path / "world.npz", {"positions": places, "values": flags})
    assert (world.value_shape, world.binary) == ((), True)
    views = arrays.episodes(world, "val")[[0], 0].views
    np.testing.assert_array_equal(views.values[0], flags[Source(world, "val").rows[0]])
    assert Settings().build(world).loss(Episode(views)).isfinite()


def test_tensors_of_fewer_bits_are_kept_as_numbers(tmp_path):
    frames = torch.rand(6, 4, 8, 8).round()
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        world = arrays.write_world(tmp_path / "world.npz", {"frames": frames.to(kind)})
        source = Source(world, "val")
        np.testing.assert_array_equal(source.arrays["frames"][source.rows[0]], frames[source.rows[0]])
    views = Views(torch.rand(6, 4, 3, 2), torch.rand(6, 4, 3), torch.ones(6, 4, 3, dtype=torch.bool))
    assert arrays.write_world(tmp_path / "views.npz", views.to(torch.bfloat16)).value_shape == ()


def test_a_path_with_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in .npz or .zarr, or a folder's without an ending, got world.npy"):
        arrays.write_world(tmp_path / "world.npy", some())


def test_targets_of_their_own_are_no_views():
    views = Views(torch.rand(3, 2, 1, 1), torch.rand(3, 2, 1, 1))
    with pytest.raises(ValueError, match="expected an Episode whose targets are its views"):
        arrays.write_world("nowhere.npz", Episode(views, views.keep(views.mask)))
    with pytest.raises(ValueError, match="expected an Episode without context"):
        arrays.write_world("nowhere.npz", Episode(views, context=torch.rand(3, 2, 1, 4)))


def test_a_file_that_is_none_is_refused(tmp_path, capsys, random):
    path = tmp_path / "world.npz"
    assert "or the path of a world, found no file" in refused(capsys, "train", path)
    for content in (b"no", b"time,lon,lat\n1,2,3\n"):
        path.write_bytes(content)
        said = refused(capsys, "train", path)
        assert f"world: cannot read {path} (it is no .npz file; for a table of observations, see s2rm fit)" in said
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "holds one array without a name" in refused(capsys, "train", tmp_path / "one.npy")
    np.savez(path, points=np.array([[object()]]))
    assert "Object arrays cannot be loaded" in refused(capsys, "train", path)
    arrays.write_world(path, {"points": straight(random)})
    assert "--size is for the built-in worlds" in refused(capsys, "train", path, "--size", "tiny")
    path.write_bytes(path.read_bytes()[:-300])
    assert f"world: cannot read {path}" in refused(capsys, "train", path)
    folder = tmp_path / "folder"
    arrays.write_world(folder, {"points": straight(random)})
    with pytest.raises(ValueError, match="exists already; choose another path"):
        arrays.write_world(folder, {"points": straight(random)})
    (folder / "world.json").unlink()
    assert "world.json is missing" in refused(capsys, "train", folder)


def test_a_zarr_folder_is_checked_when_it_is_opened(tmp_path, capsys, random):
    path = tmp_path / "world.zarr"
    arrays.write_world(path, {"points": straight(random)})
    about = path / "points" / "zarr.json"
    sound = about.read_text()
    about.write_text(sound.replace('"zstd"', '"numcodecs.pickle"'))
    assert "expected codecs that only compress in world.zarr, got 'numcodecs.pickle'" in refused(capsys, "train", path)
    about.write_text(sound)
    whole = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps({**whole, "attributes": {}}))
    assert "it has no attribute 'world', so that it was not written to the end" in refused(capsys, "train", path)


def test_a_plan_goes_where_the_reward_is(tmp_path, random):
    points, actions = np.zeros((20, T, P, 2)), np.eye(4)[random.integers(0, 4, (20, T, P))]
    ways = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    points[:, 1:] = (actions[:, :-1] @ ways).cumsum(1)  # each action is a step in its direction
    world = arrays.write_world(tmp_path / "world.npz", {"points": points, "actions": actions})

    # A model that knows this: its state is the actions in the last views.
    knowing = Settings().build(world)
    knowing.observe = lambda views, state=None: views.values[..., 2:].flatten(3)
    knowing.last = lambda states: states[:, -1]
    knowing.initial_state = lambda batch_size: torch.zeros(batch_size, P, 4)
    knowing.predict = lambda state, positions, context=None: torch.distributions.Normal(
        state @ torch.from_numpy(ways).float() / world.scale[0], 1.0
    )

    def to_the_right(expected):
        return expected.positions[..., 0].mean(1)

    views = arrays.episodes(world, "val")[[0], 0].views.steps(None, 6)
    planner = arrays.Planner(knowing, world, to_the_right, steps=4, candidates=200, elites=20, rounds=8)
    plan = planner.plan(views)
    assert (plan.actions[:3].argmax(-1) == 0).float().mean() > 0.9, "all go to the right"
    start = views.positions[0, -1]
    torch.testing.assert_close(plan.positions[0], start + plan.actions[0] @ torch.from_numpy(ways).float())
    assert plan.reward == pytest.approx(float(plan.positions[..., 0].mean(1).sum()), rel=1e-4)
    with pytest.raises(ValueError, match=r"one finite number for each of 200 rollouts, got shape \(200, 5\); sum"):
        arrays.Planner(knowing, world, lambda expected: expected.positions[..., 0], candidates=200).plan(views)
    still = arrays.write_world(tmp_path / "still.npz", {"points": points})
    with pytest.raises(ValueError, match="expected a world of points with actions, got points without"):
        arrays.Planner(knowing, still, to_the_right)
    with pytest.raises(ValueError, match="elites must be at most 3 candidates, got 8"):
        arrays.Planner(knowing, world, to_the_right, candidates=3)


@pytest.mark.parametrize("name", ["lstm", "gru", "rims", "rmc", "s2lstm"])
def test_plans_are_made_with_every_model(tmp_path, random, name):
    actions = np.eye(3)[random.integers(0, 3, (N, T, P))]
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random), "actions": actions})
    model = Settings(name, core=Core(hidden_size=24)).build(world).eval()
    planner = arrays.Planner(
        model, world, lambda expected: expected.positions[..., 0].mean(1), steps=2, candidates=6, elites=2, rounds=2
    )
    plan = planner.plan(arrays.episodes(world, "val")[[0], 0].views.steps(None, 6))
    assert plan.actions.shape == (2, P, 3)


def test_what_a_plan_expects_is_its_rollout(tmp_path, random):
    mask = np.ones((N, T, P), bool)
    mask[:, 6, 1:3] = False
    content = {"points": straight(random), "actions": random.random((N, T, P, 3)), "mask": mask}
    world = arrays.write_world(tmp_path / "world.npz", content)
    model = Settings(core=Core(hidden_size=16)).build(world).eval()
    with torch.no_grad():
        model.decoder.layers.first.weight.mul_(30)  # so that the context counts
    views = arrays.episodes(world, "test")[[0], 0].views.steps(None, 7)
    planner = arrays.Planner(
        model, world, lambda made: made.positions.numpy().sum((1, 2)), steps=3, candidates=6, elites=2, rounds=1
    )
    plan = planner.plan(views)
    prompt = views.steps(None, -1).then(with_actions(world, views.at(-1), plan.actions[None, None, 0]))
    made = [*arrays.rollout(model, world, prompt, 3, plan=plan.actions[None, [1, 2, 2]])]
    torch.testing.assert_close(plan.positions, torch.cat([each.positions for each in made]))
    assert plan.reward == pytest.approx(float(plan.positions.sum()), rel=1e-4)


def test_arrays_saved_by_numpy_are_a_world_too(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", frames=np.zeros((5, 4, 9, 8)))
    world = arrays.open_world(tmp_path / "mine.npz")
    assert (world.value_shape, world.num_views, world.sequences) == ((8, 8), 10, (3, 1, 1))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    points = straight(np.random.default_rng(0), 9)
    arrays.write_world(folder / "own.npz", {"points": points, "mask": np.random.default_rng(1).random((N, 9, P)) < 0.9})
    main(["train", str(folder / "own.npz"), "--corrects", "--epochs", "1", "--out", str(folder / "run")])
    return folder / "run"


def test_a_world_of_ones_own_through_every_command(run, capsys, tmp_path):
    main(["train", "--resume", str(run), "--epochs", "2"])
    assert Run.open(run).world == arrays.open_world(run.parent / "own.npz")
    main(["evaluate", str(run), "--drop-views", "0.5", "--remove-modules", "1", "3"])
    said = " ".join(capsys.readouterr().err.split())
    assert "S2GRU: NOT better than" in said
    assert "of constant velocity (steps ahead: 1)" in said
    assert "modules in 3 random choices each" in said
    scores = json.loads((run / "scores.json").read_text())
    assert {row["predictor"] for row in scores["rows"]} == {"S2GRU", "mean", "persistence", "constant velocity"}
    assert {row["ahead"] for row in scores["rows"]} == {1, 2, 3, 4}
    cut = [row for row in scores["robustness"] if row["removed"] == 3]
    assert {row["predictor"] for row in cut} == {"S2GRU"}
    assert all(row["lowest"] <= row["error"] <= row["highest"] for row in cut)
    whole = [row["error"] for row in scores["rows"] if row["predictor"] == "S2GRU"]
    assert whole == [
        row["error"] for row in scores["robustness"]
        if (row["predictor"], row["dropped"], row["removed"]) == ("S2GRU", 0, 0)
    ]  # fmt: skip
    main(["rollout", str(run), "--out", str(tmp_path / "rollout.gif")])
    assert (tmp_path / "rollout.gif").read_bytes().startswith(b"GIF")
    assert "--balls is of runs on the balls" in refused(capsys, "rollout", run, "--balls", "1")
    main(["report", str(run)])
    page = (run / "report.html").read_text()
    assert page.index("NOT better than") < page.index("<h2>")
    for part in ("Error by steps ahead", "Rollouts, animated", "Enclaves of S2GRU", "own.npz", "modules missing"):
        assert part in page
    assert "shares of views to drop must be" in refused(capsys, "evaluate", run, "--drop-views", "1")
    assert "of which at least one stays, got 10" in refused(capsys, "evaluate", run, "--remove-modules", "10")


def test_a_report_needs_something_that_was_taken_away():
    rows = [{"predictor": "mean", "dropped": 0.0, "removed": 0, "ahead": 1, "error": 0.5}]
    assert not robustness.more(arrays.TASK, rows, []).pictures
    rows += [{**rows[0], "dropped": 0.5}]
    assert len(robustness.more(arrays.TASK, rows, []).pictures) == 1


def test_means_are_of_all_steps_without_what_pads_short_sequences(tmp_path, random):
    frames, mask = np.zeros((N, 40, 9, 9), np.uint8), np.zeros((N, 40, 2), bool)
    frames[:, :8, 3:6, 3:6], mask[:, :8] = 1, True
    places = random.integers(0, 9, (N, 40, 2, 2))
    padded = arrays.write_world(tmp_path / "padded.npz", {"frames": frames, "positions": places, "mask": mask}, crop=3)
    np.testing.assert_array_equal(Trivial(padded).mean[0], frames[0, 0])
    points = 0.1 * random.normal(size=(N, 200, P, 2))
    points[:, 40:] += 10
    late = arrays.write_world(tmp_path / "late.npz", {"points": points})
    np.testing.assert_allclose(Trivial(late).mean[:2] * torch.tensor(late.scale[:2]), 8, atol=0.1)
    values = random.random((N, 200, P, 1)) < np.where(np.arange(200) < 40, 0.05, 0.9)[:, None, None]
    binary = arrays.write_world(tmp_path / "binary.npz", {"positions": points, "values": values})
    assert Trivial(binary).mean.item() == pytest.approx(values.mean(), abs=0.02)


def test_training_clips_are_cut_from_where_something_is(tmp_path, random):
    points, mask = straight(random, 50), np.ones((N, 50, P), bool)
    mask[::2, 14:] = False
    world = arrays.write_world(tmp_path / "short.npz", {"points": points, "mask": mask}, clip=12)
    drawn, source = arrays.episodes(world, "train"), Source(world, "train")
    assert set(source.ends.tolist()) == {14, 50}
    clips = drawn[([*range(len(source))] * 8, 0)].views
    assert clips.num_steps == 12
    assert clips.mask.any(2).all(), "each step of each clip holds something"
    assert len(clips.positions[:, 0].unique(dim=0)) > 2 * len(source), "clips begin at many steps"


def test_short_episodes_in_long_arrays_are_scored(tmp_path, random, capsys):
    points, mask = straight(random, 50), np.zeros((N, 50, P), bool)
    mask[:, :14] = True
    world = arrays.write_world(tmp_path / "short.npz", {"points": points, "mask": mask})
    assert (world.num_steps, world.until, world.prompt, world.steps_ahead) == (50, 14, 7, 7)
    assert arrays.write_world(tmp_path / "whole.npz", {"points": points}).until is None
    rows = arrays.score({}, world)
    assert {row["ahead"] for row in rows if "error" in row} == set(range(1, 8))
    assert all(row["error"] < 1e-5 for row in rows if row["predictor"] == "constant velocity")
    mask[:, 7:, 1:] = False
    mask[:, :7, 0] = False
    other = arrays.write_world(tmp_path / "other.npz", {"points": points, "mask": mask})
    with pytest.raises(ValueError, match="nothing of the test part of .* that was seen in 7 steps is there in the 7"):
        arrays.score({}, other)


def test_a_report_leaves_out_what_could_not_be_scored(tmp_path, random):
    frames, mask = np.zeros((N, 12, 7, 7), bool), np.ones((N, 12, P), bool)
    mask[:, 8] = False
    places = random.integers(0, 7, (N, 12, P, 2))
    world = arrays.write_world(tmp_path / "w.npz", {"frames": frames, "positions": places, "mask": mask}, crop=3)
    run = Run.create(tmp_path / "run", Settings(training=Training(updates=1)), "arrays", world).train(progress=False)
    with pytest.raises(ValueError, match=r"must be above 0 and at most 1, got 2"):
        score([run], shares=[2])
    rows = score([run])["rows"]
    assert any("f1" not in row for row in rows)
    assert any("error" not in row for row in rows)
    write_report(tmp_path / "report.html", [run], rows)


def test_a_file_that_was_changed_is_refused(run, capsys, tmp_path):
    path = run.parent / "own.npz"
    before = path.read_bytes()
    try:
        arrays.write_world(path, {"points": straight(np.random.default_rng(2), 9)})
        assert "own.npz was changed since the run began, its SHA-256 is" in refused(capsys, "evaluate", run)
        path.unlink()
        assert "there is no such file or folder" in refused(capsys, "evaluate", run)
    finally:
        path.write_bytes(before)


def test_an_oracle_cannot_roll_out(tmp_path, random):
    world = arrays.write_world(tmp_path / "world.npz", {"points": straight(random)})
    oracle = Settings(model="tto").build(world)
    for judged in (arrays.score, arrays.animate):
        with pytest.raises(ValueError, match="TTO sees the step that it predicts"):
            judged({"TTO": oracle}, world)


def test_the_model_on_springs_is_better_than_every_simple_predictor_as_the_page_says():
    result = json.loads((Path(__file__).parent.parent / "results" / "springs.json").read_text())
    rows = [row for row in result["rows"] if row["views"] == 1]
    ours, best = (
        [min(row["error"] for row in rows if row["ahead"] == step and (row["predictor"] == "S2GRU") == model)
         for step in range(1, 11)]
        for model in (True, False)
    )  # fmt: skip
    assert all(our < other for our, other in zip(ours, best, strict=True)), "at each of ten steps"
    errors = {
        (row["predictor"], row["dropped"], row["removed"], row["ahead"]): row["error"] for row in result["robustness"]
    }
    for dropped, steps in product((0.1, 0.3, 0.5), (1, 10)):
        assert errors["S2GRU", dropped, 0, steps] < errors["persistence", dropped, 0, steps]
    assert errors["S2GRU", 0.0, 3, 10] > errors["persistence", 0.0, 0, 10]


def test_plans_are_better_than_random_actions_and_than_none_as_the_page_says():
    path = Path(__file__).parent.parent / "results" / "planning.json"
    means = {row["predictor"]: row for row in json.loads(path.read_text())["means"]}
    assert means["planned"]["gain"]["low"] > means["still"]["gain"]["high"] > 0, "of 20 episodes each"
    assert means["planned"]["high"] > means["assigned"]["low"], "the intervals of the rule and of the plans overlap"


def test_models_of_traffic_are_better_than_every_simple_predictor_as_the_page_says():
    path = Path(__file__).parent.parent / "results" / "traffic.json"
    errors: dict[tuple[float, int], dict[str, float]] = {}
    for row in json.loads(path.read_text())["robustness"]:
        errors.setdefault((row["dropped"], row["ahead"]), {})[row["predictor"]] = row["error"]
    assert {dropped for dropped, _ in errors} == {0, 0.3, 0.5}
    for case in errors.values():
        simple = [case.pop(name) for name in ("mean", "persistence", "last seen")]
        assert set(case) == {"S2GRU", "LSTM"}
        assert max(case.values()) < min(simple)


def test_values_of_more_than_three_axes_are_one_channel(tmp_path, random):
    values = torch.from_numpy(random.normal(5, 2, (10, 6, 4, 2, 3, 4, 5)).astype(np.float32))
    views = Views(torch.rand(10, 6, 4, 2), values, torch.rand(10, 6, 4) < 0.8)
    world = arrays.write_world(tmp_path / "world.npz", views)
    assert world.value_shape == (2, 3, 4, 5)
    assert world.centre == pytest.approx((5,), abs=0.2)
    assert world.scale == pytest.approx((2,), abs=0.2)


@pytest.mark.parametrize("kind", ["views", "points"])
def test_what_enters_late_is_measured_where_it_is(tmp_path, random, kind):
    steps, late = 80, np.zeros((20, 80, 4), bool)
    late[:, 40:] = True
    points = np.cumsum(0.1 * random.normal(size=(20, steps, 4, 2)), 1)
    walk = np.cumsum(random.normal(size=(20, steps, 4, 1)), 1)
    given = {"points": points} if kind == "points" else {"positions": 0 * points + points[:, :1], "values": walk}
    world = arrays.write_world(tmp_path / "world.npz", {**given, "mask": late})
    assert world.guess == "persistence"
    assert torch.isfinite(Trivial(world).mean).all()
    if kind == "views":
        found = arrays.score({}, world)
        assert min(row["log_likelihood"] for row in found if "log_likelihood" in row) > -10


def test_the_mean_of_flags_is_that_of_each_channel(tmp_path, random):
    values = (random.random((20, 12, 5, 2)) < [0.05, 0.95]).astype(np.float32)
    world = arrays.write_world(tmp_path / "b.npz", {"positions": random.random((20, 12, 5, 2)), "values": values})
    assert Trivial(world).mean.tolist() == pytest.approx([0.05, 0.95], abs=0.03)


def test_a_point_that_was_never_seen_is_not_drawn(tmp_path, random, monkeypatch):
    mask, shown = np.ones((12, 30, 3), bool), {}
    mask[:, :23, 2] = False  # it enters after the prompt
    points = 5 + np.cumsum(0.1 * random.normal(size=(12, 30, 3, 2)), 1)
    world = arrays.write_world(tmp_path / "p.npz", {"points": points, "mask": mask})
    monkeypatch.setattr("s2rm.tasks.arrays.report.points_moving", lambda given, _: shown.update(given) or b"")
    report.animate({}, world)
    assert world.prompt < 23 < world.prompt + world.steps_ahead
    for name, part in shown.items():
        assert part.mask[:, :, 2].any() == (name == "truth")
        assert part.mask[:, :, :2].all()


def test_pictures_show_what_predictors_know_in_colours_of_what_is_there(random, tmp_path, monkeypatch):
    drawn = []

    def animation(made, steps, draw):
        draw(steps - 1)
        drawn.append([axes.collections for axes in made.axes])
        return b""

    monkeypatch.setattr(plots, "animation", animation)
    points, mask = straight(random), np.ones((N, T, P), bool)
    mask[:, :-2, 0] = False  # enters after the prompt
    report.animate({}, arrays.write_world(tmp_path / "points.npz", {"points": points, "mask": mask}))
    assert {tuple(len(dots.get_offsets()) for dots in axes) for axes in drawn[0]} == {(P, P - 1)}
    mask[:], values, limits = random.random(mask.shape) < 0.7, random.normal(size=(N, T, P, 1)), set()
    for filled in (0.0, 9999.0, np.nan):
        values = np.where(mask[..., None], values, filled)
        world = arrays.write_world(tmp_path / "views.npz", {"positions": points, "values": values, "mask": mask})
        report.animate({}, world)
        limits.add(tuple(axes[0].get_clim() for axes in drawn[-1]))
    assert len(limits) == 1
