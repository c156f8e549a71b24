"""The verdict on what must fit together: reconstruction, KL and likelihood."""

from __future__ import annotations

import pytest

from tests.evaluation.verdicts.helpers import MetricsOf, put, verdict


@pytest.mark.parametrize(
    ("gap", "violated", "level"),
    [(0.3, False, "good"), (0.01, False, "info"), (-0.2, False, "info"), (-2.0, False, "caution"), (-2.0, True, "bad")],
)  # fmt: skip
def test_jensen(gap: float, violated: bool, level: str, metrics_of: MetricsOf) -> None:
    metrics = metrics_of("healthy")
    metrics["jensen"] |= {"gap": {"value": gap, "se": 0.02, "num_samples": 9}, "violated": violated}
    assert verdict(metrics, "jensen").level == level


@pytest.mark.parametrize(
    ("gap", "violated", "level"), [(0.3, False, "good"), (-0.01, False, "good"), (-0.2, True, "bad")]
)
def test_jensen_of_a_known_density_is_decided_by_chance_alone(
    gap: float, violated: bool, level: str, metrics_of: MetricsOf
) -> None:
    """Without a Gaussian entropy there is nothing innocent left to say of it, and nothing of it in the words."""
    metrics = metrics_of("healthy")
    gaps = {"value": gap, "se": 0.02, "num_samples": 9}
    metrics["jensen"] |= {"gap": gaps, "binding": True, "violated": violated}
    for name in ("kl_q_prior", "kl_q_posterior"):
        metrics[name]["method"] = "monte_carlo_log_q"
    found = verdict(metrics, "jensen")
    assert found.level == level
    assert " Binding: this KL is a mean over draws of known density" in found.evidence
    assert "a mean over draws of known density" in verdict(metrics, "short_run").evidence
    for words in (found.evidence + found.advice, verdict(metrics, "short_run").evidence):
        assert "Gaussian" not in words
        assert "lower estimate" not in words
    assert "Gaussian" in verdict(metrics_of("healthy"), "short_run").evidence  # positive control


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
