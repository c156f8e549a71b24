"""Further analyses of a run as the page shows them: a tab for each, with its verdicts and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from sri_pyro.evaluation.calibration_figures import calibration_panels
from sri_pyro.evaluation.criticism_figures import criticism_panels
from sri_pyro.evaluation.diagnostics import InferenceResult
from sri_pyro.evaluation.doctor_figures import doctor_panels
from sri_pyro.evaluation.drawing import Panel
from sri_pyro.evaluation.reference_figures import reference_panels
from sri_pyro.evaluation.verdicts import Verdict
from sri_pyro.evaluation.verdicts.calibration import judge_calibration
from sri_pyro.evaluation.verdicts.criticism import judge_criticism
from sri_pyro.evaluation.verdicts.doctor import judge_doctor
from sri_pyro.evaluation.verdicts.reference import judge_reference
from sri_pyro.evaluation.verdicts.verdict import LEVELS


@dataclass(frozen=True)
class Analysis:
    """How an analysis is shown.

    Attributes:
        tab: The name on its tab, and in front of its verdicts elsewhere.
        heading: Of its figures.
        command: That makes it.
        judge: Maps its numbers to verdicts.
        panels: Maps its numbers and arrays to figures.
    """

    tab: str
    heading: str
    command: str
    judge: Callable[[Mapping[str, Any]], list[Verdict]]
    panels: Callable[[Mapping[str, Any], InferenceResult], list[Panel]]


ANALYSES: Final[Mapping[str, Analysis]] = MappingProxyType(
    {
        "doctor": Analysis("Steps", "Are the steps right?", "doctor", judge_doctor, doctor_panels),
        "reference": Analysis(
            "Reference", "How far from the posterior?", "reference", judge_reference, reference_panels
        ),
        "calibration": Analysis(
            "Calibration",
            "Have the draws the law they claim?",
            "calibrate",
            judge_calibration,
            calibration_panels,
        ),
        "criticism": Analysis(
            "Criticism", "Model or inference?", "criticise", judge_criticism, criticism_panels
        ),
    }
)
"""Those whose findings the page draws where the folder holds them, by name."""


@dataclass(frozen=True)
class Examined:
    """What an analysis says of a run.

    Attributes:
        verdicts: The worst first.
        panels: Its figures.
    """

    verdicts: list[Verdict]
    panels: list[Panel]


def of_other_weights(numbers: Mapping[str, Any], metrics: Mapping[str, Any]) -> bool:
    """Whether findings say that they are of other weights than an evaluation says that it is of.

    Example:
        >>> digests = [{"provenance": {"weights": {"digest": each}}} for each in ("a", "b")]
        >>> of_other_weights(digests[0], digests[1]), of_other_weights(digests[0], {})
        (True, False)
    """
    found, evaluated = (
        record.get("provenance", {}).get("weights", {}).get("digest") for record in (numbers, metrics)
    )
    return None not in (found, evaluated) and found != evaluated


def outdated(name: str) -> Examined:
    """What is said in place of findings of other weights."""
    verdict = Verdict(
        name,
        "caution",
        "The findings are of other weights.",
        f"{name}.json was made from other weights than the evaluation, and is not shown.",
        f"Run sri-pyro {ANALYSES[name].command} again.",
    )
    return Examined([verdict], [])


def examined(name: str, numbers: Mapping[str, Any], data: InferenceResult) -> Examined:
    """Judge and draw findings.

    Raises:
        ValueError: If they do not hold what verdicts and figures need.
    """
    analysis = ANALYSES[name]
    try:
        return Examined(analysis.judge(numbers), analysis.panels(numbers, data))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{name}.json or {name}.nc does not hold what the page needs ({type(error).__name__}: {said}); make the "
            "analysis again."
        ) from error


def alarms(found: Mapping[str, Examined]) -> list[Verdict]:
    """Verdicts of analyses that are bad or call for caution, each with the name of its tab in front."""
    return [
        replace(verdict, headline=f"{ANALYSES[name].tab}: {verdict.headline}")
        for name, each in found.items()
        for verdict in each.verdicts
        if verdict.level in ("bad", "caution")
    ]


def worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """In the order of their levels; within one as they come."""
    return sorted(verdicts, key=lambda verdict: LEVELS.index(verdict.level))
