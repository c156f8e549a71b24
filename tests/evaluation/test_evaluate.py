"""Evaluate end to end on text small enough to list: every column against quadrature and the exact law of z_K.

Gates are 6 standard errors of the stated Monte Carlo size unless a test says otherwise: over the roughly
400 numbers looked at, one false alarm in a million runs.
"""

import json
import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sri_pyro.evaluation import (
    Evaluation,
    EvaluationOptions,
    GaussianImportance,
    JacobianImportance,
    PriorImportance,
    evaluate,
)
from sri_pyro.evaluation.chains import run_chains, trace_runs
from sri_pyro.inference import PriorDraws, ShortRunLangevin
from sri_pyro.models import DECODERS, LanguageModel
from sri_pyro.numerics.langevin import UnadjustedLangevin
from sri_pyro.numerics.schedules import ConstantSteps
from sri_pyro.types import BOS, PAD, Batch
from tests.oracles import (
    LOG_2PI,
    EnumerableText,
    LinearGaussian,
    all_rows,
    exact_law,
    quadrature,
    randomise,
    ula_law_on_grid,
)

pytestmark = pytest.mark.usefixtures("float64")
STEP, STEPS, CHAINS = 0.06, 6, 500


def run(record: bool = False, step: float = STEP, num_steps: int = STEPS) -> ShortRunLangevin:
    return ShortRunLangevin(num_steps, UnadjustedLangevin(), ConstantSteps(step), record_path=record)


