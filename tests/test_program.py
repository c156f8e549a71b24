"""Targets of programs that are not ours: hand-written densities, single rows, autograd."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from sri_pyro.program import target_from_program
from sri_pyro.target import Target
from tests.programs import WEIGHT, hospital, survey

pytestmark = pytest.mark.usefixtures("float64", "empty_store")


def survey_by_hand(u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same log prior and log likelihood written out: u is [..., 2 + 1 + 2 + 2] and unconstrained.

    Jacobians: exp for speed; sigmoid for bias; for the simplex PyTorch's stick-breaking, whose determinant
    comes here from the matrix of partial derivatives, not from its own formula.
    """
    trait, log_speed, stick, logit = u.split([2, 1, 2, 2], dim=-1)
    normal = -0.5 * trait.square().sum(-1) - torch.log(torch.tensor(2 * torch.pi))
    speed = log_speed.exp().squeeze(-1)
    gamma = 2 * torch.log(torch.tensor(3.0)) + speed.log() - 3 * speed + log_speed.squeeze(-1)
    simplex = biject_to(constraints.simplex)
    mix = simplex(stick)
    flat = stick.reshape(-1, 2)
    free = torch.stack([torch.autograd.functional.jacobian(lambda s: simplex(s)[:2], row) for row in flat])
    log_det = torch.linalg.slogdet(free).logabsdet.reshape(stick.shape[:-1])
    constant = torch.lgamma(torch.tensor(6.0)) - torch.lgamma(torch.tensor([1.0, 2.0, 3.0])).sum()
    dirichlet = constant + mix[..., 1].log() + 2 * mix[..., 2].log() + log_det
    bias = logit.sigmoid()
    beta = (torch.log(torch.tensor(30.0)) + 2 * bias.log() + 5 * (1 - bias).log()).sum(-1)
    loc = trait @ WEIGHT + mix * bias.sum(-1, keepdim=True)
    scale = 0.2 + speed.unsqueeze(-1)
    z = (x - loc) / scale
    likelihood = (-0.5 * z.square() - scale.log() - 0.5 * torch.log(torch.tensor(2 * torch.pi))).sum(-1)
    return normal + gamma + dirichlet + beta, likelihood


def test_equals_the_hand_written_densities_with_their_jacobians() -> None:
    """Catches a dropped or doubled log-determinant, sites in a wrong order, and axes swapped in z."""
    x = torch.randn(4, 3)
    target = Target.from_program(survey, (x,))
    assert (target.batch_size, target.dim) == (4, 7)
    z = torch.randn(5, 4, 7)
    log_prior, log_likelihood = survey_by_hand(z, x)
    torch.testing.assert_close(target.log_prior(z), log_prior)
    torch.testing.assert_close(target.log_likelihood(z), log_likelihood)


def test_nested_plates_equal_the_hand_written_densities() -> None:
    """Catches a sum over the wrong plate, and a support read once although it depends on a latent."""
    counts, ages = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0]]), torch.tensor([0.5, 1.5])
    target = Target.from_program(hospital, (counts,), {"ages": ages}, plate="rows")
    z = torch.randn(6, 2, 4)
    log_top, logits = z[..., :1], z[..., 1:]
    top = log_top.exp()
    rate = top * logits.sigmoid()
    prior = dist.Normal(0.0, 0.5).log_prob(log_top).squeeze(-1)
    prior = prior + (nn.functional.logsigmoid(logits) + nn.functional.logsigmoid(-logits)).sum(-1)
    likelihood = dist.Poisson(rate + 0.1).log_prob(counts).sum(-1) + dist.Normal(top[..., 0], 1.0).log_prob(
        ages
    )
    torch.testing.assert_close(target.log_prior(z), prior)
    torch.testing.assert_close(target.log_likelihood(z), likelihood)
    placed = target.constrain(z)
    torch.testing.assert_close(placed["top"], top.unsqueeze(-2)[..., 0])
    torch.testing.assert_close(placed["rate"], rate)


def test_rows_equal_targets_of_single_rows() -> None:
    """Catches rows that see one another, and a plate's scale left in."""
    x = torch.randn(3, 3)
    z = torch.randn(2, 3, 7)
    together = target_from_program(survey, (x,)).log_joint(z)
    apart = [target_from_program(survey, (x[b : b + 1],)).log_joint(z[:, b : b + 1]) for b in range(3)]
    torch.testing.assert_close(together, torch.cat(apart, dim=1))


def test_equals_pyros_own_trace_at_the_constrained_values() -> None:
    """Oracle: Pyro's log_prob_sum of the conditioned program, plus the volume change."""
    x = torch.randn(4, 3)
    target = target_from_program(survey, (x,))
    z = torch.randn(1, 4, 7)
    values = {name: value[0] for name, value in target.constrain(z).items()}
    trace = poutine.trace(poutine.condition(survey, values)).get_trace(x)
    volume = sum(placed.log_abs_det.sum() for placed in target.place(z).values())
    torch.testing.assert_close(target.log_joint(z).sum(), trace.log_prob_sum() + volume)


def test_gradient_equals_autograd_and_finite_differences() -> None:
    target = target_from_program(survey, (torch.randn(2, 3),))
    z = torch.randn(3, 2, 7, requires_grad=True)
    (expected,) = torch.autograd.grad(target.log_joint(z).sum(), z)
    torch.testing.assert_close(target.value_and_grad(z).grad, expected)
    assert torch.autograd.gradcheck(lambda u: target.log_joint(u), (z,))


def test_a_scale_changes_nothing_and_a_mask_does() -> None:
    """A scale weighs a training loss; a mask says which data are missing. Inside and around the program."""
    x = torch.randn(4, 3)
    present = torch.tensor([True, False, True, False])

    def scaled(x: Tensor) -> None:
        with poutine.scale(scale=7.0):
            survey(x)

    def masked(x: Tensor) -> None:
        with pyro.plate("people", len(x), dim=-1):
            trait = pyro.sample("trait", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=present):
                pyro.sample("x", dist.Normal(trait @ WEIGHT, 1.0).to_event(1), obs=x)

    z = torch.randn(2, 4, 7)
    plain = target_from_program(survey, (x,))
    with poutine.scale(scale=3.0), poutine.mask(mask=False):
        inside = target_from_program(scaled, (x,)).log_joint(z)
    torch.testing.assert_close(inside, plain.log_joint(z))
    likelihood = target_from_program(masked, (x,)).log_likelihood(z[..., :2])
    assert (likelihood[:, ~present] == 0).all()
    assert (likelihood[:, present] != 0).all()


def test_nothing_leaks_to_an_outer_trace() -> None:
    with poutine.trace() as outer:
        target = target_from_program(survey, (torch.randn(2, 3),))
        target.log_joint(target.sample_prior(3))
        target.constrain(torch.zeros(1, 2, 7))
    assert not outer.trace.nodes
