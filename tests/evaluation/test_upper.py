"""Upper bounds of log p(x) from exact posterior draws, and the sandwich that they close.

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import pytest
import torch

from sri_pyro.evaluation import GaussianImportance, estimate_evidence
from sri_pyro.evaluation.evidence import all_rows, score
from sri_pyro.evaluation.rungs import AnnealedRung
from sri_pyro.evaluation.upper import anneal_back, resampled, upper_bounds
from tests.evaluation.helpers import Independent, off, selectable, t_gate
from tests.oracles import LinearGaussian, bimodal, gate

pytestmark = pytest.mark.usefixtures("float64")


def simulated(rows: int, dim: int = 8) -> tuple:
    """Pairs that the model wrote, their exact log p(x), and pilots from the exact posterior."""
    oracle = LinearGaussian.build("power1", dim=dim, information=5.0)
    z, x = oracle.sample(rows)
    mean, covariance = oracle.posterior(x)
    pilot = Independent(mean, covariance.diagonal().sqrt().expand(rows, dim))
    return oracle, z, x, pilot


def test_the_bounds_close_on_the_truth_from_both_sides() -> None:
    """Lower <= exact <= upper in the mean over 60 simulated sentences, and less than 0.15 nats apart.

    Oracle: the closed form. The upper bounds stand on one draw each: pairs (z*, x*) from the model.
    """
    oracle, z, x, pilot = simulated(60)
    target, exact = selectable(oracle, x), oracle.log_evidence(x)
    upper = upper_bounds(target, pilot, z)
    lower, _ = estimate_evidence(target, pilot, GaussianImportance())
    assert off(lower.log_px - exact) < gate(3)
    for bound in (upper.bidirectional, upper.reverse):
        assert off(bound - exact) > -gate(3)
        assert abs((bound - exact).mean()) < 0.15


def test_backward_weights_average_to_the_inverse_of_the_evidence() -> None:
    """E 1/w = 1/p(x): 2 temperatures in 1-d, 400 exact draws for each of 40 sentences, by replicates of the mean.

    Planted: weighing before the transition in place of after it, which is the forward order, is off.
    """
    oracle = LinearGaussian.build("flat", dim=1, information=0.3)
    _, x = oracle.sample(40)
    target, exact = selectable(oracle, x), oracle.log_evidence(x)
    mean, covariance = oracle.posterior(x)
    path = AnnealedRung.adapted(target, 64, 0.9, 2, "hmc", 2).path
    z = mean + covariance[0, 0].sqrt() * torch.randn(400, 40, 1)
    ratio = (-anneal_back(target, path, z) + exact).exp().mean(0)
    assert abs(off(ratio - 1)) < t_gate(40)
    (draws,) = [score(target, z, target.log_prior(z))]
    forgotten = (-draws.log_likelihood + exact).exp().mean(0)  # no annealing at all: the harmonic mean
    assert forgotten.std() > ratio.std()


def test_a_lower_bound_that_misses_a_mode_is_found_out() -> None:
    """Two modes, and a proposal that sits in one of them: the gap on simulated data shows it, k-hat need not.

    Positive control of the sandwich itself. The likelihood is that of x = z_1 (z_2 + 0.3) + noise; log w of a mode
    left out is missing nearly all of its share.
    """
    target = bimodal()
    mean = torch.tensor([[1.5, -1.0], [1.0, 0.3], [1.3, 0.9]])
    pilot = Independent(mean, torch.full((3, 2), 0.2))
    narrow = GaussianImportance(prior_share=1e-6, refits=0, inflation=1.0)
    lower, _ = estimate_evidence(target, pilot, narrow)
    good, draws = estimate_evidence(target, pilot, GaussianImportance(num_samples=20_000, prior_share=0.9))
    upper = upper_bounds(target, pilot, resampled(draws))
    assert (upper.bidirectional - lower.log_px).mean() > 0.2
    assert (upper.bidirectional - good.log_px).abs().max() < 0.5


def test_resampled_draws_follow_the_weights() -> None:
    """Two draws of weights 1 and 3 in each of two sentences: a quarter and three quarters of 4000."""
    z = torch.tensor([0.0, 1.0]).reshape(2, 1, 1).expand(2, 2, 1)
    target = selectable(LinearGaussian.build("flat", dim=1, information=0.3), torch.zeros(2, 1))
    draws = score(target, z, torch.zeros(2, 2))
    weights = torch.tensor([[1.0, 3.0], [3.0, 1.0]]).log()
    found = resampled(type(draws)(z, weights, weights, all_rows(z), all_rows(z) < 0), 4000)[..., 0].mean(0)
    torch.testing.assert_close(found, torch.tensor([0.75, 0.25]), rtol=0, atol=gate(2) * 0.0069)
