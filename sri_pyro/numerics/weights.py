"""Statistics of importance weights: evidence, its error, sample size, Pareto smoothing."""

# Axes: S draws, B sentences. Log weights in nats.

from __future__ import annotations

import math

import torch
from torch import Tensor

from sri_pyro.numerics.pareto import SHORTEST_TAIL, fit_tail, tail_length


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""Estimate the log evidence by the log of the average weight.

    .. math:: \log \hat p(x) = \log \frac1S \sum_{s=1}^S w_s, \qquad w_s = p(x, z_s) / q(z_s)

    :math:`\hat p` is unbiased, so by Jensen's inequality :math:`E \log \hat p(x) \le \log p(x)`;
    the bias is about :math:`-CV^2 / 2S` once that is small. Differentiable.

    Args:
        log_w: Log weights in nats, shape [S, B].

    Returns:
        Nats, shape [B]; -inf where every weight is zero.

    Example:
        >>> log_mean_exp(torch.tensor([[0.0], [math.log(3.0)]])).exp()
        tensor([2.])
    """
    return torch.logsumexp(log_w, dim=0) - math.log(log_w.shape[0])


def normalised(log_w: Tensor) -> Tensor:
    r"""Turn log weights into self-normalised weights :math:`w_s / \sum_r w_r`.

    Args:
        log_w: Log weights in nats, shape [S, B].

    Returns:
        Weights that sum to one over the draws, shape [S, B]; NaN where every weight is zero.

    Example:
        >>> normalised(torch.tensor([[0.0], [math.log(3.0)]])).squeeze()
        tensor([0.2500, 0.7500])
    """
    return torch.softmax(log_w, dim=0)


def effective_sample_size(log_w: Tensor) -> Tensor:
    r"""How many equally weighted draws the weights are worth.

    .. math:: ESS = \Big(\sum_s w_s\Big)^2 \Big/ \sum_s w_s^2

    Between 1 (one draw carries all) and S. It is blind to what the proposal missed: read it next to
    k-hat, never instead of it.

    Args:
        log_w: Log weights in nats, shape [S, B].

    Returns:
        Shape [B]; 0 where every weight is zero.

    References:
        | Sequential Imputations and Bayesian Missing Data Problems (Kong, Liu and Wong, 1994)

    Example:
        >>> effective_sample_size(torch.tensor([[0.0, 0.0], [0.0, -math.inf]]))
        tensor([2., 1.])
    """
    log_ess = 2 * torch.logsumexp(log_w, dim=0) - torch.logsumexp(2 * log_w, dim=0)
    all_zero = (log_w == -math.inf).all(0)
    return log_ess.exp().masked_fill(all_zero, 0.0)


def relative_variance(log_w: Tensor) -> Tensor:
    r"""Square of the weights' coefficient of variation, :math:`CV^2 = Var(w) / E(w)^2`.

    The sample variance has S - 1 in its denominator. Where k-hat is above 0.5 the true variance may
    be infinite; the number is then only that of this sample.

    Args:
        log_w: Log weights in nats, shape [S, B].

    Returns:
        Shape [B]; NaN for a single draw and where every weight is zero.

    Example:
        >>> relative_variance(torch.tensor([[0.0], [math.log(3.0)]]))
        tensor([0.5000])
    """
    deviation = torch.expm1(log_w - log_mean_exp(log_w))  # w / mean - 1, exact near 0
    num_samples = log_w.shape[0]
    if num_samples == 1:
        return torch.full_like(deviation[0], math.nan)
    return deviation.square().sum(0) / (num_samples - 1)


def log_mean_exp_se(log_w: Tensor) -> Tensor:
    r"""Monte Carlo standard error of :func:`log_mean_exp`, by the delta method.

    .. math:: se(\log \hat p) \approx \frac{sd(w)}{\sqrt S \, \bar w} = \sqrt{CV^2 / S}

    Too small where k-hat is high: the draws that would make it large have not been seen.

    Args:
        log_w: Log weights in nats, shape [S, B].

    Returns:
        Nats, shape [B]; NaN for a single draw and where every weight is zero.

    Example:
        >>> log_mean_exp_se(torch.tensor([[0.0], [math.log(3.0)]]))
        tensor([0.5000])
    """
    return (relative_variance(log_w) / log_w.shape[0]).sqrt()


def truncated(log_w: Tensor) -> Tensor:
    r"""Cap every weight at :math:`\sqrt S \, \bar w`.

    Bounds the influence of one lucky draw when a proposal is refitted to weighted draws. Biased
    downwards: not for evidence.

    Args:
        log_w: Log weights in nats, shape [S, B].

    Returns:
        Log weights in nats, shape [S, B].

    References:
        | Truncated Importance Sampling (Ionides, 2008)

    Example:
        >>> truncated(torch.tensor([0.0, 0.0, 0.0, math.log(17.0)])[:, None]).exp().squeeze()
        tensor([ 1.,  1.,  1., 10.])
    """
    return torch.minimum(log_w, log_mean_exp(log_w) + 0.5 * math.log(log_w.shape[0]))


def khat_threshold(num_samples: int) -> float:
    r"""Give the largest k-hat at which the average of S weights can still be trusted.

    .. math:: \min(1 - 1 / \log_{10} S,\; 0.7)

    Args:
        num_samples: How many draws S there are, at least 2.

    Raises:
        ValueError: If there are fewer than two draws.

    References:
        | Pareto Smoothed Importance Sampling (Vehtari et al., JMLR 2024), section 3.2.4

    Example:
        >>> [round(khat_threshold(S), 2) for S in (100, 512, 4096)]
        [0.5, 0.63, 0.7]
    """
    if num_samples < 2:
        raise ValueError(
            f"a k-hat threshold needs at least 2 draws; got {num_samples}. Draw more per sentence."
        )
    return min(1 - 1 / math.log10(num_samples), 0.7)


def pareto_smooth(log_w: Tensor) -> tuple[Tensor, Tensor]:
    r"""Smooth the largest weights of every sentence and measure how heavy their tail is.

    The M largest weights, :math:`M = \lceil \min(S/5, 3\sqrt S) \rceil`, are replaced by the
    quantiles of the generalised Pareto law fitted to their excess over the next one, and capped at
    the largest raw weight. The fitted shape :math:`\hat k` says how many moments the weights have
    (:math:`E w^m < \infty` for :math:`m < 1/k`); compare it with :func:`khat_threshold`.

    Smoothed weights have less variance but are biased: their average is a check on the evidence,
    not a bound of it. Draws are taken to be independent. Computed in float64.

    What :math:`\hat k` is when there is nothing to fit:

    * NaN if S is below 21: the tail then has fewer than five draws. Weights stay as they are.
    * -inf if the tail is flat: all of its weights equal the cutoff within rounding, as with an
      exact proposal, whose estimate has no variance at all.
    * +inf if ties leave fewer than five draws above the cutoff, if every weight is zero, or if the
      fit overflows: the sum then rests on a handful of draws.

    Args:
        log_w: Log weights in nats, shape [S, B]. -inf is a weight of zero.

    Returns:
        Smoothed log weights in nats on the scale of the input, shape [S, B], and k-hat, shape [B];
        both float64 and without a graph.

    Raises:
        ValueError: If ``log_w`` is not a floating-point [S, B], or a log weight is NaN or +inf.

    References:
        | Pareto Smoothed Importance Sampling (Vehtari et al., JMLR 2024)
        | A New and Efficient Estimation Method for the Generalized Pareto Distribution
          (Zhang and Stephens, Technometrics 2009)

    Example:
        >>> exponential = -torch.linspace(0.9995, 0.0005, 1000).log()[:, None]  # its quantiles
        >>> _, khat = pareto_smooth(exponential * torch.tensor([0.1, 0.9]))
        >>> [round(k, 2) for k in khat.tolist()]
        [0.15, 0.84]
    """
    _check(log_w)
    x_SB = log_w.detach().double()
    num_samples, num_sentences = x_SB.shape
    num_tail = tail_length(num_samples)
    if num_tail < SHORTEST_TAIL:
        return x_SB, x_SB.new_full((num_sentences,), math.nan)
    top, where = x_SB.topk(num_tail + 1, dim=0)
    fit = fit_tail(top)
    smoothed_SB = x_SB.scatter(0, where[:-1].flip(0), fit.smoothed())
    return smoothed_SB, fit.khat(torch.finfo(log_w.dtype).eps)


def _check(log_w: Tensor) -> None:
    if log_w.ndim != 2 or not log_w.is_floating_point():
        raise ValueError(
            "log weights must be floating point of shape [draws, sentences]; "
            f"got {log_w.dtype} of shape {tuple(log_w.shape)}."
        )
    bad = (log_w.isnan() | (log_w == math.inf)).any(0)
    if bad.any():
        raise ValueError(
            f"log weights must be finite or -inf; {int(bad.sum())} of {len(bad)} sentences have "
            f"NaN or +inf, the first is sentence {int(bad.nonzero()[0])}. Check the "
            "log-probabilities that they are made of."
        )
