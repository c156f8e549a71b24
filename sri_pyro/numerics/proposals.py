"""Proposals for importance sampling: a Gaussian per sentence, defended by a share of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.numerics.gaussians import Gaussian


@dataclass(frozen=True)
class DefensiveGaussian:
    r"""The mixture :math:`r(z) = (1 - \alpha)\,\mathcal{N}(z; \mu, \Sigma) + \alpha\, p(z)` of each sentence.

    The weights :math:`p(x, z)/r(z)` are exact whichever component z came from, and bounded by
    :math:`p(x \mid z)/\alpha \le 1/\alpha` for discrete x, so that all their moments exist.

    Attributes:
        gaussian: Mean and covariance per sentence.
        log_prior: Maps z [S, B, D] to log p(z) [S, B].
        sample_prior: Maps S to draws from the prior, [S, B, D].
        prior_share: :math:`\alpha` in (0, 1).

    References:
        Defensive mixtures: Hesterberg (1995); Owen and Zhou (2000).
    """

    gaussian: Gaussian
    log_prior: Callable[[Tensor], Tensor]
    sample_prior: Callable[[int], Tensor]
    prior_share: float = 0.05

    def sample(self, num_samples: int) -> Tensor:
        """Independent draws, shape [S, B, D]."""
        fitted = self.gaussian.sample(num_samples)
        defence = self.sample_prior(num_samples)
        from_prior = torch.rand(fitted.shape[:-1], device=fitted.device) < self.prior_share
        return torch.where(from_prior[..., None], defence.to(fitted.dtype), fitted)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of the mixture in nats, shape [S, B]."""
        with torch.no_grad():
            fitted = math.log1p(-self.prior_share) + self.gaussian.log_prob(z)
            defence = math.log(self.prior_share) + self.log_prior(z)
            return torch.logaddexp(fitted, defence)
