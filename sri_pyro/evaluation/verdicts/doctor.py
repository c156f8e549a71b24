"""Verdicts of the step-size doctor: whether steps are too small, right, too large or unstable, and enough of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from sri_pyro.evaluation.doctor_findings import LOST
from sri_pyro.evaluation.doctor_shape import OVERSTATED
from sri_pyro.evaluation.verdicts.reading import estimate, interval, number, rounded, sentences_to_settle
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Level, Verdict
from sri_pyro.types import Estimate

WORTH = 0.1
"""Nats of KL(inference ‖ posterior), mean over sentences, below which other steps are not worth a change."""
DIVERGED = 0.01
"""Share of diverging chains from which a run is called unstable; those chains run again with halved steps."""
SAFE = 0.8
"""Share of the stability limit to stay below: near it, a step a fifth longer explodes within 20 steps."""
FORGOTTEN, REMEMBERED = 0.1, 0.5
"""Correlations with the start: below the first a run has forgotten it; from the second on its steps are not said to
suffice, whatever more of them gain: a quarter of the draws' variance is still that of the start."""
REFERENCE = (
    "Judge the run against long chains, by the means, deviations and sliced Wasserstein distances of sri-pyro "
    "reference RUN"
)

Condition = Literal["unstable", "withheld", "too_large", "too_small", "good", "untold"]


def condition(numbers: Mapping[str, Any]) -> Condition:
    """What the run's own steps are, from the numbers of the findings ``doctor``.

    Unstable: chains diverge, or the smallest step is beyond the limit of the stiffest sentence. Else the grid decides,
    by what its best factor gains on fresh chains; it is withheld where the draws are too far from Gaussian.
    """
    stability, grid = numbers["stability"], numbers["grid"]
    if number(stability["diverged"]) > DIVERGED or number(stability["share_of_limit"]) > 1:
        return "unstable"
    if grid is None:
        return "withheld"
    factor, (low, high) = number(grid["best_factor"]), gained(grid["gain"])
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
    topics = (_shape, _step_size, _num_steps, _mixing, _folding, _noise)
    verdicts = [verdict for topic in topics if (verdict := topic(numbers)) is not None]
    return sorted(verdicts, key=lambda verdict: LEVELS.index(verdict.level))


def gain_of(record: Mapping[str, Any]) -> Estimate:
    """A gain from its record; infinite where one of the two runs was lost, which files cannot hold."""
    found = estimate(record)
    if record.get("value") is None and found.num_samples:
        return Estimate(-math.inf if found.method == LOST else math.inf, math.nan, found.num_samples)
    return found


def gained(record: Mapping[str, Any]) -> tuple[float, float]:
    """The interval of a gain; an infinite one is certain."""
    found = gain_of(record)
    return (found.value, found.value) if math.isinf(found.value) else interval(found)


def nearer(record: Mapping[str, Any], to: str, away: str) -> str:
    """A gain in words: closer, farther, or no closer where the difference is within its error.

    Example:
        >>> record = {"value": -0.5506, "se": 0.0673, "num_samples": 8}
        >>> nearer(record, " than K = 10", " than K = 10"), nearer({**record, "se": 0.3}, " to it", "")
        ('0.551 ± 0.067 nats farther than K = 10', 'no closer to it (−0.55 ± 0.30 nats)')
    """
    gain, (low, high) = gain_of(record), gained(record)
    if math.isinf(gain.value):
        return f"infinitely many nats {f'closer{to}' if gain.value > 0 else f'farther{away}'}"
    if not (low > 0 or high < 0):
        return f"no closer{to} ({rounded(gain)} nats)"
    size = rounded(Estimate(abs(gain.value), gain.se, gain.num_samples))
    return f"{size} nats {f'closer{to}' if low > 0 else f'farther{away}'}"


