"""Problems whose log p(x) is known: by a closed form, by quadrature of text that can be listed, by a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sri_pyro.data.topic_hmm import topic_hmm
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews
from sri_pyro.numerics.schedules import ConstantSteps, GeometricSteps, StepSchedule
from sri_pyro.target import AutogradLikelihood, Inference, Target
from tests.oracles import EnumerableText, LinearGaussian, quadrature, standard_normal_target

STEPS: Mapping[str, StepSchedule] = {
    "flat": ConstantSteps(0.4),
    "power1": ConstantSteps(0.135),
    "power2": GeometricSteps(1.6 / 69.7, 0.5 / 69.7),
}
"""Of 20 steps of ``lm``, 0.8 of what the largest precision bears; too few for the broad directions of ``power2``."""
POINTS = {1: 401, 2: 91}
TEXT_STEPS = GeometricSteps(0.2, 0.02)
SHARPNESS = 4.0
"""Of the choice of a topic by the code: sentences that give their topic away have a posterior in a corner."""


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


def _short_run(steps: StepSchedule) -> ShortRunLangevin:
    return ShortRunLangevin(20, LeimkuhlerMatthews(), steps, record_path=True)


def gaussian(spectrum: str, num: int) -> DataSets:
    """A linear-Gaussian model of 32 dimensions whose data tell 10 nats of z."""
    oracle = LinearGaussian.build(spectrum)
    z, x = oracle.sample(num)

    def target(x: Tensor) -> Target:
        return replace(oracle.target(x), select=lambda rows: target(x[rows]))

    inference = _short_run(STEPS[spectrum])
    return DataSets(target(x), inference, z, oracle.log_evidence(x), discrete=False)


def text(latent_dim: int, num: int, *, bimodal: bool = False) -> DataSets:
    """Sentences of at most three tokens by a GRU with random weights.

    With ``bimodal`` it reads 2 (z_1^2 - 1) in place of z_1, so that every posterior is the same at -z_1.
    """
    oracle = EnumerableText.build("gru", latent_dim)

    def code(z: Tensor) -> Tensor:
        return torch.cat([2 * (z[..., :1].square() - 1), z[..., 1:]], -1) if bimodal else z

    def target(rows: Tensor) -> Target:
        plain = oracle.model.target(oracle.rows.select(rows))
        if not bimodal:
            return plain

        def log_likelihood(z: Tensor) -> Tensor:
            return plain.log_likelihood(code(z))

        return replace(
            plain,
            log_likelihood=log_likelihood,
            conditioned=AutogradLikelihood(log_likelihood, plain.module),
            select=lambda part: target(rows[part]),
        )

    known = quadrature(target(torch.arange(len(oracle.rows.tokens))), points=POINTS[latent_dim]).log_evidence
    place = {tuple(row): k for k, row in enumerate(oracle.rows.tokens.tolist())}
    z = torch.randn(num, latent_dim)
    tokens = oracle.model.decoder.generate(code(z), oracle.rows.tokens.shape[1])
    rows = torch.tensor([place[tuple(row)] for row in tokens.tolist()])
    inference = _short_run(TEXT_STEPS)
    return DataSets(target(rows), inference, z, known[rows], discrete=True)


def topics(num: int) -> DataSets:
    r"""Sentences of a hidden Markov model whose topic a code in three dimensions chooses.

    .. math:: p(x \mid z) = \sum_k \operatorname{softmax}_k(c\, U z)\, p(x \mid k)

    with the rows of U the corners of a tetrahedron, which no rotation of z tells apart, so that
    :math:`p(x) = \frac14 \sum_k p(x \mid k)` exactly.
    """
    hmm = topic_hmm()
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * SHARPNESS / math.sqrt(3)
    z = torch.randn(num, 3)
    chosen = torch.distributions.Categorical(logits=z @ corners.T).sample().tolist()
    sentences = [
        replace(hmm, topic_prior=np.eye(4)[k]).sample(1, seed=1000 + i)[0] for i, k in enumerate(chosen)
    ]
    exact = torch.tensor(hmm.log_probs(sentences))
    by_topic = exact[:, None] + torch.tensor(hmm.topic_posteriors(sentences)).log() + math.log(4)

    def target(log_px_given: Tensor) -> Target:
        def log_likelihood(z: Tensor) -> Tensor:
            return (torch.log_softmax(z @ corners.T, -1) + log_px_given).logsumexp(-1)

        return replace(
            standard_normal_target(log_likelihood, len(log_px_given), 3),
            select=lambda rows: target(log_px_given[rows]),
        )

    inference = _short_run(TEXT_STEPS)
    return DataSets(target(by_topic), inference, z, exact, discrete=True)


PROBLEMS: Mapping[str, Callable[[int], DataSets]] = {
    "gaussian, flat": lambda num: gaussian("flat", num),
    "gaussian, power1": lambda num: gaussian("power1", num),
    "gaussian, power2": lambda num: gaussian("power2", num),
    "text, 1-d": lambda num: text(1, num),
    "text, 2-d": lambda num: text(2, num),
    "text, 1-d, two modes": lambda num: text(1, num, bimodal=True),
    "text, 2-d, two modes": lambda num: text(2, num, bimodal=True),
    "topic HMM": topics,
}
