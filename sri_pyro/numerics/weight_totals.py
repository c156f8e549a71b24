"""Importance weights added up while they are drawn, so that memory does not grow with their number."""

# Axes: S draws, B sentences, M tail draws. Log weights in nats.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.numerics.pareto import SHORTEST_TAIL, fit_tail, tail_length
from sri_pyro.numerics.weights import khat_threshold, log_mean_exp


@dataclass(frozen=True)
class WeightTotals:
    r"""What the weights of each sentence add up to, and the largest of them.

    Averages are exact whatever the number of draws. k-hat is that of all weights, to the last bit: it reads the
    :math:`M + 1` largest of S, :math:`M = \lceil \min(S/5, 3\sqrt S) \rceil`, and M never falls as S grows, so that
    the largest of the most draws there will be are all that has to be kept.

    Attributes:
        count: S of each sentence, int64, shape [B].
        log_mean: Log of the average weight, shape [B]; -inf where every weight is zero.
        deviation: :math:`\sum_s (w_s / \bar w - 1)^2`, shape [B]; NaN where every weight is zero.
        tail: The largest log weights, descending, shape [M + 1, B].

    References:
        Merging averages and squared deviations: Chan, Golub, LeVeque (1983).

    Example:
        >>> log_w = torch.randn(900, 2)
        >>> parts = [WeightTotals.of(part, 900) for part in log_w.split(250)]
        >>> whole = parts[0].plus(parts[1]).plus(parts[2]).plus(parts[3])
        >>> torch.allclose(whole.log_mean, log_mean_exp(log_w.double())), whole.count.tolist()
        (True, [900, 900])
    """

    count: Tensor
    log_mean: Tensor
    deviation: Tensor
    tail: Tensor

    @classmethod
    def of(cls, log_w: Tensor, most: int | None = None) -> WeightTotals:
        """Add up log weights, shape [S, B]; in double precision.

        Args:
            log_w: -inf is a weight of zero; none is NaN or +inf.
            most: The most draws that a sentence will have; S by default.
        """
        log_w = log_w.detach().double()
        log_mean = log_mean_exp(log_w)
        count = torch.full_like(log_mean, len(log_w), dtype=torch.int64)
        keep = min(len(log_w), tail_length(most or len(log_w)) + 1)
        deviation = torch.expm1(log_w - log_mean).square().sum(0)
        return cls(count, log_mean, deviation, log_w.topk(keep, dim=0).values)

    def plus(self, other: WeightTotals, most: int | None = None) -> WeightTotals:
        """These and further draws of the same sentences.

        Args:
            other: Of the further draws.
            most: The most draws that a sentence will have; so many as there are now by default.
        """
        count = self.count + other.count
        n, m, both = self.count.double(), other.count.double(), count.double()
        log_mean = torch.logaddexp(self.log_mean + (n / both).log(), other.log_mean + (m / both).log())
        ours, theirs = self.share(other)
        here, there = ours * both / n, theirs * both / m  # averages relative to that of all
        between = (here - there).square() * n * m / both
        deviation = _scaled(self.deviation, here) + _scaled(other.deviation, there) + between
        tail = torch.cat([self.tail, other.tail])
        keep = min(len(tail), tail_length(most or int(count.max())) + 1)
        return WeightTotals(count, log_mean, deviation, tail.topk(keep, dim=0).values)

    def share(self, other: WeightTotals) -> tuple[Tensor, Tensor]:
        """Of all weight, that of these draws and that of the others, each [B]; NaN where there is none."""
        sums = torch.stack([part.log_mean + part.count.double().log() for part in (self, other)])
        ours, theirs = torch.softmax(sums, 0)
        return ours, theirs

    def at(self, rows: Tensor) -> WeightTotals:
        """Those of some sentences."""
        return WeightTotals(self.count[rows], self.log_mean[rows], self.deviation[rows], self.tail[:, rows])

    @classmethod
    def joined(cls, parts: Sequence[WeightTotals]) -> WeightTotals:
        """Those of further sentences behind those of the first."""
        longest = max(len(part.tail) for part in parts)
        tails = [
            torch.cat(
                [part.tail, part.tail.new_full((longest - len(part.tail), part.tail.shape[1]), -math.inf)]
            )
            for part in parts
        ]
        return cls(
            torch.cat([part.count for part in parts]),
            torch.cat([part.log_mean for part in parts]),
            torch.cat([part.deviation for part in parts]),
            torch.cat(tails, 1),
        )

    @property
    def relative_variance(self) -> Tensor:
        r""":math:`CV^2`, as ``weights.relative_variance``, shape [B]."""
        return torch.where(self.count > 1, self.deviation / (self.count - 1), math.nan)

    @property
    def se(self) -> Tensor:
        """Standard error of ``log_mean``, as ``weights.log_mean_exp_se``, nats, shape [B]."""
        return (self.relative_variance / self.count).sqrt()

    @property
    def effective_sample_size(self) -> Tensor:
        r""":math:`S^2 / (S + \sum_s (w_s / \bar w - 1)^2)`, which is that of ``weights``, shape [B]."""
        found = self.count.double().square() / (self.count + self.deviation)
        return found.masked_fill(self.log_mean == -math.inf, 0.0)

    def khat(self) -> Tensor:
        """Pareto shape of all weights' tail, as ``weights.pareto_smooth`` has it, shape [B]."""
        khat = torch.full_like(self.log_mean, math.nan)
        for count in sorted(set(self.count.tolist())):
            length, rows = tail_length(count), self.count == count
            if length >= SHORTEST_TAIL:
                assert length < len(self.tail), "fewer of the largest weights were kept than k-hat reads"
                khat[rows] = fit_tail(self.tail[: length + 1, rows]).khat(torch.finfo(torch.float64).eps)
        return khat

    @property
    def threshold(self) -> Tensor:
        """The largest k-hat at which so many weights are to be trusted, shape [B]; NaN of a single draw."""
        numbers = [khat_threshold(count) if count > 1 else math.nan for count in self.count.tolist()]
        return torch.tensor(numbers, dtype=torch.float64, device=self.count.device)


def _scaled(deviation: Tensor, ratio: Tensor) -> Tensor:
    """Squared deviations in units of another average; draws of no weight have none of their own: 0 - 0."""
    return torch.where(ratio == 0, 0.0, deviation * ratio.square())
