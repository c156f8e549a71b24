"""The tables whose entries obey laws, and how to build any entry small.

To test a new table, add it to ``TABLES`` (names, documentation, schema) and write its own laws beside the others.
"""

import inspect

import torch

from sri_pyro.data import SOURCES
from sri_pyro.evaluation import EVIDENCE
from sri_pyro.inference import INFERENCES, OBJECTIVES
from sri_pyro.models import DECODERS, ENCODERS, PRIORS
from sri_pyro.numerics.kl_weights import KL_WEIGHTS
from sri_pyro.numerics.langevin import INTEGRATORS
from sri_pyro.numerics.schedules import NOISE_SCHEDULES, STEP_SCHEDULES
from sri_pyro.types import EOS, PAD, Batch
from sri_pyro.updates import UPDATES

TABLES = {
    "DECODERS": DECODERS,
    "ENCODERS": ENCODERS,
    "EVIDENCE": EVIDENCE,
    "INFERENCES": INFERENCES,
    "INTEGRATORS": INTEGRATORS,
    "KL_WEIGHTS": KL_WEIGHTS,
    "NOISE_SCHEDULES": NOISE_SCHEDULES,
    "OBJECTIVES": OBJECTIVES,
    "PRIORS": PRIORS,
    "SOURCES": SOURCES,
    "STEP_SCHEDULES": STEP_SCHEDULES,
    "UPDATES": UPDATES,
}
SMALL = {"vocab_size": 8, "latent_dim": 3, "dim": 3, "hidden": 5, "embedding": 4, "components": 3}
SMALL |= {"warmup": 3}
SMALL |= {"dropout": 0.0, "word_dropout": 0.0, "max_length": 6, "step_sizes": [0.3, 0.2, 0.1]}
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [1, 5, 5, 7]]))


def small(cls: type, **options):
    """Build an entry small: it gets those of the known options that its constructor has."""
    accepted = inspect.signature(cls).parameters
    return cls(**{name: value for name, value in (SMALL | options).items() if name in accepted})
