"""Laws that every prior obeys: a newcomer is tested by existing, and a failure names it."""

import pytest
import torch

from sri_pyro.models import PRIORS
from tests.contracts.tables import small
from tests.oracles import gate, randomise

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
    z, n = prior().sample((50_000,)).detach()[:, 0], 50_000
    worst = 0.0
    for function in (torch.tanh, torch.sin, lambda z: (z > 0.7).double()):
        values = function(grid[:, 0])
        mean = (mass * values).sum()
        spread = ((mass * values.square()).sum() - mean**2).sqrt()
        worst = max(worst, ((function(z).mean() - mean).abs() / spread * n**0.5).item())
    assert worst < gate(3)


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
def test_prior_follows_its_module(name: str) -> None:
    """A constant that is no buffer would stay behind in another precision or on another device."""
    prior = small(PRIORS[name]).float()
    assert prior().sample().dtype == torch.float32
    copy = small(PRIORS[name]).float()
    copy.load_state_dict(prior.state_dict())
    z = torch.randn(4, 3, dtype=torch.float32)
    assert torch.equal(copy().log_prob(z), prior().log_prob(z))
