"""Spatially structured recurrent modules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Unpack, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from s2rm.likelihoods import Mean
from s2rm.models.copies import copied, keep_rows
from s2rm.models.inputs import Arguments
from s2rm.models.variants import CELLS, check_variants
from s2rm.models.world_model import WorldModel, by_numbers
from s2rm.nn import s2rm_loop
from s2rm.nn.attention import DenseLocal, KernelModulatedAttention, Local, SparseLocal
from s2rm.nn.core import a_weight
from s2rm.nn.embedding import ModulePlaces, uniform_positions
from s2rm.nn.latent import Answered, Latents
from s2rm.nn.over_time import by_autograd, map_state, over_time, under_functorch
from s2rm.nn.recurrent import GatedCell
from s2rm.views import Episode, Views

DENSE_PAIRS = 128 * 128
"""up to this many pairs of modules and views a step, computing all is faster than finding those that interact"""
State = Tensor | tuple[Tensor, ...]
"""the state of all modules, as their cell has it; `(B, M, ...)` each"""


class ModuleArguments(Arguments, total=False):
    """The keyword arguments of S2GRU, S2LSTM and S2RMC: those of [`S2RM`][s2rm.models.s2rm.S2RM] except `cell`."""

    num_modules: int
    hidden_size: int
    bandwidth: float
    truncation: float
    carry: str
    normalise: str
    share_parameters: bool
    ablate: Sequence[str]
    latent_size: int


class S2RM(WorldModel[State]):
    r"""Spatially structured recurrent modules: each has a learned place on a sphere and interacts with what is near.

    At each step module m attends to the views (input attention, $u_m$) and to the modules (inter-cell attention,
    $\bar h_m$). Both are attenuated by the kernel $Z$ of its place $p_m$, and its cell updates its state:

    $$h_{t+1,m} = F_m(u_m, \bar h_m, h_{t,m})$$

    A query at $x_q$ reads the modules near it, and the decoder maps $d_q$ to a predicted view:

    $$d_q = \sum_m Z(P(x_q), p_m)\, h_m$$

    The other modules and the queries read the state ("gru"), its hidden part ("lstm") or a linear map of the memory
    ("rmc").

    Args:
        cell: recurrent cell of a module: "gru", "lstm", or "rmc" (a relational memory of 4 slots of 4 heads of 64).
        num_modules: M.
        hidden_size: H, size of the part of a module's state that others read, and of an encoded view.
        bandwidth, truncation: ε and τ of the kernel.
        carry: what a GRU's update gate keeps: the module's "own" state, or the "aggregated" one, as in Eq. 4.
        normalise: range of each softmax: "all" views and modules, as in the paper, or the "neighbourhood", those
            within the truncation. The latter is sparse when there are many: time and memory grow with the number of
            interacting pairs. Its gradients stay among these pairs, so a module that observes nothing does not move.
        share_parameters: all modules share their parameters and differ only in place and state, so that their number
            can be changed; see `with_modules_at`.
        ablate: terms to switch off (Figure 6), from "input_local", "input_nonlocal", "intercell_local" and
            "intercell_nonlocal". Without its local term an attention reaches everything (`Z = 1`); without its
            non-local term it weights everything equally (a softmax over equal scores).
        latent_size: Z, size of a latent variable of each module at each step, see
            [`Latents`][s2rm.nn.latent.Latents]; 0 is the paper's model. It is sampled in training, where the loss gains
            the term "kl" with free bits, within `sampling`, and in rollouts without views; otherwise its mean is used.
        inputs: the arguments of every model, the fields of [`Signature`][s2rm.models.inputs.Signature] and
            [`Space`][s2rm.models.inputs.Space]; the modules start in the box `extent`.

    Raises:
        TypeError, ValueError: an argument that is unknown or missing, or out of its range.

    Source:
        S2RM, section 4, appendix C, Table 2 for the defaults. Differences are on the docs page "Relative to the paper".
    """

    def __init__(
        self, *, cell: str = "gru", num_modules: int = 10, hidden_size: int = 128, bandwidth: float = 1.0,
        truncation: float = 0.6, carry: str = "own", normalise: str = "all",
        share_parameters: bool = False, ablate: Sequence[str] = (), latent_size: int = 0,
        **inputs: Unpack[Arguments],
    ):  # fmt: skip
        own = {
            "cell": cell, "num_modules": num_modules, "hidden_size": hidden_size, "bandwidth": bandwidth,
            "truncation": truncation, "carry": carry, "normalise": normalise,
            "share_parameters": share_parameters, "ablate": tuple(ablate),
        }  # fmt: skip
        own |= {"latent_size": latent_size} if latent_size else {}  # others are saved as they were
        super().__init__(inputs, own, hidden_size, has_kernel=True)
        check_variants(cell, carry, normalise, ablate, num_modules, hidden_size, latent_size)
        self.num_modules, self.hidden_size, self.carry, self.normalise = num_modules, hidden_size, carry, normalise
        start = self.embedding(uniform_positions(num_modules, self.space.start))
        self.modules_on_sphere = ModulePlaces(start, bandwidth, truncation, straight_through=normalise == "all")
        self.input_attention = KernelModulatedAttention(hidden_size, 2, 16, 128, gate_size=64)
        self.intercell_attention = KernelModulatedAttention(hidden_size, 4, 16, 128, gate_size=64)
        self.cell: Any = CELLS[cell](num_modules, hidden_size, hidden_size, share_parameters)
        self.share_parameters, self.ablate = share_parameters, frozenset(ablate)
        self.latents = Latents(hidden_size, latent_size) if latent_size else None

    def initial_state(self, batch_size: int) -> State:
        """Zeros; the identity in a relational memory."""
        return self.cell.initial_state(batch_size)

    def advance(self, views: Views, state: State) -> State:
        kind = a_weight(self).dtype  # autocast's own would not be a state to go on from
        after = self.unroll(*self.encode(views), views.mask, self.cell.state_from(state))
        return cast("State", tree_map(lambda part: part.to(kind), after))

    def unroll(
        self, embedded: Float[Tensor, "B T A d"], encodings: Float[Tensor, "B T A H"], mask: Bool[Tensor, "B T A"],
        state: State,
    ) -> State:  # fmt: skip
        """The states after each step. Whatever does not depend on the state is computed for all steps at once."""
        reads, talks = self.input_attention, self.intercell_attention
        local, between = self._views_near(embedded, mask), self._modules_near(embedded.shape[0])
        if isinstance(local, DenseLocal) and isinstance(between, DenseLocal) and self._in_one_node(mask):
            own, weights = self.carry == "own", self._queries_and_keys()
            parts = (state,) if isinstance(state, Tensor) else state
            after = s2rm_loop.run(reads, talks, self.cell, own, weights, encodings, local, between, parts)
            return after[0] if isinstance(state, Tensor) else type(state)(*after)
        keys = encodings @ reads.key.flatten(1)
        local_sums = local.sum(encodings)
        gate_hidden = reads.gate_from_local(local_sums)
        weights = self._queries_and_keys()
        sizes = [weight.shape[1] for weight in weights]
        to_queries_and_keys = over_time(torch.cat(weights, 1))
        num_rows = embedded.shape[0] * embedded.shape[1] * self.num_modules
        read_out, heard_out = reads.out_over_time(num_rows), talks.out_over_time(num_rows)
        input_gate, intercell_gate, cell = reads.gate_over_time(), talks.gate_over_time(), self.cell.over_time()

        states = []
        latents = (
            [None] * mask.shape[1]
            if self.latents is None
            else self.latents.steps(mask, self.num_modules, self.modules_on_sphere.present)
        )
        # Unbound once: a slice at each step would cost a gradient of the full size at each step.
        given = (part.unbind(1) for part in (keys, encodings, local_sums, gate_hidden))
        steps = zip(local.steps(embedded.shape[1]), *given, latents, strict=True)
        for local_now, keys_now, views_now, local_sum, gate_now, latent in steps:
            hidden = self.cell.message(state).contiguous()
            queries_and_keys = to_queries_and_keys(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])
            query, talk_query, talk_key = queries_and_keys.split(sizes, -1)
            read, _ = local_now.attend(query, keys_now, views_now, reads.num_heads, read_out, local_sum)
            inputs = input_gate(read, local_sum, gate_now)
            if latent is not None:
                inputs = latent(hidden, inputs)
            heard, heard_sum = between.attend(talk_query, talk_key, hidden, talks.num_heads, heard_out)
            aggregated = intercell_gate(heard, heard_sum, None)
            state = cell(inputs, aggregated, state if self.carry == "own" else aggregated)
            states.append(state)
        return map_state(lambda *steps: torch.stack(steps, 1), *states)

    def _in_one_node(self, mask: Bool[Tensor, "B T A"]) -> bool:
        """Whether all steps are one node of the graph, where all pairs are computed."""
        if by_autograd(mask.device) or self.latents is not None or not isinstance(self.cell, GatedCell):
            return False
        batch, steps, views = mask.shape
        return views > 0 and batch * steps * self.num_modules > self.hidden_size

    def sampling(self) -> AbstractContextManager[None]:
        """A context in which latent variables are sampled, with PyTorch's generator. Not thread-safe."""
        return nullcontext() if self.latents is None else self.latents.sampling()

    def imagine(self, nothing: Views, state: State) -> State:
        with self.sampling():
            return super().imagine(nothing, state)

    def loss_terms(self, episode: Episode, recompute: int | None = None) -> dict[str, Mean]:
        alike = self.latents is not None and self.target_shape == self.value_shape
        if alike and not (by_numbers(mask := episode.views.mask) and mask.any(-1).all()):
            self.check_loss(episode, recompute)
            episode = Answered.of(episode)
        return super().loss_terms(episode, recompute)

    def _terms_of(
        self, views: Views, targets: Views, context: Tensor | None, state: State | None
    ) -> tuple[dict[str, Mean], State]:
        if self.latents is None:
            return super()._terms_of(views, targets, context, state)
        answers = targets.mask.shape[-1] if isinstance(views, Answered) else 0
        with self.latents.collecting(answers) as beliefs:
            terms, after = super()._terms_of(views, targets, context, state)
            return {**terms, "kl": self.latents.term(beliefs, next(iter(terms.values())).count)}, after

    def _queries_and_keys(self) -> list[Tensor]:
        """The maps of the modules' messages to the queries of both attentions, and to the keys of the second."""
        reads, talks = self.input_attention, self.intercell_attention
        weights = [reads.query.flatten(1), talks.query.flatten(1), talks.key.flatten(1)]
        for number, term in enumerate(("input_nonlocal", "intercell_nonlocal")):
            if term in self.ablate:
                weights[number] = torch.zeros_like(weights[number])
        return weights

    @torch.no_grad()
    def attention(self, views_at_t: Views, state: State) -> tuple[Float[Tensor, "B M A"], Float[Tensor, "B M M"]]:
        """The attention weights in `step`, means over the heads: of each module on each view, and of each module on
        each module."""
        if self.modules_on_sphere.present is None:  # all pairs are computed, whatever their number
            with self.masked(torch.ones(self.num_modules, dtype=torch.bool, device=views_at_t.mask.device)):
                return self.attention(views_at_t, state)
        embedded, encodings = self.encode(views_at_t)
        hidden = self.cell.message(self.cell.state_from(state))
        query, talk_query, talk_key = (hidden @ weight for weight in self._queries_and_keys())
        keys = encodings[:, 0] @ self.input_attention.key.flatten(1)
        (views,), between = self._views_near(embedded, views_at_t.mask).steps(1), self._modules_near(embedded.shape[0])
        assert isinstance(views, DenseLocal), "no pairs are searched while masked"
        assert isinstance(between, DenseLocal)
        reads = views.shares(query, keys, self.input_attention.num_heads)
        hears = between.shares(talk_query, talk_key, self.intercell_attention.num_heads)
        return reads.mean(1), hears.mean(1)

    def _is_sparse(self, num_views: int) -> bool:
        places, pairs = self.modules_on_sphere, self.num_modules * max(num_views, self.num_modules)
        # The search for pairs can be neither compiled nor done without numbers.
        by_numbers = not (torch.compiler.is_compiling() or under_functorch() or places.places.is_meta)
        return by_numbers and self.normalise != "all" and places.present is None and pairs > DENSE_PAIRS

    def _views_near(self, embedded: Float[Tensor, "B T A d"], mask: Tensor) -> Local:
        """The kernel between the modules and the views of all steps, with the pairs that each softmax counts."""
        places = self.modules_on_sphere
        if self._is_sparse(mask.shape[-1]):
            points, there = (part.transpose(0, 1).flatten(0, 1) for part in (embedded, mask))
            return places.sparse(points, there, read=True)
        local = places(embedded)
        if "input_local" in self.ablate:
            local = torch.ones_like(local)
        there = mask.unsqueeze(-2)
        shares = there & places.near(embedded) if self.normalise == "neighbourhood" else there
        return DenseLocal.where(torch.where(there, local, 0.0), shares)

    def _modules_near(self, batch_size: int) -> Local:
        """The kernel between the modules, with the pairs that each softmax counts."""
        places = self.modules_on_sphere
        if self._is_sparse(0):
            everyone = torch.ones(1, self.num_modules, dtype=torch.bool, device=places.places.device)
            once = places.sparse(places.unit[None], everyone, read=True)
            return SparseLocal(once.weights.repeat(batch_size), once.pairs.repeat(batch_size), self.num_modules)
        between = places.between()
        if "intercell_local" in self.ablate:
            between = places.between_present(torch.ones_like(between))
        if self.normalise == "neighbourhood":
            return DenseLocal.where(between, places.between_present(places.near(places.unit))[None])
        # A module without a neighbour counts in no other module's softmax, as if it did not exist.
        itself = torch.eye(self.num_modules, dtype=torch.bool, device=between.device)
        return DenseLocal.where(between, (((between > 0) & ~itself).any(0) | itself)[None])

    def last(self, states: State) -> State:
        return map_state(lambda part: part[:, -1], states)

    def read(self, states: State, embedded: Float[Tensor, "*batch Q d"]) -> Float[Tensor, "*batch Q H"]:
        """Output attention: `d_q = Σ_m Z(s_q, p_m) h_m` (Eq. 10)."""
        messages, places = self.cell.message(states), self.modules_on_sphere
        self.check_positions(embedded, messages.shape[:-2])
        if not self._is_sparse(embedded.shape[-2]):
            return places(embedded).transpose(-1, -2) @ messages
        sets = embedded.flatten(0, -3)
        local = places.sparse(sets, sets.new_ones(sets.shape[:2], dtype=torch.bool), read=False)
        return local.sum(messages.flatten(0, -3)).view(*embedded.shape[:-1], self.hidden_size)

    @contextmanager
    def masked(self, present: Bool[Tensor, " M"]) -> Iterator[None]:
        """A context in which modules that are not `present` are ignored by views, modules and queries. The others
        behave as with `without_modules`, but the state keeps its shape. Not thread-safe."""
        places = self.modules_on_sphere
        before, places.present = places.present, present
        try:
            yield
        finally:
            places.present = before

    def without_modules(self, *removed: int) -> S2RM:
        """A copy of the model without these modules (Figure 7). It cannot use states of this model.

        Raises:
            ValueError: no such module, or no module would be left; weights that hooks make of others, as in pruning.
        """
        if not set(removed) <= set(range(self.num_modules)):
            raise ValueError(f"S2RM: there are modules 0 to {self.num_modules - 1}, got {sorted(removed)} to remove")
        if len(set(removed)) == self.num_modules:
            raise ValueError(f"S2RM: at least one module must be left, got all {self.num_modules} to remove")
        kept = [module for module in range(self.num_modules) if module not in removed]
        return self._with_modules(kept, self.modules_on_sphere.places.detach()[kept])

    def with_module_copied(self, module: int, position: Float[Tensor, " n"]) -> S2RM:
        """A copy of the model with one more module, the last, with the parameters of `module` and a new position.

        Raises:
            ValueError: no such module.
        """
        if not 0 <= module < self.num_modules:
            raise ValueError(f"S2RM: there are modules 0 to {self.num_modules - 1}, got {module} to copy")
        places = self.modules_on_sphere.places.detach()
        place = self.embedding(position.to(places))[None]
        return self._with_modules([*range(self.num_modules), module], torch.cat([places, place]))

    def with_modules_at(self, positions: Float[Tensor, "M n"]) -> S2RM:
        """A copy of the model with any number of modules, one at each of these positions, with shared parameters.

        Raises:
            ValueError: the modules do not share their parameters, or there is no position.
        """
        if not self.share_parameters:
            raise ValueError(
                "S2RM: the modules have parameters of their own, so their number is fixed; build the model with "
                "share_parameters=True, or use with_module_copied"
            )
        if not len(positions):
            raise ValueError("S2RM: expected at least one position for a module, got none")
        places = self.embedding(positions.to(self.modules_on_sphere.places))
        return self._with_modules([0] * len(places), places)

    def _with_modules(self, modules: list[int], places: Float[Tensor, "M d"]) -> S2RM:
        # What parametrizations themselves hold of each module cannot be told.
        other = copied(self, "modules_on_sphere", *([] if self.share_parameters else ["cell"]))
        other.num_modules = other.cell.num_modules = other.own["num_modules"] = len(modules)
        other.modules_on_sphere.places = nn.Parameter(places.clone(), other.modules_on_sphere.places.requires_grad)
        if not self.share_parameters:
            keep_rows(other.cell, modules)
        return other

    def enclaves(self, positions: Float[Tensor, "*batch n"]) -> Float[Tensor, " M *batch"]:
        """The enclave of each module: its kernel at each position, `Z(P(x), p_m)` (Eq. 11)."""
        embedded = self.embedding(positions)
        return self.modules_on_sphere(embedded.reshape(-1, embedded.shape[-1])).reshape(-1, *positions.shape[:-1])

    def interaction_graph(self) -> Float[Tensor, "M M"]:
        """The kernel between the modules, `Z(p_m, p_l)`: an edge where it is above 0 (appendix A)."""
        return self.modules_on_sphere.between()


