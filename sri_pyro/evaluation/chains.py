"""Chains: short runs of every sentence, summarised, and of a few sentences, step by step.

Axes: M chains, B sentences of a batch, n sentences in all, n' traced ones, D dimensions, K steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sri_pyro.evaluation.evidence import infer, score
from sri_pyro.numerics.gaussians import gaussian_entropy, moments
from sri_pyro.target import Inference, Target

HELD_OUT = 4
"""Chains of each sentence that score the critics of the mutual information."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How much ``evaluate`` spends.

    Attributes:
        num_chains: M, short runs per sentence for reconstruction, KL(q || prior), units and information; the
            debiased Gaussian entropy needs more than D + 1.
        traced_sentences: Sentences whose runs are recorded step by step.
        traced_chains: Chains of each of them.
        exported_draws: Draws per sentence that are kept for the netCDF file.
        approximate_upper: Whether every sentence gets an upper bound of log p(x) as well, from resampled importance
            draws: approximate, and several times as costly as the rest.

    Raises:
        ValueError: If a count is out of range.
    """

    num_chains: int = 64
    traced_sentences: int = 8
    traced_chains: int = 128
    exported_draws: int = 256
    approximate_upper: bool = False

    def __post_init__(self) -> None:
        for name, least in {
            "num_chains": 8,
            "traced_sentences": 0,
            "traced_chains": 2,
            "exported_draws": 1,
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}.")


@dataclass(frozen=True)
class Chains:
    """Summary of the short runs of every sentence.

    Attributes:
        z: The draws that are kept, shape [M', n, D].
        mean: Mean of M chains, shape [n, D].
        covariance: Their covariance, shape [n, D, D].
        critic_mean: Mean of the chains that are not held out, shape [n, D].
        critic_covariance: Their covariance, shape [n, D, D].
        reconstruction: Mean of -log p(x | z) over chains, nats, shape [n].
        log_joint: Mean of log p(x, z) over chains, shape [n].
        cross_entropy: Mean of -log p(z) over chains, shape [n].
        entropy: Entropy of q, nats, shape [n]: the mean of -log q over chains where the inference has a density,
            else the debiased Gaussian entropy, which over-states it; NaN where neither applies.
        has_density: Whether it is the former, shape [n].
        halved: Chains that diverged and ran again with shorter steps, shape [n].
    """

    z: Tensor
    mean: Tensor
    covariance: Tensor
    critic_mean: Tensor
    critic_covariance: Tensor
    reconstruction: Tensor
    log_joint: Tensor
    cross_entropy: Tensor
    entropy: Tensor
    has_density: Tensor
    halved: Tensor


@dataclass(frozen=True)
class Divergence:
    """Chains that diverged and ran again with shorter steps: their law is not the one that is reported.

    Attributes:
        chains: How many.
        num_chains: Of how many.
        sentences: Sentences that have one.
    """

    chains: int
    num_chains: int
    sentences: int


@dataclass(frozen=True)
class StepTrace:
    """Short runs of a few sentences, step by step; step 0 is the prior draw.

    Attributes:
        sentence: Row of each traced sentence in the table, shape [n'].
        log_joint: Mean of log p(x, z_k) over chains, nats, shape [n', K + 1].
        grad_norm: Mean gradient norm at z_0, ..., z_{K-1}, shape [n', K].
        distance: Mean distance of z_1, ..., z_K from the start, shape [n', K].
        kl_posterior: KL(q_k || posterior) from the debiased Gaussian entropy and log p(x): a lower estimate,
            nats, shape [n', K + 1].
        negative_log_px: -log p(x) of each, nats, shape [n'].
    """

    sentence: np.ndarray
    log_joint: np.ndarray
    grad_norm: np.ndarray
    distance: np.ndarray
    kl_posterior: np.ndarray
    negative_log_px: np.ndarray


def run_chains(target: Target, inference: Inference, options: EvaluationOptions) -> Chains:
    """Summarise M short runs of every sentence of a batch."""
    draws = infer(inference, target, options.num_chains if target.dim else HELD_OUT + 2)
    z = draws.z
    weighted = score(target, z, z.new_zeros(z.shape[:-1]))
    with torch.no_grad():
        log_prior = target.log_prior(z)
    fit, critic = moments(z.double()), moments(z[:-HELD_OUT].double())
    if draws.log_q is not None:
        entropy = -draws.log_q.double().mean(0)
    else:
        entropy = known_entropy(z) if target.dim else z.new_zeros(target.batch_size).double()
    return Chains(
        z=z[-options.exported_draws :],  # the last, among them the held-out ones
        mean=fit.mean,
        covariance=fit.covariance,
        critic_mean=critic.mean,
        critic_covariance=critic.covariance,
        reconstruction=-weighted.log_likelihood.double().mean(0),
        log_joint=weighted.log_weight.double().mean(0),
        cross_entropy=-log_prior.double().mean(0),
        entropy=entropy,
        has_density=torch.full_like(entropy, draws.log_q is not None, dtype=torch.bool),
        halved=draws.info.get("halved", torch.zeros(z.shape[:2], dtype=torch.bool)).sum(0),
    )


def known_entropy(z: Tensor) -> Tensor:
    """The debiased Gaussian entropy, nats, shape [B]; NaN of too few chains, and where they diverged or stood still."""
    entropy = z.new_full(z.shape[1:2], torch.nan, dtype=torch.float64)
    factor, failed = torch.linalg.cholesky_ex(moments(z.double()).covariance)
    known = (failed == 0) & factor.isfinite().all(-1).all(-1)
    if len(z) > z.shape[-1] + 1 and bool(known.any()):
        entropy[known] = gaussian_entropy(z[:, known]).double()
    return entropy


def trace_runs(target: Target, tracer: Inference, num_chains: int, log_px: Tensor) -> StepTrace:
    """Energies, gradients, distances and the KL to the posterior along the runs of a few sentences."""
    draws = tracer(target, num_chains)
    path = draws.info["path"].permute(2, 0, 1, 3)
    log_px = log_px[: path.shape[2]].double()
    log_joint, kl = [], []
    for z in path:
        prior, likelihood = target.value(z)
        log_joint.append((prior + likelihood).double().mean(0))
        kl.append(log_px - log_joint[-1] - known_entropy(z))
    return StepTrace(
        sentence=np.arange(path.shape[2]),
        log_joint=torch.stack(log_joint, 1).cpu().numpy(),
        grad_norm=draws.info["grad_norm"].mean(0).cpu().numpy(),
        distance=draws.info["distance"].mean(0).cpu().numpy(),
        kl_posterior=torch.stack(kl, 1).cpu().numpy(),
        negative_log_px=-log_px.cpu().numpy(),
    )
