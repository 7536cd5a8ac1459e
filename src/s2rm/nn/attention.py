"""Kernel-modulated dot-product attention (KMDPA) with a gate, arranged for use inside a recurrent loop.

`DenseLocal` and `SparseLocal` hold the kernel's weights Z between rows, which read, and columns, which are read. Both
have the same methods: `sum` is `Σ_j Z_ij z_j`, `attend` what each head of an attention reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.ops import aten

from s2rm.functional import gated_sum, kernel_modulated_attention
from s2rm.nn.over_time import Context, LinearMap, Summed, node, once, over_time
from s2rm.nn.pairs import Pairs

VECTOR = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
"""numbers in single precision that PyTorch's kernels take at once"""


def softmax(scores: Tensor) -> Tensor:
    """Over the last dimension; may write into the scores. For use where PyTorch records nothing."""
    if scores.shape[-1] >= VECTOR or not scores.shape[-1] or scores.device.type != "cpu":
        return scores.softmax(-1)
    # Over fewer columns than fit into a vector this is faster than PyTorch's.
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(-1, keepdim=True))


class DenseLocal(NamedTuple):
    """A weight for every pair."""

    weights: Float[Tensor, "*B I J"]
    """Z, 0 where j is absent"""
    bias: Float[Tensor, "#B #I J"]
    """added to the scores: 0 where j takes part in i's softmax, far below where it does not"""

    @classmethod
    def where(cls, weights: Tensor, shares: Tensor) -> DenseLocal:
        """From weights and a bool, broadcastable to them, that is True where j takes part in i's softmax."""
        # Half of the lowest number, so that with a score added it stays finite in half precision too.
        lowest = torch.finfo(weights.dtype).min / 2
        return cls(weights, weights.new_zeros(shares.shape).masked_fill(~shares, lowest))

    def sum(self, z: Float[Tensor, "*B J H"]) -> Float[Tensor, "*B I H"]:
        # Expanded, since `@` of one matrix and a batch would fold the batch into a single product, which copies z.
        return self.weights.expand(*z.shape[:-2], -1, -1) @ z

    def steps(self, num_steps: int) -> list[DenseLocal]:
        """Weights over time, `(B, T, I, J)`, split into those of each of T steps."""
        return [DenseLocal(*parts) for parts in zip(self.weights.unbind(1), self.bias.unbind(1), strict=True)]

    def shares(
        self, q: Float[Tensor, "B I KD"], k: Float[Tensor, "B J KD"], num_heads: int
    ) -> Float[Tensor, "B K I J"]:
        """The weights of all K heads, `Z_ij softmax_j(q_i · k_j)`."""
        queries, keys = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in (q, k))
        return (queries @ keys.mT + self.bias.unsqueeze(1)).softmax(-1) * self.weights.unsqueeze(-3)

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
            attended, together = node(_Attend, *given, num_heads, local_sum is None)
            return attended, together if local_sum is None else local_sum
        shares = self.shares(q, k, num_heads)
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
        """As [`DenseLocal.attend`][s2rm.nn.attention.DenseLocal.attend]."""
        shape = q.shape[:2]
        local_sum = self.sum(z) if local_sum is None else local_sum
        q, k, z = (part.flatten(0, 1).to(self.weights.dtype) for part in (q, k, z))
        queries, keys = (part.unflatten(-1, (num_heads, -1)) for part in (q, k))
        shares = self.pairs.softmax(self.pairs.dot(queries, keys))
        return out(self.pairs.sum(shares * self.weights, z).flatten(1)).unflatten(0, shape), local_sum


Local = DenseLocal | SparseLocal


