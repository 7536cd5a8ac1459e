"""Likelihoods: from a decoder's output to a distribution over views, and to the terms of the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot, softplus

TOLERANCE = 1e-5
"""by which targets may leave the range from 0 to 1, as rounding makes them do"""


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean as a sum and the number of summed values, so that the means of parts add up to the mean of the whole."""

    total: Tensor
    """sum of the values, a scalar"""
    count: Tensor
    """int, number of values"""

    @property
    def value(self) -> Tensor:
        """The mean; 0 over no values."""
        return torch.where(self.count > 0, self.total / self.count.clamp(min=1), 0.0)

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    @classmethod
    def where(cls, mask: Tensor | None, values: Tensor) -> Mean:
        """The mean of the values at which the mask is True, or of all."""
        wide = torch.promote_types(values.dtype, torch.float32)
        if mask is None:
            return cls(values.sum(dtype=wide), torch.tensor(values.numel(), device=values.device))
        return cls(torch.where(mask, values, 0.0).sum(dtype=wide), mask.sum())


class Likelihood(ABC):
    """The distribution that a decoder's output parametrises."""

    num_parameters: int
    """number of parameters of each channel"""
    num_binary: int | None = 0
    """leading channels of a target that are probabilities, from 0 to 1; None: all values are"""
    remedy = 'build the model with likelihood="gaussian", or scale them'
    """for targets outside 0 to 1"""
    checked = False
    """whether values of targets were looked at"""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Distribution:
        """Decoder output `(..., *shape, num_parameters)` to a distribution over `(..., *shape)`."""

    @abstractmethod
    def feedback(self, distribution: Distribution) -> Tensor:
        """The view that a closed-loop rollout feeds back."""

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027
        """Raise a ValueError for targets of a shape that does not fit."""

    def check_values(self, values: Tensor, mask: Tensor) -> None:
        """Raise a ValueError for targets, shaped as for `terms`, that this distribution does not have.

        Another device than the CPU would have to be waited for, so there only the first targets are looked at.
        """
        if self.num_binary == 0 or (self.checked and values.device.type != "cpu"):
            return
        binary = values if self.num_binary is None else values.narrow(mask.ndim, 0, self.num_binary)
        if binary.numel():
            low, high = binary.aminmax()
            if low >= -TOLERANCE and high <= 1 + TOLERANCE:  # False for NaN
                self.checked = True
                return
        # NaN, which is not measured, compares as False.
        wrong = ((binary < -TOLERANCE) | (binary > 1 + TOLERANCE)) & mask.reshape(
            mask.shape + (1,) * (values.ndim - mask.ndim)
        )
        if wrong.any():
            low, high = binary[wrong].min(), binary[wrong].max()
            raise ValueError(
                f"loss: expected targets from 0 to 1, as pixels that are on or off, got {int(wrong.sum()):,} values "
                f"outside, from {low:g} to {high:g}; {self.remedy}"
            )
        self.checked = True

    def terms(self, distribution: Distribution, values: Tensor, mask: Tensor | None) -> dict[str, Mean]:
        r"""The terms of the loss by name; the loss is the sum of their values, 0 where nothing is measured.

        In general there is one, the mean of $-\log p(\mathrm{value})$ in nats over every measured channel.

        Args:
            distribution: over `(..., Q, *shape)`.
            values: targets, `(..., Q, *shape)`; NaN is not measured.
            mask: bool `(..., Q)`, True where there is a target. None: all are there, and measured.
        """
        known = None if mask is None else measured(values, mask)
        values = values if known is None else torch.where(known, values, 0.0)
        return {"nll": Mean.where(known, -distribution.log_prob(values))}


class BernoulliPixels(Likelihood):
    """Binary pixels, with one logit each. Targets between 0 and 1 count as probabilities."""

    num_parameters = 1
    num_binary = None

    def distribution(self, parameters: Tensor) -> Bernoulli:
        return Bernoulli(logits=parameters[..., 0], validate_args=False)

    def feedback(self, distribution: Distribution) -> Tensor:
        """The mean, thresholded at 0.5 (S2RM, F.1.1)."""
        return (distribution.mean > 0.5).to(distribution.mean.dtype)


