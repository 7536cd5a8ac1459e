"""The explorer: its folder, and its page in a browser, driven as a person would and compared with PyTorch."""

import gzip
import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch

from browsing import Page, need_runtime, serving
from conftest import make_gqn, make_s2rm, unchecked_shapes
from s2rm.cli import main
from s2rm.explorer import Agents, Crops, Layer, Played, World, runtime, write_explorer
from s2rm.explorer import browser as of_browser
from s2rm.explorer.scenes import bits, text
from s2rm.export import StreamingStep
from s2rm.runs import Run
from s2rm.settings import Settings
from s2rm.tasks.balls.world import preset
from s2rm.tasks.crops import cells, crops
from s2rm.training import MODEL, Training

# What the tools of PyTorch themselves warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SIDE, CROP, SQUARES = 13, 5, 3
GRID = [(row, column) for row in (2, 7, 10) for column in (2, 7, 10)]
"""centres of the fewest crops that cover the arena, as the page has them"""


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(3)
    views = {"value_shape": (CROP, CROP), "extent": [(0, SIDE), (0, SIDE)], "shortest": 13.0}
    ours = make_s2rm(num_modules=4, truncation=0.5, bandwidth=2.0, **views).eval()
    with torch.no_grad():
        for model in (ours, baseline := make_gqn("gru", **views)):
            for weight in model.decoder.parameters():
                weight *= 2  # so that beliefs differ from 0.5
    return {"ours": ours, "baseline": baseline}


@pytest.fixture(scope="module")
def frames():
    return (torch.rand(9, SIDE, SIDE, generator=torch.Generator().manual_seed(5)) < 0.3).to(torch.uint8)


@pytest.fixture(scope="module")
def explorer(models, frames, tmp_path_factory):
    """The folder, with the true runtime, and the page's address."""
    need_runtime()
    folder = tmp_path_factory.mktemp("explorer")
    with unchecked_shapes():
        steps = {label: StreamingStep(model) for label, model in models.items()}
        scene = Crops("squares", [("first", frames), ("second", frames.flip(0))], CROP, SQUARES)
        write_explorer(folder, [World(scene, steps), World(walkers(), {"ours": steps["ours"]})])
    with serving(folder) as address:
        yield SimpleNamespace(folder=folder, address=address)


def walkers():
    """Three agents whose views have as many channels as a crop has rows, of as many pixels as it has columns."""
    generator = torch.Generator().manual_seed(7)
    positions = torch.randint(SIDE, (6, 3, 2), generator=generator).float()
    there = torch.rand(6, 3, generator=generator) < 0.8
    views = (torch.rand(6, 3, CROP, CROP, generator=generator) < 0.4).float()
    layers = [Layer("walkers", (86, 180, 233), "blue", (0, 1)), Layer("walls", (230, 159, 0), "orange", (2,), minus=3)]
    queries = torch.tensor(GRID, dtype=torch.float32)
    # Each cell takes the pixel of its column from the predicted view of the nearest query.
    nearest = [int((queries - cell).norm(dim=-1).argmin()) for cell in cells(SIDE).view(-1, 2)]
    members = [[query * CROP + cell % CROP] for cell, query in enumerate(nearest)]
    xy = positions.flip(-1) + 0.5
    units = [[(*place, 0) for place in step] for step in xy.tolist()]
    played = Played("a walk", positions, xy, there, views, units)
    return Agents("walkers", [played], layers, cells(SIDE), queries, members, ("walkers", (0, 1)), CROP)


def believed(step, state, frame, positions, queries, seen=None, modules=None):
    """What a model believes of all pixels, and of the queries, after one more step; and its state."""
    where = torch.tensor(positions, dtype=torch.float32).view(1, -1, 2)
    values = crops(frame[None, None], where[None], CROP)[0] if isinstance(frame, torch.Tensor) else None
    mask = torch.ones(1, len(positions), dtype=torch.bool) if seen is None else seen
    asked = torch.tensor([*GRID, *queries], dtype=torch.float32)[None]
    present = [] if modules is None else [modules]
    with torch.no_grad():
        mean, _, *rest = step(where, values, mask, asked, *present, *state)
    whole, half = torch.zeros(SIDE + 2 * CROP, SIDE + 2 * CROP), CROP // 2
    for (row, column), patch in zip(GRID, mean[0], strict=False):
        whole[row - half + CROP : row + half + 1 + CROP, column - half + CROP : column + half + 1 + CROP] = patch
    return whole[CROP:-CROP, CROP:-CROP], rest[len(rest) - len(state) :]


