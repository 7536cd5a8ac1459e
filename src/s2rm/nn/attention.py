"""Kernel-modulated dot-product attention with a gate (KMDPA), arranged for use inside a recurrent loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.ops import aten

from s2rm.functional import gated_sum, kernel_modulated_attention
from s2rm.nn.over_time import Summed, once, over_time


class KernelModulatedAttention(nn.Module):
    """What a set of modules reads from a set of things, by content and by place.

    With `Z` the local weights, `G` a two-layer MLP that ends in one sigmoid, and `[·]` the heads side by side:

        ũ_i = W_out [ Σ_j Z_ij softmax_j(Q y_i · K z_j) V z_j ]
        b_i = Σ_j Z_ij z_j
        u_i = G(ũ_i, b_i) b_i + (1 - G(ũ_i, b_i)) ũ_i

    `forward` is this, plainly. The methods below it split the same computation for a loop over time: the two weights
    make queries and keys, [`attend`][s2rm.nn.local.DenseLocal.attend] reads, `out_over_time` makes ũ of what was read
    and `gate_over_time` u.

    Args:
        size: size of y, z and the result.
        num_heads: K.
        head_size: D, size of queries and keys.
        value_size: V, size of a head's values.
        gate_size: width of the gate's hidden layer.

    Source:
        S2RM, Eq. 7 to 9, 15 to 24. Relative to the paper: heads are joined by a projection (the paper leaves open how
        2 x 128 values meet a partner of 128); the width of the gate is ours.
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
        for weight, fan_in in (
            (self.query, size),
            (self.key, size),
            (self.value, size),
            (self.out, num_heads * value_size),
        ):
            nn.init.uniform_(weight, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))

    def forward(
        self,
        y: Float[Tensor, "*batch I H"],
        z: Float[Tensor, "*batch J H"],
        local: Float[Tensor, "*batch I J"],
        mask: Bool[Tensor, "*batch J"] | None = None,
    ) -> Float[Tensor, "*batch I H"]:
        """Plain reference: `y` reads from `z` where `local` and `mask` let it."""
        q = torch.einsum("...ih,hkd->...ikd", y, self.query)
        k = torch.einsum("...jh,hkd->...jkd", z, self.key)
        v = torch.einsum("...jh,hkv->...jkv", z, self.value)
        attended = torch.einsum("...ikv,kvh->...ih", kernel_modulated_attention(q, k, v, local, mask), self.out)
        if mask is not None:
            z, local = torch.where(mask[..., None], z, 0.0), torch.where(mask[..., None, :], local, 0.0)
        local_sum = local @ z
        hidden = torch.relu(self.gate_hidden(torch.cat([attended, local_sum], -1)))
        return gated_sum(attended, local_sum, torch.sigmoid(self.gate_out(hidden)))

    def query_weight(self) -> Float[Tensor, "H KD"]:
        return self.query.flatten(1)

    def key_weight(self) -> Float[Tensor, "H KD"]:
        return self.key.flatten(1)

    def out_over_time(self, num_rows: int) -> Callable[[Tensor], Tensor]:
        """`ũ` from what the heads read, `(R, KH)` to `(R, H)`, for use at every step of a loop over `num_rows` in all.

        `V` and `W_out` are linear, so they can come after the sum over j, and in one matrix where the rows repay it.
        """
        if torch.compiler.is_exporting() or num_rows <= self.size:
            heads, joined = (self.num_heads, self.size), self.out.flatten(0, 1)
            return lambda read: torch.einsum("rkh,hkv->rkv", read.unflatten(-1, heads), self.value).flatten(1) @ joined
        return over_time(torch.einsum("ikv,kvh->kih", self.value, self.out).flatten(0, 1))

    def gate_from_local(self, local_sum: Float[Tensor, "*batch H"]) -> Float[Tensor, "*batch G"]:
        """The part of the gate's hidden layer that comes from b."""
        return nn.functional.linear(local_sum, self.gate_hidden.weight[:, self.size :], self.gate_hidden.bias)

    def gate_over_time(self) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        """`u` from `ũ`, `b` and, where it is known before, `gate_from_local(b)`; for use at every step of a loop."""
        weight = self.gate_hidden.weight
        from_attended = over_time(weight[:, : self.size].T)
        from_local = over_time(weight[:, self.size :].T, self.gate_hidden.bias)
        out = over_time(self.gate_out.weight.T, self.gate_out.bias)

        def gate(attended: Tensor, local_sum: Tensor, hidden: Tensor | None) -> Tensor:
            if isinstance(out, Summed) and isinstance(from_attended, Summed) and isinstance(from_local, Summed):
                maps = (from_attended, from_local, out)
                saved = [part for map_ in maps for part in (map_.weight, map_.token)]
                return _Gate.apply(
                    attended, local_sum, hidden, from_local.bias, out.bias, *saved, [map_.sums for map_ in maps]
                )
            known = from_local(local_sum.flatten(0, 1)) if hidden is None else hidden.flatten(0, 1)
            logits = out(torch.relu(known + from_attended(attended.flatten(0, 1))))
            return gated_sum(attended, local_sum, torch.sigmoid(logits.unflatten(0, attended.shape[:2])))

        return gate


class _Gate(Function):
    """The gate and its sum, with gradients written by hand."""

    @staticmethod
    def forward(
        ctx: Any,
        attended: Tensor,
        local_sum: Tensor,
        hidden: Tensor | None,
        local_bias: Tensor,
        out_bias: Tensor,
        *weights_and_tokens_then_sums: Any,
    ) -> Tensor:
        *weights_and_tokens, ctx.sums = weights_and_tokens_then_sums
        from_attended, from_local, out = weights_and_tokens[::2]
        rows = attended.flatten(0, 1)
        known = torch.addmm(local_bias, local_sum.flatten(0, 1), from_local) if hidden is None else hidden.flatten(0, 1)
        active = torch.addmm(known, rows, from_attended).relu_()
        gate = torch.addmm(out_bias, active, out).sigmoid_().view(*attended.shape[:2], 1)
        ctx.save_for_backward(attended, local_sum, active, gate, *weights_and_tokens)
        ctx.hidden_is_known = hidden is not None
        return torch.lerp(attended, local_sum, gate)

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        attended, local_sum, active, gate, *weights_and_tokens = ctx.saved_tensors
        (from_attended, from_local, out), tokens = weights_and_tokens[::2], weights_and_tokens[1::2]
        attended_sums, local_sums, out_sums = ctx.sums
        gradient = gradient.contiguous()
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
        to_maps = [part for token in tokens for part in (None, token)]
        return to_attended, to_local, known, None, None, *to_maps, None
