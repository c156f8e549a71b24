r"""The step-size doctor: where a short run's steps stand between too small to arrive and unstable.

The run is taken again at a grid of factors on its steps and at other numbers of them, and judged by the divergence
from the posterior up to a constant of the sentence,

.. math:: F = -\mathbb{E}_q \log p(x, z) - H_G(q), \qquad \mathrm{KL}_G(q \,\|\, p(z \mid x)) = \log p(x) + F

with the debiased Gaussian entropy of independent chains. Differences of F do not need log p(x), whose estimate may
fail, and share the error of the entropy.

Axes: M chains, C of them whose curvature is computed, B sentences of a batch, n in all, D dimensions, K steps, R
factors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sri_pyro.evaluation.chains import known_entropy
from sri_pyro.evaluation.curvature import precision_ends
from sri_pyro.evaluation.doctor_findings import Examined, findings
from sri_pyro.evaluation.evidence import EvidenceEstimator, estimate_evidence
from sri_pyro.evaluation.findings import Findings
from sri_pyro.numerics.divergence import diverged
from sri_pyro.numerics.langevin import Integrator, Noise, Visit, run_langevin
from sri_pyro.target import Inference, Target, evaluating
from sri_pyro.types import Batch

FACTORS = (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0)
LONGER, SHORTER = (0.71, 1.0), (1.0, 1.41)
"""Factors on the best steps that are tried at 2 K and at K / 2 steps: the best steps shrink as their number grows."""

Watch = Callable[[int, int], None]
"""Told how many runs of all sentences are done, and of how many."""


@dataclass(frozen=True)
class DoctorOptions:
    """How much ``examine`` spends.

    Attributes:
        num_chains: M at least; four times the latent dimensions are taken where that is more. The Gaussian entropy of
            few chains is noisy, so that few sentences with many chains tell more than the reverse.
        curvature_chains: C, chains of each sentence whose curvature is computed at every step.
        factors: On the run's own steps; 1 is among them.

    Raises:
        ValueError: If a count or a factor is out of range.
    """

    num_chains: int = 128
    curvature_chains: int = 4
    factors: Sequence[float] = FACTORS

    def __post_init__(self) -> None:
        if self.num_chains < 8 or not 1 <= self.curvature_chains <= self.num_chains:
            raise ValueError(
                "the doctor needs num_chains of at least 8 and curvature_chains from 1 to that; got "
                f"{self.num_chains} and {self.curvature_chains}."
            )
        if (
            1.0 not in self.factors
            or min(self.factors) <= 0
            or list(self.factors) != sorted(set(self.factors))
        ):
            raise ValueError(f"factors must be positive, increasing, and hold 1; got {list(self.factors)}.")

    def chains(self, dim: int) -> int:
        """How many chains each sentence gets."""
        return max(self.num_chains, 4 * dim)


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


class _Held:
    """Starts and noises of a batch, drawn once, so that runs differ in their steps alone."""

    def __init__(self, target: Target, dynamics: Dynamics, num_chains: int, num_steps: int) -> None:
        self.target, self.dynamics = target, dynamics
        self.start = dynamics.start(target, num_chains)
        self.noises = [torch.randn_like(self.start) for _ in range(num_steps + 1)]

    def run(self, factor: float, visit: Visit | None = None) -> Tensor:
        noise: Noise = lambda index, _: self.noises[index]  # noqa: E731  # typed, and used at once
        return run_langevin(
            self.target.log_joint_and_grad, self.start, self.dynamics.steps(factor, len(self.noises) - 1),
            self.dynamics.integrator, noise_scale=self.dynamics.noise_scale, noise=noise, visit=visit,
        )  # fmt: skip

    def ends(self, factors: Iterable[float], done: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """F and the share of diverged chains of runs at each factor, both [R, B]."""
        prior, likelihood = self.target.value(self.start)
        energies, shares = [], []
        for factor in factors:
            z = self.run(factor)
            energy, log_joint = free_energy(self.target, z)
            path = torch.stack([prior + likelihood, log_joint], -1)
            energies.append(energy)
            shares.append(diverged(z, path).double().mean(0))
            done()
        return torch.stack(energies), torch.stack(shares)


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


def examine(
    model: nn.Module,
    inference: Inference,
    dynamics: Dynamics,
    batches: Sequence[Batch],
    estimator: EvidenceEstimator,
    options: DoctorOptions | None = None,
    *,
    watch: Watch | None = None,
) -> Findings:
    """Examine the steps of a short run on some sentences.

    The best factor is chosen on one set of chains; what it gains over the run's own steps is then measured on another,
    so that the choice does not flatter it.

    Args:
        model: A ``LatentTextModel``, or any module with ``target(batch)``. Held in eval mode meanwhile.
        inference: The run itself, which the estimator of log p(x) may need.
        dynamics: What it does.
        batches: Sentences; those of a batch are run at once.
        estimator: Of log p(x).
        options: How much to spend.
        watch: Told of progress.

    Returns:
        The findings ``doctor``; ``verdicts.judge_doctor`` says what they mean.

    Raises:
        ValueError: If there are fewer than two sentences, or the model has no z.
    """
    options = options or DoctorOptions()
    if sum(map(len, batches)) < 2:
        raise ValueError(f"the doctor needs at least 2 sentences; got {sum(map(len, batches))}.")
    device = next(model.parameters()).device
    total = len(batches) * (1 + len(options.factors) + 2 + sum(map(len, dynamics.lengths.values())))
    taken = 0

    def done() -> None:
        nonlocal taken
        taken += 1
        if watch is not None:
            watch(taken, total)

    with evaluating(model):
        targets: list[Target] = [model.target(batch.to(device)) for batch in batches]  # type: ignore[operator]
        if not targets[0].dim:
            raise ValueError("the model has no z, and so no steps to examine.")
        chains = options.chains(targets[0].dim)
        first = [_first_look(target, inference, dynamics, estimator, options, done) for target in targets]
        grid = torch.cat([each["grid"] for each in first], 1)
        means = grid.mean(1)
        best = options.factors[int(means.argmin())] if bool(means.isfinite().any()) else min(options.factors)
        second = [_second_look(target, dynamics, best, chains, done) for target in targets]
    tokens = [row[row != 0].tolist() for batch in batches for row in batch.tokens.cpu()]
    return findings(
        Examined(
            steps=dynamics.steps(),
            integrator=type(dynamics.integrator).__name__,
            maps=dynamics.integrator.moves_position_only,
            noise_scale=dynamics.noise_scale,
            started_by=dynamics.started_by,
            factors=options.factors,
            best=best,
            num_chains=chains,
            ids=torch.cat([batch.ids for batch in batches]).cpu(),
            num_tokens=torch.tensor([len(row) for row in tokens]),
            arrays=_joined(first),
            fresh=torch.cat([own for own, _ in second], 1).cpu(),
            lengths={
                num: torch.cat([others[num] for _, others in second], 1).cpu() for num in dynamics.lengths
            },
            length_factors=dynamics.lengths,
        )
    )


def _first_look(
    target: Target,
    inference: Inference,
    dynamics: Dynamics,
    estimator: EvidenceEstimator,
    options: DoctorOptions,
    done: Callable[[], None],
) -> dict[str, Tensor]:
    """Everything about the run as it is, and the grid; sentences on the last axis but for the chains of curvature."""
    evidence, _ = estimate_evidence(target, inference, estimator)
    done()
    held = _Held(target, dynamics, options.chains(target.dim), dynamics.num_steps)
    found = _along(held, options.curvature_chains)
    grid, shares = held.ends(options.factors, done)
    return {
        **found,
        "grid": grid,
        "diverged": shares,
        "log_px": evidence.log_px,
        "khat": evidence.khat,
        "khat_threshold": evidence.threshold,
    }


def _along(held: _Held, curvature_chains: int) -> dict[str, Tensor]:
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


def _second_look(
    target: Target, dynamics: Dynamics, best: float, chains: int, done: Callable[[], None]
) -> tuple[Tensor, dict[int, Tensor]]:
    """On fresh chains: F of the run's own steps and of the best ones [2, B], and at other numbers of steps [r, B]."""
    fresh = _Held(target, dynamics, chains, dynamics.num_steps).ends((1.0, best), done)[0]
    others = {}
    for num, factors in dynamics.lengths.items():
        held = _Held(target, dynamics, chains, num)
        others[num] = held.ends([best * factor for factor in factors], done)[0]
    return fresh, others


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], -1).double().cpu() for name in parts[0]}


def without_steps(kind: str) -> Findings:
    """The findings of a run whose inference takes no Langevin steps: that it has none.

    Example:
        >>> without_steps("amortized").numbers
        {'inference': 'amortized', 'num_steps': 0}
    """
    numbers: dict[str, Any] = {"inference": kind, "num_steps": 0}
    return Findings("doctor", numbers)
