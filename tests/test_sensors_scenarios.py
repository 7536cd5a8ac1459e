"""Scenarios keep the forecast's mean and spread, and hang together as past errors did."""

import json
from dataclasses import replace

import numpy as np
import pytest

from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, Places, grid, stations, to_frame
from s2rm.sensors.dependence import Dependence, Hindcast
from s2rm.sensors.outputs import Forecasts
from s2rm.training import Training

pandas = pytest.importorskip("pandas")
KNOWN = Dependence(
    (0.3, 0.6), (0.4, 0.1), (0.02, 0.05),
    (((0.5, 0.3, 0.2), (0.2, 0.6, 0.2)), ((0.8, 0.05, 0.15), (0.6, 0.1, 0.3))), ((1.0, 0.6), (0.6, 1.0)),
)  # fmt: skip


def some_places(number, seed=1):
    return np.random.default_rng(seed).uniform(0, 1, (number, 2))


def expected(at, other, value, own):
    """The correlation of the errors of a value at two (place, lead)."""
    (x, lead), (y, later) = at, other
    field, level, local = KNOWN.shares[own][value]
    in_time = np.exp(-KNOWN.growth[value] * abs(np.log(lead / later)) - KNOWN.decay[value] * abs(lead - later))
    away = np.linalg.norm(x - y)
    return field * np.exp(-away / KNOWN.reach[value]) * in_time + (away == 0) * (level + local * in_time)


@pytest.mark.parametrize("own", [0, 1])
def test_errors_are_drawn_with_the_correlation_that_was_asked_for(own):
    places, leads = some_places(5), [1, 4, 13]
    drawn = KNOWN.draw(places, np.full(5, bool(own)), leads, 4000, 3)
    assert drawn.shape == (4000, 3, 5, 2)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.square(drawn).mean(0), 1)
    for value in range(2):
        for (q, h), (p, g) in (((0, 0), (1, 0)), ((0, 1), (2, 2)), ((3, 0), (3, 2)), ((4, 1), (1, 0))):
            got = (drawn[:, h, q, value] * drawn[:, g, p, value]).mean()
            wanted = expected((places[q], leads[h]), (places[p], leads[g]), value, own)
            assert got == pytest.approx(wanted, abs=0.06)
    both = (drawn[:, 1, 2, 0] * drawn[:, 1, 2, 1]).mean()
    assert 0.4 < both < 0.65, "0.6, but for what the spectra do not share"


def test_a_place_has_the_same_field_whichever_others_are_asked_for():
    alone = replace(KNOWN, shares=(((1.0, 0.0, 0.0),) * 2,) * 2)
    places = some_places(4)
    few, many = (alone.draw(places[:number], np.ones(number, bool), [1, 2], 3, 7) for number in (2, 4))
    np.testing.assert_allclose(few, many[:, :, :2])
    assert not np.allclose(few, alone.draw(places[:2], np.ones(2, bool), [1, 2], 3, 8))


def test_a_place_that_is_asked_for_twice_has_one_future():
    places = some_places(3)
    once, twice = (
        KNOWN.draw(places[which], np.ones(len(which), bool), [1, 4], 3, 7) for which in ([2, 0, 1], [2, 0, 2, 1])
    )
    np.testing.assert_allclose(twice, once[:, :, [0, 1, 0, 2]])
    turned = KNOWN.draw(np.add(places[:1], [[0, 0], [0, 1e-15]]), np.ones(2, bool), [1, 4], 3, 7)
    np.testing.assert_allclose(turned[:, :, 0], turned[:, :, 1], atol=1e-9)


def test_the_dependence_of_known_errors_is_found():
    leads = np.array([1, 2, 4, 8, 16])
    past = []
    for seed in range(80):
        places, own = some_places(40, seed), np.arange(40) % 3 > 0
        errors = 3 * KNOWN.draw(places, own, leads.tolist(), 1, 100 + seed)[0]  # how large they are does not matter
        errors[np.random.default_rng(seed).random(errors.shape) < 0.3] = np.nan
        past.append(Hindcast(places, own, leads, errors))
    found = Dependence.of(past, 1.0)
    np.testing.assert_allclose(found.reach, KNOWN.reach, rtol=0.5)
    np.testing.assert_allclose(found.growth, KNOWN.growth, rtol=0.5)
    np.testing.assert_allclose(found.shares, KNOWN.shares, atol=0.15)
    assert 0.4 < found.between[0][1] < 0.65
    assert Dependence.of([], 1.0) is None
    assert Dependence.of([past[0]._replace(errors=np.full_like(past[0].errors, np.nan))], 1.0) is None


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    reports = FieldWorld(num_stations=8, num_movers=0, num_steps=150).reports()
    how = Fit(num_modules=2, hidden_size=4, context=12, horizon=6, training=Training(epochs=1, batch_size=8))
    folder = tmp_path_factory.mktemp("fit")
    return folder, Forecaster.fit(reports, folder, how, progress=False), reports


