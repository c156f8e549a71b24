"""The face: the names one works with, handed on from their rooms when they are first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sri_pyro.config import Config, Run, load_run, read_config, train
    from sri_pyro.course import Training
    from sri_pyro.data import LengthBuckets, Vocabulary, in_order
    from sri_pyro.evaluation import GaussianImportance, evaluate
    from sri_pyro.inference import FinalState, PriorDraws, ShortRunLangevin, StepSizeTuner
    from sri_pyro.inference.elbo import AnnealedELBO
    from sri_pyro.inference.guide import as_guide
    from sri_pyro.models import (
        GaussianMixture,
        GRUDecoder,
        LanguageModel,
        LatentTextModel,
        LSTMDecoder,
        StandardNormal,
    )
    from sri_pyro.target import Target
    from sri_pyro.training import fit
    from sri_pyro.types import Batch, Draws, Estimate, Progress

_HOMES = {
    "sri_pyro.config": ("Config", "Run", "load_run", "read_config", "train"),
    "sri_pyro.course": ("Training",),
    "sri_pyro.data": ("LengthBuckets", "Vocabulary", "in_order"),
    "sri_pyro.evaluation": ("GaussianImportance", "evaluate"),
    "sri_pyro.inference": ("FinalState", "PriorDraws", "ShortRunLangevin", "StepSizeTuner"),
    "sri_pyro.inference.elbo": ("AnnealedELBO",),
    "sri_pyro.inference.guide": ("as_guide",),
    "sri_pyro.models": (
        "GRUDecoder",
        "GaussianMixture",
        "LSTMDecoder",
        "LanguageModel",
        "LatentTextModel",
        "StandardNormal",
    ),
    "sri_pyro.target": ("Target",),
    "sri_pyro.training": ("fit",),
    "sri_pyro.types": ("Batch", "Draws", "Estimate", "Progress"),
}
"""Where each name lives. Importing a room imports PyTorch and Pyro, for which ``--help`` need not wait."""

__all__ = [
    "AnnealedELBO",
    "Batch",
    "Config",
    "Draws",
    "Estimate",
    "FinalState",
    "GRUDecoder",
    "GaussianImportance",
    "GaussianMixture",
    "LSTMDecoder",
    "LanguageModel",
    "LatentTextModel",
    "LengthBuckets",
    "PriorDraws",
    "Progress",
    "Run",
    "ShortRunLangevin",
    "StandardNormal",
    "StepSizeTuner",
    "Target",
    "Training",
    "Vocabulary",
    "as_guide",
    "evaluate",
    "fit",
    "in_order",
    "load_run",
    "read_config",
    "train",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(home), name)
            return value
    raise AttributeError(f"module 'sri_pyro' has no attribute {name!r}; it offers: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
