"""The options of the commands. Light: `--help` and typing errors do not load what the work needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from s2rm.sensors.settings import QUANTILES, Columns, Fit
from s2rm.settings import Settings
from s2rm.training.settings import Machines, Training

Runs = Positional[tuple[Path, ...]]


BUILT_IN_WORLDS = ("balls", "skirmish", "railways", "copying", "adding", "mnist")
"""the worlds that have names; all others are files"""


@dataclass(frozen=True)
class Demo:
    """End-to-end demo: train S2GRU and an LSTM on bouncing balls, score both, write a report.

    Finished runs are kept: the same command continues an interrupted demo.
    """

    updates: int = 1200
    """number of updates of each model"""
    minutes: float | None = None
    """train each model for this long instead"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    out: Path = Path("runs/demo")
    """folder of the two runs, scores.json and report.html"""
    seed: int = 0
    """seed of the world, the weights and the order"""
    pretrained: bool = False
    """show the shipped runs, which were trained for longer, instead of training"""


@dataclass(frozen=True)
class Train:
    """Train one model on one world and write a run folder.

    The folder contains config.json, model/ (the best weights, safetensors), checkpoints/, logs/ (CSV and TensorBoard)
    and summary.json. Continue an interrupted run with --resume RUN.
    """

    task: Positional[str] = "balls"
    """balls: an arena of 48 x 48 binary pixels; ten views per frame, 11 x 11 pixels at (row, column) in pixels.
    skirmish: two teams of up to nine units fight on a map of 32 x 32 units; each unit of one team sees polar images
    around it. railways: ten trains on a grid of 60 x 60 cells, each of which sees the 5 x 5 cells around it. Sequences
    without positions, for --model rims, rmc, lstm or gru: copying, recall ten digits after up to 50 blanks; adding, add
    the two marked numbers among up to 50; mnist, recognise a digit from its pixels. Or the path of your own world, a
    file or folder that s2rm.tasks.arrays.write_world wrote"""
    size: str = "small"
    """preset of a built-in world: paper (balls: 20,000 sequences of 100 frames; skirmish: 9,000 battles of 100 steps;
    railways: 8,000 episodes of 128 steps), small (balls: 4,000 of 50, clips of 20; skirmish: 3,000 of 64, clips of 20;
    railways: 200 of 128, clips of 32) or tiny. balls also has frames (small, whole frames), curtain, masses, four
    and crowd. For sequences, paper has a core of size 600 and small a smaller one; adding also has long (500 numbers),
    mnist also medium"""
    train_files: tuple[Path, ...] = ()
    """mnist only: a .npz file with images and labels, or two idx files (also .gz), of images and of labels; if not
    given, scikit-learn's digits"""
    test_files: tuple[Path, ...] = ()
    """mnist only: the same for the test; if not given, every fifth of the other images"""
    settings: OmitArgPrefixes[Settings] = field(default_factory=lambda: Settings(training=Training(precision="auto")))
    out: Path | None = None
    """the run folder, which must not exist; if not given, runs/TASK, or runs/NAME for your own world in a file NAME"""
    resume: Path | None = None
    """continue this run with its settings; only --updates, --epochs, --minutes and the machines may be changed"""
    machines: OmitArgPrefixes[Machines] = field(default_factory=Machines)
    """where to train; a run may be resumed on other machines"""

    def check(self) -> None:
        """Raise a ValueError where there is no such world, before anything is loaded."""
        if self.task not in BUILT_IN_WORLDS and not Path(self.task).exists():
            raise ValueError(
                f"train: expected {', '.join(BUILT_IN_WORLDS)} or the path of a world, found no file or folder "
                f"{self.task}; write one with s2rm.tasks.arrays.write_world"
            )


