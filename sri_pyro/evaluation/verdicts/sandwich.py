"""The verdict on the two bounds of log p(x): how much the lower one can be short of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.intervals import share_interval
from sri_pyro.evaluation.verdicts.reading import estimate, interval, number, rounded, sentences_to_settle
from sri_pyro.evaluation.verdicts.verdict import Verdict
from sri_pyro.types import Estimate

GAP_OFF, GAP_BAD = 0.01, 0.05
"""Shares of the perplexity that may lie between the bounds: what published differences are, and more than that."""
FAILED_OFF = 0.05
"""Share of simulated sentences with a high k-hat above which the estimator does not fit the model's own text; the
lower end of its exact interval is asked, for one of 16 sentences is no sign of it."""


def sandwich(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say how far the perplexity may be from the truth, by sentences that the model itself wrote."""
    found = metrics.get("sandwich")
    if found is None:
        return None
    gap, tokens = estimate(found["gap"]), number(found["num_tokens"]) / int(found["num_sentences"])
    if not math.isfinite(gap.value):
        return Verdict(
            "sandwich", "caution", "What lies between the bounds of log p(x) is not known.",
            f"Of {found['num_sentences']:,} sentences that the model wrote, at least one has no finite bound.",
            "Raise num_samples of the estimator, or evaluate with the estimator 'ladder'.",
        )  # fmt: skip
    low, high = (math.expm1(max(0.0, end) / tokens) for end in interval(gap))
    num, failed = int(found["num_sentences"]), number(found["failed_share"])
    shown_to_fail, _ = share_interval(round(failed * num), num)
    told = (
        f"On {num:,} sentences that the model wrote, whose codes are exact posterior draws, {_gap_in_words(gap)}, "
        f"which is up to {high:.1%} of the perplexity (95%). k-hat fails on {failed:.1%} of them."
    )
    better = "Evaluate with the estimator 'ladder' (--target-se), or raise num_samples."
    if low > GAP_BAD:
        return Verdict(
            "sandwich", "bad", "The likelihood's bounds are far apart.", told,
            f"The perplexity may be that much lower than it seems. {better}",
        )  # fmt: skip
    if low > GAP_OFF or shown_to_fail > FAILED_OFF:
        return Verdict(
            "sandwich", "caution", "The likelihood is known between two bounds, and not closer.", told, better
        )
    if high > GAP_OFF or failed > FAILED_OFF:
        return Verdict(
            "sandwich", "info", f"Whether the bounds meet within {GAP_OFF:.0%} cannot be told from {num:,} sentences.",
            told,
            f"Raise evaluation.simulated. {sentences_to_settle(_half(gap), GAP_OFF * tokens - gap.value, num)}"
            if high > GAP_OFF
            else "Raise evaluation.simulated: so few sentences do not say how often k-hat fails.",
        )  # fmt: skip
    return Verdict(
        "sandwich", "good", "The likelihood lies between two bounds that meet.", told,
        "The text it was measured on is the model's own; of held-out text the lower bound alone is proven.",
    )  # fmt: skip


def _gap_in_words(gap: Estimate) -> str:
    """What lies between the bounds; their order is that of their means, which noise may turn round."""
    if interval(gap)[0] > 0:
        return f"the upper bound of log p(x) lies {rounded(gap)} nats a sentence above the lower one"
    return (
        f"the two bounds of log p(x) are not shown to differ, the upper less the lower being {rounded(gap)} nats a "
        "sentence"
    )


def _half(gap: Estimate) -> float:
    return interval(gap)[1] - gap.value
