"""Verdicts: real models are called what they are, and every threshold turns where it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from sri_pyro.evaluation.export import finite
from sri_pyro.evaluation.verdicts import Verdict, judge, likelihood_is_trusted, rounded
from sri_pyro.types import Estimate

Metrics = dict[str, Any]
MetricsOf = Callable[[str], Metrics]


def verdict(metrics: Metrics, topic: str) -> Verdict:
    (found,) = [each for each in judge(metrics) if each.topic == topic]
    return found


def put(metrics: Metrics, name: str, value: float, se: float) -> Metrics:
    """The metrics with another estimate."""
    return {**metrics, name: {**metrics[name], "value": value, "se": se}}


def test_a_collapsed_model_is_called_collapsed(metrics_of: MetricsOf) -> None:
    """Z is cut off from the decoder, so that the posterior is the prior. A page that trusted the naive count,
    which calls every unit active at 16 chains, would call this model healthy.
    """
    metrics = metrics_of("collapsed")
    assert metrics["active_units"]["naive_count"] == metrics["active_units"]["of"] == 4
    found = verdict(metrics, "code")
    assert found.level == "bad"
    assert found.headline == "COLLAPSED: the model ignores its code."
    assert "0 of 4 units are active after correction" in found.evidence
    assert "the uncorrected count says 4" in found.evidence
    assert verdict(metrics, "likelihood").level == "good"


def test_a_healthy_model_gets_no_bad_verdict(metrics_of: MetricsOf) -> None:
    found = {each.topic: each for each in judge(metrics_of("healthy"))}
    assert list(found) == ["likelihood", "code", "short_run", "rest", "aggregate", "jensen"]
    assert {each.level for each in found.values()} <= {"good", "info"}
    assert found["code"].headline.startswith("Not collapsed: the code holds about ")


def test_a_cold_run_is_called_over_confident(metrics_of: MetricsOf) -> None:
    """At noise scale 0.2 the chains keep about 0.04 of the posterior's variance."""
    metrics = metrics_of("cold")
    found = verdict(metrics, "short_run")
    assert (found.level, found.headline) == ("bad", "The short run is over-confident.")
    assert "its noise scale is 0.2." in found.evidence
    assert "Anneal the noise scale up to 1." in found.advice
    assert metrics["posterior_spread_ratio"]["value"] < 0.5


def test_a_language_model_has_no_code(metrics_of: MetricsOf) -> None:
    found = judge(metrics_of("language_model"))
    assert [each.headline for each in found] == [
        "The likelihood is exact.",
        "This model has no code: it is a language model.",
    ]


@pytest.mark.parametrize("kind", ["healthy", "collapsed", "cold", "language_model"])
def test_verdicts_read_the_file_as_they_read_the_numbers(kind: str, metrics_of: MetricsOf) -> None:
    """In metrics.json a NaN is null; no verdict may depend on which of the two it sees."""
    metrics = metrics_of(kind)
    assert judge(finite(metrics)) == judge(metrics)


@pytest.mark.parametrize(
    ("kl", "se", "count", "headline"),
    [
        (0.30, 0.05, 0, "COLLAPSED: the model ignores its code."),  # upper end 0.398
        (0.30, 0.05, 4, "Nearly collapsed: the code holds next to nothing."),
        (0.45, 0.05, 0, "The code is weak."),  # upper end 0.548: not shown to be below
        (0.70, 0.05, 4, "Not collapsed: the code holds about 0.7 nats a sentence."),
        (0.55, 0.05, 4, "The code is weak."),  # lower end 0.452
        (3.00, 0.05, 0, "The model uses its code, but the short run does not find it."),
    ],
)
def test_collapse_rests_on_the_interval(
    kl: float, se: float, count: int, headline: str, metrics_of: MetricsOf
) -> None:
    metrics = put(metrics_of("healthy"), "kl_posterior_prior", kl, se)
    metrics["active_units"]["count"] = count
    assert verdict(metrics, "code").headline == headline


@pytest.mark.parametrize(("count", "level"), [(0, "bad"), (4, "caution")])
def test_collapse_is_not_judged_by_weights_that_failed(count: int, level: str, metrics_of: MetricsOf) -> None:
    """A KL of 5 nats from bad weights is no sign of life."""
    metrics = put(metrics_of("healthy"), "kl_posterior_prior", 5.0, 0.1)
    metrics["khat"]["share_below"] = 0.5
    metrics["active_units"]["count"] = count
    found = verdict(metrics, "code")
    assert found.level == level
    assert "5.0" not in found.evidence


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
    assert verdict(few, "likelihood").level == "caution"
    assert "makes up 80.0% of the interval's variance" in verdict(noisy, "likelihood").evidence
    assert verdict(noisy, "likelihood").level == "caution"
    assert verdict(refused, "likelihood").headline == "There is no likelihood: the estimator refused."
    assert not likelihood_is_trusted(refused)


