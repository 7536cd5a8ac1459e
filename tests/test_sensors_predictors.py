import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from s2rm.sensors.field import FieldWorld
from s2rm.sensors.judging.baselines import Climatology
from s2rm.sensors.judging.judge import BASELINES
from s2rm.sensors.judging.kriging import Kriging
from s2rm.sensors.judging.predictors import (
    EARTH_RADIUS,
    InverseDistance,
    LocalLinear,
    Persistence,
    SensorPredictor,
    coordinates,
    inverse_distance,
    last_reports,
)
from s2rm.sensors.judging.scores import gaussian_crps, scores
from s2rm.sensors.reports import Columns, Reports, difference

PLANE = Columns("time", ("x", "y"), ("level", "course"), "sensor", circular=("course",))
GLOBE = Columns("time", ("lon", "lat"), ("level",), "sensor")
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def table(rows: list[tuple], columns: Columns = PLANE, num_steps: int | None = None, num_sensors: int = 5) -> Reports:
    """Reports from rows of step, sensor, position and values."""
    steps, sensors, positions, values = zip(*rows, strict=True)
    return Reports(
        columns, np.datetime64("2020-02-28T22:30", "us"), num_steps or max(steps) + 1,
        tuple(f"s{number}" for number in range(num_sensors)),
        np.array(steps), np.array(sensors), np.array(positions, float).reshape(len(rows), -1),
        np.array(values, np.float32).reshape(len(rows), -1), np.zeros((len(rows), 0), np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> FieldWorld:
    return FieldWorld(num_stations=29, num_movers=6, num_steps=211, wind=0.3)


@pytest.fixture(scope="module")
def seen(world) -> Reports:
    return world.reports()


@pytest.fixture(scope="module")
def fitted(seen) -> dict[str, SensorPredictor]:
    return {name: predictor().fit(seen.between(0, 150)) for name, predictor in BASELINES.items()}


def ask(predictor, shown, origin, positions, sensors, leads=(0, 1, 6)):
    positions, sensors = np.array(positions, float), np.array(sensors, np.int64)
    mean, stddev = predictor.predict(shown, origin, positions, np.zeros((len(sensors), 0)), sensors, leads)
    assert mean.shape == stddev.shape == (len(leads), len(sensors), len(shown.columns.values))
    assert np.isfinite(mean).all()
    assert np.isfinite(stddev).all()
    assert (stddev >= 0).all()
    return mean, stddev


def everywhere(reports: Reports, origin: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the sensors report at that step, as themselves and as places without a sensor, and some other places."""
    now = reports.between(origin, origin + 1)
    other = np.array([[3.0, 5.0], [50.0, 50.0], [400.0, -700.0]])
    places = np.concatenate([now.positions, now.positions, other])
    return places, np.concatenate([now.sensor, np.full(len(now) + 3, -1)])


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_later_than_the_origin_is_not_looked_at(name, fitted, seen):
    assert isinstance(fitted[name], SensorPredictor)
    places, sensors = everywhere(seen, 170)
    expected = ask(fitted[name], seen, 170, places, sensors)
    later = seen.step > 170
    changed = replace(seen, values=np.where(later[:, None], seen.values + 7, seen.values))
    for shown in (changed, seen.where(~later)):
        np.testing.assert_array_equal(expected, ask(fitted[name], shown, 170, places, sensors))
    earlier = replace(seen, values=np.where(later[:, None], seen.values, seen.values + 7))
    assert name == "climatology" or not np.array_equal(expected[0], ask(fitted[name], earlier, 170, places, sensors)[0])


@pytest.mark.parametrize("name", BASELINES)
def test_neither_the_order_of_the_rows_nor_the_company_of_a_query_or_lead_matters(name, fitted, seen):
    places, sensors = everywhere(seen, 170)
    expected = ask(fitted[name], seen, 170, places, sensors, (6, 0))
    order = np.random.default_rng(0).permutation(len(seen))
    names = ("step", "sensor", "positions", "values", "covariates")
    shuffled = replace(seen, **{part: getattr(seen, part)[order] for part in names})
    np.testing.assert_allclose(expected, ask(fitted[name], shuffled, 170, places, sensors, (6, 0)))
    alone = ask(BASELINES[name]().fit(seen.between(0, 150)), seen, 170, places[-5:], sensors[-5:], (6,))
    for whole, part in zip(expected, alone, strict=True):
        np.testing.assert_allclose(whole[:1, -5:], part, rtol=1e-6)
    nobody = np.zeros((0, 2)), np.zeros(0, np.int64)
    assert ask(fitted[name], seen, 170, *nobody)[0].shape == (3, 0, 2)


@pytest.mark.parametrize("name", BASELINES)
def test_without_reports_the_training_mean_is_expected(name, fitted, seen):
    nothing = seen.where(seen.step > 100)
    mean, stddev = ask(fitted[name], nothing, 100, [[1.0, 2.0], [3.0, 4.0]], [-1, 3])
    train = seen.values[seen.step < 150].astype(float)
    radians = np.radians(train[:, 1])
    course = np.degrees(np.arctan2(np.nanmean(np.sin(radians)), np.nanmean(np.cos(radians))))
    if name == "climatology":
        # Step 106 begins at 10 hours.
        np.testing.assert_allclose(
            mean[2, :, 0], np.nanmean(seen.values[(seen.step % 24 == 10) & (seen.step < 150), 0])
        )
    else:
        error = difference(mean, np.array([np.nanmean(train[:, 0]), course]), np.array([False, True]))
        np.testing.assert_allclose(error, 0, atol=1e-3)
        np.testing.assert_allclose(stddev[..., 0], np.nanstd(train[:, 0]), rtol=1e-4)


def test_persistence_is_the_sensors_own_last_report():
    rows = [
        (0, 0, (0, 0), (4, np.nan)), (0, 1, (9, 9), (1, 20)), (1, 0, (0, 0), (5, 350)), (2, 0, (0, 0), (np.nan, 355)),
        (9, 2, (3, 0), (7, 90)), (40, 2, (3, 0), (8, 90)),
    ]  # fmt: skip
    shown = table(rows)
    predictor = Persistence().fit(shown)
    mean, _ = ask(predictor, shown, 4, [(0, 0), (9, 9), (77, 77)], [0, 1, 1])
    np.testing.assert_allclose(mean[:, 0], [[5, 355]] * 3)
    # Wherever the sensor went since.
    np.testing.assert_allclose(mean[:, 1:], [[[1, 20], [1, 20]]] * 3, rtol=1e-6)
    mean, _ = ask(predictor, shown, 25, [(0, 0), (9, 9)], [0, 1], (0,))
    np.testing.assert_allclose(mean[0, 0], [5, 355], err_msg="24 steps old")
    # Sensor 1's is 25 steps old, which leaves the others by inverse distance.
    near = inverse_distance(PLANE, np.array([[0, 0], [3, 0]]), np.array([[5.0], [7.0]]), np.array([[9, 9]]))
    assert mean[0, 1, 0] == pytest.approx(near[0, 0])
    assert list(last_reports(shown, 25, 0, 24)) == [2, 4]
    assert list(last_reports(shown, 40, 0, 24)) == [5]
    assert list(last_reports(shown, 39, 0, 3)) == []


def test_inverse_distance_by_hand():
    places, values = np.array([[0, 0], [3, 0], [100, 0]]), np.array([[2.0], [12.0], [50.0]])
    asked = np.array([[1, 0], [3, 0], [1.5, 0]])
    found = inverse_distance(PLANE, places, values, asked, num_nearest=2)
    np.testing.assert_allclose(found[:, 0], [(4 * 2 + 12) / 5, 12, 7])
    found = inverse_distance(PLANE, places, values, asked[:1], num_nearest=8, power=1)
    np.testing.assert_allclose(found[:, 0], (2 + 12 / 2 + 50 / 99) / (1 + 1 / 2 + 1 / 99))
    # Two at one place are averaged there.
    found = inverse_distance(PLANE, places[[0, 0, 1]], values, asked[:1] * 0)
    np.testing.assert_allclose(found, 7)
    same = inverse_distance(PLANE, places, np.full((3, 1), 4.25), np.random.default_rng(0).normal(size=(53, 2)))
    np.testing.assert_allclose(same, 4.25, rtol=1e-12)
    tiny = inverse_distance(PLANE, places, values, np.array([[1e-200, 0.0]]))
    np.testing.assert_allclose(tiny, 2)


def test_a_plane_is_found_again_and_far_away_it_is_level():
    generator = np.random.default_rng(0)
    places = generator.uniform(-1, 1, (30, 2))
    values = np.stack([3 + places @ [2.0, -1.0], np.full(30, 50.0)], 1)
    shown = table([(0, index, place, value) for index, (place, value) in enumerate(zip(places, values, strict=True))],
                  num_sensors=30)  # fmt: skip
    asked = [(0.1, 0.2), (-0.5, 0.4), (1e4, 0)]
    errors = []
    for tilt in (0.0, 1.0, 10.0, 1e6):
        mean, _ = ask(LocalLinear(tilt=tilt).fit(shown), shown, 0, asked, [-1] * 3, (0,))
        errors.append(np.abs(mean[0, :2, 0] - 3 - np.array(asked[:2]) @ [2, -1]).max())
        if tilt <= 10:
            assert 0 < mean[0, 2, 0] < 6, "within what is reported"
        np.testing.assert_allclose(mean[..., 1], 50, rtol=1e-6)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4 < errors[-2]
    near = inverse_distance(PLANE, places, values[:, :1], np.array(asked), num_nearest=12)
    np.testing.assert_allclose(
        ask(LocalLinear(tilt=0).fit(shown), shown, 0, asked, [-1] * 3, (0,))[0][0, :, 0], near[:, 0], rtol=1e-4
    )


@pytest.mark.parametrize("unit", [1e-9, 1e9])
@pytest.mark.parametrize("name", ["local linear", "inverse distance", "kriging"])
def test_maps_do_not_depend_on_the_unit_of_positions(name, unit, seen):
    reports = seen.between(0, 60)
    places, nobody = np.random.default_rng(0).random((9, 2)), np.full(9, -1)
    maps = []
    for scale in (1.0, unit):
        scaled = replace(reports, positions=reports.positions * scale)
        maps.append(ask(BASELINES[name]().fit(scaled), scaled, 40, places * scale, nobody, (0, 1)))
    np.testing.assert_allclose(*maps, rtol=1e-4)


def test_spreads_are_measured_where_a_sensor_was_when_it_was_asked_for():
    """One that moves is asked for where it last was, as in scores: where it will be is not known."""
    rows = [(step, index, (step + 10 * index, 0), (step, 0)) for step in range(30) for index in range(3)]
    moving = table(rows, num_sensors=3)
    predictor, asked = LocalLinear().fit(moving), []
    plain = predictor._forecast

    def watched(shown, origin, places, *rest):
        asked.append((shown, origin, places))
        return plain(shown, origin, places, *rest)

    predictor._forecast = watched
    ask(predictor, moving, 20, [(3, 0)], [-1], (4,))
    assert len(asked) > 5
    for shown, _, places in asked[:-1]:
        here = {*shown.positions[shown.step == shown.step.max(), 0].tolist()} if len(shown) else set()
        assert len(here & {*places[:, 0].tolist()}) == len(here)


def test_distances_on_the_globe_are_great_circles():
    # Across the date line: 1 and 2 degrees away along the equator; the third is on the other side of the globe.
    places, values = np.array([[179, 0], [-178, 0], [0, 0]]), np.array([[3.0], [8.0], [1.0]])
    found = inverse_distance(GLOBE, places, values, np.array([[180, 0]]))
    weights = np.array([1, 1 / 2, 1 / 180]) ** 2
    np.testing.assert_allclose(found[0, 0], weights @ values[:, 0] / weights.sum())
    points = coordinates(GLOBE, np.array([[0, 0], [90, 0], [0, 90], [360, 90]]))
    np.testing.assert_allclose(points / EARTH_RADIUS, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], atol=1e-12)


def test_directions_are_averaged_as_vectors():
    shown = table([(0, 0, (0, 0), (1, 350)), (0, 1, (2, 0), (3, 20)), (1, 0, (0, 0), (1, 350))])
    for predictor in (InverseDistance(), LocalLinear(), Persistence(), Kriging()):
        mean, _ = ask(predictor.fit(shown), shown, 0, [(1, 0)], [-1], (0,))
        np.testing.assert_allclose(mean, [[[2, 5]]], atol=1e-4)
    mean, _ = ask(Climatology().fit(shown), shown, 0, [(1, 0)], [-1], (0, 1, 2))
    # Hours 22 and 23, and midnight, of which there is nothing but the mean.
    np.testing.assert_allclose(mean[:2, 0], [[2, 5], [1, 350]], atol=1e-4)
    assert mean[2, 0, 0] == pytest.approx(5 / 3)
    assert 350 < mean[2, 0, 1] < 360


def test_climatology_knows_the_hour():
    shown = table([(hour, 0, (0, 0), (hour % 24 * 2.0,)) for hour in range(96)], GLOBE)
    mean, stddev = ask(Climatology().fit(shown), shown, 30, [(0, 0)], [0], range(24))
    np.testing.assert_allclose(mean[:, 0, 0], (30 + np.arange(24)) % 24 * 2)
    assert stddev.max() < 0.1


def test_the_spread_is_the_error_in_the_training_part():
    generator = np.random.default_rng(0)
    walks = generator.normal(0, 3, (400, 5)).cumsum(0) + generator.normal(0, 100, 5)
    shown = table([(step, who, (who, 0), (walks[step, who],)) for step in range(400) for who in range(5)], GLOBE)
    _, stddev = ask(Persistence().fit(shown), shown, 300, [(1, 0), (1.5, 0)], [1, -1], (0, 1, 9))
    np.testing.assert_allclose(stddev[1:, 0, 0], [3, 9], rtol=0.3)
    assert stddev[0, 0, 0] < 1, "a sensor knows what it reports"
    assert (stddev[:, 1, 0] > 40).all(), "of others it does not know that much"


def test_spreads_cover_what_they_say(world, fitted, seen):
    covered = {}
    places = world.side * np.random.default_rng(0).random((97, 2))
    leads, nobody, origins = (0, 3), np.full(97, -1), range(150, 200, 7)
    for name, predictor in fitted.items():
        means, spreads = zip(*(ask(predictor, seen, origin, places, nobody, leads) for origin in origins), strict=True)
        truth = [np.stack([world.truth(np.full(97, origin + lead), places) for lead in leads]) for origin in origins]
        parts = (np.concatenate(part, 1) for part in (means, spreads, truth))
        covered[name] = scores(*parts, np.array([False, True]))
    for name, found in covered.items():
        assert (found["coverage"] > [0.75, 0.7]).all(), name  # errors of directions are not spread as the normal's are
    error = {name: found["rmse"] for name, found in covered.items()}
    assert (error["kriging"][0] < 0.9 * error["inverse distance"][0]).all()
    assert (error["inverse distance"][0] < 0.8 * error["climatology"][0]).all()
    assert (covered["kriging"]["crps"][0] < covered["inverse distance"]["crps"][0]).all()


def test_kriging_goes_through_what_is_sure_and_doubts_what_is_far(fitted, seen):
    now = seen.between(170, 171)
    places = np.concatenate([now.positions[:1], [[1000.0, 1000.0]]])
    mean, stddev = ask(fitted["kriging"], seen, 170, places, [now.sensor[0], -1], (0, 6))
    assert mean[0, 0, 0] == pytest.approx(now.values[0, 0], abs=0.5)
    assert (stddev[0, 1] > 5 * stddev[0, 0]).all()
    assert (stddev[..., 1] < 180).all()
    assert stddev[1, 0, 0] > stddev[0, 0, 0], "what was so is less sure later"


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_kriging_does_not_depend_on_the_unit(unit, seen):
    unit = np.array([unit, 1], np.float32)
    scaled = Kriging().fit(replace(seen.between(0, 140), values=seen.between(0, 140).values * unit))
    places, nobody = np.random.default_rng(0).random((9, 2)), np.full(9, -1)
    for ours, other in zip(
        ask(scaled, replace(seen, values=seen.values * unit), 170, places, nobody),
        ask(Kriging().fit(seen.between(0, 140)), seen, 170, places, nobody), strict=True
    ):  # fmt: skip
        np.testing.assert_allclose(ours, other * unit, rtol=1e-3)


def test_little_to_learn_from_is_enough():
    one = table([(0, 3, (1, 2), (5, np.nan)), (0, 4, (1, 2), (np.nan, 60))], num_steps=1)
    for predictor in BASELINES.values():
        mean, stddev = ask(predictor().fit(one), one, 0, [(0, 0), (1, 2), (1, 2)], [-1, 3, 4], (0, 5))
        np.testing.assert_allclose(mean, np.broadcast_to([5, 60], mean.shape), rtol=1e-6)
        assert stddev.shape == (2, 3, 2)


def test_bad_questions_are_told_in_one_line(seen, monkeypatch):
    place, nobody = [(0.0, 0.0)], [-1]
    predictor = InverseDistance()
    with pytest.raises(ValueError, match="call fit first"):
        ask(predictor, seen, 3, place, nobody)
    with pytest.raises(ValueError, match="expected values of direction in the training part"):
        predictor.fit(replace(seen, values=np.where([False, True], np.nan, seen.values)))
    predictor.fit(seen)
    for leads in ((), (1, -1)):
        with pytest.raises(ValueError, match="expected leads of 0 steps or more"):
            ask(predictor, seen, 3, place, nobody, leads)
    with pytest.raises(ValueError, match="expected positions of"):
        ask(predictor, seen, 3, [(0.0, 0.0, 0.0)], nobody)
    with pytest.raises(ValueError, match="sensors must be from -1"):
        ask(predictor, seen, 3, place, [35])
    with pytest.raises(ValueError, match="expected the columns of the training part"):
        ask(predictor, replace(seen, columns=PLANE), 3, place, nobody)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"install.*\[tables\]"):
        Kriging().fit(seen)


def test_the_crps_is_the_integral_that_defines_it():
    for error, stddev in ((0.0, 1.0), (0.7, 2.0), (-3.0, 0.5)):
        below = quad(lambda x, s=stddev: norm.cdf(x, 0, s) ** 2, -40, error, points=[0])[0]
        above = quad(lambda x, s=stddev: norm.sf(x, 0, s) ** 2, error, 40, points=[0])[0]
        assert gaussian_crps(np.array(error), np.array(stddev)) == pytest.approx(below + above, abs=1e-6)
    np.testing.assert_array_equal(gaussian_crps(np.array([-2.0, 3.0]), np.zeros(2)), [2, 3])
    errors = np.random.default_rng(0).normal(0, 2, 4000)
    average = [gaussian_crps(errors, np.full(4000, spread)).mean() for spread in (1.0, 2.0, 4.0)]
    assert average[1] < min(average[0], average[2]), "who knows the spread scores best"


def test_scores_by_hand():
    truth = np.array([[[1.0, 350.0], [np.nan, 10.0], [4.0, np.nan]], np.full((3, 2), np.nan)])
    mean = np.array([[[2.0, 20.0], [np.nan, 350.0], [4.0, 0.0]], np.zeros((3, 2))])
    stddev = np.ones((2, 3, 2)) * [0.5, 15.0]
    found = scores(mean, stddev, truth, np.array([False, True]))
    np.testing.assert_allclose(found["mae"], [[0.5, 25], [np.nan] * 2])
    np.testing.assert_allclose(found["rmse"], [[np.sqrt(0.5), np.sqrt((900 + 400) / 2)], [np.nan] * 2])
    np.testing.assert_allclose(found["coverage"], [[0.5, 0.5], [np.nan] * 2])
    np.testing.assert_array_equal(found["count"], [[2, 2], [0, 0]])
    by_hand = gaussian_crps(np.array([30.0, 20.0]), np.array([15.0, 15.0])).mean()
    assert found["crps"][0, 1] == pytest.approx(by_hand)
    np.testing.assert_allclose(
        difference(np.array([[1.0, 359.0]]), np.array([[3.0, 2.0]]), np.array([False, True])), [[-2, -3]]
    )
    for bad in ({"mean": np.full_like(mean, np.nan)}, {"stddev": -stddev}):
        with pytest.raises(ValueError, match="scores: expected a finite mean"):
            scores(**{"mean": mean, "stddev": stddev, "truth": truth, "circular": np.array([False, True]), **bad})


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real measurements: {DATA} is absent")
def test_known_figures_of_public_data_are_found_again(tmp_path):
    recipe, out = ROOT / "experiments" / "sensor_checks.py", tmp_path / "checks.json"
    command = [sys.executable, recipe, "--data", DATA, "--every", "8", "--splits", "12", "--out", out]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=300)
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 13
    for row in rows:
        for name in ("mae", "rmse"):
            if f"known_{name}" not in row:
                continue
            found, known = row[f"found_{name}"], np.mean(row[f"known_{name}"])
            # The known split is one of many, and of those left out only some steps are looked at.
            near = 0.08 if "held out" in row["task"] else 0.1 * known if "left out" in row["task"] else 0.006
            assert found == pytest.approx(known, abs=near), row
    air = next(row for row in rows if "PM10" in row["data"] and "inverse" in row["task"])
    assert (air["found_mae"], air["found_rmse"]) == pytest.approx((4.14, 6.25), abs=0.006)


def test_a_value_that_is_not_gaussian_is_dressed_with_how_far_the_truth_was_above():
    rising = Columns("time", ("x", "y"), ("dust",), "sensor", globe=False, nonnegative=("dust",))
    steps, sensors = 100, 3
    step, sensor = np.repeat(np.arange(steps), sensors), np.tile(np.arange(sensors), steps)
    positions, values = np.stack([sensor, sensor % 2], 1).astype(np.float64), (50.0 + step)[:, None].astype(np.float32)
    reports = Reports(
        rising, np.datetime64("2024-01-01", "us"), steps, ("a", "b", "c"), step, sensor, positions, values,
        np.empty((len(step), 0), np.float32),
    )  # fmt: skip
    asked = (reports, 50, np.zeros((1, 2)), np.empty((1, 0)), [0], [6])
    middle = Persistence().fit(reports).quantiles(*asked, shares=[0.5])
    assert middle.item() == pytest.approx(106), "the last value was 100, and six steps on it is six more"
