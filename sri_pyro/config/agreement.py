"""Agreement: whether parts that are each in order go together, told before anything runs."""

from __future__ import annotations

from typing import Any, Final

from sri_pyro.config.schema import Part
from sri_pyro.evaluation import JacobianImportance
from sri_pyro.inference import (
    Amortized,
    EvidenceLowerBound,
    FinalState,
    ImportanceWeightedBound,
    PriorDraws,
    ShortRunLangevin,
    Trajectory,
)
from sri_pyro.inference.bounds import NEEDS_DENSITY
from sri_pyro.inference.objectives import NEEDS_PATH

NEEDS_MAPS: Final = (
    "the estimator 'jacobian' needs the path of a run whose steps are maps of z alone; use the inference "
    "'short_run' with record_path = true and the integrator 'ula' or 'lm'."
)
"""What ``JacobianImportance`` itself says, after training; the path is recorded for it by ``evaluate_run``."""

UNTAUGHT: Final = (
    "the encoder of the inference '{}' learns nothing from the objective 'final'; use an objective that has its "
    "density, 'elbo' or 'iwae'."
)


def disagreements(inference: Any, objective: Part | None, evaluation: Part | None) -> list[str]:
    """One sentence for each pair of parts that would fail later; nothing for an inference from outside.

    Args:
        inference: Built; None if it could not be.
        objective: The learning rule.
        evaluation: The section.
    """
    found = []
    known = isinstance(inference, ShortRunLangevin | PriorDraws)
    path = isinstance(inference, ShortRunLangevin)
    if known and objective is not None and objective.factory is Trajectory:
        found += [] if path and inference.record_path else [NEEDS_PATH]
    if path and objective is not None and objective.factory in (EvidenceLowerBound, ImportanceWeightedBound):
        found.append(NEEDS_DENSITY.format(objective.kind))
    if isinstance(inference, Amortized) and objective is not None and objective.factory is FinalState:
        found.append(UNTAUGHT.format("amortized"))
    estimator = evaluation.options["estimator"] if evaluation is not None else None
    if known and estimator is not None and estimator.factory is JacobianImportance:
        found += [] if path and inference.integrator.moves_position_only else [NEEDS_MAPS]
    return found
