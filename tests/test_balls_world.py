from dataclasses import replace

import pytest
import torch

from s2rm.tasks.balls import episodes
from s2rm.tasks.balls.world import (
    MAX_OVERLAP,
    PRESETS,
    SUBSTEPS,
    BallsWorld,
    _advance,
    episode,
    grid_positions,
    mirrored,
    preset,
    radii,
    render,
    simulate,
    videos,
)
from s2rm.tasks.crops import crops, stitch

WORLD = replace(preset("tiny"), num_frames=100, clip=2)


@pytest.fixture(scope="module")
def crowd() -> torch.Tensor:
    """Six balls, as crowded as any test set."""
    return simulate(WORLD, 64, 6, seed=0)


def test_the_same_seed_gives_the_same_world():
    assert torch.equal(simulate(WORLD, 3, 2, seed=5), simulate(WORLD, 3, 2, seed=5))
    assert not torch.equal(simulate(WORLD, 3, 2, seed=5), simulate(WORLD, 3, 2, seed=6))


def test_nothing_leaves_the_arena(crowd):
    assert crowd.min() >= WORLD.radius
    assert crowd.max() <= WORLD.arena - WORLD.radius


def test_overlaps_stay_within_the_stated_bound(crowd):
    gaps = (crowd[:, :, :, None] - crowd[:, :, None]).norm(dim=-1) + 1e3 * torch.eye(6)
    assert gaps.min() >= 2 * WORLD.radius - MAX_OVERLAP
    assert (crowd - WORLD.arena / 2).norm(dim=-1).min() >= 2 * WORLD.radius - MAX_OVERLAP


@pytest.mark.parametrize(("smallest", "least"), [(None, 1000), (2.0, 900)])  # small balls meet less often
def test_every_substep_conserves_the_energy(smallest, least):
    world = replace(WORLD, smallest=smallest)
    start, sizes = simulate(world, 64, 6, seed=1)[:, 0].double(), radii(world, 64, 6, seed=1)
    x, v = start, torch.randn(64, 6, 2, dtype=torch.float64)
    mass, hits = sizes[..., None].square(), 0
    energy = (mass * v.square()).sum((1, 2))
    for _ in range(400):
        before = v
        x, v = _advance(world, x, v, sizes[..., None])
        hits += int((v != before).any(-1).sum())
        torch.testing.assert_close((mass * v.square()).sum((1, 2)), energy, rtol=1e-12, atol=0)
    assert hits > least, "there was something to conserve"


def test_speeds_never_exceed_what_the_energy_allows(crowd):
    speeds = crowd.diff(dim=1).norm(dim=-1)
    assert speeds.max() <= WORLD.fastest * 6**0.5
    assert speeds.mean() > WORLD.slowest / 2


def test_balls_of_unequal_mass_have_radii_between_two_and_touch_no_wall_nor_each_other():
    world = replace(WORLD, smallest=2.0)
    sizes, centres = radii(world, 64, 4, seed=0).float(), simulate(world, 64, 4, seed=0)
    assert torch.equal(sizes, radii(world, 64, 4, seed=0).float())
    assert 2 <= sizes.min() < 2.2
    assert 3.8 < sizes.max() <= 4
    edge = sizes[:, None, :, None]
    assert (centres >= edge - 1e-4).all()
    assert (centres <= WORLD.arena - edge + 1e-4).all()
    gaps = (centres[:, :, :, None] - centres[:, :, None]).norm(dim=-1) - sizes[:, None, :, None] - sizes[:, None, None]
    assert (gaps + 1e3 * torch.eye(4)).min() >= -MAX_OVERLAP
    assert torch.equal(radii(WORLD, 2, 3, seed=0), torch.full((2, 3), 4.0, dtype=torch.float64))


def test_a_light_ball_bounces_off_a_heavy_one_and_hardly_moves_it():
    x, v = torch.tensor([[[10.0, 10.0], [10.0, 15.9]], [[0.0, 1.0], [0.0, 0.0]]]).double().unsqueeze(1)
    _, v = _advance(replace(WORLD, smallest=2.0), x, v, torch.tensor([[[2.0], [4.0]]]).double())
    expected = [[[0.0, -0.6], [0.0, 0.4]]]  # (m - M) / (m + M) and 2 m / (m + M), masses 4 and 16
    torch.testing.assert_close(v, torch.tensor(expected).double())


def test_behind_a_curtain_nothing_is_seen():
    plain = replace(WORLD, num_frames=8, clip=2, test_sequences=4)
    frames, hidden = (videos(replace(plain, curtain=width), "test", 0).frames() for width in (0, 12))
    assert frames[..., 18:30].any()
    assert not hidden[..., 18:30].any()
    assert torch.equal(hidden[..., :18], frames[..., :18])
    assert torch.equal(hidden[..., 30:], frames[..., 30:])


