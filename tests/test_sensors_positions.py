"""Positions turn what a forecaster makes of observations: planar ones, and those on the globe."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from s2rm.sensors import Columns, FieldWorld, Fit, Forecaster, Places, Reports, stations
from s2rm.sensors.first_guess.tuning import first_guess, tuned
from s2rm.sensors.first_guess.windows import Windows
from s2rm.sensors.fitting import build_model
from s2rm.sensors.scaling import Scaling
from s2rm.training import Training

PLANAR = FieldWorld(num_stations=7, num_movers=2, num_steps=90).reports()
SHIFT = np.array([256.0, -64.0])


def on_the_globe(reports: Reports) -> Reports:
    """The same reports around the date line."""
    degrees = Columns("time", ("lon", "lat"), reports.columns.values, "station")
    across = reports.positions / reports.positions.max()
    return replace(reports, columns=degrees, positions=(5 * across + [178.0, 30.0] + 180) % 360 - 180)


@pytest.fixture(scope="module", params=[PLANAR, on_the_globe(PLANAR)], ids=["planar", "globe"])
def given(request) -> tuple[Reports, Windows]:
    scaling = Scaling.of(request.param)
    windows = Windows(request.param, scaling, first_guess(request.param, scaling, 6, 5), 7, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s2rm.sensors.first_guess.tuning.CASES", 900)
        windows.guess = tuned(windows)
    return request.param, windows


def test_in_training_a_sensor_with_its_own_values_is_asked_for_where_it_last_was(given):
    _, windows = given
    rows, origin = windows.history.rows, torch.arange(40, 46)[None]
    for cut, alone in ((90, 0.0), (30, 0.0), (-1, 0.0), (90, 1.0)):
        silent = torch.full((1, windows.history.num_sensors), cut)
        asked, row, wanted, place = windows.asked(origin, silent, 300, None, torch.Generator(), alone=alone)
        assert wanted.any()
        torch.testing.assert_close(asked.positions, rows.positions[place])
        assert (rows.sensor[place] == asked.sensor).all()
        if cut < 0 or alone:
            assert (place == row)[wanted].all(), "where the observation was"
        else:
            until = torch.minimum(origin, torch.tensor(cut))[..., None]
            assert (rows.step[place] <= until)[wanted].all()
            assert (place != row)[wanted].any()


@pytest.mark.parametrize("name", ["s2gru", "lstm", "rims", "msa"])
def test_every_model_of_a_forecaster_learns_how_positions_turn(given, name):
    reports, windows = given
    torch.manual_seed(0)
    model = build_model(Fit(name), windows.scaling, reports, 6)
    assert not model.inject_positions
    assert model.space.rotation == windows.scaling.extent / 2
    torch.testing.assert_close(model.rotation.middle, torch.tensor(windows.scaling.middle))
    model.loss(windows[[0, 1, 2], 0]).backward()
    gradient = model.rotation.frequencies.grad
    assert gradient.isfinite().all()
    assert (gradient.abs().sum(0) > 0).all(), "along each coordinate"


def test_a_shift_of_all_positions_shifts_the_forecast(tmp_path, monkeypatch):
    monkeypatch.setattr("s2rm.sensors.first_guess.tuning.CASES", 900)
    how = Fit(num_modules=3, hidden_size=4, context=6, horizon=5, training=Training(epochs=1))
    found = []
    for number, shift in enumerate((0 * SHIFT, SHIFT)):
        reports = replace(PLANAR, positions=PLANAR.positions + shift)
        fitted = Forecaster.fit(reports, tmp_path / str(number), how, progress=False)
        trusted = {name: tuple(tuple((0.7,) * len(row) for row in part) for part in getattr(fitted.guess, name))
                   for name in ("share", "spread_share")}  # fmt: skip
        fitted = replace(fitted, guess=replace(fitted.guess, **trusted))
        known = stations(PLANAR)
        elsewhere = Places(np.array([[0.3, 0.4]]) + shift, np.zeros((1, known.covariates.shape[1]), np.float32))
        there = known._replace(positions=known.positions + shift)
        found.append([part for places in (there, elsewhere) for part in fitted.forecast(reports, places)])
    for here, moved in zip(*found, strict=True):
        np.testing.assert_allclose(moved, here, rtol=1e-3, atol=1e-4)
