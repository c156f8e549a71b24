"""Short runs summarised and traced: closed forms in 32 dimensions, and the exact law at every step.

Gates are 6 standard errors of the stated Monte Carlo size unless a test says otherwise.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sri_pyro.evaluation import (
    EvaluationOptions,
)
from sri_pyro.evaluation.chains import run_chains, trace_runs
from tests.evaluation.helpers import run
from tests.oracles import (
    LOG_2PI,
    LinearGaussian,
    exact_law,
)

pytestmark = pytest.mark.usefixtures("float64")


def test_kl_of_the_run_to_the_prior_in_32_dimensions() -> None:
    """KL(q_K || prior) has a closed form on the linear Gaussian; the debiased Gaussian entropy is then exact.

    64 sentences x 96 chains. Without debiasing the entropy is 3 nats short. KL(q_K || posterior) likewise.
    """
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(64)
    law = exact_law("ula", oracle.precision, [0.0726] * 20)
    mean = law.mean(oracle.mode_means(x))
    truth = 0.5 * (law.variance - 1 - law.variance.log() + mean.square()).sum(-1)
    found = run_chains(oracle.target(x), run(step=0.0726, num_steps=20), EvaluationOptions(num_chains=96))
    error = found.cross_entropy - found.entropy - truth
    assert abs(error.mean()) < 6 * error.std() / math.sqrt(64)
    assert error.std() / math.sqrt(64) < 0.15
    ratio = oracle.precision * law.variance
    miss = oracle.precision * (law.response * oracle.mode_means(x)).square()
    to_posterior = 0.5 * (ratio - 1 - ratio.log() + miss).sum(-1)
    error = oracle.log_evidence(x) - found.log_joint - found.entropy - to_posterior
    assert abs(error.mean()) < 6 * error.std() / math.sqrt(64)
    own = -oracle.log_likelihood(x, oracle.modes(found.z) * 0 + found.z).mean(0)
    assert (found.reconstruction - own).abs().mean() < 6 * 5 / math.sqrt(len(found.z))
    assert found.covariance.shape == (64, 32, 32)


def test_trace_is_the_exact_law_at_every_step() -> None:
    """E log p(x, z_k) and KL(q_k || posterior) of steps 0 to K by the recursion of moments, six dimensions.

    Catches a trace shifted by one step, or a KL that starts at z_1 instead of the prior draw.
    """
    oracle = LinearGaussian.build("power1", dim=6, information=3.0)
    _, x = oracle.sample(5)
    evidence = oracle.log_evidence(x)
    tracer = run(record=True, step=0.1, num_steps=8)
    found = trace_runs(oracle.target(x), tracer, 1500, evidence)
    precision, m = oracle.precision, oracle.mode_means(x)
    for k in range(9):
        law = exact_law("ula", precision, [0.1] * k) if k else exact_law("ula", precision, [1e-12])
        ratio = precision * law.variance
        spread = ratio + precision * (law.response * m).square()
        joint = evidence - 0.5 * (spread - precision.log() + LOG_2PI).sum(-1)
        kl = 0.5 * (spread - 1 - ratio.log()).sum(-1)
        deviation = (
            (0.5 * ratio.square() + precision.square() * law.variance * (law.response * m).square())
            .sum(-1)
            .sqrt()
        )
        error = (6 * deviation / math.sqrt(1500)).numpy()
        assert (np.abs(found.log_joint[:, k] - joint.numpy()) < error).all(), k
        assert (np.abs(found.kl_posterior[:, k] - kl.numpy()) < error + 6 * math.sqrt(6 / 3000)).all(), k
    assert (found.kl_posterior[:, 0] > found.kl_posterior[:, -1] + 0.5).all()
    assert found.sentence.tolist() == [0, 1, 2, 3, 4]


def test_too_few_chains_have_no_entropy() -> None:
    """D + 1 chains have a singular covariance: the entropy is NaN, never a number, and the rest stands."""
    oracle = LinearGaussian.build("flat", dim=8, information=1.0)
    found = run_chains(oracle.target(torch.zeros(2, 8)), run(), EvaluationOptions(num_chains=9))
    assert found.entropy.isnan().all()
    assert found.reconstruction.isfinite().all()


@pytest.mark.parametrize(
    "option",
    [{"num_chains": 1}, {"traced_sentences": -1}, {"traced_chains": 0}, {"exported_draws": 0}],
    ids=str,
)
def test_an_option_out_of_range_is_named(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        replace(EvaluationOptions(), **option)
