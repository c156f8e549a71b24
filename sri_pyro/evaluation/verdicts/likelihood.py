"""The verdict on log p(x), on which all others that rest on importance weights depend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.reading import number, option
from sri_pyro.evaluation.verdicts.sandwich import sandwich
from sri_pyro.evaluation.verdicts.verdict import Verdict

FAILED_BAD = 0.1
"""Share of sentences with a high k-hat from which a likelihood is a bound, and not an estimate."""
LADDER = "with --target-se 0.1 (the estimator 'ladder', which spends on each sentence what that needs)"
"""What helps against heavy tails at the least cost."""
FEW_DRAWS = 30
"""Effective draws below which the error of log p(x) is itself unknown."""


def refused_sentences(metrics: Mapping[str, Any]) -> int:
    """Sentences without an estimate of log p(x): those that the mean NLL leaves out."""
    return int(metrics["perplexity"]["num_sentences"]) - int(metrics["nll"]["num_samples"])


def likelihood_is_trusted(metrics: Mapping[str, Any]) -> bool:
    """Whether numbers that rest on importance weights may be shown as estimates."""
    refused = not math.isfinite(number(metrics["perplexity"]["estimate"]))
    return not refused and 1 - number(metrics["khat"]["share_below"]) <= FAILED_BAD


def likelihood(metrics: Mapping[str, Any]) -> Verdict:
    """Say whether log p(x) is to be believed."""
    khat, ppl, draws = metrics["khat"], metrics["perplexity"], number(metrics["ess"]["median"])
    if not metrics["active_units"]["of"]:
        return Verdict(
            "likelihood", "good", "The likelihood is exact.",
            "Without a latent variable log p(x) is a sum over tokens, with no Monte Carlo error.",
            "Compare it with latent-variable models sentence by sentence, on the same held-out sentences.",
        )  # fmt: skip
    if not math.isfinite(number(ppl["estimate"])):
        return _refused(metrics)
    tails = _tails(metrics)
    if 1 - number(khat["share_below"]) > FAILED_BAD:
        return _untrusted(metrics, tails)
    sampling, monte_carlo = number(ppl["log_se_sampling"]), number(ppl["log_se_monte_carlo"])
    variance = sampling**2 + monte_carlo**2
    part = monte_carlo**2 / variance if variance > 0 else 0.0
    found = f"{tails} Monte Carlo noise makes up {part:.1%} of the interval's variance."
    if int(khat["failed_sentences"]) or part > 0.5 or draws < FEW_DRAWS:
        return Verdict(
            "likelihood", "caution", "The likelihood can be used, with care.", found,
            f"sentences.csv has every k-hat. {better_weights(metrics)}",
        )  # fmt: skip
    bounds = sandwich(metrics)
    if bounds is not None and bounds.level in ("bad", "caution"):
        return Verdict(
            "likelihood", "caution", "The likelihood can be used, with care: its weights are good, its bounds are not.",
            f"{found} But of the bounds on the model's own text: {bounds.headline}",
            f"See the verdict on the bounds. {better_weights(metrics)}",
        )  # fmt: skip
    return Verdict(
        "likelihood", "good", "The likelihood is trustworthy.", found,
        "Compare models paired by sentence: the interval here is that of one model alone.",
    )  # fmt: skip


def _tails(metrics: Mapping[str, Any]) -> str:
    """The weights' tails and effective draws in words."""
    khat, total = metrics["khat"], int(metrics["nll"]["num_samples"])
    failed, share = int(khat["failed_sentences"]), 1 - number(khat["share_below"])
    tails = (
        f"k-hat is at or above its threshold on {failed} of {total:,} sentences ({share:.1%}; largest "
        f"{largest_khat(khat)} against {number(khat.get('threshold')):.2f}); "
        if _fitted(khat)
        else f"k-hat cannot be fitted to so few draws, or to weights all equal; {failed} of {total:,} sentences fail; "
    )
    return f"{tails}the median effective sample size is {number(metrics['ess']['median']):.0f}."


def largest_khat(khat: Mapping[str, Any]) -> str:
    """The largest k-hat in words: JSON has no infinity, and a count of them tells it from what is not known."""
    if infinite := int(khat.get("infinite") or 0):
        return f"infinite, on {infinite:,}"
    largest = number(khat.get("max"))
    return f"{largest:.2f}" if math.isfinite(largest) else "not known"


def _fitted(khat: Mapping[str, Any]) -> bool:
    """Whether there is a finite k-hat at all."""
    return math.isfinite(number(khat.get("max"))) or math.isfinite(number(khat.get("median")))


def _untrusted(metrics: Mapping[str, Any], tails: str) -> Verdict:
    """Too many sentences whose weights fail."""
    why = (
        " Importance weights with such tails miss part of p(x), and their standard error does not know it."
        if _fitted(metrics["khat"])
        else " Without k-hat nothing says whether the weights miss part of p(x)."
    )
    bound = "Read the number in metrics.json as an upper bound of the perplexity in expectation. "
    is_bound = option(metrics, "evaluation", "estimator", "kind") != "jacobian"
    return Verdict(
        "likelihood", "bad", "The likelihood is not to be trusted, and is not shown.", tails + why,
        (bound if is_bound else "") + better_weights(metrics),
    )  # fmt: skip


def _refused(metrics: Mapping[str, Any]) -> Verdict:
    """No number at all: not every sentence has a finite estimate."""
    refused, total = refused_sentences(metrics), int(metrics["perplexity"]["num_sentences"])
    if not refused:
        return Verdict(
            "likelihood", "bad", "There is no likelihood: a sentence has none.",
            f"Of {total:,} sentences at least one has only draws from which it is impossible, so that its log p(x) is "
            "estimated as −inf and the perplexity as infinite.",
            "See log_px in sentences.csv, and whether the model gives every sentence a probability. "
            + better_weights(metrics),
        )  # fmt: skip
    on = f"on {refused:,} of {total:,} sentences"
    folding = metrics.get("folding", {})
    if folding.get("folded_sentences"):
        return Verdict(
            "likelihood", "bad", "There is no likelihood: the estimator refused.",
            f"The estimator 'jacobian' refused {on}: steps of their runs fold (I + s H is not positive definite), so "
            "that several starts end in one place and its weights would over-state p(x). Of all runs "
            f"{number(folding['negative_share']):.1%} have a map of negative determinant; the smallest eigenvalue of a "
            f"step is {number(folding['smallest_eigenvalue']):.3g}.",
            f"Evaluate {LADDER}, or with the estimator 'gaussian' or 'annealed': none of them needs steps that are "
            "one-to-one.",
        )  # fmt: skip
    return Verdict(
        "likelihood", "bad", "There is no likelihood: the estimator refused.",
        f"There is no estimate of log p(x) {on}.",
        f"See log_px in sentences.csv; evaluate {LADDER}, or with the estimator 'gaussian' or 'annealed'.",
    )  # fmt: skip


def better_weights(metrics: Mapping[str, Any]) -> str:
    """What else to try, which is never what was tried."""
    kind = option(metrics, "evaluation", "estimator", "kind")
    if kind == "annealed":
        return f"Raise num_samples and temperatures of the estimator 'annealed', or evaluate {LADDER}."
    if kind == "ladder":
        return (
            "Raise chains and conditional_ess of the estimator 'ladder', or its most_samples and most_chains."
        )
    if kind == "jacobian":
        return (
            f"Evaluate {LADDER}, or with the estimator 'gaussian' or 'annealed'; 'jacobian' is kept for comparison "
            "alone."
        )
    return f"Evaluate {LADDER}; or raise num_samples, or take the estimator 'annealed'."
