"""Trains on a railway, played by flatland itself, at small size."""

import dataclasses

import numpy as np
import pytest
import torch

from s2rm import files
from s2rm.tasks.railways import Railways, RailwayWorld, collect, episodes, preset
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.world import CHANNELS, STATES, TRAIN, episode
from s2rm.tasks.worlds import starts_within

WORLD = dataclasses.replace(preset("tiny"), num_trains=3, episodes_per_map=2)
OFF, ON = ("waiting", "ready to depart", "broken down off the grid", "arrived"), ("moving", "stopped", "broken down")


@pytest.fixture(scope="module")
def railways():
    return collect(WORLD, "train", seed=5)


def test_trains_depart_move_along_the_track_and_arrive(railways):
    assert railways.directions.shape == (4, 40, 3)
    assert railways.map_of.tolist() == [0, 0, 1, 1]
    assert not torch.equal(railways.rails[0], railways.rails[1])
    on = railways.directions >= 0
    names = np.array(STATES)[railways.states.numpy()]
    assert (np.isin(names, ON) == on.numpy()).all()
    assert (np.isin(names, OFF) == ~on.numpy()).all()
    assert not on[:, 0].any(), "trains depart after the first step"
    assert on.any(1).all(), "each train departs"
    assert (names[:, -1] == "arrived").any()
    for n, t, a in on[:, :-1].nonzero().tolist():
        (row, column), direction = railways.positions[n, t, a].tolist(), int(railways.directions[n, t, a])
        ways = int(railways.rails[railways.map_of[n], row, column]) >> 4 * (3 - direction)
        if on[n, t + 1, a] and names[n, t, a] == names[n, t + 1, a] == "moving":
            after = int(railways.directions[n, t + 1, a])
            assert ways >> (3 - after) & 1, "it leaves by a transition of the cell"
            step = ((-1, 0), (0, 1), (1, 0), (0, -1))[after]
            assert (railways.positions[n, t + 1, a] - railways.positions[n, t, a]).tolist() == list(step)
        if not on[n, t + 1, a]:
            gap = (railways.positions[n, t, a] - railways.stations[n, a]).abs().sum()
            assert gap == 1, "it is gone when it reaches its station"
            assert not on[n, t + 1 :, a].any(), "for good"
    for n, t in on.any(2).nonzero().tolist():
        cells = railways.positions[n, t][on[n, t]].tolist()
        assert len({tuple(cell) for cell in cells}) == len(cells), "one train in a cell"


def test_views_are_what_is_around_each_train(railways):
    rows = torch.tensor([3, 0])
    made = episode(WORLD, railways, rows)
    views = made.views
    assert views.values.shape == (2, 40, 3, len(CHANNELS), 5, 5)
    assert torch.equal(views.mask, railways.directions[rows] >= 0), "False before departure and after arrival"
    assert made.targets is views
    half, side = WORLD.view // 2, railways.rails.shape[-1]
    for b, t, a in views.mask.nonzero().tolist():
        n = int(rows[b])
        rails = railways.rails[railways.map_of[n]].tolist()
        here = railways.positions[n, t, a].tolist()
        assert views.positions[b, t, a].tolist() == here
        expected = torch.zeros(len(CHANNELS), 5, 5)
        stations = railways.stations[n].tolist()
        trains = {
            tuple(place): direction
            for place, direction in zip(
                railways.positions[n, t].tolist(), railways.directions[n, t].tolist(), strict=True
            )
            if direction >= 0
        }
        for i in range(5):
            for j in range(5):
                row, column = here[0] + i - half, here[1] + j - half
                if not (0 <= row < side and 0 <= column < side):
                    continue
                bits = f"{rails[row][column]:016b}"
                for leads in range(4):
                    expected[leads, i, j] = any(bits[4 * comes + leads] == "1" for comes in range(4))
                if (row, column) in trains:
                    expected[4 + trains[row, column], i, j] = 1
                expected[8, i, j] = [row, column] in stations
                expected[9, i, j] = [row, column] == stations[a]
        assert torch.equal(views.values[b, t, a], expected)
        centre = views.values[b, t, a, TRAIN, half, half]
        assert centre.nonzero().flatten().tolist() == [int(railways.directions[n, t, a])], "itself, in the centre"
        assert views.values[b, t, a, :4, half, half].any(), "on a track"


