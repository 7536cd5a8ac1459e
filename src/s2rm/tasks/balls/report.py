"""The report of runs on the balls: tables by number of balls, rollouts, robustness to missing views, modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from s2rm.files import Row
from s2rm.report.modules import module_pictures
from s2rm.report.page import Entry, Picture, Table, comparison, drawn, learning, write_page
from s2rm.tasks.balls import plots
from s2rm.tasks.balls.predictors import trivial_predictors
from s2rm.tasks.balls.rollouts import PROMPT_STEPS, ROLLOUT_STEPS, Rollouts, roll_out
from s2rm.tasks.balls.scores import episodes_to_test
from s2rm.tasks.balls.world import BallsWorld
from s2rm.tasks.crops import cells
from s2rm.tasks.task import Models

SEQUENCES = 16
"""rollouts for each number of balls"""
TITLES = {"f1": "F1", "balanced_accuracy": "Balanced accuracy", "log_likelihood": "Log-likelihood"}
SENTENCES = {
    "f1": "Higher is better; 1 is perfect. A model has learned motion only where it is above both trivial predictors.",
    "balanced_accuracy": "The mean of recall and specificity: higher is better, 0.5 is chance.",
    "log_likelihood": "Nats a pixel; closer to 0 is better. It also rewards well calibrated probabilities.",
}


def write_report(
    path: str | Path, entries: Sequence[Entry], rows: Sequence[Row], world: BallsWorld, seed: int = 0,
    folder: Path | None = None,
) -> None:  # fmt: skip
    """Write the page; arguments as of `Task.write_report`."""
    rollouts = rollouts_by_balls({entry.label: entry.model for entry in entries}, world, (1, 3, 5), SEQUENCES, seed)
    views = episodes_to_test(replace(world, test_sequences=4), world.num_balls, 0)[0].views
    write_page(
        path,
        title="Bouncing balls, seen only through crops",
        lead=(
            "Each model saw ten small crops of every frame, at random places, and learned to predict the crops of the "
            f"next frame. It was trained on {world.num_balls} moving balls and tested, without further training, on "
            "1 to 6."
        ),
        entries=entries,
        world=(
            f"World: {world.arena} x {world.arena} pixels, balls of radius {world.radius:g} px at {world.slowest:g} to "
            f"{world.fastest:g} px a frame at the start, one more ball fixed in the centre; {world.num_views} views of "
            f"{world.crop} x {world.crop} px a frame. Training: {world.train_sequences:,} sequences in clips of "
            f"{world.clip} frames, mirrored at random. Test: {world.test_sequences:,} sequences of {world.num_frames} "
            "frames for each number of balls, the same crops for every predictor."
        ),
        tables=[*(_by_balls(rows, metric, 1.0) for metric in TITLES), _by_balls(rows, "f1", 0.3)],
        pictures=[
            *_rollout_pictures(rollouts),
            *_score_pictures(rows, world),
            learning(entries),
            *module_pictures(entries, cells(world.arena), views),
        ],
    )


def rollouts_by_balls(
    models: Models, world: BallsWorld, balls: Sequence[int], num_sequences: int, seed: int
) -> dict[str, Rollouts]:
    """Closed-loop rollouts of all models but oracles, for each number of balls, by its heading."""
    able = {label: model for label, model in models.items() if not model.is_oracle}
    trivial = trivial_predictors(world, seed)
    return {plots.balls(number): roll_out(able, trivial, world, num_sequences, number, seed) for number in balls}


def animate(models: Models, world: BallsWorld, seed: int, balls: Sequence[int]) -> bytes:
    """An animated picture (GIF) of one closed-loop rollout for each number of balls."""
    return plots.rollout_animation(rollouts_by_balls(models, world, balls, 1, seed))


def _by_balls(rows: Sequence[Row], metric: str, views: float) -> Table:
    chosen = [row for row in rows if row["views"] == views]
    seen = "all views" if views == 1 else f"{views:.0%} of the views"
    heads = {number: plots.balls(number) for number in sorted({row["balls"] for row in chosen})}
    title = f"{TITLES[metric]}, one step ahead, {seen}"
    return comparison(chosen, metric, "balls", heads, title, TITLES[metric], SENTENCES[metric])


def _rollout_pictures(rollouts: Mapping[str, Rollouts]) -> list[Picture]:
    return [
        Picture(
            "Rollouts, moving",
            "image/gif",
            plots.rollout_animation(rollouts),
            f"After {PROMPT_STEPS} steps of true views each model sees only its own predictions, at random places. "
            "Compare each row with the truth at the top: the moving balls should keep moving as discs, not smear and "
            "fade. Blue-grey lines are pixels between the 4 x 4 queried crops.",
        ),
        *(
            drawn(
                f"Rollout, {heading}",
                plots.rollout_strip(part, 0, range(0, ROLLOUT_STEPS, 3)),
                "The same rollout, every third step. A model that tracks keeps as many bright discs as the truth has.",
            )
            for heading, part in rollouts.items()
        ),
        drawn(
            "How long rollouts hold",
            plots.rollout_scores({heading: part.f1() for heading, part in rollouts.items()}),
            f"F1 of the stitched frames over {SEQUENCES} sequences. Where a line is above the static scene, "
            "the model still knows where the moving balls are.",
        ),
    ]


def _score_pictures(rows: Sequence[Row], world: BallsWorld) -> list[Picture]:
    return [
        drawn(
            "One step ahead, by number of balls",
            plots.scores_by_balls(rows, 1.0, world.num_balls),
            f"All models were trained on {world.num_balls} balls (grey line); all other numbers are new to them.",
        ),
        *(
            drawn(
                f"{TITLES[metric]}, when views are dropped",
                plots.heat_maps(rows, metric),
                "The share of the ten views that a model sees grows from left to right; in training it saw all of "
                "them. A panel that stays bright towards the left needs few views.",
            )
            for metric in ("f1", "balanced_accuracy")
        ),
    ]
