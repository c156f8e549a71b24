"""The headline of an evaluation: one sentence, and a table of numbers with their errors; nothing is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sri_pyro.evaluation.metrics import EXACT_DENSITY, GAUSSIAN_ENTROPY, Z_95
from sri_pyro.evaluation.verdicts import (
    estimate,
    judge,
    likelihood_is_trusted,
    number,
    refused_sentences,
    rounded,
)
from sri_pyro.evaluation.verdicts.divergence import NAME, impossible
from sri_pyro.evaluation.verdicts.likelihood import largest_khat
from sri_pyro.evaluation.verdicts.reading import option
from sri_pyro.wording import are, counted

METHODS = {
    "self_normalised_importance": "self-normalised importance weights",
    GAUSSIAN_ENTROPY: "Gaussian entropy: biased low by construction",
    EXACT_DENSITY: "mean over draws of known density: unbiased",
    "bidirectional": "bidirectional Monte Carlo",
    "infonce_gaussian": "InfoNCE with Gaussian critics: a lower bound",
}
"""Estimators by the names they have in ``metrics.json``."""
BETWEEN = {
    "approximate_upper": "The lower end rests on approximate upper bounds of the sentences' log p(x).",
    "simulated_gap": "The lower end is less by the gap of the bounds on as many tokens that the model wrote.",
}
"""Where the lower end of a perplexity comes from."""


@dataclass(frozen=True)
class Row:
    """A line of the headline table: what, how much, and how to take it."""

    name: str
    value: str
    note: str = ""


def summary(metrics: Mapping[str, Any]) -> str:
    """The evaluation in one sentence; of validation sentences it says so, for they chose the weights."""
    ppl, units = metrics["perplexity"], metrics["active_units"]
    of = "validation" if option(metrics, "evaluation", "split") == "valid" else "held-out"
    n = f"{ppl['num_sentences']:,} {of} sentences"
    if refused := refused_sentences(metrics):
        text = f"No perplexity can be stated: {refused:,} of {n} have no valid estimate of log p(x)"
        folding = metrics.get("folding", {})
        if folding.get("folded_sentences"):
            share = number(folding["negative_share"])
            text += f", for steps of their runs fold ({share:.1%} of all runs have a negative determinant)"
    elif not likelihood_is_trusted(metrics):
        text = f"No perplexity can be stated: the importance weights of {n} are not to be trusted"
    else:
        text = (
            f"Perplexity {plain(ppl['estimate'], '.4g')} (95% interval {plain(ppl['lower'], '.4g')} to "
            f"{plain(ppl['upper'], '.4g')}) on {n}"
        )
    if not units["of"]:
        return text + "; a language model, without a code."
    kl = estimate(metrics["kl_posterior_prior"])
    if likelihood_is_trusted(metrics):
        text += f"; KL(posterior ‖ prior) is {kl.value:.2g} nats a sentence"
    for verdict in judge(metrics):
        if (verdict.topic, verdict.level) == ("code", "bad"):
            text += f"; {verdict.headline.rstrip('.')}"
    count = units["count"]
    at_least = "at least " if 0 < count < units["of"] else ""
    return text + f"; {at_least}{count} of {counted(units['of'], 'latent unit')} {are(count)} active."


def headline(metrics: Mapping[str, Any]) -> list[Row]:
    """The table of headline numbers, each with its error; what cannot be trusted is withheld."""
    rows = _likelihood_rows(metrics)
    return rows + _code_rows(metrics) + _weight_rows(metrics) if metrics["active_units"]["of"] else rows


def _likelihood_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """Perplexity and what it is made of, beside the truth's where that is known."""
    ppl, trusted = metrics["perplexity"], likelihood_is_trusted(metrics)
    sampling, noise = number(ppl["log_se_sampling"]) ** 2, number(ppl["log_se_monte_carlo"]) ** 2
    dominant = "the choice of sentences" if sampling >= noise else "Monte Carlo noise"
    share = max(sampling, noise) / (sampling + noise) if sampling + noise > 0 else 1.0
    counted = f"{ppl['num_tokens']:,} tokens, ends of sentences counted. "
    nll = "Negative log-likelihood"
    rows = [
        Row(
            "Perplexity",
            ranged(ppl["estimate"], ppl["lower"], ppl["upper"], ".4g"),
            f"{counted}{share:.1%} of the interval's variance comes from {dominant}.",
        )
        if trusted
        else _withheld("Perplexity"),
        _row(nll, metrics["nll"], "nats a sentence") if trusted else _withheld(nll),
    ]
    if "guarantees" in metrics:
        rows += _guaranteed(metrics["guarantees"], int(ppl["num_sentences"]))
    if "perplexity_between" in metrics:
        title = "Perplexity between bounds"
        rows += [_between(title, metrics["perplexity_between"]) if trusted else _withheld(title)]
        rows += _gap_rows(metrics)
    if "floor" in metrics:
        floor = metrics["floor"]
        rows += [
            Row(
                "Perplexity of the truth",
                f"{number(floor['perplexity']):.4g}",
                "The exact law of these sentences: a floor for every model.",
            ),
            _row("Excess over the truth", floor["excess"], "KL(truth ‖ model), nats a sentence")
            if trusted
            else _withheld("Excess over the truth"),
        ]
    return rows


