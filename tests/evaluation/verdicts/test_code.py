"""The verdict on the code turns where it says, and says so where it cannot be told."""

from __future__ import annotations

import pytest

from tests.evaluation.verdicts.helpers import Metrics, MetricsOf, put, verdict


def test_a_collapsed_model_is_called_collapsed(metrics_of: MetricsOf) -> None:
    """Z is cut off from the decoder, so that the posterior is the prior. A page that trusted the naive count,
    which calls every unit active at 16 chains, would call this model healthy.
    """
    metrics = metrics_of("collapsed")
    assert metrics["active_units"]["naive_count"] == metrics["active_units"]["of"] == 4
    found = verdict(metrics, "code")
    assert found.level == "bad"
    assert found.headline == "COLLAPSED: the model ignores its code."
    assert "0 of 4 units are shown to be active after correction" in found.evidence
    assert "the uncorrected count says 4" in found.evidence
    assert verdict(metrics, "likelihood").level == "good"


@pytest.mark.parametrize(
    ("kl", "se", "count", "headline"),
    [
        (0.30, 0.05, 0, "COLLAPSED: the model ignores its code."),  # upper end 0.398
        (0.30, 0.05, 1, "Nearly collapsed: the code holds next to nothing."),
        (0.30, 0.05, 2, "The code is weak."),  # half of the units, and 0.075 nats for each of four
        (0.15, 0.05, 4, "Nearly collapsed: the code holds next to nothing."),  # 0.0375 nats for each
        (0.45, 0.05, 0, "The code is weak."),  # upper end 0.548: not shown to be below
        (0.70, 0.05, 4, "Not collapsed: reading a sentence moves its code by 0.7 nats."),
        (0.55, 0.05, 4, "The code is weak."),  # lower end 0.452
        (0.55, 0.30, 4, "Whether the code is collapsed cannot be told from 48 sentences."),  # -0.05 to 1.15
        (
            3.00,
            0.05,
            0,
            "Not collapsed: reading a sentence moves its code by 3.0 nats.",
        ),  # the inference finds it
    ],
)
def test_collapse_rests_on_the_interval(
    kl: float, se: float, count: int, headline: str, metrics_of: MetricsOf
) -> None:
    metrics = put(metrics_of("healthy"), "kl_posterior_prior", kl, se)
    metrics["active_units"]["count"] = count
    assert verdict(metrics, "code").headline == headline


def silent(metrics: Metrics, lower: float) -> Metrics:
    """An inference without a trace of the code: no mutual information, units of variance 0.001, whose upper bounds
    lie as far up as the lower ones are down.
    """
    metrics = put(metrics, "mutual_information", 0.01, 0.02)
    upper = 0.002 - lower
    metrics["active_units"] |= {
        "count": 0, "at_most": 4 * (upper > 0.01), "variances": [0.001] * 4, "lower_bounds": [lower] * 4,
        "upper_bounds": [upper] * 4,
    }  # fmt: skip
    return metrics


@pytest.mark.parametrize(
    ("lower", "level", "headline"),
    [
        (-0.002, "bad", "The model uses its code, but the inference does not find it."),  # upper bounds 0.004
        (
            -0.03, "caution",  # 0.032: some may be active
            "The model uses its code; whether the inference finds it cannot be told from 48 sentences.",
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
    assert found.headline == "Not collapsed: reading a sentence moves its code by 1.6 nats."
    assert "6 sentences are too few to show more of them." in found.advice


@pytest.mark.parametrize(
    ("kind", "level", "headline"),
    [
        ("seen", "good", "The code is in use: 4 of 4 units are active; how much it holds is unknown."),
        ("one unit", "caution", "The code holds something, how much is unknown: 1 of 4 units is active."),
        ("little", "caution", "The code holds something, how much is unknown: 4 of 4 units are active."),
        ("mute", "caution", "There is hardly a sign that the code is in use: 1 of 4 units is active."),
        ("informative", "caution", "The code holds something, how much is unknown: 0 of 4 units are active."),
        ("silent", "bad", "The code looks collapsed."),
        ("undecided", "caution", "Whether the code is collapsed cannot be told from 48 sentences."),
    ],
)
def test_collapse_is_not_judged_by_weights_that_failed(
    kind: str, level: str, headline: str, metrics_of: MetricsOf
) -> None:
    """A KL of 5 nats from bad weights is no sign of life, and a unit of many none of a code in use.

    Catches the program that calls a code in use by 1 of 8 units, where mutual information is 0.001 ± 0.015.
    """
    metrics = put(metrics_of("healthy"), "kl_posterior_prior", 5.0, 0.1)
    metrics["khat"]["share_below"] = 0.5
    if kind in ("seen", "one unit"):
        metrics = put(metrics, "mutual_information", 2.0, 0.05)
    if kind in ("one unit", "mute"):
        metrics["active_units"]["count"] = 1
    if kind == "little":  # 0.28 to 0.36: more than chance, and less than the half nat that is wanted
        metrics = put(metrics, "mutual_information", 0.32, 0.02)
    if kind == "mute":
        metrics = put(metrics, "mutual_information", 0.001, 0.015)
    if kind in ("silent", "undecided", "informative"):
        metrics = silent(metrics, -0.03 if kind == "undecided" else -0.002)
    if kind == "informative":
        metrics = put(metrics, "mutual_information", 0.5, 0.02)
    found = verdict(metrics, "code")
    assert (found.level, found.headline) == (level, headline)
    assert "5.0" not in found.evidence


@pytest.mark.parametrize(
    ("kind", "words"),
    [("short_run", "noise scale"), ("amortized", "KL weight"), ("local_vi", "Weaken the decoder")],
)
def test_the_remedy_is_one_that_the_inference_has(metrics_of: MetricsOf, kind: str, words: str) -> None:
    """An encoder has no noise scale that could be annealed."""
    metrics = metrics_of("collapsed")
    provenance = {**metrics.get("provenance", {}), "configuration": {"inference": {"kind": kind}}}
    assert words in verdict({**metrics, "provenance": provenance}, "code").advice
