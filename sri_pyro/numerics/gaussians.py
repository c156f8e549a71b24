r"""Gaussian summaries of chains: moments, debiased entropy, pooled covariances, densities.

Axes: S draws, B sentences, D latent dimensions. Everything is in nats.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Mean and unbiased covariance of each sentence's draws.

    Attributes:
        mean: Shape [B, D].
        covariance: Shape [B, D, D].
    """

    mean: Tensor
    covariance: Tensor


def moments(z_SBD: Tensor, weights_SB: Tensor | None = None) -> Moments:
    r"""Mean and covariance over the draws of each sentence.

    Without weights the covariance has the :math:`S - 1` denominator. With weights (normalised over S)
    it has the :math:`1 - \sum_s w_s^2` denominator, which is the same thing at equal weights.

    Example:
        >>> fit = moments(torch.randn(100, 2, 3))
        >>> fit.mean.shape, fit.covariance.shape
        (torch.Size([2, 3]), torch.Size([2, 3, 3]))
    """
    num_samples = z_SBD.shape[0]
    if weights_SB is None:
        weights_SB = z_SBD.new_full(z_SBD.shape[:-1], 1 / num_samples)
    mean = torch.einsum("sb,sbd->bd", weights_SB, z_SBD)
    centred = z_SBD - mean
    spread = torch.einsum("sb,sbd,sbe->bde", weights_SB, centred, centred)
    covariance: Tensor = spread / (1 - weights_SB.square().sum(0))[:, None, None]
    return Moments(mean, covariance)


def log_det(matrix: Tensor) -> Tensor:
    """Log-determinant of symmetric positive definite matrices, shape [...].

    Raises:
        ValueError: If a matrix is not positive definite.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if bool(failed.any()):
        raise ValueError(
            "a covariance is not positive definite: there are too few draws for the number of "
            "dimensions, or chains have not moved. Use more draws than latent dimensions + 1."
        )
    half: Tensor = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 2 * half


def extrapolated(values: Tensor) -> Tensor:
    """A function of moments by all draws and by either half of them, [3, ...], freed of its leading bias.

    That is inverse to the number of draws, whatever their weights or dependence, and so twice as large in a half.

    Example:
        >>> extrapolated(torch.tensor([5.0 + 1 / 10, 5.0 + 1 / 5, 5.0 + 1 / 5]))
        tensor(5.)
    """
    return 2 * values[0] - (values[1] + values[2]) / 2


def gaussian_entropy(z_SBD: Tensor) -> Tensor:
    r"""Entropy of the Gaussian with the draws' moments, free of small-sample bias.

    .. math:: H_G = \tfrac D2 \log(2\pi e) + \tfrac12\Big(\log|\hat\Sigma|
              - \sum_{i=1}^{D} \psi\big(\tfrac{S-i}2\big) - D\log\tfrac2{S-1}\Big)

    The bracket removes the bias of a Wishart log-determinant: exactly unbiased when the draws are
    Gaussian. For any other law :math:`H_G` is at least the entropy (maximum entropy), so a
    Kullback-Leibler divergence made from it is a lower estimate.

    Args:
        z_SBD: Independent draws, shape [S, B, D], with S > D + 1.

    Returns:
        Nats, shape [B].

    Raises:
        ValueError: If there are too few draws.

    References:
        Expected log-determinant of a Wishart matrix: Bishop (2006), Eq. B.81.
    """
    num_samples, _, dim = z_SBD.shape
    if num_samples <= dim + 1:
        raise ValueError(
            f"the Gaussian entropy of {dim} dimensions needs more than {dim + 1} draws of each "
            f"sentence; got {num_samples}. Raise num_samples."
        )
    orders = torch.arange(1, dim + 1, device=z_SBD.device, dtype=torch.float64)
    bias = torch.digamma((num_samples - orders) / 2).sum() + dim * math.log(2 / (num_samples - 1))
    log_volume = log_det(moments(z_SBD.double()).covariance) - bias
    return (0.5 * dim * math.log(2 * math.pi * math.e) + 0.5 * log_volume).to(z_SBD.dtype)


def pooled(own: Tensor, own_share: float) -> Tensor:
    r"""Shrink each sentence's covariance towards the mean covariance of the batch.

    .. math:: \Sigma_b = \rho\,\hat\Sigma_b + (1 - \rho)\,\tfrac1B\sum_c \hat\Sigma_c

    Posteriors of different sentences under one decoder have similar shapes, so a pooled covariance
    lets a few dozen chains per sentence do what a few hundred did.

    Args:
        own: Covariances, shape [B, D, D].
        own_share: :math:`\rho` in [0, 1].
    """
    return own_share * own + (1 - own_share) * own.mean(0)


class Gaussian(NamedTuple):
    """One Gaussian per sentence, by mean and lower Cholesky factor of the covariance.

    Attributes:
        mean: Shape [B, D].
        factor: Shape [B, D, D].
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """Factorise; a covariance that is not quite positive definite gets a ridge, and only that one."""
        identity = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        scale = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None].clamp_min(1e-12)
        ridge = torch.zeros_like(scale)
        for size in (1e-6, 1e-4, 1e-2, 1.0, math.nan):
            factor, failed = torch.linalg.cholesky_ex(covariance + ridge * scale * identity)
            if not bool(failed.any()) and bool(factor.isfinite().all()):
                return cls(mean, factor)
            # Only a sentence that needs a ridge gets one: proposals do not depend on their neighbours.
            ridge = torch.where(failed[:, None, None] != 0, size, ridge)
        raise ValueError("a covariance holds values that are not finite; the chains have diverged.")

    def to(self, dtype: torch.dtype) -> Gaussian:
        """The same densities in another precision."""
        return Gaussian(self.mean.to(dtype), self.factor.to(dtype))

    def sample(self, num_samples: int) -> Tensor:
        """Independent draws, shape [S, B, D]."""
        noise = torch.randn((num_samples, *self.mean.shape), dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + torch.einsum("bde,sbe->sbd", self.factor, noise)

    def log_prob(self, z_SBD: Tensor) -> Tensor:
        """Log-density in nats, shape [S, B]."""
        centred = (z_SBD - self.mean).permute(1, 2, 0)
        whitened = torch.linalg.solve_triangular(self.factor, centred, upper=False)
        half_log_det = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * z_SBD.shape[-1] * math.log(2 * math.pi)
        log_prob: Tensor = -0.5 * whitened.square().sum(1) - half_log_det[:, None] - constant
        return log_prob.T
