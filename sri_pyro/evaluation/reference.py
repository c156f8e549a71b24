r"""Reference posteriors: many sentences and several chains at once, by Hamiltonian Monte Carlo that adapts to each.

Axes: S chains, N draws of each, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sri_pyro.evaluation.diagnostics import convergence
from sri_pyro.numerics.hamiltonian import (
    Moved,
    Seen,
    StepSearch,
    estimated_scale,
    hamiltonian_transition,
    warmup_windows,
)
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress

TRAJECTORY = math.pi / 2
"""Mean length of a trajectory in standard deviations of the posterior: a quarter of a turn, which on a Gaussian of unit
covariance forgets where it began."""
JITTER = 0.5
"""Share by which a length is longer or shorter, drawn anew for each transition: no direction comes round in step."""
ACCEPTANCE = 0.8
"""Mean acceptance probability that the step sizes are steered for."""
FIRST_STEP = 0.5
MOST_LEAPFROG = 64
"""Leapfrog steps of a trajectory at most: a warm-up that has not found its scale yet shall not last for ever."""
RHAT, LEAST_ESS = 1.01, 400.0
"""Above the one or below the other a reference is none (Vehtari, Gelman, Simpson, Carpenter, Buerkner 2021)."""


@dataclass(frozen=True)
class Reference:
    """Draws of the posterior of every sentence, by long chains, with what is needed to judge them.

    Attributes:
        z: States after the warm-up, shape [S, N, B, D].
        log_joint: log p(x, z) at each, nats, shape [S, N, B].
        acceptance: Acceptance probability of the transition to each, shape [S, N, B].
        diverged: Whether that transition's energy went astray, shape [S, N, B].
        step_size: Of every sentence, in units of its scale, shape [B]; NaN where a sampler has none of its own.
        gradients: Of every chain, warm-up included.
    """

    z: Tensor
    log_joint: Tensor
    acceptance: Tensor
    diverged: Tensor
    step_size: Tensor
    gradients: int

    @classmethod
    def of(cls, target: Target, z: Tensor) -> Reference:
        """Chains [S, N, B, D] that another sampler drew, of which no more is known."""
        prior, likelihood = target.value(z.flatten(0, 1))
        log_joint = (prior + likelihood).reshape(z.shape[:-1])
        unknown = torch.full_like(log_joint, torch.nan)
        return cls(z, log_joint, unknown, torch.zeros_like(unknown, dtype=torch.bool), unknown[0, 0], 0)

    def select(self, rows: Tensor) -> Reference:
        """Of some sentences."""
        z, log_joint, acceptance, diverged = (
            part[:, :, rows] for part in (self.z, self.log_joint, self.acceptance, self.diverged)
        )
        return Reference(z, log_joint, acceptance, diverged, self.step_size[rows], self.gradients)


def reference_posterior(
    target: Target,
    num_chains: int = 4,
    warmup: int = 300,
    draws: int = 500,
    *,
    dense: bool = True,
    trajectory: float = TRAJECTORY,
    acceptance: float = ACCEPTANCE,
    watch: Callable[[int, int], None] | None = None,
) -> Reference:
    r"""Draw from the posterior of every sentence of a target: the slow answer by which fast ones are judged.

    All S x B chains move together, one gradient of the target for all of them, and are accepted one by one; a
    sentence's draws do not depend on the others but by the random numbers. Chains start at draws of the prior, which
    are wider than the posterior, as R-hat wants them. In the warm-up every sentence finds its own step size, by dual
    averaging over its chains, and in windows of doubling length its own scale, from the states of all its chains.
    Nothing adapts afterwards.

    A trajectory's length is fixed, up to jitter, and not found as NUTS finds it: after the warm-up every posterior
    has about unit covariance in its own scale, where a quarter of a turn is what NUTS would look for; and chains that
    move together would wait in each transition for the one with the deepest tree.

    Args:
        target: The log joint.
        num_chains: S; R-hat wants several.
        warmup: Transitions that adapt and are thrown away.
        draws: N, transitions after it, each of which is kept.
        dense: Whether the scale is a matrix or a diagonal.
        trajectory: Mean length of a trajectory, in units of the scale.
        acceptance: The mean acceptance probability at which step sizes aim.
        watch: Told how many transitions are done, and of how many.

    Raises:
        ValueError: If an option is out of range, or the target has no z.
        FloatingPointError: If the log joint is not finite at a start.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3], [8, 3, 0]])))
        >>> found = reference_posterior(target, num_chains=2, warmup=40, draws=10)
        >>> found.z.shape, found.step_size.shape, int(found.diverged.sum())
        (torch.Size([2, 10, 2, 4]), torch.Size([2]), 0)

    References:
        Neal (2011), MCMC using Hamiltonian dynamics; warm-up: Hoffman and Gelman (2014), and the Stan manual.
    """
    _check(target, num_chains, warmup, draws, trajectory, acceptance)
    chain = _Chain(target, num_chains, trajectory)
    chain.adapt(warmup, dense, acceptance, lambda done: watch(done, warmup + draws) if watch else None)
    kept = []
    for done in range(draws):
        moved = chain.move()
        kept.append((moved.z, moved.seen[0], moved.probability, moved.astray))
        if watch is not None:
            watch(warmup + done + 1, warmup + draws)
    z, log_joint, probability, astray = (torch.stack(part, 1) for part in zip(*kept, strict=True))
    return Reference(z, log_joint, probability, astray, chain.step_size.double(), chain.gradients)


def _check(
    target: Target, num_chains: int, warmup: int, draws: int, trajectory: float, acceptance: float
) -> None:
    for name, value, least in (("num_chains", num_chains, 1), ("warmup", warmup, 0), ("draws", draws, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}.")
    if not (math.isfinite(trajectory) and trajectory > 0):
        raise ValueError(f"trajectory must be a positive number; got {trajectory}.")
    if not 0 < acceptance < 1:
        raise ValueError(f"acceptance must lie between 0 and 1; got {acceptance}.")
    if not target.dim:
        raise ValueError("a reference posterior needs a target with a z; this one has no latent dimension.")


class _Chain:
    """Where S x B chains stand, and by which step sizes and scales they move."""

    def __init__(self, target: Target, num_chains: int, trajectory: float) -> None:
        self.target, self.trajectory = target, trajectory
        self.z = target.sample_prior(num_chains)
        self.seen: Seen = target.log_joint_and_grad(self.z)
        self.gradients = 1
        if not bool(self.seen[0].isfinite().all()):
            raise FloatingPointError(
                "the log joint is not finite at a draw of the prior; check the decoder's weights and the data."
            )
        self.step_size = self.z.new_full((target.batch_size,), FIRST_STEP)
        self.scale: Tensor | None = None

    def move(self) -> Moved:
        """One transition of all chains."""
        length = self.trajectory * (1 + JITTER * (2 * float(torch.rand(())) - 1))
        leapfrog = (length / self.step_size).ceil().clamp(1, MOST_LEAPFROG).long()
        self.gradients += int(leapfrog.max())
        moved = hamiltonian_transition(
            self.target.log_joint_and_grad, lambda seen: (seen[0], seen[1]),
            self.z, self.seen, self.step_size, leapfrog, self.scale,
        )  # fmt: skip
        self.z, self.seen = moved.z, moved.seen
        return moved

    def adapt(self, warmup: int, dense: bool, acceptance: float, watch: Callable[[int], None]) -> None:
        """Find step sizes and scales in so many transitions."""
        windows = warmup_windows(warmup)
        search, states = StepSearch.around(self.step_size), list[Tensor]()
        for done in range(warmup):
            moved = self.move()
            search = search.heard(moved.probability.mean(0), acceptance)
            self.step_size = search.step.to(self.z)
            if any(done in window for window in windows):
                states.append(moved.z)
            if any(done == window[-1] for window in windows):
                self.scale = estimated_scale(torch.cat(states), dense)
                # The old step size was in other units.
                self.step_size, states = torch.full_like(self.step_size, FIRST_STEP), []
                search = StepSearch.around(self.step_size)
            watch(done + 1)
        if search.heard_of:
            self.step_size = search.found.to(self.z)


@dataclass(frozen=True)
class Convergence:
    """Whether chains have met, and what their number is worth; every array has shape [B, D + 1], log joint last.

    Attributes:
        rhat: Rank-normalised split R-hat.
        ess_bulk: Effective draws for the centre.
        ess_tail: Effective draws for the quantiles of 5 % and 95 %, the smaller of the two.
        mcse_mean: Monte Carlo standard error of the mean.
        mcse_sd: And of the standard deviation.
        diverged: Share of transitions whose energy went astray, shape [B].
    """

    rhat: NDArray[np.float64]
    ess_bulk: NDArray[np.float64]
    ess_tail: NDArray[np.float64]
    mcse_mean: NDArray[np.float64]
    mcse_sd: NDArray[np.float64]
    diverged: NDArray[np.float64]

    @classmethod
    def of(cls, reference: Reference) -> Convergence:
        """Of every coordinate and of the log joint, by ArviZ.

        Raises:
            ValueError: If there are fewer than two chains, or than four draws of each.
        """
        values = torch.cat([reference.z.double(), reference.log_joint.double()[..., None]], -1)
        diverged = reference.diverged.double().mean((0, 1))
        return cls(**convergence(values.cpu().numpy()), diverged=diverged.cpu().numpy())

    @property
    def trusted(self) -> NDArray[np.bool_]:
        """Which sentences' chains may serve as a reference, shape [B]: R-hat, effective draws, no divergence."""
        enough = np.minimum(self.ess_bulk, self.ess_tail).min(-1) >= LEAST_ESS
        trusted: NDArray[np.bool_] = (self.rhat.max(-1) < RHAT) & enough & (self.diverged == 0)
        return trusted


