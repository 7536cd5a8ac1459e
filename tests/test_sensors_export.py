"""A forecaster leaves Python as one ONNX file, first guess, scaling and units included."""

import re
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from browsing import Page, need_runtime, serving
from conftest import unchecked_shapes
from s2rm.cli.explorer import of_forecasters
from s2rm.explorer import write_explorer
from s2rm.sensors import FieldWorld, Fit, Forecaster, Places
from s2rm.sensors.export import ForecastStep, clock
from s2rm.sensors.first_guess import dynamics
from s2rm.sensors.first_guess.state_space import Shrinkage
from s2rm.sensors.scaling import clock as clock_of_times
from s2rm.training import Training

# What the tools of PyTorch themselves warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
WORLD = FieldWorld(num_stations=7, num_movers=2, num_steps=90, dropout=0.3)
LEADS = [1, 2, 5]


def trusted(forecaster):
    """After an epoch no model is trusted; here it is."""
    trust = {name: tuple(tuple((0.7,) * len(row) for row in part) for part in getattr(forecaster.guess, name))
             for name in ("share", "spread_share")}  # fmt: skip
    return replace(forecaster, guess=replace(forecaster.guess, **trust))


def fitted(folder, sites):
    """A forecaster with linear dynamics of at most so many stations together, of order 2 and 1 in turn."""
    orders = cycle([2, 1])
    how = Fit(num_modules=3, hidden_size=4, context="5h", horizon="5h", training=Training(updates=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "MOST_SITES", sites)
        patch.setattr(dynamics, "chosen", lambda values, alike: Shrinkage(0.1, 0.3, next(orders)))
        return trusted(Forecaster.fit(replace(WORLD, num_steps=220).reports(), folder, how, progress=False))


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("fit"), 4)


