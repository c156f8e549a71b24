"""Verdicts of the step-size doctor: whether steps are too small, right, too large or unstable, and enough of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from sri_pyro.evaluation.verdicts.reading import estimate, interval, number, rounded, sentences_to_settle
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Level, Verdict

WORTH = 0.1
"""Nats of KL(inference ‖ posterior), mean over sentences, below which other steps are not worth a change."""
DIVERGED = 0.01
"""Share of diverging chains from which a run is called unstable; those chains run again with halved steps."""
SAFE = 0.8
"""Share of the stability limit to stay below: near it, a step a fifth longer explodes within 20 steps."""
FORGOTTEN = 0.1
"""Correlation with the start below which a run has forgotten it."""

Condition = Literal["unstable", "too_large", "too_small", "good", "untold"]


def condition(numbers: Mapping[str, Any]) -> Condition:
    """What the run's own steps are, from the numbers of the findings ``doctor``.

    Unstable: chains diverge, or the smallest step is beyond the limit of the stiffest sentence. Else the grid decides,
    by what its best factor gains on fresh chains.
    """
    stability, grid = numbers["stability"], numbers["grid"]
    if number(stability["diverged"]) > DIVERGED or number(stability["share_of_limit"]) > 1:
        return "unstable"
    factor, (low, high) = number(grid["best_factor"]), _gained(grid["gain"])
    if factor == 1 or high < WORTH:
        return "good"
    if not low > WORTH:
        return "untold"
    return "too_small" if factor > 1 else "too_large"


def judge_doctor(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judge the findings ``doctor``: the worst first.

    Args:
        numbers: Of the findings.

    Example:
        >>> [verdict.headline for verdict in judge_doctor({"inference": "amortized", "num_steps": 0})]
        ['This inference takes no Langevin steps; there is no step size to examine.']
    """
    if not numbers["num_steps"]:
        return [
            Verdict(
                "step_size", "info", "This inference takes no Langevin steps; there is no step size to examine.",
                f"The inference is '{numbers['inference']}'.", "Examine a run whose inference is 'short_run'.",
            )
        ]  # fmt: skip
    found = [_step_size(numbers), _num_steps(numbers), _mixing(numbers), _folding(numbers), _noise(numbers)]
    verdicts = [verdict for verdict in found if verdict is not None]
    return sorted(verdicts, key=lambda verdict: LEVELS.index(verdict.level))


def advice(numbers: Mapping[str, Any]) -> str:
    """The findings in one plain sentence: where the step stands, whether K suffices, what another step would do."""
    if not numbers["num_steps"]:
        return "This inference takes no Langevin steps, so there is no step size to advise on."
    share = number(numbers["stability"]["share_of_limit"])
    beyond = f"{share:.2g} times" if share > 1 else f"{share:.2g} of"
    parts = [
        f"{_steps_in_words(numbers)} {beyond} the stability limit of the stiffest sentence",
        _enough_in_words(numbers),
        _other_steps_in_words(numbers),
    ]
    return "; ".join(part for part in parts if part) + "."


def _steps_in_words(numbers: Mapping[str, Any]) -> str:
    first, last = number(numbers["first_step"]), number(numbers["last_step"])
    if math.isclose(first, last):
        return f"your step {last:.2g} is"
    return f"your steps, {first:.2g} at first, are at the smallest {last:.2g}, which is"


def _enough_in_words(numbers: Mapping[str, Any]) -> str:
    """What other numbers of steps would do, at the best steps for each."""
    steps = int(numbers["num_steps"])
    fewer, more = _length(numbers, less=True), _length(numbers, less=False)
    if more is None:
        return ""
    low, high = _gained(more["gain"])
    if low > WORTH:
        return f"K = {steps} is too few: K = {more['num_steps']} would bring it {_nearer(more)}"
    if high < WORTH:
        half = fewer is not None and _gained(fewer["gain"])[0] > -WORTH
        as_well = f", and K = {fewer['num_steps']} would do as well" if half and fewer is not None else ""
        return f"K = {steps} suffices{as_well}"
    return f"whether K = {steps} suffices cannot be told from {numbers['num_sentences']} sentences"


