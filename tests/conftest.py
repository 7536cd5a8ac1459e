"""What the tests share: small odd-sized models and views, in float64."""

import shutil
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial

import jaxtyping
import pytest
import torch

from s2rm import GQN, S2RM, Views, WorldModel
from s2rm.sensors.first_guess import mixing, tuning
from s2rm.tasks.balls import world as balls
from s2rm.tasks.battles import skirmish

END_TO_END = {f"test_{name}" for name in (
    "chaos", "cli", "cli_forecasters", "cli_sensors", "distributed", "docs", "docstrings", "experiments", "explorer",
    "pages", "policies", "same_numbers", "sensors_export", "sensors_forecaster", "sensors_safety", "sensors_store",
    "sensors_trust",
)}  # fmt: skip
"""test files in which the shapes of arguments are not checked; those of the functions themselves check them"""
VALUE_SHAPE, COORDINATES = (3, 5), 2
ARGUMENTS = {
    "value_shape": VALUE_SHAPE,
    "num_coordinates": COORDINATES,
    "embedding_dim": 12,
    "shortest": 7.0,
    "longest": 70.0,
    "codec": "mlp",
}


@pytest.fixture(autouse=True, scope="session")
def simulated_once():
    """Worlds of the same settings and seed are simulated once for all tests, but for the tests of the worlds."""
    with pytest.MonkeyPatch.context() as patch:
        for world, name in ((balls, "simulate"), (skirmish, "simulate"), (balls, "trajectories"), (balls, "render")):
            patch.setattr(world, name, lru_cache(32)(getattr(world, name)))
        yield


@contextmanager
def unchecked_shapes():
    """While a model is exported: symbolic shapes are not numbers that jaxtyping can compare."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True, scope="module")
def checked_where_functions_are_tested(request):
    """Checking each call's shapes and types takes a third of the time of tests that run everything from end to end."""
    with unchecked_shapes() if request.module.__name__ in END_TO_END else nullcontext():
        yield


@pytest.fixture(autouse=True, scope="module")
def quick_guesses(request):
    """Where everything runs from end to end in this process, a first guess is fitted to few cases: how well it does is
    tested elsewhere."""
    others = {"test_distributed", "test_same_numbers", "test_sensors_export"}
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ in END_TO_END - others:
            patch.setattr(tuning, "CASES", 3_000)
            patch.setattr(mixing, "UPDATES", 30)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make_s2rm(cell: str = "gru", **changes) -> S2RM:
    return S2RM(**{**ARGUMENTS, "cell": cell, "num_modules": 3, "hidden_size": 11, "truncation": 0.3, **changes})


def make_gqn(core: str = "lstm", **changes) -> GQN:
    """In evaluation, since a batch norm depends on all of a batch in training."""
    return GQN(**{**ARGUMENTS, "core": core, "hidden_size": 12, **changes}).eval()


MODELS = {
    "s2gru": make_s2rm,
    "s2lstm": partial(make_s2rm, "lstm"),
    "s2rmc": partial(make_s2rm, "rmc"),
    "lstm": make_gqn,
    "gru": partial(make_gqn, "gru"),
    "rmc": partial(make_gqn, "rmc"),
    "rims": partial(make_gqn, "rims"),
}


@pytest.fixture(params=MODELS)
def model(request) -> WorldModel:
    return MODELS[request.param]().double()


def some_views(batch: int = 2, steps: int = 5, views: int = 7, *, value_shape=VALUE_SHAPE) -> Views:
    """Views in random places, about a third of them not there, none at all at step 1."""
    positions = 7 * torch.rand(batch, steps, views, COORDINATES, dtype=torch.float64)
    values = torch.rand(batch, steps, views, *value_shape, dtype=torch.float64).round()
    mask = torch.rand(batch, steps, views) < 0.7
    mask[:, 1] = False
    return Views(positions, values, mask)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, where it is installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason='needs pip install ".[test]"')
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("needs chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as opened:
        opened.set_window_size(1200, 1000)
        yield opened