def test_a_negative_seed_is_a_seed():
    assert len(collect(dataclasses.replace(WORLD, train_episodes=1), "train", seed=-1).states) == 1


def test_the_seed_and_the_split_decide(railways):
    again, other = collect(WORLD, "train", seed=5), collect(WORLD, "val", seed=5)
    for name in ("rails", "positions", "directions", "states", "stations"):
        assert torch.equal(getattr(railways, name), getattr(again, name))
        assert not torch.equal(getattr(railways, name)[:1], getattr(other, name)[:1])


def test_trains_of_several_speeds_break_down():
    world = dataclasses.replace(
        WORLD, speeds=(1.0, 0.5), malfunction_rate=0.05, longest_malfunction=5, train_episodes=2
    )
    states = collect(world, "train", seed=0, progress=list).states
    assert (states == STATES.index("broken down")).any()


def test_clips_are_parts_of_episodes(railways, monkeypatch):
    monkeypatch.setattr("s2rm.tasks.railways.scores.collected", lambda *_: railways)
    some = episodes(WORLD, "train")
    assert len(some) == 4
    clips, whole = some[[1, 2, 2], 7], episodes(WORLD, "val")[[1, 2, 2], 7]
    assert torch.equal(clips.views.values, some[[1, 2, 2], 7].views.values)
    assert clips.views.values.shape[:2] == (3, WORLD.clip)
    for row in range(3):
        starts = [
            start
            for start in range(WORLD.num_steps - WORLD.clip + 1)
            if torch.equal(clips.views.values[row], whole.views.values[row, start : start + WORLD.clip])
        ]
        assert starts
    assert whole.views.num_steps == WORLD.num_steps


def test_training_clips_end_before_the_last_train_has_arrived(railways, monkeypatch):
    """Where nobody is on the grid any more there is nothing to predict."""
    lasting = torch.tensor([WORLD.num_steps, 20, 5, WORLD.clip])
    there = (torch.arange(WORLD.num_steps) < lasting[:, None])[:, :, None].expand_as(railways.directions)
    short = dataclasses.replace(railways, directions=torch.where(there, railways.directions.clamp(min=0), -1))
    assert torch.equal(short.ends, lasting)
    monkeypatch.setattr("s2rm.tasks.railways.scores.collected", lambda *_: short)
    present = episodes(WORLD, "train")[[*range(4)] * 20, 3].views.mask.all(2).unflatten(0, (20, 4))
    assert present[:, lasting >= WORLD.clip].all()
    assert torch.equal(present[0, 2], torch.arange(WORLD.clip) < 5), "an episode shorter than a clip is there whole"


