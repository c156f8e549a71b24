r"""Intervals that hold for every law of the sentences: of a share, and of a median.

Both rest on the binomial law alone, so that nothing is assumed of the shape, and the stated confidence is the least
there is, for any number of sentences.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sri_pyro.evaluation.metrics import CONFIDENCE

HALVINGS = 60
"""Of the unit interval, beyond which a double does not get finer."""


def share_interval(count: int, total: int) -> tuple[float, float]:
    r"""The exact binomial interval (95 %) of the share from which ``count`` of ``total`` sentences came.

    Its ends are where so extreme a count has a probability of 2.5 %. A standard error would be 0 where none or all
    count, though 300 of 300 leave room for a share of 0.988.

    Args:
        count: Sentences that have what is counted.
        total: Sentences looked at.

    Returns:
        Lower and upper end; NaN without sentences.

    References:
        Clopper and Pearson (1934).

    Example:
        >>> [round(end, 4) for end in share_interval(300, 300)], [round(end, 4) for end in share_interval(8, 10)]
        ([0.9878, 1.0], [0.4439, 0.9748])
    """
    if not total:
        return math.nan, math.nan
    miss = (1 - CONFIDENCE) / 2

    def reached(share: float) -> bool:
        return float(_binomial(total, share)[count:].sum()) > miss

    def passed(share: float) -> bool:
        return float(_binomial(total, share)[: count + 1].sum()) <= miss

    return _turn(reached) if count else 0.0, _turn(passed) if count < total else 1.0


def median_interval(values: Tensor) -> tuple[float, float]:
    r"""An interval (95 %) of the median of the law from which values were drawn, between two of them.

    :math:`[x_{(j)}, x_{(n + 1 - j)}]` with the largest j for which fewer than j of n fair coins fall on one side with
    a probability of at most 2.5 %. Infinite values are values; NaN is none, and left out.

    Args:
        values: Shape [n].

    Returns:
        Lower and upper end; NaN of fewer than six values, which no two of them can enclose with 95 %.

    Example:
        >>> median_interval(torch.arange(1.0, 101.0))
        (40.0, 61.0)
    """
    values = values[~values.isnan()].double().sort().values
    below = _binomial(len(values), 0.5).cumsum(0)
    place = int((below <= (1 - CONFIDENCE) / 2).sum())
    return (float(values[place - 1]), float(values[-place])) if place else (math.nan, math.nan)


def _binomial(total: int, share: float) -> Tensor:
    """Probabilities of 0 to ``total`` successes."""
    k = torch.arange(total + 1, dtype=torch.float64)
    p = torch.tensor(share, dtype=torch.float64)
    ways = math.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
    return (ways + torch.xlogy(k, p) + torch.xlogy(total - k, 1 - p)).exp()


def _turn(holds: Callable[[float], bool]) -> float:
    """Where a condition that is false at 0 and true at 1 turns."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
