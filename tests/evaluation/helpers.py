"""What the tests of evaluation share: targets that can be cut, runs of known law, exact texts, and gates."""

import math
from dataclasses import replace
from functools import lru_cache

import torch
from scipy import stats
from torch import Tensor, nn

from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress
from tests.oracles import EnumerableText, LinearGaussian, quadrature

STEP, STEPS = 0.06, 6


def t_gate(replicates: int) -> float:
    return stats.t.isf(0.5e-8, replicates - 1)


def off(errors: Tensor) -> float:
    """Mean of independent replicates in its own standard errors, signed."""
    return (errors.mean() / (errors.std() / math.sqrt(errors.numel()))).item()


def selectable(oracle: LinearGaussian, x: Tensor) -> Target:
    """The oracle's target, which can be cut to some sentences as a text model's can."""
    return replace(oracle.target(x), select=lambda rows: selectable(oracle, x[rows]))


class Independent(nn.Module):
    """An inference that answers with a Gaussian of known moments per sentence; keeps what it drew."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.mean, self.deviation, self.drawn = mean, deviation, []

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        z = self.mean + self.deviation * torch.randn(num_samples, target.batch_size, target.dim)
        self.drawn.append(z)
        return Draws(z)


class Forbidden(nn.Module):
    """An inference that must not be asked."""

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        raise AssertionError("this estimator needs no inference")


def run(record: bool = False, step: float = STEP, num_steps: int = STEPS) -> ShortRunLangevin:
    """The paper's chain, whose law is known exactly on linear Gaussians and on a grid."""
    return ShortRunLangevin(num_steps, UnadjustedLangevin(), ConstantSteps(step), record_path=record)


TUNED = {  # steps of `lm` at K = 20 near their least KL by the exact law: 0, 0.0001 and 0.08 nats
    "flat": ConstantSteps(0.5),
    "power1": ConstantSteps(0.168),
    "power2": GeometricSteps(12 / 69.7, 1 / 69.7),
}


@lru_cache
def exact_text(decoder: str, latent_dim: int) -> tuple[EnumerableText, Tensor, Tensor, Tensor]:
    """The enumerable model, log p(x), KL(posterior || prior) and the posterior mean of every row."""
    oracle = EnumerableText.build(decoder, latent_dim)
    found = quadrature(oracle.target(), reach=7.0, points=71 if latent_dim == 2 else 281)
    return oracle, found.log_evidence, found.divergence, found.mean()


def chains(signal: Tensor, num_chains: int, spread: float = 1.0) -> Tensor:
    """Draws [M, n, D] around the sentences' true means [n, D]."""
    return signal + spread * torch.randn(num_chains, *signal.shape)
