r"""Recurrent cells for a set of modules, each with its own parameters, computed as grouped products.

A cell is called `cell(inputs, hidden, state)`: `inputs` and `hidden` enter the gates, `state` is carried on.
`message(state)` is the part of the state that the other modules and the queries read.

One step is one node of the graph, with hand-written gradients: few passes over memory. `GRUStep` equals
[`gru_update`][s2rm.functional.gru_update] and `LSTMStep` [`lstm_update`][s2rm.functional.lstm_update] of the linear
maps of the inputs, $W x$, and of the messages, $U h$, with all tensors module first, `(M, B, ...)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.ops import aten

from s2rm.functional import gru_update, lstm_update
from s2rm.nn.over_time import Context, LinearMap, Summed, Sums, map_state, node, once, over_time


class LSTMState(NamedTuple):
    """The state of modules with long short-term memory, `(B, M, H)` each."""

    hidden: Tensor
    memory: Tensor


CellState = TypeVar("CellState", Tensor, LSTMState)
After = TypeVar("After", Tensor, tuple[Tensor, Tensor])
Maps = tuple[LinearMap, LinearMap]
"""the linear maps of the inputs and of the messages to the gates"""


def grouped_over_time(weight: Tensor, bias: Tensor | None = None) -> LinearMap:
    """Each module's own linear map, `(B, M, I)` to `(B, M, O)`, for use at every step of a loop."""
    product = over_time(weight, bias)
    return lambda inputs: product(inputs.transpose(0, 1)).transpose(0, 1)


def by_weights(x: Tensor, shared: bool) -> Tensor:
    """`(B, M, ...)` as grouped products take it: `(M, B, ...)`, or `(1, B M, ...)` with shared parameters."""
    return x.flatten(0, 1).unsqueeze(0) if shared else x.transpose(0, 1)


def by_batch(x: Tensor, num_modules: int, shared: bool) -> Tensor:
    """Back to `(B, M, ...)`."""
    return x.squeeze(0).unflatten(0, (-1, num_modules)) if shared else x.transpose(0, 1)


