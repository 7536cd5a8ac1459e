"""Traffic on a grid of streets, simulated by SUMO: cars are views that move, loops in the streets views that do not.

Trains S2GRU and the LSTM baseline on a world from arrays and scores them and simple predictors, with all
views and with some dropped. Writes `results/traffic.json` and `docs/figures/traffic.gif`. It needs the packages
`eclipse-sumo` and `libsumo`.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.progress import track

from s2rm.extras import require
from s2rm.files import write_json, write_whole
from s2rm.models.named import ModelName
from s2rm.runs import Run, score
from s2rm.settings import Settings
from s2rm.tasks import arrays
from s2rm.training import Training

CROSSINGS, STREET = 4, 150
"""crossings on each side of the grid, all with lights; metres between two of them"""
WARM_UP, SECONDS, NEAR = 120, 5, 50
"""seconds before the first step; of a step; metres within which a car counts others"""
ENTERING, LOOP_AT = 0.25, 120.0
"""cars that enter a second; metres from the start of a street to its loop, 20 to 30 before the lights"""


@dataclass(frozen=True)
class Traffic:
    """How much to simulate, how long to train, where to write."""

    sequences: int = 240
    """of simulated traffic"""
    steps: int = 40
    """of a sequence, five seconds each"""
    loops: int = 24
    """streets with a loop, of 48"""
    updates: int = 300
    """of each model"""
    models: tuple[ModelName, ...] = ("s2gru", "lstm")
    """what is trained"""
    runs: Path = Path("runs/traffic")
    """where the world and the runs are; a run that is finished is not trained again"""
    out: Path = Path("results/traffic.json")
    """the scores"""
    figure: Path = Path("docs/figures/traffic.gif")
    """the rollouts, moving"""


def streets(folder: Path, number: int) -> tuple[Path, Path, NDArray[np.float64]]:
    """The files of the streets and of the loops in some of them, and the positions `(loops, 2)` of these, in metres."""
    import sumo

    folder.mkdir(parents=True, exist_ok=True)
    net, additional = folder / "grid.net.xml", folder / "loops.add.xml"
    subprocess.run(
        [Path(sumo.SUMO_HOME) / "bin" / "netgenerate", "--grid", "--grid.number", str(CROSSINGS), "--grid.length",
         str(STREET), "--default-junction-type", "traffic_light", "--seed", "0", "--output-file", net],
        check=True, capture_output=True,
    )  # fmt: skip
    begin(net, additional=None, seed=0)
    import libsumo

    edges = sorted(edge for edge in libsumo.edge.getIDList() if not edge.startswith(":"))
    some = sorted(np.random.default_rng(0).choice(edges, number, replace=False).tolist())
    places = np.array([libsumo.simulation.convert2D(edge, LOOP_AT) for edge in some])
    libsumo.close()
    lines = [f'<inductionLoop id="{edge}" lane="{edge}_0" pos="{LOOP_AT}" period="3600" file="NUL"/>' for edge in some]
    additional.write_text("<additional>\n" + "\n".join(lines) + "\n</additional>\n")
    return net, additional, places


def begin(net: Path, additional: Path | None, seed: int) -> None:
    """Start a simulation in this process, which has one at a time."""
    import libsumo

    more = [] if additional is None else ["-a", str(additional)]
    quiet = ["--no-step-log", "--no-warnings", "--time-to-teleport", "-1"]
    libsumo.start(["sumo", "-n", str(net), *more, "--seed", str(seed), *quiet])


def drive(
    net: Path, additional: Path, steps: int, seed: int
) -> tuple[list[dict[str, tuple[float, ...]]], NDArray[np.float64]]:
    """Cars by name at each step, as (x, y, speed in m/s), and what loops count `(steps, loops, 2)`.

    A loop counts the cars that were over it in the five seconds before the step, each once, and the share of the time
    for which there was one.
    """
    import libsumo

    generator = np.random.default_rng(seed)
    begin(net, additional, seed)
    edges = sorted(edge for edge in libsumo.edge.getIDList() if not edge.startswith(":"))
    loops = sorted(libsumo.inductionloop.getIDList())
    cars: list[dict[str, tuple[float, ...]]] = []
    counted, passed = np.zeros((steps, len(loops), 2)), [[set[str]() for _ in loops] for _ in range(steps)]
    for second in range(-WARM_UP, steps * SECONDS):
        if generator.random() < ENTERING:
            start, end = generator.choice(edges, 2, replace=False).tolist()
            libsumo.route.add(name := f"car {second}", libsumo.simulation.findRoute(start, end).edges)
            libsumo.vehicle.add(name, name, departSpeed="max")
        libsumo.simulation.step()
        if second < 0:
            continue
        for number, loop in enumerate(loops):
            passed[second // SECONDS][number] |= {*libsumo.inductionloop.getLastStepVehicleIDs(loop)}
            counted[second // SECONDS, number, 1] += libsumo.inductionloop.getLastStepOccupancy(loop) / 100 / SECONDS
        if second % SECONDS == SECONDS - 1:
            there = libsumo.vehicle.getIDList()
            cars.append({c: (*libsumo.vehicle.getPosition(c), libsumo.vehicle.getSpeed(c)) for c in there})
    libsumo.close()
    counted[..., 0] = [[len(cars_there) for cars_there in at] for at in passed]
    return cars, counted


def simulate(recipe: Traffic, folder: Path) -> dict[str, NDArray[Any]]:
    """Views of `recipe.sequences` of traffic: first the loops, then the cars, each in a slot of its own.

    Values are the speed of a car and the number of others near it; of a loop the number of cars and the share of the
    time: NaN where the other kind measures.
    """
    net, additional, places = streets(folder, recipe.loops)
    found = [
        drive(net, additional, recipe.steps, seed) for seed in track(range(recipe.sequences), "Simulating traffic")
    ]
    slots = recipe.loops + max(len({car for step in cars for car in step}) for cars, _ in found)
    shape = recipe.sequences, recipe.steps, slots
    positions, values, mask = np.zeros((*shape, 2)), np.full((*shape, 4), np.nan), np.zeros(shape, bool)
    positions[:, :, : recipe.loops], mask[:, :, : recipe.loops] = places, True
    for row, (cars, counted) in enumerate(found):
        values[row, :, : recipe.loops, 2:] = counted
        slot = {car: recipe.loops + n for n, car in enumerate(dict.fromkeys(car for step in cars for car in step))}
        for step, there in enumerate(cars):
            at = [slot[car] for car in there]
            state = np.array([*there.values()]).reshape(-1, 3)
            gaps = np.linalg.norm(state[:, None, :2] - state[:, :2], axis=-1)
            positions[row, step, at], mask[row, step, at] = state[:, :2], True
            values[row, step, at, :2] = np.stack([state[:, 2], (gaps < NEAR).sum(1) - 1], 1)
    return {"positions": positions, "values": values, "mask": mask}


def main(recipe: Traffic) -> None:
    """Simulate, train, score, write, draw."""
    require("traffic")
    path = recipe.runs / "traffic.npz"
    if not path.is_file():
        side = (-10.0, (CROSSINGS - 1) * STREET + 10.0)
        arrays.write_world(path, simulate(recipe, recipe.runs), extent=[side, side], clip=min(20, recipe.steps))
    world = arrays.open_world(path)
    training = Training(updates=recipe.updates, batch_size=8, learning_rate=2e-3, gradient_norm=1.0)
    runs = [
        Run.finished(
            recipe.runs / model,
            Settings(model, rotation=float(STREET), drop_views=0.5, training=training),
            arrays.TASK.name,
            world,
        )
        for model in recipe.models
    ]
    write_json(recipe.out, score(runs, drop=(0.3, 0.5)))
    moving = arrays.animate({run.label: run.load_model() for run in runs}, world)
    assert moving is not None
    write_whole(recipe.figure, moving)


if __name__ == "__main__":
    main(tyro.cli(Traffic))
