"""Student's t against closed forms, and against quadrature where there is none."""

import math

import pytest
import torch

from sri_pyro.numerics.student import incomplete_beta, two_sided_p, two_sided_quantile


@pytest.mark.parametrize("t", [1e-4, 0.3, 1.0, 2.5, 12.7, 4000.0])
def test_one_two_and_three_degrees_have_closed_forms(t: float) -> None:
    """Oracle: Cauchy's law, and the algebraic ones of two and three. Catches one-sided tails and nu + 1 for nu."""
    assert two_sided_p(t, 1) == pytest.approx(2 / math.pi * math.atan(1 / t), rel=1e-9)
    root = math.sqrt(2 + t * t)
    assert two_sided_p(-t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-9)
    angle = math.atan(t / math.sqrt(3))
    three = 1 - 2 / math.pi * (angle + math.sin(angle) * math.cos(angle))
    assert two_sided_p(t, 3) == pytest.approx(three, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("freedom", [0.7, 2.37, 9.5, 61.3, 1999.2])
@pytest.mark.parametrize("t", [0.4, 1.96, 5.0])
def test_any_degrees_agree_with_quadrature_of_the_density(t: float, freedom: float) -> None:
    """Simpson's rule of the density from 0 to t, whose normalisation is checked by nothing else here."""
    x = torch.linspace(0, t, 2001, dtype=torch.float64)
    log_constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    height = (log_constant - (freedom + 1) / 2 * torch.log1p(x * x / freedom)).exp()
    weights = torch.ones_like(x)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    inside = float((weights * height).sum()) * t / 2000 / 3
    assert two_sided_p(t, freedom) == pytest.approx(1 - 2 * inside, rel=1e-7)


def test_many_degrees_are_the_normal_law_without_a_seam() -> None:
    for t in (0.1, 1.96, 6.0):
        normal = math.erfc(t / math.sqrt(2))
        assert two_sided_p(t, math.inf) == pytest.approx(normal, rel=1e-12)
        assert two_sided_p(t, 9e6) == pytest.approx(normal, rel=1e-4)


def test_quantiles_undo_tails() -> None:
    for freedom in (1.0, 2.9, 17.0, 4000.0, math.inf):
        for confidence in (0.5, 0.95, 0.999):
            t = two_sided_quantile(confidence, freedom)
            assert two_sided_p(t, freedom) == pytest.approx(1 - confidence, rel=1e-9)


def test_what_is_not_a_number_stays_none() -> None:
    assert math.isnan(two_sided_p(math.nan, 3.0))
    assert math.isnan(two_sided_p(1.0, math.nan))
    assert math.isnan(two_sided_quantile(0.95, math.nan))
    assert two_sided_p(math.inf, 3.0) == 0.0
    assert incomplete_beta(0.0, 2.0, 3.0) == 0.0
    assert incomplete_beta(1.0, 2.0, 3.0) == 1.0
