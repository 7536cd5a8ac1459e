"""Values that are not Gaussian: their transform, what is refused and found, and forecasts and scores of them."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas
import pytest
import torch
from scipy.special import ndtr, ndtri

from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, Reports, judge, read_reports, stations, to_frame
from s2rm.sensors.export import ForecastStep
from s2rm.sensors.first_guess.candidates import CANDIDATES
from s2rm.sensors.first_guess.guess import Cases, FirstGuess
from s2rm.sensors.first_guess.mixing import crps_in_units
from s2rm.sensors.first_guess.tuning import Sample, chosen, trusted, with_climate_of
from s2rm.sensors.judging.judge import BASELINES
from s2rm.sensors.judging.scores import LEVELS, case_scores, gaussian_crps, member_scores
from s2rm.sensors.marginals import FARTHEST, Marginal, gaussian_value, with_found
from s2rm.sensors.reports import last_places
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import RANGES
from s2rm.training import Training

RAIN = np.maximum(np.random.default_rng(0).normal(-0.5, 1, 5000), 0.0) ** 3
COLUMNS = Columns("time", ("x", "y"), ("tracer", "direction"), "sensor", circular=("direction",), globe=False)


def rain(**world):
    """The table of a small world whose tracer is rain: none where it is below a threshold."""
    frame = to_frame(FieldWorld(num_stations=7, num_movers=2, num_steps=140, seed=1, **world).reports())
    return frame.assign(tracer=(frame.tracer - 15.5).clip(lower=0) ** 2)


@pytest.fixture(scope="module")
def reports():
    return read_reports(rain(), COLUMNS)


@pytest.fixture(scope="module")
def forecaster(reports, tmp_path_factory):
    how = Fit(num_modules=2, hidden_size=4, context=12, horizon=6, training=Training(epochs=1))
    return Forecaster.fit(reports, tmp_path_factory.mktemp("rain"), how, progress=False)


# The transform.


def test_scores_are_normal_and_go_back():
    values = np.random.default_rng(1).standard_t(2, 4001)
    marginal = Marginal.of(values, None, None, whole=False)
    scores = marginal.score(values)
    assert abs(scores.mean()) < 0.01
    assert abs(scores.std() - 1) < 0.02
    assert marginal.score(np.array([np.median(values)])) == pytest.approx(0, abs=1e-2)
    np.testing.assert_allclose(marginal.value(scores), values, rtol=1e-6, atol=1e-6)
    assert np.isnan(marginal.score(np.array([np.nan]))).all()
    assert marginal.value(np.array([FARTHEST])) > 2 * values.max() - np.median(values), "the tail goes on"
    assert marginal.limits == (-np.inf, np.inf)


@pytest.mark.parametrize(("kind", "whole"), [("nonnegative", False), ("heavy_tailed", False), ("counts", True)])
def test_values_far_beyond_those_of_the_fit_go_there_and_back(kind, whole):
    values = np.random.default_rng(2).gamma(2, 5, 3000).round(0 if whole else 2)
    marginal = Marginal.of(values, *RANGES[kind], whole)
    beyond = values.max() * np.array([1.0, 2.0, 8.0])
    np.testing.assert_allclose(marginal.value(marginal.score(beyond)), beyond, rtol=1e-6)
    scores = torch.from_numpy(marginal.score(beyond))
    np.testing.assert_allclose(marginal.value_of(scores), beyond, rtol=1e-4)
    assert (np.diff(scores) > 0).all()
    below = marginal.value(np.array([-30.0]))
    assert below < values.min() - 1 if kind == "heavy_tailed" else below == 0


def test_the_rounding_of_packed_files_is_no_value_of_its_own():
    exact = np.r_[np.zeros(300), np.random.default_rng(3).gamma(1, 2, 700)]
    packed = np.where(exact == 0, -1e-7, exact)
    assert Marginal.of(packed, 0.0, None, whole=False) == Marginal.of(exact, 0.0, None, whole=False)
    columns = Columns(time="t", values=("v",), position=("x", "y"))
    assert with_found(columns, packed[:, None])[1] == with_found(columns, exact[:, None])[1] == ("v",)
    assert with_found(columns, np.where(exact == 0, -0.1, exact)[:, None])[1] == ()


def test_reports_far_beyond_those_of_the_fit_are_named(forecaster, reports):
    flood = replace(reports, values=reports.values * np.array([8, 1], np.float32))
    most = int(flood.step[flood.values[:, 0].argmax()])
    with pytest.warns(UserWarning, match=r"forecast: 'tracer' is \d+\.?\d* in a report, far from what the fit saw"):
        mean, _ = forecaster.forecast(flood, stations(flood.between(0, most + 1)), origins=most, horizon=1)
    assert mean[..., 0].max() > 1.5 * reports.values[:, 0].max()


def test_rain_is_censored():
    marginal, dry = Marginal.of(RAIN, 0, None, whole=False), (RAIN == 0).mean()
    assert ndtr(marginal.limits[0]) == pytest.approx(dry, abs=1e-6)
    assert marginal.limits[1] == np.inf
    scores = marginal.score(RAIN)
    assert scores[RAIN == 0].max() < marginal.limits[0] < scores[RAIN > 0].min()
    assert abs(scores.mean()) < 0.01, "a climatology is the middle of the scores"
    assert marginal.value(np.array([-9.0, marginal.limits[0]])).tolist() == [0, 0]
    shares = np.linspace(0.01, 0.99, 37)
    np.testing.assert_allclose(marginal.value(ndtri(shares)), np.quantile(RAIN, shares), rtol=0.1, atol=0.02)
    mean, stddev = marginal.moments(np.array([0.0, 2.0]), np.array([1.0, 0.5]))
    drawn = marginal.value(np.random.default_rng(0).normal([0.0, 2.0], [1.0, 0.5], (200_000, 2)))
    np.testing.assert_allclose(mean, drawn.mean(0), rtol=0.03)
    np.testing.assert_allclose(stddev, drawn.std(0), rtol=0.03)
    assert mean[0] == pytest.approx(RAIN.mean(), rel=0.05)


def test_scores_of_large_tables_are_those_of_a_gaussian():
    amounts = np.random.default_rng(3).lognormal(0, 1, 200_000)
    scores = Marginal.of(amounts, 0, None, whole=False).score(amounts)
    assert scores.mean() == pytest.approx(0, abs=0.01)
    assert scores.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("stddev", [30.0, 60.0, 110.0, 150.0, 300.0])
def test_directions_are_those_of_a_normal_distribution_around_the_circle(stddev):
    generator = np.random.default_rng(4)
    made = gaussian_value(np.array(70.0), np.array(stddev), generator.standard_normal(100_000), True)
    towards = np.exp(1j * np.radians(made - 70)).mean()
    assert towards.real == pytest.approx(np.exp(-(np.radians(stddev) ** 2) / 2), abs=0.01)
    assert towards.imag == pytest.approx(0, abs=0.01)
    truth = 70 + stddev * generator.standard_normal((100_000, 1))
    low, high = (gaussian_value(np.array(0.0), np.array(stddev), ndtri(share), True) for share in (0.05, 0.95))
    assert ((truth - 70 - low) % 360 <= (high - low) % 360).mean() == pytest.approx(0.9, abs=0.01)
    given = np.full_like(truth, 70.0), np.full_like(truth, stddev), truth % 360, np.array([True])
    assert case_scores(*given)["coverage"].mean() == pytest.approx(0.9, abs=0.01)


def test_counts_are_whole_numbers():
    counts = np.random.default_rng(2).poisson(1.3, 3000).astype(float)
    marginal = Marginal.of(counts, 0, None, whole=True)
    shares = (np.arange(200) + 0.5) / 200
    made = marginal.value(ndtri(shares))
    assert made.tolist() == np.quantile(counts, shares, method="inverted_cdf").tolist()
    assert marginal.value(marginal.score(np.arange(7.0))).tolist() == [0, 1, 2, 3, 4, 5, 6]
    large = Marginal.of(1000.0 + np.arange(500), 0, None, whole=True)
    assert large.value(np.array([-9.0, 0.0])).tolist() == [0, 1249]
    assert large.limits == (-np.inf, np.inf), "no zero was seen"


@pytest.mark.parametrize("values", [np.r_[np.zeros(30), 1.0, np.ones(9)], np.linspace(0.1, 0.9, 50)])
def test_fractions_stay_fractions(values):
    marginal = Marginal.of(values, 0, 1, whole=False)
    made = marginal.value(np.linspace(-12, 12, 97))
    assert made.min() == 0
    assert made.max() == 1
    assert (np.diff(made) >= 0).all()
    assert np.isfinite(marginal.score(np.array([0, 0.5, 1.0]))).all()
    assert json.dumps([*marginal.values, *marginal.scores], allow_nan=False)


def test_values_that_are_only_zero_and_one_have_a_width():
    step, sensor = (part.ravel() for part in np.indices((40, 2)))
    columns = Columns("time", ("x", "y"), ("open",), "sensor", fractions=("open",), step="1h")
    reports = Reports(
        columns, np.datetime64("2020-01-01"), 40, ("a", "b"), step, sensor, np.eye(2)[sensor],
        ((step + sensor) % 2).astype(np.float32)[:, None], np.zeros((80, 0), np.float32),
    )  # fmt: skip
    assert Scaling.of(reports).width == (1,)


def test_a_guess_is_scored_in_the_values_own_units():
    marginal = Marginal.of(RAIN, 0, None, whole=False)
    mean, spread = torch.tensor([[0.2, 1.0], [1.5, -1.0]]), torch.tensor([[0.7, 2.0], [0.4, 1.0]])
    truth = torch.tensor([[-0.4, 1.1], [2.5, 3.0]])
    got = crps_in_units(mean.requires_grad_(), spread, truth, [marginal, None])
    levels = ndtri((np.arange(2000) + 0.5) / 2000)
    for each in range(2):
        made = marginal.value(mean[each, 0].item() + spread[each, 0].item() * levels)
        y, (shares, step) = marginal.value(np.array([truth[each, 0].item()])), (np.arange(2000) / 2000, 1 / 2000)
        score = 2 * step * ((shares - (y < made)) * (y - made)).sum() / marginal.spread
        assert got[each, 0].item() == pytest.approx(score, rel=0.03)
    np.testing.assert_allclose(
        got[:, 1].detach(), gaussian_crps((truth - mean).detach().numpy(), spread.numpy())[:, 1], rtol=1e-5
    )
    got.sum().backward()
    assert mean.grad.isfinite().all()
    assert (mean.grad[:, 0] != 0).all()


# What is declared, found and refused.


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("nonnegative", -0.25, "expected numbers of at least 0 in 'v' of the table, got -0.25 in row 3; correct it"),
        ("fractions", 1.5, "expected numbers from 0 to 1 in 'v' of the table, got 1.5 in row 3"),
        ("percent", 100.5, "expected numbers from 0 to 100 in 'v' of the table, got 100.5 in row 3"),
        ("counts", 2.5, "expected whole numbers in 'v' of the table, got 2.5 in row 3"),
        ("counts", -2.0, "expected whole numbers of at least 0 in 'v' of the table, got -2.0 in row 3"),
    ],
)
def test_what_a_value_cannot_be_is_refused(kind, wrong, message):
    frame = pandas.DataFrame({"time": pandas.date_range("2024", periods=4, freq="h"), "x": [0, 1, 0, 1.0]})
    frame["v"] = [0, 1, wrong, 1]
    with pytest.raises(ValueError, match=message) as error:
        read_reports(frame, Columns("time", ("x",), ("v",), **{kind: ("v",)}))
    assert "\n" not in str(error.value)


def test_a_declaration_names_values_once():
    with pytest.raises(ValueError, match=r"percent must be among the values, \['v'\], got \['w'\]"):
        Columns("time", ("x",), ("v",), percent=("w",))
    with pytest.raises(ValueError, match="'v' is named as circular and as counts; a value has one kind"):
        Columns("time", ("x",), ("v",), circular=("v",), counts=("v",))


def test_many_zeros_are_found_and_said(reports, tmp_path, capsys):
    assert reports.columns.nonnegative == ("tracer",)
    dry = read_reports(rain().assign(tracer=lambda frame: frame.tracer - 1e-3), COLUMNS)
    assert dry.columns == COLUMNS, "negative values may be"
    short = Fit(num_modules=1, hidden_size=2, context=12, horizon=6, training=Training(updates=1))
    Forecaster.fit(reports, tmp_path, short)
    share = (reports.values[:, 0] == 0).mean()
    assert "not Gaussian: tracer (nonnegative, " in capsys.readouterr().err
    assert share > 0.2


def test_fine_tuning_keeps_the_kinds_of_the_start_and_refuses_others(forecaster, reports, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("s2rm.sensors.fitting._train", lambda how, reports, *_: given.append(reports.columns))
    monkeypatch.setattr("s2rm.sensors.fitting.finish", lambda folder: None)
    start = replace(forecaster, columns=replace(forecaster.columns, nonnegative=()))
    monkeypatch.setattr(Forecaster, "load", lambda folder: start)
    fit = partial(Forecaster.fit, folder=tmp_path, how=Fit(context=12, horizon=6), progress=False)
    fit(replace(reports, columns=COLUMNS, found=()), start=forecaster)
    fit(reports, start=forecaster)
    fit(read_reports(rain(), start.columns), start=start)  # the table alone suggests another kind
    assert [columns.nonnegative for columns in given] == [("tracer",), ("tracer",), ()]
    declared = read_reports(rain(), replace(COLUMNS, nonnegative=("tracer",)))
    heavy = replace(reports, columns=replace(COLUMNS, heavy_tailed=("tracer",)), found=())
    for kind, other, of in (("nonnegative", declared, start), ("heavy_tailed", heavy, forecaster)):
        with pytest.raises(ValueError, match=rf"fit: the model was fitted to {kind} \(\), got \('tracer',\); name the"):
            fit(other, start=of)
    assert len(given) == 3


# Forecasts and scores.


def test_rain_is_never_negative(forecaster, reports):
    table = forecaster.table(reports, stations(reports), quantiles=(0.001, 0.05, 0.5, 0.999))
    made = table[[name for name in table if name.startswith("tracer")]].to_numpy()
    assert made.min() == 0
    assert (np.diff(made[:, 2:]) >= 0).all()
    assert (made.max(0) > 0).all(), "mean and standard deviation among them"
    mean, _stddev = forecaster.forecast(reports, stations(reports))
    np.testing.assert_allclose(mean[0, :, :, 0].ravel(), table.tracer_mean)
    stream = forecaster.step(None, reports)
    np.testing.assert_allclose(forecaster.forecast_from(stream, stations(reports))[0], mean[0], rtol=1e-3, atol=1e-4)
    dataset = forecaster.dataset(reports, stations(reports), quantiles=(0.5,))
    np.testing.assert_array_equal(dataset.tracer_quantile.values.ravel(), table["tracer_q50"])
    wrong = reports.values.copy()
    wrong[5, 0] = -1
    with pytest.raises(ValueError, match=r"forecast: expected numbers of at least 0 in 'tracer', declared in nonneg"):
        forecaster.forecast(replace(reports, values=wrong), stations(reports))
    with pytest.raises(
        ValueError, match=r"export: expected Gaussian values and directions, got tracer \(nonnegative\)"
    ):
        ForecastStep(forecaster)


def test_scores_are_those_of_the_quantiles(forecaster, reports):
    baselines = {name: kind().fit(reports) for name, kind in BASELINES.items()}
    rows = judge({"mine": forecaster, **baselines}, reports, [60, 100], [1, 6], [False] * len(reports.sensors), (0.0,))
    found = {(row["predictor"], row["lead"]): row for row in rows if row["value"] == "tracer"}
    asked, known = reports.where(reports.step == 61), reports.where(reports.step <= 60)
    later, known_later = reports.where(reports.step == 101), reports.where(reports.step <= 100)
    for name, predictor in {"mine": forecaster, **baselines}.items():
        errors = []
        for truth, shown, origin in ((asked, known, 60), (later, known_later, 100)):
            made = predictor.quantiles(shown, origin, *last_places(shown, truth)[:2], truth.sensor, [1], shares=LEVELS)[
                :, 0, :, 0
            ]
            assert made.min() >= 0
            assert (np.diff(made, axis=0) >= -1e-9).all()
            y, within = truth.values[:, 0], np.abs(made[:, None] - made).mean((0, 1)) / 2
            errors += (np.abs(made - y).mean(0) - within)[~np.isnan(y)].tolist()
        assert found[name, 1]["crps"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_climatology_of_rain_is_the_rain_of_that_hour(reports):
    climatology = BASELINES["climatology"]().fit(reports)
    made = climatology.quantiles(reports, 100, np.zeros((2, 2)), np.zeros((2, 0)), [-1, -1], [2], shares=[0.4, 0.9])
    hour = reports.values[reports.step % 24 == 102 % 24, 0]
    np.testing.assert_allclose(made[:, 0, :, 0], np.quantile(hour, [0.4, 0.9])[:, None].repeat(2, 1), rtol=1e-5)


def test_coverage_counts_ties_by_their_ranks():
    members = np.tile(np.sort(np.r_[np.zeros(60), np.arange(1, 40)]).astype(float), (3, 1))[:, None]
    each = member_scores(members, np.array([[0.0], [35.0], [np.nan]]))
    low, high, last = 0.1, 0.9, 60 / 99
    assert each["coverage80"][0, 0] == pytest.approx((last - low) / last)
    assert each["coverage80"][1, 0] == pytest.approx(float(high >= 94 / 99))
    assert each["mae"][:, 0].tolist()[:2] == [0, 35]
    assert np.isnan(each["crps"][2, 0])


def test_a_predictor_of_one_s_own_is_cut_off_where_rain_ends(reports):
    class Dry:
        def predict(self, shown, origin, positions, covariates, sensors, leads):
            shape = (len(leads), len(positions), 2)
            return np.full(shape, -5.0), np.ones(shape)

    (row, *_) = judge({"dry": Dry()}, reports, [60], [1], [False] * len(reports.sensors), (0.0,))
    truth = reports.values[reports.step == 61, 0]
    assert row["mae"] == pytest.approx(np.nanmean(truth))
    assert row["crps"] == pytest.approx(np.nanmean(truth), rel=1e-3)


# Files.


def test_a_gaussian_table_is_scaled_as_before():
    reports = FieldWorld(num_stations=5, num_movers=0, num_steps=60).reports()
    scaling = Scaling.of(reports)
    assert scaling.marginals == ()
    assert (scaling.limits.abs() == 1e6).all()
    declared = Scaling.of(replace(reports, columns=replace(reports.columns, heavy_tailed=("tracer",))))
    assert declared.marginals[0] is not None
    assert declared.marginals[1] is None
    own, other = declared.channels(reports.values), scaling.channels(reports.values)
    assert torch.equal(own[:, 1:].nan_to_num(), other[:, 1:].nan_to_num())
    back, _ = declared.units(own, torch.full_like(own, 1e-4))
    np.testing.assert_allclose(back[:, 0], reports.values[:, 0], atol=2e-2)


def of_the_own_value(signs, apart=10):
    """Cases whose truth is the own last value, or its opposite, in each of the parts of the past."""
    marginal, generator = Marginal.of(RAIN, 0, None, whole=False), torch.Generator().manual_seed(0)
    number = 1000 * len(signs)
    own = torch.randn(number, 1, generator=generator)
    values = torch.full((number, 1, len(CANDIDATES)), torch.nan)
    values[..., 0], values[..., CANDIDATES.index("climatology")] = own, 0.0
    alike = torch.ones(number, 1)
    cases = Cases(values, alike > 0, alike < 0, 0 * alike, 0 * alike, alike[:, 0])
    moment = torch.arange(number)
    truth = own * torch.tensor(signs, dtype=torch.float)[moment // 1000, None]
    guess = FirstGuess(None, 0, 12, (1.0,), (0.0,), (1.0,), (0.1,), (False,), ((0.0,),), (0, 1, 6))
    drawn = Sample(cases, truth, moment, torch.zeros_like(moment))
    return torch.tensor(trusted(guess, drawn, torch.tensor([0]), [marginal], apart))[1, 0, 1]


def test_a_guess_is_trusted_beside_the_climatology_as_far_as_it_held_in_other_parts_of_the_past():
    assert of_the_own_value([1, 1, 1, 1]) == 1
    assert of_the_own_value([1, -1, 1, -1]) == 0
    assert of_the_own_value([1, -1, 1, -1], apart=9000) == 1, "where nothing is far enough, nothing is known of it"


def test_a_part_of_the_past_is_compared_with_the_climatology_of_the_others():
    values = torch.zeros(6, 1, len(CANDIDATES))
    alike, part = torch.ones(6, 1), torch.tensor([0, 1, 0, 1, 0, 1])
    truth = torch.tensor([[1.0], [5.0], [3.0], [torch.nan], [100.0], [100.0]])
    drawn = Sample(Cases(values, alike > 0, alike < 0, 0 * alike, 0 * alike, alike[:, 0]), truth, torch.arange(6), part)
    cases = with_climate_of(drawn, torch.arange(6) < 4).cases
    climate = CANDIDATES.index("climatology")
    assert cases.values[:, 0, climate].tolist() == [2, 5, 2, 5, 2, 5]
    assert cases.values.sum() == cases.values[..., climate].sum()
    assert values.sum() == 0, "which are not changed"


def test_a_correction_is_kept_where_it_helps_by_more_than_chance():
    table = torch.ones(8, 2, 1, 3, 2)
    table[:, 0, :, :, 1] = 0.9  # a tenth less in every block
    table[:, 1, :, :, 1] = torch.tensor([0.1, 0.1, 0.9, 1.1, 0.9, 1.2, 1.4, 1.5])[:, None, None]  # as much in all
    assert table[:, 0, ..., 1].sum() == pytest.approx(table[:, 1, ..., 1].sum().item())
    assert chosen(table).tolist() == [[[1, 1, 1]], [[0, 0, 0]]]
    assert chosen(1 - (1 - table) / 50).sum() == 0, "by too little"
    table[:, 1, :, :, 1] = torch.tensor([0.7, 0.9, 0.8, 1.0, 0.9, 0.9, 1.1, 0.9])[:, None, None]  # 2.3 standard errors
    assert [chosen(table, sure)[1, 0, 0].item() for sure in (2, 2.5)] == [1, 0]


def test_scores_are_pulled_to_those_of_the_climatology():
    guess = FirstGuess(None, 0, 12, (1.0,), (0.0,), (1.0,), (0.1,), (False,), ((-0.6,), (0.6,)), (0, 1))
    mean, spread = guess.pulled(
        torch.tensor([[2.0]]), torch.tensor([[0.4]]), torch.tensor([[-0.6]]), torch.tensor(0.25)
    )
    assert mean.item() == pytest.approx(0.05)
    assert spread.item() == pytest.approx(0.7), "0.8 is left of a variance of 1 where the hours' means have 0.36"


def test_what_is_known_to_be_right_is_not_pulled(forecaster):
    trust = torch.tensor(forecaster.guess.trust)
    assert ((trust >= 0) & (trust <= 1)).all()
    assert (trust[:, 1] == 1).all(), "a direction is no normal score"
