"""Metrics against numbers by hand, simulated data sets of known truth, and planted wrong formulas.

Gates allow one false alarm in 1e8 runs of a test unless a test says otherwise (``oracles.gate``).
"""

import math
import re

import pytest
import torch
from scipy import stats
from torch import Tensor

from sri_pyro.evaluation.metrics import (
    jensen_check,
    mean_estimate,
    mutual_information,
    perplexity,
)
from sri_pyro.evaluation.units import ActiveUnits, active_units
from tests.oracles import gate

pytestmark = pytest.mark.usefixtures("float64")


# --- Means and perplexity ----------------------------------------------------------------------------------


def test_mean_and_its_error_by_hand() -> None:
    found = mean_estimate(torch.tensor([1.0, math.nan, 4.0, 7.0]), "by hand")
    assert (found.value, found.num_samples, found.method) == (4.0, 3, "by hand")
    assert found.se == pytest.approx(3.0 / math.sqrt(3))


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_an_impossible_sentence_is_not_left_out_of_the_mean(infinite: float) -> None:
    """NaN is no number and is left out; an infinity is one, or a model would gain by calling text impossible."""
    found = mean_estimate(torch.tensor([1.0, infinite, math.nan]))
    assert (found.value, found.num_samples) == (infinite, 2)
    assert math.isnan(found.se)


def test_perplexity_by_hand() -> None:
    """Two sentences of 2 and 4 tokens, 6 and 6 nats: R = 2, residuals 2 and -2, se = sqrt(2 * 8) / 6 = 2/3.

    Catches the mean of ratios (2.25), the standard error of a mean of sentences, n for n - 1.
    """
    found = perplexity(torch.tensor([-6.0, -6.0]), torch.tensor([0.3, 0.4]), torch.tensor([2, 4]))
    assert found.estimate == pytest.approx(math.exp(2.0))
    assert found.log_se_sampling == pytest.approx(4 / 6)
    assert found.log_se_monte_carlo == pytest.approx(0.5 / 6)
    both = math.hypot(4 / 6, 0.5 / 6)
    assert found.lower == pytest.approx(math.exp(2 - 1.959963984540054 * both))
    assert found.upper == pytest.approx(math.exp(2 + 1.959963984540054 * both))
    assert found.se == pytest.approx(math.exp(2) * both)
    assert (found.num_tokens, found.num_sentences) == (6, 2)


def test_a_refused_sentence_is_not_left_out_in_silence() -> None:
    found = perplexity(torch.tensor([-6.0, math.nan]), torch.zeros(2), torch.tensor([2, 4]))
    assert math.isnan(found.estimate)
    assert math.isnan(found.upper)


@pytest.mark.parametrize("monte_carlo", [0.0, 30.0])
def test_the_interval_covers(monte_carlo: float) -> None:
    """300 data sets of 150 sentences, lengths vary and nats grow with length: at least 264 of the 95 % intervals
    hold the truth (fewer has probability below 1e-6 at a true coverage of 94.5 %).

    Where Monte Carlo noise dominates the interval is wider than it need be, for the residuals of estimates
    carry that noise already. Planted: an interval of the sentences' own spread alone, which then covers
    half; and the error of a mean of sentences, which counts the spread of lengths.
    """
    truth, covered, alone, widths, naive = 3.0, 0, 0, [], []
    for _ in range(300):
        lengths = torch.randint(3, 40, (150,))
        nll = truth * lengths + lengths.sqrt() * 2 * torch.randn(150)
        se = monte_carlo * torch.rand(150)
        log_px = -(nll + se * torch.randn(150))
        found = perplexity(log_px, se, lengths)
        covered += found.lower < math.exp(truth) < found.upper
        widths.append(math.hypot(found.log_se_sampling, found.log_se_monte_carlo))
        naive.append(log_px.std().item() / math.sqrt(150) / lengths.double().mean().item())
        spread = 2 * lengths.sqrt().norm() / lengths.sum()
        alone += bool(abs(math.log(found.estimate) - truth) < 1.96 * spread)
    assert covered >= 264
    if monte_carlo:
        assert alone < 240
    else:
        assert covered <= 299
        assert sum(naive) > 1.5 * sum(widths)


# --- Active units ------------------------------------------------------------------------------------------