def _other_steps_in_words(numbers: Mapping[str, Any]) -> str:
    grid, state = numbers["grid"], condition(numbers)
    factor = number(grid["best_factor"])
    if state == "good":
        return f"no step tried would bring it closer to the posterior by as much as {WORTH} nats"
    if state == "untold":
        return f"steps {factor:g} times yours may be better, which {numbers['num_sentences']} sentences do not tell"
    wanted = f"steps {factor:g} times yours, {_scaled(numbers)},"
    what = {"unstable": "it is unstable", "too_large": "it is too large", "too_small": "it is too small"}[
        state
    ]
    if factor == 1:  # unstable for few sentences, and best for all
        safe = SAFE * number(numbers["stability"]["limit"])
        return f"{what} for {numbers['stability']['sentences_beyond']} sentences, for which at most {safe:.2g} is safe"
    gain = estimate(grid["gain"])
    if math.isinf(gain.value) or number(numbers["stability"]["diverged"]) > DIVERGED:
        return f"{what}: {wanted} would hold"
    return f"{what}: {wanted} would bring it {_nearer(grid)}"


def _scaled(numbers: Mapping[str, Any]) -> str:
    factor = number(numbers["grid"]["best_factor"])
    first, last = factor * number(numbers["first_step"]), factor * number(numbers["last_step"])
    return f"{last:.2g}" if math.isclose(first, last) else f"{first:.2g} to {last:.2g}"


def _nearer(found: Mapping[str, Any]) -> str:
    return f"{rounded(estimate(found['gain']))} nats closer to the posterior"


