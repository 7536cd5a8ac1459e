"""The contract that every model keeps, and how models are saved and loaded."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.utils.checkpoint import checkpoint

from s2rm.files import write_whole
from s2rm.likelihoods import LIKELIHOODS
from s2rm.nn.codecs import CODECS
from s2rm.nn.embedding import PositionalEmbedding
from s2rm.views import Episode, Views

FORMAT = 1
WEIGHTS, CONFIG = "weights.safetensors", "config.json"


class WorldModel(nn.Module, ABC):
    """A model of a world that is seen in pieces: it takes sets of views and predicts the view at any position.

    A *state* holds what `step` and `predict` need, batch first: a tensor or a named tuple of tensors. *States* are
    states after each of T steps, `(B, T, ...)`.

    Args:
        arguments: the subclass's own constructor arguments, kept for `save`; the ones below are read from it.
            `value_shape`: shape of a view. `target_shape`: shape of what is predicted; None: that of a view.
            `num_coordinates`: n. `embedding_dim`, `shortest`, `longest`: of the positional embedding. `likelihood`:
            "bernoulli", "gaussian" or "mixed". `codec`: "mlp", "cnn" or "polar". `context_size`: F, what else is known
            of each query. `corrects`: predict corrections to a guess, the first entries of the context, as many as a
            target has; before training, the mean is the guess.
        encoding_size: size of an encoded view.
        decoding_size: size of what the decoder decodes.
        inject_positions: whether encoder and decoder see embedded positions.
    """

    is_oracle = False
    """whether it sees the views of the step that it predicts, and so cannot roll out"""

    def __init__(self, arguments: dict[str, Any], encoding_size: int, decoding_size: int, inject_positions: bool):
        super().__init__()
        self.arguments = json.loads(json.dumps(arguments))
        self.value_shape = tuple(arguments["value_shape"])
        shape = arguments["target_shape"]
        self.target_shape = self.value_shape if shape is None else tuple(shape)
        self.num_coordinates: int = arguments["num_coordinates"]
        self.inject_positions = inject_positions
        if self.arguments["codec"] is None:
            images = all(len(shape) in (2, 3) for shape in (self.value_shape, self.target_shape))
            self.arguments["codec"] = "cnn" if images else "mlp"
        for name, known in (("likelihood", LIKELIHOODS), ("codec", CODECS)):
            if self.arguments[name] not in known:
                got = self.arguments[name]
                raise ValueError(f"{type(self).__name__}: {name} must be one of {list(known)}, got {got!r}")
        self.embedding = PositionalEmbedding(
            self.num_coordinates, arguments["embedding_dim"], arguments["shortest"], arguments["longest"]
        )
        self.likelihood = LIKELIHOODS[arguments["likelihood"]]()
        self.likelihood.check(self.target_shape)
        encoder, decoder = CODECS[self.arguments["codec"]]
        self.context_size: int = arguments["context_size"]
        num_values = math.prod(self.target_shape)
        if arguments["corrects"]:
            if arguments["likelihood"] != "gaussian" or self.context_size < num_values:
                raise ValueError(
                    f'{type(self).__name__}: corrects needs likelihood "gaussian" and a context_size of at least '
                    f"{num_values}, the guess, got {arguments['likelihood']!r} and {self.context_size}"
                )
            self.correction = nn.Parameter(torch.zeros(self.target_shape))
        position_size = self.embedding.dim if inject_positions else 0
        known = position_size + self.context_size
        self.encoder = encoder(self.value_shape, encoding_size, position_size)
        self.decoder = decoder(self.target_shape, decoding_size, known, self.likelihood.num_parameters)

    @abstractmethod
    def initial_state(self, batch_size: int) -> Any:
        """The state before any view."""

    @abstractmethod
    def observe(self, views: Views, state: Any = None) -> Any:
        """Take the views of T steps and return the states after each, `(B, T, ...)`, by the fast path.

        Args:
            views: `(B, T, A, ...)`.
            state: the state to go on from. Default: the initial state.
        """

    @abstractmethod
    def last(self, states: Any) -> Any:
        """The state after the last of the steps."""

    @abstractmethod
    def read(self, states: Any, embedded: Tensor) -> Tensor:
        """What the decoder decodes at embedded positions `(..., Q, d)`: `(..., Q, H)`."""

    def step(self, views_at_t: Views, state: Any) -> Any:
        """One time step, for streaming: the state after `views_at_t`, `(B, 1, A, ...)`; `observe` step by step."""
        return self.last(self.observe(views_at_t, state))

    def predict(self, states: Any, positions: Tensor, context: Tensor | None = None) -> Distribution:
        """The distribution over the targets at queried positions, one step ahead of each state.

        Args:
            states: from `observe`, for positions `(B, T, Q, n)`; from `step`, for positions `(B, Q, n)`.
            positions: in the world's own units; Q may be any number.
            context: what else is known of each query, `(B, T, Q, F)` or `(B, Q, F)`, for models that take context.

        Returns:
            A distribution over `(B, T, Q, *target_shape)` or `(B, Q, *target_shape)`.

        Raises:
            ValueError: positions of another dtype or device; context of another size, or none where there must be.
        """
        self._check_kind("positions", positions)
        expected = (*positions.shape[:-1], self.context_size) if self.context_size else None
        if (None if context is None else tuple(context.shape)) != expected:
            raise ValueError(
                f"{type(self).__name__}: expected context of shape {expected}, got "
                f"{None if context is None else tuple(context.shape)}; give one row to each query"
            )
        embedded = self.embedding(positions)
        return self._decoded(self.read(states, embedded), embedded, context)

    def _decoded(self, vector: Tensor, embedded: Tensor, context: Tensor | None) -> Distribution:
        """The distribution over the targets, from what was read for them."""
        known = [part for part in (embedded if self.inject_positions else None, context) if part is not None]
        parameters = self.decoder(vector, torch.cat(known, -1) if known else None)
        if context is not None and self.arguments["corrects"]:
            guess = context[..., : self.correction.numel()].unflatten(-1, self.target_shape)
            mean, spread = parameters.unbind(-1)
            parameters = torch.stack([torch.addcmul(guess, self.correction, mean), spread], -1)
        return self.likelihood.distribution(parameters)

    def states_before_targets(self, views: Views, state: Any = None) -> Any:
        """The states from which the targets at steps 1 to T are predicted: those after steps 0 to T-1."""
        return self.observe(views.steps(None, -1), state)

    def loss(self, episode: Episode, recompute: int | None = None) -> Tensor:
        """Negative log-likelihood of one-step-forward prediction, in nats, averaged over what is there.

        With likelihood "mixed" it is a sum of such means; see `loss_terms`.

        Args:
            episode: T+1 steps.
            recompute: trade time for memory on long sequences: keep the states after every so many steps only, and
                compute what lies between once more in the backward pass.

        Raises:
            ValueError: `recompute` below 1.
        """
        return torch.stack([*self.loss_terms(episode, recompute).values()]).sum()

    def loss_terms(self, episode: Episode, recompute: int | None = None) -> dict[str, Tensor]:
        """The terms of which the loss is the sum, by name; arguments as of `loss`."""
        self.check_targets(episode.targets)
        if recompute is None:
            return self._loss_of(episode.views, *episode.to_predict(1, None), None)[0]
        if recompute < 1:
            raise ValueError(f"loss: recompute must be at least 1 step, got {recompute}")
        whole, _ = episode.to_predict(1, None)
        counts = self.likelihood.counts(whole.values, whole.mask)
        totals = {name: episode.views.values.new_zeros(()) for name in counts}
        state, steps = None, episode.views.num_steps
        for start in range(0, steps - 1, recompute):
            end = min(start + recompute, steps - 1)
            views, (targets, context) = episode.views.steps(start, end + 1), episode.to_predict(start + 1, end + 1)
            terms, state = checkpoint(self._loss_of, views, targets, context, state, use_reentrant=False)
            for name, count in self.likelihood.counts(targets.values, targets.mask).items():
                totals[name] = totals[name] + terms[name] * count
        return {name: total / counts[name].clamp(min=1) for name, total in totals.items()}

    def _loss_of(
        self, views: Views, targets: Views, context: Tensor | None, state: Any
    ) -> tuple[dict[str, Tensor], Any]:
        """The loss of `targets`, at the steps after those of `views` but the last, and the state then."""
        states, there = self.states_before_targets(views, state), targets.mask
        positions = torch.where(there[..., None], targets.positions, 0.0)
        if not is_worth_packing(there):
            predicted = self.predict(states, positions, context)
            return self.likelihood.terms(predicted, targets.values, there), self.last(states)
        embedded = self.embedding(positions)
        read = self.read(states, embedded)[there]
        predicted = self._decoded(read, embedded[there], None if context is None else context[there])
        return self.likelihood.terms(predicted, targets.values[there], there[there]), self.last(states)

    @torch.no_grad()
    def rollout(
        self,
        views: Views,
        queries: Tensor,
        steps: int,
        *,
        closed_loop: bool = True,
        feedback: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Iterator[Distribution]:
        """Predict many steps ahead, one prediction a step.

        Args:
            views: the prompt, `(B, T, A, ...)`.
            queries: where to predict: `(B, steps, Q, n)`, or `(B, Q, n)` for the same at every step.
            steps: how many steps to predict.
            closed_loop: feed predictions back as views (S2RM, F.1.1); False lets the state evolve with no views.
            feedback: the positions at which predictions are fed back, shaped as `queries`. Default: the queries.
            context: of each query, `(B, steps, Q, F)`, for models that take context; these feed back at the queries.

        Yields:
            The distribution over `(B, Q, *target_shape)` for each of the steps that follow the prompt.

        Raises:
            ValueError: a closed loop of a model whose predictions are no views; positions or context that do not fit.
        """
        if closed_loop and self.target_shape != self.value_shape:
            raise ValueError(
                f"rollout: predictions of shape {self.target_shape} cannot be fed back as views of shape "
                f"{self.value_shape}, whose actions they lack; use closed_loop=False"
            )

        for positions in (queries, *([] if feedback is None else [feedback])):
            if positions.ndim not in (3, 4) or (positions.ndim == 4 and positions.shape[1] < steps):
                raise ValueError(
                    f"rollout: positions must be (batch, queries, coordinates) or (batch, {steps} steps, queries, "
                    f"coordinates), got shape {tuple(positions.shape)}; give one set for each step, or one for all"
                )

        if context is not None and feedback is not None:
            raise ValueError("rollout: a model with context feeds back at its queries only; leave feedback out")

        def at(positions: Tensor, step: int) -> Tensor:
            return positions[:, step] if positions.ndim == 4 else positions

        state = self.last(self.observe(views))
        nothing = Views.none(views.batch_size, self.num_coordinates, self.value_shape, views.values)
        for step in range(steps):
            distribution = self.predict(state, at(queries, step), None if context is None else context[:, step])
            yield distribution
            if step + 1 == steps:
                return
            if closed_loop:
                positions, fed = at(queries, step), distribution
                if feedback is not None:
                    positions = at(feedback, step)
                    fed = self.predict(state, positions)
                state = self.step(Views(positions[:, None], self.likelihood.feedback(fed)[:, None]), state)
            else:
                state = self.step(nothing, state)

    def encode(self, views: Views) -> tuple[Tensor, Tensor]:
        """Embedded positions `(B, T, A, d)` and encodings `(B, T, A, H)` of the views."""
        if not is_worth_packing(views.mask):
            positions, values, missing = views.filled()
            embedded = self.embedding(positions)
            return embedded, self.encoder(values, missing, embedded if self.inject_positions else None)
        there = views.mask
        embedded = self.embedding(torch.where(there[..., None], views.positions, 0.0))
        missing = views.values[there].isnan()
        values = torch.where(missing, 0.0, views.values[there])
        encoded = self.encoder(values, missing.to(values.dtype), embedded[there] if self.inject_positions else None)
        blank = encoded.new_zeros(*there.shape, encoded.shape[-1])
        return embedded, blank.index_put(there.nonzero(as_tuple=True), encoded)

    def check(self, views: Views) -> None:
        """Refuse views that this model was not made for."""
        self._check_views("views", views, self.value_shape)

    def check_targets(self, targets: Views) -> None:
        """Refuse targets that this model was not made for."""
        self._check_views("targets", targets, self.target_shape)

    def _check_views(self, name: str, views: Views, shape: tuple[int, ...]) -> None:
        got = (views.positions.shape[-1], views.value_shape)
        if got != (self.num_coordinates, shape):
            raise ValueError(
                f"{type(self).__name__}: expected {name} with {self.num_coordinates} coordinates and values of shape "
                f"{shape}, got {got[0]} coordinates and {got[1]}; make the model for these {name}"
            )
        self._check_kind(name, views.values)

    def _check_kind(self, name: str, given: Tensor) -> None:
        weight = next(self.parameters())
        if (given.device, given.dtype) != (weight.device, weight.dtype):
            raise ValueError(
                f"{type(self).__name__}: the model is {weight.dtype} on {weight.device}, the {name} are "
                f"{given.dtype} on {given.device}; move the {name} with .to(...)"
            )

    def check_state(self, state: Any, start: Any) -> None:
        """Refuse a state that is not like `start`, the initial state of this batch."""
        got, expected = _leaves(state), _leaves(start)
        alike = len(got) == len(expected) and all(
            (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
            for one, other in zip(got, expected, strict=True)
        )
        if not alike:
            raise ValueError(
                f"{type(self).__name__}: expected a state of {[tuple(part.shape) for part in expected]} on "
                f"{expected[0].device}, got {[tuple(part.shape) for part in got]} on {got[0].device}; start from "
                "initial_state(batch_size), or move it"
            )

    @property
    def num_parameters(self) -> int:
        """How many numbers training sets."""
        return sum(parameter.numel() for parameter in self.parameters())

    def save(self, folder: str | Path) -> None:
        """Write the weights (safetensors) and the constructor's arguments (JSON) into a folder, each file whole."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        write_whole(folder / WEIGHTS, save(weights))
        config = {"format": FORMAT, "model": type(self).__name__, "arguments": self.arguments}
        write_whole(folder / CONFIG, json.dumps(config, indent=2).encode())