@dataclass(frozen=True)
class Collect:
    """Play episodes of agents and record them in a file, a world to train on: `s2rm train FILE`.

    The file contains positions, observations, actions, rewards and ends of all agents.
    """

    environment: Positional[str]
    """MODULE:FUNCTION that makes an environment with PettingZoo's parallel API, such as
    mpe2.simple_spread_v3:parallel_env"""
    position: str
    """MODULE:FUNCTION that returns an agent's position, given the environment and the agent's name"""
    out: Path
    """the file, which ends in .npz, or a new folder"""
    options: str = "{}"
    """arguments of the environment, a JSON object such as '{"N": 3}'"""
    policy: str | None = None
    """MODULE:FUNCTION that returns the actions, given the environment, the observations and a generator; if not given,
    random actions"""
    observation: str | None = None
    """MODULE:FUNCTION that converts an agent's observation to an array; needed if it is not an array"""
    episodes: int = 500
    """number of episodes"""
    steps: int = 25
    """maximum number of steps per episode"""
    seed: int = 0
    """seed of the environment and the policy"""


@dataclass(frozen=True)
class Evaluate:
    """Score runs one step ahead, or a forecaster at all lead times, and compare them with simple predictors.

    A forecaster is scored on the withheld part of its table, or on all of another table, over many initialisation
    times: a rolling backtest.

    Balls: 1 to 6 of them, with 10 to 100 % of the views. Skirmish: five scenarios, with 20 to 100 % of the agents
    reporting. Railways: maps not seen in training. Copying, adding, mnist: longer sequences, larger images. Your own
    world: test sequences, one step ahead and in rollouts.
    """

    runs: Runs
    """run folders, one per model, all on the same world; or the folder of one forecaster"""
    out: Path | None = None
    """file for the scores, JSON; if not given, scores.json in the first run's folder, scores-TABLE.json with --table"""
    drop_views: tuple[float, ...] = ()
    """also score with these shares of the views dropped at random, such as 0.1 0.3 0.5"""
    remove_modules: tuple[int, ...] = ()
    """also score with these numbers of modules removed at random from S2RMs, such as 1 3 5"""
    table: Path | None = None
    """score a forecaster on this table instead of its own; it needs the columns of the fit"""
    ahead_table: Path | None = None
    """the quantities known ahead of --table, if they are not in that table itself"""
    every: str | None = None
    """interval between the initialisation times of a forecaster, such as 6h; if not given, at most 40 times over
    the table"""


@dataclass(frozen=True)
class Rollout:
    """Animate closed-loop rollouts: 20 steps of true views, then 25 in which the models see only their own predictions;
    for your own world at most 20, then at most 10."""

    runs: Runs
    """run folders, one per model, all on the same world"""
    balls: tuple[int, ...] | None = None
    """numbers of moving balls, one column each; if not given, 3; only for runs on the balls"""
    out: Path = Path("rollout.gif")
    """the animation, with truth and each model in rows"""
    seed: int = 0
    """seed of the balls or test sequences, and of the crops"""


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about runs (tables, learning curves, rollouts or a map, modules) or about a
    forecaster."""

    runs: Runs
    """run folders, one per model, all on the same world; or the folder of one forecaster"""
    scores: Path | None = None
    """scores of these runs from `s2rm evaluate`; if not given, scores.json in the first run's folder"""
    out: Path | None = None
    """the page; if not given, report.html in the first run's folder, report-TABLE.html with --table"""
    table: Path | None = None
    """the table on which a forecaster was scored, if not its own"""
    ahead_table: Path | None = None
    """the quantities known ahead of --table, if they are not in that table itself"""


@dataclass(frozen=True)
class Export:
    """Export one streaming step of a run or forecaster as an ONNX file, for use without Python."""

    run_folder: Positional[Path]
    """folder of a run or forecaster"""
    out: Path | None = None
    """the file; if not given, model.onnx in the run folder"""


@dataclass(frozen=True)
class Explore:
    """Write a page to explore models in the browser: move views, switch off modules.

    The page is a folder of static files. It needs a server, but no network.
    """

    runs: Runs = ()
    """run folders, one per model, all on the same world (balls, skirmish, railways or your own frames), or of
    forecasters of one table, shown side by side; if not given, the shipped runs"""
    out: Path = Path("explorer")
    """the folder of the page"""
    serve: bool = False
    """serve the page to this machine only, until Ctrl-C"""


