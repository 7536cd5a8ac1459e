"""Kernel-modulated dot-product attention (KMDPA) with a gate, arranged for use inside a recurrent loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.ops import aten

from s2rm.functional import gated_sum, kernel_modulated_attention
from s2rm.nn.over_time import Context, LinearMap, Summed, once, over_time


class KernelModulatedAttention(nn.Module):
    r"""Attention by content and by position: rows y read from columns z, weighted by a kernel of their positions.

    With Z the kernel's weights, G a two-layer perceptron that ends in one sigmoid, and $[\cdot]$ the heads side by
    side:

    $$\tilde u_i = W^{out} [\sum_j Z_{ij} \, \mathrm{softmax}_j(Q y_i \cdot K z_j) \, V z_j]$$

    $$b_i = \sum_j Z_{ij} z_j, \quad g_i = G(\tilde u_i, b_i), \quad u_i = g_i b_i + (1 - g_i) \tilde u_i$$

    `forward` computes this as written. A loop over time splits the same computation: the weights `query` and `key` map
    y and z, [`attend`][s2rm.nn.local.DenseLocal.attend] computes what the heads read,
    `out_over_time` maps it to $\tilde u$, and `gate_over_time` returns u.

    Args:
        size: size of y, z and the result.
        num_heads: K.
        head_size: D, size of queries and keys.
        value_size: V, size of a head's values.
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
        for weight in (self.query, self.key, self.value, self.out):
            bound = 1 / math.sqrt(num_heads * value_size if weight is self.out else size)
            nn.init.uniform_(weight, -bound, bound)

    def forward(
        self,
        y: Float[Tensor, "*batch I H"],
        z: Float[Tensor, "*batch J H"],
        local: Float[Tensor, "*batch I J"],
        mask: Bool[Tensor, "*batch J"] | None = None,
    ) -> Float[Tensor, "*batch I H"]:
        """u, where `local` is Z and `mask` is False where a column of `z` is absent."""
        q = torch.einsum("...ih,hkd->...ikd", y, self.query)
        k = torch.einsum("...jh,hkd->...jkd", z, self.key)
        v = torch.einsum("...jh,hkv->...jkv", z, self.value)
        attended = torch.einsum("...ikv,kvh->...ih", kernel_modulated_attention(q, k, v, local, mask), self.out)
        if mask is not None:
            z, local = torch.where(mask[..., None], z, 0.0), torch.where(mask[..., None, :], local, 0.0)
        local_sum = local @ z
        hidden = torch.relu(self.gate_hidden(torch.cat([attended, local_sum], -1)))
        return gated_sum(attended, local_sum, torch.sigmoid(self.gate_out(hidden)))

    def out_over_time(self, num_rows: int) -> LinearMap:
        r"""$\tilde u$ from what the heads read, `(R, KH)` to `(R, H)`, for use at every step of a loop.

        V and $W^{out}$ are linear, so both can follow the sum over j. Their product, one matrix `(KH, H)`, is computed
        once where the loop's `num_rows` in total make up for it.
        """
        if torch.compiler.is_exporting() or num_rows <= self.size:
            heads, joined = (self.num_heads, self.size), self.out.flatten(0, 1)
            return lambda read: torch.einsum("rkh,hkv->rkv", read.unflatten(-1, heads), self.value).flatten(1) @ joined
        return over_time(torch.einsum("ikv,kvh->kih", self.value, self.out).flatten(0, 1))

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
                return _Gate.apply(attended, local_sum, hidden, maps, *(map_.token for map_ in maps))
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
        to_hidden = aten.threshold_backward(to_logits @ out.mT, active, 0)
        attended_sums.add(attended.flatten(0, 1), to_hidden)
        to_attended.flatten(0, 1).addmm_(to_hidden, from_attended.mT)
        if not ctx.hidden_is_known:
            local_sums.add(local_sum.flatten(0, 1), to_hidden)
            to_local.flatten(0, 1).addmm_(to_hidden, from_local.mT)
        known = to_hidden.view(*gate.shape[:2], -1) if ctx.hidden_is_known else None
        return to_attended, to_local, known, None, *tokens
