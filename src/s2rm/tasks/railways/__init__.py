"""Trains on a railway, each with a view of the cells around it (S2RM, appendix A): world, scores and report."""

from s2rm.tasks.railways.play import collect
from s2rm.tasks.railways.report import write_report
from s2rm.tasks.railways.scene import scene
from s2rm.tasks.railways.scores import episodes, score
from s2rm.tasks.railways.world import Railways, RailwayWorld, preset
from s2rm.tasks.task import Headline, Task

HEADLINE = Headline("F1 of trains, one step ahead", "f1_trains", "reporting", "share of trains that report")
TASK = Task(
    "railways", RailwayWorld, preset, episodes, score, write_report, HEADLINE, extra="railways",
    share="reporting", scene=scene,
)  # fmt: skip

__all__ = ["TASK", "RailwayWorld", "Railways", "collect", "episodes", "preset", "score"]
