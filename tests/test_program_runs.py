"""What runs on the target of a foreign program: exact laws of draws and chains, and the modes they run in."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.util import is_validation_enabled
from torch import Tensor, nn

from sri_pyro.inference.short_run import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews, UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.program import target_from_program
from sri_pyro.target import Target
from tests.oracles import gate
from tests.programs import MOVING, WEIGHT, hospital, linear_gaussian, survey

pytestmark = pytest.mark.usefixtures("float64", "empty_store")


def test_prior_draws_have_the_priors_law() -> None:
    """Means of 40,000 draws, within 6.2 standard errors: over 8 numbers a false alarm in 1e8.

    Catches draws left on the constrained scale, shared over S or over rows, and sites in a wrong order.
    """
    n = 40_000
    target = target_from_program(survey, (torch.randn(2, 3),))
    draws = target.constrain(target.sample_prior(n // 2))
    checks = {
        "trait": (torch.zeros(2), torch.ones(2)),
        "speed": (torch.tensor(2 / 3), torch.tensor(2 / 9)),
        "mix": (torch.tensor([1.0, 2.0, 3.0]) / 6, torch.tensor([5.0, 8.0, 9.0]) / 252),
        "bias": (torch.full((2,), 2 / 7), torch.full((2,), 10 / 392)),
    }
    for name, (mean, variance) in checks.items():
        error = (draws[name].flatten(0, 1).mean(0) - mean) / (variance / n).sqrt()
        assert (error.abs() < gate(8)).all(), name


def test_prior_draws_follow_the_nesting() -> None:
    counts = torch.zeros(2, 3)
    draws = target_from_program(hospital, (counts,), plate="rows")
    z = draws.sample_prior(500)
    assert z.shape == (500, 2, 4)
    placed = draws.constrain(z)
    assert (placed["rate"] <= placed["top"]).all()
    assert len(placed["top"].unique()) == 1000


@pytest.mark.parametrize("integrator", [UnadjustedLangevin(), LeimkuhlerMatthews()])
def test_a_short_run_on_a_conjugate_program_has_its_exact_law(
    integrator: UnadjustedLangevin | LeimkuhlerMatthews,
) -> None:
    """Every step is affine, so the law of z_K is Gaussian with moments from a recursion of matrices.

    The state is (z, memory); the gate is over 12 numbers, a false alarm in 1e8.
    After 3 steps at s = 0.1 the run is far from the posterior, which a looser test would confuse it with.
    """
    steps, s, n = 3, 0.1, 60_000
    x = torch.tensor([[1.0, -0.5, 2.0], [0.0, 0.3, -1.0]])
    target = Target.from_program(linear_gaussian, (x,))
    run = ShortRunLangevin(steps, integrator, ConstantSteps(s))
    z = run(target, n).z
    precision = torch.eye(2) + WEIGHT @ WEIGHT.T / 0.7**2
    drift = torch.eye(2) - s * precision
    pull = s * x @ WEIGHT.T / 0.7**2
    zero, one = torch.zeros(2, 2), torch.eye(2)
    if isinstance(integrator, UnadjustedLangevin):
        move, noise, memory = torch.cat([drift, zero], 1), (2 * s) ** 0.5, zero
    else:
        move, noise, memory = torch.cat([drift, one], 1), (s / 2) ** 0.5, s / 2 * one
    move = torch.cat([move, torch.zeros(2, 4)], 0)
    both = torch.cat([one, one * isinstance(integrator, LeimkuhlerMatthews)], 0) * noise
    mean, cov = torch.zeros(2, 2), torch.block_diag(one, memory)
    for _ in range(steps):
        mean = mean @ drift.T + pull
        cov = move @ cov @ move.T + both @ both.T
    expected = cov[:2, :2]
    for row in range(2):
        got = z[:, row]
        assert ((got.mean(0) - mean[row]).abs() < gate(12) * (expected.diagonal() / n).sqrt()).all()
        bound = gate(12) * ((expected.square() + torch.outer(*[expected.diagonal()] * 2)) / n).sqrt()
        assert ((got.T.cov() - expected).abs() < bound).all()
    posterior = torch.linalg.inv(precision)
    assert ((posterior - expected).abs() > 2 * bound).any(), (
        "the oracle must tell a short run from the posterior"
    )


def test_a_module_is_in_eval_mode_for_chains_and_in_its_own_mode_for_training() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)

    net = Net()
    target = target_from_program(net, (torch.randn(4, 3),))
    z = target.sample_prior(3)
    torch.testing.assert_close(target.conditioned.value(z), target.conditioned.value(z))
    assert not torch.equal(target.log_likelihood(z), target.log_likelihood(z))
    target.log_joint(z).sum().backward()
    assert net.layer[0].weight.grad is not None
    before = net.layer[0].weight.grad.clone()
    target.value_and_grad(z)
    assert torch.equal(net.layer[0].weight.grad, before)
    with pytest.raises(ValueError, match=re.escape(MOVING)):
        target_from_program(lambda x: net(x), (torch.randn(4, 3),))


def test_dropout_on_the_way_from_one_latent_to_another_moves_no_chain() -> None:
    """It stands in the prior, which inference must see in eval mode as well as the likelihood."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0))
                b = pyro.sample("b", dist.Normal(self.layer(a[..., None])[..., 0], 1.0))
                pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    net = Net().eval()
    target = target_from_program(net, (torch.randn(4),))
    z = target.sample_prior(3)
    calm = target.value_and_grad(z)
    torch.manual_seed(1)
    drawn = target.sample_prior(3)
    net.train()
    assert any(not torch.equal(target.log_prior(z), target.log_prior(z)) for _ in range(8))
    for _ in range(8):
        for ours, theirs in zip(target.value_and_grad(z), calm, strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(target.value(z)[0], calm.log_prior)
        torch.manual_seed(1)
        assert torch.equal(target.sample_prior(3), drawn)


def test_validation_is_off_while_chains_run_and_as_it_was_afterwards() -> None:
    seen = []

    def program(x: Tensor) -> None:
        survey(x)
        seen.append(is_validation_enabled())

    target = target_from_program(program, (torch.randn(2, 3),))
    assert seen[0] is True
    seen.clear()
    for outside in (True, False):
        with pyro.validation_enabled(outside):
            target.log_likelihood(torch.zeros(1, 2, 7))
            assert is_validation_enabled() is outside
    assert seen == [False, False]
