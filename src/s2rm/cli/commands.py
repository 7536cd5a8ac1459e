"""What the commands take. Light: `--help` and a typing error answer without loading what the work needs."""

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
    """The main job, end to end: train S2GRU and an LSTM alike, score both, write a report.

    Runs that finished before are kept: an interrupted demo goes on where it was.
    """

    updates: int = 1200
    """updates of each model"""
    minutes: float | None = None
    """train each model for this long instead"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    out: Path = Path("runs/demo")
    """folder of the two runs, scores.json and report.html"""
    seed: int = 0
    """of the world, the weights and the order"""
    pretrained: bool = False
    """show the runs that are shipped, which were trained for longer; nothing is trained"""


@dataclass(frozen=True)
class Train:
    """Train one model on one world and leave a run folder.

    The folder holds config.json, model/ (the best weights, safetensors), checkpoints/, logs/ (CSV and TensorBoard)
    and summary.json. A run that was stopped for any reason goes on with --resume RUN.
    """

    task: Positional[str] = "balls"
    """balls: an arena of 48 x 48 binary pixels; ten views a frame, 11 x 11 pixels at (row, column) in pixels. skirmish:
    two teams of up to nine units fight on a map of 32 x 32 units; each unit of one team sees polar images around it.
    railways: ten trains on a grid of 60 x 60 cells, each of which sees the 5 x 5 cells around it. Sequences without
    positions, for --model rims, rmc, lstm or gru: copying, ten digits to recall after 50 blanks; adding, the two of 50
    numbers that are marked; mnist, a digit to recognise from its pixels. Or the path of your own world, a file or
    folder, as s2rm.tasks.arrays.write_world writes it"""
    size: str = "small"
    """amount of data, not of your own world: paper (balls: 20,000 sequences of 100 frames; skirmish: 9,000 battles of
    100 steps; railways: 8,000 episodes of 128 steps), small (4,000 of 50, clips of 20; 3,000 of 64, clips of 20; 200 of
    128, clips of 32) or tiny; of the balls also frames, small but seen whole. Of sequences paper has a core of 600,
    small a smaller one; adding has long as well, 500 steps"""
    train_files: tuple[Path, ...] = ()
    """mnist only: a .npz file with images and labels, or two idx files (.gz too), of images and of labels; if none are
    given, scikit-learn's digits"""
    test_files: tuple[Path, ...] = ()
    """mnist only: the same for the test; every fifth image of the others if not given"""
    settings: OmitArgPrefixes[Settings] = field(default_factory=lambda: Settings(training=Training(precision="auto")))
    out: Path | None = None
    """the run folder, which must not be there yet; runs/TASK if not given, or runs/NAME of your own world's file"""
    resume: Path | None = None
    """go on with this run; its settings are kept, but for --updates, --epochs and --minutes where given"""
    machines: OmitArgPrefixes[Machines] = field(default_factory=Machines)
    """on what to train; a run may be resumed on other machines"""

    def check(self) -> None:
        """Raise a ValueError where there is no such world, before anything is loaded."""
        if self.task not in BUILT_IN_WORLDS and not Path(self.task).exists():
            raise ValueError(
                f"train: expected {', '.join(BUILT_IN_WORLDS)} or the path of a world, found no file or folder "
                f"{self.task}; write your own by s2rm.tasks.arrays.write_world"
            )


@dataclass(frozen=True)
class Collect:
    """Play episodes of agents and write them to a file, a world to train on: `s2rm train FILE`.

    Kept are positions, observations, actions, rewards and ends of all agents.
    """

    environment: Positional[str]
    """MODULE:FUNCTION, which makes an environment with PettingZoo's parallel API, such as
    mpe2.simple_spread_v3:parallel_env"""
    position: str
    """MODULE:FUNCTION, from the environment and an agent's name to its position"""
    out: Path
    """the file, which ends in .npz, or a new folder"""
    options: str = "{}"
    """arguments of the environment, a JSON object such as '{"N": 3}'"""
    policy: str | None = None
    """MODULE:FUNCTION, from the environment, the observations and a generator to the actions; random if not given"""
    observation: str | None = None
    """MODULE:FUNCTION, from an agent's observation to an array, where it is none"""
    episodes: int = 500
    """number of episodes"""
    steps: int = 25
    """steps of an episode, at most"""
    seed: int = 0
    """of the environment and the policy"""


@dataclass(frozen=True)
class Evaluate:
    """Score runs, and the trivial predictors, one step ahead; or a forecaster, beside baselines, at all lead times.

    A forecaster is scored on the part of its table that was withheld, or on all of another table, over many
    initialisation times: a rolling backtest.

    Balls: 1 to 6 of them, with 10 to 100 % of the views. Skirmish: five scenarios, with 20 to 100 % of the agents
    reporting. Railways: maps that were not seen in training. Copying, adding, mnist: longer sequences, larger images.
    Your own world: test sequences, one step ahead and in rollouts.
    """

    runs: Runs
    """run folders, one of each model, all of one world; or the folder of one forecaster"""
    out: Path | None = None
    """where the scores go, JSON; default: scores.json in the first run's folder, scores-TABLE.json with --table"""
    drop_views: tuple[float, ...] = ()
    """shares of the views that are dropped at random, such as 0.1 0.3 0.5: what is left of the scores then"""
    remove_modules: tuple[int, ...] = ()
    """numbers of modules that are removed at random from S2RMs, such as 1 3 5: what is left of the scores then"""
    table: Path | None = None
    """score a forecaster on this table, with the columns of the fit, instead of its own"""
    every: str | None = None
    """duration between the initialisation times of a forecaster, such as 6h; default: 40 over the table"""


