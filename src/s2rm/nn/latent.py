"""Latent variables of modules: a prior from a module's state, and a posterior that also reads the views."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from s2rm.likelihoods import Mean
from s2rm.nn.noise import DrawsByRow
from s2rm.views import Episode, Views

WIDTH, LEAST_SPREAD = 64, 1e-2
"""of the hidden layers, and the least standard deviation"""
FREE, WEIGHT = 0.05, 0.1
"""nats of a module at a step up to which its divergence costs nothing more, and the weight of the divergence in the
loss, so low that latent variables carry information before the modules learn to do without them"""
NARROW = -2.0
"""bias of what standard deviations are made from: 0.14 at the start, so that a latent variable carries information"""


class Beliefs(NamedTuple):
    """The Gaussians of the latent variables of M modules at a step: `(B, M, 2 Z)`, see `moments`."""

    prior: Tensor
    posterior: Tensor
    seen: Bool[Tensor, "B m"]
    """whether there is any view, or what would have been seen, and the module is not removed"""


class Answered(Views):
    """Views whose last slots hold, in steps without any view, what would have been seen; only a posterior reads it."""

    @classmethod
    def of(cls, episode: Episode) -> Episode:
        """The episode with its targets in the last slots of the views, in steps without any."""
        views, targets = episode.views, episode.targets
        return replace(episode, views=cls.then_slots(views, targets.keep(~views.mask.any(-1, keepdim=True))))

    @classmethod
    def then_slots(cls, views: Views, others: Views) -> Answered:
        pairs = ((views.positions, others.positions), (views.values, others.values), (views.mask, others.mask))
        return cls._unchecked(*(torch.cat(pair, 2) for pair in pairs))  # type: ignore[return-value]


class Latents(DrawsByRow):
    r"""A diagonal Gaussian variable $z$ of each module and step, which is added to the input u of the module's cell.

    $$p(z \mid h) = N(\mu_p(h), \sigma_p(h)^2), \quad q(z \mid h, u) = N(\mu_q(h, u), \sigma_q(h, u)^2), \quad
    u' = u + W z$$

    h is what others read of the module's state before the step. Both have one hidden layer; all modules share them.

    Where training shows no view at a step, the posterior reads what would have been seen, but u' is W z: z is then
    the only way in which the state learns of it, and a rollout, which draws z from the prior, goes on likewise.

    Args:
        size: H, of h and of u.
        latent_size: Z.

    Source:
        Chung et al. 2015, "A recurrent latent variable model for sequential data", for each module by itself.
    """

    def __init__(self, size: int, latent_size: int):
        super().__init__()
        self.from_state, self.from_views = nn.Linear(size, 2 * WIDTH), nn.Linear(size, WIDTH, bias=False)
        self.prior, self.posterior = (nn.Linear(WIDTH, 2 * latent_size) for _ in range(2))
        self.to_inputs = nn.Linear(latent_size, size, bias=False)
        with torch.no_grad():
            for layer in (self.prior, self.posterior):
                layer.bias[latent_size:] = NARROW

        self.free, self.weight = FREE, WEIGHT
        self._samples, self._collected, self._answers = False, list[list[Beliefs]](), 0

    def steps(
        self, mask: Bool[Tensor, "B T A"], num_modules: int, present: Bool[Tensor, " M"] | None = None
    ) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """What happens at each of T steps: from h and u, `(B, M, H)` each, to u'.

        In a step without any view the posterior is the prior. It is sampled in training and within `sampling`, else its
        mean is taken.

        Args:
            mask: which views are there.
            num_modules: M.
            present: which modules are not removed, all if not given; the others have no divergence.
        """
        seen, weight, noise = mask.any(-1), self.to_inputs.weight, None
        told = [None] * mask.shape[1] if not self._answers else mask[..., : -self._answers].any(-1).unbind(1)
        if self.training or self._samples:
            shape = (mask.shape[1], num_modules, weight.shape[1])
            noise = self.by_row(
                lambda rows: torch.randn(rows, *shape, dtype=weight.dtype, device=weight.device), mask.shape[0]
            )
        drawn = [None] * mask.shape[1] if noise is None else noise.unbind(1)
        return [partial(self._step, present, *now) for now in zip(seen.unbind(1), told, drawn, strict=True)]

    def _step(
        self, present: Tensor | None, seen: Tensor, told: Tensor | None, noise: Tensor | None, hidden: Tensor,
        inputs: Tensor,
    ) -> Tensor:  # fmt: skip
        for_prior, for_posterior = self.from_state(hidden).chunk(2, -1)
        prior = self.prior(for_prior.relu())
        posterior = self.posterior((for_posterior + self.from_views(inputs)).relu())
        posterior = torch.where(seen[:, None, None], posterior, prior)
        mean, spread = moments(posterior)
        for beliefs in self._collected:
            beliefs.append(Beliefs(prior, posterior, seen[:, None] if present is None else seen[:, None] & present))
        if told is not None:  # what would have been seen tells the posterior only
            inputs = torch.where(told[:, None, None], inputs, 0.0)
        return inputs + self.to_inputs(mean if noise is None else torch.addcmul(mean, spread, noise))

    def term(self, beliefs: Sequence[Beliefs], count: Int[Tensor, ""]) -> Mean:
        """The divergence as a term of the loss, over as many values as the likelihood: with a weight of 1 both make the
        evidence lower bound of a value."""
        return Mean(self.weight * divergence(beliefs, self.free), count)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Within, latent variables are sampled."""
        before, self._samples = self._samples, True
        try:
            yield
        finally:
            self._samples = before

    @contextmanager
    def collecting(self, answers: int = 0) -> Iterator[list[Beliefs]]:
        """The distributions at each step that is taken within, of views whose last slots are `Answered`."""
        before, self._answers = self._answers, answers
        self._collected.append([])
        try:
            yield self._collected[-1]
        finally:
            self._collected.pop()
            self._answers = before


def moments(parameters: Float[Tensor, "*batch P"]) -> tuple[Float[Tensor, "*batch Z"], Float[Tensor, "*batch Z"]]:
    """Mean and standard deviation, from the mean and what the latter is made from, side by side."""
    mean, spread = parameters.chunk(2, -1)
    return mean, softplus(spread) + LEAST_SPREAD


def divergence(beliefs: Sequence[Beliefs], free: float) -> Float[Tensor, ""]:
    r"""The divergence of the posterior from the prior, in nats, summed over modules and all steps with views.

    With $\rho = \sigma_q / \sigma_p$ that of a module at a step is
    $\sum_z (\rho^2 + (\mu_q - \mu_p)^2 / \sigma_p^2 - 1) / 2 - \log \rho$; it counts as at least `free` (free bits;
    Kingma et al. 2016).
    """
    priors, posteriors, seen = (torch.stack(part) for part in zip(*beliefs, strict=True))
    # Sums over many steps and modules lose most of a narrower type.
    priors, posteriors = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (priors, posteriors))
    (of_prior, spread), (mean, of_posterior) = moments(priors), moments(posteriors)
    ratio = of_posterior / spread
    each = (ratio.square() + ((mean - of_prior) / spread).square() - 1) / 2 - ratio.log()
    return torch.where(seen, each.sum(-1).clamp(min=free), 0.0).sum()
