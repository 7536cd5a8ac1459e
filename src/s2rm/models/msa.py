"""Multi-layer self-attention over recent observations: a model without a recurrent state."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, pad
from torch.nn.functional import scaled_dot_product_attention as attention

from s2rm.likelihoods import Mean, measured
from s2rm.models.inputs import Arguments
from s2rm.models.world_model import WorldModel, by_numbers
from s2rm.nn.core import a_weight
from s2rm.nn.noise import DrawsByRow
from s2rm.views import Episode, Views

AGE_FREQUENCIES = 6
MOST_TOKENS = 4096
"""observations that attend to each other at once, on the CPU"""


class Memory(NamedTuple):
    """The recent observations: the views of S steps, and which W of these steps are remembered."""

    tokens: Tensor
    """`(B, S, A, H)`, the encoded views, the oldest step first; zero where there is no view. After one step S is W"""
    mask: Tensor
    """bool `(B, S, A)`, True where there is a view"""
    slots: Tensor
    """int `(B, T, W)` after each of T steps, `(B, W)` after one: indices into the S steps, the oldest first"""
    ages: Tensor
    """int, as `slots`: age of each, in steps before the predicted one; 0 where nothing is remembered"""

    def recall(self) -> tuple[Tensor, Tensor]:
        """The remembered views `(..., W, A, H)` and their mask, `(..., W, A)`."""
        first = torch.arange(self.tokens.shape[0], device=self.slots.device) * self.tokens.shape[1]
        rows = (first.view(-1, *(1,) * (self.slots.ndim - 1)) + self.slots).flatten()
        tokens, mask = (
            part.flatten(0, 1).index_select(0, rows).unflatten(0, self.slots.shape) for part in (self.tokens, self.mask)
        )
        return tokens, mask & (self.ages > 0)[..., None]

    def with_room(self, views: int) -> Memory:
        """The memory before any view, with room for this number of views per step."""
        tokens, mask = self.tokens[:, :, :1].expand(-1, -1, views, -1), self.mask[:, :, :1].expand(-1, -1, views)
        return self._replace(tokens=tokens.clone(), mask=mask.clone())


class MSA(WorldModel[Memory], DrawsByRow):
    r"""A transformer encoder whose tokens are the observations of the last steps and the queries.

    With linear maps $L$ of embedded positions and $A$ of sines and cosines of $\log(1 + a)$, an observation made $a$
    steps before the predicted step and a query are the tokens

    $$E(O, P(x)) + L P(x) + A(a) \qquad\text{and}\qquad L P(x_q) + c$$

    Observations attend to observations. A query attends to observations and itself, so that no prediction depends on
    the other queries. The decoder reads the outputs at the queries.

    The state holds the views of the last steps with any view. A step without views only ages it.

    Args:
        hidden_size: H, size of a token, a multiple of `num_heads`.
        num_layers, num_heads: layers of the transformer, and heads of each layer.
        window: W, number of remembered steps, counting those with views.
        steps_per_loss: number of steps of each sequence that a loss predicts; see `loss_terms`.
        inputs: the arguments of every model, the fields of [`Signature`][s2rm.models.inputs.Signature] and
            [`Space`][s2rm.models.inputs.Space]. Defaults: `likelihood` "gaussian", `codec` "mlp".

    Raises:
        TypeError, ValueError: an argument that is unknown or missing, or out of its range.

    Source:
        After Pannatier, Matoba and Fleuret, "Inference from Real-World Sparse Measurements", TMLR 2024. Relative to
        the paper: the encoder and the decoder are those of the other models here; observations have an age, queries do
        not attend to each other, and a prediction is a distribution.
    """

    def __init__(
        self, *, hidden_size: int = 64, num_layers: int = 3, num_heads: int = 4, window: int = 12,
        steps_per_loss: int = 4, **inputs: Unpack[Arguments],
    ):  # fmt: skip
        counts = {"num_layers": num_layers, "num_heads": num_heads, "window": window, "steps_per_loss": steps_per_loss}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"MSA: {name} must be at least 1, got {count}")
        if hidden_size < 1 or hidden_size % num_heads:
            raise ValueError(
                f"MSA: hidden_size must be a positive multiple of the number of heads, {num_heads}, got {hidden_size}"
            )
        inputs = {"likelihood": "gaussian", "codec": "mlp", **inputs}
        super().__init__(inputs, {"hidden_size": hidden_size, **counts}, hidden_size)
        self.hidden_size, self.num_heads = hidden_size, num_heads
        self.window, self.steps_per_loss = window, steps_per_loss
        self.place = nn.Linear(self.embedding.dim, hidden_size)
        self.age = nn.Linear(2 * AGE_FREQUENCIES, hidden_size)
        self.asked = nn.Parameter(torch.zeros(hidden_size))
        layer = nn.TransformerEncoderLayer(
            hidden_size, num_heads, 4 * hidden_size, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.transformer: Any = nn.TransformerEncoder(
            layer, num_layers, nn.LayerNorm(hidden_size), enable_nested_tensor=False
        )
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))
        self.draws: Tensor
        """number of losses in training so far, which seeds the draws: a resumed run draws as an uninterrupted one"""

    def initial_state(self, batch_size: int) -> Memory:
        """A memory of W steps, with one empty slot each."""
        tokens = a_weight(self).new_zeros(batch_size, self.window, 1, self.hidden_size)
        slots = torch.arange(self.window, device=tokens.device).repeat(batch_size, 1)
        return Memory(tokens, torch.zeros_like(tokens[..., 0], dtype=torch.bool), slots, torch.zeros_like(slots))

    def check_state(self, state: Memory, start: Memory) -> Memory:
        """As in every model, but a state may hold any number of views per step."""
        if len(state) == len(start) and state[1].ndim == 3:
            start = start.with_room(max(1, state[1].shape[-1]))
        return super().check_state(state, start)

    def advance(self, views: Views, state: Memory) -> Memory:
        new, there = self._tokens(views)
        width = max(views.mask.shape[-1], state.mask.shape[-1])
        tokens = [pad(part, (0, 0, 0, width - part.shape[2])) for part in (state.tokens, new)]
        mask = [pad(part, (0, width - part.shape[2])) for part in (state.mask, there)]

        # Of the W remembered steps and the T new ones: whether they have views, and their time, 0 for the first new.
        step = torch.arange(views.num_steps, device=new.device)
        seen = torch.cat([state.ages > 0, views.mask.any(-1)], 1)
        born = torch.cat([-state.ages, step.repeat(views.batch_size, 1)], 1)
        # After each step, `number` steps with views were observed; the last W have ranks number - W to number - 1.
        number = seen.cumsum(1)[:, self.window :, None]
        rank = number - self.window + torch.arange(self.window, device=new.device)
        slots = nth(seen, rank.flatten(1)).view_as(rank)
        ages = step[:, None] + 1 - born.gather(1, slots.flatten(1)).view_as(rank)
        return Memory(torch.cat(tokens, 1), torch.cat(mask, 1), slots, torch.where(rank < 0, 0, ages))

    def step(self, views_at_t: Views, state: Memory) -> Memory:
        """As in every model. A step with views takes the place of the oldest one; all others only age the memory."""
        if views_at_t.num_steps != 1:
            return super().step(views_at_t, state)
        self._check_views("views", views_at_t, self.value_shape)
        state = self.check_state(state, self.initial_state(views_at_t.batch_size))
        (old, there), (new, seen) = (state.tokens, state.mask), self._tokens(views_at_t)
        width = max(there.shape[-1], seen.shape[-1])
        old, new = (pad(part, (0, 0, 0, width - part.shape[2])) for part in (old, new))
        there, seen = (pad(part, (0, width - part.shape[2])) for part in (there, seen))
        aged = torch.where(state.ages > 0, state.ages + 1, 0)
        some = seen.any(-1)
        ages = torch.where(some, torch.cat([aged[:, 1:], some.to(aged.dtype)], 1), aged)
        tokens = torch.where(some[..., None, None], torch.cat([old[:, 1:], new], 1), old)
        mask = (some[..., None] & torch.cat([there[:, 1:], seen], 1)) | (there & ~some[..., None])
        return state._replace(tokens=tokens, mask=mask, ages=ages)

    def _tokens(self, views: Views) -> tuple[Tensor, Tensor]:
        """The views `(B, T, A, H)`, as observations of no age, zero where there is none, and their mask."""
        embedded, encodings = self.encode(views)
        return torch.where(views.mask[..., None], encodings + self.place(embedded), 0.0), views.mask

    def last(self, states: Memory) -> Memory:
        after = states._replace(slots=states.slots[:, -1], ages=states.ages[:, -1])
        tokens, mask = after.recall()
        slots = torch.arange(self.window, device=tokens.device).repeat(tokens.shape[0], 1)
        return Memory(torch.where(mask[..., None], tokens, 0.0), mask, slots, after.ages)

    def read(self, states: Memory, embedded: Float[Tensor, "*batch Q d"]) -> Float[Tensor, "*batch Q H"]:
        self.check_positions(embedded, states.slots.shape[:-1])
        one = states.slots.ndim == 2  # after one step the slots are the remembered steps themselves
        tokens, there = (states.tokens, states.mask & (states.ages > 0)[..., None]) if one else states.recall()
        frequencies = 2.0 ** torch.arange(-1, AGE_FREQUENCIES - 1, dtype=tokens.dtype, device=tokens.device)
        angles = states.ages.to(tokens.dtype).log1p()[..., None] * frequencies
        reports = tokens + self.age(torch.cat([angles.sin(), angles.cos()], -1))[..., None, :]
        queries = self.place(embedded) + self.asked
        attended = self.attend(
            reports.flatten(-3, -2).flatten(0, -3), there.flatten(-2).flatten(0, -2), queries.flatten(0, -3)
        )
        return attended.view(queries.shape)

    def attend(
        self, reports: Float[Tensor, "N R H"], there: Bool[Tensor, "N R"], queries: Float[Tensor, "N Q H"]
    ) -> Float[Tensor, "N Q H"]:
        """The transformer's outputs at the queries, each of which attends to itself and, where `there` is True, to the
        observations, `reports`.

        Equals the transformer over observations and queries in one sequence with a mask, but computes neither the
        observations' attention to queries nor the attention between queries. On the CPU it processes few sequences at a
        time and only the observations that are present: time and memory grow with the square of their number.
        """
        if not queries.numel():  # of which PyTorch's attention cannot make heads
            return queries
        if not by_numbers(there):
            return self._attend(reports, there, queries)
        each = max(1, MOST_TOKENS // max(1, there.shape[1]))
        sequences = zip(*(part.split(each) for part in (reports, there, queries)), strict=True)
        return torch.cat([self._attend(*packed(some, of_them), asking) for some, of_them, asking in sequences])

    def _attend(
        self, reports: Float[Tensor, "N R H"], there: Bool[Tensor, "N R"], queries: Float[Tensor, "N Q H"]
    ) -> Float[Tensor, "N Q H"]:
        """As `attend`, for all sequences at once."""
        # Without any observation the empty slots attend to each other, since a softmax over nothing is NaN. No query
        # attends to them.
        shown, seen = there | ~there.any(-1, keepdim=True), pad(there, (0, 1), value=True)
        for number, layer in enumerate(self.transformer.layers, 1):
            query, key, value = self._heads(layer, reports)
            asked, own_key, own_value = self._heads(layer, queries)
            # What a query attends to beside the observations is itself. Its logit is one more channel, by which one
            # more key, shared by all queries, is matched; the last channel of the values is the weight of that key.
            last = pad(key.new_ones(1, 1), (key.shape[-1], 0, key.shape[-2], 0))
            keys, values = (pad(part, (0, 1, 0, 1)) + last for part in (key, value))
            logits = (asked * own_key).sum(-1, keepdim=True)
            heard = attention(
                torch.cat([asked, logits], -1), keys, values, seen[:, None, None], scale=key.shape[-1] ** -0.5
            )
            queries = after(layer, queries, heard[..., :-1] + heard[..., -1:] * own_value)
            if number < len(self.transformer.layers):
                reports = after(layer, reports, attention(query, key, value, shown[:, None, None]))
        return self.transformer.norm(queries)

    def _heads(self, layer: Any, tokens: Float[Tensor, "N S H"]) -> tuple[Tensor, ...]:
        """Queries, keys and values of tokens, `(N, K, S, D)` each."""
        projected = linear(layer.norm1(tokens), layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias)
        return projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def loss_terms(self, episode: Episode, recompute: int | None = None) -> dict[str, Mean]:
        """The terms of the loss by name, each as a [`Mean`][s2rm.likelihoods.Mean] over the targets of some steps.

        Each predicted step attends to the whole window again, so only `steps_per_loss` of the steps with targets are
        predicted, spread evenly over the sequence: drawn at random in training mode, each as likely as any other, and
        always the same in evaluation mode.

        Args and raises: as `loss`; `recompute` has no effect, since no long computation is kept.
        """
        self.check_loss(episode, recompute)
        targets, context = episode.to_predict(1, None)
        states = self.states_before_targets(episode.views)
        steps, drawn = self._draw(measured(targets.values, targets.mask).flatten(2).any(-1))
        at = torch.arange(len(steps), device=steps.device)[:, None], steps
        states = states._replace(slots=states.slots[at], ages=states.ages[at])
        if context is not None:
            context = context.where(targets.mask[..., None], 0)[at]
        predicted = self.predict(states, targets.filled()[0][at], context)
        return self.likelihood.terms(predicted, targets.values[at], targets.mask[at] & drawn[..., None])

    def _draw(self, there: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """The steps to predict: one of each K-th of those with targets, or all where they are at most K; and which of
        these K are used."""
        count, part = there.sum(1, keepdim=True), torch.arange(self.steps_per_loss, device=there.device)
        within = torch.full((len(there), self.steps_per_loss), 0.5)
        if self.training:
            drawn = torch.Generator().manual_seed(int(self.draws))
            within = self.by_row(lambda rows: torch.rand(rows, self.steps_per_loss, generator=drawn), len(there))
            self.draws += 1
        rank = ((part + within.to(there.device)) * count / self.steps_per_loss).long()
        rank = torch.where(count > self.steps_per_loss, rank, part).minimum(count - 1)
        return nth(there, rank), part < count


def after(layer: Any, tokens: Float[Tensor, "N S H"], heard: Float[Tensor, "N K S D"]) -> Float[Tensor, "N S H"]:
    """The output of a layer of the transformer, from its input and what its heads attended to."""
    tokens = tokens + layer.self_attn.out_proj(heard.transpose(1, 2).flatten(2))
    return tokens + layer.linear2(layer.activation(layer.linear1(layer.norm2(tokens))))


def packed(reports: Float[Tensor, "N R H"], there: Bool[Tensor, "N R"]) -> tuple[Tensor, Tensor]:
    """The observations that are there, first, and as few others as the longest sequence leaves; and which are there."""
    most = max(1, int(there.sum(1).max()))
    order = there.argsort(dim=1, descending=True, stable=True)[:, :most]
    return reports.take_along_dim(order[..., None], 1), there.gather(1, order)


def nth(there: Bool[Tensor, "B S"], rank: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """Index of the True of this rank, from 0, in each row; any index if there is none."""
    return torch.searchsorted(there.cumsum(1), rank + 1).clamp(max=there.shape[1] - 1)
