"""The call contract of `torch.nn.LSTM`, for other recurrent cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from s2rm.nn.over_time import under_autocast

State = tuple[Tensor, ...]


class Layer(nn.Module):
    """One layer in one direction, of which [`RecurrentCore`][s2rm.nn.core.RecurrentCore] stacks several."""

    def initial_state(self, batch_size: int) -> State:
        """The state before any input, `(B, H)` each."""
        raise NotImplementedError

    def state_from(self, given: State) -> State:
        """The state to start from, of a given one; a layer that cannot start from zeros replaces them."""
        return given

    def reset_parameters(self) -> None:
        """Reinitialise all weights, in the order in which the constructor initialises them."""
        raise NotImplementedError

    def steps(self, inputs: Tensor) -> Iterator[Callable[[State], State]]:
        """For each step of inputs `(B, T, ...)`, the map of a state to the next one, whose first part is the output."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, state: State, mask: Tensor | None) -> tuple[Tensor, State]:
        """Outputs `(B, T, H)` and the last state; where `mask`, bool `(B, T)`, is False the state is kept and the
        output is 0."""
        outputs = []
        for number, step in enumerate(self.steps(inputs)):
            after = step(state)
            output = after[0]
            if mask is not None:
                present = mask[:, number, None]
                output = torch.where(present, output, 0.0)
                after = tuple(torch.where(present, new, old) for new, old in zip(after, state, strict=True))
            state = after
            outputs.append(output)
        return torch.stack(outputs, 1), state


