"""What the tests of verdicts share: one verdict of many, and an estimate put in place of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sri_pyro.evaluation.verdicts import Verdict, judge

Metrics = dict[str, Any]
MetricsOf = Callable[[str], Metrics]


def verdict(metrics: Metrics, topic: str) -> Verdict:
    (found,) = [each for each in judge(metrics) if each.topic == topic]
    return found


def put(metrics: Metrics, name: str, value: float, se: float) -> Metrics:
    """The metrics with another estimate."""
    return {**metrics, name: {**metrics[name], "value": value, "se": se}}
