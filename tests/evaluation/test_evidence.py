"""Evidence against closed forms in 32 dimensions and against quadrature on text small enough to list.

Gates allow one false alarm in 1e8 runs of a test (``oracles.gate``), by Student's law where the error of the
mean is estimated from few replicates. Heavy-tailed weights are never z-tested: only logarithms and bounded
weights.
"""

import math
import re

import pytest
import torch

from sri_pyro.evaluation import (
    EVIDENCE,
    AnnealedImportance,
    EvidenceEstimator,
    GaussianImportance,
    PriorImportance,
    SentenceEvidence,
    estimate_evidence,
)
from sri_pyro.evaluation.evidence import Weighted, score
from sri_pyro.inference import ShortRunLangevin
from sri_pyro.numerics.langevin import LeimkuhlerMatthews
from sri_pyro.numerics.schedules import ConstantSteps
from tests.evaluation.helpers import TUNED, Forbidden, Independent, exact_text, off, selectable, t_gate
from tests.oracles import LinearGaussian, gate

pytestmark = pytest.mark.usefixtures("float64")


# --- The default estimator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spectrum", TUNED)
def test_default_is_within_a_twentieth_of_a_nat_in_32_dimensions(spectrum: str) -> None:
    """The headline claim: |mean error| < 0.05 nats with default options, 64 sentences x 6 replicates.

    The standard error is 0.004 nats (one sentence: 0.08) and the Jensen bias about -0.005, so the gate is ten
    standard errors away. Prior sampling, the positive control, is off by nats.
    """
    oracle = LinearGaussian.build(spectrum)
    _, x = oracle.sample(64)
    target, run = selectable(oracle, x), ShortRunLangevin(20, LeimkuhlerMatthews(), TUNED[spectrum])
    exact = oracle.log_evidence(x)
    found = [estimate_evidence(target, run, GaussianImportance())[0] for _ in range(6)]
    errors = torch.stack([evidence.log_px - exact for evidence in found])
    standard_error = (errors.std() / math.sqrt(errors.numel())).item()
    assert standard_error < 0.006
    assert abs(errors.mean().item()) < 0.05
    assert abs(errors.mean().item()) < 0.02 + gate(3) * standard_error  # what it does, not only what it must
    stated = torch.stack([evidence.se for evidence in found])
    assert (
        0.8 < ((errors / stated).square().mean().sqrt()).item() < 1.35
    )  # the stated errors are the true ones
    assert (torch.stack([evidence.khat for evidence in found]) < 0.7).double().mean() > 0.97
    prior = estimate_evidence(target, run, PriorImportance())[0]
    assert (prior.log_px - exact).mean() < -1


def test_dropping_the_proposals_log_det_would_be_seen() -> None:
    """Planted bug: the Gaussian's density without its determinant is nats off, where the gate is 0.05."""
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(16)
    target = selectable(oracle, x)
    mean, covariance = oracle.posterior(x)
    law = torch.distributions.MultivariateNormal(mean, 1.2 * covariance)
    z = law.sample((512,))
    right = SentenceEvidence.of(score(target, z, law.log_prob(z))).log_px
    wrong = SentenceEvidence.of(
        score(target, z, law.log_prob(z) + 0.5 * torch.logdet(1.2 * covariance))
    ).log_px
    assert abs((right - oracle.log_evidence(x)).mean()) < 0.1
    assert abs((wrong - oracle.log_evidence(x)).mean()) > 3


TEXTS = [("lstm", 1), ("gru", 1), ("bag_of_words", 1), ("lstm", 2)]


@pytest.mark.parametrize(("decoder", "latent_dim"), TEXTS)
def test_default_agrees_with_quadrature_on_real_decoders(decoder: str, latent_dim: int) -> None:
    """Every row of a three-word language: the error is that which is stated, and the rows add up to one.

    Catches padding that is scored, an end of sentence that is not, a prior counted twice.
    """
    oracle, exact, divergence, mean = exact_text(decoder, latent_dim)
    target, run = oracle.target(), ShortRunLangevin(10, LeimkuhlerMatthews(), ConstantSteps(0.05))
    found = [estimate_evidence(target, run, GaussianImportance())[0] for _ in range(8)]
    errors = torch.stack([evidence.log_px - exact for evidence in found])
    stated = torch.stack([evidence.se for evidence in found])
    jensen = 0.5 * stated.square().mean(0)  # E log p_hat is below log p(x) by CV^2 / 2S
    z = (errors + jensen) / stated
    assert abs(off(errors.mean(1) + jensen.mean())) < t_gate(8)
    assert abs(z.mean().item()) < gate(1) * z.std().item() / math.sqrt(z.numel())
    assert 0.8 < z.std().item() < 1.25
    assert stated.max() < 0.2
    for evidence in found:  # p_hat of all rows: independent given the fit, so variances add
        p, variance = evidence.log_px.exp(), (evidence.log_px.exp() * evidence.se).square()
        assert abs(p.sum().item() - 1) < gate(8) * variance.sum().sqrt().item()
    divergences = torch.stack([evidence.kl_posterior_prior for evidence in found])
    assert (divergences.mean(0) - divergence).abs().max() < 0.25
    assert (divergences.mean() - divergence.mean()).abs() < 0.01
    means = torch.stack([evidence.posterior_mean for evidence in found])
    assert (means.mean(0) - mean).abs().max() < 0.2