class GaussianSensors(Likelihood):
    r"""Real channels, with a mean and a spread $s$ each; the standard deviation is $0.001 + \log(1 + e^s)$."""

    num_parameters = 2

    def distribution(self, parameters: Tensor) -> Normal:
        mean, spread = parameters.unbind(-1)
        return Normal(mean, 1e-3 + softplus(spread), validate_args=False)

    def feedback(self, distribution: Distribution) -> Tensor:
        """The mean."""
        return distribution.mean


def measured(values: Tensor, mask: Tensor) -> Tensor:
    """Which channels of values `(..., Q, *shape)` are measured: those that are not NaN, of views that are present."""
    return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim)) & ~values.isnan()


class MixedChannels(Likelihood):
    """Polar images of units: a marker of friendly units, the type and the stats, with one parameter per channel.

    The loss is the sum of three means: the binary cross-entropy of the friendly marker and the categorical
    cross-entropy of the type, over pixels, and the squared error, over pixels and stats.

    Source:
        S2RM, E.4.4. Relative to the paper: a pixel without a unit is one more category, whose logit is fixed at 0.
    """

    num_parameters = 1
    # The lengths of UNIT_TYPES and STATS in s2rm.tasks.battles.trajectories, which this module cannot import.
    num_types = 9
    num_stats = 4
    num_binary = 1 + num_types
    remedy = "a marker and types are 0 or 1"

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
        """The most probable marker, the most probable type or none, and the mean stats."""
        friendly, types, stats = parts(distribution.mean)
        best = torch.cat([1 - types.sum(-3, keepdim=True), types], -3).argmax(-3)
        types = one_hot(best, 1 + self.num_types)[..., 1:].movedim(-1, -3).to(types.dtype)
        return torch.cat([(friendly > 0.5).to(types.dtype), types, stats], -3)

    def terms(self, distribution: Distribution, values: Tensor, mask: Tensor | None) -> dict[str, Mean]:
        assert isinstance(distribution, Mixed)
        known = measured(values, values.new_ones((), dtype=torch.bool) if mask is None else mask)
        log_likelihoods = distribution.log_parts(torch.where(known, values, 0.0))
        friendly, types, stats = parts(known)
        # A type counts only where all of its channels are measured.
        counted = (friendly, types.all(-3, keepdim=True), stats)
        means = [Mean.where(counts, -part) for counts, part in zip(counted, log_likelihoods, strict=True)]
        return dict(zip(("friendly", "type", "hecs"), means, strict=True))


class Mixed(Distribution):
    """Independent pixels, each a Bernoulli marker, a categorical type and real stats; over `(..., 14, I, J)`.

    Args:
        parameters: `(..., 14, I, J)`: the logit of the marker, the logits of the types relative to no unit, the stats.
    """

    arg_constraints: dict = {}  # noqa: RUF012, as torch has it

    def __init__(self, parameters: Tensor):
        self.friendly, self.types, self.stats = parts(parameters)
        super().__init__(parameters.shape, validate_args=False)

    @property
    def log_normaliser(self) -> Tensor:
        r"""$\log(1 + \sum_k e^{\mathrm{logit}_k})$ over the types."""
        total = self.types.logsumexp(-3, keepdim=True)
        return torch.logaddexp(total, torch.zeros_like(total))

    @property
    def mean(self) -> Tensor:
        return torch.cat([self.friendly.sigmoid(), (self.types - self.log_normaliser).exp(), self.stats], -3)

    @property
    def variance(self) -> Tensor:
        """Stats are normal with variance 1/2: up to a constant, their log-likelihood is minus the squared error."""
        mean = self.mean
        markers, stats = mean[..., : -MixedChannels.num_stats, :, :], torch.full_like(self.stats, 0.5)
        return torch.cat([markers * (1 - markers), stats], -3)

    def log_parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihoods of marker and type, `(..., 1, I, J)`, and minus the squared errors of the stats."""
        friendly, types, stats = parts(values)
        surprise = binary_cross_entropy_with_logits(self.friendly, friendly, reduction="none")
        chosen = (types * self.types).sum(-3, keepdim=True)
        return -surprise, chosen - self.log_normaliser, -(stats - self.stats).square()

    def log_prob(self, value: Tensor) -> Tensor:
        """`(..., 14, I, J)`; the log-likelihood of the type is shared equally among its channels."""
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
