"""Export of a streaming model: one step as a function of tensors, for `torch.export` and ONNX."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from s2rm.extras import require
from s2rm.files import write_whole
from s2rm.models.modules import activity, count_modules, masked
from s2rm.models.msa import Memory
from s2rm.models.s2rm import S2RM
from s2rm.models.sequence_model import SequenceModel
from s2rm.models.world_model import WorldModel
from s2rm.nn.core import Layer, RecurrentCore, a_weight
from s2rm.views import Views


@runtime_checkable
class Exported(Protocol):
    """A step that is written as an ONNX file."""

    model: Any
    num_modules: int

    def initial_state(self, batch_size: int, views: int = 1) -> tuple[Tensor, ...]: ...
    def save_onnx(self, path: str | Path) -> None: ...


@contextmanager
def plain_operations() -> Iterator[None]:
    """Within, PyTorch takes operations that ONNX has for those that it lacks."""
    lacking: list[tuple[Any, str, Any]] = [
        (torch.linalg, "solve", _solved),
        (torch.linalg, "cholesky_ex", _Unfactored),
        (torch, "cholesky_solve", lambda right, factor: _solved(factor, right)),
        (torch, "cdist", _distances),
        (torch, "searchsorted", lambda line, values: (values[..., None] > line).sum(-1)),
    ]
    before, fused = [getattr(module, name) for module, name, _ in lacking], torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for module, name, other in lacking:
            setattr(module, name, other)
        yield
    finally:
        for (module, name, _), own in zip(lacking, before, strict=True):
            setattr(module, name, own)
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within, a module and its parts are in evaluation mode; afterwards each is in its own again."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in before.items():
            part.training = mode


def _distances(one: Tensor, other: Tensor, **_: object) -> Tensor:
    return (one[..., :, None, :] - other[..., None, :, :]).square().sum(-1).sqrt()


class _Unfactored(NamedTuple):
    """In place of a Cholesky factor: the matrix itself, which `_solved` takes."""

    L: Tensor


_solve = torch.linalg.solve
"""PyTorch's own, whatever is exported"""


@torch.library.custom_op("s2rm::solve", mutates_args=(), schema="(Tensor matrix, Tensor right) -> Tensor")
def _one_operation(matrix, right):  # type: ignore[no-untyped-def]
    return _solve(matrix, right)


@_one_operation.register_fake
def _shaped(matrix, right):  # type: ignore[no-untyped-def]
    return torch.empty_like(right)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """The solution of symmetric positive definite systems, one operation until it is written as `_eliminated`."""
    vector = right.ndim < matrix.ndim
    solved = torch.ops.s2rm.solve(matrix, right[..., None] if vector else right)
    return solved[..., 0] if vector else solved


def _eliminated(matrix: Any, right: Any) -> Any:
    """`_solved` in operations of ONNX: elimination, which needs no pivots where matrices are positive definite."""
    from onnxscript import opset18

    op: Any = opset18

    def part(of: Any, axis: int, first: int, last: int) -> Any:
        first_at, last_at, along = (op.Constant(value_ints=[number]) for number in (first, last, axis))
        return op.Slice(of, first_at, last_at, along)

    size, both = int(matrix.shape[-1]), op.Concat(matrix, right, axis=-1)
    for number in range(size):
        row = part(both, -2, number, number + 1)
        row = op.Div(row, part(row, -1, number, number + 1))
        rest = op.Sub(both, op.Mul(part(both, -1, number, number + 1), row))
        both = op.Concat(part(rest, -2, 0, number), row, part(rest, -2, number + 1, size), axis=-2)
    return part(both, -1, size, 2**31)


def save_onnx(
    path: str | Path, step: nn.Module, given: tuple, shapes: tuple, inputs: Sequence[str], outputs: Sequence[str],
    optimize: bool = True,
) -> None:  # fmt: skip
    """Write a step as an ONNX file, complete or not at all.

    Args:
        path: of the file.
        step: the function.
        given, shapes: example inputs, and their axes of free size, as `torch.export.export` takes them.
        inputs, outputs: their names.
        optimize: whether the file is made smaller; runtimes optimise it when they load it, too.

    Raises:
        ImportError: the extra "onnx" is not installed.
    """
    require("onnx")
    with warnings.catch_warnings(), plain_operations(), evaluating(step), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            step, given, dynamic_shapes=shapes, dynamo=True, verbose=False, input_names=inputs,
            output_names=outputs, optimize=optimize,
            custom_translation_table={torch.ops.s2rm.solve.default: _eliminated},
        )  # fmt: skip
        written = Path(folder, "step.onnx")
        assert program is not None, "only other exporters return nothing"
        graph = program.model.graph
        named = [[value.name for value in part] for part in (graph.inputs, graph.outputs)]
        assert named == [list(inputs), list(outputs)], "what the file is called with are these names"
        program.save(written)
        write_whole(path, written.read_bytes())


def free_axes(state: Sequence[Tensor], other: Sequence[Tensor], free_of: Mapping[int, Any]) -> list[dict[int, Any]]:
    """Of each tensor of a state the axes of free size, those that differ from the same state of another size; `free_of`
    has what is free by its size in the first one."""
    sizes = ((one.shape, more.shape) for one, more in zip(state, other, strict=True))
    return [
        {axis: free_of[one] for axis, (one, more) in enumerate(zip(*shapes, strict=True)) if one != more}
        for shapes in sizes
    ]


