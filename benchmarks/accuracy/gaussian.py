r"""The oracle: a Gaussian posterior in 32 dimensions, where the divergence of a short run is known in closed form.

It is the test-suite's ``LinearGaussian`` with 10 nats between x and z and posterior precisions from 1.3 to 10.2. HMC
and NUTS have no closed law; theirs is estimated from states of many runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.accuracy import mcmc
from benchmarks.accuracy.laws import divergence, law_of_run
from benchmarks.accuracy.plain import Program
from benchmarks.accuracy.search import RECIPES
from sri_pyro.numerics.gaussians import gaussian_entropy
from tests.oracles import LinearGaussian

LOG_2PI = math.log(2 * math.pi)


def oracle() -> LinearGaussian:
    """The posterior of the published numbers: the paper's run of 20 steps is 0.178 nats away at its best step."""
    return LinearGaussian.build("power1")


def run_divergence(recipe: str, numbers: Sequence[float], num_steps: int, precision: Tensor) -> float:
    """Exact, in nats; infinity where the run is unstable beyond what a double can hold."""
    integrator, schedule = RECIPES[recipe].make(*numbers)
    exact = divergence(law_of_run(integrator, schedule(num_steps), precision), precision)
    return exact if math.isfinite(exact) else math.inf


def program(of: LinearGaussian) -> Program:
    """The oracle as a Pyro program of data sets x [B, D]."""
    loadings = of.rotation * of.snr.sqrt()

    def linear(x: Tensor) -> None:
        with pyro.plate("data sets", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0).expand([len(loadings)]).to_event(1))
            pyro.sample("x", dist.Normal(z @ loadings, 1.0).to_event(1), obs=x)

    return linear


def mcmc_run(kernel: str, rows: int, warmup: int, draws: int) -> tuple[mcmc.Path, Tensor]:
    """One run on data sets of its own, and these, [rows, D]."""
    of = oracle()
    _, x = of.sample(rows)
    return mcmc.run(kernel, program(of), x, torch.randn_like(x), warmup, draws), x


def state_divergence(z: Tensor, x: Tensor) -> float:
    r"""KL(law of the state | x, posterior) of states z [N, D], each with a data set x [N, D] of its own.

    In the modes of the posterior, :math:`z - m = -\rho\,m + e` by least squares, mode by mode; the law is taken as
    Gaussian with the covariance of e. A lower estimate where it is none, as after a rejection.
    """
    of = oracle()
    mean = of.mode_means(x)
    off = of.modes(z) - mean
    response = -(off * mean).sum(0) / mean.square().sum(0)
    rest = off + response * mean
    log_density = 0.5 * (of.precision.log() - LOG_2PI - of.precision * off.square()).sum(-1)
    return float(-log_density.mean() - gaussian_entropy(rest[:, None])[0])


def groups(count: int, size: int) -> list[np.ndarray]:
    """Indices of runs in groups of equal size, each a unit of its own."""
    return np.array_split(np.arange(count), count // size)
