r"""Metrics: what is claimed about a model and its inference, one definition each, with standard errors.

Inputs are per-sentence numbers, so that everything can be recomputed from the table of sentences.
Axes: n sentences, M chains, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.numerics.gaussians import Gaussian
from sri_pyro.types import Estimate

GAUSSIAN_ENTROPY, EXACT_DENSITY = "gaussian_entropy_lower_estimate", "monte_carlo_log_q"
"""Methods of a KL of q: by the Gaussian of the draws' moments, biased low; by draws of known density, unbiased."""
ROUNDING = 1e-3
"""Nats by which two sums of a sentence's log-probabilities in single precision may differ."""
CONFIDENCE = 0.95
Z_95 = 1.959963984540054


def mean_estimate(values: Tensor, method: str = "") -> Estimate:
    r"""Mean over sentences with its sampling standard error :math:`s/\sqrt n`; NaN entries are left out.

    NaN says that there is no number. An infinite entry is one, and makes the mean infinite and its error NaN: a
    model that calls a sentence impossible must not gain by it.

    Example:
        >>> mean_estimate(torch.tensor([1.0, 2.0, 3.0])).value
        2.0
    """
    values = values[~values.isnan()].double()
    if not len(values):
        return Estimate(math.nan, math.nan, 0, method)
    se = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), se, len(values), method)


@dataclass(frozen=True)
class Perplexity:
    """Perplexity with its two sources of error.

    Attributes:
        estimate: exp(total NLL / total tokens).
        lower: Lower end of the 95 % interval.
        upper: Upper end.
        se: Standard error of the estimate, both sources together.
        log_se_sampling: Standard error of its logarithm over the choice of sentences.
        log_se_monte_carlo: Standard error of its logarithm over the importance draws.
        num_tokens: Predicted tokens; the end of a sentence counts, its beginning does not.
        num_sentences: Sentences.
    """

    estimate: float
    lower: float
    upper: float
    se: float
    log_se_sampling: float
    log_se_monte_carlo: float
    num_tokens: int
    num_sentences: int


def perplexity(log_px: Tensor, se: Tensor, lengths: Tensor) -> Perplexity:
    r"""Corpus perplexity :math:`\exp(-\sum_i \log\hat p(x_i) / \sum_i T_i)` with an interval.

    The sampling error is that of a ratio estimator,
    :math:`\sqrt{\tfrac{n}{n-1} \sum_i (\mathrm{nll}_i - R\,T_i)^2} / \sum_i T_i` with R the log-perplexity;
    the Monte Carlo error adds :math:`\sum_i \mathrm{se}_i^2 / (\sum_i T_i)^2`. The interval is normal in the logarithm.

    Args:
        log_px: Estimates of log p(x), nats, shape [n]; NaN (refused) makes the perplexity NaN.
        se: Their Monte Carlo standard errors, shape [n].
        lengths: Predicted tokens, the end included, shape [n].

    Example:
        >>> uniform = -torch.tensor([3.0, 5.0]) * math.log(10)
        >>> round(perplexity(uniform, torch.zeros(2), torch.tensor([3, 5])).estimate, 4)
        10.0
    """
    lengths = lengths.double()
    nll = -log_px.double()
    n, tokens = len(nll), float(lengths.sum())
    rate = float(nll.sum()) / tokens
    residual = (nll - rate * lengths).square().sum()
    sampling = math.sqrt(n / (n - 1) * float(residual)) / tokens if n > 1 else math.nan
    monte_carlo = float(se.double().square().sum().sqrt()) / tokens
    total = math.hypot(sampling, monte_carlo)
    return Perplexity(
        estimate=math.exp(rate),
        lower=math.exp(rate - Z_95 * total),
        upper=math.exp(rate + Z_95 * total),
        se=math.exp(rate) * total,
        log_se_sampling=sampling,
        log_se_monte_carlo=monte_carlo,
        num_tokens=int(tokens),
        num_sentences=n,
    )


