"""Linear dynamics of the sensors that stay in place, as a candidate of the first guess."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from s2rm.records import from_plain, to_plain
from s2rm.sensors import FieldWorld, Fit, Forecaster
from s2rm.sensors.first_guess import dynamics as subject
from s2rm.sensors.first_guess import outlook, state_space
from s2rm.sensors.first_guess.candidates import CANDIDATES, LINEAR, Asked
from s2rm.sensors.first_guess.dynamics import Dynamics, _fits, filter_of, fitted
from s2rm.sensors.first_guess.history import History
from s2rm.sensors.first_guess.outlook import Filter, nearest
from s2rm.sensors.first_guess.state_space import (
    LEADS,
    Shrinkage,
    StateSpace,
    chosen,
    errors_ahead,
    filtered,
    maximised,
    smoothed,
    steady,
)  # fmt: skip
from s2rm.sensors.first_guess.tuning import first_guess, tuned
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.reports import Reports, stations
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Columns
from s2rm.training import Training

HOURLY = Columns("time", ("x", "y"), ("value",), "station", step="1h")
MOVE = np.array([[0.6, 0.3, 0.0], [0.0, 0.6, 0.3], [0.3, 0.0, 0.6]])


def table(values, places=None, moving=()):
    """Reports of stations on a line, one column of values each, NaN where none reported; some of them move."""
    steps, count = values.shape
    step, sensor = np.nonzero(~np.isnan(values))
    positions = np.zeros((steps, count, 2))
    positions[..., 0] = np.arange(count) if places is None else places
    for one in moving:
        positions[:, one, 1] = np.linspace(0, 5, steps)
    return Reports(
        HOURLY, np.datetime64("2014-01-01T00", "ns"), steps, tuple(f"s{number}" for number in range(count)), step,
        sensor, positions[step, sensor], np.float32(values)[step, sensor, None], np.zeros((len(step), 0), np.float32),
    )  # fmt: skip


def turning(steps, seed=0):
    """What moves from each of three stations to the next, as of `MOVE`."""
    generator, state, values = np.random.default_rng(seed), np.zeros(3), np.empty((steps, 3))
    for step in range(steps):
        state = MOVE @ state + 0.3 * generator.normal(size=3)
        values[step] = state
    return values


def history_of(reports):
    return History.of(reports, replace(Scaling.of(reports), mean=(0.0,), spread=(1.0,)), None, 0)


@pytest.mark.parametrize(("minutes", "hour"), [(10, 7), (20, 7), (60, 7)])
def test_parts_of_the_day_are_right_after_years(minutes, hour):
    begins, day = torch.tensor(hour / 24, dtype=torch.float64), 1440 // minutes
    history = replace(history_of(table(np.ones((4, 2)))), begins=begins, days=minutes / 1440)
    step = torch.arange(8 * 365 * day, (8 * 365 + 3) * day)
    assert torch.equal(history.part_of_day(step, 24), (hour + step * minutes // 60) % 24)


@pytest.fixture(scope="module", params=[1, 2])
def joint(request):
    """Values with gaps, a state-space model of order 1 or 2, and the covariance of all of its states as one."""
    generator, order = np.random.default_rng(0), request.param
    steps, count = 5, 3
    size = order * count
    shock, start = (
        part @ part.T + np.eye(len(part)) for part in (generator.normal(size=(n, n)) for n in (count, size))
    )
    move = np.concatenate([MOVE, -0.4 * MOVE.T][:order], 1)
    values = generator.normal(size=(steps, count))
    values[generator.random(values.shape) < 0.4] = np.nan
    # All that is drawn, the first states and then the shocks, as a linear map of as many independent numbers.
    maps = np.zeros((steps, size, size + (steps - 1) * count))
    maps[0, :, :size] = np.linalg.cholesky(start)
    for step in range(1, steps):
        first = size + (step - 1) * count
        maps[step, :count] = move @ maps[step - 1]
        maps[step, :count, first : first + count] += np.linalg.cholesky(shock)
        maps[step, count:] = maps[step - 1, : size - count]
    flat = maps[:, :count].reshape(steps * count, -1)
    return values, StateSpace(0.1, move, shock, start), flat @ flat.T


def test_the_filter_is_the_gaussian_given_what_was_reported(joint):
    values, model, whole = joint
    (steps, count), flat = values.shape, values.ravel()
    known = [after for _, after in filtered(values, model)]
    for last in range(steps):
        seen = ~np.isnan(flat) & (np.arange(len(flat)) < (last + 1) * count)
        within = whole[np.ix_(seen, seen)] + 0.1 * np.eye(seen.sum())
        expected = whole[last * count : (last + 1) * count, seen] @ np.linalg.solve(within, flat[seen])
        np.testing.assert_allclose(known[last].state[:count], expected, rtol=1e-10, atol=1e-12)
        made = [torch.tensor(part)[None, None] for part in (model.move, model.shock, model.start)]
        filter_ = Filter(
            torch.zeros(count, 2), torch.tensor(0.0), *[torch.zeros(1, 1, 1)] * 2, *[torch.zeros(1, 1, count)] * 2,
            torch.full((1, 1), 0.1, dtype=torch.float64), *made,
        )  # fmt: skip
        got = outlook._filtered(filter_, torch.tensor(values)[None, : last + 1, None], last + 1)
        np.testing.assert_allclose(got[0, 0, 0, :count].numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_smoother_is_that_of_the_gaussian(joint):
    values, model, whole = joint
    flat = values.ravel()
    seen = ~np.isnan(flat)
    within = whole[np.ix_(seen, seen)] + 0.1 * np.eye(seen.sum())
    gain = np.linalg.solve(within, whole[seen]).T
    got = smoothed(values, model)
    np.testing.assert_allclose(got.states[:, :3].ravel(), gain @ flat[seen], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.variances.ravel(), (whole - gain @ whole[seen]).diagonal(), rtol=1e-9)


def swinging(steps, seed=0):
    """Three stations that go on as they moved before, for a while."""
    generator, values = np.random.default_rng(seed), np.zeros((steps, 3))
    for step in range(2, steps):
        pushed = generator.normal() + 0.1 * generator.normal(size=3)
        values[step] = 1.8 * values[step - 1] - 0.85 * values[step - 2] + 0.1 * pushed
    return values


def test_what_goes_on_as_it_moved_before_is_of_order_2_and_nothing_else_is():
    assert chosen(turning(600), np.eye(3)).order == 1
    values, later = swinging(600), swinging(300, seed=1)
    best = chosen(values, np.eye(3))
    assert best.order == 2
    model = maximised(values, np.eye(3), best)
    np.testing.assert_allclose(model.move.reshape(3, 2, 3).sum(2), np.tile([1.8, -0.85], (3, 1)), atol=0.1)
    of_order_1 = maximised(values, np.eye(3), best._replace(order=1))
    assert errors_ahead(later, model)[0] < 0.6 * errors_ahead(later, of_order_1)[0]


def test_fits_that_are_found_at_once_are_as_each_alone():
    values = np.stack([swinging(150), turning(150), swinging(150, seed=2)])
    values[np.random.default_rng(0).random(values.shape) < 0.3] = np.nan  # other gaps in each
    values[1, 20:40] = values[2, :, 0] = np.nan
    alike = np.stack([np.eye(3), np.full((3, 3), 0.5), np.eye(3)])
    shrinkages = [Shrinkage(0.1, 0.3), Shrinkage(1.0, 0.0, 2), Shrinkage(10.0, 0.1)]
    found = _fits(values, alike, shrinkages)
    for one, series, near, shrinkage in zip(found, values, alike, shrinkages, strict=True):
        for part, alone in zip(one, maximised(series, near, shrinkage), strict=True):
            np.testing.assert_allclose(part, alone, rtol=1e-9, atol=1e-11)
    both = maximised(values[0], np.eye(3), Shrinkage(np.array([0.1, 10.0]), np.array([0.3, 0.1])))
    ahead = errors_ahead(swinging(90, seed=3), both)
    for index, (motion, shock) in enumerate([(0.1, 0.3), (10.0, 0.1)]):
        alone = maximised(values[0], np.eye(3), Shrinkage(motion, shock))
        np.testing.assert_allclose(both.move[index], alone.move, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(ahead[index], errors_ahead(swinging(90, seed=3), alone), rtol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_forecasts_do_not_grow_without_end(order):
    growing = 1.05 ** np.arange(200)[:, None] * [1, 2, 3] + np.random.default_rng(0).normal(size=(200, 3))
    model = maximised(growing, np.eye(3), Shrinkage(0.01, 0.0, order))
    known, tops = list(filtered(growing, model))[-1][1], []
    for _ in range(1000):
        known = model.ahead(known)
        tops.append(np.abs(known.state).max())
    assert max(tops) < 3 * np.abs(growing).max()
    steps = steady(np.array([[0.5, 0.1], [0.0, 0.9]]))
    np.testing.assert_array_equal(steps, [[0.5, 0.1], [0.0, 0.9]])


def test_errors_ahead_are_those_of_forecasts_from_each_step():
    values, model = swinging(40), maximised(swinging(300), np.eye(3), Shrinkage(0.1, 0.0, 2))
    values[7, 1] = np.nan
    known, off = [after for _, after in filtered(values, model)], []
    for step in range(len(values) - 3):
        for_ = known[step]
        for _ in range(3):
            for_ = model.ahead(for_)
        off.append(np.abs(for_.state[:3] - values[step + 3]))
    assert LEADS[1] == 3
    assert errors_ahead(values, model)[1] == pytest.approx(np.nanmean(off), rel=1e-12)


def test_a_fit_is_shrunk_the_more_strongly_the_less_there_is_to_learn_from():
    alike = np.eye(3)
    few = chosen(turning(40), alike)
    assert few.motion > chosen(turning(4000), alike).motion
    alone = np.random.default_rng(0).normal(size=(60, 12))
    shrunk = maximised(alone, np.eye(12), chosen(alone, np.eye(12)))
    free = maximised(alone, np.eye(12), Shrinkage(0.01, 0.0))
    off = ~np.eye(12, dtype=bool)
    assert np.abs(shrunk.move[off]).max() < np.abs(free.move[off]).max() / 3


def test_neighbours_are_in_one_group_and_each_group_is_as_if_it_were_alone(monkeypatch):
    values = np.concatenate([turning(300, seed) for seed in range(2)], 1)
    reports = table(values, [0, 1, 2, 10, 11, 12])
    monkeypatch.setattr(subject, "MOST_SITES", 3)
    (pair,) = fitted(history_of(reports), 1, 1.0)
    side = max(place[0] for place in pair.places)
    assert [round(place[0] / side * 12) // 10 for place in pair.places] == [0, 0, 0, 1, 1, 1]
    assert len(pair.move) == len(pair.noise) == 2
    assert len(pair.move[0]) == 3
    (alone,) = fitted(history_of(reports.of(np.arange(6) < 3)), 1, 1.0)
    # Each group is shrunk as the first one, whose usual values are those of all.
    np.testing.assert_allclose(pair.move[0], alone.move[0], atol=0.05)
    scaling = Scaling.of(reports)
    made = first_guess(reports, scaling, 24, 6)
    made = replace(made, dynamics=fitted(made.history(reports, scaling), len(made.climate), scaling.extent))
    told = [linear(made, reports, scaling, sensor, [299] * 6) for sensor in range(6)]
    expected = scaling.channels(np.float32(np.concatenate([MOVE @ values[-1, :3], MOVE @ values[-1, 3:]]))[:, None])
    np.testing.assert_allclose(told, expected[:, 0], atol=0.35)


def test_stations_have_their_share_in_the_swing_of_the_day():
    """The land warms by day, the sea does not: each is told its own day."""
    hours, share = np.arange(24 * 20), np.array([0.0, 0.5, 1.0, 2.0])
    noise = 0.1 * np.random.default_rng(0).normal(size=(len(hours), 4))
    values = np.sin(2 * np.pi * hours / 24)[:, None] * share + noise
    reports = table(values, np.arange(4))
    scaling = Scaling.of(reports)
    made = first_guess(reports, scaling, 24, 12)
    made = replace(made, dynamics=fitted(made.history(reports, scaling), len(made.climate), scaling.extent))
    for lead in (0, 6, 12):
        # The last step is at 23:00.
        expected = share * np.sin(2 * np.pi * (23 + lead) / 24)
        told = np.array([linear(made, reports, scaling, sensor, [479] * 4, lead=lead) for sensor in range(4)])
        np.testing.assert_allclose(told * scaling.spread[0] + scaling.mean[0], expected, atol=0.25)
    noise = np.random.default_rng(0).normal(size=(480, 4))
    (whole,) = fitted(history_of(table(noise, np.arange(4))), 24, 1.0)
    assert np.abs(np.outer(np.array(whole.swing)[:, 0], np.array(whole.share)[0])).max() < 0.1, "no swing in noise"


def test_the_fit_finds_what_moves_from_station_to_station_though_a_third_is_missing():
    values = 5 + turning(4000)
    values[np.random.default_rng(1).random(values.shape) < 0.33] = np.nan
    (whole,) = fitted(history_of(table(values)), 1, 1.0)
    order = np.argsort(np.array(whole.places)[:, 0])  # those that report most often come first
    np.testing.assert_allclose(np.array(whole.move[0])[order][:, order], MOVE, atol=0.06)
    np.testing.assert_allclose(np.array(whole.level[0]) + np.array(whole.usual)[0], 5, atol=0.15)
    np.testing.assert_allclose(np.array(whole.shock[0]), 0.09 * np.eye(3), atol=0.03)


def test_only_sensors_that_stay_and_report_often_have_a_place():
    values = turning(240)
    values = np.concatenate([values, values], 1)
    values[30:, 2] = np.nan
    reports = table(values, [0, 1, 2, 3, 0, 4], moving=(1,))
    history = history_of(reports)

    def places(history):
        found = {place[0] for one in fitted(history, 1, 1.0) for place in one.places}
        return sorted(round(place / history.rows.positions[:, 0].max().item() * 4) for place in found)

    assert places(history) == [3, 4], "not that of two at once, whose levels may differ"
    renamed = reports.where((reports.sensor != 0) | (reports.step < 120))
    assert places(history_of(renamed.where((renamed.sensor != 4) | (renamed.step >= 120)))) == [0, 3, 4]
    without = [one.without for one in fitted(history, 1, 1.0, folds=True)]
    assert without == [(0, 0), (0, 60), (60, 120), (120, 180), (180, 240)]
    assert fitted(history_of(table(values[:100])), 1, 1.0) == (), "too short"
    assert fitted(history_of(table(values[:, [0]], [0], moving=(0,))), 1, 1.0) == (), "nobody stays"


def test_nothing_is_told_of_the_level_of_a_place_that_was_silent_in_the_fit(monkeypatch):
    """Before, it was the mean of all."""
    monkeypatch.setattr(subject, "MOST_STEPS", 300)
    values = turning(900)
    values[400:, 1] = np.nan
    (whole,) = fitted(history_of(table(values)), 1, 1.0)
    assert len(whole.places) == 2
    reports = table(turning(300))
    other = np.where((reports.sensor == 1) & (reports.step > 20), np.nan, 2 * reports.values[:, 0])
    both = replace(reports, columns=replace(HOURLY, values=("value", "other")),
                   values=np.stack([reports.values[:, 0], other], 1).astype(np.float32))  # fmt: skip
    scaling = Scaling.of(both)
    made = first_guess(both, scaling, 24, 6)
    made = replace(made, dynamics=fitted(made.history(both, scaling), len(made.climate), scaling.extent))
    assert made.dynamics[0].known == ((True,) * 3, (True, False, True))
    level = made.filter.level[0]
    assert level.isnan().tolist() == [[False] * 3, [False, True, False]]
    history, asked = made.history(both, scaling), Asked(
        torch.full((1, 1, 3), 299), torch.tensor([[299]]), scaling.coordinates(both.positions[:3])[None, None],
        torch.zeros(1, 1, 3, 0), torch.arange(3)[None, None], torch.ones(1, 1, 3, 1, dtype=torch.long),
    )  # fmt: skip
    got = made.found(history, asked, torch.zeros(1, 1, 3, 1, 2), scaling)
    assert got.values[..., CANDIDATES.index(LINEAR)].isfinite().all(), "told by its neighbours"
    assert got.own_age[0, 0, :, 1].isnan().tolist() == [False, True, False]


def test_a_station_that_is_silent_for_long_keeps_its_level_by_name_and_by_place(tmp_path):
    values = turning(500)
    values[:, 0] -= 10
    values[220:, 0] = np.nan
    reports = table(values)
    made = Forecaster.fit(reports, tmp_path, Fit(num_modules=2, hidden_size=4, context=12, horizon=4,
                          training=Training(updates=1), validation=0.0), progress=False)  # fmt: skip
    assert made.memory < 500 - 220
    places = stations(reports)
    named, nameless = (made.forecast(reports, some)[0] for some in (places, places._replace(names=None)))
    np.testing.assert_allclose(named, nameless, rtol=1e-5)
    assert np.abs(named[0, :, 0, 0] + 10).max() < 3


def test_neighbours_in_a_town_on_the_globe_have_a_place_each():
    """Unit vectors of places a street apart differ in their last digits only."""
    draw, count = np.random.default_rng(0), 40
    step, sensor = np.repeat(np.arange(240), count), np.tile(np.arange(count), 240)
    places = np.array([-118.4, 34.0]) + 0.002 * np.stack([np.arange(count) % 8, np.arange(count) // 8], 1)
    values = draw.normal(size=(len(step), 1)).astype(np.float32)
    reports = Reports(
        replace(HOURLY, position=("lon", "lat")), np.datetime64("2014-01-01T00", "ns"), 240,
        tuple(f"{number:02d}" for number in range(count)), step, sensor, places[sensor], values,
        np.zeros((len(step), 0), np.float32),
    )  # fmt: skip
    scaling = Scaling.of(reports)
    assert scaling.num_coordinates == 3
    (whole,) = fitted(first_guess(reports, scaling, 24, 6).history(reports, scaling), 1, scaling.extent)
    assert len(whole.places) == count
    kept = from_plain(Dynamics, json.loads(json.dumps(to_plain(whole))))
    assert nearest(scaling.coordinates(places), filter_of([kept]))[0].sort().values.tolist() == [*range(count)]


def linear(guess, reports, scaling, sensor, known, alone=False, lead=1):
    """What the dynamics say of a station after the last step."""
    history, origin = guess.history(reports, scaling), reports.num_steps - 1
    place = scaling.coordinates(reports.positions[reports.sensor == sensor][:1])
    asked = Asked(
        torch.tensor([[known]]), torch.tensor([[origin]]), place[None, None], torch.zeros(1, 1, 1, 0),
        torch.tensor([[[sensor]]]), torch.tensor([[[[lead]]]]), torch.tensor([[[alone]]]),
    )  # fmt: skip
    got = guess.found(history, asked, torch.zeros(1, 1, 1, 1, 1), scaling)
    return got.values[0, 0, 0, 0, 0, CANDIDATES.index(LINEAR)].item()


@pytest.fixture(scope="module")
def guess():
    """A guess with the dynamics of three stations, its scaling, and how its reports end."""
    reports = table(turning(1000))
    scaling = Scaling.of(reports)
    made = first_guess(reports, scaling, 24, 6)
    made = replace(made, dynamics=fitted(made.history(reports, scaling), len(made.climate), scaling.extent))
    return made, scaling


def test_each_station_is_told_by_all_others_and_one_that_is_withheld_by_its_neighbours_alone(guess):
    made, scaling = guess
    values = turning(60, seed=3)
    reports, other = table(values), values.copy()
    last = [59, 59, 59]
    expected = MOVE @ values[-1]
    for sensor in range(3):
        got = linear(made, reports, scaling, sensor, last) * scaling.spread[0] + scaling.mean[0]
        assert got == pytest.approx(expected[sensor], abs=0.25)
    other[:, 0] += 3  # of a station that is withheld nothing is told
    told = linear(made, reports, scaling, 0, [-1, 59, 59])
    assert np.isfinite(told)
    assert linear(made, table(other), scaling, 0, [-1, 59, 59]) == pytest.approx(told, abs=1e-5)
    assert linear(made, reports, scaling, 0, last, alone=True) == pytest.approx(told, abs=0.2), "nor of its place"
    assert abs(linear(made, table(other), scaling, 0, last) - told) > 0.5
    # A station that fell silent long ago is still told by what comes from the others.
    silent = values.copy()
    silent[50:, 0] = np.nan
    got = linear(made, table(silent), scaling, 0, last) * scaling.spread[0] + scaling.mean[0]
    assert got == pytest.approx(expected[0], abs=0.6)
    later = values.copy()
    later[-1, 1] += 2
    moved = linear(made, table(later), scaling, 0, last) - linear(made, reports, scaling, 0, last)
    assert moved * scaling.spread[0] == pytest.approx(2 * MOVE[0, 1], abs=0.15)


@pytest.mark.parametrize("beside", [0.0, 4e-4])
def test_instruments_at_one_place_keep_their_own_levels(beside):
    """Of those that share a place, as two heights of a mast do, and of those a few steps apart; before, all were told
    the mean."""
    values = np.concatenate([turning(400), turning(400, seed=2)], 1)
    values = np.concatenate([values, values[:, [4]] + 30], 1)
    reports = table(values, [0, 1, 2, 3, 4, 5, 4 + beside])
    scaling = Scaling.of(reports)
    made = first_guess(reports, scaling, 24, 6)
    made = replace(made, dynamics=fitted(made.history(reports, scaling), len(made.climate), scaling.extent))
    assert len(made.dynamics[0].places) == 5 + (beside > 0)
    mean, spread = scaling.mean[0], scaling.spread[0]
    told = {sensor: mean + spread * linear(made, reports, scaling, sensor, [399] * 7) for sensor in (4, 6)}
    for sensor, level in ((4, 0), (6, 30)):
        assert abs(told[sensor] - level) < 5
    # A ship that passes a station is not taken for it.
    alone = reports.where(reports.sensor < 6)
    scaling = Scaling.of(alone)
    made = first_guess(alone, scaling, 24, 6)
    made = replace(made, dynamics=fitted(made.history(alone, scaling), len(made.climate), scaling.extent))
    assert len(made.dynamics[0].places) == 6
    told = scaling.mean[0] + scaling.spread[0] * linear(made, reports, scaling, 4, [399] * 7)
    assert abs(told) < 5


def test_a_new_station_changes_as_its_neighbours_do(guess):
    made, scaling = guess
    values = turning(60, seed=4)
    values = np.concatenate([values, values[:, :1] + 7], 1)
    reports = table(values, [0, 1, 2, 0.2])
    told, new = (linear(made, reports, scaling, sensor, [59] * 4) for sensor in (0, 3))
    own = scaling.channels(np.float32(values[-1])[:, None])[:, 0]
    assert new - own[3] == pytest.approx((told - own[0]).item(), abs=0.2)


def test_dynamics_are_judged_on_steps_to_which_they_were_not_fitted(monkeypatch):
    """Of noise nothing can be told: dynamics that are hardly shrunk are given no weight."""
    monkeypatch.setattr(state_space, "SHRINKAGES", (Shrinkage(1e-3, 0.0),))
    noise = np.random.default_rng(0).normal(size=(400, 12))
    turned = np.stack([turning(400, seed) for seed in range(4)], -1).reshape(400, 12)
    weights = []
    for values in (noise, turned):
        reports = table(values, np.arange(12))
        scaling = Scaling.of(reports)
        made = tuned(Windows(reports, scaling, first_guess(reports, scaling, 24, 6), 25, 6))
        assert [one.without for one in made.dynamics][::4] == [(0, 0), (300, 400)]
        weight = torch.tensor(made.logits)[:, 1, 0, 1].softmax(0)
        weights.append(weight[CANDIDATES.index(LINEAR)].item())
    assert weights[1] > 0.5 > 2 * weights[0]


def test_a_forecaster_keeps_the_dynamics_of_all_stations(tmp_path):
    reports = FieldWorld(num_stations=6, num_movers=0, num_steps=220).reports()
    how = Fit(num_modules=2, hidden_size=4, context=12, horizon=4, training=Training(updates=2))
    forecaster = Forecaster.fit(reports, tmp_path / "run", how, progress=False)
    (kept,) = forecaster.guess.dynamics
    assert kept.without == (0, 0)
    assert len(kept.places) == 6, "those of the validation too"
    again = Forecaster.load(tmp_path / "run")
    assert again.guess.dynamics == forecaster.guess.dynamics
    assert again.fingerprint == forecaster.fingerprint
    mean, _ = forecaster.forecast(reports, stations(reports))
    without = replace(forecaster, guess=replace(forecaster.guess, dynamics=()))
    assert not np.allclose(mean, without.forecast(reports, stations(reports))[0]), "they matter"
    renamed = replace(reports, sensors=tuple(f"new {name}" for name in reports.sensors))
    np.testing.assert_allclose(forecaster.forecast(renamed, stations(renamed))[0], mean, rtol=1e-5)
