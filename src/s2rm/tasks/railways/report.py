"""The report of runs on the railways: tables of scores, the railway and its predictions, modules over the map."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from s2rm.files import Row
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, Table, comparison, drawn, learning, write_page
from s2rm.tasks.crops import cells
from s2rm.tasks.railways.play import collected
from s2rm.tasks.railways.plots import predictions
from s2rm.tasks.railways.predictors import trivial_predictors
from s2rm.tasks.railways.world import RailwayWorld, episode
from s2rm.tasks.task import model_predictor

TITLES = {
    "f1_trains": "F1 of trains", "f1_other_trains": "F1 of other trains", "f1": "F1 of all channels",
    "log_likelihood": "Log-likelihood",
}  # fmt: skip
SENTENCES = {
    "f1_trains": "The four channels of trains, by the direction that they face. Higher is better; 1 is perfect.",
    "f1_other_trains": "The same without the centre of each view, where the train itself is.",
    "f1": "Trains, tracks and stations. Tracks and stations do not change: what was last seen there predicts them.",
    "log_likelihood": "Nats a channel of a cell; closer to 0 is better. It also rewards well calibrated probabilities.",
}


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: RailwayWorld, seed: int = 0,
    folder: Path | None = None,
) -> None:  # fmt: skip
    """Write the page; arguments as of `Task.write_report`. Raises what `collected` does, too."""
    test = collected(world, "test", seed, folder)
    predictors = {entry.label: model_predictor(entry.model) for entry in entries}
    predictors["last seen"] = trivial_predictors(world, seed, folder).last_seen
    write_page(
        path,
        title="Trains on a railway, each with a view of the cells around it",
        lead=(
            f"Each model saw the {world.view} x {world.view} cells around every train on the grid, and learned to "
            "predict the views of the next step. No map of the test episodes was in training."
        ),
        entries=entries,
        world=(
            f"World: maps of {world.grid} x {world.grid} cells with up to {world.cities} cities, made by Flatland; "
            f"{world.num_trains} trains, {world.num_steps} steps. Training: {world.train_episodes:,} episodes "
            f"in clips of {world.clip} steps. Test: {world.test_episodes:,} episodes, the same for every predictor."
        ),
        tables=[_table(rows, metric) for metric in TITLES],
        pictures=[
            drawn(
                "The railway, and one-step predictions",
                predictions(world, test, predictors),
                "The first test episode, at the step with most trains on the grid. Right: the views of some trains, "
                "and the probabilities that each predictor gave them one step before; fainter is less probable. Lines "
                "are tracks, blue arrowheads trains, squares stations, a filled one the train's own destination.",
            ),
            learning(entries),
            *module_pictures(entries, cells(world.grid), episode(world, test, torch.arange(min(4, len(test)))).views),
        ],
    )


def _table(rows: Sequence[Row], metric: str) -> Table:
    shares = sorted({row["reporting"] for row in rows})
    heads = {share: "all trains report" if share == 1 else f"{share:.0%} report" for share in shares}
    title = f"{TITLES[metric]}, one step ahead"
    return comparison(rows, metric, "reporting", heads, title, TITLES[metric], SENTENCES[metric])