def mutual_information(mean: Tensor, covariance: Tensor, held_out: Tensor) -> Estimate:
    r"""A lower bound of the mutual information between sentence and code under q, capped at log n.

    .. math:: I_q(x; z) \ge \frac1n\sum_i \mathbb{E}_{z \sim q(\cdot \mid x_i)} \log
              \frac{r_i(z)}{\tfrac1n\sum_j r_j(z)}

    with Gaussian critics :math:`r_i = \mathcal{N}(\bar z_i, \bar\Sigma)` fitted on other chains than those
    that are scored. It is a bound whatever the critics are, and cannot exceed log n: compare systems at the same n.

    Args:
        mean: Means of the chains the critics are fitted on, shape [n, D].
        covariance: Their covariance pooled over sentences, shape [D, D].
        held_out: Other draws of the same posteriors, shape [m, n, D].

    References:
        The bound (InfoNCE): van den Oord, Li, Vinyals (2018); Poole et al. (2019).
    """
    n = len(mean)
    if mean.shape[1] == 0:
        return Estimate(0.0, 0.0, n, "infonce_gaussian")
    critic = Gaussian.from_moments(mean.double()[:1], covariance.double()[None])
    whiten = torch.linalg.inv(critic.factor[0])
    centres = mean.double() @ whiten.T
    gains = []
    for draws in held_out.double():
        log_ratio = -0.5 * torch.cdist(draws @ whiten.T, centres).square()
        gains.append(log_ratio.diagonal() - log_ratio.logsumexp(1) + math.log(n))
    return mean_estimate(torch.stack(gains).mean(0), "infonce_gaussian")


@dataclass(frozen=True)
class Floor:
    """How far a model stays above the truth, where the truth is known.

    Attributes:
        perplexity: Of the exact law of the sentences; no model can be better in expectation.
        excess: Mean of log p(x) - log p_model(x), paired over sentences: an estimate of KL(truth || model),
            nats per sentence.
    """

    perplexity: float
    excess: Estimate


def floor(exact_log_px: Tensor, log_px: Tensor, lengths: Tensor) -> Floor:
    """Compare a model with the exact law of a grammar; every argument has shape [n], nats.

    Example:
        >>> exact, model = torch.tensor([-2.0, -3.0]), torch.tensor([-2.5, -3.5])
        >>> floor(exact, model, torch.tensor([2, 3])).excess.value
        0.5
    """
    exact_log_px = exact_log_px.double()
    return Floor(
        perplexity=math.exp(-float(exact_log_px.sum()) / float(lengths.sum())),
        excess=mean_estimate(exact_log_px - log_px.double()),
    )


@dataclass(frozen=True)
class JensenCheck:
    """Whether reconstruction plus KL is at least the negative log-likelihood, as it must be.

    Attributes:
        gap: Recon + KL(q || prior) - NLL, paired over sentences; KL(q || posterior) if all is right.
        binding: Whether the KL is free of bias (a mean over draws of known density), so that a negative gap proves
            an error. A KL from a Gaussian entropy is a lower estimate and may fail the check innocently.
        violated: Whether a binding gap lies below zero by more than 3 standard errors and what is innocent: the
            NLL is over-stated by about se^2 / 2 (Jensen), and sums of single precision by ``ROUNDING``.
    """

    gap: Estimate
    binding: bool
    violated: bool


def jensen_check(
    nll: Tensor, reconstruction: Tensor, kl: Tensor, se: Tensor, *, binding: bool
) -> JensenCheck:
    """Compare per-sentence numbers, each of shape [n], in nats.

    Args:
        nll: -log p(x).
        reconstruction: Mean of -log p(x | z) over draws from q.
        kl: KL(q || prior).
        se: Monte Carlo standard error of ``nll``; what is not finite is taken for 0.
        binding: Whether the KL is free of bias.

    Example:
        >>> nll, recon, kl = torch.tensor([40.0, 41.0]), torch.tensor([30.0, 30.5]), torch.tensor([6.0, 6.5])
        >>> jensen_check(nll, recon, kl, torch.tensor([0.1, 0.1]), binding=True).violated
        True
    """
    gap = mean_estimate(reconstruction.double() + kl.double() - nll.double())
    innocent = ROUNDING + float(torch.where(se.isfinite(), se.double().square() / 2, 0.0).mean())
    return JensenCheck(gap, binding, binding and gap.value < -3 * gap.se - innocent)
