"""Intervals of shares and medians against scipy's, and what they promise for any law."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sri_pyro.evaluation.intervals import median_interval, share_interval
from sri_pyro.evaluation.weight_summary import Tails, Worth, median


@pytest.mark.parametrize(
    ("count", "total"), [(0, 1), (1, 1), (0, 10), (3, 7), (299, 300), (300, 300), (5000, 10_000)]
)
def test_a_share_has_the_exact_binomial_interval(count: int, total: int) -> None:
    """Oracle: Clopper and Pearson by scipy. A normal interval has no width at 0 and at 1."""
    exact = stats.binomtest(count, total).proportion_ci(0.95, "exact")
    assert share_interval(count, total) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("total", [6, 7, 20, 48, 301])
def test_a_median_lies_between_the_ranks_of_fair_coins(total: int) -> None:
    """Oracle: the binomial law by scipy. The ranks hold with 95 %, and the next ones inward would not."""
    low, high = (int(end) for end in median_interval(torch.randperm(total) + 1.0))
    assert low + high == total + 1
    assert 1 - 2 * stats.binom.cdf(low - 1, total, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(low, total, 0.5) < 0.95
    assert all(math.isnan(end) for end in median_interval(torch.arange(5.0)))


def test_weights_that_nothing_was_fitted_to_are_counted_and_not_left_out() -> None:
    """By hand: eight sentences, one of k-hat +inf, one without any. Catches a largest k-hat of the finite ones."""
    khat = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, math.inf, math.nan], dtype=torch.float64)
    found = Tails.of(khat, torch.full((8,), 0.55, dtype=torch.float64))
    assert (found.max, found.infinite, found.failed_sentences, found.share_below) == (math.inf, 1, 3, 0.625)
    assert found.median == pytest.approx(0.4)
    assert found.median_lower == pytest.approx(0.1)
    assert math.isnan(found.median_upper)  # the seventh of seven is infinite
    exact = stats.binomtest(5, 8).proportion_ci(0.95, "exact")
    assert (found.share_below_lower, found.share_below_upper) == pytest.approx((exact.low, exact.high))
    equal = Tails.of(torch.full((3,), -math.inf), torch.full((3,), 0.7))
    assert (math.isnan(equal.max), equal.infinite, equal.failed_sentences) == (True, 0, 0)


def test_the_median_of_an_even_number_is_between_the_two_in_the_middle() -> None:
    """PyTorch's takes the lower one."""
    found = Worth.of(torch.tensor([9.0, 1.0, 4.0, 2.0]))
    assert (found.median, found.min) == (3.0, 1.0)
    assert math.isnan(found.median_lower)
    assert math.isnan(median(torch.zeros(0)))
