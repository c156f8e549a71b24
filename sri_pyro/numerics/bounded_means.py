r"""Intervals of log p(x) that hold for every number of draws, for weights that are known to be bounded.

Weights of a defensive proposal are bounded, :math:`0 \le w \le p(x \mid z)/\alpha`, and a probability of discrete text
is at most 1, so that :math:`b = 1/\alpha` bounds them before anything is drawn. That is the tightest bound there is
without knowledge of the decoder: the largest likelihood that was *seen* bounds no draw that was not, and the largest
there is, :math:`\max_z p(x \mid z)`, cannot be had. A caller who can prove a smaller one may hand it in.

All of it is about how b compares with p(x): of S draws, none may have met a region that contributes
:math:`b \log(2/\delta)/S`, and the interval must leave room for it. Where that exceeds the estimate, the interval is
*vacuous*, and NaN here: of sentences of more than a few words it always is, at any number of draws that one can afford.
What remains is :func:`markov_lower`, which needs no bound at all.

Axes: B sentences. Nats throughout.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

HALVINGS = 80
"""Of an interval in which an end is sought."""


class Interval(NamedTuple):
    """An interval of log p(x) of each sentence.

    Attributes:
        lower: Lower end, nats, shape [B]; NaN where it is vacuous.
        upper: Upper end; the same.
        vacuous: Whether the bound on the weights outweighs all that was seen, shape [B].
    """

    lower: Tensor
    upper: Tensor
    vacuous: Tensor


def markov_lower(log_mean: Tensor, confidence: float = 0.95) -> Tensor:
    r"""A lower bound of log p(x) for any weights at all, :math:`\log \hat p + \log \delta`.

    :math:`P(\hat p \ge p/\delta) \le \delta` for a mean of weights that are not negative and average to p, by Markov's
    inequality: heavy tails and missed modes included. At 95 % it costs 3 nats a sentence.

    Args:
        log_mean: :math:`\log \hat p(x)`, nats, any shape.
        confidence: :math:`1 - \delta`.

    Example:
        >>> round(markov_lower(torch.tensor(-60.0)).item(), 3)
        -62.996
    """
    return log_mean + math.log(1 - _inside(confidence))


def empirical_bernstein(
    log_mean: Tensor, relative_variance: Tensor, count: Tensor, log_bound: Tensor, confidence: float = 0.95
) -> Interval:
    r"""The interval of Maurer and Pontil, by the variance that the weights showed.

    .. math:: |\hat p - p| \le \sqrt{\frac{2 V \log(4/\delta)}{S}} + \frac{7\, b \log(4/\delta)}{3 (S - 1)}

    with V the sample variance; with probability :math:`1 - \delta`, for independent weights in [0, b].

    Args:
        log_mean: Log of the mean weight, nats, shape [B].
        relative_variance: :math:`V / \hat p^2`, shape [B].
        count: S, shape [B].
        log_bound: log b, known before anything was drawn: :math:`-\log \alpha` for discrete text, shape [B].
        confidence: :math:`1 - \delta`.

    References:
        Maurer and Pontil (2009), Empirical Bernstein bounds and sample variance penalization, Theorem 4.

    Example:
        >>> halves = empirical_bernstein(*(torch.tensor([v]) for v in (math.log(0.5), 1.0, 10_000, 0.0)))
        >>> [round(end.exp().item(), 3) for end in halves[:2]]
        [0.484, 0.516]
        >>> text = empirical_bernstein(*(torch.tensor([v]) for v in (-60.0, 8.0, 1e6, math.log(20))))
        >>> text.vacuous.item(), text.lower.isnan().item()
        (True, True)
    """
    count = count.double()
    odds = math.log(4 / (1 - _inside(confidence)))
    spread = (2 * relative_variance.double() * odds / count).sqrt()
    room = 7 * odds / (3 * (count - 1)) * (log_bound.double() - log_mean.double()).exp()
    half = spread + room
    return _interval(log_mean, torch.log1p(-half.clamp(max=1)), torch.log1p(half), ~(half < 1))


def bennett(log_mean: Tensor, count: Tensor, log_bound: Tensor, confidence: float = 0.95) -> Interval:
    r"""Bennett's interval with the largest variance that weights in [0, b] of mean p can have, which is below b p.

    The ends are where

    .. math:: \frac{S}{b} \Big(\hat p \log\frac{\hat p}{p} - \hat p + p\Big) = \log\frac2\delta

    It needs no sample variance, and is the narrower one where few draws carry the weight; the wider one where b is much
    larger than the weights are.

    Args:
        log_mean: Log of the mean weight, nats, shape [B].
        count: S, shape [B].
        log_bound: log b, known before anything was drawn, shape [B].
        confidence: :math:`1 - \delta`.

    References:
        Bennett (1962); Boucheron, Lugosi, Massart (2013), Concentration inequalities, section 2.7.

    Example:
        >>> halves = bennett(*(torch.tensor([v]) for v in (math.log(0.5), 10_000, 0.0)))
        >>> [round(end.exp().item(), 3) for end in halves[:2]]
        [0.481, 0.519]
    """
    odds = math.log(2 / (1 - _inside(confidence)))
    room = odds / count.double() * (log_bound.double() - log_mean.double()).exp()

    def end(far: float) -> Tensor:
        """The log of p over its estimate at which x - 1 - log x has grown to the room, on one side."""
        near, distant = torch.zeros_like(room), torch.full_like(room, far)
        for _ in range(HALVINGS):
            middle = (near + distant) / 2
            inside = torch.expm1(middle) - middle < room
            near, distant = torch.where(inside, middle, near), torch.where(inside, distant, middle)
        return distant

    return _interval(log_mean, end(-3.0), end(3.0), ~(room < 1))


def _interval(log_mean: Tensor, below: Tensor, above: Tensor, vacuous: Tensor) -> Interval:
    lower, upper = (torch.where(vacuous, math.nan, log_mean.double() + end) for end in (below, above))
    return Interval(lower, upper, vacuous)


def _inside(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1); got {confidence}.")
    return confidence
