"""The verdict on the code: whether the model uses it, by KL(posterior ‖ prior) or, without weights, by its units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.units import ACTIVE
from sri_pyro.evaluation.verdicts.likelihood import likelihood_is_trusted
from sri_pyro.evaluation.verdicts.reading import (
    closer,
    estimate,
    interval,
    number,
    option,
    rounded,
    sentences_to_settle,
)
from sri_pyro.evaluation.verdicts.verdict import Verdict
from sri_pyro.wording import are, counted

NO_CODE = 0.5
"""Nats. Less than one yes-or-no answer (log 2 = 0.69) about a sentence is no code."""
WEAK_CODE = 1.0
"""Nats up to which a code is weak, whichever side of ``NO_CODE`` it lies on."""
FEW_UNITS, MOST_UNITS = 0.1, 0.5
"""Shares of active units: up to the first a code counts as lost, from the second on as in use."""
UNIT_CODE = 0.05
"""Nats a dimension from which a small code is weak, and not nearly collapsed: the variance of a posterior mean is then
about 0.1, ten times that of an active unit."""
ANNEALED = {
    "short_run": "Anneal the noise scale over more epochs or from a lower value; weaken",
    "amortized": "Anneal the KL weight over more epochs, or give it free bits; weaken",
    "semi_amortized": "Anneal the KL weight over more epochs; weaken",
}
"""Against collapse, by the inference."""


def code(metrics: Mapping[str, Any]) -> Verdict:
    """Say whether the model uses its code, as far as so many sentences can tell."""
    units = metrics["active_units"]
    count, of = int(units["count"]), int(units["of"])
    if not of:
        return Verdict(
            "code", "info", "This model has no code: it is a language model.",
            "Its latent dimension is 0, so that there is nothing to collapse.",
            "Use it as the baseline.",
        )  # fmt: skip
    few = count <= FEW_UNITS * of
    active = (
        f"{count} of {counted(of, 'unit')} {are(count)} shown to be active after correction for Monte Carlo noise, and "
        f"at most {units['at_most']} can be"
    )
    if int(units["naive_count"]) > count:
        active += f" (the uncorrected count says {units['naive_count']})"
    _, high = interval(estimate(metrics["kl_posterior_prior"]))
    if likelihood_is_trusted(metrics) and math.isfinite(high):
        return _code_by_divergence(metrics, few, active)
    return _code_by_units(metrics, few, active)


def _more_code(metrics: Mapping[str, Any]) -> str:
    kind = option(metrics, "inference", "kind") or "short_run"
    return (
        f"{ANNEALED.get(kind, 'Weaken')} the decoder with word dropout; then look at KL(posterior ‖ prior) on "
        "validation, epoch by epoch."
    )


def _code_by_divergence(metrics: Mapping[str, Any], few: bool, active: str) -> Verdict:
    """By the interval of KL(posterior ‖ prior)."""
    kl = estimate(metrics["kl_posterior_prior"])
    low, high = interval(kl)
    n = kl.num_samples
    found = (
        f"KL(posterior ‖ prior) is {rounded(kl)} nats (95% interval {low:.2f} to {high:.2f}, {n:,} sentences); "
        f"{active}."
    )
    if high < NO_CODE and few:
        return Verdict("code", "bad", "COLLAPSED: the model ignores its code.", found, _more_code(metrics))
    units = metrics["active_units"]
    spread = int(units["count"]) >= MOST_UNITS * int(units["of"]) and kl.value >= UNIT_CODE * int(units["of"])
    if high < NO_CODE and not spread:
        return Verdict(
            "code", "bad", "Nearly collapsed: the code holds next to nothing.",
            f"{found} Below {NO_CODE:g} nats it is called weak, and not nearly collapsed, where it holds {UNIT_CODE:g} "
            f"nats a dimension ({UNIT_CODE * int(units['of']):g} here) and half of its units are active.",
            _more_code(metrics),
        )  # fmt: skip
    if low < NO_CODE and high < WEAK_CODE:
        return Verdict(
            "code", "caution", "The code is weak.", f"{found} {NO_CODE:g} nats are less than one yes-or-no answer.",
            _more_code(metrics),
        )  # fmt: skip
    if low < NO_CODE:
        return Verdict(
            "code", "caution", f"Whether the code is collapsed cannot be told from {n:,} sentences.", found,
            sentences_to_settle(high - kl.value, kl.value - NO_CODE, n),
        )  # fmt: skip
    if few and interval(estimate(metrics["mutual_information"]))[0] <= 0:
        return _code_not_found(metrics, found)
    return Verdict(
        "code", "good", f"Not collapsed: reading a sentence moves its code by {kl.value:.1f} nats.", found,
        f"It sits in few units, or {n:,} sentences are too few to show more of them."
        if few
        else "Read the reconstructions: nats say how much the code holds, and not what.",
    )  # fmt: skip


def _code_by_units(metrics: Mapping[str, Any], few: bool, active: str) -> Verdict:
    """The same where KL(posterior ‖ prior) rests on weights that failed."""
    information, units = estimate(metrics["mutual_information"]), metrics["active_units"]
    low, share = interval(information)[0], f"{units['count']} of {counted(int(units['of']), 'unit')}"
    found = (
        f"{active}. The mutual information of sentence and code is {rounded(information)} nats, a lower bound; both "
        "are of the inference's codes. KL(posterior ‖ prior) rests on the importance weights, which are not to be "
        "trusted here."
    )
    first = "How much it holds needs a likelihood that can be trusted: see the verdict on it."
    if int(units["count"]) >= MOST_UNITS * int(units["of"]) and low > NO_CODE:
        return Verdict(
            "code",
            "good",
            f"The code is in use: {share} {are(units['count'])} active; how much it holds is unknown.",
            found,
            first,
        )
    asked = (
        f" To count as in use, half of the units are wanted and {NO_CODE:g} nats that are more than chance."
    )
    if low > 0:
        return Verdict(
            "code", "caution", f"The code holds something, how much is unknown: {share} {are(units['count'])} active.",
            found + asked, first,
        )  # fmt: skip
    if not few:
        return Verdict(
            "code", "caution", f"There is hardly a sign that the code is in use: {share} {are(units['count'])} active.",
            found + asked, first,
        )  # fmt: skip
    if shown_inactive(units):
        return Verdict("code", "bad", "The code looks collapsed.", found, _more_code(metrics))
    n = int(metrics["perplexity"]["num_sentences"])
    return Verdict(
        "code", "caution", f"Whether the code is collapsed cannot be told from {n:,} sentences.", found,
        _sentences_for_units(metrics),
    )  # fmt: skip


def _code_not_found(metrics: Mapping[str, Any], found: str) -> Verdict:
    """A code in use of which neither units nor mutual information show a trace in the inference."""
    information = rounded(estimate(metrics["mutual_information"]))
    found += f" Mutual information under the inference is {information} nats."
    if shown_inactive(metrics["active_units"]):
        return Verdict(
            "code", "bad", "The model uses its code, but the inference does not find it.", found,
            closer(metrics),
        )  # fmt: skip
    n = int(metrics["perplexity"]["num_sentences"])
    return Verdict(
        "code", "caution",
        f"The model uses its code; whether the inference finds it cannot be told from {n:,} sentences.", found,
        _sentences_for_units(metrics),
    )  # fmt: skip


def shown_inactive(units: Mapping[str, Any]) -> bool:
    """Whether upper bounds leave few units active.

    That no unit is shown to be active is no sign that none is: with few sentences every bound is wide.
    """
    return int(units["at_most"]) <= FEW_UNITS * int(units["of"])


def _sentences_for_units(metrics: Mapping[str, Any]) -> str:
    units = metrics["active_units"]
    place = int(FEW_UNITS * units["of"])  # the first unit beyond the few
    variance = number(units["variances"][place])
    bound = number(units["lower_bounds" if variance > ACTIVE else "upper_bounds"][place])
    return sentences_to_settle(
        abs(variance - bound), variance - ACTIVE, int(metrics["perplexity"]["num_sentences"])
    )
