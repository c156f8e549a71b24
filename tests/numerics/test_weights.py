"""Importance weights against closed forms and against ArviZ's PSIS."""

from __future__ import annotations

import importlib.metadata
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from sri_pyro.evaluation.diagnostics import psis
from sri_pyro.numerics.weights import (
    effective_sample_size,
    khat_threshold,
    log_mean_exp,
    log_mean_exp_se,
    normalised,
    pareto_smooth,
    relative_variance,
    truncated,
)

CLASSIC = importlib.metadata.version("arviz").startswith("0.")
# ArviZ 0.23 rounds the length of the tail up, as the paper does, 1.x down: there only whole lengths
# can agree, and tails of five draws are refused.
SIZES = (100, 225, 400, 1024, 1600) + ((21, 26, 226, 512, 1000) if CLASSIC else ())


def many_tails(num_samples: int) -> Tensor:
    """Log weights with light to absurd tails, shape [S, 8], float64."""
    rng = np.random.default_rng(20261122)
    shape = num_samples
    columns = [
        *(scale * rng.normal(size=shape) for scale in (0.01, 0.3, 1.0, 3.0, 30.0)),
        -(rng.normal(size=shape) ** 2) - 200.0,  # bounded above
        0.9 * rng.exponential(size=shape),  # Pareto with k = 0.9
        rng.standard_t(3, size=shape),
    ]
    return torch.tensor(np.stack(columns, axis=1))


def gaussian_log_weights(num_samples: int, num_sentences: int, proposal_sd: float) -> Tensor:
    """Target 7 N(0, I_2), proposal N(0, s^2 I_2): E w = 7 and every other moment are known."""
    z = proposal_sd * torch.randn(num_samples, num_sentences, 2, dtype=torch.float64)
    excess = (-0.5 * z.square() * (1 - proposal_sd**-2) + math.log(proposal_sd)).sum(-1)
    return math.log(7.0) + excess


def gaussian_moment(order: int, proposal_sd: float) -> float:
    """E (w / 7)^order of :func:`gaussian_log_weights`: (s^m / sqrt(1 + m (s^2 - 1)))^2."""
    return proposal_sd ** (2 * order) / (1 + order * (proposal_sd**2 - 1))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")  # ArviZ 0.23's fit
@pytest.mark.parametrize("num_samples", SIZES)
def test_pareto_smoothing_agrees_with_arviz(num_samples: int) -> None:
    """The other library, one vector at a time: a wrong tail, prior, grid or quantile would show."""
    log_w = many_tails(num_samples)
    expected, expected_khat = psis(log_w)
    smoothed, khat = pareto_smooth(log_w)
    np.testing.assert_allclose(khat, expected_khat, atol=1e-10, rtol=0)
    smoothed = smoothed - smoothed.logsumexp(0)
    np.testing.assert_allclose(smoothed, expected, atol=1e-8, rtol=0)


def test_the_sign_of_the_weights_matters() -> None:
    """Positive control: log likelihoods in place of log weights give another k-hat."""
    log_w = many_tails(400)[:, 5:7]
    _, khat = pareto_smooth(log_w)
    _, of_the_negative = pareto_smooth(-log_w)
    assert ((khat - of_the_negative).abs() > 0.5).all()


@pytest.mark.parametrize("num_tied", [3, 30, 300])
@pytest.mark.skipif(not CLASSIC, reason="ArviZ 1.x cuts ties another way and refuses flat tails")
def test_ties_and_zero_weights_agree_with_arviz(num_tied: int) -> None:
    """Ties with the cutoff leave 40 draws in the tail; a fit that counts them in would be wrong."""
    log_w = many_tails(512)
    order = log_w.argsort(0, descending=True)
    level = log_w.gather(0, order[[40]]).expand(num_tied, -1)
    tied = log_w.scatter(0, order[40 : 40 + num_tied], level)
    holes = log_w.scatter(0, order[60 : 60 + num_tied], -math.inf)
    for log_w in (tied, holes):
        _, expected_khat = psis(log_w)
        np.testing.assert_allclose(pareto_smooth(log_w)[1], expected_khat, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.3, 0.7, 1.2])
def test_khat_is_the_shape_of_a_pareto_law(shape: float) -> None:
    """Oracle: weights at the exact quantiles of a generalised Pareto law, whose tail has its shape.

    No sampling noise; what is left is the prior worth ten draws at 0.5, known, and the fit's own
    bias. A tail of the wrong sign or of the log weights themselves is off by 0.3 or more.
    """
    num_samples = 40_000
    upper = (torch.arange(num_samples, dtype=torch.float64) + 0.5) / num_samples
    excess = -upper.log() if shape == 0 else torch.expm1(-shape * upper.log()) / shape
    _, khat = pareto_smooth((1 + excess).log()[:, None])
    num_tail = 600
    assert khat.item() == pytest.approx((num_tail * shape + 5) / (num_tail + 10), abs=0.02)


