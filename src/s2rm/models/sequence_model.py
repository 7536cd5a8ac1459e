"""Sequence models, which map an input sequence to targets at its end, such as digits to recall or a class."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from s2rm.likelihoods import Mean
from s2rm.models.inputs import plain
from s2rm.models.model import Model
from s2rm.nn.core import a_weight
from s2rm.nn.memory import GroupedRelationalMemoryCell, RelationalMemory
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell
from s2rm.nn.rims import RIMs
from s2rm.sequences import Sequences

CORES = ("rims", "rmc", "lstm", "gru")


class SequenceModel(Model[Sequences]):
    r"""A recurrent core between a linear encoder of each step's input and a linear decoder of the last steps' outputs.

    $$e_t = E x_t + b \qquad o_t, s_t = F(e_t, s_{t-1}) \qquad \hat y_t = D o_t + c$$

    The bias of the encoder matters to RIMs: without it an input of zeros equals the null row, and modules could not
    distinguish the two.

    Args:
        input_size: D, channels of a step.
        num_classes: number of classes of each target; None for real values.
        core: "rims", "rmc" (relational memory, 4 slots, 3 heads), "lstm" or "gru".
        hidden_size: H, size of the core's state. Default: the paper's 600.
        embedding_size: size of an encoded input. Default: the hidden size.
        memory: number of steps that the gates remember at first, each unit its own number below it; see `remember`. If
            not given, the gates are drawn like all other weights.
        num_modules, num_active, communication_heads: of RIMs, see [`RIMs`][s2rm.nn.rims.RIMs]; other cores ignore them.
            The sizes of the attentions are proportional to that of a module, and are the paper's for 100 units.

    Raises:
        ValueError: an argument out of its range.

    Examples:
        >>> model = SequenceModel(input_size=3, num_classes=8, core="rims", hidden_size=24)
        >>> model.predict(torch.rand(2, 9, 3), last=4).shape
        torch.Size([2, 4, 8])

    Source:
        Goyal et al. 2019, "Recurrent Independent Mechanisms", section 4.1. Relative to the paper: no dropout, and the
        gates' first memory.
    """

    def __init__(
        self, *, input_size: int, num_classes: int | None, core: str = "rims", hidden_size: int = 600,
        embedding_size: int | None = None, memory: int | None = None, num_modules: int = 6, num_active: int = 4,
        communication_heads: int = 4,
    ):  # fmt: skip
        super().__init__()
        if core not in CORES:
            raise ValueError(f"SequenceModel: core must be one of {', '.join(CORES)}, got {core!r}")
        sizes = {"input_size": input_size, "num_classes": num_classes, "hidden_size": hidden_size}
        for name, size in {**sizes, "embedding_size": embedding_size, "memory": memory}.items():
            if size is not None and size < 1:
                raise ValueError(f"SequenceModel: {name} must be at least 1, got {size}")
        self.own = plain({
            **sizes, "core": core, "embedding_size": embedding_size, "memory": memory, "num_modules": num_modules,
            "num_active": num_active, "communication_heads": communication_heads,
        })  # fmt: skip
        self.input_size, self.num_classes = input_size, num_classes
        width = embedding_size or hidden_size
        self.encoder = nn.Linear(input_size, width)
        self.core: Any
        if core == "rims":
            # The paper's sizes, 64 and 32, are those of modules of 100.
            reading, talking = (max(1, round(share * hidden_size / num_modules)) for share in (0.64, 0.32))
            self.core = RIMs(
                width, hidden_size, batch_first=True, num_modules=num_modules, num_active=num_active,
                input_key_size=reading, communication_heads=communication_heads,
                communication_key_size=talking, communication_value_size=talking,
            )  # fmt: skip
        elif core == "rmc":
            self.core = RelationalMemory(width, hidden_size, batch_first=True, num_slots=4, num_heads=3)
        else:
            self.core = {"lstm": nn.LSTM, "gru": nn.GRU}[core](width, hidden_size, batch_first=True)
        self.decoder = nn.Linear(hidden_size, num_classes or 1)
        if memory is not None:
            remember(self.core, memory)

    @property
    def arguments(self) -> dict[str, object]:
        return self.own

    @property
    def setting(self) -> str:
        """The size of the core."""
        rims = f", {self.core.num_active} of {self.core.num_modules} modules active" if self.has_modules else ""
        return f"a core of {self.core.hidden_size}{rims}"

    @property
    def has_modules(self) -> bool:
        return isinstance(self.core, RIMs)

    def predict(self, inputs: Float[Tensor, "B T D"], last: int = 1, recompute: int | None = None) -> Tensor:
        """Logits of the classes `(B, last, num_classes)`, or real values `(B, last)`, after the last steps.

        Args:
            inputs: of T steps.
            last: S, number of steps.
            recompute: as for `loss`.

        Raises:
            ValueError: inputs of other channels, dtype or device; `last` below 1, or more than there are steps.
        """
        self._check_inputs(inputs)
        if not 1 <= last <= inputs.shape[1]:
            raise ValueError(f"predict: last must be in 1 to the {inputs.shape[1]} steps of the inputs, got {last}")
        encoded, outputs, state = self.encoder(inputs), [], None
        for part in encoded.split(recompute or inputs.shape[1], 1):
            if recompute is None:
                output, state = self.core(part)
            else:
                output, state = checkpoint(self.core, part, state, use_reentrant=False)
            outputs.append(output)
        read = self.decoder(torch.cat(outputs, 1)[:, -last:])
        return read.squeeze(-1) if self.num_classes is None else read

    def loss_terms(self, batch: Sequences, recompute: int | None = None) -> dict[str, Mean]:
        """One term, over all targets: the cross-entropy for classes; for real values the squared error, which up to a
        constant is the negative log-likelihood of a normal distribution with variance 1/2."""
        self._check(batch, recompute)
        read, targets = self.predict(batch.inputs, batch.targets.shape[1], recompute), batch.targets
        if self.num_classes is None:
            total = (read - targets).square().sum()
        else:
            total = cross_entropy(read.flatten(0, 1), targets.flatten().long(), reduction="sum")
        return {"nll": Mean(total, torch.full((), targets.numel(), device=total.device))}

    def _check_inputs(self, inputs: Tensor) -> None:
        weight = a_weight(self)
        if inputs.shape[-1] != self.input_size or (inputs.dtype, inputs.device) != (weight.dtype, weight.device):
            raise ValueError(
                f"SequenceModel: expected inputs of {self.input_size} channels, {weight.dtype} on {weight.device}, got "
                f"{inputs.shape[-1]}, {inputs.dtype} on {inputs.device}; make the model for them, or move them"
            )

    def _check(self, batch: Sequences, recompute: int | None) -> None:
        self._check_inputs(batch.inputs)
        targets, classes = batch.targets, self.num_classes
        if targets.is_floating_point() == (classes is not None):
            expected = "real values" if classes is None else "classes"
            raise ValueError(f"SequenceModel: expected targets that are {expected}, got {targets.dtype}; convert them")
        # Other devices would have to be waited for.
        if classes is not None and targets.numel() and targets.device.type == "cpu":
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= classes:
                raise ValueError(
                    f"SequenceModel: expected classes from 0 to {classes - 1}, got {low} to {high}; renumber them"
                )
        if recompute is not None and recompute < 1:
            raise ValueError(f"loss: recompute must be at least 1 step, got {recompute}")


@torch.no_grad()
def remember(core: nn.Module, steps: int) -> None:
    """Shift the biases of the gates of an LSTM, a GRU, RIMs or a relational memory so that its units keep what they
    hold for times drawn uniformly from 1 to a number of steps, and take in as little of each step.

    Source:
        Tallec and Ollivier 2018, "Can recurrent neural networks warp time?", section 2, where it is named chrono
        initialisation.
    """

    def shift(keep: Tensor, take: Tensor | None = None) -> None:
        bias = torch.log(torch.empty_like(keep).uniform_(1, max(2, steps - 1)))
        keep += bias
        if take is not None:
            take -= bias

    for part in core.modules():
        if isinstance(part, nn.LSTM):
            for name, bias in part.named_parameters():
                if name.startswith("bias_hh"):
                    take, keep, *_ = bias.chunk(4, -1)
                    shift(keep, take)
        elif isinstance(part, nn.GRU):
            for name, bias in part.named_parameters():
                if name.startswith("bias_hh"):
                    shift(bias.chunk(3, -1)[1])
        elif isinstance(part, GroupedLSTMCell):
            take, keep, *_ = part.bias_hidden.chunk(4, -1)
            shift(keep, take)
        elif isinstance(part, GroupedGRUCell):
            shift(part.bias_hidden.chunk(3, -1)[1])
        elif isinstance(part, GroupedRelationalMemoryCell) and part.gate_style is not None:
            take, keep = part.memory_gate[1].chunk(2, -1)
            shift(keep, take)
