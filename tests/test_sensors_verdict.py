"""A verdict names what is better only where chance does not explain it."""

from itertools import pairwise

import numpy as np
import pytest

from s2rm.report.figures import figure
from s2rm.sensors.field import FieldWorld
from s2rm.sensors.judging.baselines import Climatology
from s2rm.sensors.judging.judge import BASELINES, LEAST_BLOCKS, blocks, judge
from s2rm.sensors.judging.maps import station_gains
from s2rm.sensors.judging.plots import ticks, with_truth
from s2rm.sensors.judging.predictors import Persistence
from s2rm.sensors.judging.verdicts import compare, digits, interval, percent, verdict
from s2rm.sensors.times import lead_time, unit_of_leads

HOUR = np.timedelta64(1, "h")


def row(predictor, lead, errors, value="heat", sensors="seen", coverage=0.9):
    """A row of `judge`: two cases in each block, whose absolute errors are these; the CRPS is half as large."""
    errors = np.array(errors, np.float64)
    return {
        "predictor": predictor, "lead": lead, "sensors": sensors, "silent": 0.0, "value": value,
        "mae": errors.mean(), "crps": errors.mean() / 2, "coverage80": coverage - 0.1, "coverage": coverage,
        "count": 2.0 * len(errors), "by_block": [[block, 2 * error, error, 2] for block, error in enumerate(errors)],
        "by_sensor": [[3, errors.sum(), errors.sum() / 2, len(errors)], [5, errors.sum(), errors.sum(), len(errors)]],
    }  # fmt: skip


def test_sums_over_blocks_and_sensors_are_those_of_the_scores():
    reports = FieldWorld(num_stations=8, num_movers=2, num_steps=60, seed=0).reports()
    withheld = np.arange(10) % 4 == 0
    train = reports.between(0, 30).of(~withheld)
    predictors = {"persistence": Persistence().fit(train), "climatology": Climatology().fit(train)}
    rows = judge(predictors, reports, np.arange(30, 54, 2), (1, 4), withheld, 0.0)
    assert {(row["sensors"], row["lead"]) for row in rows} == {
        ("seen", 1),
        ("seen", 4),
        ("held out", 1),
        ("held out", 4),
    }
    for row in rows:
        for sums in (np.array(row["by_block"]), np.array(row["by_sensor"])):
            assert sums[:, 3].sum() == row["count"]
            np.testing.assert_allclose(sums[:, 1:3].sum(0), np.array([row["mae"], row["crps"]]) * row["count"])
        assert {sensor in np.flatnonzero(withheld) for sensor, *_ in row["by_sensor"]} == {row["sensors"] == "held out"}
        assert 0 <= row["coverage80"] <= row["coverage"] <= 1


