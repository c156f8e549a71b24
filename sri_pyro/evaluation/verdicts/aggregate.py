"""Verdicts on all sentences together: whether their codes are like the prior's, by the posterior and by the inference.

The two are judged apart. The posterior says whether the model has learned the corpus; an inference narrower than
the posterior differs from the prior though the model does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.likelihood import better_weights, likelihood_is_trusted
from sri_pyro.evaluation.verdicts.reading import estimate, number, rounded
from sri_pyro.evaluation.verdicts.verdict import Verdict
from sri_pyro.wording import are

RADIUS_OFF = 0.1
"""Difference of the distribution functions of the radius that samples from the prior will show."""


def aggregate(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say whether codes drawn from the prior are like codes of sentences, by the importance-weighted posterior."""
    if "aggregate" not in metrics:
        return None
    if not likelihood_is_trusted(metrics) or not _known(metrics, "posterior"):
        return Verdict(
            "aggregate", "info", "Whether codes of sentences fill the prior cannot be told.",
            "It is told from the importance-weighted posterior, and the weights are not to be trusted here.",
            better_weights(metrics),
        )  # fmt: skip
    found = _in_words(metrics, "posterior", "the importance-weighted posterior")
    n, total = _sentences(metrics), int(metrics["perplexity"]["num_sentences"])
    if n < total:
        found += f" Left out {are(total - n)} {total - n:,} of {total:,} sentences whose k-hat fails."
    if _outside(metrics, "posterior"):
        return Verdict(
            "aggregate", "caution", "Codes of sentences do not fill the prior as the prior's own draws do.", found,
            "Sentences sampled from the prior are of codes that training did not see; read them so.",
        )  # fmt: skip
    gap, band = (number(metrics["aggregate"]["posterior"][name]) for name in ("radius_gap", "band"))
    if gap + band > RADIUS_OFF:
        return Verdict(
            "aggregate", "info", f"Whether codes fill the prior cannot be told from {n:,} sentences.",
            f"{found} Samples would show a difference of {RADIUS_OFF}, which the band does not exclude.",
            f"About {_wanted(n, gap, band):,} sentences would tell.",
        )  # fmt: skip
    if gap > band:
        found += (
            f" That is more than chance, and less than the {RADIUS_OFF} from which samples would show it."
        )
    return Verdict(
        "aggregate", "good", "Codes of sentences are spread like draws of the prior, by their radius.", found,
        "Look at the eigenvalues too: a radius can hide directions.",
    )  # fmt: skip


def run_aggregate(metrics: Mapping[str, Any]) -> Verdict | None:
    """Say it where the inference's codes do not fill the prior and the posterior's are not shown to do the same."""
    if "aggregate" not in metrics or not _known(metrics, "short_run") or not _outside(metrics, "short_run"):
        return None
    trusted = likelihood_is_trusted(metrics) and _known(metrics, "posterior")
    if trusted and _outside(metrics, "posterior"):
        return None  # the model's doing, and said of it already
    found = _in_words(metrics, "short_run", "the inference")
    difference = metrics["aggregate"]["difference"]
    gap, band = number(difference["radius_gap"]), number(difference["band"])
    if not (trusted and gap > band):
        return Verdict(
            "run_aggregate", "caution", "The inference's codes do not fill the prior.", found,
            "Whether that is the inference's doing or the model's cannot be told from these weights. "
            + better_weights(metrics),
        )  # fmt: skip
    moved = estimate(difference["mean_squared_radius"])
    where = "further in" if moved.value < 0 else "further out"
    found += (
        f" It differs from the posterior's by up to {_banded(difference)}, and the mean of ‖z‖² by {rounded(moved)}, "
        "paired by sentence."
    )
    why = (
        "Either it is narrower than the posterior, that is over-confident, or its means have not left the prior's; the "
        "ratio of variances tells which. Take more steps, or larger ones."
        if moved.value < 0
        else "It has not contracted to the posterior: take more steps."
    )
    return Verdict(
        "run_aggregate", "caution", f"The inference's own codes lie {where} than the posterior's and the prior's.",
        found,
        why,
    )  # fmt: skip


def _wanted(n: int, gap: float, band: float) -> int:
    """Sentences whose band would decide: beside the limit where the difference is below it, else beside zero."""
    margin = RADIUS_OFF - gap if gap < RADIUS_OFF else gap
    return math.ceil(n * (band / max(margin, RADIUS_OFF / 10)) ** 2)


def _banded(distance: Mapping[str, Any]) -> str:
    """A largest difference with its band, which is not the standard error that ± stands for."""
    gap, band = number(distance["radius_gap"]), number(distance["band"])
    return f"{gap:.3f} (95% band {max(0.0, gap - band):.3f} to {gap + band:.3f}, simultaneous over radii)"


def _outside(metrics: Mapping[str, Any], law: str) -> bool:
    """Whether a law differs from the prior by more than chance, and by enough to see."""
    distance = metrics["aggregate"][law]
    return number(distance["radius_gap"]) > max(number(distance["band"]), RADIUS_OFF)


def _known(metrics: Mapping[str, Any], law: str) -> bool:
    return math.isfinite(number(metrics["aggregate"][law]["radius_gap"]))


def _sentences(metrics: Mapping[str, Any]) -> int:
    return int(metrics["aggregate"]["posterior"]["mean_squared_radius"]["num_samples"])


def _in_words(metrics: Mapping[str, Any], law: str, name: str) -> str:
    distance = metrics["aggregate"][law]
    prior = number(metrics["aggregate"]["prior_mean_squared_radius"])
    return (
        f"Under {name} the distribution of ‖z‖² differs from the prior's by up to "
        f"{_banded(distance)}; "
        f"its mean is {rounded(estimate(distance['mean_squared_radius']))}, the prior's {prior:.4g}."
    )
