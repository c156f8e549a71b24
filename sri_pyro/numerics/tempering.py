r"""Powers of the likelihood between prior and posterior, chosen so that neighbours overlap.

Axes: S draws, B sentences.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALVINGS = 40
"""Of the interval in which a power is sought."""


def conditional_ess(increment: Tensor, log_likelihood: Tensor) -> Tensor:
    r"""Share of draws at one power that are left once they are weighed for another, :math:`\Delta` above it.

    .. math:: \frac{(\sum_s u_s)^2}{S \sum_s u_s^2}, \qquad u_s = p(x \mid z_s)^\Delta

    Args:
        increment: :math:`\Delta`, shape [B].
        log_likelihood: log p(x | z) of draws at the lower power, nats, shape [S, B].

    Returns:
        Between 1/S and 1, shape [B].

    References:
        Conditional effective sample size: Zhou, Johansen, Aston (2016), for weights that were equal before.

    Example:
        >>> conditional_ess(torch.tensor([0.0, 1.0]), torch.tensor([[0.0, 0.0], [-50.0, -50.0]])).tolist()
        [1.0, 0.5]
    """
    # Chosen and not multiplied by zero, for 0 * -inf is NaN: a power of nothing changes no weight.
    log_u = torch.where(increment == 0, 0.0, increment * log_likelihood.double())
    return (2 * log_u.logsumexp(0) - (2 * log_u).logsumexp(0)).exp() / len(log_u)


def next_power(power: Tensor, log_likelihood: Tensor, share: float) -> Tensor:
    r"""The largest power up to 1 at which the conditional effective sample size is still a share of the draws.

    Args:
        power: :math:`\beta` of each sentence now, shape [B].
        log_likelihood: log p(x | z) of draws from :math:`p(z)\,p(x \mid z)^\beta`, nats, shape [S, B].
        share: In (0, 1): near 1 takes small steps.

    Returns:
        Shape [B]; 1 where the whole way can be gone at once, or where no draw has a likelihood.

    Example:
        >>> log_likelihood = 20 * torch.linspace(-2, 2, 101)[:, None]
        >>> beta = next_power(torch.zeros(1), log_likelihood, 0.9)
        >>> round(beta.item(), 4), round(conditional_ess(beta, log_likelihood).item(), 4)
        (0.0145, 0.9)
    """
    low, high = torch.zeros_like(power, dtype=torch.float64), 1 - power.double()
    arrives = ~(conditional_ess(high, log_likelihood) < share)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        near = conditional_ess(middle, log_likelihood) >= share
        low, high = torch.where(near, middle, low), torch.where(near, high, middle)
    return torch.where(arrives, 1.0, power + low).to(power.dtype)
