"""Where things are: positions on the sphere, and the places of the modules there."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from s2rm.functional import check_embedding, check_kernel, positional_embedding, spherical_gaussian_kernel


class PositionalEmbedding(nn.Module):
    """`P(x)`: positions `(..., n)` in the world's units to unit vectors `(..., dim)`.

    See [`positional_embedding`][s2rm.functional.positional_embedding] for the equation and the errors.
    """

    def __init__(self, num_coordinates: int, dim: int, shortest: float, longest: float):
        super().__init__()
        check_embedding(dim, num_coordinates, shortest, longest)
        self.num_coordinates, self.dim = num_coordinates, dim
        self.shortest, self.longest = shortest, longest

    def forward(self, positions: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d"]:
        if positions.shape[-1] != self.num_coordinates:
            raise ValueError(
                f"positional embedding: positions must end in {self.num_coordinates} coordinates, got shape "
                f"{tuple(positions.shape)}; give as many as the model was made for"
            )
        return positional_embedding(positions, self.dim, self.shortest, self.longest)


class ModulePlaces(nn.Module):
    """The learned places `p_m` of the modules on the sphere, and the kernel between them and anything else.

    A place is a free vector, normalised at use. It starts at the embedding of a position of the world.

    Args:
        start: `(M, d)`, where the modules start.
        bandwidth: ε of Eq. 5.
        truncation: τ of Eq. 5.
    """

    def __init__(self, start: Float[Tensor, "M d"], bandwidth: float, truncation: float):
        super().__init__()
        check_kernel(bandwidth, truncation)
        self.places = nn.Parameter(start.clone())
        self.bandwidth, self.truncation = bandwidth, truncation

    @property
    def unit(self) -> Float[Tensor, "M d"]:
        """The places on the sphere."""
        return nn.functional.normalize(self.places, dim=-1)

    def forward(self, embedded: Float[Tensor, "*batch A d"]) -> Float[Tensor, "*batch M A"]:
        """The kernel `Z(p_m, s_a)` to embedded positions `(..., A, d)`."""
        return spherical_gaussian_kernel(self.unit, embedded, self.bandwidth, self.truncation)

    def between(self) -> Float[Tensor, "M M"]:
        """The kernel `Z(p_m, p_l)` between the modules."""
        return self(self.unit)

    def extra_repr(self) -> str:
        modules, dim = self.places.shape
        return f"num_modules={modules}, dim={dim}, bandwidth={self.bandwidth}, truncation={self.truncation}"


def uniform_positions(num: int, extent: list[tuple[float, float]]) -> Float[Tensor, "num n"]:
    """`num` positions drawn uniformly from the box `extent`, one (low, high) a coordinate."""
    low, high = torch.tensor(extent, dtype=torch.get_default_dtype()).unbind(-1)
    return low + (high - low) * torch.rand(num, len(extent))
