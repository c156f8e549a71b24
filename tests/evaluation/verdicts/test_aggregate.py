"""Verdicts on all sentences together: the posterior is judged, and the inference named apart."""

from __future__ import annotations

import pytest

from sri_pyro.evaluation.verdicts import judge
from tests.evaluation.verdicts.helpers import Metrics, MetricsOf, verdict


def with_gaps(metrics: Metrics, **gaps: tuple[float | None, float]) -> Metrics:
    """The metrics with other largest differences and bands."""
    for law, (gap, band) in gaps.items():
        metrics["aggregate"][law] |= {"radius_gap": gap, "band": band}
    return metrics


def topics(metrics: Metrics) -> list[str]:
    return [each.topic for each in judge(metrics)]


@pytest.mark.parametrize(
    ("gap", "band", "level"),
    [
        (0.05, 0.02, "good"),
        (0.08, 0.03, "info"),  # more than chance, and perhaps enough to see
        (0.05, 0.06, "info"),
        (0.15, 0.05, "caution"),
        (0.15, 0.2, "info"),
    ],
)
def test_the_posterior_must_differ_by_more_than_chance_and_by_enough_to_see(
    gap: float, band: float, level: str, metrics_of: MetricsOf
) -> None:
    metrics = with_gaps(metrics_of("healthy"), posterior=(gap, band), short_run=(0.01, 0.02))
    found = verdict(metrics, "aggregate")
    assert found.level == level
    ends = f"{max(0, gap - band):.3f} to {gap + band:.3f}"
    assert f"by up to {gap:.3f} (95% band {ends}, simultaneous over radii)" in found.evidence
    assert "run_aggregate" not in topics(metrics)


def test_a_narrow_run_is_named_and_the_model_is_not_blamed(metrics_of: MetricsOf) -> None:
    """The demo's numbers: the posterior within 0.02 of the prior, the inference 0.11 further in.

    Catches a verdict on the model that reads the inference's draws.
    """
    metrics = with_gaps(
        metrics_of("healthy"), posterior=(0.02, 0.02), short_run=(0.11, 0.02), difference=(0.13, 0.02)
    )
    metrics["aggregate"]["difference"]["mean_squared_radius"] |= {"value": -2.1, "se": 0.1}
    assert verdict(metrics, "aggregate").level == "good"
    found = verdict(metrics, "run_aggregate")
    assert found.level == "caution"
    assert found.headline == "The inference's own codes lie further in than the posterior's and the prior's."
    assert "differs from the posterior's by up to 0.130 (95% band 0.110 to 0.150" in found.evidence
    assert "over-confident" in found.advice
    metrics["aggregate"]["difference"]["mean_squared_radius"] |= {"value": 2.1}
    found = verdict(metrics, "run_aggregate")
    assert "lie further out" in found.headline
    assert "over-confident" not in found.advice
    metrics = with_gaps(
        metrics, difference=(0.13, 0.15)
    )  # one significant and the other not is no difference
    assert verdict(metrics, "run_aggregate").headline == "The inference's codes do not fill the prior."


def test_a_model_that_does_not_fill_the_prior_is_told_once(metrics_of: MetricsOf) -> None:
    metrics = with_gaps(metrics_of("healthy"), posterior=(0.3, 0.02), short_run=(0.3, 0.02))
    assert verdict(metrics, "aggregate").level == "caution"
    assert "run_aggregate" not in topics(metrics)


def test_weights_that_failed_do_not_speak_of_the_posterior(metrics_of: MetricsOf) -> None:
    """The inference's own draws need no weights, and are judged; whose doing it is stays open."""
    metrics = with_gaps(metrics_of("healthy"), posterior=(0.01, 0.02), short_run=(0.3, 0.02))
    metrics["khat"] |= {"share_below": 0.5, "failed_sentences": 24}
    found = verdict(metrics, "aggregate")
    assert (found.level, found.headline) == (
        "info",
        "Whether codes of sentences fill the prior cannot be told.",
    )
    assert "0.010" not in found.evidence
    assert "cannot be told from these weights" in verdict(metrics, "run_aggregate").advice
    metrics = with_gaps(metrics_of("healthy"), posterior=(None, 0.02), short_run=(None, 0.02))
    assert verdict(metrics, "aggregate").level == "info"  # unknown, which is not good
    assert "run_aggregate" not in topics(metrics)


def test_sentences_left_out_are_counted(metrics_of: MetricsOf) -> None:
    metrics = metrics_of("healthy")
    metrics["aggregate"]["posterior"]["mean_squared_radius"]["num_samples"] = 45
    assert "Left out are 3 of 48 sentences" in verdict(metrics, "aggregate").evidence
