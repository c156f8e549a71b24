r"""The exact law of a short run on a Gaussian posterior, and its distance to that posterior.

There every step is affine, so that :math:`z_K - m = \rho\,(z_0 - m) + \sum_j w_j \epsilon_j` in each mode of the
posterior, of mean m and precision :math:`\lambda`. The coefficients are found by feeding unit impulses, one chain for
each source of randomness, through the library's own integrators: what is judged is the code that is timed.

Axes: D modes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sri_pyro.numerics.langevin import Integrator, run_langevin


class Law(NamedTuple):
    r"""The law of :math:`z_K` started from N(0, I): mean :math:`(1 - \rho)\,m` and a variance, in every mode.

    Attributes:
        response: :math:`\rho`, what is left of the start, shape [D].
        variance: Shape [D].
    """

    response: Tensor
    variance: Tensor


def law_of_run(integrator: Integrator, step_sizes: Sequence[float], precision: Tensor) -> Law:
    """The law of a run on modes of the given precision, shape [D].

    Example:
        >>> from sri_pyro.numerics.langevin import UnadjustedLangevin
        >>> law = law_of_run(UnadjustedLangevin(), [0.1], torch.tensor([2.0], dtype=torch.float64))
        >>> [round(float(part), 6) for part in law]  # 1 - 0.1 * 2, and its square plus 2 * 0.1
        [0.8, 0.84]
    """
    sources = len(step_sizes) + 2  # a noise before the first step, one in each, and the start
    start = precision.new_zeros(sources, 1, len(precision))
    start[-1] = 1

    def impulse(index: int, like: Tensor) -> Tensor:
        noise = torch.zeros_like(like)
        noise[index] = 1
        return noise

    def pull(z: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * (precision * z.square()).sum(-1), -precision * z

    end = run_langevin(pull, start, step_sizes, integrator, noise=impulse)[:, 0]
    return Law(end[-1], end.square().sum(0))


def divergence(law: Law, precision: Tensor) -> float:
    r""":math:`\mathrm{KL}(q_K \| p(z \mid x))` in nats, the mean over x from the model.

    .. math:: \tfrac12 \sum_d \big[\lambda_d c_d - 1 - \log \lambda_d c_d + \rho_d^2 (\lambda_d - 1)\big]

    because the prior is N(0, I), so that :math:`\mathbb{E}\,\lambda m^2 = \lambda - 1` over x.
    """
    ratio = precision * law.variance
    return 0.5 * float((ratio - 1 - ratio.log() + law.response.square() * (precision - 1)).sum())
