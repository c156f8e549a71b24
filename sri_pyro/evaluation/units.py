r"""Active units: how many dimensions of the code carry information about the sentence.

Axes: n sentences, M chains, D latent dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.evaluation.metrics import CONFIDENCE

ACTIVE = 0.01
"""A unit is active if its code varies between sentences with more than this variance (Burda et al. 2016)."""


@dataclass(frozen=True)
class ActiveUnits:
    r"""How many latent dimensions carry information about the sentence.

    Attributes:
        count: Units whose lower confidence bound exceeds 0.01: with 95 % at least so many are active.
        at_most: Units whose upper confidence bound exceeds 0.01: with 95 % at most so many are active, so that both
            ends hold together with 90 %. A bootstrap of the count would not do: it is a count of bounds, low on
            purpose, and jumps where a unit stands at the threshold.
        of: D.
        naive_count: Units that the uncorrected variance of M-chain means calls active; it calls every
            unit of a collapsed model active while M is below about 100.
        naive_single_draw_count: The same from single draws, as much published code computes it.
        variances: Corrected between-sentence variances, largest first.
        lower_bounds: Their simultaneous lower bounds (Bonferroni over D, 95 %), in the same order.
        upper_bounds: Their simultaneous upper bounds, likewise; infinite where so few sentences give none.
        eigenvalues: Of the corrected between-sentence covariance, largest first: the count does not
            depend on how z is rotated.
        active_eigenvalues: How many of them exceed 0.01 by more than the largest eigenvalue of pure noise.
        noise_edge: How far above zero that eigenvalue lies.
        num_chains: M.
    """

    count: int
    at_most: int
    of: int
    naive_count: int
    naive_single_draw_count: int
    variances: list[float]
    lower_bounds: list[float]
    upper_bounds: list[float]
    eigenvalues: list[float]
    active_eigenvalues: int
    noise_edge: float
    num_chains: int


def active_units(mean: Tensor, covariance: Tensor, num_chains: int, one_draw: Tensor) -> ActiveUnits:
    r"""Active units from the between-sentence variance of posterior means, freed of Monte Carlo noise.

    .. math:: A_j = \mathrm{Var}_i(\bar z_{ij}) - \tfrac1n \sum_i s_{ij}^2 / M

    where :math:`\bar z_{ij}` is the mean of M chains and :math:`s_{ij}^2` their variance. Without the second
    term a collapsed model has :math:`A_j \approx 1/M`, which is "active" for every M below 100.

    Args:
        mean: Chain means :math:`\bar z`, shape [n, D].
        covariance: Covariance of the chains of each sentence, shape [n, D, D].
        num_chains: M.
        one_draw: One draw of each sentence, shape [n, D]; for the naive count of published code.

    Raises:
        ValueError: With fewer than two sentences or two chains.

    References:
        Active units: Burda, Grosse, Salakhutdinov (2016). The correction is the between/within analysis
        of variance.
    """
    n, dim = mean.shape
    if n < 2 or num_chains < 2:
        raise ValueError(
            f"active units need at least 2 sentences and 2 chains; got {n} sentences and {num_chains} chains."
        )
    if dim == 0:
        return ActiveUnits(0, 0, 0, 0, 0, [], [], [], [], 0, 0.0, num_chains)
    mean, within = mean.double(), covariance.double()
    centred = mean - mean.mean(0)
    noise = within.diagonal(dim1=-2, dim2=-1) / num_chains
    contributions = centred.square() * n / (n - 1) - noise
    variance = contributions.mean(0)
    se = contributions.std(0) / math.sqrt(n)
    one_sided = torch.special.ndtri(torch.tensor(1 - (1 - CONFIDENCE) / dim, dtype=torch.float64))
    width = one_sided.to(se.device) * se
    lower, upper = variance - width, _upper_bound(variance, noise.mean(0), width)
    order = variance.argsort(descending=True)
    between = centred.T @ centred / (n - 1) - within.mean(0) / num_chains
    eigenvalues = torch.linalg.eigvalsh(between).flip(0)
    # Marchenko and Pastur's edge: how far above its mean the top eigenvalue of noise alone lies.
    noise_edge = float(noise.mean(0).max()) * ((1 + math.sqrt(dim / n)) ** 2 - 1)
    return ActiveUnits(
        count=int((lower > ACTIVE).sum()),
        at_most=int((~(upper <= ACTIVE)).sum()),
        of=dim,
        naive_count=int((mean.var(0) > ACTIVE).sum()),
        naive_single_draw_count=int((one_draw.double().var(0) > ACTIVE).sum()),
        variances=variance[order].tolist(),
        lower_bounds=lower[order].tolist(),
        upper_bounds=upper[order].tolist(),
        eigenvalues=eigenvalues.tolist(),
        active_eigenvalues=int((eigenvalues > ACTIVE + noise_edge).sum()),
        noise_edge=noise_edge,
        num_chains=num_chains,
    )


def _upper_bound(variance: Tensor, noise: Tensor, width: Tensor) -> Tensor:
    """Upper bounds of corrected variances, [D], from the widths of their lower ones.

    Where a sample variance comes out small so does its error: as far up as the lower bound is down, a third of bounds
    missed the truth with 48 sentences. The error is therefore taken in proportion to the bound itself.
    """
    total = variance + noise
    share = width / total.clamp(min=torch.finfo(total.dtype).tiny)  # a unit that never moves has no width
    return torch.where(share < 1, total / (1 - share) - noise, torch.inf)