def _guaranteed(found: Mapping[str, Any], num_sentences: int) -> list[Row]:
    """What holds whatever the weights' tails: nothing of it needs k-hat's consent."""
    if not math.isfinite(number(found["perplexity"])):
        return []
    bounded, width = int(found["bounded_sentences"]), plain(found["bounded_width"], ".2g")
    own = ""
    if math.isfinite(number(found["simulated_upper"])):
        own = (
            f" That of sentences that the model wrote lies between {plain(found['simulated_lower'], '.4g')} and "
            f"{plain(found['simulated_upper'], '.4g')}, in the same sense."
        )
    each = f"; {bounded:,} of {num_sentences:,} have one of their own, {width} nats wide" if bounded else ""
    return [
        Row(
            "Perplexity, guaranteed",
            f"at most {plain(found['perplexity'], '.4g')}",
            f"With {number(found['confidence']):.0%} confidence over the importance draws, whatever the tails of their "
            f"weights, for these sentences together{each}.{own}",
        )
    ]


def _between(title: str, found: Mapping[str, Any]) -> Row:
    ends = [plain(found[name], ".4g") for name in ("lower", "upper")]
    noise = number(found["log_se_monte_carlo"])
    safe = plain(number(found["lower"]) * math.exp(-Z_95 * noise), ".4g")
    return Row(
        title,
        f"{ends[0]} to {ends[1]}" if ends[0] != ends[1] else f"{ends[1]}, no gap shown",
        f"{BETWEEN[found['method']]} Errors of either end's logarithm: {plain(noise, '.2g')} by Monte Carlo, so that "
        f"the lower end may be {safe} (95%); {plain(found['log_se_sampling'], '.2g')} by the choice of sentences.",
    )


def _gap_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """What lies between the bounds of log p(x), a sentence."""
    rows = []
    for name, title, kind in (
        ("sandwich", "Gap of the bounds, own text", "exact upper bounds"),
        ("approximate_sandwich", "Gap of the bounds, held-out text", "approximate upper bounds"),
    ):
        if name not in metrics:
            continue
        found = metrics[name]
        note = (
            f"nats a sentence, {kind}; {rounded(estimate(found['gap_reverse']))} by reverse importance sampling. "
            f"k-hat fails on {number(found['failed_share']):.1%} of {found['num_sentences']:,} sentences, "
            f"which make up {plain(found['failed_nats'], '.3g')} of a mean log p(x) of "
            f"{plain(found['lower']['value'], '.4g')}"
        )
        rows.append(_row(title, found["gap"], note))
    return rows


def _code_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """What the code holds."""
    units, information = metrics["active_units"], metrics["mutual_information"]
    trusted = likelihood_is_trusted(metrics)
    of_model, of_run = "KL(posterior ‖ prior)", NAME
    cap = math.log(max(1, int(information["num_samples"])))
    naive = f"Naive count, which noise inflates: {units['naive_count']} (single draws: "
    naive += f"{units['naive_single_draw_count']})"
    return [
        _row(
            "Reconstruction",
            metrics["reconstruction"],
            "-log p(x | z) over runs of the inference, nats a sentence",
        ),
        _row(of_model, metrics["kl_posterior_prior"], "does not depend on the inference")
        if trusted
        else _withheld(of_model),
        _row("KL(inference ‖ prior)", metrics["kl_q_prior"]),
        _row(of_run, metrics["kl_q_posterior"]) if trusted else _withheld(of_run),
        _row(
            "Mutual information, at least",
            information,
            f"of sentence and code under the inference's law, so that it may exceed {of_model}, which is of the "
            f"model's; cannot exceed log n = {cap:.2f}",
        ),
        Row(
            "Active units, corrected",
            f"{units['count']} of {units['of']} [{units['count']}, {units['at_most']}]",
            f"Each end holds with 95%, by simultaneous bounds. {naive}; "
            f"{counted(units['active_eigenvalues'], 'active direction')}. {units['num_chains']} chains a sentence.",
        ),
    ]


