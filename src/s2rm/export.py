"""Export of a streaming model: one step as a function of tensors, for `torch.export` and ONNX."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten

from s2rm.extras import require
from s2rm.files import write_whole
from s2rm.models.world_model import WorldModel
from s2rm.nn.core import a_weight
from s2rm.views import Views


class StreamingStep(nn.Module):
    """One `step` of a model, followed by a prediction from the new state.

    Inputs: `positions` `(B, A, n)`, `values` `(B, A, *shape)`, `mask` (bool, `(B, A)`), `queries` `(B, Q, n)` and the
    tensors of the state. Outputs: mean and standard deviation of the prediction, `(B, Q, *target_shape)` each, and the
    tensors of the new state. B, A and Q may differ from call to call.

    Raises:
        ValueError: the model is the oracle, which cannot stream, or it takes context.
    """

    def __init__(self, model: WorldModel):
        super().__init__()
        if model.is_oracle:
            raise ValueError("export: the oracle sees the step that it predicts and cannot stream; take another model")
        if model.context_size:
            raise ValueError("export: a model that takes context cannot be exported yet; take one without")
        self.model = model

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """The tensors of the state before any view."""
        return tuple(tree_leaves(self.model.initial_state(batch_size)))

    def forward(
        self, positions: Tensor, values: Tensor, mask: Tensor, queries: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        structure = tree_structure(self.model.initial_state(1))
        views = Views._unchecked(positions[:, None], values[:, None], mask[:, None])
        after = self.model.step(views, tree_unflatten(state, structure))
        distribution = self.model.predict(after, queries)
        return distribution.mean, distribution.stddev, *tree_leaves(after)

    def exported(self) -> torch.export.ExportedProgram:
        """The step as a program of `torch.export`."""
        given, shapes = self._example()
        with torch.no_grad():
            return torch.export.export(self.eval(), given, dynamic_shapes=shapes)

    def _example(self) -> tuple[tuple[Tensor, ...], tuple]:
        """Example inputs, and their axes of free size."""
        batch, views, queries = 2, 3, 4
        zeros, n = a_weight(self).new_zeros, self.model.num_coordinates
        positions, values = zeros(batch, views, n), zeros(batch, views, *self.model.value_shape)
        given = (positions, values, zeros(batch, views) == 0, zeros(batch, queries, n))
        state, other = self.initial_state(batch), self.initial_state(batch + 1)
        # The batch axis of a tensor of the state is the one that differs between two batch sizes.
        sizes = [zip(one.shape, more.shape, strict=True) for one, more in zip(state, other, strict=True)]
        axes = [next(axis for axis, (one, more) in enumerate(pairs) if one != more) for pairs in sizes]
        rows = Dim("batch")
        seen, asked = {0: rows, 1: Dim("views")}, {0: rows, 1: Dim("queries")}
        return (*given, *state), (seen, seen, seen, asked, tuple({axis: rows} for axis in axes))

    def save_onnx(self, path: str | Path) -> None:
        """Write the step as an ONNX file, complete or not at all.

        Inputs: `positions`, `values`, `mask`, `queries`, `state_0`, ... Outputs: `predicted_mean`, `predicted_stddev`,
        `next_0`, ...

        Raises:
            ImportError: the extra "onnx" is not installed.
        """
        require("onnx")
        given, shapes = self._example()
        states = range(len(self.initial_state(1)))
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                self.eval(), given, dynamic_shapes=shapes, dynamo=True, verbose=False,
                input_names=["positions", "values", "mask", "queries", *(f"state_{number}" for number in states)],
                output_names=["predicted_mean", "predicted_stddev", *(f"next_{number}" for number in states)],
            )  # fmt: skip
            written = Path(folder, "step.onnx")
            assert program is not None, "only other exporters return nothing"
            program.save(written)
            write_whole(path, written.read_bytes())
