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
