"""The README and the documentation: snippets run, links lead somewhere, numbers and names are the repository's."""

import importlib.util
import json
import re
import tomllib
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from s2rm.sensors import FieldWorld, Fit, Forecaster, to_frame
from s2rm.training import Training

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = {page.name: re.findall(r"```python\n(.*?)```", page.read_text(), re.S) for page in PAGES}
README = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:next-sensor. 2 of 15 stations have not reported")  # as the page says
@pytest.mark.parametrize("page", [page for page, snippets in SNIPPETS.items() if snippets])
def test_snippets_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in SNIPPETS[page]:
        exec(compile(code, page, "exec"), names)


def test_a_table_of_ones_own_is_forecast_in_a_few_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stations = FieldWorld(num_stations=4, num_movers=0, num_steps=180).reports()
    table = to_frame(stations).rename(columns={"x": "lon", "y": "lat", "tracer": "temp", "sensor": "station"})
    table.drop(columns="direction").to_csv("my.csv", index=False)
    training = Fit(num_modules=2, hidden_size=4, training=Training(updates=1))
    monkeypatch.setattr(Forecaster, "fit", partial(Forecaster.fit, how=training))
    (code,) = re.findall(r"```py\n(.*?)```", (ROOT / "docs" / "sensors.md").read_text(), re.S)
    exec(compile(code, "sensors.md", "exec"), {})
    assert len(pd.read_csv("forecast.csv")) == 4 * 24


def test_there_are_snippets():
    assert SNIPPETS["README.md"]


def test_the_commands_of_the_readme_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(((?!http|#|mailto)[^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_nothing_suggests_that_the_package_is_on_an_index():
    for path in (*PAGES, *(ROOT / "src").rglob("*.py")):
        assert not re.findall(r"install \W?s2rm\[.*", path.read_text(), re.IGNORECASE), path


def test_the_tree_of_the_readme_is_the_tree():
    tree = re.search(r"```\nsrc/s2rm/\n(.*?)```", README, re.S)[1]
    package = ROOT / "src" / "s2rm"
    named = set(re.findall(r"^  (\S+)", tree, re.M))
    for name in named:
        assert (package / name).exists(), name
    for name in re.findall(r"^(\S+/)", tree, re.M):
        assert (ROOT / name).is_dir(), name
    packages = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()}
    modules = {path.name for path in package.glob("*.py")}
    assert packages | modules == named | {"__init__.py"}


def test_the_numbers_of_the_readme_are_those_of_the_results():
    def value(file: str, metric: str, **row: object) -> str:
        rows = json.loads((ROOT / "results" / file).read_text())["rows"]
        (found,) = (candidate for candidate in rows if row.items() <= candidate.items())
        return f"{found[metric]:.2f}"

    balls = {"balls": 3, "views": 1.0}
    models = {"S2GRU", "LSTM", "MSA"}

    def shares(file: str, name: str) -> list[float]:
        """Errors relative to the best simple predictor, in each case."""
        cases: dict[tuple, dict[str, list[float]]] = {}
        for row in json.loads((ROOT / "results" / file).read_text())["rows"]:
            if not row["silent"]:
                case = cases.setdefault((row["value"], row["lead"], row["sensors"]), {})
                case.setdefault(row["predictor"], []).append(row["mae"])
        means = [{name: np.mean(seeds) for name, seeds in case.items()} for case in cases.values()]
        return [case[name] / min(case[other] for other in case.keys() - models) for case in means]

    def of_six(name: str) -> str:
        rows = json.loads((ROOT / "results" / "family.json").read_text())["rows"]
        seeds = [row["f1"] for row in rows if (row["predictor"], row["balls"], row["views"]) == (name, 6, 1.0)]
        assert len(seeds) == 3
        return f"{np.mean(seeds):.2f}"

    land, sea = (shares(f"sensors-{name}.json", "S2GRU") for name in ("molene", "ndbc"))
    assert len(land) == len(sea) == 22
    worse = re.findall(r"above the simple predictor in (\d+) of 22 cases", README)
    assert worse == [str(sum(share > 1.01 for share in each)) for each in (land, sea)]
    shown = re.findall(r"\d\.\d\d\b", README[README.index("| what | S2GRU |") : README.index("*Simple predictors*")])
    assert shown == [
        value("demo.json", "f1", predictor="S2GRU", **balls),
        value("demo.json", "f1", predictor="last seen", **balls),
        value("demo.json", "f1", predictor="LSTM", **balls),
        *map(of_six, ("S2GRU", "last seen", "LSTM", "RIMs")),
        *(f"{np.mean(each):.2f}" for each in (land, shares("sensors-molene.json", "LSTM"), sea)),
        value("streaming.json", "milliseconds", case="step and prediction, onnxruntime"),
        value("streaming.json", "milliseconds", case="step and prediction"),
    ]


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation
    assert project["urls"]["Paper"] in citation


@pytest.fixture
def rendered():
    """Renders Markdown as the documentation does."""
    pytest.importorskip("latex2mathml", reason='needs pip install ".[docs]"')
    markdown = pytest.importorskip("markdown")
    path = ROOT / "docs" / "hooks" / "equations.py"
    spec = importlib.util.spec_from_file_location("equations", path)
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    arithmatex = {"pymdownx.arithmatex": {"generic": True}}
    page = SimpleNamespace(file=SimpleNamespace(src_path="page.md"))

    def render(text: str) -> str:
        html = markdown.markdown(text, extensions=[*arithmatex, "pymdownx.superfences"], extension_configs=arithmatex)
        return hook.on_page_content(html, page=page)

    return render


def test_equations_become_mathml_and_code_stays(rendered):
    html = rendered("Let $a_t < \\tau$ and `$HOME/$x`.\n\n$$\\sum_m Z_m h_m$$\n\n```\ncd $HOME; echo $PATH\n```\n")
    assert html.count("<math ") == 2
    assert 'display="block"' in html
    assert "<mo>&#x0003C;</mo><mi>&#x003C4;</mi>" in html
    assert "<code>$HOME/$x</code>" in html
    assert "cd $HOME; echo $PATH" in html
    assert "arithmatex" not in html


@pytest.mark.parametrize("latex", [r"\foo x", r"\begin{aligned} a &= b \end{aligned}", "a_{"])
def test_an_equation_that_cannot_be_rendered_stops_the_build(rendered, latex):
    with pytest.raises(Exception, match=r"page\.md: (latex2mathml does not know|cannot read the equation)"):
        rendered(f"${latex}$")
