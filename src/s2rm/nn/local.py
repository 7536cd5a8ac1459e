"""Who reads whom, and how strongly: the kernel's weights between rows and columns, dense or sparse.

Both kinds do the same with them: `sum` is `Σ_j Z_ij z_j`, `attend` what each head of an attention reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from s2rm.nn.over_time import Summed, Sums, once
from s2rm.nn.pairs import Pairs


class DenseLocal(NamedTuple):
    """A weight for every pair."""

    weights: Float[Tensor, "*B I J"]
    """Z, 0 where j is not there"""
    bias: Float[Tensor, "#B #I J"]
    """added to the scores: 0 where j takes a share of i's softmax, very negative where it does not"""

    @classmethod
    def where(cls, weights: Tensor, shares: Tensor) -> DenseLocal:
        """From weights and a bool, broadcastable to them, that is True where j takes a share of i's softmax."""
        return cls(weights, weights.new_zeros(shares.shape).masked_fill(~shares, torch.finfo(weights.dtype).min))

    def sum(self, z: Float[Tensor, "*B J H"]) -> Float[Tensor, "*B I H"]:
        # A matrix for all of the batch would be folded into a product that copies z.
        return self.weights.expand(*z.shape[:-2], -1, -1) @ z

    def steps(self, num_steps: int) -> list[DenseLocal]:
        """From weights over time, `(B, T, I, J)`, those of each of T steps."""
        return [DenseLocal(*parts) for parts in zip(self.weights.unbind(1), self.bias.unbind(1), strict=True)]

    def attend(
        self,
        q: Float[Tensor, "B I KD"],
        k: Float[Tensor, "B J KD"],
        z: Float[Tensor, "B J H"],
        num_heads: int,
        out: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "B I O"]:
        """What the heads read, `Σ_j Z_ij softmax_j(q_i · k_j) z_j`, side by side, by `out`: `(R, KH)` to `(R, O)`."""
        if isinstance(out, Summed):
            given = (q, k, z, self.weights, self.bias, out.weight, out.token)
            return _Attend.apply(*given, out.sums, num_heads)
        queries, keys = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k))
        shares = (queries @ keys.mT + self.bias.unsqueeze(1)).softmax(-1) * self.weights.unsqueeze(-3)
        return out((shares @ z.unsqueeze(1)).transpose(1, 2).flatten(2).flatten(0, 1)).unflatten(0, q.shape[:2])


class SparseLocal(NamedTuple):
    """A weight for the pairs that interact; no other takes a share of the softmax."""

    weights: Float[Tensor, " P"]
    pairs: Pairs
    """of the rows and columns of the whole batch; over time, of the batches of all steps, step by step"""
    num_rows: int
    """I, rows of each set"""

    def sum(self, z: Float[Tensor, "*B J H"]) -> Float[Tensor, "*B I H"]:
        """`Σ_j Z_ij z_j`; weights over time take `(B, T, J, H)`."""
        given = z.transpose(0, 1) if z.ndim == 4 else z
        total = self.pairs.sum(self.weights[None], given.flatten(0, -2).to(self.weights.dtype))
        total = total.view(*given.shape[:-2], self.num_rows, z.shape[-1])
        return total.transpose(0, 1) if z.ndim == 4 else total

    def steps(self, num_steps: int) -> list[SparseLocal]:
        """From weights over time, those of each step."""
        parts = self.pairs.split(num_steps)
        weights = self.weights.split([len(pairs.row) for pairs in parts])
        return [SparseLocal(*given, self.num_rows) for given in zip(weights, parts, strict=True)]

    def attend(
        self,
        q: Float[Tensor, "B I KD"],
        k: Float[Tensor, "B J KD"],
        z: Float[Tensor, "B J H"],
        num_heads: int,
        out: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "B I O"]:
        """As [`DenseLocal.attend`][s2rm.nn.local.DenseLocal.attend]."""
        shape = q.shape[:2]
        q, k, z = (part.flatten(0, 1).to(self.weights.dtype) for part in (q, k, z))
        queries, keys = (part.unflatten(-1, (num_heads, -1)) for part in (q, k))
        shares = self.pairs.softmax(self.pairs.dot(queries, keys))
        return out(self.pairs.sum(shares * self.weights, z).flatten(1)).unflatten(0, shape)


Local = DenseLocal | SparseLocal


class _Attend(Function):
    """Attention with gradients written by hand: one node a step, few passes over memory.

    All heads read the same z, so heads and rows count as one axis: `(B, I K, J) @ (B, J, H)`. What the heads read is
    large and cheap, so the backward pass computes it again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        z: Tensor,
        local: Tensor,
        bias: Tensor,
        out: Tensor,
        token: Tensor | None,
        sums: Sums,
        num_heads: int,
    ) -> Tensor:
        queries, keys = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k))
        shares = (queries @ keys.mT).add_(bias.unsqueeze(1))
        batch, _, rows, columns = shares.shape
        if columns:  # a softmax of few columns is faster by hand than PyTorch's
            shares.sub_(shares.amax(-1, keepdim=True)).exp_()
            shares.div_(shares.sum(-1, keepdim=True))
        weights = shares.new_empty(batch, rows, num_heads, columns)
        torch.mul(shares, local.unsqueeze(-3), out=weights.transpose(1, 2))
        weights = weights.flatten(1, 2)
        ctx.save_for_backward(queries, keys, z, local, shares, weights, out, token)
        ctx.sums = sums
        return ((weights @ z).view(batch * rows, num_heads * z.shape[-1]) @ out).view(batch, rows, out.shape[-1])

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, z, local, shares, weights, out, token = ctx.saved_tensors
        batch, num_heads, rows, columns = shares.shape
        gradient = gradient.flatten(0, 1)
        ctx.sums.add((weights @ z).view(batch * rows, num_heads * z.shape[-1]), gradient)
        to_read = (gradient @ out.mT).view(batch, rows * num_heads, z.shape[-1])
        to_z = weights.mT @ to_read
        to_weights = (to_read @ z.mT).view(batch, rows, num_heads, columns).transpose(1, 2)
        to_weights = to_weights * shares
        to_local = to_weights.sum(1).sum_to_size(local.shape) if ctx.needs_input_grad[3] else None
        to_scores = to_weights.mul_(local.unsqueeze(-3))
        to_scores -= shares * to_scores.sum(-1, keepdim=True)
        to_queries, to_keys = (
            product.transpose(1, 2).flatten(2) for product in (to_scores @ keys, to_scores.mT @ queries)
        )
        return to_queries, to_keys, to_z, to_local, None, None, token, None, None