@lru_cache
def evaluated(decoder: str) -> tuple[EnumerableText, Evaluation, Tensor]:
    """A whole evaluation in three shuffled batches of different width, and the order of the rows in it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        oracle = EnumerableText.build(decoder, latent_dim=1)
        order = torch.cat([torch.tensor([0, 1, 3, 8, 5, 2]), 9 + torch.randperm(31), torch.tensor([4, 7, 6])])
        batches = [oracle.rows.select(rows) for rows in order.split([6, 27, 7])]
        found = evaluate(
            oracle.model,
            run(),
            batches,
            GaussianImportance(),
            EvaluationOptions(num_chains=CHAINS, traced_sentences=5, traced_chains=400, exported_draws=30),
            tracer=run(record=True),
        )
    return oracle, found, order


@lru_cache
def exact(decoder: str) -> dict[str, Tensor]:
    """Every column by quadrature; laws of z_K by propagating the density over the grid."""
    oracle = EnumerableText.build(decoder, latent_dim=1)
    target = oracle.target()
    posterior = quadrature(target, points=321)
    law = ula_law_on_grid(target, [STEP] * STEPS, posterior.grid)
    assert (law.sum(0) - 1).abs().max() < 1e-6
    log_prior, log_likelihood = target.value(posterior.grid[:, None].expand(-1, 40, -1))

    def mean(values: Tensor) -> Tensor:
        return (law * values).sum(0)

    z = posterior.grid.expand(-1, 40)
    entropy = 0.5 * ((mean(z.square()) - mean(z).square()).log() + LOG_2PI + 1)
    joint = log_prior + log_likelihood
    return {
        "log_px": posterior.log_evidence,
        "kl_posterior_prior": posterior.divergence,
        "reconstruction": -mean(log_likelihood),
        "reconstruction_sd": (mean(log_likelihood.square()) - mean(log_likelihood).square()).sqrt(),
        "kl_q_prior": -mean(log_prior) - entropy,
        "kl_q_posterior": posterior.log_evidence - mean(joint) - entropy,
        "joint_sd": (mean(joint.square()) - mean(joint).square()).sqrt(),
        "mean": mean(z),
    }


def column(found: Evaluation, name: str) -> Tensor:
    return torch.tensor(found.table[name].to_numpy())


@pytest.mark.parametrize("decoder", ["lstm", "gru", "bag_of_words"])
def test_every_column_of_the_table(decoder: str) -> None:
    """Catches rows in another order than the ids, padding scored, an end not counted, a lost prior, a KL of the
    wrong direction, reconstruction at posterior draws instead of the run's.
    """
    _, found, order = evaluated(decoder)
    truth = {name: values[order] for name, values in exact(decoder).items()}
    assert found.table["id"].tolist() == order.tolist()
    oracle, *_ = evaluated(decoder)
    assert found.table["num_tokens"].tolist() == oracle.rows.lengths[order].tolist()
    assert list(found.tokens) == [[t for t in oracle.rows.tokens[i].tolist() if t != PAD] for i in order]
    se = column(found, "se")
    assert ((column(found, "log_px") - truth["log_px"]).abs() < 6 * se + 0.02).all()
    assert ((column(found, "kl_posterior_prior") - truth["kl_posterior_prior"]).abs() < 10 * se + 0.15).all()
    gate = 6 * truth["reconstruction_sd"] / math.sqrt(CHAINS)
    assert ((column(found, "reconstruction") - truth["reconstruction"]).abs() < gate).all()
    entropy_error = math.sqrt(1 / (2 * CHAINS))
    gate = 6 * (entropy_error + 0.9 / math.sqrt(CHAINS))
    assert ((column(found, "kl_q_prior") - truth["kl_q_prior"]).abs() < gate).all()
    gate = 6 * (entropy_error + truth["joint_sd"] / math.sqrt(CHAINS)) + 6 * se
    assert ((column(found, "kl_q_posterior") - truth["kl_q_posterior"]).abs() < gate).all()
    # and the columns are not each other, nor another row's
    assert ((column(found, "reconstruction") - truth["reconstruction"].flip(0)).abs() > 1).any()
    assert (truth["kl_q_prior"] - truth["kl_posterior_prior"]).abs().mean() > 0.1
    assert (column(found, "khat_threshold") - (1 - 1 / math.log10(512))).abs().max() < 0.05
    assert (column(found, "ess") <= column(found, "num_samples")).all()
    assert set(found.table["rounds"]) <= {1, 2}


@pytest.mark.parametrize("decoder", ["lstm", "gru", "bag_of_words"])
def test_headline_numbers_are_those_of_the_table_and_of_the_oracle(decoder: str) -> None:
    oracle, found, order = evaluated(decoder)
    metrics, truth = found.metrics, exact(decoder)
    tokens = int(oracle.rows.lengths.sum())
    log_px = column(found, "log_px")
    assert metrics["perplexity"]["estimate"] == pytest.approx(math.exp(-log_px.sum().item() / tokens))
    assert metrics["perplexity"]["num_tokens"] == tokens
    exact_log = -truth["log_px"].sum().item() / tokens
    stated = metrics["perplexity"]["log_se_monte_carlo"]
    assert abs(math.log(metrics["perplexity"]["estimate"]) - exact_log) < 6 * stated
    without_end = -truth["log_px"].sum().item() / (tokens - len(order))
    assert (
        abs(math.log(metrics["perplexity"]["estimate"]) - without_end) > 9 * stated
    )  # planted: EOS not counted
    for name, key in [
        ("nll", "log_px"),
        ("reconstruction",) * 2,
        ("kl_q_prior",) * 2,
        ("kl_posterior_prior",) * 2,
    ]:
        sign = -1 if name == "nll" else 1
        assert metrics[name]["value"] == pytest.approx(sign * column(found, key).mean().item())
        assert abs(metrics[name]["value"] - sign * truth[key].mean().item()) < 0.05
        assert metrics[name]["se"] == pytest.approx(column(found, key).std().item() / math.sqrt(40))
        assert metrics[name]["num_samples"] == 40
    gap = metrics["reconstruction"]["value"] + metrics["kl_q_prior"]["value"] - metrics["nll"]["value"]
    assert metrics["jensen"]["gap"]["value"] == pytest.approx(gap)
    assert gap == pytest.approx(metrics["kl_q_posterior"]["value"])
    assert metrics["jensen"]["binding"] is False  # a Gaussian entropy is a lower estimate of the KL
    assert metrics["active_units"]["variances"][0] == pytest.approx(
        truth["mean"].var().item(),
        abs=6 * 0.008,  # 64 chains of 40 sentences; the correction has its own tests
    )
    assert metrics["mutual_information"]["value"] < truth["kl_q_prior"].mean().item() + 0.05
    khat = column(found, "khat")
    assert metrics["khat"]["max"] == pytest.approx(khat.max().item())
    below = (khat < column(found, "khat_threshold")).double().mean().item()
    assert metrics["khat"]["share_below"] == pytest.approx(below)
    assert metrics["ess"]["median"] == pytest.approx(np.median(found.table["ess"]), rel=0.05)
    assert json.loads(json.dumps(metrics)) == metrics


def test_draws_and_trace_have_the_rows_of_the_table() -> None:
    """Chains, proposal and trace of a row belong to the sentence of that row: their numbers are recomputed."""
    oracle, found, order = evaluated("gru")
    target = oracle.model.target(oracle.rows.select(order))
    draws = found.proposal
    assert draws.z.shape == (30, 40, 1)
    torch.testing.assert_close(target.value(draws.z)[1], draws.log_likelihood, rtol=0, atol=1e-9)
    assert found.chains.mean.shape == (40, 1)
    error = (found.chains.mean[:, 0] - exact("gru")["mean"][order]).abs()
    assert error.max() < 6 / math.sqrt(CHAINS)
    trace = found.trace
    assert trace is not None
    assert trace.log_joint.shape == trace.kl_posterior.shape == (5, STEPS + 1)
    assert trace.grad_norm.shape == trace.distance.shape == (5, STEPS)
    rows = trace.sentence
    np.testing.assert_allclose(trace.negative_log_px, -found.table["log_px"].to_numpy()[rows])
    truth = exact("gru")["kl_q_posterior"][order].numpy()[rows]
    np.testing.assert_allclose(trace.kl_posterior[:, -1], truth, atol=6 * 1.5 / math.sqrt(400))


def test_a_language_model_is_exact() -> None:
    """No z, no integral: the standard error is 0, log p(x) the decoder's own, and all rows add up to one."""
    network = DECODERS["lstm"](vocab_size=6, latent_dim=0, hidden=6)
    randomise(network, 1.0)
    with torch.no_grad():
        network.output.bias[[PAD, BOS]] = -60.0
    model = LanguageModel(network).eval()
    rows = Batch(torch.cat(all_rows(6, 3)))
    found = evaluate(
        model, PriorDraws(), [rows], PriorImportance(num_samples=2), EvaluationOptions(num_chains=8)
    )
    log_px = column(found, "log_px")
    own = network.log_likelihood(torch.zeros(len(rows), 0), rows.tokens)
    torch.testing.assert_close(log_px, own.detach(), rtol=0, atol=1e-9)
    assert log_px.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    assert (column(found, "se") == 0).all()
    assert found.metrics["perplexity"]["log_se_monte_carlo"] == 0
    assert found.metrics["active_units"]["of"] == 0
    assert found.metrics["active_units"]["count"] == 0
    assert found.metrics["nll"]["value"] == pytest.approx(found.metrics["reconstruction"]["value"])
    assert abs(found.metrics["kl_posterior_prior"]["value"]) < 1e-9
    json.dumps(found.metrics)


