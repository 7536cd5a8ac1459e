"""The first guess: what its candidates are, how they are mixed, and that a bad correction does not spoil it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.gaussian_process.kernels import Matern

from s2rm.sensors import Columns, FieldWorld, Reports
from s2rm.sensors.first_guess.candidates import CANDIDATES, FOLLOWING, OWN, TRENDS, Asked, Ways, found
from s2rm.sensors.first_guess.guess import LEAST_SPREAD, Cases, at_knots, context_size, mixture, values_of_channels
from s2rm.sensors.first_guess.history import History, climatology
from s2rm.sensors.first_guess.mixing import POWER, crps_of, prior
from s2rm.sensors.first_guess.tuning import AGEING, first_guess, gated, sample, silent, tuned
from s2rm.sensors.first_guess.weights import JITTER, kriging, plane
from s2rm.sensors.first_guess.windows import UNKNOWN, Windows
from s2rm.sensors.fitting import build_model, hidden_sensors, last_of
from s2rm.sensors.scaling import Scaling
from s2rm.sensors.settings import Fit
from s2rm.sensors.times import steps_a_cycle

WAYS = Ways((1e-4,), (0.0,), (1.0,), (0.0,), (False,))
LINE = Columns("time", ("x", "y"), ("warmth",), "station")


def on_a_line(values, places, step="1h", columns=LINE, covariates=None):
    """Reports `(T, S)` of stations; NaN is no report."""
    values = np.asarray(values, np.float32)
    row, sensor = np.nonzero(~np.isnan(values))
    positions = np.stack([np.asarray(places, float), np.zeros(len(places))], 1)
    known = np.zeros((len(row), 0), np.float32) if covariates is None else np.float32(covariates)[sensor, None]
    return Reports(
        replace(columns, step=step), np.datetime64("2014-01-01T00", "ns"), len(values),
        tuple("abcdefghijklmnopqrstuvwxyz"[: len(places)]), row, sensor, positions[sensor],
        values[row, sensor, None], known,
    )  # fmt: skip


def one(scaling):
    """The same values in the model's units as in the user's."""
    return replace(scaling, mean=(0.0,), spread=(1.0,))


def candidates(reports, sensor, origin, lead, cycle=None, cycles=2, known=None, alone=False):
    """The candidates of one query at a station's place, by name."""
    scaling = one(Scaling.of(reports))
    history = History.of(reports, scaling, cycle, cycles)
    until = torch.full((1, 1, len(reports.sensors)), origin) if known is None else torch.tensor([[known]])
    place = scaling.coordinates(reports.positions[reports.sensor == sensor][:1])
    asked = Asked(
        until, torch.tensor([[origin]]), place[None, None], torch.zeros(1, 1, 1, 0), torch.tensor([[[sensor]]]),
        torch.tensor([[[[lead]]]]), torch.tensor([[[alone]]]),
    )  # fmt: skip
    got = found(history, asked, WAYS, torch.full((1, 1, 1, 1, 1), 7.0), 30, scaling.extent)
    return dict(zip(CANDIDATES, got.values.flatten().tolist(), strict=True)), got


def test_an_own_last_report_counts_as_itself_and_neighbours_by_their_distance():
    values = [[1.0, 10.0, 4.0], [2.0, 20.0, 5.0], [np.nan, 30.0, 6.0]]
    got, more = candidates(on_a_line(values, [0.0, 1.0, 3.0]), 0, 2, 5)
    assert got["own last value"] == 2
    assert more.own_age.item() == 1
    assert got["nearest, level"] == pytest.approx((30 / 1 + 6 / 9) / (1 + 1 / 9), rel=1e-3)
    assert got["climatology"] == 7
    assert np.isnan(got["own, a cycle before"])
    own, around = more.trend.flatten().split(len(TRENDS))
    assert not own.any(), "nothing new for a step, and not known for three"
    torch.testing.assert_close(around, torch.tensor([(10 / 1 + 1 / 9) / (1 + 1 / 9), 0, 0]), rtol=1e-3, atol=0)
    alone, other = candidates(on_a_line(values, [0.0, 1.0, 3.0]), 0, 2, 5, alone=True)
    assert np.isnan(alone["own last value"])
    assert other.own_age.isnan().all()
    assert alone["nearest, level"] == got["nearest, level"]


