"""What is claimed: from a target and draws to numbers with error bars, and a report that can be defended."""

from types import MappingProxyType

from sri_pyro.evaluation.annealed import AnnealedImportance
from sri_pyro.evaluation.chains import EvaluationOptions
from sri_pyro.evaluation.evaluate import Evaluation, evaluate
from sri_pyro.evaluation.evidence import (
    EvidenceEstimator,
    PriorImportance,
    SentenceEvidence,
    estimate_evidence,
)
from sri_pyro.evaluation.gaussian import GaussianImportance
from sri_pyro.evaluation.jacobian import JacobianImportance
from sri_pyro.evaluation.ladder import Ladder

EVIDENCE: MappingProxyType[str, type[EvidenceEstimator]] = MappingProxyType(
    {
        "gaussian": GaussianImportance,
        "ladder": Ladder,
        "prior": PriorImportance,
        "annealed": AnnealedImportance,
        "jacobian": JacobianImportance,
    }
)

REFUSED: MappingProxyType[str, str] = MappingProxyType(
    dict.fromkeys(
        ("harmonic", "harmonic_mean"),
        "the harmonic mean of p(x | z) over posterior draws over-states log p(x), by nats in a few dozen "
        "dimensions, for its weights have infinite variance and chains rarely meet the small likelihoods that decide "
        "it; use 'gaussian', or evaluation.simulated for bounds from both sides",
    )
)
"""Estimators of log p(x) that this library does not have, and why."""

__all__ = [
    "EVIDENCE",
    "REFUSED",
    "AnnealedImportance",
    "Evaluation",
    "EvaluationOptions",
    "GaussianImportance",
    "JacobianImportance",
    "Ladder",
    "PriorImportance",
    "SentenceEvidence",
    "estimate_evidence",
    "evaluate",
]