def f1(belief, truth):
    claimed = belief > 0.5
    return float(2 * (claimed & (truth > 0)).sum() / (claimed.sum() + truth.sum()))


def test_the_page_shows_what_pytorch_computes(browser, explorer, models, frames):
    shown = Page(browser, explorer.address)
    assert not shown.shown("problem"), shown.one("#problem").text
    shown.one("#other").send_keys("baseline")
    shown.until(lambda: len(shown.all(".panel")) == 2)
    steps = [StreamingStep(model) for model in models.values()]
    states, present = [step.initial_state(1) for step in steps], torch.ones(4, dtype=torch.bool)
    before = states
    for now in range(5):
        positions = shown.squares()
        assert len(positions) == SQUARES
        before, states = states, []
        for number, step in enumerate(steps):
            modules = present if step.num_modules else None
            belief, state = believed(step, before[number], frames[now], positions, [], modules=modules)
            states.append(state)
            torch.testing.assert_close(shown.beliefs(number), belief, rtol=0, atol=0.003)
            assert shown.scores()[number] == pytest.approx(f1(belief, frames[now + 1]), abs=6e-4)
        if now == 2:  # by its switch; the step is computed again without it
            shown.one("button[aria-label='Module 2']").click()
            present = present.clone()
            present[1] = False
            shown.until(lambda: shown.one("button[aria-label='Module 2']").get_attribute("aria-pressed") == "false")
            belief, states[0] = believed(steps[0], before[0], frames[now], positions, [], modules=present)
            shown.until(lambda expected=belief: (shown.beliefs() - expected).abs().max() < 0.003)
        shown.step()
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_squares_are_moved_dropped_and_added_by_keys_and_pointer(browser, explorer, models, frames):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    shown = Page(browser, explorer.address)
    (row, column), *_ = shown.squares()
    square = shown.all(".mark")[0]
    square.send_keys(Keys.ARROW_UP if row else Keys.ARROW_DOWN)
    shown.until(lambda: shown.squares()[0] == (row - 1 if row else 1, column))
    assert not shown.one("#jump").is_selected(), "it stays where it was put"
    pixel = shown.one(".arena").rect["width"] / SIDE
    (row, column), across = shown.squares()[0], 3 if column < 7 else -3
    ActionChains(browser).drag_and_drop_by_offset(square, round(across * pixel), 0).perform()
    shown.until(lambda: shown.squares()[0] == (row, column + across))
    step = StreamingStep(models["ours"])
    expected, _ = believed(step, step.initial_state(1), frames[0], shown.squares(), [], modules=torch.ones(4) > 0)
    shown.until(lambda: (shown.beliefs() - expected).abs().max() < 0.003)
    ActionChains(browser).send_keys("a").perform()
    shown.until(lambda: len(shown.squares()) == SQUARES + 1)
    shown.all(".mark")[0].send_keys(Keys.DELETE)
    shown.until(lambda: len(shown.squares()) == SQUARES)