class GatedCell(nn.Module, Generic[CellState]):
    """The parameters of a gated cell per module: two linear maps to `num_gates` gates.

    Args:
        num_modules, input_size, hidden_size: M, and the sizes E of a module's input and H of its state.
        share_parameters: one set of parameters for all modules.
    """

    num_gates: int

    def __init__(self, num_modules: int, input_size: int, hidden_size: int, share_parameters: bool = False):
        super().__init__()
        self.num_modules, self.hidden_size, self.share_parameters = num_modules, hidden_size, share_parameters
        sets, width = 1 if share_parameters else num_modules, self.num_gates * hidden_size
        self.weight_input, self.weight_hidden, self.bias_input, self.bias_hidden = (
            nn.Parameter(torch.empty(sets, *shape, width)) for shape in ((input_size,), (hidden_size,), (), ())
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise all weights."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def state_from(self, given: CellState) -> CellState:
        """The state to start from: the given one, which may be zeros."""
        return given

    def over_time(self) -> Callable[[Tensor, Tensor, CellState], CellState]:
        """The cell, for use at every step of a loop."""
        maps = over_time(self.weight_input, self.bias_input), over_time(self.weight_hidden, self.bias_hidden)
        shared = self.share_parameters

        def step(inputs: Tensor, hidden: Tensor, state: CellState) -> CellState:
            inputs, hidden = by_weights(inputs, shared), by_weights(hidden, shared)
            state = map_state(lambda part: by_weights(part, shared), state)
            after = self.update(inputs, hidden, state, maps)
            return map_state(lambda part: by_batch(part, self.num_modules, shared), after)

        return step

    def update(self, inputs: Tensor, hidden: Tensor, state: CellState, maps: Maps) -> CellState:
        """The next state from the inputs of the two maps; module first, `(M, B, ...)`."""
        raise NotImplementedError

    def forward(self, inputs: Float[Tensor, "B M E"], hidden: Float[Tensor, "B M H"], state: CellState) -> CellState:
        """One step."""
        return self.over_time()(inputs, hidden, state)

    def zeros(self, batch_size: int) -> Float[Tensor, "B M H"]:
        return self.weight_hidden.new_zeros(batch_size, self.num_modules, self.hidden_size)


class GroupedGRUCell(GatedCell[Tensor]):
    """One gated recurrent unit per module. See [`gru_update`][s2rm.functional.gru_update] for the equations."""

    num_gates = 3

    def initial_state(self, batch_size: int) -> Float[Tensor, "B M H"]:
        return self.zeros(batch_size)

    def message(self, state: Float[Tensor, "*batch M H"]) -> Float[Tensor, "*batch M H"]:
        return state

    def update(self, inputs: Tensor, hidden: Tensor, state: Tensor, maps: Maps) -> Tensor:
        return gated_step(GRUStep, gru_update, inputs, hidden, state, maps)


class GroupedLSTMCell(GatedCell[LSTMState]):
    """One long short-term memory per module. See [`lstm_update`][s2rm.functional.lstm_update] for the equations."""

    num_gates = 4

    def initial_state(self, batch_size: int) -> LSTMState:
        return LSTMState(self.zeros(batch_size), self.zeros(batch_size))

    def message(self, state: LSTMState) -> Float[Tensor, "*batch M H"]:
        return state.hidden

    def update(self, inputs: Tensor, hidden: Tensor, state: LSTMState, maps: Maps) -> LSTMState:
        return LSTMState(*gated_step(LSTMStep, lstm_update, inputs, hidden, state.memory, maps))


def gated_step(
    step: type[Function], plain: Callable[..., After], inputs: Tensor, hidden: Tensor, carried: Tensor, maps: Maps
) -> After:
    """The next state, from inputs x, `(M, B, E)`, messages h and the state c that is carried on, `(M, B, H)` each.

    It is computed by the node, or by the plain equations where autograd computes all gradients.
    """
    summed = [map_ for map_ in maps if isinstance(map_, Summed)]
    if summed:
        return node(step, inputs, hidden, carried, summed, *(map_.token for map_ in summed))
    return plain(maps[0](inputs), maps[1](hidden), carried)


class GRUStep(Function):
    r"""With gates $r, z = \sigma(Wx + Uh)$ and candidate $n = \tanh(W_n x + r \odot U_n h)$:

    $$h' = (1 - z) \odot n + z \odot c$$
    """

    @staticmethod
    def forward(
        ctx: Context, inputs: Tensor, hidden: Tensor, carried: Tensor, maps: list[Summed], *tokens: Tensor | None
    ) -> Tensor:
        after, *kept = GRUStep.of(maps[0].product(inputs), maps[1].product(hidden), carried)
        ctx.save_for_backward(*kept, inputs, hidden, *(map_.weight for map_ in maps), *tokens)
        ctx.sums = [map_.sums for map_ in maps]
        return after

    @staticmethod
    @once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        gates = gradient.new_empty(*gradient.shape[:-1], 4 * gradient.shape[-1])
        to_carried = GRUStep.gradients(saved[:4], gradient, gates)
        return _gradients([*saved[4:]], ctx.sums, *GRUStep.parts(gates), to_carried)

    @staticmethod
    def of(
        input_gates: Tensor, hidden_gates: Tensor, carried: Tensor, out: Sequence[Tensor | None] = (None,)
    ) -> tuple[Tensor, ...]:
        """The next state from the outputs of both maps, `(M, B, 3H)`, of which the first is written, and what the
        gradients need."""
        size = carried.shape[-1]
        gates = input_gates[..., : 2 * size].add_(hidden_gates[..., : 2 * size]).sigmoid_()
        reset, update = gates.chunk(2, -1)
        hidden_candidate = hidden_gates[..., 2 * size :].clone()  # a view would keep all of the gates
        candidate = torch.addcmul(input_gates[..., 2 * size :], reset, hidden_candidate).tanh_()
        return torch.lerp(candidate, carried, update, out=out[0]), gates, candidate, hidden_candidate, carried

    @staticmethod
    def gradients(kept: Sequence[Tensor], gradient: Tensor, to_gates: Tensor) -> Tensor:
        """Write those of the outputs of both maps into `(M, B, 4H)`, see `parts`; return that of the carried state."""
        gates, candidate, hidden_candidate, carried = kept
        size = carried.shape[-1]
        reset, update = gates.chunk(2, -1)
        # With g = dL/dh' and a the candidate before its tanh:
        #   dc = g z,  da = (g - dc)(1 - n²),  dr = da (U_n h),  dz = g (c - n),  d(U_n h) = da r;
        # dr and dz then pass their sigmoids.
        to_carried = gradient * update
        to_hidden_candidate, to_reset_update, to_candidate = to_gates.split((size, 2 * size, size), -1)
        aten.tanh_backward.grad_input(gradient - to_carried, candidate, grad_input=to_candidate)
        torch.mul(to_candidate, reset, out=to_hidden_candidate)
        torch.mul(to_candidate, hidden_candidate, out=to_reset_update[..., :size])
        torch.mul(carried - candidate, gradient, out=to_reset_update[..., size:])
        aten.sigmoid_backward.grad_input(to_reset_update, gates, grad_input=to_reset_update)
        return to_carried

    @staticmethod
    def parts(to_gates: Float[Tensor, "M B G"]) -> tuple[Tensor, Tensor]:
        """The gradients of the outputs of the inputs' and of the messages' map. They have those of r and z in common,
        which stand in the middle: before them that of the messages' candidate, behind them that of the inputs'."""
        size = to_gates.shape[-1] // 4
        return to_gates[..., size:], to_gates[..., : 3 * size].roll(-size, -1)


class LSTMStep(Function):
    r"""With gates $i, f, o = \sigma(Wx + Uh)$ and $g = \tanh(W_g x + U_g h)$:

    $$c' = f \odot c + i \odot g, \quad h' = o \odot \tanh(c')$$
    """

    @staticmethod
    def forward(
        ctx: Context, inputs: Tensor, hidden: Tensor, memory: Tensor, maps: list[Summed], *tokens: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        bias = maps[0].bias + maps[1].bias  # type: ignore[operator]
        gates = torch.baddbmm(bias[:, None], inputs, maps[0].weight)
        state, after, *kept = LSTMStep.of(gates.baddbmm_(hidden, maps[1].weight), memory)
        ctx.save_for_backward(*kept, inputs, hidden, *(map_.weight for map_ in maps), *tokens)
        ctx.sums = [map_.sums for map_ in maps]
        return state, after

    @staticmethod
    @once
    def backward(ctx: Context, to_state: Tensor, to_memory: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        to_gates = torch.empty_like(saved[0])
        to_carried = LSTMStep.gradients(saved[:3], to_state, to_memory, to_gates)
        return _gradients([*saved[3:]], ctx.sums, to_gates, to_gates, to_carried)

    @staticmethod
    def of(gates: Tensor, memory: Tensor, out: Sequence[Tensor | None] = (None, None)) -> tuple[Tensor, ...]:
        """The next state and memory from the summed outputs of both maps, `(M, B, 4H)`, which become the gates, and
        what the gradients need."""
        size = memory.shape[-1]
        i, f, g, o = gates.chunk(4, -1)
        gates[..., : 2 * size].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        after = torch.addcmul(f * memory, i, g, out=out[1])
        squashed = after.tanh()
        return torch.mul(o, squashed, out=out[0]), after, gates, memory, squashed

    @staticmethod
    def gradients(kept: Sequence[Tensor], to_state: Tensor, to_memory: Tensor, to_gates: Tensor) -> Tensor:
        """Write those of the summed outputs of both maps, `(M, B, 4H)`; return that of the carried memory."""
        gates, memory, squashed = kept
        size = memory.shape[-1]
        i, f, g, o = gates.chunk(4, -1)
        # dc' = dh' o (1 - tanh²(c')) + its own gradient;  di = dc' g,  df = dc' c,  dg = dc' i,  do = dh' tanh(c'),
        # each then through its own sigmoid or tanh;  dc = dc' f.
        to_after = aten.tanh_backward(to_state * o, squashed).add_(to_memory)
        to_i_f, to_g, to_o = to_gates.split((2 * size, size, size), -1)
        torch.mul(to_after, g, out=to_i_f[..., :size])
        torch.mul(to_after, memory, out=to_i_f[..., size:])
        torch.mul(to_after, i, out=to_g)
        torch.mul(to_state, squashed, out=to_o)
        aten.sigmoid_backward.grad_input(to_i_f, gates[..., : 2 * size], grad_input=to_i_f)
        aten.tanh_backward.grad_input(to_g, g, grad_input=to_g)
        aten.sigmoid_backward.grad_input(to_o, o, grad_input=to_o)
        return to_after.mul_(f)


def _gradients(
    maps: list[Tensor], sums: list[Sums], to_input: Tensor, to_hidden: Tensor, to_carried: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the step's arguments from those of its maps' outputs; the weights' go to the sums."""
    inputs, hidden, weight_input, weight_hidden, *tokens = maps
    sums[0].add(inputs, to_input)
    sums[1].add(hidden, to_hidden)
    to_inputs, to_messages = to_input @ sums[0].back(weight_input), to_hidden @ sums[1].back(weight_hidden)
    return to_inputs, to_messages, to_carried, None, *tokens
