"""Weights added up in pieces are the weights in one piece."""

import math

import pytest
import torch

from sri_pyro.numerics.weight_totals import WeightTotals
from sri_pyro.numerics.weights import (
    effective_sample_size,
    khat_threshold,
    log_mean_exp,
    log_mean_exp_se,
    pareto_smooth,
)

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("sizes", [[5000], [700, 100, 3000, 1200], [1] * 30 + [4970]], ids=str)
def test_pieces_add_up_to_the_whole(sizes: list[int]) -> None:
    """Five columns from light tails to heavy ones, one far from 0, one mostly without weight.

    Oracle: the same statistics of all weights at once; k-hat to the last bit. Catches a tail cut to what the draws so
    far need, squared deviations about the wrong average, and a piece of no weight that spoils the rest.
    """
    log_w = torch.randn(5000, 5) * torch.tensor([0.01, 1.0, 3.0, 1.0, 1.0])
    log_w[:, 3] -= 400
    log_w[:4900, 4] = -math.inf
    parts = log_w.split(sizes)
    totals = WeightTotals.of(parts[0], 5000)
    for part in parts[1:]:
        totals = totals.plus(WeightTotals.of(part, 5000), 5000)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(totals.log_mean, log_mean_exp(log_w), **close)
    torch.testing.assert_close(totals.se, log_mean_exp_se(log_w), **close)
    torch.testing.assert_close(totals.effective_sample_size, effective_sample_size(log_w), **close)
    assert torch.equal(totals.khat(), pareto_smooth(log_w)[1])
    assert totals.count.tolist() == [5000] * 5
    assert totals.threshold.tolist() == pytest.approx([khat_threshold(5000)] * 5)
    assert len(totals.tail) < 5000 / 10


def test_sentences_of_different_numbers_of_draws_stand_side_by_side() -> None:
    few, many = torch.randn(200, 2), 2 * torch.randn(3000, 1)
    both = WeightTotals.joined([WeightTotals.of(few), WeightTotals.of(many)])
    expected = torch.cat([pareto_smooth(few)[1], pareto_smooth(many)[1]])
    assert torch.equal(both.khat(), expected)
    assert torch.equal(both.at(torch.tensor([2])).khat(), expected[2:])
    assert both.threshold.tolist() == pytest.approx([khat_threshold(200)] * 2 + [khat_threshold(3000)])


def test_a_sentence_without_weight_has_no_error_and_no_effective_draw() -> None:
    """As in ``weights``: -inf, NaN, 0; single draws have no error and no tail."""
    nothing = WeightTotals.of(torch.full((30, 1), -math.inf)).plus(
        WeightTotals.of(torch.full((30, 1), -math.inf))
    )
    assert nothing.log_mean.item() == -math.inf
    assert nothing.se.isnan().item()
    assert nothing.effective_sample_size.item() == 0
    assert nothing.khat().item() == math.inf
    one = WeightTotals.of(torch.zeros(1, 1))
    assert one.se.isnan().item()
    assert one.khat().isnan().item()
    assert one.threshold.isnan().item()