BOUNDS: dict[str, EvidenceEstimator] = {
    "gaussian": GaussianImportance(num_samples=64, pilot_chains=40),
    "prior": PriorImportance(num_samples=64),
    "langevin": AnnealedImportance(num_samples=4, temperatures=8, transition="langevin"),
    "hmc": AnnealedImportance(num_samples=4, temperatures=8, transition="hmc"),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_every_estimate_is_a_lower_bound_in_expectation(name: str) -> None:
    """E log p_hat <= log p(x): one-sided. Few draws on purpose, so that the bound is loose where it is real.

    A harmonic mean, the positive control, stands far above.
    """
    oracle = LinearGaussian.build("power1", dim=8, information=5.0)
    _, x = oracle.sample(64)
    target, run = selectable(oracle, x), ShortRunLangevin(20, LeimkuhlerMatthews(), ConstantSteps(0.12))
    exact = oracle.log_evidence(x)
    found = torch.stack([estimate_evidence(target, run, BOUNDS[name])[0].log_px for _ in range(6)])
    assert off(found - exact) < gate(1)
    if name != "gaussian":
        assert off(found - exact) < -9  # the bound is not vacuous here: nothing was compared with itself
    if name == "prior":
        mean, covariance = oracle.posterior(x)
        z = torch.distributions.MultivariateNormal(mean, covariance).sample((64,))
        harmonic = math.log(64) - (-oracle.log_likelihood(x, z)).logsumexp(0)
        assert off(harmonic - exact) > 9


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_average_weight_is_unbiased_even_where_the_fit_is_bad(share: float) -> None:
    """E p_hat = p(x) for bounded weights: a pilot two deviations off, 16 draws, 250 replicates of 40 rows.

    Weights are at most p(x | z) / alpha, so the central limit applies. Catches a component's density in
    place of the mixture's, a share that is drawn but not weighed, draws that know the fit's own sample.
    """
    oracle, exact, *_ = exact_text("gru", 1)
    target = oracle.target()
    pilot = Independent(torch.full((40, 1), 1.5), torch.full((40, 1), 0.4))
    estimator = GaussianImportance(num_samples=16, pilot_chains=8, prior_share=share, refits=0)
    ratios, wrong = [], []
    for _ in range(250):
        (_, draws), *_ = estimator(target, pilot)
        assert (draws.log_weight <= draws.log_likelihood - math.log(share) + 1e-9).all()
        ratios.append((draws.log_weight.exp().mean(0) / exact.exp()).mean())
        wrong.append((draws.log_weight.exp().mean(0) * (1 - share) / exact.exp()).mean())
    assert abs(off(torch.stack(ratios) - 1)) < t_gate(250)
    if share == 0.3:  # positive control: the share forgotten in the density
        assert abs(off(torch.stack(wrong) - 1)) > 6


def test_draws_are_not_the_pilots() -> None:
    """The proposal is fitted on one sample and weighed on another. Planted bug: weights of the pilot itself."""
    oracle, exact, *_ = exact_text("gru", 1)
    target = oracle.target()
    pilot = Independent(torch.zeros(40, 1), torch.ones(40, 1))
    estimator = GaussianImportance(num_samples=64, pilot_chains=32)
    pairs = estimator(target, pilot)
    assert len(pilot.drawn) == 1
    assert pilot.drawn[0].shape[0] == 32
    for _, draws in pairs:
        assert not torch.isin(draws.z, pilot.drawn[0]).any()
    dependent = []
    for _ in range(300):
        z = torch.randn(4, 40, 1)
        fit = torch.distributions.Normal(z.mean(0), 1.1 * z.std(0))
        log_prior, log_likelihood = target.value(z)
        weight = (log_prior + log_likelihood - fit.log_prob(z).sum(-1)).exp().mean(0)
        dependent.append((weight / exact.exp()).mean())
    assert abs(off(torch.stack(dependent) - 1)) > 9  # four draws that fitted their own proposal


# --- Summaries ---------------------------------------------------------------------------------------------


def test_kl_and_posterior_mean_in_32_dimensions() -> None:
    """KL(posterior || prior) by self-normalised weights against its closed form: 4096 draws, 32 sentences."""
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(32)
    run = ShortRunLangevin(20, LeimkuhlerMatthews(), TUNED["power1"])
    evidence, _ = estimate_evidence(selectable(oracle, x), run, GaussianImportance(num_samples=4096))
    mean, covariance = oracle.posterior(x)
    exact = 0.5 * (covariance.trace() + mean.square().sum(-1) - 32 - torch.logdet(covariance))
    errors = evidence.kl_posterior_prior - exact
    assert abs(off(errors)) < t_gate(32)
    assert errors.abs().max() < 1
    assert abs(errors.mean().item()) < 0.1
    scale = math.sqrt(32 * 32 / evidence.ess.mean().item())
    assert (evidence.posterior_mean - mean).norm() < 1.5 * scale
    wrong = (
        evidence.kl_posterior_prior + evidence.log_px - oracle.log_evidence(x).mean()
    )  # another row's evidence
    assert abs((wrong - exact).std()) > 3 * errors.std()


def test_summary_of_weights_by_hand() -> None:
    """Four draws of one sentence, every number with pencil and paper."""
    weight = torch.tensor([1.0, 2.0, 3.0, 2.0])[:, None]
    z = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(4, 1, 1)
    log_likelihood = torch.tensor([-1.0, -2.0, -3.0, -4.0])[:, None]
    found = SentenceEvidence.of(
        Weighted(z, weight.log(), log_likelihood, torch.ones(1), torch.zeros(1, dtype=torch.bool))
    )
    assert found.log_px.item() == pytest.approx(math.log(2.0))
    assert found.se.item() == pytest.approx(math.sqrt(2 / 3) / 2 / 2)
    assert found.ess.item() == pytest.approx(64 / 18)
    assert found.posterior_mean.item() == pytest.approx((2 + 6 + 6) / 8)
    assert found.kl_posterior_prior.item() == pytest.approx(-(1 + 4 + 9 + 8) / 8 - math.log(2.0))
    assert found.num_samples.item() == 4


def test_draws_of_no_weight_add_nothing_to_the_divergence() -> None:
    """p(x | z) = 1 where z > 0 and else 0: log p(x) = -log 2 and KL(posterior || prior) = log 2 in every estimate.

    Oracle: with these weights both are logs of the share of positive draws. Catches 0 * -inf, which is NaN; a
    sentence all of whose weights are zero has no posterior, and stays NaN.
    """
    z = torch.tensor([-1.0, 2.0, -0.5, 1.0]).reshape(4, 1, 1)
    impossible = torch.where(z[..., 0] > 0, 0.0, -math.inf).expand(4, 2).clone()
    impossible[:, 1] = -math.inf
    none = torch.zeros(2, dtype=torch.bool)
    found = SentenceEvidence.of(Weighted(z.expand(4, 2, 1), impossible, impossible, torch.ones(2), none))
    assert found.log_px.tolist() == pytest.approx([-math.log(2), -math.inf])
    assert found.kl_posterior_prior[0].item() == pytest.approx(math.log(2))
    assert found.kl_posterior_prior[1].isnan()


def test_score_weighs_in_chunks_as_in_one_piece() -> None:
    oracle, *_ = exact_text("lstm", 1)
    target = oracle.target()
    z = torch.randn(900, 40, 1)
    log_proposal = -z.square().sum(-1)
    found = score(target, z, log_proposal)
    log_prior, log_likelihood = target.value(z)
    torch.testing.assert_close(found.log_weight, log_prior + log_likelihood - log_proposal, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.log_likelihood, log_likelihood, rtol=0, atol=1e-9)
    assert not found.log_weight.requires_grad


def test_prior_importance_is_the_average_likelihood() -> None:
    oracle, *_ = exact_text("bag_of_words", 1)
    evidence, draws = estimate_evidence(oracle.target(), Forbidden(), PriorImportance(num_samples=100))
    by_hand = draws.log_likelihood.logsumexp(0) - math.log(100)
    torch.testing.assert_close(evidence.log_px, by_hand, rtol=0, atol=1e-12)
    torch.testing.assert_close(draws.log_weight, draws.log_likelihood, rtol=0, atol=1e-12)


# --- Options -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", EVIDENCE.values(), ids=EVIDENCE)
def test_one_draw_is_too_few_to_know_its_error(estimator: type) -> None:
    """Refused when it is asked for, not hours later by the first evaluation that uses it."""
    with pytest.raises(
        ValueError, match=r"^num_samples must be at least 2, for an error to be known; got 1\.$"
    ):
        estimator(num_samples=1)


@pytest.mark.parametrize(
    "option",
    [{"pilot_chains": 1}, {"inflation": 0.0}, {"prior_share": 0.0}, {"prior_share": 1.0}, {"refits": -1}],
    ids=str,
)
def test_an_option_out_of_range_is_refused(option: dict) -> None:
    defaults = {"pilot_chains": 64, "inflation": 1.2, "prior_share": 0.05, "refits": 1}
    got = ", ".join(str(value) for value in (defaults | option).values())
    sentence = (
        "the estimator 'gaussian' needs pilot_chains >= 2, inflation > 0, prior_share in (0, 1) and refits >= 0; "
        f"got {got}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        GaussianImportance(**option)


def test_the_table_names_what_the_docs_name() -> None:
    assert list(EVIDENCE) == ["gaussian", "ladder", "prior", "annealed", "jacobian"]
