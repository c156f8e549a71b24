"""Agreement: whether parts that are each in order go together, told before anything runs."""

from __future__ import annotations

from typing import Any, Final

from torch import nn

from sri_pyro.config.schema import Part
from sri_pyro.evaluation import JacobianImportance
from sri_pyro.inference import (
    INFERENCES,
    Amortized,
    Distilled,
    EvidenceLowerBound,
    FinalState,
    HamiltonianChain,
    ImportanceWeightedBound,
    PersistentLangevin,
    SemiAmortized,
    ShortRunLangevin,
    Trajectory,
)
from sri_pyro.inference.bounds import NEEDS_DENSITY
from sri_pyro.inference.objectives import NEEDS_PATH, NEEDS_START
from sri_pyro.updates import NEEDS_INFORMATION, NEEDS_WEIGHTS, Aggressive

NEEDS_MAPS: Final = (
    "the estimator 'jacobian' needs the path of a run whose steps are maps of z alone; use the inference "
    "'short_run' with record_path = true and the integrator 'ula' or 'lm'."
)
"""What ``JacobianImportance`` itself says, after training; the path is recorded for it by ``evaluate_run``."""

UNTAUGHT: Final = (
    "the encoder of the inference '{}' learns nothing from the objective 'final'; use an objective that has its "
    "density, 'elbo' or 'iwae'."
)

UNTAUGHT_START: Final = (
    "the encoder that starts the chains of the inference 'short_run' learns nothing from this objective; use the "
    "objective 'distilled'."
)

ANOTHER_WEIGHT: Final = (
    "the inference 'semi_amortized' climbs a bound whose kl_weight is not that of the objective 'elbo'; give "
    "inference.kl_weight and objective.kl_weight the same value."
)

NOTHING_TO_PRETRAIN: Final = (
    "pretraining trains the inference by the objective 'elbo', from which '{}' learns nothing; use one that does, such "
    "as 'amortized', or set pretraining.epochs = 0."
)


def untrainable(
    inference: Any, kind: str | None, training: Part | None, pretraining: Part | None
) -> list[str]:
    """One sentence for each section that would train an inference by itself which does not learn so.

    Args:
        inference: Built; None if it could not be.
        kind: Its name.
        training: The section.
        pretraining: The section.
    """
    if not isinstance(inference, nn.Module):
        return []
    learns = any(True for _ in inference.parameters())
    if learns and not isinstance(inference, ShortRunLangevin):
        return []
    found = []
    update = training.options["update"] if training is not None else None
    if update is not None and update.factory is Aggressive:
        without = NEEDS_INFORMATION.format(update.kind, "none of a short run")
        found.append(without if learns else NEEDS_WEIGHTS.format(update.kind))
    if pretraining is not None and pretraining.options["epochs"]:
        found.append(NOTHING_TO_PRETRAIN.format(kind))
    return found


def disagreements(
    inference: Any, objective: Part | None, training: Part | None, evaluation: Part | None
) -> list[str]:
    """One sentence for each pair of parts that would fail later; nothing for an inference from outside.

    Args:
        inference: Built; None if it could not be.
        objective: The learning rule.
        training: The section.
        evaluation: The section.
    """
    found = []
    encodes = {Amortized: "amortized", SemiAmortized: "semi_amortized"}.get(type(inference))
    known = isinstance(inference, tuple(INFERENCES.values()))
    path = isinstance(inference, ShortRunLangevin)
    if known and objective is not None and objective.factory is Trajectory:
        found += [] if path and inference.record_path else [NEEDS_PATH]
    sampled = isinstance(inference, ShortRunLangevin | PersistentLangevin | HamiltonianChain)
    if (
        sampled
        and objective is not None
        and objective.factory in (EvidenceLowerBound, ImportanceWeightedBound)
    ):
        found.append(NEEDS_DENSITY.format(objective.kind))
    if encodes and objective is not None and objective.factory is FinalState:
        found.append(UNTAUGHT.format(encodes))
    started = path and inference.start is not None
    if known and objective is not None and (objective.factory is Distilled) != started:
        found.append(UNTAUGHT_START if started else NEEDS_START)
    weight = objective.options.get("kl_weight") if objective is not None else None
    if isinstance(inference, SemiAmortized) and weight is not None and weight.build() != inference.kl_weight:
        found.append(ANOTHER_WEIGHT)
    estimator = evaluation.options["estimator"] if evaluation is not None else None
    if known and estimator is not None and estimator.factory is JacobianImportance:
        maps = path and inference.integrator.moves_position_only and inference.start is None
        found += [] if maps else [NEEDS_MAPS]
    if isinstance(inference, PersistentLangevin) and training is not None:
        draws, kept = training.options["num_samples"], inference.num_chains
        if draws != kept:
            found.append(
                f"the inference 'persistent' keeps num_chains = {kept} of each sentence and training.num_samples is "
                f"{draws}; make them equal."
            )
    return found
