"""The work behind the commands of runs: train, evaluate, rollout, report, export, demo."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich.progress import track
from rich.table import Table

from s2rm.cli import quiet
from s2rm.cli.commands import BUILT_IN_WORLDS, Demo, Evaluate, Export, Report, Rollout, Train
from s2rm.cli.terminal import console, say
from s2rm.export import SequenceStep, StreamingStep
from s2rm.extras import require
from s2rm.files import Row, read_json, write_json, write_whole
from s2rm.models.named import ModelName
from s2rm.models.sequence_model import SequenceModel
from s2rm.models.world_model import WorldModel
from s2rm.runs import PRETRAINED, SCORES, SUMMARY, TASKS, Run, pretrained, same_world, score, write_report
from s2rm.sensors.export import ForecastStep
from s2rm.sensors.fitting import FORECASTER
from s2rm.sensors.forecaster import Forecaster
from s2rm.settings import Settings
from s2rm.tasks import arrays
from s2rm.tasks.arrays import open_world
from s2rm.tasks.robustness import table as robustness_table
from s2rm.tasks.task import Headline, verdict
from s2rm.tasks.worlds import World
from s2rm.training import Training

DEMO_MODELS: tuple[ModelName, ...] = ("s2gru", "lstm")
DEMO_SHARES = (0.1, 0.3, 0.6, 1.0)
"""of the views, in the demo's scores: all ten shares of the figures take minutes"""


def train(command: Train) -> None:
    """Train a new run, or resume one."""
    quiet()
    command.machines.trainer(logger=False)  # refuses machines that are not there before anything is written
    if command.resume is None:
        task, world, name = _world(command)
        run = Run.create(command.out or Path("runs") / name, command.settings, task, world)
        parameters = command.settings.build(world).num_parameters
        say(f"{run.label}: {parameters:,} parameters")
        run.train(machines=command.machines)
    else:
        limits = command.settings.training
        run = Run.open(command.resume).with_limits(limits.updates, limits.epochs, limits.minutes)
        run.train(resume=True, machines=command.machines)
    _print_end(run)


def _world(command: Train) -> tuple[str, World, str]:
    """Task and world, built in or from a file, and the name of a folder for its runs."""
    files = command.train_files or command.test_files
    if command.task in BUILT_IN_WORLDS:
        task = TASKS[command.task]
        world = task.preset(command.size)
        if files and task.with_files is None:
            raise ValueError(f"train: --train-files and --test-files are of mnist, not of {task.name}; leave them out")
        if files and task.with_files is not None:
            world = task.with_files(world, command.train_files, command.test_files)
        return task.name, world, task.name
    path = Path(command.task)
    for name, given in (("--size", command.size != Train.size), ("--train-files or --test-files", bool(files))):
        if given:
            raise ValueError(f"train: {name} is for the built-in worlds, not for the world in {path}; leave it out")
    return arrays.TASK.name, open_world(path), path.stem


@rank_zero_only
def _print_end(run: Run) -> None:
    ended = run.summary()
    say(
        f"{run.folder}: validation loss {ended['val_loss']:.4f} nats after {ended['epochs']} epochs, "
        f"{ended['updates']:,} updates, {ended['minutes']:.1f} minutes"
    )


def evaluate(command: Evaluate) -> None:
    """Score runs, or a forecaster, and write the scores."""
    if _is_forecaster(command.runs):
        from s2rm.cli import forecasters

        return forecasters.evaluate(command)
    if command.table or command.ahead_table or command.every:
        raise ValueError("evaluate: --table, --ahead-table and --every are for a forecaster, got runs; leave them out")
    runs = _open(command.runs)
    scores = _scored(runs, drop=command.drop_views, remove=command.remove_modules)
    path = command.out or runs[0].folder / SCORES
    write_json(path, scores)
    _print_scores(runs, scores["rows"], scores.get("robustness", ()))
    say(f"scores: {path}")


def rollout(command: Rollout) -> None:
    """Write an animated picture of closed-loop rollouts."""
    require("report")
    runs = _open(command.runs)
    task, world, _ = same_world(runs)
    if task.animate is None:
        raise ValueError(
            f"rollout: expected runs on the balls or on your own world, got runs on the {task.name}; see s2rm report"
        )
    if command.balls is not None and task is not TASKS["balls"]:
        raise ValueError(f"rollout: --balls is of runs on the balls, got runs on the {task.name}; leave it out")
    models = {run.label: run.load_model() for run in runs}
    content = task.animate(models, world, command.seed, command.balls or (3,))
    if content is None:
        raise ValueError("rollout: positions of fewer than two coordinates have no picture yet; see s2rm report")
    write_whole(command.out, content)
    say(f"rollout: {command.out}")


def report(command: Report) -> None:
    """Write the page of runs, or of a forecaster."""
    require("report")
    if _is_forecaster(command.runs):
        from s2rm.cli import forecasters

        return forecasters.report(command)
    if command.table or command.ahead_table:
        raise ValueError("report: --table and --ahead-table are for a forecaster, got runs; leave them out")
    runs = _open(command.runs)
    path = command.scores or runs[0].folder / SCORES
    if not path.is_file():
        raise ValueError(f"report: found no scores at {path}; make them with s2rm evaluate RUN [RUN ...]")
    try:
        scores = read_json(path)
        rows = scores["rows"]
        scored = {row["predictor"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"report: {path} is no scores file ({error!r}); make it with s2rm evaluate") from error
    missing = [run.label for run in runs if run.label not in scored]
    if missing:
        raise ValueError(f"report: {path} has no scores of {missing}; evaluate these runs together")
    _refuse_scores_of_others(path, scores.get("runs", []), runs)
    out = command.out or runs[0].folder / "report.html"
    try:
        write_report(out, runs, rows, scores.get("robustness", ()))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"report: {path} lacks scores of these runs ({error!r}); make it with s2rm evaluate"
        ) from error
    say(f"report: {out.resolve()}")