def chains(signal: Tensor, num_chains: int, spread: float = 1.0) -> Tensor:
    """Draws [M, n, D] around the sentences' true means [n, D]."""
    return signal + spread * torch.randn(num_chains, *signal.shape)


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


# --- Mutual information ------------------------------------------------------------------------------------


def channel(nats: float, sentences: int, dim: int = 2, fitted: int = 60, held_out: int = 4) -> tuple:
    """A Gaussian channel: means of variance v, draws of variance 1, I = D/2 log(1 + v)."""
    v = math.exp(2 * nats / dim) - 1
    signal = math.sqrt(v) * torch.randn(sentences, dim)
    fit = chains(signal, fitted)
    centred = fit - fit.mean(0)
    pooled = torch.einsum("mnd,mne->de", centred, centred) / (sentences * (fitted - 1))
    return fit.mean(0), pooled, chains(signal, held_out)


@pytest.mark.parametrize("nats", [0.5, 2.0, 3.5])
def test_information_of_a_gaussian_channel(nats: float) -> None:
    """Below the truth in expectation, and near it while log n = 6.6 leaves room: 12 data sets of 700 sentences.

    Catches a denominator without the own sentence (above the truth), a lost 1/n, critics of the held-out draws.
    """
    found = torch.tensor([mutual_information(*channel(nats, 700)).value for _ in range(12)])
    standard_error = found.std() / math.sqrt(12)
    assert found.mean() - nats < stats.t.isf(1e-8, 11) * standard_error
    assert found.mean() > nats - 0.15
    assert found.max() < math.log(700)


def test_information_is_capped_at_log_n() -> None:
    found = mutual_information(*channel(40.0, 50))
    assert found.value <= math.log(50) + 1e-9
    assert found.value > math.log(50) - 1e-3


def test_a_collapsed_code_has_no_information() -> None:
    found = mutual_information(*channel(0.0, 2000))
    assert abs(found.value) < 0.05 + 6 * found.se
    assert found.value < 6 * found.se


def test_critics_of_the_scored_draws_would_be_seen() -> None:
    """Planted: the critics are fitted on the very draws that are scored; a collapsed code then looks informative."""
    mean, pooled, _ = channel(0.0, 500, dim=8, fitted=4)
    z = mean[None] + 0.0
    assert mutual_information(mean, pooled / 4, z).value > 1


# --- Jensen ------------------------------------------------------------------------------------------------


def test_jensen_check_by_hand() -> None:
    nll, reconstruction = torch.tensor([40.0, 41.0, 42.0]), torch.tensor([30.0, 30.0, 30.0])
    found = jensen_check(nll, reconstruction, torch.tensor([11.0, 12.0, 16.0]), torch.zeros(3), binding=True)
    assert found.gap.value == pytest.approx(2.0)
    assert found.gap.se == pytest.approx(math.sqrt(3.0) / math.sqrt(3))
    assert not found.violated


@pytest.mark.parametrize(
    ("gap", "binding", "violated"),
    [(-4, True, True), (-2, True, False), (-4, False, False), (4, True, False)],
)
def test_only_a_binding_gap_three_errors_below_zero_is_a_violation(
    gap: int, binding: bool, violated: bool
) -> None:
    """Gaps of `gap` standard errors, paired: sentences differ by far more than the gap itself."""
    noise = torch.randn(100)
    noise = (noise - noise.mean()) / noise.std()
    nll = 40 + 10 * torch.randn(100)
    reconstruction = nll - 5.0
    kl = 5.0 + noise + gap / 10
    found = jensen_check(nll, reconstruction, kl, torch.zeros(100), binding=binding)
    assert found.gap.se == pytest.approx(0.1)
    assert (found.binding, found.violated) == (binding, violated)


@pytest.mark.parametrize(("gap", "se", "violated"), [(-0.04, 0.3, False), (-0.05, 0.3, True), (-0.002, math.nan, True),
                                                     (-0.0009, 0.0, False)])  # fmt: skip
def test_an_exact_inference_does_not_violate_by_the_bias_of_log_p(
    gap: float, se: float, violated: bool
) -> None:
    """Gaps without scatter, as an exact posterior has: the NLL is too large by se^2 / 2 = 0.045, rounding by 0.001."""
    nll = torch.full((50,), 40.0)
    found = jensen_check(nll, nll - 5, torch.full((50,), 5 + gap), torch.full((50,), se), binding=True)
    assert found.violated is violated
