r"""Evidence: estimates of log p(x) of every sentence, with what is needed to judge them.

Every estimator here averages importance weights :math:`w = p(x, z)/r(z)` over draws from a density r that is
evaluated exactly, so that :math:`\mathbb{E}\, \hat p(x) = p(x)` and
:math:`\mathbb{E} \log \hat p(x) \le \log p(x)`; the one exception, ``jacobian``, is here for fidelity to the
paper and refuses where it is not valid.

Axes: S draws, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from sri_pyro.evaluation.totals import Totals, weighable
from sri_pyro.numerics.weights import effective_sample_size, khat_threshold, pareto_smooth
from sri_pyro.target import Inference, Target
from sri_pyro.types import Draws

LEAST_ESS = 30.0
"""An estimate whose effective sample size is smaller is not accepted either: k-hat can miss what was missed."""
COLUMNS = 4096
"""Chains (draws times sentences) that are scored at once; bounds the memory of every estimator."""


@dataclass(frozen=True)
class Weighted:
    """Weighted draws of one batch: an estimate of p(x) and a picture of the posterior.

    Attributes:
        z: Draws, shape [S, B, D].
        log_weight: log p(x, z) - log r(z), nats, shape [S, B].
        log_likelihood: log p(x | z) at the draws, nats, shape [S, B].
        rounds: How many proposals each sentence needed, shape [B].
        refused: Per sentence, whether the estimator does not stand by its number, shape [B].
        unfitted: ``gaussian`` only: whether nothing could be fitted to the inference's draws, shape [B].
        negative_share: ``jacobian`` only: share of chains with a negative determinant, shape [B].
        smallest_eigenvalue: ``jacobian`` only: the smallest eigenvalue of a step's Jacobian, shape [B].
        gradients: ``ladder`` only: gradients of log p(x | z) in z that each sentence took in all, shape [B].
        evaluations: ``ladder`` only: evaluations of it besides, shape [B].
        totals: Of all draws, where the others are not kept; None where these are all.
    """

    z: Tensor
    log_weight: Tensor
    log_likelihood: Tensor
    rounds: Tensor
    refused: Tensor
    unfitted: Tensor | None = None
    negative_share: Tensor | None = None
    smallest_eigenvalue: Tensor | None = None
    gradients: Tensor | None = None
    evaluations: Tensor | None = None
    totals: Totals | None = None


@dataclass(frozen=True)
class SentenceEvidence:
    r"""What weighted draws say of each sentence; every field has shape [B] but the last.

    Attributes:
        log_px: Estimate of log p(x), nats; NaN where the estimator refuses or a weight is not a number.
        se: Its Monte Carlo standard error, nats (delta method).
        khat: Pareto shape of the weights' tail; at or above ``threshold`` the estimate is not to be trusted.
            +inf where nothing was fitted to the sentence, or a weight is not a number.
        ess: Effective sample size of the weights.
        num_samples: Draws used.
        threshold: For k-hat at that number of draws.
        kl_posterior_prior: KL(p(z | x) || p(z)), nats: the self-normalised posterior mean of log p(x | z),
            less log p(x). It does not depend on the inference.
        posterior_mean: Self-normalised posterior mean of z, shape [B, D].
    """

    log_px: Tensor
    se: Tensor
    khat: Tensor
    ess: Tensor
    num_samples: Tensor
    threshold: Tensor
    kl_posterior_prior: Tensor
    posterior_mean: Tensor

    @classmethod
    def of(cls, draws: Weighted) -> SentenceEvidence:
        """Summarise weighted draws."""
        totals = draws.totals or Totals.of(draws.z, draws.log_weight, draws.log_likelihood)
        weights = totals.weights
        log_px = torch.where(draws.refused | totals.broken, torch.nan, weights.log_mean)
        # Without a latent dimension one draw is exact, and there is no tail to judge.
        exact = draws.z.shape[-1] == 0
        khat = torch.full_like(log_px, -torch.inf) if exact else weights.khat()
        hopeless = totals.broken if draws.unfitted is None else totals.broken | draws.unfitted
        return cls(
            log_px=log_px,
            se=torch.zeros_like(log_px) if exact else weights.se,
            khat=khat.masked_fill(hopeless, torch.inf),
            ess=weights.effective_sample_size,
            num_samples=weights.count.double(),
            threshold=torch.full_like(log_px, 0.7) if exact else weights.threshold,
            kl_posterior_prior=totals.log_likelihood - log_px,
            posterior_mean=totals.z,
        )

    def put(self, rows: Tensor, other: SentenceEvidence) -> SentenceEvidence:
        """These sentences, with those at ``rows`` replaced."""
        fields: dict[str, Any] = {}
        for name, old in vars(self).items():
            fields[name] = old.clone()
            fields[name][rows] = getattr(other, name)
        return replace(self, **fields)


class EvidenceEstimator(Protocol):
    """Turns a target, and an inference where it needs one, into weighted draws."""

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Pairs of sentence indices and their weighted draws; later pairs replace earlier ones."""
        ...