class StreamingStep(nn.Module):
    """One `step` of a model, followed by a prediction from the new state.

    It is called with the tensors that `inputs` names, in that order, and returns those of `outputs`. B, A and Q, the
    numbers of sequences, views and queries, may differ from call to call.

    | input | what it is |
    | --- | --- |
    | `positions`, `values`, `mask` | the views: `(B, A, n)`, `(B, A, *shape)`, and bool `(B, A)` |
    | `queries` | `(B, Q, n)` |
    | `context` | `(B, Q, F)`, if the model takes context |
    | `modules` | bool `(M,)`, if the model has modules: False removes a module and keeps its state |
    | `state_0`, ... | the tensors of the state |

    | output | what it is |
    | --- | --- |
    | `predicted_mean`, `predicted_stddev` | `(B, Q, *target_shape)` each |
    | `active`, `reads`, `hears` | the activity of the modules, see [`Activity`][s2rm.models.modules.Activity] |
    | `enclaves` | `(B, M, Q)`, in S2RMs: the kernel of each module at each query, including removed modules |
    | `next_0`, ... | the tensors of the new state |

    For MSA the number of views A is fixed by the initial state, `initial_state(B, A)`: all calls pass A views, at least
    one, and `mask` selects those that are present.

    Raises:
        ValueError: the model is the oracle, which cannot stream, or has latent variables.
    """

    def __init__(self, model: WorldModel):
        super().__init__()
        if model.is_oracle:
            raise ValueError("export: the oracle sees the step that it predicts and cannot stream; take another model")
        if isinstance(model, S2RM) and model.latents is not None:
            raise ValueError("export: latent variables cannot be sampled in a file; export a model without latent_size")
        self.model = model
        self.num_modules, self.takes_context = count_modules(model), model.context_size > 0
        states = range(len(self.initial_state(1)))
        given = ["context"] * self.takes_context + ["modules"] * (self.num_modules > 0)
        self.inputs = ["positions", "values", "mask", "queries", *given, *(f"state_{number}" for number in states)]
        watched = ["active", "reads", "hears"] * (self.num_modules > 0) + ["enclaves"] * isinstance(model, S2RM)
        self.outputs = ["predicted_mean", "predicted_stddev", *watched, *(f"next_{number}" for number in states)]

    def initial_state(self, batch_size: int, views: int = 1) -> tuple[Tensor, ...]:
        """The tensors of the state before any view; that of MSA has room for this number of views per step."""
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
        # An input that is an output as well would lose its name in the file.
        states = [part.clone() if any(part is old for old in given) else part for part in states]
        return distribution.mean, distribution.stddev, *watched, *states

    def exported(self) -> torch.export.ExportedProgram:
        """The step as a program of `torch.export`."""
        given, shapes = self._example()
        with torch.no_grad(), plain_operations(), evaluating(self):
            return torch.export.export(self, given, dynamic_shapes=shapes)

    def _example(self) -> tuple[tuple[Tensor, ...], tuple]:
        """Example inputs, and their axes of free size."""
        batch, views, queries = 2, 3, 4
        zeros, n = a_weight(self).new_zeros, self.model.num_coordinates
        positions, values = zeros(batch, views, n), zeros(batch, views, *self.model.value_shape)
        given = [positions, values, zeros(batch, views) == 0, zeros(batch, queries, n)]
        rows, seen_each = Dim("batch"), Dim("views")
        seen, asked = {0: rows, 1: seen_each}, {0: rows, 1: Dim("queries")}
        state, other = self.initial_state(batch, views), self.initial_state(batch + 1, views + 1)
        axes = free_axes(state, other, {batch: rows, views: seen_each})
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
        save_onnx(path, self, *self._example(), self.inputs, self.outputs)


class SequenceStep(nn.Module):
    """One step of a sequence model. Inputs are `inputs` `(B, D)` and the tensors of the state, `state_0`, ...; outputs
    are the prediction after the step, `predicted` `(B, num_classes)`, or `(B,)` for real values, and the new state."""

    def __init__(self, model: SequenceModel):
        super().__init__()
        self.model, self.num_modules = model, 0
        states = range(len(self.initial_state()))
        self.inputs = ["inputs", *(f"state_{number}" for number in states)]
        self.outputs = ["predicted", *(f"next_{number}" for number in states)]

    def initial_state(self, batch_size: int = 1) -> tuple[Tensor, ...]:
        """The tensors of the state before any input."""
        core = self.model.core
        if isinstance(core, RecurrentCore):
            (layer,) = core.layers
            return tuple(part[None] for part in cast("Layer", layer).initial_state(batch_size))
        zeros = a_weight(self).new_zeros(1, batch_size, core.hidden_size)
        return (zeros, zeros.clone()) if isinstance(core, nn.LSTM) else (zeros,)

    def forward(self, inputs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        output, after = self.model.core(self.model.encoder(inputs)[:, None], state if len(state) > 1 else state[0])
        read = self.model.decoder(output[:, 0])
        return read.squeeze(-1) if self.model.num_classes is None else read, *tree_leaves(after)

    def save_onnx(self, path: str | Path) -> None:
        """Write the step as an ONNX file with these `inputs` and `outputs`, complete or not at all.

        Raises:
            ImportError: the extra "onnx" is not installed.
        """
        batch, rows = 2, Dim("batch")
        state, other = self.initial_state(batch), self.initial_state(batch + 1)
        axes = tuple(free_axes(state, other, {batch: rows}))
        inputs = a_weight(self).new_zeros(batch, self.model.input_size)
        save_onnx(path, self, (inputs, *state), ({0: rows}, axes), self.inputs, self.outputs)
