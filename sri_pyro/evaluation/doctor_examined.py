"""What an examination of a short run's steps saw, and which of its runs may be compared.

Axes: C chains whose curvature is known, B sentences of a batch, n in all, R factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sri_pyro.evaluation.doctor_shape import mean_excess, near_gaussian
from sri_pyro.evaluation.metrics import GAUSSIAN_ENTROPY, mean_estimate
from sri_pyro.types import Estimate


class Ends(NamedTuple):
    """Where runs at R factors end, each [R, B], or [R, n] of all batches.

    Attributes:
        energy: F, nats.
        diverged: Share of chains that diverged.
        excess: What the Gaussian entropy in F is too large by, at least, nats.
    """

    energy: Tensor
    diverged: Tensor
    excess: Tensor

    @classmethod
    def joined(cls, batches: Sequence[Ends]) -> Ends:
        """Those of all batches."""
        return cls(*(torch.cat(parts, 1).double().cpu() for parts in zip(*batches, strict=True)))


@dataclass(frozen=True)
class Taken:
    """A run that conclusions rest on.

    Attributes:
        num_steps: Its number of steps.
        factor: On the steps of its schedule.
        energy: F, shape [n].
        kl: log p(x) + F, its mean over sentences whose weights pass.
        excess: Mean over sentences.
        gaussian: Whether nothing shows that its draws are too far from Gaussian for F.
    """

    num_steps: int
    factor: float
    energy: Tensor
    kl: Estimate
    excess: Estimate
    gaussian: bool


@dataclass(frozen=True)
class Examined:
    """What ``doctor.examine`` saw.

    Attributes:
        steps: The run's own step sizes.
        integrator: Name of its class.
        maps: Whether a step is a map of z alone, which can fold.
        noise_scale: Of its noise.
        started_by: ``prior`` or ``encoder``.
        factors: On the steps, R of them.
        best: The one with the least mean F.
        num_chains: Chains of each sentence.
        dim: D.
        ids: Of the sentences, shape [n].
        num_tokens: Theirs, shape [n].
        arrays: By name, of all sentences; see ``doctor``.
        fresh: Runs of the own and of the best steps on fresh chains, R = 2.
        lengths: Runs of other numbers of steps, by number.
        length_factors: The factors on the best steps that were tried there.
    """

    steps: Sequence[float]
    integrator: str
    maps: bool
    noise_scale: float
    started_by: str
    factors: Sequence[float]
    best: float
    num_chains: int
    dim: int
    ids: Tensor
    num_tokens: Tensor
    arrays: Mapping[str, Tensor]
    fresh: Ends
    lengths: Mapping[int, Ends]
    length_factors: Mapping[int, Sequence[float]]

    @property
    def log_px(self) -> Tensor:
        """Of sentences whose weights pass, NaN of others, shape [n]."""
        passed = self.arrays["khat"] < self.arrays["khat_threshold"]
        return torch.where(passed, self.arrays["log_px"], torch.nan)

    @property
    def stiffness(self) -> Tensor:
        """Largest eigenvalue of the negative Hessian where chains end, their mean, shape [n]."""
        return self.arrays["largest"][-1].nanmean(0)

    @cached_property
    def own_and_best(self) -> tuple[Taken, Taken]:
        """At the run's own number of steps, on fresh chains."""
        num = len(self.steps)
        return self._taken(num, 1.0, self.fresh, 0), self._taken(num, self.best, self.fresh, 1)

    @cached_property
    def others(self) -> list[Taken]:
        """At other numbers of steps, each with the better of the factors tried there."""
        found = []
        for num, ends in self.lengths.items():
            row = int(ends.energy.mean(1).argmin())
            found.append(self._taken(num, self.best * self.length_factors[num][row], ends, row))
        return found

    @property
    def withheld(self) -> bool:
        """Whether no divergence of the run is told: F flatters it, or the steps that would be called best."""
        return not all(run.gaussian for run in self.own_and_best)

    @property
    def compared(self) -> list[Taken]:
        """Other numbers of steps that F may be compared of."""
        return [] if self.withheld else [run for run in self.others if run.gaussian]

    def _taken(self, num_steps: int, factor: float, ends: Ends, row: int) -> Taken:
        excess = mean_excess(ends.excess[row], self.num_chains, self.dim)
        kl = mean_estimate(self.log_px + ends.energy[row], GAUSSIAN_ENTROPY)
        return Taken(num_steps, factor, ends.energy[row], kl, excess, near_gaussian(excess, kl))
