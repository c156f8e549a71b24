"""What the tests of step sizes share: the paper's chain, its exact divergence, and a target that explodes."""

from torch import Tensor

from sri_pyro.inference import ShortRunLangevin
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


def ula(schedule=None, num_steps: int = 20) -> ShortRunLangevin:
    return ShortRunLangevin(num_steps, UnadjustedLangevin(), schedule or ConstantSteps(1.0))


def explosive() -> Target:
    return standard_normal_target(lambda z: -5e5 * z.pow(4).sum(-1), batch_size=2, dim=2)
