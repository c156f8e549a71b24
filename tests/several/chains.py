"""What processes do that train with persistent chains; here, so that a forked process finds it by name."""

from typing import Any

import torch

from sri_pyro import checkpoint
from sri_pyro.config.cost import Fixed
from sri_pyro.inference import FinalState, PersistentLangevin
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.processes import Group
from sri_pyro.training import Training, fit
from tests.several.work import BATCHES, STEEP_BATCHES, Recipe

NUM_EXAMPLES = 330


def persisted(group: Group) -> dict[str, Any]:
    """Train three epochs on sentences some of which are so steep that their chains diverge; chains and weights."""
    model, _ = Recipe("wells", dtype="float32").parts()
    inference = PersistentLangevin(
        4, 6, 2, UnadjustedLangevin(), ConstantSteps(0.1), num_examples=NUM_EXAMPLES, latent_dim=2
    )
    batches = Fixed([*BATCHES, *STEEP_BATCHES])
    fit(
        model,
        inference,
        FinalState(),
        batches,
        Training(epochs=3, num_samples=2, learning_rate=0.01),
        group=group,
    )
    return {
        "begun": inference.begun.tolist(),
        "chains": inference.chains.tolist(),
        "scale": float(inference.cold.step_scale),
        "weights": {name: weight.tolist() for name, weight in model.named_parameters()},
        "digest": checkpoint.digest(inference.state_dict()),
        "next draw": torch.rand(1, dtype=torch.float64).item(),
    }
