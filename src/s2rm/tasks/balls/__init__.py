"""Bouncing balls seen through crops (S2RM, appendix B.2): the world, its scores and its report."""

from s2rm.tasks.balls.report import animate, scene, write_report
from s2rm.tasks.balls.scores import episodes, score
from s2rm.tasks.balls.world import BallsWorld, preset
from s2rm.tasks.task import Headline, Task

HEADLINE = Headline("F1, one step ahead, all views", "f1", "balls", "moving balls", (("views", 1.0),))
TASK = Task("balls", BallsWorld, preset, episodes, score, write_report, HEADLINE, animate=animate, scene=scene)

__all__ = ["TASK", "BallsWorld", "episodes", "preset", "score"]