# --- 32 dimensions -----------------------------------------------------------------------------------------


def test_kl_of_the_run_to_the_prior_in_32_dimensions() -> None:
    """KL(q_K || prior) has a closed form on the linear Gaussian; the debiased Gaussian entropy is then exact.

    64 sentences x 96 chains. Without debiasing the entropy is 3 nats short. KL(q_K || posterior) likewise.
    """
    oracle = LinearGaussian.build("power1")
    _, x = oracle.sample(64)
    law = exact_law("ula", oracle.precision, [0.0726] * 20)
    mean = law.mean(oracle.mode_means(x))
    truth = 0.5 * (law.variance - 1 - law.variance.log() + mean.square()).sum(-1)
    found = run_chains(oracle.target(x), run(step=0.0726, num_steps=20), EvaluationOptions(num_chains=96))
    error = found.cross_entropy - found.entropy - truth
    assert abs(error.mean()) < 6 * error.std() / math.sqrt(64)
    assert error.std() / math.sqrt(64) < 0.15
    ratio = oracle.precision * law.variance
    miss = oracle.precision * (law.response * oracle.mode_means(x)).square()
    to_posterior = 0.5 * (ratio - 1 - ratio.log() + miss).sum(-1)
    error = oracle.log_evidence(x) - found.log_joint - found.entropy - to_posterior
    assert abs(error.mean()) < 6 * error.std() / math.sqrt(64)
    own = -oracle.log_likelihood(x, oracle.modes(found.z) * 0 + found.z).mean(0)
    assert (found.reconstruction - own).abs().mean() < 6 * 5 / math.sqrt(len(found.z))
    assert found.covariance.shape == (64, 32, 32)


