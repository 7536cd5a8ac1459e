"""Forecasts are judged on what nobody showed them."""

from dataclasses import replace

import numpy as np
import pytest

from s2rm.sensors.field import FieldWorld
from s2rm.sensors.judging.judge import judge, split
from s2rm.sensors.judging.predictors import Persistence
from s2rm.sensors.reports import Reports, last_places
from s2rm.sensors.settings import Columns
from s2rm.sensors.times import lead_time


class Knows:
    """Knows the truth, and notes what it was shown."""

    def __init__(self, world):
        self.world, self.latest, self.sensors, self.asked = world, -1, set(), {}

    def fit(self, train):
        return self

    def predict(self, shown, origin, positions, covariates, sensors, leads):
        self.latest = max(self.latest, int(shown.step.max(initial=-1)) - origin)
        self.asked[origin] = dict(zip(sensors.tolist(), positions.tolist(), strict=True))
        self.sensors |= set(np.unique(shown.sensor).tolist())
        mean = np.stack([self.world.truth(np.full(len(positions), origin + lead), positions) for lead in leads])
        return mean, np.full(mean.shape, 1e-3)


def test_who_knows_the_truth_makes_no_error_and_is_shown_neither_the_future_nor_what_is_held_out():
    world = FieldWorld(num_stations=11, num_movers=0, num_steps=60, noise=0.0, direction_noise=0.0, seed=0)
    reports = world.reports()
    held_out = np.arange(len(reports.sensors)) % 4 == 0
    knows = Knows(world)
    persistence = Persistence().fit(reports.between(0, 40).of(~held_out))
    rows = judge({"knows": knows, "persistence": persistence}, reports, np.arange(42, 56), (0, 1, 4), held_out)
    assert knows.latest <= 0
    assert not knows.sensors & set(np.flatnonzero(held_out).tolist())
    assert {(row["sensors"], row["silent"]) for row in rows} == {
        ("seen", 0.0), ("held out", 0.0), ("seen", 0.5), ("held out", 0.5), ("silent", 0.5),
    }  # fmt: skip
    assert not any(row["lead"] == 0 and row["sensors"] == "seen" for row in rows)
    error = {(row["predictor"], row["value"], row["lead"], row["sensors"], row["silent"]): row["mae"] for row in rows}
    assert max(mae for key, mae in error.items() if key[0] == "knows") < 1e-3
    assert 0.01 < error["persistence", "tracer", 1, "seen", 0.0] < error["persistence", "tracer", 4, "seen", 0.0]
    assert error["persistence", "tracer", 1, "seen", 0.0] < error["persistence", "tracer", 1, "held out", 0.0]


def test_a_sensor_that_moves_is_judged_where_it_was_as_its_forecast_is():
    world = FieldWorld(num_stations=5, num_movers=3, num_steps=60, seed=0)
    reports, knows = world.reports(), Knows(world)
    rows = judge({"knows": knows}, reports, [50], (1, 4), np.arange(8) == 7, silent=0.0)
    known = reports.between(0, 51)
    for sensor in range(5, 7):
        assert knows.asked[50][sensor] == known.positions[known.sensor == sensor][-1].tolist()
    withheld = reports.where((reports.sensor == 7) & np.isin(reports.step, (51, 54))).positions.tolist()
    assert knows.asked[50][-1] in withheld
    assert {row["sensors"] for row in rows} == {"seen", "held out"}


def test_leads_come_in_order():
    world = FieldWorld(num_stations=4, num_movers=1, num_steps=20, seed=0)
    reports = world.reports()
    with pytest.raises(ValueError, match="leads must be in order"):
        judge({}, reports, np.array([5]), (3, 1), np.zeros(len(reports.sensors), bool))


def test_a_split_withholds_the_last_steps_and_some_of_the_stations_that_report():
    reports = FieldWorld(num_stations=13, num_movers=0, num_steps=40, seed=0).reports()
    reports = reports.of(np.arange(13) != 3)
    train, first, withheld = split(reports, 0.3, 0.25, seed=2)
    assert first == train.num_steps == 28
    assert withheld.sum() == 3
    assert not withheld[3]
    assert not withheld[train.sensor].any()
    assert len(train) == ((reports.step < 28) & ~withheld[reports.sensor]).sum()
    assert split(reports, 0.3, 0.01).withheld.sum() == 1
    alone = reports.values.copy()
    alone[~np.isin(reports.sensor, np.flatnonzero(withheld)), 0] = np.nan
    others = split(replace(reports, values=alone), 0.3, 0.25, seed=2)
    assert others.withheld.sum() == withheld.sum()
    assert (~np.isnan(others.train.values)).any(0).all(), "of no value too little is left"
    assert split(reports, 0.3, 0.25, seed=-1).withheld.sum() == 3, "a seed may be negative, as it may in training"


@pytest.mark.parametrize(
    ("steps", "length", "expected"),
    [(24, (1, "h"), "24 h"), (3, (2, "D"), "6 d"), (2, (45, "m"), "90 min"), (3, (500_000, "us"), "1.5 s")],
)
def test_lead_times_in_words(steps, length, expected):
    assert lead_time(steps, np.timedelta64(*length)) == expected


def heights(of_the_second):
    """Two sensors on a mast, and one beside; the second's covariate at each of four steps."""
    columns = Columns("time", ("x", "y"), ("v",), "sensor", ("height",), step="1h")
    step, sensor = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    covariates = np.stack([np.full(4, 10.0), of_the_second, np.full(4, 5.0)], 1).reshape(-1, 1).astype(np.float32)
    return Reports(
        columns, np.datetime64("2020-01-01"), 4, ("low", "high", "beside"), step, sensor,
        np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])[sensor], covariates.copy(), covariates,
    )  # fmt: skip


class Reads:
    """Forecasts the covariate that it is asked with."""

    def predict(self, shown, origin, positions, covariates, sensors, leads):
        return np.repeat(covariates[None], len(leads), 0), np.ones((len(leads), *covariates.shape))


def test_withheld_sensors_of_a_mast_are_asked_for_one_by_one():
    rows = judge({"reads": Reads()}, heights(np.full(4, 80.0)), [1], (1, 2), [True, True, False], silent=0.0)
    assert [row["mae"] for row in rows if row["sensors"] == "held out"] == [0, 0]


def test_covariates_are_those_that_a_forecast_knows():
    reports = heights(np.array([20.0, 30.0, 40.0, 50.0]))
    rows = judge({"reads": Reads()}, reports, [1], (1, 2), [True, False, False], silent=0.0)
    assert [(row["lead"], row["mae"]) for row in rows if row["sensors"] == "seen"] == [(1, 5), (2, 10)]
    changed = replace(reports, covariates=np.where(reports.step[:, None] > 1, np.nan, reports.covariates))
    places = last_places(reports.between(0, 1), changed)
    assert places.covariates.ravel().tolist() == [10, 20, 5] * 4
