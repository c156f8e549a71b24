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
    assert {each.level for each in found.values()} <= {"good", "info"}, found
    assert found["code"].headline.startswith("Not collapsed: the code holds about ")


def test_a_cold_run_is_called_over_confident(metrics_of: MetricsOf) -> None:
    """At noise scale 0.2 the chains keep about 0.04 of the posterior's variance. Where three sentences alone have
    good weights the divergence speaks, and not the width.
    """
    metrics = metrics_of("cold")
    found = verdict(metrics, "short_run")
    assert (found.level, found.headline) == ("bad", "The short run is over-confident.")
    assert "The noise scale is 0.2." in found.evidence
    assert "Anneal the noise scale up to 1" in found.advice
    assert metrics["posterior_spread_ratio"]["value"] < 0.5
    metrics["posterior_spread_ratio"]["num_samples"] = 3
    untold = "The short run is off the posterior; whether too wide or too narrow cannot be told."
    assert verdict(metrics, "short_run").headline == untold


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
        (0.55, 0.30, 4, "Whether the code is collapsed cannot be told from 48 sentences."),  # -0.05 to 1.15
        (3.00, 0.05, 0, "Not collapsed: the code holds about 3.0 nats a sentence."),  # the short run finds it
    ],
)
def test_collapse_rests_on_the_interval(
    kl: float, se: float, count: int, headline: str, metrics_of: MetricsOf
) -> None:
    metrics = put(metrics_of("healthy"), "kl_posterior_prior", kl, se)
    metrics["active_units"]["count"] = count
    assert verdict(metrics, "code").headline == headline


def silent(metrics: Metrics, lower: float) -> Metrics:
    """A short run without a trace of the code: no mutual information, units of variance 0.001."""
    metrics = put(metrics, "mutual_information", 0.01, 0.02)
    metrics["active_units"] |= {"count": 0, "variances": [0.001] * 4, "lower_bounds": [lower] * 4}
    return metrics


@pytest.mark.parametrize(
    ("lower", "level", "headline"),
    [
        (-0.002, "bad", "The model uses its code, but the short run does not find it."),  # upper bounds 0.004
        (
            -0.03, "caution",  # 0.032: some may be active
            "The model uses its code; whether the short run finds it cannot be told from 48 sentences.",
        ),
    ],
)  # fmt: skip
def test_a_code_counts_as_missed_if_upper_bounds_say_so(
    lower: float, level: str, headline: str, metrics_of: MetricsOf
) -> None:
    """None of the units *shown* active is not none active: six sentences show no unit of any model."""
    found = verdict(silent(put(metrics_of("healthy"), "kl_posterior_prior", 3.0, 0.05), lower), "code")
    assert (found.level, found.headline) == (level, headline)
    if level == "caution":  # half width 0.031, distance to 0.01 is 0.009: (31 / 9)^2 * 48 = 570
        assert found.advice.startswith("About 570 sentences in place of 48 would settle it")


def test_mutual_information_shows_a_code_where_few_sentences_show_no_unit(metrics_of: MetricsOf) -> None:
    """0 of 4 units and 0.78 +- 0.17 nats on 6 sentences: Student's interval is 0.34 to 1.22."""
    metrics = silent(put(metrics_of("healthy"), "kl_posterior_prior", 1.6, 0.2), -0.2)
    metrics["mutual_information"] |= {"value": 0.78, "se": 0.17, "num_samples": 6}
    metrics["kl_posterior_prior"]["num_samples"] = 6
    found = verdict(metrics, "code")
    assert found.headline == "Not collapsed: the code holds about 1.6 nats a sentence."
    assert "6 sentences are too few to show more of them." in found.advice


@pytest.mark.parametrize(
    ("kind", "level", "headline"),
    [
        ("seen", "caution", "The code is in use; how much it holds is unknown."),
        ("informative", "caution", "The code is in use; how much it holds is unknown."),
        ("silent", "bad", "The code looks collapsed."),
        ("undecided", "caution", "Whether the code is collapsed cannot be told from 48 sentences."),
    ],
)
def test_collapse_is_not_judged_by_weights_that_failed(
    kind: str, level: str, headline: str, metrics_of: MetricsOf
) -> None:
    """A KL of 5 nats from bad weights is no sign of life."""
    metrics = put(metrics_of("healthy"), "kl_posterior_prior", 5.0, 0.1)
    metrics["khat"]["share_below"] = 0.5
    if kind != "seen":
        metrics = silent(metrics, -0.03 if kind == "undecided" else -0.002)
    if kind == "informative":
        metrics = put(metrics, "mutual_information", 0.5, 0.02)
    found = verdict(metrics, "code")
    assert (found.level, found.headline) == (level, headline)
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


