r"""Student's t: its tails and quantiles, for any number of degrees of freedom, whole or not."""

from __future__ import annotations

import math
from functools import cache

TERMS = 500
"""Of the continued fraction at most; it needs about the square root of the degrees of freedom."""
TINY = 1e-300
"""In place of a denominator of 0 (Lentz's method)."""


def two_sided_p(t: float, freedom: float) -> float:
    r"""The probability that a t variable is further from 0 than ``t``, on either side.

    .. math:: P(|T_\nu| > t) = I_{\nu / (\nu + t^2)}(\nu / 2, 1 / 2)

    Args:
        t: Of any sign; NaN gives NaN.
        freedom: Degrees of freedom :math:`\nu > 0`; infinite for the normal law.

    Example:
        >>> round(two_sided_p(12.706, 1), 5), round(two_sided_p(1.959964, math.inf), 5)
        (0.05, 0.05)
    """
    if math.isnan(t) or math.isnan(freedom):
        return math.nan
    if math.isinf(t):
        return 0.0
    if freedom > 1e7:  # the two laws differ by less than the fraction's rounding
        return math.erfc(abs(t) / math.sqrt(2))
    return incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@cache
def two_sided_quantile(confidence: float, freedom: float) -> float:
    """The t that a variable's distance from 0 stays below with a probability of ``confidence``.

    Args:
        confidence: Between 0 and 1.
        freedom: Degrees of freedom.

    Example:
        >>> [round(two_sided_quantile(0.95, freedom), 3) for freedom in (1, 2, 5, math.inf)]
        [12.706, 4.303, 2.571, 1.96]
    """
    if math.isnan(freedom):
        return math.nan
    low, high = 0.0, 1.0
    while two_sided_p(high, freedom) > 1 - confidence:
        low, high = high, 2 * high
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if two_sided_p(middle, freedom) > 1 - confidence else (low, middle)
    return high


def incomplete_beta(x: float, a: float, b: float) -> float:
    r"""The regularised incomplete beta function :math:`I_x(a, b)`, by its continued fraction.

    References:
        DLMF 8.17.22; evaluated by Lentz's method on the side where it converges fast.

    Example:
        >>> round(incomplete_beta(0.3, 2.0, 1.0), 12)  # x^2
        0.09
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a * _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or TINY)
    value = d
    for m in range(1, TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or TINY)
            c = (1 + term / c) or TINY
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