def test_scenarios_keep_mean_and_spread_and_are_the_same_again(fitted):
    _, forecaster, reports = fitted
    places, origins = stations(reports), [100, 120]
    mean, stddev = forecaster.forecast(reports, places, origins, 5)
    drawn = forecaster.scenarios(reports, places, origins, 5, num=20)
    assert drawn.shape == (2, 20, 5, 8, 2)
    np.testing.assert_allclose(drawn[..., 0].mean(1), mean[..., 0], rtol=1e-6)
    np.testing.assert_allclose(drawn[..., 0].std(1), stddev[..., 0], rtol=1e-6)
    assert ((drawn[..., 1] >= 0) & (drawn[..., 1] < 360)).all(), "a direction"
    assert np.array_equal(drawn, forecaster.scenarios(reports, places, origins, 5, num=20))
    assert not np.array_equal(drawn, forecaster.scenarios(reports, places, origins, 5, num=20, seed=1))
    later = forecaster.scenarios(reports, places, origins[1:], 5, num=20)
    np.testing.assert_allclose(later, drawn[1:])
    assert forecaster.scenarios(reports, grid(reports, 3), num=1).shape == (1, 1, 6, 9, 2)


def test_a_station_without_a_report_is_no_seen_one(fitted):
    _, forecaster, reports = fitted
    hidden = np.arange(8) == 2
    here, elsewhere = (((0.0, 1.0, 0.0),) * 2, ((0.0, 0.0, 1.0),) * 2)
    forecaster = replace(forecaster, dependence=replace(forecaster.dependence, shares=(here, elsewhere)))
    places = stations(reports)
    mean, stddev = forecaster.forecast(reports.of(~hidden), places)
    z = (forecaster.scenarios(reports.of(~hidden), places, num=10) - mean[:, None]) / stddev[:, None]
    steady = [np.allclose(z[0, :, 0, q, 0], z[0, :, -1, q, 0], atol=1e-4) for q in range(8)]
    assert steady == hidden.tolist()


def test_how_errors_depend_is_saved_and_older_fits_say_that_they_do_not_know(fitted, tmp_path):
    folder, forecaster, reports = fitted
    assert Forecaster.load(folder).dependence == forecaster.dependence
    kept = json.loads((folder / "forecaster.json").read_text())
    assert len(kept["dependence"]["reach"]) == 2
    older = replace(forecaster, dependence=None)
    assert older.fingerprint == forecaster.fingerprint, "streams go on"
    with pytest.raises(ValueError, match="did not find how errors depend on each other.*; fit again"):
        older.scenarios(reports, stations(reports))
    for wrong in ({"num": 0}, {"seed": -1}, {"num": True}):
        with pytest.raises(ValueError, match="scenarios: expected .*; give a whole number"):
            forecaster.scenarios(reports, stations(reports), **wrong)


def test_scenarios_in_files(fitted, tmp_path):
    from s2rm.cli import main

    folder, forecaster, reports = fitted
    drawn = forecaster.scenarios(reports, stations(reports), num=3)
    table = forecaster.table(reports, stations(reports), scenarios=3)
    names = [f"tracer_s0{number}" for number in (1, 2, 3)]
    assert [name for name in table if name.startswith("tracer_s0")] == names
    np.testing.assert_allclose(table[names[1]], drawn[0, 1, ..., 0].ravel())
    dataset = forecaster.dataset(reports, grid(reports, 2), scenarios=3)
    assert dataset.tracer_scenario.dims == ("scenario", "valid_time", "y", "x")
    assert dataset.scenario.attrs["standard_name"] == "realization"
    several = forecaster.dataset(reports, stations(reports), origins=[100, 120], scenarios=3)
    assert several.direction_scenario.dims == ("scenario", "init_time", "lead_time", "sensor")
    assert "tracer_scenario" not in forecaster.dataset(reports, stations(reports))
    to_frame(reports).to_csv(tmp_path / "table.csv", index=False)
    asked = ["forecast", str(folder), str(tmp_path / "table.csv"), "--scenarios", "3"]
    main([*asked, "--out", str(tmp_path / "f.csv")])
    np.testing.assert_allclose(pandas.read_csv(tmp_path / "f.csv")[names[2]], drawn[0, 2, ..., 0].ravel(), rtol=1e-5)


def test_a_column_named_as_a_scenario():
    columns = Columns("time", ("x", "y"), ("t",), "t_s01")
    places, shape = Places(np.zeros((1, 2)), np.empty((1, 0), np.float32), ("a",)), (1, 1, 1, 1)
    init, lead = np.array(["2013-05-01T06:00"], "datetime64[us]"), np.array([1], "timedelta64[h]")
    made = Forecasts(
        columns, places, init, lead, np.zeros(shape), np.ones(shape), scenarios=np.ones((1, 1, *shape[1:]))
    )
    assert made.table()["t_s01_"].tolist() == ["a"]
    assert made.table()["t_s01"].tolist() == [1]
