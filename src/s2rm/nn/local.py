"""The kernel's weights Z between rows, which read, and columns, which are read; dense or sparse.

Both kinds have the same methods: `sum` is `Σ_j Z_ij z_j`, `attend` what each head of an attention reads.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

from s2rm.nn.over_time import Context, LinearMap, Summed, once
from s2rm.nn.pairs import Pairs


class DenseLocal(NamedTuple):
    """A weight for every pair."""

    weights: Float[Tensor, "*B I J"]
    """Z, 0 where j is absent"""
    bias: Float[Tensor, "#B #I J"]
    """added to the scores: 0 where j takes part in i's softmax, the lowest number where it does not"""

    @classmethod
    def where(cls, weights: Tensor, shares: Tensor) -> DenseLocal:
        """From weights and a bool, broadcastable to them, that is True where j takes part in i's softmax."""
        return cls(weights, weights.new_zeros(shares.shape).masked_fill(~shares, torch.finfo(weights.dtype).min))

    def sum(self, z: Float[Tensor, "*B J H"]) -> Float[Tensor, "*B I H"]:
        # Expanded, since `@` of one matrix and a batch would fold the batch into a single product, which copies z.
        return self.weights.expand(*z.shape[:-2], -1, -1) @ z

    def steps(self, num_steps: int) -> list[DenseLocal]:
        """Weights over time, `(B, T, I, J)`, split into those of each of T steps."""
        return [DenseLocal(*parts) for parts in zip(self.weights.unbind(1), self.bias.unbind(1), strict=True)]

    def attend(
        self, q: Float[Tensor, "B I KD"], k: Float[Tensor, "B J KD"], z: Float[Tensor, "B J H"], num_heads: int,
        out: LinearMap, local_sum: Float[Tensor, "B I H"] | None = None,
    ) -> tuple[Float[Tensor, "B I O"], Float[Tensor, "B I H"]]:  # fmt: skip
        """What the heads read, mapped by `out`, and the local sum of z.

        Args:
            q, k, z: queries and keys of all K heads, and what all heads read.
            out: maps the heads' `Σ_j Z_ij softmax_j(q_i · k_j) z_j` side by side, `(R, K H)`, to `(R, O)`.
            local_sum: `sum(z)` where it is already known; computed along with the heads otherwise.
        """
        if isinstance(out, Summed):
            given = (q, k, z, self.weights, self.bias, out, out.token)
            attended, together = _Attend.apply(*given, num_heads, local_sum is None)
            return attended, together if local_sum is None else local_sum
        queries, keys = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k))
        shares = (queries @ keys.mT + self.bias.unsqueeze(1)).softmax(-1) * self.weights.unsqueeze(-3)
        attended = out((shares @ z.unsqueeze(1)).transpose(1, 2).flatten(2).flatten(0, 1)).unflatten(0, q.shape[:2])
        return attended, self.sum(z) if local_sum is None else local_sum


class SparseLocal(NamedTuple):
    """A weight for each pair that interacts; the softmax runs over these pairs only."""

    weights: Float[Tensor, " P"]
    pairs: Pairs
    """of the rows and columns of the whole batch; over time, of the batches of all steps, one after the other"""
    num_rows: int
    """I, the rows of each element of the batch"""

    def sum(self, z: Float[Tensor, "*B J H"]) -> Float[Tensor, "*B I H"]:
        """`Σ_j Z_ij z_j`; weights over time take `(B, T, J, H)`."""
        given = z.transpose(0, 1) if z.ndim == 4 else z
        total = self.pairs.sum(self.weights[None], given.flatten(0, -2).to(self.weights.dtype))
        total = total.view(*given.shape[:-2], self.num_rows, z.shape[-1])
        return total.transpose(0, 1) if z.ndim == 4 else total

    def steps(self, num_steps: int) -> list[SparseLocal]:
        """Weights over time, split into those of each step."""
        parts = self.pairs.split(num_steps)
        weights = self.weights.split([len(pairs.row) for pairs in parts])
        return [SparseLocal(*given, self.num_rows) for given in zip(weights, parts, strict=True)]

    def attend(
        self, q: Float[Tensor, "B I KD"], k: Float[Tensor, "B J KD"], z: Float[Tensor, "B J H"], num_heads: int,
        out: LinearMap, local_sum: Float[Tensor, "B I H"] | None = None,
    ) -> tuple[Float[Tensor, "B I O"], Float[Tensor, "B I H"]]:  # fmt: skip
        """As [`DenseLocal.attend`][s2rm.nn.local.DenseLocal.attend]."""
        shape = q.shape[:2]
        local_sum = self.sum(z) if local_sum is None else local_sum
        q, k, z = (part.flatten(0, 1).to(self.weights.dtype) for part in (q, k, z))
        queries, keys = (part.unflatten(-1, (num_heads, -1)) for part in (q, k))
        shares = self.pairs.softmax(self.pairs.dot(queries, keys))
        return out(self.pairs.sum(shares * self.weights, z).flatten(1)).unflatten(0, shape), local_sum


