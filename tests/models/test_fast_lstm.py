"""The fast route of the LSTM decoder against autograd through the textbook's equations, in double precision.

Every test runs with the compiled cell and without it. A wrong program that these catch: sentences that are not put
back into their order, a mask or a bias that the reverse pass forgets, a chain that leaks into another.
"""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from sri_pyro.models import LSTMDecoder
from sri_pyro.models.decoders import fast_lstm
from sri_pyro.models.decoders.dropout import NOTHING_DROPPED, Masks
from sri_pyro.types import BOS, EOS, PAD, UNK, Batch
from tests.oracles import randomise
from tests.textbook import lstm_value_and_grad, rows, small_lstm, thinning

pytestmark = pytest.mark.usefixtures("float64", "cells")
TOKENS = torch.tensor([[6, EOS, PAD, PAD], [5, 6, 4, EOS], [EOS, PAD, PAD, PAD], [UNK, 5, 5, 6]])


def assert_textbook(
    decoder: LSTMDecoder, tokens: Tensor, z: Tensor, masks: Masks = NOTHING_DROPPED, atol: float = 1e-11
) -> None:
    expected = lstm_value_and_grad(decoder, z, tokens, masks)
    route = decoder.condition(Batch(tokens), masks=masks)
    value, gradient = route.value_and_grad(z)
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=atol)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-12, atol=atol)
    torch.testing.assert_close(route.value(z), expected[0], rtol=1e-12, atol=atol)


# --- Equal to the equations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize(
    ("sizes", "lengths", "width"),
    [
        ((5, 1, 1, 1), [1], None),  # one word beside the special symbols, everything of size one
        ((5, 0, 2, 3), [2, 1, 3], 5),  # no code at all
        ((5, 2, 3, 2), [1, 1, 1], None),  # only empty sentences
        ((9, 3, 5, 4), [4, 4], None),  # no padding
        ((9, 3, 5, 4), [1, 6, 3, 2], None),
        ((9, 3, 5, 4), [2, 3], 9),  # padded beyond the longest
        ((40, 7, 16, 3), [12, 1, 9, 5, 12], None),
        ((300, 1, 17, 5), [3, 8, 8, 1, 5, 2], None),
        ((2000, 4, 8, 4), [5, 7], None),
    ],
)
def test_fast_route_is_the_textbook(sizes: tuple, lengths: list[int], width: int | None, wiring: str) -> None:
    names = ("vocab_size", "latent_dim", "hidden", "embedding")
    decoder = small_lstm(wiring=wiring, **dict(zip(names, sizes, strict=True)))
    tokens = rows(decoder.vocab_size, lengths, width)
    for draws in (1, 3):
        assert_textbook(decoder, tokens, torch.randn(draws, len(tokens), decoder.latent_dim))


def test_fast_route_is_the_textbook_at_random_sizes() -> None:
    """Sizes, lengths, order, wiring, bias and masks at random: what no list of cases thinks of."""
    draw = torch.Generator().manual_seed(7)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=draw))

    for _ in range(25):
        decoder = small_lstm(
            vocab_size=number(5, 30),
            latent_dim=number(0, 5),
            hidden=number(1, 20),
            embedding=number(1, 6),
            wiring=["hidden", "cell"][number(0, 1)],
            output_bias=bool(number(0, 1)),
        )
        lengths = [number(1, 7) for _ in range(number(1, 9))]
        tokens = rows(decoder.vocab_size, lengths, max(lengths) + number(0, 2))
        masks = thinning(decoder, tokens) if number(0, 1) else NOTHING_DROPPED
        assert_textbook(decoder, tokens, torch.randn(number(1, 6), len(tokens), decoder.latent_dim), masks)


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_fast_route_under_each_mask_alone(wiring: str, output_bias: bool) -> None:
    """Also prefixes without an end, and words that the vocabulary does not have."""
    decoder, z = small_lstm(wiring=wiring, output_bias=output_bias), torch.randn(2, 4, 3)
    masks = thinning(decoder, TOKENS)
    alone = (Masks(unread=masks.unread), Masks(words=masks.words), Masks(states=masks.states))
    for some in (NOTHING_DROPPED, masks, *alone):
        assert_textbook(decoder, TOKENS, z, some)


def test_fast_route_takes_any_layout_of_memory() -> None:
    decoder = small_lstm(vocab_size=20)
    tokens = rows(20, [2, 6, 1, 4]).T.contiguous().T
    assert not tokens.is_contiguous()
    turned = torch.randn(3, 4, 5).permute(2, 1, 0)
    one_code = torch.randn(1, 1, 3).expand(5, 4, 3)
    every_other = torch.randn(5, 8, 6)[:, ::2, ::2]
    backwards = torch.randn(4, 5, 3).transpose(0, 1).flip(0)
    for z in (turned, one_code, every_other, backwards):
        assert_textbook(decoder, tokens, z)


