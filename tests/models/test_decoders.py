"""Decoders against recurrences written by hand, float64 autograd, and complete enumeration.

What every decoder in the table must obey is in ``tests/contracts``; here is what one architecture says.
"""

import itertools
import warnings

import pytest
import torch
from torch import nn

from sri_pyro.models import BagOfWordsDecoder, GRUDecoder, LSTMDecoder
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED
from sri_pyro.types import BOS, EOS, PAD
from tests.oracles import randomise, sentence
from tests.textbook import lstm_scores

pytestmark = pytest.mark.usefixtures("float64")
TOKENS = torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [1, 5, 5, 6]])


def built(cls: type, **options) -> nn.Module:
    """A small decoder with random weights, in eval mode."""
    decoder = cls(**{"vocab_size": 8, "latent_dim": 3, "hidden": 5, "dropout": 0.0} | options)
    randomise(decoder, 0.6)
    return decoder.eval()


# --- Hand-written recurrences ------------------------------------------------------------------------------


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_lstm_is_the_textbook_recurrence(wiring: str, output_bias: bool) -> None:
    decoder = built(LSTMDecoder, wiring=wiring, output_bias=output_bias, embedding=4)
    z = torch.randn(4, 3)
    found, by_hand = decoder.token_log_probs(z, TOKENS), lstm_scores(decoder, z[None], TOKENS)[0]
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-12)
    assert (found[TOKENS == PAD] == 0).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize("latent_dim", [0, 3])
def test_lstm_learns_what_the_textbook_learns(latent_dim: int, wiring: str, masked: bool) -> None:
    """The gradient of every weight and of z, asked once, twice, and with a graph of its own; and a curvature in z."""
    decoder = built(
        LSTMDecoder, wiring=wiring, embedding=4, latent_dim=latent_dim, dropout=0.4, word_dropout=0.4
    )
    masks = decoder.train().draw_masks(TOKENS) if masked else NOTHING_DROPPED
    weights, answers = torch.randn(4, 4), []
    z = torch.randn(4, latent_dim, requires_grad=True)
    learned = {name: weight for name, weight in decoder.named_parameters() if weight.numel()} | {"z": z}
    for scores in (
        decoder.token_log_probs(z, TOKENS, masks),
        lstm_scores(decoder, z[None], TOKENS, masks)[0],
    ):
        loss = (weights * scores).sum()
        once, again = (torch.autograd.grad(loss, learned.values(), retain_graph=True) for _ in range(2))
        first = torch.autograd.grad(loss, learned.values(), create_graph=True)
        curved = torch.autograd.grad(first[-1].sin().sum(), learned.values(), materialize_grads=True)
        answers.append([*once, *again, *first, *curved])
    for name, ours, theirs in zip([*learned] * 4, *answers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11, msg=name)


def test_gru_is_the_textbook_recurrence() -> None:
    decoder, z = built(GRUDecoder, embedding=4), torch.randn(4, 3)
    cell, found = decoder.cell, decoder.token_log_probs(z, TOKENS)
    for n in range(4):
        h, before = decoder.start.weight @ z[n] + decoder.start.bias, BOS
        for t, token in enumerate(TOKENS[n].tolist()):
            if token == PAD:
                break
            joined = torch.cat([decoder.embedding.weight[before], z[n]])
            reset_x, update_x, new_x = (cell.weight_ih_l0 @ joined + cell.bias_ih_l0).split(5)
            reset_h, update_h, new_h = (cell.weight_hh_l0 @ h + cell.bias_hh_l0).split(5)
            update = (update_x + update_h).sigmoid()
            new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
            h = (1 - update) * new + update * h
            logits = decoder.output.weight @ h + decoder.output.bias
            logits[[PAD, BOS]] = -torch.inf
            assert found[n, t].item() == pytest.approx(
                (logits[token] - logits.logsumexp(0)).item(), abs=1e-12
            )
            before = token


def test_bag_of_words_scores_every_token_by_one_law() -> None:
    decoder, z = built(BagOfWordsDecoder), torch.randn(4, 3)
    found = decoder.token_log_probs(z, TOKENS)
    law = decoder.begin(z).log_softmax(-1)
    for n, t in itertools.product(range(4), range(4)):
        expected = 0.0 if TOKENS[n, t] == PAD else law[n, TOKENS[n, t]].item()
        assert found[n, t].item() == pytest.approx(expected, abs=1e-12)


# --- Wirings and initialisations ---------------------------------------------------------------------------


