r"""How stiff posteriors are: the ends of the spectrum of :math:`-\nabla_z^2 \log p(x, z)`, at any codes.

Axes: S chains, B sentences, D latent dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sri_pyro.numerics.lanczos import Extremes, extreme_eigenvalues
from sri_pyro.target import CurvedLikelihood, Target

ROUNDS = 12
"""Hessian-vector products for each end of a spectrum. The largest eigenvalue is then known to a few thousandths."""
WORTH_WHOLE = 60
"""Latent dimensions up to which a decoder's exact Hessian is taken whole. That of the LSTM takes about as long as six
products at 32 dimensions (measured), and gives every eigenvalue."""
HESSIANS = 512
"""Chains whose curvature is computed at once; bounds the memory."""


def precision_ends(target: Target, z: Tensor, rounds: int = ROUNDS) -> Extremes:
    r"""Smallest and largest eigenvalue of the negative Hessian of log p(x, z), each [S, B].

    On a Gaussian posterior these are its precisions, and a Langevin step s is stable while
    :math:`s\,\lambda_{\max} < 2`. A negative smallest one says that the log joint is not concave there.

    The Hessian is taken whole where that costs no more (``WORTH_WHOLE``), else ``rounds`` products of it are
    (Lanczos), whose largest eigenvalue errs to the small side.

    Args:
        target: Of B sentences.
        z: Codes, shape [S, B, D] with D at least 1; a row that is not finite gives NaN.
        rounds: Products where the Hessian is not taken whole.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> ends = precision_ends(target, target.sample_prior(6))
        >>> ends.largest.shape, bool((ends.smallest <= ends.largest).all())
        (torch.Size([6, 1]), True)
    """
    chunk = max(1, HESSIANS // max(1, target.batch_size))
    parts = [_ends(target, part, rounds) for part in torch.split(z.detach(), chunk)]
    return Extremes(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _ends(target: Target, z: Tensor, rounds: int) -> Extremes:
    usable = z.isfinite().all(-1)
    there = torch.where(usable[..., None], z, 0.0)
    whole = WORTH_WHOLE if isinstance(target.conditioned, CurvedLikelihood) else rounds
    if target.dim <= whole:
        hessian = target.hessian(there).double()
        usable = usable & hessian.isfinite().all(-1).all(-1)
        values = torch.linalg.eigvalsh(torch.where(usable[..., None, None], -hessian, 0.0)).to(z.dtype)
        found = Extremes(values[..., 0], values[..., -1], torch.zeros_like(values[..., 0]))
    else:
        found = extreme_eigenvalues(
            lambda vector: -target.hessian_vector_product(there, vector), torch.randn_like(there), rounds
        )
    return Extremes(*(torch.where(usable, value, torch.nan) for value in found))


def stability_limit(largest: float) -> float:
    r"""The step at which a run stops contracting in a direction of precision :math:`\lambda`: :math:`2/\lambda`.

    A step of ``ula`` and of ``lm`` multiplies the distance from the mode by :math:`1 - s\lambda`. In ``baoab`` with
    :math:`h = \sqrt{2s}` the limit of the leapfrog, :math:`h\sqrt\lambda < 2`, is the same, whatever the friction.

    Example:
        >>> stability_limit(10.0)
        0.2
    """
    return 2 / largest if largest > 0 else math.inf
