"""Metrics against numbers by hand, simulated data sets of known truth, and planted wrong formulas.

Gates allow one false alarm in 1e8 runs of a test unless a test says otherwise (``oracles.gate``).
"""

import math

import pytest
import torch
from scipy import stats

from sri_pyro.evaluation.metrics import (
    jensen_check,
    mean_estimate,
    mutual_information,
    perplexity,
)
from tests.evaluation.helpers import chains

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
