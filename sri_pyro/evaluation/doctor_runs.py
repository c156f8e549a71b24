"""Short runs as the step-size doctor takes them: at any factor on their steps, on noise that is held.

Axes: M chains, C of them whose curvature is computed, B sentences, D dimensions, K steps, R factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sri_pyro.evaluation.chains import known_entropy
from sri_pyro.evaluation.curvature import precision_ends
from sri_pyro.evaluation.doctor_examined import Ends
from sri_pyro.evaluation.doctor_shape import excess_entropy
from sri_pyro.numerics.divergence import diverged
from sri_pyro.numerics.langevin import Integrator, Noise, Visit, run_langevin
from sri_pyro.target import Target

LONGER, SHORTER = (0.71, 1.0), (1.0, 1.41)
"""Factors on the best steps that are tried at 2 K and at K / 2 steps: the best steps shrink as their number grows."""


@dataclass(frozen=True)
class Dynamics:
    """What a short run does, at any factor on its steps and, if its schedule has other lengths, any number of them.

    Attributes:
        integrator: How a step is made.
        schedule: The step sizes in force of a run of so many steps.
        num_steps: K of the run.
        noise_scale: Of Langevin's noise in evaluation.
        start: Maps a target and M to where chains start, shape [M, B, D].
        rigid: Whether there are no steps for another number of them.
        started_by: ``prior`` or ``encoder``.
    """

    integrator: Integrator
    schedule: Callable[[int], list[float]]
    num_steps: int
    noise_scale: float
    start: Callable[[Target, int], Tensor]
    rigid: bool = False
    started_by: str = "prior"

    def steps(self, factor: float = 1.0, num_steps: int | None = None) -> list[float]:
        """Step sizes, multiplied."""
        return [factor * step for step in self.schedule(num_steps or self.num_steps)]

    @property
    def lengths(self) -> dict[int, tuple[float, ...]]:
        """Other numbers of steps to try, and the factors on the best steps that are tried there."""
        if self.rigid:
            return {}
        shorter = {-(-self.num_steps // 2): SHORTER} if self.num_steps > 1 else {}
        return {**shorter, 2 * self.num_steps: LONGER}


class Held:
    """Starts and noises of a batch, drawn once, so that runs differ in their steps alone."""

    def __init__(self, target: Target, dynamics: Dynamics, num_chains: int, num_steps: int) -> None:
        self.target, self.dynamics = target, dynamics
        self.start = dynamics.start(target, num_chains)
        self.noises = [torch.randn_like(self.start) for _ in range(num_steps + 1)]

    def run(self, factor: float, visit: Visit | None = None) -> Tensor:
        """Where chains end, shape [M, B, D]."""
        noise: Noise = lambda index, _: self.noises[index]  # noqa: E731  # typed, and used at once
        return run_langevin(
            self.target.log_joint_and_grad, self.start, self.dynamics.steps(factor, len(self.noises) - 1),
            self.dynamics.integrator, noise_scale=self.dynamics.noise_scale, noise=noise, visit=visit,
        )  # fmt: skip

    def ends(self, factors: Iterable[float], done: Callable[[], None]) -> Ends:
        """Where runs at each factor end."""
        prior, likelihood = self.target.value(self.start)
        rows = []
        for factor in factors:
            z = self.run(factor)
            energy, log_joint = free_energy(self.target, z)
            path = torch.stack([prior + likelihood, log_joint], -1)
            rows.append((energy, diverged(z, path).double().mean(0), excess_entropy(z)))
            done()
        return Ends(*(torch.stack(row) for row in zip(*rows, strict=True)))


def free_energy(target: Target, z: Tensor, log_joint: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""F of the law that chains end in, nats, shape [B], and log p(x, z) of each chain [M, B].

    :math:`\log p(x) + F` is a lower estimate of KL(q || posterior), exact where q is Gaussian. F is infinite where a
    chain is not finite, or all stand still.

    Args:
        target: Of B sentences.
        z: Independent draws, shape [M, B, D] with M > D + 1.
        log_joint: Of them, if it is known.
    """
    if log_joint is None:
        log_prior, log_likelihood = target.value(z)
        log_joint = log_prior + log_likelihood
    energy = -log_joint.double().mean(0) - known_entropy(z)
    return torch.where(energy.isfinite(), energy, torch.inf), log_joint


def along(held: Held, curvature_chains: int) -> dict[str, Tensor]:
    """The run as it is, step by step: energies [K + 1, B], and curvature [K + 1, C, B]."""
    positions: list[Tensor] = []
    values: list[Tensor] = []

    def visit(k: int, z: Tensor, log_joint: Tensor, grad: Tensor) -> None:
        positions.append(z)
        values.append(log_joint)

    positions.append(held.run(1.0, visit))
    prior, likelihood = held.target.value(positions[-1])
    values.append(prior + likelihood)
    log_joint = torch.stack(values).double()
    energy = torch.stack(
        [free_energy(held.target, z, value)[0] for z, value in zip(positions, values, strict=True)]
    )
    change = log_joint - log_joint[-1]
    ends = [precision_ends(held.target, z[:curvature_chains]) for z in positions]
    return {
        "log_joint": log_joint.mean(1),
        "energy": energy,
        "change": change.mean(1),
        "change_variance": change.var(1) / change.shape[1],
        "correlation": torch.stack([_correlation(positions[0], z) for z in positions]),
        "largest": torch.stack([each.largest for each in ends]),
        "smallest": torch.stack([each.smallest for each in ends]),
    }


def _correlation(start: Tensor, z: Tensor) -> Tensor:
    r"""Correlation of z with where its chain started, over chains and all dimensions together, shape [B]."""
    first, last = (each.double() - each.double().mean(0) for each in (start, z))
    scale = first.square().sum((0, 2)).sqrt() * last.square().sum((0, 2)).sqrt()
    return (first * last).sum((0, 2)) / scale
