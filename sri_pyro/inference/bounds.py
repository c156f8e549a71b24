r"""Variational objectives: bounds on log p(x) for inferences whose draws have a density.

Axes: S draws, B sentences, D latent dimensions.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from sri_pyro.numerics.free_bits import FreeBitsPer, require_free_bits, with_free_bits
from sri_pyro.numerics.information import as_normals
from sri_pyro.numerics.kl_weights import ConstantWeight, KLWeight
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

NEEDS_DENSITY: Final = (
    "the objective '{}' needs draws with a density, and the inference's have none; use one that has, such as "
    "'amortized', or the objective 'final'."
)
NEEDS_PARTS: Final = (
    "free_bits_per = 'dimension' needs a prior and an inference of independent normals; use 'sentence'."
)


class EvidenceLowerBound:
    r"""The evidence lower bound with a weight on its KL term, and free bits (``elbo``).

    .. math:: \mathcal{L} = \frac1B \sum_b \Big[ -\frac1S \sum_s \log p_\theta(x_b \mid z_{sb})
              + \beta\, \mathrm{KL}^{\lambda}\big(q(z \mid x_b) \,\|\, p(z)\big) \Big]

    With :math:`\beta = 1` and no free bits it is the negative bound; with :math:`\beta = 0` an autoencoder whose code
    is still drawn. The KL is exact where q and the prior are independent normals, else the mean of
    :math:`\log q - \log p` over the draws.

    Args:
        kl_weight: :math:`\beta`, over training; 1 by default.
        free_bits: :math:`\lambda`, nats a sentence that cost nothing; 0 for none.
        free_bits_per: ``dimension``: each of D has :math:`\lambda / D` of them; ``sentence``: each sentence has
            all; ``batch``: the mean over the batch has.

    Raises:
        ValueError: If ``free_bits`` is negative or ``free_bits_per`` unknown; when it is asked, if the draws have no
            density, or free bits are asked for each dimension and the KL does not part into them.

    References:
        Kingma, Welling (2014); annealing: Bowman et al. (2016); free bits: see ``numerics.free_bits``.
    """

    def __init__(
        self,
        kl_weight: KLWeight | None = None,
        free_bits: float = 0.0,
        free_bits_per: FreeBitsPer = "dimension",
    ) -> None:
        require_free_bits(free_bits, free_bits_per)
        self.kl_weight = kl_weight or ConstantWeight()
        self.free_bits = free_bits
        self.free_bits_per: FreeBitsPer = free_bits_per

    def __call__(self, target: Target, draws: Draws, progress: Progress) -> Tensor:
        """The loss, nats per sentence."""
        log_q = density(draws, "elbo")
        kl = kl_by_dimension(draws.law, target.prior() if target.prior else None)
        if kl is None:
            if self.free_bits and self.free_bits_per == "dimension":
                raise ValueError(NEEDS_PARTS)
            kl = (log_q - target.log_prior(draws.z)).mean(0)[:, None]
        reconstruction = -target.log_likelihood(draws.z).mean(0)
        hinged = with_free_bits(kl, self.free_bits, self.free_bits_per)
        return (reconstruction + self.kl_weight(progress) * hinged).mean()


class ImportanceWeightedBound:
    r"""The importance weighted bound of S draws (``iwae``).

    .. math:: \mathcal{L} = -\frac1B \sum_b \log \frac1S \sum_s
              \frac{p_\theta(x_b, z_{sb})}{q(z_{sb} \mid x_b)}, \qquad z_{sb} \sim q(z \mid x_b)

    S is ``num_samples`` of the training options. The bound rises with it, to log p(x).

    Raises:
        ValueError: When it is asked, if the draws have no density.

    References:
        Burda, Grosse, Salakhutdinov (2016).
    """

    def __call__(self, target: Target, draws: Draws, progress: Progress) -> Tensor:
        """The loss, nats per sentence."""
        log_weight = target.log_joint(draws.z) - density(draws, "iwae")
        return (math.log(draws.num_samples) - torch.logsumexp(log_weight, 0)).mean()


def density(draws: Draws, objective: str) -> Tensor:
    """Log q of draws [S, B].

    Raises:
        ValueError: If they have none.
    """
    if draws.log_q is None:
        raise ValueError(NEEDS_DENSITY.format(objective))
    return draws.log_q


def kl_by_dimension(law: Distribution | None, prior: Distribution | None) -> Tensor | None:
    """KL(law || prior) of every sentence and dimension, [B, D]; None unless both are independent normals."""
    one, other = as_normals(law), as_normals(prior)
    return None if one is None or other is None else kl_divergence(one, other)
