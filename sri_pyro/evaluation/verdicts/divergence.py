"""KL(inference ‖ posterior) as far as it may be shown: what the table withholds no verdict prints or rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.metrics import EXACT_DENSITY, GAUSSIAN_ENTROPY
from sri_pyro.evaluation.verdicts.likelihood import likelihood_is_trusted
from sri_pyro.evaluation.verdicts.reading import estimate, interval, rounded
from sri_pyro.types import Estimate

IMPOSSIBLE = 4.0
"""Standard errors below zero at which a KL is known to be wrong by the bias of its entropy; noise alone does that once
in 30,000 evaluations."""
BIASED_LOW = (
    "biased low by construction (Gaussian entropy), so it shows no evidence of a gap and cannot certify "
    "its absence"
)
"""What a KL from a Gaussian entropy says where it is not shown to lie above zero."""
NAME = "KL(inference ‖ posterior)"


def impossible(found: Estimate) -> bool:
    """Whether a KL from a Gaussian entropy is so far below zero that it is known to be wrong.

    Example:
        >>> impossible(Estimate(-0.3, 0.05, 40, GAUSSIAN_ENTROPY)), impossible(Estimate(-0.3, 0.05, 40))
        (True, False)
    """
    return found.method == GAUSSIAN_ENTROPY and found.value < -IMPOSSIBLE * found.se


def shown_divergence(metrics: Mapping[str, Any]) -> Estimate:
    """KL(inference ‖ posterior) to rest a verdict on, nats; NaN where the table withholds it."""
    found = estimate(metrics["kl_q_posterior"])
    if likelihood_is_trusted(metrics) and not impossible(found):
        return found
    return Estimate(math.nan, math.nan, found.num_samples, found.method)


def divergence_in_words(metrics: Mapping[str, Any]) -> str:
    """A sentence on KL(inference ‖ posterior) and how to take it; empty where nothing was estimated."""
    found = estimate(metrics["kl_q_posterior"])
    if not math.isfinite(found.value):
        return ""
    if not likelihood_is_trusted(metrics):
        return f"{NAME} is not shown: it rests on a likelihood that is not to be trusted."
    if impossible(found):
        return (
            f"{NAME} is not known: with the Gaussian entropy of the draws it comes out at {rounded(found)} nats, and "
            "no KL is negative."
        )
    return f"{NAME} is {rounded(found)} nats, {_bias(found)}."


def _bias(found: Estimate) -> str:
    if found.method == EXACT_DENSITY:
        return "a mean over draws of known density"
    return "a lower estimate" if interval(found)[0] > 0 else BIASED_LOW
