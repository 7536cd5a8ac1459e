"""The baselines' scaffold: one summed representation of the views, one recurrent core, one decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Unpack

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from s2rm.models.inputs import Arguments
from s2rm.models.world_model import WorldModel, by_numbers
from s2rm.nn.core import RecurrentCore, a_weight
from s2rm.nn.memory import RelationalMemory
from s2rm.nn.normalise import BatchNorm
from s2rm.nn.rims import RIMs
from s2rm.views import Views


class CoreState(NamedTuple):
    """The state of a recurrent core: its output, and the memory from which it continues."""

    output: Tensor
    """`(B, T, H)` after each of T steps, `(B, H)` after one"""
    memory: Tensor | tuple[Tensor, ...]
    """the core's own state after the last step"""


class TimeTravellingOracle(nn.Module):
    r"""$h_{t+1} = F(r_{t+1})$, a two-layer perceptron without memory, called like `torch.nn.LSTM` (appendix D)."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.layers = nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, inputs: Float[Tensor, "B T I"], state: object = None) -> tuple[Float[Tensor, "B T H"], tuple]:
        return self.layers(inputs), ()


CORES: dict[str, Callable[[int], nn.Module]] = {
    "lstm": lambda size: nn.LSTM(size, size, batch_first=True),
    "gru": lambda size: nn.GRU(size, size, batch_first=True),
    "rmc": lambda size: RelationalMemory(size, size, batch_first=True, num_heads=4),
    "rims": lambda size: RIMs(size, size, batch_first=True, num_active=5, input_key_size=32, input_value_size=400),
    "tto": lambda size: TimeTravellingOracle(size, size),
}


class GQN(WorldModel[CoreState]):
    r"""The baselines: a recurrent core between the encoder and the decoder of a generative query network.

    The encoded views of a step are summed, the core updates its state, and each query is decoded from it:

    $$r_t = \sum_a E(O_a, P(x_a)) \qquad h_{t+1} = F(r_t, h_t) \qquad \hat O_q = D(h_{t+1}, P(x_q))$$

    Over a batch the sum varies little compared with its mean, and a core that divides its input among modules or slots
    would learn nothing from it for a long time; so the sum is normalised over the batch before the core.

    Args:
        core: "lstm", "gru", "rmc" (relational memory, 4 heads), "rims" (6 modules, 5 active), or "tto" (the
            time-travelling oracle, which has no memory but observes the step it predicts).
        hidden_size: H, size of the core's state, and of the summed representation. Default: 512; 510 with "rims".
        batch_norm: normalise the summed representation; False is the paper's scaffold.
        inputs: the arguments of every model, the fields of [`Signature`][s2rm.models.inputs.Signature] and
            [`Space`][s2rm.models.inputs.Space].

    Raises:
        TypeError: an unknown argument, or a missing one.
        ValueError: an argument out of its range.

    Source:
        S2RM, appendix D, Eq. 29 to 31, Table 2 for the defaults; the scaffold of Eslami et al. 2018.
    """

    def __init__(
        self, *, core: str = "lstm", hidden_size: int | None = None, batch_norm: bool = True,
        **inputs: Unpack[Arguments],
    ):  # fmt: skip
        if core not in CORES:
            raise ValueError(f"GQN: core must be one of {list(CORES)}, got {core!r}")
        size = (510 if core == "rims" else 512) if hidden_size is None else hidden_size
        if size < 1:
            raise ValueError(f"GQN: hidden_size must be at least 1, got {size}")
        super().__init__(inputs, {"core": core, "hidden_size": hidden_size, "batch_norm": batch_norm}, size)
        if batch_norm:
            self.norm = BatchNorm(size)
        self.batch_norm = batch_norm
        self.core: Any = CORES[core](size)
        self.is_oracle = core == "tto"

    def initial_state(self, batch_size: int) -> CoreState:
        """The core's own: zeros, or the identity in a relational memory."""
        zeros = a_weight(self).new_zeros(batch_size, self.core.hidden_size)
        if isinstance(self.core, RecurrentCore):
            start = self.core.layers[0].initial_state(batch_size)  # type: ignore[operator]
            return CoreState(start[0], tuple(part[None] for part in start))
        if isinstance(self.core, nn.GRU):
            return CoreState(zeros, zeros[None])
        return CoreState(zeros, () if self.is_oracle else (zeros[None], zeros[None]))

    def advance(self, views: Views, state: CoreState) -> CoreState:
        kind = a_weight(self).dtype  # autocast's own would not be a state to go on from
        after: CoreState = tree_map(lambda part: part.to(kind), CoreState(*self.core(self.summed(views), state.memory)))
        return after

    def summed(self, views: Views) -> Float[Tensor, "B T H"]:
        r"""The input of the core, $r_t = \sum_a E(O_a, P(x_a))$ (Eq. 29), normalised."""
        _, encodings = self.encode(views)
        if not (by_numbers(views.mask) and views.mask.all()):
            encodings = encodings * views.mask[..., None]
        summed = encodings.sum(2)
        return self.norm(summed, views.mask.any(2)) if self.batch_norm else summed

    def states_before_targets(self, views: Views, state: CoreState | None = None) -> CoreState:
        """As in every model, but the oracle's are those after steps 1 to T."""
        return self.observe(views.steps(1, None) if self.is_oracle else views.steps(None, -1), state)

    def rollout(self, *arguments: Any, **options: Any) -> Iterator[Distribution]:
        if self.is_oracle:
            raise ValueError("GQN: the oracle sees the step that it predicts and cannot roll out; take another core")
        return super().rollout(*arguments, **options)

    def last(self, states: CoreState) -> CoreState:
        return CoreState(states.output[:, -1], states.memory)

    def read(self, states: CoreState, embedded: Float[Tensor, "*batch Q d"]) -> Float[Tensor, "*batch Q H"]:
        self.check_positions(embedded, states.output.shape[:-1])
        return states.output.unsqueeze(-2).expand(*embedded.shape[:-1], -1)
