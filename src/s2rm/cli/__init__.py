"""The command line: `s2rm demo`, `train`, `evaluate`, `rollout`, `report`, `export`, `fit`, `forecast`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import track
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional

from s2rm.cli.sensors import FitTable, Forecast
from s2rm.export import StreamingStep
from s2rm.files import write_json, write_whole
from s2rm.report import figures as plots
from s2rm.report.page import write_report
from s2rm.runs import (
    PRETRAINED,
    SCORES,
    SUMMARY,
    WORLDS,
    ModelName,
    Run,
    Settings,
    pretrained,
    same_world,
    score,
    trivial_predictors,
)
from s2rm.tasks.balls.scores import (
    Rollouts,
    roll_out,
)
from s2rm.tasks.balls.world import BallsWorld, preset
from s2rm.tasks.battles.report import write_battle_report
from s2rm.tasks.battles.skirmish import SkirmishWorld
from s2rm.training import Machines, Training

console = Console(stderr=True)
Runs = Positional[tuple[Path, ...]]
DEMO_MODELS: tuple[ModelName, ...] = ("s2gru", "lstm")


@dataclass(frozen=True)
class Train:
    """Train one model on one world and leave a run folder.

    The folder holds config.json, model/ (the best weights, safetensors), checkpoints/, logs/ (CSV and TensorBoard)
    and summary.json. A run that was stopped, by whatever, goes on with --resume RUN.
    """

    task: Positional[Literal["balls", "skirmish"]] = "balls"
    """balls: an arena of 48 x 48 binary pixels; ten views a frame, 11 x 11 pixels at (row, column) in pixels. skirmish:
    two teams of up to nine units fight on a map of 32 x 32 units; each unit of one team sees polar images around it"""
    size: str = "small"
    """how much of it: paper (balls: 20,000 sequences of 100 frames; skirmish: 9,000 battles of 100 steps), small (4,000
    of 50, clips of 20; 3,000 of 64, clips of 20) or tiny"""
    settings: OmitArgPrefixes[Settings] = field(default_factory=Settings)
    out: Path | None = None
    """the run folder, which must not be there yet; runs/TASK if not given"""
    resume: Path | None = None
    """go on with this run; its settings are kept, but for --epochs and --minutes where given"""
    machines: OmitArgPrefixes[Machines] = field(default_factory=Machines)
    """on what to train; a run may go on on others"""

    def run(self) -> None:
        self.machines.trainer(logger=False)  # refuses machines that are not there before anything is written
        if self.resume is None:
            settings = replace(self.settings, world=WORLDS[self.task][1](self.size))
            run = Run.create(self.out or Path("runs") / self.task, settings)
            rank_zero_only(console.print)(f"{run.label}: {settings.build().num_parameters:,} parameters")
            run.train(machines=self.machines)
        else:
            limits = self.settings.training
            rest = replace(self.settings, training=replace(limits, epochs=None, minutes=None))
            if replace(self, settings=rest, resume=None, machines=Machines()) != Train():
                raise ValueError("train: --resume keeps the run's settings; only --epochs and --minutes may be given")
            run = Run.open(self.resume).with_limits(limits.epochs, limits.minutes)
            run.train(resume=True, machines=self.machines)
        _print_end(run)


@dataclass(frozen=True)
class Evaluate:
    """Score runs, and the trivial predictors, one step ahead.

    Balls: 1 to 6 of them, 10 to 100 % of the views. Skirmish: five scenarios, 20 to 100 % of the agents reporting.
    """

    runs: Runs
    """run folders, one of each model, all of one world"""
    out: Path | None = None
    """where the scores go, JSON; default: scores.json in the first run's folder"""

    def run(self) -> None:
        runs = _open(self.runs)
        scores = _evaluate(runs)
        path = self.out or runs[0].folder / SCORES
        write_json(path, scores)
        _print_scores(scores["rows"])
        console.print(f"scores: {path}")


@dataclass(frozen=True)
class Rollout:
    """Closed-loop rollouts of runs: 20 steps of true views, then 25 in which the models see their own predictions."""

    runs: Runs
    """run folders, one of each model, all of one world"""
    balls: tuple[int, ...] = (3,)
    """numbers of moving balls, a column each"""
    out: Path = Path("rollout.gif")
    """the animated picture: truth and each model in rows"""
    seed: int = 0
    """of the balls and of the crops"""

    def run(self) -> None:
        rollouts = _roll_out(_open(self.runs), self.balls, 1, self.seed)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.out, plots.rollout_animation({plots.balls(n): part for n, part in rollouts.items()}))
        console.print(f"rollout: {self.out}")


@dataclass(frozen=True)
class Report:
    """One self-contained HTML page of runs: tables, curves, rollouts or a battle from above, enclaves."""

    runs: Runs
    """run folders, one of each model, all of one world"""
    scores: Path | None = None
    """scores of these runs, as `s2rm evaluate` writes them; default: scores.json in the first run's folder"""
    out: Path | None = None
    """the page; default: report.html in the first run's folder"""

    def run(self) -> None:
        runs = _open(self.runs)
        path = self.scores or runs[0].folder / SCORES
        if not path.is_file():
            raise ValueError(f"report: found no scores at {path}; make them with s2rm evaluate RUN [RUN ...]")
        try:
            rows = json.loads(path.read_text())["rows"]
            scored = {row["predictor"] for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"report: {path} is no scores file ({error!r}); make it with s2rm evaluate") from error
        missing = [run.label for run in runs if run.label not in scored]
        if missing:
            raise ValueError(f"report: {path} has no scores of {missing}; evaluate these runs together")
        out = self.out or runs[0].folder / "report.html"
        if isinstance(same_world(runs), SkirmishWorld):
            write_battle_report(out, runs, rows)
        else:
            write_report(out, runs, rows, _roll_out(runs, (1, 3, 5), 32, 0))
        console.print(f"report: {out.resolve()}")