def test_what_is_not_known_is_not_used():
    reports = on_a_line(np.arange(24.0).reshape(8, 3), [0.0, 1.0, 3.0])
    early, _ = candidates(reports, 0, 4, 2, cycle=3)
    later = np.float32(5) * (reports.step > 4)[:, None]
    changed, _ = candidates(replace(reports, values=reports.values + later), 0, 4, 2, cycle=3)
    assert early == pytest.approx(changed, nan_ok=True)
    withheld, _ = candidates(reports, 0, 4, 2, cycle=3, known=[-1, 4, 4])
    assert all(np.isnan(withheld[name]) for name in CANDIDATES[:5])
    silent, more = candidates(reports, 0, 4, 2, cycle=3, known=[-1, -1, -1])
    assert silent["climatology"] == 7
    assert sum(not np.isnan(value) for value in silent.values()) == 1
    assert more.nearest.isinf().all()


@pytest.mark.parametrize("cut", [11, 6])
def test_a_sensor_that_a_fit_silences_tells_no_more_than_a_silent_one(cut):
    """What is usual of it is that of the same cycles, here of both that there are."""
    reports = on_a_line(np.arange(28.0).reshape(14, 2) ** 1.5, [0.0, 1.0])
    for lead in (1, 3):
        silenced, _ = candidates(reports, 0, 13, lead, cycle=4, cycles=4, known=[cut, 13])
        silent = reports.where((reports.sensor == 1) | (reports.step <= cut))
        assert silenced == pytest.approx(candidates(silent, 0, 13, lead, cycle=4, cycles=4)[0], rel=1e-4, nan_ok=True)
        neighbour, _ = candidates(reports, 1, 13, lead, cycle=4, cycles=4, known=[cut, 13])
        wanted, _ = candidates(silent, 1, 13, lead, cycle=4, cycles=4)
        assert neighbour == pytest.approx(wanted, rel=1e-4, nan_ok=True)


def test_in_training_some_places_have_unknown_covariates():
    reports = lasting_and_passing()
    altitude = np.linspace(1, 2, 12, dtype=np.float32)[reports.sensor, None]
    reports = replace(reports, covariates=altitude, columns=replace(reports.columns, covariates=("altitude",)))
    scaling = Scaling.of(reports)
    windows = Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6)
    origin, generator = torch.arange(30, 60)[None], torch.Generator().manual_seed(0)
    noise, cut = (torch.zeros(12, 2), torch.zeros(12, 1)), torch.full((1, 12), 40)
    cut[0, :6] = -1
    asked, *_ = windows.asked(origin, cut, 50, noise, generator)
    unknown, own = asked.covariates.isnan()[..., 0], asked.sensor >= 6
    assert not unknown[own].any()
    assert unknown[~own].float().mean().item() == pytest.approx(UNKNOWN, abs=0.04)
    judged, *_ = windows.asked(origin, cut, 50, None, generator)
    assert not judged.covariates.isnan().any()


def test_a_silent_sensor_follows_its_neighbours():
    """By as much as those near it have changed since it last reported, and had reported then too."""
    values = [[1.0, 10.0, 4.0, np.nan], [2.0, 20.0, 5.0, np.nan], [np.nan, 30.0, 6.0, 7.0]]
    got, _ = candidates(on_a_line(values, [0.0, 1.0, 3.0, 0.5]), 0, 2, 5)
    assert got[FOLLOWING] == pytest.approx(2.0 + (0.9 * 10.0 + 0.1 * 1.0), abs=1e-2)
    assert candidates(on_a_line(values, [0.0, 1.0, 3.0, 0.5]), 1, 2, 5)[0][FOLLOWING] == 30.0, "it has just reported"
    quiet = [[1.0, 10.0], [2.0, np.nan], [np.nan, np.nan]]
    assert candidates(on_a_line(quiet, [0.0, 1.0]), 0, 2, 5)[0][FOLLOWING] == 2.0, "no neighbour has reported since"


