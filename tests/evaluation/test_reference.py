"""Reference posteriors against closed forms, quadrature and Pyro's NUTS, and chains that must not be trusted.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``), for standard errors that are known;
theirs are estimated from some hundred effective draws, which is why they are read at 1.3 times their size.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from sri_pyro.evaluation.reference import Convergence, LongChains, Reference, reference_posterior
from sri_pyro.inference import HamiltonianChain
from sri_pyro.target import Target
from tests.oracles import (
    EnumerableText,
    LinearGaussian,
    bimodal,
    gate,
    quadrature,
    sentence,
    skewed,
    standard_normal_target,
)

pytestmark = pytest.mark.usefixtures("float64")


def worst(found: Reference, quality: Convergence, mean: torch.Tensor, deviation: torch.Tensor) -> float:
    """Monte Carlo standard errors by which the farthest mean or deviation [B, D] is off."""
    z, dim = found.z.flatten(0, 1), mean.shape[-1]
    first = (z.mean(0) - mean).abs().numpy() / quality.mcse_mean[:, :dim]
    second = (z.std(0) - deviation).abs().numpy() / quality.mcse_sd[:, :dim]
    return float(max(first.max(), second.max())) / 1.3


@pytest.mark.parametrize("dense", [True, False])
def test_moments_of_a_gaussian_posterior(dense: bool) -> None:
    """Oracle: closed form. The step sizes of posteriors of one shape agree; the wrong law is seen."""
    oracle = LinearGaussian.build("power2", dim=3, information=4.0)
    _, x = oracle.sample(4)
    mean, covariance = oracle.posterior(x)
    deviation = covariance.diagonal().sqrt().expand_as(mean)
    found = reference_posterior(oracle.target(x), 4, 80, 120, dense=dense)
    quality = Convergence.of(found)
    assert found.z.shape == (4, 120, 4, 3)
    assert worst(found, quality, mean, deviation) < gate(2 * 12)
    assert worst(found, quality, 0.8 * mean, deviation) > 9
    assert worst(found, quality, mean, 1.5 * deviation) > 9
    joint = oracle.target(x).log_joint(found.z.flatten(0, 1)).reshape(4, 120, 4)
    torch.testing.assert_close(found.log_joint, joint, rtol=0, atol=1e-9)
    assert not found.diverged.any()
    assert 0.6 < found.acceptance.mean() < 0.95
    assert (found.step_size > (0.6 if dense else 0.2)).all()


def test_a_sentence_has_its_own_step_and_scale() -> None:
    """Two posteriors whose deviations differ by 100: with a common step one would crawl or the other be refused."""
    precision = torch.tensor([1.0, 1e4])
    target = standard_normal_target(lambda z: -0.5 * (precision - 1) * z.square().sum(-1), 2, 2)
    found = reference_posterior(target, 4, 80, 120, dense=False)
    deviation = precision.rsqrt()[:, None].expand(2, 2)
    quality = Convergence.of(found)
    assert worst(found, quality, torch.zeros(2, 2), deviation) < gate(8)
    assert quality.ess_bulk.min() > 120
    unscaled = reference_posterior(target, 4, 30, 4)  # too short for a window: steps alone adapt
    assert unscaled.step_size[0] > 20 * unscaled.step_size[1]


def test_moments_of_a_text_posterior() -> None:
    """Oracle: quadrature on our own decoder; the mean of the log likelihood among them."""
    text = EnumerableText.build("lstm", latent_dim=2)
    rows = torch.tensor([0, 9])
    target = text.model.target(text.rows.select(rows))
    exact = quadrature(target, reach=7.0, points=71)
    found = reference_posterior(target, 4, 100, 150)
    assert worst(
        found, Convergence.of(found), exact.mean(), exact.covariance().diagonal(dim1=-2, dim2=-1).sqrt()
    ) < gate(8)
    _, likelihood = target.value(found.z.flatten(0, 1))
    error = likelihood.mean(0) - (exact.divergence + exact.log_evidence)
    assert (error.abs() / (likelihood.std(0) / np.sqrt(200))).max() < gate(2)


def test_pyros_nuts_agrees_on_a_single_sentence() -> None:
    """Oracle: another program, which finds its own trajectories, on a skewed posterior alone."""
    found = reference_posterior(skewed(), 4, 60, 120)
    quality, nuts, alone = Convergence.of(found), HamiltonianChain("nuts", 20), _only(skewed(), 2)
    z = torch.stack([nuts(alone, 80).z for _ in range(2)])
    other = Convergence.of(_of(z))
    error = np.hypot(quality.mcse_mean[2, 0], other.mcse_mean[0, 0])
    assert abs(found.z[:, :, 2].mean() - z.mean()) < 1.3 * gate(2) * error
    error = np.hypot(quality.mcse_sd[2, 0], other.mcse_sd[0, 0])
    assert abs(found.z[:, :, 2].std() - z.std()) < 1.3 * gate(2) * error


def _only(target: Target, row: int) -> Target:
    """One sentence of a target that cannot be cut: what the others add to its likelihood does not depend on z."""
    return standard_normal_target(
        lambda z: target.log_likelihood(z.expand(*z.shape[:-2], 3, 1))[..., row, None], 1, 1
    )


def _of(z: torch.Tensor) -> Reference:
    """Chains [S, N, B, D] of unknown origin."""
    flat = torch.zeros(z.shape[:-1])
    return Reference(z, torch.randn(z.shape[:-1]), flat, flat.bool(), flat[0, 0], 0)


def test_independent_draws_are_worth_their_number_and_separate_chains_nothing() -> None:
    """Oracle: N(0, 1), where the standard errors are 1 / sqrt(n) and 1 / sqrt(2 n)."""
    z = torch.randn(4, 500, 3, 2)
    z[:2, :, 1] += 3.0  # two chains elsewhere
    z[..., 2, :] = z[..., 2, :].cumsum(1) / 10  # and chains that wander
    quality = Convergence.of(_of(z))
    assert quality.trusted.tolist() == [True, False, False]
    assert quality.rhat[1].max() > 1.5
    np.testing.assert_allclose(quality.ess_bulk[0], 2000, rtol=0.25)
    np.testing.assert_allclose(quality.mcse_mean[0], 1 / np.sqrt(2000), rtol=0.2)
    np.testing.assert_allclose(quality.mcse_sd[0, :2], 1 / np.sqrt(4000), rtol=0.2)
    one = _of(z)
    diverged = torch.zeros(4, 500, 3, dtype=torch.bool)
    diverged[2, 7, 0] = True
    quality = Convergence.of(replace(one, diverged=diverged))
    assert quality.diverged.tolist() == [1 / 2000, 0, 0]
    assert not quality.trusted[0]
    assert one.select(torch.tensor([2])).z.shape == (4, 500, 1, 2)


def test_chains_that_do_not_find_both_modes_are_not_trusted() -> None:
    """The third posterior has two modes far apart, between which chains hardly go."""
    torch.manual_seed(2)
    assert not Convergence.of(reference_posterior(bimodal(), 4, 40, 60)).trusted.all()


def test_as_an_inference_its_draws_are_thinned() -> None:
    oracle = LinearGaussian.build("flat", dim=2, information=1.0)
    _, x = oracle.sample(300)
    z = LongChains(num_chains=3, warmup=40, thin=3)(oracle.target(x), 5).z
    assert z.shape == (5, 300, 2)
    mean, covariance = oracle.posterior(x)
    white = (z - mean) @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    error = (
        (white[0].mean(0).abs() * 300**0.5).max(),
        ((white[4].square().mean(0) - 1) * 150**0.5).abs().max(),
    )
    assert max(error) < gate(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains must be at least 1; got 0."),
        ({"warmup": -1}, "warmup must be at least 0; got -1."),
        ({"draws": 0}, "draws must be at least 1; got 0."),
        ({"trajectory": 0.0}, "trajectory must be a positive number; got 0.0."),
        ({"acceptance": 1.0}, "acceptance must lie between 0 and 1; got 1.0."),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=sentence(message)):
        reference_posterior(skewed(), **options)


def test_what_cannot_be_sampled_is_told() -> None:
    empty = standard_normal_target(lambda z: z.sum(-1), 2, 0)
    with pytest.raises(ValueError, match="needs a target with a z"):
        reference_posterior(empty)
    broken = standard_normal_target(lambda z: z.sum(-1) * torch.nan, 2, 1)
    with pytest.raises(FloatingPointError, match=re.escape("not finite at a draw of the prior")):
        reference_posterior(broken)
    with pytest.raises(ValueError, match="at least two chains of at least four draws"):
        Convergence.of(reference_posterior(skewed(), 1, 0, 5))