def _gained(record: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of a gain; an infinite one, from a run that was lost to one that was not, is certain."""
    found = estimate(record)
    if record.get("value") is None and int(record.get("num_samples") or 0):
        return math.inf, math.inf
    return (found.value, found.value) if math.isinf(found.value) else interval(found)


def _length(numbers: Mapping[str, Any], less: bool) -> Mapping[str, Any] | None:
    found = [each for each in numbers["lengths"] if (each["num_steps"] < numbers["num_steps"]) == less]
    return found[0] if found else None


def _step_size(numbers: Mapping[str, Any]) -> Verdict:
    stability, grid, state = numbers["stability"], numbers["grid"], condition(numbers)
    told: dict[Condition, tuple[str, Level, str]] = {
        "unstable": (
            "The steps are unstable.", "bad",
            f"Shorten them until the smallest is below {SAFE} of the limit; tune them with step_size.kind = 'grid'.",
        ),
        "too_large": ("The steps are too large.", "caution", "Take the shorter ones, or tune them."),
        "too_small": ("The steps are too small to arrive.", "caution", "Take the longer ones, or tune them."),
        "good": ("The steps are well chosen.", "good", "Other lengths of the same schedule gain nothing to speak of."),
        "untold": (
            "Whether other steps are better cannot be told.", "info",
            "Examine more sentences, or more chains of each.",
        ),
    }  # fmt: skip
    headline, level, why = told[state]
    gain = estimate(grid["gain"])
    evidence = (
        f"The smallest step is {number(numbers['last_step']):.3g}, "
        f"{number(stability['share_of_limit']):.2g} of the limit of the stiffest sentence "
        f"({number(stability['limit']):.3g}; precision {number(stability['stiffest']):.3g}, the median sentence's "
        f"{number(stability['median_stiffness']):.3g}). "
    )
    if number(stability["diverged"]):
        evidence += f"{100 * number(stability['diverged']):.2g}% of the chains diverge. "
    if number(grid["best_factor"]) == 1:
        evidence += "Of all factors tried on the steps 1 is best."
    elif math.isfinite(gain.value):
        evidence += (
            f"The best factor tried is {number(grid['best_factor']):g}, which brings the run {rounded(gain)} nats "
            "closer to the posterior."
        )
    else:
        evidence += f"The best factor tried is {number(grid['best_factor']):g}."
    if grid["at_edge"]:
        evidence += " It is the last one tried: the best may lie beyond."
    return Verdict("step_size", level, headline, evidence, why)


def _num_steps(numbers: Mapping[str, Any]) -> Verdict | None:
    more, fewer = _length(numbers, less=False), _length(numbers, less=True)
    if more is None:
        return None
    low, high = _gained(more["gain"])
    steps, gain = int(numbers["num_steps"]), estimate(more["gain"])
    evidence = (
        f"At the best steps for each, K = {more['num_steps']} is {_signed(gain)} nats closer than K = {steps}"
    )
    if fewer is not None:
        evidence += f", and K = {fewer['num_steps']} is {_signed(estimate(fewer['gain']))} nats"
    kl = estimate(numbers["grid"]["kl_best"])
    evidence += f". KL(inference ‖ posterior) is {rounded(kl)} nats there, a lower estimate."
    if low > WORTH:
        return Verdict(
            "num_steps", "caution", f"{steps} steps are too few.", evidence,
            f"Take {more['num_steps']}, at steps {number(more['factor']):.2g} times yours.",
        )  # fmt: skip
    if high < WORTH:
        advised = "Fewer would do as well." if fewer and _gained(fewer["gain"])[0] > -WORTH else "Keep them."
        return Verdict("num_steps", "good", f"{steps} steps suffice.", evidence, advised)
    return Verdict(
        "num_steps", "info", f"Whether {steps} steps suffice cannot be told.", evidence,
        sentences_to_settle(high - gain.value, gain.value - WORTH, gain.num_samples),
    )  # fmt: skip


def _signed(gain: Any) -> str:
    return rounded(gain) if math.isfinite(gain.value) else "infinitely many"


def _mixing(numbers: Mapping[str, Any]) -> Verdict:
    mixing, steps = numbers["mixing"], int(numbers["num_steps"])
    settled, kept = int(mixing["settled_at"]), estimate(mixing["correlation_with_start"])
    evidence = (
        f"From step {settled} of {steps} on, log p(x, z) differs from its last value by no more than its Monte Carlo "
        f"error. Where chains end they correlate with where they started by {rounded(kept)}."
    )
    if settled <= steps - max(1, round(steps / 4)) and abs(kept.value) < FORGOTTEN:
        return Verdict(
            "mixing", "good", "The run comes to rest and forgets its start.", evidence,
            "Rest is not correctness: the grid of steps speaks to that.",
        )  # fmt: skip
    if abs(kept.value) < FORGOTTEN:
        return Verdict(
            "mixing", "info", "The run forgets its start, and still moves at its end.", evidence,
            "See whether more steps gain anything.",
        )  # fmt: skip
    return Verdict(
        "mixing", "info", "The run remembers where it started.", evidence,
        "That does no harm where the posterior is as wide as the prior; elsewhere KL(inference ‖ posterior) shows it.",
    )  # fmt: skip


def _folding(numbers: Mapping[str, Any]) -> Verdict | None:
    folding = numbers["folding"]
    if folding is None or not number(folding["share"]):
        return None
    return Verdict(
        "folding", "info", "Some steps fold space.",
        f"At {100 * number(folding['share']):.2g}% of all steps ({100 * number(folding['first']):.2g}% of the first, "
        f"{100 * number(folding['last']):.2g}% of the last) I + sH has an eigenvalue that is not positive: s times the "
        "largest precision is above 1.",
        "Draws are none the worse for it. But a density by change of variables over-states p(x) there: use neither the "
        "estimator 'jacobian' nor the step-size objective of that name.",
    )  # fmt: skip


def _noise(numbers: Mapping[str, Any]) -> Verdict | None:
    scale = number(numbers["noise_scale"])
    if not scale < 1:
        return None
    return Verdict(
        "noise", "caution", "The run is colder than the posterior, whatever its steps.",
        f"The noise scale of evaluation is {scale:g}.", "Read the divergences so; anneal the noise scale up to 1.",
    )  # fmt: skip