Local = DenseLocal | SparseLocal


class _Attend(Function):
    r"""Attention as one node per step, with hand-written gradients: few passes over memory.

    With the shares $p_k = \mathrm{softmax}(q_k k_k^\top + bias)$ and weights $w_k = p_k \odot Z$ of head k, the heads
    read $w_k z$. All heads read the same z, so rows and heads form one axis: `(B, I K, J) @ (B, J, H)`. The local sum,
    $Z z$, is one more head. What the heads read is large and cheap, so the backward pass computes it again.
    """

    @staticmethod
    def forward(
        ctx: Context, q: Tensor, k: Tensor, z: Tensor, local: Tensor, bias: Tensor, out: Summed, token: Tensor | None,
        num_heads: int, with_sum: bool,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        batch, rows, columns, size = *q.shape[:2], *z.shape[1:]
        # (B, I or J, K D) to (B K, I or J, D)
        queries, keys = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2).flatten(0, 1) for part in (q, k))
        shares = torch.bmm(queries, keys.mT).view(batch, num_heads, rows, columns).add_(bias.unsqueeze(1))
        if columns:  # over few columns this is faster than PyTorch's softmax
            shares.sub_(shares.amax(-1, keepdim=True)).exp_()
            shares.div_(shares.sum(-1, keepdim=True))
        # w, (B, I, K, J), with Z itself as one more head where the local sum is wanted.
        weights = shares.new_empty(batch, rows, num_heads + with_sum, columns)
        torch.mul(shares, local.unsqueeze(-3), out=weights[:, :, :num_heads].transpose(1, 2))
        if with_sum:
            weights[:, :, num_heads] = local
        weights = weights.flatten(1, 2)
        read = torch.bmm(weights, z).view(batch * rows, -1)
        ctx.save_for_backward(queries, keys, z, local, shares, weights, out.weight, token)
        ctx.sums = out.sums
        attended = (read[:, : num_heads * size] @ out.weight).view(batch, rows, out.weight.shape[-1])
        return attended, read[:, num_heads * size :].contiguous().view(batch, rows, size) if with_sum else None

    @staticmethod
    @once
    def backward(ctx: Context, to_attended: Tensor, to_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        queries, keys, z, local, shares, weights, out, token = ctx.saved_tensors
        (batch, num_heads, rows, columns), size = shares.shape, z.shape[-1]
        of_heads = num_heads * size
        # The map `out` of read = w z, (B I, K H), then dz = wᵀ dread and dw = dread zᵀ.
        gradient = to_attended.flatten(0, 1)
        ctx.sums.add(torch.bmm(weights, z).view(batch * rows, -1)[:, :of_heads], gradient)
        to_read = gradient.new_empty(batch * rows, weights.shape[1] // rows * size)
        torch.mm(gradient, out.mT, out=to_read[:, :of_heads])
        if to_sum is not None:
            to_read[:, of_heads:] = to_sum.flatten(0, 1)
        to_read = to_read.view(batch, -1, size)
        to_z = torch.bmm(weights.mT, to_read) if ctx.needs_input_grad[2] else None
        to_weights = torch.bmm(to_read, z.mT).view(batch, rows, -1, columns)
        # dZ = Σ_k p_k dw_k, and the local sum's own;  through the softmax, with dp = dw Z: ds = p (dp - Σ_j p dp).
        to_scores = torch.mul(shares, to_weights[:, :, :num_heads].transpose(1, 2))
        to_local = None
        if ctx.needs_input_grad[3]:
            to_local = to_scores.sum(1)
            if to_sum is not None:
                to_local += to_weights[:, :, num_heads]
            to_local = to_local.sum_to_size(local.shape)
        to_scores *= local.unsqueeze(-3)
        to_scores -= shares * to_scores.sum(-1, keepdim=True)
        to_scores = to_scores.view(-1, rows, columns)
        to_queries, to_keys = (
            torch.bmm(*product).unflatten(0, (batch, num_heads)).transpose(1, 2).flatten(2)
            for product in ((to_scores, keys), (to_scores.mT, queries))
        )
        return to_queries, to_keys, to_z, to_local, None, None, token, None, None
