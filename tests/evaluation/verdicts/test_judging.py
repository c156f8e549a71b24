"""Which verdicts an evaluation gets: real models are called what they are, from numbers and from a file alike."""

from __future__ import annotations

import pytest

from sri_pyro.config import readable
from sri_pyro.evaluation.export import finite
from sri_pyro.evaluation.verdicts import judge
from tests.evaluation.verdicts.helpers import MetricsOf, put


def test_a_healthy_model_gets_no_bad_verdict(metrics_of: MetricsOf) -> None:
    found = {each.topic: each for each in judge(metrics_of("healthy"))}
    assert set(found) == {"likelihood", "code", "short_run", "rest", "aggregate", "jensen"}
    assert {each.level for each in found.values()} <= {"good", "info"}, found
    assert found["code"].headline.startswith("Not collapsed: reading a sentence moves its code by ")


def test_a_language_model_has_no_code(metrics_of: MetricsOf) -> None:
    found = judge(metrics_of("language_model"))
    assert [each.headline for each in found] == [
        "This model has no code: it is a language model.",
        "The likelihood is exact.",
    ]


@pytest.mark.parametrize("kind", ["healthy", "collapsed", "cold", "language_model"])
def test_verdicts_read_the_file_as_they_read_the_numbers(kind: str, metrics_of: MetricsOf) -> None:
    """In metrics.json a NaN is null; no verdict may depend on which of the two it sees."""
    metrics = metrics_of(kind)
    assert judge(finite(metrics)) == judge(metrics)


def test_metrics_without_draws_are_judged_as_far_as_they_go(metrics_of: MetricsOf) -> None:
    """An ``Evaluation.metrics`` on its own knows neither widths nor steps."""
    metrics = metrics_of("healthy")
    for name in ("posterior_spread_ratio", "short_run", "aggregate"):
        del metrics[name]
    assert {each.topic for each in judge(metrics)} == {"likelihood", "code", "jensen"}


def test_the_worst_comes_first(metrics_of: MetricsOf) -> None:
    """Bad, caution, what cannot be told, good; within a level the likelihood before the code, and so on.

    Catches an order by topic, which put a failed run behind three verdicts of praise, and a sort that mixes a level.
    """
    for kind in ("healthy", "collapsed", "cold"):
        levels = [["bad", "caution", "info", "good"].index(each.level) for each in judge(metrics_of(kind))]
        assert levels == sorted(levels)
    metrics = put(metrics_of("healthy"), "posterior_spread_ratio", 0.3, 0.01)
    metrics["aggregate"]["posterior"] |= {"radius_gap": 0.3, "band": 0.02}
    found = judge(metrics)
    assert "caution" in [each.level for each in found]
    assert (found[0].topic, found[0].level) == ("short_run", "bad")
    good = [each.topic for each in found if each.level == "good"]
    assert good[:2] == ["likelihood", "code"]
    lines = readable(metrics)
    assert lines[0].startswith("BAD: The inference is over-confident.")
    # The terminal marks as the page does, which calls "info" a note.
    said = lines[: lines.index("")]
    marks = [line.split(":")[0] for line in said if not line.startswith(" ")]
    assert marks == [{"info": "NOTE"}.get(each.level, each.level.upper()) for each in found]
    advice = [line.strip() for line in said if line.startswith(" ")]
    wanted = [each.advice for each in found if each.level in ("bad", "caution")]
    assert advice == [f"what to do: {each}" for each in wanted]
    assert said[1] == f"  what to do: {found[0].advice}"
