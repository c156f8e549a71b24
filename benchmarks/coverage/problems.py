"""Problems whose log p(x) is known: Gaussian ones in closed form, text that can be listed by quadrature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps, StepSchedule
from sri_pyro.target import Inference, Target
from tests.oracles import EnumerableText, LinearGaussian, quadrature

STEPS: Mapping[str, StepSchedule] = {
    "flat": ConstantSteps(0.4),
    "power1": ConstantSteps(0.135),
    "power2": GeometricSteps(12 / 69.7, 1 / 69.7),
}
"""Of 20 steps of ``lm``: 0.8 of the best for constant ones, beyond which runs diverge."""
POINTS = {1: 401, 2: 91}


@dataclass(frozen=True)
class DataSets:
    """Data sets that the model wrote, with all that is known of them.

    Attributes:
        target: Of all of them; can be cut.
        inference: Whose runs proposals are fitted to.
        z: The code that each was written from, shape [n, D].
        exact: log p(x), nats, shape [n].
        discrete: Whether p(x | z) is at most 1.
    """

    target: Target
    inference: Inference
    z: Tensor
    exact: Tensor
    discrete: bool


def gaussian(spectrum: str, num: int) -> DataSets:
    """A linear-Gaussian model of 32 dimensions whose data tell 10 nats of z."""
    oracle = LinearGaussian.build(spectrum)
    z, x = oracle.sample(num)

    def target(x: Tensor) -> Target:
        return replace(oracle.target(x), select=lambda rows: target(x[rows]))

    inference = ShortRunLangevin(20, LeimkuhlerMatthews(), STEPS[spectrum])
    return DataSets(target(x), inference, z, oracle.log_evidence(x), discrete=False)


def text(latent_dim: int, num: int, seed: int = 0) -> DataSets:
    """Sentences of at most three tokens by a GRU with random weights, one seed of which has two modes."""
    oracle = EnumerableText.build("gru", latent_dim, seed=seed)
    known = quadrature(oracle.target(), points=POINTS[latent_dim]).log_evidence
    place = {tuple(row): k for k, row in enumerate(oracle.rows.tokens.tolist())}
    z = torch.randn(num, latent_dim)
    tokens = oracle.model.decoder.generate(z, oracle.rows.tokens.shape[1])
    rows = torch.tensor([place[tuple(row)] for row in tokens.tolist()])
    inference = ShortRunLangevin(20, LeimkuhlerMatthews(), GeometricSteps(0.2, 0.02))
    return DataSets(oracle.model.target(oracle.rows.select(rows)), inference, z, known[rows], discrete=True)


PROBLEMS: Mapping[str, Callable[[int], DataSets]] = {
    "gaussian, flat": lambda num: gaussian("flat", num),
    "gaussian, power1": lambda num: gaussian("power1", num),
    "gaussian, power2": lambda num: gaussian("power2", num),
    "text, 1-d": lambda num: text(1, num),
    "text, 2-d": lambda num: text(2, num),
}