@pytest.fixture(scope="module")
def exported(forecaster, tmp_path_factory):
    """The ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "step.onnx"
    with unchecked_shapes():
        ForecastStep(forecaster).save_onnx(path)
    return path


@pytest.fixture(scope="module")
def session(exported):
    return onnxruntime.InferenceSession(exported)


@pytest.fixture(scope="module")
def address(forecaster, exported, tmp_path_factory):
    """Of the page of these sensors."""
    need_runtime()
    folder, world = tmp_path_factory.mktemp("page"), of_forecasters("a field", WORLD.reports(), {"ours": forecaster})
    with pytest.MonkeyPatch.context() as patch:  # one export is enough
        patch.setattr(ForecastStep, "save_onnx", lambda step, path: path.write_bytes(exported.read_bytes()))
        write_explorer(folder, [world])
    with serving(folder) as served:
        yield served


class Eager:
    """What a session of the runtime is to `streamed`, in PyTorch."""

    def __init__(self, forecaster):
        self.step = ForecastStep(forecaster)

    def get_inputs(self):
        return [SimpleNamespace(name=name) for name in self.step.inputs]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in self.step.outputs]

    @torch.no_grad()
    def run(self, _, feed):
        return [part.numpy() for part in self.step(*(torch.from_numpy(feed[name]) for name in self.step.inputs))]


def given(reports, step, places, own):
    """The inputs of one step, a slot for each sensor."""
    count, rows = len(reports.sensors), reports.step == step
    positions, values = np.zeros((1, count, 2)), np.full((1, count, 2), np.nan, np.float32)
    positions[0, reports.sensor[rows]], values[0, reports.sensor[rows]] = reports.positions[rows], reports.values[rows]
    mask = np.zeros((1, count), dtype=bool)
    mask[0, reports.sensor[rows]] = True
    known = np.full((1, count, reports.covariates.shape[1]), np.nan, np.float32)
    again = np.isin(reports.sensor[rows], reports.sensor[reports.step < step])
    known[0, reports.sensor[rows]] = np.where(again[:, None], np.nan, reports.covariates[rows])  # they need it once
    seconds = reports.times[step].astype("datetime64[s]").astype(np.int64)
    return {
        "positions": positions, "values": values, "mask": mask, "covariates": known,
        "queries": places.positions[None], "query_covariates": places.covariates[None], "query_sensors": own[None],
        "leads": np.array(LEADS), "time": np.array(seconds),
    }  # fmt: skip


def streamed(forecaster, session, reports, steps, present=None):
    """The largest differences, over some steps, of what the file says from what the forecaster does, relative to 1 and
    to each number; directions by their difference."""
    from s2rm.models.modules import masked

    names = [each.name for each in session.get_outputs()]
    stations = np.random.default_rng(0).random((5, 2)) * 100
    heights = np.array([[np.nan], [2.0], [-1.0], [0.5], [7.0]], np.float32)
    own = np.array([-1, -1, -1, 0, 4])
    wanted = [each.name for each in session.get_inputs() if each.name.startswith("state")]
    step = ForecastStep(forecaster)
    assert [each.name for each in session.get_inputs()] == step.inputs
    assert names == step.outputs
    state = [part.numpy() for part in step.initial_state(1, len(reports.sensors))]
    stream, worst = None, 0.0
    for now in range(steps):
        number = 1 + now % 5
        places = Places(stations[:number], heights[:number, : reports.covariates.shape[1]])
        modules = np.ones(step.num_modules, dtype=bool) if present is None else present
        feed = given(reports, now, places, own[:number]) | ({"modules": modules} if step.num_modules else {})
        out = dict(zip(names, session.run(None, feed | dict(zip(wanted, state, strict=True))), strict=True))
        state = [out[f"next_{index}"] for index in range(len(state))]
        with masked(forecaster.model, torch.from_numpy(modules)):
            stream = forecaster.step(stream, reports.between(now, now + 1))
            named = [name if name >= 0 else None for name in own[:number]]
            expected = ahead(forecaster, stream, places, reports, named)
        for name, theirs in zip(("predicted_mean", "predicted_stddev"), expected, strict=True):
            off = out[name][0].astype(np.float64) - theirs
            off[..., 1] = (off[..., 1] + 180) % 360 - 180
            worst = max(worst, float((np.abs(off) / (1 + np.abs(theirs))).max()))
    return worst


def ahead(forecaster, stream, places, reports, named):
    """As `Forecaster.forecast_from`, at some lead times, of places that may be those of sensors."""
    recent = stream.recent
    index = [recent.sensors.index(reports.sensors[own]) if own is not None and reports.sensors[own] in recent.sensors
             else -1 for own in named]  # fmt: skip
    channels = forecaster._ahead(stream.model, recent, places, LEADS, np.array(index, np.int64))
    mean, stddev = forecaster.scaling.units(*channels)
    return mean[0], stddev[0]


def test_the_file_forecasts_as_the_forecaster_does(forecaster, session):
    assert streamed(forecaster, session, WORLD.reports(), 40) < 1e-5


@pytest.mark.parametrize("groups", [1, 2])
def test_linear_dynamics_are_in_the_file(groups, forecaster, tmp_path):
    """Of two groups in the file; of one, since a file takes long to write, as PyTorch computes the same operations."""
    made, places = (forecaster, 6) if groups == 2 else (fitted(tmp_path / "fit", 64), 7)
    (kept,) = made.guess.dynamics
    assert len(kept.places) == places, "the two that move have none"
    assert len(kept.noise) == groups * made.scaling.num_channels
    assert {len(start) * groups // places for start in kept.start} == {1, 2}
    if groups == 1:
        assert streamed(made, Eager(made), WORLD.reports(), 40) < 1e-5


def test_without_observations_and_with_one_module_left(forecaster, session):
    reports = WORLD.reports()
    silent = reports.where((reports.step < 3) | (reports.step > 6))
    assert streamed(forecaster, session, silent, 10, np.array([False, True, False])) < 1e-5


def test_one_lead_time(forecaster, session, monkeypatch):
    monkeypatch.setitem(globals(), "LEADS", [3])
    assert streamed(forecaster, session, WORLD.reports(), 4) < 1e-5


def test_more_sensors_than_in_the_fit(forecaster, session):
    assert streamed(forecaster, session, FieldWorld(num_stations=17, num_movers=2, num_steps=90).reports(), 10) < 1e-5


def words(page):
    """Mean and band of the forecast that the page states."""
    numbers = re.search(
        r"ahead: (-?[\d.]+), with 90 % from (-?[\d.]+) to (-?\d+\.\d+)", page.one("#forecast-words").text
    )
    return [float(number) for number in numbers.groups()]


@pytest.mark.parametrize("model", ["lstm", "msa"])
def test_baselines_on_a_globe_with_covariates(model, tmp_path):
    """Written by the same operations as the file above; here as PyTorch computes them."""
    reports = WORLD.reports()
    heights = np.random.default_rng(0).normal(size=(len(reports.sensors), 1)).astype(np.float32)
    heights[3] = np.nan
    columns = replace(reports.columns, position=("lon", "lat"), globe=True, covariates=("height",))
    reports = replace(
        reports, columns=columns, positions=reports.positions * [0.1, 0.05], covariates=heights[reports.sensor]
    )
    how = Fit(model, hidden_size=4, context="5h", horizon="5h", training=Training(epochs=1))
    fitted = trusted(Forecaster.fit(reports, tmp_path, how, progress=False))
    assert streamed(fitted, Eager(fitted), reports, 12) < 1e-5


def free_place(page):
    """A place on the map as far from all stations as can be, as shares of its width and height."""
    columns, rows = map(float, page.one(".arena svg").get_dom_attribute("viewBox").split()[2:])
    circles = page.all(".mark circle")
    x, y = (np.array([float(circle.get_attribute(name)) for circle in circles]) for name in ("cx", "cy"))
    right, down = (part.flatten() for part in np.meshgrid(np.linspace(0.1, 0.9, 9), np.linspace(0.1, 0.9, 9)))
    far = np.hypot(right[:, None] * columns - x, down[:, None] * rows - y).min(1).argmax()
    return right[far], down[far]


def test_a_click_forecasts_in_units_and_stations_fall_silent_or_move(browser, forecaster, address):
    page, reports = Page(browser, address), WORLD.reports()
    assert not page.shown("problem"), page.one("#problem").text
    for _ in range(3):
        page.step()
    mark = page.all(".mark")[2]
    mark.send_keys(Keys.ENTER)  # silent, and its forecast is shown
    page.until(lambda: "silent" in page.all(".mark")[2].get_attribute("aria-label"))
    page.until(lambda: "station 2" in page.one("#series-title").text)
    stream = None
    for now in range(4):
        seen = reports.between(now, now + 1)
        hidden = seen.sensor != reports.sensors.index("station 2") if now == 3 else np.ones(len(seen), dtype=bool)
        stream = forecaster.step(stream, seen.where(hidden))
    place = reports.positions[reports.sensor == reports.sensors.index("station 2")][:1]
    expected = ahead(forecaster, stream, Places(place, np.zeros((1, 0), np.float32)), reports, [2])

    def agrees():
        mean, low, high = words(page)
        ours, spread = (float(part[0, 0, 0]) for part in expected)
        wanted = [ours, ours - 1.6449 * spread, ours + 1.6449 * spread]
        return np.abs(np.array([mean, low, high]) - wanted).max() < 2e-3

    page.until(agrees)
    before = page.all(".mark")[0].find_element("css selector", "circle").get_attribute("cx")
    page.all(".mark")[0].send_keys(Keys.ARROW_RIGHT)
    page.until(lambda: page.all(".mark")[0].find_element("css selector", "circle").get_attribute("cx") != before)
    right, down = free_place(page)
    box = page.one(".arena svg").rect
    ActionChains(browser).move_to_element_with_offset(
        page.one(".arena svg"), round((right - 0.5) * box["width"]), round((down - 0.5) * box["height"])
    ).click().perform()
    page.until(lambda: "(" in page.one("#series-title").text)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_the_clock_is_that_of_the_scaling():
    times = np.arange("1995-01-01", "2009-03-01", 86_461, dtype="datetime64[s]")
    expected = clock_of_times(times)
    torch.testing.assert_close(clock(torch.from_numpy(times.astype(np.int64)), True), expected, rtol=0, atol=1e-6)
    assert not clock(torch.tensor([0]), False)[:, 2:].any()
