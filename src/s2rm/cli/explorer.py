"""The work behind `s2rm explore`: which worlds a page shows, with which models."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from s2rm.cli.commands import Explore
from s2rm.cli.terminal import say
from s2rm.explorer import World, runtime, serve, write_explorer
from s2rm.export import StreamingStep
from s2rm.extras import require
from s2rm.models.named import LABELS, SPATIAL
from s2rm.models.world_model import WorldModel
from s2rm.runs import FIELD, PRETRAINED, Run, field_reports, pretrained, same_world
from s2rm.sensors.export import ForecastStep
from s2rm.sensors.fitting import FORECASTER
from s2rm.sensors.forecaster import Forecaster
from s2rm.sensors.reports import Reports
from s2rm.sensors.scene import Stations


def explore(command: Explore) -> None:
    """Write the page of an explorer, and serve it where asked."""
    require("onnx")
    fitted = [(folder / FORECASTER).is_file() for folder in command.runs]
    if any(fitted) and not all(fitted):
        raise ValueError(
            "explore: expected runs of one world, or forecasters of one table, got both; explore them separately"
        )
    runs = [Run.open(folder) for folder in command.runs if not any(fitted)]
    if not command.runs:  # what is shipped, the model with modules first
        runs = sorted(pretrained(), key=lambda run: run.settings.model not in SPATIAL)
    if runs:
        same_world(runs)
    runtime()  # asks npm before any other work begins
    worlds = [_of_runs(runs) if runs else _of_tables(command.runs)]
    if not command.runs:
        field = Forecaster.load(PRETRAINED / FIELD)
        worlds.append(of_forecasters("a synthetic field", field_reports()[1], {"S2GRU": field}))
    write_explorer(command.out, worlds, progress=lambda what: say(f"explorer: {what}"))
    if not command.serve:
        say(f"explorer: {command.out}; give --serve to the same command to see it, or publish the folder")
        return
    with serve(command.out) as server:
        say(f"explorer: http://127.0.0.1:{server.server_port}/ until Ctrl-C")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _of_runs(runs: list[Run]) -> World:
    task, world, seed = same_world(runs)
    if task.scene is None:
        raise ValueError(f"explore: the page shows worlds of views, got runs on the {task.name}; see s2rm report")
    scene = task.scene(world, seed, runs[0].folder)
    models = {run.label: run.load_model() for run in runs}
    steps = {label: StreamingStep(model) for label, model in models.items() if isinstance(model, WorldModel)}
    return World(scene, steps)


def _of_tables(folders: Sequence[Path]) -> World:
    from s2rm.cli.forecasters import settings_of
    from s2rm.sensors.reading.tables import read_reports

    require("tables")
    settings = [settings_of(folder) for folder in folders]
    forecasters = [Forecaster.load(folder) for folder in folders]
    tables = {setting.table for setting in settings}
    if len(tables) > 1:
        raise ValueError(f"explore: expected forecasters of one table, got {len(tables)}; explore them separately")
    reports = read_reports(settings[0].table, forecasters[0].columns, ahead=settings[0].ahead_table)
    for forecaster in forecasters:
        forecaster.check(reports)
    labels = [LABELS[setting.how.model] for setting in settings]
    if len(set(labels)) < len(labels):
        labels = [folder.name for folder in folders]
    return of_forecasters(settings[0].table.stem, reports, dict(zip(labels, forecasters, strict=True)))


def of_forecasters(title: str, reports: Reports, forecasters: dict[str, Forecaster]) -> World:
    """The world of a table and of forecasters that were fitted to it."""
    first = next(iter(forecasters.values()))
    horizon = min(forecaster.horizon for forecaster in forecasters.values())
    scene = Stations(title, reports, horizon, first)
    return World(scene, {label: ForecastStep(forecaster) for label, forecaster in forecasters.items()})
