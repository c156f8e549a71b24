"""Totals: what weighted draws add up to, for estimators that do not keep them all.

Axes: S draws, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.numerics.weight_totals import WeightTotals
from sri_pyro.numerics.weights import normalised


@dataclass(frozen=True)
class Totals:
    """What the weighted draws of each sentence add up to.

    Attributes:
        weights: The weights alone.
        broken: Sentences with a weight that is NaN or +inf, shape [B]: no subset of draws would average to p(x).
        log_likelihood: Self-normalised mean of log p(x | z), nats, shape [B].
        z: Self-normalised mean of z, shape [B, D].
    """

    weights: WeightTotals
    broken: Tensor
    log_likelihood: Tensor
    z: Tensor

    @classmethod
    def of(cls, z: Tensor, log_weight: Tensor, log_likelihood: Tensor, most: int | None = None) -> Totals:
        """Add up draws, in double precision.

        Args:
            z: Shape [S, B, D].
            log_weight: Shape [S, B].
            log_likelihood: Shape [S, B].
            most: The most draws that a sentence will have; S by default.
        """
        log_w, broken = weighable(log_weight)
        shares = normalised(log_w)
        # A draw of no weight adds nothing, though its log-likelihood be -inf.
        surprise = torch.where(shares == 0, 0.0, shares * log_likelihood.double())
        mean = torch.einsum("sb,sbd->bd", shares, z.double())
        return cls(WeightTotals.of(log_w, most), broken, surprise.sum(0), mean)

    def plus(self, other: Totals, most: int | None = None) -> Totals:
        """These and further draws of the same sentences; ``most`` as above."""
        ours, theirs = self.weights.share(other.weights)

        def mixed(here: Tensor, there: Tensor) -> Tensor:
            a, b = (share.reshape(-1, *[1] * (here.ndim - 1)) for share in (ours, theirs))
            # What has no weight may have no mean either: 0 * NaN is NaN.
            return torch.where(a == 0, 0.0, a * here) + torch.where(b == 0, 0.0, b * there)

        return Totals(
            self.weights.plus(other.weights, most),
            self.broken | other.broken,
            mixed(self.log_likelihood, other.log_likelihood),
            mixed(self.z, other.z),
        )

    def at(self, rows: Tensor) -> Totals:
        """Those of some sentences."""
        return Totals(self.weights.at(rows), self.broken[rows], self.log_likelihood[rows], self.z[rows])

    @classmethod
    def joined(cls, parts: Sequence[Totals]) -> Totals:
        """Those of further sentences behind those of the first."""
        return cls(
            WeightTotals.joined([part.weights for part in parts]),
            torch.cat([part.broken for part in parts]),
            torch.cat([part.log_likelihood for part in parts]),
            torch.cat([part.z for part in parts]),
        )


def weighable(log_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Log weights [S, B] in double precision, and the sentences [B] that have one that is NaN or +inf.

    Theirs are set to -inf, all of them.
    """
    broken = ~(log_weight < torch.inf).all(0)
    return log_weight.double().masked_fill(broken, -torch.inf), broken