def test_the_same_hour_of_the_days_before():
    day = np.array([0.0, 5.0, 9.0, 4.0])
    values = np.stack([np.concatenate([day, day + 1, day + 3, day[:2] + 3]), np.full(14, 2.0)], 1)
    got, _ = candidates(on_a_line(values, [0.0, 1.0]), 0, 13, 1, cycle=4)
    # Step 14 is hour 2; the days before had 12, 10 and 9 there, of which two count, and 8 and 6 at hour 1.
    assert got["own, a cycle before"] == 12
    assert got["own usual value"] == pytest.approx(11)
    assert got["own last and usual change"] == pytest.approx(8 + 11 - 7)
    assert got["nearest, a cycle before"] == pytest.approx(2)
    later, _ = candidates(on_a_line(values, [0.0, 1.0]), 0, 13, 5, cycle=4)
    assert later["own, a cycle before"] == 12, "the last day that is known"


def test_kriging_is_exact_at_a_value_and_level_far_away():
    away, there = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]).double(), torch.tensor([True, True, False])
    weight, variance = kriging(away, there, 1.0, 0.0)
    torch.testing.assert_close(weight, torch.tensor([1.0, 0, 0]).double(), atol=1e-3, rtol=0)
    assert variance < 0.01
    weight, variance = kriging(away + 1000, there, 1.0, 0.1)
    torch.testing.assert_close(weight, torch.tensor([0.5, 0.5, 0]).double(), atol=1e-3, rtol=0)
    # Two values whose correlation is e^-1 say little: their mean varies by (1 + 0.1 + e^-1) / 2.
    assert variance.item() == pytest.approx(1.1 + (1.1 + np.exp(-1)) / 2, abs=0.01)
    assert kriging(away, torch.zeros(3, dtype=torch.bool), 1.0, 0.1)[0].eq(0).all()


@pytest.mark.parametrize(("smooth", "nu"), [(False, 0.5), (True, 1.5)])
def test_kriging_has_the_covariance_of_scikit_learn(smooth, nu):
    away, there = torch.randn(6, 2, generator=torch.manual_seed(0)).double(), torch.ones(6, dtype=torch.bool)
    covariance = Matern(0.7, nu=nu)(np.vstack([away, np.zeros(2)]))
    weight, variance = kriging(away, there, 0.7, 0.1, smooth)
    # The system of ordinary kriging, whose last unknown is the multiplier.
    system = np.block([[covariance[:6, :6] + (0.1 + JITTER) * np.eye(6), np.ones((6, 1))], [np.ones((1, 6)), 0]])
    solved = np.linalg.solve(system, [*covariance[:6, 6], 1])
    np.testing.assert_allclose(weight, solved[:6], rtol=1e-7)
    assert variance.item() == pytest.approx(1.1 - solved @ [*covariance[:6, 6], 1])


@pytest.mark.parametrize(("nu", "smooth"), [(0.5, False), (2.5, True)])
def test_the_covariance_is_smooth_for_what_is_smooth(nu, smooth):
    places = np.random.default_rng(0).random((20, 2))
    covariance = Matern(0.3, nu=nu)(places) + 1e-9 * np.eye(20)
    fields = np.random.default_rng(1).multivariate_normal(np.zeros(20), covariance, 60).astype(np.float32)
    step, sensor = np.repeat(np.arange(60), 20), np.tile(np.arange(20), 60)
    columns = Columns("time", ("x", "y"), ("v",), step="1h")
    reports = Reports(
        columns, np.datetime64("2020-01-01"), 60, tuple(map(str, range(20))), step, sensor, places[sensor],
        fields.reshape(-1, 1), np.zeros((len(step), 0), np.float32),
    )  # fmt: skip
    scaling = Scaling.of(reports)
    assert tuned(Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6)).smooth == (smooth,)
    half = plane(torch.tensor([0.5, 0.5]), torch.tensor([[1.0], [3.0]]), 1e9)
    torch.testing.assert_close(half, torch.tensor([1.5, -0.5]), atol=1e-4, rtol=0)


def test_a_climatology_is_compared_with_days_that_it_does_not_hold():
    values = np.repeat([[1.0], [2.0], [3.0], [10.0]], 2, 0)
    reports = on_a_line(values, [0.0])
    history = History.of(reports, one(Scaling.of(reports)), None, 0)
    whole, before = climatology(history.rows, torch.zeros(8, dtype=torch.long), 1, 2, 0)
    assert whole.item() == 4
    assert before.flatten().tolist() == [5, 1, 1.5, 2], "the mean of those before, in the first chunk of all others"


