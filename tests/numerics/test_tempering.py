"""Powers between prior and posterior: the conditional effective sample size, and the steps it allows."""

import math

import pytest
import torch

from sri_pyro.numerics.tempering import conditional_ess, next_power

pytestmark = pytest.mark.usefixtures("float64")


def test_conditional_ess_of_log_normal_weights() -> None:
    """Normal log-likelihoods of variance v leave exp(-delta^2 v): 10^6 quantiles, three increments and scales."""
    normal = torch.special.ndtri((torch.arange(1_000_000) + 0.5) / 1_000_000)[:, None]
    increment = torch.tensor([0.1, 0.02, 0.05])
    scale = torch.tensor([3.0, 20.0, 1.0])
    found = conditional_ess(increment, normal * scale - 500)
    torch.testing.assert_close(found, (-((increment * scale) ** 2)).exp(), rtol=1e-3, atol=0)


def test_next_power_leaves_the_share_asked_for_or_arrives() -> None:
    """Closed form: sqrt(-log share) / scale above the power now; a flat likelihood is passed at once."""
    normal = torch.special.ndtri((torch.arange(100_000) + 0.5) / 100_000)[:, None]
    scale, power = torch.tensor([10.0, 30.0, 0.0]), torch.tensor([0.2, 0.0, 0.5])
    found = next_power(power, normal * scale, 0.95)
    expected = power + torch.tensor([math.sqrt(-math.log(0.95)) / s if s else 0.5 for s in scale.tolist()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_impossible_draws_make_no_nan() -> None:
    """-inf on half of the draws: half is left at any increment, so no step keeps 0.9; on all: nothing to wait for."""
    log_likelihood = torch.zeros(10, 2)
    log_likelihood[:5, 0] = log_likelihood[:, 1] = -math.inf
    assert conditional_ess(torch.tensor([0.3, 0.0]), log_likelihood).tolist() == pytest.approx([0.5, 1.0])
    assert next_power(torch.zeros(2), log_likelihood, 0.9).tolist() == pytest.approx([0.0, 1.0], abs=1e-9)
