"""The verdict on what must fit together: reconstruction, KL and likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.divergence import BIASED_LOW, IMPOSSIBLE, NAME
from sri_pyro.evaluation.verdicts.likelihood import likelihood_is_trusted
from sri_pyro.evaluation.verdicts.reading import estimate, interval, rounded
from sri_pyro.evaluation.verdicts.verdict import Verdict
from sri_pyro.types import Estimate

JENSEN_OFF = 1.0
"""Nats by which a lower estimate of a KL may innocently break Jensen's inequality."""


def jensen(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether reconstruction, KL and likelihood fit together; nothing where the likelihood is withheld."""
    check = metrics["jensen"]
    gap = estimate(check["gap"])
    if not math.isfinite(gap.value) or not likelihood_is_trusted(metrics):
        return None
    short = not check["binding"] and gap.value < -JENSEN_OFF and interval(gap)[1] < 0
    found = (
        f"Reconstruction + KL(q ‖ prior) - NLL is {rounded(gap)} nats; without bias it equals {NAME}. "
        + _bias_in_words(check, gap)
    )
    if check["violated"]:
        return Verdict(
            "jensen", "bad", "Reconstruction, KL and likelihood contradict one another.", found,
            "A bound is broken: one of the three estimators is wrong. Do not publish any of them.",
        )  # fmt: skip
    if short:
        return Verdict(
            "jensen", "caution", "Reconstruction, KL and likelihood do not fit together well.",
            f"{found} A Gaussian entropy makes it fall short by {JENSEN_OFF:g} nat or less as a rule.",
            "Draws of several modes, as a mixture prior has, make it fall short by more: sri-pyro reference tells. If "
            "there is one mode, look for an error.",
        )  # fmt: skip
    if not check["binding"] and not interval(gap)[0] > 0:
        return Verdict(
            "jensen", "info", "Jensen's inequality shows no contradiction, and cannot rule one out.", found,
            "Nothing to do: a little below zero is innocent here.",
        )  # fmt: skip
    return Verdict(
        "jensen", "good", "Reconstruction, KL and likelihood do not contradict one another.", found,
        "Nothing to do: Jensen's inequality holds, within its error.",
    )  # fmt: skip


def _bias_in_words(check: Mapping[str, Any], gap: Estimate) -> str:
    if check["binding"]:
        return "Binding: this KL is a mean over draws of known density, with no bias but what chance adds."
    if gap.value < -IMPOSSIBLE * gap.se:
        return (
            "Not binding: this KL rests on the Gaussian entropy of the draws, which makes it too low, and no KL is "
            f"negative: here by {-gap.value:.2g} nats at least."
        )
    return f"Not binding: this KL is a lower estimate{'' if interval(gap)[0] > 0 else f', {BIASED_LOW}'}."