def with_estimator(metrics: Metrics, kind: str) -> Metrics:
    configuration = {"evaluation": {"estimator": {"kind": kind}}}
    return {**metrics, "provenance": {"configuration": configuration}}


def test_a_refusal_says_how_many_sentences_and_why(metrics_of: MetricsOf) -> None:
    """Of 48 sentences the mean NLL has 44: four were refused. The weights' tails are beside the point."""
    metrics = with_estimator(metrics_of("healthy"), "jacobian")
    metrics["perplexity"]["estimate"] = None
    metrics["nll"]["num_samples"] = 44
    metrics["khat"] |= {"share_below": 0.0, "failed_sentences": 48, "max": None}
    found = verdict(metrics, "likelihood")
    assert found.headline == "There is no likelihood: the estimator refused."
    assert found.evidence.startswith(
        "The estimator 'jacobian' refused on 4 of 48 sentences: steps of their runs fold"
    )
    assert "nan" not in found.evidence
    assert "'gaussian'" in found.advice


def test_too_few_draws_for_a_tail_are_not_called_a_heavy_tail(metrics_of: MetricsOf) -> None:
    metrics = with_estimator(metrics_of("healthy"), "jacobian")
    metrics["khat"] |= {"share_below": 0.0, "failed_sentences": 48, "max": None}
    found = verdict(metrics, "likelihood")
    assert found.evidence.startswith("k-hat cannot be fitted to so few draws")
    assert "tails" not in found.evidence
    assert "nan" not in found.evidence


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("gaussian", "Raise num_samples, or evaluate with the estimator 'annealed'."),
        ("annealed", "Raise num_samples and temperatures of the estimator 'annealed'."),
        ("jacobian", "Evaluate with the estimator 'gaussian' or 'annealed'; 'jacobian' is kept for comparison alone."),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share_below", [0.95, 0.5])
def test_nobody_is_advised_to_do_what_was_done(
    share_below: float, kind: str, advice: str, metrics_of: MetricsOf
) -> None:
    metrics = with_estimator(metrics_of("healthy"), kind)
    metrics["khat"] |= {"share_below": share_below, "failed_sentences": 2}
    assert verdict(metrics, "likelihood").advice.endswith(advice)


