"""The wheel, installed where there is no clone and no extra, with what it requires and nothing else."""

import os
import resource
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PUBLIC = """
from s2rm import GQN, MSA, RIMs, RelationalMemory, S2GRU, S2LSTM, S2RM, S2RMC, Episode, Views, WorldModel, load
from s2rm.sensors import Columns, Places, Reports, grid, read_reports, stations, to_frame
from s2rm.sensors import Fit, Forecaster, Stream, judge
from s2rm.tasks import agents, balls, battles, railways
from s2rm.training import Machines, Training, batches, fit
import torch
model = S2GRU(value_shape=(2,), extent=[(0, 1), (0, 1)], likelihood="gaussian")
model.loss(Episode(Views(torch.rand(3, 5, 7, 2), torch.rand(3, 5, 7, 2), torch.rand(3, 5, 7) < 0.7))).backward()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([sys.executable, *build, folder, ROOT], check=True)
    (built,) = folder.glob("s2rm-*.whl")
    return built


class Installed:
    """A virtual environment with the wheel in it, and links to the distributions that the wheel requires."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin = folder / "venv" / "bin"
        self.folder = folder
        install = ["-m", "pip", "--python", self.bin / "python", "install", "--quiet", "--no-deps", "--no-index", wheel]
        subprocess.run([sys.executable, *install], check=True)
        (self.packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        self.linked: set[str] = set()
        self.link()

    def link(self, extra: str = "") -> None:
        """Link all that the wheel requires, directly or through others, with the given extra."""
        (itself,) = distributions(name="s2rm", path=[str(self.packages)])
        waiting = [(itself, extra)]
        seen = set()
        while waiting:
            here, extra = waiting.pop()
            for requirement in map(Requirement, here.requires or []):
                if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
                    continue
                for wanted in ("", *requirement.extras):
                    if (requirement.name, wanted) not in seen:
                        seen.add((requirement.name, wanted))
                        there = distribution(requirement.name)
                        waiting.append((there, wanted))
                        self._link(there)

    def _link(self, needed: Distribution) -> None:
        for file in needed.files or []:
            top = Path(file.parts[0])
            # A folder without __init__.py may be shared by several distributions.
            shared = top.suffix != ".dist-info" and not Path(needed.locate_file(top / "__init__.py")).exists()
            part = Path(*file.parts[: 2 if shared else 1])
            link = self.packages / part
            if top.name != ".." and not link.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(Path(needed.locate_file(part)).absolute())

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in an empty folder, `self.folder / "empty"`, with a clean environment."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        clean = {"PATH": os.defpath, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [self.bin / command[0], *command[1:]], cwd=empty, env=clean, capture_output=True, text=True, check=False
        )

    def left(self) -> list[Path]:
        """What was written into the empty folder."""
        return list((self.folder / "empty").rglob("*"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_the_wheel_holds_what_it_needs_at_run_time_and_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    needed = [path for path in (ROOT / "src" / "s2rm").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert {str(path.relative_to(ROOT / "src")) for path in needed} == {
        name for name in names if name.startswith("s2rm/")
    }
    for name in ("py.typed", "__init__.pyi", "report/page.html.j2", "pretrained/s2gru/model/weights.safetensors"):
        assert f"s2rm/{name}" in names
    assert not [name for name in names if "test" in name]


def test_every_public_name_is_there_without_an_extra(installed):
    assert installed.run("python", "-c", "import matplotlib").returncode == 1  # the environment hides the extras
    result = installed.run("python", "-c", PUBLIC)
    assert result.returncode == 0, result.stderr
    assert not result.stdout + result.stderr
    assert not installed.left()


@pytest.mark.parametrize(
    ("command", "status", "word"), [("--help", 0, "forecast"), ("train --help", 0, "balls"), ("train bals", 2, "balls")]
)
def test_the_command_line_answers_within_a_second(installed, command, status, word):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = installed.run("s2rm", *command.split())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == status, result.stderr
    assert word in result.stdout + result.stderr
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1


def test_a_missing_extra_is_named_in_one_line_before_anything_is_written(installed):
    result = installed.run("s2rm", "demo", "--pretrained")
    assert result.returncode == 2
    assert result.stderr.startswith("s2rm: ")
    assert result.stderr.count("\n") == 1
    assert "report" in result.stderr
    assert not installed.left()


def test_with_the_extra_the_shipped_demo_is_shown_without_training(wheel, tmp_path):
    installed = Installed(tmp_path, wheel)
    installed.link("report")
    result = installed.run("s2rm", "demo", "--pretrained", "--out", "demo")
    assert result.returncode == 0, result.stderr
    demo = tmp_path / "empty" / "demo"
    assert [path.name for path in demo.iterdir()] == ["report.html"]
    page = (demo / "report.html").read_text()
    assert "Rollouts" in page
    assert "Enclaves of S2GRU" in page
