"""Laws that every prior obeys: a newcomer is tested by existing, and a failure names it."""

import pyro.distributions as dist
import pytest
import torch

from sri_pyro.models import PRIORS
from sri_pyro.models.priors import Prior
from sri_pyro.numerics.keyed import chains
from tests.contracts.tables import small
from tests.oracles import gate, randomise


class Shifted(Prior):
    """A prior from outside, which says nothing of keys."""

    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.full((3,), 2.0))

    def forward(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, torch.ones(3)).to_event(1)


pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("name", PRIORS)
def test_prior_has_one_value_per_draw(name: str) -> None:
    prior = small(PRIORS[name])
    law = prior()
    assert prior.dim == 3
    assert law.batch_shape == ()
    assert law.event_shape == (3,)
    z = law.sample((4, 5))
    assert z.shape == (4, 5, 3)
    assert law.log_prob(z).shape == (4, 5)


@pytest.mark.parametrize("name", PRIORS)
def test_prior_integrates_to_one_and_samples_what_it_scores(name: str) -> None:
    """On a grid in one dimension; then sample averages of bounded functions against grid averages."""
    prior = small(PRIORS[name], dim=1)
    grid = torch.linspace(-30, 30, 6001)[:, None]
    mass = prior().log_prob(grid).detach().exp() * 0.01
    assert mass.sum().item() == pytest.approx(1.0, abs=1e-8)
    n = 50_000
    keyed = prior.draw(chains(4, torch.arange(500), n // 500)).reshape(n)
    worst = 0.0
    for z in (prior().sample((n,)).detach()[:, 0], keyed):
        for function in (torch.tanh, torch.sin, lambda z: (z > 0.7).double()):
            values = function(grid[:, 0])
            mean = (mass * values).sum()
            spread = ((mass * values.square()).sum() - mean**2).sqrt()
            worst = max(worst, ((function(z).mean() - mean).abs() / spread * n**0.5).item())
    assert worst < gate(6)


@pytest.mark.parametrize("name", [*PRIORS, "from outside"])
def test_keyed_draws_are_functions_of_the_key(name: str) -> None:
    """To the bit, whatever other keys there are; they carry no graph, and the generator stands where it stood."""
    prior = Shifted() if name == "from outside" else small(PRIORS[name])
    randomise(prior)
    keys, state = chains(4, torch.arange(5), 3), torch.get_rng_state()
    z = prior.draw(keys)
    assert z.shape == (3, 5, 3)
    assert not z.requires_grad
    assert torch.equal(prior.draw(keys[1:, [4, 0]]), z[1:, [4, 0]])
    assert len(z.reshape(-1, 3).unique(dim=0)) == 15
    assert torch.equal(torch.get_rng_state(), state)


def test_a_prior_that_is_never_told_of_keys_draws_from_its_law() -> None:
    """Oracle: mean 2 and variance 1. By the generator, seeded anew for each key: no two draws may be related."""
    z = Shifted().draw(chains(4, torch.arange(50), 20)) - 2
    n = z.numel()
    assert z.mean().abs() < gate(4) / n**0.5
    assert (z.square().mean() - 1).abs() < gate(4) * (2 / n) ** 0.5
    assert (z[1:] * z[:-1]).mean().abs() < gate(4) / (n - 150) ** 0.5
    assert (z[..., 1:] * z[..., :-1]).mean().abs() < gate(4) / (n * 2 / 3) ** 0.5


@pytest.mark.parametrize("name", PRIORS)
def test_prior_is_smooth_in_z_and_built_afresh(name: str) -> None:
    prior = small(PRIORS[name])
    z = torch.randn(4, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: prior().log_prob(z), z)
    assert prior() is not prior()
    before = prior().log_prob(z)
    randomise(prior)
    moved = not torch.equal(prior().log_prob(z), before)
    assert moved == bool(list(prior.parameters()))


@pytest.mark.parametrize("name", PRIORS)
def test_prior_gradient_for_inference_is_autograd(name: str) -> None:
    """Its own formula, where it has one, says what its distribution says; no graph, no weight's gradient."""
    prior = small(PRIORS[name])
    randomise(prior)
    for z in (
        torch.randn(4, 5, 3),
        30 * torch.randn(3).expand(2, 3),
        torch.randn(5, 3, 4).mT,
        torch.randn(3),
    ):
        leaf = z.clone().requires_grad_()
        expected = prior().log_prob(leaf)
        (gradient,) = torch.autograd.grad(expected.sum(), leaf)
        for mode in (torch.enable_grad, torch.no_grad):
            with mode():
                found = prior.log_prob_and_grad(leaf)
            torch.testing.assert_close(found[0], expected.detach(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(found[1], gradient, rtol=1e-12, atol=1e-12)
            assert not any(part.requires_grad for part in found)
    assert all(weight.grad is None and weight.requires_grad for weight in prior.parameters())


@pytest.mark.parametrize("name", PRIORS)
def test_prior_follows_its_module(name: str) -> None:
    """A constant that is no buffer would stay behind in another precision or on another device."""
    prior = small(PRIORS[name]).float()
    assert prior().sample().dtype == torch.float32
    copy = small(PRIORS[name]).float()
    copy.load_state_dict(prior.state_dict())
    z = torch.randn(4, 3, dtype=torch.float32)
    assert torch.equal(copy().log_prob(z), prior().log_prob(z))