@pytest.mark.parametrize(("proposal_sd", "shape"), [(0.5, 0.75), (0.8, 0.36)])
def test_khat_of_a_narrow_gaussian_proposal(proposal_sd: float, shape: float) -> None:
    """In two dimensions the weights of a too narrow proposal are exactly Pareto with k = 1 - s^2.

    The mean of 64 fits has standard error (1 + k) / sqrt(64 * 600); 6 of them and 0.01 of bias.
    """
    with torch.random.fork_rng():
        torch.manual_seed(1)
        _, khat = pareto_smooth(gaussian_log_weights(40_000, 64, proposal_sd))
    expected = (600 * shape + 5) / 610
    assert abs(khat.mean() - expected) < 6 * (1 + shape) / math.sqrt(64 * 600) + 0.01


def test_moments_of_a_wide_gaussian_proposal() -> None:
    """Oracle: closed-form moments of bounded weights. Gates of 5.5 standard errors: 1 in 10^7 each.

    A missing 1/S, a variance not divided by the squared mean, or base-10 logs would fail.
    """
    s, n = 1.3, 400_000
    with torch.random.fork_rng():
        torch.manual_seed(2)
        log_w = gaussian_log_weights(n, 1, s)
    m = [gaussian_moment(order, s) for order in range(5)]
    variance = m[2] - 1
    fourth = m[4] - 4 * m[3] + 6 * m[2] - 3
    assert abs(log_mean_exp(log_w).item() - math.log(7.0)) < 5.5 * math.sqrt(variance / n)
    se_variance = math.sqrt((fourth - variance**2) / n) + 2 * variance**1.5 / math.sqrt(n)
    assert abs(relative_variance(log_w).item() - variance) < 5.5 * se_variance
    assert log_mean_exp_se(log_w).item() == pytest.approx(math.sqrt(variance / n), rel=0.02)
    assert effective_sample_size(log_w).item() == pytest.approx(n / m[2], rel=0.01)


def test_the_standard_error_is_calibrated() -> None:
    """Over 4000 sentences of known evidence, z = error / se has mean square 1, within 5.5 se.

    False alarm 4e-8; a factor sqrt(S) or a one-sided formula would be far outside.
    """
    with torch.random.fork_rng():
        torch.manual_seed(3)
        log_w = gaussian_log_weights(1000, 4000, 1.3)
    z = (log_mean_exp(log_w) - math.log(7.0)) / log_mean_exp_se(log_w)
    assert abs(z.square().mean() - 1) < 5.5 * math.sqrt(2 / 4000)


def test_variance_and_sample_size_are_two_faces_of_one_number() -> None:
    """Algebra: ESS = S / (1 + CV^2 (S - 1) / S), with numpy's moments as the second reading."""
    log_w = many_tails(100)[:, :4] - 300.0  # far below the range of exp
    w = (log_w + 300.0).exp().numpy()
    cv2 = w.var(axis=0, ddof=1) / w.mean(axis=0) ** 2
    np.testing.assert_allclose(relative_variance(log_w), cv2, rtol=1e-9)
    np.testing.assert_allclose(effective_sample_size(log_w), 100 / (1 + cv2 * 0.99), rtol=1e-9)
    np.testing.assert_allclose(log_mean_exp(log_w), np.log(w.mean(axis=0)) - 300.0, rtol=1e-12)


def test_the_gradient_of_the_evidence_is_the_normalised_weights() -> None:
    """Autograd: d log mean w / d log w_s = w_s / sum w, one column each."""
    log_w = many_tails(30).requires_grad_()
    (gradient,) = torch.autograd.grad(log_mean_exp(log_w).sum(), log_w)
    torch.testing.assert_close(gradient, normalised(log_w.detach()))
    torch.testing.assert_close(gradient.sum(0), torch.ones(8, dtype=torch.float64))


def test_truncation_caps_at_the_root_of_the_sample_size() -> None:
    """By hand: cap = sqrt(S) times the raw mean; what is below stays bit for bit."""
    log_w = many_tails(400)
    w = (log_w - log_w.max(0).values).exp()
    capped = (truncated(log_w) - log_w.max(0).values).exp()
    torch.testing.assert_close(capped, torch.minimum(w, 20 * w.mean(0)))
    assert (capped < w).any(0).tolist()[:5] == [False, False, False, True, True]
    below = w < 19.9 * w.mean(0)
    assert torch.equal(truncated(log_w)[below], log_w[below])


def test_smoothing_touches_only_the_tail_and_keeps_its_order() -> None:
    """It neither moves the body, nor reorders draws, nor exceeds the largest raw weight."""
    log_w = many_tails(512)
    smoothed, _ = pareto_smooth(log_w)
    order = log_w.argsort(0)
    sorted_raw, sorted_smooth = log_w.gather(0, order), smoothed.gather(0, order)
    num_tail = math.ceil(3 * math.sqrt(512))
    assert torch.equal(sorted_raw[:-num_tail], sorted_smooth[:-num_tail])
    assert (sorted_raw[-num_tail:] != sorted_smooth[-num_tail:]).all(1).any()
    assert (sorted_smooth.diff(dim=0) >= 0).all()
    assert (smoothed.max(0).values <= log_w.max(0).values + 1e-12).all()


