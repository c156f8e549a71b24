"""Verdicts on calibration: whether an inference's draws have the law that they claim, on data of the model's own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sri_pyro.evaluation.metrics import CONFIDENCE
from sri_pyro.evaluation.verdicts.reading import estimate, rounded
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Verdict
from sri_pyro.numerics.student import two_sided_quantile

MATERIAL = 0.05
"""By which an interval may miss its coverage before its reader is misled: one case in twenty."""
JUDGED = (0.8, 0.95)
"""Levels of the intervals that are judged by themselves, beside the ranks."""
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


@dataclass(frozen=True)
class _Interval:
    """How many true coordinates the central intervals of one level hold.

    Attributes:
        level: As which it is counted.
        exact: What it would hold if the draws were exact.
        held: What it holds.
        low: Lower end of the interval of that, for all judged levels together.
        high: Upper end.
    """

    level: float
    exact: float
    held: float
    low: float
    high: float

    @property
    def off(self) -> bool:
        """Whether exact draws are excluded, with 95 % for all judged levels together."""
        return self.exact < self.low or self.exact > self.high

    @property
    def slight(self) -> bool:
        """Whether it is shown to be off by little at most."""
        return max(abs(self.low - self.exact), abs(self.high - self.exact)) < MATERIAL

    @property
    def far(self) -> bool:
        """Whether it is shown to be off by more than that."""
        return self.high < self.exact - MATERIAL or self.low > self.exact + MATERIAL


def _intervals(system: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[_Interval]:
    """The judged ones.

    Of few simulations none may miss, and their scatter is nothing; the error is never taken to be below that of
    independent coordinates, each of which is held with the probability of exact draws. So exact draws are called off
    in at most 5 % by simulation, from 20 simulations and one coordinate on; in up to 10 % where 60 simulations have
    8 coordinates that go together (correlation 0.9).
    """
    num = int(numbers["num_simulations"])
    coordinates = sum(str(name).startswith("z_") for name in numbers["quantities"])
    quantile = two_sided_quantile(1 - (1 - CONFIDENCE) / len(JUDGED), num - 1)
    found = []
    for level in JUDGED:
        place = numbers["levels"].index(level)
        exact, covered = float(numbers["nominal"][place]), estimate(system["coverage"][place])
        least = math.sqrt(max(0.0, exact * (1 - exact)) / (num * max(1, coordinates)))
        reach = quantile * max(covered.se, least)
        found.append(_Interval(level, exact, covered.value, covered.value - reach, covered.value + reach))
    return found


def _verdict(name: str, system: Mapping[str, Any], numbers: Mapping[str, Any]) -> Verdict:
    outside, num = system["outside"], int(numbers["num_simulations"])
    judged, spread = _intervals(system, numbers), estimate(system["dispersion"])
    evidence = (
        f"Of {num:,} simulated sentences the central intervals of {int(numbers['num_draws']):,} draws hold "
        f"{' and '.join(map(_in_words, judged))} of the true coordinates; the spread of their ranks is "
        f"{rounded(spread)} times that of uniform ones."
    )
    all_ranks = f"The ranks of all {len(numbers['quantities'])} functions keep to their simultaneous 95% band"
    off = [each for each in judged if each.off]
    direction = _direction(off)
    if not outside and not off:
        return Verdict(
            "calibration", "good", f"{name}: calibrated, as far as {num:,} simulations tell.",
            f"{evidence} {all_ranks}, within which a distribution function may be off by {numbers['half_width']:.3f}.",
            LIMITS,
        )  # fmt: skip
    if outside:
        evidence += (
            f" The ranks of {len(outside)} of {len(numbers['quantities'])} functions leave a band that all keep to "
            f"with 95% ({_named(outside)}), by up to {system['largest_difference']:.3f} of the distribution function."
        )
    else:
        evidence += f" {all_ranks}, which is {numbers['half_width']:.3f} wide on either side and too wide to see that."
    evidence = f"{evidence} {direction}".strip()
    if any(each.far for each in judged) or (outside and not all(each.slight for each in judged)):
        said = {NARROW: ", it is over-confident", WIDE: ", it is under-confident"}.get(direction, "")
        return Verdict(
            "calibration", "bad", f"{name}: NOT calibrated{said}.", evidence,
            "Compare it with reference posteriors: sri-pyro reference says how far it is off, sentence by sentence.",
        )  # fmt: skip
    if not outside:
        levels = " and ".join(f"{each.level:.0%}" for each in off)
        what = {NARROW: "too few", WIDE: "too many"}.get(direction, "too few or too many")
        return Verdict(
            "calibration", "caution", f"{name}: its {levels} intervals hold {what} true coordinates.", evidence,
            "Simulate more sentences, so that the ranks tell where it is off: --num-simulations.",
        )  # fmt: skip
    return Verdict(
        "calibration", "caution", f"{name}: not calibrated, by little in its intervals.", evidence,
        "A function of z and x may be off by more than single coordinates are: look at the ranks of the densities.",
    )  # fmt: skip


def _in_words(each: _Interval) -> str:
    low, high = max(0.0, each.low), min(1.0, each.high)
    return (
        f"at {each.level:.0%} {100 * each.held:.1f}% ({100 * low:.1f} to {100 * high:.1f}; exact draws "
        f"{100 * each.exact:.1f}%)"
    )


def _direction(off: Sequence[_Interval]) -> str:
    """Too narrow or too wide, where the levels that are off agree."""
    below = {each.held < each.exact for each in off}
    if len(below) != 1:
        return ""
    return NARROW if below.pop() else WIDE


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:4])
    return shown if len(names) <= 4 else f"{shown}, ..."
