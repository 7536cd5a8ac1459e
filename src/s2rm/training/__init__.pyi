from .callbacks import Diverged, KeepBest
from .fitting import Lesson, fit, keep_freed_memory
from .loaders import Batches, batches
from .records import Ended, Provenance, Summary, cpu_name, history, provenance
from .settings import LAST, MODEL, Machines, Training

__all__ = [
    "LAST",
    "MODEL",
    "Batches",
    "Diverged",
    "Ended",
    "KeepBest",
    "Lesson",
    "Machines",
    "Provenance",
    "Summary",
    "Training",
    "batches",
    "cpu_name",
    "fit",
    "history",
    "keep_freed_memory",
    "provenance",
]
