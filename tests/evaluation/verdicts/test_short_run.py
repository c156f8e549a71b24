"""Verdicts on the inference: width, noise and rest turn where they say."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sri_pyro.evaluation.verdicts import judge
from sri_pyro.evaluation.verdicts.short_run import NARROW_BAD
from tests.evaluation.verdicts.helpers import MetricsOf, put, verdict


def test_a_cold_run_is_called_over_confident(metrics_of: MetricsOf) -> None:
    """At noise scale 0.2 the chains keep about 0.04 of the posterior's variance. Where three sentences alone have
    good weights the divergence speaks, and not the width.
    """
    metrics = metrics_of("cold")
    found = verdict(metrics, "short_run")
    assert (found.level, found.headline) == ("bad", "The inference is over-confident.")
    assert "The noise scale is 0.2." in found.evidence
    assert "Anneal the noise scale up to 1" in found.advice
    assert metrics["posterior_spread_ratio"]["value"] < 0.5
    metrics["posterior_spread_ratio"]["num_samples"] = 3
    metrics["khat"]["share_below"] = 1.0
    untold = "The inference is off the posterior; whether too wide or too narrow cannot be told."
    assert verdict(metrics, "short_run").headline == untold


@pytest.mark.parametrize(
    ("ratio", "kl", "noise", "level", "start"),
    [
        (1.0, 0.1, 1.0, "good", "The inference's variance is within 10% of the posterior's."),
        (0.87, 0.1, 1.0, "caution", "The inference is over-confident."),
        (0.83, 0.1, 1.0, "caution", "The inference is over-confident."),  # 0.81 to 0.85, across 1 / 1.2
        (0.8, 0.1, 1.0, "bad", "The inference is over-confident."),  # 0.78 to 0.82
        (0.3, 0.1, 1.0, "bad", "The inference is over-confident."),
        (0.87, 3.0, 1.0, "bad", "The inference is over-confident."),
        (
            1.0,
            0.1,
            0.9,
            "good",
            "The inference's variance is within 10% of the posterior's.",
        ),  # cool, and yet of the right width
        (math.nan, 0.1, 0.2, "caution", "Whether the inference is over-confident cannot be told."),
        (math.nan, 0.1, 1.0, "caution", "Whether the inference is over-confident cannot be told."),
        (1.3, 0.1, None, "caution", "The inference is too wide"),
        (2.5, 0.1, None, "bad", "The inference is too wide"),
        (1.0, 0.8, None, "caution", "The inference is as wide as the posterior, but off"),
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
    told = f"Whether the inference is as wide as the posterior cannot be told from {num_samples} sentences."
    assert found.headline == (
        "The inference's variance is within 10% of the posterior's." if level == "good" else told
    )


def test_a_right_width_on_few_trusted_sentences_is_no_clean_bill(metrics_of: MetricsOf) -> None:
    metrics = put(metrics_of("healthy"), "posterior_spread_ratio", 1.0, 0.01)
    metrics["khat"] |= {"share_below": 0.5, "failed_sentences": 24}
    assert verdict(metrics, "short_run").level == "caution"


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
        (0.02, 0.02, "The run has come to rest."),
        (0.05, 0.015, "The run has come to rest."),  # it fell, by little
        (0.02, 0.03, "Whether the run has come to rest cannot be told from 4 sentences."),
        (0.30, 0.05, "The run is still moving"),
        (0.30, 0.20, "Whether the run has come to rest cannot be told from 4 sentences."),
        (-0.40, 0.05, "The run moves away"),
        (-0.178, 0.053, "The run moves away"),  # 3.4 standard errors
        (-0.10, 0.06, "Whether the run has come to rest cannot be told from 4 sentences."),
        (-0.10, 0.04, "Whether the run has come to rest cannot be told from 4 sentences."),  # 2.5 errors
    ],
)
def test_rest_is_judged_by_the_last_quarter(
    fall: float, se: float, start: str, metrics_of: MetricsOf
) -> None:
    """Four sentences: Student's interval reaches 3.18 errors, and a normal one would be a third too narrow."""
    metrics = metrics_of("healthy")
    metrics["short_run"] = put(metrics["short_run"], "kl_late_fall", fall, se)
    assert verdict(metrics, "rest").headline.startswith(start)
    assert ("did not change measurably (" in verdict(metrics, "rest").evidence) == (abs(fall) <= 3.18 * se)
    metrics["short_run"] = put(metrics["short_run"], "kl_late_fall", math.nan, math.nan)
    metrics["short_run"] = put(metrics["short_run"], "energy_late_fall", fall, se)
    assert verdict(metrics, "rest").headline.startswith(start)
    metrics["short_run"] = None
    assert verdict(metrics, "rest").level == "info"


def test_severity_follows_size_and_names_its_thresholds(metrics_of: MetricsOf) -> None:
    """Oracle: the normal law. At 1 / 1.2 of the variance a 95% interval misses 2 (1 - Phi(1.96 / sqrt(1.2))) = 7.4%.

    Catches a verdict that praises 10% as if it were the outcome of a test.
    """
    missed = math.erfc(1.959964 / math.sqrt(2 * NARROW_BAD))
    assert 0.07 < missed < 0.075
    narrow = verdict(put(metrics_of("healthy"), "posterior_spread_ratio", 0.8, 0.01), "short_run")
    assert "A ratio from 0.91 on would pass; one below 0.83 is bad" in narrow.evidence
    assert "miss more than 7% of it" in narrow.evidence
    right = verdict(put(metrics_of("healthy"), "posterior_spread_ratio", 1.0, 0.01), "short_run")
    assert "From 0.91 to 1.10 is a tolerance and no test" in right.evidence