def test_two_balls_head_on_exchange_their_velocities(monkeypatch):
    world = replace(WORLD, num_frames=6)
    start = torch.tensor([[[8.0, 8.0], [8.0, 20.0]]], dtype=torch.float64)
    monkeypatch.setattr("s2rm.tasks.balls.world._place", lambda *_: start)
    angles = iter([torch.tensor([[0.0, 0.5]], dtype=torch.float64), torch.tensor([[0.0, 0.0]], dtype=torch.float64)])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(angles))
    centres = simulate(replace(world, slowest=1.0, fastest=1.0), 1, 2, seed=0)
    before, after = centres[0, 1] - centres[0, 0], centres[0, -1] - centres[0, -2]
    torch.testing.assert_close(before, torch.tensor([[0.0, 1.0], [0.0, -1.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(after, torch.tensor([[0.0, -1.0], [0.0, 1.0]]), atol=1e-6, rtol=0)


def test_frames_show_the_balls_and_the_fixed_one():
    world = replace(WORLD, num_frames=2, clip=2)
    centres = torch.tensor([[[[10.0, 30.0]], [[10.5, 30.0]]]])
    frames = render(world, centres, radii(world, 1, 1, seed=0)).frames()
    assert frames.shape == (1, 2, 48, 48)
    assert frames[0, 0, 10, 30] == 1
    assert frames[0, 0, 24, 24] == 1
    rows = torch.arange(48) + 0.5
    inside = (rows[:, None] - 10) ** 2 + (rows - 30) ** 2 < 16
    fixed = (rows[:, None] - 24) ** 2 + (rows - 24) ** 2 < 16
    assert torch.equal(frames[0, 0].bool(), inside | fixed)


def test_videos_are_kept_eight_pixels_a_byte_at_any_size():
    odd = replace(WORLD, arena=49, num_frames=3, clip=2)
    packed = render(odd, simulate(odd, 2, 1, seed=0), radii(odd, 2, 1, seed=0))
    assert packed.packed.shape == (2, 3, -(-49 * 49 // 8))
    assert packed.frames(torch.tensor([1])).shape == (1, 3, 49, 49)
    assert torch.equal(packed.frames()[1:], packed.frames(torch.tensor([1])))


def test_splits_and_numbers_of_balls_share_no_sequence():
    small = replace(WORLD, num_frames=2, train_sequences=2, val_sequences=2, test_sequences=2)
    sets = [
        videos(small, split, seed, balls).packed
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for balls in (2, 3)
    ]
    assert len({tuple(part.flatten().tolist()) for part in sets}) == len(sets)


def test_a_crowd_has_six_to_eight_balls_in_training_and_as_many_as_asked_for_in_the_test():
    world = replace(preset("crowd"), num_frames=4, clip=2, train_sequences=8, val_sequences=3, test_sequences=3)
    made = videos(world, "train", 0)
    assert len(made) == 8
    assert [len(videos(world, split, 0)) for split in ("val", "test")] == [3, 3]
    alone = replace(world, most_balls=None)
    parts = [
        videos(replace(alone, train_sequences=some), "train", 0, number) for number, some in ((6, 3), (7, 3), (8, 2))
    ]
    torch.testing.assert_close(made.packed, torch.cat([part.packed for part in parts]), rtol=0, atol=0)
    assert videos(world, "test", 0, 4).packed.equal(videos(alone, "test", 0, 4).packed)
    assert (world.trained_on, alone.trained_on) == ("6 to 8", "6")


def test_crops_are_what_stands_around_the_position():
    frames = torch.randint(2, (2, 3, 20, 20), dtype=torch.uint8)
    positions = torch.randint(20, (2, 3, 5, 2)).float()
    positions[0, 0, 0] = torch.tensor([0.0, 19.0])
    cut = crops(frames, positions, 7)
    padded = torch.nn.functional.pad(frames, (3, 3, 3, 3))
    for index in [(0, 0, 0), (1, 2, 4), (0, 1, 3)]:
        row, column = positions[index].int().tolist()
        expected = padded[index[0], index[1], row : row + 7, column : column + 7]
        assert torch.equal(cut[index], expected.float())


def test_stitching_crops_gives_the_frame_back_but_for_the_gaps():
    frames = torch.rand(1, 1, 48, 48)
    grid = grid_positions(WORLD)
    assert grid.shape == (16, 2)
    whole = stitch(crops(frames, grid.expand(1, 1, -1, -1), 11), grid, 48)[0, 0]
    covered = ~whole.isnan()
    assert covered.sum() == (4 * 11) ** 2
    torch.testing.assert_close(whole[covered], frames[0, 0][covered])
    overlapping = torch.tensor([[5.0, 5.0], [5.0, 6.0]])
    both = stitch(torch.stack([torch.zeros(11, 11), torch.ones(11, 11)]), overlapping, 48)
    assert both[5, 5] == 0.5


def test_mirrored_videos_are_symmetries_of_the_square():
    frames = torch.rand(64, 1, 5, 5)
    turned = mirrored(frames, torch.Generator().manual_seed(0))
    symmetries = [t.flip(dims) for t in (frames, frames.transpose(-1, -2)) for dims in ([], [-1], [-2], [-1, -2])]
    which = torch.stack([(turned == symmetry).flatten(1).all(1) for symmetry in symmetries])
    assert which.any(0).all()
    assert which.any(1).all(), "each of the eight is drawn"


def test_episodes_predict_the_next_crops():
    frames = videos(preset("tiny"), "val", 0).frames()
    one = episode(preset("tiny"), frames, torch.Generator().manual_seed(3))
    assert one.views.positions.shape == (4, 48, 10, 2)
    assert one.views.values.shape == (4, 48, 10, 11, 11)
    assert one.targets is one.views


def test_clips_are_a_function_of_their_key():
    clips = episodes(preset("tiny"), "train", 0)
    again, other = clips[[1, 5], 7], clips[[1, 5], 8]
    assert again.views.num_steps == 8
    assert torch.equal(clips[[1, 5], 7].views.values, again.views.values)
    assert not torch.equal(other.views.positions, again.views.positions)
    assert len(clips) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 51}, "crop must be odd and at most 49, which is the whole frame, got 51"),
        ({"crop": 10}, "crop must be odd"),
        ({"radius": 7.0}, r"must pass between the fixed ball and the walls .* take a radius in \(0, 6\]"),
        ({"clip": 200}, "clip must be at most num_frames, 100, got 200"),
        ({"num_views": 0}, "num_views of at least 1, got 0"),
        ({"smallest": 1.5}, "smallest must be at least half of radius 4 .*, got 1.5"),
        ({"smallest": 4.5}, "most radius, got 4.5"),
        ({"curtain": 48}, "curtain must be 0 to 47 columns of 48, got 48"),
        ({"most_balls": 3}, "expected most_balls above num_balls, 3, got 3; leave it out"),
        ({"most_balls": 9, "val_sequences": 5}, "val_sequences of at least 7, got 5"),
        ({"slowest": 3.0}, "expected 0 <= slowest <= fastest, got 3.0 and 2.0"),
    ],
)
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(BallsWorld(), **changes)


def test_balls_that_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr("s2rm.tasks.balls.world._ATTEMPTS", 20)
    with pytest.raises(ValueError, match=r"40 balls of radius 4 .* do not fit an arena of 48 pixels .* found no free"):
        simulate(WORLD, 2, 40, seed=0)


def test_presets():
    assert PRESETS["paper"] == BallsWorld(train_sequences=20_000, val_sequences=1_000, test_sequences=1_000, clip=100)
    with pytest.raises(
        ValueError, match="unknown preset 'huge'; choose from paper, small, frames, curtain, masses, four, crowd, tiny"
    ):
        preset("huge")
    assert WORLD.fastest * 6**0.5 <= SUBSTEPS * MAX_OVERLAP, "the bound allows for a step of the fastest ball"


def test_views_are_dropped_and_targets_stay():
    whole, few = (episodes(preset("tiny"), "val", drop=drop)[[0, 1, 2], 0] for drop in (0.0, 0.9))
    assert torch.equal(few.targets.values, whole.targets.values)
    assert whole.views.mask.all()
    seen = few.views.mask.sum(2)
    assert (seen == seen[:, :1]).all()
    assert 1 <= seen.min() < seen.max() <= 10


def test_a_view_as_large_as_the_arena_is_the_whole_frame():
    world = replace(preset("frames"), test_sequences=2, num_frames=4, clip=2)
    frames = videos(world, "test", 0).frames()
    views = episode(world, frames, torch.Generator().manual_seed(0)).views
    assert views.values.shape == (2, 4, 1, 49, 49)
    assert (views.positions == 24).all()
    assert (grid_positions(world) == 24).all()
    assert torch.equal(views.values[:, :, 0, :48, :48], frames.float())
    assert not views.values[..., 48, :].any(), "outside the arena there is nothing"
    assert not preset("small").whole
