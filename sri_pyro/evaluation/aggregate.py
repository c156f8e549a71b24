r"""The aggregate posterior against the prior, by radius: of the weighted draws, of the inference, and between the two.

Axes: S draws, n sentences, m draws of the prior, D dimensions, G radii.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sri_pyro.evaluation.metrics import CONFIDENCE, mean_estimate
from sri_pyro.numerics.weights import normalised
from sri_pyro.types import Estimate

POINTS = 201
"""Radii at which distribution functions are compared."""
REPLICATES = 10_000
"""Paths of which a band is the 95 % quantile; it is off by about 1 %."""
SEED = 20_261_122
"""Of the paths' own generator, so that equal draws give equal bands and no other generator moves."""


@dataclass(frozen=True)
class RadiusGap:
    r"""A difference of two distribution functions of :math:`\lVert z \rVert^2`.

    Attributes:
        radius: Where they are compared, in squared units of z, shape [G].
        gap: The difference, shape [G].
        band: Half width of the simultaneous 95 % band about it: with that confidence the true difference lies within
            it at every radius at once. Of a single radius it is therefore conservative.
        mean_squared_radius: Of the first law less that of the second, where the second is another inference; else of
            the first alone.
    """

    radius: NDArray[np.float64]
    gap: NDArray[np.float64]
    band: float
    mean_squared_radius: Estimate

    @property
    def largest(self) -> float:
        """The largest difference."""
        return float(np.abs(self.gap).max())


@dataclass(frozen=True)
class Distance:
    """A ``RadiusGap`` in numbers.

    Attributes:
        radius_gap: The largest difference of the distribution functions.
        band: Half width of its simultaneous 95 % band.
        mean_squared_radius: As in ``RadiusGap``.
    """

    radius_gap: float
    band: float
    mean_squared_radius: Estimate


@dataclass(frozen=True)
class Aggregate:
    """What ``metrics.json`` says of the aggregate posterior.

    Attributes:
        posterior: The weighted draws' less the prior's, over sentences whose weights pass.
        short_run: The inference's less the prior's, over all sentences.
        difference: The inference's less the weighted draws', paired, over sentences whose weights pass.
        prior_mean_squared_radius: Of the prior: D, or the mean of its draws.
    """

    posterior: Distance
    short_run: Distance
    difference: Distance
    prior_mean_squared_radius: float


@dataclass(frozen=True)
class RadiusGaps:
    """The same with every radius, for the figure.

    Attributes:
        posterior: As in ``Aggregate``.
        short_run: Likewise.
        difference: Likewise.
        prior_mean_squared_radius: Likewise.
    """

    posterior: RadiusGap
    short_run: RadiusGap
    difference: RadiusGap
    prior_mean_squared_radius: float

    def summary(self) -> Aggregate:
        """The largest differences alone."""
        posterior, short_run, difference = (
            Distance(gap.largest, gap.band, gap.mean_squared_radius)
            for gap in (self.posterior, self.short_run, self.difference)
        )
        return Aggregate(posterior, short_run, difference, self.prior_mean_squared_radius)


@dataclass(frozen=True)
class Radii:
    r"""Radii of each sentence's codes, as a distribution function over a common grid.

    Attributes:
        cdf: Of each sentence, shape [n, G].
        bias: First-order bias of each that self-normalised weights bring, shape [n, G]; 0 for equal weights.
        squared: Mean :math:`\lVert z \rVert^2` of each sentence, shape [n].
    """

    cdf: Tensor
    bias: Tensor
    squared: Tensor

    @classmethod
    def of(cls, z: Tensor, log_weight: Tensor | None, grid: Tensor) -> Radii:
        r"""From draws [S, n, D] and their log weights [S, n]; None for equal ones.

        The bias is :math:`-\sum_s w_s^2 (1[\lVert z_s \rVert^2 \le r] - F(r))`, which is at most one over the effective
        sample size, and does not average out over sentences.
        """
        squared = squared_radius(z)
        weights = normalised(torch.zeros_like(squared) if log_weight is None else log_weight.double())
        cdf, shares = _cumulated(squared, weights, grid), weights.square()
        bias = cdf * shares.sum(0)[:, None] - _cumulated(squared, shares, grid)
        return cls(cdf, bias, (weights * squared).sum(0))


def squared_radius(z: Tensor) -> Tensor:
    r""":math:`\lVert z \rVert^2` in double precision, without the last axis."""
    return z.double().square().sum(-1)


def _cumulated(squared: Tensor, weights: Tensor, grid: Tensor) -> Tensor:
    """Weight [S, n] at or below every radius, shape [n, G]."""
    heaps = weights.new_zeros(weights.shape[1], len(grid) + 1)
    heaps.scatter_add_(1, torch.searchsorted(grid, squared.T.contiguous()), weights.T)
    return heaps.cumsum(1)[:, :-1]


def radius_grid(*draws: Tensor, dim: int) -> Tensor:
    """Radii from 0 beyond those of N(0, I) and of all draws but a thousandth: an outlier shall not stretch it."""
    radii = [squared_radius(z).flatten() for z in draws if z.numel()]
    tops = [float(each.kthvalue(math.ceil(0.999 * each.numel())).values) for each in radii]
    return torch.linspace(0, max([dim + 3 * math.sqrt(2 * dim), *tops]), POINTS, dtype=torch.float64)


