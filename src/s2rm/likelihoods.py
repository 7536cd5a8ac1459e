"""From a decoder's output to a distribution over views, and to the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal
from torch.nn.functional import softplus


class Likelihood(ABC):
    """What a decoder's output means."""

    num_parameters: int
    """numbers that the decoder gives for each channel"""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Distribution:
        """Decoder output `(..., *shape, num_parameters)` to a distribution over `(..., *shape)`."""

    @abstractmethod
    def feedback(self, distribution: Distribution) -> Tensor:
        """The view that a closed-loop rollout feeds back."""


class BernoulliPixels(Likelihood):
    """Binary pixels: the decoder gives one logit for each."""

    num_parameters = 1

    def distribution(self, parameters: Tensor) -> Bernoulli:
        return Bernoulli(logits=parameters[..., 0], validate_args=False)

    def feedback(self, distribution: Distribution) -> Tensor:
        """The mean, thresholded at 0.5 (S2RM, F.1.1)."""
        return (distribution.mean > 0.5).to(distribution.mean.dtype)


class GaussianSensors(Likelihood):
    """Real channels: the decoder gives a mean and a spread for each."""

    num_parameters = 2
    smallest_spread = 1e-3

    def distribution(self, parameters: Tensor) -> Normal:
        mean, spread = parameters.unbind(-1)
        return Normal(mean, self.smallest_spread + softplus(spread), validate_args=False)

    def feedback(self, distribution: Distribution) -> Tensor:
        """The mean."""
        return distribution.mean


LIKELIHOODS: dict[str, type[Likelihood]] = {"bernoulli": BernoulliPixels, "gaussian": GaussianSensors}


def measured(values: Tensor, mask: Tensor) -> Tensor:
    """Which channels of values `(..., Q, *shape)` were measured: those not NaN, of the views that are there."""
    return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)) & ~values.isnan()


def negative_log_likelihood(distribution: Distribution, values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `-log p(value)` in nats over every measured channel of the views that are there.

    Args:
        distribution: over `(..., Q, *shape)`.
        values: `(..., Q, *shape)`; NaN is skipped.
        mask: bool `(..., Q)`, True where a target is there.

    Returns:
        A scalar; zero where nothing is there.
    """
    there = measured(values, mask)
    log_likelihood = distribution.log_prob(torch.where(there, values, 0.0))
    return -torch.where(there, log_likelihood, 0.0).sum() / there.sum().clamp(min=1)
