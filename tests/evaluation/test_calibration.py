"""Simulation-based calibration and Geweke's test: exact laws of ranks, samplers that pass, planted bugs that fail.

Statistical gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sri_pyro.evaluation.calibration import (
    LEVELS,
    Calibration,
    coordinates_and_densities,
    counted_interval,
    joint_distribution_test,
    names_of,
    simulated_ranks,
    two_sided_gate,
)
from sri_pyro.evaluation.reference import LongChains
from sri_pyro.inference import PriorDraws, ShortRunLangevin
from sri_pyro.numerics.hamiltonian import hamiltonian_transition
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.ranks import counts_below, rank_band
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.target import Target
from sri_pyro.types import Draws, Progress
from tests.oracles import LinearGaussian, exact_law, gate, standard_normal_target

pytestmark = pytest.mark.usefixtures("float64")
SURE = 1 - 1e-8


def kept(ranks: Tensor, num_draws: int, law: np.ndarray | None = None) -> bool:
    """Whether one function's ranks [N] lie in the band that is left once in 1e8 times."""
    counts = counts_below(ranks.numpy(), num_draws)
    band = rank_band(len(ranks), num_draws, SURE, law)
    return bool(((counts >= band.lower) & (counts <= band.upper)).all())


def law_of_short_run(rho: float, num_draws: int) -> np.ndarray:
    """P(r < i), i = 1, ..., L, where the probability integral transform of the truth is Phi(rho N(0, 1)).

    Given that transform u a rank is binomial; u is integrated by quadrature.
    """
    g = torch.linspace(-8, 8, 4001)
    weight = torch.softmax(-0.5 * g.square(), 0)
    u = (0.5 * torch.erfc(-rho * g / math.sqrt(2)))[:, None]
    k = torch.arange(num_draws + 1.0)
    ways = torch.lgamma(torch.tensor(num_draws + 1.0)) - torch.lgamma(k + 1) - torch.lgamma(num_draws - k + 1)
    chance = (ways + torch.xlogy(k, u) + torch.xlogy(num_draws - k, 1 - u)).exp()
    return (weight @ chance).cumsum(0)[:-1].numpy()


def test_ranks_of_a_short_run_have_their_exact_law_which_is_not_uniform() -> None:
    r"""Oracle: on a Gaussian :math:`u = \Phi(\rho\, g)` with :math:`\rho^2 = [1/\lambda + a^{2K} (1 - 1/\lambda)] / c`.

    There a is 1 - s lambda and c the variance of the run. Catches an off-by-one in rank or law, draws that are not
    those of the inference, and a truth of another sentence: a test of uniformity could not, for it must fail.
    """
    oracle, step, steps, num_draws, num = LinearGaussian.build("flat", 4, 6.0), 0.04, 4, 9, 2000
    z, x = oracle.sample(num)
    run = ShortRunLangevin(steps, UnadjustedLangevin(), ConstantSteps(step))
    ranks = simulated_ranks(oracle.target(x), run, z, num_draws, lambda target, z: oracle.modes(z))
    precision = oracle.precision[:1]
    law = exact_law("ula", precision, [step] * steps)
    rho = ((1 / precision + law.response.square() * (1 - 1 / precision)) / law.variance).sqrt().item()
    exact = law_of_short_run(rho, num_draws)
    assert abs(rho - 0.7735) < 1e-3
    for mode in range(4):
        assert kept(ranks[:, mode], num_draws, exact)
        assert not kept(ranks[:, mode], num_draws)  # uniform
        assert not kept((ranks[:, mode] + 1).clamp(max=num_draws), num_draws, exact)  # planted: counts from 1
    others = simulated_ranks(
        oracle.target(x), run, z.roll(1, 0), num_draws, lambda target, z: oracle.modes(z)
    )
    assert not kept(others[:, 0], num_draws, exact)


class Exact(nn.Module):
    """Independent draws of the oracle's posterior, its deviation multiplied by a factor."""

    def __init__(self, oracle: LinearGaussian, x: Tensor, factor: float = 1.0) -> None:
        super().__init__()
        self.mean, covariance = oracle.posterior(x)
        self.root = factor * torch.linalg.cholesky(covariance)

    def forward(self, target: Target, num_samples: int = 1, progress: Progress | None = None) -> Draws:
        return Draws(self.mean + torch.randn(num_samples, *self.mean.shape) @ self.root.T)


@pytest.mark.parametrize(("factor", "fails"), [(1.0, False), (0.7, True), (1.4, True)])
def test_exact_draws_pass_and_draws_too_narrow_or_wide_fail(factor: float, fails: bool) -> None:
    """Oracle: closed form. The coverage of an interval of draws that are too narrow is known, too."""
    oracle, num = LinearGaussian.build("power1", 3, 3.0), 1500
    z, x = oracle.sample(num)
    ranks = simulated_ranks(oracle.target(x), Exact(oracle, x, factor), z)
    found = Calibration.of(ranks, 199, names_of(3), 3)
    assert [not kept(ranks[:, q], 199) for q in range(5)] == [fails] * 5
    assert found.outside.all() == fails
    assert (found.dispersion.value > 1) == (factor < 1) or factor == 1
    normal = torch.distributions.Normal(0.0, 1.0)
    for level, covered, nominal in zip((0.5, 0.8, 0.95), found.coverage, found.nominal, strict=True):
        assert nominal == pytest.approx(level)
        half = factor * normal.icdf(torch.tensor((1 + level) / 2))
        exact = 2 * normal.cdf(half) - 1
        # The ends of an interval are quantiles of 199 draws, which lie a little further in or out.
        assert abs(covered.value - exact) < gate(3) * covered.se + (0.0 if factor == 1 else 0.004)


