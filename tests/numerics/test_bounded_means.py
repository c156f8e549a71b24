"""Intervals for bounded weights: they cover as often as they say, and say so where they know nothing.

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``).
"""

import math

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.bounded_means import Interval, bennett, empirical_bernstein, markov_lower
from sri_pyro.numerics.weights import log_mean_exp, log_mean_exp_se, relative_variance

pytestmark = pytest.mark.usefixtures("float64")
REPLICATES, DRAWS = 4000, 1000


def weights(law: str) -> Tensor:
    """Weights in [0, 1], [S, B], a replicate a column, whose mean is ``MEANS[law]``."""
    u = torch.rand(DRAWS, REPLICATES)
    return {"uniform": u, "rare": (u < 0.01).double(), "square": u.square(), "skewed": u**50}[law]


MEANS = {"uniform": 1 / 2, "rare": 0.01, "square": 1 / 3, "skewed": 1 / 51}


def both(w: Tensor, confidence: float) -> list[Interval]:
    log_w = w.log()
    mean, count = log_mean_exp(log_w), torch.full((w.shape[1],), float(len(w)))
    variance, bound = relative_variance(log_w), torch.zeros(w.shape[1])
    return [
        empirical_bernstein(mean, variance, count, bound, confidence),
        bennett(mean, count, bound, confidence),
    ]


@pytest.mark.parametrize("law", MEANS)
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_cover_at_least_as_often_as_they_say(law: str, confidence: float) -> None:
    """4000 replicates; vacuous ones count as covering. They are conservative, so that the gate is one-sided."""
    least = confidence - 5.7 * math.sqrt(confidence * (1 - confidence) / REPLICATES)
    truth = math.log(MEANS[law])
    w = weights(law)
    for found in both(w, confidence):
        covered = found.vacuous | ((found.lower <= truth) & (truth <= found.upper))
        assert covered.double().mean() > least
        if law in ("uniform", "square"):  # large weights are common: here the bound says something
            assert not found.vacuous.any()
            assert (found.upper - found.lower).max() < 0.5
    below = markov_lower(log_mean_exp(w.log()), confidence) <= truth
    assert below.double().mean() > least


def test_a_normal_interval_would_fail_where_large_weights_are_rare() -> None:
    """Positive control: weights of 1 in one draw of 500, 1000 draws: exp(-2) of all samples see none of them, and the
    normal interval covers 85 % in place of 95 %. Bounded intervals keep their word.
    """
    u = torch.rand(DRAWS, REPLICATES)
    log_w = torch.where(u < 0.002, 1.0, 1e-9).log()
    truth = math.log(0.002 + 0.998e-9)
    normal = (log_mean_exp(log_w) - truth).abs() < 1.96 * log_mean_exp_se(log_w)
    assert normal.double().mean() < 0.9
    for found in both(log_w.exp(), 0.95):
        covered = found.vacuous | ((found.lower <= truth) & (truth <= found.upper))
        assert covered.double().mean() > 0.95


def test_ends_by_hand() -> None:
    """Bernstein from its formula; Bennett's ends solve its equation."""
    mean, count, bound = torch.tensor([0.3]), torch.tensor([5000.0]), torch.tensor([2.0])
    found = empirical_bernstein(mean.log(), torch.tensor([0.5]), count, bound.log(), 0.9)
    half = math.sqrt(2 * 0.5 * 0.09 * math.log(40) / 5000) + 7 * 2 * math.log(40) / (3 * 4999)
    assert found.upper.exp().item() == pytest.approx(0.3 + half)
    assert found.lower.exp().item() == pytest.approx(0.3 - half)
    found = bennett(mean.log(), count, bound.log(), 0.9)
    for end in (found.lower.exp().item(), found.upper.exp().item()):
        rate = 5000 / 2 * (0.3 * math.log(0.3 / end) - 0.3 + end)
        assert rate == pytest.approx(math.log(20))
    assert found.lower < mean.log() < found.upper


def test_text_of_any_length_is_vacuous_at_the_bound_that_is_known() -> None:
    """exp(-60) against weights of up to 20: a million draws say nothing a priori, and no number is given."""
    mean, count, bound = torch.tensor([-60.0]), torch.tensor([1e6]), torch.tensor([math.log(20)])
    for found in (empirical_bernstein(mean, torch.tensor([1.0]), count, bound), bennett(mean, count, bound)):
        assert found.vacuous.all()
        assert found.lower.isnan().all()
        assert found.upper.isnan().all()
    assert markov_lower(mean).item() == pytest.approx(-60 + math.log(0.05))


def test_a_confidence_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^confidence must lie in \(0, 1\); got 1\.0\.$"):
        markov_lower(torch.zeros(1), 1.0)