def test_blocks_of_origins_are_as_long_as_the_longest_lead():
    assert blocks(np.arange(0, 240, 2), 24).tolist() == [origin // 12 for origin in range(120)], "24 steps each"
    assert np.bincount(blocks(np.arange(0, 80, 2), 24)).tolist() == [7, 7, 6, 7, 7, 6], "too short for more than six"
    assert np.bincount(blocks(np.arange(1000), 1)).tolist() == [10] * 100, "the cube root of 1,000"
    assert blocks(np.array([9, 3, 6]), 1).tolist() == [2, 0, 1]


def test_intervals_hold_what_they_should():
    generator, held, number = np.random.default_rng(1), 0, 300
    for _ in range(number):
        common = generator.gamma(4, size=(1, 8))  # weather, hard or easy for all
        ours, theirs = (share * common * generator.gamma(20, 1 / 20, size=(1, 8)) for share in (0.8, 1.0))
        low, high = interval(ours, theirs)
        held += low <= 0.2 <= high
    assert 0.92 <= held / number <= 0.99


def test_intervals_of_few_blocks_or_none():
    some = np.arange(1.0, 1 + LEAST_BLOCKS)[None]
    assert interval(some, some) == (0, 0)
    assert np.isnan(interval(some[:, 1:], some[:, 1:])).all()
    assert np.isnan(interval(some, some - 1)).all(), "others that make no error in a block have no share of it"


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    common = 1 + generator.random(12)
    near = common * (1 + 0.1 * generator.standard_normal(12))
    return [
        row("S2GRU", 1, common), row("persistence", 1, 2 * common), row("kriging", 1, 3 * common),
        row("S2GRU", 3, near), row("persistence", 3, 3 * common), row("kriging", 3, common),
        row("S2GRU", 6, 1.25 * common), row("persistence", 6, common), row("kriging", 6, 3 * common),
        row("S2GRU", 1, common, sensors="held out", coverage=0.75),
        row("persistence", 1, 2 * common, sensors="held out"), row("kriging", 1, 4 * common, sensors="held out"),
    ]  # fmt: skip


def test_each_lead_is_compared_with_the_predictor_that_is_best_there(rows):
    both = compare(rows, "S2GRU", "heat", "seen", [1, 6])
    assert both.best == ("persistence", "persistence")
    assert both.gain == pytest.approx(np.mean([0.5, -0.25]))
    assert both.low == pytest.approx(both.high) == pytest.approx(both.gain), "the ratio is the same in each block"
    assert both.cases == 48
    near = compare(rows, "S2GRU", "heat", "seen", [3], "crps")
    assert near.best == ("kriging",)
    assert near.low < 0 < near.high
    assert near.sign == 0


def test_the_verdict_in_words(rows):
    (_, whole), (name, said) = verdict(rows, "S2GRU", HOUR)
    assert whole == (
        "S2GRU beats the best of 2 simple predictors (persistence, kriging) in 2 of 4 comparisons, "
        "one for each value, lead time and group of stations, is worse in 1, and cannot be distinguished from it in 1. "
        "In brackets are 95 % intervals and numbers of cases."
    )
    assert name == "heat"
    assert said.split("; ") == [
        "at stations in the fit S2GRU beats the best simple predictor at +1 h by 50 % (50 to 50 %, 24 cases), is worse "
        "than it at +6 h by 25 % (25 to 25 %, 24 cases) and cannot be distinguished from it at +3 h (24 cases)",
        "at withheld stations it beats the best simple predictor at +1 h by 50 % (50 to 50 %, 24 cases)",
        "its 80 % and 90 % intervals contain 80 % and 90 % of the observations at stations in the fit, 65 % and 75 % "
        "of the observations at withheld stations.",
    ]


def test_a_verdict_needs_simple_predictors(rows):
    alone = [row for row in rows if row["predictor"] == "S2GRU"]
    with pytest.raises(ValueError, match="simple predictors beside those of S2GRU, got none; give judge"):
        verdict(alone, "S2GRU", HOUR)


def test_lead_times_in_words(rows):
    errors = np.arange(1.0, 13)
    many = [
        row(name, lead, share * errors)
        for lead in (1, 2, 3, 6, 9)
        for name, share in (("S2GRU", 2.0 if lead == 6 else 0.5), ("persistence", 1.0))
    ]
    ((_, _), (_, said)) = verdict(many, "S2GRU", np.timedelta64(30, "m"))
    assert "beats the best simple predictor at +30 min to +90 min and +270 min by 50 %" in said
    ((_, _), (_, said)) = verdict([one for one in many if one["lead"] < 6], "S2GRU", np.timedelta64(1, "D"))
    assert "beats the best simple predictor at all lead times by 50 %" in said
    few = [row(name, 1, share * errors) for name, share in (("S2GRU", 0.996), ("persistence", 1.0))]
    ((_, _), (_, said)) = verdict(few, "S2GRU", HOUR)
    assert (
        "at +1 h by 0.4 % (0.4 to 0.4 %, 24 cases); no forecast could be judged at withheld stations; its 80 %" in said
    )


def test_whole_hours_of_short_steps_are_hours():
    minutes = np.timedelta64(5, "m")
    assert [lead_time(lead, minutes) for lead in (0, 1, 12, 24, 30, 288)] == [
        "0 min", "5 min", "60 min", "2 h", "150 min", "24 h",
    ]  # fmt: skip
    assert lead_time(48, HOUR) == "48 h"


def test_numbers_of_lead_times_do_not_overlap():
    made, axes = figure(1, 1, 4.0, 3.0)
    ticks(axes[0, 0], [0, 1, 3, 6, 12, 24, 48, 96], 1 / 12)
    shown = [label.get_text() for label in axes[0, 0].get_xticklabels()]
    assert shown == ["0", "0.083", "", "0.5", "1", "2", "4", "8"]
    made.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes[0, 0].get_xticklabels() if label.get_text()]
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