def test_a_table_is_linear_between_knots_and_level_beyond():
    table = torch.arange(6.0).view(2, 1, 3)
    own, leads = torch.tensor([[False], [True], [True]]), torch.tensor([0.0, 3.0, 99.0])
    got = at_knots(table, (0, 1, 7), own.long(), leads, torch.tensor([0]))
    torch.testing.assert_close(got.flatten(), torch.tensor([0.0, 4.5, 5.0]))


def test_no_place_is_surer_than_a_sensor_that_has_just_reported():
    far = torch.tensor([-9.0, 0.0])  # a place beside a sensor, and one far from all
    none = torch.zeros(2, 1)
    cases = Cases(torch.ones(2, 1, len(CANDIDATES)), none > 0, none > 0, none, far[:, None], torch.full((2,), 3.0))
    knots, tables = (0, 3), {name: torch.zeros(1) for name in ("staleness", "silence")}
    tables |= {"logits": torch.zeros(3, 1, 2, len(CANDIDATES))}
    tables |= {"spread": torch.tensor([[[0.0, 0.5]], [[-3.0, -0.5]], [[0.0, 0.0]]]), "spread_stale": torch.ones(1)}
    tables |= {"spread_doubt": torch.ones(1)}
    _, spread = mixture(cases, torch.tensor([0]), knots, **tables)
    _, own = mixture(cases._replace(own=torch.ones(2, 1).bool()), torch.tensor([0]), knots, **tables)
    torch.testing.assert_close(own.flatten(), torch.tensor([-0.5, -0.5]).exp() + LEAST_SPREAD)
    torch.testing.assert_close(spread.flatten(), torch.tensor([-0.5, 0.5]).exp() + LEAST_SPREAD)


def test_the_crps_of_a_normal_distribution():
    error, spread = torch.linspace(-3, 3, 7).double(), torch.full((7,), 0.7).double()
    points = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    step = 24 / 200_000
    expected = [((torch.special.ndtr(points / 0.7) - (points >= each).double()) ** 2).sum() * step for each in error]
    torch.testing.assert_close(crps_of(error, spread), torch.stack(expected), atol=1e-4, rtol=0)


def test_the_knots_of_a_horizon_below_a_quarter_of_a_day_are_whole_steps():
    hours = np.random.default_rng(0).normal(size=(100, 2))
    reports = on_a_line(hours, [0.0, 1.0])
    guess = first_guess(reports, Scaling.of(reports), context=12, horizon=3)
    assert guess.knots == (0, 1, 2, 3)
    assert all(type(knot) is int for knot in guess.knots), "a forecaster of floats cannot be read again"


@pytest.mark.parametrize(("days", "kept"), [(5, 3), (8, 8), (11, 8), (30, 8)])
def test_a_forecast_has_the_reports_of_each_candidate_of_the_fit(days, kept):
    hours = np.random.default_rng(0).normal(size=(24 * days, 2))
    reports = on_a_line(hours, [0.0, 1.0])
    guess = first_guess(reports, Scaling.of(reports), context=12, horizon=3)
    assert guess.steps_kept(12) == 24 * kept


def test_values_are_alike_after_a_day_a_week_or_a_year():
    columns = on_a_line(np.zeros((2, 1)), [0.0]).columns
    found = {
        step: steps_a_cycle(replace(columns, step=step)) for step in ("5min", "1h", "7h", "1D", "7D", "28D", "400D")
    }
    assert found == {"5min": 288, "1h": 24, "7h": None, "1D": 7, "7D": 52, "28D": 13, "400D": None}
    noise = np.random.default_rng(0).normal(size=(104, 6))
    months = on_a_line(8 * np.sin(np.arange(104) / 13 * 2 * np.pi)[:, None] + noise, [*range(6)])
    months = replace(months, columns=replace(columns, step="28D"))
    guess = first_guess(months, scaling := Scaling.of(months), context=24, horizon=12)
    assert (guess.cycle, guess.cycles) == (13, 4)
    guess = tuned(Windows(months, scaling, guess, 25, 12))
    cases, truth, *_ = sample(Windows(months, scaling, guess, 25, 12), guess, 8)
    mean, _ = guess.mixed(cases, values_of_channels(scaling))
    off = (mean - truth).abs().mean() * scaling.spread[0]
    assert off < 1.2, "the noise alone is 0.8, and the mean of all months is off by 5"


