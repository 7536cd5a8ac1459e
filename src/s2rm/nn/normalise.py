"""Normalisation over a batch and all its steps, of what reaches a recurrent core."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Batch normalisation of vectors that may be absent: only those that are there count in mean and variance.

    In training the statistics are those of the batch, gathered over all processes; in evaluation they are the running
    ones, so that no prediction depends on the others of its batch.

    Args:
        size: H, channels of a vector.
        momentum: weight of a new batch in the running statistics.

    Source:
        Ioffe and Szegedy 2015.
    """

    def __init__(self, size: int, momentum: float = 0.1):
        super().__init__()
        self.momentum, self.smallest = momentum, 1e-5
        self.scale, self.shift = nn.Parameter(torch.ones(size)), nn.Parameter(torch.zeros(size))
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_variance", torch.ones(size))
        self.running_mean: Tensor
        self.running_variance: Tensor

    def reset_parameters(self) -> None:
        """Neither scale nor shift, and running statistics of unit variance."""
        for ones, zeros in ((self.scale, self.shift), (self.running_variance, self.running_mean)):
            nn.init.ones_(ones)
            nn.init.zeros_(zeros)

    def forward(self, vectors: Float[Tensor, "*batch H"], there: Bool[Tensor, "*batch"]) -> Float[Tensor, "*batch H"]:
        """The vectors normalised, the absent ones as well."""
        mean, variance = self._statistics(vectors, there) if self.training else self._running()
        scale = self.scale * (variance + self.smallest).rsqrt()
        return torch.addcmul(self.shift - mean * scale, vectors, scale).to(vectors.dtype)

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.running_mean, self.running_variance

    def _statistics(self, vectors: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the vectors that are there, with which the running ones are updated."""
        # Squares of what is left after the running mean lose fewer digits than those of the vectors.
        near = self.running_mean.to(torch.promote_types(vectors.dtype, torch.float32))
        kept = torch.where(there[..., None], vectors - near, 0.0).flatten(0, -2)
        sums = torch.cat([kept.sum(0), kept.square().sum(0), there.sum().to(kept.dtype)[None]])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = _OverProcesses.apply(sums)
        size = vectors.shape[-1]
        means = sums[:-1] / sums[-1].clamp(min=1)
        mean, variance = near + means[:size], (means[size:] - means[:size].square()).clamp(min=0)
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return mean, variance  # a backward pass that recomputes has updated them before
        with torch.no_grad():
            weight = torch.where(sums[-1] > 0, self.momentum, 0.0).to(mean.dtype)
            self.running_mean.lerp_(mean.to(self.running_mean), weight.to(self.running_mean))
            self.running_variance.lerp_(variance.to(self.running_mean), weight.to(self.running_mean))
        return mean, variance


class _OverProcesses(torch.autograd.Function):
    """The sum over all processes, whose gradient is that of all of them too."""

    @staticmethod
    def forward(context: object, values: Tensor) -> Tensor:
        values = values.clone()
        torch.distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(context: object, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        gradient = gradient.clone()
        torch.distributed.all_reduce(gradient)
        return gradient