@pytest.mark.parametrize(
    ("longest", "length", "expected"),
    [(24, (1, "h"), ("h", 1)), (72, (1, "h"), ("d", 1 / 24)), (12, (5, "m"), ("min", 5)), (24, (5, "m"), ("h", 1 / 12)),
     (5, (1, "D"), ("d", 1)), (3, (20, "s"), ("s", 20))],
)  # fmt: skip
def test_the_unit_of_an_axis_of_lead_times(longest, length, expected):
    unit, scale = unit_of_leads(longest, np.timedelta64(*length))
    assert (unit, scale) == (expected[0], pytest.approx(expected[1]))


def test_bold_is_what_the_interval_bears_out(rows):
    from s2rm.sensors.judging.report import _tables

    reports = FieldWorld(num_stations=2, num_movers=0, num_steps=9).reports()
    named = [{**one, "value": "tracer"} for one in rows]
    mae = next(iter(_tables(named, "S2GRU", reports)))
    assert mae.heads == ["+1 h", "+3 h", "+6 h"]
    assert [line.name for line in mae.rows[:2]] == ["S2GRU", "persistence"]
    assert [bold for _, bold in mae.rows[0].cells] == [True, False, False]
    assert [bold for _, bold in mae.rows[1].cells] == [False, False, True]
    assert [text for text, _ in mae.rows[3].cells][::2] == ["+50 %", "-25 %"]


def test_numbers_have_the_digits_that_matter():
    assert [digits(error) for error in (1.3, 0.04567, 128.4, 12_345.6)] == ["1.30", "0.0457", "128", "12,346"]
    assert [percent(share, "+") for share in (0.002, -0.183, 0.0996)] == ["+0.2", "-18", "+10"]


def test_the_gain_at_each_station(rows):
    gains = station_gains(rows, "S2GRU", "heat", "seen")
    best = [one["by_sensor"] for one in rows if (one["predictor"], one["lead"]) in {
        ("persistence", 1), ("kriging", 3), ("persistence", 6)} and one["sensors"] == "seen"]  # fmt: skip
    ours = sum(one["by_sensor"][0][1] for one in rows if one["predictor"] == "S2GRU" and one["sensors"] == "seen")
    assert gains.keys() == {3, 5}
    assert gains[3] == pytest.approx(1 - ours / sum(each[0][1] for each in best))


def test_series_are_of_sensors_that_report_then():
    reports = FieldWorld(num_stations=3, num_movers=0, num_steps=20, dropout=0.0, partial=0.0).reports()
    quiet = reports.where((reports.sensor != 1) | (reports.step < 10))
    quiet = quiet.where((quiet.sensor != 2) | (quiet.step < 12))
    assert with_truth(quiet, np.ones(3, bool), range(10, 15), 0) == ["station 0", "station 2"]
    assert with_truth(quiet, np.arange(3) == 1, range(10, 15), 0) == []


@pytest.mark.parametrize(("mistaken", "said"), [(0.0, "+0.0"), (0.001, "–")])
def test_where_no_simple_predictor_errs_there_is_no_gain(mistaken, said):
    rows = [row("S2GRU", 1, [mistaken] * 8), *(row(name, 1, [0.0] * 8) for name in BASELINES)]
    gain = compare(rows, "S2GRU", "heat", "seen", [1])
    assert percent(gain.gain, "+") == said
    assert gain.sign == 0
