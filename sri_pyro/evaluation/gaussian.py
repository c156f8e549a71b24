r"""The default evidence estimator (``gaussian``): a defensive Gaussian, fitted to pilot runs and refitted to its draws.

Axes: S draws, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sri_pyro.evaluation.evidence import (
    PriorImportance,
    Weighted,
    accepted,
    all_rows,
    at,
    infer,
    require_samples,
    score,
)
from sri_pyro.numerics.gaussians import Gaussian, Moments, moments, pooled
from sri_pyro.numerics.proposals import DefensiveGaussian
from sri_pyro.numerics.weights import normalised, truncated
from sri_pyro.target import Inference, Target

POOLED_PILOTS = 512
"""Pilot runs that a pooled covariance is made from at least; few sentences run more of them each."""


@dataclass(frozen=True)
class GaussianImportance:
    r"""Defensive-Gaussian importance sampling (``gaussian``), the default.

    Independent pilot runs of the inference give each sentence a mean and a covariance, shrunk towards the
    covariance pooled over the batch. Fresh draws from ``DefensiveGaussian`` are weighted exactly. Where
    k-hat or the effective sample size fails, the Gaussian is fitted again from the truncated weights and
    twice as many fresh draws are taken. Pilots and draws are independent, so each round's estimate of p(x)
    is unbiased given its fit; which round is reported depends on the weights, which costs a little (0.04
    nats downwards where a third of the sentences is refitted) and never gains.

    No sentence stops the others. Where pilot runs have diverged, draws of the prior stand in for them and
    the sentence is not refitted: its number is a lower bound in expectation, and its k-hat is +inf. Where a
    refit has nothing to go by, because one weight is all or a moment is not finite, the covariance, or the
    whole fit, stays what it was.

    Attributes:
        num_samples: S, doubled in every refit.
        pilot_chains: Short runs per sentence that the fit is made from; more if the batch has few sentences.
        inflation: Factor on the fitted covariance; a little too wide is safe, too narrow is not.
        prior_share: Share of the prior in the proposal.
        refits: Most refits.

    References:
        Truncated weights: Ionides (2008). Pareto k-hat: Vehtari, Simpson, Gelman, Yao, Gabry (2024).
    """

    num_samples: int = 512
    pilot_chains: int = 64
    inflation: float = 1.2
    prior_share: float = 0.05
    refits: int = 1

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if self.pilot_chains < 2 or self.inflation <= 0 or not 0 < self.prior_share < 1 or self.refits < 0:
            raise ValueError(
                "the estimator 'gaussian' needs pilot_chains >= 2, inflation > 0, prior_share in (0, 1) and "
                f"refits >= 0; got {self.pilot_chains}, {self.inflation}, {self.prior_share}, {self.refits}."
            )

    @property
    def looks(self) -> int:
        """The weights of a round decide whether there is another."""
        return 1 + self.refits

    def log_bound(self, rounds: Tensor) -> Tensor:
        """The prior's share of the proposal bounds every weight by p(x | z) / share."""
        return torch.full_like(rounds, -math.log(self.prior_share), dtype=torch.float64)

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Fit, draw and weigh; refit where the weights say so."""
        if target.dim == 0:
            return PriorImportance(self.num_samples)(target, inference)
        fit, unfitted, dtype = fitted(target, inference, self.pilot_chains)
        draws = self._draw(target, fit, dtype, self.num_samples, 1, unfitted)
        rows = all_rows(draws.z)
        parts = [(rows, draws)]
        bad = ~unfitted
        for refit in range(1, self.refits + 1):
            # A sentence that has passed once keeps its round, though the target cannot be cut to the others.
            bad = bad & ~accepted(draws.log_weight)
            if not bool(bad.any()):
                break
            fit = refitted(draws, fit)
            if target.select is not None:
                rows, target = rows[bad], target.select(bad.nonzero()[:, 0])
                fit, unfitted, bad = Moments(fit.mean[bad], fit.covariance[bad]), unfitted[bad], bad[bad]
            draws = self._draw(target, fit, dtype, self.num_samples * 2**refit, refit + 1, unfitted)
            parts.append((rows[bad], at(draws, bad)))
        return parts

    def _draw(
        self,
        target: Target,
        fit: Moments,
        dtype: torch.dtype,
        num_samples: int,
        rounds: int,
        unfitted: Tensor,
    ) -> Weighted:
        proposal = defended(target, fit, dtype, self.inflation, self.prior_share)
        z = proposal.sample(num_samples)
        return replace(score(target, z, proposal.log_prob(z), rounds), unfitted=unfitted)


class Fit(NamedTuple):
    """What runs of an inference say of each sentence's posterior.

    Attributes:
        moments: Of fresh runs, in double precision; the covariance is shrunk towards that of the batch.
        unfitted: Sentences whose runs have diverged, shape [B]; draws of the prior stand in for them.
        dtype: Precision of the runs.
    """

    moments: Moments
    unfitted: Tensor
    dtype: torch.dtype

    def at(self, rows: Tensor) -> Fit:
        """Those of some sentences."""
        moments = Moments(self.moments.mean[rows], self.moments.covariance[rows])
        return Fit(moments, self.unfitted[rows], self.dtype)


def fitted(target: Target, inference: Inference, pilot_chains: int) -> Fit:
    """Fit a Gaussian to every sentence's runs; more than ``pilot_chains`` of each if there are few sentences."""
    chains = max(pilot_chains, -(-POOLED_PILOTS // target.batch_size))
    pilots = infer(inference, target, chains).z
    own = moments(pilots.double())
    unfitted = ~_finite(own)
    if bool(unfitted.any()):
        pilots = torch.where(unfitted[:, None], target.sample_prior(chains), pilots)
        own = moments(pilots.double())
    covariance = pooled(own.covariance, _own_share(chains, target.dim))
    return Fit(Moments(own.mean, covariance), unfitted, pilots.dtype)


def defended(
    target: Target, fit: Moments, dtype: torch.dtype, inflation: float, prior_share: float
) -> DefensiveGaussian:
    """The proposal of a fit: a Gaussian somewhat wider, defended by a share of the prior."""
    gaussian = Gaussian.from_moments(fit.mean, inflation * fit.covariance).to(dtype)
    return DefensiveGaussian(gaussian, target.log_prior, target.sample_prior, prior_share)


def refitted(draws: Weighted, before: Moments) -> Moments:
    """Moments by truncated weights, the covariance shrunk towards the one before; what cannot be had is kept.

    A weight that exceeds the others by 37 nats leaves none of them in double precision: the mean may move to
    its draw, but one draw has no covariance (0 / 0).
    """
    weights = normalised(truncated(draws.log_weight.double()))
    fit = moments(draws.z.double(), weights)
    effective = 1 / weights.square().sum(0)
    share = (effective / (effective + 5 * draws.z.shape[-1]))[:, None, None]
    shrunk = share * fit.covariance + (1 - share) * before.covariance
    # Chosen and not multiplied by zero, for 0 * NaN is NaN.
    known = fit.mean.isfinite().all(-1)
    spread = known & shrunk.isfinite().all(-1).all(-1)
    return Moments(
        torch.where(known[:, None], fit.mean, before.mean),
        torch.where(spread[:, None, None], shrunk, before.covariance),
    )


def _finite(fit: Moments) -> Tensor:
    """Which sentences have moments at all, [B]; squares of diverged draws overflow before the draws do."""
    finite: Tensor = fit.mean.isfinite().all(-1) & fit.covariance.isfinite().all(-1).all(-1)
    return finite


def _own_share(num_draws: int, dim: int) -> float:
    """How far a covariance of so many draws is trusted against the pooled one; 0.29 at 64 draws in 32-d."""
    return num_draws / (num_draws + 5 * dim)