def test_what_is_saved_is_loaded_and_nothing_else(railways, tmp_path, monkeypatch):
    path = tmp_path / "some" / "railways.safetensors"
    railways.save(path)
    loaded = Railways.load(str(path))
    for field in dataclasses.fields(Railways):
        assert torch.equal(getattr(loaded, field.name), getattr(railways, field.name))
    assert [part.name for part in path.parent.iterdir()] == [path.name]
    content = path.read_bytes()
    for length in (0, 5, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is cut short or no file of railways .*; collect them again"):
            Railways.load(path)
    monkeypatch.setattr(files, "FORMAT", 2)
    railways.save(path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has format 2, this version reads 1"):
        Railways.load(path)
    with pytest.raises(ValueError, match="found no file .*; collect some first"):
        Railways.load(tmp_path / "none")


def test_a_folder_keeps_the_episodes_of_one_world_and_seed(railways, tmp_path, monkeypatch):
    kept = collected(WORLD, "train", 5, tmp_path)
    assert torch.equal(kept.positions, railways.positions)
    assert [path.name for path in tmp_path.iterdir()] == ["episodes-train.safetensors"]
    monkeypatch.setattr("s2rm.tasks.railways.play.collect", lambda *_: pytest.fail("collected again"))
    seen_otherwise = dataclasses.replace(WORLD, view=3, clip=8, val_episodes=7)
    for world, split, length in ((WORLD, "train", WORLD.clip), (seen_otherwise, "train", 8)):
        batch = episodes(world, split, 5, tmp_path)[[0, 3], 1]
        rows = torch.tensor([0, 3])
        starts = starts_within(railways.ends[rows], world.clip, torch.Generator().manual_seed(1))
        expected = episode(world, railways, rows, starts[:, None] + torch.arange(world.clip))
        assert torch.equal(batch.views.values, expected.views.values)
        assert batch.views.num_steps == length
    with pytest.raises(
        ValueError, match="holds other episodes, expected seed 6, got 5; delete it or take another folder"
    ):
        episodes(WORLD, "train", 6, tmp_path)
    with pytest.raises(ValueError, match="holds other episodes, expected cities 3, got 2"):
        episodes(dataclasses.replace(WORLD, cities=3), "train", 5, tmp_path)
    railways.save(tmp_path / "episodes-train.safetensors")
    with pytest.raises(ValueError, match="holds other episodes, expected grid 25, got None"):
        episodes(WORLD, "train", 5, tmp_path)


def test_positions_lie_on_the_grid_and_wavelengths_are_as_long_as_it():
    assert WORLD.side == 25
    expected = {"value_shape": [10, 5, 5], "codec": "mlp", "shortest": 25.0, "longest": 400.0}
    assert WORLD.model_arguments() == expected


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"test_episodes": 10**8}, "expected at most 1e[+]12 values in all, got 100000000 x"),
        ({"grid": 10}, "expected grid of at least 20, got 10"),
        ({"num_trains": 0}, "expected num_trains of at least 1, got 0"),
        ({"view": 4}, "view must be odd and at most the grid's 60, got 4"),
        ({"clip": 129}, "clip must be at most 128, got 129; shorten it"),
        ({"latest_departure": 128}, "latest_departure must be at most 127, got 128"),
        ({"speeds": (1.5,)}, r"speeds must be above 0 and at most 1 cell a step, got \(1.5,\)"),
        ({"speeds": ()}, "speeds must be"),
        ({"malfunction_rate": 1.0}, r"malfunction_rate must be in \[0, 1\), got 1.0"),
    ],
)
def test_a_world_that_cannot_be_is_refused(change, line):
    with pytest.raises(ValueError, match=f"^RailwayWorld: {line}"):
        RailwayWorld(**change)


def test_bad_input_is_refused_in_one_line(railways, monkeypatch):
    with pytest.raises(ValueError, match="unknown preset 'huge'; choose from paper, small, tiny"):
        preset("huge")
    with pytest.raises(ValueError, match="unknown split 'all'; choose from train, val, test"):
        collect(WORLD, "all", seed=0)
    with pytest.raises(ValueError, match="a grid of 20 cells has no room for 2 cities of 2 pairs of tracks"):
        collect(dataclasses.replace(WORLD, grid=20), "train", seed=0)
    with pytest.raises(ValueError, match=r"expected stations of shape \(4, 3, 2\), got \(4, 2, 2\)"):
        dataclasses.replace(railways, stations=railways.stations[:, :2])
    with pytest.raises(ValueError, match="expected directions from -1 to 3, got 4 to 4; renumber them"):
        dataclasses.replace(railways, directions=torch.full_like(railways.directions, 4))
    monkeypatch.setattr("s2rm.extras.find_spec", lambda name: None if name == "flatland_baselines" else name)
    with pytest.raises(ImportError, match=r"needs flatland_baselines of the extra \[railways\].*--no-deps"):
        collect(WORLD, "train", seed=0)
