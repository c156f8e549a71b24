"""The defensive Gaussian against PyTorch's mixture, quadrature and counting.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from sri_pyro.numerics.gaussians import Gaussian
from sri_pyro.numerics.proposals import DefensiveGaussian
from sri_pyro.target import Target
from tests.oracles import EnumerableText, gate, quadrature

pytestmark = pytest.mark.usefixtures("float64")
MEAN = torch.tensor([[1.0, -0.5], [-2.0, 0.3]], dtype=torch.float64)
COVARIANCE = torch.tensor([[[0.5, 0.2], [0.2, 0.4]], [[0.1, 0.0], [0.0, 1.5]]], dtype=torch.float64)


def proposal(mean=MEAN, covariance=COVARIANCE, share: float = 0.05) -> DefensiveGaussian:
    prior = MultivariateNormal(torch.zeros_like(mean), torch.eye(mean.shape[-1]).expand_as(covariance))
    return DefensiveGaussian(
        gaussian=Gaussian.from_moments(mean, covariance),
        log_prior=prior.log_prob,
        sample_prior=lambda num: prior.sample((num,)),
        prior_share=share,
    )


def mixture(share: float) -> MixtureSameFamily:
    means = torch.stack([MEAN, torch.zeros_like(MEAN)], 1)
    covariances = torch.stack([COVARIANCE, torch.eye(2).expand_as(COVARIANCE)], 1)
    shares = torch.tensor([1 - share, share]).expand(2, 2)
    return MixtureSameFamily(Categorical(shares), MultivariateNormal(means, covariances))


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_density_is_the_mixtures(share: float) -> None:
    """Oracle: PyTorch's mixture. Catches the component's own density (no balance) and swapped shares."""
    z = 3 * torch.randn(50, 2, 2)
    found, exact = proposal(share=share).log_prob(z), mixture(share).log_prob(z)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-9)
    component = MultivariateNormal(MEAN, COVARIANCE).log_prob(z)
    assert (found - component).abs().max() > 1  # positive control


def test_density_survives_where_the_gaussian_has_none() -> None:
    """100 deviations out exp underflows: the prior's share alone is left, and no -inf or NaN."""
    z = torch.full((1, 2, 2), 30.0)
    far = proposal(covariance=0.01 * torch.eye(2).expand(2, 2, 2)).log_prob(z)
    exact = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1) + math.log(0.05)
    torch.testing.assert_close(far, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_draws_have_the_shares_and_moments_of_the_mixture(share: float) -> None:
    """Two far components tell every draw's origin: a binomial count per sentence, then moments of each."""
    n = 40_000
    mean = torch.full((3, 2), 60.0)
    z = proposal(mean, (0.25 * torch.eye(2)).expand(3, 2, 2), share).sample(n)
    assert z.shape == (n, 3, 2)
    from_prior = (z < 30).all(-1)
    assert torch.equal(from_prior, (z < 30).any(-1))
    counts = from_prior.sum(0)
    assert ((counts - n * share).abs() < gate(3) * math.sqrt(n * share * (1 - share))).all()
    for b in range(3):
        for rows, centre, variance in ((from_prior[:, b], 0.0, 1.0), (~from_prior[:, b], 60.0, 0.25)):
            part = (z[rows, b] - centre) / math.sqrt(variance)
            assert (part.mean(0).abs() < gate(24) / math.sqrt(len(part))).all()
            assert ((part.square().mean(0) - 1).abs() < gate(24) * math.sqrt(2 / len(part))).all()


def test_sentences_choose_their_components_independently() -> None:
    """One coin for a whole row of the batch would have the right shares and correlated sentences."""
    n, share = 40_000, 0.3
    z = proposal(torch.full((2, 2), 60.0), torch.eye(2).expand(2, 2, 2), share).sample(n)
    coin = (z[..., 0] < 30).double() - share
    for covariance in ((coin[:, 0] * coin[:, 1]).mean(), (coin[1:, 0] * coin[:-1, 0]).mean()):
        assert covariance.abs() < gate(2) * share * (1 - share) / math.sqrt(n)


def text() -> tuple[Target, EnumerableText]:
    oracle = EnumerableText.build("gru", latent_dim=1)
    return oracle.target(), oracle


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("where", [0.0, 5.0])
def test_weights_are_bounded_and_integrate_to_the_evidence(share: float, where: float) -> None:
    """W <= p(x | z) / share <= 1 / share, and E w = p(x), however wrong the Gaussian is.

    Oracle: quadrature. The expectation is a sum over a grid, so the comparison is deterministic.
    """
    target, oracle = text()
    count = len(oracle.rows)
    law = DefensiveGaussian(
        Gaussian.from_moments(torch.full((count, 1), where), torch.full((count, 1, 1), 0.04)),
        target.log_prior,
        target.sample_prior,
        share,
    )
    exact = quadrature(target)
    axis = torch.linspace(-9.0, 9.0, 1201)
    z = axis[:, None, None].expand(-1, count, 1)
    log_prior, log_likelihood = target.value(z)
    log_proposal = law.log_prob(z)
    log_weight = log_prior + log_likelihood - log_proposal
    assert (log_weight <= log_likelihood - math.log(share) + 1e-9).all()
    spacing = (axis[1] - axis[0]).item()
    torch.testing.assert_close(log_proposal.exp().sum(0) * spacing, torch.ones(count), rtol=0, atol=1e-8)
    mean_weight = ((log_weight + log_proposal).exp().sum(0) * spacing).log()
    torch.testing.assert_close(mean_weight, exact.log_evidence, rtol=0, atol=1e-6)
