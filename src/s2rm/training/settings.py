"""Settings of training and machines. The command line shows them, so neither torch nor Lightning is imported here."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import lightning
    from _typeshed import DataclassInstance

LAST = "checkpoints/last.ckpt"
"""the checkpoint from which a run resumes, in its folder"""
MODEL = "model"
"""folder of the best weights, in the folder of the run"""
LARGEST = 1e12
"""of all numbers but the seed"""
PRECISIONS = ("32-true", "bf16-mixed", "auto")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


def plain_fields(record: object) -> None:
    """Turn the numbers of NumPy in a frozen record into Python's, since no checkpoint can be read with others.

    Raises:
        ValueError: a field with a value of another type, such as 2.5 where a whole number is expected.
    """
    kinds: dict[str, type | tuple[type, ...]] = {"int": int, "float": (int, float), "bool": bool, "str": str}
    for one in fields(cast("DataclassInstance", record)):
        value = getattr(record, one.name)
        if hasattr(value, "item"):
            value = value.item()
            object.__setattr__(record, one.name, value)
        kind = str(one.type).removesuffix(" | None")
        if kind not in kinds or (value is None and kind != one.type):
            continue
        if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "bool"):
            expected = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "a text"}[kind]
            raise ValueError(f"{type(record).__name__.lower()}: {one.name} must be {expected}, got {value!r}")


@dataclass(frozen=True)
class Training:
    """How to train. The defaults are the paper's (E.4.3)."""

    learning_rate: float = 3e-4
    """initial learning rate of Adam. With a number of updates it follows a cosine schedule to 0; otherwise it is halved
    when the validation loss has not fallen by 0.01 % for more than 5 epochs"""
    batch_size: int = 32
    """sequences per batch, over all processes"""
    updates: int | None = None
    """total number of updates of the weights, including resumed sessions; if not given, no limit"""
    epochs: int | None = None
    """maximum number of passes over the training sequences; if not given, 100 if there is no other limit"""
    minutes: float | None = None
    """wall-clock budget for training, including resumed sessions; if not given, none"""
    patience: int = 20
    """stop when the validation loss has not fallen for this many epochs"""
    gradient_norm: float | None = None
    """clip the gradient to this norm; if not given, no clipping"""
    warmup: int = 0
    """number of updates, at the start, over which the learning rate rises linearly to its schedule; a number of updates
    must be given, too. Try it where training gets stuck at its first losses: large steps at the start may have
    saturated the states"""
    weight_decay: float = 0.0
    """weight decay of AdamW; 0 is Adam"""
    beta2: float = 0.999
    """decay of Adam's mean of squared gradients; with 0.98 models of views learn faster at high rates"""
    average: float | None = None
    """decay of an exponential moving average of the weights, which is validated and saved; if not given, no
    averaging"""
    unit_variance: bool = False
    """before the first update, scale the layers of encoder and decoder to unit variance on the first batch; helps with
    sparse views, whose signal otherwise nearly vanishes"""
    recompute: int | None = None
    """for long sequences: keep only the state of every n-th time step and recompute the others in the backward pass,
    which saves memory and costs time; if not given, keep all"""
    precision: str = "32-true"
    """precision of matrix products, as in Lightning: 32-true; bf16-mixed (autocast to bfloat16); or auto, which selects
    bf16-mixed if the processor supports it and a trial on the first batch is faster"""
    seed: int = 0
    """seed of initial weights, order and crops of a run; on one CPU the same seed gives the same run. A `fit` of your
    own model draws from PyTorch's global generator"""

    def __post_init__(self) -> None:
        plain_fields(self)
        positive = (
            "learning_rate", "batch_size", "updates", "epochs", "minutes", "patience", "gradient_norm", "recompute",
        )  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"training: {name} must be positive, got {value}")
        for name, value in vars(self).items():
            if isinstance(value, int | float) and name != "seed" and not abs(value) <= LARGEST:
                raise ValueError(f"training: {name} must be finite and at most {LARGEST:g}, got {value}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"training: seed must have at most 64 bits, got {self.seed}")
        for name in ("beta2", "average"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"training: {name} must be between 0 and 1, got {value}")
        for name in ("weight_decay", "warmup"):
            if getattr(self, name) < 0:
                raise ValueError(f"training: {name} must be at least 0, got {getattr(self, name)}")
        if self.warmup and (self.updates is None or self.warmup >= self.updates):
            raise ValueError(
                f"training: expected a warmup of fewer updates than the updates of the training, got {self.warmup} of "
                f"{self.updates}; set updates, or take a shorter warmup"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"training: precision must be {', '.join(PRECISIONS)}, got {self.precision!r}")

    @property
    def max_epochs(self) -> int:
        """Maximum number of passes over the training sequences, -1 for no limit."""
        return self.epochs or (-1 if self.updates or self.minutes else 100)

    def rate_at(self, update: int) -> float:
        """The learning rate at an update, if `updates` is given."""
        assert self.updates is not None
        rising = min(1, (update + 1) / (self.warmup + 1))
        return rising * self.learning_rate * (1 + math.cos(math.pi * min(1, update / self.updates))) / 2


def is_first_process() -> bool:
    """Whether this is the first, or only, of the processes that train together."""
    from lightning.pytorch.utilities import rank_zero_only

    return not getattr(rank_zero_only, "rank", 0)


@dataclass(frozen=True)
class Machines:
    """The machines to train on, with one process per device. The result depends on their number only by rounding."""

    devices: int = 1
    """number of GPUs per machine, or of processes on the CPU if there is no GPU"""
    num_nodes: int = 1
    """number of machines; with several, torchrun or SLURM starts the processes"""
    strategy: str = "auto"
    """strategy, as in Lightning: auto, ddp, or ddp_find_unused_parameters_true for a model with unused parameters"""

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"machines: {name} must be at least 1, got {getattr(self, name)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"machines: strategy must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")

    def trainer(self, **options: Any) -> lightning.Trainer:
        """Lightning's trainer on these machines; `options` are further arguments of `lightning.Trainer`.

        Raises:
            ValueError: devices that do not exist, or processes started from outside whose number differs.
        """
        import lightning
        from lightning.pytorch.plugins.environments import TorchElasticEnvironment
        from lightning.pytorch.utilities.exceptions import MisconfigurationException

        expected = self.devices * self.num_nodes
        started = int(os.environ.get("WORLD_SIZE" if TorchElasticEnvironment.detect() else "SLURM_STEP_NUM_TASKS", 1))
        if started != expected and (started > 1 or self.num_nodes > 1):
            raise ValueError(
                f"machines: devices {self.devices} and num_nodes {self.num_nodes} are {expected} processes, got "
                f"{started}; start as many with torchrun or srun"
            )
        # In a notebook Lightning's auto is a strategy that loses the weights that its processes trained.
        strategy = "ddp" if self.strategy == "auto" and expected > 1 else self.strategy
        try:
            return lightning.Trainer(devices=self.devices, num_nodes=self.num_nodes, strategy=strategy, **options)
        except (MisconfigurationException, RuntimeError) as error:
            raise ValueError(f"machines: {' '.join(str(error).split())}") from error
