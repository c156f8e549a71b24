"""Gaussian summaries against NumPy, PyTorch's own distributions, and closed-form expectations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sri_pyro.numerics.gaussians import Gaussian, gaussian_entropy, log_det, moments, pooled
from tests.oracles import gate, sentence

pytestmark = pytest.mark.usefixtures("float64")


def covariances(count: int, dim: int) -> Tensor:
    factor = torch.randn(count, dim, dim)
    return factor @ factor.mT + 0.5 * torch.eye(dim)


def test_moments_are_those_of_numpy() -> None:
    z = torch.randn(9, 3, 4) @ torch.randn(4, 4)
    found = moments(z)
    for b in range(3):
        np.testing.assert_allclose(found.mean[b], z[:, b].mean(0), atol=1e-12)
        np.testing.assert_allclose(found.covariance[b], np.cov(z[:, b].T.numpy()), atol=1e-12)


def test_weighted_moments_are_those_of_numpy() -> None:
    """NumPy's reliability weights have the denominator 1 - sum w^2; a plain weighted mean of squares has not."""
    z = torch.randn(9, 3, 4) @ torch.randn(4, 4)
    weights = torch.rand(9, 3).softmax(0)
    found = moments(z, weights)
    for b in range(3):
        w = weights[:, b].numpy()
        np.testing.assert_allclose(found.mean[b], np.average(z[:, b].numpy(), axis=0, weights=w), atol=1e-12)
        np.testing.assert_allclose(found.covariance[b], np.cov(z[:, b].T.numpy(), aweights=w), atol=1e-12)


def test_equal_weights_change_nothing() -> None:
    z = torch.randn(9, 3, 4)
    plain, weighted = moments(z), moments(z, torch.full((9, 3), 1 / 9))
    torch.testing.assert_close(plain.mean, weighted.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(plain.covariance, weighted.covariance, rtol=0, atol=1e-12)


def test_log_det_is_that_of_pytorch() -> None:
    matrices = covariances(6, 5).reshape(2, 3, 5, 5)
    torch.testing.assert_close(log_det(matrices), torch.logdet(matrices), rtol=0, atol=1e-10)


def test_log_det_refuses_what_is_not_positive_definite() -> None:
    message = sentence(
        "a covariance is not positive definite: there are too few draws for the number of dimensions, "
        "or chains have not moved. Use more draws than latent dimensions + 1."
    )
    for matrix in (-torch.eye(3), torch.zeros(2, 3, 3)):
        with pytest.raises(ValueError, match=message):
            log_det(matrix)


def entropy_gate(dim: int, draws: int, replicates: int) -> tuple[float, float, float]:
    """Exact entropy, mean estimate, and its exact standard error.

    The log-determinant of a Wishart matrix is a sum of independent log chi-squares, each of variance
    trigamma.
    """
    covariance = covariances(1, dim)[0]
    factor = torch.linalg.cholesky(covariance)
    z = torch.randn(draws, replicates, dim) @ factor.T + 3.0
    exact = MultivariateNormal(torch.zeros(dim), covariance).entropy().item()
    halves = (draws - torch.arange(1, dim + 1)).double() / 2
    se = 0.5 * math.sqrt(torch.special.polygamma(1, halves).sum().item() / replicates)
    return exact, gaussian_entropy(z).mean().item(), se


@pytest.mark.parametrize(("dim", "draws", "replicates"), [(1, 3, 40_000), (4, 6, 20_000), (8, 64, 4_000)])
def test_entropy_is_unbiased(dim: int, draws: int, replicates: int) -> None:
    """Mean over replicates against the closed form; undoing the debiasing must fail the same gate."""
    exact, mean, se = entropy_gate(dim, draws, replicates)
    assert abs(mean - exact) / se < gate(1)
    halves = (draws - torch.arange(1, dim + 1)).double() / 2
    bias = 0.5 * (torch.special.digamma(halves).sum().item() + dim * math.log(2 / (draws - 1)))
    assert bias < -9 * se


def test_entropy_with_many_draws_in_32_dimensions() -> None:
    exact, mean, se = entropy_gate(32, 64, 200)
    assert abs(mean - exact) / se < gate(1)


def test_entropy_needs_more_draws_than_dimensions() -> None:
    gaussian_entropy(torch.randn(5, 1, 3))
    message = sentence(
        "the Gaussian entropy of 3 dimensions needs more than 4 draws of each sentence; got 4. "
        "Raise num_samples."
    )
    with pytest.raises(ValueError, match=message):
        gaussian_entropy(torch.randn(4, 1, 3))


def test_entropy_differentiates_in_the_draws() -> None:
    """The gradient tunes the step size."""
    z = torch.randn(9, 2, 3, requires_grad=True)
    assert torch.autograd.gradcheck(gaussian_entropy, z)


def test_pooling_mixes_own_and_mean() -> None:
    own = covariances(3, 4)
    expected = torch.stack([0.3 * c + 0.7 * (own[0] + own[1] + own[2]) / 3 for c in own])
    torch.testing.assert_close(pooled(own, 0.3), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(pooled(own, 1.0), own, rtol=0, atol=1e-12)


def test_density_is_that_of_pytorch() -> None:
    mean, covariance = torch.randn(3, 4), covariances(3, 4)
    z = torch.randn(7, 3, 4)
    found = Gaussian.from_moments(mean, covariance).log_prob(z)
    torch.testing.assert_close(found, MultivariateNormal(mean, covariance).log_prob(z), rtol=0, atol=1e-10)


def test_samples_have_the_moments() -> None:
    """The transpose of the factor would give the right determinant and the wrong covariance."""
    mean, covariance, n = torch.randn(2, 3), covariances(2, 3), 100_000
    z = Gaussian.from_moments(mean, covariance).sample(n)
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance), (z - mean).permute(1, 2, 0), upper=False
    )
    eye = torch.eye(3)
    worst_mean = whitened.mean(-1).abs().max().item() * math.sqrt(n)
    second = whitened @ whitened.mT / n
    worst = ((second - eye).abs() / ((1 + eye) / n).sqrt()).max().item()
    assert max(worst_mean, worst) < gate(2 * (3 + 6))
    flipped = torch.linalg.cholesky(covariance).mT @ whitened  # positive control
    second = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), flipped, upper=False)
    second = second @ second.mT / n
    assert ((second - eye).abs() / ((1 + eye) / n).sqrt()).max() > 9


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_deficient_covariance_still_gives_a_proposal(rank: int) -> None:
    """Chains that stand still must not stop an evaluation; the ridge may not disturb what was there."""
    factor = torch.randn(1, 4, rank)
    covariance = factor @ factor.mT
    found = Gaussian.from_moments(torch.zeros(1, 4), covariance)
    torch.testing.assert_close(found.factor @ found.factor.mT, covariance, rtol=1e-3, atol=1e-3)
    assert found.log_prob(found.sample(5)).isfinite().all()


def test_one_bad_covariance_leaves_the_others_exact() -> None:
    covariance = covariances(3, 4)
    covariance[1] = torch.ones(4, 4)
    found = Gaussian.from_moments(torch.zeros(3, 4), covariance)
    for b in (0, 2):
        torch.testing.assert_close(found.factor[b], torch.linalg.cholesky(covariance[b]), rtol=0, atol=1e-12)
