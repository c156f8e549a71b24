"""Verdicts on references: whether long chains have met, and how far each inference is from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sri_pyro.evaluation.reference import LEAST_ESS, RHAT
from sri_pyro.evaluation.verdicts.reading import number, rounded
from sri_pyro.evaluation.verdicts.verdict import LEVELS, Verdict
from sri_pyro.types import Estimate
from sri_pyro.wording import counted

CLOSE, FAR = 0.1, 1.0
"""Nats of KL(inference || posterior): below the first few users of the draws see a difference; above the second the
draws are of another law. Pinsker: 0.1 nats bound the difference of any probability by 0.22, 1 nat by 0.71."""
WANTED = f"R-hat below {RHAT:g}, {LEAST_ESS:g} effective draws and no transition that diverged"
"""Of a sentence's chains that may serve as a reference: see ``Convergence.trusted``."""
RATIO = 0.1
"""Share by which standard deviations may differ before it is said."""
LIMITS = (
    "The error is of the draws; other sentences differ. KL by energy takes both laws' entropies for Gaussian."
)
ADVICE = (
    "Do not take its draws for the posterior's; of a short run sri-pyro doctor says whether more or other steps help. "
    + LIMITS
)


def judge_reference(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judge what stands in ``reference.json``: the references, then each system, the worst first."""
    found = [_chains(name, quality) for name, quality in numbers["references"].items()]
    if numbers.get("nuts"):
        found.append(_nuts(numbers["nuts"], float(numbers["nuts_gate"])))
    found += [
        _system(name, system, numbers["references"][system["reference"]])
        for name, system in numbers["systems"].items()
    ]
    return sorted(found, key=lambda verdict: LEVELS.index(verdict.level))


def _chains(name: str, quality: Mapping[str, Any]) -> Verdict:
    trusted = quality["trusted"]
    rhat, ess = (list(map(number, quality[name])) for name in ("rhat", "ess"))
    evidence = (
        f"R-hat is {max(rhat):.3f} at most, {min(ess):,.0f} effective draws at least, and "
        f"{100 * max(quality['diverged']):.2g}% of a sentence's transitions diverged at most; wanted are {WANTED}."
    )
    if all(trusted):
        return Verdict(
            "reference", "good", f"Reference of {name}: the chains of all {len(trusted)} sentences have met.", evidence,
            "Chains that started at draws of the prior can all have missed a mode that none of them reached.",
        )  # fmt: skip
    return Verdict(
        "reference", "caution",
        f"Reference of {name}: the chains of {trusted.count(False)} of {len(trusted)} sentences are not to be trusted.",
        f"{evidence} Left out of the verdicts: {', '.join(_failings(rhat, ess, quality))}.",
        "Draw more, and warm up longer: --draws, --warmup.",
    )  # fmt: skip


def _failings(rhat: list[float], ess: list[float], quality: Mapping[str, Any]) -> list[str]:
    """Every sentence that is left out, by its row (the shortest is row 0), and why."""
    found = []
    for row, trusted in enumerate(quality["trusted"]):
        diverged = number(quality["diverged"][row])
        why = [
            said
            for said, fails in (
                (f"R-hat {rhat[row]:.3f}", not rhat[row] < RHAT),
                (f"{ess[row]:,.0f} effective draws", not ess[row] >= LEAST_ESS),
                (f"{100 * diverged:.2g}% diverged", diverged > 0),
            )
            if fails
        ]
        if not trusted:
            found.append(f"row {row} ({', '.join(why)})")
    return found


def _nuts(apart: list[float], gate: float) -> Verdict:
    evidence = (
        f"On {len(apart)} sentences the farthest mean or deviation is {max(apart):.1f} standard errors from that of "
        f"Pyro's NUTS; {gate:.1f} are exceeded by chance once in a thousand times."
    )
    if max(apart) < gate:
        return Verdict(
            "reference",
            "good",
            "Reference of own: another sampler agrees.",
            evidence,
            "Both may have missed a mode.",
        )
    return Verdict(
        "reference", "caution", "Reference of own: another sampler does not agree.", evidence,
        "Draw more of both: --draws, --warmup.",
    )  # fmt: skip


def _system(name: str, system: Mapping[str, Any], quality: Mapping[str, Any]) -> Verdict:
    rows = [row for row, trusted in enumerate(quality["trusted"]) if trusted]
    if not rows:
        return Verdict(
            "reference", "info", f"{name}: how far it is from the posterior cannot be told.",
            "No sentence has a reference that is to be trusted.", "Draw more, and warm up longer.",
        )  # fmt: skip
    kl = _mean(system["kl"], system["kl_se"], rows)
    if not math.isfinite(kl.value):
        return Verdict(
            "reference", "bad", f"{name}: far from the posterior.",
            "Some of its draws have no finite log p(x, z), or no Gaussian fits them.", ADVICE,
        )  # fmt: skip
    ratio = math.exp(sum(math.log(system["sd_ratio"][row]) for row in rows) / len(rows))
    off, floor, apart = (
        sum(system[key][row] for row in rows) / len(rows) for key in ("mean_off", "floor", "wasserstein")
    )
    evidence = (
        f"KL(inference ‖ posterior) is {rounded(kl)} nats by energy, mean of {counted(len(rows), 'sentence')}; "
        f"standard deviations are {ratio:.2f} of the posterior's, means {off:.2f} of one off; sliced Wasserstein "
        f"distance is {apart:.3f} where two halves of the reference are {floor:.3f} apart."
    )
    evidence += (
        f" Close is below {CLOSE:g} nats, with standard deviations within {RATIO:.0%}; far is above {FAR:g} nat; by "
        "the 95% interval."
    )
    if ratio < 1 - RATIO:
        evidence += " It is over-confident."
    elif ratio > 1 + RATIO:
        evidence += " It is wider than the posterior."
    low, high = kl.interval()
    if low > FAR:
        return Verdict("reference", "bad", f"{name}: far from the posterior.", evidence, ADVICE)
    if high < CLOSE and abs(ratio - 1) <= RATIO:
        return Verdict("reference", "good", f"{name}: close to the posterior.", evidence, LIMITS)
    return Verdict("reference", "caution", f"{name}: not quite the posterior.", evidence, ADVICE)


def _mean(values: list[float | None], errors: list[float | None], rows: list[int]) -> Estimate:
    """The mean over sentences; its error is that of the draws, for these sentences alone."""
    value = sum(number(values[row]) for row in rows) / len(rows)
    se = math.sqrt(sum(number(errors[row]) ** 2 for row in rows)) / len(rows)
    return Estimate(value, se, len(rows))