@dataclass(frozen=True)
class Export:
    """Write one streaming step of a run's model as an ONNX file, for use without Python."""

    run_folder: Positional[Path]
    """run folder"""
    out: Path | None = None
    """the file; default: model.onnx in the run folder"""

    def run(self) -> None:
        path = self.out or self.run_folder / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        StreamingStep(Run.open(self.run_folder).load_model()).save_onnx(path)
        console.print(f"model: {path}")


@dataclass(frozen=True)
class Demo:
    """The main job, end to end: train S2GRU and an LSTM for the same time, score both, write a report.

    What was finished before is kept: an interrupted demo goes on where it was.
    """

    minutes: float = 4.75
    """wall-clock budget for training each model"""
    size: str = "small"
    """preset of the world, as in `s2rm train`"""
    out: Path = Path("runs/demo")
    """folder of the two runs, scores.json and report.html"""
    seed: int = 0
    """of the world, the weights and the order"""
    pretrained: bool = False
    """show the runs that are shipped, which were trained for longer; nothing is trained"""

    def run(self) -> None:
        if self.pretrained:
            runs = pretrained()
            scores = json.loads((PRETRAINED / SCORES).read_text())
            self._show(runs, scores["rows"], num_sequences=16)
            return
        runs = []
        training = Training(learning_rate=2e-3, gradient_norm=1.0, epochs=10_000, minutes=self.minutes, seed=self.seed)
        for model in DEMO_MODELS:
            folder = self.out / model
            done = (folder / SUMMARY).is_file()
            console.print(f"{folder}: {'trained already' if done else f'training for {self.minutes:g} minutes'}")
            settings = Settings(model=model, training=training, world=preset(self.size))
            runs.append(Run.finished(folder, settings))
        scores = _evaluate(runs)
        write_json(self.out / SCORES, scores)
        self._show(runs, scores["rows"], num_sequences=32)

    def _show(self, runs: list[Run], rows: list[dict[str, Any]], num_sequences: int) -> None:
        _print_scores(rows)
        self.out.mkdir(parents=True, exist_ok=True)
        write_report(self.out / "report.html", runs, rows, _roll_out(runs, (1, 3, 5), num_sequences, self.seed))
        console.print(f"report: {(self.out / 'report.html').resolve()}")


def _open(folders: Sequence[Path]) -> list[Run]:
    if not folders:
        raise ValueError("expected at least one run folder, got none; train one with s2rm train")
    runs = [Run.open(folder) for folder in folders]
    same_world(runs)
    return runs


def _evaluate(runs: list[Run]) -> dict[str, Any]:
    return score(runs, progress=lambda balls: track(list(balls), "Evaluating", console=console))


def _roll_out(runs: list[Run], balls: Sequence[int], num_sequences: int, seed: int) -> dict[int, Rollouts]:
    world = same_world(runs)
    if not isinstance(world, BallsWorld):
        raise ValueError(
            "rollout: expected runs on the balls, got runs on the skirmish, whose views carry actions that no model "
            "predicts; see s2rm report"
        )
    loaded = {run.label: run.load_model() for run in runs}
    models = {label: model for label, model in loaded.items() if not model.is_oracle}
    trivial = trivial_predictors(runs)
    return {number: roll_out(models, trivial, world, num_sequences, number, seed) for number in balls}


@rank_zero_only
def _print_end(run: Run) -> None:
    ended = run.summary()
    console.print(
        f"{run.folder}: validation loss {ended['val_loss']:.4f} nats after {ended['epochs']} epochs, "
        f"{ended['updates']:,} updates, {ended['minutes']:.1f} minutes"
    )


def _print_scores(rows: Sequence[Mapping[str, Any]]) -> None:
    on_balls = "balls" in rows[0]
    title, across, metric = ("F1", "balls", "f1") if on_balls else ("Unit-type macro F1", "scenario", "unit_type_f1")
    chosen = [row for row in rows if row["views" if on_balls else "reporting"] == 1.0]
    table = Table(title=f"{title}, one step ahead, all views")
    table.add_column("moving balls" if on_balls else across)
    for column in dict.fromkeys(row[across] for row in chosen):
        table.add_column(str(column), justify="right")
    for name in dict.fromkeys(row["predictor"] for row in chosen):
        table.add_row(name, *(f"{row[metric]:.3f}" for row in chosen if row["predictor"] == name))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "demo": Demo,
            "train": Train,
            "evaluate": Evaluate,
            "rollout": Rollout,
            "report": Report,
            "export": Export,
            "fit": FitTable,
            "forecast": Forecast,
        },
        description="Spatially structured recurrent modules: world models for worlds seen only in pieces.",
        args=arguments,
    )
    try:
        command.run()
    except (ValueError, ImportError, OSError) as error:
        console.print(f"s2rm: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        rank_zero_only(console.print)("s2rm: stopped; what was saved stays, train goes on with --resume")
        sys.exit(130)