def test_fast_route_over_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """More draws than one pass may keep, the last pass with fewer than the others; and one draw at a time."""
    decoder, tokens = small_lstm(vocab_size=7, latent_dim=2, hidden=3, embedding=2), rows(7, [3, 10, 7, 9])
    z, states, real = torch.randn(5, 4, 2), [], int((tokens != PAD).sum())
    softmax = fast_lstm.vocabulary_attention

    def counted(h: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        states.append(len(h))
        return softmax(h, weight, bias)

    monkeypatch.setattr(fast_lstm, "vocabulary_attention", counted)
    for budget, draws in ((2 * real * 7 * 3 * 8 + 1, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(fast_lstm, "BUDGET", budget)
        states.clear()
        assert_textbook(decoder, tokens, z)
        assert states == [real * some for some in draws]


def test_padding_is_never_read() -> None:
    """Oracle: a number that would spoil all that touches it. Padding that is computed and thrown away does."""
    decoder = small_lstm(vocab_size=9)
    tokens, z = rows(9, [2, 5, 1, 4], width=7), torch.randn(2, 4, 3)
    with torch.no_grad():
        decoder.embedding.weight[PAD] = torch.nan
    assert_textbook(decoder, tokens, z)
    assert decoder.condition(Batch(tokens)).value_and_grad(z)[1].isfinite().all()


def test_a_word_that_cannot_follow_is_impossible_here_as_everywhere() -> None:
    """The gradient of log 0 has no meaning, but that of a neighbour keeps its own."""
    decoder, z, tokens = small_lstm(), torch.randn(2, 2, 3), torch.tensor([[5, BOS, EOS], [6, EOS, PAD]])
    expected = lstm_value_and_grad(decoder, z, tokens)
    value, gradient = decoder.condition(Batch(tokens)).value_and_grad(z)
    assert (value[:, 0] == -torch.inf).all()
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient[:, 1], expected[1][:, 1], rtol=1e-12, atol=1e-12)


# --- Rounding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_single_precision_at_the_size_of_a_real_model(scale: float, wiring: str) -> None:
    """Error of the whole gradient relative to its length; weights uniform up to the scale."""
    decoder = LSTMDecoder(2000, 32, embedding=64, hidden=128, wiring=wiring, dropout=0.0).float().eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.uniform_(-scale, scale)
    tokens = rows(2000, torch.randint(1, 13, (16,)).tolist(), width=12)
    z = torch.randn(2, 16, 32, dtype=torch.float32)
    value, gradient = decoder.condition(Batch(tokens)).value_and_grad(z)
    assert value.dtype == gradient.dtype == torch.float32
    exact = lstm_value_and_grad(copy.deepcopy(decoder).double(), z.double(), tokens)
    assert (gradient - exact[1]).norm() <= 2e-6 * exact[1].norm()
    assert (value - exact[0]).norm() <= 1e-6 * exact[0].norm()


@pytest.mark.parametrize("wiring", ["hidden", "cell"])
def test_fast_route_survives_saturated_gates(wiring: str) -> None:
    """A chain that strays must find a finite, correct gradient, not the NaN of an overflowing exponential."""
    decoder, z = small_lstm(wiring=wiring), 1e3 * torch.randn(2, 4, 3).sign()
    expected = lstm_value_and_grad(decoder, z, TOKENS)
    route = decoder.condition(Batch(TOKENS))
    for found, exact in zip(route.value_and_grad(z), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    single = decoder.float().condition(Batch(TOKENS))
    for found in (*single.value_and_grad(z.float()), *single.value_and_grad(1e3 * z.float())):
        assert found.isfinite().all()


@pytest.mark.parametrize("lost", [torch.nan, torch.inf])
def test_a_lost_chain_is_alone(lost: float) -> None:
    decoder, z = small_lstm(), torch.randn(3, 4, 3)
    route = decoder.condition(Batch(TOKENS))
    before = route.value_and_grad(z)
    others = torch.ones(3, 4, dtype=torch.bool)
    others[1, 1] = False
    z[1, 1, 0] = lost
    for found, sound in zip(route.value_and_grad(z), before, strict=True):
        assert torch.equal(found[others], sound[others])
    assert lost == torch.inf or route.value(z)[1, 1].isnan()


def test_a_sentence_depends_on_neither_neighbours_nor_number_of_draws() -> None:
    """To a few units of rounding: matrix products of another height add in another order."""
    decoder, z, tokens = (
        small_lstm(vocab_size=30, hidden=33),
        torch.randn(4, 6, 3),
        rows(30, [3, 9, 1, 9, 5, 2]),
    )
    together = decoder.condition(Batch(tokens)).value_and_grad(z)
    for s, n in itertools.product(range(4), range(6)):
        row = tokens[n : n + 1, : int((tokens[n] != PAD).sum())]
        alone = decoder.condition(Batch(row)).value_and_grad(z[s : s + 1, n : n + 1])
        for found, expected in zip(alone, together, strict=True):
            rounding = {"rtol": 1e-13, "atol": 1e-14 * expected.abs().max().item()}
            torch.testing.assert_close(found[0, 0], expected[s, n], **rounding)


# --- A pure function of z ------------------------------------------------------------------------------------


def test_no_graph_no_gradient_of_a_weight_and_no_mode_matters() -> None:
    decoder, z = small_lstm(dropout=0.5, word_dropout=0.3), torch.randn(2, 4, 3)
    kept = [torch.randn_like(weight) for weight in decoder.parameters()]
    for weight, gradient in zip(decoder.parameters(), kept, strict=True):
        weight.grad = gradient.clone()
    calm = decoder.condition(Batch(TOKENS)).value_and_grad(z)
    decoder.train()
    leaf = z.clone().requires_grad_()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            route = decoder.condition(Batch(TOKENS))
            found = (*route.value_and_grad(leaf), route.value(leaf))
        found = (*found, *route.value_and_grad(leaf))  # built within, asked without
        for ours, expected in zip(found, (*calm, calm[0], *calm), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-14, atol=1e-14)
            assert not ours.requires_grad
    assert leaf.grad is None
    assert torch.equal(leaf.detach(), z)
    assert decoder.training
    for weight, gradient in zip(decoder.parameters(), kept, strict=True):
        assert weight.requires_grad
        assert torch.equal(weight.grad, gradient)


def test_fast_route_is_built_from_the_weights_of_now() -> None:
    decoder = small_lstm()
    decoder.condition(Batch(TOKENS)).value(torch.randn(2, 4, 3))
    randomise(decoder, 0.6)
    assert_textbook(decoder, TOKENS, torch.randn(2, 4, 3))
