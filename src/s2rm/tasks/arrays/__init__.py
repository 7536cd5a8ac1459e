"""Your own world from a file of arrays: frames, points that move, or views; its scores and its report."""

from s2rm.tasks.arrays.files import Seeing
from s2rm.tasks.arrays.opening import open_world, write_world
from s2rm.tasks.arrays.planning import Plan, Planner
from s2rm.tasks.arrays.report import animate, write_report
from s2rm.tasks.arrays.rollouts import rollout
from s2rm.tasks.arrays.scene import scene
from s2rm.tasks.arrays.scores import episodes, score
from s2rm.tasks.arrays.world import ArrayWorld
from s2rm.tasks.task import Headline, Task

TITLE = "Error (root mean square), by steps ahead"
HEADLINE = Headline(
    TITLE, "error", "ahead", "steps ahead", (("views", 1.0),), lower=True, shown=(1, 2, 3, 5, 10)
)  # fmt: skip
TASK = Task(
    "arrays", ArrayWorld, open_world, episodes, score, write_report, HEADLINE, animate=animate,
    scene=scene,
)  # fmt: skip

__all__ = [
    "TASK", "ArrayWorld", "Plan", "Planner", "Seeing", "animate", "episodes", "open_world", "rollout", "score",
    "write_world",
]  # fmt: skip
