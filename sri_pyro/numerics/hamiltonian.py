r"""Hamiltonian transitions for many chains at once: leapfrog, Metropolis correction, and what a warm-up adapts.

A chain at z has a velocity :math:`v \sim \mathcal{N}(0, I)` in the coordinates :math:`y` of :math:`z = A y`, for a
scale A of every sentence: the mass matrix is :math:`(A A^\top)^{-1}`. One leapfrog step of size h is

.. math:: v \mathrel{+}= \tfrac h2 A^\top \nabla \log p(z), \qquad z \mathrel{+}= h A v, \qquad
          v \mathrel{+}= \tfrac h2 A^\top \nabla \log p(z).

Axes: S chains, B sentences, D latent dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sri_pyro.numerics.gaussians import Gaussian, moments

Seen = tuple[Tensor, ...]
"""What is known where chains stand: tensors of leading axes [S, B]."""
Look = Callable[[Tensor], Seen]
"""Maps positions [S, B, D] to what is known there."""
Drift = Callable[[Seen], tuple[Tensor, Tensor]]
"""Reads the log density [S, B], nats, and its gradient [S, B, D] from what is known."""

ASTRAY = 1000.0
"""Nats of energy that a trajectory may lose or gain; beyond, it diverged (as in Stan)."""


class Moved(NamedTuple):
    """Where a transition leaves the chains.

    Attributes:
        z: Positions, shape [S, B, D].
        seen: What is known there.
        probability: Of acceptance, shape [S, B].
        astray: Whether the trajectory's energy went astray, or was not finite, shape [S, B].
    """

    z: Tensor
    seen: Seen
    probability: Tensor
    astray: Tensor


def hamiltonian_transition(
    look: Look,
    drift: Drift,
    z: Tensor,
    seen: Seen,
    step_size: Tensor,
    leapfrog: int | Tensor,
    scale: Tensor | None = None,
) -> Moved:
    r"""One transition of Hamiltonian Monte Carlo for every chain; it leaves the density invariant.

    Chains are accepted or rejected one by one; a proposal whose energy is not finite is rejected. With one leapfrog
    step it is the Metropolis-adjusted Langevin algorithm with :math:`s = h^2 / 2`. The cost is the largest
    ``leapfrog``, in gradients: what is known at the start is not asked for again.

    Args:
        look: Computes what is known at a position.
        drift: Reads density and gradient from it.
        z: Positions, shape [S, B, D].
        seen: What is known there.
        step_size: h of every sentence, shape [B].
        leapfrog: Leapfrog steps, of all sentences or of each, shape [B].
        scale: A of every sentence, its diagonal [B, D] or lower triangular [B, D, D]; None for I.

    References:
        Neal (2011), MCMC using Hamiltonian dynamics.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> standard = lambda z: (-0.5 * z.square().sum(-1), -z)
        >>> z = torch.zeros(100, 1, 2)
        >>> moved = hamiltonian_transition(standard, lambda seen: seen, z, standard(z), torch.tensor([0.1]), 10)
        >>> moved.z.shape, bool(moved.probability.min() > 0.98)
        (torch.Size([100, 1, 2]), True)
    """
    value, grad = drift(seen)
    velocity = torch.randn_like(z)
    start = 0.5 * velocity.square().sum(-1) - value
    position, there = z, seen
    each = isinstance(leapfrog, Tensor)
    for step in range(int(leapfrog.max()) if isinstance(leapfrog, Tensor) else leapfrog):
        # A step of size 0 moves nothing: so a sentence waits for those with longer trajectories.
        h = (step_size * (step < leapfrog) if each else step_size)[:, None]
        velocity = velocity + 0.5 * h * _pulled(scale, grad)
        position = position + h * _stretched(scale, velocity)
        there = look(position)
        value, grad = drift(there)
        velocity = velocity + 0.5 * h * _pulled(scale, grad)
    end = 0.5 * velocity.square().sum(-1) - value
    change = torch.nan_to_num(start - end, nan=-torch.inf, neginf=-torch.inf)
    probability = change.clamp(max=0).exp()
    accept = torch.rand_like(probability) < probability
    kept = tuple(
        torch.where(accept if new.ndim == 2 else accept[..., None], new, old)
        for new, old in zip(there, seen, strict=True)
    )
    return Moved(torch.where(accept[..., None], position, z), kept, probability, ~(change.abs() < ASTRAY))


def _stretched(scale: Tensor | None, vector: Tensor) -> Tensor:
    """A times vectors [S, B, D]."""
    if scale is None or scale.ndim == 2:
        return vector if scale is None else scale * vector
    return torch.einsum("bde,sbe->sbd", scale, vector)


def _pulled(scale: Tensor | None, vector: Tensor) -> Tensor:
    """The transpose of A times vectors [S, B, D]."""
    if scale is None or scale.ndim == 2:
        return vector if scale is None else scale * vector
    return torch.einsum("bed,sbe->sbd", scale, vector)


# --- Adaptation --------------------------------------------------------------------------------------------

SHRINKAGE, DELAY, FORGETTING = 0.05, 10.0, 0.75
"""Of dual averaging: gamma, t_0 and kappa, as published."""


class StepSearch(NamedTuple):
    r"""A search for step sizes at which a wanted share of proposals is accepted, by dual averaging.

    .. math:: \bar H_t = \big(1 - \tfrac1{t + t_0}\big) \bar H_{t-1} + \tfrac1{t + t_0} (\delta - \alpha_t), \quad
              \log h_t = \mu - \tfrac{\sqrt t}{\gamma} \bar H_t, \quad
              \log \bar h_t = t^{-\kappa} \log h_t + (1 - t^{-\kappa}) \log \bar h_{t-1}

    Attributes:
        log_step: Logarithm of the step size to be tried next, shape [B].
        log_average: Of the average, which is what the search finds, shape [B].
        shortfall: :math:`\bar H`, shape [B].
        anchor: :math:`\mu`, shape [B].
        heard_of: t, transitions so far.

    References:
        Hoffman and Gelman (2014), Algorithm 5.

    Example:
        >>> search = StepSearch.around(torch.tensor([1.0]))
        >>> for _ in range(50):  # a step h is accepted with probability exp(-h)
        ...     search = search.heard((-search.step).exp(), wanted=0.8)
        >>> abs(search.found.item() + math.log(0.8)) < 0.05
        True
    """

    log_step: Tensor
    log_average: Tensor
    shortfall: Tensor
    anchor: Tensor
    heard_of: int

    @classmethod
    def around(cls, step_size: Tensor) -> StepSearch:
        """A search that begins at some step sizes, shape [B]."""
        log_step = step_size.double().log()
        return cls(log_step, log_step, torch.zeros_like(log_step), log_step + math.log(2.0), 0)

    @property
    def step(self) -> Tensor:
        """The step sizes to be tried next, shape [B]."""
        return self.log_step.exp()

    @property
    def found(self) -> Tensor:
        """The step sizes that the search has come to, shape [B]."""
        return self.log_average.exp()

    def heard(self, acceptance: Tensor, wanted: float) -> StepSearch:
        """The search after another transition, of whose acceptance probabilities the means are given, shape [B]."""
        count = self.heard_of + 1
        weight = 1 / (count + DELAY)
        shortfall = (1 - weight) * self.shortfall + weight * (wanted - acceptance.double())
        log_step = self.anchor - math.sqrt(count) / SHRINKAGE * shortfall
        share = count**-FORGETTING
        average = share * log_step + (1 - share) * self.log_average
        return StepSearch(log_step, average, shortfall, self.anchor, count)


FIRST, LAST, SMALLEST = 0.15, 0.2, 25
"""Of a warm-up: the shares at its begin and end in which the step size alone adapts, and the first window between."""


def warmup_windows(warmup: int) -> list[range]:
    """The windows of a warm-up at whose ends the scale is estimated anew, from the window's states alone.

    Each is twice as long as the one before it, and the last takes what is left. A warm-up too short for one has none.

    References:
        The Stan reference manual, Section 15.2, Automatic parameter tuning.

    Example:
        >>> warmup_windows(200)
        [range(30, 55), range(55, 160)]
        >>> warmup_windows(20)
        []
    """
    start, end, size = round(FIRST * warmup), warmup - round(LAST * warmup), SMALLEST
    found = []
    while start + size <= end:
        if start + 3 * size > end:
            size = end - start
        found.append(range(start, start + size))
        start, size = start + size, 2 * size
    return found


def estimated_scale(z: Tensor, dense: bool) -> Tensor:
    r"""A scale A with :math:`A A^\top` near the covariance of states [N, B, D], for ``hamiltonian_transition``.

    A covariance of N states is shrunk towards its own diagonal by 5 D of N + 5 D parts, and variances towards 0.001 by
    5 of N + 5. Whatever the scale, the chain is right; a good one makes it fast.

    Args:
        z: States of all chains of every sentence.
        dense: Whether to give a matrix, [B, D, D] and lower triangular, or a diagonal [B, D].
    """
    num, dim = len(z), z.shape[-1]
    fit = moments(z.double())
    variance = fit.covariance.diagonal(dim1=-2, dim2=-1)
    steadied = (num * variance + 5e-3) / (num + 5)
    if not dense:
        return steadied.sqrt().to(z.dtype)
    own = num / (num + 5 * dim) * (fit.covariance - torch.diag_embed(variance))
    return Gaussian.from_moments(fit.mean, own + torch.diag_embed(steadied)).factor.to(z.dtype)
