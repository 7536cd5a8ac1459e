"""How positions enter a model: embedded on the sphere, where the modules have learned places, or as rotations."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from s2rm.functional import check_embedding, check_kernel, positional_embedding, spherical_gaussian_kernel
from s2rm.nn.attention import SparseLocal
from s2rm.nn.over_time import by_autograd, node, once, under_autocast
from s2rm.nn.pairs import Pairs, near


class PositionalEmbedding(nn.Module):
    """`P(x)`, with the equation and errors of [`positional_embedding`][s2rm.functional.positional_embedding]."""

    def __init__(self, num_coordinates: int, dim: int, shortest: float, longest: float):
        super().__init__()
        check_embedding(dim, num_coordinates, shortest, longest)
        self.num_coordinates, self.dim = num_coordinates, dim
        self.shortest, self.longest = shortest, longest

    def forward(self, positions: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d"]:
        if positions.shape[-1] != self.num_coordinates:
            raise ValueError(
                f"positional embedding: positions must end in {self.num_coordinates} coordinates, got shape "
                f"{tuple(positions.shape)}; give the num_coordinates of the model"
            )
        return positional_embedding(positions, self.dim, self.shortest, self.longest)


class ModulePlaces(nn.Module):
    """The modules' learned places $p_m$ on the sphere, and the kernel between them and embedded positions.

    A place is a free vector, normalised at use. It starts at the embedding of a position in the world.

    Args:
        start: `(M, d)`, the initial places.
        bandwidth, truncation: ε and τ of Eq. 5.
        straight_through: gradients pass through the truncation (E.4.1); otherwise only pairs that interact have any.
    """

    def __init__(self, start: Float[Tensor, "M d"], bandwidth: float, truncation: float, straight_through: bool = True):
        super().__init__()
        check_kernel(bandwidth, truncation)
        self.places = nn.Parameter(start.clone())
        self.bandwidth, self.truncation, self.straight_through = bandwidth, truncation, straight_through
        self.present: Tensor | None = None
        """bool `(M,)` while some modules are masked: the kernel of the others is 0 everywhere"""

    @property
    def unit(self) -> Float[Tensor, "M d"]:
        """The places on the sphere."""
        return nn.functional.normalize(self.places, dim=-1)

    def forward(self, embedded: Float[Tensor, "*batch A d"]) -> Float[Tensor, "*batch M A"]:
        """The kernel `Z(p_m, s_a)` to embedded positions `(..., A, d)`."""
        kernel = self._kernel(self.unit, embedded)
        return kernel if self.present is None else torch.where(self.present[:, None], kernel, 0.0)

    def near(self, embedded: Float[Tensor, "*batch A d"]) -> Bool[Tensor, "*batch M A"]:
        """True where an embedded position, of `(..., A, d)`, is within the truncation of a module."""
        return self.unit @ embedded.transpose(-1, -2) >= self.truncation

    def between(self) -> Float[Tensor, "M M"]:
        """The kernel `Z(p_m, p_l)` between the modules."""
        unit = self.unit
        return self.between_present(self._kernel(unit, unit))

    def between_present(self, weights: Shaped[Tensor, "M M"]) -> Shaped[Tensor, "M M"]:
        """Weights between the modules, 0 where one of the two is masked."""
        return weights if self.present is None else weights * (self.present[:, None] & self.present)

    def sparse(self, embedded: Float[Tensor, "N A d"], present: Bool[Tensor, "N A"], read: bool) -> SparseLocal:
        """The kernel between the pairs that interact, in each of N sets of embedded positions.

        Positions that are not `present` interact with no module. With `read` the modules are the rows, which read the
        positions; else the positions are.
        """
        sets, views, modules, unit = *present.shape, len(self.places), self.unit
        points = embedded.flatten(0, 1)
        point, module = near(points, unit, present.flatten(), self.truncation)
        # Each set has its own copies of the modules, so that pairs of different sets never share a row or column.
        place = point // views * modules + module
        places = unit.expand(sets, -1, -1).flatten(0, 1)
        ends = ((place, places), (point, points))
        (row, rows), (column, columns) = ends if read else ends[::-1]
        pairs = Pairs.of(row, column, len(rows), len(columns))
        similarity = pairs.dot(rows[:, None], columns[:, None])[0]
        return SparseLocal(torch.exp(-2 * self.bandwidth * (1 - similarity)), pairs, modules if read else views)

    def _kernel(self, unit: Float[Tensor, "M d"], embedded: Float[Tensor, "*batch A d"]) -> Tensor:
        return spherical_gaussian_kernel(unit, embedded, self.bandwidth, self.truncation, self.straight_through)

    def extra_repr(self) -> str:
        modules, dim = self.places.shape
        return f"num_modules={modules}, dim={dim}, bandwidth={self.bandwidth}, truncation={self.truncation}"


def uniform_positions(num: int, extent: list[tuple[float, float]]) -> Float[Tensor, "num n"]:
    """`num` positions drawn uniformly from the box `extent`, one (low, high) per coordinate."""
    low, high = torch.tensor(extent, dtype=torch.get_default_dtype()).unbind(-1)
    return low + (high - low) * torch.rand(num, len(extent))


class Rotation(nn.Module):
    r"""Rotates pairs of channels by angles that are linear in a position.

    Pair k of the channels, $(u, v)$, becomes $(u \cos\theta_k - v \sin\theta_k,\; u \sin\theta_k + v \cos\theta_k)$
    with $\theta_k = \omega_k \cdot (x - m)$. If encodings are rotated by the positions of their views,
    $e_a = R(x_a) E(O_a)$, a sum of encodings is a map of the world in a Fourier basis, and reading it at a query,
    $D(R(x_q)^{-1} d)$, is a shift: moving all positions by the same vector changes nothing.

    Args:
        size: H, channels of a vector; the last one of an odd number is not rotated.
        num_coordinates: n, coordinates of a position.
        shortest: shortest wavelength along a coordinate, in the world's units. The learned frequencies $\omega_k$ start
            at random, uniformly in the cube of $\pm 2\pi / \mathrm{shortest}$.
        middle: m, the position with zero rotation.

    Source:
        Ours, after the rotary embeddings of Su et al. 2021. Relative to the S2RM paper: positions enter the baselines'
        encoder and decoder by concatenation there, and those of S2RM not at all.
    """

    def __init__(self, size: int, num_coordinates: int, shortest: float, middle: tuple[float, ...]):
        super().__init__()
        if not 0 < shortest < math.inf:
            raise ValueError(f"rotation: the shortest wavelength must be positive and finite, got {shortest}")
        self.shortest, self.given_middle = shortest, middle
        self.frequencies = nn.Parameter(torch.empty(size // 2, num_coordinates))
        self.register_buffer("middle", torch.tensor(middle), persistent=False)
        self.middle: Tensor
        self.reset_parameters()

    def _apply(self, *given: Any, **options: Any) -> Rotation:
        super()._apply(*given, **options)
        self._set_middle()
        return self

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._set_middle()

    def _set_middle(self) -> None:
        """Set the middle, which is not among the weights, from the numbers given: a module that was built on the meta
        device, or emptied, has others."""
        like = self.frequencies if self.middle.is_meta else self.middle
        self.middle = torch.tensor(self.given_middle, dtype=like.dtype, device=like.device)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reinitialise all frequencies."""
        self._set_middle()
        drawn = 2 * torch.rand_like(self.frequencies) - 1
        self.frequencies.copy_(2 * math.pi / self.shortest * drawn)

    def forward(
        self, vectors: Float[Tensor, "*batch H"], positions: Float[Tensor, "*batch n"], back: bool = False
    ) -> Float[Tensor, "*batch H"]:
        """The vectors rotated by their positions, or rotated back."""
        # Under autocast bfloat16 would round angles to a few degrees.
        exact = torch.autocast(vectors.device.type, enabled=False) if under_autocast(vectors.device) else nullcontext()
        with exact:
            angles = (positions - self.middle) @ (-self.frequencies if back else self.frequencies).T
        if by_autograd(vectors.device):
            cosine, sine, half = angles.cos(), angles.sin(), angles.shape[-1]
            u, v, rest = vectors.split([half, half, vectors.shape[-1] - 2 * half], -1)
            return torch.cat([u * cosine - v * sine, u * sine + v * cosine, rest], -1).to(vectors.dtype)
        turned: Tensor = node(_Turn, vectors, angles)
        return turned