def estimate_evidence(
    target: Target, inference: Inference, estimator: EvidenceEstimator
) -> tuple[SentenceEvidence, Weighted]:
    """Run an estimator on a batch: the numbers of every sentence, and as many draws of each as all have."""
    parts = estimator(target, inference)
    _, first = parts[0]
    evidence = SentenceEvidence.of(first)
    draws = first
    for rows, part in parts[1:]:
        evidence = evidence.put(rows, SentenceEvidence.of(part))
        draws = _put(draws, rows, part)
    return evidence, replace(draws, totals=None)


def _put(draws: Weighted, rows: Tensor, part: Weighted) -> Weighted:
    """Replace sentences; draws are exchangeable, so the first S of a longer sample stand for it."""
    keep = draws.z.shape[0]
    fields: dict[str, Any] = {}
    for name, old in vars(draws).items():
        new = getattr(part, name)
        if not isinstance(old, Tensor) or not isinstance(new, Tensor):
            continue
        old = old.clone()
        if old.ndim == 1:
            old[rows] = new
        else:
            old[:, rows] = new[:keep]
        fields[name] = old
    return replace(draws, **fields)


def at(draws: Weighted, rows: Tensor) -> Weighted:
    """The draws of some sentences only."""
    return _each(draws, lambda value: value[rows] if value.ndim == 1 else value[:, rows])


def first(draws: Weighted, num_samples: int) -> Weighted:
    """The first draws of every sentence."""
    return _each(draws, lambda value: value if value.ndim == 1 else value[:num_samples])


def joined(parts: Sequence[Weighted], dim: int = 0) -> Weighted:
    """Further draws of the same sentences, or of as many draws each of further sentences (``dim`` 1)."""
    fields: dict[str, Any] = {}
    for name, value in vars(parts[0]).items():
        if not isinstance(value, Tensor) or (value.ndim == 1 and dim == 0):
            fields[name] = value
        else:
            fields[name] = torch.cat([getattr(part, name) for part in parts], 0 if value.ndim == 1 else dim)
    return Weighted(**fields)


def _each(draws: Weighted, change: Callable[[Tensor], Tensor]) -> Weighted:
    changed: dict[str, Any] = {
        name: change(value) for name, value in vars(draws).items() if isinstance(value, Tensor)
    }
    return replace(draws, **changed)


def accepted(log_weight: Tensor) -> Tensor:
    """Which sentences' weights, [S, B], pass both k-hat and the least effective sample size, [B]."""
    log_w, broken = weighable(log_weight)
    small_tail = pareto_smooth(log_w)[1] < khat_threshold(len(log_w))
    return small_tail & ~broken & (effective_sample_size(log_w) > min(LEAST_ESS, len(log_w) / 4))


def score(target: Target, z: Tensor, log_proposal: Tensor, rounds: int = 1) -> Weighted:
    """Exact weights of draws whose proposal density is known; chunked to bound memory."""
    chunk = max(1, COLUMNS // max(1, target.batch_size))
    log_prior, log_likelihood = (
        torch.cat(values)
        for values in zip(*(target.value(part) for part in torch.split(z, chunk)), strict=True)
    )
    count = torch.zeros(target.batch_size, dtype=torch.int64, device=z.device)
    return Weighted(
        z=z,
        log_weight=log_prior + log_likelihood - log_proposal,
        log_likelihood=log_likelihood,
        rounds=count + rounds,
        refused=count > 0,
    )


def infer(inference: Inference, target: Target, num_samples: int) -> Draws:
    """Independent draws in chunks that bound memory, without a graph; their density where the inference has one."""
    chunk = max(1, COLUMNS // 2 // max(1, target.batch_size))
    sizes = [min(chunk, num_samples - done) for done in range(0, num_samples, chunk)]
    parts = [inference(target, size).detach() for size in sizes]
    log_q = [part.log_q for part in parts if part.log_q is not None]
    return Draws(
        z=torch.cat([part.z for part in parts]),
        log_q=torch.cat(log_q) if len(log_q) == len(parts) else None,
    )


@dataclass(frozen=True)
class PriorImportance:
    r"""Draws from the prior (``prior``): :math:`\hat p(x) = \frac1S\sum_s p(x \mid z_s)`.

    Exact for a language model; hopeless for a model whose z matters.

    Attributes:
        num_samples: S, draws for each sentence.
    """

    num_samples: int = 512

    def __post_init__(self) -> None:
        require_samples(self.num_samples)

    looks = 1

    def log_bound(self, rounds: Tensor) -> Tensor:
        """No weight is above p(x | z), which is at most 1."""
        return torch.zeros_like(rounds, dtype=torch.float64)

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Weights of prior draws."""
        # With no latent dimension every draw is the same draw: one is exact.
        z = target.sample_prior(self.num_samples if target.dim else 1)
        with torch.no_grad():
            return [(all_rows(z), score(target, z, target.log_prior(z)))]


def all_rows(z: Tensor) -> Tensor:
    """Indices of every sentence of some draws [S, B, D], shape [B]."""
    return torch.arange(z.shape[1], device=z.device)


def require_samples(num_samples: int) -> None:
    """Raise unless an error can be known from so many draws."""
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, for an error to be known; got {num_samples}.")
