r"""Guarantees: what can be said of log p(x) for every number of draws, whatever the tails of the weights.

A standard error and k-hat speak of the weights that were seen. What follows from the law of the weights alone, that
they are not negative and average to p(x), is weak for one sentence and strong for a corpus: estimates of different
sentences are independent, so that their *product* averages to the corpus's likelihood.

Axes: n sentences. Nats throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pandas as pd
import torch
from torch import Tensor

from sri_pyro.evaluation.metrics import CONFIDENCE
from sri_pyro.numerics.bounded_means import Interval, bennett


@runtime_checkable
class LawOfWeights(Protocol):
    """An estimator that knows the law of its weights."""

    @property
    def looks(self) -> int:
        """Rounds of draws among which the weights themselves choose: 1 if p(x) is what they average to, exactly."""
        ...

    def log_bound(self, rounds: Tensor) -> Tensor:
        """Log of the largest weight there can be of a text, whose p(x | z) is at most 1; by round, shape [n]."""
        ...


@dataclass(frozen=True)
class Guarantees:
    """What holds at a stated confidence without any approximation; of these sentences, not of others.

    Attributes:
        confidence: Of each statement.
        perplexity: The perplexity is at most that; NaN if the weights chose their round.
        bounded_sentences: Sentences that have a Bennett interval: of others the largest possible weight outweighs all
            that was seen.
        bounded_width: Mean width of those intervals, nats; NaN if there is none.
        simulated_lower: The perplexity of sentences that the model wrote is at least that; NaN if it wrote none.
        simulated_upper: And at most that, both together with the confidence.
    """

    confidence: float
    perplexity: float
    bounded_sentences: int
    bounded_width: float
    simulated_lower: float
    simulated_upper: float


def guaranteed_perplexity(
    log_px: Tensor, lengths: Tensor, risk: float = 1 - CONFIDENCE, *, lower: bool = False
) -> float:
    r"""An end of the perplexity that holds with the confidence, for any weights at all.

    .. math:: P\Big(\prod_i \hat p(x_i) \ge \tfrac1\delta \prod_i p(x_i)\Big) \le \delta
              \quad\Rightarrow\quad
              \mathrm{PPL} \le \exp \frac{\log(1/\delta) - \sum_i \log \hat p(x_i)}{\sum_i T_i}

    by Markov's inequality, for estimates that are independent, not negative, and average to :math:`p(x_i)`. Three nats
    for the corpus, whatever its size: heavy tails and missed modes make the bound loose and never wrong. An upper bound
    of log p(x) by bidirectional Monte Carlo is one over an estimate that averages to :math:`1/p(x_i)`, and gives the
    lower end in the same way.

    Args:
        log_px: Estimates of log p(x), or for the lower end upper bounds of it, shape [n]; NaN makes it NaN.
        lengths: Predicted tokens, shape [n].
        risk: :math:`\delta`.
        lower: Whether the lower end is asked for.

    Example:
        >>> thousand = torch.full((1000,), -10 * math.log(40.0))
        >>> round(guaranteed_perplexity(thousand, torch.full((1000,), 10)), 3)
        40.012
    """
    room = math.log(risk) if lower else -math.log(risk)
    rate = (room - float(log_px.double().sum())) / float(lengths.sum())
    return math.inf if rate > 700 else math.exp(rate)


def bounded(estimator: LawOfWeights, log_px: Tensor, draws: Tensor, rounds: Tensor) -> Interval:
    """Bennett's interval of every sentence; a share of the risk for each round that might have been chosen."""
    confidence = 1 - (1 - CONFIDENCE) / estimator.looks
    return bennett(log_px, draws, estimator.log_bound(rounds).to(log_px), confidence)


def guarantees(
    estimator: LawOfWeights,
    log_px: Tensor,
    lengths: Tensor,
    intervals: Interval,
    simulated: pd.DataFrame | None = None,
) -> Guarantees:
    """What holds of the corpus, and of how many sentences something holds that is worth saying.

    Args:
        estimator: Whose weights they are.
        log_px: Estimates of log p(x), shape [n].
        lengths: Predicted tokens, shape [n].
        intervals: Of every sentence.
        simulated: Bounds of sentences that the model wrote: see ``between_bounds``.
    """
    widths = (intervals.upper - intervals.lower)[~intervals.vacuous]
    unbiased, ends = estimator.looks == 1, (math.nan, math.nan)
    if simulated is not None and unbiased:
        below, above, tokens = (
            torch.tensor(simulated[name].to_numpy()) for name in ("log_px", "upper", "num_tokens")
        )
        half = (1 - CONFIDENCE) / 2
        ends = (
            guaranteed_perplexity(above, tokens, half, lower=True),
            guaranteed_perplexity(below, tokens, half),
        )
    return Guarantees(
        confidence=CONFIDENCE,
        perplexity=guaranteed_perplexity(log_px, lengths) if unbiased else math.nan,
        bounded_sentences=len(widths),
        bounded_width=float(widths.mean()) if len(widths) else math.nan,
        simulated_lower=ends[0],
        simulated_upper=ends[1],
    )
