"""What the tests of step sizes share: the paper's chain, its exact divergence, and a target that explodes."""

import inspect

from torch import Tensor, nn

from sri_pyro.inference import ShortRunLangevin
from sri_pyro.models import LSTMEncoder
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Target
from tests.oracles import LinearGaussian, exact_law, standard_normal_target


def divergence(oracle: LinearGaussian, x: Tensor, name: str, steps: list[float]) -> Tensor:
    """KL(q_K || posterior) of each x, shape [B]: modes are independent and Gaussian."""
    law, precision = exact_law(name, oracle.precision, steps), oracle.precision
    ratio = precision * law.variance
    miss = precision * (law.response * oracle.mode_means(x)).square()
    return 0.5 * (ratio - 1 - ratio.log() + miss).sum(-1)


def built(cls: type[nn.Module], vocab_size: int = 6, latent_dim: int = 2, **options) -> nn.Module:
    """An inference or an encoder by its own defaults, with what follows from data and prior; in float64."""
    given = {"vocab_size": vocab_size, "latent_dim": latent_dim, "num_examples": 1000}
    accepted = inspect.signature(cls).parameters
    if "encoder" in accepted:
        options = {"encoder": built(LSTMEncoder, vocab_size, latent_dim), **options}
    return cls(**{name: value for name, value in given.items() if name in accepted}, **options).double()


def ula(schedule=None, num_steps: int = 20) -> ShortRunLangevin:
    return ShortRunLangevin(num_steps, UnadjustedLangevin(), schedule or ConstantSteps(1.0))


def explosive() -> Target:
    return standard_normal_target(lambda z: -5e5 * z.pow(4).sum(-1), batch_size=2, dim=2)