@dataclass(frozen=True)
class FitTable:
    """Fit a forecaster to a table of observations, and compare it with simple predictors.

    The folder --out contains the forecaster, scores.json and report.html. To continue an interrupted fit, or one whose
    report is missing, give the same command again, or s2rm fit --resume RUN.
    """

    table: Positional[Path]
    """CSV (also .gz), Parquet, NetCDF or Zarr with one row per observation; or a store of s2rm pack, which provides the
    columns if it stands right after fit"""
    columns: OmitArgPrefixes[Columns]
    ahead_table: Path | None = None
    """a separate table, NetCDF or Zarr with the columns of --ahead, the time and the position (without positions it
    holds everywhere); if not given, the columns are in the table itself"""
    how: OmitArgPrefixes[Fit] = field(default_factory=Fit)
    machines: OmitArgPrefixes[Machines] = field(default_factory=Machines)
    """on what to train; the same command on other machines goes on with a fit that was killed"""
    test: float = 0.15
    """share of the steps, the last ones, withheld from the fit and used to score it"""
    held_out: float = 0.1
    """share of the stations, drawn at random, that are also withheld from the fit"""
    out: Path = Path("runs/sensors")
    """the folder, new or empty"""
    start: Annotated[Path | None, arg(name="from")] = None
    """fine-tune the forecaster in this folder to newer data or new sensors, with its columns, model and periods"""
    refit: bool = False
    """after scores and report, fit again to all steps and stations, for the number of updates that was best"""
    resume: Path | None = None
    """continue the fit in this folder with its settings; give no other option"""


@dataclass(frozen=True)
class Pack:
    """Pack tables, which together may be larger than memory, into a store: a folder that fit, forecast, evaluate and
    report accept in place of a table, and from which they read only what they need.
    """

    tables: Positional[tuple[Path, ...]]
    """CSV (also .gz), Parquet, NetCDF or Zarr, all with these columns"""
    columns: OmitArgPrefixes[Columns]
    out: Path
    """the folder of the store; an earlier store there is replaced when the new one is complete"""


@dataclass(frozen=True)
class Forecast:
    """Forecast from a table with the columns of the fit."""

    run_folder: Positional[Path]
    """the folder that s2rm fit wrote"""
    table: Positional[Path]
    """the observations"""
    ahead_table: Path | None = None
    """the quantities known ahead, from the past up to the horizon, if the fit had them in a separate table"""
    at: str = "stations"
    """where: stations (the last position of each), grid (50 x 50 points over them), or a CSV or Parquet file with the
    columns of the position and of the covariates, if any"""
    horizon: str | None = None
    """longest lead time, a duration such as 24h; if not given, the horizon of the fit"""
    quantiles: tuple[float, ...] = QUANTILES
    """probabilities of the quantiles of each value, in increasing order"""
    scenarios: int = 0
    """number of joint scenarios to add: possible futures that are consistent over places, lead times and values"""
    origin: str | None = None
    """initialisation time, UTC; all observations of the step that contains it are used, none of later steps; if not
    given, the last time of the table"""
    out: Path = Path("forecast.csv")
    """the file: a table (.csv, .csv.gz or .parquet) or NetCDF (.nc)"""


@dataclass(frozen=True)
class NextSensor:
    """Rank places for the next sensor by how much an observation there would reduce the variance of a map of the field.

    The variance is that of the forecaster's kriging, given the stations that report at the end of the table.
    """

    run_folder: Positional[Path]
    """the folder that s2rm fit wrote"""
    table: Positional[Path]
    """the observations; the last ones determine the existing stations"""
    at: str = "grid"
    """candidate places: grid (30 x 30 points over the table), or a CSV or Parquet file as in s2rm forecast"""
    interest: str = "grid"
    """places where the field matters, with equal weight: grid, stations, or a CSV or Parquet file"""
    num: int = 1
    """number of sensors to place, one after the other"""
    out: Path = Path("next-sensor.csv")
    """the ranking (.csv or .parquet); a map with the same name (.png) is written next to it, if positions have two
    coordinates"""