class RecurrentCore(nn.Module):
    """Stacked layers and directions of a recurrent core, called like `torch.nn.LSTM`.

    Args:
        make_layer: returns a layer, given the size of its input.
        hidden_size: of the output in each direction.
        input_size, num_layers, batch_first, dropout, bidirectional: as with `torch.nn.LSTM`.
    """

    most_dimensions = 3
    """of a batch of inputs"""

    def __init__(
        self, make_layer: Callable[[int], Layer], input_size: int, hidden_size: int, num_layers: int,
        batch_first: bool, dropout: float, bidirectional: bool,
    ):  # fmt: skip
        super().__init__()
        if input_size < 1 or hidden_size < 1 or num_layers < 1:
            raise ValueError(
                f"{type(self).__name__}: input_size, hidden_size and num_layers must be at least 1, got {input_size}, "
                f"{hidden_size} and {num_layers}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"{type(self).__name__}: dropout must be a probability from 0 to 1, got {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.bidirectional = batch_first, dropout, bidirectional
        self.directions = 2 if bidirectional else 1
        sizes = [input_size] + [self.directions * hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(make_layer(size) for size in sizes for _ in range(self.directions))

    def flatten_parameters(self) -> None:
        """Does nothing; for code that calls it on an `nn.LSTM`."""

    def reset_parameters(self) -> None:
        """Reinitialise all weights. With the same seed they equal those of a new core."""
        for layer in self.layers:
            cast("Layer", layer).reset_parameters()

    def forward(
        self,
        input: Tensor | PackedSequence | Sequence[Tensor],
        hx: Tensor | Sequence[Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, Tensor | State]:
        """The outputs of every step and the state after the last.

        Args:
            input: `(B, T, input_size)` if `batch_first`, else `(T, B, input_size)`; `(T, input_size)` for a single
                sequence; or a `PackedSequence`. A list of sequences is refused.
            hx: the state, `(h, c)`, each `(num_layers * directions, B, hidden_size)`; one tensor where the core has
                only one. Default: the initial state.
            mask: bool `(B, T)`, `(T, B)` or `(T,)` as `input`, True where a step is present. Elsewhere the state is
                kept, the output is 0 and the input has no effect.

        Returns:
            Outputs with `directions * hidden_size` at the end, in the form of `input`, and the state.

        Raises:
            ValueError: inputs, state or mask of another size, dtype or device.
        """
        state = None if hx is None else (hx,) if isinstance(hx, Tensor) else tuple(hx)
        if isinstance(input, PackedSequence):
            return self._run_packed(input, state, mask)
        if isinstance(input, Sequence):
            raise ValueError(
                f"{type(self).__name__}: expected one tensor or a PackedSequence, got a {type(input).__name__}; "
                "sequences of unequal length need torch.nn.utils.rnn.pack_sequence, or padding and a mask"
            )
        if input.ndim < 2:
            self._check(input, None, None)
        if input.ndim == 2:
            state = None if state is None else tuple(part.unsqueeze(1) for part in state)
            outputs, state = self._run(input[None], state, None if mask is None else mask[None])
            return outputs.squeeze(0), _join(tuple(part.squeeze(1) for part in state))
        if self.batch_first:
            outputs, state = self._run(input, state, mask)
            return outputs, _join(state)
        outputs, state = self._run(input.transpose(0, 1), state, None if mask is None else mask.transpose(0, 1))
        return outputs.transpose(0, 1), _join(state)

    def _run_packed(
        self, packed: PackedSequence, state: State | None, mask: Tensor | None
    ) -> tuple[PackedSequence, Tensor | State]:
        if mask is not None:
            already = "a PackedSequence already defines which steps are present"
            raise ValueError(f"{type(self).__name__}: {already}, got a mask too; drop one")
        padded, lengths = pad_packed_sequence(packed, batch_first=True)
        present = torch.arange(padded.shape[1], device=padded.device) < lengths.to(padded.device)[:, None]
        outputs, state = self._run(padded, state, present)
        # Sorted as `packed` is: sorting anew could exchange sequences of equal length.
        order = torch.arange(len(lengths)) if packed.sorted_indices is None else packed.sorted_indices.cpu()
        data = pack_padded_sequence(outputs[order.to(outputs.device)], lengths[order], batch_first=True).data
        return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices), _join(state)

    def _run(self, inputs: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State]:
        """Outputs `(B, T, directions * H)` and the state of all layers, from inputs `(B, T, ...)`."""
        self._check(inputs, state, mask)
        if mask is not None:
            # Whatever stands at absent steps, NaN too, must reach neither outputs nor gradients.
            inputs = torch.where(mask.reshape(mask.shape + (1,) * (inputs.ndim - 2)), inputs, 0.0)
        ends: list[State] = []
        for number in range(self.num_layers):
            outputs = []
            for direction in range(self.directions):
                index = number * self.directions + direction
                layer = cast("Layer", self.layers[index])
                # Not `len`, which would fix the batch size of an exported program.
                if state is None:
                    start = layer.initial_state(inputs.shape[0])
                else:
                    start = layer.state_from(tuple(part[index] for part in state))
                given, present = inputs, mask
                if direction:
                    given, present = inputs.flip(1), None if mask is None else mask.flip(1)
                output, end = layer(given, start, present)  # called, so that hooks such as those of pruning run
                outputs.append(output.flip(1) if direction else output)
                ends.append(end)
            inputs = torch.cat(outputs, -1)
            if number + 1 < self.num_layers:
                inputs = nn.functional.dropout(inputs, self.dropout, self.training)
        return inputs, tuple(torch.stack(part) for part in zip(*ends, strict=True))

    def _check(self, inputs: Tensor, state: State | None, mask: Tensor | None) -> None:
        name, weight = type(self).__name__, a_weight(self)
        if not 3 <= inputs.ndim <= self.most_dimensions or inputs.shape[-1] != self.input_size or inputs.shape[1] < 1:
            raise ValueError(
                f"{name}: expected inputs of (batch, time, {self.input_size}) with at least one step, got "
                f"{tuple(inputs.shape)} (batch first); create the core with this input_size"
            )
        typed = inputs.dtype == weight.dtype or under_autocast(inputs.device)
        if not typed or inputs.device != weight.device:
            raise ValueError(
                f"{name}: the weights are {weight.dtype} on {weight.device}, the inputs {inputs.dtype} on "
                f"{inputs.device}; move the inputs with .to(...)"
            )
        flags = (inputs.shape[:2], torch.bool, inputs.device)
        if mask is not None and (mask.shape, mask.dtype, mask.device) != flags:
            raise ValueError(
                f"{name}: mask must be bool with the inputs' (batch, time), {tuple(inputs.shape[:2])}, on "
                f"{inputs.device}, got {mask.dtype} {tuple(mask.shape)} on {mask.device}"
            )
        if state is None:
            return
        layer = cast("Layer", self.layers[0])
        expected = [(len(self.layers), *part.shape) for part in layer.initial_state(inputs.shape[0])]
        got = [tuple(part.shape) for part in state]
        if got != expected or {(part.dtype, part.device) for part in state} != {(weight.dtype, weight.device)}:
            raise ValueError(
                f"{name}: expected a state of {len(expected)} tensor(s) {expected[0]} (layers x directions, batch, "
                f"hidden), {weight.dtype} on {weight.device}, got {got}, {state[0].dtype} on {state[0].device}; leave "
                "it out to start from the initial state"
            )


def a_weight(module: nn.Module) -> Tensor:
    """The first weight of a module, whose dtype and device stand for all. Also works for replicas of
    `nn.DataParallel`, whose weights are not parameters."""
    for part in module.modules():
        for weight in (part._parameters or getattr(part, "_former_parameters", {})).values():
            if weight is not None:
                return weight
    raise ValueError(f"{type(module).__name__}: expected a module with weights, got none")


def _join(parts: State) -> Tensor | State:
    return parts[0] if len(parts) == 1 else parts
