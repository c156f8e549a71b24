"""Free bits against the masked form of the published code, whose gradient it has, and against sums by hand."""

import re

import pytest
import torch
from torch import Tensor

from sri_pyro.numerics.free_bits import FreeBitsPer, require_free_bits, with_free_bits

pytestmark = pytest.mark.usefixtures("float64")
KL = torch.tensor([[0.5, 0.1, 0.0], [3.0, 2.0, 0.2], [0.29, 0.9, 0.31]], dtype=torch.float64)
PER: list[FreeBitsPer] = ["dimension", "sentence", "batch"]


def masked(kl: Tensor, rate: float, per: FreeBitsPer) -> Tensor:
    """What Li et al. minimise: terms that have not reached their rate are multiplied by zero. Summed over a batch."""
    if per == "dimension":
        return ((kl > rate / kl.shape[1]) * kl).sum()
    if per == "sentence":
        total = kl.sum(1)
        return ((total > rate) * total).sum()
    mean = kl.sum(1).mean()
    return len(kl) * (mean > rate) * mean


@pytest.mark.parametrize("per", PER)
@pytest.mark.parametrize("rate", [0.9, 1.4, 2.0, 3.0, 100.0])
def test_the_gradient_is_that_of_the_published_mask(per: FreeBitsPer, rate: float) -> None:
    """Zero below the hinge, whole above. Catches a rate that is not shared out, a mask over the wrong axis, and
    the batch's mean counted once instead of for every sentence.
    """
    kl = KL.clone().requires_grad_()
    (found,) = torch.autograd.grad(with_free_bits(kl, rate, per).sum(), kl)
    (exact,) = torch.autograd.grad(masked(kl, rate, per), kl, materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(found, exact)
    assert set(found.unique().tolist()) <= {0.0, 1.0}


def test_the_rates_tell_the_three_apart() -> None:
    """What the test above ran on: some terms below and some above, of each kind."""
    assert ((KL > 0.9 / 3).sum(), (KL.sum(1) > 0.9).sum(), (KL.sum(1) > 1.4).sum()) == (5, 2, 2)
    assert 2.0 < KL.sum(1).mean() < 3.0


@pytest.mark.parametrize("per", PER)
def test_the_value_is_the_larger_of_rate_and_kl(per: FreeBitsPer) -> None:
    """By hand, term by term, where the mask would give zero."""
    rate = 1.2
    if per == "dimension":
        exact = [sum(max(rate / 3, float(term)) for term in row) for row in KL]
    elif per == "sentence":
        exact = [max(rate, float(row.sum())) for row in KL]
    else:
        exact = [max(rate, sum(float(row.sum()) for row in KL) / 3)] * 3
    torch.testing.assert_close(with_free_bits(KL, rate, per), torch.tensor(exact))
    assert (with_free_bits(KL, 1000.0, per) == 1000.0).all()


@pytest.mark.parametrize("per", PER)
def test_without_a_rate_nothing_changes(per: FreeBitsPer) -> None:
    torch.testing.assert_close(with_free_bits(KL, 0.0, per), KL.sum(1))


def test_a_negative_estimate_is_not_raised_without_a_rate() -> None:
    """A KL from draws may be negative; clamping it at 0 would be a bias."""
    assert with_free_bits(torch.tensor([[-0.5]]), 0.0, "sentence").tolist() == [-0.5]


def test_bad_options_are_refused() -> None:
    require_free_bits(0.0, "batch")
    for arguments, message in (
        ((-1.0, "batch"), "free_bits must be a finite number of at least 0; got -1.0."),
        ((1.0, "row"), "unknown free_bits_per 'row'; known: batch, dimension, sentence."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            require_free_bits(*arguments)
