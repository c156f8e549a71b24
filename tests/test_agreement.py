"""Parts that do not go together are told by the configuration, not by step 2000 or after the training.

Oracle: the sentences that the parts themselves raise where they meet, which must be the same.
"""

import re
from typing import Any

import pytest
import torch

from sri_pyro.config import parse_config
from sri_pyro.config.agreement import ANOTHER_WEIGHT, NEEDS_MAPS, UNTAUGHT
from sri_pyro.evaluation import JacobianImportance
from sri_pyro.inference import ShortRunLangevin, Trajectory
from sri_pyro.inference.objectives import NEEDS_START
from sri_pyro.numerics.langevin import Baoab
from sri_pyro.types import Draws, Progress
from tests.configurations import PCFG, problems
from tests.oracles import standard_normal_target

NEEDS_PATH = (
    "the learning rule 'trajectory' needs every position of the run, and these draws carry only the last; set "
    "record_path = true on the inference 'short_run'."
)
TOO_FEW = (
    "step_size 'tuner': tuning the step size by the Gaussian entropy of 100 latent dimensions needs num_chains of at "
    "least 102; got 96. Raise num_chains."
)
VELOCITY = (
    "step_size 'tuner': the Jacobian objective needs a map of z alone, and 'baoab' moves a velocity too; use the "
    "integrator 'ula' or 'lm', or the objective 'gaussian'."
)
LAGGING = (
    "the update 'aggressive' moves the weights of the inference ahead of the model's, and this inference has none; use "
    "one that has, such as 'amortized', or the update 'joint'."
)
UNINFORMED = (
    "the update 'aggressive' ends by mutual_information, and a validation gives none of a short run; use an inference "
    "whose draws have a law of independent normals, or the update 'joint'."
)
NOTHING_TO_PRETRAIN = (
    "pretraining trains the inference by the objective 'elbo', from which 'short_run' learns nothing; use one that "
    "does, such as 'amortized', or set pretraining.epochs = 0."
)
OVER = "pretraining, over the options of training: "
FACTOR = f"{OVER}decay_factor must be between 0 and 1; got 1.5."
PATIENCE = f"{OVER}patience must be at least 1 with decay = 'plateau'; got 0."
PAPER_100: dict[str, Any] = {"preset": "paper", "model": {"prior": {"dim": 100}}}
BAOAB: dict[str, Any] = {"inference": {"integrator": "baoab"}}
JACOBIAN: dict[str, Any] = {"evaluation": {"estimator": "jacobian"}}


@pytest.mark.parametrize(
    ("data", "sentences"),
    [
        (PAPER_100, [TOO_FEW]),
        (PAPER_100 | {"step_size": {"num_chains": 102}}, []),
        (PAPER_100 | {"step_size": {"objective": "jacobian"}}, []),
        (BAOAB | {"preset": "paper", "step_size": {"objective": "jacobian"}}, [VELOCITY]),
        (BAOAB | {"preset": "paper"}, []),
        ({"step_size": {"kind": "tuner", "latent_dim": 3}},
         ["step_size 'tuner': latent_dim follows from dim of the prior; leave it out"]),
        (BAOAB | JACOBIAN, [NEEDS_MAPS]),
        (JACOBIAN, []),
        ({"inference": "prior"} | JACOBIAN, [NEEDS_MAPS]),
        ({"inference": "tests.test_agreement:Mine"} | JACOBIAN, []),
        ({"objective": "trajectory"}, [NEEDS_PATH]),
        ({"objective": "trajectory", "inference": "prior"}, [NEEDS_PATH]),
        ({"objective": "trajectory", "inference": {"record_path": True}}, []),
        ({"objective": "trajectory", "inference": "tests.test_agreement:Mine"}, []),
        ({"training": {"update": "aggressive"}}, [LAGGING]),
        ({"training": {"update": "joint"}}, []),
        ({"preset": "vae", "training": {"update": "aggressive"}}, []),
        ({"preset": "encoded_short_run", "training": {"update": "aggressive"}}, [UNINFORMED]),
        ({"pretraining": {"epochs": 3}}, [NOTHING_TO_PRETRAIN]),
        ({"preset": "encoded_short_run", "pretraining": {"epochs": 3}}, [NOTHING_TO_PRETRAIN]),
        ({"pretraining": {"epochs": 3}, "inference": "tests.test_agreement:Mine"},
         [NOTHING_TO_PRETRAIN.replace("short_run", "tests.test_agreement:Mine")]),
        ({"pretraining": {"epochs": 3}, "inference": "tests.test_agreement:Learning"}, []),
        ({"preset": "fb_vae"}, []),
        ({"preset": "fb_vae", "pretraining": {"decay_factor": 1.5}}, [FACTOR]),
        ({"preset": "vae_small", "pretraining": {"epochs": 3, "decay": "plateau"}}, [PATIENCE]),
        (BAOAB | JACOBIAN | PAPER_100 | {"objective": "trajectory"}, [TOO_FEW, NEEDS_PATH, NEEDS_MAPS]),
        ({"inference": "amortized"}, [UNTAUGHT.format("amortized")]),
        ({"inference": "semi_amortized"}, [UNTAUGHT.format("semi_amortized")]),
        ({"inference": "semi_amortized", "objective": "elbo"}, []),
        ({"preset": "sa_vae_small"}, []),
        ({"preset": "sa_vae_small", "objective": {"kl_weight": {"epochs": 4}}}, [ANOTHER_WEIGHT]),
        ({"inference": "amortized", "objective": "iwae"}, []),
        ({"inference": "semi_amortized", "objective": "trajectory"}, [NEEDS_PATH]),
        ({"inference": "amortized", "objective": "distilled"}, [NEEDS_START]),
        ({"preset": "sa_vae"} | JACOBIAN, [NEEDS_MAPS]),
    ],
)  # fmt: skip
def test_parts_that_do_not_go_together(data: dict[str, Any], sentences: list[str]) -> None:
    """All at once; and what does go together, or comes from outside, is left alone."""
    if sentences:
        assert problems(data) == sentences
    else:
        parse_config(PCFG | data)


class Learning(torch.nn.Linear):
    """An inference from outside that has weights."""

    def __init__(self) -> None:
        super().__init__(1, 1)


class Mine(torch.nn.Module):
    """An inference from outside, of which nothing is known."""


def test_the_parts_themselves_say_the_same() -> None:
    target = standard_normal_target(lambda z: -z.square().sum(-1), batch_size=2, dim=2)
    with pytest.raises(ValueError, match=f"^{re.escape(NEEDS_MAPS)}$"):
        JacobianImportance(3)(target, ShortRunLangevin(2, Baoab(), record_path=True))
    with pytest.raises(ValueError, match=f"^{re.escape(NEEDS_PATH)}$"):
        Trajectory()(target, Draws(torch.zeros(1, 2, 2)), Progress(0, 0.0))
