"""Verdicts on calibration: whether an inference's draws have the law that they claim, on data of the model's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.verdicts.reading import estimate, interval, rounded
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Verdict

MATERIAL = 0.05
"""By which an interval of 80 % may miss its coverage before its reader is misled: one case in twenty."""
NARROW = "Its intervals are too narrow or in the wrong place: it is over-confident."
WIDE = "Its intervals are too wide: it is under-confident."
LIMITS = (
    "This speaks of sentences that the model itself writes, and of the posterior that it has; whether the model "
    "is right about the corpus is another question."
)


def judge_calibration(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judge what stands in ``calibration.json``, a verdict for each inference, the worst first."""
    found = [_verdict(name, system, numbers) for name, system in numbers["systems"].items()]
    return sorted(found, key=lambda verdict: LEVELS.index(verdict.level))


def _verdict(name: str, system: Mapping[str, Any], numbers: Mapping[str, Any]) -> Verdict:
    outside, num = system["outside"], int(numbers["num_simulations"])
    level = numbers["levels"].index(0.8)
    covered, nominal = estimate(system["coverage"][level]), float(numbers["nominal"][level])
    low, high = interval(covered)
    spread = estimate(system["dispersion"])
    evidence = (
        f"Of {num:,} simulated sentences the central 80% intervals hold {100 * covered.value:.1f}% of the true "
        f"coordinates (95% interval {100 * low:.1f} to {100 * high:.1f}); the spread of their ranks is "
        f"{rounded(spread)} times that of uniform ones."
    )
    if not outside:
        return Verdict(
            "calibration", "good", f"{name}: calibrated, as far as {num:,} simulations tell.",
            f"{evidence} The ranks of all {len(numbers['quantities'])} functions keep to their simultaneous 95% band, "
            f"within which a distribution function may be off by {numbers['half_width']:.3f}.",
            LIMITS,
        )  # fmt: skip
    evidence += (
        f" The ranks of {len(outside)} of {len(numbers['quantities'])} functions leave a band that all keep to with "
        f"95% ({_named(outside)}), by up to {system['largest_difference']:.3f} of the distribution function."
    )
    off = _direction(spread.value, covered.value, nominal, low, high)
    slight = max(abs(low - nominal), abs(high - nominal)) < MATERIAL
    if slight and math.isfinite(low):
        return Verdict(
            "calibration", "caution", f"{name}: not calibrated, by little in its intervals.",
            f"{evidence} {off}".strip(),
            "A function of z and x may be off by more than single coordinates are: look at the ranks of the densities.",
        )  # fmt: skip
    return Verdict(
        "calibration", "bad", f"{name}: NOT calibrated.", f"{evidence} {off}".strip(),
        "Compare it with reference posteriors: sri-pyro reference says by how much it is off, sentence by sentence.",
    )  # fmt: skip


def _direction(spread: float, covered: float, nominal: float, low: float, high: float) -> str:
    if low <= nominal <= high or not math.isfinite(spread):
        return ""
    return NARROW if covered < nominal else WIDE


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown}, ..."
