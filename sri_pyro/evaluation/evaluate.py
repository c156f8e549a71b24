r"""Evaluate: one pass over held-out sentences, from a model and an inference to every number and draw.

Axes: S importance draws, M short-run chains, B sentences of a batch, n sentences in all, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sri_pyro.evaluation.evidence import (
    EvidenceEstimator,
    SentenceEvidence,
    Weighted,
    estimate_evidence,
    infer,
    score,
)
from sri_pyro.evaluation.metrics import (
    ActiveUnits,
    active_units,
    jensen_check,
    mean_estimate,
    mutual_information,
    perplexity,
)
from sri_pyro.numerics.gaussians import gaussian_entropy, moments
from sri_pyro.target import Inference, Target, evaluating
from sri_pyro.types import Batch, Estimate

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

    Raises:
        ValueError: If a count is out of range.
    """

    num_chains: int = 64
    traced_sentences: int = 8
    traced_chains: int = 128
    exported_draws: int = 256

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
        entropy: Entropy of q, nats, shape [n]; NaN where no estimator applies.
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


@dataclass(frozen=True)
class Evaluation:
    """All that one evaluation found.

    Attributes:
        table: One row per sentence: ``id``, ``num_tokens``, ``log_px``, ``se``, ``khat``,
            ``khat_threshold``, ``ess``, ``num_samples``, ``rounds``, ``reconstruction``, ``kl_q_prior``,
            ``kl_posterior_prior``, ``kl_q_posterior``.
        metrics: The headline numbers, JSON-able.
        units: The active-unit analysis.
        chains: Short-run draws and their moments, rows as in the table.
        proposal: Importance draws and weights, rows as in the table.
        trace: Runs step by step, if they were traced.
        tokens: Token rows of every sentence, as in the table.
    """

    table: pd.DataFrame
    metrics: dict[str, Any]
    units: ActiveUnits
    chains: Chains
    proposal: Weighted
    trace: StepTrace | None
    tokens: list[list[int]] = field(repr=False)


Watch = Callable[[int], None]
"""Told how many sentences are done."""


def evaluate(
    model: nn.Module,
    inference: Inference,
    batches: Iterable[Batch],
    estimator: EvidenceEstimator,
    options: EvaluationOptions | None = None,
    *,
    tracer: Inference | None = None,
    watch: Watch | None = None,
) -> Evaluation:
    """Score held-out sentences.

    Args:
        model: A ``LatentTextModel``, or any module with ``target(batch)``. Held in eval mode meanwhile.
        inference: Whose draws are judged.
        batches: Held-out sentences.
        estimator: Of log p(x).
        options: How much to spend.
        tracer: The same inference with its path recorded; None leaves the step-by-step trace out.
        watch: Told of progress.

    Raises:
        ValueError: If there are no sentences.
    """
    options = options or EvaluationOptions()
    device = next(model.parameters()).device
    evidence: list[SentenceEvidence] = []
    proposals: list[Weighted] = []
    chains: list[Chains] = []
    ids: list[Tensor] = []
    rows: list[list[int]] = []
    first: Batch | None = None
    with evaluating(model):
        for batch in batches:
            batch = batch.to(device)
            first = first or batch
            target: Target = model.target(batch)  # type: ignore[operator]  # a module with target(batch)
            numbers, weighted = estimate_evidence(target, inference, estimator)
            evidence.append(numbers)
            proposals.append(_kept(weighted, options.exported_draws))
            chains.append(run_chains(target, inference, options))
            ids.append(batch.ids)
            rows += [row[row != 0].tolist() for row in batch.tokens.cpu()]
            if watch is not None:
                watch(len(rows))
        if first is None or len(rows) < 2:
            raise ValueError(f"an evaluation needs at least 2 sentences; got {len(rows)}.")
        trace = None
        if tracer is not None and options.traced_sentences and target.dim:
            few = first.select(torch.arange(min(options.traced_sentences, len(first)), device=device))
            trace = trace_runs(model.target(few), tracer, options.traced_chains, evidence[0].log_px)  # type: ignore[operator]
    return _collect(ids, rows, _join(evidence), _join(proposals), _join(chains), options.num_chains, trace)


def run_chains(target: Target, inference: Inference, options: EvaluationOptions) -> Chains:
    """Summarise M short runs of every sentence of a batch."""
    z = infer(inference, target, options.num_chains if target.dim else HELD_OUT + 2)
    zeros = z.new_zeros(z.shape[:-1])
    weighted = score(target, z, zeros)
    log_joint, log_likelihood = weighted.log_weight, weighted.log_likelihood
    fit, critic = moments(z.double()), moments(z[:-HELD_OUT].double())
    enough = options.num_chains > target.dim + 1
    entropy = gaussian_entropy(z) if enough and target.dim else torch.full_like(zeros[0], torch.nan)
    return Chains(
        z=z[-options.exported_draws :],  # the last, among them the held-out ones
        mean=fit.mean,
        covariance=fit.covariance,
        critic_mean=critic.mean,
        critic_covariance=critic.covariance,
        reconstruction=-log_likelihood.double().mean(0),
        log_joint=log_joint.double().mean(0),
        cross_entropy=(log_likelihood - log_joint).double().mean(0),
        entropy=entropy.double() if target.dim else zeros[0].double(),
    )


