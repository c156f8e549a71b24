"""Priors against densities written by hand and against their own samples."""

import math

import pytest
import torch
from pyro.distributions import Categorical, Distribution, MixtureSameFamily, Normal
from torch import Tensor

from sri_pyro.models import GaussianMixture, StandardNormal
from tests.oracles import LOG_2PI, gate, sentence

pytestmark = pytest.mark.usefixtures("float64")


def a_mixture(dim: int) -> GaussianMixture:
    """Three components that differ in weight, place and width."""
    prior = GaussianMixture(dim=dim, components=3)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, -0.5]))
        prior.means.copy_(2 * torch.randn(3, dim))
        prior.log_scales.copy_(0.5 * torch.randn(3, dim))
    return prior


def mixture_density(prior: GaussianMixture, z: Tensor) -> Tensor:
    total = torch.zeros(z.shape[:-1])
    weights = prior.logits.exp() / prior.logits.exp().sum()
    for weight, mean, log_scale in zip(weights, prior.means, prior.log_scales, strict=True):
        ratio = ((z - mean) / log_scale.exp()).square()
        total = total + weight * (-0.5 * (ratio + LOG_2PI) - log_scale).sum(-1).exp()
    return total.log()


def test_standard_normal_density() -> None:
    z = torch.randn(5, 4, 3)
    expected = -0.5 * z.square().sum(-1) - 1.5 * LOG_2PI
    torch.testing.assert_close(StandardNormal(3)().log_prob(z), expected, rtol=0, atol=1e-12)


class Shifted(StandardNormal):
    """What a user may write: another distribution, and nothing else."""

    def forward(self) -> Distribution:
        return Normal(torch.full((self.dim,), 2.0), 1.0).to_event(1)


def test_a_prior_made_from_the_standard_normal_has_the_gradient_of_its_own_distribution() -> None:
    """A chain would sample another posterior than the one that is scored, without a word."""
    prior, z = Shifted(3), torch.randn(5, 4, 3)
    value, gradient = prior.log_prob_and_grad(z)
    torch.testing.assert_close(value, prior().log_prob(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, 2 - z, rtol=0, atol=1e-12)


def test_standard_normal_without_dimensions_is_certain() -> None:
    law = StandardNormal(0)()
    assert law.event_shape == (0,)
    assert law.sample((5,)).shape == (5, 0)
    assert torch.equal(law.log_prob(torch.zeros(5, 0)), torch.zeros(5))
    value, gradient = StandardNormal(0).log_prob_and_grad(torch.zeros(5, 0))
    assert torch.equal(value, torch.zeros(5))
    assert gradient.shape == (5, 0)


def test_mixture_density() -> None:
    prior, z = a_mixture(3), 2 * torch.randn(5, 4, 3)
    torch.testing.assert_close(prior().log_prob(z), mixture_density(prior, z), rtol=0, atol=1e-12)


def test_mixture_samples_follow_its_density() -> None:
    """Mean and second moment over 200,000 draws against the mixture's closed forms."""
    prior, n = a_mixture(2), 200_000
    z = prior().sample((n,)).detach()
    weights = prior.logits.softmax(0)[:, None]
    mean = (weights * prior.means).sum(0)
    second = (weights * (prior.means.square() + (2 * prior.log_scales).exp())).sum(0)
    worst = 0.0
    for found, expected in ((z, mean), (z.square(), second)):
        off = (found.mean(0) - expected).abs() / (found.std(0) / math.sqrt(n))
        worst = max(worst, off.max().item())
    assert worst < gate(4)


def test_mixture_starts_with_components_apart_and_equal() -> None:
    prior = GaussianMixture(dim=8, components=50, spread=0.7)
    assert torch.equal(prior.logits, torch.zeros(50))
    assert torch.equal(prior.log_scales, torch.zeros(50, 8))
    assert prior.means.std().item() == pytest.approx(0.7, abs=0.7 * gate(1) / math.sqrt(800))


def test_every_weight_of_the_mixture_learns() -> None:
    prior = a_mixture(2)
    prior().log_prob(torch.randn(6, 2)).sum().backward()
    assert all(parameter.grad.abs().min() > 0 for parameter in prior.parameters())


def test_standard_normal_has_nothing_to_learn() -> None:
    assert list(StandardNormal(4).parameters()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StandardNormal(-1), "dim must be at least 0; got -1."),
        (lambda: GaussianMixture(0), "dim must be at least 1; got 0."),
        (lambda: GaussianMixture(2, components=0), "components must be at least 1; got 0."),
    ],
)
def test_sizes_out_of_range_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=sentence(message)):
        make()


def test_a_spread_is_not_negative() -> None:
    with pytest.raises(ValueError, match="spread"):
        GaussianMixture(2, spread=-1.0)


def test_a_prior_made_from_the_standard_normal_draws_from_its_own_distribution() -> None:
    """Keyed draws of N(2, I), 3,000 of them: one of N(0, I) would be 100 standard errors off; gate at 6."""
    drawn = Shifted(3).draw(torch.arange(1000))
    assert abs(drawn.mean().item() - 2) < 6 / 3000**0.5


class Mirrored(GaussianMixture):
    """The mixture, seen from minus z."""

    def forward(self) -> Distribution:
        components = Normal(-self.means, self.log_scales.exp()).to_event(1)
        return MixtureSameFamily(Categorical(logits=self.logits), components)


def test_a_prior_made_from_the_mixture_draws_from_its_own_distribution() -> None:
    """Both means at 2, so N(-2, I): the parent's draws would be 200 standard errors off; gate at 6."""
    prior = Mirrored(3, 2)
    torch.nn.init.constant_(prior.means, 2.0)
    drawn = prior.draw(torch.arange(1000))
    assert abs(drawn.mean().item() + 2) < 6 / 3000**0.5
