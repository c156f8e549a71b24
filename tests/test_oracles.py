"""The oracles are tested too: against each other, and against numbers published elsewhere."""

import pytest
import torch

from tests.oracles import (
    EnumerableText,
    LinearGaussian,
    bimodal,
    divergence_to_posterior,
    exact_law,
    quadrature,
    skewed,
    ula_law_on_grid,
)


@pytest.mark.parametrize(("spectrum", "largest"), [("flat", 1.87), ("power1", 10.2), ("power2", 69.7)])
def test_linear_gaussian_spectra_are_the_published_ones(spectrum: str, largest: float) -> None:
    oracle = LinearGaussian.build(spectrum)
    assert 0.5 * oracle.precision.log().sum() == pytest.approx(10.0, abs=1e-9)
    assert oracle.precision.max().item() == pytest.approx(largest, abs=0.05)


def test_linear_gaussian_satisfies_bayes() -> None:
    """At every z, log p(x, z) - log p(z | x) is log p(x); a wrong posterior or evidence breaks it."""
    oracle = LinearGaussian.build("power2", dim=5, information=4.0)
    _, x = oracle.sample(3)
    z = torch.randn(7, 3, 5, dtype=torch.float64)
    mean, covariance = oracle.posterior(x)
    posterior = torch.distributions.MultivariateNormal(mean, covariance)
    evidence = oracle.target(x).log_joint(z) - posterior.log_prob(z)
    torch.testing.assert_close(evidence, oracle.log_evidence(x).expand(7, 3), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_agrees_with_the_closed_form(dim: int) -> None:
    oracle = LinearGaussian.build("power1", dim=dim, information=1.5)
    _, x = oracle.sample(4)
    found, (mean, covariance) = quadrature(oracle.target(x)), oracle.posterior(x)
    torch.testing.assert_close(found.log_evidence, oracle.log_evidence(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.mean(), mean, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.covariance(), covariance.expand(4, dim, dim), rtol=0, atol=1e-9)
    trace = covariance.trace() + mean.square().sum(-1)
    divergence = 0.5 * (trace - dim - torch.logdet(covariance))
    torch.testing.assert_close(found.divergence, divergence, rtol=0, atol=1e-9)


@pytest.mark.parametrize("make", [skewed, bimodal, lambda: EnumerableText.build("lstm", 2).target()])
def test_quadrature_has_converged(make) -> None:
    """Halving the spacing and widening the reach changes nothing."""
    coarse, fine = quadrature(make()), quadrature(make(), reach=9.0, points=241)
    torch.testing.assert_close(coarse.log_evidence, fine.log_evidence, rtol=0, atol=1e-7)
    torch.testing.assert_close(coarse.covariance(), fine.covariance(), rtol=0, atol=1e-6)


def test_the_named_targets_are_what_their_names_say() -> None:
    found = quadrature(skewed())
    centred = found.grid[:, :1] - found.mean()[:, 0]
    skewness = (found.weights * centred**3).sum(0) / found.covariance()[:, 0, 0] ** 1.5
    assert skewness[0] < -0.3
    assert skewness[2] > 0.3
    two = quadrature(bimodal())
    left = (two.weights * (two.grid[:, :1] < 0)).sum(0)
    assert ((left > 0.2) & (left < 0.8)).all()
    middle = two.weights[(two.grid[:, 0].abs() < 0.06)].sum(0)
    assert (middle[[0, 2]] < 0.03).all()


@pytest.mark.parametrize("decoder", ["lstm", "gru", "bag_of_words"])
@pytest.mark.parametrize("latent_dim", [1, 2])
def test_enumerable_text_is_a_law_and_z_matters(decoder: str, latent_dim: int) -> None:
    text = EnumerableText.build(decoder, latent_dim)
    found = quadrature(text.target())
    evidence = found.log_evidence.exp()
    assert evidence.sum().item() == pytest.approx(1.0, abs=1e-9)
    information = (evidence * found.divergence).sum().item()
    assert 0.03 < information < 2.0


@pytest.mark.parametrize("step_sizes", [[0.1], [0.3, 0.1, 0.05]])
def test_grid_propagation_agrees_with_the_moment_recursion(step_sizes: list[float]) -> None:
    oracle = LinearGaussian.build("power1", dim=1, information=0.5)
    _, x = oracle.sample(2)
    grid = torch.linspace(-9, 9, 721, dtype=torch.float64)[:, None]
    probability = ula_law_on_grid(oracle.target(x), step_sizes, grid)
    law = exact_law("ula", oracle.precision, step_sizes)
    mean = (probability * grid).sum(0)
    assert probability.sum(0).tolist() == pytest.approx([1.0, 1.0], abs=1e-9)
    expected = law.mean(oracle.mode_means(x))[:, 0] * oracle.rotation[0, 0]
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-9)
    variance = (probability * (grid - mean).square()).sum(0)
    torch.testing.assert_close(variance, law.variance.expand(2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("step_size", [0.02, 0.1, 0.3])
def test_stationary_laws(step_size: float) -> None:
    """``ula`` is too wide by 1 / (1 - s precision / 2); ``lm`` and ``baoab`` are exact at every stable step."""
    precision = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    run = [step_size] * 3000
    inflation = 1 / (1 - step_size * precision / 2)
    for name, factor in [("ula", inflation), ("lm", 1.0), ("baoab", 1.0)]:
        law = exact_law(name, precision, run)
        torch.testing.assert_close(law.variance, factor / precision, rtol=1e-12, atol=0)
        assert law.response.abs().max() < 1e-12


@pytest.mark.parametrize(
    ("spectrum", "steps", "step_size", "divergence"),
    [
        ("flat", 20, 0.0843, 0.071),
        ("power1", 5, 0.1271, 1.419),
        ("power1", 10, 0.1017, 0.518),
        ("power1", 20, 0.0726, 0.178),
        ("power1", 40, 0.0476, 0.060),
        ("power2", 20, 0.0195, 1.988),
        ("power1", 20, 0.0073, 8.15),
    ],
)
def test_divergences_of_the_unadjusted_run_are_the_golden_ones(
    spectrum: str, steps: int, step_size: float, divergence: float
) -> None:
    precision = LinearGaussian.build(spectrum).precision
    found = divergence_to_posterior(exact_law("ula", precision, [step_size] * steps), precision)
    assert found == pytest.approx(divergence, rel=2e-3, abs=1e-3)


def test_exact_integrators_beat_the_unadjusted_one_at_twenty_gradients() -> None:
    precision = LinearGaussian.build("power1").precision

    def divergence(name: str, step_size: float) -> float:
        return divergence_to_posterior(exact_law(name, precision, [step_size] * 20), precision)

    assert divergence("lm", 0.135) <= 0.002
    assert divergence("baoab", 0.1) < 0.01 * divergence("ula", 0.0726)
