"""The text model: the Pyro program and the direct log joint read the same two distributions."""

import pyro
import pytest
import torch
from pyro import poutine

from sri_pyro.models import (
    DECODERS,
    PRIORS,
    LanguageModel,
    LatentTextModel,
    LSTMDecoder,
    StandardNormal,
)
from sri_pyro.numerics.langevin import INTEGRATORS, run_langevin
from sri_pyro.types import EOS, PAD, Batch
from tests.oracles import all_rows, randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")
BATCH = Batch(torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD]]))


def model_of(prior: str, decoder: str) -> LatentTextModel:
    model = LatentTextModel(
        PRIORS[prior](dim=3), DECODERS[decoder](vocab_size=8, latent_dim=3, hidden=5, dropout=0.0)
    )
    randomise(model, 0.6)
    return model.eval()


def language_model(decoder: str) -> LanguageModel:
    model = LanguageModel(DECODERS[decoder](vocab_size=8, latent_dim=0, hidden=5, dropout=0.0))
    randomise(model, 0.6)
    return model.eval()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("prior", PRIORS)
def test_trace_of_the_program_is_the_direct_log_joint(prior: str, decoder: str) -> None:
    model = model_of(prior, decoder)
    trace = poutine.trace(model).get_trace(BATCH)
    trace.compute_log_prob()
    z = trace.nodes["z"]["value"]
    target = model.target(BATCH)
    assert z.shape == (3, 3)
    assert set(trace.stochastic_nodes) | set(trace.observation_nodes) >= {"z", "x"}
    direct = {"z": target.log_prior(z[None])[0], "x": target.log_likelihood(z[None])[0]}
    for site, expected in direct.items():
        torch.testing.assert_close(trace.nodes[site]["log_prob"], expected, rtol=0, atol=1e-12)
    joint = target.log_joint(z[None]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), joint, rtol=0, atol=1e-11)
    # positive control: without the prior, or with padding counted, it would not agree
    assert abs(trace.log_prob_sum() - target.log_likelihood(z[None]).sum()) > 0.1


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("prior", PRIORS)
def test_program_leaves_the_parameter_store_empty(prior: str, decoder: str) -> None:
    model = model_of(prior, decoder)
    pyro.clear_param_store()
    assert torch.equal(model(BATCH), BATCH.tokens)
    assert list(pyro.get_param_store().keys()) == []


def test_program_runs_under_condition_and_replay() -> None:
    model, z = model_of("standard_normal", "lstm"), torch.randn(3, 3)
    trace = poutine.trace(pyro.condition(model, data={"z": z})).get_trace(BATCH)
    expected = model.target(BATCH).log_joint(z[None]).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected, rtol=0, atol=1e-11)
    drawn = poutine.trace(model).get_trace(BATCH)
    again = poutine.trace(poutine.replay(model, drawn)).get_trace(BATCH)
    assert torch.equal(again.nodes["z"]["value"], drawn.nodes["z"]["value"])


def test_program_generates_when_tokens_are_unconditioned() -> None:
    """Pyro's own effect handlers can take the observation away; what comes is a batch of sentences."""
    model = model_of("standard_normal", "lstm")
    trace = poutine.trace(poutine.uncondition(model)).get_trace(BATCH)
    drawn = trace.nodes["x"]["value"]
    assert drawn.shape == BATCH.tokens.shape
    assert not ((drawn == PAD).cumsum(-1).diff(dim=-1).eq(0) & (drawn[:, :-1] == PAD)).any()


def test_scores_do_not_depend_on_the_batch() -> None:
    """A sentence scores the same alone, in another order, and beside longer ones."""
    model, z = model_of("mixture", "lstm"), torch.randn(5, 3, 3)
    together = model.target(BATCH).log_joint(z)
    order = [2, 0, 1]
    shuffled = model.target(Batch(BATCH.tokens[order], BATCH.ids[order]))
    torch.testing.assert_close(shuffled.log_joint(z[:, order]), together[:, order], rtol=0, atol=1e-12)
    for b, length in enumerate(BATCH.lengths.tolist()):
        alone = model.target(Batch(BATCH.tokens[b : b + 1, :length]))
        torch.testing.assert_close(
            alone.log_joint(z[:, b : b + 1]), together[:, b : b + 1], rtol=0, atol=1e-12
        )


