"""The papers' equations as pure functions: the plain reference against which every faster path is tested."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TWO_PI = 2 * math.pi


def positional_embedding(
    positions: Float[Tensor, "*batch n"], dim: int, shortest: float = TWO_PI, longest: float = TWO_PI * 10_000
) -> Float[Tensor, "*batch d"]:
    r"""Embed positions on the unit sphere, $P(x)$.

    There are $k = d / 2n$ wavelengths for each coordinate, from $\lambda_0$, the shortest, to below $\Lambda$, the
    longest. Each coordinate becomes a block of sines and cosines; the blocks of all coordinates are joined in order and
    divided by their norm, which is always $\sqrt{d / 2}$:

    $$\lambda_i = \lambda_0 (\Lambda / \lambda_0)^{i / k} \qquad
    x \mapsto [\sin(2 \pi x / \lambda_0), \cos(2 \pi x / \lambda_0), \sin(2 \pi x / \lambda_1), \dots]$$

    Args:
        positions: `(..., n)`, in the world's own units.
        dim: d, size of the embedding, a multiple of 2n.
        shortest: shortest wavelength, in the units of `positions`.
        longest: bound of the longest wavelength, in the same units.

    Returns:
        `(..., d)`, of norm 1.

    Raises:
        ValueError: `dim` is no positive multiple of 2n, or the wavelengths are not `0 < shortest <= longest`.

    Source:
        S2RM, Eq. 3 and 25. Relative to the paper: there the indices of the coordinates overlap, and `10000^i` with
        i = 2, 4, ... leaves one usable wavelength; this is the form used in Transformers.
    """
    n = positions.shape[-1]
    check_embedding(dim, n, shortest, longest)
    k = dim // (2 * n)
    exponents = torch.arange(k, device=positions.device, dtype=positions.dtype) / k
    angles = TWO_PI * positions[..., None] / (shortest * (longest / shortest) ** exponents)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1)
    return waves.flatten(-3) / math.sqrt(dim / 2)


def check_embedding(dim: int, num_coordinates: int, shortest: float, longest: float) -> None:
    """Raise a ValueError for an embedding size or wavelengths that `positional_embedding` cannot use."""
    if dim < 1 or num_coordinates < 1 or dim % (2 * num_coordinates):
        raise ValueError(
            f"positional embedding: dim must be a positive multiple of 2 x {num_coordinates} coordinates, got {dim}; "
            f"take {max(1, round(dim / (2 * max(1, num_coordinates)))) * 2 * num_coordinates}"
        )
    if not 0 < shortest <= longest < math.inf:
        raise ValueError(
            f"positional embedding: wavelengths must hold 0 < shortest <= longest, got shortest {shortest} and longest "
            f"{longest}; a good start is shortest = half of the world's extent, longest = 8 times the extent"
        )


def spherical_gaussian_kernel(
    p: Float[Tensor, "*#batch M d"],
    s: Float[Tensor, "*#batch A d"],
    bandwidth: float = 1.0,
    truncation: float = 0.6,
    straight_through: bool = True,
) -> Float[Tensor, "*both M A"]:
    r"""The truncated spherical Gaussian kernel (S2RM, Eq. 5 and 14):

    $$Z(p, s) = \begin{cases} e^{-2 \epsilon (1 - p \cdot s)} & p \cdot s \ge \tau \\ 0 & \text{else} \end{cases}$$

    Args:
        p, s: unit vectors, `(..., M, d)` and `(..., A, d)`.
        bandwidth: ε > 0; larger is narrower.
        truncation: τ in [-1, 1); larger is sparser.
        straight_through: pass the gradient as if there were no truncation (E.4.1), so that a module without any view
            nearby still moves.

    Returns:
        `(..., M, A)`, in [0, 1].

    Raises:
        ValueError: `bandwidth` or `truncation` out of range.
    """
    check_kernel(bandwidth, truncation)
    similarity = p @ s.transpose(-1, -2)
    kernel = torch.exp(-2 * bandwidth * (1 - similarity))
    truncated = torch.where(similarity >= truncation, kernel, 0.0)
    # Both have the same value, so without gradients the shorter one will do.
    return kernel + (truncated - kernel).detach() if straight_through and torch.is_grad_enabled() else truncated


def check_kernel(bandwidth: float, truncation: float) -> None:
    """Raise a ValueError for a bandwidth or truncation for which Eq. 5 is not defined."""
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"kernel: bandwidth must be positive and finite, got {bandwidth}; the paper uses 1.0")
    if not -1 <= truncation < 1:
        raise ValueError(f"kernel: truncation must be in [-1, 1), got {truncation}; the paper uses 0.6")


def kernel_modulated_attention(
    q: Float[Tensor, "*batch I K D"],
    k: Float[Tensor, "*batch J K D"],
    v: Float[Tensor, "*batch J K V"],
    local: Float[Tensor, "*batch I J"],
    mask: Bool[Tensor, "*batch J"] | None = None,
) -> Float[Tensor, "*batch I K V"]:
    r"""Dot-product attention whose weights are attenuated by a kernel, in each of K heads:

    $$\mathrm{out}_i = \sum_j Z_{ij}\, \mathrm{softmax}_j(q_i \cdot k_j)\, v_j$$

    Args:
        q, k, v: queries, keys and values of all heads.
        local: the weights $Z$.
        mask: False where j is missing; its content has no effect. Default: none is missing.

    Returns:
        `(..., I, K, V)`; zero where all j are missing.

    Source:
        S2RM, Eq. 7, 15 to 18 and 20 to 23. The product is not scaled. Relative to the paper: Eq. 8 sums with the
        softmax alone; weighting by the kernel as well, as Eq. 18 and 23 do, keeps the attention local.
    """
    if mask is not None:
        there = mask[..., None, None]
        k, v = torch.where(there, k, 0.0), torch.where(there, v, 0.0)
        local = torch.where(mask[..., None, :], local, 0.0)
    scores = torch.einsum("...ikd,...jkd->...kij", q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None, None, :], torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1) * local.unsqueeze(-3)
    return torch.einsum("...kij,...jkv->...ikv", weights, v)


def gated_sum(
    attended: Float[Tensor, "*batch H"], local_sum: Float[Tensor, "*batch H"], gate: Float[Tensor, "*batch 1"]
) -> Float[Tensor, "*batch H"]:
    r"""Soft choice between the local sum and the attended values: $G b + (1 - G) \tilde u$ (S2RM, Eq. 9, 19, 24)."""
    return gate * local_sum + (1 - gate) * attended


def gru_update(
    input_gates: Float[Tensor, "*batch G"], hidden_gates: Float[Tensor, "*batch G"], carried: Float[Tensor, "*batch H"]
) -> Float[Tensor, "*batch H"]:
    r"""The gated recurrent unit, from the linear maps $i$ of its input and $h$ of its hidden state, with state $c$:

    $$r = \sigma(i_r + h_r) \qquad z = \sigma(i_z + h_z) \qquad n = \tanh(i_n + r h_n) \qquad c' = (1 - z) n + z c$$

    Args:
        input_gates: $W_i u + b_i$, `(..., 3H)`, in the order r, z, n.
        hidden_gates: $W_h \bar h + b_h$, `(..., 3H)`, in the same order.
        carried: the state c that is kept by z, `(..., H)`.

    Source:
        Cho et al. 2014, in the variant of `torch.nn.GRU`. S2RM's Eq. 4 would keep $\bar h$; keeping the module's own
        state leaves it within [-1, 1] for any kernel.
    """
    i_r, i_z, i_n = input_gates.chunk(3, -1)
    h_r, h_z, h_n = hidden_gates.chunk(3, -1)
    reset, update = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    candidate = torch.tanh(i_n + reset * h_n)
    return candidate + update * (carried - candidate)


def lstm_update(
    input_gates: Float[Tensor, "*batch G"], hidden_gates: Float[Tensor, "*batch G"], memory: Float[Tensor, "*batch H"]
) -> tuple[Float[Tensor, "*batch H"], Float[Tensor, "*batch H"]]:
    r"""Long short-term memory: $(h', c')$ from the sum $a$ of the linear maps of its input and of its hidden state:

    $$i, f, o = \sigma(a_i), \sigma(a_f), \sigma(a_o) \qquad g = \tanh(a_g) \qquad c' = f c + i g \qquad
    h' = o \tanh(c')$$

    Args:
        input_gates: $W_i u + b_i$, `(..., 4H)`, in the order i, f, g, o.
        hidden_gates: $W_h h + b_h$, `(..., 4H)`, in the same order.
        memory: c, `(..., H)`.

    Source:
        Hochreiter and Schmidhuber 1997, in the variant of `torch.nn.LSTM`.
    """
    i, f, g, o = (input_gates + hidden_gates).chunk(4, -1)
    memory = torch.sigmoid(f) * memory + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(memory), memory
