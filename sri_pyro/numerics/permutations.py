"""Tests by simulation: where an observed number lies among those of a null, and many such tests at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def simulated_p(observed: float, null: NDArray[np.float64]) -> float:
    r"""The chance of a number so large under the null, :math:`(1 + \#\{T_r \ge T\}) / (R + 1)`.

    Its level is exact, whatever the statistic, where observed and simulated numbers are exchangeable under the null;
    NaN where the observed number is none.

    Args:
        observed: T; a large one speaks against the null.
        null: R simulated ones.

    References:
        Barnard (1963); Phipson and Smyth (2010).

    Example:
        >>> simulated_p(9.0, np.arange(19.0)), simulated_p(99.0, np.arange(19.0))
        (0.55, 0.05)
    """
    if np.isnan(observed):
        return float("nan")
    return (1 + int(np.count_nonzero(null >= observed))) / (len(null) + 1)


def holm(p: Sequence[float]) -> list[float]:
    """P-values of several tests at once: comparing them with a level keeps the chance of any false alarm below it.

    Args:
        p: Of each test; NaN stands for a test that was not made, and stays.

    References:
        Holm (1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    made = np.flatnonzero(~np.isnan(values))
    order = made[np.argsort(values[made], kind="stable")]
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return [float(each) for each in adjusted]
