"""The largest weights of a sample: a generalised Pareto law fitted to their excess over the next one."""

# Axes: B sentences, M tail draws, G grid points of the fit. Log weights in nats.

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SHORTEST_TAIL = 5
"""Draws above the cutoff that the fit needs."""


def tail_length(num_samples: int) -> int:
    r"""How many of S weights are their tail: :math:`M = \lceil \min(S/5, 3\sqrt S) \rceil`.

    It never falls as S grows, so that the largest weights of a long sample can be kept while it is drawn.

    References:
        | Pareto Smoothed Importance Sampling (Vehtari et al., JMLR 2024)

    Example:
        >>> tail_length(100), tail_length(10_000)
        (20, 300)
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


class Pareto(NamedTuple):
    """Generalised Pareto laws, one per sentence; in each the upper tail is x^(-1/shape)."""

    shape: Tensor
    scale: Tensor


class TailFit(NamedTuple):
    """The largest weights of every sentence, and the law fitted to them; weights are scaled by the largest.

    Attributes:
        largest: Its log weight, shape [B]; 0 where every weight is zero.
        tail: Log weights, ascending, less ``largest``, shape [M, B].
        cutoff: That of the next smaller weight, shape [B].
        in_tail: Whether a weight is above the cutoff, shape [M, B].
        law: Of the excess over the cutoff.
        fitted: Whether there is such a law, shape [B].
    """

    largest: Tensor
    tail: Tensor
    cutoff: Tensor
    in_tail: Tensor
    law: Pareto
    fitted: Tensor

    def khat(self, precision: float) -> Tensor:
        """The shape, [B]; +inf where none could be fitted, -inf where the tail is flat within rounding.

        Args:
            precision: Relative, of the log weights.
        """
        rounding = 8 * precision * self.largest.abs().clamp(min=1.0)
        khat = self.law.shape.where(self.fitted, math.inf)
        return khat.masked_fill(-self.cutoff <= rounding, -math.inf)

    def smoothed(self) -> Tensor:
        """Log weights with the tail replaced by quantiles of the law, capped at the largest, ascending, [M, B]."""
        num_tail = len(self.tail)
        count_B = self.in_tail.sum(0)
        rank_MB = torch.arange(num_tail).to(self.tail)[:, None] - (num_tail - count_B)
        quantile_MB = _quantile((rank_MB + 0.5) / count_B, self.law)
        smooth_MB = (quantile_MB + self.cutoff.exp()).log().clamp(max=0.0)
        return torch.where(self.in_tail & self.fitted, smooth_MB, self.tail) + self.largest


def fit_tail(top_MB: Tensor) -> TailFit:
    """Fit the M largest log weights and the one that follows them: [M + 1, B], float64, descending."""
    largest = top_MB[0].masked_fill(top_MB[0] == -math.inf, 0.0)  # every weight zero: nothing to scale
    tail_MB = (top_MB[:-1] - largest).flip(0)
    smallest_log = math.log(torch.finfo(top_MB.dtype).tiny)
    cutoff_B = (top_MB[-1] - largest).clamp(min=smallest_log)
    # Only draws strictly above the cutoff are tail. Those tied with it come first and, with an
    # excess of zero, add nothing to the sums of the fit.
    in_tail_MB = tail_MB > cutoff_B
    count_B = in_tail_MB.sum(0)
    law = _fit((tail_MB.exp() - cutoff_B.exp()).where(in_tail_MB, 0.0), count_B)
    enough = count_B >= SHORTEST_TAIL
    fitted = enough & law.shape.isfinite() & law.scale.isfinite() & (law.scale > 0)
    return TailFit(largest, tail_MB, cutoff_B, in_tail_MB, law, fitted)


def _fit(excess_MB: Tensor, count_B: Tensor) -> Pareto:
    """Fit by the empirical Bayes estimate of Zhang and Stephens, with a weak prior at shape 0.5.

    The last ``count_B`` excesses of each column are the sample, ascending; those before are zero.
    Where fewer than five draws are left, or the quartile underflows, the values are not finite.
    """
    num_tail = excess_MB.shape[0]
    count_B = count_B.clamp(min=1)
    quartile = (count_B / 4 + 0.5).long().clamp(min=1) - 1 + (num_tail - count_B)
    quartile_B = excess_MB.gather(0, quartile[None]).squeeze(0)
    grid_size_B = 30 + count_B.double().sqrt().floor()
    j_G1 = torch.arange(1, int(grid_size_B.max()) + 1).to(grid_size_B)[:, None]
    on_grid_GB = j_G1 <= grid_size_B

    # theta = -shape / scale over a grid that covers what data of this quartile can support
    theta_GB = (1 - (grid_size_B / (j_G1 - 0.5)).sqrt()) / (3 * quartile_B) + 1 / excess_MB[-1]
    theta_GB = theta_GB.where(on_grid_GB, 0.0)
    shape_GB = torch.stack([_profile_shape(theta_B, excess_MB, count_B) for theta_B in theta_GB])
    log_likelihood_GB = count_B * ((-theta_GB / shape_GB).log() - shape_GB - 1)
    weight_GB = torch.softmax(log_likelihood_GB.where(on_grid_GB, -math.inf), dim=0)
    # A softmax weight this small is dropped, as in ArviZ and in R's loo, to give the same k-hat.
    weight_GB = weight_GB.where(weight_GB >= 10 * torch.finfo(weight_GB.dtype).eps, 0.0)
    theta_B = (theta_GB * weight_GB).sum(0) / weight_GB.sum(0)

    shape_B = _profile_shape(theta_B, excess_MB, count_B)
    prior_count = 10  # the prior on the shape is worth ten draws
    shrunk_B = (count_B * shape_B + prior_count * 0.5) / (count_B + prior_count)
    return Pareto(shape=shrunk_B, scale=-shape_B / theta_B)


def _profile_shape(theta_B: Tensor, excess_MB: Tensor, count_B: Tensor) -> Tensor:
    """Give the shape of largest likelihood for theta = -shape / scale; both [B]."""
    return torch.log1p(-theta_B * excess_MB).sum(0) / count_B


def _quantile(probability_MB: Tensor, law: Pareto) -> Tensor:
    """Where the distribution function of each law reaches the probabilities, shape [M, B]."""
    exponential_MB = -torch.log1p(-probability_MB)
    no_shape = law.shape.abs() < torch.finfo(law.shape.dtype).eps
    shape = law.shape.masked_fill(no_shape, 1.0)
    power_MB = torch.expm1(shape * exponential_MB) / shape
    return law.scale * torch.where(no_shape, exponential_MB, power_MB)