def test_weights_learn_through_both_sites() -> None:
    model, z = model_of("mixture", "lstm"), torch.randn(5, 3, 3)
    model.target(BATCH).log_joint(z).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


def test_prior_and_decoder_must_agree() -> None:
    decoder = LSTMDecoder(vocab_size=8, latent_dim=2, hidden=5)
    message = "prior and decoder must agree about z: the prior has dim = 3, the decoder latent_dim = 2."
    with pytest.raises(ValueError, match=sentence(message)):
        LatentTextModel(StandardNormal(3), decoder)


# --- No z at all -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_language_model_scores_and_is_exact(decoder: str) -> None:
    """Without z the joint is the evidence, whatever the number of draws."""
    model = language_model(decoder)
    target = model.target(BATCH)
    z = target.sample_prior(4)
    assert z.shape == (4, 3, 0)
    expected = model.decoder.log_likelihood(torch.zeros(3, 0), BATCH.tokens)
    torch.testing.assert_close(target.log_joint(z), expected.expand(4, 3), rtol=0, atol=1e-12)
    log_prior, log_likelihood = target.value(z)
    assert torch.equal(log_prior, torch.zeros(4, 3))
    torch.testing.assert_close(log_likelihood, expected.expand(4, 3).detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("decoder", DECODERS)
def test_language_model_goes_through_every_door(decoder: str) -> None:
    model = language_model(decoder)
    target = model.target(BATCH)
    z = target.sample_prior(2)
    found = target.value_and_grad(z)
    assert found.grad.shape == (2, 3, 0)
    assert found.log_likelihood.shape == (2, 3)

    def value_and_grad(z):
        found = target.value_and_grad(z)
        return found.log_prior + found.log_likelihood, found.grad

    for make in INTEGRATORS.values():
        assert run_langevin(value_and_grad, z, [0.1] * 3, make()).shape == (2, 3, 0)
    trace = poutine.trace(model).get_trace(BATCH)
    torch.testing.assert_close(trace.log_prob_sum(), target.log_joint(z[:1]).sum(), rtol=0, atol=1e-11)
    drawn = model.decoder.generate(torch.zeros(7, 0), max_length=5)
    assert drawn.shape == (7, 5)
    target.log_joint(z).sum().backward()
    used = {name for name, p in model.named_parameters() if p.numel() and p.grad is not None}
    assert any(name.startswith("decoder.output") for name in used)


def test_language_model_has_an_empty_hessian() -> None:
    target = language_model("lstm").target(BATCH)
    z = target.sample_prior(2)
    assert target.hessian_vector_product(z, z).shape == (2, 3, 0)
    assert target.hessian(z).shape == (2, 3, 0, 0)


def test_language_model_starts_from_zero() -> None:
    """The baseline of the literature: h = c = 0, and the input is the embedding alone."""
    for wiring in ("hidden", "cell"):
        decoder = LSTMDecoder(vocab_size=8, latent_dim=0, hidden=5, embedding=4, wiring=wiring)
        randomise(decoder)
        h, c = decoder.begin(torch.zeros(2, 0))
        assert torch.equal(h, torch.zeros(1, 2, 5))
        assert torch.equal(c, torch.zeros(1, 2, 5))
        assert decoder.cell.input_size == 4


def test_language_model_is_a_law() -> None:
    decoder = LSTMDecoder(vocab_size=6, latent_dim=0, hidden=4, dropout=0.0)
    randomise(decoder)
    with torch.no_grad():
        decoder.output.bias[[0, 2]] = -60.0
    rows = torch.cat(all_rows(6, 3))
    total = decoder.log_likelihood(torch.zeros(len(rows), 0), rows).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-12)


def test_language_model_wants_a_decoder_without_z() -> None:
    with pytest.raises(ValueError, match="latent_dim = 2"):
        LanguageModel(LSTMDecoder(vocab_size=8, latent_dim=2, hidden=5))
