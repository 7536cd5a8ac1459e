"""Where to put the next sensor: the shares are those of the forecaster's kriging, and the best place helps most."""

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from s2rm.cli import main
from s2rm.sensors import (
    Columns,
    FieldWorld,
    Fit,
    Forecaster,
    Places,
    Reports,
    next_sensor,
    read_reports,
    stations,
    to_frame,
)
from s2rm.sensors.first_guess.weights import kriging
from s2rm.sensors.judging.maps import map_of_siting
from s2rm.sensors.reports import merge, together
from s2rm.training import Training

pandas = pytest.importorskip("pandas", reason='needs pip install "s2rm[tables]"')
WORLD = FieldWorld(num_stations=9, num_movers=0, num_steps=160, dropout=0.05, noise=0.1, without_direction=0.3, seed=5)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder, reports = tmp_path_factory.mktemp("fitted"), WORLD.reports()
    training = Training(learning_rate=1e-3, batch_size=8, epochs=1)
    how = Fit(hidden_size=4, num_modules=2, context=12, horizon=6, training=training)
    return Forecaster.fit(reports, folder, how, progress=False), reports, folder


def some(number: int, seed: int) -> Places:
    positions = 100 * np.random.default_rng(seed).random((number, 2))
    return Places(positions, np.zeros((number, 0), np.float32))


