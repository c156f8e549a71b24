"""The verdict on log p(x) follows the weights, and advises what was not done already."""

from __future__ import annotations

import pytest

from sri_pyro.evaluation.headline import headline, summary
from sri_pyro.evaluation.verdicts import likelihood_is_trusted
from tests.evaluation.verdicts.helpers import Metrics, MetricsOf, verdict


@pytest.mark.parametrize(
    ("share_below", "failed", "level", "trusted"),
    [(1.0, 0, "good", True), (0.95, 2, "caution", True), (0.85, 7, "bad", False)],
)
def test_the_likelihood_is_trusted_as_far_as_its_weights(
    share_below: float, failed: int, level: str, trusted: bool, metrics_of: MetricsOf
) -> None:
    metrics = metrics_of("healthy")
    metrics["khat"] |= {"share_below": share_below, "failed_sentences": failed}
    assert verdict(metrics, "likelihood").level == level
    assert likelihood_is_trusted(metrics) is trusted


def test_other_ways_in_which_a_likelihood_is_wanting(metrics_of: MetricsOf) -> None:
    few = metrics_of("healthy")
    few["ess"]["median"] = 12.0
    noisy = metrics_of("healthy")
    noisy["perplexity"] |= {"log_se_sampling": 0.01, "log_se_monte_carlo": 0.02}
    refused = metrics_of("healthy")
    refused["perplexity"]["estimate"] = None
    refused["nll"]["num_samples"] -= 1
    assert verdict(few, "likelihood").level == "caution"
    assert "makes up 80.0% of the interval's variance" in verdict(noisy, "likelihood").evidence
    assert verdict(noisy, "likelihood").level == "caution"
    assert verdict(refused, "likelihood").headline == "There is no likelihood: the estimator refused."
    assert not likelihood_is_trusted(refused)


LADDER = "with --target-se 0.1 (the estimator 'ladder', which spends on each sentence what that needs)"


def with_estimator(metrics: Metrics, kind: str) -> Metrics:
    configuration = {"evaluation": {"estimator": {"kind": kind}}}
    return {**metrics, "provenance": {"configuration": configuration}}


def test_a_refusal_says_how_many_sentences_and_why(metrics_of: MetricsOf) -> None:
    """Of 48 sentences the mean NLL has 44: four were refused. The weights' tails are beside the point."""
    metrics = with_estimator(metrics_of("healthy"), "jacobian")
    metrics["perplexity"]["estimate"] = None
    metrics["nll"]["num_samples"] = 44
    metrics["folding"] = {"folded_sentences": 4, "negative_share": 0.025, "smallest_eigenvalue": -0.31}
    metrics["khat"] |= {"share_below": 0.0, "failed_sentences": 48, "max": None}
    found = verdict(metrics, "likelihood")
    assert found.headline == "There is no likelihood: the estimator refused."
    assert found.evidence.startswith(
        "The estimator 'jacobian' refused on 4 of 48 sentences: steps of their runs fold"
    )
    assert found.evidence.endswith(
        "Of all runs 2.5% have a map of negative determinant; the smallest eigenvalue of a step is -0.31."
    )
    assert summary(metrics).startswith(
        "No perplexity can be stated: 4 of 48 held-out sentences have no valid estimate of log p(x), for steps of "
        "their runs fold (2.5% of all runs have a negative determinant);"
    )
    assert " nan" not in found.evidence
    assert "'gaussian'" in found.advice


def test_an_impossible_sentence_is_no_refusal(metrics_of: MetricsOf) -> None:
    """Log p(x) = -inf is a number, so that the mean NLL counts all 48; the perplexity is infinite (null on disk)."""
    metrics = metrics_of("healthy")
    metrics["perplexity"]["estimate"] = None
    found = verdict(metrics, "likelihood")
    assert found.headline == "There is no likelihood: a sentence has none."
    assert found.evidence.startswith(
        "Of 48 sentences at least one has only draws from which it is impossible"
    )
    assert found.level == "bad"
    assert not likelihood_is_trusted(metrics)


def test_too_few_draws_for_a_tail_are_not_called_a_heavy_tail(metrics_of: MetricsOf) -> None:
    metrics = with_estimator(metrics_of("healthy"), "jacobian")
    metrics["khat"] |= {
        "share_below": 0.0, "failed_sentences": 48, "max": None, "infinite": 48, "median": None,
    }  # fmt: skip
    found = verdict(metrics, "likelihood")
    assert found.evidence.startswith("k-hat cannot be fitted to so few draws")
    assert "tails" not in found.evidence
    assert "nan" not in found.evidence


def test_an_infinite_khat_is_told_from_an_unknown_one(metrics_of: MetricsOf) -> None:
    """JSON writes both as null; the largest finite one would hide the sentence that nothing was fitted to."""
    metrics = metrics_of("healthy")
    metrics["khat"] |= {"share_below": 47 / 48, "failed_sentences": 1, "max": None, "infinite": 1}
    assert "(2.1%; largest infinite, on 1 against 0.63)" in verdict(metrics, "likelihood").evidence
    note = next(row.note for row in headline(metrics) if row.name == "k-hat below its threshold")
    assert note.endswith("largest infinite, on 1.")
    metrics["khat"]["infinite"] = 0
    assert "largest not known against" in verdict(metrics, "likelihood").evidence


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("gaussian", f"Evaluate {LADDER}; or raise num_samples, or take the estimator 'annealed'."),
        ("annealed", f"Raise num_samples and temperatures of the estimator 'annealed', or evaluate {LADDER}."),
        (
            "jacobian",
            f"Evaluate {LADDER}, or with the estimator 'gaussian' or 'annealed'; 'jacobian' is kept for comparison "
            "alone.",
        ),
        ("ladder", "Raise chains and conditional_ess of the estimator 'ladder', or its most_samples and most_chains."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share_below", [0.95, 0.5])
def test_nobody_is_advised_to_do_what_was_done(
    share_below: float, kind: str, advice: str, metrics_of: MetricsOf
) -> None:
    metrics = with_estimator(metrics_of("healthy"), kind)
    metrics["khat"] |= {"share_below": share_below, "failed_sentences": 2}
    found = verdict(metrics, "likelihood").advice
    assert found.endswith(advice)
    assert ("--target-se" in found) is (kind != "ladder")  # the option that the command line has
