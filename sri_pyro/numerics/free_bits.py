r"""Free bits: a KL term that costs nothing until it exceeds a target rate, so that it has no reason to vanish.

Axes: B sentences, D latent dimensions.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from sri_pyro.numerics.schedules import require_not_negative

FreeBitsPer = Literal["dimension", "sentence", "batch"]


def require_free_bits(free_bits: float, free_bits_per: str) -> None:
    """Raise unless a target rate is a finite number of at least 0, and what it is of is known."""
    require_not_negative(free_bits=free_bits)
    if free_bits_per not in get_args(FreeBitsPer):
        known = ", ".join(sorted(get_args(FreeBitsPer)))
        raise ValueError(f"unknown free_bits_per {free_bits_per!r}; known: {known}.")


def with_free_bits(kl: Tensor, rate: float, per: FreeBitsPer) -> Tensor:
    r"""The KL of each sentence with a hinge at the target rate :math:`\lambda`, nats, shape [B].

    .. math:: \sum_d \max(\lambda / D, \mathrm{KL}_d), \qquad
              \max\Big(\lambda, \sum_d \mathrm{KL}_d\Big), \qquad
              \max\Big(\lambda, \frac1B \sum_b \sum_d \mathrm{KL}_{bd}\Big)

    per dimension, per sentence and per batch. Below the hinge the gradient is zero.

    Args:
        kl: KL of every sentence and dimension, shape [B, D]; or of every sentence, [B, 1], where a law does not part
            into dimensions.
        rate: Nats a sentence, all dimensions together; 0 leaves the KL as it is.
        per: What the hinge is applied to.

    Example:
        >>> kl = torch.tensor([[0.5, 0.1], [3.0, 2.0]])
        >>> with_free_bits(kl, 1.0, "dimension"), with_free_bits(kl, 1.0, "sentence")
        (tensor([1., 5.]), tensor([1., 5.]))
        >>> with_free_bits(kl, 4.0, "batch")
        tensor([4., 4.])

    References:
        Per dimension: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling (2016). Per sentence: Pelsmaeker, Aziz
        (2020); Li, He, Neubig, Berg-Kirkpatrick, Yang (2019), FBP.
    """
    if not rate:
        return kl.sum(-1)
    if per == "dimension":
        return kl.clamp_min(rate / kl.shape[-1]).sum(-1)
    if per == "sentence":
        return kl.sum(-1).clamp_min(rate)
    return torch.clamp_min(kl.sum(-1).mean(), rate).expand(len(kl))
