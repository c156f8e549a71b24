"""What is measured of a problem: the error of every estimate, and whether its interval or bound holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.coverage.problems import DataSets
from sri_pyro.evaluation import AnnealedImportance, GaussianImportance, Ladder, estimate_evidence
from sri_pyro.evaluation.evidence import EvidenceEstimator, infer
from sri_pyro.evaluation.upper import upper_bounds
from sri_pyro.numerics.bounded_means import bennett, empirical_bernstein, markov_lower
from sri_pyro.numerics.gaussians import Gaussian, moments
from sri_pyro.numerics.weights import log_mean_exp

CONFIDENCE, Z = 0.95, 1.959964
AT_ONCE = 50
"""Data sets that are estimated together, as in an evaluation."""
Row = dict[str, Any]
"""Errors and verdicts of every data set: ``error``, ``covered`` (None of a bound), ``khat_failed``, ``vacuous``."""


def by_parts(data: DataSets, find: Callable[[DataSets], Mapping[str, Tensor]]) -> dict[str, list[float]]:
    """Measure some data sets at a time; numbers of all."""
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
    told: dict[str, Tensor] = {
        "error": error,
        "covered": error.abs() <= Z * found.se,
        "khat_failed": ~(found.khat < found.threshold),
        "markov_holds": markov_lower(found.log_px, CONFIDENCE) <= data.exact,
    }
    if data.discrete and isinstance(estimator, GaussianImportance):
        bound = torch.full_like(error, -math.log(estimator.prior_share))
        variance = found.se.square() * found.num_samples
        for name, ends in (
            ("bernstein", empirical_bernstein(found.log_px, variance, found.num_samples, bound, CONFIDENCE)),
            ("bennett", bennett(found.log_px, found.num_samples, bound, CONFIDENCE)),
        ):
            inside = (ends.lower <= data.exact) & (data.exact <= ends.upper)
            told[f"{name}_holds"] = inside | ends.vacuous
            told[f"{name}_vacuous"] = ends.vacuous
    return told


def above(data: DataSets) -> dict[str, Tensor]:
    """Both upper bounds from the exact code."""
    found = upper_bounds(data.target, data.inference, data.z)
    return {
        "bidirectional": found.bidirectional - data.exact,
        "bidirectional_se": found.bidirectional_se,
        "reverse": found.reverse - data.exact,
        "reverse_se": found.reverse_se,
    }


def controls(data: DataSets) -> dict[str, Tensor]:
    """Wrong programs: weights on the draws that fitted the proposal, a log-determinant left out, a harmonic mean."""
    target = data.target
    pilots = infer(data.inference, target, 2 * target.dim + 4).z
    fit = moments(pilots.double())
    own = Gaussian.from_moments(fit.mean, fit.covariance)

    def weighed(z: Tensor, log_r: Tensor) -> Tensor:
        log_prior, log_likelihood = target.value(z)
        return log_mean_exp(log_prior + log_likelihood - log_r) - data.exact

    z = own.sample(512)
    half_log_det = own.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    _, log_likelihood = target.value(infer(data.inference, target, 512).z)
    return {
        "fitted to its own draws": weighed(pilots, own.log_prob(pilots)),
        "log-determinant left out": weighed(z, own.log_prob(z) + half_log_det),
        "harmonic mean": -log_mean_exp(-log_likelihood) - data.exact,
    }


ESTIMATORS: Mapping[str, EvidenceEstimator] = {
    "gaussian": GaussianImportance(),
    "ladder": Ladder(),
    "ladder to 0.05 nats": Ladder(target_se=0.05),
    "annealed": AnnealedImportance(num_samples=64),
}