class KernelModulatedAttention(nn.Module):
    r"""Attention by content and by position: rows y read from columns z, weighted by a kernel of their positions.

    With Z the kernel's weights, G a two-layer perceptron that ends in a sigmoid, and $[\cdot]$ joining the heads:

    $$\tilde u_i = W^{out} [\sum_j Z_{ij} \, \mathrm{softmax}_j(Q y_i \cdot K z_j) \, V z_j]$$

    $$b_i = \sum_j Z_{ij} z_j, \quad g_i = G(\tilde u_i, b_i), \quad u_i = g_i b_i + (1 - g_i) \tilde u_i$$

    `forward` computes this as written. A loop over time splits the same computation: the weights `query` and `key` map
    y and z, [`attend`][s2rm.nn.attention.DenseLocal.attend] computes what the heads read, `out_over_time` maps it to
    $\tilde u$, and `gate_over_time` returns u.

    Args:
        size: size of y, z and the result.
        num_heads: K.
        head_size, value_size: D, size of a head's queries and keys, and V, size of its values.
        gate_size: width of the gate's hidden layer.

    Source:
        S2RM, Eq. 7 to 9, 15 to 24. Relative to the paper: heads are joined by a projection (the paper does not say how
        2 x 128 values meet a gate partner of 128); the width of the gate is ours.
    """

    def __init__(self, size: int, num_heads: int, head_size: int, value_size: int, gate_size: int):
        super().__init__()
        self.size, self.num_heads, self.head_size = size, num_heads, head_size
        self.query = nn.Parameter(torch.empty(size, num_heads, head_size))
        self.key = nn.Parameter(torch.empty(size, num_heads, head_size))
        self.value = nn.Parameter(torch.empty(size, num_heads, value_size))
        self.out = nn.Parameter(torch.empty(num_heads, value_size, size))
        self.gate_hidden = nn.Linear(2 * size, gate_size)
        self.gate_out = nn.Linear(gate_size, 1)
        self._draw()

    def _draw(self) -> None:
        num_heads, value_size, size = self.out.shape
        for weight in (self.query, self.key, self.value, self.out):
            bound = 1 / math.sqrt(num_heads * value_size if weight is self.out else size)
            nn.init.uniform_(weight, -bound, bound)

    def reset_parameters(self) -> None:
        """Reinitialise all weights."""
        self.gate_hidden.reset_parameters()
        self.gate_out.reset_parameters()
        self._draw()

    def forward(
        self,
        y: Float[Tensor, "*batch I H"],
        z: Float[Tensor, "*batch J H"],
        local: Float[Tensor, "*batch I J"],
        mask: Bool[Tensor, "*batch J"] | None = None,
    ) -> Float[Tensor, "*batch I H"]:
        """u, where `local` is Z and `mask` is False where a column of `z` is absent."""
        if mask is not None:  # or gradients of the maps would be 0 times what stands there, which may be NaN
            z, local = torch.where(mask[..., None], z, 0.0), torch.where(mask[..., None, :], local, 0.0)
        q = torch.einsum("...ih,hkd->...ikd", y, self.query)
        k = torch.einsum("...jh,hkd->...jkd", z, self.key)
        v = torch.einsum("...jh,hkv->...jkv", z, self.value)
        attended = torch.einsum("...ikv,kvh->...ih", kernel_modulated_attention(q, k, v, local, mask), self.out)
        local_sum = local @ z
        hidden = torch.relu(self.gate_hidden(torch.cat([attended, local_sum], -1)))
        return gated_sum(attended, local_sum, torch.sigmoid(self.gate_out(hidden)))

    def out_over_time(self, num_rows: int) -> LinearMap:
        r"""$\tilde u$ from what the heads read, `(R, KH)` to `(R, H)`, for use at every step of a loop.

        V and $W^{out}$ are linear, so both can follow the sum over j. Their product, one matrix `(KH, H)`, is computed
        once where the loop's `num_rows` in total make up for it.
        """
        if torch.compiler.is_exporting() or num_rows <= self.size:
            heads, values, joined = (self.num_heads, self.size), self.value.transpose(0, 1), self.out.flatten(0, 1)
            return lambda read: (read.unflatten(-1, heads).transpose(0, 1) @ values).transpose(0, 1).flatten(1) @ joined
        return over_time(self.folded().unflatten(-1, (self.num_heads, -1)).transpose(0, 1).flatten(0, 1))

    def folded(self) -> Float[Tensor, "H KH"]:
        r"""V and $W^{out}$ of each head multiplied, side by side."""
        return torch.einsum("ikv,kvh->ikh", self.value, self.out).flatten(1)

    def gate_from_local(self, local_sum: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch G"]:
        """The part of the gate's hidden layer that depends on b."""
        return nn.functional.linear(local_sum, self.gate_hidden.weight[:, self.size :], self.gate_hidden.bias)

    def gate_over_time(self) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        r"""u from $\tilde u$, b and, if computed before, `gate_from_local(b)`; for use at every step of a loop."""
        weight = self.gate_hidden.weight
        from_attended = over_time(weight[:, : self.size].T)
        from_local = over_time(weight[:, self.size :].T, self.gate_hidden.bias)
        out = over_time(self.gate_out.weight.T, self.gate_out.bias)

        def gate(attended: Tensor, local_sum: Tensor, hidden: Tensor | None) -> Tensor:
            maps = [map_ for map_ in (from_attended, from_local, out) if isinstance(map_, Summed)]
            if maps:
                return node(_Gate, attended, local_sum, hidden, maps, *(map_.token for map_ in maps))
            known = from_local(local_sum.flatten(0, 1)) if hidden is None else hidden.flatten(0, 1)
            logits = out(torch.relu(known + from_attended(attended.flatten(0, 1))))
            return gated_sum(attended, local_sum, torch.sigmoid(logits.unflatten(0, attended.shape[:2])))

        return gate


class _Gate(Function):
    r"""The gate and its sum as one node, with hand-written gradients. With $a = \tilde u$:

    $$g = \sigma(w \cdot \mathrm{relu}(A a + B b + c) + d), \quad u = (1 - g) a + g b$$
    """

    @staticmethod
    def forward(
        ctx: Context, attended: Tensor, local_sum: Tensor, hidden: Tensor | None, maps: list[Summed],
        *tokens: Tensor | None,
    ) -> Tensor:  # fmt: skip
        from_attended, from_local, out = maps
        known = from_local.product(local_sum.flatten(0, 1)) if hidden is None else hidden.flatten(0, 1)
        active = torch.addmm(known, attended.flatten(0, 1), from_attended.weight).relu_()
        gate = out.product(active).sigmoid_().view(*attended.shape[:2], 1)
        ctx.save_for_backward(attended, local_sum, active, gate, *(map_.weight for map_ in maps), *tokens)
        ctx.sums, ctx.hidden_is_known = [map_.sums for map_ in maps], hidden is not None
        return torch.lerp(attended, local_sum, gate)

    @staticmethod
    @once
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        attended, local_sum, active, gate, from_attended, from_local, out, *tokens = ctx.saved_tensors
        attended_sums, local_sums, out_sums = ctx.sums
        gradient = gradient.contiguous()
        # db = du g,  da = du (1 - g),  dg = du · (b - a); then dg passes the sigmoid and the hidden layer to a, and to
        # b unless the hidden layer's part of b was given.
        to_local = gradient * gate
        to_attended = gradient - to_local
        to_gate = torch.linalg.vecdot(gradient, local_sum - attended).unsqueeze(-1)
        to_logits = aten.sigmoid_backward(to_gate, gate).flatten(0, 1)
        out_sums.add(active, to_logits)
        to_hidden = aten.threshold_backward(to_logits @ out_sums.back(out), active, 0)
        attended_sums.add(attended.flatten(0, 1), to_hidden)
        to_attended.flatten(0, 1).addmm_(to_hidden, attended_sums.back(from_attended))
        if not ctx.hidden_is_known:
            local_sums.add(local_sum.flatten(0, 1), to_hidden)
            to_local.flatten(0, 1).addmm_(to_hidden, local_sums.back(from_local))
        known = to_hidden.unflatten(0, gate.shape[:2]) if ctx.hidden_is_known else None
        return to_attended, to_local, known, None, *tokens


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
        shares = softmax(shares)
        # w, (B, I, K, J), with Z itself as one more head where the local sum is wanted.
        weights = shares.new_empty(batch, rows, num_heads + with_sum, columns)
        torch.mul(shares, local.unsqueeze(-3), out=weights[:, :, :num_heads].transpose(1, 2))
        if with_sum:
            weights[:, :, num_heads] = local
        weights = weights.flatten(1, 2)
        read = torch.bmm(weights, z).view(batch * rows, (num_heads + with_sum) * size)
        ctx.save_for_backward(queries, keys, z, local, shares, weights, out.weight, token)
        ctx.sums = out.sums
        attended = (read[:, : num_heads * size] @ out.weight).view(batch, rows, out.weight.shape[-1])
        return attended, read[:, num_heads * size :].contiguous().view(batch, rows, size) if with_sum else None

    @staticmethod
    @once
    def backward(ctx: Context, to_attended: Tensor, to_sum: Tensor | None) -> tuple[Tensor | None, ...]:
        queries, keys, z, local, shares, weights, out, token = ctx.saved_tensors
        (batch, num_heads, rows, columns), size = shares.shape, z.shape[-1]
        of_heads, heads = num_heads * size, weights.shape[1] // rows  # with the local sum, where there is one
        # The map `out` of read = w z, (B I, K H), then dz = wᵀ dread and dw = dread zᵀ.
        gradient = to_attended.flatten(0, 1)
        ctx.sums.add(torch.bmm(weights, z).view(batch * rows, heads * size)[:, :of_heads], gradient)
        to_read = gradient.new_empty(batch * rows, heads * size)
        torch.mm(gradient, ctx.sums.back(out), out=to_read[:, :of_heads])
        if to_sum is not None:
            to_read[:, of_heads:] = to_sum.flatten(0, 1)
        to_read = to_read.view(batch, rows * heads, size)
        to_z = torch.bmm(weights.mT, to_read) if ctx.needs_input_grad[2] else None
        to_weights = torch.bmm(to_read, z.mT).view(batch, rows, heads, columns)
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
        to_scores = to_scores.flatten(0, 1)
        to_queries, to_keys = (
            torch.bmm(*product).unflatten(0, (batch, num_heads)).transpose(1, 2).flatten(2)
            for product in ((to_scores, keys), (to_scores.mT, queries))
        )
        return to_queries, to_keys, to_z, to_local, None, None, token, None, None
