r"""Annealed importance sampling (``annealed``): log p(x) along a path from the prior to the posterior.

Axes: S draws, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sri_pyro.evaluation.evidence import COLUMNS, PriorImportance, Weighted, all_rows, require_samples
from sri_pyro.numerics.hamiltonian import hamiltonian_transition
from sri_pyro.target import Inference, JointGradient, Target

Transition = Literal["langevin", "hmc"]
TARGET_ACCEPTANCE: Mapping[Transition, float] = {"langevin": 0.57, "hmc": 0.65}
"""Acceptance rates the pilot steers for (Roberts and Rosenthal 1998; Beskos et al. 2013)."""


@dataclass(frozen=True)
class AnnealedImportance:
    r"""Annealed importance sampling with Metropolis-corrected Langevin or HMC transitions.

    The chain passes the densities :math:`p(z)\,p(x \mid z)^{\beta_k}` with
    :math:`0 = \beta_0 < \dots < \beta_T = 1`, moved at each by a transition that leaves it invariant, and collects

    .. math:: \log w = \sum_{k=1}^{T} (\beta_k - \beta_{k-1}) \log p(x \mid z_{k-1}), \qquad
              \mathbb{E}\, w = p(x)

    A pilot run adapts a step size for every sentence and temperature; the run that counts keeps them
    fixed, so the weights are exactly unbiased. It shares nothing with the fitted Gaussian and so is its
    cross-check.

    Attributes:
        num_samples: S, chains per sentence.
        temperatures: T, how many laws from the prior to the posterior.
        transition: ``langevin`` (one leapfrog step, MALA) or ``hmc``.
        leapfrog: Leapfrog steps of an HMC transition.
        step_size: h at which the pilot's adaptation begins.
        power: Temperatures are :math:`\beta_k = (k/T)^{\text{power}}`: denser near the prior.

    References:
        Neal (2001), Annealed importance sampling.
    """

    num_samples: int = 128
    temperatures: int = 50
    transition: Transition = "hmc"
    leapfrog: int = 3
    step_size: float = 0.4
    power: float = 2.0

    def __post_init__(self) -> None:
        require_samples(self.num_samples)
        if min(self.temperatures, self.leapfrog) < 1 or self.step_size <= 0 or self.power <= 0:
            raise ValueError(
                "the estimator 'annealed' needs temperatures and leapfrog >= 1, and positive step_size and "
                f"power; got {self.temperatures}, {self.leapfrog}, {self.step_size} and {self.power}."
            )
        if self.transition not in TARGET_ACCEPTANCE:
            raise ValueError(f"unknown transition {self.transition!r}; known: hmc, langevin.")

    looks = 1

    def log_bound(self, rounds: Tensor) -> Tensor:
        """No weight is above 1, as a product of powers of likelihoods that are not."""
        return torch.zeros_like(rounds, dtype=torch.float64)

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Adapt on a pilot, then run and weigh; the inference is not used."""
        if target.dim == 0:
            return PriorImportance()(target, inference)
        chunk = max(1, COLUMNS // 2 // target.batch_size)
        powers = ((k / self.temperatures) ** self.power for k in range(1, self.temperatures + 1))
        path = adapted(
            target, min(8, chunk), lambda *_: next(powers), self.transition, self.leapfrog, self.step_size
        )
        sizes = [min(chunk, self.num_samples - done) for done in range(0, self.num_samples, chunk)]
        runs = [anneal(target, path, size) for size in sizes]
        z, log_weight, log_likelihood = (torch.cat(values) for values in zip(*runs, strict=True))
        none = torch.zeros(target.batch_size, dtype=torch.int64, device=z.device)
        weighted = Weighted(z, log_weight, log_likelihood, rounds=none + 1, refused=none > 0)
        return [(all_rows(z), weighted)]


@dataclass(frozen=True)
class AnnealingPath:
    r"""Powers of the likelihood from prior to posterior, and how chains move at each; fixed before a run that counts.

    Attributes:
        powers: :math:`\beta_1, \dots, \beta_T = 1`, each a number or one for every sentence [B].
        steps: Step size at each, shape [B].
        leapfrog: Leapfrog steps of a transition.
    """

    powers: Sequence[float | Tensor]
    steps: Sequence[Tensor]
    leapfrog: int

    def at(self, rows: Tensor) -> AnnealingPath:
        """That of some sentences."""
        powers = [power[rows] if isinstance(power, Tensor) else power for power in self.powers]
        return AnnealingPath(powers, [step[rows] for step in self.steps], self.leapfrog)

    def increments(self) -> list[float | Tensor]:
        r""":math:`\beta_k - \beta_{k-1}` for k = 1, ..., T."""
        return [after - before for before, after in zip([0.0, *self.powers], self.powers, strict=False)]


def adapted(
    target: Target,
    num_samples: int,
    next_power: Callable[[float | Tensor, Tensor], float | Tensor],
    transition: Transition,
    leapfrog: int,
    step_size: float,
) -> AnnealingPath:
    r"""Pass from the prior to the posterior once, and choose powers and step sizes on the way.

    Args:
        target: The log joint.
        num_samples: Chains of the pilot.
        next_power: Gives :math:`\beta_k` from :math:`\beta_{k-1}` and the chains' log p(x | z) [S, B]; until it is 1.
        transition: Whose acceptance rate is steered for.
        leapfrog: Leapfrog steps of an HMC transition.
        step_size: At which the adaptation begins.
    """
    z = target.sample_prior(num_samples)
    here = target.value_and_grad(z)
    h = z.new_full((target.batch_size,), step_size)
    leapfrog = 1 if transition == "langevin" else leapfrog
    power: float | Tensor = 0.0
    powers: list[float | Tensor] = []
    steps: list[Tensor] = []
    while not arrived(power):
        power = next_power(power, here.log_likelihood)
        powers.append(power)
        steps.append(h)
        z, here, accepted = metropolis_leapfrog(target, z, here, h, power, leapfrog)
        error = accepted.mean(0) - TARGET_ACCEPTANCE[transition]
        h = (h * (0.8 * error).exp()).clamp(1e-4, 3.0)
    return AnnealingPath(powers, steps, leapfrog)


def arrived(power: float | Tensor) -> bool:
    """Whether every sentence's power is 1."""
    return bool((power >= 1).all()) if isinstance(power, Tensor) else power >= 1


def anneal(target: Target, path: AnnealingPath, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Independent chains along a path: their ends z [S, B, D], log weights and log p(x | z) there, each [S, B]."""
    z = target.sample_prior(num_samples)
    here = target.value_and_grad(z)
    log_weight = torch.zeros_like(here.log_likelihood)
    for power, increment, h in zip(path.powers, path.increments(), path.steps, strict=True):
        log_weight = log_weight + weighed(increment, here.log_likelihood)
        z, here, _ = metropolis_leapfrog(target, z, here, h, power, path.leapfrog)
    return z, log_weight, here.log_likelihood


def weighed(increment: float | Tensor, log_likelihood: Tensor) -> Tensor:
    """An increment of the power times log p(x | z) [S, B]; of a sentence that has arrived 0, were that 0 * -inf."""
    if isinstance(increment, Tensor):
        return torch.where(increment == 0, 0.0, increment * log_likelihood)
    return increment * log_likelihood


def metropolis_leapfrog(
    target: Target,
    z: Tensor,
    here: JointGradient,
    step_size: Tensor,
    power: float | Tensor,
    leapfrog: int,
) -> tuple[Tensor, JointGradient, Tensor]:
    r"""A ``hamiltonian_transition`` on :math:`p(z)\,p(x \mid z)^\beta` for every chain; MALA if ``leapfrog`` is 1.

    A transition costs ``leapfrog`` gradients: that at the start serves every temperature.

    Args:
        target: The log joint.
        z: Positions, shape [S, B, D].
        here: The log joint and its gradient there.
        step_size: h of every sentence, shape [B].
        power: :math:`\beta`, one for all or one for each sentence [B].
        leapfrog: Number of leapfrog steps.

    Returns:
        Positions [S, B, D], the log joint and its gradient there, and acceptance probabilities [S, B].
    """
    moved = hamiltonian_transition(
        target.value_and_grad, lambda seen: JointGradient(*seen).tempered(power), z, here, step_size, leapfrog
    )
    return moved.z, JointGradient(*moved.seen), moved.probability