def test_a_mixture_starts_from_inverse_errors_and_is_held_there_where_the_past_disagrees():
    number, candidates = 160, len(CANDIDATES)
    moment = torch.arange(number)
    values = torch.full((number, 1, candidates), torch.nan)
    values[:, 0, 0], values[:, 0, 1], values[:, 0, 7] = 1.0, -2.0, 1.2  # the truth is 0
    values[::100, 0, 3] = 0.0  # in too few cases to count
    none = torch.zeros(number, 1)
    kinds = none == 0, none > 0, none, none
    cases, truth, value_of = Cases(values, *kinds, torch.ones(number)), torch.zeros(number, 1), torch.tensor([0])
    found = prior(cases, truth, moment, value_of, (0, 1))
    weights = (found.logits[1, 0, 1] - found.logits[1, 0, 1, 0]).exp()
    assert weights[[1, 7, 3]].tolist() == pytest.approx([2**-POWER, 1.2**-POWER, 2**-POWER])
    torch.testing.assert_close(found.logits[1, 0, 0], found.logits[1, 0, 1])  # without a case, as all lead times
    assert found.ridge[1].abs().max() < 1e-9, "every part of the past says the same"
    values[:80, 0, 7], values[80:, 0, 7] = 2.0, 0.4
    halves = prior(cases, truth, moment, value_of, (0, 1))
    # Eight parts differ from the mean by 0.8: a standard error of 0.8 / sqrt(7).
    assert halves.ridge[1, 0].tolist() == pytest.approx([0.8**2 / 7] * 2, rel=1e-3)


def lasting_and_passing(steps=120):
    """Two values at twelve stations: one lasts at each station, the other is the same everywhere and wanders."""
    generator = np.random.default_rng(0)
    step, sensor = (part.ravel() for part in np.indices((steps, 12)))
    lasting, passing = 5 * generator.normal(size=12), generator.normal(size=steps).cumsum()
    columns = Columns("time", ("x", "y"), ("lasting", "passing"), "station")
    reports = Reports(
        columns, np.datetime64("2014-01-01T00", "ns"), steps, tuple("abcdefghijkl"), step, sensor,
        generator.uniform(0, 1, (12, 2))[sensor], np.stack([lasting[sensor], passing[step]], 1).astype(np.float32),
        np.zeros((len(step), 0), np.float32),
    )  # fmt: skip
    return reports.where(generator.random(len(step)) < 0.3)


@pytest.fixture(scope="module")
def fitted():
    reports = lasting_and_passing()
    scaling = Scaling.of(reports)
    return Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6), scaling


def test_the_mixture_finds_what_lasts_and_what_passes(fitted):
    windows, scaling = fitted
    guess = tuned(windows)
    assert guess.ageing[1] == max(AGEING) * scaling.extent, "the latest reports are the best, wherever they come from"
    weights = guess.tables["logits"].softmax(-1)
    own, following = CANDIDATES.index("own last value"), CANDIDATES.index(FOLLOWING)  # neighbours do not change either
    alike = weights[1, 0, :, [*range(len(OWN)), following]].sum(-1)
    assert alike.min() > 0.99, "a station's own values of any day are the best guess of what lasts"
    assert weights[1, 1, 1, own] < 0.5
    cases, truth, *_ = sample(windows, guess, 16, alone=0.5)
    error = (guess.mixed(cases, torch.arange(2))[0] - truth).abs()
    candidates = (cases.values - truth[..., None]).abs()
    mine = cases.own.all(-1) & (cases.leads > 0)
    assert error[mine, 0].nanmean() < 1e-3, "and so is their mixture"
    for group in (mine, ~cases.own[:, 1]):
        assert error[group, 1].nanmean() < 1.01 * candidates[group, 1].nanmean(0).nan_to_num(torch.inf).min()
    assert guess.tables["spread"].isfinite().all()
    assert not guess.tables["share"].any()
    short = lasting_and_passing(70)  # less than three days, so that the last value is the only own one
    alone = tuned(Windows(short, scaling, first_guess(short, scaling, 12, 6), 13, 6))
    assert alone.tables["logits"].softmax(-1)[1, 0, 1:, [own, following]].sum(-1).min() > 0.99


