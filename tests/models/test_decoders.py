"""Decoders against recurrences written by hand, float64 autograd, and complete enumeration.

What every decoder in the table must obey is in ``tests/contracts``; here is what one architecture says.
"""

import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn

from sri_pyro.models import BagOfWordsDecoder, GRUDecoder, LSTMDecoder
from sri_pyro.types import BOS, EOS, PAD, Batch
from tests.oracles import randomise, sentence

pytestmark = pytest.mark.usefixtures("float64")
TOKENS = torch.tensor([[5, 6, 4, EOS], [6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [1, 5, 5, 6]])


def built(cls: type, **options) -> nn.Module:
    """A small decoder with random weights, in eval mode."""
    decoder = cls(**{"vocab_size": 8, "latent_dim": 3, "hidden": 5, "dropout": 0.0} | options)
    randomise(decoder, 0.6)
    return decoder.eval()


def rows(vocab_size: int, lengths: list[int], width: int | None = None) -> Tensor:
    """Random sentences of the given lengths, the end of sentence included, in a batch of some width."""
    tokens = torch.full((len(lengths), width or max(lengths)), PAD)
    for row, length in zip(tokens, lengths, strict=True):
        row[: length - 1] = torch.randint(4, vocab_size, (length - 1,))
        row[length - 1] = EOS
    return tokens


# --- Hand-written recurrences ------------------------------------------------------------------------------


def lstm_by_hand(decoder: LSTMDecoder, z: Tensor, row: Tensor, wiring: str) -> list[float]:
    """Log-probabilities of one sentence from the textbook equations, one token and one gate at a time."""
    cell = decoder.cell
    start = decoder.start.weight @ z
    if wiring == "hidden":
        h, c = start + decoder.start.bias, torch.zeros(5)
    else:
        h, c = start.tanh(), start
    scores, before = [], BOS
    for token in row.tolist():
        if token == PAD:
            break
        joined = torch.cat([decoder.embedding.weight[before], z])
        gates = cell.weight_ih_l0 @ joined + cell.bias_ih_l0 + cell.weight_hh_l0 @ h + cell.bias_hh_l0
        let_in, forget, candidate, let_out = gates.split(5)
        c = forget.sigmoid() * c + let_in.sigmoid() * candidate.tanh()
        h = let_out.sigmoid() * c.tanh()
        logits = decoder.output.weight @ h
        if decoder.output.bias is not None:
            logits = logits + decoder.output.bias
        logits[[PAD, BOS]] = -torch.inf  # they cannot follow, so they have no share of the law
        scores.append((logits[token] - logits.logsumexp(0)).item())
        before = token
    return scores


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_lstm_is_the_textbook_recurrence(wiring: str, output_bias: bool) -> None:
    decoder = built(LSTMDecoder, wiring=wiring, output_bias=output_bias, embedding=4)
    z = torch.randn(4, 3)
    found = decoder.token_log_probs(z, TOKENS)
    for n in range(4):
        by_hand = lstm_by_hand(decoder, z[n], TOKENS[n], wiring)
        assert found[n, : len(by_hand)].tolist() == pytest.approx(by_hand, abs=1e-12)
        assert (found[n, len(by_hand) :] == 0).all()


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


# --- The fast route of the LSTM ----------------------------------------------------------------------------


def assert_fast_route_is_autograd(decoder: LSTMDecoder, tokens: Tensor, draws: int = 3) -> None:
    z = torch.randn(draws, len(tokens), decoder.latent_dim, requires_grad=True)
    expected = decoder.log_likelihood(z, tokens)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    route = decoder.condition(Batch(tokens))
    value, fast = route.value_and_grad(z.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(fast, gradient, rtol=0, atol=1e-11)
    torch.testing.assert_close(route.value(z.detach()), expected.detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize(
    ("vocab_size", "latent_dim", "hidden", "embedding", "lengths", "width"),
    [
        (5, 1, 1, 1, [1], None),  # V just above the special symbols, everything of size one
        (5, 2, 3, 2, [1, 1, 1], None),  # only empty sentences
        (9, 3, 5, 4, [4, 4], None),  # no padding
        (9, 3, 5, 4, [1, 6, 3, 2], None),
        (9, 3, 5, 4, [2, 3], 9),  # padded beyond the longest
        (40, 7, 16, 3, [12, 1, 9, 5, 12], None),
        (2000, 4, 8, 4, [5, 7], None),
    ],
)
def test_fast_route_is_autograd(
    vocab_size: int, latent_dim: int, hidden: int, embedding: int, lengths: list[int], width: int, wiring: str
) -> None:
    decoder = built(
        LSTMDecoder,
        vocab_size=vocab_size,
        latent_dim=latent_dim,
        hidden=hidden,
        embedding=embedding,
        wiring=wiring,
    )
    assert_fast_route_is_autograd(decoder, rows(vocab_size, lengths, width))


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_fast_route_without_output_bias_and_for_prefixes(wiring: str, output_bias: bool) -> None:
    assert_fast_route_is_autograd(built(LSTMDecoder, wiring=wiring, output_bias=output_bias), TOKENS, draws=1)


def test_fast_route_over_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """More draws than one pass may keep, the last pass with fewer than the others."""
    from sri_pyro.models.decoders import fast_lstm

    decoder = built(LSTMDecoder, vocab_size=7, latent_dim=2, hidden=3, embedding=2)
    tokens = rows(7, [10, 3, 7, 9])
    monkeypatch.setattr(fast_lstm, "BUDGET", 2 * int((tokens != PAD).sum()) * 7 * 3 * 8 + 1)
    assert_fast_route_is_autograd(decoder, tokens, draws=5)


def test_fast_route_survives_saturated_gates() -> None:
    """A chain that strays must find a finite, correct gradient, not the NaN of an overflowing exponential."""
    decoder = built(LSTMDecoder)
    z = (1e3 * torch.randn(2, 4, 3)).requires_grad_()
    expected = decoder.log_likelihood(z, TOKENS)
    (gradient,) = torch.autograd.grad(expected.sum(), z)
    value, fast = decoder.condition(Batch(TOKENS)).value_and_grad(z.detach())
    torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(fast, gradient, rtol=1e-9, atol=1e-9)
    assert fast.isfinite().all()


def test_fast_route_never_drops_out_and_touches_no_weight() -> None:
    decoder = built(LSTMDecoder, dropout=0.5, word_dropout=0.3)
    z = torch.randn(2, 4, 3)
    calm = decoder.condition(Batch(TOKENS)).value_and_grad(z)
    decoder.train()
    route = decoder.condition(Batch(TOKENS))
    for _ in range(2):
        value, gradient = route.value_and_grad(z)
        assert torch.equal(value, calm[0])
        assert torch.equal(gradient, calm[1])
    assert all(parameter.grad is None for parameter in decoder.parameters())
    assert not value.requires_grad
    assert decoder.training


def test_fused_softmax_of_no_row_is_nothing() -> None:
    """The fused kernel divides by the number of rows: with none the process would die of SIGFPE."""
    from sri_pyro.models.decoders.vocabulary import vocabulary_attention

    mean, normaliser = vocabulary_attention(torch.zeros(0, 5), torch.randn(8, 5), torch.randn(8))
    assert mean.shape == (0, 5)
    assert normaliser.shape == (0,)


def test_fast_route_is_built_from_the_weights_of_now() -> None:
    decoder, z = built(LSTMDecoder), torch.randn(2, 4, 3)
    before = decoder.condition(Batch(TOKENS)).value(z)
    randomise(decoder, 0.6)
    after = decoder.condition(Batch(TOKENS)).value(z)
    assert (before - after).abs().min() > 1e-6
    torch.testing.assert_close(after, decoder.log_likelihood(z, TOKENS).detach(), rtol=0, atol=1e-11)


def test_fast_route_in_single_precision() -> None:
    decoder, z = built(LSTMDecoder, vocab_size=40, hidden=16), torch.randn(2, 4, 3)
    exact = decoder.condition(Batch(TOKENS)).value_and_grad(z)
    single = decoder.float().condition(Batch(TOKENS)).value_and_grad(z.float())
    for found, expected in zip(single, exact, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


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