@dataclass(frozen=True)
class Rollout:
    """Closed-loop rollouts of runs: 20 steps of true views, then 25 in which the models see their own predictions; of
    your own world at most 20, then at most 10."""

    runs: Runs
    """run folders, one of each model, all of one world"""
    balls: tuple[int, ...] | None = None
    """numbers of moving balls, a column each; 3 if not given; only for runs on the balls"""
    out: Path = Path("rollout.gif")
    """the animated picture: truth and each model in rows"""
    seed: int = 0
    """of the balls, or the test sequences, and of the crops"""


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page of runs: tables, learning curves, rollouts or a map, modules; or of a forecaster."""

    runs: Runs
    """run folders, one of each model, all of one world; or the folder of one forecaster"""
    scores: Path | None = None
    """scores of these runs, as `s2rm evaluate` writes them; default: scores.json in the first run's folder"""
    out: Path | None = None
    """the page; default: report.html in the first run's folder, report-TABLE.html with --table"""
    table: Path | None = None
    """the table on which a forecaster was scored, if not its own"""


@dataclass(frozen=True)
class Export:
    """Write one streaming step of the model of a run or forecaster as an ONNX file, for use without Python."""

    run_folder: Positional[Path]
    """folder of a run or forecaster"""
    out: Path | None = None
    """the file; default: model.onnx in the run folder"""


@dataclass(frozen=True)
class Explore:
    """Write a page on which a model is explored in the browser: views are moved, modules switched off.

    It is a folder of static files that needs a server, but no network.
    """

    runs: Runs = ()
    """run folders, one of each model, all of one world, shown side by side: balls, skirmish, railways, your own frames;
    the runs that are shipped if none is given"""
    out: Path = Path("explorer")
    """the folder of the page"""
    serve: bool = False
    """serve the page, to this machine alone, until Ctrl-C"""


@dataclass(frozen=True)
class FitTable:
    """Fit a forecaster to a table of observations, and score it beside baselines.

    The folder --out holds the forecaster, scores.json and report.html. A fit that was killed, or whose report is
    missing, goes on where the same command is given again, or s2rm fit --resume RUN.
    """

    table: Positional[Path]
    """CSV (.gz too), Parquet, NetCDF or Zarr: a row for each observation; or a store of s2rm pack, whose columns need
    not be named where it comes first"""
    columns: OmitArgPrefixes[Columns]
    ahead_table: Path | None = None
    """a table, NetCDF or Zarr of its own with the columns of --ahead, of the time and of the position, but for the last
    where it holds everywhere; if not given, they are in the table itself"""
    how: OmitArgPrefixes[Fit] = field(default_factory=Fit)
    machines: OmitArgPrefixes[Machines] = field(default_factory=Machines)
    """on what to train; the same command on other machines goes on with a fit that was killed"""
    test: float = 0.15
    """share of the steps, the last ones, that are withheld from the fit and on which it is scored"""
    held_out: float = 0.1
    """share of the stations, drawn at random, that are withheld from the fit as well"""
    out: Path = Path("runs/sensors")
    """the folder, new or empty"""
    start: Annotated[Path | None, arg(name="from")] = None
    """fine-tune the forecaster in this folder to newer data or new sensors; its columns, model and periods are taken"""
    refit: bool = False
    """after scores and report, fit again to all steps and stations, for as many updates as were best"""
    resume: Path | None = None
    """go on with the fit in this folder, with the settings that it has; nothing else is given"""


@dataclass(frozen=True)
class Pack:
    """Pack tables, which together may be larger than memory, into a store: a folder that fit, forecast, evaluate and
    report take as they take a table, and from which they read only what they need.
    """

    tables: Positional[tuple[Path, ...]]
    """CSV (.gz too), Parquet, NetCDF or Zarr, all with these columns"""
    columns: OmitArgPrefixes[Columns]
    out: Path
    """the folder of the store; an earlier store there is replaced when the new one is whole"""


@dataclass(frozen=True)
class Forecast:
    """Forecast from a table that has the columns of the fit."""

    run_folder: Positional[Path]
    """the folder that s2rm fit wrote"""
    table: Positional[Path]
    """the observations"""
    ahead_table: Path | None = None
    """what is known ahead, in the past and up to the horizon, where the fit had such a table of its own"""
    at: str = "stations"
    """where: stations (the last position of each), grid (50 x 50 points over them), or a CSV file with the columns of
    the position, and of the covariates where there are any"""
    horizon: str | None = None
    """longest lead time, as a duration such as 24h; if not given, that of the training"""
    quantiles: tuple[float, ...] = QUANTILES
    """probabilities of the quantiles of each value, in order"""
    scenarios: int = 0
    """number of possible futures that hang together over places, lead times and values, beside the forecast"""
    origin: str | None = None
    """time of initialisation, UTC: later observations are not used; the last time of the table if not given"""
    out: Path = Path("forecast.csv")
    """the file: a table (.csv, .csv.gz or .parquet) or NetCDF (.nc)"""


@dataclass(frozen=True)
class NextSensor:
    """Rank places for the next sensor by the variance that an observation there would take from a map of the field.

    It is that of the forecaster's kriging, beside the stations that report at the end of the table.
    """

    run_folder: Positional[Path]
    """the folder that s2rm fit wrote"""
    table: Positional[Path]
    """the observations, whose last ones say which stations there are"""
    at: str = "grid"
    """where a sensor may be put: grid (30 x 30 points over the table), or a CSV file as in s2rm forecast"""
    interest: str = "grid"
    """where the field matters, all places alike: grid, stations, or a CSV file"""
    num: int = 1
    """how many sensors are to be placed, one after the other"""
    out: Path = Path("next-sensor.csv")
    """the ranking (.csv or .parquet); beside it a map of the same name (.png)"""
