"""One self-contained HTML page from runs: what was run, tables, curves, rollouts, enclaves."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.files import write_whole
from s2rm.models.gqn import GQN
from s2rm.models.s2rm import S2RM
from s2rm.nn.rims import RIMs
from s2rm.report import figures as plots
from s2rm.report.modules import masking_effects
from s2rm.runs import Run, same_world
from s2rm.tasks.balls.scores import PROMPT_STEPS, ROLLOUT_STEPS, Rollouts, episodes_to_test
from s2rm.tasks.balls.world import BallsWorld
from s2rm.views import Views

TITLES = {"f1": "F1", "balanced_accuracy": "Balanced accuracy", "log_likelihood": "Log-likelihood"}
SENTENCES = {
    "f1": "Higher is better; 1 is perfect. A model has learned motion only where it is above both trivial predictors.",
    "balanced_accuracy": "The mean of recall and specificity: higher is better, 0.5 is chance.",
    "log_likelihood": "Nats a pixel, closer to 0 is better: it also asks whether the probabilities are right.",
}


def write_report(
    path: Path,
    runs: Sequence[Run],
    rows: Sequence[Mapping[str, Any]],
    rollouts: Mapping[int, Rollouts],
    title: str = "Bouncing balls, seen only through crops",
) -> None:
    """Write the page.

    Args:
        path: of the HTML file, written whole or not at all.
        runs: the runs that it shows, all of one world.
        rows: their one-step scores, as from `one_step_table`.
        rollouts: closed-loop rollouts by number of balls.
        title: of the page.

    Raises:
        ImportError: the extra `s2rm[report]` is not installed.
    """
    world = same_world(list(runs))
    assert isinstance(world, BallsWorld)
    write_page(
        path,
        title=title,
        lead=(
            "Each model saw ten small crops of every frame, at random places, and learned to predict the crops of the "
            f"next frame. It trained on {world.num_balls} moving balls and was tested, without further training, on "
            "1 to 6."
        ),
        runs=trained(runs),
        world=(
            f"World: {world.arena} x {world.arena} pixels, balls of radius {world.radius:g} px at {world.slowest:g} to "
            f"{world.fastest:g} px a frame at the start, one more ball fixed in the centre; {world.num_views} views of "
            f"{world.crop} x {world.crop} px a frame. Training: {world.train_sequences:,} sequences in clips of "
            f"{world.clip} frames, mirrored at random. Test: {world.test_sequences:,} sequences of {world.num_frames} "
            "frames for each number of balls, the same crops for every predictor."
        ),
        setting=" ".join(setting(run) for run in runs),
        summary=runs[0].summary(),
        tables=[*(_by_balls(rows, metric, 1.0) for metric in TITLES), _by_balls(rows, "f1", 0.3)],
        pictures=_pictures(runs, rows, rollouts),
    )


def write_page(
    path: Path, summary: Mapping[str, Any], pictures: Sequence[tuple[str, str, bytes, str]], **parts: Any
) -> None:
    """Write a page of the project's look.

    Args:
        path: of the HTML file, written whole or not at all.
        summary: of a run, for the machine and the commit.
        pictures: title, kind (such as image/png), content and a sentence of each.
        parts: `title`, `lead`, `runs`, `world`, `setting` and `tables`, as the template has them.

    Raises:
        ImportError: the extra `s2rm[report]` is not installed.
    """
    try:
        from jinja2 import Environment
    except ImportError as error:
        raise ImportError('s2rm.report.page needs jinja2; install it with pip install "s2rm[report]"') from error
    template = Environment(autoescape=True).from_string(files("s2rm.report").joinpath("page.html.j2").read_text())
    page = template.render(
        **parts,
        **{name: summary[name] for name in ("hardware", "torch", "commit")},
        pictures=[
            {"title": heading, "kind": kind, "data": base64.b64encode(content).decode(), "sentence": sentence}
            for heading, kind, content, sentence in pictures
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())


def trained(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The runs as the template has them."""
    return [
        {"label": run.label, "summary": run.summary(), "learning_rate": run.settings.training.learning_rate}
        for run in runs
    ]


def setting(run: Run) -> str:
    arguments, injected = run.settings.arguments, run.load_model().inject_positions
    return (
        f"{run.label}: codec {arguments['codec']}, positions {'injected' if injected else 'not injected'} into encoder "
        f"and decoder, wavelengths from {arguments['shortest']:g} to {arguments['longest']:g}."
    )


def _by_balls(rows: Sequence[Mapping[str, Any]], metric: str, views: float) -> dict[str, Any]:
    chosen = [row for row in rows if row["views"] == views]
    seen = "all views" if views == 1 else f"{views:.0%} of the views"
    heads = {number: plots.balls(number) for number in sorted({row["balls"] for row in chosen})}
    title = f"{TITLES[metric]}, one step ahead, {seen}"
    return comparison(chosen, metric, "balls", heads, title, TITLES[metric], SENTENCES[metric])


