"""What is said of all sentences' importance weights together: their tails, their worth in draws, and folding steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sri_pyro.evaluation.intervals import median_interval, share_interval


@dataclass(frozen=True)
class Tails:
    """Pareto shapes of all sentences' weights.

    Attributes:
        threshold: The lowest of all sentences'.
        share_below: Share of sentences below their own threshold.
        share_below_lower: Lower end of its exact binomial interval (95 %), over the choice of sentences.
        share_below_upper: Upper end.
        max: The largest; infinite, and so null in JSON, where ``infinite`` is above 0. NaN if no sentence has one.
        infinite: Sentences with k-hat = +inf: nothing could be fitted to them, or to their weights' tail.
        median: NaN if it is not finite.
        median_lower: Lower end of its distribution-free interval (95 %), over the choice of sentences.
        median_upper: Upper end.
        failed_sentences: How many are at or above their threshold.
    """

    threshold: float
    share_below: float
    share_below_lower: float
    share_below_upper: float
    max: float
    infinite: int
    median: float
    median_lower: float
    median_upper: float
    failed_sentences: int

    @classmethod
    def of(cls, khat: Tensor, threshold: Tensor) -> Tails:
        """From every sentence's k-hat and its threshold, shape [n]."""
        # -inf, weights without variance, passes; NaN, no tail to fit, fails.
        below = int((khat < threshold).sum())
        known = khat[~khat.isnan()]
        largest = float(known.max()) if len(known) else math.nan
        share_lower, share_upper = share_interval(below, len(khat))
        lower, upper = median_interval(known)
        return cls(
            threshold=float(threshold.min()),
            share_below=below / len(khat),
            share_below_lower=share_lower,
            share_below_upper=share_upper,
            max=math.nan if largest == -math.inf else largest,
            infinite=int((khat == math.inf).sum()),
            median=_finite(median(known)),
            median_lower=_finite(lower),
            median_upper=_finite(upper),
            failed_sentences=len(khat) - below,
        )


@dataclass(frozen=True)
class Worth:
    """Effective sample sizes of all sentences' weights.

    Attributes:
        median: Over sentences.
        median_lower: Lower end of its distribution-free interval (95 %), over the choice of sentences.
        median_upper: Upper end.
        min: The smallest.
    """

    median: float
    median_lower: float
    median_upper: float
    min: float

    @classmethod
    def of(cls, ess: Tensor) -> Worth:
        """From every sentence's, shape [n]."""
        return cls(median(ess), *median_interval(ess), float(ess.min()))


@dataclass(frozen=True)
class Folding:
    """What the estimator ``jacobian`` says of steps that fold.

    Attributes:
        folded_sentences: Sentences with such a step.
        negative_share: Share of all runs whose map has a negative determinant.
        smallest_eigenvalue: Of any step's Jacobian; at or below 0 the step folds.
    """

    folded_sentences: int
    negative_share: float
    smallest_eigenvalue: float

    @classmethod
    def of(cls, column: Mapping[str, Tensor]) -> Folding:
        """From the columns ``negative_share`` and ``smallest_eigenvalue`` of the table of sentences."""
        smallest = column["smallest_eigenvalue"]
        return cls(int((smallest <= 0).sum()), float(column["negative_share"].mean()), float(smallest.min()))


@dataclass(frozen=True)
class Climb:
    """How far the estimator ``ladder`` had to go, and what it took.

    Attributes:
        sentences: Counted on each rung, from the first.
        gradients: Of log p(x given z) in z, of all sentences.
        evaluations: Of it besides.
        num_samples: Draws that were counted.
        ess_per_gradient: Effective draws for each gradient, median over sentences that took any; NaN of none.
        se_median: Monte Carlo standard error of a log p(x), nats, median over sentences.
        se_max: The largest.
    """

    sentences: list[int]
    gradients: int
    evaluations: int
    num_samples: int
    ess_per_gradient: float
    se_median: float
    se_max: float

    @classmethod
    def of(cls, column: Mapping[str, Tensor]) -> Climb:
        """From the table of sentences."""
        took = column["gradients"] > 0
        per_gradient = column["ess"][took] / column["gradients"][took]
        rungs = column["rounds"].long()
        return cls(
            sentences=[int((rungs == rung).sum()) for rung in range(1, 5)],
            gradients=int(column["gradients"].sum()),
            evaluations=int(column["evaluations"].sum()),
            num_samples=int(column["num_samples"].sum()),
            ess_per_gradient=median(per_gradient),
            se_median=median(column["se"]),
            se_max=float(column["se"].max()),
        )


def median(values: Tensor) -> float:
    """The middle value, or the mean of the two in the middle; NaN of none.

    Example:
        >>> median(Tensor([1.0, 2.0, 4.0, 9.0]))
        3.0
    """
    return float(np.median(values.double().cpu().numpy())) if len(values) else math.nan


def _finite(value: float) -> float:
    return value if math.isfinite(value) else math.nan