@pytest.mark.parametrize(
    ("ratio", "kl", "noise", "level", "start"),
    [
        (1.0, 0.1, 1.0, "good", "The short run is neither"),
        (0.8, 0.1, 1.0, "caution", "The short run is over-confident."),
        (0.3, 0.1, 1.0, "bad", "The short run is over-confident."),
        (0.8, 3.0, 1.0, "bad", "The short run is over-confident."),
        (1.0, 0.1, 0.9, "good", "The short run is neither"),  # cool, and yet of the right width
        (math.nan, 0.1, 0.2, "caution", "The short run is over-confident."),
        (math.nan, 0.1, 1.0, "caution", "Whether the short run is over-confident cannot be said."),
        (1.3, 0.1, None, "caution", "The short run is too wide"),
        (2.5, 0.1, None, "bad", "The short run is too wide"),
        (1.0, 0.8, None, "caution", "The short run is as wide as the posterior, but off"),
    ],
)
def test_the_short_run_is_judged_by_width_and_divergence(
    ratio: float, kl: float, noise: float | None, level: str, start: str, metrics_of: MetricsOf
) -> None:
    metrics = put(metrics_of("healthy"), "posterior_spread_ratio", ratio, 0.01)
    metrics = {**put(metrics, "kl_q_posterior", kl, 0.01), "noise_scale": noise}
    found = verdict(metrics, "short_run")
    assert found.level == level
    assert found.headline.startswith(start)


@pytest.mark.parametrize(
    ("fall", "se", "start"),
    [
        (0.02, 0.03, "The run has come to rest."),
        (0.30, 0.05, "The run is still moving"),
        (0.30, 0.20, "The run has come to rest."),  # not shown to move
        (-0.40, 0.05, "The run moves away"),
    ],
)
def test_rest_is_judged_by_the_last_quarter(
    fall: float, se: float, start: str, metrics_of: MetricsOf
) -> None:
    metrics = metrics_of("healthy")
    metrics["short_run"] = put(metrics["short_run"], "kl_late_fall", fall, se)
    assert verdict(metrics, "rest").headline.startswith(start)
    metrics["short_run"] = put(metrics["short_run"], "kl_late_fall", math.nan, math.nan)
    metrics["short_run"] = put(metrics["short_run"], "energy_late_fall", fall, se)
    assert verdict(metrics, "rest").headline.startswith(start)
    metrics["short_run"] = None
    assert verdict(metrics, "rest").level == "info"


def test_the_aggregate_must_differ_by_more_than_chance_and_by_enough_to_see(metrics_of: MetricsOf) -> None:
    metrics = metrics_of("healthy")
    for gap, band, level in ((0.05, 0.02, "good"), (0.15, 0.2, "good"), (0.15, 0.05, "caution")):
        metrics["aggregate"] |= {"radius_gap": gap, "band": band}
        assert verdict(metrics, "aggregate").level == level


@pytest.mark.parametrize(
    ("gap", "violated", "level"),
    [(0.3, False, "good"), (-0.2, False, "info"), (-2.0, False, "caution"), (-2.0, True, "bad")],
)  # fmt: skip
def test_jensen(gap: float, violated: bool, level: str, metrics_of: MetricsOf) -> None:
    metrics = metrics_of("healthy")
    metrics["jensen"] |= {"gap": {"value": gap, "se": 0.02, "num_samples": 9}, "violated": violated}
    assert verdict(metrics, "jensen").level == level


def test_metrics_without_draws_are_judged_as_far_as_they_go(metrics_of: MetricsOf) -> None:
    """An ``Evaluation.metrics`` on its own knows neither widths nor steps."""
    metrics = metrics_of("healthy")
    for name in ("posterior_spread_ratio", "short_run", "aggregate"):
        del metrics[name]
    assert [each.topic for each in judge(metrics)] == ["likelihood", "code", "jensen"]


def test_estimates_are_rounded_to_the_second_digit_of_their_error() -> None:
    assert rounded(Estimate(123.456, 12.3, 5)) == "123 ± 12"
    assert rounded(Estimate(0.0, 0.0, 5)) == "0"
    assert rounded(Estimate(1.5, math.nan, 5)) == "1.5"