def test_trace_is_the_exact_law_at_every_step() -> None:
    """E log p(x, z_k) and KL(q_k || posterior) of steps 0 to K by the recursion of moments, six dimensions.

    Catches a trace shifted by one step, or a KL that starts at z_1 instead of the prior draw.
    """
    oracle = LinearGaussian.build("power1", dim=6, information=3.0)
    _, x = oracle.sample(5)
    evidence = oracle.log_evidence(x)
    tracer = run(record=True, step=0.1, num_steps=8)
    found = trace_runs(oracle.target(x), tracer, 1500, evidence)
    precision, m = oracle.precision, oracle.mode_means(x)
    for k in range(9):
        law = exact_law("ula", precision, [0.1] * k) if k else exact_law("ula", precision, [1e-12])
        ratio = precision * law.variance
        spread = ratio + precision * (law.response * m).square()
        joint = evidence - 0.5 * (spread - precision.log() + LOG_2PI).sum(-1)
        kl = 0.5 * (spread - 1 - ratio.log()).sum(-1)
        deviation = (
            (0.5 * ratio.square() + precision.square() * law.variance * (law.response * m).square())
            .sum(-1)
            .sqrt()
        )
        error = (6 * deviation / math.sqrt(1500)).numpy()
        assert (np.abs(found.log_joint[:, k] - joint.numpy()) < error).all(), k
        assert (np.abs(found.kl_posterior[:, k] - kl.numpy()) < error + 6 * math.sqrt(6 / 3000)).all(), k
    assert (found.kl_posterior[:, 0] > found.kl_posterior[:, -1] + 0.5).all()
    assert found.sentence.tolist() == [0, 1, 2, 3, 4]


# --- Manners -----------------------------------------------------------------------------------------------


def test_the_model_is_left_as_it_was() -> None:
    """Dropout would make p(x | z) random: eval mode while evaluating, and the caller's modes after."""
    oracle = EnumerableText.build("lstm", latent_dim=1)
    model = oracle.model.train()
    seen: list[bool] = []
    model.decoder.register_forward_hook(lambda module, *_: seen.append(module.training))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    evaluate(model, run(), [oracle.rows], PriorImportance(num_samples=8), EvaluationOptions(num_chains=8))
    assert not any(seen)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())


def test_a_refused_estimate_stays_refused_to_the_headline() -> None:
    """Steps that fold: no log p(x) for any of them, hence no perplexity, however many others there are."""
    oracle = EnumerableText.build("gru", latent_dim=1)
    options = EvaluationOptions(num_chains=16)
    folding = run(record=True, step=0.9, num_steps=2)
    found = evaluate(oracle.model, folding, [oracle.rows], JacobianImportance(num_samples=40), options)
    refused = found.proposal.refused
    assert refused.any()
    assert torch.equal(column(found, "log_px").isnan(), refused)
    assert math.isnan(found.metrics["perplexity"]["estimate"])


def test_watch_is_told_and_every_batch_is_scored_once() -> None:
    oracle = EnumerableText.build("bag_of_words", latent_dim=1)
    told: list[int] = []
    batches = [oracle.rows.select(rows) for rows in torch.arange(40).split(16)]
    options = EvaluationOptions(num_chains=8)
    evaluate(oracle.model, run(), iter(batches), PriorImportance(num_samples=4), options, watch=told.append)
    assert len(told) == 3
    assert told in ([16, 16, 8], [16, 32, 40])


def test_nothing_to_evaluate() -> None:
    model: nn.Module = EnumerableText.build("gru", latent_dim=1).model
    with pytest.raises(ValueError, match="sentences"):
        evaluate(model, run(), [], PriorImportance())


@pytest.mark.parametrize(
    "option",
    [{"num_chains": 1}, {"traced_sentences": -1}, {"traced_chains": 0}, {"exported_draws": 0}],
    ids=str,
)
def test_an_option_out_of_range_is_named(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        replace(EvaluationOptions(), **option)


def test_too_few_chains_have_no_entropy() -> None:
    """D + 1 chains have a singular covariance: the entropy is NaN, never a number, and the rest stands."""
    oracle = LinearGaussian.build("flat", dim=8, information=1.0)
    found = run_chains(oracle.target(torch.zeros(2, 8)), run(), EvaluationOptions(num_chains=9))
    assert found.entropy.isnan().all()
    assert found.reconstruction.isfinite().all()
