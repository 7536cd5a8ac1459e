"""Spatially structured recurrent modules."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from s2rm.functional import TWO_PI
from s2rm.models.world_model import WorldModel
from s2rm.nn.attention import KernelModulatedAttention
from s2rm.nn.embedding import ModulePlaces, uniform_positions
from s2rm.nn.recurrent import GroupedGRUCell
from s2rm.views import Views


class S2RM(WorldModel):
    """A set of recurrent modules, each with a learned place on a sphere, that read views and each other by place.

    At each step module m reads the views (input attention, `u_m`) and the modules (inter-cell attention, `h̄_m`),
    both attenuated by the kernel `Z` of its place, and updates its state: `h_m' = F_m(u_m, h̄_m, h_m)`. A query polls
    the modules near it: `d_q = Σ_m Z(P(x_q), p_m) h_m`, which the decoder turns into a predicted view.

    Args:
        value_shape: shape of a view.
        num_coordinates: n, coordinates of a position.
        num_modules: M.
        hidden_size: size of a module's state, and of an encoded view.
        embedding_dim: d, size of the positional embedding, a multiple of 2n.
        bandwidth: ε of the kernel.
        truncation: τ of the kernel.
        shortest: shortest wavelength of the embedding, in the world's units; a good start is the world's extent.
        longest: bound of the longest wavelength.
        extent: the box of the world's positions, one (low, high) a coordinate, in which the modules start. Default:
            one shortest wavelength from 0.
        likelihood: "bernoulli" (binary pixels) or "gaussian" (real channels).
        codec: "cnn" (the paper's size, for images) or "mlp" (small, for CPUs and for any shape).
        inject_positions: give embedded positions to encoder and decoder too; the paper does so in the baselines only.
        carry: what the update gate keeps: the module's "own" state, or the "aggregated" one, as Eq. 4 has it.

    Raises:
        ValueError: an argument out of its range.

    Source:
        S2RM, section 4, appendix C, Table 2 for the defaults. Relative to the paper: see the docs page of that name.
    """

    def __init__(
        self,
        *,
        value_shape: Sequence[int],
        num_coordinates: int,
        num_modules: int = 10,
        hidden_size: int = 128,
        embedding_dim: int = 16,
        bandwidth: float = 1.0,
        truncation: float = 0.6,
        shortest: float = TWO_PI,
        longest: float = TWO_PI * 10_000,
        extent: Sequence[Sequence[float]] | None = None,
        likelihood: str = "bernoulli",
        codec: str = "cnn",
        inject_positions: bool = False,
        carry: str = "own",
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(arguments, hidden_size, hidden_size, inject_positions)
        if num_modules < 1 or hidden_size < 1:
            raise ValueError(
                f"S2RM: num_modules and hidden_size must be at least 1, got {num_modules} and {hidden_size}"
            )
        if carry not in ("own", "aggregated"):
            raise ValueError(f'S2RM: carry must be "own" or "aggregated", got {carry!r}')
        if carry == "aggregated":
            warnings.warn(
                "S2RM: carrying the aggregated state, as Eq. 4 has it, multiplies the states by the kernel's largest "
                'eigenvalue each step and can overflow within 100 steps; carry="own" cannot',
                stacklevel=2,
            )
        if extent is None:
            extent = [(0.0, shortest)] * num_coordinates
        if len(extent) != num_coordinates or any(len(side) != 2 or not side[0] < side[1] for side in extent):
            raise ValueError(
                f"S2RM: extent must be {num_coordinates} pairs (low, high) with low < high, got {list(extent)}"
            )
        self.num_modules, self.hidden_size, self.carry = num_modules, hidden_size, carry
        start = self.embedding(uniform_positions(num_modules, [(low, high) for low, high in extent]))
        self.modules_on_sphere = ModulePlaces(start, bandwidth, truncation)
        self.input_attention = KernelModulatedAttention(hidden_size, 2, 16, 128, gate_size=64)
        self.intercell_attention = KernelModulatedAttention(hidden_size, 4, 16, 128, gate_size=64)
        self.cell = GroupedGRUCell(num_modules, hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> Float[Tensor, "B M H"]:
        """Zeros."""
        return self.modules_on_sphere.places.new_zeros(batch_size, self.num_modules, self.hidden_size)

    def observe(self, views: Views, state: Float[Tensor, "B M H"] | None = None) -> Float[Tensor, "B T M H"]:
        self.check(views)
        hidden = self.initial_state(views.batch_size) if state is None else state
        embedded, encodings = self.encode(views)
        return self.unroll(embedded, encodings, views.mask, hidden)

    def unroll(
        self,
        embedded: Float[Tensor, "B T A d"],
        encodings: Float[Tensor, "B T A H"],
        mask: Tensor,
        hidden: Float[Tensor, "B M H"],
    ) -> Float[Tensor, "B T M H"]:
        """The states after each step. All that does not depend on the state is computed for all steps at once."""
        reads, talks = self.input_attention, self.intercell_attention
        local = torch.where(mask.unsqueeze(-2), self.modules_on_sphere(embedded), 0.0)
        keys, values = encodings @ reads.key_weight(), encodings @ reads.value_weight()
        bias = keys.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(keys.dtype).min)
        local_sums = local @ encodings
        gate_hidden = reads.gate_from_local(local_sums)
        between = self.modules_on_sphere.between()
        weights = (reads.query_weight(), talks.query_weight(), talks.key_weight(), talks.value_weight())
        from_state, sizes = torch.cat(weights, 1), [weight.shape[1] for weight in weights]

        states = []
        for step in range(embedded.shape[1]):
            query, talk_query, talk_key, talk_value = (hidden @ from_state).split(sizes, -1)
            attended = reads.attend(query, keys[:, step], values[:, step], local[:, step], bias[:, step])
            inputs = reads.gate(attended, local_sums[:, step], gate_hidden[:, step])
            heard = talks.attend(talk_query, talk_key, talk_value, between)
            neighbours = between @ hidden
            aggregated = talks.gate(heard, neighbours, talks.gate_from_local(neighbours))
            hidden = self.cell(inputs, aggregated, hidden if self.carry == "own" else aggregated)
            states.append(hidden)
        return torch.stack(states, 1)

    def last(self, states: Float[Tensor, "B T M H"]) -> Float[Tensor, "B M H"]:
        return states[:, -1]

    def read(self, states: Float[Tensor, "*batch M H"], embedded: Float[Tensor, "*batch Q d"]) -> Tensor:
        """Output attention: `d_q = Σ_m Z(s_q, p_m) h_m` (Eq. 10)."""
        return self.modules_on_sphere(embedded).transpose(-1, -2) @ states

    def enclaves(self, positions: Float[Tensor, "*batch n"]) -> Float[Tensor, M * batch]:
        """How much each module answers for each position, `Z(P(x), p_m)` (Eq. 11)."""
        return self.modules_on_sphere(self.embedding(positions).flatten(0, -2)).unflatten(-1, positions.shape[:-1])


def S2GRU(**arguments) -> S2RM:
    """S2RM with gated recurrent units as its modules. Arguments: those of [`S2RM`][s2rm.models.s2rm.S2RM]."""
    return S2RM(**arguments)
