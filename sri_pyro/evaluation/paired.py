r"""Paired: how much better one system is than another on the same sentences, and how sure that is.

Axes: R trainings (seeds) of a system, n sentences, the same for both systems and in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.evaluation.metrics import CONFIDENCE
from sri_pyro.numerics.student import two_sided_p, two_sided_quantile


@dataclass(frozen=True)
class Difference:
    """A mean difference of log p(x), nats a sentence; above 0 the first system is better.

    Attributes:
        value: Mean over sentences and seeds.
        se: Standard error: of the sentences, and of the seeds where ``counts_seeds``.
        lower: Lower end of the 95 % interval, by Student's t.
        upper: Upper end.
        p_value: Two-sided, of no difference; not corrected for the number of comparisons.
        freedom: Degrees of freedom of t.
        se_sentences: The part of the sentences, for these trained models.
        se_seeds: The part of the seeds; NaN if either system has one alone.
        counts_seeds: Whether the interval is about the recipes, and not about these trained models alone.
        num_sentences: n.
    """

    value: float
    se: float
    lower: float
    upper: float
    p_value: float
    freedom: float
    se_sentences: float
    se_seeds: float
    counts_seeds: bool
    num_sentences: int


def paired_difference(mine: Tensor, theirs: Tensor) -> Difference:
    r"""Compare two systems by their log p(x) of the same sentences.

    With :math:`D_i` the difference of the means over seeds on sentence i, and :math:`m_r` the mean over sentences of
    training r,

    .. math:: \mathrm{se}^2 = \frac{s_D^2}{n} + \frac{s_m^2}{R} + \frac{s_{m'}^2}{R'},

    the last two terms where both systems have at least two seeds. Degrees of freedom are n - 1, R - 1 and R' - 1,
    put together as Satterthwaite does. Without seeds to tell, the interval is that of the paired t test, and speaks of
    these trained models: another training of the same recipe may differ by more.

    Where a training does better on some sentences than another of the same recipe, that part of the spread is in both
    the first term and the others, so that the interval is rather too wide: it holds the truth at least as often as it
    says. What the importance draws add is in the spread over sentences.

    Args:
        mine: log p(x), nats, shape [R, n].
        theirs: Of the other system, shape [R', n].

    Returns:
        NaN throughout if a sentence has no finite log p(x): leaving it out would favour the one that failed.

    Raises:
        ValueError: If they have other numbers of sentences, or fewer than two.

    References:
        Satterthwaite (1946); Welch (1947).

    Example:
        >>> found = paired_difference(torch.tensor([[-3.0, -5.0, -4.0]]), torch.tensor([[-4.0, -5.0, -6.0]]))
        >>> found.value, round(found.lower, 3), round(found.upper, 3)
        (1.0, -1.484, 3.484)
    """
    mine, theirs = mine.double(), theirs.double()
    n = mine.shape[1]
    if theirs.shape[1] != n or n < 2:
        raise ValueError(
            "a paired difference needs the same two or more sentences of both systems; got "
            f"{n} and {theirs.shape[1]}."
        )
    by_sentence = mine.mean(0) - theirs.mean(0)
    if not bool(by_sentence.isfinite().all()):
        nan = math.nan
        return Difference(nan, nan, nan, nan, nan, nan, nan, nan, False, n)
    parts = [(float(by_sentence.var()) / n, n - 1)]
    seeds = [
        (float(each.mean(1).var()) / len(each), len(each) - 1) for each in (mine, theirs) if len(each) > 1
    ]
    counts_seeds = len(seeds) == 2
    parts += seeds if counts_seeds else []
    variance = sum(part for part, _ in parts)
    # No spread at all is no evidence of how much there is.
    freedom = variance**2 / sum(part**2 / f for part, f in parts) if variance else float(n - 1)
    value, se = float(by_sentence.mean()), math.sqrt(variance)
    half = two_sided_quantile(CONFIDENCE, freedom) * se
    t = value / se if se else math.copysign(math.inf, value) if value else 0.0
    return Difference(
        value=value,
        se=se,
        lower=value - half,
        upper=value + half,
        p_value=two_sided_p(t, freedom),
        freedom=freedom,
        se_sentences=math.sqrt(parts[0][0]),
        se_seeds=math.sqrt(sum(part for part, _ in seeds)) if counts_seeds else math.nan,
        counts_seeds=counts_seeds,
        num_sentences=n,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    r"""P-values corrected for their number: below 0.05, a difference is there even if it was looked for m times.

    With the p-values in rising order, :math:`\tilde p_{(j)} = \max_{k \le j} \min(1, (m - k + 1)\, p_{(k)})`. All
    that are then below :math:`\alpha` may be called differences, with a probability of at most :math:`\alpha` that
    one or more of them is none, however they depend on one another.

    Args:
        p_values: In any order; NaN, of a comparison that could not be made, counts as one and stays NaN.

    References:
        Holm (1979).

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected, most = [math.nan] * len(p_values), 0.0
    for rank, (p, i) in enumerate(known):
        most = max(most, min(1.0, (len(p_values) - rank) * p))
        corrected[i] = most
    return corrected


@dataclass(frozen=True)
class Spread:
    """A number over trainings that differ in the seed alone.

    Attributes:
        mean: Over seeds.
        sd: Standard deviation of one training (n - 1); NaN of a single one.
        low: The smallest.
        high: The largest.
        num_seeds: How many.
    """

    mean: float
    sd: float
    low: float
    high: float
    num_seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """From one number of each seed; NaN among them makes all NaN.

        Example:
            >>> Spread.of([1.0, 2.0, 6.0])
            Spread(mean=3.0, sd=2.6457513110645907, low=1.0, high=6.0, num_seeds=3)
        """
        found = torch.tensor(values, dtype=torch.float64)
        if not len(values) or bool(found.isnan().any()):
            return cls(math.nan, math.nan, math.nan, math.nan, len(values))
        sd = float(found.std()) if len(values) > 1 else math.nan
        return cls(float(found.mean()), sd, float(found.min()), float(found.max()), len(values))