def test_a_closed_loop_and_a_blind_one_are_rollouts(browser, explorer, models, frames):
    from s2rm import Views

    model = models["baseline"]
    for sees in ("own", "nothing"):
        shown = Page(browser, explorer.address)
        shown.one("#other").send_keys("baseline")
        shown.until(lambda page=shown: len(page.all(".panel")) == 2)
        positions = shown.squares()
        shown.one("#jump").click()
        shown.until(lambda page=shown: not page.one("#jump").is_selected())
        shown.one(f"input[value={sees}]").click()
        shown.one("#restart").click()
        where = torch.tensor(positions, dtype=torch.float32)[None, None]
        views = Views(where, crops(frames[None, :1], where, CROP))
        if sees == "nothing":
            views = views.keep(torch.zeros((), dtype=torch.bool))
        queries = torch.tensor(GRID, dtype=torch.float32)[None]
        given = {"closed_loop": True, "feedback": where[0]} if sees == "own" else {"closed_loop": False}
        for number, distribution in enumerate(model.rollout(views, queries, 4, **given)):
            if number:
                shown.step()
            row, column = GRID[0]
            ours = shown.beliefs(1)[row - 2 : row + 3, column - 2 : column + 3]
            torch.testing.assert_close(ours, distribution.mean[0, 0], rtol=0, atol=0.003)