@pytest.mark.parametrize(
    ("ratio", "kl", "noise", "level", "start"),
    [
        (1.0, 0.1, 1.0, "good", "The short run is as wide as the posterior."),
        (0.8, 0.1, 1.0, "caution", "The short run is over-confident."),
        (0.3, 0.1, 1.0, "bad", "The short run is over-confident."),
        (0.8, 3.0, 1.0, "bad", "The short run is over-confident."),
        (
            1.0,
            0.1,
            0.9,
            "good",
            "The short run is as wide as the posterior.",
        ),  # cool, and yet of the right width
        (math.nan, 0.1, 0.2, "caution", "Whether the short run is over-confident cannot be told."),
        (math.nan, 0.1, 1.0, "caution", "Whether the short run is over-confident cannot be told."),
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
    ("ratio", "se", "num_samples", "level"),
    [
        (1.37, 0.22, 30, "caution"),  # 0.92 to 1.82
        (1.00, 0.10, 30, "info"),  # 0.80 to 1.20
        (1.00, 0.01, 3, "info"),  # three sentences
        (1.00, 0.04, 30, "good"),  # 0.918 to 1.082
        (1.00, 0.04, 6, "info"),  # 0.897 to 1.103 by Student; a normal interval would pass
    ],
)
def test_a_width_is_judged_if_its_interval_lies_on_one_side(
    ratio: float, se: float, num_samples: int, level: str, metrics_of: MetricsOf
) -> None:
    metrics = metrics_of("healthy")
    metrics["posterior_spread_ratio"] |= {"value": ratio, "se": se, "num_samples": num_samples}
    found = verdict(metrics, "short_run")
    assert found.level == level
    told = f"Whether the short run is as wide as the posterior cannot be told from {num_samples} sentences."
    assert found.headline == ("The short run is as wide as the posterior." if level == "good" else told)


def test_a_right_width_on_few_trusted_sentences_is_no_clean_bill(metrics_of: MetricsOf) -> None:
    metrics = put(metrics_of("healthy"), "posterior_spread_ratio", 1.0, 0.01)
    metrics["khat"] |= {"share_below": 0.5, "failed_sentences": 24}
    assert verdict(metrics, "short_run").level == "caution"


def test_a_lower_estimate_below_zero_certifies_nothing(metrics_of: MetricsOf) -> None:
    """-0.141 +- 0.018 is eight standard errors below zero: the error leaves out the bias."""
    metrics = put(metrics_of("healthy"), "kl_q_posterior", -0.141, 0.018)
    metrics["jensen"]["gap"] |= {"value": -0.141, "se": 0.018}
    biased = (
        "biased low by construction (Gaussian entropy), so it shows no evidence of a gap and cannot certify"
    )
    assert f"is −0.141 ± 0.018 nats, {biased} its absence." in verdict(metrics, "short_run").evidence
    found = verdict(metrics, "jensen")
    assert f"Not binding: this KL is a lower estimate, {biased} its absence." in found.evidence
    assert found.level == "info"


@pytest.mark.parametrize(
    ("trained", "schedule", "warned"),
    [
        (2, {"kind": "linear", "start": 0.05, "end": 1.0, "epochs": 6.0}, True),
        (6, {"kind": "linear", "start": 0.05, "end": 1.0, "epochs": 6.0}, False),
        (2, {"kind": "linear", "start": 1.0, "end": 1.0, "epochs": 6.0}, False),
        (17, {"kind": "staircase", "start": 0.05, "increment": 0.05, "hold": 15, "end": 0.2}, True),
        (18, {"kind": "staircase", "start": 0.05, "increment": 0.05, "hold": 15, "end": 0.2}, False),
        (2, {"kind": "constant", "scale": 0.2}, False),
        (2, None, False),
    ],
)
def test_a_noise_scale_that_training_never_reached_is_named(
    trained: int, schedule: dict[str, Any] | None, warned: bool, metrics_of: MetricsOf
) -> None:
    """The staircase of the authors stands at 0.2 in epoch 17, counted from 0, which is the 18th."""
    configuration = {"training": {"epochs": trained}, "inference": {"noise": schedule}}
    metrics = {**metrics_of("healthy"), "provenance": {"configuration": configuration}}
    found = [each for each in judge(metrics) if each.topic == "noise"]
    assert bool(found) is warned
    if warned:
        assert found[0].level == "caution"
        assert found[0].headline == "The decoder was never trained at the noise scale it is evaluated at."


@pytest.mark.parametrize(
    ("fall", "se", "start"),
    [
        (0.02, 0.03, "The run has come to rest."),
        (0.05, 0.02, "The run has come to rest."),  # it fell, by little
        (0.30, 0.05, "The run is still moving"),
        (0.30, 0.20, "Whether the run has come to rest cannot be told from 4 sentences."),
        (-0.40, 0.05, "The run moves away"),
        (-0.178, 0.053, "The run moves away"),  # 3.4 standard errors
        (-0.10, 0.06, "Whether the run has come to rest cannot be told from 4 sentences."),
    ],
)
def test_rest_is_judged_by_the_last_quarter(
    fall: float, se: float, start: str, metrics_of: MetricsOf
) -> None:
    metrics = metrics_of("healthy")
    metrics["short_run"] = put(metrics["short_run"], "kl_late_fall", fall, se)
    assert verdict(metrics, "rest").headline.startswith(start)
    assert ("did not change measurably (" in verdict(metrics, "rest").evidence) == (abs(fall) <= 2 * se)
    metrics["short_run"] = put(metrics["short_run"], "kl_late_fall", math.nan, math.nan)
    metrics["short_run"] = put(metrics["short_run"], "energy_late_fall", fall, se)
    assert verdict(metrics, "rest").headline.startswith(start)
    metrics["short_run"] = None
    assert verdict(metrics, "rest").level == "info"


def test_the_aggregate_must_differ_by_more_than_chance_and_by_enough_to_see(metrics_of: MetricsOf) -> None:
    metrics = metrics_of("healthy")
    for gap, band, level in (
        (0.05, 0.02, "good"),
        (0.15, 0.2, "good"),
        (0.15, 0.05, "caution"),
        (0.15, 0.4, "info"),
    ):
        metrics["aggregate"] |= {"radius_gap": gap, "band": band}
        assert verdict(metrics, "aggregate").level == level


@pytest.mark.parametrize(
    ("gap", "violated", "level"),
    [(0.3, False, "good"), (0.01, False, "info"), (-0.2, False, "info"), (-2.0, False, "caution"), (-2.0, True, "bad")],
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