def S2GRU(**arguments: Unpack[ModuleArguments]) -> S2RM:
    """S2RM with gated recurrent units as its modules.

    Examples:
        Two sequences of five steps, each with seven crops of 11 x 11 pixels of a 48 x 48 image:

        >>> import torch
        >>> from s2rm import S2GRU, Episode, Views
        >>> positions = 48 * torch.rand(2, 5, 7, 2)
        >>> views = Views(positions, torch.rand(2, 5, 7, 11, 11).round())
        >>> model = S2GRU(value_shape=(11, 11), extent=[(0, 48), (0, 48)])
        >>> model.loss(Episode(views)).backward()
        >>> states = model.observe(views)
        >>> model.predict(states, positions[:, :, :3]).mean.shape
        torch.Size([2, 5, 3, 11, 11])

    Args:
        arguments: those of [`S2RM`][s2rm.models.s2rm.S2RM] except `cell`.
    """
    return S2RM(cell="gru", **arguments)


def S2LSTM(**arguments: Unpack[ModuleArguments]) -> S2RM:
    """S2RM with long short-term memories as its modules, the optional memory state of Eq. 4; arguments as `S2GRU`."""
    return S2RM(cell="lstm", **arguments)


def S2RMC(**arguments: Unpack[ModuleArguments]) -> S2RM:
    """S2RM with relational memories as its modules (E.3); arguments as `S2GRU`."""
    return S2RM(cell="rmc", **arguments)
