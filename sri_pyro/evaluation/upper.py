r"""Upper bounds of log p(x), which need exact draws of the posterior: bidirectional and reverse importance sampling.

A lower bound that misses a mode cannot tell; an upper bound from the other side can. For a pair that the model
itself wrote, :math:`z^* \sim p(z), x^* \sim p(x \mid z^*)`, the code :math:`z^*` is an exact posterior draw of
:math:`x^*`, and stays one under transitions that leave the posterior invariant, whether or not they mix. Of text that
others wrote no exact draw is known: chains that start at resampled importance draws give an *approximate* upper bound.

Axes: S chains, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.evaluation.annealed import AnnealingPath, metropolis_leapfrog, weighed
from sri_pyro.evaluation.evidence import Weighted, score
from sri_pyro.evaluation.gaussian import fitted
from sri_pyro.evaluation.rungs import AnnealedRung
from sri_pyro.numerics.gaussians import Gaussian
from sri_pyro.numerics.weights import log_mean_exp, log_mean_exp_se, normalised
from sri_pyro.target import Inference, Target

CHAINS = 16
"""Chains of each sentence."""
MOVES = 20
"""Transitions that carry them away from their common start."""
EVERY = 2
"""Transitions from one state that is weighed to the next."""
NARROWING = 0.8
r"""Factor on a fitted covariance: :math:`r / p` is bounded in the tails only for a density that is too narrow."""
PILOT_CHAINS, SHARE, MOST_TEMPERATURES, LEAPFROG = 64, 0.99, 200, 3


@dataclass(frozen=True)
class UpperBounds:
    r"""Upper bounds of each sentence's log p(x), in expectation, by two ways; nats, shape [B].

    Attributes:
        bidirectional: By annealed importance sampling backwards.
        bidirectional_se: Its Monte Carlo error over chains, which share a start: too small where they do not mix.
        reverse: By a narrow Gaussian over the chains' states.
        reverse_se: The same of it.
    """

    bidirectional: Tensor
    bidirectional_se: Tensor
    reverse: Tensor
    reverse_se: Tensor


def upper_bounds(target: Target, inference: Inference, z: Tensor) -> UpperBounds:
    r"""Both upper bounds from posterior draws.

    .. math:: \mathbb{E}\Big[-\log \frac1S \sum_s \frac1{w_s}\Big] \ge \log p(x), \qquad
              \mathbb{E} \frac1w = \frac1{p(x)}

    with w the weight of annealed importance sampling along the path backwards from a posterior draw, or
    :math:`w = p(x, z)/r(z)` at it. Temperatures, steps and the Gaussian r are fitted to runs that know nothing of z.

    Args:
        target: The log joint.
        inference: Whose runs r is fitted to.
        z: A posterior draw of every sentence, shape [B, D], from which all chains start; or one for each chain
            [S, B, D].

    References:
        Bidirectional Monte Carlo: Grosse, Ghahramani, Adams (2015). Reverse importance sampling: Gelfand and Dey
        (1994).
    """
    path = AnnealedRung.adapted(target, PILOT_CHAINS, SHARE, MOST_TEMPERATURES, "hmc", LEAPFROG).path
    fit = fitted(target, inference, PILOT_CHAINS)
    narrow = Gaussian.from_moments(fit.moments.mean, NARROWING * fit.moments.covariance).to(z.dtype)
    chains = z.expand(CHAINS, *z.shape) if z.ndim == 2 else z
    states = posterior_states(target, path, chains)
    with torch.no_grad():
        log_inverse = torch.cat([-score(target, at, narrow.log_prob(at)).log_weight for at in states])
    backwards = -anneal_back(target, path, states[-1])
    return UpperBounds(
        -log_mean_exp(backwards.double()),
        log_mean_exp_se(backwards.double()),
        -log_mean_exp(log_inverse.double()),
        log_mean_exp_se(log_inverse.double()),
    )


def posterior_states(target: Target, path: AnnealingPath, z: Tensor) -> list[Tensor]:
    """Every second state of chains [S, B, D] that leave the posterior invariant, at the path's last step size."""
    here, states = target.value_and_grad(z), []
    for move in range(1, MOVES + 1):
        z, here, _ = metropolis_leapfrog(target, z, here, path.steps[-1], 1.0, path.leapfrog)
        if move % EVERY == 0:
            states.append(z)
    return states


def anneal_back(target: Target, path: AnnealingPath, z: Tensor) -> Tensor:
    r"""Log weights of annealed importance sampling for chains that pass its path backwards.

    A transition that leaves a law invariant and is reversible, as ours are, is its own reversal, so that the path from
    a posterior draw z_T through z_{T-1}, ..., z_0 has the law of forward paths up to the weight,
    :math:`\log w = \sum_k (\beta_k - \beta_{k-1}) \log p(x \mid z_{k-1})`.

    Args:
        target: The log joint.
        path: Settled before.
        z: Posterior draws, shape [S, B, D].

    Returns:
        Shape [S, B].
    """
    here = target.value_and_grad(z)
    log_weight = torch.zeros_like(here.log_likelihood)
    for power, increment, h in reversed(list(zip(path.powers, path.increments(), path.steps, strict=True))):
        z, here, _ = metropolis_leapfrog(target, z, here, h, power, path.leapfrog)
        log_weight = log_weight + weighed(increment, here.log_likelihood)
    return log_weight


def resampled(draws: Weighted, num_samples: int = CHAINS) -> Tensor:
    """Importance draws chosen by their weights: posterior draws as far as those are good, shape [S, B, D]."""
    shares = normalised(draws.log_weight.double()).nan_to_num(1.0)
    index = torch.multinomial(shares.T, num_samples, replacement=True).T
    return draws.z.gather(0, index[..., None].expand(-1, -1, draws.z.shape[-1]))