def length(numbers: Mapping[str, Any], less: bool) -> Mapping[str, Any] | None:
    """What fewer steps gain, or more; None where their number is fixed, or their draws are too far from Gaussian."""
    found = [each for each in numbers["lengths"] if (each["num_steps"] < numbers["num_steps"]) == less]
    return found[0] if found else None


def remembers(numbers: Mapping[str, Any]) -> bool:
    """Whether chains end so near to where they started that no number of steps is said to suffice."""
    return not abs(estimate(numbers["mixing"]["correlation_with_start"]).value) < REMEMBERED


def _shape(numbers: Mapping[str, Any]) -> Verdict | None:
    """Runs whose draws are too far from Gaussian for their KL to be told."""
    left_out = [each for each in numbers["shape"] if not each["gaussian"]]
    if not left_out:
        return None
    run = left_out[0]
    excess, kl = estimate(run["excess_entropy"]), estimate(run["kl_by_gaussian"])
    modes = excess.interval()[0] > OVERSTATED
    own = run is numbers["shape"][0]
    times = "the run's own" if own else f"{number(run['factor']):.3g} times the schedule's"
    where = f"At K = {run['num_steps']} and {times} steps"
    evidence = "The KL takes the entropy of the Gaussian that has the draws' mean and covariance. "
    if modes:
        evidence += (
            f"{where} it exceeds theirs by {rounded(excess)} nats at least (mean over {excess.num_samples} sentences; "
            f"up to {OVERSTATED} passes), as where draws have several modes."
        )
    else:
        evidence += (
            f"{where} the KL comes out as {rounded(kl)} nats, and no KL is negative: the draws have several modes or "
            "another shape, or log p(x) is too low."
        )
    if numbers["grid"] is None:
        return Verdict(
            "shape", "caution",
            f"No KL is told, for {'the draws are not Gaussian' if modes else 'it comes out negative'}.", evidence,
            f"{REFERENCE} (its KL by energy takes draws for Gaussian, too). What is said of stability, folding and the "
            "start does not rest on the KL.",
        )  # fmt: skip
    counts = " and ".join(f"K = {each['num_steps']}" for each in left_out)
    return Verdict(
        "shape", "info", f"{counts} cannot be compared by KL.", evidence,
        f"{REFERENCE} --inference short_run,num_steps={run['num_steps']}.",
    )  # fmt: skip


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
        "withheld": (
            "The steps are stable; whether others would be better cannot be told.", "info", f"{REFERENCE}.",
        ),
        "untold": (
            "Whether other steps are better cannot be told.", "info",
            "Examine more sentences, or more chains of each.",
        ),
    }  # fmt: skip
    headline, level, why = told[state]
    evidence = (
        f"The smallest step is {number(numbers['last_step']):.3g}, "
        f"{number(stability['share_of_limit']):.2g} of the limit of the stiffest sentence "
        f"({number(stability['limit']):.3g}; precision {number(stability['stiffest']):.3g}, the median sentence's "
        f"{number(stability['median_stiffness']):.3g}). "
    )
    if number(stability["diverged"]):
        evidence += f"{100 * number(stability['diverged']):.2g}% of the chains diverge. "
    if grid is not None:
        evidence += _best_in_words(numbers)
    return Verdict("step_size", level, headline, evidence.rstrip(), why)


def _best_in_words(numbers: Mapping[str, Any]) -> str:
    """What the grid found, and what its KL is."""
    grid, factor = numbers["grid"], number(numbers["grid"]["best_factor"])
    found = "Of all factors tried on the steps 1 is best"
    if factor != 1:
        found = f"The best factor tried is {factor:g}"
        if math.isfinite(gain_of(grid["gain"]).value):
            found += (
                f", which brings the run {nearer(grid['gain'], ' to the posterior', ' from the posterior')}"
            )
    if grid["at_edge"]:
        found += ". It is the last one tried: the best may lie beyond"
    return f"{found}. {_kl_in_words(numbers)}"


