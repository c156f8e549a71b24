"""Which KL(inference ‖ posterior) to believe, where a page has several: what each rests on, said once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.metrics import EXACT_DENSITY
from sri_pyro.evaluation.verdicts import likelihood_is_trusted
from sri_pyro.evaluation.verdicts.divergence import NAME, shown_divergence
from sri_pyro.evaluation.verdicts.reading import is_a_chain
from sri_pyro.wording import counted


def which_divergence(metrics: Mapping[str, Any], findings: Mapping[str, Mapping[str, Any]]) -> str:
    """What the numbers of this name rest on, and which to believe; empty where the page has one alone.

    Args:
        metrics: Of the evaluation.
        findings: Numbers of the further analyses that the page shows, by name.

    Example:
        >>> which_divergence({"active_units": {"of": 0}}, {})
        ''
    """
    if not metrics["active_units"]["of"]:
        return ""
    steps, reference = findings.get("doctor"), findings.get("reference")
    others = []
    if is_a_chain(metrics) and metrics.get("short_run"):
        others.append(
            "The figure by step of the tab Inference rests on few sentences and a Gaussian entropy."
        )
    if steps is not None and steps["num_steps"] and steps.get("grid") is not None:
        others.append(
            f"The tab Steps rests on {counted(steps['num_sentences'], 'validation sentence')} and a Gaussian entropy, "
            "at steps of its own: take its differences between steps, and not its level."
        )
    if reference is not None:
        others.append(
            f"The tab Reference rests on {_sentences(reference)}, by long chains, and takes inference and posterior "
            "for Gaussian, so that what is biased in the one cancels against the other in part."
        )
    if not others:
        return ""
    return " ".join(
        [
            f"{NAME} has several numbers on this page. {_headline(metrics)}",
            *others,
            _believed(metrics, reference),
        ]
    )


def _headline(metrics: Mapping[str, Any]) -> str:
    said = f"The one above rests on {counted(metrics['perplexity']['num_sentences'], 'held-out sentence')}, "
    if not likelihood_is_trusted(metrics):
        return said + "by a likelihood that is not to be trusted, and is not shown."
    if metrics["kl_q_posterior"].get("method") == EXACT_DENSITY:
        return said + "log p(x) by importance weights and the known density of the draws: it is unbiased."
    return (
        said + "log p(x) by importance weights and a Gaussian entropy of the draws, which makes it too low."
    )


def _sentences(reference: Mapping[str, Any]) -> str:
    """Those whose chains may be trusted, of the run's own posterior."""
    trusted = next(iter(reference["references"].values()))["trusted"]
    used = sum(trusted)
    left = f" ({counted(len(trusted) - used, 'further one')} left out)" if used < len(trusted) else ""
    return counted(used, "held-out sentence") + left


def _believed(metrics: Mapping[str, Any], reference: Mapping[str, Any] | None) -> str:
    """Which one to believe."""
    known = math.isfinite(shown_divergence(metrics).value)
    if known and metrics["kl_q_posterior"].get("method") == EXACT_DENSITY:
        return "Believe the one above; all others are of fewer sentences."
    at_least = (
        "the one above shows a gap where it lies above zero, and never that there is none" if known else ""
    )
    if reference is None or not any(next(iter(reference["references"].values()))["trusted"]):
        return (
            f"No one is to be believed as a level{f': {at_least}' if at_least else ''}; sri-pyro reference gives one, "
            "on sentences whose chains have met."
        )
    believed = "Believe that of the tab Reference, for its sentences"
    return f"{believed}; {at_least}." if at_least else f"{believed}."
