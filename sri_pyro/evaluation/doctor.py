r"""The step-size doctor: where a short run's steps stand between too small to arrive and unstable.

The run is taken again at a grid of factors on its steps and at other numbers of them, and judged by the divergence
from the posterior up to a constant of the sentence,

.. math:: F = -\mathbb{E}_q \log p(x, z) - H_G(q), \qquad \mathrm{KL}_G(q \,\|\, p(z \mid x)) = \log p(x) + F

with the debiased Gaussian entropy of independent chains. Differences of F do not need log p(x), whose estimate may
fail, and share the error of the entropy. They mean nothing where q has several modes, whose entropy :math:`H_G` is far
from: see ``doctor_shape``.

Axes: M chains, C of them whose curvature is computed, B sentences of a batch, n in all, D dimensions, K steps, R
factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sri_pyro.evaluation.doctor_examined import Ends, Examined
from sri_pyro.evaluation.doctor_findings import findings
from sri_pyro.evaluation.doctor_runs import Dynamics, Held, along
from sri_pyro.evaluation.evidence import EvidenceEstimator, estimate_evidence
from sri_pyro.evaluation.findings import Findings
from sri_pyro.target import Inference, Target, evaluating
from sri_pyro.types import Batch

FACTORS = (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0)

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
        targets: list[Target] = [model.target(batch.to(device)) for batch in batches]  # type: ignore[operator]  # a module with target(batch)
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
            dim=targets[0].dim,
            ids=torch.cat([batch.ids for batch in batches]).cpu(),
            num_tokens=torch.tensor([len(row) for row in tokens]),
            arrays=_joined(first),
            fresh=Ends.joined([own for own, _ in second]),
            lengths={num: Ends.joined([others[num] for _, others in second]) for num in dynamics.lengths},
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
    held = Held(target, dynamics, options.chains(target.dim), dynamics.num_steps)
    found = along(held, options.curvature_chains)
    grid = held.ends(options.factors, done)
    return {
        **found,
        "grid": grid.energy,
        "diverged": grid.diverged,
        "excess": grid.excess,
        "log_px": evidence.log_px,
        "khat": evidence.khat,
        "khat_threshold": evidence.threshold,
    }


def _second_look(
    target: Target, dynamics: Dynamics, best: float, chains: int, done: Callable[[], None]
) -> tuple[Ends, dict[int, Ends]]:
    """On fresh chains: the run's own steps and the best ones, R = 2, and other numbers of steps."""
    fresh = Held(target, dynamics, chains, dynamics.num_steps).ends((1.0, best), done)
    others = {}
    for num, factors in dynamics.lengths.items():
        held = Held(target, dynamics, chains, num)
        others[num] = held.ends([best * factor for factor in factors], done)
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