def test_a_silent_sensor_is_filled_from_its_last_value_the_less_the_longer_it_is_silent(fitted):
    windows, _ = fitted
    guess = tuned(windows)
    cases, truth, *_ = silent(windows, guess, 16)
    assert cases.own.float().mean() > 0.9, "of all sensors but those that have not reported yet"
    assert cases.stale[cases.own].min() == pytest.approx(np.log(2))
    assert not cases.leads.any()
    assert guess.silence[1] > 1 > guess.silence[0], "what passes grows old, what lasts does not"
    error = (guess.mixed(cases, torch.arange(2))[0] - truth).abs().nanmean(0)
    candidates = (cases.values - truth[..., None]).abs().nanmean(0).nan_to_num(torch.inf)
    assert error[1] < candidates[1].min()


def test_silence_counts_at_the_origin_and_staleness_ahead(fitted):
    windows, _ = fitted
    guess = tuned(windows)
    cases = silent(windows, guess, 16).cases
    tripled = {name: tuple(3 * slope for slope in getattr(guess, name)) for name in ("silence", "staleness")}
    for leads, name in ((0, "silence"), (3, "staleness")):
        then = cases._replace(leads=torch.full_like(cases.leads, leads))
        ours, *others = (replace(guess, **some).mixed(then, torch.arange(2))[0] for some in (
            {}, {name: tripled[name]}, {other: part for other, part in tripled.items() if other != name}
        ))  # fmt: skip
        assert (ours - others[0]).abs().max() > 1e-3
        torch.testing.assert_close(ours, others[1])


def test_only_a_correction_that_helps_is_kept(fitted):
    windows, scaling = fitted
    guess = tuned(windows)
    reports = lasting_and_passing()
    hidden = torch.from_numpy(hidden_sensors(reports, 0.2, 0))
    assert hidden.sum() == 2
    later = Windows(reports, scaling, guess, 13, 6, since=80, hidden=hidden, at_random=False)
    torch.manual_seed(0)
    model = build_model(Fit(num_modules=2, hidden_size=4), scaling, reports, 12)
    with torch.no_grad():
        model.decoder.layers.rest[-1].bias += 9.0  # far off in all places
    kept = gated(guess, model, later, 8)
    assert not torch.tensor(kept.share).any()
    features = later[list(range(4)), 0].context
    assert features.shape[-1] == context_size(scaling)
    assert features.isfinite().all()

    truthful = build_model(Fit(num_modules=2, hidden_size=4), scaling, reports, 12)
    biased = replace(guess, climate=((2.0, 2.0),) * len(guess.climate), logits=_only("climatology", guess))
    off = Windows(reports, scaling, biased, 13, 6, since=80, hidden=hidden, at_random=False)
    with torch.no_grad():
        truthful.decoder.layers.rest[-1].weight.zero_()
        truthful.decoder.layers.rest[-1].bias.zero_()
        truthful.decoder.layers.rest[-1].bias.view(2, 2)[:, 0] = -2.0
    shares = torch.tensor(gated(biased, truthful, off, 8).share)
    assert shares[:, 0, 1:].min() > 0, "the guess is far too high, and the correction takes that back"


def _only(name, guess):
    """Logits by which one candidate is all."""
    return tuple(
        tuple(tuple(tuple(20.0 * (each == name) for _ in guess.knots) for _ in range(2)) for _ in range(3))
        for each in CANDIDATES
    )


