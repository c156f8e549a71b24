"""The floor of a grammar: oracle, a hand computation and Jensen's inequality in the mean."""

import math

import pytest
import torch

from sri_pyro.evaluation.metrics import floor


def test_floor_is_the_exact_perplexity_and_the_paired_excess() -> None:
    exact, model = torch.tensor([-2.0, -4.0, -6.0]), torch.tensor([-2.5, -4.25, -7.0])
    found = floor(exact, model, torch.tensor([2, 4, 6]))
    assert found.perplexity == pytest.approx(math.e)
    assert found.excess.value == pytest.approx(1.75 / 3)
    assert found.excess.se == pytest.approx(torch.tensor([0.5, 0.25, 1.0]).std().item() / math.sqrt(3))


def test_excess_estimates_the_divergence_from_the_truth() -> None:
    """Two categorical laws: E[log p - log q] = KL(p || q). A sign or a pairing error is many errors away."""
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    divergence = float((p * (p / q).log()).sum())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        x = torch.multinomial(p, 20_000, replacement=True)
    found = floor(p.log()[x], q.log()[x], torch.ones(20_000))
    assert abs(found.excess.value - divergence) < 5 * found.excess.se  # a false alarm in 1.7 million
    assert abs(found.excess.value + divergence) > 20 * found.excess.se  # planted: the sign