class _Turn(torch.autograd.Function):
    """Turns pairs of channels by angles, in few passes over memory: autograd's own would take about twice the time."""

    @staticmethod
    def forward(context: Any, vectors: Tensor, angles: Tensor) -> Tensor:
        cosine, sine, half = angles.cos(), angles.sin(), angles.shape[-1]
        u, v = vectors[..., :half], vectors[..., half : 2 * half]
        turned = torch.empty_like(vectors, memory_format=torch.contiguous_format)  # nn.LSTM's lie time first
        turned[..., 2 * half :] = vectors[..., 2 * half :]
        torch.mul(u, cosine, out=turned[..., :half]).addcmul_(v, sine, value=-1)
        torch.mul(u, sine, out=turned[..., half : 2 * half]).addcmul_(v, cosine)
        context.save_for_backward(cosine, sine, turned)
        return turned

    @staticmethod
    @once
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (cosine, sine, turned), (gradient,) = context.saved_tensors, gradients
        half = cosine.shape[-1]
        along_u, along_v = gradient[..., :half], gradient[..., half : 2 * half]
        of_vectors = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        of_vectors[..., 2 * half :] = gradient[..., 2 * half :]
        torch.mul(along_u, cosine, out=of_vectors[..., :half]).addcmul_(along_v, sine)
        torch.mul(along_v, cosine, out=of_vectors[..., half : 2 * half]).addcmul_(along_u, sine, value=-1)
        of_angles = (along_v * turned[..., :half]).addcmul_(along_u, turned[..., half : 2 * half], value=-1)
        return of_vectors, of_angles