def _refuse_scores_of_others(path: Path, scored: Sequence[Row], runs: Sequence[Run]) -> None:
    """Refuse scores of other runs of the same models, and of runs that have been trained on since."""
    about = {one.get("label"): one for one in scored}
    for run in runs:
        now, then = run.about(), about.get(run.label, {})
        for name in ("updates", "seed", "val_loss"):
            if name in then and then[name] != now[name]:
                raise ValueError(
                    f"report: the scores in {path} are of another {run.label}, expected its {name} to be {now[name]}, "
                    f"got {then[name]}; run s2rm evaluate again"
                )


def export(command: Export) -> None:
    """Write the ONNX file of the model of a run or forecaster."""
    require("onnx")
    path = command.out or command.run_folder / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = command.run_folder
    if _is_forecaster([folder]):
        ForecastStep(Forecaster.load(folder)).save_onnx(path)
    else:
        model = Run.open(folder).load_model()
        if isinstance(model, WorldModel):
            StreamingStep(model).save_onnx(path)
        else:
            assert isinstance(model, SequenceModel), "there are models of views and of sequences"
            SequenceStep(model).save_onnx(path)
    say(f"model: {path}")


def demo(command: Demo) -> None:
    """Train and score what is missing, and write the report."""
    quiet()
    require("report")
    if command.pretrained:
        usual = Demo()
        for name in ("updates", "minutes", "size", "seed"):
            if getattr(command, name) != getattr(usual, name):
                raise ValueError(
                    f"demo: --{name} is of training, and --pretrained trains nothing; leave one of both out"
                )
        runs, rows = pretrained(), read_json(PRETRAINED / SCORES)["rows"]
    else:
        runs = _trained(command)
        scores = _scored(runs, DEMO_SHARES)
        write_json(command.out / SCORES, scores)
        rows = scores["rows"]
    _print_scores(runs, rows)
    path = command.out / "report.html"
    write_report(path, runs, rows)
    say(f"report: {path.resolve()}")


def _trained(command: Demo) -> list[Run]:
    """The demo's runs, those trained before as they are."""
    world, runs = TASKS["balls"].preset(command.size), []
    updates = None if command.minutes else command.updates
    training = Training(
        learning_rate=4e-3, gradient_norm=1.0, updates=updates, minutes=command.minutes, precision="auto",
        seed=command.seed,
    )  # fmt: skip
    budget = f"{command.minutes:g} minutes" if command.minutes else f"{updates:,} updates"
    for model in DEMO_MODELS:
        folder = command.out / model
        done = (folder / SUMMARY).is_file()
        say(f"{folder}: {'trained already' if done else f'training for {budget}'}")
        runs.append(Run.finished(folder, Settings(model=model, training=training), "balls", world))
    return runs


def _is_forecaster(folders: Sequence[Path]) -> bool:
    """Whether the folder is that of a forecaster; several are refused."""
    found = [folder for folder in folders if (folder / FORECASTER).is_file()]
    if found and len(folders) > 1:
        raise ValueError(f"expected one forecaster alone, got {found[0]} among {len(folders)} folders; name it alone")
    return bool(found)


def _open(folders: Sequence[Path]) -> list[Run]:
    if not folders:
        raise ValueError("expected at least one run folder, got none; train one with s2rm train")
    runs = [Run.open(folder) for folder in folders]
    same_world(runs)
    return runs


def _scored(
    runs: list[Run], shares: Sequence[float] | None = None, drop: Sequence[float] = (), remove: Sequence[int] = ()
) -> Row:
    def bar(cases: Iterable[Any]) -> Iterable[Any]:
        return track(list(cases), "Evaluating", console=console)

    return score(runs, shares, bar, drop, remove)


def _print_scores(runs: list[Run], rows: Sequence[Row], missing: Sequence[Row] = ()) -> None:
    """The verdict on each model, then the headline of the task: one metric, a line for each predictor."""
    task = runs[0].task
    head: Headline = task.headline
    chosen = head.rows(rows)
    for name, said in verdict(chosen, head):
        say(f"{name}: {said}")
    chosen = [row for row in chosen if not head.shown or row[head.across] in head.shown]
    table = Table(title=head.title)
    table.add_column(head.columns)
    for column in dict.fromkeys(row[head.across] for row in chosen):
        table.add_column(str(column), justify="right")
    for name in dict.fromkeys(row["predictor"] for row in chosen):
        show = ".3g" if head.lower else ".3f"
        table.add_row(name, *(f"{row[head.metric]:{show}}" for row in chosen if row["predictor"] == name))
    console.print(table)
    if missing:
        found = robustness_table(task, missing)
        table = Table(found.metric, *found.heads, title=found.title, caption=found.sentence)
        for line in found.rows:
            table.add_row(line.name, *(text for text, _ in line.cells))
        console.print(table)
