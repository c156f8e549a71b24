"""What is measured of a problem: the error of every estimate, and whether its interval or bound holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.coverage.problems import DataSets
from sri_pyro.evaluation import (
    AnnealedImportance,
    GaussianImportance,
    JacobianImportance,
    Ladder,
    PriorImportance,
    estimate_evidence,
)
from sri_pyro.evaluation.evidence import EvidenceEstimator, Weighted
from sri_pyro.evaluation.upper import upper_bounds
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.bounded_means import bennett, empirical_bernstein, markov_lower
from sri_pyro.numerics.schedules import ListedSteps
from sri_pyro.target import Inference, Target

CONFIDENCE, Z = 0.95, 1.959964
AT_ONCE = 50
"""Data sets that are estimated together, as in an evaluation."""


def by_parts(data: DataSets, find: Callable[[DataSets], Mapping[str, Tensor]]) -> dict[str, list[float]]:
    """Measure some data sets at a time; the numbers of all, NaN where there is none."""
    parts = []
    assert data.target.select is not None
    for rows in torch.arange(len(data.exact)).split(AT_ONCE):
        part = DataSets(
            data.target.select(rows), data.inference, data.z[rows], data.exact[rows], data.discrete
        )
        parts.append(find(part))
    return {name: torch.cat([part[name].double() for part in parts]).tolist() for name in parts[0]}


def estimated(data: DataSets, estimator: EvidenceEstimator) -> dict[str, Tensor]:
    """An estimate, its normal interval, and what holds without one."""
    found, _ = estimate_evidence(data.target, data.inference, estimator)
    error = found.log_px - data.exact
    inside = (error.abs() <= Z * found.se).double()
    good = found.khat < found.threshold
    told: dict[str, Tensor] = {
        "error": error,
        "refused": error.isnan(),
        "covered": inside.masked_fill(error.isnan(), torch.nan),
        "covered_where_good": inside.masked_fill(~good | error.isnan(), torch.nan),
        "khat_failed": ~good,
        "markov_holds": (markov_lower(found.log_px, CONFIDENCE) <= data.exact) | error.isnan(),
    }
    if data.discrete and isinstance(estimator, GaussianImportance):
        bound = torch.full_like(error, -math.log(estimator.prior_share))
        variance = found.se.square() * found.num_samples
        for name, ends in (
            ("bernstein", empirical_bernstein(found.log_px, variance, found.num_samples, bound, CONFIDENCE)),
            ("bennett", bennett(found.log_px, found.num_samples, bound, CONFIDENCE)),
        ):
            within = (ends.lower <= data.exact) & (data.exact <= ends.upper)
            told[f"{name}_holds"] = within | ends.vacuous
            told[f"{name}_vacuous"] = ends.vacuous
    return told


@dataclass(frozen=True)
class ShortStepped:
    """An estimator of another inference: runs whose steps are a third as long.

    Attributes:
        estimator: What weighs those.
        factor: On every step.
    """

    estimator: EvidenceEstimator
    factor: float = 1 / 3

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Weights of those runs."""
        assert isinstance(inference, ShortRunLangevin)
        steps = ListedSteps([self.factor * step for step in inference.step_sizes()])
        short = ShortRunLangevin(inference.num_steps, inference.integrator, steps, record_path=True)
        return self.estimator(target, short)


def above(data: DataSets) -> dict[str, Tensor]:
    """Both upper bounds from the exact code; the truth between bounds, each given what Markov's inequality asks."""
    found = upper_bounds(data.target, data.inference, data.z)
    below, _ = estimate_evidence(data.target, data.inference, GaussianImportance())
    one_sided = 1 - (1 - CONFIDENCE) / 2
    room = -math.log(1 - one_sided)
    return {
        "below_holds": below.log_px - Z * below.se <= data.exact,
        "upper_holds": data.exact <= found.bidirectional + Z * found.bidirectional_se,
        "sandwich_holds": (markov_lower(below.log_px, one_sided) <= data.exact)
        & (data.exact <= found.bidirectional + room),
        "bidirectional": found.bidirectional - data.exact,
        "bidirectional_se": found.bidirectional_se,
        "reverse": found.reverse - data.exact,
        "reverse_se": found.reverse_se,
    }


ESTIMATORS: Mapping[str, EvidenceEstimator] = {
    "gaussian": GaussianImportance(),
    "ladder": Ladder(),
    "ladder to 0.05 nats": Ladder(target_se=0.05),
    "annealed": AnnealedImportance(),
    "jacobian": JacobianImportance(),
    "jacobian, short steps": ShortStepped(JacobianImportance()),
    "prior": PriorImportance(),
}
