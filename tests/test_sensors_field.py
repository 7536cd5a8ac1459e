from dataclasses import replace

import numpy as np
import pytest

from s2rm.sensors import FieldWorld

EXACT = FieldWorld(num_stations=7, num_movers=5, num_steps=61, noise=0.0, direction_noise=0.0, dropout=0.0, partial=0.0)
STEADY = replace(EXACT, without_direction=0.0)


def anywhere(world: FieldWorld, count: int = 53, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Steps, no source releasing within 0.1 of them, and positions in the box."""
    generator = np.random.default_rng(seed)
    steps = generator.uniform(1, world.num_steps - 2, 20 * count)
    quiet = np.abs(steps[:, None] - world._puffs[1]).min(1) > 0.1
    return steps[quiet][:count], world.side * generator.random((count, 2))


def test_the_truth_obeys_the_equation_of_advection_diffusion_and_decay():
    steps, positions = anywhere(EXACT)
    assert len(steps) == len(positions)
    near = 1e-2

    def tracer(later=0.0, right=0.0, up=0.0):
        return EXACT.truth(steps + later, positions + np.array([right, up]))[:, 0]

    def slope(plus, minus):
        return (plus - minus) / (2 * near)

    over_time = slope(tracer(near), tracer(-near))
    gradient = np.stack([slope(tracer(0, near), tracer(0, -near)), slope(tracer(0, 0, near), tracer(0, 0, -near))], -1)
    around = tracer(0, near) + tracer(0, -near) + tracer(0, 0, near) + tracer(0, 0, -near)
    laplacian = (around - 4 * tracer()) / near**2
    advection = (EXACT.flow(steps, positions) * gradient).sum(-1)
    expected = -advection + EXACT.diffusivity * laplacian - EXACT.decay * (tracer() - EXACT.background)
    np.testing.assert_allclose(over_time, expected, atol=2e-4)
    assert np.abs(advection).max() > 1, "there is something to obey"


def test_sources_change_the_field_and_only_they():
    world = replace(EXACT, num_sources=1, release_every=7.0)
    places, times, heights = world._puffs
    first = np.flatnonzero((times > 1) & (times < 59))[0]
    place = np.array([[places[first].real, places[first].imag]])
    after, before = (world.truth(times[[first]] + tick, place)[0, 0] for tick in (1e-9, -1e-9))
    assert after - before == pytest.approx(heights[first], abs=1e-6)


def test_what_is_carried_follows_the_flow_and_stays_in_the_box():
    steps, positions = anywhere(EXACT)
    near = 1e-4
    moved = EXACT.carried(positions, steps - near, steps + near)
    middle = EXACT.carried(positions, steps - near, steps)
    np.testing.assert_allclose((moved - positions) / (2 * near), EXACT.flow(steps, middle), atol=1e-6)
    np.testing.assert_allclose(EXACT.carried(moved, steps + near, steps - near), positions, atol=1e-9)
    paths = EXACT._paths()
    assert paths.min() >= 0
    assert paths.max() <= EXACT.side
    drifting = paths[:, 7:10]
    start, end = drifting[:-1].reshape(-1, 2), drifting[1:].reshape(-1, 2)
    since = np.repeat(np.arange(60), 3)
    np.testing.assert_allclose(EXACT.carried(start, since, since + 1), end, atol=1e-9)


def test_directions_are_those_of_the_flow():
    steps, positions = anywhere(EXACT)
    direction = np.radians(EXACT.truth(steps, positions)[:, 1])
    flow = EXACT.flow(steps, positions)
    unit = np.stack([np.cos(direction), np.sin(direction)], -1)
    np.testing.assert_allclose(unit * np.linalg.norm(flow, axis=-1, keepdims=True), flow, atol=1e-9)


def test_without_noise_and_loss_every_sensor_reports_the_truth():
    reports = STEADY.reports()
    assert len(reports) == 61 * 12
    np.testing.assert_array_equal(reports.step, np.repeat(np.arange(61), 12))
    np.testing.assert_array_equal(reports.sensor, np.tile(np.arange(12), 61))
    np.testing.assert_allclose(reports.values, STEADY.truth(reports.step, reports.positions), rtol=1e-6)
    assert reports.values.std(0).min() > 1
    stations = reports.positions.reshape(61, 12, 2)[:, :7]
    assert (stations == stations[0]).all()
    assert (np.ptp(reports.positions.reshape(61, 12, 2)[:, 7:], axis=0) > 1).all()
    assert reports.step_length == np.timedelta64(1, "h")


def test_noise_is_as_large_as_it_says():
    world = replace(STEADY, noise=0.3, direction_noise=4.0, num_steps=400)
    reports = world.reports()
    error = reports.values - world.truth(reports.step, reports.positions)
    error[:, 1] = (error[:, 1] + 180) % 360 - 180
    np.testing.assert_allclose(error.std(0), [0.3, 4.0], rtol=0.05)
    assert (reports.values[:, 1] >= 0).all()
    assert (reports.values[:, 1] < 360).all()


def test_reports_are_lost_in_gaps_and_some_sensors_start_late_or_stop_early():
    gaps = replace(EXACT, num_stations=97, num_steps=500, dropout=0.3, gap=8.0)
    there = gaps._reporting()
    assert there.mean() == pytest.approx(0.7, abs=0.02)
    ends = (~there[:-1] & there[1:]).sum()
    assert (~there).sum() / ends == pytest.approx(8, rel=0.1)
    some = replace(gaps, dropout=0.0, partial=0.5)._reporting()
    whole, late, early = some.all(0), ~some[0], ~some[-1]
    assert whole.mean() == pytest.approx(0.5, abs=0.15)
    assert late.sum() > 10
    assert early.sum() > 10
    assert some[250].all(), "all report at half-time"
    assert (np.diff(some.astype(int), axis=0) != 0).sum(0).max() == 1
    assert replace(gaps, dropout=0.9, gap=1.0)._reporting().mean() == pytest.approx(0.1, abs=0.02)
    no_direction = np.isnan(replace(EXACT, num_stations=97).reports().values)
    assert no_direction[:, 1].mean() == pytest.approx(0.2, abs=0.1)
    assert not no_direction[:, 0].any()


def test_the_seed_is_all_that_is_drawn_from():
    world = FieldWorld(num_steps=30, seed=3)
    one, same, other = world.reports(), FieldWorld(num_steps=30, seed=3).reports(), replace(world, seed=4).reports()
    for name in ("step", "sensor", "positions", "values"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
    assert len(one) != len(other) or not np.array_equal(one.values, other.values)
    steps, positions = anywhere(world)
    more = replace(world, num_stations=3, num_movers=0, num_steps=77, noise=1.0)
    np.testing.assert_allclose(world.truth(steps, positions), more.truth(steps, positions), rtol=1e-12)


def test_who_knows_the_flow_beats_persistence():
    world = FieldWorld(num_steps=100)
    generator = np.random.default_rng(0)
    steps, positions = generator.integers(1, 100, 997), world.side * generator.random((997, 2))
    truth = world.truth(steps, positions)[:, 0]
    upstream = world.carried(positions, steps, steps - 1)
    errors = [np.sqrt(np.mean((world.truth(steps - 1, places)[:, 0] - truth) ** 2)) for places in (positions, upstream)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[0] > 5 * world.noise


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"dropout": 1.0}, "dropout must be a share"),
        ({"decay": 0.0}, "decay must be positive"),
        ({"diffusivity": float("nan")}, "diffusivity must be at least 0"),
        ({"num_stations": 0, "num_movers": 0}, "expected at least one sensor"),
        ({"wind": 9.0}, "out of a box"),
    ],
)
def test_bad_worlds_are_told_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as told:
        FieldWorld(**changes)
    assert "\n" not in str(told.value)


def test_steps_outside_the_world_have_no_truth():
    with pytest.raises(ValueError, match="steps must be from 0 to 60"):
        EXACT.truth(np.array([61.0]), np.zeros((1, 2)))