def is_worth_packing(mask: Tensor) -> bool:
    """Whether to encode and decode what is there only: if something is not, and asking does not wait for a device."""
    if mask.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return 0 < int(mask.sum()) < mask.numel()


def load(folder: str | Path) -> WorldModel:
    """The model that `save` wrote into `folder`, on the CPU, in evaluation mode. Nothing is unpickled.

    Raises:
        ValueError: the folder is missing or half-written, of a newer format, or not what `save` writes.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"load: expected a saved model with {CONFIG} and {WEIGHTS}, found no {folder / name}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        written, name, arguments = config["format"], config["model"], config["arguments"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load: {folder / CONFIG} is not a saved model's config ({error!r}); save it again") from error
    if not isinstance(written, int) or written > FORMAT:
        raise ValueError(f"load: {folder} has format {written}, this version reads up to {FORMAT}; update s2rm")
    known = {model.__name__: model for model in WorldModel.__subclasses__()}
    if name not in known:
        raise ValueError(f"load: {folder / CONFIG} names the model {name!r}, known are {sorted(known)}; update s2rm")
    try:
        model = known[name](**arguments)
    except TypeError as error:
        raise ValueError(f"load: the arguments in {folder / CONFIG} do not make a {name} ({error})") from error
    try:
        weights = load_file(folder / WEIGHTS)
        model.to(next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point()))
        model.load_state_dict(weights)
    except SafetensorError as error:
        raise ValueError(
            f"load: {folder / WEIGHTS} is no safetensors file ({error}); it was not written by save and is not opened"
        ) from error
    except (RuntimeError, StopIteration) as error:
        raise ValueError(
            f"load: the weights in {folder / WEIGHTS} do not fit its config; save the model again"
        ) from error
    return model.eval()


def _leaves(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [leaf for part in state for leaf in _leaves(part)]
