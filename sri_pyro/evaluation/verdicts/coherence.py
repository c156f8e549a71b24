"""The verdict on what must fit together: reconstruction, KL and likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.reading import BIASED_LOW, estimate, interval, rounded
from sri_pyro.evaluation.verdicts.verdict import Verdict

JENSEN_OFF = 1.0
"""Nats by which a lower estimate of a KL may innocently break Jensen's inequality."""


def jensen(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether reconstruction, KL and likelihood fit together."""
    check = metrics["jensen"]
    gap = estimate(check["gap"])
    if not math.isfinite(gap.value):
        return None
    found = (
        f"Reconstruction + KL(q ‖ prior) - NLL is {rounded(gap)} nats; it equals KL(inference ‖ posterior)."
    )
    if check["binding"]:
        found += " Binding: this KL is a mean over draws of known density, with no bias but what chance adds."
    else:
        found += " Not binding: this KL is a lower estimate" + (
            "." if interval(gap)[0] > 0 else f", {BIASED_LOW}."
        )
    if check["violated"]:
        return Verdict(
            "jensen", "bad", "Reconstruction, KL and likelihood contradict one another.", found,
            "A bound is broken: one of the three estimators is wrong. Do not publish any of them.",
        )  # fmt: skip
    if not check["binding"] and gap.value < -JENSEN_OFF and interval(gap)[1] < 0:
        return Verdict(
            "jensen", "caution", "Reconstruction, KL and likelihood do not fit together well.", found,
            "A Gaussian entropy may fall short, but seldom by so much: look for an error.",
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