def test_windows_ask_for_what_comes_later_and_show_no_hidden_sensor():
    reports = FieldWorld(num_stations=9, num_movers=0, num_steps=80).reports()
    scaling = Scaling.of(reports)
    guess = tuned(Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6))
    hidden = torch.arange(9) < 2
    windows = Windows(reports, scaling, guess, 13, 6, since=40, hidden=hidden, number=5)
    episode, context, of_hidden = windows.drawn([0, 1, 2, 3], 3)
    again, _, _ = windows.drawn([0, 1, 2, 3], 3)
    torch.testing.assert_close(episode.context, again.context)
    assert (windows.drawn([0, 1, 2, 3], 4)[0].views.mask != episode.views.mask).any()
    assert not episode.targets.mask[:, : windows.first].any()
    asked = episode.targets.mask[:, windows.first :]
    assert (asked & of_hidden).any()
    assert (asked & ~of_hidden).any()
    assert not (context.own & of_hidden[..., None]).any(), "a hidden sensor has no last value"
    places = scaling.coordinates(reports.positions[[np.flatnonzero(reports.sensor == sensor)[0] for sensor in (0, 1)]])
    shown = episode.views.positions[episode.views.mask]
    assert torch.cdist(shown, places).min() > 1e-4
    assert set(context.leads.unique().tolist()) == set(map(float, range(7)))
    with pytest.raises(ValueError, match="expected at least 13 steps of reports, got 12"):
        Windows(reports.between(0, 12), scaling, guess, 13, 6)


def test_targets_are_what_the_guess_is_off_and_no_feature_but_the_guess_tells_the_level():
    reports = lasting_and_passing()
    scaling = Scaling.of(reports)
    guess = tuned(Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6))
    episode, context, _ = Windows(reports, scaling, guess, 13, 6).drawn([0, 1], 3)
    first = 13 // 4
    asked = episode.targets.mask[:, first:]
    off = context.guess + context.spread * episode.targets.values[:, first:, :, :2]
    truth = scaling.channels(reports.values).flatten()
    assert (off[asked].flatten()[:, None] - truth).abs().amin(-1).max() < 1e-5, "each is a value of the table"
    lasting = replace(guess, logits=_only("own last value", guess))
    levels = [((level,) * 2,) * len(guess.climate) for level in (0.0, 5.0)]
    one, other = (
        Windows(reports, scaling, replace(lasting, climate=level), 13, 6, since=60).drawn([0, 1], 3)[1]
        for level in levels
    )
    own = one.own.all(-1)  # where there is no own value, other candidates are the guess
    torch.testing.assert_close(one.features[own], other.features[own])


def test_noise_moves_each_sensor_and_shifts_all_values_of_a_window_alike():
    reports = FieldWorld(num_stations=7, num_movers=0, num_steps=60).reports()
    scaling = Scaling.of(reports)
    guess = tuned(Windows(reports, scaling, first_guess(reports, scaling, 12, 6), 13, 6))
    key = ([0, 1, 2], 5)
    plain, noisy = (Windows(reports, scaling, guess, 13, 6, noise=noise).drawn(*key)[0] for noise in (1e-9, 0.05))
    mask = plain.views.mask
    assert torch.equal(mask, noisy.views.mask)
    off = (noisy.views.positions - plain.views.positions)[mask]
    assert 0.02 < off.std() < 0.1
    assert len(off.mul(1e4).round().unique(dim=0)) <= 7 + 7, "one displacement a sensor"
    quiet = Windows(reports, scaling, guess, 13, 6)
    torch.manual_seed(0)
    level = Windows(reports, scaling, guess, 13, 6, noise=1e-9)._level(500, torch.Generator().manual_seed(0))
    assert level[:, 0].std() == pytest.approx(1, abs=0.1)
    assert not level[:, 1:].any(), "no direction is shifted"
    assert not quiet._level(5, torch.Generator()).any()


def test_of_a_table_that_is_too_large_the_last_steps_are_taken(monkeypatch):
    reports = lasting_and_passing()
    assert last_of(reports, 18) is reports
    monkeypatch.setattr("s2rm.sensors.fitting.MOST_CELLS", 100 * 12 * 2)
    with pytest.warns(UserWarning, match="120 steps of 12 sensors are more than a fit can hold; the last 100 steps"):
        few = last_of(reports, 18)
    assert few.num_steps == 100
    assert few.times[-1] == reports.times[-1]


def test_few_sensors_or_a_value_of_few_are_not_hidden():
    reports = lasting_and_passing()
    assert hidden_sensors(reports, 0.15, 0).sum() == 2
    assert not hidden_sensors(reports.of(np.arange(12) < 4), 0.15, 0).any()
    chosen = np.flatnonzero(hidden_sensors(reports, 0.15, 0))
    values = reports.values.copy()
    values[~np.isin(reports.sensor, chosen), 1] = np.nan
    assert not hidden_sensors(replace(reports, values=values), 0.15, 0).any()