def compare_radii(
    z: Tensor, proposal_z: Tensor, log_weight: Tensor, passed: Tensor, prior_z: Tensor | None = None
) -> RadiusGaps:
    """Compare inference, posterior and prior.

    Args:
        z: Draws of the inference, shape [M, n, D].
        proposal_z: Importance draws, shape [S, n, D].
        log_weight: Theirs, shape [S, n].
        passed: Sentences whose weights are to be trusted, shape [n].
        prior_z: Draws of the prior, shape [m, D]; None for N(0, I).
    """
    dim = z.shape[-1]
    grid = radius_grid(z, proposal_z[:, passed], *([] if prior_z is None else [prior_z]), dim=dim)
    run = Radii.of(z, None, grid)
    weighted = Radii.of(proposal_z[:, passed], log_weight[:, passed], grid)
    paired = Radii(run.cdf[passed], run.bias[passed], run.squared[passed])
    return RadiusGaps(
        gap_to_prior(weighted, grid, dim, prior_z),
        gap_to_prior(run, grid, dim, prior_z),
        gap_between(paired, weighted, grid),
        float(dim) if prior_z is None else float(squared_radius(prior_z).mean()),
    )


def gap_to_prior(codes: Radii, grid: Tensor, dim: int, prior_z: Tensor | None = None) -> RadiusGap:
    r"""The radii of all sentences' codes less those of the prior.

    The aggregate posterior :math:`\frac1n \sum_i p(z \mid x_i)` is the prior if the model has learned the corpus.
    Where it is not, codes drawn from the prior are not codes of sentences. Of an inference the same says whether its
    codes are like the prior's, whoever is to blame.

    Args:
        codes: Of every sentence.
        grid: Radii, shape [G].
        dim: D.
        prior_z: Draws of the prior, shape [m, D]; None for N(0, I), whose squared radius is chi-squared with
            D degrees of freedom.

    Example:
        >>> z = torch.randn(1, 500, 4, generator=torch.Generator().manual_seed(0))
        >>> grid = radius_grid(3 * z, dim=4)
        >>> near, far = (gap_to_prior(Radii.of(codes, None, grid), grid, 4) for codes in (z, 3 * z))
        >>> near.largest < near.band < far.largest
        True
    """
    covariance = codes.cdf.new_zeros(len(grid), len(grid))
    if prior_z is None:
        cdf = torch.special.gammainc(torch.tensor(dim / 2, dtype=torch.float64), grid / 2)
    else:
        prior = _cumulated(
            squared_radius(prior_z)[:, None], codes.cdf.new_full((len(prior_z), 1), 1 / len(prior_z)), grid
        )
        cdf = prior[0]
        covariance = (torch.minimum(cdf[:, None], cdf) - cdf[:, None] * cdf) / len(prior_z)
    return _gap(codes.cdf - cdf, codes.bias, grid, covariance, mean_estimate(codes.squared))


def gap_between(codes: Radii, others: Radii, grid: Tensor) -> RadiusGap:
    """The same between two inferences of the same sentences, paired by sentence."""
    nothing = codes.cdf.new_zeros(len(grid), len(grid))
    squared = mean_estimate(codes.squared - others.squared)
    return _gap(codes.cdf - others.cdf, codes.bias - others.bias, grid, nothing, squared)


def _gap(differences: Tensor, bias: Tensor, grid: Tensor, more: Tensor, squared: Estimate) -> RadiusGap:
    r"""The mean over sentences with its band.

    Sentences are independent, and each brings the noise of its own draws along, so that their scatter holds both
    errors: the choice of sentences and the effective number of draws. The band is the 95 % quantile of the largest
    absolute value over radii of Gaussian paths with the covariance of the mean (the multiplier bootstrap); the bias
    of the weights is added.

    Args:
        differences: Of every sentence, shape [n, G].
        bias: Of each of them, shape [n, G].
        grid: Radii, shape [G].
        more: Covariance of an independent error, shape [G, G].
        squared: Estimate that goes with them.

    References:
        Chernozhukov, Chetverikov and Kato (2013).
    """
    n = len(differences)
    if n < 2 or not (grid.isfinite().all() and differences.isfinite().all()):  # as where chains diverged
        return RadiusGap(grid.numpy(), np.full(len(grid), math.nan), math.nan, squared)
    mean = differences.mean(0)
    centred = differences - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / (n * (n - 1)) + more)
    root = (
        vectors * values.clamp(min=0).sqrt() @ vectors.T
    )  # symmetric: does not depend on the vectors' signs
    normal = torch.randn(
        REPLICATES, len(grid), dtype=torch.float64, generator=torch.Generator().manual_seed(SEED)
    )
    highest = (normal @ root).abs().amax(1)
    band = float(highest.quantile(CONFIDENCE)) + float(bias.mean(0).abs().max())
    return RadiusGap(grid.numpy(), mean.numpy(), band, squared)
