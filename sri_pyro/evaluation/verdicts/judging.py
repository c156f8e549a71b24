"""All verdicts of an evaluation, the worst first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.aggregate import aggregate, run_aggregate
from sri_pyro.evaluation.verdicts.code import code
from sri_pyro.evaluation.verdicts.coherence import jensen
from sri_pyro.evaluation.verdicts.likelihood import likelihood
from sri_pyro.evaluation.verdicts.sandwich import sandwich
from sri_pyro.evaluation.verdicts.short_run import noise, rest, short_run
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Verdict


def judge(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Judge an evaluation: what is bad first, then what calls for caution, what cannot be told, what is good.

    Within a level the likelihood comes first, on which the others rest.

    Args:
        metrics: What ``write_outputs`` wrote to ``metrics.json``. Of an ``Evaluation.metrics`` alone, the
            topics that need the draws are left out.

    Example:
        >>> nothing = {"value": 0.0, "se": 0.0, "num_samples": 9}
        >>> language_model = {
        ...     "perplexity": {"estimate": 50.0, "log_se_sampling": 0.01, "log_se_monte_carlo": 0.0},
        ...     "khat": {"share_below": 1.0, "failed_sentences": 0}, "nll": {"num_samples": 9},
        ...     "active_units": {"count": 0, "of": 0, "naive_count": 0}, "ess": {"median": 1.0},
        ... }
        >>> [verdict.headline for verdict in judge(language_model)]
        ['This model has no code: it is a language model.', 'The likelihood is exact.']
    """
    verdicts: list[Verdict | None] = [likelihood(metrics), code(metrics)]
    if metrics["active_units"]["of"]:
        verdicts += [
            topic(metrics) for topic in (sandwich, short_run, noise, rest, aggregate, run_aggregate, jensen)
        ]
    found = [verdict for verdict in verdicts if verdict is not None]
    return sorted(found, key=lambda verdict: LEVELS.index(verdict.level))
