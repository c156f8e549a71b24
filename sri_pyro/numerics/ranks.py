r"""Ranks of a truth among draws, and the band that their distribution function keeps to if both have one law.

If a truth and L draws are exchangeable, the rank of the truth, the number of draws below it, is uniform on
0, ..., L. Of N such ranks the number that is below i is binomial at each i; all i at once are a Markov chain, so that
the probability of leaving a band anywhere is computed exactly.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HALVINGS = 40
"""Of the interval in which the level of a band's single places is sought."""


def ranks_among(truth: Tensor, draws: Tensor) -> Tensor:
    """The rank of each truth among its draws, from 0 to L; among equals its place is drawn at random.

    Args:
        truth: Shape [...].
        draws: Shape [L, ...].

    Returns:
        int64, shape [...].

    Example:
        >>> ranks_among(torch.tensor([0.5, -9.0]), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.2, 2.0]])).tolist()
        [2, 0]
    """
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    return below + (torch.rand(truth.shape, device=truth.device) * (equal + 1)).long().clamp(max=equal)


class RankBand(NamedTuple):
    """Bounds on how many of N ranks are below 1, 2, ..., L.

    Attributes:
        lower: Fewest at each place, shape [L].
        upper: Most at each place, shape [L].
        confidence: The exact probability of keeping to all bounds at once.
    """

    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    confidence: float


def rank_band(
    num_ranks: int, num_draws: int, confidence: float = 0.95, law: NDArray[np.float64] | None = None
) -> RankBand:
    r"""The simultaneous band of equal pointwise level: N independent ranks keep to it with ``confidence`` or more.

    At place i the bounds are quantiles of the binomial law of N and :math:`P(r < i)`, of a level that is the same at
    all places and as large as the confidence allows. The probability of the whole path within its bounds is that of a
    Poisson process given its N points, and is found place by place.

    Args:
        num_ranks: N.
        num_draws: L.
        confidence: Of all places at once; counts are whole, so that the band's own is a little more.
        law: :math:`P(r < i)` for i = 1, ..., L, shape [L]; uniform if None.

    Raises:
        ValueError: If there are no ranks, no draws, or the confidence is not between 0 and 1.

    References:
        Saeilynoja, Buerkner, Vehtari (2022), Graphical test for discrete uniformity and its applications in goodness of
        fit evaluation and multiple sample comparison. The path by a Poisson process: Moscovich and Nadler (2017).

    Example:
        >>> band = rank_band(200, 9)
        >>> band.lower[4], band.upper[4], round(band.confidence, 3)  # of 200 ranks, 100 are expected below 5
        (np.int64(82), np.int64(118), 0.951)
    """
    if num_ranks < 1 or num_draws < 1 or not 0 < confidence < 1:
        raise ValueError(
            "a band needs at least one rank, one draw and a confidence between 0 and 1; got "
            f"{num_ranks}, {num_draws} and {confidence}."
        )
    uniform = np.arange(1, num_draws + 1) / (num_draws + 1)
    below = uniform if law is None else np.asarray(law, dtype=np.float64)
    chances = _binomial(num_ranks, below)
    # Each tail is summed from its own end: the smaller one would drown in the rounding of 1.
    tails = np.cumsum(chances, -1), np.cumsum(chances[:, ::-1], -1)
    kernels = _poisson(num_ranks, np.diff(np.concatenate([[0.0], below, [1.0]])))
    low, high = math.log(1e-4 * (1 - confidence) / num_draws), math.log(1 - confidence)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        kept = _kept(*_bounds(*tails, math.exp(middle)), kernels)
        low, high = (middle, high) if kept >= confidence else (low, middle)
    lower, upper = _bounds(*tails, math.exp(low))
    return RankBand(lower, upper, _kept(lower, upper, kernels))


def counts_below(ranks: NDArray[np.int64], num_draws: int) -> NDArray[np.int64]:
    """How many ranks [N, ...] are below 1, 2, ..., L, shape [L, ...].

    Example:
        >>> counts_below(np.array([0, 0, 2, 3]), 3).tolist()
        [2, 2, 3]
    """
    places = np.arange(1, num_draws + 1).reshape(-1, *(1,) * ranks.ndim)
    found: NDArray[np.int64] = (ranks[None] < places).sum(1)
    return found


def _bounds(
    below: NDArray[np.float64], above: NDArray[np.float64], level: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Binomial quantiles that are missed on either side with probability ``level / 2`` at most."""
    lower, missing = ((tail <= level / 2).sum(-1) for tail in (below, above))
    return lower, below.shape[-1] - 1 - missing


def _kept(lower: NDArray[np.int64], upper: NDArray[np.int64], kernels: NDArray[np.float64]) -> float:
    """The probability of a path within its bounds."""
    total = kernels.shape[-1] - 1
    path, first = np.ones(1), 0
    for low, high, kernel in zip([*lower, total], [*upper, total], kernels, strict=True):
        # From counts first, first + 1, ... to counts low, ..., high.
        path = np.convolve(path, kernel[: max(high - first + 1, 1)])
        path = path[max(low - first, 0) : high - first + 1]
        first = max(low, first)
        if not path.size:
            return 0.0
    whole = math.exp(total * math.log(total) - total - math.lgamma(total + 1))
    return float(path[0]) / whole


def _log_factorials(total: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = torch.lgamma(torch.arange(1, total + 2, dtype=torch.float64)).numpy()
    return found


def _binomial(total: int, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of 0 to ``total`` successes for every share, shape [L, total + 1]."""
    k, log_factorial = np.arange(total + 1), _log_factorials(total)
    ways = log_factorial[-1] - log_factorial - log_factorial[::-1]
    inside = np.clip(share, 1e-300, 1 - 1e-16)[:, None]
    found: NDArray[np.float64] = np.exp(ways + k * np.log(inside) + (total - k) * np.log1p(-inside))
    return found


def _poisson(total: int, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of 0 to ``total`` points where ``total`` times each share are expected, [L + 1, total + 1]."""
    expected = np.maximum(total * shares, 1e-300)[:, None]
    k = np.arange(total + 1)
    found: NDArray[np.float64] = np.exp(k * np.log(expected) - expected - _log_factorials(total))
    return found