def test_published_wirings() -> None:
    """Kim et al.: h = W z + b, c = 0. He et al.: c = W z without bias, h = tanh c."""
    z = torch.randn(4, 3)
    kim, he = built(LSTMDecoder), built(LSTMDecoder, wiring="cell")
    h, c = kim.begin(z)
    torch.testing.assert_close(h, (z @ kim.start.weight.T + kim.start.bias)[None], rtol=0, atol=1e-14)
    assert torch.equal(c, torch.zeros(1, 4, 5))
    h, c = he.begin(z)
    assert he.start.bias is None
    torch.testing.assert_close(c, (z @ he.start.weight.T)[None], rtol=0, atol=1e-14)
    torch.testing.assert_close(h, c.tanh(), rtol=0, atol=1e-14)
    gru = built(GRUDecoder)
    torch.testing.assert_close(
        gru.begin(z), (z @ gru.start.weight.T + gru.start.bias)[None], rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("cls", [LSTMDecoder, GRUDecoder])
@pytest.mark.parametrize(("how", "inside"), [("uniform", 0.1), ("small_uniform", 0.01)])
def test_published_initialisations(cls: type, how: str, inside: float) -> None:
    """Uniform up to the published bound, biases included; embeddings always U(-0.1, 0.1).

    All n entries stay below a share r of the bound with probability r^n: at most 1e-12 for the smallest
    tensor (40 entries, half the bound) and for those of a thousand (97 %).
    """
    decoder = cls(vocab_size=60, latent_dim=8, embedding=20, hidden=40, initialisation=how)
    for name, parameter in decoder.named_parameters():
        bound = 0.1 if name == "embedding.weight" else inside
        assert parameter.abs().max() <= bound, name
        assert parameter.abs().max() > 0.5 * bound, name
        if parameter.numel() > 1000:
            assert parameter.abs().max() > 0.97 * bound, name
            assert parameter.std().item() == pytest.approx(bound / 3**0.5, rel=0.1), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 4}, "vocab_size must exceed the 4 special symbols; got 4."),
        ({"latent_dim": -1}, "latent_dim must be at least 0 and max_length at least 1; got -1 and 60."),
        ({"max_length": 0}, "latent_dim must be at least 0 and max_length at least 1; got 3 and 0."),
        ({"dropout": 1.0}, "dropout must lie in [0, 1); got 1.0."),
        ({"dropout": -0.1}, "dropout must lie in [0, 1); got -0.1."),
        ({"word_dropout": 1.0}, "word_dropout must lie in [0, 1); got 1.0."),
        ({"embedding": 0}, "embedding must be at least 1; got 0."),
        ({"hidden": 0}, "hidden must be at least 1; got 0."),
        ({"initialisation": "he"}, "unknown initialisation 'he'; known: small_uniform, uniform."),
        ({"wiring": "both"}, "unknown wiring 'both'; known: cell, hidden."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_out_of_range_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=sentence(message)):
        LSTMDecoder(**{"vocab_size": 8, "latent_dim": 3, "hidden": 5} | options)


def test_a_bag_of_words_needs_a_hidden_layer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="hidden"):
            BagOfWordsDecoder(vocab_size=8, latent_dim=3, hidden=0)


# --- Dropout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [LSTMDecoder, GRUDecoder])
def test_dropout_and_word_dropout_act_while_weights_are_trained(cls: type) -> None:
    for options in ({"dropout": 0.5}, {"word_dropout": 0.5}):
        decoder, z = built(cls, **options), torch.randn(4, 3)
        calm = decoder.log_likelihood(z, TOKENS)
        assert torch.equal(calm, decoder.log_likelihood(z, TOKENS))
        decoder.train()
        noisy = [decoder.log_likelihood(z, TOKENS) for _ in range(8)]
        assert any(not torch.equal(noisy[0], other) for other in noisy[1:])


def test_word_dropout_replaces_inputs_only() -> None:
    """At a rate of almost one every input is the unknown word, BOS excepted or not; targets stay."""
    decoder = built(LSTMDecoder, word_dropout=0.999999).train()
    z = torch.randn(1, 3)
    found = decoder.token_log_probs(z, TOKENS[:1], decoder.draw_masks(TOKENS[:1]))
    state, before, expected = decoder.begin(z), BOS, []
    for token in TOKENS[0].tolist():
        logits, state = decoder.advance(torch.tensor([before]), z, state)
        expected.append(logits.log_softmax(-1)[0, token].item())
        before = 1
    first_dropped, _ = decoder.advance(torch.tensor([1]), z, decoder.begin(z))
    kept_bos = found[0, 0].item() == pytest.approx(expected[0], abs=1e-10)
    dropped_bos = found[0, 0].item() == pytest.approx(
        first_dropped.log_softmax(-1)[0, TOKENS[0, 0]].item(), abs=1e-10
    )
    assert kept_bos or dropped_bos
    if kept_bos:
        assert found[0].tolist() == pytest.approx(expected, abs=1e-10)
