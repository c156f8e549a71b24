"""Verdicts on what must fit together: codes and the prior; reconstruction, KL and likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.reading import BIASED_LOW, estimate, interval, number, rounded
from sri_pyro.evaluation.verdicts.verdict import Verdict

RADIUS_OFF = 0.1
"""Difference of the distribution functions of the radius that samples from the prior will show."""
RADIUS_BLIND = 0.2
"""Band of chance beyond which agreement of the radii says nothing; 46 sentences narrow it so far."""
JENSEN_OFF = 1.0
"""Nats by which a lower estimate of a KL may innocently break Jensen's inequality."""


def aggregate(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether codes drawn from the prior are like codes of sentences."""
    if "aggregate" not in metrics or not math.isfinite(number(metrics["aggregate"]["radius_gap"])):
        return None
    gap, band = number(metrics["aggregate"]["radius_gap"]), number(metrics["aggregate"]["band"])
    found = (
        f"The distribution of ‖z‖² differs from the prior's by at most {gap:.3f}; chance alone "
        f"stays within {band:.3f} (95%, simultaneous)."
    )
    if gap > max(band, RADIUS_OFF):
        return Verdict(
            "aggregate", "caution", "Codes of sentences do not fill the prior as the prior's own draws do.", found,
            "Sentences sampled from the prior are of codes that training did not see; read them so.",
        )  # fmt: skip
    if band > RADIUS_BLIND:
        n = int(metrics["perplexity"]["num_sentences"])
        return Verdict(
            "aggregate", "info", f"Whether codes fill the prior cannot be told from {n:,} sentences.", found,
            f"About {math.ceil(n * (band / RADIUS_BLIND) ** 2):,} sentences would show a difference of {RADIUS_BLIND}.",
        )  # fmt: skip
    return Verdict(
        "aggregate", "good", "Codes of sentences are spread like draws of the prior, by their radius.", found,
        "Look at the eigenvalues too: a radius can hide directions.",
    )  # fmt: skip


def jensen(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether reconstruction, KL and likelihood fit together."""
    check = metrics["jensen"]
    gap = estimate(check["gap"])
    if not math.isfinite(gap.value):
        return None
    found = (
        f"Reconstruction + KL(q ‖ prior) - NLL is {rounded(gap)} nats; it equals KL(short run ‖ posterior)."
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
