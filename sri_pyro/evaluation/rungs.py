"""Rungs: ways to draw weighted codes, each fixed before it is used, from the cheapest to the surest.

Axes: S draws, B sentences. Nats throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sri_pyro.evaluation.annealed import AnnealingPath, Transition, adapted, anneal
from sri_pyro.evaluation.evidence import COLUMNS, Weighted, score
from sri_pyro.evaluation.gaussian import defended
from sri_pyro.numerics.gaussians import Moments
from sri_pyro.numerics.tempering import next_power
from sri_pyro.target import Target


class Rung(Protocol):
    """Draws codes whose weights average to p(x), as often as it is asked, from one law that does not change."""

    @property
    def target(self) -> Target:
        """Of which sentences."""
        ...

    @property
    def at_once(self) -> int:
        """Draws of each sentence that are made at a time, at most; bounds the memory."""
        ...

    def draw(self, num_samples: int) -> Weighted:
        """Fresh draws of every sentence."""
        ...

    def at(self, rows: Tensor) -> Rung:
        """The same for some sentences, of a target that can be cut."""
        ...


@dataclass(frozen=True)
class GaussianRung:
    """Defensive-Gaussian importance sampling from a fit that is settled.

    Attributes:
        target: The log joint.
        fit: Moments of every sentence.
        dtype: Precision of the draws.
        inflation: Factor on the covariance.
        prior_share: Share of the prior.
    """

    target: Target
    fit: Moments
    dtype: torch.dtype
    inflation: float
    prior_share: float

    @property
    def at_once(self) -> int:
        """As many as are scored at once."""
        return max(1, COLUMNS // self.target.batch_size)

    def draw(self, num_samples: int) -> Weighted:
        """Draw from the mixture, and weigh."""
        proposal = defended(self.target, self.fit, self.dtype, self.inflation, self.prior_share)
        z = proposal.sample(num_samples)
        return score(self.target, z, proposal.log_prob(z))

    def at(self, rows: Tensor) -> GaussianRung:
        """Of some sentences."""
        fit = Moments(self.fit.mean[rows], self.fit.covariance[rows])
        return GaussianRung(cut(self.target, rows), fit, self.dtype, self.inflation, self.prior_share)


@dataclass(frozen=True)
class AnnealedRung:
    """Annealed importance sampling along a path that is settled.

    Attributes:
        target: The log joint.
        path: Powers and step sizes of every sentence.
    """

    target: Target
    path: AnnealingPath

    @classmethod
    def adapted(
        cls,
        target: Target,
        chains: int,
        share: float,
        most_temperatures: int,
        transition: Transition,
        leapfrog: int,
    ) -> AnnealedRung:
        """Choose powers and steps of every sentence on pilot chains: see ``powers_by_share``."""
        rule = powers_by_share(target, share, most_temperatures)
        return cls(target, adapted(target, chains, rule, transition, leapfrog, step_size=0.4))

    @property
    def at_once(self) -> int:
        """Half as many as are scored at once: a gradient needs as much again."""
        return max(1, COLUMNS // 2 // self.target.batch_size)

    def draw(self, num_samples: int) -> Weighted:
        """Run chains from the prior, and weigh."""
        z, log_weight, log_likelihood = anneal(self.target, self.path, num_samples)
        none = torch.zeros(self.target.batch_size, dtype=torch.int64, device=z.device)
        return Weighted(z, log_weight, log_likelihood, rounds=none, refused=none > 0)

    def at(self, rows: Tensor) -> AnnealedRung:
        """Of some sentences."""
        return AnnealedRung(cut(self.target, rows), self.path.at(rows))


def powers_by_share(target: Target, share: float, most: int) -> Callable[[float | Tensor, Tensor], Tensor]:
    r"""A rule of the next power: each sentence's own, by the conditional ESS of the pilot's chains.

    A step is never shorter than what arrives within ``most`` temperatures.

    Args:
        target: Of which sentences.
        share: Of the chains, those that are left from one power to the next.
        most: Temperatures.
    """
    remaining = iter(range(most, 0, -1))

    def rule(power: float | Tensor, log_likelihood: Tensor) -> Tensor:
        now = log_likelihood.new_zeros(target.batch_size) + power
        shortest = now + (1 - now) / next(remaining, 1)
        return torch.maximum(next_power(now, log_likelihood, share), shortest)

    return rule


def cut(target: Target, rows: Tensor) -> Target:
    """The target of some sentences.

    Raises:
        ValueError: If it cannot be cut.
    """
    if target.select is None:
        raise ValueError("this target cannot be cut to some of its sentences; give it a 'select'.")
    return target.select(rows)
