"""Export of a streaming model: one step as a function of tensors, for `torch.export` and ONNX."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from s2rm.extras import require
from s2rm.files import write_whole
from s2rm.models.modules import activity, count_modules, masked
from s2rm.models.msa import Memory
from s2rm.models.s2rm import S2RM
from s2rm.models.world_model import WorldModel
from s2rm.nn.core import a_weight
from s2rm.views import Views


@runtime_checkable
class Exported(Protocol):
    """A step that is written as an ONNX file."""

    model: Any
    num_modules: int

    def initial_state(self, batch_size: int, views: int = 1) -> tuple[Tensor, ...]: ...
    def save_onnx(self, path: str | Path) -> None: ...


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within, PyTorch's transformer computes step by step, which can be exported, and not by its fused operation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class StreamingStep(nn.Module):
    """One `step` of a model, followed by a prediction from the new state.

    It is called with the tensors that `inputs` names, in that order, and returns those of `outputs`. B, A and Q, the
    numbers of sequences, views and queries, may differ from call to call.

    | input | what it is |
    | --- | --- |
    | `positions`, `values`, `mask` | the views: `(B, A, n)`, `(B, A, *shape)`, and bool `(B, A)` |
    | `queries` | `(B, Q, n)` |
    | `context` | `(B, Q, F)`, where the model takes context |
    | `modules` | bool `(M,)`, where the model has modules: False removes one, and its state stays as it is |
    | `state_0`, ... | the tensors of the state |

    | output | what it is |
    | --- | --- |
    | `predicted_mean`, `predicted_stddev` | `(B, Q, *target_shape)` each |
    | `active`, `reads`, `hears` | what the modules did, as [`Activity`][s2rm.models.modules.Activity] has it |
    | `enclaves` | `(B, M, Q)`, in S2RMs: the kernel of each module at each query, of removed modules too |
    | `next_0`, ... | the tensors of the new state |

    The state of MSA has room for as many views a step as the first call gives: `initial_state(B, A)`. All calls give as
    many, at least one, and `mask` says which are there.

    Raises:
        ValueError: the model is the oracle, which cannot stream.
    """

    def __init__(self, model: WorldModel):
        super().__init__()
        if model.is_oracle:
            raise ValueError("export: the oracle sees the step that it predicts and cannot stream; take another model")
        self.model = model
        self.num_modules, self.takes_context = count_modules(model), model.context_size > 0
        states = range(len(self.initial_state(1)))
        given = ["context"] * self.takes_context + ["modules"] * (self.num_modules > 0)
        self.inputs = ["positions", "values", "mask", "queries", *given, *(f"state_{number}" for number in states)]
        watched = ["active", "reads", "hears"] * (self.num_modules > 0) + ["enclaves"] * isinstance(model, S2RM)
        self.outputs = ["predicted_mean", "predicted_stddev", *watched, *(f"next_{number}" for number in states)]

    def initial_state(self, batch_size: int, views: int = 1) -> tuple[Tensor, ...]:
        """The tensors of the state before any view; that of MSA has room for so many views a step."""
        state = self.model.initial_state(batch_size)
        return tuple(tree_leaves(state.with_room(views) if isinstance(state, Memory) else state))

    def forward(
        self, positions: Tensor, values: Tensor, mask: Tensor, queries: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        given = list(rest)
        context = given.pop(0) if self.takes_context else None
        modules = given.pop(0) if self.num_modules else None
        before = tree_unflatten(given, tree_structure(self.model.initial_state(1)))
        views = Views._unchecked(positions[:, None], values[:, None], mask[:, None])
        with masked(self.model, modules):
            after = self.model.step(views, before)
            distribution = self.model.predict(after, queries, context)
        watched: list[Tensor] = []
        states = tree_leaves(after)
        if modules is not None:
            watched += activity(self.model, views, before, modules)
        if isinstance(self.model, S2RM) and modules is not None:
            watched.append(self.model.modules_on_sphere(self.model.embedding(queries)))
            # Tensors of modules are (B, M, ...).
            kept = [modules.view(-1, *(1,) * (part.ndim - 2)) for part in states]
            states = [torch.where(*parts) for parts in zip(kept, states, given, strict=True)]
        return distribution.mean, distribution.stddev, *watched, *states

    def exported(self) -> torch.export.ExportedProgram:
        """The step as a program of `torch.export`."""
        given, shapes = self._example()
        with torch.no_grad(), plain_attention():
            return torch.export.export(self.eval(), given, dynamic_shapes=shapes)

    def _example(self) -> tuple[tuple[Tensor, ...], tuple]:
        """Example inputs, and their axes of free size."""
        batch, views, queries = 2, 3, 4
        zeros, n = a_weight(self).new_zeros, self.model.num_coordinates
        positions, values = zeros(batch, views, n), zeros(batch, views, *self.model.value_shape)
        given = [positions, values, zeros(batch, views) == 0, zeros(batch, queries, n)]
        rows, seen_each = Dim("batch"), Dim("views")
        seen, asked = {0: rows, 1: seen_each}, {0: rows, 1: Dim("queries")}
        # The free axes of a tensor of the state are those that differ between two sizes.
        state, other = self.initial_state(batch, views), self.initial_state(batch + 1, views + 1)
        free_of = {batch: rows, views: seen_each}
        axes = [
            {axis: free_of[one] for axis, (one, more) in enumerate(zip(*shapes, strict=True)) if one != more}
            for shapes in ((part.shape, larger.shape) for part, larger in zip(state, other, strict=True))
        ]
        free: list[dict] = [seen, seen, seen, asked]
        if self.takes_context:
            given.append(zeros(batch, queries, self.model.context_size))
            free.append(asked)
        if self.num_modules:
            given.append(zeros(self.num_modules) == 0)
            free.append({})
        return (*given, *state), (*free[:4], (*free[4:], *axes))

    def save_onnx(self, path: str | Path) -> None:
        """Write the step as an ONNX file with these `inputs` and `outputs`, complete or not at all.

        Raises:
            ImportError: the extra "onnx" is not installed.
        """
        require("onnx")
        given, shapes = self._example()
        with warnings.catch_warnings(), plain_attention(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                self.eval(), given, dynamic_shapes=shapes, dynamo=True, verbose=False,
                input_names=self.inputs, output_names=self.outputs,
            )  # fmt: skip
            written = Path(folder, "step.onnx")
            assert program is not None, "only other exporters return nothing"
            program.save(written)
            write_whole(path, written.read_bytes())
