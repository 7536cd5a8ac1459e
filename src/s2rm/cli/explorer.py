"""The work behind `s2rm explore`: which worlds a page shows, with which models."""

from __future__ import annotations

from contextlib import suppress

from rich.console import Console

from s2rm.cli.commands import Explore
from s2rm.explorer import World, runtime, serve, write_explorer
from s2rm.export import StreamingStep
from s2rm.extras import require
from s2rm.models.named import SPATIAL
from s2rm.models.world_model import WorldModel
from s2rm.names import one_line
from s2rm.runs import Run, pretrained, same_world

# Names of the user's are no markup.
console = Console(stderr=True, markup=False, emoji=False)


def explore(command: Explore) -> None:
    """Write the page of an explorer, and serve it where asked."""
    require("onnx")
    # Of the runs that are shipped, that with modules first.
    runs = [Run.open(folder) for folder in command.runs] or sorted(
        pretrained(), key=lambda run: run.settings.model not in SPATIAL
    )
    same_world(runs)
    runtime()  # asks npm before any other work begins
    world = _of_runs(runs)
    with console.status("writing the models"):
        write_explorer(command.out, [world])
    if not command.serve:
        _say(f"explorer: {command.out}; open it with s2rm explore --serve, or publish the folder")
        return
    with serve(command.out) as server:
        _say(f"explorer: http://127.0.0.1:{server.server_port}/ until Ctrl-C")
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


def _say(text: str) -> None:
    console.print(one_line(text), soft_wrap=True)
