"""From a decoder's output to a distribution over views, and to the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, softplus


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

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Refuse targets of a shape that it does not know."""

    def terms(self, distribution: Distribution, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The terms whose sum is the loss, each a mean over what is there; arguments of `negative_log_likelihood`."""
        return {"nll": negative_log_likelihood(distribution, values, mask)}

    def counts(self, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Over how many numbers each of the terms is a mean."""
        return {"nll": measured(values, mask).sum()}


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


class MixedChannels(Likelihood):
    """Polar images of units: whether a unit is friendly, its type, its stats. The decoder gives a number for each.

    The loss is a sum of three means: of the binary cross-entropy of the friendly marker and of the categorical
    cross-entropy of the type, over pixels, and of the squared error, over pixels and stats.

    Source:
        S2RM, E.4.4. Relative to the paper: a pixel without a unit is one more category, whose logit is fixed at 0.
    """

    num_parameters = 1
    # As many as UNIT_TYPES and STATS of s2rm.tasks.battles.trajectories, which stands above this module.
    num_types = 9
    num_stats = 4

    def check(self, shape: tuple[int, ...]) -> None:
        channels = 1 + self.num_types + self.num_stats
        if len(shape) != 3 or shape[0] != channels:
            raise ValueError(
                f'likelihood "mixed": expected targets of shape ({channels}, radii, angles), a friendly marker, '
                f"{self.num_types} types and {self.num_stats} stats, got {shape}; set target_shape"
            )

    def distribution(self, parameters: Tensor) -> Mixed:
        return Mixed(parameters[..., 0])

    def feedback(self, distribution: Distribution) -> Tensor:
        """The likelier friendly marker, the likeliest type or none, and the mean stats."""
        friendly, types, stats = parts(distribution.mean)
        best = torch.cat([1 - types.sum(-3, keepdim=True), types], -3).argmax(-3)
        types = one_hot(best, 1 + self.num_types)[..., 1:].movedim(-1, -3).to(types.dtype)
        return torch.cat([(friendly > 0.5).to(types.dtype), types, stats], -3)

    def terms(self, distribution: Distribution, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
        assert isinstance(distribution, Mixed)
        known = measured(values, mask)
        log_likelihoods, there = distribution.log_parts(torch.where(known, values, 0.0)), self._there(known)
        return {
            name: -torch.where(there[name], part, 0.0).sum() / there[name].sum().clamp(min=1)
            for name, part in zip(there, log_likelihoods, strict=True)
        }

    def counts(self, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {name: there.sum() for name, there in self._there(measured(values, mask)).items()}

    def _there(self, known: Tensor) -> dict[str, Tensor]:
        """Where each term has something to be judged by; a type only where all of its channels were measured."""
        friendly, types, stats = parts(known)
        return {"friendly": friendly, "type": types.all(-3, keepdim=True), "hecs": stats}


class Mixed(Distribution):
    """Independent pixels, each a Bernoulli marker, a categorical type and real stats; over `(..., 14, I, J)`.

    Args:
        parameters: `(..., 14, I, J)`: the marker's logit, those of the types relative to no unit's, and the stats.
    """

    arg_constraints: dict = {}  # noqa: RUF012, as torch has it

    def __init__(self, parameters: Tensor):
        self.friendly, self.types, self.stats = parts(parameters)
        super().__init__(parameters.shape, validate_args=False)

    @property
    def log_normaliser(self) -> Tensor:
        """`log(1 + Σ exp(logit))` of the types."""
        total = self.types.logsumexp(-3, keepdim=True)
        return torch.logaddexp(total, torch.zeros_like(total))

    @property
    def mean(self) -> Tensor:
        return torch.cat([self.friendly.sigmoid(), (self.types - self.log_normaliser).exp(), self.stats], -3)

    @property
    def variance(self) -> Tensor:
        """Stats count as normal with variance 1/2: minus the squared error is their log-likelihood, and a constant."""
        mean = self.mean
        markers, stats = mean[..., : -MixedChannels.num_stats, :, :], torch.full_like(self.stats, 0.5)
        return torch.cat([markers * (1 - markers), stats], -3)

    def log_parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihoods of marker and type, `(..., 1, I, J)`, and minus the squared errors of stats."""
        friendly, types, stats = parts(values)
        chosen = (types * self.types).sum(-3, keepdim=True)
        return (
            -binary_cross_entropy_with_logits(self.friendly, friendly, reduction="none"),
            chosen - self.log_normaliser,
            -(stats - self.stats).square(),
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """`(..., 14, I, J)`: of the type's log-likelihood each of its channels has an equal share."""
        friendly, types, stats = self.log_parts(value)
        share = (types / MixedChannels.num_types).expand_as(self.types)
        return torch.cat([friendly, share, stats], -3)


def parts(images: Tensor) -> tuple[Tensor, ...]:
    """The friendly marker, types and stats of images `(..., 14, I, J)`."""
    return images.split([1, MixedChannels.num_types, MixedChannels.num_stats], -3)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliPixels,
    "gaussian": GaussianSensors,
    "mixed": MixedChannels,
}
