"""Spatially structured recurrent modules."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.functional import TWO_PI
from s2rm.models.world_model import WorldModel
from s2rm.nn.attention import KernelModulatedAttention
from s2rm.nn.embedding import ModulePlaces, uniform_positions
from s2rm.nn.local import DenseLocal, Local, SparseLocal
from s2rm.nn.memory import GroupedRelationalMemoryCell
from s2rm.nn.over_time import map_state, over_time
from s2rm.nn.recurrent import GroupedGRUCell, GroupedLSTMCell
from s2rm.views import Views

Term = Literal["input_local", "input_nonlocal", "intercell_local", "intercell_nonlocal"]
TERMS: tuple[Term, ...] = get_args(Term)
DENSE_PAIRS = 128 * 128
"""up to so many pairs of modules and views a step, computing all is faster than picking those that interact"""


def relational_memory_cell(
    num_modules: int, input_size: int, hidden_size: int, share_parameters: bool
) -> GroupedRelationalMemoryCell:
    """The relational memory of S2RMC (E.3, Table 3), whose message has the hidden size."""
    return GroupedRelationalMemoryCell(
        num_modules, (input_size, hidden_size), num_slots=4, num_heads=4, head_size=64, key_size=64,
        message_size=hidden_size, share_parameters=share_parameters,
    )  # fmt: skip


CELLS: dict[str, Callable[[int, int, int, bool], nn.Module]] = {
    "gru": GroupedGRUCell,
    "lstm": GroupedLSTMCell,
    "rmc": relational_memory_cell,
}


class S2RM(WorldModel):
    """A set of recurrent modules, each with a learned place on a sphere, that read views and each other by place.

    At each step module m reads the views (input attention, `u_m`) and the modules (inter-cell attention, `h̄_m`),
    both attenuated by the kernel `Z` of its place, and updates its state: `F_m(u_m, h̄_m, state)`. A query polls the
    modules near it: `d_q = Σ_m Z(P(x_q), p_m) h_m`, which the decoder turns into a predicted view. `h_m` is the state
    itself with "gru", its hidden part with "lstm", and a linear message of the memory with "rmc".

    Args:
        value_shape: shape of a view.
        num_coordinates: n, coordinates of a position.
        cell: what a module is: "gru", "lstm", or "rmc" (a relational memory of 4 slots of 4 heads of 64).
        num_modules: M.
        hidden_size: size of what others read of a module, and of an encoded view.
        embedding_dim: d, size of the positional embedding, a multiple of 2n.
        bandwidth: ε of the kernel.
        truncation: τ of the kernel.
        shortest: shortest wavelength of the embedding, in the world's units; a good start is the world's extent.
        longest: bound of the longest wavelength.
        extent: the box of the world's positions, one (low, high) a coordinate, in which the modules start. Default:
            one shortest wavelength from 0.
        likelihood: "bernoulli" (binary pixels), "gaussian" (real channels) or "mixed" (polar images of units).
        codec: "cnn" (the paper's size, for images), "polar" (small, for polar images) or "mlp" (small, for CPUs and for
            any shape). Default: "cnn" where views and targets have two or three axes, else "mlp".
        inject_positions: give embedded positions to encoder and decoder too; the paper does so in the baselines only.
        carry: what a GRU's update gate keeps: the module's "own" state, or the "aggregated" one, as Eq. 4 has it.
        normalise: what each softmax runs over: "all" views and modules, as in the paper, or the "neighbourhood", those
            within the truncation only. The latter is sparse when there are many: time and memory grow with the pairs
            that interact. Its gradients stay among them too, so a module that sees nothing stays where it is.
        share_parameters: the modules differ in place and state only, so that their number is free; see
            `with_modules_at`.
        ablate: terms to switch off (Figure 6), of "input_local", "input_nonlocal", "intercell_local" and
            "intercell_nonlocal". Without its local term an attention reaches everything (`Z = 1`); without its
            non-local term it weighs all that is there alike (a softmax over equal scores).
        context_size: F, what else is known of each query.
        corrects: predict corrections to a guess, the first entries of the context.
        target_shape: shape of what is predicted, where views carry more, such as actions. Default: that of a view.

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
        cell: str = "gru",
        num_modules: int = 10,
        hidden_size: int = 128,
        embedding_dim: int = 16,
        bandwidth: float = 1.0,
        truncation: float = 0.6,
        shortest: float = TWO_PI,
        longest: float = TWO_PI * 10_000,
        extent: Sequence[Sequence[float]] | None = None,
        likelihood: str = "bernoulli",
        codec: str | None = None,
        inject_positions: bool = False,
        carry: str = "own",
        normalise: str = "all",
        share_parameters: bool = False,
        ablate: Sequence[str] = (),
        context_size: int = 0,
        corrects: bool = False,
        target_shape: Sequence[int] | None = None,
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(arguments, hidden_size, hidden_size, inject_positions)
        if num_modules < 1 or hidden_size < 1:
            raise ValueError(
                f"S2RM: num_modules and hidden_size must be at least 1, got {num_modules} and {hidden_size}"
            )
        if cell not in CELLS:
            raise ValueError(f"S2RM: cell must be one of {list(CELLS)}, got {cell!r}")
        if carry not in ("own", "aggregated") or (carry == "aggregated" and cell != "gru"):
            raise ValueError(f'S2RM: carry must be "own", or "aggregated" with cell "gru", got {carry!r} with {cell!r}')
        if not set(ablate) <= set(TERMS):
            raise ValueError(f"S2RM: ablate must name terms of {TERMS}, got {list(ablate)}")
        if normalise not in ("all", "neighbourhood"):
            raise ValueError(f'S2RM: normalise must be "all" or "neighbourhood", got {normalise!r}')
        if normalise == "neighbourhood" and {"input_local", "intercell_local"} & set(ablate):
            raise ValueError('S2RM: without its local terms nothing is near; ablate them with normalise="all"')
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
        self.num_modules, self.hidden_size, self.carry, self.normalise = num_modules, hidden_size, carry, normalise
        start = self.embedding(uniform_positions(num_modules, [(low, high) for low, high in extent]))
        self.modules_on_sphere = ModulePlaces(start, bandwidth, truncation, straight_through=normalise == "all")
        self.input_attention = KernelModulatedAttention(hidden_size, 2, 16, 128, gate_size=64)
        self.intercell_attention = KernelModulatedAttention(hidden_size, 4, 16, 128, gate_size=64)
        self.cell: Any = CELLS[cell](num_modules, hidden_size, hidden_size, share_parameters)
        self.share_parameters = share_parameters
        self.ablate = frozenset(ablate)

    def initial_state(self, batch_size: int) -> Any:
        """Zeros; the identity in a relational memory."""
        return self.cell.initial_state(batch_size)

    def observe(self, views: Views, state: Any = None) -> Any:
        self.check(views)
        start = self.initial_state(views.batch_size)
        if state is not None:
            self.check_state(state, start)
        embedded, encodings = self.encode(views)
        return self.unroll(embedded, encodings, views.mask, start if state is None else state)

    def unroll(
        self,
        embedded: Float[Tensor, "B T A d"],
        encodings: Float[Tensor, "B T A H"],
        mask: Tensor,
        state: Any,
    ) -> Any:
        """The states after each step. All that does not depend on the state is computed for all steps at once."""
        reads, talks = self.input_attention, self.intercell_attention
        local, between = self._views_near(embedded, mask), self._modules_near(embedded.shape[0])
        keys = encodings @ reads.key_weight()
        local_sums = local.sum(encodings)
        gate_hidden = reads.gate_from_local(local_sums)
        query_weight, talk_query_weight = reads.query_weight(), talks.query_weight()
        if "input_nonlocal" in self.ablate:
            query_weight = torch.zeros_like(query_weight)
        if "intercell_nonlocal" in self.ablate:
            talk_query_weight = torch.zeros_like(talk_query_weight)
        weights = (query_weight, talk_query_weight, talks.key_weight())
        sizes = [weight.shape[1] for weight in weights]
        to_queries_and_keys = over_time(torch.cat(weights, 1))
        num_rows = embedded.shape[0] * embedded.shape[1] * self.num_modules
        read_out, heard_out = reads.out_over_time(num_rows), talks.out_over_time(num_rows)
        input_gate, intercell_gate, cell = reads.gate_over_time(), talks.gate_over_time(), self.cell.over_time()

        states = []
        # Unbound once: a slice at each step would cost a gradient of the full size at each step.
        given = (part.unbind(1) for part in (keys, encodings, local_sums, gate_hidden))
        for local_now, keys_now, views_now, local_sum, gate_now in zip(
            local.steps(embedded.shape[1]), *given, strict=True
        ):
            hidden = self.cell.message(state).contiguous()
            queries_and_keys = to_queries_and_keys(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            query, talk_query, talk_key = queries_and_keys.split(sizes, -1)
            read, _ = local_now.attend(query, keys_now, views_now, reads.num_heads, read_out, local_sum)
            inputs = input_gate(read, local_sum, gate_now)
            heard, heard_sum = between.attend(talk_query, talk_key, hidden, talks.num_heads, heard_out)
            aggregated = intercell_gate(heard, heard_sum, None)
            state = cell(inputs, aggregated, state if self.carry == "own" else aggregated)
            states.append(state)
        return map_state(lambda *steps: torch.stack(steps, 1), *states)

    def _is_sparse(self, num_views: int) -> bool:
        if self.normalise == "all" or torch.compiler.is_compiling():  # the search for pairs is no tensor program
            return False
        return self.num_modules * max(num_views, self.num_modules) > DENSE_PAIRS

    def _views_near(self, embedded: Float[Tensor, "B T A d"], mask: Tensor) -> Local:
        """The views of all steps as the modules see them."""
        if self._is_sparse(mask.shape[-1]):
            points, there = embedded.transpose(0, 1).flatten(0, 1), mask.transpose(0, 1).flatten(0, 1)
            return self.modules_on_sphere.sparse(points, there, read=True)
        local = self.modules_on_sphere(embedded)
        if "input_local" in self.ablate:
            local = torch.ones_like(local)
        there = mask.unsqueeze(-2)
        local = torch.where(there, local, 0.0)
        return DenseLocal.where(
            local, there & self.modules_on_sphere.near(embedded) if self.normalise == "neighbourhood" else there
        )

    def _modules_near(self, batch_size: int) -> Local:
        """The modules as the modules see them."""
        places = self.modules_on_sphere
        if self._is_sparse(0):
            everyone = torch.ones(1, self.num_modules, dtype=torch.bool, device=places.places.device)
            once = places.sparse(places.unit[None], everyone, read=True)
            return SparseLocal(once.weights.repeat(batch_size), once.pairs.repeat(batch_size), self.num_modules)
        between = places.between()
        if "intercell_local" in self.ablate:
            between = torch.ones_like(between)
        if self.normalise == "neighbourhood":
            return DenseLocal.where(between, places.near(places.unit)[None])
        # A module that no other can hear takes no share of their softmax, as if it did not exist.
        itself = torch.eye(self.num_modules, dtype=torch.bool, device=between.device)
        return DenseLocal.where(between, (((between > 0) & ~itself).any(0) | itself)[None])

    def last(self, states: Any) -> Any:
        return map_state(lambda part: part[:, -1], states)

    def read(self, states: Any, embedded: Float[Tensor, "*batch Q d"]) -> Float[Tensor, "*batch Q H"]:
        """Output attention: `d_q = Σ_m Z(s_q, p_m) h_m` (Eq. 10)."""
        messages, places = self.cell.message(states), self.modules_on_sphere
        if not self._is_sparse(embedded.shape[-2]):
            return places(embedded).transpose(-1, -2) @ messages
        sets = embedded.flatten(0, -3)
        local = places.sparse(sets, sets.new_ones(sets.shape[:2], dtype=torch.bool), read=False)
        return local.sum(messages.flatten(0, -3)).view(*embedded.shape[:-1], self.hidden_size)

    def without_modules(self, *removed: int) -> S2RM:
        """A copy in which these modules never existed (Figure 7); states of this model do not fit it.

        Raises:
            ValueError: no such module, or none would be left.
        """
        if not set(removed) <= set(range(self.num_modules)):
            raise ValueError(f"S2RM: there are modules 0 to {self.num_modules - 1}, got {sorted(removed)} to remove")
        if len(set(removed)) == self.num_modules:
            raise ValueError(f"S2RM: at least one module must be left, got all {self.num_modules} to remove")
        kept = [module for module in range(self.num_modules) if module not in removed]
        return self._with_modules(kept, self.modules_on_sphere.places.detach()[kept])

    def with_module_copied(self, module: int, position: Float[Tensor, " n"]) -> S2RM:
        """A copy with one more module, the last: `module`'s parameters at the place of a position of the world.

        Raises:
            ValueError: no such module.
        """
        if not 0 <= module < self.num_modules:
            raise ValueError(f"S2RM: there are modules 0 to {self.num_modules - 1}, got {module} to copy")
        places = self.modules_on_sphere.places.detach()
        place = self.embedding(position.to(places))[None]
        return self._with_modules([*range(self.num_modules), module], torch.cat([places, place]))

    def with_modules_at(self, positions: Float[Tensor, "M n"]) -> S2RM:
        """A copy with modules at these positions of the world, of any number, with the parameters that they share.

        Raises:
            ValueError: each module has parameters of its own, or there is no position.
        """
        if not self.share_parameters:
            raise ValueError(
                "S2RM: the modules have parameters of their own, so their number is fixed; make the model with "
                "share_parameters=True, or use with_module_copied"
            )
        if not len(positions):
            raise ValueError("S2RM: expected at least one position for a module, got none")
        places = self.embedding(positions.to(self.modules_on_sphere.places))
        return self._with_modules([0] * len(places), places)

    def _with_modules(self, modules: list[int], places: Float[Tensor, "M d"]) -> S2RM:
        other = copy.deepcopy(self)
        other.num_modules = other.cell.num_modules = other.arguments["num_modules"] = len(modules)
        other.modules_on_sphere.places = nn.Parameter(places.clone())
        for owner in other.cell.modules() if not self.share_parameters else ():
            for name, parameter in owner.named_parameters(recurse=False):
                setattr(owner, name, nn.Parameter(parameter.detach()[modules].clone()))
        return other

    def enclaves(self, positions: Float[Tensor, "*batch n"]) -> Float[Tensor, " M *batch"]:
        """How much each module answers for each position, `Z(P(x), p_m)` (Eq. 11)."""
        return self.modules_on_sphere(self.embedding(positions).flatten(0, -2)).unflatten(-1, positions.shape[:-1])

    def interaction_graph(self) -> Float[Tensor, "M M"]:
        """The kernel between the modules, `Z(p_m, p_l)`: an edge where it is above 0 (appendix A)."""
        return self.modules_on_sphere.between()


def S2GRU(**arguments: Any) -> S2RM:
    """S2RM with gated recurrent units as its modules. Arguments: those of [`S2RM`][s2rm.models.s2rm.S2RM]."""
    return S2RM(cell="gru", **arguments)


def S2LSTM(**arguments: Any) -> S2RM:
    """S2RM with long short-term memories as its modules, the optional memory state of Eq. 4. Arguments as S2GRU's."""
    return S2RM(cell="lstm", **arguments)


def S2RMC(**arguments: Any) -> S2RM:
    """S2RM with relational memories as its modules (E.3). Arguments as S2GRU's."""
    return S2RM(cell="rmc", **arguments)