def test_sentences_do_not_meet() -> None:
    """Vectorised equals one at a time, also when ties give every sentence a tail of its own."""
    log_w = many_tails(100)
    log_w[log_w > log_w.quantile(0.9, 0)] = 50.0
    log_w[:, 2] = many_tails(100)[:, 2]
    smoothed, khat = pareto_smooth(log_w)
    for b in range(8):
        alone, khat_alone = pareto_smooth(log_w[:, b : b + 1])
        torch.testing.assert_close(smoothed[:, b : b + 1], alone, rtol=0, atol=1e-12)
        torch.testing.assert_close(khat[b : b + 1], khat_alone, rtol=0, atol=1e-12)


def test_khat_knows_neither_scale_nor_order() -> None:
    log_w = many_tails(512)
    smoothed, khat = pareto_smooth(log_w)
    shuffle = torch.from_numpy(np.random.default_rng(4).permutation(512))
    moved, khat_moved = pareto_smooth(log_w[shuffle] - 900.0)
    torch.testing.assert_close(khat_moved, khat, rtol=0, atol=1e-9)
    torch.testing.assert_close(moved, smoothed[shuffle] - 900.0, rtol=0, atol=1e-9)


def test_single_precision_goes_in_and_double_comes_out() -> None:
    log_w = many_tails(512).float()
    smoothed, khat = pareto_smooth(log_w)
    assert smoothed.dtype == khat.dtype == torch.float64
    torch.testing.assert_close(khat, pareto_smooth(log_w.double())[1], rtol=0, atol=0)


def test_too_few_draws_for_a_tail() -> None:
    log_w = many_tails(20)
    smoothed, khat = pareto_smooth(log_w)
    assert khat.isnan().all()
    assert torch.equal(smoothed, log_w)
    assert pareto_smooth(many_tails(21))[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_proposal_has_khat_minus_infinity(dtype: torch.dtype) -> None:
    """Equal weights, and weights that differ by rounding alone, have no tail: not ArviZ's +inf."""
    level = torch.tensor([-120.0, 0.0, 3.0], dtype=dtype)
    rounding = torch.zeros(512, 3, dtype=dtype)
    rounding[::7] = torch.finfo(dtype).eps * level.abs()
    for log_w in (level.expand(512, 3), level + rounding):
        smoothed, khat = pareto_smooth(log_w)
        assert khat.tolist() == [-math.inf] * 3
        assert torch.equal(smoothed, log_w.double())
        assert (effective_sample_size(log_w.double()) > 511.999).all()


def test_one_draw_carrying_all_has_khat_infinity() -> None:
    log_w = torch.zeros(512, 2)
    log_w[3, 0] = 40.0
    log_w[:, 1] = -math.inf
    log_w[5, 1] = -80.0
    assert pareto_smooth(log_w)[1].tolist() == [math.inf, math.inf]
    torch.testing.assert_close(effective_sample_size(log_w), torch.ones(2))


def test_weights_that_are_all_zero() -> None:
    log_w = torch.full((100, 1), -math.inf)
    smoothed, khat = pareto_smooth(log_w)
    assert khat.item() == math.inf
    assert (smoothed == -math.inf).all()
    assert log_mean_exp(log_w).item() == -math.inf
    assert effective_sample_size(log_w).item() == 0.0
    assert normalised(log_w).isnan().all()
    assert relative_variance(log_w).isnan().all()


def test_a_single_draw_has_no_standard_error() -> None:
    log_w = torch.tensor([[-3.0, 2.0]])
    assert torch.equal(log_mean_exp(log_w), log_w[0])
    assert log_mean_exp_se(log_w).isnan().all()


@pytest.mark.parametrize(
    ("num_samples", "threshold"), [(10, 0.0), (100, 0.5), (512, 0.63087), (2155, 0.7), (10**6, 0.7)]
)
def test_threshold(num_samples: int, threshold: float) -> None:
    assert khat_threshold(num_samples) == pytest.approx(threshold, abs=1e-4)


def test_threshold_of_one_draw() -> None:
    message = "a k-hat threshold needs at least 2 draws; got 1. Draw more per sentence."
    with pytest.raises(ValueError, match=re.escape(message)):
        khat_threshold(1)


@pytest.mark.parametrize("wrong", [torch.zeros(512), torch.zeros(512, 2, dtype=torch.int64)])
def test_wrong_kind_of_weights(wrong: Tensor) -> None:
    message = (
        "log weights must be floating point of shape [draws, sentences]; "
        f"got {wrong.dtype} of shape {tuple(wrong.shape)}."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        pareto_smooth(wrong)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_not_a_number(value: float) -> None:
    log_w = torch.zeros(50, 3)
    log_w[7, 1:] = value
    message = (
        "log weights must be finite or -inf; 2 of 3 sentences have NaN or +inf, the first is "
        "sentence 1. Check the log-probabilities that they are made of."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        pareto_smooth(log_w)
