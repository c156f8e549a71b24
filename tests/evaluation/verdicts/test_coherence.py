"""The verdict on what must fit together: reconstruction, KL and likelihood."""

from __future__ import annotations

import pytest

from sri_pyro.evaluation.headline import headline
from sri_pyro.evaluation.verdicts import judge
from tests.evaluation.verdicts.helpers import Metrics, MetricsOf, put, verdict


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
    """-0.061 +- 0.018 is three standard errors below zero: the error leaves out the bias."""
    metrics = put(metrics_of("healthy"), "kl_q_posterior", -0.061, 0.018)
    metrics["jensen"]["gap"] |= {"value": -0.061, "se": 0.018}
    biased = (
        "biased low by construction (Gaussian entropy), so it shows no evidence of a gap and cannot certify"
    )
    assert f"is −0.061 ± 0.018 nats, {biased} its absence." in verdict(metrics, "short_run").evidence
    found = verdict(metrics, "jensen")
    assert f"Not binding: this KL is a lower estimate, {biased} its absence." in found.evidence
    assert found.level == "info"


def shown(metrics: Metrics) -> str:
    """What the table says of KL(inference ‖ posterior)."""
    return next(row.value for row in headline(metrics) if row.name == "KL(inference ‖ posterior)")


def test_what_the_table_withholds_no_verdict_prints(metrics_of: MetricsOf) -> None:
    """Weights that failed, and a KL of -110 nats from them, as a folded run has.

    Catches a verdict that reads the estimate and not what may be shown of it: the table said "not shown", and beside
    it stood "-110.25 nats, no evidence of a gap".
    """
    metrics = put(metrics_of("healthy"), "kl_q_posterior", -110.25, 0.14)
    metrics["jensen"] |= {"gap": {"value": -110.25, "se": 0.14, "num_samples": 48}, "violated": False}
    metrics["khat"] |= {"share_below": 0.5, "failed_sentences": 24}
    assert shown(metrics) == "not shown"
    said = " ".join(f"{each.headline} {each.evidence} {each.advice}" for each in judge(metrics))
    assert "110" not in said
    assert "no evidence of a gap" not in said
    assert "KL(inference ‖ posterior) is not shown" in verdict(metrics, "short_run").evidence
    assert "jensen" not in [each.topic for each in judge(metrics)]


def test_a_large_divergence_from_failed_weights_decides_nothing(metrics_of: MetricsOf) -> None:
    """Catches a verdict "off its place" that rests on a number the table withholds."""
    metrics = put(metrics_of("healthy"), "posterior_spread_ratio", 1.0, 0.01)
    metrics = put(metrics, "kl_q_posterior", 9.0, 0.1)
    assert verdict(metrics, "short_run").level == "bad"  # positive control
    metrics["khat"] |= {"share_below": 0.5, "failed_sentences": 24}
    assert verdict(metrics, "short_run").headline == (
        "The inference is as wide as the posterior where the posterior is known."
    )


def test_a_divergence_that_cannot_be_is_not_known_to_table_and_verdict_alike(metrics_of: MetricsOf) -> None:
    """-0.141 +- 0.018 is eight standard errors below zero, which no KL is."""
    metrics = put(metrics_of("healthy"), "kl_q_posterior", -0.141, 0.018)
    metrics["jensen"]["gap"] |= {"value": -0.141, "se": 0.018}
    assert shown(metrics) == "not known"
    assert "KL(inference ‖ posterior) is not known" in verdict(metrics, "short_run").evidence
    found = verdict(metrics, "jensen")
    assert "makes it too low, and no KL is negative: here by 0.14 nats at least." in found.evidence
    assert "evidence of a gap" not in found.evidence
