"""Local Gaussians against the best one there is, autograd, their own density, and the bound that they must keep to.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from sri_pyro.inference import LocalGaussians
from sri_pyro.inference.local_vi import fit_gaussians
from sri_pyro.types import Batch
from tests.oracles import EnumerableText, LinearGaussian, gate, sentence, skewed, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")


def sigma_points(dim: int, batch_size: int) -> Tensor:
    """Points of mean 0 and covariance I, [2 D, B, D]: for a Gaussian target their gradients are the exact ones."""
    points = math.sqrt(dim) * torch.eye(dim)
    return torch.cat([points, -points])[:, None].expand(-1, batch_size, -1)


def bound(target, mean: Tensor, log_scale: Tensor, noise: Tensor) -> Tensor:
    """Log p(x, z) - log q(z) at the draws of some noise, by PyTorch's own density; shape [S, B]."""
    z = mean + log_scale.exp() * noise
    return target.log_joint(z) - Normal(mean, log_scale.exp()).log_prob(z).sum(-1)


@pytest.mark.parametrize(("optimizer", "rate", "steps"), [("sgd", 0.05, 200), ("adam", 0.05, 600)])
def test_many_steps_reach_the_best_gaussian_of_independent_dimensions(
    optimizer: str, rate: float, steps: int
) -> None:
    """Oracle: minimising KL(q || N(m, P^-1)) gives the mean m and the variances 1 / P_ii (Bishop 2006, Eq. 10.13).

    Catches an entropy left out or counted twice, a missing deviation in the chain rule, and the posterior's own
    variances, the diagonal of P^-1, which are wider.
    """
    oracle = LinearGaussian.build("power1", dim=4, information=3.0)
    _, x = oracle.sample(3)
    exact, covariance = oracle.posterior(x)
    best = 1 / torch.linalg.inv(covariance).diagonal()
    start = torch.randn(3, 4), 0.3 * torch.randn(3, 4)
    kept = [part.clone() for part in start]
    points = sigma_points(4, 3)
    mean, log_scale = fit_gaussians(oracle.target(x), *start, lambda step: points, steps, optimizer, rate)
    torch.testing.assert_close(mean, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close((2 * log_scale).exp(), best.expand(3, 4), rtol=0, atol=1e-6)
    assert (covariance.diagonal() - best).min() > 0.01  # positive control
    assert all(torch.equal(now, before) for now, before in zip(start, kept, strict=True))
    assert not mean.requires_grad


def test_the_gradient_is_that_of_the_reparameterised_bound() -> None:
    """Oracle: autograd of the bound on the same noise through the model's own distributions, by one step of SGD."""
    text = EnumerableText.build("lstm", latent_dim=2)
    target, size = text.target(), len(text.rows)
    mean, log_scale, noise = torch.randn(size, 2), 0.5 * torch.randn(size, 2), torch.randn(5, size, 2)
    leaves = [part.clone().requires_grad_() for part in (mean, log_scale)]
    joint = target.log_joint(leaves[0] + leaves[1].exp() * noise).mean(0)
    objective = joint.sum() + leaves[1].sum()
    expected = torch.autograd.grad(objective, leaves)
    found = fit_gaussians(target, mean, log_scale, lambda step: noise, 1, "sgd", 1.0, momentum=0.0)
    for moved, start, gradient in zip(found, (mean, log_scale), expected, strict=True):
        torch.testing.assert_close(moved - start, gradient, rtol=0, atol=1e-9)


def test_every_step_has_noise_of_its_own_number() -> None:
    asked: list[int] = []

    def noise(step: int) -> Tensor:
        asked.append(step)
        return torch.zeros(1, 3, 1)

    fit_gaussians(skewed(), torch.zeros(3, 1), torch.zeros(3, 1), noise, 4)
    assert asked == [0, 1, 2, 3]


def test_log_q_is_the_density_of_the_draws() -> None:
    """Oracles: PyTorch's Normal; and E_q[1(z in a box) / q(z)], the volume of a box, if q is what the draws have.

    Catches a constant that is missing, a deviation for its logarithm, draws of another width than is scored.
    """
    n = 40_000
    draws = LocalGaussians(num_steps=10)(skewed(), n)
    mean, scale = draws.info["mean"], draws.info["log_scale"].exp()
    assert mean.shape == scale.shape == (3, 1)
    torch.testing.assert_close(draws.log_q, Normal(mean, scale).log_prob(draws.z).sum(-1), rtol=0, atol=1e-12)
    for low, high in ((-1.0, 1.0), (0.3, 2.5)):  # in deviations from the mean
        inside = ((draws.z - mean) / scale)[..., 0]
        value = ((inside > low) & (inside < high)) / draws.log_q.exp() / scale[:, 0]
        error = value.std(0) / math.sqrt(n)
        assert ((value.mean(0) - (high - low)).abs() < gate(6) * error).all()
    assert draws.law is not None
    torch.testing.assert_close(draws.law.log_prob(draws.z), draws.log_q, rtol=0, atol=1e-12)
    assert not draws.z.requires_grad
    assert not draws.log_q.requires_grad


def test_fresh_noise_keeps_to_the_evidence_and_the_noise_of_the_fit_would_not() -> None:
    """Oracle: log p(x). On the noise that it was fitted to a Gaussian scores above it, which no bound does."""
    oracle = LinearGaussian.build("power1", dim=8, information=4.0)
    _, x = oracle.sample(400)
    target, evidence = oracle.target(x), oracle.log_evidence(x)
    seen = torch.randn(1, 400, 8)
    mean, log_scale = fit_gaussians(
        target, torch.zeros(400, 8), torch.zeros(400, 8), lambda step: seen, 60, learning_rate=0.1
    )
    reused = bound(target, mean, log_scale, seen)[0] - evidence
    assert reused.mean() > gate(1) * reused.std() / 20
    draws = LocalGaussians(num_steps=60)(target, 50)
    for gap in (
        (target.log_joint(draws.z) - draws.log_q).mean(0) - evidence,
        bound(target, mean, log_scale, torch.randn(50, 400, 8)).mean(0) - evidence,
    ):
        assert gap.mean() < gate(2) * gap.std() / 20
        assert gap.mean() < 0  # a Gaussian of independent dimensions is not the posterior
    assert (
        (target.log_joint(draws.z) - draws.log_q).mean(0) - evidence
    ).mean() > -3.0  # and yet it was fitted


@pytest.mark.parametrize("key", [None, 5])
def test_draws_are_independent_of_the_noise_of_the_fit(key: int | None) -> None:
    """After one step of SGD the mean has moved by its noise: reused in the draws it would correlate by -1."""
    n = 4000
    target = standard_normal_target(lambda z: -1.5 * z.square().sum(-1), n, 1)
    target = replace(target, batch=Batch(torch.full((n, 1), 5), torch.arange(n), key))
    draws = LocalGaussians(1, 1, "sgd", 0.05, 0.0)(target, 2)
    mean, scale = draws.info["mean"], draws.info["log_scale"].exp()
    fitted = -mean / 0.2  # of gradient -4 z, z the noise
    torch.testing.assert_close(draws.info["log_scale"], 0.05 * (1 - 4 * fitted.square()), rtol=0, atol=1e-9)
    fresh = (draws.z - mean) / scale
    for pair in (fresh[0] * fitted, fresh[1] * fitted, fresh[0] * fresh[1]):
        assert pair.mean().abs() < gate(6) / math.sqrt(n)
    for noise in (fitted, fresh):
        assert (noise.square().mean() - 1).abs() < gate(6) * math.sqrt(2 / noise.numel())


def test_steps_have_unlike_noises() -> None:
    """With Adam's first steps of equal size, noise that repeats would show in how far a mean goes; keyed here."""
    seen = []

    def log_likelihood(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return 0 * z.sum(-1)

    target = standard_normal_target(log_likelihood, 3, 2)
    target = replace(target, batch=Batch(torch.full((3, 1), 5), key=5))
    LocalGaussians(4, 2, "sgd", 1e-9, 0.0)(target)
    assert torch.cat(seen).round(decimals=6).unique().numel() == 4 * 2 * 3 * 2


def test_keyed_fits_are_functions_of_the_sentence() -> None:
    """To rounding, whatever other sentences there are, and in any order; the generator stands where it stood."""
    text = EnumerableText.build("lstm", latent_dim=2)
    target = text.model.target(Batch(text.rows.tokens[:6], torch.tensor([9, 8, 7, 3, 4, 5]), 5))
    state = torch.get_rng_state()
    whole = LocalGaussians(5)(target, 3)
    part = LocalGaussians(5)(target.select(torch.tensor([4, 1])), 3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(part.z, whole.z[:, [4, 1]], rtol=0, atol=1e-10)
    torch.testing.assert_close(part.log_q, whole.log_q[:, [4, 1]], rtol=0, atol=1e-10)


def test_a_gradient_that_is_not_finite_is_told() -> None:
    target = standard_normal_target(lambda z: torch.tensor([1.0, math.nan, 1.0]) * z.sum(-1), 3, 2)
    message = (
        "the gradient of the bound of sentence 1 of the batch is not finite; lower learning_rate of the inference, or "
        "check the decoder's weights and the data."
    )
    with pytest.raises(FloatingPointError, match=sentence(message)):
        LocalGaussians()(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be at least 1; got 0."),
        ({"num_particles": 0}, "num_particles must be at least 1; got 0."),
        ({"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'; known: adam, sgd."),
        ({"learning_rate": 0.0}, "learning_rate must be a positive finite number; got 0.0."),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1; got 1.0."),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=sentence(message)):
        LocalGaussians(**options)
