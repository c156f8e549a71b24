"""The sandwich: log p(x) between a lower and an upper bound, on sentences that the model itself wrote.

Axes: n sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from sri_pyro.evaluation.evidence import EvidenceEstimator, estimate_evidence
from sri_pyro.evaluation.metrics import mean_estimate, perplexity
from sri_pyro.evaluation.upper import upper_bounds
from sri_pyro.target import Inference, Target
from sri_pyro.types import Batch, Estimate


@dataclass(frozen=True)
class Sandwich:
    """What lies between the bounds; nats a sentence.

    Attributes:
        exact: Whether the upper bound starts from exact posterior draws, as on sentences that the model wrote.
        lower: Mean of the lower bound of log p(x), by the estimator that the evaluation uses.
        upper: Mean of the upper bound, by bidirectional Monte Carlo.
        gap: Upper less lower, paired by sentence; at least zero in expectation, and the lower bound's bias is at most
            that.
        gap_reverse: The same by reverse importance sampling.
        gap_se_monte_carlo: The part of the gap's error that more draws would take away.
        gap_per_token: Of all sentences.
        perplexity_lower: From the upper bounds.
        perplexity_upper: From the lower bounds.
        log_se_sampling: Standard error of the logarithm of either over the choice of sentences.
        log_se_monte_carlo: The same over draws, of the larger of the two.
        failed_share: Share of sentences whose k-hat fails.
        failed_nats: What those contribute to the mean of the lower bound.
        num_tokens: Predicted tokens.
        num_sentences: Sentences.
    """

    exact: bool
    lower: Estimate
    upper: Estimate
    gap: Estimate
    gap_reverse: Estimate
    gap_se_monte_carlo: float
    gap_per_token: float
    perplexity_lower: float
    perplexity_upper: float
    log_se_sampling: float
    log_se_monte_carlo: float
    failed_share: float
    failed_nats: float
    num_tokens: int
    num_sentences: int

    @classmethod
    def of(cls, column: Mapping[str, Tensor], exact: bool) -> Sandwich:
        """From columns of a table: ``log_px``, ``se``, ``upper``, ``upper_se``, ``upper_reverse``, ``num_tokens``,
        ``khat``, ``khat_threshold``.
        """
        lower, upper, tokens = column["log_px"].double(), column["upper"].double(), column["num_tokens"]
        n = len(lower)
        below = perplexity(upper, column["upper_se"], tokens)
        above = perplexity(lower, column["se"], tokens)
        errors = column["se"].double().square() + column["upper_se"].double().square()
        failed = ~(column["khat"] < column["khat_threshold"])
        return cls(
            exact=exact,
            lower=mean_estimate(lower, "lower_bound"),
            upper=mean_estimate(upper, "bidirectional"),
            gap=mean_estimate(upper - lower, "bidirectional"),
            gap_reverse=mean_estimate(column["upper_reverse"].double() - lower, "reverse_importance"),
            gap_se_monte_carlo=math.sqrt(float(errors.sum())) / n,
            gap_per_token=float((upper - lower).sum()) / float(tokens.sum()),
            perplexity_lower=below.estimate,
            perplexity_upper=above.estimate,
            log_se_sampling=above.log_se_sampling,
            log_se_monte_carlo=max(above.log_se_monte_carlo, below.log_se_monte_carlo),
            failed_share=float(failed.double().mean()),
            failed_nats=float(torch.where(failed, lower, 0.0).sum()) / n,
            num_tokens=int(tokens.sum()),
            num_sentences=n,
        )


@dataclass(frozen=True)
class Between:
    """Held-out perplexity between its bounds.

    Attributes:
        lower: Lower end.
        upper: Upper end, from the lower bounds of log p(x): in expectation no less than the perplexity.
        log_se_sampling: Standard error of the logarithm of the upper end over the choice of sentences.
        log_se_monte_carlo: The same over draws; the lower end's where that is larger.
        method: Where the lower end comes from: ``approximate_upper``, bounds of the sentences themselves from
            resampled draws; or ``simulated_gap``, what lies between the bounds on as many tokens that the model wrote.
    """

    lower: float
    upper: float
    log_se_sampling: float
    log_se_monte_carlo: float
    method: str

    @classmethod
    def by_bounds(cls, found: Sandwich) -> Between:
        """From upper bounds of the held-out sentences themselves."""
        return cls(
            found.perplexity_lower,
            found.perplexity_upper,
            found.log_se_sampling,
            found.log_se_monte_carlo,
            "approximate_upper",
        )

    @classmethod
    def by_gap(cls, ppl: Mapping[str, Any], simulated: Sandwich) -> Between:
        """From the gap per token on simulated sentences, taken for that of held-out ones."""
        per_token = simulated.num_sentences / simulated.num_tokens
        return cls(
            ppl["estimate"] * math.exp(-max(0.0, simulated.gap_per_token)),
            ppl["estimate"],
            ppl["log_se_sampling"],
            math.hypot(ppl["log_se_monte_carlo"], per_token * simulated.gap.se),
            "simulated_gap",
        )


def between_bounds(
    model: nn.Module,
    inference: Inference,
    simulated: Iterable[tuple[Batch, Tensor]],
    estimator: EvidenceEstimator,
) -> pd.DataFrame:
    """Both bounds of sentences that the model wrote, a row each.

    Args:
        model: With ``target(batch)``, in eval mode.
        inference: Whose draws proposals are fitted to.
        simulated: Batches of sentences, and the code [B, D] from which each was written; of those nothing may be
            selected but by the sentences alone.
        estimator: Of the lower bound.
    """
    tables = []
    for batch, z in simulated:
        target: Target = model.target(batch)  # type: ignore[operator]  # a module with target(batch)
        evidence, draws = estimate_evidence(target, inference, estimator)
        upper = upper_bounds(target, inference, z)
        columns: dict[str, Any] = {
            "num_tokens": batch.lengths,
            "log_px": evidence.log_px,
            "se": evidence.se,
            "khat": evidence.khat,
            "khat_threshold": evidence.threshold,
            "rounds": draws.rounds,
            "upper": upper.bidirectional,
            "upper_se": upper.bidirectional_se,
            "upper_reverse": upper.reverse,
            "upper_reverse_se": upper.reverse_se,
        }
        tables.append(pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()}))
    return pd.concat(tables, ignore_index=True)
