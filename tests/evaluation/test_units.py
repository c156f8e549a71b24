"""Active units against simulated codes of known variance, and planted wrong formulas."""

import math
import re

import pytest
import torch
from scipy import stats
from torch import Tensor

from sri_pyro.evaluation.units import ActiveUnits, active_units
from tests.evaluation.helpers import chains
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")


def units(z: Tensor) -> ActiveUnits:
    centred = z - z.mean(0)
    covariance = torch.einsum("mnd,mne->nde", centred, centred) / (len(z) - 1)
    return active_units(z.mean(0), covariance, len(z), z[0])


@pytest.mark.parametrize("num_chains", [10, 32, 64])
def test_a_collapsed_code_has_no_active_units(num_chains: int) -> None:
    """Q = N(0, I) for every one of 2000 sentences: the naive count says 32 of 32, the truth is 0.

    A true variance of 0 has a standard error of sqrt(2/2000)/M < 0.004, and must clear 0.01 from below;
    the bound is simultaneous, so even at M = 10 a false unit needs five standard errors.
    """
    found = units(chains(torch.zeros(2000, 32), num_chains))
    assert (found.count, found.of, found.num_chains) == (0, 32, num_chains)
    assert found.naive_count == 32
    assert found.naive_single_draw_count == 32
    assert max(found.variances) < 0.01 + 6 * math.sqrt(2 / 2000) / num_chains
    assert found.active_eigenvalues == 0 or num_chains == 10


@pytest.mark.parametrize("num_chains", [10, 64])
def test_eight_informative_dimensions_are_eight(num_chains: int) -> None:
    signal = torch.zeros(2000, 32)
    signal[:, 3:27:3] = 0.5 * torch.randn(2000, 8)
    found = units(chains(signal, num_chains, spread=math.sqrt(0.75)))
    assert found.count == 8
    assert found.variances == sorted(found.variances, reverse=True)
    assert found.variances[:8] == pytest.approx([0.25] * 8, abs=0.25 * gate(8) * math.sqrt(2 / 2000) * 1.4)
    assert all(low < value for low, value in zip(found.lower_bounds, found.variances, strict=True))


def test_eigenvalues_do_not_see_a_rotation_of_the_code() -> None:
    """Two informative directions, turned so that every unit carries a little: units say 8, eigenvalues say 2."""
    signal = torch.zeros(4000, 8)
    signal[:, :2] = torch.randn(4000, 2)
    z = chains(signal, 50, 0.3)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    straight, turned = units(z), units(z @ turn)
    assert straight.count == 2
    assert turned.count == 8
    torch.testing.assert_close(
        torch.tensor(turned.eigenvalues), torch.tensor(straight.eigenvalues), rtol=0, atol=1e-9
    )
    assert straight.active_eigenvalues == turned.active_eigenvalues == 2


def test_corrected_variance_is_unbiased() -> None:
    """20 sentences, 4 chains, 1500 replicates of true variance 0.3 and unequal noise: E A_j = 0.3, by the exact
    mean of a between/within analysis. Naive: 0.3 + E s^2 / 4. Catches n for n - 1, and a variance divided twice.
    """
    found, naive = [], []
    for _ in range(1500):
        signal = math.sqrt(0.3) * torch.randn(20, 2)
        noise = torch.tensor([0.5, 1.5])[torch.arange(20) % 2][:, None]
        z = signal + noise * torch.randn(4, 20, 2)
        values = units(z)
        found.append(sum(values.variances) / 2)
        naive.append(z.mean(0).var(0).mean().item())
    error = torch.tensor(found) - 0.3
    standard_error = error.std() / math.sqrt(1500)
    assert abs(error.mean()) < gate(1) * standard_error
    assert abs(torch.tensor(naive).mean() - 0.3 - 1.25 / 4) < gate(1) * standard_error
    assert standard_error < 0.006


@pytest.mark.parametrize("truth", [0.0, 0.01, 0.3])
def test_lower_bounds_hold_together(truth: float) -> None:
    """The chance that any of 8 bounds exceeds its truth is at most 5 %: 200 data sets of 300 sentences.

    At most 27 misses of 200: at a true rate of 5 % more have probability below 1e-6. Per-unit bounds without
    Bonferroni would miss a third of the time.
    """
    misses = 0
    for _ in range(200):
        z = chains(math.sqrt(truth) * torch.randn(300, 8), 16)
        misses += max(units(z).lower_bounds) > truth
    assert stats.binom.sf(27, 200, 0.05) < 1e-6
    assert misses <= 27


@pytest.mark.parametrize(("sentences", "truth"), [(48, 0.3), (300, 0.0101)])
def test_upper_bounds_hold_together(sentences: int, truth: float) -> None:
    """The chance that any of 8 upper bounds falls below its truth is at most 5 %: at most 27 misses of 200.

    Planted: bounds as far above the variances as the lower ones are below, for a variance that comes out small
    has a small error; at 48 sentences they miss a third of the time.
    """
    misses, mirrored = 0, 0
    for _ in range(200):
        found = units(chains(math.sqrt(truth) * torch.randn(sentences, 8), 16))
        misses += min(found.upper_bounds) < truth
        assert found.count <= found.at_most == sum(bound > 0.01 for bound in found.upper_bounds)
        mirrored += (
            min(2 * v - low for v, low in zip(found.variances, found.lower_bounds, strict=True)) < truth
        )
    assert misses <= 27
    assert sentences > 48 or mirrored > 40


def test_too_few_sentences_exclude_nothing() -> None:
    """Three sentences: no upper bound, so that all units may be active; a unit that never moves is none of them."""
    signal = torch.randn(3, 4)
    signal[:, 3] = 1.0
    mean, covariance = signal, torch.zeros(3, 4, 4)
    found = active_units(mean, covariance, 16, signal)
    assert found.at_most == 3
    assert found.upper_bounds[:3] == [math.inf] * 3
    assert found.upper_bounds[3] == 0


def test_bounds_are_not_vacuous() -> None:
    """A variance of 0.05 among 2000 sentences is called active: 20 standard errors above nothing."""
    found = units(chains(math.sqrt(0.05) * torch.randn(2000, 8), 32))
    assert found.count == 8


@pytest.mark.parametrize(("sentences", "num_chains"), [(1, 5), (5, 1)])
def test_too_little_to_tell(sentences: int, num_chains: int) -> None:
    with pytest.raises(ValueError) as caught:
        active_units(
            torch.zeros(sentences, 3), torch.zeros(sentences, 3, 3), num_chains, torch.zeros(sentences, 3)
        )
    assert re.search(r"two|at least 2", str(caught.value))