def _weight_rows(metrics: Mapping[str, Any]) -> list[Row]:
    """How good the importance weights are, and the inference beside the posterior that they show."""
    khat, ess = metrics["khat"], metrics["ess"]
    folding = metrics.get("folding")
    rows = [
        Row(
            "k-hat below its threshold",
            with_ends(khat, "share_below", ".1%"),
            f"Share of sentences, with its exact binomial interval. Threshold "
            f"{plain(khat['threshold'], '.2f')}; median {with_ends(khat, 'median', '.2f')}, largest "
            f"{largest_khat(khat)}.",
        ),
        Row(
            "Effective draws, median",
            with_ends(ess, "median", ".0f"),
            f"Distribution-free interval, over sentences. Smallest {plain(ess['min'], '.0f')}.",
        ),
    ]
    if chains := metrics["divergence"]["chains"]:
        rows.append(
            Row(
                "Chains that diverged",
                f"{chains:,} of {metrics['divergence']['num_chains']:,}",
                f"They ran again with shorter steps, on {counted(metrics['divergence']['sentences'], 'sentence')}.",
            )
        )
    if folding is not None:
        rows.append(
            Row(
                "Runs of negative determinant",
                f"{number(folding['negative_share']):.1%} of runs",
                f"Steps fold on {counted(folding['folded_sentences'], 'sentence')}; smallest eigenvalue "
                f"{number(folding['smallest_eigenvalue']):.3g}.",
            )
        )
    if "ladder" in metrics:
        rows.append(_climb(metrics["ladder"]))
    if "posterior_spread_ratio" in metrics:
        note = "1: as wide in all, which says nothing of place and shape; below 1: over-confident"
        rows.append(_row("Variance, inference / posterior", metrics["posterior_spread_ratio"], note))
    return rows


def _climb(ladder: Mapping[str, Any]) -> Row:
    on = zip(("Gaussian", "refitted", "Langevin", "HMC"), ladder["sentences"], strict=True)
    return Row(
        "Error of a log p(x), median",
        f"{plain(ladder['se_median'], '.2g')} nats (largest {plain(ladder['se_max'], '.2g')})",
        f"Sentences by the rung they were counted on: {', '.join(f'{name} {count:,}' for name, count in on)}. "
        f"{ladder['num_samples']:,} draws counted, {ladder['gradients']:,} gradients; "
        f"{plain(ladder['ess_per_gradient'], '.2g')} effective draws a gradient.",
    )


def plain(value: Any, form: str) -> str:
    """A number in a format; what is not finite is not known."""
    return format(number(value), form) if math.isfinite(number(value)) else "not known"


def ranged(value: Any, lower: Any, upper: Any, form: str) -> str:
    """A number with its interval, as far as they are known.

    Example:
        >>> ranged(0.98, 0.9, 1.0, ".0%"), ranged(3.0, None, None, ".1f")
        ('98% [90%, 100%]', '3.0 [not known]')
    """
    ends = [plain(end, form) for end in (lower, upper)]
    return (
        f"{plain(value, form)} [{', '.join(dict.fromkeys(ends)) if 'not known' in ends else ', '.join(ends)}]"
    )


def with_ends(record: Mapping[str, Any], name: str, form: str) -> str:
    """A number of a record with its interval, whose ends stand beside it."""
    return ranged(record[name], record[f"{name}_lower"], record[f"{name}_upper"], form)


def _row(name: str, record: Mapping[str, Any], note: str = "") -> Row:
    found = estimate(record)
    if impossible(found):
        return Row(
            name,
            "not known",
            f"No KL is negative, and the Gaussian entropy of the draws over-states theirs so far that this one comes "
            f"out at {rounded(found)}.",
        )
    parts = [note, METHODS.get(found.method, found.method)]
    note = "; ".join(part for part in parts if part)
    value = rounded(found) if math.isfinite(found.value) else "not known"
    return Row(name, value, note[:1].upper() + note[1:] + ("." if note else ""))


def _withheld(name: str) -> Row:
    return Row(name, "not shown", "What it rests on is not to be trusted; see the first verdict.")