def _kl_in_words(numbers: Mapping[str, Any]) -> str:
    """The KL of the best steps, and why it is no other KL of a report."""
    kl, total = estimate(numbers["grid"]["kl_best"]), int(numbers["num_sentences"])
    if not math.isfinite(kl.value):
        return "KL(inference ‖ posterior) is not known: the weights of no sentence pass."
    few = f"{total}" if kl.num_samples == total else f"{kl.num_samples} of {total}"
    return (
        f"KL(inference ‖ posterior) is {rounded(kl)} nats there, a lower estimate from the Gaussian entropy of "
        f"{numbers['num_chains']} draws for each of {few} sentences: neither the evaluation's KL, of the run's own "
        "steps on the evaluation's sentences, nor that of sri-pyro reference, by long chains."
    )


def _num_steps(numbers: Mapping[str, Any]) -> Verdict | None:
    more, fewer = length(numbers, less=False), length(numbers, less=True)
    if more is None:
        return None
    low, high = gained(more["gain"])
    steps, gain = int(numbers["num_steps"]), gain_of(more["gain"])
    than = f" than K = {steps}"
    evidence = f"At the best steps for each, K = {more['num_steps']} is {nearer(more['gain'], than, than)}"
    evidence += f", and K = {fewer['num_steps']} is {nearer(fewer['gain'], '', '')}." if fewer else "."
    if low > WORTH:
        return Verdict(
            "num_steps", "caution", f"{steps} steps are too few.", evidence,
            f"Take {more['num_steps']}, at steps {number(more['factor']):.2g} times yours.",
        )  # fmt: skip
    if high < WORTH and remembers(numbers):
        kept = rounded(estimate(numbers["mixing"]["correlation_with_start"]))
        return Verdict(
            "num_steps", "info", f"More than {steps} steps gain nothing, and {steps} do not forget their start.",
            f"{evidence} Where chains end they correlate with where they started by {kept}.",
            f"That is right where the posterior is as wide as the prior, and elsewhere not. {REFERENCE}.",
        )  # fmt: skip
    if high < WORTH:
        advised = "Fewer would do as well." if fewer and gained(fewer["gain"])[0] > -WORTH else "Keep them."
        return Verdict("num_steps", "good", f"{steps} steps suffice.", evidence, advised)
    return Verdict(
        "num_steps", "info", f"Whether {steps} steps suffice cannot be told.", evidence,
        sentences_to_settle(high - gain.value, gain.value - WORTH, gain.num_samples),
    )  # fmt: skip


def _mixing(numbers: Mapping[str, Any]) -> Verdict:
    mixing, steps = numbers["mixing"], int(numbers["num_steps"])
    settled, kept = int(mixing["settled_at"]), estimate(mixing["correlation_with_start"])
    evidence = (
        f"From step {settled} of {steps} on, log p(x, z) differs from its last value by no more than its Monte Carlo "
        f"error. Where chains end they correlate with where they started by {rounded(kept)}."
    )
    withheld = numbers["grid"] is None
    if settled <= steps - max(1, round(steps / 4)) and abs(kept.value) < FORGOTTEN:
        return Verdict(
            "mixing", "good", "The run comes to rest and forgets its start.", evidence,
            f"Rest is not correctness: {'long chains speak' if withheld else 'the grid of steps speaks'} to that.",
        )  # fmt: skip
    if abs(kept.value) < FORGOTTEN:
        return Verdict(
            "mixing", "info", "The run forgets its start, and still moves at its end.", evidence,
            "Compare it with long chains." if withheld else "See whether more steps gain anything.",
        )  # fmt: skip
    return Verdict(
        "mixing", "caution" if withheld and remembers(numbers) else "info", "The run remembers where it started.",
        evidence,
        "That does no harm where the posterior is as wide as the prior; elsewhere "
        + ("long chains show it: sri-pyro reference RUN." if withheld else "KL(inference ‖ posterior) shows it."),
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