class LongChains(nn.Module):
    """Draw z by ``reference_posterior``, thinned: Hamiltonian Monte Carlo in the shape of an inference.

    Unlike ``HamiltonianChain``, every sentence has chains, steps and a scale of its own. Draws of one chain lie
    ``thin`` transitions apart, and are as good as independent only where that is enough to forget.

    Args:
        num_chains: Chains of each sentence, among which the draws are shared.
        warmup: Transitions that adapt.
        thin: Transitions from one draw to the next.

    Example:
        >>> from sri_pyro.models import LatentTextModel, LSTMDecoder, StandardNormal
        >>> from sri_pyro.types import Batch
        >>> decoder = LSTMDecoder(vocab_size=50, latent_dim=4, embedding=8, hidden=16)
        >>> target = LatentTextModel(StandardNormal(4), decoder).target(Batch(torch.tensor([[7, 9, 3]])))
        >>> LongChains(num_chains=2, warmup=10, thin=2)(target, 5).z.shape
        torch.Size([5, 1, 4])
    """

    def __init__(self, num_chains: int = 4, warmup: int = 200, thin: int = 5) -> None:
        super().__init__()
        if thin < 1:
            raise ValueError(f"thin must be at least 1; got {thin}.")
        self.num_chains, self.warmup, self.thin = num_chains, warmup, thin

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        """Every ``thin``-th state of each chain, as many as are wanted."""
        chains = min(self.num_chains, num_samples)
        each = -(-num_samples // chains)
        found = reference_posterior(target, chains, self.warmup, each * self.thin)
        return Draws(found.z[:, self.thin - 1 :: self.thin].flatten(0, 1)[:num_samples])