def trace_runs(target: Target, tracer: Inference, num_chains: int, log_px: Tensor) -> StepTrace:
    """Energies, gradients, distances and the KL to the posterior along the runs of a few sentences."""
    draws = tracer(target, num_chains)
    path = draws.info["path"].permute(2, 0, 1, 3)
    log_px = log_px[: path.shape[2]].double()
    log_joint, kl = [], []
    for z in path:
        prior, likelihood = target.value(z)
        log_joint.append((prior + likelihood).double().mean(0))
        enough = num_chains > z.shape[-1] + 1
        entropy = gaussian_entropy(z).double() if enough else torch.full_like(log_px, torch.nan)
        kl.append(log_px - log_joint[-1] - entropy)
    return StepTrace(
        sentence=np.arange(path.shape[2]),
        log_joint=torch.stack(log_joint, 1).cpu().numpy(),
        grad_norm=draws.info["grad_norm"].mean(0).cpu().numpy(),
        distance=draws.info["distance"].mean(0).cpu().numpy(),
        kl_posterior=torch.stack(kl, 1).cpu().numpy(),
        negative_log_px=-log_px.cpu().numpy(),
    )


def _collect(
    ids: list[Tensor],
    rows: list[list[int]],
    evidence: SentenceEvidence,
    proposal: Weighted,
    chains: Chains,
    num_chains: int,
    trace: StepTrace | None,
) -> Evaluation:
    """Put the pieces of all batches together and compute the headline numbers."""
    kl_q_prior = chains.cross_entropy - chains.entropy
    columns = {
        "id": torch.cat(ids),
        "num_tokens": torch.tensor([len(row) for row in rows]),
        "log_px": evidence.log_px,
        "se": evidence.se,
        "khat": evidence.khat,
        "khat_threshold": evidence.threshold,
        "ess": evidence.ess,
        "num_samples": evidence.num_samples,
        "rounds": proposal.rounds,
        "reconstruction": chains.reconstruction,
        "kl_q_prior": kl_q_prior,
        "kl_posterior_prior": evidence.kl_posterior_prior,
        "kl_q_posterior": evidence.log_px - chains.log_joint - chains.entropy,
    }
    table = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
    units = active_units(chains.mean, chains.covariance, num_chains, chains.z[-1])
    return Evaluation(table, _headline(table, units, chains), units, chains, proposal, trace, rows)


def _headline(table: pd.DataFrame, units: ActiveUnits, chains: Chains) -> dict[str, Any]:
    """The numbers of ``metrics.json``."""
    column = {name: torch.tensor(table[name].to_numpy()) for name in table.columns}
    ppl = perplexity(column["log_px"], column["se"], column["num_tokens"])
    information = mutual_information(
        chains.critic_mean, chains.critic_covariance.mean(0), chains.z[-min(HELD_OUT, len(chains.z)) :]
    )
    khat, threshold = column["khat"], column["khat_threshold"]
    estimates: dict[str, Estimate] = {
        "nll": mean_estimate(-column["log_px"]),
        "reconstruction": mean_estimate(column["reconstruction"]),
        "kl_posterior_prior": mean_estimate(column["kl_posterior_prior"], "self_normalised_importance"),
        "kl_q_prior": mean_estimate(column["kl_q_prior"], "gaussian_entropy_lower_estimate"),
        "kl_q_posterior": mean_estimate(column["kl_q_posterior"], "gaussian_entropy_lower_estimate"),
        "mutual_information": information,
    }
    # -inf, weights without variance, passes; NaN, no tail to fit, fails.
    fails = ~(khat < threshold)
    check = jensen_check(-column["log_px"], column["reconstruction"], column["kl_q_prior"], binding=False)
    finite = khat[khat.isfinite()]
    return {
        "perplexity": asdict(ppl),
        **{name: asdict(estimate) for name, estimate in estimates.items()},
        "active_units": asdict(units),
        "khat": {
            "threshold": float(threshold.min()),
            "share_below": float(1 - fails.double().mean()),
            "max": float(finite.max()) if len(finite) else math.nan,
            "median": float(finite.median()) if len(finite) else math.nan,
            "failed_sentences": int(fails.sum()),
        },
        "ess": {"median": float(column["ess"].median()), "min": float(column["ess"].min())},
        "jensen": asdict(check),
    }


def _kept(draws: Weighted, most: int) -> Weighted:
    """The first draws, for export."""
    fields = {
        name: value[:most] if isinstance(value, Tensor) and value.ndim > 1 else value
        for name, value in vars(draws).items()
    }
    return Weighted(**fields)


def _join(parts: list[Any]) -> Any:
    """Concatenate the fields of equal records along the sentence axis."""
    fields = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        by_draw = name in ("z", "log_weight", "log_likelihood")
        fields[name] = None if values[0] is None else torch.cat(values, dim=1 if by_draw else 0)
    return type(parts[0])(**fields)