def stated(forecaster: Forecaster, channel: int, near: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The variance of the field that the forecaster's own kriging states at places, beside sensors elsewhere."""
    scaled = [forecaster.scaling.coordinates(points).double() for points in (near, where)]
    away, nugget = scaled[0] - scaled[1][:, None], forecaster.guess.nugget[channel]
    there = torch.ones(away.shape[:2], dtype=torch.bool)
    ways = forecaster.guess.ways
    return (kriging(away, there, ways.reach[channel], nugget, ways.smooth[channel])[1] - nugget).numpy()


@pytest.mark.parametrize("smooth", [False, True])
def test_the_shares_are_what_kriging_states_with_and_without_the_sensor(fitted, smooth):
    forecaster, reports, _ = fitted
    guess = replace(forecaster.guess, smooth=(smooth,) * 3)
    forecaster = replace(forecaster, guess=guess)
    candidates, interest = some(7, 0), some(11, 1)
    found = next_sensor(forecaster, reports, candidates, interest, 3)
    recent = reports.between(reports.num_steps - forecaster.guess.memory, reports.num_steps)
    for value, channels in enumerate([[0], [1, 2]]):  # a direction has two
        measured = recent.where(~np.isnan(recent.values[:, value]))
        near = stations(measured).positions

        def left(near: np.ndarray, channels: list[int] = channels) -> float:
            return sum(stated(forecaster, channel, near, interest.positions).sum() for channel in channels)

        after = np.array([left(np.vstack([near, at])) for at in candidates.positions])
        np.testing.assert_allclose(found.share[:, value], 1 - after / left(near), rtol=1e-4)
    assert found.chosen[0] == found.mean.argmax()
    assert len({*found.chosen.tolist()}) == 3


def test_further_sensors_are_chosen_beside_the_earlier_ones(fitted):
    forecaster, reports, _ = fitted
    of_tracer = reports.where(~np.isnan(reports.values[:, 0]))
    of_tracer = replace(of_tracer, values=of_tracer.values * np.array([1, np.nan], np.float32))
    candidates, interest = some(7, 0), some(11, 1)
    with pytest.warns(UserWarning, match="no station has reported 'direction' in the last 12 steps, so that the rank"):
        found = next_sensor(forecaster, of_tracer, candidates, interest, 3)
    assert np.isnan(found.share[:, 1]).all(), "no station measures the direction"
    recent = of_tracer.between(reports.num_steps - forecaster.guess.memory, reports.num_steps)
    near = stations(recent).positions
    for number in found.chosen:
        left = [stated(forecaster, 0, np.vstack([near, at]), interest.positions).sum() for at in candidates.positions]
        assert number == np.argmin(left)
        near = np.vstack([near, candidates.positions[number]])


def test_the_place_that_is_ranked_first_helps_more_than_the_last(fitted):
    """The real error of the forecaster's interpolation of the true field, with a sensor at the one or the other."""
    forecaster, reports, _ = fitted
    candidates, places, origins = some(40, 2), some(60, 3), range(30, 160, 16)
    order = np.argsort(-next_sensor(forecaster, reports, candidates, places).share[:, 0])

    def error(at: np.ndarray | None) -> float:
        known = reports if at is None else merge(reports, observed(at))
        mean, _ = forecaster.interpolate(known, places, [*origins])
        truth = [WORLD.truth(np.full(60, origin), places.positions)[:, 0] for origin in origins]
        return float(np.sqrt(np.mean((mean[..., 0] - truth) ** 2)))

    def observed(at: np.ndarray) -> Reports:
        step, number = np.arange(160), 160
        values = WORLD.truth(step, np.tile(at, (number, 1))).astype(np.float32)
        values[:, 0] += WORLD.noise * np.random.default_rng(5).standard_normal(number)
        rows = (step, np.zeros(number, np.int64), np.tile(at, (number, 1)), values, np.zeros((number, 0), np.float32))
        return Reports(reports.columns, reports.start, number, ("new",), *rows)

    without = error(None)
    first, last = (
        np.mean([without - error(candidates.positions[at]) for at in ends]) for ends in (order[:5], order[-5:])
    )
    assert first > 2 * last
    assert first > 0.005 * without


def test_the_command_writes_a_ranking_and_a_map(fitted, tmp_path, monkeypatch, capsys):
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    _, reports, folder = fitted
    to_frame(reports).to_csv("t.csv", index=False)
    main(["next-sensor", str(folder), "t.csv", "--num", "2"])
    said = capsys.readouterr().err
    assert "next-sensor.csv: 900 places ranked; map: next-sensor.png" in said
    assert "choice 1: x " in said
    assert "choice 2: x " in said
    table = pandas.read_csv("next-sensor.csv")
    assert list(table) == ["rank", "chosen", "x", "y", "share", "tracer_share", "direction_share"]
    assert (table["share"].diff()[1:] <= 0).all()
    assert table["chosen"][0] == 1
    assert sorted(table["chosen"])[-3:] == [0, 1, 2]
    assert table["share"].between(0, 1).all()
    assert (tmp_path / "next-sensor.png").read_bytes().startswith(b"\x89PNG")
    few = {"x": [10.0, 90.0], "y": [50.0, 60.0000049], reports.columns.sensor: ["mast", "pier"]}
    pandas.DataFrame(few).to_csv("few.csv", index=False)
    capsys.readouterr()
    main(["next-sensor", str(folder), "t.csv", "--at", "few.csv", "--interest", "stations", "--out", "few.parquet"])
    ranked = pandas.read_parquet("few.parquet")
    assert dict(zip(ranked[reports.columns.sensor], ranked["x"], strict=True)) == {"mast": 10, "pier": 90}
    (said,) = re.findall("choice 1: (mast, x 10, y 50|pier, x 90, y 60.000005);", capsys.readouterr().err)
    assert said.startswith(ranked[reports.columns.sensor][0])


def test_what_cannot_be_ranked_is_refused(fitted):
    forecaster, reports, _ = fitted
    for candidates, number in ((some(2, 0), 3), (some(2, 0), 0), (some(0, 0), 1)):
        with pytest.raises(ValueError, match=r"expected from 1 to \d sensors, as many as candidates"):
            next_sensor(forecaster, reports, candidates, None, number)
    with pytest.raises(ValueError, match="and 0 places; name fewer sensors, or more places"):
        next_sensor(forecaster, reports, None, some(0, 0))
    table = to_frame(reports)
    table.loc[0, "time"] += 9 * (table.time.max() - table.time.min())
    stray = read_reports(table, reports.columns, to_fit=False)
    with pytest.raises(ValueError, match="next-sensor: expected observations of one period, got 1 of"):
        next_sensor(forecaster, stray)
    silent = replace(reports, num_steps=reports.num_steps + 100)
    with pytest.raises(ValueError, match="expected stations that reported in the last 12 steps, got none"):
        next_sensor(forecaster, silent)


def test_stations_that_fell_silent_are_said_to_count_as_absent(fitted):
    forecaster, reports, _ = fitted
    kept = (reports.sensor > 1) | (reports.step < reports.num_steps - 20)
    with pytest.warns(
        UserWarning, match="next-sensor: 2 of 9 stations have not reported in the last 12 steps, such as"
    ):
        found = next_sensor(forecaster, reports.where(kept), some(5, 0))
    assert found.silent.tolist() == [0, 1]
    assert not len(next_sensor(forecaster, reports, some(5, 0)).silent)
    far = replace(reports, positions=1000 * reports.positions)
    with pytest.warns(UserWarning, match="next-sensor: reports come from places beyond twice the radius"):
        next_sensor(forecaster, far, some(5, 0), some(5, 0))


def test_a_map_shows_all_candidates(fitted):
    forecaster, reports, _ = fitted
    far = Places(np.array([[50.0, 50.0], [140.0, 120.0]]), np.zeros((2, 0), np.float32))
    figure = plt.figure()
    map_of_siting(next_sensor(forecaster, reports, far, some(5, 0)), reports).draw(axes := figure.add_subplot())
    assert axes.get_xlim()[1] > 140
    assert axes.get_ylim()[1] > 120
    plt.close(figure)


@pytest.mark.parametrize("west", [350.0, 170.0])
def test_a_candidate_west_of_all_stations_stays_beside_them_across_the_seam(west):
    longitudes = (west + np.arange(0, 21, 5.0)) % 360
    longitudes = longitudes if west == 350 else (longitudes + 180) % 360 - 180
    frame = pandas.DataFrame({
        "time": pandas.date_range("2024", periods=4, freq="h").repeat(5), "lon": np.tile(longitudes, 4),
        "lat": np.tile(50.0 + np.arange(5), 4), "level": np.random.default_rng(0).random(20),
    })  # fmt: skip
    reports = read_reports(frame, Columns("time", ("lon", "lat"), ("level",)))
    stands = together(reports.places, reports)[:, 0]
    assert np.ptp(stands) == pytest.approx(20)
    asked = np.array([[west - 0.5, 50.0], [(west + 7) % 360, 51], [(west + 12) % 360, 52]])
    np.testing.assert_allclose(together(asked, reports)[:, 0] - stands.min(), [-0.5, 7, 12], atol=1e-6)
