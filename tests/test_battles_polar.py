"""Polar images of battles: the grid, drawing against plain loops, what units observe, and the dataset."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from s2rm.tasks.battles.polar import (
    CHANNELS,
    NO_OP,
    SCALES,
    STATE,
    PolarGrid,
    agents,
    dataset,
    draw,
    observations,
    unit_channels,
    window,
)
from s2rm.tasks.battles.trajectories import ACTIONS, STATS, UNIT_TYPES, Trajectories

GRIDS = st.builds(PolarGrid, st.integers(1, 11), st.integers(1, 17), st.floats(0.5, 50.0))
SMALL = PolarGrid(num_radii=3, num_angles=5, field_of_view=4.5)


def some_battles(battles: int = 2, steps: int = 4, units: int = 7) -> Trajectories:
    """Crowded battles on a map of 11 x 7 cells; units are friendly here and there."""
    return Trajectories(
        positions=7 * torch.rand(battles, steps, units, 2),
        alive=torch.rand(battles, steps, units) < 0.8,
        types=torch.randint(9, (battles, units)),
        friendly=torch.rand(battles, units) < 0.5,
        stats=50 * torch.rand(battles, steps, units, 4),
        actions=torch.randint(8, (battles, steps, units)),
        terrain=torch.rand(battles, 7, 11),
        scenario=torch.zeros(battles, dtype=torch.long),
        names=("a",),
    )


def test_pixels_are_where_the_paper_has_them():
    grid = PolarGrid(num_radii=4, num_angles=8, field_of_view=6.0)
    places = grid.to_game(torch.tensor([[10.0, 20.0]]))
    assert places.shape == (1, 4, 8, 2)
    assert places[0, 0].eq(torch.tensor([10.0, 20.0])).all()
    torch.testing.assert_close(places[0, 2, 0], torch.tensor([13.0, 20.0]), msg="angle 0 is east")
    torch.testing.assert_close(places[0, 3, 2], torch.tensor([10.0, 24.5]), msg="a quarter round is north")
    half = math.sqrt(0.5)
    torch.testing.assert_close(places[0, 2, 5], torch.tensor([10 - 3 * half, 20 - 3 * half]))


@given(GRIDS, st.floats(-30, 30), st.floats(-30, 30))
@settings(deadline=None, max_examples=100)
def test_every_pixel_comes_back_from_its_place(grid, east, north):
    centre = torch.tensor([east, north], dtype=torch.float64)
    pixels, seen = grid.to_pixels(grid.to_game(centre) - centre)
    i, j = torch.meshgrid(torch.arange(grid.num_radii), torch.arange(grid.num_angles), indexing="ij")
    assert seen.all()
    assert torch.equal(pixels[..., 0], i)
    assert torch.equal(pixels[1:, :, 1], j[1:])


@given(GRIDS, st.floats(0, 1.5), st.floats(-math.pi, math.pi))
@settings(deadline=None, max_examples=200)
def test_what_is_in_the_field_of_view_has_the_pixel_of_the_nearest_radius_and_angle(grid, share, angle):
    distance = share * grid.field_of_view
    offset = distance * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    pixel, seen = grid.to_pixels(offset)
    if abs(share - 1) > 1e-9:
        assert seen.item() == (share < 1)
    if not seen:
        assert pixel.tolist() == [0, 0]
        return
    i, j = pixel.tolist()
    assert 0 <= i < grid.num_radii
    assert 0 <= j < grid.num_angles
    radii = [abs(k * grid.radial - distance) for k in range(grid.num_radii)]
    turns = [abs(math.remainder(k * grid.angular - angle, 2 * math.pi)) for k in range(grid.num_angles)]
    assert radii[i] == pytest.approx(min(radii), abs=1e-9 * grid.field_of_view)
    if distance > 1e-9:
        assert turns[j] == pytest.approx(min(turns), abs=1e-9)


def test_places_that_are_not_are_not_seen():
    pixel, seen = SMALL.to_pixels(torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [4.5, 0.0], [4.6, 0.0]]))
    assert seen.tolist() == [False, False, True, False]
    assert pixel.tolist() == [[0, 0], [0, 0], [2, 0], [0, 0]]


@pytest.mark.parametrize("wrong", [{"num_radii": 0}, {"num_angles": 0}, {"field_of_view": 0.0}])
def test_grids_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="PolarGrid: expected at least 1 radius and 1 angle and a positive field"):
        PolarGrid(**wrong)


def in_loops(grid, offsets, there, channels):
    """One image `(C, I, J)`, unit by unit and pixel by pixel."""
    image = torch.zeros(channels.shape[-1], grid.num_radii, grid.num_angles, dtype=channels.dtype)
    claims = {}
    for unit in range(len(there)):
        east, north = offsets[unit].tolist()
        distance = math.hypot(east, north)
        if not there[unit] or distance > grid.field_of_view:
            continue
        i = min(round(distance / grid.radial), grid.num_radii - 1)
        j = round(math.atan2(north, east) / grid.angular) % grid.num_angles
        x, y = i * grid.radial * math.cos(j * grid.angular), i * grid.radial * math.sin(j * grid.angular)
        claims.setdefault((i, j), []).append((math.hypot(east - x, north - y), unit))
    for (i, j), units in claims.items():
        image[:, i, j] = channels[min(units)[1]]
    return image


@given(GRIDS, st.integers(0, 9), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_drawing_is_that_of_plain_loops(grid, units, seed):
    generator = torch.Generator().manual_seed(seed)
    offsets = 1.2 * grid.field_of_view * (2 * torch.rand(2, 3, units, 2, generator=generator, dtype=torch.float64) - 1)
    there = torch.rand(2, 3, units, generator=generator) < 0.8
    channels = torch.randn(2, 3, units, 5, generator=generator)
    offsets[~there] = torch.nan
    images = draw(grid, offsets, there, channels)
    assert images.shape == (2, 3, 5, grid.num_radii, grid.num_angles)
    for b in range(2):
        for q in range(3):
            assert torch.equal(images[b, q], in_loops(grid, offsets[b, q], there[b, q], channels[b, q]))


def test_of_units_in_one_pixel_the_nearest_is_drawn_and_of_those_equally_near_the_first():
    east = torch.tensor([1.875, 1.25, 1.75, -3.0, -3.0, 0.125, 0.0])
    offsets, there = torch.stack([east, torch.zeros(7)], -1), torch.ones(7, dtype=torch.bool)
    image = draw(replace(SMALL, num_angles=4), offsets, there, torch.arange(1.0, 8)[:, None])[0]
    assert image.tolist() == [[7, 0, 0, 0], [2, 0, 0, 0], [0, 0, 4, 0]]


def test_what_a_unit_sees_is_what_stands_around_it():
    battles = some_battles()
    episode = observations(battles, SMALL)
    views, targets = episode.views, episode.targets
    assert views.value_shape == (CHANNELS, 3, 5) == (23, 3, 5)
    assert targets.value_shape == (STATE, 3, 5) == (14, 3, 5)
    num_agents = int(battles.friendly.sum(1).max())
    assert views.mask.shape == (2, 4, num_agents)
    assert int(views.mask.sum()) == int((battles.alive & battles.friendly[:, None]).sum())
    for b in range(2):
        for slot, agent in enumerate(battles.friendly[b].nonzero().flatten().tolist()):
            for t in range(4):
                assert views.mask[b, t, slot] == battles.alive[b, t, agent]
                if not battles.alive[b, t, agent]:
                    continue
                centre = battles.positions[b, t, agent]
                assert torch.equal(views.positions[b, t, slot], centre)
                torch.testing.assert_close(views.values[b, t, slot], seen_in_loops(battles, b, t, centre))
    assert torch.equal(targets.values, views.values[..., :STATE, :, :])
    assert torch.equal(targets.positions, views.positions)
    assert torch.equal(targets.mask, views.mask)


def seen_in_loops(battles, b, t, centre):
    """A view `(23, I, J)` of one place at one step."""
    rows = torch.zeros(battles.alive.shape[-1], CHANNELS)
    for unit, row in enumerate(rows):
        friendly = bool(battles.friendly[b, unit])
        row[0] = friendly
        row[1 + battles.types[b, unit]] = 1
        row[10:14] = battles.stats[b, t, unit] / torch.tensor([100.0, 100.0, 1.0, 100.0])
        row[15 + (battles.actions[b, t, unit] if friendly else ACTIONS.index("unknown"))] = 1
    image = in_loops(SMALL, battles.positions[b, t] - centre, battles.alive[b, t], rows)
    image[15] = torch.where(image[1:10].sum(0) > 0, image[15], 1.0)
    for i in range(3):
        for j in range(5):
            x, y = SMALL.to_game(centre)[i, j].tolist()
            inside = 0 <= x < 11 and 0 <= y < 7
            image[14, i, j] = battles.terrain[b, int(y), int(x)] if inside else 0
    return image


def test_the_channels_are_those_of_the_paper():
    assert 1 + len(UNIT_TYPES) + len(STATS) == STATE
    assert len(SCALES) == len(STATS)
    assert NO_OP == 15
    battles = replace(some_battles(), friendly=torch.ones(2, 7, dtype=torch.bool))
    values = observations(battles, SMALL).views.values
    assert values[..., 1:10, :, :].sum(-3).unique().tolist() == [0, 1]
    assert values[..., 15:, :, :].sum(-3).unique().tolist() == [1]


def test_the_state_is_seen_from_any_place():
    battles = some_battles()
    centres = 9 * torch.rand(2, 4, 3, 2) - 1
    slots = (2, 4, 3, battles.alive.shape[-1])
    offsets, there = battles.positions[:, :, None] - centres[..., None, :], battles.alive[:, :, None].expand(slots)
    images = draw(SMALL, offsets, there, unit_channels(battles)[:, :, None, :, :14].expand(*slots, -1))
    assert images.shape == (2, 4, 3, 14, 3, 5)
    for b, t, q in [(0, 0, 0), (1, 3, 2), (0, 2, 1)]:
        torch.testing.assert_close(images[b, t, q], seen_in_loops(battles, b, t, centres[b, t, q])[:14])


def test_slots_that_hold_no_unit_may_hold_anything():
    battles = some_battles()
    gone = ~battles.alive[..., None]
    poisoned = replace(
        battles,
        positions=battles.positions.masked_fill(gone, torch.nan),
        stats=battles.stats.masked_fill(gone, torch.nan),
    )
    one, other = (observations(part, SMALL) for part in (battles, poisoned))
    assert torch.equal(one.views.values, other.views.values)
    assert torch.equal(one.views.positions, other.views.positions)


def test_agents_are_the_friendly_units_in_their_order():
    friendly = torch.tensor([[0, 1, 0, 1, 1], [0, 0, 0, 1, 0]], dtype=torch.bool)
    slots = agents(replace(some_battles(units=5), friendly=friendly))
    assert slots.shape == (2, 3)
    assert slots[0].tolist() == [1, 3, 4]
    assert slots[1, 0] == 3


def test_battles_without_friends_have_nobody_to_see_them():
    battles = some_battles()
    views = observations(replace(battles, friendly=torch.zeros_like(battles.friendly)), SMALL).views
    assert views.mask.shape == (2, 4, 1)
    assert not views.mask.any()


def test_living_units_at_no_place_are_refused():
    battles = some_battles()
    with pytest.raises(ValueError, match="positions of views must be finite"):
        observations(replace(battles, positions=battles.positions * torch.nan), SMALL)


def test_a_field_of_view_larger_than_the_map_is_refused():
    battles, far = some_battles(), replace(SMALL, field_of_view=7.5)
    message = "expected a field of view of at most the map's shorter side, 7 map units, got 7.5; take a smaller one"
    for refuses in (
        lambda: observations(battles, far),
        lambda: dataset(battles, far, 2),
    ):
        with pytest.raises(ValueError, match=message):
            refuses()


def test_training_cuts_clips_and_validation_takes_whole_battles():
    battles = some_battles(5, 9)
    battles.alive[2, 4:] = False
    battles.friendly[2, 0] = battles.alive[2, 3, 0] = True
    data = dataset(battles, SMALL, clip=3)
    assert len(data) == 5
    both = battles[torch.tensor([0, 2])]
    cuts = [observations(window(both, torch.tensor([start, 0]), 3), SMALL).views.values[0] for start in range(7)]
    starts = []
    for seed in range(60):
        clip = data[[0, 2], seed]
        assert torch.equal(clip.views.values, data[[0, 2], seed].views.values), "a pure function of its key"
        starts += [start for start, cut in enumerate(cuts) if torch.equal(cut, clip.views.values[0])]
        assert clip.views.mask[1].any(), "cut from the steps at which friendly units live"
    assert len(starts) == 60
    assert set(starts) == set(range(7))
    whole = dataset(battles, SMALL)[[3, 1], 0]
    expected = observations(battles[torch.tensor([3, 1])], SMALL)
    assert torch.equal(whole.views.values, expected.views.values)


@pytest.mark.parametrize("clip", [1, 5])
def test_clips_that_battles_do_not_hold_are_refused(clip):
    with pytest.raises(ValueError, match=f"battles: expected a clip of 2 to the battles' 4 steps, got {clip}"):
        dataset(some_battles(), SMALL, clip)
