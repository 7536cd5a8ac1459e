"""Multi-layer self-attention over recent reports: a model without a recurrent state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from s2rm.functional import TWO_PI
from s2rm.likelihoods import measured
from s2rm.models.world_model import WorldModel
from s2rm.views import Episode, Views

AGE_FREQUENCIES = 6


class Memory(NamedTuple):
    """What was seen lately: the views of S steps, and which W of these steps are remembered."""

    tokens: Tensor
    """`(B, S, A, H)`, the encoded views, the oldest step first; zero where no view is. After one step S is W"""
    mask: Tensor
    """bool `(B, S, A)`, where a view is"""
    slots: Tensor
    """int `(B, T, W)` after each of T steps, `(B, W)` after one: which of the S steps, the oldest first"""
    ages: Tensor
    """int, as `slots`: how many steps before the one to be predicted that was; 0 where nothing is remembered"""

    def recall(self) -> tuple[Tensor, Tensor]:
        """The remembered views `(..., W, A, H)` and where they are, `(..., W, A)`."""
        first = torch.arange(len(self.tokens), device=self.slots.device) * self.tokens.shape[1]
        rows = (first.view(-1, *(1,) * (self.slots.ndim - 1)) + self.slots).flatten()
        tokens, mask = (
            part.flatten(0, 1).index_select(0, rows).unflatten(0, self.slots.shape) for part in (self.tokens, self.mask)
        )
        return tokens, mask & (self.ages > 0)[..., None]


class MSA(WorldModel):
    """A transformer encoder whose tokens are the reports of the last steps and the queries.

    A report seen a steps before the predicted one is the token `E(O, P(x)) + L P(x) + A(a)`, a query `L P(x_q) + c`,
    with linear maps L, of positions, and A, of sines and cosines of `log(1 + a)`. Reports hear reports; a query hears
    reports and itself, so that no prediction depends on what else is asked. The decoder reads the queries' outputs.

    The state is the views of the last steps at which anything was seen. A step without views only ages it.

    Args:
        value_shape: shape of a view.
        num_coordinates: n, coordinates of a position.
        hidden_size: H, size of a token, a multiple of `num_heads`.
        num_layers: layers of the transformer.
        num_heads: heads of each layer.
        window: W, steps with views that it looks back on.
        steps_per_loss: steps of each sequence that a loss predicts; see `loss_terms`.
        embedding_dim: size of the positional embedding, a multiple of 2n.
        shortest: shortest wavelength of the embedding, in the world's units.
        longest: bound of the longest wavelength.
        likelihood: "bernoulli" (binary pixels), "gaussian" (real channels) or "mixed" (polar images of units).
        codec: "cnn" (the paper's size, for images), "polar" (small, for polar images) or "mlp" (small, for CPUs and for
            any shape). None: "cnn" where views and targets have two or three axes, else "mlp".
        context_size: F, what else is known of each query; the decoder reads it.
        corrects: predict corrections to a guess, the first entries of the context.
        target_shape: shape of what is predicted, where views carry more, such as actions. Default: that of a view.

    Raises:
        ValueError: an argument out of its range.

    Source:
        After Pannatier, Matoba and Fleuret, "Inference from Real-World Sparse Measurements", TMLR 2024. Relative to
        the paper: the encoder and the decoder are those of the other models here; reports have an age, queries do not
        hear each other, and a prediction is a distribution.
    """

    def __init__(
        self,
        *,
        value_shape: Sequence[int],
        num_coordinates: int,
        hidden_size: int = 64,
        num_layers: int = 3,
        num_heads: int = 4,
        window: int = 12,
        steps_per_loss: int = 4,
        embedding_dim: int = 16,
        shortest: float = TWO_PI,
        longest: float = TWO_PI * 10_000,
        likelihood: str = "gaussian",
        codec: str | None = "mlp",
        context_size: int = 0,
        corrects: bool = False,
        target_shape: Sequence[int] | None = None,
    ):
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        for name in ("num_layers", "num_heads", "window", "steps_per_loss"):
            if arguments[name] < 1:
                raise ValueError(f"MSA: {name} must be at least 1, got {arguments[name]}")
        if hidden_size < 1 or hidden_size % num_heads:
            raise ValueError(
                f"MSA: hidden_size must be a positive multiple of the number of heads, {num_heads}, got {hidden_size}"
            )
        super().__init__(arguments, hidden_size, hidden_size, inject_positions=True)
        self.hidden_size, self.num_heads, self.window = hidden_size, num_heads, window
        self.steps_per_loss = steps_per_loss
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
        """losses in training so far; they seed the draws, so that a resumed run draws as one that was not"""

    def initial_state(self, batch_size: int) -> Memory:
        """Nothing is remembered: each step has one slot, an empty one."""
        tokens = next(self.parameters()).new_zeros(batch_size, self.window, 1, self.hidden_size)
        slots = torch.arange(self.window, device=tokens.device).repeat(batch_size, 1)
        return Memory(tokens, torch.zeros_like(tokens[..., 0], dtype=torch.bool), slots, torch.zeros_like(slots))

    def check_state(self, state: Any, start: Any) -> None:
        """As of every model, but that any number of views may be remembered of a step."""
        if isinstance(state, Memory) and state.mask.ndim == 3:
            views = max(1, state.mask.shape[-1])
            tokens, mask = start.tokens.expand(-1, -1, views, -1), start.mask.expand(-1, -1, views)
            start = start._replace(tokens=tokens, mask=mask)
        super().check_state(state, start)

    def observe(self, views: Views, state: Memory | None = None) -> Memory:
        self.check(views)
        start = self.initial_state(views.batch_size)
        if state is None:
            state = start
        self.check_state(state, start)
        embedded, encodings = self.encode(views)
        new = torch.where(views.mask[..., None], encodings + self.place(embedded), 0.0)
        width = max(views.mask.shape[-1], state.mask.shape[-1])
        tokens = [pad(part, (0, 0, 0, width - part.shape[2])) for part in (state.tokens, new)]
        mask = [pad(part, (0, width - part.shape[2])) for part in (state.mask, views.mask)]

        step = torch.arange(views.num_steps, device=new.device)
        seen = torch.cat([state.ages > 0, views.mask.any(-1)], 1)
        born = torch.cat([-state.ages, step.repeat(views.batch_size, 1)], 1)
        # Of the steps at which anything was seen, those that are the last W after each step.
        number = seen.cumsum(1)[:, self.window :, None]
        rank = number - self.window + torch.arange(self.window, device=new.device)
        slots = nth(seen, rank.flatten(1)).view_as(rank)
        ages = step[:, None] + 1 - born.gather(1, slots.flatten(1)).view_as(rank)
        return Memory(torch.cat(tokens, 1), torch.cat(mask, 1), slots, torch.where(rank < 0, 0, ages))

    def last(self, states: Memory) -> Memory:
        after = states._replace(slots=states.slots[:, -1], ages=states.ages[:, -1])
        tokens, mask = after.recall()
        slots = torch.arange(self.window, device=tokens.device).repeat(len(tokens), 1)
        return Memory(torch.where(mask[..., None], tokens, 0.0), mask, slots, after.ages)

    def read(self, states: Memory, embedded: Float[Tensor, "*batch Q d"]) -> Float[Tensor, "*batch Q H"]:
        tokens, there = states.recall()
        reports = tokens + self.age(age_features(states.ages, tokens))[..., None, :]
        queries = self.place(embedded) + self.asked
        heard = self.attend(
            reports.flatten(-3, -2).flatten(0, -3), there.flatten(-2).flatten(0, -2), queries.flatten(0, -3)
        )
        return heard.view(queries.shape)

    def attend(
        self, reports: Float[Tensor, "N R H"], there: Bool[Tensor, "N R"], queries: Float[Tensor, "N Q H"]
    ) -> Float[Tensor, "N Q H"]:
        """What the transformer makes of the queries, each of which hears the reports that are there and itself.

        The same as the transformer of reports and queries in one sequence with a mask, but without the mask of all
        pairs, and without those outputs of the last layer that nobody reads.
        """
        shown, asked = there.shape[1], queries.shape[1]
        itself = torch.eye(asked, dtype=torch.bool, device=there.device).expand(len(there), -1, -1)
        unheard = ~torch.cat([there[:, None].expand(-1, asked, -1), itself], -1).repeat_interleave(self.num_heads, 0)
        # Where there is no report, all empty slots hear each other, unheard, as a softmax over nothing is NaN.
        empty = ~there & there.any(-1, keepdim=True)
        for number, layer in enumerate(self.transformer.layers, 1):
            both = layer.norm1(torch.cat([reports, queries], 1))
            queries = queries + layer.self_attn(both[:, shown:], both, both, attn_mask=unheard, need_weights=False)[0]
            queries = queries + layer.linear2(layer.activation(layer.linear1(layer.norm2(queries))))
            if number < len(self.transformer.layers):
                reports = layer(reports, src_key_padding_mask=empty)
        return self.transformer.norm(queries)

    def loss_terms(self, episode: Episode, recompute: int | None = None) -> dict[str, Tensor]:
        """The terms of the loss, averaged over what is there at some steps.

        Predicting costs as much as seeing all of the window again, so only `steps_per_loss` of the steps of each
        sequence that have targets are predicted, spread over them evenly: drawn at random in training mode, each as
        likely as any other, and always the same in evaluation mode.

        Args:
            episode: T+1 steps.
            recompute: of no effect, as there is no long computation to be kept.

        Raises:
            ValueError: `recompute` below 1.
        """
        self.check_targets(episode.targets)
        if recompute is not None and recompute < 1:
            raise ValueError(f"loss: recompute must be at least 1 step, got {recompute}")
        targets, context = episode.to_predict(1, None)
        states = self.states_before_targets(episode.views)
        steps, drawn = self._draw(measured(targets.values, targets.mask).flatten(2).any(-1))
        at = torch.arange(len(steps), device=steps.device)[:, None], steps
        states = states._replace(slots=states.slots[at], ages=states.ages[at])
        predicted = self.predict(states, targets.filled()[0][at], None if context is None else context[at])
        return self.likelihood.terms(predicted, targets.values[at], targets.mask[at] & drawn[..., None])

    def _draw(self, there: Bool[Tensor, "B T"]) -> tuple[Int[Tensor, "B K"], Bool[Tensor, "B K"]]:
        """Steps to predict, of those that are there, one of each K-th of them; all where they are no more than K."""
        count, part = there.sum(1, keepdim=True), torch.arange(self.steps_per_loss, device=there.device)
        within = torch.full((len(there), self.steps_per_loss), 0.5)
        if self.training:
            within = torch.rand(within.shape, generator=torch.Generator().manual_seed(int(self.draws)))
            self.draws += 1
        rank = ((part + within.to(there.device)) * count / self.steps_per_loss).long()
        rank = torch.where(count > self.steps_per_loss, rank, part).minimum(count - 1)
        return nth(there, rank), part < count


def nth(there: Bool[Tensor, "B S"], rank: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """Where the True of a rank from 0 is in each row; anywhere if there is none."""
    return torch.searchsorted(there.cumsum(1), rank + 1).clamp(max=there.shape[1] - 1)


def age_features(ages: Int[Tensor, "*batch"], like: Tensor) -> Float[Tensor, "*batch F"]:
    """Sines and cosines of `log(1 + age)`, with the dtype of `like`."""
    frequencies = 2.0 ** torch.arange(-1, AGE_FREQUENCIES - 1, dtype=like.dtype, device=like.device)
    angles = ages.to(like.dtype).log1p()[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)