@pytest.mark.parametrize("num_draws", [19, 50, 99, 199])
def test_the_stated_coverage_is_that_of_exact_draws(num_draws: int) -> None:
    """Oracle: simulation of draws and truth from one law, and the uniform law of ranks, counted place by place.

    Catches the level itself as what is stated, which of 50 or 99 draws no interval between two of them has; and one
    place too many or too few on a side, which is 2 or 4 points of 100.
    """
    num, generator = 40_000, torch.Generator().manual_seed(num_draws)
    values = torch.randn(num, num_draws + 1, generator=generator)
    ranks = (values[:, 1:] < values[:, :1]).sum(1, keepdim=True)
    found = Calibration.of(torch.cat([ranks, ranks, ranks], 1), num_draws, names_of(1), 1)
    for level, covered, nominal in zip(LEVELS, found.coverage, found.nominal, strict=True):
        left_out, exact = counted_interval(level, num_draws)
        inside = [left_out <= rank <= num_draws - left_out for rank in range(num_draws + 1)]
        assert exact == nominal == pytest.approx(sum(inside) / len(inside))
        assert abs(exact - level) <= 1 / (num_draws + 1) + 1e-12
        assert abs(covered.value - exact) <= gate(12) * math.sqrt(exact * (1 - exact) / num)


def test_draws_of_the_prior_are_found_by_the_densities_alone() -> None:
    """Every coordinate's rank is uniform for an inference that does not look; the likelihood's is not."""
    oracle = LinearGaussian.build("power1", 3, 3.0)
    z, x = oracle.sample(800)
    ranks = simulated_ranks(oracle.target(x), PriorDraws(), z, 99)
    found = Calibration.of(ranks, 99, names_of(3), 3)
    assert all(kept(ranks[:, d], 99) for d in range(3))
    assert found.outside.tolist()[3:] == [True, True]


@pytest.mark.parametrize("planted", [False, True])
def test_hamiltonian_chains_pass_on_skewed_posteriors_and_fail_without_their_correction(
    planted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: exchangeability, where x is the number of successes in 6 trials. Planted: every proposal is accepted."""
    z = torch.randn(1000, 1)
    successes = torch.distributions.Binomial(6, logits=2 * z[:, 0] + 1).sample()

    def log_likelihood(z: Tensor) -> Tensor:
        logit = 2 * z[..., 0] + 1
        return successes * logit - 6 * nn.functional.softplus(logit)

    if planted:
        monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    target, inference = standard_normal_target(log_likelihood, 1000, 1), LongChains(19, warmup=12, thin=3)
    ranks = simulated_ranks(target, inference, z, 19)
    assert all(kept(ranks[:, q], 19) for q in range(3)) == (not planted)


def simulated(oracle: LinearGaussian, z: Tensor) -> Target:
    return oracle.target(oracle.modes(z) * oracle.snr.sqrt() + torch.randn_like(z))


def test_gewekes_test_passes_corrected_langevin_and_fails_the_uncorrected() -> None:
    """Oracle: the joint law, from which pairs start and which only an invariant transition keeps."""
    oracle, h = LinearGaussian.build("power1", 3, 3.0), 0.5

    def corrected(target: Target, z: Tensor) -> Tensor:
        look = target.log_joint_and_grad
        step = torch.full((z.shape[1],), h)
        return hamiltonian_transition(look, lambda seen: seen, z, look(z), step, 1).z

    def uncorrected(target: Target, z: Tensor) -> Tensor:
        _, grad = target.log_joint_and_grad(z)
        return z + 0.5 * h**2 * grad + h * torch.randn_like(z)

    def found(move) -> float:
        scores = joint_distribution_test(
            lambda num: torch.randn(num, 3), lambda z: simulated(oracle, z), move, 6000, 12
        )
        assert len(scores) == 2 * 5
        return float(np.abs(scores).max())

    assert found(corrected) < gate(10)
    assert found(uncorrected) > 9
    assert two_sided_gate(10, 1e-8) == pytest.approx(gate(10), abs=1e-6)


def test_the_functions_are_what_their_names_say() -> None:
    oracle = LinearGaussian.build("power1", 3, 3.0)
    z, x = oracle.sample(2)
    found = coordinates_and_densities(oracle.target(x), z[None])
    assert found.shape[-1] == len(names_of(3))
    torch.testing.assert_close(found[0, :, 3], oracle.log_likelihood(x, z[None])[0], rtol=0, atol=1e-12)
    assert torch.equal(found[0, :, :3], z)
