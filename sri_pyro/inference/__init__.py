"""What is inferred: from a target to draws, and from draws to a loss."""

from types import MappingProxyType

from sri_pyro.inference.amortized import Amortized
from sri_pyro.inference.bounds import EvidenceLowerBound, ImportanceWeightedBound
from sri_pyro.inference.elbo import AnnealedELBO
from sri_pyro.inference.guide import as_guide
from sri_pyro.inference.local_vi import LocalGaussians
from sri_pyro.inference.mcmc import HamiltonianChain
from sri_pyro.inference.objectives import Distilled, FinalState, Trajectory
from sri_pyro.inference.persistent import PersistentLangevin
from sri_pyro.inference.semi_amortized import SemiAmortized
from sri_pyro.inference.short_run import PriorDraws, ShortRunLangevin
from sri_pyro.inference.step_size import StepSizeTuner
from sri_pyro.inference.surrogate import SurrogateCheck
from sri_pyro.target import Inference, Objective

INFERENCES: MappingProxyType[str, type[Inference]] = MappingProxyType(
    {
        "short_run": ShortRunLangevin,
        "persistent": PersistentLangevin,
        "mcmc": HamiltonianChain,
        "local_vi": LocalGaussians,
        "prior": PriorDraws,
        "amortized": Amortized,
        "semi_amortized": SemiAmortized,
    }
)
OBJECTIVES: MappingProxyType[str, type[Objective]] = MappingProxyType(
    {
        "final": FinalState,
        "distilled": Distilled,
        "trajectory": Trajectory,
        "elbo": EvidenceLowerBound,
        "iwae": ImportanceWeightedBound,
    }
)

__all__ = [
    "INFERENCES",
    "OBJECTIVES",
    "Amortized",
    "AnnealedELBO",
    "Distilled",
    "EvidenceLowerBound",
    "FinalState",
    "HamiltonianChain",
    "ImportanceWeightedBound",
    "LocalGaussians",
    "PersistentLangevin",
    "PriorDraws",
    "SemiAmortized",
    "ShortRunLangevin",
    "StepSizeTuner",
    "SurrogateCheck",
    "Trajectory",
    "as_guide",
]