def comparison(
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    across: str,
    heads: Mapping[Any, str],
    title: str,
    label: str,
    sentence: str,
    digits: int = 3,
) -> dict[str, Any]:
    """A table of a metric, higher is better, with a line for each predictor, as the template has it.

    Args:
        rows: one for each predictor and column.
        metric, across: what of a row is shown, and what tells its column.
        heads: the columns and their headings.
        title, label, sentence: of the table.
        digits: after the point.
    """
    score = {(row["predictor"], row[across]): row[metric] for row in rows}
    names = list(dict.fromkeys(row["predictor"] for row in rows))
    best = {column: max(score[name, column] for name in names) for column in heads}
    return {
        "title": title,
        "metric": label,
        "heads": list(heads.values()),
        "rows": [
            {
                "name": name,
                "trivial": name in plots.TRIVIAL,
                "cells": [
                    {"text": f"{score[name, column]:.{digits}f}", "best": score[name, column] == best[column]}
                    for column in heads
                ],
            }
            for name in names
        ],
        "sentence": sentence,
    }


def _pictures(
    runs: Sequence[Run], rows: Sequence[Mapping[str, Any]], rollouts: Mapping[int, Rollouts]
) -> list[tuple[str, str, bytes, str]]:
    world = same_world(list(runs))
    assert isinstance(world, BallsWorld)
    headings = {number: plots.balls(number) for number in rollouts}
    pictures = [
        (
            "Rollouts, moving",
            "image/gif",
            plots.rollout_animation({headings[number]: part for number, part in rollouts.items()}),
            f"{PROMPT_STEPS} steps of true views came before; from here on each model sees only its own predictions, "
            "at random places. See whether the moving balls go on as in the top row, or smear and fade while the fixed "
            "ball stays. Blue-grey lines are pixels between the 4 x 4 queried crops.",
        ),
        *(
            (
                f"Rollout, {headings[number]}",
                "image/png",
                plots.png(plots.rollout_strip(part, 0, range(0, ROLLOUT_STEPS, 3))),
                "The same rollout, every third step. A model that tracks keeps as many bright discs as the truth has.",
            )
            for number, part in rollouts.items()
        ),
        (
            "How long rollouts hold",
            "image/png",
            plots.png(plots.rollout_scores({headings[number]: part.f1() for number, part in rollouts.items()})),
            f"F1 of the stitched frames over {len(next(iter(rollouts.values())).truth)} sequences. A line above the "
            "static scene knows where the moving balls are; where it meets it, they are lost.",
        ),
        (
            "One step ahead, by number of balls",
            "image/png",
            plots.png(plots.scores_by_balls(rows, 1.0, world.num_balls)),
            f"All models trained on {world.num_balls} balls (grey line); all other numbers are new to them.",
        ),
        *(
            (
                f"{TITLES[metric]}, when views are dropped",
                "image/png",
                plots.png(plots.heat_maps(rows, metric)),
                "Left to right, more of the ten views; the models were trained with all of them. A panel that stays "
                "bright towards the left needs few views.",
            )
            for metric in ("f1", "balanced_accuracy")
        ),
        (
            "Learning",
            "image/png",
            plots.png(plots.learning_curves({run.label: run.history() for run in runs})),
            "Validation loss against the time spent training, after each pass over the training sequences. The table "
            "at the top says how many updates each model made in its time.",
        ),
    ]
    line = torch.arange(world.arena, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    with torch.no_grad():
        views = episodes_to_test(replace(world, test_sequences=4), world.num_balls, 0)[0].views
    for run in runs:
        model = run.load_model()
        if isinstance(model, GQN) and isinstance(model.core, RIMs):
            inputs = model.summed(views).detach()
            pictures += [
                (
                    f"Which of {run.label}' modules is active when",
                    "image/png",
                    plots.png(plots.activity(model.core.trace(inputs)[1][0].active[0])),
                    f"One sequence of {world.num_balls} balls; black is active. A module that is always or never black "
                    "has not specialised in time.",
                ),
                _effects(run, masking_effects(model.core, inputs)),
            ]
        if isinstance(model, S2RM):
            pictures += modules(run, model, grid, views)
    return pictures


def modules(run: Run, model: S2RM, grid: Float[Tensor, "H W 2"], views: Views) -> list[tuple[str, str, bytes, str]]:
    """Pictures of where modules answer, over a grid of positions, who hears whom, and who depends on whom."""
    with torch.no_grad():
        weights, kernel = model.enclaves(grid), model.interaction_graph()
    blind = int((weights.flatten(1).amax(1) == 0).sum())
    seen = float((weights.amax(0) > 0).float().mean())
    edges, pairs = int((kernel.triu(1) > 0).sum()), len(kernel) * (len(kernel) - 1) // 2
    return [
        (
            f"Enclaves of {run.label}",
            "image/png",
            plots.png(plots.enclaves(weights)),
            "Where in the world each module listens and answers, from 0 (black) to 1. Modules share it: "
            f"{blind} of {len(weights)} see none of it, and {seen:.0%} of it is seen by at least one.",
        ),
        (
            f"Who hears whom in {run.label}",
            "image/png",
            plots.png(plots.interaction_graph(kernel, weights)),
            f"Each module as its enclave; a line where two hear each other. {edges} of {pairs} pairs do.",
        ),
        _effects(run, masking_effects(model, views)),
    ]


def _effects(run: Run, effects: Tensor) -> tuple[str, str, bytes, str]:
    return (
        f"What masking one module of {run.label} does to the others",
        "image/png",
        plots.png(plots.masking_effects(effects)),
        "A bright row is a module on which many others depend; a dark matrix is a set of modules that do without each "
        "other.",
    )
