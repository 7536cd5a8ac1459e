"""Positions as rotations: vectors that are turned by where they belong, so that their sum is a map."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Rotation(nn.Module):
    r"""Turns pairs of channels by angles that are linear in a position.

    Pair k of the channels, $(u, v)$, becomes $(u \cos\theta_k - v \sin\theta_k,\; u \sin\theta_k + v \cos\theta_k)$
    with $\theta_k = \omega_k \cdot (x - m)$. With encodings that are turned by the positions of their views,
    $e_a = R(x_a) E(O_a)$, a sum of encodings is a map of the world in a Fourier basis, and reading it at a query,
    $D(R(x_q)^{-1} d)$, is a shift: moving all positions by the same vector changes nothing.

    Args:
        size: H, channels of a vector; the last one of an odd number is not turned.
        num_coordinates: n, coordinates of a position.
        shortest: shortest wavelength along a coordinate, in the world's units. The learned frequencies $\omega_k$ start
            at random, uniformly in the cube of $\pm 2\pi / \mathrm{shortest}$.
        middle: m, the position that turns nothing.

    Source:
        Ours, after the rotary embeddings of Su et al. 2021. Relative to the S2RM paper: positions enter the baselines'
        encoder and decoder by concatenation there, and those of S2RM not at all.
    """

    def __init__(self, size: int, num_coordinates: int, shortest: float, middle: tuple[float, ...]):
        super().__init__()
        if not 0 < shortest < math.inf:
            raise ValueError(f"rotation: the shortest wavelength must be positive and finite, got {shortest}")
        drawn = 2 * torch.rand(size // 2, num_coordinates) - 1
        self.frequencies = nn.Parameter(2 * math.pi / shortest * drawn)
        self.register_buffer("middle", torch.tensor(middle), persistent=False)
        self.middle: Tensor

    def forward(
        self, vectors: Float[Tensor, "*batch H"], positions: Float[Tensor, "*batch n"], back: bool = False
    ) -> Float[Tensor, "*batch H"]:
        """The vectors turned by their positions, or turned back."""
        angles = (positions - self.middle) @ self.frequencies.T
        cosine, sine = angles.cos(), -angles.sin() if back else angles.sin()
        half = self.frequencies.shape[0]
        u, v, rest = vectors.split([half, half, vectors.shape[-1] - 2 * half], -1)
        return torch.cat([u * cosine - v * sine, u * sine + v * cosine, rest], -1)
