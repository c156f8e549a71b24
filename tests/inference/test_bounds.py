"""Variational bounds on a linear-Gaussian model, where they, log p(x) and the posterior are known in closed form."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from sri_pyro.inference import Amortized, EvidenceLowerBound, ImportanceWeightedBound
from sri_pyro.inference.bounds import NEEDS_PARTS, kl_by_dimension
from sri_pyro.models import GaussianMixture
from sri_pyro.numerics.kl_weights import ConstantWeight, LinearWeight
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress
from tests.inference.encoding import BATCH, DIM, START, Observed, Table, encoder, text
from tests.oracles import gate, sentence

pytestmark = pytest.mark.usefixtures("float64")
MEAN = torch.tensor([[0.4, -0.7, 0.1], [-0.2, 0.9, 1.1]], dtype=torch.float64)
LOG_VARIANCE = torch.tensor([[-0.5, 0.3, -1.2], [0.1, -0.8, -0.4]], dtype=torch.float64)


def observed() -> Observed:
    weight = torch.tensor([[1.0, 0.3, -0.2], [0.4, -0.8, 0.5], [0.0, 0.6, 1.2], [-0.5, 0.2, 0.4]])
    return Observed(weight, torch.tensor([[1.5, -0.4, 0.8, -1.0], [0.2, 0.3, -2.0, 0.6]]))


def parts_in_closed_form(model: Observed) -> tuple[Tensor, Tensor]:
    """Mean of -log p(x | z) under q, and KL by dimension, both by hand; [B] and [B, D]."""
    variance = LOG_VARIANCE.exp()
    residual = model.x - MEAN @ model.weight.T
    spread = (model.weight.square() @ variance.T).sum(0)
    reconstruction = 0.5 * (residual.square().sum(-1) + spread + 4 * math.log(2 * math.pi))
    return reconstruction.detach(), 0.5 * (MEAN.square() + variance - 1 - LOG_VARIANCE)


def target_of(model: Observed, closed: bool = True) -> Target:
    return model.target(key=1) if closed else replace(model.target(key=1), prior=None)


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_elbo_has_its_closed_form_in_the_mean(closed: bool, weight: float) -> None:
    """The KL exact or from draws, 20,000 of them; at 5.7 standard errors, over six cases a false alarm in 1e8.

    Catches a sum over draws or sentences for a mean, a KL with its sign or arguments turned, and a weight on the
    wrong term.
    """
    model = observed()
    draws = Amortized(Table(MEAN, LOG_VARIANCE))(model.target(key=1), 20_000)
    objective = EvidenceLowerBound(ConstantWeight(weight))
    found = float(objective(target_of(model, closed), draws, START).detach())
    reconstruction, kl = parts_in_closed_form(model)
    exact = float((reconstruction + weight * kl.sum(-1)).mean())
    with torch.no_grad():
        single = -model.log_likelihood(draws.z)
        if not closed:
            single = single + weight * (draws.log_q - model.target().log_prior(draws.z))
    error = float(single.mean(1).std()) / math.sqrt(20_000)
    assert abs(found - exact) < gate(6) * error
    assert error < 0.03


@pytest.mark.parametrize("per", ["dimension", "sentence", "batch"])
@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0, 9.0])
def test_free_bits_and_weight_act_on_the_kl_alone(per, rate: float) -> None:
    """Loss less reconstruction, with the very draws: the weight times the hinge of the KL by hand."""
    model, weight = observed(), LinearWeight(0.2, 1.0, 4)
    target = target_of(model)
    draws = Amortized(Table(MEAN, LOG_VARIANCE))(target, 3)
    reconstruction = -target.log_likelihood(draws.z).mean()
    now = Progress(9, 1.0)
    cost = (EvidenceLowerBound(weight, rate, per)(target, draws, now) - reconstruction) / 0.4
    _, kl = parts_in_closed_form(model)
    hinged = {
        "dimension": kl.clamp_min(rate / 3).sum(-1).mean(),
        "sentence": kl.sum(-1).clamp_min(rate).mean(),
        "batch": kl.sum(-1).mean().clamp_min(rate),
    }
    assert float(cost.detach()) == pytest.approx(float(hinged[per] if rate else kl.sum(-1).mean()))


def test_a_weight_of_zero_is_an_autoencoder_whose_code_is_drawn() -> None:
    """The prior is nothing to it: no gradient reaches a prior that learns, and none pulls the code to the origin."""
    model, network = text(prior=GaussianMixture(DIM, components=2)), encoder()
    target = model.target(BATCH.keyed(2))
    draws = Amortized(network)(target, 2)
    loss = EvidenceLowerBound(ConstantWeight(0.0))(target, draws, START)
    plain = -target.log_likelihood(draws.z).mean()
    assert float(loss.detach()) == pytest.approx(float(plain.detach()))
    of_prior = torch.autograd.grad(
        loss, list(model.prior.parameters()), retain_graph=True, materialize_grads=True
    )
    assert not any(gradient.any() for gradient in of_prior)
    weights = list(network.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(loss, weights, retain_graph=True), torch.autograd.grad(plain, weights)
    )


def test_the_gradient_of_the_closed_kl_has_no_noise() -> None:
    """Of what the encoder gives: that of the closed form, added to that of the reconstruction at the draws."""
    model, table = observed(), Table(MEAN, LOG_VARIANCE)
    target = target_of(model)
    draws = Amortized(table)(target, 2)
    of_reconstruction = torch.autograd.grad(
        -target.log_likelihood(draws.z).mean(), table.moments, retain_graph=True
    )[0]
    (found,) = torch.autograd.grad(EvidenceLowerBound()(target, draws, START), table.moments)
    by_hand = torch.stack([MEAN, 0.5 * (LOG_VARIANCE.exp() - 1)]) / 2  # a mean over two sentences
    torch.testing.assert_close(found - of_reconstruction, by_hand)


def orthogonal() -> tuple[Observed, Table]:
    """A model whose posterior has independent coordinates, and an encoder that knows it."""
    weight = torch.tensor([[1.0, 0, 0], [0, -0.8, 0], [0, 0, 1.3], [0, 0, 0]])
    model = Observed(weight, observed().x)
    mean, precision = model.posterior()
    log_variance = -precision.diagonal().log().expand(2, -1)
    return model, Table(mean.detach(), log_variance.detach())


@pytest.mark.parametrize("num", [1, 7])
def test_at_the_posterior_every_weight_is_the_evidence(num: int) -> None:
    """Both bounds touch log p(x) without any noise: the weighted one, and ``elbo`` with the KL of the draws.

    Catches a log-mean without the number of draws, and a prior left out of the joint.
    """
    model, table = orthogonal()
    target = target_of(model, closed=False)
    draws, evidence = Amortized(table)(target, num), model.log_evidence().mean()
    torch.testing.assert_close(ImportanceWeightedBound()(target, draws, START), -evidence)
    torch.testing.assert_close(EvidenceLowerBound()(target, draws, START), -evidence)


def test_the_weighted_bound_rises_with_the_draws_to_the_evidence() -> None:
    """The same draws in groups, each made of smaller ones: the mean of their bounds rises for certain (Jensen).

    With all 16,384 it is the evidence to 0.02 nats, for q is wider than the posterior; with one it is ``elbo``.
    """
    model = observed()
    target = target_of(model, closed=False)
    with torch.no_grad():
        mean, precision = model.posterior()
        wide = (1.5 * torch.linalg.inv(precision).diagonal()).log().expand(2, -1)
        draws = Amortized(Table(mean + 0.2, wide))(target, 2**14)
        assert draws.log_q is not None
        evidence = float(model.log_evidence().mean())
        nested = []
        log_weight = target.log_joint(draws.z) - draws.log_q
        for size in (1, 2, 8, 64, 2**14):
            parts = log_weight.reshape(-1, size, 2)
            nested.append(float((parts.logsumexp(1) - math.log(size)).mean()))
        assert nested == sorted(nested)
        assert nested[0] < nested[-1] - 0.1
        assert nested[-1] == pytest.approx(evidence, abs=0.02)
        assert -float(ImportanceWeightedBound()(target, draws, START)) == pytest.approx(nested[-1])
        one = Draws(draws.z[:1], draws.log_q[:1])
        elbo = EvidenceLowerBound()(target, one, START)
        torch.testing.assert_close(ImportanceWeightedBound()(target, one, START), elbo)


def test_kl_by_dimension_is_the_integral() -> None:
    """Oracle: the trapezoidal rule. And nothing where the two are not both independent normals."""
    law = dist.Normal(MEAN, (0.5 * LOG_VARIANCE).exp()).to_event(1)
    prior = dist.Normal(torch.tensor([0.5, 0.0, -0.3]), torch.tensor([1.5, 1.0, 0.6])).to_event(1)
    grid = torch.linspace(-15, 15, 6001)[:, None, None]
    q, p = law.base_dist.log_prob(grid), prior.base_dist.log_prob(grid)
    exact = torch.trapezoid(q.exp() * (q - p), grid[:, 0, 0], dim=0)
    found = kl_by_dimension(law, prior)
    torch.testing.assert_close(found, exact)
    assert kl_by_dimension(law, GaussianMixture(3, components=2)()) is None
    assert kl_by_dimension(law, None) is None
    assert kl_by_dimension(None, prior) is None
    assert kl_by_dimension(dist.Laplace(MEAN, torch.ones(2, 3)).to_event(1), prior) is None


def test_what_a_bound_cannot_do_is_said() -> None:
    model = text(prior=GaussianMixture(DIM, components=2))
    target = model.target(BATCH)
    without = Draws(target.sample_prior(2))
    for name, objective in (("elbo", EvidenceLowerBound()), ("iwae", ImportanceWeightedBound())):
        message = (
            f"the objective '{name}' needs draws with a density, and the inference's have none; use one that has, "
            "such as 'amortized', or the objective 'final'."
        )
        with pytest.raises(ValueError, match=sentence(message)):
            objective(target, without, START)
    draws = Amortized(encoder())(target)
    with pytest.raises(ValueError, match=sentence(NEEDS_PARTS)):
        EvidenceLowerBound(free_bits=1.0)(target, draws, START)
    for per in ("sentence", "batch"):
        assert EvidenceLowerBound(None, 1.0, per)(target, draws, START).isfinite()  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=sentence("unknown free_bits_per 'row'; known: batch, dimension, sentence.")
    ):
        EvidenceLowerBound(free_bits_per="row")  # type: ignore[arg-type]


def test_draws_without_a_graph_have_no_law_to_teach_by() -> None:
    """A law that kept its graph would train the encoder through the KL alone, towards the prior."""
    network = encoder()
    target = text().target(BATCH)
    loss = EvidenceLowerBound()(target, Amortized(network)(target).detach(), START)
    assert not any(
        gradient.any()
        for gradient in torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    )
