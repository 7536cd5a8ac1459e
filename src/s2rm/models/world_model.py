"""The contract of every model: it observes sets of views and predicts the view at any position."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils._pytree import tree_leaves, tree_structure, tree_unflatten
from torch.utils.checkpoint import checkpoint

from s2rm.likelihoods import LIKELIHOODS, BernoulliPixels, Mean, measured
from s2rm.models.inputs import Arguments, plain, records
from s2rm.models.model import Model
from s2rm.nn.codecs import CODECS
from s2rm.nn.core import a_weight
from s2rm.nn.embedding import PositionalEmbedding, Rotation
from s2rm.nn.over_time import under_functorch
from s2rm.views import Episode, Views, for_each_step

State = TypeVar("State")


class WorldModel(Model[Episode], Generic[State]):
    """A model of a partially observed world: it observes sets of views over time and predicts the view at any position.

    Views are encoded, the model updates its state, and the decoder maps what `read` returns for a query to the
    parameters of a distribution. A *state* is a tensor, or a named tuple of tensors, batch first but for the memory of
    baselines' cores, which has layers first. *States* are the states after each of T steps, `(B, T, ...)`.

    Args:
        arguments: those that all models share. They become the records `signature` and `space`; see
            [`Signature`][s2rm.models.inputs.Signature] and [`Space`][s2rm.models.inputs.Space].
        own: the model's other arguments, kept for `save`.
        size: H, size of an encoded view and of the vector that the decoder decodes.
        has_kernel: whether a kernel gives the model the positions of views, even if encoder and decoder do not.
    """

    is_oracle = False
    """whether the model observes the step it predicts, and therefore cannot roll out"""

    def __init__(self, arguments: Arguments, own: dict[str, object], size: int, has_kernel: bool = False):
        super().__init__()
        name = type(self).__name__
        signature, space = records(name, arguments, has_kernel)
        self.signature, self.space, self.own = signature, space, plain(own)
        self.inject_positions = space.inject_positions
        self.value_shape = signature.value_shape
        self.target_shape = self.value_shape if signature.target_shape is None else signature.target_shape
        self.num_coordinates, self.context_size = space.num_coordinates, signature.context_size
        for what, known in (("likelihood", list(LIKELIHOODS)), ("codec", list(CODECS))):
            if getattr(signature, what) not in known:
                raise ValueError(f"{name}: {what} must be one of {known}, got {getattr(signature, what)!r}")
        self.embedding = PositionalEmbedding(self.num_coordinates, space.embedding_dim, space.shortest, space.longest)
        self.likelihood = LIKELIHOODS[signature.likelihood]()
        self.likelihood.check(self.target_shape)
        num_values = math.prod(self.target_shape)
        if signature.corrects:
            if self.context_size < num_values:
                raise ValueError(
                    f"{name}: corrects needs a context_size of at least {num_values}, the values of the guess, got "
                    f"{self.context_size}"
                )
            self.correction = nn.Parameter(torch.zeros(self.target_shape))
        position_size = self.embedding.dim if self.inject_positions else 0
        encoder, decoder = CODECS[signature.codec]
        self.encoder = encoder(self.value_shape, size, position_size)
        beside, num_parameters = position_size + self.context_size, self.likelihood.num_parameters
        self.decoder = decoder(self.target_shape, size, beside, num_parameters)
        if space.rotation is not None:
            self.rotation = Rotation(size, self.num_coordinates, space.rotation, space.middle)

    @property
    def arguments(self) -> dict[str, object]:
        return {**asdict(self.signature), **asdict(self.space), **self.own}

    @property
    def setting(self) -> str:
        """The codec, and how positions enter it."""
        space = self.space
        if space.rotation is not None:
            way = f"rotate encodings, from a wavelength of {space.rotation:g} on"
        else:
            way = f"are {'' if space.inject_positions else 'not '}injected into encoder and decoder"
        wavelengths = f"wavelengths of the embedding from {space.shortest:g} to {space.longest:g}"
        return f"codec {self.signature.codec}; positions {way}; {wavelengths}"

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before any view."""

    def observe(self, views: Views, state: State | None = None) -> State:
        """The states after each of the T steps of the views, `(B, T, ...)`, by the fast path.

        Args:
            views: `(B, T, A, ...)`.
            state: the state before the first of these steps. Default: the initial state.

        Raises:
            ValueError: no steps; views or a state that do not fit the model.
        """
        self._check_views("views", views, self.value_shape)
        if not views.num_steps:
            raise ValueError(f"{type(self).__name__}: expected views of at least one step, got none; take more steps")
        start = self.initial_state(views.batch_size)
        return self.advance(views, start if state is None else self.check_state(state, start))

    def advance(self, views: Views, state: State) -> State:
        """As `observe`, for views and a state that were checked; a model defines this or `observe` itself."""
        raise NotImplementedError(f"{type(self).__name__} defines neither advance nor observe")

    @abstractmethod
    def last(self, states: State) -> State:
        """The state after the last of the steps."""

    @abstractmethod
    def read(self, states: State, embedded: Tensor) -> Tensor:
        """The vectors `(..., Q, H)` from which the views at embedded positions `(..., Q, d)` are decoded."""

    def step(self, views_at_t: Views, state: State) -> State:
        """The state after one more time step, `(B, 1, A, ...)`, for streaming; equals `observe`, step by step."""
        return self.last(self.observe(views_at_t, state))

    def predict(self, states: State, positions: Tensor, context: Tensor | None = None) -> Distribution:
        """The distribution over the targets at queried positions, one step ahead of each state.

        Args:
            states: from `observe`, for positions `(B, T, Q, n)`; from `step`, for positions `(B, Q, n)`.
            positions: any number Q of queries, in the world's own units.
            context: context features of each query, `(B, T, Q, F)` or `(B, Q, F)`, if `context_size` is not 0.

        Returns:
            A distribution over `(B, T, Q, *target_shape)` or `(B, Q, *target_shape)`.

        Raises:
            ValueError: positions of another dtype or device, or of another batch or number of steps than the states;
                context that is missing, or of another size, dtype or device.
        """
        self._check_kind("positions", positions)
        self._check_context(positions, context)
        embedded = self.embedding(positions)
        return self.decode(self._turned(self.read(states, embedded), positions, back=True), embedded, context)

    def _check_context(self, positions: Tensor, context: Tensor | None) -> None:
        """Raise a ValueError for context that is missing, or not a row for each query."""
        expected = (*positions.shape[:-1], self.context_size) if self.context_size else None
        got = None if context is None else tuple(context.shape)
        if got != expected:
            raise ValueError(
                f"{type(self).__name__}: expected context of shape {expected}, got {got}; give one row to each query"
            )
        if context is not None:
            self._check_kind("context features", context)

    def _turned(self, vectors: Tensor, positions: Tensor, back: bool = False) -> Tensor:
        """Vectors turned by positions, or back, in a model with a rotation; unchanged in others."""
        return vectors if self.space.rotation is None else self.rotation(vectors, positions, back)

    def decode(self, vectors: Tensor, embedded: Tensor, context: Tensor | None) -> Distribution:
        """The distribution over the targets of queries, from their vectors `(..., Q, H)`, embedded positions and
        context. With `corrects` the mean is the guess plus the learned scale of each value times the correction."""
        beside = [part for part in (embedded if self.inject_positions else None, context) if part is not None]
        parameters = self.decoder(vectors, torch.cat(beside, -1) if beside else None)
        if context is not None and self.signature.corrects:
            guess = context[..., : self.correction.numel()].reshape(*context.shape[:-1], *self.target_shape)
            first, *others = parameters.unbind(-1)
            parameters = torch.stack([torch.addcmul(guess, self.correction, first), *others], -1)
        return self.likelihood.distribution(parameters)

    def states_before_targets(self, views: Views, state: State | None = None) -> State:
        """The states from which the targets at steps 1 to T are predicted: those after steps 0 to T-1."""
        return self.observe(views.steps(None, -1), state)

    def loss_terms(self, episode: Episode, recompute: int | None = None) -> dict[str, Mean]:
        """The terms of the loss of one-step-forward prediction, by name: negative log-likelihoods in nats.

        Each is a mean over all measured target values; there is one, or three with likelihood "mixed".

        Args:
            episode: T+1 steps.
            recompute: trade time for memory on long sequences: keep only the state of every `recompute`-th step, and
                recompute the others in the backward pass.

        Raises:
            ValueError: `recompute` below 1, or targets that do not fit.
        """
        self.check_loss(episode, recompute)
        if recompute is None:
            return self._terms_of(episode.views, *episode.to_predict(1, None), None)[0]
        terms: dict[str, Mean] = {}
        state, steps = None, episode.views.num_steps
        for start in range(0, steps - 1, recompute):
            end = min(start + recompute, steps - 1)
            views, (targets, context) = episode.views.steps(start, end + 1), episode.to_predict(start + 1, end + 1)
            some, state = checkpoint(self._terms_of, views, targets, context, state, use_reentrant=False)
            terms = {name: terms[name] + mean if name in terms else mean for name, mean in some.items()}
        return terms

    def _terms_of(
        self, views: Views, targets: Views, context: Tensor | None, state: State | None
    ) -> tuple[dict[str, Mean], State]:
        """The loss terms of `targets`, one step after each of `views` but the last, and the state after those."""
        states, mask = self.states_before_targets(views, state), targets.mask
        positions = torch.where(mask[..., None], targets.positions, 0.0)
        self._check_context(positions, context)
        if context is not None:
            context = torch.where(mask[..., None], context, 0.0)
        if not is_worth_packing(mask):
            predicted = self.predict(states, positions, context)
            known = None if is_complete(targets.values, mask) else mask
            return self.likelihood.terms(predicted, targets.values, known), self.last(states)
        embedded = self.embedding(positions)
        vectors = self._turned(self.read(states, embedded)[mask], positions[mask], back=True)
        predicted = self.decode(vectors, embedded[mask], None if context is None else context[mask])
        return self.likelihood.terms(predicted, targets.values[mask], mask[mask]), self.last(states)

    @torch.no_grad()
    def rollout(
        self, views: Views, queries: Tensor, steps: int, *, closed_loop: bool = True,
        feedback: Tensor | None = None, context: Tensor | None = None,
    ) -> Iterator[Distribution]:  # fmt: skip
        """Predict many steps ahead, with one distribution per step.

        Args:
            views: the prompt, `(B, T, A, ...)`.
            queries: positions to predict at, `(B, steps, Q, n)`, or `(B, Q, n)` for the same at every step.
            steps: number of steps to predict.
            closed_loop: feed predictions back as views (S2RM, F.1.1): their means, thresholded at 0.5 in sequences in
                whose prompt all values are binary; False lets the state evolve without views.
            feedback: positions at which predictions are fed back, shaped as `queries`. Default: the queries.
            context: context features of each query, `(B, steps, Q, F)`, if `context_size` is not 0; such models feed
                back at the queries only.

        Yields:
            The distribution over `(B, Q, *target_shape)` for each of the steps that follow the prompt.

        Raises:
            ValueError: a closed loop of a model whose targets are not views; positions or context that do not fit.
        """
        if closed_loop and self.target_shape != self.value_shape:
            raise ValueError(
                f"rollout: predictions of shape {self.target_shape} cannot be fed back as views of shape "
                f"{self.value_shape}, which also hold actions; use closed_loop=False"
            )
        queries = for_each_step(queries, steps)
        fed_at = queries if feedback is None else for_each_step(feedback, steps)
        if context is not None and feedback is not None:
            raise ValueError("rollout: a model with context feeds back at its queries only; leave feedback out")
        if context is not None and (context.ndim != 4 or context.shape[1] < steps):
            wanted, got = f"(batch, {steps} steps, queries, features)", tuple(context.shape)
            raise ValueError(f"rollout: context must be {wanted}, got shape {got}; give it for each step")
        state = self.last(self.observe(views))
        nothing = Views.none(views.batch_size, self.num_coordinates, self.value_shape, views.values)
        grey = measured(views.values, views.mask) & (views.values > 0) & (views.values < 1)
        grey = grey.flatten(1).any(1).view(-1, 1, *[1] * len(self.value_shape))
        for step in range(steps):
            distribution = self.predict(state, queries[:, step], None if context is None else context[:, step])
            yield distribution
            if step + 1 == steps:
                return
            seen = nothing
            if closed_loop:
                fed = distribution if feedback is None else self.predict(state, fed_at[:, step])
                values = self.likelihood.feedback(fed)
                if isinstance(self.likelihood, BernoulliPixels):
                    values = torch.where(grey, fed.mean, values)
                seen = Views(fed_at[:, step, None], values[:, None].to(fed_at.dtype))
            state = self.step(seen, state) if closed_loop else self.imagine(seen, state)

    def imagine(self, nothing: Views, state: State) -> State:
        """The state after one more step without views, `(B, 1, 0, ...)`; in a model with latent variables a sample."""
        return self.step(nothing, state)

    def encode(self, views: Views) -> tuple[Tensor, Tensor]:
        """Embedded positions `(B, T, A, d)` and encodings `(B, T, A, H)` of the views."""
        there, positions, values, missing = views.mask, views.positions, views.values, None
        if not is_complete(values, there):
            positions, values, missing = views.filled()
        embedded = self.embedding(positions)
        injected = embedded if self.inject_positions else None
        if missing is None or not is_worth_packing(there):
            return embedded, self._turned(self.encoder(values, missing, injected), positions)
        encoded = self.encoder(values[there], missing[there], None if injected is None else injected[there])
        encoded = self._turned(encoded, positions[there])
        blank = encoded.new_zeros(*there.shape, encoded.shape[-1])
        return embedded, blank.index_put(there.nonzero(as_tuple=True), encoded)

    def check_loss(self, episode: Episode, recompute: int | None) -> None:
        """Raise a ValueError for targets of another shape, dtype or device than the model's, for values that its
        likelihood does not have, or `recompute` below 1."""
        if not isinstance(episode, Episode):
            raise ValueError(f"loss: expected an Episode, got {type(episode).__name__}; take Episode(views)")
        self._check_views("targets", episode.targets, self.target_shape)
        targets, _ = episode.to_predict(1, None)
        if not (torch.compiler.is_compiling() or under_functorch() or targets.values.is_meta):
            self.likelihood.check_values(targets.values, targets.mask)
        if recompute is not None and recompute < 1:
            raise ValueError(f"loss: recompute must be at least 1 step, got {recompute}")

    def _check_views(self, name: str, views: Views, shape: tuple[int, ...]) -> None:
        n, got = views.positions.shape[-1], views.value_shape
        if (n, got) != (self.num_coordinates, shape):
            raise ValueError(
                f"{type(self).__name__}: expected {name} with {self.num_coordinates} coordinates and values of shape "
                f"{shape}, got {n} coordinates and {got}; make the model for these {name}"
            )
        self._check_kind(name, views.values)

    def _check_kind(self, name: str, given: Tensor) -> None:
        weight = a_weight(self)
        if (given.device, given.dtype) != (weight.device, weight.dtype):
            raise ValueError(
                f"{type(self).__name__}: the model is {weight.dtype} on {weight.device}, the {name} are "
                f"{given.dtype} on {given.device}; move the {name} with .to(...)"
            )

    def check_state(self, state: State, start: State) -> State:
        """The state, its parts named as in `start`, the initial state of this batch; ValueError where it has others."""
        got, expected = tree_leaves(state), tree_leaves(start)
        kinds = [[(part.shape, part.dtype, part.device) for part in parts] for parts in (got, expected)]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"{type(self).__name__}: expected a state of {[tuple(part.shape) for part in expected]}, "
                f"{expected[0].dtype} on {expected[0].device}, got {[tuple(part.shape) for part in got]}, "
                f"{got[0].dtype} on {got[0].device}; start from initial_state(batch_size), or move it"
            )
        return tree_unflatten(got, tree_structure(start))

    def check_positions(self, embedded: Tensor, expected: tuple[int, ...]) -> None:
        """Raise a ValueError for embedded positions `(..., Q, d)` whose first axes are not `expected`, the states'."""
        if (got := tuple(embedded.shape[:-2])) != tuple(expected):
            wanted = "(batch, queries, n)" if len(expected) == 1 else "(batch, time, queries, n)"
            raise ValueError(
                f"{type(self).__name__}: expected positions {wanted} for this state, the first axes {tuple(expected)}, "
                f"got {got}; states of observe have a time, the state of step has none"
            )


def load(folder: str | Path) -> WorldModel:
    """As [`load`][s2rm.models.saved.load], by the name that it had here."""
    from s2rm.models.saved import load as load_saved  # which imports all models

    return load_saved(folder)


def is_worth_packing(mask: Tensor) -> bool:
    """Whether to encode and decode only the slots that hold a view: where some do not, and `by_numbers`."""
    return by_numbers(mask) and 0 < int(mask.sum()) < mask.numel()


def is_complete(values: Tensor, mask: Tensor) -> bool:
    """Whether all slots hold a view and all of their channels are measured, as far as `by_numbers`."""
    # A sum is NaN if a value is: it takes less time than to look for one, and infinite ones do no harm.
    return by_numbers(mask) and bool(mask.all()) and not values.sum().isnan()


def by_numbers(mask: Tensor) -> bool:
    """Whether numbers in a mask may decide shapes: on the CPU, since reading them would wait for another device."""
    return mask.device.type == "cpu" and not (torch.compiler.is_compiling() or under_functorch())
