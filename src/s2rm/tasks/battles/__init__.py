"""Battles of two teams, seen by the units of one (S2RM, appendix B.1): simulated skirmishes, or StarCraft II's own."""

from s2rm.tasks.battles.polar import PolarGrid, dataset, observations
from s2rm.tasks.battles.report import write_report
from s2rm.tasks.battles.scene import scene
from s2rm.tasks.battles.scores import episodes, score
from s2rm.tasks.battles.skirmish import SkirmishWorld, preset, simulate
from s2rm.tasks.battles.trajectories import Trajectories
from s2rm.tasks.task import Headline, Task

TITLE = "Unit-type macro F1, one step ahead, all views"
HEADLINE = Headline(TITLE, "unit_type_f1", "scenario", "scenario", (("reporting", 1.0),))
TASK = Task(
    "skirmish", SkirmishWorld, preset, episodes, score, write_report, HEADLINE, share="reporting",
    scene=scene,
)  # fmt: skip

__all__ = [
    "TASK", "PolarGrid", "SkirmishWorld", "Trajectories", "dataset", "episodes", "observations", "preset", "score",
    "simulate",
]  # fmt: skip