def test_crops_of_any_size_cover_the_frame(browser, explorer):
    Page(browser, explorer.address)
    for crop, side in ((4, 8), (6, 13), (5, 13), (1, 3), (7, 7)):
        found = browser.execute_async_script(
            "const [crop, side, done] = arguments;"
            "import('./shapes.js').then(({cover}) => done(cover(crop, [1, side, side])))", crop, side
        )  # fmt: skip
        seen = {start + step for _, at in found for start in [at - crop // 2] for step in range(crop)}
        assert seen == set(range(side))


def test_pointing_reads_numbers_and_a_click_switches_a_module_off(browser, explorer, models):
    from selenium.webdriver.common.action_chains import ActionChains

    shown = Page(browser, explorer.address)
    with torch.no_grad():
        kernel = models["ours"].enclaves(cells(SIDE))
    covered = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    for row, column in shown.squares():
        covered[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = True
    weight = torch.where(covered, 0, kernel.amax(0))
    row, column = divmod(int(weight.argmax()), SIDE)
    module, box = int(kernel[:, row, column].argmax()) + 1, shown.one(".arena").rect
    offsets = [round((at + 0.5) / SIDE * box["width"] - box["width"] / 2) for at in (column, row)]
    move = ActionChains(browser).move_to_element_with_offset(shown.one(".arena svg"), *offsets)
    move.perform()
    shown.until(lambda: f"Row {row}, column {column}: belief" in shown.one(".readout").text)
    number = float(re.search(r"belief ([\d.]+)", shown.one(".readout").text)[1])
    assert number == pytest.approx(float(shown.beliefs()[row, column]), abs=0.003)
    move.click().perform()
    switch = shown.one(f"button[aria-label='Module {module}']")
    shown.until(lambda: switch.get_attribute("aria-pressed") == "false")
    assert f"Module {module} of ours is off." in shown.one("#said").get_attribute("textContent")


def test_agents_are_seen_from_above_and_fall_silent(browser, explorer, models):
    shown, scene = Page(browser, explorer.address), walkers()
    shown.one("#world").send_keys("walkers")
    shown.until(lambda: "walkers" in shown.one("#scene").text and shown.all(".mark"))
    (played,), step = scene.episodes, StreamingStep(models["ours"])
    state, silent = step.initial_state(1), set()
    for now in range(3):
        if now == 2:  # by the keyboard; the step is computed again without it
            agent = int(played.there[2].nonzero()[0])
            shown.all(".mark")[agent].send_keys("\ue007")
            shown.until(lambda agent=agent: "silent" in shown.all(".mark")[agent].get_attribute("aria-label"))
            silent = {agent}
        mask = played.there[now] & ~torch.tensor([agent in silent for agent in range(3)])
        queries = torch.cat([scene.queries, played.positions[now + 1]])[None]
        with torch.no_grad():
            mean, _, *rest = step(
                played.positions[None, now], played.views[None, now], mask[None], queries, torch.ones(4) > 0, *state
            )
        pixel = torch.tensor([query for (query,) in scene.members])
        predicted = mean[0, pixel // CROP, :, pixel % CROP].view(SIDE, SIDE, CROP)
        blue = predicted[..., :2].sum(-1).clamp(max=1) * 86
        orange = (predicted[..., 2] - predicted[..., 3]).clamp(min=0) * 230
        expected = ((blue + orange) / 255).clamp(max=1)

        def agrees(expected=expected):
            return (shown.beliefs() - expected).abs().max() < 0.005

        shown.until(agrees)
        truth, asked = (part[played.there[now + 1]][:, :2] for part in (played.views[now + 1], mean[0, len(GRID) :]))
        assert shown.scores() == [pytest.approx(f1(asked, truth), abs=6e-4)]
        state = rest[len(rest) - len(state) :]
        if now < 2:
            shown.step()
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_nothing_but_the_folder_is_asked_for(browser, explorer):
    browser.get_log("performance")
    Page(browser, explorer.address)
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 8
    assert not [url for url in asked if not url.startswith((explorer.address, "data:", "blob:"))]


def test_what_cannot_work_is_a_sentence_in_the_page(browser, explorer, tmp_path):
    shown = Page(browser, (explorer.folder / "index.html").as_uri())
    assert "python -m http.server" in shown.one("#problem").text
    broken = shutil.copytree(explorer.folder, tmp_path / "broken")
    (broken / "model-0.onnx.gz").unlink()
    with serving(broken) as address:
        assert "model-0.onnx.gz did not load (404)" in Page(browser, address).one("#problem").text
        (broken / "model-0.onnx.gz").write_bytes(gzip.compress(b"no model"))
        assert Page(browser, address).one("#problem").text
    script = browser.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete globalThis.WebAssembly"}
    )
    assert "lacks WebAssembly" in Page(browser, explorer.address).one("#problem").text
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_the_folder_is_small_and_keeps_episodes(explorer, frames):
    sizes = [path.stat().st_size for path in explorer.folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 20e6
    scene = json.loads(gzip.decompress((explorer.folder / "scene-0.json.gz").read_bytes()))
    assert [episode["steps"] for episode in scene["episodes"]] == [9, 9]
    assert scene["episodes"][0]["packed"] == text(bits(frames))
    assert [model["numModules"] for model in scene["models"]] == [4, 0]


def test_a_smaller_page_leaves_nothing_of_a_larger_one(tmp_path, models, frames):
    need_runtime()
    (tmp_path / "model-7.onnx.gz").touch()
    (tmp_path / "kept.txt").touch()
    scene = Crops("squares", [("first", frames)], CROP, SQUARES)
    with unchecked_shapes():
        write_explorer(tmp_path, [World(scene, {"ours": StreamingStep(models["ours"])})])
    assert {path.name for path in tmp_path.glob("*.gz")} == {"model-0.onnx.gz", "scene-0.json.gz"}
    assert (tmp_path / "kept.txt").exists()


def test_models_and_runs_of_other_worlds_are_refused(tmp_path, capsys, models, frames):
    scene = Crops("squares", [("first", frames)], 7, 2)
    with pytest.raises(ValueError, match=r"expected models of crops \[7, 7\] without context, got ours with"):
        write_explorer(tmp_path / "page", [World(scene, {"ours": StreamingStep(models["ours"])})])
    Run.create(tmp_path / "run", Settings(model="lstm", training=Training(epochs=1)), "adding")
    assert "got runs on the adding" in refused(capsys, "explore", tmp_path / "run", "--out", tmp_path / "page")
    assert "expected a run folder" in refused(capsys, "explore", tmp_path / "none", "--out", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_without_npm_one_line_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(of_browser.shutil, "which", lambda _: None)
    Run.create(tmp_path / "run", Settings(training=Training(epochs=1)), world=preset("tiny"))
    Settings(training=Training(epochs=1)).build(preset("tiny")).save(tmp_path / "run" / MODEL)
    assert "found no npm" in refused(capsys, "explore", tmp_path / "run", "--out", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_other_files_than_those_of_the_package_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "s2rm" / of_browser.PACKAGE
    cache.mkdir(parents=True)
    for name in of_browser.FILES:
        (cache / name).write_text("tampered")
    monkeypatch.setattr(of_browser.shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match="found no npm"):  # the cache is not believed
        runtime()
