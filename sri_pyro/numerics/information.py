r"""Information: what draws of a code tell of which sentence they belong to.

Axes: N sentences, D latent dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

AT_ONCE = 1 << 22
"""Numbers of a table of distances."""


def mutual_information(mean: Tensor, scale: Tensor, draws: Tensor) -> Tensor:
    r"""The mutual information between sentence and code under laws of independent normals, from a draw of each.

    .. math:: \hat I = \frac1N \sum_n \Big[ \log q(z_n \mid x_n) - \log \frac1N \sum_m q(z_n \mid x_m) \Big],
              \qquad z_n \sim q(z \mid x_n)

    For the N sentences as they are it is without bias; it never exceeds :math:`\log N`, which is what N sentences
    with nothing in common have. As an estimate for all sentences it is therefore too low where that is near. It may be
    negative by its noise, where the codes tell nothing.

    Args:
        mean: Of every sentence's law, shape [N, D].
        scale: Standard deviations, shape [N, D].
        draws: One of each law, shape [N, D].

    Returns:
        Nats, a scalar in double precision.

    Example:
        >>> apart = torch.tensor([[-100.0], [100.0]])
        >>> mutual_information(apart, torch.ones(2, 1), apart).exp()
        tensor(2., dtype=torch.float64)

    References:
        Hoffman, Johnson (2016); as a stopping rule: He, Spokoyny, Neubig, Berg-Kirkpatrick (2019).
    """
    mean, scale, draws = mean.double(), scale.double(), draws.double()
    num, dim = mean.shape
    volume = scale.log().sum(-1)  # the constant of the density cancels
    gains = []
    at_once = max(1, AT_ONCE // max(1, num * dim))
    for rows in torch.split(torch.arange(num, device=mean.device), at_once):
        log_q = -0.5 * ((draws[rows, None] - mean) / scale).square().sum(-1) - volume
        gains.append(log_q.gather(1, rows[:, None])[:, 0] - log_q.logsumexp(1) + math.log(num))
    return torch.cat(gains).mean()


def as_normals(law: Distribution | None) -> Normal | None:
    """The normals, of batch shape [..., D], that a law over D dimensions is made of; None if it is not made of such.

    Example:
        >>> as_normals(Independent(Normal(torch.zeros(2, 3), 1.0), 1)).mean.shape
        torch.Size([2, 3])
    """
    if not isinstance(law, Independent) or law.reinterpreted_batch_ndims != 1:
        return None
    return law.base_dist if isinstance(law.base_dist, Normal) else None
