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

__all__ = [
    "EVIDENCE",
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
