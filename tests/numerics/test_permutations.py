"""Simulated p-values and Holm's correction."""

import numpy as np
import pytest

from sri_pyro.numerics.permutations import holm, simulated_p


def test_p_values_are_uniform_under_the_null() -> None:
    """Oracle: exchangeability, which makes the rank uniform on R + 1 places, here all of them counted out. Catches a p
    of 0, ties that count for the observed, and the wrong tail.
    """
    numbers = np.arange(20.0)
    ranks = [simulated_p(float(t), np.delete(numbers, i)) for i, t in enumerate(numbers)]
    assert ranks == [(20 - i) / 20 for i in range(20)]
    assert simulated_p(3.0, np.full(9, 3.0)) == 1.0
    assert np.isnan(simulated_p(float("nan"), numbers))


def test_holm_keeps_the_familywise_level() -> None:
    """Oracle: brute force by the step-down definition, on random p-values; a test not made is not counted."""
    for p in np.random.default_rng(0).random((50, 6)) * 0.1:
        order, open_, expected = np.argsort(p), True, np.zeros(6, bool)
        for step, i in enumerate(order):
            open_ = open_ and p[i] <= 0.05 / (6 - step)
            expected[i] = open_
        assert ((np.array(holm(p)) <= 0.05) == expected).all()
    assert holm([0.02, float("nan"), 0.9])[0] == pytest.approx(0.04)
    assert np.isnan(holm([0.02, float("nan"), 0.9])[1])
    assert holm([]) == []
