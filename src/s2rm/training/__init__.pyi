from .callbacks import Diverged, KeepBest
from .fitting import Lesson, fit
from .loaders import Batches, batches
from .processor import flush_denormals, keep_freed_memory, one_thread
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
    "flush_denormals",
    "history",
    "keep_freed_memory",
    "one_thread",
    "provenance",
]
