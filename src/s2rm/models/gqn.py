"""The baselines' scaffold: one summed representation of the views, one recurrent core, one decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from s2rm.functional import TWO_PI
from s2rm.models.world_model import WorldModel
from s2rm.views import Views


class CoreState(NamedTuple):
    """What a recurrent core puts out, and what it goes on from."""

    output: Tensor
    """`(B, T, H)` after each of T steps, `(B, H)` after one"""
    memory: tuple[Tensor, ...]
    """the core's own state after the last step, as its call contract has it"""


class GQN(WorldModel):
    """A recurrent core between the encoder and the decoder of a generative query network.

    `r_t = Σ_a E(O_a, P(x_a))`; `h_{t+1} = F(r_t, h_t)`; `Ô_q = D(h_{t+1}, P(x_q))`.

    Args:
        value_shape: shape of a view.
        num_coordinates: n, coordinates of a position.
        core: "lstm".
        hidden_size: size of the core's state, and of the summed representation.
        embedding_dim: size of the positional embedding, a multiple of 2n.
        shortest: shortest wavelength of the embedding, in the world's units.
        longest: bound of the longest wavelength.
        likelihood: "bernoulli" (binary pixels) or "gaussian" (real channels).
        codec: "cnn" (the paper's size, for images) or "mlp" (small, for CPUs and for any shape).

    Raises:
        ValueError: an argument out of its range.

    Source:
        S2RM, appendix D, Eq. 29 to 31, Table 2 for the defaults; the scaffold of Eslami et al. 2018.
    """

    def __init__(
        self,
        *,
        value_shape: Sequence[int],
        num_coordinates: int,
        core: str = "lstm",
        hidden_size: int = 512,
        embedding_dim: int = 16,
        shortest: float = TWO_PI,
        longest: float = TWO_PI * 10_000,
        likelihood: str = "bernoulli",
        codec: str = "cnn",
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if core != "lstm" or hidden_size < 1:
            raise ValueError(f'GQN: expected core "lstm" and a positive hidden_size, got {core!r} and {hidden_size}')
        super().__init__(arguments, hidden_size, hidden_size, inject_positions=True)
        self.core = nn.LSTM(hidden_size, hidden_size, batch_first=True)

    def initial_state(self, batch_size: int) -> CoreState:
        """Zeros."""
        zeros = next(self.parameters()).new_zeros(batch_size, self.core.hidden_size)
        return CoreState(zeros, (zeros[None], zeros[None]))

    def observe(self, views: Views, state: CoreState | None = None) -> CoreState:
        self.check(views)
        _, encodings = self.encode(views)
        summed = (encodings * views.mask[..., None]).sum(2)
        return CoreState(*self.core(summed, None if state is None else state.memory))

    def last(self, states: CoreState) -> CoreState:
        return CoreState(states.output[:, -1], states.memory)

    def read(self, states: CoreState, embedded: Float[Tensor, "*batch Q d"]) -> Float[Tensor, "*batch Q H"]:
        return states.output.unsqueeze(-2).expand(*embedded.shape[:-1], -1)
