"""Spread, aggregate and settling against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sri_pyro.evaluation.latent_space import (
    eigenvalues,
    late_change,
    posterior_variances,
    radius_gap,
    scatter_of_eigenvalues,
    spread_ratio,
)


def test_spread_ratio_recovers_known_variances() -> None:
    """Posterior N(m_i, diag(1, 1/4)), proposal N(m_i, 2 I), short run of covariance 0.5 I: the ratio is 1/1.25.

    The gate is 5 standard errors, a false alarm in 1.7 million. Unweighted draws would give 1/4, a mean of
    ratios 1.25.
    """
    n, draws = 200, 4000
    mean = torch.randn(n, 2, dtype=torch.float64)
    z = mean + math.sqrt(2) * torch.randn(draws, n, 2, dtype=torch.float64)
    variances = torch.tensor([1.0, 0.25], dtype=torch.float64)
    log_weight = (-0.5 * (z - mean).square() / variances + 0.25 * (z - mean).square()).sum(-1) - 40.0
    found = spread_ratio(torch.full((n, 2), 0.5), posterior_variances(z, log_weight))
    assert 0 < found.se < 0.01
    assert abs(found.value - 0.8) < 5 * found.se


def test_spread_ratio_leaves_out_what_is_not_finite() -> None:
    variances = torch.tensor([[1.0], [math.nan], [3.0]])
    found = spread_ratio(torch.tensor([[1.0], [9.0], [1.0]]), variances)
    assert (found.value, found.num_samples) == (0.5, 2)
    # by hand: residuals 0.5 and -0.5, sqrt(2 / 1 * 0.5) / 4
    assert found.se == pytest.approx(0.25)
    assert math.isnan(spread_ratio(torch.ones(0, 2), torch.ones(0, 2)).value)


def test_radius_gap_of_a_scaled_normal_is_the_difference_of_two_chi_squares() -> None:
    """Z of variance 1/2 in 2 dimensions: the gap is exp(-r/2) - exp(-r); its maximum 1/4 is at r = 2 log 2.

    By the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart at n = 40,000 and a gate of 0.015: 3e-8.
    """
    gap = radius_gap(math.sqrt(0.5) * torch.randn(1, 40_000, 2))
    exact = np.exp(-gap.radius / 2) - np.exp(-gap.radius)
    assert np.abs(gap.gap - exact).max() < 0.015
    assert gap.largest == pytest.approx(0.25, abs=0.015)


def test_radius_gap_weighs_draws() -> None:
    """Two draws a sentence, one of weight nothing: the law is that of the other."""
    z = torch.randn(1, 300, 3)
    both, weight = torch.cat([z, 9 + z]), torch.tensor([0.0, -math.inf])[:, None].expand(2, 300)
    alone, weighed = radius_gap(z), radius_gap(both, log_weight=weight)
    on_a_grid = np.interp(alone.radius, weighed.radius, weighed.gap)
    assert np.abs(on_a_grid - alone.gap).max() < 0.1  # the grids differ: the far draws stretch one
    assert radius_gap(both).largest > 0.4


def test_radius_gap_takes_any_prior() -> None:
    """Against draws of its own law, not N(0, I), there is no gap; the band knows both samples."""
    prior = 3 + torch.randn(5000, 2)
    gap = radius_gap(3 + torch.randn(1, 400, 2), prior)
    assert gap.largest < 2.8 * gap.band / 1.36  # Kolmogorov: a false alarm in 3 million
    assert gap.band == pytest.approx(math.sqrt(math.log(40) / 2 * (1 / 400 + 1 / 5000)))
    assert radius_gap(3 + torch.randn(1, 400, 2)).largest > 0.8


def test_eigenvalues_do_not_depend_on_rotation_and_stay_in_their_scatter() -> None:
    z = torch.randn(1, 2000, 8, dtype=torch.float64)
    turned = z @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    assert eigenvalues(z) == pytest.approx(eigenvalues(turned), abs=1e-9)
    low, high = scatter_of_eigenvalues(2000, 8)
    # Tracy and Widom: the edges are sharp; 0.05 more is some 8 of their standard deviations.
    assert low - 0.05 < eigenvalues(z)[-1] < eigenvalues(z)[0] < high + 0.05


def test_late_change_is_the_fall_over_the_last_quarter() -> None:
    """A line that falls by one a step falls by 5 over the last quarter of 20."""
    found = late_change(np.stack([20.0 - np.arange(21), 21.0 - np.arange(21)]))
    assert (found.value, found.se, found.num_samples) == (5.0, 0.0, 2)
