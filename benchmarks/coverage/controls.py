"""Wrong programs, published ones among them, that the study must tell from right ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import Normal

from benchmarks.coverage.problems import DataSets
from sri_pyro.evaluation import GaussianImportance, JacobianImportance, estimate_evidence
from sri_pyro.evaluation.evidence import infer
from sri_pyro.evaluation.upper import resampled
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.inference.local_vi import fit_gaussians
from sri_pyro.numerics.gaussians import Gaussian, moments
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.numerics.weights import log_mean_exp
from sri_pyro.target import Target

DRAWS = 512
FIT_NOISES, FIT_STEPS, FIT_RATE = 4, 200, 0.05
"""Of a diagonal Gaussian that is fitted to one sentence by few noises, which are drawn once."""
FOLDING_STEP, FOLDING_STEPS, FOLDING_RUNS = 1.0, 2, 4096
"""Two steps so long that they fold, of so many runs that the mean weight shows what it is a mean of."""


def controls(data: DataSets) -> dict[str, Tensor]:
    """The error of every wrong program, and of the right one beside it; nats, each [B]."""
    return {**_importance(data), **_local_bounds(data), **(_folded(data) if data.discrete else {})}


def _importance(data: DataSets) -> dict[str, Tensor]:
    """Weights of the draws that fitted the proposal; of a proposal without its determinant; a harmonic mean."""
    target = data.target
    pilots = infer(data.inference, target, 2 * target.dim + 4).z
    fit = moments(pilots.double())
    own = Gaussian.from_moments(fit.mean, fit.covariance)

    def weighed(z: Tensor, log_r: Tensor) -> Tensor:
        return log_mean_exp(log_joint(target, z) - log_r) - data.exact

    z = own.sample(DRAWS)
    half_log_det = own.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    _, draws = estimate_evidence(target, data.inference, GaussianImportance())
    _, log_likelihood = target.value(resampled(draws, DRAWS))
    return {
        "fitted to its own draws": weighed(pilots, own.log_prob(pilots)),
        "log-determinant left out": weighed(z, own.log_prob(z) + half_log_det),
        "harmonic mean": -log_mean_exp(-log_likelihood) - data.exact,
    }


def _local_bounds(data: DataSets) -> dict[str, Tensor]:
    """The evidence lower bound of a Gaussian fitted to each data set, by the noise of its fit and by fresh noise."""
    target = data.target
    shape = (target.batch_size, target.dim)
    noise = torch.randn(FIT_NOISES, *shape)
    mean, log_scale = fit_gaussians(
        target, torch.zeros(shape), torch.zeros(shape), lambda step: noise, FIT_STEPS, learning_rate=FIT_RATE
    )

    def bound(epsilon: Tensor) -> Tensor:
        z = mean + log_scale.exp() * epsilon
        log_q = Normal(mean, log_scale.exp()).log_prob(z).sum(-1)
        return (log_joint(target, z) - log_q).mean(0) - data.exact

    return {
        "local bound by the noise of its fit": bound(noise),
        "right: local bound by fresh noise": bound(torch.randn(DRAWS, *shape)),
    }


def log_joint(target: Target, z: Tensor) -> Tensor:
    """Log p(x, z), shape [S, B]."""
    log_prior, log_likelihood = target.value(z)
    return log_prior + log_likelihood


def _folded(data: DataSets) -> dict[str, Tensor]:
    """The paper's weights, with the determinant's absolute value, of steps that are not one-to-one."""
    inference = ShortRunLangevin(
        FOLDING_STEPS, UnadjustedLangevin(), ConstantSteps(FOLDING_STEP), record_path=True
    )
    ((_, weighted),) = JacobianImportance(FOLDING_RUNS)(data.target, inference)
    stubborn = replace(weighted, refused=torch.zeros_like(weighted.refused))
    return {"absolute determinant of steps that fold": log_mean_exp(stubborn.log_weight) - data.exact}
