r"""What the codes look like: spread of q against the posterior, aggregate against prior, runs against standstill.

Pure functions of draws. Axes: S importance draws, M short-run chains, n sentences, D dimensions, K steps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from sri_pyro.evaluation.aggregate import compare_radii
from sri_pyro.evaluation.chains import StepTrace
from sri_pyro.evaluation.evaluate import Evaluation
from sri_pyro.evaluation.metrics import mean_estimate
from sri_pyro.numerics.weights import normalised
from sri_pyro.types import Estimate


def posterior_variances(z: Tensor, log_weight: Tensor) -> Tensor:
    r"""Self-normalised variances of each sentence's posterior, shape [n, D].

    .. math:: \hat v = \frac{\sum_s w_s (z_s - \bar z)^2}{1 - \sum_s w_s^2}, \qquad
              \bar z = \sum_s w_s z_s, \quad \sum_s w_s = 1

    Args:
        z: Importance draws, shape [S, n, D].
        log_weight: Their log weights, shape [S, n].

    Example:
        >>> posterior_variances(torch.tensor([[[-1.0]], [[1.0]]]), torch.zeros(2, 1))
        tensor([[2.]], dtype=torch.float64)
    """
    weights, z = normalised(log_weight.double()), z.double()
    centred = z - torch.einsum("sn,snd->nd", weights, z)
    spread = torch.einsum("sn,snd->nd", weights, centred.square())
    return spread / (1 - weights.square().sum(0))[:, None]


def spread_ratio(q_variances: Tensor, variances: Tensor) -> Estimate:
    r"""How wide the short run is: total variance of q over that of the posterior.

    .. math:: R = \frac{\sum_i \operatorname{tr} \operatorname{Cov}_q(z \mid x_i)}
                       {\sum_i \operatorname{tr} \operatorname{Cov}_p(z \mid x_i)}

    Below 1 the short run is over-confident, above 1 it has not contracted. The error is that of a ratio
    estimator over sentences. A ratio of sums, for the mean of ratios is biased upwards by noise below the line.

    Args:
        q_variances: Of the short run's chains, shape [n, D].
        variances: Of the posterior, shape [n, D]; sentences with a value that is not finite are left out.

    Example:
        >>> spread_ratio(torch.full((3, 2), 0.5), torch.ones(3, 2)).value
        0.5
    """
    above, below = q_variances.double().sum(1), variances.double().sum(1)
    use = above.isfinite() & below.isfinite()
    above, below = above[use], below[use]
    n = len(above)
    if n == 0 or float(below.sum()) <= 0:
        return Estimate(math.nan, math.nan, n, "self_normalised_importance")
    ratio = float(above.sum() / below.sum())
    residual = float((above - ratio * below).square().sum())
    se = math.sqrt(n / (n - 1) * residual) / float(below.sum()) if n > 1 else math.nan
    return Estimate(ratio, se, n, "self_normalised_importance")


def eigenvalues(z: Tensor, log_weight: Tensor | None = None) -> NDArray[np.float64]:
    """Eigenvalues of the aggregate posterior's covariance, largest first, shape [D].

    Args:
        z: Draws, shape [M, n, D].
        log_weight: Log weights, shape [M, n]; None for equal ones.

    Example:
        >>> square = torch.tensor([[[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]])
        >>> eigenvalues(square).tolist()
        [2.0, 0.5]
    """
    equal = torch.zeros(z.shape[:-1], dtype=torch.float64)
    weights = normalised(equal if log_weight is None else log_weight.double()) / z.shape[1]
    centred = z.double() - torch.einsum("sn,snd->d", weights, z.double())
    covariance = torch.einsum("sn,snd,sne->de", weights, centred, centred)
    values: NDArray[np.float64] = torch.linalg.eigvalsh(covariance).flip(0).numpy()
    return values


def scatter_of_eigenvalues(num_sentences: int, dim: int) -> tuple[float, float]:
    r"""Where the eigenvalues of n independent draws from N(0, I) lie: :math:`(1 \mp \sqrt{D/n})^2`.

    References:
        Marchenko and Pastur (1967).

    Example:
        >>> scatter_of_eigenvalues(400, 4)
        (0.81, 1.2100000000000002)
    """
    width = math.sqrt(dim / num_sentences)
    return max(0.0, 1 - width) ** 2, (1 + width) ** 2


def late_change(by_step: NDArray[np.float64]) -> Estimate:
    """How much a quantity still fell over the last quarter of a run, averaged over sentences.

    Args:
        by_step: The quantity at steps 0 to K, shape [n, K + 1].

    Example:
        >>> late_change(np.array([[9.0, 4.0, 2.0, 1.5, 1.0], [8.0, 3.0, 2.0, 1.0, 1.0]])).value
        0.25
    """
    last = by_step.shape[1] - 1
    before = last - max(1, round(last / 4))
    return mean_estimate(torch.tensor(by_step[:, before] - by_step[:, last]))


@dataclass(frozen=True)
class Settling:
    """Whether the runs have come to rest, over the sentences that were traced.

    Attributes:
        num_steps: K.
        kl_first: KL to the posterior at the start.
        kl_last: The same at the end.
        kl_late_fall: How much it fell over the last quarter.
        energy_late_fall: How much the energy did.
    """

    num_steps: int
    kl_first: Estimate
    kl_last: Estimate
    kl_late_fall: Estimate
    energy_late_fall: Estimate

    @classmethod
    def of(cls, trace: StepTrace) -> Settling:
        """From a step-by-step trace."""
        return cls(
            trace.kl_posterior.shape[1] - 1,
            mean_estimate(torch.tensor(trace.kl_posterior[:, 0])),
            mean_estimate(torch.tensor(trace.kl_posterior[:, -1])),
            late_change(trace.kl_posterior),
            late_change(-trace.log_joint),
        )


def describe(
    evaluation: Evaluation, prior_z: Tensor | None = None, noise_scale: float | None = None
) -> dict[str, Any]:
    """The numbers about codes that verdicts need beyond an evaluation's own; nothing without codes.

    Whatever rests on weights is of sentences whose k-hat is below its threshold alone.

    Args:
        evaluation: Of a model.
        prior_z: Draws of the prior, shape [m, D]; None for N(0, I).
        noise_scale: The noise scale of the short run in evaluation, if it has one.

    Returns:
        ``posterior_spread_ratio``, ``aggregate``, ``short_run`` (None if nothing was traced) and
        ``noise_scale``; JSON-able.
    """
    chains, proposal = evaluation.chains, evaluation.proposal
    if not evaluation.units.of:
        return {}
    passed = passing(evaluation.table)
    z, log_weight = proposal.z.cpu(), proposal.log_weight.cpu()
    q_variances = chains.covariance.diagonal(dim1=-2, dim2=-1).cpu()[passed]
    ratio = spread_ratio(q_variances, posterior_variances(z, log_weight)[passed])
    return {
        "posterior_spread_ratio": asdict(ratio),
        "aggregate": asdict(compare_radii(chains.z.cpu(), z, log_weight, passed, prior_z).summary()),
        "short_run": None if evaluation.trace is None else asdict(Settling.of(evaluation.trace)),
        "noise_scale": noise_scale,
    }


def passing(table: pd.DataFrame) -> Tensor:
    """Which sentences' weights have a tail light enough, shape [n]."""
    return torch.from_numpy((table["khat"] < table["khat_threshold"]).to_numpy(copy=True))
