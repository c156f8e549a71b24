r"""Whether draws are near enough to Gaussian for a divergence with a Gaussian entropy to speak of them.

The entropy of the Gaussian with the moments of q exceeds that of q by the negentropy :math:`J(q) \ge 0`, and
:math:`\mathrm{KL}_G` is as much too low. That is no matter where J is small, or the same for all runs that are
compared; where q has several modes it is neither.

Axes: M chains, B sentences, D dimensions.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from sri_pyro.evaluation.chains import known_entropy
from sri_pyro.evaluation.verdicts.reading import interval
from sri_pyro.types import Estimate

OVERSTATED = 0.2
"""Nats by which a Gaussian entropy may exceed that of the draws. Two equal modes that lie four of their deviations
apart, so that chains still pass between them, exceed by 0.17; LSTMs with a normal prior by 0.0 in three runs."""
BELOW_ZERO = 0.1
"""Nats that a KL from a Gaussian entropy may lie below 0, beyond its error."""
SIMULATED, SEED = 64, 0
"""Sets of normal draws that show what the statistic is without any excess."""
SMALLEST = 1e-9
"""Of a spacing, for draws that are equal have none."""


def excess_entropy(z: Tensor) -> Tensor:
    r"""What the Gaussian entropy of draws exceeds their entropy by, at least: nats, shape [B].

    .. math:: J(q) = \sum_d J(y_d) + C(y) \ge \sum_d J(y_d)

    with y the coordinates of z along the principal axes of its draws, whitened, and :math:`C` their total correlation,
    which is left out. Modes that are well separated lie along the widest axes. The entropy of :math:`y_d` is that of
    spacings of about the square root of M draws, and J its distance from the mean of as many normal draws. Whitened by
    their own moments those have one law, whatever mean and covariance were, so that the mean is 0 for Gaussian draws
    of any number and dimension.

    Args:
        z: Independent draws, shape [M, B, D]; NaN where ``known_entropy`` is.

    References:
        The decomposition: Comon (1994), section 2.3. Entropy by spacings: Vasicek (1976).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> z = torch.randn(200, 2, 1, generator=generator)
        >>> z[:100, 1] += 10
        >>> [round(float(each), 1) for each in excess_entropy(z)]
        [0.0, 0.7]
    """
    found = z.new_full(z.shape[1:2], torch.nan, dtype=torch.float64)
    known = known_entropy(z).isfinite()
    if bool(known.any()):
        found[known] = expected(len(z), z.shape[-1])[0] - _marginal_entropy(z[:, known].double())
    return found


@cache
def expected(num_chains: int, dim: int) -> tuple[float, float]:
    """Mean and standard deviation of the sum of marginal entropies of whitened normal draws, by simulation."""
    generator = torch.Generator().manual_seed(SEED)
    draws = torch.randn(num_chains, SIMULATED, dim, generator=generator, dtype=torch.float64)
    entropy = _marginal_entropy(draws)
    return float(entropy.mean()), float(entropy.std())


def _marginal_entropy(z: Tensor) -> Tensor:
    """Sum over the whitened principal coordinates of their entropies by spacings, shape [B]."""
    num = len(z)
    reach = max(1, round(math.sqrt(num)))
    # Not from the covariance, whose small eigenvalues are lost beside those of a run that explodes; and not by the
    # singular values of z itself, which take longer.
    basis, triangle = torch.linalg.qr((z - z.mean(0)).transpose(0, 1))
    white = basis @ torch.linalg.svd(triangle).U * math.sqrt(num - 1)
    ordered, places = white.sort(1).values, torch.arange(num, device=z.device)
    after, before = (places + reach).clamp(max=num - 1), (places - reach).clamp(min=0)
    spacing = (ordered[:, after] - ordered[:, before]).clamp_min(SMALLEST)
    entropy: Tensor = (spacing * num / (2 * reach)).log().mean(1).sum(-1)
    return entropy


def mean_excess(excess: Tensor, num_chains: int, dim: int) -> Estimate:
    """Mean over sentences [n] whose excess is known; its error is that of the draws, not of the choice of sentences."""
    known = excess[~excess.isnan()]
    if not len(known):
        return Estimate(math.nan, math.nan, 0)
    return Estimate(float(known.mean()), expected(num_chains, dim)[1] / math.sqrt(len(known)), len(known))


def near_gaussian(excess: Estimate, kl: Estimate) -> bool:
    """Whether nothing shows that a Gaussian entropy is too large: neither the draws nor a KL below 0, beyond errors.

    Example:
        >>> sound, unknown = Estimate(0.1, 0.03, 16), Estimate(math.nan, math.nan, 0)
        >>> near_gaussian(sound, unknown), near_gaussian(sound, Estimate(-5.7, 0.3, 16))
        (True, False)
    """
    return not (excess.interval()[0] > OVERSTATED or interval(kl)[1] < -BELOW_ZERO)
